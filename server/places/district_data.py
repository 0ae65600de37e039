"""Reading a district's data folder: `district.toml`, `communities.csv` and `theme_days.csv`.

Everything is checked before anything is loaded, and a fault names its file and line, for an operator has to mend it.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from server.data_files import read_text, read_toml
from server.places.models import Confidence, DivisionLevel

FILE = "district.toml"
# The largest counties have some 1,500 communities; a file beyond this is not a list of communities.
ROWS_MAX = 20_000
FILE_BYTES_MAX = 5_000_000
NAME_LENGTH_MAX = 60
TEXT_LENGTH_MAX = 120

_COMMUNITY_COLUMNS = [f"{level}_{part}" for level in ("community", "street", "district") for part in ("code", "name")]
_THEME_DAY_COLUMNS = ["code", "year", "starts_on", "ends_on", "name_zh", "name_en", "theme", "source", "confidence"]


class DistrictDataError(Exception):
    """A district's data folder cannot be loaded; the message names the file, the line and the fault."""


@dataclass(frozen=True, slots=True)
class DivisionEntry:
    """One division as an edition lists it."""

    code: str
    level: DivisionLevel
    name: str
    parent_code: str | None


@dataclass(frozen=True, slots=True)
class ThemeDayEntry:
    """One theme day of one year, both ends included."""

    code: str
    year: int
    starts_on: date
    ends_on: date
    name_zh: str
    name_en: str
    theme: str | None
    source: str
    confidence: Confidence


@dataclass(frozen=True, slots=True)
class DistrictData:
    """One edition of a district: the district, its streets and its communities, parents first."""

    code: str
    edition_on: date
    divisions: tuple[DivisionEntry, ...]
    theme_days: tuple[ThemeDayEntry, ...]


@lru_cache(maxsize=8)
def read_head(folder: Path) -> Mapping[str, Any]:
    """All that `district.toml` says, read once by a process; its code is checked. Raises DistrictDataError."""
    return MappingProxyType(_read_head(folder / FILE))


def read_district_code(folder: Path) -> str:
    """The official code of the district alone, six digits. Raises DistrictDataError."""
    return str(read_head(folder)["code"])


def read_district(folder: Path) -> DistrictData:
    """Read and check a district's folder. Raises DistrictDataError."""
    path = folder / FILE
    head = _read_head(path)
    code, name, edition_on = head["code"], head.get("name"), head.get("edition_on")
    if not isinstance(edition_on, date) or isinstance(edition_on, datetime):
        raise DistrictDataError(f"{path.name}: edition_on must be a date")
    if not isinstance(name, str):
        raise DistrictDataError(f"{path.name}: name is missing")
    district = DivisionEntry(code, DivisionLevel.DISTRICT, _name(name, path.name), None)
    return DistrictData(
        code=code,
        edition_on=edition_on,
        divisions=(district, *_divisions(folder / "communities.csv", district)),
        theme_days=tuple(_theme_days(folder / "theme_days.csv")),
    )


def _read_head(path: Path) -> dict[str, Any]:
    head = read_toml(path, bytes_max=FILE_BYTES_MAX, fault=DistrictDataError)
    code = head.get("code")
    if not isinstance(code, str) or not re.fullmatch("[0-9]{6}", code):
        raise DistrictDataError(f"{path.name}: code must be six digits in quotes")
    return head


def _divisions(path: Path, district: DivisionEntry) -> list[DivisionEntry]:
    streets: dict[str, DivisionEntry] = {}
    communities: dict[str, DivisionEntry] = {}
    for where, row in _rows(path, _COMMUNITY_COLUMNS):
        code, street_code = row["community_code"], row["street_code"]
        if (row["district_code"], row["district_name"]) != (district.code, district.name):
            raise DistrictDataError(f"{where}: lies outside district {district.code} {district.name}")
        if not re.fullmatch("[0-9]{9}", street_code) or not street_code.startswith(district.code):
            raise DistrictDataError(f"{where}: {street_code!r} is no street of district {district.code}")
        if not re.fullmatch("[0-9]{12}", code) or not code.startswith(street_code):
            raise DistrictDataError(f"{where}: {code!r} is no community of street {street_code}")
        if code in communities:
            raise DistrictDataError(f"{where}: {code} stands here twice")
        street = DivisionEntry(street_code, DivisionLevel.STREET, _name(row["street_name"], where), district.code)
        if streets.setdefault(street_code, street) != street:
            raise DistrictDataError(f"{where}: street {street_code} has two names")
        name = _name(row["community_name"], where)
        communities[code] = DivisionEntry(code, DivisionLevel.COMMUNITY, name, street_code)
    if not communities:
        # An empty file would end every community of the district at once.
        raise DistrictDataError(f"{path.name}: lists no community")
    return [*streets.values(), *communities.values()]


def _theme_days(path: Path) -> Iterator[ThemeDayEntry]:
    seen = set()
    for where, row in _rows(path, _THEME_DAY_COLUMNS):
        try:
            day = ThemeDayEntry(
                code=row["code"],
                year=int(row["year"]),
                starts_on=date.fromisoformat(row["starts_on"]),
                ends_on=date.fromisoformat(row["ends_on"]),
                name_zh=_name(row["name_zh"], where),
                name_en=_name(row["name_en"], where),
                theme=row["theme"] or None,
                source=row["source"],
                confidence=Confidence(row["confidence"]),
            )
        except ValueError as error:
            raise DistrictDataError(f"{where}: {error}") from error
        if max(len(day.theme or ""), len(day.source)) > TEXT_LENGTH_MAX:
            raise DistrictDataError(f"{where}: a text is too long")
        if not re.fullmatch("[a-z][a-z0-9-]{0,39}", day.code) or not day.source:
            raise DistrictDataError(f"{where}: a theme day needs a code of small letters and a source")
        if day.starts_on.year != day.year or day.ends_on < day.starts_on:
            raise DistrictDataError(f"{where}: starts outside its year, or ends before it starts")
        if (day.code, day.year) in seen:
            raise DistrictDataError(f"{where}: {day.code} of {day.year} stands here twice")
        seen.add((day.code, day.year))
        yield day


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row with the words that name its place; the columns must be exactly `columns`."""
    text = read_text(path, bytes_max=FILE_BYTES_MAX, fault=DistrictDataError)
    reader = csv.DictReader(text.splitlines(), strict=True)
    if reader.fieldnames != columns:
        raise DistrictDataError(f"{path.name}: the columns must be {', '.join(columns)}")
    try:
        for count, row in enumerate(reader):
            where = f"{path.name}, line {reader.line_num}"
            if count == ROWS_MAX:
                raise DistrictDataError(f"{where}: more than {ROWS_MAX} rows")
            if None in row or None in row.values():
                raise DistrictDataError(f"{where}: not {len(columns)} columns")
            yield where, {column: value.strip() for column, value in row.items()}
    except csv.Error as error:
        raise DistrictDataError(f"{path.name}, line {reader.line_num}: {error}") from error


def _name(text: str, where: str) -> str:
    if not text or len(text) > NAME_LENGTH_MAX or not text.isprintable():
        raise DistrictDataError(f"{where}: a name must have 1 to {NAME_LENGTH_MAX} printable characters")
    return text
