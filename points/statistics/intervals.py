"""Intervals for comparisons per resident. Pure functions.

A place's figures are complete counts, not samples; an interval here says how far they could lie from each other by
chance if every resident decided for themselves. The resident is the unit, never the activity: one who rides a hundred
times is one piece of evidence, not a hundred. An interval takes no account of how many places stand beside each other:
of a hundred that are alike, five lie outside of it.
"""

import math
from typing import Literal

import msgspec

from points.wilson import NORMAL_QUANTILE, wilson

INTERVAL = 0.95

# With fewer residents behind a mean the normal approximation of its interval says little.
RESIDENTS_MIN = 10

Beside = Literal["higher", "lower", "cannot-be-told"]


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """A share or a mean per resident and its 95 % interval, None where too few residents stand behind it."""

    value: float
    low: float | None
    high: float | None

    def beside(self, other: float) -> Beside:
        """Whether this lies above or below another figure by more than chance would have it."""
        if self.low is not None and self.low > other:
            return "higher"
        if self.high is not None and self.high < other:
            return "lower"
        return "cannot-be-told"


def share(part: int, whole: int) -> Estimate | None:
    """A part of a whole with the interval of Wilson (JASA 22 (1927) 209-212); None where it is no part of it.

    Nobody, or more residents active than are registered now: some have moved or left since.
    """
    if whole <= 0 or part > whole:
        return None
    rate = part / whole
    low, high = wilson(rate, whole)
    return Estimate(round(rate, 6), round(max(0.0, low), 6), round(min(1.0, high), 6))


def mean(total: float, squares: float, contributors: int, persons: int) -> Estimate | None:
    """What each of `persons` has on average of a sum to which `contributors` of them gave anything; None without any.

    `squares` is the sum of the squares of the persons' own amounts; who gave nothing adds nothing to it. The interval
    is that of the normal approximation, mean ± 1.96 s ÷ √n.
    """
    if persons <= 0 or contributors > persons:
        return None
    value = total / persons
    if contributors < RESIDENTS_MIN:
        return Estimate(round(value, 6), None, None)
    variance = max(0.0, squares - persons * value * value) / (persons - 1)
    half = NORMAL_QUANTILE * math.sqrt(variance / persons)
    return Estimate(round(value, 6), round(max(0.0, value - half), 6), round(value + half, 6))
