"""Creation programmes: rubrics, applications, assessment, naming; notices to people."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ORGANISATION_CHECKS = {
    "organisation_agency_rank_check": "agency_rank IN ('section', 'county', 'bureau')",
    "organisation_agency_rank_of_agency_check": "agency_rank IS NULL OR kind = 'agency'",
    "organisation_floor_area_m2_check": (
        "floor_area_m2 IS NULL OR kind = 'mall' AND floor_area_m2 BETWEEN 1 AND 10000000"
    ),
}

# A rubric's content changes only while it is a draft; one in force becomes a draft again only while no application uses
# it. An application locks its rubric FOR SHARE, so the two cannot pass each other.
HOLD_RUBRIC = """
CREATE FUNCTION hold_rubric() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    used boolean;
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.state = 'draft' THEN
            RETURN OLD;
        END IF;
        RAISE EXCEPTION 'a rubric that was in force stays' USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.state = 'draft' AND NEW.state <> 'retired' THEN
        RETURN NEW;
    END IF;
    used := EXISTS (SELECT FROM application WHERE rubric_id = OLD.id);
    IF to_jsonb(NEW) - ARRAY['state', 'version', 'in_force_at', 'retired_at']
       <> to_jsonb(OLD) - ARRAY['state', 'version', 'in_force_at', 'retired_at']
       OR (OLD.state, NEW.state) NOT IN (('in-force', 'in-force'), ('in-force', 'retired'), ('in-force', 'draft'))
       OR (NEW.state = 'draft' AND used)
    THEN
        RAISE EXCEPTION 'rubric % is closed to change', OLD.id
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'rubric_closed';
    END IF;
    RETURN NEW;
END $$
"""

HOLD_RUBRIC_CONTENT = """
CREATE FUNCTION hold_rubric_content() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    held uuid;
BEGIN
    FOREACH held IN ARRAY ARRAY[
        CASE WHEN TG_OP <> 'INSERT' THEN OLD.rubric_id END, CASE WHEN TG_OP <> 'DELETE' THEN NEW.rubric_id END
    ] LOOP
        IF held IS NOT NULL AND (SELECT state FROM rubric WHERE id = held FOR SHARE) <> 'draft' THEN
            RAISE EXCEPTION 'rubric % is closed to change', held
                USING ERRCODE = 'restrict_violation', CONSTRAINT = 'rubric_closed';
        END IF;
    END LOOP;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$
"""

# An application begins as a draft under a rubric in force; its state changes only together with the next recorded move,
# and becomes a name only over a line in the register. Who and what it is about never changes.
HOLD_APPLICATION = """
CREATE FUNCTION hold_application() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'draft' OR NEW.moves <> 0 THEN
            RAISE EXCEPTION 'an application begins as a draft' USING ERRCODE = 'restrict_violation';
        END IF;
        PERFORM FROM rubric WHERE id = NEW.rubric_id AND programme_code = NEW.programme_code AND year = NEW.year
            AND state = 'in-force' FOR SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'rubric % is not in force', NEW.rubric_id USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'an application is cancelled, not deleted' USING ERRCODE = 'restrict_violation';
    END IF;
    IF (NEW.id, NEW.programme_code, NEW.rubric_id, NEW.year, NEW.subject_kind, NEW.division, NEW.organisation_id,
        NEW.resident_id, NEW.created_by, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.programme_code, OLD.rubric_id, OLD.year, OLD.subject_kind, OLD.division, OLD.organisation_id,
        OLD.resident_id, OLD.created_by, OLD.created_at)
    THEN
        RAISE EXCEPTION 'what an application is about does not change' USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state = OLD.state AND NEW.moves = OLD.moves THEN
        RETURN NEW;
    END IF;
    IF NEW.moves <> OLD.moves + 1 OR NOT EXISTS (
        SELECT FROM application_move WHERE application_id = NEW.id AND position = NEW.moves
            AND from_state = OLD.state AND to_state = NEW.state
    ) THEN
        RAISE EXCEPTION 'the state changes with a recorded move only' USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state = 'named' AND NOT EXISTS (SELECT FROM naming WHERE application_id = NEW.id) THEN
        RAISE EXCEPTION 'no name without a line in the register' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

# The four conditions of a name, whatever the code above says: two assessments in (a third where they differ), the notice
# over, every objection answered, none upheld.
HOLD_NAMING = """
CREATE FUNCTION hold_naming() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    stands text;
    tolerated numeric;
    first_two record;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.application_id, NEW.number, NEW.named_on, NEW.named_by, NEW.named_at)
           IS DISTINCT FROM (OLD.application_id, OLD.number, OLD.named_on, OLD.named_by, OLD.named_at)
           OR OLD.withdrawn_on IS NOT NULL
        THEN
            RAISE EXCEPTION 'a line of the register does not change' USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    SELECT application.state, rubric.difference_max INTO stands, tolerated
        FROM application JOIN rubric ON rubric.id = application.rubric_id
        WHERE application.id = NEW.application_id FOR SHARE OF application;
    IF stands IS DISTINCT FROM 'objections' THEN
        RAISE EXCEPTION 'only what is through its notice is named'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'naming_proven';
    END IF;
    SELECT count(*) FILTER (WHERE seat < 3) AS in_seats, bool_or(seat = 3) AS third_in,
           max(total) FILTER (WHERE seat < 3) - min(total) FILTER (WHERE seat < 3) AS apart,
           count(DISTINCT must_meet_failed) FILTER (WHERE seat < 3) AS findings
        INTO first_two FROM assessment WHERE application_id = NEW.application_id AND submitted_at IS NOT NULL;
    IF first_two.in_seats <> 2
       OR ((first_two.apart > tolerated OR first_two.findings > 1) AND NOT first_two.third_in)
    THEN
        RAISE EXCEPTION 'no name without two assessments, and a third where they differ'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'naming_proven';
    END IF;
    IF NOT EXISTS (SELECT FROM public_notice WHERE application_id = NEW.application_id AND last_on < NEW.named_on) THEN
        RAISE EXCEPTION 'no name before the notice is over'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'naming_proven';
    END IF;
    IF EXISTS (
        SELECT FROM objection WHERE application_id = NEW.application_id AND (answered_at IS NULL OR upheld)
    ) THEN
        RAISE EXCEPTION 'no name over an objection that is open or upheld'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'naming_proven';
    END IF;
    RETURN NEW;
END $$
"""

# Objections come while the notice stands; an answer is given once; a contact can be forgotten, and nothing else changes.
HOLD_OBJECTION = """
CREATE FUNCTION hold_objection() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM FROM application WHERE id = NEW.application_id AND state = 'notice' FOR SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'objections come while the notice stands'
                USING ERRCODE = 'restrict_violation', CONSTRAINT = 'objection_while_notice';
        END IF;
        IF NEW.answered_at IS NOT NULL THEN
            RAISE EXCEPTION 'an objection comes without its answer' USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF to_jsonb(NEW) - ARRAY['contact_sealed', 'answer', 'upheld', 'answered_by', 'answered_at']
       <> to_jsonb(OLD) - ARRAY['contact_sealed', 'answer', 'upheld', 'answered_by', 'answered_at']
       OR (NEW.contact_sealed IS NOT NULL AND NEW.contact_sealed IS DISTINCT FROM OLD.contact_sealed)
       OR (OLD.answered_at IS NOT NULL AND (NEW.answer, NEW.upheld, NEW.answered_by, NEW.answered_at)
           IS DISTINCT FROM (OLD.answer, OLD.upheld, OLD.answered_by, OLD.answered_at))
    THEN
        RAISE EXCEPTION 'an objection and its answer do not change' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

HOLD_NOTICE = """
CREATE FUNCTION hold_public_notice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_jsonb(NEW) - 'ended_at' <> to_jsonb(OLD) - 'ended_at' OR OLD.ended_at IS NOT NULL THEN
        RAISE EXCEPTION 'a published notice does not change' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

HOLD_ASSESSMENT = """
CREATE FUNCTION hold_assessment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.submitted_at IS NOT NULL THEN
        RAISE EXCEPTION 'a submitted assessment does not change'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'assessment_closed';
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$
"""

HOLD_MARK = """
CREATE FUNCTION hold_assessment_mark() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    held record;
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.application_id, NEW.staff_id, NEW.item_code)
       <> (OLD.application_id, OLD.staff_id, OLD.item_code) THEN
        RAISE EXCEPTION 'a mark stays with its item and its assessor' USING ERRCODE = 'restrict_violation';
    END IF;
    held := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    PERFORM FROM assessment WHERE application_id = held.application_id AND staff_id = held.staff_id
        AND submitted_at IS NOT NULL FOR SHARE;
    IF FOUND THEN
        RAISE EXCEPTION 'a submitted assessment does not change'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'assessment_closed';
    END IF;
    RETURN held;
END $$
"""

# Nobody assesses the organisation or community that they belong to or have a tie to; the street has reviewed it before.
# The member of staff is held, so a tie that is declared at this moment is either seen here or waits for this to end.
REFUSE_TIED_ASSESSOR = """
CREATE FUNCTION refuse_tied_assessor() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    member record;
    subject record;
BEGIN
    SELECT division, organisation_id INTO member FROM staff WHERE id = NEW.staff_id FOR SHARE;
    SELECT division, organisation_id INTO subject FROM application WHERE id = NEW.application_id;
    IF member.organisation_id = subject.organisation_id
       OR length(member.division) > 6 AND starts_with(subject.division, member.division)
       OR subject.organisation_id IS NULL AND EXISTS (
           SELECT FROM organisation WHERE id = member.organisation_id AND community_code = subject.division
       )
       OR EXISTS (
           SELECT FROM assessor_conflict AS tie WHERE tie.staff_id = NEW.staff_id AND tie.ended_at IS NULL
               AND (tie.organisation_id = subject.organisation_id OR starts_with(subject.division, tie.division))
       )
    THEN
        RAISE EXCEPTION 'the assessor has a tie to the applicant'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'assessment_assessor_tied';
    END IF;
    RETURN NEW;
END $$
"""

# A third opinion is asked over two that differ, not until somebody says what is wanted.
REFUSE_NEEDLESS_THIRD = """
CREATE FUNCTION refuse_needless_third() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.seat = 3 AND NOT EXISTS (
        SELECT FROM assessment AS first
        JOIN assessment AS second ON second.application_id = first.application_id AND second.seat = 2
        JOIN application ON application.id = first.application_id
        JOIN rubric ON rubric.id = application.rubric_id
        WHERE first.application_id = NEW.application_id AND first.seat = 1
            AND first.submitted_at IS NOT NULL AND second.submitted_at IS NOT NULL
            AND (abs(first.total - second.total) > rubric.difference_max
                 OR first.must_meet_failed <> second.must_meet_failed)
    ) THEN
        RAISE EXCEPTION 'a third assessor is asked only when two are in and differ'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'assessment_third_wanted';
    END IF;
    RETURN NEW;
END $$
"""

# Evidence comes and goes only while the application is the applicant's; a removal is marked once.
HOLD_EVIDENCE = """
CREATE FUNCTION hold_application_evidence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT state FROM application WHERE id = NEW.application_id)
       NOT IN ('draft', 'self-assessment', 'returned')
    THEN
        RAISE EXCEPTION 'the application is with its reviewers'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'application_evidence_closed';
    END IF;
    IF TG_OP = 'UPDATE' AND (
        OLD.removed_at IS NOT NULL
        OR to_jsonb(NEW) - ARRAY['removed_by', 'removed_at'] <> to_jsonb(OLD) - ARRAY['removed_by', 'removed_at']
    ) THEN
        RAISE EXCEPTION 'evidence is removed once and not changed' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

# A declared tie ends once, and nothing else in it changes.
HOLD_TIE = """
CREATE FUNCTION hold_assessor_conflict() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.ended_at IS NOT NULL
       OR to_jsonb(NEW) - ARRAY['ended_by', 'ended_at'] <> to_jsonb(OLD) - ARRAY['ended_by', 'ended_at']
    THEN
        RAISE EXCEPTION 'a declared tie only ends' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

HOLD_RECHECK = """
CREATE FUNCTION hold_recheck() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.result IS NOT NULL THEN
        RAISE EXCEPTION 'a decided re-check does not change' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""

# Function, table, events.
GUARDS = (
    ("hold_rubric", "rubric", "UPDATE OR DELETE"),
    ("hold_rubric_content", "rubric_area", "INSERT OR UPDATE OR DELETE"),
    ("hold_rubric_content", "rubric_item", "INSERT OR UPDATE OR DELETE"),
    ("hold_rubric_content", "rubric_precondition", "INSERT OR UPDATE OR DELETE"),
    ("hold_application", "application", "INSERT OR UPDATE OR DELETE"),
    ("hold_naming", "naming", "INSERT OR UPDATE"),
    ("refuse_change", "naming", "DELETE"),
    ("hold_objection", "objection", "INSERT OR UPDATE"),
    ("refuse_change", "objection", "DELETE"),
    ("hold_public_notice", "public_notice", "UPDATE"),
    ("refuse_change", "public_notice", "DELETE"),
    ("hold_assessment", "assessment", "UPDATE OR DELETE"),
    ("hold_assessment_mark", "assessment_mark", "INSERT OR UPDATE OR DELETE"),
    ("refuse_tied_assessor", "assessment", "INSERT OR UPDATE"),
    ("refuse_needless_third", "assessment", "INSERT OR UPDATE OF seat"),
    ("hold_application_evidence", "application_evidence", "INSERT OR UPDATE"),
    ("refuse_change", "application_evidence", "DELETE"),
    ("hold_assessor_conflict", "assessor_conflict", "UPDATE"),
    ("refuse_change", "assessor_conflict", "DELETE"),
    ("hold_recheck", "recheck", "UPDATE"),
    ("refuse_change", "recheck", "DELETE"),
    ("refuse_change", "application_move", "UPDATE OR DELETE"),
    ("refuse_change", "live_figure", "UPDATE OR DELETE"),
    ("refuse_change", "site_visit", "UPDATE OR DELETE"),
    ("refuse_change", "site_visit_photo", "UPDATE OR DELETE"),
)

# DELETE is granted where a trigger decides which rows may go.
GRANTS = """
GRANT SELECT, INSERT ON application_move, live_figure, site_visit, site_visit_photo TO tanpuhui_app;
GRANT SELECT, INSERT, UPDATE ON
    application, application_evidence, assessor_conflict, naming, naming_serial, objection, public_notice, recheck
    TO tanpuhui_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    application_answer, application_precondition, assessment, assessment_mark, indicator_figure,
    notice, objection_file, programme, programme_target, rubric, rubric_area, rubric_item,
    rubric_precondition TO tanpuhui_app
"""


def _organisation_columns() -> None:
    op.add_column("organisation", sa.Column("floor_area_m2", sa.Integer(), nullable=True))
    op.add_column("organisation", sa.Column("agency_rank", sa.String(length=40), nullable=True))
    op.add_column("organisation", sa.Column("version", sa.Integer(), server_default="1", nullable=False))
    for name, check in ORGANISATION_CHECKS.items():
        op.execute(f"ALTER TABLE organisation ADD CONSTRAINT {name} CHECK ({check}) NOT VALID")
    # Both columns are empty, so validating only confirms that.
    for name in ORGANISATION_CHECKS:
        op.execute(
            f"-- squawk-ignore constraint-missing-not-valid\nALTER TABLE organisation VALIDATE CONSTRAINT {name}"
        )


def _guards() -> None:
    for function in (
        HOLD_RUBRIC,
        HOLD_RUBRIC_CONTENT,
        HOLD_APPLICATION,
        HOLD_NAMING,
        HOLD_OBJECTION,
        HOLD_NOTICE,
        HOLD_ASSESSMENT,
        HOLD_MARK,
        REFUSE_TIED_ASSESSOR,
        REFUSE_NEEDLESS_THIRD,
        HOLD_EVIDENCE,
        HOLD_TIE,
        HOLD_RECHECK,
    ):
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


def _index_of_reversals() -> None:
    """How many of a community's records were taken back; built beside the awards that go on meanwhile.

    First of all, because it cannot be part of the transaction: what fails after it can be run again.
    """
    with op.get_context().autocommit_block():
        op.create_index(
            "activity_reversed_ix",
            "activity",
            ["community_code", "business_day"],
            postgresql_where=sa.text("outcome = 'reversed'"),
            postgresql_concurrently=True,
            if_not_exists=True,
        )


def upgrade() -> None:
    _index_of_reversals()
    _organisation_columns()
    _tables()
    _guards()
    op.execute(GRANTS)


def downgrade() -> None:
    raise NotImplementedError("Migrations go forward only; restore the backup instead.")


def _tables() -> None:
    op.create_table(
        "notice",
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=120), nullable=False),
        sa.Column("title_zh", sa.String(length=120), nullable=False),
        sa.Column("title_en", sa.String(length=160), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind ~ '^[a-z][a-z0-9-]*$'", name=op.f("notice_kind_check")),
        sa.CheckConstraint("title_zh <> '' AND title_en <> ''", name=op.f("notice_title_check")),
        sa.CheckConstraint("read_at >= created_at", name=op.f("notice_read_after_created_check")),
        sa.PrimaryKeyConstraint("person_id", "id", name=op.f("notice_pkey")),
    )
    op.create_index("notice_created_at_ix", "notice", ["created_at"], unique=False)
    op.create_table(
        "programme",
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("title_zh", sa.String(length=60), nullable=False),
        sa.Column("title_en", sa.String(length=60), nullable=False),
        sa.Column(
            "subject_kind",
            sa.Enum(
                "community",
                "organisation",
                "household",
                name="subject_kind",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=True,
        ),
        sa.Column(
            "organisation_kind",
            sa.Enum(
                "school",
                "agency",
                "mall",
                "enterprise",
                name="organisation_kind",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=True,
        ),
        sa.Column("number_prefix", sa.String(length=4), nullable=False),
        sa.Column("indicator_zh", sa.String(length=120), nullable=True),
        sa.Column("indicator_unit", sa.String(length=20), nullable=True),
        sa.Column("document", sa.String(length=200), nullable=False),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(organisation_kind IS NOT NULL) = (subject_kind IS NOT DISTINCT FROM 'organisation')",
            name=op.f("programme_organisations_of_a_kind_check"),
        ),
        sa.CheckConstraint("code ~ '^[a-z][a-z0-9-]*$'", name=op.f("programme_code_check")),
        sa.CheckConstraint("document <> ''", name=op.f("programme_document_check")),
        sa.CheckConstraint("number_prefix ~ '^[A-Z]{2,4}$'", name=op.f("programme_number_prefix_check")),
        sa.CheckConstraint("(indicator_zh IS NULL) = (indicator_unit IS NULL)", name=op.f("programme_indicator_check")),
        sa.CheckConstraint(
            "(subject_kind IS NULL) = (indicator_zh IS NOT NULL)",
            name=op.f("programme_applications_or_indicator_check"),
        ),
        sa.PrimaryKeyConstraint("code", name=op.f("programme_pkey")),
        sa.UniqueConstraint("number_prefix", name=op.f("programme_number_prefix_key")),
    )
    op.create_table(
        "naming_serial",
        sa.Column("programme_code", sa.String(length=40), nullable=False),
        sa.Column("year", sa.SmallInteger(), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.CheckConstraint("last BETWEEN 1 AND 999999", name=op.f("naming_serial_last_check")),
        sa.ForeignKeyConstraint(["programme_code"], ["programme.code"], name=op.f("naming_serial_programme_code_fkey")),
        sa.PrimaryKeyConstraint("programme_code", "year", name=op.f("naming_serial_pkey")),
    )
    op.create_table(
        "programme_target",
        sa.Column("programme_code", sa.String(length=40), nullable=False),
        sa.Column("year", sa.SmallInteger(), nullable=False),
        sa.Column("text_zh", sa.String(length=200), nullable=False),
        sa.Column("share_min_percent", sa.Numeric(precision=5, scale=2), nullable=True),
        sa.Column("is_about", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "base",
            sa.Enum(
                "communities",
                "schools",
                "agencies",
                "malls",
                "indicator",
                name="base",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=True,
        ),
        sa.Column("floor_area_min_m2", sa.Integer(), nullable=True),
        sa.Column(
            "agency_rank_min",
            sa.Enum(
                "section",
                "county",
                "bureau",
                name="agency_rank_min",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=True,
        ),
        sa.Column("source", sa.String(length=200), nullable=False),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.CheckConstraint(
            "agency_rank_min IS NULL OR base = 'agencies'", name=op.f("programme_target_agency_rank_check")
        ),
        sa.CheckConstraint(
            "floor_area_min_m2 IS NULL OR base = 'malls' AND floor_area_min_m2 > 0",
            name=op.f("programme_target_floor_area_check"),
        ),
        sa.CheckConstraint("source <> ''", name=op.f("programme_target_source_check")),
        sa.CheckConstraint(
            "(share_min_percent IS NULL) = (base IS NULL)", name=op.f("programme_target_share_of_check")
        ),
        sa.CheckConstraint("share_min_percent BETWEEN 0 AND 100", name=op.f("programme_target_share_check")),
        sa.CheckConstraint("year BETWEEN 2000 AND 2100", name=op.f("programme_target_year_check")),
        sa.ForeignKeyConstraint(
            ["programme_code"], ["programme.code"], name=op.f("programme_target_programme_code_fkey")
        ),
        sa.PrimaryKeyConstraint("programme_code", "year", name=op.f("programme_target_pkey")),
    )
    op.create_table(
        "assessor_conflict",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("staff_id", sa.Uuid(), nullable=False),
        sa.Column("division", sa.String(length=12), nullable=True),
        sa.Column("organisation_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("declared_by", sa.Uuid(), nullable=False),
        sa.Column("declared_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_by", sa.Uuid(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("reason <> ''", name=op.f("assessor_conflict_reason_check")),
        sa.CheckConstraint(
            "(division IS NULL) <> (organisation_id IS NULL)", name=op.f("assessor_conflict_one_tie_check")
        ),
        sa.CheckConstraint("(ended_by IS NULL) = (ended_at IS NULL)", name=op.f("assessor_conflict_ended_check")),
        sa.CheckConstraint("ended_at >= declared_at", name=op.f("assessor_conflict_ended_after_declared_check")),
        sa.CheckConstraint("ended_by <> staff_id", name=op.f("assessor_conflict_ended_by_another_check")),
        sa.ForeignKeyConstraint(["declared_by"], ["staff.id"], name=op.f("assessor_conflict_declared_by_fkey")),
        sa.ForeignKeyConstraint(["division"], ["division.code"], name=op.f("assessor_conflict_division_fkey")),
        sa.ForeignKeyConstraint(["ended_by"], ["staff.id"], name=op.f("assessor_conflict_ended_by_fkey")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name=op.f("assessor_conflict_organisation_id_fkey")
        ),
        sa.ForeignKeyConstraint(["staff_id"], ["staff.id"], name=op.f("assessor_conflict_staff_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("assessor_conflict_pkey")),
    )
    op.create_index(
        "assessor_conflict_division_key",
        "assessor_conflict",
        ["staff_id", "division"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL AND division IS NOT NULL"),
    )
    op.create_index(
        "assessor_conflict_organisation_key",
        "assessor_conflict",
        ["staff_id", "organisation_id"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL AND organisation_id IS NOT NULL"),
    )
    op.create_index(op.f("assessor_conflict_staff_id_ix"), "assessor_conflict", ["staff_id"], unique=False)
    op.create_table(
        "indicator_figure",
        sa.Column("programme_code", sa.String(length=40), nullable=False),
        sa.Column("measured_on", sa.Date(), nullable=False),
        sa.Column("value", sa.Numeric(precision=14, scale=2), nullable=False),
        sa.Column("source", sa.String(length=200), nullable=False),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("recorded_by", sa.Uuid(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("source <> ''", name=op.f("indicator_figure_source_check")),
        sa.CheckConstraint("value >= 0", name=op.f("indicator_figure_value_check")),
        sa.ForeignKeyConstraint(
            ["programme_code"], ["programme.code"], name=op.f("indicator_figure_programme_code_fkey")
        ),
        sa.ForeignKeyConstraint(["recorded_by"], ["staff.id"], name=op.f("indicator_figure_recorded_by_fkey")),
        sa.PrimaryKeyConstraint("programme_code", "measured_on", name=op.f("indicator_figure_pkey")),
    )
    op.create_table(
        "rubric",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("programme_code", sa.String(length=40), nullable=False),
        sa.Column("year", sa.SmallInteger(), nullable=False),
        sa.Column("revision", sa.SmallInteger(), nullable=False),
        sa.Column("title_zh", sa.String(length=120), nullable=False),
        sa.Column(
            "state",
            sa.Enum("draft", "in-force", "retired", name="state", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("minimum_score", sa.SmallInteger(), nullable=False),
        sa.Column("difference_max", sa.Numeric(precision=6, scale=2), nullable=False),
        sa.Column("notice_days", sa.SmallInteger(), server_default="7", nullable=False),
        sa.Column("validity_months", sa.SmallInteger(), server_default="36", nullable=False),
        sa.Column("recheck_months", sa.SmallInteger(), server_default="12", nullable=False),
        sa.Column("site_visit_required", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("source", sa.String(length=300), nullable=False),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("note", sa.String(length=500), server_default="", nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("in_force_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'retired') = (retired_at IS NOT NULL)", name=op.f("rubric_retired_at_check")),
        sa.CheckConstraint("source <> '' AND title_zh <> ''", name=op.f("rubric_source_check")),
        sa.CheckConstraint("state = 'draft' OR in_force_at IS NOT NULL", name=op.f("rubric_in_force_at_check")),
        sa.CheckConstraint("difference_max BETWEEN 0 AND 9999", name=op.f("rubric_difference_max_check")),
        sa.CheckConstraint("minimum_score BETWEEN 0 AND 10000", name=op.f("rubric_minimum_score_check")),
        sa.CheckConstraint("notice_days BETWEEN 1 AND 60", name=op.f("rubric_notice_days_check")),
        sa.CheckConstraint("octet_length(content_sha256) = 32", name=op.f("rubric_content_sha256_check")),
        sa.CheckConstraint("recheck_months BETWEEN 1 AND validity_months", name=op.f("rubric_recheck_months_check")),
        sa.CheckConstraint("revision BETWEEN 1 AND 1000", name=op.f("rubric_revision_check")),
        sa.CheckConstraint("validity_months BETWEEN 1 AND 120", name=op.f("rubric_validity_months_check")),
        sa.CheckConstraint("year BETWEEN 2000 AND 2100", name=op.f("rubric_year_check")),
        sa.ForeignKeyConstraint(["created_by"], ["staff.id"], name=op.f("rubric_created_by_fkey")),
        sa.ForeignKeyConstraint(["programme_code"], ["programme.code"], name=op.f("rubric_programme_code_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("rubric_pkey")),
        sa.UniqueConstraint("programme_code", "year", "revision", name=op.f("rubric_programme_code_year_revision_key")),
    )
    op.create_index(
        "rubric_in_force_key",
        "rubric",
        ["programme_code", "year"],
        unique=True,
        postgresql_where=sa.text("state = 'in-force'"),
    )
    op.create_table(
        "application",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("programme_code", sa.String(length=40), nullable=False),
        sa.Column("rubric_id", sa.Uuid(), nullable=False),
        sa.Column("year", sa.SmallInteger(), nullable=False),
        sa.Column(
            "subject_kind",
            sa.Enum(
                "community",
                "organisation",
                "household",
                name="subject_kind",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("division", sa.String(length=12), nullable=False),
        sa.Column("organisation_id", sa.Uuid(), nullable=True),
        sa.Column("resident_id", sa.Uuid(), nullable=True),
        sa.Column("subject_name", sa.String(length=60), nullable=False),
        sa.Column("statement", sa.String(length=2000), server_default="", nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "draft",
                "self-assessment",
                "submitted",
                "street-review",
                "returned",
                "district-review",
                "notice",
                "objections",
                "named",
                "recheck",
                "grace",
                "withdrawn",
                "rejected",
                "cancelled",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("moves", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("step_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("step_due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("overdue_told_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(subject_kind = 'household') = (resident_id IS NOT NULL)", name=op.f("application_household_check")
        ),
        sa.CheckConstraint(
            "(subject_kind = 'organisation') = (organisation_id IS NOT NULL)",
            name=op.f("application_organisation_check"),
        ),
        sa.CheckConstraint("division ~ '^[0-9]{12}$'", name=op.f("application_community_check")),
        sa.CheckConstraint("subject_name <> ''", name=op.f("application_subject_name_check")),
        sa.CheckConstraint(
            "submitted_at IS NOT NULL OR state IN ('draft', 'self-assessment', 'cancelled')",
            name=op.f("application_submitted_at_check"),
        ),
        sa.CheckConstraint("moves BETWEEN 0 AND 1000", name=op.f("application_moves_check")),
        sa.ForeignKeyConstraint(["division"], ["division.code"], name=op.f("application_division_fkey")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisation.id"], name=op.f("application_organisation_id_fkey")
        ),
        sa.ForeignKeyConstraint(["programme_code"], ["programme.code"], name=op.f("application_programme_code_fkey")),
        sa.ForeignKeyConstraint(["rubric_id"], ["rubric.id"], name=op.f("application_rubric_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("application_pkey")),
    )
    op.create_index(
        "application_community_key",
        "application",
        ["programme_code", "year", "division"],
        unique=True,
        postgresql_where=sa.text("subject_kind = 'community' AND state NOT IN ('withdrawn', 'rejected', 'cancelled')"),
    )
    op.create_index("application_division_ix", "application", ["division", "id"], unique=False)
    op.create_index(
        "application_due_ix",
        "application",
        ["step_due_at"],
        unique=False,
        postgresql_where=sa.text("step_due_at IS NOT NULL"),
    )
    op.create_index(
        "application_household_key",
        "application",
        ["resident_id", "programme_code", "year"],
        unique=True,
        postgresql_where=sa.text("subject_kind = 'household' AND state NOT IN ('withdrawn', 'rejected', 'cancelled')"),
    )
    op.create_index(op.f("application_organisation_id_ix"), "application", ["organisation_id"], unique=False)
    op.create_index(
        "application_organisation_key",
        "application",
        ["programme_code", "year", "organisation_id"],
        unique=True,
        postgresql_where=sa.text(
            "subject_kind = 'organisation' AND state NOT IN ('withdrawn', 'rejected', 'cancelled')"
        ),
    )
    op.create_index(op.f("application_resident_id_ix"), "application", ["resident_id"], unique=False)
    op.create_index(op.f("application_rubric_id_ix"), "application", ["rubric_id"], unique=False)
    op.create_table(
        "rubric_area",
        sa.Column("rubric_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.String(length=20), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("title_zh", sa.String(length=60), nullable=False),
        sa.Column("source", sa.String(length=200), nullable=True),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=True,
        ),
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9.-]*$'", name=op.f("rubric_area_code_check")),
        sa.CheckConstraint("title_zh <> ''", name=op.f("rubric_area_title_zh_check")),
        sa.ForeignKeyConstraint(["rubric_id"], ["rubric.id"], name=op.f("rubric_area_rubric_id_fkey")),
        sa.PrimaryKeyConstraint("rubric_id", "code", name=op.f("rubric_area_pkey")),
    )
    op.create_table(
        "rubric_precondition",
        sa.Column("rubric_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.String(length=20), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("text_zh", sa.String(length=300), nullable=False),
        sa.Column("source", sa.String(length=200), nullable=True),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=True,
        ),
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9.-]*$'", name=op.f("rubric_precondition_code_check")),
        sa.CheckConstraint("text_zh <> ''", name=op.f("rubric_precondition_text_zh_check")),
        sa.ForeignKeyConstraint(["rubric_id"], ["rubric.id"], name=op.f("rubric_precondition_rubric_id_fkey")),
        sa.PrimaryKeyConstraint("rubric_id", "code", name=op.f("rubric_precondition_pkey")),
    )
    op.create_table(
        "application_answer",
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("item_code", sa.String(length=20), nullable=False),
        sa.Column("value", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("note", sa.String(length=500), server_default="", nullable=False),
        sa.Column("answered_by", sa.Uuid(), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("value >= 0", name=op.f("application_answer_value_check")),
        sa.ForeignKeyConstraint(
            ["application_id"], ["application.id"], name=op.f("application_answer_application_id_fkey")
        ),
        sa.PrimaryKeyConstraint("application_id", "item_code", name=op.f("application_answer_pkey")),
    )
    op.create_table(
        "application_evidence",
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("item_code", sa.String(length=20), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("note", sa.String(length=500), server_default="", nullable=False),
        sa.Column("added_by", sa.Uuid(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_by", sa.Uuid(), nullable=True),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(removed_by IS NULL) = (removed_at IS NULL)", name=op.f("application_evidence_removed_check")
        ),
        sa.CheckConstraint("position BETWEEN 1 AND 10", name=op.f("application_evidence_position_check")),
        sa.ForeignKeyConstraint(
            ["application_id"], ["application.id"], name=op.f("application_evidence_application_id_fkey")
        ),
        sa.ForeignKeyConstraint(["file_id"], ["stored_file.id"], name=op.f("application_evidence_file_id_fkey")),
        sa.PrimaryKeyConstraint("application_id", "id", name=op.f("application_evidence_pkey")),
        sa.UniqueConstraint("file_id", name=op.f("application_evidence_file_id_key")),
    )
    op.create_index(
        "application_evidence_item_key",
        "application_evidence",
        ["application_id", "item_code", "position"],
        unique=True,
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_table(
        "application_move",
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column(
            "move",
            sa.Enum(
                "begin-self-assessment",
                "submit",
                "cancel",
                "take-up",
                "return",
                "resubmit",
                "forward",
                "reject",
                "publish-notice",
                "end-notice",
                "name",
                "begin-recheck",
                "retain",
                "give-grace",
                "report-mended",
                "withdraw",
                name="move",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column(
            "from_state",
            sa.Enum(
                "draft",
                "self-assessment",
                "submitted",
                "street-review",
                "returned",
                "district-review",
                "notice",
                "objections",
                "named",
                "recheck",
                "grace",
                "withdrawn",
                "rejected",
                "cancelled",
                name="from_state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column(
            "to_state",
            sa.Enum(
                "draft",
                "self-assessment",
                "submitted",
                "street-review",
                "returned",
                "district-review",
                "notice",
                "objections",
                "named",
                "recheck",
                "grace",
                "withdrawn",
                "rejected",
                "cancelled",
                name="to_state",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("moved_by", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.String(length=500), server_default="", nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(from_state, move, to_state) IN (('district-review', 'cancel', 'cancelled'), ('district-review', 'publish-notice', 'notice'), ('district-review', 'reject', 'rejected'), ('draft', 'begin-self-assessment', 'self-assessment'), ('draft', 'cancel', 'cancelled'), ('grace', 'report-mended', 'recheck'), ('grace', 'withdraw', 'withdrawn'), ('named', 'begin-recheck', 'recheck'), ('notice', 'end-notice', 'objections'), ('objections', 'name', 'named'), ('objections', 'reject', 'rejected'), ('recheck', 'give-grace', 'grace'), ('recheck', 'retain', 'named'), ('recheck', 'withdraw', 'withdrawn'), ('returned', 'cancel', 'cancelled'), ('returned', 'resubmit', 'submitted'), ('self-assessment', 'cancel', 'cancelled'), ('self-assessment', 'submit', 'submitted'), ('street-review', 'cancel', 'cancelled'), ('street-review', 'forward', 'district-review'), ('street-review', 'return', 'returned'), ('submitted', 'cancel', 'cancelled'), ('submitted', 'take-up', 'street-review'))",
            name=op.f("application_move_step_check"),
        ),
        sa.CheckConstraint("position >= 1", name=op.f("application_move_position_check")),
        sa.ForeignKeyConstraint(
            ["application_id"], ["application.id"], name=op.f("application_move_application_id_fkey")
        ),
        sa.PrimaryKeyConstraint("application_id", "position", name=op.f("application_move_pkey")),
    )
    op.create_table(
        "application_precondition",
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.String(length=20), nullable=False),
        sa.Column("declared_by", sa.Uuid(), nullable=False),
        sa.Column("declared_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmed_by", sa.Uuid(), nullable=True),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(confirmed_by IS NULL) = (confirmed_at IS NULL)", name=op.f("application_precondition_confirmed_check")
        ),
        sa.CheckConstraint(
            "confirmed_by <> declared_by", name=op.f("application_precondition_confirmed_by_another_check")
        ),
        sa.ForeignKeyConstraint(
            ["application_id"], ["application.id"], name=op.f("application_precondition_application_id_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["confirmed_by"], ["staff.id"], name=op.f("application_precondition_confirmed_by_fkey")
        ),
        sa.PrimaryKeyConstraint("application_id", "code", name=op.f("application_precondition_pkey")),
    )
    op.create_table(
        "assessment",
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("staff_id", sa.Uuid(), nullable=False),
        sa.Column("seat", sa.SmallInteger(), nullable=False),
        sa.Column("assigned_by", sa.Uuid(), nullable=False),
        sa.Column("assigned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("total", sa.Numeric(precision=8, scale=2), nullable=True),
        sa.Column("must_meet_failed", sa.ARRAY(sa.Text()), nullable=True),
        sa.Column("comment", sa.String(length=2000), server_default="", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.CheckConstraint(
            "(submitted_at IS NULL) = (total IS NULL) AND (total IS NULL) = (must_meet_failed IS NULL)",
            name=op.f("assessment_submitted_check"),
        ),
        sa.CheckConstraint("assigned_by <> staff_id", name=op.f("assessment_assigned_by_another_check")),
        sa.CheckConstraint("seat BETWEEN 1 AND 3", name=op.f("assessment_seat_check")),
        sa.CheckConstraint("total >= 0", name=op.f("assessment_total_check")),
        sa.ForeignKeyConstraint(["application_id"], ["application.id"], name=op.f("assessment_application_id_fkey")),
        sa.ForeignKeyConstraint(["assigned_by"], ["staff.id"], name=op.f("assessment_assigned_by_fkey")),
        sa.ForeignKeyConstraint(["staff_id"], ["staff.id"], name=op.f("assessment_staff_id_fkey")),
        sa.PrimaryKeyConstraint("application_id", "staff_id", name=op.f("assessment_pkey")),
        sa.UniqueConstraint("application_id", "seat", name=op.f("assessment_application_id_seat_key")),
    )
    op.create_index("assessment_staff_id_ix", "assessment", ["staff_id", "application_id"], unique=False)
    op.create_table(
        "live_figure",
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("submission", sa.SmallInteger(), nullable=False),
        sa.Column("item_code", sa.String(length=20), nullable=False),
        sa.Column(
            "measure",
            sa.Enum(
                "participation-rate",
                "active-residents",
                "sorting-accuracy",
                "sorting-drops",
                "recycling-kg",
                "campaigns-held",
                name="measure",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("value", sa.Numeric(precision=14, scale=2), nullable=True),
        sa.Column("numerator", sa.BigInteger(), nullable=True),
        sa.Column("denominator", sa.BigInteger(), nullable=True),
        sa.Column("unit", sa.String(length=20), nullable=False),
        sa.Column("period_starts_on", sa.Date(), nullable=False),
        sa.Column("period_ends_on", sa.Date(), nullable=False),
        sa.Column("definition_zh", sa.String(length=300), nullable=False),
        sa.Column("definition_en", sa.String(length=500), nullable=False),
        sa.Column("frozen_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("period_ends_on >= period_starts_on", name=op.f("live_figure_period_check")),
        sa.CheckConstraint("submission >= 1", name=op.f("live_figure_submission_check")),
        sa.CheckConstraint(
            "value >= 0 AND numerator >= 0 AND denominator >= 0", name=op.f("live_figure_not_negative_check")
        ),
        sa.ForeignKeyConstraint(["application_id"], ["application.id"], name=op.f("live_figure_application_id_fkey")),
        sa.PrimaryKeyConstraint("application_id", "submission", "item_code", name=op.f("live_figure_pkey")),
    )
    op.create_table(
        "naming",
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.String(length=30), nullable=False),
        sa.Column("named_on", sa.Date(), nullable=False),
        sa.Column("plaque_on", sa.Date(), nullable=True),
        sa.Column("valid_until", sa.Date(), nullable=False),
        sa.Column("recheck_due_on", sa.Date(), nullable=True),
        sa.Column("grace_until", sa.Date(), nullable=True),
        sa.Column("withdrawn_on", sa.Date(), nullable=True),
        sa.Column("named_by", sa.Uuid(), nullable=False),
        sa.Column("named_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("number ~ '^[0-9]{6}-[A-Z]{2,4}-[0-9]{4}-[0-9]{4,6}$'", name=op.f("naming_number_check")),
        sa.CheckConstraint("grace_until > named_on", name=op.f("naming_grace_until_check")),
        sa.CheckConstraint("plaque_on >= named_on", name=op.f("naming_plaque_on_check")),
        sa.CheckConstraint("valid_until > named_on", name=op.f("naming_valid_until_check")),
        sa.CheckConstraint(
            "withdrawn_on IS NULL OR withdrawn_on >= named_on AND recheck_due_on IS NULL",
            name=op.f("naming_withdrawn_on_check"),
        ),
        sa.ForeignKeyConstraint(["application_id"], ["application.id"], name=op.f("naming_application_id_fkey")),
        sa.ForeignKeyConstraint(["named_by"], ["staff.id"], name=op.f("naming_named_by_fkey")),
        sa.PrimaryKeyConstraint("application_id", name=op.f("naming_pkey")),
        sa.UniqueConstraint("number", name=op.f("naming_number_key")),
    )
    op.create_index(op.f("naming_recheck_due_on_ix"), "naming", ["recheck_due_on"], unique=False)
    op.create_table(
        "objection",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("receipt_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("text", sa.String(length=2000), nullable=False),
        sa.Column("contact_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answer", sa.String(length=2000), nullable=True),
        sa.Column("upheld", sa.Boolean(), nullable=True),
        sa.Column("answered_by", sa.Uuid(), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "num_nonnulls(answer, upheld, answered_by, answered_at) IN (0, 4) AND answer <> ''",
            name=op.f("objection_answered_check"),
        ),
        sa.CheckConstraint("text <> ''", name=op.f("objection_text_check")),
        sa.CheckConstraint("octet_length(contact_sealed) <= 1000", name=op.f("objection_contact_length_check")),
        sa.CheckConstraint("octet_length(receipt_hash) = 32", name=op.f("objection_receipt_hash_check")),
        sa.ForeignKeyConstraint(["answered_by"], ["staff.id"], name=op.f("objection_answered_by_fkey")),
        sa.ForeignKeyConstraint(["application_id"], ["application.id"], name=op.f("objection_application_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("objection_pkey")),
        sa.UniqueConstraint("receipt_hash", name=op.f("objection_receipt_hash_key")),
    )
    op.create_index(op.f("objection_application_id_ix"), "objection", ["application_id"], unique=False)
    op.create_table(
        "public_notice",
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("published_on", sa.Date(), nullable=False),
        sa.Column("days", sa.SmallInteger(), nullable=False),
        sa.Column("last_on", sa.Date(), nullable=False),
        sa.Column("score", sa.Numeric(precision=8, scale=2), nullable=False),
        sa.Column("maximum", sa.Integer(), nullable=False),
        sa.Column("published_by", sa.Uuid(), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "days BETWEEN 1 AND 60 AND last_on = published_on + days", name=op.f("public_notice_span_check")
        ),
        sa.CheckConstraint("ended_at > published_at", name=op.f("public_notice_ended_after_published_check")),
        sa.ForeignKeyConstraint(["application_id"], ["application.id"], name=op.f("public_notice_application_id_fkey")),
        sa.ForeignKeyConstraint(["published_by"], ["staff.id"], name=op.f("public_notice_published_by_fkey")),
        sa.PrimaryKeyConstraint("application_id", name=op.f("public_notice_pkey")),
    )
    op.create_index(op.f("public_notice_last_on_ix"), "public_notice", ["last_on"], unique=False)
    op.create_table(
        "recheck",
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("began_on", sa.Date(), nullable=False),
        sa.Column("visited_on", sa.Date(), nullable=True),
        sa.Column("people", sa.ARRAY(sa.Text()), nullable=True),
        sa.Column("findings", sa.String(length=2000), nullable=True),
        sa.Column("recorded_by", sa.Uuid(), nullable=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "result",
            sa.Enum(
                "begin-self-assessment",
                "submit",
                "cancel",
                "take-up",
                "return",
                "resubmit",
                "forward",
                "reject",
                "publish-notice",
                "end-notice",
                "name",
                "begin-recheck",
                "retain",
                "give-grace",
                "report-mended",
                "withdraw",
                name="result",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=True,
        ),
        sa.CheckConstraint(
            "cardinality(people) BETWEEN 2 AND 10 AND findings <> ''", name=op.f("recheck_people_check")
        ),
        sa.CheckConstraint(
            "result IS NULL OR result IN ('retain', 'give-grace', 'withdraw') AND recorded_at IS NOT NULL",
            name=op.f("recheck_result_of_findings_check"),
        ),
        sa.CheckConstraint(
            "num_nonnulls(visited_on, people, findings, recorded_by, recorded_at) IN (0, 5)",
            name=op.f("recheck_recorded_check"),
        ),
        sa.CheckConstraint("position >= 1", name=op.f("recheck_position_check")),
        sa.CheckConstraint("visited_on >= began_on", name=op.f("recheck_visited_on_check")),
        sa.ForeignKeyConstraint(["application_id"], ["application.id"], name=op.f("recheck_application_id_fkey")),
        sa.ForeignKeyConstraint(["recorded_by"], ["staff.id"], name=op.f("recheck_recorded_by_fkey")),
        sa.PrimaryKeyConstraint("application_id", "position", name=op.f("recheck_pkey")),
    )
    op.create_table(
        "rubric_item",
        sa.Column("rubric_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.String(length=20), nullable=False),
        sa.Column("area_code", sa.String(length=20), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("text_zh", sa.String(length=300), nullable=False),
        sa.Column(
            "type",
            sa.Enum("yes-no", "score", "number", name="type", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("maximum", sa.SmallInteger(), nullable=False),
        sa.Column("must_meet", sa.Boolean(), nullable=False),
        sa.Column("evidence_required", sa.Boolean(), nullable=False),
        sa.Column("threshold", sa.Numeric(precision=12, scale=2), nullable=True),
        sa.Column("unit", sa.String(length=20), nullable=True),
        sa.Column(
            "live_measure",
            sa.Enum(
                "participation-rate",
                "active-residents",
                "sorting-accuracy",
                "sorting-drops",
                "recycling-kg",
                "campaigns-held",
                name="live_measure",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=True,
        ),
        sa.Column("source", sa.String(length=200), nullable=True),
        sa.Column(
            "confidence",
            sa.Enum("V", "V2", "C", "R", name="confidence", native_enum=False, create_constraint=True, length=40),
            nullable=True,
        ),
        sa.CheckConstraint("(type = 'number') = (threshold IS NOT NULL)", name=op.f("rubric_item_threshold_check")),
        sa.CheckConstraint("NOT (must_meet AND type = 'score')", name=op.f("rubric_item_must_meet_check")),
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9.-]*$'", name=op.f("rubric_item_code_check")),
        sa.CheckConstraint("text_zh <> ''", name=op.f("rubric_item_text_zh_check")),
        sa.CheckConstraint("type <> 'score' OR maximum > 0", name=op.f("rubric_item_score_check")),
        sa.CheckConstraint("maximum BETWEEN 0 AND 1000", name=op.f("rubric_item_maximum_check")),
        sa.ForeignKeyConstraint(
            ["rubric_id", "area_code"],
            ["rubric_area.rubric_id", "rubric_area.code"],
            name=op.f("rubric_item_rubric_id_area_code_fkey"),
        ),
        sa.ForeignKeyConstraint(["rubric_id"], ["rubric.id"], name=op.f("rubric_item_rubric_id_fkey")),
        sa.PrimaryKeyConstraint("rubric_id", "code", name=op.f("rubric_item_pkey")),
    )
    op.create_table(
        "site_visit",
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("visited_on", sa.Date(), nullable=False),
        sa.Column("people", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("findings", sa.String(length=2000), nullable=False),
        sa.Column("recorded_by", sa.Uuid(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("findings <> ''", name=op.f("site_visit_findings_check")),
        sa.CheckConstraint(
            "cardinality(people) BETWEEN 2 AND 10 AND people[1] <> people[2]", name=op.f("site_visit_people_check")
        ),
        sa.ForeignKeyConstraint(["application_id"], ["application.id"], name=op.f("site_visit_application_id_fkey")),
        sa.ForeignKeyConstraint(["recorded_by"], ["staff.id"], name=op.f("site_visit_recorded_by_fkey")),
        sa.PrimaryKeyConstraint("application_id", "id", name=op.f("site_visit_pkey")),
    )
    op.create_table(
        "assessment_mark",
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("staff_id", sa.Uuid(), nullable=False),
        sa.Column("item_code", sa.String(length=20), nullable=False),
        sa.Column("value", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("comment", sa.String(length=500), server_default="", nullable=False),
        sa.Column("marked_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("value >= 0", name=op.f("assessment_mark_value_check")),
        sa.ForeignKeyConstraint(
            ["application_id", "staff_id"],
            ["assessment.application_id", "assessment.staff_id"],
            name=op.f("assessment_mark_application_id_staff_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("application_id", "staff_id", "item_code", name=op.f("assessment_mark_pkey")),
    )
    op.create_table(
        "objection_file",
        sa.Column("objection_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.CheckConstraint("position BETWEEN 1 AND 3", name=op.f("objection_file_position_check")),
        sa.ForeignKeyConstraint(["file_id"], ["stored_file.id"], name=op.f("objection_file_file_id_fkey")),
        sa.ForeignKeyConstraint(["objection_id"], ["objection.id"], name=op.f("objection_file_objection_id_fkey")),
        sa.PrimaryKeyConstraint("objection_id", "position", name=op.f("objection_file_pkey")),
        sa.UniqueConstraint("file_id", name=op.f("objection_file_file_id_key")),
    )
    op.create_table(
        "site_visit_photo",
        sa.Column("application_id", sa.Uuid(), nullable=False),
        sa.Column("visit_id", sa.Uuid(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("caption", sa.String(length=120), server_default="", nullable=False),
        sa.CheckConstraint("position BETWEEN 1 AND 12", name=op.f("site_visit_photo_position_check")),
        sa.ForeignKeyConstraint(
            ["application_id", "visit_id"],
            ["site_visit.application_id", "site_visit.id"],
            name=op.f("site_visit_photo_application_id_visit_id_fkey"),
        ),
        sa.ForeignKeyConstraint(["file_id"], ["stored_file.id"], name=op.f("site_visit_photo_file_id_fkey")),
        sa.PrimaryKeyConstraint("application_id", "visit_id", "file_id", name=op.f("site_visit_photo_pkey")),
        sa.UniqueConstraint(
            "application_id", "visit_id", "position", name=op.f("site_visit_photo_application_id_visit_id_position_key")
        ),
        sa.UniqueConstraint("file_id", name=op.f("site_visit_photo_file_id_key")),
    )
