"""Recycling for residents and for everybody: what is taken, when collectors come, and one's own orders."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import marshmallow as ma
from sqlalchemy.orm import Session

from points.waste.orders import addresses, materials, orders, settling, slips, timetable
from points.waste.orders.addresses import Doorstep
from points.waste.orders.models import (
    ANNOUNCED_MAX,
    REASON_LENGTH_MAX,
    CollectionPlan,
    PlanKind,
    RecyclingOrder,
    Stream,
    Unit,
    Way,
)
from points.waste.orders.orders import Wish
from points.waste.orders.steps import OrderMove, OrderState, Party
from points.waste.orders.timetable import AHEAD_DAYS_MAX, VISITS_MAX, Visit
from points.waste.sites.models import Category, Site
from server.access import Permission, actor, public, require
from server.api import Blueprint, page_schema
from server.clock import business_day, now
from server.database import run_transaction, transaction
from server.entries import LINE, LINE_OR_NOTHING, WORDS, in_our_time
from server.idempotency import idempotent
from server.limits import limiter
from server.paging import Page, PageQuery
from server.places.models import Confidence
from server.settings import settings

blueprint = Blueprint(
    "recycling", __name__, url_prefix="/api/v1", description="再生资源回收 · Recycling: what is taken, when, and orders"
)

# Far more than anybody needs, and too few to fill the collectors' list for fun.
ORDERS_A_DAY = "30 per day"

CODE = [ma.validate.Length(1, 64), ma.validate.Regexp(r"^[a-z0-9][a-z0-9_-]*(?!\n)$")]
NUMBER = ma.validate.Regexp(r"^[0-9]{8}-[0-9A-HJKMNP-TV-Z]{8}(?!\n)$")
REASON = [ma.validate.Length(1, REASON_LENGTH_MAX), WORDS]
# A prefix of official codes, or nothing for everywhere.
WITHIN = ma.validate.Regexp(r"^([0-9]{6}|[0-9]{9}|[0-9]{12})?(?!\n)$")


class SubclassView(ma.Schema):
    """One sub-class of one of the four categories."""

    code = ma.fields.String(required=True)
    category = ma.fields.Enum(Category, by_value=True, required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True)


class MaterialView(ma.Schema):
    """One material that is taken."""

    code = ma.fields.String(required=True)
    stream = ma.fields.Enum(Stream, by_value=True, required=True)
    sub_class = ma.fields.String(required=True, allow_none=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    hint_zh = ma.fields.String(required=True)
    hint_en = ma.fields.String(required=True)
    unit = ma.fields.Enum(Unit, by_value=True, required=True)
    mode = ma.fields.String(required=True, metadata={"description": "What the earning rules call it"})
    factor = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "Carbon factor; null: no saving is shown"}
    )
    quantity_min = ma.fields.Integer(required=True)
    quantity_max = ma.fields.Integer(required=True)


class OrderTermsView(ma.Schema):
    """On which terms orders are made."""

    id = ma.fields.String(required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True)
    valid_from = ma.fields.Date(required=True)
    confirm_days = ma.fields.Integer(required=True)
    address_days = ma.fields.Integer(required=True)
    cancel_minutes = ma.fields.Integer(required=True)
    grace_minutes = ma.fields.Integer(required=True)
    ahead_days = ma.fields.Integer(required=True)
    open_max = ma.fields.Integer(required=True)


class MaterialsView(ma.Schema):
    """The catalogue in force today."""

    edition = ma.fields.Nested(OrderTermsView, required=True)
    subclasses = ma.fields.List(ma.fields.Nested(SubclassView), required=True)
    materials = ma.fields.List(ma.fields.Nested(MaterialView), required=True)


class TimetableQuery(ma.Schema):
    """Which collections, where and how far ahead."""

    kind = ma.fields.Enum(PlanKind, by_value=True, load_default=PlanKind.STOP)
    division = ma.fields.String(load_default="", validate=WITHIN, metadata={"description": "Official code, or none"})
    days = ma.fields.Integer(load_default=14, validate=ma.validate.Range(1, AHEAD_DAYS_MAX))
    limit = ma.fields.Integer(load_default=50, validate=ma.validate.Range(1, VISITS_MAX))


class VisitView(ma.Schema):
    """One coming of the collectors. Coordinates are WGS-84."""

    code = ma.fields.String(required=True, attribute="plan.code")
    name = ma.fields.String(required=True, attribute="plan.name")
    division = ma.fields.String(required=True, attribute="plan.division")
    address = ma.fields.String(required=True, attribute="plan.address", allow_none=True)
    longitude = ma.fields.Float(required=True, attribute="plan.longitude", allow_none=True)
    latitude = ma.fields.Float(required=True, attribute="plan.latitude", allow_none=True)
    demonstration = ma.fields.Boolean(required=True, attribute="plan.demonstration")
    day = ma.fields.Date(required=True)
    starts_at = ma.fields.AwareDateTime(required=True)
    ends_at = ma.fields.AwareDateTime(required=True)
    left = ma.fields.Integer(required=True, metadata={"description": "Places that are left"})


class CollectionVisitsView(ma.Schema):
    """What is to come, soonest first."""

    items = ma.fields.List(ma.fields.Nested(VisitView), required=True)


class RecyclingOrderEntry(ma.Schema):
    """What a resident asks for."""

    way = ma.fields.Enum(
        Way, by_value=True, required=True, metadata={"description": "固定点 point, 流动车 stop, 预约上门 home"}
    )
    place = ma.fields.String(
        required=True, validate=CODE, metadata={"description": "Code of the point, the stop, or the hours of calls"}
    )
    day = ma.fields.Date(required=True, validate=in_our_time)
    materials = ma.fields.List(
        ma.fields.String(validate=CODE),
        load_default=list,
        validate=ma.validate.Length(max=ANNOUNCED_MAX),
        metadata={"description": "Codes of what will be handed over"},
    )
    address = ma.fields.String(
        load_default=None,
        validate=[ma.validate.Length(2, 200), LINE],
        metadata={"description": "For a call at home: sealed, shown to the collector who accepts, forgotten in time"},
    )
    note = ma.fields.String(load_default="", validate=[ma.validate.Length(max=200), LINE_OR_NOTHING])


class OrderReasonEntry(ma.Schema):
    """Why."""

    reason = ma.fields.String(required=True, validate=REASON)


class SlipNamedEntry(ma.Schema):
    """The slip that one has looked at."""

    slip = ma.fields.String(required=True, validate=NUMBER)


class SlipDisputeEntry(SlipNamedEntry):
    """The slip that one has looked at, and what is wrong with it."""

    reason = ma.fields.String(required=True, validate=REASON)


class WeighingItemView(ma.Schema):
    """One line of a slip."""

    item = ma.fields.Integer(required=True)
    material = ma.fields.String(required=True)
    unit = ma.fields.Enum(Unit, by_value=True, required=True)
    gross_g = ma.fields.Integer(required=True, allow_none=True)
    tare_g = ma.fields.Integer(required=True, allow_none=True)
    net_g = ma.fields.Integer(required=True, allow_none=True)
    pieces = ma.fields.Integer(required=True, allow_none=True)


class WeighingSlipView(ma.Schema):
    """A weighing slip, the same for both sides. The last one counts.

    `sha256` is over the JSON document {"order", "number", "position", "scale", "reason", "made_at", "items": [{"item",
    "material", "unit", "gross_g", "tare_g", "net_g", "pieces"}]} with sorted keys, no blanks, UTF-8, the instant in UTC
    with six decimals and +00:00.
    """

    number = ma.fields.String(required=True, attribute="slip.number")
    position = ma.fields.Integer(required=True, attribute="slip.position")
    scale = ma.fields.String(required=True, attribute="slip.scale", allow_none=True)
    reason = ma.fields.String(required=True, attribute="slip.reason")
    made_at = ma.fields.AwareDateTime(required=True, attribute="slip.made_at")
    sha256 = ma.fields.Function(lambda sheet: sheet.slip.sha256.hex(), metadata={"type": "string"})
    items = ma.fields.List(ma.fields.Nested(WeighingItemView), required=True)


class OrderMoveView(ma.Schema):
    """What was done to an order, by which side, when and why."""

    move = ma.fields.Enum(OrderMove, by_value=True, required=True)
    party = ma.fields.Enum(Party, by_value=True, required=True)
    to_state = ma.fields.Enum(OrderState, by_value=True, required=True)
    reason = ma.fields.String(required=True)
    moved_at = ma.fields.AwareDateTime(required=True)


class OrderPlaceView(ma.Schema):
    """Where an order happens."""

    code = ma.fields.String(required=True)
    name = ma.fields.String(required=True)
    address = ma.fields.String(required=True, allow_none=True)


class OrderPaidView(ma.Schema):
    """What became of a line in the ledger."""

    activity_id = ma.fields.UUID(required=True)
    slip_position = ma.fields.Integer(required=True)
    item = ma.fields.Integer(required=True)
    outcome = ma.fields.String(required=True)
    reason = ma.fields.String(required=True, allow_none=True)
    points = ma.fields.Integer(required=True)


class RecyclingOrderView(ma.Schema):
    """One's own order."""

    id = ma.fields.UUID(required=True)
    way = ma.fields.Enum(Way, by_value=True, required=True)
    site_kind = ma.fields.String(required=True, metadata={"description": "固定 fixed, 流动 mobile"})
    timing = ma.fields.String(required=True, metadata={"description": "定时 scheduled, 预约 appointment"})
    channel = ma.fields.String(required=True, metadata={"description": "线上 online, 线下 offline"})
    state = ma.fields.Enum(OrderState, by_value=True, required=True)
    day = ma.fields.Date(required=True)
    starts_at = ma.fields.AwareDateTime(required=True)
    ends_at = ma.fields.AwareDateTime(required=True)
    announced = ma.fields.List(ma.fields.String(), required=True)
    requested_at = ma.fields.AwareDateTime(required=True)
    due_at = ma.fields.AwareDateTime(
        required=True,
        allow_none=True,
        metadata={"description": "When the clock moves next; of a slip: silence confirms"},
    )
    ended_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class MovedOrderView(RecyclingOrderView):
    """One's own order with its place, slips, moves and points.

    What a post answers is kept for its Idempotency-Key; the address is sealed and must not lie there in the open.
    """

    place = ma.fields.Nested(OrderPlaceView, required=True)
    slips = ma.fields.List(ma.fields.Nested(WeighingSlipView), required=True)
    moves = ma.fields.List(ma.fields.Nested(OrderMoveView), required=True)
    paid = ma.fields.List(ma.fields.Nested(OrderPaidView), required=True)


class WholeOrderView(MovedOrderView):
    """One's own order with the address, while it is kept."""

    address = ma.fields.String(required=True, allow_none=True)
    note = ma.fields.String(required=True, allow_none=True)


RecyclingOrderPage = page_schema(RecyclingOrderView)


@dataclass(frozen=True, slots=True)
class WholeOrder:
    """An order with everything that its reader may see."""

    order: RecyclingOrder
    place: CollectionPlan | Site
    slips: list[slips.SlipSheet]
    moves: Any
    paid: list[settling.Paid]
    doorstep: Doorstep | None

    @property
    def address(self) -> str | None:
        """The address of a call at home, while it is kept and the reader may know it."""
        return None if self.doorstep is None else self.doorstep.address

    @property
    def note(self) -> str | None:
        """What helps to find it."""
        return None if self.doorstep is None else self.doorstep.note

    def __getattr__(self, name: str) -> Any:
        return getattr(self.order, name)


def whole(session: Session, order: RecyclingOrder, *, doorstep: Doorstep | None = None) -> WholeOrder:
    """An order with its place, slips, moves and points; without the address, unless it is given."""
    return WholeOrder(
        order=order,
        place=orders.place_of(session, order),
        slips=slips.of_order(session, order),
        moves=orders.moves_of(session, order),
        paid=settling.paid_for(session, order),
        doorstep=doorstep,
    )


@blueprint.get("/recycling/materials")
@public
@blueprint.response(200, MaterialsView)
def list_materials() -> materials.Catalogue:
    """回收目录. Everything that is taken, with the sub-classes of the four categories and the terms of orders."""
    with transaction() as session:
        return materials.catalogue_on(session, business_day(now()))


@blueprint.get("/recycling/timetable")
@public
@blueprint.arguments(TimetableQuery, location="query")
@blueprint.response(200, CollectionVisitsView)
def read_timetable(query: dict[str, Any]) -> dict[str, list[Visit]]:
    """流动回收时间表与上门时段. When the van stops where, or in which hours collectors call at homes."""
    with transaction() as session:
        return {"items": list(timetable.visits(session, now=now(), **query))}


@blueprint.post("/me/recycling/orders")
@require(Permission.RECYCLING_ORDER)
@limiter.limit(ORDERS_A_DAY)
@idempotent
@blueprint.arguments(RecyclingOrderEntry)
@blueprint.response(201, MovedOrderView)
def request_order(entry: dict[str, Any]) -> WholeOrder:
    """线上下单. Order a call at home, a place at a stop of the van, or announce a visit to a collection point."""
    doorstep = None if entry["address"] is None else Doorstep(entry["address"], entry["note"])
    wish = Wish(entry["way"], entry["place"], entry["day"], entry["materials"], doorstep)

    def work(session: Session) -> WholeOrder:
        made = orders.request(session, actor(), wish, data_key=settings().data_key, now=now())
        return whole(session, made)

    return run_transaction(work)


@blueprint.get("/me/recycling/orders")
@require(Permission.RECYCLING_ORDER)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, RecyclingOrderPage)
def list_own_orders(query: dict[str, Any]) -> Page[RecyclingOrder]:
    """我的回收订单. One's own orders, newest first."""
    with transaction() as session:
        return orders.own_orders(session, actor(), **query)


@blueprint.get("/me/recycling/orders/<uuid:order_id>")
@require(Permission.RECYCLING_ORDER)
@blueprint.response(200, WholeOrderView)
def read_own_order(order_id: UUID) -> WholeOrder:
    """回收订单详情与称重单. One's own order with its slips."""
    with transaction() as session:
        order = orders.own_order(session, actor(), order_id)
        return whole(session, order, doorstep=addresses.opened(settings().data_key, order))


@blueprint.post("/me/recycling/orders/<uuid:order_id>/cancellation")
@require(Permission.RECYCLING_ORDER)
@idempotent
@blueprint.arguments(OrderReasonEntry)
@blueprint.response(200, MovedOrderView)
def cancel_own_order(entry: dict[str, Any], order_id: UUID) -> WholeOrder:
    """取消订单. Cancel before the deadline."""
    return run_transaction(
        lambda session: whole(session, orders.cancel(session, actor(), order_id, **entry, now=now()))
    )


@blueprint.post("/me/recycling/orders/<uuid:order_id>/confirmation")
@require(Permission.RECYCLING_ORDER)
@idempotent
@blueprint.arguments(SlipNamedEntry)
@blueprint.response(200, MovedOrderView)
def confirm_own_order(entry: dict[str, Any], order_id: UUID) -> WholeOrder:
    """确认称重单. Confirm the weighing slip, and be paid."""
    return run_transaction(
        lambda session: whole(session, settling.confirm(session, actor(), order_id, **entry, now=now()))
    )


@blueprint.post("/me/recycling/orders/<uuid:order_id>/dispute")
@require(Permission.RECYCLING_ORDER)
@idempotent
@blueprint.arguments(SlipDisputeEntry)
@blueprint.response(200, MovedOrderView)
def dispute_own_order(entry: dict[str, Any], order_id: UUID) -> WholeOrder:
    """对称重单提出异议. Dispute the weighing slip: a person decides."""
    return run_transaction(
        lambda session: whole(session, settling.dispute(session, actor(), order_id, **entry, now=now()))
    )


@blueprint.post("/me/recycling/orders/<uuid:order_id>/collector-no-show")
@require(Permission.RECYCLING_ORDER)
@idempotent
@blueprint.response(200, MovedOrderView)
def report_collector_no_show(order_id: UUID) -> WholeOrder:
    """反映回收员未到场. Say that nobody came."""
    return run_transaction(
        lambda session: whole(session, orders.report_collector_missed(session, actor(), order_id, now=now()))
    )
