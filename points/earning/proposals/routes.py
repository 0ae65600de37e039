"""Changing the rules over HTTP: the district proposes, sees a replay, and another person decides."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import current_app

from points.earning.proposals import proposals, published
from points.earning.proposals.models import (
    FEN_PER_100_POINTS_MAX,
    REASON_LENGTH_MAX,
    ProposalKind,
    ProposalState,
)
from points.earning.proposals.proposals import ProposalSeen
from points.earning.proposals.public_routes import RuleVersionView
from points.earning.proposals.published import HistoryEntry
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import TRIMMED_LINE
from server.etags import VersionHeader, etag_of, version_of
from server.idempotency import idempotent
from server.paging import Page, PageQuery
from server.places.own_district import require_district

blueprint = Blueprint(
    "rule-proposals",
    __name__,
    url_prefix="/api/v1",
    description="规则变更 · Changing rules and methods: proposed, replayed, decided by another person",
)


# What fits into a request (`server.limits`); the packaged rules are a fifth of it.
CONTENT_LENGTH_MAX = 60_000

# A proposal with the ETag of its version, by which the next step names what it is about.
Tagged = tuple[ProposalSeen, int, dict[str, str]]


class RuleProposalEntry(ma.Schema):
    """A version of the rules, or a carbon method, as the text of its file; and why."""

    kind = ma.fields.Enum(ProposalKind, by_value=True, required=True)
    content = ma.fields.String(
        required=True,
        # No pattern: a file may come with the line ends of any system, and its reader finds every other fault.
        validate=ma.validate.Length(1, CONTENT_LENGTH_MAX),
        metadata={"description": "TOML like earning-2026.toml, or like a file of points/carbon/data"},
    )
    reason = ma.fields.String(required=True, validate=[ma.validate.Length(2, REASON_LENGTH_MAX), TRIMMED_LINE])
    fen_per_100_points = ma.fields.Integer(
        load_default=None,
        allow_none=True,
        strict=True,
        validate=ma.validate.Range(0, FEN_PER_100_POINTS_MAX),
        metadata={"description": "What 100 points are assumed to cost the district, for the replay's figures"},
    )


class ProposalDecisionEntry(ma.Schema):
    """Why."""

    reason = ma.fields.String(required=True, validate=[ma.validate.Length(2, REASON_LENGTH_MAX), TRIMMED_LINE])


class RuleProposalQuery(PageQuery):
    """Which proposals."""

    state = ma.fields.Enum(ProposalState, by_value=True, load_default=None)


class ReplayQuantileView(ma.Schema):
    """So many percent of the residents have at most this difference."""

    percent = ma.fields.Integer(required=True)
    points = ma.fields.Integer(required=True)


class ReplayClassView(ma.Schema):
    """Residents whose difference is above one number and at most another; null is no end."""

    above = ma.fields.Integer(required=True, allow_none=True)
    to = ma.fields.Integer(required=True, allow_none=True)
    residents = ma.fields.Integer(required=True)


class ReplaySpreadView(ma.Schema):
    """Who gains and who loses, in points over the whole period."""

    gain = ma.fields.Integer(required=True)
    lose = ma.fields.Integer(required=True)
    same = ma.fields.Integer(required=True)
    least = ma.fields.Integer()
    most = ma.fields.Integer()
    quantiles = ma.fields.List(ma.fields.Nested(ReplayQuantileView), required=True)
    classes = ma.fields.List(ma.fields.Nested(ReplayClassView), required=True)


class ReplayFiguresView(ma.Schema):
    """What was paid, and what would have been."""

    paid_points = ma.fields.Integer(required=True)
    replayed_points = ma.fields.Integer(required=True)
    paid_claims = ma.fields.Integer(required=True)
    replayed_claims = ma.fields.Integer(required=True)
    residents = ma.fields.Nested(ReplaySpreadView, required=True)


class ReplayModeView(ReplayFiguresView):
    """Of one mode at one grade of evidence."""

    behaviour = ma.fields.String(required=True)
    mode = ma.fields.String(required=True)
    grade = ma.fields.String(required=True)


class ReplayStreetView(ReplayFiguresView):
    """Of one street."""

    code = ma.fields.String(required=True)
    name = ma.fields.String(required=True)


class ReplayRefusalView(ma.Schema):
    """How many claims have been, and would have been, refused for a reason."""

    reason = ma.fields.String(required=True)
    recorded = ma.fields.Integer(required=True)
    replayed = ma.fields.Integer(required=True)


class ReplaySavingView(ma.Schema):
    """Milligrams of CO2e saved under one method; figures of different methods are never added up."""

    method_id = ma.fields.String(required=True)
    recorded_mg = ma.fields.Integer(required=True)
    replayed_mg = ma.fields.Integer(required=True)


class ReplayReportView(ma.Schema):
    """The last weeks under a proposal. With `one_in` above 1 all figures are those of a sample of the residents."""

    first_on = ma.fields.String(data_key="from", required=True, metadata={"format": "date"})
    last_on = ma.fields.String(data_key="to", required=True, metadata={"format": "date"})
    version_id = ma.fields.String(required=True)
    one_in = ma.fields.Integer(required=True)
    activities = ma.fields.Integer(required=True)
    held = ma.fields.Integer(required=True, metadata={"description": "Waiting for a person: left out of both sides"})
    paid_points = ma.fields.Integer(required=True)
    replayed_points = ma.fields.Integer(required=True)
    paid_cost_fen = ma.fields.Integer(required=True, allow_none=True)
    replayed_cost_fen = ma.fields.Integer(required=True, allow_none=True)
    residents = ma.fields.Nested(ReplaySpreadView, required=True)
    modes = ma.fields.List(ma.fields.Nested(ReplayModeView), required=True)
    streets = ma.fields.List(ma.fields.Nested(ReplayStreetView), required=True)
    refusals = ma.fields.List(ma.fields.Nested(ReplayRefusalView), required=True)
    savings = ma.fields.List(ma.fields.Nested(ReplaySavingView), required=True)


class RuleReplayHeadView(ma.Schema):
    """How far a replay has come; `problem` is the code of what it failed with."""

    first_on = ma.fields.Date(data_key="from", required=True)
    last_on = ma.fields.Date(data_key="to", required=True)
    attempts = ma.fields.Integer(required=True)
    started_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    days_done = ma.fields.Integer(required=True)
    activities_done = ma.fields.Integer(required=True)
    finished_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    problem = ma.fields.String(required=True, allow_none=True)


class RuleReplayView(RuleReplayHeadView):
    """A replay with its report, null until it is finished."""

    report = ma.fields.Nested(ReplayReportView, required=True, allow_none=True)


class RuleProposalHeadView(ma.Schema):
    """A proposal in a line."""

    id = ma.fields.UUID(required=True)
    kind = ma.fields.Enum(ProposalKind, by_value=True, required=True)
    subject_id = ma.fields.String(required=True)
    version_id = ma.fields.String(required=True)
    base_version_id = ma.fields.String(required=True, allow_none=True)
    content_sha256 = ma.fields.Function(lambda row: row.content_sha256.hex(), metadata={"type": "string"})
    valid_from = ma.fields.Date(required=True)
    reason = ma.fields.String(required=True)
    fen_per_100_points = ma.fields.Integer(required=True, allow_none=True)
    state = ma.fields.Enum(ProposalState, by_value=True, required=True)
    version = ma.fields.Integer(required=True)
    proposed_by = ma.fields.UUID(required=True)
    proposed_at = ma.fields.AwareDateTime(required=True)
    decided_by = ma.fields.UUID(required=True, allow_none=True)
    decided_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    decision_reason = ma.fields.String(required=True, allow_none=True)
    withdrawn_by = ma.fields.UUID(required=True, allow_none=True)
    withdrawn_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    withdrawn_because = ma.fields.String(required=True, allow_none=True)
    enacted_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    replay = ma.fields.Nested(RuleReplayHeadView, required=True)


class RuleProposalView(RuleProposalHeadView):
    """A proposal with its text and its replay's report."""

    content = ma.fields.String(required=True)
    replay = ma.fields.Nested(RuleReplayView, required=True)


class RuleHistoryProposalView(ma.Schema):
    """Who proposed and approved a version, when and why."""

    id = ma.fields.UUID(required=True, attribute="proposal.id")
    kind = ma.fields.Enum(ProposalKind, by_value=True, required=True, attribute="proposal.kind")
    reason = ma.fields.String(required=True, attribute="proposal.reason")
    proposed_by = ma.fields.UUID(required=True, attribute="proposal.proposed_by")
    proposed_by_name = ma.fields.String(required=True)
    proposed_at = ma.fields.AwareDateTime(required=True, attribute="proposal.proposed_at")
    decided_by = ma.fields.UUID(required=True, attribute="proposal.decided_by")
    decided_by_name = ma.fields.String(required=True)
    decided_at = ma.fields.AwareDateTime(required=True, attribute="proposal.decided_at")
    decision_reason = ma.fields.String(required=True, attribute="proposal.decision_reason")
    enacted_at = ma.fields.AwareDateTime(required=True, attribute="proposal.enacted_at")


class RuleHistoryView(ma.Schema):
    """A version and where it came from; `adopted` is null for one of the service's own data files."""

    version = ma.fields.Nested(RuleVersionView, required=True)
    adopted = ma.fields.Nested(RuleHistoryProposalView, required=True, allow_none=True)


def _tagged(seen: ProposalSeen) -> Tagged:
    return seen, 200, etag_of(seen.proposal.version)


def _take_step(
    step: Callable[..., ProposalSeen], header: dict[str, Any], entry: dict[str, Any], proposal_id: UUID
) -> Tagged:
    """Approve, reject or withdraw what the caller has read as the version that the header names."""
    require_district()
    version = version_of(header["if_match"])
    return _tagged(
        run_transaction(lambda session: step(session, actor(), proposal_id, version=version, now=now(), **entry))
    )


@blueprint.post("/rule-proposals")
@require(Permission.RULES_PROPOSE)
@idempotent
@blueprint.arguments(RuleProposalEntry)
@blueprint.response(201, RuleProposalView)
def propose_rules(entry: dict[str, Any]) -> ProposalSeen:
    """提出规则变更. Propose a version of the rules or a method; a job replays the last 30 days under it."""
    require_district()
    jobs = current_app.extensions["tanpuhui_jobs"]
    return run_transaction(lambda session: proposals.propose(session, actor(), jobs=jobs, now=now(), **entry))


@blueprint.get("/rule-proposals")
@require(Permission.RULES_PROPOSE)
@blueprint.arguments(RuleProposalQuery, location="query")
@blueprint.response(200, page_schema(RuleProposalHeadView))
def list_rule_proposals(query: dict[str, Any]) -> Page[ProposalSeen]:
    """规则变更列表. Every proposal, the newest first."""
    require_district()
    with transaction() as session:
        return proposals.list_proposals(session, **query)


@blueprint.get("/rule-proposals/<uuid:proposal_id>")
@require(Permission.RULES_PROPOSE)
@blueprint.response(200, RuleProposalView)
def read_rule_proposal(proposal_id: UUID) -> Tagged:
    """规则变更. A proposal with its text, and what the replay found."""
    require_district()
    with transaction() as session:
        return _tagged(proposals.proposal_for(session, proposal_id))


@blueprint.post("/rule-proposals/<uuid:proposal_id>/replay")
@require(Permission.RULES_PROPOSE)
@idempotent
@blueprint.response(202, RuleProposalView)
def replay_rule_proposal(proposal_id: UUID) -> ProposalSeen:
    """重新试算. Replay the last 30 days once more, as they are by now."""
    require_district()
    jobs = current_app.extensions["tanpuhui_jobs"]
    return run_transaction(lambda session: proposals.replay_again(session, actor(), proposal_id, jobs=jobs, now=now()))


@blueprint.post("/rule-proposals/<uuid:proposal_id>/approval")
@require(Permission.RULES_APPROVE)
@idempotent
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(ProposalDecisionEntry)
@blueprint.response(200, RuleProposalView)
def approve_rule_proposal(header: dict[str, Any], entry: dict[str, Any], proposal_id: UUID) -> Tagged:
    """批准规则变更. Approve what another person proposed; it takes effect at the start of its day."""
    return _take_step(proposals.approve, header, entry, proposal_id)


@blueprint.post("/rule-proposals/<uuid:proposal_id>/rejection")
@require(Permission.RULES_APPROVE)
@idempotent
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(ProposalDecisionEntry)
@blueprint.response(200, RuleProposalView)
def reject_rule_proposal(header: dict[str, Any], entry: dict[str, Any], proposal_id: UUID) -> Tagged:
    """否决规则变更. Turn down what another person proposed."""
    return _take_step(proposals.reject, header, entry, proposal_id)


@blueprint.post("/rule-proposals/<uuid:proposal_id>/withdrawal")
@require(Permission.RULES_PROPOSE)
@idempotent
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(ProposalDecisionEntry)
@blueprint.response(200, RuleProposalView)
def withdraw_rule_proposal(header: dict[str, Any], entry: dict[str, Any], proposal_id: UUID) -> Tagged:
    """撤回规则变更. Withdraw a proposal, approved or not, as long as it is not written into the rules."""
    return _take_step(proposals.withdraw, header, entry, proposal_id)


@blueprint.get("/rule-history")
@require(Permission.RULES_PROPOSE)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(RuleHistoryView))
def list_rule_history(query: dict[str, Any]) -> Page[dict[str, Any]]:
    """规则沿革. Every version: who proposed and approved it, when and why."""
    require_district()
    with transaction() as session:
        page = published.history(session, **query)
    return Page([_history_members(entry) for entry in page.items], page.next_cursor)


def _history_members(entry: HistoryEntry) -> dict[str, Any]:
    reason = None if entry.proposal is None else entry.proposal.reason
    version = published.VersionSeen(entry.version, reason)
    return {"version": version, "adopted": None if entry.proposal is None else entry}
