"""Drawing the hidden spot-checks, and closing those whose time is over."""

import procrastinate
import structlog
from sqlalchemy.orm import Session

from points.waste.drops import spot_checks
from server.clock import now
from server.database import run_transaction
from server.jobs import run_rounds
from server.settings import settings

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

ROUNDS_MAX = 100
DRAWING_ROUNDS_MAX = 1000  # five million drops, or six weeks in which no worker ran


@tasks.periodic(cron="*/5 * * * *")
@tasks.task(name="draw_spot_checks", queueing_lock="draw-spot-checks", pass_context=False)
def draw_spot_checks(timestamp: int) -> None:
    """Draw from what was recorded since the last time."""
    log.info("spot_checks_drawn", checks=draw_now(), scheduled_at=timestamp)


def draw_now() -> int:
    """Draw in small transactions until all is drawn from that was recorded up to now; the number of new checks."""
    to, drawn = run_transaction(spot_checks.begin_drawing), {}

    def draw_round(session: Session) -> int:
        made = spot_checks.draw(session, to=to, data_key=settings().data_key, now=now())
        drawn[made.since] = made.checks  # by where it began: a round that is done again counts once
        return int(made.more)

    run_rounds(draw_round, rounds_max=DRAWING_ROUNDS_MAX)
    return sum(drawn.values())


@tasks.periodic(cron="7 * * * *")
@tasks.task(name="expire_spot_checks", queueing_lock="expire-spot-checks", pass_context=False)
def expire_spot_checks(timestamp: int) -> None:
    """Close in small transactions until none is late."""
    total = run_rounds(lambda session: spot_checks.expire(session, now=now()), rounds_max=ROUNDS_MAX)
    log.info("spot_checks_expired", checks=total, scheduled_at=timestamp)
