"""Sorting sites and collection points, what is brought there, and hidden spot-checks."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# Activities name a site for good, so it is ended and never deleted, and stays what it is.
HOLD_SITE = """
CREATE FUNCTION hold_site() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.code, NEW.kind, NEW.created_at) = (OLD.code, OLD.kind, OLD.created_at) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'a site is ended, never deleted or made another' USING ERRCODE = 'restrict_violation';
END $$
"""

# A check is drawn once and answered once; what it was drawn with never changes, or no estimate could rest on it.
HOLD_SPOT_CHECK = """
CREATE FUNCTION hold_spot_check() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    answer text[] := ARRAY['state', 'decided_by', 'decided_at', 'remark'];
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state = 'sampled' THEN
            RETURN NEW;
        END IF;
    ELSIF TG_OP = 'UPDATE' AND OLD.state = 'sampled' AND NEW.state <> 'sampled'
          AND to_jsonb(NEW) - answer = to_jsonb(OLD) - answer THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'a spot-check is drawn once and answered once' USING ERRCODE = 'restrict_violation';
END $$
"""

GUARDS = (
    ("hold_site", "site", "UPDATE OR DELETE"),
    ("refuse_change", "sorting_drop", "UPDATE OR DELETE"),
    ("refuse_change", "sorting_plan", "UPDATE OR DELETE"),
    ("refuse_change", "spot_check_rate", "UPDATE OR DELETE"),
    ("hold_spot_check", "spot_check", "INSERT OR UPDATE OR DELETE"),
)


def upgrade() -> None:
    op.create_table(
        "site",
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "sorting-site", "collection-point", name="kind", native_enum=False, create_constraint=True, length=40
            ),
            nullable=False,
        ),
        sa.Column(
            "form",
            sa.Enum(
                "bin-room",
                "smart-bins",
                "timed-point",
                "station",
                name="form",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("address", sa.String(length=120), nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("latitude", sa.Double(), nullable=False),
        sa.Column("longitude", sa.Double(), nullable=False),
        sa.Column(
            "datum",
            sa.Enum("wgs-84", "gcj-02", name="datum", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("categories", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("hours", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("partner_code", sa.String(length=40), nullable=True),
        sa.Column("partner_site", sa.String(length=64), nullable=True),
        sa.Column("demonstration", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("valid_to", sa.Date(), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(kind = 'collection-point') = (form = 'station')", name=op.f("site_form_of_kind_check")),
        sa.CheckConstraint(
            "(partner_code IS NULL) = (partner_site IS NULL) AND partner_site ~ '^[!-~]{1,64}$'",
            name=op.f("site_partner_site_check"),
        ),
        sa.CheckConstraint("btrim(name) <> '' AND btrim(address) <> ''", name=op.f("site_name_check")),
        sa.CheckConstraint(
            "categories <@ ARRAY['recyclable', 'hazardous', 'kitchen', 'residual'] AND cardinality(categories) BETWEEN 1 AND 4",
            name=op.f("site_categories_check"),
        ),
        sa.CheckConstraint("code ~ '^[a-z0-9]+(-[a-z0-9]+)+$'", name=op.f("site_code_check")),
        sa.CheckConstraint("community_code ~ '^[0-9]{12}$'", name=op.f("site_community_check")),
        sa.CheckConstraint(
            "jsonb_typeof(hours) = 'array' AND jsonb_array_length(hours) BETWEEN 1 AND 20 AND octet_length(hours::text) <= 32768",
            name=op.f("site_hours_check"),
        ),
        sa.CheckConstraint(
            "latitude BETWEEN -90 AND 90 AND longitude BETWEEN -180 AND 180", name=op.f("site_position_check")
        ),
        sa.CheckConstraint("valid_to >= valid_from", name=op.f("site_validity_check")),
        sa.ForeignKeyConstraint(["community_code"], ["division.code"], name=op.f("site_community_code_fkey")),
        sa.ForeignKeyConstraint(["partner_code"], ["partner.code"], name=op.f("site_partner_code_fkey")),
        sa.PrimaryKeyConstraint("code", name=op.f("site_pkey")),
        sa.UniqueConstraint("partner_code", "partner_site", name="site_partner_site_key"),
    )
    op.create_index(op.f("site_community_code_ix"), "site", ["community_code"], unique=False)
    op.create_table(
        "site_device",
        sa.Column("device", sa.String(length=80), nullable=False),
        sa.Column("site_code", sa.String(length=40), nullable=False),
        sa.CheckConstraint("device ~ '^[a-z0-9-]+:[!-~]+$'", name=op.f("site_device_device_check")),
        sa.ForeignKeyConstraint(["site_code"], ["site.code"], name=op.f("site_device_site_code_fkey")),
        sa.PrimaryKeyConstraint("device", name=op.f("site_device_pkey")),
    )
    op.create_index(op.f("site_device_site_code_ix"), "site_device", ["site_code"], unique=False)
    op.create_table(
        "sorting_drop",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("activity_id", sa.Uuid(), nullable=False),
        sa.Column("scan_id", sa.Uuid(), nullable=False),
        sa.Column(
            "path",
            sa.Enum(
                "smart-bin",
                "supervisor",
                "scanner",
                "site-code",
                name="path",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("site_code", sa.String(length=40), nullable=False),
        sa.Column(
            "category",
            sa.Enum(
                "recyclable",
                "hazardous",
                "kitchen",
                "residual",
                name="category",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column(
            "finding",
            sa.Enum(
                "qualified",
                "unqualified",
                "mixed",
                name="finding",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=True,
        ),
        sa.Column(
            "identified_by",
            sa.Enum("phone", "card", name="identified_by", native_enum=False, create_constraint=True, length=40),
            nullable=True,
        ),
        sa.Column("staff_id", sa.Uuid(), nullable=True),
        sa.Column("dropped_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(path = 'site-code') = (finding IS NULL) AND (path = 'site-code') = (identified_by IS NULL)",
            name=op.f("sorting_drop_found_and_identified_check"),
        ),
        sa.CheckConstraint(
            "(path <> 'supervisor' OR staff_id IS NOT NULL) AND (path <> 'site-code' OR staff_id IS NULL)",
            name=op.f("sorting_drop_supervisor_check"),
        ),
        sa.CheckConstraint("path <> 'smart-bin'", name=op.f("sorting_drop_own_paths_check")),
        sa.ForeignKeyConstraint(
            ["resident_id", "activity_id"],
            ["activity.resident_id", "activity.id"],
            name=op.f("sorting_drop_resident_id_activity_id_fkey"),
        ),
        sa.ForeignKeyConstraint(["site_code"], ["site.code"], name=op.f("sorting_drop_site_code_fkey")),
        sa.ForeignKeyConstraint(["staff_id"], ["staff.id"], name=op.f("sorting_drop_staff_id_fkey")),
        sa.PrimaryKeyConstraint("resident_id", "activity_id", name=op.f("sorting_drop_pkey")),
    )
    op.create_table(
        "sorting_plan",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("source", sa.String(length=300), nullable=False),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("check_within_hours", sa.SmallInteger(), nullable=False),
        sa.Column("site_code_every_minutes", sa.SmallInteger(), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.CheckConstraint("source <> ''", name=op.f("sorting_plan_source_check")),
        sa.CheckConstraint("check_within_hours BETWEEN 1 AND 720", name=op.f("sorting_plan_check_within_hours_check")),
        sa.CheckConstraint(
            "site_code_every_minutes BETWEEN 1 AND 1440", name=op.f("sorting_plan_site_code_every_minutes_check")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("sorting_plan_pkey")),
        sa.UniqueConstraint("valid_from", name=op.f("sorting_plan_valid_from_key")),
    )
    op.create_table(
        "spot_check_rate",
        sa.Column("plan_id", sa.String(length=40), nullable=False),
        sa.Column(
            "path",
            sa.Enum(
                "smart-bin",
                "supervisor",
                "scanner",
                "site-code",
                name="path",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("form", sa.String(length=40), server_default="", nullable=False),
        sa.Column("probability", sa.Numeric(precision=7, scale=6), nullable=False),
        sa.CheckConstraint(
            "form IN ('', 'bin-room', 'smart-bins', 'timed-point', 'station')", name=op.f("spot_check_rate_form_check")
        ),
        sa.CheckConstraint("probability BETWEEN 0 AND 1", name=op.f("spot_check_rate_probability_check")),
        sa.ForeignKeyConstraint(["plan_id"], ["sorting_plan.id"], name=op.f("spot_check_rate_plan_id_fkey")),
        sa.PrimaryKeyConstraint("plan_id", "path", "form", name=op.f("spot_check_rate_pkey")),
    )
    op.create_table(
        "spot_check",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("activity_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "sampled",
                "passed",
                "failed",
                "unchecked",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            server_default="sampled",
            nullable=False,
        ),
        sa.Column(
            "path",
            sa.Enum(
                "smart-bin",
                "supervisor",
                "scanner",
                "site-code",
                name="path",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("plan_id", sa.String(length=40), nullable=False),
        sa.Column("probability", sa.Numeric(precision=7, scale=6), nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("site", sa.String(length=64), nullable=False),
        sa.Column("category", sa.String(length=40), nullable=False),
        sa.Column("business_day", sa.Date(), nullable=False),
        sa.Column("dropped_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("staff_id", sa.Uuid(), nullable=True),
        sa.Column("sampled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("remark", sa.String(length=300), server_default="", nullable=False),
        sa.CheckConstraint(
            "(decided_at IS NOT NULL) = (state <> 'sampled') AND (decided_by IS NOT NULL) = (state IN ('passed', 'failed'))",
            name=op.f("spot_check_decided_check"),
        ),
        sa.CheckConstraint("state <> 'failed' OR remark <> ''", name=op.f("spot_check_remark_check")),
        sa.CheckConstraint("decided_by <> staff_id", name=op.f("spot_check_checked_by_another_check")),
        sa.CheckConstraint("due_at > sampled_at", name=op.f("spot_check_due_check")),
        sa.CheckConstraint("probability > 0 AND probability <= 1", name=op.f("spot_check_probability_check")),
        sa.ForeignKeyConstraint(["decided_by"], ["staff.id"], name=op.f("spot_check_decided_by_fkey")),
        sa.ForeignKeyConstraint(["plan_id"], ["sorting_plan.id"], name=op.f("spot_check_plan_id_fkey")),
        sa.ForeignKeyConstraint(
            ["resident_id", "activity_id"],
            ["activity.resident_id", "activity.id"],
            name=op.f("spot_check_resident_id_activity_id_fkey"),
        ),
        sa.PrimaryKeyConstraint("resident_id", "activity_id", name=op.f("spot_check_pkey")),
        sa.UniqueConstraint("id", name=op.f("spot_check_id_key")),
    )
    op.create_index("spot_check_day_ix", "spot_check", ["business_day"], unique=False)
    op.create_index(
        "spot_check_waiting_ix",
        "spot_check",
        ["community_code", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'sampled'"),
    )
    op.create_table(
        "spot_check_mark",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("drawn_to", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("one", name=op.f("spot_check_mark_one_check")),
        sa.PrimaryKeyConstraint("one", name=op.f("spot_check_mark_pkey")),
    )

    for function in (HOLD_SITE, HOLD_SPOT_CHECK):
        op.execute(function)
    for function, table, events in GUARDS:
        op.execute(
            f"CREATE TRIGGER {table}_{function} BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_change()"
        )
    op.execute("GRANT SELECT, INSERT ON sorting_drop, sorting_plan, spot_check_rate TO tanpuhui_app")
    op.execute("GRANT SELECT, INSERT, UPDATE ON site, spot_check, spot_check_mark TO tanpuhui_app")
    # A device that moves leaves one site for another.
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON site_device TO tanpuhui_app")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
