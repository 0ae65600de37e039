"""Random audits: the sample and its probabilities, what people find, and the rate of wrongful payment it shows."""

import random
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from points_builders import balances, claim, drop, owner, resident, wrong
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from points.earning import counts
from points.earning.award import award
from points.earning.models import Activity, Behaviour, Grade
from points.review.audit import drawing, estimating, jobs
from points.review.audit.estimating import Found
from points.review.audit.models import AuditItem, AuditStratum, RandomAudit
from points.review.audit.plans import AuditPlanMissing, Plan, read_plan
from server.access import Role
from server.clock import SHANGHAI
from server.database import new_id
from server.notices.models import Notice
from server.people.models import StaffLink
from server.settings import PLACES_DATA

URL = "/api/v1/random-audits"
DISTRICT = "120104"
QUARTER = date(2026, 10, 1)
AFTERWARDS = datetime(2027, 1, 20, 12, 0, tzinfo=SHANGHAI)

Headers = dict[str, str]


@pytest.fixture(autouse=True)
def after_the_quarter(clock: time_machine.Traveller) -> None:
    clock.move_to(AFTERWARDS)


@pytest.fixture
def checker(session: Session, make_staff: Callable[..., UUID]) -> UUID:
    """Somebody of the district who has declared to have no account of their own."""
    member = make_staff(Role.DISTRICT, division=DISTRICT)
    session.add(StaffLink(staff_id=member, statement="没有", made_at=AFTERWARDS))
    session.commit()
    return member


@pytest.fixture
def headers(checker: UUID, headers_of: Callable[..., Headers]) -> Headers:
    return headers_of(checker, is_resident=False)


@pytest.fixture
def quarter(session: Session) -> dict[str, UUID]:
    """Ninety paid claims of two partners and the phone, a refused one, one of the next quarter; residents by name."""
    people = {f"resident {n}": resident(session) for n in range(10)}
    first = datetime(2026, 12, 1, 8, 0, tzinfo=SHANGHAI)
    made = []
    for n, person in enumerate(people.values()):
        for day in range(3):
            start = first + timedelta(days=7 * day, minutes=n)
            made += [
                claim(person, start=start, source="bus-group"),
                drop(person, start=start + timedelta(hours=2)),
                claim(
                    person,
                    "walk",
                    grade=Grade.SELF_DECLARED,
                    source="self",
                    start=start + timedelta(hours=4),
                    minutes=90,
                ),
            ]
    for each in made:
        paid = award(session, [each], now=each.started_at + timedelta(hours=2))[0]
        assert paid.points > 0, paid
    award(session, [claim(people["resident 0"], mode="trolley", start=first)], now=first)
    january = datetime(2027, 1, 2, 8, 0, tzinfo=SHANGHAI)
    award(session, [claim(people["resident 0"], start=january)], now=january)
    session.commit()
    return people


def drawn(app: Flask, client: FlaskClient, headers: Headers) -> str:
    """Ask for the quarter's audit and draw it as the job does; its id."""
    answer = client.post(URL, json={"quarter": "2026-Q4"}, headers=headers)
    assert answer.status_code == 201, answer.json
    with app.app_context():
        assert jobs.draw_sample(UUID(answer.json["id"])) is not None
    return str(answer.json["id"])


# The sample


def test_a_sample_has_its_share_of_every_behaviour_of_every_source_and_can_be_drawn_again(
    app: Flask, client: FlaskClient, session: Session, quarter: dict[str, UUID], headers: Headers
) -> None:
    made = drawn(app, client, headers)

    strata = {
        (row.behaviour.value, row.source): (row.claims, row.sampled_claims)
        for row in session.scalars(sa.select(AuditStratum))
    }
    # The packaged plan asks for 400 in all, and there are 90.
    assert strata == {("bus", "bus-group"): (30, 30), ("sorting", "bins"): (30, 30), ("walk", "self"): (30, 30)}
    of = session.get(RandomAudit, UUID(made))
    assert of is not None
    assert (of.strata_count, of.items_count) == (3, 90)
    # Whatever is taken back later, the seed draws the same.
    item = session.scalars(sa.select(AuditItem).limit(1)).one()
    counts.revoke(session, item.resident_id, item.activity_id, why="test", now=AFTERWARDS)
    assert drawing.drawn_again(session, of)
    # With fewer than all, another seed draws others.
    small = drawing.allocated(drawing.population(session, QUARTER, as_of=AFTERWARDS), Plan(QUARTER, 12, 2, "test"))
    one, other = (
        {item["activity_id"] for item in drawing.sample(session, QUARTER, small, seed=seed, as_of=AFTERWARDS)}
        for seed in (bytes(32), bytes(31) + b"\1")
    )
    assert len(one) == len(other) == sum(stratum.sampled_claims for stratum in small)
    assert one != other


def test_every_claim_has_the_same_chance_whatever_the_seed_looks_at(session: Session) -> None:
    person = resident(session)
    start = datetime(2026, 12, 1, 8, 0, tzinfo=SHANGHAI)
    for n in range(40):
        at = start + timedelta(days=n % 20, hours=n // 20)
        award(session, [drop(person, start=at)], now=at)
    strata = drawing.allocated(drawing.population(session, QUARTER, as_of=AFTERWARDS), Plan(QUARTER, 1, 8, "test"))
    [stratum] = strata
    drawn_times: dict[UUID, int] = {}
    for n in range(200):
        for item in drawing.sample(session, QUARTER, strata, seed=n.to_bytes(32, "big"), as_of=AFTERWARDS):
            drawn_times[item["activity_id"]] = drawn_times.get(item["activity_id"], 0) + 1

    assert stratum.sampled_claims == 8
    assert len(drawn_times) == stratum.claims
    expected = 200 * 8 / stratum.claims
    assert all(0.5 * expected < times < 1.6 * expected for times in drawn_times.values())


def test_a_large_stratum_is_not_sorted_whole_and_still_gives_its_number() -> None:
    below = drawing._below(drawing.Stratum(Behaviour.WALK, "self", 90_000_000, 900_000_000, 400))
    assert int.from_bytes(below, "big") / 2**64 * 90_000_000 == pytest.approx(400 + 6 * 20 + 10, rel=1e-6)
    assert drawing._below(drawing.Stratum(Behaviour.WALK, "self", 30, 300, 20)) > b"\xff" * 32


def test_a_quarter_is_drawn_once_and_only_when_it_is_over(
    app: Flask, client: FlaskClient, session: Session, headers: Headers, clock: time_machine.Traveller
) -> None:
    answer = client.post(URL, json={"quarter": "2027-Q1"}, headers=headers)
    assert (answer.status_code, answer.json["code"]) == (409, "quarter-not-over")
    with app.app_context():
        assert drawing.due_quarters(session, today=date(2027, 1, 7)) == [date(2026, 7, 1)]  # seven days may be late
        assert drawing.due_quarters(session, today=date(2027, 1, 8)) == [date(2026, 7, 1), QUARTER]
    made = drawn(app, client, headers)  # nothing was paid: an empty sample is one too
    answer = client.post(URL, json={"quarter": "2026-Q4"}, headers=headers)
    assert (answer.status_code, answer.json["code"]) == (409, "quarter-audited")
    with app.app_context():
        assert jobs.draw_sample(UUID(made)) is None
    report = client.get(f"{URL}/{made}/report", headers=headers).json
    assert report["claims_rate"] == {"value": None, "low": 0.0, "high": 1.0, "value_at_worst": None}


def test_a_sample_that_could_not_be_drawn_is_drawn_after_all_with_the_seed_it_has(
    app: Flask,
    client: FlaskClient,
    session: Session,
    quarter: dict[str, UUID],
    headers: Headers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = client.post(URL, json={"quarter": "2026-Q4"}, headers=headers).json
    with app.app_context(), monkeypatch.context() as broken:
        broken.setattr(drawing, "STRATA_MAX", 2)
        with pytest.raises(drawing.TooManyStrata):
            jobs.draw(first["id"])
        assert QUARTER in drawing.due_quarters(session, today=AFTERWARDS.date())
    again = client.post(URL, json={"quarter": "2026-Q4"}, headers=headers)
    assert (again.status_code, again.json["problem"]) == (201, "too-many-strata")
    assert (again.json["id"], again.json["seed"]) == (first["id"], first["seed"])
    drawn_now = app.test_cli_runner().invoke(args=["audits", "draw", "2026-Q4"])
    assert (drawn_now.exit_code, "90 claims of 3" in drawn_now.output) == (0, True)
    with app.app_context():
        assert QUARTER not in drawing.due_quarters(session, today=AFTERWARDS.date())
    answer = client.post(URL, json={"quarter": "2026-Q4"}, headers=headers)
    assert (answer.status_code, answer.json["code"]) == (409, "quarter-audited")


def test_the_plan_of_the_quarter_holds_and_a_faulty_one_is_told(tmp_path: Any) -> None:
    assert read_plan(PLACES_DATA / "nankai", on=date(2026, 12, 31)).claims == 400
    plan = '[[plans]]\nvalid_from = {}\nclaims = {}\nstratum_claims_min = 20\nsource = "test"\n'
    (tmp_path / "audits-2026.toml").write_text(plan.format("2026-01-01", 400) + plan.format("2027-01-01", 500))
    assert read_plan(tmp_path, on=date(2027, 3, 31)).claims == 500
    for text in (plan.format("2026-01-01", 0), plan.format("2027-01-01", 5), "plans = 1", "x"):
        (tmp_path / "audits-2026.toml").write_text(text)
        with pytest.raises(AuditPlanMissing):
            read_plan(tmp_path, on=date(2026, 12, 31))


# What people find


def test_a_wrong_claim_is_taken_back_and_its_resident_told_with_the_reason(
    app: Flask, client: FlaskClient, session: Session, quarter: dict[str, UUID], headers: Headers, checker: UUID
) -> None:
    made = drawn(app, client, headers)
    page = client.get(f"{URL}/{made}/items?behaviour=bus&checked=false&limit=30", headers=headers).json
    bad, good, unclear = page["items"][:3]

    def check(item: dict[str, Any], **body: str) -> tuple[int, str | None]:
        path = f"{URL}/{made}/items/{item['activity_id']}/finding"
        answer = client.post(path, json=body, headers=headers)
        return answer.status_code, answer.json.get("code")

    before = sum(balances(session, UUID(bad["resident_id"]))[0].values())
    assert check(bad, finding="wrong") == (422, "reason-required")
    assert check(bad, finding="wrong", note="无此车次") == (201, None)
    assert check(bad, finding="right") == (409, "audit-item-checked")
    assert check(good, finding="right") == (201, None)
    assert check(unclear, finding="cannot-be-told", note="记录已失") == (201, None)

    assert sum(balances(session, UUID(bad["resident_id"]))[0].values()) == before - bad["points"]
    row = session.scalars(sa.select(Activity).where(Activity.id == UUID(bad["activity_id"]))).one()
    assert (row.outcome.value, row.reason) == ("reversed", "audit-failed")
    told = session.scalars(sa.select(Notice).where(Notice.person_id == UUID(bad["resident_id"]))).one()
    assert (told.kind, told.subject) == ("activity-taken-back", f"activity:{bad['activity_id']}")
    assert wrong(session) == {}
    report = client.get(f"{URL}/{made}/report", headers=headers).json
    bus = next(each for each in report["strata"] if each["behaviour"] == "bus")
    assert (bus["right"], bus["wrong"], bus["cannot_be_told"], bus["unchecked_claims"]) == (1, 1, 1, 27)
    assert (bus["claims_rate"]["value"], bus["claims_rate"]["value_at_worst"]) == (0.5, 2 / 3)
    assert report["unchecked_claims"] == 87
    # Of two thirds of the claims nothing is known yet, and the interval says so.
    assert report["claims_rate"]["high"] > 2 / 3


def test_nobody_checks_what_they_confirmed_or_their_own_household(
    app: Flask,
    client: FlaskClient,
    session: Session,
    quarter: dict[str, UUID],
    headers: Headers,
    checker: UUID,
    make_staff: Callable[..., UUID],
    headers_of: Callable[..., Headers],
    sign_in_staff: Callable[..., Headers],
) -> None:
    made = drawn(app, client, headers)
    items = session.scalars(sa.select(AuditItem).order_by(AuditItem.activity_id)).all()
    confirmed, other = items[0], items[-1]
    with owner(session, unguarded=True):
        session.execute(sa.update(Activity).where(Activity.id == confirmed.activity_id).values(staff_id=checker))
    neighbour = make_staff(Role.DISTRICT, division=DISTRICT)
    session.add(StaffLink(staff_id=neighbour, resident_id=other.resident_id, made_at=AFTERWARDS))
    session.commit()

    def check(item: AuditItem, by: Headers) -> tuple[int, str | None]:
        path = f"{URL}/{made}/items/{item.activity_id}/finding"
        answer = client.post(path, json={"finding": "right"}, headers=by)
        return answer.status_code, answer.json.get("code")

    assert check(confirmed, headers) == (409, "confirmed-by-checker")
    assert check(other, headers_of(neighbour, is_resident=False)) == (403, "serves-own-household")
    assert check(other, sign_in_staff(Role.DISTRICT, division=DISTRICT)) == (409, "staff-unlinked")
    street = sign_in_staff(Role.STREET, division="120104001")
    narrow = sign_in_staff(Role.DISTRICT, division="120104001")
    assert check(other, street)[0] == 403
    assert check(other, narrow)[0] == 404
    for path in (URL, f"{URL}/{made}/items", f"{URL}/{made}/report"):
        assert client.get(path, headers=street).status_code == 403
        assert client.get(path, headers=narrow).status_code == 404
    assert client.get(f"{URL}/{new_id()}/report", headers=headers).status_code == 404
    # What they may not check they do not read either.
    neighbours = headers_of(neighbour, is_resident=False)
    hers = {str(each.activity_id) for each in items if each.resident_id == other.resident_id}
    for by, left_out in ((headers, {str(confirmed.activity_id)}), (neighbours, hers)):
        listed = client.get(f"{URL}/{made}/items?limit=200", headers=by).json["items"]
        assert {each["activity_id"] for each in listed} == {str(each.activity_id) for each in items} - left_out
    assert check(other, headers) == (201, None)


def test_the_database_keeps_a_sample_and_its_findings_as_they_are(
    app: Flask, client: FlaskClient, session: Session, quarter: dict[str, UUID], headers: Headers
) -> None:
    made = drawn(app, client, headers)
    item = client.get(f"{URL}/{made}/items?limit=1", headers=headers).json["items"][0]
    path = f"{URL}/{made}/items/{item['activity_id']}/finding"
    assert client.post(path, json={"finding": "right"}, headers=headers).status_code == 201
    for statement in (
        "UPDATE random_audit SET seed = sha256('x')",
        "UPDATE random_audit SET items_count = 1",
        "DELETE FROM random_audit",
        "UPDATE random_audit_stratum SET sampled_claims = 1",
        "INSERT INTO random_audit_stratum SELECT audit_id, behaviour, 'x', 9, 9, 1 FROM random_audit_stratum LIMIT 1",
        "DELETE FROM random_audit_item",
        "UPDATE random_audit_item SET points = points + 1 WHERE finding IS NULL",
        "UPDATE random_audit_item SET finding = 'wrong', note = 'x' WHERE finding = 'right'",
        "UPDATE random_audit_item SET finding = 'wrong' WHERE finding IS NULL",
        "UPDATE random_audit SET starts_on = '2026-11-01'",
    ):
        with owner(session), pytest.raises(DBAPIError), session.begin_nested():
            session.execute(sa.text(statement))


# The rate


def test_the_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Five strata, from frequent and clean to few and bad; 600 samples of 400 claims. Wrong claims are worth more."""
    chance = random.Random(20261122)
    strata = []
    for size, rate, least, most in (
        (20_000, 0.01, 1, 4),
        (6_000, 0.04, 5, 10),
        (1_500, 0.002, 8, 8),
        (400, 0.1, 10, 60),
        (60, 0.3, 20, 40),
    ):
        values = [chance.randint(least, most) for _ in range(size)]
        is_wrong = [chance.random() < rate * (1.5 if value > (least + most) / 2 else 0.8) for value in values]
        strata.append((values, is_wrong))
    plan = Plan(QUARTER, 400, 20, "test")
    behaviour = Behaviour.WALK
    sizes = drawing.allocated(
        [drawing.Stratum(behaviour, f"{n}", len(values), sum(values)) for n, (values, _) in enumerate(strata)], plan
    )
    total, points = sum(len(values) for values, _ in strata), sum(sum(values) for values, _ in strata)
    true_claims = sum(sum(is_wrong) for _, is_wrong in strata) / total
    true_points = sum(v for values, is_wrong in strata for v, bad in zip(values, is_wrong, strict=True) if bad) / points
    true_by_stratum = [sum(is_wrong) / len(is_wrong) for _, is_wrong in strata]

    runs = 600
    covered_claims = covered_points = 0
    covered_strata = [0] * len(strata)
    bias = 0.0
    for _ in range(runs):
        found = [_sampled(chance, *stratum, size.sampled_claims) for stratum, size in zip(strata, sizes, strict=True)]
        claims, of_points = estimating.claims_in_all(found), estimating.points_in_all(found)
        covered_claims += claims.low <= true_claims <= claims.high
        covered_points += of_points.low <= true_points <= of_points.high
        bias += (claims.value or 0) - true_claims
        for n, stratum in enumerate(found):
            rate = estimating.of_claims(stratum)
            covered_strata[n] += rate.low <= true_by_stratum[n] <= rate.high

    assert 0.93 <= covered_claims / runs <= 0.99, covered_claims / runs
    assert 0.92 <= covered_points / runs <= 0.99, covered_points / runs
    assert all(covered / runs >= 0.9 for covered in covered_strata), covered_strata
    assert abs(bias / runs) < 0.0015, "the estimate is unbiased"


def _sampled(chance: random.Random, values: list[int], is_wrong: list[bool], number: int) -> Found:
    chosen = chance.sample(range(len(values)), number)
    bad = [values[n] for n in chosen if is_wrong[n]]
    told = [values[n] for n in chosen]
    return Found(
        claims=len(values),
        points=sum(values),
        right=number - len(bad),
        wrong=len(bad),
        cannot_be_told=0,
        told_points=sum(told),
        wrong_points=sum(bad),
        cannot_be_told_points=0,
        squares=sum(value * value for value in told),
    )


def test_a_stratum_checked_whole_has_no_interval_and_an_unknown_one_has_any_rate() -> None:
    whole = Found(10, 100, 8, 2, 0, 100, 20, 0, 1000)
    assert estimating.of_claims(whole).low == estimating.of_claims(whole).high == 0.2
    unknown, unknown_rate = Found(30, 300, 0, 0, 0, 0, 0, 0, 0), estimating.Rate(None, 0.0, 1.0, None)
    both = estimating.claims_in_all([whole, unknown])
    assert (both.value, both.low, both.high) == (0.2, pytest.approx(0.05), pytest.approx(0.8))
    # Of those nobody could tell: at worst all of them were wrong.
    never = Found(30, 300, 0, 0, 20, 0, 0, 200, 0)
    for rate_of, in_all in (
        (estimating.of_claims, estimating.claims_in_all),
        (estimating.of_points, estimating.points_in_all),
    ):
        assert (rate_of(never).value, rate_of(never).value_at_worst) == (None, 1.0)
        told = in_all([whole, never, unknown])
        assert (told.value, told.value_at_worst) == (0.2, pytest.approx((10 * 0.2 + 30) / 40))
        assert (in_all([never]).value, in_all([never]).value_at_worst, in_all([unknown])) == (None, 1.0, unknown_rate)
    # Wilson, JASA 22 (1927): 0 of 20 is no proof of innocence, 3.84 ÷ (20 + 3.84) = 16 %.
    clean = estimating.of_claims(Found(10**9, 10**10, 20, 0, 0, 200, 0, 0, 2000))
    assert (clean.value, clean.low) == (0.0, 0.0)
    assert clean.high == pytest.approx(0.1611, abs=1e-4)


def test_what_has_ended_is_drawn_by_itself_and_an_operator_reads_and_repeats_it(
    app: Flask, session: Session, quarter: dict[str, UUID]
) -> None:
    with app.app_context():
        jobs.request_due(0)
        jobs.request_due(0)  # the next night: nothing is left to ask for
        asked = {row.starts_on: row for row in session.scalars(sa.select(RandomAudit))}
        assert set(asked) == {date(2026, 7, 1), QUARTER}
        assert asked[QUARTER].requested_by is None
        jobs.draw(str(asked[QUARTER].id))
    runner = app.test_cli_runner()
    assert runner.invoke(args=["audits", "draw", "2026-Q4"]).exit_code == 1
    verified = runner.invoke(args=["audits", "verify", "2026-Q4"])
    assert (verified.exit_code, "90 claims, the same" in verified.output) == (0, True)
    told = runner.invoke(args=["audits", "report", "2026-Q4"])
    assert "in all: ? (0.00-100.00) of the claims" in told.output
    assert "90 claims are still to be checked" in told.output
    # What draws another sample than the one kept is shouted about.
    with owner(session, unguarded=True):
        session.execute(
            sa.update(RandomAudit).where(RandomAudit.starts_on == QUARTER).values(as_of=AFTERWARDS - timedelta(days=49))
        )
    session.commit()
    assert runner.invoke(args=["audits", "verify", "2026-Q4"]).exit_code == 1
