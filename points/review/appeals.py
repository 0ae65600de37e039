"""Appeals of residents: one for each claim that was refused or taken back, answered by somebody else.

What a cap cut is no refusal: the caps are published, and the same for all. What is held is on its way to a person
already. Of a refused claim it is found out what an upheld appeal would pay, so that a large one takes two people.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import releasing
from points.earning.claims import Reason
from points.earning.models import Activity, Outcome
from points.ledger.models import Transfer
from points.review import cases, editions
from points.review.cases import OwnCase
from points.review.kinds import Decision, Kind
from points.review.models import Appeal, Case, CaseKind, CaseState, Verdict
from server.errors import Conflict, DomainError, NotFound

FORGOTTEN_AT_ONCE_MAX = 10_000

APPEALABLE = (Outcome.REFUSED, Outcome.REVERSED)
# The corrected slip was paid in its place: paying this one as well would pay the same goods twice.
REPLACED = (Reason.WEIGHING_CORRECTED.value,)


class NotAppealable(Conflict):
    """An appeal is about a claim that was refused or taken back; `outcome` says what became of this one."""

    code, title_zh, title_en = (
        "not-appealable",
        "只能对未通过或已撤回的记录提出申诉",
        "Only a record that was refused or taken back can be appealed against",
    )


class AppealedAlready(Conflict):
    """There is one appeal for each claim."""

    code, title_zh, title_en = "appealed-already", "每条记录只能申诉一次", "A record can be appealed against once"
    constraints = ("appeal_pkey",)


class AppealTooLate(Conflict):
    """The time for appeals is over; it counts from when the record was refused or taken back."""

    code, title_zh, title_en = "appeal-too-late", "已超过申诉期限", "The time for an appeal is over"


@dataclass(frozen=True, slots=True)
class OwnAppeal:
    """An appeal as the resident reads it."""

    activity_id: UUID
    text: str
    made_at: datetime
    case: OwnCase


def make(session: Session, resident_id: UUID, activity_id: UUID, *, text: str, now: datetime) -> OwnAppeal:
    """Appeal against what became of one's own activity.

    The activity is locked by a write: a decision about it at this moment is waited for, and judged as it ended.

    Raises NotFound, NotAppealable, AppealedAlready, AppealTooLate.
    """
    activity = session.scalar(
        sa.update(Activity)
        .where(Activity.resident_id == resident_id, Activity.id == activity_id)
        .values(reason=Activity.reason)
        .returning(Activity)
        .execution_options(populate_existing=True)
    )
    if activity is None:
        raise NotFound
    if activity.outcome not in APPEALABLE or activity.reason in REPLACED:
        raise NotAppealable(outcome=activity.outcome.value)
    if session.get(Appeal, (resident_id, activity_id)) is not None:
        raise AppealedAlready
    terms = editions.terms_at(session, now)
    if now > _settled_at(session, activity) + timedelta(days=terms.appeal_days):
        raise AppealTooLate
    case_id = cases.open_case(
        session,
        kind=CaseKind.APPEAL,
        resident_id=resident_id,
        subject_id=activity_id,
        activity_id=activity_id,
        community_code=activity.community_code,
        reason=activity.reason or Outcome.REFUSED.value,
        points=_points_at_stake(session, activity, now=now),
        detail={"outcome": activity.outcome.value},
        now=now,
    )
    session.add(Appeal(resident_id=resident_id, activity_id=activity_id, case_id=case_id, text=text, made_at=now))
    session.flush()
    return own(session, resident_id, activity_id)


def _settled_at(session: Session, activity: Activity) -> datetime:
    """When the record was refused or taken back, as far as it is written down; at the latest of these."""
    reversal = session.scalar(
        sa.select(sa.func.max(Transfer.recorded_at)).where(
            Transfer.resident_id == activity.resident_id, Transfer.reverses_id == activity.id
        )
    )
    decided = session.scalar(
        sa.select(sa.func.max(Case.ended_at)).where(
            Case.resident_id == activity.resident_id, Case.activity_id == activity.id
        )
    )
    return max(instant for instant in (activity.recorded_at, reversal, decided) if instant is not None)


def _points_at_stake(session: Session, activity: Activity, *, now: datetime) -> int:
    """What an upheld appeal would pay: found by paying it and taking the savepoint back, for caps and bounds decide.

    Raises NotAppealable for what could not be paid whoever is right.
    """
    resident_id, activity_id, outcome = activity.resident_id, activity.id, activity.outcome.value
    savepoint = session.begin_nested()
    try:
        points = releasing.overturn(session, resident_id, activity_id, now=now).points
    except DomainError as refusal:
        raise NotAppealable(outcome=outcome) from refusal
    finally:
        savepoint.rollback()
        session.refresh(activity)
    return points


def own(session: Session, resident_id: UUID, activity_id: UUID) -> OwnAppeal:
    """The resident's appeal about one activity and its answer. Raises NotFound."""
    made = session.get(Appeal, (resident_id, activity_id), populate_existing=True)
    if made is None:
        raise NotFound
    case = session.get_one(Case, (resident_id, made.case_id), populate_existing=True)
    return OwnAppeal(activity_id, made.text, made.made_at, cases.own_case(case, []))


def forget_old_texts(session: Session, *, now: datetime) -> int:
    """Forget the words of answered appeals past their keeping, at most FORGOTTEN_AT_ONCE_MAX; how many (PIPL 19)."""
    before = now - timedelta(days=editions.terms_at(session, now).appeal_text_days)
    old = (
        sa.select(Appeal.resident_id, Appeal.activity_id)
        .join(Case, sa.and_(Case.resident_id == Appeal.resident_id, Case.id == Appeal.case_id))
        .where(Appeal.made_at < before, Appeal.text != "", Case.state == CaseState.DECIDED)
        .limit(FORGOTTEN_AT_ONCE_MAX)
    )
    forgotten = session.execute(
        sa.update(Appeal)
        .where(sa.tuple_(Appeal.resident_id, Appeal.activity_id).in_(old))
        .values(text="")
        .execution_options(synchronize_session=False)
    )
    return int(forgotten.rowcount)  # type: ignore[attr-defined]


def _on_decision(session: Session, case: Case, decision: Decision, now: datetime) -> None:
    """Pay what was refused or taken back; a rejected appeal changes nothing."""
    if decision.verdict is Verdict.GRANTED and case.activity_id is not None:
        releasing.overturn(session, case.resident_id, case.activity_id, now=now)


KIND = Kind(
    CaseKind.APPEAL,
    _on_decision,
    told={
        Verdict.GRANTED: ("您的申诉已获支持", "Your appeal was upheld"),
        Verdict.DENIED: ("您的申诉未获支持, 答复见申诉详情", "Your appeal was not upheld; the answer tells why"),
    },
)
