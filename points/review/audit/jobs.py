"""Drawing: what was asked for, and by itself every quarter that has ended."""

from uuid import UUID

import procrastinate
import sqlalchemy as sa
import structlog
from flask import current_app

from points.review.audit import drawing
from points.review.audit.models import RandomAudit
from server.clock import business_day, now
from server.database import run_transaction, transaction
from server.errors import DomainError
from server.settings import settings

tasks = procrastinate.Blueprint()
log = structlog.get_logger()


def draw_sample(audit_id: UUID) -> RandomAudit | None:
    """Draw an audit's sample in a transaction of its own; None when it is drawn already. Raises TooManyStrata."""
    with transaction() as session:
        # A quarter may be hundreds of millions of claims.
        session.execute(sa.text("SET LOCAL statement_timeout = '30min'"))
        return drawing.draw(session, audit_id, now=now())


@tasks.task(name="draw", pass_context=False)
def draw(audit_id: str) -> None:
    """Draw the sample of an audit. Run again after its worker died, it draws the same."""
    try:
        made = draw_sample(UUID(audit_id))
    except DomainError as refusal:
        code = refusal.code
        run_transaction(
            lambda session: session.execute(
                sa.update(RandomAudit)
                .where(RandomAudit.id == UUID(audit_id), RandomAudit.drawn_at.is_(None))
                .values(problem=code)
            )
        )
        raise
    if made is not None:
        log.info("random_audit_drawn", quarter=drawing.name_of(made.starts_on), items=made.items_count)


@tasks.periodic(cron="0 21 * * *")  # 05:00 Asia/Shanghai
@tasks.task(name="request_due", queueing_lock="request-random-audits", pass_context=False)
def request_due(timestamp: int) -> None:
    """Ask for the audits of the quarters that lately ended, until they are drawn; a missing plan is told every day."""
    folder = settings().district_folder
    jobs = current_app.extensions["tanpuhui_jobs"]
    with transaction() as session:
        due = drawing.due_quarters(session, today=business_day(now()))
    for starts_on in due:
        try:
            with transaction() as session:
                drawing.request(session, None, folder, starts_on, jobs=jobs, now=now())
        except DomainError as refusal:
            log.error(
                "random_audit_failed",
                quarter=drawing.name_of(starts_on),
                reason=refusal.code,
                scheduled_at=timestamp,
            )
