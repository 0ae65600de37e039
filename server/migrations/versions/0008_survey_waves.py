"""Survey waves with their people and trips, definitions of green travel, and margins of the population."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# A wave is stored as a draft and accepted in one transaction. From then on it stands, until it is undone; once a
# published release rests on it, it can no longer be undone.
HOLD_WAVE = """
CREATE FUNCTION hold_survey_wave() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    may_change CONSTANT text[] := ARRAY['state', 'locked', 'undone_by', 'undone_at'];
BEGIN
    IF to_jsonb(NEW) - may_change <> to_jsonb(OLD) - may_change
       OR OLD.locked AND NOT NEW.locked
       OR (OLD.state, NEW.state) NOT IN (
           ('draft', 'draft'), ('draft', 'accepted'), ('accepted', 'accepted'), ('accepted', 'undone'),
           ('undone', 'undone'))
       OR OLD.state = 'undone' AND NEW IS DISTINCT FROM OLD
    THEN
        RAISE EXCEPTION 'survey_wave % is stored, and locked once a published release rests on it', OLD.code
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

BEGIN_AS_DRAFT = """
CREATE FUNCTION begin_as_draft() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> 'draft' OR NEW.locked THEN
        RAISE EXCEPTION 'survey_wave % begins as a draft', NEW.code USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

# People and trips come with their wave and go when it is undone. Once for a statement: a wave has a hundred thousand.
HOLD_ROWS = """
CREATE FUNCTION hold_survey_rows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM survey_wave
        WHERE id IN (SELECT wave_id FROM changed)
          AND state <> CASE TG_OP WHEN 'INSERT' THEN 'draft' ELSE 'undone' END
    ) THEN
        RAISE EXCEPTION '% comes with its wave and goes when it is undone', TG_TABLE_NAME
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$
"""

# Margins may be corrected until a published release rests on them.
HOLD_MARGINS = """
CREATE FUNCTION hold_margins() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.locked AND (TG_OP = 'DELETE' OR NEW IS DISTINCT FROM OLD) THEN
        RAISE EXCEPTION 'margin_set % is locked: a published release rests on it', OLD.code
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$
"""

HOLD_MARGIN_CELLS = """
CREATE FUNCTION hold_margin_cells() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM margin_set WHERE locked AND code IN (
            CASE WHEN TG_OP <> 'INSERT' THEN OLD.set_code END, CASE WHEN TG_OP <> 'DELETE' THEN NEW.set_code END)
    ) THEN
        RAISE EXCEPTION 'margin_cell: a published release rests on its set' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$
"""

ROWS = ("survey_household", "survey_person", "survey_trip")
GUARDS = (
    ("begin_as_draft", "survey_wave", "INSERT"),
    ("hold_survey_wave", "survey_wave", "UPDATE"),
    ("refuse_change", "survey_wave", "DELETE"),
    ("refuse_change", "share_definition", "UPDATE OR DELETE"),
    *(("refuse_change", table, "UPDATE") for table in ROWS),
    ("hold_margins", "margin_set", "UPDATE OR DELETE"),
    ("hold_margin_cells", "margin_cell", "INSERT OR UPDATE OR DELETE"),
)

GRANTS = """
GRANT SELECT, INSERT ON share_definition TO tanpuhui_app;
GRANT SELECT, INSERT, UPDATE ON survey_wave TO tanpuhui_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    survey_household, survey_person, survey_trip, margin_set, margin_cell TO tanpuhui_app
"""


def _guards() -> None:
    for function in (HOLD_WAVE, BEGIN_AS_DRAFT, HOLD_ROWS, HOLD_MARGINS, HOLD_MARGIN_CELLS):
        op.execute(function)
    for function, table, events in GUARDS:
        op.execute(
            f"CREATE TRIGGER {table}_{function} BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
    for table in ROWS:
        for event, transition in (("INSERT", "NEW"), ("DELETE", "OLD")):
            op.execute(
                f"CREATE TRIGGER {table}_hold_{event.lower()} AFTER {event} ON {table} "
                f"REFERENCING {transition} TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION hold_survey_rows()"
            )
    for table in (*ROWS, "survey_wave", "share_definition", "margin_set", "margin_cell"):
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_change()"
        )


def upgrade() -> None:
    _tables()
    _guards()
    op.execute(GRANTS)


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")


def _tables() -> None:
    op.create_table(
        "margin_set",
        sa.Column("code", sa.String(length=60), nullable=False),
        sa.Column("population", sa.String(length=200), nullable=False),
        sa.Column("source", sa.String(length=300), nullable=False),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("as_of", sa.Date(), nullable=False),
        sa.Column("age_min", sa.SmallInteger(), nullable=False),
        sa.Column("persons", sa.BigInteger(), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("locked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("loaded_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9-]*$'", name=op.f("margin_set_code_check")),
        sa.CheckConstraint("population <> '' AND source <> ''", name=op.f("margin_set_source_check")),
        sa.CheckConstraint("age_min BETWEEN 0 AND 120", name=op.f("margin_set_age_min_check")),
        sa.CheckConstraint("octet_length(content_sha256) = 32", name=op.f("margin_set_content_sha256_check")),
        sa.CheckConstraint("persons BETWEEN 1 AND 2000000000", name=op.f("margin_set_persons_check")),
        sa.PrimaryKeyConstraint("code", name=op.f("margin_set_pkey")),
    )
    op.create_table(
        "share_definition",
        sa.Column("id", sa.String(length=60), nullable=False),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("loaded_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id ~ '^[a-z0-9][a-z0-9.-]*$'", name=op.f("share_definition_id_check")),
        sa.CheckConstraint(
            "jsonb_typeof(content) = 'object' AND octet_length(content::text) <= 100000",
            name=op.f("share_definition_content_check"),
        ),
        sa.CheckConstraint("octet_length(content_sha256) = 32", name=op.f("share_definition_content_sha256_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("share_definition_pkey")),
    )
    op.create_table(
        "margin_cell",
        sa.Column("set_code", sa.String(length=60), nullable=False),
        sa.Column("variable", sa.String(length=130), nullable=False),
        sa.Column("category", sa.String(length=190), nullable=False),
        sa.Column("persons", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("variable <> '' AND category <> ''", name=op.f("margin_cell_category_check")),
        sa.CheckConstraint("persons BETWEEN 0 AND 2000000000", name=op.f("margin_cell_persons_check")),
        sa.ForeignKeyConstraint(["set_code"], ["margin_set.code"], name=op.f("margin_cell_set_code_fkey")),
        sa.PrimaryKeyConstraint("set_code", "variable", "category", name=op.f("margin_cell_pkey")),
    )
    op.create_table(
        "survey_wave",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("year", sa.SmallInteger(), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("household-survey", "diary", name="kind", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("first_on", sa.Date(), nullable=False),
        sa.Column("last_on", sa.Date(), nullable=False),
        sa.Column("definition_id", sa.String(length=60), nullable=False),
        sa.Column("frame", sa.String(length=300), nullable=False),
        sa.Column("source", sa.String(length=300), nullable=False),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum("draft", "accepted", "undone", name="state", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("locked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("mapping", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("files", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("warnings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("attributes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("households", sa.Integer(), nullable=False),
        sa.Column("persons", sa.Integer(), nullable=False),
        sa.Column("respondents", sa.Integer(), nullable=False),
        sa.Column("trips", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("imported_by", sa.Uuid(), nullable=True),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("undone_by", sa.Uuid(), nullable=True),
        sa.Column("undone_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'undone') = (undone_at IS NOT NULL)", name=op.f("survey_wave_undone_check")),
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9-]*$'", name=op.f("survey_wave_code_check")),
        sa.CheckConstraint("name <> '' AND source <> ''", name=op.f("survey_wave_source_check")),
        sa.CheckConstraint("state = 'accepted' OR NOT locked", name=op.f("survey_wave_locked_check")),
        sa.CheckConstraint("cardinality(attributes) <= 20", name=op.f("survey_wave_attributes_check")),
        sa.CheckConstraint("last_on BETWEEN first_on AND first_on + 400", name=op.f("survey_wave_days_check")),
        sa.CheckConstraint("least(households, persons, trips) >= 0", name=op.f("survey_wave_not_negative_check")),
        sa.CheckConstraint(
            "octet_length(mapping::text) <= 200000 AND octet_length(files::text) <= 10000 AND octet_length(warnings::text) <= 1000000",
            name=op.f("survey_wave_sizes_check"),
        ),
        sa.CheckConstraint("respondents BETWEEN 0 AND persons", name=op.f("survey_wave_respondents_check")),
        sa.CheckConstraint(
            "year BETWEEN extract(year FROM first_on) AND extract(year FROM last_on)",
            name=op.f("survey_wave_year_check"),
        ),
        sa.ForeignKeyConstraint(
            ["definition_id"], ["share_definition.id"], name=op.f("survey_wave_definition_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("survey_wave_pkey")),
    )
    op.create_index(
        "survey_wave_code_key", "survey_wave", ["code"], unique=True, postgresql_where=sa.text("state <> 'undone'")
    )
    op.create_index("survey_wave_year_ix", "survey_wave", ["year", "first_on"], unique=False)
    op.create_table(
        "survey_household",
        sa.Column("wave_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(length=40), nullable=False),
        sa.Column("street_code", sa.String(length=9), nullable=True),
        sa.Column("attributes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint(
            "jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 8000",
            name=op.f("survey_household_attributes_check"),
        ),
        sa.CheckConstraint("street_code ~ '^[0-9]{9}$'", name=op.f("survey_household_street_code_check")),
        sa.ForeignKeyConstraint(["wave_id"], ["survey_wave.id"], name=op.f("survey_household_wave_id_fkey")),
        sa.PrimaryKeyConstraint("wave_id", "key", name=op.f("survey_household_pkey")),
    )
    op.create_table(
        "survey_person",
        sa.Column("wave_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(length=40), nullable=False),
        sa.Column("household_key", sa.String(length=40), nullable=True),
        sa.Column("stratum", sa.String(length=60), nullable=False),
        sa.Column("cluster", sa.String(length=40), nullable=False),
        sa.Column("street_code", sa.String(length=9), nullable=True),
        sa.Column("age", sa.SmallInteger(), nullable=True),
        sa.Column("base_weight", sa.Double(), nullable=False),
        sa.Column("responded", sa.Boolean(), nullable=False),
        sa.Column("day", sa.Date(), nullable=True),
        sa.Column("attributes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint(
            "jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 8000",
            name=op.f("survey_person_attributes_check"),
        ),
        sa.CheckConstraint("street_code ~ '^[0-9]{9}$'", name=op.f("survey_person_street_code_check")),
        sa.CheckConstraint("age BETWEEN 0 AND 120", name=op.f("survey_person_age_check")),
        sa.CheckConstraint("base_weight > 0 AND base_weight <= 1e9", name=op.f("survey_person_base_weight_check")),
        sa.ForeignKeyConstraint(
            ["wave_id", "household_key"],
            ["survey_household.wave_id", "survey_household.key"],
            name=op.f("survey_person_wave_id_household_key_fkey"),
        ),
        sa.ForeignKeyConstraint(["wave_id"], ["survey_wave.id"], name=op.f("survey_person_wave_id_fkey")),
        sa.PrimaryKeyConstraint("wave_id", "key", name=op.f("survey_person_pkey")),
    )
    op.create_index("survey_person_household_ix", "survey_person", ["wave_id", "household_key"], unique=False)
    op.create_table(
        "survey_trip",
        sa.Column("wave_id", sa.Uuid(), nullable=False),
        sa.Column("person_key", sa.String(length=40), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("main_mode", sa.String(length=40), nullable=False),
        sa.Column("legs", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("distance_m", sa.Integer(), nullable=True),
        sa.Column("started_minute", sa.SmallInteger(), nullable=True),
        sa.Column("purpose", sa.String(length=60), nullable=True),
        sa.CheckConstraint(
            "cardinality(legs) BETWEEN 1 AND 10 AND octet_length(legs::text) <= 500",
            name=op.f("survey_trip_legs_check"),
        ),
        sa.CheckConstraint("distance_m BETWEEN 0 AND 2000000", name=op.f("survey_trip_distance_m_check")),
        sa.CheckConstraint("main_mode = ANY (legs)", name=op.f("survey_trip_main_mode_check")),
        sa.CheckConstraint("position BETWEEN 1 AND 60", name=op.f("survey_trip_position_check")),
        sa.CheckConstraint("started_minute BETWEEN 0 AND 2879", name=op.f("survey_trip_started_minute_check")),
        sa.ForeignKeyConstraint(
            ["wave_id", "person_key"],
            ["survey_person.wave_id", "survey_person.key"],
            name=op.f("survey_trip_wave_id_person_key_fkey"),
        ),
        sa.PrimaryKeyConstraint("wave_id", "person_key", "position", name=op.f("survey_trip_pkey")),
    )
