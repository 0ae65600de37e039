"""The kept counts of activity: distinct people, largest parts, sites and grams, the same as what they are made of."""

import csv
import math
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from points_builders import claim, drop, resident
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from points.earning.award import award
from points.earning.claims import Award, Claim
from points.earning.counts import rebuild, revoke
from points.earning.models import Outcome
from points.partners.models import Partner
from points.statistics import counting, exported, intervals, jobs, verification
from points.statistics.counting import CountIsRunning, DuePeriod
from points.statistics.exported import ActivityDaysInvalid
from points.statistics.jobs import Counted
from points.statistics.marks import FIRST_DAY
from points.statistics.models import ActivityPeriod, ActivityPeriodCount, ActivitySaving, RegisteredPeriod
from points.statistics.periods import CalendarPeriod, Grain, period_with
from server.access import Actor, Role
from server.audit import AuditEntry
from server.clock import now
from server.database import db, new_id, transaction
from server.errors import Forbidden, NotFound
from server.exports import writing
from server.exports.models import Export, ExportFormat
from server.exports.registry import Producer
from server.people.models import Resident
from server.places import populations
from server.places.models import Confidence, Organisation, OrganisationKind
from server.places.populations import PopulationEntry
from server.settings import Settings
from wsgi import create_app

TODAY = date(2026, 11, 18)  # a Wednesday
DISTRICT, STREET = "120104", "120104001"
HERE, THERE, FAR = "120104001001", "120104001003", "120104002001"
METHOD = "published-conservative"
YEAR, QUARTER, MONTH, WEEK, DAY = Grain.YEAR, Grain.QUARTER, Grain.MONTH, Grain.WEEK, Grain.DAY
STATISTICS = "/api/v1/statistics"
REPORTS = ("places", "behaviours", "series", "sorting-accuracy")

Headers = dict[str, str]
SignIn = Callable[..., Headers]
Count = Callable[[], Counted]


@pytest.fixture(autouse=True)
def on_the_day(clock: time_machine.Traveller) -> time_machine.Traveller:
    return clock


@pytest.fixture
def count(app: Flask, session: Session) -> Count:
    """Counting as the job does it, in the test's transaction."""

    def run() -> Counted:
        session.commit()
        with app.app_context():
            counted = jobs.count_everything_due(FIRST_DAY)
        session.expire_all()
        return counted

    return run


def pay(session: Session, *claims: Claim) -> list[UUID]:
    """Awarded activities; their ids."""
    made: list[Award] = award(session, claims, now=now())
    assert all(each.outcome is Outcome.AWARDED for each in made), made
    return [each.activity_id for each in made if each.activity_id]


def move(session: Session, resident_id: UUID, community: str) -> None:
    session.execute(sa.update(Resident).where(Resident.resident_id == resident_id).values(community_code=community))


def cell(
    session: Session, place: str, grain: Grain = DAY, day: date = TODAY, behaviour: str = "", mode: str = ""
) -> ActivityPeriod:
    key = (grain, period_with(grain, day).starts_on, behaviour, mode, place)
    found = session.get(ActivityPeriod, key, populate_existing=True)
    assert found is not None, key
    return found


def residents(session: Session, grain: Grain, *places: str, behaviour: str = "", mode: str = "") -> tuple[int, ...]:
    return tuple(cell(session, place, grain, behaviour=behaviour, mode=mode).residents for place in places)


def faults(session: Session) -> dict[str, Any]:
    return {each.name: each.first_wrong for each in verification.verify(session) if each.first_wrong is not None}


def some_history(session: Session, chance: random.Random, count: int) -> int:
    """Random acts of people who move, on twelve days of two months, some taken back; how many were awarded."""
    people = [resident(session, chance.choice([HERE, THERE, FAR])) for _ in range(8)]
    paid = []
    for number in range(count):
        who = chance.choice(people)
        if chance.random() < 0.2:
            move(session, who, chance.choice([HERE, THERE, FAR]))
        start = now() - timedelta(days=chance.randrange(6) + (20 if chance.random() < 0.4 else 0), minutes=9 * number)
        of_what: list[dict[str, Any]] = [
            {"behaviour": "bus", "minutes": 8, "distance_m": chance.randrange(800, 3000)},
            {"behaviour": "bicycle", "minutes": 8, "distance_m": 1200, "source": "bikes"},
            {"behaviour": "sorting", "mode": chance.choice(["kitchen", "residual"]), "site": "bin-1"},
            {"behaviour": "recycling", "mode": "aluminium_can", "weight_g": 700, "site": f"s-{number % 3}"},
        ]
        one = claim(who, start=start, **chance.choice(of_what))
        (answer,) = award(session, [one], now=one.ended_at)
        if answer.outcome is Outcome.AWARDED and answer.activity_id is not None:
            paid.append((who, answer.activity_id))
    for who, activity in chance.sample(paid, len(paid) // 8):
        revoke(session, who, activity, why="test", now=now())
    return len(paid)


# Counting


@pytest.mark.parametrize("seed", [1, 2])
def test_the_counts_are_those_of_a_plain_recount_after_any_history(session: Session, count: Count, seed: int) -> None:
    chance = random.Random(seed)
    session.add(Partner(code="bikes", name_zh="单车", kinds=["ride"], day_budget_points=9, created_at=now()))
    assert some_history(session, chance, 60) > 40
    assert count().waiting == 0
    assert faults(session) == {}
    assert cell(session, DISTRICT, YEAR).partners == 1
    some_history(session, chance, 10)
    assert count().days > 0
    assert faults(session) == {}
    assert count() == Counted(0, 0, 0)


def test_who_moved_counts_in_both_communities_and_once_in_what_holds_both(session: Session, count: Count) -> None:
    mover, other = resident(session, HERE), resident(session, HERE)
    start = now() - timedelta(hours=6)
    pay(session, claim(mover, start=start), claim(other, start=start, distance_m=3000))
    move(session, mover, THERE)
    pay(session, claim(mover, start=start + timedelta(hours=1), distance_m=4000))
    move(session, mover, FAR)
    pay(session, claim(mover, "metro", start=start + timedelta(hours=2), distance_m=2000))
    count()
    for grain in Grain:
        assert residents(session, grain, HERE, THERE, FAR, STREET, DISTRICT) == (2, 1, 1, 2, 2)
        assert residents(session, grain, STREET, DISTRICT, behaviour="bus", mode="bus") == (2, 2)
        street, district = (cell(session, place, grain) for place in (STREET, DISTRICT))
        # 9,000 m of the mover's in the street, 11,000 m in the district, and 3,000 m of the other's.
        assert (street.largest_distance_m, street.squared_distance_m) == (9000, 9000.0**2 + 3000.0**2)
        assert (district.largest_distance_m, district.distance_m) == (11000, 14000)
        assert (district.activities, district.largest_activities) == (4, 3)
    assert faults(session) == {}


def test_residents_of_a_measure_are_those_who_have_any_of_it(session: Session, count: Count) -> None:
    people = [resident(session) for _ in range(3)]
    start = now() - timedelta(hours=1)
    made = pay(session, *(drop(who, start=start) for who in people), claim(people[0], start=start, distance_m=1500))
    revoke(session, people[2], made[2], why="test", now=now())
    count()
    everything, sorting = cell(session, HERE), cell(session, HERE, behaviour="sorting", mode="kitchen")
    assert (everything.residents, everything.distance_residents, everything.weight_residents) == (2, 1, 0)
    assert (sorting.activities, sorting.residents, sorting.reversed, sorting.distance_residents) == (2, 2, 1, 0)
    saved = session.scalars(sa.select(ActivitySaving).where(ActivitySaving.place_code == HERE)).all()
    assert {(each.behaviour, each.mode) for each in saved} == {("", ""), ("bus", ""), ("bus", "bus")}
    assert {(each.method_id, each.residents) for each in saved} == {(METHOD, 1)}
    assert {each.saved_co2e_mg - each.largest_saved_co2e_mg for each in saved} == {0}


def test_sites_and_partners_are_distinct_in_each_row(session: Session, count: Count) -> None:
    for code in ("bins", "bikes"):
        session.add(Partner(code=code, name_zh=code, kinds=["bin-drop"], day_budget_points=9, created_at=now()))
    who, start = resident(session), now() - timedelta(days=1)
    pay(
        session,
        drop(who, "kitchen", site="b-1", start=start),
        drop(who, "kitchen", site="b-2", start=start),
        drop(who, "residual", site="b-1", start=start),
        claim(who, "bicycle", source="bikes", site="b-1", distance_m=2000, start=start),
        claim(who, "bus", source="self", start=start + timedelta(hours=1)),
    )
    count()
    for grain in (DAY, MONTH, YEAR):
        found = {
            (behaviour, mode): cell(session, DISTRICT, grain, start.date(), behaviour, mode)
            for behaviour, mode in (("", ""), ("sorting", ""), ("sorting", "kitchen"), ("bus", "bus"))
        }
        assert {key: (each.sites, each.partners) for key, each in found.items()} == {
            ("", ""): (3, 2),  # a site is one partner's own: b-1 of the bins and b-1 of the bikes are two
            ("sorting", ""): (2, 1),
            ("sorting", "kitchen"): (2, 1),
            ("bus", "bus"): (0, 0),
        }


def test_a_reversal_beside_an_equal_award_is_counted_again(session: Session, count: Count) -> None:
    first, second = resident(session), resident(session)
    start = now() - timedelta(hours=2)
    (made,) = pay(session, drop(first, start=start))
    count()
    revoke(session, first, made, why="test", now=now())
    pay(session, drop(second, start=start))
    assert count().days == 1
    assert (cell(session, HERE).residents, cell(session, HERE, YEAR).residents) == (1, 1)
    assert cell(session, HERE, YEAR).reversed == 1
    assert faults(session) == {}


def test_a_day_that_lost_all_its_rows_leaves_no_figure_behind(session: Session, count: Count) -> None:
    who = resident(session)
    (made,) = pay(session, drop(who, start=now() - timedelta(days=1)))
    count()
    revoke(session, who, made, why="test", now=now())
    rebuild(session)  # a day without an awarded activity has no row there any more
    assert count().days == 1
    assert set(session.scalars(sa.select(ActivityPeriod.activities))) == {0}  # what was taken back is told, no more
    assert session.scalar(sa.select(sa.func.count()).select_from(ActivitySaving)) == 0
    assert faults(session) == {}


def test_registered_residents_of_a_past_period_stay_as_they_were(
    session: Session, count: Count, clock: time_machine.Traveller
) -> None:
    who = resident(session)
    pay(session, drop(who, start=now() - timedelta(hours=1)))
    count()
    resident(session)
    clock.shift(timedelta(days=1))
    pay(session, drop(who, start=now() - timedelta(days=1, hours=2)), drop(who, start=now()))
    count()

    def registered(grain: Grain, place: str) -> int:
        key = (grain, period_with(grain, TODAY).starts_on, place)
        found = session.get(RegisteredPeriod, key, populate_existing=True)
        assert found is not None
        return found.registered

    assert (registered(DAY, HERE), registered(WEEK, HERE), registered(DAY, FAR)) == (1, 2, 0)
    places = sa.select(sa.func.count()).where(RegisteredPeriod.grain == DAY, RegisteredPeriod.starts_on == TODAY)
    assert session.scalar(places) == 171 + 12 + 1


# Which periods are counted when


def test_a_large_period_waits_and_what_is_added_up_from_it_waits_too() -> None:
    month, day = CalendarPeriod(MONTH, date(2026, 11, 1)), CalendarPeriod(DAY, TODAY)
    for activities, wait_s in ((300_000, 0), (300_001, 3600), (5_000_001, 6 * 3600)):
        due = DuePeriod(month, now() - timedelta(seconds=wait_s), activities)
        assert not due.can_wait(now())
        assert wait_s == 0 or due.can_wait(now() - timedelta(seconds=1))
    assert not DuePeriod(month, None, 10**9).can_wait(now())
    long = [CalendarPeriod(QUARTER, date(2026, 10, 1)), CalendarPeriod(YEAR, date(2026, 1, 1))]
    other = CalendarPeriod(QUARTER, date(2026, 1, 1))
    assert counting.countable_long([day, *long, other], [month]) == [other]
    assert set(counting.countable_long([day, *long, other], [day])) == {*long, other}


def test_the_frequent_round_leaves_large_periods_and_the_other_leaves_none(
    app: Flask, session: Session, count: Count
) -> None:
    who = resident(session)
    pay(session, drop(who, start=now() - timedelta(hours=2)))
    count()
    session.execute(sa.text("UPDATE activity_period_count SET activities = 9999999 WHERE grain = 'month'"))
    pay(session, drop(who, start=now() - timedelta(hours=1)))
    session.commit()
    month = CalendarPeriod(MONTH, TODAY.replace(day=1))
    with app.app_context():
        assert jobs.count_everything_due(FIRST_DAY, nothing_waits=False) == Counted(1, 2, 3)
        assert not counting.is_settled(session, month)
        assert counting.is_settled(session, CalendarPeriod(DAY, TODAY))
        assert (cell(session, HERE).activities, cell(session, HERE, YEAR).activities) == (2, 1)
        assert faults(session) == {}  # what waits is not called wrong
    assert count() == Counted(0, 3, 0)
    assert cell(session, HERE, YEAR).activities == 2
    session.expire_all()
    assert counting.is_settled(session, month)
    assert not counting.is_settled(session, CalendarPeriod(MONTH, date(2026, 1, 1)))


@pytest.fixture
def own_app(base_settings: Settings, make_database: Callable[[], str]) -> Iterator[Flask]:
    """The application on a database of its own, with real commits."""
    url = make_database()
    made = create_app(replace(base_settings, database_url=url, database_owner_url=url))
    with made.app_context():
        yield made
        db.session.remove()
        db.engine.dispose()


def test_one_process_counts_at_a_time_and_finds_what_commits_meanwhile_in_the_next_round(own_app: Flask) -> None:
    with transaction() as session:
        early, late = resident(session), resident(session)
        pay(session, drop(early, start=now() - timedelta(hours=1)))
    with Session(db.engine) as uncommitted, Session(db.engine) as look:
        pay(uncommitted, drop(late, start=now() - timedelta(hours=1)))
        jobs.count_everything_due(FIRST_DAY)
        assert residents(look, MONTH, HERE) == (1,)
        uncommitted.commit()
        look.rollback()
        counting.lock(look)
        with pytest.raises(CountIsRunning):
            jobs.count_everything_due(FIRST_DAY)
        jobs.count_activity(0)  # the job comes back later
        look.rollback()
        assert jobs.count_everything_due(FIRST_DAY).days == 1
        assert residents(look, MONTH, HERE) == (2,)
        assert faults(look) == {}


def test_the_commands_rebuild_and_prove_and_name_the_first_wrong_row(own_app: Flask) -> None:
    with transaction() as session:
        pay(session, drop(resident(session), start=now() - timedelta(hours=1)))
    jobs.prove_activity(0)
    for change, check in {
        "points = points + 1": "amounts",
        "residents = residents + 1": "residents",
        "squared_points = squared_points + 1": "residents",
        "sites = sites + 1": "sites",
        "reversed = 1": "sites",
    }.items():
        with Session(db.engine) as tampering:
            wrong = sa.text(f"UPDATE activity_period SET {change} WHERE place_code = :here AND grain = 'year'")
            tampering.execute(wrong, {"here": HERE})
            (found,) = faults(tampering)
            assert check in found.split(":")[1], (change, found)
    with transaction() as session:
        session.execute(sa.text("DELETE FROM activity_period WHERE place_code = :here"), {"here": HERE})
    runner = own_app.test_cli_runner()
    told = runner.invoke(args=["counts", "verify-activity", "--since", "2026-01-01"])
    assert (told.exit_code, "kept_activities=None, true_activities=1" in told.output) == (1, True), told.output
    assert runner.invoke(args=["counts", "rebuild-activity"]).exit_code == 0
    assert runner.invoke(args=["counts", "verify-activity"]).exit_code == 0


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("largest_points = points + 1", "activity_period_largest_check"),
        ("residents = 0", "activity_period_residents_check"),
        ("sites = -1", "activity_period_not_negative_check"),
        ("behaviour = '', mode = 'x'", "activity_period_mode_check"),
        ("place_code = '1201'", "activity_period_place_code_check"),
    ],
)
def test_the_database_refuses_a_row_that_cannot_be_true(
    session: Session, count: Count, change: str, constraint: str
) -> None:
    pay(session, drop(resident(session), start=now() - timedelta(hours=1)))
    count()
    with pytest.raises(IntegrityError, match=constraint):
        session.execute(sa.text(f"UPDATE activity_period SET {change} WHERE mode = 'kitchen'"))


# Intervals


def test_intervals_are_those_of_the_literature_and_none_below_ten() -> None:
    # Wilson's interval of 81 of 263, from R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872.
    found = intervals.share(81, 263)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert intervals.share(3, 2) is None
    assert intervals.share(0, 0) is None
    amounts = [3.0, 5.0, 8.0, 1.0, 4.0, 4.0, 6.0, 2.0, 7.0, 9.0]
    half = 1.959964 * statistics.stdev([*amounts, *[0.0] * 10]) / math.sqrt(20)
    mean = intervals.mean(sum(amounts), sum(each * each for each in amounts), 10, 20)
    assert mean is not None
    assert (mean.value, mean.low, mean.high) == pytest.approx((2.45, 2.45 - half, 2.45 + half), abs=1e-6)
    assert intervals.mean(8, 32, 2, 20) == intervals.Estimate(0.4, None, None)
    assert (mean.beside(1.0), mean.beside(9.0), mean.beside(2.5)) == ("higher", "lower", "cannot-be-told")


# Reports


def report(client: FlaskClient, headers: Headers, name: str, **query: Any) -> dict[str, Any]:
    answer = client.get(f"{STATISTICS}/{name}", query_string=query, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json or {}
    return found


def activities(client: FlaskClient, headers: Headers, **query: Any) -> dict[str, int]:
    """Recorded activities by place, where there are any."""
    items = report(client, headers, "places", **query)["items"]
    return {item["place_code"]: item["amounts"]["activities"] for item in items if item["amounts"]["activities"]}


def test_staff_read_exact_figures_of_their_scope_and_leave_a_trace(
    client: FlaskClient, session: Session, count: Count, sign_in_staff: SignIn
) -> None:
    for home, people in ((HERE, 3), (THERE, 1), (FAR, 2)):
        pay(session, *(claim(resident(session, home), start=now() - timedelta(hours=1)) for _ in range(people)))
    count()
    community = sign_in_staff(Role.COMMUNITY_STAFF, division=HERE)
    street = sign_in_staff(Role.STREET, division=STREET)
    district = sign_in_staff(Role.DISTRICT, division=DISTRICT)
    assert activities(client, community) == {HERE: 3}
    assert activities(client, street, level="community") == {HERE: 3, THERE: 1}
    assert activities(client, district, limit=200) == {
        DISTRICT: 6,
        STREET: 4,
        HERE: 3,
        THERE: 1,
        "120104002": 2,
        FAR: 2,
    }
    assert activities(client, district, within=STREET, level="street") == {STREET: 4}
    first = report(client, district, "places", limit=100)
    rest = report(client, district, "places", limit=100, cursor=first["next_cursor"])
    codes = [item["place_code"] for item in first["items"] + rest["items"]]
    assert (len(codes), codes, rest["next_cursor"]) == (184, sorted(set(codes)), None)
    for headers, outside in ((community, THERE), (community, STREET), (street, FAR), (street, DISTRICT)):
        for url in (f"places?within={outside}", f"behaviours?place={outside}", f"series?place={outside}"):
            assert client.get(f"{STATISTICS}/{url}", headers=headers).status_code == 404
    traces = session.scalars(
        sa.select(AuditEntry).where(AuditEntry.act == "statistics.read").order_by(AuditEntry.id)
    ).all()
    assert [each.subject for each in traces] == [HERE, STREET, DISTRICT, STREET, DISTRICT, DISTRICT]
    assert (traces[0].detail["table"], traces[0].detail["grain"]) == ("places", "month")


def test_a_page_is_made_once_for_each_counting(
    client: FlaskClient, session: Session, count: Count, sign_in_staff: SignIn
) -> None:
    who, staff = resident(session), sign_in_staff(Role.DISTRICT, division=DISTRICT)
    pay(session, claim(who, start=now() - timedelta(hours=3)))
    count()
    assert activities(client, staff, level="community") == {HERE: 1}
    # Nobody writes into a kept count without counting: it is how this test sees where the second answer comes from.
    session.execute(sa.update(ActivityPeriod).values(activities=7))
    session.commit()
    assert activities(client, staff, level="community") == {HERE: 1}
    assert activities(client, staff, level="community", limit=3) == {HERE: 7}
    pay(session, claim(who, start=now() - timedelta(hours=1)))
    count()
    assert activities(client, staff, level="community") == {HERE: 2}
    street = sign_in_staff(Role.STREET, division="120104002")
    assert activities(client, street, level="community") == {}


def test_one_organisations_staff_residents_and_operators_read_none_of_it(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, sign_in_resident: SignIn
) -> None:
    school = Organisation(
        id=new_id(), kind=OrganisationKind.SCHOOL, name="校", community_code=HERE, valid_from=date(2026, 1, 1)
    )
    session.add(school)
    session.commit()
    for headers, status in (
        (sign_in_staff(Role.SCHOOL_STAFF, organisation=school.id), 404),
        (sign_in_resident(), 403),
        (sign_in_staff(Role.OPERATOR, division=DISTRICT), 403),
        ({}, 401),
    ):
        for name in REPORTS:
            assert client.get(f"{STATISTICS}/{name}", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("places?mode=bus", "mode-of-no-behaviour"),
        ("places?behaviour=flying", "invalid-request"),
        ("places?grain=decade", "invalid-request"),
        ("places?cursor=nonsense", "bad-cursor"),
        ("series?periods=61", "invalid-request"),
        ("behaviours?place=12", "invalid-request"),
        ("behaviours?mode=bus", "invalid-request"),
        ("sorting-accuracy?behaviour=bus", "invalid-request"),
    ],
)
def test_a_report_that_does_not_exist_is_refused(
    client: FlaskClient, sign_in_staff: SignIn, url: str, code: str
) -> None:
    answer = client.get(f"{STATISTICS}/{url}", headers=sign_in_staff(Role.DISTRICT, division=DISTRICT))
    assert (answer.status_code, (answer.json or {})["code"]) == (422, code)


def test_figures_per_resident_have_intervals_and_name_their_population(
    client: FlaskClient, session: Session, count: Count, sign_in_staff: SignIn
) -> None:
    active = [resident(session) for _ in range(12)]
    for _ in range(8):
        resident(session)
    pay(session, *(claim(who, start=now() - timedelta(hours=2), distance_m=4000) for who in active))
    populations.load(session, [PopulationEntry(HERE, 2020, 5000, "测试", Confidence.COMPUTED)])
    for _ in range(30):
        resident(session, THERE)
    count()
    staff = sign_in_staff(Role.DISTRICT, division=DISTRICT)
    (here,) = report(client, staff, "places", within=HERE, behaviour="bus")["items"]
    spread = here["per_registered"]
    assert (spread["persons"], spread["share"]["value"], spread["beside_district"]) == (20, 0.6, "higher")
    assert (spread["share"]["low"], spread["share"]["high"]) == pytest.approx((0.386582, 0.781193), abs=1e-5)
    deviation = 4000 * math.sqrt(0.6 * 0.4 * 20 / 19)
    assert spread["distance_m"]["value"] == 2400
    assert spread["distance_m"]["low"] == pytest.approx(2400 - 1.959964 * deviation / math.sqrt(20), abs=0.01)
    assert spread["weight_g"] == {"value": 0.0, "low": None, "high": None}
    (population,) = here["per_population"]
    assert (population["persons"], population["source"], population["confidence"]) == (5000, "测试", "C")
    assert (population["share"]["value"], population["beside_district"]) == (0.0024, None)


def a_year_ago(session: Session, *, distance_m: int) -> None:
    """One bus ride of the same day of the year before, as it was counted then."""
    for behaviour, mode in (("", ""), ("bus", ""), ("bus", "bus")):
        zeros = dict.fromkeys(
            [column.name for column in sa.inspect(ActivityPeriod).local_table.columns if not column.primary_key],
            0,
        )
        session.add(
            ActivityPeriod(
                grain=DAY,
                starts_on=date(2025, 11, 17),
                behaviour=behaviour,
                mode=mode,
                place_code=HERE,
                **{**zeros, "activities": 1, "residents": 1, "distance_m": distance_m, "points": 8},
            )
        )
    session.add(
        ActivitySaving(
            grain=DAY,
            starts_on=date(2025, 11, 17),
            behaviour="bus",
            mode="bus",
            place_code=HERE,
            method_id="another-method",
            saved_co2e_mg=5000,
            residents=1,
            largest_saved_co2e_mg=5000,
        )
    )
    session.add(
        ActivityPeriodCount(grain=DAY, starts_on=date(2025, 11, 17), is_due=False, counted_at=now(), activities=1)
    )
    session.flush()


def test_a_year_ago_is_compared_where_it_can_be_and_the_reason_told_where_not(
    client: FlaskClient, session: Session, count: Count, sign_in_staff: SignIn
) -> None:
    who = resident(session)
    yesterday = now() - timedelta(days=1)
    pay(session, claim(who, start=yesterday, distance_m=6000), claim(who, start=now() - timedelta(hours=1)))
    a_year_ago(session, distance_m=4000)
    count()
    staff = sign_in_staff(Role.DISTRICT, division=DISTRICT)
    query = {"place": HERE, "behaviour": "bus", "mode": "bus", "periods": 3, "grain": "day"}
    before, then, today = report(client, staff, "series", **query)["items"]
    assert (before["amounts"], before["counted_at"]) == (None, None)  # not the same as nothing
    change = then["year_on_year"]
    assert (change["starts_on"], change["before"]["distance_m"]) == ("2025-11-17", 4000)
    # There were no rules of ours in 2025, so points do not compare; metres do. Methods never do.
    assert change["not_comparable"] == ["rules-differ"]
    assert (change["distance_m"], change["activities"], change["points"]) == (0.5, 0.0, None)
    assert {saving["method"]: saving["before_co2e_g"] for saving in then["savings"]} == {
        METHOD: None,
        "another-method": 5,
    }
    assert today["year_on_year"]["not_comparable"] == ["period-not-over", "not-counted-then", "rules-differ"]
    assert today["year_on_year"]["before"] is None
    kinds = report(client, staff, "behaviours", place=HERE, grain="day", on="2026-11-17")["items"]
    assert [(item["behaviour"], item["mode"]) for item in kinds] == [("", ""), ("bus", ""), ("bus", "bus")]
    assert {item["year_on_year"]["distance_m"] for item in kinds} == {0.5}
    week, leap = (
        report(client, staff, "places", grain=grain, on=on)["rules_before"]
        for grain, on in (("week", "2026-11-18"), ("day", "2028-02-29"))
    )
    assert (week, leap) == ([], [])


def test_kilograms_by_material_and_the_upper_bound_of_sorting_accuracy_are_told(
    client: FlaskClient, session: Session, count: Count, sign_in_staff: SignIn
) -> None:
    people = [resident(session) for _ in range(4)]
    start = now() - timedelta(hours=1)
    made = pay(session, *(drop(who, start=start) for who in people))
    revoke(session, people[0], made[0], why="test", now=now())
    for material, weight_g in (("aluminium_can", 500), ("pet", 1200)):
        pay(session, claim(people[1], "recycling", mode=material, weight_g=weight_g, start=start))
    count()
    staff = sign_in_staff(Role.STREET, division=STREET)
    found = report(client, staff, "behaviours", behaviour="recycling", grain="quarter")
    assert {item["mode"]: item["amounts"]["weight_g"] for item in found["items"]} == {
        "": 1700,
        "aluminium_can": 500,
        "pet": 1200,
    }
    accuracy = report(client, staff, "sorting-accuracy", level="street", grain="week")
    assert "上限" in accuracy["note"]
    (street,) = accuracy["items"]
    assert (street["standing"], street["taken_back"], street["accuracy"]["value"]) == (3, 1, 0.75)
    empty = report(client, staff, "sorting-accuracy", level="street", mode="hazardous")["items"]
    assert [(item["standing"], item["accuracy"]) for item in empty] == [(0, None)]


# Files


def produced(producer: Producer, session: Session, actor: Actor, path: Path, **arguments: Any) -> list[list[str]]:
    producer.authorise(session, actor, arguments)
    columns, rows = (make(session, actor, arguments) for make in (producer.columns, producer.rows))
    writing.write(cast("Any", columns), cast("Any", rows), path, format=ExportFormat.CSV, made_at=now())
    return list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))


def test_the_table_of_a_period_and_the_list_of_activities_become_files_without_anybodys_name(
    session: Session, count: Count, tmp_path: Path
) -> None:
    table, listed = exported.PRODUCERS
    who = resident(session)
    made = pay(session, claim(who, start=now() - timedelta(hours=1)), drop(who, site="=1+1", start=now()))
    revoke(session, who, made[1], why="test", now=now())
    count()
    district, street = (
        Actor(new_id(), role, new_id(), division=code)
        for role, code in ((Role.DISTRICT, DISTRICT), (Role.STREET, STREET))
    )
    arguments = {"grain": "month", "on": "2026-11-18", "within": None}
    heading, *rows = produced(table, session, district, tmp_path / "table.csv", **arguments)
    assert heading == list(exported.TABLE_COLUMNS)
    assert [row[0] for row in rows] == [code for code in (DISTRICT, STREET, HERE) for _ in range(5)]
    assert rows[2][6:] == ["bus", "bus", "1", "1", "1", "5000", "0.0", "8", f"{METHOD} 134", "0", "0", "0"]
    assert len(produced(table, session, street, tmp_path / "street.csv", **arguments)) == 1 + 10
    days = {"from": "2026-11-17", "to": "2026-11-18"}
    heading, *rows = produced(listed, session, district, tmp_path / "list.csv", **days)
    assert heading == list(exported.LIST_COLUMNS)
    assert [(row[1], row[2], row[6], row[13]) for row in rows] == [
        (HERE, "bus", "awarded", "8"),
        (HERE, "sorting", "reversed", "5"),
    ]
    assert rows[1][11] == "'=1+1"
    assert str(who) not in (tmp_path / "list.csv").read_text(encoding="utf-8-sig")
    with pytest.raises(NotFound):
        listed.authorise(session, street, days)
    with pytest.raises(Forbidden):
        listed.authorise(session, Actor(who, Role.RESIDENT, new_id()), days)
    with pytest.raises(ActivityDaysInvalid):
        listed.authorise(session, district, {"from": "2025-11-17", "to": "2026-11-18"})


def test_staff_ask_for_the_files_over_http(client: FlaskClient, session: Session, sign_in_staff: SignIn) -> None:
    district, street = sign_in_staff(Role.DISTRICT, division=DISTRICT), sign_in_staff(Role.STREET, division=STREET)
    table = {"format": "xlsx", "grain": "year", "within": STREET}
    days = {"format": "csv", "from": "2026-11-01", "to": "2026-11-02"}
    assert client.post(f"{STATISTICS}/exports", json=table, headers=district).status_code == 202
    assert client.post(f"{STATISTICS}/activity-exports", json=days, headers=district).status_code == 202
    assert client.post(f"{STATISTICS}/activity-exports", json=days, headers=street).status_code == 404
    assert client.post(f"{STATISTICS}/exports", json={**table, "within": DISTRICT}, headers=street).status_code == 404
    kinds = sorted(session.scalars(sa.select(Export.kind)))
    assert kinds == ["activities", "activity-statistics"]
