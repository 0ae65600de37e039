"""The resident's wallet and statement over HTTP, and the district's correction of a transfer."""

from typing import Any
from uuid import UUID

import marshmallow as ma

from points.ledger import entries, wallet
from points.ledger.models import Transfer, TransferKind
from server import audit
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.errors import NotFound
from server.idempotency import idempotent_required
from server.limits import limiter, spend_limit
from server.paging import Page, PageQuery
from server.people.models import Resident

blueprint = Blueprint(
    "ledger", __name__, url_prefix="/api/v1", description="积分账户 points: balance, statement, corrections"
)


class LotView(ma.Schema):
    """Points that end after one day."""

    expires_on = ma.fields.Date(required=True)
    points = ma.fields.Integer(required=True)


class WalletView(ma.Schema):
    """The balance, the debt after a reversal, and every lot, the soonest to end first."""

    balance_points = ma.fields.Integer(required=True)
    debt_points = ma.fields.Integer(required=True)
    lots = ma.fields.List(ma.fields.Nested(LotView), required=True)


class TransferView(ma.Schema):
    """One movement of points, from the resident's side."""

    id = ma.fields.UUID(required=True)
    kind = ma.fields.Enum(TransferKind, by_value=True, required=True)
    points = ma.fields.Integer(required=True, metadata={"description": "Positive: received; negative: given"})
    expires_on = ma.fields.Date(required=True, allow_none=True)
    reverses_id = ma.fields.UUID(required=True, allow_none=True)
    reason = ma.fields.String(required=True, allow_none=True)
    occurred_at = ma.fields.AwareDateTime(required=True)
    recorded_at = ma.fields.AwareDateTime(required=True)


class ReversalBody(ma.Schema):
    """Why a transfer is undone; the resident reads it."""

    reason = ma.fields.String(required=True, validate=ma.validate.Length(2, 200))


TransferPage = page_schema(TransferView)


@blueprint.get("/me/wallet")
@require(Permission.WALLET_OWN)
@blueprint.response(200, WalletView)
def read_wallet() -> wallet.Wallet:
    """余额、到期批次与欠分. The balance and what ends when."""
    with transaction() as session:
        return wallet.wallet_of(session, actor().id, now=now())


@blueprint.get("/me/transfers")
@require(Permission.WALLET_OWN)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, TransferPage)
def list_transfers(query: dict[str, Any]) -> Page[Transfer]:
    """积分明细. Every movement, newest first."""
    with transaction() as session:
        return wallet.statement(session, actor().id, limit=query["limit"], cursor=query["cursor"])


@blueprint.post("/residents/<uuid:resident_id>/transfers/<uuid:transfer_id>/reversal")
@require(Permission.LEDGER_CORRECT)
@limiter.limit(spend_limit)
@idempotent_required
@blueprint.arguments(ReversalBody)
@blueprint.response(201, TransferView)
def reverse_transfer(body: dict[str, Any], resident_id: UUID, transfer_id: UUID) -> Transfer:
    """更正. Undo a spend or a grant, once. An award is undone by revoking its activity, which also leaves counts."""
    person, instant = actor(), now()

    def work(session: Any) -> Transfer:
        resident = session.get(Resident, resident_id)
        if resident is None or not person.covers(resident.community_code or ""):
            raise NotFound
        original = session.get(Transfer, (resident_id, transfer_id))
        if original is not None and original.kind is TransferKind.AWARD:
            raise entries.NotReversible("Revoke the activity instead")
        made = entries.reverse(session, resident_id, transfer_id, reason=body["reason"], now=instant)
        audit.record(session, person, "transfer.reverse", f"transfer:{transfer_id}", now=instant, reason=body["reason"])
        return made

    return run_transaction(work)
