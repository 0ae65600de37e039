"""The life of a campaign: one table of moves, who may make each, and the clock that makes those that are due."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.drives.campaigns import campaign_for
from campaigns.drives.models import Campaign, CampaignState, CampaignTask, TaskKind, TaskSubject
from campaigns.drives.promises import write_version
from campaigns.drives.terms import tasks_of
from server import audit
from server.access import Actor
from server.clock import business_day
from server.errors import Conflict, NotFound

MOVED_AT_ONCE_MAX = 1000

PUBLISHED_FIRST = "首次发布 · First published"


class Move(enum.StrEnum):
    """What happens to the state of a campaign."""

    PUBLISH = "publish"
    START = "start"
    END = "end"
    CLOSE = "close"
    CANCEL = "cancel"


class Mover(enum.StrEnum):
    """Who makes a move."""

    STAFF = "staff"
    CLOCK = "clock"
    SETTLEMENT = "settlement"


@dataclass(frozen=True, slots=True)
class Step:
    """Where a move leads, and who may make it."""

    after: CampaignState
    movers: frozenset[Mover]


_STAFF, _CLOCK = frozenset({Mover.STAFF}), frozenset({Mover.CLOCK})

# Every move that there is; what is not here is refused.
MOVES: Mapping[tuple[CampaignState, Move], Step] = {
    (CampaignState.DRAFT, Move.PUBLISH): Step(CampaignState.PUBLISHED, _STAFF),
    (CampaignState.PUBLISHED, Move.START): Step(CampaignState.RUNNING, _STAFF | _CLOCK),
    (CampaignState.RUNNING, Move.END): Step(CampaignState.SETTLING, _STAFF | _CLOCK),
    (CampaignState.SETTLING, Move.CLOSE): Step(CampaignState.CLOSED, frozenset({Mover.SETTLEMENT})),
    (CampaignState.DRAFT, Move.CANCEL): Step(CampaignState.CANCELLED, _STAFF),
    (CampaignState.PUBLISHED, Move.CANCEL): Step(CampaignState.CANCELLED, _STAFF),
    (CampaignState.RUNNING, Move.CANCEL): Step(CampaignState.CANCELLED, _STAFF),
    # What the release before opened was published by it; the clock writes down what was promised.
    (CampaignState.OPEN, Move.PUBLISH): Step(CampaignState.PUBLISHED, _CLOCK),
}

_INSTANTS: Mapping[CampaignState, str] = {
    CampaignState.PUBLISHED: "published_at",
    CampaignState.RUNNING: "running_at",
    CampaignState.SETTLING: "settling_at",
    CampaignState.CLOSED: "closed_at",
}

# The release before knew the state `open` for both.
UNDER_WAY = (CampaignState.OPEN, CampaignState.PUBLISHED, CampaignState.RUNNING)


class CampaignMoveRefused(Conflict):
    """The campaign's state does not allow this move."""

    code, title_zh, title_en = (
        "campaign-move-refused",
        "活动当前状态不允许此操作",
        "The campaign's state does not allow this",
    )


class CampaignOver(Conflict):
    """The last day of the campaign lies in the past."""

    code, title_zh, title_en = "campaign-over", "活动结束日期已过", "The campaign's last day has passed"


class CampaignNotYet(Conflict):
    """The first day of the campaign lies in the future."""

    code, title_zh, title_en = "campaign-not-yet", "活动尚未到开始日期", "The campaign's first day has not come"


class CampaignIncomplete(Conflict):
    """A campaign is published with at least one task, and tasks of teams need teams."""

    code, title_zh, title_en = (
        "campaign-incomplete",
        "活动尚无任务, 或团队任务缺少团队设置",
        "The campaign has no task, or a task of teams without teams",
    )


@dataclass(frozen=True, slots=True)
class Advanced:
    """What the clock moved, by the campaigns' ids."""

    published: Sequence[UUID]
    started: Sequence[UUID]
    ended: Sequence[UUID]


def takes_people(now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions that residents can join a campaign at `now`: judged by the days, however late the clock's job."""
    last = sa.func.coalesce(Campaign.joins_until, Campaign.ends_on)
    return Campaign.state.in_(UNDER_WAY), last >= business_day(now)


def not_ended(now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions that who takes part, and in which team, can still change at `now`."""
    return Campaign.state.in_(UNDER_WAY), Campaign.ends_on >= business_day(now)


def is_running(now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions that residents can act at `now`: check in, answer a quiz, send evidence."""
    return *not_ended(now), Campaign.starts_on <= business_day(now)


def move(
    session: Session, actor: Actor, campaign_id: UUID, step: Move, *, reason: str | None = None, now: datetime
) -> Campaign:
    """What a member of staff does to a campaign in their scope. A campaign published on its first day runs at once.

    Ending one early moves its last day to today, as a version that residents see; that, and cancelling what was
    published, need a reason.

    Raises NotFound, CampaignMoveRefused, CampaignOver, CampaignNotYet, CampaignIncomplete, ReasonRequired.
    """
    campaign = campaign_for(session, actor, campaign_id)
    today, is_promised = business_day(now), campaign.terms_version > 0
    values: dict[str, Any] = {}
    if step is Move.PUBLISH:
        if campaign.ends_on < today:
            raise CampaignOver
        _require_complete(session, campaign)
        reason = PUBLISHED_FIRST
    elif step is Move.START and campaign.starts_on > today:
        raise CampaignNotYet
    elif step is Move.CANCEL and is_promised:
        values = {"terms_version": Campaign.terms_version + 1}
    elif step is Move.END and campaign.ends_on > today:
        values = {
            "ends_on": today,
            "joins_until": sa.func.least(Campaign.joins_until, today),
            "terms_version": Campaign.terms_version + 1,
        }
    moved = _write(session, campaign, step, Mover.STAFF, values, now=now)
    if values or step is Move.PUBLISH:
        write_version(session, moved, changed_by=actor.id, reason=reason, now=now)
    audit.record(session, actor, f"campaign.{step.value}", str(campaign_id), now=now, reason=reason)
    if step is Move.PUBLISH and moved.starts_on <= today:
        moved = _write(session, moved, Move.START, Mover.CLOCK, {}, now=now)
        audit.record(session, None, "campaign.start", str(campaign_id), now=now, because="first day")
    return moved


def close(session: Session, campaign_id: UUID, *, now: datetime) -> Campaign:
    """Close a campaign whose settlement is done; the settlement's own last step.

    Raises NotFound, CampaignMoveRefused.
    """
    campaign = session.get(Campaign, campaign_id, populate_existing=True)
    if campaign is None:
        raise NotFound
    closed = _write(session, campaign, Move.CLOSE, Mover.SETTLEMENT, {}, now=now)
    audit.record(session, None, "campaign.close", str(campaign_id), now=now, because="settled")
    return closed


def advance(session: Session, *, now: datetime) -> Advanced:
    """Make the moves that the day has brought, at most MOVED_AT_ONCE_MAX of each; a second time there are none.

    Nothing waits for this: joining, leaving and acting are judged by the days themselves.
    """
    today = business_day(now)
    _adopt_targets(session)
    published = _advance(session, CampaignState.OPEN, Move.PUBLISH, sa.true(), because="release before", now=now)
    for campaign_id in published:
        campaign = session.get_one(Campaign, campaign_id, populate_existing=True)
        write_version(session, campaign, changed_by=None, reason=PUBLISHED_FIRST, now=now)
    first_day = Campaign.starts_on <= today
    started = _advance(session, CampaignState.PUBLISHED, Move.START, first_day, because="first day", now=now)
    over = Campaign.ends_on < today
    ended = _advance(session, CampaignState.RUNNING, Move.END, over, because="last day over", now=now)
    return Advanced(published, started, ended)


def _write(
    session: Session, campaign: Campaign, step: Move, mover: Mover, values: dict[str, Any], *, now: datetime
) -> Campaign:
    """One move of one campaign as it was read."""
    found = MOVES.get((campaign.state, step))
    if found is None or mover not in found.movers:
        raise CampaignMoveRefused(state=campaign.state.value, move=step.value)
    # Guarded by state and version: of two moves at once one wins, and what is published is what its publisher read.
    moved = session.scalars(
        sa.update(Campaign)
        .where(Campaign.id == campaign.id, Campaign.state == campaign.state, Campaign.version == campaign.version)
        .values(**values, **_landing(found.after, now), version=Campaign.version + 1)
        .returning(Campaign)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if moved is None:
        raise CampaignMoveRefused(move=step.value)
    return moved


def _advance(
    session: Session,
    state: CampaignState,
    step: Move,
    due: sa.ColumnElement[bool],
    *,
    because: str,
    now: datetime,
) -> Sequence[UUID]:
    """Make one of the clock's moves with every campaign for which it is due."""
    found = MOVES[state, step]
    waiting = sa.select(Campaign.id).where(Campaign.state == state, due).order_by(Campaign.id).limit(MOVED_AT_ONCE_MAX)
    moved = session.scalars(
        sa.update(Campaign)
        .where(Campaign.id.in_(waiting), Campaign.state == state, due)
        .values(**_landing(found.after, now), version=Campaign.version + 1)
        .returning(Campaign.id)
    ).all()
    for campaign_id in moved:
        audit.record(session, None, f"campaign.{step.value}", str(campaign_id), now=now, because=because)
    return sorted(moved)


def _landing(after: CampaignState, now: datetime) -> dict[str, Any]:
    values: dict[str, Any] = {"state": after}
    if after in _INSTANTS:
        values[_INSTANTS[after]] = now
    if after is CampaignState.PUBLISHED:
        values["terms_version"] = 1
        values["published_at"] = sa.func.coalesce(Campaign.opened_at, now)
    return values


def _require_complete(session: Session, campaign: Campaign) -> None:
    tasks = tasks_of(session, campaign.id)
    of_teams = any(task.subject is TaskSubject.TEAM for task in tasks)
    if not tasks or (of_teams and campaign.team_kind is None):
        raise CampaignIncomplete


def _adopt_targets(session: Session) -> None:
    """Give what the release before drafted or opened since the migration its one task, as the migration does."""
    orphans = sa.select(
        Campaign.id,
        Campaign.id,
        sa.literal(1),
        sa.literal(TaskKind.BEHAVIOUR, CampaignTask.kind.type),
        sa.literal(TaskSubject.PERSON, CampaignTask.subject.type),
        Campaign.title,
        Campaign.behaviours,
        Campaign.measure,
        Campaign.target,
    ).where(Campaign.measure.is_not(None), ~sa.exists().where(CampaignTask.campaign_id == Campaign.id))
    columns = ["campaign_id", "id", "position", "kind", "subject", "title", "behaviours", "measure", "target"]
    session.execute(insert(CampaignTask).from_select(columns, orphans).on_conflict_do_nothing())
