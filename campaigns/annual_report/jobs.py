"""Drawing a report's documents."""

from uuid import UUID

import procrastinate
import structlog

from campaigns.annual_report import documents
from campaigns.annual_report.content import Content
from campaigns.annual_report.models import AnnualReport, ReportState
from campaigns.annual_report.reports import content_of
from server.database import run_transaction, transaction
from server.errors import DomainError, InternalError

tasks = procrastinate.Blueprint()
log = structlog.get_logger()


@tasks.task(name="draw", pass_context=False)
def draw(report_id: str) -> None:
    """Draw the documents of a draft. Run again after its worker died, it draws the same bytes."""
    draw_documents(UUID(report_id))


def draw_documents(report_id: UUID) -> None:
    """Draw and keep the documents of a draft; nothing for one that is gone. Raises DrawingFailed."""
    content = _content_of_draft(report_id)
    if content is None:
        return
    try:
        files = documents.draw(content)
    except DomainError as failure:
        _tell(report_id, failure.code)
        raise
    except Exception:
        _tell(report_id, InternalError.code)
        raise
    kept = run_transaction(lambda session: documents.keep(session, report_id, files))
    log.info("annual_report_drawn", report_id=str(report_id), files=len(files), kept=kept)


def _content_of_draft(report_id: UUID) -> Content | None:
    with transaction() as session:
        found = session.get(AnnualReport, report_id)
        return content_of(found) if found is not None and found.state is ReportState.DRAFT else None


def _tell(report_id: UUID, problem: str) -> None:
    run_transaction(lambda session: documents.tell_failure(session, report_id, problem=problem))
