"""`flask tracks …`: the district's thresholds and lines, and erasing by hand."""

import click
from flask.cli import AppGroup

from points.travel import checks, jobs, lines
from points.travel.checks import CheckDataError
from server.settings import settings

tracks = AppGroup("tracks", help="Recorded tracks: thresholds, transit lines, erasure.")


@tracks.command("load")
def load() -> None:
    """Check the data folder's thresholds (tracks-*.toml) and lines (transit-lines.csv), which are read from there."""
    folder = settings().district_folder
    try:
        editions, found = checks.editions(folder), lines.read(folder)
    except CheckDataError as error:
        raise click.ClickException(str(error)) from error
    named = len({line.id for line in found})
    click.echo(f"tracks: {len(editions)} editions of thresholds, {named} transit lines", err=True)


@tracks.command("forget")
def forget() -> None:
    """Do now what the hourly job does: erase what is thirty days old, settle rides whose record has come."""
    done = jobs.run_due()
    click.echo(f"tracks: {done['erased']} erased, {done['settled']} rides settled", err=True)
