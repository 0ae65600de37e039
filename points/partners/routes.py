"""The signed feed, and binding: a resident's own consent to it."""

from datetime import datetime
from typing import Any

import marshmallow as ma
from flask import Response, request
from sqlalchemy.orm import Session

from points.partners import bindings, feed, registry, signature
from points.partners.models import Binding, Partner
from server import audit
from server.access import Permission, actor, public, require
from server.api import Blueprint, required_header
from server.clock import now
from server.crypto import BadSeal
from server.database import run_transaction, transaction
from server.errors import DomainError, UnsupportedMediaType
from server.idempotency import idempotent
from server.limits import FEED_BODY_BYTES_MAX, feed_partner, limiter
from server.people import residents
from server.request_signatures import new_key
from server.settings import settings

blueprint = Blueprint("partners", __name__, url_prefix="/api/v1", description="合作方 partners: signed feed, bindings")

CODE = r"^[a-z0-9][a-z0-9-]{1,39}(?!\n)$"
KINDS = ["ride", "bin-drop", "recycling"]


class BadBatchId(DomainError):
    """A batch carries an id of its own."""

    code, status, title_zh, title_en = (
        "bad-batch-id",
        400,
        "缺少或无效的批次号",
        "X-Tanpuhui-Batch of 1 to 64 visible ASCII characters is required",
    )


class BindingBody(ma.Schema):
    """Who the resident is to the partner, and their agreement."""

    member_id = ma.fields.String(required=True, validate=ma.validate.Regexp(r"^[!-~]{1,64}(?!\n)$"))
    consent = ma.fields.Boolean(
        required=True,
        validate=ma.validate.Equal(True),
        metadata={"description": "单独同意 the resident agrees that this partner sends their events (PIPL 23)"},
    )


class StandingView(ma.Schema):
    """A partner, bound or not."""

    code = ma.fields.String(required=True)
    name_zh = ma.fields.String(required=True)
    kinds = ma.fields.List(ma.fields.String(), required=True)
    member_id = ma.fields.String(required=True, allow_none=True)
    bound_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class StandingsView(ma.Schema):
    """Every partner of the district."""

    items = ma.fields.List(ma.fields.Nested(StandingView), required=True)


class PartnerBody(ma.Schema):
    """A new partner."""

    code = ma.fields.String(required=True, validate=ma.validate.Regexp(CODE))
    name_zh = ma.fields.String(required=True, validate=ma.validate.Length(1, 60))
    kinds = ma.fields.List(
        ma.fields.String(validate=ma.validate.OneOf(KINDS)), required=True, validate=ma.validate.Length(1, 3)
    )
    day_budget_points = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(0, 100_000_000))


class PartnerView(ma.Schema):
    """A partner as the district sees it; never its keys."""

    code = ma.fields.String(required=True)
    name_zh = ma.fields.String(required=True)
    kinds = ma.fields.List(ma.fields.String(), required=True)
    day_budget_points = ma.fields.Integer(required=True)
    enabled = ma.fields.Boolean(required=True)
    live_keys = ma.fields.Function(
        lambda partner: [
            slot for slot, key in (("a", partner.key_a_sealed), ("b", partner.key_b_sealed)) if key is not None
        ],
        metadata={"type": "array", "items": {"type": "string"}},
    )


class PartnersView(ma.Schema):
    """All partners."""

    items = ma.fields.List(ma.fields.Nested(PartnerView), required=True)


class KeyView(ma.Schema):
    """A key, shown this once."""

    slot = ma.fields.String(required=True)
    key = ma.fields.String(required=True)


class LineView(ma.Schema):
    """What became of one line."""

    line = ma.fields.Integer(required=True)
    outcome = ma.fields.String(required=True)
    reason = ma.fields.String()
    detail = ma.fields.String()
    points = ma.fields.Integer()


class BatchView(ma.Schema):
    """Counts, and one outcome per line in the order of the lines."""

    batch = ma.fields.String(required=True)
    lines = ma.fields.Integer(required=True)
    counts = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Integer(), required=True)
    reasons = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Integer(), required=True)
    points = ma.fields.Integer(required=True)
    outcomes = ma.fields.List(ma.fields.Nested(LineView), required=True)


@blueprint.post("/partners/<string:partner_code>/events")
@public
@limiter.limit("1200 per minute", key_func=feed_partner)
@blueprint.doc(
    security=[{"signature": []}],
    parameters=[
        required_header("X-Tanpuhui-Timestamp", "Unix seconds, within 300 s of ours either way"),
        required_header(
            "X-Tanpuhui-Batch", "The batch's own id; sent again, it gets the first answer and does nothing"
        ),
        required_header(
            "X-Tanpuhui-Signature", "Lower-case hex HMAC-SHA256 with the partner's key over timestamp + '.' + body"
        ),
    ],
    requestBody={
        "required": True,
        "description": "Newline-delimited JSON: at most 5,000 lines and 5 MiB; one event per line",
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"kind":"ride","id":"r-1","member":"m-1","mode":"metro",'
                '"started_at":"2026-11-22T08:00:00+08:00","ended_at":"2026-11-22T08:20:00+08:00","distance_m":9000}',
            }
        },
    },
)
@blueprint.alt_response(200, schema=BatchView, description="What became of each line")
def push_events(partner_code: str) -> Response:
    """推送事件. Push a signed batch of rides, bin drops and recycling weighings."""
    request.max_content_length = FEED_BODY_BYTES_MAX
    instant = now()
    body = request.get_data(cache=False)
    with transaction() as session:
        partner = _signed_by(session, partner_code, body, instant)
    batch_id = request.headers.get("X-Tanpuhui-Batch", "")
    if not batch_id.isascii() or not batch_id.isprintable() or not 1 <= len(batch_id) <= 64 or " " in batch_id:
        raise BadBatchId
    if request.mimetype not in {"application/x-ndjson", "application/ndjson", "application/octet-stream"}:
        raise UnsupportedMediaType("Send application/x-ndjson")
    answer = run_transaction(lambda session: feed.take_in(session, partner, batch_id, body, now=instant))
    return Response(answer + b"\n", 200, content_type="application/json")


def _signed_by(session: Session, partner_code: str, body: bytes, instant: datetime) -> Partner:
    try:
        return signature.check(
            session.get(Partner, partner_code[:40]),
            settings().data_key,
            request.headers.get("X-Tanpuhui-Timestamp", ""),
            request.headers.get("X-Tanpuhui-Signature", ""),
            body,
            now=instant,
        )
    except BadSeal as error:  # the data key was changed without sealing the partners' keys anew
        raise signature.BadSignature from error


@blueprint.get("/me/partners")
@require(Permission.PARTNER_BIND)
@blueprint.response(200, StandingsView)
def list_standings() -> dict[str, Any]:
    """合作方与绑定状态. Every partner, and whether it is bound."""
    with transaction() as session:
        return {"items": bindings.standings(session, actor().id)}


@blueprint.put("/me/partners/<string:partner_code>")
@require(Permission.PARTNER_BIND)
@idempotent
@blueprint.arguments(BindingBody)
@blueprint.response(204)
def bind_partner(body: dict[str, Any], partner_code: str) -> None:
    """绑定合作方. Agree that a partner sends your events."""
    instant, person = now(), actor().id

    def work(session: Session) -> Binding:
        residents.require_home(session, person)
        return bindings.bind(session, person, partner_code, body["member_id"], now=instant)

    run_transaction(work)


@blueprint.delete("/me/partners/<string:partner_code>")
@require(Permission.PARTNER_BIND)
@blueprint.response(204)
def unbind_partner(partner_code: str) -> None:
    """解除绑定. Withdraw the consent; the partner's next event is refused."""
    instant, person = now(), actor().id
    run_transaction(lambda session: bindings.unbind(session, person, partner_code, now=instant))


@blueprint.get("/partners")
@require(Permission.PARTNER_MANAGE)
@blueprint.response(200, PartnersView)
def list_partners() -> dict[str, Any]:
    """All partners of the district."""
    with transaction() as session:
        return {"items": registry.list_all(session)}


@blueprint.post("/partners")
@require(Permission.PARTNER_MANAGE)
@blueprint.arguments(PartnerBody)
@blueprint.response(201, KeyView)
def create_partner(body: dict[str, Any]) -> dict[str, Any]:
    """新增合作方. Add a partner; its key is shown this once."""
    instant, person, key = now(), actor(), new_key()
    data_key = settings().data_key
    with transaction() as session:
        registry.create(session, **body, key=key, data_key=data_key, now=instant)
        audit.record(session, person, "partner.create", f"partner:{body['code']}", now=instant, kinds=body["kinds"])
    return {"slot": "a", "key": key}


@blueprint.post("/partners/<string:partner_code>/keys")
@require(Permission.PARTNER_MANAGE)
@blueprint.response(201, KeyView)
def add_partner_key(partner_code: str) -> dict[str, Any]:
    """新增密钥. A second live key, so that the partner can change over without a gap."""
    instant, person, key = now(), actor(), new_key()
    data_key = settings().data_key
    with transaction() as session:
        slot = registry.add_key(session, partner_code, key, data_key=data_key)
        audit.record(session, person, "partner.key.add", f"partner:{partner_code}", now=instant, slot=slot)
    return {"slot": slot, "key": key}


@blueprint.delete("/partners/<string:partner_code>/keys/<any(a,b):slot>")
@require(Permission.PARTNER_MANAGE)
@blueprint.response(204)
def end_partner_key(partner_code: str, slot: str) -> None:
    """作废密钥. End a key; it signs nothing from the next request on."""
    instant, person = now(), actor()
    with transaction() as session:
        registry.end_key(session, partner_code, slot)
        audit.record(session, person, "partner.key.end", f"partner:{partner_code}", now=instant, slot=slot)
