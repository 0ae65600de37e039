"""One bag that two tell of (a supervisor or a bin, and the resident's own scan) is paid once; both records stay."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from points_builders import Feed, drop_line, outcomes, transferred, wrong
from sorting_builders import COMMUNITY, NEXT_DOOR, TUESDAY, code_of, decisions, declare_none, drawn_now, person, site
from sqlalchemy.orm import Session

from points.earning import bounds, holds, pricing
from points.earning.bounds import Key
from points.earning.claims import Award, Claim, Reason
from points.earning.models import (
    Activity,
    Behaviour,
    BoundLimit,
    BoundUsage,
    Grade,
    Outcome,
    ResidentDay,
    RuleVersion,
    SubjectKind,
)
from points.earning.proposals.replaying import Recorded, Replay
from points.partners import registry
from points.partners.feed import take_in
from points.partners.models import Binding, Partner
from points.waste.drops import accuracy, bags, dropping, spot_checks
from points.waste.drops.dropping import Bag, Dropped
from points.waste.drops.models import Finding, SpotCheck
from points.waste.sites import opening
from points.waste.sites.models import Category
from server.access import Role
from server.clock import business_day, now
from server.database import new_id, psycopg_url
from server.people.models import Household, HouseholdMember, Resident, Staff
from server.settings import Settings

Headers = dict[str, str]
OWN_DROPS = "/api/v1/me/sorting/drops"
KITCHEN, HAZARDOUS = Category.KITCHEN, Category.HAZARDOUS
SAME_BAG = ("refused", "same-bag")


@pytest.fixture(autouse=True)
def tuesday(clock: time_machine.Traveller) -> Iterator[time_machine.Traveller]:
    """Time stands still at noon of a Tuesday under the second edition of the rules."""
    clock.move_to(TUESDAY)
    opening.forget()
    yield clock
    opening.forget()


@pytest.fixture
def key(app: Flask) -> bytes:
    settings: Settings = app.extensions["tanpuhui_settings"]
    return settings.data_key


@pytest.fixture
def supervisor(make_staff: Callable[..., UUID], session: Session) -> UUID:
    made = make_staff(Role.SUPERVISOR, division=COMMUNITY)
    declare_none(session, made)
    return made


def grade(
    session: Session,
    key: bytes,
    staff_id: UUID,
    resident_id: UUID,
    category: Category = KITCHEN,
    finding: Finding = Finding.QUALIFIED,
) -> Award:
    """A bag that the supervisor has graded: 4 points for kitchen waste, 9 for hazardous."""
    made = dropping.record_graded(
        session,
        person(staff_id, Role.SUPERVISOR),
        site_code="nk-site-01",
        code=code_of(key, resident_id),
        bags=[Bag(category, finding)],
        data_key=key,
        now=now(),
    )
    return made.bags[0].award


def scan(
    session: Session,
    key: bytes,
    staff_id: UUID,
    resident_id: UUID,
    *categories: Category,
    site_code: str = "nk-site-01",
) -> Dropped:
    """The resident's own scan of the site's code: 2 points for kitchen waste, 3 for hazardous."""
    by = person(staff_id, Role.SUPERVISOR, division=COMMUNITY[:6])
    text = dropping.shown_code(session, by, site_code, data_key=key, now=now()).text
    return dropping.record_own(
        session,
        person(resident_id, Role.RESIDENT, division=None),
        code=text,
        categories=categories or [KITCHEN],
        device=None,
        data_key=key,
        now=now(),
    )


def records(session: Session, resident_id: UUID) -> list[tuple[str, str, str | None]]:
    """Source, outcome and reason of each record, in the order of recording."""
    session.expire_all()
    wanted = sa.select(Activity).where(Activity.resident_id == resident_id).order_by(Activity.id)
    return [(each.source, each.outcome.value, each.reason) for each in session.scalars(wanted)]


def test_what_a_supervisor_has_graded_is_not_paid_again_by_ones_own_scan(
    client: FlaskClient,
    session: Session,
    key: bytes,
    supervisor: UUID,
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., Headers],
    tuesday: time_machine.Traveller,
) -> None:
    site(session)
    decisions(session)
    alice = make_resident()
    grade(session, key, supervisor, alice)
    session.commit()
    tuesday.shift(600)
    by = person(supervisor, Role.SUPERVISOR)
    text = dropping.shown_code(session, by, "nk-site-01", data_key=key, now=now()).text
    own = headers_of(alice, is_resident=True)
    made = client.post(OWN_DROPS, json={"code": text, "categories": ["kitchen", "hazardous"]}, headers=own).json
    assert made is not None
    assert [(bag["outcome"], bag["reason"], bag["points"]) for bag in made["bags"]] == [
        (*SAME_BAG, 0),
        ("awarded", None, 3),
    ], "another category is another bag"
    assert "同一袋" in made["bags"][0]["reason_zh"]
    assert "the same bag" in made["bags"][0]["reason_en"].lower()
    shown = client.get("/api/v1/me/activities", headers=own).json
    assert shown is not None
    assert sorted((each["mode"], each["outcome"], each["points"]) for each in shown["items"]) == [
        ("hazardous", "awarded", 3),
        ("kitchen", "awarded", 4),
        ("kitchen", "refused", 0),
    ]
    assert (transferred(session, alice), wrong(session)) == (7, {})


def test_a_scan_that_was_paid_gives_way_to_the_supervisors_record(
    client: FlaskClient,
    session: Session,
    key: bytes,
    supervisor: UUID,
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., Headers],
) -> None:
    site(session)
    decisions(session)
    alice = make_resident()
    assert [bag.award.points for bag in scan(session, key, supervisor, alice, KITCHEN, HAZARDOUS).bags] == [2, 3]
    graded = grade(session, key, supervisor, alice)
    session.commit()

    assert (graded.outcome, graded.points) == (Outcome.AWARDED, 4)
    assert sorted(records(session, alice)) == [
        ("sorting-site-code", "awarded", None),  # hazardous
        ("sorting-site-code", "reversed", "same-bag"),
        ("sorting-supervisor", "awarded", None),
    ]
    own = headers_of(alice, is_resident=True)
    wallet, told = (client.get(f"/api/v1/me/{name}", headers=own).json for name in ("wallet", "notices"))
    assert wallet is not None
    assert told is not None
    assert wallet["balance_points"] == 4 + 3
    assert [each["kind"] for each in told["items"]] == ["bag-recorded-otherwise"]
    assert "同一袋" in told["items"][0]["title_zh"]
    day = session.scalars(sa.select(ResidentDay).where(ResidentDay.resident_id == alice)).one()
    assert (day.activities, day.points) == (2, 7)
    # Of the six points a day that one's own word can earn, only the hazardous waste has used three.
    used = sa.text("SELECT day_1 FROM cap_usage WHERE resident_id = :r AND cap_group = 'sorting-self'")
    assert session.scalar(used, {"r": alice}) == 3
    assert wrong(session) == {}


@pytest.mark.parametrize("bin_first", [True, False])
def test_a_smart_bins_drop_and_ones_own_scan_are_one_bag(
    session: Session,
    key: bytes,
    supervisor: UUID,
    feed: Feed,
    member: Callable[..., UUID],
    bin_first: bool,
    tuesday: time_machine.Traveller,
) -> None:
    tuesday.move_to(TUESDAY)
    site(session, form="smart-bins", partner_code=feed.code, partner_site="bin-7")
    decisions(session)
    alice = member()

    def push() -> None:
        lines = [drop_line("d-1", when=now()), drop_line("d-2", when=now(), site="elsewhere")]
        assert outcomes(feed.push(*lines)) == ["awarded", "awarded"]

    if bin_first:
        push()
        assert scan(session, key, supervisor, alice).bags[0].award.reason is Reason.SAME_BAG
    else:
        assert scan(session, key, supervisor, alice).bags[0].award.points == 2
        push()
    own = next(each for each in records(session, alice) if each[0] == "sorting-site-code")
    assert own == ("sorting-site-code", "refused" if bin_first else "reversed", "same-bag")
    balance = session.scalar(sa.text("SELECT sum(remaining_points) FROM lot WHERE resident_id = :r"), {"r": alice})
    assert (balance, wrong(session)) == (10, {}), "the bin's 5, and 5 of a bin that nobody has told us of"


def test_a_supervisors_record_and_a_bins_are_one_bag_and_the_first_is_paid(
    session: Session,
    key: bytes,
    supervisor: UUID,
    feed: Feed,
    member: Callable[..., UUID],
    tuesday: time_machine.Traveller,
) -> None:
    tuesday.move_to(TUESDAY)
    site(session, devices=[f"{feed.code}:one"])
    decisions(session)
    alice = member()
    grade(session, key, supervisor, alice)
    session.commit()
    line = drop_line("d-1", when=now(), device="one", sequence=1)
    assert outcomes(feed.push(line)) == ["refused same-bag"]
    assert (transferred(session, alice), wrong(session)) == (4, {})


def test_bags_of_another_time_place_or_person_are_paid(
    session: Session,
    key: bytes,
    supervisor: UUID,
    make_resident: Callable[..., UUID],
    tuesday: time_machine.Traveller,
) -> None:
    site(session)
    site(session, "nk-next-1", community_code=NEXT_DOOR)
    decisions(session)
    alice, spouse, bob = make_resident(), make_resident(), make_resident()
    home = new_id()
    session.add(Household(id=home, member_count=2, created_at=now()))
    session.flush()
    for each in (alice, spouse):
        session.add(HouseholdMember(resident_id=each, household_id=home, member_id=new_id(), joined_at=now()))
    session.commit()
    for each in (alice, bob):
        grade(session, key, supervisor, each)

    assert scan(session, key, supervisor, spouse).bags[0].award.points == 2, "of the same household"
    assert scan(session, key, supervisor, bob, site_code="nk-next-1").bags[0].award.points == 2, "at another place"
    tuesday.shift(601)
    assert scan(session, key, supervisor, alice).bags[0].award.points == 2, "another time"
    assert wrong(session) == {}


def test_a_bag_that_was_found_mixed_pays_nothing_by_whatever_record(
    session: Session, key: bytes, supervisor: UUID, make_resident: Callable[..., UUID]
) -> None:
    site(session)
    decisions(session)
    alice, bob = make_resident(), make_resident()
    scan(session, key, supervisor, alice)
    grade(session, key, supervisor, alice, finding=Finding.MIXED)
    grade(session, key, supervisor, bob, finding=Finding.MIXED)
    scan(session, key, supervisor, bob)

    assert records(session, alice) == [
        ("sorting-site-code", "reversed", "unsorted"),
        ("sorting-supervisor", "refused", "unsorted"),
    ]
    assert records(session, bob) == [
        ("sorting-supervisor", "refused", "unsorted"),
        ("sorting-site-code", "refused", "same-bag"),
    ]
    assert (transferred(session, bob), wrong(session)) == (0, {})


def test_a_held_record_that_is_stronger_is_the_one_that_counts(
    session: Session, key: bytes, supervisor: UUID, make_resident: Callable[..., UUID]
) -> None:
    site(session)
    decisions(session)
    alice = make_resident()
    scan(session, key, supervisor, alice)
    order: dict[str, Any] = {"subject_kind": SubjectKind.STAFF, "subject": str(supervisor), "case_id": None}
    holds.place(session, **order, reason=Reason.UNDER_REVIEW, until=now() + timedelta(days=1), now=now())
    held = grade(session, key, supervisor, alice)
    holds.forget()
    assert held.outcome is Outcome.HELD
    assert records(session, alice)[0] == ("sorting-site-code", "reversed", "same-bag")
    assert wrong(session) == {}


def _bound_of(session: Session, home: UUID) -> tuple[Key, int]:
    limit = session.scalars(sa.select(BoundLimit.day_points).where(BoundLimit.kind == "household")).first()
    assert limit is not None
    return Key("household", str(home), business_day(now())), limit


@pytest.mark.parametrize(("left", "paid"), [(4, 4), (3, 2)])
def test_two_records_never_pay_less_than_the_stronger_one_alone(
    session: Session, key: bytes, supervisor: UUID, make_resident: Callable[..., UUID], left: int, paid: int
) -> None:
    site(session)
    decisions(session)
    alice, home = make_resident(), new_id()
    session.add(Household(id=home, member_count=1, created_at=now()))
    session.flush()
    session.add(HouseholdMember(resident_id=alice, household_id=home, member_id=new_id(), joined_at=now()))
    bound, limit = _bound_of(session, home)
    used = {"kind": bound.kind, "subject": bound.subject, "day": bound.day}
    session.add(BoundUsage(**used, limit_points=limit, taken_points=limit - left))
    session.commit()

    assert scan(session, key, supervisor, alice).bags[0].award.points == 2
    graded = grade(session, key, supervisor, alice)
    taken = session.scalar(sa.select(BoundUsage.taken_points).filter_by(**used))
    balance = session.scalar(sa.text("SELECT sum(remaining_points) FROM lot WHERE resident_id = :r"), {"r": alice})
    assert (balance, taken) == (paid, limit - left + paid)
    # Where the household's day does not cover the stronger record, the weaker one stays.
    assert graded.reason is (None if paid == 4 else Reason.HOUSEHOLD_LIMIT)
    assert bounds.REASONS["household"] is Reason.HOUSEHOLD_LIMIT


def test_the_checks_of_a_record_that_gave_way_are_seen_by_nobody_and_count_nowhere(
    session: Session,
    key: bytes,
    supervisor: UUID,
    make_staff: Callable[..., UUID],
    make_resident: Callable[..., UUID],
) -> None:
    site(session)
    decisions(session, "1")
    checker = make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    declare_none(session, checker)
    alice, bob = make_resident(), make_resident()
    scan(session, key, supervisor, alice)
    assert drawn_now(session, key) == 1
    strong = grade(session, key, supervisor, alice)
    grade(session, key, supervisor, bob)
    scan(session, key, supervisor, bob)
    assert drawn_now(session, key) == 2, "the two that are paid"
    staff = person(checker, Role.COMMUNITY_STAFF)
    shown = spot_checks.list_checks(session, staff, state=spot_checks.CheckState.SAMPLED, limit=10, cursor=None)
    assert {each.path for each in shown.items} == {"supervisor"}
    assert len(shown.items) == 2
    found = dict(session.execute(sa.select(SpotCheck.activity_id, SpotCheck.id)).all())
    spot_checks.answer(session, staff, found[strong.activity_id], passed=True, remark="", now=now())
    spot_checks.expire(session, now=now() + timedelta(hours=49))
    day = business_day(now())
    made = accuracy.of_scope(session, staff, starts_on=day, ends_on=day)
    assert (made.passed, made.failed, made.unchecked) == (1, 0, 1)


def test_a_payment_that_meets_others_again_and_again_is_refused_at_last(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    strong = Claim(
        resident_id=new_id(),
        behaviour=Behaviour.SORTING,
        mode="kitchen",
        grade=Grade.STAFF_CONFIRMED,
        source="sorting-scanner",
        external_id="x",
        started_at=now(),
        ended_at=now(),
        received_at=now(),
        site="nk-site-01",
    )
    asked: list[set[int]] = []

    def pay(refused: Collection[int]) -> list[Award]:
        asked.append(set(refused))
        return [Award(Outcome.REFUSED if refused else Outcome.AWARDED, None, 0, 0, new_id())]

    def another_each_time(*_: object) -> object:
        return {0: [bags._Other(new_id(), strong.resident_id, Grade.SELF_DECLARED, Outcome.HELD, "burst")]}

    monkeypatch.setattr(bags, "_others", another_each_time)
    bags.pay_once(session, [strong], pay, now=now())
    assert asked == [*[set()] * bags.TRIES, {0}]


def test_a_replay_leaves_the_share_of_a_replaced_record_to_others(session: Session) -> None:
    version = session.scalars(sa.select(RuleVersion.id).order_by(RuleVersion.valid_from.desc())).first()
    tariff = pricing.read(session).named(version or "")
    assert tariff is not None
    day, alice = business_day(now()), new_id()
    running = Replay(tariff, first_on=day, last_on=day, budgets={})
    # Three points each, of six a day: the two that stand are worth them all.
    for outcome, reason in (("reversed", "same-bag"), ("awarded", None), ("awarded", None)):
        common: dict[str, Any] = dict.fromkeys(Recorded._fields)
        common |= {"resident_id": alice, "id": new_id(), "behaviour": "sorting", "mode": "hazardous", "acts": 1}
        common |= {"grade": "self-declared", "source": "sorting-site-code", "business_day": day, "site": "nk-site-01"}
        common |= dict.fromkeys(("started_at", "ended_at", "received_at", "recorded_at"), now())
        common |= {"community_code": COMMUNITY, "outcome": outcome, "reason": reason, "saved_co2e_mg": 0, "points": 3}
        running.take(Recorded(**common))
    assert running.replayed_points == 6


@pytest.mark.parametrize("own_first", [True, False])
@pytest.mark.parametrize("finding", [Finding.QUALIFIED, Finding.MIXED])
def test_of_two_records_at_once_one_is_paid(
    make_database: Callable[[], str], own_first: bool, finding: Finding
) -> None:
    engine = sa.create_engine(psycopg_url(make_database()))
    key, staff_id, alice = bytes(32), new_id(), new_id()
    with Session(engine, expire_on_commit=False) as session:
        values = {"password_hash": "unusable", "role": Role.SUPERVISOR, "division": COMMUNITY, "created_at": now()}
        session.add(Staff(id=staff_id, name=f"s-{staff_id.hex}", **values))
        session.add(Resident(resident_id=alice, community_code=COMMUNITY, created_at=now()))
        session.flush()
        declare_none(session, staff_id)
        site(session)
        decisions(session)

    def own(session: Session) -> None:
        scan(session, key, staff_id, alice)

    def strong(session: Session) -> None:
        grade(session, key, staff_id, alice, finding=finding)

    first, second = (own, strong) if own_first else (strong, own)

    def run_second() -> None:
        with Session(engine) as other:
            second(other)
            other.commit()

    with ThreadPoolExecutor(1) as pool, Session(engine) as held_open:
        first(held_open)
        waiting = pool.submit(run_second)
        _wait_for_a_lock(engine)
        held_open.commit()
        waiting.result(10)
    with Session(engine) as session:
        paid = session.scalar(sa.text("SELECT coalesce(sum(remaining_points), 0) FROM lot"))
        assert (paid, wrong(session)) == (4 if finding is Finding.QUALIFIED else 0, {})
        assert len(records(session, alice)) == 2
    engine.dispose()


def _wait_for_a_lock(engine: sa.Engine) -> None:
    blocked = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with engine.connect() as looking:
        for _ in range(1000):
            if looking.scalar(blocked):
                return
            looking.rollback()
    pytest.fail("the second never waited for the first")


@pytest.mark.parametrize("bin_first", [True, False])
def test_of_a_bins_record_and_a_scan_at_once_the_bins_is_paid(
    make_database: Callable[[], str], bin_first: bool
) -> None:
    engine = sa.create_engine(psycopg_url(make_database()))
    key, staff_id, alice = bytes(32), new_id(), new_id()
    with Session(engine, expire_on_commit=False) as session:
        values = {"password_hash": "unusable", "role": Role.SUPERVISOR, "division": COMMUNITY, "created_at": now()}
        session.add(Staff(id=staff_id, name=f"s-{staff_id.hex}", **values))
        session.add(Resident(resident_id=alice, community_code=COMMUNITY, created_at=now()))
        session.flush()
        declare_none(session, staff_id)
        registry.create(
            session,
            "bins",
            name_zh="箱",
            kinds=["bin-drop"],
            day_budget_points=1000,
            key="k" * 40,
            data_key=key,
            now=now(),
        )
        session.flush()
        session.add(Binding(partner_code="bins", member_id="m-1", resident_id=alice, bound_at=now()))
        site(session, partner_code="bins", partner_site="bin-7")
        decisions(session)

    def own(session: Session) -> None:
        scan(session, key, staff_id, alice)

    def push(session: Session) -> None:
        partner = session.get_one(Partner, "bins")
        take_in(session, partner, "b-1", drop_line("d-1", when=now()), now=now())

    first, second = (push, own) if bin_first else (own, push)

    def run_second() -> None:
        with Session(engine) as other:
            second(other)
            other.commit()

    with ThreadPoolExecutor(1) as pool, Session(engine) as held_open:
        first(held_open)
        waiting = pool.submit(run_second)
        _wait_for_a_lock(engine)
        held_open.commit()
        waiting.result(10)
    with Session(engine) as session:
        paid = session.scalar(sa.text("SELECT coalesce(sum(remaining_points), 0) FROM lot"))
        assert (paid, wrong(session)) == (5, {})
        assert len(records(session, alice)) == 2
    engine.dispose()
