"""The first schema: people, places, ledger, earning, partners, rewards, campaigns; roles, triggers and jobs."""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[1] / "sql"

# The service's own role. It may not touch what is append-only, whatever its code says. Roles belong to the whole
# PostgreSQL cluster, so another database of the same cluster may have made it first, even at this moment.
ROLE = """
DO $$
BEGIN
    CREATE ROLE tanpuhui_app NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END $$
"""

GRANTS = """
GRANT USAGE ON SCHEMA public TO tanpuhui_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO tanpuhui_app;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO tanpuhui_app;
REVOKE UPDATE, DELETE ON transfer, lot_draw, audit_entry FROM tanpuhui_app;
REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM tanpuhui_app
"""

# The owner's own mistakes stop here too: a journal is corrected by another entry.
APPEND_ONLY = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$
"""

# A carbon method, once loaded, only ends or stops being the default; a rule version only ends; the end is set once.
IMMUTABLE = """
CREATE FUNCTION refuse_all_but_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE'
       AND to_jsonb(NEW) - ARRAY['valid_to', 'is_default'] = to_jsonb(OLD) - ARRAY['valid_to', 'is_default']
       AND (OLD.valid_to IS NULL OR NEW.valid_to IS NOT DISTINCT FROM OLD.valid_to)
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% is immutable once loaded', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$
"""

# Factors come with their method: a factor that joined a method in use would change what history means.
FACTOR_COUNT = """
CREATE FUNCTION refuse_late_factor() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM carbon_factor WHERE method_id = NEW.method_id)
       > (SELECT factor_count FROM carbon_method WHERE id = NEW.method_id) THEN
        RAISE EXCEPTION 'carbon_method % has all its factors', NEW.method_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$
"""

RULE_COUNT = """
CREATE FUNCTION refuse_late_rule() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM earning_rule WHERE version_id = NEW.version_id)
       > (SELECT rule_count FROM rule_version WHERE id = NEW.version_id) THEN
        RAISE EXCEPTION 'rule_version % has all its rules', NEW.version_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$
"""


def _guard(table: str, function: str, events: str, *, when: str = "BEFORE") -> None:
    op.execute(
        f"CREATE TRIGGER {table}_{function} {when} {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
    )


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")
    op.execute(ROLE)
    op.create_table(
        "activity",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "behaviour",
            sa.Enum(
                "walk",
                "bicycle",
                "e-bike",
                "bus",
                "metro",
                "sorting",
                "recycling",
                name="behaviour",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("mode", sa.String(length=40), nullable=False),
        sa.Column(
            "grade",
            sa.Enum(
                "partner-signed",
                "staff-confirmed",
                "sensor",
                "self-declared",
                name="grade",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("source", sa.String(length=40), nullable=False),
        sa.Column("external_id", sa.String(length=64), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "recorded_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("business_day", sa.Date(), nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("distance_m", sa.Integer(), nullable=True),
        sa.Column("weight_g", sa.Integer(), nullable=True),
        sa.Column("steps", sa.Integer(), nullable=True),
        sa.Column("acts", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("site", sa.String(length=64), nullable=True),
        sa.Column("site_kind", sa.String(length=10), nullable=True),
        sa.Column("timing", sa.String(length=12), nullable=True),
        sa.Column("channel", sa.String(length=8), nullable=True),
        sa.Column(
            "outcome",
            sa.Enum(
                "awarded",
                "refused",
                "held",
                "reversed",
                name="outcome",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("reason", sa.String(length=40), nullable=True),
        sa.Column("priced_points", sa.Integer(), server_default="0", nullable=False),
        sa.Column("saved_co2e_mg", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("method_id", sa.String(length=60), nullable=True),
        sa.Column("rule_version_id", sa.String(length=40), nullable=True),
        postgresql.ExcludeConstraint(
            (sa.column("resident_id"), "="),
            (sa.text("tstzrange(started_at, ended_at)"), "&&"),
            where=sa.text("distance_m IS NOT NULL AND outcome = 'awarded'"),
            using="gist",
            name="activity_no_overlap_excl",
        ),
        sa.CheckConstraint("(outcome = 'awarded') = (reason IS NULL)", name=op.f("activity_reason_check")),
        sa.CheckConstraint("channel IN ('online', 'offline')", name=op.f("activity_channel_check")),
        sa.CheckConstraint(
            "ended_at >= started_at AND ended_at <= started_at + interval '1 day'", name=op.f("activity_span_check")
        ),
        sa.CheckConstraint("site_kind IN ('fixed', 'mobile')", name=op.f("activity_site_kind_check")),
        sa.CheckConstraint("timing IN ('scheduled', 'appointment')", name=op.f("activity_timing_check")),
        sa.CheckConstraint("acts IN (0, 1)", name=op.f("activity_acts_check")),
        sa.CheckConstraint(
            "least(distance_m, weight_g, steps, priced_points, saved_co2e_mg) >= 0",
            name=op.f("activity_not_negative_check"),
        ),
        sa.PrimaryKeyConstraint("resident_id", "id", name=op.f("activity_pkey")),
        sa.UniqueConstraint("resident_id", "source", "external_id", name="activity_external_key"),
    )
    op.create_table(
        "audit_entry",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("staff_id", sa.Uuid(), nullable=True),
        sa.Column("act", sa.String(length=60), nullable=False),
        sa.Column("subject", sa.String(length=120), nullable=False),
        sa.Column("detail", postgresql.JSONB(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("octet_length(detail::text) <= 8192", name=op.f("audit_entry_detail_length_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_entry_pkey")),
    )
    op.create_index(op.f("audit_entry_subject_ix"), "audit_entry", ["subject"], unique=False)
    op.create_table(
        "cap_usage",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("cap_group", sa.String(length=40), nullable=False),
        sa.Column("week_on", sa.Date(), nullable=False),
        sa.Column("day_cap_points", sa.Integer(), nullable=False),
        sa.Column("day_0", sa.Integer(), nullable=False),
        sa.Column("day_1", sa.Integer(), nullable=False),
        sa.Column("day_2", sa.Integer(), nullable=False),
        sa.Column("day_3", sa.Integer(), nullable=False),
        sa.Column("day_4", sa.Integer(), nullable=False),
        sa.Column("day_5", sa.Integer(), nullable=False),
        sa.Column("day_6", sa.Integer(), nullable=False),
        sa.Column("day_capped_before", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("extract(isodow FROM week_on) = 1", name=op.f("cap_usage_monday_check")),
        sa.CheckConstraint(
            "least(day_0, day_1, day_2, day_3, day_4, day_5, day_6) >= 0", name=op.f("cap_usage_not_negative_check")
        ),
        sa.PrimaryKeyConstraint("resident_id", "cap_group", "week_on", name=op.f("cap_usage_pkey")),
    )
    op.create_table(
        "carbon_method",
        sa.Column("id", sa.String(length=60), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("travel", "recycling", name="kind", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("title_zh", sa.String(length=100), nullable=False),
        sa.Column("title_en", sa.String(length=100), nullable=False),
        sa.Column("source", sa.String(length=300), nullable=False),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("valid_to", sa.Date(), nullable=True),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("factor_count", sa.SmallInteger(), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.CheckConstraint("id ~ '^[a-z0-9][a-z0-9.-]*$'", name=op.f("carbon_method_id_check")),
        sa.CheckConstraint("source <> ''", name=op.f("carbon_method_source_check")),
        sa.CheckConstraint(
            "NOT (is_default AND valid_to IS NOT NULL)", name=op.f("carbon_method_default_in_force_check")
        ),
        sa.CheckConstraint("factor_count > 0", name=op.f("carbon_method_factor_count_check")),
        sa.CheckConstraint("octet_length(content_sha256) = 32", name=op.f("carbon_method_content_sha256_check")),
        sa.CheckConstraint("valid_to >= valid_from - 1", name=op.f("carbon_method_validity_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("carbon_method_pkey")),
    )
    op.create_index(
        "carbon_method_default_key", "carbon_method", ["kind"], unique=True, postgresql_where=sa.text("is_default")
    )
    op.create_table(
        "community_day",
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column(
            "behaviour",
            sa.Enum(
                "walk",
                "bicycle",
                "e-bike",
                "bus",
                "metro",
                "sorting",
                "recycling",
                name="behaviour",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("mode", sa.String(length=40), nullable=False),
        sa.Column("method_id", sa.String(length=60), server_default="", nullable=False),
        sa.Column("activities", sa.BigInteger(), nullable=False),
        sa.Column("distance_m", sa.BigInteger(), nullable=False),
        sa.Column("weight_g", sa.BigInteger(), nullable=False),
        sa.Column("saved_co2e_mg", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "least(activities, distance_m, weight_g, saved_co2e_mg, points) >= 0",
            name=op.f("community_day_not_negative_check"),
        ),
        sa.PrimaryKeyConstraint(
            "community_code", "day", "behaviour", "mode", "method_id", name=op.f("community_day_pkey")
        ),
    )
    op.create_index("community_day_day_ix", "community_day", ["day"], unique=False)
    op.create_table(
        "consent",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "purpose",
            sa.Enum(
                "terms",
                "werun-steps",
                "partner",
                "ranking",
                name="purpose",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("subject", sa.String(length=40), server_default="", nullable=False),
        sa.Column("text_version", sa.String(length=20), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("withdrawn_at >= given_at", name=op.f("consent_withdrawn_after_given_check")),
        sa.PrimaryKeyConstraint("resident_id", "id", name=op.f("consent_pkey")),
    )
    op.create_index(
        "consent_standing_key",
        "consent",
        ["resident_id", "purpose", "subject"],
        unique=True,
        postgresql_where="withdrawn_at IS NULL",
    )
    op.create_table(
        "debt",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("last_payment_points", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("points >= 0", name=op.f("debt_points_check")),
        sa.PrimaryKeyConstraint("resident_id", name=op.f("debt_pkey")),
    )
    op.create_table(
        "division",
        sa.Column("code", sa.String(length=12), nullable=False),
        sa.Column(
            "level",
            sa.Enum(
                "district", "street", "community", name="level", native_enum=False, create_constraint=True, length=40
            ),
            nullable=False,
        ),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("parent_code", sa.String(length=12), nullable=True),
        sa.Column("edition_on", sa.Date(), nullable=False),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("valid_to", sa.Date(), nullable=True),
        sa.CheckConstraint(
            "CASE level WHEN 'district' THEN parent_code IS NULL ELSE parent_code IS NOT NULL AND parent_code = left(code, length(code) - 3) END",
            name=op.f("division_parent_check"),
        ),
        sa.CheckConstraint("code ~ '^([0-9]{6}|[0-9]{9}|[0-9]{12})$'", name=op.f("division_code_check")),
        sa.CheckConstraint(
            "length(code) = CASE level WHEN 'district' THEN 6 WHEN 'street' THEN 9 ELSE 12 END",
            name=op.f("division_code_of_level_check"),
        ),
        sa.CheckConstraint("name <> ''", name=op.f("division_name_check")),
        sa.CheckConstraint("valid_to >= valid_from - 1", name=op.f("division_validity_check")),
        sa.ForeignKeyConstraint(["parent_code"], ["division.code"], name=op.f("division_parent_code_fkey")),
        sa.PrimaryKeyConstraint("code", name=op.f("division_pkey")),
    )
    op.create_index(op.f("division_parent_code_ix"), "division", ["parent_code"], unique=False)
    op.create_table(
        "idempotency_record",
        sa.Column("actor_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("request_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("answer_status", sa.SmallInteger(), nullable=False),
        sa.Column("answer_type", sa.String(length=100), nullable=False),
        sa.Column("answer_etag", sa.String(length=100), nullable=True),
        sa.Column("answer_body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "octet_length(answer_body) <= 65536", name=op.f("idempotency_record_answer_body_length_check")
        ),
        sa.PrimaryKeyConstraint("actor_id", "key", name=op.f("idempotency_record_pkey")),
    )
    op.create_index(op.f("idempotency_record_created_at_ix"), "idempotency_record", ["created_at"], unique=False)
    op.create_table(
        "lot",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("expires_on", sa.Date(), nullable=False),
        sa.Column("remaining_points", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("remaining_points >= 0", name=op.f("lot_remaining_points_check")),
        sa.PrimaryKeyConstraint("resident_id", "expires_on", name=op.f("lot_pkey")),
    )
    op.create_table(
        "participation",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("resident_id", "campaign_id", name=op.f("participation_pkey")),
    )
    op.create_index("participation_campaign_ix", "participation", ["campaign_id", "community_code"], unique=False)
    op.create_table(
        "partner",
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("name_zh", sa.String(length=60), nullable=False),
        sa.Column("kinds", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("key_a_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("key_b_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("day_budget_points", sa.BigInteger(), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9-]{1,39}$'", name=op.f("partner_code_check")),
        sa.CheckConstraint(
            "kinds <@ ARRAY['ride', 'bin-drop', 'recycling'] AND cardinality(kinds) > 0",
            name=op.f("partner_kinds_check"),
        ),
        sa.CheckConstraint("day_budget_points >= 0", name=op.f("partner_day_budget_points_check")),
        sa.CheckConstraint(
            "octet_length(key_a_sealed) <= 200 AND octet_length(key_b_sealed) <= 200",
            name=op.f("partner_key_length_check"),
        ),
        sa.PrimaryKeyConstraint("code", name=op.f("partner_pkey")),
    )
    op.create_table(
        "redemption",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("reward_id", sa.Uuid(), nullable=False),
        sa.Column("cost_points", sa.Integer(), nullable=False),
        sa.Column("redeemed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("resident_id", "id", name=op.f("redemption_pkey")),
    )
    op.create_table(
        "resident_day",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column(
            "behaviour",
            sa.Enum(
                "walk",
                "bicycle",
                "e-bike",
                "bus",
                "metro",
                "sorting",
                "recycling",
                name="behaviour",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("activities", sa.Integer(), nullable=False),
        sa.Column("distance_m", sa.BigInteger(), nullable=False),
        sa.Column("weight_g", sa.BigInteger(), nullable=False),
        sa.Column("saved_co2e_mg", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "least(activities, distance_m, weight_g, saved_co2e_mg, points) >= 0",
            name=op.f("resident_day_not_negative_check"),
        ),
        sa.PrimaryKeyConstraint("resident_id", "day", "behaviour", name=op.f("resident_day_pkey")),
    )
    op.create_index(
        "resident_day_day_brin",
        "resident_day",
        ["day"],
        unique=False,
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32},
    )
    op.create_table(
        "reward",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("name_zh", sa.String(length=60), nullable=False),
        sa.Column("name_en", sa.String(length=60), nullable=False),
        sa.Column("cost_points", sa.Integer(), nullable=False),
        sa.Column("stock", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.CheckConstraint("cost_points BETWEEN 1 AND 1000000", name=op.f("reward_cost_points_check")),
        sa.CheckConstraint("stock >= 0", name=op.f("reward_stock_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("reward_pkey")),
        sa.UniqueConstraint("code", name=op.f("reward_code_key")),
    )
    op.create_table(
        "sign_in",
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.Integer(), server_default="0", nullable=False),
        sa.Column("rotated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_because", sa.String(length=30), nullable=True),
        sa.Column("created_on", sa.Date(), nullable=False),
        sa.CheckConstraint("(ended_at IS NULL) = (ended_because IS NULL)", name=op.f("sign_in_ended_check")),
        sa.PrimaryKeyConstraint("person_id", "id", name=op.f("sign_in_pkey")),
    )
    op.create_index(op.f("sign_in_expires_at_ix"), "sign_in", ["expires_at"], unique=False)
    op.create_table(
        "step_day",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("steps_before", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint("steps BETWEEN 0 AND 200000 AND steps_before >= 0", name=op.f("step_day_steps_check")),
        sa.PrimaryKeyConstraint("resident_id", "day", name=op.f("step_day_pkey")),
    )
    op.create_table(
        "system_account",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("code", sa.String(length=60), nullable=False),
        sa.Column("name_zh", sa.String(length=60), nullable=False),
        sa.Column("budget_points", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("budget_points >= 0", name=op.f("system_account_budget_points_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("system_account_pkey")),
        sa.UniqueConstraint("code", name=op.f("system_account_code_key")),
    )
    op.create_table(
        "theme_day",
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("year", sa.SmallInteger(), nullable=False),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("ends_on", sa.Date(), nullable=False),
        sa.Column("name_zh", sa.String(length=60), nullable=False),
        sa.Column("name_en", sa.String(length=60), nullable=False),
        sa.Column("theme", sa.String(length=120), nullable=True),
        sa.Column("source", sa.String(length=120), nullable=False),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.CheckConstraint("code ~ '^[a-z][a-z0-9-]*$'", name=op.f("theme_day_code_check")),
        sa.CheckConstraint("source <> ''", name=op.f("theme_day_source_check")),
        sa.CheckConstraint("ends_on >= starts_on", name=op.f("theme_day_order_check")),
        sa.CheckConstraint("extract(year FROM starts_on) = year", name=op.f("theme_day_year_check")),
        sa.PrimaryKeyConstraint("code", "year", name=op.f("theme_day_pkey")),
    )
    op.create_table(
        "transfer",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "award",
                "grant",
                "spend",
                "expiry",
                "reversal",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("expires_on", sa.Date(), nullable=True),
        sa.Column("reverses_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(kind = 'reversal') = (reverses_id IS NOT NULL)", name=op.f("transfer_reversal_check")),
        sa.CheckConstraint("(kind IN ('award', 'grant')) = (expires_on IS NOT NULL)", name=op.f("transfer_lot_check")),
        sa.CheckConstraint(
            "CASE kind WHEN 'award' THEN points > 0 WHEN 'grant' THEN points > 0 WHEN 'spend' THEN points < 0 WHEN 'expiry' THEN points < 0 ELSE points <> 0 END",
            name=op.f("transfer_sign_check"),
        ),
        sa.ForeignKeyConstraint(
            ["resident_id", "reverses_id"], ["transfer.resident_id", "transfer.id"], name="transfer_reverses_fkey"
        ),
        sa.PrimaryKeyConstraint("resident_id", "id", name=op.f("transfer_pkey")),
    )
    op.create_index(
        "transfer_reverses_key",
        "transfer",
        ["resident_id", "reverses_id"],
        unique=True,
        postgresql_where="reverses_id IS NOT NULL",
    )
    op.create_table(
        "wechat_identity",
        sa.Column("appid", sa.String(length=50), nullable=False),
        sa.Column("openid", sa.String(length=64), nullable=False),
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("session_key_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "octet_length(session_key_sealed) <= 200", name=op.f("wechat_identity_session_key_length_check")
        ),
        sa.PrimaryKeyConstraint("appid", "openid", name=op.f("wechat_identity_pkey")),
        sa.UniqueConstraint("resident_id", name=op.f("wechat_identity_resident_id_key")),
    )
    op.create_table(
        "binding",
        sa.Column("partner_code", sa.String(length=40), nullable=False),
        sa.Column("member_id", sa.String(length=64), nullable=False),
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("bound_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("member_id ~ '^[!-~]{1,64}$'", name=op.f("binding_member_id_check")),
        sa.ForeignKeyConstraint(["partner_code"], ["partner.code"], name=op.f("binding_partner_code_fkey")),
        sa.PrimaryKeyConstraint("partner_code", "member_id", name=op.f("binding_pkey")),
        sa.UniqueConstraint("resident_id", "partner_code", name="binding_resident_key"),
    )
    op.create_table(
        "carbon_factor",
        sa.Column("method_id", sa.String(length=60), nullable=False),
        sa.Column("key", sa.String(length=40), nullable=False),
        sa.Column(
            "unit",
            sa.Enum("metre", "gram", name="unit", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("micrograms_per_unit", sa.BigInteger(), nullable=False),
        sa.Column("stated", sa.String(length=40), nullable=False),
        sa.Column("source", sa.String(length=300), nullable=False),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("note", sa.String(length=300), server_default="", nullable=False),
        sa.CheckConstraint("key ~ '^[a-z][a-z0-9_-]*$'", name=op.f("carbon_factor_key_check")),
        sa.CheckConstraint("source <> '' AND stated <> ''", name=op.f("carbon_factor_source_check")),
        sa.CheckConstraint(
            "micrograms_per_unit BETWEEN 0 AND 1000000000", name=op.f("carbon_factor_micrograms_per_unit_check")
        ),
        sa.ForeignKeyConstraint(["method_id"], ["carbon_method.id"], name=op.f("carbon_factor_method_id_fkey")),
        sa.PrimaryKeyConstraint("method_id", "key", name=op.f("carbon_factor_pkey")),
    )
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("partner_code", sa.String(length=40), nullable=False),
        sa.Column("batch_id", sa.String(length=64), nullable=False),
        sa.Column("line_number", sa.Integer(), nullable=False),
        sa.Column("line", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("redriven_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("redriven_outcome", sa.String(length=40), nullable=True),
        sa.CheckConstraint("octet_length(line) <= 4096", name=op.f("dead_letter_line_length_check")),
        sa.ForeignKeyConstraint(["partner_code"], ["partner.code"], name=op.f("dead_letter_partner_code_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("dead_letter_pkey")),
    )
    op.create_index(
        "dead_letter_waiting_ix",
        "dead_letter",
        ["partner_code", "id"],
        unique=False,
        postgresql_where="redriven_at IS NULL",
    )
    op.create_table(
        "feed_batch",
        sa.Column("partner_code", sa.String(length=40), nullable=False),
        sa.Column("batch_id", sa.String(length=64), nullable=False),
        sa.Column("body_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("octet_length(answer) <= 1048576", name=op.f("feed_batch_answer_length_check")),
        sa.ForeignKeyConstraint(["partner_code"], ["partner.code"], name=op.f("feed_batch_partner_code_fkey")),
        sa.PrimaryKeyConstraint("partner_code", "batch_id", name=op.f("feed_batch_pkey")),
    )
    op.create_index(op.f("feed_batch_received_at_ix"), "feed_batch", ["received_at"], unique=False)
    op.create_table(
        "lot_draw",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("transfer_id", sa.Uuid(), nullable=False),
        sa.Column("expires_on", sa.Date(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("points > 0", name=op.f("lot_draw_points_check")),
        sa.ForeignKeyConstraint(
            ["resident_id", "transfer_id"], ["transfer.resident_id", "transfer.id"], name="lot_draw_transfer_fkey"
        ),
        sa.PrimaryKeyConstraint("resident_id", "transfer_id", "expires_on", name=op.f("lot_draw_pkey")),
    )
    op.create_table(
        "organisation",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "school",
                "agency",
                "mall",
                "enterprise",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("valid_to", sa.Date(), nullable=True),
        sa.CheckConstraint("btrim(name) <> ''", name=op.f("organisation_name_check")),
        sa.CheckConstraint("community_code ~ '^[0-9]{12}$'", name=op.f("organisation_community_check")),
        sa.CheckConstraint("valid_to >= valid_from", name=op.f("organisation_validity_check")),
        sa.ForeignKeyConstraint(["community_code"], ["division.code"], name=op.f("organisation_community_code_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("organisation_pkey")),
        sa.UniqueConstraint("community_code", "name", name=op.f("organisation_community_code_name_key")),
    )
    op.create_table(
        "partner_day",
        sa.Column("partner_code", sa.String(length=40), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("budget_points", sa.BigInteger(), nullable=False),
        sa.Column("taken_points", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("taken_points BETWEEN 0 AND budget_points", name=op.f("partner_day_taken_points_check")),
        sa.ForeignKeyConstraint(["partner_code"], ["partner.code"], name=op.f("partner_day_partner_code_fkey")),
        sa.PrimaryKeyConstraint("partner_code", "day", name=op.f("partner_day_pkey")),
    )
    op.create_table(
        "resident",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=True),
        sa.Column("nickname", sa.String(length=24), nullable=True),
        sa.Column("born_in", sa.SmallInteger(), nullable=True),
        sa.Column("phone_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("phone_hash", sa.LargeBinary(), nullable=True),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(phone_sealed IS NULL) = (phone_hash IS NULL)", name=op.f("resident_phone_check")),
        sa.CheckConstraint("born_in BETWEEN 1900 AND 2100", name=op.f("resident_born_in_check")),
        sa.CheckConstraint(
            "octet_length(phone_sealed) <= 200 AND octet_length(phone_hash) = 32",
            name=op.f("resident_phone_length_check"),
        ),
        sa.ForeignKeyConstraint(["community_code"], ["division.code"], name=op.f("resident_community_code_fkey")),
        sa.PrimaryKeyConstraint("resident_id", name=op.f("resident_pkey")),
        sa.UniqueConstraint("phone_hash", name=op.f("resident_phone_hash_key")),
    )
    op.create_index(op.f("resident_community_code_ix"), "resident", ["community_code"], unique=False)
    op.create_table(
        "rule_version",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("title_zh", sa.String(length=100), nullable=False),
        sa.Column("title_en", sa.String(length=100), nullable=False),
        sa.Column("source", sa.String(length=300), nullable=False),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("valid_to", sa.Date(), nullable=True),
        sa.Column("late_days_max", sa.SmallInteger(), nullable=False),
        sa.Column("expiry_years", sa.SmallInteger(), nullable=False),
        sa.Column("travel_method_id", sa.String(length=60), nullable=False),
        sa.Column("recycling_method_id", sa.String(length=60), nullable=False),
        sa.Column("rule_count", sa.SmallInteger(), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=False),
        postgresql.ExcludeConstraint(
            (sa.text("daterange(valid_from, valid_to, '[]')"), "&&"), using="gist", name="rule_version_validity_excl"
        ),
        sa.CheckConstraint("expiry_years BETWEEN 1 AND 5", name=op.f("rule_version_expiry_years_check")),
        sa.CheckConstraint("late_days_max BETWEEN 0 AND 60", name=op.f("rule_version_late_days_max_check")),
        sa.CheckConstraint("valid_to >= valid_from", name=op.f("rule_version_validity_check")),
        sa.ForeignKeyConstraint(
            ["recycling_method_id"], ["carbon_method.id"], name=op.f("rule_version_recycling_method_id_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["travel_method_id"], ["carbon_method.id"], name=op.f("rule_version_travel_method_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("rule_version_pkey")),
    )
    op.create_table(
        "earning_rule",
        sa.Column("version_id", sa.String(length=40), nullable=False),
        sa.Column(
            "behaviour",
            sa.Enum(
                "walk",
                "bicycle",
                "e-bike",
                "bus",
                "metro",
                "sorting",
                "recycling",
                name="behaviour",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("mode", sa.String(length=40), nullable=False),
        sa.Column(
            "grade",
            sa.Enum(
                "partner-signed",
                "staff-confirmed",
                "sensor",
                "self-declared",
                name="grade",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("points_per_act", sa.Integer(), server_default="0", nullable=False),
        sa.Column("points_per_km", sa.Integer(), server_default="0", nullable=False),
        sa.Column("points_per_kg", sa.Integer(), server_default="0", nullable=False),
        sa.Column("points_per_1000_steps", sa.Integer(), server_default="0", nullable=False),
        sa.Column("quantity_min", sa.Integer(), server_default="0", nullable=False),
        sa.Column("quantity_max", sa.Integer(), nullable=False),
        sa.Column("speed_max_kmh", sa.SmallInteger(), nullable=True),
        sa.Column("cap_group", sa.String(length=40), nullable=False),
        sa.Column("day_cap_points", sa.Integer(), nullable=False),
        sa.Column("week_cap_points", sa.Integer(), nullable=False),
        sa.CheckConstraint("day_cap_points BETWEEN 0 AND 10000", name=op.f("earning_rule_day_cap_check")),
        sa.CheckConstraint(
            "least(points_per_act, points_per_km, points_per_kg, points_per_1000_steps, quantity_min) >= 0",
            name=op.f("earning_rule_not_negative_check"),
        ),
        sa.CheckConstraint(
            "quantity_max >= quantity_min AND quantity_max <= 1000000", name=op.f("earning_rule_quantity_check")
        ),
        sa.CheckConstraint(
            "week_cap_points BETWEEN day_cap_points AND 70000", name=op.f("earning_rule_week_cap_check")
        ),
        sa.ForeignKeyConstraint(["version_id"], ["rule_version.id"], name=op.f("earning_rule_version_id_fkey")),
        sa.PrimaryKeyConstraint("version_id", "behaviour", "mode", "grade", name=op.f("earning_rule_pkey")),
    )
    op.create_table(
        "staff",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("password_hash", sa.String(length=200), nullable=False),
        sa.Column(
            "role",
            sa.Enum(
                "resident",
                "community-staff",
                "school-staff",
                "street",
                "district",
                "operator",
                name="role",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("division", sa.String(length=12), nullable=True),
        sa.Column("organisation_id", sa.Uuid(), nullable=True),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(role = 'school-staff') = (organisation_id IS NOT NULL)", name=op.f("staff_school_scope_check")
        ),
        sa.CheckConstraint("role <> 'resident'", name=op.f("staff_not_resident_check")),
        sa.CheckConstraint("(division IS NULL) <> (organisation_id IS NULL)", name=op.f("staff_one_scope_check")),
        sa.ForeignKeyConstraint(["division"], ["division.code"], name=op.f("staff_division_fkey")),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"], name=op.f("staff_organisation_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("staff_pkey")),
        sa.UniqueConstraint("name", name=op.f("staff_name_key")),
    )
    op.create_table(
        "campaign",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.String(length=60), nullable=False),
        sa.Column("description", sa.String(length=1000), server_default="", nullable=False),
        sa.Column("division", sa.String(length=12), nullable=False),
        sa.Column("organisation_id", sa.Uuid(), nullable=True),
        sa.Column("behaviours", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "measure",
            sa.Enum(
                "activities",
                "distance_m",
                "weight_g",
                "saved_co2e_mg",
                "points",
                name="measure",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("target", sa.BigInteger(), nullable=False),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("ends_on", sa.Date(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "draft",
                "open",
                "closed",
                "cancelled",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "behaviours <@ ARRAY['walk', 'bicycle', 'e-bike', 'bus', 'metro', 'sorting', 'recycling'] AND cardinality(behaviours) > 0",
            name=op.f("campaign_behaviours_check"),
        ),
        sa.CheckConstraint(
            "state IN ('draft', 'cancelled') OR opened_at IS NOT NULL", name=op.f("campaign_opened_at_check")
        ),
        sa.CheckConstraint("ends_on >= starts_on AND ends_on <= starts_on + 366", name=op.f("campaign_span_check")),
        sa.CheckConstraint("target BETWEEN 1 AND 1000000000000", name=op.f("campaign_target_check")),
        sa.ForeignKeyConstraint(["created_by"], ["staff.id"], name=op.f("campaign_created_by_fkey")),
        sa.ForeignKeyConstraint(["division"], ["division.code"], name=op.f("campaign_division_fkey")),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"], name=op.f("campaign_organisation_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("campaign_pkey")),
    )
    op.create_index(op.f("campaign_division_ix"), "campaign", ["division"], unique=False)
    op.create_index(op.f("campaign_organisation_id_ix"), "campaign", ["organisation_id"], unique=False)
    # Rows that are added to all day stay on their page (heap-only updates) and leave their indexes alone.
    for table in ("resident_day", "community_day", "cap_usage", "lot", "partner_day"):
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 70)")
    for function in (APPEND_ONLY, IMMUTABLE, FACTOR_COUNT, RULE_COUNT):
        op.execute(function)
    for table in ("transfer", "lot_draw", "audit_entry"):
        _guard(table, "refuse_change", "UPDATE OR DELETE")
    _guard("division", "refuse_change", "DELETE")  # a division is ended, never deleted
    for table in (
        "transfer",
        "lot_draw",
        "audit_entry",
        "division",
        "carbon_method",
        "carbon_factor",
        "rule_version",
        "earning_rule",
    ):
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_change()"
        )
    for table in ("carbon_method", "rule_version"):
        _guard(table, "refuse_all_but_end", "UPDATE OR DELETE")
    for table in ("carbon_factor", "earning_rule"):
        _guard(table, "refuse_change", "UPDATE OR DELETE")
    _guard("carbon_factor", "refuse_late_factor", "INSERT", when="AFTER")
    _guard("earning_rule", "refuse_late_rule", "INSERT", when="AFTER")
    op.bulk_insert(
        sa.table(
            "system_account",
            sa.column("id", sa.Integer()),
            sa.column("code", sa.Text()),
            sa.column("name_zh", sa.Text()),
        ),
        [
            {"id": 1, "code": "issuance", "name_zh": "积分发放"},
            {"id": 2, "code": "redemption", "name_zh": "积分兑换"},
            {"id": 3, "code": "expiry", "name_zh": "积分到期"},
        ],
    )
    op.execute((SQL / "procrastinate_3_10_0.sql").read_text("utf-8"))
    op.execute(GRANTS)


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
