"""Households of residents without a phone over HTTP, by the staff to whom they say what to enter."""

from typing import Any
from uuid import UUID

from server.access import Permission, actor, require
from server.api import Blueprint
from server.clock import now
from server.database import run_transaction, transaction
from server.idempotency import idempotent
from server.limits import limiter
from server.people import assisted_households
from server.people.household_routes import HouseholdCodeView, HouseholdJoinEntry, HouseholdView
from server.people.households import IssuedJoinCode, OwnHousehold
from server.people.join_codes import GUESSES
from server.settings import settings

blueprint = Blueprint(
    "assisted-households",
    __name__,
    url_prefix="/api/v1/residents/<uuid:resident_id>/household",
    description="无手机居民的家庭 · Households of residents without a phone",
)

# A member of staff sits opposite each of them.
ENTRIES = "60 per day"


@blueprint.get("")
@require(Permission.RESIDENT_ASSIST)
@blueprint.response(200, HouseholdView)
def read_assisted_household(resident_id: UUID) -> OwnHousehold:
    """居民的家庭. Read the household of a resident without a phone, to tell them; `is_me` is the resident."""
    with transaction() as session:
        return assisted_households.view(session, actor(), resident_id, now=now())


@blueprint.post("")
@require(Permission.RESIDENT_ASSIST)
@limiter.limit(ENTRIES)
@idempotent
@blueprint.response(201, HouseholdView)
def found_assisted_household(resident_id: UUID) -> OwnHousehold:
    """为居民新建家庭. Found a household with a resident without a phone as its first member."""
    return run_transaction(lambda session: assisted_households.found(session, actor(), resident_id, now=now()))


# Not idempotent: the answer kept under a key would keep the code, of which nothing but a hash is kept.
@blueprint.post("/join-code")
@require(Permission.RESIDENT_ASSIST)
@limiter.limit(ENTRIES)
@blueprint.response(201, HouseholdCodeView)
def issue_assisted_household_code(resident_id: UUID) -> IssuedJoinCode:
    """为无手机家庭生成口令. Make the join code of a household in which nobody has a phone; the one before ends."""
    key = settings().data_key
    return run_transaction(
        lambda session: assisted_households.issue_code(session, actor(), resident_id, data_key=key, now=now())
    )


@blueprint.post("/members")
@require(Permission.RESIDENT_ASSIST)
@limiter.limit(GUESSES)
@idempotent
@blueprint.arguments(HouseholdJoinEntry, example={"code": "7K3M-9QXA"})
@blueprint.response(201, HouseholdView)
def join_assisted_household(entry: dict[str, Any], resident_id: UUID) -> OwnHousehold:
    """为居民加入家庭. Make a resident without a phone a member, with the code that a member of the household gave."""
    key = settings().data_key
    return run_transaction(
        lambda session: assisted_households.join(session, actor(), resident_id, **entry, data_key=key, now=now())
    )


@blueprint.post("/departure")
@require(Permission.RESIDENT_ASSIST)
@idempotent
@blueprint.response(200, HouseholdView)
def leave_assisted_household(resident_id: UUID) -> OwnHousehold:
    """为居民退出家庭. Have a resident without a phone leave with the end of today."""
    return run_transaction(lambda session: assisted_households.leave(session, actor(), resident_id, now=now()))


@blueprint.delete("/departure")
@require(Permission.RESIDENT_ASSIST)
@blueprint.response(200, HouseholdView)
def stay_in_assisted_household(resident_id: UUID) -> OwnHousehold:
    """为居民取消退出. Have a resident without a phone stay after all, until the day has ended."""
    return run_transaction(lambda session: assisted_households.stay(session, actor(), resident_id, now=now()))


@blueprint.delete("/members/<uuid:member_id>")
@require(Permission.RESIDENT_ASSIST)
@blueprint.response(200, HouseholdView)
def put_member_of_assisted_household_out(resident_id: UUID, member_id: UUID) -> OwnHousehold:
    """请出成员. Put a member out in the name of a resident without a phone who is of longest standing."""
    return run_transaction(
        lambda session: assisted_households.put_out(session, actor(), resident_id, member_id, now=now())
    )
