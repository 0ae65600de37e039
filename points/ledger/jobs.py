"""Nightly: points end at midnight, Asia/Shanghai."""

import procrastinate
import structlog

from points.ledger import entries
from server.clock import now
from server.jobs import run_rounds

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

ROUNDS_MAX = 10_000  # × EXPIRY_BATCH lots: ten million in a night, then it goes on the next


@tasks.periodic(cron="10 16 * * *")  # 00:10 Asia/Shanghai; procrastinate's cron is in UTC
@tasks.task(name="expire_lots", queueing_lock="expire-lots", pass_context=False)
def expire_lots(timestamp: int) -> None:
    """Empty every lot whose last day is over, in small transactions."""
    total = run_rounds(lambda session: entries.expire(session, now=now()), rounds_max=ROUNDS_MAX)
    log.info("lots_expired", lots=total, scheduled_at=timestamp)
