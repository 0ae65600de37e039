"""Volunteers' minutes: counted at signing out, capped by day, and set by staff for whoever forgot to sign out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.attendance.models import VOLUNTEER_DAY_MINUTES_MAX, CheckIn, SlotKind, VolunteerDay
from campaigns.attendance.slots import slot_for
from campaigns.drives.campaigns import campaign_for
from campaigns.drives.models import CampaignState
from server import audit
from server.access import Actor
from server.errors import Conflict, DomainError, NotFound

DAYS_SHOWN_MAX = 366


class VolunteerDayFull(Conflict):
    """With these minutes the resident's day would be longer than VOLUNTEER_DAY_MINUTES_MAX."""

    code, title_zh, title_en = (
        "volunteer-day-full",
        "当日志愿时长超过上限",
        "A resident's volunteer day has at most 480 minutes",
    )
    constraints = ("volunteer_day_minutes_check",)


class MinutesTooMany(DomainError):
    """A slot is worth at most its `minutes_max`, and a visit is worth no minutes."""

    code, status, title_zh, title_en = (
        "minutes-too-many",
        422,
        "分钟数超过该时段上限",
        "The slot is not worth so many minutes",
    )


class CampaignSettled(Conflict):
    """What was paid rests on the minutes as they were."""

    code, title_zh, title_en = "campaign-settled", "活动已结算", "The campaign has been settled"


@dataclass(frozen=True, slots=True)
class DayMinutes:
    """A resident's volunteer minutes of one business day."""

    day: date
    minutes: int


@dataclass(frozen=True, slots=True)
class Volunteering:
    """A resident's volunteer work: all of it, and its latest days."""

    minutes: int
    days: Sequence[DayMinutes]


# What the cap leaves is computed inside the upsert, whose row lock makes two sign-outs of one day take turns.
_ADD = sa.text("""
INSERT INTO volunteer_day AS kept (resident_id, day, minutes, last_added_minutes)
VALUES (:resident_id, :day, least(:minutes, :cap), least(:minutes, :cap))
ON CONFLICT (resident_id, day) DO UPDATE SET
    minutes = least(kept.minutes + :minutes, :cap),
    last_added_minutes = least(kept.minutes + :minutes, :cap) - kept.minutes
RETURNING last_added_minutes
""")

# A correction goes up or down and is never cut: the CHECK refuses a day that it would overfill. The row to insert must
# pass the CHECK too, also where it turns out to stand already: hence no negative minutes in VALUES.
_CORRECT = sa.text("""
INSERT INTO volunteer_day AS kept (resident_id, day, minutes, last_added_minutes)
VALUES (:resident_id, :day, greatest(:change, 0), :change)
ON CONFLICT (resident_id, day) DO UPDATE SET minutes = kept.minutes + :change, last_added_minutes = :change
""")


def add_minutes(session: Session, resident_id: UUID, day: date, minutes: int) -> int:
    """Add up to `minutes` to the resident's day and say how many the day's cap left of them."""
    keys = {"resident_id": resident_id, "day": day, "minutes": minutes, "cap": VOLUNTEER_DAY_MINUTES_MAX}
    return int(session.execute(_ADD, keys).scalar_one())


def set_minutes(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    slot_id: UUID,
    resident_id: UUID,
    *,
    minutes: int,
    reason: str,
    now: datetime,
) -> CheckIn:
    """Set a volunteer's minutes of one slot by hand, with a reason for the audit trail.

    Raises NotFound, MinutesTooMany, CampaignSettled, VolunteerDayFull through the CHECK.
    """
    slot = slot_for(session, actor, campaign_id, slot_id)
    if slot.kind is not SlotKind.VOLUNTEER or not 0 <= minutes <= (slot.minutes_max or 0):
        raise MinutesTooMany
    if campaign_for(session, actor, campaign_id).state in (CampaignState.CLOSED, CampaignState.CANCELLED):
        raise CampaignSettled
    found = session.get(CheckIn, (resident_id, slot_id), with_for_update=True, populate_existing=True)
    if found is None:
        raise NotFound
    change = minutes - found.minutes
    found.minutes, found.minutes_set_by = minutes, actor.id
    session.flush()
    session.execute(_CORRECT, {"resident_id": resident_id, "day": found.day, "change": change})
    audit.record(
        session,
        actor,
        "check-in.set-minutes",
        str(slot_id),
        now=now,
        resident=str(resident_id),
        minutes=minutes,
        before=minutes - change,
        reason=reason,
    )
    return found


def volunteering_of(session: Session, resident_id: UUID) -> Volunteering:
    """A resident's volunteer minutes, in total and by day, the latest first, at most DAYS_SHOWN_MAX of them."""
    own = (VolunteerDay.resident_id == resident_id, VolunteerDay.minutes > 0)
    total = session.scalar(sa.select(sa.func.coalesce(sa.func.sum(VolunteerDay.minutes), 0)).where(*own)) or 0
    latest = (
        sa.select(VolunteerDay.day, VolunteerDay.minutes)
        .where(*own)
        .order_by(VolunteerDay.day.desc())
        .limit(DAYS_SHOWN_MAX)
    )
    return Volunteering(int(total), [DayMinutes(*row) for row in session.execute(latest)])
