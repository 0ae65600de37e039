"""Nightly: the kept counts are compared with the activities, and a difference is shouted about."""

import procrastinate
import structlog

from points.earning.counts import COUNT_CHECKS
from points.ledger import verification
from server.database import transaction

tasks = procrastinate.Blueprint()
log = structlog.get_logger()


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
