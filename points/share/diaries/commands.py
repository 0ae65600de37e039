"""`flask share rounds|close-rounds`: own diaries, beside the commands of the surveys."""

import time

import click
import sqlalchemy as sa

from points.share.diaries import jobs
from points.share.diaries.models import DiaryRound
from points.share.survey.commands import share
from server.database import transaction

ROUNDS_SHOWN_MAX = 200


@share.command("rounds")
def show_rounds() -> None:
    """List the rounds of own diaries, newest first."""
    with transaction() as session:
        rounds = session.scalars(sa.select(DiaryRound).order_by(DiaryRound.id.desc()).limit(ROUNDS_SHOWN_MAX)).all()
        for held in rounds:
            click.echo(
                f"{held.code}  {held.state.value}  {held.first_on} – {held.last_on}, closes {held.closes_on}  "
                f"{held.drawn} drawn  {held.name}"
            )
    if not rounds:
        click.echo("share: no rounds of diaries", err=True)


@share.command("close-rounds")
def close_rounds() -> None:
    """Do now what the worker does every hour: tell, remind, close what is due, delete old rows about people."""
    done = jobs.run_due(scheduled_at=int(time.time()))
    click.echo("share: diaries: " + ", ".join(f"{count} {name}" for name, count in done.items()), err=True)
