"""Every hour: positions that are thirty days old go, and held rides whose ride record has come are settled."""

from collections.abc import Callable

import procrastinate
import structlog
from sqlalchemy.orm import Session

from points.travel import rides, tracks
from server.clock import now
from server.database import run_transaction

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

ROUNDS_MAX = 1_000


@tasks.periodic(cron="25 * * * *")
@tasks.task(name="tracks_hourly", queueing_lock="tracks-hourly", lock="tracks-hourly", pass_context=False)
def tracks_hourly(timestamp: int) -> None:
    """Do what the hour brings. Twice in an hour changes nothing more."""
    log.info("tracks_hourly", scheduled_at=timestamp, **run_due())


def run_due() -> dict[str, int]:
    """Everything that is due, each round a transaction of its own; how many tracks were erased, and rides settled."""
    return {
        "erased": _until_nothing_is_left(lambda session: tracks.forget_old(session, now=now())),
        "settled": _until_nothing_is_left(lambda session: rides.settle(session, now=now())),
    }


def _until_nothing_is_left(work: Callable[[Session], int]) -> int:
    total = 0
    for _ in range(ROUNDS_MAX):
        done = run_transaction(work)
        if done == 0:
            break
        total += done
    return total
