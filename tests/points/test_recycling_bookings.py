"""Recycling booked by telephone: by staff for residents of their place, up to a dispute, and never for their own."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from points_builders import balances, wrong
from recycling_builders import COMMUNITY, DAY, GLASS, MORNING, STREET, Party, district, linked, order_body, shown_code
from sqlalchemy.orm import Session

from points.review import editions
from points.review.models import Case
from points.waste.orders import jobs
from points.waste.orders.models import CollectionDay, RecyclingMove, RecyclingOrder
from server.access import Role
from server.audit import AuditEntry
from server.clock import now
from server.idempotency import IdempotencyRecord
from server.notices.models import Notice
from server.people.models import StaffLink, WechatIdentity
from server.settings import PLACES_DATA, Settings

Maker = Callable[..., Party]


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(MORNING, tick=False) as traveller:
        yield traveller


@pytest.fixture
def place(clock: time_machine.Traveller, session: Session) -> None:
    district(session)
    editions.load(session, editions.read_folder(PLACES_DATA / "nankai"))
    session.commit()


@pytest.fixture
def make_party(
    place: None,
    client: FlaskClient,
    session: Session,
    make_staff: Callable[..., UUID],
    headers_of: Callable[..., dict[str, str]],
) -> Maker:
    def make(role: Role = Role.COMMUNITY_STAFF, division: str = COMMUNITY) -> Party:
        return Party(client, headers_of, linked(session, make_staff(role, division=division)))

    return make


@pytest.fixture
def staff(make_party: Maker) -> Party:
    return make_party()


@pytest.fixture
def collector(make_party: Maker) -> Party:
    return make_party(Role.COLLECTOR, STREET)


@pytest.fixture
def grandmother(
    place: None, client: FlaskClient, make_resident: Callable[..., UUID], headers_of: Callable[..., dict[str, str]]
) -> Party:
    """Who has no phone; the sign-in is the test's, to see what she would see."""
    return Party(client, headers_of, make_resident(COMMUNITY), is_resident=True)


@pytest.fixture
def caller(
    grandmother: Party, session: Session, make_resident: Callable[..., UUID], headers_of: Callable[..., dict[str, str]]
) -> Party:
    """Who has a phone and telephones with it."""
    person = make_resident(COMMUNITY)
    identity = {"appid": "wx", "openid": person.hex, "resident_id": person, "created_at": now()}
    session.add(WechatIdentity(**identity, session_key_sealed=b"-"))
    session.commit()
    return Party(grandmother.client, headers_of, person, is_resident=True)


def of(person: Party, order_id: Any = None, path: str = "") -> str:
    orders = f"/residents/{person.id}/recycling/orders"
    return orders if order_id is None else f"{orders}/{order_id}{path}"


def notices(party: Party) -> list[str]:
    return [each["title_en"] for each in party.get("/me/notices")["items"]]


def test_a_call_at_home_is_booked_for_somebody_without_a_phone_and_silence_pays_it(
    grandmother: Party,
    staff: Party,
    collector: Party,
    session: Session,
    clock: time_machine.Traveller,
    app: Flask,
) -> None:
    made = staff.send("POST", of(grandmother), order_body(), 201, Idempotency_Key="booked-once")
    again = staff.send("POST", of(grandmother), order_body(), 201, Idempotency_Key="booked-once")
    assert (again["id"], made["channel"], made["timing"]) == (made["id"], "offline", "appointment")
    seen = staff.get(of(grandmother, made["id"]))
    assert "A7Q9" not in json.dumps([made, seen, staff.get(of(grandmother))]), "staff need not read it back"
    stored = session.scalars(sa.select(IdempotencyRecord.answer_body)).all()
    assert stored, "the answer is kept"
    assert not [each for each in stored if b"A7Q9" in each]
    assert b"A7Q9" not in session.scalars(sa.select(RecyclingOrder.address_sealed)).one()  # type: ignore[operator]

    order = f"/recycling/orders/{made['id']}"
    assert "A7Q9" not in json.dumps(collector.get(order))
    collector.post(f"{order}/acceptance")
    assert collector.get(order)["address"] == "某小区1号楼 A7Q9"
    clock.move_to(MORNING + timedelta(hours=2))
    slip = collector.post(f"{order}/slips", {"items": [GLASS]}, 201)
    assert staff.get(of(grandmother, made["id"]))["slips"] == [slip], "to read out on the telephone"
    assert [each.split(":")[1].strip() for each in notices(staff)] == ["booked by you", "booked by you"]
    assert slip["number"] in notices(staff)[0], "and rings her up"

    clock.shift(timedelta(days=3))
    with app.app_context():
        assert jobs.run_due() == 1
    assert sum(balances(session, grandmother.id)[0].values()) == 18
    assert len(notices(staff)) == 2, "what she earned is hers"
    assert wrong(session) == {}
    acts = session.scalars(
        sa.select(AuditEntry.act).where(AuditEntry.subject == f"recycling-order:{made['id']}").order_by(AuditEntry.id)
    ).all()
    assert acts == ["recycling.book", "recycling.accept", "recycling.weigh"]


def test_whoever_telephones_is_told_and_can_cancel_and_staff_see_only_what_was_booked(
    caller: Party, staff: Party, collector: Party, session: Session, base_settings: Settings
) -> None:
    own = caller.post("/me/recycling/orders", order_body("stop"), 201)["id"]
    code = shown_code(base_settings.data_key, caller.id)
    scanned = collector.post("/recycling/orders", {"way": "point", "place": "nk-point-01", "code": code}, 201)["id"]
    booked = staff.post(of(caller), order_body("stop"), 201)["id"]
    assert [each["id"] for each in staff.get(of(caller))["items"]] == [booked]
    staff.get(of(caller, own), 404)
    staff.get(of(caller, scanned), 404)
    staff.post(of(caller, own, "/cancellation"), {"reason": "改天"}, 404)
    told = "2026-11-25: community staff booked a collection for you; you can cancel it"
    assert (notices(caller), notices(staff)) == ([told], [])
    assert session.scalar(sa.select(CollectionDay.taken)) == 2
    assert {each["id"] for each in caller.get("/me/recycling/orders")["items"]} == {own, scanned, booked}
    collector.post(f"/recycling/orders/{booked}/acceptance")
    accepted = "2026-11-25: your recycling order was accepted"
    assert (notices(caller), notices(staff)) == ([accepted, told], []), "who has a phone is rung up by nobody"
    caller.post(f"/me/recycling/orders/{booked}/cancellation", {"reason": "不是我约的"})
    assert session.scalar(sa.select(CollectionDay.taken)) == 1, "its place is free again"
    third = staff.post(of(caller), order_body("stop"), 201)["id"]
    assert staff.post(of(caller, third, "/cancellation"), {"reason": "来电取消"})["state"] == "cancelled"
    assert "2026-11-25: community staff cancelled your recycling order for you" in notices(caller)
    move = sa.select(RecyclingMove.party, RecyclingMove.moved_by).where(RecyclingMove.order_id == UUID(third))
    assert session.execute(move).one() == ("resident", staff.id)


def test_the_limits_are_the_residents_own(caller: Party, staff: Party, collector: Party) -> None:
    tomorrow = (DAY + timedelta(days=1)).isoformat()
    for day in (DAY.isoformat(), tomorrow):
        caller.post("/me/recycling/orders", order_body(day=day), 201)
    staff.post(of(caller), order_body("stop"), 201)
    assert staff.post(of(caller), order_body(day=tomorrow), 409)["code"] == "too-many-orders"
    assert caller.post("/me/recycling/orders", order_body("stop"), 409)["code"] == "too-many-orders"
    for body, status, code in (
        (order_body("point"), 422, "invalid-request"),
        (order_body("stop", address="某小区1号楼"), 422, "invalid-request"),
        (order_body("stop", day="2026-12-20"), 409, "no-collection"),
        (order_body("stop", place="van-9"), 404, "not-found"),
    ):
        assert staff.post(of(caller), body, status)["code"] == code, body


def test_a_booked_place_is_kept_and_a_resident_who_did_not_come_is_missed(
    grandmother: Party, staff: Party, collector: Party, clock: time_machine.Traveller, session: Session, app: Flask
) -> None:
    """Who walked up was there, and is never missed; whoever booked may be."""
    left = staff.post(of(grandmother), order_body("stop"), 201)["id"]
    kept = staff.post(of(grandmother), order_body("stop"), 201)["id"]
    collector.post(f"/recycling/orders/{kept}/acceptance")
    clock.move_to(MORNING + timedelta(hours=3, minutes=15))
    with app.app_context():
        jobs.run_due()
    assert staff.get(of(grandmother, left))["state"] == "expired"
    assert session.scalar(sa.select(CollectionDay.taken)) == 1
    assert "2026-11-25: booked by you: nobody accepted your recycling order" in notices(staff)
    assert collector.post(f"/recycling/orders/{kept}/resident-no-show")["state"] == "resident-missed"


def test_who_walked_up_and_is_sent_away_gives_nobodys_place_back(
    grandmother: Party,
    staff: Party,
    collector: Party,
    clock: time_machine.Traveller,
    session: Session,
    base_settings: Settings,
) -> None:
    staff.post(of(grandmother), order_body("stop"), 201)
    clock.move_to(MORNING + timedelta(hours=2))
    code = shown_code(base_settings.data_key, grandmother.id)
    walked_up = collector.post("/recycling/orders", {"way": "stop", "place": "van-1", "code": code}, 201)["id"]
    collector.post(f"/recycling/orders/{walked_up}/cancellation", {"reason": "车满了"})
    assert session.scalar(sa.select(CollectionDay.taken)) == 1
    seen = {each["id"]: each["state"] for each in staff.get(of(grandmother))["items"]}
    assert seen[walked_up] == "cancelled", "of a person without a phone staff see every order"


def test_staff_say_that_nobody_came(
    grandmother: Party, staff: Party, collector: Party, clock: time_machine.Traveller
) -> None:
    booked = staff.post(of(grandmother), order_body(), 201)["id"]
    collector.post(f"/recycling/orders/{booked}/acceptance")
    assert staff.post(of(grandmother, booked, "/collector-no-show"), status=409)["code"] == "not-missed-yet"
    clock.move_to(MORNING + timedelta(hours=4))
    assert staff.post(of(grandmother, booked, "/collector-no-show"))["state"] == "collector-missed"
    assert "2026-11-25: a resident says that you did not come" in notices(collector)


def linked_to(session: Session, resident_id: UUID, *staff: Party) -> None:
    """Make accounts of staff those of one resident."""
    made = {"resident_id": resident_id, "statement": None}
    session.execute(sa.update(StaffLink).where(StaffLink.staff_id.in_([each.id for each in staff])).values(made))
    session.commit()


def walked_in(grandmother: Party, collector: Party, clock: time_machine.Traveller, key: bytes, **line: Any) -> Any:
    """An order at the point, by her card, which nobody booked; and what a dispute of its slip says."""
    clock.move_to(MORNING + timedelta(hours=2))
    scan = {"way": "point", "place": "nk-point-01", "code": shown_code(key, grandmother.id)}
    order = collector.post("/recycling/orders", scan, 201)["id"]
    slip = collector.post(f"/recycling/orders/{order}/slips", {"items": [{**GLASS, **line}]}, 201)["number"]
    return order, {"slip": slip, "reason": "少称了"}


HEAVY = {"gross_g": 15_000, "net_g": 14_900}  # 134 points, which two people decide


def case_of(session: Session, order_id: str) -> str:
    return f"/review/cases/{session.scalars(sa.select(Case.id).where(Case.subject_id == UUID(order_id))).one()}"


def decided(party: Party, case: str, status: int = 200) -> Any:
    """The state of the case, or the code of what was refused."""
    answer = party.post(f"{case}/decision", {"verdict": "denied", "reason": "核对了记录"}, status)
    return answer["state"] if status == 200 else answer["code"]


def test_a_weighing_is_disputed_through_staff_and_decided_by_a_colleague(
    grandmother: Party,
    staff: Party,
    collector: Party,
    make_party: Maker,
    session: Session,
    clock: time_machine.Traveller,
    base_settings: Settings,
) -> None:
    """Also what she brought to the point by her card, which nobody booked."""
    order, said = walked_in(grandmother, collector, clock, base_settings.data_key)
    wrong_slip = {**said, "slip": "20261125-00000000"}
    assert staff.post(of(grandmother, order, "/dispute"), wrong_slip, 409)["code"] == "slip-outdated"
    assert staff.post(of(grandmother, order, "/dispute"), said)["state"] == "disputed"
    assert "2026-11-25: a resident disputes your weighing slip" in notices(collector)
    assert notices(staff) == [], "they know it"

    case, dispute = case_of(session, order), f"/recycling/disputes/{order}/slips"
    # A second account of the same person is the same person.
    same, reviewer = make_party(), make_party()
    linked_to(session, UUID(int=1), staff, same)
    for party in (staff, same):
        corrected = {"items": [GLASS], "reason": "照片"}
        assert party.post(dispute, corrected, 403)["code"] == "decides-own-dispute"
        assert party.post(f"{case}/assignment", status=403)["code"] == "decides-own-dispute", "nor keeps it from others"
        assert decided(party, case, 403) == "decides-own-dispute"
    assert decided(reviewer, case) == "decided"
    assert staff.get(of(grandmother, order))["state"] == "settled"
    assert sum(balances(session, grandmother.id)[0].values()) == 18
    assert notices(staff) == ["2026-11-25: entered by you: the disputed weighing was decided: the slip was upheld"]


def test_the_outcome_is_the_residents_alone_once_they_have_a_phone(
    grandmother: Party,
    staff: Party,
    collector: Party,
    make_party: Maker,
    session: Session,
    clock: time_machine.Traveller,
    base_settings: Settings,
) -> None:
    """Of what nobody booked, staff then see nothing more."""
    order, said = walked_in(grandmother, collector, clock, base_settings.data_key)
    staff.post(of(grandmother, order, "/dispute"), said)
    identity = {"appid": "wx", "openid": "hers", "resident_id": grandmother.id, "created_at": now()}
    session.add(WechatIdentity(**identity, session_key_sealed=b"-"))
    session.commit()
    staff.get(of(grandmother, order), 404)
    assert decided(make_party(), case_of(session, order)) == "decided"
    assert notices(staff) == []
    assert "Disputed weighing: the slip was upheld" in notices(grandmother)


def test_whoever_disputed_or_weighed_is_neither_of_the_two_people_who_decide(
    grandmother: Party,
    staff: Party,
    collector: Party,
    make_party: Maker,
    session: Session,
    clock: time_machine.Traveller,
    base_settings: Settings,
) -> None:
    order, said = walked_in(grandmother, collector, clock, base_settings.data_key, **HEAVY)
    staff.post(of(grandmother, order, "/dispute"), said)
    case, weigher, one, other = case_of(session, order), make_party(), make_party(), make_party()
    linked_to(session, UUID(int=1), collector, weigher)

    def refused() -> list[str]:
        takes = [party.post(f"{case}/assignment", status=403)["code"] for party in (staff, weigher)]
        return takes + [decided(party, case, 403) for party in (staff, weigher)]

    assert refused() == ["decides-own-dispute", "decides-own-weighing"] * 2
    assert decided(one, case) == "proposed"
    assert refused() == ["decides-own-dispute", "decides-own-weighing"] * 2
    assert decided(other, case) == "decided", "whoever is second is not kept from it by what another tried"


def test_the_dispute_of_ones_own_household_is_not_read(
    grandmother: Party,
    collector: Party,
    make_party: Maker,
    session: Session,
    clock: time_machine.Traveller,
    base_settings: Settings,
) -> None:
    order, said = walked_in(grandmother, collector, clock, base_settings.data_key)
    grandmother.post(f"/me/recycling/orders/{order}/dispute", said)
    own, colleague = make_party(), make_party()
    linked_to(session, grandmother.id, own)
    for party, status in ((own, 404), (colleague, 200)):
        party.get(case_of(session, order), status)
        party.get(f"/recycling/disputes/{order}", status)
    colleague.post(f"{case_of(session, order)}/assignment")
    for party, status in ((own, 404), (colleague, 200)):
        party.send("DELETE", f"{case_of(session, order)}/assignment", status=status)


MAY_NO_LONGER_KNOW = {
    "disabled": "UPDATE staff SET enabled = false WHERE id = :staff",
    "another role": "UPDATE staff SET role = 'supervisor' WHERE id = :staff",
    "another community": "UPDATE staff SET division = '120104001003' WHERE id = :staff",
    "a resident who moved": "UPDATE resident SET community_code = '120104001003' WHERE resident_id = :resident",
    "moved in": "UPDATE staff_link SET resident_id = :resident, statement = NULL WHERE staff_id = :staff",
    "no longer linked": "DELETE FROM staff_link WHERE staff_id = :staff",
}


@pytest.mark.parametrize("change", [None, *MAY_NO_LONGER_KNOW])
def test_whoever_booked_is_told_while_they_may_know(
    grandmother: Party, staff: Party, collector: Party, session: Session, change: str | None
) -> None:
    order = staff.post(of(grandmother), order_body(), 201)["id"]
    if change is not None:
        session.execute(sa.text(MAY_NO_LONGER_KNOW[change]), {"staff": staff.id, "resident": grandmother.id})
        session.commit()
    collector.post(f"/recycling/orders/{order}/acceptance")
    told = session.scalars(sa.select(Notice.title_en).where(Notice.person_id == staff.id)).all()
    assert told == (["2026-11-25: booked by you: your recycling order was accepted"] if change is None else [])


def test_whoever_booked_is_told_what_a_colleague_did(
    grandmother: Party,
    staff: Party,
    collector: Party,
    make_party: Maker,
    session: Session,
    clock: time_machine.Traveller,
) -> None:
    colleague, reviewer = make_party(), make_party()
    own, cancelled = (staff.post(of(grandmother), order_body("stop"), 201)["id"] for _ in range(2))
    staff.post(of(grandmother, own, "/cancellation"), {"reason": "来电取消"})
    assert notices(staff) == [], "they know what they did"
    colleague.post(of(grandmother, cancelled, "/cancellation"), {"reason": "来电取消"})
    missed, disputed = (staff.post(of(grandmother), order_body(), 201)["id"] for _ in range(2))
    for order in (missed, disputed):
        collector.post(f"/recycling/orders/{order}/acceptance")
    clock.move_to(MORNING + timedelta(hours=4))
    slip = collector.post(f"/recycling/orders/{disputed}/slips", {"items": [GLASS]}, 201)["number"]
    colleague.post(of(grandmother, missed, "/collector-no-show"))
    colleague.post(of(grandmother, disputed, "/dispute"), {"slip": slip, "reason": "少称了"})
    assert decided(reviewer, case_of(session, disputed)) == "decided"
    told = [each.split(": ", 2)[1:] for each in reversed(notices(staff))]
    assert [what for _, what in told if "accepted" not in what and "please confirm" not in what] == [
        "a colleague cancelled it for the resident",
        "a colleague reported for the resident that nobody came",
        "a colleague disputed the weighing slip for the resident",
        "the disputed weighing was decided: the slip was upheld",
    ]
    assert {whose for whose, _ in told} == {"booked by you"}
    assert notices(colleague) == ["2026-11-25: entered by you: the disputed weighing was decided: the slip was upheld"]


def test_nobody_books_for_their_own_household_outside_their_scope_or_collects_what_they_booked(
    grandmother: Party,
    staff: Party,
    make_party: Maker,
    make_resident: Callable[..., UUID],
    session: Session,
) -> None:
    own, elsewhere, street = make_party(), make_party(division="120104001003"), make_party(Role.STREET, STREET)
    linked_to(session, grandmother.id, own)
    booked = street.post(of(grandmother), order_body(), 201)["id"]
    for party, status, code in ((own, 403, "serves-own-household"), (elsewhere, 404, "not-found")):
        assert party.post(of(grandmother), order_body(), status)["code"] == code
        assert party.get(of(grandmother), status)["code"] == code
        assert party.post(of(grandmother, booked, "/cancellation"), {"reason": "改"}, status)["code"] == code
    stranger = Party(staff.client, staff.sign_in, make_resident(COMMUNITY), is_resident=True)
    staff.get(of(stranger, booked), 404)
    make_party(Role.COLLECTOR, STREET).post(of(grandmother), order_body(), 403)
    make_party(Role.DISTRICT, "120104").post(of(grandmother), order_body(), 403)

    # The collector is the same person as whoever booked.
    collector = make_party(Role.COLLECTOR, STREET)
    linked_to(session, UUID(int=1), street, collector)
    order = f"/recycling/orders/{booked}"
    assert collector.post(f"{order}/acceptance", status=403)["code"] == "collects-own-booking"
    another = make_party(Role.COLLECTOR, STREET)
    another.post(f"{order}/acceptance")
    another.post(f"{order}/hand-back", {"reason": "车坏了"})
    assert collector.post(f"{order}/acceptance", status=403)["code"] == "collects-own-booking"


def test_nobody_weighs_what_they_booked_either(
    grandmother: Party, staff: Party, collector: Party, session: Session, clock: time_machine.Traveller
) -> None:
    """The two accounts may be found to be of one person after the order was accepted."""
    order = f"/recycling/orders/{staff.post(of(grandmother), order_body(), 201)['id']}"
    collector.post(f"{order}/acceptance")
    linked_to(session, UUID(int=1), staff, collector)
    clock.move_to(MORNING + timedelta(hours=2))
    assert collector.post(f"{order}/slips", {"items": [GLASS]}, 403)["code"] == "collects-own-booking"
