"""Grades and bounds: what evidence is worth, what an award takes from whom, and that nobody gets past a bound."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from evidence_builders import LATER, confirmed, household, limits, noon, taken, told, weighing
from flask.testing import FlaskClient
from points_builders import (
    Feed,
    at,
    claim,
    drop,
    drop_line,
    outcomes,
    owner,
    resident,
    steps_claim,
    weighing_line,
    wrong,
)
from psycopg.errors import CheckViolation, InsufficientPrivilege, RestrictViolation
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from points.earning import activities, bounds, counts, pricing, rules
from points.earning import award as award_module
from points.earning.award import award
from points.earning.claims import Reason
from points.earning.models import BoundKind, BoundUsage, Grade
from points.partners import feed as feed_module
from points.partners import sequences
from points.partners.models import Binding, DeviceSequence, Partner
from server.database import new_id, psycopg_url


@pytest.fixture
def person(make_resident: Callable[..., UUID]) -> UUID:
    return make_resident()


@pytest.fixture
def people(make_resident: Callable[..., UUID]) -> list[UUID]:
    return [make_resident() for _ in range(5)]


# Grades


def test_the_weaker_the_evidence_the_less_it_is_worth(session: Session, people: list[UUID]) -> None:
    first, second, third, fourth, _ = people
    made = award(
        session,
        [
            claim(first, start=at("25 08:00")),
            confirmed(second, new_id(), "hazardous"),
            claim(third, grade=Grade.SENSOR, source="track", start=at("25 08:00"), minutes=60),
            claim(fourth, grade=Grade.SELF_DECLARED, source="self", start=at("25 08:00")),
        ],
        now=LATER,
    )
    assert told(made) == ["awarded 8", "awarded 9", "awarded 4", "awarded 2"]


def test_many_syncs_of_a_day_earn_what_one_would_at_the_discounted_rate_too(session: Session, person: UUID) -> None:
    syncs = [steps_claim(person, steps, steps - 130, day=at("25 00:00")) for steps in range(130, 3901, 130)]
    assert sum(each.points for each in award(session, syncs, now=LATER)) == 3900 * 2 // 1000


def test_a_grades_ceiling_holds_for_the_whole_week_over_all_behaviours(session: Session, person: UUID) -> None:
    with limits(session, {}, self_declared=7):
        walks = [
            claim(person, "walk", grade=Grade.SELF_DECLARED, source="self", distance_m=1000, start=at(when), minutes=20)
            for when in ("23 08:00", "24 08:00", "25 08:00")
        ]
        assert told(award(session, walks, now=LATER)) == ["awarded 3", "awarded 3", "refused grade-ceiling-reached"]
        ride = claim(person, "bus", grade=Grade.SELF_DECLARED, source="self", start=at("25 09:00"))
        assert told(award(session, [ride], now=LATER)) == ["refused grade-ceiling-reached"]
        signed = claim(person, start=at("25 10:00"))
        next_week = claim(person, "bus", grade=Grade.SELF_DECLARED, source="self", start=at("30 08:00"))
        assert told(award(session, [signed, next_week], now=noon(30))) == ["awarded 8", "awarded 2"]
    assert wrong(session) == {}


def test_the_first_edition_has_neither_grades_nor_bounds(session: Session, people: list[UUID]) -> None:
    household(session, *people)
    made = award(
        session, [weighing(each, 200, "18 09:00", site="s", device="scales:1") for each in people], now=noon(18)
    )
    assert sum(each.points for each in made) == 1000
    assert taken(session) == {}
    assert wrong(session) == {}


# Bounds


def test_an_award_takes_from_every_bound_that_it_counts_to(session: Session, people: list[UUID]) -> None:
    first, second, *_ = people
    home, staff_id = household(session, first, second), new_id()
    award(
        session,
        [
            weighing(first, 30, site="station-3", device="scales:s-1"),
            confirmed(second, staff_id),
            claim(
                second,
                "walk",
                mode="walk",
                grade=Grade.SENSOR,
                source="track",
                device="phone:abc",
                start=at("25 08:00"),
                minutes=60,
            ),
        ],
        now=LATER,
    )
    assert taken(session) == {
        ("household", str(home)): (30 + 4 + 15, 600),
        ("device", "scales:s-1"): (30, 2500),
        ("phone", "phone:abc"): (15, 200),
        ("staff", str(staff_id)): (4, 3000),
        ("site", "scales:station-3"): (30, 6000),  # a partner's own name for it
        ("site", "nk-site-01"): (4, 6000),
        ("grade", f"{second}:sensor"): (15, 200),
    }
    assert wrong(session) == {}


BEYOND = {
    "household": Reason.HOUSEHOLD_LIMIT,
    "device": Reason.DEVICE_LIMIT,
    "staff": Reason.STAFF_LIMIT,
    "site": Reason.SITE_LIMIT,
}


@pytest.mark.parametrize("kind", BEYOND)
def test_claims_beyond_a_bound_are_refused_with_its_reason_and_the_earlier_ones_paid(
    session: Session, people: list[UUID], kind: str
) -> None:
    household(session, *people)
    staff_id = new_id()
    made = [
        weighing(
            each,
            100,
            f"25 09:0{minute}",
            site="s",
            **({"device": "scanner:1", "staff_id": staff_id, "grade": Grade.STAFF_CONFIRMED, "source": "orders"}),
        )
        for minute, each in enumerate(people)
    ]
    with limits(session, {kind: 299}):
        answers = award(session, list(reversed(made)), now=LATER)
        assert told(answers) == [f"refused {BEYOND[kind]}"] * 2 + ["awarded 90"] * 3
        # What fits still is paid: 29 are left.
        small = [weighing(each, 29, "25 10:00", site="s", device="scanner:1", staff_id=staff_id) for each in people[:2]]
        signed = [weighing(each, 28, "25 11:00") for each in people[3:]]
        answers = award(session, small if kind in {"device", "staff"} else signed, now=LATER)
        paid = [each.points for each in answers]
        if kind != "site":  # a partner's site is another one
            assert paid == [29, 0] if kind in {"device", "staff"} else paid == [28, 0]
        assert answers[1].reason in {BEYOND[kind], None}
        shown = activities.one(session, people[4], award_id(session, people[4]))
        assert shown is not None
        assert (shown.reason, shown.points) == (BEYOND[kind].value, 0)
    assert wrong(session) == {}


def award_id(session: Session, resident_id: UUID) -> UUID:
    """The resident's first activity."""
    found: UUID = session.execute(
        sa.text("SELECT id FROM activity WHERE resident_id = :r ORDER BY id LIMIT 1"), {"r": resident_id}
    ).scalar_one()
    return found


def test_a_bound_counts_what_was_paid_and_not_what_a_cap_had_cut(session: Session, people: list[UUID]) -> None:
    """Ten bags of one resident are worth 50 and paid 20: a bound of 40 lets two residents through."""
    household(session, *people)
    bags = [drop(each, start=at(f"25 09:{n:02}"), site="s") for each in people[:3] for n in range(10)]
    with limits(session, {"household": 40}):
        answers = award(session, bags, now=LATER)
    assert sum(each.points for each in answers) == 40
    assert wrong(session) == {}


def test_where_a_refusal_lets_others_out_from_under_a_cap_the_bound_still_holds(
    session: Session, people: list[UUID]
) -> None:
    """The first try pays a resident's four earliest bags; refused at one site, others of that site take their place."""
    person = people[0]
    bags = [drop(person, start=at(f"25 09:{n:02}"), site="full" if n < 6 else "other") for n in range(16)]
    with limits(session, {"site": 7}):
        answers = award(session, bags, now=LATER)
    assert sum(each.points for each in answers) == 10
    assert {key: points for key, (points, _) in taken(session).items()} == {
        ("site", "bins:full"): 5,
        ("site", "bins:other"): 5,
    }
    assert wrong(session) == {}


def test_a_full_bound_costs_the_next_batch_no_second_try(
    session: Session, people: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one site that is full would halve the feed's rate for the rest of the day."""
    tried: list[int] = []
    real = award_module._pay

    def counted(*given: Any, **named: Any) -> Any:
        tried.append(1)
        return real(*given, **named)

    monkeypatch.setattr(award_module, "_pay", counted)
    household(session, *people[:3])
    with limits(session, {"household": 100}):
        for made, answers, tries in (
            ([weighing(people[0], 95)], ["awarded 95"], 1),
            ([weighing(people[1], 10)], ["refused household-limit-reached"], 2),
            (
                [weighing(people[1], 20), weighing(people[4], 20), weighing(people[2], 4)],
                ["refused household-limit-reached", "awarded 20", "awarded 4"],
                1,
            ),
        ):
            tried.clear()
            assert told(award(session, made, now=LATER)) == answers
            assert len(tried) == tries
    assert wrong(session) == {}


def test_a_reversal_gives_nothing_back_to_a_bound(session: Session, people: list[UUID]) -> None:
    household(session, *people)
    with limits(session, {"household": 100}):
        (paid,) = award(session, [weighing(people[0], 100)], now=LATER)
        assert paid.activity_id is not None
        revoked = counts.revoke(
            session, people[0], paid.activity_id, why="抽查不合格", reason=Reason.SPOT_CHECK_FAILED, now=LATER
        )
        assert revoked.reason == "spot-check-failed"
        assert told(award(session, [weighing(people[1], 1)], now=LATER)) == ["refused household-limit-reached"]
    assert wrong(session) == {}


def test_each_business_day_has_its_own_bound_late_events_to_their_own(session: Session, people: list[UUID]) -> None:
    household(session, *people)
    with limits(session, {"household": 100}):
        made = [weighing(people[0], 100, when) for when in ("24 23:59", "25 00:00", "25 00:01")]
        assert told(award(session, made, now=LATER)) == [
            "awarded 100",
            "awarded 100",
            "refused household-limit-reached",
        ]


def test_a_bound_can_be_taken_from_by_itself(session: Session) -> None:
    def take(points: int) -> None:
        bounds.take(session, BoundKind.DRIVE, "drive-1", points, day=LATER.date(), limit_points=100)

    take(60)
    with pytest.raises(bounds.BoundReached) as short:
        take(41)
    assert short.value.extra == {"left_points": 40}
    take(40)
    assert taken(session) == {("drive", "drive-1"): (100, 100)}


def test_bounds_are_forgotten_only_when_no_claim_of_their_day_can_come(session: Session) -> None:
    for days in (399, 401):
        day = LATER.date() - timedelta(days=days)
        bounds.take(session, BoundKind.DRIVE, "drive-1", 1, day=day, limit_points=1)
    assert bounds.forget_old(session, today=LATER.date()) == 1
    assert session.scalars(sa.select(BoundUsage.day)).all() == [LATER.date() - timedelta(days=399)]


# The database is the last guard


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("UPDATE bound_usage SET taken_points = limit_points + 1", CheckViolation),
        ("UPDATE bound_usage SET taken_points = -1", CheckViolation),
        ("UPDATE bound_usage SET kind = 'grade', day = '2026-11-25'", CheckViolation),
        ("INSERT INTO bound_limit VALUES ('nankai-2026-2', 'grade', 5)", CheckViolation),
        ("INSERT INTO bound_limit VALUES ('nankai-2026-1', 'site', 5)", RestrictViolation),
        ("INSERT INTO grade_term VALUES ('nankai-2026-1', 'sensor', 5, NULL)", RestrictViolation),
        ("UPDATE bound_limit SET day_points = 10000000", InsufficientPrivilege),
        ("DELETE FROM grade_term", InsufficientPrivilege),
        ("TRUNCATE grade_term", InsufficientPrivilege),
        ("UPDATE device_sequence SET sequence = sequence + 1", RestrictViolation),
    ],
)
def test_what_a_bound_says_cannot_be_changed_past_the_rules(
    session: Session, statement: str, refusal: type[Exception]
) -> None:
    bounds.take(session, BoundKind.SITE, "s", 5, day=LATER.date(), limit_points=10)
    sequences.used_before(session, "p", {0: ("bin-7", 5)}, now=LATER)
    with pytest.raises(DBAPIError) as refused, session.begin_nested():
        session.execute(sa.text(statement))
    assert isinstance(refused.value.orig, refusal)


@pytest.mark.parametrize("statement", ["UPDATE {0} SET version_id = version_id", "DELETE FROM {0}", "TRUNCATE {0}"])
@pytest.mark.parametrize("table", ["grade_term", "bound_limit"])
def test_the_owner_cannot_change_an_editions_terms_either(session: Session, statement: str, table: str) -> None:
    with pytest.raises(DBAPIError) as refused, session.begin_nested(), owner(session):
        session.execute(sa.text(statement.format(table)))
    assert isinstance(refused.value.orig, RestrictViolation)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE bound_usage SET taken_points = taken_points - 1 WHERE kind = 'site'",
        "DELETE FROM bound_usage WHERE kind = 'household'",
        "UPDATE bound_usage SET day = day - 1 WHERE kind = 'staff'",
        "UPDATE bound_usage SET taken_points = taken_points + 1 WHERE kind = 'grade'",
    ],
)
def test_the_nightly_check_finds_a_bound_that_differs_from_what_was_paid(
    session: Session, people: list[UUID], statement: str
) -> None:
    household(session, *people)
    walk = claim(people[0], "walk", mode="walk", grade=Grade.SENSOR, source="track", start=at("25 08:00"), minutes=60)
    award(session, [confirmed(people[0], new_id()), walk], now=LATER)
    assert wrong(session) == {}
    session.execute(sa.text(statement))
    assert list(wrong(session)) == ["bound_usage = activities"]


# Rules files


def rule_text(*changes: tuple[str, str]) -> str:
    text = (Path(rules.__file__).parents[2] / "server/places/data/nankai/earning-2026-2.toml").read_text("utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (('grade = "sensor"\npercent = 50', 'grade = "sensor"\npercent = 101'), "percent"),
        (('grade = "sensor"\npercent = 50', 'grade = "sensor"'), "percent"),
        (("[[grades]]\n" + 'grade = "partner-signed"\npercent = 100\n', ""), "every grade once"),
        (("week_ceiling_points = 200\n", "week_ceiling_points = -1\n"), "week_ceiling_points"),
        (("household = 600", "neighbour = 600"), "unknown bound 'neighbour'"),
        (("household = 600", "grade = 600"), "unknown bound 'grade'"),
        (("household = 600", "household = 6.5"), "a bound is whole"),
        (("late_days_max = 7", "late_days_max = 61"), "late_days_max"),
        (("week_cap_points = 100", "week_cap_points = 19"), "a week's"),
        (("quantity_max = 30000\n", ""), "quantity_max is missing"),
        (('title_zh = "', f'title_zh = "{"长" * 100}'), "title_zh"),
    ],
)
def test_an_edition_with_a_fault_in_its_terms_is_refused_by_name(change: tuple[str, str], fault: str) -> None:
    with pytest.raises(rules.RuleDataError, match=fault):
        rules.parse("earning-test.toml", rule_text(change))


def test_what_a_file_says_of_grades_and_bounds_is_what_the_award_reads(session: Session) -> None:
    file = rules.parse("earning-2026-2.toml", rule_text())
    version, rows = rules.models_of(file)
    of_file, of_database = pricing.tariff_of(version, rows, {}), pricing.read(session).on(date(2026, 11, 25))
    assert of_database is not None
    assert of_database.bounds == of_file.bounds == file.bounds
    assert of_database.ceilings == of_file.ceilings == {"sensor": 200, "self-declared": 80}
    assert {key: (rate.percent, rate.points_per_act) for key, rate in of_database.rates.items()} == {
        key: (rate.percent, rate.points_per_act) for key, rate in of_file.rates.items()
    }


# Devices and their own counts


def test_one_act_of_a_device_is_paid_once_whatever_ids_it_comes_under(
    feed: Feed, member: Callable[..., UUID], session: Session
) -> None:
    member(), member("m-2")
    answer = feed.push(
        drop_line("e-1", device="bin-7", sequence=41),
        drop_line("e-2", device="bin-7", sequence=41),
        drop_line("e-3", "m-2", device="bin-7", sequence=41),
        drop_line("e-4", device="bin-7", sequence=42),
        weighing_line("e-5", device="scale-1", sequence=41),
    )
    assert outcomes(answer) == ["awarded", "refused sequence-used", "refused sequence-used", "awarded", "awarded"]
    again = feed.push(drop_line("e-1", device="bin-7", sequence=41), drop_line("e-9", device="bin-7", sequence=42))
    assert outcomes(again) == ["duplicate duplicate", "refused sequence-used"]
    shown = session.execute(sa.text("SELECT external_id, device FROM activity ORDER BY external_id")).all()
    assert [tuple(row) for row in shown] == [
        ("e-1", "bus-group:bin-7"),
        ("e-2", "bus-group:bin-7"),
        ("e-3", "bus-group:bin-7"),
        ("e-4", "bus-group:bin-7"),
        ("e-5", "bus-group:scale-1"),
        ("e-9", "bus-group:bin-7"),
    ]
    assert wrong(session) == {}


def test_a_line_that_could_not_be_paid_uses_no_act_up(
    feed: Feed, member: Callable[..., UUID], session: Session
) -> None:
    member()
    late = at("02 09:00")
    lines = [
        drop_line("e-1", device="bin-7", sequence=1, when=late),
        drop_line("e-2", "stranger", device="bin-7", sequence=1),
        drop_line("e-3", device="bin-7", sequence=1),
    ]
    assert outcomes(feed.push(*lines)) == ["refused too-late", "refused not-bound", "awarded"]


@pytest.mark.parametrize(
    "changes",
    [{"device": "bin-7"}, {"sequence": 4}, {"device": "bin-7", "sequence": -1}, {"device": "", "sequence": 1}],
)
def test_a_device_and_its_count_come_together(feed: Feed, member: Callable[..., UUID], changes: dict[str, Any]) -> None:
    member()
    assert outcomes(feed.push(drop_line("e-1", **changes))) == ["refused bad-line"]


def test_an_old_act_does_not_become_new_when_its_row_is_forgotten(session: Session) -> None:
    acts = {0: ("bin-7", 5), 1: ("bin-7", 9), 2: ("bin-8", 2)}
    old, today = LATER - sequences.KEPT_FOR - timedelta(days=1), LATER
    assert sequences.used_before(session, "p", acts, now=old) == []
    assert sequences.used_before(session, "p", {0: ("bin-8", 3)}, now=today) == []
    assert [sequences.forget_old(session, now=today) for _ in range(2)] == [3, 0]
    assert session.scalars(sa.select(DeviceSequence.sequence)).all() == [3]
    asked = {n: ("bin-7", n) for n in (5, 7, 9, 10)}
    assert sequences.used_before(session, "p", asked, now=today) == [5, 7, 9]
    assert sequences.used_before(session, "another", {0: ("bin-7", 5)}, now=today) == []


def test_a_site_can_refuse_what_was_dropped_outside_its_hours(
    feed: Feed, member: Callable[..., UUID], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def refusal(*place: Any) -> Reason | None:
        asked.append(place[:4])
        return Reason.OUTSIDE_HOURS if place[1] == "bin-7" else None

    monkeypatch.setattr(feed_module._checks, "site", lambda _: refusal)
    member()
    lines = [
        drop_line("e-1", device="d", sequence=1),
        drop_line("e-2", site="bin-8", device="d", sequence=1),
        weighing_line("e-3"),
    ]
    assert outcomes(feed.push(*lines)) == ["refused outside-hours", "awarded", "awarded"]
    assert asked == [
        ("bus-group", "bin-7", "d", "kitchen"),
        ("bus-group", "bin-8", "d", "kitchen"),
        ("bus-group", "station-3", None, None),
    ]


def test_the_phone_of_a_claim_is_kept_as_a_keyed_hash(
    client: FlaskClient, session: Session, sign_in_resident: Callable[..., dict[str, str]], clock: Any
) -> None:
    clock.move_to(LATER)
    for user in ("alice", "bob"):
        trip = {
            "mode": "walk",
            "started_at": "2026-11-25T08:00:00+08:00",
            "ended_at": "2026-11-25T08:30:00+08:00",
            "distance_m": 2000,
            "installation": "0123456789abcdef",
        }
        answer = client.post("/api/v1/me/activities/trips", json=trip, headers=sign_in_resident(user))
        assert answer.status_code == 201, answer.text
    devices = session.scalars(sa.text("SELECT device FROM activity")).all()
    assert len(devices) == 2
    assert len(set(devices)) == 1
    assert devices[0].startswith("phone:")
    assert "0123456789abcdef" not in devices[0]
    assert taken(session)["phone", devices[0]] == (12, 200)


# Races: two real connections, the first transaction held open


@pytest.fixture
def engine(make_database: Callable[[], str]) -> Iterator[sa.Engine]:
    made = sa.create_engine(psycopg_url(make_database()), poolclass=sa.NullPool)
    yield made
    made.dispose()


def waits(one: Session, other_process: int) -> None:
    """Return when the other connection waits for a lock."""
    waiting = sa.text("SELECT cardinality(pg_blocking_pids(:process)) > 0")
    deadline = time.monotonic() + 10
    while not one.scalar(waiting, {"process": other_process}):
        assert time.monotonic() < deadline, "the second did not wait for the first"
        time.sleep(0.01)


def test_two_devices_uploading_one_sequence_number_at_once_are_paid_once(engine: sa.Engine) -> None:
    with Session(engine) as arranging:
        arranging.add(Partner(code="bins", name_zh="桶", kinds=["bin-drop"], day_budget_points=1000, created_at=LATER))
        arranging.flush()
        for name in ("m-1", "m-2"):
            person = resident(arranging)
            arranging.add(Binding(partner_code="bins", member_id=name, resident_id=person, bound_at=LATER))
        arranging.commit()
    lines = {
        name: feed_module.read_lines(
            drop_line(f"e-{name}", name, at("25 08:00"), device="bin-7", sequence=7), ["bin-drop"]
        )
        for name in ("m-1", "m-2")
    }
    with Session(engine) as one, Session(engine) as other, ThreadPoolExecutor(1) as thread:
        process = other.scalar(sa.text("SELECT pg_backend_pid()")) or 0
        partners = [each.get_one(Partner, "bins") for each in (one, other)]
        first = feed_module.process(one, partners[0], "b-1", lines["m-1"], now=LATER)  # held open
        second = thread.submit(feed_module.process, other, partners[1], "b-2", lines["m-2"], now=LATER)
        waits(one, process)
        one.commit()
        answers = [first[0].outcome, first[0].points, second.result(10)[0].reason]
        other.commit()
    assert answers == ["awarded", 5, "sequence-used"]
    with Session(engine) as looking:
        assert looking.scalar(sa.text("SELECT sum(points) FROM transfer")) == 5
        assert wrong(looking) == {}


def test_two_awards_for_the_last_points_of_a_bound_are_paid_once(engine: sa.Engine) -> None:
    with Session(engine) as arranging:
        people = [resident(arranging) for _ in range(2)]
        household(arranging, *people)
        arranging.commit()
    with (
        Session(engine) as one,
        Session(engine) as other,
        ThreadPoolExecutor(1) as thread,
        limits(one, {"household": 150}),
    ):
        process = other.scalar(sa.text("SELECT pg_backend_pid()")) or 0
        first = award(one, [weighing(people[0], 100)], now=LATER)  # held open
        made = [weighing(people[1], 60, "25 10:00"), weighing(people[1], 50, "25 11:00")]
        second = thread.submit(award, other, made, now=LATER)
        waits(one, process)
        one.commit()
        answers = told(first + second.result(10))
        other.commit()
    assert answers == ["awarded 100", "refused household-limit-reached", "awarded 50"]
    with Session(engine) as looking:
        assert wrong(looking) == {}
