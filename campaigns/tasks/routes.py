"""Tasks over HTTP: progress, quizzes, evidence and standings."""

from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import Response, current_app

from campaigns.drives.models import QUESTIONS_MAX, TargetMeasure, TaskKind, TaskSubject
from campaigns.drives.routes import reason_field
from campaigns.tasks import evidence, progress, quizzes, standings
from campaigns.tasks.evidence import Sent
from campaigns.tasks.models import EvidenceState, StandingSubject
from campaigns.tasks.progress import CampaignParticipation, Progress
from campaigns.tasks.quizzes import AttemptResult
from campaigns.tasks.standings import StandingOrder, Standings, Table
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.files.serving import StoredFileView, serve
from server.files.uploads import takes_files, upload_body, uploaded
from server.idempotency import idempotent
from server.paging import Page, PageQuery

blueprint = Blueprint(
    "campaign-tasks",
    __name__,
    url_prefix="/api/v1/campaigns",
    description="活动任务: 进度、答题、证明、排行 · Progress, quizzes, evidence, standings",
)


class TaskProgressView(ma.Schema):
    """How far one task is, in its own units; in a task of a team as far as the team."""

    task_id = ma.fields.UUID(required=True)
    title = ma.fields.String(required=True)
    kind = ma.fields.Enum(TaskKind, by_value=True, required=True)
    subject = ma.fields.Enum(TaskSubject, by_value=True, required=True)
    measure = ma.fields.Enum(TargetMeasure, by_value=True, required=True, allow_none=True)
    done = ma.fields.Integer(required=True)
    target = ma.fields.Integer(required=True)
    ratio = ma.fields.Float(required=True, metadata={"description": "done ÷ target, cut to four places, at most 1"})
    completed = ma.fields.Boolean(required=True)
    reward_points = ma.fields.Integer(required=True)


class ProgressView(ma.Schema):
    """How far the resident is; every day from the first to the last counts, also those before joining."""

    campaign_id = ma.fields.UUID(required=True)
    joined_at = ma.fields.AwareDateTime(required=True)
    team_id = ma.fields.UUID(required=True, allow_none=True)
    completed = ma.fields.Boolean(required=True, metadata={"description": "Every task is"})
    tasks = ma.fields.List(ma.fields.Nested(TaskProgressView), required=True)


class CommunityParticipationView(ma.Schema):
    """Residents of one community in a campaign."""

    community_code = ma.fields.String(required=True)
    community_name = ma.fields.String(required=True)
    joined = ma.fields.Integer(required=True)
    completed = ma.fields.Integer(required=True)


class CampaignParticipationView(ma.Schema):
    """How many joined and completed a campaign, by the community that was home on joining."""

    campaign_id = ma.fields.UUID(required=True)
    joined = ma.fields.Integer(required=True)
    completed = ma.fields.Integer(required=True)
    communities = ma.fields.List(ma.fields.Nested(CommunityParticipationView), required=True)


class AttemptEntry(ma.Schema):
    """For each question the positions of the options chosen, from 0."""

    answers = ma.fields.List(
        ma.fields.List(
            ma.fields.Integer(strict=True, validate=ma.validate.Range(0, 5)), validate=ma.validate.Length(0, 6)
        ),
        required=True,
        validate=ma.validate.Length(1, QUESTIONS_MAX),
    )


class AttemptResultView(ma.Schema):
    """What an attempt came to; which answers were right is not told."""

    number = ma.fields.Integer(required=True)
    right_answers = ma.fields.Integer(required=True)
    questions = ma.fields.Integer(required=True)
    target = ma.fields.Integer(required=True)
    passed = ma.fields.Boolean(required=True)
    attempts_left = ma.fields.Integer(required=True)


class AttemptView(ma.Schema):
    """One of one's own attempts."""

    number = ma.fields.Integer(required=True)
    right_answers = ma.fields.Integer(required=True)
    answered_at = ma.fields.AwareDateTime(required=True)


class AttemptList(ma.Schema):
    """Every attempt; few enough for one answer."""

    items = ma.fields.List(ma.fields.Nested(AttemptView), required=True)


class OwnEvidenceView(ma.Schema):
    """One of one's own uploads, and what became of it."""

    id = ma.fields.UUID(required=True)
    task_id = ma.fields.UUID(required=True)
    state = ma.fields.Enum(EvidenceState, by_value=True, required=True)
    sent_at = ma.fields.AwareDateTime(required=True)
    decided_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    reason = ma.fields.String(required=True, allow_none=True)
    file = ma.fields.Nested(StoredFileView, required=True)


class OwnEvidenceList(ma.Schema):
    """Every upload for one task; few enough for one answer."""

    items = ma.fields.List(ma.fields.Nested(OwnEvidenceView), required=True)


class TaskEvidenceView(OwnEvidenceView):
    """An upload as staff see it, without its sender."""

    copies = ma.fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "Uploads of the campaign with this very file; in lists"},
    )


class EvidenceQuery(PageQuery):
    """Filters of the list of uploads."""

    state = ma.fields.Enum(EvidenceState, by_value=True, load_default=None)


class RefusalEntry(ma.Schema):
    """Why; the sender reads it."""

    reason = reason_field(required=True)


class StandingsQuery(PageQuery):
    """Which table."""

    of = ma.fields.Enum(StandingSubject, by_value=True, load_default=StandingSubject.TEAM)
    by = ma.fields.Enum(StandingOrder, by_value=True, load_default=StandingOrder.TOTAL)


class TaskStandingRowView(ma.Schema):
    """A team, or a resident by nickname. Equal ones share a rank; a small team is marked."""

    rank = ma.fields.Integer(required=True)
    name = ma.fields.String(required=True)
    team_id = ma.fields.UUID(required=True, allow_none=True)
    total = ma.fields.Integer(required=True, metadata={"description": "In units of the task"})
    members = ma.fields.Integer(required=True)
    per_head = ma.fields.Float(required=True, metadata={"description": "total ÷ members, cut to four places"})
    is_small = ma.fields.Boolean(required=True)


class TaskStandingsView(ma.Schema):
    """A page of a table as it was at `computed_at`; null when it is being computed for the first time."""

    computed_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    participants = ma.fields.Integer(required=True)
    mine = ma.fields.Nested(
        TaskStandingRowView, required=True, allow_none=True, metadata={"description": "The reader's own row"}
    )
    items = ma.fields.List(ma.fields.Nested(TaskStandingRowView), required=True)
    next_cursor = ma.fields.String(required=True, allow_none=True)


@blueprint.get("/<uuid:campaign_id>/progress")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(200, ProgressView)
def read_progress(campaign_id: UUID) -> Progress:
    """我的进度. Read how far the resident is in every task."""
    with transaction() as session:
        return progress.progress_of(session, actor(), campaign_id)


@blueprint.get("/<uuid:campaign_id>/participation")
@require(Permission.CAMPAIGN_RUN)
@blueprint.response(200, CampaignParticipationView)
def read_participation(campaign_id: UUID) -> CampaignParticipation:
    """参与情况. Read how many joined and completed, in total and by community."""
    with transaction() as session:
        return progress.participation_in(session, actor(), campaign_id)


@blueprint.get("/<uuid:campaign_id>/tasks/<uuid:task_id>/attempts")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(200, AttemptList)
def list_attempts(campaign_id: UUID, task_id: UUID) -> dict[str, Any]:
    """我的答题. List one's own attempts at a quiz."""
    with transaction() as session:
        attempts: Any = quizzes.own_attempts(session, actor(), campaign_id, task_id)
        return {"items": attempts}


@blueprint.post("/<uuid:campaign_id>/tasks/<uuid:task_id>/attempts")
@require(Permission.CAMPAIGN_JOIN)
@idempotent
@blueprint.arguments(AttemptEntry, example={"answers": [[0], [1, 2]]})
@blueprint.response(201, AttemptResultView)
def attempt_quiz(entry: dict[str, Any], campaign_id: UUID, task_id: UUID) -> AttemptResult:
    """答题. Answer a quiz; it is marked at once, and the best attempt counts."""
    answers = [frozenset(answer) for answer in entry["answers"]]
    with transaction() as session:
        return quizzes.attempt(session, actor(), campaign_id, task_id, answers=answers, now=now())


@blueprint.get("/<uuid:campaign_id>/tasks/<uuid:task_id>/evidence")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(200, OwnEvidenceList)
def list_own_evidence(campaign_id: UUID, task_id: UUID) -> dict[str, Any]:
    """我的证明. List one's own uploads for a task."""
    with transaction() as session:
        return {"items": evidence.own(session, actor(), campaign_id, task_id)}


@blueprint.post("/<uuid:campaign_id>/tasks/<uuid:task_id>/evidence")
@require(Permission.CAMPAIGN_JOIN)
@takes_files()
@idempotent
@blueprint.doc(requestBody=upload_body())
@blueprint.response(201, OwnEvidenceView)
def send_evidence(campaign_id: UUID, task_id: UUID) -> Sent:
    """上传证明. Upload a picture or document for a task; staff confirm or refuse it."""
    file = uploaded()
    with transaction() as session:
        return evidence.send(session, actor(), campaign_id, task_id, file, now=now())


@blueprint.get("/<uuid:campaign_id>/evidence")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(EvidenceQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(TaskEvidenceView))
def list_evidence(query: dict[str, Any], campaign_id: UUID) -> Page[Sent]:
    """待审证明. List the uploads of a campaign, oldest first."""
    with transaction() as session:
        return evidence.list_evidence(session, actor(), campaign_id, **query)


@blueprint.get("/<uuid:campaign_id>/evidence/<uuid:evidence_id>/file")
@require(Permission.CAMPAIGN_READ)
@blueprint.response(200, {"type": "string", "format": "binary"}, content_type="application/octet-stream")
def read_evidence_file(campaign_id: UUID, evidence_id: UUID) -> Response:
    """下载证明. Download an upload: its sender, and staff in scope."""
    with transaction() as session:
        file = evidence.file_of(session, actor(), campaign_id, evidence_id)
    return serve(file)


@blueprint.post("/<uuid:campaign_id>/evidence/<uuid:evidence_id>/confirm")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.response(200, TaskEvidenceView)
def confirm_evidence(campaign_id: UUID, evidence_id: UUID) -> Sent:
    """确认证明. Confirm an upload: it counts."""
    return run_transaction(
        lambda session: evidence.decide(session, actor(), campaign_id, evidence_id, EvidenceState.CONFIRMED, now=now())
    )


@blueprint.post("/<uuid:campaign_id>/evidence/<uuid:evidence_id>/refuse")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(RefusalEntry)
@blueprint.response(200, TaskEvidenceView)
def refuse_evidence(entry: dict[str, Any], campaign_id: UUID, evidence_id: UUID) -> Sent:
    """退回证明. Refuse an upload, with a reason that its sender reads."""
    return run_transaction(
        lambda session: evidence.decide(
            session, actor(), campaign_id, evidence_id, EvidenceState.REFUSED, **entry, now=now()
        )
    )


@blueprint.get("/<uuid:campaign_id>/tasks/<uuid:task_id>/standings")
@require(Permission.CAMPAIGN_READ)
@blueprint.arguments(StandingsQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, TaskStandingsView)
def read_standings(query: dict[str, Any], campaign_id: UUID, task_id: UUID) -> Standings:
    """排行. Read a task's standings: teams by total or per head, or the residents who agreed to appear."""
    jobs, table = current_app.extensions["tanpuhui_jobs"], Table(query.pop("of"), query.pop("by"))
    return run_transaction(
        lambda session: standings.read(session, actor(), jobs, campaign_id, task_id, table, **query, now=now())
    )
