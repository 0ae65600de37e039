"""`flask carbon …`: what an operator does with carbon methods."""

from datetime import datetime

import click
import sqlalchemy as sa
from flask.cli import AppGroup

from points.carbon import methods
from points.carbon.methods import MethodDataError
from points.carbon.models import Factor, FactorUnit, Method
from points.carbon.replay import Replay, replay
from server.clock import business_day, now
from server.database import run_transaction, transaction
from server.errors import DomainError

carbon = AppGroup("carbon", help="Carbon methods: what an activity saves.")

_DAY = click.DateTime(["%Y-%m-%d"])


@carbon.command("load")
def load_methods() -> None:
    """Load the packaged methods; a second time changes nothing."""
    try:
        found = methods.read_methods()
        click.echo(f"carbon: {len(found)} methods in the data files", err=True)
        added = run_transaction(lambda session: methods.load(session, found, on=business_day(now())))
    except MethodDataError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"carbon: added {', '.join(added) or 'nothing new'}", err=True)


@carbon.command("list")
def list_methods() -> None:
    """Print every method and its factors with source and confidence."""
    with transaction() as session:
        found = session.scalars(sa.select(Method).order_by(Method.kind, Method.id)).all()
        factors = session.scalars(sa.select(Factor).order_by(Factor.method_id, Factor.key)).all()
    for method in found:
        mark = "  default" if method.is_default else ""
        until = f" to {method.valid_to}" if method.valid_to else ""
        click.echo(f"{method.id}  {method.kind}  [{method.confidence}]  from {method.valid_from}{until}{mark}")
        click.echo(f"  {method.title_zh} / {method.title_en}")
        for factor in factors:
            if factor.method_id == method.id:
                note = f"; {factor.note}" if factor.note else ""
                click.echo(f"  {factor.key:<22}{factor.stated:>12}  [{factor.confidence}]  {factor.source}{note}")


@carbon.command("replay")
@click.option("--method", "method_id", required=True, help="The method to recompute under.")
@click.option("--from", "first", type=_DAY, required=True, help="The first business day.")
@click.option("--to", "last", type=_DAY, required=True, help="The last business day, included.")
def replay_method(method_id: str, first: datetime, last: datetime) -> None:
    """Print by mode what another method would have saved. Changes nothing."""
    if last < first:
        raise click.BadParameter("--to lies before --from")
    try:
        with transaction() as session:
            done = replay(session, method_id, first_on=first.date(), last_on=last.date())
    except DomainError as error:
        raise click.ClickException(str(error)) from error
    _print(done)


def _print(done: Replay) -> None:
    """One line for each mode and recorded method. No total: figures of different methods are not added up."""
    unit = "m" if done.unit is FactorUnit.METRE else "g"
    grams = "".join(f"{word + ' g':>18}" for word in ("recorded", "replayed", "difference"))
    click.echo(f"{'mode':<22}{'recorded under':<26}{'activities':>12}{'quantity ' + unit:>16}{grams}")
    for row in done.rows:
        click.echo(
            f"{row.mode:<22}{row.recorded_method_id or '-':<26}{row.activities:>12}{row.quantity:>16}"
            f"{_grams(row.recorded_saved_mg):>18}{_grams(row.replayed_saved_mg):>18}{_grams(row.difference_mg):>18}"
        )
    click.echo(f"replayed under {done.method.id} [{done.method.confidence}]; paid points are not touched", err=True)


def _grams(milligrams: int) -> str:
    """Milligrams as grams, exactly."""
    sign = "-" if milligrams < 0 else ""
    return f"{sign}{abs(milligrams) // 1000}.{abs(milligrams) % 1000:03}"
