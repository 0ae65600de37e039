"""Campaigns: staff draft them inside their scope and improve them after publishing; who sees which."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives import promises
from campaigns.drives.kinds import KINDS, TEAM_SIZES
from campaigns.drives.models import (
    TASKS_MAX,
    Audience,
    Campaign,
    CampaignKind,
    CampaignState,
    CampaignTask,
    Participation,
)
from campaigns.drives.promises import VersionView
from campaigns.drives.terms import (
    CampaignSpanInvalid,
    CampaignTerms,
    TasksTooMany,
    TaskTerms,
    campaign_columns,
    check_campaign,
    check_task,
    task_columns,
    task_in,
    task_terms_from,
    task_terms_of,
    tasks_of,
    terms_of,
)
from server import audit
from server.access import Actor
from server.database import new_id
from server.errors import Conflict, DomainError, NotFound, PreconditionFailed
from server.paging import Page, decode, page_of
from server.people.models import OrganisationMembership, Resident
from server.places.divisions import division_for
from server.places.models import ThemeDay
from server.places.organisations import organisation_for

# Drafts are the staff's own affair, and a cancelled campaign is over for everybody who was not in it.
SEEN_BY_RESIDENTS = (
    CampaignState.OPEN,
    CampaignState.PUBLISHED,
    CampaignState.RUNNING,
    CampaignState.SETTLING,
    CampaignState.CLOSED,
)

IMPROVABLE = (CampaignState.PUBLISHED, CampaignState.RUNNING)


class CampaignNotDraft(Conflict):
    """Tasks are added and taken away in a draft only: residents joined what they read."""

    code, title_zh, title_en = "campaign-not-draft", "只能在草稿状态增删任务", "Only a draft gains or loses tasks"


class CampaignEnded(Conflict):
    """Nothing about a campaign changes once it is over or cancelled."""

    code, title_zh, title_en = "campaign-ended", "活动已结束, 不能修改", "The campaign is over and cannot be changed"


class ThemeDayUnknown(DomainError):
    """The calendar has no such theme day in that year; what is announced yearly is there once it is announced."""

    code, status, title_zh, title_en = (
        "theme-day-unknown",
        422,
        "该年度没有此主题日, 或尚未公布",
        "There is no such theme day in that year, or it is not announced yet",
    )
    constraints = ("campaign_theme_day_code_theme_day_year_fkey",)


def create(session: Session, actor: Actor, given: Mapping[str, Any], *, now: datetime) -> Campaign:
    """Draft a campaign for a division in the actor's scope, or for one organisation, with its tasks.

    `given` names what the creator chose: `division` or `organisation_id`, fields of CampaignTerms, and `tasks`, a list
    of TaskTerms. What it leaves out comes from the kind, the days from the theme day. An organisation's campaign
    carries the code of its community.

    Raises NotFound outside the scope, ThemeDayUnknown, CampaignSpanInvalid, CampaignAudienceInvalid,
    CampaignTeamsInvalid, CampaignTargetInvalid, TaskInvalid.
    """
    organisation_id: UUID | None = given.get("organisation_id")
    if organisation_id is not None:
        division = organisation_for(session, actor, organisation_id).community_code
    else:
        actor.require_cover(given["division"])
        division = division_for(session, given["division"]).code
    terms = _with_defaults(session, given)
    check_campaign(terms, has_organisation=organisation_id is not None)
    tasks: Sequence[TaskTerms] = given.get("tasks") or KINDS[terms.kind].tasks
    for task in tasks:
        check_task(task)
    campaign = Campaign(
        id=new_id(),
        division=division,
        organisation_id=organisation_id,
        state=CampaignState.DRAFT,
        version=1,
        terms_version=0,
        created_by=actor.id,
        created_at=now,
        **campaign_columns(terms),
    )
    session.add(campaign)
    session.flush()
    for position, task in enumerate(tasks, 1):
        session.add(CampaignTask(campaign_id=campaign.id, id=new_id(), position=position, **task_columns(task)))
    session.flush()
    audit.record(session, actor, "campaign.create", str(campaign.id), now=now, division=division, title=campaign.title)
    return campaign


def edit(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    changes: Mapping[str, Any],
    *,
    version: int,
    reason: str | None = None,
    now: datetime,
) -> Campaign:
    """Change some of the terms, given the version that the change is based on; after publishing for the better only.

    A change of what was published is a version that residents see, with its reason.

    Raises NotFound, CampaignEnded, CampaignPromiseFrozen, ReasonRequired, PreconditionFailed when somebody else was
    first, ThemeDayUnknown, CampaignSpanInvalid, CampaignAudienceInvalid, CampaignTeamsInvalid.
    """
    campaign = campaign_for(session, actor, campaign_id)
    before = terms_of(campaign)
    terms = CampaignTerms(**{name: changes.get(name, getattr(before, name)) for name in CampaignTerms.__slots__})
    _require_theme_day(session, terms.theme_day_code, terms.theme_day_year)
    check_campaign(terms, has_organisation=campaign.organisation_id is not None)
    if campaign.state is not CampaignState.DRAFT:
        promises.require_better(before, terms)
    edited = _touch(session, campaign, campaign_columns(terms), version=version)
    _promise(session, actor, edited, reason=reason, now=now)
    audit.record(
        session, actor, "campaign.edit", str(campaign_id), now=now, changed=sorted(changes), version=edited.version
    )
    return edited


def add_task(
    session: Session, actor: Actor, campaign_id: UUID, terms: TaskTerms, *, version: int, now: datetime
) -> CampaignTask:
    """Add a task to a draft, at its first free position, given the campaign's version.

    Raises NotFound, CampaignNotDraft, PreconditionFailed, TasksTooMany, CampaignTargetInvalid, TaskInvalid.
    """
    campaign = _draft_for(session, actor, campaign_id)
    check_task(terms)
    _touch(session, campaign, {}, version=version)
    free = set(range(1, TASKS_MAX + 1)) - {task.position for task in tasks_of(session, campaign_id)}
    if not free:
        raise TasksTooMany
    task = CampaignTask(campaign_id=campaign_id, id=new_id(), position=min(free), **task_columns(terms))
    session.add(task)
    session.flush()
    audit.record(session, actor, "campaign.task-add", str(campaign_id), now=now, task=str(task.id))
    return task_in(session, campaign_id, task.id)


def edit_task(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    task_id: UUID,
    changes: Mapping[str, Any],
    *,
    version: int,
    reason: str | None = None,
    now: datetime,
) -> CampaignTask:
    """Change a task, given the campaign's version; after publishing for the better only, as a version residents see.

    Raises NotFound, CampaignEnded, CampaignPromiseFrozen, ReasonRequired, PreconditionFailed, CampaignTargetInvalid,
    TaskInvalid.
    """
    campaign = campaign_for(session, actor, campaign_id)
    before = task_terms_of(task_in(session, campaign_id, task_id))
    terms = task_terms_from(changes, before)
    check_task(terms)
    if campaign.state is not CampaignState.DRAFT:
        promises.require_better_task(before, terms)
    edited = _touch(session, campaign, {}, version=version)
    session.execute(
        sa.update(CampaignTask)
        .where(CampaignTask.campaign_id == campaign_id, CampaignTask.id == task_id)
        .values(**task_columns(terms))
    )
    _promise(session, actor, edited, reason=reason, now=now)
    audit.record(
        session, actor, "campaign.task-edit", str(campaign_id), now=now, task=str(task_id), changed=sorted(changes)
    )
    return task_in(session, campaign_id, task_id)


def remove_task(
    session: Session, actor: Actor, campaign_id: UUID, task_id: UUID, *, version: int, now: datetime
) -> None:
    """Take a task out of a draft, given the campaign's version.

    Raises NotFound, CampaignNotDraft, PreconditionFailed.
    """
    campaign = _draft_for(session, actor, campaign_id)
    task_in(session, campaign_id, task_id)
    _touch(session, campaign, {}, version=version)
    session.execute(sa.delete(CampaignTask).where(CampaignTask.campaign_id == campaign_id, CampaignTask.id == task_id))
    audit.record(session, actor, "campaign.task-remove", str(campaign_id), now=now, task=str(task_id))


def campaign_for(session: Session, actor: Actor, campaign_id: UUID) -> Campaign:
    """A campaign that the actor may see: staff in their scope, residents of their place, of an organisation that they
    are a member of, or that they joined.

    Raises NotFound.
    """
    found = session.scalars(
        sa.select(Campaign)
        .where(Campaign.id == campaign_id, _visible(session, actor))
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotFound
    return found


def task_for(session: Session, actor: Actor, campaign_id: UUID, task_id: UUID) -> CampaignTask:
    """A task of a campaign that the actor may see, in one statement. Raises NotFound."""
    seen = sa.exists().where(Campaign.id == CampaignTask.campaign_id, _visible(session, actor))
    return task_in(session, campaign_id, task_id, seen)


def list_tasks(session: Session, actor: Actor, campaign_id: UUID) -> Sequence[CampaignTask]:
    """The tasks of a campaign that the actor may see, in their order. Raises NotFound."""
    campaign_for(session, actor, campaign_id)
    return tasks_of(session, campaign_id)


def versions(session: Session, actor: Actor, campaign_id: UUID, *, limit: int, cursor: str | None) -> Page[VersionView]:
    """What a campaign that the actor may see has promised since publishing, newest first.

    Raises NotFound, BadCursor.
    """
    campaign_for(session, actor, campaign_id)
    return promises.list_versions(session, campaign_id, limit=limit, cursor=cursor)


def list_campaigns(
    session: Session,
    actor: Actor,
    *,
    state: CampaignState | None = None,
    kind: CampaignKind | None = None,
    limit: int,
    cursor: str | None,
) -> Page[Campaign]:
    """The campaigns that the actor may see, newest first; ids are UUIDv7, so their order is that of time.

    Raises BadCursor.
    """
    wanted = sa.select(Campaign).where(_visible(session, actor)).order_by(Campaign.id.desc()).limit(limit + 1)
    if state is not None:
        wanted = wanted.where(Campaign.state == state)
    if kind is not None:
        wanted = wanted.where(Campaign.kind == kind)
    if cursor is not None:
        wanted = wanted.where(Campaign.id < decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))


def home_of(session: Session, resident_id: UUID) -> str | None:
    """The code of the resident's home community."""
    return session.scalar(sa.select(Resident.community_code).where(Resident.resident_id == resident_id))


def lives_in(community_code: str | None) -> sa.ColumnElement[bool]:
    """The condition that a campaign's place holds a community: its own code, its street's or its district's."""
    # Three equalities and not a pattern, so that the index on the place serves.
    places = [] if community_code is None else [community_code[:length] for length in (6, 9, 12)]
    return Campaign.division.in_(places)


def is_member(resident_id: UUID) -> sa.ColumnElement[bool]:
    """The condition that a resident is a member of a campaign's organisation."""
    return sa.exists().where(
        OrganisationMembership.resident_id == resident_id,
        OrganisationMembership.organisation_id == Campaign.organisation_id,
        OrganisationMembership.left_at.is_(None),
    )


def _visible(session: Session, actor: Actor) -> sa.ColumnElement[bool]:
    """The condition of `Actor.covers` for staff, and of place, membership and participation for residents."""
    if actor.is_resident:
        # Who moves house keeps what they joined, and is told when it is cancelled.
        joined = sa.exists().where(Participation.resident_id == actor.id, Participation.campaign_id == Campaign.id)
        near = sa.or_(lives_in(home_of(session, actor.id)), is_member(actor.id), joined)
        return sa.or_(
            sa.and_(Campaign.state.in_(SEEN_BY_RESIDENTS), near),
            sa.and_(Campaign.state == CampaignState.CANCELLED, joined),
        )
    if actor.organisation_id is not None:
        return Campaign.organisation_id == actor.organisation_id
    if actor.division is None:
        return sa.false()
    return Campaign.division.startswith(actor.division, autoescape=True)


def _draft_for(session: Session, actor: Actor, campaign_id: UUID) -> Campaign:
    campaign = campaign_for(session, actor, campaign_id)
    if campaign.state is not CampaignState.DRAFT:
        raise CampaignNotDraft
    return campaign


def _touch(session: Session, campaign: Campaign, values: Mapping[str, Any], *, version: int) -> Campaign:
    """Count a change of a campaign, guarded by the version that the caller read.

    Another edit or a move may have left that version behind since; and the row is held until the change commits, so
    what hangs on it (tasks, versions) changes one edit after the other. Raises CampaignEnded, PreconditionFailed.
    """
    if campaign.state not in (CampaignState.DRAFT, *IMPROVABLE):
        raise CampaignEnded
    promised = {} if campaign.state is CampaignState.DRAFT else {"terms_version": Campaign.terms_version + 1}
    touched = session.scalars(
        sa.update(Campaign)
        .where(Campaign.id == campaign.id, Campaign.version == version, Campaign.state == campaign.state)
        .values(**values, **promised, version=version + 1)
        .returning(Campaign)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if touched is None:
        raise PreconditionFailed
    return touched


def _promise(session: Session, actor: Actor, campaign: Campaign, *, reason: str | None, now: datetime) -> None:
    """Keep what was changed as a version, if residents were promised anything yet. Raises ReasonRequired."""
    if campaign.state is not CampaignState.DRAFT:
        promises.write_version(session, campaign, changed_by=actor.id, reason=reason, now=now)


def _with_defaults(session: Session, given: Mapping[str, Any]) -> CampaignTerms:
    """The terms that the creator chose, completed by the kind, the theme day and the kind of team."""
    kind = given.get("kind") or CampaignKind.CHALLENGE
    defaults = KINDS[kind]
    day = _require_theme_day(session, given.get("theme_day_code"), given.get("theme_day_year"))
    starts_on: date | None = given.get("starts_on") or (day.starts_on if day else None)
    ends_on: date | None = given.get("ends_on") or (day.ends_on if day else None)
    if starts_on is None or ends_on is None:
        raise CampaignSpanInvalid("Without a theme day, starts_on and ends_on are required")
    has_members = given.get("organisation_id") is not None
    audience = given.get("audience") or (defaults.audience if has_members else Audience.HOME)
    team_kind = given.get("team_kind", defaults.team_kind)
    sizes = (None, None) if team_kind is None else TEAM_SIZES[team_kind]
    return CampaignTerms(
        kind=kind,
        title=given["title"],
        description=given.get("description") or "",
        starts_on=starts_on,
        ends_on=ends_on,
        joins_until=given.get("joins_until"),
        theme_day_code=given.get("theme_day_code"),
        theme_day_year=given.get("theme_day_year"),
        audience=audience,
        age_min=given.get("age_min"),
        age_max=given.get("age_max"),
        team_kind=team_kind,
        team_size_min=given.get("team_size_min") or sizes[0],
        team_size_max=given.get("team_size_max") or sizes[1],
        reward_mode=given.get("reward_mode") or defaults.reward_mode,
    )


def _require_theme_day(session: Session, code: str | None, year: int | None) -> ThemeDay | None:
    if code is None and year is None:
        return None
    found = None if code is None or year is None else session.get(ThemeDay, (code, year))
    if found is None:
        raise ThemeDayUnknown
    return found
