"""`flask creation …`: what an operator does with the creation programmes."""

import time

import click
from flask.cli import AppGroup

from campaigns.creation import jobs, programmes
from campaigns.creation.rubric_entries import CreationDataError, read_programmes, read_rubrics
from server.clock import now
from server.database import run_transaction
from server.settings import settings

creation = AppGroup("creation", help="Programmes, rubrics and applications of the creations (创建).")


@creation.command("load")
def load() -> None:
    """Load programmes, targets and rubrics of the district's data folder; a second time changes nothing."""
    configured = settings()
    at = now()
    try:
        file, rubrics = read_programmes(configured.district_folder), read_rubrics(configured.district_folder)
        done = run_transaction(lambda session: programmes.load(session, file, rubrics, now=at))
    except CreationDataError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"creation: {done.programmes} programmes, {done.targets} targets; "
        f"{done.rubrics_added} rubrics added, {done.rubrics_unchanged} as before",
        err=True,
    )


@creation.command("daily")
def daily() -> None:
    """Do the day's work now: end notices, begin re-checks, tell of overdue steps. The worker does it every night."""
    done = jobs.run_daily(scheduled_at=int(time.time()))
    click.echo("creation: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in done.items()), err=True)
