"""Tracks: what a phone recorded of one trip, sealed and for thirty days at most; then only figures of it are kept."""

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from points.earning.claims import REASON_TEXTS, Reason
from server.database import Base, choice

CHUNKS_MAX = 50
CHUNK_FIXES_MAX = 400
MARKS_MAX = 12


class TrackMode(enum.StrEnum):
    """How the resident says they travelled. No e-bike: its motion cannot be told from a bicycle's."""

    WALK = "walk"
    BICYCLE = "bicycle"
    BUS = "bus"
    METRO = "metro"


class TrackState(enum.StrEnum):
    """Chunks come in until the phone says that it was the last."""

    RECEIVING = "receiving"
    FINISHED = "finished"


class Erasure(enum.StrEnum):
    """Why the positions of a track are gone."""

    KEPT_LONG_ENOUGH = "kept-long-enough"
    CONSENT_WITHDRAWN = "consent-withdrawn"
    ASKED = "asked"


class Track(Base):
    """One recorded trip; its id is the phone's own. What was found, and figures without a place, outlive the positions.

    `exact_mark` is a keyed hash of the steps from fix to fix: the same recording, moved in time or uploaded by
    somebody else, has the same.
    """

    __tablename__ = "track"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    mode: Mapped[TrackMode] = mapped_column(choice(TrackMode, "mode"))
    datum: Mapped[str] = mapped_column(sa.String(10))
    device: Mapped[str] = mapped_column(sa.String(80))  # `phone:` and a keyed hash of the installation
    state: Mapped[TrackState] = mapped_column(choice(TrackState, "state"), server_default="receiving")
    opened_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    chunks: Mapped[int | None] = mapped_column(sa.SmallInteger)
    fixes: Mapped[int | None] = mapped_column(sa.Integer)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    checks_id: Mapped[str | None] = mapped_column(sa.String(40))
    checks_sha256: Mapped[bytes | None]
    finding: Mapped[str | None] = mapped_column(sa.String(40))  # a reason code, None: nothing found against it
    figures: Mapped[dict[str, Any] | None]
    line_id: Mapped[str | None] = mapped_column(sa.String(40))
    exact_mark: Mapped[bytes | None]
    activity_id: Mapped[UUID | None]
    erased_at: Mapped[datetime | None]
    erased_because: Mapped[Erasure | None] = mapped_column(choice(Erasure, "erased_because"))

    @property
    def finding_zh(self) -> str | None:
        """The finding in Chinese."""
        return REASON_TEXTS[Reason(self.finding)][0] if self.finding else None

    @property
    def finding_en(self) -> str | None:
        """The finding in English."""
        return REASON_TEXTS[Reason(self.finding)][1] if self.finding else None

    __table_args__ = (
        sa.Index("track_exact_mark_ix", "exact_mark", postgresql_where=sa.text("exact_mark IS NOT NULL")),
        sa.Index("track_kept_ix", "opened_at", postgresql_where=sa.text("erased_at IS NULL")),
        sa.CheckConstraint("datum IN ('wgs-84', 'gcj-02')", name="datum"),
        sa.CheckConstraint(
            "num_nonnulls(finished_at, chunks, fixes, started_at, ended_at, checks_id, checks_sha256, figures) "
            "= CASE state WHEN 'finished' THEN 8 ELSE 0 END",
            name="finished",
        ),
        sa.CheckConstraint(f"chunks BETWEEN 1 AND {CHUNKS_MAX} AND fixes >= 1", name="size"),
        sa.CheckConstraint("ended_at >= started_at", name="span"),
        sa.CheckConstraint("octet_length(checks_sha256) = 32 AND octet_length(exact_mark) = 32", name="sha256_length"),
        sa.CheckConstraint("octet_length(figures::text) <= 4096", name="figures_length"),
        sa.CheckConstraint("(erased_at IS NULL) = (erased_because IS NULL)", name="erased"),
    )


class TrackChunk(Base):
    """Some of a track's fixes, sealed for its owner. Never shown, never changed; deleted with the whole track's."""

    __tablename__ = "track_chunk"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    track_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    fixes: Mapped[int] = mapped_column(sa.SmallInteger)
    content_hash: Mapped[bytes]  # keyed, so that a chunk sent again is known without opening it
    sealed: Mapped[bytes]
    received_at: Mapped[datetime]

    __table_args__ = (
        sa.ForeignKeyConstraint(["resident_id", "track_id"], ["track.resident_id", "track.id"], ondelete="CASCADE"),
        sa.CheckConstraint(f"number BETWEEN 0 AND {CHUNKS_MAX - 1}", name="number"),
        sa.CheckConstraint(f"fixes BETWEEN 1 AND {CHUNK_FIXES_MAX}", name="fixes"),
        sa.CheckConstraint(
            "octet_length(sealed) BETWEEN 1 AND 16384 AND octet_length(content_hash) = 32", name="length"
        ),
    )


class TrackMark(Base):
    """What a later track is compared with: keyed hashes of places in their order, and a sealed sketch of the way.

    As personal as the positions themselves, and deleted with them.
    """

    __tablename__ = "track_mark"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    track_id: Mapped[UUID] = mapped_column(primary_key=True)
    marks: Mapped[list[int]] = mapped_column(ARRAY(sa.BigInteger))
    sealed: Mapped[bytes]
    written_at: Mapped[datetime]

    __table_args__ = (
        sa.ForeignKeyConstraint(["resident_id", "track_id"], ["track.resident_id", "track.id"], ondelete="CASCADE"),
        sa.Index("track_mark_marks_ix", "marks", postgresql_using="gin"),
        sa.CheckConstraint(f"cardinality(marks) <= {MARKS_MAX}", name="marks"),
        sa.CheckConstraint("octet_length(sealed) BETWEEN 1 AND 16384", name="sealed_length"),
    )
