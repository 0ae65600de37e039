"""Nightly: bytes in the store that no row claims are removed."""

from collections.abc import Sequence

import procrastinate
import structlog

from server.clock import now
from server.database import transaction
from server.files import store

tasks = procrastinate.Blueprint()
log = structlog.get_logger()


@tasks.periodic(cron="40 19 * * *")  # 03:40 Asia/Shanghai, after what has run out was forgotten
@tasks.task(name="sweep", queueing_lock="sweep-files", lock="sweep-files", pass_context=False)
def sweep(timestamp: int) -> None:
    """Remove what refused requests left behind, and the bytes of deleted files."""
    removed = store.sweep(store.FILES, _kept, now=now())
    log.info("files_swept", files=removed, scheduled_at=timestamp)


def _kept(names: Sequence[str]) -> set[str]:
    """A look of its own for each batch: no transaction is held while bytes are removed."""
    with transaction() as session:
        return store.kept_files(session, names)
