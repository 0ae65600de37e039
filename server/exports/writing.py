"""Rows into a CSV or XLSX file, one at a time: the memory does not grow with the number of rows.

A sheet of a spreadsheet ends at 1,048,576 rows; what does not fit goes on in the next sheet, under the same heading.

A text that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV Injection"), in both forms,
because an XLSX is saved as CSV by the next person. Numbers and days are cells of their own kind and need none.
"""

import csv
import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import xlsxwriter  # type: ignore[import-untyped]  # ships no types
from xlsxwriter.exceptions import FileSizeError  # type: ignore[import-untyped]

from server.clock import SHANGHAI_FIXED
from server.errors import DomainError
from server.exports.models import ROWS_MAX, ExportFormat
from server.exports.registry import Cell

# Full-width forms are folded by some spreadsheets before they look.
FORMULA_STARTS = frozenset("=+-@\t\r\n＝＋－＠")
# Excel's own limit; a longer text would make the file unreadable.
CELL_LENGTH_MAX = 32_767
# Above this a spreadsheet's number is no longer exact; such a number is an id and goes as text.
EXACT_INTEGER_MAX = 10**15
# Excel's limit of 1,048,576 less the heading.
SHEET_ROWS_MAX = 1_048_575
# Each telling is a version of the export's row, which our own snapshot keeps from being cleaned away: not too often.
PROGRESS_ROWS = 10_000
# About a second of packing.
PROGRESS_BYTES = 4 * 1024 * 1024
# What a ZIP holds without its extension for large files, which Excel would offer to repair.
FILE_BYTES_MAX = 2**31 - 1


class ExportTooLarge(DomainError):
    """More rows than anybody reads, or more bytes than a spreadsheet's container holds."""

    code, status, title_zh, title_en = (
        "export-too-large",
        422,
        "导出超过2000万行或2GB",
        "An export has at most 20,000,000 rows and 2 GiB",
    )


@dataclass(frozen=True, slots=True)
class Written:
    """What a file holds: rows without the heading, bytes, and the SHA-256 of the bytes."""

    rows: int
    size_bytes: int
    sha256: bytes


def write(
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    path: Path,
    *,
    format: ExportFormat,  # noqa: A002 -- the word of the field
    made_at: datetime,
    progress: Callable[[int], None] = lambda _: None,
) -> Written:
    """Write a heading and rows to `path`; equal rows make equal bytes. `made_at` is the instant that the rows show.

    `progress` is told the number of rows now and then, also while a spreadsheet is packed after its last row, and stops
    the writing by raising. Raises ExportTooLarge, and ValueError for a row whose cells are not as many as the columns.
    """
    written = 0

    def go_on() -> None:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ExportTooLarge
        progress(written)

    opened = _csv(path, columns) if format is ExportFormat.CSV else _xlsx(path, columns, made_at, go_on)
    with opened as put:
        for row in rows:
            if written == ROWS_MAX:
                raise ExportTooLarge
            if len(row) != len(columns):
                raise ValueError(f"a row of {len(row)} cells under {len(columns)} columns")
            put(row)
            written += 1
            if written % PROGRESS_ROWS == 0:
                go_on()
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").digest()
    return Written(written, path.stat().st_size, digest)


def defused(text: str) -> str:
    """A text that no spreadsheet takes for a formula.

    Blanks and invisible characters in front are looked through, because importers trim them.
    """
    for character in text:
        if character in FORMULA_STARTS:
            return "'" + text
        if not character.isspace() and unicodedata.category(character)[0] != "C":
            break
    return text


@contextmanager
def _csv(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Sequence[Cell]], None]]:
    """RFC 4180, in UTF-8 with the mark by which Excel knows it."""
    with path.open("w", encoding="utf-8-sig", newline="") as target:
        writer = csv.writer(target)

        def put(cells: Sequence[Cell]) -> None:
            writer.writerow([_plain(cell) for cell in cells])

        put(columns)
        yield put


def _plain(cell: Cell) -> str | int | float | Decimal:
    """A cell of a CSV: instants in Shanghai's time with its offset, days as they are, truth as true and false."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return defused(cell)
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, int | float | Decimal):
        return cell
    if isinstance(cell, datetime):
        return cell.astimezone(SHANGHAI_FIXED).isoformat(timespec="seconds")
    return str(cell)


@contextmanager
def _xlsx(
    path: Path, columns: Sequence[str], made_at: datetime, go_on: Callable[[], None]
) -> Iterator[Callable[[Sequence[Cell]], None]]:
    """Office Open XML; each row goes to the disk when the next begins, and all of them into the file at the end."""
    with path.open("wb") as target:
        book = xlsxwriter.Workbook(
            _Watched(target, go_on),
            {
                "constant_memory": True,
                "tmpdir": str(path.parent),
                # Text stays text: nothing is guessed to be a formula, an address or a number.
                "strings_to_formulas": False,
                "strings_to_urls": False,
                "strings_to_numbers": False,
            },
        )
        book.set_properties({"created": made_at.astimezone(SHANGHAI_FIXED).replace(tzinfo=None)})
        sheets = _Sheets(book, columns)
        try:
            yield sheets.put
            book.close()
        except BaseException as raised:
            # Given up: nothing is packed any more. The rows lie in the folder of `path`.
            for sheet in book.worksheets():
                sheet.row_data_fh.close()
            book.fileclosed = True
            if isinstance(raised, FileSizeError):
                raise ExportTooLarge from raised
            raise


class _Watched:
    """A file that tells after every PROGRESS_BYTES that it is still being written: packing millions of rows takes long.

    What `go_on` raises stops the packing; the last words of the half-made archive then go nowhere.
    """

    def __init__(self, target: IO[bytes], go_on: Callable[[], None]) -> None:
        self._target, self._go_on = target, go_on
        self._untold_bytes, self._position = 0, 0

    def write(self, content: bytes) -> int:
        """Write, and tell now and then."""
        self._position += len(content)
        if self._target.closed:
            return len(content)
        self._untold_bytes += len(content)
        if self._untold_bytes >= PROGRESS_BYTES:
            self._untold_bytes = 0
            self._go_on()
        return self._target.write(content)

    def tell(self) -> int:
        """Where the next write goes."""
        return self._position

    def seek(self, offset: int) -> int:
        """Go to another place of the file, counted from its beginning."""
        self._position = offset
        return offset if self._target.closed else self._target.seek(offset)

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        if not self._target.closed:
            self._target.flush()


class _Sheets:
    """The sheets of a book, each with the heading and as many rows as it holds."""

    def __init__(self, book: Any, columns: Sequence[str]) -> None:
        self._book, self._columns = book, columns
        self._instant = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        self._day = book.add_format({"num_format": "yyyy-mm-dd"})
        self._begin()

    def _begin(self) -> None:
        self._sheet, self._row = self._book.add_worksheet(), 0
        self._sheet.freeze_panes(1, 0)
        self._write(self._columns)

    def put(self, cells: Sequence[Cell]) -> None:
        """Add a row, on a new sheet when this one is full."""
        if self._row > SHEET_ROWS_MAX:
            self._begin()
        self._write(cells)

    def _write(self, cells: Sequence[Cell]) -> None:
        sheet, row = self._sheet, self._row
        for column, cell in enumerate(cells):
            if isinstance(cell, datetime):
                local = cell.astimezone(SHANGHAI_FIXED).replace(tzinfo=None, microsecond=0)
                sheet.write_datetime(row, column, local, self._instant)
            elif isinstance(cell, date):
                midnight = datetime(cell.year, cell.month, cell.day)  # noqa: DTZ001 -- a day of a spreadsheet
                sheet.write_datetime(row, column, midnight, self._day)
            else:
                _put_plain(sheet, row, column, cell)
        self._row += 1


def _put_plain(sheet: Any, row: int, column: int, cell: Cell) -> None:
    if cell is None or cell == "":
        return
    if isinstance(cell, bool):
        sheet.write_boolean(row, column, cell)
    elif isinstance(cell, int | float | Decimal) and -EXACT_INTEGER_MAX < cell < EXACT_INTEGER_MAX:
        sheet.write_number(row, column, cell)
    else:
        sheet.write_string(row, column, defused(str(cell))[:CELL_LENGTH_MAX])
