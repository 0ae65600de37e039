"""From tables and earlier releases to the sums that tie their figures together, and so to what is withheld.

Everything that anybody has ever been able to read counts: the releases of a year are one system. What was frozen stays
as it is, so a quarter is decided after its months and withholds what would give away what they withhold.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from points.open_data.disclosure import RESIDENTS_MIN, Cell, Key, Relation, protect
from points.open_data.tables import FixedTable, Link, Row, Sum
from points.statistics.periods import CalendarPeriod, Grain

Spot = tuple[str, str, str]  # table, category, place

_LONGER = {Grain.MONTH: (Grain.QUARTER, Grain.YEAR), Grain.QUARTER: (Grain.YEAR,), Grain.YEAR: ()}
_PARTS = {Grain.QUARTER: Grain.MONTH, Grain.YEAR: Grain.QUARTER}
_PARENT_DIGITS = {12: 9, 9: 6}


@dataclass(frozen=True, slots=True)
class Edition:
    """The exact figures of one period as one release has them; `shown` is what it tells, None for the one to decide.

    `order` is that of freezing: a quarter is the sum of its months as they stood when it was frozen.
    """

    period: CalendarPeriod
    revision: int
    order: int
    rows: Mapping[Spot, Row]
    links: Sequence[Link]
    shown: Mapping[Spot, Mapping[str, int | None]] | None = None

    def holds(self, other: "Edition") -> bool:
        """Whether its period is longer than another's and holds it."""
        mine, theirs = self.period, other.period
        return mine.grain in _LONGER[theirs.grain] and mine.starts_on <= theirs.starts_on <= mine.ends_on


@dataclass(slots=True)
class System:
    """The cells of the new edition and of all that it hangs together with, and the sums between them."""

    tables: Mapping[str, FixedTable]
    new: Edition
    others: Sequence[Edition]  # every frozen one that hangs together with it
    last_told: Mapping[tuple[Spot, str], int]  # of the standing numbers, what was told last
    cells: dict[Key, Cell] = field(default_factory=dict)
    named: dict[Key, tuple[str, str, str, str]] = field(default_factory=dict)  # the new edition's open cells
    relations: list[Relation] = field(default_factory=list)

    def build(self) -> "System":
        """Fill in cells and relations."""
        editions = [self.new, *self.others]
        for edition in editions:
            self._add_cells(edition)
            self._add_places(edition)
            self._add_links(edition)
        for longer in editions:
            self._add_times(longer, [each for each in editions if longer.holds(each) and each.order < longer.order])
        self._add_corrections()
        return self

    def hidden_figures(self, hidden: Iterable[Key]) -> dict[Spot, set[str]]:
        """The figures of the new edition that these keys stand for."""
        found: dict[Spot, set[str]] = {}
        for key in hidden:
            table, category, place, figure = self.named[key]
            figures = (figure,) if figure else self.tables[table].sums
            found.setdefault((table, category, place), set()).update(figures)
        return found

    # Cells: the sums of a row are one, each of its counts another

    def _add_cells(self, edition: Edition) -> None:
        for spot, row in edition.rows.items():
            table = self.tables[spot[0]]
            if table.sums:
                self._add_cell(edition, spot, "", *_sums_cell(table, row))
            for figure in table.counts:
                if table.tells(figure, edition.period.grain):
                    self._add_cell(edition, spot, figure, *self._count(edition, spot, table, figure))

    def _add_cell(
        self,
        edition: Edition,
        spot: Spot,
        figure: str,
        residents: int,
        amounts: tuple[int, ...],
        largest: tuple[int, ...],
    ) -> None:
        figures = (figure,) if figure else self.tables[spot[0]].sums
        key = _key(edition, spot, figure)
        if edition.shown is not None:
            hidden = self._is_withheld(edition, spot, figures)
            self.cells[key] = Cell(residents, amounts, largest, is_open=False, is_hidden=hidden)
            return
        is_something = any(amounts)
        # What an earlier edition of the period withheld, the next one does too: the two would be compared.
        hidden = is_something and any(self._is_withheld(other, spot, figures) for other in self._predecessors())
        # A district's figure is missed more than a community's, and what a table is for more than what only follows.
        rank = 2 * (len(spot[2]) < 12) + 2 * (len(spot[2]) < 9) + (not self.tables[spot[0]].is_derived)
        self.cells[key] = Cell(residents, amounts, largest, is_open=is_something, is_hidden=hidden, rank=rank)
        self.named[key] = (*spot, figure)

    def _is_withheld(self, edition: Edition, spot: Spot, figures: Sequence[str]) -> bool:
        shown = (edition.shown or {}).get(spot, {})
        columns = {measure.code: measure.figure for measure in self.tables[spot[0]].measures}
        return any(value is None for code, value in shown.items() if columns.get(code) in figures)

    def _predecessors(self) -> list[Edition]:
        return [other for other in self.others if other.period == self.new.period]

    def _count(
        self, edition: Edition, spot: Spot, table: FixedTable, figure: str
    ) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        count = edition.rows[spot].figures.get(figure, 0)
        before = self.last_told.get((spot, figure)) if figure in table.stocks and edition is self.new else None
        if before is None:
            return count, (count,), ()
        # Of a standing number everybody also reads the change since it was last told.
        change = abs(count - before)
        return min(count, change) or change, (change,), ()

    # Sums over places

    def _add_places(self, edition: Edition) -> None:
        children: dict[Spot, list[Spot]] = {}
        for spot in edition.rows:
            digits = _PARENT_DIGITS.get(len(spot[2]))
            if digits is not None:
                children.setdefault((spot[0], spot[1], spot[2][:digits]), []).append(spot)
        for parent, parts in children.items():
            if parent not in edition.rows:
                continue
            if self.tables[parent[0]].sums:
                keys = tuple(_key(edition, part) for part in parts)
                self.relations.append(Relation(_key(edition, parent), keys))
            for figure in self.tables[parent[0]].counts:
                if self.tables[parent[0]].tells(figure, edition.period.grain):
                    self._add_places_of_residents(edition, parent, parts, figure)

    def _add_places_of_residents(self, edition: Edition, parent: Spot, parts: Sequence[Spot], figure: str) -> None:
        total = _key(edition, parent, figure)
        keys = tuple(_key(edition, part, figure) for part in parts)
        together = sum(edition.rows[part].figures.get(figure, 0) for part in parts)
        twice = together - edition.rows[parent].figures.get(figure, 0)
        if not twice or figure in self.tables[parent[0]].stocks:
            self.relations.append(Relation(total, keys))
            return
        # Whoever moved counts in both places: the sum of the parts gives away how many those are.
        both = ("sum", total)
        self.cells[both] = Cell(together, (together,), (), is_open=False, is_hidden=True, is_guarded=False)
        self.relations.append(Relation(both, keys))
        self._add_difference(total, both, abs(twice), outer_is_larger=twice > 0)

    # Sums between tables

    def _add_links(self, edition: Edition) -> None:
        places = {spot[2] for spot in edition.rows}
        for link in edition.links:
            for place in places:
                if isinstance(link, Sum):
                    total = _key(edition, (*link.total, place))
                    parts = {_key(edition, (*part, place)): part[1] for part in link.parts}
                    known = {key: label for key, label in parts.items() if key in self.cells}
                    if total in self.cells and known:
                        self.relations.append(
                            Relation(
                                total,
                                tuple(known),
                                disjoint=False,
                                extra=link.extra,
                                weighted=link.weighted,
                                labels=tuple(f"{link.total}:{label}" for label in known.values()),
                            )
                        )
                else:
                    inner = ((*link.inner[:2], place), link.inner[2])
                    outer = ((*link.outer[:2], place), link.outer[2])
                    self._add_within(edition, inner, edition, outer)

    def _add_within(
        self, inner_edition: Edition, inner: tuple[Spot, str], outer_edition: Edition, outer: tuple[Spot, str]
    ) -> None:
        """The residents of the one are among those of the other, so their difference is a count of residents too."""
        inner_key, outer_key = _key(inner_edition, *inner), _key(outer_edition, *outer)
        if inner_key not in self.cells or outer_key not in self.cells:
            return
        count = inner_edition.rows[inner[0]].figures.get(inner[1], 0)
        others = outer_edition.rows[outer[0]].figures.get(outer[1], 0) - count
        if count:
            self._add_difference(inner_key, outer_key, abs(others), outer_is_larger=others >= 0)

    def _add_difference(self, inner: Key, outer: Key, others: int, *, outer_is_larger: bool) -> None:
        larger, smaller = (outer, inner) if outer_is_larger else (inner, outer)
        difference = ("less", inner, outer)
        is_small = 0 < others < RESIDENTS_MIN
        self.cells[difference] = Cell(others, (others,), (), is_open=False, is_hidden=True, is_guarded=is_small)
        # Weighted: of what a stock's cell holds, the change, this is no sum; the linear algebra is the same.
        self.relations.append(Relation(larger, (smaller, difference), weighted=True))

    # Sums over time, and corrections

    def _add_times(self, longer: Edition, inner: Sequence[Edition]) -> None:
        newest: dict[CalendarPeriod, Edition] = {}
        for each in sorted(inner, key=lambda each: each.revision):
            newest[each.period] = each
        parts = [each for each in newest.values() if each.period.grain is _PARTS[longer.period.grain]]
        for spot in longer.rows:
            table = self.tables[spot[0]]
            if table.sums:
                keys = tuple(_key(each, spot) for each in parts if spot in each.rows)
                if keys:
                    self.relations.append(Relation(_key(longer, spot), keys, disjoint=False))
            for figure in table.counts:
                for each in newest.values():
                    if spot in each.rows and table.tells(figure, each.period.grain):
                        self._add_within(each, (spot, figure), longer, (spot, figure))

    def _add_corrections(self) -> None:
        """A figure that a correction leaves as it was is known from before."""
        for other in self._predecessors():
            for spot in other.rows:
                for figure in ("", *self.tables[spot[0]].counts):
                    before, after = _key(other, spot, figure), _key(self.new, spot, figure)
                    if before in self.cells and after in self.cells:
                        old, new = self.cells[before], self.cells[after]
                        if old.amounts == new.amounts:
                            self.relations.append(Relation(after, (before,), weighted=True))


def withheld(
    tables: Sequence[FixedTable],
    new: Edition,
    others: Sequence[Edition],
    last_told: Mapping[tuple[Spot, str], int],
) -> dict[Spot, set[str]]:
    """The figures of a new edition that are not to be told, by spot. Raises Unprotectable."""
    system = System({table.code: table for table in tables}, new, others, last_told).build()
    return system.hidden_figures(protect(system.cells, system.relations))


def corrected(
    tables: Sequence[FixedTable], old: Edition, rows: Mapping[Spot, Row], links: Sequence[Link]
) -> dict[Spot, Row]:
    """The rows of a correction: what is new, but what it was where the change would tell of few residents.

    Whoever kept the old release subtracts it from the new one, so the changes are a table of their own and are treated
    as one: a change that rests on fewer than ten residents, or mostly on one, is not made, and neither are as many
    others as it takes.
    """
    by_code = {table.code: table for table in tables}
    changes = {spot: _change(by_code[spot[0]], old.rows.get(spot), rows.get(spot)) for spot in {*old.rows, *rows}}
    sums = [link for link in links if isinstance(link, Sum)]
    rows_of_changes = {spot: change.row for spot, change in changes.items()}
    edition = Edition(old.period, old.revision + 1, old.order + 1, rows_of_changes, sums)
    system = System(by_code, edition, (), {}).build()
    relations = [replace(relation, signed=True) for relation in system.relations]
    kept = system.hidden_figures(protect(system.cells, relations))
    return {spot: change.with_old(kept.get(spot, set())) for spot, change in changes.items()}


@dataclass(frozen=True, slots=True)
class _Change:
    old: Row
    new: Row
    row: Row

    def with_old(self, figures: set[str]) -> Row:
        """The new row, but for these figures."""

        def pick(name: str) -> dict[str, int]:
            new, old = dict(getattr(self.new, name)), getattr(self.old, name)
            return new | {figure: old.get(figure, 0) for figure in figures if figure in new or figure in old}

        return Row(self.new.place_code, self.new.category, pick("figures"), pick("contributors"), pick("largest"))


def _change(table: FixedTable, old: Row | None, new: Row | None) -> _Change:
    known = new or old
    if known is None:
        raise AssertionError("a change of nothing")
    nothing = Row(known.place_code, known.category, {}, {}, {})
    old, new = old or nothing, new or nothing
    figures: dict[str, int] = {}
    contributors: dict[str, int] = {}
    largest: dict[str, int] = {}
    for figure in {*old.figures, *new.figures}:
        figures[figure] = abs(new.figures.get(figure, 0) - old.figures.get(figure, 0))
        if figures[figure] and figure in table.sums:
            # At least so many came or went. That some did is certain, so never none.
            net = abs(new.contributors.get(figure, 0) - old.contributors.get(figure, 0))
            contributors[figure] = max(net, 1)
            largest[figure] = max(new.largest.get(figure, 0), old.largest.get(figure, 0))
    return _Change(old, new, Row(known.place_code, known.category, figures, contributors, largest))


def _key(edition: Edition, spot: Spot, figure: str = "") -> Key:
    """What names a cell; without a figure, that of the sums."""
    return ((edition.period.grain.value, edition.period.starts_on, edition.revision), *spot, figure)


def _sums_cell(table: FixedTable, row: Row) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    amounts = tuple(row.figures.get(figure, 0) for figure in table.sums)
    behind = [row.contributors.get(figure, 0) for figure, amount in zip(table.sums, amounts, strict=True) if amount]
    return min(behind, default=0), amounts, tuple(row.largest.get(figure, 0) for figure in table.sums)


def told(table: FixedTable, grain: Grain, row: Row, hidden: set[str]) -> dict[str, Any]:
    """The figures of a row as they are published, by measure."""
    return {
        measure.code: None if measure.figure in hidden else row.figures.get(measure.figure, 0) // measure.divisor
        for measure in table.columns(grain)
    }


def grid(tables: Sequence[FixedTable], rows: Mapping[Spot, Row], places: Iterable[str]) -> Iterator[Spot]:
    """Every place by every category that occurs, in the order of publication."""
    categories: dict[str, set[str]] = {}
    for code, category, _ in rows:
        categories.setdefault(code, set()).add(category)
    every = sorted(places)
    for table in tables:
        for place in (code for code in every if len(code) in table.code_digits):
            for category in sorted(categories.get(table.code, ())):
                yield (table.code, category, place)
