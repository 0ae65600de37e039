"""Nightly: campaigns whose last day is over are closed."""

import procrastinate
import structlog

from campaigns.drives.campaigns import close_ended
from server.clock import now
from server.database import run_transaction

tasks = procrastinate.Blueprint()
log = structlog.get_logger()


@tasks.periodic(cron="5 16 * * *")  # 00:05 Asia/Shanghai
@tasks.task(name="close_ended_campaigns", queueing_lock="close-ended-campaigns", pass_context=False)
def close_ended_campaigns(timestamp: int) -> None:
    """Close every open campaign that ended before today. Joining is judged at the moment of joining, not by this."""
    closed = run_transaction(lambda session: close_ended(session, now=now()))
    log.info("campaigns_closed", campaigns=len(closed), scheduled_at=timestamp)
