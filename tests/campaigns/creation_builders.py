"""Applications in any state, made by the moves themselves; only what other rooms decide is written directly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.creation import applications, naming, notice, process, programmes, rubrics
from campaigns.creation.applications import Answer
from campaigns.creation.models import Application, Assessment, ItemType, Objection, Rubric, SiteVisit
from campaigns.creation.rubric_entries import (
    AreaEntry,
    ItemEntry,
    PreconditionEntry,
    RubricEntry,
    read_programmes,
    read_rubrics,
)
from campaigns.creation.steps import ApplicationState, Move
from server.access import Actor, Role
from server.clock import SHANGHAI
from server.database import new_id
from server.people.models import Staff
from server.places.models import Confidence
from server.settings import PLACES_DATA

NANKAI = PLACES_DATA / "nankai"
COMMUNITY, STREET, DISTRICT = "120104001001", "120104001", "120104"
START = datetime(2026, 11, 18, 12, 0, tzinfo=SHANGHAI)
DATA_KEY = bytes(range(32))


def small_rubric(**changes: Any) -> RubricEntry:
    """Three items of the three types, 20 points, 12 to pass; two totals may lie 2 apart."""
    content: dict[str, Any] = {
        "title_zh": "测试标准",
        "minimum_score": 12,
        "difference_max": Decimal(2),
        "source": "测试",
        "confidence": Confidence.RECALLED,
        "areas": [
            AreaEntry(
                code="1",
                title_zh="第一部分",
                items=[
                    ItemEntry(code="1.1", text_zh="是否达标", type=ItemType.YES_NO, maximum=5, must_meet=True),
                    ItemEntry(code="1.2", text_zh="得分", type=ItemType.SCORE, maximum=10),
                    ItemEntry(
                        code="1.3", text_zh="数量", type=ItemType.NUMBER, maximum=5, threshold=Decimal(30), unit="%"
                    ),
                ],
            )
        ],
        "preconditions": [PreconditionEntry(code="p1", text_zh="前置条件")],
    }
    return RubricEntry(**{**content, **changes})


def load_data(session: Session, now: datetime = START) -> programmes.Loaded:
    """The district's programmes and rubrics, as `flask creation load` brings them."""
    return programmes.load(session, read_programmes(NANKAI), read_rubrics(NANKAI), now=now)


def put_small_rubric_in_force(
    session: Session, *, programme: str = "green-community", year: int = 2026, now: datetime = START, **changes: Any
) -> Rubric:
    """The small rubric in the place of the year's."""
    draft = rubrics.create_draft(
        session, None, programme_code=programme, year=year, entry=small_rubric(**changes), now=now
    )
    return rubrics.put_in_force(session, None, draft.rubric.id, version=draft.rubric.version, now=now).rubric


def actor_of(staff_id: UUID, role: Role, *, division: str | None = None, organisation: UUID | None = None) -> Actor:
    return Actor(id=staff_id, role=role, session_id=new_id(), division=division, organisation_id=organisation)


def new_staff(session: Session, role: Role, division: str) -> UUID:
    """A member of staff, without a commit."""
    id = new_id()
    member = Staff(
        id=id, name=f"staff-{id.hex[-12:]}", password_hash="unusable", role=role, division=division, created_at=START
    )
    session.add(member)
    session.flush()
    return id


@dataclass
class Case:
    """One community's application and the people around it; `at` is the time of the next deed."""

    session: Session
    applicant: Actor
    street: Actor
    district: Actor
    application: Application
    at: datetime = START

    def move(self, actor: Actor, step: Move, **arguments: Any) -> Application:
        self.application = process.move(self.session, actor, self.application.id, step, **arguments, now=self.at)
        return self.application

    def later(self, days: int) -> None:
        self.at += timedelta(days=days)

    def fill_in(self) -> None:
        """The self-assessment and the declaration."""
        values = {"1.1": Decimal(1), "1.2": Decimal(8), "1.3": Decimal(45)}
        answers = [Answer(code, value) for code, value in values.items()]
        id = self.application.id
        found = applications.answer(
            self.session, self.applicant, id, answers, version=self.application.version, now=self.at
        )
        self.application = applications.declare(
            self.session, self.applicant, id, ["p1"], version=found.version, now=self.at
        )

    def confirm(self) -> None:
        applications.confirm(self.session, self.street, self.application.id, ["p1"], now=self.at)

    def assess(self, *totals: float, failed: Sequence[Sequence[str]] = ()) -> None:
        """Submitted assessments of new assessors, in the next seats, as the assessment's own rules would write them."""
        taken = self.session.scalar(
            sa.select(sa.func.count()).select_from(Assessment).where(Assessment.application_id == self.application.id)
        )
        for place, total in enumerate(totals):
            self.session.add(
                Assessment(
                    application_id=self.application.id,
                    staff_id=new_staff(self.session, Role.ASSESSOR, DISTRICT),
                    seat=(taken or 0) + place + 1,
                    assigned_by=self.district.id,
                    assigned_at=self.at,
                    submitted_at=self.at,
                    total=Decimal(str(total)),
                    must_meet_failed=list(failed[place]) if place < len(failed) else [],
                )
            )
            self.session.flush()

    def visit(self) -> None:
        self.session.add(
            SiteVisit(
                application_id=self.application.id,
                id=new_id(),
                visited_on=self.at.date(),
                people=["张三", "李四"],
                findings="现场情况属实",
                recorded_by=self.district.id,
                recorded_at=self.at,
            )
        )
        self.session.flush()

    def object(self, text: str = "情况不实, 请核查") -> Objection:
        received = notice.make_objection(
            self.session, self.application.id, text=text, contact="13800000000", data_key=DATA_KEY, now=self.at
        )
        return received.objection

    def answer(self, objection: Objection, *, upheld: bool = False) -> None:
        notice.answer(self.session, self.district, objection.id, text="已核实", upheld=upheld, now=self.at)

    def record_findings(self) -> None:
        naming.record_findings(
            self.session,
            self.street,
            self.application.id,
            visited_on=self.at.date(),
            people=["张三", "李四"],
            findings="现场复查",
            now=self.at,
        )

    def to(self, state: ApplicationState) -> "Case":
        """Go the plain way to a state: nobody objects, nothing is returned unless the state is that."""
        for wanted in WAYS[state]:
            _ADVANCE[wanted](self)
            self.at += timedelta(hours=1)
        assert self.application.state is state
        return self


def case_of(session: Session, *, programme: str = "green-community") -> Case:
    """A community's draft under the small rubric, or whichever is in force."""
    applicant, street, district = (
        actor_of(new_staff(session, role, division), role, division=division)
        for role, division in (
            (Role.COMMUNITY_STAFF, COMMUNITY),
            (Role.STREET, STREET),
            (Role.DISTRICT, DISTRICT),
        )
    )
    draft = applications.create(session, applicant, programme_code=programme, now=START)
    return Case(session, applicant, street, district, draft)


def _draft(case: Case) -> None:
    pass


def _self_assessment(case: Case) -> None:
    case.move(case.applicant, Move.BEGIN_SELF_ASSESSMENT)


def _submitted(case: Case) -> None:
    case.fill_in()
    case.move(case.applicant, Move.SUBMIT)


def _street_review(case: Case) -> None:
    case.move(case.street, Move.TAKE_UP)


def _returned(case: Case) -> None:
    case.move(case.street, Move.RETURN, reason="请补充")


def _district_review(case: Case) -> None:
    case.confirm()
    case.move(case.street, Move.FORWARD)


def _notice(case: Case) -> None:
    case.assess(18, 17)
    case.visit()
    case.move(case.district, Move.PUBLISH_NOTICE)


def _objections(case: Case) -> None:
    case.later(8)
    case.move(case.district, Move.END_NOTICE)


def _named(case: Case) -> None:
    case.move(case.district, Move.NAME)


def _recheck(case: Case) -> None:
    case.later(300)
    case.move(case.district, Move.BEGIN_RECHECK)


def _grace(case: Case) -> None:
    case.record_findings()
    case.move(
        case.district, Move.GIVE_GRACE, reason="垃圾分类不达标", grace_until=(case.at + timedelta(days=30)).date()
    )


def _withdrawn(case: Case) -> None:
    case.later(31)
    case.move(case.district, Move.WITHDRAW, reason="逾期未整改")


def _rejected(case: Case) -> None:
    case.move(case.district, Move.REJECT, reason="不符合要求")


def _cancelled(case: Case) -> None:
    case.move(case.applicant, Move.CANCEL)


S = ApplicationState
_ADVANCE: dict[ApplicationState, Callable[[Case], None]] = {
    S.DRAFT: _draft,
    S.SELF_ASSESSMENT: _self_assessment,
    S.SUBMITTED: _submitted,
    S.STREET_REVIEW: _street_review,
    S.RETURNED: _returned,
    S.DISTRICT_REVIEW: _district_review,
    S.NOTICE: _notice,
    S.OBJECTIONS: _objections,
    S.NAMED: _named,
    S.RECHECK: _recheck,
    S.GRACE: _grace,
    S.WITHDRAWN: _withdrawn,
    S.REJECTED: _rejected,
    S.CANCELLED: _cancelled,
}
_MAIN = [
    S.SELF_ASSESSMENT,
    S.SUBMITTED,
    S.STREET_REVIEW,
    S.DISTRICT_REVIEW,
    S.NOTICE,
    S.OBJECTIONS,
    S.NAMED,
    S.RECHECK,
    S.GRACE,
    S.WITHDRAWN,
]
WAYS: dict[ApplicationState, list[ApplicationState]] = {
    S.DRAFT: [],
    **{state: _MAIN[: place + 1] for place, state in enumerate(_MAIN)},
    S.RETURNED: [*_MAIN[:3], S.RETURNED],
    S.REJECTED: [*_MAIN[:4], S.REJECTED],
    S.CANCELLED: [S.CANCELLED],
}
