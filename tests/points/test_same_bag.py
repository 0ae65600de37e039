"""One bag that two tell of (a supervisor or a bin, and the resident's own scan) is paid once; both records stay."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from flask.testing import FlaskClient
from points_builders import Feed, drop_line, outcomes, transferred, wrong
from sorting_builders import COMMUNITY, NEXT_DOOR, TUESDAY, code_of, decisions, declare_none, drawn_now, person, site
from sqlalchemy.orm import Session

from points.earning import holds, releasing
from points.earning.claims import Award, Claim, Reason
from points.earning.models import (
    Activity,
    Behaviour,
    Grade,
    Outcome,
    SubjectKind,
)
from points.partners import registry
from points.partners.feed import take_in
from points.partners.models import Binding, Partner
from points.waste.drops import bags, dropping, spot_checks
from points.waste.drops.dropping import Bag, Dropped
from points.waste.drops.models import Finding, SpotCheck
from points.waste.sites import opening
from points.waste.sites.models import Category
from server.access import Role
from server.clock import now
from server.database import new_id, psycopg_url
from server.people.models import Household, HouseholdMember, Resident, Staff

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
    assert "same bag" in made["bags"][0]["reason_en"]
    shown = client.get("/api/v1/me/activities", headers=own).json
    assert shown is not None
    assert sorted((each["mode"], each["outcome"], each["points"]) for each in shown["items"]) == [
        ("hazardous", "awarded", 3),
        ("kitchen", "awarded", 4),
        ("kitchen", "refused", 0),
    ]
    assert (transferred(session, alice), wrong(session)) == (7, {})


def test_a_scan_that_was_paid_stays_paid_and_the_supervisors_record_is_kept_beside_it(
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

    assert (graded.outcome, graded.reason, graded.points) == (Outcome.REFUSED, Reason.SAME_BAG, 0)
    assert sorted(records(session, alice)) == [
        ("sorting-site-code", "awarded", None),
        ("sorting-site-code", "awarded", None),  # hazardous
        ("sorting-supervisor", "refused", "same-bag"),
    ]
    wallet = client.get("/api/v1/me/wallet", headers=headers_of(alice, is_resident=True)).json
    assert wallet is not None
    assert (wallet["balance_points"], wrong(session)) == (2 + 3, {})


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
    alice, bob = member(), member("m-2")
    lines = [
        drop_line("d-1", when=now()),
        drop_line("d-2", when=now(), site="elsewhere"),  # a bin that nobody has told us of
        drop_line("d-3", "m-2", when=now()),
    ]
    if bin_first:
        assert outcomes(feed.push(*lines)) == ["awarded"] * 3
        assert scan(session, key, supervisor, alice).bags[0].award.reason is Reason.SAME_BAG
    else:
        assert scan(session, key, supervisor, alice).bags[0].award.points == 2
        assert outcomes(feed.push(*lines)) == ["refused same-bag", "awarded", "awarded"], "others' lines are paid"
    assert transferred(session, alice) == (10 if bin_first else 7)
    assert (transferred(session, bob), wrong(session)) == (5, {})


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


def held_by(session: Session, supervisor: UUID) -> None:
    order: dict[str, Any] = {"subject_kind": SubjectKind.STAFF, "subject": str(supervisor), "case_id": None}
    holds.place(session, **order, reason=Reason.UNDER_REVIEW, until=now() + timedelta(days=1), now=now())
    holds.forget()


@pytest.mark.parametrize("own_first", [True, False])
def test_a_held_record_takes_nothing_and_is_not_paid_beside_another(
    session: Session, key: bytes, supervisor: UUID, make_resident: Callable[..., UUID], own_first: bool
) -> None:
    site(session)
    decisions(session)
    alice = make_resident()
    held_by(session, supervisor)
    if own_first:
        scan(session, key, supervisor, alice)
    held = grade(session, key, supervisor, alice)
    if not own_first:
        scan(session, key, supervisor, alice)
    holds.forget()
    assert held.outcome is Outcome.HELD
    assert held.activity_id is not None
    assert transferred(session, alice) == 2

    released = releasing.release(session, alice, held.activity_id, now=now())
    assert (released.outcome, released.reason) == (Outcome.REFUSED, Reason.SAME_BAG)
    assert (transferred(session, alice), wrong(session)) == (2, {})


def test_of_two_records_that_appeals_have_won_one_is_paid(
    session: Session, key: bytes, supervisor: UUID, make_resident: Callable[..., UUID]
) -> None:
    site(session)
    decisions(session)
    alice, bob = make_resident(), make_resident()
    for each in (alice, bob):
        scan(session, key, supervisor, each)
        grade(session, key, supervisor, each, finding=Finding.MIXED)
    own, found = session.scalars(sa.select(Activity).where(Activity.resident_id == alice).order_by(Activity.id))

    assert releasing.overturn(session, alice, found.id, now=now()).points == 4
    again = releasing.overturn(session, alice, own.id, now=now())
    assert (again.outcome, again.reason, again.points) == (Outcome.REVERSED, Reason.SAME_BAG, 0)

    own, found = session.scalars(sa.select(Activity).where(Activity.resident_id == bob).order_by(Activity.id))
    assert releasing.overturn(session, bob, own.id, now=now()).points == 2
    again = releasing.overturn(session, bob, found.id, now=now())
    assert (again.outcome, again.reason, again.points) == (Outcome.REFUSED, Reason.SAME_BAG, 0), "its copy is paid"
    assert wrong(session) == {}


def test_a_person_may_decide_that_they_were_two_bags(
    session: Session, key: bytes, supervisor: UUID, make_resident: Callable[..., UUID]
) -> None:
    site(session)
    decisions(session)
    alice = make_resident()
    scan(session, key, supervisor, alice)
    graded = grade(session, key, supervisor, alice)
    assert graded.reason is Reason.SAME_BAG
    assert graded.activity_id is not None
    assert releasing.overturn(session, alice, graded.activity_id, now=now()).points == 4
    assert (transferred(session, alice), wrong(session)) == (6, {})


def test_a_bag_that_failed_its_check_is_not_paid_by_a_bin_that_reports_late(
    session: Session,
    key: bytes,
    supervisor: UUID,
    feed: Feed,
    member: Callable[..., UUID],
    make_staff: Callable[..., UUID],
    tuesday: time_machine.Traveller,
) -> None:
    tuesday.move_to(TUESDAY)
    site(session, form="smart-bins", partner_code=feed.code, partner_site="bin-7")
    decisions(session, "1")
    checker = make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    declare_none(session, checker)
    alice, when = member(), now()
    scan(session, key, supervisor, alice)
    assert drawn_now(session, key) == 1
    (check,) = session.scalars(sa.select(SpotCheck.id))
    staff = person(checker, Role.COMMUNITY_STAFF)
    spot_checks.answer(session, staff, check, passed=False, remark="混有厨余", now=now())
    session.commit()
    tuesday.shift(3600)
    assert outcomes(feed.push(drop_line("d-1", when=when))) == ["refused same-bag"]
    assert wrong(session) == {}


def test_what_an_unattended_device_was_told_takes_back_nothing(
    session: Session, key: bytes, supervisor: UUID, make_resident: Callable[..., UUID]
) -> None:
    site(session)
    decisions(session)
    alice = make_resident()
    assert grade(session, key, supervisor, alice).points == 4
    told = Claim(
        resident_id=alice,
        behaviour=Behaviour.SORTING,
        mode="kitchen",
        grade=Grade.SELF_DECLARED,
        source="sorting-scanner",
        external_id="x",
        started_at=now(),
        ended_at=now(),
        received_at=now(),
        site="nk-site-01",
        refusal=Reason.UNSORTED,
    )
    assert bags.award_once(session, [told], now=now())[0].reason is Reason.UNSORTED
    assert (transferred(session, alice), wrong(session)) == (4, {})


def test_a_payment_that_meets_others_again_and_again_ends(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
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
        return [Award(Outcome.AWARDED, None, 0, 0, new_id())]

    def another_each_time(*_: object) -> object:
        other = bags._Other(strong.resident_id, new_id(), Grade.SELF_DECLARED, Outcome.AWARDED, None, is_restored=False)
        return {0: [other]}

    monkeypatch.setattr(bags, "_others_of", another_each_time)
    bags.pay_once(session, [strong], pay, now=now())
    assert asked == [set(), *[{0}] * bags.TRIES]


@dataclass
class AtOnce:
    """A place with a supervisor and Alice in a database of their own, where two record one bag at the same time."""

    engine: sa.Engine
    staff_id: UUID
    alice: UUID
    key: bytes = bytes(32)

    def own(self, session: Session) -> None:
        """Alice scans the site's code."""
        scan(session, self.key, self.staff_id, self.alice)

    def paid_after(self, first: Callable[[Session], object], second: Callable[[Session], object]) -> int:
        """The points that remain, with the first record's transaction held open until the second one waits for it."""

        def run_second() -> None:
            with Session(self.engine) as other:
                second(other)
                other.commit()

        with ThreadPoolExecutor(1) as pool, Session(self.engine) as held_open:
            first(held_open)
            waiting = pool.submit(run_second)
            _wait_for_a_lock(self.engine)
            held_open.commit()
            waiting.result(10)
        with Session(self.engine) as session:
            assert wrong(session) == {}
            assert len(records(session, self.alice)) == 2
            return int(session.scalar(sa.text("SELECT coalesce(sum(remaining_points), 0) FROM lot")) or 0)


@pytest.fixture
def at_once(make_database: Callable[[], str]) -> Iterator[AtOnce]:
    made = AtOnce(sa.create_engine(psycopg_url(make_database())), new_id(), new_id())
    with Session(made.engine) as session:
        values = {"password_hash": "unusable", "role": Role.SUPERVISOR, "division": COMMUNITY, "created_at": now()}
        session.add(Staff(id=made.staff_id, name=f"s-{made.staff_id.hex}", **values))
        session.add(Resident(resident_id=made.alice, community_code=COMMUNITY, created_at=now()))
        session.flush()
        declare_none(session, made.staff_id)
    yield made
    made.engine.dispose()


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


@pytest.mark.parametrize("own_first", [True, False])
@pytest.mark.parametrize("finding", [Finding.QUALIFIED, Finding.MIXED])
def test_of_two_records_at_once_one_is_paid(at_once: AtOnce, own_first: bool, finding: Finding) -> None:
    with Session(at_once.engine) as session:
        site(session)
        decisions(session)

    def strong(session: Session) -> None:
        grade(session, at_once.key, at_once.staff_id, at_once.alice, finding=finding)

    paid = at_once.paid_after(*((at_once.own, strong) if own_first else (strong, at_once.own)))
    assert paid == ((2 if own_first else 4) if finding is Finding.QUALIFIED else 0)


@pytest.mark.parametrize("bin_first", [True, False])
def test_of_a_bins_record_and_a_scan_at_once_the_first_is_paid(at_once: AtOnce, bin_first: bool) -> None:
    with Session(at_once.engine) as session:
        registry.create(
            session,
            "bins",
            name_zh="箱",
            kinds=["bin-drop"],
            day_budget_points=1000,
            key="k" * 40,
            data_key=at_once.key,
            now=now(),
        )
        session.flush()
        session.add(Binding(partner_code="bins", member_id="m-1", resident_id=at_once.alice, bound_at=now()))
        site(session, partner_code="bins", partner_site="bin-7")
        decisions(session)

    def push(session: Session) -> None:
        partner = session.get_one(Partner, "bins")
        take_in(session, partner, "b-1", drop_line("d-1", when=now()), now=now())

    paid = at_once.paid_after(*((push, at_once.own) if bin_first else (at_once.own, push)))
    assert paid == (5 if bin_first else 2)
