"""The kept counts of participation: everything a page of statistics shows, by place, organisation, campaign and period.

All of it can be computed anew from the activities' own counts (`resident_day`, `community_day`), from participations
and from check-ins, and `flask counts verify` compares the two. Nobody but the counting job writes here.
"""

from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from points.statistics.periods import Grain
from server.database import Base, choice

# Grains over which distinct people are followed by markers; days and weeks are short enough to count from the days.
MARKED_GRAINS = (Grain.MONTH, Grain.QUARTER, Grain.YEAR)

ALL_KINDS = ""


class ResidentPeriod(Base):
    """A resident was active in a month, quarter or year, last on `last_day`, from the community that was home then.

    One row for each person and period: whoever moved counts once, and streets and districts are plain sums.
    """

    __tablename__ = "resident_period"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    grain: Mapped[Grain] = mapped_column(choice(Grain, "grain"), primary_key=True)
    starts_on: Mapped[date] = mapped_column(primary_key=True)
    last_day: Mapped[date]
    community_code: Mapped[str] = mapped_column(sa.String(12))

    __table_args__ = (
        # Without `last_day`, which changes daily: so those updates stay off every index.
        sa.Index("resident_period_place_ix", "grain", "starts_on", "community_code"),
        sa.CheckConstraint("last_day >= starts_on", name="last_day"),
    )


class MemberPeriod(Base):
    """A resident was active in a month, quarter or year on a day on which they belonged to an organisation."""

    __tablename__ = "member_period"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    organisation_id: Mapped[UUID] = mapped_column(primary_key=True)
    grain: Mapped[Grain] = mapped_column(choice(Grain, "grain"), primary_key=True)
    starts_on: Mapped[date] = mapped_column(primary_key=True)

    __table_args__ = (sa.Index("member_period_organisation_ix", "grain", "starts_on", "organisation_id"),)


class CampaignDay(Base):
    """Who joined a campaign on a day and is still in it, visits, and minutes of volunteers; by home on joining."""

    __tablename__ = "campaign_day"

    campaign_id: Mapped[UUID] = mapped_column(primary_key=True)
    community_code: Mapped[str] = mapped_column(sa.String(12), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    joins: Mapped[int] = mapped_column(sa.Integer)
    check_ins: Mapped[int] = mapped_column(sa.Integer)
    volunteer_minutes: Mapped[int]

    __table_args__ = (
        sa.Index("campaign_day_day_ix", "day"),
        sa.CheckConstraint("least(joins, check_ins, volunteer_minutes) >= 0", name="not_negative"),
    )


class CampaignCount(Base):
    """A campaign from its first day to its last, by home on joining.

    Points and milligrams are what the participants recorded on the campaign's days; milligrams by method.
    """

    __tablename__ = "campaign_count"

    campaign_id: Mapped[UUID] = mapped_column(primary_key=True)
    community_code: Mapped[str] = mapped_column(sa.String(12), primary_key=True)
    participants: Mapped[int] = mapped_column(sa.Integer)
    completions: Mapped[int] = mapped_column(sa.Integer)
    points: Mapped[int]
    saved_co2e_mg: Mapped[dict[str, Any]]

    __table_args__ = (
        sa.CheckConstraint("participants >= 0 AND points >= 0", name="not_negative"),
        sa.CheckConstraint("completions BETWEEN 0 AND participants", name="completions"),
        sa.CheckConstraint("jsonb_typeof(saved_co2e_mg) = 'object'", name="saved_co2e_mg"),
    )


class CountedCampaign(Base):
    """When a campaign was last counted, in which version, and which last day it had then."""

    __tablename__ = "counted_campaign"

    campaign_id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(sa.Integer)
    ends_on: Mapped[date]
    counted_at: Mapped[datetime]


class PlacePeriod(Base):
    """A district, street or community in one period; all campaigns together, or those of one kind.

    With `campaign_kind` '' participants are residents with a recorded activity, and the rates are of those; with a kind
    they are residents enrolled in its campaigns, and completions, points and milligrams are those of the campaigns that
    ended in the period. `registered` stands as it was when the period was last counted before its end.
    """

    __tablename__ = "place_period"

    grain: Mapped[Grain] = mapped_column(choice(Grain, "grain"), primary_key=True)
    starts_on: Mapped[date] = mapped_column(primary_key=True)
    campaign_kind: Mapped[str] = mapped_column(sa.String(40), primary_key=True, server_default=ALL_KINDS)
    place_code: Mapped[str] = mapped_column(sa.String(12), primary_key=True)
    registered: Mapped[int] = mapped_column(sa.Integer)
    participants: Mapped[int] = mapped_column(sa.Integer)
    joins: Mapped[int] = mapped_column(sa.Integer)
    check_ins: Mapped[int] = mapped_column(sa.Integer)
    completions: Mapped[int] = mapped_column(sa.Integer)
    volunteer_minutes: Mapped[int]
    points: Mapped[int]
    saved_co2e_mg: Mapped[dict[str, Any]]  # by method; methods are never added up
    rate_shrunk: Mapped[float | None] = mapped_column(sa.Double())
    rate_low: Mapped[float | None] = mapped_column(sa.Double())
    rate_high: Mapped[float | None] = mapped_column(sa.Double())
    counted_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint(
            "least(registered, participants, joins, check_ins, completions, volunteer_minutes, points) >= 0",
            name="not_negative",
        ),
        sa.CheckConstraint("place_code ~ '^([0-9]{6}|[0-9]{9}|[0-9]{12})$'", name="place_code"),
        sa.CheckConstraint("jsonb_typeof(saved_co2e_mg) = 'object'", name="saved_co2e_mg"),
        sa.CheckConstraint(
            "0 <= rate_low AND rate_low <= rate_shrunk AND rate_shrunk <= rate_high AND rate_high <= 1", name="rate"
        ),
        sa.CheckConstraint("num_nonnulls(rate_shrunk, rate_low, rate_high) IN (0, 3)", name="rate_whole"),
    )


class OrganisationPeriod(Base):
    """An organisation in one period: its members' activity while they were members, and its own campaigns.

    `registered` is everybody who was a member at any time of the period.
    """

    __tablename__ = "organisation_period"

    grain: Mapped[Grain] = mapped_column(choice(Grain, "grain"), primary_key=True)
    starts_on: Mapped[date] = mapped_column(primary_key=True)
    organisation_id: Mapped[UUID] = mapped_column(sa.ForeignKey("organisation.id"), primary_key=True)
    registered: Mapped[int] = mapped_column(sa.Integer)
    participants: Mapped[int] = mapped_column(sa.Integer)
    joins: Mapped[int] = mapped_column(sa.Integer)
    check_ins: Mapped[int] = mapped_column(sa.Integer)
    completions: Mapped[int] = mapped_column(sa.Integer)
    volunteer_minutes: Mapped[int]
    points: Mapped[int]
    saved_co2e_mg: Mapped[dict[str, Any]]
    rate_shrunk: Mapped[float | None] = mapped_column(sa.Double())
    rate_low: Mapped[float | None] = mapped_column(sa.Double())
    rate_high: Mapped[float | None] = mapped_column(sa.Double())
    counted_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint(
            "least(registered, participants, joins, check_ins, completions, volunteer_minutes, points) >= 0",
            name="not_negative",
        ),
        sa.CheckConstraint("jsonb_typeof(saved_co2e_mg) = 'object'", name="saved_co2e_mg"),
        sa.CheckConstraint(
            "0 <= rate_low AND rate_low <= rate_shrunk AND rate_shrunk <= rate_high AND rate_high <= 1", name="rate"
        ),
        sa.CheckConstraint("num_nonnulls(rate_shrunk, rate_low, rate_high) IN (0, 3)", name="rate_whole"),
    )


class PeriodPrior(Base):
    """Towards which mean, and how strongly, the rates of one group of peers were shrunk in a period.

    `peers` names the group: `street:120104` and `community:120104` within a district, `organisation:school`.
    """

    __tablename__ = "period_prior"

    grain: Mapped[Grain] = mapped_column(choice(Grain, "grain"), primary_key=True)
    starts_on: Mapped[date] = mapped_column(primary_key=True)
    peers: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    mean: Mapped[float] = mapped_column(sa.Double())
    weight: Mapped[float] = mapped_column(sa.Double())  # in residents
    peer_count: Mapped[int] = mapped_column(sa.Integer)  # 0: too few to fit, so hardly anything was pulled

    __table_args__ = (sa.CheckConstraint("mean BETWEEN 0 AND 1 AND weight > 0 AND peer_count >= 0", name="prior"),)


class CountedDay(Base):
    """What a day's rows looked like when the day was last counted: a mark that differs now says to count it again.

    A mark is a sum over row versions, not over amounts: a reversal and another resident's equal award leave all amounts
    as they were and change who took part.
    """

    __tablename__ = "counted_day"

    day: Mapped[date] = mapped_column(primary_key=True)
    activities_mark: Mapped[int | None]
    campaigns_mark: Mapped[int | None]
    members_mark: Mapped[int | None]
    changed_at: Mapped[datetime]  # when a change of its activities was last counted
    counted_at: Mapped[datetime]
