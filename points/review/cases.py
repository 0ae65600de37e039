"""Opening cases, finding those of one's scope, and taking them in hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from points.earning.claims import REASON_TEXTS, Reason
from points.earning.models import Activity
from points.review import editions
from points.review.models import STANDING, Appeal, Case, CaseActivity, CaseDecision, CaseKind, CaseState, Verdict
from server import audit
from server.access import Actor
from server.database import new_id
from server.errors import Conflict, NotFound
from server.paging import Page, decode, page_of
from server.people import staff_links

# Whoever took a case and left it does not keep it from the others.
ASSIGNED_FOR = timedelta(hours=24)
STREET_DIGITS = 9

_REASONS = frozenset(Reason)


class CaseEnded(Conflict):
    """The case was decided, or what it was about was settled otherwise."""

    code, title_zh, title_en = "case-ended", "该案件已办结", "This case has ended"
    constraints = ("review_case_held",)


class CaseAssignedToAnother(Conflict):
    """A colleague has the case in hand, for ASSIGNED_FOR at most."""

    code, title_zh, title_en = (
        "case-assigned-to-another",
        "该案件正由其他工作人员办理",
        "A colleague has this case in hand",
    )


def open_case(  # noqa: PLR0913 -- a case is told whole
    session: Session,
    *,
    kind: CaseKind,
    resident_id: UUID,
    subject_id: UUID,
    activity_id: UUID | None,
    community_code: str,
    reason: str,
    points: int,
    detail: dict[str, Any],
    now: datetime,
) -> UUID:
    """Open a case; its id, or that of the one that stands for the same resident, kind, subject and reason.

    `points` are what is at stake: above the limit of the edition in force it takes two people. `detail` is JSON of at
    most 8 KiB for whoever decides, without anybody's name.
    """
    terms = editions.terms_at(session, now)
    values = {"resident_id": resident_id, "kind": kind, "subject_id": subject_id, "reason": reason}
    opened = session.scalar(
        insert(Case)
        .values(
            **values,
            id=new_id(),
            activity_id=activity_id,
            community_code=community_code,
            points=points,
            two_people=points > terms.two_people_points,
            detail=detail,
            opened_at=now,
        )
        .on_conflict_do_nothing(index_elements=list(values), index_where=sa.text("state IN ('open', 'proposed')"))
        .returning(Case.id)
    )
    if opened is None:
        opened = session.scalars(
            sa.select(Case.id).filter_by(**values).where(Case.state.in_(STANDING)).limit(1)
        ).one_or_none()
    if opened is None:  # it ended between the two statements
        raise CaseEnded
    return opened


def raise_stake(session: Session, resident_id: UUID, case_id: UUID, points: int, *, now: datetime) -> None:
    """Say that a standing case is about no less than so many points, which above the limit takes two people.

    For a kind whose decision may pay more than was asked at first, such as by a corrected weighing slip. A case that
    has ended stays as it is.
    """
    limit_points = editions.terms_at(session, now).two_people_points
    session.execute(
        sa.update(Case)
        .where(Case.resident_id == resident_id, Case.id == case_id, Case.state.in_(STANDING))
        .values(
            points=sa.func.greatest(Case.points, points),
            two_people=sa.or_(Case.two_people, sa.literal(points > limit_points)),
        )
        .execution_options(synchronize_session=False)
    )


@dataclass(frozen=True, slots=True)
class CaseFilter:
    """What of the queue is asked for; None is everything. `within` is a division's code, `assigned_to` a person."""

    state: CaseState | None = None  # None: what stands
    kind: CaseKind | None = None
    reason: str | None = None
    within: str | None = None
    resident_id: UUID | None = None
    points_min: int | None = None
    points_max: int | None = None
    older_than_days: int | None = None
    assigned_to: UUID | None = None
    unassigned: bool = False


@dataclass(frozen=True, slots=True)
class SeenCase:
    """A case with its reason in words and the day by which it should be answered."""

    case: Case
    reason_zh: str | None
    reason_en: str | None
    due_at: datetime

    def __getattr__(self, name: str) -> Any:
        return getattr(self.case, name)


@dataclass(frozen=True, slots=True)
class WholeCase(SeenCase):
    """A case with all that whoever decides about it reads."""

    activities: Sequence[Activity]
    decisions: Sequence[CaseDecision]
    appeal_text: str | None


def seen(session: Session, case: Case, *, now: datetime) -> SeenCase:
    """The case as staff see it."""
    target = timedelta(days=editions.terms_at(session, now).target_days)
    return SeenCase(case, *texts_of(case.reason), case.opened_at + target)


def texts_of(reason: str) -> tuple[str | None, str | None]:
    """A reason in Chinese and English; a kind of case can have reasons of its own, which speak for themselves."""
    return REASON_TEXTS[Reason(reason)] if reason in _REASONS else (None, None)


def queue(
    session: Session, actor: Actor, wanted: CaseFilter, *, limit: int, cursor: str | None, now: datetime
) -> Page[dict[str, Any]]:
    """The cases of the actor's scope that fit, the oldest first, each as the values of a `SeenCase`.

    Those about the actor's own household are left out. Plain values, because a page of 200 is made and written out from
    them in a third of the time.

    Raises NotFound for a place outside the scope, BadCursor.
    """
    scope = scope_of(actor, wanted.within)
    conditions = (in_scope(scope), *_fitting(wanted, now), not_ones_own(session, actor, now=now))
    found = sa.select(*Case.__table__.columns).where(*conditions).order_by(Case.id)
    if cursor is not None:
        found = found.where(Case.id > decode(cursor, tuple[UUID])[0])
    target = timedelta(days=editions.terms_at(session, now).target_days)
    rows = []
    for row in session.execute(found.limit(limit + 1)).mappings():
        reason_zh, reason_en = texts_of(row["reason"])
        rows.append({**row, "reason_zh": reason_zh, "reason_en": reason_en, "due_at": row["opened_at"] + target})
    return page_of(rows, limit, lambda row: (row["id"],))


def scope_of(actor: Actor, within: str | None) -> str:
    """The division that is asked about: one in the actor's scope, or all of it. Raises NotFound."""
    if within is None:
        return actor.division or ""
    actor.require_cover(within)
    return within


def in_scope(division: str) -> sa.ColumnElement[bool]:
    """Whether a case lies in a division, in the words of the queue's indexes."""
    if len(division) > STREET_DIGITS:
        return Case.community_code == division
    if len(division) == STREET_DIGITS:
        return sa.func.left(Case.community_code, sa.literal_column(str(STREET_DIGITS))) == division
    return Case.community_code.startswith(division, autoescape=True)


def not_ones_own(session: Session, actor: Actor, *, now: datetime) -> sa.ColumnElement[bool]:
    """Whether a case is about nobody of the actor's own household: who may not decide it does not read it either."""
    return sa.not_(staff_links.own_household(session, actor.id, Case.resident_id, now=now))


# Written out and not bound: the planner takes a partial index only when it sees its condition.
_STANDS = sa.text("review_case.state IN ('open', 'proposed')")


def _fitting(wanted: CaseFilter, now: datetime) -> list[Any]:
    conditions: list[Any] = [_STANDS if wanted.state is None else Case.state == wanted.state]
    if wanted.kind is not None:
        conditions.append(Case.kind == wanted.kind)
    if wanted.reason is not None:
        conditions.append(Case.reason == wanted.reason)
    if wanted.resident_id is not None:
        conditions.append(Case.resident_id == wanted.resident_id)
    if wanted.points_min is not None:
        conditions.append(Case.points >= wanted.points_min)
    if wanted.points_max is not None:
        conditions.append(Case.points <= wanted.points_max)
    if wanted.older_than_days is not None:
        conditions.append(Case.opened_at < now - timedelta(days=wanted.older_than_days))
    if wanted.assigned_to is not None:
        conditions.append(Case.assigned_to == wanted.assigned_to)
    if wanted.unassigned:
        conditions.append(sa.or_(Case.assigned_to.is_(None), Case.assigned_at < now - ASSIGNED_FOR))
    return conditions


def case_for(session: Session, actor: Actor, case_id: UUID) -> Case:
    """A case in the actor's scope, as it is now. Raises NotFound."""
    found = session.scalar(sa.select(Case).where(Case.id == case_id).execution_options(populate_existing=True))
    if found is None:
        raise NotFound
    actor.require_cover(found.community_code)
    return found


def _case_of_others(session: Session, actor: Actor, case_id: UUID, *, now: datetime) -> Case:
    """A case in the actor's scope that is not about their own household. Raises NotFound."""
    found = case_for(session, actor, case_id)
    if staff_links.is_own_household(session, actor.id, found.resident_id, now=now):
        raise NotFound
    return found


def read(session: Session, actor: Actor, case_id: UUID, *, now: datetime) -> WholeCase:
    """One case of the actor's scope with its activities, what was decided so far, and an appeal's words.

    Raises NotFound, for a case about the actor's own household too.
    """
    case = _case_of_others(session, actor, case_id, now=now)
    decisions = session.scalars(
        sa.select(CaseDecision)
        .where(CaseDecision.resident_id == case.resident_id, CaseDecision.case_id == case.id)
        .order_by(CaseDecision.number)
    ).all()
    appeal = session.scalar(
        sa.select(Appeal.text).where(Appeal.resident_id == case.resident_id, Appeal.case_id == case.id)
    )
    records = session.scalars(
        sa.select(Activity)
        .where(Activity.resident_id == case.resident_id, Activity.id.in_(activities_of(session, case)))
        .order_by(Activity.id)
    ).all()
    base = seen(session, case, now=now)
    return WholeCase(case, base.reason_zh, base.reason_en, base.due_at, records, decisions, appeal)


def activities_of(session: Session, case: Case) -> list[UUID]:
    """The activities that a case is about, in the order of their ids."""
    if case.activity_id is not None:
        return [case.activity_id]
    listed = sa.select(CaseActivity.activity_id).where(
        CaseActivity.resident_id == case.resident_id, CaseActivity.case_id == case.id
    )
    return list(session.scalars(listed.order_by(CaseActivity.activity_id)))


def take(session: Session, actor: Actor, case_id: UUID, *, now: datetime) -> SeenCase:
    """Take a case in hand, for ASSIGNED_FOR. Raises NotFound, CaseEnded, CaseAssignedToAnother."""
    case = case_for(session, actor, case_id)
    free = sa.or_(Case.assigned_to.is_(None), Case.assigned_to == actor.id, Case.assigned_at < now - ASSIGNED_FOR)
    return _assign(session, actor, case, free, assigned_to=actor.id, now=now)


def give_back(session: Session, actor: Actor, case_id: UUID, *, now: datetime) -> SeenCase:
    """Give a case back that the actor has in hand.

    Raises NotFound, for a case about the actor's own household too, CaseEnded, CaseAssignedToAnother.
    """
    case = _case_of_others(session, actor, case_id, now=now)
    own = sa.or_(Case.assigned_to.is_(None), Case.assigned_to == actor.id)
    return _assign(session, actor, case, own, assigned_to=None, now=now)


def _assign(
    session: Session,
    actor: Actor,
    case: Case,
    condition: sa.ColumnElement[bool],
    *,
    assigned_to: UUID | None,
    now: datetime,
) -> SeenCase:
    assigned = session.scalar(
        sa.update(Case)
        .where(Case.resident_id == case.resident_id, Case.id == case.id, Case.state.in_(STANDING), condition)
        .values(assigned_to=assigned_to, assigned_at=None if assigned_to is None else now)
        .returning(Case)
        .execution_options(populate_existing=True)
    )
    if assigned is None:
        raise CaseEnded if case_for(session, actor, case.id).state not in STANDING else CaseAssignedToAnother
    act = "review.take" if assigned_to else "review.give-back"
    audit.record(session, actor, act, f"case:{case.id}", now=now)
    return seen(session, assigned, now=now)


@dataclass(frozen=True, slots=True)
class OwnCase:
    """A case as the resident reads it who it is about: why, what came of it, and the words of whoever decided."""

    id: UUID
    kind: CaseKind
    reason: str
    reason_zh: str | None
    reason_en: str | None
    state: CaseState
    opened_at: datetime
    ended_at: datetime | None
    verdict: Verdict | None
    answer: str | None
    activity_ids: Sequence[UUID]


def own_cases(session: Session, resident_id: UUID, *, limit: int, cursor: str | None) -> Page[OwnCase]:
    """The resident's own cases, the latest first. Who decided is not told. Raises BadCursor."""
    wanted = sa.select(Case).where(Case.resident_id == resident_id).order_by(Case.id.desc()).limit(limit + 1)
    if cursor is not None:
        wanted = wanted.where(Case.id < decode(cursor, tuple[UUID])[0])
    found = session.scalars(wanted).all()
    listed: dict[UUID, list[UUID]] = {}
    for case_id, activity_id in session.execute(
        sa.select(CaseActivity.case_id, CaseActivity.activity_id)
        .where(CaseActivity.resident_id == resident_id, CaseActivity.case_id.in_([case.id for case in found]))
        .order_by(CaseActivity.activity_id)
    ):
        listed.setdefault(case_id, []).append(activity_id)
    return page_of([own_case(case, listed.get(case.id, [])) for case in found], limit, lambda row: (row.id,))


def own_case(case: Case, listed: Sequence[UUID]) -> OwnCase:
    """The case as its resident reads it. A first person's word is no decision yet, so it shows as open."""
    shown = CaseState.OPEN if case.state is CaseState.PROPOSED else case.state
    return OwnCase(
        case.id,
        case.kind,
        case.reason,
        *texts_of(case.reason),
        shown,
        case.opened_at,
        case.ended_at,
        case.verdict,
        case.answer,
        listed if case.activity_id is None else [case.activity_id],
    )
