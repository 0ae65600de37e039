"""`flask ledger …`: expiry by hand; `points/earning/commands.py` adds the proof."""

import click
from flask.cli import AppGroup

from points.ledger import entries
from server.clock import now
from server.database import run_transaction

ledger = AppGroup("ledger", help="The points ledger.")


@ledger.command("expire")
def expire() -> None:
    """Expire ended lots now, as the nightly job does."""
    total = 0
    while emptied := run_transaction(lambda session: entries.expire(session, now=now())):
        total += emptied
        click.echo(f"ledger: {total} lots expired so far", err=True)
    click.echo(f"ledger: {total} lots expired", err=True)
