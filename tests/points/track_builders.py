"""Tracks of people who do not exist: a way along streets, an uneven pace, a receiver whose errors wander."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from points.travel.fixes import RawFix
from points.travel.motion import METRES_PER_DEGREE
from server.clock import SHANGHAI

ORIGIN = (39.118, 117.152)  # somewhere in the district; nobody's home
MORNING = datetime(2026, 11, 24, 8, 0, tzinfo=SHANGHAI)


def street_way(seed: int, *, length_m: float) -> list[tuple[float, float]]:
    """Corners of a way through blocks, east and north in metres."""
    chance = random.Random(seed)
    corners = [(chance.uniform(-300, 300), chance.uniform(-300, 300))]
    heading, walked = chance.choice([0, 1, 2, 3]), 0.0
    while walked < length_m:
        block = chance.uniform(80, 260)
        east, north = ((1, 0), (0, 1), (-1, 0), (0, -1))[heading % 4]
        corners.append((corners[-1][0] + east * block, corners[-1][1] + north * block))
        heading += chance.choice([-1, 0, 0, 1])
        walked += block
    return corners


def along(corners: Sequence[tuple[float, float]], metres: float) -> tuple[float, float]:
    """The place so far along the way; beyond its end, its end."""
    for one, other in itertools.pairwise(corners):
        length = math.dist(one, other)
        if metres <= length:
            share = metres / length
            return one[0] + share * (other[0] - one[0]), one[1] + share * (other[1] - one[1])
        metres -= length
    return corners[-1]


def pace(chance: random.Random, *, mean_mps: float, unevenness: float = 0.06, stops: float = 0.004) -> Iterator[float]:
    """Metres walked in each second: a gait that drifts, and waits at crossings."""
    drift = waiting = 0.0
    while True:
        drift = 0.98 * drift + chance.gauss(0, unevenness * mean_mps * 0.2)
        if waiting <= 0 and chance.random() < stops:
            waiting = chance.uniform(10, 50)
        waiting -= 1
        yield 0.0 if waiting > 0 else max(0.2 * mean_mps, mean_mps + drift)


def recorded(
    way: Callable[[int], tuple[float, float]],
    seconds: int,
    *,
    seed: int,
    start: datetime = MORNING,
    every_s: int = 1,
    error_m: float = 3.0,
    lasting_s: float = 80.0,
    mock: bool = False,
) -> list[RawFix]:
    """What a phone records of a way by the second: an error that wanders with a standard deviation of `error_m`."""
    chance = random.Random(seed)
    kept = math.exp(-1 / lasting_s)
    east = north = None
    fixes = []
    for second in range(seconds):
        fresh = chance.gauss(0, error_m), chance.gauss(0, error_m)
        east = fresh[0] if east is None else kept * east + math.sqrt(1 - kept * kept) * fresh[0]
        north = fresh[1] if north is None else kept * north + math.sqrt(1 - kept * kept) * fresh[1]
        if second % every_s == 0:
            x, y = way(second)
            at = start + timedelta(seconds=second)
            fixes.append(fix(at, x + east, y + north, accuracy_m=max(4.0, 2 * error_m), mock=mock))
    return fixes


def fix(at: datetime, east_m: float, north_m: float, *, accuracy_m: float = 8.0, mock: bool = False) -> RawFix:
    """One fix, metres from ORIGIN."""
    east = METRES_PER_DEGREE * math.cos(math.radians(ORIGIN[0]))
    return RawFix(
        round(at.timestamp() * 1000),
        ORIGIN[0] + north_m / METRES_PER_DEGREE,
        ORIGIN[1] + east_m / east,
        accuracy_m,
        mock,
    )


def walk(seed: int, *, minutes: int = 15, way: int | None = None, mean_mps: float = 1.3, **how: object) -> list[RawFix]:
    """A walk along way number `way` (its own unless told): the same way twice is walked at another pace."""
    seconds = minutes * 60
    corners = street_way(seed if way is None else way, length_m=mean_mps * seconds * 1.3)
    metres, positions = 0.0, []
    steps = pace(random.Random(seed), mean_mps=mean_mps)
    for _ in range(seconds):
        positions.append(along(corners, metres))
        metres += next(steps)
    return recorded(lambda second: positions[second], seconds, seed=seed + 1, **how)  # type: ignore[arg-type]


def shifted(fixes: Sequence[RawFix], later: timedelta) -> list[RawFix]:
    """The same recording, said to have been made later."""
    return [each._replace(at_ms=each.at_ms + round(later.total_seconds() * 1000)) for each in fixes]


def noised(fixes: Sequence[RawFix], metres: float, *, seed: int = 1) -> list[RawFix]:
    """The same recording with independent noise on every fix."""
    chance = random.Random(seed)
    degrees = metres / METRES_PER_DEGREE
    return [
        each._replace(
            latitude=each.latitude + chance.gauss(0, degrees),
            longitude=each.longitude + chance.gauss(0, degrees * 1.29),
        )
        for each in fixes
    ]


def thinned(fixes: Sequence[RawFix], seconds: int) -> list[RawFix]:
    """Only fixes that lie this far apart in time."""
    kept: list[RawFix] = []
    for each in fixes:
        if not kept or each.at_ms - kept[-1].at_ms >= seconds * 1000:
            kept.append(each)
    return kept
