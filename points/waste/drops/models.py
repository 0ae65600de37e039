"""What was brought to a sorting site, how it was found, and the hidden spot-checks."""

import enum
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from points.waste.sites.models import Category, SiteForm
from server.database import Base, choice


class DropPath(enum.StrEnum):
    """How a drop was recorded."""

    SMART_BIN = "smart-bin"  # by a partner's bin, through the signed feed
    SUPERVISOR = "supervisor"  # a 督导员 scanned the resident's code and graded the bag
    SCANNER = "scanner"  # a registered device scanned the resident's code, perhaps without a network
    SITE_CODE = "site-code"  # the resident scanned the site's own rotating code


class Finding(enum.StrEnum):
    """What a supervisor found in a bag."""

    QUALIFIED = "qualified"  # 合格
    UNQUALIFIED = "unqualified"  # 不合格
    MIXED = "mixed"  # 混投


class Identified(enum.StrEnum):
    """By what the resident was recognised."""

    PHONE = "phone"
    CARD = "card"


class SortingDrop(Base):
    """One bag of one category, with what its activity does not say. Append-only."""

    __tablename__ = "sorting_drop"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    activity_id: Mapped[UUID] = mapped_column(primary_key=True)
    scan_id: Mapped[UUID]  # the bags of one scan share it
    path: Mapped[DropPath] = mapped_column(choice(DropPath, "path"))
    site_code: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("site.code"))
    category: Mapped[Category] = mapped_column(choice(Category, "category"))
    finding: Mapped[Finding | None] = mapped_column(choice(Finding, "finding"))
    identified_by: Mapped[Identified | None] = mapped_column(choice(Identified, "identified_by"))
    staff_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    dropped_at: Mapped[datetime]
    recorded_at: Mapped[datetime]

    __table_args__ = (
        sa.ForeignKeyConstraint(["resident_id", "activity_id"], ["activity.resident_id", "activity.id"]),
        # Another record of the same bag is looked for at each payment.
        sa.Index("sorting_drop_dropped_at_ix", "resident_id", "dropped_at"),
        sa.CheckConstraint(
            "(path <> 'supervisor' OR staff_id IS NOT NULL) AND (path <> 'site-code' OR staff_id IS NULL)",
            name="supervisor",
        ),
        sa.CheckConstraint(
            "(path = 'site-code') = (finding IS NULL) AND (path = 'site-code') = (identified_by IS NULL)",
            name="found_and_identified",
        ),
        sa.CheckConstraint("path <> 'smart-bin'", name="own_paths"),
    )


class SortingPlan(Base):
    """One dated edition of what the district decides about drops: how often they are checked. Immutable once loaded."""

    __tablename__ = "sorting_plan"

    id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    source: Mapped[str] = mapped_column(sa.String(300))
    valid_from: Mapped[date] = mapped_column(unique=True)
    check_within_hours: Mapped[int] = mapped_column(sa.SmallInteger)
    # A resident's own scan of one site pays one bag of each category in so many minutes.
    site_code_every_minutes: Mapped[int] = mapped_column(sa.SmallInteger)
    content_sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))

    __table_args__ = (
        sa.CheckConstraint("check_within_hours BETWEEN 1 AND 720", name="check_within_hours"),
        sa.CheckConstraint("site_code_every_minutes BETWEEN 1 AND 1440", name="site_code_every_minutes"),
        sa.CheckConstraint("source <> ''", name="source"),
    )


class SpotCheckRate(Base):
    """With which probability a drop of one path, at one form of site or at any, is checked."""

    __tablename__ = "spot_check_rate"

    plan_id: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("sorting_plan.id"), primary_key=True)
    path: Mapped[DropPath] = mapped_column(choice(DropPath, "path"), primary_key=True)
    form: Mapped[str] = mapped_column(sa.String(40), primary_key=True, server_default="")  # '': any other
    probability: Mapped[Decimal] = mapped_column(sa.Numeric(7, 6))

    __table_args__ = (
        sa.CheckConstraint("probability BETWEEN 0 AND 1", name="probability"),
        sa.CheckConstraint(f"form IN ('', {', '.join(repr(form.value) for form in SiteForm)})", name="form"),
    )


class CheckState(enum.StrEnum):
    """Where a sampled drop stands. A drop that was not sampled has no row: it is recorded, and that is all."""

    SAMPLED = "sampled"
    PASSED = "passed"
    FAILED = "failed"
    UNCHECKED = "unchecked"  # nobody checked it in time


class SpotCheck(Base):
    """One drop that was drawn for a check, with the probability that it had. Only staff who check ever see it."""

    __tablename__ = "spot_check"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    activity_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(unique=True)
    state: Mapped[CheckState] = mapped_column(choice(CheckState, "state"), server_default="sampled")
    path: Mapped[DropPath] = mapped_column(choice(DropPath, "path"))
    plan_id: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("sorting_plan.id"))
    probability: Mapped[Decimal] = mapped_column(sa.Numeric(7, 6))
    community_code: Mapped[str] = mapped_column(sa.String(12))  # of the site; the resident's where it is not known
    site: Mapped[str] = mapped_column(sa.String(64))
    category: Mapped[str] = mapped_column(sa.String(40))
    business_day: Mapped[date]
    dropped_at: Mapped[datetime]
    staff_id: Mapped[UUID | None]  # who graded it, and so never checks it
    sampled_at: Mapped[datetime]
    due_at: Mapped[datetime]
    decided_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    decided_at: Mapped[datetime | None]
    remark: Mapped[str] = mapped_column(sa.String(300), server_default="")

    __table_args__ = (
        sa.ForeignKeyConstraint(["resident_id", "activity_id"], ["activity.resident_id", "activity.id"]),
        sa.CheckConstraint("probability > 0 AND probability <= 1", name="probability"),
        sa.CheckConstraint("due_at > sampled_at", name="due"),
        sa.CheckConstraint(
            "(decided_at IS NOT NULL) = (state <> 'sampled')"
            " AND (decided_by IS NOT NULL) = (state IN ('passed', 'failed'))",
            name="decided",
        ),
        sa.CheckConstraint("decided_by <> staff_id", name="checked_by_another"),
        sa.CheckConstraint("state <> 'failed' OR remark <> ''", name="remark"),
        sa.Index("spot_check_waiting_ix", "community_code", "id", postgresql_where=sa.text("state = 'sampled'")),
        sa.Index("spot_check_day_ix", "business_day"),
    )


class SpotCheckMark(Base):
    """Up to which instant of recording drops have been drawn from; one row."""

    __tablename__ = "spot_check_mark"

    one: Mapped[bool] = mapped_column(primary_key=True, server_default=sa.text("true"))
    drawn_to: Mapped[datetime]

    __table_args__ = (sa.CheckConstraint("one", name="one"),)
