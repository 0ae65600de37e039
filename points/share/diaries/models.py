"""Own travel diaries: a round of invitations, and one day's trips of each resident who answers.

What a person answered lives here only until some days after the round is closed. What stays of a round is its wave of
the survey tables, whose keys lead back to nobody, and the counts of its cells.
"""

import enum
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice

DRAWN_MAX = 20_000
PERIOD_DAYS_MAX = 92
ANSWER_DAYS_MAX = 7
KEPT_DAYS_MAX = 180
REWARD_POINTS_MAX = 500
REMINDERS_MAX = 5
AGE_BANDS_MAX = 12
SEED_MAX = 2**53 - 1  # what every reader of JSON can hold

TRIPS_MAX = 40
LEGS_MAX = 10
DISTANCE_M_MAX = 2_000_000
DAY_MINUTES = 1440
# Under fourteen only with a guardian's consent (PIPL 31), and there is no guardian's account to give it.
AGE_INVITED_MIN = 14


class RoundState(enum.StrEnum):
    """The life of a round."""

    PLANNED = "planned"
    OPEN = "open"
    CLOSED = "closed"
    DISCARDED = "discarded"


class InvitationState(enum.StrEnum):
    """What became of an invitation."""

    INVITED = "invited"
    REMINDED = "reminded"
    ANSWERED = "answered"
    DECLINED = "declined"
    EXPIRED = "expired"


class TripPurpose(enum.StrEnum):
    """Where a trip led to."""

    HOME = "home"
    WORK = "work"
    SCHOOL = "school"
    BUSINESS = "business"
    SHOPPING = "shopping"
    MEDICAL = "medical"
    ESCORT = "escort"
    LEISURE = "leisure"
    OTHER = "other"


class Sex(enum.StrEnum):
    """As census tables count it."""

    MALE = "male"
    FEMALE = "female"


class HouseholdCars(enum.StrEnum):
    """Cars that the household has the use of."""

    NONE = "0"
    ONE = "1"
    MORE = "2+"


class DiaryRound(Base):
    """One round: who plans it does not open it. Its terms stand from the opening on, by a trigger.

    Each person drawn has one day from `first_on` to `last_on`, and `answer_days` days after it to answer. `age_bands`
    are the youngest ages of the bands. `sample_size` is shared out in proportion to the frame; None: each cell says its
    own size. The machine makes the `seed` at the opening: nobody chooses a sample. `frame` counts who could be drawn
    and who could not, and why.
    """

    __tablename__ = "diary_round"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    division: Mapped[str] = mapped_column(sa.String(12), sa.ForeignKey("division.code"))
    code: Mapped[str] = mapped_column(sa.String(40), unique=True)  # also of the wave that it becomes
    name: Mapped[str] = mapped_column(sa.String(80))
    definition_id: Mapped[str] = mapped_column(sa.String(60), sa.ForeignKey("share_definition.id"))
    first_on: Mapped[date]
    last_on: Mapped[date]
    answer_days: Mapped[int] = mapped_column(sa.SmallInteger)
    closes_on: Mapped[date]  # no answers from this day on
    kept_days: Mapped[int] = mapped_column(sa.SmallInteger)  # after the closing
    age_bands: Mapped[list[int]] = mapped_column(sa.ARRAY(sa.Integer))
    sample_size: Mapped[int | None] = mapped_column(sa.Integer)
    reward_points: Mapped[int] = mapped_column(sa.Integer)
    reminder_days: Mapped[list[int]] = mapped_column(sa.ARRAY(sa.Integer))  # relative to the person's day
    state: Mapped[RoundState] = mapped_column(choice(RoundState, "state"))
    planned_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    planned_at: Mapped[datetime]
    opened_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    opened_at: Mapped[datetime | None]
    seed: Mapped[int | None]
    frame: Mapped[dict[str, Any]] = mapped_column(server_default=sa.text("'{}'"))
    drawn: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    account_id: Mapped[int | None] = mapped_column(sa.Integer, sa.ForeignKey("system_account.id"))
    closed_at: Mapped[datetime | None]
    wave_id: Mapped[UUID | None] = mapped_column(sa.ForeignKey("survey_wave.id"))
    forgotten_at: Mapped[datetime | None]  # when the rows about people were deleted

    __table_args__ = (
        sa.CheckConstraint("division ~ '^[0-9]{6}$'", name="division"),
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9-]*$'", name="code"),
        sa.CheckConstraint("name <> ''", name="name"),
        sa.CheckConstraint(
            f"last_on BETWEEN first_on AND first_on + {PERIOD_DAYS_MAX - 1}"
            " AND extract(year FROM first_on) = extract(year FROM last_on)",
            name="period",
        ),
        sa.CheckConstraint(f"answer_days BETWEEN 1 AND {ANSWER_DAYS_MAX}", name="answer_days"),
        sa.CheckConstraint("closes_on BETWEEN last_on + answer_days + 1 AND last_on + 60", name="closes_on"),
        sa.CheckConstraint(f"kept_days BETWEEN 1 AND {KEPT_DAYS_MAX}", name="kept_days"),
        sa.CheckConstraint(
            f"cardinality(age_bands) BETWEEN 1 AND {AGE_BANDS_MAX}"
            f" AND age_bands[1] >= {AGE_INVITED_MIN} AND 120 >= ALL (age_bands)",
            name="age_bands",
        ),
        sa.CheckConstraint(f"sample_size BETWEEN 1 AND {DRAWN_MAX}", name="sample_size"),
        sa.CheckConstraint(f"drawn BETWEEN 0 AND {DRAWN_MAX}", name="drawn"),
        sa.CheckConstraint(f"reward_points BETWEEN 1 AND {REWARD_POINTS_MAX}", name="reward_points"),
        sa.CheckConstraint(
            f"cardinality(reminder_days) <= {REMINDERS_MAX} AND -7 <= ALL (reminder_days)"
            f" AND {ANSWER_DAYS_MAX} >= ALL (reminder_days)",
            name="reminder_days",
        ),
        sa.CheckConstraint(f"seed BETWEEN 0 AND {SEED_MAX}", name="seed"),
        sa.CheckConstraint("jsonb_typeof(frame) = 'object' AND octet_length(frame::text) <= 1000", name="frame"),
        sa.CheckConstraint("opened_by <> planned_by", name="four_eyes"),
        sa.CheckConstraint(
            "num_nonnulls(opened_by, opened_at, seed, account_id)"
            " = CASE WHEN state IN ('planned', 'discarded') THEN 0 ELSE 4 END",
            name="opened",
        ),
        sa.CheckConstraint(
            "num_nonnulls(closed_at, wave_id) = CASE WHEN state = 'closed' THEN 2 ELSE 0 END", name="closed"
        ),
        sa.CheckConstraint("forgotten_at >= closed_at", name="forgotten"),
        sa.CheckConstraint("forgotten_at IS NULL OR state = 'closed'", name="forgotten_when_closed"),
        sa.Index("diary_round_division_ix", "division", "id"),
    )


class DiaryCell(Base):
    """One street's people of one age band. `planned` is the size that was asked for, None when shared out.

    `frame_count` are those who could be drawn, `drawn` those who were; the outcomes are counted at the closing, before
    the rows about people go.
    """

    __tablename__ = "diary_cell"

    round_id: Mapped[UUID] = mapped_column(sa.ForeignKey("diary_round.id"), primary_key=True)
    street_code: Mapped[str] = mapped_column(sa.String(9), primary_key=True)
    age_band: Mapped[str] = mapped_column(sa.String(10), primary_key=True)
    planned: Mapped[int | None] = mapped_column(sa.Integer)
    frame_count: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    drawn: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    answered: Mapped[int | None] = mapped_column(sa.Integer)
    declined: Mapped[int | None] = mapped_column(sa.Integer)
    expired: Mapped[int | None] = mapped_column(sa.Integer)

    __table_args__ = (
        sa.CheckConstraint("street_code ~ '^[0-9]{9}$'", name="street_code"),
        sa.CheckConstraint("age_band ~ '^[0-9]{1,3}(-[0-9]{1,3}|\\+)$'", name="age_band"),
        sa.CheckConstraint(f"planned BETWEEN 0 AND {DRAWN_MAX}", name="planned"),
        sa.CheckConstraint("drawn BETWEEN 0 AND frame_count", name="drawn"),
        sa.CheckConstraint("least(answered, declined, expired) >= 0", name="not_negative"),
        sa.CheckConstraint("answered + declined + expired = drawn", name="outcomes"),
        sa.CheckConstraint("num_nonnulls(answered, declined, expired) IN (0, 3)", name="outcomes_whole"),
    )


class DiaryInvitation(Base):
    """One resident asked about one day. Answered without trips: the person stayed where they were, which is an answer.

    `weight` is the cell's frame ÷ drawn. `transfer_id` is the reward's, set once and by the first answer, whatever it
    says. The code lets staff write for somebody who cannot; only its keyed hash is kept. What census tables count
    people by and the profile does not know is asked with the diary, and may be left out.
    """

    __tablename__ = "diary_invitation"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    round_id: Mapped[UUID] = mapped_column(sa.ForeignKey("diary_round.id"), primary_key=True)
    community_code: Mapped[str] = mapped_column(sa.String(12))
    street_code: Mapped[str] = mapped_column(sa.String(9))
    age_band: Mapped[str] = mapped_column(sa.String(10))
    day: Mapped[date]
    weight: Mapped[float] = mapped_column(sa.Double)
    code_hash: Mapped[bytes] = mapped_column(unique=True)
    state: Mapped[InvitationState] = mapped_column(choice(InvitationState, "state"))
    told_at: Mapped[datetime | None]
    reminded_day: Mapped[int | None] = mapped_column(sa.SmallInteger)  # the last reminder, relative to the day
    sex: Mapped[Sex | None] = mapped_column(choice(Sex, "sex"))
    household_cars: Mapped[HouseholdCars | None] = mapped_column(choice(HouseholdCars, "household_cars"))
    text_version: Mapped[str | None] = mapped_column(sa.String(20))  # what the person was told before answering
    answered_at: Mapped[datetime | None]
    changed_at: Mapped[datetime | None]
    recorded_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))  # staff who wrote the answer down
    transfer_id: Mapped[UUID | None]

    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["round_id", "street_code", "age_band"],
            ["diary_cell.round_id", "diary_cell.street_code", "diary_cell.age_band"],
        ),
        sa.CheckConstraint("community_code ~ '^[0-9]{12}$' AND starts_with(community_code, street_code)", name="place"),
        sa.CheckConstraint("weight >= 1", name="weight"),
        sa.CheckConstraint("octet_length(code_hash) = 32", name="code_hash"),
        sa.CheckConstraint("state <> 'answered' OR answered_at IS NOT NULL", name="answered"),
        sa.CheckConstraint("(answered_at IS NULL) = (transfer_id IS NULL)", name="paid"),
        sa.CheckConstraint("changed_at >= answered_at", name="changed"),
        sa.Index("diary_invitation_round_ix", "round_id", "street_code", "age_band"),
        sa.Index("diary_invitation_recorded_ix", "recorded_by", "changed_at"),
    )


class DiaryTrip(Base):
    """One trip that began on the person's day, in minutes from that day's midnight; `legs` are modes in their order."""

    __tablename__ = "diary_trip"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    round_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    started_minute: Mapped[int] = mapped_column(sa.Integer)
    ended_minute: Mapped[int] = mapped_column(sa.Integer)
    purpose: Mapped[TripPurpose] = mapped_column(choice(TripPurpose, "purpose"))
    legs: Mapped[list[str]]
    distance_m: Mapped[int | None] = mapped_column(sa.Integer)

    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["resident_id", "round_id"],
            ["diary_invitation.resident_id", "diary_invitation.round_id"],
            ondelete="CASCADE",
        ),
        ExcludeConstraint(
            ("resident_id", "="),
            ("round_id", "="),
            (sa.text("int4range(started_minute, ended_minute)"), "&&"),
            name="diary_trip_no_overlap_excl",
            using="gist",
        ),
        sa.CheckConstraint(f"position BETWEEN 1 AND {TRIPS_MAX}", name="position"),
        sa.CheckConstraint(f"started_minute BETWEEN 0 AND {DAY_MINUTES - 1}", name="started_minute"),
        sa.CheckConstraint(
            f"ended_minute > started_minute AND ended_minute <= started_minute + {DAY_MINUTES}", name="ended_minute"
        ),
        sa.CheckConstraint(
            f"cardinality(legs) BETWEEN 1 AND {LEGS_MAX} AND octet_length(legs::text) <= 500", name="legs"
        ),
        sa.CheckConstraint(f"distance_m BETWEEN 0 AND {DISTANCE_M_MAX}", name="distance_m"),
    )
