"""What can be exported: each room brings its producers, `wsgi.py` composes them, and the job finds them by kind."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import procrastinate
import sqlalchemy as sa
from flask import Flask, current_app
from sqlalchemy.orm import Session

from server.access import Actor

Cell = str | int | float | Decimal | bool | date | datetime | UUID | None
Arguments = Mapping[str, Any]

STREAMED_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Producer:
    """One kind of export. All three functions read, and only read; `arguments` are what the request gave.

    `authorise` raises NotFound or Forbidden for what the actor may not have. It runs when the export is asked for and
    again when it is made: scopes change while a job waits. `columns` are the headings. `rows` yields one cell for each
    column, in an order that two runs over the same data share (a unique key), and never holds all of them: see
    `streamed`.
    """

    kind: str
    title_zh: str
    authorise: Callable[[Session, Actor, Arguments], None]
    columns: Callable[[Session, Actor, Arguments], Sequence[str]]
    rows: Callable[[Session, Actor, Arguments], Iterator[Sequence[Cell]]]


def streamed(session: Session, statement: sa.Select[Any], *, at_once: int = STREAMED_AT_ONCE) -> Iterator[sa.Row[Any]]:
    """The rows of a statement as they come from the database, `at_once` of them in memory; for a producer's `rows`.

    The database's cursor is closed with the generator, also when the export is given up half-way.
    """
    with session.execute(statement, execution_options={"yield_per": at_once}) as found:
        yield from found


@dataclass(frozen=True, slots=True)
class Desk:
    """Where exports are asked for: the producers by kind, and the queue of jobs."""

    producers: Mapping[str, Producer]
    jobs: procrastinate.App


def install(app: Flask, producers: Sequence[Producer]) -> None:
    """Give the application what it can export; after its jobs."""
    by_kind: dict[str, Producer] = {}
    for producer in producers:
        if producer.kind in by_kind or not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", producer.kind):
            raise ValueError(f"the kind of export {producer.kind!r} is taken or malformed")
        by_kind[producer.kind] = producer
    app.extensions["tanpuhui_exports"] = Desk(by_kind, app.extensions["tanpuhui_jobs"])


def desk() -> Desk:
    """The running application's."""
    found: Desk = current_app.extensions["tanpuhui_exports"]
    return found
