"""Campaigns with kinds, tasks, versions and teams; memberships of organisations."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = (
    "organisation_membership",
    "organisation_join_code",
    "campaign_task",
    "team",
    "quiz_attempt",
    "task_evidence",
    "standing_run",
    "standing",
)

CAMPAIGN_COLUMNS = """
ALTER TABLE campaign
    ADD COLUMN kind varchar(40) NOT NULL DEFAULT 'challenge',
    ADD COLUMN theme_day_code varchar(40),
    ADD COLUMN theme_day_year smallint,
    ADD COLUMN audience varchar(40) NOT NULL DEFAULT 'home',
    ADD COLUMN age_min smallint,
    ADD COLUMN age_max smallint,
    ADD COLUMN team_kind varchar(40),
    ADD COLUMN team_size_min smallint,
    ADD COLUMN team_size_max smallint,
    ADD COLUMN joins_until date,
    ADD COLUMN reward_mode varchar(40) NOT NULL DEFAULT 'at-settlement',
    ADD COLUMN account_id integer,
    ADD COLUMN terms_version integer NOT NULL DEFAULT 0,
    ADD COLUMN published_at timestamptz,
    ADD COLUMN running_at timestamptz,
    ADD COLUMN settling_at timestamptz,
    ADD COLUMN closed_at timestamptz
"""

# The state 'open' and the column opened_at are those of the release before, which may still be running beside this one.
CAMPAIGN_CHECKS = {
    "state": "state IN ('draft', 'open', 'published', 'running', 'settling', 'closed', 'cancelled')",
    "kind": (
        "kind IN ('challenge', 'theme-day', 'volunteer', 'tree-planting', 'clean-plate', 'green-school', 'second-hand')"
    ),
    "audience": "audience IN ('home', 'members')",
    "team_kind": "team_kind IN ('class', 'building', 'household', 'workplace')",
    "reward_mode": "reward_mode IN ('at-settlement', 'on-completion')",
    "joins_until": "joins_until <= ends_on",
    "published_at": "state IN ('draft', 'cancelled') OR published_at IS NOT NULL OR opened_at IS NOT NULL",
    "settling_at": "state <> 'settling' OR settling_at IS NOT NULL",
    "members_of": "audience <> 'members' OR organisation_id IS NOT NULL",
    "age_band": "age_min BETWEEN 0 AND 120 AND age_max BETWEEN 0 AND 120 AND age_max >= age_min",
    "team": "(team_kind IS NULL) = (team_size_min IS NULL) AND (team_kind IS NULL) = (team_size_max IS NULL)",
    "team_size": "team_size_min BETWEEN 1 AND team_size_max AND team_size_max <= 500",
    "theme_day": "(theme_day_code IS NULL) = (theme_day_year IS NULL)",
    "terms_version": "terms_version >= 0",
}

CAMPAIGN_KEYS = {
    "campaign_theme_day_code_theme_day_year_fkey": (
        "FOREIGN KEY (theme_day_code, theme_day_year) REFERENCES theme_day (code, year)"
    ),
    "campaign_account_id_fkey": "FOREIGN KEY (account_id) REFERENCES system_account (id)",
}

# The one target that a campaign had becomes its one task. Its id is the campaign's own, so that the clock, which does
# the same for what the release before still adds, can never make a second one.
BACKFILL = """
INSERT INTO campaign_task (campaign_id, id, position, kind, subject, title, behaviours, measure, target)
SELECT id, id, 1, 'behaviour', 'person', title, behaviours, measure, target FROM campaign WHERE measure IS NOT NULL
"""


def upgrade() -> None:
    op.execute(CAMPAIGN_COLUMNS)
    for name in ("campaign_opened_at_check", "campaign_state_check"):
        op.execute(f"-- squawk-ignore ban-drop-constraint\nALTER TABLE campaign DROP CONSTRAINT IF EXISTS {name}")
    for name, check in CAMPAIGN_CHECKS.items():
        op.execute(f"ALTER TABLE campaign ADD CONSTRAINT campaign_{name}_check CHECK ({check}) NOT VALID")
    for name, key in CAMPAIGN_KEYS.items():
        op.execute(f"ALTER TABLE campaign ADD CONSTRAINT {name} {key} NOT VALID")
    # Some hundred rows, and the lock is held already: validating and indexing here cost nobody a wait.
    for name in (*(f"campaign_{name}_check" for name in CAMPAIGN_CHECKS), *CAMPAIGN_KEYS):
        op.execute(f"-- squawk-ignore constraint-missing-not-valid\nALTER TABLE campaign VALIDATE CONSTRAINT {name}")
    op.execute(
        "-- squawk-ignore disallowed-unique-constraint, constraint-missing-not-valid\n"
        "ALTER TABLE campaign ADD CONSTRAINT campaign_account_id_key UNIQUE (account_id)"
    )
    # The release before writes them always and shows a campaign without them as one without a target.
    for column in ("behaviours", "measure", "target"):
        op.execute(f"-- squawk-ignore ban-drop-not-null\nALTER TABLE campaign ALTER COLUMN {column} DROP NOT NULL")
    op.execute("UPDATE campaign SET published_at = opened_at")
    op.create_table(
        "organisation_membership",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("organisation_id", sa.Uuid(), nullable=False),
        sa.Column("group_name", sa.String(length=40), nullable=True),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("left_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("left_at >= joined_at", name=op.f("organisation_membership_left_after_joined_check")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name=op.f("organisation_membership_organisation_id_fkey")
        ),
        sa.PrimaryKeyConstraint("resident_id", "organisation_id", name=op.f("organisation_membership_pkey")),
    )
    op.create_index(
        "organisation_membership_standing_ix",
        "organisation_membership",
        ["organisation_id"],
        unique=False,
        postgresql_where="left_at IS NULL",
    )
    op.create_table(
        "organisation_join_code",
        sa.Column("organisation_id", sa.Uuid(), nullable=False),
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("issued_by", sa.Uuid(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "expires_at > issued_at AND expires_at <= issued_at + interval '90 days'",
            name=op.f("organisation_join_code_expires_check"),
        ),
        sa.CheckConstraint("octet_length(code_hash) = 32", name=op.f("organisation_join_code_code_hash_check")),
        sa.ForeignKeyConstraint(["issued_by"], ["staff.id"], name=op.f("organisation_join_code_issued_by_fkey")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name=op.f("organisation_join_code_organisation_id_fkey")
        ),
        sa.PrimaryKeyConstraint("organisation_id", name=op.f("organisation_join_code_pkey")),
        sa.UniqueConstraint("code_hash", name=op.f("organisation_join_code_code_hash_key")),
    )
    op.create_table(
        "campaign_task",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "behaviour",
                "check-in",
                "volunteer",
                "quiz",
                "evidence",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column(
            "subject",
            sa.Enum("person", "team", name="subject", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("title", sa.String(length=60), nullable=False),
        sa.Column("behaviours", sa.ARRAY(sa.Text()), nullable=True),
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
            nullable=True,
        ),
        sa.Column("target", sa.BigInteger(), nullable=False),
        sa.Column("questions", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("attempts_max", sa.SmallInteger(), nullable=True),
        sa.Column("reward_points", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "(kind = 'behaviour') = (behaviours IS NOT NULL) AND (kind = 'behaviour') = (measure IS NOT NULL)",
            name=op.f("campaign_task_behaviour_check"),
        ),
        sa.CheckConstraint(
            "(kind = 'quiz') = (questions IS NOT NULL) AND (kind = 'quiz') = (attempts_max IS NOT NULL)",
            name=op.f("campaign_task_quiz_check"),
        ),
        sa.CheckConstraint(
            "CASE WHEN questions IS NULL THEN true ELSE jsonb_typeof(questions) = 'array' AND jsonb_array_length(questions) BETWEEN 1 AND 20 AND target <= jsonb_array_length(questions) AND octet_length(questions::text) <= 65536 END",
            name=op.f("campaign_task_questions_check"),
        ),
        sa.CheckConstraint(
            "behaviours <@ ARRAY['walk', 'bicycle', 'e-bike', 'bus', 'metro', 'sorting', 'recycling'] AND cardinality(behaviours) > 0",
            name=op.f("campaign_task_behaviours_check"),
        ),
        sa.CheckConstraint("attempts_max BETWEEN 1 AND 10", name=op.f("campaign_task_attempts_max_check")),
        sa.CheckConstraint("position BETWEEN 1 AND 20", name=op.f("campaign_task_position_check")),
        sa.CheckConstraint("reward_points BETWEEN 0 AND 10000", name=op.f("campaign_task_reward_points_check")),
        sa.CheckConstraint("target BETWEEN 1 AND 1000000000000", name=op.f("campaign_task_target_check")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("campaign_task_campaign_id_fkey")),
        sa.PrimaryKeyConstraint("campaign_id", "id", name=op.f("campaign_task_pkey")),
        sa.UniqueConstraint("campaign_id", "position", name=op.f("campaign_task_campaign_id_position_key")),
    )
    op.create_table(
        "campaign_version",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("terms", postgresql.JSONB(), nullable=False),
        sa.Column("changed_by", sa.Uuid(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.CheckConstraint("octet_length(terms::text) <= 262144", name=op.f("campaign_version_terms_length_check")),
        sa.CheckConstraint("version BETWEEN 1 AND 100", name=op.f("campaign_version_version_check")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("campaign_version_campaign_id_fkey")),
        sa.ForeignKeyConstraint(["changed_by"], ["staff.id"], name=op.f("campaign_version_changed_by_fkey")),
        sa.PrimaryKeyConstraint("campaign_id", "version", name=op.f("campaign_version_pkey")),
    )
    op.create_table(
        "team",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("captain_id", sa.Uuid(), nullable=False),
        sa.Column("join_code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("size_max", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("btrim(name) <> ''", name=op.f("team_name_check")),
        sa.CheckConstraint(
            "members BETWEEN 0 AND size_max AND size_max BETWEEN 1 AND 500", name=op.f("team_members_check")
        ),
        sa.CheckConstraint("octet_length(join_code_hash) = 32", name=op.f("team_join_code_hash_check")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("team_campaign_id_fkey")),
        sa.PrimaryKeyConstraint("campaign_id", "id", name=op.f("team_pkey")),
        sa.UniqueConstraint("campaign_id", "join_code_hash", name=op.f("team_campaign_id_join_code_hash_key")),
        sa.UniqueConstraint("campaign_id", "name", name=op.f("team_campaign_id_name_key")),
    )
    op.create_table(
        "quiz_attempt",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("right_answers", sa.SmallInteger(), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("number BETWEEN 1 AND 10", name=op.f("quiz_attempt_number_check")),
        sa.CheckConstraint("right_answers BETWEEN 0 AND 20", name=op.f("quiz_attempt_right_answers_check")),
        sa.PrimaryKeyConstraint("resident_id", "task_id", "number", name=op.f("quiz_attempt_pkey")),
    )
    op.create_table(
        "task_evidence",
        sa.Column("resident_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "state",
            sa.Enum("sent", "confirmed", "refused", name="state", native_enum=False, create_constraint=True, length=40),
            server_default="sent",
            nullable=False,
        ),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.CheckConstraint(
            "(state = 'sent') = (decided_by IS NULL) AND (state = 'sent') = (decided_at IS NULL)",
            name=op.f("task_evidence_decision_check"),
        ),
        sa.CheckConstraint("state <> 'refused' OR btrim(reason) <> ''", name=op.f("task_evidence_reason_check")),
        sa.CheckConstraint("number BETWEEN 1 AND 50", name=op.f("task_evidence_number_check")),
        sa.CheckConstraint("octet_length(sha256) = 32", name=op.f("task_evidence_sha256_check")),
        sa.ForeignKeyConstraint(["decided_by"], ["staff.id"], name=op.f("task_evidence_decided_by_fkey")),
        sa.ForeignKeyConstraint(["file_id"], ["stored_file.id"], name=op.f("task_evidence_file_id_fkey")),
        sa.PrimaryKeyConstraint("resident_id", "id", name=op.f("task_evidence_pkey")),
        sa.UniqueConstraint(
            "resident_id", "task_id", "number", name=op.f("task_evidence_resident_id_task_id_number_key")
        ),
        sa.UniqueConstraint(
            "resident_id", "task_id", "sha256", name=op.f("task_evidence_resident_id_task_id_sha256_key")
        ),
    )
    op.create_index("task_evidence_campaign_ix", "task_evidence", ["campaign_id", "id"], unique=False)
    op.create_index("task_evidence_copies_ix", "task_evidence", ["campaign_id", "sha256"], unique=False)
    op.create_table(
        "standing_run",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("participants", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", name=op.f("standing_run_pkey")),
    )
    op.create_table(
        "standing",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column(
            "subject_kind",
            sa.Enum("team", "resident", name="subject_kind", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("per_head", sa.Numeric(precision=20, scale=4), nullable=False),
        sa.Column("rank_total", sa.Integer(), nullable=False),
        sa.Column("rank_per_head", sa.Integer(), nullable=False),
        sa.Column("position_total", sa.Integer(), nullable=False),
        sa.Column("position_per_head", sa.Integer(), nullable=False),
        sa.CheckConstraint("members > 0", name=op.f("standing_members_check")),
        sa.PrimaryKeyConstraint("task_id", "subject_kind", "subject_id", name=op.f("standing_pkey")),
    )
    op.create_index("standing_per_head_ix", "standing", ["task_id", "subject_kind", "position_per_head"], unique=False)
    op.create_index("standing_total_ix", "standing", ["task_id", "subject_kind", "position_total"], unique=False)

    op.execute(BACKFILL)
    op.execute("ALTER TABLE participation ADD COLUMN team_id uuid")
    # Joining a campaign waits for these, about a second for each million participations; nothing else does.
    op.execute(
        "ALTER TABLE participation ADD CONSTRAINT participation_campaign_id_team_id_fkey "
        "FOREIGN KEY (campaign_id, team_id) REFERENCES team (campaign_id, id) NOT VALID"
    )
    op.execute(
        "-- squawk-ignore constraint-missing-not-valid\n"
        "ALTER TABLE participation VALIDATE CONSTRAINT participation_campaign_id_team_id_fkey"
    )
    for index in (
        "participation_campaign_resident_ix ON participation (campaign_id, resident_id) INCLUDE (team_id)",
        "participation_team_ix ON participation (campaign_id, team_id) WHERE team_id IS NOT NULL",
    ):
        op.execute(f"-- squawk-ignore require-concurrent-index-creation\nCREATE INDEX {index}")
    op.execute(
        "CREATE TRIGGER campaign_version_refuse_change BEFORE UPDATE OR DELETE ON campaign_version "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER campaign_version_refuse_truncate BEFORE TRUNCATE ON campaign_version "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    for table in TABLES:
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO tanpuhui_app")
    op.execute("GRANT SELECT, INSERT ON campaign_version TO tanpuhui_app")


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")
