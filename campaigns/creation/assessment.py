"""Assessment: two people mark an application, each alone; a third is asked when the two differ.

Independent means: an assessor sees the others' marks when two are in, their own among them; everybody else sees none
until the assessment is complete, because whoever has seen two marks could be asked to give the third. A submitted
assessment is final.

The final mark of two assessments that agree is the mean of their totals; of three it is the median, so that one outlier
decides nothing. A must-meet item counts as failed when most of the assessors found it so; two that disagree about one
have a third.
"""

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from statistics import median
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.creation import live_evidence
from campaigns.creation.applications import application_for
from campaigns.creation.conflicts import declare, require_untied
from campaigns.creation.models import (
    Application,
    Assessment,
    AssessmentMark,
    ItemType,
    LiveFigure,
    Programme,
    Rubric,
    RubricItem,
    SubjectKind,
)
from campaigns.creation.rubrics import RubricContent, check_value, content_of, is_met, points_of
from campaigns.creation.steps import ApplicationState
from server import audit
from server.access import PERMISSIONS, Actor, Permission
from server.errors import Conflict, DomainError, NotFound, PreconditionFailed
from server.notices.notices import tell
from server.paging import Page, decode, page_of
from server.people.models import Staff
from server.people.staff import staff_for

SEATS = 3
REGULAR_SEATS = 2

# From here on the result is public, or the applicant was refused and may know why.
RESULT_TOLD = frozenset(ApplicationState) - {
    ApplicationState.DRAFT,
    ApplicationState.SELF_ASSESSMENT,
    ApplicationState.SUBMITTED,
    ApplicationState.STREET_REVIEW,
    ApplicationState.RETURNED,
    ApplicationState.DISTRICT_REVIEW,
    ApplicationState.CANCELLED,
}


class NotUnderReview(Conflict):
    """Assessors are assigned, mark and submit only while the district reviews the application."""

    code, title_zh, title_en = (
        "not-under-review",
        "申报不在区级评审阶段",
        "The application is not under the district's review",
    )


class AssessorUnsuitable(DomainError):
    """The person is disabled, assesses nothing in their role, or is who assigns."""

    code, status, title_zh, title_en = (
        "assessor-unsuitable",
        422,
        "该人员不能担任评审人员",
        "This person cannot be an assessor here",
    )
    constraints = ("assessment_assigned_by_another_check",)


class AlreadyAssigned(Conflict):
    """The person assesses this application already."""

    code, title_zh, title_en = "already-assigned", "该人员已被指派", "This person is assigned already"
    constraints = ("assessment_pkey",)


class SeatTaken(Conflict):
    """Somebody else assigned an assessor at the same moment."""

    code, title_zh, title_en = "seat-taken", "该评审席位刚被他人指派", "The seat was taken at this moment; look again"
    constraints = ("assessment_application_id_seat_key",)


class ThirdNotWanted(Conflict):
    """A third assessor is asked only when the first two are in and differ."""

    code, title_zh, title_en = (
        "third-not-wanted",
        "两份评审尚未提交或结果一致, 无须第三人评审",
        "A third assessor is asked only when two are in and differ",
    )
    constraints = ("assessment_third_wanted",)


class AssessmentClosed(Conflict):
    """A submitted assessment is final: it is neither changed nor taken back."""

    code, title_zh, title_en = "assessment-closed", "评审已提交, 不能修改", "The assessment is submitted and final"
    constraints = ("assessment_closed",)


class AssessmentIncomplete(Conflict):
    """Items without a mark, or marks that need a comment; `unmarked` and `uncommented` list their codes."""

    code, title_zh, title_en = (
        "assessment-incomplete",
        "评审未完成",
        "Items are without a mark, or a mark against a frozen figure is without a comment",
    )


class MarksSealed(Conflict):
    """Marks are shown to the assessors who are in once two are, and to others when the assessment is complete."""

    code, title_zh, title_en = (
        "marks-sealed",
        "评审结果尚未揭晓",
        "The marks are sealed until the assessors are in",
    )


class ItemUnknown(DomainError):
    """The rubric has no item of this code, or it is named twice."""

    code, status, title_zh, title_en = "item-unknown", 422, "评价条目无效", "No such item in the rubric, or named twice"


class Decision(enum.StrEnum):
    """Where the assessment stands."""

    OPEN = "open"  # fewer than two are in
    THIRD_WANTED = "third-wanted"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the assessments say together; before they are complete there is no score.

    `assessors` is how many are in.
    """

    decision: Decision
    assessors: int
    score: Decimal | None
    maximum: int
    minimum_score: int
    must_meet_failed: tuple[str, ...]  # empty before it is complete
    passed: bool

    @property
    def complete(self) -> bool:
        """Whether two agree, or three are in."""
        return self.decision is Decision.COMPLETE


@dataclass(frozen=True, slots=True)
class MarkEntry:
    """A mark as an assessor gives it: the value as the item's type reads it, and why."""

    item_code: str
    value: Decimal
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One assessor's marks of one application."""

    assessment: Assessment
    marks: Sequence[AssessmentMark]


@dataclass(frozen=True, slots=True)
class Assignment:
    """An application that somebody is to assess."""

    application_id: UUID
    programme_code: str
    programme_title_zh: str
    subject_kind: SubjectKind
    subject_name: str
    state: ApplicationState
    assigned_at: datetime
    submitted_at: datetime | None


@dataclass(frozen=True, slots=True)
class Seat:
    """An assessor of an application, without any mark."""

    seat: int
    staff_id: UUID
    name: str
    assigned_at: datetime
    submitted_at: datetime | None


# The district assigns


def assign(session: Session, actor: Actor, application_id: UUID, *, staff_id: UUID, now: datetime) -> Assessment:
    """Give an assessor the next free seat of an application; the third only when the first two differ.

    Raises NotFound, NotUnderReview, AssessorUnsuitable, AssessorTied, AlreadyAssigned, ThirdNotWanted, SeatTaken.
    """
    application = application_for(session, actor, application_id)
    _hold_under_review(session, application_id)
    member = staff_for(session, actor, staff_id)
    if member.id == actor.id or not member.enabled or Permission.CREATION_ASSESS not in PERMISSIONS[member.role]:
        raise AssessorUnsuitable
    require_untied(session, staff_id, application)
    assigned = _assessments(session, application_id)
    if any(each.staff_id == staff_id for each in assigned):
        raise AlreadyAssigned
    seat = min(set(range(1, SEATS + 1)) - {each.seat for each in assigned}, default=None)
    if seat is None:
        raise ThirdNotWanted
    if seat > REGULAR_SEATS and outcome(session, application_id).decision is not Decision.THIRD_WANTED:
        raise ThirdNotWanted
    added = Assessment(
        application_id=application_id,
        staff_id=staff_id,
        seat=seat,
        assigned_by=actor.id,
        assigned_at=now,
        submitted_at=None,
        total=None,
        must_meet_failed=None,
        comment="",
        version=1,
    )
    session.add(added)
    session.flush()
    audit.record(session, actor, "assessor.assign", str(application_id), now=now, assessor=str(staff_id), seat=seat)
    tell(
        session,
        {staff_id},
        kind="assessment-assigned",
        subject=f"application:{application_id}",
        title_zh="您被指派评审一份创建申报",
        title_en="You are to assess an application",
        now=now,
    )
    return added


def take_off(
    session: Session, actor: Actor, application_id: UUID, staff_id: UUID, *, reason: str, now: datetime
) -> None:
    """Take an assessor off who has not submitted; what they marked so far is gone.

    Raises NotFound, NotUnderReview, AssessmentClosed.
    """
    application_for(session, actor, application_id)
    _hold_under_review(session, application_id)
    _delete_open(session, application_id, staff_id)
    audit.record(
        session, actor, "assessor.take-off", str(application_id), now=now, assessor=str(staff_id), reason=reason.strip()
    )


def list_seats(session: Session, actor: Actor, application_id: UUID) -> Sequence[Seat]:
    """Who assesses an application and who is in, without any mark. Raises NotFound."""
    application_for(session, actor, application_id)
    rows = session.execute(
        sa.select(Assessment.seat, Assessment.staff_id, Staff.name, Assessment.assigned_at, Assessment.submitted_at)
        .join(Staff, Staff.id == Assessment.staff_id)
        .where(Assessment.application_id == application_id)
        .order_by(Assessment.seat)
    )
    return [Seat(*row) for row in rows]


# The assessor marks


def list_assignments(
    session: Session, actor: Actor, *, submitted: bool | None = None, limit: int, cursor: str | None
) -> Page[Assignment]:
    """What the actor is to assess or has assessed, newest application first. Raises BadCursor."""
    wanted = (
        sa.select(
            Assessment.application_id,
            Application.programme_code,
            Programme.title_zh,
            Application.subject_kind,
            Application.subject_name,
            Application.state,
            Assessment.assigned_at,
            Assessment.submitted_at,
        )
        .join(Application, Application.id == Assessment.application_id)
        .join(Programme, Programme.code == Application.programme_code)
        .where(Assessment.staff_id == actor.id)
        .order_by(Assessment.application_id.desc())
        .limit(limit + 1)
    )
    if submitted is not None:
        wanted = wanted.where(Assessment.submitted_at.is_not(None) == submitted)
    if cursor is not None:
        wanted = wanted.where(Assessment.application_id < decode(cursor, tuple[UUID])[0])
    rows = [Assignment(*row) for row in session.execute(wanted)]
    return page_of(rows, limit, lambda row: (row.application_id,))


def own_sheet(session: Session, actor: Actor, application_id: UUID) -> Sheet:
    """The actor's own assessment of an application. Raises NotFound for who does not assess it."""
    return Sheet(_own(session, actor, application_id), _marks(session, application_id, actor.id))


def save_marks(
    session: Session,
    actor: Actor,
    application_id: UUID,
    entries: Sequence[MarkEntry],
    *,
    comment: str | None = None,
    version: int,
    now: datetime,
) -> Sheet:
    """Write some of the actor's own marks, given the version that was read; what is not named stays.

    Raises NotFound, AssessorTied, NotUnderReview, ItemUnknown, AnswerInvalid, AssessmentClosed, PreconditionFailed.
    """
    own = _own(session, actor, application_id)
    _may_go_on(session, actor, application_id)
    if own.submitted_at is not None:
        raise AssessmentClosed
    items = _content(session, application_id).by_code
    codes = Counter(entry.item_code for entry in entries)
    if any(code not in items or count > 1 for code, count in codes.items()):
        raise ItemUnknown
    for entry in entries:
        check_value(items[entry.item_code], entry.value)
    values: dict[str, Any] = {"version": version + 1}
    if comment is not None:
        values["comment"] = comment.strip()
    _advance(session, actor, application_id, version, **values)
    _write_marks(session, actor, application_id, entries, now=now)
    return own_sheet(session, actor, application_id)


def submit(session: Session, actor: Actor, application_id: UUID, *, version: int, now: datetime) -> Sheet:
    """Hand in the actor's own assessment, for good. Who hands in says that they have no tie to the applicant.

    Raises NotFound, AssessorTied, NotUnderReview, AssessmentClosed, AssessmentIncomplete, PreconditionFailed.
    """
    own = _own(session, actor, application_id)
    _may_go_on(session, actor, application_id)
    if own.submitted_at is not None:
        raise AssessmentClosed
    content = _content(session, application_id)
    marks = {mark.item_code: mark for mark in _marks(session, application_id, actor.id)}
    _require_complete(content.items, marks, live_evidence.frozen(session, application_id))
    total = sum((points_of(item, marks[item.code].value) for item in content.items), Decimal(0))
    failed = sorted(item.code for item in content.items if item.must_meet and not is_met(item, marks[item.code].value))
    _advance(
        session,
        actor,
        application_id,
        version,
        version=version + 1,
        submitted_at=now,
        total=total,
        must_meet_failed=failed,
    )
    # The trail says that, and not what: it would be another way to the marks.
    audit.record(session, actor, "assessment.submit", str(application_id), now=now, seat=own.seat)
    _tell_assigner(session, own, application_id, now=now)
    return own_sheet(session, actor, application_id)


def recuse(session: Session, actor: Actor, application_id: UUID, *, reason: str, now: datetime) -> None:
    """Step back from an application because of a tie, which is declared with it and holds for the next one too.

    Raises NotFound, AssessmentClosed.
    """
    own = _own(session, actor, application_id)
    if own.submitted_at is not None:
        raise AssessmentClosed
    application = application_for(session, actor, application_id)
    place = (
        {"organisation_id": application.organisation_id}
        if application.organisation_id is not None
        else {"division": application.division}
    )
    declare(session, actor, **place, reason=reason, now=now)


# What they say together


def outcome(session: Session, application_id: UUID) -> Outcome:
    """What the submitted assessments of an application say together. Raises NotFound."""
    rubric = session.execute(
        sa.select(
            Rubric.difference_max,
            Rubric.minimum_score,
            sa.select(sa.func.coalesce(sa.func.sum(RubricItem.maximum), 0))
            .where(RubricItem.rubric_id == Rubric.id)
            .scalar_subquery(),
        )
        .join(Application, Application.rubric_id == Rubric.id)
        .where(Application.id == application_id)
    ).one_or_none()
    if rubric is None:
        raise NotFound
    difference_max, minimum_score, maximum = rubric
    submitted = [each for each in _assessments(session, application_id) if each.submitted_at is not None]
    decision = _decision(submitted, difference_max)
    if decision is not Decision.COMPLETE:
        return Outcome(decision, len(submitted), None, maximum, minimum_score, (), passed=False)
    score = final_score([each.total or Decimal(0) for each in submitted])
    failed = failed_by_most([each.must_meet_failed or [] for each in submitted])
    return Outcome(
        decision,
        len(submitted),
        score,
        maximum,
        minimum_score,
        failed,
        passed=score >= minimum_score and not failed,
    )


def differ(first: Assessment, second: Assessment, difference_max: Decimal) -> bool:
    """Whether two submitted assessments want a third: too far apart, or of two minds about a must-meet item."""
    apart = abs((first.total or Decimal(0)) - (second.total or Decimal(0)))
    return apart > difference_max or first.must_meet_failed != second.must_meet_failed


def final_score(totals: Sequence[Decimal]) -> Decimal:
    """The mean of two totals, the median of three, in hundredths of a point."""
    # The median of two numbers is their mean.
    return median(totals).quantize(Decimal("0.01"), ROUND_HALF_UP)


def failed_by_most(failed: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The must-meet items that more than half of the assessors found not met."""
    counts = Counter(code for each in failed for code in set(each))
    return tuple(sorted(code for code, count in counts.items() if 2 * count > len(failed)))


def sheets_for(session: Session, actor: Actor, application_id: UUID) -> Sequence[Sheet]:
    """Every submitted assessment: for the assessors who are in when two are, for reviewers when it is complete.

    Raises NotFound for everybody else, MarksSealed.
    """
    application = application_for(session, actor, application_id)
    assigned = _assessments(session, application_id)
    submitted = [each for each in assigned if each.submitted_at is not None]
    mine = [each for each in assigned if each.staff_id == actor.id]
    if not mine and not _reviews(actor, application):
        raise NotFound
    told = (
        len(submitted) >= REGULAR_SEATS and mine[0].submitted_at is not None
        if mine
        else outcome(session, application_id).complete
    )
    if not told:
        raise MarksSealed
    return [Sheet(each, _marks(session, application_id, each.staff_id)) for each in submitted]


def outcome_for(session: Session, actor: Actor, application_id: UUID) -> Outcome:
    """What the assessments say together: reviewers and assessors at any time, everybody else once it is public.

    It holds no figure before it is complete, so there is nothing in it to hide from an assessor.

    Raises NotFound, MarksSealed.
    """
    application = application_for(session, actor, application_id)
    if (
        application.state not in RESULT_TOLD
        and not _reviews(actor, application)
        and not assesses(session, actor, application_id)
    ):
        raise MarksSealed
    return outcome(session, application_id)


def assesses(session: Session, actor: Actor, application_id: UUID) -> bool:
    """Whether the actor is assigned to an application, in or not."""
    return bool(
        session.scalar(
            sa.select(sa.exists().where(Assessment.application_id == application_id, Assessment.staff_id == actor.id))
        )
    )


def _reviews(actor: Actor, application: Application) -> bool:
    """Whether the application lies with the actor to review: its street, its district."""
    return actor.may(Permission.CREATION_REVIEW) and actor.covers(application.division, application.organisation_id)


def _decision(submitted: Sequence[Assessment], difference_max: Decimal) -> Decision:
    if len(submitted) < REGULAR_SEATS:
        return Decision.OPEN
    if len(submitted) == REGULAR_SEATS and differ(submitted[0], submitted[1], difference_max):
        return Decision.THIRD_WANTED
    return Decision.COMPLETE


def _require_complete(
    items: Sequence[RubricItem], marks: Mapping[str, AssessmentMark], figures: Sequence[LiveFigure]
) -> None:
    """Raise AssessmentIncomplete for unmarked items, and for a number unlike its frozen figure without a word why."""
    frozen = {figure.item_code: figure.value for figure in figures if figure.value is not None}
    unmarked = [item.code for item in items if item.code not in marks]
    uncommented = [
        item.code
        for item in items
        if item.type is ItemType.NUMBER
        and item.code in frozen
        and item.code in marks
        and marks[item.code].value != frozen[item.code]
        and not marks[item.code].comment
    ]
    if unmarked or uncommented:
        raise AssessmentIncomplete(unmarked=unmarked, uncommented=uncommented)


def _own(session: Session, actor: Actor, application_id: UUID) -> Assessment:
    found = session.get(Assessment, (application_id, actor.id), populate_existing=True)
    if found is None:
        raise NotFound
    return found


def _may_go_on(session: Session, actor: Actor, application_id: UUID) -> None:
    """Ask again what was asked at the assignment: roles and ties change. Raises NotUnderReview, AssessorTied."""
    _hold_under_review(session, application_id)
    application = session.get(Application, application_id, populate_existing=True)
    if application is None:
        raise NotFound
    require_untied(session, actor.id, application)


def _hold_under_review(session: Session, application_id: UUID) -> None:
    """Hold the application in the district's review until the transaction ends: it is not decided meanwhile."""
    held = session.scalar(
        sa.select(Application.id)
        .where(Application.id == application_id, Application.state == ApplicationState.DISTRICT_REVIEW)
        .with_for_update(read=True)
    )
    if held is None:
        raise NotUnderReview


def _advance(session: Session, actor: Actor, application_id: UUID, expected: int, **values: Any) -> None:
    """Change the actor's open assessment at the version that was read. Raises AssessmentClosed, PreconditionFailed."""
    done = session.scalar(
        sa.update(Assessment)
        .where(
            Assessment.application_id == application_id,
            Assessment.staff_id == actor.id,
            Assessment.version == expected,
            Assessment.submitted_at.is_(None),
        )
        .values(**values)
        .returning(Assessment.staff_id)
        .execution_options(synchronize_session=False)
    )
    if done is None:
        raise PreconditionFailed


def _write_marks(
    session: Session, actor: Actor, application_id: UUID, entries: Sequence[MarkEntry], *, now: datetime
) -> None:
    if not entries:
        return
    wanted = insert(AssessmentMark).values(
        [
            {
                "application_id": application_id,
                "staff_id": actor.id,
                "item_code": entry.item_code,
                "value": entry.value,
                "comment": entry.comment.strip(),
                "marked_at": now,
            }
            for entry in sorted(entries, key=lambda entry: entry.item_code)
        ]
    )
    session.execute(
        wanted.on_conflict_do_update(
            index_elements=["application_id", "staff_id", "item_code"],
            set_={name: wanted.excluded[name] for name in ("value", "comment", "marked_at")},
        )
    )


def _delete_open(session: Session, application_id: UUID, staff_id: UUID) -> None:
    deleted = session.scalar(
        sa.delete(Assessment)
        .where(
            Assessment.application_id == application_id,
            Assessment.staff_id == staff_id,
            Assessment.submitted_at.is_(None),
        )
        .returning(Assessment.staff_id)
        .execution_options(synchronize_session=False)
    )
    if deleted is not None:
        return
    if session.get(Assessment, (application_id, staff_id), populate_existing=True) is None:
        raise NotFound
    raise AssessmentClosed


def _assessments(session: Session, application_id: UUID) -> Sequence[Assessment]:
    return session.scalars(
        sa.select(Assessment)
        .where(Assessment.application_id == application_id)
        .order_by(Assessment.seat)
        .execution_options(populate_existing=True)
    ).all()


def _marks(session: Session, application_id: UUID, staff_id: UUID) -> Sequence[AssessmentMark]:
    return session.scalars(
        sa.select(AssessmentMark)
        .where(AssessmentMark.application_id == application_id, AssessmentMark.staff_id == staff_id)
        .order_by(AssessmentMark.item_code)
        .execution_options(populate_existing=True)
    ).all()


def _content(session: Session, application_id: UUID) -> RubricContent:
    rubric_id = session.scalar(sa.select(Application.rubric_id).where(Application.id == application_id))
    if rubric_id is None:
        raise NotFound
    return content_of(session, rubric_id)


def _tell_assigner(session: Session, own: Assessment, application_id: UUID, *, now: datetime) -> None:
    """Tell who assigned that this one is in, and whether a third is wanted."""
    third = outcome(session, application_id).decision is Decision.THIRD_WANTED
    tell(
        session,
        {own.assigned_by},
        kind="third-assessor-wanted" if third else "assessment-submitted",
        subject=f"application:{application_id}",
        title_zh="两份评审差异较大, 请指派第三名评审人员" if third else "一份评审已提交",
        title_en="Two assessments differ; assign a third assessor" if third else "An assessment is in",
        now=now,
    )
