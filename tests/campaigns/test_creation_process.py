"""The way of an application: one table of moves, who makes which, what has to be so first, no other way to a name."""

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from creation_builders import (
    COMMUNITY,
    DATA_KEY,
    DISTRICT,
    START,
    STREET,
    Case,
    actor_of,
    case_of,
    load_data,
    put_small_rubric_in_force,
)
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.creation import applications, jobs, notice, overdue, process
from campaigns.creation.applications import (
    Answer,
    ApplicationClosed,
    ApplicationExists,
    HomeUnknown,
    PreconditionUnknown,
    SubjectUnsuitable,
)
from campaigns.creation.models import (
    Application,
    ApplicationMove,
    Assessment,
    ItemType,
    LiveFigure,
    Naming,
    Objection,
    PublicNotice,
)
from campaigns.creation.process import GraceInvalid, MoveRefused, StepNotReady
from campaigns.creation.rubric_entries import AreaEntry, ItemEntry
from campaigns.creation.rubrics import AnswerInvalid, ProgrammeTakesNone
from campaigns.creation.steps import MOVES, ApplicationState, Guard, Move, Party
from server.access import Actor, Permission, Role
from server.audit import AuditEntry
from server.clock import business_day
from server.database import new_id, psycopg_url
from server.errors import DomainError, Forbidden, NotFound, PreconditionFailed, ReasonRequired
from server.notices.models import Notice
from server.people.models import Staff
from server.places.models import Organisation, OrganisationKind

Headers = dict[str, str]
SignIn = Callable[..., Headers]
MakeStaff = Callable[..., UUID]
S, M = ApplicationState, Move


@pytest.fixture
def case(session: Session, clock: time_machine.Traveller) -> Case:
    """A draft of a community under the small rubric."""
    load_data(session)
    put_small_rubric_in_force(session)
    return case_of(session)


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text


# The table


def test_the_database_holds_the_very_table_of_moves(session: Session) -> None:
    check = session.execute(
        sa.text("SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conname = 'application_move_step_check'")
    ).scalar_one()
    states, moves = [state.value for state in S], [move.value for move in M]
    allowed = session.execute(
        sa.text(
            "SELECT from_state, move, to_state FROM unnest(CAST(:states AS varchar[])) AS a(from_state), "
            "unnest(CAST(:moves AS varchar[])) AS b(move), unnest(CAST(:states AS varchar[])) AS c(to_state) "
            f"WHERE {check}"
        ),
        {"states": states, "moves": moves},
    )
    assert {tuple(row) for row in allowed} == {(a.value, b.value, step.after.value) for (a, b), step in MOVES.items()}


def test_every_state_but_the_last_ones_is_somebodys_turn_and_can_be_reached() -> None:
    reached, waiting = set(), [S.DRAFT]
    while waiting:
        state = waiting.pop()
        if state not in reached:
            reached.add(state)
            waiting.extend(step.after for (before, _), step in MOVES.items() if before is state)
    assert reached == set(S)
    assert {before for before, _ in MOVES} == set(process.TURN)
    assert {S.WITHDRAWN, S.REJECTED, S.CANCELLED} == set(S) - set(process.TURN)


@pytest.mark.parametrize("state", list(S))
def test_in_every_state_each_person_makes_the_moves_of_the_table_and_no_other(case: Case, state: S) -> None:
    case.to(state)
    people = {Party.APPLICANT: case.applicant, Party.STREET: case.street, Party.DISTRICT: case.district}
    for step in Move:
        row = MOVES.get((state, step))
        for party, person in people.items():
            with case.session.begin_nested() as attempt:
                grace = business_day(case.at) + timedelta(days=9) if step is M.GIVE_GRACE else None
                try:
                    case.move(person, step, reason="理由", grace_until=grace)
                    outcome: Any = case.application.state
                except (MoveRefused, Forbidden, StepNotReady, NotFound) as error:
                    outcome = type(error)
                attempt.rollback()
            if row is None:
                # Before the submission the street and the district see nothing at all.
                unseen = state in (S.DRAFT, S.SELF_ASSESSMENT, S.CANCELLED) and party is not Party.APPLICANT
                assert outcome is (NotFound if unseen else MoveRefused), (step, party)
            elif not _may(row.permission, party):
                unseen = state in (S.DRAFT, S.SELF_ASSESSMENT) and party is not Party.APPLICANT
                assert outcome is (NotFound if unseen else Forbidden), (step, party)
            else:
                assert outcome in (row.after, StepNotReady), (step, party)
    case.session.expire_all()
    assert set(process.open_moves(case.applicant, case.application)) == {
        step for (before, step), row in MOVES.items() if before is state and row.permission is Permission.CREATION_APPLY
    }


def _may(permission: Permission, party: Party) -> bool:
    return {
        Permission.CREATION_APPLY: party is Party.APPLICANT,
        Permission.CREATION_REVIEW: party in (Party.STREET, Party.DISTRICT),
        Permission.CREATION_DECIDE: party is Party.DISTRICT,
    }[permission]


def test_every_move_is_recorded_with_person_time_reason_and_deadline(case: Case) -> None:
    case.to(S.RETURNED)
    moves = applications.moves_of(case.session, case.applicant, case.application.id, limit=50, cursor=None).items
    assert [(row.position, row.move, row.from_state, row.to_state, row.moved_by) for row in moves] == [
        (1, M.BEGIN_SELF_ASSESSMENT, S.DRAFT, S.SELF_ASSESSMENT, case.applicant.id),
        (2, M.SUBMIT, S.SELF_ASSESSMENT, S.SUBMITTED, case.applicant.id),
        (3, M.TAKE_UP, S.SUBMITTED, S.STREET_REVIEW, case.street.id),
        (4, M.RETURN, S.STREET_REVIEW, S.RETURNED, case.street.id),
    ]
    assert moves[3].reason == "请补充"
    # The 18th does not count: five whole days follow it, to the end of the 23rd.
    assert moves[1].due_at == datetime.fromisoformat("2026-11-24T00:00:00+08:00")
    assert case.application.step_due_at == moves[3].due_at
    acts = case.session.scalars(
        sa.select(AuditEntry.act).where(AuditEntry.subject == str(case.application.id)).order_by(AuditEntry.id)
    ).all()
    assert acts[-2:] == ["application.take-up", "application.return"]


def test_returning_wants_a_reason_and_asks_the_street_to_confirm_anew(case: Case) -> None:
    case.to(S.STREET_REVIEW)
    case.confirm()
    with pytest.raises(ReasonRequired):
        case.move(case.street, M.RETURN, reason="  ")
    case.move(case.street, M.RETURN, reason="材料不全")
    case.move(case.applicant, M.RESUBMIT)
    case.move(case.street, M.TAKE_UP)
    with pytest.raises(StepNotReady) as raised:
        case.move(case.street, M.FORWARD)
    assert [each["guard"] for each in raised.value.extra["unmet"]] == ["confirmed"]
    case.confirm()
    assert case.move(case.street, M.FORWARD).state is S.DISTRICT_REVIEW
    # Each submission froze its own figures; this rubric binds none.
    assert case.session.scalars(sa.select(LiveFigure)).all() == []


def test_submitting_wants_answers_evidence_and_declarations_and_says_which_are_missing(
    session: Session, clock: time_machine.Traveller
) -> None:
    load_data(session)
    items = [
        ItemEntry(code="1.1", text_zh="一", type=ItemType.YES_NO, maximum=10, evidence_required=True),
        ItemEntry(code="1.2", text_zh="二", type=ItemType.SCORE, maximum=10),
    ]
    put_small_rubric_in_force(session, areas=[AreaEntry(code="1", title_zh="甲", items=items)])
    case = case_of(session)
    case.move(case.applicant, M.BEGIN_SELF_ASSESSMENT)
    applications.answer(
        session, case.applicant, case.application.id, [Answer("1.2", Decimal(3))], version=2, now=case.at
    )
    with pytest.raises(StepNotReady) as raised:
        case.move(case.applicant, M.SUBMIT)
    assert {each["guard"]: each["missing"] for each in raised.value.extra["unmet"]} == {
        "answered": ["1.1"],
        "evidenced": ["1.1"],
        "declared": ["p1"],
    }
    assert case.application.state is S.SELF_ASSESSMENT


def test_the_district_publishes_only_over_two_assessments_a_pass_and_a_visit(case: Case) -> None:
    case.to(S.DISTRICT_REVIEW)

    def unmet() -> set[str]:
        with pytest.raises(StepNotReady) as raised, case.session.begin_nested():
            case.move(case.district, M.PUBLISH_NOTICE)
        return {each["guard"] for each in raised.value.extra["unmet"]}

    assert unmet() == {"assessed", "passed", "visited"}
    case.visit()
    case.assess(18)
    assert unmet() == {"assessed", "passed"}
    case.assess(14)  # 4 apart, and only 2 are tolerated
    assert unmet() == {"assessed", "passed"}
    case.assess(17)
    assert case.move(case.district, M.PUBLISH_NOTICE).state is S.NOTICE
    published = case.session.get_one(PublicNotice, case.application.id)
    assert (published.score, published.maximum, published.days) == (Decimal(17), 20, 7)
    assert published.last_on == business_day(case.at) + timedelta(days=7)


def test_what_does_not_pass_is_rejected_and_frees_the_community_to_apply_again(case: Case) -> None:
    case.to(S.DISTRICT_REVIEW)
    case.visit()
    case.assess(18, 18, failed=[["1.1"], ["1.1"]])
    with pytest.raises(StepNotReady) as raised, case.session.begin_nested():
        case.move(case.district, M.PUBLISH_NOTICE)
    assert raised.value.extra["unmet"] == [
        {
            "guard": "passed",
            "title_zh": "评审结果未达标",
            "title_en": "The outcome does not pass the rubric",
            "missing": ["1.1"],
        }
    ]
    with pytest.raises(ApplicationExists):
        create_again(case)
    case.move(case.district, M.REJECT, reason="必达项未达标")
    assert create_again(case).state is S.DRAFT


def create_again(case: Case) -> Application:
    """A second application of the same community. The violated index is what the translator maps to the error."""
    try:
        with case.session.begin_nested():
            return applications.create(case.session, case.applicant, programme_code="green-community", now=case.at)
    except IntegrityError as error:
        if violated(error) in ApplicationExists.constraints:
            raise ApplicationExists from error
        raise


def violated(error: IntegrityError) -> str | None:
    return error.orig.diag.constraint_name  # type: ignore[union-attr, no-any-return]


# The last guard: the database


def test_a_state_changes_only_with_a_recorded_move_whatever_the_sql(case: Case) -> None:
    case.to(S.SUBMITTED)
    id = case.application.id
    for sql in (
        "UPDATE application SET state = 'named' WHERE id = :id",
        "UPDATE application SET state = 'street-review', moves = moves + 1 WHERE id = :id",
        "UPDATE application SET moves = moves + 1 WHERE id = :id",
        "UPDATE application SET rubric_id = (SELECT id FROM rubric WHERE programme_code = 'green-mall') WHERE id = :id",
        "UPDATE application SET division = '120104001003' WHERE id = :id",
        "UPDATE application_move SET reason = 'x' WHERE application_id = :id",
        "UPDATE application_move SET moved_at = now() WHERE application_id = :id",
        "DELETE FROM application_move WHERE application_id = :id",
        "DELETE FROM application WHERE id = :id",
        "INSERT INTO application_move (application_id, position, move, from_state, to_state, moved_at) "
        "VALUES (:id, 3, 'name', 'submitted', 'named', now())",
        "INSERT INTO naming (application_id, number, named_on, valid_until, named_by, named_at) "
        "SELECT :id, '120104-GC-2026-0001', '2027-01-01', '2030-01-01', id, now() FROM staff LIMIT 1",
    ):
        for role in ("tanpuhui_app", "NONE"):  # the service's own role, then the owner of the schema
            case.session.execute(sa.text(f"SET LOCAL ROLE {role}"))
            with pytest.raises(sa.exc.DBAPIError), case.session.begin_nested():
                case.session.execute(sa.text(sql), {"id": id})
    case.session.expire_all()
    assert case.session.get_one(Application, id).state is S.SUBMITTED


def test_a_recorded_move_to_a_name_without_a_line_in_the_register_is_refused(case: Case) -> None:
    case.to(S.OBJECTIONS)
    case.session.execute(
        sa.text(
            "INSERT INTO application_move (application_id, position, move, from_state, to_state, moved_at) "
            "SELECT id, moves + 1, 'name', state, 'named', now() FROM application WHERE id = :id"
        ),
        {"id": case.application.id},
    )
    with pytest.raises(IntegrityError, match="no name without a line"), case.session.begin_nested():
        case.session.execute(
            sa.text("UPDATE application SET state = 'named', moves = moves + 1 WHERE id = :id"),
            {"id": case.application.id},
        )


def test_an_application_begins_as_a_draft_under_a_rubric_in_force(case: Case) -> None:
    insert = (
        "INSERT INTO application (id, programme_code, rubric_id, year, subject_kind, division, subject_name, state, "
        "moves, step_since, created_by, created_at, submitted_at) "
        "SELECT gen_random_uuid(), 'green-community', {rubric}, 2026, "
        "'community', '120104001003', '某社区', '{state}', 0, now(), gen_random_uuid(), now(), now()"
    )
    current = "(SELECT id FROM rubric WHERE programme_code = 'green-community' AND state = 'in-force')"
    retired = "(SELECT id FROM rubric WHERE programme_code = 'green-community' AND state = 'retired')"
    other = "(SELECT id FROM rubric WHERE programme_code = 'green-mall')"
    for rubric, state in ((current, "notice"), (retired, "draft"), (other, "draft")):
        with pytest.raises(IntegrityError), case.session.begin_nested():
            case.session.execute(sa.text(insert.format(rubric=rubric, state=state)))
    case.session.execute(sa.text(insert.format(rubric=current, state="draft")))


class NoShortCut(RuleBasedStateMachine):
    """Anybody does anything in any order, days pass, assessors and objectors come and go: a name is always earned."""

    shared: Case  # one case, brought back to its savepoint after every example
    begun_at: datetime

    def __init__(self) -> None:
        super().__init__()
        self.case = self.shared
        self.savepoint = self.case.session.begin_nested()
        self.case.session.expire_all()
        self.case.at = self.begun_at
        self.case.application = self.case.session.get_one(Application, self.case.application.id)

    def teardown(self) -> None:
        self.savepoint.rollback()
        self.case.session.expire_all()

    @rule(who=st.sampled_from(["applicant", "street", "district"]), step=st.sampled_from(Move))
    def somebody_tries_a_move(self, who: str, step: Move) -> None:
        grace = business_day(self.case.at) + timedelta(days=5) if step is M.GIVE_GRACE else None
        self.attempt(lambda: self.case.move(getattr(self.case, who), step, reason="理由", grace_until=grace))

    @rule()
    def the_next_right_move_is_made(self) -> None:
        """So that examples come far."""
        rows = [(step, row) for (state, step), row in MOVES.items() if state is self.case.application.state]
        forward = [each for each in rows if each[0] not in (M.CANCEL, M.REJECT, M.RETURN, M.WITHDRAW, M.GIVE_GRACE)]
        for step, row in forward:
            who = {Permission.CREATION_APPLY: "applicant", Permission.CREATION_REVIEW: "street"}
            actor = getattr(self.case, who.get(row.permission, "district"))
            self.attempt(lambda step=step, actor=actor: self.case.move(actor, step))

    @rule()
    def the_papers_are_filled_in(self) -> None:
        self.attempt(self.case.fill_in)
        self.attempt(self.case.confirm)

    @rule(total=st.sampled_from([5, 12, 13, 18]), failed=st.sampled_from([[], ["1.1"]]))
    def an_assessment_comes_in(self, total: int, failed: list[str]) -> None:
        if self.case.application.state is S.DISTRICT_REVIEW:
            self.attempt(lambda: self.case.assess(total, failed=[failed]))

    @rule()
    def somebody_visits(self) -> None:
        if self.case.application.state is S.DISTRICT_REVIEW:
            self.case.visit()

    @rule()
    def somebody_objects(self) -> None:
        self.attempt(self.case.object)

    @rule(upheld=st.booleans())
    def an_objection_is_answered(self, upheld: bool) -> None:
        waiting = self.case.session.scalars(sa.select(Objection).where(Objection.answered_at.is_(None))).first()
        if waiting is not None:
            self.attempt(lambda: self.case.answer(waiting, upheld=upheld))

    @rule(days=st.sampled_from([1, 4, 8]))
    def days_pass(self, days: int) -> None:
        self.case.later(days)

    @rule(
        marks=st.sampled_from(
            [
                [],
                [(18, [])],
                [(18, []), (18, [])],
                [(18, []), (13, [])],
                [(18, []), (18, ["1.1"])],
                [(18, []), (13, []), (18, [])],
            ]
        ),
        visited=st.sampled_from([True, True, False]),
        objections=st.integers(0, 2),
        answers=st.lists(st.booleans(), max_size=2),
        days=st.sampled_from([7, 8]),
        by_sql=st.booleans(),
    )
    def somebody_hurries_to_a_name(
        self,
        marks: list[tuple[int, list[str]]],
        visited: bool,
        objections: int,
        answers: list[bool],
        days: int,
        by_sql: bool,
    ) -> None:
        """The straight way with something left out, so that most examples come near a name and few reach it."""
        for total, failed in marks:
            self.an_assessment_comes_in(total, failed)
        if visited:
            self.somebody_visits()
        self.attempt(lambda: self.case.move(self.case.district, M.PUBLISH_NOTICE))
        for _ in range(objections):
            self.somebody_objects()
        for upheld in answers:
            self.an_objection_is_answered(upheld)
        self.days_pass(days)
        self.attempt(lambda: self.case.move(self.case.district, M.END_NOTICE))
        if by_sql:
            self.somebody_writes_a_name_by_sql()
        self.attempt(lambda: self.case.move(self.case.district, M.NAME))

    @rule()
    def somebody_writes_a_name_by_sql(self) -> None:
        self.attempt(
            lambda: self.case.session.execute(
                sa.text(
                    "INSERT INTO naming (application_id, number, named_on, valid_until, named_by, named_at) "
                    "VALUES (:id, '120104-GC-2026-9999', :today, '2099-01-01', :by, now())"
                ),
                {
                    "id": self.case.application.id,
                    "today": business_day(self.case.at),
                    "by": self.case.district.id,
                },
            )
        )

    @invariant()
    def a_name_stands_on_assessments_notice_and_answers(self) -> None:
        session, id = self.case.session, self.case.application.id
        named = session.scalar(sa.select(Naming.named_on).where(Naming.application_id == id))
        if named is None:
            assert self.case.application.state not in (S.NAMED, S.RECHECK, S.GRACE, S.WITHDRAWN)
            return
        submitted = session.scalars(
            sa.select(Assessment).where(Assessment.application_id == id, Assessment.submitted_at.is_not(None))
        ).all()
        first, second = (each for each in submitted if each.seat < 3)
        assert first.staff_id != second.staff_id
        assert first.total is not None
        assert second.total is not None
        if abs(first.total - second.total) > 2 or first.must_meet_failed != second.must_meet_failed:
            assert len(submitted) == 3
        assert session.get_one(PublicNotice, id).last_on < named
        objections = session.scalars(sa.select(Objection).where(Objection.application_id == id)).all()
        assert all(each.answered_at is not None and each.upheld is False for each in objections)

    def attempt(self, deed: Callable[[], Any]) -> None:
        """Do it or be refused, and nothing in between."""
        try:
            with self.case.session.begin_nested():
                deed()
        except (DomainError, IntegrityError):
            pass
        self.case.session.expire_all()
        self.case.application = self.case.session.get_one(Application, self.case.application.id)


def test_no_order_of_deeds_leads_to_a_name_that_was_not_earned(case: Case) -> None:
    NoShortCut.shared, NoShortCut.begun_at = case.to(S.DISTRICT_REVIEW), case.at
    run_state_machine_as_test(
        NoShortCut,
        settings=settings(
            max_examples=60,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


# Who sees what


def test_an_application_is_seen_by_its_own_people_and_by_its_reviewers_once_submitted(
    case: Case, session: Session, make_staff: MakeStaff
) -> None:
    def sees(role: Role, **scope: Any) -> bool:
        actor = actor_of(make_staff(role, **scope), role, **scope)
        try:
            applications.application_for(session, actor, case.application.id)
        except NotFound:
            return False
        return True

    def views() -> list[bool]:
        return [
            sees(Role.COMMUNITY_STAFF, division=COMMUNITY),
            sees(Role.STREET, division=STREET),
            sees(Role.DISTRICT, division=DISTRICT),
        ]

    assert views() == [True, False, False]
    case.to(S.SUBMITTED)
    assert views() == [True, True, True]
    assert not sees(Role.COMMUNITY_STAFF, division="120104001003")
    assert not sees(Role.STREET, division="120104002")
    assert not sees(Role.ASSESSOR, division=DISTRICT)
    school = school_at(session)
    assert not sees(Role.SCHOOL_STAFF, organisation=school)
    assessor = actor_of(make_staff(Role.ASSESSOR, division=DISTRICT), Role.ASSESSOR, division=DISTRICT)
    session.add(
        Assessment(
            application_id=case.application.id,
            staff_id=assessor.id,
            seat=1,
            assigned_by=case.district.id,
            assigned_at=case.at,
        )
    )
    session.flush()
    assert applications.application_for(session, assessor, case.application.id).id == case.application.id


def school_at(session: Session, community: str = COMMUNITY) -> UUID:
    added = Organisation(
        id=new_id(),
        kind=OrganisationKind.SCHOOL,
        name=f"学校{secrets.token_hex(4)}",
        community_code=community,
        valid_from=business_day(START),
    )
    session.add(added)
    session.flush()
    return added.id


def test_a_school_applies_as_itself_and_sees_nothing_of_another_school(
    case: Case, session: Session, client: FlaskClient, sign_in_staff: SignIn
) -> None:
    ours, theirs = school_at(session), school_at(session)
    session.commit()
    staff = sign_in_staff(Role.SCHOOL_STAFF, organisation=ours)
    stranger = sign_in_staff(Role.SCHOOL_STAFF, organisation=theirs)
    made = client.post("/api/v1/creation/applications", json={"programme": "green-school"}, headers=staff)
    assert made.status_code == 201, made.text
    path = f"/api/v1/creation/applications/{made.json['id']}"
    assert client.get(path, headers=staff).json["application"]["organisation_id"] == str(ours)
    tagged = {**stranger, "If-Match": '"1"'}
    for answer in (
        client.get(path, headers=stranger),
        client.get(f"{path}/moves", headers=stranger),
        client.get(f"{path}/rechecks", headers=stranger),
        client.post(f"{path}/moves", json={"move": "cancel"}, headers=stranger),
        client.patch(path, json={"statement": "x"}, headers=tagged),
        client.put(f"{path}/answers", json={"answers": [{"item_code": "1.1", "value": 1}]}, headers=tagged),
        client.put(f"{path}/preconditions", json={"codes": []}, headers=tagged),
    ):
        refused(answer, 404, "not-found")
    assert client.get("/api/v1/creation/applications", headers=stranger).json["items"] == []
    other = client.post("/api/v1/creation/applications", json={"programme": "green-mall"}, headers=staff)
    refused(other, 422, "subject-unsuitable")


def test_a_household_applies_through_its_resident_under_the_name_that_it_chooses(
    case: Case, client: FlaskClient, sign_in_resident: SignIn
) -> None:
    case.session.commit()
    resident, neighbour = sign_in_resident("alice"), sign_in_resident("bob")
    homeless = sign_in_resident("carol", None)
    wanted = {"programme": "green-family", "household_name": "绿意人家"}
    made = client.post("/api/v1/creation/applications", json=wanted, headers=resident)
    assert (made.status_code, made.json["subject_name"], made.json["division"]) == (201, "绿意人家", COMMUNITY)
    path = f"/api/v1/creation/applications/{made.json['id']}"
    refused(client.get(path, headers=neighbour), 404, "not-found")
    refused(client.post("/api/v1/creation/applications", json=wanted, headers=resident), 409, "application-exists")
    nameless = client.post("/api/v1/creation/applications", json={"programme": "green-family"}, headers=neighbour)
    refused(nameless, 422, "subject-unsuitable")
    refused(client.post("/api/v1/creation/applications", json=wanted, headers=homeless), 422, "home-unknown")
    community = client.post("/api/v1/creation/applications", json={"programme": "green-community"}, headers=neighbour)
    refused(community, 422, "subject-unsuitable")
    changed = client.patch(path, json={"household_name": "青山人家"}, headers={**resident, "If-Match": '"1"'})
    assert (changed.json["subject_name"], changed.headers["ETag"]) == ("青山人家", '"2"')


def test_only_the_right_subject_applies_and_only_where_applications_are_taken(case: Case, session: Session) -> None:
    with pytest.raises(ProgrammeTakesNone):
        applications.create(session, case.applicant, programme_code="green-travel", now=case.at)
    with pytest.raises(NotFound):
        applications.create(session, case.applicant, programme_code="no-such", now=case.at)
    with pytest.raises(SubjectUnsuitable):
        applications.create(session, case.applicant, programme_code="green-school", now=case.at)
    with pytest.raises(SubjectUnsuitable):
        applications.create(session, case.street, programme_code="green-community", now=case.at)
    with pytest.raises(SubjectUnsuitable):
        applications.create(
            session, case.applicant, programme_code="green-community", household_name="某家", now=case.at
        )
    assert HomeUnknown.code == "home-unknown"


# What the applicant says


def test_answers_and_declarations_change_only_in_the_applicants_turn_and_by_version(case: Case) -> None:
    session, id = case.session, case.application.id

    def answer(
        code: str = "1.2", value: str = "3", version: int | None = None, actor: Actor | None = None
    ) -> Application:
        return applications.answer(
            session,
            actor or case.applicant,
            id,
            [Answer(code, Decimal(value))],
            version=version or case.application.version,
            now=case.at,
        )

    with pytest.raises(ApplicationClosed):
        answer()  # a draft is not yet a self-assessment
    case.to(S.SELF_ASSESSMENT)
    for code, value in (("1.1", "2"), ("1.1", "0.5"), ("1.2", "11"), ("1.2", "1.005"), ("9.9", "1"), ("1.3", "1e9")):
        with pytest.raises(AnswerInvalid):
            answer(code, value)
    before = case.application.version
    answer()
    with pytest.raises(PreconditionFailed):
        answer(version=before)
    with pytest.raises(PreconditionUnknown):
        applications.declare(session, case.applicant, id, ["p9"], version=case.application.version, now=case.at)
    with pytest.raises(NotFound):
        answer(actor=case.street)
    case.fill_in()
    case.move(case.applicant, M.SUBMIT)
    with pytest.raises(ApplicationClosed):
        answer()
    with pytest.raises(Forbidden):
        answer(actor=case.street)
    with pytest.raises(ApplicationClosed):
        case.confirm()  # not yet taken up
    assert {each.item_code: each.value for each in applications.answers_of(session, id)} == {
        "1.1": Decimal(1),
        "1.2": Decimal(8),
        "1.3": Decimal(45),
    }


# Overdue steps


def test_a_step_past_its_time_is_listed_and_its_people_are_told_once(case: Case, session: Session) -> None:
    case.to(S.SUBMITTED)

    def listed(actor: Actor) -> list[UUID]:
        page = applications.list_applications(session, actor, overdue=True, now=case.at, limit=50, cursor=None)
        return [row.id for row in page.items]

    def told(actor: Actor) -> int:
        return len(
            session.scalars(
                sa.select(Notice.id).where(Notice.person_id == actor.id, Notice.kind == "application-overdue")
            ).all()
        )

    case.later(5)
    assert overdue.tell_overdue(session, now=case.at) == 0
    assert listed(case.street) == []
    case.later(1)
    assert overdue.tell_overdue(session, now=case.at) == 1
    assert overdue.tell_overdue(session, now=case.at) == 0
    assert listed(case.street) == listed(case.district) == [case.application.id]
    assert (told(case.street), told(case.district), told(case.applicant)) == (1, 0, 0)
    case.move(case.street, M.TAKE_UP)
    assert listed(case.street) == []
    case.later(20)
    assert overdue.tell_overdue(session, now=case.at) == 1, "a new step is told of again"
    session.execute(sa.update(Staff).where(Staff.id == case.street.id).values(enabled=False))
    case.confirm()
    case.move(case.street, M.FORWARD)
    case.later(40)
    overdue.tell_overdue(session, now=case.at)
    assert told(case.district) == 1


def test_a_street_without_staff_leaves_its_turn_to_the_district(case: Case, session: Session) -> None:
    session.execute(sa.update(Staff).where(Staff.id == case.street.id).values(enabled=False))
    case.to(S.SUBMITTED)
    kinds = session.scalars(sa.select(Notice.kind).where(Notice.person_id == case.district.id)).all()
    assert kinds == ["application-turn"]


def test_the_applicant_is_told_of_a_return_and_the_street_of_a_submission(case: Case, session: Session) -> None:
    case.to(S.RETURNED)
    rows = session.execute(sa.select(Notice.person_id, Notice.kind, Notice.title_zh, Notice.subject)).all()
    assert [tuple(row) for row in rows] == [
        (case.street.id, "application-turn", "绿色社区: 有申报待办理", f"application:{case.application.id}"),
        (case.applicant.id, "application-return", "绿色社区: 申报被退回补正", f"application:{case.application.id}"),
    ]


def test_the_clock_ends_a_notice_that_is_over_and_none_before(
    case: Case, session: Session, app: Any, clock: time_machine.Traveller
) -> None:
    case.to(S.NOTICE)
    session.commit()
    with app.app_context():
        clock.move_to(START + timedelta(days=7))
        assert jobs.run_daily(scheduled_at=0)["notices_ended"] == 0
        clock.move_to(START + timedelta(days=8))
        assert jobs.run_daily(scheduled_at=0)["notices_ended"] == 1
        assert jobs.run_daily(scheduled_at=0)["notices_ended"] == 0
    session.expire_all()
    assert session.get_one(Application, case.application.id).state is S.OBJECTIONS
    last = session.scalars(sa.select(ApplicationMove).order_by(ApplicationMove.position.desc())).first()
    assert last is not None
    assert (last.move, last.moved_by) == (M.END_NOTICE, None)


def test_a_grace_is_one_to_180_days_and_belongs_to_no_other_move(case: Case) -> None:
    case.to(S.RECHECK)
    case.record_findings()
    today = business_day(case.at)
    for until in (None, today, today + timedelta(days=181)):
        with pytest.raises(GraceInvalid):
            case.move(case.district, M.GIVE_GRACE, reason="整改", grace_until=until)
    with pytest.raises(GraceInvalid):
        case.move(case.district, M.RETAIN, grace_until=today + timedelta(days=3))
    case.move(case.district, M.GIVE_GRACE, reason="整改", grace_until=today + timedelta(days=180))


# Over HTTP


def test_a_community_goes_from_draft_to_the_street_over_http(
    case: Case, client: FlaskClient, sign_in_staff: SignIn
) -> None:
    case.session.commit()
    staff = sign_in_staff(Role.COMMUNITY_STAFF, division="120104001003")
    street = sign_in_staff(Role.STREET, division=STREET)
    made = client.post(
        "/api/v1/creation/applications", json={"programme": "green-community", "statement": "本社区申报"}, headers=staff
    )
    assert (made.status_code, made.json["state"], made.json["turn"]) == (201, "draft", "applicant")
    path = f"/api/v1/creation/applications/{made.json['id']}"
    refused(client.get(path, headers=street), 404, "not-found")
    begun = client.post(f"{path}/moves", json={"move": "begin-self-assessment"}, headers=staff)
    answers = {
        "answers": [{"item_code": code, "value": value} for code, value in (("1.1", 1), ("1.2", 7.5), ("1.3", 40))]
    }
    refused(client.put(f"{path}/answers", json=answers, headers=staff), 428, "precondition-required")
    answered = client.put(f"{path}/answers", json=answers, headers={**staff, "If-Match": begun.headers["ETag"]})
    early = client.post(f"{path}/moves", json={"move": "submit"}, headers=staff)
    refused(early, 409, "step-not-ready")
    assert [each["guard"] for each in early.json["unmet"]] == ["declared"]
    client.put(f"{path}/preconditions", json={"codes": ["p1"]}, headers={**staff, "If-Match": answered.headers["ETag"]})
    assert client.post(f"{path}/moves", json={"move": "submit"}, headers=staff).json["turn"] == "street"
    seen = client.get(path, headers=street).json
    assert seen["open_moves"] == ["take-up"]
    assert (seen["rubric"]["confidence"], seen["rubric"]["title_zh"]) == ("R", "测试标准")
    assert {each["item_code"]: each["value"] for each in seen["answers"]} == {
        "1.1": "1.00",
        "1.2": "7.50",
        "1.3": "40.00",
    }
    refused(client.post(f"{path}/moves", json={"move": "submit"}, headers=street), 409, "application-move-refused")
    refused(client.post(f"{path}/moves", json={"move": "cancel"}, headers=street), 403, "forbidden")
    client.post(f"{path}/moves", json={"move": "take-up"}, headers=street)
    refused(client.post(f"{path}/moves", json={"move": "return"}, headers=street), 422, "reason-required")
    client.put(f"{path}/confirmations", json={"codes": ["p1"]}, headers=street)
    assert client.post(f"{path}/moves", json={"move": "forward"}, headers=street).json["state"] == "district-review"
    assert [row["move"] for row in client.get(f"{path}/moves", headers=staff).json["items"]] == [
        "begin-self-assessment",
        "submit",
        "take-up",
        "forward",
    ]


class Desk:
    """The API as a few people see it; each call signs in anew, for days pass between them."""

    def __init__(self, client: FlaskClient, headers_of: Callable[..., Headers], path: str = "") -> None:
        self.client, self.headers_of, self.path = client, headers_of, path

    def __call__(self, who: UUID, method: str, address: str, status: int = 200, **options: Any) -> Any:
        headers = {**self.headers_of(who, is_resident=False), **options.pop("headers", {})}
        answer = self.client.open(f"{self.path}{address}", method=method, headers=headers, **options)
        assert answer.status_code == status, (address, answer.text)
        return answer

    def move(self, who: UUID, step: Move, status: int = 200, **entry: Any) -> Any:
        return self(who, "POST", "/moves", status, json={"move": step.value, **entry}).json

    def mark(self, who: UUID, marks: dict[str, int]) -> None:
        sheet = self(who, "GET", "/assessments/mine")
        entry = {"marks": [{"item_code": code, "value": value} for code, value in marks.items()]}
        saved = self(who, "PATCH", "/assessments/mine", json=entry, headers={"If-Match": sheet.headers["ETag"]})
        word = {"If-Match": saved.headers["ETag"]}
        self(who, "POST", "/assessments/mine/submission", json={"no_tie": True}, headers=word)


def reach_the_district(desk: Desk, community: UUID, street: UUID) -> None:
    """The self-assessment, a return, and the street's word."""
    tag = desk(community, "POST", "/moves", json={"move": "begin-self-assessment"}).headers["ETag"]
    answers = [{"item_code": code, "value": value} for code, value in (("1.1", 1), ("1.2", 9), ("1.3", 35))]
    tag = desk(community, "PUT", "/answers", json={"answers": answers}, headers={"If-Match": tag}).headers["ETag"]
    desk(community, "PUT", "/preconditions", json={"codes": ["p1"]}, headers={"If-Match": tag})
    desk.move(community, M.SUBMIT)
    desk.move(street, M.TAKE_UP)
    desk.move(street, M.RETURN, reason="请补充说明")
    desk.move(community, M.RESUBMIT)
    desk.move(street, M.TAKE_UP)
    desk(street, "PUT", "/confirmations", json={"codes": ["p1"]})
    desk.move(street, M.FORWARD)


def test_a_community_goes_from_draft_to_plaque_and_loses_the_name_again_over_http(
    case: Case,
    client: FlaskClient,
    make_staff: MakeStaff,
    headers_of: Callable[..., Headers],
    clock: time_machine.Traveller,
) -> None:
    case.session.commit()
    neighbour = "120104001003"
    community, street, district = (
        make_staff(role, division=scope)
        for role, scope in ((Role.COMMUNITY_STAFF, neighbour), (Role.STREET, STREET), (Role.DISTRICT, DISTRICT))
    )
    first, second, third = (make_staff(Role.ASSESSOR, division=DISTRICT) for _ in range(3))
    desk = Desk(client, headers_of)
    entry = {"programme": "green-community"}
    id = desk(community, "POST", "/api/v1/creation/applications", 201, json=entry).json["id"]
    desk.path = f"/api/v1/creation/applications/{id}"

    reach_the_district(desk, community, street)

    for assessor in (first, second):
        desk(district, "POST", "/assessors", 201, json={"staff_id": str(assessor)})
    desk.mark(first, {"1.1": 1, "1.2": 9, "1.3": 35})
    assert desk.move(district, M.PUBLISH_NOTICE, 409)["code"] == "step-not-ready"
    desk.mark(second, {"1.1": 1, "1.2": 4, "1.3": 35})
    desk(district, "POST", "/assessors", 201, json={"staff_id": str(third)})
    desk.mark(third, {"1.1": 1, "1.2": 7, "1.3": 35})
    visit = {"visited_on": "2026-11-18", "people": ["张三", "李四"], "findings": "情况属实"}
    desk(district, "POST", "/visits", 201, json=visit)
    desk.move(district, M.PUBLISH_NOTICE)

    notice_path = f"/api/v1/creation/notices/{id}"
    assert client.get(notice_path).json["score"] == "17.00", "the median of 19, 14 and 17"
    made = client.post(f"{notice_path}/objections", json={"text": "绿地面积与公示不符, 请核查"})
    clock.move_to(START + timedelta(days=8))
    desk.move(district, M.END_NOTICE)
    assert [each["guard"] for each in desk.move(district, M.NAME, 409)["unmet"]] == ["objections-answered"]
    objection = desk(district, "GET", "/objections").json["items"][0]["id"]
    reply = {"answer": "经现场复核, 面积属实。", "upheld": False}
    Desk(client, headers_of)(district, "POST", f"/api/v1/creation/objections/{objection}/answer", json=reply)
    mine = client.get("/api/v1/creation/objections/mine", headers={"Objection-Receipt": made.json["receipt"]})
    assert mine.json["answer"] == reply["answer"]
    desk.move(district, M.NAME)
    desk(district, "PUT", "/plaque", json={"plaque_on": "2026-11-26"})
    number = client.get("/api/v1/creation/register").json["items"][0]["number"]
    assert number == "120104-GC-2026-0001"

    clock.move_to(START + timedelta(days=400))
    desk.move(district, M.BEGIN_RECHECK)
    found = {"visited_on": "2027-12-23", "people": ["张三", "李四"], "findings": "公约未更新"}
    desk(street, "PUT", "/rechecks/open", json=found)
    desk.move(district, M.GIVE_GRACE, reason="限期整改", grace_until="2028-01-20")
    desk.move(community, M.REPORT_MENDED, reason="已整改")
    desk(street, "PUT", "/rechecks/open", json={**found, "findings": "整改不到位"})
    assert desk.move(district, M.WITHDRAW, reason="整改不到位")["state"] == "withdrawn"
    line = client.get(f"/api/v1/creation/register/{number}").json
    assert line["standing"] == "withdrawn"
    assert [each["move"] for each in line["history"]] == [
        "name",
        "begin-recheck",
        "give-grace",
        "report-mended",
        "withdraw",
    ]


# Races: two real connections, the first transaction held open


@pytest.fixture
def engine(make_database: Callable[[], str]) -> Iterator[sa.Engine]:
    """A district of its own, committed."""
    engine = sa.create_engine(
        psycopg_url(make_database()), connect_args={"options": "-c timezone=UTC -c role=tanpuhui_app"}
    )
    yield engine
    engine.dispose()


def committed_case(engine: sa.Engine, state: ApplicationState = S.DRAFT) -> Case:
    session = Session(engine, expire_on_commit=False)

    load_data(session)
    put_small_rubric_in_force(session)
    case = case_of(session).to(state)
    session.commit()
    return case


def wait_for_a_waiter(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text("SET ROLE NONE"))  # the service's role does not see what others wait for
        connection.commit()
        for _ in range(500):
            waiting = connection.execute(
                sa.text(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE wait_event_type = 'Lock' AND datname = current_database()"
                )
            ).scalar_one()
            if waiting:
                return
            connection.execute(sa.text("SELECT pg_sleep(0.01)"))
            connection.rollback()
    raise AssertionError("nobody waits: the second never met the first")


def test_of_two_moves_at_once_the_second_sees_what_the_first_made(engine: sa.Engine) -> None:
    case = committed_case(engine, S.STREET_REVIEW)
    case.confirm()
    case.session.commit()

    def second() -> type[Exception]:
        with Session(engine) as session:
            try:
                process.move(session, case.street, case.application.id, M.RETURN, reason="退回", now=case.at)
            except MoveRefused as error:
                return type(error)
            return type(None)

    with ThreadPoolExecutor(1) as pool, Session(engine) as first:
        process.move(first, case.street, case.application.id, M.FORWARD, now=case.at)
        later = pool.submit(second)
        wait_for_a_waiter(engine)
        first.commit()
        assert later.result(10) is MoveRefused
    with Session(engine) as session:
        assert session.get_one(Application, case.application.id).state is S.DISTRICT_REVIEW


def test_of_two_applications_at_once_of_one_community_one_stands(engine: sa.Engine) -> None:
    case = committed_case(engine)
    process.move(case.session, case.applicant, case.application.id, M.CANCEL, now=case.at)
    case.session.commit()

    def second() -> str | None:
        with Session(engine) as session:
            try:
                applications.create(session, case.applicant, programme_code="green-community", now=case.at)
            except IntegrityError as error:
                return violated(error)
            return None

    with ThreadPoolExecutor(1) as pool, Session(engine) as first:
        applications.create(first, case.applicant, programme_code="green-community", now=case.at)
        later = pool.submit(second)
        wait_for_a_waiter(engine)
        first.commit()
        assert later.result(10) == "application_community_key"


def test_an_objection_that_comes_while_the_notice_ends_is_taken_or_refused_and_never_lost(engine: sa.Engine) -> None:
    case = committed_case(engine, S.NOTICE)
    over = case.at + timedelta(days=9)

    def second() -> str:
        with Session(engine) as session:
            try:
                notice.make_objection(
                    session, case.application.id, text="情况不实", contact="", data_key=DATA_KEY, now=case.at
                )
            except NotFound:
                return "refused"
            session.commit()
            return "taken"

    with ThreadPoolExecutor(1) as pool, Session(engine) as first:
        assert process.move_by_clock(first, case.application.id, M.END_NOTICE, now=over)
        later = pool.submit(second)
        wait_for_a_waiter(engine)
        first.commit()
        assert later.result(10) == "refused"
    assert Guard.NOTICE_OVER in MOVES[S.NOTICE, M.END_NOTICE].guards
