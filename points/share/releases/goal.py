"""The goal line of the green-travel share, and whether an estimate tells that it is met. Pure, but for `read_goal`.

The plan of Nankai says 到2025年达到75%以上, 到2030年达到80%左右 (南开政发〔2022〕10号). Between its years the line runs
straight, which is our reading aid and not the plan's word. A figure given as 左右 ("about") is no sharp line: an
estimate meets it, or misses it, only if it does so whatever 左右 may mean within the tolerance that the district's
data names.
"""

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

from points.share.estimate.exchange import READINGS, Estimate
from server.places.district_data import FILE, DistrictDataError, read_head
from server.places.models import Confidence

POINTS_MAX = 20
TOLERANCE_MAX = 0.05
TEXT_LENGTH_MAX = 300

# The chance that a survey of `persons_to_tell` tells, were the share exactly as it is estimated now.
POWER = 0.8
# No survey of a district asks more people; beyond it the answer is that no survey tells.
PERSONS_TO_TELL_MAX = 200_000


class GoalDataError(Exception):
    """The goal in a district's `district.toml` cannot be read; the message says what is wrong."""


class Answer(enum.StrEnum):
    """Whether the goal is met."""

    MET = "met"
    NOT_MET = "not-met"
    CANNOT_BE_TOLD_YET = "cannot-be-told-yet"


class Reason(enum.StrEnum):
    """Why the answer is what it is."""

    ABOVE = "interval-above-line"
    BELOW = "interval-below-line"
    HOLDS_LINE = "interval-holds-line"
    WITHIN_ABOUT = "within-about"  # the estimate lies where it depends on what 左右 means; no sample size tells
    NO_LINE = "no-line-that-year"
    NO_ESTIMATE = "no-estimate"
    UNWEIGHTED = "unweighted"  # without margins it speaks for the people asked, and for no population
    DOUBTED = "estimate-doubted"  # its own cautions say that it may be off by more than its interval
    READINGS_DIFFER = "readings-differ"  # the definition leaves e-bikes open, and that decides


@dataclass(frozen=True, slots=True)
class GoalPoint:
    """The share of all trips that the plan names for a year; `about`: it says 左右."""

    year: int
    share: float
    about: bool


@dataclass(frozen=True, slots=True)
class GoalLine:
    """A district's goal. `about_tolerance` is how far 左右 may reach below a figure, with where that comes from."""

    district_code: str
    district_name: str
    points: tuple[GoalPoint, ...]
    source: str
    document: str
    text: str
    confidence: Confidence
    about_tolerance: float
    about_source: str
    about_confidence: Confidence


@dataclass(frozen=True, slots=True)
class Target:
    """What the line asks for in one year; `interpolated`: between two years of the plan, by our straight line."""

    year: int
    share: float
    about: bool
    interpolated: bool


@dataclass(frozen=True, slots=True)
class ReadingAnswer:
    """The answer under one reading of the definition.

    `persons_to_tell` is how many respondents, of the design that there was, would tell with probability POWER if the
    share were as estimated; None where more of them would not help, or more than PERSONS_TO_TELL_MAX were needed.
    """

    reading: str
    answer: Answer
    reason: Reason
    persons_to_tell: int | None = None


@dataclass(frozen=True, slots=True)
class GoalAnswer:
    """The answer for one year: met or not met only if every reading says so."""

    year: int
    target: Target | None
    answer: Answer
    reason: Reason
    readings: tuple[ReadingAnswer, ...]


def target_of(line: GoalLine, year: int) -> Target | None:
    """What the line asks for in a year; None before its first year. After its last year the last figure stays.

    A year between two of the plan's is `about`: no document draws a sharp line there.
    """
    if not line.points or year < line.points[0].year:
        return None
    before = max((point for point in line.points if point.year <= year), key=lambda point: point.year)
    if before.year == year or before is line.points[-1]:
        return Target(year, before.share, before.about, interpolated=False)
    after = min((point for point in line.points if point.year > year), key=lambda point: point.year)
    part = (year - before.year) / (after.year - before.year)
    return Target(year, before.share + part * (after.share - before.share), about=True, interpolated=True)


def answer_reading(
    estimate: Estimate, target: Target, *, reading: str, tolerance: float, confidence: float = 0.95
) -> ReadingAnswer:
    """Set one reading's interval against a target; `tolerance` counts for an `about` target alone.

    Met: the whole interval reaches the figure. Not met: the whole interval is below the figure less the tolerance.
    """
    lowest = target.share - (tolerance if target.about else 0.0)
    if estimate.low >= target.share:
        return ReadingAnswer(reading, Answer.MET, Reason.ABOVE)
    if estimate.high < lowest:
        return ReadingAnswer(reading, Answer.NOT_MET, Reason.BELOW)
    if lowest <= estimate.share < target.share:
        return ReadingAnswer(reading, Answer.CANNOT_BE_TOLD_YET, Reason.WITHIN_ABOUT)
    is_above = estimate.share >= target.share
    needed = persons_to_tell(
        estimate.n,
        distance=estimate.share - target.share if is_above else lowest - estimate.share,
        half_width=estimate.share - estimate.low if is_above else estimate.high - estimate.share,
        confidence=confidence,
    )
    return ReadingAnswer(reading, Answer.CANNOT_BE_TOLD_YET, Reason.HOLDS_LINE, needed)


def persons_to_tell(n: int, *, distance: float, half_width: float, confidence: float = 0.95) -> int | None:
    """Respondents with whom an estimate this far from the line would clear it with probability POWER.

    Half-widths shrink with the root of n while the design, and with it the design effect, stays as it was:
    n × ((z_confidence + z_power) ÷ z_confidence × half-width ÷ distance)², as for any one-sided comparison with a
    fixed figure. None beyond PERSONS_TO_TELL_MAX, and for an estimate that lies on the line.
    """
    if distance <= 0:
        return None
    z_confidence, z_power = NormalDist().inv_cdf((1 + confidence) / 2), NormalDist().inv_cdf(POWER)
    needed = n * ((z_confidence + z_power) / z_confidence * half_width / distance) ** 2
    # Rounded up to hundreds: no planner of a survey reads more out of it.
    return None if needed > PERSONS_TO_TELL_MAX else max(n + 1, -int(-needed // 100) * 100)


def answer(
    line: GoalLine,
    year: int,
    estimates: Mapping[str, Estimate] | None,
    *,
    weighted: bool,
    doubted: Collection[str] = (),
    confidence: float = 0.95,
) -> GoalAnswer:
    """Whether a year's goal is met by what was published for it, each reading of the definition for itself.

    `estimates` by reading, None without any. `doubted` are the cautions that forbid an answer: an interval says nothing
    about a bias.
    """
    target = target_of(line, year)
    if not estimates:
        return _untold(year, target, Reason.NO_ESTIMATE)
    if not weighted:
        # Never set against the goal, so not shown beside it either.
        return _untold(year, None, Reason.UNWEIGHTED)
    if target is None:
        return _untold(year, None, Reason.NO_LINE)
    if doubted:
        return _untold(year, target, Reason.DOUBTED)
    readings = tuple(
        answer_reading(estimates[each], target, reading=each, tolerance=line.about_tolerance, confidence=confidence)
        for each in estimates
    )
    if len({each.answer for each in readings}) == 1:
        return GoalAnswer(year, target, readings[0].answer, readings[0].reason, readings)
    return GoalAnswer(year, target, Answer.CANNOT_BE_TOLD_YET, Reason.READINGS_DIFFER, readings)


def _untold(year: int, target: Target | None, reason: Reason) -> GoalAnswer:
    readings = tuple(ReadingAnswer(each, Answer.CANNOT_BE_TOLD_YET, reason) for each in READINGS)
    return GoalAnswer(year, target, Answer.CANNOT_BE_TOLD_YET, reason, readings)


@lru_cache(maxsize=8)
def read_goal(folder: Path) -> GoalLine:
    """The goal in a district's `district.toml`; without `[green_travel_goal]` a line without points.

    Raises GoalDataError.
    """
    try:
        return _line(read_head(folder))
    except DistrictDataError as error:
        raise GoalDataError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise GoalDataError(f"{FILE}, green_travel_goal: {error!r}") from error


def _line(head: Mapping[str, Any]) -> GoalLine:
    goal: Mapping[str, Any] = head.get("green_travel_goal", {})
    about: Mapping[str, Any] = goal.get("about_tolerance", {})
    points = tuple(sorted((_point(each) for each in goal.get("points", ())), key=lambda point: point.year))
    if len(points) > POINTS_MAX or len({point.year for point in points}) != len(points):
        raise ValueError(f"at most {POINTS_MAX} points, each of another year")
    tolerance = about.get("share", 0.0)
    if not isinstance(tolerance, float) or not 0 <= tolerance <= TOLERANCE_MAX:
        raise ValueError(f"about_tolerance.share must be from 0.0 to {TOLERANCE_MAX}")
    if any(point.about for point in points) and not about.get("source"):
        raise ValueError("a point that is about a figure needs about_tolerance with share and source")
    texts = [goal.get(name, "") for name in ("source", "document", "text")] + [about.get("source", "")]
    if any(not isinstance(text, str) or len(text) > TEXT_LENGTH_MAX for text in texts):
        raise ValueError(f"texts have at most {TEXT_LENGTH_MAX} characters")
    return GoalLine(
        district_code=head["code"],
        district_name=str(head["name"]),
        points=points,
        source=texts[0],
        document=texts[1],
        text=texts[2],
        confidence=Confidence(goal.get("confidence", "R")),
        about_tolerance=tolerance,
        about_source=texts[3],
        about_confidence=Confidence(about.get("confidence", "R")),
    )


def _point(entry: Mapping[str, Any]) -> GoalPoint:
    year, share, about = entry["year"], entry["share"], entry["about"]
    if not isinstance(year, int) or not 2000 <= year <= 2100:
        raise ValueError(f"no year: {year!r}")
    if not isinstance(share, float) or not 0 < share < 1 or not isinstance(about, bool):
        raise ValueError(f"{year}: share must be a fraction of 1 and about true or false")
    return GoalPoint(year, share, about)
