"""Recycling booked by telephone: staff of a resident's place enter what the resident says, for one who cannot order.

For any resident of their scope and not only for one without a phone: whoever telephones has a reason to, the limits are
the resident's own, and a resident with a phone is told and can cancel. Staff see every order of a resident without a
phone, and of the others what was booked for them. Nobody enters that a slip is right: that is said by the resident's
phone or by silence, and until then it can be disputed.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from points.waste.orders import orders, settling
from points.waste.orders.models import RecyclingOrder, Way
from points.waste.orders.orders import Wish
from server import audit
from server.access import Actor
from server.errors import InvalidRequest, NotFound
from server.paging import Page
from server.people import assisted


def book(
    session: Session, actor: Actor, resident_id: UUID, wish: Wish, *, data_key: bytes, now: datetime
) -> RecyclingOrder:
    """Book a call at home or a place at a stop for a resident, who is told; a visit to a point wants no booking.

    Raises what ordering raises (orders.request) and what acting for a resident raises (assisted.resident_for).
    """
    if wish.way is Way.POINT:
        raise InvalidRequest(errors=[{"pointer": "/way", "message": "A call at home or a stop of the van."}])
    assisted.resident_for(session, actor, resident_id, now=now)
    order = orders.request_for(session, resident_id, wish, requested_by=actor.id, data_key=data_key, now=now)
    audit.record(session, actor, "recycling.book", f"recycling-order:{order.id}", now=now, resident=str(resident_id))
    zh, en = (
        "社区工作人员为您预约了回收, 如非本意可取消",
        "community staff booked a collection for you; you can cancel it",
    )
    orders.tell_resident_alone(session, order, zh, en, now=now)
    return order


def orders_of(
    session: Session, actor: Actor, resident_id: UUID, *, now: datetime, limit: int, cursor: str | None
) -> Page[RecyclingOrder]:
    """What staff may see of a resident's orders, newest first.

    Raises BadCursor, and what acting for a resident raises.
    """
    assisted.resident_for(session, actor, resident_id, now=now)
    booked = not assisted.is_assisted(session, resident_id)
    return orders.orders_of(session, resident_id, booked=booked, limit=limit, cursor=cursor)


def order_for(
    session: Session, actor: Actor, resident_id: UUID, order_id: UUID, *, held: bool = False, now: datetime
) -> RecyclingOrder:
    """One of those orders, with its row locked when it is `held`.

    Raises NotFound, and what acting for a resident raises.
    """
    assisted.resident_for(session, actor, resident_id, now=now)
    order = (orders.hold if held else orders.order_of)(session, resident_id, order_id)
    if not orders.shown_to_staff(session, order):
        raise NotFound
    return order


def cancel(
    session: Session, actor: Actor, resident_id: UUID, order_id: UUID, *, reason: str, now: datetime
) -> RecyclingOrder:
    """Cancel for a resident, up to their own deadline; both sides are told, and whoever booked.

    Raises what a resident's own cancelling raises, and what acting for a resident raises.
    """
    order = order_for(session, actor, resident_id, order_id, held=True, now=now)
    orders.cancel_held(session, order, by=actor, reason=reason, now=now)
    zh, en = "社区工作人员代您取消了回收订单", "community staff cancelled your recycling order for you"
    orders.tell_resident_alone(session, order, zh, en, now=now)
    zh, en = "同事已代居民取消", "a colleague cancelled it for the resident"
    orders.tell_booker(session, order, zh, en, but_not=actor.id, now=now)
    return order


def report_collector_missed(
    session: Session, actor: Actor, resident_id: UUID, order_id: UUID, *, now: datetime
) -> RecyclingOrder:
    """Say for a resident that nobody came; both sides are told, and whoever booked.

    Raises what a resident's own report raises, and what acting for a resident raises.
    """
    order = order_for(session, actor, resident_id, order_id, held=True, now=now)
    orders.report_missed_held(session, order, by=actor, now=now)
    zh, en = "社区工作人员代您反映回收员未到场", "community staff reported for you that nobody came"
    orders.tell_resident_alone(session, order, zh, en, now=now)
    zh, en = "同事已代居民反映回收员未到场", "a colleague reported for the resident that nobody came"
    orders.tell_booker(session, order, zh, en, but_not=actor.id, now=now)
    return order


def dispute(
    session: Session, actor: Actor, resident_id: UUID, order_id: UUID, *, slip: str, reason: str, now: datetime
) -> RecyclingOrder:
    """Dispute a slip for a resident; both sides are told, and whoever booked. A colleague decides.

    Raises what a resident's own dispute raises, and what acting for a resident raises.
    """
    order = order_for(session, actor, resident_id, order_id, held=True, now=now)
    settling.dispute_held(session, order, by=actor, slip=slip, reason=reason, now=now)
    zh, en = "社区工作人员代您对称重单提出异议", "community staff disputed your weighing slip for you"
    orders.tell_resident_alone(session, order, zh, en, now=now)
    zh, en = "同事已代居民对称重单提出异议", "a colleague disputed the weighing slip for the resident"
    orders.tell_booker(session, order, zh, en, but_not=actor.id, now=now)
    return order
