"""Tracks with their own consent, and steps that a walk has paid already."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

PURPOSES = ("terms", "werun-steps", "partner", "ranking", "tracks")

# A finished track stays as it was found; only its positions go. One that never finished may go as a whole.
HOLD_TRACK = """
CREATE FUNCTION hold_track() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    erasure text[] := ARRAY['erased_at', 'erased_because'];
    named text[] := ARRAY['resident_id', 'id', 'mode', 'datum', 'device', 'opened_at'];
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.state = 'finished' THEN
            RAISE EXCEPTION 'what was found of a track stays' USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN OLD;
    END IF;
    IF OLD.erased_at IS NOT NULL
       OR (OLD.state = 'finished' AND to_jsonb(NEW) - erasure <> to_jsonb(OLD) - erasure)
       OR (SELECT count(*) FROM unnest(named) AS n(name)
           WHERE to_jsonb(NEW) -> n.name IS DISTINCT FROM to_jsonb(OLD) -> n.name) > 0 THEN
        RAISE EXCEPTION 'a track is finished once and erased once' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'track_held';
    END IF;
    RETURN NEW;
END $$
"""

# Positions come in under a standing consent alone. Both rows are held until the insert commits: a withdrawal at this
# moment waits, and then erases what was inserted; a track that is being finished takes no more.
HOLD_POSITIONS = """
CREATE FUNCTION hold_track_positions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        RAISE EXCEPTION 'the positions of a track do not change' USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM 1 FROM consent
    WHERE resident_id = NEW.resident_id AND purpose = 'tracks' AND withdrawn_at IS NULL FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no consent to tracks stands' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'track_consent';
    END IF;
    PERFORM 1 FROM track
    WHERE resident_id = NEW.resident_id AND id = NEW.track_id AND erased_at IS NULL
      AND (state = 'receiving' OR TG_TABLE_NAME = 'track_mark') FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the track takes no more positions' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'track_closed';
    END IF;
    RETURN NEW;
END $$
"""

# In the very transaction of the withdrawal, whatever code withdraws: there is no moment at which the consent is gone and
# the positions are not.
ERASE_TRACKS = """
CREATE FUNCTION erase_tracks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM track WHERE resident_id = NEW.resident_id AND state = 'receiving';
    UPDATE track SET erased_at = NEW.withdrawn_at, erased_because = 'consent-withdrawn'
    WHERE resident_id = NEW.resident_id AND erased_at IS NULL;
    DELETE FROM track_chunk WHERE resident_id = NEW.resident_id;
    DELETE FROM track_mark WHERE resident_id = NEW.resident_id;
    RETURN NULL;
END $$
"""

GUARDS = (
    ("hold_track", "track", "UPDATE OR DELETE"),
    ("hold_track_positions", "track_chunk", "INSERT OR UPDATE"),
    ("hold_track_positions", "track_mark", "INSERT OR UPDATE"),
)


def upgrade() -> None:
    op.create_table(
        "track",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "mode",
            sa.Enum(
                "walk", "bicycle", "bus", "metro", name="mode", native_enum=False, create_constraint=True, length=40
            ),
            nullable=False,
        ),
        sa.Column("datum", sa.String(length=10), nullable=False),
        sa.Column("device", sa.String(length=80), nullable=False),
        sa.Column(
            "state",
            sa.Enum("receiving", "finished", name="state", native_enum=False, create_constraint=True, length=40),
            server_default="receiving",
            nullable=False,
        ),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("chunks", sa.SmallInteger(), nullable=True),
        sa.Column("fixes", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checks_id", sa.String(length=40), nullable=True),
        sa.Column("checks_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("finding", sa.String(length=40), nullable=True),
        sa.Column("figures", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("line_id", sa.String(length=40), nullable=True),
        sa.Column("exact_mark", sa.LargeBinary(), nullable=True),
        sa.Column("activity_id", sa.Uuid(), nullable=True),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "erased_because",
            sa.Enum(
                "kept-long-enough",
                "consent-withdrawn",
                "asked",
                name="erased_because",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=True,
        ),
        sa.CheckConstraint("datum IN ('wgs-84', 'gcj-02')", name=op.f("track_datum_check")),
        sa.CheckConstraint(
            "num_nonnulls(finished_at, chunks, fixes, started_at, ended_at, checks_id, checks_sha256, figures) "
            "= CASE state WHEN 'finished' THEN 8 ELSE 0 END",
            name=op.f("track_finished_check"),
        ),
        sa.CheckConstraint("chunks BETWEEN 1 AND 50 AND fixes >= 1", name=op.f("track_size_check")),
        sa.CheckConstraint("ended_at >= started_at", name=op.f("track_span_check")),
        sa.CheckConstraint(
            "octet_length(checks_sha256) = 32 AND octet_length(exact_mark) = 32",
            name=op.f("track_sha256_length_check"),
        ),
        sa.CheckConstraint("octet_length(figures::text) <= 4096", name=op.f("track_figures_length_check")),
        sa.CheckConstraint("(erased_at IS NULL) = (erased_because IS NULL)", name=op.f("track_erased_check")),
        sa.PrimaryKeyConstraint("resident_id", "id", name=op.f("track_pkey")),
    )
    op.create_index("track_exact_mark_ix", "track", ["exact_mark"], postgresql_where=sa.text("exact_mark IS NOT NULL"))
    op.create_index("track_kept_ix", "track", ["opened_at"], postgresql_where=sa.text("erased_at IS NULL"))
    op.create_table(
        "track_chunk",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("track_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("fixes", sa.SmallInteger(), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("number BETWEEN 0 AND 49", name=op.f("track_chunk_number_check")),
        sa.CheckConstraint("fixes BETWEEN 1 AND 400", name=op.f("track_chunk_fixes_check")),
        sa.CheckConstraint(
            "octet_length(sealed) BETWEEN 1 AND 16384 AND octet_length(content_hash) = 32",
            name=op.f("track_chunk_length_check"),
        ),
        sa.ForeignKeyConstraint(
            ["resident_id", "track_id"],
            ["track.resident_id", "track.id"],
            name=op.f("track_chunk_resident_id_track_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("resident_id", "track_id", "number", name=op.f("track_chunk_pkey")),
    )
    op.create_table(
        "track_mark",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("track_id", sa.Uuid(), nullable=False),
        sa.Column("marks", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("cardinality(marks) <= 12", name=op.f("track_mark_marks_check")),
        sa.CheckConstraint("octet_length(sealed) BETWEEN 1 AND 16384", name=op.f("track_mark_sealed_length_check")),
        sa.ForeignKeyConstraint(
            ["resident_id", "track_id"],
            ["track.resident_id", "track.id"],
            name=op.f("track_mark_resident_id_track_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("resident_id", "track_id", name=op.f("track_mark_pkey")),
    )
    op.create_index("track_mark_marks_ix", "track_mark", ["marks"], postgresql_using="gin")
    _consent()
    _steps()
    for function in (HOLD_TRACK, HOLD_POSITIONS, ERASE_TRACKS):
        op.execute(function)
    for function, table, events in GUARDS:
        op.execute(
            f"CREATE TRIGGER {table}_{function} BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
    op.execute(
        "CREATE TRIGGER track_refuse_truncate BEFORE TRUNCATE ON track FOR EACH STATEMENT "
        "EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER consent_erase_tracks AFTER UPDATE OF withdrawn_at ON consent FOR EACH ROW "
        "WHEN (NEW.purpose = 'tracks' AND NEW.withdrawn_at IS NOT NULL AND OLD.withdrawn_at IS NULL) "
        "EXECUTE FUNCTION erase_tracks()"
    )
    # Granted as a whole: the triggers decide which rows may change or go. Deleting is erasing.
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON track, track_chunk, track_mark TO tanpuhui_app")


def _consent() -> None:
    # A wider check only: whoever still runs the release before writes nothing that it refuses. Validating reads rows
    # that the old check has let in, under a lock that lets everybody go on.
    name, check = "consent_purpose_check", f"purpose IN ({', '.join(repr(purpose) for purpose in PURPOSES)})"
    op.execute(f"-- squawk-ignore ban-drop-constraint\nALTER TABLE consent DROP CONSTRAINT IF EXISTS {name}")
    op.execute(f"ALTER TABLE consent ADD CONSTRAINT {name} CHECK ({check}) NOT VALID")
    op.execute(f"-- squawk-ignore constraint-missing-not-valid\nALTER TABLE consent VALIDATE CONSTRAINT {name}")


def _steps() -> None:
    # A constant default and an empty column: no row is rewritten.
    op.execute("ALTER TABLE step_day ADD COLUMN walked_steps integer DEFAULT 0 NOT NULL")
    op.execute("ALTER TABLE step_day ADD COLUMN synced_at timestamptz")
    name = "step_day_walked_steps_check"
    op.execute(f"ALTER TABLE step_day ADD CONSTRAINT {name} CHECK (walked_steps BETWEEN 0 AND 1000000) NOT VALID")
    op.execute(f"-- squawk-ignore constraint-missing-not-valid\nALTER TABLE step_day VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
