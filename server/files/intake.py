"""Taking files in: what they are is judged by their content, and what is kept was written by us.

Nothing is stored as it was sent. A picture is decoded and encoded anew, without EXIF; a document is rewritten without
anything that acts (`server.files.cleaning`, in a process of its own with hard limits).
"""

import hashlib
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import structlog
from sqlalchemy.orm import Session

from server.database import new_id
from server.errors import DomainError, PayloadTooLarge, Unavailable, UnsupportedMediaType
from server.files.models import ENDINGS, NAME_LENGTH_MAX, STORED_BYTES_MAX, StoredFile
from server.files.store import name_of, store

log = structlog.get_logger()

FILE_BYTES_MAX = 10 * 1024 * 1024

# A large picture takes some seconds; the child's own limit on processor time is below this.
CLEANING_SECONDS_MAX = 40
# Two at a time, each of up to 1.5 GiB: a flood of large pictures must not take the machine.
_CLEANING = threading.BoundedSemaphore(2)
CLEANING_WAIT_S = 20.0
CLEANER = Path(__file__).with_name("cleaning.py")

STEM_LENGTH_MAX = 100
ENDING_LENGTH_MAX = 10  # what stands behind a dot further on is part of the name


class FileTooLarge(PayloadTooLarge):
    """A file has at most FILE_BYTES_MAX as sent, and STORED_BYTES_MAX as written anew."""

    code, title_zh, title_en = "file-too-large", "文件超过10MB", "A file has at most 10 MiB"


class FileTypeRefused(UnsupportedMediaType):
    """By its content it is neither PDF, JPEG nor PNG; the name and the announced type do not count."""

    code, title_zh, title_en = (
        "file-type-refused",
        "仅接受PDF、JPEG、PNG文件",
        "Only PDF, JPEG and PNG are taken, judged by the content",
    )


class FileDamaged(DomainError):
    """It begins like a PDF, JPEG or PNG and cannot be read to its end."""

    code, status, title_zh, title_en = (
        "file-damaged",
        422,
        "文件已损坏或格式不规范, 请重新导出后上传",
        "The file is damaged; export it again",
    )


class FileEncrypted(DomainError):
    """A document under a password, or with restrictions, cannot be looked into."""

    code, status, title_zh, title_en = (
        "file-encrypted",
        422,
        "文件已加密, 请去除密码后上传",
        "The document is encrypted; remove the password",
    )


class FileAnimated(DomainError):
    """A moving picture shows more than the one that would be kept."""

    code, status, title_zh, title_en = "file-animated", 422, "不接受动态图片", "Moving pictures are not taken"


class PictureTooManyPixels(DomainError):
    """More than 40 million pixels, or a side above 20,000."""

    code, status, title_zh, title_en = (
        "picture-too-many-pixels",
        422,
        "图片超过4000万像素",
        "A picture has at most 40 million pixels",
    )


class DocumentTooManyPages(DomainError):
    """More than 200 pages."""

    code, status, title_zh, title_en = (
        "document-too-many-pages",
        422,
        "文件超过200页",
        "A document has at most 200 pages",
    )


class FileTooComplex(DomainError):
    """Reading it takes more time or memory than a file of its kind needs."""

    code, status, title_zh, title_en = (
        "file-too-complex",
        422,
        "文件过于复杂, 无法处理",
        "Reading the file takes too much time or memory",
    )


# The reasons of `server.files.cleaning`.
REFUSALS: dict[str, type[DomainError]] = {
    "type": FileTypeRefused,
    "damaged": FileDamaged,
    "encrypted": FileEncrypted,
    "animated": FileAnimated,
    "pixels": PictureTooManyPixels,
    "pages": DocumentTooManyPages,
    "complex": FileTooComplex,
}


@dataclass(frozen=True, slots=True)
class CleanFile:
    """A file as it will be kept: written anew by us, with a name that is safe to show."""

    name: str
    media_type: str
    content: bytes
    width: int | None
    height: int | None
    pages: int | None


class _Told(msgspec.Struct):
    """What the cleaning process says."""

    refused: str | None = None
    media_type: str = ""
    width: int | None = None
    height: int | None = None
    pages: int | None = None


def clean(content: bytes, *, name: str) -> CleanFile:
    """Check and rewrite a file. Takes a fifth of a second to some seconds: outside a transaction.

    Raises FileTooLarge, FileTypeRefused, FileDamaged, FileEncrypted, FileAnimated, PictureTooManyPixels,
    DocumentTooManyPages, FileTooComplex, Unavailable when too many are at it.
    """
    if len(content) > FILE_BYTES_MAX:
        raise FileTooLarge
    told, written = _cleaned(content)
    if told.refused is not None:
        raise REFUSALS.get(told.refused, FileDamaged)
    if not 1 <= len(written) <= STORED_BYTES_MAX:
        raise FileTooLarge
    return CleanFile(
        name=shown_name(name, ENDINGS[told.media_type]),
        media_type=told.media_type,
        content=written,
        width=told.width,
        height=told.height,
        pages=told.pages,
    )


def accept(session: Session, file: CleanFile, *, purpose: str, uploaded_by: UUID | None, now: datetime) -> StoredFile:
    """Keep a checked file: its bytes in the store, then its row in this transaction.

    `purpose` says what it is kept for, in lower case with hyphens. Raises StoreUnavailable.
    """
    added = StoredFile(
        id=new_id(),
        purpose=purpose,
        media_type=file.media_type,
        size_bytes=len(file.content),
        sha256=hashlib.sha256(file.content).digest(),
        width=file.width,
        height=file.height,
        pages=file.pages,
        original_name=file.name,
        uploaded_by=uploaded_by,
        uploaded_at=now,
    )
    store().write(name_of(added.id, added.media_type), file.content)
    session.add(added)
    session.flush()
    return added


def shown_name(name: str, ending: str) -> str:
    """A name to show and to save under: the last part of a path, no invisible characters, the ending that is true.

    A direction override that makes `fdp.exe` read as `exe.pdf`, a NUL and a path are gone; letters of any language
    stay.
    """
    last = unicodedata.normalize("NFC", name.replace("\\", "/")).rsplit("/", 1)[-1]
    shown = "".join(
        character
        for character in last
        if unicodedata.category(character)[0] != "C"
        and unicodedata.category(character) not in {"Zl", "Zp"}
        and character not in '<>:"|?*'
    )
    stem, dot, tail = shown.strip(" .").rpartition(".")
    if not dot or len(tail) > ENDING_LENGTH_MAX:
        stem = shown
    stem = stem.strip(" .")[:STEM_LENGTH_MAX].strip(" .") or "file"
    return f"{stem}.{ending}"[:NAME_LENGTH_MAX]


def _cleaned(content: bytes) -> tuple[_Told, bytes]:
    """Run the cleaning process over the content. Raises FileTooComplex when it had to be ended, Unavailable."""
    with _cleaning():
        try:
            done = subprocess.run(  # noqa: S603 -- our own program; what is hostile goes to its standard input
                [sys.executable, "-I", str(CLEANER)],
                input=content,
                capture_output=True,
                timeout=CLEANING_SECONDS_MAX,
                check=False,
                env={},
            )
        except subprocess.TimeoutExpired:
            log.warning("file_cleaning_ended", because="time")
            raise FileTooComplex from None
    line, _, written = done.stdout.partition(b"\n")
    if done.returncode != 0 or not line:
        log.warning("file_cleaning_ended", because="exit", code=done.returncode)
        raise FileTooComplex
    return msgspec.json.decode(line, type=_Told), written


@contextmanager
def _cleaning() -> Iterator[Any]:
    """A place among the few that clean at once. Raises Unavailable."""
    if not _CLEANING.acquire(timeout=CLEANING_WAIT_S):
        unavailable = Unavailable("Too many files are being checked at this moment")
        unavailable.headers["Retry-After"] = "10"
        raise unavailable
    try:
        yield
    finally:
        _CLEANING.release()
