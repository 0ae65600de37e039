"""Campaigns, what they ask for and promise, who takes part, and in which team."""

import enum
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from server.database import Base, choice


class CampaignState(enum.StrEnum):
    """The life of a campaign."""

    DRAFT = "draft"
    OPEN = "open"  # as the release before wrote it; the clock turns it into published or running
    PUBLISHED = "published"
    RUNNING = "running"
    SETTLING = "settling"
    CLOSED = "closed"
    CANCELLED = "cancelled"


class CampaignKind(enum.StrEnum):
    """What a campaign is about; it gives defaults (campaigns.drives.kinds) and no behaviour."""

    CHALLENGE = "challenge"
    THEME_DAY = "theme-day"
    VOLUNTEER = "volunteer"
    TREE_PLANTING = "tree-planting"
    CLEAN_PLATE = "clean-plate"  # 光盘行动
    GREEN_SCHOOL = "green-school"
    SECOND_HAND = "second-hand"


class Audience(enum.StrEnum):
    """For whom a campaign is: those who live in its place, or the members of its organisation."""

    HOME = "home"
    MEMBERS = "members"


class TeamKind(enum.StrEnum):
    """What a team is; for people to read."""

    CLASS = "class"
    BUILDING = "building"
    HOUSEHOLD = "household"
    WORKPLACE = "workplace"


class RewardMode(enum.StrEnum):
    """When completed tasks are paid: all at the end, or each when it is done and claimed."""

    AT_SETTLEMENT = "at-settlement"
    ON_COMPLETION = "on-completion"


class TaskKind(enum.StrEnum):
    """Where the progress of a task comes from."""

    BEHAVIOUR = "behaviour"
    CHECK_IN = "check-in"
    VOLUNTEER = "volunteer"
    QUIZ = "quiz"
    EVIDENCE = "evidence"


class TaskSubject(enum.StrEnum):
    """Who must reach the target: each person, or the members of a team together."""

    PERSON = "person"
    TEAM = "team"


class TargetMeasure(enum.StrEnum):
    """What the target of a behaviour task counts."""

    ACTIVITIES = "activities"
    DISTANCE_M = "distance_m"
    WEIGHT_G = "weight_g"
    SAVED_CO2E_MG = "saved_co2e_mg"
    POINTS = "points"


TEAM_SIZE_MAX = 500
TASKS_MAX = 20
QUESTIONS_MAX = 20
QUESTIONS_BYTES_MAX = 65_536
ATTEMPTS_MAX = 10
TARGET_MAX = 1_000_000_000_000
REWARD_POINTS_MAX = 10_000

_BEHAVIOURS = (
    "behaviours <@ ARRAY['walk', 'bicycle', 'e-bike', 'bus', 'metro', 'sorting', 'recycling'] "
    "AND cardinality(behaviours) > 0"
)


class Campaign(Base):
    """A call to act between two days, both included, in one place; what it asks for are its tasks.

    `behaviours`, `measure`, `target` and `opened_at` are columns of the release before, which knew one behaviour target
    and no tasks; nothing here writes them, and a later release drops them.
    """

    __tablename__ = "campaign"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[CampaignKind] = mapped_column(choice(CampaignKind, "kind"), server_default="challenge")
    title: Mapped[str] = mapped_column(sa.String(60))
    description: Mapped[str] = mapped_column(sa.String(1000), server_default="")
    division: Mapped[str] = mapped_column(sa.String(12), sa.ForeignKey("division.code"), index=True)
    organisation_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("organisation.id"), index=True)
    theme_day_code: Mapped[str | None] = mapped_column(sa.String(40))
    theme_day_year: Mapped[int | None] = mapped_column(sa.SmallInteger)
    audience: Mapped[Audience] = mapped_column(choice(Audience, "audience"), server_default="home")
    age_min: Mapped[int | None] = mapped_column(sa.SmallInteger)  # years reached in the year of the first day
    age_max: Mapped[int | None] = mapped_column(sa.SmallInteger)
    team_kind: Mapped[TeamKind | None] = mapped_column(choice(TeamKind, "team_kind"))
    team_size_min: Mapped[int | None] = mapped_column(sa.SmallInteger)  # smaller teams are marked, not refused
    team_size_max: Mapped[int | None] = mapped_column(sa.SmallInteger)
    starts_on: Mapped[date]
    ends_on: Mapped[date]
    joins_until: Mapped[date | None]  # None: until the last day
    reward_mode: Mapped[RewardMode] = mapped_column(choice(RewardMode, "reward_mode"), server_default="at-settlement")
    account_id: Mapped[int | None] = mapped_column(sa.Integer, unique=True)  # its budget in the ledger
    state: Mapped[CampaignState] = mapped_column(choice(CampaignState, "state"))
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")  # of the row, for edits
    terms_version: Mapped[int] = mapped_column(sa.Integer, server_default="0")  # of what was promised; 0: not yet
    created_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    created_at: Mapped[datetime]
    published_at: Mapped[datetime | None]
    running_at: Mapped[datetime | None]
    settling_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    behaviours: Mapped[list[str] | None]
    measure: Mapped[TargetMeasure | None] = mapped_column(choice(TargetMeasure, "measure"))
    target: Mapped[int | None]
    opened_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("ends_on >= starts_on AND ends_on <= starts_on + 366", name="span"),
        sa.CheckConstraint("joins_until <= ends_on", name="joins_until"),
        sa.CheckConstraint("target BETWEEN 1 AND 1000000000000", name="target"),
        sa.CheckConstraint(_BEHAVIOURS, name="behaviours"),
        sa.CheckConstraint(
            "state IN ('draft', 'cancelled') OR published_at IS NOT NULL OR opened_at IS NOT NULL", name="published_at"
        ),
        sa.CheckConstraint("state <> 'settling' OR settling_at IS NOT NULL", name="settling_at"),
        sa.CheckConstraint("audience <> 'members' OR organisation_id IS NOT NULL", name="members_of"),
        sa.CheckConstraint(
            "age_min BETWEEN 0 AND 120 AND age_max BETWEEN 0 AND 120 AND age_max >= age_min", name="age_band"
        ),
        sa.CheckConstraint(
            "(team_kind IS NULL) = (team_size_min IS NULL) AND (team_kind IS NULL) = (team_size_max IS NULL)",
            name="team",
        ),
        sa.CheckConstraint("team_size_min BETWEEN 1 AND team_size_max AND team_size_max <= 500", name="team_size"),
        sa.CheckConstraint("(theme_day_code IS NULL) = (theme_day_year IS NULL)", name="theme_day"),
        sa.CheckConstraint("terms_version >= 0", name="terms_version"),
        sa.ForeignKeyConstraint(["theme_day_code", "theme_day_year"], ["theme_day.code", "theme_day.year"]),
        sa.ForeignKeyConstraint(["account_id"], ["system_account.id"]),
    )


class CampaignTask(Base):
    """One thing that a campaign asks for, and what completing it is worth.

    The target is in the units of its kind: check-ins; minutes of volunteering; right answers of one attempt at a quiz
    (its pass mark); confirmed uploads; or the `measure` of its behaviours.
    """

    __tablename__ = "campaign_task"

    campaign_id: Mapped[UUID] = mapped_column(sa.ForeignKey("campaign.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger)
    kind: Mapped[TaskKind] = mapped_column(choice(TaskKind, "kind"))
    subject: Mapped[TaskSubject] = mapped_column(choice(TaskSubject, "subject"))
    title: Mapped[str] = mapped_column(sa.String(60))
    behaviours: Mapped[list[str] | None]
    measure: Mapped[TargetMeasure | None] = mapped_column(choice(TargetMeasure, "measure"))
    target: Mapped[int]
    # [{"text": …, "options": […], "right": [position, …]}]; `right` never leaves for a resident.
    questions: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    attempts_max: Mapped[int | None] = mapped_column(sa.SmallInteger)
    reward_points: Mapped[int] = mapped_column(sa.Integer, server_default="0")

    # The days that count are the campaign's, and no rule about a task does without them.
    campaign: Mapped[Campaign] = relationship(lazy="joined", innerjoin=True, viewonly=True)

    __table_args__ = (
        sa.UniqueConstraint("campaign_id", "position"),
        sa.CheckConstraint("position BETWEEN 1 AND 20", name="position"),
        sa.CheckConstraint("target BETWEEN 1 AND 1000000000000", name="target"),
        sa.CheckConstraint("reward_points BETWEEN 0 AND 10000", name="reward_points"),
        sa.CheckConstraint(
            "(kind = 'behaviour') = (behaviours IS NOT NULL) AND (kind = 'behaviour') = (measure IS NOT NULL)",
            name="behaviour",
        ),
        sa.CheckConstraint(_BEHAVIOURS, name="behaviours"),
        sa.CheckConstraint(
            "(kind = 'quiz') = (questions IS NOT NULL) AND (kind = 'quiz') = (attempts_max IS NOT NULL)", name="quiz"
        ),
        sa.CheckConstraint(
            "CASE WHEN questions IS NULL THEN true ELSE jsonb_typeof(questions) = 'array' "
            "AND jsonb_array_length(questions) BETWEEN 1 AND 20 AND target <= jsonb_array_length(questions) "
            "AND octet_length(questions::text) <= 65536 END",
            name="questions",
        ),
        sa.CheckConstraint("attempts_max BETWEEN 1 AND 10", name="attempts_max"),
    )


class CampaignVersion(Base):
    """What residents were promised, as it stood from one moment on; the first is what was published. Append-only."""

    __tablename__ = "campaign_version"

    campaign_id: Mapped[UUID] = mapped_column(sa.ForeignKey("campaign.id"), primary_key=True)
    version: Mapped[int] = mapped_column(sa.Integer, primary_key=True)
    terms: Mapped[dict[str, Any]]
    changed_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))  # None: the clock
    changed_at: Mapped[datetime]
    reason: Mapped[str] = mapped_column(sa.String(200))

    __table_args__ = (
        sa.CheckConstraint("version BETWEEN 1 AND 100", name="version"),
        sa.CheckConstraint("octet_length(terms::text) <= 262144", name="terms_length"),
    )


class Team(Base):
    """Residents who take part in one campaign together.

    `members` is a guarded counter, so that the last place is given once.
    """

    __tablename__ = "team"

    campaign_id: Mapped[UUID] = mapped_column(sa.ForeignKey("campaign.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40))
    captain_id: Mapped[UUID]
    join_code_hash: Mapped[bytes]
    members: Mapped[int] = mapped_column(sa.Integer)
    size_max: Mapped[int] = mapped_column(sa.SmallInteger)
    created_at: Mapped[datetime]

    __table_args__ = (
        sa.UniqueConstraint("campaign_id", "name"),
        sa.UniqueConstraint("campaign_id", "join_code_hash"),
        sa.CheckConstraint("members BETWEEN 0 AND size_max AND size_max BETWEEN 1 AND 500", name="members"),
        sa.CheckConstraint("octet_length(join_code_hash) = 32", name="join_code_hash"),
        sa.CheckConstraint("btrim(name) <> ''", name="name"),
    )


class Participation(Base):
    """A resident in a campaign, and perhaps in one of its teams. Progress is derived from their days, never stored."""

    __tablename__ = "participation"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    campaign_id: Mapped[UUID] = mapped_column(primary_key=True)
    community_code: Mapped[str] = mapped_column(sa.String(12))
    joined_at: Mapped[datetime]
    team_id: Mapped[UUID | None]

    __table_args__ = (
        sa.Index("participation_campaign_ix", "campaign_id", "community_code"),
        # Settlement and standings walk a campaign by resident, a team's page by team.
        sa.Index("participation_campaign_resident_ix", "campaign_id", "resident_id", postgresql_include=["team_id"]),
        sa.Index("participation_team_ix", "campaign_id", "team_id", postgresql_where="team_id IS NOT NULL"),
        # Who joined lately is what the counting job looks for; rows arrive in that order.
        sa.Index("participation_joined_at_brin", "joined_at", postgresql_using="brin"),
        sa.ForeignKeyConstraint(["campaign_id", "team_id"], ["team.campaign_id", "team.id"]),
    )
