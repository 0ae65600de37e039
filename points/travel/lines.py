"""Whether a track rode along a line: near its stops in their order, slow at enough of them, and hardly anywhere else.

Motion alone cannot tell a bus from a car. The lines are a file of the district, `transit-lines.csv`, in the manner of
GTFS: one row for a stop of a line in one direction, in UTF-8 with these columns.

    line_id, name_zh, name_en   the line
    mode                        bus or metro
    direction                   0 or 1; a ring line has one
    sequence                    the stop's place in the direction, rising
    stop_id, stop_name          the stop
    latitude, longitude         degrees of WGS-84
    first_departure, last_arrival  the line's hours, such as 05:30 and 22:30; a last arrival that comes before the first
                                departure is past midnight, and that part of the night is the evening before's
    weekdays                    may be left out: on which days the hours begin, such as 12345; 1 is Monday
"""

import csv
import io
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from points.travel.alike import Sketch
from points.travel.checks import CheckDataError, Checks, check_hours, second_of_day, service_day
from points.travel.models import TrackMode
from points.travel.motion import METRES_PER_DEGREE
from server.places.positions import Datum, Position

FILE_BYTES_MAX = 10_000_000
STOPS_MAX = 50_000
_COLUMNS = (
    "line_id",
    "name_zh",
    "name_en",
    "mode",
    "direction",
    "sequence",
    "stop_id",
    "stop_name",
    "latitude",
    "longitude",
    "first_departure",
    "last_arrival",
)
# What every row of a direction says alike: a part that the first row alone had would be lost.
_OF_A_DIRECTION = ("mode", "first_departure", "last_arrival", "weekdays")
_DAILY = "1234567"
_SLOW_WITHIN_S = 45  # a vehicle stands at its stop within so long of passing nearest to it
_BEYOND_M = 400  # getting on and off lies so near the first and last stop


@dataclass(frozen=True, slots=True)
class Line:
    """One direction of a line: its stops in order, in GCJ-02 degrees."""

    id: str
    mode: TrackMode
    from_s: int
    to_s: int
    latitudes: tuple[float, ...]
    longitudes: tuple[float, ...]
    weekdays: str = _DAILY

    def runs(self, at: datetime) -> bool:
        """Whether it is in service at a moment, by the weekday of the day whose service that is."""
        day = service_day(at, from_s=self.from_s, to_s=self.to_s)
        return day is not None and str(day.isoweekday()) in self.weekdays

    def stops_m(self, east: float) -> list[tuple[float, float]]:
        """The stops in a sketch's metres."""
        return [(x * east, y * METRES_PER_DEGREE) for x, y in zip(self.longitudes, self.latitudes, strict=True)]


@dataclass(frozen=True, slots=True)
class Match:
    """The line ridden, and how far it is along it from the first stop to the last."""

    line_id: str
    distance_m: int


@lru_cache(maxsize=8)
def read(folder: Path) -> tuple[Line, ...]:
    """The lines of a district's folder, none without the file; read once in a process. Raises CheckDataError."""
    path = folder / "transit-lines.csv"
    if not path.exists():
        return ()
    if path.stat().st_size > FILE_BYTES_MAX:
        raise CheckDataError(f"{path.name}: larger than {FILE_BYTES_MAX} bytes")
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CheckDataError(f"{path.name}: {error}") from error
    if not 0 < len(rows) <= STOPS_MAX:
        raise CheckDataError(f"{path.name}: needs 1 to {STOPS_MAX} stops")
    directions: dict[tuple[str, str], list[tuple[int, dict[str, str]]]] = {}
    for number, row in enumerate(rows, start=2):
        sequence = _check(f"{path.name}:{number}", row)
        directions.setdefault((row["line_id"], row["direction"]), []).append((sequence, row))
    return tuple(_line(path.name, sorted(stops, key=lambda each: each[0])) for stops in directions.values())


def _check(where: str, row: dict[str, str]) -> int:
    if set(row) - {"weekdays"} != set(_COLUMNS) or not all(isinstance(value, str) for value in row.values()):
        raise CheckDataError(f"{where}: columns must be {', '.join(_COLUMNS)}, and may be weekdays")
    if not re.fullmatch(r"[1-7]{1,7}", row.get("weekdays", _DAILY)):
        raise CheckDataError(f"{where}: weekdays are written as 12345, 1 is Monday")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", row["line_id"]) or row["mode"] not in ("bus", "metro"):
        raise CheckDataError(f"{where}: line_id or mode does not fit")
    if row["direction"] not in ("0", "1") or not re.fullmatch(r"[0-9]{1,4}", row["sequence"]):
        raise CheckDataError(f"{where}: direction is 0 or 1, sequence a number")
    try:
        latitude, longitude = float(row["latitude"]), float(row["longitude"])
    except ValueError as error:
        raise CheckDataError(f"{where}: latitude and longitude are degrees") from error
    if not (-90 < latitude < 90 and -180 <= longitude <= 180):
        raise CheckDataError(f"{where}: latitude and longitude are degrees")
    return int(row["sequence"])


def _line(name: str, stops: list[tuple[int, dict[str, str]]]) -> Line:
    first = stops[0][1]
    if len(stops) < 2 or len({sequence for sequence, _ in stops}) < len(stops):
        raise CheckDataError(f"{name}: {first['line_id']}: needs two stops or more, each with its own sequence")
    if len({tuple(row.get(column) for column in _OF_A_DIRECTION) for _, row in stops}) > 1:
        raise CheckDataError(f"{name}: {first['line_id']}: a direction has one {', one '.join(_OF_A_DIRECTION)}")
    from_s, to_s = (second_of_day(name, first["line_id"], first[hour]) for hour in ("first_departure", "last_arrival"))
    check_hours(name, first["line_id"], from_s, to_s)
    places = [Position(float(row["latitude"]), float(row["longitude"]), Datum.WGS_84).in_gcj_02() for _, row in stops]
    return Line(
        id=first["line_id"],
        mode=TrackMode(first["mode"]),
        from_s=from_s,
        to_s=to_s,
        latitudes=tuple(place.latitude for place in places),
        longitudes=tuple(place.longitude for place in places),
        weekdays=first.get("weekdays", _DAILY),
    )


def running(lines: Sequence[Line], mode: TrackMode, *, at: datetime) -> list[Line]:
    """The lines of a mode that were in service when a ride began; the last vehicle arrives late now and then."""
    return [line for line in lines if line.mode is mode and line.runs(at)]


def match(way: Sketch, lines: Sequence[Line], checks: Checks) -> Match | None:
    """The line of these that the track rode along, None when there is none.

    Of several lines on one road the one with the most stops passed is named.
    """
    east = way.east_per_degree_m
    best: tuple[int, Match] | None = None
    for line in lines:
        found = _along(way, line, line.stops_m(east), checks)
        if found is not None and (best is None or found[0] > best[0]):
            best = found
    return best[1] if best else None


def _along(way: Sketch, line: Line, stops: list[tuple[float, float]], checks: Checks) -> tuple[int, Match] | None:
    near_m = checks.stop_near_m if line.mode is TrackMode.BUS else checks.station_near_m
    places = list(zip(way.east_m, way.north_m, strict=True))
    if not _meets(places, stops, near_m):
        return None
    passed = _passed(places, stops, near_m)
    if len(passed) < checks.stops_min:
        return None
    first, last = passed[0], passed[-1]
    # Getting on and off is near the ends, and in between nothing strays from the line.
    beyond = max(math.dist(places[0], stops[first[0]]), math.dist(places[-1], stops[last[0]]))
    ridden = places[first[1] : last[1] + 1]
    ends = stops[first[0] : last[0] + 1]
    wide_m = max(checks.line_near_m, near_m)
    strayed = sum(not any(_off(place, *leg) <= wide_m for leg in itertools.pairwise(ends)) for place in ridden)
    if beyond > _BEYOND_M + near_m or strayed > (1 - checks.line_near_share) * len(ridden):
        return None
    between = passed[1:-1]
    slow = sum(_stood(way, index, checks.stop_slow_mps) for _, index in between)
    if slow < checks.stops_slow_share * len(between):
        return None
    return len(passed), Match(line.id, round(sum(math.dist(*leg) for leg in itertools.pairwise(ends))))


def _meets(places: list[tuple[float, float]], stops: list[tuple[float, float]], near_m: float) -> bool:
    """Whether a stop lies near each end of the way: cheap, and leaves out nearly every line of a city."""
    return all(any(math.dist(end, stop) <= _BEYOND_M + near_m for stop in stops) for end in (places[0], places[-1]))


def _passed(
    places: list[tuple[float, float]], stops: list[tuple[float, float]], near_m: float
) -> list[tuple[int, int]]:
    """The stops passed in their order, none left out in between, each with the nearest point of the way."""
    best: list[tuple[int, int]] = []
    current: list[tuple[int, int]] = []
    for number, stop in enumerate(stops):
        begin = current[-1][1] if current else 0
        distances = [math.dist(place, stop) for place in places[begin:]]
        index = min(range(len(distances)), key=distances.__getitem__)
        if distances[index] <= near_m:
            current.append((number, begin + index))
            best = max(best, current, key=len)
        else:
            current = []
    return list(best)


def _off(place: tuple[float, float], one: tuple[float, float], other: tuple[float, float]) -> float:
    """How far a place lies off the straight leg between two stops."""
    east, north = other[0] - one[0], other[1] - one[1]
    squared = east * east + north * north
    share = ((place[0] - one[0]) * east + (place[1] - one[1]) * north) / squared if squared else 0.0
    share = max(0.0, min(1.0, share))
    return math.hypot(place[0] - one[0] - share * east, place[1] - one[1] - share * north)


def _stood(way: Sketch, index: int, slow_mps: float) -> bool:
    """Whether it was slow near the time at which it passed nearest to a stop."""
    moment = way.times_s[index]
    around = [number for number, time in enumerate(way.times_s) if abs(time - moment) <= _SLOW_WITHIN_S]
    return any(
        math.hypot(way.east_m[b] - way.east_m[a], way.north_m[b] - way.north_m[a])
        <= slow_mps * (way.times_s[b] - way.times_s[a])
        for a, b in itertools.pairwise(around)
    )
