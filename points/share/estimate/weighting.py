"""From the weights of the drawing to the weights of the estimate, by `svy`, for the sample and for each replicate.

Base weights → non-response adjustment in cells → raking to the margins → trimming → raking once more. What `svy` cannot
do is done here: to hold the bounds when they bind, and to cut each replicate's weights at the limit and not by the
sample's factors.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import svy
from numpy.typing import NDArray
from svy.core.types import Category, Number

from points.share.estimate.bounded import rake_within
from points.share.estimate.cautions import Cautions
from points.share.estimate.exchange import Options, Weighting
from points.share.estimate.preparation import Prepared, Target, targets_of

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

RESPONSE_RATE_MIN = 0.5
TRIMMED_SHARE_MAX = 0.05
MARGIN_GAP_MAX = 0.001
# Five columns of weights for each replicate are held at a time.
REPLICATE_FIGURES_MAX = 8_000_000
# Newton steps double their digits; where these do not do, the bounds admit no solution.
BOUNDED_ITERATIONS_MAX = 60


@dataclass(frozen=True, slots=True)
class Rakes:
    """The margins of a wave's respondents, and their cells: those of like categories in every margin."""

    targets: list[Target]
    cell: Integers
    dummies: Floats  # (cells, columns): every category of the first margin, all but the first of the others
    persons: Floats  # (columns,)
    total: float


@dataclass(frozen=True, slots=True)
class Weights:
    """A wave's weights at every step, for its respondents, and which of them a bound or the limit holds."""

    adjusted: Floats
    raked: Floats
    trimmed: Floats
    final: Floats
    raked_inner: Flags
    final_inner: Flags
    uncut: Flags
    rakes: Rakes | None
    told: Weighting


@dataclass(frozen=True, slots=True)
class _Step:
    weights: Floats
    inner: Flags
    converged: bool
    iterations: int


def weigh(prepared: Prepared, options: Options, cautions: Cautions) -> Weights:
    """All steps for the sample itself."""
    wave = prepared.wave.id
    drawn, answered = len(prepared.drawn_base), len(prepared.rows)
    rate = float(prepared.drawn_base[prepared.rows].sum() / prepared.drawn_base.sum())
    if answered == drawn:
        cautions.add("non-response-unknown", wave)
    elif rate < RESPONSE_RATE_MIN:
        cautions.add("response-rate-low", wave, rate=rate, least=RESPONSE_RATE_MIN)
    adjusted = _adjust(prepared, prepared.drawn_base[:, None])[:, 0]
    all_inner = np.ones(answered, dtype=np.bool_)
    targets = targets_of(prepared, adjusted, options, cautions)
    if not targets:
        told = _told(prepared, rate, options, None, [_Step(adjusted, all_inner, True, 0)] * 2, all_inner, cautions)
        return Weights(adjusted, adjusted, adjusted, adjusted, all_inner, all_inner, all_inner, None, told)
    rakes = rakes_of(targets)
    adjusted = adjusted * (rakes.total / adjusted.sum())
    first = _rake(adjusted, rakes, options)
    limit = limit_of(first.weights, options)
    trimmed = np.minimum(first.weights, limit)
    uncut = first.weights <= limit
    second = first if uncut.all() else _rake(trimmed, rakes, options)
    told = _told(prepared, rate, options, (adjusted, trimmed, rakes), [first, second], uncut, cautions)
    return Weights(adjusted, first.weights, trimmed, second.weights, first.inner, second.inner, uncut, rakes, told)


def replicate_weights(prepared: Prepared, weights: Weights, options: Options, seed: int, count: int) -> Floats:
    """Weights of `count` bootstrap replicates, (respondents, count), every step done anew for each of them.

    Rao, Wu and Yue's rescaling bootstrap, drawn by `svy`: clusters with replacement, one fewer than there are, within
    strata. A replicate that cannot be weighed is NaN.
    """
    frame = pl.DataFrame(
        {"stratum": prepared.drawn_stratum, "cluster": prepared.drawn_cluster, "weight": prepared.drawn_base}
    )
    sample = svy.Sample(frame, svy.Design(stratum="stratum", psu="cluster", wgt="weight"))
    drawn = sample.weighting.create_bs_wgts(n_reps=count, rstate=seed)
    columns = [f"weight{number}" for number in range(1, count + 1)]
    based: Floats = drawn.data.lazy().select(columns).collect().to_numpy().astype(np.float64)
    times = (based / prepared.drawn_base[:, None])[prepared.rows]
    adjusted = _adjust(prepared, based)
    if weights.rakes is None:
        return adjusted
    with np.errstate(invalid="ignore", divide="ignore"):
        adjusted = adjusted * (weights.rakes.total / adjusted.sum(axis=0))
    raked = _rake_all(adjusted, weights.rakes, options, missed=not weights.told.converged)
    if weights.uncut.all():
        return raked
    # A person who was drawn twice weighs twice: the limit is on each time.
    limit = limit_of(weights.raked, options)
    cut = np.minimum(raked, times * limit)
    return _rake_all(cut, weights.rakes, options, missed=not weights.told.converged)


def replicates_at_once(prepared: Prepared) -> int:
    """How many replicates are held in memory together."""
    return max(10, REPLICATE_FIGURES_MAX // max(1, len(prepared.drawn_base)))


def limit_of(raked: Floats, options: Options) -> float:
    """The weight above which weights are cut: so many medians, or none."""
    return float("inf") if options.trim_ratio is None else options.trim_ratio * float(np.median(raked))


def rakes_of(targets: Sequence[Target]) -> Rakes:
    """The cells and dummies of margins. One category of each margin but the first follows from the others."""
    codes = np.stack([target.codes for target in targets], axis=1)
    cells, cell = np.unique(codes, axis=0, return_inverse=True)
    blocks, persons = [], []
    for place, target in enumerate(targets):
        first = 0 if place == 0 else 1
        categories = np.arange(first, len(target.persons))
        blocks.append((cells[:, place][:, None] == categories[None, :]).astype(np.float64))
        persons.append(target.persons[first:])
    return Rakes(
        targets=list(targets),
        cell=cell.reshape(-1).astype(np.int64),
        dummies=np.concatenate(blocks, axis=1),
        persons=np.concatenate(persons),
        total=float(targets[0].persons.sum()),
    )


def margin_gap(weights: Floats, rakes: Rakes) -> float:
    """The largest relative difference of a weighted margin from its target."""
    return max(
        float(
            np.max(
                np.abs(np.bincount(target.codes, weights, minlength=len(target.persons)) - target.persons)
                / target.persons
            )
        )
        for target in rakes.targets
    )


def _adjust(prepared: Prepared, based: Floats) -> Floats:
    """Respondents' weights, (respondents, columns), each with its part of those who did not answer in its cell."""
    if prepared.drawn_responded.all():
        return based
    count = based.shape[1]
    answers = {"cell": prepared.drawn_cell, "answer": np.where(prepared.drawn_responded, "rr", "nr")}
    made = _sample_of(answers, based).weighting.adjust("answer", cells="cell", wgt_name="made")
    return _made(made, count)


def _rake(start: Floats, rakes: Rakes, options: Options) -> _Step:
    """One raking: by `svy`, or within the bounds where its factors leave them or it does not converge."""
    raked = _rake_by_library(start[:, None], rakes, options)[:, 0]
    factors = raked / start
    low, high = options.bounds
    inside = np.isfinite(factors).all() and factors.min() >= low and factors.max() <= high
    if inside and margin_gap(raked, rakes) <= options.tolerance:
        return _Step(raked, np.ones(len(start), dtype=np.bool_), True, 0)
    return _rake_bounded(start, rakes, options)


def _rake_all(start: Floats, rakes: Rakes, options: Options, *, missed: bool) -> Floats:
    """Every column raked by itself, as the sample was; one that misses the margins serves if the sample does too."""
    raked = np.full_like(start, np.nan)
    # A replicate that lacks a category has nothing to rake there; svy refuses all of them for it.
    whole = np.flatnonzero(_has_every_category(start, rakes))
    if len(whole) == 0:
        return raked
    # svy names the columns of one replicate otherwise, so one is raked twice.
    tried = whole if len(whole) > 1 else np.repeat(whole, 2)
    raked[:, tried] = _rake_by_library(start[:, tried], rakes, options)
    low, high = options.bounds
    for column in whole.tolist():
        begun, made = start[:, column], raked[:, column]
        factors = made[begun > 0] / begun[begun > 0]
        if factors.min() < low or factors.max() > high or margin_gap(made, rakes) > options.tolerance:
            bounded = _rake_bounded(begun, rakes, options)
            raked[:, column] = bounded.weights if bounded.converged or missed else np.nan
    return raked


def _has_every_category(start: Floats, rakes: Rakes) -> Flags:
    """Whether each column is of numbers, some above 0 in every category."""
    filled = np.nan_to_num(start)
    held = np.asarray(np.isfinite(start).all(axis=0), dtype=np.bool_)
    for target in rakes.targets:
        sums = [np.bincount(target.codes, column, minlength=len(target.persons)).min() for column in filled.T]
        held = np.logical_and(held, np.array(sums) > 0)
    return held


def _rake_by_library(start: Floats, rakes: Rakes, options: Options) -> Floats:
    """Columns of weights raked by `svy`, as far as it gets; it checks bounds and cannot hold them."""
    codes = {f"m{place}": target.codes for place, target in enumerate(rakes.targets)}
    controls: dict[str, dict[Category, Number]] = {
        f"m{place}": {number: float(persons) for number, persons in enumerate(target.persons)}
        for place, target in enumerate(rakes.targets)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = _sample_of(codes, start).weighting.rake(
            controls=controls,
            wgt_name="made",
            tol=options.tolerance,
            max_iter=options.iterations_max,
            on_nonconvergence="ignore",
        )
    return _made(made, start.shape[1])


def _sample_of(data: dict[str, Any], weights: Floats) -> svy.Sample:
    """What `svy` works on. The first column of the weights stands for the sample, all of them are replicates."""
    count = weights.shape[1]
    frame = pl.DataFrame({**data, "weight": weights[:, 0]})
    if count == 1:
        return svy.Sample(frame, svy.Design(wgt="weight"))
    columns = [f"column{number}" for number in range(1, count + 1)]
    frame = frame.hstack(pl.DataFrame(weights, schema=columns))
    return svy.Sample(frame, svy.Design(wgt="weight", rep_wgts=svy.BootstrapWgts(prefix="column", n_reps=count)))


def _made(sample: svy.Sample, count: int) -> Floats:
    """The columns that `svy` made, (rows, count)."""
    names = ["made"] if count == 1 else [f"made{number}" for number in range(1, count + 1)]
    weights: Floats = sample.data.lazy().select(names).collect().to_numpy().astype(np.float64)
    return weights


def _rake_bounded(start: Floats, rakes: Rakes, options: Options) -> _Step:
    cells: Floats = np.bincount(rakes.cell, start, minlength=len(rakes.dummies)).astype(np.float64)
    raked = rake_within(
        cells,
        rakes.dummies,
        rakes.persons,
        bounds=options.bounds,
        tolerance=options.tolerance,
        limit=min(options.iterations_max, BOUNDED_ITERATIONS_MAX),
    )
    return _Step(start * raked.factors[rakes.cell], raked.inner[rakes.cell], raked.converged, raked.iterations)


def _told(
    prepared: Prepared,
    rate: float,
    options: Options,
    raking: tuple[Floats, Floats, Rakes] | None,
    steps: Sequence[_Step],
    uncut: Flags,
    cautions: Cautions,
) -> Weighting:
    """What was done, in figures, and the cautions that follow from them."""
    wave = prepared.wave.id
    first, second = steps
    gap = trimmed_share = 0.0
    factors = np.ones(len(prepared.rows))
    if raking is not None:
        adjusted, trimmed, rakes = raking
        gap = margin_gap(second.weights, rakes)
        trimmed_share = float(1 - trimmed.sum() / first.weights.sum())
        factors = second.weights / adjusted
    held = int((~first.inner | ~second.inner).sum())
    converged = first.converged and second.converged
    if not converged:
        cautions.add("not-converged", wave, limit=options.iterations_max, gap=gap)
    elif gap > MARGIN_GAP_MAX:
        cautions.add("margins-missed", wave, gap=gap)
    if held:
        cautions.add("bound-hit", wave, persons=held, low=options.bounds[0], high=options.bounds[1])
    return Weighting(
        drawn=len(prepared.drawn_base),
        responded=len(prepared.rows),
        response_rate=rate,
        adjustment_cells=prepared.cells,
        cells_collapsed=prepared.cells_collapsed,
        raked=raking is not None,
        converged=converged,
        iterations=first.iterations + (second.iterations if second is not first else 0),
        factor_min=float(factors.min()),
        factor_max=float(factors.max()),
        at_bound=held,
        trimmed=int((~uncut).sum()),
        trimmed_weight_share=trimmed_share,
        margin_gap_max=gap,
        weight_sum=float(second.weights.sum()),
    )
