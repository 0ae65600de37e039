"""All that is found about one track: its motion, the line it rode along, and whether it is a copy."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from points.earning.claims import Reason
from points.travel import alike, fixes, lines, motion
from points.travel.checks import Checks
from points.travel.fixes import RawFix
from points.travel.lines import Line, Match
from points.travel.models import TrackMode
from points.travel.motion import Figures, Finding
from server.places.positions import Datum

REPEATED = Finding(Reason.TRACK_REPEATED, held=False)
LIKE_ANOTHERS = Finding(Reason.IDENTICAL_TRACK, held=True)
UNCONFIRMED = Finding(Reason.RIDE_UNCONFIRMED, held=True)
RIDES = frozenset({TrackMode.BUS, TrackMode.METRO})


@dataclass(frozen=True, slots=True)
class Judged:
    """The figures of a track, the worst finding, and what it is compared by."""

    figures: Figures
    finding: Finding | None
    sketch: alike.Sketch | None
    line: Match | None
    started_at: datetime
    ended_at: datetime


def judge(sent: Sequence[RawFix], mode: TrackMode, datum: Datum, checks: Checks, *, folder: Path) -> Judged:
    """Judge fixes in the order of time, at least one, without looking at other tracks.

    A walk or a ride on a bicycle can be clear by its motion. A bus or metro ride never is: it needs a line.
    """
    started_at, ended_at = sent[0].at, sent[-1].at
    running = lines.running(lines.read(folder), mode, at=started_at) if mode in RIDES else []
    figures = motion.figures(fixes.in_metres(sent), mode, checks)
    finding = motion.judge(
        figures,
        mode,
        checks,
        mocked=any(fix.mock for fix in sent),
        started_at=started_at,
        ended_at=ended_at,
        in_service=bool(running),
    )
    line = None
    if finding is None and mode in RIDES:
        line = _line(sent, mode, datum, checks, running)
        finding = None if line else UNCONFIRMED
    sketch = alike.sketch_of(sent, datum, accuracy_max_m=checks.accuracy_max_m)
    return Judged(figures, finding, sketch, line, started_at, ended_at)


def _line(
    sent: Sequence[RawFix], mode: TrackMode, datum: Datum, checks: Checks, running: Sequence[Line]
) -> Match | None:
    # Underground a phone guesses by masts: such fixes say which station it was, and nothing of speed.
    vague_m = checks.station_near_m if mode is TrackMode.METRO else checks.accuracy_max_m
    way = alike.sketch_of(sent, datum, accuracy_max_m=vague_m)
    return lines.match(way, running, checks) if way else None


def copy_finding(new: alike.Sketch, old: alike.Sketch, checks: Checks) -> Finding | None:
    """What an earlier track says about a new one: a copy, one of two phones that went together, or nothing."""
    found = alike.likeness(new, old, checks)
    if found is None:
        return None
    if abs(found.later_s) <= checks.copy_together_s:
        if found.distance_m <= checks.copy_together_refused_m:
            return REPEATED
        return LIKE_ANOTHERS if found.distance_m <= checks.copy_together_held_m else None
    return REPEATED if found.distance_m <= checks.copy_m else None


def worse(one: Finding | None, other: Finding | None) -> Finding | None:
    """The finding that weighs more: a refusal before a doubt, and what was found first before what was found next."""
    if one is None or other is None:
        return one or other
    return other if one.held and not other.held else one
