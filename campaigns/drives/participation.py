"""Taking part in campaigns: who may, and joining. Leaving is in `teams`, because one's team is left with it."""

import enum
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives.campaigns import campaign_for, home_of, is_member, lives_in
from campaigns.drives.models import Audience, Campaign, Participation
from campaigns.drives.moves import takes_people
from server.access import Actor
from server.errors import Conflict, NotFound
from server.people.models import Resident


class Ineligible(enum.StrEnum):
    """Why a resident may not join a campaign that they see."""

    HOME = "not-eligible-home"
    MEMBERS = "not-eligible-membership"
    AGE = "not-eligible-age"
    BIRTH_YEAR = "birth-year-missing"


class CampaignClosed(Conflict):
    """The campaign does not take people in or let them change any more, or not yet."""

    code, title_zh, title_en = "campaign-closed", "活动已结束或未开放", "The campaign is not open"


class AlreadyJoined(Conflict):
    """A resident joins a campaign once."""

    code, title_zh, title_en = "already-joined", "您已参加该活动", "You take part in this campaign already"
    constraints = ("participation_pkey",)


class NotJoined(NotFound):
    """The resident does not take part in the campaign."""

    code, title_zh, title_en = "not-joined", "您未参加该活动", "You do not take part in this campaign"


class NotEligible(Conflict):
    """The campaign is for others; `reasons` says why, with a code for each."""

    code, title_zh, title_en = "not-eligible", "您不符合该活动的参加条件", "This campaign is not for you"


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Whether a resident may join a campaign, and if not, every reason."""

    is_eligible: bool
    reasons: list[Ineligible]


def join(session: Session, actor: Actor, campaign_id: UUID, *, now: datetime) -> Participation:
    """Enrol the actor in a campaign that is for them, also before its first day.

    Closing is judged at `now`, not at midnight, so that a late joiner and the clock's job can never both win.

    Raises NotFound, CampaignClosed, NotEligible, and AlreadyJoined through the primary key.
    """
    campaign = campaign_for(session, actor, campaign_id)
    hold_open(session, campaign_id, *takes_people(now))
    judged = _judged(session, actor, campaign)
    if not judged.is_eligible:
        raise NotEligible(reasons=[reason.value for reason in judged.reasons])
    joined = Participation(
        resident_id=actor.id,
        campaign_id=campaign_id,
        community_code=home_of(session, actor.id),
        joined_at=now,
        team_id=None,
    )
    session.add(joined)
    session.flush()
    return joined


def eligibility(session: Session, actor: Actor, campaign_id: UUID) -> Eligibility:
    """Whether the actor may join a campaign that they see; its days are another matter. Raises NotFound."""
    return _judged(session, actor, campaign_for(session, actor, campaign_id))


def hold_open(session: Session, campaign_id: UUID, *conditions: sa.ColumnElement[bool]) -> None:
    """Keep a campaign as it is until the transaction ends, if the conditions (of `moves`) hold.

    A share lock: any number of residents hold it at once, and a move waits for them or they see it made. Without it a
    move could commit between this look and their write. Raises CampaignClosed.
    """
    held = sa.select(Campaign.id).where(Campaign.id == campaign_id, *conditions).with_for_update(read=True)
    if session.scalar(held) is None:
        raise CampaignClosed


def participation_of(session: Session, actor: Actor, campaign_id: UUID) -> Participation:
    """The actor's own participation in a campaign. Raises NotJoined."""
    found = session.get(Participation, (actor.id, campaign_id), populate_existing=True)
    if found is None:
        raise NotJoined
    return found


def _judged(session: Session, actor: Actor, campaign: Campaign) -> Eligibility:
    near = sa.select(lives_in(home_of(session, actor.id)), is_member(actor.id)).where(Campaign.id == campaign.id)
    lives_here, belongs = session.execute(near).one()
    reasons = _age_reasons(session, actor.id, campaign)
    if campaign.audience is Audience.MEMBERS and not belongs:
        reasons.insert(0, Ineligible.MEMBERS)
    elif not lives_here and not belongs:
        reasons.insert(0, Ineligible.HOME)
    return Eligibility(not reasons, reasons)


def _age_reasons(session: Session, resident_id: UUID, campaign: Campaign) -> list[Ineligible]:
    """By the year of birth alone, so the age is the one reached in the year of the first day."""
    if campaign.age_min is None and campaign.age_max is None:
        return []
    born_in = session.scalar(sa.select(Resident.born_in).where(Resident.resident_id == resident_id))
    if born_in is None:
        return [Ineligible.BIRTH_YEAR]
    age = campaign.starts_on.year - born_in
    lowest, highest = campaign.age_min or 0, 200 if campaign.age_max is None else campaign.age_max
    return [] if lowest <= age <= highest else [Ineligible.AGE]
