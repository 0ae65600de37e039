"""`flask counts refresh|verify|forget`: the kept counts of participation, beside those of the activities."""

import sys
import time
from datetime import datetime

import click
import sqlalchemy as sa

from campaigns.statistics import verification
from campaigns.statistics.counting import CountIsRunning, forget_everything
from campaigns.statistics.jobs import count_everything_due
from campaigns.statistics.marks import FIRST_DAY
from points.earning.commands import counts
from server.database import run_transaction, transaction


@counts.command("refresh")
def refresh_counts() -> None:
    """Count participation of every day and campaign that changed since its last count."""
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
    began, wrong = time.perf_counter(), 0
    with transaction() as session:
        session.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        session.execute(sa.text("SET LOCAL statement_timeout = 0"))
        for finding in verification.verify(session, since=since.date() if since else FIRST_DAY):
            mark = "ok   " if finding.first_wrong is None else "WRONG"
            click.echo(f"{mark}  {finding.name}  ({finding.looked_at:,} rows)")
            if finding.first_wrong is not None:
                wrong += 1
                click.echo("       first: " + ", ".join(f"{key}={value}" for key, value in finding.first_wrong.items()))
    click.echo(f"{'proved' if not wrong else f'{wrong} checks FAILED'} in {time.perf_counter() - began:.2f} s")
    sys.exit(1 if wrong else 0)
