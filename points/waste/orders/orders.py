"""The life of an order: requested, accepted, on the way; cancelled, expired, or one side missed the other.

Every move holds the order's row first, so of two people at once the second sees what the first has made of it, and
writes the move before the state, which a trigger insists on. What is weighed and paid is in `weighing` and `settling`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from points.earning.claims import Reason
from points.waste.orders import addresses, materials, timetable
from points.waste.orders.addresses import Doorstep
from points.waste.orders.models import (
    REASON_LENGTH_MAX,
    CollectionPlan,
    PlanKind,
    RecyclingEdition,
    RecyclingMove,
    RecyclingOrder,
    Way,
)
from points.waste.orders.steps import ENDED, MOVES, OPEN, OrderMove, OrderState, Party
from points.waste.orders.timetable import NoCollection
from points.waste.sites import opening, registry
from points.waste.sites.models import Site, SiteKind
from server import audit
from server.access import Actor, Permission, Role
from server.clock import business_day, day_start
from server.database import lock_name, new_id
from server.errors import Conflict, DomainError, Forbidden, InvalidRequest, NotFound, ReasonRequired
from server.notices.notices import tell
from server.paging import Page, decode, page_of
from server.people import assisted, resident_codes, residents, staff_links
from server.people.models import CodePurpose, Staff

DUE_AT_ONCE_MAX = 200

_Id: TypeAlias = sa.ColumnExpressionArgument[UUID] | UUID  # a column, or a value


class OrderMoveRefused(Conflict):
    """The order's state does not allow this, or somebody else was faster."""

    code, title_zh, title_en = (
        "order-move-refused",
        "订单当前状态不允许此操作",
        "The order's state does not allow this",
    )


class CancelTooLate(Conflict):
    """The time to cancel is over; the collector is as good as there."""

    code, title_zh, title_en = "cancel-too-late", "已超过可取消时间", "It is too late to cancel"


class NotMissedYet(Conflict):
    """The other side still has time to come."""

    code, title_zh, title_en = "not-missed-yet", "尚未超过约定时间", "The other side still has time to come"


class TooManyOrders(Conflict):
    """As many orders are open as one resident may have."""

    code, title_zh, title_en = "too-many-orders", "未完成的订单过多", "You have as many open orders as you may have"


class MissedTooOften(Conflict):
    """Who let collectors wait too often orders again when some time has gone by."""

    code, title_zh, title_en = (
        "missed-too-often",
        "近期爽约次数过多, 暂不能预约",
        "You have missed too many appointments lately",
    )


class NotHereNow(Conflict):
    """The van is not at this stop now."""

    code, title_zh, title_en = "not-here-now", "当前不在该流动回收点的停靠时间", "The van is not at this stop now"


class CollectsOwnBooking(Forbidden):
    """Whoever booked for a resident does not collect it too: one person would say all that there is to say."""

    code, title_zh, title_en = (
        "collects-own-booking",
        "不能承接本人代居民预约的订单",
        "You cannot collect what you booked for a resident yourself",
    )


@dataclass(frozen=True, slots=True)
class Wish:
    """What a resident asks for: `place` is the code of a collection point, of a stop, or of hours of calls at homes."""

    way: Way
    place: str
    day: date
    announced: Sequence[str] = ()
    doorstep: Doorstep | None = None


@dataclass(frozen=True, slots=True)
class _Window:
    """Where and when an order happens."""

    community_code: str
    site_code: str | None
    plan: CollectionPlan | None
    starts_at: datetime
    ends_at: datetime


def request(session: Session, actor: Actor, wish: Wish, *, data_key: bytes, now: datetime) -> RecyclingOrder:
    """Order a collection online: a call at home, a place at a stop of the van, or a visit to a collection point.

    Raises NotFound, HomeCommunityMissing, TooManyOrders, MissedTooOften, NoCollection, CollectionFull, InvalidRequest,
    NoCatalogue.
    """
    return request_for(session, actor.id, wish, requested_by=actor.id, data_key=data_key, now=now)


def request_for(
    session: Session, resident_id: UUID, wish: Wish, *, requested_by: UUID, data_key: bytes, now: datetime
) -> RecyclingOrder:
    """The same for a resident, by themself or by whoever the caller has found may; the limits are the resident's.

    Raises what `request` raises.
    """
    edition = materials.edition_on(session, business_day(now))
    home = residents.require_home(session, resident_id)
    _require_known(session, edition, wish.announced)
    if (wish.way is Way.HOME) != (wish.doorstep is not None):
        raise InvalidRequest(errors=[{"pointer": "/address", "message": "For a call at home, and for that alone."}])
    window = _window(session, edition, wish, home, now=now)
    _require_room(session, edition, resident_id, now=now)
    if window.plan is not None:
        timetable.take_place(session, window.plan, wish.day)
    order = _order(resident_id, wish.way, window, edition, requested_by=requested_by, now=now)
    order.announced = list(dict.fromkeys(wish.announced))
    order.due_at = _expires_at(order, edition)
    if wish.doorstep is not None:
        order.address_sealed = addresses.sealed(data_key, order, wish.doorstep)
    session.add(order)
    session.flush()
    return order


def receive(
    session: Session, actor: Actor, *, text: str, way: Way, place: str, data_key: bytes, now: datetime
) -> RecyclingOrder:
    """Take somebody's recyclables at a point or a stop without an order: by their code or card, which is used up.

    The order is made and accepted in one; what is weighed comes next. Outside the hours of a point it is recorded, and
    not paid.

    Raises NotFound, NotHereNow, HomeCommunityMissing, NoCatalogue, and what reading a code raises.
    """
    edition = materials.edition_on(session, business_day(now))
    today = business_day(now)
    if way is Way.POINT:
        site = registry.site_for(session, actor, place)
        _require_point(site)
        window = _Window(site.community_code, site.code, None, day_start(today), day_start(today + timedelta(days=1)))
    else:
        plan = timetable.plan_of(session, place, PlanKind.STOP)
        actor.require_cover(plan.division)
        window = _stop_now(plan, edition, now=now)
    used = resident_codes.read_and_use(
        session, actor, text, purpose=CodePurpose.RECYCLING, site=place, data_key=data_key, now=now
    )
    residents.require_home(session, used.resident_id)
    order = _order(used.resident_id, way, window, edition, requested_by=actor.id, now=now)
    session.add(order)
    session.flush()
    return _take_on(session, order, actor, now=now)


def accept(session: Session, actor: Actor, order_id: UUID, *, now: datetime) -> RecyclingOrder:
    """Take an order on: the first collector who asks has it, and sees the address from now on.

    Raises NotFound outside the scope, OrderMoveRefused, StaffUnlinked, ServesOwnHousehold, CollectsOwnBooking.
    """
    order = collectors_order(session, actor, order_id, held=True)
    if order.state is not OrderState.REQUESTED or (order.due_at is not None and order.due_at <= now):
        raise OrderMoveRefused(state=order.state.value)
    staff_links.require_may_serve(session, actor.id, order.resident_id, now=now)
    require_not_own_booking(session, actor, order)
    _take_on(session, order, actor, now=now)
    tell_resident(session, order, "回收订单已接单", "your recycling order was accepted", now=now)
    return order


def _take_on(session: Session, order: RecyclingOrder, collector: Actor, *, now: datetime) -> RecyclingOrder:
    return move(
        session,
        order,
        OrderMove.ACCEPT,
        Party.COLLECTOR,
        by=collector,
        now=now,
        collector_id=collector.id,
        due_at=_forgotten_from(order),
    )


def hand_back(session: Session, actor: Actor, order_id: UUID, *, reason: str, now: datetime) -> RecyclingOrder:
    """Give an accepted order back for a colleague to take on. Raises NotFound, OrderMoveRefused, ReasonRequired."""
    order = own_as_collector(session, actor, order_id)
    due_at = _expires_at(order, edition_of(session, order))
    if due_at <= now:
        raise OrderMoveRefused(state=order.state.value)
    move(
        session,
        order,
        OrderMove.HAND_BACK,
        Party.COLLECTOR,
        by=actor,
        reason=_required(reason),
        now=now,
        collector_id=None,
        due_at=due_at,
    )
    tell_resident(
        session, order, "回收员退回了订单, 等待其他回收员接单", "your order waits for another collector", now=now
    )
    return order


def depart(session: Session, actor: Actor, order_id: UUID, *, now: datetime) -> RecyclingOrder:
    """Say that one is on the way, on the day itself: from then on the resident can no longer cancel.

    Raises NotFound, OrderMoveRefused.
    """
    order = own_as_collector(session, actor, order_id)
    if business_day(now) < order.day:
        raise OrderMoveRefused(state=order.state.value, move=OrderMove.DEPART.value)
    move(session, order, OrderMove.DEPART, Party.COLLECTOR, by=actor, now=now)
    tell_resident(session, order, "回收员已出发", "the collector is on the way", now=now)
    return order


def cancel(session: Session, actor: Actor, order_id: UUID, *, reason: str, now: datetime) -> RecyclingOrder:
    """Cancel as the resident: up to the deadline before the window when a collector has accepted, else until it begins.

    Raises NotFound, OrderMoveRefused, CancelTooLate, ReasonRequired.
    """
    return cancel_held(session, own_order(session, actor, order_id, held=True), by=actor, reason=reason, now=now)


def cancel_held(session: Session, order: RecyclingOrder, *, by: Actor, reason: str, now: datetime) -> RecyclingOrder:
    """Cancel a held order for the resident's side. Raises OrderMoveRefused, CancelTooLate, ReasonRequired."""
    require_move(order, OrderMove.CANCEL, Party.RESIDENT)
    edition = edition_of(session, order)
    notice = timedelta(minutes=edition.cancel_minutes if order.state is OrderState.ACCEPTED else 0)
    if now > (order.starts_at - notice if order.way is Way.HOME else order.ends_at):
        raise CancelTooLate
    move(session, order, OrderMove.CANCEL, Party.RESIDENT, by=by, reason=_required(reason), now=now)
    tell_collector(session, order, "居民取消了回收订单", "a recycling order was cancelled", now=now)
    return order


def cancel_as_collector(
    session: Session, actor: Actor, order_id: UUID, *, reason: str, now: datetime
) -> RecyclingOrder:
    """Cancel what one has accepted, until its window is over. Raises NotFound, OrderMoveRefused, CancelTooLate."""
    order = own_as_collector(session, actor, order_id)
    require_move(order, OrderMove.CANCEL, Party.COLLECTOR)
    if now > order.ends_at:
        raise CancelTooLate
    move(session, order, OrderMove.CANCEL, Party.COLLECTOR, by=actor, reason=_required(reason), now=now)
    tell_resident(session, order, "回收员取消了订单", "the collector cancelled your recycling order", now=now)
    return order


def report_collector_missed(session: Session, actor: Actor, order_id: UUID, *, now: datetime) -> RecyclingOrder:
    """Say as the resident that nobody came, after the window and some grace.

    Raises NotFound, OrderMoveRefused, NotMissedYet.
    """
    return report_missed_held(session, own_order(session, actor, order_id, held=True), by=actor, now=now)


def report_missed_held(session: Session, order: RecyclingOrder, *, by: Actor, now: datetime) -> RecyclingOrder:
    """Say of a held order, for the resident's side, that nobody came. Raises OrderMoveRefused, NotMissedYet."""
    require_move(order, OrderMove.MISS, Party.RESIDENT)
    if now < _missed_from(order.ends_at, edition_of(session, order)):
        raise NotMissedYet
    move(session, order, OrderMove.MISS, Party.RESIDENT, by=by, now=now)
    tell_collector(session, order, "居民反映您未到场", "a resident says that you did not come", now=now)
    return order


def report_resident_missed(session: Session, actor: Actor, order_id: UUID, *, now: datetime) -> RecyclingOrder:
    """Say as the collector that nobody was there, some grace after the window of a call at home has begun.

    Who comes to a point or a stop has until its hours end. Whose code was scanned was there, and cannot be missed.

    Raises NotFound, OrderMoveRefused, NotMissedYet.
    """
    order = own_as_collector(session, actor, order_id)
    require_move(order, OrderMove.MISS, Party.COLLECTOR)
    if order.channel == "offline" and not was_booked(session, order):
        raise OrderMoveRefused(state=order.state.value, move=OrderMove.MISS.value)
    expected_by = order.starts_at if order.way is Way.HOME else order.ends_at
    if now < _missed_from(expected_by, edition_of(session, order)):
        raise NotMissedYet
    move(session, order, OrderMove.MISS, Party.COLLECTOR, by=actor, now=now)
    tell_resident(session, order, "回收员到场未能见到您", "the collector came and did not meet you", now=now)
    return order


# By the clock


def due(session: Session, *, now: datetime, without: Sequence[UUID] = ()) -> Sequence[tuple[UUID, UUID]]:
    """The orders whose time has come, the longest due first: (resident, order), at most DUE_AT_ONCE_MAX."""
    rows = session.execute(
        sa.select(RecyclingOrder.resident_id, RecyclingOrder.id)
        .where(RecyclingOrder.due_at <= now, RecyclingOrder.id.not_in(without))
        .order_by(RecyclingOrder.due_at, RecyclingOrder.id)
        .limit(DUE_AT_ONCE_MAX)
    )
    return [(resident_id, order_id) for resident_id, order_id in rows]


def lapse(session: Session, order: RecyclingOrder, *, now: datetime) -> None:
    """Make the clock's move on a held order that nobody accepted, or to which nobody came."""
    if order.state is OrderState.REQUESTED:
        move(session, order, OrderMove.EXPIRE, Party.CLOCK, by=None, now=now)
        tell_resident(session, order, "回收订单无人接单, 已失效", "nobody accepted your recycling order", now=now)
        return
    move(session, order, OrderMove.MISS, Party.CLOCK, by=None, now=now)
    tell_resident(session, order, "回收员未到场, 订单已关闭", "the collector did not come", now=now)
    tell_collector(session, order, "回收订单逾期未完成", "you did not finish a recycling order", now=now)


# Reading


def own_order(session: Session, actor: Actor, order_id: UUID, *, held: bool = False) -> RecyclingOrder:
    """The actor's own order. Raises NotFound."""
    return _one(session, RecyclingOrder.resident_id == actor.id, order_id, held=held)


def hold(session: Session, resident_id: UUID, order_id: UUID) -> RecyclingOrder:
    """An order with its row locked, as it stands now. Raises NotFound."""
    return _one(session, RecyclingOrder.resident_id == resident_id, order_id, held=True)


def order_of(session: Session, resident_id: UUID, order_id: UUID) -> RecyclingOrder:
    """An order of a resident. Raises NotFound."""
    return _one(session, RecyclingOrder.resident_id == resident_id, order_id)


def was_booked(session: Session, order: RecyclingOrder) -> bool:
    """Whether staff booked this order for the resident, who then has a place as if they had ordered online.

    An order that a scan made was accepted at once by whoever scanned; what was booked is accepted by somebody else.
    """
    return order.requested_by != order.resident_id and not session.scalar(
        sa.select(_accepted_by_requester(order.resident_id, order.id, order.requested_by))
    )


def require_not_own_booking(session: Session, actor: Actor, order: RecyclingOrder) -> None:
    """Raise CollectsOwnBooking for whoever booked the order, under whichever of their accounts."""
    if was_booked(session, order) and order.requested_by in staff_links.accounts_of(session, actor.id):
        raise CollectsOwnBooking


def shown_to_staff(session: Session, order: RecyclingOrder) -> bool:
    """Whether staff who act for the resident see this order: of one without a phone all, of others what was booked."""
    return assisted.is_assisted(session, order.resident_id) or was_booked(session, order)


def collectors_order(session: Session, actor: Actor, order_id: UUID, *, held: bool = False) -> RecyclingOrder:
    """An order that the collector has, or could take on: requested in their scope. Raises NotFound."""
    found = _one(session, sa.true(), order_id, held=held)
    if found.collector_id != actor.id:
        actor.require_cover(found.community_code)
        if found.state is not OrderState.REQUESTED:
            raise NotFound  # a colleague's
    return found


def own_as_collector(session: Session, actor: Actor, order_id: UUID) -> RecyclingOrder:
    """The order that the collector has taken on, its row locked. Raises NotFound."""
    return _one(session, RecyclingOrder.collector_id == actor.id, order_id, held=True)


def disputed_order(session: Session, actor: Actor, order_id: UUID, *, held: bool = False) -> RecyclingOrder:
    """An order inside the actor's scope that is, or was, disputed. Raises NotFound."""
    found = _one(session, RecyclingOrder.case_id.is_not(None), order_id, held=held)
    actor.require_cover(found.community_code)
    return found


def read_disputed(session: Session, actor: Actor, order_id: UUID, *, now: datetime) -> RecyclingOrder:
    """The same to read: nobody reads the dispute of their own household. Raises NotFound."""
    found = disputed_order(session, actor, order_id)
    if staff_links.is_own_household(session, actor.id, found.resident_id, now=now):
        raise NotFound
    return found


def own_orders(session: Session, actor: Actor, *, limit: int, cursor: str | None) -> Page[RecyclingOrder]:
    """The actor's own orders, newest first. Raises BadCursor."""
    return _listed(session, [RecyclingOrder.resident_id == actor.id], limit=limit, cursor=cursor)


def orders_of(
    session: Session, resident_id: UUID, *, booked: bool, limit: int, cursor: str | None
) -> Page[RecyclingOrder]:
    """A resident's orders, newest first; with `booked` only those that staff booked for them. Raises BadCursor."""
    wanted = [RecyclingOrder.resident_id == resident_id]
    if booked:
        scanned = _accepted_by_requester(RecyclingOrder.resident_id, RecyclingOrder.id, RecyclingOrder.requested_by)
        wanted += [RecyclingOrder.requested_by != RecyclingOrder.resident_id, ~scanned]
    return _listed(session, wanted, limit=limit, cursor=cursor)


def collectors_orders(
    session: Session, actor: Actor, *, mine: bool, state: OrderState | None, limit: int, cursor: str | None
) -> Page[RecyclingOrder]:
    """What the collector has taken on (`mine`), or what waits for anybody in their scope, newest first.

    Raises BadCursor.
    """
    wanted: list[sa.ColumnElement[bool]]
    if mine:
        wanted = [RecyclingOrder.collector_id == actor.id]
        wanted += [] if state is None else [RecyclingOrder.state == state]
    else:
        wanted = [
            RecyclingOrder.state == OrderState.REQUESTED,
            RecyclingOrder.community_code.startswith(actor.division or "-", autoescape=True),
        ]
        wanted += [] if state in (None, OrderState.REQUESTED) else [sa.false()]
    return _listed(session, wanted, limit=limit, cursor=cursor)


def moves_of(session: Session, order: RecyclingOrder) -> Sequence[RecyclingMove]:
    """The moves of an order, the first one first."""
    return session.scalars(
        sa.select(RecyclingMove)
        .where(RecyclingMove.resident_id == order.resident_id, RecyclingMove.order_id == order.id)
        .order_by(RecyclingMove.position)
    ).all()


def edition_of(session: Session, order: RecyclingOrder) -> RecyclingEdition:
    """The edition that an order was made under, whose terms hold for it to the end."""
    return session.get_one(RecyclingEdition, order.edition_id)


def place_of(session: Session, order: RecyclingOrder) -> CollectionPlan | Site:
    """Where an order happens, for people to read; the hours of calls at homes have no address."""
    if order.plan_id is not None:
        return session.get_one(CollectionPlan, order.plan_id)
    return session.get_one(Site, order.site_code)


def place_refusal(session: Session, order: RecyclingOrder, at: datetime) -> Reason | None:
    """Why what is weighed at a collection point at this instant is recorded and not paid; None when it is paid."""
    if order.site_code is None:
        return None
    return opening.is_open(opening.of(registry.site_of(session, order.site_code)), None, at)


# Moving


def move(
    session: Session,
    order: RecyclingOrder,
    step: OrderMove,
    party: Party,
    *,
    by: Actor | None,
    now: datetime,
    reason: str = "",
    **values: Any,
) -> RecyclingOrder:
    """Write a move of a held order and then its state; `values` are further columns of the order.

    What ends an order ends its deadlines with it and gives its place back, unless it was used. Raises OrderMoveRefused.
    """
    moved = _move(session, order, step, party, moved_by=None if by is None else by.id, reason=reason, now=now, **values)
    if by is not None and not by.is_resident:
        audit.record(session, by, f"recycling.{step.value}", f"recycling-order:{order.id}", now=now)
    return moved


def move_decided(
    session: Session, order: RecyclingOrder, reviewer_id: UUID, *, reason: str, now: datetime
) -> RecyclingOrder:
    """Settle a disputed order as its case was decided; the review's own trail names the decision."""
    return _move(session, order, OrderMove.DECIDE, Party.REVIEWER, moved_by=reviewer_id, reason=reason, now=now)


def tell_resident(session: Session, order: RecyclingOrder, zh: str, en: str, *, now: datetime) -> None:
    """Tell the order's resident something about it, in Chinese and English, and whoever booked for them."""
    tell_resident_alone(session, order, zh, en, now=now)
    tell_booker(session, order, zh, en, now=now)


def tell_booker(
    session: Session, order: RecyclingOrder, zh: str, en: str, *, but_not: UUID | None = None, now: datetime
) -> None:
    """Tell whoever booked for a resident who has no phone to read it on, and who is rung up; `but_not` who knows it."""
    if order.requested_by == but_not:
        return
    if was_booked(session, order) and assisted.is_assisted(session, order.resident_id):
        _tell_staff(session, order, order.requested_by, f"代约订单: {zh}", f"booked by you: {en}", now=now)


def tell_staff(session: Session, order: RecyclingOrder, staff_id: UUID, zh: str, en: str, *, now: datetime) -> None:
    """Tell a member of staff who did something for the resident what came of it, if they could still look it up."""
    if shown_to_staff(session, order):
        _tell_staff(session, order, staff_id, zh, en, now=now)


def tell_resident_alone(session: Session, order: RecyclingOrder, zh: str, en: str, *, now: datetime) -> None:
    """Tell the resident what nobody else is to be told: what staff did themselves, or what was earned."""
    _tell(session, order.resident_id, order, zh, en, now=now)


def tell_collector(session: Session, order: RecyclingOrder, zh: str, en: str, *, now: datetime) -> None:
    """Tell the order's collector, if it has one, something about it, in Chinese and English."""
    if order.collector_id is not None:
        _tell(session, order.collector_id, order, zh, en, now=now)


def _move(
    session: Session,
    order: RecyclingOrder,
    step: OrderMove,
    party: Party,
    *,
    moved_by: UUID | None,
    reason: str,
    now: datetime,
    **values: Any,
) -> RecyclingOrder:
    after = require_move(order, step, party)
    position = order.moves + 1
    session.execute(
        insert(RecyclingMove).values(
            resident_id=order.resident_id,
            order_id=order.id,
            position=position,
            move=step,
            from_state=order.state,
            to_state=after,
            party=party,
            moved_by=moved_by,
            reason=reason[:REASON_LENGTH_MAX],
            moved_at=now,
        )
    )
    changes: dict[str, Any] = {**values, "state": after, "moves": position}
    if after in ENDED:
        changes |= {"ended_at": now, "due_at": None}
    moved = session.scalars(
        sa.update(RecyclingOrder)
        .where(
            RecyclingOrder.resident_id == order.resident_id,
            RecyclingOrder.id == order.id,
            RecyclingOrder.state == order.state,
            RecyclingOrder.moves == position - 1,
        )
        .values(**changes)
        .returning(RecyclingOrder)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if moved is None:
        raise OrderMoveRefused(move=step.value)
    freed = after in (OrderState.CANCELLED, OrderState.EXPIRED)
    # Who walks up takes nobody's place; asked last, because it is a query.
    if freed and order.plan_id is not None and (order.channel == "online" or was_booked(session, order)):
        timetable.give_place_back(session, order.plan_id, order.day)
    return moved


def require_move(order: RecyclingOrder, step: OrderMove, party: Party) -> OrderState:
    """The state that a move leads to. Raises OrderMoveRefused for one that is not in the table."""
    after = MOVES.get((order.state, step, party))
    if after is None:
        raise OrderMoveRefused(state=order.state.value, move=step.value)
    return after


def _order(
    resident_id: UUID, way: Way, window: _Window, edition: RecyclingEdition, *, requested_by: UUID, now: datetime
) -> RecyclingOrder:
    online = requested_by == resident_id
    return RecyclingOrder(
        resident_id=resident_id,
        id=new_id(),
        way=way,
        site_kind="fixed" if way is Way.POINT else "mobile",
        timing="appointment" if way is Way.HOME or (way is Way.POINT and online) else "scheduled",
        channel="online" if online else "offline",
        edition_id=edition.id,
        community_code=window.community_code,
        site_code=window.site_code,
        plan_id=None if window.plan is None else window.plan.id,
        day=business_day(window.starts_at),
        starts_at=window.starts_at,
        ends_at=window.ends_at,
        announced=[],
        address_sealed=None,
        requested_by=requested_by,
        requested_at=now,
        state=OrderState.REQUESTED,
        moves=0,
        slips=0,
    )


def _accepted_by_requester(resident_id: _Id, order_id: _Id, requested_by: _Id) -> sa.Exists:
    return sa.exists().where(
        RecyclingMove.resident_id == resident_id,
        RecyclingMove.order_id == order_id,
        RecyclingMove.position == 1,
        RecyclingMove.move == OrderMove.ACCEPT,
        RecyclingMove.moved_by == requested_by,
    )


def _window(session: Session, edition: RecyclingEdition, wish: Wish, home: str, *, now: datetime) -> _Window:
    """Where and when a wish comes true. Raises NotFound, NoCollection."""
    if not 0 <= (wish.day - business_day(now)).days <= edition.ahead_days:
        raise NoCollection
    if wish.way is Way.POINT:
        site = registry.site_of(session, wish.place)
        _require_point(site)
        known = opening.of(site)
        spans = known.spans(wish.day) if known.stands_on(wish.day) else ()
        midnight = day_start(wish.day)
        found = [(midnight + timedelta(minutes=first), midnight + timedelta(minutes=last)) for first, last in spans]
        if not found or found[-1][1] <= now:
            raise NoCollection
        return _Window(site.community_code, site.code, None, found[0][0], found[-1][1])
    kind = PlanKind.HOME if wish.way is Way.HOME else PlanKind.STOP
    plan = timetable.plan_of(session, wish.place, kind)
    if wish.way is Way.HOME and not home.startswith(plan.division):
        raise NotFound  # collectors of another street do not come here
    starts_at, ends_at = timetable.hours_on(plan, wish.day)
    if not timetable.comes_on(plan, wish.day) or (starts_at if wish.way is Way.HOME else ends_at) <= now:
        raise NoCollection
    return _Window(home if wish.way is Way.HOME else plan.division, None, plan, starts_at, ends_at)


def _stop_now(plan: CollectionPlan, edition: RecyclingEdition, *, now: datetime) -> _Window:
    today = business_day(now)
    starts_at, ends_at = timetable.hours_on(plan, today)
    grace = timedelta(minutes=edition.grace_minutes)
    if not timetable.comes_on(plan, today) or not starts_at - grace <= now <= ends_at + grace:
        raise NotHereNow
    return _Window(plan.division, None, plan, starts_at, ends_at)


def _require_point(site: Site) -> None:
    if site.kind is not SiteKind.COLLECTION_POINT:
        raise NotFound


def _require_known(session: Session, edition: RecyclingEdition, announced: Sequence[str]) -> None:
    known = materials.materials_of(session, edition.id)
    errors = [
        {"pointer": f"/materials/{index}", "message": "Not in the catalogue."}
        for index, code in enumerate(announced)
        if code not in known
    ]
    if errors:
        raise InvalidRequest(errors=errors)


def _require_room(session: Session, edition: RecyclingEdition, resident_id: UUID, *, now: datetime) -> None:
    """Raise TooManyOrders or MissedTooOften. One order of a person at a time, or two at once would both find room."""
    lock_name(session, f"recycling:{resident_id}")
    mine = sa.select(sa.func.count()).where(RecyclingOrder.resident_id == resident_id)
    if (session.scalar(mine.where(RecyclingOrder.state.in_(OPEN))) or 0) >= edition.open_max:
        raise TooManyOrders
    missed = mine.where(
        RecyclingOrder.state == OrderState.RESIDENT_MISSED,
        RecyclingOrder.ended_at > now - timedelta(days=edition.missed_days),
    )
    if (session.scalar(missed) or 0) >= edition.missed_max:
        raise MissedTooOften


def _missed_from(at: datetime, edition: RecyclingEdition) -> datetime:
    return at + timedelta(minutes=edition.grace_minutes)


def _expires_at(order: RecyclingOrder, edition: RecyclingEdition) -> datetime:
    """When an order that nobody has accepted will not come about: a call at its time, others after their hours."""
    return order.starts_at if order.way is Way.HOME else _missed_from(order.ends_at, edition)


def _forgotten_from(order: RecyclingOrder) -> datetime:
    """When an accepted order that nobody spoke of again is closed: with the end of the day after it."""
    return day_start(order.day + timedelta(days=2))


def _required(reason: str) -> str:
    if not reason.strip():
        raise ReasonRequired
    return reason.strip()


def _one(session: Session, whose: sa.ColumnElement[bool], order_id: UUID, *, held: bool = False) -> RecyclingOrder:
    wanted = sa.select(RecyclingOrder).where(whose, RecyclingOrder.id == order_id)
    if held:
        wanted = wanted.with_for_update()
    found = session.scalars(wanted.execution_options(populate_existing=True)).one_or_none()
    if found is None:
        raise NotFound
    return found


def _listed(
    session: Session, wanted: Sequence[sa.ColumnElement[bool]], *, limit: int, cursor: str | None
) -> Page[RecyclingOrder]:
    query = sa.select(RecyclingOrder).where(*wanted).order_by(RecyclingOrder.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(RecyclingOrder.id < decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(query).all(), limit, lambda row: (row.id,))


def _may_assist(session: Session, staff_id: UUID, resident_id: UUID, *, now: datetime) -> bool:
    """Whether a member of staff, as they are now, may act for a resident as they are now: what `booking` asks first.

    Between a booking and what becomes of it an account is disabled, a role or a scope changed, a resident moves, or
    the two move in together.
    """
    found = session.execute(sa.select(Staff.role, Staff.division).where(Staff.id == staff_id, Staff.enabled)).first()
    if found is None:
        return False
    helper = Actor(id=staff_id, role=Role(found.role), session_id=new_id(), division=found.division)
    try:
        assisted.resident_for(session, helper, resident_id, now=now)
    except DomainError:
        return False
    return helper.may(Permission.RESIDENT_ASSIST)


def _tell_staff(session: Session, order: RecyclingOrder, staff_id: UUID, zh: str, en: str, *, now: datetime) -> None:
    if _may_assist(session, staff_id, order.resident_id, now=now):
        _tell(session, staff_id, order, zh, en, whose=f"resident:{order.resident_id}:", now=now)


def _tell(
    session: Session, person: UUID, order: RecyclingOrder, zh: str, en: str, *, whose: str = "", now: datetime
) -> None:
    tell(
        session,
        [person],
        kind="recycling-order",
        subject=f"{whose}recycling-order:{order.id}",
        title_zh=f"{order.day.month}月{order.day.day}日: {zh}",
        title_en=f"{order.day.isoformat()}: {en}",
        now=now,
    )
