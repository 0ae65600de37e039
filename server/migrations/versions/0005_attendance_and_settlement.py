"""Check-ins, campaign budgets, payments, settlement and certificates."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# What was asked for stands as it was asked, and a decision stands: otherwise the CHECK that the proposer is not the
# decider could be passed by naming another proposer afterwards.
REQUESTS_STAND = """
CREATE FUNCTION refuse_budget_rewriting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.decided_by IS NULL AND (NEW.state = 'proposed' OR NEW.state = 'approved') THEN
            RETURN NEW;
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF OLD.state = 'proposed' AND NEW.state <> 'proposed'
           AND to_jsonb(NEW) - ARRAY['state', 'decided_by', 'decided_at', 'decision']
               = to_jsonb(OLD) - ARRAY['state', 'decided_by', 'decided_at', 'decision']
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'a budget request is decided once and never rewritten' USING ERRCODE = 'restrict_violation';
END $$
"""

JOURNALS = ("budget_allotment", "campaign_payment")
TABLES = ("check_in_slot", "check_in", "volunteer_day", "check_in_code", "settlement", "certificate")


def upgrade() -> None:
    # Numbers below 1000 are the programme's own accounts.
    op.execute("CREATE SEQUENCE budget_account_id_seq AS integer START 1000")
    op.create_table(
        "campaign_payment",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("transfer_id", sa.Uuid(), nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column(
            "way",
            sa.Enum("claim", "settlement", name="way", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("paid_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("points > 0", name=op.f("campaign_payment_points_check")),
        sa.PrimaryKeyConstraint("resident_id", "campaign_id", "task_id", name=op.f("campaign_payment_pkey")),
        sa.UniqueConstraint("resident_id", "transfer_id", name=op.f("campaign_payment_resident_id_transfer_id_key")),
    )
    op.create_index(
        "campaign_payment_campaign_ix", "campaign_payment", ["campaign_id", "resident_id", "task_id"], unique=False
    )
    op.create_table(
        "check_in",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("slot_id", sa.Uuid(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column(
            "way",
            sa.Enum("rotating", "printed", "staff", name="way", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("checked_in_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("checked_in_by", sa.Uuid(), nullable=True),
        sa.Column("signed_out_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("minutes", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("minutes_set_by", sa.Uuid(), nullable=True),
        sa.CheckConstraint("(way = 'staff') = (checked_in_by IS NOT NULL)", name=op.f("check_in_staff_check")),
        sa.CheckConstraint(
            "minutes = 0 OR signed_out_at IS NOT NULL OR minutes_set_by IS NOT NULL",
            name=op.f("check_in_minutes_earned_check"),
        ),
        sa.CheckConstraint("minutes BETWEEN 0 AND 480", name=op.f("check_in_minutes_check")),
        sa.CheckConstraint("signed_out_at >= checked_in_at", name=op.f("check_in_signed_out_check")),
        sa.PrimaryKeyConstraint("resident_id", "slot_id", name=op.f("check_in_pkey")),
    )
    op.create_index("check_in_campaign_ix", "check_in", ["campaign_id", "slot_id", "resident_id"], unique=False)
    op.create_table(
        "volunteer_day",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("minutes", sa.SmallInteger(), nullable=False),
        sa.Column("last_added_minutes", sa.SmallInteger(), nullable=False),
        sa.CheckConstraint("minutes BETWEEN 0 AND 480", name=op.f("volunteer_day_minutes_check")),
        sa.PrimaryKeyConstraint("resident_id", "day", name=op.f("volunteer_day_pkey")),
    )
    op.create_table(
        "budget_allotment",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("allotted_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("points > 0", name=op.f("budget_allotment_points_check")),
        sa.ForeignKeyConstraint(["account_id"], ["system_account.id"], name=op.f("budget_allotment_account_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("budget_allotment_pkey")),
    )
    op.create_index(op.f("budget_allotment_account_id_ix"), "budget_allotment", ["account_id"], unique=False)
    op.create_table(
        "budget_request",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "proposed",
                "approved",
                "refused",
                "withdrawn",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("limit_points", sa.Integer(), nullable=False),
        sa.Column("proposed_by", sa.Uuid(), nullable=False),
        sa.Column("proposed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decision", sa.String(length=200), nullable=True),
        sa.CheckConstraint("(state = 'proposed') = (decided_at IS NULL)", name=op.f("budget_request_decided_check")),
        sa.CheckConstraint(
            "CASE state WHEN 'refused' THEN decided_by IS NOT NULL WHEN 'approved' THEN true ELSE decided_by IS NULL END",
            name=op.f("budget_request_decider_check"),
        ),
        sa.CheckConstraint(
            "state <> 'approved' OR decided_by IS NOT NULL OR points <= limit_points",
            name=op.f("budget_request_second_person_check"),
        ),
        sa.CheckConstraint("decided_by <> proposed_by", name=op.f("budget_request_four_eyes_check")),
        sa.CheckConstraint("limit_points BETWEEN 0 AND 20000", name=op.f("budget_request_limit_points_check")),
        sa.CheckConstraint("points BETWEEN 1 AND 10000000", name=op.f("budget_request_points_check")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("budget_request_campaign_id_fkey")),
        sa.ForeignKeyConstraint(["decided_by"], ["staff.id"], name=op.f("budget_request_decided_by_fkey")),
        sa.ForeignKeyConstraint(["proposed_by"], ["staff.id"], name=op.f("budget_request_proposed_by_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("budget_request_pkey")),
    )
    op.create_index(
        "budget_request_alone_key",
        "budget_request",
        ["campaign_id"],
        unique=True,
        postgresql_where="state = 'approved' AND decided_by IS NULL",
    )
    op.create_index("budget_request_campaign_ix", "budget_request", ["campaign_id", "id"], unique=False)
    op.create_table(
        "certificate",
        sa.Column("code", sa.String(length=10), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("resident_id", sa.Uuid(), nullable=True),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.Uuid(), nullable=True),
        sa.Column("revoked_because", sa.String(length=200), nullable=True),
        sa.CheckConstraint("code ~ '^[0-9A-HJKMNP-TV-Z]{10}$'", name=op.f("certificate_code_check")),
        sa.CheckConstraint("(resident_id IS NULL) <> (team_id IS NULL)", name=op.f("certificate_holder_check")),
        sa.CheckConstraint(
            "(revoked_at IS NULL) = (revoked_by IS NULL) AND (revoked_at IS NULL) = (revoked_because IS NULL)",
            name=op.f("certificate_revoked_check"),
        ),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("certificate_campaign_id_fkey")),
        sa.ForeignKeyConstraint(["revoked_by"], ["staff.id"], name=op.f("certificate_revoked_by_fkey")),
        sa.PrimaryKeyConstraint("code", name=op.f("certificate_pkey")),
    )
    op.create_index(op.f("certificate_resident_id_ix"), "certificate", ["resident_id"], unique=False)
    op.create_index(
        "certificate_resident_key",
        "certificate",
        ["campaign_id", "resident_id"],
        unique=True,
        postgresql_where="resident_id IS NOT NULL",
    )
    op.create_index(
        "certificate_team_key",
        "certificate",
        ["campaign_id", "team_id"],
        unique=True,
        postgresql_where="team_id IS NOT NULL",
    )
    op.create_table(
        "check_in_slot",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("visit", "volunteer", name="kind", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("site_name", sa.String(length=60), nullable=False),
        sa.Column("opens_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("latitude", sa.Double(), nullable=True),
        sa.Column("longitude", sa.Double(), nullable=True),
        sa.Column("radius_m", sa.Integer(), nullable=True),
        sa.Column("minutes_max", sa.SmallInteger(), nullable=True),
        sa.Column("capacity", sa.Integer(), nullable=True),
        sa.Column("taken", sa.Integer(), server_default="0", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(kind = 'volunteer') = (minutes_max IS NOT NULL)", name=op.f("check_in_slot_volunteer_check")
        ),
        sa.CheckConstraint("btrim(site_name) <> ''", name=op.f("check_in_slot_site_name_check")),
        sa.CheckConstraint(
            "closes_at > opens_at AND closes_at <= opens_at + interval '24 hours'",
            name=op.f("check_in_slot_span_check"),
        ),
        sa.CheckConstraint(
            "(latitude IS NULL) = (radius_m IS NULL) AND (longitude IS NULL) = (radius_m IS NULL)",
            name=op.f("check_in_slot_geofence_check"),
        ),
        sa.CheckConstraint("capacity BETWEEN 1 AND 100000", name=op.f("check_in_slot_capacity_check")),
        sa.CheckConstraint(
            "latitude BETWEEN -90 AND 90 AND longitude BETWEEN -180 AND 180 AND radius_m BETWEEN 30 AND 5000",
            name=op.f("check_in_slot_geofence_range_check"),
        ),
        sa.CheckConstraint("minutes_max BETWEEN 1 AND 480", name=op.f("check_in_slot_minutes_max_check")),
        sa.CheckConstraint("taken >= 0 AND taken <= coalesce(capacity, 0)", name=op.f("check_in_slot_taken_check")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("check_in_slot_campaign_id_fkey")),
        sa.ForeignKeyConstraint(["created_by"], ["staff.id"], name=op.f("check_in_slot_created_by_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("check_in_slot_pkey")),
    )
    op.create_index("check_in_slot_campaign_ix", "check_in_slot", ["campaign_id", "id"], unique=False)
    op.create_table(
        "settlement",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "queued", "running", "short", "done", name="state", native_enum=False, create_constraint=True, length=40
            ),
            nullable=False,
        ),
        sa.Column("requested_by", sa.Uuid(), nullable=True),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("after_resident_id", sa.Uuid(), nullable=True),
        sa.Column("residents", sa.Integer(), server_default="0", nullable=False),
        sa.Column("payments", sa.Integer(), server_default="0", nullable=False),
        sa.Column("points", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("short_points", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(state = 'done') = (finished_at IS NOT NULL)", name=op.f("settlement_finished_check")),
        sa.CheckConstraint(
            "(state = 'short') = (short_points IS NOT NULL) AND short_points > 0", name=op.f("settlement_short_check")
        ),
        sa.CheckConstraint("least(residents, payments, points) >= 0", name=op.f("settlement_not_negative_check")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("settlement_campaign_id_fkey")),
        sa.ForeignKeyConstraint(["requested_by"], ["staff.id"], name=op.f("settlement_requested_by_fkey")),
        sa.PrimaryKeyConstraint("campaign_id", name=op.f("settlement_pkey")),
    )
    op.create_table(
        "check_in_code",
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("slot_id", sa.Uuid(), nullable=False),
        sa.Column("printed_by", sa.Uuid(), nullable=False),
        sa.Column("printed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_by", sa.Uuid(), nullable=True),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(used_by IS NULL) = (used_at IS NULL)", name=op.f("check_in_code_used_check")),
        sa.CheckConstraint("octet_length(code_hash) = 32", name=op.f("check_in_code_code_hash_check")),
        sa.ForeignKeyConstraint(["printed_by"], ["staff.id"], name=op.f("check_in_code_printed_by_fkey")),
        sa.ForeignKeyConstraint(["slot_id"], ["check_in_slot.id"], name=op.f("check_in_code_slot_id_fkey")),
        sa.PrimaryKeyConstraint("code_hash", name=op.f("check_in_code_pkey")),
    )
    op.create_index(op.f("check_in_code_slot_id_ix"), "check_in_code", ["slot_id"], unique=False)

    op.execute(REQUESTS_STAND)
    op.execute(
        "CREATE TRIGGER budget_request_refuse_budget_rewriting BEFORE INSERT OR UPDATE OR DELETE ON budget_request "
        "FOR EACH ROW EXECUTE FUNCTION refuse_budget_rewriting()"
    )
    for table in JOURNALS:
        op.execute(
            f"CREATE TRIGGER {table}_refuse_change BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
    for table in (*JOURNALS, "budget_request"):
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_change()"
        )
    for table in TABLES:
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO tanpuhui_app")
    for table in JOURNALS:
        op.execute(f"GRANT SELECT, INSERT ON {table} TO tanpuhui_app")
    op.execute("GRANT SELECT, INSERT, UPDATE ON budget_request TO tanpuhui_app")
    op.execute("GRANT USAGE ON SEQUENCE budget_account_id_seq TO tanpuhui_app")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
