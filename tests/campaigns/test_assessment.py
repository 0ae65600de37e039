"""Assessors: who may be one, that they mark alone, what their marks say together, and how far they agree."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from assessment_builders import (
    ASSESSORS_STREET,
    DISTRICT,
    HOME,
    MARKS,
    NEXT_DOOR,
    STREET,
    as_owner,
    make_application,
    make_rubric,
    make_school,
    move_to,
    seat,
    submitted,
)
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.creation import agreement, assessment, conflicts, live_evidence
from campaigns.creation.agreement import chance_corrected, intraclass_correlation
from campaigns.creation.assessment import Decision, failed_by_most, final_score
from campaigns.creation.models import (
    Application,
    Assessment,
    AssessmentMark,
    AssessorConflict,
    Rubric,
    SubjectKind,
)
from campaigns.creation.steps import ApplicationState
from server.access import Actor, Role
from server.audit import AuditEntry
from server.clock import now
from server.database import new_id
from server.notices.models import Notice
from server.people.models import Staff
from server.places.models import Division, DivisionLevel

State = ApplicationState
Headers = dict[str, str]
SignIn = Callable[..., Headers]
MakeStaff = Callable[..., UUID]


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text


@dataclass
class Office:
    """An application of the home community under the district's review, and the people around it."""

    client: FlaskClient
    session: Session
    application: Application
    people: dict[str, UUID]
    headers: dict[str, Headers]

    def path(self, rest: str = "") -> str:
        return f"/api/v1/creation/applications/{self.application.id}{rest}"

    def get(self, who: str, rest: str) -> Any:
        return self.client.get(self.path(rest), headers=self.headers[who])

    def assign(self, who: str, *, by: str = "district") -> Any:
        body = {"staff_id": str(self.people[who])}
        return self.client.post(self.path("/assessors"), json=body, headers=self.headers[by])

    def take_off(self, who: str, *, by: str = "district", reason: str = "生病") -> Any:
        path = self.path(f"/assessors/{self.people[who]}/removal")
        return self.client.post(path, json={"reason": reason}, headers=self.headers[by])

    def mark(self, who: str, marks: dict[str, Any], *, comment: str | None = None, version: int | None = None) -> Any:
        body: dict[str, Any] = {
            "marks": [{"item_code": code, "value": str(value)} for code, value in marks.items()],
            "comment": comment,
        }
        return self.client.patch(self.path("/assessments/mine"), json=body, headers=self.tagged(who, version))

    def submit(self, who: str) -> Any:
        return self.client.post(
            self.path("/assessments/mine/submission"), json={"no_tie": True}, headers=self.tagged(who)
        )

    def tagged(self, who: str, version: int | None = None) -> Headers:
        if version is None:
            version = self.get(who, "/assessments/mine").json["version"]
        return {**self.headers[who], "If-Match": f'"{version}"'}

    def assess(self, who: str, marks: dict[str, Any], *, comment: str = "") -> Any:
        saved = self.mark(who, marks, comment=comment)
        assert saved.status_code == 200, saved.text
        answer = self.submit(who)
        assert answer.status_code == 200, answer.text
        return answer

    def outcome(self) -> assessment.Outcome:
        self.session.expire_all()
        return assessment.outcome(self.session, self.application.id)


@pytest.fixture
def office(
    client: FlaskClient,
    session: Session,
    make_staff: MakeStaff,
    headers_of: SignIn,
    make_resident: Callable[..., UUID],
) -> Office:
    people = {
        "first": make_staff(Role.ASSESSOR, division=DISTRICT),
        "second": make_staff(Role.ASSESSOR, division=DISTRICT),
        "third": make_staff(Role.DISTRICT, division=DISTRICT),
        "district": make_staff(Role.DISTRICT, division=DISTRICT),
        "street": make_staff(Role.STREET, division=STREET),
        "applicant": make_staff(Role.COMMUNITY_STAFF, division=HOME),
        "neighbour": make_staff(Role.COMMUNITY_STAFF, division=NEXT_DOOR),
        "other street": make_staff(Role.STREET, division=ASSESSORS_STREET),
        "operator": make_staff(Role.OPERATOR, division=DISTRICT),
    }
    headers = {name: headers_of(person, is_resident=False) for name, person in people.items()}
    headers["resident"] = headers_of(make_resident(HOME), is_resident=True)
    application = make_application(session, make_rubric(session))
    return Office(client, session, application, people, headers)


@pytest.fixture
def paired(office: Office) -> Office:
    """The same with its first two assessors assigned."""
    for who in ("first", "second"):
        assert office.assign(who).status_code == 201
    return office


# Marking


def test_two_assessors_mark_alone_and_the_mean_of_both_totals_is_the_score(paired: Office) -> None:
    assert paired.outcome().decision is Decision.OPEN
    paired.assess("first", MARKS, comment="材料齐全")
    assert paired.outcome().decision is Decision.OPEN
    paired.assess("second", {**MARKS, "b1": "24.5"})

    found = paired.outcome()
    told = paired.get("district", "/outcome").json
    sheets = paired.get("district", "/assessments").json["items"]

    assert (found.complete, found.assessors, found.score, found.must_meet_failed, found.passed) == (
        True,
        2,
        Decimal("87.25"),
        (),
        True,
    )
    assert told == {
        "decision": "complete",
        "assessors": 2,
        "score": "87.25",
        "maximum": 100,
        "minimum_score": 60,
        "must_meet_failed": [],
        "passed": True,
    }
    assert [(sheet["seat"], sheet["total"]) for sheet in sheets] == [(1, "90.00"), (2, "84.50")]
    acts = paired.session.scalars(
        sa.select(AuditEntry.act).where(AuditEntry.subject == str(paired.application.id)).order_by(AuditEntry.id)
    ).all()
    assert acts == ["assessor.assign", "assessor.assign", "assessment.submit", "assessment.submit"]


def test_a_score_below_the_minimum_or_a_must_meet_item_that_both_miss_does_not_pass(
    client: FlaskClient, session: Session, office: Office
) -> None:
    for total, failed, passed in ((60, [], True), (59.99, [], False), (90, ["a1"], False)):
        application = make_application(session, office_rubric(session), community=new_community(session))
        for place, who in enumerate(("first", "second"), 1):
            submitted(
                session,
                application,
                office.people[who],
                seat=place,
                total=total,
                failed=failed,
                assigned_by=office.people["district"],
            )
        found = assessment.outcome(session, application.id)
        assert (found.complete, found.passed) == (True, passed), (total, failed)


def office_rubric(session: Session) -> Rubric:
    return session.scalars(sa.select(Rubric).where(Rubric.programme_code == "try")).one()


def new_community(session: Session) -> str:
    """A community without an application, of another street than the home's."""
    taken = sa.select(Application.division)
    wanted = sa.select(Division.code).where(
        Division.level == DivisionLevel.COMMUNITY, Division.code.startswith("120104002"), Division.code.not_in(taken)
    )
    return session.scalars(wanted.order_by(Division.code)).first() or ""


def test_marks_are_saved_in_parts_and_only_over_the_version_that_was_read(paired: Office) -> None:
    first = paired.mark("first", {"a1": 1})
    second = paired.mark("first", {"a2": 0, "a1": 0}, comment="现场未见公约")
    refused(paired.mark("first", {"a1": 1}, version=1), 412, "precondition-failed")
    without = paired.client.patch(paired.path("/assessments/mine"), json={"marks": []}, headers=paired.headers["first"])
    refused(without, 428, "precondition-required")
    own = paired.get("first", "/assessments/mine")

    assert (first.status_code, second.status_code) == (200, 200)
    assert {mark["item_code"]: mark["value"] for mark in own.json["marks"]} == {"a1": "0.00", "a2": "0.00"}
    assert (own.json["comment"], own.json["total"], own.headers["ETag"]) == ("现场未见公约", None, '"3"')


@pytest.mark.parametrize(
    ("marks", "code"),
    [
        ({"a1": 2}, "answer-invalid"),
        ({"a1": "0.5"}, "answer-invalid"),
        ({"b1": 41}, "answer-invalid"),
        ({"b1": "1.001"}, "answer-invalid"),
        ({"b1": -1}, "invalid-request"),
        ({"b1": "NaN"}, "invalid-request"),
        ({"b1": "Infinity"}, "invalid-request"),
        ({"zz": 1}, "item-unknown"),
    ],
)
def test_a_mark_that_does_not_fit_its_item_is_refused(paired: Office, marks: dict[str, Any], code: str) -> None:
    refused(paired.mark("first", marks), 422, code)
    assert paired.get("first", "/assessments/mine").json["marks"] == []


def test_an_item_named_twice_is_refused(paired: Office) -> None:
    body = {"marks": [{"item_code": "a1", "value": "1"}, {"item_code": "a1", "value": "0"}]}
    answer = paired.client.patch(paired.path("/assessments/mine"), json=body, headers=paired.tagged("first"))
    refused(answer, 422, "item-unknown")


def test_only_a_complete_assessment_is_taken_and_then_it_is_final(paired: Office) -> None:
    paired.mark("first", {"a1": 1, "b1": 3})
    answer = paired.submit("first")
    refused(answer, 409, "assessment-incomplete")
    assert (answer.json["unmarked"], answer.json["uncommented"]) == (["a2", "b2"], [])
    unsigned = paired.client.post(
        paired.path("/assessments/mine/submission"), json={"no_tie": False}, headers=paired.tagged("first")
    )
    refused(unsigned, 422, "invalid-request")

    done = paired.assess("first", MARKS)

    assert (done.json["total"], done.json["must_meet_failed"]) == ("90.00", [])
    refused(paired.mark("first", {"a1": 0}), 409, "assessment-closed")
    refused(paired.submit("first"), 409, "assessment-closed")
    refused(paired.take_off("first"), 409, "assessment-closed")
    recusal = paired.client.post(
        paired.path("/assessments/mine/recusal"), json={"reason": "亲属"}, headers=paired.headers["first"]
    )
    refused(recusal, 409, "assessment-closed")


@pytest.mark.parametrize(
    "attempt",
    [
        "UPDATE assessment SET total = 100",
        "DELETE FROM assessment",
        "UPDATE assessment_mark SET value = 1",
        "DELETE FROM assessment_mark",
        "INSERT INTO assessment_mark SELECT application_id, staff_id, 'zz', 1, '', now() FROM assessment LIMIT 1",
    ],
)
def test_the_tables_themselves_close_a_submitted_assessment(office: Office, attempt: str) -> None:
    people = office.people
    submitted(office.session, office.application, people["first"], seat=1, assigned_by=people["district"])
    with pytest.raises(IntegrityError, match="submitted assessment does not change"), office.session.begin_nested():
        as_owner(office.session, attempt)


def test_a_number_unlike_its_frozen_figure_wants_a_word_why(paired: Office, make_resident: Callable[..., UUID]) -> None:
    session, application = paired.session, paired.application
    make_resident(HOME)
    live_evidence.freeze(session, application, now=now())  # nobody was active: 0.00 %
    session.commit()
    paired.mark("first", {**MARKS, "b2": 60})
    answer = paired.submit("first")
    refused(answer, 409, "assessment-incomplete")
    assert (answer.json["unmarked"], answer.json["uncommented"]) == ([], ["b2"])

    body = {"marks": [{"item_code": "b2", "value": "60", "comment": "线下活动另有签到表"}]}
    paired.client.patch(paired.path("/assessments/mine"), json=body, headers=paired.tagged("first"))
    assert paired.submit("first").status_code == 200
    paired.assess("second", {**MARKS, "b2": 0})  # as the system says, so without a word


# Alone: every route that an application has

SECRET, FIGURE = "哨兵评语", "73.37"


def readable(app: Flask, office: Office, who: str) -> dict[str, str]:
    """What somebody reads at every address that names an application, and at the lists of their own."""
    known = {"application_id": office.application.id, "staff_id": office.people["first"]}
    found = {}
    for rule in app.url_map.iter_rules():
        concerned = "application_id" in rule.arguments or rule.rule in {
            "/api/v1/creation/assessments",
            "/api/v1/creation/applications",
            "/api/v1/me/notices",
            "/api/v1/creation/ties",
        }
        if "GET" not in (rule.methods or ()) or not concerned:
            continue
        address = rule.rule
        for name in rule.arguments:
            value = known.get(name, uuid4() if "uuid" in rule.rule else "1")
            address = "/".join(
                str(value) if part.endswith(f":{name}>") or part == f"<{name}>" else part for part in address.split("/")
            )
        answer = office.client.get(address, headers=office.headers[who])
        assert answer.status_code < 500, (address, answer.text)
        found[rule.rule] = answer.text
    assert len(found) >= 8, "the creation's routes are not where this test looks"
    return found


def leaks(app: Flask, office: Office, who: str) -> list[str]:
    """The addresses at which somebody reads the other's marks."""
    return [rule for rule, text in readable(app, office, who).items() if SECRET in text or FIGURE in text]


EVERYBODY = ("first", "second", "third", "district", "street", "applicant", "neighbour", "resident", "operator")
# 73.37 in all: 20 + 20 + 33.37.
SECRET_MARKS = {"a1": 1, "a2": 1, "b1": "33.37", "b2": 0}


def test_no_route_tells_anybody_a_mark_before_two_are_in_and_then_it_is_told(app: Flask, paired: Office) -> None:
    paired.mark("second", SECRET_MARKS, comment=SECRET)
    for who in EVERYBODY:
        mine = ["/api/v1/creation/applications/<uuid:application_id>/assessments/mine"] if who == "second" else []
        assert leaks(app, paired, who) == mine, who
    paired.submit("second")
    for who in EVERYBODY:
        if who != "second":
            assert leaks(app, paired, who) == [], who
    for who in ("first", "second", "district", "street"):
        refused(paired.get(who, "/assessments"), 409, "marks-sealed")
    refused(paired.get("applicant", "/assessments"), 404, "not-found")

    paired.assess("first", {**SECRET_MARKS, "b1": 30})

    assert [sheet["total"] for sheet in paired.get("first", "/assessments").json["items"]] == ["70.00", FIGURE]
    assert paired.get("district", "/assessments").status_code == 200
    assert paired.get("street", "/assessments").status_code == 200
    # The applicant reads the result with the public, and never who gave which mark.
    assert leaks(app, paired, "applicant") == []
    refused(paired.get("applicant", "/outcome"), 409, "marks-sealed")
    move_to(paired.session, paired.application, State.REJECTED)
    assert paired.get("applicant", "/outcome").json["score"] == "71.69"
    refused(paired.get("applicant", "/assessments"), 404, "not-found")


def test_a_third_assessor_is_asked_over_two_who_differ_and_reads_neither_before(app: Flask, paired: Office) -> None:
    session = paired.session
    refused(paired.assign("third"), 409, "third-not-wanted")
    paired.assess("first", SECRET_MARKS, comment=SECRET)
    refused(paired.assign("third"), 409, "third-not-wanted")
    paired.assess("second", {**SECRET_MARKS, "b1": 5})  # 45: 28.37 apart, and 10 are tolerated
    assert paired.outcome().decision is Decision.THIRD_WANTED
    told = session.scalars(
        sa.select(Notice.kind).where(Notice.person_id == paired.people["district"]).order_by(Notice.id)
    ).all()
    assert told[-1] == "third-assessor-wanted"

    # Before being asked, the one who will be third could be anybody of the district; so nobody there reads them yet.
    for who in ("third", "district", "street", "applicant"):
        assert leaks(app, paired, who) == [], who
    assert paired.get("first", "/assessments").status_code == 200, "the two have nothing left to decide"
    assert paired.assign("third").json["seat"] == 3
    for who in ("third", "district"):
        assert leaks(app, paired, who) == [], who
        refused(paired.get(who, "/assessments"), 409, "marks-sealed")
    assert paired.get("district", "/outcome").json["score"] is None
    paired.assess("third", {**SECRET_MARKS, "b1": 8})  # 48

    found = paired.outcome()
    assert (found.complete, found.assessors, found.score) == (True, 3, Decimal("48.00")), "the median"
    assert found.passed is False
    for who in ("first", "second", "third", "district", "street"):
        assert len(paired.get(who, "/assessments").json["items"]) == 3, who
    refused(paired.assign("neighbour"), 409, "third-not-wanted")


@pytest.mark.parametrize(
    ("totals", "failed", "decision"),
    [
        ((80, 90), ((), ()), Decision.COMPLETE),
        ((80, "90.01"), ((), ()), Decision.THIRD_WANTED),
        ((80, 80), ((), ("a1",)), Decision.THIRD_WANTED),
        ((80, 80), (("a1",), ("a2",)), Decision.THIRD_WANTED),
        ((80, 80), (("a1",), ("a1",)), Decision.COMPLETE),
    ],
)
def test_two_differ_by_more_than_the_rubric_tolerates_or_about_a_must_meet_item(
    office: Office, totals: Sequence[Any], failed: Sequence[Sequence[str]], decision: Decision
) -> None:
    people = office.people
    for place, who in enumerate(("first", "second"), 1):
        submitted(
            office.session,
            office.application,
            people[who],
            seat=place,
            total=totals[place - 1],
            failed=failed[place - 1],
            assigned_by=people["district"],
        )
    assert office.outcome().decision is decision
    # The table holds the same line, whatever the code says.
    third = {"seat_number": 3, "assigned_by": people["district"]}
    if decision is Decision.THIRD_WANTED:
        seat(office.session, office.application, people["third"], **third)
    else:
        with pytest.raises(IntegrityError, match="only when two are in and differ"), office.session.begin_nested():
            seat(office.session, office.application, people["third"], **third)


def test_a_must_meet_item_fails_when_most_of_three_say_so() -> None:
    assert failed_by_most([["a1"], ["a1", "a2"], []]) == ("a1",)
    assert failed_by_most([["a1"], [], []]) == ()
    assert failed_by_most([["a1"], ["a1"]]) == ("a1",)
    assert failed_by_most([["a1"], []]) == (), "one of two is no majority; they differ and have a third"


POINTS = st.decimals(0, 100, places=2)


@given(st.lists(POINTS, min_size=2, max_size=3))
def test_the_final_score_lies_between_the_marks_whoever_sits_where(totals: list[Decimal]) -> None:
    found = final_score(totals)
    assert min(totals) <= found <= max(totals)
    assert {final_score(list(order)) for order in itertools.permutations(totals)} == {found}
    if len(totals) == 3:
        assert found in totals


@given(POINTS, POINTS, POINTS)
def test_one_of_three_cannot_carry_the_score_outside_the_other_two(one: Decimal, other: Decimal, odd: Decimal) -> None:
    assert min(one, other) <= final_score([one, other, odd]) <= max(one, other)


# Who may assess


def test_nobody_assesses_what_they_belong_to_or_have_a_tie_to(
    office: Office, make_staff: MakeStaff, headers_of: SignIn
) -> None:
    session = office.session
    school, other_school = make_school(session), make_school(session, community=NEXT_DOOR)
    rubric = make_rubric(session, kind=SubjectKind.ORGANISATION, code="school-try")
    of_school = make_application(session, rubric, organisation=school)
    people = {
        "community": make_staff(Role.COMMUNITY_STAFF, division=HOME),
        "street": make_staff(Role.STREET, division=STREET),
        "school": make_staff(Role.SCHOOL_STAFF, organisation=school),
        "school next door": make_staff(Role.SCHOOL_STAFF, organisation=other_school),
        "next community": make_staff(Role.COMMUNITY_STAFF, division=NEXT_DOOR),
        "other street": make_staff(Role.STREET, division=ASSESSORS_STREET),
        "declared community": make_staff(Role.ASSESSOR, division=DISTRICT),
        "declared street": make_staff(Role.ASSESSOR, division=DISTRICT),
        "declared school": make_staff(Role.ASSESSOR, division=DISTRICT),
        "declared elsewhere": make_staff(Role.ASSESSOR, division=DISTRICT),
        "tie over": make_staff(Role.ASSESSOR, division=DISTRICT),
    }
    for who, place in (
        ("declared community", {"division": HOME}),
        ("declared street", {"division": STREET}),
        ("declared school", {"organisation_id": str(school)}),
        ("declared elsewhere", {"division": NEXT_DOOR}),
        ("tie over", {"division": HOME}),
    ):
        headers = headers_of(people[who], is_resident=False)
        body = {**place, "reason": "曾任职"}
        declared = office.client.post("/api/v1/creation/ties", json=body, headers=headers)
        assert declared.status_code == 201, declared.text
        if who == "tie over":
            ended = office.client.post(
                f"/api/v1/creation/ties/{declared.json['id']}/end", headers=office.headers["district"]
            )
            assert ended.status_code == 200, ended.text
    expected = {
        "community": ("own-community", "own-community"),
        "street": ("own-street", "own-street"),
        "school": ("own-community", "own-organisation"),
        "school next door": (None, None),
        "next community": (None, None),
        "other street": (None, None),
        "declared community": ("declared", "declared"),
        "declared street": ("declared", "declared"),
        "declared school": (None, "declared"),
        "declared elsewhere": (None, None),
        "tie over": (None, None),
    }
    for who, wanted in expected.items():
        for application, tie in zip((office.application, of_school), wanted, strict=True):
            answer = office.client.post(
                f"/api/v1/creation/applications/{application.id}/assessors",
                json={"staff_id": str(people[who])},
                headers=office.headers["district"],
            )
            if tie is None:
                assert answer.status_code == 201, (who, answer.text)
                session.execute(sa.delete(Assessment))  # each alone, so that the seats do not run out
                session.commit()
                continue
            refused(answer, 409, "assessor-tied")
            assert [each["code"] for each in answer.json["ties"]] == [tie], who
            # The table holds the same, whatever the code says.
            with pytest.raises(IntegrityError, match="has a tie to the applicant"), session.begin_nested():
                seat(session, application, people[who], assigned_by=office.people["district"])


def test_a_school_of_the_community_that_applies_is_tied_and_another_school_s_application_is_not_its_own(
    office: Office, make_staff: MakeStaff
) -> None:
    session = office.session
    school, neighbour_school = make_school(session), make_school(session)
    rubric = make_rubric(session, kind=SubjectKind.ORGANISATION, code="school-try")
    of_neighbour = make_application(session, rubric, organisation=neighbour_school)
    teacher = make_staff(Role.SCHOOL_STAFF, organisation=school)
    assert conflicts.ties_of(session, teacher, office.application) == [conflicts.Tie.OWN_COMMUNITY]
    assert conflicts.ties_of(session, teacher, of_neighbour) == []


def test_who_had_a_hand_in_an_application_does_not_assess_it_in_another_role(
    office: Office, make_staff: MakeStaff
) -> None:
    """The street's reviewer has since moved to the district office; so has the one who wrote the draft."""
    session = office.session
    reviewer, author = (make_staff(Role.DISTRICT, division=DISTRICT) for _ in range(2))
    application = make_application(session, office_rubric(session), State.DRAFT, community=NEXT_DOOR, created_by=author)
    move_to(session, application, State.DISTRICT_REVIEW, by=reviewer)
    for person in (reviewer, author):
        answer = office.client.post(
            f"/api/v1/creation/applications/{application.id}/assessors",
            json={"staff_id": str(person)},
            headers=office.headers["district"],
        )
        refused(answer, 409, "assessor-tied")
        assert [each["code"] for each in answer.json["ties"]] == ["took-part"]


def test_a_tie_that_comes_up_after_the_assignment_stops_the_marking(paired: Office) -> None:
    """An expert takes a post in the community: roles change, and the assignment is weeks old."""
    session = paired.session
    paired.mark("first", MARKS)
    version = paired.get("first", "/assessments/mine").json["version"]
    session.execute(
        sa.update(Staff).where(Staff.id == paired.people["first"]).values(role=Role.COMMUNITY_STAFF, division=HOME)
    )
    session.commit()
    for answer in (paired.mark("first", {"a1": 0}, version=version), paired.submit("first")):
        refused(answer, 409, "assessor-tied")
        assert [each["code"] for each in answer.json["ties"]] == ["own-community"], "and is told why"
    with pytest.raises(IntegrityError, match="has a tie to the applicant"), session.begin_nested():
        session.execute(
            sa.text(
                "UPDATE assessment SET submitted_at = now(), total = 90, must_meet_failed = '{}' WHERE staff_id = :id"
            ),
            {"id": paired.people["first"]},
        )


def test_a_declared_tie_takes_open_assessments_off_and_tells_who_assigned_them(paired: Office) -> None:
    session = paired.session
    paired.mark("first", MARKS)
    paired.assess("second", MARKS)
    body = {"division": HOME, "reason": "亲属在该社区工作"}
    declared = paired.client.post("/api/v1/creation/ties", json=body, headers=paired.headers["first"])
    paired.client.post("/api/v1/creation/ties", json=body, headers=paired.headers["second"])

    assert declared.status_code == 201, declared.text
    refused(paired.get("first", "/assessments/mine"), 404, "not-found")
    refused(paired.get("first", "/evidence"), 404, "not-found")
    seats = paired.get("district", "/assessors").json["items"]
    assert [row["seat"] for row in seats] == [2], "what is submitted stays"
    assert session.scalar(sa.select(sa.func.count()).where(AssessmentMark.staff_id == paired.people["first"])) == 0
    kinds = session.scalars(sa.select(Notice.kind).where(Notice.person_id == paired.people["district"])).all()
    assert "assessor-taken-off" in kinds
    refused(paired.assign("first"), 409, "assessor-tied")
    assert paired.assign("third").json["seat"] == 1


def test_an_assessor_hands_an_assessment_back_and_the_tie_holds_for_the_next_one(paired: Office) -> None:
    answer = paired.client.post(
        paired.path("/assessments/mine/recusal"), json={"reason": "曾为其提供咨询"}, headers=paired.headers["first"]
    )
    assert answer.status_code == 204, answer.text
    ties = paired.client.get("/api/v1/creation/ties", headers=paired.headers["first"]).json["items"]
    assert [(tie["division"], tie["reason"]) for tie in ties] == [(HOME, "曾为其提供咨询")]
    refused(paired.assign("first"), 409, "assessor-tied")


def test_a_tie_is_declared_by_its_owner_or_the_district_and_ended_by_another_person(
    office: Office, make_staff: MakeStaff
) -> None:
    people, headers, client = office.people, office.headers, office.client
    ties = "/api/v1/creation/ties"
    body = {"division": NEXT_DOOR, "reason": "曾任职"}
    for_another = {**body, "staff_id": str(people["first"])}
    refused(client.post(ties, json=for_another, headers=headers["second"]), 403, "forbidden")
    refused(client.get(f"{ties}?staff_id={people['first']}", headers=headers["second"]), 403, "forbidden")
    declared = client.post(ties, json=for_another, headers=headers["district"])
    assert declared.status_code == 201, declared.text
    refused(client.post(ties, json=body, headers=headers["first"]), 409, "tie-exists")
    listed = client.get(f"{ties}?staff_id={people['first']}", headers=headers["district"])
    assert [tie["id"] for tie in listed.json["items"]] == [declared.json["id"]]
    own = client.post(ties, json=body, headers=headers["district"])
    refused(client.post(f"{ties}/{own.json['id']}/end", headers=headers["district"]), 403, "tie-ended-by-owner")
    refused(client.post(f"{ties}/{own.json['id']}/end", headers=headers["first"]), 403, "forbidden")
    assert client.post(f"{ties}/{own.json['id']}/end", headers=headers["third"]).status_code == 200
    refused(client.post(f"{ties}/{own.json['id']}/end", headers=headers["third"]), 404, "not-found")
    refused(client.post(ties, json={"reason": "x"}, headers=headers["first"]), 422, "tie-subject-invalid")
    missing = {"division": "999999", "reason": "x"}
    refused(client.post(ties, json=missing, headers=headers["first"]), 422, "tie-subject-invalid")


def test_the_table_lets_a_tie_only_end_and_by_another_person(office: Office) -> None:
    session, people = office.session, office.people
    session.add(
        AssessorConflict(
            id=new_id(),
            staff_id=people["first"],
            division=HOME,
            reason="曾任职",
            declared_by=people["first"],
            declared_at=now(),
        )
    )
    session.commit()
    ended = "UPDATE assessor_conflict SET ended_at = now() + interval '1 day', ended_by = {}"
    for attempt, refusal in (
        (ended.format("staff_id"), "ended_by_another"),
        ("UPDATE assessor_conflict SET division = '120104001003'", "only ends"),
        ("DELETE FROM assessor_conflict", "append-only"),
    ):
        with pytest.raises(IntegrityError, match=refusal), session.begin_nested():
            as_owner(session, attempt)
    session.execute(sa.text(ended.format(":by")), {"by": people["district"]})
    with pytest.raises(IntegrityError, match="only ends"), session.begin_nested():
        session.execute(sa.text("UPDATE assessor_conflict SET ended_at = NULL, ended_by = NULL"))


def test_who_cannot_assess_is_not_assigned(office: Office, make_staff: MakeStaff) -> None:
    session, people = office.session, office.people
    people["disabled"] = make_staff(Role.ASSESSOR, division=DISTRICT)
    session.execute(sa.update(Staff).where(Staff.id == people["disabled"]).values(enabled=False))
    people["nobody"] = uuid4()
    session.commit()
    refused(office.assign("district"), 422, "assessor-unsuitable")
    refused(office.assign("disabled"), 422, "assessor-unsuitable")
    refused(office.assign("operator"), 422, "assessor-unsuitable")
    refused(office.assign("nobody"), 404, "not-found")
    assert office.assign("first").status_code == 201
    refused(office.assign("first"), 409, "already-assigned")
    for who in ("street", "applicant", "first"):
        refused(office.assign("second", by=who), 403, "forbidden")


def test_nobody_is_assigned_by_themselves_in_the_table_either(office: Office) -> None:
    person = office.people["third"]
    with pytest.raises(IntegrityError, match="assigned_by_another"), office.session.begin_nested():
        seat(office.session, office.application, person, assigned_by=person)


def test_assessors_are_assigned_and_mark_only_while_the_district_reviews(paired: Office) -> None:
    paired.mark("first", MARKS)
    move_to(paired.session, paired.application, State.REJECTED)
    refused(paired.assign("third"), 409, "not-under-review")
    refused(paired.mark("first", {"a1": 0}), 409, "not-under-review")
    refused(paired.submit("first"), 409, "not-under-review")
    refused(paired.take_off("first"), 409, "not-under-review")
    early = make_application(paired.session, office_rubric(paired.session), State.STREET_REVIEW, community=NEXT_DOOR)
    answer = paired.client.post(
        f"/api/v1/creation/applications/{early.id}/assessors",
        json={"staff_id": str(paired.people["first"])},
        headers=paired.headers["district"],
    )
    refused(answer, 409, "not-under-review")


def test_an_assessor_who_has_not_submitted_is_taken_off_with_a_reason(paired: Office) -> None:
    refused(paired.take_off("first", reason=" "), 422, "invalid-request")
    refused(paired.take_off("first", by="street"), 403, "forbidden")
    assert paired.take_off("first").status_code == 204
    refused(paired.take_off("first"), 404, "not-found")
    refused(paired.get("first", "/assessments/mine"), 404, "not-found")
    assert [row["seat"] for row in paired.get("district", "/assessors").json["items"]] == [2]


def test_an_assessor_sees_what_is_assigned_and_nothing_else(paired: Office, make_staff: MakeStaff) -> None:
    session = paired.session
    other = make_application(session, office_rubric(session), community=NEXT_DOOR)
    listed = paired.client.get("/api/v1/creation/assessments", headers=paired.headers["first"])
    assert [each["application_id"] for each in listed.json["items"]] == [str(paired.application.id)]
    none = paired.client.get("/api/v1/creation/assessments?submitted=true", headers=paired.headers["first"])
    assert none.json["items"] == []
    for rest in ("evidence", "live-figures", "visits", "outcome", "assessments", "assessments/mine"):
        path = f"/api/v1/creation/applications/{other.id}/{rest}"
        answer = paired.client.get(path, headers=paired.headers["first"])
        assert answer.status_code == 404, (rest, answer.text)
    refused(paired.get("first", "/assessors"), 403, "forbidden")
    refused(paired.get("neighbour", "/assessments/mine"), 404, "not-found")


# Agreement


def test_the_intraclass_correlation_is_that_of_shrout_and_fleiss() -> None:
    """Table 2 of Shrout and Fleiss 1979: four judges, six targets, ICC(1,1) = .17."""
    judged = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    found = intraclass_correlation(judged)
    assert found is not None
    assert round(found, 2) == 0.17
    assert intraclass_correlation([[1, 1], [5, 5], [9, 9]]) == 1
    assert intraclass_correlation([[5, 5], [5, 5]]) is None, "nothing varies"
    assert intraclass_correlation([[1, 2]]) is None
    assert intraclass_correlation([]) is None


def test_agreement_about_met_or_not_is_scott_s_pi() -> None:
    """Counts 45, 25, 15, 15: agreement 0.60, by chance 0.65² + 0.35² = 0.545, so pi = 0.055 / 0.455."""
    pairs = [(1.0, 1.0)] * 45 + [(1.0, 0.0)] * 25 + [(0.0, 1.0)] * 15 + [(0.0, 0.0)] * 15
    found = chance_corrected(pairs)
    assert found is not None
    assert found == pytest.approx(0.055 / 0.455)
    assert chance_corrected([(1.0, 1.0), (0.0, 0.0)]) == 1
    assert chance_corrected([(1.0, 0.0), (0.0, 1.0)]) == -1
    assert chance_corrected([(1.0, 1.0)]) is None, "chance alone agrees too"
    assert chance_corrected([]) is None


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=30))
def test_agreement_does_not_depend_on_who_sits_in_which_seat(pairs: list[tuple[int, int]]) -> None:
    found = chance_corrected(pairs)
    turned = chance_corrected([(second, first) for first, second in pairs])
    assert found == pytest.approx(turned) if found is not None else turned is None
    assert found is None or -1 - 1e-9 <= found <= 1


def test_the_report_counts_complete_assessments_only(office: Office) -> None:
    session, people = office.session, office.people
    rubric = office_rubric(session)
    path = f"/api/v1/creation/rubrics/{rubric.id}/agreement"
    empty = office.client.get(path, headers=office.headers["district"]).json
    assert (empty["applications"], empty["icc"], empty["mean_difference_points"]) == (0, None, None)
    for first, second in ((90, 84), (70, 76), (50, 48)):
        application = make_application(session, rubric, community=new_community(session))
        for place, (who, total) in enumerate((("first", first), ("second", second)), 1):
            marks = {"a1": 1, "a2": int(total > 60), "b1": total - 60 if total > 60 else 20, "b2": 60}
            submitted(
                session,
                application,
                people[who],
                seat=place,
                total=total,
                failed=[] if total > 60 else ["a2"],
                marks=marks,
                assigned_by=people["district"],
            )
    apart = make_application(session, rubric, community=new_community(session))
    for place, (who, total) in enumerate((("first", 90), ("second", 10)), 1):
        submitted(session, apart, people[who], seat=place, total=total, assigned_by=people["district"])
    half = make_application(session, rubric, community=new_community(session))
    submitted(session, half, people["first"], seat=1, total=99, assigned_by=people["district"])

    report = office.client.get(path, headers=office.headers["district"]).json

    assert (report["applications"], report["third_wanted"], report["maximum"]) == (3, 0, 100)
    assert report["mean_difference_points"] == pytest.approx(14 / 3, abs=1e-4)
    assert report["mean_difference_percent"] == pytest.approx(14 / 3, abs=1e-4)
    expected = intraclass_correlation([(90, 84), (70, 76), (50, 48)])
    assert report["icc"] == pytest.approx(expected, abs=1e-4)
    items = {item["item_code"]: item for item in report["items"]}
    assert (items["a1"]["same_share"], items["a1"]["kappa"]) == (1, None)
    assert (items["a2"]["same_share"], items["a2"]["kappa"]) == (1, 1)
    assert items["b1"]["same_share"] == pytest.approx(1 / 3, abs=1e-4)
    assert items["b1"]["mean_difference_points"] == 4
    leanings = {each["staff_id"]: each for each in report["assessors"]}
    assert leanings[str(people["first"])]["mean_difference_points"] == pytest.approx(2 / 3, abs=1e-4)
    assert leanings[str(people["second"])]["mean_difference_points"] == pytest.approx(-2 / 3, abs=1e-4)
    third = submitted(session, apart, people["third"], seat=3, total=60, assigned_by=people["district"])
    assert third.seat == 3
    report = office.client.get(path, headers=office.headers["district"]).json
    assert (report["applications"], report["third_wanted"]) == (4, 1)
    refused(office.client.get(path, headers=office.headers["street"]), 403, "forbidden")


def test_the_report_of_an_unknown_rubric_is_not_found(office: Office) -> None:
    answer = office.client.get(f"/api/v1/creation/rubrics/{uuid4()}/agreement", headers=office.headers["district"])
    refused(answer, 404, "not-found")


def test_a_report_does_not_ask_the_database_more_the_more_applications_there_are(
    office: Office, make_staff: MakeStaff
) -> None:
    session, people = office.session, office.people
    rubric = office_rubric(session)
    district = Actor(people["district"], Role.DISTRICT, new_id(), division=DISTRICT)

    def statements() -> int:
        count = 0

        def counting(*_: Any) -> None:
            nonlocal count
            count += 1

        sa.event.listen(session.connection(), "before_cursor_execute", counting)
        agreement.agreement_of(session, district, rubric.id)
        sa.event.remove(session.connection(), "before_cursor_execute", counting)
        return count

    def add() -> None:
        application = make_application(session, rubric, community=new_community(session))
        for place, who in enumerate(("first", "second"), 1):
            submitted(session, application, people[who], seat=place, assigned_by=people["district"])

    add()
    few = statements()
    for _ in range(5):
        add()
    assert statements() == few
