"""How far residents and teams are in the tasks of a campaign: derived anew at every reading, and stored nowhere.

So the reversal of an activity, a corrected check-in or a refused upload lowers progress by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from campaigns.attendance.models import CheckIn, CheckInSlot, SlotKind
from campaigns.drives.campaigns import campaign_for
from campaigns.drives.models import (
    CampaignTask,
    Participation,
    TargetMeasure,
    TaskKind,
    TaskSubject,
)
from campaigns.drives.participation import participation_of
from campaigns.drives.terms import tasks_of
from campaigns.tasks.models import EvidenceState, QuizAttempt, TaskEvidence
from points.earning.models import Behaviour, ResidentDay
from server.access import Actor
from server.places.models import Division

Residents = sa.Select[UUID]
Rows = sa.Select[UUID, UUID | None, int]


@dataclass(frozen=True, slots=True)
class Completion:
    """A resident has reached the target of a task, alone or through the team, and what that is worth."""

    resident_id: UUID
    team_id: UUID | None
    task_id: UUID
    reward_points: int


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far one task is. `done` and `target` are in the task's units; `ratio` is cut off, never rounded up."""

    task_id: UUID
    title: str
    kind: TaskKind
    subject: TaskSubject
    measure: TargetMeasure | None
    done: int
    target: int
    ratio: float
    completed: bool
    reward_points: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one resident is in a campaign; `completed` when every task is."""

    campaign_id: UUID
    joined_at: datetime
    team_id: UUID | None
    completed: bool
    tasks: list[TaskProgress]


@dataclass(frozen=True, slots=True)
class CommunityParticipation:
    """Residents of one community in a campaign: how many joined, and how many completed every task."""

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


def contribution_select(task: CampaignTask, among: Residents | None = None) -> Rows:
    """What each participant has done of a task by themself: resident_id, team_id, done (bigint, the task's units).

    Behaviours: every day of the campaign counts, also those before the day of joining, for the target is the same for
    all and nobody loses by hearing of the campaign late; records that arrive after the end still count to their own
    day. `among` restricts the participants, and with them the cost.
    """
    source, condition, amount = _source(task)
    rows = (
        sa.select(
            Participation.resident_id,
            Participation.team_id,
            sa.cast(sa.func.coalesce(amount, 0), sa.BigInteger).label("done"),
        )
        .select_from(Participation)
        .outerjoin(source, sa.and_(source.resident_id == Participation.resident_id, *condition))
        .where(Participation.campaign_id == task.campaign_id)
        .group_by(Participation.resident_id, Participation.team_id)
    )
    return rows if among is None else rows.where(Participation.resident_id.in_(among))


def done_select(task: CampaignTask, among: Residents | None = None) -> Rows:
    """How far each participant is in a task: resident_id, team_id, done (bigint, the task's units).

    In a task of teams every member is as far as the team together, and who is in no team has done nothing.
    """
    if task.subject is TaskSubject.PERSON:
        return contribution_select(task, among)
    own = contribution_select(task, None if among is None else _with_mates(task, among)).subquery()
    together = sa.cast(sa.func.sum(own.c.done).over(partition_by=own.c.team_id), sa.BigInteger)
    alone = sa.literal(0, sa.BigInteger)
    done = sa.case((own.c.team_id.is_(None), alone), else_=together).label("done")
    rows = sa.select(own.c.resident_id, own.c.team_id, done)
    if among is None:
        return rows
    # Only now: a condition beside the window would leave the mates out of the sums.
    summed = rows.subquery()
    return sa.select(summed.c.resident_id, summed.c.team_id, summed.c.done).where(summed.c.resident_id.in_(among))


def completed_select(tasks: Sequence[CampaignTask]) -> Rows:
    """How many of these tasks of one campaign each participant has completed: resident_id, team_id, completed."""
    parts = [done_select(task).add_columns(sa.literal(task.target, sa.BigInteger).label("target")) for task in tasks]
    done = sa.union_all(*parts).subquery()
    completed = sa.func.count().filter(done.c.done >= done.c.target).label("completed")
    return sa.select(done.c.resident_id, done.c.team_id, completed).group_by(done.c.resident_id, done.c.team_id)


def completed(session: Session, resident_id: UUID, task: CampaignTask) -> bool:
    """Whether a participant has reached the target of a task; False for whoever does not take part."""
    rows = done_select(task, _only(resident_id)).subquery()
    return bool(session.scalar(sa.select(sa.exists().where(rows.c.done >= task.target))))


def completions(
    session: Session,
    campaign_id: UUID,
    *,
    after: UUID | None,
    limit: int,
    teams: Mapping[UUID, frozenset[UUID]] | None = None,
) -> list[Completion]:
    """What the next residents have completed, in the order of their ids; go on after the last one. Empty at the end.

    Whole residents, at most `limit` of them. `teams` is what `completed_teams` gave at the start of the walk: the sums
    of large teams are then not made again for every step, and no team is found complete for some of its members only.
    """
    tasks = tasks_of(session, campaign_id)
    while True:
        residents = (
            sa.select(Participation.resident_id)
            .where(Participation.campaign_id == campaign_id)
            .order_by(Participation.resident_id)
            .limit(limit)
        )
        if after is not None:
            residents = residents.where(Participation.resident_id > after)
        ids = session.scalars(residents).all()
        if not ids or not tasks:
            return []
        among = sa.select(sa.func.unnest(sa.literal(ids, sa.ARRAY(sa.Uuid))))
        done: list[Completion] = []
        for task in tasks:
            done += [
                Completion(resident_id, team_id, task.id, task.reward_points)
                for resident_id, team_id in _reached(session, task, among, teams)
            ]
        if done:
            position = {task.id: task.position for task in tasks}
            return sorted(done, key=lambda each: (each.resident_id, position[each.task_id]))
        after = ids[-1]


def completed_teams(session: Session, campaign_id: UUID) -> dict[UUID, frozenset[UUID]]:
    """For each team task of a campaign the teams that have reached its target."""
    found = {}
    for task in tasks_of(session, campaign_id):
        if task.subject is TaskSubject.TEAM:
            own = contribution_select(task).subquery()
            reached = (
                sa.select(own.c.team_id)
                .where(own.c.team_id.is_not(None))
                .group_by(own.c.team_id)
                .having(sa.func.sum(own.c.done) >= task.target)
            )
            found[task.id] = frozenset(session.scalars(reached))
    return found


def progress_of(session: Session, actor: Actor, campaign_id: UUID) -> Progress:
    """How far the actor is in every task of a campaign. Raises NotFound, NotJoined."""
    campaign_for(session, actor, campaign_id)
    joined = participation_of(session, actor, campaign_id)
    tasks = tasks_of(session, campaign_id)
    done = _done_of(session, actor.id, tasks)
    rows = [
        TaskProgress(
            task_id=task.id,
            title=task.title,
            kind=task.kind,
            subject=task.subject,
            measure=task.measure,
            done=done[task.id],
            target=task.target,
            # 9,999 of 10,000 must not read as reached; and more than the whole is not shown.
            ratio=min(done[task.id] * 10_000 // task.target, 10_000) / 10_000,
            completed=done[task.id] >= task.target,
            reward_points=task.reward_points,
        )
        for task in tasks
    ]
    return Progress(
        campaign_id=campaign_id,
        joined_at=joined.joined_at,
        team_id=joined.team_id,
        completed=bool(rows) and all(row.completed for row in rows),
        tasks=rows,
    )


def participation_in(session: Session, actor: Actor, campaign_id: UUID) -> CampaignParticipation:
    """How many joined a campaign in the actor's scope and completed every task, by community, in one statement.

    The actor is a member of staff; the figures are exact and no resident is named. Raises NotFound.
    """
    campaign_for(session, actor, campaign_id)
    tasks = tasks_of(session, campaign_id)
    everything: sa.ColumnElement[bool] = sa.false()
    counted = sa.select(Participation.community_code, Participation.resident_id).where(
        Participation.campaign_id == campaign_id
    )
    joined = counted.subquery()
    source: sa.FromClause = joined
    if tasks:
        done = completed_select(tasks).subquery()
        source = joined.outerjoin(done, done.c.resident_id == joined.c.resident_id)
        everything = done.c.completed == len(tasks)
    rows = session.execute(
        sa.select(joined.c.community_code, Division.name, sa.func.count(), sa.func.count().filter(everything))
        .select_from(source.join(Division, Division.code == joined.c.community_code))
        .group_by(joined.c.community_code, Division.name)
        .order_by(joined.c.community_code)
    )
    communities = [CommunityParticipation(*row) for row in rows]
    return CampaignParticipation(
        campaign_id=campaign_id,
        joined=sum(row.joined for row in communities),
        completed=sum(row.completed for row in communities),
        communities=communities,
    )


def _only(resident_id: UUID) -> Residents:
    return sa.select(sa.literal(resident_id, sa.Uuid))


def _with_mates(task: CampaignTask, among: Residents) -> Residents:
    """These residents and everybody who is in a team with one of them."""
    mate = aliased(Participation)
    mates = (
        sa.select(mate.resident_id)
        .join(
            Participation,
            sa.and_(Participation.campaign_id == mate.campaign_id, Participation.team_id == mate.team_id),
        )
        .where(mate.campaign_id == task.campaign_id, Participation.resident_id.in_(among))
    )
    # A union and not a condition with OR, which would have every participant read.
    return sa.select(sa.union(mates, among).subquery().c[0])


def _reached(
    session: Session, task: CampaignTask, among: Residents, teams: Mapping[UUID, frozenset[UUID]] | None
) -> list[tuple[UUID, UUID | None]]:
    if task.subject is TaskSubject.TEAM and teams is not None:
        members = sa.select(Participation.resident_id, Participation.team_id).where(
            Participation.campaign_id == task.campaign_id,
            Participation.resident_id.in_(among),
            Participation.team_id.is_not(None),
        )
        return [(row.resident_id, row.team_id) for row in session.execute(members) if row.team_id in teams[task.id]]
    rows = done_select(task, among).subquery()
    reached = sa.select(rows.c.resident_id, rows.c.team_id).where(rows.c.done >= task.target)
    return [(row.resident_id, row.team_id) for row in session.execute(reached)]


def _done_of(session: Session, resident_id: UUID, tasks: Sequence[CampaignTask]) -> dict[UUID, int]:
    """What one participant has done of each task, in one statement."""
    if not tasks:
        return {}
    parts = []
    for task in tasks:
        rows = done_select(task, _only(resident_id)).subquery()
        parts.append(sa.select(sa.literal(task.id, sa.Uuid), rows.c.done))
    found = {row[0]: int(row[1]) for row in session.execute(sa.union_all(*parts))}
    return {task.id: found.get(task.id, 0) for task in tasks}


def _source(task: CampaignTask) -> tuple[Any, list[sa.ColumnElement[bool]], sa.ColumnElement[int]]:
    """The table that a task is derived from, which of its rows count, and how they add up for one resident."""
    if task.kind is TaskKind.BEHAVIOUR:
        counted: list[sa.ColumnElement[bool]] = [
            ResidentDay.day.between(task.campaign.starts_on, task.campaign.ends_on),
            ResidentDay.behaviour.in_([Behaviour(name) for name in task.behaviours or ()]),
        ]
        return ResidentDay, counted, sa.func.sum(_MEASURED[task.measure or TargetMeasure.ACTIVITIES])
    if task.kind is TaskKind.QUIZ:
        return QuizAttempt, [QuizAttempt.task_id == task.id], sa.func.max(QuizAttempt.right_answers)
    if task.kind is TaskKind.EVIDENCE:
        confirmed = [TaskEvidence.task_id == task.id, TaskEvidence.state == EvidenceState.CONFIRMED]
        return TaskEvidence, confirmed, sa.func.count(TaskEvidence.id)
    # A volunteer signs in too, but that is no visit.
    wanted = SlotKind.VOLUNTEER if task.kind is TaskKind.VOLUNTEER else SlotKind.VISIT
    slots = sa.select(CheckInSlot.id).where(CheckInSlot.campaign_id == task.campaign_id, CheckInSlot.kind == wanted)
    there = [CheckIn.campaign_id == task.campaign_id, CheckIn.slot_id.in_(slots)]
    amount = sa.func.sum(CheckIn.minutes) if task.kind is TaskKind.VOLUNTEER else sa.func.count(CheckIn.slot_id)
    return CheckIn, there, amount


_MEASURED: dict[TargetMeasure, sa.ColumnElement[int]] = {
    TargetMeasure.ACTIVITIES: ResidentDay.activities.expression,
    TargetMeasure.DISTANCE_M: ResidentDay.distance_m.expression,
    TargetMeasure.WEIGHT_G: ResidentDay.weight_g.expression,
    TargetMeasure.SAVED_CO2E_MG: ResidentDay.saved_co2e_mg.expression,
    TargetMeasure.POINTS: ResidentDay.points.expression,
}
