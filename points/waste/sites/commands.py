"""`flask sites …`: the district's sorting sites and collection points from a file."""

from pathlib import Path

import click
from flask.cli import AppGroup

from points.waste.sites import importing
from points.waste.sites.importing import SiteDataError
from server.clock import now
from server.database import run_transaction

sites = AppGroup("sites", help="Sorting sites and collection points.")


@sites.command("import")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_sites(path: Path) -> None:
    """Add or change the sites of PATH, a .toml or .csv file; those that it does not name stay as they are."""
    try:
        entries = importing.read_file(path)
        done = run_transaction(lambda session: importing.load(session, entries, now=now()))
    except SiteDataError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"sites: {done['added']} added, {done['changed']} changed, {done['unchanged']} as before, from {path.name}",
        err=True,
    )
