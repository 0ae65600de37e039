"""Reading the tables of households and persons. Keys of the files are looked up and never stored: ours are counted."""

from collections import Counter, defaultdict
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field

from points.share.survey.cells import Categories, Days, is_category, number_of, records, whole
from points.share.survey.findings import Findings, TableName
from points.share.survey.mapping import CategoryEntry, HouseholdsEntry, Mapping, StreetEntry
from points.share.survey.microdata import HouseholdRow, PersonRow
from points.share.survey.models import AGE_MAX
from points.share.survey.tables import Table

STAYED_HOME_MAX = 0.35
UNEVEN_WEIGHTS = 100
LONE_CLUSTERS_NAMED_MAX = 5

Households = dict[str, HouseholdRow]
Persons = dict[str, PersonRow]


class _Attributes:
    """The attributes of one table: what to read, and how many rows have no category."""

    def __init__(self, entries: AnyMapping[str, CategoryEntry], table: TableName) -> None:
        self.columns = [entry.column for entry in entries.values()]
        self._readers = {name: Categories(entry) for name, entry in entries.items()}
        self._table = table
        self._missing: Counter[str] = Counter()

    def of(self, cells: list[str], row: int, findings: Findings) -> dict[str, str]:
        """The categories in the cells of `columns`."""
        found = {}
        for (name, reader), column, cell in zip(self._readers.items(), self.columns, cells, strict=True):
            found[name], fault = reader.of(cell)
            if fault:
                findings.fault(self._table, row, column, fault)
            elif not found[name]:
                self._missing[column] += 1
        return found

    def warn(self, findings: Findings) -> None:
        """Note how often a category was unknown."""
        for column, count in sorted(self._missing.items()):
            findings.warn(self._table, column, "category-missing", count)


def _street(entry: StreetEntry | None, cell: str, known: frozenset[str]) -> tuple[str | None, bool]:
    """The street's code, and whether what stands there is none."""
    if entry is None or not cell:
        return None, False
    code = entry.recode.get(whole(cell), whole(cell))
    return (code, False) if code in known else (None, True)


def read_households(table: Table, entry: HouseholdsEntry, streets: frozenset[str], findings: Findings) -> Households:
    """The households by the file's keys."""
    name = TableName.HOUSEHOLDS
    attributes = _Attributes(entry.attributes, name)
    street_column = entry.street.column if entry.street else None
    found: Households = {}
    wanted = [entry.key, street_column, *attributes.columns]
    for row, (key, street_cell, *cells) in records(table, name, wanted, findings):
        if not key or key in found:
            findings.fault(name, row, entry.key, "key-twice" if key else "key-missing")
            continue
        street, is_unknown = _street(entry.street, street_cell, streets)
        if is_unknown:
            findings.fault(name, row, street_column or "", "street-unknown")
        found[key] = HouseholdRow(
            key=f"h{len(found) + 1:07}", street_code=street, attributes=attributes.of(cells, row, findings)
        )
    attributes.warn(findings)
    return found


@dataclass
class _Drawn:
    """What is counted over all persons while they are read."""

    clusters: dict[tuple[str, str], str] = field(default_factory=dict)
    answering: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    own_households: dict[str, str] = field(default_factory=dict)
    ages_unknown: int = 0
    younger: int = 0
    streets_unknown: int = 0
    weight_min: float = float("inf")
    weight_max: float = 0.0


class _PersonReader:
    """Reads one row of persons after another."""

    def __init__(
        self,
        mapping: Mapping,
        households: Households | None,
        streets: frozenset[str],
        age_min: int,
        findings: Findings,
    ) -> None:
        self.entry = mapping.persons
        self.households = households
        self.streets = streets
        self.age_min = age_min
        self.findings = findings
        self.has_streets = mapping.has_streets
        self.attributes = _Attributes(self.entry.attributes, TableName.PERSONS)
        self.days = Days(mapping.wave.first_on, mapping.wave.last_on)
        self.drawn = _Drawn()
        answered = self.entry.answered
        self.answers = (
            {**dict.fromkeys(answered.no, False), **dict.fromkeys(answered.yes, True)} if answered is not None else {}
        )

    @property
    def columns(self) -> list[str | None]:
        """The columns that `read` wants."""
        entry = self.entry
        return [
            entry.key,
            entry.household,
            entry.weight,
            entry.stratum,
            entry.cluster,
            entry.age,
            entry.answered.column if entry.answered else None,
            entry.street.column if entry.street else None,
            entry.day,
            *self.attributes.columns,
        ]

    def read(self, row: int, cells: list[str], position: int) -> PersonRow:
        """The person of a row; with a fault in it the wave is not stored, whatever this gives."""
        _, household_cell, weight, stratum, cluster, age_cell, answer, street_cell, day_cell, *categories = cells
        household = self._household(row, household_cell)
        street, attributes = self._place(row, street_cell, household)
        attributes |= self.attributes.of(categories, row, self.findings)
        day, fault = self.days.of(day_cell)
        if fault:
            self._fault(row, self.entry.day, fault)
        key = f"p{position:07}"
        responded = self._responded(row, answer)
        stratum = self._stratum(row, stratum)
        return PersonRow(
            key=key,
            base_weight=self._weight(row, weight),
            responded=responded,
            cluster=self._cluster(row, stratum, cluster, household_cell, key, responded),
            stratum=stratum,
            household_key=household.key if household is not None else None,
            street_code=street,
            age=self._age(row, age_cell),
            day=day,
            attributes=attributes,
        )

    def _fault(self, row: int, column: str | None, code: str) -> None:
        self.findings.fault(TableName.PERSONS, row, column or "", code)

    def _household(self, row: int, cell: str) -> HouseholdRow | None:
        if self.households is None:
            return None
        found = self.households.get(cell)
        if found is None:
            self._fault(row, self.entry.household, "household-unknown" if cell else "household-missing")
        return found

    def _place(self, row: int, cell: str, household: HouseholdRow | None) -> tuple[str | None, dict[str, str]]:
        """The street, the person's own or the household's, and what the household's people share."""
        street, is_unknown = _street(self.entry.street, cell, self.streets)
        if is_unknown:
            self._fault(row, self.entry.street.column if self.entry.street else None, "street-unknown")
        shared = {}
        if household is not None:
            shared = dict(household.attributes)
            street = street or household.street_code
        if self.has_streets:
            shared["street"] = street or ""
            self.drawn.streets_unknown += street is None
        return street, shared

    def _weight(self, row: int, cell: str) -> float:
        if self.entry.weight_constant is not None:
            return self.entry.weight_constant
        weight = number_of(cell)
        if weight is None or not 0 < weight <= 1e9:
            self._fault(row, self.entry.weight, "weight-invalid")
            return 1.0
        self.drawn.weight_min = min(weight, self.drawn.weight_min)
        self.drawn.weight_max = max(weight, self.drawn.weight_max)
        return weight

    def _stratum(self, row: int, cell: str) -> str:
        if self.entry.stratum is None:
            return ""
        if not is_category(cell):
            self._fault(row, self.entry.stratum, "stratum-unfit" if cell else "stratum-missing")
            return ""
        return cell

    def _cluster(self, row: int, stratum: str, cell: str, household_cell: str, key: str, responded: bool) -> str:
        """Our own name for the cluster: that of the file inside its stratum, the household, or the person alone."""
        said = household_cell if self.entry.cluster_is_household else cell
        if self.entry.cluster is None and not self.entry.cluster_is_household:
            said = key
        elif not said:
            self._fault(row, self.entry.cluster or self.entry.household, "cluster-missing")
        clusters = self.drawn.clusters
        cluster = clusters.setdefault((stratum, said), f"c{len(clusters) + 1:07}")
        if responded:
            self.drawn.answering[stratum].add(cluster)
        return cluster

    def _age(self, row: int, cell: str) -> int | None:
        if self.entry.age is None:
            return None
        if not cell:
            self.drawn.ages_unknown += 1
            return None
        cell = whole(cell)
        if not (cell.isascii() and cell.isdecimal()) or len(cell) > 3 or int(cell) > AGE_MAX:
            self._fault(row, self.entry.age, "age-invalid")
            return None
        self.drawn.younger += int(cell) < self.age_min
        return int(cell)

    def _responded(self, row: int, cell: str) -> bool:
        if self.entry.answered is None:
            return True
        answer = self.answers.get(whole(cell))
        if answer is None:
            self._fault(row, self.entry.answered.column, "answer-unknown")
        return bool(answer)

    def warn(self) -> None:
        """Note what is of no single row."""
        drawn, findings, name = self.drawn, self.findings, TableName.PERSONS
        self.attributes.warn(findings)
        lone = sorted(stratum for stratum, clusters in drawn.answering.items() if len(clusters) == 1)
        named = ", ".join(lone[:LONE_CLUSTERS_NAMED_MAX])
        findings.warn(name, self.entry.stratum or "", "stratum-lone-cluster", len(lone), named)
        findings.warn(name, self.entry.age or "", "age-unknown", drawn.ages_unknown)
        findings.warn(name, self.entry.age or "", "younger-left-out", drawn.younger)
        findings.warn(name, "street", "category-missing", drawn.streets_unknown)
        is_uneven = drawn.weight_max > UNEVEN_WEIGHTS * drawn.weight_min
        findings.warn(name, self.entry.weight or "", "weights-uneven", int(is_uneven))


def read_persons(
    table: Table,
    mapping: Mapping,
    households: Households | None,
    streets: frozenset[str],
    age_min: int,
    findings: Findings,
) -> Persons:
    """The persons by the file's keys. `households` is None where there is no table of them."""
    name, entry = TableName.PERSONS, mapping.persons
    reader = _PersonReader(mapping, households, streets, age_min, findings)
    found: Persons = {}
    for row, cells in records(table, name, reader.columns, findings):
        key = cells[0]
        if not key or key in found:
            findings.fault(name, row, entry.key, "key-twice" if key else "key-missing")
            continue
        found[key] = reader.read(row, cells, len(found) + 1)
    reader.warn()
    if households is not None:
        lived_in = {person.household_key for person in found.values()}
        empty = sum(household.key not in lived_in for household in households.values())
        findings.warn(TableName.HOUSEHOLDS, "", "household-without-persons", empty)
    if found and not any(person.responded for person in found.values()):
        findings.fault(name, None, entry.answered.column if entry.answered else "", "nobody-answered")
    return found
