"""What enters an estimate, checked, as arrays: clusters in strata, adjustment cells, and margins that can be met."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from points.share.estimate.cautions import Cautions
from points.share.estimate.exchange import READINGS, Input, Margin, Options, WaveInput

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

PERSONS_MAX = 500_000
WAVES_MAX = 24
MARGINS_MAX = 12
CATEGORIES_MAX = 400
ATTRIBUTES_MAX = 20
STREETS_MAX = 200
MODES_MAX = 40
TRIPS_MAX = 200  # of one person on one day
REPLICATES_MAX = 1000
ITERATIONS_MAX = 10_000

# Below this many respondents a cell's factor, or a category's, is chance; a replicate would often lack it altogether.
CELL_RESPONDENTS_MIN = 10
UNKNOWN = ""
SILENT_UNKNOWN_MAX = 0.1  # of those who did not answer


class Refused(Exception):
    """No estimate can be made of this input; `reason` is a stable code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Target:
    """One margin as it is raked to: a category for each respondent, and persons for each category, in order."""

    variable: str
    codes: Integers
    persons: Floats


@dataclass(frozen=True, slots=True)
class Prepared:
    """One wave as arrays. `drawn` arrays have a position for each person drawn, the others for each respondent."""

    wave: WaveInput
    drawn_stratum: Integers
    drawn_cluster: Integers
    drawn_base: Floats
    drawn_responded: Flags
    drawn_cell: Integers  # of the non-response adjustment; all 0 when everybody responded
    cells: int
    cells_collapsed: int
    rows: Integers  # positions of the respondents among the drawn
    street: list[str]
    trips: Floats
    green: dict[str, Floats]
    by_mode: dict[str, Floats]
    clusters: int  # with a respondent
    strata: int

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the design-based variance: clusters less strata."""
        return max(1, self.clusters - self.strata)


def check(given: Input) -> None:
    """Refuse what is not an estimate's input, or too much of it. Raises Refused."""
    options = given.options
    persons = sum(len(wave.base_weight) for wave in given.waves)
    for number, most, what in (
        (len(given.waves), WAVES_MAX, "waves"),
        (persons, PERSONS_MAX, "persons"),
        (len(options.margins), MARGINS_MAX, "margins"),
        (max((len(margin.persons) for margin in options.margins), default=0), CATEGORIES_MAX, "categories"),
        (len(options.adjustment_cells), ATTRIBUTES_MAX, "adjustment cells"),
        (options.replicates, REPLICATES_MAX, "replicates"),
        (options.iterations_max, ITERATIONS_MAX, "iterations"),
    ):
        if number > most:
            raise Refused("too-large", f"{number} {what}; at most {most}")
    if not given.waves or given.format != 1:
        raise Refused("input-invalid", "no wave, or a format that is not known")
    if len({wave.id for wave in given.waves}) != len(given.waves):
        raise Refused("input-invalid", "a wave comes twice")
    _check_options(options)
    for wave in given.waves:
        _check_wave(wave, options)


def _check_options(options: Options) -> None:
    low, high = options.bounds
    if not 0 < low < 1 < high:
        raise Refused("input-invalid", "bounds are a number below 1, above 0, and one above 1")
    if options.trim_ratio is not None and options.trim_ratio <= 1:
        raise Refused("input-invalid", "the trimming ratio is above 1")
    if not 0.5 <= options.confidence <= 0.999 or not 0 < options.tolerance < 0.01 or options.iterations_max < 1:
        raise Refused("input-invalid", "confidence 0.5 to 0.999, tolerance below 0.01, at least one iteration")
    if options.replicates < 0 or options.street_persons_min < 1:
        raise Refused("input-invalid", "replicates and respondents of a street are counts")
    for margin in options.margins:
        figures = list(margin.persons.values())
        if not figures or min(figures) < 0 or not np.isfinite(figures).all() or sum(figures) <= 0:
            raise Refused("input-invalid", f"margin {margin.variable}: persons are numbers from 0, and not all 0")


def _check_wave(wave: WaveInput, options: Options) -> None:
    drawn = len(wave.base_weight)
    columns: list[Sequence[object]] = [wave.stratum, wave.cluster, wave.street, wave.responded, wave.trips]
    columns += [*wave.attributes.values(), *wave.green.values(), *wave.trips_by_mode.values()]
    if any(len(column) != drawn for column in columns):
        raise Refused("input-invalid", f"wave {wave.id}: columns of different lengths")
    if set(wave.green) != set(READINGS):
        raise Refused("input-invalid", f"wave {wave.id}: both readings are needed")
    if len(wave.attributes) > ATTRIBUTES_MAX or len(wave.trips_by_mode) > MODES_MAX:
        raise Refused("too-large", f"wave {wave.id}: at most {ATTRIBUTES_MAX} attributes and {MODES_MAX} modes")
    if len(set(wave.street)) > STREETS_MAX:
        raise Refused("too-large", f"wave {wave.id}: at most {STREETS_MAX} streets")
    wanted = {name for margin in options.margins for name in margin.variable.split("*")}
    missing = sorted(wanted - set(wave.attributes))
    if missing:
        raise Refused("attribute-missing", f"wave {wave.id} has no {', '.join(missing)}")
    weights = np.asarray(wave.base_weight, dtype=np.float64)
    if drawn and (not np.isfinite(weights).all() or weights.min() <= 0):
        raise Refused("input-invalid", f"wave {wave.id}: base weights are above 0")
    _check_answers(wave)


def _check_answers(wave: WaveInput) -> None:
    if not any(wave.responded):
        raise Refused("no-respondents", f"wave {wave.id}: nobody responded")
    trips = np.asarray(wave.trips)
    if trips.min() < 0 or trips.max() > TRIPS_MAX:
        raise Refused("input-invalid", f"wave {wave.id}: 0 to {TRIPS_MAX} trips of a person")
    for counts in wave.green.values():
        if (np.asarray(counts) > trips).any() or min(counts) < 0:
            raise Refused("input-invalid", f"wave {wave.id}: more green trips than trips")
    responded = np.asarray(wave.responded)
    if trips[~responded].any():
        raise Refused("input-invalid", f"wave {wave.id}: trips of somebody who did not respond")
    if not trips.any():
        raise Refused("no-trips", f"wave {wave.id}: nobody made a trip")


def prepare(wave: WaveInput, options: Options, cautions: Cautions) -> Prepared:
    """One wave as arrays; what had to be joined or pooled is told in the cautions. Raises Refused."""
    responded = np.asarray(wave.responded, dtype=np.bool_)
    rows = np.flatnonzero(responded)
    stratum, cluster = _design(wave, responded, cautions)
    names = _known_of_silent(wave, options.adjustment_cells, responded, cautions)
    cell, cells, collapsed = _adjustment_cells(wave, names, responded)
    if collapsed:
        cautions.add("cells-collapsed", wave.id, collapsed=collapsed, least=CELL_RESPONDENTS_MIN)
    trips = np.asarray(wave.trips, dtype=np.float64)[rows]
    return Prepared(
        wave=wave,
        drawn_stratum=stratum,
        drawn_cluster=cluster,
        drawn_base=np.asarray(wave.base_weight, dtype=np.float64),
        drawn_responded=responded,
        drawn_cell=cell,
        cells=cells,
        cells_collapsed=collapsed,
        rows=rows,
        street=[wave.street[row] for row in rows],
        trips=trips,
        green={reading: np.asarray(wave.green[reading], dtype=np.float64)[rows] for reading in READINGS},
        by_mode={mode: np.asarray(counts, dtype=np.float64)[rows] for mode, counts in wave.trips_by_mode.items()},
        clusters=len(np.unique(cluster[rows])),
        strata=len(np.unique(stratum[rows])),
    )


def _design(wave: WaveInput, responded: Flags, cautions: Cautions) -> tuple[Integers, Integers]:
    """Strata and clusters as numbers, each stratum with two clusters or more among those who responded.

    A stratum with a lone cluster says nothing about its own variance. It is joined to the next one in the order of the
    names, before anything is computed: that overstates the variance a little and never understates it (Wolter,
    Introduction to Variance Estimation, 2.5). A cluster's name is one within its stratum.
    """
    strata = np.asarray(wave.stratum, dtype=np.str_)
    names, stratum = np.unique(strata, return_inverse=True)
    pairs = np.stack([stratum, np.unique(np.asarray(wave.cluster, dtype=np.str_), return_inverse=True)[1]], axis=1)
    cluster = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    reached = np.unique(np.stack([stratum, cluster], axis=1)[responded], axis=0)[:, 0]
    counts = np.bincount(reached, minlength=len(names))
    joined, lone = _join_lone(counts)
    if counts.sum() < 2:
        raise Refused("too-few-clusters", f"wave {wave.id}: one cluster alone has no variance")
    if lone:
        cautions.add("lone-cluster", wave.id, strata=lone)
    return joined[stratum].astype(np.int64), cluster.astype(np.int64)


def _join_lone(counts: Integers) -> tuple[Integers, int]:
    """A new number for each stratum, so that none has fewer than two clusters, and how many had."""
    numbers = np.zeros(len(counts), dtype=np.int64)
    current, held = 0, 0
    for place, count in enumerate(counts):
        numbers[place] = current
        held += int(count)
        if held >= 2:
            current, held = current + 1, 0
    if held:  # what is left over at the end goes to the last full one
        numbers[numbers == current] = max(0, current - 1)
    elif current:
        numbers[numbers == current] = current - 1  # strata without anybody, behind the last full one
    return numbers, int((counts < 2).sum())


def _known_of_silent(wave: WaveInput, names: Sequence[str], responded: Flags, cautions: Cautions) -> list[str]:
    """The attributes of the cells that are known of nearly all who did not answer; a diary asks some with the trips.

    Cells of another one would hold all the silent together, and nobody of their kind who answered.
    """
    silent = np.flatnonzero(~responded).tolist()
    kept = []
    for name in names:
        column = wave.attributes.get(name)
        unknown = len(silent) if column is None else sum(column[row] == UNKNOWN for row in silent)
        if unknown <= SILENT_UNKNOWN_MAX * len(silent):
            kept.append(name)
    if len(kept) < len(names):
        cautions.add("adjustment-unknown", wave.id, names=[name for name in names if name not in kept])
    return kept


def _adjustment_cells(wave: WaveInput, names: Sequence[str], responded: Flags) -> tuple[Integers, int, int]:
    """The cell of everybody drawn, the number of cells, and how many small ones were pooled into others."""
    drawn = len(responded)
    if not names or responded.all():
        return np.zeros(drawn, dtype=np.int64), 0 if responded.all() else 1, 0
    keys: list[tuple[str, ...]] = list(zip(*(wave.attributes[name] for name in names), strict=True))
    counts: dict[tuple[str, ...], int] = dict.fromkeys(keys, 0)
    for key, answered in zip(keys, responded.tolist(), strict=True):
        counts[key] += answered
    if len(counts) > drawn:  # never: a bound on what follows
        raise Refused("input-invalid", "more cells than persons")
    moved, collapsed = _pool(counts, len(names))
    order = {cell: number for number, cell in enumerate(sorted(set(moved.values())))}
    return np.array([order[moved[key]] for key in keys], dtype=np.int64), len(order), collapsed


def _pool(counts: dict[tuple[str, ...], int], depth: int) -> tuple[dict[tuple[str, ...], tuple[str, ...]], int]:
    """Small cells go together with the small ones that differ in the last attribute, then in the last two, …

    What is still small at the end joins the smallest cell that is not.
    """
    moved = {key: key for key in counts}
    size = dict(counts)
    collapsed = 0
    for length in range(depth - 1, -1, -1):
        small = [cell for cell, count in size.items() if count < CELL_RESPONDENTS_MIN]
        groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for cell in small:
            groups.setdefault((*cell[:length], *("*",) * (depth - length)), []).append(cell)
        for pool, members in groups.items():
            if len(members) == 1 and length:
                continue
            collapsed += len(members)
            size[pool] = sum(size.pop(member) for member in members)
            moved = {key: pool if cell in set(members) else cell for key, cell in moved.items()}
    rest = [cell for cell, count in size.items() if count < CELL_RESPONDENTS_MIN]
    large = [cell for cell in size if cell not in rest]
    if rest and large:
        host = min(large, key=lambda cell: (size[cell], cell))
        moved = {key: host if cell in rest else cell for key, cell in moved.items()}
    return moved, collapsed


def targets_of(prepared: Prepared, adjusted: Floats, options: Options, cautions: Cautions) -> list[Target]:
    """The margins as this wave can meet them, all of the first one's total.

    Persons of an unknown category keep the part of the adjusted weights that they have: it is not known that they are
    like any one category. A category with too few respondents goes together with its neighbour in the margin's order.
    """
    wave = prepared.wave
    total = sum(options.margins[0].persons.values()) if options.margins else 0.0
    found = []
    for margin in options.margins:
        target = _target(wave, margin, prepared.rows, adjusted, total, cautions)
        if target is not None:
            found.append(target)
    return found


def _target(
    wave: WaveInput, margin: Margin, rows: Integers, adjusted: Floats, total: float, cautions: Cautions
) -> Target | None:
    columns = [np.asarray(wave.attributes[name], dtype=np.str_)[rows].tolist() for name in margin.variable.split("*")]
    known = {category for category, persons in margin.persons.items() if persons > 0}
    category_of = [
        UNKNOWN if UNKNOWN in parts or "*".join(parts) not in known else "*".join(parts)
        for parts in zip(*columns, strict=True)
    ]
    strange = sum(
        1
        for parts, kept in zip(zip(*columns, strict=True), category_of, strict=True)
        if kept == UNKNOWN and UNKNOWN not in parts
    )
    unknown = category_of.count(UNKNOWN)
    if unknown:
        cautions.add(
            "attribute-unknown", wave.id, variable=margin.variable, persons=unknown, strange=strange, n=len(rows)
        )
    groups = _groups_of(margin, category_of, wave.id, cautions)
    number = {category: place for place, group in enumerate(groups) for category in group}
    persons = np.array([sum(margin.persons[category] for category in group) for group in groups], dtype=np.float64)
    persons *= total / persons.sum() if len(groups) else 1.0
    if unknown:
        number[UNKNOWN] = len(groups)
        part = float(adjusted[[category == UNKNOWN for category in category_of]].sum() / adjusted.sum())
        persons = np.append(persons * (1 - part), total * part)
    if len(persons) == 0:
        return None
    return Target(margin.variable, np.array([number[each] for each in category_of], dtype=np.int64), persons)


def _groups_of(margin: Margin, category_of: Sequence[str], wave: str, cautions: Cautions) -> list[list[str]]:
    """The margin's categories in its order, those with too few respondents joined to the smaller neighbour."""
    counts = dict.fromkeys((category for category, persons in margin.persons.items() if persons > 0), 0)
    for category in category_of:
        if category != UNKNOWN:
            counts[category] += 1
    missing = [category for category, count in counts.items() if count == 0]
    small = [category for category, count in counts.items() if 0 < count < CELL_RESPONDENTS_MIN]
    if missing:
        cautions.add("margin-category-missing", wave, variable=margin.variable, categories=missing)
    if small:
        cautions.add(
            "margin-category-small", wave, variable=margin.variable, categories=small, least=CELL_RESPONDENTS_MIN
        )
    groups = [[category] for category in counts]
    sizes = list(counts.values())
    while len(groups) > 1 and min(sizes) < CELL_RESPONDENTS_MIN:
        place = sizes.index(min(sizes))
        beside = [other for other in (place - 1, place + 1) if 0 <= other < len(groups)]
        host = min(beside, key=lambda other: sizes[other])
        first, second = sorted((place, host))
        groups[first : second + 1] = [groups[first] + groups[second]]
        sizes[first : second + 1] = [sizes[first] + sizes[second]]
    return groups if sizes and max(sizes) > 0 else []
