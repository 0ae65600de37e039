"""Moving points other than by award: spend, grant, reverse, expire. Guarded writes, never read-then-write."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.ledger.models import EXPIRY, Debt, Lot, SystemAccount, Transfer, TransferKind
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, DomainError, NotFound

# Points given back into a lot that has ended meanwhile would be lost the same night; they live this much longer.
RETURN_GRACE = timedelta(days=30)
EXPIRY_BATCH = 1000


class InsufficientPoints(DomainError):
    """The balance does not cover the price."""

    code, status, title_zh, title_en = "insufficient-points", 409, "积分不足", "Not enough points"


class AlreadyReversed(Conflict):
    """A transfer can be reversed once."""

    code, title_zh, title_en = "already-reversed", "该笔记录已经撤销", "This transfer has been reversed already"
    constraints = ("transfer_reverses_key",)


class NotReversible(Conflict):
    """Reversals and expiries stand."""

    code, title_zh, title_en = "not-reversible", "该类记录不能撤销", "This kind of transfer cannot be reversed"


@dataclass(frozen=True, slots=True)
class Draw:
    """What was taken from one lot."""

    expires_on: date
    points: int


# Takes up to :points from the lots that live on :today, oldest first, and from :own before all others even when it has
# ended. The lots are locked before they are added up, so two spends of a whole balance cannot both see it. Joined to
# nothing but one resident: one shard under Citus.
_DRAW = sa.text("""
WITH locked AS MATERIALIZED (
    SELECT expires_on, remaining_points FROM lot
    WHERE resident_id = :resident_id AND remaining_points > 0 AND (expires_on >= :today OR expires_on = :own)
    ORDER BY expires_on FOR UPDATE
), running AS (
    SELECT expires_on, remaining_points,
           sum(remaining_points) OVER (ORDER BY expires_on IS DISTINCT FROM :own, expires_on) AS total
    FROM locked
), wanted AS (
    SELECT expires_on, least(remaining_points, :points - (total - remaining_points)) AS points
    FROM running WHERE total - remaining_points < :points
)
UPDATE lot SET remaining_points = lot.remaining_points - wanted.points FROM wanted
WHERE lot.resident_id = :resident_id AND lot.expires_on = wanted.expires_on AND lot.remaining_points >= wanted.points
RETURNING lot.expires_on, wanted.points
""")


def spend(
    session: Session, resident_id: UUID, transfer_id: UUID, points: int, *, account_id: int, reason: str, now: datetime
) -> None:
    """Take `points` (> 0) from the resident's lots, oldest first, to a system account.

    A debt is settled first: award and reversal can cross in such a way that both a debt and a lot stand for a moment.
    Raises InsufficientPoints; nothing is then taken, because the caller's transaction ends.
    """
    if points <= 0:
        raise ValueError("a spend takes at least one point")
    _settle_debt(session, resident_id, now=now)
    draws = _draw(session, resident_id, points, now=now)
    if sum(draw.points for draw in draws) != points:
        raise InsufficientPoints
    _write(session, resident_id, transfer_id, -points, TransferKind.SPEND, account_id, draws, reason=reason, now=now)


def grant(
    session: Session,
    resident_id: UUID,
    points: int,
    *,
    account_id: int,
    expires_on: date,
    reason: str,
    now: datetime,
) -> UUID:
    """Give `points` (> 0) from a system account into the lot that ends on `expires_on`; the transfer's id."""
    transfer_id = new_id()
    kept = _pay_debt(session, resident_id, points)
    _give(session, resident_id, [Draw(expires_on, kept)])
    _write(
        session,
        resident_id,
        transfer_id,
        points,
        TransferKind.GRANT,
        account_id,
        [],
        expires_on=expires_on,
        reason=reason,
        now=now,
    )
    return transfer_id


def reverse(session: Session, resident_id: UUID, transfer_id: UUID, *, reason: str, now: datetime) -> Transfer:
    """Undo a transfer, once.

    Points of an award come back out of the lots, its own first; what is already spent becomes a debt. Those of a grant
    out of a budget are the budget's again. Points of a spend go back into the lots that they came from. Raises
    NotFound, NotReversible; a second reversal violates `transfer_reverses_key`, which the edge answers as
    AlreadyReversed.
    """
    original = session.get(Transfer, (resident_id, transfer_id))
    if original is None:
        raise NotFound
    if original.kind in {TransferKind.REVERSAL, TransferKind.EXPIRY}:
        raise NotReversible
    # The journal's row comes first: its unique key makes a second reversal wait here and fail, before any lot moves.
    reversal = Transfer(
        resident_id=resident_id,
        id=new_id(),
        account_id=original.account_id,
        kind=TransferKind.REVERSAL,
        points=-original.points,
        reverses_id=original.id,
        reason=reason,
        occurred_at=now,
        recorded_at=now,
    )
    session.add(reversal)
    session.flush()
    if original.points > 0:
        _take_back(session, original, reversal.id, now=now)
    else:
        _return(session, original, now=now)
    if original.kind is TransferKind.GRANT:
        _give_back_to_budget(session, original)
    return reversal


def expire(session: Session, *, now: datetime) -> int:
    """Empty up to EXPIRY_BATCH lots that ended before today; the number emptied. Run it until it answers 0.

    Locked rows are passed over: whoever holds one is spending from a lot that no longer counts, and will not find it.
    """
    today = business_day(now)
    ended = session.execute(
        sa.select(Lot.resident_id, Lot.expires_on, Lot.remaining_points)
        .where(Lot.remaining_points > 0, Lot.expires_on < today)
        .order_by(Lot.resident_id, Lot.expires_on)
        .limit(EXPIRY_BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    for resident_id, expires_on, remaining in ended:
        session.execute(
            sa.update(Lot)
            .where(Lot.resident_id == resident_id, Lot.expires_on == expires_on, Lot.remaining_points >= remaining)
            .values(remaining_points=Lot.remaining_points - remaining)
        )
        draw = Draw(expires_on, remaining)
        _write(
            session, resident_id, new_id(), -remaining, TransferKind.EXPIRY, EXPIRY, [draw], reason="expired", now=now
        )
    return len(ended)


def _draw(
    session: Session, resident_id: UUID, points: int, *, now: datetime, own_lot: date | None = None
) -> list[Draw]:
    keys = {"resident_id": resident_id, "points": points, "today": business_day(now), "own": own_lot}
    return [Draw(expires_on, int(taken)) for expires_on, taken in session.execute(_DRAW, keys)]


def _give(session: Session, resident_id: UUID, draws: list[Draw]) -> None:
    for draw in draws:
        if draw.points == 0:
            continue
        session.execute(
            sa.text(
                "INSERT INTO lot AS kept (resident_id, expires_on, remaining_points) "
                "VALUES (:resident_id, :expires_on, :points) ON CONFLICT (resident_id, expires_on) "
                "DO UPDATE SET remaining_points = kept.remaining_points + :points"
            ),
            {"resident_id": resident_id, "expires_on": draw.expires_on, "points": draw.points},
        )


def _pay_debt(session: Session, resident_id: UUID, points: int) -> int:
    """Pay what is owed out of `points`; what is left of them."""
    payment = sa.func.least(Debt.points, points)
    paid = session.scalar(
        sa.update(Debt)
        .where(Debt.resident_id == resident_id, Debt.points > 0)
        .values(points=Debt.points - payment, last_payment_points=payment)
        .returning(Debt.last_payment_points)
    )
    return points - (paid or 0)


def _owe(session: Session, resident_id: UUID, points: int) -> None:
    session.execute(
        sa.text(
            "INSERT INTO debt AS kept (resident_id, points) VALUES (:resident_id, :points) "
            "ON CONFLICT (resident_id) DO UPDATE SET points = kept.points + :points"
        ),
        {"resident_id": resident_id, "points": points},
    )


def _settle_debt(session: Session, resident_id: UUID, *, now: datetime) -> None:
    owed = session.scalar(
        sa.select(Debt.points).where(Debt.resident_id == resident_id, Debt.points > 0).with_for_update()
    )
    if owed:
        taken = sum(draw.points for draw in _draw(session, resident_id, owed, now=now))
        _pay_debt(session, resident_id, taken)


def _take_back(session: Session, original: Transfer, reversal_id: UUID, *, now: datetime) -> None:
    draws = _draw(session, original.resident_id, original.points, now=now, own_lot=original.expires_on)
    short = original.points - sum(draw.points for draw in draws)
    if short:
        _owe(session, original.resident_id, short)
    _record_draws(session, original.resident_id, reversal_id, draws)


def _give_back_to_budget(session: Session, original: Transfer) -> None:
    # After the lots, as `budgets.pay` does, so that the two cannot wait for each other. Other accounts hold nothing.
    session.execute(
        sa.update(SystemAccount)
        .where(SystemAccount.id == original.account_id, SystemAccount.budget_points.is_not(None))
        .values(budget_points=SystemAccount.budget_points + original.points)
    )


def _return(session: Session, original: Transfer, *, now: datetime) -> None:
    today = business_day(now)
    rows = session.execute(
        sa.text("SELECT expires_on, points FROM lot_draw WHERE resident_id = :r AND transfer_id = :t ORDER BY 1"),
        {"r": original.resident_id, "t": original.id},
    )
    given = [Draw(day if day >= today else today + RETURN_GRACE, points) for day, points in rows]
    left = _pay_debt(session, original.resident_id, sum(draw.points for draw in given))
    # The debt takes from the lots that end last, so that the resident keeps what would be lost soonest to spend.
    kept = []
    for draw in sorted(given, key=lambda each: each.expires_on):
        part = min(draw.points, left)
        left -= part
        kept.append(Draw(draw.expires_on, part))
    _give(session, original.resident_id, kept)


def _record_draws(session: Session, resident_id: UUID, transfer_id: UUID, draws: list[Draw]) -> None:
    for draw in draws:
        session.execute(
            sa.text("INSERT INTO lot_draw (resident_id, transfer_id, expires_on, points) VALUES (:r, :t, :e, :p)"),
            {"r": resident_id, "t": transfer_id, "e": draw.expires_on, "p": draw.points},
        )


def _write(  # noqa: PLR0913 -- the columns of a transfer, by keyword
    session: Session,
    resident_id: UUID,
    transfer_id: UUID,
    points: int,
    kind: TransferKind,
    account_id: int,
    draws: list[Draw],
    *,
    reason: str,
    now: datetime,
    expires_on: date | None = None,
) -> None:
    session.add(
        Transfer(
            resident_id=resident_id,
            id=transfer_id,
            account_id=account_id,
            kind=kind,
            points=points,
            expires_on=expires_on,
            reason=reason,
            occurred_at=now,
            recorded_at=now,
        )
    )
    session.flush()
    _record_draws(session, resident_id, transfer_id, draws)
