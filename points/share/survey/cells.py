"""Reading the cells of a survey's tables: columns by name, categories, days, numbers; what does not fit is a code."""

import math
import re
from collections.abc import Iterator, Sequence
from datetime import date

from points.share.survey.findings import Findings, TableName
from points.share.survey.mapping import CategoryEntry
from points.share.survey.models import CATEGORY_LENGTH_MAX
from points.share.survey.tables import Table

# Names and addresses are different for everybody: what has so many values is not stored, whatever a mapping says.
CATEGORIES_MAX = 200

_WHOLE = re.compile(r"(-?[0-9]+)\.0*")
_DAY = re.compile(r"([0-9]{4})([-/.年]?)([0-9]{1,2})(?:\2|月)([0-9]{1,2})日?(?: .*)?")
_TIME = re.compile(r"([0-9]{1,2})[:：]?([0-9]{2})(?:[:：][0-9]{2})?")
_CATEGORY = re.compile(r"[^*\x00-\x1f\x7f]+")


def records(
    table: Table, name: TableName, wanted: Sequence[str | None], findings: Findings
) -> Iterator[tuple[int, list[str]]]:
    """Each row's number and its cells of the wanted columns in their order, '' for a column that is None.

    Notes columns that are missing, and then gives no rows; and rows that have not as many cells as the heading.
    """
    place_of = {column: place for place, column in enumerate(table.columns)}
    missing = False
    for column in dict.fromkeys(column for column in wanted if column is not None):
        if table.columns.count(column) != 1:
            findings.fault(name, 1, column, "column-twice" if column in place_of else "column-missing")
            missing = True
    if missing:
        return
    width = len(table.columns)
    places = [None if column is None else place_of[column] for column in wanted]
    number = 1
    found = 0
    for number, row in enumerate(table.rows, 2):
        if not any(row):
            continue
        found += 1
        if len(row) != width:
            findings.fault(name, number, "", "row-length")
            continue
        yield number, ["" if place is None else row[place].strip() for place in places]
    if not found:
        findings.fault(name, number, "", "rows-missing")


class Categories:
    """The categories of one column. A value is judged once: a column has few, and a table has many rows."""

    def __init__(self, entry: CategoryEntry) -> None:
        self._entry = entry
        self._judged: dict[str, tuple[str, str]] = {}
        self._kept: set[str] = set()
        self._unknown = frozenset({"", *entry.unknown})

    def of(self, cell: str) -> tuple[str, str]:
        """The category of a cell, '' where nobody knows; and the code of a fault, or ''."""
        judged = self._judged.get(cell)
        if judged is None:
            judged = self._judge(whole(cell))
            # Not more than a column of categories has: otherwise a column of names would be kept here.
            if len(self._judged) < 10 * CATEGORIES_MAX:
                self._judged[cell] = judged
        return judged

    def _judge(self, cell: str) -> tuple[str, str]:
        if cell in self._unknown:
            return "", ""
        if self._entry.bands:
            return self._band(cell)
        if self._entry.recode:
            category = self._entry.recode.get(cell)
            return ("", "category-unknown") if category is None else (category, "")
        if not is_category(cell):
            return "", "category-unfit"
        if cell not in self._kept and len(self._kept) == CATEGORIES_MAX:
            return "", "categories-too-many"
        self._kept.add(cell)
        return cell, ""

    def _band(self, cell: str) -> tuple[str, str]:
        if not re.fullmatch("[0-9]{1,9}", cell) or int(cell) < self._entry.bands[0]:
            return "", "category-unknown"
        lowest = max(bound for bound in self._entry.bands if bound <= int(cell))
        above = [bound for bound in self._entry.bands if bound > lowest]
        if not above:
            return f"{lowest}+", ""
        return (f"{lowest}-{above[0] - 1}" if above[0] - 1 > lowest else str(lowest)), ""


class Days:
    """The days of a column, each judged once; those outside the wave are a fault."""

    def __init__(self, first_on: date, last_on: date) -> None:
        self._first_on, self._last_on = first_on, last_on
        self._judged: dict[str, tuple[date | None, str]] = {"": (None, "")}

    def of(self, cell: str) -> tuple[date | None, str]:
        """The day of a cell, None where there is none; and the code of a fault, or ''."""
        judged = self._judged.get(cell)
        if judged is None:
            judged = self._judge(cell)
            if len(self._judged) < 10_000:
                self._judged[cell] = judged
        return judged

    def _judge(self, cell: str) -> tuple[date | None, str]:
        found = _DAY.fullmatch(cell)
        if found is None or (found[2] == "" and len(found[3]) + len(found[4]) < 4):
            return None, "day-invalid"
        try:
            day = date(int(found[1]), int(found[3]), int(found[4]))
        except ValueError:
            return None, "day-invalid"
        return (day, "") if self._first_on <= day <= self._last_on else (None, "day-outside-wave")


def is_category(cell: str) -> bool:
    """Whether a text can be stored as a category: short, on one line, and without the * that crosses two."""
    return len(cell) <= CATEGORY_LENGTH_MAX and _CATEGORY.fullmatch(cell) is not None


def whole(cell: str) -> str:
    """A number with nothing behind its point without the point, as 1.0 of a statistics program; else as it is."""
    found = _WHOLE.fullmatch(cell)
    return found[1] if found else cell


def number_of(cell: str) -> float | None:
    """A finite number, or None."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def minute_of(cell: str) -> int | None:
    """The minute of the day that "7:05", "07:05:00" or "0705" means, up to 47:59; None for anything else."""
    found = _TIME.fullmatch(cell)
    if found is None or int(found[1]) > 47 or int(found[2]) > 59:
        return None
    return 60 * int(found[1]) + int(found[2])
