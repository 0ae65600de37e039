"""Memberships over HTTP: staff hand out an organisation's join code, residents join and leave."""

from typing import Any
from uuid import UUID

import marshmallow as ma

from server.access import Permission, actor, require
from server.api import Blueprint
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import TYPED_CODE
from server.idempotency import idempotent
from server.limits import limiter
from server.people import memberships
from server.people.join_codes import GUESSES, TYPED_LENGTH_MAX
from server.people.memberships import CODE_DAYS_DEFAULT, CODE_DAYS_MAX, IssuedCode, MemberCount, Membership
from server.people.routes import SHOWN_NAME
from server.settings import settings

blueprint = Blueprint(
    "memberships",
    __name__,
    url_prefix="/api/v1",
    description="单位成员 · Memberships of organisations",
)

_TYPED_CODE = [ma.validate.Length(1, TYPED_LENGTH_MAX), TYPED_CODE]


class MembershipEntry(ma.Schema):
    """The code that staff handed out, and the class or department one belongs to."""

    code = ma.fields.String(required=True, validate=_TYPED_CODE)
    group_name = ma.fields.String(load_default=None, allow_none=True, validate=[ma.validate.Length(1, 40), SHOWN_NAME])


class MembershipView(ma.Schema):
    """One of the resident's own memberships."""

    organisation_id = ma.fields.UUID(required=True)
    organisation_name = ma.fields.String(required=True)
    group_name = ma.fields.String(required=True, allow_none=True)
    joined_at = ma.fields.AwareDateTime(required=True)


class MembershipList(ma.Schema):
    """Every membership of a resident; few enough for one answer."""

    items = ma.fields.List(ma.fields.Nested(MembershipView), required=True)


class JoinCodeEntry(ma.Schema):
    """For how long the code is to work."""

    days = ma.fields.Integer(load_default=CODE_DAYS_DEFAULT, strict=True, validate=ma.validate.Range(1, CODE_DAYS_MAX))


class JoinCodeView(ma.Schema):
    """A join code, shown this once: nothing keeps it."""

    organisation_id = ma.fields.UUID(required=True)
    join_code = ma.fields.String(required=True)
    expires_at = ma.fields.AwareDateTime(required=True)


class MemberCountView(ma.Schema):
    """How many members an organisation has; who they are is theirs to tell."""

    organisation_id = ma.fields.UUID(required=True)
    members = ma.fields.Integer(required=True)
    code_expires_at = ma.fields.AwareDateTime(required=True, allow_none=True)


# Not idempotent: the answer kept under a key would keep the code, of which nothing but a hash is kept.
@blueprint.post("/organisations/<uuid:organisation_id>/join-code")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(JoinCodeEntry, required=False)
@blueprint.response(201, JoinCodeView)
def issue_join_code(entry: dict[str, Any], organisation_id: UUID) -> IssuedCode:
    """生成单位口令. Make the organisation's join code; the one before ends at once."""
    key = settings().data_key
    return run_transaction(
        lambda session: memberships.issue_code(session, actor(), organisation_id, **entry, data_key=key, now=now())
    )


@blueprint.get("/organisations/<uuid:organisation_id>/members")
@require(Permission.CAMPAIGN_RUN)
@blueprint.response(200, MemberCountView)
def count_members(organisation_id: UUID) -> MemberCount:
    """单位成员数. Read how many members an organisation has."""
    with transaction() as session:
        return memberships.count(session, actor(), organisation_id, now=now())


@blueprint.get("/me/memberships")
@require(Permission.PROFILE_OWN)
@blueprint.response(200, MembershipList)
def list_own_memberships() -> dict[str, Any]:
    """我的单位. List one's own memberships."""
    with transaction() as session:
        return {"items": memberships.own(session, actor())}


@blueprint.post("/me/memberships")
@require(Permission.PROFILE_OWN)
@limiter.limit(GUESSES)
@idempotent
@blueprint.arguments(MembershipEntry, example={"code": "7K3M-9QXA", "group_name": "三年二班"})
@blueprint.response(201, MembershipView)
def join_organisation(entry: dict[str, Any]) -> Membership:
    """加入单位. Become a member with the code that the organisation's staff handed out."""
    with transaction() as session:
        return memberships.join(session, actor(), **entry, data_key=settings().data_key, now=now())


@blueprint.delete("/me/memberships/<uuid:organisation_id>")
@require(Permission.PROFILE_OWN)
@blueprint.response(204)
def leave_organisation(organisation_id: UUID) -> None:
    """退出单位. End one's membership; what was joined as a member stays joined."""
    with transaction() as session:
        memberships.leave(session, actor(), organisation_id, now=now())
