"""Taking a reward: stock and points move together or not at all."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.ledger import entries
from points.ledger.models import REDEMPTION
from points.rewards.models import Redemption, Reward
from server import paging
from server.database import new_id
from server.errors import Conflict, NotFound


class OutOfStock(Conflict):
    """None is left."""

    code, title_zh, title_en = "out-of-stock", "已兑完", "None is left"
    constraints = ("reward_stock_check",)


def catalogue(session: Session, *, limit: int, cursor: str | None) -> paging.Page[Reward]:
    """What can be had, by code."""
    query = sa.select(Reward).where(Reward.enabled).order_by(Reward.code).limit(limit + 1)
    if cursor:
        query = query.where(Reward.code > paging.decode(cursor, tuple[str])[0])
    return paging.page_of(session.scalars(query).all(), limit, lambda row: (row.code,))


def redeem(session: Session, resident_id: UUID, reward_id: UUID, *, now: datetime) -> Redemption:
    """Take one reward. The points go first, for the resident's own rows are contended by nobody else.

    Raises NotFound, InsufficientPoints, OutOfStock.
    """
    reward = session.get(Reward, reward_id)
    if reward is None or not reward.enabled:
        raise NotFound
    made = Redemption(
        resident_id=resident_id, id=new_id(), reward_id=reward_id, cost_points=reward.cost_points, redeemed_at=now
    )
    entries.spend(
        session,
        resident_id,
        made.id,
        reward.cost_points,
        account_id=REDEMPTION,
        reason=f"redeem:{reward.code}",
        now=now,
    )
    left = session.scalar(
        sa.update(Reward)
        .where(Reward.id == reward_id, Reward.stock >= 1, Reward.enabled)
        .values(stock=Reward.stock - 1)
        .returning(Reward.stock)
    )
    if left is None:
        raise OutOfStock
    session.add(made)
    session.flush()
    return made


def mine(session: Session, resident_id: UUID, *, limit: int, cursor: str | None) -> paging.Page[Redemption]:
    """The resident's redemptions, newest first."""
    query = sa.select(Redemption).where(Redemption.resident_id == resident_id).order_by(Redemption.id.desc())
    if cursor:
        query = query.where(Redemption.id < paging.decode(cursor, tuple[UUID])[0])
    return paging.page_of(session.scalars(query.limit(limit + 1)).all(), limit, lambda row: (row.id,))
