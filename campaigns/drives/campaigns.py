"""Campaigns: staff draft, edit, open, close and cancel them inside their scope; the one table of moves."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives.models import Campaign, CampaignState, Participation, TargetMeasure
from points.earning.models import TRAVEL, Behaviour
from server import audit
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, DomainError, NotFound, PreconditionFailed
from server.paging import Page, decode, page_of
from server.people.models import Resident
from server.places.divisions import division_for
from server.places.organisations import organisation_for

SPAN_DAYS_MAX = 366
CLOSED_AT_ONCE_MAX = 1000


class Move(enum.StrEnum):
    """What staff do to the state of a campaign."""

    OPEN = "open"
    CLOSE = "close"
    CANCEL = "cancel"


# Every move that there is; what is not here is refused.
MOVES: Mapping[tuple[CampaignState, Move], CampaignState] = {
    (CampaignState.DRAFT, Move.OPEN): CampaignState.OPEN,
    (CampaignState.OPEN, Move.CLOSE): CampaignState.CLOSED,
    (CampaignState.DRAFT, Move.CANCEL): CampaignState.CANCELLED,
    (CampaignState.OPEN, Move.CANCEL): CampaignState.CANCELLED,
}

# Drafts are the staff's own affair, and a cancelled campaign is over for everybody.
SEEN_BY_RESIDENTS = (CampaignState.OPEN, CampaignState.CLOSED)


class CampaignMoveRefused(Conflict):
    """The campaign's state does not allow this move."""

    code, title_zh, title_en = (
        "campaign-move-refused",
        "活动当前状态不允许此操作",
        "The campaign's state does not allow this",
    )


class CampaignNotDraft(Conflict):
    """Residents joined what they read; so only a draft can be edited."""

    code, title_zh, title_en = "campaign-not-draft", "只能修改草稿状态的活动", "Only a draft can be edited"


class CampaignOver(Conflict):
    """The last day of the campaign lies in the past."""

    code, title_zh, title_en = "campaign-over", "活动结束日期已过", "The campaign's last day has passed"


class CampaignSpanInvalid(DomainError):
    """A campaign ends on or after its first day, at most SPAN_DAYS_MAX days later."""

    code, status, title_zh, title_en = (
        "campaign-span-invalid",
        422,
        "活动起止日期不合理",
        "A campaign lasts from its first day to at most 366 days later",
    )
    constraints = ("campaign_span_check",)


class CampaignTargetInvalid(DomainError):
    """The measure is not one that every behaviour of the campaign has: a sorting drop has no metres."""

    code, status, title_zh, title_en = (
        "campaign-target-invalid",
        422,
        "目标的计量方式与所选行为不符",
        "The measure does not fit every behaviour of the campaign",
    )


@dataclass(frozen=True, slots=True)
class CampaignTerms:
    """What a campaign asks for; days are business days, both included. The target is in units of the measure."""

    title: str
    description: str
    behaviours: list[Behaviour]
    measure: TargetMeasure
    target: int
    starts_on: date
    ends_on: date


def create(
    session: Session,
    actor: Actor,
    terms: CampaignTerms,
    *,
    division: str | None = None,
    organisation_id: UUID | None = None,
    now: datetime,
) -> Campaign:
    """Draft a campaign for a division in the actor's scope, or for one organisation.

    An organisation's campaign is for the residents of its community, so it carries that community's code.

    Raises NotFound outside the scope, CampaignSpanInvalid, CampaignTargetInvalid.
    """
    _check_terms(terms)
    if organisation_id is not None:
        division = organisation_for(session, actor, organisation_id).community_code
    else:
        actor.require_cover(division or "")
        division = division_for(session, division or "").code
    campaign = Campaign(
        id=new_id(),
        division=division,
        organisation_id=organisation_id,
        state=CampaignState.DRAFT,
        version=1,
        created_by=actor.id,
        created_at=now,
        opened_at=None,
        **_columns(terms),
    )
    session.add(campaign)
    session.flush()
    audit.record(session, actor, "campaign.create", str(campaign.id), now=now, division=division, title=campaign.title)
    return campaign


def edit(
    session: Session, actor: Actor, campaign_id: UUID, changes: Mapping[str, Any], *, version: int, now: datetime
) -> Campaign:
    """Change some of a draft's terms, given the version that the change is based on.

    Raises NotFound, CampaignNotDraft, PreconditionFailed when somebody else was first, CampaignSpanInvalid,
    CampaignTargetInvalid.
    """
    campaign = campaign_for(session, actor, campaign_id)
    if campaign.state is not CampaignState.DRAFT:
        raise CampaignNotDraft
    before = CampaignTerms(
        title=campaign.title,
        description=campaign.description,
        behaviours=[Behaviour(name) for name in campaign.behaviours],
        measure=campaign.measure,
        target=campaign.target,
        starts_on=campaign.starts_on,
        ends_on=campaign.ends_on,
    )
    terms = CampaignTerms(**{name: changes.get(name, getattr(before, name)) for name in CampaignTerms.__slots__})
    _check_terms(terms)
    # Guarded by the version that the caller read, which another edit or an opening may have left behind since.
    edited = session.scalars(
        sa.update(Campaign)
        .where(Campaign.id == campaign_id, Campaign.version == version, Campaign.state == CampaignState.DRAFT)
        .values(**_columns(terms), version=version + 1)
        .returning(Campaign)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if edited is None:
        raise PreconditionFailed
    audit.record(
        session, actor, "campaign.edit", str(campaign_id), now=now, changed=sorted(changes), version=version + 1
    )
    return edited


def move(session: Session, actor: Actor, campaign_id: UUID, step: Move, *, now: datetime) -> Campaign:
    """Open, close or cancel a campaign. Raises NotFound, CampaignMoveRefused, CampaignOver."""
    campaign = campaign_for(session, actor, campaign_id)
    if step is Move.OPEN and campaign.ends_on < business_day(now):
        raise CampaignOver
    source = campaign.state
    after = MOVES.get((source, step))
    if after is None:
        raise CampaignMoveRefused(state=source.value, move=step.value)
    values: dict[str, Any] = {"state": after, "version": Campaign.version + 1}
    if step is Move.OPEN:
        values["opened_at"] = now
    # Guarded by state and version: of two moves at once one wins, and what is opened is what its opener read.
    moved = session.scalars(
        sa.update(Campaign)
        .where(Campaign.id == campaign_id, Campaign.state == source, Campaign.version == campaign.version)
        .values(**values)
        .returning(Campaign)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if moved is None:
        raise CampaignMoveRefused(move=step.value)
    audit.record(session, actor, f"campaign.{step.value}", str(campaign_id), now=now)
    return moved


def close_ended(session: Session, *, now: datetime) -> list[UUID]:
    """Close open campaigns whose last day has passed, at most CLOSED_AT_ONCE_MAX; a second time finds none.

    Nothing waits for this: whether a campaign can be joined is judged at the moment of joining.
    """
    ended = (
        sa.select(Campaign.id)
        .where(Campaign.state == CampaignState.OPEN, Campaign.ends_on < business_day(now))
        .order_by(Campaign.id)
        .limit(CLOSED_AT_ONCE_MAX)
    )
    closed = session.scalars(
        sa.update(Campaign)
        .where(Campaign.id.in_(ended), Campaign.state == CampaignState.OPEN)
        .values(state=MOVES[CampaignState.OPEN, Move.CLOSE], version=Campaign.version + 1)
        .returning(Campaign.id)
    ).all()
    for campaign_id in closed:
        audit.record(session, None, "campaign.close", str(campaign_id), now=now, because="ended")
    return sorted(closed)


def campaign_for(session: Session, actor: Actor, campaign_id: UUID) -> Campaign:
    """A campaign that the actor may see: staff in their scope, residents of their place or that they joined.

    Raises NotFound.
    """
    found = session.scalars(
        sa.select(Campaign)
        .where(Campaign.id == campaign_id, _visible(session, actor))
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotFound
    return found


def list_campaigns(
    session: Session, actor: Actor, *, state: CampaignState | None = None, limit: int, cursor: str | None
) -> Page[Campaign]:
    """The campaigns that the actor may see, newest first; ids are UUIDv7, so their order is that of time.

    Raises BadCursor.
    """
    wanted = sa.select(Campaign).where(_visible(session, actor)).order_by(Campaign.id.desc()).limit(limit + 1)
    if state is not None:
        wanted = wanted.where(Campaign.state == state)
    if cursor is not None:
        wanted = wanted.where(Campaign.id < decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))


def home_of(session: Session, resident_id: UUID) -> str | None:
    """The code of the resident's home community."""
    return session.scalar(sa.select(Resident.community_code).where(Resident.resident_id == resident_id))


def _visible(session: Session, actor: Actor) -> sa.ColumnElement[bool]:
    """The condition of `Actor.covers` for staff, and of `SEEN_BY_RESIDENTS` and the place for residents."""
    if actor.is_resident:
        # Who moves house keeps what they joined.
        joined = sa.exists().where(Participation.resident_id == actor.id, Participation.campaign_id == Campaign.id)
        return sa.and_(Campaign.state.in_(SEEN_BY_RESIDENTS), sa.or_(_holds(home_of(session, actor.id)), joined))
    if actor.organisation_id is not None:
        return Campaign.organisation_id == actor.organisation_id
    if actor.division is None:
        return sa.false()
    return Campaign.division.startswith(actor.division, autoescape=True)


def _holds(community_code: str | None) -> sa.ColumnElement[bool]:
    """The condition that a campaign's place holds a community: its own code, its street's or its district's."""
    # Three equalities and not a pattern, so that the index on the place serves.
    places = [] if community_code is None else [community_code[:length] for length in (6, 9, 12)]
    return Campaign.division.in_(places)


def _check_terms(terms: CampaignTerms) -> None:
    if not 0 <= (terms.ends_on - terms.starts_on).days <= SPAN_DAYS_MAX:
        raise CampaignSpanInvalid
    behaviours = set(terms.behaviours)
    if terms.measure is TargetMeasure.DISTANCE_M and not behaviours <= TRAVEL:
        raise CampaignTargetInvalid
    if terms.measure is TargetMeasure.WEIGHT_G and behaviours & TRAVEL:
        raise CampaignTargetInvalid


def _columns(terms: CampaignTerms) -> dict[str, Any]:
    return {
        "title": terms.title.strip(),
        "description": terms.description,
        # In one order and once each, whatever the order of asking.
        "behaviours": [behaviour.value for behaviour in Behaviour if behaviour in terms.behaviours],
        "measure": terms.measure,
        "target": terms.target,
        "starts_on": terms.starts_on,
        "ends_on": terms.ends_on,
    }
