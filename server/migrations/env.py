"""Alembic's environment: runs as the owner of the schema, with lock timeouts, one transaction per migration."""

import sqlalchemy as sa
from alembic import context

from server.database import Base, psycopg_url
from server.migrations.ours import is_ours
from server.settings import settings

# A migration that cannot get its lock in time gives up and is run again; it never queues the whole city behind it.
LOCK_TIMEOUT = "SET lock_timeout = '5s'; SET statement_timeout = '15min'"


def include_name(name: str | None, type_: str, _parents: object) -> bool:
    """Leave out the job library's own tables."""
    return type_ != "table" or is_ours(name)


def run_offline() -> None:
    """Print the SQL, for the linter."""
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Migrate the database of DATABASE_OWNER_URL."""
    engine = sa.create_engine(psycopg_url(settings().database_owner_url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(LOCK_TIMEOUT))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            include_name=include_name,
            compare_server_default=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
