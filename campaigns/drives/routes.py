"""Campaigns over HTTP: staff run them, residents take part."""

from datetime import date
from typing import Any
from uuid import UUID

import marshmallow as ma

from campaigns.drives import campaigns, participation
from campaigns.drives.campaigns import CampaignTerms, Move
from campaigns.drives.models import Campaign, CampaignState, Participation, TargetMeasure
from campaigns.drives.participation import CampaignParticipation, Progress
from points.earning.models import Behaviour
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.etags import VersionHeader, etag_of, version_of
from server.idempotency import idempotent
from server.paging import Page, PageQuery

blueprint = Blueprint(
    "campaigns",
    __name__,
    url_prefix="/api/v1/campaigns",
    description="低碳活动 · Campaigns with a behaviour target",
)

TARGET_MAX = 1_000_000_000_000  # the table's own limit

# No control characters and no lone surrogates: PostgreSQL stores neither NUL nor half a character.
_TITLE = ma.validate.Regexp(
    r"^ *[^\s\u0000-\u001f\u007f-\u009f\ud800-\udfff][^\u0000-\u001f\u007f-\u009f\ud800-\udfff]*\Z"
)
_TEXT = ma.validate.Regexp(r"^[^\u0000-\u0008\u000b-\u001f\u007f-\u009f\ud800-\udfff]*\Z")
_DIVISION = ma.validate.Regexp(r"^([0-9]{6}|[0-9]{9}|[0-9]{12})\Z")


def _in_our_time(day: date) -> None:
    if not 2020 <= day.year <= 2100:
        raise ma.ValidationError("Must be a day from 2020 to 2100.")


class CampaignTermsEntry(ma.Schema):
    """What a campaign asks for; days are business days, both included."""

    title = ma.fields.String(required=True, validate=[ma.validate.Length(1, 60), _TITLE])
    description = ma.fields.String(load_default="", validate=[ma.validate.Length(0, 1000), _TEXT])
    behaviours = ma.fields.List(
        ma.fields.Enum(Behaviour, by_value=True), required=True, validate=ma.validate.Length(1, len(Behaviour))
    )
    measure = ma.fields.Enum(TargetMeasure, by_value=True, required=True)
    target = ma.fields.Integer(
        required=True,
        strict=True,
        validate=ma.validate.Range(1, TARGET_MAX),
        metadata={"description": "In units of `measure`, for each resident"},
    )
    starts_on = ma.fields.Date(required=True, validate=_in_our_time)
    ends_on = ma.fields.Date(required=True, validate=_in_our_time)


class CampaignEntry(CampaignTermsEntry):
    """A new campaign, for a division or for one organisation."""

    division = ma.fields.String(load_default=None, allow_none=True, validate=[ma.validate.Length(6, 12), _DIVISION])
    organisation_id = ma.fields.UUID(load_default=None, allow_none=True)

    @ma.validates_schema
    def _one_place(self, entry: dict[str, Any], **_: Any) -> None:
        if (entry["division"] is None) == (entry["organisation_id"] is None):
            raise ma.ValidationError("Exactly one of division and organisation_id is required.", "division")


class CampaignView(ma.Schema):
    """A campaign. `version` is the ETag that an edit names."""

    id = ma.fields.UUID(required=True)
    title = ma.fields.String(required=True)
    description = ma.fields.String(required=True)
    division = ma.fields.String(required=True, metadata={"description": "Official code: 6, 9 or 12 digits"})
    organisation_id = ma.fields.UUID(required=True, allow_none=True)
    behaviours = ma.fields.List(ma.fields.String(), required=True)
    measure = ma.fields.Enum(TargetMeasure, by_value=True, required=True)
    target = ma.fields.Integer(required=True)
    starts_on = ma.fields.Date(required=True)
    ends_on = ma.fields.Date(required=True)
    state = ma.fields.Enum(CampaignState, by_value=True, required=True)
    version = ma.fields.Integer(required=True)
    opened_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class CampaignQuery(PageQuery):
    """Filters of the list of campaigns."""

    state = ma.fields.Enum(CampaignState, by_value=True, load_default=None)


class ParticipationView(ma.Schema):
    """A resident's participation in a campaign."""

    campaign_id = ma.fields.UUID(required=True)
    community_code = ma.fields.String(required=True, metadata={"description": "Home on joining"})
    joined_at = ma.fields.AwareDateTime(required=True)


class ProgressView(ma.Schema):
    """How far the resident is; every day from the first to the last counts, also those before joining."""

    campaign_id = ma.fields.UUID(required=True)
    measure = ma.fields.Enum(TargetMeasure, by_value=True, required=True)
    done = ma.fields.Integer(required=True, metadata={"description": "In units of `measure`"})
    target = ma.fields.Integer(required=True)
    ratio = ma.fields.Float(required=True, metadata={"description": "done ÷ target, cut to four places"})
    completed = ma.fields.Boolean(required=True)
    joined_at = ma.fields.AwareDateTime(required=True)


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


def _move(campaign_id: UUID, step: Move) -> tuple[Campaign, dict[str, str]]:
    campaign = run_transaction(lambda session: campaigns.move(session, actor(), campaign_id, step, now=now()))
    return campaign, etag_of(campaign.version)


@blueprint.get("")
@require(Permission.CAMPAIGN_READ)
@blueprint.arguments(CampaignQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(CampaignView))
def list_campaigns(query: dict[str, Any]) -> Page[Campaign]:
    """活动列表. List campaigns, newest first: to residents open and closed ones of their place, to staff all."""
    with transaction() as session:
        return campaigns.list_campaigns(session, actor(), **query)


@blueprint.post("")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(CampaignEntry)
@blueprint.response(201, CampaignView)
def create_campaign(entry: dict[str, Any]) -> tuple[Campaign, dict[str, str]]:
    """新建活动. Draft a campaign in the staff member's scope."""
    place = {"division": entry.pop("division"), "organisation_id": entry.pop("organisation_id")}
    with transaction() as session:
        campaign = campaigns.create(session, actor(), CampaignTerms(**entry), **place, now=now())
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
@blueprint.arguments(CampaignTermsEntry(partial=True))
@blueprint.response(200, CampaignView)
def edit_campaign(
    headers: dict[str, Any], changes: dict[str, Any], campaign_id: UUID
) -> tuple[Campaign, dict[str, str]]:
    """修改草稿. Change a draft; If-Match names the version that the change is based on."""
    version = version_of(headers["if_match"])
    campaign = run_transaction(
        lambda session: campaigns.edit(session, actor(), campaign_id, changes, version=version, now=now())
    )
    return campaign, etag_of(campaign.version)


@blueprint.post("/<uuid:campaign_id>/open")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.response(200, CampaignView)
def open_campaign(campaign_id: UUID) -> tuple[Campaign, dict[str, str]]:
    """开放活动. Open a draft to residents."""
    return _move(campaign_id, Move.OPEN)


@blueprint.post("/<uuid:campaign_id>/close")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.response(200, CampaignView)
def close_campaign(campaign_id: UUID) -> tuple[Campaign, dict[str, str]]:
    """结束活动. Close an open campaign: nobody joins or leaves any more, and progress stays readable."""
    return _move(campaign_id, Move.CLOSE)


@blueprint.post("/<uuid:campaign_id>/cancel")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.response(200, CampaignView)
def cancel_campaign(campaign_id: UUID) -> tuple[Campaign, dict[str, str]]:
    """取消活动. Cancel a draft or an open campaign: residents no longer see it."""
    return _move(campaign_id, Move.CANCEL)


@blueprint.post("/<uuid:campaign_id>/participations")
@require(Permission.CAMPAIGN_JOIN)
@idempotent
@blueprint.response(201, ParticipationView)
def join_campaign(campaign_id: UUID) -> Participation:
    """参加活动. Join an open campaign."""
    with transaction() as session:
        return participation.join(session, actor(), campaign_id, now=now())


@blueprint.delete("/<uuid:campaign_id>/participations/mine")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(204)
def leave_campaign(campaign_id: UUID) -> None:
    """退出活动. Leave a campaign before its end."""
    with transaction() as session:
        participation.leave(session, actor(), campaign_id, now=now())


@blueprint.get("/<uuid:campaign_id>/progress")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(200, ProgressView)
def read_progress(campaign_id: UUID) -> Progress:
    """我的进度. Read how far the resident is."""
    with transaction() as session:
        return participation.progress_of(session, actor(), campaign_id)


@blueprint.get("/<uuid:campaign_id>/participation")
@require(Permission.CAMPAIGN_RUN)
@blueprint.response(200, CampaignParticipationView)
def read_participation(campaign_id: UUID) -> CampaignParticipation:
    """参与情况. Read how many joined and completed, in total and by community."""
    with transaction() as session:
        return participation.participation_in(session, actor(), campaign_id)
