"""Background work by procrastinate: jobs live in PostgreSQL and are enqueued in the caller's own transaction."""

import copy
from collections.abc import Callable
from datetime import datetime
from typing import Any

import procrastinate
from flask import Flask
from procrastinate.manager import JobManager
from sqlalchemy.orm import Session

from server.database import APPLICATION_ROLE, run_transaction


def make_app(database_url: str, blueprints: dict[str, procrastinate.Blueprint]) -> procrastinate.App:
    """The job application over its own small pool, in the application's database role."""
    connector = procrastinate.PsycopgConnector(
        conninfo=database_url,
        kwargs={"options": f"-c timezone=UTC -c role={APPLICATION_ROLE}", "application_name": "tanpuhui-worker"},
        min_size=1,
        max_size=4,
    )
    app = procrastinate.App(connector=connector)
    for namespace, tasks in blueprints.items():
        # A copy: adding renames the tasks, and a process may make more than one application.
        app.add_tasks_from(copy.deepcopy(tasks), namespace=namespace)
    return app


def install(app: Flask, database_url: str, blueprints: dict[str, procrastinate.Blueprint]) -> None:
    """Give the application its jobs; nothing connects before a worker runs."""
    app.extensions["tanpuhui_jobs"] = make_app(database_url, blueprints)


def run_rounds(work: Callable[[Session], int], *, rounds_max: int, full_round: int = 1) -> int:
    """Do `work` in transactions of its own until a round does less than a full one; how much was done in all.

    What a job does is bounded twice: each round by `work` itself, and the rounds by `rounds_max`. What is left waits
    for the job's next time.
    """
    total = 0
    for _ in range(rounds_max):
        done = run_transaction(work)
        total += done
        if done < full_round:
            break
    return total


# Never opened: it writes on the connection that it is given. The worker's own connector is asynchronous once it is
# open, so a job could not enqueue another one through it.
_WRITER = JobManager(procrastinate.SyncPsycopgConnector())


def enqueue(
    session: Session, jobs: procrastinate.App, name: str, *, at: datetime | None = None, **arguments: Any
) -> None:
    """Enqueue the job `namespace:name` in the session's transaction: it exists exactly if what asks for it does."""
    connection = session.connection().connection.driver_connection
    deferrer = jobs.configure_task(name, connection=connection, schedule_at=at)
    deferrer.job_manager = _WRITER
    deferrer.defer(**arguments)
