"""Held claims: what an order holds, and what a person's decision then does, once."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from evidence_builders import LATER, confirmed, household, limits, noon, taken, told, weighing
from points_builders import (
    Feed,
    at,
    balances,
    claim,
    digest,
    drop,
    drop_line,
    outcomes,
    owner,
    resident,
    steps_claim,
    transferred,
    wrong,
)
from psycopg.errors import CheckViolation, InsufficientPrivilege, RestrictViolation, UniqueViolation
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from points.earning import activities, counts, holds, releasing
from points.earning.award import award
from points.earning.claims import Award, Claim, Reason
from points.earning.models import Activity, Grade, HoldOrder, Outcome, SubjectKind
from points.ledger import entries
from points.ledger.models import REDEMPTION
from points.partners.models import Partner
from server.database import new_id, psycopg_url
from server.errors import NotFound
from server.people.models import Resident


@pytest.fixture(autouse=True)
def fresh_orders() -> Iterator[None]:
    """No order of another test in this process's memory."""
    holds.forget()
    yield
    holds.forget()


@pytest.fixture
def person(make_resident: Callable[..., UUID]) -> UUID:
    return make_resident()


def place(session: Session, kind: SubjectKind, subject: object, reason: Reason = Reason.BURST, **values: Any) -> UUID:
    return holds.place(
        session,
        subject_kind=kind,
        subject=str(subject),
        reason=reason,
        **{"until": LATER + timedelta(days=7), "case_id": None, "now": LATER, **values},
    )


def held(session: Session, made: Claim, reason: Reason = Reason.SAME_PLACE_AND_SECOND) -> UUID:
    """The id of this claim, held by its own source."""
    (answer,) = award(session, [msgspec.structs.replace(made, hold=reason)], now=LATER)
    assert answer.code == "held", answer
    assert answer.activity_id is not None
    return answer.activity_id


def refused(session: Session, made: Claim, reason: Reason) -> UUID:
    (answer,) = award(session, [made], now=LATER)
    assert (answer.code, answer.reason) == ("refused", reason)
    assert answer.activity_id is not None
    return answer.activity_id


def shown(session: Session, resident_id: UUID, activity_id: UUID) -> tuple[str, str | None, int]:
    """What the resident sees of an activity."""
    entry = activities.one(session, resident_id, activity_id)
    assert entry is not None
    return entry.outcome.value, entry.reason, entry.points


# Orders


def test_an_order_holds_every_claim_of_its_subject_and_of_no_other(
    session: Session, make_resident: Callable[..., UUID]
) -> None:
    first, second = make_resident(), make_resident()
    home, staff_id = household(session, first), new_id()
    made = [
        weighing(first, 10, device="scales:1", site="s"),
        confirmed(first, staff_id),
        confirmed(second, new_id(), site="nk-site-02"),
        weighing(second, 10, device="scales:2", site="s", source="others"),
    ]
    subjects = {
        (SubjectKind.RESIDENT, first): [0, 1],
        (SubjectKind.HOUSEHOLD, home): [0, 1],
        (SubjectKind.STAFF, staff_id): [1],
        (SubjectKind.DEVICE, "scales:1"): [0],
        (SubjectKind.SITE, "scales:s"): [0],
        (SubjectKind.SITE, "nk-site-01"): [1],
        (SubjectKind.PARTNER, "others"): [3],
        (SubjectKind.PARTNER, "sorting-supervisor"): [],
    }
    for (kind, subject), expected in subjects.items():
        with session.begin_nested() as savepoint:
            place(session, kind, subject)
            answers = award(session, made, now=LATER)
            assert [n for n, each in enumerate(answers) if each.code == "held"] == expected, kind
            assert {answers[n].reason for n in expected} <= {Reason.BURST}
            savepoint.rollback()
        holds.forget()


def test_what_is_held_is_recorded_with_its_reason_and_its_worth_and_pays_nothing(
    session: Session, person: UUID
) -> None:
    place(session, SubjectKind.RESIDENT, person)
    made = claim(person, start=at("25 08:00"))
    assert told(award(session, [made], now=LATER)) == ["held burst"]
    assert told(award(session, [made], now=LATER)) == ["duplicate duplicate"]
    (kept,) = session.scalars(sa.select(Activity))
    assert (kept.outcome, kept.reason, kept.priced_points) == (Outcome.HELD, "burst", 8)
    assert transferred(session, person) == 0
    assert taken(session) == {}
    assert digest(session, "points", table="resident_day") == []
    # What is wrong by itself is refused, and waits for nobody.
    assert told(award(session, [claim(person, distance_m=1, start=at("25 09:00"))], now=LATER)) == [
        "refused below-minimum"
    ]
    assert wrong(session) == {}


def test_an_order_ends_by_itself_or_when_it_is_lifted(session: Session, person: UUID) -> None:
    first = place(session, SubjectKind.RESIDENT, person, until=LATER + timedelta(hours=1))
    assert told(award(session, [drop(person, start=at("25 11:00"))], now=LATER)) == ["held burst"]
    later = LATER + timedelta(hours=1)
    assert told(award(session, [drop(person, start=at("25 11:10"))], now=later)) == ["awarded 5"]
    second = place(session, SubjectKind.RESIDENT, person, now=later, until=later + timedelta(days=1))
    assert second != first
    assert told(award(session, [drop(person, start=at("25 11:20"))], now=later)) == ["held burst"]
    holds.lift(session, second, now=later)
    holds.lift(session, second, now=later)
    assert told(award(session, [drop(person, start=at("25 11:30"))], now=later)) == ["awarded 5"]
    with pytest.raises(NotFound):
        holds.lift(session, new_id(), now=later)


def test_placing_an_order_twice_keeps_one_with_the_later_end(session: Session, person: UUID) -> None:
    case = new_id()
    first = place(session, SubjectKind.RESIDENT, person)
    again = place(session, SubjectKind.RESIDENT, person, until=LATER + timedelta(days=20), case_id=case)
    sooner = place(session, SubjectKind.RESIDENT, person, until=LATER + timedelta(days=1), case_id=new_id())
    other = place(session, SubjectKind.RESIDENT, person, Reason.SHARED_DEVICE)
    assert first == again == sooner != other
    place(session, SubjectKind.RESIDENT, person, until=LATER + timedelta(days=365))
    order = session.get_one(HoldOrder, first, populate_existing=True)
    assert (order.until, order.case_id) == (LATER + timedelta(days=92), case)
    with pytest.raises(ValueError, match="UUID"):
        place(session, SubjectKind.HOUSEHOLD, "the neighbours")


def test_the_feed_holds_a_partners_lines_and_says_so(feed: Feed, member: Callable[..., UUID], session: Session) -> None:
    person = member()
    place(session, SubjectKind.DEVICE, "bus-group:bin-7", Reason.WEIGHT_OUTLIER, now=feed.now())
    session.commit()
    answer = feed.push(
        drop_line("e-1", device="bin-7", sequence=1),
        drop_line("e-2", device="bin-8", sequence=1),
        drop_line("e-3", device="bin-7", sequence=1),
    )
    assert outcomes(answer) == ["held weight-outlier", "awarded", "refused sequence-used"]
    assert answer["counts"] == {"held": 1, "awarded": 1, "refused": 1}
    waiting = session.execute(sa.text("SELECT id FROM activity WHERE outcome = 'held'")).scalar_one()
    assert told([releasing.release(session, person, waiting, now=feed.now())]) == ["awarded 5"]
    assert wrong(session) == {}


def test_what_is_released_later_comes_out_of_its_partners_day_too(
    feed: Feed, member: Callable[..., UUID], session: Session
) -> None:
    """Or a leaked key whose claims are held would be paid beyond its budget, once a person lets them through."""
    person = member()
    session.execute(sa.update(Partner).values(day_budget_points=12))
    place(session, SubjectKind.DEVICE, "bus-group:bin-7", now=feed.now())
    session.commit()
    feed.push(*(drop_line(f"e-{n}", device="bin-7", sequence=n) for n in range(3)), drop_line("e-9"))
    waiting = session.scalars(sa.text("SELECT id FROM activity WHERE outcome = 'held' ORDER BY id")).all()
    late = feed.now() + timedelta(days=3)
    made = [releasing.release(session, person, each, now=late) for each in waiting]
    assert told(made) == ["awarded 5", *["refused partner-budget-exhausted"] * 2]
    assert digest(session, "day, taken_points", table="partner_day") == [(feed.now().date(), 10)]
    session.execute(sa.text("UPDATE partner_day SET budget_points = 15"))
    assert told([releasing.overturn(session, person, waiting[1], now=late)]) == ["awarded 5"]
    assert digest(session, "day, taken_points", table="partner_day") == [(feed.now().date(), 15)]
    assert wrong(session) == {}


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("UPDATE hold_order SET until = placed_at + interval '93 days'", CheckViolation),
        ("UPDATE hold_order SET subject = 'x'", RestrictViolation),
        ("UPDATE hold_order SET lifted_at = until; UPDATE hold_order SET lifted_at = NULL", RestrictViolation),
        (
            "INSERT INTO hold_order SELECT gen_random_uuid(), subject_kind, subject, reason, NULL, placed_at, until "
            "FROM hold_order",
            UniqueViolation,
        ),
        ("DELETE FROM hold_order", InsufficientPrivilege),
        ("TRUNCATE hold_order", InsufficientPrivilege),
    ],
)
def test_an_order_cannot_be_changed_past_the_rules(
    session: Session, person: UUID, statement: str, refusal: type[Exception]
) -> None:
    place(session, SubjectKind.RESIDENT, person)
    *before, last = statement.split("; ")
    for each in before:
        session.execute(sa.text(each))
    with pytest.raises(DBAPIError) as failed, session.begin_nested():
        session.execute(sa.text(last))
    assert isinstance(failed.value.orig, refusal)


@pytest.mark.parametrize("statement", ["DELETE FROM hold_order", "TRUNCATE hold_order"])
def test_the_owner_cannot_take_an_order_away_either(session: Session, person: UUID, statement: str) -> None:
    place(session, SubjectKind.RESIDENT, person)
    with pytest.raises(DBAPIError) as failed, session.begin_nested(), owner(session):
        session.execute(sa.text(statement))
    assert isinstance(failed.value.orig, RestrictViolation)


# What a claim's own source says


def test_a_sources_own_finding_is_what_the_resident_reads(session: Session, person: UUID) -> None:
    bag = drop(person, start=at("25 09:00"), refusal=Reason.UNSORTED)
    late = drop(person, start=at("02 09:00"), refusal=Reason.OUTSIDE_HOURS)
    both = drop(person, start=at("25 09:00"), refusal=Reason.UNSORTED, hold=Reason.BURST)
    assert told(award(session, [bag, late, both], now=LATER)) == [
        "refused unsorted",
        "refused outside-hours",
        "refused unsorted",
    ]
    page = activities.history(session, person, limit=10, cursor=None)
    assert [(each.outcome.value, each.reason_zh) for each in page.items] == [
        ("refused", "督导员检查为混投或不合格"),
        ("refused", "不在投放时段内, 已记录但不计分"),
        ("refused", "督导员检查为混投或不合格"),
    ]


# Decisions


def test_a_released_claim_is_paid_as_on_its_own_day(session: Session, person: UUID) -> None:
    """Late, over a weekend and under the caps of its day, which other claims have used meanwhile."""
    waiting = held(session, drop(person, "hazardous", start=at("25 09:00")))
    award(session, [drop(person, start=at("25 10:00")) for _ in range(3)], now=LATER)
    answer = releasing.release(session, person, waiting, now=noon(30) + timedelta(days=20))
    assert answer == Award(Outcome.AWARDED, Reason.CAPPED, 5, 0, waiting)
    assert shown(session, person, waiting) == ("awarded", "cap-reached", 5)
    assert digest(session, "day, points, activities", table="resident_day") == [(date(2026, 11, 25), 20, 4)]
    assert balances(session, person) == ({date(2027, 12, 31): 20}, 0)
    assert wrong(session) == {}


def test_a_released_claim_pays_what_it_would_have_paid(session: Session, make_resident: Callable[..., UUID]) -> None:
    made: list[Callable[[UUID], Claim]] = [
        lambda each: claim(each, "bicycle", distance_m=7300, minutes=40, start=at("25 08:00")),
        lambda each: weighing(each, 37, site="s", device="scales:1"),
        lambda each: steps_claim(each, 7300, 2100, day=at("25 00:00")),
        lambda each: confirmed(each, new_id(), "hazardous"),
    ]
    for make in made:
        paid, waited = make_resident(), make_resident()
        (at_once,) = award(session, [make(paid)], now=LATER)
        released = releasing.release(session, waited, held(session, make(waited)), now=LATER)
        assert (released.points, released.saved_co2e_mg) == (at_once.points, at_once.saved_co2e_mg)
    same = ("activities", "distance_m", "weight_g", "saved_co2e_mg", "points")
    by_person = digest(session, "count(*)", *same, table="resident_day", group_by=", ".join(same))
    assert [row[0] for row in by_person] == [2] * len(made)
    assert wrong(session) == {}


def test_a_release_can_end_as_refused_by_a_bound_or_by_another_trip(session: Session, person: UUID) -> None:
    home = household(session, person)
    with limits(session, {"household": 100}):
        waiting = held(session, weighing(person, 60))
        award(session, [weighing(person, 50, "25 10:00")], now=LATER)
        assert told([releasing.release(session, person, waiting, now=LATER)]) == ["refused household-limit-reached"]
        assert shown(session, person, waiting) == ("refused", "household-limit-reached", 0)
        assert taken(session)["household", str(home)] == (50, 100)
        ride = held(session, claim(person, start=at("25 08:00")))
        award(session, [claim(person, start=at("25 08:10"))], now=LATER)
        assert told([releasing.release(session, person, ride, now=LATER)]) == ["refused overlaps-another-trip"]
        fits = held(session, weighing(person, 42, "25 11:00"))
        assert told([releasing.release(session, person, fits, now=LATER)]) == ["awarded 42"]
    assert wrong(session) == {}


def test_a_claim_is_decided_once(session: Session, person: UUID) -> None:
    waiting = held(session, drop(person, start=at("25 09:00")))
    releasing.refuse(session, person, waiting, reason=Reason.REVIEW_REFUSED)
    assert shown(session, person, waiting) == ("refused", "review-refused", 0)
    for decide in (
        lambda: releasing.refuse(session, person, waiting, reason=Reason.REVIEW_REFUSED),
        lambda: releasing.release(session, person, waiting, now=LATER),
    ):
        with pytest.raises(releasing.NotHeld):
            decide()
    assert told([releasing.overturn(session, person, waiting, now=LATER)]) == ["awarded 5"]
    with pytest.raises(releasing.NotOverturnable):
        releasing.overturn(session, person, waiting, now=LATER)
    for decide_late in (releasing.release, releasing.overturn):
        with pytest.raises(NotFound):
            decide_late(session, person, new_id(), now=LATER)
    assert wrong(session) == {}


def test_the_claim_of_somebody_who_left_is_released_to_nobody(session: Session, person: UUID) -> None:
    waiting = held(session, drop(person, start=at("25 09:00")))
    session.execute(sa.update(Resident).where(Resident.resident_id == person).values(enabled=False))
    assert told([releasing.release(session, person, waiting, now=LATER)]) == ["refused unknown-resident"]
    assert transferred(session, person) == 0


OVERTURNED = {
    Reason.UNSORTED: lambda each: drop(each, start=at("25 09:00"), refusal=Reason.UNSORTED),
    Reason.TOO_LATE: lambda each: drop(each, start=at("17 09:00")),
    Reason.TOO_FAST: lambda each: claim(each, start=at("25 08:00"), minutes=1),
    Reason.TOO_SMALL: lambda each: claim(each, distance_m=100, start=at("25 08:00")),
    Reason.TOO_LARGE: lambda each: drop(each, start=at("25 09:00"), weight_g=31_000),
    Reason.BAD_SPAN: lambda each: claim(each, start=at("25 08:00"), minutes=-5),
}


@pytest.mark.parametrize("reason", OVERTURNED)
def test_an_upheld_appeal_pays_what_was_refused_without_the_check_that_refused_it(
    session: Session, person: UUID, reason: Reason
) -> None:
    activity_id = refused(session, OVERTURNED[reason](person), reason)
    paid = releasing.overturn(session, person, activity_id, now=LATER + timedelta(days=30))
    assert paid.outcome is Outcome.AWARDED
    assert paid.points in {5, 8}
    assert shown(session, person, activity_id) == ("awarded", None, paid.points)
    assert wrong(session) == {}


def test_an_upheld_appeal_waives_no_other_check(session: Session, person: UUID) -> None:
    too_small_and_fast = claim(person, distance_m=199, start=at("25 08:00"), minutes=0.1)
    activity_id = refused(session, too_small_and_fast, Reason.TOO_SMALL)
    assert told([releasing.overturn(session, person, activity_id, now=LATER)]) == ["refused too-fast"]
    assert told([releasing.overturn(session, person, activity_id, now=LATER)]) == ["refused below-minimum"]
    unruled = refused(session, drop(person, "paper", start=at("25 09:00")), Reason.NO_RULE)
    assert told([releasing.overturn(session, person, unruled, now=LATER)]) == ["refused no-rule"]


def test_what_was_wrongly_taken_back_is_paid_again_exactly_and_once(
    session: Session, make_resident: Callable[..., UUID]
) -> None:
    """Though the day's cap, and the household's bound, are used up by the very points that were taken."""
    person = make_resident()
    household(session, person)
    with limits(session, {"household": 20}):
        bags = award(session, [drop(person, "hazardous", start=at(f"25 09:0{n}")) for n in range(2)], now=LATER)
        entries.spend(session, person, new_id(), 15, account_id=REDEMPTION, reason="换购", now=LATER)
        activity_id = bags[0].activity_id
        assert activity_id is not None
        counts.revoke(session, person, activity_id, why="抽查", reason=Reason.SPOT_CHECK_FAILED, now=LATER)
        assert balances(session, person) == ({}, 5)
        again = releasing.overturn(session, person, activity_id, now=LATER)
    assert (again.outcome, again.points) == (Outcome.AWARDED, 10)
    assert again.activity_id != activity_id
    assert shown(session, person, activity_id)[0] == "reversed"
    assert shown(session, person, again.activity_id or activity_id) == ("awarded", None, 10)
    assert balances(session, person) == ({date(2027, 12, 31): 5}, 0)
    assert digest(session, "points, activities", table="resident_day") == [(20, 2)]
    assert digest(session, "sum(points), sum(activities)", table="community_day") == [(20, 2)]
    for each in (activity_id, again.activity_id or activity_id):
        with pytest.raises((releasing.AlreadyRestored, releasing.NotOverturnable)):
            releasing.overturn(session, person, each, now=LATER)
    assert wrong(session) == {}


def test_a_trip_taken_back_is_not_paid_again_beside_another_of_its_time(session: Session, person: UUID) -> None:
    (ride,) = award(session, [claim(person, start=at("25 08:00"))], now=LATER)
    assert ride.activity_id is not None
    counts.revoke(session, person, ride.activity_id, why="审计", reason=Reason.AUDIT_FAILED, now=LATER)
    award(session, [claim(person, start=at("25 08:10"))], now=LATER)
    answer = releasing.overturn(session, person, ride.activity_id, now=LATER)
    assert (answer.outcome, answer.reason, answer.points) == (Outcome.REVERSED, Reason.OVERLAP, 0)
    assert wrong(session) == {}


def test_a_walk_that_is_refused_after_all_leaves_its_steps_to_the_next_sync(session: Session, person: UUID) -> None:
    walk = claim(person, "walk", grade=Grade.SENSOR, source="track", distance_m=3000, minutes=40, start=at("25 08:00"))
    covered = sa.text("INSERT INTO step_day (resident_id, day, steps, walked_steps) VALUES (:r, '2026-11-25', 0, 5000)")
    walked = sa.text("SELECT walked_steps FROM step_day")

    waiting = held(session, walk)
    session.execute(covered, {"r": person})
    releasing.refuse(session, person, waiting, reason=Reason.REVIEW_REFUSED)
    assert session.scalar(walked) == 0
    with session.begin_nested() as savepoint:
        releasing.overturn(session, person, waiting, now=LATER)
        assert session.scalar(walked) == 5000
        savepoint.rollback()

    session.execute(sa.text("DELETE FROM step_day"))
    again = held(session, msgspec.structs.replace(walk, external_id="w-2"))
    session.execute(covered, {"r": person})
    session.execute(sa.update(Resident).where(Resident.resident_id == person).values(enabled=False))
    assert told([releasing.release(session, person, again, now=LATER)]) == ["refused unknown-resident"]
    assert session.scalar(walked) == 0


def test_of_two_decisions_at_once_the_first_one_stands(make_database: Callable[[], str]) -> None:
    engine = sa.create_engine(psycopg_url(make_database()), poolclass=sa.NullPool)
    with Session(engine) as arranging:
        person = resident(arranging)
        waiting = held(arranging, drop(person, start=at("25 09:00")))
        arranging.commit()
    with Session(engine) as one, Session(engine) as other, ThreadPoolExecutor(1) as thread:
        process = other.scalar(sa.text("SELECT pg_backend_pid()"))
        releasing.refuse(one, person, waiting, reason=Reason.REVIEW_REFUSED)  # held open
        second = thread.submit(releasing.release, other, person, waiting, now=LATER)
        deadline = time.monotonic() + 10
        while not one.scalar(sa.text("SELECT cardinality(pg_blocking_pids(:process)) > 0"), {"process": process}):
            assert time.monotonic() < deadline, "the second did not wait for the first"
            time.sleep(0.01)
        one.commit()
        with pytest.raises(releasing.NotHeld):
            second.result(10)
    with Session(engine) as looking:
        assert transferred(looking, person) == 0
        assert wrong(looking) == {}
    engine.dispose()
