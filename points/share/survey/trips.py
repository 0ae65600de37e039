"""Reading the table of trips: a row is a trip, or one leg of it."""

from collections import Counter

from points.share.survey.cells import Categories, Days, minute_of, number_of, records, whole
from points.share.survey.definition import Definition
from points.share.survey.findings import Findings, TableName
from points.share.survey.mapping import Mapping
from points.share.survey.microdata import TripRow
from points.share.survey.models import LEGS_MAX, TRIPS_PER_PERSON_MAX
from points.share.survey.people import STAYED_HOME_MAX, Persons
from points.share.survey.tables import Table

DISTANCE_M_MAX = 2_000_000


class _TripReader:
    """Reads one row of trips after another."""

    def __init__(self, mapping: Mapping, definition: Definition, findings: Findings) -> None:
        self.entry = mapping.trips
        self.definition = definition
        self.findings = findings
        self.days = Days(mapping.wave.first_on, mapping.wave.last_on)
        self.purposes = Categories(self.entry.purpose) if self.entry.purpose else None
        self._no_leg = frozenset({"", *self.entry.modes.none})
        self._legs: dict[tuple[str, ...], tuple[tuple[str, ...], str]] = {}

    @property
    def columns(self) -> list[str | None]:
        """The columns that a row's cells are of: person, number, day, distance, start, purpose, and the modes."""
        entry = self.entry
        return [
            entry.person,
            entry.position,
            entry.day,
            entry.distance.column if entry.distance else None,
            entry.started,
            entry.purpose.column if entry.purpose else None,
            *entry.modes.columns,
        ]

    def fault(self, row: int, column: str | None, code: str) -> None:
        """Note a fault in a row."""
        self.findings.fault(TableName.TRIPS, row, column or "", code)

    def legs(self, row: int, cells: list[str]) -> tuple[str, ...]:
        """The modes of the legs in a row's cells; each way of travelling is looked up once."""
        seen = tuple(cells)
        judged = self._legs.get(seen)
        if judged is None:
            judged = self._judge(seen)
            if len(self._legs) < 100_000:
                self._legs[seen] = judged
        legs, fault = judged
        if fault:
            self.fault(row, self.entry.modes.columns[0], fault)
        return legs

    def _judge(self, cells: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
        modes = self.entry.modes
        said = [part.strip() for cell in cells for part in (cell.split(modes.separator) if modes.separator else [cell])]
        values = [whole(value) for value in said if whole(value) not in self._no_leg]
        legs = tuple(modes.recode.get(value, "" if modes.recode else value) for value in values)
        if not legs:
            return (), "mode-missing"
        if len(legs) > LEGS_MAX:
            return (), "legs-too-many"
        return (legs, "") if all(leg in self.definition.modes for leg in legs) else ((), "mode-unknown")

    def position(self, row: int, cell: str, otherwise: int) -> int:
        """The trip's number in the file; without a column of them, its place among the person's rows."""
        if self.entry.position is None:
            return otherwise
        cell = whole(cell)
        if not (cell.isascii() and cell.isdecimal()) or not 1 <= len(cell) <= 9 or int(cell) == 0:
            self.fault(row, self.entry.position, "position-invalid")
            return otherwise
        return int(cell)

    def distance_m(self, row: int, cell: str) -> int | None:
        """The distance in metres, None where nobody knows."""
        if self.entry.distance is None or not cell:
            return None
        number = number_of(cell)
        if number is None or not 0 <= number * self.entry.distance.metres_per_unit <= DISTANCE_M_MAX:
            self.fault(row, self.entry.distance.column, "distance-invalid")
            return None
        return round(number * self.entry.distance.metres_per_unit)

    def started_minute(self, row: int, cell: str) -> int | None:
        """The minute of the day at which the trip began, None where nobody knows."""
        if not cell:
            return None
        minute = minute_of(cell)
        if minute is None:
            self.fault(row, self.entry.started, "start-invalid")
        return minute

    def purpose(self, row: int, cell: str) -> str | None:
        """The category of the purpose, None where nobody knows."""
        if self.purposes is None:
            return None
        found, fault = self.purposes.of(cell)
        if fault:
            self.fault(row, self.entry.purpose.column if self.entry.purpose else None, fault)
        return found or None


def read_trips(
    table: Table, mapping: Mapping, persons: Persons, definition: Definition, findings: Findings
) -> list[TripRow]:
    """The trips of all persons, by person in the order of their numbers, which become 1, 2, 3 …"""
    reader = _TripReader(mapping, definition, findings)
    found: dict[tuple[str, int], TripRow] = {}
    rows_of: Counter[str] = Counter()
    for row, cells in records(table, TableName.TRIPS, reader.columns, findings):
        key, position_cell, day_cell, distance, started, purpose, *modes = cells
        person = persons.get(key)
        if person is None or not person.responded:
            # Without a table of persons to look into, every trip would be a fault of its own.
            if persons:
                code = "trip-of-nobody-who-answered" if person is not None else "person-unknown"
                reader.fault(row, mapping.trips.person, code if key else "key-missing")
            continue
        rows_of[person.key] += 1
        position = reader.position(row, position_cell, rows_of[person.key])
        _, fault = reader.days.of(day_cell)
        if fault:
            reader.fault(row, mapping.trips.day, fault)
        trip = TripRow(
            person_key=person.key,
            position=position,
            legs=reader.legs(row, modes),
            distance_m=reader.distance_m(row, distance),
            started_minute=reader.started_minute(row, started),
            purpose=reader.purpose(row, purpose),
        )
        _add(found, trip, row, reader)
    trips = _numbered(found, reader)
    _tell(trips, persons, findings)
    return trips


def _add(found: dict[tuple[str, int], TripRow], trip: TripRow, row: int, reader: _TripReader) -> None:
    """Keep a trip, or another leg of one."""
    before = found.get((trip.person_key, trip.position))
    if before is None:
        found[trip.person_key, trip.position] = trip
    elif not reader.entry.rows_are_legs:
        reader.fault(row, reader.entry.position, "position-twice")
    elif len(before.legs) + len(trip.legs) > LEGS_MAX:
        reader.fault(row, reader.entry.position, "legs-too-many")
    else:
        distances = [each for each in (before.distance_m, trip.distance_m) if each is not None]
        found[trip.person_key, trip.position] = TripRow(
            person_key=before.person_key,
            position=before.position,
            legs=before.legs + trip.legs,
            # A trip with a leg of unknown length has an unknown length.
            distance_m=sum(distances) if len(distances) == 2 else None,
            started_minute=before.started_minute,
            purpose=before.purpose or trip.purpose,
        )


def _numbered(found: dict[tuple[str, int], TripRow], reader: _TripReader) -> list[TripRow]:
    trips = []
    last_key, number = "", 0
    for key, position in sorted(found):
        trip = found[key, position]
        number = number + 1 if key == last_key else 1
        last_key = key
        if number == TRIPS_PER_PERSON_MAX + 1:
            reader.findings.fault(TableName.TRIPS, None, reader.entry.person, "trips-too-many")
        trips.append(
            trip
            if trip.position == number
            else TripRow(
                person_key=key,
                position=number,
                legs=trip.legs,
                distance_m=trip.distance_m,
                started_minute=trip.started_minute,
                purpose=trip.purpose,
            )
        )
    return trips


def _tell(trips: list[TripRow], persons: Persons, findings: Findings) -> None:
    """Note what is of no single row."""
    respondents = sum(person.responded for person in persons.values())
    travelled = len({trip.person_key for trip in trips})
    if respondents and not trips and not findings.faults:
        findings.fault(TableName.TRIPS, None, "", "trips-none")
    stayed = respondents - travelled
    if stayed > STAYED_HOME_MAX * respondents:
        findings.warn(TableName.TRIPS, "", "many-stayed-home", stayed)
