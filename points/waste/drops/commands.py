"""`flask sorting …`: the district's decisions about drops, and the spot-checks."""

from pathlib import Path

import click
from flask.cli import AppGroup

from points.waste.drops import plans
from points.waste.drops.jobs import draw_now
from points.waste.drops.plans import SortingPlanError
from server.database import run_transaction
from server.settings import settings

sorting = AppGroup("sorting", help="What the district decides about drops, and their spot-checks.")


@sorting.command("load")
@click.option(
    "--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="This file and no other."
)
def load_plans(path: Path | None = None) -> None:
    """Load the files sorting-*.toml of the district's data folder; a second time changes nothing."""
    folder = settings().district_folder
    try:
        files = plans.read_folder(folder) if path is None else [plans.read_file(path)]
        added = run_transaction(lambda session: plans.load(session, files))
    except SortingPlanError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"sorting: {len(files)} plans read, added {', '.join(added) or 'nothing new'}", err=True)


@sorting.command("draw")
def draw() -> None:
    """Draw spot-checks from what was recorded since the last time, as the worker does every five minutes."""
    click.echo(f"sorting: {draw_now()} drops drawn for a check", err=True)
