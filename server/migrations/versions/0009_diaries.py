"""Own travel diaries: rounds, cells, invitations and trips."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Who planned a round and what its terms are can never be written anew: otherwise the CHECK that two people made it could
# be passed by naming another planner afterwards, and a reward or a weight could follow what was answered.
ROUND_STANDS = """
CREATE FUNCTION refuse_diary_round_rewriting() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    opening CONSTANT text[] := ARRAY['opened_by', 'opened_at', 'seed', 'frame', 'drawn', 'account_id'];
    closing CONSTANT text[] := ARRAY['closed_at', 'wave_id'];
    may_change text[] := ARRAY['state'];
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state = 'planned' THEN
            RETURN NEW;
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF OLD.state = 'planned' AND NEW.state = 'open' THEN
            may_change := may_change || opening;
        ELSIF OLD.state = 'open' AND NEW.state = 'closed' THEN
            may_change := may_change || closing;
        ELSIF OLD.state = 'closed' AND NEW.state = 'closed' AND OLD.forgotten_at IS NULL THEN
            may_change := ARRAY['forgotten_at'];
        ELSIF NOT (OLD.state = 'planned' AND NEW.state = 'discarded') THEN
            may_change := ARRAY[]::text[];
        END IF;
        IF to_jsonb(NEW) - may_change = to_jsonb(OLD) - may_change THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the terms of a round of diaries stand' USING ERRCODE = 'restrict_violation';
END $$
"""

INVITATION_STANDS = """
CREATE FUNCTION refuse_diary_invitation_rewriting() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    may_change CONSTANT text[] := ARRAY['state', 'told_at', 'reminded_day', 'sex', 'household_cars', 'text_version',
                                        'answered_at', 'changed_at', 'recorded_by', 'transfer_id'];
BEGIN
    IF to_jsonb(NEW) - may_change <> to_jsonb(OLD) - may_change
       OR OLD.transfer_id IS NOT NULL AND NEW.transfer_id IS DISTINCT FROM OLD.transfer_id
    THEN
        RAISE EXCEPTION 'who was drawn, for which day and with which weight stands, and so does a reward'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "diary_round",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("division", sa.String(length=12), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("definition_id", sa.String(length=60), nullable=False),
        sa.Column("first_on", sa.Date(), nullable=False),
        sa.Column("last_on", sa.Date(), nullable=False),
        sa.Column("answer_days", sa.SmallInteger(), nullable=False),
        sa.Column("closes_on", sa.Date(), nullable=False),
        sa.Column("kept_days", sa.SmallInteger(), nullable=False),
        sa.Column("age_bands", sa.ARRAY(sa.Integer()), nullable=False),
        sa.Column("sample_size", sa.Integer(), nullable=True),
        sa.Column("reward_points", sa.Integer(), nullable=False),
        sa.Column("reminder_days", sa.ARRAY(sa.Integer()), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "planned",
                "open",
                "closed",
                "discarded",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("planned_by", sa.Uuid(), nullable=False),
        sa.Column("planned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_by", sa.Uuid(), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("frame", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("drawn", sa.Integer(), server_default="0", nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("wave_id", sa.Uuid(), nullable=True),
        sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("division ~ '^[0-9]{6}$'", name=op.f("diary_round_division_check")),
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9-]*$'", name=op.f("diary_round_code_check")),
        sa.CheckConstraint("name <> ''", name=op.f("diary_round_name_check")),
        sa.CheckConstraint(
            "last_on BETWEEN first_on AND first_on + 91 AND extract(year FROM first_on) = extract(year FROM last_on)",
            name=op.f("diary_round_period_check"),
        ),
        sa.CheckConstraint("answer_days BETWEEN 1 AND 7", name=op.f("diary_round_answer_days_check")),
        sa.CheckConstraint(
            "closes_on BETWEEN last_on + answer_days + 1 AND last_on + 60", name=op.f("diary_round_closes_on_check")
        ),
        sa.CheckConstraint("kept_days BETWEEN 1 AND 180", name=op.f("diary_round_kept_days_check")),
        sa.CheckConstraint(
            "cardinality(age_bands) BETWEEN 1 AND 12 AND age_bands[1] >= 14 AND 120 >= ALL (age_bands)",
            name=op.f("diary_round_age_bands_check"),
        ),
        sa.CheckConstraint("sample_size BETWEEN 1 AND 20000", name=op.f("diary_round_sample_size_check")),
        sa.CheckConstraint("drawn BETWEEN 0 AND 20000", name=op.f("diary_round_drawn_check")),
        sa.CheckConstraint("reward_points BETWEEN 1 AND 500", name=op.f("diary_round_reward_points_check")),
        sa.CheckConstraint(
            "cardinality(reminder_days) <= 5 AND -7 <= ALL (reminder_days) AND 7 >= ALL (reminder_days)",
            name=op.f("diary_round_reminder_days_check"),
        ),
        sa.CheckConstraint("seed BETWEEN 0 AND 9007199254740991", name=op.f("diary_round_seed_check")),
        sa.CheckConstraint(
            "jsonb_typeof(frame) = 'object' AND octet_length(frame::text) <= 1000",
            name=op.f("diary_round_frame_check"),
        ),
        sa.CheckConstraint("opened_by <> planned_by", name=op.f("diary_round_four_eyes_check")),
        sa.CheckConstraint(
            "num_nonnulls(opened_by, opened_at, seed, account_id)"
            " = CASE WHEN state IN ('planned', 'discarded') THEN 0 ELSE 4 END",
            name=op.f("diary_round_opened_check"),
        ),
        sa.CheckConstraint(
            "num_nonnulls(closed_at, wave_id) = CASE WHEN state = 'closed' THEN 2 ELSE 0 END",
            name=op.f("diary_round_closed_check"),
        ),
        sa.CheckConstraint("forgotten_at >= closed_at", name=op.f("diary_round_forgotten_check")),
        sa.CheckConstraint(
            "forgotten_at IS NULL OR state = 'closed'", name=op.f("diary_round_forgotten_when_closed_check")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["system_account.id"], name=op.f("diary_round_account_id_fkey")),
        sa.ForeignKeyConstraint(
            ["definition_id"], ["share_definition.id"], name=op.f("diary_round_definition_id_fkey")
        ),
        sa.ForeignKeyConstraint(["division"], ["division.code"], name=op.f("diary_round_division_fkey")),
        sa.ForeignKeyConstraint(["opened_by"], ["staff.id"], name=op.f("diary_round_opened_by_fkey")),
        sa.ForeignKeyConstraint(["planned_by"], ["staff.id"], name=op.f("diary_round_planned_by_fkey")),
        sa.ForeignKeyConstraint(["wave_id"], ["survey_wave.id"], name=op.f("diary_round_wave_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("diary_round_pkey")),
        sa.UniqueConstraint("code", name=op.f("diary_round_code_key")),
    )
    op.create_index("diary_round_division_ix", "diary_round", ["division", "id"], unique=False)
    op.create_table(
        "diary_cell",
        sa.Column("round_id", sa.Uuid(), nullable=False),
        sa.Column("street_code", sa.String(length=9), nullable=False),
        sa.Column("age_band", sa.String(length=10), nullable=False),
        sa.Column("planned", sa.Integer(), nullable=True),
        sa.Column("frame_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("drawn", sa.Integer(), server_default="0", nullable=False),
        sa.Column("answered", sa.Integer(), nullable=True),
        sa.Column("declined", sa.Integer(), nullable=True),
        sa.Column("expired", sa.Integer(), nullable=True),
        sa.CheckConstraint("street_code ~ '^[0-9]{9}$'", name=op.f("diary_cell_street_code_check")),
        sa.CheckConstraint("age_band ~ '^[0-9]{1,3}(-[0-9]{1,3}|\\+)$'", name=op.f("diary_cell_age_band_check")),
        sa.CheckConstraint("planned BETWEEN 0 AND 20000", name=op.f("diary_cell_planned_check")),
        sa.CheckConstraint("drawn BETWEEN 0 AND frame_count", name=op.f("diary_cell_drawn_check")),
        sa.CheckConstraint("least(answered, declined, expired) >= 0", name=op.f("diary_cell_not_negative_check")),
        sa.CheckConstraint("answered + declined + expired = drawn", name=op.f("diary_cell_outcomes_check")),
        sa.CheckConstraint(
            "num_nonnulls(answered, declined, expired) IN (0, 3)", name=op.f("diary_cell_outcomes_whole_check")
        ),
        sa.ForeignKeyConstraint(["round_id"], ["diary_round.id"], name=op.f("diary_cell_round_id_fkey")),
        sa.PrimaryKeyConstraint("round_id", "street_code", "age_band", name=op.f("diary_cell_pkey")),
    )
    op.create_table(
        "diary_invitation",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("round_id", sa.Uuid(), nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("street_code", sa.String(length=9), nullable=False),
        sa.Column("age_band", sa.String(length=10), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "invited",
                "reminded",
                "answered",
                "declined",
                "expired",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reminded_day", sa.SmallInteger(), nullable=True),
        sa.Column(
            "sex",
            sa.Enum("male", "female", name="sex", native_enum=False, create_constraint=True, length=40),
            nullable=True,
        ),
        sa.Column(
            "household_cars",
            sa.Enum("0", "1", "2+", name="household_cars", native_enum=False, create_constraint=True, length=40),
            nullable=True,
        ),
        sa.Column("text_version", sa.String(length=20), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("recorded_by", sa.Uuid(), nullable=True),
        sa.Column("transfer_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "community_code ~ '^[0-9]{12}$' AND starts_with(community_code, street_code)",
            name=op.f("diary_invitation_place_check"),
        ),
        sa.CheckConstraint("weight >= 1", name=op.f("diary_invitation_weight_check")),
        sa.CheckConstraint("octet_length(code_hash) = 32", name=op.f("diary_invitation_code_hash_check")),
        sa.CheckConstraint(
            "state <> 'answered' OR answered_at IS NOT NULL", name=op.f("diary_invitation_answered_check")
        ),
        sa.CheckConstraint("(answered_at IS NULL) = (transfer_id IS NULL)", name=op.f("diary_invitation_paid_check")),
        sa.CheckConstraint("changed_at >= answered_at", name=op.f("diary_invitation_changed_check")),
        sa.ForeignKeyConstraint(["recorded_by"], ["staff.id"], name=op.f("diary_invitation_recorded_by_fkey")),
        sa.ForeignKeyConstraint(["round_id"], ["diary_round.id"], name=op.f("diary_invitation_round_id_fkey")),
        sa.ForeignKeyConstraint(
            ["round_id", "street_code", "age_band"],
            ["diary_cell.round_id", "diary_cell.street_code", "diary_cell.age_band"],
            name=op.f("diary_invitation_round_id_street_code_age_band_fkey"),
        ),
        sa.PrimaryKeyConstraint("resident_id", "round_id", name=op.f("diary_invitation_pkey")),
        sa.UniqueConstraint("code_hash", name=op.f("diary_invitation_code_hash_key")),
    )
    op.create_index("diary_invitation_recorded_ix", "diary_invitation", ["recorded_by", "changed_at"], unique=False)
    op.create_index(
        "diary_invitation_round_ix", "diary_invitation", ["round_id", "street_code", "age_band"], unique=False
    )
    op.create_table(
        "diary_trip",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("round_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("started_minute", sa.Integer(), nullable=False),
        sa.Column("ended_minute", sa.Integer(), nullable=False),
        sa.Column(
            "purpose",
            sa.Enum(
                "home",
                "work",
                "school",
                "business",
                "shopping",
                "medical",
                "escort",
                "leisure",
                "other",
                name="purpose",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("legs", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("distance_m", sa.Integer(), nullable=True),
        postgresql.ExcludeConstraint(
            (sa.column("resident_id"), "="),
            (sa.column("round_id"), "="),
            (sa.text("int4range(started_minute, ended_minute)"), "&&"),
            using="gist",
            name="diary_trip_no_overlap_excl",
        ),
        sa.CheckConstraint("position BETWEEN 1 AND 40", name=op.f("diary_trip_position_check")),
        sa.CheckConstraint("started_minute BETWEEN 0 AND 1439", name=op.f("diary_trip_started_minute_check")),
        sa.CheckConstraint(
            "ended_minute > started_minute AND ended_minute <= started_minute + 1440",
            name=op.f("diary_trip_ended_minute_check"),
        ),
        sa.CheckConstraint(
            "cardinality(legs) BETWEEN 1 AND 10 AND octet_length(legs::text) <= 500",
            name=op.f("diary_trip_legs_check"),
        ),
        sa.CheckConstraint("distance_m BETWEEN 0 AND 2000000", name=op.f("diary_trip_distance_m_check")),
        sa.ForeignKeyConstraint(
            ["resident_id", "round_id"],
            ["diary_invitation.resident_id", "diary_invitation.round_id"],
            name=op.f("diary_trip_resident_id_round_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("resident_id", "round_id", "position", name=op.f("diary_trip_pkey")),
    )
    op.execute(ROUND_STANDS)
    op.execute(INVITATION_STANDS)
    op.execute(
        "CREATE TRIGGER refuse_rewriting BEFORE INSERT OR UPDATE OR DELETE ON diary_round FOR EACH ROW"
        " EXECUTE FUNCTION refuse_diary_round_rewriting()"
    )
    op.execute(
        "CREATE TRIGGER refuse_rewriting BEFORE UPDATE ON diary_invitation FOR EACH ROW"
        " EXECUTE FUNCTION refuse_diary_invitation_rewriting()"
    )
    op.execute("GRANT SELECT, INSERT, UPDATE ON diary_round, diary_cell TO tanpuhui_app")
    # What a person said goes with them: when they withdraw it, and some days after the round is closed.
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON diary_invitation, diary_trip TO tanpuhui_app")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
