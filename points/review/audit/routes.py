"""Random audits over HTTP, for the district: asking for one, checking its claims, and what it found."""

from datetime import date
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import current_app
from sqlalchemy.orm import Session

from points.earning.models import Behaviour, Grade, Outcome
from points.review.audit import checking, drawing
from points.review.audit.checking import ItemSeen, Report
from points.review.audit.models import NOTE_LENGTH_MAX, Finding, RandomAudit
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import LINE_OR_NOTHING, SLUG
from server.idempotency import idempotent
from server.paging import Page, PageQuery
from server.places.own_district import require_district
from server.settings import settings

blueprint = Blueprint(
    "random-audits",
    __name__,
    url_prefix="/api/v1/random-audits",
    description="随机审计 · How much is paid wrongly, from a random sample checked by people",
)


class RandomAuditEntry(ma.Schema):
    """Which quarter to audit."""

    quarter = ma.fields.String(
        required=True,
        validate=ma.validate.Regexp(r"^20[2-9][0-9]-Q[1-4](?!\n)$"),
        metadata={"description": "2026-Q4", "example": "2026-Q4"},
    )


class RandomAuditView(ma.Schema):
    """An audit. `drawn_at` is null until the job has drawn; `problem` says why it could not."""

    id = ma.fields.UUID(required=True)
    quarter = ma.fields.Function(lambda row: drawing.name_of(row.starts_on), metadata={"type": "string"})
    first_on = ma.fields.Date(data_key="from", attribute="starts_on", required=True)
    last_on = ma.fields.Function(
        lambda row: drawing.last_day(row.starts_on).isoformat(),
        data_key="to",
        metadata={"type": "string", "format": "date"},
    )
    seed = ma.fields.Function(lambda row: row.seed.hex(), metadata={"type": "string"})
    plan = ma.fields.Dict(required=True)
    requested_by = ma.fields.UUID(required=True, allow_none=True)
    requested_at = ma.fields.AwareDateTime(required=True)
    as_of = ma.fields.AwareDateTime(required=True, allow_none=True)
    drawn_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    strata_count = ma.fields.Integer(required=True, allow_none=True)
    items_count = ma.fields.Integer(required=True, allow_none=True)
    problem = ma.fields.String(required=True, allow_none=True)


class AuditItemQuery(PageQuery):
    """Which claims of a sample."""

    behaviour = ma.fields.Enum(Behaviour, by_value=True, load_default=None)
    source = ma.fields.String(load_default=None, validate=[ma.validate.Length(1, 40), SLUG])
    checked = ma.fields.Boolean(load_default=None, allow_none=True)


class AuditItemView(ma.Schema):
    """A drawn claim, what was recorded of it, and what was found."""

    activity_id = ma.fields.UUID(required=True)
    resident_id = ma.fields.UUID(required=True)
    behaviour = ma.fields.Enum(Behaviour, by_value=True, required=True)
    source = ma.fields.String(required=True)
    points = ma.fields.Integer(required=True)
    mode = ma.fields.String(required=True)
    grade = ma.fields.Enum(Grade, by_value=True, required=True)
    external_id = ma.fields.String(required=True)
    started_at = ma.fields.AwareDateTime(required=True)
    ended_at = ma.fields.AwareDateTime(required=True)
    received_at = ma.fields.AwareDateTime(required=True)
    business_day = ma.fields.Date(required=True)
    community_code = ma.fields.String(required=True)
    distance_m = ma.fields.Integer(required=True, allow_none=True)
    weight_g = ma.fields.Integer(required=True, allow_none=True)
    steps = ma.fields.Integer(required=True, allow_none=True)
    site = ma.fields.String(required=True, allow_none=True)
    device = ma.fields.String(required=True, allow_none=True)
    staff_id = ma.fields.UUID(required=True, allow_none=True)
    rule_version_id = ma.fields.String(required=True, allow_none=True)
    outcome = ma.fields.Enum(Outcome, by_value=True, required=True)
    reason = ma.fields.String(required=True, allow_none=True)
    finding = ma.fields.Enum(Finding, by_value=True, required=True, allow_none=True)
    checked_by = ma.fields.UUID(required=True, allow_none=True)
    checked_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    note = ma.fields.String(required=True, allow_none=True)


class FindingEntry(ma.Schema):
    """What was found of a claim. Whoever finds it wrong, or cannot tell, says why."""

    finding = ma.fields.Enum(Finding, by_value=True, required=True)
    note = ma.fields.String(load_default="", validate=[ma.validate.Length(0, NOTE_LENGTH_MAX), LINE_OR_NOTHING])


class WrongRateView(ma.Schema):
    """A share from 0 to 1 with its 95 % interval; no value where nothing has been told yet."""

    value = ma.fields.Float(required=True, allow_none=True)
    low = ma.fields.Float(required=True)
    high = ma.fields.Float(required=True)
    value_at_worst = ma.fields.Float(
        required=True, allow_none=True, metadata={"description": "Had all been wrong of which nobody could tell"}
    )


class AuditStratumView(ma.Schema):
    """One behaviour of one source."""

    behaviour = ma.fields.Enum(Behaviour, by_value=True, required=True)
    source = ma.fields.String(required=True)
    claims = ma.fields.Integer(required=True, attribute="found.claims")
    points = ma.fields.Integer(required=True, attribute="found.points")
    sampled_claims = ma.fields.Integer(required=True)
    unchecked_claims = ma.fields.Integer(required=True)
    right = ma.fields.Integer(required=True, attribute="found.right")
    wrong = ma.fields.Integer(required=True, attribute="found.wrong")
    cannot_be_told = ma.fields.Integer(required=True, attribute="found.cannot_be_told")
    claims_rate = ma.fields.Nested(WrongRateView, required=True)
    points_rate = ma.fields.Nested(WrongRateView, required=True)


class AuditReportView(ma.Schema):
    """What an audit found so far. Final when `unchecked_claims` is 0."""

    audit = ma.fields.Nested(RandomAuditView, required=True)
    unchecked_claims = ma.fields.Integer(required=True)
    claims_rate = ma.fields.Nested(WrongRateView, required=True)
    points_rate = ma.fields.Nested(WrongRateView, required=True)
    strata = ma.fields.List(ma.fields.Nested(AuditStratumView), required=True)


@blueprint.post("")
@require(Permission.AUDIT_RUN)
@idempotent
@blueprint.arguments(RandomAuditEntry)
@blueprint.response(201, RandomAuditView)
def request_audit(entry: dict[str, Any]) -> RandomAudit:
    """申请随机审计. Ask for the audit of a quarter that is over; a job draws its sample."""
    require_district()
    folder = settings().district_folder
    jobs = current_app.extensions["tanpuhui_jobs"]
    starts_on: date = drawing.quarter_named(entry["quarter"])
    return run_transaction(lambda session: drawing.request(session, actor(), folder, starts_on, jobs=jobs, now=now()))


@blueprint.get("")
@require(Permission.AUDIT_RUN)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(RandomAuditView))
def list_audits(query: dict[str, Any]) -> Page[RandomAudit]:
    """随机审计列表. Every audit, the last asked for first."""
    require_district()
    with transaction() as session:
        return checking.list_audits(session, **query)


@blueprint.get("/<uuid:audit_id>/items")
@require(Permission.AUDIT_RUN)
@blueprint.arguments(AuditItemQuery, location="query")
@blueprint.response(200, page_schema(AuditItemView))
def list_items(query: dict[str, Any], audit_id: UUID) -> Page[ItemSeen]:
    """抽中的记录. The claims of a sample with what was recorded of each."""
    require_district()
    with transaction() as session:
        return checking.list_items(session, actor(), audit_id, now=now(), **query)


@blueprint.post("/<uuid:audit_id>/items/<uuid:activity_id>/finding")
@require(Permission.AUDIT_RUN)
@idempotent
@blueprint.arguments(FindingEntry)
@blueprint.response(201, AuditItemView)
def check_item(entry: dict[str, Any], audit_id: UUID, activity_id: UUID) -> ItemSeen:
    """登记检查结果. Say what was found of a drawn claim, once; a wrong one is taken back and its resident told."""
    require_district()
    person = actor()

    def work(session: Session) -> ItemSeen:
        return checking.check(session, person, audit_id, activity_id, now=now(), **entry)

    return run_transaction(work)


@blueprint.get("/<uuid:audit_id>/report")
@require(Permission.AUDIT_RUN)
@blueprint.response(200, AuditReportView)
def read_report(audit_id: UUID) -> Report:
    """审计报告. The rates of wrongful payment by behaviour and source and in all, with 95 % intervals."""
    require_district()
    with transaction() as session:
        return checking.report(session, audit_id)
