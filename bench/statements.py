"""The statements that a request runs, seen on a copy of the database, to be run again without the request."""

import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from server.database import APPLICATION_ROLE

Statement = tuple[str, Any]


@dataclass(slots=True)
class Recording:
    """The transactions of one request, in order, each with its statements and their parameters."""

    transactions: list[list[Statement]] = field(default_factory=list)
    _open: list[Statement] = field(default_factory=list)

    def _seen(self, _c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, many: bool) -> None:
        if many:
            raise AssertionError("a bench request runs no executemany")
        self._open.append((statement, parameters))

    def _ended(self, _connection: Any) -> None:
        if self._open:
            self.transactions.append(self._open)
            self._open = []


@contextmanager
def recorded(engine: Engine) -> Any:
    """Record what the engine runs. A transaction that is rolled back (it only read) counts like another."""
    recording = Recording()
    hooks = [
        ("before_cursor_execute", recording._seen),
        ("commit", recording._ended),
        ("rollback", recording._ended),
    ]
    for name, hook in hooks:
        sa.event.listen(engine, name, hook)
    try:
        yield recording
    finally:
        for name, hook in hooks:
            sa.event.remove(engine, name, hook)


def run_again(url: str, clients: Sequence[Sequence[Recording]]) -> float:
    """Run each client's recordings over a connection of its own, all at once; the seconds that took."""
    barrier = threading.Barrier(len(clients) + 1)
    failures: list[BaseException] = []

    def client(recordings: Sequence[Recording]) -> None:
        options = f"-c timezone=UTC -c role={APPLICATION_ROLE}"
        try:
            with psycopg.connect(url, options=options) as connection, connection.cursor() as cursor:
                barrier.wait()
                for recording in recordings:
                    for statements in recording.transactions:
                        for statement, parameters in statements:
                            cursor.execute(statement, parameters)
                            if cursor.description:
                                cursor.fetchall()
                        connection.commit()
        except BaseException as error:  # noqa: BLE001 -- told by the thread that waits for this one
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=client, args=(each,)) for each in clients]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - began
