"""Campaigns with a behaviour target, and who takes part."""

import enum
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice


class CampaignState(enum.StrEnum):
    """The life of a campaign."""

    DRAFT = "draft"
    OPEN = "open"
    CLOSED = "closed"
    CANCELLED = "cancelled"


class TargetMeasure(enum.StrEnum):
    """What a target counts."""

    ACTIVITIES = "activities"
    DISTANCE_M = "distance_m"
    WEIGHT_G = "weight_g"
    SAVED_CO2E_MG = "saved_co2e_mg"
    POINTS = "points"


class Campaign(Base):
    """A call to reach a target of one or more behaviours between two days, in one place."""

    __tablename__ = "campaign"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(sa.String(60))
    description: Mapped[str] = mapped_column(sa.String(1000), server_default="")
    division: Mapped[str] = mapped_column(sa.String(12), sa.ForeignKey("division.code"), index=True)
    organisation_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("organisation.id"), index=True)
    behaviours: Mapped[list[str]]
    measure: Mapped[TargetMeasure] = mapped_column(choice(TargetMeasure, "measure"))
    target: Mapped[int]
    starts_on: Mapped[date]
    ends_on: Mapped[date]
    state: Mapped[CampaignState] = mapped_column(choice(CampaignState, "state"))
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")
    created_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    created_at: Mapped[datetime]
    opened_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("ends_on >= starts_on AND ends_on <= starts_on + 366", name="span"),
        sa.CheckConstraint("target BETWEEN 1 AND 1000000000000", name="target"),
        sa.CheckConstraint(
            "behaviours <@ ARRAY['walk', 'bicycle', 'e-bike', 'bus', 'metro', 'sorting', 'recycling'] "
            "AND cardinality(behaviours) > 0",
            name="behaviours",
        ),
        sa.CheckConstraint("state IN ('draft', 'cancelled') OR opened_at IS NOT NULL", name="opened_at"),
    )


class Participation(Base):
    """A resident in a campaign. Progress is derived from their days, never stored here."""

    __tablename__ = "participation"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    campaign_id: Mapped[UUID] = mapped_column(primary_key=True)
    community_code: Mapped[str] = mapped_column(sa.String(12))
    joined_at: Mapped[datetime]

    __table_args__ = (sa.Index("participation_campaign_ix", "campaign_id", "community_code"),)
