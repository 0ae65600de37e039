"""Every ten minutes: the moves that the day has brought."""

import procrastinate
import structlog

from campaigns.drives.moves import advance
from server.clock import now
from server.database import run_transaction

tasks = procrastinate.Blueprint()
log = structlog.get_logger()


@tasks.periodic(cron="*/10 * * * *")
@tasks.task(name="advance_campaigns", queueing_lock="advance-campaigns", pass_context=False)
def advance_campaigns(timestamp: int) -> None:
    """Start campaigns on their first day, end them after their last. Joining and acting go by the days themselves."""
    moved = run_transaction(lambda session: advance(session, now=now()))
    log.info(
        "campaigns_advanced",
        published=len(moved.published),
        started=len(moved.started),
        ended=len(moved.ended),
        scheduled_at=timestamp,
    )
