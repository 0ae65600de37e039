"""Kept counts of participation, and populations of streets and communities."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = (
    "division_population",
    "resident_period",
    "member_period",
    "campaign_day",
    "campaign_count",
    "counted_campaign",
    "place_period",
    "organisation_period",
    "period_prior",
    "counted_day",
)


def upgrade() -> None:
    op.create_table(
        "division_population",
        sa.Column("code", sa.String(length=12), nullable=False),
        sa.Column("year", sa.SmallInteger(), nullable=False),
        sa.Column("source", sa.String(length=120), nullable=False),
        sa.Column("persons", sa.Integer(), nullable=False),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.CheckConstraint("source <> ''", name=op.f("division_population_source_check")),
        sa.CheckConstraint("persons BETWEEN 1 AND 50000000", name=op.f("division_population_persons_check")),
        sa.CheckConstraint("year BETWEEN 1950 AND 2100", name=op.f("division_population_year_check")),
        sa.ForeignKeyConstraint(["code"], ["division.code"], name=op.f("division_population_code_fkey")),
        sa.PrimaryKeyConstraint("code", "year", "source", name=op.f("division_population_pkey")),
    )
    op.create_table(
        "resident_period",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column(
            "grain",
            sa.Enum(
                "day",
                "week",
                "month",
                "quarter",
                "year",
                name="grain",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("last_day", sa.Date(), nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.CheckConstraint("last_day >= starts_on", name=op.f("resident_period_last_day_check")),
        sa.PrimaryKeyConstraint("resident_id", "grain", "starts_on", name=op.f("resident_period_pkey")),
    )
    op.create_index(
        "resident_period_place_ix", "resident_period", ["grain", "starts_on", "community_code"], unique=False
    )
    op.create_table(
        "member_period",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("organisation_id", sa.Uuid(), nullable=False),
        sa.Column(
            "grain",
            sa.Enum(
                "day",
                "week",
                "month",
                "quarter",
                "year",
                name="grain",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint(
            "resident_id", "organisation_id", "grain", "starts_on", name=op.f("member_period_pkey")
        ),
    )
    op.create_index(
        "member_period_organisation_ix", "member_period", ["grain", "starts_on", "organisation_id"], unique=False
    )
    op.create_table(
        "campaign_day",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("joins", sa.Integer(), nullable=False),
        sa.Column("check_ins", sa.Integer(), nullable=False),
        sa.Column("volunteer_minutes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "least(joins, check_ins, volunteer_minutes) >= 0", name=op.f("campaign_day_not_negative_check")
        ),
        sa.PrimaryKeyConstraint("campaign_id", "community_code", "day", name=op.f("campaign_day_pkey")),
    )
    op.create_index("campaign_day_day_ix", "campaign_day", ["day"], unique=False)
    op.create_table(
        "campaign_count",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("participants", sa.Integer(), nullable=False),
        sa.Column("completions", sa.Integer(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("saved_co2e_mg", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint("jsonb_typeof(saved_co2e_mg) = 'object'", name=op.f("campaign_count_saved_co2e_mg_check")),
        sa.CheckConstraint("completions BETWEEN 0 AND participants", name=op.f("campaign_count_completions_check")),
        sa.CheckConstraint("participants >= 0 AND points >= 0", name=op.f("campaign_count_not_negative_check")),
        sa.PrimaryKeyConstraint("campaign_id", "community_code", name=op.f("campaign_count_pkey")),
    )
    op.create_table(
        "counted_campaign",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("ends_on", sa.Date(), nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("campaign_id", name=op.f("counted_campaign_pkey")),
    )
    op.create_table(
        "place_period",
        sa.Column(
            "grain",
            sa.Enum(
                "day",
                "week",
                "month",
                "quarter",
                "year",
                name="grain",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("campaign_kind", sa.String(length=40), server_default="", nullable=False),
        sa.Column("place_code", sa.String(length=12), nullable=False),
        sa.Column("registered", sa.Integer(), nullable=False),
        sa.Column("participants", sa.Integer(), nullable=False),
        sa.Column("joins", sa.Integer(), nullable=False),
        sa.Column("check_ins", sa.Integer(), nullable=False),
        sa.Column("completions", sa.Integer(), nullable=False),
        sa.Column("volunteer_minutes", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("saved_co2e_mg", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("rate_shrunk", sa.Double(), nullable=True),
        sa.Column("rate_low", sa.Double(), nullable=True),
        sa.Column("rate_high", sa.Double(), nullable=True),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("jsonb_typeof(saved_co2e_mg) = 'object'", name=op.f("place_period_saved_co2e_mg_check")),
        sa.CheckConstraint(
            "place_code ~ '^([0-9]{6}|[0-9]{9}|[0-9]{12})$'", name=op.f("place_period_place_code_check")
        ),
        sa.CheckConstraint(
            "0 <= rate_low AND rate_low <= rate_shrunk AND rate_shrunk <= rate_high AND rate_high <= 1",
            name=op.f("place_period_rate_check"),
        ),
        sa.CheckConstraint(
            "least(registered, participants, joins, check_ins, completions, volunteer_minutes, points) >= 0",
            name=op.f("place_period_not_negative_check"),
        ),
        sa.CheckConstraint(
            "num_nonnulls(rate_shrunk, rate_low, rate_high) IN (0, 3)", name=op.f("place_period_rate_whole_check")
        ),
        sa.PrimaryKeyConstraint("grain", "starts_on", "campaign_kind", "place_code", name=op.f("place_period_pkey")),
    )
    op.create_table(
        "organisation_period",
        sa.Column(
            "grain",
            sa.Enum(
                "day",
                "week",
                "month",
                "quarter",
                "year",
                name="grain",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("organisation_id", sa.Uuid(), nullable=False),
        sa.Column("registered", sa.Integer(), nullable=False),
        sa.Column("participants", sa.Integer(), nullable=False),
        sa.Column("joins", sa.Integer(), nullable=False),
        sa.Column("check_ins", sa.Integer(), nullable=False),
        sa.Column("completions", sa.Integer(), nullable=False),
        sa.Column("volunteer_minutes", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("saved_co2e_mg", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("rate_shrunk", sa.Double(), nullable=True),
        sa.Column("rate_low", sa.Double(), nullable=True),
        sa.Column("rate_high", sa.Double(), nullable=True),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "jsonb_typeof(saved_co2e_mg) = 'object'", name=op.f("organisation_period_saved_co2e_mg_check")
        ),
        sa.CheckConstraint(
            "0 <= rate_low AND rate_low <= rate_shrunk AND rate_shrunk <= rate_high AND rate_high <= 1",
            name=op.f("organisation_period_rate_check"),
        ),
        sa.CheckConstraint(
            "least(registered, participants, joins, check_ins, completions, volunteer_minutes, points) >= 0",
            name=op.f("organisation_period_not_negative_check"),
        ),
        sa.CheckConstraint(
            "num_nonnulls(rate_shrunk, rate_low, rate_high) IN (0, 3)",
            name=op.f("organisation_period_rate_whole_check"),
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name=op.f("organisation_period_organisation_id_fkey")
        ),
        sa.PrimaryKeyConstraint("grain", "starts_on", "organisation_id", name=op.f("organisation_period_pkey")),
    )
    op.create_table(
        "period_prior",
        sa.Column(
            "grain",
            sa.Enum(
                "day",
                "week",
                "month",
                "quarter",
                "year",
                name="grain",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("peers", sa.String(length=40), nullable=False),
        sa.Column("mean", sa.Double(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("peer_count", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "mean BETWEEN 0 AND 1 AND weight > 0 AND peer_count >= 0", name=op.f("period_prior_prior_check")
        ),
        sa.PrimaryKeyConstraint("grain", "starts_on", "peers", name=op.f("period_prior_pkey")),
    )
    op.create_table(
        "counted_day",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("activities_mark", sa.BigInteger(), nullable=True),
        sa.Column("campaigns_mark", sa.BigInteger(), nullable=True),
        sa.Column("members_mark", sa.BigInteger(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("day", name=op.f("counted_day_pkey")),
    )
    # A marker moves on every day that its resident is active: the update stays on its page and off the indexes.
    op.execute("ALTER TABLE resident_period SET (fillfactor = 80)")
    # The counting job looks for what came lately. A block range index is built in one quick pass.
    for index in (
        "participation_joined_at_brin ON participation USING brin (joined_at)",
        "check_in_day_brin ON check_in USING brin (day)",
    ):
        op.execute(f"-- squawk-ignore require-concurrent-index-creation\nCREATE INDEX {index}")
    for table in TABLES:
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO tanpuhui_app")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
