"""What residents were promised at publishing: only better from then on, and every change is a version that they see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import zip_longest
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives.models import Campaign, CampaignTask, CampaignVersion
from campaigns.drives.terms import CampaignTerms, TaskTerms, questions_of, tasks_of, terms_of
from server.errors import Conflict, ReasonRequired
from server.paging import Page, decode, page_of


class CampaignPromiseFrozen(Conflict):
    """After publishing a promise may only improve: rewards up, targets down, a later end, and the texts.

    `fields` names what may not change any more.
    """

    code, title_zh, title_en = (
        "campaign-promise-frozen",
        "活动发布后只能改善承诺: 奖励可增, 目标可减, 结束日可延后",
        "After publishing, rewards may only rise, targets fall and the end move later",
    )


class CampaignVersionsTooMany(Conflict):
    """A published campaign is changed at most 99 times."""

    code, title_zh, title_en = "campaign-versions-too-many", "活动修改次数过多", "The campaign was changed too often"
    constraints = ("campaign_version_version_check",)


@dataclass(frozen=True, slots=True)
class Change:
    """One field of the promise before and after a version; a task's field as `tasks/<id>/<field>`."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class VersionView:
    """One version of what was promised, and what it changed; nothing for the first."""

    version: int
    changed_at: datetime
    reason: str
    terms: Mapping[str, Any]
    changes: list[Change]


def require_better(before: CampaignTerms, after: CampaignTerms) -> None:
    """Raise CampaignPromiseFrozen unless only the texts changed and the days moved later."""
    frozen = [
        name
        for name in CampaignTerms.__slots__
        if getattr(before, name) != getattr(after, name) and name not in {"title", "description"}
        if not (name == "ends_on" and after.ends_on > before.ends_on)
        if not (name == "joins_until" and _later(before.joins_until, after.joins_until))
    ]
    if frozen:
        raise CampaignPromiseFrozen(fields=frozen)


def require_better_task(before: TaskTerms, after: TaskTerms) -> None:
    """Raise CampaignPromiseFrozen unless only the title changed, the reward rose or the target fell."""
    frozen = [
        name
        for name in TaskTerms.__slots__
        if getattr(before, name) != getattr(after, name) and name != "title"
        if not (name == "reward_points" and after.reward_points > before.reward_points)
        if not (name == "target" and after.target < before.target)
    ]
    if frozen:
        raise CampaignPromiseFrozen(fields=frozen)


def write_version(
    session: Session, campaign: Campaign, *, changed_by: UUID | None, reason: str | None, now: datetime
) -> None:
    """Keep what a published campaign promises now as its version `terms_version`.

    Raises ReasonRequired, and CampaignVersionsTooMany through the table's CHECK.
    """
    if reason is None:
        raise ReasonRequired
    session.add(
        CampaignVersion(
            campaign_id=campaign.id,
            version=campaign.terms_version,
            terms=_promised(campaign, tasks_of(session, campaign.id)),
            changed_by=changed_by,
            changed_at=now,
            reason=reason,
        )
    )
    session.flush()


def list_versions(session: Session, campaign_id: UUID, *, limit: int, cursor: str | None) -> Page[VersionView]:
    """The versions of a campaign that the caller has been let see, newest first. Raises BadCursor."""
    # The row after the page is there for the next cursor, and for what the page's last row changed.
    wanted = (
        sa.select(CampaignVersion)
        .where(CampaignVersion.campaign_id == campaign_id)
        .order_by(CampaignVersion.version.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        wanted = wanted.where(CampaignVersion.version < decode(cursor, tuple[int])[0])
    rows = session.scalars(wanted).all()
    views = [
        VersionView(
            version=row.version,
            changed_at=row.changed_at,
            reason=row.reason,
            terms=row.terms,
            changes=[] if before is None else difference(before.terms, row.terms),
        )
        for row, before in zip_longest(rows, rows[1:])
    ]
    return page_of(views, limit, lambda row: (row.version,))


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """What two versions promise differently, in the order of the terms."""
    changes = [
        Change(name, before.get(name), after[name])
        for name in after
        if name != "tasks" and before.get(name) != after[name]
    ]
    old = {task["id"]: task for task in before["tasks"]}
    for task in after["tasks"]:
        changes += [
            Change(f"tasks/{task['id']}/{name}", old[task["id"]][name], task[name])
            for name in task
            if old[task["id"]][name] != task[name]
        ]
    return changes


def _later(before: date | None, after: date | None) -> bool:
    """Whether residents can join for longer; None is until the last day."""
    return before is not None and (after is None or after > before)


def _promised(campaign: Campaign, tasks: Sequence[CampaignTask]) -> dict[str, Any]:
    """The promise as JSON, without the right answers of its quizzes."""
    terms = terms_of(campaign)
    made: dict[str, Any] = {
        **{name: getattr(terms, name) for name in CampaignTerms.__slots__},
        "division": campaign.division,
        "organisation_id": campaign.organisation_id,
        "tasks": [
            {
                "id": task.id,
                "position": task.position,
                "kind": task.kind,
                "subject": task.subject,
                "title": task.title,
                "behaviours": task.behaviours,
                "measure": task.measure,
                "target": task.target,
                "questions": [
                    {"text": question.text, "options": question.options} for question in questions_of(task) or ()
                ],
                "attempts_max": task.attempts_max,
                "reward_points": task.reward_points,
            }
            for task in tasks
        ],
    }
    plain: dict[str, Any] = msgspec.to_builtins(made, builtin_types=())
    return plain
