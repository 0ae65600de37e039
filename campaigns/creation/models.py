"""The creation (创建) of green communities, schools, families, agencies and malls: rubrics, applications, naming.

Programmes and rubrics are the district's data; an application is one subject's way through the process under one
rubric. What was decided is never changed: moves, submitted assessments and answered objections are closed by triggers.
"""

import enum
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from campaigns.creation.steps import ENDED, ApplicationState, Move, steps_check
from server.database import Base, choice
from server.files.models import StoredFile
from server.places.models import AgencyRank, Confidence, OrganisationKind

REASON_LENGTH_MAX = 500
TEXT_LENGTH_MAX = 2000
FILES_PER_ITEM_MAX = 10
PHOTOS_PER_VISIT_MAX = 12
VISITORS_MAX = 10


class SubjectKind(enum.StrEnum):
    """Who can be named."""

    COMMUNITY = "community"
    ORGANISATION = "organisation"
    HOUSEHOLD = "household"


class TargetBase(enum.StrEnum):
    """What a target is a share of."""

    COMMUNITIES = "communities"
    SCHOOLS = "schools"
    AGENCIES = "agencies"
    MALLS = "malls"
    INDICATOR = "indicator"  # no subjects: the programme's own figure is held against the share


class RubricState(enum.StrEnum):
    """The life of one version of a rubric. Only a draft can be edited, only one in force takes applications."""

    DRAFT = "draft"
    IN_FORCE = "in-force"
    RETIRED = "retired"


class ItemType(enum.StrEnum):
    """How an item is marked.

    yes-no: 1 or 0, and the maximum for a 1. score: the score itself, from 0 to the maximum. number: a quantity, and the
    maximum if it reaches the threshold.
    """

    YES_NO = "yes-no"
    SCORE = "score"
    NUMBER = "number"


class LiveMeasure(enum.StrEnum):
    """A figure of the system that an item can be bound to."""

    PARTICIPATION_RATE = "participation-rate"  # percent of registered residents active in the period
    ACTIVE_RESIDENTS = "active-residents"
    SORTING_ACCURACY = "sorting-accuracy"  # percent of checked drops that passed
    SORTING_DROPS = "sorting-drops"
    RECYCLING_KG = "recycling-kg"
    CAMPAIGNS_HELD = "campaigns-held"


_STANDING = f"state NOT IN ({', '.join(repr(state.value) for state in ENDED)})"


# Programmes and rubrics


class Programme(Base):
    """One of the creations of the district's plan. Without a subject kind it is tracked by its indicator alone."""

    __tablename__ = "programme"

    code: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger)
    title_zh: Mapped[str] = mapped_column(sa.String(60))
    title_en: Mapped[str] = mapped_column(sa.String(60))
    subject_kind: Mapped[SubjectKind | None] = mapped_column(choice(SubjectKind, "subject_kind"))
    organisation_kind: Mapped[OrganisationKind | None] = mapped_column(choice(OrganisationKind, "organisation_kind"))
    number_prefix: Mapped[str] = mapped_column(sa.String(4))  # in the numbers of namings: GC for green communities
    indicator_zh: Mapped[str | None] = mapped_column(sa.String(120))  # what the tracked figure is
    indicator_unit: Mapped[str | None] = mapped_column(sa.String(20))
    document: Mapped[str] = mapped_column(sa.String(200))
    confidence: Mapped[Confidence] = mapped_column(choice(Confidence, "confidence"))

    __table_args__ = (
        sa.CheckConstraint("code ~ '^[a-z][a-z0-9-]*$'", name="code"),
        sa.CheckConstraint("number_prefix ~ '^[A-Z]{2,4}$'", name="number_prefix"),
        sa.UniqueConstraint("number_prefix"),
        sa.CheckConstraint(
            "(organisation_kind IS NOT NULL) = (subject_kind IS NOT DISTINCT FROM 'organisation')",
            name="organisations_of_a_kind",
        ),
        sa.CheckConstraint("(subject_kind IS NULL) = (indicator_zh IS NOT NULL)", name="applications_or_indicator"),
        sa.CheckConstraint("(indicator_zh IS NULL) = (indicator_unit IS NULL)", name="indicator"),
        sa.CheckConstraint("document <> ''", name="document"),
    )


class ProgrammeTarget(Base):
    """What the plan wants of a programme by the end of a year: a share of a base, or only the words of the plan."""

    __tablename__ = "programme_target"

    programme_code: Mapped[str] = mapped_column(sa.ForeignKey("programme.code"), primary_key=True)
    year: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    text_zh: Mapped[str] = mapped_column(sa.String(200))
    share_min_percent: Mapped[Decimal | None] = mapped_column(sa.Numeric(5, 2))
    is_about: Mapped[bool] = mapped_column(server_default=sa.text("false"))  # 左右 in the source: never a hard line
    base: Mapped[TargetBase | None] = mapped_column(choice(TargetBase, "base"))
    floor_area_min_m2: Mapped[int | None] = mapped_column(sa.Integer)
    agency_rank_min: Mapped[AgencyRank | None] = mapped_column(choice(AgencyRank, "agency_rank_min"))
    source: Mapped[str] = mapped_column(sa.String(200))
    confidence: Mapped[Confidence] = mapped_column(choice(Confidence, "confidence"))

    __table_args__ = (
        sa.CheckConstraint("year BETWEEN 2000 AND 2100", name="year"),
        sa.CheckConstraint("share_min_percent BETWEEN 0 AND 100", name="share"),
        sa.CheckConstraint("(share_min_percent IS NULL) = (base IS NULL)", name="share_of"),
        sa.CheckConstraint("floor_area_min_m2 IS NULL OR base = 'malls' AND floor_area_min_m2 > 0", name="floor_area"),
        sa.CheckConstraint("agency_rank_min IS NULL OR base = 'agencies'", name="agency_rank"),
        sa.CheckConstraint("source <> ''", name="source"),
    )


class IndicatorFigure(Base):
    """One published value of a tracked programme's indicator, with its source; a correction replaces the day's."""

    __tablename__ = "indicator_figure"

    programme_code: Mapped[str] = mapped_column(sa.ForeignKey("programme.code"), primary_key=True)
    measured_on: Mapped[date] = mapped_column(primary_key=True)
    value: Mapped[Decimal] = mapped_column(sa.Numeric(14, 2))  # in the programme's indicator_unit
    source: Mapped[str] = mapped_column(sa.String(200))
    confidence: Mapped[Confidence] = mapped_column(choice(Confidence, "confidence"))
    recorded_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    recorded_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("value >= 0", name="value"),
        sa.CheckConstraint("source <> ''", name="source"),
    )


class Rubric(Base):
    """One version of a programme's rubric for one year. Its content can change only while it is a draft.

    Passing: `minimum_score` of all items together, every must-meet item, every precondition. Two assessors' totals that
    differ by more than `difference_max` call a third.
    """

    __tablename__ = "rubric"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    programme_code: Mapped[str] = mapped_column(sa.ForeignKey("programme.code"))
    year: Mapped[int] = mapped_column(sa.SmallInteger)
    revision: Mapped[int] = mapped_column(sa.SmallInteger)  # within the year, from 1
    title_zh: Mapped[str] = mapped_column(sa.String(120))
    state: Mapped[RubricState] = mapped_column(choice(RubricState, "state"))
    minimum_score: Mapped[int] = mapped_column(sa.SmallInteger)
    difference_max: Mapped[Decimal] = mapped_column(sa.Numeric(6, 2))
    notice_days: Mapped[int] = mapped_column(sa.SmallInteger, server_default="7")
    validity_months: Mapped[int] = mapped_column(sa.SmallInteger, server_default="36")
    recheck_months: Mapped[int] = mapped_column(sa.SmallInteger, server_default="12")
    site_visit_required: Mapped[bool] = mapped_column(server_default=sa.text("true"))
    source: Mapped[str] = mapped_column(sa.String(300))
    confidence: Mapped[Confidence] = mapped_column(choice(Confidence, "confidence"))
    note: Mapped[str] = mapped_column(sa.String(500), server_default="")
    content_sha256: Mapped[bytes | None] = mapped_column(sa.LargeBinary(32))  # of the data file that it came from
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")
    created_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))  # None: from a data file
    created_at: Mapped[datetime]
    in_force_at: Mapped[datetime | None]
    retired_at: Mapped[datetime | None]

    __table_args__ = (
        sa.UniqueConstraint("programme_code", "year", "revision"),
        sa.Index(
            "rubric_in_force_key", "programme_code", "year", unique=True, postgresql_where=sa.text("state = 'in-force'")
        ),
        sa.CheckConstraint("year BETWEEN 2000 AND 2100", name="year"),
        sa.CheckConstraint("revision BETWEEN 1 AND 1000", name="revision"),
        sa.CheckConstraint("minimum_score BETWEEN 0 AND 10000", name="minimum_score"),
        sa.CheckConstraint("difference_max BETWEEN 0 AND 9999", name="difference_max"),
        sa.CheckConstraint("notice_days BETWEEN 1 AND 60", name="notice_days"),
        sa.CheckConstraint("validity_months BETWEEN 1 AND 120", name="validity_months"),
        sa.CheckConstraint("recheck_months BETWEEN 1 AND validity_months", name="recheck_months"),
        sa.CheckConstraint("source <> '' AND title_zh <> ''", name="source"),
        sa.CheckConstraint("octet_length(content_sha256) = 32", name="content_sha256"),
        sa.CheckConstraint("state = 'draft' OR in_force_at IS NOT NULL", name="in_force_at"),
        sa.CheckConstraint("(state = 'retired') = (retired_at IS NOT NULL)", name="retired_at"),
    )


class RubricArea(Base):
    """A part of a rubric that groups items."""

    __tablename__ = "rubric_area"

    rubric_id: Mapped[UUID] = mapped_column(sa.ForeignKey("rubric.id"), primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger)
    title_zh: Mapped[str] = mapped_column(sa.String(60))
    source: Mapped[str | None] = mapped_column(sa.String(200))  # where it differs from the rubric's
    confidence: Mapped[Confidence | None] = mapped_column(choice(Confidence, "confidence"))

    __table_args__ = (
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9.-]*$'", name="code"),
        sa.CheckConstraint("title_zh <> ''", name="title_zh"),
    )


class RubricItem(Base):
    """One thing that assessors mark, worth up to `maximum` points."""

    __tablename__ = "rubric_item"

    rubric_id: Mapped[UUID] = mapped_column(sa.ForeignKey("rubric.id"), primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    area_code: Mapped[str] = mapped_column(sa.String(20))
    position: Mapped[int] = mapped_column(sa.SmallInteger)  # in the whole rubric
    text_zh: Mapped[str] = mapped_column(sa.String(300))
    type: Mapped[ItemType] = mapped_column(choice(ItemType, "type"))
    maximum: Mapped[int] = mapped_column(sa.SmallInteger)
    must_meet: Mapped[bool]
    evidence_required: Mapped[bool]
    threshold: Mapped[Decimal | None] = mapped_column(sa.Numeric(12, 2))  # of a number: met from here upwards
    unit: Mapped[str | None] = mapped_column(sa.String(20))
    live_measure: Mapped[LiveMeasure | None] = mapped_column(choice(LiveMeasure, "live_measure"))
    source: Mapped[str | None] = mapped_column(sa.String(200))  # where it differs from the area's and the rubric's
    confidence: Mapped[Confidence | None] = mapped_column(choice(Confidence, "confidence"))

    __table_args__ = (
        sa.ForeignKeyConstraint(["rubric_id", "area_code"], ["rubric_area.rubric_id", "rubric_area.code"]),
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9.-]*$'", name="code"),
        sa.CheckConstraint("text_zh <> ''", name="text_zh"),
        sa.CheckConstraint("maximum BETWEEN 0 AND 1000", name="maximum"),
        sa.CheckConstraint("type <> 'score' OR maximum > 0", name="score"),
        sa.CheckConstraint("(type = 'number') = (threshold IS NOT NULL)", name="threshold"),
        # A score is more or less; met or not met is said of a yes-no and of a number with its threshold.
        sa.CheckConstraint("NOT (must_meet AND type = 'score')", name="must_meet"),
    )


class RubricPrecondition(Base):
    """What must be so before anything is scored: the applicant declares it, the street confirms it."""

    __tablename__ = "rubric_precondition"

    rubric_id: Mapped[UUID] = mapped_column(sa.ForeignKey("rubric.id"), primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger)
    text_zh: Mapped[str] = mapped_column(sa.String(300))
    source: Mapped[str | None] = mapped_column(sa.String(200))
    confidence: Mapped[Confidence | None] = mapped_column(choice(Confidence, "confidence"))

    __table_args__ = (
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9.-]*$'", name="code"),
        sa.CheckConstraint("text_zh <> ''", name="text_zh"),
    )


# Applications


class Application(Base):
    """One subject's way through one programme under one rubric.

    `division` is the community of every subject. `moves` counts the recorded moves: the state changes only together
    with the next of them, which a trigger holds.
    """

    __tablename__ = "application"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    programme_code: Mapped[str] = mapped_column(sa.ForeignKey("programme.code"))
    rubric_id: Mapped[UUID] = mapped_column(sa.ForeignKey("rubric.id"), index=True)
    year: Mapped[int] = mapped_column(sa.SmallInteger)
    subject_kind: Mapped[SubjectKind] = mapped_column(choice(SubjectKind, "subject_kind"))
    division: Mapped[str] = mapped_column(sa.String(12), sa.ForeignKey("division.code"))
    organisation_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("organisation.id"), index=True)
    resident_id: Mapped[UUID | None] = mapped_column(index=True)
    subject_name: Mapped[str] = mapped_column(sa.String(60))  # as it is published
    statement: Mapped[str] = mapped_column(sa.String(TEXT_LENGTH_MAX), server_default="")
    state: Mapped[ApplicationState] = mapped_column(choice(ApplicationState, "state"))
    moves: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")
    step_since: Mapped[datetime]
    step_due_at: Mapped[datetime | None]  # None: the step may take as long as it likes
    overdue_told_at: Mapped[datetime | None]  # once per step
    created_by: Mapped[UUID]  # a member of staff or the resident
    created_at: Mapped[datetime]
    submitted_at: Mapped[datetime | None]  # the first time; reviewers see nothing before

    __table_args__ = (
        sa.Index(
            "application_community_key",
            "programme_code",
            "year",
            "division",
            unique=True,
            postgresql_where=sa.text(f"subject_kind = 'community' AND {_STANDING}"),
        ),
        sa.Index(
            "application_organisation_key",
            "programme_code",
            "year",
            "organisation_id",
            unique=True,
            postgresql_where=sa.text(f"subject_kind = 'organisation' AND {_STANDING}"),
        ),
        sa.Index(
            "application_household_key",
            "resident_id",
            "programme_code",
            "year",
            unique=True,
            postgresql_where=sa.text(f"subject_kind = 'household' AND {_STANDING}"),
        ),
        sa.Index("application_division_ix", "division", "id"),
        sa.Index("application_due_ix", "step_due_at", postgresql_where=sa.text("step_due_at IS NOT NULL")),
        sa.CheckConstraint("division ~ '^[0-9]{12}$'", name="community"),
        sa.CheckConstraint("(subject_kind = 'organisation') = (organisation_id IS NOT NULL)", name="organisation"),
        sa.CheckConstraint("(subject_kind = 'household') = (resident_id IS NOT NULL)", name="household"),
        sa.CheckConstraint("subject_name <> ''", name="subject_name"),
        sa.CheckConstraint("moves BETWEEN 0 AND 1000", name="moves"),
        sa.CheckConstraint(
            "submitted_at IS NOT NULL OR state IN ('draft', 'self-assessment', 'cancelled')", name="submitted_at"
        ),
    )


class ApplicationMove(Base):
    """One move of an application: who, when, why, and until when the next is due. Append-only."""

    __tablename__ = "application_move"

    application_id: Mapped[UUID] = mapped_column(sa.ForeignKey("application.id"), primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)  # from 1
    move: Mapped[Move] = mapped_column(choice(Move, "move"))
    from_state: Mapped[ApplicationState] = mapped_column(choice(ApplicationState, "from_state"))
    to_state: Mapped[ApplicationState] = mapped_column(choice(ApplicationState, "to_state"))
    moved_by: Mapped[UUID | None]  # None: by the clock
    reason: Mapped[str] = mapped_column(sa.String(REASON_LENGTH_MAX), server_default="")
    moved_at: Mapped[datetime]
    due_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("position >= 1", name="position"),
        sa.CheckConstraint(steps_check(), name="step"),
    )


class ApplicationAnswer(Base):
    """What the applicant says of one item in the self-assessment: the value as the item's type reads it, and why."""

    __tablename__ = "application_answer"

    application_id: Mapped[UUID] = mapped_column(sa.ForeignKey("application.id"), primary_key=True)
    item_code: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    value: Mapped[Decimal] = mapped_column(sa.Numeric(12, 2))
    note: Mapped[str] = mapped_column(sa.String(REASON_LENGTH_MAX), server_default="")
    answered_by: Mapped[UUID]
    answered_at: Mapped[datetime]

    __table_args__ = (sa.CheckConstraint("value >= 0", name="value"),)


class ApplicationPrecondition(Base):
    """The applicant's declaration of one precondition, and the street's confirmation."""

    __tablename__ = "application_precondition"

    application_id: Mapped[UUID] = mapped_column(sa.ForeignKey("application.id"), primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    declared_by: Mapped[UUID]
    declared_at: Mapped[datetime]
    confirmed_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    confirmed_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("(confirmed_by IS NULL) = (confirmed_at IS NULL)", name="confirmed"),
        sa.CheckConstraint("confirmed_by <> declared_by", name="confirmed_by_another"),
    )


# Evidence and assessment


class ApplicationEvidence(Base):
    """A file that shows something about one item. What was submitted is not deleted but marked removed."""

    __tablename__ = "application_evidence"

    application_id: Mapped[UUID] = mapped_column(sa.ForeignKey("application.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    item_code: Mapped[str] = mapped_column(sa.String(20))
    position: Mapped[int] = mapped_column(sa.SmallInteger)  # among the item's standing files; the place is the limit
    file_id: Mapped[UUID] = mapped_column(sa.ForeignKey(StoredFile.id), unique=True)
    note: Mapped[str] = mapped_column(sa.String(REASON_LENGTH_MAX), server_default="")
    added_by: Mapped[UUID]
    added_at: Mapped[datetime]
    removed_by: Mapped[UUID | None]
    removed_at: Mapped[datetime | None]

    __table_args__ = (
        sa.Index(
            "application_evidence_item_key",
            "application_id",
            "item_code",
            "position",
            unique=True,
            postgresql_where=sa.text("removed_at IS NULL"),
        ),
        sa.CheckConstraint(f"position BETWEEN 1 AND {FILES_PER_ITEM_MAX}", name="position"),
        sa.CheckConstraint("(removed_by IS NULL) = (removed_at IS NULL)", name="removed"),
    )


class LiveFigure(Base):
    """A figure of the system as it was when the application was submitted, with its period and its definition.

    A resubmission takes the figure anew: `submission` counts the submissions, and the newest counts.
    """

    __tablename__ = "live_figure"

    application_id: Mapped[UUID] = mapped_column(sa.ForeignKey("application.id"), primary_key=True)
    submission: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    item_code: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    measure: Mapped[LiveMeasure] = mapped_column(choice(LiveMeasure, "measure"))
    value: Mapped[Decimal | None] = mapped_column(sa.Numeric(14, 2))  # None: there is nothing to compute it from
    numerator: Mapped[int | None]
    denominator: Mapped[int | None]
    unit: Mapped[str] = mapped_column(sa.String(20))
    period_starts_on: Mapped[date]
    period_ends_on: Mapped[date]
    definition_zh: Mapped[str] = mapped_column(sa.String(300))
    definition_en: Mapped[str] = mapped_column(sa.String(500))
    frozen_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("submission >= 1", name="submission"),
        sa.CheckConstraint("period_ends_on >= period_starts_on", name="period"),
        sa.CheckConstraint("value >= 0 AND numerator >= 0 AND denominator >= 0", name="not_negative"),
    )


class Assessment(Base):
    """One assessor's own marks of one application. Seats 1 and 2 are always taken, seat 3 when the two differ.

    Once submitted, neither it nor its marks change.
    """

    __tablename__ = "assessment"

    application_id: Mapped[UUID] = mapped_column(sa.ForeignKey("application.id"), primary_key=True)
    staff_id: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"), primary_key=True)
    seat: Mapped[int] = mapped_column(sa.SmallInteger)
    assigned_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    assigned_at: Mapped[datetime]
    submitted_at: Mapped[datetime | None]
    total: Mapped[Decimal | None] = mapped_column(sa.Numeric(8, 2))  # points over all items
    must_meet_failed: Mapped[list[str] | None]  # codes of must-meet items not met, sorted; empty when all are
    comment: Mapped[str] = mapped_column(sa.String(TEXT_LENGTH_MAX), server_default="")
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")

    __table_args__ = (
        sa.UniqueConstraint("application_id", "seat"),
        sa.Index("assessment_staff_id_ix", "staff_id", "application_id"),
        sa.CheckConstraint("seat BETWEEN 1 AND 3", name="seat"),
        sa.CheckConstraint("assigned_by <> staff_id", name="assigned_by_another"),
        sa.CheckConstraint("total >= 0", name="total"),
        sa.CheckConstraint(
            "(submitted_at IS NULL) = (total IS NULL) AND (total IS NULL) = (must_meet_failed IS NULL)",
            name="submitted",
        ),
    )


class AssessmentMark(Base):
    """One assessor's mark of one item: the value as the item's type reads it."""

    __tablename__ = "assessment_mark"

    application_id: Mapped[UUID] = mapped_column(primary_key=True)
    staff_id: Mapped[UUID] = mapped_column(primary_key=True)
    item_code: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    value: Mapped[Decimal] = mapped_column(sa.Numeric(12, 2))
    comment: Mapped[str] = mapped_column(sa.String(REASON_LENGTH_MAX), server_default="")
    marked_at: Mapped[datetime]

    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["application_id", "staff_id"], ["assessment.application_id", "assessment.staff_id"], ondelete="CASCADE"
        ),
        sa.CheckConstraint("value >= 0", name="value"),
    )


class AssessorConflict(Base):
    """A member of staff's declared tie to a community or an organisation: they assess none of its applications."""

    __tablename__ = "assessor_conflict"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    staff_id: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"), index=True)
    division: Mapped[str | None] = mapped_column(sa.String(12), sa.ForeignKey("division.code"))
    organisation_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("organisation.id"))
    reason: Mapped[str] = mapped_column(sa.String(REASON_LENGTH_MAX))
    declared_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    declared_at: Mapped[datetime]
    ended_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        sa.Index(
            "assessor_conflict_division_key",
            "staff_id",
            "division",
            unique=True,
            postgresql_where=sa.text("ended_at IS NULL AND division IS NOT NULL"),
        ),
        sa.Index(
            "assessor_conflict_organisation_key",
            "staff_id",
            "organisation_id",
            unique=True,
            postgresql_where=sa.text("ended_at IS NULL AND organisation_id IS NOT NULL"),
        ),
        sa.CheckConstraint("(division IS NULL) <> (organisation_id IS NULL)", name="one_tie"),
        sa.CheckConstraint("reason <> ''", name="reason"),
        sa.CheckConstraint("ended_at >= declared_at", name="ended_after_declared"),
        sa.CheckConstraint("(ended_by IS NULL) = (ended_at IS NULL)", name="ended"),
        # Declaring is for everybody; that a tie is over is for another person to find.
        sa.CheckConstraint("ended_by <> staff_id", name="ended_by_another"),
    )


class SiteVisit(Base):
    """Two or more people on the spot: when, who, and what they found."""

    __tablename__ = "site_visit"

    application_id: Mapped[UUID] = mapped_column(sa.ForeignKey("application.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    visited_on: Mapped[date]
    people: Mapped[list[str]]  # names, as they sign
    findings: Mapped[str] = mapped_column(sa.String(TEXT_LENGTH_MAX))
    recorded_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    recorded_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint(
            f"cardinality(people) BETWEEN 2 AND {VISITORS_MAX} AND people[1] <> people[2]", name="people"
        ),
        sa.CheckConstraint("findings <> ''", name="findings"),
    )


class SiteVisitPhoto(Base):
    """A photograph of a visit."""

    __tablename__ = "site_visit_photo"

    application_id: Mapped[UUID] = mapped_column(primary_key=True)
    visit_id: Mapped[UUID] = mapped_column(primary_key=True)
    file_id: Mapped[UUID] = mapped_column(sa.ForeignKey(StoredFile.id), primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger)  # the place is the limit
    caption: Mapped[str] = mapped_column(sa.String(120), server_default="")

    __table_args__ = (
        sa.ForeignKeyConstraint(["application_id", "visit_id"], ["site_visit.application_id", "site_visit.id"]),
        sa.UniqueConstraint("file_id"),
        sa.UniqueConstraint("application_id", "visit_id", "position"),
        sa.CheckConstraint(f"position BETWEEN 1 AND {PHOTOS_PER_VISIT_MAX}", name="position"),
    )


# Public notice, objections, naming


class PublicNotice(Base):
    """The public notice (公示) of one application, from the day of publishing to `last_on`, both included.

    The day of publishing does not count (Civil Code, article 201), so `days` whole days follow it.
    """

    __tablename__ = "public_notice"

    application_id: Mapped[UUID] = mapped_column(sa.ForeignKey("application.id"), primary_key=True)
    published_on: Mapped[date]
    days: Mapped[int] = mapped_column(sa.SmallInteger)
    last_on: Mapped[date] = mapped_column(index=True)
    score: Mapped[Decimal] = mapped_column(sa.Numeric(8, 2))  # the outcome that is published
    maximum: Mapped[int] = mapped_column(sa.Integer)
    published_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    published_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("days BETWEEN 1 AND 60 AND last_on = published_on + days", name="span"),
        sa.CheckConstraint("ended_at > published_at", name="ended_after_published"),
    )


class Objection(Base):
    """Somebody's objection to an application under notice, answered once and then closed to change.

    Who objects signs nothing in: the receipt, of which only a hash is kept, is their way back.
    """

    __tablename__ = "objection"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    application_id: Mapped[UUID] = mapped_column(sa.ForeignKey("application.id"), index=True)
    receipt_hash: Mapped[bytes] = mapped_column(sa.LargeBinary(32), unique=True)
    text: Mapped[str] = mapped_column(sa.String(TEXT_LENGTH_MAX))
    contact_sealed: Mapped[bytes | None]
    made_at: Mapped[datetime]
    answer: Mapped[str | None] = mapped_column(sa.String(TEXT_LENGTH_MAX))
    upheld: Mapped[bool | None]
    answered_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    answered_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("text <> ''", name="text"),
        sa.CheckConstraint("octet_length(contact_sealed) <= 1000", name="contact_length"),
        sa.CheckConstraint("octet_length(receipt_hash) = 32", name="receipt_hash"),
        sa.CheckConstraint(
            "num_nonnulls(answer, upheld, answered_by, answered_at) IN (0, 4) AND answer <> ''", name="answered"
        ),
    )


class ObjectionFile(Base):
    """A file that an objector added, at most three."""

    __tablename__ = "objection_file"

    objection_id: Mapped[UUID] = mapped_column(sa.ForeignKey("objection.id"), primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    file_id: Mapped[UUID] = mapped_column(sa.ForeignKey(StoredFile.id), unique=True)

    __table_args__ = (sa.CheckConstraint("position BETWEEN 1 AND 3", name="position"),)


class Naming(Base):
    """One line of the public register: who was named what, under which number, until when.

    Inserted only over two assessments (three if the two differ), an ended notice and answered objections, none upheld:
    a trigger holds that whatever the code says. Whether the name still stands is the application's state.
    """

    __tablename__ = "naming"

    application_id: Mapped[UUID] = mapped_column(sa.ForeignKey("application.id"), primary_key=True)
    number: Mapped[str] = mapped_column(sa.String(30), unique=True)
    named_on: Mapped[date]
    plaque_on: Mapped[date | None]
    valid_until: Mapped[date]
    recheck_due_on: Mapped[date | None] = mapped_column(index=True)  # None once withdrawn
    grace_until: Mapped[date | None]
    withdrawn_on: Mapped[date | None]
    named_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    named_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("number ~ '^[0-9]{6}-[A-Z]{2,4}-[0-9]{4}-[0-9]{4,6}$'", name="number"),
        sa.CheckConstraint("plaque_on >= named_on", name="plaque_on"),
        sa.CheckConstraint("valid_until > named_on", name="valid_until"),
        sa.CheckConstraint("grace_until > named_on", name="grace_until"),
        sa.CheckConstraint(
            "withdrawn_on IS NULL OR withdrawn_on >= named_on AND recheck_due_on IS NULL", name="withdrawn_on"
        ),
    )


class NamingSerial(Base):
    """The last number given in a programme and year; counted up in the naming's own transaction, so without gaps."""

    __tablename__ = "naming_serial"

    programme_code: Mapped[str] = mapped_column(sa.ForeignKey("programme.code"), primary_key=True)
    year: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    last: Mapped[int] = mapped_column(sa.Integer)

    __table_args__ = (sa.CheckConstraint("last BETWEEN 1 AND 999999", name="last"),)


class Recheck(Base):
    """One re-check (复查) of a named subject: what was found, before it is decided what follows."""

    __tablename__ = "recheck"

    application_id: Mapped[UUID] = mapped_column(sa.ForeignKey("application.id"), primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)  # from 1
    began_on: Mapped[date]
    visited_on: Mapped[date | None]
    people: Mapped[list[str] | None]
    findings: Mapped[str | None] = mapped_column(sa.String(TEXT_LENGTH_MAX))
    recorded_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    recorded_at: Mapped[datetime | None]
    result: Mapped[Move | None] = mapped_column(choice(Move, "result"))

    __table_args__ = (
        sa.CheckConstraint("position >= 1", name="position"),
        sa.CheckConstraint(
            "num_nonnulls(visited_on, people, findings, recorded_by, recorded_at) IN (0, 5)", name="recorded"
        ),
        sa.CheckConstraint("cardinality(people) BETWEEN 2 AND 10 AND findings <> ''", name="people"),
        sa.CheckConstraint("visited_on >= began_on", name="visited_on"),
        sa.CheckConstraint(
            "result IS NULL OR result IN ('retain', 'give-grace', 'withdraw') AND recorded_at IS NOT NULL",
            name="result_of_findings",
        ),
    )
