"""`flask counts refresh`: all kept counts by period; `verify` and `forget-participation`: those of participation."""

import time
from datetime import datetime

import click

from campaigns.statistics import verification
from campaigns.statistics.counting import CountIsRunning, forget_everything
from campaigns.statistics.jobs import count_everything_due
from points.earning.commands import counts
from points.ledger.commands import prove
from points.statistics.commands import refresh_activity
from points.statistics.marks import FIRST_DAY
from server.database import run_transaction


@counts.command("refresh")
def refresh_counts() -> None:
    """Count activity and participation of every day and campaign that changed since its last count."""
    refresh_activity()
    began = time.perf_counter()
    try:
        campaigns, days, periods = count_everything_due(FIRST_DAY)
    except CountIsRunning as error:
        raise click.ClickException("another process is counting; try again in a minute") from error
    spent = time.perf_counter() - began
    click.echo(f"counts: {campaigns} campaigns, {days} changed days, {periods} periods in {spent:.1f} s", err=True)


@counts.command("forget-participation")
@click.confirmation_option(prompt="Registered residents of past periods cannot be counted again. Go on?")
def forget_participation() -> None:
    """Drop every kept count of participation; `flask counts refresh` makes them anew."""
    try:
        run_transaction(forget_everything)
    except CountIsRunning as error:
        raise click.ClickException("another process is counting; try again in a minute") from error
    click.echo("counts: dropped; run `flask counts refresh`", err=True)


@counts.command("verify")
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%d"]), default=None, help="Only periods that begin on this day or later."
)
def verify_counts(since: datetime | None) -> None:
    """Prove the counts of participation; name the first row that is wrong, exit status 1."""
    prove(lambda session: verification.verify(session, since=since.date() if since else FIRST_DAY))
