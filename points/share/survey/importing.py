"""Importing a wave: three tables and a mapping in, a report of every fault out, and all of the wave or nothing stored.

Reading and checking need no database but for the definition and the streets, and take some seconds: they happen before
the transaction that stores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.share.survey.definition import Definition, definition_of
from points.share.survey.findings import Findings, TableName
from points.share.survey.mapping import Mapping, MappingInvalid, read_mapping
from points.share.survey.microdata import WaveRows, write_wave
from points.share.survey.models import SurveyWave
from points.share.survey.people import read_households, read_persons
from points.share.survey.tables import TableFile, open_table, reading_alone
from points.share.survey.trips import read_trips
from server import audit
from server.access import Actor
from server.errors import DomainError
from server.files.intake import shown_name
from server.places.models import Division, DivisionLevel

PROGRESS_ROWS = 25_000

Progress = Callable[[TableName, int], None]


class WaveRefused(DomainError):
    """The tables have faults, listed in `report`; nothing was stored."""

    code, status, title_zh, title_en = (
        "wave-refused",
        422,
        "调查数据有错误, 未导入任何内容",
        "The survey's tables have faults; nothing was stored",
    )


@dataclass(frozen=True, slots=True)
class WaveUpload:
    """What is handed in: the mapping and its tables, the households' where there is one."""

    mapping: TableFile
    tables: dict[TableName, TableFile]


@dataclass(frozen=True, slots=True)
class Known:
    """What reading a wave needs to know: how to read it, the definition, and the streets of the wave's days."""

    mapping: Mapping
    definition: Definition
    streets: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A wave as it was read. `rows` is None as soon as there is a fault."""

    households: int
    persons: int
    respondents: int
    trips: int
    findings: Findings
    rows: WaveRows | None

    def report(self) -> dict[str, Any]:
        """What to tell of it: counts, faults by row and column with reasons, warnings."""
        return {
            "fit": self.rows is not None,
            "households": self.households,
            "persons": self.persons,
            "respondents": self.respondents,
            "trips": self.trips,
            "faults": [each.as_json() for each in self.findings.faults],
            "faults_more": dict(sorted(self.findings.more.items())),
            "warnings": [each.as_json() for each in self.findings.warnings],
        }


def known_to(session: Session, upload: WaveUpload) -> Known:
    """Read the mapping, and look up what it rests on. Raises MappingInvalid, DefinitionUnknown."""
    mapping = read_mapping(upload.mapping.content)
    definition = definition_of(session, mapping.wave.definition)
    unknown = sorted(set(mapping.trips.modes.recode.values()) - set(definition.modes))
    if unknown:
        raise MappingInvalid(f"trips: {definition.id} has no mode {unknown[0]!r}")
    persons = mapping.persons
    if persons.age is None and (persons.ages_at_least or 0) < definition.age_min:
        raise MappingInvalid(
            f"persons: without a column of ages the design must have asked nobody under {definition.age_min}"
        )
    if (mapping.households is not None) != (TableName.HOUSEHOLDS in upload.tables):
        raise MappingInvalid("households: the mapping and the table of households go together")
    streets = session.scalars(
        sa.select(Division.code).where(
            Division.level == DivisionLevel.STREET,
            Division.valid_from <= mapping.wave.last_on,
            sa.or_(Division.valid_to.is_(None), Division.valid_to >= mapping.wave.first_on),
        )
    )
    return Known(mapping, definition, frozenset(streets))


def read_wave(upload: WaveUpload, known: Known, progress: Progress | None = None) -> Reading:
    """Read and check every table. Slow: before the transaction. Raises TableTooLarge, TableUnreadable, Unavailable."""
    mapping = known.mapping
    findings = Findings()

    def opened(name: TableName) -> Any:
        table = open_table(upload.tables[name], mapping.wave.delimiter)
        return table if progress is None else _followed(table, name, progress)

    with reading_alone():
        households = {}
        if mapping.households is not None:
            households = read_households(opened(TableName.HOUSEHOLDS), mapping.households, known.streets, findings)
        persons = read_persons(
            opened(TableName.PERSONS),
            mapping,
            households if mapping.households is not None else None,
            known.streets,
            known.definition.age_min,
            findings,
        )
        trips = read_trips(opened(TableName.TRIPS), mapping, persons, known.definition, findings)
    rows = None
    if not findings.faults:
        wave = mapping.wave
        rows = WaveRows(
            code=wave.code,
            year=mapping.year,
            name=wave.name,
            kind=wave.kind,
            first_on=wave.first_on,
            last_on=wave.last_on,
            definition_id=wave.definition,
            frame=wave.frame,
            source=wave.source,
            confidence=wave.confidence,
            attributes=mapping.attributes,
            households=list(households.values()),
            persons=list(persons.values()),
            trips=trips,
            mapping=msgspec.to_builtins(mapping),
            files=_files(upload),
            warnings=[each.as_json() for each in findings.warnings],
            seed=wave.seed,
        )
    return Reading(
        households=len(households),
        persons=len(persons),
        respondents=sum(person.responded for person in persons.values()),
        trips=len(trips),
        findings=findings,
        rows=rows,
    )


def store(session: Session, actor: Actor | None, reading: Reading, *, now: datetime) -> SurveyWave:
    """Store a wave that was read without a fault, whole. Actor None: an operator's command.

    Raises WaveRefused with the report, WaveCodeTaken.
    """
    if reading.rows is None:
        raise WaveRefused(report=reading.report())
    wave = write_wave(session, reading.rows, imported_by=actor.id if actor else None, now=now)
    audit.record(
        session,
        actor,
        "survey-wave-import",
        f"survey-wave:{wave.id}",
        now=now,
        code=wave.code,
        persons=wave.persons,
        trips=wave.trips,
        files=wave.files,
    )
    return wave


def _files(upload: WaveUpload) -> list[dict[str, Any]]:
    """What was handed in, so that a question years later finds the very files."""
    named = {"mapping": upload.mapping, **{name.value: file for name, file in sorted(upload.tables.items())}}
    return [
        {
            "table": name,
            "name": shown_name(file.name, file.name.rpartition(".")[2].lower()[:5] or "csv"),
            "size_bytes": len(file.content),
            "sha256": file.sha256,
        }
        for name, file in named.items()
    ]


def _followed(table: Any, name: TableName, progress: Progress) -> Any:
    """The same table, telling how far it has been read."""

    def rows() -> Any:
        number = 0
        for number, row in enumerate(table.rows, 1):
            if number % PROGRESS_ROWS == 0:
                progress(name, number)
            yield row
        progress(name, number)

    return type(table)(table.columns, rows())
