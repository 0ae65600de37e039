"""Held bus and metro tracks whose ride record came later: the ride is paid, so the track is not."""

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import releasing
from points.earning.claims import Reason
from points.earning.models import Activity, Outcome
from points.travel.tracks import SOURCE, trip_paid

SETTLED_AT_ONCE_MAX = 500


def settle(session: Session) -> int:
    """Refuse as overlapping each held track in whose time another trip was paid, a bounded number; how many.

    Both records stay, and the resident reads the reason. A person need not look at them.
    """
    held = Activity
    found = session.execute(
        sa.select(held.resident_id, held.id)
        .where(
            held.outcome == Outcome.HELD,
            held.source == SOURCE,
            held.reason == Reason.RIDE_UNCONFIRMED.value,
            trip_paid(held.resident_id, held.started_at, held.ended_at),
        )
        .order_by(held.resident_id, held.id)
        .limit(SETTLED_AT_ONCE_MAX)
        .with_for_update(of=held, skip_locked=True)  # one that a person decides at this moment is theirs
    ).all()
    for resident_id, activity_id in found:
        releasing.refuse(session, resident_id, activity_id, reason=Reason.OVERLAP)
    return len(found)
