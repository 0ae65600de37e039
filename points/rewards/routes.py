"""The catalogue and redemption over HTTP."""

from typing import Any

import marshmallow as ma

from points.rewards import redemption
from points.rewards.models import Redemption, Reward
from server.access import Permission, actor, public, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.idempotency import idempotent_required
from server.limits import limiter, spend_limit
from server.paging import Page, PageQuery

blueprint = Blueprint("rewards", __name__, url_prefix="/api/v1", description="积分兑换 rewards: catalogue, redemption")


class RewardView(ma.Schema):
    """Something that can be had for points."""

    id = ma.fields.UUID(required=True)
    code = ma.fields.String(required=True)
    name_zh = ma.fields.String(required=True)
    name_en = ma.fields.String(required=True)
    cost_points = ma.fields.Integer(required=True)
    stock = ma.fields.Integer(required=True)


class RedemptionBody(ma.Schema):
    """Which reward."""

    reward_id = ma.fields.UUID(required=True)


class RedemptionView(ma.Schema):
    """One reward taken; its transfer has the same id."""

    id = ma.fields.UUID(required=True)
    reward_id = ma.fields.UUID(required=True)
    cost_points = ma.fields.Integer(required=True)
    redeemed_at = ma.fields.AwareDateTime(required=True)


RewardPage = page_schema(RewardView)
RedemptionPage = page_schema(RedemptionView)


@blueprint.get("/rewards")
@public
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, RewardPage)
def list_rewards(query: dict[str, Any]) -> Page[Reward]:
    """兑换目录. What can be had for points."""
    with transaction() as session:
        return redemption.catalogue(session, limit=query["limit"], cursor=query["cursor"])


@blueprint.post("/me/redemptions")
@require(Permission.REWARD_REDEEM)
@limiter.limit(spend_limit)
@idempotent_required
@blueprint.arguments(RedemptionBody)
@blueprint.response(201, RedemptionView)
def redeem(body: dict[str, Any]) -> Redemption:
    """兑换. Take a reward for points; an Idempotency-Key is required."""
    instant, person = now(), actor().id
    return run_transaction(lambda session: redemption.redeem(session, person, body["reward_id"], now=instant))


@blueprint.get("/me/redemptions")
@require(Permission.REWARD_REDEEM)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, RedemptionPage)
def list_redemptions(query: dict[str, Any]) -> Page[Redemption]:
    """兑换记录. Rewards taken, newest first."""
    with transaction() as session:
        return redemption.mine(session, actor().id, limit=query["limit"], cursor=query["cursor"])
