"""Withholding: nothing of one to nine residents, or mostly of one, is shown or can be worked out from what is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from points.open_data import disclosure
from points.open_data.disclosure import RESIDENTS_MIN, Cell, Relation, Unprotectable, protect, recoverable


def people(count: int, **more: Any) -> Cell:
    """A count of so many residents."""
    return Cell(count, (count,), is_open=count > 0, **more)


def of_street(*counts: int) -> tuple[dict[str, Cell], list[Relation]]:
    """Communities a, b, c … and their street."""
    names = "abcdefgh"[: len(counts)]
    cells = {name: people(count) for name, count in zip(names, counts, strict=True)}
    return cells | {"street": people(sum(counts))}, [Relation("street", tuple(names))]


def determined(cells: Mapping[str, Cell], relations: Sequence[Relation], hidden: set[str]) -> set[str]:
    """The hidden cells with one value in all solutions, by singular values: another way than the rule's own."""
    unknown = sorted(key for key, cell in cells.items() if key in hidden or cell.is_hidden)
    rows = []
    for relation in relations:
        row = dict.fromkeys(relation.parts, 1.0) | {relation.total: -1.0}
        rows.append([row.get(key, 0.0) for key in unknown])
    matrix = np.array([row for row in rows if any(row)] or [[0.0] * len(unknown)])
    if not unknown:
        return set()
    _, values, basis = np.linalg.svd(matrix)
    null = basis[int((values > 1e-9).sum()) :]
    return {key for column, key in enumerate(unknown) if not null.size or np.abs(null[:, column]).max() < 1e-9}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((0, 0, 0), ""),
        ((10, 25, 40), ""),
        ((0, 10, 25), ""),
        # One small cell is the street's total less the rest; so the next smallest that is not zero goes with it.
        ((5, 30, 12, 0), "ac"),
        ((30, 9, 10), "bc"),
        # Two that hide each other and are ten or more together need no third.
        ((6, 7, 30), "ab"),
        # Two whose sum is itself below ten: the sum is a count of fewer than ten residents too.
        ((1, 2, 30, 12), "abd"),
    ],
)
def test_small_counts_are_withheld_with_what_would_give_them_away(counts: tuple[int, ...], expected: str) -> None:
    assert protect(*of_street(*counts)) == set(expected)


def test_a_small_part_that_is_alone_takes_the_total_along() -> None:
    cells, relations = of_street(3, 0, 0)
    assert protect(cells, relations) == {"a", "street"}


def test_a_sum_that_is_mostly_one_residents_is_withheld() -> None:
    fair, mostly = Cell(40, (1000,), (500,)), Cell(40, (1000,), (501,))
    assert (fair.is_sensitive, mostly.is_sensitive) == (False, True)
    cells = {
        "a": mostly,
        "b": Cell(40, (1200,), (30,)),
        "c": Cell(90, (9000,), (40,)),
        "all": Cell(170, (11200,), (501,)),
    }
    assert protect(cells, [Relation("all", ("a", "b", "c"))]) == {"a", "b"}


def test_a_remainder_that_is_mostly_one_residents_is_no_cover() -> None:
    cells = {
        "a": Cell(40, (1000,), (900,)),
        "b": Cell(20, (300,), (30,)),
        "c": Cell(90, (9000,), (40,)),
        "all": Cell(150, (10300,), (900,)),
    }
    # a and b are 1,300 together, of which one resident has 900.
    assert protect(cells, [Relation("all", ("a", "b", "c"))]) == {"a", "b", "c"}


def test_months_hide_what_their_quarter_would_give_back() -> None:
    frozen = {
        "m1": Cell(5, (50,), (20,), is_open=False, is_hidden=True),
        "m2": Cell(20, (90,), (9,), is_open=False),
        "m3": Cell(20, (80,), (9,), is_open=False),
    }
    quarter = Relation("quarter", ("m1", "m2", "m3"), disjoint=False)
    cells = frozen | {"quarter": Cell(22, (220,), (30,))}
    assert protect(cells, [quarter]) == {"quarter"}
    # Two hidden months of the same five residents are, added up, a figure of five residents.
    cells["m2"] = Cell(5, (50,), (20,), is_open=False, is_hidden=True)
    assert protect(cells, [quarter]) == {"quarter"}


def test_two_materials_are_not_cover_enough_where_points_tell_a_second_sum() -> None:
    cells = {
        name: Cell(residents, (weight,), (1,))
        for name, residents, weight in (("pet", 4, 40), ("glass", 12, 300), ("paper", 30, 500), ("all", 40, 840))
    }
    parts = ("pet", "glass", "paper")
    assert protect(cells, [Relation("all", parts, disjoint=False)]) == {"pet", "glass"}
    assert protect(cells, [Relation("all", parts, disjoint=False, extra=1)]) == set(parts)


def test_a_frozen_cell_that_nothing_can_protect_is_reported() -> None:
    cells = {"a": people(4, is_hidden=True), "b": people(30)}
    cells = {"a": Cell(4, (4,), is_open=False, is_hidden=True), "b": Cell(30, (30,), is_open=False)}
    with pytest.raises(Unprotectable):
        protect(cells | {"all": Cell(34, (34,), is_open=False)}, [Relation("all", ("a", "b"))])


def test_cells_that_only_several_sums_together_give_back_are_found() -> None:
    """Two sums over the same three cells, and a third over two of them: each alone tells nothing."""
    cells = {name: people(20) for name in "abc"} | {name: people(60) for name in ("x", "y", "z")}
    relations = [Relation("x", ("a", "b")), Relation("y", ("b", "c")), Relation("z", ("a", "c"))]
    assert recoverable(cells, relations, set("abc")) == set("abc")
    assert recoverable(cells, relations, {*"abc", "z"}) == set()
    small = cells | {"a": people(4), "b": people(5), "c": people(6)}
    hidden = protect(small, relations)
    assert recoverable(small, relations, hidden) == set()


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, Cell], list[Relation]]:
    """Streets of communities by categories, with all sums both ways."""
    streets, communities, categories = (draw(st.integers(1, 3)) for _ in range(3))
    counts = {
        (f"s{s}c{c}", f"k{k}"): draw(st.integers(0, 30) | st.integers(0, 300))
        for s in range(streets)
        for c in range(communities)
        for k in range(categories)
    }
    places = {place for place, _ in counts}
    for s in range(streets):
        for k in range(categories):
            counts[f"s{s}", f"k{k}"] = sum(
                n for (p, q), n in counts.items() if p in places and p[:2] == f"s{s}" and q == f"k{k}"
            )
    for k in range(categories):
        counts["all", f"k{k}"] = sum(counts[f"s{s}", f"k{k}"] for s in range(streets))
    every = {place for place, _ in counts}
    for place in every:
        counts[place, "sum"] = sum(counts[place, f"k{k}"] for k in range(categories))
    columns = [*(f"k{k}" for k in range(categories)), "sum"]
    relations = [Relation(f"{p}-sum", tuple(f"{p}-k{k}" for k in range(categories))) for p in sorted(every)]
    for column in columns:
        relations.append(Relation(f"all-{column}", tuple(f"s{s}-{column}" for s in range(streets))))
        relations += [
            Relation(f"s{s}-{column}", tuple(f"s{s}c{c}-{column}" for c in range(communities))) for s in range(streets)
        ]
    return {f"{place}-{column}": people(count) for (place, column), count in counts.items()}, relations


@settings(max_examples=60, deadline=None)
@given(tables())
def test_in_tables_of_two_ways_nothing_withheld_comes_back(table: tuple[dict[str, Cell], list[Relation]]) -> None:
    cells, relations = table
    hidden = protect(cells, relations)
    assert {key for key, cell in cells.items() if 0 < cell.residents < RESIDENTS_MIN} <= hidden
    assert determined(cells, relations, hidden) == set()
    for relation in relations:
        unknown = [key for key in relation.parts if key in hidden]
        if unknown and relation.total not in hidden:
            assert sum(cells[key].residents for key in unknown) >= RESIDENTS_MIN, relation


@settings(max_examples=60, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_the_null_vector_finds_exactly_what_singular_values_find(
    table: tuple[dict[str, Cell], list[Relation]], chance: Any
) -> None:
    cells, relations = table
    hidden = {key for key in sorted(cells) if chance.random() < 0.4 and cells[key].is_open}
    assert recoverable(cells, relations, hidden) == determined(cells, relations, hidden)


def test_bounds_that_pin_a_small_count_down_are_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    """g is part of 12, so c is at most 12 and b at least 14: of the 21, no more than seven are left for a."""
    cells = {
        name: people(count) for name, count in {"a": 6, "b": 15, "c": 11, "g": 1, "x": 21, "y": 26, "z": 12}.items()
    }
    relations = [Relation("x", ("a", "b")), Relation("y", ("b", "c")), Relation("z", ("c", "g"))]
    with monkeypatch.context() as unbounded:
        unbounded.setattr(disclosure._Problem, "narrow", lambda *_: [])
        assert protect(cells, relations) == {"a", "b", "c", "g"}
    assert protect(cells, relations) & {"x", "y", "z"}


def test_a_district_is_told_before_its_communities() -> None:
    cells = {"few": people(5), "many": people(300, rank=0), "district": people(305, rank=4)}
    cells["other"] = people(15, rank=4)
    assert protect(cells, [Relation("district", ("few", "many"))]) == {"few", "many"}
