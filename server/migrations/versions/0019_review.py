"""Review by people: cases, decisions, appeals, editions of what the district decided, and what the detectors keep."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# What a case is about stays; a lead may grow while it stands, and then take two people. Its ends are ends.
HOLD_CASE = """
CREATE FUNCTION hold_review_case() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kept text[] := ARRAY['resident_id', 'id', 'kind', 'subject_id', 'activity_id', 'community_code', 'reason',
                         'detail', 'opened_at'];
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'open' OR NEW.proposed_by IS NOT NULL THEN
            RAISE EXCEPTION 'a case begins as open' USING ERRCODE = 'check_violation',
                CONSTRAINT = 'review_case_held';
        END IF;
        RETURN NEW;
    END IF;
    IF OLD.state IN ('decided', 'superseded') OR (OLD.state = 'proposed' AND NEW.state = 'open') THEN
        RAISE EXCEPTION 'no case goes from % to %', OLD.state, NEW.state USING ERRCODE = 'check_violation',
            CONSTRAINT = 'review_case_held';
    END IF;
    IF (SELECT count(*) FROM jsonb_each(to_jsonb(OLD)) AS o(name, value)
        WHERE o.name = ANY (kept) AND (to_jsonb(NEW) -> o.name) IS DISTINCT FROM o.value) > 0
       OR NEW.points < OLD.points OR OLD.two_people AND NOT NEW.two_people THEN
        RAISE EXCEPTION 'what a case is about stays' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'review_case_held';
    END IF;
    RETURN NEW;
END $$
"""

# Nobody decides about what they confirmed themselves, nor answers an appeal about what they decided before.
HOLD_DECISION = """
CREATE FUNCTION hold_review_decision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM review_case c JOIN activity a ON a.resident_id = c.resident_id
         AND (a.id = c.activity_id OR a.id IN (
              SELECT l.activity_id FROM review_case_activity l
              WHERE l.resident_id = c.resident_id AND l.case_id = c.id))
        WHERE c.resident_id = NEW.resident_id AND c.id = NEW.case_id AND a.staff_id = NEW.decided_by
    ) THEN
        RAISE EXCEPTION 'nobody decides about their own work' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'review_decision_own_work';
    END IF;
    IF EXISTS (
        SELECT FROM review_case c
        JOIN review_case earlier ON earlier.resident_id = c.resident_id AND earlier.id <> c.id
         AND (earlier.activity_id = c.activity_id OR EXISTS (
              SELECT FROM review_case_activity l WHERE l.resident_id = earlier.resident_id
               AND l.case_id = earlier.id AND l.activity_id = c.activity_id))
        JOIN review_decision d ON d.resident_id = earlier.resident_id AND d.case_id = earlier.id
        WHERE c.resident_id = NEW.resident_id AND c.id = NEW.case_id AND c.kind = 'appeal'
          AND d.decided_by = NEW.decided_by
    ) THEN
        RAISE EXCEPTION 'an appeal is answered by somebody else' USING ERRCODE = 'check_violation',
            CONSTRAINT = 'review_decision_decided_before';
    END IF;
    RETURN NEW;
END $$
"""

# Of an appeal only its words go, in time; that it was made stays.
HOLD_APPEAL = """
CREATE FUNCTION hold_appeal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.text <> '' OR to_jsonb(NEW) - 'text' <> to_jsonb(OLD) - 'text' THEN
        RAISE EXCEPTION 'an appeal stays as it was made' USING ERRCODE = 'check_violation', CONSTRAINT = 'appeal_held';
    END IF;
    RETURN NEW;
END $$
"""

GUARDS = (
    ("hold_review_case", "review_case", "INSERT OR UPDATE"),
    ("refuse_change", "review_case", "DELETE"),
    ("refuse_change", "review_case_activity", "UPDATE OR DELETE"),
    ("hold_review_decision", "review_decision", "INSERT"),
    ("refuse_change", "review_decision", "UPDATE OR DELETE"),
    ("hold_appeal", "appeal", "UPDATE"),
    ("refuse_change", "appeal", "DELETE"),
    ("refuse_change", "review_edition", "UPDATE OR DELETE"),
)


def upgrade() -> None:
    _tables()
    for function in (HOLD_CASE, HOLD_DECISION, HOLD_APPEAL):
        op.execute(function)
    for function, table, events in GUARDS:
        op.execute(
            f"CREATE TRIGGER {table}_{function} BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
        )
    for table in sorted({table for _, table, _ in GUARDS}):
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
            "EXECUTE FUNCTION refuse_change()"
        )
    op.execute("GRANT SELECT, INSERT, UPDATE ON review_case, appeal TO tanpuhui_app")
    op.execute("GRANT SELECT, INSERT ON review_case_activity, review_decision, review_edition TO tanpuhui_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON detector_mark, device_use, weight_norm TO tanpuhui_app")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")


def _tables() -> None:
    op.create_table(
        "review_edition",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.Column("two_people_points", sa.Integer(), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.CheckConstraint("octet_length(content::text) <= 65536", name=op.f("review_edition_content_length_check")),
        sa.CheckConstraint(
            "two_people_points BETWEEN 0 AND 100000", name=op.f("review_edition_two_people_points_check")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("review_edition_pkey")),
        sa.UniqueConstraint("valid_from", name=op.f("review_edition_valid_from_key")),
    )
    op.create_table(
        "review_case",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "held-claim",
                "lead",
                "appeal",
                "recycling-dispute",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("activity_id", sa.Uuid(), nullable=True),
        sa.Column("community_code", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column("two_people", sa.Boolean(), nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "open",
                "proposed",
                "decided",
                "superseded",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            server_default="open",
            nullable=False,
        ),
        sa.Column("assigned_to", sa.Uuid(), nullable=True),
        sa.Column("assigned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "proposed_verdict",
            sa.Enum("granted", "denied", name="proposed_verdict", native_enum=False, create_constraint=True, length=40),
            nullable=True,
        ),
        sa.Column("proposed_by", sa.Uuid(), nullable=True),
        sa.Column("proposed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "verdict",
            sa.Enum("granted", "denied", name="verdict", native_enum=False, create_constraint=True, length=40),
            nullable=True,
        ),
        sa.Column("answer", sa.String(length=500), nullable=True),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(ended_at IS NOT NULL) = (state IN ('decided', 'superseded')) AND ended_at >= opened_at",
            name=op.f("review_case_ended_check"),
        ),
        sa.CheckConstraint("answer <> ''", name=op.f("review_case_answer_check")),
        sa.CheckConstraint("community_code ~ '^[0-9]{12}$'", name=op.f("review_case_community_code_check")),
        sa.CheckConstraint(
            "num_nonnulls(proposed_verdict, proposed_by, proposed_at) IN (0, 3) AND (proposed_by IS NOT NULL OR state <> 'proposed')",
            name=op.f("review_case_proposed_check"),
        ),
        sa.CheckConstraint(
            "num_nonnulls(verdict, answer, decided_by) = CASE WHEN state = 'decided' THEN 3 ELSE 0 END",
            name=op.f("review_case_decided_check"),
        ),
        sa.CheckConstraint("reason ~ '^[a-z][a-z0-9-]*$'", name=op.f("review_case_reason_check")),
        sa.CheckConstraint(
            "state <> 'decided' OR CASE WHEN two_people THEN proposed_by IS NOT NULL AND proposed_by <> decided_by AND proposed_verdict = verdict ELSE proposed_by IS NULL END",
            name=op.f("review_case_two_people_check"),
        ),
        sa.CheckConstraint("(assigned_to IS NULL) = (assigned_at IS NULL)", name=op.f("review_case_assigned_check")),
        sa.CheckConstraint("octet_length(detail::text) <= 8192", name=op.f("review_case_detail_length_check")),
        sa.CheckConstraint("points >= 0", name=op.f("review_case_points_check")),
        sa.ForeignKeyConstraint(["assigned_to"], ["staff.id"], name=op.f("review_case_assigned_to_fkey")),
        sa.ForeignKeyConstraint(["decided_by"], ["staff.id"], name=op.f("review_case_decided_by_fkey")),
        sa.ForeignKeyConstraint(["proposed_by"], ["staff.id"], name=op.f("review_case_proposed_by_fkey")),
        sa.PrimaryKeyConstraint("resident_id", "id", name=op.f("review_case_pkey")),
    )
    op.create_index("review_case_activity_ix", "review_case", ["resident_id", "activity_id"], unique=False)
    op.create_index(
        "review_case_ended_at_ix",
        "review_case",
        ["ended_at"],
        unique=False,
        postgresql_where=sa.text("state = 'decided'"),
    )
    op.create_index("review_case_id_ix", "review_case", ["id"], unique=False)
    op.create_index(
        "review_case_queue_assigned_ix",
        "review_case",
        ["assigned_to", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('open', 'proposed') AND assigned_to IS NOT NULL"),
    )
    op.create_index(
        "review_case_queue_community_ix",
        "review_case",
        ["community_code", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('open', 'proposed')"),
    )
    op.create_index(
        "review_case_queue_ix",
        "review_case",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state IN ('open', 'proposed')"),
    )
    op.create_index(
        "review_case_queue_kind_ix",
        "review_case",
        ["kind", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('open', 'proposed')"),
    )
    op.create_index(
        "review_case_queue_opened_at_ix",
        "review_case",
        ["opened_at", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('open', 'proposed')"),
    )
    op.create_index(
        "review_case_queue_points_ix",
        "review_case",
        ["points", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('open', 'proposed')"),
    )
    op.create_index(
        "review_case_queue_reason_ix",
        "review_case",
        ["reason", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('open', 'proposed')"),
    )
    op.create_index(
        "review_case_queue_street_ix",
        "review_case",
        [sa.text("left(community_code, 9)"), "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('open', 'proposed')"),
    )
    op.create_index(
        "review_case_standing_key",
        "review_case",
        ["resident_id", "kind", "subject_id", "reason"],
        unique=True,
        postgresql_where=sa.text("state IN ('open', 'proposed')"),
    )
    op.create_table(
        "review_case_activity",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("activity_id", sa.Uuid(), nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.CheckConstraint("points >= 0", name=op.f("review_case_activity_points_check")),
        sa.ForeignKeyConstraint(
            ["resident_id", "case_id"],
            ["review_case.resident_id", "review_case.id"],
            name=op.f("review_case_activity_resident_id_case_id_fkey"),
        ),
        sa.PrimaryKeyConstraint("resident_id", "case_id", "activity_id", name=op.f("review_case_activity_pkey")),
    )
    op.create_index(
        "review_case_activity_activity_ix", "review_case_activity", ["resident_id", "activity_id"], unique=False
    )
    op.create_table(
        "review_decision",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column(
            "verdict",
            sa.Enum("granted", "denied", name="verdict", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("decided_by", sa.Uuid(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("reason <> ''", name=op.f("review_decision_reason_check")),
        sa.CheckConstraint("number BETWEEN 1 AND 100", name=op.f("review_decision_number_check")),
        sa.ForeignKeyConstraint(["decided_by"], ["staff.id"], name=op.f("review_decision_decided_by_fkey")),
        sa.ForeignKeyConstraint(
            ["resident_id", "case_id"],
            ["review_case.resident_id", "review_case.id"],
            name=op.f("review_decision_resident_id_case_id_fkey"),
        ),
        sa.PrimaryKeyConstraint("resident_id", "case_id", "number", name=op.f("review_decision_pkey")),
    )
    op.create_index(op.f("review_decision_decided_by_ix"), "review_decision", ["decided_by"], unique=False)
    op.create_table(
        "appeal",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("activity_id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("text", sa.String(length=500), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["resident_id", "case_id"],
            ["review_case.resident_id", "review_case.id"],
            name=op.f("appeal_resident_id_case_id_fkey"),
        ),
        sa.PrimaryKeyConstraint("resident_id", "activity_id", name=op.f("appeal_pkey")),
    )
    op.create_index(op.f("appeal_made_at_ix"), "appeal", ["made_at"], unique=False)
    op.create_table(
        "detector_mark",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("looked_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("detector_mark_pkey")),
    )
    op.create_table(
        "device_use",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("device", sa.String(length=120), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("last_at >= first_at", name=op.f("device_use_order_check")),
        sa.PrimaryKeyConstraint("resident_id", "device", name=op.f("device_use_pkey")),
    )
    op.create_index("device_use_device_ix", "device_use", ["device"], unique=False)
    op.create_index(op.f("device_use_last_at_ix"), "device_use", ["last_at"], unique=False)
    op.create_table(
        "weight_norm",
        sa.Column("site", sa.String(length=64), nullable=False),
        sa.Column("mode", sa.String(length=40), nullable=False),
        sa.Column("weighings", sa.Integer(), nullable=False),
        sa.Column("median_ln_g", sa.Double(), nullable=False),
        sa.Column("deviation_ln_g", sa.Double(), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("weighings >= 1 AND deviation_ln_g >= 0", name=op.f("weight_norm_sane_check")),
        sa.PrimaryKeyConstraint("site", "mode", name=op.f("weight_norm_pkey")),
    )
