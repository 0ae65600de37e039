"""Recycling for collectors, who take on and weigh; for reviewers of disputes; for those who keep the timetable."""

from typing import Any
from uuid import UUID

import marshmallow as ma
from sqlalchemy.orm import Session

from points.waste.orders import addresses, orders, settling, timetable, weighing
from points.waste.orders.models import (
    CAPACITY_MAX,
    DAYS_MAX,
    GROSS_G_MAX,
    ITEMS_MAX,
    PIECES_MAX,
    REASON_LENGTH_MAX,
    CollectionPlan,
    PlanKind,
    RecyclingOrder,
    Way,
)
from points.waste.orders.routes import (
    CODE,
    REASON,
    MovedOrderView,
    OrderReasonEntry,
    RecyclingOrderView,
    WeighingSlipView,
    WholeOrder,
    whole,
)
from points.waste.orders.slips import Line, SlipSheet
from points.waste.orders.steps import AT_THE_DOOR, OrderState
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import DIVISION, LINE, TRIMMED_LINE, WORDS_OR_NOTHING, in_our_time
from server.etags import VersionHeader, etag_of, version_of
from server.idempotency import idempotent
from server.limits import limiter
from server.paging import Page, PageQuery
from server.people.resident_codes import TEXT_LENGTH_MAX
from server.settings import settings

blueprint = Blueprint(
    "recycling-collection",
    __name__,
    url_prefix="/api/v1/recycling",
    description="回收员、争议复核与回收时间表 · Collectors, disputes, and the timetable",
)

# A code is not guessed, but a scanner gone wild is stopped.
SCANS = "60 per minute"


class OrderListQuery(PageQuery):
    """One's own orders, or those that wait for a collector in one's scope."""

    mine = ma.fields.Boolean(load_default=False)
    state = ma.fields.Enum(OrderState, by_value=True, load_default=None)


class WaitingOrderView(RecyclingOrderView):
    """An order as a collector sees it before accepting: where in the district, and no more of the person."""

    community_code = ma.fields.String(required=True)


class CollectedOrderView(MovedOrderView):
    """An order as staff see it: without the points, and without the address."""

    class Meta:
        """What a resident earns is theirs."""

        exclude = ("paid",)

    community_code = ma.fields.String(required=True)


class CollectorOrderView(CollectedOrderView):
    """An order as its collector reads it: with the address, but only on the way."""

    address = ma.fields.String(required=True, allow_none=True)
    note = ma.fields.String(required=True, allow_none=True)


WaitingOrderPage = page_schema(WaitingOrderView)


class WalkInEntry(ma.Schema):
    """Somebody who came to the point or the van, by the code of their phone or card."""

    way = ma.fields.Enum(Way, by_value=True, required=True, validate=ma.validate.OneOf([Way.POINT, Way.STOP]))
    place = ma.fields.String(required=True, validate=CODE)
    code = ma.fields.String(
        required=True, validate=[ma.validate.Length(1, TEXT_LENGTH_MAX), ma.validate.Regexp(r"^[!-~]+(?!\n)$")]
    )


class WeighingLineEntry(ma.Schema):
    """One line: gross, tare and net in grams, or pieces."""

    material = ma.fields.String(required=True, validate=CODE)
    gross_g = ma.fields.Integer(strict=True, validate=ma.validate.Range(1, GROSS_G_MAX))
    tare_g = ma.fields.Integer(strict=True, validate=ma.validate.Range(0, GROSS_G_MAX))
    net_g = ma.fields.Integer(strict=True, validate=ma.validate.Range(1, GROSS_G_MAX))
    pieces = ma.fields.Integer(strict=True, validate=ma.validate.Range(1, PIECES_MAX))


class WeighingSlipEntry(ma.Schema):
    """What was weighed; after the first slip, with the reason of the correction."""

    items = ma.fields.List(
        ma.fields.Nested(WeighingLineEntry), required=True, validate=ma.validate.Length(1, ITEMS_MAX)
    )
    scale = ma.fields.String(
        load_default=None,
        validate=[ma.validate.Length(1, 40), TRIMMED_LINE],
        metadata={"description": "The scale's own number"},
    )
    reason = ma.fields.String(load_default="", validate=[ma.validate.Length(max=REASON_LENGTH_MAX), WORDS_OR_NOTHING])


class CorrectedSlipEntry(ma.Schema):
    """What is right, as a reviewer found; no line at all: nothing was handed over."""

    items = ma.fields.List(
        ma.fields.Nested(WeighingLineEntry), required=True, validate=ma.validate.Length(0, ITEMS_MAX)
    )
    reason = ma.fields.String(required=True, validate=REASON)


class PlanFields(ma.Schema):
    """When and where collectors come."""

    name = ma.fields.String(validate=[ma.validate.Length(1, 80), TRIMMED_LINE])
    address = ma.fields.String(allow_none=True, validate=[ma.validate.Length(1, 200), LINE])
    longitude = ma.fields.Float(
        allow_none=True, validate=ma.validate.Range(73, 136), metadata={"description": "WGS-84"}
    )
    latitude = ma.fields.Float(allow_none=True, validate=ma.validate.Range(3, 54))
    weekdays = ma.fields.List(
        ma.fields.Integer(strict=True, validate=ma.validate.Range(1, 7)),
        validate=ma.validate.Length(max=7),
        metadata={"description": "1 = Monday"},
    )
    days = ma.fields.List(ma.fields.Date(validate=in_our_time), validate=ma.validate.Length(max=DAYS_MAX))
    closed_days = ma.fields.List(ma.fields.Date(validate=in_our_time), validate=ma.validate.Length(max=DAYS_MAX))
    starts_minute = ma.fields.Integer(
        strict=True, validate=ma.validate.Range(0, 1439), metadata={"description": "Minutes from midnight in Shanghai"}
    )
    ends_minute = ma.fields.Integer(strict=True, validate=ma.validate.Range(1, 1440))
    capacity = ma.fields.Integer(strict=True, validate=ma.validate.Range(1, CAPACITY_MAX))
    valid_to = ma.fields.Date(allow_none=True, validate=in_our_time)


class CollectionPlanEntry(PlanFields):
    """A new plan."""

    kind = ma.fields.Enum(PlanKind, by_value=True, required=True)
    code = ma.fields.String(
        required=True, validate=[ma.validate.Length(1, 40), ma.validate.Regexp(r"^[a-z0-9][a-z0-9-]*(?!\n)$")]
    )
    name = ma.fields.String(required=True, validate=[ma.validate.Length(1, 80), TRIMMED_LINE])
    division = ma.fields.String(required=True, validate=DIVISION)
    starts_minute = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(0, 1439))
    ends_minute = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(1, 1440))
    capacity = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(1, CAPACITY_MAX))
    valid_from = ma.fields.Date(required=True, validate=in_our_time)


class CollectionPlanEdit(PlanFields):
    """What may be changed of a plan; orders made keep their hours."""


class CollectionPlanView(ma.Schema):
    """One plan."""

    kind = ma.fields.Enum(PlanKind, by_value=True, required=True)
    code = ma.fields.String(required=True)
    name = ma.fields.String(required=True)
    division = ma.fields.String(required=True)
    address = ma.fields.String(required=True, allow_none=True)
    longitude = ma.fields.Float(required=True, allow_none=True)
    latitude = ma.fields.Float(required=True, allow_none=True)
    weekdays = ma.fields.List(ma.fields.Integer(), required=True)
    days = ma.fields.List(ma.fields.Date(), required=True)
    closed_days = ma.fields.List(ma.fields.Date(), required=True)
    starts_minute = ma.fields.Integer(required=True)
    ends_minute = ma.fields.Integer(required=True)
    capacity = ma.fields.Integer(required=True)
    valid_from = ma.fields.Date(required=True)
    valid_to = ma.fields.Date(required=True, allow_none=True)
    demonstration = ma.fields.Boolean(required=True)
    version = ma.fields.Integer(required=True)


CollectionPlanPage = page_schema(CollectionPlanView)


class PlanListQuery(PageQuery):
    """Which plans."""

    kind = ma.fields.Enum(PlanKind, by_value=True, load_default=None)


# Collectors


@blueprint.get("/orders")
@require(Permission.RECYCLING_COLLECT)
@blueprint.arguments(OrderListQuery, location="query")
@blueprint.response(200, WaitingOrderPage)
def list_collectors_orders(query: dict[str, Any]) -> Page[RecyclingOrder]:
    """待接订单与我的订单. Orders that wait in one's scope, or (`mine`) those one has taken on."""
    with transaction() as session:
        return orders.collectors_orders(session, actor(), **query)


@blueprint.post("/orders")
@require(Permission.RECYCLING_COLLECT)
@limiter.limit(SCANS)
@idempotent
@blueprint.arguments(WalkInEntry)
@blueprint.response(201, CollectedOrderView)
def receive_walk_in(entry: dict[str, Any]) -> WholeOrder:
    """线下交投. Receive somebody at the point or the van by their code or card."""
    found = {"text": entry["code"], "way": entry["way"], "place": entry["place"]}
    return run_transaction(
        lambda session: whole(
            session, orders.receive(session, actor(), **found, data_key=settings().data_key, now=now())
        )
    )


@blueprint.get("/orders/<uuid:order_id>")
@require(Permission.RECYCLING_COLLECT)
@blueprint.response(200, CollectorOrderView)
def read_collectors_order(order_id: UUID) -> WholeOrder:
    """订单详情. An order that waits in one's scope or is one's own; the address while one is on the way."""
    with transaction() as session:
        return _seen(session, orders.collectors_order(session, actor(), order_id))


@blueprint.post("/orders/<uuid:order_id>/acceptance")
@require(Permission.RECYCLING_COLLECT)
@idempotent
@blueprint.response(200, CollectedOrderView)
def accept_order(order_id: UUID) -> WholeOrder:
    """接单. Take an order on."""
    return run_transaction(lambda session: whole(session, orders.accept(session, actor(), order_id, now=now())))


@blueprint.post("/orders/<uuid:order_id>/hand-back")
@require(Permission.RECYCLING_COLLECT)
@idempotent
@blueprint.arguments(OrderReasonEntry)
@blueprint.response(200, CollectedOrderView)
def hand_order_back(entry: dict[str, Any], order_id: UUID) -> WholeOrder:
    """退回订单. Give an order back for a colleague."""
    return run_transaction(
        lambda session: whole(session, orders.hand_back(session, actor(), order_id, **entry, now=now()))
    )


@blueprint.post("/orders/<uuid:order_id>/departure")
@require(Permission.RECYCLING_COLLECT)
@idempotent
@blueprint.response(200, CollectedOrderView)
def depart_for_order(order_id: UUID) -> WholeOrder:
    """出发. Say that one is on the way."""
    return run_transaction(lambda session: whole(session, orders.depart(session, actor(), order_id, now=now())))


@blueprint.post("/orders/<uuid:order_id>/cancellation")
@require(Permission.RECYCLING_COLLECT)
@idempotent
@blueprint.arguments(OrderReasonEntry)
@blueprint.response(200, CollectedOrderView)
def cancel_accepted_order(entry: dict[str, Any], order_id: UUID) -> WholeOrder:
    """回收员取消. Cancel what one has accepted, with a reason that the resident reads."""
    return run_transaction(
        lambda session: whole(session, orders.cancel_as_collector(session, actor(), order_id, **entry, now=now()))
    )


@blueprint.post("/orders/<uuid:order_id>/resident-no-show")
@require(Permission.RECYCLING_COLLECT)
@idempotent
@blueprint.response(200, CollectedOrderView)
def report_resident_no_show(order_id: UUID) -> WholeOrder:
    """居民爽约. Say that nobody was there."""
    return run_transaction(
        lambda session: whole(session, orders.report_resident_missed(session, actor(), order_id, now=now()))
    )


@blueprint.post("/orders/<uuid:order_id>/slips")
@require(Permission.RECYCLING_COLLECT)
@idempotent
@blueprint.arguments(WeighingSlipEntry)
@blueprint.response(201, WeighingSlipView)
def weigh_order(entry: dict[str, Any], order_id: UUID) -> SlipSheet:
    """称重. Write the weighing slip; again, with a reason, to correct it."""
    lines = [Line(**each) for each in entry["items"]]
    return run_transaction(
        lambda session: weighing.weigh(
            session, actor(), order_id, lines, scale=entry["scale"], reason=entry["reason"], now=now()
        )
    )


# Disputes


@blueprint.get("/disputes/<uuid:order_id>")
@require(Permission.REVIEW_READ)
@blueprint.response(200, CollectedOrderView)
def read_disputed_order(order_id: UUID) -> WholeOrder:
    """争议订单. A disputed order with its slips and moves, without the address."""
    with transaction() as session:
        return whole(session, orders.read_disputed(session, actor(), order_id, now=now()))


@blueprint.post("/disputes/<uuid:order_id>/slips")
@require(Permission.REVIEW_DECIDE)
@idempotent
@blueprint.arguments(CorrectedSlipEntry)
@blueprint.response(201, WeighingSlipView)
def correct_disputed_order(entry: dict[str, Any], order_id: UUID) -> SlipSheet:
    """复核更正. Write the slip that is right, before deciding the case for the resident."""
    lines = [Line(**each) for each in entry["items"]]
    return run_transaction(
        lambda session: settling.correct(session, actor(), order_id, lines, reason=entry["reason"], now=now())
    )


# The timetable


@blueprint.get("/plans")
@require(Permission.SITE_MANAGE)
@blueprint.arguments(PlanListQuery, location="query")
@blueprint.response(200, CollectionPlanPage)
def list_plans(query: dict[str, Any]) -> Page[CollectionPlan]:
    """回收安排. The plans inside one's scope."""
    with transaction() as session:
        return timetable.list_plans(session, actor(), **query)


@blueprint.post("/plans")
@require(Permission.SITE_MANAGE)
@idempotent
@blueprint.arguments(CollectionPlanEntry)
@blueprint.response(201, CollectionPlanView)
def create_plan(entry: dict[str, Any]) -> Any:
    """新增回收安排. Add a stop of the van, or hours of calls at homes."""
    made = run_transaction(lambda session: timetable.create_plan(session, actor(), entry, now=now()))
    return made, etag_of(made.version)


@blueprint.get("/plans/<code>")
@require(Permission.SITE_MANAGE)
@blueprint.response(200, CollectionPlanView)
def read_plan(code: str) -> Any:
    """One plan."""
    with transaction() as session:
        found = timetable.plan_for(session, actor(), code)
    return found, etag_of(found.version)


@blueprint.patch("/plans/<code>")
@require(Permission.SITE_MANAGE)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(CollectionPlanEdit)
@blueprint.response(200, CollectionPlanView)
def edit_plan(headers: dict[str, Any], changes: dict[str, Any], code: str) -> Any:
    """修改回收安排. Change a plan that stands at the version named."""
    version = version_of(headers["if_match"])
    edited = run_transaction(
        lambda session: timetable.edit_plan(session, actor(), code, changes, version=version, now=now())
    )
    return edited, etag_of(edited.version)


def _seen(session: Session, order: RecyclingOrder) -> WholeOrder:
    """An order as a collector sees it: the doorstep is opened for whoever has accepted, until it is weighed."""
    near = order.collector_id == actor().id and order.state in AT_THE_DOOR
    return whole(session, order, doorstep=addresses.opened(settings().data_key, order) if near else None)
