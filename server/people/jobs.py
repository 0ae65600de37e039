"""Households: departures take effect when the day has ended."""

import procrastinate
import structlog

from server.clock import now
from server.jobs import run_rounds
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
    total = run_rounds(
        lambda session: households.depart(session, now=now()),
        rounds_max=ROUNDS_MAX,
        full_round=households.DEPARTURES_AT_ONCE,
    )
    log.info("departed", residents=total, scheduled_at=timestamp)
