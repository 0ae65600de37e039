"""`flask annual-report make|publish|show|save`: the annual report from the machine itself.

Every act names the member of staff that it is done for: what needs two people needs two names here too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from flask.cli import AppGroup
from sqlalchemy.orm import Session

from campaigns.annual_report import documents, jobs, reports, wording
from campaigns.annual_report.content import STATUS_EN, STATUS_ZH
from campaigns.annual_report.indicators import IndicatorsError
from campaigns.annual_report.models import DOCUMENT, REASON_LENGTH_MAX, YEAR_MAX, YEAR_MIN, AnnualReport
from points.share.releases.goal import GoalDataError
from server.access import Actor, Permission
from server.clock import now
from server.database import run_transaction, transaction
from server.errors import DomainError, NotFound
from server.people.acting import actor_named
from server.settings import settings

annual_report = AppGroup("annual-report", help="The annual assessment of the plan's targets (目标任务年度评估).")

Done = TypeVar("Done")

_AS = click.option("--as", "staff_name", required=True, help="The member of staff who does this.")
_YEAR = click.argument("year", type=click.IntRange(YEAR_MIN, YEAR_MAX))


@annual_report.command("make")
@_YEAR
@click.option("--reason", help="Why the published report of the year is corrected.")
@_AS
def make(year: int, reason: str | None, staff_name: str) -> None:
    """Assess a year as a draft and draw its documents, now and in this process."""
    text = None if reason is None else reason[:REASON_LENGTH_MAX]
    made = _acting(
        staff_name,
        lambda session, actor: reports.make(session, actor, _folder(), year=year, reason=text, jobs=None, now=now()),
    )
    _told(lambda: jobs.draw_documents(made.id))
    _print(made)


@annual_report.command("publish")
@_YEAR
@_AS
def publish(year: int, staff_name: str) -> None:
    """Publish the year's draft, which another person made. It never changes afterwards."""
    published = _acting(
        staff_name,
        lambda session, actor: reports.publish(
            session, actor, _folder(), reports.draft_of(session, year).id, now=now()
        ),
    )
    click.echo(f"published {published.year}-{published.revision}  sha256 {published.sha256.hex()}")


@annual_report.command("show")
@_YEAR
def show(year: int) -> None:
    """Print a year's draft, or else its published report."""
    _print(_told(lambda: _any(year)))


@annual_report.command("save")
@_YEAR
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def save(year: int, path: Path) -> None:
    """Write the document of a year's draft, or else of its published report, to a file."""

    def content() -> bytes:
        found = _any(year)
        with transaction() as session:
            return documents.file_of(session, found.id, DOCUMENT).content

    path.write_bytes(_told(content))
    click.echo(f"annual-report: {path}", err=True)


def _any(year: int) -> AnnualReport:
    with transaction() as session:
        try:
            return reports.draft_of(session, year)
        except NotFound:
            return reports.published_report(session, year)


def _print(report: AnnualReport) -> None:
    content = reports.content_of(report)
    click.echo(f"{content.title_zh}  {report.year}-{report.revision}  {report.state.value}")
    for indicator in content.indicators:
        words = wording.short(indicator)
        target = wording.target(indicator.target, indicator.unit)
        status = f"{STATUS_ZH[indicator.status]} {STATUS_EN[indicator.status]}"
        click.echo(f"  {indicator.code}  {words}  {target}  {status}")
    click.echo(f"sha256 {report.sha256.hex()}")


def _acting(staff_name: str, work: Callable[[Session, Actor], AnnualReport]) -> AnnualReport:
    return _told(
        lambda: run_transaction(
            lambda session: work(session, actor_named(session, staff_name, Permission.ANNUAL_REPORT))
        )
    )


def _told(work: Callable[[], Done]) -> Done:
    """What `work` gives; a refusal in the words of a command."""
    try:
        return work()
    except DomainError as error:
        raise click.ClickException(f"{error.code}: {error}") from error
    except (IndicatorsError, GoalDataError) as error:
        raise click.ClickException(str(error)) from error


def _folder() -> Path:
    return settings().district_folder
