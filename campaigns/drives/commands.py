"""`flask campaigns …`: what an operator does with campaigns."""

import click
from flask.cli import AppGroup

from campaigns.drives.moves import advance
from server.clock import now
from server.database import run_transaction

campaigns = AppGroup("campaigns", help="Campaigns: their life by the calendar.")


@campaigns.command("advance")
def advance_campaigns() -> None:
    """Start campaigns on their first day and end them after their last; a second time changes nothing."""
    at = now()
    moved = run_transaction(lambda session: advance(session, now=at))
    click.echo(
        f"campaigns: {len(moved.published)} published, {len(moved.started)} started, {len(moved.ended)} ended", err=True
    )
