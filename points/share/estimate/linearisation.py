"""The variance of a ratio whose weights were adjusted, raked and trimmed: by the influence of each person drawn.

A ratio R = Σ w y ÷ Σ w x moves with its sample like a total of z = (y - R x) ÷ Σ w x. Weights that are raked to known
margins carry less than z: what the margins explain of it does not vary. What is left is the residual of z on the
margins' dummies, each person weighing as the derivative of its raking factor does (Deville and Särndal, J. Am. Stat.
Assoc. 87, 1992; Deville, Survey Methodology 25, 1999; for truncated factors those at a bound do not bend, and weigh
nothing). The same chain rule takes the residuals back through the trimming and through the adjustment for those who did
not answer, so that a person who was drawn and silent has an influence too. The variance of the influences' total over
strata and clusters is `svy`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import svy
from numpy.typing import NDArray
from scipy import special

from points.share.estimate.exchange import Estimate
from points.share.estimate.preparation import Prepared
from points.share.estimate.weighting import Rakes, Weights

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

LEVERAGE_MAX = 0.9  # a cluster that alone carries a category; more would make its influence without end


@dataclass(frozen=True, slots=True)
class Ratio:
    """A share and what its variance is made of. `influence` has a position for each person drawn."""

    share: float
    influence: Floats
    n: int
    trips: int
    simple_variance: float  # of a simple random sample of as many persons


def ratio_of(prepared: Prepared, weights: Weights, green: Floats, member: Flags | None = None) -> Ratio | None:
    """The share of green trips, of all or of the members of a domain; None where nobody of it made a trip."""
    within = np.ones(len(green), dtype=np.float64) if member is None else member.astype(np.float64)
    y, x = green * within, prepared.trips * within
    final = weights.final
    total = float(final @ x)
    if total <= 0:
        return None
    share = float(final @ y) / total
    linear = (y - share * x) / total
    size = float(final @ within)
    # Of a simple random sample of n persons: the weighted variance of the linear variable, per person, over n.
    n = int(within.sum())
    simple = float(final @ linear**2) * size / n
    return Ratio(share, influence_of(prepared, weights, linear), n, int(x.sum()), simple)


def influence_of(prepared: Prepared, weights: Weights, linear: Floats) -> Floats:
    """How much the total of w · linear moves with one more of each person drawn, weighed as drawn."""
    if weights.rakes is None:
        own = weights.final * linear
        scaled = own
    else:
        own, scaled = _through_raking(prepared, weights, weights.rakes, linear)
    cell, base = prepared.drawn_cell, prepared.drawn_base
    # Bounds are relative to weights that were scaled to the population first: one more person lowers all of those.
    influence = -base * float(scaled.sum() / base.sum())
    influence[prepared.rows] += own
    if prepared.drawn_responded.all():
        return influence
    # One more person in an adjustment cell moves the factor of all its respondents.
    count = int(cell.max()) + 1
    moved = np.bincount(cell[prepared.rows], scaled, minlength=count)
    drawn = np.bincount(cell, base, minlength=count)
    answered = np.bincount(cell[prepared.rows], base[prepared.rows], minlength=count)
    lost = prepared.drawn_responded / np.maximum(answered, 1e-300)[cell]
    return influence + moved[cell] * base * (1 / drawn[cell] - lost)


def _through_raking(prepared: Prepared, weights: Weights, rakes: Rakes, linear: Floats) -> tuple[Floats, Floats]:
    """Each respondent's own influence, and how the total moves when its adjusted weight is scaled."""
    pull = weights.final * weights.final_inner
    following = weights.final * (linear - _projection(rakes, pull, linear))
    own = following / np.sqrt(1 - _leverage(prepared, rakes, pull))
    if weights.uncut.all():
        return own, following
    # Whose weight was cut does not follow the first raking; it moves the total by being there alone.
    bent = weights.raked * weights.raked_inner
    following = np.where(weights.uncut, following, 0.0)
    steps = _solve(rakes, bent, _by_column(rakes, following * weights.raked_inner))
    first = weights.raked * (rakes.dummies @ steps)[rakes.cell]
    return own - first, following - first


def _leverage(prepared: Prepared, rakes: Rakes, pull: Floats) -> Floats:
    """How far each respondent's cluster draws the fit to itself, which makes its residuals too small.

    Dividing them by √(1 - leverage) makes up for it (Bell and McCaffrey, Survey Methodology 28, 2002, with a cluster's
    leverage taken as one number).
    """
    inverse = np.linalg.pinv(_square(rakes, pull), rcond=1e-10, hermitian=True)
    by_cell = ((rakes.dummies @ inverse) * rakes.dummies).sum(axis=1)
    cluster = prepared.drawn_cluster[prepared.rows]
    held = np.bincount(cluster, pull * by_cell[rakes.cell])[cluster]
    return np.clip(held, 0.0, LEVERAGE_MAX)


def _projection(rakes: Rakes, pull: Floats, variable: Floats) -> Floats:
    """The fitted values of a variable on the margins' dummies, weighed by `pull`."""
    return (rakes.dummies @ _solve(rakes, pull, _by_column(rakes, pull * variable)))[rakes.cell]


def _by_column(rakes: Rakes, values: Floats) -> Floats:
    sums: Floats = rakes.dummies.T @ np.bincount(rakes.cell, values, minlength=len(rakes.dummies))
    return sums


def _solve(rakes: Rakes, pull: Floats, right: Floats) -> Floats:
    # Margins may depend on each other (a crossed one beside its parts): the shortest solution serves.
    return np.asarray(np.linalg.lstsq(_square(rakes, pull), right, rcond=1e-10)[0], dtype=np.float64)


def _square(rakes: Rakes, pull: Floats) -> Floats:
    cells = np.bincount(rakes.cell, pull, minlength=len(rakes.dummies))
    return (rakes.dummies * cells[:, None]).T @ rakes.dummies


def standard_errors(prepared: Prepared, influences: Sequence[Floats]) -> list[float]:
    """The standard error of each influence's total over the strata and clusters of the design, by `svy`."""
    names = [f"u{number}" for number in range(len(influences))]
    frame = pl.DataFrame(
        {
            "stratum": prepared.drawn_stratum,
            "cluster": prepared.drawn_cluster,
            "one": np.ones(len(prepared.drawn_base)),
            **dict(zip(names, influences, strict=True)),
        }
    )
    sample = svy.Sample(frame, svy.Design(stratum="stratum", psu="cluster", wgt="one"))
    return [_figure(sample.estimation.total(name, method="taylor"), "se") for name in names]


def _figure(made: svy.Estimate | list[svy.Estimate], column: str) -> float:
    """One figure of what `svy` estimated for one variable."""
    one = made[0] if isinstance(made, list) else made
    return float(one.to_polars()[column][0])


def plain_error(prepared: Prepared, weights: Weights, green: Floats) -> tuple[float, float]:
    """The ratio and its linearised standard error by `svy`, as if the final weights were those of the drawing."""
    frame = pl.DataFrame(
        {
            "stratum": prepared.drawn_stratum[prepared.rows],
            "cluster": prepared.drawn_cluster[prepared.rows],
            "weight": weights.final,
            "green": green,
            "trips": prepared.trips,
        }
    )
    sample = svy.Sample(frame, svy.Design(stratum="stratum", psu="cluster", wgt="weight"))
    made = sample.estimation.ratio("green", "trips", method="taylor")
    return _figure(made, "est"), _figure(made, "se")


def interval(share: float, se: float, freedom: int, confidence: float) -> tuple[float, float]:
    """A t interval on the scale of log odds, so that it stays within 0 and 1."""
    if not 0 < share < 1 or se <= 0:
        return share, share
    half = float(special.stdtrit(max(1, freedom), (1 + confidence) / 2)) * se / (share * (1 - share))
    middle = float(special.logit(share))
    return float(special.expit(middle - half)), float(special.expit(middle + half))


def estimate_of(
    ratio: Ratio, se: float, *, freedom: int, confidence: float, se_replicate: float | None, se_unraked: float | None
) -> Estimate:
    """A share with everything that is told of its precision."""
    effect = se**2 / ratio.simple_variance if ratio.simple_variance > 0 else 1.0
    effect = effect if effect > 0 else 1.0
    low, high = interval(ratio.share, se, freedom, confidence)
    return Estimate(
        share=ratio.share,
        se=se,
        low=low,
        high=high,
        n=ratio.n,
        trips=ratio.trips,
        n_effective=ratio.n / effect,
        design_effect=effect,
        se_replicate=se_replicate,
        se_unraked=se_unraked,
    )
