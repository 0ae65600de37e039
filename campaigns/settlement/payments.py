"""Paying for completed tasks out of a campaign's budget, each once: on a resident's claim, or at the settlement."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives.campaigns import campaign_for, task_for
from campaigns.drives.models import Campaign, CampaignState, CampaignTask, RewardMode
from campaigns.drives.moves import UNDER_WAY
from campaigns.drives.participation import participation_of
from campaigns.settlement.models import CampaignPayment, PaymentWay
from campaigns.tasks.progress import completed
from points.earning import bounds, pricing
from points.earning.bounds import BoundReached
from points.earning.models import BoundKind
from points.ledger import budgets
from points.ledger.budgets import BudgetExhausted, Payment
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict
from server.paging import Page, decode, page_of
from server.people.models import Resident


class PaidAtSettlement(Conflict):
    """This campaign pays all rewards together after its end; there is nothing to claim."""

    code, title_zh, title_en = (
        "paid-at-settlement",
        "本活动在结束后统一发放积分",
        "This campaign pays its rewards after its end",
    )


class ClaimsClosed(Conflict):
    """Rewards are claimed from the campaign's start until it is closed."""

    code, title_zh, title_en = "claims-closed", "活动未开始或已结算, 不能领取", "Rewards cannot be claimed now"


class TaskNotCompleted(Conflict):
    """The target has not been reached."""

    code, title_zh, title_en = "task-not-completed", "任务尚未完成", "The task has not been completed"


class NoReward(Conflict):
    """The task is done for its own sake."""

    code, title_zh, title_en = "no-reward", "该任务没有积分奖励", "This task has no reward"


class DriveLimitReached(Conflict):
    """The campaign has paid as much as a campaign may pay on one day; it goes on tomorrow."""

    code, title_zh, title_en = (
        "drive-limit-reached",
        "本活动今日发放的积分已达上限, 请明日再领",
        "This campaign has paid as much as it may today; claim tomorrow",
    )


class RewardPaid(Conflict):
    """A resident is paid once for a task."""

    code, title_zh, title_en = "reward-paid", "该任务奖励已发放", "This reward has been paid"
    constraints = ("campaign_payment_pkey",)


@dataclass(frozen=True, slots=True)
class PaymentSeen:
    """A payment as staff read it: the person by nickname, the task by title."""

    resident_id: UUID
    nickname: str | None
    task_id: UUID
    task_title: str
    points: int
    way: PaymentWay
    paid_at: datetime
    transfer_id: UUID


class Reward(msgspec.Struct, frozen=True):
    """What one resident is to get for one task."""

    resident_id: UUID
    task_id: UUID
    transfer_id: UUID
    points: int


def claim(session: Session, actor: Actor, campaign_id: UUID, task_id: UUID, *, now: datetime) -> CampaignPayment:
    """Pay the actor for a completed task at once, as long as the budget lasts: first come, first served.

    Raises NotFound, NotJoined, PaidAtSettlement, ClaimsClosed, NoReward, TaskNotCompleted, BudgetExhausted,
    DriveLimitReached, and RewardPaid through the primary key.
    """
    campaign = campaign_for(session, actor, campaign_id)
    task = task_for(session, actor, campaign_id, task_id)
    participation_of(session, actor, campaign_id)
    if campaign.reward_mode is not RewardMode.ON_COMPLETION:
        raise PaidAtSettlement
    if campaign.state not in (*UNDER_WAY, CampaignState.SETTLING):
        raise ClaimsClosed
    if not task.reward_points:
        raise NoReward
    if not completed(session, actor.id, task):
        raise TaskNotCompleted
    paid = CampaignPayment(
        resident_id=actor.id,
        campaign_id=campaign_id,
        task_id=task_id,
        transfer_id=new_id(),
        points=task.reward_points,
        way=PaymentWay.CLAIM,
        paid_at=now,
    )
    # The key comes before the budget: a second claim waits here for the first, and not everybody behind it.
    session.add(paid)
    session.flush()
    _pay(session, campaign, [task], [Reward(paid.resident_id, task_id, paid.transfer_id, paid.points)], now=now)
    return paid


_RECORD = sa.text("""
INSERT INTO campaign_payment (resident_id, campaign_id, task_id, transfer_id, points, way, paid_at)
SELECT resident_id, :campaign_id, task_id, transfer_id, points, 'settlement', :now
FROM json_to_recordset(cast(:rows AS json)) AS r (resident_id uuid, task_id uuid, transfer_id uuid, points int)
ORDER BY resident_id, task_id
ON CONFLICT (resident_id, campaign_id, task_id) DO NOTHING
RETURNING transfer_id
""").bindparams(sa.bindparam("campaign_id", type_=sa.Uuid()), sa.bindparam("now", type_=sa.DateTime(timezone=True)))


def settle(
    session: Session, campaign: Campaign, tasks: Sequence[CampaignTask], rewards: Sequence[Reward], *, now: datetime
) -> list[Reward]:
    """Pay those of the rewards that have not been paid yet, in a fixed number of statements; which they were.

    Raises BudgetExhausted, DriveLimitReached; nothing is then paid, because the caller's transaction ends.
    """
    if not rewards:
        return []
    keys: dict[str, Any] = {"rows": msgspec.json.encode(rows_of(rewards)).decode(), "campaign_id": campaign.id}
    new = set(session.scalars(_RECORD, {**keys, "now": now}))
    unpaid = [reward for reward in rewards if reward.transfer_id in new]
    _pay(session, campaign, tasks, unpaid, now=now)
    return unpaid


def rows_of(rewards: Sequence[Reward]) -> list[Reward]:
    """The rewards in the order in which every transaction meets their residents."""
    return sorted(rewards, key=lambda reward: (reward.resident_id, reward.task_id))


def list_payments(
    session: Session, actor: Actor, campaign_id: UUID, *, limit: int, cursor: str | None
) -> Page[PaymentSeen]:
    """Who was paid for what in a campaign in the actor's scope, by resident. Raises NotFound, BadCursor."""
    campaign_for(session, actor, campaign_id)
    query = (
        sa.select(
            CampaignPayment.resident_id,
            Resident.nickname,
            CampaignPayment.task_id,
            CampaignTask.title,
            CampaignPayment.points,
            CampaignPayment.way,
            CampaignPayment.paid_at,
            CampaignPayment.transfer_id,
        )
        .join(
            CampaignTask,
            sa.and_(CampaignTask.campaign_id == campaign_id, CampaignTask.id == CampaignPayment.task_id),
        )
        .join(Resident, Resident.resident_id == CampaignPayment.resident_id, isouter=True)
        .where(CampaignPayment.campaign_id == campaign_id)
        .order_by(CampaignPayment.resident_id, CampaignPayment.task_id)
        .limit(limit + 1)
    )
    if cursor is not None:
        after = [sa.literal(each, sa.Uuid()) for each in decode(cursor, tuple[UUID, UUID])]
        query = query.where(sa.tuple_(CampaignPayment.resident_id, CampaignPayment.task_id) > sa.tuple_(*after))
    rows = [PaymentSeen(*row) for row in session.execute(query)]
    return page_of(rows, limit, lambda row: (row.resident_id, row.task_id))


def own_payments(session: Session, actor: Actor, campaign_id: UUID) -> Sequence[CampaignPayment]:
    """What the actor was paid in a campaign, at most one payment for each of its tasks. Raises NotFound."""
    campaign_for(session, actor, campaign_id)
    return session.scalars(
        sa.select(CampaignPayment)
        .where(CampaignPayment.resident_id == actor.id, CampaignPayment.campaign_id == campaign_id)
        .order_by(CampaignPayment.paid_at, CampaignPayment.task_id)
    ).all()


def _pay(
    session: Session, campaign: Campaign, tasks: Sequence[CampaignTask], rewards: Sequence[Reward], *, now: datetime
) -> None:
    if not rewards:
        return
    if campaign.account_id is None:
        raise BudgetExhausted
    reasons = {task.id: f"{campaign.title} · {task.title}" for task in tasks}
    budgets.pay(
        session,
        [Payment(each.resident_id, each.transfer_id, each.points, reasons[each.task_id]) for each in rewards],
        account_id=campaign.account_id,
        expires_on=pricing.points_end_on(session, business_day(now)),
        now=now,
    )
    _take_from_day(session, campaign.id, sum(each.points for each in rewards), now=now)


def _take_from_day(session: Session, campaign_id: UUID, points: int, *, now: datetime) -> None:
    """Hold what one campaign pays on a day below the district's bound, whatever its budget holds.

    After the payments, because everybody who is paid by this campaign waits for this row. Raises DriveLimitReached.
    """
    tariff = pricing.current(session).on(business_day(now))
    limit_points = None if tariff is None else tariff.bounds.get(BoundKind.DRIVE.value)
    if limit_points is None:
        return
    try:
        bounds.take(
            session, BoundKind.DRIVE, str(campaign_id), points, day=business_day(now), limit_points=limit_points
        )
    except BoundReached as reached:
        raise DriveLimitReached(**reached.extra) from reached
