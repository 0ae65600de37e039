"""`flask recycling …`."""

import click
from flask.cli import AppGroup

from points.waste.orders import jobs, materials, timetable
from points.waste.orders.materials import CatalogueError
from points.waste.orders.timetable import TimetableError
from server.clock import now
from server.database import run_transaction
from server.settings import settings

recycling = AppGroup("recycling", help="What is recycled, and when collectors come.")


@recycling.command("load")
def load_recycling() -> None:
    """Load the catalogues and the timetable of the district's data folder; a second time changes nothing."""
    folder = settings().district_folder
    try:
        files = materials.read_folder(folder)
        plans = timetable.read_timetable(folder / timetable.TIMETABLE_FILE)
        added = run_transaction(lambda session: materials.load(session, files, now=now()))
        planned = run_transaction(lambda session: timetable.load_timetable(session, plans, now=now()))
    except (CatalogueError, TimetableError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"recycling: {len(files)} catalogues in the data folder, added {', '.join(added) or 'nothing new'}; "
        f"{planned} plans added",
        err=True,
    )


@recycling.command("run-due")
def run_due() -> None:
    """Do at once what the job does every five minutes: orders lapse, and slips settle by silence."""
    click.echo(f"recycling: {jobs.run_due()} orders moved", err=True)
