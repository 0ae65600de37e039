"""Kept counts of activity: what the district's reports read by period, place, behaviour and mode."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLES = (
    "activity_period",
    "activity_saving",
    "registered_period",
    "resident_month",
    "site_month",
    "activity_day_mark",
    "activity_period_count",
)


def upgrade() -> None:
    op.create_table(
        "activity_period",
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
        sa.Column("behaviour", sa.String(length=40), server_default="", nullable=False),
        sa.Column("mode", sa.String(length=40), server_default="", nullable=False),
        sa.Column("place_code", sa.String(length=12), nullable=False),
        sa.Column("activities", sa.BigInteger(), nullable=False),
        sa.Column("residents", sa.Integer(), nullable=False),
        sa.Column("distance_m", sa.BigInteger(), nullable=False),
        sa.Column("weight_g", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("distance_residents", sa.Integer(), nullable=False),
        sa.Column("weight_residents", sa.Integer(), nullable=False),
        sa.Column("points_residents", sa.Integer(), nullable=False),
        sa.Column("largest_activities", sa.BigInteger(), nullable=False),
        sa.Column("largest_distance_m", sa.BigInteger(), nullable=False),
        sa.Column("largest_weight_g", sa.BigInteger(), nullable=False),
        sa.Column("largest_points", sa.BigInteger(), nullable=False),
        sa.Column("squared_activities", sa.Double(), nullable=False),
        sa.Column("squared_distance_m", sa.Double(), nullable=False),
        sa.Column("squared_weight_g", sa.Double(), nullable=False),
        sa.Column("squared_points", sa.Double(), nullable=False),
        sa.Column("sites", sa.Integer(), nullable=False),
        sa.Column("partners", sa.Integer(), nullable=False),
        sa.Column("reversed", sa.Integer(), nullable=False),
        sa.CheckConstraint("behaviour <> '' OR mode = ''", name=op.f("activity_period_mode_check")),
        sa.CheckConstraint(
            "place_code ~ '^([0-9]{6}|[0-9]{9}|[0-9]{12})$'", name=op.f("activity_period_place_code_check")
        ),
        sa.CheckConstraint(
            "greatest(distance_residents, weight_residents, points_residents) <= residents",
            name=op.f("activity_period_residents_check"),
        ),
        sa.CheckConstraint(
            "largest_activities <= activities AND largest_distance_m <= distance_m AND largest_weight_g <= weight_g AND largest_points <= points",
            name=op.f("activity_period_largest_check"),
        ),
        sa.CheckConstraint(
            "least(activities, residents, distance_m, weight_g, points, distance_residents, weight_residents, points_residents, largest_activities, largest_distance_m, largest_weight_g, largest_points, squared_activities, squared_distance_m, squared_weight_g, squared_points, sites, partners, reversed) >= 0",
            name=op.f("activity_period_not_negative_check"),
        ),
        sa.PrimaryKeyConstraint(
            "grain", "starts_on", "behaviour", "mode", "place_code", name=op.f("activity_period_pkey")
        ),
    )
    op.create_index("activity_period_place_ix", "activity_period", ["place_code", "grain", "starts_on"], unique=False)
    op.create_table(
        "activity_saving",
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
        sa.Column("behaviour", sa.String(length=40), server_default="", nullable=False),
        sa.Column("mode", sa.String(length=40), server_default="", nullable=False),
        sa.Column("place_code", sa.String(length=12), nullable=False),
        sa.Column("method_id", sa.String(length=60), nullable=False),
        sa.Column("saved_co2e_mg", sa.BigInteger(), nullable=False),
        sa.Column("residents", sa.Integer(), nullable=False),
        sa.Column("largest_saved_co2e_mg", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("behaviour <> '' OR mode = ''", name=op.f("activity_saving_mode_check")),
        sa.CheckConstraint(
            "method_id <> '' AND saved_co2e_mg > 0 AND residents > 0", name=op.f("activity_saving_positive_check")
        ),
        sa.CheckConstraint(
            "place_code ~ '^([0-9]{6}|[0-9]{9}|[0-9]{12})$'", name=op.f("activity_saving_place_code_check")
        ),
        sa.CheckConstraint(
            "largest_saved_co2e_mg BETWEEN 1 AND saved_co2e_mg", name=op.f("activity_saving_largest_check")
        ),
        sa.PrimaryKeyConstraint(
            "grain", "starts_on", "behaviour", "mode", "place_code", "method_id", name=op.f("activity_saving_pkey")
        ),
    )
    op.create_index("activity_saving_place_ix", "activity_saving", ["place_code", "grain", "starts_on"], unique=False)
    op.create_table(
        "registered_period",
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
        sa.Column("place_code", sa.String(length=12), nullable=False),
        sa.Column("registered", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "place_code ~ '^([0-9]{6}|[0-9]{9}|[0-9]{12})$'", name=op.f("registered_period_place_code_check")
        ),
        sa.CheckConstraint("registered >= 0", name=op.f("registered_period_registered_check")),
        sa.PrimaryKeyConstraint("grain", "starts_on", "place_code", name=op.f("registered_period_pkey")),
    )
    op.create_table(
        "resident_month",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("month_on", sa.Date(), nullable=False),
        sa.Column("behaviour", sa.String(length=40), nullable=False),
        sa.Column("mode", sa.String(length=40), nullable=False),
        sa.Column("method_id", sa.String(length=60), server_default="", nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("activities", sa.Integer(), nullable=False),
        sa.Column("distance_m", sa.BigInteger(), nullable=False),
        sa.Column("weight_g", sa.BigInteger(), nullable=False),
        sa.Column("saved_co2e_mg", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("extract(day FROM month_on) = 1", name=op.f("resident_month_month_on_check")),
        sa.CheckConstraint(
            "least(activities, distance_m, weight_g, saved_co2e_mg, points) >= 0",
            name=op.f("resident_month_not_negative_check"),
        ),
        sa.PrimaryKeyConstraint(
            "resident_id",
            "month_on",
            "behaviour",
            "mode",
            "method_id",
            "community_code",
            name=op.f("resident_month_pkey"),
        ),
    )
    op.create_index(
        "resident_month_month_on_brin", "resident_month", ["month_on"], unique=False, postgresql_using="brin"
    )
    op.create_table(
        "site_month",
        sa.Column("month_on", sa.Date(), nullable=False),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("behaviour", sa.String(length=40), nullable=False),
        sa.Column("mode", sa.String(length=40), nullable=False),
        sa.Column("partner", sa.String(length=40), nullable=False),
        sa.Column("site", sa.String(length=64), nullable=False),
        sa.CheckConstraint("partner <> '' OR site <> ''", name=op.f("site_month_partner_or_site_check")),
        sa.CheckConstraint("extract(day FROM month_on) = 1", name=op.f("site_month_month_on_check")),
        sa.PrimaryKeyConstraint(
            "month_on", "community_code", "behaviour", "mode", "partner", "site", name=op.f("site_month_pkey")
        ),
    )
    op.create_table(
        "activity_day_mark",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("mark", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", name=op.f("activity_day_mark_pkey")),
    )
    op.create_table(
        "activity_period_count",
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
        sa.Column("is_due", sa.Boolean(), nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("activities", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("activities >= 0", name=op.f("activity_period_count_activities_check")),
        sa.CheckConstraint("is_due OR counted_at IS NOT NULL", name=op.f("activity_period_count_counted_check")),
        sa.PrimaryKeyConstraint("grain", "starts_on", name=op.f("activity_period_count_pkey")),
    )
    op.create_index(
        "activity_period_count_due_ix",
        "activity_period_count",
        ["starts_on"],
        unique=False,
        postgresql_where=sa.text("is_due"),
    )
    # The counting looks for what a day or a month brought. A block range index is built in one quick pass, and a new
    # row costs it a comparison.
    for index in (
        "activity_business_day_brin ON activity USING brin (business_day) WITH (pages_per_range = 32)",
        "transfer_occurred_at_brin ON transfer USING brin (occurred_at) WITH (pages_per_range = 32)",
    ):
        op.execute(f"-- squawk-ignore require-concurrent-index-creation\nCREATE INDEX {index}")
    for table in TABLES:
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO tanpuhui_app")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
