"""Creation over HTTP for those who sign in: rubrics, applications, moves, answers to objections, re-checks."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import marshmallow as ma
import msgspec
from flask import Response

from campaigns.creation import applications, naming, notice, process, programmes, rubrics
from campaigns.creation.applications import Answer
from campaigns.creation.models import (
    REASON_LENGTH_MAX,
    TEXT_LENGTH_MAX,
    Application,
    ApplicationMove,
    IndicatorFigure,
    ItemType,
    LiveMeasure,
    Naming,
    Recheck,
    Rubric,
    RubricState,
    SubjectKind,
)
from campaigns.creation.notice import ObjectionDetail
from campaigns.creation.rubric_entries import AREAS_MAX, ITEMS_MAX, PRECONDITIONS_MAX, RubricEntry
from campaigns.creation.rubrics import Difference, RubricContent
from campaigns.creation.steps import TURN, ApplicationState, Move, Party
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import SLUG, TRIMMED_LINE, WORDS, WORDS_OR_NOTHING
from server.etags import VersionHeader, etag_of, version_of
from server.files.serving import StoredFileView, serve
from server.idempotency import idempotent
from server.paging import Page, PageQuery
from server.places.models import Confidence
from server.settings import settings

blueprint = Blueprint(
    "creation",
    __name__,
    url_prefix="/api/v1/creation",
    description="绿色创建 · Creation of green communities and others",
)

ITEM_CODE = [ma.validate.Length(1, 20), ma.validate.Regexp(r"^[a-z0-9][a-z0-9.-]*(?!\n)$")]
PROGRAMME = [ma.validate.Length(1, 40), SLUG]
CONFIDENCE = {"description": "V read in the source, V2 in a secondary one, C computed, R not checked"}


def _text(longest: int, *, required: bool = True, **options: Any) -> ma.fields.String:
    return ma.fields.String(required=required, validate=[ma.validate.Length(1, longest), WORDS], **options)


def _maybe_text(longest: int) -> ma.fields.String:
    return ma.fields.String(load_default=None, allow_none=True, validate=[ma.validate.Length(1, longest), WORDS])


def _amount(highest: int, **options: Any) -> ma.fields.Decimal:
    """An amount from 0 to `highest` with at most two decimals: what is stored is what was said."""

    def fits(value: Decimal) -> None:
        if not 0 <= value <= highest or value != round(value, 2):
            raise ma.ValidationError(f"Must be from 0 to {highest} with at most two decimals.")

    # The limits stand in the description by hand: apispec would write those of a Decimal as what JSON cannot hold.
    return ma.fields.Decimal(allow_nan=False, validate=fits, metadata={"minimum": 0, "maximum": highest}, **options)


# Rubrics


class SourcedEntry(ma.Schema):
    """Where a part's source or confidence differs from the rubric's."""

    source = _maybe_text(200)
    confidence = ma.fields.Enum(Confidence, by_value=True, load_default=None, allow_none=True, metadata=CONFIDENCE)


class ItemEntry(SourcedEntry):
    """One item of a rubric."""

    code = ma.fields.String(required=True, validate=ITEM_CODE)
    text_zh = _text(300)
    type = ma.fields.Enum(ItemType, by_value=True, required=True)
    maximum = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(0, 1000))
    must_meet = ma.fields.Boolean(load_default=False, truthy={True}, falsy={False})
    evidence_required = ma.fields.Boolean(load_default=False, truthy={True}, falsy={False})
    threshold = _amount(99_999_999, load_default=None, allow_none=True)
    unit = _maybe_text(20)
    live_measure = ma.fields.Enum(LiveMeasure, by_value=True, load_default=None, allow_none=True)


class AreaEntry(SourcedEntry):
    """A part of a rubric with its items."""

    code = ma.fields.String(required=True, validate=ITEM_CODE)
    title_zh = _text(60)
    items = ma.fields.List(ma.fields.Nested(ItemEntry), required=True, validate=ma.validate.Length(1, ITEMS_MAX))


class PreconditionEntry(SourcedEntry):
    """What must be so before anything is scored."""

    code = ma.fields.String(required=True, validate=ITEM_CODE)
    text_zh = _text(300)


class RubricContentEntry(ma.Schema):
    """The content of one version of a rubric."""

    title_zh = _text(120)
    minimum_score = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(0, 10_000))
    difference_max = _amount(9_999, required=True)
    notice_days = ma.fields.Integer(load_default=7, strict=True, validate=ma.validate.Range(1, 60))
    validity_months = ma.fields.Integer(load_default=36, strict=True, validate=ma.validate.Range(1, 120))
    recheck_months = ma.fields.Integer(load_default=12, strict=True, validate=ma.validate.Range(1, 120))
    site_visit_required = ma.fields.Boolean(load_default=True, truthy={True}, falsy={False})
    source = _text(300)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True, metadata=CONFIDENCE)
    note = ma.fields.String(load_default="", validate=[ma.validate.Length(0, 500), WORDS_OR_NOTHING])
    areas = ma.fields.List(ma.fields.Nested(AreaEntry), required=True, validate=ma.validate.Length(1, AREAS_MAX))
    preconditions = ma.fields.List(
        ma.fields.Nested(PreconditionEntry), load_default=[], validate=ma.validate.Length(0, PRECONDITIONS_MAX)
    )


class RubricDraftEntry(RubricContentEntry):
    """A new version: a draft of the year's next revision."""

    programme = ma.fields.String(required=True, validate=PROGRAMME)
    year = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(2000, 2100))


class RubricQuery(PageQuery):
    """Filters of the list of rubrics."""

    programme = ma.fields.String(load_default=None, validate=PROGRAMME)
    year = ma.fields.Integer(load_default=None, validate=ma.validate.Range(2000, 2100))
    state = ma.fields.Enum(RubricState, by_value=True, load_default=None)


class RubricView(ma.Schema):
    """One version of a rubric, with how far its source can be trusted."""

    id = ma.fields.UUID(required=True)
    programme = ma.fields.String(required=True, attribute="programme_code")
    year = ma.fields.Integer(required=True)
    revision = ma.fields.Integer(required=True)
    title_zh = ma.fields.String(required=True)
    state = ma.fields.Enum(RubricState, by_value=True, required=True)
    minimum_score = ma.fields.Integer(required=True)
    difference_max = ma.fields.Decimal(required=True, as_string=True)
    notice_days = ma.fields.Integer(required=True)
    validity_months = ma.fields.Integer(required=True)
    recheck_months = ma.fields.Integer(required=True)
    site_visit_required = ma.fields.Boolean(required=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True, metadata=CONFIDENCE)
    note = ma.fields.String(required=True)
    version = ma.fields.Integer(required=True)
    in_force_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    retired_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class RubricAreaView(ma.Schema):
    """A part of a rubric; source and confidence where they differ from the rubric's."""

    code = ma.fields.String(required=True)
    title_zh = ma.fields.String(required=True)
    source = ma.fields.String(required=True, allow_none=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True, allow_none=True)


class RubricItemView(ma.Schema):
    """An item of a rubric; source and confidence where they differ from the area's and the rubric's."""

    code = ma.fields.String(required=True)
    area_code = ma.fields.String(required=True)
    text_zh = ma.fields.String(required=True)
    type = ma.fields.Enum(ItemType, by_value=True, required=True)
    maximum = ma.fields.Integer(required=True)
    must_meet = ma.fields.Boolean(required=True)
    evidence_required = ma.fields.Boolean(required=True)
    threshold = ma.fields.Decimal(required=True, as_string=True, allow_none=True)
    unit = ma.fields.String(required=True, allow_none=True)
    live_measure = ma.fields.Enum(LiveMeasure, by_value=True, required=True, allow_none=True)
    source = ma.fields.String(required=True, allow_none=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True, allow_none=True)


class RubricPreconditionView(ma.Schema):
    """A precondition of a rubric."""

    code = ma.fields.String(required=True)
    text_zh = ma.fields.String(required=True)
    source = ma.fields.String(required=True, allow_none=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True, allow_none=True)


class RubricDetailView(ma.Schema):
    """A rubric with its parts in their order."""

    rubric = ma.fields.Nested(RubricView, required=True)
    maximum = ma.fields.Integer(required=True)
    areas = ma.fields.List(ma.fields.Nested(RubricAreaView), required=True)
    items = ma.fields.List(ma.fields.Nested(RubricItemView), required=True)
    preconditions = ma.fields.List(ma.fields.Nested(RubricPreconditionView), required=True)


class DifferenceQuery(ma.Schema):
    """The version to compare with."""

    since = ma.fields.UUID(required=True, metadata={"description": "The older version"})


class DifferenceLineView(ma.Schema):
    """One difference; `before` is null for what was added, `after` for what is gone."""

    part = ma.fields.String(required=True, validate=ma.validate.OneOf(["rubric", "precondition", "area", "item"]))
    code = ma.fields.String(required=True, allow_none=True)
    field = ma.fields.String(required=True, allow_none=True)
    before = ma.fields.String(required=True, allow_none=True)
    after = ma.fields.String(required=True, allow_none=True)
    text_zh = ma.fields.String(required=True)


class DifferenceView(ma.Schema):
    """What differs between two versions, in words."""

    lines = ma.fields.List(ma.fields.Nested(DifferenceLineView), required=True)


@dataclass(frozen=True, slots=True)
class Differences:
    """The lines of a comparison."""

    lines: list[Difference]


def _entry(fields: dict[str, Any]) -> RubricEntry:
    return msgspec.convert(fields, RubricEntry)


@blueprint.get("/rubrics")
@require(Permission.CREATION_READ)
@blueprint.arguments(RubricQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(RubricView))
def list_rubrics(query: dict[str, Any]) -> Page[Rubric]:
    """评价标准列表. List the versions of rubrics, newest first; drafts to the district only."""
    with transaction() as session:
        return rubrics.list_rubrics(session, actor(), **query)


@blueprint.post("/rubrics")
@require(Permission.CREATION_DECIDE)
@idempotent
@blueprint.arguments(RubricDraftEntry)
@blueprint.response(201, RubricDetailView)
def create_rubric(entry: dict[str, Any]) -> tuple[RubricContent, dict[str, str]]:
    """新建评价标准. Draft the next revision of a programme's rubric for a year."""
    where = {"programme_code": entry.pop("programme"), "year": entry.pop("year")}
    with transaction() as session:
        made = rubrics.create_draft(session, actor(), **where, entry=_entry(entry), now=now())
    return made, etag_of(made.rubric.version)


@blueprint.get("/rubrics/<uuid:rubric_id>")
@require(Permission.CREATION_READ)
@blueprint.response(200, RubricDetailView)
def read_rubric(rubric_id: UUID) -> tuple[RubricContent, dict[str, str]]:
    """查看评价标准. Read a version with its items, sources and confidence."""
    with transaction() as session:
        found = rubrics.rubric_for(session, actor(), rubric_id)
    return found, etag_of(found.rubric.version)


@blueprint.put("/rubrics/<uuid:rubric_id>")
@require(Permission.CREATION_DECIDE)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(RubricContentEntry)
@blueprint.response(200, RubricDetailView)
def replace_rubric(
    headers: dict[str, Any], entry: dict[str, Any], rubric_id: UUID
) -> tuple[RubricContent, dict[str, str]]:
    """修改评价标准草稿. Write a draft anew; If-Match names the version that was read."""
    version = version_of(headers["if_match"])
    with transaction() as session:
        found = rubrics.replace_content(session, actor(), rubric_id, _entry(entry), version=version, now=now())
    return found, etag_of(found.rubric.version)


@blueprint.post("/rubrics/<uuid:rubric_id>/in-force")
@require(Permission.CREATION_DECIDE)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.response(200, RubricDetailView)
def put_rubric_in_force(headers: dict[str, Any], rubric_id: UUID) -> tuple[RubricContent, dict[str, str]]:
    """启用评价标准. Let applications begin under a draft; the year's version before it is retired."""
    version = version_of(headers["if_match"])
    with transaction() as session:
        found = rubrics.put_in_force(session, actor(), rubric_id, version=version, now=now())
    return found, etag_of(found.rubric.version)


@blueprint.post("/rubrics/<uuid:rubric_id>/draft")
@require(Permission.CREATION_DECIDE)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.response(200, RubricDetailView)
def take_rubric_back(headers: dict[str, Any], rubric_id: UUID) -> tuple[RubricContent, dict[str, str]]:
    """退回草稿. Make a rubric in force a draft again, while no application uses it."""
    version = version_of(headers["if_match"])
    with transaction() as session:
        found = rubrics.back_to_draft(session, actor(), rubric_id, version=version, now=now())
    return found, etag_of(found.rubric.version)


@blueprint.get("/rubrics/<uuid:rubric_id>/differences")
@require(Permission.CREATION_READ)
@blueprint.arguments(DifferenceQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, DifferenceView)
def compare_rubrics(query: dict[str, Any], rubric_id: UUID) -> Differences:
    """标准版本差异. Read what differs from an older version, in words."""
    with transaction() as session:
        return Differences(rubrics.compare(session, actor(), query["since"], rubric_id))


# Indicators


class IndicatorFigureEntry(ma.Schema):
    """A tracked programme's published figure."""

    value = _amount(999_999_999_999, required=True)
    source = _text(200)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True, metadata=CONFIDENCE)


class IndicatorFigureView(ma.Schema):
    """A figure of a day, in the programme's unit, with its source."""

    measured_on = ma.fields.Date(required=True)
    value = ma.fields.Decimal(required=True, as_string=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True, metadata=CONFIDENCE)


@blueprint.put("/programmes/<string:programme>/figures/<string:measured_on>")
@require(Permission.CREATION_DECIDE)
@blueprint.arguments(IndicatorFigureEntry)
@blueprint.response(200, IndicatorFigureView)
def record_figure(entry: dict[str, Any], programme: str, measured_on: str) -> IndicatorFigure:
    """登记指标数据. Record, or correct, a tracked programme's figure of a day."""
    with transaction() as session:
        return programmes.record_figure(
            session, actor(), programme, measured_on=programmes.day_of(measured_on), **entry, now=now()
        )


# Applications


class ApplicationEntry(ma.Schema):
    """A new application for one's own community, organisation or household."""

    programme = ma.fields.String(required=True, validate=PROGRAMME)
    household_name = ma.fields.String(
        load_default=None,
        validate=[ma.validate.Length(1, 60), TRIMMED_LINE],
        metadata={"description": "家庭公示名称 · Of a household: the name that will be published"},
    )
    statement = ma.fields.String(load_default="", validate=[ma.validate.Length(0, TEXT_LENGTH_MAX), WORDS_OR_NOTHING])


class ApplicationChanges(ma.Schema):
    """Changes of an application."""

    household_name = ma.fields.String(validate=[ma.validate.Length(1, 60), TRIMMED_LINE])
    statement = ma.fields.String(validate=[ma.validate.Length(0, TEXT_LENGTH_MAX), WORDS_OR_NOTHING])


class ApplicationQuery(PageQuery):
    """Filters of the list of applications."""

    programme = ma.fields.String(load_default=None, validate=PROGRAMME)
    year = ma.fields.Integer(load_default=None, validate=ma.validate.Range(2000, 2100))
    state = ma.fields.Enum(ApplicationState, by_value=True, load_default=None)
    overdue = ma.fields.Boolean(load_default=False, truthy={"true"}, falsy={"false"})


class ApplicationView(ma.Schema):
    """An application and whose turn it is."""

    id = ma.fields.UUID(required=True)
    programme = ma.fields.String(required=True, attribute="programme_code")
    rubric_id = ma.fields.UUID(required=True)
    year = ma.fields.Integer(required=True)
    subject_kind = ma.fields.Enum(SubjectKind, by_value=True, required=True)
    subject_name = ma.fields.String(required=True)
    division = ma.fields.String(required=True)
    organisation_id = ma.fields.UUID(required=True, allow_none=True)
    statement = ma.fields.String(required=True)
    state = ma.fields.Enum(ApplicationState, by_value=True, required=True)
    turn = ma.fields.Function(
        lambda row: TURN[row.state].value if row.state in TURN else None,
        metadata={"type": ["string", "null"], "enum": [*(party.value for party in Party), None]},
    )
    step_since = ma.fields.AwareDateTime(required=True)
    step_due_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    version = ma.fields.Integer(required=True)
    created_at = ma.fields.AwareDateTime(required=True)
    submitted_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class AnswerEntry(ma.Schema):
    """What the applicant says of one item: 1 or 0, a score, or a quantity."""

    item_code = ma.fields.String(required=True, validate=ITEM_CODE)
    value = _amount(99_999_999, required=True)
    note = ma.fields.String(load_default="", validate=[ma.validate.Length(0, REASON_LENGTH_MAX), WORDS_OR_NOTHING])


class AnswersEntry(ma.Schema):
    """Answers to some items; the others keep theirs."""

    answers = ma.fields.List(ma.fields.Nested(AnswerEntry), required=True, validate=ma.validate.Length(1, ITEMS_MAX))


class PreconditionsEntry(ma.Schema):
    """The preconditions that hold, and no others."""

    codes = ma.fields.List(
        ma.fields.String(validate=ITEM_CODE), required=True, validate=ma.validate.Length(0, PRECONDITIONS_MAX)
    )


class AnswerView(ma.Schema):
    """An answer of the self-assessment."""

    item_code = ma.fields.String(required=True)
    value = ma.fields.Decimal(required=True, as_string=True)
    note = ma.fields.String(required=True)
    answered_at = ma.fields.AwareDateTime(required=True)


class DeclaredView(ma.Schema):
    """A declared precondition, and whether the street confirmed it."""

    code = ma.fields.String(required=True)
    declared_at = ma.fields.AwareDateTime(required=True)
    confirmed_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class ApplicationDetailView(ma.Schema):
    """An application with its rubric, the self-assessment, and the moves that the reader could try."""

    application = ma.fields.Nested(ApplicationView, required=True)
    rubric = ma.fields.Nested(RubricView, required=True)
    answers = ma.fields.List(ma.fields.Nested(AnswerView), required=True)
    preconditions = ma.fields.List(ma.fields.Nested(DeclaredView), required=True)
    open_moves = ma.fields.List(ma.fields.Enum(Move, by_value=True), required=True)


class ApplicationMoveEntry(ma.Schema):
    """A move of an application; the table of moves says who makes which."""

    move = ma.fields.Enum(Move, by_value=True, required=True)
    reason = ma.fields.String(load_default="", validate=[ma.validate.Length(0, REASON_LENGTH_MAX), WORDS_OR_NOTHING])
    grace_until = ma.fields.Date(
        load_default=None, metadata={"description": "Of give-grace only: the last day, 1 to 180 days from today"}
    )


class ApplicationMoveView(ma.Schema):
    """A recorded move; `moved_by` is null for the clock."""

    position = ma.fields.Integer(required=True)
    move = ma.fields.Enum(Move, by_value=True, required=True)
    from_state = ma.fields.Enum(ApplicationState, by_value=True, required=True)
    to_state = ma.fields.Enum(ApplicationState, by_value=True, required=True)
    moved_by = ma.fields.UUID(required=True, allow_none=True)
    reason = ma.fields.String(required=True)
    moved_at = ma.fields.AwareDateTime(required=True)
    due_at = ma.fields.AwareDateTime(required=True, allow_none=True)


@blueprint.get("/applications")
@require(Permission.CREATION_READ)
@blueprint.arguments(ApplicationQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(ApplicationView))
def list_applications(query: dict[str, Any]) -> Page[Application]:
    """申报列表. List the applications in one's scope, newest first; `overdue=true` those past their time."""
    with transaction() as session:
        return applications.list_applications(session, actor(), **query, now=now())


@blueprint.post("/applications")
@require(Permission.CREATION_APPLY)
@idempotent
@blueprint.arguments(ApplicationEntry)
@blueprint.response(201, ApplicationView)
def create_application(entry: dict[str, Any]) -> tuple[Application, dict[str, str]]:
    """新建申报. Begin an application for one's own community, organisation or household."""
    programme_code = entry.pop("programme")
    with transaction() as session:
        made = applications.create(session, actor(), programme_code=programme_code, **entry, now=now())
    return made, etag_of(made.version)


@blueprint.get("/applications/<uuid:application_id>")
@require(Permission.CREATION_READ)
@blueprint.response(200, ApplicationDetailView)
def read_application(application_id: UUID) -> tuple[process.ApplicationDetail, dict[str, str]]:
    """查看申报. Read an application with its self-assessment."""
    with transaction() as session:
        found = process.detail_of(session, actor(), application_id)
    return found, etag_of(found.application.version)


@blueprint.patch("/applications/<uuid:application_id>")
@require(Permission.CREATION_APPLY)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(ApplicationChanges)
@blueprint.response(200, ApplicationView)
def edit_application(
    headers: dict[str, Any], changes: dict[str, Any], application_id: UUID
) -> tuple[Application, dict[str, str]]:
    """修改申报. Change one's own application; If-Match names the version that was read."""
    version = version_of(headers["if_match"])
    with transaction() as session:
        found = applications.edit(session, actor(), application_id, changes, version=version, now=now())
    return found, etag_of(found.version)


@blueprint.put("/applications/<uuid:application_id>/answers")
@require(Permission.CREATION_APPLY)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(AnswersEntry)
@blueprint.response(200, ApplicationView)
def answer_items(
    headers: dict[str, Any], entry: dict[str, Any], application_id: UUID
) -> tuple[Application, dict[str, str]]:
    """自评填报. Write the self-assessment of some items."""
    version = version_of(headers["if_match"])
    answers = [Answer(**each) for each in entry["answers"]]
    with transaction() as session:
        found = applications.answer(session, actor(), application_id, answers, version=version, now=now())
    return found, etag_of(found.version)


@blueprint.put("/applications/<uuid:application_id>/preconditions")
@require(Permission.CREATION_APPLY)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(PreconditionsEntry)
@blueprint.response(200, ApplicationView)
def declare_preconditions(
    headers: dict[str, Any], entry: dict[str, Any], application_id: UUID
) -> tuple[Application, dict[str, str]]:
    """声明前置条件. Declare which preconditions hold."""
    version = version_of(headers["if_match"])
    with transaction() as session:
        found = applications.declare(session, actor(), application_id, entry["codes"], version=version, now=now())
    return found, etag_of(found.version)


@blueprint.put("/applications/<uuid:application_id>/confirmations")
@require(Permission.CREATION_REVIEW)
@blueprint.arguments(PreconditionsEntry)
@blueprint.response(200, ApplicationView)
def confirm_preconditions(entry: dict[str, Any], application_id: UUID) -> tuple[Application, dict[str, str]]:
    """确认前置条件. Confirm, for the street, which declared preconditions hold."""
    with transaction() as session:
        found = applications.confirm(session, actor(), application_id, entry["codes"], now=now())
    return found, etag_of(found.version)


@blueprint.get("/applications/<uuid:application_id>/moves")
@require(Permission.CREATION_READ)
@blueprint.arguments(PageQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(ApplicationMoveView))
def list_moves(query: dict[str, Any], application_id: UUID) -> Page[ApplicationMove]:
    """办理记录. List every move of an application: who, when and why."""
    with transaction() as session:
        return applications.moves_of(session, actor(), application_id, **query)


@blueprint.post("/applications/<uuid:application_id>/moves")
@require(Permission.CREATION_READ)
@idempotent
@blueprint.arguments(ApplicationMoveEntry)
@blueprint.response(200, ApplicationView)
def move_application(entry: dict[str, Any], application_id: UUID) -> tuple[Application, dict[str, str]]:
    """办理申报. Make a move; the table of moves says who may, and what has to be done first (409 `step-not-ready`)."""
    step = entry.pop("move")
    found = run_transaction(lambda session: process.move(session, actor(), application_id, step, **entry, now=now()))
    return found, etag_of(found.version)


# Objections, for those who answer them


class ObjectionAnswerEntry(ma.Schema):
    """The answer to an objection, given once."""

    answer = _text(TEXT_LENGTH_MAX)
    upheld = ma.fields.Boolean(required=True, truthy={True}, falsy={False})


class ObjectionFileView(ma.Schema):
    """A file of an objection and its place, from 1."""

    position = ma.fields.Integer(required=True)
    file = ma.fields.Nested(StoredFileView, required=True)


class StaffObjectionView(ma.Schema):
    """An objection; the contact is for the district, which answers."""

    id = ma.fields.UUID(required=True, attribute="objection.id")
    text = ma.fields.String(required=True, attribute="objection.text")
    made_at = ma.fields.AwareDateTime(required=True, attribute="objection.made_at")
    answer = ma.fields.String(required=True, allow_none=True, attribute="objection.answer")
    upheld = ma.fields.Boolean(required=True, allow_none=True, attribute="objection.upheld")
    answered_at = ma.fields.AwareDateTime(required=True, allow_none=True, attribute="objection.answered_at")
    contact = ma.fields.String(required=True, allow_none=True)
    files = ma.fields.List(ma.fields.Nested(ObjectionFileView), required=True)


@blueprint.get("/applications/<uuid:application_id>/objections")
@require(Permission.CREATION_REVIEW)
@blueprint.arguments(PageQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(StaffObjectionView))
def list_objections(query: dict[str, Any], application_id: UUID) -> Page[ObjectionDetail]:
    """异议列表. List the objections to an application, first come first."""
    with transaction() as session:
        return notice.list_objections(session, actor(), application_id, data_key=settings().data_key, **query)


@blueprint.post("/objections/<uuid:objection_id>/answer")
@require(Permission.CREATION_DECIDE)
@idempotent
@blueprint.arguments(ObjectionAnswerEntry)
@blueprint.response(200, StaffObjectionView)
def answer_objection(entry: dict[str, Any], objection_id: UUID) -> ObjectionDetail:
    """答复异议. Answer an objection, once and for good."""
    with transaction() as session:
        return notice.answer(session, actor(), objection_id, text=entry["answer"], upheld=entry["upheld"], now=now())


@blueprint.get("/objections/<uuid:objection_id>/files/<int:position>")
@require(Permission.CREATION_REVIEW)
@blueprint.response(200, content_type="application/octet-stream")
def download_objection_file(objection_id: UUID, position: int) -> Response:
    """下载异议附件. Download a file of an objection."""
    with transaction() as session:
        found = notice.file_for(session, actor(), objection_id, position)
    return serve(found)


# Namings and re-checks


class PlaqueEntry(ma.Schema):
    """The day on which the plaque was given."""

    plaque_on = ma.fields.Date(required=True)


class NamingView(ma.Schema):
    """The line of the register."""

    number = ma.fields.String(required=True)
    named_on = ma.fields.Date(required=True)
    plaque_on = ma.fields.Date(required=True, allow_none=True)
    valid_until = ma.fields.Date(required=True)
    recheck_due_on = ma.fields.Date(required=True, allow_none=True)
    grace_until = ma.fields.Date(required=True, allow_none=True)
    withdrawn_on = ma.fields.Date(required=True, allow_none=True)


class FindingsEntry(ma.Schema):
    """What two or more people found on the spot."""

    visited_on = ma.fields.Date(required=True)
    people = ma.fields.List(
        ma.fields.String(validate=[ma.validate.Length(1, 30), TRIMMED_LINE]),
        required=True,
        validate=ma.validate.Length(2, 10),
    )
    findings = _text(TEXT_LENGTH_MAX)


class RecheckView(ma.Schema):
    """A re-check: when it began, what was found, what followed."""

    position = ma.fields.Integer(required=True)
    began_on = ma.fields.Date(required=True)
    visited_on = ma.fields.Date(required=True, allow_none=True)
    people = ma.fields.List(ma.fields.String(), required=True, allow_none=True)
    findings = ma.fields.String(required=True, allow_none=True)
    recorded_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    result = ma.fields.Enum(Move, by_value=True, required=True, allow_none=True)


class RechecksView(ma.Schema):
    """Every re-check of a name, the first first."""

    rechecks = ma.fields.List(ma.fields.Nested(RecheckView), required=True)


@blueprint.put("/applications/<uuid:application_id>/plaque")
@require(Permission.CREATION_DECIDE)
@blueprint.arguments(PlaqueEntry)
@blueprint.response(200, NamingView)
def set_plaque_day(entry: dict[str, Any], application_id: UUID) -> Naming:
    """登记授牌. Record the day on which the plaque was given."""
    with transaction() as session:
        return naming.set_plaque_day(session, actor(), application_id, entry["plaque_on"], now=now())


@blueprint.get("/applications/<uuid:application_id>/rechecks")
@require(Permission.CREATION_READ)
@blueprint.response(200, RechecksView)
def list_rechecks(application_id: UUID) -> dict[str, Any]:
    """复查记录. List the re-checks of a name."""
    with transaction() as session:
        return {"rechecks": naming.rechecks_of(session, actor(), application_id)}


@blueprint.put("/applications/<uuid:application_id>/rechecks/open")
@require(Permission.CREATION_REVIEW)
@blueprint.arguments(FindingsEntry)
@blueprint.response(200, RecheckView)
def record_findings(entry: dict[str, Any], application_id: UUID) -> Recheck:
    """填写复查结果. Record what the open re-check found; until it is decided, the newest record counts."""
    with transaction() as session:
        return naming.record_findings(session, actor(), application_id, **entry, now=now())
