"""Recycling booked by telephone over HTTP: staff of a resident's place enter what the resident says."""

from typing import Any
from uuid import UUID

import marshmallow as ma
from sqlalchemy.orm import Session

from points.waste.orders import booking
from points.waste.orders.addresses import Doorstep
from points.waste.orders.models import RecyclingOrder, Way
from points.waste.orders.orders import Wish
from points.waste.orders.routes import (
    OrderReasonEntry,
    RecyclingOrderEntry,
    RecyclingOrderPage,
    SlipDisputeEntry,
    WholeOrder,
    whole,
)
from points.waste.orders.staff_routes import CollectedOrderView
from server.access import Permission, actor, require
from server.api import Blueprint
from server.clock import now
from server.database import run_transaction, transaction
from server.idempotency import idempotent
from server.limits import limiter
from server.paging import Page, PageQuery
from server.settings import settings

blueprint = Blueprint(
    "recycling-bookings",
    __name__,
    url_prefix="/api/v1/residents/<uuid:resident_id>/recycling/orders",
    description="电话预约回收 · Recycling booked by telephone, by staff for a resident",
)

# A long day at the telephone; the open orders of each resident are limited as well.
BOOKINGS_A_DAY = "120 per day"


class BookingEntry(RecyclingOrderEntry):
    """What a resident asks for on the telephone. A visit to a collection point wants no booking."""

    way = ma.fields.Enum(
        Way,
        by_value=True,
        required=True,
        validate=ma.validate.OneOf([Way.STOP, Way.HOME]),
        metadata={"description": "流动车 stop, 预约上门 home"},
    )


@blueprint.get("")
@require(Permission.RESIDENT_ASSIST)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, RecyclingOrderPage)
def list_booked_orders(query: dict[str, Any], resident_id: UUID) -> Page[RecyclingOrder]:
    """居民的回收订单. What was booked for a resident; of one without a phone every order. Newest first."""
    with transaction() as session:
        return booking.orders_of(session, actor(), resident_id, now=now(), **query)


@blueprint.post("")
@require(Permission.RESIDENT_ASSIST)
@limiter.limit(BOOKINGS_A_DAY)
@idempotent
@blueprint.arguments(BookingEntry)
@blueprint.response(201, CollectedOrderView)
def book_order(entry: dict[str, Any], resident_id: UUID) -> WholeOrder:
    """电话预约. Book a call at home or a place at a stop for a resident who telephones. The address is sealed."""
    doorstep = None if entry["address"] is None else Doorstep(entry["address"], entry["note"])
    wish = Wish(entry["way"], entry["place"], entry["day"], entry["materials"], doorstep)

    def work(session: Session) -> WholeOrder:
        made = booking.book(session, actor(), resident_id, wish, data_key=settings().data_key, now=now())
        return whole(session, made)

    return run_transaction(work)


@blueprint.get("/<uuid:order_id>")
@require(Permission.RESIDENT_ASSIST)
@blueprint.response(200, CollectedOrderView)
def read_booked_order(resident_id: UUID, order_id: UUID) -> WholeOrder:
    """订单与称重单. One of these orders with its slips, to read out; without the address and the points."""
    with transaction() as session:
        return whole(session, booking.order_for(session, actor(), resident_id, order_id, now=now()))


@blueprint.post("/<uuid:order_id>/cancellation")
@require(Permission.RESIDENT_ASSIST)
@idempotent
@blueprint.arguments(OrderReasonEntry)
@blueprint.response(200, CollectedOrderView)
def cancel_booked_order(entry: dict[str, Any], resident_id: UUID, order_id: UUID) -> WholeOrder:
    """代居民取消. Cancel for a resident before the deadline."""
    return run_transaction(
        lambda session: whole(session, booking.cancel(session, actor(), resident_id, order_id, **entry, now=now()))
    )


@blueprint.post("/<uuid:order_id>/dispute")
@require(Permission.RESIDENT_ASSIST)
@idempotent
@blueprint.arguments(SlipDisputeEntry)
@blueprint.response(200, CollectedOrderView)
def dispute_booked_order(entry: dict[str, Any], resident_id: UUID, order_id: UUID) -> WholeOrder:
    """代居民提出异议. Dispute the weighing slip for a resident: a colleague decides."""
    return run_transaction(
        lambda session: whole(session, booking.dispute(session, actor(), resident_id, order_id, **entry, now=now()))
    )


@blueprint.post("/<uuid:order_id>/collector-no-show")
@require(Permission.RESIDENT_ASSIST)
@idempotent
@blueprint.response(200, CollectedOrderView)
def report_no_show_of_collector(resident_id: UUID, order_id: UUID) -> WholeOrder:
    """代居民反映回收员未到场. Say for a resident that nobody came."""
    return run_transaction(
        lambda session: whole(
            session, booking.report_collector_missed(session, actor(), resident_id, order_id, now=now())
        )
    )
