"""One payment per act of a device: its own count of its acts, consumed by key.

An event's id is the partner's word, and a leaked key or a repeated upload gives an old act a new id. A bin's or scale's
own count goes up with every act, so each (partner, device, sequence) is paid at most once, whatever else is said of it.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.partners.events import BinDrop, Weighing

KEPT_FOR = timedelta(days=100)  # longer than any rule's closing day for late events
FORGET_BATCH = 10_000


# One act: its device, and the device's own count of it.
Act = tuple[str, int]


# Sorted, so that two batches meet the same acts in the same order; ahead of all that an award locks, so that whoever
# waits here holds nothing that the other one needs.
_USE = sa.text("""
INSERT INTO device_sequence (partner_code, device, sequence, taken_at)
SELECT cast(:partner AS text), device, sequence, :now
FROM json_to_recordset(cast(:acts AS json)) AS asked (device text, sequence bigint)
WHERE NOT EXISTS (
    SELECT FROM device_floor
    WHERE device_floor.partner_code = cast(:partner AS text) AND device_floor.device = asked.device
      AND asked.sequence <= device_floor.sequence)
ORDER BY device, sequence
ON CONFLICT DO NOTHING
RETURNING device, sequence
""")

_FORGET = sa.text("""
WITH forgotten AS (
    DELETE FROM device_sequence WHERE (partner_code, device, sequence) IN (
        SELECT partner_code, device, sequence FROM device_sequence WHERE taken_at < :before LIMIT :most)
    RETURNING partner_code, device, sequence
), floors AS (
    INSERT INTO device_floor AS kept (partner_code, device, sequence)
    SELECT partner_code, device, max(sequence) FROM forgotten GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (partner_code, device) DO UPDATE SET sequence = greatest(kept.sequence, EXCLUDED.sequence)
)
SELECT count(*) FROM forgotten
""")


def act_of(event: BinDrop | Weighing) -> Act | None:
    """The act that an event names, if its device counts."""
    return None if event.device is None or event.sequence is None else (event.device, event.sequence)


def used_before(session: Session, partner_code: str, acts: Mapping[int, Act], *, now: datetime) -> list[int]:
    """Use the acts up; the numbers of those that were used before, by an earlier batch or earlier in this one.

    An act that another transaction is using at this moment is waited for.
    """
    if not acts:
        return []
    first: dict[Act, int] = {}
    for n, act in acts.items():
        first.setdefault(act, n)
    rows = [{"device": device, "sequence": sequence} for device, sequence in first]
    keys = {"partner": partner_code, "acts": msgspec.json.encode(rows).decode(), "now": now}
    fresh = {first[device, sequence] for device, sequence in session.execute(_USE, keys)}
    return [n for n in acts if n not in fresh]


def forget_old(session: Session, *, now: datetime) -> int:
    """Delete up to FORGET_BATCH acts past their keeping, and close everything that their devices did before; how many.

    What is closed is used for good, so that an old act does not become new when its row goes.
    """
    return session.scalar(_FORGET, {"before": now - KEPT_FOR, "most": FORGET_BATCH}) or 0
