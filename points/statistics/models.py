"""The kept counts of activity: what every report of the district reads, by period, place, behaviour and mode.

All of it can be computed anew from the activities, and `flask counts verify` compares the two. Nobody but the counting
writes here. `behaviour` '' stands for all behaviours together and `mode` '' for all modes of one.

Amounts add up over places, modes and periods. Residents, sites and partners do not: each row has its own distinct
number, and whoever moved counts in both communities and once in the district.
"""

from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from points.statistics.periods import Grain
from server.database import Base, choice

ALL_BEHAVIOURS = ""
ALL_MODES = ""

_PLACE_CODE = "place_code ~ '^([0-9]{6}|[0-9]{9}|[0-9]{12})$'"
_MODE_OF_BEHAVIOUR = "behaviour <> '' OR mode = ''"


class ActivityPeriod(Base):
    """The awarded activities of one behaviour and mode in one place and period. Metres, grams, points.

    `residents` are those with any record, `…_residents` those with more than nothing of that measure. `largest_…` is
    the most that one resident has of it and `squared_…` the sum of the squares of the residents' own amounts: the one
    for disclosure control, the other for the intervals of means.
    """

    __tablename__ = "activity_period"

    grain: Mapped[Grain] = mapped_column(choice(Grain, "grain"), primary_key=True)
    starts_on: Mapped[date] = mapped_column(primary_key=True)
    behaviour: Mapped[str] = mapped_column(sa.String(40), primary_key=True, server_default=ALL_BEHAVIOURS)
    mode: Mapped[str] = mapped_column(sa.String(40), primary_key=True, server_default=ALL_MODES)
    place_code: Mapped[str] = mapped_column(sa.String(12), primary_key=True)
    activities: Mapped[int]
    residents: Mapped[int] = mapped_column(sa.Integer)
    distance_m: Mapped[int]
    weight_g: Mapped[int]
    points: Mapped[int]
    distance_residents: Mapped[int] = mapped_column(sa.Integer)
    weight_residents: Mapped[int] = mapped_column(sa.Integer)
    points_residents: Mapped[int] = mapped_column(sa.Integer)
    largest_activities: Mapped[int]
    largest_distance_m: Mapped[int]
    largest_weight_g: Mapped[int]
    largest_points: Mapped[int]
    squared_activities: Mapped[float] = mapped_column(sa.Double())
    squared_distance_m: Mapped[float] = mapped_column(sa.Double())
    squared_weight_g: Mapped[float] = mapped_column(sa.Double())
    squared_points: Mapped[float] = mapped_column(sa.Double())
    sites: Mapped[int] = mapped_column(sa.Integer)
    partners: Mapped[int] = mapped_column(sa.Integer)
    reversed: Mapped[int] = mapped_column(sa.Integer)  # taken back after a check or a complaint; in no other figure

    __table_args__ = (
        sa.Index("activity_period_place_ix", "place_code", "grain", "starts_on"),
        sa.CheckConstraint(_PLACE_CODE, name="place_code"),
        sa.CheckConstraint(_MODE_OF_BEHAVIOUR, name="mode"),
        sa.CheckConstraint(
            "least(activities, residents, distance_m, weight_g, points, distance_residents, weight_residents,"
            " points_residents, largest_activities, largest_distance_m, largest_weight_g, largest_points,"
            " squared_activities, squared_distance_m, squared_weight_g, squared_points, sites, partners, reversed)"
            " >= 0",
            name="not_negative",
        ),
        sa.CheckConstraint(
            "largest_activities <= activities AND largest_distance_m <= distance_m AND largest_weight_g <= weight_g"
            " AND largest_points <= points",
            name="largest",
        ),
        sa.CheckConstraint(
            "greatest(distance_residents, weight_residents, points_residents) <= residents", name="residents"
        ),
    )


class ActivitySaving(Base):
    """Milligrams of CO2e saved by one method's reckoning, and by how many residents. Methods are never added up."""

    __tablename__ = "activity_saving"

    grain: Mapped[Grain] = mapped_column(choice(Grain, "grain"), primary_key=True)
    starts_on: Mapped[date] = mapped_column(primary_key=True)
    behaviour: Mapped[str] = mapped_column(sa.String(40), primary_key=True, server_default=ALL_BEHAVIOURS)
    mode: Mapped[str] = mapped_column(sa.String(40), primary_key=True, server_default=ALL_MODES)
    place_code: Mapped[str] = mapped_column(sa.String(12), primary_key=True)
    method_id: Mapped[str] = mapped_column(sa.String(60), primary_key=True)
    saved_co2e_mg: Mapped[int]
    residents: Mapped[int] = mapped_column(sa.Integer)
    largest_saved_co2e_mg: Mapped[int]

    __table_args__ = (
        sa.Index("activity_saving_place_ix", "place_code", "grain", "starts_on"),
        sa.CheckConstraint(_PLACE_CODE, name="place_code"),
        sa.CheckConstraint(_MODE_OF_BEHAVIOUR, name="mode"),
        sa.CheckConstraint("method_id <> '' AND saved_co2e_mg > 0 AND residents > 0", name="positive"),
        sa.CheckConstraint("largest_saved_co2e_mg BETWEEN 1 AND saved_co2e_mg", name="largest"),
    )


class RegisteredPeriod(Base):
    """Residents registered in a place, as they stood when the period was last counted before its end.

    One row for each place of the period, with or without an activity: what a table of places is a list of.
    """

    __tablename__ = "registered_period"

    grain: Mapped[Grain] = mapped_column(choice(Grain, "grain"), primary_key=True)
    starts_on: Mapped[date] = mapped_column(primary_key=True)
    place_code: Mapped[str] = mapped_column(sa.String(12), primary_key=True)
    registered: Mapped[int] = mapped_column(sa.Integer)

    __table_args__ = (
        sa.CheckConstraint(_PLACE_CODE, name="place_code"),
        sa.CheckConstraint("registered >= 0", name="registered"),
    )


class ResidentMonth(Base):
    """What one resident did in a month: quarters and years are counted from these rows and not from the activities."""

    __tablename__ = "resident_month"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    month_on: Mapped[date] = mapped_column(primary_key=True)  # its first day
    behaviour: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    mode: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    method_id: Mapped[str] = mapped_column(sa.String(60), primary_key=True, server_default="")
    community_code: Mapped[str] = mapped_column(sa.String(12), primary_key=True)
    activities: Mapped[int] = mapped_column(sa.Integer)
    distance_m: Mapped[int]
    weight_g: Mapped[int]
    saved_co2e_mg: Mapped[int]
    points: Mapped[int]

    __table_args__ = (
        # A month is written in one go, so its rows lie together.
        sa.Index("resident_month_month_on_brin", "month_on", postgresql_using="brin"),
        sa.CheckConstraint("least(activities, distance_m, weight_g, saved_co2e_mg, points) >= 0", name="not_negative"),
        sa.CheckConstraint("extract(day FROM month_on) = 1", name="month_on"),
    )


class SiteMonth(Base):
    """Through which partner and at which site a community's residents acted in a month; '' where there is none."""

    __tablename__ = "site_month"

    month_on: Mapped[date] = mapped_column(primary_key=True)
    community_code: Mapped[str] = mapped_column(sa.String(12), primary_key=True)
    behaviour: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    mode: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    partner: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    site: Mapped[str] = mapped_column(sa.String(64), primary_key=True)

    __table_args__ = (
        sa.CheckConstraint("extract(day FROM month_on) = 1", name="month_on"),
        sa.CheckConstraint("partner <> '' OR site <> ''", name="partner_or_site"),
    )


class ActivityDayMark(Base):
    """What a day's rows of `community_day` looked like when its periods were last found due; see `marks`."""

    __tablename__ = "activity_day_mark"

    day: Mapped[date] = mapped_column(primary_key=True)
    mark: Mapped[int]


class ActivityPeriodCount(Base):
    """When a period was counted, and whether one of its days has changed since. `activities` says how large it is."""

    __tablename__ = "activity_period_count"

    grain: Mapped[Grain] = mapped_column(choice(Grain, "grain"), primary_key=True)
    starts_on: Mapped[date] = mapped_column(primary_key=True)
    is_due: Mapped[bool]
    counted_at: Mapped[datetime | None]
    activities: Mapped[int] = mapped_column(server_default="0")

    __table_args__ = (
        sa.Index("activity_period_count_due_ix", "starts_on", postgresql_where=sa.text("is_due")),
        sa.CheckConstraint("activities >= 0", name="activities"),
        sa.CheckConstraint("is_due OR counted_at IS NOT NULL", name="counted"),
    )
