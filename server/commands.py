"""`flask worker`, `flask prepare`, `flask openapi …` and `flask clock …`."""

import difflib
from collections.abc import Callable
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import click
import procrastinate
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext
from flask_migrate import upgrade

from server import boot
from server.clock import REHEARSAL_DAYS_MAX, ahead, now
from server.pages import ROOT, openapi_text
from server.settings import settings

# Two, so that a long job at night does not hold up the short ones; their work is PostgreSQL's.
JOBS_AT_ONCE = 2
# Less than what a supervisor allows before it kills.
FINISH_SECONDS_MAX = 25
DIFFERENCE_LINES_MAX = 60


@click.command("worker")
@with_appcontext
def worker() -> None:
    """Run background jobs until SIGTERM or SIGINT, then finish what is running."""
    app = _application()
    jobs: procrastinate.App = app.extensions["tanpuhui_jobs"]

    def in_context(run: Callable[[], Any], *_: object) -> Any:
        # A context for each job: the database session belongs to a context, and two jobs must not share one.
        with app.app_context():
            return run()

    click.echo("worker: waiting for jobs", err=True)
    jobs.run_worker(
        concurrency=JOBS_AT_ONCE,
        shutdown_graceful_timeout=FINISH_SECONDS_MAX,
        # What failed stays, with its attempts, for a person to look at.
        delete_jobs="successful",
        task_middleware=[in_context],
    )
    click.echo("worker: stopped", err=True)


# In this order: rules and programmes name places and methods.
DISTRICT_DATA = (
    "places",
    "codes",
    "carbon",
    "rules",
    "review",
    "sorting",
    "recycling",
    "tracks",
    "guide",
    "creation",
    "share",
)


@click.command("prepare")
@click.option("--schema", is_flag=True, help="First bring the schema to the newest, as `db upgrade` does.")
@click.option("--sample", is_flag=True, help="Then load the sample people and partners, for development.")
@click.pass_context
@with_appcontext
def prepare(context: click.Context, *, schema: bool, sample: bool) -> None:
    """Load all of the district's data folder: places, methods, rules, … A second time changes nothing."""
    if schema:
        upgrade(directory=str(boot.MIGRATIONS))
    for name in (*DISTRICT_DATA, *(["sample"] if sample else [])):
        group = _application().cli.commands[name]
        if not isinstance(group, click.Group):
            raise TypeError(f"{name} is no group of commands")
        context.invoke(group.commands["load"])


openapi = AppGroup("openapi", help="The API's description, openapi.json.")


@openapi.command("check")
def check() -> None:
    """Compare the committed openapi.json with the code; a difference is an error."""
    committed = ROOT / "openapi.json"
    before = committed.read_text("utf-8") if committed.exists() else ""
    after = openapi_text(_application())
    if before == after:
        click.echo("openapi: openapi.json is up to date", err=True)
        return
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "openapi.json", "the code", n=2, lineterm="")
    for line in islice(lines, DIFFERENCE_LINES_MAX):
        click.echo(line)
    raise click.ClickException("openapi.json differs from the code; if the change is meant, run `make openapi`")


@openapi.command("write")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def write(path: Path) -> None:
    """Write the description to PATH."""
    path.write_text(openapi_text(_application()), "utf-8")
    click.echo(f"openapi: wrote {path}", err=True)


clock = AppGroup("clock", help="Rehearse: move a development service's clock forward.")


@clock.command("forward")
@click.argument("days", type=click.IntRange(1, REHEARSAL_DAYS_MAX))
def forward(days: int) -> None:
    """Move the clock of a development service DAYS ahead of where it is; the running service follows at once."""
    file = _rehearsal_file()
    moved = ahead(file) + timedelta(days=days)
    if moved > timedelta(days=REHEARSAL_DAYS_MAX):
        raise click.ClickException(f"The clock cannot be more than {REHEARSAL_DAYS_MAX} days ahead.")
    # Whole or not at all: a running service reads it at every look at its clock.
    written = file.with_suffix(".new")
    written.write_text(str(int(moved.total_seconds())), encoding="ascii")
    written.replace(file)
    click.echo(f"clock: {now():%Y-%m-%d %H:%M} UTC", err=True)


@clock.command("real")
def real() -> None:
    """Bring the clock back to the real time. What was recorded ahead of it stays, so this is for a new data folder."""
    _rehearsal_file().unlink(missing_ok=True)
    click.echo(f"clock: {now():%Y-%m-%d %H:%M} UTC", err=True)


def _rehearsal_file() -> Path:
    file = settings().rehearsal_file
    if file is None:
        raise click.ClickException("Only a development service can be rehearsed; this one is in production.")
    return file


def _application() -> Flask:
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]  # of the proxy
    return app
