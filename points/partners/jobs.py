"""Nightly: stored answers of batches, dead letters and acts of devices past their keeping are deleted."""

from functools import partial

import procrastinate
import structlog

from points.partners import feed, sequences
from server.clock import now
from server.jobs import run_rounds

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

ROUNDS_MAX = 1000


@tasks.periodic(cron="20 19 * * *")  # 03:20 Asia/Shanghai
@tasks.task(name="forget_old_batches", queueing_lock="forget-old-batches", pass_context=False)
def forget_old_batches(timestamp: int) -> None:
    """Delete in small transactions until nothing old is left."""
    old = (feed.forget_old, sequences.forget_old)
    total = sum(run_rounds(partial(forget, now=now()), rounds_max=ROUNDS_MAX) for forget in old)
    log.info("old_batches_forgotten", rows=total, scheduled_at=timestamp)
