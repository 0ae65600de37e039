"""Teams over HTTP: residents found, join and lead them; staff in scope keep names and members decent."""

from typing import Any
from uuid import UUID

import marshmallow as ma

from campaigns.drives import teams
from campaigns.drives.routes import reason_field
from campaigns.drives.teams import OwnTeam, TeamSummary
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import TYPED_CODE
from server.idempotency import idempotent
from server.limits import limiter
from server.paging import Page, PageQuery
from server.people.join_codes import GUESSES, TYPED_LENGTH_MAX
from server.people.routes import SHOWN_NAME
from server.settings import settings

blueprint = Blueprint(
    "campaign-teams",
    __name__,
    url_prefix="/api/v1/campaigns",
    description="活动团队 · Teams in campaigns",
)

_TYPED_CODE = [ma.validate.Length(1, TYPED_LENGTH_MAX), TYPED_CODE]


class TeamEntry(ma.Schema):
    """The name of a team, shown to everybody who sees the campaign."""

    name = ma.fields.String(required=True, validate=[ma.validate.Length(1, 40), SHOWN_NAME])


class TeamCorrection(TeamEntry):
    """Another name for a team, and why."""

    reason = reason_field(required=True)


class TeamCodeEntry(ma.Schema):
    """The code that the captain read out."""

    code = ma.fields.String(required=True, validate=_TYPED_CODE)


class CaptainEntry(ma.Schema):
    """The member who is to be captain."""

    member = ma.fields.UUID(required=True, metadata={"description": "`member` from the team's list of people"})


class RemovalQuery(ma.Schema):
    """Why staff take somebody out of a team."""

    reason = reason_field(required=True)


class MemberView(ma.Schema):
    """A member of a team; the nickname only of who agreed to appear by it (staff in scope see all)."""

    member = ma.fields.UUID(required=True, metadata={"description": "Names the person inside this team only"})
    nickname = ma.fields.String(required=True, allow_none=True)
    is_captain = ma.fields.Boolean(required=True)
    is_me = ma.fields.Boolean(required=True)
    joined_at = ma.fields.AwareDateTime(required=True, metadata={"description": "When they joined the campaign"})


class MemberList(ma.Schema):
    """Every member of a team."""

    items = ma.fields.List(ma.fields.Nested(MemberView), required=True)


class TeamView(ma.Schema):
    """A team as everybody sees it."""

    id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    members = ma.fields.Integer(required=True)
    size_max = ma.fields.Integer(required=True)
    is_small = ma.fields.Boolean(required=True, metadata={"description": "Has fewer members than the campaign wants"})


class OwnTeamView(TeamView):
    """A team as its members see it."""

    is_captain = ma.fields.Boolean(required=True)
    join_code = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "Only in the answer that made it: nothing keeps it"}
    )
    people = ma.fields.List(ma.fields.Nested(MemberView), required=True)


@blueprint.get("/<uuid:campaign_id>/teams")
@require(Permission.CAMPAIGN_READ)
@blueprint.arguments(PageQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(TeamView))
def list_teams(query: dict[str, Any], campaign_id: UUID) -> Page[TeamSummary]:
    """活动团队列表. List the teams of a campaign, oldest first."""
    with transaction() as session:
        return teams.list_teams(session, actor(), campaign_id, **query)


# Not idempotent: the answer kept under a key would keep the code. A second team is refused as it is.
@blueprint.post("/<uuid:campaign_id>/teams")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.arguments(TeamEntry, example={"name": "三年二班"})
@blueprint.response(201, OwnTeamView)
def create_team(entry: dict[str, Any], campaign_id: UUID) -> OwnTeam:
    """创建团队. Found a team as its captain; the answer has the code with which others join."""
    key = settings().data_key
    return run_transaction(
        lambda session: teams.create(session, actor(), campaign_id, **entry, data_key=key, now=now())
    )


@blueprint.get("/<uuid:campaign_id>/teams/mine")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(200, OwnTeamView)
def read_own_team(campaign_id: UUID) -> OwnTeam:
    """我的团队. Read one's own team."""
    with transaction() as session:
        return teams.own_team(session, actor(), campaign_id)


@blueprint.post("/<uuid:campaign_id>/teams/mine")
@require(Permission.CAMPAIGN_JOIN)
@limiter.limit(GUESSES)
@idempotent
@blueprint.arguments(TeamCodeEntry, example={"code": "7K3M-9QXA"})
@blueprint.response(201, OwnTeamView)
def join_team(entry: dict[str, Any], campaign_id: UUID) -> OwnTeam:
    """加入团队. Join a team with its code; who is in the campaign joins one team."""
    key = settings().data_key
    return run_transaction(lambda session: teams.join(session, actor(), campaign_id, **entry, data_key=key, now=now()))


@blueprint.delete("/<uuid:campaign_id>/teams/mine")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(204)
def leave_team(campaign_id: UUID) -> None:
    """退出团队. Leave one's team before the end of the campaign."""
    run_transaction(lambda session: teams.leave(session, actor(), campaign_id, now=now()))


@blueprint.patch("/<uuid:campaign_id>/teams/mine")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.arguments(TeamEntry)
@blueprint.response(200, OwnTeamView)
def rename_own_team(entry: dict[str, Any], campaign_id: UUID) -> OwnTeam:
    """修改团队名称. Give one's team another name, as its captain."""
    return run_transaction(lambda session: teams.rename_own(session, actor(), campaign_id, **entry, now=now()))


@blueprint.post("/<uuid:campaign_id>/teams/mine/code")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(201, OwnTeamView)
def renew_team_code(campaign_id: UUID) -> OwnTeam:
    """更换团队口令. Make another code for one's team, as its captain; the old one ends."""
    key = settings().data_key
    return run_transaction(lambda session: teams.renew_code(session, actor(), campaign_id, data_key=key, now=now()))


@blueprint.put("/<uuid:campaign_id>/teams/mine/captain")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.arguments(CaptainEntry)
@blueprint.response(200, OwnTeamView)
def pass_on_captaincy(entry: dict[str, Any], campaign_id: UUID) -> OwnTeam:
    """移交队长. Make another member captain."""
    return run_transaction(lambda session: teams.pass_on(session, actor(), campaign_id, **entry, now=now()))


@blueprint.delete("/<uuid:campaign_id>/teams/mine/members/<uuid:member>")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(204)
def remove_own_member(campaign_id: UUID, member: UUID) -> None:
    """移出队员. Take another member out of one's team, as its captain."""
    run_transaction(lambda session: teams.remove_own_member(session, actor(), campaign_id, member=member, now=now()))


@blueprint.get("/<uuid:campaign_id>/teams/<uuid:team_id>/members")
@require(Permission.CAMPAIGN_RUN)
@blueprint.response(200, MemberList)
def list_members(campaign_id: UUID, team_id: UUID) -> dict[str, Any]:
    """团队成员. List the members of a team with their nicknames, for staff in scope."""
    with transaction() as session:
        return {"items": teams.members_for_staff(session, actor(), campaign_id, team_id)}


@blueprint.patch("/<uuid:campaign_id>/teams/<uuid:team_id>")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(TeamCorrection)
@blueprint.response(200, TeamView)
def rename_team(entry: dict[str, Any], campaign_id: UUID, team_id: UUID) -> TeamSummary:
    """更正团队名称. Give a team another name, with a reason."""
    return run_transaction(lambda session: teams.rename(session, actor(), campaign_id, team_id, **entry, now=now()))


@blueprint.delete("/<uuid:campaign_id>/teams/<uuid:team_id>/members/<uuid:member>")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(RemovalQuery, location="query", unknown=ma.RAISE)
@blueprint.response(204)
def remove_member(query: dict[str, Any], campaign_id: UUID, team_id: UUID, member: UUID) -> None:
    """将成员移出团队. Take a member out of a team, with a reason."""
    run_transaction(
        lambda session: teams.remove_member(session, actor(), campaign_id, team_id, member=member, now=now(), **query)
    )
