"""Households over HTTP: residents found one, let others in with a code, and leave."""

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
from server.people import households
from server.people.households import IssuedJoinCode, OwnHousehold
from server.people.join_codes import GUESSES, TYPED_LENGTH_MAX
from server.settings import settings

blueprint = Blueprint(
    "households",
    __name__,
    url_prefix="/api/v1/me/household",
    description="家庭 · Households",
)


class HouseholdMemberView(ma.Schema):
    """A member as the others see them."""

    member_id = ma.fields.UUID(required=True)
    nickname = ma.fields.String(required=True, allow_none=True)
    joined_at = ma.fields.AwareDateTime(required=True)
    leaves_at = ma.fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "退出生效时间 · When a departure takes effect"}
    )
    is_me = ma.fields.Boolean(required=True)


class HouseholdView(ma.Schema):
    """One's own household, members of longest standing first."""

    id = ma.fields.UUID(required=True)
    created_at = ma.fields.AwareDateTime(required=True)
    members = ma.fields.List(ma.fields.Nested(HouseholdMemberView), required=True)
    members_max = ma.fields.Integer(required=True)
    code_expires_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class HouseholdCodeView(ma.Schema):
    """A join code, shown this once: nothing keeps it."""

    join_code = ma.fields.String(required=True)
    expires_at = ma.fields.AwareDateTime(required=True)


class HouseholdJoinEntry(ma.Schema):
    """The code that a member read out."""

    code = ma.fields.String(required=True, validate=[ma.validate.Length(1, TYPED_LENGTH_MAX), TYPED_CODE])


@blueprint.get("")
@require(Permission.HOUSEHOLD_OWN)
@blueprint.response(200, HouseholdView)
def read_household() -> OwnHousehold:
    """我的家庭. Read the own household."""
    with transaction() as session:
        return households.view(session, actor(), now=now())


@blueprint.post("")
@require(Permission.HOUSEHOLD_OWN)
@idempotent
@blueprint.response(201, HouseholdView)
def found_household() -> OwnHousehold:
    """新建家庭. Found a household with oneself as its first member."""
    return run_transaction(lambda session: households.found(session, actor(), now=now()))


# Not idempotent: the answer kept under a key would keep the code, of which nothing but a hash is kept.
@blueprint.post("/join-code")
@require(Permission.HOUSEHOLD_OWN)
@blueprint.response(201, HouseholdCodeView)
def issue_household_code() -> IssuedJoinCode:
    """生成家庭口令. Make the household's join code for 24 hours; the one before ends at once."""
    key = settings().data_key
    return run_transaction(lambda session: households.issue_code(session, actor(), data_key=key, now=now()))


@blueprint.post("/members")
@require(Permission.HOUSEHOLD_OWN)
@limiter.limit(GUESSES)
@idempotent
@blueprint.arguments(HouseholdJoinEntry, example={"code": "7K3M-9QXA"})
@blueprint.response(201, HouseholdView)
def join_household(entry: dict[str, Any]) -> OwnHousehold:
    """加入家庭. Become a member with the code that a member read out. One household at a time."""
    key = settings().data_key
    return run_transaction(lambda session: households.join(session, actor(), **entry, data_key=key, now=now()))


@blueprint.post("/departure")
@require(Permission.HOUSEHOLD_OWN)
@idempotent
@blueprint.response(200, HouseholdView)
def leave_household() -> OwnHousehold:
    """退出家庭. Leave with the end of today; before the next household there is a waiting time."""
    return run_transaction(lambda session: households.leave(session, actor(), now=now()))


@blueprint.delete("/departure")
@require(Permission.HOUSEHOLD_OWN)
@blueprint.response(200, HouseholdView)
def stay_in_household() -> OwnHousehold:
    """取消退出. Stay after all, until the day has ended."""
    return run_transaction(lambda session: households.stay(session, actor(), now=now()))


@blueprint.delete("/members/<uuid:member_id>")
@require(Permission.HOUSEHOLD_OWN)
@blueprint.response(200, HouseholdView)
def put_member_out(member_id: UUID) -> OwnHousehold:
    """请出成员. Have another member leave with the end of today; only the member of longest standing can."""
    return run_transaction(lambda session: households.put_out(session, actor(), member_id, now=now()))
