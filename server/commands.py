"""`flask worker` and `flask openapi …`."""

import difflib
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import click
import procrastinate
from flask import Flask, current_app
from flask.cli import AppGroup, with_appcontext

from server.pages import ROOT, openapi_text

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


def _application() -> Flask:
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]  # of the proxy
    return app
