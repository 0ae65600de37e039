"""From what people found in a sample to the rate of wrongful payment. Pure functions.

The sample is drawn without replacement from each stratum (one behaviour of one source) with the known probability
n ÷ N. Of the claims: p = Σ N_h ÷ N × p_h, which is the Horvitz-Thompson estimate (JASA 47 (1952) 663-685). Of the
points: the separate ratio estimate (Cochran, Sampling Techniques, 3rd ed., 6.10), with the strata's known points as
weights.

Wrong payments are rare, so an interval from the sample's own variance would often be empty: a stratum where nothing was
found has none. Each stratum has the interval of Wilson (JASA 22 (1927) 209-212) at its effective number of claims, with
the finite population's correction; in all they are put together by the method of variance estimates recovery (Zou and
Donner, Statistics in Medicine 27 (2008) 1693-1702; for strata Yan and Su, Statistics in Biopharmaceutical Research 2
(2010) 329-335). Claims of which nobody could tell are left out, and counted as wrong in `value_at_worst`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from points.wilson import wilson


@dataclass(frozen=True, slots=True)
class Found:
    """What the sample of one stratum showed so far. `squares` is the sum of the squared points of the told claims."""

    claims: int  # of the population
    points: int
    right: int
    wrong: int
    cannot_be_told: int
    told_points: int  # of the right and the wrong ones
    wrong_points: int
    cannot_be_told_points: int
    squares: int

    @property
    def told(self) -> int:
        """Of how many it could be told."""
        return self.right + self.wrong


@dataclass(frozen=True, slots=True)
class Rate:
    """A share between 0 and 1 with its 95 % interval; no value where nothing has been told.

    `value_at_worst` is None only where nobody has looked yet.
    """

    value: float | None
    low: float
    high: float
    value_at_worst: float | None  # had everything been wrong of which nobody could tell


UNKNOWN = Rate(None, 0.0, 1.0, None)
NEVER_TOLD = Rate(None, 0.0, 1.0, 1.0)  # looked at, and nobody could tell of any


def of_claims(stratum: Found) -> Rate:
    """The share of a stratum's claims that were paid wrongly."""
    if not stratum.told:
        return NEVER_TOLD if stratum.cannot_be_told else UNKNOWN
    looked_at = stratum.told + stratum.cannot_be_told
    low, high = _interval(stratum.wrong / stratum.told, stratum.told, stratum.told / stratum.claims)
    return Rate(stratum.wrong / stratum.told, low, high, (stratum.wrong + stratum.cannot_be_told) / looked_at)


def of_points(stratum: Found) -> Rate:
    """The share of a stratum's points that were paid wrongly.

    Claims worth unlike amounts tell less than as many alike ones: n is (Σ points)² ÷ Σ points² (Kish, 1965).
    """
    if not stratum.told:
        return NEVER_TOLD if stratum.cannot_be_told else UNKNOWN
    value = stratum.wrong_points / stratum.told_points
    low, high = _interval(value, stratum.told_points**2 / stratum.squares, stratum.told / stratum.claims)
    wrong_at_worst = stratum.wrong_points + stratum.cannot_be_told_points
    return Rate(value, low, high, wrong_at_worst / (stratum.told_points + stratum.cannot_be_told_points))


def claims_in_all(strata: Sequence[Found]) -> Rate:
    """The share of all claims that were paid wrongly."""
    return _in_all(strata, of_claims, [stratum.claims for stratum in strata])


def points_in_all(strata: Sequence[Found]) -> Rate:
    """The share of all points that were paid wrongly."""
    return _in_all(strata, of_points, [stratum.points for stratum in strata])


def _in_all(strata: Sequence[Found], rate_of: Callable[[Found], Rate], sizes: Sequence[int]) -> Rate:
    """The strata's rates by their weights. One of which nothing is told yet can have any rate: the interval says so."""
    rated = [(rate_of(stratum), size) for stratum, size in zip(strata, sizes, strict=True)]
    known = [(rate, size) for rate, size in rated if rate.value is not None]
    told = sum(size for _, size in known)
    looked_at = sum(size for rate, size in rated if rate.value_at_worst is not None)
    if not looked_at:
        return UNKNOWN
    worst = sum(size * (rate.value_at_worst or 0.0) for rate, size in rated) / looked_at
    if not told:
        return Rate(None, 0.0, 1.0, worst)
    value = below = above = 0.0
    for rate, size in known:
        weight = size / told
        value += weight * (rate.value or 0.0)
        below += (weight * ((rate.value or 0.0) - rate.low)) ** 2
        above += (weight * (rate.high - (rate.value or 0.0))) ** 2
    share = told / sum(sizes)
    low = max(0.0, value - math.sqrt(below)) * share
    high = min(1.0, value + math.sqrt(above)) * share + (1 - share)
    return Rate(value, low, high, worst)


def _interval(rate: float, number: float, fraction: float) -> tuple[float, float]:
    """The interval of a share that `number` independent pieces of evidence showed, `fraction` of all there are."""
    if fraction >= 1:
        return rate, rate  # nothing is left to be unsure of
    low, high = wilson(rate, number / (1 - fraction))
    # Rounding must not put the rate itself outside.
    return max(0.0, min(rate, low)), min(1.0, max(rate, high))
