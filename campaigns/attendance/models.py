"""Being there: slots at a place and a time, who checked in, hours of volunteers, and printed one-use codes."""

import enum
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice

# Nobody is credited with more volunteer work in one business day, whatever the slots add up to.
VOLUNTEER_DAY_MINUTES_MAX = 480


class SlotKind(enum.StrEnum):
    """What being there means."""

    VISIT = "visit"
    VOLUNTEER = "volunteer"  # signed in and out, and counted in minutes


class CheckInWay(enum.StrEnum):
    """How somebody proved to be there."""

    ROTATING = "rotating"  # the code on the staff's screen
    PRINTED = "printed"  # a one-use code from a sheet
    STAFF = "staff"  # staff scanned the resident's own code


class CheckInSlot(Base):
    """One place and one span of time of a campaign at which residents can check in.

    With a geofence, a phone tells where it is and must be within `radius_m` of the point; the position is not kept.
    """

    __tablename__ = "check_in_slot"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    campaign_id: Mapped[UUID] = mapped_column(sa.ForeignKey("campaign.id"))
    kind: Mapped[SlotKind] = mapped_column(choice(SlotKind, "kind"))
    site_name: Mapped[str] = mapped_column(sa.String(60))
    opens_at: Mapped[datetime]
    closes_at: Mapped[datetime]
    latitude: Mapped[float | None] = mapped_column(sa.Double())  # degrees, GCJ-02 as phones in China report it
    longitude: Mapped[float | None] = mapped_column(sa.Double())
    radius_m: Mapped[int | None] = mapped_column(sa.Integer)
    minutes_max: Mapped[int | None] = mapped_column(sa.SmallInteger)  # of one volunteer in this slot
    capacity: Mapped[int | None] = mapped_column(sa.Integer)
    # Counted only where there is a capacity: without one, everybody at the door would wait for this one row.
    taken: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")
    created_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    created_at: Mapped[datetime]
    cancelled_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("btrim(site_name) <> ''", name="site_name"),
        sa.CheckConstraint("closes_at > opens_at AND closes_at <= opens_at + interval '24 hours'", name="span"),
        sa.CheckConstraint(
            "(latitude IS NULL) = (radius_m IS NULL) AND (longitude IS NULL) = (radius_m IS NULL)", name="geofence"
        ),
        sa.CheckConstraint(
            "latitude BETWEEN -90 AND 90 AND longitude BETWEEN -180 AND 180 AND radius_m BETWEEN 30 AND 5000",
            name="geofence_range",
        ),
        sa.CheckConstraint("(kind = 'volunteer') = (minutes_max IS NOT NULL)", name="volunteer"),
        sa.CheckConstraint(f"minutes_max BETWEEN 1 AND {VOLUNTEER_DAY_MINUTES_MAX}", name="minutes_max"),
        sa.CheckConstraint("capacity BETWEEN 1 AND 100000", name="capacity"),
        sa.CheckConstraint("taken >= 0 AND taken <= coalesce(capacity, 0)", name="taken"),
        sa.Index("check_in_slot_campaign_ix", "campaign_id", "id"),
    )


class CheckIn(Base):
    """One resident was at one slot, once. `minutes` are those of a volunteer who signed out, and 0 until then."""

    __tablename__ = "check_in"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    slot_id: Mapped[UUID] = mapped_column(primary_key=True)
    campaign_id: Mapped[UUID]
    way: Mapped[CheckInWay] = mapped_column(choice(CheckInWay, "way"))
    day: Mapped[date]  # the business day of checking in, to which the minutes count
    checked_in_at: Mapped[datetime]
    checked_in_by: Mapped[UUID | None]  # the member of staff who scanned
    signed_out_at: Mapped[datetime | None]
    minutes: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")
    minutes_set_by: Mapped[UUID | None]  # the member of staff who set the minutes; the reason is in the audit trail

    __table_args__ = (
        sa.CheckConstraint("(way = 'staff') = (checked_in_by IS NOT NULL)", name="staff"),
        sa.CheckConstraint("signed_out_at >= checked_in_at", name="signed_out"),
        sa.CheckConstraint(f"minutes BETWEEN 0 AND {VOLUNTEER_DAY_MINUTES_MAX}", name="minutes"),
        sa.CheckConstraint(
            "minutes = 0 OR signed_out_at IS NOT NULL OR minutes_set_by IS NOT NULL", name="minutes_earned"
        ),
        sa.Index("check_in_campaign_ix", "campaign_id", "slot_id", "resident_id"),
        sa.Index("check_in_day_brin", "day", postgresql_using="brin"),
    )


class VolunteerDay(Base):
    """A resident's volunteer minutes of one business day, over all campaigns: what the day's cap is measured by.

    `last_added_minutes` is how a statement learns what the cap left of what it asked for, which RETURNING cannot tell.
    """

    __tablename__ = "volunteer_day"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    minutes: Mapped[int] = mapped_column(sa.SmallInteger)
    last_added_minutes: Mapped[int] = mapped_column(sa.SmallInteger)

    __table_args__ = (sa.CheckConstraint(f"minutes BETWEEN 0 AND {VOLUNTEER_DAY_MINUTES_MAX}", name="minutes"),)


class PrintedCode(Base):
    """A one-use code on paper, kept as a keyed hash: whoever reads this table cannot print another sheet."""

    __tablename__ = "check_in_code"

    code_hash: Mapped[bytes] = mapped_column(primary_key=True)
    slot_id: Mapped[UUID] = mapped_column(sa.ForeignKey("check_in_slot.id"), index=True)
    printed_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    printed_at: Mapped[datetime]
    used_by: Mapped[UUID | None]
    used_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("octet_length(code_hash) = 32", name="code_hash"),
        sa.CheckConstraint("(used_by IS NULL) = (used_at IS NULL)", name="used"),
    )
