"""The estimate of a large wave, in its own process as the service runs it: every replicate is weighed anew.

`python -m bench.estimate [persons]` measures it alone; nothing of the stage is needed.
"""

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from points.share.estimate.exchange import STRICT, WITH_E_BIKE, Input, Margin, Options, Result, WaveInput
from points.share.estimate.process import run_raw

PERSONS = 20_000
REPLICATES = 200
LIMIT_S = 10.0
AGE_BANDS = ("6-17", "18-34", "35-59", "60+")


@dataclass(frozen=True, slots=True)
class Measured:
    """One estimate, from bytes to bytes."""

    persons: int
    replicates: int
    wall_s: float
    processor_s: float
    memory_mib: float
    share: float
    se: float
    se_replicate: float

    def words(self) -> Iterator[str]:
        """The lines of the report."""
        yield (
            f"{self.persons:,} 人 persons, {self.replicates} 个重复权重 replicates, 12 街道 streets: "
            f"{self.wall_s:.1f} s (处理器 processor {self.processor_s:.1f} s), 内存 memory {self.memory_mib:.0f} MiB"
        )
        reached = "达到 met" if self.wall_s <= LIMIT_S else "未达到 missed"
        target = f"目标 target {LIMIT_S:.0f} s: {reached}; " if self.persons == PERSONS else ""
        yield (f"{target}{self.share:.4f} ± {self.se:.4f}, 重复权重 replicates ± {self.se_replicate:.4f}")


def wave(persons: int, seed: int = 1) -> tuple[WaveInput, list[Margin]]:
    """A made-up household survey of two persons a household with a third that did not answer, and its margins."""
    rng = np.random.default_rng(seed)
    household = np.arange(persons) // 2
    count = int(household.max()) + 1
    street = rng.integers(1, 13, count)[household]
    cars = rng.choice(3, count, p=[0.4, 0.45, 0.15])[household]
    age, sex = rng.integers(0, 4, persons), rng.integers(0, 2, persons)
    answered = rng.random(persons) < np.array([0.75, 0.65, 0.5])[cars]
    trips = np.where(answered, rng.poisson(2.4, persons), 0)
    green = rng.binomial(trips, np.array([0.9, 0.65, 0.45])[cars])
    bikes = np.minimum(trips - green, rng.binomial(trips, 0.08))
    streets = [f"1201040{each:02d}" for each in street.tolist()]
    bands = [f"{AGE_BANDS[a]}*{'male' if s else 'female'}" for a, s in zip(age.tolist(), sex.tolist(), strict=True)]
    attributes = {
        "street": streets,
        "age_band": [each.split("*")[0] for each in bands],
        "sex": [each.split("*")[1] for each in bands],
        "household_cars": [("0", "1", "2+")[each] for each in cars.tolist()],
    }
    made = WaveInput(
        id="bench",
        kind="household-survey",
        name="bench",
        first_on="2025-09-01",
        last_on="2025-10-31",
        stratum=streets,
        cluster=[str(each) for each in household.tolist()],
        street=streets,
        base_weight=rng.uniform(30, 60, persons).tolist(),
        responded=answered.tolist(),
        attributes=attributes,
        trips=trips.tolist(),
        green={STRICT: green.tolist(), WITH_E_BIKE: (green + bikes).tolist()},
        trips_by_mode={"walk": green.tolist(), "car": (trips - green).tolist()},
    )
    population = {
        "street": dict.fromkeys(sorted(set(streets)), 890000 / 12),
        "age_band*sex": dict.fromkeys(sorted(set(bands)), 890000 / 8),
        "household_cars": {"0": 356_000.0, "1": 356_000.0, "2+": 178_000.0},
    }
    return made, [Margin(variable=name, persons=cells) for name, cells in population.items()]


def measure(persons: int = PERSONS, replicates: int = REPLICATES) -> Measured:
    """One estimate from its input's bytes to its result's."""
    drawn, margins = wave(persons)
    options = Options(margins=margins, adjustment_cells=["street", "household_cars"], replicates=replicates)
    given = msgspec.json.encode(Input(definition_id="bench", population="made up", waves=[drawn], options=options))
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = msgspec.json.decode(run_raw(given), type=Result)
    wall_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    made = result.combined[0].estimate
    return Measured(
        persons=persons,
        replicates=replicates,
        wall_s=wall_s,
        processor_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        memory_mib=after.ru_maxrss / 1024,
        share=made.share,
        se=made.se,
        se_replicate=made.se_replicate or 0.0,
    )


if __name__ == "__main__":
    for line in measure(int(sys.argv[1]) if len(sys.argv) > 1 else PERSONS).words():
        print(line)
