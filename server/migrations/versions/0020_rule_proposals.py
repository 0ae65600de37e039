"""Proposals of earning rules and carbon methods, and what a replay of the last weeks says of them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# What is proposed stays as it is; a proposal only goes its way, one step at a time, and never back.
HOLD_PROPOSAL = """
CREATE FUNCTION hold_rule_proposal() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moving text[] := ARRAY['state', 'version', 'decided_by', 'decided_at', 'decision_reason', 'withdrawn_by',
                           'withdrawn_at', 'withdrawn_because', 'enacted_at'];
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'proposed' THEN
            RAISE EXCEPTION 'a proposal begins as proposed' USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF to_jsonb(NEW) - moving <> to_jsonb(OLD) - moving OR NEW.version <> OLD.version + 1 THEN
        RAISE EXCEPTION 'a proposal is withdrawn and made anew, never changed' USING ERRCODE = 'restrict_violation';
    END IF;
    IF NOT (OLD.state = 'proposed' AND NEW.state IN ('approved', 'rejected', 'withdrawn', 'lapsed')
            OR OLD.state = 'approved' AND NEW.state IN ('enacted', 'withdrawn', 'lapsed')) THEN
        RAISE EXCEPTION 'a proposal does not go from % to %', OLD.state, NEW.state
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.decided_at IS NOT NULL AND (NEW.decided_by, NEW.decided_at, NEW.decision_reason)
       IS DISTINCT FROM (OLD.decided_by, OLD.decided_at, OLD.decision_reason) THEN
        RAISE EXCEPTION 'a decision is made once' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

# What a decision was based on stays as it was when it was made.
HOLD_REPLAY = """
CREATE FUNCTION hold_rule_replay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Waits for a decision that is being made at this moment, which has locked the proposal's row.
    PERFORM FROM rule_proposal p WHERE p.id = NEW.proposal_id AND p.state = 'proposed' FOR SHARE;
    IF NOT FOUND OR TG_OP = 'UPDATE' AND NEW.proposal_id <> OLD.proposal_id THEN
        RAISE EXCEPTION 'the replay of a proposal stands once there is a decision'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'rule_replay_held';
    END IF;
    RETURN NEW;
END $$
"""

GUARDS = (
    ("hold_rule_proposal", "rule_proposal", "INSERT OR UPDATE"),
    ("refuse_change", "rule_proposal", "DELETE"),
    ("hold_rule_replay", "rule_replay", "INSERT OR UPDATE"),
    ("refuse_change", "rule_replay", "DELETE"),
)


def upgrade() -> None:
    op.create_table(
        "rule_proposal",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("rules", "method", name="kind", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("subject_id", sa.String(length=60), nullable=False),
        sa.Column("version_id", sa.String(length=40), nullable=False),
        sa.Column("base_version_id", sa.String(length=40), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("fen_per_100_points", sa.Integer(), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "proposed",
                "approved",
                "enacted",
                "rejected",
                "withdrawn",
                "lapsed",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            server_default="proposed",
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("proposed_by", sa.Uuid(), nullable=False),
        sa.Column("proposed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decision_reason", sa.String(length=500), nullable=True),
        sa.Column("withdrawn_by", sa.Uuid(), nullable=True),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("withdrawn_because", sa.String(length=500), nullable=True),
        sa.Column("enacted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind = 'rules' OR base_version_id IS NOT NULL", name=op.f("rule_proposal_base_check")),
        sa.CheckConstraint("octet_length(content) BETWEEN 1 AND 200000", name=op.f("rule_proposal_content_check")),
        sa.CheckConstraint("octet_length(content_sha256) = 32", name=op.f("rule_proposal_content_sha256_check")),
        sa.CheckConstraint(
            "btrim(reason) <> '' AND btrim(decision_reason) <> '' AND btrim(withdrawn_because) <> ''",
            name=op.f("rule_proposal_reasons_check"),
        ),
        sa.CheckConstraint(
            "fen_per_100_points BETWEEN 0 AND 100000", name=op.f("rule_proposal_fen_per_100_points_check")
        ),
        sa.CheckConstraint(
            "num_nonnulls(decided_by, decided_at, decision_reason) = CASE"
            " WHEN state IN ('approved', 'enacted', 'rejected') OR state <> 'proposed' AND decided_at IS NOT NULL"
            " THEN 3 ELSE 0 END",
            name=op.f("rule_proposal_decided_check"),
        ),
        sa.CheckConstraint("decided_by <> proposed_by", name=op.f("rule_proposal_four_eyes_check")),
        sa.CheckConstraint(
            "num_nonnulls(withdrawn_by, withdrawn_at, withdrawn_because)"
            " = CASE WHEN state = 'withdrawn' THEN 3 ELSE 0 END",
            name=op.f("rule_proposal_withdrawn_check"),
        ),
        sa.CheckConstraint("(state = 'enacted') = (enacted_at IS NOT NULL)", name=op.f("rule_proposal_enacted_check")),
        sa.CheckConstraint(
            # Days begin in Shanghai: nothing takes effect on a day that has begun.
            "greatest(decided_at, enacted_at) < cast(valid_from AS timestamp) AT TIME ZONE 'Asia/Shanghai'"
            " OR state NOT IN ('approved', 'enacted')",
            name=op.f("rule_proposal_in_time_check"),
        ),
        sa.ForeignKeyConstraint(
            ["base_version_id"], ["rule_version.id"], name=op.f("rule_proposal_base_version_id_fkey")
        ),
        sa.ForeignKeyConstraint(["decided_by"], ["staff.id"], name=op.f("rule_proposal_decided_by_fkey")),
        sa.ForeignKeyConstraint(["proposed_by"], ["staff.id"], name=op.f("rule_proposal_proposed_by_fkey")),
        sa.ForeignKeyConstraint(["withdrawn_by"], ["staff.id"], name=op.f("rule_proposal_withdrawn_by_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("rule_proposal_pkey")),
    )
    for name, column in (
        ("rule_proposal_version_key", "version_id"),
        ("rule_proposal_subject_key", "subject_id"),
        ("rule_proposal_day_key", "valid_from"),
    ):
        op.create_index(
            name,
            "rule_proposal",
            [column],
            unique=True,
            postgresql_where=sa.text("state IN ('approved', 'enacted')"),
        )
    op.create_table(
        "rule_replay",
        sa.Column("proposal_id", sa.Uuid(), nullable=False),
        sa.Column("first_on", sa.Date(), nullable=False),
        sa.Column("last_on", sa.Date(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("days_done", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("activities_done", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.String(length=60), nullable=True),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint("last_on - first_on BETWEEN 0 AND 30", name=op.f("rule_replay_period_check")),
        sa.CheckConstraint("attempts BETWEEN 0 AND 3", name=op.f("rule_replay_attempts_check")),
        sa.CheckConstraint("least(days_done, activities_done) >= 0", name=op.f("rule_replay_progress_check")),
        sa.CheckConstraint("(finished_at IS NULL) = (report IS NULL)", name=op.f("rule_replay_finished_check")),
        sa.CheckConstraint(
            "jsonb_typeof(report) = 'object' AND octet_length(report::text) <= 1048576",
            name=op.f("rule_replay_report_check"),
        ),
        sa.ForeignKeyConstraint(["proposal_id"], ["rule_proposal.id"], name=op.f("rule_replay_proposal_id_fkey")),
        sa.PrimaryKeyConstraint("proposal_id", name=op.f("rule_replay_pkey")),
    )
    op.execute(HOLD_PROPOSAL)
    op.execute(HOLD_REPLAY)
    for function, table, events in GUARDS:
        op.execute(
            f"CREATE TRIGGER {table}_{function} BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
    for table in ("rule_proposal", "rule_replay"):
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_change()"
        )
    op.execute("GRANT SELECT, INSERT, UPDATE ON rule_proposal, rule_replay TO tanpuhui_app")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
