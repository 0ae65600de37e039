"""The share over the years, and where a straight trend would lead, with an interval that widens. Pure arithmetic.

Random-effects meta-regression of the logits on the year: besides each year's sampling error, years differ from the
line by a variance τ² of their own (method of moments, DerSimonian & Laird 1986, in its form for regressions: Raudenbush
2009). The prediction interval is that of Higgins, Thompson & Spiegelhalter 2009 with t of k - 2 degrees of freedom. The
logit keeps it between 0 and 1. What it cannot know is whether the trend goes on: that is said beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

YEARS_MIN = 3
YEARS_MAX = 60
_BISECTIONS = 60  # each halves an interval that is as long as its upper end


@dataclass(frozen=True, slots=True)
class YearEstimate:
    """One year's published share of all trips, with its standard error."""

    year: int
    share: float
    se: float


@dataclass(frozen=True, slots=True)
class Projected:
    """Where the share of a year would lie, had it gone on as it went; 95 % of such intervals hold it."""

    year: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Trend:
    """The straight trend of the logits. `tau` is how far years scatter around it beyond their sampling errors."""

    slope_points_per_year: float  # percentage points a year, at the mean year
    slope_low: float
    slope_high: float
    tau: float
    projected: tuple[Projected, ...]


def trend_of(years: Sequence[YearEstimate], *, until: int, confidence: float = 0.95) -> Trend | None:
    """The trend, from the first year on to `until`; None for fewer than YEARS_MIN years, which show none.

    Each year once, shares between 0 and 1 and standard errors above 0.
    """
    if len(years) < YEARS_MIN:
        return None
    if len(years) > YEARS_MAX or len({each.year for each in years}) != len(years):
        raise ValueError(f"at most {YEARS_MAX} years, each once")
    x = [float(each.year) for each in years]
    y = [_logit(each.share) for each in years]
    # Delta method: the derivative of the logit is 1 ÷ (p (1 - p)).
    variances = [(each.se / (each.share * (1 - each.share))) ** 2 for each in years]
    tau2 = _tau2(x, y, variances)
    fit = _fit(x, y, [1 / (variance + tau2) for variance in variances])
    t = t_quantile((1 + confidence) / 2, len(years) - 2)
    first, last = min(each.year for each in years), max(each.year for each in years)
    projected = []
    for year in range(first, max(min(until, first + 2 * YEARS_MAX), last) + 1):
        centre = fit.intercept + fit.slope * (year - fit.mean_x)
        half = t * math.sqrt(fit.variance_at(float(year)) + tau2)
        projected.append(Projected(year, _expit(centre), _expit(centre - half), _expit(centre + half)))
    at_mean = _expit(fit.intercept)
    points_per_logit = 100 * at_mean * (1 - at_mean)
    half = t * math.sqrt(fit.slope_variance)
    return Trend(
        slope_points_per_year=fit.slope * points_per_logit,
        slope_low=(fit.slope - half) * points_per_logit,
        slope_high=(fit.slope + half) * points_per_logit,
        tau=math.sqrt(tau2),
        projected=tuple(projected),
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """A weighted straight line around the weighted mean year, where its two parts are independent."""

    mean_x: float
    intercept: float
    slope: float
    weight: float
    spread: float  # the weighted sum of squares of x around its mean

    @property
    def slope_variance(self) -> float:
        return 1 / self.spread

    def variance_at(self, x: float) -> float:
        return 1 / self.weight + (x - self.mean_x) ** 2 / self.spread


def _fit(x: Sequence[float], y: Sequence[float], weights: Sequence[float]) -> _Line:
    weight = sum(weights)
    mean_x = sum(w * a for w, a in zip(weights, x, strict=True)) / weight
    mean_y = sum(w * b for w, b in zip(weights, y, strict=True)) / weight
    spread = sum(w * (a - mean_x) ** 2 for w, a in zip(weights, x, strict=True))
    slope = sum(w * (a - mean_x) * (b - mean_y) for w, a, b in zip(weights, x, y, strict=True)) / spread
    return _Line(mean_x, mean_y, slope, weight, spread)


def _tau2(x: Sequence[float], y: Sequence[float], variances: Sequence[float]) -> float:
    """The variance between years by the method of moments: E(Q) = k - 2 + τ² (tr W - tr((X'WX)⁻¹ X'W²X)), cut at 0."""
    weights = [1 / variance for variance in variances]
    line = _fit(x, y, weights)
    residual = sum(
        w * (b - line.intercept - line.slope * (a - line.mean_x)) ** 2 for w, a, b in zip(weights, x, y, strict=True)
    )
    # Around the weighted mean X'WX is diagonal, so the trace is the sum of two quotients.
    taken = sum(w * w for w in weights) / line.weight
    taken += sum((w * (a - line.mean_x)) ** 2 for w, a in zip(weights, x, strict=True)) / line.spread
    free = sum(weights) - taken
    return max(0.0, (residual - (len(x) - 2)) / free) if free > 0 else 0.0


def t_quantile(probability: float, df: int) -> float:
    """The quantile of Student's t for whole degrees of freedom, 0.5 < probability < 1, to 12 digits.

    From the finite sums of Abramowitz & Stegun 26.7.3 and 26.7.4, by bisection; no numerical library is loaded for it.
    """
    low, high = 0.0, 1.0
    while _t_within(high, df) < 2 * probability - 1:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _t_within(middle, df) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return high


def _t_within(t: float, df: int) -> float:
    """The probability that |T| ≤ t."""
    theta = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    term = total = cosine if df % 2 else 1.0
    for k in range(3 if df % 2 else 2, df, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    if df == 1:
        total = 0.0
    return 2 / math.pi * (theta + sine * total) if df % 2 else sine * total


def _logit(share: float) -> float:
    if not 0 < share < 1:
        raise ValueError("a share lies between 0 and 1")
    return math.log(share / (1 - share))


def _expit(value: float) -> float:
    # Beyond this the exponential overflows, and the share is 0 or 1 to every digit.
    if value < -700:
        return 0.0
    return 1 / (1 + math.exp(-value))
