"""Registering residents without a phone over HTTP, by the staff who write for them."""

from typing import Any

import marshmallow as ma

from server.access import Permission, actor, require
from server.api import Blueprint
from server.clock import now
from server.database import run_transaction
from server.entries import DIVISION
from server.idempotency import idempotent
from server.limits import limiter
from server.people import assisted
from server.people.models import Resident
from server.people.routes import SHOWN_NAME

blueprint = Blueprint(
    "assisted-residents",
    __name__,
    url_prefix="/api/v1/residents",
    description="无手机居民登记 · Residents without a phone of their own",
)

# A member of staff sits opposite each of them.
REGISTRATIONS = "60 per day"


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
