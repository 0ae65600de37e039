"""Several waves of a year as one estimate.

A wave has as much say as its effective number of respondents. That is the inverse of its variance up to the factor
that all share: weights by the estimated variances themselves would favour waves whose share happens to lie near 0 or 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

from points.share.estimate.exchange import Estimate
from points.share.estimate.linearisation import interval

HETEROGENEITY_CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class Part:
    """A wave's estimate, its weight in the whole, and the degrees of freedom of its variance."""

    weight: float
    estimate: Estimate
    freedom: int


@dataclass(frozen=True, slots=True)
class Combined:
    """The whole; `chance` is how often waves of one truth would differ as much, `widened` what the error was times."""

    estimate: Estimate
    chance: float
    widened: float


def combining_weights(estimates: Sequence[Estimate]) -> list[float]:
    """Weights that add up to 1, as the effective numbers of respondents."""
    total = sum(each.n_effective for each in estimates)
    return [each.n_effective / total for each in estimates]


def combine(parts: Sequence[Part], confidence: float) -> Combined:
    """The weighted mean of independent waves.

    Waves that differ by more than chance (Cochran's Q) do not measure one thing; the error is then widened by the Birge
    ratio, √(Q ÷ (waves - 1)), as the Particle Data Group does, so that the interval admits it.
    """
    share = sum(part.weight * part.estimate.share for part in parts)
    variance = sum((part.weight * part.estimate.se) ** 2 for part in parts)
    certain = [part for part in parts if part.estimate.se > 0]
    chance, widened = 1.0, 1.0
    if len(certain) > 1:
        precision = [1 / part.estimate.se**2 for part in certain]
        middle = sum(p * part.estimate.share for p, part in zip(precision, certain, strict=True)) / sum(precision)
        q = sum(p * (part.estimate.share - middle) ** 2 for p, part in zip(precision, certain, strict=True))
        chance = float(special.chdtrc(len(certain) - 1, q))
        if chance < HETEROGENEITY_CHANCE:
            widened = max(1.0, (q / (len(certain) - 1)) ** 0.5)
    se = variance**0.5 * widened
    freedom = _freedom(parts, variance)
    low, high = interval(share, se, freedom, confidence)
    n = sum(part.estimate.n for part in parts)
    effective = sum(part.estimate.n_effective for part in parts) / widened**2
    return Combined(
        Estimate(
            share=share,
            se=se,
            low=low,
            high=high,
            n=n,
            trips=sum(part.estimate.trips for part in parts),
            n_effective=effective,
            design_effect=n / effective,
            se_replicate=_joined([part.estimate.se_replicate for part in parts], parts),
            se_unraked=_joined([part.estimate.se_unraked for part in parts], parts),
        ),
        chance,
        widened,
    )


def _freedom(parts: Sequence[Part], variance: float) -> int:
    """Welch and Satterthwaite's degrees of freedom of the whole."""
    below = sum((part.weight * part.estimate.se) ** 4 / part.freedom for part in parts)
    return max(1, int(variance**2 / below)) if below > 0 else sum(part.freedom for part in parts)


def _joined(errors: Sequence[float | None], parts: Sequence[Part]) -> float | None:
    """The error of the whole from one kind of error of its waves, where each has it."""
    squares = [(part.weight * error) ** 2 for error, part in zip(errors, parts, strict=True) if error is not None]
    return sum(squares) ** 0.5 if len(squares) == len(parts) else None
