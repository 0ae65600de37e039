"""Writes the tables of a survey that nobody made: `python3 made_up_survey.py FOLDER STREET...`, official codes.

Made up from a fixed seed, for rehearsals and walks. It has what real surveys have: households drawn in communities
drawn in streets, people who were never reached, and answers that come more often from those without a car, who travel
greener. So its plain share is too high, and weighting to the margins mends that.
"""

import csv
import random
import sys
from pathlib import Path

SEED = 20250512
COMMUNITIES_PER_STREET = 4
HOUSEHOLDS_PER_COMMUNITY = 12
POPULATION_PER_STREET = 70_000
DAYS = 14

CARS = {"0": 0.45, "1": 0.42, "2": 0.13}  # of the population's people
ANSWERED = {"0": 0.85, "1": 0.55, "2": 0.40}
GREEN = {"0": 0.90, "1": 0.66, "2": 0.45}
BANDS = {"6-17": 0.11, "18-34": 0.24, "35-59": 0.40, "60+": 0.25}
GREENER_BY_AGE = {"6-17": 0.08, "18-34": -0.02, "35-59": -0.04, "60+": 0.06}

GREEN_MODES = [("1", 30), ("2", 20), ("4", 25), ("1>4>1", 10), ("1>5>1", 15)]
OTHER_MODES = [("8", 60), ("9", 20), ("6", 10), ("3", 10)]


def chosen(chance: random.Random, weights: dict[str, float]) -> str:
    """One of the keys, by their weights."""
    return chance.choices(list(weights), list(weights.values()))[0]


def main(folder: Path, streets: list[str]) -> None:
    """Write the three tables and the margins of these streets."""
    chance = random.Random(SEED)  # noqa: S311 -- the same survey every time
    households, persons, trips = [], [], []
    drawn_per_street = COMMUNITIES_PER_STREET * HOUSEHOLDS_PER_COMMUNITY
    for street in streets:
        for community in range(1, COMMUNITIES_PER_STREET + 1):
            leaning = chance.gauss(0, 0.03)  # neighbours travel alike
            for number in range(1, HOUSEHOLDS_PER_COMMUNITY + 1):
                household = f"{street}-{community}-{number}"
                cars = chosen(chance, CARS)
                households.append([household, street, cars])
                reached = chance.random() < ANSWERED[cars]
                for member in range(1, chance.choice([1, 2, 2, 3, 3, 4]) + 1):
                    band = chosen(chance, BANDS)
                    low = int(band.rstrip("+").split("-")[0])
                    age = chance.randint(low, {"6-17": 17, "18-34": 34, "35-59": 59, "60+": 85}[band])
                    person = f"{household}-{member}"
                    weight = POPULATION_PER_STREET / drawn_per_street / 2.5
                    day = f"2025-05-{12 + chance.randrange(DAYS):02}"
                    persons.append(
                        [person, household, street, f"{street}-{community}", f"{weight:.2f}", age,
                         chance.choice("12"), day if reached else "", "1" if reached else "2"]
                    )  # fmt: skip
                    if not reached or chance.random() < 0.15:
                        continue
                    green = GREEN[cars] + GREENER_BY_AGE[band] + leaning
                    for trip in range(1, chance.choice([2, 2, 2, 3, 4]) + 1):
                        modes = GREEN_MODES if chance.random() < green else OTHER_MODES
                        mode = chance.choices([mode for mode, _ in modes], [often for _, often in modes])[0]
                        trips.append(
                            [
                                person,
                                trip,
                                mode,
                                f"{6 + 3 * trip}:{chance.randrange(60):02}",
                                f"{chance.expovariate(0.3):.1f}",
                            ]
                        )
    write(folder / "households.csv", ["household", "street", "cars"], households)
    write(
        folder / "persons.csv",
        ["person", "household", "street", "community", "weight", "age", "sex", "day", "result"],
        persons,
    )
    write(folder / "trips.csv", ["person", "number", "modes", "started", "km"], trips)
    write_margins(folder / "margins.csv", streets)


def write_margins(path: Path, streets: list[str]) -> None:
    """What a census would say of the same population."""
    population = POPULATION_PER_STREET * len(streets)
    cells = [("street", street, POPULATION_PER_STREET) for street in streets]
    cells += [("age_band", band, round(share * population)) for band, share in BANDS.items()]
    cells += [("sex", sex, round(0.5 * population)) for sex in ("male", "female")]
    cells += [
        ("household_cars", "2+" if cars == "2" else cars, round(share * population)) for cars, share in CARS.items()
    ]
    facts = ["made-up-2025", "编造的6岁及以上人口，仅供演练", "docs/walks/data/made_up_survey.py", "R", "2025-01-01", 6]
    heading = ["code", "population", "source", "confidence", "as_of", "age_min", "variable", "category", "persons"]
    write(path, heading, [[*facts, *cell] for cell in cells])


def write(path: Path, heading: list[str], rows: list[list[object]]) -> None:
    """Write a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([heading, *rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
