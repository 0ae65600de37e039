"""Streets with too few respondents: an area-level model that borrows from the other streets (Fay and Herriot).

A street's direct share is its true one plus a sampling error of known variance D; the true ones scatter around one mean
with variance A. The estimate is the best mixture of both, (A · direct + D · mean) ÷ (A + D). With a dozen streets A is
often estimated as 0, which would make every street alike and its error far too small; Li and Lahiri's adjusted
likelihood (J. Multivariate Anal. 101, 2010) is never 0 and errs upwards. The mean squared error is Prasad and Rao's
g1 + g2 + 2 g3 (J. Am. Stat. Assoc. 85, 1990), without the deduction that A's upward error would allow.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STREETS_MIN = 5
GRID, REFINEMENTS = 100, 5


@dataclass(frozen=True, slots=True)
class Modelled:
    """A street's mixture and the square root of its mean squared error."""

    share: float
    se: float


def smooth_variances(variances: Floats, respondents: Floats) -> Floats:
    """Sampling variances as one variance per person over the number of respondents.

    A street's own estimate of its variance rests on as few persons as its share does, and is 0 when all of them
    travelled alike. The pooled one is the mean, each street with as much say as it has respondents.
    """
    person = float((variances * respondents * respondents).sum() / respondents.sum())
    return person / respondents


def mix(shares: Floats, variances: Floats, absent: int) -> tuple[list[Modelled], Modelled | None]:
    """The mixture of each street with data, and the one for each of `absent` streets without any.

    `variances` are the smoothed sampling variances of the direct shares.
    """
    spread = between_variance(shares, variances)
    precision = 1 / (spread + variances)
    mean = float((precision * shares).sum() / precision.sum())
    mean_variance = float(1 / precision.sum())
    spread_variance = float(2 / (precision**2).sum())
    found = []
    for share, variance in zip(shares.tolist(), variances.tolist(), strict=True):
        part = variance / (spread + variance)
        g1 = spread * part
        g2 = part**2 * mean_variance
        g3 = variance**2 / (spread + variance) ** 3 * spread_variance
        found.append(Modelled((1 - part) * share + part * mean, float(np.sqrt(g1 + g2 + 2 * g3))))
    return found, Modelled(mean, float(np.sqrt(spread + mean_variance))) if absent else None


def between_variance(shares: Floats, variances: Floats) -> float:
    """A: the highest point of A times the residual likelihood, on a grid of ever smaller steps."""
    high = 4 * (float(np.var(shares, ddof=1)) + float(variances.mean())) + 1e-9
    low = high * 1e-8
    for _ in range(REFINEMENTS):
        tried = np.geomspace(low, high, GRID)
        best = int(_heights(tried, shares, variances).argmax())
        low, high = float(tried[max(0, best - 1)]), float(tried[min(GRID - 1, best + 1)])
    return float(np.sqrt(low * high))


def _heights(spreads: Floats, shares: Floats, variances: Floats) -> Floats:
    """The logarithm of A times the residual likelihood at each A of `spreads`."""
    scatter = spreads[:, None] + variances
    precision = 1 / scatter
    total = precision.sum(axis=1)
    mean = (precision * shares).sum(axis=1) / total
    apart = (precision * (shares - mean[:, None]) ** 2).sum(axis=1)
    heights: Floats = np.log(spreads) - 0.5 * (np.log(scatter).sum(axis=1) + np.log(total) + apart)
    return heights
