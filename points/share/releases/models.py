"""Releases of the green-travel share: what was computed from what, who reviewed it, and that it no longer changes."""

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice

REVISION_MAX = 1000
ATTEMPTS_MAX = 3
REMARK_LENGTH_MAX = 500
# Of 500,000 persons with some attributes each, as JSON; and what zlib makes of it.
INPUT_BYTES_MAX = 512 * 1024 * 1024
INPUT_COMPRESSED_BYTES_MAX = 128 * 1024 * 1024
RESULT_BYTES_MAX = 4 * 1024 * 1024


class ReleaseState(enum.StrEnum):
    """The way of a release: computed by a job, reviewed by a second person, published; or given up on the way."""

    QUEUED = "queued"
    RUNNING = "running"
    FAILED = "failed"
    DRAFT = "draft"  # computed, and nobody has reviewed it
    REVIEWED = "reviewed"
    PUBLISHED = "published"
    DISCARDED = "discarded"


# Each state with what may follow it; `hold_share_release` holds the same in the database.
MOVES: dict[ReleaseState, frozenset[ReleaseState]] = {
    ReleaseState.QUEUED: frozenset({ReleaseState.RUNNING, ReleaseState.FAILED, ReleaseState.DISCARDED}),
    ReleaseState.RUNNING: frozenset(
        {ReleaseState.RUNNING, ReleaseState.DRAFT, ReleaseState.FAILED, ReleaseState.DISCARDED}
    ),
    ReleaseState.FAILED: frozenset({ReleaseState.DISCARDED}),
    ReleaseState.DRAFT: frozenset({ReleaseState.REVIEWED, ReleaseState.DISCARDED}),
    ReleaseState.REVIEWED: frozenset({ReleaseState.PUBLISHED, ReleaseState.DISCARDED}),
    ReleaseState.PUBLISHED: frozenset(),
    ReleaseState.DISCARDED: frozenset(),
}


class ShareRelease(Base):
    """One estimate of a year's share. `revision` counts all that were computed for the year, the discarded ones too.

    A correction names the release that it `corrects`, and why; of a year one release is published first and each is
    corrected at most once, so at any time exactly one is current. `result` is the estimator's answer, a canonical JSON
    document of `points.share.estimate.exchange.Result`; the bytes that it was computed from are in `share_input`.
    """

    __tablename__ = "share_release"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    year: Mapped[int] = mapped_column(sa.SmallInteger)
    revision: Mapped[int] = mapped_column(sa.SmallInteger)
    state: Mapped[ReleaseState] = mapped_column(choice(ReleaseState, "state"))
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")
    definition_id: Mapped[str] = mapped_column(sa.String(60), sa.ForeignKey("share_definition.id"))
    margin_set_code: Mapped[str | None] = mapped_column(sa.String(60), sa.ForeignKey("margin_set.code"))
    options: Mapped[dict[str, Any]]  # as asked for; all that was used, defaults too, stands in the input
    corrects: Mapped[UUID | None]
    reason: Mapped[str] = mapped_column(sa.String(REMARK_LENGTH_MAX), server_default="")

    computed_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    requested_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")
    started_at: Mapped[datetime | None]
    problem: Mapped[str | None] = mapped_column(sa.String(60))
    problem_detail: Mapped[str | None] = mapped_column(sa.String(500))

    computed_at: Mapped[datetime | None]
    input_sha256: Mapped[bytes | None]
    input_size_bytes: Mapped[int | None]
    code_version: Mapped[str | None] = mapped_column(sa.String(120))
    result: Mapped[bytes | None]
    result_sha256: Mapped[bytes | None]
    # 平台记录占比, as it stood when the estimate was computed: beside it, never in it.
    platform_records: Mapped[dict[str, Any] | None]

    reviewed_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    reviewed_at: Mapped[datetime | None]
    remark: Mapped[str | None] = mapped_column(sa.String(REMARK_LENGTH_MAX))
    published_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    published_at: Mapped[datetime | None]
    discarded_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))  # None: its wave was undone
    discarded_at: Mapped[datetime | None]
    discarded_because: Mapped[str | None] = mapped_column(sa.String(REMARK_LENGTH_MAX))

    __table_args__ = (
        sa.UniqueConstraint("year", "revision"),
        sa.UniqueConstraint("id", "year"),
        sa.ForeignKeyConstraint(["corrects", "year"], ["share_release.id", "share_release.year"]),
        sa.Index(
            "share_release_first_key",
            "year",
            unique=True,
            postgresql_where=sa.text("state = 'published' AND corrects IS NULL"),
        ),
        sa.Index(
            "share_release_correction_key", "corrects", unique=True, postgresql_where=sa.text("state = 'published'")
        ),
        sa.CheckConstraint("year BETWEEN 2000 AND 2100", name="year"),
        sa.CheckConstraint(f"revision BETWEEN 1 AND {REVISION_MAX}", name="revision"),
        sa.CheckConstraint(f"attempts BETWEEN 0 AND {ATTEMPTS_MAX}", name="attempts"),
        sa.CheckConstraint("corrects <> id AND (corrects IS NULL) = (reason = '')", name="correction"),
        sa.CheckConstraint(
            "jsonb_typeof(options) = 'object' AND octet_length(options::text) <= 20000"
            " AND octet_length(platform_records::text) <= 20000",
            name="sizes",
        ),
        sa.CheckConstraint("state <> 'running' OR started_at IS NOT NULL", name="started"),
        sa.CheckConstraint(
            "CASE WHEN state = 'failed' THEN problem IS NOT NULL WHEN state <> 'discarded' THEN problem IS NULL"
            " ELSE true END",
            name="problem",
        ),
        # All that makes an estimate repeatable, or nothing of it.
        sa.CheckConstraint(
            "num_nonnulls(computed_at, input_sha256, input_size_bytes, code_version, result, result_sha256,"
            " platform_records) = CASE WHEN state IN ('draft', 'reviewed', 'published')"
            " OR state = 'discarded' AND computed_at IS NOT NULL THEN 7 ELSE 0 END",
            name="computed",
        ),
        sa.CheckConstraint("octet_length(input_sha256) = 32", name="input_sha256"),
        sa.CheckConstraint(f"input_size_bytes BETWEEN 1 AND {INPUT_BYTES_MAX}", name="input_size"),
        sa.CheckConstraint(f"octet_length(result) <= {RESULT_BYTES_MAX}", name="result_size"),
        sa.CheckConstraint("sha256(result) = result_sha256", name="result_sha256"),
        sa.CheckConstraint("num_nonnulls(reviewed_by, reviewed_at, remark) IN (0, 3) AND remark <> ''", name="review"),
        sa.CheckConstraint("state NOT IN ('reviewed', 'published') OR reviewed_at IS NOT NULL", name="reviewed"),
        # Four eyes: nobody reviews what they computed.
        sa.CheckConstraint("reviewed_by <> computed_by", name="reviewed_by_another"),
        sa.CheckConstraint(
            "num_nonnulls(published_by, published_at) = CASE WHEN state = 'published' THEN 2 ELSE 0 END",
            name="published",
        ),
        sa.CheckConstraint(
            "num_nonnulls(discarded_at, discarded_because) = CASE WHEN state = 'discarded' THEN 2 ELSE 0 END"
            " AND (discarded_by IS NULL OR state = 'discarded')",
            name="discarded",
        ),
    )

    @property
    def name(self) -> str:
        """What people call it, such as 2025-1."""
        return f"{self.year}-{self.revision}"


class ShareReleaseWave(Base):
    """A wave that a release is computed from, in the order of the input."""

    __tablename__ = "share_release_wave"

    release_id: Mapped[UUID] = mapped_column(sa.ForeignKey("share_release.id"), primary_key=True)
    wave_id: Mapped[UUID] = mapped_column(sa.ForeignKey("survey_wave.id"), primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger)

    __table_args__ = (
        sa.Index("share_release_wave_wave_ix", "wave_id"),
        sa.CheckConstraint("position BETWEEN 1 AND 24", name="position"),
    )


class ShareInput(Base):
    """The bytes that a release was computed from, compressed by zlib. Goes only with a release that was discarded."""

    __tablename__ = "share_input"

    release_id: Mapped[UUID] = mapped_column(sa.ForeignKey("share_release.id"), primary_key=True)
    content: Mapped[bytes]

    __table_args__ = (
        sa.CheckConstraint(f"octet_length(content) <= {INPUT_COMPRESSED_BYTES_MAX}", name="content_size"),
    )
