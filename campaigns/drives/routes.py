"""Campaigns over HTTP: staff draft, publish and improve them, residents take part."""

from typing import Any
from uuid import UUID

import marshmallow as ma

from campaigns.drives import campaigns, moves, participation, teams
from campaigns.drives.kinds import KINDS, KindDefaults
from campaigns.drives.models import (
    ATTEMPTS_MAX,
    QUESTIONS_MAX,
    REWARD_POINTS_MAX,
    TARGET_MAX,
    TASKS_MAX,
    TEAM_SIZE_MAX,
    Audience,
    Campaign,
    CampaignKind,
    CampaignState,
    CampaignTask,
    Participation,
    RewardMode,
    TargetMeasure,
    TaskKind,
    TaskSubject,
    TeamKind,
)
from campaigns.drives.moves import Move
from campaigns.drives.participation import Eligibility, Ineligible
from campaigns.drives.promises import VersionView
from campaigns.drives.terms import Question, task_terms_from
from points.earning.models import Behaviour
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import DIVISION, LINE, SLUG, WORDS_OR_NOTHING, in_our_time
from server.etags import VersionHeader, etag_of, version_of
from server.idempotency import idempotent
from server.paging import Page, PageQuery

blueprint = Blueprint(
    "campaigns",
    __name__,
    url_prefix="/api/v1/campaigns",
    description="低碳活动 · Campaigns: drafting, publishing, taking part",
)


def reason_field(**options: Any) -> ma.fields.String:
    """A reason in a sentence, which residents read."""
    return ma.fields.String(validate=[ma.validate.Length(1, 200), LINE], **options)


class QuestionEntry(ma.Schema):
    """A question of a quiz; `right` are the positions of all right options, from 0."""

    text = ma.fields.String(required=True, validate=[ma.validate.Length(1, 300), LINE])
    options = ma.fields.List(
        ma.fields.String(validate=[ma.validate.Length(1, 100), LINE]), required=True, validate=ma.validate.Length(2, 6)
    )
    right = ma.fields.List(
        ma.fields.Integer(strict=True, validate=ma.validate.Range(0, 5)),
        required=True,
        validate=ma.validate.Length(1, 6),
    )

    @ma.post_load
    def _question(self, entry: dict[str, Any], **_: Any) -> Question:
        return Question(entry["text"], tuple(entry["options"]), frozenset(entry["right"]))


class QuestionView(ma.Schema):
    """A question as residents see it."""

    text = ma.fields.String(required=True)
    options = ma.fields.List(ma.fields.String(), required=True)


class MarkedQuestionView(QuestionView):
    """A question with its right options, for staff."""

    right = ma.fields.List(ma.fields.Integer(), required=True)


class TaskEntry(ma.Schema):
    """One task. A `behaviour` task needs behaviours and a measure, a `quiz` questions and attempts; others neither."""

    kind = ma.fields.Enum(TaskKind, by_value=True, required=True)
    subject = ma.fields.Enum(
        TaskSubject,
        by_value=True,
        metadata={"description": "Who must reach the target: each `person`, or a `team` together"},
    )
    title = ma.fields.String(required=True, validate=[ma.validate.Length(1, 60), LINE])
    behaviours = ma.fields.List(ma.fields.Enum(Behaviour, by_value=True), validate=ma.validate.Length(1, 7))
    measure = ma.fields.Enum(TargetMeasure, by_value=True)
    target = ma.fields.Integer(
        required=True,
        strict=True,
        validate=ma.validate.Range(1, TARGET_MAX),
        metadata={
            "description": "In units of `measure`; check-ins; minutes of volunteering; right answers; confirmed uploads"
        },
    )
    questions = ma.fields.List(ma.fields.Nested(QuestionEntry), validate=ma.validate.Length(1, QUESTIONS_MAX))
    attempts_max = ma.fields.Integer(strict=True, validate=ma.validate.Range(1, ATTEMPTS_MAX))
    reward_points = ma.fields.Integer(strict=True, validate=ma.validate.Range(0, REWARD_POINTS_MAX))


class TaskChanges(TaskEntry):
    """What is left out stays; after publishing only the title, a higher reward and a lower target, with a reason."""

    reason = reason_field(metadata={"description": "Required once the campaign is published"})


class TaskTermsView(ma.Schema):
    """What one task asks for and promises."""

    kind = ma.fields.Enum(TaskKind, by_value=True, required=True)
    subject = ma.fields.Enum(TaskSubject, by_value=True, required=True)
    title = ma.fields.String(required=True)
    behaviours = ma.fields.List(ma.fields.String(), required=True, allow_none=True)
    measure = ma.fields.Enum(TargetMeasure, by_value=True, required=True, allow_none=True)
    target = ma.fields.Integer(required=True)
    questions = ma.fields.List(ma.fields.Nested(QuestionView), required=True, allow_none=True)
    attempts_max = ma.fields.Integer(required=True, allow_none=True)
    reward_points = ma.fields.Integer(required=True)


class TaskView(TaskTermsView):
    """One task of a campaign, as everybody who sees the campaign reads it."""

    id = ma.fields.UUID(required=True)
    position = ma.fields.Integer(required=True)


class MarkedTaskView(TaskView):
    """One task with the right answers of its quiz, for staff."""

    questions = ma.fields.List(ma.fields.Nested(MarkedQuestionView), required=True, allow_none=True)


class TaskList(ma.Schema):
    """The tasks of a campaign; few enough for one answer."""

    items = ma.fields.List(ma.fields.Nested(TaskView), required=True)


class CampaignTermsEntry(ma.Schema):
    """What a campaign asks for; days are business days, both included. What is left out comes from the kind."""

    kind = ma.fields.Enum(CampaignKind, by_value=True)
    title = ma.fields.String(required=True, validate=[ma.validate.Length(1, 60), LINE])
    description = ma.fields.String(validate=[ma.validate.Length(0, 1000), WORDS_OR_NOTHING])
    starts_on = ma.fields.Date(validate=in_our_time, metadata={"description": "Left out: of the theme day"})
    ends_on = ma.fields.Date(validate=in_our_time, metadata={"description": "Left out: of the theme day"})
    joins_until = ma.fields.Date(
        allow_none=True, validate=in_our_time, metadata={"description": "null: until the last day"}
    )
    theme_day_code = ma.fields.String(allow_none=True, validate=[ma.validate.Length(1, 40), SLUG])
    theme_day_year = ma.fields.Integer(allow_none=True, strict=True, validate=ma.validate.Range(2000, 2100))
    audience = ma.fields.Enum(
        Audience,
        by_value=True,
        metadata={
            "description": "`home`: who lives in the place, and members of the organisation; `members`: these only"
        },
    )
    age_min = ma.fields.Integer(
        allow_none=True,
        strict=True,
        validate=ma.validate.Range(0, 120),
        metadata={"description": "Years, as reached in the year of the first day"},
    )
    age_max = ma.fields.Integer(allow_none=True, strict=True, validate=ma.validate.Range(0, 120))
    team_kind = ma.fields.Enum(TeamKind, by_value=True, allow_none=True)
    team_size_min = ma.fields.Integer(
        allow_none=True,
        strict=True,
        validate=ma.validate.Range(1, TEAM_SIZE_MAX),
        metadata={"description": "Smaller teams are marked in the standings"},
    )
    team_size_max = ma.fields.Integer(allow_none=True, strict=True, validate=ma.validate.Range(1, TEAM_SIZE_MAX))
    reward_mode = ma.fields.Enum(RewardMode, by_value=True)


class CampaignEntry(CampaignTermsEntry):
    """A new campaign, for a division or for one organisation, with its tasks; without any: those of its kind."""

    division = ma.fields.String(allow_none=True, validate=DIVISION)
    organisation_id = ma.fields.UUID(allow_none=True)
    tasks = ma.fields.List(ma.fields.Nested(TaskEntry), validate=ma.validate.Length(1, TASKS_MAX))

    @ma.validates_schema
    def _one_place(self, entry: dict[str, Any], **_: Any) -> None:
        if (entry.get("division") is None) == (entry.get("organisation_id") is None):
            raise ma.ValidationError("Exactly one of division and organisation_id is required.", "division")

    @ma.post_load
    def _with_terms(self, entry: dict[str, Any], **_: Any) -> dict[str, Any]:
        if "tasks" in entry:
            entry["tasks"] = [task_terms_from(each) for each in entry["tasks"]]
        return entry


class CampaignChanges(CampaignTermsEntry):
    """What is left out stays; after publishing only the texts and later last days, with a reason."""

    reason = reason_field(metadata={"description": "Required once the campaign is published"})


class CampaignView(ma.Schema):
    """A campaign. `version` is the ETag that an edit names, `terms_version` that of what residents were promised."""

    id = ma.fields.UUID(required=True)
    kind = ma.fields.Enum(CampaignKind, by_value=True, required=True)
    title = ma.fields.String(required=True)
    description = ma.fields.String(required=True)
    division = ma.fields.String(required=True, metadata={"description": "Official code: 6, 9 or 12 digits"})
    organisation_id = ma.fields.UUID(required=True, allow_none=True)
    theme_day_code = ma.fields.String(required=True, allow_none=True)
    theme_day_year = ma.fields.Integer(required=True, allow_none=True)
    audience = ma.fields.Enum(Audience, by_value=True, required=True)
    age_min = ma.fields.Integer(required=True, allow_none=True)
    age_max = ma.fields.Integer(required=True, allow_none=True)
    team_kind = ma.fields.Enum(TeamKind, by_value=True, required=True, allow_none=True)
    team_size_min = ma.fields.Integer(required=True, allow_none=True)
    team_size_max = ma.fields.Integer(required=True, allow_none=True)
    starts_on = ma.fields.Date(required=True)
    ends_on = ma.fields.Date(required=True)
    joins_until = ma.fields.Date(required=True, allow_none=True)
    reward_mode = ma.fields.Enum(RewardMode, by_value=True, required=True)
    state = ma.fields.Enum(CampaignState, by_value=True, required=True)
    version = ma.fields.Integer(required=True)
    terms_version = ma.fields.Integer(required=True)
    published_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    running_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    settling_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    closed_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class CampaignQuery(PageQuery):
    """Filters of the list of campaigns."""

    state = ma.fields.Enum(CampaignState, by_value=True, load_default=None)
    kind = ma.fields.Enum(CampaignKind, by_value=True, load_default=None)


class MoveEntry(ma.Schema):
    """Why; residents read it."""

    reason = reason_field(
        load_default=None, metadata={"description": "Required to cancel or to end early what was published"}
    )


class KindView(ma.Schema):
    """What a kind of campaign sets unless its creator chooses otherwise."""

    kind = ma.fields.Enum(CampaignKind, by_value=True, required=True)
    name_zh = ma.fields.String(required=True)
    name_en = ma.fields.String(required=True)
    audience = ma.fields.Enum(
        Audience, by_value=True, required=True, metadata={"description": "For an organisation's campaign; others: home"}
    )
    reward_mode = ma.fields.Enum(RewardMode, by_value=True, required=True)
    team_kind = ma.fields.Enum(TeamKind, by_value=True, required=True, allow_none=True)
    tasks = ma.fields.List(ma.fields.Nested(TaskTermsView), required=True)


class KindList(ma.Schema):
    """Every kind."""

    items = ma.fields.List(ma.fields.Nested(KindView), required=True)


class ChangeView(ma.Schema):
    """One field before and after; a task's field as `tasks/<id>/<field>`."""

    field = ma.fields.String(required=True)
    before = ma.fields.Raw(required=True, allow_none=True)
    after = ma.fields.Raw(required=True, allow_none=True)


class CampaignVersionView(ma.Schema):
    """What a campaign promised from one moment on, why, and what that changed."""

    version = ma.fields.Integer(required=True)
    changed_at = ma.fields.AwareDateTime(required=True)
    reason = ma.fields.String(required=True)
    changes = ma.fields.List(ma.fields.Nested(ChangeView), required=True)
    terms = ma.fields.Dict(required=True)


class EligibilityView(ma.Schema):
    """Whether the resident may join, and every reason why not."""

    is_eligible = ma.fields.Boolean(required=True)
    reasons = ma.fields.List(ma.fields.Enum(Ineligible, by_value=True), required=True)


class ParticipationView(ma.Schema):
    """A resident's participation in a campaign."""

    campaign_id = ma.fields.UUID(required=True)
    community_code = ma.fields.String(required=True, metadata={"description": "Home on joining"})
    team_id = ma.fields.UUID(required=True, allow_none=True)
    joined_at = ma.fields.AwareDateTime(required=True)


def _move(campaign_id: UUID, step: Move, reason: str | None = None) -> tuple[Campaign, dict[str, str]]:
    campaign = run_transaction(
        lambda session: moves.move(session, actor(), campaign_id, step, reason=reason, now=now())
    )
    return campaign, etag_of(campaign.version)


@blueprint.get("/kinds")
@require(Permission.CAMPAIGN_READ)
@blueprint.response(200, KindList)
def list_kinds() -> dict[str, list[KindDefaults]]:
    """活动类型. List the kinds of campaigns with what each sets by default."""
    return {"items": list(KINDS.values())}


@blueprint.get("")
@require(Permission.CAMPAIGN_READ)
@blueprint.arguments(CampaignQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(CampaignView))
def list_campaigns(query: dict[str, Any]) -> Page[Campaign]:
    """活动列表. List campaigns, newest first: to residents published ones near them, to staff all in their scope."""
    with transaction() as session:
        return campaigns.list_campaigns(session, actor(), **query)


@blueprint.post("")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(CampaignEntry)
@blueprint.response(201, CampaignView)
def create_campaign(entry: dict[str, Any]) -> tuple[Campaign, dict[str, str]]:
    """新建活动. Draft a campaign in the staff member's scope."""
    with transaction() as session:
        campaign = campaigns.create(session, actor(), entry, now=now())
    return campaign, etag_of(campaign.version)


@blueprint.get("/<uuid:campaign_id>")
@require(Permission.CAMPAIGN_READ)
@blueprint.response(200, CampaignView)
def read_campaign(campaign_id: UUID) -> tuple[Campaign, dict[str, str]]:
    """查看活动. Read a campaign; its ETag is what an edit names in If-Match."""
    with transaction() as session:
        campaign = campaigns.campaign_for(session, actor(), campaign_id)
    return campaign, etag_of(campaign.version)


@blueprint.patch("/<uuid:campaign_id>")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(CampaignChanges(partial=True))
@blueprint.response(200, CampaignView)
def edit_campaign(
    headers: dict[str, Any], changes: dict[str, Any], campaign_id: UUID
) -> tuple[Campaign, dict[str, str]]:
    """修改活动. Change a draft, or improve what was published; If-Match names the version that this is based on."""
    version, reason = version_of(headers["if_match"]), changes.pop("reason", None)
    campaign = run_transaction(
        lambda session: campaigns.edit(
            session, actor(), campaign_id, changes, version=version, reason=reason, now=now()
        )
    )
    return campaign, etag_of(campaign.version)


@blueprint.get("/<uuid:campaign_id>/versions")
@require(Permission.CAMPAIGN_READ)
@blueprint.arguments(PageQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(CampaignVersionView))
def list_versions(query: dict[str, Any], campaign_id: UUID) -> Page[VersionView]:
    """活动承诺的历次版本. List what the campaign has promised since publishing, newest first, each with its changes."""
    with transaction() as session:
        return campaigns.versions(session, actor(), campaign_id, **query)


@blueprint.post("/<uuid:campaign_id>/publish")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.response(200, CampaignView)
def publish_campaign(campaign_id: UUID) -> tuple[Campaign, dict[str, str]]:
    """发布活动. Publish a draft: residents can join, and what it promises can only improve from now on."""
    return _move(campaign_id, Move.PUBLISH)


@blueprint.post("/<uuid:campaign_id>/start")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.response(200, CampaignView)
def start_campaign(campaign_id: UUID) -> tuple[Campaign, dict[str, str]]:
    """开始活动. Start a published campaign whose first day has come; the clock does so too."""
    return _move(campaign_id, Move.START)


@blueprint.post("/<uuid:campaign_id>/end")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(MoveEntry, required=False)
@blueprint.response(200, CampaignView)
def end_campaign(entry: dict[str, Any], campaign_id: UUID) -> tuple[Campaign, dict[str, str]]:
    """结束活动. End a running campaign, which then waits for its settlement; before its last day only with a reason."""
    return _move(campaign_id, Move.END, entry["reason"])


@blueprint.post("/<uuid:campaign_id>/cancel")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(MoveEntry, required=False)
@blueprint.response(200, CampaignView)
def cancel_campaign(entry: dict[str, Any], campaign_id: UUID) -> tuple[Campaign, dict[str, str]]:
    """取消活动. Cancel a campaign that has not ended; only those who joined still see it, with the reason."""
    return _move(campaign_id, Move.CANCEL, entry["reason"])


@blueprint.get("/<uuid:campaign_id>/tasks")
@require(Permission.CAMPAIGN_READ)
@blueprint.response(200, TaskList)
def list_tasks(campaign_id: UUID) -> dict[str, Any]:
    """活动任务. List the tasks of a campaign."""
    with transaction() as session:
        return {"items": campaigns.list_tasks(session, actor(), campaign_id)}


@blueprint.post("/<uuid:campaign_id>/tasks")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(TaskEntry)
@blueprint.response(201, MarkedTaskView)
def add_task(headers: dict[str, Any], entry: dict[str, Any], campaign_id: UUID) -> tuple[CampaignTask, dict[str, str]]:
    """增加任务. Add a task to a draft; If-Match names the campaign's version, and the ETag is its next."""
    version, terms = version_of(headers["if_match"]), task_terms_from(entry)
    with transaction() as session:
        task = campaigns.add_task(session, actor(), campaign_id, terms, version=version, now=now())
    return task, etag_of(task.campaign.version)


@blueprint.get("/<uuid:campaign_id>/tasks/<uuid:task_id>")
@require(Permission.CAMPAIGN_RUN)
@blueprint.response(200, MarkedTaskView)
def read_task(campaign_id: UUID, task_id: UUID) -> tuple[CampaignTask, dict[str, str]]:
    """查看任务. Read a task with the right answers of its quiz; the ETag is the campaign's version."""
    with transaction() as session:
        task = campaigns.task_for(session, actor(), campaign_id, task_id)
    return task, etag_of(task.campaign.version)


@blueprint.patch("/<uuid:campaign_id>/tasks/<uuid:task_id>")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(TaskChanges(partial=True))
@blueprint.response(200, MarkedTaskView)
def edit_task(
    headers: dict[str, Any], changes: dict[str, Any], campaign_id: UUID, task_id: UUID
) -> tuple[CampaignTask, dict[str, str]]:
    """修改任务. Change a task of a draft, or improve one that was published; If-Match names the campaign's version."""
    version, reason = version_of(headers["if_match"]), changes.pop("reason", None)
    task = run_transaction(
        lambda session: campaigns.edit_task(
            session, actor(), campaign_id, task_id, changes, version=version, reason=reason, now=now()
        )
    )
    return task, etag_of(task.campaign.version)


@blueprint.delete("/<uuid:campaign_id>/tasks/<uuid:task_id>")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.response(204)
def remove_task(headers: dict[str, Any], campaign_id: UUID, task_id: UUID) -> None:
    """删除任务. Take a task out of a draft; If-Match names the campaign's version."""
    version = version_of(headers["if_match"])
    with transaction() as session:
        campaigns.remove_task(session, actor(), campaign_id, task_id, version=version, now=now())


@blueprint.get("/<uuid:campaign_id>/eligibility")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(200, EligibilityView)
def read_eligibility(campaign_id: UUID) -> Eligibility:
    """能否参加. Read whether the resident may join, and every reason why not."""
    with transaction() as session:
        return participation.eligibility(session, actor(), campaign_id)


@blueprint.post("/<uuid:campaign_id>/participations")
@require(Permission.CAMPAIGN_JOIN)
@idempotent
@blueprint.response(201, ParticipationView)
def join_campaign(campaign_id: UUID) -> Participation:
    """参加活动. Join a published campaign."""
    with transaction() as session:
        return participation.join(session, actor(), campaign_id, now=now())


@blueprint.delete("/<uuid:campaign_id>/participations/mine")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(204)
def leave_campaign(campaign_id: UUID) -> None:
    """退出活动. Leave a campaign, and one's team in it, before its end."""
    run_transaction(lambda session: teams.leave_campaign(session, actor(), campaign_id, now=now()))
