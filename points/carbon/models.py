"""Carbon methods: how many micrograms of CO2e one metre or one gram saves, by whom said, and how sure that is."""

import enum
from datetime import date

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice
from server.places.models import Confidence


class MethodKind(enum.StrEnum):
    """What a method measures."""

    TRAVEL = "travel"
    RECYCLING = "recycling"


class FactorUnit(enum.StrEnum):
    """What one unit of the activity is."""

    METRE = "metre"
    GRAM = "gram"


class Method(Base):
    """One dated, sourced set of factors. Immutable once loaded: a correction is a new method.

    One method of each kind is the default; `valid_to`, its last day, is set when another one takes over. Days before
    that stay the old method's.
    """

    __tablename__ = "carbon_method"

    id: Mapped[str] = mapped_column(sa.String(60), primary_key=True)
    kind: Mapped[MethodKind] = mapped_column(choice(MethodKind, "kind"))
    title_zh: Mapped[str] = mapped_column(sa.String(100))
    title_en: Mapped[str] = mapped_column(sa.String(100))
    source: Mapped[str] = mapped_column(sa.String(300))
    confidence: Mapped[Confidence] = mapped_column(choice(Confidence, "confidence"))
    valid_from: Mapped[date]
    valid_to: Mapped[date | None]
    is_default: Mapped[bool]
    factor_count: Mapped[int] = mapped_column(sa.SmallInteger)  # so that the database can refuse a factor added later
    content_sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))

    __table_args__ = (
        sa.Index("carbon_method_default_key", "kind", unique=True, postgresql_where=sa.text("is_default")),
        sa.CheckConstraint("id ~ '^[a-z0-9][a-z0-9.-]*$'", name="id"),
        sa.CheckConstraint("source <> ''", name="source"),
        sa.CheckConstraint("valid_to >= valid_from - 1", name="validity"),
        sa.CheckConstraint("NOT (is_default AND valid_to IS NOT NULL)", name="default_in_force"),
        sa.CheckConstraint("factor_count > 0", name="factor_count"),
        sa.CheckConstraint("octet_length(content_sha256) = 32", name="content_sha256"),
    )


class Factor(Base):
    """What one unit of one travel mode or material saves under a method. A mode without a row saves nothing."""

    __tablename__ = "carbon_factor"

    method_id: Mapped[str] = mapped_column(sa.String(60), sa.ForeignKey("carbon_method.id"), primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    unit: Mapped[FactorUnit] = mapped_column(choice(FactorUnit, "unit"))
    micrograms_per_unit: Mapped[int]
    stated: Mapped[str] = mapped_column(sa.String(40))  # the figure as its source states it
    source: Mapped[str] = mapped_column(sa.String(300))
    confidence: Mapped[Confidence] = mapped_column(choice(Confidence, "confidence"))
    note: Mapped[str] = mapped_column(sa.String(300), server_default="")

    __table_args__ = (
        sa.CheckConstraint("key ~ '^[a-z][a-z0-9_-]*$'", name="key"),
        # 1 kg/m and 1,000 kg/kg: far above any real factor, and low enough that no product overflows 64 bits.
        sa.CheckConstraint("micrograms_per_unit BETWEEN 0 AND 1000000000", name="micrograms_per_unit"),
        sa.CheckConstraint("source <> '' AND stated <> ''", name="source"),
    )
