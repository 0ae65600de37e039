"""Ten thousand residents who never were, with what they did in some months: rows as the counting of activity has them.

Communities differ as real ones do: some hold hundreds of them, some fewer than ten. A few people bring far more than
others, a few move, and some register every month.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.statistics import counting
from points.statistics.periods import CalendarPeriod, Grain, period_with
from server.clock import now

TRAVEL = ("walk", "bicycle", "bus", "metro")
SORTING = ("kitchen", "recyclable")
MATERIALS = ("corrugated", "pet", "glass", "copper")
# Grams of CO2e for a metre or a gram, and points for a kilometre or a kilogram: what anybody can look up.
TRAVEL_METHOD, RECYCLING_METHOD = "published-conservative", "warm-v16-estimated"
MG_PER_M = {"bicycle": 40, "bus": 27, "metro": 47}
MG_PER_G = {"corrugated": 3460, "pet": 1140, "glass": 304, "copper": 4950}
POINTS_PER_KG = {"corrugated": 2, "pet": 4, "glass": 2, "copper": 8}


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody, and from which month on they are registered."""

    id: UUID
    home: str
    since: date


@dataclass(frozen=True, slots=True)
class Record:
    """What one of them did in a month."""

    person: Person
    month: date
    behaviour: str
    mode: str
    method: str
    community: str
    activities: int
    distance_m: int
    weight_g: int
    saved_co2e_mg: int
    points: int


def people(communities: Sequence[str], count: int, months: Sequence[date], *, seed: int) -> list[Person]:
    """So many people over the communities, a few of them registering later than the first month."""
    chance = random.Random(seed)
    # A long tail: the last of a street's communities hold a handful.
    weights = [1 / (1 + position % 15) ** 1.4 for position in range(len(communities))]
    homes = chance.choices(communities, weights, k=count)
    return [
        Person(UUID(int=seed << 64 | number), home, months[0] if chance.random() < 0.9 else chance.choice(months))
        for number, home in enumerate(homes)
    ]


def records(persons: Iterable[Person], months: Sequence[date], *, seed: int) -> Iterator[Record]:
    """What they did: about two thirds of them something each month."""
    chance = random.Random(seed)
    persons = list(persons)
    homes = sorted({person.home for person in persons})
    for person in persons:
        modes = chance.sample(TRAVEL, chance.randint(1, 2))
        for month in months:
            if person.since > month or chance.random() < 0.35:
                continue
            community = person.home if chance.random() < 0.995 else chance.choice(homes)
            for mode in modes:
                trips = chance.randint(1, 30)
                metres = trips * chance.randint(400, 9000)
                saved = metres * MG_PER_M.get(mode, 0)
                method = TRAVEL_METHOD if saved else ""
                yield Record(person, month, mode, mode, method, community, trips, metres, 0, saved, metres // 500)
            if chance.random() < 0.3:
                drops = chance.randint(1, 20)
                yield Record(person, month, "sorting", chance.choice(SORTING), "", community, drops, 0, 0, 0, drops)
            if chance.random() < 0.25:
                for material in chance.sample(MATERIALS, chance.randint(1, 2)):
                    # One in thirty clears out a warehouse.
                    grams = chance.randint(200, 9000) * (60 if chance.random() < 0.03 else 1)
                    points = grams * POINTS_PER_KG[material] // 1000
                    saved = grams * MG_PER_G[material]
                    yield Record(
                        person, month, "recycling", material, RECYCLING_METHOD, community, 2, 0, grams, saved, points
                    )


def store(session: Session, made: Iterable[Record]) -> None:
    """Write records as a month is added up by resident."""
    raw = session.connection().connection.driver_connection
    assert raw is not None
    columns = "resident_id, month_on, behaviour, mode, method_id, community_code, activities, distance_m, weight_g, "
    with raw.cursor().copy(f"COPY resident_month ({columns} saved_co2e_mg, points) FROM STDIN") as copy:
        for each in made:
            key = (each.person.id, each.month, each.behaviour, each.mode, each.method, each.community)
            amounts = (each.activities, each.distance_m, each.weight_g, each.saved_co2e_mg, each.points)
            copy.write_row((*key, *amounts))


_DUE = sa.text("""
INSERT INTO activity_period_count (grain, starts_on, is_due) VALUES (:grain, :starts_on, true)
ON CONFLICT (grain, starts_on) DO UPDATE SET is_due = true""")

_PARTICIPATION = sa.text("""
INSERT INTO place_period (grain, starts_on, campaign_kind, place_code, registered, participants, joins, check_ins,
                          completions, volunteer_minutes, points, saved_co2e_mg, counted_at)
SELECT :grain, :starts_on, '', left(code, digits), sum(registered), sum(participants), 0, 0, 0, 0, 0, '{}', :now
FROM (SELECT home AS code, 1 AS registered, 0 AS participants
      FROM unnest(cast(:homes AS text[]), cast(:since AS date[])) AS person (home, since) WHERE since <= :ends_on
      UNION ALL
      SELECT last_home, 0, 1 FROM (
          SELECT DISTINCT ON (resident_id) community_code AS last_home FROM resident_month
          WHERE month_on BETWEEN :starts_on AND :ends_on
          ORDER BY resident_id, month_on DESC, community_code DESC) active) rows
CROSS JOIN (VALUES (6), (9), (12)) AS sizes (digits)
GROUP BY 4
ON CONFLICT (grain, starts_on, campaign_kind, place_code) DO UPDATE
SET registered = EXCLUDED.registered, participants = EXCLUDED.participants""")


def count(session: Session, persons: Sequence[Person], months: Sequence[date]) -> None:
    """Count activity and participation of the months, and of their quarters and years."""
    grains = (Grain.MONTH, Grain.QUARTER, Grain.YEAR)
    session.execute(sa.text("ANALYZE resident_month"))
    for period in sorted({period_with(grain, month) for grain in grains for month in months}):
        values = {"grain": period.grain.value, "starts_on": period.starts_on}
        session.execute(_DUE, values)
        counting.count_long(session, CalendarPeriod(period.grain, period.starts_on), now=now())
        everybody = {"homes": [each.home for each in persons], "since": [each.since for each in persons]}
        session.execute(_PARTICIPATION, {**values, **everybody, "ends_on": period.ends_on, "now": now()})
