"""What must hold before anything is served: durable commits, the newest schema, and a role kept off the journal."""

from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from server.database import APPLICATION_ROLE

MIGRATIONS = Path(__file__).parent / "migrations"

# Any of these off, and an award that was acknowledged can be gone after a power cut.
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")
APPEND_ONLY = ("transfer", "lot_draw", "audit_entry")


class RefusesToServe(Exception):
    """The database is not fit to hold people's points; the message says what to mend."""


def newest_migration() -> str:
    """The head of the migrations that this code comes with."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    head = ScriptDirectory.from_config(config).get_current_head()
    if head is None:
        raise RefusesToServe("there are no migrations")
    return head


def applied_migration(connection: Connection) -> str | None:
    """The migration that the database stands at, None before the first."""
    if not connection.scalar(sa.text("SELECT to_regclass('alembic_version')")):
        return None
    version: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return version


def check(connection: Connection) -> None:
    """Raise RefusesToServe naming every fault of the database behind `connection`."""
    faults = [
        f"{name} is off; turn it on, for without it acknowledged awards can be lost"
        for name in DURABLE
        if connection.scalar(sa.text("SELECT current_setting(:name)"), {"name": name}) == "off"
    ]
    applied, newest = applied_migration(connection), newest_migration()
    if applied != newest:
        faults.append(f"the schema is at {applied}, this code needs {newest}; run `flask --app wsgi db upgrade`")
    else:
        faults += _role_faults(connection)
    if faults:
        raise RefusesToServe("The database is not fit to serve:\n" + "\n".join(f"  {fault}" for fault in faults))


def _role_faults(connection: Connection) -> list[str]:
    role = connection.scalar(sa.text("SELECT current_user"))
    if role != APPLICATION_ROLE:
        return [f"connected as {role} and not as {APPLICATION_ROLE}"]
    allowed = sa.text("SELECT has_table_privilege(:table, 'UPDATE') OR has_table_privilege(:table, 'DELETE')")
    return [
        f"the role may change rows of {table}, which is append-only"
        for table in APPEND_ONLY
        if connection.scalar(allowed, {"table": table})
    ]
