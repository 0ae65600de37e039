"""Budgets, rewards, settlement, certificates and lists of campaigns over HTTP."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import marshmallow as ma
import procrastinate
from flask import Response, current_app, request

from campaigns.settlement import budget_requests, certificates, lists, payments, settling
from campaigns.settlement.budget_requests import CampaignBudget
from campaigns.settlement.certificates import CertificateSeen, Verification
from campaigns.settlement.models import (
    REQUEST_POINTS_MAX,
    BudgetRequest,
    BudgetRequestState,
    CampaignPayment,
    PaymentWay,
    Settlement,
    SettlementState,
)
from campaigns.settlement.payments import PaymentSeen
from server.access import Permission, actor, public, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.documents import documents
from server.entries import LINE
from server.exports import exports
from server.exports.models import Export, ExportFormat
from server.exports.registry import desk
from server.exports.routes import ExportView
from server.files.serving import download
from server.idempotency import idempotent
from server.limits import limiter, spend_limit
from server.paging import Page, PageQuery

blueprint = Blueprint(
    "settlement",
    __name__,
    url_prefix="/api/v1",
    description="活动预算与结算 · Budgets, rewards, settlement, certificates and lists of campaigns",
)

# Of 50 bits nobody finds one by trying; this keeps them from trying.
VERIFICATIONS = "60 per minute"
DOCUMENTS = "20 per minute"


class BudgetRequestEntry(ma.Schema):
    """Points asked for a campaign, and what for."""

    points = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(1, REQUEST_POINTS_MAX))
    reason = ma.fields.String(required=True, validate=[ma.validate.Length(2, 200), LINE])


class BudgetDecisionEntry(ma.Schema):
    """Yes or no, and why."""

    approve = ma.fields.Boolean(required=True, truthy={True}, falsy={False})
    decision = ma.fields.String(required=True, validate=[ma.validate.Length(2, 200), LINE])


class BudgetRequestView(ma.Schema):
    """A request for points. Approved without a decider: at once, by the proposer's own right."""

    id = ma.fields.UUID(required=True)
    campaign_id = ma.fields.UUID(required=True)
    points = ma.fields.Integer(required=True)
    reason = ma.fields.String(required=True)
    state = ma.fields.Enum(BudgetRequestState, by_value=True, required=True)
    limit_points = ma.fields.Integer(required=True, metadata={"description": "What the proposer may spend alone"})
    proposed_by = ma.fields.UUID(required=True)
    proposed_at = ma.fields.AwareDateTime(required=True)
    decided_by = ma.fields.UUID(required=True, allow_none=True)
    decided_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    decision = ma.fields.String(required=True, allow_none=True)


class BudgetView(ma.Schema):
    """What a campaign was allotted, has paid (less reversals), and holds."""

    allotted_points = ma.fields.Integer(required=True)
    paid_points = ma.fields.Integer(required=True)
    held_points = ma.fields.Integer(required=True)


class CampaignPaymentView(ma.Schema):
    """What the resident was paid for one task; the transfer is in the statement under its id."""

    campaign_id = ma.fields.UUID(required=True)
    task_id = ma.fields.UUID(required=True)
    points = ma.fields.Integer(required=True)
    way = ma.fields.Enum(PaymentWay, by_value=True, required=True)
    paid_at = ma.fields.AwareDateTime(required=True)
    transfer_id = ma.fields.UUID(required=True)


class OwnPaymentsView(ma.Schema):
    """What the resident was paid in one campaign."""

    items = ma.fields.List(ma.fields.Nested(CampaignPaymentView), required=True)


class StaffPaymentView(ma.Schema):
    """Who was paid for what, as staff in scope see it."""

    resident_id = ma.fields.UUID(required=True)
    nickname = ma.fields.String(required=True, allow_none=True)
    task_id = ma.fields.UUID(required=True)
    task_title = ma.fields.String(required=True)
    points = ma.fields.Integer(required=True)
    way = ma.fields.Enum(PaymentWay, by_value=True, required=True)
    paid_at = ma.fields.AwareDateTime(required=True)
    transfer_id = ma.fields.UUID(required=True)


class SettlementView(ma.Schema):
    """How far a settlement is. `short`: the budget lacks `short_points` for all that is still to pay."""

    campaign_id = ma.fields.UUID(required=True)
    state = ma.fields.Enum(SettlementState, by_value=True, required=True)
    requested_at = ma.fields.AwareDateTime(required=True)
    started_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    finished_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    residents = ma.fields.Integer(required=True)
    payments = ma.fields.Integer(required=True)
    points = ma.fields.Integer(required=True)
    short_points = ma.fields.Integer(required=True, allow_none=True)


class CertificateView(ma.Schema):
    """A certificate of a resident or a team."""

    code = ma.fields.String(required=True)
    campaign_id = ma.fields.UUID(required=True)
    for_team = ma.fields.Boolean(required=True)
    holder = ma.fields.String(required=True)
    issued_at = ma.fields.AwareDateTime(required=True)
    revoked_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    revoked_because = ma.fields.String(required=True, allow_none=True)


CertificatePage = page_schema(CertificateView)


class VerificationView(ma.Schema):
    """What anybody may learn from a certificate's code; the holder's name is masked."""

    code = ma.fields.String(required=True)
    valid = ma.fields.Boolean(required=True)
    for_team = ma.fields.Boolean(required=True)
    holder = ma.fields.String(required=True)
    campaign_title = ma.fields.String(required=True)
    issuer = ma.fields.String(required=True)
    starts_on = ma.fields.Date(required=True)
    ends_on = ma.fields.Date(required=True)
    issued_on = ma.fields.Date(required=True)
    revoked_on = ma.fields.Date(required=True, allow_none=True)


class DocumentQuery(ma.Schema):
    """The form of the document."""

    format = ma.fields.String(load_default="pdf", validate=ma.validate.OneOf(["pdf", "svg"]))


class RevocationEntry(ma.Schema):
    """Why a certificate is taken back."""

    reason = ma.fields.String(required=True, validate=[ma.validate.Length(2, 200), LINE])


class ListEntry(ma.Schema):
    """Which list of a campaign, and in which form."""

    kind = ma.fields.String(required=True, validate=ma.validate.OneOf(sorted(lists.KINDS)))
    format = ma.fields.Enum(ExportFormat, by_value=True, load_default=ExportFormat.XLSX)


def _jobs() -> procrastinate.App:
    jobs: procrastinate.App = current_app.extensions["tanpuhui_jobs"]
    return jobs


@blueprint.get("/campaigns/<uuid:campaign_id>/budget")
@require(Permission.CAMPAIGN_RUN)
@blueprint.response(200, BudgetView)
def read_budget(campaign_id: UUID) -> CampaignBudget:
    """活动预算. What the campaign was allotted, has paid, and holds."""
    with transaction() as session:
        return budget_requests.budget_of(session, actor(), campaign_id)


@blueprint.get("/campaigns/<uuid:campaign_id>/budget-requests")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(BudgetRequestView))
def list_budget_requests(query: dict[str, Any], campaign_id: UUID) -> Page[BudgetRequest]:
    """预算申请列表. The requests for points, newest first."""
    with transaction() as session:
        return budget_requests.list_requests(session, actor(), campaign_id, **query)


@blueprint.post("/campaigns/<uuid:campaign_id>/budget-requests")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(BudgetRequestEntry)
@blueprint.response(201, BudgetRequestView)
def propose_budget(entry: dict[str, Any], campaign_id: UUID) -> BudgetRequest:
    """申请预算. Ask for points; a district member's first small request takes effect at once."""
    return run_transaction(
        lambda session: budget_requests.propose(session, actor(), campaign_id, **entry, jobs=_jobs(), now=now())
    )


@blueprint.post("/campaigns/<uuid:campaign_id>/budget-requests/<uuid:request_id>/decision")
@require(Permission.CAMPAIGN_BUDGET)
@idempotent
@blueprint.arguments(BudgetDecisionEntry)
@blueprint.response(200, BudgetRequestView)
def decide_budget(entry: dict[str, Any], campaign_id: UUID, request_id: UUID) -> BudgetRequest:
    """审批预算. Approve or refuse what somebody else proposed."""
    return run_transaction(
        lambda session: budget_requests.decide(
            session, actor(), campaign_id, request_id, **entry, jobs=_jobs(), now=now()
        )
    )


@blueprint.post("/campaigns/<uuid:campaign_id>/budget-requests/<uuid:request_id>/withdrawal")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.response(200, BudgetRequestView)
def withdraw_budget(campaign_id: UUID, request_id: UUID) -> BudgetRequest:
    """撤回预算申请. Take one's own request back."""
    return run_transaction(
        lambda session: budget_requests.withdraw(session, actor(), campaign_id, request_id, now=now())
    )


@blueprint.post("/campaigns/<uuid:campaign_id>/tasks/<uuid:task_id>/claim")
@require(Permission.CAMPAIGN_JOIN)
@limiter.limit(spend_limit)
@idempotent
@blueprint.response(201, CampaignPaymentView)
def claim_reward(campaign_id: UUID, task_id: UUID) -> CampaignPayment:
    """领取奖励. Claim the reward of a completed task, as long as the budget lasts."""
    return run_transaction(lambda session: payments.claim(session, actor(), campaign_id, task_id, now=now()))


@blueprint.get("/campaigns/<uuid:campaign_id>/payments/mine")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(200, OwnPaymentsView)
def list_own_payments(campaign_id: UUID) -> dict[str, Sequence[CampaignPayment]]:
    """我的奖励. What the resident was paid in a campaign."""
    with transaction() as session:
        return {"items": payments.own_payments(session, actor(), campaign_id)}


@blueprint.get("/campaigns/<uuid:campaign_id>/payments")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(StaffPaymentView))
def list_payments(query: dict[str, Any], campaign_id: UUID) -> Page[PaymentSeen]:
    """发放明细. Who was paid for what, by resident."""
    with transaction() as session:
        return payments.list_payments(session, actor(), campaign_id, **query)


@blueprint.get("/campaigns/<uuid:campaign_id>/settlement")
@require(Permission.CAMPAIGN_RUN)
@blueprint.response(200, SettlementView)
def read_settlement(campaign_id: UUID) -> Settlement:
    """结算进度. How far the settlement is."""
    with transaction() as session:
        return settling.settlement_for(session, actor(), campaign_id)


@blueprint.post("/campaigns/<uuid:campaign_id>/settlement")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.response(202, SettlementView)
def start_settlement(campaign_id: UUID) -> Settlement:
    """开始结算. Settle an ended campaign now, or go on after a shortage; a job does the work."""
    return run_transaction(lambda session: settling.request(session, actor(), campaign_id, jobs=_jobs(), now=now()))


@blueprint.post("/campaigns/<uuid:campaign_id>/certificates/mine")
@require(Permission.CAMPAIGN_JOIN)
@idempotent
@blueprint.response(201, CertificateView)
def issue_certificate(campaign_id: UUID) -> CertificateSeen:
    """领取证书. The resident's certificate of a completed campaign; asked again, the same one."""
    return run_transaction(lambda session: certificates.issue(session, actor(), campaign_id, now=now()))


@blueprint.post("/campaigns/<uuid:campaign_id>/certificates/team")
@require(Permission.CAMPAIGN_JOIN)
@idempotent
@blueprint.response(201, CertificateView)
def issue_team_certificate(campaign_id: UUID) -> CertificateSeen:
    """领取团队证书. The certificate of the resident's team, when it has reached its targets."""
    return run_transaction(lambda session: certificates.issue_to_team(session, actor(), campaign_id, now=now()))


@blueprint.get("/campaigns/<uuid:campaign_id>/certificates")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, CertificatePage)
def list_certificates(query: dict[str, Any], campaign_id: UUID) -> Page[CertificateSeen]:
    """证书列表. The certificates of a campaign."""
    with transaction() as session:
        return certificates.list_certificates(session, actor(), campaign_id, **query)


@blueprint.post("/campaigns/<uuid:campaign_id>/certificates/<string:code>/revocation")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(RevocationEntry)
@blueprint.response(200, CertificateView)
def revoke_certificate(entry: dict[str, Any], campaign_id: UUID, code: str) -> CertificateSeen:
    """撤销证书. Take a certificate back, with a reason."""
    return run_transaction(lambda session: certificates.revoke(session, actor(), campaign_id, code, **entry, now=now()))


@blueprint.get("/me/certificates")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, CertificatePage)
def list_own_certificates(query: dict[str, Any]) -> Page[CertificateSeen]:
    """我的证书. The resident's certificates and those of their teams."""
    with transaction() as session:
        return certificates.own_certificates(session, actor(), **query)


@blueprint.get("/certificates/<string:code>")
@public
@limiter.limit(VERIFICATIONS)
@blueprint.response(200, VerificationView)
def verify_certificate(code: str) -> Verification:
    """证书核验. Check a certificate by its code, without signing in."""
    with transaction() as session:
        return certificates.verify(session, code)


@blueprint.get("/certificates/<string:code>/file")
@require(Permission.CAMPAIGN_READ)
@limiter.limit(DOCUMENTS)
@blueprint.arguments(DocumentQuery, location="query")
@blueprint.response(200, content_type="application/pdf")
def draw_certificate(query: dict[str, Any], code: str) -> Response:
    """下载证书. The certificate as PDF or SVG, for its holder and for staff in scope."""
    verify_url = f"{request.host_url}verify?code="
    with transaction() as session:
        content = certificates.content_of(session, actor(), code, verify_url=verify_url)
    # Drawing takes its time, and needs no transaction.
    drawn = certificates.draw(content, query["format"])
    media_type = documents.MEDIA_TYPES[query["format"]]
    return download(Response(drawn, content_type=media_type), f"certificate-{content.code}.{query['format']}")


@blueprint.post("/campaigns/<uuid:campaign_id>/exports")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(ListEntry)
@blueprint.response(202, ExportView)
def request_list(entry: dict[str, Any], campaign_id: UUID) -> Export:
    """导出名单. Ask for the list of participants or check-ins, or the settlement sheet; a job makes it."""
    return run_transaction(
        lambda session: exports.request(
            session,
            actor(),
            desk(),
            kind=lists.KINDS[entry["kind"]],
            format=entry["format"],
            arguments={"campaign_id": str(campaign_id)},
            now=now(),
        )
    )
