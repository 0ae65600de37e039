"""Annual reports, and exports of millions of rows."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# What a report says is frozen when it is made; once published, nothing of it changes and it never goes.
HOLD_REPORT = """
CREATE FUNCTION hold_annual_report() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'published' THEN
        RAISE EXCEPTION 'a published annual report does not change' USING ERRCODE = 'restrict_violation';
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    IF to_jsonb(NEW) - ARRAY['state', 'problem', 'published_by', 'published_at']
       <> to_jsonb(OLD) - ARRAY['state', 'problem', 'published_by', 'published_at'] THEN
        RAISE EXCEPTION 'an annual report is published or thrown away, never changed'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

# A draft's documents go with it, and come again when its drawing was broken off; a published report's stay as they are.
HOLD_FILE = """
CREATE FUNCTION hold_annual_report_file() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    report uuid := CASE WHEN TG_OP = 'DELETE' THEN OLD.report_id ELSE NEW.report_id END;
BEGIN
    IF TG_OP = 'UPDATE' OR EXISTS (SELECT FROM annual_report WHERE id = report AND state = 'published') THEN
        RAISE EXCEPTION 'the documents of a published annual report do not change'
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END $$
"""

GUARDS = (
    ("hold_annual_report", "annual_report", "UPDATE OR DELETE"),
    ("hold_annual_report_file", "annual_report_file", "INSERT OR UPDATE OR DELETE"),
)


def upgrade() -> None:
    op.create_table(
        "annual_report",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("year", sa.SmallInteger(), nullable=False),
        sa.Column("revision", sa.SmallInteger(), nullable=False),
        sa.Column(
            "state",
            sa.Enum("draft", "published", name="state", native_enum=False, create_constraint=True, length=40),
            server_default="draft",
            nullable=False,
        ),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("replaces", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.String(length=300), nullable=True),
        sa.Column("problem", sa.String(length=60), nullable=True),
        sa.Column("made_by", sa.Uuid(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_by", sa.Uuid(), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("year BETWEEN 2020 AND 2100", name=op.f("annual_report_year_check")),
        sa.CheckConstraint("revision BETWEEN 1 AND 99", name=op.f("annual_report_revision_check")),
        sa.CheckConstraint("octet_length(content::text) <= 524288", name=op.f("annual_report_content_length_check")),
        sa.CheckConstraint("octet_length(sha256) = 32", name=op.f("annual_report_sha256_length_check")),
        sa.CheckConstraint("(revision = 1) = (replaces IS NULL)", name=op.f("annual_report_replaces_check")),
        sa.CheckConstraint(
            "(replaces IS NULL) = (reason IS NULL) AND reason <> ''", name=op.f("annual_report_reason_check")
        ),
        sa.CheckConstraint(
            "num_nonnulls(published_by, published_at) = CASE WHEN state = 'published' THEN 2 ELSE 0 END",
            name=op.f("annual_report_published_check"),
        ),
        sa.CheckConstraint("published_by <> made_by", name=op.f("annual_report_four_eyes_check")),
        sa.CheckConstraint("published_at >= made_at", name=op.f("annual_report_published_later_check")),
        sa.ForeignKeyConstraint(["made_by"], ["staff.id"], name=op.f("annual_report_made_by_fkey")),
        sa.ForeignKeyConstraint(["published_by"], ["staff.id"], name=op.f("annual_report_published_by_fkey")),
        sa.ForeignKeyConstraint(["replaces"], ["annual_report.id"], name=op.f("annual_report_replaces_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("annual_report_pkey")),
        sa.UniqueConstraint("replaces", name=op.f("annual_report_replaces_key")),
        sa.UniqueConstraint("year", "revision", name=op.f("annual_report_year_revision_key")),
    )
    op.create_table(
        "annual_report_file",
        sa.Column("report_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("name ~ '^[a-z0-9-]+[.](docx|svg)$'", name=op.f("annual_report_file_name_check")),
        sa.CheckConstraint("octet_length(sha256) = 32", name=op.f("annual_report_file_sha256_length_check")),
        sa.CheckConstraint(
            "octet_length(content) BETWEEN 1 AND 8388608", name=op.f("annual_report_file_content_length_check")
        ),
        sa.ForeignKeyConstraint(
            ["report_id"],
            ["annual_report.id"],
            name=op.f("annual_report_file_report_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("report_id", "name", name=op.f("annual_report_file_pkey")),
    )
    op.execute(HOLD_REPORT)
    op.execute(HOLD_FILE)
    for function, table, events in GUARDS:
        op.execute(
            f"CREATE TRIGGER {table}_{function} BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_change()"
        )
    # Granted as a whole: the triggers decide which rows may change or go.
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON annual_report, annual_report_file TO tanpuhui_app")
    _exports_of_millions()


def _exports_of_millions() -> None:
    # A wider check only: whoever still runs the release before writes nothing that it refuses.
    name = "export_rows_written_check"
    op.execute(f"-- squawk-ignore ban-drop-constraint\nALTER TABLE export DROP CONSTRAINT {name}")
    op.execute(f"ALTER TABLE export ADD CONSTRAINT {name} CHECK (rows_written BETWEEN 0 AND 20000000) NOT VALID")
    # Rows are kept for a week, so there are few; the lock is held already.
    op.execute(f"-- squawk-ignore constraint-missing-not-valid\nALTER TABLE export VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
