"""Nightly: the kept counts are compared with the activities, and bounds of days long past are forgotten."""

import procrastinate
import structlog

from points.earning import bounds
from points.earning.counts import COUNT_CHECKS
from points.ledger import verification
from server.clock import business_day, now
from server.database import transaction
from server.jobs import run_rounds

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

ROUNDS_MAX = 1000


@tasks.periodic(cron="40 18 * * *")  # 02:40 Asia/Shanghai
@tasks.task(name="check_counts", queueing_lock="check-counts", pass_context=False)
def check_counts(timestamp: int) -> None:
    """Log every check of the ledger and the counts; an error line for one that fails is what operators alert on."""
    with transaction() as session:
        for finding in verification.run(session, verification.LEDGER_CHECKS + COUNT_CHECKS):
            if finding.first_wrong is None:
                log.info("check_passed", check=finding.name, rows=finding.looked_at, scheduled_at=timestamp)
            else:
                log.error("check_failed", check=finding.name, first_wrong=str(finding.first_wrong)[:500])


@tasks.periodic(cron="30 19 * * *")  # 03:30 Asia/Shanghai
@tasks.task(name="forget_old_bounds", queueing_lock="forget-old-bounds", pass_context=False)
def forget_old_bounds(timestamp: int) -> None:
    """Delete in small transactions until nothing old is left."""
    total = run_rounds(lambda session: bounds.forget_old(session, today=business_day(now())), rounds_max=ROUNDS_MAX)
    log.info("old_bounds_forgotten", rows=total, scheduled_at=timestamp)
