"""Creation over HTTP without sign-in: programmes, public notices, objections by receipt, the register of names."""

from typing import Any
from uuid import UUID

import marshmallow as ma
from flask_limiter.util import get_remote_address

from campaigns.creation import naming, notice, programmes
from campaigns.creation.models import IndicatorFigure, SubjectKind, TargetBase
from campaigns.creation.naming import RegisterLine, Standing
from campaigns.creation.notice import ObjectionDetail, Received, UnderNotice
from campaigns.creation.programmes import ProgrammeDetail
from campaigns.creation.routes import CONFIDENCE, PROGRAMME, IndicatorFigureView, ObjectionFileView, RubricView
from campaigns.creation.steps import Move
from server.access import public
from server.api import Blueprint, page_schema
from server.clock import business_day, now
from server.database import transaction
from server.entries import LINE_OR_NOTHING, TYPED_CODE, WORDS
from server.files.uploads import takes_files, upload_body, uploaded
from server.limits import limiter
from server.paging import Page, PageQuery
from server.places.models import AgencyRank, Confidence, OrganisationKind
from server.settings import settings

blueprint = Blueprint(
    "creation-public",
    __name__,
    url_prefix="/api/v1/creation",
    description="绿色创建公示与名录 · Public notices, objections and the register",
)

# By address: a person objects once or twice, a flood comes faster.
OBJECTIONS = "10 per hour"
LOOK_UPS = "60 per minute"


class TargetView(ma.Schema):
    """What the plan wants of a programme by the end of a year; `is_about`: its source says 左右."""

    year = ma.fields.Integer(required=True)
    text_zh = ma.fields.String(required=True)
    share_min_percent = ma.fields.Decimal(required=True, as_string=True, allow_none=True)
    is_about = ma.fields.Boolean(required=True)
    base = ma.fields.Enum(TargetBase, by_value=True, required=True, allow_none=True)
    floor_area_min_m2 = ma.fields.Integer(required=True, allow_none=True)
    agency_rank_min = ma.fields.Enum(AgencyRank, by_value=True, required=True, allow_none=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True, metadata=CONFIDENCE)


class ProgrammeView(ma.Schema):
    """A creation programme: who applies, or which indicator is tracked."""

    code = ma.fields.String(required=True, attribute="programme.code")
    title_zh = ma.fields.String(required=True, attribute="programme.title_zh")
    title_en = ma.fields.String(required=True, attribute="programme.title_en")
    subject_kind = ma.fields.Enum(
        SubjectKind, by_value=True, required=True, allow_none=True, attribute="programme.subject_kind"
    )
    organisation_kind = ma.fields.Enum(
        OrganisationKind, by_value=True, required=True, allow_none=True, attribute="programme.organisation_kind"
    )
    indicator_zh = ma.fields.String(required=True, allow_none=True, attribute="programme.indicator_zh")
    indicator_unit = ma.fields.String(required=True, allow_none=True, attribute="programme.indicator_unit")
    document = ma.fields.String(required=True, attribute="programme.document")
    confidence = ma.fields.Enum(
        Confidence, by_value=True, required=True, attribute="programme.confidence", metadata=CONFIDENCE
    )
    targets = ma.fields.List(ma.fields.Nested(TargetView), required=True)
    rubric = ma.fields.Nested(RubricView, required=True, allow_none=True)
    figure = ma.fields.Nested(IndicatorFigureView, required=True, allow_none=True)


class ProgrammesView(ma.Schema):
    """Every programme, in the order of the plan."""

    programmes = ma.fields.List(ma.fields.Nested(ProgrammeView), required=True)


class ProgrammeQuery(PageQuery):
    """Filter by programme."""

    programme = ma.fields.String(load_default=None, validate=PROGRAMME)


class PublicNoticeView(ma.Schema):
    """An application under public notice, from `published_on` to `last_on`, both included."""

    id = ma.fields.UUID(required=True, attribute="application.id")
    programme = ma.fields.String(required=True, attribute="programme.code")
    programme_zh = ma.fields.String(required=True, attribute="programme.title_zh")
    subject_kind = ma.fields.Enum(SubjectKind, by_value=True, required=True, attribute="application.subject_kind")
    subject_name = ma.fields.String(required=True, attribute="application.subject_name")
    division = ma.fields.String(required=True, attribute="application.division")
    year = ma.fields.Integer(required=True, attribute="application.year")
    score = ma.fields.Decimal(required=True, as_string=True, attribute="notice.score")
    maximum = ma.fields.Integer(required=True, attribute="notice.maximum")
    published_on = ma.fields.Date(required=True, attribute="notice.published_on")
    last_on = ma.fields.Date(required=True, attribute="notice.last_on")
    rubric = ma.fields.Nested(RubricView, required=True)


class ObjectionEntry(ma.Schema):
    """An objection: what is wrong, and, if an answer in person is wanted, how to be reached."""

    text = ma.fields.String(required=True, validate=[ma.validate.Length(5, 2000), WORDS])
    contact = ma.fields.String(
        load_default="",
        validate=[ma.validate.Length(0, 100), LINE_OR_NOTHING],
        metadata={"description": "联系方式, 加密保存, 仅答复人可见 · Sealed; for those who answer"},
    )


class ReceiptHeader(ma.Schema):
    """The receipt of one's own objection: a header, so that it stands in no log of addresses."""

    receipt = ma.fields.String(
        data_key="Objection-Receipt",
        required=True,
        validate=[ma.validate.Length(16, 24), TYPED_CODE],
    )


class ObjectionView(ma.Schema):
    """One's own objection and its answer."""

    text = ma.fields.String(required=True, attribute="objection.text")
    made_at = ma.fields.AwareDateTime(required=True, attribute="objection.made_at")
    answer = ma.fields.String(required=True, allow_none=True, attribute="objection.answer")
    upheld = ma.fields.Boolean(required=True, allow_none=True, attribute="objection.upheld")
    answered_at = ma.fields.AwareDateTime(required=True, allow_none=True, attribute="objection.answered_at")
    files = ma.fields.List(ma.fields.Nested(ObjectionFileView), required=True)


class ReceivedView(ma.Schema):
    """A new objection. The receipt is shown this once."""

    receipt = ma.fields.String(required=True)
    made_at = ma.fields.AwareDateTime(required=True, attribute="objection.made_at")


class RegisterQuery(ProgrammeQuery):
    """Filters of the register."""

    division = ma.fields.String(
        load_default=None, validate=[ma.validate.Length(6, 12), ma.validate.Regexp(r"^[0-9]+(?!\n)$")]
    )
    standing = ma.fields.Boolean(load_default=False, truthy={"true"}, falsy={"false"})


class RegisterView(ma.Schema):
    """A name that was given, and how it stands today."""

    number = ma.fields.String(required=True, attribute="naming.number")
    programme = ma.fields.String(required=True, attribute="programme.code")
    programme_zh = ma.fields.String(required=True, attribute="programme.title_zh")
    subject_kind = ma.fields.Enum(SubjectKind, by_value=True, required=True, attribute="application.subject_kind")
    subject_name = ma.fields.String(required=True, attribute="application.subject_name")
    division = ma.fields.String(required=True, attribute="application.division")
    standing = ma.fields.Enum(Standing, by_value=True, required=True)
    named_on = ma.fields.Date(required=True, attribute="naming.named_on")
    plaque_on = ma.fields.Date(required=True, allow_none=True, attribute="naming.plaque_on")
    valid_until = ma.fields.Date(required=True, attribute="naming.valid_until")
    grace_until = ma.fields.Date(required=True, allow_none=True, attribute="naming.grace_until")
    withdrawn_on = ma.fields.Date(required=True, allow_none=True, attribute="naming.withdrawn_on")


class RegisterMoveView(ma.Schema):
    """A deed of a name's history and its day."""

    move = ma.fields.Enum(Move, by_value=True, required=True)
    on = ma.fields.Function(
        lambda row: business_day(row.moved_at).isoformat(), metadata={"type": "string", "format": "date"}
    )


class RegisterDetailView(RegisterView):
    """A name with its history and the rubric that it was given under."""

    rubric = ma.fields.Nested(RubricView, required=True)
    history = ma.fields.List(ma.fields.Nested(RegisterMoveView), required=True)


@blueprint.get("/programmes")
@public
@blueprint.response(200, ProgrammesView)
def list_programmes() -> dict[str, list[ProgrammeDetail]]:
    """创建项目. List the creation programmes with their targets and rubrics in force."""
    with transaction() as session:
        return {"programmes": programmes.list_programmes(session, on=business_day(now()))}


@blueprint.get("/programmes/<string:programme>/figures")
@public
@blueprint.arguments(PageQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(IndicatorFigureView))
def list_figures(query: dict[str, Any], programme: str) -> Page[IndicatorFigure]:
    """指标数据. List a tracked programme's figures, newest first."""
    with transaction() as session:
        return programmes.list_figures(session, programme, **query)


@blueprint.get("/notices")
@public
@blueprint.arguments(ProgrammeQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(PublicNoticeView))
def list_public_notices(query: dict[str, Any]) -> Page[UnderNotice]:
    """公示名单. List the applications under public notice, newest first."""
    with transaction() as session:
        return notice.list_notices(session, **query)


@blueprint.get("/notices/<uuid:notice_id>")
@public
@blueprint.response(200, PublicNoticeView)
def read_public_notice(notice_id: UUID) -> UnderNotice:
    """查看公示. Read one application under public notice."""
    with transaction() as session:
        return notice.notice_for(session, notice_id)


@blueprint.post("/notices/<uuid:notice_id>/objections")
@public
@limiter.limit(OBJECTIONS, key_func=get_remote_address)
@blueprint.arguments(ObjectionEntry)
@blueprint.response(201, ReceivedView)
def object_to_notice(entry: dict[str, Any], notice_id: UUID) -> Received:
    """提出异议. Object to an application under notice; the receipt leads back to the answer."""
    with transaction() as session:
        return notice.make_objection(session, notice_id, **entry, data_key=settings().data_key, now=now())


@blueprint.get("/objections/mine")
@public
@limiter.limit(LOOK_UPS, key_func=get_remote_address)
@blueprint.arguments(ReceiptHeader, location="headers")
@blueprint.response(200, ObjectionView)
def read_own_objection(headers: dict[str, Any]) -> ObjectionDetail:
    """查询异议. Read one's own objection and its answer by the receipt."""
    with transaction() as session:
        return notice.objection_by_receipt(session, headers["receipt"])


@blueprint.post("/objections/mine/files")
@public
@limiter.limit(LOOK_UPS, key_func=get_remote_address)
@takes_files()
@blueprint.arguments(ReceiptHeader, location="headers")
@blueprint.doc(requestBody=upload_body())
@blueprint.response(201, ObjectionView)
def add_objection_file(headers: dict[str, Any]) -> ObjectionDetail:
    """补充异议材料. Add a file to one's own objection while the notice stands; three at most."""
    # Asked first: nobody without a receipt makes the service spend seconds on a file.
    with transaction() as session:
        notice.objection_by_receipt(session, headers["receipt"])
    file = uploaded()
    with transaction() as session:
        return notice.add_file(session, headers["receipt"], file, now=now())


@blueprint.get("/register")
@public
@blueprint.arguments(RegisterQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(RegisterView))
def list_register(query: dict[str, Any]) -> Page[RegisterLine]:
    """命名名录. List the names given, by number; `standing=true` those that stand today."""
    with transaction() as session:
        return naming.list_register(session, **query, on=business_day(now()))


@blueprint.get("/register/<string:number>")
@public
@blueprint.response(200, RegisterDetailView)
def verify_number(number: str) -> RegisterLine:
    """核验命名. Verify a plaque's number: what was named, how it stands, and its history."""
    with transaction() as session:
        return naming.line_for(session, number, on=business_day(now()))
