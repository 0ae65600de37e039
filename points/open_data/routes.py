"""Open data over HTTP: the releases, their files and what they mean; and the district's way to make one."""

import re
from typing import Any

import marshmallow as ma
import sqlalchemy as sa
from flask import Response, request

from points.open_data import releases, rendering
from points.open_data.models import REASON_LENGTH_MAX, FileFormat
from points.open_data.releases import FileSeen, PeriodNameInvalid, ReleaseSeen
from points.open_data.rendering import source_of
from points.open_data.tables import public_tables
from points.statistics.periods import Grain
from server import audit
from server.access import Permission, actor, public, require
from server.api import API_PREFIX, Blueprint
from server.clock import business_day, now
from server.database import run_transaction, transaction
from server.entries import WORDS
from server.errors import NotFound
from server.idempotency import idempotent
from server.paging import Page, PageQuery
from server.settings import settings

blueprint = Blueprint(
    "open-data", __name__, url_prefix="/api/v1/open-data", description="开放数据 · Frozen statistics for everybody"
)

# A named revision never changes; what a period's newest is may change tomorrow.
REVISION_CACHE_S = 365 * 86_400
NEWEST_CACHE_S = 300

MEDIA_TYPES = {FileFormat.CSV: "text/csv; charset=utf-8", FileFormat.JSON: "application/json"}

_FILE = re.compile(r"([a-z][a-z0-9-]{0,39})\.(csv|json)")


class OpenFileView(ma.Schema):
    """A table of a release as a file."""

    table = ma.fields.String(required=True)
    format = ma.fields.Enum(FileFormat, by_value=True, required=True)
    url = ma.fields.String(required=True)
    sha256 = ma.fields.String(required=True, metadata={"description": "Of the file's bytes, in hex"})
    size_bytes = ma.fields.Integer(required=True)
    rows = ma.fields.Integer(required=True)


class StatisticsReleaseView(ma.Schema):
    """A release of a month, quarter or year; it never changes."""

    name = ma.fields.String(required=True, metadata={"description": "2026-10.1, 2026-Q4.1, 2026.1"})
    grain = ma.fields.Enum(Grain, by_value=True, required=True)
    first_on = ma.fields.Date(data_key="from", required=True)
    last_on = ma.fields.Date(data_key="to", required=True)
    revision = ma.fields.Integer(required=True)
    replaces = ma.fields.String(required=True, allow_none=True)
    replaced_by = ma.fields.String(required=True, allow_none=True)
    reason = ma.fields.String(required=True, allow_none=True, metadata={"description": "Of a correction"})
    frozen_at = ma.fields.AwareDateTime(required=True)
    content_sha256 = ma.fields.String(
        required=True, metadata={"description": "SHA-256 over those of the files, tables in their order, CSV first"}
    )
    files = ma.fields.List(ma.fields.Nested(OpenFileView), required=True)


class OpenDataView(ma.Schema):
    """A page of releases, the last frozen first, and under which terms they may be used."""

    publisher = ma.fields.String(required=True)
    licence = ma.fields.String(required=True)
    withheld_zh = ma.fields.String(required=True)
    withheld_en = ma.fields.String(required=True)
    items = ma.fields.List(ma.fields.Nested(StatisticsReleaseView), required=True)
    next_cursor = ma.fields.String(required=True, allow_none=True)


class OpenColumnView(ma.Schema):
    """A column that every file has."""

    code = ma.fields.String(required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)


class OpenMeasureView(OpenColumnView):
    """A measure of a table, and in releases of which length it is."""

    unit = ma.fields.String(required=True)
    note_zh = ma.fields.String(required=True)
    note_en = ma.fields.String(required=True)
    grains = ma.fields.List(ma.fields.Enum(Grain, by_value=True), required=True)


class OpenCategoryView(ma.Schema):
    """A category of a table that has a name of its own."""

    code = ma.fields.String(required=True)
    zh = ma.fields.String(required=True)
    en = ma.fields.String(required=True)


class OpenTableView(OpenColumnView):
    """A table, what its categories are and what it measures."""

    note_zh = ma.fields.String(required=True)
    note_en = ma.fields.String(required=True)
    category_zh = ma.fields.String(required=True)
    category_en = ma.fields.String(required=True)
    categories = ma.fields.List(ma.fields.Nested(OpenCategoryView), required=True)
    measures = ma.fields.List(ma.fields.Nested(OpenMeasureView), required=True)


class DataDictionaryView(ma.Schema):
    """What tables, columns and empty values mean."""

    publisher = ma.fields.String(required=True)
    licence = ma.fields.String(required=True)
    encoding = ma.fields.String(required=True)
    withheld_zh = ma.fields.String(required=True)
    withheld_en = ma.fields.String(required=True)
    columns = ma.fields.List(ma.fields.Nested(OpenColumnView), required=True)
    tables = ma.fields.List(ma.fields.Nested(OpenTableView), required=True)


class StatisticsReleaseEntry(ma.Schema):
    """Which period to release; with a reason, which release to correct."""

    period = ma.fields.String(
        required=True,
        validate=ma.validate.Regexp(r"^20[2-9][0-9](-(0[1-9]|1[0-2])|-Q[1-4])?(?!\n)$"),
        metadata={"description": "2026-10, 2026-Q4 or 2026"},
    )
    reason = ma.fields.String(
        load_default=None, allow_none=True, validate=[ma.validate.Length(1, REASON_LENGTH_MAX), WORDS]
    )


def _source() -> rendering.Source:
    return source_of(settings().district_folder)


def _members(release: ReleaseSeen) -> dict[str, Any]:
    return {
        **{name: getattr(release, name) for name in ReleaseSeen.__slots__},
        "files": [_file_members(release.name, file) for file in release.files],
    }


def _file_members(name: str, file: FileSeen) -> dict[str, Any]:
    address = f"{API_PREFIX}/open-data/{name}/{file.table}.{file.format}"
    members = {each: getattr(file, each) for each in FileSeen.__slots__}
    return {**members, "format": FileFormat(file.format), "url": address}


@blueprint.get("")
@public
@blueprint.arguments(PageQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, OpenDataView)
def list_releases(query: dict[str, Any]) -> dict[str, Any]:
    """开放数据目录. List every release with its files, hashes and terms; the last frozen first."""
    with transaction() as session:
        page: Page[ReleaseSeen] = releases.list_releases(session, **query)
    source = _source()
    return {
        "publisher": source.publisher,
        "licence": source.licence,
        "withheld_zh": rendering.WITHHELD_ZH,
        "withheld_en": rendering.WITHHELD_EN,
        "items": [_members(release) for release in page.items],
        "next_cursor": page.next_cursor,
    }


@blueprint.get("/dictionary")
@public
@blueprint.response(200, DataDictionaryView)
def read_dictionary() -> dict[str, Any]:
    """数据字典. Read what the tables, columns and empty values mean, in Chinese and English."""
    return rendering.dictionary(public_tables(), _source())


@blueprint.post("/releases")
@require(Permission.STATISTICS_RELEASE)
@idempotent
@blueprint.arguments(StatisticsReleaseEntry)
@blueprint.response(201, StatisticsReleaseView)
def release_statistics(entry: dict[str, Any]) -> dict[str, Any]:
    """发布统计. Freeze and publish a period's figures; with a reason, correct what was published."""
    at = now()
    actor().require_cover(_source().district_code)

    def work(session: sa.orm.Session) -> dict[str, Any]:
        made = releases.freeze(
            session,
            public_tables(),
            releases.read_name(entry["period"]).period,
            source=_source(),
            frozen_by=actor().id,
            reason=entry["reason"],
            now=at,
            today=business_day(at),
        )
        audit.record(session, actor(), "statistics.release", releases.name_of(made), now=at, reason=entry["reason"])
        (told,) = releases.seen(session, [made])
        return _members(told)

    return run_transaction(work)


@blueprint.get("/<string(maxlength=20):release>")
@public
@blueprint.response(200, StatisticsReleaseView)
def read_release(release: str) -> dict[str, Any]:
    """一期数据. Read one release: 2026-10, 2026-Q4, 2026, with .REVISION or its newest; or `latest`, the last month."""
    with transaction() as session:
        (told,) = releases.seen(session, [_named(session, release)])
    return _members(told)


@blueprint.get("/<string(maxlength=20):release>/<string(maxlength=50):file>")
@public
@blueprint.doc(
    responses={
        "200": {
            "description": "The file, with its SHA-256 as ETag",
            "content": {
                "text/csv": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {"schema": {"type": "object"}},
            },
        }
    }
)
def take_file(release: str, file: str) -> Response:
    """下载数据. Take a table of a release as CSV or JSON, such as 2026-10/activity.csv."""
    wanted = _FILE.fullmatch(file)
    if wanted is None:
        raise NotFound
    with transaction() as session:
        release_found = _named(session, release)
        found = releases.file_of(session, releases.name_of(release_found), wanted[1], FileFormat(wanted[2]))
    response = Response(found.content, content_type=MEDIA_TYPES[found.format])
    is_revision = "." in release
    response.headers["Cache-Control"] = (
        f"public, max-age={REVISION_CACHE_S}, immutable" if is_revision else f"public, max-age={NEWEST_CACHE_S}"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    if found.format is FileFormat.CSV:
        name = f"{releases.name_of(release_found)}-{file}"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.set_etag(found.sha256.hex())
    return response.make_conditional(request)  # type: ignore[return-value]  # the same response


def _named(session: sa.orm.Session, name: str) -> Any:
    """A release by its name. What is no name of a release does not exist either."""
    try:
        return releases.release_named(session, name)
    except PeriodNameInvalid as error:
        raise NotFound from error
