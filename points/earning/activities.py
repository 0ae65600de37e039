"""Reading a resident's activities, and what they saved by method."""

from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.claims import REASON_TEXTS, Reason
from points.earning.models import Activity, Outcome
from points.ledger.models import Transfer
from server import paging


@dataclass(frozen=True, slots=True)
class Entry:
    """An activity with the points it paid and, in words, why not more."""

    activity: Activity
    points: int
    reason: str | None
    reason_zh: str | None
    reason_en: str | None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.activity, name)


def history(session: Session, resident_id: UUID, *, limit: int, cursor: str | None) -> paging.Page[Entry]:
    """The resident's activities, the latest recorded first. A capped one says so, though it was awarded."""
    query = (
        sa.select(Activity, sa.func.coalesce(Transfer.points, 0))
        .outerjoin(Transfer, sa.and_(Transfer.resident_id == Activity.resident_id, Transfer.id == Activity.id))
        .where(Activity.resident_id == resident_id)
        .order_by(Activity.id.desc())
        .limit(limit + 1)
    )
    if cursor:
        query = query.where(Activity.id < paging.decode(cursor, tuple[UUID])[0])
    entries = [entry_of(activity, points) for activity, points in session.execute(query)]
    return paging.page_of(entries, limit, lambda entry: (entry.activity.id,))


def entry_of(activity: Activity, points: int) -> Entry:
    """An activity as its owner sees it."""
    reason = activity.reason
    if activity.outcome is Outcome.AWARDED and points < activity.priced_points:
        reason = Reason.CAPPED.value
    texts = REASON_TEXTS[Reason(reason)] if reason else (None, None)
    return Entry(activity, points, reason, *texts)


@dataclass(frozen=True, slots=True)
class Saving:
    """What a resident saved under one method. Figures of different methods are never added up."""

    method_id: str
    saved_co2e_g: int
    activities: int


def savings(session: Session, resident_id: UUID, *, first: date, last: date) -> list[Saving]:
    """The resident's savings by method over the business days from `first` to `last`, grams rounded down."""
    rows = session.execute(
        sa.select(Activity.method_id, sa.func.sum(Activity.saved_co2e_mg), sa.func.count())
        .where(
            Activity.resident_id == resident_id,
            Activity.outcome == Outcome.AWARDED,
            Activity.method_id.is_not(None),
            Activity.business_day.between(first, last),
        )
        .group_by(Activity.method_id)
        .order_by(Activity.method_id)
    )
    return [Saving(method_id or "", int(total) // 1000, count) for method_id, total, count in rows]


def one(session: Session, resident_id: UUID, activity_id: UUID) -> Entry | None:
    """One activity of a resident, None when there is none."""
    found = session.get(Activity, (resident_id, activity_id), populate_existing=True)
    if found is None:
        return None
    paid = session.get(Transfer, (resident_id, activity_id))
    return entry_of(found, paid.points if paid else 0)
