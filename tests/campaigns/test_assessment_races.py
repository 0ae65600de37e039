"""Two at once around an assessment, on two real connections with the first transaction held open."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa
from assessment_builders import DISTRICT, HOME, MARKS, make_application, make_rubric, png, record_move
from flask import Flask
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.creation import assessment, conflicts, evidence
from campaigns.creation.assessment import MarkEntry, NotUnderReview, SeatTaken
from campaigns.creation.conflicts import AssessorTied
from campaigns.creation.evidence import EvidenceClosed
from campaigns.creation.models import Application, ApplicationEvidence, Assessment, AssessorConflict
from campaigns.creation.steps import ApplicationState, Move
from server.access import Actor, Role
from server.clock import now
from server.database import db, new_id
from server.errors import DomainError, NotFound, PreconditionFailed
from server.files import intake
from server.people.models import Staff
from server.settings import Settings
from wsgi import create_app


@dataclass
class Apart:
    """A database that nobody else touches, and sessions of their own on it."""

    app: Flask
    url: str

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session in the application's role; committed at the end."""
        with self.app.app_context(), Session(db.engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    def wait_for_waiter(self) -> None:
        """Return when a connection waits for another one's lock."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        deadline = time.monotonic() + 10
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not connection.execute(query).fetchone()[0]:  # type: ignore[index]
                assert time.monotonic() < deadline, "nobody came to wait"
                time.sleep(0.01)


@pytest.fixture
def apart(base_settings: Settings, make_database: Callable[[], str]) -> Iterator[Apart]:
    url = make_database()
    app = create_app(replace(base_settings, database_url=url, database_owner_url=url))
    yield Apart(app, url)
    app.extensions["tanpuhui_wechat"].close()
    with app.app_context():
        db.engine.dispose()


def add_staff(session: Session, role: Role, division: str) -> Actor:
    member = Staff(
        id=new_id(), name=new_id().hex, password_hash="unusable", role=role, division=division, created_at=now()
    )
    session.add(member)
    session.flush()
    return Actor(member.id, role, new_id(), division=division)


@dataclass
class Cast:
    application: Application
    district: Actor
    first: Actor
    second: Actor


@pytest.fixture
def cast(apart: Apart) -> Cast:
    """An application under review and two experts, the first assigned and ready to submit."""
    with apart.session() as session:
        application = make_application(session, make_rubric(session))
        district = add_staff(session, Role.DISTRICT, DISTRICT)
        first, second = (add_staff(session, Role.ASSESSOR, DISTRICT) for _ in range(2))
        assessment.assign(session, district, application.id, staff_id=first.id, now=now())
        entries = [MarkEntry(code, Decimal(value)) for code, value in MARKS.items()]
        assessment.save_marks(session, first, application.id, entries, version=1, now=now())
    return Cast(application, district, first, second)


def outcome_of(apart: Apart, work: Callable[[Session], Any]) -> Any:
    """What becomes of `work` on a connection of its own: its value, or the kind of its refusal."""
    try:
        with apart.session() as session:
            return work(session)
    except DomainError as error:
        return type(error)
    except IntegrityError as error:
        return error.orig.diag.constraint_name  # type: ignore[union-attr]


def second_waits(apart: Apart, first: Callable[[Session], Any], second: Callable[[Session], Any]) -> Any:
    """Hold the first open until the second waits for it, then let it commit; what becomes of the second."""
    with ThreadPoolExecutor(1) as pool:
        with apart.session() as session:
            first(session)
            later = pool.submit(outcome_of, apart, second)
            apart.wait_for_waiter()
        return later.result(20)


def submit(cast: Cast) -> Callable[[Session], Any]:
    return lambda session: assessment.submit(session, cast.first, cast.application.id, version=2, now=now()) and "in"


def declare(cast: Cast) -> Callable[[Session], Any]:
    return lambda session: (
        conflicts.declare(session, cast.first, division=HOME, reason="亲属", now=now()) and "declared"
    )


def in_seat(apart: Apart) -> int:
    with apart.session() as session:
        return session.scalar(sa.select(sa.func.count()).where(Assessment.submitted_at.is_not(None))) or 0


def test_a_submission_waits_for_a_tie_that_is_being_declared_and_is_refused(apart: Apart, cast: Cast) -> None:
    refused = second_waits(apart, declare(cast), submit(cast))
    assert refused in {AssessorTied, NotFound, PreconditionFailed}, refused
    assert in_seat(apart) == 0


def test_a_tie_that_is_declared_during_a_submission_comes_after_it(apart: Apart, cast: Cast) -> None:
    assert second_waits(apart, submit(cast), declare(cast)) == "declared"
    assert in_seat(apart) == 1, "it was handed in when no tie was known"


@pytest.mark.parametrize("first", ["tie", "assessment"])
def test_the_table_alone_sees_the_tie_of_the_same_moment(apart: Apart, cast: Cast, first: str) -> None:
    """By SQL, without any rule: the trigger holds the member of staff, and the declaration locks it."""

    def by_sql(session: Session) -> str:
        session.execute(
            sa.insert(Assessment).values(
                application_id=cast.application.id,
                staff_id=cast.second.id,
                seat=2,
                assigned_by=cast.district.id,
                assigned_at=now(),
            )
        )
        return "assigned"

    def tie(session: Session) -> str:
        conflicts.declare(session, cast.second, division=HOME, reason="亲属", now=now())
        return "declared"

    if first == "tie":
        assert second_waits(apart, tie, by_sql) == "assessment_assessor_tied"
    else:
        assert second_waits(apart, by_sql, tie) == "declared"
    with apart.session() as session:
        sitting = session.scalars(sa.select(Assessment.staff_id)).all()
        assert session.scalar(sa.select(sa.func.count()).select_from(AssessorConflict)) == 1
    assert sitting == [cast.first.id], "whichever came first, no tied assessor sits"


def test_two_assignments_at_once_fill_two_seats_or_one_is_told_to_look_again(apart: Apart, cast: Cast) -> None:
    with apart.session() as session:
        third = add_staff(session, Role.ASSESSOR, DISTRICT)

    def assign(person: UUID) -> Callable[[Session], Any]:
        return lambda session: (
            assessment.assign(session, cast.district, cast.application.id, staff_id=person, now=now()) and "seated"
        )

    answer = second_waits(apart, assign(cast.second.id), assign(third.id))
    assert answer in SeatTaken.constraints
    with apart.session() as session:
        assert session.scalars(sa.select(Assessment.seat).order_by(Assessment.seat)).all() == [1, 2]


def test_a_submission_waits_for_the_decision_of_the_same_moment(apart: Apart, cast: Cast) -> None:
    def reject(session: Session) -> None:
        application = session.get_one(Application, cast.application.id, with_for_update=True)
        record_move(session, application, Move.REJECT, at=now())

    assert second_waits(apart, reject, submit(cast)) is NotUnderReview
    assert in_seat(apart) == 0


def test_no_file_slips_into_an_application_while_it_is_submitted(apart: Apart) -> None:
    file = intake.clean(png(), name="a.png")
    with apart.session() as session:
        application = make_application(session, make_rubric(session), ApplicationState.SELF_ASSESSMENT)
        applicant = add_staff(session, Role.COMMUNITY_STAFF, HOME)

    def send(session: Session) -> None:
        held = session.get_one(Application, application.id, with_for_update=True)
        record_move(session, held, Move.SUBMIT, at=now())

    def add(session: Session) -> Any:
        return evidence.add(session, applicant, application.id, "a1", file, now=now()) and "added"

    assert second_waits(apart, send, add) is EvidenceClosed
    with apart.session() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(ApplicationEvidence)) == 0


def test_two_files_at_once_take_two_places(apart: Apart) -> None:
    file = intake.clean(png(), name="a.png")
    with apart.session() as session:
        application = make_application(session, make_rubric(session), ApplicationState.SELF_ASSESSMENT)
        applicant = add_staff(session, Role.COMMUNITY_STAFF, HOME)

    def add(session: Session) -> Any:
        return evidence.add(session, applicant, application.id, "a1", file, now=now()) and "added"

    assert second_waits(apart, add, add) == "added"
    with apart.session() as session:
        assert sorted(session.scalars(sa.select(ApplicationEvidence.position))) == [1, 2]
