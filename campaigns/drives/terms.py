"""What a campaign and its tasks ask for and promise, and what of it makes sense."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives.models import (
    Audience,
    Campaign,
    CampaignKind,
    CampaignTask,
    RewardMode,
    TargetMeasure,
    TaskKind,
    TaskSubject,
    TeamKind,
)
from points.earning.models import TRAVEL, Behaviour
from server.errors import Conflict, DomainError, NotFound

SPAN_DAYS_MAX = 366


class CampaignSpanInvalid(DomainError):
    """A campaign ends on or after its first day, at most SPAN_DAYS_MAX days later; joining ends no later."""

    code, status, title_zh, title_en = (
        "campaign-span-invalid",
        422,
        "活动起止日期不合理",
        "A campaign lasts from its first day to at most 366 days later, and joining ends no later",
    )
    constraints = ("campaign_span_check", "campaign_joins_until_check")


class CampaignAudienceInvalid(DomainError):
    """Members are those of an organisation, and the lower age is not above the upper."""

    code, status, title_zh, title_en = (
        "campaign-audience-invalid",
        422,
        "参加对象不合理",
        "Only an organisation has members, and the lower age is not above the upper",
    )
    constraints = ("campaign_members_of_check", "campaign_age_band_check")


class CampaignTeamsInvalid(DomainError):
    """Team sizes come with a kind of team, the smaller first."""

    code, status, title_zh, title_en = (
        "campaign-teams-invalid",
        422,
        "团队设置不合理",
        "Team sizes need a kind of team, and the smaller one comes first",
    )
    constraints = ("campaign_team_check", "campaign_team_size_check")


class CampaignTargetInvalid(DomainError):
    """The measure is not one that every behaviour of the task has: a sorting drop has no metres."""

    code, status, title_zh, title_en = (
        "campaign-target-invalid",
        422,
        "目标的计量方式与所选行为不符",
        "The measure does not fit every behaviour of the task",
    )


class TaskInvalid(DomainError):
    """Each kind of task has fields of its own: behaviours and measure, or questions and attempts, or neither."""

    code, status, title_zh, title_en = (
        "task-invalid",
        422,
        "任务设置不合理",
        "The task lacks what its kind needs, or has what its kind does not",
    )


class TasksTooMany(Conflict):
    """A campaign has at most TASKS_MAX tasks."""

    code, title_zh, title_en = "tasks-too-many", "活动任务过多", "A campaign has at most 20 tasks"
    constraints = ("campaign_task_position_check", "campaign_task_campaign_id_position_key")


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a quiz; `right` are the positions of all right options, from 0."""

    text: str
    options: tuple[str, ...]
    right: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTerms:
    """What one task asks for. The target is in the units of its kind (see CampaignTask)."""

    kind: TaskKind
    title: str
    target: int
    subject: TaskSubject = TaskSubject.PERSON
    behaviours: tuple[Behaviour, ...] | None = None
    measure: TargetMeasure | None = None
    questions: tuple[Question, ...] | None = None
    attempts_max: int | None = None
    reward_points: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignTerms:
    """What a campaign asks for but its tasks; days are business days, both included."""

    kind: CampaignKind
    title: str
    description: str
    starts_on: date
    ends_on: date
    joins_until: date | None
    theme_day_code: str | None
    theme_day_year: int | None
    audience: Audience
    age_min: int | None
    age_max: int | None
    team_kind: TeamKind | None
    team_size_min: int | None
    team_size_max: int | None
    reward_mode: RewardMode


def check_campaign(terms: CampaignTerms, *, has_organisation: bool) -> None:
    """Raise CampaignSpanInvalid, CampaignAudienceInvalid or CampaignTeamsInvalid for terms that make no sense."""
    if not 0 <= (terms.ends_on - terms.starts_on).days <= SPAN_DAYS_MAX:
        raise CampaignSpanInvalid
    if terms.joins_until is not None and terms.joins_until > terms.ends_on:
        raise CampaignSpanInvalid
    if terms.audience is Audience.MEMBERS and not has_organisation:
        raise CampaignAudienceInvalid
    if terms.age_min is not None and terms.age_max is not None and terms.age_min > terms.age_max:
        raise CampaignAudienceInvalid
    sizes = (terms.team_size_min, terms.team_size_max)
    if terms.team_kind is None:
        if sizes != (None, None):
            raise CampaignTeamsInvalid
    elif sizes[0] is None or sizes[1] is None or sizes[0] > sizes[1]:
        raise CampaignTeamsInvalid


def check_task(terms: TaskTerms) -> None:
    """Raise TaskInvalid or CampaignTargetInvalid for a task that makes no sense."""
    _require_own(terms.kind is TaskKind.BEHAVIOUR, terms.behaviours, terms.measure)
    _require_own(terms.kind is TaskKind.QUIZ, terms.questions, terms.attempts_max)
    behaviours = set(terms.behaviours or ())
    if terms.measure is TargetMeasure.DISTANCE_M and not behaviours <= TRAVEL:
        raise CampaignTargetInvalid
    if terms.measure is TargetMeasure.WEIGHT_G and behaviours & TRAVEL:
        raise CampaignTargetInvalid
    for question in terms.questions or ():
        if not question.right or not question.right <= set(range(len(question.options))):
            raise TaskInvalid("Every question has at least one right option")
    if terms.questions is not None and terms.target > len(terms.questions):
        raise TaskInvalid("A quiz cannot ask for more right answers than it has questions")


def _require_own(is_own: bool, *values: object) -> None:
    """Raise TaskInvalid unless the fields of a kind are all there, or for another kind all absent."""
    if any((value is not None) != is_own for value in values):
        raise TaskInvalid


def campaign_columns(terms: CampaignTerms) -> dict[str, Any]:
    """The columns of a campaign that hold its terms."""
    values = {each.name: getattr(terms, each.name) for each in fields(terms)}
    return {**values, "title": terms.title.strip()}


def terms_of(campaign: Campaign) -> CampaignTerms:
    """The terms of a stored campaign."""
    return CampaignTerms(**{each.name: getattr(campaign, each.name) for each in fields(CampaignTerms)})


def task_columns(terms: TaskTerms) -> dict[str, Any]:
    """The columns of a task that hold its terms."""
    behaviours, questions = terms.behaviours, terms.questions
    return {
        "kind": terms.kind,
        "subject": terms.subject,
        "title": terms.title.strip(),
        "behaviours": None if behaviours is None else [each.value for each in behaviours],
        "measure": terms.measure,
        "target": terms.target,
        "questions": None
        if questions is None
        else [{"text": each.text, "options": list(each.options), "right": sorted(each.right)} for each in questions],
        "attempts_max": terms.attempts_max,
        "reward_points": terms.reward_points,
    }


def task_terms_of(task: CampaignTask) -> TaskTerms:
    """The terms of a stored task."""
    return TaskTerms(
        kind=task.kind,
        subject=task.subject,
        title=task.title,
        behaviours=None if task.behaviours is None else tuple(Behaviour(name) for name in task.behaviours),
        measure=task.measure,
        target=task.target,
        questions=questions_of(task),
        attempts_max=task.attempts_max,
        reward_points=task.reward_points,
    )


def questions_of(task: CampaignTask) -> tuple[Question, ...] | None:
    """The questions of a quiz with their right options; None for any other task."""
    if task.questions is None:
        return None
    return tuple(Question(each["text"], tuple(each["options"]), frozenset(each["right"])) for each in task.questions)


def task_terms_from(given: Mapping[str, Any], before: TaskTerms | None = None) -> TaskTerms:
    """The terms that checked fields make, on top of those of before; None takes a field back."""
    kept = {} if before is None else {each.name: getattr(before, each.name) for each in fields(before)}
    merged = {**kept, **given}
    if merged.get("behaviours") is not None:
        # In one order and once each, whatever the order of asking.
        merged["behaviours"] = tuple(each for each in Behaviour if each in merged["behaviours"])
    if merged.get("questions") is not None:
        merged["questions"] = tuple(merged["questions"])
    return TaskTerms(**merged)


def tasks_of(session: Session, campaign_id: UUID) -> Sequence[CampaignTask]:
    """The tasks of a campaign in their order."""
    return session.scalars(
        sa.select(CampaignTask)
        .where(CampaignTask.campaign_id == campaign_id)
        .order_by(CampaignTask.position)
        .execution_options(populate_existing=True)
    ).all()


def task_in(session: Session, campaign_id: UUID, task_id: UUID, *conditions: sa.ColumnElement[bool]) -> CampaignTask:
    """A task of a campaign that the caller has been let see, or under these conditions. Raises NotFound."""
    found = session.scalars(
        sa.select(CampaignTask)
        .where(CampaignTask.campaign_id == campaign_id, CampaignTask.id == task_id, *conditions)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotFound
    return found
