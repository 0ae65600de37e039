"""Recycling orders: three ways to hand over, slips that both sides see, disputes, and what the database refuses."""

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from points_builders import balances, owner, wrong
from recycling_builders import (
    BOOKS,
    COMMUNITY,
    DAY,
    FOLDER,
    GLASS,
    HOME,
    MORNING,
    STOP,
    STREET,
    Party,
    district,
    linked,
    order_body,
    plan,
    shown_code,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from points.carbon import methods
from points.earning import pricing
from points.earning.models import Activity
from points.review.kinds import Decision
from points.review.models import Case, Verdict
from points.waste.orders import booking, jobs, materials, orders, settling, timetable, weighing
from points.waste.orders.addresses import Doorstep
from points.waste.orders.materials import CatalogueError
from points.waste.orders.models import CollectionDay, PlanKind, RecycledMaterial, RecyclingOrder, Unit, Way
from points.waste.orders.orders import Wish
from points.waste.orders.settling import CorrectionMissing, CorrectionStands
from points.waste.orders.slips import Line, faults_of
from points.waste.orders.timetable import TimetableError
from server.access import Actor, Role
from server.clock import now
from server.database import db, new_id
from server.errors import DomainError
from server.idempotency import IdempotencyRecord
from server.people.models import Resident, Staff, StaffLink
from server.settings import Settings
from wsgi import create_app

DATA_KEY = bytes(32)


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(MORNING, tick=False) as traveller:
        yield traveller


@pytest.fixture
def place(clock: time_machine.Traveller, session: Session) -> None:
    district(session)
    session.commit()


@pytest.fixture
def alice(
    place: None, client: FlaskClient, make_resident: Callable[..., UUID], headers_of: Callable[..., dict[str, str]]
) -> Party:
    return Party(client, headers_of, make_resident(COMMUNITY), is_resident=True)


@pytest.fixture
def make_collector(
    place: None,
    client: FlaskClient,
    session: Session,
    make_staff: Callable[..., UUID],
    headers_of: Callable[..., dict[str, str]],
) -> Callable[..., Party]:
    def make(role: Role = Role.COLLECTOR, division: str = STREET) -> Party:
        staff_id = linked(session, make_staff(role, division=division))
        return Party(client, headers_of, staff_id)

    return make


@pytest.fixture
def collector(make_collector: Callable[..., Party]) -> Party:
    return make_collector()


def weighed(alice: Party, collector: Party, clock: time_machine.Traveller, *items: dict[str, Any]) -> str:
    """An order of Alice's for a call at home that was weighed; its path after the prefix of each side."""
    order = f"/recycling/orders/{alice.post('/me/recycling/orders', order_body(), 201)['id']}"
    collector.post(f"{order}/acceptance")
    clock.move_to(MORNING + timedelta(hours=2))
    collector.post(f"{order}/slips", {"items": list(items or (GLASS,))}, 201)
    return order


def states(party: Party, order: str) -> list[str]:
    return [each["to_state"] for each in party.get(f"/me{order}")["moves"]]


def notices(party: Party) -> list[str]:
    return [each["title_en"] for each in party.get("/me/notices")["items"]]


# The ways to hand over


def test_a_call_at_home_goes_from_the_request_to_the_points(
    alice: Party, make_collector: Callable[..., Party], session: Session, clock: time_machine.Traveller, app: Flask
) -> None:
    collector, colleague = make_collector(), make_collector()
    order_id = alice.send("POST", "/me/recycling/orders", order_body(), 201, Idempotency_Key="order-once")["id"]
    order = f"/recycling/orders/{order_id}"
    waiting = colleague.get("/recycling/orders")["items"]
    assert [each["id"] for each in waiting] == [order_id]
    assert "A7Q9" not in json.dumps([waiting, colleague.get(order)]), "not before accepting"

    key = {"Idempotency_Key": "accept-once"}
    assert collector.send("POST", f"{order}/acceptance", **key)["state"] == "accepted"
    assert collector.get(order)["address"] == "某小区1号楼 A7Q9"
    kept = session.scalars(sa.select(IdempotencyRecord.answer_body)).all()
    assert len(kept) == 2, "the answers to the order and to the acceptance"
    assert not [each for each in kept if b"A7Q9" in each], "a stored answer has no address in the open"
    colleague.get(order, 404)
    assert colleague.get("/recycling/orders")["items"] == []
    colleague.post(f"{order}/acceptance", status=404)
    collector.post(f"{order}/departure")
    clock.move_to(MORNING + timedelta(hours=2))
    slip = collector.post(f"{order}/slips", {"items": [GLASS, BOOKS], "scale": "S-7"}, 201)
    assert collector.get(order)["address"] is None, "the way is over"

    seen = alice.get(f"/me{order}")
    assert seen["slips"] == [slip], "both sides see the same"
    made_at = datetime.fromisoformat(slip["made_at"]).astimezone(UTC).isoformat(timespec="microseconds")
    content = {"order": order_id, "made_at": made_at} | {
        name: slip[name] for name in ("number", "position", "scale", "reason", "items")
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == slip["sha256"]

    done = alice.post(f"/me{order}/confirmation", {"slip": slip["number"]})
    assert (done["state"], [each["points"] for each in done["paid"]]) == ("settled", [18, 18])
    assert states(alice, order) == ["accepted", "on-the-way", "weighed", "confirmed", "settled"]
    assert sum(balances(session, alice.id)[0].values()) == 36
    found = session.scalars(sa.select(Activity).where(Activity.resident_id == alice.id).order_by(Activity.id)).all()
    assert [(a.mode, a.weight_g, a.site_kind, a.timing, a.channel, a.staff_id, a.site) for a in found] == [
        ("glass", 2000, "mobile", "appointment", "online", collector.id, None),
        ("second_hand", None, "mobile", "appointment", "online", collector.id, None),
    ]
    assert found[0].saved_co2e_mg == 608_000, "0.304 kg a kilogram"
    assert wrong(session) == {}
    alice.post(f"/me{order}/confirmation", {"slip": slip["number"]}, 409)

    clock.move_to(MORNING + timedelta(days=29))
    assert alice.get(f"/me{order}")["address"] == "某小区1号楼 A7Q9"
    clock.move_to(MORNING + timedelta(days=30, hours=3))
    with app.app_context():
        jobs.forget_addresses(0)
    assert alice.get(f"/me{order}")["address"] is None
    assert session.scalar(sa.select(RecyclingOrder.address_sealed)) is None


def test_a_code_at_the_point_makes_an_order_and_serves_once(
    alice: Party, collector: Party, session: Session, clock: time_machine.Traveller, base_settings: Settings
) -> None:
    clock.move_to(MORNING + timedelta(hours=2))
    body = {"way": "point", "place": "nk-point-01", "code": shown_code(base_settings.data_key, alice.id)}
    order = collector.post("/recycling/orders", body, 201)
    assert [order[name] for name in ("state", "site_kind", "timing", "channel")] == [
        "accepted",
        "fixed",
        "scheduled",
        "offline",
    ]
    assert collector.post("/recycling/orders", body, 409)["code"] == "resident-code-used"
    path = f"/recycling/orders/{order['id']}"
    slip = collector.post(f"{path}/slips", {"items": [GLASS]}, 201)
    assert alice.post(f"/me{path}/confirmation", {"slip": slip["number"]})["paid"][0]["points"] == 18
    assert session.scalar(sa.select(Activity.site)) == "nk-point-01"

    # In the evening the point is closed: recorded, and not paid.
    clock.move_to(MORNING + timedelta(hours=12))
    late = {**body, "code": shown_code(base_settings.data_key, alice.id)}
    path = f"/recycling/orders/{collector.post('/recycling/orders', late, 201)['id']}"
    slip = collector.post(f"{path}/slips", {"items": [GLASS]}, 201)
    paid = alice.post(f"/me{path}/confirmation", {"slip": slip["number"]})["paid"]
    assert [(each["outcome"], each["reason"], each["points"]) for each in paid] == [("refused", "outside-hours", 0)]
    collector.post("/recycling/orders", {**late, "place": "nk-site-99"}, 404)


def test_the_van_takes_so_many_orders_and_whoever_walks_up(
    alice: Party, collector: Party, session: Session, clock: time_machine.Traveller, base_settings: Settings,
    make_resident: Callable[..., UUID], headers_of: Callable[..., dict[str, str]],
) -> None:  # fmt: skip
    others = [make_resident(COMMUNITY) for _ in range(3)]
    people = [Party(alice.client, headers_of, each, is_resident=True) for each in others]
    first = people[0].post("/me/recycling/orders", order_body("stop"), 201)
    assert [first[name] for name in ("site_kind", "timing", "channel")] == ["mobile", "scheduled", "online"]
    people[1].post("/me/recycling/orders", order_body("stop"), 201)
    assert people[2].post("/me/recycling/orders", order_body("stop"), 409)["code"] == "collection-full"
    visits = alice.get(f"/recycling/timetable?division={COMMUNITY}")["items"]
    assert [(each["day"], each["left"]) for each in visits[:2]] == [("2026-11-25", 0), ("2026-11-26", 2)]
    people[0].post(f"/me/recycling/orders/{first['id']}/cancellation", {"reason": "改天"})
    people[2].post("/me/recycling/orders", order_body("stop"), 201)
    assert session.scalar(sa.select(CollectionDay.taken)) == 2

    scan = {"way": "stop", "place": "van-1"}
    early = {**scan, "code": shown_code(base_settings.data_key, alice.id)}
    assert collector.post("/recycling/orders", early, 409)["code"] == "not-here-now"
    clock.move_to(MORNING + timedelta(hours=2))
    scan["code"] = shown_code(base_settings.data_key, alice.id)
    order = collector.post("/recycling/orders", scan, 201)
    assert [order[name] for name in ("site_kind", "timing", "channel")] == ["mobile", "scheduled", "offline"]
    assert session.scalar(sa.select(CollectionDay.taken)) == 2, "who walks up takes nobody's place"


def test_an_announced_visit_to_a_point_is_by_appointment(alice: Party) -> None:
    made = alice.post("/me/recycling/orders", order_body("point"), 201)
    assert [made[name] for name in ("site_kind", "timing", "channel")] == ["fixed", "appointment", "online"]
    assert made["place"]["code"] == "nk-point-01"


def test_what_cannot_be_ordered_is_refused(alice: Party) -> None:
    refusals: tuple[tuple[dict[str, Any], int, str], ...] = (
        ({"day": "2026-11-24"}, 409, "no-collection"),
        ({"day": "2026-12-20"}, 409, "no-collection"),
        ({"place": "van-1"}, 404, "not-found"),
        ({"materials": ["gold"]}, 422, "invalid-request"),
        ({"address": None}, 422, "invalid-request"),
        ({"way": "point", "place": "nk-point-01"}, 422, "invalid-request"),  # with an address
    )
    for changes, status, code in refusals:
        body = {name: value for name, value in {**order_body(), **changes}.items() if value is not None}
        assert alice.post("/me/recycling/orders", body, status)["code"] == code, changes


def test_whoever_has_no_home_community_chooses_it_first(alice: Party, session: Session) -> None:
    session.execute(sa.update(Resident).where(Resident.resident_id == alice.id).values(community_code=None))
    session.commit()
    assert alice.post("/me/recycling/orders", order_body(), 409)["code"] == "home-community-missing"


def test_nobody_collects_from_themself_or_unlinked(
    alice: Party, make_collector: Callable[..., Party], session: Session
) -> None:
    collector = make_collector()
    link = sa.update(StaffLink).where(StaffLink.staff_id == collector.id)
    session.execute(link.values(resident_id=alice.id, statement=None))
    session.commit()
    order = f"/recycling/orders/{alice.post('/me/recycling/orders', order_body(), 201)['id']}"
    assert collector.post(f"{order}/acceptance", status=403)["code"] == "serves-own-household"
    session.execute(sa.delete(StaffLink).where(StaffLink.staff_id == collector.id))
    session.commit()
    assert collector.post(f"{order}/acceptance", status=409)["code"] == "staff-unlinked"


# Slips


GRAMS = RecycledMaterial(code="pet", unit=Unit.GRAM, quantity_min=50, quantity_max=100_000)
PIECES = RecycledMaterial(code="second_hand_toy", unit=Unit.PIECE, quantity_min=1, quantity_max=5)


@pytest.mark.parametrize(
    ("line", "material", "wrong_fields"),
    [
        (Line("pet", 1000, 100, 900), GRAMS, []),
        (Line("pet", 1000, 100, 1000), GRAMS, ["net_g"]),  # tare forgotten
        (Line("pet", 1000, 100, 450), GRAMS, ["net_g"]),  # jin
        (Line("pet", 45, 0, 45), GRAMS, ["net_g"]),  # kilograms
        (Line("pet", 130_000, 0, 130_000), GRAMS, ["net_g"]),
        (Line("pet", 400_000, 390_000, 10_000), GRAMS, ["gross_g"]),
        (Line("pet", 1003, 100, 903), GRAMS, ["gross_g"]),
        (Line("pet", pieces=3), GRAMS, ["gross_g"]),
        (Line("pet", 1000), GRAMS, ["gross_g"]),
        (Line("second_hand_toy", pieces=5), PIECES, []),
        (Line("second_hand_toy", pieces=6), PIECES, ["pieces"]),
        (Line("second_hand_toy", 1000, 0, 1000), PIECES, ["pieces"]),
        (Line("gold", 1000, 0, 1000), None, ["material"]),
    ],
)
def test_a_line_that_cannot_be_right_is_named(
    line: Line, material: RecycledMaterial | None, wrong_fields: list[str]
) -> None:
    found = faults_of(line, material, scale_max_g=300_000, scale_step_g=5)
    assert [field for field, _ in found] == wrong_fields


def test_a_slip_is_corrected_by_another_and_the_last_one_counts(
    alice: Party, collector: Party, session: Session, clock: time_machine.Traveller
) -> None:
    order = f"/recycling/orders/{alice.post('/me/recycling/orders', order_body(), 201)['id']}"
    collector.post(f"{order}/slips", {"items": [GLASS]}, 404)  # not accepted, so not theirs
    collector.post(f"{order}/acceptance")
    bad = collector.post(f"{order}/slips", {"items": [GLASS, {**GLASS, "net_g": 2100}]}, 422)
    assert bad["errors"] == [{"pointer": "/items/1/net_g", "message": "Net is gross less tare."}]
    first = collector.post(f"{order}/slips", {"items": [GLASS]}, 201)
    assert collector.post(f"{order}/slips", {"items": [BOOKS]}, 422)["code"] == "reason-required"
    second = collector.post(
        f"{order}/slips", {"items": [{**GLASS, "tare_g": 600, "net_g": 1500}], "reason": "筐重"}, 201
    )
    refused = alice.post(f"/me{order}/confirmation", {"slip": first["number"]}, 409)
    assert (refused["code"], refused["slip"]) == ("slip-outdated", second["number"])
    assert [each["number"] for each in alice.get(f"/me{order}")["slips"]] == [first["number"], second["number"]]
    clock.shift(timedelta(hours=25))
    late = {"items": [GLASS], "reason": "又错了"}
    assert collector.post(f"{order}/slips", late, 409)["code"] == "correction-too-late"
    done = alice.post(f"/me{order}/confirmation", {"slip": second["number"]})
    assert [each["points"] for each in done["paid"]] == [13], "1,500 g: 15 points at 90 %, rounded down"


# Silence, and those who do not come


def test_silence_confirms(
    alice: Party, collector: Party, session: Session, clock: time_machine.Traveller, app: Flask
) -> None:
    order = weighed(alice, collector, clock, GLASS, {**BOOKS, "pieces": 2})
    clock.shift(timedelta(days=3, seconds=-1))
    with app.app_context():
        assert jobs.run_due() == 0
    clock.shift(1)
    with app.app_context():
        assert (jobs.run_due(), jobs.run_due()) == (1, 0)
    done = alice.get(f"/me{order}")
    assert done["moves"][-2]["party"] == "clock"
    assert sorted((each["item"], each["points"]) for each in done["paid"]) == [(1, 18), (2, 18), (2, 18)]
    assert "2026-11-25: your recycling order is settled: 54 points" in notices(alice)


def test_nobody_accepts_or_nobody_comes(
    alice: Party, collector: Party, session: Session, clock: time_machine.Traveller, app: Flask
) -> None:
    left, kept = (alice.post("/me/recycling/orders", order_body(), 201)["id"] for _ in range(2))
    collector.post(f"/recycling/orders/{kept}/acceptance")
    assert alice.post(f"/me/recycling/orders/{kept}/collector-no-show", status=409)["code"] == "not-missed-yet"
    assert collector.post(f"/recycling/orders/{kept}/resident-no-show", status=409)["code"] == "not-missed-yet"
    clock.move_to(MORNING + timedelta(hours=1))
    with app.app_context():
        jobs.run_due()
    assert alice.get(f"/me/recycling/orders/{left}")["state"] == "expired"
    assert session.scalar(sa.select(CollectionDay.taken)) == 1, "its place is free again"
    collector.post(f"/recycling/orders/{left}/acceptance", status=404)
    clock.move_to(datetime.combine(DAY + timedelta(days=2), datetime.min.time(), MORNING.tzinfo))
    with app.app_context():
        jobs.run_due()
    assert alice.get(f"/me/recycling/orders/{kept}")["state"] == "collector-missed"
    assert "2026-11-25: nobody accepted your recycling order" in notices(alice)
    assert "2026-11-25: you did not finish a recycling order" in notices(collector)


def test_a_resident_who_is_never_there_waits_with_the_next_order(
    alice: Party, collector: Party, clock: time_machine.Traveller, session: Session
) -> None:
    for day in range(3):
        clock.move_to(MORNING + timedelta(days=day))
        body = order_body(day=(DAY + timedelta(days=day)).isoformat())
        order = f"/recycling/orders/{alice.post('/me/recycling/orders', body, 201)['id']}"
        collector.post(f"{order}/acceptance")
        clock.shift(timedelta(hours=1, minutes=15))
        assert collector.post(f"{order}/resident-no-show")["state"] == "resident-missed"
    clock.shift(timedelta(days=1))
    body = order_body(day=(DAY + timedelta(days=4)).isoformat())
    assert alice.post("/me/recycling/orders", body, 409)["code"] == "missed-too-often"
    clock.shift(timedelta(days=30))
    alice.post("/me/recycling/orders", order_body(day=now().date().isoformat()), 409)  # that day's window is over
    alice.post("/me/recycling/orders", order_body(day=(now().date() + timedelta(days=1)).isoformat()), 201)


def test_whoever_comes_to_a_point_has_until_its_hours_end(
    alice: Party, collector: Party, clock: time_machine.Traveller, base_settings: Settings
) -> None:
    order = f"/recycling/orders/{alice.post('/me/recycling/orders', order_body('point'), 201)['id']}"
    collector.post(f"{order}/acceptance")
    clock.move_to(MORNING + timedelta(hours=2))
    assert collector.post(f"{order}/resident-no-show", status=409)["code"] == "not-missed-yet"
    scan = {"way": "point", "place": "nk-point-01", "code": shown_code(base_settings.data_key, alice.id)}
    walked_in = f"/recycling/orders/{collector.post('/recycling/orders', scan, 201)['id']}"
    clock.move_to(MORNING + timedelta(hours=10, minutes=15))
    assert collector.post(f"{order}/resident-no-show")["state"] == "resident-missed"
    clock.move_to(MORNING + timedelta(hours=16, minutes=16))
    assert collector.post(f"{walked_in}/resident-no-show", status=409)["code"] == "order-move-refused", (
        "they were there"
    )


def test_an_order_that_cannot_be_moved_holds_up_no_other(
    alice: Party, collector: Party, clock: time_machine.Traveller, session: Session, app: Flask
) -> None:
    stuck, well = weighed(alice, collector, clock), alice.post("/me/recycling/orders", order_body("point"), 201)["id"]
    with owner(session):  # a fault that the database refuses to settle
        fault = f"NEW.id = '{stuck.rsplit('/', 1)[1]}' AND NEW.state = 'confirmed'"
        session.execute(
            sa.text(
                "CREATE FUNCTION break_order() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;"
                f"CREATE TRIGGER zz_break BEFORE UPDATE ON recycling_order FOR EACH ROW WHEN ({fault})"
                " EXECUTE FUNCTION break_order()"
            )
        )
    session.commit()
    session.execute(
        sa.update(RecyclingOrder).where(RecyclingOrder.id == UUID(well)).values(due_at=now() + timedelta(days=4))
    )
    session.commit()
    clock.shift(timedelta(days=5))
    with app.app_context():
        assert jobs.run_due() == 1
    assert [alice.get(each)["state"] for each in (f"/me{stuck}", f"/me/recycling/orders/{well}")] == [
        "weighed",
        "expired",
    ]


def test_each_side_cancels_up_to_its_deadline(alice: Party, collector: Party, clock: time_machine.Traveller) -> None:
    tomorrow = (DAY + timedelta(days=1)).isoformat()
    first, second, third = (
        f"/recycling/orders/{alice.post('/me/recycling/orders', order_body(day=day), 201)['id']}"
        for day in (tomorrow, tomorrow, DAY.isoformat())
    )
    assert alice.post("/me/recycling/orders", order_body("stop"), 409)["code"] == "too-many-orders"
    collector.post(f"{first}/acceptance")
    early = collector.post(f"{first}/departure", status=409)["code"]
    assert early == "order-move-refused", "or who departs at once would leave the resident no time to cancel"
    handed_back = collector.post(f"{first}/hand-back", {"reason": "车坏了"})
    assert (handed_back["state"], collector.get(first)["address"]) == ("requested", None)
    collector.post(f"{first}/acceptance")
    alice.post(f"/me{first}/cancellation", {"reason": "出差"})
    collector.post(f"{second}/acceptance")
    assert collector.post(f"{second}/cancellation", {"reason": "道路封闭"})["state"] == "cancelled"
    collector.post(f"{third}/acceptance")
    assert alice.post(f"/me{third}/cancellation", {"reason": "出差"}, 409)["code"] == "cancel-too-late"
    collector.post(f"{third}/departure")
    assert alice.post(f"/me{third}/cancellation", {"reason": "出差"}, 409)["code"] == "order-move-refused"


# Disputes


def decided(session: Session, order: str, verdict: Verdict, by: UUID) -> None:
    """What the review room does with a final decision."""
    case = session.scalars(sa.select(Case).where(Case.subject_id == UUID(order.rsplit("/", 1)[1]))).one()
    settling.may_decide(session, case, by)
    settling.decide(session, case, Decision(verdict, "核对了记录", by), now())
    session.commit()


def test_a_dispute_that_is_lost_pays_the_slip_as_it_stood(
    alice: Party,
    collector: Party,
    make_collector: Callable[..., Party],
    session: Session,
    clock: time_machine.Traveller,
) -> None:
    order = weighed(alice, collector, clock, GLASS, BOOKS)
    slip = alice.get(f"/me{order}")["slips"][0]["number"]
    disputed = alice.post(f"/me{order}/dispute", {"slip": slip, "reason": "少称了"})
    assert [(each["outcome"], each["reason"]) for each in disputed["paid"]] == [("held", "weighing-disputed")] * 2
    shown = alice.get("/me/activities")["items"]
    assert {(each["outcome"], each["reason"]) for each in shown} == {("held", "weighing-disputed")}
    reviewer = make_collector(Role.COMMUNITY_STAFF, COMMUNITY)
    case = session.scalars(sa.select(Case)).one()
    assert (case.kind, case.points, case.community_code) == ("recycling-dispute", 36, COMMUNITY)
    seen = reviewer.get(f"/recycling/disputes/{order.rsplit('/', 1)[1]}")
    assert (len(seen["slips"]), "address" in seen) == (1, False)
    clock.shift(timedelta(days=12))  # long past the closing day for late records
    decided(session, order, Verdict.DENIED, reviewer.id)
    done = alice.get(f"/me{order}")
    assert (done["state"], [each["points"] for each in done["paid"]]) == ("settled", [18, 18])
    assert wrong(session) == {}


def test_a_dispute_that_is_won_pays_the_corrected_slip_and_not_the_first(
    alice: Party,
    collector: Party,
    make_collector: Callable[..., Party],
    session: Session,
    clock: time_machine.Traveller,
) -> None:
    order = weighed(alice, collector, clock)
    slip = alice.get(f"/me{order}")["slips"][0]["number"]
    alice.post(f"/me{order}/dispute", {"slip": slip, "reason": "少称了"})
    collector.post(f"{order}/slips", {"items": [GLASS], "reason": "改"}, 409)
    reviewer, stranger = make_collector(Role.COMMUNITY_STAFF, COMMUNITY), make_collector(Role.STREET, "120104002")
    dispute = order.replace("orders", "disputes")
    stranger.get(dispute, 404)
    corrected = {"items": [{**GLASS, "gross_g": 3100, "net_g": 3000}], "reason": "照片显示三公斤"}
    stranger.post(f"{dispute}/slips", corrected, 404)
    with pytest.raises(CorrectionMissing):
        decided(session, order, Verdict.GRANTED, reviewer.id)
    session.rollback()
    reviewer.post(f"{dispute}/slips", corrected, 201)
    with pytest.raises(CorrectionStands):
        decided(session, order, Verdict.DENIED, reviewer.id)
    session.rollback()
    with pytest.raises(settling.DecidesOwnWeighing):
        decided(session, order, Verdict.GRANTED, collector.id)
    session.rollback()
    decided(session, order, Verdict.GRANTED, reviewer.id)
    done = alice.get(f"/me{order}")
    assert [(each["slip_position"], each["outcome"], each["reason"], each["points"]) for each in done["paid"]] == [
        (1, "refused", "weighing-corrected", 0),
        (2, "awarded", None, 27),
    ]
    assert (done["state"], done["moves"][-1]["party"]) == ("settled", "reviewer")


def test_a_correction_that_pays_far_more_takes_two_people_and_none_of_them_the_collector(
    alice: Party,
    collector: Party,
    make_collector: Callable[..., Party],
    session: Session,
    clock: time_machine.Traveller,
) -> None:
    order = weighed(alice, collector, clock)
    slip = alice.get(f"/me{order}")["slips"][0]["number"]
    alice.post(f"/me{order}/dispute", {"slip": slip, "reason": "少称了"})
    case = session.scalars(sa.select(Case)).one()
    assert (case.points, case.two_people, case.detail) == (18, False, {"order": order.rsplit("/", 1)[1], "slip": slip})
    reviewer = make_collector(Role.COMMUNITY_STAFF, COMMUNITY)
    corrected = {"items": [{**GLASS, "gross_g": 20_100, "net_g": 20_000}], "reason": "照片显示二十公斤"}
    reviewer.post(f"{order.replace('orders', 'disputes')}/slips", corrected, 201)
    session.expire_all()
    assert (case.points, case.two_people) == (180, True)
    # The collector's second account of staff is the same person.
    mine = {"resident_id": new_id(), "statement": None}
    session.execute(sa.update(StaffLink).where(StaffLink.staff_id.in_([reviewer.id, collector.id])).values(mine))
    session.commit()
    reviewer.post(f"{order.replace('orders', 'disputes')}/slips", corrected, 403)
    with pytest.raises(settling.DecidesOwnWeighing):
        decided(session, order, Verdict.GRANTED, reviewer.id)


def test_a_won_dispute_is_paid_whenever_the_reviewers_work(
    alice: Party,
    collector: Party,
    make_collector: Callable[..., Party],
    session: Session,
    clock: time_machine.Traveller,
    base_settings: Settings,
) -> None:
    clock.move_to(MORNING + timedelta(hours=2))
    scan = {"way": "point", "place": "nk-point-01", "code": shown_code(base_settings.data_key, alice.id)}
    order = f"/recycling/orders/{collector.post('/recycling/orders', scan, 201)['id']}"
    collector.post(f"{order}/slips", {"items": [GLASS]}, 201)
    again = {"items": [GLASS], "reason": "改"}
    for _ in range(2):
        slip = collector.post(f"{order}/slips", again, 201)["number"]
    assert collector.post(f"{order}/slips", again, 409)["code"] == "too-many-slips", "some are left for the reviewer"
    alice.post(f"/me{order}/dispute", {"slip": slip, "reason": "少称了"})
    clock.move_to(MORNING + timedelta(hours=12))  # the point has closed
    reviewer = make_collector(Role.COMMUNITY_STAFF, COMMUNITY)
    corrected = {"items": [{**GLASS, "gross_g": 3100, "net_g": 3000}], "reason": "照片显示三公斤"}
    reviewer.post(f"{order.replace('orders', 'disputes')}/slips", corrected, 201)
    clock.shift(timedelta(days=9))  # the second of two people decides past the closing day for late records
    decided(session, order, Verdict.GRANTED, reviewer.id)
    paid = [each for each in alice.get(f"/me{order}")["paid"] if each["slip_position"] == 4]
    assert [(each["outcome"], each["reason"], each["points"]) for each in paid] == [("awarded", None, 27)]
    assert wrong(session) == {}


# The database is the last guard


REFUSED_BY_THE_TABLES = (
    "UPDATE recycling_order SET state = 'settled', ended_at = now(), due_at = NULL",
    "UPDATE recycling_order SET state = 'confirmed', moves = moves + 1",
    "UPDATE recycling_order SET community_code = '120104001003'",
    "UPDATE recycling_order SET collector_id = (SELECT id FROM staff WHERE id <> collector_id LIMIT 1)",
    "UPDATE recycling_order SET slips = slips + 1",
    "UPDATE recycling_order SET address_sealed = '\\x00'",
    "DELETE FROM recycling_order",
    "TRUNCATE recycling_order, recycling_move, weighing_slip, weighing_item",
    "UPDATE weighing_slip SET sha256 = sha256",
    "DELETE FROM weighing_item",
    "UPDATE weighing_item SET net_g = net_g",
    "UPDATE recycling_move SET reason = 'x'",
    "INSERT INTO weighing_item SELECT resident_id, order_id, slip_position, 2, edition_id, material, unit, gross_g,"
    " tare_g, net_g, pieces FROM weighing_item",
    "INSERT INTO weighing_slip SELECT resident_id, order_id, 3, '20261125-00000000', NULL, 'x', 0, made_by, made_at"
    ", sha256 FROM weighing_slip",
    "INSERT INTO recycling_move SELECT resident_id, order_id, 9, 'settle', 'weighed', 'settled', 'clock', NULL, '',"
    " now() FROM recycling_move LIMIT 1",
    "UPDATE recycled_material SET quantity_max = quantity_max",
    "INSERT INTO recycled_material SELECT edition_id, 'more', 99, stream, sub_class, title_zh, title_en, hint_zh,"
    " hint_en, unit, mode, factor, quantity_min, quantity_max FROM recycled_material LIMIT 1",
    "UPDATE collection_day SET taken = capacity + 1",
    "DELETE FROM collection_plan WHERE code = 'van-1'",
)


def test_the_tables_refuse_what_no_rule_would_do(
    alice: Party,
    collector: Party,
    make_collector: Callable[..., Party],
    session: Session,
    clock: time_machine.Traveller,
) -> None:
    make_collector()
    weighed(alice, collector, clock)
    with owner(session):
        for statement in REFUSED_BY_THE_TABLES:
            with pytest.raises(DBAPIError) as refusal, session.begin_nested():
                session.execute(sa.text(statement))
            # A violated constraint or a trigger's refusal, and no slip of the pen in the statement.
            assert refusal.value.orig.sqlstate[:2] == "23", (statement, refusal.value)  # type: ignore[union-attr]


# The catalogue and the timetable


def test_everything_in_the_catalogue_is_paid_by_the_rules_and_says_what_it_saves(session: Session, place: None) -> None:
    catalogue = materials.catalogue_on(session, DAY)
    tariff = pricing.read(session).on(DAY)
    assert tariff is not None
    rates = {row.code: tariff.rates[("recycling", row.mode, "staff-confirmed")] for row in catalogue.materials}
    for row in catalogue.materials:
        rate = rates[row.code]
        if row.unit is Unit.GRAM:
            assert rate.points_per_kg > 0, row.code
            assert rate.quantity_min <= row.quantity_min <= row.quantity_max <= rate.quantity_max, row.code
        else:
            assert (rate.points_per_act > 0, rate.quantity_min) == (True, 0), row.code
        assert (row.factor is not None) == (rate.saved_ug_per_unit > 0), row.code
    assert {row.category.value for row in catalogue.subclasses} == {"recyclable", "hazardous", "kitchen", "residual"}
    assert {row.stream.value for row in catalogue.materials} == {"recycling", "second-hand", "courier-packaging"}


def test_a_catalogue_is_loaded_once_and_never_changed(session: Session, place: None) -> None:
    text = (FOLDER / "catalogue-2026.toml").read_text("utf-8")
    assert materials.load(session, [materials.parse("a", text)], now=now()) == []
    with pytest.raises(CatalogueError, match="other content"):
        materials.load(session, [materials.parse("a", text.replace("confirm_days = 3", "confirm_days = 2"))], now=now())
    for before, after in (
        ('unit = "piece"', 'unit = "jin"'),
        ("confirm_days = 3", "confirm_days = 9"),
        ('factor = "copper"', 'factor = "glass"'),
        ('code = "newspaper"', 'code = "corrugated"'),
        ('sub_class = "glass"', 'sub_class = "gold"'),
        ("quantity_max = 5\n", "quantity_max = 500\n"),
        ('category = "residual"', 'category = "kitchen"'),
    ):
        assert before in text
        with pytest.raises(CatalogueError):
            materials.parse("b", text.replace(before, after))


def test_staff_keep_the_timetable_of_their_own_place(
    alice: Party, make_collector: Callable[..., Party], session: Session
) -> None:
    street, elsewhere = make_collector(Role.STREET, STREET), make_collector(Role.STREET, "120104002")
    body = {**STOP, "code": "van-2", "valid_from": "2026-01-01", "weekdays": [], "days": ["2026-11-28"]}
    elsewhere.post("/recycling/plans", body, 404)
    assert street.post("/recycling/plans", {**body, "ends_minute": 500}, 422)["code"] == "collection-plan-refused"
    street.post("/recycling/plans", body, 201)
    assert street.post("/recycling/plans", body, 409)["code"] == "collection-plan-code-taken"
    elsewhere.get("/recycling/plans/van-2", 404)
    assert [each["code"] for each in street.get("/recycling/plans?kind=stop")["items"]] == ["van-1", "van-2"]
    edit = {"closed_days": ["2026-11-28"]}
    street.send("PATCH", "/recycling/plans/van-2", edit, 428)
    assert street.send("PATCH", "/recycling/plans/van-2", edit, If_Match='"1"')["version"] == 2
    street.send("PATCH", "/recycling/plans/van-2", edit, 412, If_Match='"1"')
    shown = alice.get("/recycling/timetable?days=7")["items"]
    assert {each["code"] for each in shown} == {"van-1"}, "its one day is closed"


@pytest.mark.parametrize(
    ("changes", "day", "comes"),
    [
        ({}, date(2026, 11, 25), True),
        ({"weekdays": [1]}, date(2026, 11, 25), False),
        ({"weekdays": [], "days": [date(2026, 11, 25)]}, date(2026, 11, 25), True),
        ({"closed_days": [date(2026, 11, 25)]}, date(2026, 11, 25), False),
        ({"valid_to": date(2026, 11, 24)}, date(2026, 11, 25), False),
        ({"valid_from": date(2026, 11, 26)}, date(2026, 11, 25), False),
    ],
)
def test_a_plan_comes_by_weekday_or_date_within_its_days(changes: dict[str, Any], day: date, comes: bool) -> None:
    known: dict[str, Any] = {**HOME, "days": [], "closed_days": [], "valid_to": None, **changes}
    assert timetable.comes_on(SimpleNamespace(**known), day) is comes  # type: ignore[arg-type]


def test_the_districts_own_data_can_be_read() -> None:
    plans = timetable.read_timetable(FOLDER / "collection-demonstration.toml")
    assert {each["kind"] for each in plans} == set(PlanKind)
    assert all(each["demonstration"] for each in plans), "invented, and says so"
    factors = tomllib.loads((methods.METHODS_DATA / "warm-v16.toml").read_text("utf-8"))["factors"]
    named = {row["factor"] for row in materials.read_folder(FOLDER)[0].materials if row["factor"]}
    assert named <= {each["key"] for each in factors}


def test_a_timetable_that_cannot_be_loaded_says_which_plan_and_why(session: Session, tmp_path: Path) -> None:
    text = (FOLDER / "collection-demonstration.toml").read_text("utf-8")
    first = timetable.read_timetable(FOLDER / "collection-demonstration.toml")[0]
    path = tmp_path / "collection-timetable.toml"

    def refusal(before: str, after: str) -> str:
        path.write_text(text.replace(before, after, 1), "utf-8")
        with pytest.raises(TimetableError) as raised, session.begin_nested():
            timetable.load_timetable(session, timetable.read_timetable(path), now=now())
        return str(raised.value)

    division, code = first["division"], first["code"]
    unknown = division[:-3] + "099"
    told = refusal(f'"{division}"', f'"{unknown}"')
    assert told == f"collection-timetable.toml, plan 1 ({code}): there is no division {unknown}"
    assert refusal(f'code = "{code}"', 'code = "Not a code"').startswith("collection-timetable.toml, plan 1: a code is")
    assert refusal(f'code = "{code}"', "").startswith("collection-timetable.toml, plan 1: lacks 'code'")


# Races: two real connections, the first transaction held open


@dataclass
class Apart:
    """A database of its own with two residents, two collectors, a clerk, and the district of these tests."""

    app: Flask
    url: str
    alice: Actor
    first: Actor
    second: Actor
    bob: UUID
    clerk: Actor

    @contextmanager
    def session(self) -> Iterator[Session]:
        with self.app.app_context(), Session(db.engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    def order(self, *, accepted: bool = False, weighed: bool = False) -> UUID:
        with self.session() as session:
            wish = Wish(Way.HOME, "home-roomy", DAY + timedelta(days=1), (), Doorstep("某处", ""))
            order = orders.request(session, self.alice, wish, data_key=DATA_KEY, now=MORNING)
            if accepted or weighed:
                orders.accept(session, self.first, order.id, now=MORNING)
            if weighed:
                at = MORNING + timedelta(days=1, hours=2)
                weighing.weigh(session, self.first, order.id, [Line(**GLASS)], scale=None, reason="", now=at)
            return order.id

    def outcome(self, work: Callable[[Session], Any]) -> str:
        try:
            with self.session() as session:
                work(session)
        except DomainError as error:
            return error.code
        return "done"

    def second_waits(self, first: Callable[[Session], Any], second: Callable[[Session], Any]) -> str:
        """Hold the first open until the second waits for it, then let it commit; what becomes of the second."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        with ThreadPoolExecutor(1) as pool:
            with self.session() as session:
                first(session)
                later = pool.submit(self.outcome, second)
                with psycopg.connect(self.url, autocommit=True) as watcher:
                    for _ in range(2000):
                        if watcher.execute(query).fetchone()[0]:  # type: ignore[index]
                            break
                        watcher.execute("SELECT pg_sleep(0.005)")
                    else:
                        raise AssertionError("nobody came to wait")
            return later.result(20)


@pytest.fixture(scope="module")
def apart(base_settings: Settings, make_database: Callable[[], str]) -> Iterator[Apart]:
    url = make_database()
    app = create_app(replace(base_settings, database_url=url, database_owner_url=url))

    def member(session: Session, role: Role = Role.COLLECTOR) -> Actor:
        staff = Staff(id=new_id(), name=new_id().hex, password_hash="x", role=role, division=STREET, created_at=MORNING)
        session.add(staff)
        session.flush()
        session.add(StaffLink(staff_id=staff.id, statement="没有", made_at=MORNING))
        return Actor(staff.id, role, new_id(), division=STREET)

    with app.app_context(), Session(db.engine) as session:
        district(session)
        plan(session, {**HOME, "code": "home-last", "capacity": 1})
        plan(session, {**HOME, "code": "home-phone", "capacity": 1})
        plan(session, {**HOME, "code": "home-roomy", "capacity": 50})
        made = Resident(resident_id=new_id(), community_code=COMMUNITY, created_at=MORNING)
        session.add(made)
        alice = Actor(made.resident_id, Role.RESIDENT, new_id())
        bob = new_id()
        session.add(Resident(resident_id=bob, community_code=COMMUNITY, created_at=MORNING))
        first, second, clerk = member(session), member(session), member(session, Role.STREET)
        session.commit()
    yield Apart(app, url, alice, first, second, bob, clerk)
    app.extensions["tanpuhui_wechat"].close()
    with app.app_context():
        db.engine.dispose()


def test_an_order_is_cancelled_or_accepted_and_never_both(apart: Apart) -> None:
    for_cancel, for_accept = apart.order(), apart.order()

    def cancel(order_id: UUID) -> Callable[[Session], Any]:
        return lambda session: orders.cancel(session, apart.alice, order_id, reason="改天", now=MORNING)

    def accept(order_id: UUID, who: Actor) -> Callable[[Session], Any]:
        return lambda session: orders.accept(session, who, order_id, now=MORNING)

    assert apart.second_waits(cancel(for_cancel), accept(for_cancel, apart.first)) == "not-found"
    # Who cancels a moment after the acceptance has still done it in time: the collector is told.
    assert apart.second_waits(accept(for_accept, apart.first), cancel(for_accept)) == "done"
    contested = apart.order()
    assert apart.second_waits(accept(contested, apart.first), accept(contested, apart.second)) == "not-found"
    with apart.session() as session:
        stands = sa.select(RecyclingOrder.state, RecyclingOrder.collector_id).where(RecyclingOrder.id == contested)
        assert session.execute(stands).one() == ("accepted", apart.first.id)
        orders.cancel(session, apart.alice, contested, reason="完", now=MORNING)


def test_a_slip_is_confirmed_or_disputed_and_paid_once(apart: Apart) -> None:
    one, two = apart.order(weighed=True), apart.order(weighed=True)
    at = MORNING + timedelta(days=1, hours=3)

    def number(order_id: UUID) -> str:
        with apart.session() as session:
            return str(
                session.scalar(sa.text("SELECT number FROM weighing_slip WHERE order_id = :id"), {"id": order_id})
            )

    def confirm(order_id: UUID, slip: str) -> Callable[[Session], Any]:
        return lambda session: settling.confirm(session, apart.alice, order_id, slip=slip, now=at)

    def dispute(order_id: UUID, slip: str) -> Callable[[Session], Any]:
        return lambda session: settling.dispute(session, apart.alice, order_id, slip=slip, reason="少", now=at)

    slip = number(one)
    assert apart.second_waits(confirm(one, slip), dispute(one, slip)) == "order-move-refused"
    slip = number(two)
    assert apart.second_waits(dispute(two, slip), confirm(two, slip)) == "order-move-refused"
    with apart.session() as session:
        outcomes = session.execute(sa.select(Activity.outcome, sa.func.count()).group_by(Activity.outcome)).all()
    assert sorted(outcomes) == [("awarded", 1), ("held", 1)]


def test_the_last_place_goes_once(apart: Apart) -> None:
    with apart.session() as session:
        plan_ = timetable.plan_of(session, "home-last", PlanKind.HOME)

    def take(session: Session) -> None:
        timetable.take_place(session, plan_, DAY)

    assert apart.second_waits(take, take) == "collection-full"


def test_the_last_place_goes_once_by_telephone_or_by_app(apart: Apart) -> None:
    def taken(day: date) -> int | None:
        with apart.session() as session:
            code = timetable.plan_of(session, "home-phone", PlanKind.HOME).id
            return session.scalar(
                sa.select(CollectionDay.taken).where(CollectionDay.plan_id == code, CollectionDay.day == day)
            )

    for ahead, telephone_first in ((1, True), (2, False)):
        day = DAY + timedelta(days=ahead)
        wish = Wish(Way.HOME, "home-phone", day, (), Doorstep("某处", ""))

        def by_app(session: Session, wish: Wish = wish) -> Any:
            return orders.request(session, apart.alice, wish, data_key=DATA_KEY, now=MORNING)

        def by_telephone(session: Session, wish: Wish = wish) -> Any:
            return booking.book(session, apart.clerk, apart.bob, wish, data_key=DATA_KEY, now=MORNING)

        both = (by_telephone, by_app) if telephone_first else (by_app, by_telephone)
        assert apart.second_waits(*both) == "collection-full"
        assert taken(day) == 1


def test_a_resident_has_as_many_open_orders_by_telephone_and_by_app_together(apart: Apart) -> None:
    wish = Wish(Way.HOME, "home-roomy", DAY + timedelta(days=1), (), Doorstep("某处", ""))
    with apart.session() as session:
        person = Resident(resident_id=new_id(), community_code=COMMUNITY, created_at=MORNING)
        session.add(person)
        session.flush()
        carol = Actor(person.resident_id, Role.RESIDENT, new_id())
        for _ in range(2):
            orders.request(session, carol, wish, data_key=DATA_KEY, now=MORNING)

    def by_app(session: Session) -> Any:
        return orders.request(session, carol, wish, data_key=DATA_KEY, now=MORNING)

    def by_telephone(session: Session) -> Any:
        return booking.book(session, apart.clerk, carol.id, wish, data_key=DATA_KEY, now=MORNING)

    assert apart.second_waits(by_telephone, by_app) == "too-many-orders"
