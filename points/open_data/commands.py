"""`flask statistics release|releases`: the frozen figures that everybody may read."""

import time

import click
from flask.cli import AppGroup

from points.open_data import releases
from points.open_data.jobs import release_period
from server.database import transaction
from server.errors import DomainError

LISTED_MAX = 100

statistics = AppGroup("statistics", help="Public statistics: releases, frozen by period.")


@statistics.command("release")
@click.argument("period")
@click.option("--reason", default=None, help="Of a correction: PERIOD has a release, and this one replaces it.")
def release(period: str, reason: str | None) -> None:
    """Release PERIOD: 2026-10, 2026-Q4 or 2026. It is frozen from then on."""
    began = time.perf_counter()
    try:
        wanted = releases.read_name(period)
        if wanted.revision is not None:
            raise releases.PeriodNameInvalid
        made = release_period(wanted.period, reason=reason)
    except DomainError as error:
        raise click.ClickException(f"{error.title_en}: {error.detail or error.code}") from error
    click.echo(
        f"statistics: {releases.name_of(made)} released, {made.cell_count:,} cells in {made.file_count} files,"
        f" sha256 {made.content_sha256.hex()}, in {time.perf_counter() - began:.1f} s"
    )


@statistics.command("releases")
def list_releases() -> None:
    """List the releases, the last frozen first."""
    with transaction() as session:
        for each in releases.list_releases(session, limit=LISTED_MAX, cursor=None).items:
            note = f"  replaced by {each.replaced_by}" if each.replaced_by else ""
            click.echo(f"{each.name:12}  {each.first_on} to {each.last_on}  {each.content_sha256[:16]}{note}")
