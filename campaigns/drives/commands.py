"""`flask campaigns …`: what an operator does with campaigns."""

import click
from flask.cli import AppGroup

from campaigns.drives.campaigns import close_ended
from server.clock import now
from server.database import run_transaction

campaigns = AppGroup("campaigns", help="Campaigns with a behaviour target.")


@campaigns.command("close-ended")
def close_ended_campaigns() -> None:
    """Close open campaigns whose last day has passed; a second time changes nothing."""
    at = now()
    closed = run_transaction(lambda session: close_ended(session, now=at))
    click.echo(f"campaigns: {len(closed)} closed", err=True)
