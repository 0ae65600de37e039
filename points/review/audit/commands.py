"""`flask audits …`: random audits on the machine itself."""

import time

import click
import sqlalchemy as sa
from flask.cli import AppGroup

from points.review.audit import checking, drawing
from points.review.audit.checking import Report
from points.review.audit.estimating import Rate
from points.review.audit.jobs import draw_sample
from points.review.audit.models import RandomAudit
from server.clock import now
from server.database import transaction
from server.errors import DomainError
from server.settings import settings

audits = AppGroup("audits", help="Random audits of paid claims, by quarter.")


@audits.command("draw")
@click.argument("quarter")
def draw(quarter: str) -> None:
    """Draw the sample of QUARTER, such as 2026-Q4. It is drawn once."""
    folder = settings().district_folder
    began = time.perf_counter()
    try:
        with transaction() as session:
            asked = drawing.request(session, None, folder, drawing.quarter_named(quarter), jobs=None, now=now())
        made = draw_sample(asked.id)
    except DomainError as error:
        raise click.ClickException(f"{error.title_en}: {error.detail or error.code}") from error
    if made is None:
        raise click.ClickException("It was drawn by somebody else in the meantime")
    click.echo(
        f"audits: {made.items_count} claims of {made.strata_count} behaviours and sources drawn for {quarter} "
        f"in {time.perf_counter() - began:.1f} s",
        err=True,
    )


@audits.command("verify")
@click.argument("quarter")
def verify(quarter: str) -> None:
    """Draw the sample of QUARTER again from its seed and compare; a difference is an error."""
    with transaction() as session:
        drawn = _of(session, quarter)
        same = drawing.drawn_again(session, drawn)
    if not same:
        raise click.ClickException(f"{quarter}: the seed draws another sample than the one that is kept")
    click.echo(f"{quarter}: drawn again from the seed {drawn.seed.hex()}, {drawn.items_count} claims, the same")


@audits.command("report")
@click.argument("quarter")
def report(quarter: str) -> None:
    """Print the rates of wrongful payment of QUARTER with their 95 % intervals."""
    with transaction() as session:
        _print(checking.report(session, _of(session, quarter).id))


def _of(session: sa.orm.Session, quarter: str) -> RandomAudit:
    try:
        starts_on = drawing.quarter_named(quarter)
    except DomainError as error:
        raise click.ClickException(error.title_en) from error
    found = session.scalar(sa.select(RandomAudit).where(RandomAudit.starts_on == starts_on))
    if found is None or found.drawn_at is None:
        raise click.ClickException(f"{quarter} has no drawn audit; `flask audits draw {quarter}` draws one")
    return found


def _print(made: Report) -> None:
    heads = ("claims", "drawn", "right", "wrong", "untold", "open")
    click.echo(f"{'behaviour':<11}{'source':<22}{''.join(f'{head:>9}' for head in heads)}  wrong claims / points, 95 %")
    for stratum in made.strata:
        found = stratum.found
        numbers = (
            found.claims,
            stratum.sampled_claims,
            found.right,
            found.wrong,
            found.cannot_be_told,
            stratum.unchecked_claims,
        )
        click.echo(
            f"{stratum.behaviour.value:<11}{stratum.source:<22}{''.join(f'{number:>9}' for number in numbers)}"
            f"  {_rate(stratum.claims_rate)} / {_rate(stratum.points_rate)}"
        )
    click.echo(f"in all: {_rate(made.claims_rate)} of the claims, {_rate(made.points_rate)} of the points")
    if made.unchecked_claims:
        click.echo(f"not final: {made.unchecked_claims} claims are still to be checked", err=True)


def _rate(rate: Rate) -> str:
    value = "?" if rate.value is None else f"{100 * rate.value:.2f} %"
    return f"{value} ({100 * rate.low:.2f}-{100 * rate.high:.2f})"
