"""The address of a call at home: sealed, opened for the resident and the collector on the way, forgotten in time."""

import json
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.waste.orders.models import RecyclingEdition, RecyclingOrder
from server.crypto import seal, unseal

_PURPOSE = "recycling-address"
FORGOTTEN_AT_ONCE_MAX = 1000


@dataclass(frozen=True, slots=True)
class Doorstep:
    """Where to ring, and what helps to find it."""

    address: str
    note: str


def sealed(data_key: bytes, order: RecyclingOrder, doorstep: Doorstep) -> bytes:
    """The address sealed for this one order."""
    content = json.dumps([doorstep.address, doorstep.note], ensure_ascii=False).encode()
    return seal(data_key, _PURPOSE, str(order.id), content)


def opened(data_key: bytes, order: RecyclingOrder) -> Doorstep | None:
    """The address of an order, None when there is none or it is forgotten. Who may know it the caller decides."""
    if order.address_sealed is None:
        return None
    address, note = json.loads(unseal(data_key, _PURPOSE, str(order.id), order.address_sealed))
    return Doorstep(address, note)


def forget(session: Session, *, now: datetime) -> int:
    """Drop addresses whose days after the end are over, at most FORGOTTEN_AT_ONCE_MAX; how many."""
    due = (
        sa.select(RecyclingOrder.resident_id, RecyclingOrder.id)
        .join(RecyclingEdition, RecyclingEdition.id == RecyclingOrder.edition_id)
        .where(
            RecyclingOrder.address_sealed.is_not(None),
            RecyclingOrder.ended_at + RecyclingEdition.address_days * sa.text("interval '1 day'") <= now,
        )
        .order_by(RecyclingOrder.ended_at)
        .limit(FORGOTTEN_AT_ONCE_MAX)
    )
    gone = session.execute(
        sa.update(RecyclingOrder)
        .where(sa.tuple_(RecyclingOrder.resident_id, RecyclingOrder.id).in_(due))
        .values(address_sealed=None)
        .execution_options(synchronize_session=False)
    )
    return int(gone.rowcount)  # type: ignore[attr-defined]
