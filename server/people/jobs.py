"""Households: departures take effect when the day has ended."""

import procrastinate
import structlog

from server.clock import now
from server.database import run_transaction
from server.people import households

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

# Each round is a transaction of its own and moves a bounded number of rows; what is left waits for the next time.
ROUNDS_MAX = 100


# Just after midnight in Shanghai, and again, should the worker have been away.
@tasks.periodic(cron="1,31 * * * *")
@tasks.task(name="depart", queueing_lock="depart-households", lock="depart-households", pass_context=False)
def depart(timestamp: int) -> None:
    """Let those who asked to leave their household go, once the day has ended."""
    total = 0
    for _ in range(ROUNDS_MAX):
        gone = run_transaction(lambda session: households.depart(session, now=now()))
        total += gone
        if gone < households.DEPARTURES_AT_ONCE:
            break
    log.info("departed", residents=total, scheduled_at=timestamp)
