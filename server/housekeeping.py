"""Housekeeping of the ground floor: forgetting what has run out, and jobs that a dead worker left behind."""

from collections.abc import Callable
from functools import partial

import procrastinate
import structlog

from server import idempotency
from server.clock import now
from server.jobs import run_rounds
from server.notices import notices
from server.people import cards, code_uses, households, scans, sessions

log = structlog.get_logger()

tasks = procrastinate.Blueprint()

# Each round is a transaction of its own and deletes a bounded number of rows; what is left waits for tomorrow.
ROUNDS_MAX = 1_000
ATTEMPTS_MAX = 5

OLD: dict[str, Callable[..., int]] = {
    "idempotency_record": idempotency.forget_old,
    "sign_in": sessions.forget_old,
    "notice": notices.forget_old,
    "resident_code_use": code_uses.forget_old,
    "scanner_scan": scans.forget_old,
    "card_day": cards.forget_old,
    "household_stay": households.forget_old,
}


# 03:10 in Shanghai, when hardly anybody earns.
@tasks.periodic(cron="10 19 * * *")
@tasks.task(name="forget-old", queueing_lock="forget-old", lock="forget-old")
def forget_old(timestamp: int) -> None:  # noqa: ARG001 -- the periodic deferrer passes it
    """Delete stored answers, sign-ins and messages that have run out."""
    for name, forget in OLD.items():
        rows = run_rounds(partial(forget, now=now()), rounds_max=ROUNDS_MAX)
        log.info("forgotten", table=name, rows=rows)


@tasks.periodic(cron="*/5 * * * *")
@tasks.task(name="retry-stalled", queueing_lock="retry-stalled", pass_context=True)
async def retry_stalled(context: procrastinate.JobContext, timestamp: int) -> None:  # noqa: ARG001
    """Queue again the jobs whose worker died over them; every job may run twice. A job that keeps killing is left."""
    manager = context.app.job_manager
    for job in await manager.get_stalled_jobs():
        log.warning("job_stalled", job_id=job.id, task=job.task_name, attempts=job.attempts)
        if job.attempts < ATTEMPTS_MAX:
            await manager.retry_job(job)
