"""Margins: how many people of which kind live here. An operator loads them, with source and date, from census tables.

A file is TOML, or CSV with the set's own facts on every line. A variable may be several crossed, "age_band*sex" with
categories such as "6-17*male"; its names are those of the waves' attributes.
"""

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.share.survey.microdata import MarginsUnknown
from points.share.survey.models import AGE_MAX, MarginCell, MarginSet
from server.data_files import parse_toml, read_text
from server.database import lock_name
from server.errors import NotFound
from server.paging import Page, decode, page_of
from server.places.models import Confidence

FILE_BYTES_MAX = 2_000_000
VARIABLES_MAX = 30
CELLS_MAX = 20_000
CROSSED_MAX = 3
# Census tables are rounded and of different days by a little; more than this and one of them is of another population.
DIFFERENCE_MAX = 0.005

CSV_COLUMNS = ("code", "population", "source", "confidence", "as_of", "age_min", "variable", "category", "persons")
CODE = re.compile("[a-z0-9][a-z0-9-]{0,59}")
_VARIABLE = re.compile(r"[a-z][a-z0-9_]{0,39}(\*[a-z][a-z0-9_]{0,39}){0,2}")
_CATEGORY = re.compile(r"[^*\x00-\x1f\x7f]{1,60}")


class MarginDataError(Exception):
    """A file of margins cannot be loaded; the message names the file and the fault."""


class MarginsLocked(MarginDataError):
    """A published release rests on the set: other figures need another code."""


class MarginEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A set of margins as a file has it: persons by variable and category. `age_min` is the youngest age counted."""

    code: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,59}$")]
    population: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
    confidence: Confidence
    as_of: date
    age_min: Annotated[int, msgspec.Meta(ge=0, le=AGE_MAX)]
    margins: Annotated[
        dict[str, dict[str, Annotated[int, msgspec.Meta(ge=0, le=2_000_000_000)]]],
        msgspec.Meta(min_length=1, max_length=VARIABLES_MAX),
    ]


@dataclass(frozen=True, slots=True)
class MarginDetail:
    """A set and its cells, by variable and category."""

    set: MarginSet
    cells: Sequence[MarginCell]


def read_margins(path: Path) -> MarginEntry:
    """Read and check a file of margins, TOML or CSV by its ending. Raises MarginDataError."""
    text = read_text(path, bytes_max=FILE_BYTES_MAX, fault=MarginDataError)
    try:
        is_csv = path.suffix.lower() == ".csv"
        raw = _raw_of_csv(text, path.name) if is_csv else parse_toml(path.name, text, fault=MarginDataError)
        entry = msgspec.convert(raw, MarginEntry)
    except (ValueError, csv.Error) as error:
        raise MarginDataError(f"{path.name}: {error}") from error
    _check(entry, path.name)
    return entry


def _raw_of_csv(text: str, name: str) -> dict[str, Any]:
    """The same shape as the TOML has. Raises MarginDataError."""
    reader = csv.DictReader(text.splitlines(), strict=True)
    if tuple(reader.fieldnames or ()) != CSV_COLUMNS:
        raise MarginDataError(f"{name}: the columns must be {', '.join(CSV_COLUMNS)}")
    facts: tuple[str, ...] | None = None
    margins: dict[str, dict[str, int]] = {}
    for number, row in enumerate(reader, 1):
        where = f"{name}, line {reader.line_num}"
        if number > CELLS_MAX:
            raise MarginDataError(f"{where}: more than {CELLS_MAX} cells")
        if None in row or None in row.values():
            raise MarginDataError(f"{where}: not {len(CSV_COLUMNS)} columns")
        *said, variable, category, persons = (row[column].strip() for column in CSV_COLUMNS)
        facts = facts or tuple(said)
        if tuple(said) != facts:
            raise MarginDataError(f"{where}: differs in {', '.join(CSV_COLUMNS[:6])} from the first line")
        if not re.fullmatch("[0-9]{1,10}", persons):
            raise MarginDataError(f"{where}: {persons!r} is no number of persons")
        if category in margins.setdefault(variable, {}):
            raise MarginDataError(f"{where}: {variable} {category} stands here twice")
        margins[variable][category] = int(persons)
    if facts is None:
        raise MarginDataError(f"{name}: no line")
    code, population, source, confidence, as_of, age_min = facts
    return {
        "code": code,
        "population": population,
        "source": source,
        "confidence": confidence,
        "as_of": as_of,
        "age_min": int(age_min),
        "margins": margins,
    }


def _check(entry: MarginEntry, name: str) -> None:
    if sum(len(cells) for cells in entry.margins.values()) > CELLS_MAX:
        raise MarginDataError(f"{name}: more than {CELLS_MAX} cells")
    totals = {}
    for variable, cells in entry.margins.items():
        if not _VARIABLE.fullmatch(variable) or len(set(variable.split("*"))) != variable.count("*") + 1:
            raise MarginDataError(f"{name}: {variable!r} is no attribute, and no 2 or {CROSSED_MAX} crossed by *")
        for category in cells:
            parts = category.split("*")
            if len(parts) != variable.count("*") + 1 or not all(_CATEGORY.fullmatch(part) for part in parts):
                raise MarginDataError(f"{name}: {category!r} is no category of {variable}")
        totals[variable] = sum(cells.values())
    largest = max(totals, key=lambda variable: totals[variable])
    if totals[largest] == 0:
        raise MarginDataError(f"{name}: nobody lives there")
    for variable, total in totals.items():
        if totals[largest] - total > DIFFERENCE_MAX * totals[largest]:
            raise MarginDataError(
                f"{name}: {variable} adds up to {total} and {largest} to {totals[largest]}, more than "
                f"{DIFFERENCE_MAX:.1%} apart: they are not of one population"
            )


def load(session: Session, entry: MarginEntry, *, now: datetime) -> bool:
    """Store a set, or correct one that no published release rests on; whether anything changed.

    Raises MarginsLocked.
    """
    sha256 = hashlib.sha256(
        json.dumps(msgspec.to_builtins(entry), sort_keys=True, ensure_ascii=False).encode()
    ).digest()
    lock_name(session, f"share:margins:{entry.code}")
    facts: dict[str, Any] = {
        "population": entry.population,
        "source": entry.source,
        "confidence": entry.confidence,
        "as_of": entry.as_of,
        "age_min": entry.age_min,
        "persons": max(sum(cells.values()) for cells in entry.margins.values()),
        "content_sha256": sha256,
        "loaded_at": now,
    }
    stored = session.get(MarginSet, entry.code, populate_existing=True)
    if stored is not None and stored.content_sha256 == sha256:
        return False
    if stored is None:
        session.execute(sa.insert(MarginSet).values(code=entry.code, locked=False, **facts))
    else:
        changed = session.scalar(
            sa.update(MarginSet)
            .where(MarginSet.code == entry.code, ~MarginSet.locked)
            .values(**facts)
            .returning(MarginSet.code)
        )
        if changed is None:
            raise MarginsLocked(f"{entry.code}: a published release rests on these margins; load them under a new code")
        session.execute(sa.delete(MarginCell).where(MarginCell.set_code == entry.code))
    session.execute(
        sa.insert(MarginCell),
        [
            {"set_code": entry.code, "variable": variable, "category": category, "persons": persons}
            for variable, cells in entry.margins.items()
            for category, persons in cells.items()
        ],
    )
    session.expire_all()
    return True


def list_margins(session: Session, *, limit: int, cursor: str | None) -> Page[MarginSet]:
    """Every set by its code."""
    query = sa.select(MarginSet).order_by(MarginSet.code)
    if cursor is not None:
        query = query.where(MarginSet.code > decode(cursor, tuple[str])[0])
    rows = session.scalars(query.limit(limit + 1)).all()
    return page_of(rows, limit, lambda row: (row.code,))


def margins_of(session: Session, code: str) -> MarginDetail:
    """A set with its cells, at most CELLS_MAX. Raises NotFound."""
    found = session.get(MarginSet, code) if CODE.fullmatch(code) else None
    if found is None:
        raise NotFound
    cells = session.scalars(
        sa.select(MarginCell)
        .where(MarginCell.set_code == code)
        .order_by(MarginCell.variable.collate("C"), MarginCell.category.collate("C"))
    ).all()
    return MarginDetail(found, cells)


def lock(session: Session, code: str) -> None:
    """Keep a set as it is for good, because a release that rests on it is being published. Raises MarginsUnknown."""
    locked = session.scalar(
        sa.update(MarginSet).where(MarginSet.code == code).values(locked=True).returning(MarginSet.code)
    )
    if locked is None:
        raise MarginsUnknown
