"""What counts as green travel, version by version, as data: modes, the youngest age, and the main mode of a trip.

The official definition (交运函〔2020〕490号) counts trips, neither kilometres nor people. It names e-bikes neither way:
so each version has two readings, and both are computed wherever one is.
"""

import enum
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.share.estimate.exchange import READINGS, WITH_E_BIKE
from points.share.survey.models import LEGS_MAX, ShareDefinition
from server.data_files import read_toml
from server.database import lock_name
from server.errors import DomainError
from server.places.models import Confidence

DEFINITIONS_DATA = Path(__file__).parent / "definitions"

FILE_BYTES_MAX = 60_000
FILES_MAX = 50
MODES_MAX = 40

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
_Title = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]


class DefinitionDataError(Exception):
    """A definition's data file cannot be loaded; the message names the file and the fault."""


class DefinitionChanged(DefinitionDataError):
    """A data file differs from the definition loaded under its id: a new version needs a new id."""


class DefinitionUnknown(DomainError):
    """No definition has this id, or none has been loaded."""

    code, status, title_zh, title_en = (
        "share-definition-unknown",
        422,
        "没有此绿色出行口径",
        "There is no such definition of green travel",
    )


class Green(enum.StrEnum):
    """In which readings trips by a mode count as green; they count as trips in both."""

    ALWAYS = "always"
    WITH_E_BIKE = "with-e-bike"
    NEVER = "never"


class ModeEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mode: whether it is green, and its rank among the legs of a trip, the main mode's being the lowest."""

    key: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z-]{0,39}$")]
    title_zh: _Title
    title_en: _Title
    green: Green
    rank: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    source: _Text
    confidence: Confidence


class DefinitionEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data file: one version."""

    id: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9.-]{0,59}$")]
    valid_from: date
    title_zh: _Text
    title_en: _Text
    age_min: Annotated[int, msgspec.Meta(ge=0, le=100)]
    source: _Text
    confidence: Confidence
    main_mode_zh: _Text
    main_mode_en: _Text
    main_mode_source: _Text
    main_mode_confidence: Confidence
    e_bike_zh: _Text
    e_bike_en: _Text
    modes: Annotated[list[ModeEntry], msgspec.Meta(min_length=2, max_length=MODES_MAX)]


@dataclass(frozen=True, slots=True)
class Definition:
    """One version, ready to be used; `entry` is what its file says."""

    id: str
    age_min: int
    entry: DefinitionEntry
    modes: Mapping[str, ModeEntry]


def main_mode(definition: Definition, legs: Sequence[str]) -> str:
    """The one mode that a trip counts under: of its legs' modes the one that ranks first.

    Raises ValueError for no legs, more than LEGS_MAX, or a mode that the definition does not know.
    """
    if not 1 <= len(legs) <= LEGS_MAX:
        raise ValueError(f"a trip has 1 to {LEGS_MAX} legs")
    try:
        return min(legs, key=lambda mode: definition.modes[mode].rank)
    except KeyError as error:
        raise ValueError(f"{definition.id} knows no mode {error}") from None


def is_green(definition: Definition, mode: str, reading: str) -> bool:
    """Whether a trip by this main mode counts as green in a reading. Raises ValueError for either unknown."""
    if reading not in READINGS or mode not in definition.modes:
        raise ValueError(f"{definition.id} has no mode {mode!r} or no reading {reading!r}")
    green = definition.modes[mode].green
    return green is Green.ALWAYS or (green is Green.WITH_E_BIKE and reading == WITH_E_BIKE)


def read_definitions(folder: Path = DEFINITIONS_DATA) -> list[DefinitionEntry]:
    """Read and check every definition file of a folder. Raises DefinitionDataError."""
    paths = sorted(folder.glob("*.toml"))
    if not 1 <= len(paths) <= FILES_MAX:
        raise DefinitionDataError(f"{folder.name}: needs 1 to {FILES_MAX} definitions")
    return [_read(path) for path in paths]


def _read(path: Path) -> DefinitionEntry:
    raw = read_toml(path, bytes_max=FILE_BYTES_MAX, fault=DefinitionDataError)
    try:
        entry = msgspec.convert(raw, DefinitionEntry)
    except msgspec.ValidationError as error:
        raise DefinitionDataError(f"{path.name}: {error}") from error
    if entry.id != path.stem:
        raise DefinitionDataError(f"{path.name}: the file must be named after its id {entry.id!r}")
    if len({mode.key for mode in entry.modes}) != len(entry.modes):
        raise DefinitionDataError(f"{path.name}: a mode stands there twice")
    # With equal ranks the order of the legs would decide, and one trip could count under two modes.
    if len({mode.rank for mode in entry.modes}) != len(entry.modes):
        raise DefinitionDataError(f"{path.name}: two modes have the same rank")
    return entry


def load(session: Session, entries: Sequence[DefinitionEntry], *, now: datetime) -> list[str]:
    """Store the definitions that are not stored yet; the ids added. A second time changes nothing.

    Raises DefinitionChanged for a file whose content differs from what was loaded under its id.
    """
    lock_name(session, "share:definitions")
    stored = {row.id: row.content_sha256 for row in session.scalars(sa.select(ShareDefinition))}
    added = []
    for entry in entries:
        content: dict[str, Any] = msgspec.to_builtins(entry)
        sha256 = _sha256(content)
        if entry.id not in stored:
            session.add(
                ShareDefinition(
                    id=entry.id,
                    valid_from=entry.valid_from,
                    content=content,
                    content_sha256=sha256,
                    loaded_at=now,
                )
            )
            added.append(entry.id)
        elif stored[entry.id] != sha256:
            raise DefinitionChanged(f"{entry.id}: differs from what was loaded under this id; give it a new id")
    session.flush()
    return added


def definition_of(session: Session, definition_id: str) -> Definition:
    """A loaded version. Raises DefinitionUnknown."""
    row = session.get(ShareDefinition, definition_id)
    if row is None:
        raise DefinitionUnknown(f"No definition {definition_id!r} is loaded")
    return _definition(row)


def current_definition(session: Session, on: date) -> Definition:
    """The version that holds on a day: of those valid from then or earlier, the newest. Raises DefinitionUnknown."""
    row = session.scalar(
        sa.select(ShareDefinition)
        .where(ShareDefinition.valid_from <= on)
        .order_by(ShareDefinition.valid_from.desc(), ShareDefinition.id.desc())
        .limit(1)
    )
    if row is None:
        raise DefinitionUnknown("No definition is loaded that holds on this day; run `flask share load-definitions`")
    return _definition(row)


def value_of(entry: DefinitionEntry) -> Definition:
    """A version as a value, for rules that need no database."""
    return Definition(
        id=entry.id,
        age_min=entry.age_min,
        entry=entry,
        modes=MappingProxyType({mode.key: mode for mode in entry.modes}),
    )


def _definition(row: ShareDefinition) -> Definition:
    return value_of(msgspec.convert(row.content, DefinitionEntry))


def _sha256(content: dict[str, Any]) -> bytes:
    """The hash of what a file says, whatever its comments, spaces and line ends."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).digest()
