"""`flask ledger …`: expiry by hand; `points/earning/commands.py` adds the proof."""

import sys
import time
from collections.abc import Callable, Iterator

import click
import sqlalchemy as sa
from flask.cli import AppGroup
from sqlalchemy.orm import Session

from points.ledger import entries
from points.ledger.verification import Finding
from server.clock import now
from server.database import run_transaction, transaction

ledger = AppGroup("ledger", help="The points ledger.")


@ledger.command("expire")
def expire() -> None:
    """Expire ended lots now, as the nightly job does."""
    total = 0
    while emptied := run_transaction(lambda session: entries.expire(session, now=now())):
        total += emptied
        click.echo(f"ledger: {total} lots expired so far", err=True)
    click.echo(f"ledger: {total} lots expired", err=True)


def prove(find: Callable[[Session], Iterator[Finding]]) -> None:
    """Print what each check finds, all in one snapshot, and the first row that is wrong; exit status 1 if one is."""
    began, wrong = time.perf_counter(), 0
    with transaction() as session:
        # What is written meanwhile cannot look like a difference.
        session.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        session.execute(sa.text("SET LOCAL statement_timeout = 0"))
        for finding in find(session):
            mark = "ok   " if finding.first_wrong is None else "WRONG"
            click.echo(f"{mark}  {finding.name}  ({finding.looked_at:,} rows)")
            if finding.first_wrong is not None:
                wrong += 1
                click.echo("       first: " + ", ".join(f"{key}={value}" for key, value in finding.first_wrong.items()))
    click.echo(f"{'proved' if not wrong else f'{wrong} checks FAILED'} in {time.perf_counter() - began:.2f} s")
    sys.exit(1 if wrong else 0)
