"""Households, residents' codes and cards, registered scanners, and two more roles: supervisor and collector."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

ROLES = (
    "resident",
    "community-staff",
    "school-staff",
    "organisation-staff",
    "assessor",
    "supervisor",
    "collector",
    "street",
    "district",
    "operator",
)

CHANGING = (
    "household, household_member, household_stay, household_join_code, resident_code_use, printed_card, card_day, "
    "staff_link, scanner, scanner_scan"
)


def upgrade() -> None:
    _two_more_roles()
    _tables()
    # What the district allowed on a day stays readable: a new rule is a new row.
    op.execute(
        "CREATE TRIGGER code_limits_refuse_change BEFORE UPDATE OR DELETE ON code_limits FOR EACH ROW "
        "EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER code_limits_refuse_truncate BEFORE TRUNCATE ON code_limits FOR EACH STATEMENT "
        "EXECUTE FUNCTION refuse_change()"
    )
    op.execute("GRANT SELECT, INSERT ON code_limits TO tanpuhui_app")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {CHANGING} TO tanpuhui_app")


def _two_more_roles() -> None:
    # A wider check only: whoever still runs the release before writes nothing that it refuses.
    name = "staff_role_check"
    op.execute(f"-- squawk-ignore ban-drop-constraint\nALTER TABLE staff DROP CONSTRAINT {name}")
    roles = ", ".join(repr(role) for role in ROLES)
    op.execute(f"ALTER TABLE staff ADD CONSTRAINT {name} CHECK (role IN ({roles})) NOT VALID")
    # Some hundred rows, and the lock is held already: validating here costs nobody a wait.
    op.execute(f"-- squawk-ignore constraint-missing-not-valid\nALTER TABLE staff VALIDATE CONSTRAINT {name}")


def _tables() -> None:
    op.create_table(
        "card_day",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column(
            "user_kind",
            sa.Enum("household", "staff", name="user_kind", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("limit_uses", sa.SmallInteger(), nullable=False),
        sa.Column("uses", sa.SmallInteger(), nullable=False),
        sa.CheckConstraint("uses BETWEEN 0 AND limit_uses", name=op.f("card_day_uses_check")),
        sa.PrimaryKeyConstraint("day", "user_kind", "user_id", name=op.f("card_day_pkey")),
    )
    op.create_table(
        "code_limits",
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("household_members_max", sa.SmallInteger(), nullable=False),
        sa.Column("household_wait_days", sa.SmallInteger(), nullable=False),
        sa.Column("card_uses_per_staff_max", sa.SmallInteger(), nullable=False),
        sa.Column("card_uses_per_household_max", sa.SmallInteger(), nullable=False),
        sa.Column("offline_hours_max", sa.SmallInteger(), nullable=False),
        sa.CheckConstraint(
            "card_uses_per_household_max BETWEEN 0 AND 100", name=op.f("code_limits_card_uses_per_household_max_check")
        ),
        sa.CheckConstraint(
            "card_uses_per_staff_max BETWEEN 0 AND 2000", name=op.f("code_limits_card_uses_per_staff_max_check")
        ),
        sa.CheckConstraint(
            "household_members_max BETWEEN 2 AND 50", name=op.f("code_limits_household_members_max_check")
        ),
        sa.CheckConstraint("household_wait_days BETWEEN 1 AND 366", name=op.f("code_limits_household_wait_days_check")),
        sa.CheckConstraint("offline_hours_max BETWEEN 0 AND 48", name=op.f("code_limits_offline_hours_max_check")),
        sa.PrimaryKeyConstraint("valid_from", name=op.f("code_limits_pkey")),
    )
    op.create_table(
        "household",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("member_count", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(member_count = 0) = (ended_at IS NOT NULL)", name=op.f("household_ended_check")),
        sa.CheckConstraint("member_count BETWEEN 0 AND 50", name=op.f("household_member_count_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("household_pkey")),
    )
    op.create_table(
        "resident_code_use",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column(
            "purpose",
            sa.Enum(
                "sorting",
                "recycling",
                "staff-link",
                name="purpose",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("slot", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("slot BETWEEN 0 AND 4294967295", name=op.f("resident_code_use_slot_check")),
        sa.PrimaryKeyConstraint("resident_id", "purpose", "slot", name=op.f("resident_code_use_pkey")),
    )
    op.create_index(op.f("resident_code_use_used_at_ix"), "resident_code_use", ["used_at"], unique=False)
    op.create_table(
        "household_join_code",
        sa.Column("household_id", sa.Uuid(), nullable=False),
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("issued_by", sa.Uuid(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "expires_at > issued_at AND expires_at <= issued_at + interval '7 days'",
            name=op.f("household_join_code_expires_check"),
        ),
        sa.CheckConstraint("octet_length(code_hash) = 32", name=op.f("household_join_code_code_hash_check")),
        sa.ForeignKeyConstraint(["household_id"], ["household.id"], name=op.f("household_join_code_household_id_fkey")),
        sa.PrimaryKeyConstraint("household_id", name=op.f("household_join_code_pkey")),
        sa.UniqueConstraint("code_hash", name=op.f("household_join_code_code_hash_key")),
    )
    op.create_table(
        "household_member",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("household_id", sa.Uuid(), nullable=False),
        sa.Column("member_id", sa.Uuid(), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("leaves_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("put_out", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint("NOT put_out OR leaves_at IS NOT NULL", name=op.f("household_member_put_out_check")),
        sa.CheckConstraint("leaves_at > joined_at", name=op.f("household_member_leaves_after_joined_check")),
        sa.ForeignKeyConstraint(["household_id"], ["household.id"], name=op.f("household_member_household_id_fkey")),
        sa.PrimaryKeyConstraint("resident_id", name=op.f("household_member_pkey")),
    )
    op.create_index(op.f("household_member_household_id_ix"), "household_member", ["household_id"], unique=False)
    op.create_index(
        "household_member_leaving_ix",
        "household_member",
        ["leaves_at"],
        unique=False,
        postgresql_where="leaves_at IS NOT NULL",
    )
    op.create_table(
        "household_stay",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("left_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("household_id", sa.Uuid(), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("left_at > joined_at", name=op.f("household_stay_left_after_joined_check")),
        sa.ForeignKeyConstraint(["household_id"], ["household.id"], name=op.f("household_stay_household_id_fkey")),
        sa.PrimaryKeyConstraint("resident_id", "left_at", name=op.f("household_stay_pkey")),
    )
    op.create_table(
        "printed_card",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("household_id", sa.Uuid(), nullable=True),
        sa.Column("issued_by", sa.Uuid(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_by", sa.Uuid(), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_because", sa.String(length=200), nullable=True),
        sa.Column("use_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(revoked_at IS NULL) = (revoked_because IS NULL) AND (revoked_by IS NULL OR revoked_at IS NOT NULL)",
            name=op.f("printed_card_revoked_check"),
        ),
        sa.CheckConstraint("octet_length(code_hash) = 32", name=op.f("printed_card_code_hash_check")),
        sa.CheckConstraint("use_count >= 0", name=op.f("printed_card_use_count_check")),
        sa.ForeignKeyConstraint(["household_id"], ["household.id"], name=op.f("printed_card_household_id_fkey")),
        sa.ForeignKeyConstraint(["issued_by"], ["staff.id"], name=op.f("printed_card_issued_by_fkey")),
        sa.ForeignKeyConstraint(["revoked_by"], ["staff.id"], name=op.f("printed_card_revoked_by_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("printed_card_pkey")),
        sa.UniqueConstraint("code_hash", name=op.f("printed_card_code_hash_key")),
    )
    op.create_index("printed_card_resident_id_ix", "printed_card", ["resident_id", "id"], unique=False)
    op.create_index(
        "printed_card_standing_key", "printed_card", ["resident_id"], unique=True, postgresql_where="revoked_at IS NULL"
    )
    op.create_table(
        "scanner",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("division", sa.String(length=12), nullable=False),
        sa.Column("site_code", sa.String(length=40), nullable=True),
        sa.Column("operator_id", sa.Uuid(), nullable=True),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("key_a_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("key_b_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("name <> ''", name=op.f("scanner_name_check")),
        sa.CheckConstraint("site_code ~ '^[a-z0-9][a-z0-9-]{1,39}$'", name=op.f("scanner_site_code_check")),
        sa.CheckConstraint(
            "octet_length(key_a_sealed) <= 200 AND octet_length(key_b_sealed) <= 200",
            name=op.f("scanner_key_length_check"),
        ),
        sa.ForeignKeyConstraint(["division"], ["division.code"], name=op.f("scanner_division_fkey")),
        sa.ForeignKeyConstraint(["operator_id"], ["staff.id"], name=op.f("scanner_operator_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("scanner_pkey")),
    )
    op.create_index(op.f("scanner_division_ix"), "scanner", ["division"], unique=False)
    op.create_table(
        "staff_link",
        sa.Column("staff_id", sa.Uuid(), nullable=False),
        sa.Column("resident_id", sa.Uuid(), nullable=True),
        sa.Column("statement", sa.String(length=200), nullable=True),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "num_nonnulls(resident_id, statement) = 1 AND statement <> ''", name=op.f("staff_link_one_of_two_check")
        ),
        sa.ForeignKeyConstraint(["staff_id"], ["staff.id"], name=op.f("staff_link_staff_id_fkey")),
        sa.PrimaryKeyConstraint("staff_id", name=op.f("staff_link_pkey")),
    )
    op.create_index(op.f("staff_link_resident_id_ix"), "staff_link", ["resident_id"], unique=False)
    op.create_table(
        "scanner_scan",
        sa.Column("scanner_id", sa.Uuid(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("scan_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("scanned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("refused_because", sa.String(length=60), nullable=True),
        sa.CheckConstraint("octet_length(scan_sha256) = 32", name=op.f("scanner_scan_scan_sha256_check")),
        sa.CheckConstraint("sequence >= 0", name=op.f("scanner_scan_sequence_check")),
        sa.ForeignKeyConstraint(["scanner_id"], ["scanner.id"], name=op.f("scanner_scan_scanner_id_fkey")),
        sa.PrimaryKeyConstraint("scanner_id", "sequence", name=op.f("scanner_scan_pkey")),
    )
    op.create_index(op.f("scanner_scan_received_at_ix"), "scanner_scan", ["received_at"], unique=False)


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
