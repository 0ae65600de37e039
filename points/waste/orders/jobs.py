"""Every five minutes: orders whose time has come lapse or settle by silence; at night old addresses are forgotten."""

from functools import partial
from uuid import UUID

import procrastinate
import structlog
from sqlalchemy.orm import Session

from points.waste.orders import addresses, orders, settling
from points.waste.orders.steps import OrderState
from server.clock import now
from server.database import run_transaction, transaction
from server.jobs import run_rounds

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

# Each round does what one look finds; what is left waits for the next run.
ROUNDS_MAX = 50
FAILED_MAX = 100  # then it is not the orders that are at fault


@tasks.periodic(cron="*/5 * * * *")
@tasks.task(name="recycling_due", queueing_lock="recycling-due", lock="recycling-due", pass_context=False)
def recycling_due(timestamp: int) -> None:
    """Do what the clock has to do. Twice at once changes nothing more."""
    log.info("recycling_due", orders=run_due(), scheduled_at=timestamp)


@tasks.periodic(cron="50 19 * * *")  # 03:50 Asia/Shanghai
@tasks.task(name="forget_addresses", queueing_lock="forget-addresses", pass_context=False)
def forget_addresses(timestamp: int) -> None:
    """Forget the addresses of orders that ended long enough ago."""
    total = run_rounds(lambda session: addresses.forget(session, now=now()), rounds_max=ROUNDS_MAX)
    log.info("recycling_addresses_forgotten", rows=total, scheduled_at=timestamp)


def run_due() -> int:
    """Every order that is due, each in a transaction of its own; how many were moved.

    One that cannot be moved is logged, and keeps none behind it from its turn.
    """
    moved = 0
    failed: list[UUID] = []
    for _ in range(ROUNDS_MAX):
        with transaction() as session:
            found = orders.due(session, now=now(), without=failed)
        done = 0
        for resident_id, order_id in found:
            try:
                done += run_transaction(partial(_advance, resident_id, order_id))
            except Exception:
                log.exception("recycling_order_not_moved", order=str(order_id))
                failed.append(order_id)
        moved += done
        if not found or len(failed) > FAILED_MAX:
            break
    return moved


def _advance(resident_id: UUID, order_id: UUID, session: Session) -> bool:
    """Move one order by the clock, if it is still due: somebody may have moved it since the look."""
    instant = now()
    order = orders.hold(session, resident_id, order_id)
    if order.due_at is None or order.due_at > instant:
        return False
    if order.state is OrderState.WEIGHED:
        settling.confirm_by_silence(session, order, now=instant)
    else:
        orders.lapse(session, order, now=instant)
    return True
