"""The fixed tables of the public statistics: each room brings its own, `wsgi.py` composes them.

Nobody asks for dimensions of their own: whoever may choose what to cut by can cut until one resident is left.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flask import Flask, current_app
from sqlalchemy.orm import Session

from points.statistics.periods import CalendarPeriod, Grain

TABLES_MAX = 20

# District, street and community.
EVERY_LEVEL = frozenset({6, 9, 12})


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of a table. `of` names the exact figure behind it, which is divided by `divisor` and cut off."""

    code: str
    title_zh: str
    title_en: str
    unit: str
    note_zh: str
    note_en: str
    of: str = ""
    divisor: int = 1

    @property
    def figure(self) -> str:
        """The exact figure that it tells."""
        return self.of or self.code


@dataclass(frozen=True, slots=True)
class Row:
    """The exact figures of one place and category; residents behind each, and the most that one resident has of it."""

    place_code: str
    category: str
    figures: Mapping[str, int]
    contributors: Mapping[str, int] = field(default_factory=dict)
    largest: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sum:
    """In every place, a category of one table adds up from categories of another; see `disclosure.Relation`."""

    total: tuple[str, str]  # table and category
    parts: tuple[tuple[str, str], ...]
    extra: int = 0
    weighted: bool = False


@dataclass(frozen=True, slots=True)
class Within:
    """In every place, the residents counted by one column are among those counted by another."""

    inner: tuple[str, str, str]  # table, category, figure
    outer: tuple[str, str, str]


Link = Sum | Within


@dataclass(frozen=True, slots=True)
class FixedTable:
    """One table: places by categories of one kind.

    `sums` are figures that add up over places, and over months; they are shown or withheld together, because one of
    them can be worked out from another. `counts` are numbers of distinct residents, each decided by itself; `stocks`
    those of them that are a standing number and not a flow. `rows` gives the exact figures of a period, and nothing for
    what is zero; `links` how the table hangs together with others; `is_settled` whether the figures of a period are
    counted and up to date. `code_digits` are the lengths of the codes of its places.
    `is_derived`: its figures follow from those of other tables, so they are withheld first.
    """

    code: str
    title_zh: str
    title_en: str
    note_zh: str
    note_en: str
    category_zh: str
    category_en: str
    measures: tuple[Measure, ...]
    rows: Callable[[Session, CalendarPeriod], Iterable[Row]]
    is_settled: Callable[[Session, CalendarPeriod], bool]
    sums: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    stocks: frozenset[str] = frozenset()
    links: Callable[[Session, CalendarPeriod], Sequence[Link]] = lambda *_: ()
    category_names: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    code_digits: frozenset[int] = EVERY_LEVEL
    is_derived: bool = False

    def tells(self, figure: str, grain: Grain) -> bool:
        """Whether releases of this length have the figure: a standing number is told once a month and no more."""
        return figure not in self.stocks or grain is Grain.MONTH

    def columns(self, grain: Grain) -> tuple[Measure, ...]:
        """The measures in releases of this length."""
        return tuple(measure for measure in self.measures if self.tells(measure.figure, grain))


def install(app: Flask, tables: Sequence[FixedTable]) -> None:
    """Give the application its public tables."""
    if len({table.code for table in tables}) != len(tables) or len(tables) > TABLES_MAX:
        raise ValueError("a table's code is taken, or there are too many")
    app.extensions["tanpuhui_statistics_tables"] = tuple(tables)


def public_tables() -> tuple[FixedTable, ...]:
    """The running application's."""
    found: tuple[FixedTable, ...] = current_app.extensions["tanpuhui_statistics_tables"]
    return found
