"""What a district allows of codes, cards and households, from a day on: read from `codes.toml` of its data folder."""

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server.clock import business_day
from server.data_files import read_toml
from server.errors import Unavailable
from server.people.models import CodeLimits
from server.places.models import Confidence

FILE = "codes.toml"
FILE_BYTES_MAX = 100_000
LIMITS_MAX = 100

FIGURES = (
    "household_members_max",
    "household_wait_days",
    "card_uses_per_staff_max",
    "card_uses_per_household_max",
    "offline_hours_max",
)


class CodeDataError(Exception):
    """The data file cannot be loaded; the message names the file and the fault."""


class CodeLimitsMissing(Unavailable):
    """The district's limits were not loaded: nothing is confirmed without any."""

    code, title_zh, title_en = (
        "code-limits-missing",
        "本区尚未设定居民码与家庭的限额",
        "The district's limits of codes and households are not loaded",
    )


class LimitsEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One set of limits of the file. Days and hours as the names say, the others numbers of people or of uses."""

    valid_from: date
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
    confidence: Confidence
    household_members_max: Annotated[int, msgspec.Meta(ge=2, le=50)]
    household_wait_days: Annotated[int, msgspec.Meta(ge=1, le=366)]
    card_uses_per_staff_max: Annotated[int, msgspec.Meta(ge=0, le=2000)]
    card_uses_per_household_max: Annotated[int, msgspec.Meta(ge=0, le=100)]
    offline_hours_max: Annotated[int, msgspec.Meta(ge=0, le=48)]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limits: Annotated[list[LimitsEntry], msgspec.Meta(min_length=1, max_length=LIMITS_MAX)]


def read_limits(folder: Path) -> list[LimitsEntry]:
    """Read and check the limits of a district's data folder, oldest first. Raises CodeDataError."""
    raw = read_toml(folder / FILE, bytes_max=FILE_BYTES_MAX, fault=CodeDataError)
    try:
        entries = msgspec.convert(raw, _File).limits
    except msgspec.ValidationError as error:
        raise CodeDataError(f"{FILE}: {error}") from error
    if len({entry.valid_from for entry in entries}) < len(entries):
        raise CodeDataError(f"{FILE}: two sets of limits hold from the same day")
    return sorted(entries, key=lambda entry: entry.valid_from)


def load(session: Session, entries: Sequence[LimitsEntry]) -> int:
    """Load what is new; the number of sets added. Raises CodeDataError where the file differs from what was loaded."""
    added = 0
    for entry in entries:
        figures = {name: getattr(entry, name) for name in FIGURES}
        new = session.scalar(
            insert(CodeLimits)
            .values(valid_from=entry.valid_from, **figures)
            .on_conflict_do_nothing(index_elements=["valid_from"])
            .returning(CodeLimits.valid_from)
        )
        added += new is not None
        loaded = session.get_one(CodeLimits, entry.valid_from, populate_existing=True)
        if {name: getattr(loaded, name) for name in FIGURES} != figures:
            raise CodeDataError(f"{FILE}: the limits from {entry.valid_from} were loaded with other figures")
    return added


def limits_on(session: Session, now: datetime) -> CodeLimits:
    """The limits that hold on the business day of `now`. Raises CodeLimitsMissing."""
    found = session.scalar(
        sa.select(CodeLimits)
        .where(CodeLimits.valid_from <= business_day(now))
        .order_by(CodeLimits.valid_from.desc())
        .limit(1)
    )
    if found is None:
        raise CodeLimitsMissing
    return found
