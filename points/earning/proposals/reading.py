"""Reading recorded claims for a replay: page by page in the order of their recording, and of very many a sample."""

from collections.abc import Iterator
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.models import CommunityDay
from points.earning.proposals.replaying import Recorded

PAGE_CLAIMS = 50_000

# A replay looks at no more than about so many claims, a minute or two; of more it takes every so-many-th resident.
CLAIMS_MAX = 2_000_000
ONE_IN_MAX = 1_000

# `points.partners` stands above this room; a replay needs these columns of its table.
_PARTNER_DAY = sa.table(
    "partner_day",
    sa.column("partner_code", sa.String),
    sa.column("day", sa.Date),
    sa.column("budget_points", sa.BigInteger),
)

# In the order in which they were written, which is the order in which caps let them through. The hash takes the same
# residents in every page and every week, each with all that they did.
_PAGE = sa.text(f"""
SELECT a.resident_id, a.id, a.behaviour, a.mode, a.grade, a.source, a.started_at, a.ended_at, a.received_at,
       a.recorded_at, a.business_day, a.community_code, a.distance_m, a.weight_g, a.steps, a.steps_before, a.acts,
       a.site, a.device, a.staff_id, a.household_id, a.outcome, a.reason, a.saved_co2e_mg, a.method_id,
       coalesce(t.points, 0) AS points
FROM activity a LEFT JOIN transfer t ON t.resident_id = a.resident_id AND t.id = a.id AND t.kind = 'award'
WHERE a.business_day BETWEEN :first AND :last AND a.recorded_at <= :as_of
  AND (a.recorded_at, a.resident_id, a.id) > (:after_at, :after_resident, :after_id)
  AND (:one_in = 1 OR abs(hashtext(cast(a.resident_id AS text))::bigint) % :one_in = 0)
ORDER BY a.recorded_at, a.resident_id, a.id LIMIT {PAGE_CLAIMS}
""")  # noqa: S608 -- constants of this module

Position = tuple[datetime, UUID, UUID]


def page(
    session: Session, first: date, last: date, *, as_of: datetime, after: Position, one_in: int
) -> Iterator[Recorded]:
    """The next claims of some business days, both included, that were recorded until `as_of`."""
    values = {"first": first, "last": last, "as_of": as_of, "one_in": one_in}
    keyset = dict(zip(("after_at", "after_resident", "after_id"), after, strict=True))
    for row in session.execute(_PAGE, {**values, **keyset}):
        yield Recorded._make(row)


def sampled_one_in(session: Session, first_on: date, last_on: date) -> int:
    """Of how many residents one is replayed, so that about CLAIMS_MAX claims are looked at: from the kept counts.

    What residents share (a household's, a device's, a site's bound) hardly binds in a sample, and the report says so.
    """
    activities = session.scalar(
        sa.select(sa.func.sum(CommunityDay.activities)).where(CommunityDay.day.between(first_on, last_on))
    )
    return min(ONE_IN_MAX, -(-int(activities or 0) // CLAIMS_MAX) or 1)


def budgets(session: Session, first_on: date) -> dict[tuple[str, date], int]:
    """The points budgets that partners had, by partner and day of receipt."""
    day = _PARTNER_DAY.c
    rows = session.execute(sa.select(day.partner_code, day.day, day.budget_points).where(day.day >= first_on))
    return {(partner, on): points for partner, on, points in rows}
