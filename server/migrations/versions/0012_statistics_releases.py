"""Frozen releases of statistics, with what each tells, what it was decided from, and its files."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TABLES = ("statistics_release", "statistics_cell", "statistics_exact", "statistics_file")

# A release is whole when it is made: a row that comes later, however innocent, would change what was published.
REFUSE_LATE_ROWS = """
CREATE FUNCTION refuse_late_statistics() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    late boolean;
BEGIN
    EXECUTE format(
        'SELECT EXISTS (SELECT 1 FROM statistics_release r'
        ' WHERE r.id IN (SELECT release_id FROM added)'
        ' AND (SELECT count(*) FROM %I k WHERE k.release_id = r.id) > r.%I)',
        TG_TABLE_NAME, TG_ARGV[0]) INTO late;
    IF late THEN
        RAISE EXCEPTION 'the release has all its rows' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$
"""

COUNTED = {"statistics_cell": "cell_count", "statistics_exact": "exact_count", "statistics_file": "file_count"}


def _key() -> list[sa.Column[Any]]:
    return [
        sa.Column("release_id", sa.Uuid(), nullable=False),
        sa.Column("table_code", sa.String(length=40), nullable=False),
    ]


def _place() -> list[sa.Column[Any]]:
    return [
        sa.Column("place_code", sa.String(length=12), nullable=False),
        sa.Column("category", sa.String(length=60), server_default="", nullable=False),
    ]


def _of_release(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["release_id"], ["statistics_release.id"], name=op.f(f"{table}_release_id_fkey"))


def _tables() -> None:
    op.create_table(
        "statistics_release",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "grain",
            sa.Enum(
                "day",
                "week",
                "month",
                "quarter",
                "year",
                name="grain",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("revision", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("replaces", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=True),
        sa.Column("frozen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("frozen_by", sa.Uuid(), nullable=True),
        sa.Column("cell_count", sa.Integer(), nullable=False),
        sa.Column("exact_count", sa.Integer(), nullable=False),
        sa.Column("file_count", sa.SmallInteger(), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.CheckConstraint(
            "grain IN ('month', 'quarter', 'year')"
            " AND starts_on = cast(date_trunc(grain, cast(starts_on AS timestamp)) AS date)",
            name=op.f("statistics_release_period_check"),
        ),
        sa.CheckConstraint(
            "(revision = 1) = (replaces IS NULL) AND revision BETWEEN 1 AND 100",
            name=op.f("statistics_release_revision_check"),
        ),
        sa.CheckConstraint(
            "(replaces IS NULL) = (reason IS NULL) AND btrim(reason) <> ''",
            name=op.f("statistics_release_reason_check"),
        ),
        sa.CheckConstraint(
            "least(cell_count, exact_count, file_count) >= 0", name=op.f("statistics_release_counts_check")
        ),
        sa.ForeignKeyConstraint(["replaces"], ["statistics_release.id"], name=op.f("statistics_release_replaces_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("statistics_release_pkey")),
        sa.UniqueConstraint("grain", "starts_on", "revision", name="statistics_release_revision_key"),
        sa.UniqueConstraint("replaces", name=op.f("statistics_release_replaces_key")),
    )
    op.create_table(
        "statistics_cell",
        *_key(),
        *_place(),
        sa.Column("figures", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint("jsonb_typeof(figures) = 'object'", name=op.f("statistics_cell_figures_check")),
        _of_release("statistics_cell"),
        sa.PrimaryKeyConstraint(
            "release_id", "table_code", "place_code", "category", name=op.f("statistics_cell_pkey")
        ),
    )
    op.create_table(
        "statistics_exact",
        *_key(),
        *_place(),
        sa.Column("figures", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("contributors", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("largest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint(
            "jsonb_typeof(figures) = 'object' AND jsonb_typeof(contributors) = 'object'"
            " AND jsonb_typeof(largest) = 'object'",
            name=op.f("statistics_exact_objects_check"),
        ),
        _of_release("statistics_exact"),
        sa.PrimaryKeyConstraint(
            "release_id", "table_code", "place_code", "category", name=op.f("statistics_exact_pkey")
        ),
    )
    op.create_table(
        "statistics_file",
        *_key(),
        sa.Column(
            "format",
            sa.Enum("csv", "json", name="format", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("row_count", sa.Integer(), nullable=False),
        sa.CheckConstraint("sha256 = sha256(content)", name=op.f("statistics_file_sha256_check")),
        sa.CheckConstraint(
            "octet_length(content) <= 20000000 AND row_count >= 0", name=op.f("statistics_file_size_check")
        ),
        _of_release("statistics_file"),
        sa.PrimaryKeyConstraint("release_id", "table_code", "format", name=op.f("statistics_file_pkey")),
    )


def upgrade() -> None:
    _tables()
    op.execute(REFUSE_LATE_ROWS)
    for table in TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_refuse_change BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_change()"
        )
        op.execute(f"GRANT SELECT, INSERT ON {table} TO tanpuhui_app")
    for table, column in COUNTED.items():
        op.execute(
            f"CREATE TRIGGER {table}_refuse_late AFTER INSERT ON {table} REFERENCING NEW TABLE AS added "
            f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_late_statistics('{column}')"
        )


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
