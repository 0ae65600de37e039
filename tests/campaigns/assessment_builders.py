"""A rubric, applications in any state, and people who assess them, for the tests of evidence, assessment and visits."""

import io
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from PIL import Image
from sqlalchemy.orm import Session

from campaigns.creation.models import (
    Application,
    ApplicationMove,
    Assessment,
    AssessmentMark,
    ItemType,
    LiveMeasure,
    Programme,
    Rubric,
    RubricArea,
    RubricItem,
    RubricState,
    SubjectKind,
)
from campaigns.creation.steps import MOVES, ApplicationState, Move
from server.clock import business_day, now
from server.database import new_id
from server.places.models import Confidence, Organisation, OrganisationKind

HOME, NEXT_DOOR, OTHER_STREET = "120104001001", "120104001003", "120104002001"
STREET, DISTRICT = "120104001", "120104"
ASSESSORS_STREET = "120104003"

# Maximum 100, minimum 60; a difference of up to 10 points is no difference.
ITEMS: tuple[dict[str, Any], ...] = (
    {"code": "a1", "type": ItemType.YES_NO, "maximum": 20, "must_meet": True, "evidence_required": True},
    {"code": "a2", "type": ItemType.YES_NO, "maximum": 20, "must_meet": True, "evidence_required": False},
    {"code": "b1", "type": ItemType.SCORE, "maximum": 40, "must_meet": False, "evidence_required": True},
    {
        "code": "b2",
        "type": ItemType.NUMBER,
        "maximum": 20,
        "must_meet": False,
        "evidence_required": False,
        "threshold": Decimal(50),
        "unit": "%",
        "live_measure": LiveMeasure.PARTICIPATION_RATE,
    },
)
MARKS = {"a1": 1, "a2": 1, "b1": 30, "b2": 60}  # 90 points


def make_rubric(
    session: Session,
    *,
    kind: SubjectKind = SubjectKind.COMMUNITY,
    items: Sequence[dict[str, Any]] = ITEMS,
    code: str = "try",
) -> Rubric:
    """A programme and its rubric in force."""
    if session.get(Programme, code) is None:
        session.add(
            Programme(
                code=code,
                position=1,
                title_zh="试验创建",
                title_en="A trial",
                subject_kind=kind,
                organisation_kind=OrganisationKind.SCHOOL if kind is SubjectKind.ORGANISATION else None,
                number_prefix="T" + code[:1].upper() + kind.value[:1].upper(),
                document="测试",
                confidence=Confidence.VERIFIED,
            )
        )
        session.flush()
    rubric = Rubric(
        id=new_id(),
        programme_code=code,
        year=business_day(now()).year,
        revision=1,
        title_zh="试验标准",
        state=RubricState.DRAFT,
        minimum_score=60,
        difference_max=Decimal(10),
        source="测试",
        confidence=Confidence.VERIFIED,
        created_at=now(),
    )
    session.add(rubric)
    session.flush()
    session.add(RubricArea(rubric_id=rubric.id, code="a", position=1, title_zh="一"))
    session.flush()
    session.add_all(
        RubricItem(rubric_id=rubric.id, area_code="a", position=position, text_zh=f"条目{item['code']}", **item)
        for position, item in enumerate(items, 1)
    )
    session.flush()
    rubric.state, rubric.in_force_at = RubricState.IN_FORCE, now()
    session.commit()
    return rubric


def make_school(session: Session, *, community: str = HOME, name: str | None = None) -> UUID:
    """A school in a community."""
    school = Organisation(
        id=new_id(),
        kind=OrganisationKind.SCHOOL,
        name=name or f"小学{new_id().hex[-6:]}",
        community_code=community,
        valid_from=business_day(now()),
    )
    session.add(school)
    session.commit()
    return school.id


def make_application(
    session: Session,
    rubric: Rubric,
    state: ApplicationState = ApplicationState.DISTRICT_REVIEW,
    *,
    community: str = HOME,
    organisation: UUID | None = None,
    resident: UUID | None = None,
    created_by: UUID | None = None,
) -> Application:
    """An application of a community, of an organisation or of a resident's household, moved along to `state`."""
    kind = SubjectKind.ORGANISATION if organisation else SubjectKind.HOUSEHOLD if resident else SubjectKind.COMMUNITY
    application = Application(
        id=new_id(),
        programme_code=rubric.programme_code,
        rubric_id=rubric.id,
        year=rubric.year,
        subject_kind=kind,
        division=community,
        organisation_id=organisation,
        resident_id=resident,
        subject_name="试验对象",
        state=ApplicationState.DRAFT,
        moves=0,
        step_since=now(),
        created_by=created_by or new_id(),
        created_at=now(),
    )
    session.add(application)
    session.flush()
    move_to(session, application, state)
    return application


def move_to(session: Session, application: Application, state: ApplicationState, *, by: UUID | None = None) -> None:
    """Record the shortest way of moves to a state, without asking for what they want; the tables' guards stay."""
    for step in _way(application.state, state):
        record_move(session, application, step, at=now(), by=by)
    session.commit()


def record_move(
    session: Session, application: Application, step: Move, *, at: datetime, by: UUID | None = None
) -> None:
    """Write one move and the state after it."""
    after = MOVES[application.state, step].after
    application_move = ApplicationMove(
        application_id=application.id,
        position=application.moves + 1,
        move=step,
        from_state=application.state,
        to_state=after,
        moved_by=by,
        moved_at=at,
    )
    session.add(application_move)
    session.flush()
    application.state = after
    application.moves += 1
    application.version += 1
    if step is Move.SUBMIT:
        application.submitted_at = at
    session.flush()


def _way(start: ApplicationState, goal: ApplicationState) -> list[Move]:
    waiting: deque[tuple[ApplicationState, list[Move]]] = deque([(start, [])])
    seen = {start}
    while waiting:
        state, way = waiting.popleft()
        if state is goal:
            return way
        for (before, step), row in MOVES.items():
            if before is state and row.after not in seen:
                seen.add(row.after)
                waiting.append((row.after, [*way, step]))
    raise AssertionError(f"no way from {start} to {goal}")


def seat(
    session: Session, application: Application, staff_id: UUID, *, seat_number: int = 1, assigned_by: UUID
) -> None:
    """Put somebody into a seat by SQL, past every rule but the table's own."""
    _sit(session, application, staff_id, seat_number, assigned_by)


def _sit(session: Session, application: Application, staff_id: UUID, seat_number: int, assigned_by: UUID) -> Assessment:
    made = Assessment(
        application_id=application.id,
        staff_id=staff_id,
        seat=seat_number,
        assigned_by=assigned_by,
        assigned_at=now(),
    )
    session.add(made)
    session.flush()
    return made


def submitted(
    session: Session,
    application: Application,
    staff_id: UUID,
    *,
    seat: int,
    total: float = 90,
    failed: Sequence[str] = (),
    marks: dict[str, float] | None = None,
    assigned_by: UUID,
) -> Assessment:
    """An assessment that is in, written by SQL."""
    made = _sit(session, application, staff_id, seat, assigned_by)
    session.add_all(
        AssessmentMark(
            application_id=application.id, staff_id=staff_id, item_code=code, value=Decimal(str(value)), marked_at=now()
        )
        for code, value in (marks or MARKS).items()
    )
    session.flush()
    made.total, made.must_meet_failed, made.submitted_at = Decimal(str(total)), sorted(failed), now()
    session.commit()
    return made


def as_owner(session: Session, statement: str) -> None:
    """Run a statement as the owner of the schema, in a savepoint that takes the role back."""
    session.execute(sa.text("SET ROLE NONE"))
    session.execute(sa.text(statement))


def png(colour: str = "green", *, comment: str = "") -> bytes:
    """A small picture, with EXIF text inside."""
    exif = Image.Exif()
    exif[0x010E] = comment or "private description"
    written = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(written, "PNG", exif=exif)
    return written.getvalue()
