"""Nightly: stored answers of batches and dead letters past their keeping are deleted."""

import procrastinate
import structlog

from points.partners import feed
from server.clock import now
from server.database import run_transaction

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

ROUNDS_MAX = 1000


@tasks.periodic(cron="20 19 * * *")  # 03:20 Asia/Shanghai
@tasks.task(name="forget_old_batches", queueing_lock="forget-old-batches", pass_context=False)
def forget_old_batches(timestamp: int) -> None:
    """Delete in small transactions until nothing old is left."""
    total = 0
    for _ in range(ROUNDS_MAX):
        deleted = run_transaction(lambda session: feed.forget_old(session, now=now()))
        total += deleted
        if not deleted:
            break
    log.info("old_batches_forgotten", rows=total, scheduled_at=timestamp)
