"""Which cells of published tables are withheld, so that nothing tells of fewer than ten residents or of one of them.

Primary: a figure of one to nine residents, or more than half of it one resident's (the n-threshold and the dominance
rule of the Handbook on Statistical Disclosure Control, Eurostat/CENEX 2010, 4.2). Zeros are shown: that nobody did
anything tells of nobody. Complementary: what is withheld must not come back from the sums that tables hold, over
places, categories and months. That is decided by exact linear algebra: given what is shown, a withheld cell is
recoverable if and only if its value is the same in every solution of the sums, and so if it is zero in every vector of
their null space. One random vector of that space over a field of 2^61 - 1 elements answers for all cells at once; its
error, of order 2^-61 for a cell, is that of the hardware.

Nothing here knows of tables or of a database: cells are named by any key, and relations say which sums hold.
"""

import random
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from heapq import heapify, heappop, heappush

# A published count of fewer residents than this could point at one of them.
RESIDENTS_MIN = 10

# A Mersenne prime: products of two residues stay within Python's two-digit integers.
_PRIME = 2**61 - 1
_SEED = 1204

ROUNDS_MAX = 10_000
_INTERVAL_ROUNDS_MAX = 30
_UNBOUNDED = 1 << 62

Key = Hashable


class Unprotectable(Exception):
    """What was published earlier leaves nothing to withhold that would protect a cell; the message names it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure, or several that are shown or withheld together.

    `residents` is the smallest number of residents behind one of its amounts, `largest` the most that one of them has
    of each. An open cell may still be withheld. One that is not open is what an earlier release made of it, shown or
    withheld; or a number that no table has and sums give away, such as how many take part but do not walk.
    """

    residents: int
    amounts: tuple[int, ...]
    largest: tuple[int, ...] = ()
    is_open: bool = True
    is_hidden: bool = False
    is_guarded: bool = True  # may not be recoverable while it is withheld
    rank: int = 0  # what readers miss more is withheld later

    @property
    def is_sensitive(self) -> bool:
        """Whether it tells of one to nine residents, or mostly of one."""
        return 0 < self.residents < RESIDENTS_MIN or dominated(self.amounts, self.largest)


@dataclass(frozen=True, slots=True)
class Relation:
    """`total` is the sum of `parts`, for each of their amounts.

    `disjoint`: the parts are different residents, as places are; otherwise (modes, months) they may be the same ones.
    `extra`: how many further equations a shown total gives between its parts, as when points are a known multiple of
    the weight that differs from material to material. `weighted`: the total is a sum with other factors than one.
    `labels` name the parts' factors, which are the same wherever and whenever a label is. `signed`: amounts may be
    negative, as changes are, so they bound each other nowhere.
    """

    total: Key
    parts: tuple[Key, ...]
    disjoint: bool = True
    extra: int = 0
    weighted: bool = False
    labels: tuple[str, ...] = ()
    signed: bool = False


def dominated(amounts: Sequence[int], largest: Sequence[int]) -> bool:
    """Whether one resident has more than half of an amount."""
    return any(2 * most > amount for amount, most in zip(amounts, largest, strict=False))


def protect(cells: Mapping[Key, Cell], relations: Iterable[Relation]) -> set[Key]:
    """The open cells to withhold: the sensitive ones, and as many more as it takes.

    Raises Unprotectable.
    """
    problem = _Problem(cells, list(relations))
    for _ in range(ROUNDS_MAX):
        derived = problem.derive()
        exposed = problem.exposed_relations(derived)
        if exposed:
            problem.hide_in(exposed, derived)
            continue
        weak = problem.recoverable(derived) or problem.narrow(derived)
        if not weak:
            return {key for key in problem.hidden if cells[key].is_open}
        problem.hide_near(weak)
    raise Unprotectable("no end of withholding")


def recoverable(cells: Mapping[Key, Cell], relations: Iterable[Relation], hidden: set[Key]) -> set[Key]:
    """The guarded cells that come back from what is shown when exactly these open cells are withheld."""
    asked = {
        key: replace(cell, is_open=False, is_hidden=cell.is_hidden or key in hidden) for key, cell in cells.items()
    }
    problem = _Problem(asked, list(relations))
    derived = problem.derive()
    found = {key for key in derived if cells[key].is_guarded}
    return found | set(problem.recoverable(derived))


@dataclass(slots=True)
class _Problem:
    cells: Mapping[Key, Cell]
    relations: Sequence[Relation]
    hidden: set[Key] = field(default_factory=set)
    of_cell: dict[Key, list[int]] = field(default_factory=dict)
    # What was unknown and found sound by the linear algebra, and by the bounds: more withheld elsewhere leaves it so.
    sound: set[Key] = field(default_factory=set)
    wide: set[Key] = field(default_factory=set)
    # Of each sum, by its place in the list: what is withheld, and what of that does not follow from single sums.
    within: list[set[Key]] = field(default_factory=list)
    left: list[set[Key]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hidden = {
            key for key, cell in self.cells.items() if cell.is_hidden or (cell.is_open and cell.is_sensitive)
        }
        # A sum of nothing but what was shown earlier ties nothing down.
        self.relations = [
            relation
            for relation in self.relations
            if any(self.cells[key].is_open or self.cells[key].is_hidden for key in _members(relation))
        ]
        for number, relation in enumerate(self.relations):
            for key in _members(relation):
                self.of_cell.setdefault(key, []).append(number)
            self.within.append({key for key in _members(relation) if key in self.hidden})

    def hide(self, key: Key) -> None:
        """Withhold a cell."""
        self.hidden.add(key)
        for number in self.of_cell.get(key, ()):
            self.within[number].add(key)

    def derive(self) -> dict[Key, Relation]:
        """What follows from single sums, one after another: each withheld cell that does, and from which sum."""
        self.left = [set(keys) for keys in self.within]
        derived: dict[Key, Relation] = {}
        waiting = [number for number, unknown in enumerate(self.left) if unknown]
        while waiting:
            number = waiting.pop()
            relation = self.relations[number]
            if not _solved(relation, self.left[number]):
                continue
            for key in list(self.left[number]):
                derived[key] = relation
                for other in self.of_cell[key]:
                    self.left[other].discard(key)
                    waiting.append(other)
        return derived

    def exposed_relations(self, derived: Mapping[Key, Relation]) -> list[Relation]:
        """The sums that give a guarded cell back, or whose withheld parts together tell of too few residents."""
        exposed = {id(relation): relation for key, relation in derived.items() if self.cells[key].is_guarded}
        for relation, unknown in zip(self.relations, self.left, strict=True):
            if unknown and not relation.weighted and self._remainder_is_sensitive(relation, unknown):
                exposed[id(relation)] = relation
        return list(exposed.values())

    def _remainder_is_sensitive(self, relation: Relation, unknown: Set[Key]) -> bool:
        """Whether a known total less its known parts is a figure of few residents, or mostly of one."""
        if relation.total in unknown or not any(self.cells[key].is_guarded for key in unknown):
            return False
        parts = [self.cells[key] for key in unknown]
        together = sum if relation.disjoint else max
        if 0 < together(part.residents for part in parts) < RESIDENTS_MIN:
            return True
        amounts = [sum(each) for each in zip(*(part.amounts for part in parts), strict=True)]
        # Over months one resident's amounts add up to no more than this.
        most = max if relation.disjoint else sum
        return dominated(amounts, [most(each) for each in zip(*(part.largest for part in parts), strict=True)])

    def hide_in(self, exposed: Sequence[Relation], derived: Mapping[Key, Relation]) -> None:
        """Withhold one more cell of each of these sums, or of one that such a sum follows from.

        Raises Unprotectable.
        """
        chosen = set()
        for relation in exposed:
            behind = {id(derived[key]): derived[key] for key in _members(relation) if key in derived}
            candidates = {self._cheapest(each) for each in (relation, *behind.values())} - {None}
            if candidates:
                chosen.add(min(candidates, key=self._cost))
        for key in chosen:
            self.hide(key)
        if not chosen:
            self.hide_near(key for relation in exposed for key in _members(relation) if key in self.hidden)

    def hide_near(self, weak: Iterable[Key]) -> None:
        """Withhold one more cell, as near as can be to each of these by the sums that tie cells together.

        One for all that lie near each other: it often helps every one of them. Raises Unprotectable.
        """
        weak = list(weak)
        helped: set[Key] = set()
        before = len(self.hidden)
        for key in weak:
            if key in helped:
                continue
            for ring in self._around(key):
                helped.update(member for relation in ring for member in _members(relation))
                candidates = {self._cheapest(relation) for relation in ring} - {None}
                if candidates:
                    self.hide(min(candidates, key=self._cost))
                    break
        if len(self.hidden) == before:
            raise Unprotectable(f"{weak[0]} cannot be protected")

    def _around(self, key: Key) -> Iterator[list[Relation]]:
        """The sums of a cell, then those of the withheld cells in them, and so on."""
        seen, waiting = {key}, {key}
        visited: set[int] = set()
        while waiting:
            ring = sorted({number for each in waiting for number in self.of_cell.get(each, ())} - visited)
            visited.update(ring)
            yield [self.relations[number] for number in ring]
            waiting = {each for number in ring for each in self.within[number]} - seen
            seen |= waiting

    def _cheapest(self, relation: Relation) -> Key | None:
        """The open cell of a sum whose loss readers feel least."""
        candidates = [
            key
            for key in _members(relation)
            if self.cells[key].is_open and key not in self.hidden and self._can_hide(key)
        ]
        return min(candidates, key=self._cost, default=None)

    def _cost(self, key: Key) -> tuple[int, int, tuple[int, ...]]:
        cell = self.cells[key]
        return cell.rank, cell.residents, cell.amounts

    def _can_hide(self, key: Key) -> bool:
        """Whether no sum of earlier figures gives it back at once. A zero protects nothing and is no candidate."""
        if not any(self.cells[key].amounts):
            return False
        for number in self.of_cell[key]:
            others = [other for other in _members(self.relations[number]) if other != key]
            if not any(
                other in self.hidden or (self.cells[other].is_open and any(self.cells[other].amounts))
                for other in others
            ):
                return False
        return True

    def recoverable(self, derived: Mapping[Key, Relation]) -> list[Key]:
        """The guarded cells that several sums together give back, among those that may have become so since."""
        unknown = self.hidden - derived.keys()
        tied = self._tied_to(unknown - self.sound)
        vector = _null_vector(row for number in tied for row in self._rows(number))
        weak = [key for key, value in vector.items() if value == 0 and self.cells[key].is_guarded]
        self.sound = unknown.difference(weak)
        return weak

    def _tied_to(self, changed: Iterable[Key]) -> list[int]:
        """The sums that hang together with these cells through unknown ones."""
        seen = set(changed)
        waiting = list(seen)
        found: set[int] = set()
        while waiting:
            for number in self.of_cell.get(waiting.pop(), ()):
                if number not in found:
                    found.add(number)
                    waiting += self.left[number] - seen
                    seen |= self.left[number]
        return sorted(found)

    def _rows(self, number: int) -> Iterator[dict[Key, int]]:
        relation, unknown = self.relations[number], self.left[number]
        if not unknown:
            return
        row = dict.fromkeys((key for key in relation.parts if key in unknown), 1)
        factors = dict(zip(relation.parts, relation.labels, strict=False))
        if relation.weighted:
            row = {key: _factor(factors.get(key, ""), 0) for key in row}
        if relation.total in unknown:
            yield row | {relation.total: _PRIME - 1}
            return
        yield row
        for equation in range(relation.extra):
            yield {key: _factor(factors.get(key, str(key)), equation + 1) for key in row}

    def narrow(self, derived: Mapping[Key, Relation]) -> list[Key]:
        """The sensitive cells that the sums and their being not negative pin down too closely."""
        weak: set[Key] = set()
        unknown = self.hidden - derived.keys()
        near = [self.relations[number] for number in self._tied_to(unknown - self.wide) if self.left[number]]
        sensitive = [
            (key, self.cells[key])
            for key in {key for relation in near for key in _members(relation)} & unknown
            if self.cells[key].is_guarded and self.cells[key].is_sensitive
        ]
        for position in range(max((len(cell.amounts) for _, cell in sensitive), default=0)):
            tied = [
                relation
                for relation in near
                if not (relation.weighted or relation.signed) and len(self.cells[relation.total].amounts) > position
            ]
            bounds = _Bounds(self.cells, self.hidden, position)
            bounds.tighten(tied)
            for key, cell in sensitive:
                if len(cell.amounts) <= position:
                    continue
                # A count by fewer than ten, or an amount to within half of it, would be as good as telling. Figures
                # that were corrected in between may not add up; then they bound nothing.
                low, high = bounds.of(key)
                if 0 <= high - low < (cell.amounts[position] if cell.largest else RESIDENTS_MIN):
                    weak.add(key)
        self.wide = unknown - weak
        return sorted(weak, key=str)


@dataclass(slots=True)
class _Bounds:
    """Between what and what one amount of each withheld cell must lie."""

    cells: Mapping[Key, Cell]
    hidden: set[Key]
    position: int
    low: dict[Key, int] = field(default_factory=dict)
    high: dict[Key, int] = field(default_factory=dict)

    def of(self, key: Key) -> tuple[int, int]:
        """The bounds of a cell; of one that is shown its amount."""
        if key in self.hidden:
            return self.low.get(key, 0), self.high.get(key, _UNBOUNDED)
        amount = self.cells[key].amounts[self.position]
        return amount, amount

    def tighten(self, relations: Sequence[Relation]) -> None:
        """Draw the bounds in along every sum, and again along those of a cell that moved; each so often at most."""
        of_cell: dict[Key, list[int]] = {}
        for number, relation in enumerate(relations):
            for key in _members(relation):
                if key in self.hidden:
                    of_cell.setdefault(key, []).append(number)
        visits = [0] * len(relations)
        waiting = set(range(len(relations)))
        while waiting:
            number = waiting.pop()
            visits[number] += 1
            for key in self._along(relations[number]):
                waiting.update(each for each in of_cell[key] if visits[each] < _INTERVAL_ROUNDS_MAX)

    def _along(self, relation: Relation) -> list[Key]:
        """The cells whose bounds one sum draws in."""
        least, most = self.of(relation.total)
        known = lows = highs = 0
        parts = []
        for key in relation.parts:
            if key in self.hidden:
                low, high = self.low.get(key, 0), self.high.get(key, _UNBOUNDED)
                parts.append((key, low, high))
                lows, highs = lows + low, highs + high
            else:
                known += self.cells[key].amounts[self.position]
        moved = [relation.total] if self._narrow_to(relation.total, known + lows, known + highs) else []
        for key, low, high in parts:
            if self._narrow_to(key, least - known - (highs - high), most - known - (lows - low)):
                moved.append(key)
        return moved

    def _narrow_to(self, key: Key, low: int, high: int) -> bool:
        if key not in self.hidden:
            return False
        old_low, old_high = self.of(key)
        if low > old_low:
            self.low[key] = low
        if high < old_high:
            self.high[key] = high
        return low > old_low or high < old_high


@lru_cache(maxsize=10_000)
def _factor(label: str, number: int) -> int:
    """What one unit of a part counts for in the numbered equation: any number, but always the same."""
    chance = random.Random(f"{_SEED}:{number}:{label}")  # noqa: S311 -- in general position, no secret
    return chance.randrange(1, _PRIME)


def _members(relation: Relation) -> tuple[Key, ...]:
    return (*relation.parts, relation.total)


def _solved(relation: Relation, unknown: set[Key]) -> bool:
    """Whether one sum alone gives its unknown cells."""
    if not unknown:
        return False
    return len(unknown) == 1 or (relation.total not in unknown and len(unknown) <= 1 + relation.extra)


def _null_vector(rows: Iterable[dict[Key, int]]) -> dict[Key, int]:
    """A random vector that every row maps to zero.

    By Gaussian elimination, the unknown of the fewest equations first (Markowitz 1957), which keeps them short: most
    unknowns stand in an equation that nothing else needs.
    """
    equations = dict(enumerate(dict(row) for row in rows))
    holding: dict[Key, set[int]] = {}
    for number, row in equations.items():
        for key in row:
            holding.setdefault(key, set()).add(number)
    ranks = {key: rank for rank, key in enumerate(holding)}
    waiting = [(len(numbers), ranks[key], key) for key, numbers in holding.items()]
    heapify(waiting)
    solved: list[tuple[Key, dict[Key, int]]] = []
    settled: set[Key] = set()
    while waiting:
        degree, _, key = heappop(waiting)
        if key in settled or degree != len(holding[key]):
            continue
        settled.add(key)
        if not degree:
            continue
        pivot = min(holding[key], key=lambda number: (len(equations[number]), number))
        row = equations.pop(pivot)
        inverse = pow(row[key], -1, _PRIME)
        row = {each: value * inverse % _PRIME for each, value in row.items()}
        for each in row:
            holding[each].discard(pivot)
        touched = set(row)
        for number in list(holding[key]):
            _subtract(equations[number], row, equations[number][key], number, holding)
        solved.append((key, row))
        for each in touched - settled:
            heappush(waiting, (len(holding[each]), ranks[each], each))
    chance = random.Random(_SEED)  # noqa: S311 -- a point in general position, no secret
    pivots = {key for key, _ in solved}
    vector: dict[Key, int] = {key: chance.randrange(1, _PRIME) for key in ranks if key not in pivots}
    # An equation holds its own unknown and such as were settled after it.
    for key, row in reversed(solved):
        vector[key] = -sum(value * vector[each] for each, value in row.items() if each != key) % _PRIME
    return vector


def _subtract(
    row: dict[Key, int], other: Mapping[Key, int], factor: int, number: int, holding: Mapping[Key, set[int]]
) -> None:
    for key, value in other.items():
        left = (row.get(key, 0) - factor * value) % _PRIME
        if left:
            row[key] = left
            holding[key].add(number)
        elif key in row:
            del row[key]
            holding[key].discard(number)
