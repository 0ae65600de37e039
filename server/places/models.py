"""Places: divisions with official codes, organisations inside communities, and theme days."""

import enum
from datetime import date
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice


class DivisionLevel(enum.StrEnum):
    """How large a division is; its official code has 6, 9 or 12 digits accordingly."""

    DISTRICT = "district"
    STREET = "street"
    COMMUNITY = "community"


class OrganisationKind(enum.StrEnum):
    """What kind of organisation takes part (the objects of the creation programmes)."""

    SCHOOL = "school"
    AGENCY = "agency"
    MALL = "mall"
    ENTERPRISE = "enterprise"


class AgencyRank(enum.StrEnum):
    """The administrative rank of an agency; the plan asks something of 处级 and above."""

    SECTION = "section"  # 科级
    COUNTY = "county"  # 处级
    BUREAU = "bureau"  # 局级


class Confidence(enum.StrEnum):
    """How far a published fact can be trusted. What is not VERIFIED is never shown without its mark."""

    VERIFIED = "V"  # read in the source named
    SECONDARY = "V2"  # read only in a weak secondary source
    COMPUTED = "C"  # computed from verified numbers
    RECALLED = "R"  # general knowledge, not checked


class Division(Base):
    """A district, street or community by its official statistical code.

    It is valid from `valid_from` to `valid_to`, both included; the set changes between editions and nothing is deleted,
    for activities of earlier years still name what was there then. A `valid_to` one day before `valid_from` marks a
    division that its own edition, corrected, no longer lists: it was valid on no day.
    """

    __tablename__ = "division"

    code: Mapped[str] = mapped_column(sa.String(12), primary_key=True)
    level: Mapped[DivisionLevel] = mapped_column(choice(DivisionLevel, "level"))
    name: Mapped[str] = mapped_column(sa.String(60))
    parent_code: Mapped[str | None] = mapped_column(sa.String(12), sa.ForeignKey("division.code"), index=True)
    edition_on: Mapped[date]  # the newest edition of the official codes that lists it
    valid_from: Mapped[date]
    valid_to: Mapped[date | None]

    __table_args__ = (
        sa.CheckConstraint("code ~ '^([0-9]{6}|[0-9]{9}|[0-9]{12})$'", name="code"),
        sa.CheckConstraint(
            "length(code) = CASE level WHEN 'district' THEN 6 WHEN 'street' THEN 9 ELSE 12 END", name="code_of_level"
        ),
        # A district's own parent is not stored: the service is run by districts.
        sa.CheckConstraint(
            "CASE level WHEN 'district' THEN parent_code IS NULL"
            " ELSE parent_code IS NOT NULL AND parent_code = left(code, length(code) - 3) END",
            name="parent",
        ),
        sa.CheckConstraint("name <> ''", name="name"),
        sa.CheckConstraint("valid_to >= valid_from - 1", name="validity"),
    )


class Organisation(Base):
    """A school, agency, mall or enterprise inside a community, from `valid_from` to `valid_to`, both included.

    The floor area of malls and the rank of agencies say which of them a target of the creation programmes counts.
    """

    __tablename__ = "organisation"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[OrganisationKind] = mapped_column(choice(OrganisationKind, "kind"))
    name: Mapped[str] = mapped_column(sa.String(60))
    community_code: Mapped[str] = mapped_column(sa.String(12), sa.ForeignKey("division.code"))
    floor_area_m2: Mapped[int | None] = mapped_column(sa.Integer)
    agency_rank: Mapped[AgencyRank | None] = mapped_column(choice(AgencyRank, "agency_rank"))
    version: Mapped[int] = mapped_column(sa.Integer, server_default="1")
    valid_from: Mapped[date]
    valid_to: Mapped[date | None]

    __table_args__ = (
        sa.UniqueConstraint("community_code", "name"),
        sa.CheckConstraint("community_code ~ '^[0-9]{12}$'", name="community"),
        sa.CheckConstraint("btrim(name) <> ''", name="name"),
        sa.CheckConstraint("valid_to >= valid_from", name="validity"),
        sa.CheckConstraint(
            "floor_area_m2 IS NULL OR kind = 'mall' AND floor_area_m2 BETWEEN 1 AND 10000000", name="floor_area_m2"
        ),
        sa.CheckConstraint("agency_rank IS NULL OR kind = 'agency'", name="agency_rank_of_agency"),
    )


class ThemeDay(Base):
    """A day, week or month of the year's public calendar, both ends included.

    Days that are announced every year are rows of their own once announced, and never computed.
    """

    __tablename__ = "theme_day"

    code: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    year: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    starts_on: Mapped[date]
    ends_on: Mapped[date]
    name_zh: Mapped[str] = mapped_column(sa.String(60))
    name_en: Mapped[str] = mapped_column(sa.String(60))
    theme: Mapped[str | None] = mapped_column(sa.String(120))
    source: Mapped[str] = mapped_column(sa.String(120))
    confidence: Mapped[Confidence] = mapped_column(choice(Confidence, "confidence"))

    __table_args__ = (
        sa.CheckConstraint("code ~ '^[a-z][a-z0-9-]*$'", name="code"),
        sa.CheckConstraint("extract(year FROM starts_on) = year", name="year"),
        sa.CheckConstraint("ends_on >= starts_on", name="order"),
        sa.CheckConstraint("source <> ''", name="source"),
    )
