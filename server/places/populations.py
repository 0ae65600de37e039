"""Census populations of streets and communities: no source has them for every district, so operators load them.

The district's own figures stand in its data folder (`district.toml`). A rate per population always names which one.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from server.database import Base, choice
from server.places.models import Confidence, Division

COLUMNS = ("code", "year", "persons", "source", "confidence")
ROWS_MAX = 20_000
FILE_BYTES_MAX = 5_000_000
PERSONS_MAX = 50_000_000


class PopulationDataError(Exception):
    """A file of populations cannot be loaded; the message names the line and the fault."""


class DivisionPopulation(Base):
    """How many people live in a division, by one source for one year."""

    __tablename__ = "division_population"

    code: Mapped[str] = mapped_column(sa.String(12), sa.ForeignKey("division.code"), primary_key=True)
    year: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
    source: Mapped[str] = mapped_column(sa.String(120), primary_key=True)
    persons: Mapped[int] = mapped_column(sa.Integer)
    confidence: Mapped[Confidence] = mapped_column(choice(Confidence, "confidence"))

    __table_args__ = (
        sa.CheckConstraint("year BETWEEN 1950 AND 2100", name="year"),
        sa.CheckConstraint(f"persons BETWEEN 1 AND {PERSONS_MAX}", name="persons"),
        sa.CheckConstraint("source <> ''", name="source"),
    )


@dataclass(frozen=True, slots=True)
class PopulationEntry:
    """How many people live in a division, as a line of a file says or as it was loaded."""

    code: str
    year: int
    persons: int
    source: str
    confidence: Confidence


def read_populations(path: Path) -> list[PopulationEntry]:
    """Read and check a CSV file with the columns COLUMNS. Raises PopulationDataError."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise PopulationDataError(f"{path.name}: larger than {FILE_BYTES_MAX} bytes")
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), strict=True)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise PopulationDataError(f"{path.name}: the columns must be {', '.join(COLUMNS)}")
        entries: dict[tuple[str, int, str], PopulationEntry] = {}
        for row in reader:
            where = f"{path.name}, line {reader.line_num}"
            if len(entries) == ROWS_MAX:
                raise PopulationDataError(f"{where}: more than {ROWS_MAX} rows")
            entry = _entry(row, where)
            key = (entry.code, entry.year, entry.source)
            if key in entries:
                raise PopulationDataError(f"{where}: {entry.code} of {entry.year} stands here twice")
            entries[key] = entry
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PopulationDataError(f"{path.name}: {error}") from error
    return list(entries.values())


def _entry(row: dict[str, str], where: str) -> PopulationEntry:
    if None in row or None in row.values():
        raise PopulationDataError(f"{where}: not {len(COLUMNS)} columns")
    values = {column: value.strip() for column, value in row.items()}
    code, source = values["code"], values["source"]
    if not re.fullmatch("[0-9]{6}|[0-9]{9}|[0-9]{12}", code):
        raise PopulationDataError(f"{where}: {code!r} is no code of a division")
    if not re.fullmatch("(19[5-9]|20[0-9])[0-9]|2100", values["year"]):
        raise PopulationDataError(f"{where}: {values['year']!r} is no year")
    if not re.fullmatch("[1-9][0-9]{0,7}", values["persons"]) or int(values["persons"]) > PERSONS_MAX:
        raise PopulationDataError(f"{where}: {values['persons']!r} is no number of persons")
    if not 1 <= len(source) <= 120 or not source.isprintable():
        raise PopulationDataError(f"{where}: a population needs a source of 1 to 120 printable characters")
    if values["confidence"] not in {each.value for each in Confidence}:
        raise PopulationDataError(f"{where}: {values['confidence']!r} is no confidence (V, V2, C, R)")
    return PopulationEntry(code, int(values["year"]), int(values["persons"]), source, Confidence(values["confidence"]))


def load(session: Session, entries: Sequence[PopulationEntry]) -> int:
    """Insert the entries, or correct those of the same division, year and source; how many were written.

    Raises PopulationDataError for a division that nobody knows.
    """
    if not entries:
        return 0
    known = set(session.scalars(sa.select(Division.code).where(Division.code.in_({entry.code for entry in entries}))))
    unknown = sorted({entry.code for entry in entries} - known)
    if unknown:
        raise PopulationDataError(f"no division has the code {unknown[0]}")
    rows = insert(DivisionPopulation).values(
        [
            {
                "code": entry.code,
                "year": entry.year,
                "persons": entry.persons,
                "source": entry.source,
                "confidence": entry.confidence,
            }
            for entry in entries
        ]
    )
    session.execute(
        rows.on_conflict_do_update(
            index_elements=["code", "year", "source"],
            set_={"persons": rows.excluded.persons, "confidence": rows.excluded.confidence},
        )
    )
    return len(entries)


_WITHIN = sa.text("""
SELECT code, year, persons, source, confidence FROM division_population
WHERE starts_with(code, :within) ORDER BY code, year DESC, source
""")


def populations_within(session: Session, within: str) -> dict[str, list[PopulationEntry]]:
    """What has been loaded for a division and all inside it, by code, the newest year first."""
    found: dict[str, list[PopulationEntry]] = {}
    for code, year, persons, source, confidence in session.execute(_WITHIN, {"within": within}):
        found.setdefault(code, []).append(PopulationEntry(code, year, persons, source, Confidence(confidence)))
    return found
