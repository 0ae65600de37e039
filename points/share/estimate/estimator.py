"""The share of green trips among all trips of a population, from one survey or several: prepared, weighed, explained.

Pure: the same input gives the same result. Nothing is read and nothing kept.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import msgspec
import numpy as np
from numpy.typing import NDArray

from points.share.estimate.cautions import Cautions
from points.share.estimate.combining import Part, combine, combining_weights
from points.share.estimate.exchange import (
    READINGS,
    STRICT,
    Estimate,
    Input,
    Options,
    ReadingResult,
    Result,
    StreetEstimate,
    WaveResult,
)
from points.share.estimate.linearisation import (
    Ratio,
    estimate_of,
    interval,
    plain_error,
    ratio_of,
    standard_errors,
)
from points.share.estimate.preparation import UNKNOWN, Prepared, check, prepare
from points.share.estimate.small_areas import STREETS_MIN, mix, smooth_variances
from points.share.estimate.weighting import (
    TRIMMED_SHARE_MAX,
    Weights,
    replicate_weights,
    replicates_at_once,
    weigh,
)

Floats = NDArray[np.float64]

LIBRARIES = ("svy", "svy_rs", "polars", "numpy", "scipy")
# Beyond this a figure is the machine's: it would make the hash of a repeated computation differ.
DIGITS = 9

DESIGN_EFFECT_MAX = 3.0
RESPONDENTS_MIN = 100
CLUSTERS_MIN = 30
REPLICATES_APART_MAX = 0.25
REPLICATES_DROPPED_MAX = 0.02
REPLICATES_COMPARED_MIN = 50  # fewer differ by chance alone
# A reference that lies outside this interval is taken to differ; outside the 95 % one every twentieth would.
REFERENCE_CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True)
class _Street:
    """One street's direct figures, of one wave or of all together."""

    street: str
    n: int
    share: float
    se: float


@dataclass(frozen=True, slots=True)
class _Wave:
    """One wave, weighed, with what the whole is combined from."""

    prepared: Prepared
    weights: Weights
    estimates: dict[str, Estimate]
    untrimmed: dict[str, Estimate | None]
    naive: dict[str, float]
    streets: dict[str, list[_Street]]


def estimate(given: Input) -> Result:
    """Everything that is told of the share. Raises preparation.Refused."""
    check(given)
    options = given.options
    cautions = Cautions()
    if not options.margins:
        cautions.add("unweighted")
    waves = [
        _wave(prepare(wave, options, cautions), options, place, cautions) for place, wave in enumerate(given.waves)
    ]
    names = _street_names(given)
    parts = {reading: combining_weights([wave.estimates[reading] for wave in waves]) for reading in READINGS}
    combined = [_combined(waves, parts[reading], reading, names, options, cautions) for reading in READINGS]
    _compare_with_reference(combined[READINGS.index(STRICT)].estimate, options, cautions)
    result = Result(
        definition_id=given.definition_id,
        weighted=bool(options.margins),
        combined=combined,
        waves=[
            WaveResult(
                id=wave.prepared.wave.id,
                kind=wave.prepared.wave.kind,
                weighting=wave.weights.told,
                readings=[_of_one_wave(wave, reading, names, options, cautions) for reading in READINGS],
                mode_shares=_mode_shares(wave),
                combining_weight={reading: parts[reading][place] for reading in READINGS},
            )
            for place, wave in enumerate(waves)
        ],
        cautions=cautions.all(),
        libraries={"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    )
    return msgspec.convert(_rounded(msgspec.to_builtins(result)), Result)


def _wave(prepared: Prepared, options: Options, place: int, cautions: Cautions) -> _Wave:
    weights = weigh(prepared, options, cautions)
    replicated = _replicate_shares(prepared, weights, options, place, cautions)
    estimates, untrimmed, naive, streets = {}, {}, {}, {}
    for reading in READINGS:
        green = prepared.green[reading]
        ratio = ratio_of(prepared, weights, green)
        assert ratio is not None  # noqa: S101 -- check() refused waves without a trip
        _, plain = plain_error(prepared, weights, green)
        se = standard_errors(prepared, [ratio.influence])[0]
        estimates[reading] = estimate_of(
            ratio,
            se,
            freedom=prepared.freedom,
            confidence=options.confidence,
            se_replicate=_spread(replicated[reading], ratio.share),
            se_unraked=plain,
        )
        untrimmed[reading] = _untrimmed(prepared, weights, green, options)
        naive[reading] = float(green.sum() / prepared.trips.sum())
        streets[reading] = _streets(prepared, weights, green)
    _judge(prepared, weights, estimates, untrimmed, options, cautions)
    return _Wave(prepared, weights, estimates, untrimmed, naive, streets)


def _replicate_shares(
    prepared: Prepared, weights: Weights, options: Options, place: int, cautions: Cautions
) -> dict[str, Floats]:
    """Each reading's share in every replicate that could be weighed."""
    found: dict[str, list[Floats]] = {reading: [] for reading in READINGS}
    done = kept = 0
    while done < options.replicates:
        count = min(replicates_at_once(prepared), options.replicates - done)
        # svy names the columns of one replicate otherwise: two are drawn then, and one is not used.
        made = replicate_weights(prepared, weights, options, _seed(options.seed, place, done), max(2, count))[:, :count]
        whole = np.isfinite(made).all(axis=0)
        kept += int(whole.sum())
        trips = prepared.trips @ made[:, whole]
        for reading in READINGS:
            found[reading].append(prepared.green[reading] @ made[:, whole] / trips)
        done += count
    if kept < (1 - REPLICATES_DROPPED_MAX) * options.replicates:
        cautions.add("replicates-dropped", prepared.wave.id, dropped=options.replicates - kept)
    return {reading: np.concatenate(shares) if shares else np.zeros(0) for reading, shares in found.items()}


def _seed(seed: int, place: int, done: int) -> int:
    """A seed of its own for each wave and batch."""
    return int(np.random.SeedSequence([abs(seed), place, done]).generate_state(1)[0])


def _spread(shares: Floats, centre: float) -> float | None:
    """The bootstrap's standard error around the estimate itself."""
    return float(np.sqrt(np.mean((shares - centre) ** 2))) if len(shares) >= 2 else None


def _untrimmed(prepared: Prepared, weights: Weights, green: Floats, options: Options) -> Estimate | None:
    """The estimate before trimming, or None where nothing was cut."""
    if weights.uncut.all():
        return None
    before = Weights(
        adjusted=weights.adjusted,
        raked=weights.raked,
        trimmed=weights.raked,
        final=weights.raked,
        raked_inner=weights.raked_inner,
        final_inner=weights.raked_inner,
        uncut=np.ones(len(weights.uncut), dtype=np.bool_),
        rakes=weights.rakes,
        told=weights.told,
    )
    ratio = ratio_of(prepared, before, green)
    assert ratio is not None  # noqa: S101 -- the same trips as with the trimmed weights
    se = standard_errors(prepared, [ratio.influence])[0]
    return estimate_of(
        ratio, se, freedom=prepared.freedom, confidence=options.confidence, se_replicate=None, se_unraked=None
    )


def _streets(prepared: Prepared, weights: Weights, green: Floats) -> list[_Street]:
    """The direct share of every street of a wave in which somebody made a trip."""
    names = np.asarray(prepared.street, dtype=np.str_)
    found: list[tuple[str, Ratio]] = []
    for street in sorted(set(prepared.street) - {UNKNOWN}):
        ratio = ratio_of(prepared, weights, green, names == street)
        if ratio is not None:
            found.append((street, ratio))
    errors = standard_errors(prepared, [ratio.influence for _, ratio in found]) if found else []
    return [_Street(street, ratio.n, ratio.share, se) for (street, ratio), se in zip(found, errors, strict=True)]


def _street_names(given: Input) -> list[str]:
    """Every street that the waves or the margins name, whether or not anybody of it was reached."""
    named = {street for wave in given.waves for street in wave.street}
    for margin in given.options.margins:
        if margin.variable == "street":
            named |= {street for street, persons in margin.persons.items() if persons > 0}
    return sorted(named - {UNKNOWN})


def _joined(waves: Sequence[_Wave], reading: str) -> list[_Street]:
    """Streets over all waves, each wave with as much say as it has respondents of the street."""
    by_street: dict[str, list[_Street]] = {}
    for wave in waves:
        for each in wave.streets[reading]:
            by_street.setdefault(each.street, []).append(each)
    joined = []
    for street, found in sorted(by_street.items()):
        n = sum(each.n for each in found)
        share = sum(each.n * each.share for each in found) / n
        joined.append(_Street(street, n, share, sum((each.n * each.se) ** 2 for each in found) ** 0.5 / n))
    return joined


def _shown(
    found: Sequence[_Street], names: Sequence[str], freedom: int, options: Options, cautions: Cautions, wave: str
) -> list[StreetEstimate]:
    """Streets with enough respondents as they were measured, the others from the model of all."""
    direct = {each.street: each for each in found}
    small = [name for name in names if name not in direct or direct[name].n < options.street_persons_min]
    shown = {
        each.street: _street_estimate(each.street, each, each.share, each.se, False, freedom, options)
        for each in found
        if each.street not in small
    }
    if small and len(found) < STREETS_MIN:
        cautions.add("streets-too-few", wave, least=STREETS_MIN)
    elif small:
        sizes = np.array([each.n for each in found], dtype=np.float64)
        variances = smooth_variances(np.array([each.se**2 for each in found]), sizes)
        absent = [name for name in small if name not in direct]
        mixed, synthetic = mix(np.array([each.share for each in found]), variances, len(absent))
        by_name = dict(zip(direct, mixed, strict=True))
        for name in small:
            made = by_name.get(name, synthetic)
            assert made is not None  # noqa: S101 -- mix() gives one whenever a street is absent
            shown[name] = _street_estimate(
                name, direct.get(name), made.share, made.se, True, max(1, len(found) - 1), options
            )
    return [shown[name] for name in sorted(shown)]


def _street_estimate(
    street: str, direct: _Street | None, share: float, se: float, modelled: bool, freedom: int, options: Options
) -> StreetEstimate:
    inside = min(max(share, 0.0), 1.0)
    low, high = interval(inside, se, freedom, options.confidence)
    return StreetEstimate(
        street=street,
        n=direct.n if direct else 0,
        modelled=modelled,
        share=inside,
        se=se,
        low=low,
        high=high,
        direct_share=direct.share if direct else None,
        direct_se=direct.se if direct else None,
    )


def _of_one_wave(
    wave: _Wave, reading: str, names: Sequence[str], options: Options, cautions: Cautions
) -> ReadingResult:
    prepared = wave.prepared
    return ReadingResult(
        reading=reading,
        naive=wave.naive[reading],
        estimate=wave.estimates[reading],
        untrimmed=wave.untrimmed[reading],
        streets=_shown(wave.streets[reading], names, prepared.freedom, options, cautions, prepared.wave.id),
    )


def _combined(
    waves: Sequence[_Wave],
    parts: Sequence[float],
    reading: str,
    names: Sequence[str],
    options: Options,
    cautions: Cautions,
) -> ReadingResult:
    """All waves as one, by the weights of `combining_weights`."""
    if len(waves) == 1:
        return _of_one_wave(waves[0], reading, names, options, cautions)
    freedoms = [wave.prepared.freedom for wave in waves]
    figures = [
        Part(weight, wave.estimates[reading], freedom)
        for weight, wave, freedom in zip(parts, waves, freedoms, strict=True)
    ]
    made = combine(figures, options.confidence)
    if made.widened > 1:
        cautions.add("waves-disagree", p=made.chance, reading=reading, factor=made.widened)
    untrimmed = None
    if any(wave.untrimmed[reading] is not None for wave in waves):
        before = [
            Part(part.weight, wave.untrimmed[reading] or wave.estimates[reading], part.freedom)
            for part, wave in zip(figures, waves, strict=True)
        ]
        untrimmed = combine(before, options.confidence).estimate
    green = sum(float(wave.prepared.green[reading].sum()) for wave in waves)
    trips = sum(float(wave.prepared.trips.sum()) for wave in waves)
    return ReadingResult(
        reading=reading,
        naive=green / trips,
        estimate=made.estimate,
        untrimmed=untrimmed,
        streets=_shown(_joined(waves, reading), names, sum(freedoms), options, cautions, ""),
    )


def _mode_shares(wave: _Wave) -> dict[str, float]:
    """Each main mode's part of all trips, weighted."""
    final = wave.weights.final
    total = float(final @ wave.prepared.trips)
    return {mode: float(final @ counts) / total for mode, counts in sorted(wave.prepared.by_mode.items())}


def _judge(
    prepared: Prepared,
    weights: Weights,
    estimates: dict[str, Estimate],
    untrimmed: dict[str, Estimate | None],
    options: Options,
    cautions: Cautions,
) -> None:
    """Cautions that follow from one wave's figures; the strict reading speaks for both."""
    wave, strict, before = prepared.wave.id, estimates[STRICT], untrimmed[STRICT]
    if strict.design_effect > DESIGN_EFFECT_MAX:
        cautions.add("design-effect-high", wave, effect=strict.design_effect, n_effective=strict.n_effective)
    if strict.n < RESPONDENTS_MIN or prepared.clusters < CLUSTERS_MIN:
        cautions.add("few-respondents", wave, n=strict.n, clusters=prepared.clusters)
    if before is not None and weights.told.trimmed_weight_share > TRIMMED_SHARE_MAX:
        cautions.add("trimmed-high", wave, share=weights.told.trimmed_weight_share, untrimmed=before.share)
    replicate = strict.se_replicate
    compared = replicate and strict.se > 0 and options.replicates >= REPLICATES_COMPARED_MIN
    if replicate and compared and abs(replicate / strict.se - 1) > REPLICATES_APART_MAX:
        cautions.add("replicates-disagree", wave, replicate=replicate, linear=strict.se)


def _compare_with_reference(strict: Estimate, options: Options, cautions: Cautions) -> None:
    """Whether the strict share differs from an unselected reference by more than chance."""
    reference = options.reference_green
    if reference is None:
        return
    freedom = max(1, int(strict.n_effective) - 1)
    low, high = interval(strict.share, strict.se, freedom, REFERENCE_CONFIDENCE)
    if not low <= reference <= high:
        cautions.add("selection-on-outcome", share=strict.share, reference=reference)


def _rounded(value: object) -> object:
    """Every figure to DIGITS decimals, wherever it stands."""
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value
