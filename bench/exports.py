"""An export of millions of rows, as the worker makes it: rows a second, and memory that does not grow.

Each in a process of its own, so that its memory is its own. Runs alone with `python -m bench.exports --rows 5000000`,
or as a part of `make bench`.
"""

import argparse
import multiprocessing
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID

import psutil
import psycopg
import sqlalchemy as sa
from sqlalchemy.orm import Session

import wsgi
from bench.running import end_tidily_when_terminated
from bench.stage import Stage, stage
from server.access import Actor, Role
from server.clock import now
from server.database import new_id, transaction
from server.exports import exports, jobs
from server.exports.models import ROWS_MAX, ExportFormat
from server.exports.registry import Cell, Desk, Producer, streamed
from server.files.store import store
from server.people.models import Staff
from server.settings import Settings

ROWS = 5_000_000
DISTRICT = "120104"
SAMPLE_S = 0.25

# As wide as a list of activities: an id, a place, a word, two times, two amounts, a number.
_FILL = """
DROP TABLE IF EXISTS bench_row;
CREATE UNLOGGED TABLE bench_row AS
SELECT gen_random_uuid() AS id, '120104001' || lpad((number % 900)::text, 3, '0') AS community,
       (ARRAY['步行', '自行车', '公交', '地铁', '=分类'])[1 + number % 5] AS behaviour,
       timestamptz '2026-01-01' + number * interval '1 second' AS occurred_at, date '2026-01-01' AS business_day,
       number % 20000 AS distance_m, (number % 997)::numeric / 10 AS saved_co2e_g, number AS position
FROM generate_series(1, {rows}) AS number;
ALTER TABLE bench_row ADD PRIMARY KEY (position);
ANALYZE bench_row;
GRANT SELECT ON bench_row TO tanpuhui_app
"""

COLUMNS = ("id", "community", "behaviour", "occurred_at", "business_day", "distance_m", "saved_co2e_g", "position")


def _rows(session: Session, _actor: Actor, _arguments: Mapping[str, Any]) -> Iterator[Sequence[Cell]]:
    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in COLUMNS]
    yield from streamed(session, sa.select(*columns).select_from(sa.table("bench_row")).order_by(sa.column("position")))


PRODUCER = Producer("bench-rows", "压测", lambda *_: None, lambda *_: COLUMNS, _rows)


@dataclass(frozen=True, slots=True)
class Result:
    """One export: its size, its time, and what its process held. `gap_s`: the longest that a cancellation waits."""

    form: ExportFormat
    rows: int
    sheets: int
    size_bytes: int
    seconds: float
    written_s: float
    gap_s: float
    rss_at_tenth_mib: float
    rss_peak_mib: float

    def words(self) -> str:
        """The result in words."""
        sheets = f", {self.sheets} 张工作表 sheets" if self.sheets else ""
        return (
            f"{self.form}: {self.rows:,} 行 rows, {self.size_bytes / 2**20:,.0f} MiB{sheets}; {self.seconds:.0f} s "
            f"({self.rows / self.seconds:,.0f} 行/s; 末行 last row at {self.written_s:.0f} s); "
            f"RSS 一成时 after a tenth {self.rss_at_tenth_mib:.0f}, 最高 peak {self.rss_peak_mib:.0f} MiB; "
            f"取消至多等待 a cancellation waits at most {self.gap_s:.1f} s"
        )


def measure(on: Stage, *, rows: int = ROWS) -> list[Result]:
    """Fill a table of so many rows, and export it in each form."""
    with psycopg.connect(on.postgres.url, autocommit=True) as connection:
        connection.execute(_FILL.format(rows=rows))  # a number of ours
    actor = _member(on)
    try:
        return [_measured(on, actor, form, rows) for form in ExportFormat]
    finally:
        with psycopg.connect(on.postgres.url, autocommit=True) as connection:
            connection.execute("DROP TABLE bench_row")


def _measured(on: Stage, actor: Actor, form: ExportFormat, rows: int) -> Result:
    export_id = _ask(on, actor, form)
    ours, theirs = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=_work, args=(replace(on.settings, log_level="ERROR"), export_id, theirs))
    worker.start()
    theirs.close()
    peak = at_tenth = last_rows = 0.0
    gap = written_s = 0.0
    began = told = time.perf_counter()
    while worker.is_alive():
        while ours.poll(SAMPLE_S):
            try:
                last_rows = ours.recv()
            except EOFError:
                break
            if told > began:
                gap = max(gap, time.perf_counter() - told)
            told = time.perf_counter()
            if last_rows < rows:
                written_s = told - began
        try:
            held = psutil.Process(worker.pid).memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            break
        peak = max(peak, held)
        if last_rows <= rows / 10:
            at_tenth = peak
    seconds = time.perf_counter() - began
    worker.join()
    with on.app.app_context():
        with transaction() as session:
            made = exports.export_for(session, actor, export_id)
        if made.rows_written != rows or made.store_name is None:
            raise AssertionError(f"{form}: {made.state}, {made.rows_written} rows")
        sheets = 0
        with store().open(made.store_name) as content:
            if form is ExportFormat.XLSX:
                with zipfile.ZipFile(content) as book:
                    sheets = sum(name.startswith("xl/worksheets/sheet") for name in book.namelist())
        store().remove(made.store_name)
    return Result(form, rows, sheets, made.size_bytes or 0, seconds, written_s, gap, at_tenth, peak)


def _work(settings: Settings, export_id: UUID, told: Connection) -> None:
    """The worker's part, in its own process."""
    app = wsgi.create_app(settings)
    app.extensions["tanpuhui_exports"] = Desk({PRODUCER.kind: PRODUCER}, app.extensions["tanpuhui_jobs"])
    progress = exports.progress

    def progress_and_tell(session: Session, export_id: UUID, *, attempt: int, rows: int) -> bool:
        told.send(rows)
        return progress(session, export_id, attempt=attempt, rows=rows)

    exports.progress = progress_and_tell
    with app.app_context():
        jobs.run(str(export_id))
    told.close()


def _member(on: Stage) -> Actor:
    """A member of the district's staff."""
    member = new_id()
    with on.app.app_context(), transaction() as session:
        session.add(
            Staff(
                id=member,
                name=f"bench-{member.hex}",
                password_hash="unusable",  # noqa: S106 -- nobody signs in with it
                role=Role.DISTRICT,
                division=DISTRICT,
                created_at=now(),
            )
        )
    return Actor(id=member, role=Role.DISTRICT, session_id=new_id(), division=DISTRICT)


def _ask(on: Stage, actor: Actor, form: ExportFormat) -> UUID:
    desk = Desk({PRODUCER.kind: PRODUCER}, on.app.extensions["tanpuhui_jobs"])
    with on.app.app_context(), transaction() as session:
        asked = exports.request(session, actor, desk, kind=PRODUCER.kind, format=form, arguments={}, now=now())
    return asked.id


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure this part alone."""
    parser = argparse.ArgumentParser(prog="python -m bench.exports", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help=f"at most {ROWS_MAX:,}")
    options = parser.parse_args(arguments)
    end_tidily_when_terminated()
    with stage() as on:
        for result in measure(on, rows=min(options.rows, ROWS_MAX)):
            print(result.words(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
