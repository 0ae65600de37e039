"""Random audits: which paid claims of a quarter were drawn with which probability, and what people found of them."""

import enum
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from points.earning.models import Behaviour
from server.database import Base, choice

NOTE_LENGTH_MAX = 300


class Finding(enum.StrEnum):
    """What a person found of a paid claim."""

    RIGHT = "right"
    WRONG = "wrong"
    CANNOT_BE_TOLD = "cannot-be-told"


class RandomAudit(Base):
    """The audit of one quarter. Drawn once, from a seed: who has it draws the same sample again.

    The population are the claims paid and not taken back as of `as_of`.
    """

    __tablename__ = "random_audit"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    starts_on: Mapped[date] = mapped_column(unique=True)
    seed: Mapped[bytes] = mapped_column(sa.LargeBinary(32))
    plan: Mapped[dict[str, Any]]  # the sizes that the district's data file asked for when it was requested
    requested_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))  # None: by the job or an operator
    requested_at: Mapped[datetime]
    as_of: Mapped[datetime | None]
    drawn_at: Mapped[datetime | None]
    strata_count: Mapped[int | None] = mapped_column(sa.Integer)
    items_count: Mapped[int | None] = mapped_column(sa.Integer)
    problem: Mapped[str | None] = mapped_column(sa.String(60))

    __table_args__ = (
        sa.CheckConstraint(
            "starts_on = cast(date_trunc('quarter', cast(starts_on AS timestamp)) AS date)", name="quarter"
        ),
        sa.CheckConstraint("octet_length(seed) = 32", name="seed"),
        sa.CheckConstraint("jsonb_typeof(plan) = 'object' AND octet_length(plan::text) <= 20000", name="plan"),
        sa.CheckConstraint("num_nonnulls(drawn_at, as_of, strata_count, items_count) IN (0, 4)", name="drawn"),
        sa.CheckConstraint("least(strata_count, items_count) >= 0", name="counts"),
    )


class AuditStratum(Base):
    """The paid claims of one behaviour from one source: how many, worth what, and how many of them were drawn.

    Each of them had the probability sampled_claims ÷ claims.
    """

    __tablename__ = "random_audit_stratum"

    audit_id: Mapped[UUID] = mapped_column(sa.ForeignKey("random_audit.id"), primary_key=True)
    behaviour: Mapped[Behaviour] = mapped_column(choice(Behaviour, "behaviour"), primary_key=True)
    source: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    claims: Mapped[int]
    points: Mapped[int]
    sampled_claims: Mapped[int] = mapped_column(sa.Integer)

    __table_args__ = (sa.CheckConstraint("sampled_claims BETWEEN 0 AND claims AND points >= claims", name="sizes"),)


class AuditItem(Base):
    """One paid claim of the sample, with the points it was paid, and what a person found of it, once."""

    __tablename__ = "random_audit_item"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    audit_id: Mapped[UUID] = mapped_column(primary_key=True)
    activity_id: Mapped[UUID] = mapped_column(primary_key=True)
    behaviour: Mapped[Behaviour] = mapped_column(choice(Behaviour, "behaviour"))
    source: Mapped[str] = mapped_column(sa.String(40))
    points: Mapped[int] = mapped_column(sa.Integer)
    finding: Mapped[Finding | None] = mapped_column(choice(Finding, "finding"))
    checked_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    checked_at: Mapped[datetime | None]
    note: Mapped[str | None] = mapped_column(sa.String(NOTE_LENGTH_MAX))

    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["audit_id", "behaviour", "source"],
            ["random_audit_stratum.audit_id", "random_audit_stratum.behaviour", "random_audit_stratum.source"],
            name="random_audit_item_stratum_fkey",
        ),
        sa.CheckConstraint("points > 0", name="points"),
        sa.CheckConstraint(
            "num_nonnulls(finding, checked_by, checked_at, note) IN (0, 4)"
            " AND (finding = 'right' OR btrim(note) <> '')",
            name="checked",
        ),
        sa.Index("random_audit_item_audit_ix", "audit_id", "activity_id"),
    )
