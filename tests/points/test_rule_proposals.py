"""Rules changed by two people: what a replay says, who may decide, when a version holds, and what residents read."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from points_builders import claim, owner, resident, steps_claim
from rule_builders import TODAY, a_month_of_claims, at_home, method_text, pay, received, rules_text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from points.earning import bounds, counts, pricing, wording
from points.earning.models import Activity, EarningRule, Outcome, RuleVersion
from points.earning.proposals import jobs, proposals
from points.earning.proposals.models import ProposalKind, ProposalState, RuleProposal
from points.earning.proposals.proposals import ProposalNotReplayed
from points.earning.proposals.replaying import spread
from server.access import Actor, Role
from server.clock import now
from server.database import db, new_id
from server.errors import PreconditionFailed
from server.notices.models import Notice
from server.people.models import Staff
from server.settings import Settings
from wsgi import create_app

URL = "/api/v1/rule-proposals"
DISTRICT = "120104"
FIRST_ON, LAST_ON = date(2026, 11, 23), date(2026, 12, 22)
WHY = "冬季试行"

Headers = dict[str, str]


@pytest.fixture(autouse=True)
def in_december(clock: time_machine.Traveller) -> None:
    clock.move_to(TODAY)


@pytest.fixture
def proposer(sign_in_staff: Callable[..., Headers]) -> Headers:
    return sign_in_staff(Role.DISTRICT, division=DISTRICT)


@pytest.fixture
def approver(sign_in_staff: Callable[..., Headers]) -> Headers:
    return sign_in_staff(Role.DISTRICT, division=DISTRICT)


@pytest.fixture
def propose(client: FlaskClient, proposer: Headers) -> Callable[..., Any]:
    """A function that proposes rules, and gives the answer."""

    def post(content: str | None = None, headers: Headers = proposer, **values: Any) -> Any:
        body = {"kind": "rules", "content": content or rules_text(), "reason": WHY, **values}
        return client.post(URL, json=body, headers=headers)

    return post


@pytest.fixture
def replayed(app: Flask, connection: sa.Connection) -> Callable[[str], None]:
    """A function that replays a proposal as the job does."""

    def run(proposal_id: str) -> None:
        with app.app_context():
            assert jobs.replay_proposal(UUID(proposal_id))

    return run


def replay(app: Flask, session: Session, tariff: pricing.Tariff, **values: Any) -> dict[str, Any]:
    session.commit()
    with app.app_context():
        return jobs.replay_tariff(tariff, FIRST_ON, LAST_ON, fen_per_100_points=values.get("fen"), progress_of=None)


# The replay


def test_the_rules_in_force_replay_to_exactly_what_was_paid(
    app: Flask, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For some seconds a bound that was passed refuses at its price what a cap would have cut to nothing: no points
    # differ by it, but a claim counts as refused that the replay has as paid with nothing.
    monkeypatch.setattr(bounds, "remember", lambda tariffs, left_points, passed: None)
    people = [resident(session) for _ in range(6)]
    # From the Monday on, so that the first week's caps are those of a week that was read whole.
    awards = pay(session, *a_month_of_claims(people, days=30, seed=20261223))
    reasons = {each.reason.value if each.reason else "paid" for each in awards}
    assert reasons >= {"paid", "overlaps-another-trip", "no-rule", "too-fast", "below-minimum", "too-late"}
    assert reasons >= {"cap-reached", "grade-ceiling-reached", "device-limit-reached"}
    taken_back = [each for each in awards if each.points][:3]
    for each in taken_back:
        row = session.scalars(sa.select(Activity).where(Activity.id == each.activity_id)).one()
        counts.revoke(session, row.resident_id, row.id, why="test", now=TODAY)

    report = replay(app, session, pricing.current(session).on(LAST_ON))  # type: ignore[arg-type]

    paid = sum(each.points for each in awards) - sum(each.points for each in taken_back)
    assert (report["paid_points"], report["replayed_points"]) == (paid, paid)
    assert (report["residents"]["gain"], report["residents"]["lose"]) == (0, 0)
    for mode in report["modes"]:
        assert (mode["paid_points"], mode["paid_claims"]) == (mode["replayed_points"], mode["replayed_claims"]), mode
    assert all(each["recorded"] == each["replayed"] for each in report["refusals"] if each["reason"] != "revoked")
    assert all(each["recorded_mg"] == each["replayed_mg"] for each in report["savings"])


def test_a_replay_says_who_gains_and_loses_by_mode_and_street(app: Flask, session: Session) -> None:
    rider, cyclist = resident(session, "120104001001"), resident(session, "120104002001")
    pay(
        session,
        # 8 points each; doubled, the third of a day meets the cap of 40.
        *(_ride(rider, at_home(2, hour)) for hour in (8, 12, 17)),
        _ride(rider, at_home(3, 8)),
        # The old rules pay it, the new ones do not.
        _ride(cyclist, at_home(3, 8), behaviour="bicycle"),
        # Too short for both.
        _ride(cyclist, at_home(4, 8), distance_m=100),
        # Neither in the period: the day before it and today.
        _ride(rider, at_home(22, 8, month=11)),
        _ride(rider, TODAY - timedelta(hours=3)),
    )
    bicycle_points = 13
    with app.app_context():
        proposed = proposals.read(session, ProposalKind.RULES, rules_text(), base_id=None)
        tariff = proposals.tariff_of(session, proposed)

    report = replay(app, session, tariff, fen=50)

    assert (report["paid_points"], report["replayed_points"]) == (32 + bicycle_points, 40 + 16)
    assert (report["paid_cost_fen"], report["replayed_cost_fen"]) == (22, 28)
    assert (report["residents"]["gain"], report["residents"]["lose"], report["residents"]["same"]) == (1, 1, 0)
    assert (report["residents"]["least"], report["residents"]["most"]) == (-bicycle_points, 24)
    modes = {each["mode"]: each for each in report["modes"]}
    assert (modes["bus"]["paid_points"], modes["bus"]["replayed_points"]) == (32, 56)
    assert (modes["bicycle"]["replayed_claims"], modes["bicycle"]["residents"]["lose"]) == (0, 1)
    streets = {each["code"]: each["replayed_points"] - each["paid_points"] for each in report["streets"]}
    assert streets == {"120104001": 24, "120104002": -bicycle_points}
    refusals = {each["reason"]: (each["recorded"], each["replayed"]) for each in report["refusals"]}
    assert refusals == {"below-minimum": (1, 1), "no-rule": (0, 1)}


def _ride(person: UUID, start: Any, *, behaviour: str = "bus", **values: Any) -> Any:
    return received(claim(person, behaviour, start=start, **values), start + timedelta(hours=1))


def test_a_method_replays_savings_and_changes_no_points(app: Flask, session: Session) -> None:
    person = resident(session)
    pay(session, _ride(person, at_home(2, 8)))
    with app.app_context():
        base = proposals.latest_version(session)
        assert base is not None
        proposed = proposals.read(session, ProposalKind.METHOD, method_text(), base_id=base.id)
        tariff = proposals.tariff_of(session, proposed)

    report = replay(app, session, tariff)

    assert proposed.version.id == f"{base.id}.m20270101"
    assert report["paid_points"] == report["replayed_points"] == 8
    assert report["savings"] == [
        {"method_id": "published-conservative", "recorded_mg": 5 * 26_900, "replayed_mg": 0},
        {"method_id": "trial-method", "recorded_mg": 0, "replayed_mg": 500_000},
    ]


def test_the_spread_counts_every_resident_in_one_class() -> None:
    told = spread([-600, -3, 0, 0, 7, 7, 501])
    assert (told["gain"], told["lose"], told["same"]) == (3, 2, 2)
    assert {(each["above"], each["to"]): each["residents"] for each in told["classes"] if each["residents"]} == {
        (None, -501): 1,
        (-11, -1): 1,
        (-1, 0): 2,
        (0, 10): 2,
        (500, None): 1,
    }
    assert told["quantiles"][3] == {"percent": 50, "points": 0}


# Two people


def test_one_proposes_another_approves_and_the_version_holds_from_its_day(
    client: FlaskClient,
    app: Flask,
    session: Session,
    clock: time_machine.Traveller,
    propose: Callable[..., Any],
    replayed: Callable[[str], None],
    sign_in_staff: Callable[..., Headers],
    proposer: Headers,
    approver: Headers,
) -> None:
    answer = propose(fen_per_100_points=100)
    assert (answer.status_code, answer.json["state"], answer.json["version_id"]) == (201, "proposed", "trial-1")
    mine = f"{URL}/{answer.json['id']}"
    decision = {"reason": "同意"}
    based = {"If-Match": '"1"'}

    def approve(headers: Headers, **more: str) -> tuple[int, str | None]:
        answered = client.post(f"{mine}/approval", json=decision, headers={**headers, **more})
        return answered.status_code, answered.json.get("code")

    assert approve(approver, **based) == (409, "proposal-not-replayed")
    replayed(answer.json["id"])
    read = client.get(mine, headers=approver)
    assert read.json["replay"]["report"]["replayed_points"] == 0
    assert read.headers["ETag"] == '"1"'
    assert approve(approver) == (428, "precondition-required")
    assert approve(proposer, **based) == (409, "proposal-own")
    assert approve(approver, **{"If-Match": '"2"'}) == (412, "precondition-failed")
    assert approve(approver, **based) == (200, None)
    assert approve(approver, **{"If-Match": '"2"'}) == (409, "proposal-closed")

    # A week before its day nothing is written yet, on the day before it is.
    assert enacted(app) == []
    assert session.get(RuleVersion, "trial-1") is None
    clock.move_to(at_home(31, 10))
    assert enacted(app) == [ProposalState.ENACTED]
    session.expire_all()
    pricing.forget()
    person = resident(session)
    new_year = at_home(31, 8) + timedelta(days=1)
    clock.move_to(new_year + timedelta(hours=2))
    paid = pay(session, _ride(person, at_home(31, 8)), _ride(person, new_year))
    assert [each.points for each in paid] == [8, 16]
    told = session.scalars(sa.select(Notice.title_zh).where(Notice.kind == "rule-proposal")).all()
    assert told == ["规则 trial-1 将于 2027-01-01 起生效"] * 2
    before, after = (session.get(RuleVersion, each) for each in ("nankai-2026-2", "trial-1"))
    assert before is not None
    assert after is not None
    assert (before.valid_to, after.valid_from, after.valid_to) == (date(2026, 12, 31), date(2027, 1, 1), None)

    later = sign_in_staff(Role.DISTRICT, division=DISTRICT)
    history = client.get("/api/v1/rule-history", headers=later).json["items"]
    assert [each["version"]["id"] for each in history] == ["trial-1", "nankai-2026-2", "nankai-2026-1"]
    adopted = history[0]["adopted"]
    assert (adopted["reason"], adopted["decision_reason"]) == (WHY, "同意")
    assert adopted["proposed_by"] != adopted["decided_by"]
    assert history[1]["adopted"] is None


def enacted(app: Flask) -> list[ProposalState]:
    with app.app_context():
        return [state for _, state in jobs.enact_due()]


def test_an_approved_version_can_be_withdrawn_until_it_is_written_and_one_too_late_lapses(
    client: FlaskClient,
    app: Flask,
    session: Session,
    clock: time_machine.Traveller,
    propose: Callable[..., Any],
    replayed: Callable[[str], None],
    proposer: Headers,
    approver: Headers,
) -> None:
    made = {}
    for name, day in (("trial-1", "2026-12-30"), ("trial-2", "2027-01-01"), ("trial-3", "2027-02-01")):
        made[name] = propose(rules_text(name, valid_from=day)).json["id"]
        replayed(made[name])
    for name in ("trial-1", "trial-2"):
        path = f"{URL}/{made[name]}/approval"
        assert client.post(path, json={"reason": "同意"}, headers={**approver, "If-Match": '"1"'}).status_code == 200
    path = f"{URL}/{made['trial-2']}/withdrawal"
    withdrawn = client.post(path, json={"reason": "再议"}, headers={**proposer, "If-Match": '"2"'})
    assert (withdrawn.status_code, withdrawn.json["state"]) == (200, "withdrawn")
    # The id is free again, and so is the day.
    assert propose(rules_text("trial-2", valid_from="2027-01-01")).status_code == 201

    # The worker was away for the whole last day: the rules stay as they are.
    clock.move_to(at_home(30, 1))
    assert enacted(app) == [ProposalState.LAPSED]
    clock.move_to(at_home(31, 10) + timedelta(days=1))
    assert enacted(app) == [ProposalState.LAPSED]  # proposed, and nobody decided
    states = dict(
        session.execute(sa.select(RuleProposal.version_id, RuleProposal.state).order_by(RuleProposal.id)).all()
    )
    assert states == {
        "trial-1": ProposalState.LAPSED,
        "trial-2": ProposalState.LAPSED,
        "trial-3": ProposalState.PROPOSED,
    }
    assert session.scalar(sa.select(sa.func.count()).select_from(RuleVersion)) == 2


def test_a_version_is_written_a_minute_before_its_day_or_not_at_all(
    client: FlaskClient,
    app: Flask,
    clock: time_machine.Traveller,
    propose: Callable[..., Any],
    replayed: Callable[[str], None],
    approver: Headers,
) -> None:
    """A process that priced with old rules for seconds of the new day would pay one day by two versions."""
    for name, day in (("trial-1", "2026-12-30"), ("trial-2", "2027-01-01")):
        made = propose(rules_text(name, valid_from=day)).json["id"]
        replayed(made)
        path = f"{URL}/{made}/approval"
        assert client.post(path, json={"reason": "同意"}, headers={**approver, "If-Match": '"1"'}).status_code == 200
    clock.move_to(at_home(29, 23, minute=59) + timedelta(seconds=1))
    assert enacted(app) == [ProposalState.LAPSED]
    clock.move_to(at_home(31, 23, minute=59))
    assert enacted(app) == [ProposalState.ENACTED]


def test_a_replay_that_was_begun_anew_does_not_get_the_report_of_the_one_before(
    client: FlaskClient,
    app: Flask,
    propose: Callable[..., Any],
    proposer: Headers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = f"{URL}/{propose().json['id']}"
    replay_tariff = jobs.replay_tariff

    def overtaken(*args: Any, **values: Any) -> dict[str, Any]:
        report = replay_tariff(*args, **values)
        assert client.post(f"{mine}/replay", headers=proposer).status_code == 202
        return report

    monkeypatch.setattr(jobs, "replay_tariff", overtaken)
    with app.app_context():
        jobs.replay_proposal(UUID(mine.removeprefix(f"{URL}/")))
    kept = client.get(mine, headers=proposer).json["replay"]
    assert (kept["started_at"], kept["finished_at"], kept["report"]) == (None, None, None)


def test_what_cannot_be_rules_is_refused_with_its_fault(client: FlaskClient, propose: Callable[..., Any]) -> None:
    def code(content: str, **values: Any) -> tuple[int, str]:
        answer = propose(content, **values)
        return answer.status_code, answer.json.get("code")

    assert code("id = ") == (422, "proposal-invalid")
    assert code(rules_text(bus_points=-1)) == (422, "proposal-invalid")
    assert code(rules_text(travel_method="warm-v16")) == (422, "proposal-invalid")
    # Written for trial, and refused by the database now and not on the eve of its day.
    assert code(rules_text().replace('"transit"', '"trans\\u0000it"')) == (422, "proposal-invalid")
    assert code(rules_text("trial-0").replace("\n", "\r\n"))[0] == 201
    # A hostile text costs no seconds of a server, and is no fault of ours.
    deep = rules_text().replace("[[rules]]", "[[rules]]\n" + "\n".join(f"{'a.' * 400}b{n} = 1" for n in range(9)), 1)
    began = time.process_time()
    assert code("a." * 20_000 + "a = 1") == (422, "proposal-invalid")
    assert code(deep) == (422, "proposal-invalid")
    assert time.process_time() - began < 2
    assert code(method_text(default="true"), kind="method") == (422, "proposal-invalid")
    assert code(rules_text(valid_from="2026-12-23")) == (409, "proposal-too-soon")
    assert propose(rules_text(valid_from="2026-11-23")).json["earliest_on"] == "2026-12-24"
    assert code(rules_text("nankai-2026-2")) == (409, "proposal-name-taken")
    assert code(method_text("jjj-2024-unconfirmed"), kind="method") == (409, "proposal-name-taken")
    assert code(rules_text()) == (201, None)


def test_only_people_of_the_whole_district_change_rules(
    client: FlaskClient, sign_in_staff: Callable[..., Headers], propose: Callable[..., Any]
) -> None:
    proposal = propose().json["id"]
    street = sign_in_staff(Role.STREET, division="120104001")
    elsewhere = sign_in_staff(Role.DISTRICT, division="120104001")  # a scope narrower than the district
    for path in (URL, f"{URL}/{proposal}", "/api/v1/rule-history"):
        assert client.get(path, headers=street).status_code == 403
        assert client.get(path, headers=elsewhere).status_code == 404
    body = {"kind": "rules", "content": rules_text("trial-9"), "reason": WHY}
    assert client.post(URL, json=body, headers=street).status_code == 403
    assert client.post(URL, json=body, headers=elsewhere).status_code == 404


def test_a_method_takes_effect_with_the_rules_as_they_are(
    client: FlaskClient,
    app: Flask,
    session: Session,
    clock: time_machine.Traveller,
    propose: Callable[..., Any],
    replayed: Callable[[str], None],
    sign_in_staff: Callable[..., Headers],
    approver: Headers,
) -> None:
    made = propose(method_text(), kind="method").json
    other = propose(rules_text("trial-2", valid_from="2026-12-28")).json
    for each in (made, other):
        replayed(each["id"])
        path = f"{URL}/{each['id']}/approval"
        assert client.post(path, json={"reason": "同意"}, headers={**approver, "If-Match": '"1"'}).status_code == 200
    clock.move_to(at_home(27, 10))
    assert enacted(app) == [ProposalState.ENACTED]
    # The rules that the method was to be used with have changed: it would bring back the old ones.
    clock.move_to(at_home(31, 10))
    assert enacted(app) == [ProposalState.LAPSED]
    proposer, approver = (sign_in_staff(Role.DISTRICT, division=DISTRICT) for _ in range(2))
    again = propose(method_text(valid_from="2027-01-05"), kind="method", headers=proposer).json
    replayed(again["id"])
    path = f"{URL}/{again['id']}/approval"
    assert client.post(path, json={"reason": "同意"}, headers={**approver, "If-Match": '"1"'}).status_code == 200
    clock.move_to(at_home(31, 10) + timedelta(days=4))
    assert enacted(app) == [ProposalState.ENACTED]
    session.expire_all()
    version = session.get(RuleVersion, again["version_id"])
    assert version is not None
    assert (version.travel_method_id, version.valid_from) == ("trial-method", date(2027, 1, 5))
    rules = session.scalars(sa.select(EarningRule).where(EarningRule.version_id == version.id)).all()
    assert [(rule.mode, rule.points_per_act) for rule in rules] == [("bus", 16)]


# The database


def test_the_database_refuses_what_no_rule_would_write(
    client: FlaskClient,
    session: Session,
    propose: Callable[..., Any],
    replayed: Callable[[str], None],
    approver: Headers,
) -> None:
    made = propose().json["id"]
    replayed(made)

    def refused(statement: str) -> bool:
        with pytest.raises((IntegrityError, DBAPIError)), session.begin_nested():
            session.execute(sa.text(statement))
        return True

    decided = "decided_at = now(), decision_reason = 'x'"
    to_approved = f"UPDATE rule_proposal SET state = 'approved', version = 2, {decided}"
    assert refused(f"{to_approved}, decided_by = proposed_by")
    assert refused(f"{to_approved}, decided_by = NULL")
    assert refused("UPDATE rule_proposal SET content = 'x', version = 2")
    assert refused("UPDATE rule_proposal SET state = 'enacted', version = 2, enacted_at = now()")
    assert refused("UPDATE rule_proposal SET state = 'lapsed'")  # its step must be counted
    assert refused("UPDATE rule_proposal SET proposed_by = NULL, version = 2")
    with owner(session):
        assert refused("DELETE FROM rule_replay")
        assert refused("DELETE FROM rule_proposal")
    path = f"{URL}/{made}/approval"
    assert client.post(path, json={"reason": "同意"}, headers={**approver, "If-Match": '"1"'}).status_code == 200
    with owner(session):
        assert refused("UPDATE rule_replay SET report = '{}'")
        assert refused("UPDATE rule_proposal SET state = 'proposed', version = 3")
        assert refused("UPDATE rule_proposal SET state = 'withdrawn', version = 3, decision_reason = 'y'")


def test_an_approval_and_a_withdrawal_at_once_cannot_both_be(
    base_settings: Settings, make_database: Callable[[], str]
) -> None:
    url = make_database()
    app = create_app(replace(base_settings, database_url=url, database_owner_url=url))
    with app.app_context():
        account = {"password_hash": "-", "role": Role.DISTRICT, "division": DISTRICT, "created_at": now()}
        people = [Staff(id=new_id(), name=new_id().hex, **account) for _ in range(2)]
        with Session(db.engine, expire_on_commit=False) as session:
            session.add_all(people)
            session.flush()
            one, other = (Actor(each.id, Role.DISTRICT, new_id(), division=DISTRICT) for each in people)
            seen = proposals.propose(
                session,
                one,
                kind=ProposalKind.RULES,
                content=rules_text(),
                reason=WHY,
                fen_per_100_points=None,
                jobs=None,
                now=now(),
            )
            session.commit()
        proposal_id = seen.proposal.id
        jobs.replay_proposal(proposal_id)
        decision = {"version": 1, "reason": "x", "now": now()}
        with (
            Session(db.engine) as first,
            psycopg.connect(url, autocommit=True) as looking,
            ThreadPoolExecutor(1) as pool,
        ):
            waits = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )

            def wait() -> None:
                deadline = time.monotonic() + 10
                while not looking.execute(waits).fetchone()[0]:  # type: ignore[index]
                    assert time.monotonic() < deadline, "nobody came to wait"
                    time.sleep(0.01)

            # The replay is begun anew while it is approved: nobody approves what has no replay.
            proposals.replay_again(first, one, proposal_id, jobs=None, now=now())

            def approve() -> str:
                with app.app_context(), Session(db.engine) as second:
                    try:
                        proposals.approve(second, other, proposal_id, **decision)
                    except ProposalNotReplayed as refusal:
                        return refusal.code
                return "approved"

            approved = pool.submit(approve)
            wait()
            first.commit()
            assert approved.result(timeout=10) == "proposal-not-replayed"
            jobs.replay_proposal(proposal_id)

            proposals.approve(first, other, proposal_id, **decision)

            def withdraw() -> str:
                with app.app_context(), Session(db.engine) as second:
                    try:
                        proposals.withdraw(second, one, proposal_id, **decision)
                        second.commit()
                    except PreconditionFailed as refusal:
                        return refusal.code
                return "withdrawn"

            later = pool.submit(withdraw)
            wait()
            first.commit()
            assert later.result(timeout=10) == "precondition-failed"
        app.extensions["tanpuhui_wechat"].close()
        db.engine.dispose()


# What residents read


def test_everybody_reads_the_rules_in_figures_and_words(client: FlaskClient) -> None:
    listed = client.get("/api/v1/earning/rules").json["items"]
    assert [each["id"] for each in listed] == ["nankai-2026-2", "nankai-2026-1"]
    current = client.get("/api/v1/earning/rules/current").json
    assert current["version"]["id"] == "nankai-2026-2"
    grades = {each["grade"]: (each["percent"], each["week_ceiling_points"]) for each in current["grades"]}
    assert grades["partner-signed"] == (100, None)
    assert grades["sensor"][1] is not None
    assert {each["kind"] for each in current["bounds"]} == {"household", "device", "phone", "staff", "site", "drive"}
    assert len(current["words"]) == 2 + 4 + 6
    assert all(each["name"]["zh"] != each["mode"] for each in current["rules"]), "a mode has no Chinese name"
    first = client.get("/api/v1/earning/rules/nankai-2026-1").json
    bus = next(each for each in first["rules"] if (each["mode"], each["grade"]) == ("bus", "partner-signed"))
    assert bus["words"]["zh"] == (
        "公交（合作方签名的记录）：每次 8 分；不足 0.2 公里 不计；单次超过 80 公里 不计；平均时速超过 100 公里不计；"
        "每人每日最多 40 分，每周最多 200 分（同组合计）。"
    )
    assert client.get("/api/v1/earning/rules/none").status_code == 404


def test_a_resident_reads_the_rule_of_each_activity_and_nobody_elses(
    client: FlaskClient, session: Session, sign_in_resident: Callable[..., Headers], clock: time_machine.Traveller
) -> None:
    mine, theirs = sign_in_resident("alice"), sign_in_resident("bob")
    alice = sign_in_resident.known["alice"]  # type: ignore[attr-defined]
    day = at_home(2, 0)
    ride, steps, more, unknown = pay(
        session,
        _ride(alice, at_home(2, 8), behaviour="bicycle", distance_m=3200, minutes=20),
        *(steps_claim(alice, steps, before, day=day) for steps, before in ((4321, 0), (9000, 4321))),
        _ride(alice, at_home(2, 12), mode="trolley"),
    )[:4]
    session.commit()
    clock.move_to(TODAY)

    def rule_of(activity_id: UUID | None, headers: Headers) -> Any:
        return client.get(f"/api/v1/me/activities/{activity_id}/rule", headers=headers)

    told = rule_of(ride.activity_id, mine).json
    assert (told["points"], told["version"]["id"], told["rule"]["mode"]) == (9, "nankai-2026-2", "bicycle")
    assert told["calculation"]["zh"] == "3 分 + 3.2 公里 × 2 分 = 9 分（向下取整）"
    assert told["calculation"]["en"] == "3 + 3.2 km × 2 = 9 points, rounded down"
    for each, points in ((steps, steps.points), (more, more.points)):
        told = rule_of(each.activity_id, mine).json
        assert (told["rule"]["mode"], told["priced_points"]) == ("steps", points)
        assert f"= {points} 分" in told["calculation"]["zh"]
    told = rule_of(unknown.activity_id, mine).json
    assert (told["rule"], told["calculation"], told["reason"]) == (None, None, "no-rule")
    assert told["reason_zh"]
    assert rule_of(ride.activity_id, theirs).status_code == 404


def test_a_calculation_is_not_told_where_it_does_not_give_the_points(session: Session) -> None:
    rule = session.get(EarningRule, ("nankai-2026-1", "bus", "bus", "partner-signed"))
    assert rule is not None
    paid = Activity(priced_points=8, outcome=Outcome.AWARDED)
    assert wording.calculation(rule, 100, paid) is not None
    assert wording.calculation(rule, 50, paid) is None


def test_an_operator_tries_rules_replays_and_lists_without_deciding(
    app: Flask, session: Session, propose: Callable[..., Any], tmp_path: Path
) -> None:
    pay(session, _ride(resident(session), at_home(2, 8)))
    session.commit()
    (tmp_path / "rules.toml").write_text(rules_text(), "utf-8")
    (tmp_path / "method.toml").write_text(method_text(), "utf-8")
    made = propose().json["id"]
    runner = app.test_cli_runner()

    tried = runner.invoke(args=["rules", "try", str(tmp_path / "rules.toml"), "--fen-per-100-points", "100"])
    assert tried.exit_code == 0, tried.output
    assert "bus / bus / partner-signed" in tried.output
    assert "0.08 yuan, would be 0.16 yuan" in tried.output
    assert runner.invoke(args=["rules", "try", str(tmp_path / "method.toml"), "--method"]).exit_code == 0
    assert "needs exactly" in runner.invoke(args=["rules", "try", str(tmp_path / "rules.toml"), "--method"]).output
    assert "in all" in runner.invoke(args=["rules", "replay", made]).output
    assert runner.invoke(args=["rules", "replay", made]).exit_code == 1  # done
    assert f"{made}  proposed  trial-1" in runner.invoke(args=["rules", "proposals"]).output
    assert "nothing is due" in runner.invoke(args=["rules", "enact"]).output
    assert "data file" in runner.invoke(args=["rules", "history"]).output
    commands = app.cli.commands["rules"].commands  # type: ignore[attr-defined]
    assert not {"approve", "propose"} & set(commands), "nobody decides without signing in"
