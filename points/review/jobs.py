"""Every few minutes: look, and put what waits into the queue. At night: once more over the day, norms, forgetting."""

import procrastinate
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from points.review import appeals, detecting, held, norms
from server.clock import now
from server.database import run_transaction
from server.jobs import run_rounds

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

ROUNDS_MAX = 200


@tasks.periodic(cron="*/3 * * * *")
@tasks.task(name="look_for_findings", queueing_lock="look-for-findings", pass_context=False)
def look_for_findings(timestamp: int) -> None:
    """Let the detectors look at what was recorded since they last did, then open a case for all that waits."""
    brought = run_transaction(_look_since_last)
    opened = open_everything_waiting()
    if brought or opened:
        log.info("findings_looked_for", leads=brought, held=opened, scheduled_at=timestamp)


@tasks.periodic(cron="10 * * * *")
@tasks.task(name="end_settled_cases", queueing_lock="end-settled-cases", pass_context=False)
def end_settled_cases(timestamp: int) -> None:
    """End the cases about what was settled by another hand."""
    ended = run_transaction(lambda session: held.supersede_settled(session, now=now()))
    if ended:
        log.info("settled_cases_ended", cases=ended, scheduled_at=timestamp)


@tasks.periodic(cron="30 19 * * *")  # 03:30 Asia/Shanghai
@tasks.task(name="look_over_night", queueing_lock="look-over-night", pass_context=False)
def look_over_night(timestamp: int) -> None:
    """Compute the usual weights anew, look once more at the whole day, and forget what is past its keeping."""
    computed = run_transaction(_compute_norms)
    brought = run_transaction(_look_over_night)
    forgotten = run_rounds(
        lambda session: norms.forget_phones(session, now=now()) + appeals.forget_old_texts(session, now=now()),
        rounds_max=ROUNDS_MAX,
    )
    log.info("night_looked_over", norms=computed, leads=brought, forgotten=forgotten, scheduled_at=timestamp)


def open_everything_waiting() -> int:
    """Open a case for every held claim without one, in transactions of bounded size; how many."""
    return run_rounds(
        lambda session: held.open_waiting(session, now=now()),
        rounds_max=ROUNDS_MAX,
        full_round=held.OPENED_AT_ONCE_MAX,
    )


def _compute_norms(session: Session) -> int:
    _unhurried(session)
    return norms.compute(session, now=now())


def _look_since_last(session: Session) -> int:
    _unhurried(session)
    return detecting.look_since_last(session, detecting.installed(), now=now())


def _look_over_night(session: Session) -> int:
    _unhurried(session)
    return detecting.look_over_night(session, detecting.installed(), now=now())


def _unhurried(session: Session) -> None:
    # A day of a whole district takes longer than a statement of a request may.
    session.execute(sa.text("SET LOCAL statement_timeout = '30min'"))
