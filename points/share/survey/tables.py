"""The tables of a survey as they are handed in, CSV or XLSX: judged by their content, read within limits."""

import csv
import hashlib
import io
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from server.errors import DomainError, PayloadTooLarge, Unavailable

TABLE_BYTES_MAX = 50 * 1024 * 1024
# As much as a workbook's one sheet holds, and more than any district's survey.
ROWS_MAX = 1_000_000
COLUMNS_MAX = 300
COLUMN_LENGTH_MAX = 100

# The child's own limit on processor time is below this.
READING_SECONDS_MAX = 90
# One at a time: a large wave takes up to a gigabyte while it is read.
_READING = threading.BoundedSemaphore(1)
READING_WAIT_S = 20.0
READER = Path(__file__).with_name("workbook.py")

_XLSX = b"PK\x03\x04"


class TableTooLarge(PayloadTooLarge):
    """A table has at most TABLE_BYTES_MAX, ROWS_MAX rows and COLUMNS_MAX columns, unpacked as well."""

    code, title_zh, title_en = (
        "survey-table-too-large",
        "调查数据表超过大小限制",
        "A table of the survey is larger than the limits",
    )


class TableUnreadable(DomainError):
    """It is neither CSV in UTF-8 or GB 18030 nor an XLSX workbook, or is damaged."""

    code, status, title_zh, title_en = (
        "survey-table-unreadable",
        422,
        "调查数据表无法读取, 请用CSV（UTF-8或GB18030）或XLSX",
        "The table cannot be read; use CSV in UTF-8 or GB 18030, or XLSX",
    )


class _Told(msgspec.Struct):
    """What the reading process tells of a workbook."""

    refused: str | None = None


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table as it was handed in."""

    name: str
    content: bytes

    @property
    def sha256(self) -> str:
        """The hash of its bytes, in hex."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class Table:
    """The heading of a table, and its rows from row 2 on, each once."""

    columns: Sequence[str]
    rows: Iterator[list[str]]


class reading_alone:  # noqa: N801 -- reads like the function that it stands for
    """A place to read a wave in, one at a time in a process. Raises Unavailable when another one takes long."""

    def __enter__(self) -> None:
        if not _READING.acquire(timeout=READING_WAIT_S):
            unavailable = Unavailable("Another wave is being read at this moment")
            unavailable.headers["Retry-After"] = "30"
            raise unavailable

    def __exit__(self, *_: object) -> None:
        _READING.release()


def open_table(file: TableFile, delimiter: str) -> Table:
    """The table in a file. Raises TableTooLarge, TableUnreadable; the rows raise the same while they are read."""
    if len(file.content) > TABLE_BYTES_MAX:
        raise TableTooLarge(f"{file.name}: more than {TABLE_BYTES_MAX // 2**20} MiB")
    if file.content.startswith(_XLSX):
        text, delimiter = _text_of_workbook(file), ","
    else:
        text = _decoded(file)
    rows = _rows(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), file.name)
    columns = [column.strip() for column in next(rows, [])]
    if not any(columns):
        raise TableUnreadable(f"{file.name}: no heading")
    if len(columns) > COLUMNS_MAX or max(map(len, columns)) > COLUMN_LENGTH_MAX:
        raise TableTooLarge(f"{file.name}: more than {COLUMNS_MAX} columns, or a heading that is too long")
    return Table(columns, rows)


def _rows(reader: Iterator[list[str]], name: str) -> Iterator[list[str]]:
    try:
        for number, row in enumerate(reader):
            if number > ROWS_MAX:
                raise TableTooLarge(f"{name}: more than {ROWS_MAX} rows")
            yield row
    except csv.Error as error:
        raise TableUnreadable(f"{name}: {error}") from error


def _decoded(file: TableFile) -> str:
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            text = file.content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise TableUnreadable(f"{file.name}: not text in UTF-8 or GB 18030")


def _text_of_workbook(file: TableFile) -> str:
    try:
        done = subprocess.run(  # noqa: S603 -- our own program; what is hostile goes to its standard input
            [sys.executable, "-I", str(READER)],
            input=file.content,
            capture_output=True,
            timeout=READING_SECONDS_MAX,
            check=False,
            env={},
        )
    except subprocess.TimeoutExpired:
        raise TableTooLarge(f"{file.name}: takes too long to read") from None
    line, _, written = done.stdout.partition(b"\n")
    if done.returncode != 0 or not line:
        raise TableTooLarge(f"{file.name}: takes too much to read")
    told = msgspec.json.decode(line, type=_Told)
    if told.refused == "too-large":
        raise TableTooLarge(file.name)
    if told.refused is not None:
        raise TableUnreadable(file.name)
    return written.decode()
