"""Rows into a CSV or XLSX file, one at a time: the memory does not grow with the number of rows.

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
from typing import Any

import xlsxwriter  # type: ignore[import-untyped]  # ships no types

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
PROGRESS_ROWS = 2_000


class ExportTooLarge(DomainError):
    """More rows than a spreadsheet holds."""

    code, status, title_zh, title_en = (
        "export-too-large",
        422,
        "导出超过100万行",
        "An export has at most 1,000,000 rows",
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

    `progress` is told the number of rows now and then, and stops the writing by raising. Raises ExportTooLarge, and
    ValueError for a row whose cells are not as many as the columns.
    """
    opened = _csv(path) if format is ExportFormat.CSV else _xlsx(path, made_at)
    written = 0
    with opened as put:
        put(0, columns)
        for row in rows:
            if written == ROWS_MAX:
                raise ExportTooLarge
            if len(row) != len(columns):
                raise ValueError(f"a row of {len(row)} cells under {len(columns)} columns")
            written += 1
            put(written, row)
            if written % PROGRESS_ROWS == 0:
                progress(written)
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
def _csv(path: Path) -> Iterator[Callable[[int, Sequence[Cell]], None]]:
    """RFC 4180, in UTF-8 with the mark by which Excel knows it."""
    with path.open("w", encoding="utf-8-sig", newline="") as target:
        writer = csv.writer(target)

        def put(_row: int, cells: Sequence[Cell]) -> None:
            writer.writerow([_plain(cell) for cell in cells])

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
def _xlsx(path: Path, made_at: datetime) -> Iterator[Callable[[int, Sequence[Cell]], None]]:
    """Office Open XML; each row goes to the disk when the next begins."""
    book = xlsxwriter.Workbook(
        str(path),
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
    sheet = book.add_worksheet()
    sheet.freeze_panes(1, 0)
    instant = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
    day = book.add_format({"num_format": "yyyy-mm-dd"})

    def put(row: int, cells: Sequence[Cell]) -> None:
        for column, cell in enumerate(cells):
            if isinstance(cell, datetime):
                local = cell.astimezone(SHANGHAI_FIXED).replace(tzinfo=None, microsecond=0)
                sheet.write_datetime(row, column, local, instant)
            elif isinstance(cell, date):
                sheet.write_datetime(row, column, datetime(cell.year, cell.month, cell.day), day)  # noqa: DTZ001
            else:
                _put_plain(sheet, row, column, cell)

    try:
        yield put
    except BaseException:
        # Given up: packing what there is would take as long as the whole file. Its rows lie in the folder of `path`.
        sheet.row_data_fh.close()
        book.fileclosed = True
        raise
    book.close()


def _put_plain(sheet: Any, row: int, column: int, cell: Cell) -> None:
    if cell is None or cell == "":
        return
    if isinstance(cell, bool):
        sheet.write_boolean(row, column, cell)
    elif isinstance(cell, int | float | Decimal) and -EXACT_INTEGER_MAX < cell < EXACT_INTEGER_MAX:
        sheet.write_number(row, column, cell)
    else:
        sheet.write_string(row, column, defused(str(cell))[:CELL_LENGTH_MAX])
