"""Frozen releases of statistics: what everybody may read, the exact figures that it was decided from, and the files.

A release is made in one transaction and never changes: the tables are append-only, and a row added later is refused.
Public pages read `statistics_cell` and `statistics_file`; `statistics_exact` is for making the next release, because
what a quarter may show hangs on what its months have shown and hidden.
"""

import enum
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from points.statistics.periods import Grain
from server.database import Base, choice

RELEASED_GRAINS = (Grain.MONTH, Grain.QUARTER, Grain.YEAR)

REASON_LENGTH_MAX = 500


class FileFormat(enum.StrEnum):
    """As what a table of a release can be had."""

    CSV = "csv"
    JSON = "json"


class StatisticsRelease(Base):
    """The figures of one month, quarter or year as they were frozen; a correction is a further one that names it."""

    __tablename__ = "statistics_release"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    grain: Mapped[Grain] = mapped_column(choice(Grain, "grain"))
    starts_on: Mapped[date]
    revision: Mapped[int] = mapped_column(sa.SmallInteger, server_default="1")
    replaces: Mapped[UUID | None] = mapped_column(sa.ForeignKey("statistics_release.id"), unique=True)
    reason: Mapped[str | None] = mapped_column(sa.String(REASON_LENGTH_MAX))  # of a correction
    frozen_at: Mapped[datetime]
    frozen_by: Mapped[UUID | None]  # None: by the job, or by an operator on the machine itself
    cell_count: Mapped[int] = mapped_column(sa.Integer)
    exact_count: Mapped[int] = mapped_column(sa.Integer)
    file_count: Mapped[int] = mapped_column(sa.SmallInteger)
    content_sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))  # over the files' own, in their order

    __table_args__ = (
        sa.UniqueConstraint("grain", "starts_on", "revision", name="statistics_release_revision_key"),
        sa.CheckConstraint(
            "grain IN ('month', 'quarter', 'year')"
            " AND starts_on = cast(date_trunc(grain, cast(starts_on AS timestamp)) AS date)",
            name="period",
        ),
        sa.CheckConstraint("(revision = 1) = (replaces IS NULL) AND revision BETWEEN 1 AND 100", name="revision"),
        sa.CheckConstraint("(replaces IS NULL) = (reason IS NULL) AND btrim(reason) <> ''", name="reason"),
        sa.CheckConstraint("least(cell_count, exact_count, file_count) >= 0", name="counts"),
    )


class StatisticsCell(Base):
    """What a release tells of one place and category: figures by measure, null where one is withheld."""

    __tablename__ = "statistics_cell"

    release_id: Mapped[UUID] = mapped_column(sa.ForeignKey("statistics_release.id"), primary_key=True)
    table_code: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    place_code: Mapped[str] = mapped_column(sa.String(12), primary_key=True)
    category: Mapped[str] = mapped_column(sa.String(60), primary_key=True, server_default="")
    figures: Mapped[dict[str, Any]]

    __table_args__ = (sa.CheckConstraint("jsonb_typeof(figures) = 'object'", name="figures"),)


class StatisticsExact(Base):
    """The exact figures behind a cell when it was frozen, where they are not all zero.

    Never published; staff read the kept counts instead.
    """

    __tablename__ = "statistics_exact"

    release_id: Mapped[UUID] = mapped_column(sa.ForeignKey("statistics_release.id"), primary_key=True)
    table_code: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    place_code: Mapped[str] = mapped_column(sa.String(12), primary_key=True)
    category: Mapped[str] = mapped_column(sa.String(60), primary_key=True, server_default="")
    figures: Mapped[dict[str, Any]]
    contributors: Mapped[dict[str, Any]]  # residents behind each measure
    largest: Mapped[dict[str, Any]]  # the most that one resident has of it

    __table_args__ = (
        sa.CheckConstraint(
            "jsonb_typeof(figures) = 'object' AND jsonb_typeof(contributors) = 'object'"
            " AND jsonb_typeof(largest) = 'object'",
            name="objects",
        ),
    )


class StatisticsFile(Base):
    """A table of a release as the bytes that were published under its hash."""

    __tablename__ = "statistics_file"

    release_id: Mapped[UUID] = mapped_column(sa.ForeignKey("statistics_release.id"), primary_key=True)
    table_code: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    format: Mapped[FileFormat] = mapped_column(choice(FileFormat, "format"), primary_key=True)
    content: Mapped[bytes]
    sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))
    row_count: Mapped[int] = mapped_column(sa.Integer)

    __table_args__ = (
        sa.CheckConstraint("sha256 = sha256(content)", name="sha256"),
        sa.CheckConstraint("octet_length(content) <= 20000000 AND row_count >= 0", name="size"),
    )
