"""Every hour: positions that are thirty days old go, and held rides whose ride record has come are settled."""

import procrastinate
import structlog

from points.travel import rides, tracks
from server.clock import now
from server.jobs import run_rounds

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
        "erased": run_rounds(lambda session: tracks.forget_old(session, now=now()), rounds_max=ROUNDS_MAX),
        "settled": run_rounds(rides.settle, rounds_max=ROUNDS_MAX),
    }
