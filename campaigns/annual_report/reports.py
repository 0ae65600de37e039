"""Annual reports: made by one person of the district, published by another, and unchanged from then on.

A correction is a further revision that names the one it replaces; the old one can still be read.
"""

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from uuid import UUID

import msgspec
import procrastinate
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.annual_report import documents
from campaigns.annual_report.assessment import assess
from campaigns.annual_report.content import Content, digest
from campaigns.annual_report.models import (
    DOCUMENT,
    REVISIONS_MAX,
    YEAR_MAX,
    YEAR_MIN,
    AnnualReport,
    AnnualReportFile,
    ReportState,
)
from points.share.releases.goal import read_goal
from server import audit
from server import jobs as job_queue
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, DomainError, NotFound
from server.paging import Page, decode, page_of


class AnnualReportTooEarly(DomainError):
    """A year that has not begun has nothing to assess."""

    code, status, title_zh, title_en = (
        "annual-report-too-early",
        422,
        "该年度尚未开始",
        "The year has not begun",
    )


class AnnualReportYearNotOver(Conflict):
    """A draft can be made at any time; what is published says how the whole year was."""

    code, title_zh, title_en = (
        "annual-report-year-not-over",
        "年度尚未结束, 不能发布",
        "The year is not over; the report stays a draft until then",
    )


class AnnualReportReasonMissing(DomainError):
    """The year's report is published: a further one corrects it and says why."""

    code, status, title_zh, title_en = (
        "annual-report-reason-missing",
        422,
        "该年度报告已发布, 更正须写明原因",
        "The year's report is published; a correction needs its reason",
    )


class AnnualReportCorrectsNothing(DomainError):
    """A reason was given, and no published report of the year is there to be corrected."""

    code, status, title_zh, title_en = (
        "annual-report-corrects-nothing",
        422,
        "该年度没有已发布的报告可更正",
        "No published report of that year to correct",
    )


class AnnualReportOwn(Conflict):
    """Whoever made a report cannot publish it: two people answer for it."""

    code, title_zh, title_en = (
        "annual-report-own",
        "编制人不能发布自己编制的报告",
        "A report is published by another person than the one who made it",
    )
    constraints = ("annual_report_four_eyes_check",)


class AnnualReportNotDrawn(Conflict):
    """Its documents are not there yet; `problem` says why when drawing them failed."""

    code, title_zh, title_en = (
        "annual-report-not-drawn",
        "报告文件尚未生成",
        "The report's documents are not drawn yet",
    )


class AnnualReportPublished(Conflict):
    """What is published is neither thrown away nor published again."""

    code, title_zh, title_en = "annual-report-published", "报告已发布", "The report is published"


class AnnualReportMadeMeanwhile(Conflict):
    """Somebody else made a report of this year at the same moment."""

    code, title_zh, title_en = (
        "annual-report-made-meanwhile",
        "该年度报告正由他人编制",
        "Another person made this year's report at the same moment",
    )
    constraints = ("annual_report_year_revision_key", "annual_report_replaces_key")


def make(
    session: Session,
    actor: Actor,
    folder: Path,
    *,
    year: int,
    reason: str | None,
    jobs: procrastinate.App | None,
    now: datetime,
) -> AnnualReport:
    """Assess a year as a new draft, in place of the draft that there was. A job draws its documents, given `jobs`.

    Raises NotFound outside the district, AnnualReportTooEarly, AnnualReportReasonMissing, AnnualReportCorrectsNothing,
    AnnualReportMadeMeanwhile, IndicatorsError, GoalDataError.
    """
    actor.require_cover(read_goal(folder).district_code)
    today = business_day(now)
    if year > today.year:
        raise AnnualReportTooEarly
    before = session.scalar(
        sa.select(AnnualReport)
        .where(AnnualReport.year == year, AnnualReport.state == ReportState.PUBLISHED)
        .order_by(AnnualReport.revision.desc())
        .limit(1)
    )
    if before is not None and not reason:
        raise AnnualReportReasonMissing
    if before is None and reason:
        raise AnnualReportCorrectsNothing
    revision = 1 if before is None else before.revision + 1
    if revision > REVISIONS_MAX:
        raise AnnualReportPublished
    session.execute(sa.delete(AnnualReport).where(AnnualReport.year == year, AnnualReport.state == ReportState.DRAFT))
    content = assess(session, folder, year=year, revision=revision, correction=reason or "", today=today)
    added = AnnualReport(
        id=new_id(),
        year=year,
        revision=revision,
        state=ReportState.DRAFT,
        content=msgspec.to_builtins(content),
        sha256=digest(content),
        replaces=None if before is None else before.id,
        reason=reason or None,
        made_by=actor.id,
        made_at=now,
    )
    session.add(added)
    session.flush()
    audit.record(
        session, actor, "annual-report.make", f"annual-report:{added.id}", now=now, year=year, revision=revision
    )
    if jobs is not None:
        job_queue.enqueue(session, jobs, "annual-report:draw", report_id=str(added.id))
    return added


def publish(session: Session, actor: Actor, folder: Path, report_id: UUID, *, now: datetime) -> AnnualReport:
    """Publish a draft that another person made.

    Raises NotFound, AnnualReportPublished, AnnualReportOwn, AnnualReportYearNotOver, AnnualReportNotDrawn.
    """
    found = report_for(session, actor, folder, report_id)
    if found.made_by == actor.id:
        raise AnnualReportOwn
    if business_day(now) <= date(found.year, 12, 31) or content_of(found).through != f"{found.year}-12-31":
        # Made while the year went on, it says how part of the year was.
        raise AnnualReportYearNotOver
    drawn = sa.exists().where(AnnualReportFile.report_id == report_id, AnnualReportFile.name == DOCUMENT)
    published = session.scalar(
        sa.update(AnnualReport)
        .where(AnnualReport.id == report_id, AnnualReport.state == ReportState.DRAFT, drawn)
        .values(state=ReportState.PUBLISHED, published_by=actor.id, published_at=now)
        .returning(AnnualReport)
        .execution_options(populate_existing=True)
    )
    if published is None:
        if report_for(session, actor, folder, report_id).state is ReportState.PUBLISHED:
            raise AnnualReportPublished
        raise AnnualReportNotDrawn(problem=found.problem)
    audit.record(
        session,
        actor,
        "annual-report.publish",
        f"annual-report:{report_id}",
        now=now,
        year=published.year,
        revision=published.revision,
        sha256=published.sha256.hex(),
    )
    return published


def discard(session: Session, actor: Actor, folder: Path, report_id: UUID, *, now: datetime) -> None:
    """Throw a draft away. Raises NotFound, AnnualReportPublished."""
    found = report_for(session, actor, folder, report_id)
    gone = sa.delete(AnnualReport).where(AnnualReport.id == report_id, AnnualReport.state == ReportState.DRAFT)
    if session.scalar(gone.returning(AnnualReport.id)) is None:
        raise AnnualReportPublished
    audit.record(session, actor, "annual-report.discard", f"annual-report:{report_id}", now=now, year=found.year)


def report_for(session: Session, actor: Actor, folder: Path, report_id: UUID) -> AnnualReport:
    """A report in any state, for the people of the district. Raises NotFound."""
    actor.require_cover(read_goal(folder).district_code)
    found = session.get(AnnualReport, report_id, populate_existing=True)
    if found is None:
        raise NotFound
    return found


def list_drafts(session: Session, actor: Actor, folder: Path, *, limit: int, cursor: str | None) -> Page[AnnualReport]:
    """The drafts, the newest year first; of a year there is at most one. Raises NotFound, BadCursor."""
    actor.require_cover(read_goal(folder).district_code)
    return _listed(session, ReportState.DRAFT, limit=limit, cursor=cursor)


def list_published(session: Session, *, limit: int, cursor: str | None) -> Page[AnnualReport]:
    """What everybody may read, the newest year and its newest revision first. Raises BadCursor."""
    return _listed(session, ReportState.PUBLISHED, limit=limit, cursor=cursor)


def _listed(session: Session, state: ReportState, *, limit: int, cursor: str | None) -> Page[AnnualReport]:
    wanted = (
        sa.select(AnnualReport)
        .where(AnnualReport.state == state)
        .order_by(AnnualReport.year.desc(), AnnualReport.revision.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        year, revision = decode(cursor, tuple[int, int])
        if not (YEAR_MIN <= year <= YEAR_MAX and 1 <= revision <= REVISIONS_MAX):
            year, revision = YEAR_MIN, 1  # written by somebody else than us: nothing comes after it
        wanted = wanted.where(sa.tuple_(AnnualReport.year, AnnualReport.revision) < (year, revision))
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.year, row.revision))


def published_report(session: Session, year: int, *, revision: int | None = None) -> AnnualReport:
    """A year's published report, the newest revision or a named one. Raises NotFound."""
    if not YEAR_MIN <= year <= YEAR_MAX:
        raise NotFound
    wanted = sa.select(AnnualReport).where(AnnualReport.year == year, AnnualReport.state == ReportState.PUBLISHED)
    if revision is not None:
        wanted = wanted.where(AnnualReport.revision == revision)
    found = session.scalar(wanted.order_by(AnnualReport.revision.desc()).limit(1))
    if found is None:
        raise NotFound
    return found


@dataclass(frozen=True, slots=True)
class DraftSeen:
    """A report for the people who make it, and the names of its files."""

    report: AnnualReport
    files: list[str]


@dataclass(frozen=True, slots=True)
class FileSeen:
    """A file of a report, and the report's title to save it under."""

    file: AnnualReportFile
    title: str


def draft_seen(session: Session, actor: Actor, folder: Path, report_id: UUID) -> DraftSeen:
    """A report in any state with its files. Raises NotFound."""
    found = report_for(session, actor, folder, report_id)
    return DraftSeen(found, documents.names_of(session, report_id))


def draft_file(session: Session, actor: Actor, folder: Path, report_id: UUID, name: str) -> FileSeen:
    """A file of a report in any state. Raises NotFound."""
    found = report_for(session, actor, folder, report_id)
    return FileSeen(documents.file_of(session, found.id, name), content_of(found).title_zh)


def published_file(session: Session, year: int, name: str, *, revision: int | None = None) -> FileSeen:
    """A file of a published report. Raises NotFound."""
    found = published_report(session, year, revision=revision)
    return FileSeen(documents.file_of(session, found.id, name), content_of(found).title_zh)


def draft_of(session: Session, year: int) -> AnnualReport:
    """A year's draft, for commands on the machine itself. Raises NotFound."""
    found = session.scalar(
        sa.select(AnnualReport)
        .where(AnnualReport.year == year, AnnualReport.state == ReportState.DRAFT)
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFound
    return found


def content_of(report: AnnualReport) -> Content:
    """What a report says, as values."""
    return msgspec.convert(report.content, Content)
