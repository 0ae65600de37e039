"""Whether a track is a copy of an earlier one of anybody: moved in time, thinned, or with a little noise on top.

People walk one way again and again, and two walk together; neither is a copy. A copy goes the same way *at the same
pace*: after the shift in time that fits best, its distance from the original is the noise that was added, which
averages out over a minute, while the errors of two receivers and the pace of two walks do not.

Candidates are found by marks: keyed hashes of the pairs of cells that the way passes through, the smallest few of them,
so that a part of a way keeps those that lie in it. Then the sealed sketches are compared point by point.
"""

import hashlib
import hmac
import itertools
import math
import statistics
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass

from points.travel.checks import Checks
from points.travel.fixes import RawFix
from points.travel.models import MARKS_MAX
from points.travel.motion import METRES_PER_DEGREE
from server.places.positions import Datum, Position

CELL_M = 60.0
CELL_MARGIN_M = 15.0  # this far beyond its border a way is still in the cell that it was in
WALKED_M = 15.0
CELLS_MAX = 2_000
SKETCH_POINTS_MAX = 300
SKETCH_SECONDS_MIN = 5.0
PAIRS_FEW = 6
ANCHORS = 8
ANCHOR_NEAR_M = 30.0
SHIFT_STEP_S = 10.0
ROUNDS = 6

_POINT = struct.Struct("<qii")  # a phone whose clock is wrong records years
_HEAD = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class Sketch:
    """A way in GCJ-02 metres, thinned: `times_s` since 1970, rising.

    Metres north of the equator, and east of Greenwich at the nearest whole degree of latitude: one grid for a district.
    """

    times_s: Sequence[float]
    east_m: Sequence[float]
    north_m: Sequence[float]

    @property
    def east_per_degree_m(self) -> float:
        """Metres of the grid in a degree of longitude."""
        return east_per_degree_m(self.north_m[0] / METRES_PER_DEGREE)

    def at(self, moment_s: float) -> tuple[float, float] | None:
        """Where it was at a moment, in between by a straight line; None before its start and after its end."""
        if not self.times_s[0] <= moment_s <= self.times_s[-1]:
            return None
        after = min(bisect_right(self.times_s, moment_s), len(self.times_s) - 1)
        before = after - 1
        share = (moment_s - self.times_s[before]) / (self.times_s[after] - self.times_s[before])
        return (
            self.east_m[before] + share * (self.east_m[after] - self.east_m[before]),
            self.north_m[before] + share * (self.north_m[after] - self.north_m[before]),
        )


@dataclass(frozen=True, slots=True)
class Likeness:
    """How near the new track comes to the old: metres averaged over windows, and by how much later it was."""

    distance_m: float
    overlap_s: float
    later_s: float


def east_per_degree_m(latitude: float) -> float:
    """One scale for all of a district, or the same street would have other metres in another track."""
    return METRES_PER_DEGREE * math.cos(math.radians(round(latitude)))


def sketch_of(fixes: Sequence[RawFix], datum: Datum, *, accuracy_max_m: float) -> Sketch | None:
    """The way of those fixes that are sharp enough, thinned, in GCJ-02; None for fewer than three points."""
    sharp = [fix for fix in fixes if fix.accuracy_m <= accuracy_max_m]
    if len(sharp) < 3:
        return None
    every_s = max(SKETCH_SECONDS_MIN, (sharp[-1].at_ms - sharp[0].at_ms) / 1000 / (SKETCH_POINTS_MAX - 1))
    east = east_per_degree_m(sharp[0].latitude)
    times: list[float] = []
    easts: list[float] = []
    norths: list[float] = []
    for fix in sharp:
        moment = fix.at_ms / 1000
        if times and moment - times[-1] < every_s * 0.999:
            continue
        position = Position(fix.latitude, fix.longitude, datum).in_gcj_02()
        times.append(moment)
        easts.append(position.longitude * east)
        norths.append(position.latitude * METRES_PER_DEGREE)
        if len(times) == SKETCH_POINTS_MAX:
            break
    return Sketch(times, easts, norths) if len(times) > 2 else None


def pack(sketch: Sketch) -> bytes:
    """The sketch as bytes: tenths of seconds and decimetres."""
    begin = round(sketch.times_s[0] * 10)
    points = zip(sketch.times_s, sketch.east_m, sketch.north_m, strict=True)
    return _HEAD.pack(begin) + b"".join(
        _POINT.pack(round(t * 10) - begin, round(x * 10), round(y * 10)) for t, x, y in points
    )


def unpack(packed: bytes) -> Sketch:
    """The sketch again."""
    (begin,) = _HEAD.unpack_from(packed)
    points = list(_POINT.iter_unpack(packed[_HEAD.size :]))
    return Sketch(
        [(begin + t) / 10 for t, _, _ in points], [x / 10 for _, x, _ in points], [y / 10 for _, _, y in points]
    )


def marks_of(sketch: Sketch, key: bytes) -> list[int]:
    """The smallest keyed hashes of the pairs of cells on the way, at most MARKS_MAX, as signed 64-bit numbers."""
    cells = _cells(sketch)
    pairs = {struct.pack("<iiii", *one, *other) for one, other in itertools.pairwise(cells)}
    if len(pairs) < PAIRS_FEW:
        pairs |= {struct.pack("<ii", *cell) for cell in cells}
    hashes = (int.from_bytes(hmac.digest(key, pair, hashlib.sha256)[:8], "big", signed=True) for pair in pairs)
    return sorted(hashes)[:MARKS_MAX]


def worth_comparing(marks: Set[int], others: Set[int]) -> bool:
    """Whether two tracks share marks, a quarter of the fewer ones at the least."""
    return 4 * len(marks & others) >= min(len(marks), len(others)) > 0


def _cells(sketch: Sketch) -> list[tuple[int, int]]:
    """The cells passed through, each where it is entered; a way along a border does not flicker between two."""
    cells: list[tuple[int, int]] = []
    previous = (sketch.east_m[0], sketch.north_m[0])
    for x, y in zip(sketch.east_m, sketch.north_m, strict=True):
        length = math.hypot(x - previous[0], y - previous[1])
        parts = min(max(1, math.ceil(length / WALKED_M)), 100)
        for part in range(1, parts + 1):
            here = previous[0] + (x - previous[0]) * part / parts, previous[1] + (y - previous[1]) * part / parts
            if not cells or not _still_in(cells[-1], here):
                cells.append((math.floor(here[0] / CELL_M), math.floor(here[1] / CELL_M)))
                if len(cells) >= CELLS_MAX:
                    return cells
        previous = (x, y)
    return cells


def _still_in(cell: tuple[int, int], here: tuple[float, float]) -> bool:
    return all(
        number * CELL_M - CELL_MARGIN_M <= value <= (number + 1) * CELL_M + CELL_MARGIN_M
        for number, value in zip(cell, here, strict=True)
    )


def likeness(new: Sketch, old: Sketch, checks: Checks) -> Likeness | None:
    """How near `new` comes to `old` after the best shift in time; None where they hardly meet."""
    shift = _first_shift(new, old)
    if shift is None:
        return None
    for _ in range(ROUNDS):
        shift += _better_by(new, old, shift)
    apart = []
    for t, x, y in zip(new.times_s, new.east_m, new.north_m, strict=True):
        there = old.at(t + shift)
        if there is not None:
            apart.append((t, x - there[0], y - there[1]))
    overlap_s = apart[-1][0] - apart[0][0] if apart else 0.0
    if overlap_s < checks.copy_overlap_min_s:
        return None
    # Coarse fixes are averaged over longer windows, or nothing evens out, but over three windows at the least.
    interval_s = overlap_s / (len(apart) - 1)
    window_s = min(max(checks.copy_window_s, checks.copy_window_fixes * interval_s), overlap_s / 3)
    windows: dict[int, list[tuple[float, float]]] = {}
    for t, x, y in apart:
        windows.setdefault(int((t - apart[0][0]) // window_s), []).append((x, y))
    distances = [
        math.hypot(statistics.fmean(x for x, _ in each), statistics.fmean(y for _, y in each))
        for each in windows.values()
    ]
    return Likeness(statistics.median(distances), overlap_s, -shift)


def _first_shift(new: Sketch, old: Sketch) -> float | None:
    """Seconds to add to a moment of `new`, by the vote of a few of its points for the nearest ones of `old`."""
    votes: Counter[int] = Counter()
    count = len(new.times_s)
    for number in range(ANCHORS):
        place = (2 * number + 1) * count // (2 * ANCHORS)
        x, y = new.east_m[place], new.north_m[place]
        for t, old_x, old_y in zip(old.times_s, old.east_m, old.north_m, strict=True):
            if abs(old_x - x) < ANCHOR_NEAR_M and abs(old_y - y) < ANCHOR_NEAR_M:
                votes[round((t - new.times_s[place]) / SHIFT_STEP_S)] += 1
    # Neighbouring steps vote together, for a moment lies between two of them.
    best = max(votes, key=lambda step: votes[step - 1] + 2 * votes[step] + votes[step + 1], default=None)
    return None if best is None else best * SHIFT_STEP_S


def _better_by(new: Sketch, old: Sketch, shift: float) -> float:
    """One step of Gauss–Newton: by how much the old way lies ahead, along its own direction."""
    along = squared = 0.0
    every = max(1, len(new.times_s) // 60)  # enough to find one number by
    for t, x, y in zip(new.times_s[::every], new.east_m[::every], new.north_m[::every], strict=True):
        before, there, after = old.at(t + shift - 2), old.at(t + shift), old.at(t + shift + 2)
        if before is None or there is None or after is None:
            continue
        east, north = (after[0] - before[0]) / 4, (after[1] - before[1]) / 4
        along += (x - there[0]) * east + (y - there[1]) * north
        squared += east * east + north * north
    return max(-60.0, min(60.0, along / squared)) if squared > 0 else 0.0
