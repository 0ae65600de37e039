"""Random audits: a seeded sample of paid claims by quarter, and what people found."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

BEHAVIOURS = ("walk", "bicycle", "e-bike", "bus", "metro", "sorting", "recycling")

# A sample is drawn once: were it drawn again, whoever disliked it could go on until one pleases.
HOLD_AUDIT = """
CREATE FUNCTION hold_random_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.drawn_at IS NOT NULL
       OR to_jsonb(NEW) - ARRAY['drawn_at', 'as_of', 'strata_count', 'items_count', 'problem']
          <> to_jsonb(OLD) - ARRAY['drawn_at', 'as_of', 'strata_count', 'items_count', 'problem'] THEN
        RAISE EXCEPTION 'a random audit is drawn once' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

# What a sample consists of comes with it, before it counts as drawn.
HOLD_PARTS = """
CREATE FUNCTION hold_random_audit_part() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM random_audit a WHERE a.id = NEW.audit_id AND a.drawn_at IS NOT NULL) THEN
        RAISE EXCEPTION 'the sample is drawn' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

# What a person found of an item is written once, and nothing else of it.
HOLD_ITEM = """
CREATE FUNCTION hold_random_audit_item() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.finding IS NOT NULL
       OR to_jsonb(NEW) - ARRAY['finding', 'checked_by', 'checked_at', 'note']
          <> to_jsonb(OLD) - ARRAY['finding', 'checked_by', 'checked_at', 'note'] THEN
        RAISE EXCEPTION 'an item of an audit is checked once' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

GUARDS = (
    ("hold_random_audit", "random_audit", "UPDATE"),
    ("refuse_change", "random_audit", "DELETE"),
    ("hold_random_audit_part", "random_audit_stratum", "INSERT"),
    ("refuse_change", "random_audit_stratum", "UPDATE OR DELETE"),
    ("hold_random_audit_part", "random_audit_item", "INSERT"),
    ("hold_random_audit_item", "random_audit_item", "UPDATE"),
    ("refuse_change", "random_audit_item", "DELETE"),
)


def _behaviour() -> sa.Enum:
    return sa.Enum(*BEHAVIOURS, name="behaviour", native_enum=False, create_constraint=True, length=40)


def upgrade() -> None:
    op.create_table(
        "random_audit",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("seed", sa.LargeBinary(length=32), nullable=False),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("requested_by", sa.Uuid(), nullable=True),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=True),
        sa.Column("drawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("strata_count", sa.Integer(), nullable=True),
        sa.Column("items_count", sa.Integer(), nullable=True),
        sa.Column("problem", sa.String(length=60), nullable=True),
        sa.CheckConstraint(
            "starts_on = cast(date_trunc('quarter', cast(starts_on AS timestamp)) AS date)",
            name=op.f("random_audit_quarter_check"),
        ),
        sa.CheckConstraint("octet_length(seed) = 32", name=op.f("random_audit_seed_check")),
        sa.CheckConstraint(
            "jsonb_typeof(plan) = 'object' AND octet_length(plan::text) <= 20000", name=op.f("random_audit_plan_check")
        ),
        sa.CheckConstraint(
            "num_nonnulls(drawn_at, as_of, strata_count, items_count) IN (0, 4)", name=op.f("random_audit_drawn_check")
        ),
        sa.CheckConstraint("least(strata_count, items_count) >= 0", name=op.f("random_audit_counts_check")),
        sa.ForeignKeyConstraint(["requested_by"], ["staff.id"], name=op.f("random_audit_requested_by_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("random_audit_pkey")),
        sa.UniqueConstraint("starts_on", name=op.f("random_audit_starts_on_key")),
    )
    op.create_table(
        "random_audit_stratum",
        sa.Column("audit_id", sa.Uuid(), nullable=False),
        sa.Column("behaviour", _behaviour(), nullable=False),
        sa.Column("source", sa.String(length=40), nullable=False),
        sa.Column("claims", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("sampled_claims", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "sampled_claims BETWEEN 0 AND claims AND points >= claims", name=op.f("random_audit_stratum_sizes_check")
        ),
        sa.ForeignKeyConstraint(["audit_id"], ["random_audit.id"], name=op.f("random_audit_stratum_audit_id_fkey")),
        sa.PrimaryKeyConstraint("audit_id", "behaviour", "source", name=op.f("random_audit_stratum_pkey")),
    )
    op.create_table(
        "random_audit_item",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("audit_id", sa.Uuid(), nullable=False),
        sa.Column("activity_id", sa.Uuid(), nullable=False),
        sa.Column("behaviour", _behaviour(), nullable=False),
        sa.Column("source", sa.String(length=40), nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column(
            "finding",
            sa.Enum(
                "right",
                "wrong",
                "cannot-be-told",
                name="finding",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=True,
        ),
        sa.Column("checked_by", sa.Uuid(), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("note", sa.String(length=300), nullable=True),
        sa.CheckConstraint("points > 0", name=op.f("random_audit_item_points_check")),
        sa.CheckConstraint(
            "num_nonnulls(finding, checked_by, checked_at, note) IN (0, 4) AND (finding = 'right' OR btrim(note) <> '')",
            name=op.f("random_audit_item_checked_check"),
        ),
        sa.ForeignKeyConstraint(
            ["audit_id", "behaviour", "source"],
            ["random_audit_stratum.audit_id", "random_audit_stratum.behaviour", "random_audit_stratum.source"],
            name=op.f("random_audit_item_stratum_fkey"),
        ),
        sa.ForeignKeyConstraint(["checked_by"], ["staff.id"], name=op.f("random_audit_item_checked_by_fkey")),
        sa.PrimaryKeyConstraint("resident_id", "audit_id", "activity_id", name=op.f("random_audit_item_pkey")),
    )
    op.create_index("random_audit_item_audit_ix", "random_audit_item", ["audit_id", "activity_id"])
    for function in (HOLD_AUDIT, HOLD_PARTS, HOLD_ITEM):
        op.execute(function)
    for function, table, events in GUARDS:
        op.execute(
            f"CREATE TRIGGER {table}_{function} BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
    for table in ("random_audit", "random_audit_stratum", "random_audit_item"):
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_change()"
        )
    op.execute("GRANT SELECT, INSERT, UPDATE ON random_audit, random_audit_item TO tanpuhui_app")
    op.execute("GRANT SELECT, INSERT ON random_audit_stratum TO tanpuhui_app")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
