"""The estimator of the share: held to other implementations, to its own derivatives, and to known truths."""

import contextlib
import csv
import io
import json
import math
import re
import string
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import coverage
from points.share.estimate import bounded, cautions, linearisation, preparation, process, small_areas, weighting
from points.share.estimate.__main__ import answer
from points.share.estimate.combining import Part, combine, combining_weights
from points.share.estimate.estimator import estimate
from points.share.estimate.exchange import (
    READINGS,
    STRICT,
    Estimate,
    Input,
    Margin,
    Options,
    ReadingResult,
    Result,
    WaveInput,
)

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "raking_golden.json").read_text("utf-8"))


def margins() -> list[Margin]:
    """The margins of the golden sample, each of a million persons."""
    found: dict[str, dict[str, float]] = {}
    with (DATA / "raking_margins.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["variable"], {})[row["category"]] = float(row["persons"])
    return [
        Margin(variable=name, persons={each: persons / sum(cells.values()) * 1e6 for each, persons in cells.items()})
        for name, cells in found.items()
    ]


def sample() -> WaveInput:
    """The golden sample: 600 households of two days, everybody responded."""
    with (DATA / "raking_sample.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    green = [int(row["green"]) for row in rows]
    return WaveInput(
        id="golden",
        kind="household-survey",
        name="golden",
        first_on="2008-01-01",
        last_on="2008-12-31",
        stratum=[row["stratum"] for row in rows],
        cluster=[row["cluster"] for row in rows],
        street=[""] * len(rows),
        base_weight=[float(row["weight"]) for row in rows],
        responded=[True] * len(rows),
        attributes={name: [row[name] for row in rows] for name in ("csp", "n_cars", "city_category")},
        trips=[int(row["trips"]) for row in rows],
        green=dict.fromkeys(READINGS, green),
        trips_by_mode={"walk": green, "car": [int(row["trips"]) - int(row["green"]) for row in rows]},
    )


def changed(wave: WaveInput, **changes: Any) -> WaveInput:
    return msgspec.structs.replace(wave, **changes)


def with_silent(wave: WaveInput) -> WaveInput:
    """The same wave, of whose households a third did not answer, those with two cars more often."""
    rng = np.random.default_rng(3)
    silent = {
        cluster
        for cluster, cars in zip(wave.cluster, wave.attributes["n_cars"], strict=True)
        if rng.random() < (0.3 if cars == "2+" else 0.1)
    }
    answered = [cluster not in silent for cluster in wave.cluster]
    trips = [count if told else 0 for count, told in zip(wave.trips, answered, strict=True)]
    green = [count if told else 0 for count, told in zip(wave.green[STRICT], answered, strict=True)]
    return changed(
        wave, responded=answered, trips=trips, green=dict.fromkeys(READINGS, green), trips_by_mode={"walk": green}
    )


def options(**changes: Any) -> Options:
    given = Options(
        margins=margins(),
        adjustment_cells=[],
        bounds=(0.01, 100.0),
        tolerance=1e-10,
        iterations_max=1000,
        trim_ratio=None,
        replicates=0,
    )
    return msgspec.structs.replace(given, **changes)


def given(*waves: WaveInput, **changes: Any) -> Input:
    return Input(definition_id="test", population="ENTD", waves=list(waves), options=options(**changes))


def strict(result: Result) -> ReadingResult:
    return next(each for each in result.combined if each.reading == STRICT)


def codes(result: Result) -> set[str]:
    return {each.code for each in result.cautions}


def prepared_and_weights(wave: WaveInput, chosen: Options) -> tuple[preparation.Prepared, weighting.Weights]:
    noted = cautions.Cautions()
    prepared = preparation.prepare(wave, chosen, noted)
    return prepared, weighting.weigh(prepared, chosen, noted)


# Other implementations


def test_shares_weights_and_errors_agree_with_r() -> None:
    raked = strict(estimate(given(sample()))).estimate
    assert raked.share == pytest.approx(GOLDEN["raked_swept"]["share"], abs=1e-8)
    assert raked.se_unraked == pytest.approx(GOLDEN["raked_taken_as_drawn"]["se"], rel=1e-6)
    # R's jackknife rakes anew without each household in turn, which overstates a little.
    assert raked.se == pytest.approx(GOLDEN["raked_jackknife"]["se"], rel=0.05)
    plain = strict(estimate(given(sample(), margins=[]))).estimate
    assert (plain.share, plain.se) == pytest.approx((GOLDEN["as_drawn"]["share"], GOLDEN["as_drawn"]["se"]), rel=1e-6)
    _, weights = prepared_and_weights(sample(), options())
    assert weights.final[:8] == pytest.approx(GOLDEN["first_weights"], rel=1e-6)


def test_residuals_over_strata_and_clusters_agree_with_r() -> None:
    # R fits its residuals with the weights of the drawing, which holds where those are right; so fitted here they give
    # its error to the last digit: the arithmetic is the same, the fit is the choice.
    prepared, weights = prepared_and_weights(sample(), options())
    assert weights.rakes is not None
    dummies = weights.rakes.dummies[weights.rakes.cell]
    linear = prepared.green[STRICT] - GOLDEN["raked_swept"]["share"] * prepared.trips
    linear /= weights.final @ prepared.trips
    root = np.sqrt(prepared.drawn_base)
    fitted = dummies @ np.linalg.lstsq(dummies * root[:, None], linear * root, rcond=None)[0]
    [error] = linearisation.standard_errors(prepared, [weights.final * (linear - fitted)])
    assert error == pytest.approx(GOLDEN["raked_residuals_of_drawing"]["se"], rel=1e-6)


def test_raking_agrees_with_ipfn_and_the_ratio_with_samplics() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Large libraries that warn as they come in; nothing else of the tests needs them.
        from ipfn.ipfn import ipfn  # noqa: PLC0415
        from samplics.estimation import TaylorEstimator  # noqa: PLC0415
        from samplics.utils.types import PopParam  # noqa: PLC0415
    wave = sample()
    _, weights = prepared_and_weights(wave, options())
    categories = [sorted(margin.persons) for margin in margins()]
    cells = tuple(
        np.array([names.index(each) for each in wave.attributes[margin.variable]])
        for names, margin in zip(categories, margins(), strict=True)
    )
    begun = np.zeros([len(names) for names in categories])
    np.add.at(begun, cells, wave.base_weight)
    targets = [
        np.array([margin.persons[name] for name in names]) for names, margin in zip(categories, margins(), strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ended = ipfn(begun.copy(), targets, [[0], [1], [2]], convergence_rate=1e-10, max_iteration=500).iteration()
        taylor = TaylorEstimator(PopParam.ratio)
        taylor.estimate(
            y=np.array(wave.green[STRICT]),
            x=np.array(wave.trips),
            samp_weight=weights.final,
            stratum=np.array(wave.stratum),
            psu=np.array(wave.cluster),
        )
    assert weights.final == pytest.approx(wave.base_weight * (ended / np.maximum(begun, 1e-9))[cells], rel=1e-6)
    made = strict(estimate(given(wave))).estimate
    assert (made.share, made.se_unraked) == pytest.approx((taylor.point_est, taylor.stderror), rel=1e-6)


# Its own derivatives


@pytest.mark.parametrize(
    ("wave", "changes"),
    [
        (sample, {}),
        (lambda: with_silent(sample()), {"adjustment_cells": ["n_cars", "city_category"]}),
        (lambda: with_silent(sample()), {"adjustment_cells": ["n_cars"], "bounds": (0.3, 4.0)}),
        (lambda: with_silent(sample()), {"adjustment_cells": ["n_cars"], "trim_ratio": 2.0}),
    ],
    ids=["raked", "silent", "bounds", "cut"],
)
def test_an_influence_is_what_the_share_moves_by(
    wave: Callable[[], WaveInput], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linearisation, "LEVERAGE_MAX", 0.0)
    chosen, made = options(tolerance=1e-13, **changes), wave()
    prepared, weights = prepared_and_weights(made, chosen)
    assert (weights.told.at_bound > 0) == ("bounds" in changes)
    assert (weights.told.trimmed > 0) == ("trim_ratio" in changes)
    # The limit is taken as given: a median moves by steps that no derivative knows.
    limit = weighting.limit_of(weights.raked, chosen)
    monkeypatch.setattr(weighting, "limit_of", lambda *_: limit)
    ratio = linearisation.ratio_of(prepared, weights, prepared.green[STRICT])
    assert ratio is not None

    def share(place: int, step: float) -> float:
        base = list(made.base_weight)
        base[place] += step
        moved, weighed = prepared_and_weights(changed(made, base_weight=base), chosen)
        return float(weighed.final @ moved.green[STRICT] / (weighed.final @ moved.trips))

    # Of those whose weight is cut a larger weight of the drawing changes nothing: there they count by being there.
    whole = prepared.rows[weights.uncut]
    silent = np.flatnonzero(~prepared.drawn_responded)
    for place in [*whole[[5, 400, -3]].tolist(), *silent[:3].tolist()]:
        slope = (share(place, 0.01) - share(place, -0.01)) / 0.02
        assert ratio.influence[place] == pytest.approx(slope * made.base_weight[place], rel=2e-4, abs=1e-9)


@pytest.mark.parametrize("changes", [{}, {"trim_ratio": 1.5}, {"bounds": (0.3, 4.0)}], ids=["raked", "cut", "bounds"])
def test_replicates_raked_one_by_one_agree_with_the_residuals(changes: dict[str, Any]) -> None:
    result = estimate(given(with_silent(sample()), adjustment_cells=["n_cars"], replicates=120, **changes))
    made = strict(result).estimate
    # 120 replicates tell a standard error to 7 %; the seed is fixed.
    assert made.se_replicate == pytest.approx(made.se, rel=0.08)
    assert "replicates-disagree" not in codes(result)
    assert made.se_unraked is not None


# Known truths: the short form of `make coverage-study`


def test_intervals_cover_the_truth_where_the_naive_share_misses_by_far() -> None:
    truth = coverage.weekday_city().truth
    made = [coverage.one("biased", 10_000 + seed, 0) for seed in range(24)]
    assert truth == pytest.approx(0.310, abs=0.0005)
    assert np.mean([each.naive for each in made]) - truth > 0.14
    assert abs(np.mean([each.share for each in made]) - truth) < 0.005
    assert np.mean([each.covered for each in made]) >= 0.875
    assert np.mean([each.se for each in made]) == pytest.approx(np.std([each.share for each in made]), rel=0.3)


def test_selection_on_the_outcome_stays_and_is_warned_of() -> None:
    truth = coverage.weekday_city().truth
    made = [coverage.one("on-greenness", 10_000 + seed, 0) for seed in range(3)]
    assert 0.08 < np.mean([each.share for each in made]) - truth < 0.16
    assert all(each.warned for each in made)
    assert not coverage.one("biased", 10_000, 0).warned


def test_ignoring_households_makes_the_error_too_small() -> None:
    whole = [coverage.one("households", 10_000 + seed, 0) for seed in range(4)]
    ignored = [coverage.one("households-ignored", 10_000 + seed, 0) for seed in range(4)]
    assert [each.share for each in whole] == pytest.approx([each.share for each in ignored])
    assert np.mean([each.se for each in ignored]) < 0.9 * np.mean([each.se for each in whole])


def test_the_document_about_entd_prints_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    text = Path("docs/entd-2008.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```\n+```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == text.count("```python") == 3
    names: dict[str, Any] = {}
    for program, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(program, names)
        assert printed.getvalue() == expected


# Weights


def test_bounds_are_kept_and_the_margins_met() -> None:
    result = estimate(given(sample(), bounds=(0.25, 4.0)))
    told = result.waves[0].weighting
    assert told.at_bound > 0
    assert told.converged
    assert told.iterations > 0
    assert told.factor_min >= 0.25
    assert told.factor_max <= 4.0
    assert told.margin_gap_max < 1e-9
    assert "bound-hit" in codes(result)


def test_bounds_that_admit_no_solution_are_told() -> None:
    result = estimate(given(sample(), bounds=(0.8, 1.2)))
    assert not result.waves[0].weighting.converged
    assert {"not-converged", "bound-hit"} <= codes(result)


def test_the_truncated_factors_are_an_exponential_between_the_bounds() -> None:
    rng = np.random.default_rng(0)
    cells = np.stack(np.meshgrid(np.arange(3), np.arange(4)), axis=-1).reshape(-1, 2)
    dummies = np.concatenate([cells[:, :1] == np.arange(3), cells[:, 1:] == np.arange(1, 4)], axis=1).astype(float)
    weights = rng.uniform(50, 150, 12)
    targets = dummies.T @ (weights * rng.uniform(0.4, 2.4, 12))
    made = bounded.rake_within(weights, dummies, targets, bounds=(0.6, 1.8), tolerance=1e-12, limit=100)
    assert made.converged
    assert 0 < made.inner.sum() < 12
    assert dummies.T @ (weights * made.factors) == pytest.approx(targets, rel=1e-10)
    logs = np.log(made.factors)
    steps = np.linalg.lstsq(dummies[made.inner], logs[made.inner], rcond=None)[0]
    assert np.exp(np.clip(dummies @ steps, math.log(0.6), math.log(1.8))) == pytest.approx(made.factors, rel=1e-6)


def test_trimming_shows_what_it_did_and_rakes_again() -> None:
    result = estimate(given(sample(), trim_ratio=2.0))
    told, reading = result.waves[0].weighting, strict(result)
    assert told.trimmed > 0
    assert told.trimmed_weight_share > 0.05
    assert told.margin_gap_max < 1e-8
    assert reading.untrimmed is not None
    assert reading.untrimmed.share == pytest.approx(GOLDEN["raked_swept"]["share"], abs=1e-8)
    assert reading.estimate.share != reading.untrimmed.share
    assert "trimmed-high" in codes(result)


def test_who_did_not_answer_is_made_up_for_by_their_cell() -> None:
    wave = with_silent(sample())
    base, answered = np.array(wave.base_weight), np.array(wave.responded)
    prepared, weights = prepared_and_weights(wave, options(margins=[], adjustment_cells=["n_cars"]))
    for cars in ("0", "1", "2+"):
        alike = np.array(wave.attributes["n_cars"]) == cars
        assert weights.final[alike[prepared.rows]].sum() == pytest.approx(base[alike].sum())
    assert weights.told.response_rate == pytest.approx(base[answered].sum() / base.sum())
    assert weights.told.adjustment_cells == 3


def test_what_is_not_known_of_the_silent_makes_no_adjustment_cell() -> None:
    wave = with_silent(sample())
    asked = [cars if told else "" for cars, told in zip(wave.attributes["n_cars"], wave.responded, strict=True)]
    known = changed(wave, attributes={**wave.attributes, "asked": asked})
    without = estimate(given(known, adjustment_cells=["city_category"]))
    result = estimate(given(known, adjustment_cells=["city_category", "asked", "never_heard_of"]))
    assert strict(result).estimate == strict(without).estimate
    assert "adjustment-unknown" in codes(result)
    assert "adjustment-unknown" not in codes(without)


def test_small_cells_lone_strata_and_thin_categories_are_joined_and_told() -> None:
    wave = with_silent(sample())
    kinds = ["rare" if place < 6 else "" if place < 20 else "often" for place in range(1200)]
    strata = [
        "alone" if cluster == wave.cluster[0] else stratum
        for cluster, stratum in zip(wave.cluster, wave.stratum, strict=True)
    ]
    thin = Margin(variable="kind", persons={"often": 900_000.0, "rare": 90_000.0, "never": 10_000.0})
    result = estimate(
        given(
            changed(wave, stratum=strata, attributes={**wave.attributes, "kind": kinds}),
            margins=[*margins(), thin],
            adjustment_cells=["csp", "n_cars", "city_category"],
        )
    )
    assert {
        "cells-collapsed",
        "lone-cluster",
        "margin-category-small",
        "margin-category-missing",
        "attribute-unknown",
    } <= codes(result)
    told = result.waves[0].weighting
    assert told.cells_collapsed > 0
    assert told.margin_gap_max < 1e-8
    assert strict(result).estimate.se > 0


def test_without_margins_it_is_called_unweighted() -> None:
    result = estimate(given(sample(), margins=[]))
    assert not result.weighted
    assert "unweighted" in codes(result)
    assert not result.waves[0].weighting.raked
    assert estimate(given(sample())).weighted


# Streets, waves


def test_streets_with_few_respondents_are_modelled_and_the_others_measured() -> None:
    wave, names = sample(), [f"12010400{number}" for number in range(1, 8)]
    streets = ["120104007" if place < 30 else names[int(cluster) % 6] for place, cluster in enumerate(wave.cluster)]
    population = Margin(variable="street", persons=dict.fromkeys([*names, "120104012"], 125_000.0))
    located = changed(wave, street=streets, attributes={**wave.attributes, "street": streets})
    made = {each.street: each for each in strict(estimate(given(located, margins=[population]))).streets}
    assert set(made) == {*names, "120104012"}
    assert [each.modelled for name, each in sorted(made.items()) if name < "120104007"] == [False] * 6
    small, absent = made["120104007"], made["120104012"]
    assert small.modelled
    assert small.n == 30
    assert small.direct_share is not None
    assert small.direct_se is not None
    others = [each.share for each in made.values() if not each.modelled]
    assert min(small.direct_share, np.mean(others)) <= small.share <= max(small.direct_share, np.mean(others))
    assert small.se < small.direct_se
    assert absent.modelled
    assert absent.n == 0
    assert absent.direct_share is None
    assert absent.se > 0
    assert all(each.low <= each.share <= each.high for each in made.values())


def test_the_model_of_streets_is_nearer_the_truth_and_its_error_honest() -> None:
    rng = np.random.default_rng(1)
    direct_errors, errors, covered = [], [], []
    for _ in range(60):
        sizes = rng.integers(15, 100, 12).astype(float)
        truth = rng.normal(0.7, 0.03, 12)
        variances = 0.12 / sizes
        shares = rng.normal(truth, np.sqrt(variances))
        made, _ = small_areas.mix(shares, variances, 0)
        mixed = np.array([each.share for each in made])
        direct_errors.append((shares - truth) ** 2)
        errors.append((mixed - truth) ** 2)
        covered.append(np.abs(mixed - truth) <= 2.2 * np.array([each.se for each in made]))
    assert small_areas.between_variance(np.full(12, 0.7), np.full(12, 0.002)) > 0.0002  # alike, and yet never all one
    assert np.mean(errors) < 0.6 * np.mean(direct_errors)
    assert np.mean(covered) >= 0.95


def test_waves_weigh_as_their_effective_numbers_and_a_disagreement_widens() -> None:
    def wave(share: float, se: float, effective: float) -> Estimate:
        return Estimate(
            share=share, se=se, low=0, high=1, n=1000, trips=3000, n_effective=effective, design_effect=1000 / effective
        )

    alike = [wave(0.70, 0.02, 600.0), wave(0.72, 0.03, 300.0)]
    weights = combining_weights(alike)
    assert weights == pytest.approx([2 / 3, 1 / 3])
    made = combine([Part(*each, 500) for each in zip(weights, alike, strict=True)], 0.95)
    assert made.estimate.share == pytest.approx(0.70 * 2 / 3 + 0.72 / 3)
    assert made.estimate.se == pytest.approx(math.hypot(0.02 * 2 / 3, 0.03 / 3))
    assert (made.widened, made.estimate.n_effective) == (1.0, 900.0)
    apart = combine([Part(0.5, wave(0.60, 0.02, 600.0), 500), Part(0.5, wave(0.72, 0.02, 600.0), 500)], 0.95)
    assert apart.chance < 0.001
    assert apart.widened == pytest.approx(0.12 / math.hypot(0.02, 0.02))
    assert apart.estimate.se == pytest.approx(0.06)  # half of what lies between them


def test_two_waves_make_one_estimate_with_its_weights_shown() -> None:
    first, second = sample(), changed(with_silent(sample()), id="second", kind="diary")
    result = estimate(given(first, second, adjustment_cells=["n_cars"]))
    shares = [each.readings[0].estimate.share for each in result.waves]
    parts = [each.combining_weight[STRICT] for each in result.waves]
    assert sum(parts) == pytest.approx(1)
    assert strict(result).estimate.share == pytest.approx(np.dot(shares, parts), abs=1e-8)
    assert strict(result).estimate.n == sum(each.weighting.responded for each in result.waves)
    green = [
        count if place % 2 else trips
        for place, (count, trips) in enumerate(zip(first.green[STRICT], first.trips, strict=True))
    ]
    greener = changed(first, id="greener", green=dict.fromkeys(READINGS, green))
    assert "waves-disagree" in codes(estimate(given(first, greener)))


# Refusals, the process, speed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"base_weight": [0.0] + [1.0] * 1199}, "input-invalid"),
        ({"responded": [False] * 1200, "trips": [0] * 1200}, "no-respondents"),
        ({"trips": [0] * 1200, "green": dict.fromkeys(READINGS, [0] * 1200)}, "no-trips"),
        ({"cluster": ["one"] * 1200, "stratum": ["all"] * 1200}, "too-few-clusters"),
        ({"green": dict.fromkeys(READINGS, [90] * 1200)}, "input-invalid"),
        ({"trips": [1] * 3}, "input-invalid"),
        ({"attributes": {}}, "attribute-missing"),
        ({"responded": [False] + [True] * 1199}, "input-invalid"),
    ],
)
def test_what_is_no_input_is_refused_with_a_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(preparation.Refused) as refusal:
        estimate(given(changed(sample(), **change)))
    assert refusal.value.reason == reason
    assert reason in process.REASONS


@pytest.mark.parametrize(
    "wrong", [{"bounds": (1.2, 3.0)}, {"trim_ratio": 0.5}, {"replicates": 5000}, {"confidence": 2}]
)
def test_options_have_limits(wrong: dict[str, Any]) -> None:
    with pytest.raises(preparation.Refused):
        preparation.check(given(sample(), **wrong))


def test_the_process_gives_the_same_bytes_and_says_why_it_cannot() -> None:
    sent = msgspec.json.encode(given(sample(), replicates=20))
    made = process.run_raw(sent)
    assert made == answer(sent)
    # More digits would be this machine's, and a hash of them would not repeat on another one.
    assert max(len(digits) for digits in re.findall(rb"\d\.(\d+)[,}\]]", made)) == 9
    assert msgspec.json.decode(made, type=Result).combined
    with pytest.raises(process.EstimateFailed) as refused:
        process.run(b"{}")
    assert refused.value.reason == "input-invalid"
    with pytest.raises(process.EstimateFailed) as late:
        process.run_raw(sent, seconds_max=0.01)
    assert late.value.reason == "time"


def test_every_caution_has_words_that_can_be_filled() -> None:
    for code, (text_zh, text_en) in cautions.TEXTS.items():
        fields = [{name for _, name, _, _ in string.Formatter().parse(text) if name} for text in (text_zh, text_en)]
        assert fields[0] <= fields[1], code
        assert text_zh.endswith("。"), code
        assert text_en.endswith("."), code


def test_a_large_wave_is_estimated_in_seconds() -> None:
    wave = coverage.draw(coverage.weekday_city(), 1, days_drawn=4_000)
    began = time.process_time()
    result = coverage.estimate_of(coverage.weekday_city(), wave, replicates=20)
    assert strict(result).estimate.se_replicate is not None
    assert time.process_time() - began < 4
