"""Budgets: system accounts that hold points and can never be overdrawn, and paying many residents out of one at once.

The balance of a budget is the one number that many payments share, so its row is written last and for the shortest time
that there is. What it holds is proved from its journal: allotments - payments + reversals (`flask ledger verify`).
"""

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.ledger.models import BudgetAllotment, SystemAccount
from server.errors import Conflict

PAYMENTS_MAX = 20_000
ALLOTMENT_POINTS_MAX = 1_000_000_000


class BudgetExhausted(Conflict):
    """The budget does not hold enough points for this; nothing was paid."""

    code, title_zh, title_en = "budget-exhausted", "活动积分预算不足", "The budget does not hold enough points"
    constraints = ("system_account_budget_points_check",)


class AllottedAlready(Conflict):
    """An allotment is made once."""

    code, title_zh, title_en = "allotted-already", "该笔预算已经拨付", "This allotment has been made already"
    constraints = ("budget_allotment_pkey",)


class Payment(msgspec.Struct, frozen=True):
    """What one resident gets, and why: `points` > 0; `transfer_id` is new, and the same again pays nothing."""

    resident_id: UUID
    transfer_id: UUID
    points: int
    reason: str


def open_account(session: Session, code: str, name_zh: str) -> int:
    """Open an empty budget; its account's id. `code` is at most 60 characters and unique, `name_zh` at most 60."""
    account_id = session.scalar(
        sa.insert(SystemAccount)
        .values(id=sa.text("nextval('budget_account_id_seq')"), code=code, name_zh=name_zh, budget_points=0)
        .returning(SystemAccount.id)
    )
    return int(account_id or 0)


def allot(session: Session, account_id: int, points: int, *, allotment_id: UUID, now: datetime) -> int:
    """Put `points` (> 0) into a budget; what it holds afterwards.

    `allotment_id` names the decision behind it: the same again violates the journal's key (AllottedAlready).
    """
    if not 0 < points <= ALLOTMENT_POINTS_MAX:
        raise ValueError("an allotment is of one to a thousand million points")
    session.execute(
        sa.insert(BudgetAllotment).values(id=allotment_id, account_id=account_id, points=points, allotted_at=now)
    )
    held = session.scalar(
        sa.update(SystemAccount)
        .where(SystemAccount.id == account_id, SystemAccount.budget_points.is_not(None))
        .values(budget_points=SystemAccount.budget_points + points)
        .returning(SystemAccount.budget_points)
    )
    if held is None:
        raise ValueError(f"account {account_id} is no budget")
    return int(held)


def held_by(session: Session, account_id: int) -> int:
    """The points that a budget holds now; 0 for an account that is none."""
    return session.scalar(sa.select(SystemAccount.budget_points).where(SystemAccount.id == account_id)) or 0


# Journal, debts and lots in one statement, in the award's order and sorted by resident, so that a payment and an award
# to the same people meet in one order. A transfer that stands already falls out of everything after it.
_PAY = sa.text("""
WITH payment AS MATERIALIZED (
    SELECT * FROM json_to_recordset(cast(:rows AS json))
        AS p (resident_id uuid, transfer_id uuid, points bigint, reason text)
), written AS (
    INSERT INTO transfer (resident_id, id, account_id, kind, points, expires_on, reason, occurred_at, recorded_at)
    SELECT resident_id, transfer_id, :account_id, 'grant', points, :expires_on, reason, :now, :now
    FROM payment ORDER BY resident_id, transfer_id
    ON CONFLICT (resident_id, id) DO NOTHING
    RETURNING resident_id, id, points
), earned AS (
    SELECT resident_id, sum(points) AS points FROM written GROUP BY 1
), repaid AS (
    UPDATE debt SET points = debt.points - least(debt.points, earned.points),
                    last_payment_points = least(debt.points, earned.points)
    FROM earned WHERE debt.resident_id = earned.resident_id AND debt.points > 0
    RETURNING debt.resident_id, debt.last_payment_points
), lots AS (
    INSERT INTO lot AS kept (resident_id, expires_on, remaining_points)
    SELECT resident_id, :expires_on, points - coalesce(last_payment_points, 0)
    FROM earned LEFT JOIN repaid USING (resident_id) ORDER BY 1
    ON CONFLICT (resident_id, expires_on) DO UPDATE
        SET remaining_points = kept.remaining_points + EXCLUDED.remaining_points
)
SELECT id, points FROM written
""").bindparams(sa.bindparam("expires_on", type_=sa.Date()), sa.bindparam("now", type_=sa.DateTime(timezone=True)))


def pay(
    session: Session, payments: Sequence[Payment], *, account_id: int, expires_on: date, now: datetime
) -> list[UUID]:
    """Pay residents out of a budget in two statements, for one payment or PAYMENTS_MAX; the transfers written.

    A payment whose transfer stands already is left out of the answer and costs the budget nothing. Raises
    BudgetExhausted when the budget does not hold the sum; nothing is then paid, because the caller's transaction ends.
    """
    if not payments:
        return []
    if len(payments) > PAYMENTS_MAX:
        raise ValueError(f"at most {PAYMENTS_MAX} payments at once")
    if min(payment.points for payment in payments) <= 0:
        raise ValueError("a payment is of at least one point")
    keys = {"rows": msgspec.json.encode(payments).decode(), "account_id": account_id, "expires_on": expires_on}
    written = session.execute(_PAY, {**keys, "now": now}).all()
    total = sum(int(points) for _, points in written)
    taken = session.scalar(
        sa.update(SystemAccount)
        .where(SystemAccount.id == account_id, SystemAccount.budget_points >= total)
        .values(budget_points=SystemAccount.budget_points - total)
        .returning(SystemAccount.id)
    )
    if taken is None:
        raise BudgetExhausted
    return [transfer_id for transfer_id, _ in written]
