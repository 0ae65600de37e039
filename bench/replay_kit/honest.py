"""A day of honest residents, and of the hard cases among them."""

import math
import random
from collections.abc import Iterator
from datetime import date, datetime, timedelta

from bench.replay_kit import events
from bench.replay_kit.events import Event, Walk
from bench.replay_kit.town import Person, Site, Town
from server.clock import day_start

# Median of a household's weighing in grams, and what it scatters by in logarithms.
MATERIALS = {"corrugated": 2500, "pet": 700, "aluminium_can": 450}
WEIGHT_SCATTER = 0.5
KINDS_OF_BAGS = ("kitchen", "residual", "kitchen", "recyclable")


def day(town: Town, on: date) -> Iterator[Event]:
    """All that the honest send in about one day."""
    rng = random.Random(f"{town.seed}:honest:{on}")
    for person in town.people:
        yield from _steps(person, on, rng)
        # Of two who go together one says for both; whoever is carried for stays at home.
        if person.hard not in {"twin", "couple"} or (person.with_number or 0) > person.number:
            yield from _together(town, person, on, rng)


def _at(on: date, hour: float, rng: random.Random, scatter_minutes: float = 40) -> datetime:
    moment = day_start(on) + timedelta(hours=hour, minutes=rng.gauss(0, scatter_minutes))
    latest = day_start(on) + timedelta(hours=23, minutes=30)
    return min(max(moment, day_start(on) + timedelta(hours=5)), latest).replace(microsecond=0)


def _steps(person: Person, on: date, rng: random.Random) -> Iterator[Event]:
    if person.hard == "tracker" or rng.random() < 0.25:
        return
    total = round(person.steps_mean * rng.lognormvariate(0, 0.3))
    if person.hard == "hiker" and on.weekday() == 6:
        total = rng.randint(34_000, 46_000)
    noon = round(total * rng.uniform(0.3, 0.6))
    phone = person.phone
    yield events.steps(person.resident_id, _at(on, 12.5, rng), noon, 0, phone)
    yield events.steps(person.resident_id, _at(on, 22, rng, 20), total, noon, phone)


def _together(town: Town, person: Person, on: date, rng: random.Random) -> Iterator[Event]:
    """What a person does outside, and whoever goes along does at their side."""
    group = [person]
    if person.hard in {"twin", "couple"} and person.with_number is not None:
        group.append(town.people[person.with_number])
    if person.hard == "carried":
        yield from _recycling(town, person, on, rng, [])
        return
    away: list[tuple[datetime, datetime]] = []
    yield from _travel(town, person, group, on, rng, away)
    yield from _sorting(town, person, group, on, rng, away)
    for each in group:
        yield from _recycling(town, each, on, rng, away)


def _travel(
    town: Town, person: Person, group: list[Person], on: date, rng: random.Random, away: list[tuple[datetime, datetime]]
) -> Iterator[Event]:
    """Ways to work, or a trip written down; `away` is told when nobody of the group can be at home."""
    site = town.sites[person.site]
    if person.hard == "tracker":
        if rng.random() < 0.6:
            start = _at(on, 7, rng, 30)
            fixes = events.walk(person, site, start, rng, gap=rng.random() < 0.2)
            yield Walk(start + timedelta(minutes=20), person.resident_id, person.phone[:60], fixes)
        return
    if person.commute != "none" and (on.weekday() < 5 or rng.random() < 0.2):
        length_m = rng.randint(1200, 4000) if person.commute == "bicycle" else rng.randint(3000, 14_000)
        minutes = length_m / (180 if person.commute == "bicycle" else 380)
        for hour in (7.6, 18.1):
            start = _at(on, hour, rng, 35)
            away.append((start, start + timedelta(minutes=minutes + 1)))
            for number, each in enumerate(group):
                begun = start + timedelta(seconds=number * rng.randint(1, 9))
                yield events.ride(each.resident_id, person.commute, begun, minutes, length_m)
            if person.hard == "tunnel" and rng.random() < 0.2:
                # The bag on the way home: the bin's clock is up to two and a half minutes behind the gate's.
                ends = start + timedelta(minutes=minutes)
                at = ends + timedelta(seconds=rng.randint(-150, 200))
                yield events.drop(person.resident_id, "residual", at, site, device=f"kit-bins:{site.code}-b")
    elif rng.random() < 0.04:
        start = _at(on, 15, rng, 120)
        away.append((start, start + timedelta(minutes=15)))
        for each in group:
            yield events.own_trip(each.resident_id, "bicycle", start, 14, rng.randint(1500, 3200), each.phone)


def _at_home(at: datetime, away: list[tuple[datetime, datetime]], rng: random.Random) -> datetime:
    """The moment, or one soon after the way that it lies in."""
    for begins, ends in sorted(away):
        if begins - timedelta(minutes=4) <= at <= ends + timedelta(minutes=4):
            at = ends + timedelta(minutes=rng.randint(5, 15))
    return at.replace(microsecond=0)


def _sorting(
    town: Town, person: Person, group: list[Person], on: date, rng: random.Random, away: list[tuple[datetime, datetime]]
) -> Iterator[Event]:
    if person.sorts == "none" or rng.random() < 0.3:
        return
    site = town.sites[person.site]
    at = _at_home(_at(on, rng.choice((7.5, 19.3)), rng, 45), away, rng)
    if person.hard == "carrier":
        group = [person, *(each for each in _carried_by(town, person) if rng.random() < 0.8)]
    for place, each in enumerate(group):
        moment = at + timedelta(seconds=sum(rng.randint(7, 20) for _ in range(place)))
        yield from _bags(each, person.sorts, moment, site, rng, number=place)


def _bags(person: Person, path: str, at: datetime, site: Site, rng: random.Random, *, number: int) -> Iterator[Event]:
    bags = rng.choice((1, 1, 2)) if rng.random() > 0.01 else 6  # the day of the great clean
    for bag in range(bags):
        moment = at + timedelta(seconds=bag * rng.randint(4, 9))
        category = KINDS_OF_BAGS[(bag + number) % len(KINDS_OF_BAGS)]
        if path == "bin":
            device = f"kit-bins:{site.code}-{'ab'[(person.number + bag) % 2]}"
            yield events.drop(person.resident_id, category, moment, site, device=device)
        elif path == "supervisor":
            yield events.drop(person.resident_id, category, at, site, staff_id=site.supervisor_id)
        elif bag == 0:
            yield events.drop(person.resident_id, category, at, site)


def _carried_by(town: Town, carrier: Person) -> Iterator[Person]:
    # Few carriers: looked up once and kept with the town.
    known = town.carried.get(carrier.number)
    if known is None:
        known = [each for each in town.people if each.hard == "carried" and each.with_number == carrier.number]
        town.carried[carrier.number] = known
    yield from known


def _recycling(
    town: Town, person: Person, on: date, rng: random.Random, away: list[tuple[datetime, datetime]]
) -> Iterator[Event]:
    if rng.random() >= person.recycles:
        return
    at = _at_home(_at(on, rng.choice((9.5, 16)), rng, 60), away, rng)
    heaped = 3.0 if person.hard == "hoarder" else 1.0
    for material, median_g in MATERIALS.items():
        if rng.random() < 0.6:
            weight_g = round(heaped * median_g * math.exp(rng.gauss(0, WEIGHT_SCATTER)))
            yield events.weighing(person.resident_id, material, max(weight_g, 100), at, town.sites[person.site])
