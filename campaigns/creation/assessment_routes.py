"""Evidence, live figures, assessors and their marks, visits and agreement, over HTTP."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import Response

from campaigns.creation import agreement, assessment, conflicts, evidence, live_evidence, visits
from campaigns.creation.agreement import Agreement
from campaigns.creation.assessment import Assignment, Decision, MarkEntry, Outcome, Seat, Sheet
from campaigns.creation.live_evidence import Figure
from campaigns.creation.models import (
    REASON_LENGTH_MAX,
    TEXT_LENGTH_MAX,
    VISITORS_MAX,
    ApplicationEvidence,
    Assessment,
    AssessorConflict,
    LiveMeasure,
    SubjectKind,
)
from campaigns.creation.routes import ITEM_CODE
from campaigns.creation.rubrics import NUMBER_MAX
from campaigns.creation.steps import ApplicationState
from campaigns.creation.visits import Photo, VisitWithPhotos
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import DIVISION, LINE, WORDS, WORDS_OR_NOTHING, in_our_time
from server.etags import VersionHeader, etag_of, version_of
from server.files.models import StoredFile
from server.files.serving import StoredFileView, serve
from server.files.uploads import takes_files, upload_body, uploaded
from server.idempotency import idempotent
from server.paging import Page, PageQuery

blueprint = Blueprint(
    "creation-assessment",
    __name__,
    url_prefix="/api/v1/creation",
    description="创建评审 · Evidence, assessors and their marks, visits, agreement",
)

ITEMS_MAX = 500

# What a person writes: no control characters but line breaks, and something visible where it is required.


def _figure(description: str, *, allow_none: bool = False, attribute: str | None = None) -> ma.fields.Decimal:
    """A decimal figure as text, so that no client makes 79.99 of 80."""
    return ma.fields.Decimal(
        required=True,
        allow_none=allow_none,
        as_string=True,
        attribute=attribute,
        metadata={"description": description, "type": "string"},  # apispec would say number
    )


def _in_range(value: Decimal) -> None:
    if not 0 <= value <= NUMBER_MAX:
        raise ma.ValidationError(f"Must be from 0 to {NUMBER_MAX}.")


class ItemEvidenceNote(ma.Schema):
    """What the applicant says of a file, beside it in the form."""

    note = ma.fields.String(load_default="", validate=[ma.validate.Length(0, REASON_LENGTH_MAX), WORDS_OR_NOTHING])


class PhotoCaption(ma.Schema):
    """What a photograph shows, beside it in the form."""

    caption = ma.fields.String(load_default="", validate=[ma.validate.Length(0, 120), WORDS_OR_NOTHING])


class ItemEvidenceQuery(PageQuery):
    """Which files of an application."""

    removed = ma.fields.Boolean(
        load_default=False, metadata={"description": "Those that were taken off after a review, instead"}
    )


class ItemEvidenceView(ma.Schema):
    """A file that shows something about one item."""

    id = ma.fields.UUID(required=True)
    item_code = ma.fields.String(required=True)
    note = ma.fields.String(required=True)
    added_at = ma.fields.AwareDateTime(required=True)
    removed_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    file = ma.fields.Nested(StoredFileView, required=True)


class LiveFigureView(ma.Schema):
    """A figure of the system that an item is bound to, with what it means."""

    item_code = ma.fields.String(required=True)
    measure = ma.fields.Enum(LiveMeasure, by_value=True, required=True)
    value = _figure("None: nothing to compute it from, which is not a zero", allow_none=True)
    numerator = ma.fields.Integer(required=True, allow_none=True, metadata={"description": "Weights in grams"})
    denominator = ma.fields.Integer(required=True, allow_none=True)
    unit = ma.fields.String(required=True)
    period_starts_on = ma.fields.Date(required=True)
    period_ends_on = ma.fields.Date(required=True)
    definition_zh = ma.fields.String(required=True)
    definition_en = ma.fields.String(required=True)
    frozen_at = ma.fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "None: of this moment, frozen when submitted"}
    )


class LiveFiguresView(ma.Schema):
    """Every live figure of an application."""

    items = ma.fields.List(ma.fields.Nested(LiveFigureView), required=True)


class AssessorEntry(ma.Schema):
    """Whom to ask."""

    staff_id = ma.fields.UUID(required=True)


class AssessorReasonEntry(ma.Schema):
    """Why."""

    reason = ma.fields.String(required=True, validate=[ma.validate.Length(1, REASON_LENGTH_MAX), WORDS])


class AssessorSeatView(ma.Schema):
    """An assessor of an application; never a mark."""

    seat = ma.fields.Integer(required=True, metadata={"description": "1 and 2; 3 when those two differ"})
    staff_id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    assigned_at = ma.fields.AwareDateTime(required=True)
    submitted_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class AssessorSeatsView(ma.Schema):
    """The assessors of an application."""

    items = ma.fields.List(ma.fields.Nested(AssessorSeatView), required=True)


class AssessorAssignedView(ma.Schema):
    """An assignment that was made."""

    application_id = ma.fields.UUID(required=True)
    staff_id = ma.fields.UUID(required=True)
    seat = ma.fields.Integer(required=True)
    assigned_at = ma.fields.AwareDateTime(required=True)


class AssignmentQuery(PageQuery):
    """Which of one's own assignments."""

    submitted = ma.fields.Boolean(load_default=None, allow_none=True)


class AssessmentAssignmentView(ma.Schema):
    """An application that the person is to assess, or has assessed."""

    application_id = ma.fields.UUID(required=True)
    programme_code = ma.fields.String(required=True)
    programme_title_zh = ma.fields.String(required=True)
    subject_kind = ma.fields.Enum(SubjectKind, by_value=True, required=True)
    subject_name = ma.fields.String(required=True)
    state = ma.fields.Enum(ApplicationState, by_value=True, required=True)
    assigned_at = ma.fields.AwareDateTime(required=True)
    submitted_at = ma.fields.AwareDateTime(required=True, allow_none=True)


_MARK_MEANS = "yes-no: 1 or 0; score: points to the maximum; number: the quantity. Two places"


class AssessmentMarkEntry(ma.Schema):
    """A mark of one item, as it is given."""

    item_code = ma.fields.String(required=True, validate=ITEM_CODE)
    value = ma.fields.Decimal(
        required=True,
        allow_nan=False,
        validate=_in_range,
        metadata={"description": _MARK_MEANS, "type": ["string", "number"]},
    )
    comment = ma.fields.String(load_default="", validate=[ma.validate.Length(0, REASON_LENGTH_MAX), WORDS_OR_NOTHING])


class AssessmentMarkView(ma.Schema):
    """A mark of one item."""

    item_code = ma.fields.String(required=True)
    value = _figure(_MARK_MEANS)
    comment = ma.fields.String(required=True)


class AssessmentMarksEntry(ma.Schema):
    """Some marks; what is not named stays as it was."""

    marks = ma.fields.List(
        ma.fields.Nested(AssessmentMarkEntry), load_default=list, validate=ma.validate.Length(0, ITEMS_MAX)
    )
    comment = ma.fields.String(
        load_default=None, allow_none=True, validate=[ma.validate.Length(0, TEXT_LENGTH_MAX), WORDS_OR_NOTHING]
    )


class AssessmentSubmissionEntry(ma.Schema):
    """The assessor's word."""

    no_tie = ma.fields.Boolean(
        required=True,
        validate=ma.validate.Equal(True),
        metadata={
            "description": "本人与申报对象无利益关系 I have no tie to the applicant; else hand it back (recusal)"
        },
    )


class AssessmentSheetView(ma.Schema):
    """One assessor's marks. `version` is the ETag that a change names."""

    application_id = ma.fields.UUID(required=True, attribute="assessment.application_id")
    seat = ma.fields.Integer(required=True, attribute="assessment.seat")
    staff_id = ma.fields.UUID(required=True, attribute="assessment.staff_id")
    version = ma.fields.Integer(required=True, attribute="assessment.version")
    submitted_at = ma.fields.AwareDateTime(required=True, allow_none=True, attribute="assessment.submitted_at")
    total = _figure("Points over all items, once submitted", allow_none=True, attribute="assessment.total")
    must_meet_failed = ma.fields.List(
        ma.fields.String(), required=True, allow_none=True, attribute="assessment.must_meet_failed"
    )
    comment = ma.fields.String(required=True, attribute="assessment.comment")
    marks = ma.fields.List(ma.fields.Nested(AssessmentMarkView), required=True)


class AssessmentSheetsView(ma.Schema):
    """Every submitted assessment of an application, by seat."""

    items = ma.fields.List(ma.fields.Nested(AssessmentSheetView), required=True)


class AssessmentOutcomeView(ma.Schema):
    """What the assessments say together: the mean of two totals that agree, the median of three."""

    decision = ma.fields.Enum(Decision, by_value=True, required=True)
    assessors = ma.fields.Integer(required=True, metadata={"description": "How many are in"})
    score = _figure("None before it is complete", allow_none=True)
    maximum = ma.fields.Integer(required=True)
    minimum_score = ma.fields.Integer(required=True)
    must_meet_failed = ma.fields.List(ma.fields.String(), required=True)
    passed = ma.fields.Boolean(required=True)


class AssessorTieEntry(ma.Schema):
    """A tie to one community (or street, district) or to one organisation."""

    staff_id = ma.fields.UUID(
        load_default=None, allow_none=True, metadata={"description": "Another's tie, which only the district declares"}
    )
    division = ma.fields.String(load_default=None, allow_none=True, validate=DIVISION)
    organisation_id = ma.fields.UUID(load_default=None, allow_none=True)
    reason = ma.fields.String(required=True, validate=[ma.validate.Length(1, REASON_LENGTH_MAX), WORDS])


class TieQuery(PageQuery):
    """Whose ties; one's own if nobody is named."""

    staff_id = ma.fields.UUID(load_default=None, allow_none=True)


class AssessorTieView(ma.Schema):
    """A declared tie."""

    id = ma.fields.UUID(required=True)
    staff_id = ma.fields.UUID(required=True)
    division = ma.fields.String(required=True, allow_none=True)
    organisation_id = ma.fields.UUID(required=True, allow_none=True)
    reason = ma.fields.String(required=True)
    declared_by = ma.fields.UUID(required=True)
    declared_at = ma.fields.AwareDateTime(required=True)
    ended_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class SiteVisitEntry(ma.Schema):
    """A visit on the spot."""

    visited_on = ma.fields.Date(required=True, validate=in_our_time)
    people = ma.fields.List(
        ma.fields.String(validate=[ma.validate.Length(1, 40), LINE]),
        required=True,
        validate=ma.validate.Length(2, VISITORS_MAX),
        metadata={"description": "Names as they sign, at least two"},
    )
    findings = ma.fields.String(required=True, validate=[ma.validate.Length(1, TEXT_LENGTH_MAX), WORDS])


class VisitPhotoView(ma.Schema):
    """A photograph of a visit."""

    position = ma.fields.Integer(required=True)
    caption = ma.fields.String(required=True)
    file = ma.fields.Nested(StoredFileView, required=True)


class SiteVisitView(ma.Schema):
    """A visit and its photographs."""

    id = ma.fields.UUID(required=True, attribute="visit.id")
    visited_on = ma.fields.Date(required=True, attribute="visit.visited_on")
    people = ma.fields.List(ma.fields.String(), required=True, attribute="visit.people")
    findings = ma.fields.String(required=True, attribute="visit.findings")
    recorded_at = ma.fields.AwareDateTime(required=True, attribute="visit.recorded_at")
    photos = ma.fields.List(ma.fields.Nested(VisitPhotoView), required=True)


class SiteVisitsView(ma.Schema):
    """The visits to one applicant."""

    items = ma.fields.List(ma.fields.Nested(SiteVisitView), required=True)


class RubricItemAgreementView(ma.Schema):
    """How far the first two assessors agree about one item."""

    item_code = ma.fields.String(required=True)
    text_zh = ma.fields.String(required=True)
    pairs = ma.fields.Integer(required=True)
    same_share = ma.fields.Float(required=True, allow_none=True)
    mean_difference_points = ma.fields.Float(required=True, allow_none=True)
    kappa = ma.fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": "Agreement beyond chance (Scott 1955, squared distances); None if no mark varies"},
    )


class AssessorLeaningView(ma.Schema):
    """How an assessor's totals lie to the others' of the same applications."""

    staff_id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    applications = ma.fields.Integer(required=True)
    mean_difference_points = ma.fields.Float(required=True, metadata={"description": "Above 0: milder"})


class RubricAgreementView(ma.Schema):
    """The agreement between the assessors under one rubric, over completely assessed applications."""

    rubric_id = ma.fields.UUID(required=True)
    applications = ma.fields.Integer(required=True)
    third_wanted = ma.fields.Integer(required=True)
    maximum = ma.fields.Integer(required=True)
    mean_difference_points = ma.fields.Float(required=True, allow_none=True)
    mean_difference_percent = ma.fields.Float(
        required=True, allow_none=True, metadata={"description": "Of the rubric's maximum"}
    )
    icc = ma.fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": "ICC(1,1) of the totals (Shrout and Fleiss 1979); None for fewer than two"},
    )
    items = ma.fields.List(ma.fields.Nested(RubricItemAgreementView), required=True)
    assessors = ma.fields.List(ma.fields.Nested(AssessorLeaningView), required=True)


def _evidence_view(row: tuple[ApplicationEvidence, StoredFile]) -> dict[str, Any]:
    added, file = row
    return {
        "id": added.id,
        "item_code": added.item_code,
        "note": added.note,
        "added_at": added.added_at,
        "removed_at": added.removed_at,
        "file": file,
    }


def _with_etag(sheet: Sheet) -> tuple[Sheet, dict[str, str]]:
    return sheet, etag_of(sheet.assessment.version)


# Evidence


@blueprint.get("/applications/<uuid:application_id>/evidence")
@require(Permission.CREATION_READ)
@blueprint.arguments(ItemEvidenceQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(ItemEvidenceView))
def list_evidence(query: dict[str, Any], application_id: UUID) -> Page[dict[str, Any]]:
    """证明材料列表. List the evidence files of an application, oldest first."""
    with transaction() as session:
        page = evidence.list_evidence(session, actor(), application_id, **query)
    return Page([_evidence_view(row) for row in page.items], page.next_cursor)


@blueprint.post("/applications/<uuid:application_id>/items/<string:item_code>/evidence")
@require(Permission.CREATION_APPLY)
@takes_files()
@idempotent
@blueprint.doc(requestBody=upload_body(text=("note",)))
@blueprint.arguments(ItemEvidenceNote, location="form", content_type="multipart/form-data")
@blueprint.response(201, ItemEvidenceView)
def add_evidence(form: dict[str, Any], application_id: UUID, item_code: str) -> dict[str, Any]:
    """上传证明材料. Add a file to one item of one's own application."""
    # Asked first: nobody makes the service spend seconds on a file that it would then refuse.
    with transaction() as session:
        evidence.require_open(session, actor(), application_id, item_code)
    file = uploaded()
    with transaction() as session:
        return _evidence_view(evidence.add(session, actor(), application_id, item_code, file, **form, now=now()))


@blueprint.delete("/applications/<uuid:application_id>/evidence/<uuid:evidence_id>")
@require(Permission.CREATION_APPLY)
@blueprint.response(204)
def remove_evidence(application_id: UUID, evidence_id: UUID) -> None:
    """移除证明材料. Take a file off one's own application; reviewers who have seen it still can."""
    with transaction() as session:
        evidence.remove(session, actor(), application_id, evidence_id, now=now())


@blueprint.get("/applications/<uuid:application_id>/evidence/<uuid:evidence_id>/file")
@require(Permission.CREATION_READ)
@blueprint.response(200, {"type": "string", "format": "binary"}, content_type="application/octet-stream")
def read_evidence_file(application_id: UUID, evidence_id: UUID) -> Response:
    """下载证明材料. Download a file of an application that one may see."""
    with transaction() as session:
        file = evidence.file_for(session, actor(), application_id, evidence_id)
    return serve(file)


@blueprint.get("/applications/<uuid:application_id>/live-figures")
@require(Permission.CREATION_READ)
@blueprint.response(200, LiveFiguresView)
def list_live_figures(application_id: UUID) -> dict[str, Sequence[Figure]]:
    """系统数据. Read the figures that items are bound to: frozen at the submission, of this moment before it."""
    with transaction() as session:
        return {"items": live_evidence.figures_for(session, actor(), application_id, now=now())}


# Assessors


@blueprint.get("/applications/<uuid:application_id>/assessors")
@require(Permission.CREATION_REVIEW)
@blueprint.response(200, AssessorSeatsView)
def list_assessors(application_id: UUID) -> dict[str, Sequence[Seat]]:
    """评审人员. Read who assesses an application and who is in."""
    with transaction() as session:
        return {"items": assessment.list_seats(session, actor(), application_id)}


@blueprint.post("/applications/<uuid:application_id>/assessors")
@require(Permission.CREATION_DECIDE)
@idempotent
@blueprint.arguments(AssessorEntry)
@blueprint.response(201, AssessorAssignedView)
def assign_assessor(entry: dict[str, Any], application_id: UUID) -> Assessment:
    """指派评审人员. Give the next free seat to somebody without a tie; the third only over two that differ."""
    with transaction() as session:
        return assessment.assign(session, actor(), application_id, **entry, now=now())


@blueprint.post("/applications/<uuid:application_id>/assessors/<uuid:staff_id>/removal")
@require(Permission.CREATION_DECIDE)
@idempotent
@blueprint.arguments(AssessorReasonEntry)
@blueprint.response(204)
def take_assessor_off(entry: dict[str, Any], application_id: UUID, staff_id: UUID) -> None:
    """撤换评审人员. Take an assessor off who has not submitted."""
    with transaction() as session:
        assessment.take_off(session, actor(), application_id, staff_id, **entry, now=now())


@blueprint.get("/assessments")
@require(Permission.CREATION_ASSESS)
@blueprint.arguments(AssignmentQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(AssessmentAssignmentView))
def list_assignments(query: dict[str, Any]) -> Page[Assignment]:
    """我的评审任务. List what one is to assess or has assessed, newest first."""
    with transaction() as session:
        return assessment.list_assignments(session, actor(), **query)


@blueprint.get("/applications/<uuid:application_id>/assessments/mine")
@require(Permission.CREATION_ASSESS)
@blueprint.response(200, AssessmentSheetView)
def read_own_assessment(application_id: UUID) -> tuple[Sheet, dict[str, str]]:
    """我的评分. Read one's own marks; the ETag is what a change names in If-Match."""
    with transaction() as session:
        return _with_etag(assessment.own_sheet(session, actor(), application_id))


@blueprint.patch("/applications/<uuid:application_id>/assessments/mine")
@require(Permission.CREATION_ASSESS)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(AssessmentMarksEntry)
@blueprint.response(200, AssessmentSheetView)
def save_own_marks(
    headers: dict[str, Any], entry: dict[str, Any], application_id: UUID
) -> tuple[Sheet, dict[str, str]]:
    """填写评分. Write some of one's own marks; the others stay."""
    version = version_of(headers["if_match"])
    marks = [MarkEntry(**mark) for mark in entry["marks"]]
    sheet = run_transaction(
        lambda session: assessment.save_marks(
            session, actor(), application_id, marks, comment=entry["comment"], version=version, now=now()
        )
    )
    return _with_etag(sheet)


@blueprint.post("/applications/<uuid:application_id>/assessments/mine/submission")
@require(Permission.CREATION_ASSESS)
@idempotent
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(AssessmentSubmissionEntry)
@blueprint.response(200, AssessmentSheetView)
def submit_own_assessment(
    headers: dict[str, Any], _entry: dict[str, Any], application_id: UUID
) -> tuple[Sheet, dict[str, str]]:
    """提交评分. Hand in one's own assessment, for good."""
    version = version_of(headers["if_match"])
    sheet = run_transaction(
        lambda session: assessment.submit(session, actor(), application_id, version=version, now=now())
    )
    return _with_etag(sheet)


@blueprint.post("/applications/<uuid:application_id>/assessments/mine/recusal")
@require(Permission.CREATION_ASSESS)
@idempotent
@blueprint.arguments(AssessorReasonEntry)
@blueprint.response(204)
def recuse(entry: dict[str, Any], application_id: UUID) -> None:
    """申请回避. Hand an assessment back because of a tie, which is declared with it."""
    with transaction() as session:
        assessment.recuse(session, actor(), application_id, **entry, now=now())


@blueprint.get("/applications/<uuid:application_id>/assessments")
@require(Permission.CREATION_ASSESS)
@blueprint.response(200, AssessmentSheetsView)
def list_assessments(application_id: UUID) -> dict[str, Sequence[Sheet]]:
    """全部评分. Read every submitted assessment: assessors once two are in, reviewers once it is complete."""
    with transaction() as session:
        return {"items": assessment.sheets_for(session, actor(), application_id)}


@blueprint.get("/applications/<uuid:application_id>/outcome")
@require(Permission.CREATION_READ)
@blueprint.response(200, AssessmentOutcomeView)
def read_outcome(application_id: UUID) -> Outcome:
    """评审结果. Read what the assessments say together; applicants from the public notice on."""
    with transaction() as session:
        return assessment.outcome_for(session, actor(), application_id)


# Ties


@blueprint.get("/ties")
@require(Permission.CREATION_ASSESS)
@blueprint.arguments(TieQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(AssessorTieView))
def list_ties(query: dict[str, Any]) -> Page[AssessorConflict]:
    """利益关系申明. List one's own declared ties, or (the district) those of another member of staff."""
    with transaction() as session:
        return conflicts.list_ties(session, actor(), **query)


@blueprint.post("/ties")
@require(Permission.CREATION_ASSESS)
@idempotent
@blueprint.arguments(AssessorTieEntry)
@blueprint.response(201, AssessorTieView)
def declare_tie(entry: dict[str, Any]) -> AssessorConflict:
    """申明利益关系. Declare a tie; open assessments of what it concerns go back to the district."""
    with transaction() as session:
        return conflicts.declare(session, actor(), **entry, now=now())


@blueprint.post("/ties/<uuid:tie_id>/end")
@require(Permission.CREATION_DECIDE)
@idempotent
@blueprint.response(200, AssessorTieView)
def end_tie(tie_id: UUID) -> AssessorConflict:
    """解除利益关系. Find another person's tie to be over."""
    with transaction() as session:
        return conflicts.end(session, actor(), tie_id, now=now())


# Visits


@blueprint.get("/applications/<uuid:application_id>/visits")
@require(Permission.CREATION_READ)
@blueprint.response(200, SiteVisitsView)
def list_visits(application_id: UUID) -> dict[str, Sequence[VisitWithPhotos]]:
    """现场核查. List the visits to an applicant, with their photographs."""
    with transaction() as session:
        return {"items": visits.list_visits(session, actor(), application_id)}


@blueprint.post("/applications/<uuid:application_id>/visits")
@require(Permission.CREATION_ASSESS)
@idempotent
@blueprint.arguments(SiteVisitEntry)
@blueprint.response(201, SiteVisitView)
def record_visit(entry: dict[str, Any], application_id: UUID) -> VisitWithPhotos:
    """记录现场核查. Write down a visit: the district's, or an assigned assessor's."""
    with transaction() as session:
        return visits.record(session, actor(), application_id, **entry, now=now())


@blueprint.post("/applications/<uuid:application_id>/visits/<uuid:visit_id>/photos")
@require(Permission.CREATION_ASSESS)
@takes_files()
@idempotent
@blueprint.doc(requestBody=upload_body(text=("caption",)))
@blueprint.arguments(PhotoCaption, location="form", content_type="multipart/form-data")
@blueprint.response(201, VisitPhotoView)
def add_visit_photo(form: dict[str, Any], application_id: UUID, visit_id: UUID) -> Photo:
    """上传核查照片. Add a photograph to a visit that one wrote down."""
    # Asked first, as for evidence.
    with transaction() as session:
        visits.require_open(session, actor(), application_id, visit_id)
    file = uploaded()
    with transaction() as session:
        return visits.add_photo(session, actor(), application_id, visit_id, file, **form, now=now())


@blueprint.get("/applications/<uuid:application_id>/visits/<uuid:visit_id>/photos/<int:photo>/file")
@require(Permission.CREATION_READ)
@blueprint.response(200, {"type": "string", "format": "binary"}, content_type="application/octet-stream")
def read_visit_photo(application_id: UUID, visit_id: UUID, photo: int) -> Response:
    """下载核查照片. Download a photograph of a visit, by its position."""
    with transaction() as session:
        file = visits.photo_for(session, actor(), application_id, visit_id, photo)
    return serve(file)


# Agreement


@blueprint.get("/rubrics/<uuid:rubric_id>/agreement")
@require(Permission.CREATION_DECIDE)
@blueprint.response(200, RubricAgreementView)
def read_agreement(rubric_id: UUID) -> Agreement:
    """评审一致性. Read how far the assessors under a rubric agree, in total, by item and by person."""
    with transaction() as session:
        return agreement.agreement_of(session, actor(), rubric_id)
