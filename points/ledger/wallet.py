"""Reading a resident's points: the balance, what ends when, and the statement."""

from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.ledger.models import Transfer
from server import paging
from server.clock import business_day


@dataclass(frozen=True, slots=True)
class LotLeft:
    """Points that end after one day."""

    expires_on: date
    points: int


@dataclass(frozen=True, slots=True)
class Wallet:
    """What a resident has. `balance_points` = the lots − the debt; it is below zero while a debt stands."""

    balance_points: int
    debt_points: int
    lots: list[LotLeft]


# One statement: two would be two round trips, and this is the most frequent read of all.
_WALLET = sa.text("""
SELECT expires_on, remaining_points FROM lot
WHERE resident_id = :resident_id AND remaining_points > 0 AND expires_on >= :today
UNION ALL
SELECT NULL, points FROM debt WHERE resident_id = :resident_id AND points > 0
ORDER BY 1
""")


def wallet_of(session: Session, resident_id: UUID, *, now: datetime) -> Wallet:
    """The resident's balance and every lot of it, the soonest to end first."""
    rows = session.execute(_WALLET, {"resident_id": resident_id, "today": business_day(now)}).all()
    debt = sum(points for expires_on, points in rows if expires_on is None)
    lots = [LotLeft(expires_on, points) for expires_on, points in rows if expires_on is not None]
    return Wallet(balance_points=sum(lot.points for lot in lots) - debt, debt_points=debt, lots=lots)


def statement(session: Session, resident_id: UUID, *, limit: int, cursor: str | None) -> paging.Page[Transfer]:
    """The resident's transfers, newest first; ids are UUIDv7, so their order is that of time."""
    query = sa.select(Transfer).where(Transfer.resident_id == resident_id).order_by(Transfer.id.desc()).limit(limit + 1)
    if cursor:
        query = query.where(Transfer.id < paging.decode(cursor, tuple[UUID])[0])
    rows = session.scalars(query).all()
    return paging.page_of(rows, limit, lambda row: (row.id,))
