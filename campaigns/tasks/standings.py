"""Standings: a task's teams and, as far as they agreed, its residents, in tables that are kept and not recounted.

Reading costs the rows shown, whatever the number of participants. A table older than FRESH_S is computed anew by
whoever reads it while the campaign is small, and by a job when it is large; until then the old one is shown with its
time.
"""

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import procrastinate
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.drives.campaigns import task_for
from campaigns.drives.models import Campaign, CampaignState, CampaignTask, Participation, Team
from campaigns.drives.shown_names import agreed_to_appear
from campaigns.tasks.models import Standing, StandingRun, StandingSubject
from campaigns.tasks.progress import contribution_select
from server.access import Actor
from server.jobs import enqueue
from server.paging import decode, encode
from server.people.models import Resident

FRESH_S = 60
# After the end only late records and reversals move anything.
FRESH_AFTER_END_S = 3600

# Whoever reads waits for so many. With 30 days of two behaviours each, 5,000 took 0.3 s on two busy cores, 100,000 4 s.
INLINE_PARTICIPANTS_MAX = 2_000

REFRESHED_AT_ONCE_MAX = 200
# Of one refresh, so that sorting a hundred thousand participants does not go by way of the disk.
WORK_MEMORY_MB = 64
REFRESH_JOB = "campaign-tasks:refresh_standings"


class StandingOrder(enum.StrEnum):
    """By what a table is ordered: a sum favours large teams, a mean small ones, so both are there."""

    TOTAL = "total"
    PER_HEAD = "per-head"


@dataclass(frozen=True, slots=True)
class Table:
    """Which table of a task: of whom, and in which order."""

    of: StandingSubject
    by: StandingOrder


@dataclass(frozen=True, slots=True)
class StandingRow:
    """A team or a resident in a table. Equal ones share a rank; a small team is marked and ranked all the same."""

    rank: int
    name: str
    team_id: UUID | None
    total: int
    members: int
    per_head: Decimal
    is_small: bool


@dataclass(frozen=True, slots=True)
class Standings:
    """A page of a table as it was at `computed_at` (None: not yet), and the reader's own row, on this page or not."""

    computed_at: datetime | None
    participants: int
    mine: StandingRow | None
    items: list[StandingRow]
    next_cursor: str | None


def read(
    session: Session,
    actor: Actor,
    jobs: procrastinate.App,
    campaign_id: UUID,
    task_id: UUID,
    table: Table,
    *,
    limit: int,
    cursor: str | None,
    now: datetime,
) -> Standings:
    """A page of the standings of a task of a campaign that the actor may see. Raises NotFound, BadCursor."""
    task = task_for(session, actor, campaign_id, task_id)
    run = _fresh_run(session, jobs, task, now=now)
    position = Standing.position_total if table.by is StandingOrder.TOTAL else Standing.position_per_head
    wanted = _rows(task, table).order_by(position).limit(limit + 1)
    if cursor is not None:
        wanted = wanted.where(position > decode(cursor, tuple[int])[0])
    rows = session.execute(wanted.add_columns(position)).all()
    return Standings(
        computed_at=run.computed_at if run else None,
        participants=run.participants if run else 0,
        mine=_own_row(session, actor, task, table),
        items=[_row(task, row) for row in rows[:limit]],
        next_cursor=encode([rows[limit - 1][-1]]) if len(rows) > limit else None,
    )


def refresh(session: Session, task: CampaignTask, *, now: datetime) -> None:
    """Compute the standings of a task anew, in a few statements whatever the number of participants."""
    # The sums are the costly part and are read twice. A table of their own and no part of the INSERT, for PostgreSQL
    # reads with several processes only where it writes no rows.
    session.execute(sa.text(f"SET LOCAL work_mem = '{WORK_MEMORY_MB}MB'"))
    summed = sa.CreateTableAs(contribution_select(task), "standings_own", temporary=True)
    session.execute(summed)
    own = summed.table
    ranked = sa.union_all(_ranked_teams(task, own), _ranked_residents(task, own)).subquery()
    session.execute(sa.delete(Standing).where(Standing.task_id == task.id))
    session.execute(insert(Standing).from_select([column.name for column in ranked.c], sa.select(ranked)))
    own.drop(session.connection())
    participants = sa.select(sa.func.count()).where(Participation.campaign_id == task.campaign_id)
    run = {"computed_at": now, "participants": session.scalar(participants) or 0}
    session.execute(
        insert(StandingRun).values(task_id=task.id, **run).on_conflict_do_update(index_elements=["task_id"], set_=run)
    )


def refresh_if_stale(session: Session, task_id: UUID, *, now: datetime) -> bool:
    """Compute a task's standings anew if they are old and nobody else is at it; whether it was done."""
    task = session.scalars(sa.select(CampaignTask).where(CampaignTask.id == task_id)).one_or_none()
    if task is None or not session.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(_lock_key(task_id)))):
        return False
    run = _run(session, task_id)
    if run is not None and not _is_stale(run, task, now=now):
        return False
    refresh(session, task, now=now)
    return True


def stale_tasks(session: Session, *, now: datetime) -> list[UUID]:
    """Tasks of campaigns under way whose standings are an hour old, the oldest first, at most REFRESHED_AT_ONCE_MAX.

    Whoever reads one has it computed sooner; this is for the first reader of the day.
    """
    under_way = (CampaignState.OPEN, CampaignState.RUNNING, CampaignState.SETTLING)
    stale_before = now - timedelta(hours=1)
    return list(
        session.scalars(
            sa.select(CampaignTask.id)
            .join(Campaign, Campaign.id == CampaignTask.campaign_id)
            .outerjoin(StandingRun, StandingRun.task_id == CampaignTask.id)
            .where(
                Campaign.state.in_(under_way),
                sa.or_(StandingRun.computed_at.is_(None), StandingRun.computed_at < stale_before),
            )
            .order_by(StandingRun.computed_at.nulls_first(), CampaignTask.id)
            .limit(REFRESHED_AT_ONCE_MAX)
        )
    )


def _fresh_run(session: Session, jobs: procrastinate.App, task: CampaignTask, *, now: datetime) -> StandingRun | None:
    """The newest run there is, made here and now if that is cheap, else asked of a job."""
    run = _run(session, task.id)
    if run is not None and not _is_stale(run, task, now=now):
        return run
    some = sa.select(Participation.resident_id).where(Participation.campaign_id == task.campaign_id)
    participants = session.scalar(
        sa.select(sa.func.count()).select_from(some.limit(INLINE_PARTICIPANTS_MAX + 1).subquery())
    )
    if (participants or 0) > INLINE_PARTICIPANTS_MAX:
        _request(session, jobs, task, now=now)
        return run
    if run is None or run.computed_at is None:
        # Whoever comes first computes, the others wait for that moment rather than show nothing.
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_lock_key(task.id))))
    refresh_if_stale(session, task.id, now=now)
    return _run(session, task.id)


def _request(session: Session, jobs: procrastinate.App, task: CampaignTask, *, now: datetime) -> None:
    """Have a job compute the standings: asked once however many read meanwhile."""
    asked = insert(StandingRun).values(task_id=task.id, requested_at=now, participants=0)
    waited = sa.or_(StandingRun.requested_at.is_(None), StandingRun.requested_at < now - timedelta(seconds=FRESH_S))
    asked_now = session.scalar(
        asked.on_conflict_do_update(index_elements=["task_id"], set_={"requested_at": now}, where=waited).returning(
            StandingRun.task_id
        )
    )
    if asked_now is not None:
        enqueue(session, jobs, REFRESH_JOB, task_id=str(task.id))


def _run(session: Session, task_id: UUID) -> StandingRun | None:
    return session.get(StandingRun, task_id, populate_existing=True)


def _is_stale(run: StandingRun, task: CampaignTask, *, now: datetime) -> bool:
    over = task.campaign.state in (CampaignState.CLOSED, CampaignState.CANCELLED)
    fresh = timedelta(seconds=FRESH_AFTER_END_S if over else FRESH_S)
    return run.computed_at is None or run.computed_at < now - fresh


def _lock_key(task_id: UUID) -> sa.Function[int]:
    return sa.func.hashtextextended(f"standings:{task_id}", 0)


def _ranked_teams(task: CampaignTask, own: sa.Table) -> sa.Select[Any]:
    summed = (
        sa.select(
            own.c.team_id,
            sa.cast(sa.func.sum(own.c.done), sa.BigInteger).label("total"),
            sa.func.count().label("members"),
        )
        .where(own.c.team_id.is_not(None))
        .group_by(own.c.team_id)
        .subquery()
    )
    rows = sa.select(Team.id.label("subject_id"), Team.name, summed.c.total, summed.c.members).join(
        Team, sa.and_(Team.campaign_id == task.campaign_id, Team.id == summed.c.team_id)
    )
    return _ranked(task, StandingSubject.TEAM, rows.subquery())


def _ranked_residents(task: CampaignTask, own: sa.Table) -> sa.Select[Any]:
    """Those who agreed to appear and have a name to appear under; they are ranked among each other."""
    rows = (
        sa.select(
            own.c.resident_id.label("subject_id"),
            Resident.nickname.label("name"),
            own.c.done.label("total"),
            sa.literal(1).label("members"),
        )
        .join(Resident, Resident.resident_id == own.c.resident_id)
        .where(*_appears())
    )
    return _ranked(task, StandingSubject.RESIDENT, rows.subquery())


def _ranked(task: CampaignTask, of: StandingSubject, rows: sa.Subquery) -> sa.Select[Any]:
    """Rows of subject_id, name, total and members with their ranks, as columns of Standing."""
    # Equal quotients are equal numerics, so that a tie is a tie also where nothing divides evenly.
    per_head = sa.cast(rows.c.total, sa.Numeric) / rows.c.members
    order = (rows.c.name, rows.c.subject_id)
    return sa.select(
        sa.literal(task.id, sa.Uuid).label("task_id"),
        sa.literal(of, Standing.subject_kind.type).label("subject_kind"),
        rows.c.subject_id,
        rows.c.name,
        rows.c.total,
        rows.c.members,
        sa.func.trunc(per_head, 4).label("per_head"),
        sa.func.rank().over(order_by=rows.c.total.desc()).label("rank_total"),
        sa.func.rank().over(order_by=per_head.desc()).label("rank_per_head"),
        sa.func.row_number().over(order_by=(rows.c.total.desc(), *order)).label("position_total"),
        sa.func.row_number().over(order_by=(per_head.desc(), *order)).label("position_per_head"),
    )


def _appears() -> tuple[sa.ColumnElement[bool], ...]:
    return agreed_to_appear(), Resident.enabled.is_(True), Resident.nickname.is_not(None)


def _rows(task: CampaignTask, table: Table) -> sa.Select[Any]:
    """The kept rows of a table. A resident who took the consent back is gone at once, and a new nickname is shown."""
    rank = Standing.rank_total if table.by is StandingOrder.TOTAL else Standing.rank_per_head
    name = Standing.name if table.of is StandingSubject.TEAM else Resident.nickname
    team_id = sa.case((Standing.subject_kind == StandingSubject.TEAM, Standing.subject_id))
    wanted = sa.select(rank, name, team_id, Standing.total, Standing.members, Standing.per_head).where(
        Standing.task_id == task.id, Standing.subject_kind == table.of
    )
    if table.of is StandingSubject.TEAM:
        return wanted
    return wanted.join(Resident, Resident.resident_id == Standing.subject_id).where(*_appears())


def _own_row(session: Session, actor: Actor, task: CampaignTask, table: Table) -> StandingRow | None:
    if not actor.is_resident:
        return None
    wanted = _rows(task, table)
    if table.of is StandingSubject.TEAM:
        own = (Participation.resident_id == actor.id, Participation.campaign_id == task.campaign_id)
        wanted = wanted.where(Standing.subject_id == sa.select(Participation.team_id).where(*own).scalar_subquery())
    else:
        wanted = wanted.where(Standing.subject_id == actor.id)
    found = session.execute(wanted).one_or_none()
    return None if found is None else _row(task, found)


def _row(task: CampaignTask, row: sa.Row[Any]) -> StandingRow:
    rank, name, team_id, total, members, per_head = tuple(row)[:6]
    is_small = team_id is not None and members < (task.campaign.team_size_min or 0)
    return StandingRow(rank, name, team_id, total, members, per_head, is_small)
