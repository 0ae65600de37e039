"""What waits for a person: cases, their decisions, appeals; and what the detectors keep between two runs."""

import enum
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice

DETAIL_BYTES_MAX = 8192
APPEAL_LENGTH_MAX = 500
ANSWER_LENGTH_MAX = 500
# A finding about one person lists no more of their activities than this; the rest stays as it is.
ACTIVITIES_MAX = 200


class CaseKind(enum.StrEnum):
    """What is to be decided. `points.review.kinds` says what a decision of each kind does."""

    HELD_CLAIM = "held-claim"
    LEAD = "lead"  # paid activities that a detector found
    APPEAL = "appeal"
    RECYCLING_DISPUTE = "recycling-dispute"


class CaseState(enum.StrEnum):
    """Where a case stands. The last two are ends."""

    OPEN = "open"
    PROPOSED = "proposed"  # one person has decided, and it takes a second
    DECIDED = "decided"
    SUPERSEDED = "superseded"  # what it was about was settled otherwise


STANDING = (CaseState.OPEN, CaseState.PROPOSED)


class Verdict(enum.StrEnum):
    """In whose favour: release, leave, uphold; or refuse, take back, reject."""

    GRANTED = "granted"
    DENIED = "denied"


class Case(Base):
    """One question about one resident's activities or papers, which people answer.

    `subject_id` is what the kind decides about: an activity, an order, for a lead the resident. There is one standing
    case for each resident, kind, subject and reason. `points` are what is at stake; above the edition's limit it takes
    two people. `activity_id` is set where the case is about one activity; a lead lists its own in `CaseActivity`.
    """

    __tablename__ = "review_case"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[CaseKind] = mapped_column(choice(CaseKind, "kind"))
    subject_id: Mapped[UUID]
    activity_id: Mapped[UUID | None]
    community_code: Mapped[str] = mapped_column(sa.String(12))
    reason: Mapped[str] = mapped_column(sa.String(40))
    points: Mapped[int] = mapped_column(sa.Integer)
    two_people: Mapped[bool]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=sa.text("'{}'"))
    opened_at: Mapped[datetime]
    state: Mapped[CaseState] = mapped_column(choice(CaseState, "state"), server_default="open")
    assigned_to: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    assigned_at: Mapped[datetime | None]
    proposed_verdict: Mapped[Verdict | None] = mapped_column(choice(Verdict, "proposed_verdict"))
    proposed_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    proposed_at: Mapped[datetime | None]
    verdict: Mapped[Verdict | None] = mapped_column(choice(Verdict, "verdict"))
    answer: Mapped[str | None] = mapped_column(sa.String(ANSWER_LENGTH_MAX))
    decided_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("community_code ~ '^[0-9]{12}$'", name="community_code"),
        sa.CheckConstraint("reason ~ '^[a-z][a-z0-9-]*$'", name="reason"),
        sa.CheckConstraint("points >= 0", name="points"),
        sa.CheckConstraint(f"octet_length(detail::text) <= {DETAIL_BYTES_MAX}", name="detail_length"),
        sa.CheckConstraint("(assigned_to IS NULL) = (assigned_at IS NULL)", name="assigned"),
        sa.CheckConstraint(
            "num_nonnulls(proposed_verdict, proposed_by, proposed_at) IN (0, 3)"
            " AND (proposed_by IS NOT NULL OR state <> 'proposed')",
            name="proposed",
        ),
        sa.CheckConstraint(
            "num_nonnulls(verdict, answer, decided_by) = CASE WHEN state = 'decided' THEN 3 ELSE 0 END", name="decided"
        ),
        sa.CheckConstraint("answer <> ''", name="answer"),
        sa.CheckConstraint(
            "(ended_at IS NOT NULL) = (state IN ('decided', 'superseded')) AND ended_at >= opened_at", name="ended"
        ),
        # Above the limit two people decide alike; the same person twice is one person.
        sa.CheckConstraint(
            "state <> 'decided' OR CASE WHEN two_people THEN"
            " proposed_by IS NOT NULL AND proposed_by <> decided_by AND proposed_verdict = verdict"
            " ELSE proposed_by IS NULL END",
            name="two_people",
        ),
        sa.Index(
            "review_case_standing_key",
            "resident_id",
            "kind",
            "subject_id",
            "reason",
            unique=True,
            postgresql_where=sa.text("state IN ('open', 'proposed')"),
        ),
        sa.Index("review_case_id_ix", "id"),
        # The queue, oldest first, whole and by what is asked for most; a page is read off one of them.
        sa.Index("review_case_queue_ix", "id", postgresql_where=sa.text("state IN ('open', 'proposed')")),
        sa.Index("review_case_queue_kind_ix", "kind", "id", postgresql_where=sa.text("state IN ('open', 'proposed')")),
        sa.Index(
            "review_case_queue_reason_ix", "reason", "id", postgresql_where=sa.text("state IN ('open', 'proposed')")
        ),
        sa.Index(
            "review_case_queue_street_ix",
            sa.text("left(community_code, 9)"),
            "id",
            postgresql_where=sa.text("state IN ('open', 'proposed')"),
        ),
        sa.Index(
            "review_case_queue_community_ix",
            "community_code",
            "id",
            postgresql_where=sa.text("state IN ('open', 'proposed')"),
        ),
        sa.Index(
            "review_case_queue_assigned_ix",
            "assigned_to",
            "id",
            postgresql_where=sa.text("state IN ('open', 'proposed') AND assigned_to IS NOT NULL"),
        ),
        sa.Index(
            "review_case_queue_opened_at_ix",
            "opened_at",
            "id",
            postgresql_where=sa.text("state IN ('open', 'proposed')"),
        ),
        sa.Index(
            "review_case_queue_points_ix", "points", "id", postgresql_where=sa.text("state IN ('open', 'proposed')")
        ),
        sa.Index("review_case_activity_ix", "resident_id", "activity_id"),
        sa.Index("review_case_ended_at_ix", "ended_at", postgresql_where=sa.text("state = 'decided'")),
    )


class CaseActivity(Base):
    """A paid activity of a lead, and what it paid. Added while the case stands, never taken away."""

    __tablename__ = "review_case_activity"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    case_id: Mapped[UUID] = mapped_column(primary_key=True)
    activity_id: Mapped[UUID] = mapped_column(primary_key=True)
    points: Mapped[int] = mapped_column(sa.Integer)

    __table_args__ = (
        sa.ForeignKeyConstraint(("resident_id", "case_id"), ("review_case.resident_id", "review_case.id")),
        sa.CheckConstraint("points >= 0", name="points"),
        sa.Index("review_case_activity_activity_ix", "resident_id", "activity_id"),
    )


class CaseDecision(Base):
    """What one person decided about a case, and why. `final` when nobody else was needed. Append-only."""

    __tablename__ = "review_decision"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    case_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    verdict: Mapped[Verdict] = mapped_column(choice(Verdict, "verdict"))
    reason: Mapped[str] = mapped_column(sa.String(ANSWER_LENGTH_MAX))
    final: Mapped[bool]
    decided_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"), index=True)
    decided_at: Mapped[datetime]

    __table_args__ = (
        sa.ForeignKeyConstraint(("resident_id", "case_id"), ("review_case.resident_id", "review_case.id")),
        sa.CheckConstraint("number BETWEEN 1 AND 100", name="number"),
        sa.CheckConstraint("reason <> ''", name="reason"),
    )


class Appeal(Base):
    """A resident's one appeal about one activity, in their own words, which are forgotten in time."""

    __tablename__ = "appeal"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    activity_id: Mapped[UUID] = mapped_column(primary_key=True)  # once for each claim: the key says so
    case_id: Mapped[UUID]
    text: Mapped[str] = mapped_column(sa.String(APPEAL_LENGTH_MAX))
    made_at: Mapped[datetime] = mapped_column(index=True)

    __table_args__ = (
        sa.ForeignKeyConstraint(("resident_id", "case_id"), ("review_case.resident_id", "review_case.id")),
    )


class Edition(Base):
    """One dated edition of what the district decided about review: limits, targets, the detectors' thresholds."""

    __tablename__ = "review_edition"

    id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    valid_from: Mapped[date] = mapped_column(unique=True)
    two_people_points: Mapped[int] = mapped_column(sa.Integer)  # more than this takes two people
    content: Mapped[dict[str, Any]]
    content_sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))

    __table_args__ = (
        sa.CheckConstraint("two_people_points BETWEEN 0 AND 100000", name="two_people_points"),
        sa.CheckConstraint("octet_length(content::text) <= 65536", name="content_length"),
    )


class DetectorMark(Base):
    """Up to when the detectors have looked at what was received."""

    __tablename__ = "detector_mark"

    name: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    looked_until: Mapped[datetime]


class DeviceUse(Base):
    """Which phones a resident's claims of the last weeks came from: a keyed hash of an installation, never a number."""

    __tablename__ = "device_use"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    device: Mapped[str] = mapped_column(sa.String(120), primary_key=True)
    first_at: Mapped[datetime]
    last_at: Mapped[datetime] = mapped_column(index=True)

    __table_args__ = (
        sa.Index("device_use_device_ix", "device"),
        sa.CheckConstraint("last_at >= first_at", name="order"),
    )


class WeightNorm(Base):
    """The usual weight of one category or material, from its own weeks, of those that `site` stands for.

    A source and a site, a source and a space, a site alone, or '' for everybody: `norms.KEYS` writes them.

    Logarithms, because weights of bags are skewed: the median of ln(grams) and its median absolute deviation.
    """

    __tablename__ = "weight_norm"

    site: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    mode: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    weighings: Mapped[int] = mapped_column(sa.Integer)
    median_ln_g: Mapped[float] = mapped_column(sa.Double)
    deviation_ln_g: Mapped[float] = mapped_column(sa.Double)
    computed_at: Mapped[datetime]

    __table_args__ = (sa.CheckConstraint("weighings >= 1 AND deviation_ln_g >= 0", name="sane"),)
