"""Making exports, and forgetting them."""

import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast
from uuid import UUID

import procrastinate
import structlog
from sqlalchemy.orm import Session

from server.clock import now
from server.database import db, run_transaction, transaction
from server.errors import DomainError, InternalError, NotFound
from server.exports import exports, writing
from server.exports.exports import ExportGaveUp
from server.exports.models import Export
from server.exports.registry import Cell, desk
from server.exports.writing import Written
from server.files import store
from server.jobs import run_rounds

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

ROUNDS_MAX = 100


class _Stopped(Exception):
    """The export was cancelled, or another run has taken it over."""


@tasks.task(name="run", pass_context=False)
def run(export_id: str) -> None:
    """Make one export. Run again after its worker died, it begins anew; cancelled, it stops within 10,000 rows."""
    export = run_transaction(lambda session: exports.begin(session, UUID(export_id), now=now()))
    if export is None:
        # Finished already; or every attempt died, which is then told.
        _end(UUID(export_id), ExportGaveUp.code)
        return
    try:
        _make(export)
    except _Stopped:
        log.info("export_stopped", export_id=export_id)
    except DomainError as refusal:
        _end(export.id, refusal.code)
        log.info("export_refused", export_id=export_id, problem=refusal.code)
    except Exception:
        _end(export.id, InternalError.code)
        raise  # the failed job stays for a person to look at


@tasks.periodic(cron="30 19 * * *")  # 03:30 Asia/Shanghai
@tasks.task(name="forget", queueing_lock="forget-exports", lock="forget-exports", pass_context=False)
def forget(timestamp: int) -> None:
    """Delete the exports that have run out, and their files."""
    forgotten = run_rounds(lambda session: exports.forget_old(session, now=now()), rounds_max=ROUNDS_MAX)
    removed = store.sweep(store.EXPORTS, _kept, now=now())
    log.info("exports_forgotten", exports=forgotten, files=removed, scheduled_at=timestamp)


def _make(export: Export) -> None:
    """Write the file, put it into the store, and give the export its manifest. Raises _Stopped, DomainError."""
    # A name for each run: one that was taken for dead and wakes writes over nobody's file.
    name = f"{store.EXPORTS}/{export.id.hex[-2:]}/{export.id}-{export.attempts}.{export.format.value}"
    with tempfile.TemporaryDirectory(prefix="tanpuhui-") as folder:
        path = Path(folder) / "export"
        columns, written = _written(export, path)
        # Outside the snapshot: a slow bucket must not hold a transaction open.
        store.store().write_from(name, path)
    done = run_transaction(
        lambda session: exports.finish(
            session,
            export.id,
            attempt=export.attempts,
            columns=columns,
            written=written,
            store_name=name,
            now=now(),
        )
    )
    if not done:
        raise _Stopped
    log.info(
        "export_done", export_id=str(export.id), kind=export.kind, rows=written.rows, size_bytes=written.size_bytes
    )


def _written(export: Export, path: Path) -> tuple[Sequence[str], Written]:
    """The headings, and what was written to `path`, with the rights and the data of this moment."""
    with closing(_content(export)) as content:
        columns = cast("Sequence[str]", next(content))
        written = writing.write(
            columns,
            content,
            path,
            format=export.format,
            made_at=export.started_at or now(),
            progress=lambda rows: _go_on(export, rows),
        )
    return columns, written


def _content(export: Export) -> Generator[Sequence[Cell]]:
    """The headings, then the rows. The snapshot ends with the last row, or when the export is given up half-way.

    Packing millions of rows into a spreadsheet afterwards takes longer than the database lets a transaction idle.
    """
    producer = desk().producers.get(export.kind)
    if producer is None:  # of another release
        raise NotFound
    with snapshot() as session:
        actor = exports.actor_of(session, export)
        producer.authorise(session, actor, export.arguments)
        yield producer.columns(session, actor, export.arguments)
        yield from producer.rows(session, actor, export.arguments)


@contextmanager
def snapshot() -> Iterator[Session]:
    """A session of its own that sees the database as it is at its first look, and can change nothing.

    A list that takes a minute to write is of one instant, and its pages neither miss nor double anybody.
    """
    with db.engine.connect() as connection:
        reading = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with Session(reading, autoflush=False) as session:
            yield session


def _go_on(export: Export, rows: int) -> None:
    """Tell how far it is. Raises _Stopped."""
    mine = run_transaction(lambda session: exports.progress(session, export.id, attempt=export.attempts, rows=rows))
    if not mine:
        raise _Stopped


def _end(export_id: UUID, problem: str) -> None:
    run_transaction(lambda session: exports.fail(session, export_id, problem=problem, now=now()))


def _kept(names: Sequence[str]) -> set[str]:
    with transaction() as session:
        return exports.kept_files(session, names)
