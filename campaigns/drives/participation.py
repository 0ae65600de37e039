"""Taking part in campaigns: joining, leaving, and progress derived from the residents' days."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives.campaigns import campaign_for, home_of
from campaigns.drives.models import Campaign, CampaignState, Participation, TargetMeasure
from points.earning.models import Behaviour, ResidentDay
from server.access import Actor
from server.clock import business_day
from server.errors import Conflict, NotFound
from server.places.models import Division


class CampaignClosed(Conflict):
    """The campaign is not open, or its last day has passed."""

    code, title_zh, title_en = "campaign-closed", "活动已结束或未开放", "The campaign is not open"


class AlreadyJoined(Conflict):
    """A resident joins a campaign once."""

    code, title_zh, title_en = "already-joined", "您已参加该活动", "You take part in this campaign already"
    constraints = ("participation_pkey",)


class NotJoined(NotFound):
    """The resident does not take part in the campaign."""

    code, title_zh, title_en = "not-joined", "您未参加该活动", "You do not take part in this campaign"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one resident is. `done` and `target` are in units of `measure`; `ratio` is cut off, never rounded up."""

    campaign_id: UUID
    measure: TargetMeasure
    done: int
    target: int
    ratio: float
    completed: bool
    joined_at: datetime


@dataclass(frozen=True, slots=True)
class CommunityParticipation:
    """Residents of one community in a campaign: how many joined, and how many reached the target."""

    community_code: str
    community_name: str
    joined: int
    completed: int


@dataclass(frozen=True, slots=True)
class CampaignParticipation:
    """Who takes part in a campaign, by the community that was home on joining."""

    campaign_id: UUID
    joined: int
    completed: int
    communities: list[CommunityParticipation]


def join(session: Session, actor: Actor, campaign_id: UUID, *, now: datetime) -> Participation:
    """Enrol the actor in an open campaign of their own place, also before its first day.

    Closing is judged at `now`, not at midnight, and inside the write, so that a late joiner and the closing job can
    never both win.

    Raises NotFound, CampaignClosed, and AlreadyJoined through the primary key.
    """
    campaign_for(session, actor, campaign_id)
    home = home_of(session, actor.id)
    enrolled = sa.select(
        sa.literal(actor.id, sa.Uuid),
        Campaign.id,
        sa.literal(home, sa.String),
        sa.literal(now, sa.DateTime(timezone=True)),
    ).where(Campaign.id == campaign_id, *_running(now))
    columns = ["resident_id", "campaign_id", "community_code", "joined_at"]
    joined = session.scalars(
        sa.insert(Participation).from_select(columns, enrolled).returning(Participation)
    ).one_or_none()
    if joined is None:
        raise CampaignClosed
    return joined


def leave(session: Session, actor: Actor, campaign_id: UUID, *, now: datetime) -> None:
    """Take the actor out of a campaign before its end; afterwards the participation stands.

    Raises NotFound, CampaignClosed, NotJoined.
    """
    campaign_for(session, actor, campaign_id)
    own = (Participation.resident_id == actor.id, Participation.campaign_id == campaign_id)
    running = sa.exists().where(Campaign.id == campaign_id, *_running(now))
    left = session.execute(sa.delete(Participation).where(*own, running).returning(Participation.campaign_id)).first()
    if left is None:
        _participation_of(session, actor, campaign_id)
        raise CampaignClosed


def progress_of(session: Session, actor: Actor, campaign_id: UUID) -> Progress:
    """How far the actor is, from the days kept of them; nothing of it is stored.

    Every day from `starts_on` to `ends_on` counts, also those before the day of joining: the target is the same for all
    and nobody loses by hearing of the campaign late. Records that arrive after the end still count to their own day.
    Raises NotFound, NotJoined.
    """
    campaign = campaign_for(session, actor, campaign_id)
    joined = _participation_of(session, actor, campaign_id)
    measured = _measured(campaign)
    done = int(
        session.scalar(
            sa.select(sa.func.coalesce(sa.func.sum(measured), 0)).where(
                ResidentDay.resident_id == actor.id, *_counted(campaign)
            )
        )
        or 0
    )
    return Progress(
        campaign_id=campaign_id,
        measure=campaign.measure,
        done=done,
        target=campaign.target,
        # 9,999 of 10,000 must not read as reached.
        ratio=(done * 10_000 // campaign.target) / 10_000,
        completed=done >= campaign.target,
        joined_at=joined.joined_at,
    )


def participation_in(session: Session, actor: Actor, campaign_id: UUID) -> CampaignParticipation:
    """How many joined and completed a campaign in the actor's scope, by community, in one statement.

    The actor is a member of staff; the figures are exact and no resident is named. Raises NotFound.
    """
    campaign = campaign_for(session, actor, campaign_id)
    done = (
        sa.select(Participation.community_code, sa.func.coalesce(sa.func.sum(_measured(campaign)), 0).label("done"))
        .join(
            ResidentDay,
            sa.and_(ResidentDay.resident_id == Participation.resident_id, *_counted(campaign)),
            isouter=True,
        )
        .where(Participation.campaign_id == campaign_id)
        .group_by(Participation.resident_id, Participation.community_code)
        .subquery()
    )
    rows = session.execute(
        sa.select(
            done.c.community_code,
            Division.name,
            sa.func.count(),
            sa.func.count().filter(done.c.done >= campaign.target),
        )
        .join(Division, Division.code == done.c.community_code)
        .group_by(done.c.community_code, Division.name)
        .order_by(done.c.community_code)
    )
    communities = [CommunityParticipation(*row) for row in rows]
    return CampaignParticipation(
        campaign_id=campaign_id,
        joined=sum(row.joined for row in communities),
        completed=sum(row.completed for row in communities),
        communities=communities,
    )


def _running(now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions that a campaign takes people in or lets them go at `now`."""
    return Campaign.state == CampaignState.OPEN, Campaign.ends_on >= business_day(now)


def _measured(campaign: Campaign) -> sa.ColumnElement[int]:
    columns: dict[TargetMeasure, sa.ColumnElement[int]] = {
        TargetMeasure.ACTIVITIES: ResidentDay.activities.expression,
        TargetMeasure.DISTANCE_M: ResidentDay.distance_m.expression,
        TargetMeasure.WEIGHT_G: ResidentDay.weight_g.expression,
        TargetMeasure.SAVED_CO2E_MG: ResidentDay.saved_co2e_mg.expression,
        TargetMeasure.POINTS: ResidentDay.points.expression,
    }
    return columns[campaign.measure]


def _counted(campaign: Campaign) -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions that a resident's day counts to a campaign."""
    return (
        ResidentDay.day.between(campaign.starts_on, campaign.ends_on),
        ResidentDay.behaviour.in_([Behaviour(name) for name in campaign.behaviours]),
    )


def _participation_of(session: Session, actor: Actor, campaign_id: UUID) -> Participation:
    found = session.get(Participation, (actor.id, campaign_id))
    if found is None:
        raise NotJoined
    return found
