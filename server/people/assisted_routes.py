"""Registering residents without a phone over HTTP, by the staff who write for them."""

from typing import Any

import marshmallow as ma

from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import DIVISION
from server.idempotency import idempotent
from server.limits import limiter
from server.paging import Page, PageQuery
from server.people import assisted
from server.people.models import Resident
from server.people.routes import SHOWN_NAME
from server.settings import settings

blueprint = Blueprint(
    "assisted-residents",
    __name__,
    url_prefix="/api/v1/residents",
    description="无手机居民登记 · Residents without a phone of their own",
)

# A member of staff sits opposite each of them.
REGISTRATIONS = "60 per day"
# Of those who telephone; and too few to try numbers out.
LOOK_UPS = "10 per minute;120 per day"


class AssistedResidentEntry(ma.Schema):
    """A person without a phone, who has accepted the terms on paper before the member of staff."""

    community_code = ma.fields.String(required=True, validate=DIVISION)
    nickname = ma.fields.String(
        required=True,
        validate=[ma.validate.Length(1, 24), SHOWN_NAME],
        metadata={"description": "称呼 · What staff know the person by"},
    )
    born_in = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(1900, 2100))
    terms_accepted_on_paper = ma.fields.Boolean(
        required=True,
        truthy={True},
        falsy={False},
        validate=ma.validate.Equal(True),
        metadata={"description": "已当面书面同意用户协议 · Accepted on paper, before the member of staff"},
    )


class AssistedResidentView(ma.Schema):
    """Who was registered."""

    id = ma.fields.UUID(required=True, attribute="resident_id")
    community_code = ma.fields.String(required=True)
    nickname = ma.fields.String(required=True)
    born_in = ma.fields.Integer(required=True)
    created_at = ma.fields.AwareDateTime(required=True)


class AssistedListQuery(PageQuery):
    """Of which community, and perhaps of which name."""

    community_code = ma.fields.String(
        required=True, validate=[ma.validate.Length(equal=12), ma.validate.Regexp(r"^[0-9]{12}(?!\n)$")]
    )
    nickname = ma.fields.String(load_default=None, validate=[ma.validate.Length(1, 24), SHOWN_NAME])


class PhoneLookUpEntry(ma.Schema):
    """The number of whoever telephones."""

    phone = ma.fields.String(
        required=True,
        validate=[ma.validate.Length(8, 16), ma.validate.Regexp(r"^(\+[1-9][0-9]{7,14}|1[0-9]{10})(?!\n)$")],
        metadata={"description": "手机号 · E.164, or the eleven digits of a Chinese mobile number"},
    )


class CallerView(ma.Schema):
    """Whose number it is."""

    id = ma.fields.UUID(required=True, attribute="resident_id")
    community_code = ma.fields.String(required=True)
    nickname = ma.fields.String(required=True, allow_none=True)


class ListedResidentView(AssistedResidentView):
    """Who cannot sign in. Whoever was not registered by staff may have no name."""

    nickname = ma.fields.String(required=True, allow_none=True)
    born_in = ma.fields.Integer(required=True, allow_none=True)


ListedResidentPage = page_schema(ListedResidentView)


@blueprint.get("")
@require(Permission.RESIDENT_ASSIST)
@blueprint.arguments(AssistedListQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, ListedResidentPage)
def list_assisted_residents(query: dict[str, Any]) -> Page[Resident]:
    """无手机居民列表. List the residents of a community of the own scope who cannot sign in."""
    with transaction() as session:
        return assisted.list_assisted(session, actor(), **query, now=now())


# Not idempotent: a key would keep a digest of the number.
@blueprint.post("/look-up")
@require(Permission.RESIDENT_ASSIST)
@limiter.limit(LOOK_UPS)
@blueprint.arguments(PhoneLookUpEntry)
@blueprint.response(200, CallerView)
def look_resident_up(entry: dict[str, Any]) -> Resident:
    """按手机号查找来电居民. Find the resident of the own scope who telephones, by their whole number."""
    phone = entry["phone"] if entry["phone"].startswith("+") else f"+86{entry['phone']}"
    key = settings().data_key
    found = run_transaction(lambda session: assisted.look_up(session, actor(), phone=phone, data_key=key, now=now()))
    with transaction() as session:  # another one: the trail outlives a refusal
        return assisted.caller_for(session, actor(), found, now=now())


@blueprint.post("")
@require(Permission.DIARY_RECORD)
@limiter.limit(REGISTRATIONS)
@idempotent
@blueprint.arguments(AssistedResidentEntry)
@blueprint.response(201, AssistedResidentView)
def register_resident(entry: dict[str, Any]) -> Resident:
    """登记无手机居民. Register a resident who cannot sign in, so that they can be drawn and written for."""
    del entry["terms_accepted_on_paper"]
    return run_transaction(lambda session: assisted.register(session, actor(), **entry, now=now()))
