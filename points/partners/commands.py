"""`flask partners …`: dead letters, and what an operator does without the API."""

import click
import sqlalchemy as sa
from flask.cli import AppGroup

from points.partners import feed, registry
from points.partners.models import DeadLetter
from server.clock import now
from server.database import run_transaction, transaction
from server.errors import DomainError

partners = AppGroup("partners", help="Partners and their dead letters.")


@partners.command("letters")
@click.option("--partner", "code", required=True)
@click.option("--limit", default=20, type=click.IntRange(1, 1000))
def letters(code: str, limit: int) -> None:
    """Print how many dead letters wait by reason, and the oldest of them, without their content."""
    waiting = (DeadLetter.partner_code == code, DeadLetter.redriven_at.is_(None))
    with transaction() as session:
        counted = session.execute(
            sa.select(DeadLetter.reason, sa.func.count())
            .where(*waiting)
            .group_by(DeadLetter.reason)
            .order_by(sa.text("2 DESC"))
        ).all()
        oldest = session.scalars(sa.select(DeadLetter).where(*waiting).order_by(DeadLetter.id).limit(limit)).all()
    for reason, count in counted:
        click.echo(f"{count:>8}  {reason}")
    for letter in oldest:
        click.echo(f"{letter.received_at:%Y-%m-%d %H:%M:%S}  {letter.batch_id}:{letter.line_number}  {letter.reason}")


@partners.command("redrive")
@click.option("--partner", "code", required=True)
@click.option("--limit", default=feed.LINES_MAX, type=click.IntRange(1, feed.LINES_MAX))
def redrive(code: str, limit: int) -> None:
    """Drive waiting dead letters through the feed again, after a mend of the parser, the rules or the budget."""
    instant = now()
    try:
        outcomes = run_transaction(
            lambda session: feed.redrive(session, registry.get(session, code), limit=limit, now=instant)
        )
    except DomainError as error:
        raise click.ClickException(f"{error.code}: {error.title_en}") from error
    for outcome, count in sorted(outcomes.items()):
        click.echo(f"{count:>8}  {outcome}")
    click.echo(f"partners: {sum(outcomes.values())} letters driven", err=True)
