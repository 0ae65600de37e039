"""`flask counts rebuild-activity|verify-activity`: the kept counts of activity by period and place.

`counts refresh`, which stands in `campaigns.statistics.commands`, brings these up to date too.
"""

import time
from datetime import datetime

import click

from points.earning.commands import counts
from points.ledger.commands import prove
from points.statistics import verification
from points.statistics.counting import CountIsRunning, forget_everything
from points.statistics.jobs import count_everything_due
from points.statistics.marks import FIRST_DAY
from points.statistics.periods import CalendarPeriod
from server.database import run_transaction


@counts.command("rebuild-activity")
def rebuild_activity() -> None:
    """Count activity of all periods anew from the activities; reports show the former counts meanwhile."""
    try:
        run_transaction(forget_everything)
    except CountIsRunning as error:
        raise click.ClickException("another process is counting; try again in a minute") from error
    refresh_activity()


@counts.command("verify-activity")
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%d"]), default=None, help="Only periods that begin on this day or later."
)
def verify_activity(since: datetime | None) -> None:
    """Prove the counts of activity from the activities; name the first row that is wrong, exit status 1."""
    prove(lambda session: verification.verify(session, since=since.date() if since else FIRST_DAY))


def refresh_activity() -> None:
    """Count activity of every period that holds a day changed since its last count, telling how far it is."""
    began = time.perf_counter()

    def tell(period: CalendarPeriod, left: int) -> None:
        spent = time.perf_counter() - began
        click.echo(f"counts: {period.grain.value} of {period.starts_on}, {left} left, {spent:.0f} s so far", err=True)

    try:
        counted = count_everything_due(FIRST_DAY, tell=tell)
    except CountIsRunning as error:
        raise click.ClickException("another process is counting; try again in a minute") from error
    spent = time.perf_counter() - began
    click.echo(f"counts: activity of {counted.days} days, {counted.periods} periods in {spent:.1f} s", err=True)
