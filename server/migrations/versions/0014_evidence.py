"""Evidence: what vouched for a claim, grades and bounds of a rule version, holds, and the acts of devices."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

GRADES = ("partner-signed", "staff-confirmed", "sensor", "self-declared")
BOUND_KINDS = ("household", "device", "phone", "staff", "site", "drive", "grade")
SUBJECT_KINDS = ("resident", "household", "device", "site", "staff", "partner")

# A grade's terms and a bound come with their version: one added later would change what history means.
LATE_TERM = """
CREATE FUNCTION refuse_late_term() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM grade_term WHERE version_id = NEW.version_id)
       > (SELECT grade_count FROM rule_version WHERE id = NEW.version_id) THEN
        RAISE EXCEPTION 'rule_version % has all its grades', NEW.version_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$
"""

LATE_BOUND = """
CREATE FUNCTION refuse_late_bound() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM bound_limit WHERE version_id = NEW.version_id)
       > (SELECT bound_count FROM rule_version WHERE id = NEW.version_id) THEN
        RAISE EXCEPTION 'rule_version % has all its bounds', NEW.version_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$
"""

# An order is lifted once and moves only its end, and stays for those who ask why.
HOLD_ORDER = """
CREATE FUNCTION refuse_other_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.lifted_at IS NULL
       AND to_jsonb(NEW) - ARRAY['until', 'lifted_at', 'case_id']
           = to_jsonb(OLD) - ARRAY['until', 'lifted_at', 'case_id'] THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'a hold order is lifted once and never changed' USING ERRCODE = 'restrict_violation';
END $$
"""

GUARDS = (
    ("grade_term", "refuse_change", "BEFORE UPDATE OR DELETE"),
    ("bound_limit", "refuse_change", "BEFORE UPDATE OR DELETE"),
    ("grade_term", "refuse_late_term", "AFTER INSERT"),
    ("bound_limit", "refuse_late_bound", "AFTER INSERT"),
    ("hold_order", "refuse_other_order", "BEFORE UPDATE OR DELETE"),
    ("device_sequence", "refuse_change", "BEFORE UPDATE"),
)

GRANTS = {
    "grade_term": "SELECT, INSERT",
    "bound_limit": "SELECT, INSERT",
    "bound_usage": "SELECT, INSERT, UPDATE, DELETE",
    "hold_order": "SELECT, INSERT, UPDATE",
    "device_sequence": "SELECT, INSERT, UPDATE, DELETE",
    "device_floor": "SELECT, INSERT, UPDATE",
}


def _choice(name: str, values: tuple[str, ...]) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=40)


def upgrade() -> None:
    # Columns with a constant default or none: no table is written anew, and the release before does not see them.
    op.add_column("rule_version", sa.Column("grade_count", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("rule_version", sa.Column("bound_count", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("activity", sa.Column("steps_before", sa.Integer(), nullable=True))
    op.add_column("activity", sa.Column("device", sa.String(length=120), nullable=True))
    op.add_column("activity", sa.Column("staff_id", sa.Uuid(), nullable=True))
    op.add_column("activity", sa.Column("household_id", sa.Uuid(), nullable=True))
    op.create_table(
        "grade_term",
        sa.Column("version_id", sa.String(length=40), nullable=False),
        sa.Column("grade", _choice("grade", GRADES), nullable=False),
        sa.Column("percent", sa.SmallInteger(), nullable=False),
        sa.Column("week_ceiling_points", sa.Integer(), nullable=True),
        sa.CheckConstraint("percent BETWEEN 1 AND 100", name=op.f("grade_term_percent_check")),
        sa.CheckConstraint("week_ceiling_points BETWEEN 0 AND 70000", name=op.f("grade_term_week_ceiling_check")),
        sa.ForeignKeyConstraint(["version_id"], ["rule_version.id"], name=op.f("grade_term_version_id_fkey")),
        sa.PrimaryKeyConstraint("version_id", "grade", name=op.f("grade_term_pkey")),
    )
    op.create_table(
        "bound_limit",
        sa.Column("version_id", sa.String(length=40), nullable=False),
        sa.Column("kind", _choice("kind", BOUND_KINDS), nullable=False),
        sa.Column("day_points", sa.Integer(), nullable=False),
        sa.CheckConstraint("day_points BETWEEN 0 AND 10000000", name=op.f("bound_limit_day_points_check")),
        sa.CheckConstraint("kind <> 'grade'", name=op.f("bound_limit_not_grade_check")),
        sa.ForeignKeyConstraint(["version_id"], ["rule_version.id"], name=op.f("bound_limit_version_id_fkey")),
        sa.PrimaryKeyConstraint("version_id", "kind", name=op.f("bound_limit_pkey")),
    )
    op.create_table(
        "bound_usage",
        sa.Column("kind", _choice("kind", BOUND_KINDS), nullable=False),
        sa.Column("subject", sa.String(length=120), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("limit_points", sa.BigInteger(), nullable=False),
        sa.Column("taken_points", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("taken_points BETWEEN 0 AND limit_points", name=op.f("bound_usage_taken_points_check")),
        sa.CheckConstraint("kind <> 'grade' OR extract(isodow FROM day) = 1", name=op.f("bound_usage_monday_check")),
        sa.PrimaryKeyConstraint("kind", "subject", "day", name=op.f("bound_usage_pkey")),
    )
    op.create_index(
        "bound_usage_day_brin",
        "bound_usage",
        ["day"],
        unique=False,
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    )
    op.create_table(
        "hold_order",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subject_kind", _choice("subject_kind", SUBJECT_KINDS), nullable=False),
        sa.Column("subject", sa.String(length=120), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=True),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "until > placed_at AND until <= placed_at + interval '92 days'", name=op.f("hold_order_until_check")
        ),
        sa.CheckConstraint("lifted_at >= placed_at", name=op.f("hold_order_lifted_at_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("hold_order_pkey")),
    )
    op.create_index(
        "hold_order_standing_key",
        "hold_order",
        ["subject_kind", "subject", "reason"],
        unique=True,
        postgresql_where=sa.text("lifted_at IS NULL"),
    )
    op.create_table(
        "device_sequence",
        sa.Column("partner_code", sa.String(length=40), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("sequence >= 0", name=op.f("device_sequence_sequence_check")),
        sa.PrimaryKeyConstraint("partner_code", "device", "sequence", name=op.f("device_sequence_pkey")),
    )
    op.create_index(
        "device_sequence_taken_at_brin", "device_sequence", ["taken_at"], unique=False, postgresql_using="brin"
    )
    op.create_table(
        "device_floor",
        sa.Column("partner_code", sa.String(length=40), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("sequence >= 0", name=op.f("device_floor_sequence_check")),
        sa.PrimaryKeyConstraint("partner_code", "device", name=op.f("device_floor_pkey")),
    )
    # Rows that are added to all day stay on their page (heap-only updates) and leave their indexes alone.
    op.execute("ALTER TABLE bound_usage SET (fillfactor = 70)")
    # One quick pass each; an award touches the first never and pays the second a comparison.
    for index in (
        "activity_held_ix ON activity (id) WHERE outcome = 'held'",
        "activity_recorded_at_brin ON activity USING brin (recorded_at) WITH (pages_per_range = 32)",
    ):
        op.execute(f"-- squawk-ignore require-concurrent-index-creation\nCREATE INDEX {index}")
    for function in (LATE_TERM, LATE_BOUND, HOLD_ORDER):
        op.execute(function)
    for table, function, events in GUARDS:
        op.execute(f"CREATE TRIGGER {table}_{function} {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()")
    for table in ("grade_term", "bound_limit", "hold_order"):
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_change()"
        )
    for table, grants in GRANTS.items():
        op.execute(f"GRANT {grants} ON {table} TO tanpuhui_app")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
