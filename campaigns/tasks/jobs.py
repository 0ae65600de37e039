"""Standings of campaigns under way, kept from growing old; and evidence, forgotten when it has served."""

from uuid import UUID

import procrastinate
import structlog

from campaigns.tasks.evidence import forget_old
from campaigns.tasks.standings import refresh_if_stale, stale_tasks
from server.clock import now
from server.database import run_transaction

tasks = procrastinate.Blueprint()
log = structlog.get_logger()


@tasks.task(name="refresh_standings", pass_context=False)
def refresh_standings(task_id: str) -> None:
    """Compute the standings of one task anew, unless they are fresh by now."""
    done = run_transaction(lambda session: refresh_if_stale(session, UUID(task_id), now=now()))
    log.info("standings_refreshed", task_id=task_id, done=done)


@tasks.periodic(cron="17 * * * *")
@tasks.task(name="refresh_stale_standings", queueing_lock="refresh-stale-standings", pass_context=False)
def refresh_stale_standings(timestamp: int) -> None:
    """Compute what is old anew, each task in a transaction of its own."""
    stale = run_transaction(lambda session: stale_tasks(session, now=now()))
    done = sum(_refreshed(task_id) for task_id in stale)
    log.info("stale_standings_refreshed", tasks=done, of=len(stale), scheduled_at=timestamp)


def _refreshed(task_id: UUID) -> bool:
    return run_transaction(lambda session: refresh_if_stale(session, task_id, now=now()))


@tasks.periodic(cron="40 19 * * *")  # 03:40 in Shanghai
@tasks.task(name="forget_evidence", queueing_lock="forget-evidence", pass_context=False)
def forget_evidence(timestamp: int) -> None:
    """Delete the files of uploads whose campaign has been over for long enough."""
    forgotten = run_transaction(lambda session: forget_old(session, now=now()))
    log.info("evidence_forgotten", files=forgotten, scheduled_at=timestamp)
