"""Survey waves and margins over HTTP: the district hands in waves and takes them back."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar
from uuid import UUID

import marshmallow as ma
from flask import request

from points.share.survey import importing, margins, waves
from points.share.survey.findings import FAULTS_SHOWN_MAX, WARNINGS_MAX, TableName
from points.share.survey.importing import WaveUpload
from points.share.survey.margins import CELLS_MAX, MarginDetail
from points.share.survey.models import ATTRIBUTES_MAX, MarginSet, SurveyWave, WaveKind, WaveState
from points.share.survey.tables import TABLE_BYTES_MAX, TableFile, TableTooLarge
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import transaction
from server.errors import DomainError, NotFound, UnsupportedMediaType
from server.files.uploads import FORM_MEMORY_BYTES_MAX
from server.limits import BODY_BYTES_MAX, limiter
from server.paging import Page, PageQuery
from server.places.models import Confidence
from server.places.own_district import district_code

blueprint = Blueprint(
    "share_survey",
    __name__,
    url_prefix="/api/v1/share",
    description="绿色出行调查与人口边际数据 · Travel surveys and margins of the population",
)

MAPPING = "mapping"
PARTS = (MAPPING, *TableName)
# Each may take a processor for half a minute.
IMPORTS = "10 per minute"

View = TypeVar("View", bound=Callable[..., Any])


class TablesMissing(DomainError):
    """The form has not the parts that a wave is handed in by."""

    code, status, title_zh, title_en = (
        "survey-tables-missing",
        422,
        "需要上传mapping、persons、trips，可另加households",
        "The form needs the files `mapping`, `persons` and `trips`, and may have `households`",
    )


class SurveyDryRunQuery(ma.Schema):
    """Whether to check alone."""

    dry_run = ma.fields.Boolean(load_default=False, metadata={"description": "Check and report; store nothing"})


class SurveyFileView(ma.Schema):
    """A file of a wave as it was handed in; its bytes are not kept."""

    table = ma.fields.String(required=True)
    name = ma.fields.String(required=True)
    size_bytes = ma.fields.Integer(required=True)
    sha256 = ma.fields.String(required=True)


class SurveyFindingView(ma.Schema):
    """A fault or a warning, with the row of the file as a spreadsheet counts it; null for what is of no single row."""

    table = ma.fields.String(required=True, metadata={"enum": [name.value for name in TableName]})
    row = ma.fields.Integer(required=True, allow_none=True)
    column = ma.fields.String(required=True)
    code = ma.fields.String(required=True)
    count = ma.fields.Integer(required=True)
    note = ma.fields.String(required=True)
    reason_zh = ma.fields.String(required=True)
    reason_en = ma.fields.String(required=True)


class SurveyReportView(ma.Schema):
    """What was found in the tables of a wave."""

    fit = ma.fields.Boolean(required=True, metadata={"description": "Without a fault, and so can be stored"})
    households = ma.fields.Integer(required=True)
    persons = ma.fields.Integer(required=True)
    respondents = ma.fields.Integer(required=True)
    trips = ma.fields.Integer(required=True)
    faults = ma.fields.List(
        ma.fields.Nested(SurveyFindingView), required=True, validate=ma.validate.Length(max=FAULTS_SHOWN_MAX)
    )
    faults_more = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.Integer(),
        required=True,
        metadata={"description": "How many further faults of each code there are"},
    )
    warnings = ma.fields.List(
        ma.fields.Nested(SurveyFindingView), required=True, validate=ma.validate.Length(max=WARNINGS_MAX)
    )


class SurveyWaveView(ma.Schema):
    """A wave. `locked`: a published release rests on it."""

    id = ma.fields.UUID(required=True)
    code = ma.fields.String(required=True)
    year = ma.fields.Integer(required=True)
    name = ma.fields.String(required=True)
    kind = ma.fields.Enum(WaveKind, by_value=True, required=True)
    first_on = ma.fields.Date(required=True)
    last_on = ma.fields.Date(required=True)
    definition_id = ma.fields.String(required=True)
    frame = ma.fields.String(required=True, metadata={"description": "Which population the sample was drawn from"})
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True)
    state = ma.fields.Enum(WaveState, by_value=True, required=True)
    locked = ma.fields.Boolean(required=True)
    households = ma.fields.Integer(required=True)
    persons = ma.fields.Integer(required=True, metadata={"description": "Everybody who was drawn"})
    respondents = ma.fields.Integer(required=True)
    trips = ma.fields.Integer(required=True)
    attributes = ma.fields.List(ma.fields.String(), required=True, validate=ma.validate.Length(max=ATTRIBUTES_MAX))
    imported_at = ma.fields.AwareDateTime(required=True)
    undone_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class SurveyWaveDetailView(SurveyWaveView):
    """A wave with how it was read and what was found."""

    files = ma.fields.List(ma.fields.Nested(SurveyFileView), required=True, validate=ma.validate.Length(max=len(PARTS)))
    mapping = ma.fields.Dict(keys=ma.fields.String(), required=True)
    warnings = ma.fields.List(
        ma.fields.Nested(SurveyFindingView), required=True, validate=ma.validate.Length(max=WARNINGS_MAX)
    )


class SurveyImportView(ma.Schema):
    """A checked wave: what was found and, unless this was a dry run, the wave."""

    report = ma.fields.Nested(SurveyReportView, required=True)
    wave = ma.fields.Nested(SurveyWaveView, required=True, allow_none=True)


class MarginSetView(ma.Schema):
    """A set of margins: which population, by whom, of which day."""

    code = ma.fields.String(required=True)
    population = ma.fields.String(required=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True)
    as_of = ma.fields.Date(required=True)
    age_min = ma.fields.Integer(required=True)
    persons = ma.fields.Integer(required=True)
    locked = ma.fields.Boolean(required=True)
    loaded_at = ma.fields.AwareDateTime(required=True)


class MarginCellView(ma.Schema):
    """Persons of one category."""

    variable = ma.fields.String(required=True)
    category = ma.fields.String(required=True)
    persons = ma.fields.Integer(required=True)


class MarginSetDetailView(ma.Schema):
    """A set of margins with all of its cells."""

    set = ma.fields.Nested(MarginSetView, required=True)
    cells = ma.fields.List(ma.fields.Nested(MarginCellView), required=True, validate=ma.validate.Length(max=CELLS_MAX))


def of_this_district(view: View) -> View:
    """Let only staff of the district that the service is run for reach a view: for others there is none of it.

    Goes below `@require`. A wave is of the whole district, so its streets have no part of it to themselves.
    """

    @wraps(view)
    def reached(*args: Any, **kwargs: Any) -> Any:
        district, mine = district_code(), actor().division
        if mine is None or not (mine.startswith(district) or district.startswith(mine)):
            raise NotFound
        return view(*args, **kwargs)

    return reached  # type: ignore[return-value]


def takes_tables(view: View) -> View:
    """Let a view take a form with the tables of a wave; goes below `@require`, above whatever reads the body."""

    @wraps(view)
    def taking(*args: Any, **kwargs: Any) -> Any:
        request.max_content_length = len(TableName) * TABLE_BYTES_MAX + BODY_BYTES_MAX
        request.max_form_parts = len(PARTS)
        request.max_form_memory_size = FORM_MEMORY_BYTES_MAX
        return view(*args, **kwargs)

    return limiter.limit(IMPORTS)(taking)  # type: ignore[return-value]


def _handed_in() -> WaveUpload:
    """The files of the form. Raises UnsupportedMediaType, TablesMissing, TableTooLarge."""
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("Send multipart/form-data")
    parts = {name: _file(part) for name, part in request.files.items(multi=True) if part.filename}
    tables = {name: parts[name] for name in TableName if name in parts}
    if (
        not {MAPPING, TableName.PERSONS, TableName.TRIPS} <= set(parts) <= set(PARTS)
        or request.form
        or len(request.files.getlist(MAPPING)) > 1
        or any(len(request.files.getlist(name)) > 1 for name in TableName)
    ):
        raise TablesMissing
    return WaveUpload(mapping=parts[MAPPING], tables=tables)


def _file(part: Any) -> TableFile:
    content = part.stream.read(TABLE_BYTES_MAX + 1)
    if len(content) > TABLE_BYTES_MAX:
        raise TableTooLarge(f"More than {TABLE_BYTES_MAX // 2**20} MiB")
    return TableFile(part.filename, content)


_BINARY = {"type": "string", "format": "binary"}


@blueprint.post("/waves")
@require(Permission.SURVEY_MANAGE)
@of_this_district
@takes_tables
@blueprint.arguments(SurveyDryRunQuery, location="query")
@blueprint.response(201, SurveyImportView)
@blueprint.alt_response(200, schema=SurveyImportView, description="Checked alone: `dry_run`")
@blueprint.doc(
    requestBody={
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        MAPPING: {**_BINARY, "description": "TOML: which column is what, and what values mean"},
                        **{
                            name.value: {**_BINARY, "description": "CSV in UTF-8 or GB 18030, or XLSX; at most 50 MiB"}
                            for name in TableName
                        },
                    },
                    "required": [MAPPING, "persons", "trips"],
                }
            }
        },
    }
)
def import_wave(query: dict[str, Any]) -> Any:
    """导入调查批次. Import a survey wave, whole or not at all; the same code a second time is refused (409)."""
    upload = _handed_in()
    with transaction() as session:
        known = importing.known_to(session, upload)
    reading = importing.read_wave(upload, known)
    if query["dry_run"]:
        return {"report": reading.report(), "wave": None}, 200
    with transaction() as session:
        return {"report": reading.report(), "wave": importing.store(session, actor(), reading, now=now())}


@blueprint.get("/waves")
@require(Permission.SURVEY_MANAGE)
@of_this_district
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(SurveyWaveView))
def list_waves(query: dict[str, Any]) -> Page[SurveyWave]:
    """调查批次. Every wave, undone ones too, the latest first."""
    with transaction() as session:
        return waves.list_waves(session, **query)


@blueprint.get("/waves/<uuid:wave_id>")
@require(Permission.SURVEY_MANAGE)
@of_this_district
@blueprint.response(200, SurveyWaveDetailView)
def read_wave(wave_id: UUID) -> SurveyWave:
    """调查批次详情. A wave with its files, its mapping and its warnings."""
    with transaction() as session:
        return waves.wave_of(session, wave_id)


@blueprint.delete("/waves/<uuid:wave_id>")
@require(Permission.SURVEY_MANAGE)
@of_this_district
@blueprint.response(200, SurveyWaveView)
def undo_wave(wave_id: UUID) -> SurveyWave:
    """撤销调查批次. Delete the people and trips of a wave that no published release rests on."""
    with transaction() as session:
        return waves.undo(session, actor(), wave_id, now=now())


@blueprint.get("/margins")
@require(Permission.SHARE_READ)
@of_this_district
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(MarginSetView))
def list_margins(query: dict[str, Any]) -> Page[MarginSet]:
    """人口边际数据. Every set of margins with its source and date."""
    with transaction() as session:
        return margins.list_margins(session, **query)


@blueprint.get("/margins/<string:code>")
@require(Permission.SHARE_READ)
@of_this_district
@blueprint.response(200, MarginSetDetailView)
def read_margins(code: str) -> MarginDetail:
    """人口边际数据详情. A set of margins with all of its cells."""
    with transaction() as session:
        return margins.margins_of(session, code)
