"""The review queue of staff, and the appeals and reviews of residents, over HTTP."""

from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

import marshmallow as ma

from points.review import appeals, cases, decisions, exported, orders
from points.review import service_times as times
from points.review.appeals import OwnAppeal
from points.review.cases import CaseFilter, OwnCase, SeenCase, WholeCase
from points.review.decisions import DECIDED_AT_ONCE_MAX, OneOfMany
from points.review.kinds import installed
from points.review.models import ANSWER_LENGTH_MAX, APPEAL_LENGTH_MAX, CaseKind, CaseState, Verdict
from points.review.orders import SeenOrder
from points.review.service_times import ServiceTimes
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import business_day, now
from server.database import run_transaction, transaction
from server.entries import DIVISION, SLUG, WORDS, in_our_time
from server.exports import exports
from server.exports.models import Export, ExportFormat
from server.exports.registry import desk
from server.exports.routes import ExportView
from server.idempotency import idempotent
from server.limits import limiter
from server.paging import Page, PageQuery
from server.places.own_district import district_code

blueprint = Blueprint(
    "review", __name__, url_prefix="/api/v1", description="人工复核与申诉 · Review by people, and appeals"
)

# One for each claim anyway; a person who writes more in a day writes to nobody.
APPEALS = "20 per day"


class CaseQuery(PageQuery):
    """Filters of the queue; without any, all that stands in one's scope, the oldest first."""

    state = ma.fields.Enum(
        CaseState, by_value=True, load_default=None, metadata={"description": "Left out: open and proposed"}
    )
    kind = ma.fields.Enum(CaseKind, by_value=True, load_default=None)
    reason = ma.fields.String(load_default=None, validate=[ma.validate.Length(1, 40), SLUG])
    within = ma.fields.String(load_default=None, validate=DIVISION)
    resident_id = ma.fields.UUID(load_default=None)
    points_min = ma.fields.Integer(load_default=None, validate=ma.validate.Range(0, 1_000_000))
    points_max = ma.fields.Integer(load_default=None, validate=ma.validate.Range(0, 1_000_000))
    older_than_days = ma.fields.Integer(load_default=None, validate=ma.validate.Range(0, 1000))
    assigned = ma.fields.String(
        load_default=None,
        validate=ma.validate.OneOf(["me", "nobody"]),
        metadata={"description": "me: what I have in hand; nobody: what is free"},
    )


class CaseView(ma.Schema):
    """A case in the queue. `points` are at stake; `two_people` says that a second person has to agree."""

    id = ma.fields.UUID(required=True)
    kind = ma.fields.Enum(CaseKind, by_value=True, required=True)
    resident_id = ma.fields.UUID(required=True)
    subject_id = ma.fields.UUID(required=True, metadata={"description": "The activity, order or resident it is about"})
    activity_id = ma.fields.UUID(required=True, allow_none=True)
    community_code = ma.fields.String(required=True)
    reason = ma.fields.String(required=True)
    reason_zh = ma.fields.String(required=True, allow_none=True)
    reason_en = ma.fields.String(required=True, allow_none=True)
    points = ma.fields.Integer(required=True)
    two_people = ma.fields.Boolean(required=True)
    opened_at = ma.fields.AwareDateTime(required=True)
    due_at = ma.fields.AwareDateTime(required=True)
    state = ma.fields.Enum(CaseState, by_value=True, required=True)
    assigned_to = ma.fields.UUID(required=True, allow_none=True)
    assigned_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    proposed_verdict = ma.fields.Enum(Verdict, by_value=True, required=True, allow_none=True)
    proposed_by = ma.fields.UUID(required=True, allow_none=True)
    verdict = ma.fields.Enum(Verdict, by_value=True, required=True, allow_none=True)
    answer = ma.fields.String(required=True, allow_none=True)
    decided_by = ma.fields.UUID(required=True, allow_none=True)
    ended_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class CaseDecisionView(ma.Schema):
    """What one person decided."""

    number = ma.fields.Integer(required=True)
    verdict = ma.fields.Enum(Verdict, by_value=True, required=True)
    reason = ma.fields.String(required=True)
    final = ma.fields.Boolean(required=True)
    decided_by = ma.fields.UUID(required=True)
    decided_at = ma.fields.AwareDateTime(required=True)


class CaseRecordView(ma.Schema):
    """An activity that a case is about, as far as whoever decides needs it."""

    id = ma.fields.UUID(required=True)
    behaviour = ma.fields.String(required=True)
    mode = ma.fields.String(required=True)
    grade = ma.fields.String(required=True)
    source = ma.fields.String(required=True)
    started_at = ma.fields.AwareDateTime(required=True)
    ended_at = ma.fields.AwareDateTime(required=True)
    received_at = ma.fields.AwareDateTime(required=True)
    distance_m = ma.fields.Integer(required=True, allow_none=True)
    weight_g = ma.fields.Integer(required=True, allow_none=True)
    steps = ma.fields.Integer(required=True, allow_none=True)
    site = ma.fields.String(required=True, allow_none=True)
    device = ma.fields.String(required=True, allow_none=True)
    outcome = ma.fields.String(required=True)
    reason = ma.fields.String(required=True, allow_none=True)
    priced_points = ma.fields.Integer(required=True)


class WholeCaseView(CaseView):
    """A case with what it is about, what was decided so far, and the words of an appeal."""

    detail = ma.fields.Dict(keys=ma.fields.String(), required=True)
    activities = ma.fields.List(ma.fields.Nested(CaseRecordView), required=True)
    decisions = ma.fields.List(ma.fields.Nested(CaseDecisionView), required=True)
    appeal_text = ma.fields.String(required=True, allow_none=True)


class VerdictEntry(ma.Schema):
    """A decision. `granted` is in the resident's favour (release, leave, uphold); the resident reads the reason."""

    verdict = ma.fields.Enum(Verdict, by_value=True, required=True)
    reason = ma.fields.String(required=True, validate=[ma.validate.Length(2, ANSWER_LENGTH_MAX), WORDS])


class OneVerdictEntry(VerdictEntry):
    """One of many decisions."""

    case_id = ma.fields.UUID(required=True)


class VerdictsEntry(ma.Schema):
    """Many decisions at once; each stands or falls by itself."""

    decisions = ma.fields.List(
        ma.fields.Nested(OneVerdictEntry), required=True, validate=ma.validate.Length(1, DECIDED_AT_ONCE_MAX)
    )

    @ma.validates_schema
    def _each_case_once(self, entry: dict[str, Any], **_: Any) -> None:
        named = [each["case_id"] for each in entry.get("decisions", [])]
        if len(set(named)) < len(named):
            raise ma.ValidationError("A case is named twice.", "decisions")


class OneOutcomeView(ma.Schema):
    """What became of one decision: where its case stands, or why it was refused."""

    case_id = ma.fields.UUID(required=True)
    state = ma.fields.Enum(CaseState, by_value=True, required=True, allow_none=True)
    code = ma.fields.String(required=True, allow_none=True)
    title_zh = ma.fields.String(required=True, allow_none=True)
    title_en = ma.fields.String(required=True, allow_none=True)


class OutcomesView(ma.Schema):
    """The outcomes, in the order of the decisions."""

    outcomes = ma.fields.List(ma.fields.Nested(OneOutcomeView), required=True)


class ServiceTimesQuery(ma.Schema):
    """A place of one's scope and business days, both included; the last 30 days when left out."""

    within = ma.fields.String(load_default=None, validate=DIVISION)

    class Meta:
        """`from` is a word of Python."""

        include: ClassVar = {
            "from": ma.fields.Date(load_default=None, validate=in_our_time),
            "to": ma.fields.Date(load_default=None, validate=in_our_time),
        }


class ServiceTimeView(ma.Schema):
    """One kind of case: hours from opening to the final decision, and what waits now."""

    kind = ma.fields.Enum(CaseKind, by_value=True, required=True)
    decided = ma.fields.Integer(required=True)
    median_hours = ma.fields.Float(required=True, allow_none=True)
    p90_hours = ma.fields.Float(required=True, allow_none=True)
    late = ma.fields.Integer(required=True, metadata={"description": "Decided after the target"})
    standing = ma.fields.Integer(required=True)
    overdue = ma.fields.Integer(required=True, metadata={"description": "Standing past the target"})
    oldest_hours = ma.fields.Float(required=True, allow_none=True)


class ServiceTimesView(ma.Schema):
    """Service times by kind."""

    first = ma.fields.Date(required=True, data_key="from")
    last = ma.fields.Date(required=True, data_key="to")
    target_days = ma.fields.Integer(required=True)
    kinds = ma.fields.List(ma.fields.Nested(ServiceTimeView), required=True)


class CaseExportEntry(ma.Schema):
    """Which cases, by the days on which they were opened, both included, and as what kind of file."""

    within = ma.fields.String(load_default=None, allow_none=True, validate=DIVISION)
    format = ma.fields.Enum(ExportFormat, by_value=True, required=True)

    class Meta:
        """`from` is a word of Python."""

        include: ClassVar = {
            "from": ma.fields.Date(required=True, validate=in_our_time),
            "to": ma.fields.Date(required=True, validate=in_our_time),
        }


class HoldView(ma.Schema):
    """A standing hold: every claim of its subject waits for a person until then."""

    id = ma.fields.UUID(required=True)
    subject_kind = ma.fields.String(required=True)
    subject = ma.fields.String(required=True)
    reason = ma.fields.String(required=True)
    reason_zh = ma.fields.String(required=True, allow_none=True)
    reason_en = ma.fields.String(required=True, allow_none=True)
    case_id = ma.fields.UUID(required=True, allow_none=True)
    placed_at = ma.fields.AwareDateTime(required=True)
    until = ma.fields.AwareDateTime(required=True)
    lifted_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class LiftEntry(ma.Schema):
    """Why a hold ends before its time; kept in the trail."""

    reason = ma.fields.String(required=True, validate=[ma.validate.Length(2, 200), WORDS])


class OwnReviewView(ma.Schema):
    """A case about one's own records: why, what came of it, and the answer."""

    id = ma.fields.UUID(required=True)
    kind = ma.fields.Enum(CaseKind, by_value=True, required=True)
    reason = ma.fields.String(required=True)
    reason_zh = ma.fields.String(required=True, allow_none=True)
    reason_en = ma.fields.String(required=True, allow_none=True)
    state = ma.fields.Enum(CaseState, by_value=True, required=True)
    opened_at = ma.fields.AwareDateTime(required=True)
    ended_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    verdict = ma.fields.Enum(
        Verdict, by_value=True, required=True, allow_none=True, metadata={"description": "granted: in your favour"}
    )
    answer = ma.fields.String(required=True, allow_none=True)
    activity_ids = ma.fields.List(ma.fields.UUID(), required=True)


class AppealEntry(ma.Schema):
    """Why the record is right after all, in one's own words."""

    text = ma.fields.String(required=True, validate=[ma.validate.Length(2, APPEAL_LENGTH_MAX), WORDS])


class OwnAppealView(ma.Schema):
    """One's appeal, and the case that answers it."""

    activity_id = ma.fields.UUID(required=True)
    text = ma.fields.String(required=True)
    made_at = ma.fields.AwareDateTime(required=True)
    case = ma.fields.Nested(OwnReviewView, required=True)


@blueprint.get("/review/cases")
@require(Permission.REVIEW_READ)
@blueprint.arguments(CaseQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(CaseView))
def list_cases(query: dict[str, Any]) -> Page[dict[str, Any]]:
    """复核队列. List the cases of one's scope, the oldest first."""
    limit, cursor, assigned = query.pop("limit"), query.pop("cursor"), query.pop("assigned")
    wanted = CaseFilter(**query, assigned_to=actor().id if assigned == "me" else None, unassigned=assigned == "nobody")
    with transaction() as session:
        return cases.queue(session, actor(), wanted, limit=limit, cursor=cursor, now=now())


@blueprint.get("/review/cases/<uuid:case_id>")
@require(Permission.REVIEW_READ)
@blueprint.response(200, WholeCaseView)
def read_case(case_id: UUID) -> WholeCase:
    """案件详情. Read a case with its records, decisions and the words of an appeal."""
    with transaction() as session:
        return cases.read(session, actor(), case_id, now=now())


@blueprint.post("/review/cases/<uuid:case_id>/assignment")
@require(Permission.REVIEW_DECIDE)
@blueprint.response(200, CaseView)
def take_case(case_id: UUID) -> SeenCase:
    """领办案件. Take a case in hand, for a day; a second time changes nothing but the hour."""
    return run_transaction(lambda session: decisions.take(session, actor(), installed(), case_id, now=now()))


@blueprint.delete("/review/cases/<uuid:case_id>/assignment")
@require(Permission.REVIEW_DECIDE)
@blueprint.response(200, CaseView)
def give_case_back(case_id: UUID) -> SeenCase:
    """退回案件. Give a case back to the queue."""
    return run_transaction(lambda session: cases.give_back(session, actor(), case_id, now=now()))


@blueprint.post("/review/cases/<uuid:case_id>/decision")
@require(Permission.REVIEW_DECIDE)
@idempotent
@blueprint.arguments(VerdictEntry)
@blueprint.response(200, CaseView)
def decide_case(entry: dict[str, Any], case_id: UUID) -> SeenCase:
    """作出决定. Decide a case; above the limit of points a second person has to agree."""
    return run_transaction(lambda session: decisions.decide(session, actor(), installed(), case_id, **entry, now=now()))


@blueprint.post("/review/decisions")
@require(Permission.REVIEW_DECIDE)
@idempotent
@blueprint.arguments(VerdictsEntry)
@blueprint.response(200, OutcomesView)
def decide_cases(entry: dict[str, Any]) -> dict[str, list[OneOfMany]]:
    """批量决定. Decide up to 200 cases; each has its own outcome."""
    return {
        "outcomes": run_transaction(
            lambda session: decisions.decide_many(session, actor(), installed(), entry["decisions"], now=now())
        )
    }


@blueprint.get("/review/service-times")
@require(Permission.REVIEW_READ)
@blueprint.arguments(ServiceTimesQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, ServiceTimesView)
def read_service_times(query: dict[str, Any]) -> ServiceTimes:
    """办理时效. Read how long people wait for an answer: median, 90 %, oldest, and what is past the target."""
    instant = now()
    last = query["to"] or business_day(instant)
    first = query["from"] or last - timedelta(days=29)
    with transaction() as session:
        return times.service_times(session, actor(), within=query["within"], first=first, last=last, now=instant)


@blueprint.post("/review/exports")
@require(Permission.REVIEW_READ)
@idempotent
@blueprint.arguments(CaseExportEntry)
@blueprint.response(202, ExportView)
def request_case_list(entry: dict[str, Any]) -> Export:
    """导出案件清单. Ask for the cases of some days as a file; a job makes it."""
    arguments = {"within": entry["within"], "from": entry["from"].isoformat(), "to": entry["to"].isoformat()}
    return run_transaction(
        lambda session: exports.request(
            session, actor(), desk(), kind=exported.CASES, format=entry["format"], arguments=arguments, now=now()
        )
    )


@blueprint.get("/review/holds")
@require(Permission.REVIEW_READ)
@blueprint.arguments(PageQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(HoldView))
def list_holds(query: dict[str, Any]) -> Page[SeenOrder]:
    """生效中的暂缓. List the holds that stand in one's scope, the latest first."""
    with transaction() as session:
        return orders.list_orders(session, actor(), district=district_code(), **query, now=now())


@blueprint.post("/review/holds/<uuid:hold_id>/lift")
@require(Permission.REVIEW_DECIDE)
@idempotent
@blueprint.arguments(LiftEntry)
@blueprint.response(200, HoldView)
def lift_hold(entry: dict[str, Any], hold_id: UUID) -> SeenOrder:
    """解除暂缓. End a hold before its time; what is held already stays in the queue."""
    return run_transaction(
        lambda session: orders.lift(
            session, actor(), hold_id, district=district_code(), reason=entry["reason"], now=now()
        )
    )


@blueprint.get("/me/reviews")
@require(Permission.APPEAL_OWN)
@blueprint.arguments(PageQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(OwnReviewView))
def list_own_reviews(query: dict[str, Any]) -> Page[OwnCase]:
    """我的复核. List the cases about one's own records, with reasons and answers."""
    with transaction() as session:
        return cases.own_cases(session, actor().id, **query)


@blueprint.post("/me/activities/<uuid:activity_id>/appeal")
@require(Permission.APPEAL_OWN)
@limiter.limit(APPEALS)
@idempotent
@blueprint.arguments(AppealEntry)
@blueprint.response(201, OwnAppealView)
def make_appeal(entry: dict[str, Any], activity_id: UUID) -> OwnAppeal:
    """提出申诉. Appeal, once, against a record that was refused or taken back; somebody else answers."""
    return run_transaction(
        lambda session: appeals.make(session, actor().id, activity_id, text=entry["text"], now=now())
    )


@blueprint.get("/me/activities/<uuid:activity_id>/appeal")
@require(Permission.APPEAL_OWN)
@blueprint.response(200, OwnAppealView)
def read_own_appeal(activity_id: UUID) -> OwnAppeal:
    """我的申诉. Read one's appeal and its answer."""
    with transaction() as session:
        return appeals.own(session, actor().id, activity_id)
