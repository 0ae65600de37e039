"""Drawing the hidden spot-checks, and closing those whose time is over."""

import procrastinate
import structlog
from flask import current_app

from points.waste.drops import spot_checks
from server.clock import now
from server.database import run_transaction
from server.jobs import run_rounds
from server.settings import Settings

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

ROUNDS_MAX = 100


@tasks.periodic(cron="*/5 * * * *")
@tasks.task(name="draw_spot_checks", queueing_lock="draw-spot-checks", pass_context=False)
def draw_spot_checks(timestamp: int) -> None:
    """Draw from what was recorded since the last time."""
    log.info("spot_checks_drawn", checks=draw_now(), scheduled_at=timestamp)


def draw_now() -> int:
    """Draw; the number of new checks."""
    settings: Settings = current_app.extensions["tanpuhui_settings"]
    return run_transaction(lambda session: spot_checks.draw(session, data_key=settings.data_key, now=now()))


@tasks.periodic(cron="7 * * * *")
@tasks.task(name="expire_spot_checks", queueing_lock="expire-spot-checks", pass_context=False)
def expire_spot_checks(timestamp: int) -> None:
    """Close in small transactions until none is late."""
    total = run_rounds(lambda session: spot_checks.expire(session, now=now()), rounds_max=ROUNDS_MAX)
    log.info("spot_checks_expired", checks=total, scheduled_at=timestamp)
