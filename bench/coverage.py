"""`make coverage-study`: does the 95 % interval cover? Biased samples of a real survey whose truth is known.

ENTD 2008 (tests/points/data/SOURCES.md) stands for a city: each of its person-days as many times as its weight says.
Samples are drawn from it with replacement, people of some kinds far more readily than others, and the estimator, which
is told the kinds' numbers and nothing of the drawing, must find the city's share again.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from points.share.estimate.estimator import estimate
from points.share.estimate.exchange import (
    READINGS,
    STRICT,
    Input,
    Margin,
    Options,
    Result,
    WaveInput,
)

Floats = NDArray[np.float64]

DATA = Path(__file__).parent.parent / "tests" / "points" / "data"
ATTRIBUTES = ("csp", "n_cars", "city_category")
PERSONS = 1_400
REPLICATED = 200  # samples whose replicates are raked too, which takes most of the time
POPULATION = 1_000_000.0

# How readily people of a kind are drawn: those without a car and in the centre most, as those of an app would be.
READINESS: dict[str, dict[str, float]] = {
    "n_cars": {"0": 2.8, "1": 1.2, "2+": 0.7},
    "city_category": {"C": 1.5, "B": 1.0, "I": 0.8, "R": 0.6},
    "csp": {"8": 1.3, "no_csp": 1.1, "3": 1.2, "5": 1.1, "7": 1.0, "4": 0.9, "6": 0.8, "1": 0.7, "2": 0.7},
}
# Of the negative test: who travelled green on the day is drawn so much more readily, whatever their kind.
GREEN_READINESS = 2.5


@dataclass(frozen=True, slots=True)
class City:
    """Units that are drawn together (a person's day, or a household's two), one row for each day."""

    unit: NDArray[np.int64]  # (days,): the unit of each day, units in order
    weight: Floats  # (units,)
    readiness: Floats  # (units,)
    green_part: Floats  # (units,): green trips of all
    attributes: dict[str, NDArray[np.str_]]  # (days,)
    trips: NDArray[np.int64]  # (days,)
    green: NDArray[np.int64]  # (days,)

    @property
    def truth(self) -> float:
        """The city's share."""
        weight = self.weight[self.unit]
        return float((weight * self.green).sum() / (weight * self.trips).sum())

    def margins(self) -> list[Margin]:
        """The city's persons by kind, as a census would tell them."""
        weight = self.weight[self.unit]
        scale = POPULATION / weight.sum()
        return [
            Margin(
                variable=name,
                persons={str(kind): float(weight[column == kind].sum() * scale) for kind in np.unique(column)},
            )
            for name, column in self.attributes.items()
        ]


def days() -> pl.DataFrame:
    """ENTD's person-days with their trips; several days of one weekend count as one, as the trips do not tell them."""
    trips = pl.read_parquet(DATA / "entd2008_trips.parquet")
    counted = trips.group_by(pl.col("individual_id").str.slice(0, 11).alias("household"), "weekday").agg(
        trips=pl.len().cast(pl.Int64), green=pl.col("green").sum().cast(pl.Int64)
    )
    persons = pl.read_parquet(DATA / "entd2008_persondays.parquet").with_columns(
        household=pl.col("day_id").str.slice(0, 11)
    )
    persons = persons.unique(["household", "weekday"], keep="first", maintain_order=True)
    return persons.join(counted, on=["household", "weekday"], maintain_order="left").sort("household", "weekday")


def weekday_city() -> City:
    """Every weekday of a person by itself."""
    return _city(days().filter(pl.col("weekday")))


def household_city() -> City:
    """Households with a weekday and a weekend, which are drawn together: alike, as days of one home are."""
    all_days = days()
    both = all_days.group_by("household").len().filter(pl.col("len") == 2)
    return _city(all_days.join(both, on="household", maintain_order="left"))


def _city(frame: pl.DataFrame) -> City:
    names, first, unit = np.unique(frame["household"].to_numpy().astype(str), return_index=True, return_inverse=True)
    attributes = {name: frame[name].to_numpy().astype(str) for name in ATTRIBUTES}
    readiness = np.ones(len(names))
    for name, column in attributes.items():
        readiness *= np.array([READINESS[name][kind] for kind in column[first]])
    trips, green = frame["trips"].to_numpy(), frame["green"].to_numpy()
    return City(
        unit=unit,
        weight=frame["weight"].to_numpy()[first],
        readiness=readiness,
        green_part=np.bincount(unit, green) / np.bincount(unit, trips),
        attributes=attributes,
        trips=trips,
        green=green,
    )


def draw(city: City, seed: int, *, days_drawn: int = PERSONS, on_greenness: bool = False) -> WaveInput:
    """One biased sample with replacement. Its base weights are all 1: nothing of the drawing is known."""
    rng = np.random.default_rng(seed)
    chance = city.weight * city.readiness
    if on_greenness:
        chance = chance * GREEN_READINESS**city.green_part
    each = len(city.unit) // len(city.weight)
    drawn = rng.choice(len(chance), size=days_drawn // each, p=chance / chance.sum())
    rows = (drawn[:, None] * each + np.arange(each)).reshape(-1)
    trips, green = city.trips[rows].tolist(), city.green[rows].tolist()
    return WaveInput(
        id="drawn",
        kind="household-survey",
        name="drawn",
        first_on="2008-01-01",
        last_on="2008-12-31",
        stratum=["all"] * len(rows),
        cluster=[str(number) for number in np.repeat(np.arange(len(drawn)), each)],
        street=[""] * len(rows),
        base_weight=[1.0] * len(rows),
        responded=[True] * len(rows),
        attributes={name: column[rows].tolist() for name, column in city.attributes.items()},
        trips=trips,
        green=dict.fromkeys(READINGS, green),
        trips_by_mode={},
    )


def without_clusters(wave: WaveInput) -> WaveInput:
    """The same sample as if each day had been drawn by itself."""
    return _replaced(wave, cluster=[str(number) for number in range(len(wave.trips))])


def _replaced(wave: WaveInput, **changes: list[str]) -> WaveInput:
    return WaveInput(**{**{name: getattr(wave, name) for name in wave.__struct_fields__}, **changes})


def estimate_of(city: City, wave: WaveInput, *, replicates: int = 0, reference: float | None = None) -> Result:
    """The estimator's answer, with the city's margins."""
    options = Options(
        margins=city.margins(), adjustment_cells=[], replicates=replicates, reference_green=reference, seed=1
    )
    return estimate(Input(definition_id="entd", population="ENTD 2008", waves=[wave], options=options))


@dataclass(frozen=True, slots=True)
class Found:
    """What one sample gave."""

    naive: float
    share: float
    se: float
    se_replicate: float
    se_unraked: float
    covered: bool
    covered_plain: bool  # by the interval of the error that ignores the raking
    at_bound: int
    trimmed: int
    warned: bool
    effective: float


def found(result: Result, truth: float) -> Found:
    """The figures of one sample that the study adds up."""
    reading = next(each for each in result.combined if each.reading == STRICT)
    made, weighting = reading.estimate, result.waves[0].weighting
    plain = made.se_unraked or 0.0
    return Found(
        naive=reading.naive,
        share=made.share,
        se=made.se,
        se_replicate=made.se_replicate or 0.0,
        se_unraked=plain,
        covered=made.low <= truth <= made.high,
        covered_plain=abs(made.share - truth) <= 1.96 * plain,
        at_bound=weighting.at_bound,
        trimmed=weighting.trimmed,
        warned=any(caution.code == "selection-on-outcome" for caution in result.cautions),
        effective=made.n_effective,
    )


_CITIES: dict[str, City] = {}
CASES: dict[str, tuple[str, Callable[[], City]]] = {
    "biased": ("按小汽车、城区、职业有偏 selected on csp, n_cars, city", weekday_city),
    "on-greenness": ("同上, 且按是否绿色出行 and on greenness itself", weekday_city),
    "households": ("按户整群 whole households", household_city),
    "households-ignored": ("按户整群, 估计时忽略 the same, clusters ignored", household_city),
}


def one(case: str, seed: int, replicates: int, days_drawn: int = PERSONS) -> Found:
    """One sample of a case."""
    make = CASES[case][1]
    if make.__name__ not in _CITIES:
        _CITIES[make.__name__] = make()
    city = _CITIES[make.__name__]
    wave = draw(city, seed, days_drawn=days_drawn, on_greenness=case == "on-greenness")
    if case == "households-ignored":
        wave = without_clusters(wave)
    return found(estimate_of(city, wave, replicates=replicates, reference=city.truth), city.truth)


def _many(work: tuple[str, list[int], int, int]) -> list[Found]:
    case, seeds, replicates, days_drawn = work
    return [one(case, seed, replicates if seed < REPLICATED else 0, days_drawn) for seed in seeds]


def study(case: str, samples: int, *, replicates: int, processes: int, days_drawn: int = PERSONS) -> list[Found]:
    """Many samples of a case, with progress."""
    seeds = [list(range(start, min(start + 20, samples))) for start in range(0, samples, 20)]
    made: list[Found] = []
    # Not forked: polars keeps threads, whose locks a forked child would find held.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for batch in pool.map(_many, [(case, each, replicates, days_drawn) for each in seeds]):
            made += batch
            print(f"\r  {case}: {len(made)}/{samples}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return made


def lines(case: str, made: Sequence[Found], truth: float) -> Iterator[str]:
    """The table of one case."""
    count = len(made)
    shares = [each.share for each in made]
    spread = statistics.stdev(shares)

    def mean(values: Sequence[float]) -> float:
        return statistics.fmean(values)

    with_both = [each for each in made if each.se_replicate] or made[:1]
    covered = mean([each.covered for each in made])
    yield f"{CASES[case][0]}: {count} 样本 samples"
    yield f"  真值 truth {truth:.4f}; 直接比例 naive {mean([each.naive for each in made]):.4f}"
    yield f"  估计 estimate {mean(shares):.4f}, 偏差 bias {mean(shares) - truth:+.4f}, 标准差 sd {spread:.5f}"
    yield (
        f"  标准误 se: 残差线性化 residuals {mean([each.se for each in made]):.5f}, "
        f"其中 of the first {len(with_both)}: {mean([each.se for each in with_both]):.5f}, "
        f"重复权重 replicates {mean([each.se_replicate for each in with_both]):.5f}; "
        f"忽略校准 ignoring the raking {mean([each.se_unraked for each in made]):.5f}"
    )
    yield (
        f"  95%区间覆盖 covered {covered:.1%} (±{1.96 * (covered * (1 - covered) / count) ** 0.5:.1%}); "
        f"忽略校准时 ignoring the raking {mean([each.covered_plain for each in made]):.1%}"
    )
    yield (
        f"  有效样本 effective n {mean([each.effective for each in made]):.0f}; 提示选择偏差 warned "
        f"{mean([each.warned for each in made]):.1%}; 触界 at a bound {mean([each.at_bound for each in made]):.1f}, "
        f"截断 trimmed {mean([each.trimmed for each in made]):.1f} 人 persons"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.coverage", description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000)
    parser.add_argument("--replicates", type=int, default=100)
    parser.add_argument("--persons", type=int, default=PERSONS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=tuple(CASES))
    options = parser.parse_args(arguments)
    # Each process is one thread, and there are as many processes as cores.
    for name in ("OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    for case, (_, make) in CASES.items():
        if options.only in (None, case):
            began = time.perf_counter()
            made = study(
                case,
                options.samples,
                replicates=options.replicates,
                processes=options.processes,
                days_drawn=options.persons,
            )
            print("\n".join(lines(case, made, make().truth)))
            print(f"  [{time.perf_counter() - began:.0f} s]", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
