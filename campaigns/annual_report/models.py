"""Annual reports: what each says, frozen when it was made; who made and who published it; and its documents."""

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice

YEAR_MIN, YEAR_MAX = 2020, 2100
REVISIONS_MAX = 99
REASON_LENGTH_MAX = 300
CONTENT_BYTES_MAX = 512 * 1024
FILE_BYTES_MAX = 8 * 1024 * 1024

DOCUMENT = "annual-report.docx"


class ReportState(enum.StrEnum):
    """Where a report stands."""

    DRAFT = "draft"
    PUBLISHED = "published"


class AnnualReport(Base):
    """One report on one year. A draft may be thrown away; what is published stays, and a correction names it.

    `sha256` is that of the content's canonical JSON (`content.packed`). `problem` says why a draft has no documents.
    """

    __tablename__ = "annual_report"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    year: Mapped[int] = mapped_column(sa.SmallInteger)
    revision: Mapped[int] = mapped_column(sa.SmallInteger)
    state: Mapped[ReportState] = mapped_column(choice(ReportState, "state"), server_default="draft")
    content: Mapped[dict[str, Any]]
    sha256: Mapped[bytes]
    replaces: Mapped[UUID | None] = mapped_column(sa.ForeignKey("annual_report.id"), unique=True)
    reason: Mapped[str | None] = mapped_column(sa.String(REASON_LENGTH_MAX))
    problem: Mapped[str | None] = mapped_column(sa.String(60))
    made_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    made_at: Mapped[datetime]
    published_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    published_at: Mapped[datetime | None]

    __table_args__ = (
        # One draft at a time, too: it has the number after the last that was published.
        sa.UniqueConstraint("year", "revision"),
        sa.CheckConstraint(f"year BETWEEN {YEAR_MIN} AND {YEAR_MAX}", name="year"),
        sa.CheckConstraint(f"revision BETWEEN 1 AND {REVISIONS_MAX}", name="revision"),
        sa.CheckConstraint(f"octet_length(content::text) <= {CONTENT_BYTES_MAX}", name="content_length"),
        sa.CheckConstraint("octet_length(sha256) = 32", name="sha256_length"),
        sa.CheckConstraint("(revision = 1) = (replaces IS NULL)", name="replaces"),
        sa.CheckConstraint("(replaces IS NULL) = (reason IS NULL) AND reason <> ''", name="reason"),
        sa.CheckConstraint(
            "num_nonnulls(published_by, published_at) = CASE WHEN state = 'published' THEN 2 ELSE 0 END",
            name="published",
        ),
        # Two people: nobody publishes what they made.
        sa.CheckConstraint("published_by <> made_by", name="four_eyes"),
        sa.CheckConstraint("published_at >= made_at", name="published_later"),
    )


class AnnualReportFile(Base):
    """A document or a picture of a report: the DOCX, and its charts as SVG. Kept beside it, so that both are one.

    They are few and small (a report has some hundred kilobytes), and must not be lost without their report.
    """

    __tablename__ = "annual_report_file"

    report_id: Mapped[UUID] = mapped_column(sa.ForeignKey("annual_report.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(60), primary_key=True)
    sha256: Mapped[bytes]
    content: Mapped[bytes]

    __table_args__ = (
        sa.CheckConstraint("name ~ '^[a-z0-9-]+[.](docx|svg)$'", name="name"),
        sa.CheckConstraint("octet_length(sha256) = 32", name="sha256_length"),
        sa.CheckConstraint(f"octet_length(content) BETWEEN 1 AND {FILE_BYTES_MAX}", name="content_length"),
    )
