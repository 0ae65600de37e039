"""The database: the declarative base, ids, and the one way to a transaction.

PostgreSQL is the only dialect and the only truth. Only the edge commits: a view, a command or a job opens
`transaction()`; rules take the session and never commit.
"""

import enum
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
import uuid_utils.compat
from flask_sqlalchemy import SQLAlchemy
from psycopg.errors import DeadlockDetected, SerializationFailure
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session, registry

APPLICATION_ROLE = "tanpuhui_app"

NAMING = {
    "ix": "%(table_name)s_%(column_0_N_name)s_ix",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}

TYPES: dict[Any, Any] = {
    str: sa.Text(),
    int: sa.BigInteger(),
    datetime: sa.DateTime(timezone=True),
    date: sa.Date(),
    UUID: sa.Uuid(),
    dict[str, Any]: JSONB(),
    list[str]: sa.ARRAY(sa.Text()),
}


class Base(DeclarativeBase):
    """The base of every table. Text without a length is bounded by a CHECK of its own."""

    registry = registry(metadata=sa.MetaData(naming_convention=NAMING), type_annotation_map=TYPES)


db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False}, disable_autonaming=True)


def choice(kind: type[enum.StrEnum], name: str) -> sa.Enum:
    """A text column that holds the values of `kind`, with a CHECK named `<table>_<name>_check`.

    A CHECK and not a database enum: a value can be added without rewriting the type (expand), and dropped later.
    """
    return sa.Enum(
        kind,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=40,
        values_callable=lambda members: [member.value for member in members],
    )


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): made by the application, ordered by time, and so kind to the primary key's index."""
    return uuid_utils.compat.uuid7()


@contextmanager
def transaction() -> Iterator[Session]:
    """The request's session inside one transaction: commits at the end, rolls back on any error.

    Inside another `transaction()` of the same request it joins that one, and only the outermost commits: so an answer
    can be stored under its Idempotency-Key in the very transaction of its effect.
    """
    session = db.session()
    if session.info.get("in_transaction"):
        yield session
        return
    session.info["in_transaction"] = True
    try:
        yield session
        session.commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        session.info["in_transaction"] = False
        db.session.remove()


Result = TypeVar("Result")

RETRIES_MAX = 4


def run_transaction(work: Callable[[Session], Result]) -> Result:
    """Run `work` in a transaction, again when PostgreSQL chose it as the victim of a deadlock.

    At most RETRIES_MAX more times with a growing, random pause, so that the two parties do not meet again.
    """
    if db.session().info.get("in_transaction"):
        with transaction() as session:  # the outermost one retries; a part of a transaction cannot
            return work(session)
    for attempt in range(RETRIES_MAX + 1):
        try:
            with transaction() as session:
                return work(session)
        except DBAPIError as error:
            if attempt == RETRIES_MAX or not isinstance(error.orig, DeadlockDetected | SerializationFailure):
                raise
            time.sleep(random.uniform(0.005, 0.02) * 2**attempt)  # noqa: S311 -- a pause, not a secret
    raise AssertionError("unreachable")


def lock_name(session: Session, name: str) -> None:
    """Hold a name until the transaction ends: whoever wants the same one waits, so two do not both find room."""
    session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))


DELETED_AT_ONCE_MAX = 10_000


def delete_some(session: Session, table: type[Base], which: sa.ColumnElement[bool]) -> int:
    """Delete rows of `table` for which `which` holds, at most DELETED_AT_ONCE_MAX at a time; the number deleted."""
    key = sa.inspect(table).primary_key
    some = sa.select(*key).where(which).limit(DELETED_AT_ONCE_MAX)
    result = session.execute(sa.delete(table).where(sa.tuple_(*key).in_(some)))
    return int(result.rowcount)  # type: ignore[attr-defined]


def psycopg_url(url: str) -> str:
    """A libpq URL as SQLAlchemy wants it, naming the psycopg 3 driver."""
    return "postgresql+psycopg://" + url.split("://", 1)[1]


def engine_options(pool_size: int, *, application_role: bool) -> dict[str, Any]:
    """Options of the engine: bounded pool and waits, UTC, and the role that may not touch the journal's rows."""
    options = (
        "-c timezone=UTC -c statement_timeout=30000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=60000"
    )
    if application_role:
        options += f" -c role={APPLICATION_ROLE}"
    return {
        "hide_parameters": True,  # an error's text must not carry a person's data into a log
        "pool_size": pool_size,
        "max_overflow": 2,
        "pool_timeout": 5,
        "pool_pre_ping": True,
        "pool_recycle": 1800,
        "connect_args": {"options": options, "connect_timeout": 3, "application_name": "tanpuhui"},
    }
