"""What the detectors find, and which honest look-alikes they leave alone."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from points_builders import NOON, claim, drop, owner
from review_builders import COMMUNITY, activity, cases_of
from sqlalchemy.orm import Session

from points.earning import steps
from points.earning.award import award
from points.earning.claims import Claim
from points.earning.models import Activity, Grade, HoldOrder
from points.review import detecting, detectors, editions, norms
from points.review.detecting import Desk
from points.review.models import Case, CaseKind, DeviceUse
from server.access import Role
from server.database import new_id
from server.people.models import HouseholdMember, PrintedCard
from server.people.wechat import StepDay
from server.settings import PLACES_DATA

pytestmark = pytest.mark.usefixtures("clock")

# Four kilometres apart, and a third one beside the first.
SITES = {"nk-a-01": (117.15, 39.10), "nk-b-02": (117.15, 39.136), "nk-c-03": (117.1501, 39.1001)}
MORNING = NOON - timedelta(hours=3)


def looked(session: Session, *, now: Any = NOON) -> dict[UUID, set[str]]:
    """Let all detectors look at everything; whom they found, and why."""
    desk = Desk(detectors.DETECTORS, lambda _: SITES)
    # The database's own clock, which the tests do not move.
    clock = session.scalar(sa.select(sa.func.clock_timestamp()))
    assert clock is not None
    detecting.look(session, desk, since=clock - timedelta(minutes=10), until=clock, now=now)
    found: dict[UUID, set[str]] = {}
    for resident_id, reason in session.execute(sa.select(Case.resident_id, Case.reason)):
        found.setdefault(resident_id, set()).add(reason)
    return found


def give(session: Session, claims: Sequence[Claim], *, now: Any = NOON) -> None:
    award(session, claims, now=now)
    session.commit()


@pytest.fixture(autouse=True)
def edition(session: Session) -> None:
    editions.load(session, editions.read_folder(PLACES_DATA / "nankai"))
    session.commit()


@pytest.fixture
def people(make_resident: Callable[..., UUID]) -> list[UUID]:
    return [make_resident() for _ in range(6)]


def household(session: Session, *members: UUID) -> None:
    with owner(session, unguarded=True):
        together = new_id()
        session.add_all(
            HouseholdMember(resident_id=each, household_id=together, member_id=new_id(), joined_at=NOON)
            for each in members
        )
        session.flush()
    session.commit()


def test_three_people_at_one_place_in_one_second_are_found_and_a_couple_is_not(
    session: Session, people: list[UUID]
) -> None:
    one, two, three, husband, wife, late = people
    household(session, husband, wife)
    give(session, [drop(each, site="nk-a-01", start=MORNING) for each in (one, two, three)])
    give(session, [drop(each, site="nk-c-03", start=MORNING) for each in (husband, wife)])
    give(session, [drop(late, site="nk-a-01", start=MORNING + timedelta(seconds=9))])
    assert looked(session) == {each: {"same-place-and-second"} for each in (one, two, three)}
    assert session.scalar(sa.select(sa.func.count()).select_from(HoldOrder)) == 3
    assert looked(session) == {each: {"same-place-and-second"} for each in (one, two, three)}  # nothing twice


def test_the_same_two_strangers_in_one_second_are_found_on_the_second_day(session: Session, people: list[UUID]) -> None:
    one, two, *others = people
    yesterday = MORNING - timedelta(days=1)
    give(session, [drop(each, site="nk-a-01", start=yesterday) for each in (one, two)])
    give(session, [drop(each, site="nk-c-03", start=MORNING) for each in others[:2]])  # once: chance
    assert looked(session) == {}
    give(session, [drop(each, site="nk-a-01", start=MORNING) for each in (one, two)])
    assert looked(session) == {one: {"same-place-and-second"}, two: {"same-place-and-second"}}


def test_a_code_that_was_passed_round_is_found_and_a_queue_at_the_site_is_not(
    session: Session, make_resident: Callable[..., UUID], people: list[UUID]
) -> None:
    group = [make_resident() for _ in range(8)]

    def scan(who: UUID, second: int) -> Claim:
        # Each with a phone of their own, which is no place.
        moment = MORNING + timedelta(seconds=second)
        return drop(who, site="nk-a-01", start=moment, grade=Grade.SELF_DECLARED, device=f"phone:{who}")

    give(session, [scan(each, 600 + 25 * n) for n, each in enumerate(people)])
    give(session, [scan(each, 7 * n) for n, each in enumerate(group)])
    with owner(session, unguarded=True):
        session.execute(sa.text("UPDATE activity SET outcome = 'awarded', reason = NULL"))
    session.commit()
    assert looked(session) == {each: {"burst"} for each in group}


def test_rounding_to_minutes_hides_no_crowd(
    session: Session, make_resident: Callable[..., UUID], people: list[UUID]
) -> None:
    crowd = [make_resident() for _ in range(30)]
    give(session, [drop(each, site="nk-a-01", start=MORNING) for each in crowd])
    give(session, [drop(each, site="nk-c-03", start=MORNING + timedelta(minutes=n)) for n, each in enumerate(people)])
    assert looked(session) == {each: {"same-place-and-second"} for each in crowd}


def test_equal_measured_trips_of_strangers_are_found_and_trips_by_hand_are_not(
    session: Session, people: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, hand, other_hand, *_ = people
    trip = {"start": MORNING, "minutes": 30, "distance_m": 2345, "source": "track"}
    give(session, [claim(each, "walk", grade=Grade.SENSOR, **trip) for each in (one, two)])
    by_hand = {**trip, "distance_m": 2000, "source": "self"}
    give(session, [claim(each, "walk", grade=Grade.SELF_DECLARED, **by_hand) for each in (hand, other_hand)])
    # Today's rules may not pay a measured walk; the detector looks at what is paid.
    with owner(session, unguarded=True):
        session.execute(sa.text("UPDATE activity SET outcome = 'awarded', reason = NULL"))
    session.commit()
    assert looked(session) == {one: {"identical-track"}, two: {"identical-track"}}


def test_a_burst_of_one_resident_is_found_and_ten_materials_on_one_scale_are_not(
    session: Session, people: list[UUID]
) -> None:
    hasty, recycler, busy, *_ = people
    give(session, [drop(hasty, start=MORNING + timedelta(seconds=20 * n)) for n in range(12)])
    give(session, [claim(recycler, "recycling", mode="glass", weight_g=500) for _ in range(15)])
    give(session, [drop(busy, start=MORNING - timedelta(minutes=11 * n)) for n in range(15)])
    assert looked(session) == {hasty: {"burst"}}
    give(session, [drop(busy, start=MORNING - timedelta(minutes=11 * 15))])  # the sixteenth of the day
    assert looked(session)[busy] == {"burst"}


def test_a_member_of_staff_who_confirms_faster_than_bags_can_be_looked_at_is_held(
    session: Session, people: list[UUID]
) -> None:
    staff_id = new_id()
    give(
        session,
        [drop(people[n % 6], start=MORNING + timedelta(seconds=5 * n), staff_id=staff_id) for n in range(80)],
    )
    assert set(looked(session)) == set(people)
    subjects = session.execute(sa.select(HoldOrder.subject_kind, HoldOrder.subject)).all()
    assert ("staff", str(staff_id)) in {(kind.value, subject) for kind, subject in subjects}


def test_one_phone_of_many_households_is_held_and_a_familys_is_not(session: Session, people: list[UUID]) -> None:
    household(session, *people[:5])
    give(session, [drop(each, device="phone:family") for each in people[:5]])
    assert looked(session) == {}
    with owner(session, unguarded=True):
        session.execute(sa.delete(HouseholdMember))
    session.commit()
    give(session, [drop(each, device="phone:farm", start=MORNING - timedelta(hours=1)) for each in people])
    found = looked(session)
    assert {each for each, reasons in found.items() if "shared-device" in reasons} == set(people)
    assert "phone:farm" in session.scalars(sa.select(HoldOrder.subject)).all()
    next_one = award(session, [drop(people[0], device="phone:farm", start=NOON - timedelta(minutes=5))], now=NOON)[0]
    assert next_one.code == "held"
    assert norms.forget_phones(session, now=NOON + timedelta(days=31)) == 11
    assert session.scalars(sa.select(DeviceUse)).all() == []


def test_two_distant_sites_within_minutes_and_drops_during_rides_are_found_when_they_repeat(
    session: Session, people: list[UUID]
) -> None:
    flying, rider, walker, *_ = people
    for days in (0, 1):
        start = MORNING - timedelta(days=days)
        give(session, [drop(flying, site="nk-a-01", start=start)])
        give(session, [drop(flying, site="nk-b-02", start=start + timedelta(seconds=90))])
        give(session, [drop(walker, site="nk-a-01", start=start + timedelta(seconds=41))])
        give(session, [drop(walker, site="nk-b-02", start=start + timedelta(minutes=20))])
        give(
            session, [claim(rider, "bus", start=start), drop(rider, site="nk-a-01", start=start + timedelta(minutes=9))]
        )
        expected = {} if days == 0 else {each: {"impossible-pair"} for each in (flying, rider)}
        assert looked(session) == expected
    (case,) = cases_of(session, CaseKind.LEAD, rider)
    assert case.detail["figures"] == {"pairs": 2}


def test_a_households_card_may_be_elsewhere_than_its_holder(
    session: Session, people: list[UUID], make_staff: Callable[..., UUID]
) -> None:
    grandmother, alone, *_ = people
    household(session, grandmother, people[2])
    home = session.scalar(sa.select(HouseholdMember.household_id).limit(1))
    staff_id = make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    with owner(session, unguarded=True):
        for holder, household_id in ((grandmother, home), (alone, None)):
            session.add(
                PrintedCard(
                    id=new_id(),
                    code_hash=holder.bytes * 2,
                    resident_id=holder,
                    household_id=household_id,
                    issued_by=staff_id,
                    issued_at=NOON - timedelta(days=9),
                )
            )
        session.flush()
    session.commit()
    for days in (0, 1):
        start = MORNING - timedelta(days=days)
        for holder, later_s in ((grandmother, 0), (alone, 7)):
            give(session, [claim(holder, "bus", start=start)])
            carried = drop(holder, site="nk-a-01", start=start + timedelta(minutes=9, seconds=later_s))
            (made,) = award(session, [carried], now=NOON)
            with owner(session, unguarded=True):
                session.execute(
                    sa.update(Activity).where(Activity.id == made.activity_id).values(grade=Grade.STAFF_CONFIRMED)
                )
            session.commit()
    assert looked(session) == {alone: {"impossible-pair"}}


def test_who_floods_one_detector_blinds_none_of_the_others(
    session: Session, people: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detecting, "FINDINGS_MAX", 3)
    # Six people in one second are more findings than one look takes in.
    give(session, [drop(each, site="nk-a-01", start=MORNING) for each in people])
    give(session, [drop(people[5], site="nk-c-03", start=MORNING + timedelta(seconds=20 * n)) for n in range(1, 13)])
    assert "burst" in looked(session)[people[5]]


def test_weights_far_above_what_a_site_sees_are_found_and_a_heavy_day_is_not(
    session: Session, make_resident: Callable[..., UUID], people: list[UUID]
) -> None:
    inflater, mover, *_ = people
    crowd = [make_resident() for _ in range(25)]

    def weigh(who: UUID, grams: int, minutes: int) -> Claim:
        start = MORNING - timedelta(minutes=minutes)
        return claim(who, "recycling", mode="corrugated", weight_g=grams, site="nk-a-01", start=start)

    give(session, [weigh(each, 900 + 37 * n % 700, 60 * turn) for n, each in enumerate(crowd) for turn in (0, 1)])
    assert norms.compute(session, now=NOON) == 4  # of the source here and everywhere, of the site, of everybody
    session.commit()
    assert looked(session) == {}  # nor are they at one place in one second: this scale's clock shows whole minutes
    give(session, [weigh(inflater, 20_000, 5), weigh(inflater, 21_000, 70), weigh(mover, 5_000, 9)])
    assert looked(session) == {inflater: {"weight-outlier"}}
    # A site whose weighings are all alike, under an edition without a least deviation, stops no look.
    session.execute(sa.text("UPDATE weight_norm SET deviation_ln_g = 0"))
    window = detecting.Window(NOON.replace(year=2020), NOON.replace(year=2100), NOON, detecting.no_positions)
    figures = {**editions.terms_at(session, NOON).detectors["weight-outlier"], "deviation_ln_min": 0.0}
    assert list(detectors.DETECTORS[6].find(session, window, figures)) == []
    # What waits for people does not make itself usual.
    norms.compute(session, now=NOON)
    assert session.scalar(sa.text("SELECT weighings FROM weight_norm WHERE site = ''")) == 51


def test_a_recyclers_sacks_are_not_what_is_usual_at_a_bin(
    session: Session, make_resident: Callable[..., UUID], people: list[UUID]
) -> None:
    inflater, at_new_bin, seller, stranger, blower, other = people
    crowd = [make_resident() for _ in range(25)]

    def weigh(who: UUID, grams: int, minutes: int, source: str, site: str | None) -> Claim:
        start = MORNING - timedelta(minutes=minutes, seconds=minutes % 53)
        return claim(
            who, "recycling", mode="corrugated", weight_g=grams, source=source, site=site, start=start, id=str(new_id())
        )

    # Twice as many sacks of 20 kg as bags of 1 kg, and the recycler's point has the name of the bin.
    for n, each in enumerate(crowd):
        bags = [weigh(each, 900 + 37 * n % 700, 13 * n + 400 * turn, "bins", "nk-a-01") for turn in (0, 1)]
        sacks = [weigh(each, 18_000 + 331 * n, 11 * n + 300 * turn, "sacks", "nk-a-01") for turn in (0, 1, 2, 3)]
        give(session, bags + sacks)
    norms.compute(session, now=NOON)
    session.commit()
    assert looked(session) == {}
    give(
        session,
        [weigh(inflater, 20_000, m, "bins", "nk-a-01") for m in (5, 77)]
        + [weigh(at_new_bin, 20_000, m, "bins", "nk-b-02") for m in (6, 78)]  # as at the source's other bins
        + [weigh(seller, 22_000, m, "sacks", None) for m in (7, 79)]
        # A source of few weighings is judged by everybody's.
        + [weigh(stranger, 25_000, m, "newcomer", "nk-c-03") for m in (8, 80)]
        + [weigh(blower, 95_000, m, "newcomer", "nk-a-01") for m in (9, 81)]
        + [weigh(other, 1_200, m, "bins", "nk-a-01") for m in (10, 82)],
    )
    assert looked(session) == {each: {"weight-outlier"} for each in (inflater, at_new_bin, blower)}


def test_sites_whose_names_are_as_long_as_can_be_have_norms_too(session: Session, people: list[UUID]) -> None:
    source, site = "p" * 40, "s" * 64
    weighed = claim(people[0], "recycling", mode="corrugated", weight_g=900, source=source, site=site, start=MORNING)
    give(session, [weighed])
    assert norms.compute(session, now=NOON) == 4
    keys = session.scalars(sa.text("SELECT site FROM weight_norm ORDER BY length(site), site")).all()
    assert keys == ["", f"{source} ", f"{source} {site}"[:64], site]


def test_steps_that_no_legs_make_are_found(session: Session, people: list[UUID]) -> None:
    runner, early, rounder, honest, steady, once = people
    today, before = date(2026, 11, 18), [date(2026, 11, 18) - timedelta(days=n) for n in range(4)]

    def sync(who: UUID, *days: tuple[date, int], now: Any = NOON) -> None:
        steps.sync(session, who, [StepDay(day, count) for day, count in days], now=now)
        session.commit()

    sync(runner, (before[1], 90_001))
    sync(early, (today, 30_011), now=NOON.replace(hour=1))
    sync(rounder, (today, 12_000), (before[2], 15_000))
    sync(once, (today, 12_000), (before[2], 9_123))
    sync(honest, (today, 9_231), (before[1], 7_412), (before[2], 31_877))
    sync(steady, *((day, 8_765) for day in before[:3]))
    assert looked(session) == {each: {"steps-unnatural"} for each in (runner, early, rounder, steady)}


def test_the_next_look_begins_where_the_last_one_ended_and_held_claims_are_no_leads(
    session: Session, people: list[UUID]
) -> None:
    desk = Desk(detectors.DETECTORS, lambda _: SITES)
    give(session, [drop(people[0], start=MORNING + timedelta(seconds=20 * n)) for n in range(12)])
    assert detecting.look_since_last(session, desk, now=NOON) == 1
    assert detecting.look_since_last(session, desk, now=NOON) == 0
    # What the hold keeps waiting is no paid record: it has cases of its own, and no lead grows from it.
    give(session, [drop(people[0], start=NOON - timedelta(seconds=20 * n)) for n in range(12)])
    assert detecting.look_since_last(session, desk, now=NOON) == 0
    assert detecting.look_over_night(session, desk, now=NOON) == 0
    (case,) = cases_of(session, CaseKind.LEAD, people[0])
    assert case.community_code == COMMUNITY
    listed = session.scalars(sa.text("SELECT activity_id FROM review_case_activity")).all()
    assert {activity(session, people[0], each)[0] for each in listed} == {"awarded"}
