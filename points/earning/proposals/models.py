"""What the district proposes to change of its rules and methods, who decided, and what a replay said of it."""

import enum
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice

CONTENT_BYTES_MAX = 200_000
REASON_LENGTH_MAX = 500
FEN_PER_100_POINTS_MAX = 100_000
ATTEMPTS_MAX = 3

_STANDING = sa.text("state IN ('approved', 'enacted')")


class ProposalKind(enum.StrEnum):
    """What is proposed: the earning rules anew, or a carbon method for the rules as they are."""

    RULES = "rules"
    METHOD = "method"


class ProposalState(enum.StrEnum):
    """How far a proposal has come. `lapsed`: its day began before it was approved or written."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    ENACTED = "enacted"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    LAPSED = "lapsed"


class RuleProposal(Base):
    """A dated version of the rules, or a method, that one person proposes and another decides on.

    `subject_id` is the id of what is proposed, `version_id` that of the rules version that comes of it; a method comes
    into force with the rules of `base_version_id`, which were the latest when it was proposed. Its content never
    changes; only its state moves on, each step counted in `version`.
    """

    __tablename__ = "rule_proposal"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[ProposalKind] = mapped_column(choice(ProposalKind, "kind"))
    subject_id: Mapped[str] = mapped_column(sa.String(60))
    version_id: Mapped[str] = mapped_column(sa.String(40))
    base_version_id: Mapped[str | None] = mapped_column(sa.String(40), sa.ForeignKey("rule_version.id"))
    content: Mapped[str]  # the TOML as it was sent
    content_sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))
    valid_from: Mapped[date]
    reason: Mapped[str] = mapped_column(sa.String(REASON_LENGTH_MAX))
    fen_per_100_points: Mapped[int | None] = mapped_column(sa.Integer)  # what points cost the district, as assumed
    state: Mapped[ProposalState] = mapped_column(choice(ProposalState, "state"), server_default="proposed")
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")
    proposed_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    proposed_at: Mapped[datetime]
    decided_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    decided_at: Mapped[datetime | None]
    decision_reason: Mapped[str | None] = mapped_column(sa.String(REASON_LENGTH_MAX))
    withdrawn_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    withdrawn_at: Mapped[datetime | None]
    withdrawn_because: Mapped[str | None] = mapped_column(sa.String(REASON_LENGTH_MAX))
    enacted_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("kind = 'rules' OR base_version_id IS NOT NULL", name="base"),
        sa.CheckConstraint(f"octet_length(content) BETWEEN 1 AND {CONTENT_BYTES_MAX}", name="content"),
        sa.CheckConstraint("octet_length(content_sha256) = 32", name="content_sha256"),
        sa.CheckConstraint(
            "btrim(reason) <> '' AND btrim(decision_reason) <> '' AND btrim(withdrawn_because) <> ''", name="reasons"
        ),
        sa.CheckConstraint(f"fen_per_100_points BETWEEN 0 AND {FEN_PER_100_POINTS_MAX}", name="fen_per_100_points"),
        sa.CheckConstraint(
            "num_nonnulls(decided_by, decided_at, decision_reason) = CASE"
            " WHEN state IN ('approved', 'enacted', 'rejected') OR state <> 'proposed' AND decided_at IS NOT NULL"
            " THEN 3 ELSE 0 END",
            name="decided",
        ),
        sa.CheckConstraint("decided_by <> proposed_by", name="four_eyes"),
        sa.CheckConstraint(
            "num_nonnulls(withdrawn_by, withdrawn_at, withdrawn_because)"
            " = CASE WHEN state = 'withdrawn' THEN 3 ELSE 0 END",
            name="withdrawn",
        ),
        sa.CheckConstraint("(state = 'enacted') = (enacted_at IS NOT NULL)", name="enacted"),
        sa.CheckConstraint(
            # Days begin in Shanghai: nothing takes effect on a day that has begun.
            "greatest(decided_at, enacted_at) < cast(valid_from AS timestamp) AT TIME ZONE 'Asia/Shanghai'"
            " OR state NOT IN ('approved', 'enacted')",
            name="in_time",
        ),
        sa.Index("rule_proposal_version_key", "version_id", unique=True, postgresql_where=_STANDING),
        sa.Index("rule_proposal_subject_key", "subject_id", unique=True, postgresql_where=_STANDING),
        sa.Index("rule_proposal_day_key", "valid_from", unique=True, postgresql_where=_STANDING),
    )


class RuleReplay(Base):
    """The last weeks under a proposal: how far the job has come, and its report. It stands once there is a decision."""

    __tablename__ = "rule_replay"

    proposal_id: Mapped[UUID] = mapped_column(sa.ForeignKey("rule_proposal.id"), primary_key=True)
    first_on: Mapped[date]
    last_on: Mapped[date]
    attempts: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")
    started_at: Mapped[datetime | None]
    days_done: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")
    activities_done: Mapped[int] = mapped_column(server_default="0")
    finished_at: Mapped[datetime | None]
    problem: Mapped[str | None] = mapped_column(sa.String(60))
    report: Mapped[dict[str, Any] | None]

    __table_args__ = (
        sa.CheckConstraint("last_on - first_on BETWEEN 0 AND 30", name="period"),
        sa.CheckConstraint(f"attempts BETWEEN 0 AND {ATTEMPTS_MAX}", name="attempts"),
        sa.CheckConstraint("least(days_done, activities_done) >= 0", name="progress"),
        sa.CheckConstraint("(finished_at IS NULL) = (report IS NULL)", name="finished"),
        sa.CheckConstraint("jsonb_typeof(report) = 'object' AND octet_length(report::text) <= 1048576", name="report"),
    )
