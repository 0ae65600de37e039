"""Releases of the green-travel share, with what they were computed from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# A release is born queued and moves on by these steps alone. What was asked for never changes, nor what was computed,
# nor a review; published and discarded are ends. What is published rests on waves and margins that can no longer go.
HOLD_RELEASE = """
CREATE FUNCTION hold_share_release() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    asked text[] := ARRAY['id', 'year', 'revision', 'definition_id', 'margin_set_code', 'options', 'corrects',
                          'reason', 'computed_by', 'requested_at'];
    computed text[] := ARRAY['computed_at', 'input_sha256', 'input_size_bytes', 'code_version', 'result',
                             'result_sha256', 'platform_records'];
    review text[] := ARRAY['reviewed_by', 'reviewed_at', 'remark'];
    kept text[] := asked;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'queued' THEN
            RAISE EXCEPTION 'a release begins as queued' USING ERRCODE = 'check_violation',
                CONSTRAINT = 'share_release_held';
        END IF;
        RETURN NEW;
    END IF;
    IF (OLD.state, NEW.state) NOT IN (
        ('queued', 'running'), ('queued', 'failed'), ('queued', 'discarded'),
        ('running', 'running'), ('running', 'draft'), ('running', 'failed'), ('running', 'discarded'),
        ('failed', 'discarded'), ('draft', 'reviewed'), ('draft', 'discarded'),
        ('reviewed', 'published'), ('reviewed', 'discarded')
    ) THEN
        RAISE EXCEPTION 'no release goes from % to %', OLD.state, NEW.state USING ERRCODE = 'check_violation',
            CONSTRAINT = 'share_release_held';
    END IF;
    IF OLD.computed_at IS NOT NULL THEN
        kept := kept || computed;
    END IF;
    IF OLD.reviewed_at IS NOT NULL THEN
        kept := kept || review;
    END IF;
    IF (SELECT count(*) FROM jsonb_each(to_jsonb(OLD)) AS o(name, value)
        WHERE o.name = ANY (kept) AND (to_jsonb(NEW) -> o.name) IS DISTINCT FROM o.value) > 0 THEN
        RAISE EXCEPTION 'what a release was computed from, and what came of it, stays'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'share_release_held';
    END IF;
    IF NEW.state = 'published' AND (
        NOT EXISTS (SELECT FROM share_release_wave w WHERE w.release_id = NEW.id)
        OR NOT EXISTS (SELECT FROM share_input i WHERE i.release_id = NEW.id)
        OR EXISTS (SELECT FROM share_release_wave w JOIN survey_wave s ON s.id = w.wave_id
                   WHERE w.release_id = NEW.id AND NOT (s.state = 'accepted' AND s.locked))
        OR EXISTS (SELECT FROM margin_set m WHERE m.code = NEW.margin_set_code AND NOT m.locked)
        OR EXISTS (SELECT FROM share_release r WHERE r.id = NEW.corrects AND r.state <> 'published')
    ) THEN
        RAISE EXCEPTION 'a release is published over its kept input, locked waves and margins'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'share_release_held';
    END IF;
    RETURN NEW;
END $$
"""

HOLD_WAVE = """
CREATE FUNCTION hold_share_release_wave() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM share_release r WHERE r.id = NEW.release_id AND r.state = 'queued') THEN
        RAISE EXCEPTION 'the waves of a release are those it was asked for with' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'share_release_held';
    END IF;
    RETURN NEW;
END $$
"""

# The rows behind a discarded release are of no more use, and are about people.
HOLD_INPUT = """
CREATE FUNCTION hold_share_input() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' AND EXISTS (
        SELECT FROM share_release r WHERE r.id = NEW.release_id AND r.state IN ('running', 'draft')) THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' AND EXISTS (
        SELECT FROM share_release r WHERE r.id = OLD.release_id AND r.state = 'discarded') THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the input of a release stays as it is' USING ERRCODE = 'check_violation',
        CONSTRAINT = 'share_release_held';
END $$
"""

GUARDS = (
    ("hold_share_release", "share_release", "INSERT OR UPDATE"),
    ("refuse_change", "share_release", "DELETE"),
    ("hold_share_release_wave", "share_release_wave", "INSERT"),
    ("refuse_change", "share_release_wave", "UPDATE OR DELETE"),
    ("hold_share_input", "share_input", "INSERT OR UPDATE OR DELETE"),
)


def upgrade() -> None:
    op.create_table(
        "share_release",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("year", sa.SmallInteger(), nullable=False),
        sa.Column("revision", sa.SmallInteger(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "running",
                "failed",
                "draft",
                "reviewed",
                "published",
                "discarded",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("definition_id", sa.String(length=60), nullable=False),
        sa.Column("margin_set_code", sa.String(length=60), nullable=True),
        sa.Column("options", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("corrects", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.String(length=500), server_default="", nullable=False),
        sa.Column("computed_by", sa.Uuid(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.String(length=60), nullable=True),
        sa.Column("problem_detail", sa.String(length=500), nullable=True),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("input_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("input_size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("code_version", sa.String(length=120), nullable=True),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("result_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("platform_records", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("reviewed_by", sa.Uuid(), nullable=True),
        sa.Column("reviewed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("remark", sa.String(length=500), nullable=True),
        sa.Column("published_by", sa.Uuid(), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("discarded_by", sa.Uuid(), nullable=True),
        sa.Column("discarded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("discarded_because", sa.String(length=500), nullable=True),
        sa.CheckConstraint("attempts BETWEEN 0 AND 3", name=op.f("share_release_attempts_check")),
        sa.CheckConstraint(
            "corrects <> id AND (corrects IS NULL) = (reason = '')", name=op.f("share_release_correction_check")
        ),
        sa.CheckConstraint(
            "num_nonnulls(computed_at, input_sha256, input_size_bytes, code_version, result, result_sha256,"
            " platform_records) = CASE WHEN state IN ('draft', 'reviewed', 'published')"
            " OR state = 'discarded' AND computed_at IS NOT NULL THEN 7 ELSE 0 END",
            name=op.f("share_release_computed_check"),
        ),
        sa.CheckConstraint(
            "num_nonnulls(discarded_at, discarded_because) = CASE WHEN state = 'discarded' THEN 2 ELSE 0 END"
            " AND (discarded_by IS NULL OR state = 'discarded')",
            name=op.f("share_release_discarded_check"),
        ),
        sa.CheckConstraint("octet_length(input_sha256) = 32", name=op.f("share_release_input_sha256_check")),
        sa.CheckConstraint("input_size_bytes BETWEEN 1 AND 536870912", name=op.f("share_release_input_size_check")),
        sa.CheckConstraint(
            "CASE WHEN state = 'failed' THEN problem IS NOT NULL WHEN state <> 'discarded' THEN problem IS NULL"
            " ELSE true END",
            name=op.f("share_release_problem_check"),
        ),
        sa.CheckConstraint(
            "num_nonnulls(published_by, published_at) = CASE WHEN state = 'published' THEN 2 ELSE 0 END",
            name=op.f("share_release_published_check"),
        ),
        sa.CheckConstraint("sha256(result) = result_sha256", name=op.f("share_release_result_sha256_check")),
        sa.CheckConstraint("octet_length(result) <= 4194304", name=op.f("share_release_result_size_check")),
        sa.CheckConstraint(
            "num_nonnulls(reviewed_by, reviewed_at, remark) IN (0, 3) AND remark <> ''",
            name=op.f("share_release_review_check"),
        ),
        sa.CheckConstraint("reviewed_by <> computed_by", name=op.f("share_release_reviewed_by_another_check")),
        sa.CheckConstraint(
            "state NOT IN ('reviewed', 'published') OR reviewed_at IS NOT NULL",
            name=op.f("share_release_reviewed_check"),
        ),
        sa.CheckConstraint("revision BETWEEN 1 AND 1000", name=op.f("share_release_revision_check")),
        sa.CheckConstraint(
            "jsonb_typeof(options) = 'object' AND octet_length(options::text) <= 20000"
            " AND octet_length(platform_records::text) <= 20000",
            name=op.f("share_release_sizes_check"),
        ),
        sa.CheckConstraint("state <> 'running' OR started_at IS NOT NULL", name=op.f("share_release_started_check")),
        sa.CheckConstraint("year BETWEEN 2000 AND 2100", name=op.f("share_release_year_check")),
        sa.ForeignKeyConstraint(["computed_by"], ["staff.id"], name=op.f("share_release_computed_by_fkey")),
        sa.ForeignKeyConstraint(
            ["corrects", "year"],
            ["share_release.id", "share_release.year"],
            name=op.f("share_release_corrects_year_fkey"),
        ),
        sa.ForeignKeyConstraint(
            ["definition_id"], ["share_definition.id"], name=op.f("share_release_definition_id_fkey")
        ),
        sa.ForeignKeyConstraint(["discarded_by"], ["staff.id"], name=op.f("share_release_discarded_by_fkey")),
        sa.ForeignKeyConstraint(
            ["margin_set_code"], ["margin_set.code"], name=op.f("share_release_margin_set_code_fkey")
        ),
        sa.ForeignKeyConstraint(["published_by"], ["staff.id"], name=op.f("share_release_published_by_fkey")),
        sa.ForeignKeyConstraint(["reviewed_by"], ["staff.id"], name=op.f("share_release_reviewed_by_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("share_release_pkey")),
        sa.UniqueConstraint("id", "year", name=op.f("share_release_id_year_key")),
        sa.UniqueConstraint("year", "revision", name=op.f("share_release_year_revision_key")),
    )
    op.create_index(
        "share_release_correction_key",
        "share_release",
        ["corrects"],
        unique=True,
        postgresql_where=sa.text("state = 'published'"),
    )
    op.create_index(
        "share_release_first_key",
        "share_release",
        ["year"],
        unique=True,
        postgresql_where=sa.text("state = 'published' AND corrects IS NULL"),
    )
    op.create_table(
        "share_release_wave",
        sa.Column("release_id", sa.Uuid(), nullable=False),
        sa.Column("wave_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.CheckConstraint("position BETWEEN 1 AND 24", name=op.f("share_release_wave_position_check")),
        sa.ForeignKeyConstraint(["release_id"], ["share_release.id"], name=op.f("share_release_wave_release_id_fkey")),
        sa.ForeignKeyConstraint(["wave_id"], ["survey_wave.id"], name=op.f("share_release_wave_wave_id_fkey")),
        sa.PrimaryKeyConstraint("release_id", "wave_id", name=op.f("share_release_wave_pkey")),
    )
    op.create_index("share_release_wave_wave_ix", "share_release_wave", ["wave_id"], unique=False)
    op.create_table(
        "share_input",
        sa.Column("release_id", sa.Uuid(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("octet_length(content) <= 134217728", name=op.f("share_input_content_size_check")),
        sa.ForeignKeyConstraint(["release_id"], ["share_release.id"], name=op.f("share_input_release_id_fkey")),
        sa.PrimaryKeyConstraint("release_id", name=op.f("share_input_pkey")),
    )
    # It is compressed already, and read whole.
    op.execute("ALTER TABLE share_input ALTER COLUMN content SET STORAGE EXTERNAL")
    for function in (HOLD_RELEASE, HOLD_WAVE, HOLD_INPUT):
        op.execute(function)
    for function, table, events in GUARDS:
        op.execute(
            f"CREATE TRIGGER {table}_{function} BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
    for table in ("share_release", "share_release_wave", "share_input"):
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_change()"
        )
    op.execute("GRANT SELECT, INSERT, UPDATE ON share_release TO tanpuhui_app")
    op.execute("GRANT SELECT, INSERT ON share_release_wave TO tanpuhui_app")
    # Its trigger decides which rows may go, and that none changes.
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON share_input TO tanpuhui_app")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
