"""A report's documents: drawn by another process outside any transaction, then kept beside the report."""

import hashlib
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.annual_report.content import Content, packed
from campaigns.annual_report.models import DOCUMENT, FILE_BYTES_MAX, AnnualReport, AnnualReportFile, ReportState
from server.errors import DomainError, NotFound

log = structlog.get_logger()

ROOT = Path(__file__).resolve().parents[2]
# Isolated, so that neither the environment nor the current folder decides what is imported; only this tree is added.
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from campaigns.annual_report.drawing import main; main()"
# Some seconds on a busy machine; the child's own limit on processor time is the same.
SECONDS_MAX = 120.0
FILES_MAX = 20
# One at a time in a process: it takes a quarter of a gigabyte.
_ONE = threading.BoundedSemaphore(1)

MEDIA_TYPES = {
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "svg": "image/svg+xml",
}
_NAME = re.compile("[a-z0-9-]{1,50}[.](docx|svg)")


class DrawingFailed(DomainError):
    """The documents could not be drawn; the service's log says why. The report itself stands."""

    code, status, title_zh, title_en = (
        "annual-report-drawing-failed",
        500,
        "报告文件生成失败",
        "The report's documents could not be drawn",
    )


def draw(content: Content) -> dict[str, bytes]:
    """The files of a report by name, in some seconds. Raises DrawingFailed."""
    with _ONE, tempfile.TemporaryDirectory(prefix="tanpuhui-") as folder:
        # matplotlib keeps a list of the machine's fonts; here it is forgotten with the folder.
        environment = {"LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "MPLCONFIGDIR": folder, "HOME": folder}
        try:
            done = subprocess.run(  # noqa: S603 -- our own program, with nothing of the report in its arguments
                [sys.executable, "-I", "-c", PROGRAM, str(ROOT)],
                input=packed(content),
                capture_output=True,
                timeout=SECONDS_MAX,
                env=environment,
                cwd="/",
                check=False,
            )
        except subprocess.TimeoutExpired:
            log.warning("annual_report_drawing_ended", because="time")
            raise DrawingFailed from None
    if done.returncode != 0:
        said = done.stderr[-2000:].decode(errors="replace")
        log.warning("annual_report_drawing_ended", because="exit", code=done.returncode, said=said)
        raise DrawingFailed
    try:
        files = msgspec.msgpack.decode(done.stdout, type=dict[str, bytes])
    except msgspec.DecodeError:
        log.warning("annual_report_drawing_ended", because="answer")
        raise DrawingFailed from None
    if DOCUMENT not in files or len(files) > FILES_MAX or max(map(len, files.values())) > FILE_BYTES_MAX:
        raise DrawingFailed
    return files


def keep(session: Session, report_id: UUID, files: Mapping[str, bytes]) -> bool:
    """Keep a draft's files; False when it was thrown away meanwhile, or has them already.

    Two runs of the job draw the same bytes, so it does not matter whose are kept.
    """
    # Held until the commit: nobody publishes or throws it away in between.
    is_draft = sa.update(AnnualReport).where(AnnualReport.id == report_id, AnnualReport.state == ReportState.DRAFT)
    if session.scalar(is_draft.values(problem=None).returning(AnnualReport.id)) is None:
        return False
    rows = [
        {"report_id": report_id, "name": name, "sha256": hashlib.sha256(content).digest(), "content": content}
        for name, content in sorted(files.items())
    ]
    return bool(
        session.execute(
            insert(AnnualReportFile).values(rows).on_conflict_do_nothing().returning(AnnualReportFile.name)
        ).all()
    )


def tell_failure(session: Session, report_id: UUID, *, problem: str) -> None:
    """Note why a draft has no documents; `problem` is an error's code."""
    session.execute(
        sa.update(AnnualReport)
        .where(AnnualReport.id == report_id, AnnualReport.state == ReportState.DRAFT)
        .values(problem=problem)
    )


def names_of(session: Session, report_id: UUID) -> list[str]:
    """The names of a report's files."""
    wanted = sa.select(AnnualReportFile.name).where(AnnualReportFile.report_id == report_id)
    return list(session.scalars(wanted.order_by(AnnualReportFile.name)))


def file_of(session: Session, report_id: UUID, name: str) -> AnnualReportFile:
    """One file of a report that the caller may read. Raises NotFound."""
    if _NAME.fullmatch(name) is None:
        raise NotFound
    found = session.get(AnnualReportFile, (report_id, name))
    if found is None:
        raise NotFound
    return found


def media_type(name: str) -> str:
    """The media type of a file of ours."""
    return MEDIA_TYPES[name.rpartition(".")[2]]
