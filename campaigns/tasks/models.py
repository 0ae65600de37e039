"""What residents do for a task by hand (quizzes, evidence), and the kept standings."""

import enum
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice


class EvidenceState(enum.StrEnum):
    """An upload waits for one decision."""

    SENT = "sent"
    CONFIRMED = "confirmed"
    REFUSED = "refused"


class StandingSubject(enum.StrEnum):
    """Who stands in a table."""

    TEAM = "team"
    RESIDENT = "resident"


class QuizAttempt(Base):
    """One marked attempt at a quiz. The answers themselves are not kept: nothing needs them once marked."""

    __tablename__ = "quiz_attempt"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    task_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    campaign_id: Mapped[UUID] = mapped_column()
    right_answers: Mapped[int] = mapped_column(sa.SmallInteger)
    answered_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("number BETWEEN 1 AND 10", name="number"),
        sa.CheckConstraint("right_answers BETWEEN 0 AND 20", name="right_answers"),
    )


class TaskEvidence(Base):
    """A resident's upload for an evidence task. `number` counts a resident's uploads, and so limits them."""

    __tablename__ = "task_evidence"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    campaign_id: Mapped[UUID] = mapped_column()
    task_id: Mapped[UUID] = mapped_column()
    number: Mapped[int] = mapped_column(sa.SmallInteger)
    file_id: Mapped[UUID] = mapped_column(sa.ForeignKey("stored_file.id"))
    sha256: Mapped[bytes]  # of the file as stored: one picture counts once
    sent_at: Mapped[datetime]
    state: Mapped[EvidenceState] = mapped_column(choice(EvidenceState, "state"), server_default="sent")
    decided_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    decided_at: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(sa.String(200))

    __table_args__ = (
        sa.UniqueConstraint("resident_id", "task_id", "number"),
        sa.UniqueConstraint("resident_id", "task_id", "sha256"),
        sa.Index("task_evidence_campaign_ix", "campaign_id", "id"),
        # Staff see how often one picture was sent in a campaign, by whomever.
        sa.Index("task_evidence_copies_ix", "campaign_id", "sha256"),
        sa.CheckConstraint("number BETWEEN 1 AND 50", name="number"),
        sa.CheckConstraint("octet_length(sha256) = 32", name="sha256"),
        sa.CheckConstraint(
            "(state = 'sent') = (decided_by IS NULL) AND (state = 'sent') = (decided_at IS NULL)", name="decision"
        ),
        sa.CheckConstraint("state <> 'refused' OR btrim(reason) <> ''", name="reason"),
    )


class StandingRun(Base):
    """When a task's standings were last computed, over how many participants, and when a job for it was last queued."""

    __tablename__ = "standing_run"

    task_id: Mapped[UUID] = mapped_column(primary_key=True)
    computed_at: Mapped[datetime | None]
    requested_at: Mapped[datetime | None]
    participants: Mapped[int] = mapped_column(sa.Integer)


class Standing(Base):
    """One row of a task's standings: a team, or a resident who agreed to appear. A page of it costs its rows.

    `total` is in units of the task, `per_head` is `total` ÷ `members` cut to four places; the ranks are of the exact
    quotients, and equal ones share a rank. The positions put those in one stable order, by name and id.
    """

    __tablename__ = "standing"

    task_id: Mapped[UUID] = mapped_column(primary_key=True)
    subject_kind: Mapped[StandingSubject] = mapped_column(choice(StandingSubject, "subject_kind"), primary_key=True)
    subject_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40))
    total: Mapped[int]
    members: Mapped[int] = mapped_column(sa.Integer)
    per_head: Mapped[Decimal] = mapped_column(sa.Numeric(20, 4))
    rank_total: Mapped[int] = mapped_column(sa.Integer)
    rank_per_head: Mapped[int] = mapped_column(sa.Integer)
    position_total: Mapped[int] = mapped_column(sa.Integer)
    position_per_head: Mapped[int] = mapped_column(sa.Integer)

    __table_args__ = (
        sa.Index("standing_total_ix", "task_id", "subject_kind", "position_total"),
        sa.Index("standing_per_head_ix", "task_id", "subject_kind", "position_per_head"),
        sa.CheckConstraint("members > 0", name="members"),
    )
