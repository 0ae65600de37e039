"""`flask places …`: what an operator does with places."""

from pathlib import Path

import click
from flask.cli import AppGroup

from server.database import run_transaction
from server.places import divisions, populations
from server.places.district_data import DistrictDataError, read_district
from server.settings import settings

places = AppGroup("places", help="Divisions, organisations and theme days.")


@places.command("load")
def load() -> None:
    """Load the district's data folder; a second time changes nothing."""
    try:
        data = read_district(settings().district_folder)
        click.echo(f"places: district {data.code}, edition {data.edition_on}", err=True)
        done = run_transaction(lambda session: divisions.load(session, data))
    except DistrictDataError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"places: {done.divisions_added} divisions added, {done.divisions_renamed} renamed or reopened, "
        f"{done.divisions_closed} ended, {done.divisions_unchanged} as before; "
        f"{done.theme_days_written} theme days written",
        err=True,
    )


@places.command("load-populations")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def load_populations(path: Path) -> None:
    """Load census populations of streets and communities from a CSV file: code,year,persons,source,confidence."""
    try:
        entries = populations.read_populations(path)
        written = run_transaction(lambda session: populations.load(session, entries))
    except populations.PopulationDataError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"places: {written} populations loaded from {path.name}", err=True)
