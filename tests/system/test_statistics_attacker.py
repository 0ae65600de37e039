"""An attacker on the public statistics: reads all that anybody may, and subtracts, adds up and solves.

Ten thousand residents, releases of months, a quarter and a year, with everything that is public knowledge: that places,
modes and months add up, which column counts some of the people of another, and the factors behind grams and points.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import pytest
import redis
import scipy.sparse
import scipy.sparse.linalg
import sqlalchemy as sa
import synthetic_records as synthetic
import time_machine
from flask.testing import FlaskClient
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from points.open_data import withholding
from points.open_data.disclosure import protect
from server.access import Role
from server.clock import SHANGHAI
from server.embedded import EmbeddedValkey

MONTHS = [date(2026, 10, 1), date(2026, 11, 1)]
PERIODS = ("2026-10", "2026-11", "2026-Q4", "2026")
PARTS = {"2026-Q4": ("2026-10", "2026-11"), "2026": ("2026-Q4",)}
WITHIN = {"2026-10": ("2026-Q4", "2026"), "2026-11": ("2026-Q4", "2026"), "2026-Q4": ("2026",)}
SUMS = ("activities", "distance_m", "weight_g", "points", "saved_co2e_g")
COUNTS = ("residents", "participants", "registered")

PRECISE: Any = {"atol": 1e-11, "btol": 1e-11, "maxiter": 1000}

# Period, table, place, category, measure.
Cell = tuple[str, str, str, str, str]


@dataclass
class Behind:
    """What the attacker does not have: the true figure, how many residents are behind it, and the most of one."""

    value: int
    residents: int
    largest: int

    @property
    def must_be_secret(self) -> bool:
        return 0 < self.residents < 10 or 2 * self.largest > self.value > 0


@dataclass
class Loot:
    """Everything that was read; None where it was withheld."""

    told: dict[Cell, int | None] = field(default_factory=dict)

    def equations(self) -> Iterator[dict[Cell, float]]:
        """What must add up to nothing, over cells told or withheld."""
        children: dict[Cell, list[Cell]] = {}
        for cell in self.told:
            period, table, place, category, measure = cell
            if len(place) > 6:
                children.setdefault((period, table, place[:-3], category, measure), []).append(cell)
        for total, parts in children.items():
            if total in self.told:
                yield dict.fromkeys(parts, 1.0) | {total: -1.0}
        for period, place in {(cell[0], cell[2]) for cell in self.told}:
            yield from self._of_place(period, place)
        for longer, parts in PARTS.items():
            for cell in [cell for cell in self.told if cell[0] == longer and cell[4] in SUMS]:
                known = [(part, *cell[1:]) for part in parts]
                yield dict.fromkeys((part for part in known if part in self.told), 1.0) | {cell: -1.0}

    def _of_place(self, period: str, place: str) -> Iterator[dict[Cell, float]]:
        def cell(table: str, category: str, measure: str) -> Cell:
            return (period, table, place, category, measure)

        weights = {name: cell("recycling-materials", name, "weight_g") for name in synthetic.MATERIALS}
        metres = {name: cell("activity", name, "distance_m") for name in synthetic.TRAVEL}
        yield dict.fromkeys(weights.values(), 1.0) | {cell("activity", "recycling", "weight_g"): -1.0}
        points = {weights[name]: each / 1000 for name, each in synthetic.POINTS_PER_KG.items()}
        yield points | {cell("activity", "recycling", "points"): -1.0}
        grams = {weights[name]: each / 1000 for name, each in synthetic.MG_PER_G.items()}
        yield grams | {cell("carbon-savings", synthetic.RECYCLING_METHOD, "saved_co2e_g"): -1.0}
        grams = {metres[name]: each / 1000 for name, each in synthetic.MG_PER_M.items()}
        yield grams | {cell("carbon-savings", synthetic.TRAVEL_METHOD, "saved_co2e_g"): -1.0}

    def nested(self) -> Iterator[tuple[Cell, Cell]]:
        """Counts of residents of whom the first are among the second, or were a month before."""
        for cell in self.told:
            period, table, place, category, measure = cell
            if measure not in COUNTS:
                continue
            if measure == "residents":
                yield cell, (period, "participation", place, "", "participants")
            if measure == "participants" and table == "participation":
                yield cell, (period, "participation", place, "", "registered")
            if measure == "registered" and period == PERIODS[0]:
                yield cell, (PERIODS[1], *cell[1:])
            for longer in WITHIN.get(period, ()):
                yield cell, (longer, table, place, category, measure)

    def solved(self) -> dict[Cell, float]:
        """The withheld figures that everything read determines, and what they then are.

        An equation with an unknown that stands in no other tells of that unknown alone, and only once all the rest of
        it is known: such equations are set aside, again and again, and what is left is solved by least squares.
        """
        core = dict(enumerate(self._reduced()))
        aside = []
        holding: dict[Cell, set[int]] = {}
        for number, (row, _) in core.items():
            for cell in row:
                holding.setdefault(cell, set()).add(number)
        lonely = [cell for cell, numbers in holding.items() if len(numbers) == 1]
        while lonely:
            cell = lonely.pop()
            if len(holding[cell]) != 1:
                continue
            (number,) = holding[cell]
            row, right = core.pop(number)
            aside.append((cell, row, right))
            for other in row:
                holding[other].discard(number)
                if len(holding[other]) == 1:
                    lonely.append(other)
        found = _least_squares(list(core.values()))
        for cell, row, right in reversed(aside):
            if all(other in found for other in row if other != cell):
                found[cell] = (right - sum(f * found[each] for each, f in row.items() if each != cell)) / row[cell]
        return found

    def _reduced(self) -> Iterator[tuple[dict[Cell, float], float]]:
        """The equations in what was withheld alone, each with its right side."""
        for equation in self.equations():
            if not all(cell in self.told for cell in equation):
                continue
            unknown = {cell: factor for cell, factor in equation.items() if self.told[cell] is None}
            if unknown:
                scale = max(map(abs, unknown.values()))
                right = -sum(factor * (self.told[cell] or 0) for cell, factor in equation.items())
                yield {cell: factor / scale for cell, factor in unknown.items()}, right / scale


def _least_squares(equations: Sequence[tuple[dict[Cell, float], float]]) -> dict[Cell, float]:
    """The unknowns that are the same in every solution."""
    unknown = {cell: number for number, cell in enumerate({cell for row, _ in equations for cell in row})}
    entries = [(n, unknown[cell], factor) for n, (row, _) in enumerate(equations) for cell, factor in row.items()]
    if not entries:
        return {}
    rows, columns, values = zip(*entries, strict=True)
    matrix = scipy.sparse.csr_matrix((values, (rows, columns)), shape=(len(equations), len(unknown)))
    start = np.random.default_rng(7).normal(size=len(unknown))
    # What is left of it in the null space: nothing, for a cell that is the same in every solution.
    onto = scipy.sparse.linalg.lsmr(matrix, matrix @ start, **PRECISE)[0]
    solution = scipy.sparse.linalg.lsmr(matrix, np.array([right for _, right in equations]), **PRECISE)[0]
    return {cell: float(solution[n]) for cell, n in unknown.items() if abs(start[n] - onto[n]) < 1e-6}


@pytest.fixture(autouse=True)
def after_the_year(clock: time_machine.Traveller) -> None:
    clock.move_to(datetime(2027, 1, 20, 12, tzinfo=SHANGHAI))


@pytest.fixture
def fresh(valkey: EmbeddedValkey) -> Callable[[], None]:
    def forget() -> None:
        with redis.Redis.from_url(valkey.url) as raw:
            raw.flushall()

    forget()
    return forget


def read(client: FlaskClient, address: str) -> Any:
    answer = client.get(address)
    assert answer.status_code == 200, (address, answer.text)
    return answer.json


def steal(client: FlaskClient) -> Loot:
    """Read every release, every file and every page that anybody may read."""
    loot = Loot()
    for release in read(client, "/api/v1/open-data?limit=200")["items"]:
        period = release["name"].split(".")[0]
        for file in release["files"]:
            if file["format"] == "csv":
                continue
            for row in read(client, file["url"])["rows"]:
                for measure in (*SUMS, *COUNTS):
                    if measure in row:
                        cell = (period, file["table"], row["place_code"], row["category"], measure)
                        loot.told[cell] = row[measure]
        pages = {
            **_of_summary(period, read(client, f"/api/v1/report/summary?period={period}")),
            **_of_participation(period, read(client, f"/api/v1/report/public/participation?period={period}")),
        }
        for cell, value in pages.items():
            assert loot.told.get(cell, 0) == value, "a page tells what the file does not"
    return loot


def _of_summary(period: str, page: Mapping[str, Any]) -> dict[Cell, int | None]:
    found: dict[Cell, int | None] = {}
    for street in page["participation"]:
        for row in ({**street, "code": street["street_code"]}, *street["communities"]):
            for measure in ("participants", "registered"):
                found[period, "participation", row["code"], "", measure] = row[measure]
    for mode in page["recorded_trips"]["modes"]:
        found[period, "activity", "120104", mode["mode"], "activities"] = mode["trips"]
    for saving in page["savings"]:
        found[period, "carbon-savings", "120104", saving["method"], "saved_co2e_g"] = saving["grams"]
    for material in page["materials"]:
        found[period, "recycling-materials", "120104", material["material"], "weight_g"] = material["weight_g"]
    return found if len(period) == 7 and period[5] != "Q" else {c: v for c, v in found.items() if c[4] != "registered"}


def _of_participation(period: str, page: Mapping[str, Any]) -> dict[Cell, int | None]:
    return {
        (period, "participation", row["place_code"], "", "participants"): row["participants"] for row in page["items"]
    }


_TRUTH = sa.text("""
SELECT r.grain, r.starts_on, e.table_code, e.place_code, e.category, e.figures, e.contributors, e.largest
FROM statistics_exact e JOIN statistics_release r ON r.id = e.release_id
""")


def truth(session: Session) -> dict[Cell, Behind]:
    """Every exact figure that is not zero."""
    found = {}
    for grain, start, table, place, category, figures, behind, largest in session.execute(_TRUTH):
        period = {"month": f"{start:%Y-%m}", "quarter": f"{start.year}-Q4", "year": f"{start.year}"}[grain]
        for name, value in figures.items():
            measure = "saved_co2e_g" if name == "saved_co2e_mg" else name
            divisor = 1000 if name == "saved_co2e_mg" else 1
            found[period, table, place, category, measure] = Behind(
                value // divisor, behind.get(name, value), largest.get(name, 0) // divisor
            )
    return found


def differences_of_few(loot: Loot, exact: Mapping[Cell, Behind]) -> list[Any]:
    """Numbers of one to nine residents that subtracting one told number from another gives."""
    found: list[Any] = []
    for inner, outer in loot.nested():
        less, more = loot.told.get(inner), loot.told.get(outer)
        if less and more is not None and 0 < abs(more - less) < 10:
            found.append((inner, outer))
    for equation in loot.equations():
        total = next(cell for cell, factor in equation.items() if factor < 0)
        withheld = [cell for cell in equation if cell in loot.told and loot.told[cell] is None and cell != total]
        of_places = withheld and total[2] != withheld[0][2]
        if of_places and loot.told.get(total) and 0 < sum(exact[cell].residents for cell in withheld) < 10:
            found.append((total, withheld))
    return found


def recovered(loot: Loot, exact: Mapping[Cell, Behind]) -> list[Cell]:
    """Secret figures that solving gives, to within one in a hundred."""
    return [
        cell
        for cell, value in loot.solved().items()
        if cell in exact and exact[cell].must_be_secret and abs(value - exact[cell].value) <= 0.01 * exact[cell].value
    ]


def shown_of_few(loot: Loot, exact: Mapping[Cell, Behind]) -> list[Cell]:
    """Figures of one to nine residents, or mostly of one, that are plainly told."""
    return [cell for cell, value in loot.told.items() if value and exact[cell].must_be_secret] + [
        cell for cell, value in loot.told.items() if cell[4] in COUNTS and value is not None and 0 < value < 10
    ]


def release(client: FlaskClient, staff: dict[str, str], periods: Sequence[str]) -> None:
    for period in periods:
        answer = client.post("/api/v1/open-data/releases", json={"period": period}, headers=staff)
        assert answer.status_code == 201, answer.text


def test_nobody_is_found_in_the_public_statistics(
    client: FlaskClient,
    session: Session,
    connection: Connection,
    sign_in_staff: Callable[..., dict[str, str]],
    fresh: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes = list(session.scalars(sa.text("SELECT code FROM division WHERE level = 'community' ORDER BY code")))
    persons = synthetic.people(codes, 10_000, MONTHS, seed=4)
    synthetic.store(session, synthetic.records(persons, MONTHS, seed=5))
    synthetic.count(session, persons, MONTHS)
    session.commit()
    staff = sign_in_staff(Role.DISTRICT, division="120104")

    # Without complementary withholding the same attack succeeds; so it is able to.
    naive = connection.begin_nested()
    with monkeypatch.context() as patched:
        patched.setattr(withholding, "protect", only_primary)
        release(client, staff, PERIODS[:1])
    loot, exact = steal(client), truth(session)
    assert shown_of_few(loot, exact) == []
    assert len(recovered(loot, exact)) > 10
    assert len(differences_of_few(loot, exact)) > 10
    session.rollback()
    naive.rollback()
    fresh()

    release(client, staff, PERIODS)
    loot, exact = steal(client), truth(session)
    assert len([cell for cell, value in loot.told.items() if value]) > 2_000, "there must be something to read"
    secret = [cell for cell, behind in exact.items() if behind.must_be_secret and cell in loot.told]
    assert len(secret) > 1_000
    assert shown_of_few(loot, exact) == []
    assert recovered(loot, exact) == []
    assert differences_of_few(loot, exact) == []

    # One more resident in a community of few, in every month: nothing that anybody reads moves by a single digit.
    newcomer = synthetic.Person(synthetic.UUID(int=1), codes[14], MONTHS[0])
    few = itertools.islice(synthetic.records([newcomer] * 20, MONTHS, seed=6), 1)
    synthetic.store(session, few)
    synthetic.count(session, [*persons, newcomer], MONTHS)
    session.commit()
    fresh()
    assert steal(client).told == loot.told
    # And a correction for the newcomer's sake would be about the newcomer.
    entry = {"period": "2026-10", "reason": "补记一人 one record that came late"}
    answer = client.post("/api/v1/open-data/releases", json=entry, headers=staff)
    assert (answer.status_code, answer.json["code"]) == (409, "nothing-to-correct")


def only_primary(cells: Mapping[Any, Any], relations: Any) -> set[Any]:
    """What is withheld by those who forget that tables add up."""
    assert protect is not only_primary
    return {key for key, cell in cells.items() if cell.is_open and cell.is_sensitive}
