"""`flask share …`: definitions, survey waves and margins. The other rooms of the share add their own to the group."""

from pathlib import Path

import click
import sqlalchemy as sa
from flask.cli import AppGroup

from points.share.survey import definition, importing, margins, waves
from points.share.survey.definition import DefinitionDataError
from points.share.survey.findings import Finding, TableName
from points.share.survey.importing import Reading, WaveUpload
from points.share.survey.margins import MarginDataError
from points.share.survey.models import SurveyWave
from points.share.survey.tables import TABLE_BYTES_MAX, TableFile
from server.clock import now
from server.database import run_transaction, transaction
from server.errors import DomainError

share = AppGroup("share", help="The green-travel share: definitions, surveys, margins, releases.")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FINDINGS_PRINTED_MAX = 50
WAVES_PRINTED_MAX = 500


@share.command("load-definitions")
def load_definitions() -> None:
    """Load the packaged definitions of green travel; a second time changes nothing."""
    at = now()
    try:
        entries = definition.read_definitions()
        added = run_transaction(lambda session: definition.load(session, entries, now=at))
    except DefinitionDataError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"share: added {', '.join(added) or 'nothing new'}", err=True)


# What `flask prepare` calls in every room.
share.add_command(load_definitions, "load")


@share.command("load-margins")
@click.argument("path", type=_FILE)
def load_margins(path: Path) -> None:
    """Load margins of the population from a TOML or CSV file, with their source and date."""
    at = now()
    try:
        entry = margins.read_margins(path)
        changed = run_transaction(lambda session: margins.load(session, entry, now=at))
    except MarginDataError as error:
        raise click.ClickException(str(error)) from error
    cells = sum(len(each) for each in entry.margins.values())
    click.echo(f"share: margins {entry.code}, {cells} cells, {'loaded' if changed else 'as before'}", err=True)


@share.command("import-wave")
@click.option("--mapping", "mapping_path", type=_FILE, required=True, help="TOML: which column is what.")
@click.option("--persons", "persons_path", type=_FILE, required=True, help="CSV or XLSX: everybody who was drawn.")
@click.option("--trips", "trips_path", type=_FILE, required=True, help="CSV or XLSX: all trips of the day.")
@click.option("--households", "households_path", type=_FILE, default=None, help="CSV or XLSX.")
@click.option("--dry-run", is_flag=True, help="Check and report; store nothing.")
def import_wave(
    mapping_path: Path, persons_path: Path, trips_path: Path, households_path: Path | None, dry_run: bool
) -> None:
    """Import a survey wave, whole or not at all; faults are printed with row and column."""
    tables = {TableName.PERSONS: persons_path, TableName.TRIPS: trips_path}
    if households_path is not None:
        tables[TableName.HOUSEHOLDS] = households_path
    upload = WaveUpload(mapping=_file(mapping_path), tables={name: _file(path) for name, path in tables.items()})
    try:
        with transaction() as session:
            known = importing.known_to(session, upload)
        reading = importing.read_wave(upload, known, _tell)
        _print(reading)
        if dry_run:
            click.echo("share: checked alone, nothing stored", err=True)
            return
        at = now()
        wave = run_transaction(lambda session: importing.store(session, None, reading, now=at))
    except DomainError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"share: wave {wave.code}: {wave.persons} persons, {wave.respondents} of them answered, {wave.trips} trips",
        err=True,
    )


@share.command("undo-wave")
@click.argument("code")
def undo_wave(code: str) -> None:
    """Delete the people and trips of a wave that no published release rests on."""
    at = now()
    try:
        run_transaction(lambda session: waves.undo(session, None, waves.wave_coded(session, code).id, now=at))
    except DomainError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"share: wave {code} undone", err=True)


@share.command("waves")
def list_waves() -> None:
    """Print every wave with its state and counts."""
    with transaction() as session:
        found = session.scalars(
            sa.select(SurveyWave).order_by(SurveyWave.first_on, SurveyWave.id).limit(WAVES_PRINTED_MAX)
        ).all()
    for wave in found:
        mark = "  locked" if wave.locked else ""
        click.echo(
            f"{wave.code}  {wave.kind}  {wave.year}  {wave.first_on} to {wave.last_on}  {wave.state}{mark}  "
            f"{wave.respondents}/{wave.persons} persons, {wave.trips} trips  [{wave.confidence}] {wave.source}"
        )


def _file(path: Path) -> TableFile:
    """A file's bytes, one more than is allowed at most: what is larger is refused by the reader."""
    with path.open("rb") as opened:
        return TableFile(path.name, opened.read(TABLE_BYTES_MAX + 1))


def _tell(table: TableName, rows: int) -> None:
    click.echo(f"share: {table}: {rows} rows read", err=True)


def _print(reading: Reading) -> None:
    """The findings as lines; more than FINDINGS_PRINTED_MAX of them are counted."""
    findings = reading.findings
    for kind, found in (("warning", findings.warnings), ("fault", findings.faults)):
        for each in found[:FINDINGS_PRINTED_MAX]:
            click.echo(f"{kind}: {_line(each)}")
        rest = len(found) - FINDINGS_PRINTED_MAX + (findings.more.total() if kind == "fault" else 0)
        if rest > 0:
            click.echo(f"{kind}: {rest} more")


def _line(finding: Finding) -> str:
    place = f", row {finding.row}" if finding.row is not None else ""
    column = f", column {finding.column!r}" if finding.column else ""
    count = f" ({finding.count})" if finding.count > 1 else ""
    note = f" [{finding.note}]" if finding.note else ""
    return f"{finding.table}{place}{column}: {finding.reason_zh} {finding.reason_en}{count}{note}"
