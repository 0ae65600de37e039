"""Files in the store, and exports made by jobs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# A file is what it was when it came: the service may delete it, by its two columns, and change nothing else about it.
GRANTS = """
GRANT SELECT, INSERT ON stored_file TO tanpuhui_app;
GRANT UPDATE (deleted_at, original_name) ON stored_file TO tanpuhui_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON export TO tanpuhui_app
"""


def upgrade() -> None:
    op.create_table(
        "stored_file",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("purpose", sa.String(length=40), nullable=False),
        sa.Column("media_type", sa.String(length=40), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("pages", sa.SmallInteger(), nullable=True),
        sa.Column("original_name", sa.String(length=200), nullable=False),
        sa.Column("uploaded_by", sa.Uuid(), nullable=True),
        sa.Column("uploaded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("purpose ~ '^[a-z][a-z0-9-]*$'", name=op.f("stored_file_purpose_check")),
        sa.CheckConstraint(
            "media_type IN ('application/pdf', 'image/jpeg', 'image/png')", name=op.f("stored_file_media_type_check")
        ),
        sa.CheckConstraint("size_bytes BETWEEN 1 AND 20971520", name=op.f("stored_file_size_bytes_check")),
        sa.CheckConstraint("octet_length(sha256) = 32", name=op.f("stored_file_sha256_length_check")),
        sa.CheckConstraint(
            "CASE WHEN media_type = 'application/pdf' "
            "THEN num_nulls(width, height) = 2 AND coalesce(pages BETWEEN 1 AND 200, false) "
            "ELSE pages IS NULL AND coalesce(width > 0 AND height > 0 "
            "AND width::bigint * height <= 40000000, false) END",
            name=op.f("stored_file_extent_check"),
        ),
        sa.CheckConstraint(
            "(deleted_at IS NOT NULL) = (original_name = '')", name=op.f("stored_file_name_forgotten_check")
        ),
        sa.CheckConstraint("deleted_at >= uploaded_at", name=op.f("stored_file_deleted_after_uploaded_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("stored_file_pkey")),
    )
    op.create_table(
        "export",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column(
            "format",
            sa.Enum("csv", "xlsx", name="format", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("arguments", postgresql.JSONB(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "running",
                "done",
                "failed",
                "cancelled",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            server_default="queued",
            nullable=False,
        ),
        sa.Column("slot", sa.SmallInteger(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("requested_by", sa.Uuid(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rows_written", sa.Integer(), server_default="0", nullable=False),
        sa.Column("columns", sa.ARRAY(sa.Text()), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("store_name", sa.String(length=80), nullable=True),
        sa.Column("problem", sa.String(length=60), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("slot BETWEEN 1 AND 3", name=op.f("export_slot_check")),
        sa.CheckConstraint("attempts BETWEEN 0 AND 3", name=op.f("export_attempts_check")),
        sa.CheckConstraint("octet_length(arguments::text) <= 4096", name=op.f("export_arguments_length_check")),
        sa.CheckConstraint("octet_length(columns::text) <= 8192", name=op.f("export_columns_length_check")),
        sa.CheckConstraint("rows_written BETWEEN 0 AND 1000000", name=op.f("export_rows_written_check")),
        sa.CheckConstraint("octet_length(sha256) = 32", name=op.f("export_sha256_length_check")),
        sa.CheckConstraint("size_bytes > 0", name=op.f("export_size_bytes_check")),
        sa.CheckConstraint(
            "(state IN ('queued', 'running')) = (finished_at IS NULL)", name=op.f("export_finished_check")
        ),
        sa.CheckConstraint("state <> 'running' OR started_at IS NOT NULL", name=op.f("export_started_check")),
        sa.CheckConstraint(
            "num_nonnulls(columns, sha256, size_bytes, store_name) = CASE WHEN state = 'done' THEN 4 ELSE 0 END",
            name=op.f("export_manifest_check"),
        ),
        sa.CheckConstraint("(state = 'failed') = (problem IS NOT NULL)", name=op.f("export_problem_check")),
        sa.CheckConstraint("expires_at > requested_at", name=op.f("export_expires_later_check")),
        sa.ForeignKeyConstraint(["requested_by"], ["staff.id"], name=op.f("export_requested_by_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("export_pkey")),
        sa.UniqueConstraint("store_name", name=op.f("export_store_name_key")),
    )
    op.create_index(op.f("export_expires_at_ix"), "export", ["expires_at"], unique=False)
    op.create_index(op.f("export_requested_by_id_ix"), "export", ["requested_by", "id"], unique=False)
    op.create_index(
        "export_unfinished_key",
        "export",
        ["requested_by", "slot"],
        unique=True,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.execute(GRANTS)


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
