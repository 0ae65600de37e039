"""Survey waves as they are kept: who was drawn, who answered, and all their trips of one day; margins and definitions.

Nobody can be named by these rows: no name, address or phone is stored, and keys of persons and households are counted
anew on import, for those of a file may be anything, an identity number too.
"""

import enum
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice
from server.places.models import Confidence

AGE_MAX = 120
LEGS_MAX = 10
TRIPS_PER_PERSON_MAX = 60
# An attribute is a category: street, age band, sex, cars of the household. Nothing finer helps a weight.
ATTRIBUTES_MAX = 20
ATTRIBUTE_NAME = "^[a-z][a-z0-9_]{0,39}$"
CATEGORY_LENGTH_MAX = 60


class WaveKind(enum.StrEnum):
    """How the people of a wave were found: drawn by a survey, or invited from the registered residents."""

    HOUSEHOLD_SURVEY = "household-survey"
    DIARY = "diary"


class WaveState(enum.StrEnum):
    """A wave takes rows only as a draft, inside the transaction that stores it, and loses them only when undone."""

    DRAFT = "draft"
    ACCEPTED = "accepted"
    UNDONE = "undone"


class ShareDefinition(Base):
    """One version of what counts as green travel. Immutable once loaded; its id stands beside every figure."""

    __tablename__ = "share_definition"

    id: Mapped[str] = mapped_column(sa.String(60), primary_key=True)
    valid_from: Mapped[date]
    content: Mapped[dict[str, Any]]
    content_sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))
    loaded_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("id ~ '^[a-z0-9][a-z0-9.-]*$'", name="id"),
        sa.CheckConstraint("octet_length(content_sha256) = 32", name="content_sha256"),
        sa.CheckConstraint(
            "jsonb_typeof(content) = 'object' AND octet_length(content::text) <= 100000", name="content"
        ),
    )


class SurveyWave(Base):
    """One survey, or one round of diaries, over some days; it counts to `year`.

    `frame` says which population the sample was drawn from. `files` are the names, sizes and SHA-256 of what was
    imported, `mapping` is how it was read. `locked`: a published release rests on it, and it can no longer be undone.
    A code may be used again once its wave is undone; the undone wave's row stays, its people and trips do not.
    """

    __tablename__ = "survey_wave"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(40))
    year: Mapped[int] = mapped_column(sa.SmallInteger)
    name: Mapped[str] = mapped_column(sa.String(120))
    kind: Mapped[WaveKind] = mapped_column(choice(WaveKind, "kind"))
    first_on: Mapped[date]
    last_on: Mapped[date]
    definition_id: Mapped[str] = mapped_column(sa.String(60), sa.ForeignKey("share_definition.id"))
    frame: Mapped[str] = mapped_column(sa.String(300))
    source: Mapped[str] = mapped_column(sa.String(300))
    confidence: Mapped[Confidence] = mapped_column(choice(Confidence, "confidence"))
    state: Mapped[WaveState] = mapped_column(choice(WaveState, "state"))
    locked: Mapped[bool] = mapped_column(server_default=sa.false())
    mapping: Mapped[dict[str, Any]]
    files: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    warnings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    attributes: Mapped[list[str]]  # the names that every person of the wave has a category for, '' where unknown
    households: Mapped[int] = mapped_column(sa.Integer)
    persons: Mapped[int] = mapped_column(sa.Integer)
    respondents: Mapped[int] = mapped_column(sa.Integer)
    trips: Mapped[int] = mapped_column(sa.Integer)
    seed: Mapped[int | None]  # what the sample was drawn with, where we drew it
    imported_by: Mapped[UUID | None]  # None: by an operator on the machine itself, or by a job
    imported_at: Mapped[datetime]
    undone_by: Mapped[UUID | None]
    undone_at: Mapped[datetime | None]

    __table_args__ = (
        sa.Index("survey_wave_code_key", "code", unique=True, postgresql_where=sa.text("state <> 'undone'")),
        sa.Index("survey_wave_year_ix", "year", "first_on"),
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9-]*$'", name="code"),
        sa.CheckConstraint("name <> '' AND source <> ''", name="source"),
        sa.CheckConstraint("last_on BETWEEN first_on AND first_on + 400", name="days"),
        sa.CheckConstraint("year BETWEEN extract(year FROM first_on) AND extract(year FROM last_on)", name="year"),
        sa.CheckConstraint("least(households, persons, trips) >= 0", name="not_negative"),
        sa.CheckConstraint("respondents BETWEEN 0 AND persons", name="respondents"),
        sa.CheckConstraint("(state = 'undone') = (undone_at IS NOT NULL)", name="undone"),
        sa.CheckConstraint("state = 'accepted' OR NOT locked", name="locked"),
        sa.CheckConstraint(f"cardinality(attributes) <= {ATTRIBUTES_MAX}", name="attributes"),
        sa.CheckConstraint(
            "octet_length(mapping::text) <= 200000 AND octet_length(files::text) <= 10000"
            " AND octet_length(warnings::text) <= 1000000",
            name="sizes",
        ),
    )


class SurveyHousehold(Base):
    """A household of a wave; what its people share stands with each of them too."""

    __tablename__ = "survey_household"

    wave_id: Mapped[UUID] = mapped_column(sa.ForeignKey("survey_wave.id"), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    street_code: Mapped[str | None] = mapped_column(sa.String(9))
    attributes: Mapped[dict[str, Any]]

    __table_args__ = (
        sa.CheckConstraint("street_code ~ '^[0-9]{9}$'", name="street_code"),
        sa.CheckConstraint(
            "jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 8000", name="attributes"
        ),
    )


class SurveyPerson(Base):
    """A person who was drawn. `base_weight` is one over the probability of it; `day` is the day that was asked about.

    Who was drawn and never reached is a row too, `responded` false and without trips. A respondent without trips
    stayed at home, which is an answer.
    """

    __tablename__ = "survey_person"

    wave_id: Mapped[UUID] = mapped_column(sa.ForeignKey("survey_wave.id"), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    household_key: Mapped[str | None] = mapped_column(sa.String(40))
    stratum: Mapped[str] = mapped_column(sa.String(CATEGORY_LENGTH_MAX))
    cluster: Mapped[str] = mapped_column(sa.String(40))
    street_code: Mapped[str | None] = mapped_column(sa.String(9))
    age: Mapped[int | None] = mapped_column(sa.SmallInteger)
    base_weight: Mapped[float] = mapped_column(sa.Double)
    responded: Mapped[bool]
    day: Mapped[date | None]
    attributes: Mapped[dict[str, Any]]

    __table_args__ = (
        sa.ForeignKeyConstraint(["wave_id", "household_key"], ["survey_household.wave_id", "survey_household.key"]),
        sa.Index("survey_person_household_ix", "wave_id", "household_key"),
        sa.CheckConstraint("street_code ~ '^[0-9]{9}$'", name="street_code"),
        sa.CheckConstraint(f"age BETWEEN 0 AND {AGE_MAX}", name="age"),
        sa.CheckConstraint("base_weight > 0 AND base_weight <= 1e9", name="base_weight"),
        sa.CheckConstraint(
            "jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 8000", name="attributes"
        ),
    )


class SurveyTrip(Base):
    """One trip of a respondent: its legs' modes in their order, and the main mode under the wave's definition.

    `started_minute` counts from the midnight that began the day; a day of a survey may end after the next.
    """

    __tablename__ = "survey_trip"

    wave_id: Mapped[UUID] = mapped_column(primary_key=True)
    person_key: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    position: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    main_mode: Mapped[str] = mapped_column(sa.String(40))
    legs: Mapped[list[str]]
    distance_m: Mapped[int | None] = mapped_column(sa.Integer)
    started_minute: Mapped[int | None] = mapped_column(sa.SmallInteger)
    purpose: Mapped[str | None] = mapped_column(sa.String(CATEGORY_LENGTH_MAX))

    __table_args__ = (
        sa.ForeignKeyConstraint(["wave_id", "person_key"], ["survey_person.wave_id", "survey_person.key"]),
        sa.CheckConstraint(f"position BETWEEN 1 AND {TRIPS_PER_PERSON_MAX}", name="position"),
        sa.CheckConstraint(
            f"cardinality(legs) BETWEEN 1 AND {LEGS_MAX} AND octet_length(legs::text) <= 500", name="legs"
        ),
        sa.CheckConstraint("main_mode = ANY (legs)", name="main_mode"),
        sa.CheckConstraint("distance_m BETWEEN 0 AND 2000000", name="distance_m"),
        sa.CheckConstraint("started_minute BETWEEN 0 AND 2879", name="started_minute"),
    )


class MarginSet(Base):
    """How many people of which population there are, by one source of one day: what a sample is weighted to.

    `age_min` is the youngest age that it counts. `locked`: a release rests on it, and it no longer changes.
    """

    __tablename__ = "margin_set"

    code: Mapped[str] = mapped_column(sa.String(60), primary_key=True)
    population: Mapped[str] = mapped_column(sa.String(200))
    source: Mapped[str] = mapped_column(sa.String(300))
    confidence: Mapped[Confidence] = mapped_column(choice(Confidence, "confidence"))
    as_of: Mapped[date]
    age_min: Mapped[int] = mapped_column(sa.SmallInteger)
    persons: Mapped[int]
    content_sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))
    locked: Mapped[bool] = mapped_column(server_default=sa.false())
    loaded_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9-]*$'", name="code"),
        sa.CheckConstraint("population <> '' AND source <> ''", name="source"),
        sa.CheckConstraint(f"age_min BETWEEN 0 AND {AGE_MAX}", name="age_min"),
        sa.CheckConstraint("persons BETWEEN 1 AND 2000000000", name="persons"),
        sa.CheckConstraint("octet_length(content_sha256) = 32", name="content_sha256"),
    )


class MarginCell(Base):
    """Persons of one category of one variable, or of several crossed ("age_band*sex", "6-17*male")."""

    __tablename__ = "margin_cell"

    set_code: Mapped[str] = mapped_column(sa.String(60), sa.ForeignKey("margin_set.code"), primary_key=True)
    variable: Mapped[str] = mapped_column(sa.String(130), primary_key=True)
    category: Mapped[str] = mapped_column(sa.String(190), primary_key=True)
    persons: Mapped[int]

    __table_args__ = (
        sa.CheckConstraint("variable <> '' AND category <> ''", name="category"),
        sa.CheckConstraint("persons BETWEEN 0 AND 2000000000", name="persons"),
    )
