"""Nightly: points end at midnight, Asia/Shanghai."""

import procrastinate
import structlog

from points.ledger import entries
from server.clock import now
from server.database import run_transaction

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

ROUNDS_MAX = 10_000  # × EXPIRY_BATCH lots: ten million in a night, then it goes on the next


@tasks.periodic(cron="10 16 * * *")  # 00:10 Asia/Shanghai; procrastinate's cron is in UTC
@tasks.task(name="expire_lots", queueing_lock="expire-lots", pass_context=False)
def expire_lots(timestamp: int) -> None:
    """Empty every lot whose last day is over, in small transactions."""
    total = 0
    for _ in range(ROUNDS_MAX):
        emptied = run_transaction(lambda session: entries.expire(session, now=now()))
        total += emptied
        if not emptied:
            break
    log.info("lots_expired", lots=total, scheduled_at=timestamp)
