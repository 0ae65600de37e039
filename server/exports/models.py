"""Exports: what a member of staff asked for, how far its job is, and what came of it."""

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice

UNFINISHED_PER_PERSON_MAX = 3
ATTEMPTS_MAX = 3
# A week of the whole district's activities. A spreadsheet's sheet ends far below; such a file has several.
ROWS_MAX = 20_000_000


class ExportFormat(enum.StrEnum):
    """The form of the file."""

    CSV = "csv"
    XLSX = "xlsx"


class ExportState(enum.StrEnum):
    """Where an export stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Export(Base):
    """One export. `slot` is the person's own place in the queue: three places, held until the export is finished.

    `attempts` counts the runs: a run whose worker was taken for dead may wake, and must not finish another's work.
    """

    __tablename__ = "export"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(40))
    format: Mapped[ExportFormat] = mapped_column(choice(ExportFormat, "format"))
    arguments: Mapped[dict[str, Any]]
    state: Mapped[ExportState] = mapped_column(choice(ExportState, "state"), server_default="queued")
    slot: Mapped[int] = mapped_column(sa.SmallInteger)
    attempts: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")
    requested_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    requested_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    rows_written: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    columns: Mapped[list[str] | None]
    sha256: Mapped[bytes | None]
    size_bytes: Mapped[int | None]
    store_name: Mapped[str | None] = mapped_column(sa.String(80), unique=True)
    problem: Mapped[str | None] = mapped_column(sa.String(60))
    expires_at: Mapped[datetime] = mapped_column(index=True)

    __table_args__ = (
        sa.Index(
            "export_unfinished_key",
            "requested_by",
            "slot",
            unique=True,
            postgresql_where="state IN ('queued', 'running')",
        ),
        sa.Index(None, "requested_by", "id"),
        sa.CheckConstraint(f"slot BETWEEN 1 AND {UNFINISHED_PER_PERSON_MAX}", name="slot"),
        sa.CheckConstraint(f"attempts BETWEEN 0 AND {ATTEMPTS_MAX}", name="attempts"),
        sa.CheckConstraint("octet_length(arguments::text) <= 4096", name="arguments_length"),
        sa.CheckConstraint("octet_length(columns::text) <= 8192", name="columns_length"),
        sa.CheckConstraint(f"rows_written BETWEEN 0 AND {ROWS_MAX}", name="rows_written"),
        sa.CheckConstraint("octet_length(sha256) = 32", name="sha256_length"),
        sa.CheckConstraint("size_bytes > 0", name="size_bytes"),
        sa.CheckConstraint("(state IN ('queued', 'running')) = (finished_at IS NULL)", name="finished"),
        sa.CheckConstraint("state <> 'running' OR started_at IS NOT NULL", name="started"),
        # What is called done has all of its manifest, and nothing else has any of it.
        sa.CheckConstraint(
            "num_nonnulls(columns, sha256, size_bytes, store_name) = CASE WHEN state = 'done' THEN 4 ELSE 0 END",
            name="manifest",
        ),
        sa.CheckConstraint("(state = 'failed') = (problem IS NOT NULL)", name="problem"),
        sa.CheckConstraint("expires_at > requested_at", name="expires_later"),
    )
