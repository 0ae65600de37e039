"""Pricing by pure arithmetic, and the one award path: outcomes, caps, order, counts."""

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from points_builders import (
    NOON,
    at,
    balances,
    claim,
    digest,
    drop,
    generated,
    owner,
    points_of,
    resident,
    steps_claim,
    transferred,
    wrong,
)
from psycopg.errors import CheckViolation, ExclusionViolation, RestrictViolation, UniqueViolation
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from points.earning import award as award_module
from points.earning import counts, holds, pricing, rules
from points.earning.award import TooManyClaims, award
from points.earning.claims import REASON_TEXTS, Award, Claim, Reason
from points.earning.counts import AlreadyRevoked
from points.earning.models import Activity, Grade
from points.earning.pricing import Rate, Tariff, Tariffs
from server.clock import week_start
from server.database import new_id
from server.errors import NotFound
from server.settings import PLACES_DATA

ZONES = ["UTC", "America/Los_Angeles", "Pacific/Kiritimati"]
SOMEONE = UUID(int=1)


@pytest.fixture
def process_zone() -> Iterator[Callable[[str], None]]:
    """A function that sets the time zone of this process, as TZ in its environment would."""
    before = os.environ.get("TZ")

    def change(zone: str | None) -> None:
        if zone is None:
            os.environ.pop("TZ", None)
        else:
            os.environ["TZ"] = zone
        time.tzset()

    yield change
    change(before)


def told(answers: Sequence[Award]) -> list[tuple[str, str | None, int]]:
    """Outcome, reason and points of each answer."""
    return [(each.code, each.reason.value if each.reason else None, each.points) for each in answers]


# Pricing


def rate(**changes: Any) -> Rate:
    known: dict[str, Any] = {
        "points_per_act": 0,
        "points_per_km": 0,
        "points_per_kg": 0,
        "points_per_1000_steps": 0,
        "quantity_min": 0,
        "quantity_max": 1_000_000,
        "speed_max_kmh": None,
        "cap_group": "group",
        "day_cap_points": 40,
        "week_cap_points": 200,
        "saved_ug_per_unit": 0,
        "method_id": None,
    }
    return Rate(**{**known, **changes})


def tariffs_of(*keys: tuple[str, str, str], **changes: Any) -> Tariffs:
    """One tariff from 2026-01-01 with the same rate under each key."""
    rates = {key: rate(**changes) for key in keys or [("bus", "bus", "partner-signed")]}
    return Tariffs((Tariff("test-1", date(2026, 1, 1), None, 7, 1, rates),))


STEPS = ("walk", "steps", "sensor")
WEIGHED = ("recycling", "recycling", "partner-signed")


def worth(tariffs: Tariffs, made: Claim, *, now: datetime = NOON) -> int | str:
    """Points before caps, or the reason of the refusal."""
    row = pricing.price(tariffs, made, 0, now=now)
    return row.reason.value if row.reason else row.priced_points


@pytest.mark.parametrize(
    ("changes", "metres", "points"),
    [
        ({"points_per_act": 8}, 5000, 8),
        ({"points_per_km": 3}, 999, 2),
        ({"points_per_km": 3}, 1000, 3),
        ({"points_per_km": 3}, 1333, 3),
        ({"points_per_km": 3}, 1334, 4),
        ({"points_per_km": 1}, 999, 0),
        ({"points_per_act": 2, "points_per_km": 1}, 4999, 6),
        ({}, 5000, 0),
    ],
)
def test_a_trip_earns_by_act_and_by_kilometre_rounded_down(changes: dict[str, int], metres: int, points: int) -> None:
    assert worth(tariffs_of(**changes), claim(SOMEONE, distance_m=metres)) == points


@pytest.mark.parametrize(("grams", "points"), [(99, 0), (100, 1), (199, 1), (200, 2), (1234, 12), (200_000, 2000)])
def test_a_weighing_earns_by_the_kilogram_rounded_down(grams: int, points: int) -> None:
    assert worth(tariffs_of(WEIGHED, points_per_kg=10), claim(SOMEONE, "recycling", weight_g=grams)) == points


@pytest.mark.parametrize(
    ("metres", "expected"), [(199, "below-minimum"), (200, 8), (80_000, 8), (80_001, "above-maximum")]
)
def test_a_quantity_outside_its_bounds_is_refused(metres: int, expected: int | str) -> None:
    tariffs = tariffs_of(points_per_act=8, quantity_min=200, quantity_max=80_000)
    assert worth(tariffs, claim(SOMEONE, distance_m=metres, start=at("18 01:00"), minutes=300)) == expected


@pytest.mark.parametrize(("metres", "expected"), [(12_000, 8), (12_001, "too-fast")])
def test_a_trip_faster_than_its_way_of_travelling_is_refused(metres: int, expected: int | str) -> None:
    """36 km/h for 20 minutes are 12 km."""
    assert worth(tariffs_of(points_per_act=8, speed_max_kmh=36), claim(SOMEONE, distance_m=metres)) == expected


@pytest.mark.parametrize(
    ("start", "minutes", "expected"),
    [
        ("18 11:00", -1, "bad-time-span"),
        ("18 11:00", 0, "bad-time-span"),
        ("18 11:00", 1, 8),
        ("17 11:00", 12 * 60, 8),
        ("17 11:00", 12 * 60 + 1, "bad-time-span"),
        ("18 11:45", 20, 8),
        ("18 11:45", 21, "in-the-future"),
        ("11 00:00", 20, 8),
        ("10 23:59", 20, "too-late"),
    ],
)
def test_a_trip_must_lie_where_it_can(start: str, minutes: int, expected: int | str) -> None:
    """Now is noon of the 18th: five minutes ahead are forgiven, and seven days back is the closing day."""
    assert worth(tariffs_of(points_per_act=8), claim(SOMEONE, start=at(start), minutes=minutes)) == expected


def test_a_span_that_makes_no_sense_is_kept_as_its_start_alone() -> None:
    for minutes in (-1, 12 * 60 + 1):
        made = claim(SOMEONE, start=at("17 08:00"), minutes=minutes)
        row = pricing.price(tariffs_of(), made, 0, now=NOON)
        assert (row.started_at, row.ended_at) == (made.started_at, None)


@pytest.mark.parametrize("minutes", [-1, 1])
def test_a_drop_needs_no_duration_but_may_not_end_before_it_begins(minutes: int) -> None:
    tariffs = tariffs_of(("sorting", "kitchen", "partner-signed"), points_per_act=5)
    assert worth(tariffs, drop(SOMEONE, minutes=0)) == 5
    assert worth(tariffs, drop(SOMEONE, minutes=minutes)) == ("bad-time-span" if minutes < 0 else 5)


def test_what_no_rule_names_earns_nothing() -> None:
    tariffs = tariffs_of(points_per_act=8)
    assert worth(tariffs, claim(SOMEONE, "metro")) == "no-rule"
    assert worth(tariffs, claim(SOMEONE, mode="trolley")) == "no-rule"
    assert worth(tariffs, claim(SOMEONE, grade=Grade.SELF_DECLARED)) == "no-rule"
    assert worth(tariffs, claim(SOMEONE, start=datetime(2025, 12, 31, 23, 59, tzinfo=UTC))) == "too-late"
    assert worth(tariffs, claim(SOMEONE, start=datetime(2025, 12, 31, 15, 59, tzinfo=UTC))) == "no-rule"


def test_each_day_is_priced_by_the_rules_of_that_day() -> None:
    key = ("bus", "bus", "partner-signed")
    older = Tariff("older", date(2026, 1, 1), date(2026, 11, 16), 7, 1, {key: rate(points_per_act=3)})
    newer = Tariff("newer", date(2026, 11, 17), None, 7, 2, {key: rate(points_per_act=9)})
    both = Tariffs((newer, older))
    rows = [pricing.price(both, claim(SOMEONE, start=at(day)), 0, now=NOON) for day in ("16 23:50", "17 00:00")]
    assert [(row.rule_version_id, row.priced_points, row.expires_on) for row in rows] == [
        ("older", 3, date(2027, 12, 31)),
        ("newer", 9, date(2028, 12, 31)),
    ]


def test_savings_are_whole_milligrams_rounded_down() -> None:
    row = pricing.price(
        tariffs_of(saved_ug_per_unit=48_999, method_id="method"), claim(SOMEONE, distance_m=333), 0, now=NOON
    )
    assert (row.saved_co2e_mg, row.method_id) == (333 * 48_999 // 1000, "method")


@settings(generated)
@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=12))
def test_many_syncs_of_a_days_steps_are_worth_what_the_last_one_alone_is(figures: list[int]) -> None:
    tariffs = tariffs_of(STEPS, points_per_1000_steps=2, quantity_max=30_000)
    told, paid = 0, 0
    for steps in sorted(figures):
        points = worth(tariffs, steps_claim(SOMEONE, steps, told))
        assert isinstance(points, int)
        told, paid = steps, paid + points
    assert paid == worth(tariffs, steps_claim(SOMEONE, told)) == min(told, 30_000) * 2 // 1000


def test_steps_of_a_long_day_are_cut_and_not_refused_and_never_fall_below_what_was_paid() -> None:
    tariffs = tariffs_of(STEPS, points_per_1000_steps=2, quantity_max=30_000)
    assert worth(tariffs, steps_claim(SOMEONE, 90_000)) == 60
    assert worth(tariffs, steps_claim(SOMEONE, 90_000, 29_000)) == 2
    assert worth(tariffs, steps_claim(SOMEONE, 4000, 5000)) == 0


@pytest.mark.parametrize("zone", ZONES)
def test_the_business_day_is_shanghais_whatever_the_zone_of_the_process_or_the_instant(
    process_zone: Callable[[str], None], zone: str
) -> None:
    process_zone(zone)
    assert time.tzname[0] != "CST"
    for offset in (UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-11)), ZoneInfo("Europe/London")):
        for text, day, week_on in (
            ("15 23:59:59", date(2026, 11, 15), date(2026, 11, 9)),
            ("16 00:00:00", date(2026, 11, 16), date(2026, 11, 16)),
        ):
            row = pricing.price(tariffs_of(), claim(SOMEONE, start=at(text).astimezone(offset)), 0, now=NOON)
            assert (row.business_day, week_start(row.business_day)) == (day, week_on)


# Outcomes


@pytest.fixture
def person(session: Session, make_resident: Callable[..., UUID]) -> UUID:
    return make_resident()


def test_each_claim_has_its_own_answer_in_order(session: Session, person: UUID) -> None:
    claims = [
        claim(person, id="paid"),
        claim(person, id="slow", start=at("18 08:00"), distance_m=100),
        claim(person, "walk", id="no rule"),
        claim(person, id="backwards", start=at("18 08:00"), minutes=-5),
        claim(person, id="no rule, backwards", behaviour="walk", start=at("18 08:00"), minutes=-5),
        claim(person, id="early", start=at("18 11:50")),
        claim(person, id="late", start=at("1 08:00")),
        claim(person, id="fast", start=at("18 08:00"), distance_m=79_000),
        claim(person, id="far", start=at("18 01:00"), distance_m=81_000, minutes=300),
        claim(person, id="paid"),
        claim(new_id(), id="whose?"),
        drop(person, id="drop"),
    ]
    answers = award(session, claims, now=NOON)
    assert told(answers) == [
        ("awarded", None, 8),
        ("refused", "below-minimum", 0),
        ("refused", "no-rule", 0),
        ("refused", "bad-time-span", 0),
        ("refused", "no-rule", 0),
        ("refused", "in-the-future", 0),
        ("refused", "too-late", 0),
        ("refused", "too-fast", 0),
        ("refused", "above-maximum", 0),
        ("duplicate", "duplicate", 0),
        ("refused", "unknown-resident", 0),
        ("awarded", None, 5),
    ]
    stored = dict(session.execute(sa.select(Activity.external_id, Activity.reason)).all())
    assert stored == {
        made.external_id: None if answer.reason is None else answer.reason.value
        for made, answer in zip(claims, answers, strict=True)
        if answer.activity_id
    }
    assert len(stored) == 10
    assert balances(session, person) == ({date(2027, 12, 31): 13}, 0)
    assert wrong(session) == {}


def test_every_reason_has_a_text_in_both_languages() -> None:
    assert set(REASON_TEXTS) == set(Reason)
    assert all(chinese and english for chinese, english in REASON_TEXTS.values())


def test_an_unknown_a_disabled_and_a_homeless_resident_earn_nothing_and_nothing_is_stored(session: Session) -> None:
    disabled, homeless = resident(session, enabled=False), resident(session, None)
    answers = award(session, [claim(who) for who in (disabled, homeless, new_id())], now=NOON)
    assert told(answers) == [
        ("refused", "unknown-resident", 0),
        ("refused", "no-home-community", 0),
        ("refused", "unknown-resident", 0),
    ]
    assert [answer.activity_id for answer in answers] == [None] * 3
    assert session.scalar(sa.select(sa.func.count()).select_from(Activity)) == 0


def test_a_duplicate_is_paid_once_within_a_batch_and_across_batches(session: Session, person: UUID) -> None:
    again = claim(person, id="r-1")
    assert told(award(session, [again, again], now=NOON)) == [("awarded", None, 8), ("duplicate", "duplicate", 0)]
    later = claim(person, id="r-1", start=at("18 10:30"))
    assert told(award(session, [later], now=NOON)) == [("duplicate", "duplicate", 0)]
    assert transferred(session, person) == 8


def test_the_same_id_from_another_source_or_of_another_resident_is_no_duplicate(session: Session, person: UUID) -> None:
    other = resident(session)
    claims = [
        claim(person, id="r-1"),
        claim(person, id="r-1", source="other", start=at("18 10:30")),
        claim(other, id="r-1"),
    ]
    assert [each[0] for each in told(award(session, claims, now=NOON))] == ["awarded"] * 3


def test_a_refused_claim_sent_again_is_a_duplicate(session: Session, person: UUID) -> None:
    short = claim(person, id="r-1", distance_m=10)
    assert told(award(session, [short], now=NOON)) == [("refused", "below-minimum", 0)]
    assert told(award(session, [short], now=NOON)) == [("duplicate", "duplicate", 0)]


@pytest.mark.parametrize("together", [True, False])
def test_two_trips_of_one_person_cannot_share_a_moment(session: Session, person: UUID, together: bool) -> None:
    trips = [
        claim(person, id="first", start=at("18 09:00")),
        claim(person, "metro", id="inside", start=at("18 09:05"), minutes=5),
        claim(person, "bicycle", id="touching", start=at("18 09:20")),
        claim(person, id="across", start=at("18 09:39"), source="other"),
        claim(person, id="before", start=at("18 08:40")),
        claim(resident(session), id="somebody else", start=at("18 09:00")),
    ]
    batches = [trips] if together else [[trip] for trip in trips]
    answers = [answer for batch in batches for answer in award(session, batch, now=NOON)]
    assert [(each[0], each[1]) for each in told(answers)] == [
        ("awarded", None),
        ("refused", "overlaps-another-trip"),
        ("awarded", None),
        ("refused", "overlaps-another-trip"),
        ("awarded", None),
        ("awarded", None),
    ]
    assert wrong(session) == {}


def test_drops_weighings_and_steps_may_share_a_moment_with_anything(session: Session, person: UUID) -> None:
    claims = [
        claim(person, start=at("18 09:00")),
        drop(person, start=at("18 09:05")),
        drop(person, start=at("18 09:05")),
        claim(person, "recycling", mode="pet", weight_g=500, start=at("18 09:05")),
        steps_claim(person, 5000),
    ]
    assert [each[0] for each in told(award(session, claims, now=NOON))] == ["awarded"] * 5


def test_the_time_of_a_revoked_trip_is_free_again(session: Session, person: UUID) -> None:
    first = award(session, [claim(person)], now=NOON)[0]
    assert first.activity_id is not None
    assert told(award(session, [claim(person)], now=NOON))[0][1] == "overlaps-another-trip"
    counts.revoke(session, person, first.activity_id, why="not theirs", now=NOON)
    assert told(award(session, [claim(person)], now=NOON)) == [("awarded", None, 8)]


def test_no_claims_are_no_work_and_too_many_are_a_fault_of_the_caller(
    session: Session, person: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert award(session, [], now=NOON) == []
    monkeypatch.setattr(award_module, "CLAIMS_MAX", 2)
    assert len(award(session, [drop(person)] * 2, now=NOON)) == 2
    with pytest.raises(TooManyClaims):
        award(session, [drop(person)] * 3, now=NOON)


# Caps


@pytest.mark.parametrize("together", [True, False])
def test_the_days_cap_pays_the_last_act_in_part_and_the_next_not_at_all(
    session: Session, person: UUID, together: bool
) -> None:
    cans = [
        claim(person, "recycling", mode="aluminium_can", weight_g=grams, start=at(f"18 0{hour}:00"))
        for hour, grams in enumerate([3000, 1500, 2000, 500])
    ]
    batches = [cans] if together else [[each] for each in cans]
    answers = [answer for batch in batches for answer in award(session, batch, now=NOON)]
    assert told(answers) == [
        ("awarded", None, 120),
        ("awarded", None, 60),
        ("awarded", "cap-reached", 20),
        ("awarded", "cap-reached", 0),
    ]
    assert transferred(session, person) == 200
    assert session.scalar(sa.text("SELECT count(*) FROM transfer")) == 3
    assert digest(session, "priced_points", table="activity") == [(120,), (20,), (60,), (80,)]
    assert wrong(session) == {}


def test_the_weeks_cap_stands_above_the_days(session: Session, person: UUID) -> None:
    def cans(day: int) -> int:
        made = claim(person, "recycling", mode="aluminium_can", weight_g=4500, start=at(f"{day} 09:00"))
        return award(session, [made], now=at("22 20:00"))[0].points

    # 15 November is a Sunday: a week of its own.
    assert [cans(day) for day in (15, 16, 17, 18, 19, 20)] == [180, 180, 180, 180, 60, 0]


def test_rules_of_one_group_share_its_caps_and_residents_do_not(session: Session, person: UUID) -> None:
    rides = [claim(person, mode, start=at(f"18 0{hour}:00")) for hour, mode in enumerate(["bus", "metro"] * 3)]
    assert [each[2] for each in told(award(session, rides, now=NOON))] == [8, 8, 8, 8, 8, 0]
    assert told(award(session, [claim(person, "bicycle", start=at("18 07:00"))], now=NOON)) == [("awarded", None, 13)]
    assert told(award(session, [claim(resident(session))], now=NOON)) == [("awarded", None, 8)]


def test_a_late_event_counts_to_its_own_days_cap(session: Session, person: UUID) -> None:
    award(session, [drop(person, start=at("18 09:00")) for _ in range(5)], now=NOON)
    yesterday = [drop(person, start=at("17 23:59:59")) for _ in range(5)]
    assert [each[2] for each in told(award(session, yesterday, now=NOON))] == [5, 5, 5, 5, 0]
    assert told(award(session, [drop(person, start=at("18 00:00"))], now=NOON)) == [("awarded", "cap-reached", 0)]


KINDS = [
    ("bus", None, {}),
    ("metro", None, {}),
    ("bicycle", None, {"distance_m": 7000}),
    ("sorting", "kitchen", {}),
    ("sorting", "hazardous", {}),
    ("recycling", "aluminium_can", {"weight_g": 3100}),
    ("recycling", "pet", {"weight_g": 777}),
]

ACTS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(15, 21), st.integers(0, 23), st.sampled_from(range(len(KINDS)))),
    min_size=1,
    max_size=50,
    unique_by=lambda act: act[:3],
)


def ledger_of(session: Session) -> dict[str, Any]:
    """What must not depend on the order of arrival.

    Which behaviour or day of a capped week the points are booked on does, for the first comers fill the cap; so points
    are compared by resident, group and week, and everything else row by row.
    """
    measures = ("activities", "distance_m", "weight_g", "saved_co2e_mg")
    week_days = [f"day_{day}" for day in range(7)]
    return {
        "cap_usage": digest(session, "resident_id", "cap_group", "week_on", *week_days, table="cap_usage"),
        "resident_day": digest(session, "resident_id", "day", "behaviour", *measures, table="resident_day"),
        "community_day": digest(
            session, "community_code", "day", "behaviour", "mode", "method_id", *measures, table="community_day"
        ),
        "lot": digest(session, "resident_id", "expires_on", "remaining_points", table="lot"),
        "activity": digest(session, "resident_id", "external_id", "outcome", "priced_points", table="activity"),
        "points": digest(
            session,
            "resident_id",
            "week_on",
            "points",
            table="""(SELECT resident_id, date_trunc('week', day)::date AS week_on,
                      CASE WHEN behaviour IN ('bus', 'metro') THEN 'transit' ELSE behaviour END AS cap_group,
                      sum(points) AS points
                      FROM resident_day GROUP BY 1, 2, 3) weeks""",
        ),
        "sums": digest(session, "sum(points)", table="community_day")
        + digest(session, "sum(points)", table="transfer"),
    }


@settings(generated, max_examples=60)
@given(acts=ACTS, chance=st.randoms(use_true_random=False))
def test_the_order_and_the_batches_of_claims_change_nobodys_points(
    session: Session, acts: list[tuple[int, int, int, int]], chance: random.Random
) -> None:
    outer = session.begin_nested()
    try:
        people = [resident(session), resident(session)]
        claims = []
        for number, (who, day, hour, kind) in enumerate(acts):
            behaviour, mode, values = KINDS[kind]
            claims.append(
                claim(people[who], behaviour, mode=mode, id=f"a-{number}", start=at(f"{day} {hour}:10"), **values)
            )
        shuffled = chance.sample(claims, len(claims))
        batches = []
        while shuffled:
            size = chance.randint(1, len(shuffled))
            batches.append(shuffled[:size])
            shuffled = shuffled[size:]
        seen = []
        for way in ([claims], batches):
            inner = session.begin_nested()
            for batch in way:
                assert {answer.code for answer in award(session, batch, now=at("22 12:00"))} == {"awarded"}
            seen.append(ledger_of(session))
            assert wrong(session) == {}
            inner.rollback()
        assert seen[0] == seen[1]
    finally:
        outer.rollback()


def test_ten_thousand_events_around_midnight_make_the_same_ledger_in_three_time_zones(
    session: Session, process_zone: Callable[[str], None]
) -> None:
    chance = random.Random(20261116)
    people = [resident(session) for _ in range(400)]
    midnight = at("16 00:00").timestamp()  # of Sunday to Monday: another day, and another week
    made = [(chance.choice(people), midnight + chance.randint(-7200, 7200), number) for number in range(10_000)]
    expected: dict[str, int] = {}
    for _, second, _ in made:
        day = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=(second + 8 * 3600) // 86400)).date().isoformat()
        expected[day] = expected.get(day, 0) + 1
    offsets = [timezone(timedelta(hours=hours)) for hours in (-10, 0, 8, 14)]
    ledgers = []
    for zone in ZONES:
        process_zone(zone)
        savepoint = session.begin_nested()
        claims = [
            drop(person, id=f"d-{number}", start=datetime.fromtimestamp(second, chance.choice(offsets)))
            for person, second, number in made
        ]
        for half in (claims[:5000], claims[5000:]):
            assert {answer.code for answer in award(session, half, now=at("16 12:00"))} == {"awarded"}
        days = digest(session, "day::text", "sum(activities)::int", table="resident_day", group_by="day")
        ledgers.append(
            [
                digest(session, "*", table="resident_day"),
                digest(session, "resident_id", "sum(points)", "count(*)", table="transfer", group_by="resident_id"),
                digest(session, "resident_id", "business_day", "external_id", table="activity"),
            ]
        )
        savepoint.rollback()
        assert dict(days) == expected
    assert ledgers[0] == ledgers[1] == ledgers[2]
    assert len(ledgers[0][0]) == 800


# Cost


@pytest.fixture
def statements(connection: Connection) -> Iterator[list[str]]:
    """Every statement that reaches PostgreSQL."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    sa.event.listen(connection, "before_cursor_execute", note)
    yield seen
    sa.event.remove(connection, "before_cursor_execute", note)


def test_the_number_of_statements_does_not_grow_with_the_claims(
    session: Session, make_resident: Callable[..., UUID], statements: list[str]
) -> None:
    people = [make_resident() for _ in range(20)]
    pricing.current(session)
    holds.current(session, now=NOON)

    def cost(size: int, *, mixed: bool) -> int:
        claims = [drop(people[number % 20], id=f"{size}-{mixed}-{number}") for number in range(size)]
        if mixed:
            claims += [*claims, claim(people[0], distance_m=1), claim(new_id())]
        statements.clear()
        answers = award(session, claims, now=NOON)
        assert len(answers) == len(claims)
        return len(statements)

    assert [cost(size, mixed=False) for size in (1, 10, 1000)] == [5, 5, 5]
    assert [cost(size, mixed=True) for size in (1, 10, 1000)] == [6, 6, 6]


def test_the_rules_are_read_again_after_a_while_and_not_before(
    session: Session, person: UUID, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pricing.current(session)
    statements.clear()
    pricing.current(session)
    assert statements == []
    monkeypatch.setattr(pricing, "FRESH_FOR_S", -1.0)
    pricing.current(session)
    assert len(statements) == 5


# Debts


def test_an_award_pays_the_debt_from_what_ends_soonest(session: Session, person: UUID) -> None:
    session.execute(sa.text("INSERT INTO debt (resident_id, points) VALUES (:r, 30)"), {"r": person})
    new_year = datetime(2026, 12, 31, 16, tzinfo=UTC)
    cans = [
        claim(person, "recycling", mode="aluminium_can", weight_g=500, start=new_year + timedelta(seconds=seconds))
        for seconds in (-1, 0)
    ]
    answers = award(session, cans, now=new_year + timedelta(days=1))
    assert [answer.points for answer in answers] == [20, 20]
    assert balances(session, person) == ({date(2028, 12, 31): 10}, 0)


# Revocation and counts


def test_a_revocation_takes_the_points_and_the_counts_back_once(session: Session, person: UUID) -> None:
    kept, gone = (
        award(session, [claim(person, start=at(start))], now=NOON)[0].activity_id for start in ("18 07:00", "18 08:00")
    )
    assert kept is not None
    assert gone is not None
    revoked = counts.revoke(session, person, gone, why="not theirs", now=NOON)
    assert (revoked.outcome.value, revoked.reason) == ("reversed", "revoked")
    assert digest(session, "activities", "distance_m", "points", table="resident_day") == [(1, 5000, 8)]
    assert digest(session, "activities", "distance_m", "points", table="community_day") == [(1, 5000, 8)]
    assert balances(session, person) == ({date(2027, 12, 31): 8}, 0)
    with pytest.raises(AlreadyRevoked):
        counts.revoke(session, person, gone, why="again", now=NOON)
    with pytest.raises(NotFound):
        counts.revoke(session, resident(session), kept, why="not yours", now=NOON)
    assert transferred(session, person) == 8
    assert wrong(session) == {}


def test_only_what_was_awarded_can_be_revoked(session: Session, person: UUID) -> None:
    refused = award(session, [claim(person, distance_m=1)], now=NOON)[0]
    assert refused.activity_id is not None
    with pytest.raises(AlreadyRevoked):
        counts.revoke(session, person, refused.activity_id, why="?", now=NOON)


def test_an_activity_that_a_cap_left_unpaid_is_revoked_without_points_and_its_share_of_the_cap_stays_used(
    session: Session, person: UUID
) -> None:
    *_, paid, unpaid = award(session, [drop(person, start=at(f"18 0{hour}:00")) for hour in range(5)], now=NOON)
    assert (paid.points, unpaid.points) == (5, 0)
    for each in (unpaid, paid):
        assert each.activity_id is not None
        counts.revoke(session, person, each.activity_id, why="test", now=NOON)
    assert transferred(session, person) == 15
    assert told(award(session, [drop(person)], now=NOON)) == [("awarded", "cap-reached", 0)]
    assert wrong(session) == {}


def test_the_counts_can_be_built_anew_from_the_activities(session: Session, person: UUID) -> None:
    other = resident(session, "120104002001")
    claims = [
        *(
            claim(who, mode, start=at(f"17 0{hour}:00"))
            for who in (person, other)
            for hour, mode in enumerate(["bus", "metro"] * 4)
        ),
        *(drop(person, start=at(f"18 0{hour}:00")) for hour in range(6)),
        claim(other, "recycling", mode="pet", weight_g=900),
    ]
    answers = award(session, claims, now=NOON)
    assert answers[0].activity_id is not None
    counts.revoke(session, person, answers[0].activity_id, why="test", now=NOON)
    kept = [digest(session, "*", table=table) for table in ("resident_day", "community_day")]
    session.execute(sa.text("UPDATE resident_day SET points = points + 7, activities = 0"))
    session.execute(sa.text("DELETE FROM community_day WHERE behaviour = 'bus'"))
    session.execute(
        sa.text("INSERT INTO community_day VALUES ('120104001001', '2026-01-01', 'bus', 'x', '', 1, 1, 1, 1, 1)")
    )
    assert wrong(session).keys() == {"resident_day = activities", "community_day = activities"}
    assert counts.rebuild(session) == (len(kept[0]), len(kept[1]))
    assert [digest(session, "*", table=table) for table in ("resident_day", "community_day")] == kept
    assert wrong(session) == {}


# The database is the last guard


ACTIVITY = (
    "INSERT INTO activity (resident_id, id, behaviour, mode, grade, source, external_id, started_at, ended_at, "
    "received_at, business_day, community_code, distance_m, outcome, reason, {more}) SELECT resident_id, "
    "gen_random_uuid(), behaviour, mode, grade, source, gen_random_uuid()::text, {start}, {end}, received_at, "
    "business_day, community_code, distance_m, {outcome}, {reason}, {value} FROM activity"
)


def another(start: str = "started_at + interval '2 h'", end: str | None = None, **changes: str) -> str:
    known = {"outcome": "'awarded'", "reason": "NULL", "more": "steps", "value": "1"}
    return ACTIVITY.format(start=start, end=end or f"{start} + interval '5 min'", **{**known, **changes})


@pytest.mark.parametrize(
    ("kind", "constraint", "statement"),
    [
        (ExclusionViolation, "activity_no_overlap_excl", another("started_at + interval '19 min'")),
        (CheckViolation, "activity_span_check", another(end="started_at - interval '1 s'")),
        (CheckViolation, "activity_span_check", another(end="started_at + interval '27 h'")),
        (CheckViolation, "activity_reason_check", another(reason="'too-late'")),
        (CheckViolation, "activity_reason_check", another(outcome="'refused'")),
        (CheckViolation, "activity_outcome_check", another(outcome="'lost'", reason="'x'")),
        (CheckViolation, "activity_not_negative_check", another(value="-1")),
        (CheckViolation, "activity_not_negative_check", another(more="saved_co2e_mg", value="-1")),
        (CheckViolation, "activity_site_kind_check", another(more="site_kind", value="'flying'")),
        (CheckViolation, "activity_timing_check", another(more="timing", value="'never'")),
        (CheckViolation, "activity_channel_check", another(more="channel", value="'radio'")),
        (CheckViolation, "activity_behaviour_check", "UPDATE activity SET behaviour = 'drive'"),
        (CheckViolation, "activity_grade_check", "UPDATE activity SET grade = 'hearsay'"),
        (UniqueViolation, "activity_external_key", another().replace("gen_random_uuid()::text", "external_id")),
        (CheckViolation, "cap_usage_not_negative_check", "UPDATE cap_usage SET day_3 = -1"),
        (CheckViolation, "cap_usage_monday_check", "UPDATE cap_usage SET week_on = week_on + 1"),
        (CheckViolation, "resident_day_not_negative_check", "UPDATE resident_day SET points = -1"),
        (CheckViolation, "community_day_not_negative_check", "UPDATE community_day SET activities = -1"),
        (
            CheckViolation,
            "step_day_steps_check",
            "INSERT INTO step_day SELECT resident_id, now(), 200001 FROM activity",
        ),
    ],
)
def test_the_database_refuses_what_no_rule_would_write(
    session: Session, person: UUID, kind: type[Exception], constraint: str, statement: str
) -> None:
    award(session, [claim(person)], now=NOON)
    with session.begin_nested() as fits:
        session.execute(sa.text(another()))
        fits.rollback()
    with pytest.raises(IntegrityError) as refused, session.begin_nested():
        session.execute(sa.text(statement))
    assert isinstance(refused.value.orig, kind)
    assert refused.value.orig.diag.constraint_name == constraint  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE earning_rule SET points_per_act = 100",
        "DELETE FROM earning_rule",
        "INSERT INTO earning_rule SELECT version_id, behaviour, 'tram', grade, 100, 0, 0, 0, 0, 1, NULL, cap_group, 1, "
        "7 FROM earning_rule WHERE mode = 'metro' AND grade = 'partner-signed'",
        "UPDATE rule_version SET late_days_max = 60",
        "DELETE FROM rule_version",
    ],
)
def test_a_loaded_rule_is_never_changed_not_even_by_the_owner(session: Session, statement: str) -> None:
    with pytest.raises(DBAPIError) as refused, session.begin_nested(), owner(session):
        session.execute(sa.text(statement))
    assert isinstance(refused.value.orig, RestrictViolation)


# Rule files


def rule_file(tmp_path: Path, *changes: tuple[str, str]) -> rules.RuleFile:
    text = (PLACES_DATA / "nankai" / "earning-2026.toml").read_text("utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "earning-test.toml"
    path.write_text(text, "utf-8")
    return rules.read_file(path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("day_cap_points = 40", "day_cap_points = 41"), "caps of cap_group transit differ"),
        (("points_per_act = 8", "points_per_act = 8.5"), "whole"),
        (("points_per_act = 8", "points_per_ride = 8"), "unknown key"),
        (('behaviour = "bus"', 'behaviour = "drive"'), "drive"),
        (('modes = ["metro"]', 'modes = ["METRO"]'), "modes"),
        (('modes = ["kitchen", "recyclable"]', 'modes = ["kitchen", "kitchen"]'), "two rules"),
        (("expiry_years = 1", "expiry_year = 1"), "expiry_years"),
        (('id = "nankai-2026-1"', 'id = "Nankai 2026"'), "id must be"),
        (("late_days_max = 7", "late_days_max = ="), "earning-test.toml"),
    ],
)
def test_a_rules_file_with_a_fault_is_refused_by_name(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    with pytest.raises(rules.RuleDataError, match=fault):
        rule_file(tmp_path, change)


def test_a_changed_rules_file_needs_a_new_id_and_a_new_version_ends_the_one_before(
    session: Session, person: UUID, tmp_path: Path
) -> None:
    assert rules.load(session, [rule_file(tmp_path)]) == []
    dearer = ("points_per_act = 8", "points_per_act = 9")
    with pytest.raises(rules.RulesChanged):
        rules.load(session, [rule_file(tmp_path, dearer)])
    new = rule_file(tmp_path, dearer, ('id = "nankai-2026-1"', 'id = "nankai-2026-9"'), ("2026-01-01", "2026-11-25"))
    assert rules.load(session, [new]) == ["nankai-2026-9"]
    pricing.forget()
    rides = [claim(person, start=at(start)) for start in ("24 23:30", "25 00:00")]
    assert [answer.points for answer in award(session, rides, now=at("25 12:00"))] == [8, 9]
    pricing.forget()


def test_a_packaged_version_that_begins_no_later_than_the_districts_own_is_passed_over(
    session: Session, tmp_path: Path
) -> None:
    between = rule_file(tmp_path, ('id = "nankai-2026-1"', 'id = "nankai-2026-9"'), ("2026-01-01", "2026-11-23"))
    assert rules.load(session, [between]) == []
    assert [version.version_id for version in pricing.read(session).versions] == ["nankai-2026-2", "nankai-2026-1"]


def test_the_packaged_rules_pay_every_rule_within_its_own_caps(session: Session) -> None:
    """No rule is out of reach: its smallest and its largest quantity have a price, and the price is not negative."""
    newest, first = pricing.read(session).versions
    assert (len(newest.rates), len(first.rates)) == (74, 31)
    for tariff, start in ((first, at("18 00:00")), (newest, at("24 00:00"))):
        for (behaviour, mode, grade), each in tariff.rates.items():
            for quantity in (max(each.quantity_min, 1), each.quantity_max):
                row = priced_at(tariff, behaviour, mode, grade, quantity, start)
                assert row.reason is None, (behaviour, mode, grade, quantity)
                assert row.priced_points >= 0
                assert 0 < row.day_cap <= row.week_cap


def test_the_second_edition_pays_for_everything_what_the_first_one_paid(session: Session) -> None:
    """Its grades take a share of the points, and its rules name so many more that nobody's trip is worth less."""
    newest, first = pricing.read(session).versions
    for (behaviour, mode, grade), each in first.rates.items():
        for quantity in {*range(max(each.quantity_min, 1), each.quantity_max, 1 + each.quantity_max // 97)}:
            before = priced_at(first, behaviour, mode, grade, quantity, at("18 00:00"))
            after = priced_at(newest, behaviour, mode, grade, quantity, at("24 00:00"))
            assert after.priced_points == before.priced_points, (behaviour, mode, grade, quantity)
            assert (after.day_cap, after.week_cap, after.cap_group) == (
                before.day_cap,
                before.week_cap,
                before.cap_group,
            )


def priced_at(tariff: Tariff, behaviour: str, mode: str, grade: str, quantity: int, start: datetime) -> pricing.Priced:
    """A claim of this quantity under one version."""
    weighed = behaviour in {"sorting", "recycling"}
    name = "steps" if mode == "steps" else "weight_g" if weighed else "distance_m"
    made = claim(
        SOMEONE,
        behaviour,
        mode=mode,
        grade=Grade(grade),
        start=start,
        minutes=0 if weighed or name == "steps" else 720,
        **{name: quantity},
    )
    return pricing.price(Tariffs((tariff,)), made, 0, now=start + timedelta(hours=12))


def test_points_of_a_weighing_are_exact(session: Session, person: UUID) -> None:
    points_of(session, person, now=NOON, points=1)
    points_of(session, person, now=NOON, points=199)
    assert transferred(session, person) == 200
