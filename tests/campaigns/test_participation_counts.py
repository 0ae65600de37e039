"""The kept counts of participation: exact, distinct, lowered by reversals, and the same as what they are made of."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from attendance_builders import a_campaign, a_slot, a_task, was_there
from flask import Flask
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from statistics_builders import (
    DISTRICT,
    FAR,
    HERE,
    METHOD,
    OTHER_STREET,
    STREET,
    THERE,
    act,
    count,
    faults,
    participants,
    register,
    row,
)

from campaigns.attendance.models import SlotKind
from campaigns.drives.models import Campaign, CampaignState, Participation, TaskKind
from campaigns.statistics import counting, jobs
from campaigns.statistics.counting import Counted, CountIsRunning
from campaigns.statistics.models import CampaignCount, OrganisationPeriod, PeriodPrior, PlacePeriod, ResidentPeriod
from points.earning.models import Behaviour
from points.statistics.periods import CalendarPeriod, Grain, period_with, periods_with
from server.access import Role
from server.clock import SHANGHAI, business_day, now
from server.database import db, new_id, transaction
from server.people.models import OrganisationMembership, Resident
from server.places.models import Organisation, OrganisationKind
from server.settings import Settings
from wsgi import create_app

TODAY = date(2026, 11, 18)  # a Wednesday
YEAR, QUARTER, MONTH, WEEK, DAY = Grain.YEAR, Grain.QUARTER, Grain.MONTH, Grain.WEEK, Grain.DAY


@pytest.fixture(autouse=True)
def on_the_day(clock: time_machine.Traveller) -> time_machine.Traveller:
    assert business_day(now()) == TODAY
    return clock


# Periods


@pytest.mark.parametrize(
    ("grain", "day", "starts_on", "ends_on"),
    [
        (DAY, date(2026, 11, 18), date(2026, 11, 18), date(2026, 11, 18)),
        (WEEK, date(2026, 11, 18), date(2026, 11, 16), date(2026, 11, 22)),
        (WEEK, date(2026, 1, 1), date(2025, 12, 29), date(2026, 1, 4)),
        (MONTH, date(2026, 2, 28), date(2026, 2, 1), date(2026, 2, 28)),
        (MONTH, date(2028, 2, 29), date(2028, 2, 1), date(2028, 2, 29)),
        (MONTH, date(2026, 12, 31), date(2026, 12, 1), date(2026, 12, 31)),
        (QUARTER, date(2026, 5, 31), date(2026, 4, 1), date(2026, 6, 30)),
        (QUARTER, date(2026, 12, 1), date(2026, 10, 1), date(2026, 12, 31)),
        (YEAR, date(2026, 7, 1), date(2026, 1, 1), date(2026, 12, 31)),
    ],
)
def test_a_period_is_the_calendars_and_weeks_begin_on_monday(
    grain: Grain, day: date, starts_on: date, ends_on: date
) -> None:
    period = period_with(grain, day)
    assert (period.starts_on, period.ends_on) == (starts_on, ends_on)


def test_the_database_cuts_periods_where_we_do(session: Session) -> None:
    for offset in range(0, 1200, 7):
        day = date(2024, 1, 1) + timedelta(days=offset)
        for period in periods_with(day):
            cut = sa.text("SELECT cast(date_trunc(:grain, cast(:day AS timestamp)) AS date)")
            assert session.scalar(cut, {"grain": period.grain.value, "day": day}) == period.starts_on
            assert period_with(period.grain, period.ends_on) == period
            assert period_with(period.grain, period.ends_on + timedelta(days=1)) != period


# Participants


def test_a_resident_counts_once_in_every_period_and_at_the_home_of_the_last_active_day(session: Session) -> None:
    (mover,) = register(session, HERE)
    act(session, [mover], date(2026, 11, 3), HERE)
    act(session, [mover], date(2026, 11, 3), HERE, Behaviour.BUS)
    act(session, [mover], date(2026, 11, 12), FAR)
    count(session)
    for grain in (MONTH, QUARTER, YEAR):
        assert participants(session, grain, TODAY, HERE, FAR, STREET, OTHER_STREET, DISTRICT) == (0, 1, 0, 1, 1)
    assert participants(session, WEEK, date(2026, 11, 3), HERE, FAR, DISTRICT) == (1, 0, 1)
    assert participants(session, WEEK, date(2026, 11, 12), HERE, FAR, DISTRICT) == (0, 1, 1)
    assert participants(session, DAY, date(2026, 11, 3), HERE, DISTRICT) == (1, 1)
    assert participants(session, DAY, date(2026, 11, 4), HERE, DISTRICT) == (0, 0)
    assert faults(session) == {}


def test_a_reversal_lowers_every_period_and_gives_the_resident_back_to_the_day_before(session: Session) -> None:
    (mover,) = register(session, HERE)
    act(session, [mover], date(2026, 10, 30), HERE)
    act(session, [mover], date(2026, 11, 12), FAR)
    count(session)
    assert participants(session, YEAR, TODAY, HERE, FAR) == (0, 1)

    act(session, [mover], date(2026, 11, 12), FAR, times=-1)
    count(session)
    assert participants(session, MONTH, TODAY, HERE, FAR, DISTRICT) == (0, 0, 0)
    assert participants(session, YEAR, TODAY, HERE, FAR, DISTRICT) == (1, 0, 1)
    assert participants(session, MONTH, date(2026, 10, 30), HERE) == (1,)

    act(session, [mover], date(2026, 10, 30), HERE, times=-1)
    count(session)
    assert participants(session, YEAR, TODAY, HERE, FAR, DISTRICT) == (0, 0, 0)
    assert session.scalar(sa.select(sa.func.count()).select_from(ResidentPeriod)) == 0
    assert faults(session) == {}


def test_a_reversal_and_an_equal_award_between_two_counts_do_not_hide_each_other(session: Session) -> None:
    leaving, staying = register(session, HERE, 2)
    act(session, [leaving], date(2026, 11, 12))
    act(session, [staying], date(2026, 11, 3))
    count(session)
    assert participants(session, MONTH, TODAY, HERE) == (2,)
    # Every sum of the twelfth stays as it was, for the community and the day.
    act(session, [leaving], date(2026, 11, 12), times=-1)
    act(session, [staying], date(2026, 11, 12))
    count(session)
    assert participants(session, MONTH, TODAY, HERE) == (1,)
    assert participants(session, DAY, date(2026, 11, 12), HERE) == (1,)


def test_two_homes_on_one_day_count_once(session: Session) -> None:
    (mover,) = register(session, HERE)
    act(session, [mover], TODAY, HERE)
    act(session, [mover], TODAY, THERE, Behaviour.BUS)
    count(session)
    assert participants(session, DAY, TODAY, HERE, THERE, STREET) == (0, 1, 1)
    assert participants(session, MONTH, TODAY, HERE, THERE, STREET) == (0, 1, 1)
    act(session, [mover], TODAY, THERE, Behaviour.BUS, times=-1)
    count(session)
    assert participants(session, MONTH, TODAY, HERE, THERE, STREET) == (1, 0, 1)
    assert faults(session) == {}


def test_a_late_record_counts_to_the_year_that_it_belongs_to(
    session: Session, on_the_day: time_machine.Traveller
) -> None:
    early, late = register(session, HERE, 2)
    on_the_day.move_to(datetime(2026, 12, 31, 22, tzinfo=SHANGHAI))
    act(session, [early], date(2026, 12, 31))
    count(session)
    on_the_day.move_to(datetime(2027, 1, 3, 9, tzinfo=SHANGHAI))
    act(session, [late], date(2026, 12, 30))
    count(session)
    for grain in (MONTH, QUARTER, YEAR):
        assert participants(session, grain, date(2026, 12, 30), HERE) == (2,)
        assert participants(session, grain, date(2027, 1, 3), HERE) == (0,)
    # This week began in December.
    assert participants(session, WEEK, date(2027, 1, 3), HERE) == (2,)
    assert faults(session) == {}


def test_registered_residents_stand_as_they_were_when_a_period_ended(
    session: Session, on_the_day: time_machine.Traveller
) -> None:
    people = register(session, HERE, 3)
    register(session, HERE, 2, enabled=False)
    count(session)
    assert row(session, HERE, MONTH, TODAY).registered == 3
    on_the_day.move_to(datetime(2026, 12, 2, 9, tzinfo=SHANGHAI))
    register(session, HERE, 4)
    session.execute(sa.update(Resident).where(Resident.resident_id == people[0]).values(community_code=THERE))
    session.commit()
    act(session, [people[1]], date(2026, 11, 30))
    count(session)
    assert [row(session, HERE, MONTH, day).registered for day in (TODAY, date(2026, 12, 2))] == [3, 6]
    assert row(session, DISTRICT, YEAR, TODAY).registered == 7


def test_who_closed_the_account_stays_a_participant_and_no_rate_is_above_one(session: Session) -> None:
    people = register(session, HERE, 2)
    act(session, people, TODAY)
    session.execute(sa.update(Resident).where(Resident.resident_id == people[0]).values(enabled=False))
    session.commit()
    count(session)
    kept = row(session, HERE, MONTH, TODAY)
    assert (kept.registered, kept.participants) == (1, 2)
    assert kept.rate_high is not None
    assert kept.rate_high <= 1


def test_every_valid_place_has_a_row_and_nothing_is_counted_twice_over(session: Session) -> None:
    assert count(session) == Counted(0, 5)
    rows = session.scalar(sa.select(sa.func.count()).where(PlacePeriod.grain == MONTH))
    assert rows == 171 + 12 + 1
    assert count(session) == Counted(0, 0)


def test_the_present_periods_are_counted_again_after_an_hour_though_nothing_happened(
    session: Session, on_the_day: time_machine.Traveller
) -> None:
    count(session)
    register(session, HERE)
    assert count(session) == Counted(0, 0)
    on_the_day.shift(3601)
    assert count(session) == Counted(0, 5)
    assert row(session, HERE, MONTH, TODAY).registered == 1


def test_points_and_grams_are_the_communitys_by_method(session: Session) -> None:
    people = register(session, HERE, 2)
    act(session, people, TODAY, saved_co2e_mg=1500, points=7)
    act(session, people, TODAY - timedelta(days=1), behaviour=Behaviour.SORTING, points=5)
    count(session)
    kept = row(session, STREET, MONTH, TODAY)
    assert (kept.points, kept.saved_co2e_mg) == (24, {METHOD: 3000})
    assert row(session, HERE, DAY, TODAY).points == 14


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_between_counts_the_counts_are_what_they_are_made_of(session: Session, seed: int) -> None:
    chance = random.Random(seed)
    homes = [HERE, THERE, FAR]
    people = register(session, HERE, 12)
    done: list[tuple[UUID, date, str, Behaviour]] = []
    for step in range(60):
        if done and chance.random() < 0.3:
            person, day, home, behaviour = done.pop(chance.randrange(len(done)))
            act(session, [person], day, home, behaviour, times=-1)
        else:
            person = chance.choice(people)
            day = TODAY - timedelta(days=chance.choice([0, 0, 1, 5, 12, 40, 80, 330]))
            behaviour = chance.choice([Behaviour.WALK, Behaviour.SORTING])
            # The home of a day's behaviour is the one of its first record.
            known = {(p, d, b): h for p, d, h, b in done}
            home = known.get((person, day, behaviour)) or _kept_home(session, person, day, behaviour)
            home = home or chance.choice(homes)
            act(session, [person], day, home, behaviour)
            done.append((person, day, home, behaviour))
        if step % 7 == 6:
            count(session)
    count(session)
    assert faults(session) == {}
    for grain in Grain:
        for start in {period_with(grain, day).starts_on for _, day, _, _ in done}:
            span = CalendarPeriod(grain, start)
            last: dict[UUID, tuple[date, str]] = {}
            for person, day, home, _ in done:
                if start <= day <= span.ends_on:
                    last[person] = max(last.get(person, (date.min, "")), (day, home))
            expected = tuple(sum(home == each for _, home in last.values()) for each in homes)
            assert participants(session, grain, start, *homes) == expected, (grain, start)


def _kept_home(session: Session, person: UUID, day: date, behaviour: Behaviour) -> str | None:
    return session.scalar(
        sa.text("SELECT community_code FROM resident_day WHERE (resident_id, day, behaviour) = (:p, :d, :b)"),
        {"p": person, "d": day, "b": behaviour.value},
    )


@pytest.mark.parametrize(
    ("tampering", "check"),
    [
        ("UPDATE resident_period SET community_code = '120104001003' WHERE grain = 'month'", "resident_period"),
        ("DELETE FROM resident_period WHERE grain = 'year'", "resident_period"),
        ("UPDATE place_period SET participants = participants + 1 WHERE grain = 'week'", "place_period: part"),
        (
            "UPDATE place_period SET participants = 0 WHERE grain = 'quarter' AND place_code = '120104'",
            "place_period: p",
        ),
        ("UPDATE place_period SET points = points + 1 WHERE grain = 'day'", "place_period: points"),
        ("UPDATE place_period SET saved_co2e_mg = '{}'", "place_period: points"),
        ("UPDATE campaign_day SET joins = joins + 1", "campaign_day"),
        ("DELETE FROM campaign_day", "campaign_day"),
    ],
)
def test_a_count_that_is_wrong_is_named(
    session: Session, make_staff: Callable[..., UUID], tampering: str, check: str
) -> None:
    (person,) = register(session, HERE)
    act(session, [person], TODAY, saved_co2e_mg=1500)
    _enrol(session, a_campaign(session, make_staff(Role.DISTRICT, division=DISTRICT)), person)
    count(session)
    assert faults(session) == {}
    session.execute(sa.text(tampering))
    session.commit()
    assert any(name.startswith(check) for name in faults(session))


@pytest.mark.parametrize(
    "broken",
    [
        "UPDATE place_period SET participants = -1",
        "UPDATE place_period SET rate_low = 0.9, rate_shrunk = 0.5, rate_high = 1",
        "UPDATE place_period SET rate_low = NULL WHERE rate_shrunk IS NOT NULL",
        "UPDATE place_period SET saved_co2e_mg = '[]'",
        "UPDATE place_period SET place_code = '12'",
        "UPDATE campaign_count SET completions = participants + 1",
        "INSERT INTO counted_day (day) VALUES (NULL)",
    ],
)
def test_the_database_refuses_what_no_count_can_be(
    session: Session, make_staff: Callable[..., UUID], broken: str
) -> None:
    (person,) = register(session, HERE)
    act(session, [person], TODAY)
    _enrol(session, a_campaign(session, make_staff(Role.DISTRICT, division=DISTRICT)), person)
    count(session)
    with pytest.raises(IntegrityError):
        session.execute(sa.text(broken))
    session.rollback()


# Shrunken rates


def test_a_community_of_few_is_pulled_to_its_peers_and_keeps_its_raw_counts(session: Session) -> None:
    communities = session.scalars(sa.text("SELECT code FROM division WHERE level = 'community' ORDER BY code")).all()
    for position, community in enumerate(communities[:30]):
        people = register(session, community, 40)
        act(session, people[: 8 + position % 9], TODAY, community)
    (all_active,) = register(session, communities[30])
    act(session, [all_active], TODAY, communities[30])
    count(session)
    small, large = (row(session, code, MONTH, TODAY) for code in (communities[30], communities[8]))
    assert (small.participants, small.registered) == (1, 1)
    assert (large.participants, large.registered) == (16, 40)
    assert small.rate_shrunk is not None
    assert large.rate_shrunk is not None
    assert small.rate_shrunk < large.rate_shrunk, "one resident does not head the table by chance"
    prior = session.get_one(PeriodPrior, (MONTH, date(2026, 11, 1), "community:120104"))
    assert prior.peer_count == 31
    assert 0.2 < prior.mean < 0.4
    assert row(session, DISTRICT, MONTH, TODAY).rate_shrunk is None, "a district has no peers"


# Campaigns


def _enrol(
    session: Session, campaign: Campaign, *people: UUID, community: str = HERE, at: datetime | None = None
) -> None:
    session.add_all(
        Participation(
            resident_id=person,
            campaign_id=campaign.id,
            community_code=community,
            joined_at=at or now(),
        )
        for person in people
    )
    session.commit()


@pytest.fixture
def staff_id(make_staff: Callable[..., UUID]) -> UUID:
    return make_staff(Role.DISTRICT, division=DISTRICT)


def test_joins_visits_and_minutes_count_to_their_days_places_and_kinds(session: Session, staff_id: UUID) -> None:
    campaign = a_campaign(session, staff_id, kind="volunteer")
    other = a_campaign(session, staff_id, kind="clean-plate")
    first, second, far = [*register(session, HERE, 2), *register(session, FAR)]
    _enrol(session, campaign, first, second)
    _enrol(session, campaign, far, community=FAR)
    _enrol(session, other, first)
    visit, work = a_slot(session, campaign), a_slot(session, campaign, kind=SlotKind.VOLUNTEER, minutes_max=90)
    was_there(session, visit, first)
    was_there(session, visit, far)
    was_there(session, work, second, signed_out_at=now(), minutes=45)
    count(session)
    whole, volunteer = row(session, DISTRICT, MONTH, TODAY), row(session, DISTRICT, MONTH, TODAY, "volunteer")
    assert (whole.joins, whole.check_ins, whole.volunteer_minutes) == (4, 2, 45)
    assert (volunteer.joins, volunteer.check_ins, volunteer.volunteer_minutes) == (3, 2, 45)
    assert (volunteer.participants, row(session, HERE, MONTH, TODAY, "volunteer").participants) == (3, 2)
    assert row(session, DISTRICT, MONTH, TODAY, "clean-plate").participants == 1
    assert row(session, FAR, DAY, TODAY).check_ins == 1
    assert whole.participants == 0, "nobody recorded an activity"
    assert faults(session) == {}


def test_leaving_and_a_corrected_sign_out_change_the_day_that_they_belong_to(session: Session, staff_id: UUID) -> None:
    campaign = a_campaign(session, staff_id, kind="volunteer")
    first, second = register(session, HERE, 2)
    _enrol(session, campaign, first, second, at=now() - timedelta(days=2))
    work = a_slot(session, campaign, kind=SlotKind.VOLUNTEER, minutes_max=90)
    was_there(session, work, second)
    count(session)
    assert row(session, HERE, DAY, TODAY - timedelta(days=2)).joins == 2
    session.execute(sa.delete(Participation).where(Participation.resident_id == first))
    session.execute(sa.text("UPDATE check_in SET signed_out_at = checked_in_at, minutes = 30"))
    session.commit()
    count(session)
    assert row(session, HERE, DAY, TODAY - timedelta(days=2)).joins == 1
    assert row(session, HERE, MONTH, TODAY, "volunteer").participants == 1
    assert row(session, HERE, DAY, TODAY).volunteer_minutes == 30
    assert faults(session) == {}


def test_who_leaves_takes_the_visits_along_whatever_their_day(
    session: Session, staff_id: UUID, on_the_day: time_machine.Traveller
) -> None:
    campaign = a_campaign(session, staff_id)
    first, second = register(session, HERE, 2)
    _enrol(session, campaign, first, second)
    on_the_day.shift(timedelta(days=1).total_seconds())
    slot = a_slot(session, campaign)
    was_there(session, slot, first)
    was_there(session, slot, second)
    count(session)
    assert row(session, HERE, DAY, TODAY + timedelta(days=1)).check_ins == 2
    session.execute(sa.delete(Participation).where(Participation.resident_id == first))
    session.commit()
    count(session)
    assert row(session, HERE, DAY, TODAY + timedelta(days=1)).check_ins == 1
    assert faults(session) == {}


def test_somebody_in_two_campaigns_of_a_kind_is_one_participant_also_in_the_months_after_joining(
    session: Session, staff_id: UUID, on_the_day: time_machine.Traveller
) -> None:
    long = {"starts_on": date(2026, 11, 1), "ends_on": date(2026, 12, 31)}
    campaigns = [a_campaign(session, staff_id, kind="challenge", **long) for _ in range(2)]
    (person,) = register(session, HERE)
    _enrol(session, campaigns[0], person)
    _enrol(session, campaigns[1], person, community=FAR, at=now() + timedelta(minutes=1))
    on_the_day.shift(120)
    count(session)
    assert row(session, HERE, MONTH, TODAY, "challenge").participants == 0
    assert row(session, FAR, MONTH, TODAY, "challenge").participants == 1
    on_the_day.move_to(datetime(2026, 12, 5, 9, tzinfo=SHANGHAI))
    count(session)
    assert row(session, FAR, MONTH, date(2026, 12, 5), "challenge").participants == 1
    assert row(session, FAR, MONTH, date(2026, 12, 5), "challenge").joins == 0
    assert row(session, FAR, YEAR, TODAY, "challenge").participants == 1


def test_a_campaign_is_counted_with_completions_points_and_grams_in_the_period_of_its_last_day(
    session: Session, staff_id: UUID, on_the_day: time_machine.Traveller
) -> None:
    campaign = a_campaign(session, staff_id, kind="challenge")
    a_task(session, campaign, kind=TaskKind.BEHAVIOUR, measure="points", target=10)
    a_task(session, campaign, position=2, kind=TaskKind.CHECK_IN)
    slot = a_slot(session, campaign)
    both, one, none = register(session, HERE, 3)
    _enrol(session, campaign, both, one, none)
    act(session, [both, one], TODAY, saved_co2e_mg=1500, points=10)
    act(session, [none], TODAY - timedelta(days=10), points=99)  # before the first day
    was_there(session, slot, both)
    count(session)
    kept = session.get_one(CampaignCount, (campaign.id, HERE))
    assert (kept.participants, kept.completions, kept.points, kept.saved_co2e_mg) == (3, 1, 20, {METHOD: 3000})
    challenge = row(session, STREET, MONTH, TODAY, "challenge")
    assert (challenge.completions, challenge.points, challenge.saved_co2e_mg) == (1, 20, {METHOD: 3000})
    assert row(session, STREET, MONTH, TODAY).completions == 1

    act(session, [both], TODAY, saved_co2e_mg=1500, points=10, times=-1)
    on_the_day.shift(16 * 60)
    count(session)
    session.expire_all()
    assert session.get_one(CampaignCount, (campaign.id, HERE)).completions == 0
    assert row(session, STREET, MONTH, TODAY, "challenge").completions == 0


def test_a_cancelled_campaign_is_completed_by_nobody_and_a_later_end_moves_the_completions(
    session: Session, staff_id: UUID, on_the_day: time_machine.Traveller
) -> None:
    campaign = a_campaign(session, staff_id)
    a_task(session, campaign)
    (person,) = register(session, HERE)
    _enrol(session, campaign, person)
    was_there(session, a_slot(session, campaign), person)
    count(session)
    assert row(session, HERE, MONTH, TODAY).completions == 1

    on_the_day.shift(60)
    changed = sa.update(Campaign).where(Campaign.id == campaign.id)
    session.execute(changed.values(ends_on=date(2026, 12, 20), version=2))
    session.commit()
    on_the_day.shift(3700)
    count(session)
    assert row(session, HERE, MONTH, TODAY).completions == 0
    assert row(session, HERE, YEAR, TODAY).completions == 1

    session.execute(changed.values(state=CampaignState.CANCELLED, version=3))
    session.commit()
    on_the_day.shift(3700)
    count(session)
    assert row(session, HERE, YEAR, TODAY).completions == 0
    assert row(session, HERE, YEAR, TODAY).joins == 1


# Organisations


@pytest.fixture
def school(session: Session) -> UUID:
    made = Organisation(
        id=new_id(), kind=OrganisationKind.SCHOOL, name="示例学校", community_code=HERE, valid_from=date(2026, 1, 1)
    )
    session.add(made)
    session.commit()
    return made.id


def _member(session: Session, school: UUID, person: UUID, joined: date, left: date | None = None) -> None:
    at = datetime(joined.year, joined.month, joined.day, 10, tzinfo=SHANGHAI)
    until = None if left is None else datetime(left.year, left.month, left.day, 10, tzinfo=SHANGHAI)
    session.add(OrganisationMembership(resident_id=person, organisation_id=school, joined_at=at, left_at=until))
    session.commit()


def _school_row(session: Session, school: UUID, grain: Grain, day: date) -> tuple[int, int, int, dict[str, Any]]:
    found = session.get(OrganisationPeriod, (grain, period_with(grain, day).starts_on, school), populate_existing=True)
    return (found.registered, found.participants, found.points, found.saved_co2e_mg) if found else (0, 0, 0, {})


def test_an_organisation_counts_its_members_from_the_day_of_joining_to_the_day_of_leaving(
    session: Session, school: UUID
) -> None:
    stays, leaves, stranger = register(session, HERE, 3)
    _member(session, school, stays, date(2026, 11, 4))
    _member(session, school, leaves, date(2026, 11, 2), date(2026, 11, 10))
    everyone = [stays, leaves, stranger]
    for day in (date(2026, 11, 3), date(2026, 11, 10), date(2026, 11, 11)):
        act(session, everyone, day, saved_co2e_mg=1000, points=2)
    act(session, everyone, date(2026, 11, 10), behaviour=Behaviour.SORTING, points=3)
    count(session)
    assert _school_row(session, school, DAY, date(2026, 11, 3)) == (1, 1, 2, {METHOD: 1000})
    assert _school_row(session, school, DAY, date(2026, 11, 10)) == (2, 2, 10, {METHOD: 2000})
    assert _school_row(session, school, DAY, date(2026, 11, 11)) == (1, 1, 2, {METHOD: 1000})
    assert _school_row(session, school, WEEK, date(2026, 11, 3)) == (2, 1, 2, {METHOD: 1000})
    for grain in (MONTH, QUARTER, YEAR):
        assert _school_row(session, school, grain, TODAY) == (2, 2, 14, {METHOD: 4000})


def test_joining_leaving_and_reversals_of_members_are_noticed(session: Session, school: UUID) -> None:
    first, second = register(session, HERE, 2)
    act(session, [first, second], TODAY)
    count(session)
    assert _school_row(session, school, MONTH, TODAY) == (0, 0, 0, {})
    _member(session, school, first, TODAY)
    _member(session, school, second, TODAY)
    count(session)
    assert _school_row(session, school, MONTH, TODAY) == (2, 2, 2, {})
    act(session, [second], TODAY, times=-1)
    count(session)
    assert _school_row(session, school, MONTH, TODAY) == (2, 1, 1, {})
    session.execute(sa.delete(OrganisationMembership).where(OrganisationMembership.resident_id == first))
    session.commit()
    count(session)
    assert _school_row(session, school, DAY, TODAY) == (1, 0, 0, {})


def test_an_organisations_own_campaigns_count_for_it_whoever_takes_part(
    session: Session, school: UUID, staff_id: UUID
) -> None:
    campaign = a_campaign(session, staff_id, organisation_id=school)
    a_task(session, campaign)
    (person,) = register(session, FAR)
    _enrol(session, campaign, person, community=FAR)
    was_there(session, a_slot(session, campaign), person)
    _enrol(session, a_campaign(session, staff_id), person, community=FAR)
    count(session)
    found = session.get_one(OrganisationPeriod, (MONTH, date(2026, 11, 1), school))
    assert (found.registered, found.joins, found.check_ins, found.completions) == (0, 1, 1, 1)


# With real transactions


@pytest.fixture
def own_app(base_settings: Settings, make_database: Callable[[], str]) -> Iterator[Flask]:
    """The application on a database of its own, with real commits."""
    url = make_database()
    made = create_app(replace(base_settings, database_url=url, database_owner_url=url))
    with made.app_context():
        yield made
        db.session.remove()
        db.engine.dispose()


def test_an_award_that_commits_while_the_count_runs_is_found_by_the_next(own_app: Flask) -> None:
    with Session(db.engine, expire_on_commit=False) as session:
        (early, late) = register(session, HERE, 2)
        act(session, [early], TODAY)
        with db.engine.connect() as held:
            uncommitted = Session(held, join_transaction_mode="create_savepoint")
            outer = held.begin()
            act(uncommitted, [late], TODAY, THERE)
            count(session)
            assert participants(session, MONTH, TODAY, HERE, THERE) == (1, 0)
            outer.commit()
        count(session)
        assert participants(session, MONTH, TODAY, HERE, THERE) == (1, 1)
        assert faults(session) == {}


def test_an_award_between_the_marks_and_the_sums_of_one_count_is_found_by_the_next(own_app: Flask) -> None:
    with Session(db.engine, expire_on_commit=False) as session, db.engine.connect() as held:
        (early, late) = register(session, HERE, 2)
        act(session, [early], TODAY)
        outer = held.begin()
        act(Session(held, join_transaction_mode="create_savepoint"), [late], TODAY, THERE)

        def commit_the_other(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            # The markers have been moved on by now, and the periods are about to be summed up.
            if "INSERT INTO place_period" in statement and outer.is_active:
                outer.commit()

        sa.event.listen(db.engine, "before_cursor_execute", commit_the_other)
        try:
            count(session)
        finally:
            sa.event.remove(db.engine, "before_cursor_execute", commit_the_other)
        assert not outer.is_active
        assert count(session).days == 1
        assert participants(session, MONTH, TODAY, HERE, THERE) == (1, 1)
        assert faults(session) == {}


def test_of_two_counts_at_once_one_gives_way(own_app: Flask) -> None:
    with Session(db.engine) as first, Session(db.engine) as second:
        counting.lock(first)
        with pytest.raises(CountIsRunning):
            counting.count_month(second, date(2026, 11, 1), now=now())
        first.rollback()
        counting.count_month(second, date(2026, 11, 1), now=now())
        second.rollback()


def test_the_job_takes_every_month_that_changed_and_twice_at_once_is_one(own_app: Flask) -> None:
    with transaction() as session:
        people = register(session, HERE, 3)
        for person, day in zip(people, (date(2026, 3, 3), date(2026, 8, 8), TODAY), strict=True):
            act(session, [person], day)

    def once() -> None:
        with own_app.app_context():
            jobs.count_participation(0)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: once(), range(2)))
    jobs.prove_participation(0)  # the days of March and August are older than what the frequent count looks at
    with transaction() as session:
        assert participants(session, YEAR, TODAY, HERE) == (3,)
        assert faults(session) == {}


def test_the_commands_count_prove_and_forget(own_app: Flask) -> None:
    runner = own_app.test_cli_runner()
    with transaction() as session:
        (person,) = register(session, HERE)
        act(session, [person], TODAY)
    refreshed = runner.invoke(args=["counts", "refresh"])
    assert (refreshed.exit_code, "1 changed days" in refreshed.output) == (0, True), refreshed.output
    assert runner.invoke(args=["counts", "verify"]).exit_code == 0
    with transaction() as session:
        session.execute(sa.text("UPDATE place_period SET participants = 5 WHERE place_code = :here"), {"here": HERE})
    wrong = runner.invoke(args=["counts", "verify", "--since", "2026-11-01"])
    assert wrong.exit_code == 1
    assert "kept_participants=5, true_participants=1" in wrong.output
    assert runner.invoke(args=["counts", "forget-participation"], input="n\n").exit_code == 1
    assert runner.invoke(args=["counts", "forget-participation", "--yes"]).exit_code == 0
    assert runner.invoke(args=["counts", "refresh"]).exit_code == 0
    assert runner.invoke(args=["counts", "verify"]).exit_code == 0
