"""`flask review …`: what an operator does with review and its detectors."""

import click
from flask.cli import AppGroup

from points.review import detecting, editions, jobs
from points.review.editions import ReviewDataError
from server.clock import now
from server.database import run_transaction
from server.settings import settings

review = AppGroup("review", help="Review by people, and the detectors.")


@review.command("load")
def load() -> None:
    """Load the editions review-*.toml of the district's data folder; a second time changes nothing."""
    try:
        files = editions.read_folder(settings().district_folder)
        added = run_transaction(lambda session: editions.load(session, files))
    except ReviewDataError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"review: {len(files)} editions in the data folder, added {', '.join(added) or 'nothing new'}", err=True)


@review.command("look")
def look() -> None:
    """Let the detectors look now and put all that waits into the queue. The worker does it every few minutes."""
    brought = run_transaction(lambda session: detecting.look_since_last(session, detecting.installed(), now=now()))
    opened = jobs.open_everything_waiting()
    click.echo(f"review: {brought} leads opened or grown, {opened} held claims put into the queue", err=True)
