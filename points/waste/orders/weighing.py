"""Weighing: the collector writes the slip, and mends a slip of the finger while the resident has not spoken."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.orm import Session

from points.waste.orders import orders, slips
from points.waste.orders.models import COLLECTORS_SLIPS_MAX, RecyclingOrder
from points.waste.orders.orders import OrderMoveRefused
from points.waste.orders.slips import Line, SlipSheet, TooManySlips
from points.waste.orders.steps import OrderMove, OrderState, Party
from server.access import Actor
from server.clock import business_day
from server.errors import Conflict, ReasonRequired
from server.people import staff_links

# A correction gives the resident their days anew. Without an end the settlement could slip past the closing day for
# late records, and the points with it.
CORRECTED_WITHIN = timedelta(hours=24)


class CorrectionTooLate(Conflict):
    """A collector corrects within a day; later the resident disputes, and a person decides."""

    code, title_zh, title_en = (
        "correction-too-late",
        "已超过称重单更正期限",
        "It is too late to correct this slip",
    )


def weigh(
    session: Session,
    actor: Actor,
    order_id: UUID,
    lines: Sequence[Line],
    *,
    scale: str | None,
    reason: str,
    now: datetime,
) -> SlipSheet:
    """Write down what was weighed; a second time, with a reason, what was wrong. The resident is asked to confirm.

    Raises NotFound, OrderMoveRefused, SlipRefused, ReasonRequired, CorrectionTooLate, TooManySlips, StaffUnlinked,
    ServesOwnHousehold, CollectsOwnBooking.
    """
    order = orders.own_as_collector(session, actor, order_id)
    correcting = order.state is OrderState.WEIGHED
    step = OrderMove.CORRECT if correcting else OrderMove.WEIGH
    orders.require_move(order, step, Party.COLLECTOR)
    if business_day(now) < order.day:
        raise OrderMoveRefused(state=order.state.value, move=step.value)
    # Asked again at the scale: a collector may have moved in with somebody since they accepted, or been found to be
    # the same person as whoever booked.
    staff_links.require_may_serve(session, actor.id, order.resident_id, now=now)
    orders.require_not_own_booking(session, actor, order)
    if correcting:
        _require_correctable(session, order, reason, now=now)
    sheet = slips.make(
        session,
        order,
        lines,
        scale=scale,
        reason=reason.strip() if correcting else "",
        made_by=actor.id,
        now=now,
    )
    edition = orders.edition_of(session, order)
    orders.move(
        session,
        order,
        step,
        Party.COLLECTOR,
        by=actor,
        reason=sheet.slip.reason,
        now=now,
        slips=sheet.slip.position,
        due_at=now + timedelta(days=edition.confirm_days),
    )
    orders.tell_resident(
        session,
        order,
        f"称重单 {sheet.slip.number} 请在 {edition.confirm_days} 天内确认, 逾期视为确认",
        f"weighing slip {sheet.slip.number}: please confirm within {edition.confirm_days} days; silence confirms",
        now=now,
    )
    return sheet


def _require_correctable(session: Session, order: RecyclingOrder, reason: str, *, now: datetime) -> None:
    if not reason.strip():
        raise ReasonRequired
    if order.slips >= COLLECTORS_SLIPS_MAX:  # or no slip would be left for a dispute, which could then not be won
        raise TooManySlips
    if now > slips.weighed_at(slips.of_order(session, order)) + CORRECTED_WITHIN:
        raise CorrectionTooLate
