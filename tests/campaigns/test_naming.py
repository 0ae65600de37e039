"""Naming, the public register, and the re-check that keeps, bends or withdraws a name."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine
from creation_builders import (
    COMMUNITY,
    DISTRICT,
    START,
    STREET,
    Case,
    actor_of,
    case_of,
    load_data,
    new_staff,
    put_small_rubric_in_force,
)
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaigns.creation import applications, jobs, naming, process
from campaigns.creation.applications import AlreadyNamed
from campaigns.creation.models import Application, Naming, Recheck
from campaigns.creation.naming import PlaqueTooEarly, RecheckClosed, RecheckDayInvalid, Standing
from campaigns.creation.process import StepNotReady
from campaigns.creation.steps import ApplicationState, Move
from server.access import Role
from server.clock import business_day
from server.errors import Forbidden, ReasonRequired
from server.notices.models import Notice

Headers = dict[str, str]
SignIn = Callable[..., Headers]
S, M = ApplicationState, Move


@pytest.fixture
def case(session: Session, clock: time_machine.Traveller) -> Case:
    """A draft of a community under the small rubric."""
    load_data(session)
    put_small_rubric_in_force(session)
    return case_of(session)


def refused(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text


def neighbour_of(case: Case, community: str) -> Case:
    staff = actor_of(new_staff(case.session, Role.COMMUNITY_STAFF, community), Role.COMMUNITY_STAFF, division=community)
    draft = applications.create(case.session, staff, programme_code="green-community", now=START)
    return Case(case.session, staff, case.street, case.district, draft)


def naming_of(case: Case) -> Naming:
    return case.session.get_one(Naming, case.application.id, populate_existing=True)


def unmet(case: Case, step: Move, **arguments: Any) -> list[str]:
    with pytest.raises(StepNotReady) as raised:
        case.move(case.district, step, **arguments)
    return [each["guard"] for each in raised.value.extra["unmet"]]


# The name


def test_a_name_has_a_number_a_day_a_validity_and_a_day_of_re_check(case: Case) -> None:
    case.to(S.NAMED)
    named = naming_of(case)
    assert (named.number, named.named_on) == ("120104-GC-2026-0001", date(2026, 11, 26))
    assert (named.valid_until, named.recheck_due_on) == (date(2029, 11, 26), date(2027, 11, 26))
    assert (named.plaque_on, named.grace_until, named.withdrawn_on) == (None, None, None)


def test_numbers_run_without_gaps_also_over_a_name_that_failed(case: Case) -> None:
    case.to(S.NAMED)
    second = neighbour_of(case, "120104001003").to(S.OBJECTIONS)
    with case.session.begin_nested() as failing:
        second.move(case.district, M.NAME)
        failing.rollback()
    case.session.expire_all()
    second.move(case.district, M.NAME)
    third = neighbour_of(case, "120104001005").to(S.NAMED)
    assert [naming_of(each).number[-4:] for each in (case, second, third)] == ["0001", "0002", "0003"]


def test_a_name_waits_for_the_last_day_of_the_notice_to_pass(case: Case) -> None:
    case.to(S.NOTICE)
    case.at = START.replace(day=25, hour=23)  # the seventh day after the 18th
    assert unmet(case, M.END_NOTICE) == ["notice-over"]
    case.later(1)
    case.move(case.district, M.END_NOTICE)
    assert case.move(case.district, M.NAME).state is S.NAMED


def test_no_name_by_sql_without_assessments_notice_and_answers(case: Case) -> None:
    """The trigger on the register, each of its conditions by itself, against the owner of the schema as well."""
    case.to(S.NOTICE)
    objection = case.object()
    session, id = case.session, case.application.id

    def attempt(named_on: date) -> str | None:
        try:
            with session.begin_nested() as inner:
                session.execute(
                    sa.text(
                        "INSERT INTO naming (application_id, number, named_on, valid_until, named_by, named_at) "
                        "VALUES (:id, '120104-GC-2026-0099', :named_on, '2030-01-01', :by, now())"
                    ),
                    {"id": id, "named_on": named_on, "by": case.district.id},
                )
                inner.rollback()
        except IntegrityError as error:
            return str(error.orig.diag.message_primary)  # type: ignore[union-attr]
        return None

    early, late = date(2026, 11, 25), date(2026, 11, 26)
    assert attempt(late) == "only what is through its notice is named"
    case.later(8)
    case.move(case.district, M.END_NOTICE)
    assert attempt(early) == "no name before the notice is over"
    assert attempt(late) == "no name over an objection that is open or upheld"
    case.answer(objection, upheld=True)
    assert attempt(late) == "no name over an objection that is open or upheld"
    session.execute(sa.text("SET LOCAL ROLE NONE"))
    session.execute(sa.text("ALTER TABLE objection DISABLE TRIGGER objection_hold_objection"))
    session.execute(sa.text("UPDATE objection SET upheld = false"))
    assert attempt(late) is None, "all is there"
    # An assessment out of the way, then two that differ, then a third that settles them.
    session.execute(sa.text("ALTER TABLE assessment DISABLE TRIGGER USER"))
    unassessed = "no name without two assessments, and a third where they differ"
    with session.begin_nested() as inner:
        session.execute(sa.text("DELETE FROM assessment WHERE seat = 2"))
        assert attempt(late) == unassessed
        inner.rollback()
    for change in ("total = total + 4", "must_meet_failed = ARRAY['1.1']"):
        with session.begin_nested() as inner:
            session.execute(sa.text(f"UPDATE assessment SET {change} WHERE seat = 1"))
            assert attempt(late) == unassessed
            session.execute(sa.text("UPDATE assessment SET seat = 3 WHERE seat = 2"))
            assert attempt(late) == unassessed, "a third does not stand in for the second"
            session.execute(sa.text("UPDATE assessment SET seat = 2 WHERE seat = 3"))
            case.assess(17)
            assert attempt(late) is None
            inner.rollback()


def test_a_line_of_the_register_stays_as_it_was_written(case: Case) -> None:
    case.to(S.NAMED)
    for sql in (
        "UPDATE naming SET number = '120104-GC-2026-0007'",
        "UPDATE naming SET named_on = named_on - 1",
        "UPDATE naming SET application_id = gen_random_uuid()",
        "DELETE FROM naming",
        "TRUNCATE naming",
    ):
        for role in ("tanpuhui_app", "NONE"):
            case.session.execute(sa.text(f"SET LOCAL ROLE {role}"))
            with pytest.raises(sa.exc.DBAPIError), case.session.begin_nested():
                case.session.execute(sa.text(sql))


def test_the_plaque_is_given_on_or_after_the_day_of_the_name(case: Case) -> None:
    case.to(S.NAMED)
    named_on = naming_of(case).named_on
    for day in (named_on - timedelta(days=1), business_day(case.at) + timedelta(days=1)):
        with pytest.raises(PlaqueTooEarly):
            naming.set_plaque_day(case.session, case.district, case.application.id, day, now=case.at)
    with pytest.raises(Forbidden):
        naming.set_plaque_day(case.session, case.street, case.application.id, named_on, now=case.at)
    given = naming.set_plaque_day(case.session, case.district, case.application.id, named_on, now=case.at)
    assert given.plaque_on == named_on


def test_who_bears_a_name_does_not_apply_again_until_it_is_withdrawn(case: Case) -> None:
    case.to(S.NAMED)
    with pytest.raises(AlreadyNamed):
        applications.create(case.session, case.applicant, programme_code="green-community", now=case.at)
    case.later(400)
    case.move(case.district, M.BEGIN_RECHECK)
    case.record_findings()
    case.move(case.district, M.WITHDRAW, reason="不再达标")
    # The rubric of 2026 is the newest in force, and the application under it is over.
    again = applications.create(case.session, case.applicant, programme_code="green-community", now=case.at)
    assert (again.state, again.year) == (S.DRAFT, 2026)


# The re-check


def test_the_clock_begins_a_re_check_on_its_day(
    case: Case, session: Session, app: Flask, clock: time_machine.Traveller
) -> None:
    case.to(S.NAMED)
    session.commit()
    due = case.at.replace(year=2027)
    with app.app_context():
        clock.move_to(due - timedelta(days=1))
        assert jobs.run_daily(scheduled_at=0)["rechecks_begun"] == 0
        clock.move_to(due)
        assert jobs.run_daily(scheduled_at=0)["rechecks_begun"] == 1
        assert jobs.run_daily(scheduled_at=0)["rechecks_begun"] == 0
    session.expire_all()
    assert session.get_one(Application, case.application.id).state is S.RECHECK
    assert session.scalars(sa.select(Recheck.began_on)).all() == [business_day(due)]
    told = session.scalars(sa.select(Notice.kind).where(Notice.person_id == case.applicant.id)).all()
    assert "application-begin-recheck" in told


def test_nothing_is_decided_before_the_findings_are_recorded(case: Case) -> None:
    case.to(S.RECHECK)
    until = business_day(case.at) + timedelta(days=30)
    assert unmet(case, M.RETAIN) == ["recheck-recorded"]
    assert unmet(case, M.GIVE_GRACE, reason="整改", grace_until=until) == ["recheck-recorded"]
    assert unmet(case, M.WITHDRAW, reason="不达标") == ["recheck-recorded"]
    case.record_findings()
    with pytest.raises(ReasonRequired):
        case.move(case.district, M.WITHDRAW)
    assert case.move(case.district, M.RETAIN).state is S.NAMED


def test_a_name_retained_is_valid_anew_and_re_checked_again(case: Case) -> None:
    case.to(S.RECHECK)
    case.record_findings()
    case.move(case.district, M.RETAIN)
    named = naming_of(case)
    assert named.valid_until == naming.months_after(business_day(case.at), 36)
    assert named.recheck_due_on == naming.months_after(business_day(case.at), 12)
    assert [each.result for each in naming.rechecks_of(case.session, case.applicant, case.application.id)] == [M.RETAIN]


def test_findings_lie_inside_the_re_check_and_end_with_its_decision(case: Case) -> None:
    case.to(S.RECHECK)
    began = business_day(case.at)

    def record(visited_on: date, actor: Any = None) -> Recheck:
        return naming.record_findings(
            case.session,
            actor or case.street,
            case.application.id,
            visited_on=visited_on,
            people=["张三", "李四"],
            findings="合格",
            now=case.at,
        )

    for day in (began - timedelta(days=1), began + timedelta(days=1)):
        with pytest.raises(RecheckDayInvalid):
            record(day)
    with pytest.raises(Forbidden):
        record(began, case.applicant)
    record(began)
    case.move(case.district, M.RETAIN)
    with pytest.raises(RecheckClosed):
        record(began)
    case.session.flush()
    for role in ("tanpuhui_app", "NONE"):
        case.session.execute(sa.text(f"SET LOCAL ROLE {role}"))
        with pytest.raises(sa.exc.DBAPIError), case.session.begin_nested():
            case.session.execute(sa.text("UPDATE recheck SET findings = '别的'"))


def test_who_was_given_time_keeps_it_to_its_end(case: Case) -> None:
    case.to(S.GRACE)
    assert naming_of(case).grace_until == business_day(case.at) + timedelta(days=30)
    assert unmet(case, M.WITHDRAW, reason="逾期") == ["grace-over"]
    case.later(30)
    assert unmet(case, M.WITHDRAW, reason="逾期") == ["grace-over"]
    case.later(1)
    case.move(case.district, M.WITHDRAW, reason="逾期未整改")
    named = naming_of(case)
    assert (named.withdrawn_on, named.recheck_due_on, named.grace_until) == (business_day(case.at), None, None)
    with pytest.raises(PlaqueTooEarly):
        naming.set_plaque_day(case.session, case.district, case.application.id, named.named_on, now=case.at)


def test_what_was_mended_is_re_checked_and_kept(case: Case) -> None:
    case.to(S.GRACE)
    case.move(case.applicant, M.REPORT_MENDED, reason="已整改")
    assert naming_of(case).grace_until is None
    assert unmet(case, M.RETAIN) == ["recheck-recorded"], "the old findings do not count"
    case.record_findings()
    case.move(case.district, M.RETAIN)
    rechecks = naming.rechecks_of(case.session, case.district, case.application.id)
    assert [(each.position, each.result) for each in rechecks] == [(1, M.GIVE_GRACE), (2, M.RETAIN)]
    assert process.open_moves(case.district, case.application) == [M.BEGIN_RECHECK]


# The register


def test_the_register_is_public_and_a_number_is_verified_with_its_history(client: FlaskClient, case: Case) -> None:
    case.to(S.GRACE)
    case.session.commit()
    number = naming_of(case).number
    line = client.get(f"/api/v1/creation/register/{number}").json
    assert (line["number"], line["standing"], line["programme_zh"]) == (number, "grace", "绿色社区")
    assert [each["move"] for each in line["history"]] == ["name", "begin-recheck", "give-grace"]
    assert set(line["history"][0]) == {"move", "on"}, "neither people nor reasons"
    assert line["rubric"]["confidence"] == "R"
    refused(client.get("/api/v1/creation/register/120104-GC-2026-9999"), 404, "not-found")
    refused(client.get("/api/v1/creation/register/'--"), 404, "not-found")
    listed = client.get(f"/api/v1/creation/register?division={STREET}").json["items"]
    assert [row["number"] for row in listed] == [number]
    assert client.get("/api/v1/creation/register?division=120104002").json["items"] == []
    assert client.get("/api/v1/creation/register?programme=green-mall").json["items"] == []
    refused(client.get("/api/v1/creation/register?cursor=xyz"), 422, "bad-cursor")


def test_the_register_says_how_each_name_stands_today(case: Case) -> None:
    case.to(S.NAMED)
    other = neighbour_of(case, "120104001003").to(S.WITHDRAWN)

    def standings(on: date, *, standing: bool = False) -> dict[str, Standing]:
        page = naming.list_register(case.session, standing=standing, on=on, limit=50, cursor=None)
        return {line.naming.number[-4:]: line.standing for line in page.items}

    today, named = business_day(other.at), naming_of(case)
    assert standings(today) == {"0001": Standing.STANDING, "0002": Standing.WITHDRAWN}
    assert standings(today, standing=True) == {"0001": Standing.STANDING}
    assert standings(named.valid_until)["0001"] is Standing.STANDING
    assert standings(named.valid_until + timedelta(days=1))["0001"] is Standing.EXPIRED
    case.later(10)
    case.move(case.district, M.BEGIN_RECHECK)
    assert standings(today)["0001"] is Standing.RECHECK


def test_the_plaque_and_the_findings_come_over_http(
    client: FlaskClient, case: Case, sign_in_staff: SignIn, clock: time_machine.Traveller
) -> None:
    case.to(S.RECHECK)
    case.session.commit()
    clock.move_to(case.at)
    district = sign_in_staff(Role.DISTRICT, division=DISTRICT)
    street = sign_in_staff(Role.STREET, division=STREET)
    community = sign_in_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    path = f"/api/v1/creation/applications/{case.application.id}"
    today = business_day(case.at).isoformat()
    plaque = {"plaque_on": today}
    assert client.put(f"{path}/plaque", json=plaque, headers=district).json["plaque_on"] == today
    refused(client.put(f"{path}/plaque", json=plaque, headers=street), 403, "forbidden")
    findings = {"visited_on": today, "people": ["张三", "李四"], "findings": "全部达标"}
    refused(client.put(f"{path}/rechecks/open", json=findings, headers=community), 403, "forbidden")
    alone = client.put(f"{path}/rechecks/open", json={**findings, "people": ["张三"]}, headers=street)
    refused(alone, 422, "invalid-request")
    assert client.put(f"{path}/rechecks/open", json=findings, headers=street).json["findings"] == "全部达标"
    kept = client.post(f"{path}/moves", json={"move": "retain"}, headers=district)
    assert (kept.status_code, kept.json["state"]) == (200, "named")
    assert client.get(f"{path}/rechecks", headers=community).json["rechecks"][0]["result"] == "retain"


@pytest.mark.parametrize(
    ("day", "months", "later"),
    [
        (date(2026, 1, 31), 1, date(2026, 2, 28)),
        (date(2028, 2, 29), 12, date(2029, 2, 28)),
        (date(2026, 11, 26), 36, date(2029, 11, 26)),
        (date(2026, 12, 31), 2, date(2027, 2, 28)),
        (date(2026, 12, 1), 1, date(2027, 1, 1)),
    ],
)
def test_months_end_on_the_same_day_or_on_the_months_last(day: date, months: int, later: date) -> None:
    assert naming.months_after(day, months) == later
