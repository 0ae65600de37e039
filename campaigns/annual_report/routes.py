"""Annual reports over HTTP: everybody reads what is published, the district makes and publishes."""

from pathlib import Path
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import Response, current_app, request

from campaigns.annual_report import documents, reports
from campaigns.annual_report.content import Status
from campaigns.annual_report.models import (
    DOCUMENT,
    REASON_LENGTH_MAX,
    REVISIONS_MAX,
    YEAR_MAX,
    YEAR_MIN,
    AnnualReport,
    ReportState,
)
from campaigns.annual_report.reports import DraftSeen, FileSeen
from server.access import Permission, actor, public, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import TRIMMED_LINE
from server.files.serving import download
from server.idempotency import idempotent
from server.paging import Page, PageQuery
from server.settings import settings

blueprint = Blueprint(
    "annual-reports",
    __name__,
    url_prefix="/api/v1/annual-reports",
    description="年度评估报告 · The annual assessment of the plan's targets",
)

# Published reports never change; a correction shows within this time.
CACHE_S = 300
# An SVG of ours has a style of its own and nothing else; opened by itself it can load and run nothing.
SVG_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"


class RevisionQuery(ma.Schema):
    """Which revision, by default the newest."""

    revision = ma.fields.Integer(strict=False, load_default=None, validate=ma.validate.Range(1, REVISIONS_MAX))


class AnnualReportEntry(ma.Schema):
    """The year to assess; `reason` when its report is published and this one corrects it."""

    year = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(YEAR_MIN, YEAR_MAX))
    reason = ma.fields.String(
        load_default=None, allow_none=True, validate=[ma.validate.Length(2, REASON_LENGTH_MAX), TRIMMED_LINE]
    )


class AnnualTargetView(ma.Schema):
    """What the plan asks for by the end of a year."""

    year = ma.fields.Integer(required=True)
    value = ma.fields.Float(required=True)
    about = ma.fields.Boolean(required=True, metadata={"description": "The plan says 左右: not a hard line"})
    text_zh = ma.fields.String(required=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.String(required=True, metadata={"description": "V, V2, C or R"})


class AnnualFigureView(ma.Schema):
    """One figure of an indicator; `value` null with `withheld` where few residents are behind it."""

    label_zh = ma.fields.String(required=True)
    label_en = ma.fields.String(required=True)
    value = ma.fields.Float(required=True, allow_none=True)
    low = ma.fields.Float(required=True, allow_none=True)
    high = ma.fields.Float(required=True, allow_none=True)
    withheld = ma.fields.Boolean(required=True)
    detail_zh = ma.fields.String(required=True)
    detail_en = ma.fields.String(required=True)
    as_of = ma.fields.String(required=True)
    source_zh = ma.fields.String(required=True)
    source_en = ma.fields.String(required=True)
    confidence = ma.fields.String(required=True)


class AnnualIndicatorView(ma.Schema):
    """One indicator of the plan and where it stands."""

    code = ma.fields.String(required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    unit = ma.fields.String(required=True)
    target = ma.fields.Nested(AnnualTargetView, required=True, allow_none=True)
    figures = ma.fields.List(ma.fields.Nested(AnnualFigureView), required=True)
    status = ma.fields.String(required=True, validate=ma.validate.OneOf([each.value for each in Status]))
    note_zh = ma.fields.String(required=True)
    note_en = ma.fields.String(required=True)


class AnnualBarView(ma.Schema):
    """A bar of a chart."""

    label = ma.fields.String(required=True)
    value = ma.fields.Float(required=True)
    target = ma.fields.Float(required=True, allow_none=True)


class AnnualLineView(ma.Schema):
    """A line of a chart."""

    name_zh = ma.fields.String(required=True)
    name_en = ma.fields.String(required=True)
    xs = ma.fields.List(ma.fields.Float(), required=True)
    ys = ma.fields.List(ma.fields.Float(), required=True)
    lows = ma.fields.List(ma.fields.Float(), required=True, allow_none=True)
    highs = ma.fields.List(ma.fields.Float(), required=True, allow_none=True)


class AnnualChartView(ma.Schema):
    """A chart: its picture is the file `{name}.svg`, its numbers are here."""

    name = ma.fields.String(required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    unit = ma.fields.String(required=True)
    bars = ma.fields.List(ma.fields.Nested(AnnualBarView), required=True)
    lines = ma.fields.List(ma.fields.Nested(AnnualLineView), required=True)
    source_zh = ma.fields.String(required=True)


class AnnualThemeView(ma.Schema):
    """A theme of the plan."""

    code = ma.fields.String(required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    indicators = ma.fields.List(ma.fields.Nested(AnnualIndicatorView), required=True)
    charts = ma.fields.List(ma.fields.Nested(AnnualChartView), required=True)


class AnnualContentView(ma.Schema):
    """All that a report says. `through` is the last day that its figures are about."""

    district_code = ma.fields.String(required=True)
    district_name = ma.fields.String(required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    document = ma.fields.String(required=True)
    document_number = ma.fields.String(required=True)
    document_on = ma.fields.String(required=True)
    confidence = ma.fields.String(required=True)
    made_on = ma.fields.String(required=True)
    through = ma.fields.String(required=True)
    correction = ma.fields.String(required=True)
    themes = ma.fields.List(ma.fields.Nested(AnnualThemeView), required=True)
    notes_zh = ma.fields.List(ma.fields.String(), required=True)
    notes_en = ma.fields.List(ma.fields.String(), required=True)


class AnnualReportHeadView(ma.Schema):
    """A published report in a line."""

    year = ma.fields.Integer(required=True)
    revision = ma.fields.Integer(required=True)
    title_zh = ma.fields.Function(lambda row: row.content["title_zh"], metadata={"type": "string"})
    title_en = ma.fields.Function(lambda row: row.content["title_en"], metadata={"type": "string"})
    published_at = ma.fields.AwareDateTime(required=True)
    reason = ma.fields.String(required=True, allow_none=True, metadata={"description": "Why it corrects the last one"})
    sha256 = ma.fields.Function(lambda row: row.sha256.hex(), metadata={"type": "string"})


class AnnualReportView(AnnualReportHeadView):
    """A published report."""

    content = ma.fields.Nested(AnnualContentView, required=True)
    document = ma.fields.Constant(DOCUMENT, metadata={"description": "The name of the document among its files"})


class AnnualDraftHeadView(ma.Schema):
    """A draft in a line. `problem` is the code of what drawing its documents failed with."""

    id = ma.fields.UUID(required=True)
    year = ma.fields.Integer(required=True)
    revision = ma.fields.Integer(required=True)
    state = ma.fields.Enum(ReportState, by_value=True, required=True)
    made_by = ma.fields.UUID(required=True)
    made_at = ma.fields.AwareDateTime(required=True)
    reason = ma.fields.String(required=True, allow_none=True)
    problem = ma.fields.String(required=True, allow_none=True)
    sha256 = ma.fields.Function(lambda row: row.sha256.hex(), metadata={"type": "string"})


class AnnualDraftView(ma.Schema):
    """A report for the people who make it; `files` is empty until its documents are drawn."""

    report = ma.fields.Nested(AnnualDraftHeadView, required=True)
    content = ma.fields.Nested(AnnualContentView, required=True, attribute="report.content")
    files = ma.fields.List(ma.fields.String(), required=True)


FILE_ANSWERS = {
    "200": {
        "description": "The file",
        "content": {
            each: {"schema": {"type": "string", "format": "binary"}} for each in sorted(documents.MEDIA_TYPES.values())
        },
    }
}


@blueprint.get("")
@public
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(AnnualReportHeadView))
def list_annual_reports(query: dict[str, Any]) -> Page[AnnualReport]:
    """年度评估报告列表. The published reports, newest first; a corrected one stays readable."""
    with transaction() as session:
        return reports.list_published(session, **query)


@blueprint.get("/<int:year>")
@public
@blueprint.arguments(RevisionQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, AnnualReportView)
def read_annual_report(query: dict[str, Any], year: int) -> AnnualReport:
    """年度评估报告. A year's published report: indicators, targets, figures, sources, status."""
    with transaction() as session:
        return reports.published_report(session, year, **query)


@blueprint.get("/<int:year>/files/<string:name>")
@public
@blueprint.arguments(RevisionQuery, location="query", unknown=ma.RAISE)
@blueprint.doc(responses=FILE_ANSWERS)
def read_annual_report_file(query: dict[str, Any], year: int, name: str) -> Response:
    """年度评估报告文件. The document (DOCX) of a published report, or one of its charts (SVG)."""
    with transaction() as session:
        seen = reports.published_file(session, year, name, **query)
    response = _handed_out(seen)
    response.headers["Cache-Control"] = f"public, max-age={CACHE_S}"
    response.set_etag(seen.file.sha256.hex())
    return response.make_conditional(request)  # type: ignore[return-value]  # the same response


@blueprint.post("")
@require(Permission.ANNUAL_REPORT)
@idempotent
@blueprint.arguments(AnnualReportEntry)
@blueprint.response(201, AnnualDraftHeadView)
def make_annual_report(entry: dict[str, Any]) -> AnnualReport:
    """编制年度评估报告. Assess a year as a draft, in place of the draft that there was; a job draws its documents."""
    queue = current_app.extensions["tanpuhui_jobs"]
    return run_transaction(lambda session: reports.make(session, actor(), _folder(), jobs=queue, now=now(), **entry))


@blueprint.get("/drafts")
@require(Permission.ANNUAL_REPORT)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(AnnualDraftHeadView))
def list_annual_drafts(query: dict[str, Any]) -> Page[AnnualReport]:
    """报告草稿列表. The drafts, newest year first."""
    with transaction() as session:
        return reports.list_drafts(session, actor(), _folder(), **query)


@blueprint.get("/drafts/<uuid:report_id>")
@require(Permission.ANNUAL_REPORT)
@blueprint.response(200, AnnualDraftView)
def read_annual_draft(report_id: UUID) -> DraftSeen:
    """报告草稿. A report as it would be published, for the people who make it."""
    with transaction() as session:
        return reports.draft_seen(session, actor(), _folder(), report_id)


@blueprint.get("/drafts/<uuid:report_id>/files/<string:name>")
@require(Permission.ANNUAL_REPORT)
@blueprint.doc(responses=FILE_ANSWERS)
def read_annual_draft_file(report_id: UUID, name: str) -> Response:
    """报告草稿文件. The document of a draft, or one of its charts."""
    with transaction() as session:
        seen = reports.draft_file(session, actor(), _folder(), report_id, name)
    return _handed_out(seen)


@blueprint.post("/drafts/<uuid:report_id>/publication")
@require(Permission.ANNUAL_REPORT)
@idempotent
@blueprint.response(200, AnnualDraftHeadView)
def publish_annual_report(report_id: UUID) -> AnnualReport:
    """发布年度评估报告. Publish a draft that another person made; it never changes afterwards."""
    return run_transaction(lambda session: reports.publish(session, actor(), _folder(), report_id, now=now()))


@blueprint.delete("/drafts/<uuid:report_id>")
@require(Permission.ANNUAL_REPORT)
@blueprint.response(204)
def discard_annual_draft(report_id: UUID) -> None:
    """删除报告草稿. Throw a draft away."""
    run_transaction(lambda session: reports.discard(session, actor(), _folder(), report_id, now=now()))


def _handed_out(seen: FileSeen) -> Response:
    """A document to save, or a chart to show."""
    file = seen.file
    response = Response(file.content, content_type=documents.media_type(file.name))
    if file.name == DOCUMENT:
        return download(response, f"{seen.title}.docx")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = SVG_POLICY
    response.headers["Cache-Control"] = "private, no-store"
    return response


def _folder() -> Path:
    return settings().district_folder
