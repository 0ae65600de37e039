"""Every day: what the clock moves, who is told of a step past its time, and what is forgotten."""

from functools import partial
from uuid import UUID

import procrastinate
import structlog

from campaigns.creation import notice, overdue, process
from campaigns.creation.steps import Move
from server.clock import now
from server.database import run_transaction, transaction
from server.jobs import run_rounds

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

ROUNDS_MAX = 100


@tasks.periodic(cron="10 16 * * *")  # 00:10 Asia/Shanghai
@tasks.task(name="creation_daily", queueing_lock="creation-daily", lock="creation-daily", pass_context=False)
def creation_daily(timestamp: int) -> None:
    """End notices, begin re-checks, tell of overdue steps, forget old contacts. Twice a day changes nothing more."""
    run_daily(scheduled_at=timestamp)


def run_daily(*, scheduled_at: int) -> dict[str, int]:
    """The day's work in transactions of its own; how many of each."""
    done = {"notices_ended": 0, "rechecks_begun": 0, "overdue_told": 0, "contacts_forgotten": 0}
    for name, due, step in (
        ("notices_ended", overdue.notices_over, Move.END_NOTICE),
        ("rechecks_begun", overdue.rechecks_due, Move.BEGIN_RECHECK),
    ):
        for _ in range(ROUNDS_MAX):
            with transaction() as session:
                waiting = due(session, now=now())
            # One transaction each: an application that cannot be moved holds up no other.
            moved = sum(_moved(application_id, step) for application_id in waiting)
            done[name] += moved
            if not moved:
                break
    for name, work in (("overdue_told", overdue.tell_overdue), ("contacts_forgotten", notice.forget_contacts)):
        done[name] = run_rounds(partial(work, now=now()), rounds_max=ROUNDS_MAX)
    log.info("creation_daily", scheduled_at=scheduled_at, **done)
    return done


def _moved(application_id: UUID, step: Move) -> bool:
    return run_transaction(lambda session: process.move_by_clock(session, application_id, step, now=now()))
