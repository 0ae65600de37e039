"""The store: where the bytes of files and exports lie, a local folder or an S3 bucket, through fsspec.

Bytes come first and their row second: a row that is committed always has its bytes, and bytes whose row was never
committed, was deleted or has run out are found and removed by the nightly sweep. So nothing here needs a transaction.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from uuid import UUID

import fsspec  # type: ignore[import-untyped]  # ships no types
import sqlalchemy as sa
import structlog
from flask import Flask, current_app
from sqlalchemy.orm import Session

from server.errors import Unavailable
from server.files.models import ENDINGS, StoredFile
from server.settings import SettingsError

log = structlog.get_logger()

FILES, EXPORTS = "files", "exports"

# A request or an export of this moment has bytes and no row yet; nothing runs for a day.
ORPHAN_AGE_MIN = timedelta(days=1)
SWEPT_AT_ONCE_MAX = 1000

# A bucket that does not answer holds up one request for some seconds, and not a worker for ever.
S3_OPTIONS: dict[str, Any] = {
    "config_kwargs": {"connect_timeout": 3, "read_timeout": 20, "retries": {"max_attempts": 2}},
    "use_listings_cache": False,
}


class StoreUnavailable(Unavailable):
    """The store of files does not answer, or does not have what its row says; nothing was done."""

    code, title_zh, title_en = "store-unavailable", "文件存储暂时不可用", "The store of files is not available just now"


class Store:
    """A folder of generated names. Names are ours alone: nothing that a person wrote is ever part of a path."""

    def __init__(self, url: str) -> None:
        try:
            self._system, root = fsspec.core.url_to_fs(url, **(S3_OPTIONS if url.startswith("s3:") else {}))
        except ImportError as error:
            raise SettingsError(f"FILES_URL: {error}; install the extra `tanpuhui[s3]`") from error
        self._root = root.rstrip("/")

    def write(self, name: str, content: bytes) -> None:
        """Keep `content` under `name`, on the disk and not only in the system's memory. Raises StoreUnavailable."""
        with _told("write"):
            path = self._path_for_writing(name)
            with self._system.open(path, "wb") as target:
                target.write(content)
                _settle(target)

    def write_from(self, name: str, source: Path) -> None:
        """Keep a local file under `name`, in pieces. Raises StoreUnavailable."""
        with _told("write"):
            path = self._path_for_writing(name)
            with source.open("rb") as content, self._system.open(path, "wb") as target:
                while piece := content.read(1024 * 1024):
                    target.write(piece)
                _settle(target)

    def open(self, name: str) -> IO[bytes]:
        """The bytes under `name`, to read and close. Raises StoreUnavailable."""
        with _told("read"):
            opened: IO[bytes] = self._system.open(f"{self._root}/{name}", "rb")
        return opened

    def remove(self, name: str) -> None:
        """Forget the bytes under `name`; that they are gone already is no fault. Raises StoreUnavailable."""
        with _told("remove"):
            try:
                self._system.rm_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return

    def names_older_than(self, folder: str, instant: datetime) -> Iterator[str]:
        """The names in a folder whose bytes were written before `instant`, one sub-folder's listing at a time."""
        with _told("list"):
            shelves = self._listed(folder)
        for shelf in shelves:
            if shelf["type"] != "directory":
                yield from self._old([shelf], instant)
                continue
            with _told("list"):
                found = self._system.find(shelf["name"], detail=True, refresh=True)
            yield from self._old(found.values(), instant)

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = self._system.ls(f"{self._root}/{folder}", detail=True, refresh=True)
        except FileNotFoundError:
            return []
        return found

    def _old(self, entries: Any, instant: datetime) -> Iterator[str]:
        for entry in entries:
            if _written_at(entry) < instant:
                yield str(entry["name"])[len(self._root) :].lstrip("/")

    def _path_for_writing(self, name: str) -> str:
        path = f"{self._root}/{name}"
        self._system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        return path


class _told:  # noqa: N801 -- used as a statement
    """Turns what a file system raises into StoreUnavailable, and tells the log."""

    def __init__(self, act: str) -> None:
        self.act = act

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, raised: BaseException | None, _trace: object) -> None:
        """Translate; what is not the file system's goes on as it is."""
        if isinstance(raised, OSError):
            log.error("store_failed", act=self.act, kind=type(raised).__name__)
            raise StoreUnavailable from raised


def _settle(target: Any) -> None:
    """Have a local file on the disk before its row commits; a bucket answers when it has it."""
    local = getattr(target, "f", None)
    if local is not None and hasattr(local, "fileno"):
        target.flush()
        os.fsync(local.fileno())


def _written_at(entry: dict[str, Any]) -> datetime:
    """When an entry was written, as each file system says it; one that does not say was written just now."""
    for key in ("mtime", "LastModified", "created"):
        value = entry.get(key)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime.max.replace(tzinfo=UTC)


def name_of(file_id: UUID, media_type: str) -> str:
    """The name of a file's bytes: shelved by the random end of the id, for its beginning is the time."""
    text = file_id.hex
    return f"{FILES}/{text[-2:]}/{text[-4:-2]}/{file_id}.{ENDINGS[media_type]}"


def open_stored(file: StoredFile) -> IO[bytes]:
    """The bytes of a file, to read and close. Raises StoreUnavailable."""
    return store().open(name_of(file.id, file.media_type))


def remove(session: Session, file_id: UUID, *, now: datetime) -> None:
    """Delete a file: nobody reads it from now on, its name is forgotten, and a coming sweep takes its bytes."""
    session.execute(
        sa.update(StoredFile)
        .where(StoredFile.id == file_id, StoredFile.deleted_at.is_(None))
        .values(deleted_at=now, original_name="")
    )


def kept_files(session: Session, names: Sequence[str]) -> set[str]:
    """Which of these names of the store belong to files that are not deleted."""
    found = {}
    for name in names:
        try:
            found[UUID(name.rsplit("/", 1)[-1].split(".")[0])] = name
        except ValueError:
            continue  # nothing that we wrote
    kept = sa.select(StoredFile.id, StoredFile.media_type).where(
        StoredFile.id.in_(found), StoredFile.deleted_at.is_(None)
    )
    return {name_of(row.id, row.media_type) for row in session.execute(kept)}


def sweep(
    folder: str, kept: Callable[[Sequence[str]], set[str]], *, now: datetime, at_once: int = SWEPT_AT_ONCE_MAX
) -> int:
    """Remove the old bytes of a folder that `kept` does not claim; how many.

    Age first: bytes of this very moment may be waiting for their row to commit.
    """
    removed = 0
    batch: list[str] = []

    def empty_batch() -> int:
        orphans = set(batch) - kept(batch)
        for name in sorted(orphans):
            store().remove(name)
        batch.clear()
        return len(orphans)

    for name in store().names_older_than(folder, now - ORPHAN_AGE_MIN):
        batch.append(name)
        if len(batch) == at_once:
            removed += empty_batch()
    return removed + empty_batch()


def install(app: Flask, url: str) -> None:
    """Give the application its store. Raises SettingsError for a kind of store that is not installed."""
    app.extensions["tanpuhui_files"] = Store(url)


def store() -> Store:
    """The running application's store."""
    found: Store = current_app.extensions["tanpuhui_files"]
    return found
