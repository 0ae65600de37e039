"""Which tables are ours: the job library brings its own, and their schema is theirs."""


def is_ours(table: str | None) -> bool:
    """Whether a table belongs to the models; alembic's own note and the job library's tables do not."""
    return table is not None and table != "alembic_version" and not table.startswith("procrastinate_")
