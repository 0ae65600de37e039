"""What a track says about how somebody moved: figures without a place, and whether they fit the way of travelling.

Pure functions over fixes in local metres. The figures are robust on purpose: phones wander, jump and fall silent, so
speeds are taken between the median positions of windows, and percentiles are weighted by time.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from points.earning.claims import Reason
from points.travel.checks import Checks, ModeChecks, service_day
from points.travel.models import TrackMode

METRES_PER_DEGREE = 111_195.0  # of latitude, on the mean sphere


class Fix(NamedTuple):
    """Where a phone believed to be: seconds since 1970, metres east and north of the track's first fix."""

    at_s: float
    east_m: float
    north_m: float
    accuracy_m: float


class Step(NamedTuple):
    """From one window to the next."""

    at_s: float
    seconds: float
    metres: float

    @property
    def speed_mps(self) -> float:
        """Metres per second."""
        return self.metres / self.seconds


@dataclass(frozen=True, slots=True)
class Figures:
    """What is kept of a track. Speeds m/s weighted by time; `median_mps` while moving; acceleration m/s².

    `interval_s` is the median time between two usable fixes, `spread` (p90 − p10) ÷ p50 of the speeds while moving,
    over longer windows, in which the phone's errors even out and the person's unevenness stays.
    """

    fixes: int
    usable: int
    spikes: int
    jumps: int
    duration_s: int
    distance_m: int
    interval_s: float
    gap_s: int
    moving_s: int
    without_rest_s: int
    median_mps: float
    upper_mps: float
    peak_mps: float
    acceleration: float
    spread: float

    def stored(self) -> dict[str, Any]:
        """As kept in the database and shown to the owner."""
        return asdict(self)


class Finding(NamedTuple):
    """A reason against a track; `held`: in doubt, a person decides; else refused."""

    reason: Reason
    held: bool


def local(points: Sequence[tuple[float, float, float, float]]) -> list[Fix]:
    """Fixes in metres around the first, of (seconds, latitude, longitude, accuracy in metres)."""
    if not points:
        return []
    _, latitude, longitude, _ = points[0]
    east = METRES_PER_DEGREE * math.cos(math.radians(latitude))
    return [Fix(t, (x - longitude) * east, (y - latitude) * METRES_PER_DEGREE, a) for t, y, x, a in points]


def usable(fixes: Sequence[Fix], checks: Checks) -> tuple[list[Fix], int, int]:
    """Fixes sharp enough, in the order of time, single spikes taken out; how many spikes and how many jumps.

    A spike is one fix that is impossibly far from both its neighbours, which are near each other. A jump stays far.
    """
    kept: list[Fix] = []
    spikes = jumps = 0
    sharp = [fix for fix in fixes if fix.accuracy_m <= checks.accuracy_max_m]
    for number, fix in enumerate(sharp):
        if kept and fix.at_s <= kept[-1].at_s:
            continue  # two fixes of one second, or out of order: the first stands
        if kept and _impossible(kept[-1], fix, checks):
            after = sharp[number + 1] if number + 1 < len(sharp) else None
            if after is None or after.at_s <= fix.at_s or not _impossible(kept[-1], after, checks):
                spikes += 1
                continue
            jumps += 1
        kept.append(fix)
    return kept, spikes, jumps


def _impossible(one: Fix, other: Fix, checks: Checks) -> bool:
    metres = math.hypot(other.east_m - one.east_m, other.north_m - one.north_m) - one.accuracy_m - other.accuracy_m
    return metres > checks.jump_min_m and metres > checks.jump_mps * (other.at_s - one.at_s)


def steps(fixes: Sequence[Fix], window_s: float) -> list[Step]:
    """From the median position of each window of time to that of the next: one wild fix moves a median little."""
    windows: list[tuple[float, float, float]] = []
    begin = 0
    for number in range(1, len(fixes) + 1):
        if number == len(fixes) or fixes[number].at_s - fixes[begin].at_s >= window_s:
            windows.append(_middle(fixes[begin:number]))
            begin = number
    return [
        Step(one[0], other[0] - one[0], math.hypot(other[1] - one[1], other[2] - one[2]))
        for one, other in itertools.pairwise(windows)
    ]


def _middle(window: Sequence[Fix]) -> tuple[float, float, float]:
    if len(window) == 1:
        return window[0][:3]
    times = (window[0].at_s + window[-1].at_s) / 2
    return times, _median([fix.east_m for fix in window]), _median([fix.north_m for fix in window])


def _median(values: list[float]) -> float:
    values.sort()
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def figures(fixes: Sequence[Fix], mode: TrackMode, checks: Checks) -> Figures:
    """The figures of a track; all zero where nothing usable is left.

    `distance_m` counts no window as faster than the way of travelling is believed, so that a few minutes by car inside
    a walk add little to it.
    """
    fastest_mps = checks.of(mode).peak_max_mps
    kept, spikes, jumps = usable(fixes, checks)
    moves = steps(kept, checks.window_s)
    gaps = [other.at_s - one.at_s for one, other in itertools.pairwise(kept)]
    moving = [step for step in moves if step.speed_mps >= checks.moving_mps]
    speeds = _Weighted([(step.speed_mps, step.seconds) for step in moves])
    while_moving = _Weighted([(step.speed_mps, step.seconds) for step in moving])
    longer = steps(kept, checks.steady_window_s)
    even = _Weighted([(step.speed_mps, step.seconds) for step in longer if step.speed_mps >= checks.moving_mps])
    changes = sorted(
        2 * abs(other.speed_mps - one.speed_mps) / (one.seconds + other.seconds)
        for one, other in itertools.pairwise(moves)
    )
    return Figures(
        fixes=len(fixes),
        usable=len(kept),
        spikes=spikes,
        jumps=jumps,
        duration_s=round(kept[-1].at_s - kept[0].at_s) if kept else 0,
        distance_m=int(sum(min(step.metres, fastest_mps * step.seconds) for step in moving)),
        interval_s=round(statistics.median(gaps), 1) if gaps else 0.0,
        gap_s=round(max(gaps, default=0)),
        moving_s=round(sum(step.seconds for step in moving)),
        without_rest_s=round(_longest(moves, checks.moving_mps)),
        median_mps=round(while_moving.at(0.5), 2),
        upper_mps=round(speeds.at(0.85), 2),
        peak_mps=round(speeds.at(0.95), 2),
        acceleration=round(changes[int(0.9 * (len(changes) - 1))], 2) if changes else 0.0,
        spread=round((even.at(0.9) - even.at(0.1)) / even.at(0.5), 3) if even.pairs else 0.0,
    )


class _Weighted:
    """Percentiles of values that each lasted some seconds."""

    def __init__(self, pairs: list[tuple[float, float]]) -> None:
        self.pairs = sorted(pairs)
        self.total = sum(seconds for _, seconds in pairs)

    def at(self, share: float) -> float:
        reached = 0.0
        for value, seconds in self.pairs:
            reached += seconds
            if reached >= share * self.total:
                return value
        return self.pairs[-1][0] if self.pairs else 0.0


def _longest(moves: Sequence[Step], moving_mps: float) -> float:
    longest = current = 0.0
    for step in moves:
        current = current + step.seconds if step.speed_mps >= moving_mps else 0.0
        longest = max(longest, current)
    return longest


def judge(
    found: Figures,
    mode: TrackMode,
    checks: Checks,
    *,
    mocked: bool,
    started_at: datetime,
    ended_at: datetime,
    in_service: bool = False,
) -> Finding | None:
    """The first thing that speaks against the track, the surest first; None: it fits the way of travelling.

    `in_service`: a line of the district ran when it began, so the hours of the way of travelling are not asked.
    """
    own = checks.of(mode)
    reason = (
        _broken(found, own, checks, mocked=mocked)
        or _time(found, own, started_at, ended_at, in_service=in_service)
        or _pace(found, own)
    )
    if reason is not None:
        return Finding(reason, held=False)
    if mode in (TrackMode.WALK, TrackMode.BICYCLE):
        if _evenly(found, checks, checks.steady_refused_spread):
            return Finding(Reason.TRACK_OTHER_MODE, held=False)
        if _evenly(found, checks, checks.steady_held_spread) or not _clear(found, own, checks):
            return Finding(Reason.TRACK_UNCLEAR, held=True)
    return None


def _broken(found: Figures, own: ModeChecks, checks: Checks, *, mocked: bool) -> Reason | None:
    if mocked:
        return Reason.TRACK_MOCKED
    if found.jumps or found.spikes > checks.spikes_max_share * found.fixes + 1:
        return Reason.TRACK_JUMP
    if found.usable < own.fixes_min or found.duration_s < own.duration_min_s or found.distance_m < own.distance_min_m:
        return Reason.TRACK_TOO_SHORT
    return Reason.TRACK_GAP if found.gap_s > own.gap_max_s else None


def _time(
    found: Figures, own: ModeChecks, started_at: datetime, ended_at: datetime, *, in_service: bool
) -> Reason | None:
    if found.without_rest_s > own.rest_after_s:
        return Reason.TRACK_NO_REST
    inside = in_service or all(
        service_day(instant, from_s=own.from_s, to_s=own.to_s) for instant in (started_at, ended_at)
    )
    return None if inside else Reason.TRACK_OUT_OF_HOURS


def _pace(found: Figures, own: ModeChecks) -> Reason | None:
    if found.median_mps < own.slow_mps:
        return Reason.TRACK_TOO_SLOW
    fast = found.median_mps > own.median_refused_mps or found.upper_mps > own.upper_refused_mps
    return Reason.TOO_FAST if fast else None


def _evenly(found: Figures, checks: Checks, spread: float) -> bool:
    """Whether it moves as a line drawn by a program does: at one speed from the first to the last."""
    windows = found.moving_s / max(checks.steady_window_s, found.interval_s)
    return windows >= checks.steady_windows_min and found.spread < spread


def _clear(found: Figures, own: ModeChecks, checks: Checks) -> bool:
    coarse = found.interval_s > checks.coarse_s or found.gap_s > checks.coarse_gap_share * found.duration_s
    upper_max = own.coarse_upper_max_mps if coarse else own.upper_max_mps
    peak_max = own.coarse_peak_max_mps if coarse else own.peak_max_mps
    return (
        found.median_mps <= own.median_max_mps
        and found.upper_mps <= upper_max
        and found.peak_mps <= peak_max
        and found.acceleration <= own.acceleration_max
        and found.moving_s >= own.moving_min_share * found.duration_s
    )
