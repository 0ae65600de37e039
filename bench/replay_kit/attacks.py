"""Eight families of attacks as they are known, each with many accounts, and five of them again by careful people.

A family takes its accounts from nobody: they are residents of their own, who do nothing else. `bound` is what its
accounts can be paid at most in so many days, by the caps, ceilings and bounds of the rules in force and nothing else.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from bench.replay_kit import events
from bench.replay_kit.events import Event, FeedLine, Walk
from bench.replay_kit.town import PARTNER_DAY_POINTS, Person, Town
from points.earning.pricing import Tariff
from server.clock import day_start
from server.database import new_id

Days = Callable[["Family", Town, date, random.Random], Iterator[Event]]
WEEK = 7
SCALES_IN_IT = 6


@dataclass(slots=True)
class Family:
    """A family of attackers: its accounts, what they send in about a day, and the cap groups that they milk."""

    code: str
    zh: str
    en: str
    day: Days
    cap_groups: tuple[str, ...]
    careful: bool = False
    accounts_a_phone: int = 1  # 0: all on one
    shared: Mapping[str, int] = field(default_factory=dict)  # bounds that all its accounts share, and how many of each
    grade: str = "partner-signed"
    accounts: list[Person] = field(default_factory=list)
    seen: list[Sequence[object]] = field(default_factory=list)  # honest tracks that were got hold of

    def bound(self, tariff: Tariff, days: int) -> int:
        """The most that the rules alone let its accounts be paid, in points."""
        caps = {rate.cap_group: rate for rate in tariff.rates.values()}
        weeks = -(-(days + WEEK - 1) // WEEK)  # a span of days can touch one week more
        each = sum(
            min(days * caps[group].day_cap_points, weeks * caps[group].week_cap_points) for group in self.cap_groups
        )
        ceiling = tariff.ceilings.get(self.grade)
        if ceiling is not None:
            each = min(each, weeks * ceiling)
        phones = len({person.phone for person in self.accounts})
        shared = {**self.shared, "phone": phones} if phones < len(self.accounts) else self.shared
        limits = {"partner": PARTNER_DAY_POINTS, **tariff.bounds}
        return min(each * len(self.accounts), *(days * count * limits[kind] for kind, count in shared.items()), 10**9)


def families(town: Town, accounts: int, rng: random.Random) -> list[Family]:
    """All families, each with so many accounts."""
    made = [
        Family("fake-steps", "改步数软件", "typed step counts", _fake_steps, ("walk",), grade="sensor"),
        Family(
            "relayed-code", "投放点码转发到群", "a site's code passed round", _relayed, ("sorting-self",),
            grade="self-declared",
        ),
        Family(
            "account-farm", "一机多号", "many accounts on one phone", _farm, ("walk", "bicycle-self"),
            accounts_a_phone=0, grade="self-declared",
        ),
        Family("copied-tracks", "复制他人轨迹", "copies of others' tracks", _copied, ("walk",), grade="sensor"),
        Family(
            "inflated-weights", "虚增称重", "weights blown up", _inflated, ("recycling",),
            shared={"device": SCALES_IN_IT},
        ),
        Family(
            "staff-collusion", "督导员串通", "a colluding supervisor", _collusion, ("sorting",), shared={"staff": 1}
        ),
        Family(
            "leaked-key", "合作方密钥泄露", "a leaked partner key", _leaked, ("sorting", "recycling", "transit"),
            shared={"partner": 1},
        ),
        Family("split-trips", "拆分骑行", "rides cut into pieces", _split, ("bicycle",)),
        Family(
            "careful-steps", "改成常见步数", "plausible step counts", _plausible_steps, ("walk",), careful=True,
            grade="sensor",
        ),
        Family(
            "careful-farm", "一机四号", "four accounts a phone", _farm, ("walk", "bicycle-self"), careful=True,
            accounts_a_phone=4, grade="self-declared",
        ),
        Family("careful-weights", "虚增到上限为止", "weights to the cap", _to_the_cap, ("recycling",), careful=True),
        Family(
            "careful-collusion", "慢速串通", "collusion, slowly", _slow_collusion, ("sorting",), careful=True,
            shared={"staff": 1},
        ),
        Family(
            "careful-key", "密钥泄露，分散", "a leaked key, scattered", _scattered, ("sorting", "transit"),
            careful=True, shared={"partner": 1},
        ),
        Family("careful-splits", "拆成八段", "rides cut into eight", _eight, ("bicycle",), careful=True),
    ]  # fmt: skip
    for family in made:
        # A track costs a hundred times what a claim does, and one copy is as good as another.
        for number in range(max(6, accounts // 4) if family.code == "copied-tracks" else accounts):
            family.accounts.append(_account(town, family, number, rng))
    return made


def _account(town: Town, family: Family, number: int, rng: random.Random) -> Person:
    phone = f"phone:{family.code}-{number // family.accounts_a_phone if family.accounts_a_phone else 'all'}"
    return Person(
        number=number,
        resident_id=new_id(),
        site=rng.randrange(len(town.sites)),
        phone=phone,
        steps_mean=0,
        commute="none",
        sorts="none",
        recycles=0,
        hard="tracker" if family.code == "copied-tracks" else "",
    )


def _moment(on: date, hour: float) -> datetime:
    return day_start(on) + timedelta(hours=hour)


def _fake_steps(family: Family, _town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    # What such programs offer, and people type who want to lead the list of their friends.
    for person in family.accounts:
        total = rng.choices((25_000, 30_000, 36_000, 50_000, 66_666, 88_888, 98_800), (3, 4, 3, 3, 1, 3, 3))[0]
        yield events.steps(person.resident_id, _moment(on, rng.uniform(6.5, 9)), total, 0, person.phone)


def _plausible_steps(family: Family, _town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    for person in family.accounts:
        total = rng.randint(9_000, 14_000)
        yield events.steps(person.resident_id, _moment(on, rng.uniform(19, 22)), total, 0, person.phone)


def _relayed(family: Family, town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    # One stands at the site and sends the code to the group; the others type it in before it changes twice.
    start = _moment(on, 19 + rng.random())
    for person in family.accounts:
        at = (start + timedelta(seconds=rng.uniform(3, 55))).replace(microsecond=0)
        yield events.drop(person.resident_id, "kitchen", at, town.sites[0])


def _farm(family: Family, _town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    start = _moment(on, 8)
    for number, person in enumerate(family.accounts):
        begun = start + timedelta(minutes=3 * number)
        yield events.own_trip(person.resident_id, "bicycle", begun, 15, rng.randint(2500, 3500), person.phone)
        later = begun + timedelta(hours=5)
        yield events.own_trip(person.resident_id, "walk", later, 30, rng.randint(1800, 2400), person.phone)


def _copied(family: Family, _town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    # From earlier days, moved to this one, with two or three metres of noise.
    if not family.seen:
        return
    for person in family.accounts:
        fixes = rng.choice(family.seen)
        begun = datetime.fromtimestamp(fixes[0].at_ms / 1000, day_start(on).tzinfo)  # type: ignore[attr-defined]
        start = _moment(on, rng.uniform(8, 19))
        copy = events.copied(fixes, start - begun, rng, noise_m=rng.uniform(0, 3))  # type: ignore[arg-type]
        yield Walk(start + timedelta(minutes=25), person.resident_id, person.phone, copy)


def _inflated(family: Family, town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    # At a few scales whose keepers are in it: whatever a friend brings is weighed thirty times as heavy.
    for number, person in enumerate(family.accounts):
        site = town.sites[number % SCALES_IN_IT]
        for hour, material, grams in ((10, "aluminium_can", 15_000), (16, "pet", 25_000)):
            at = _moment(on, hour) + timedelta(minutes=4 * number, seconds=rng.randrange(60))
            yield events.weighing(person.resident_id, material, round(grams * rng.uniform(0.7, 1.4)), at, site)


def _to_the_cap(family: Family, town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    for person in family.accounts:
        if on.weekday() < 3:  # three days a week reach the week's cap
            at = _moment(on, rng.uniform(9, 18)).replace(microsecond=0)
            grams = rng.randint(4700, 5200)
            yield events.weighing(person.resident_id, "aluminium_can", grams, at, town.sites[person.site])


def _collusion(family: Family, town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    # After the last honest bag of the evening the cards and codes of friends are scanned one after another.
    site = town.sites[2]
    at = _moment(on, 21.5)
    for person in family.accounts:
        for category in ("hazardous", "kitchen", "recyclable", "residual"):
            at += timedelta(seconds=rng.randint(3, 6))
            yield events.drop(person.resident_id, category, at, site, staff_id=site.supervisor_id)


def _slow_collusion(family: Family, town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    site = town.sites[3]
    for person in family.accounts:
        at = _moment(on, rng.uniform(18.5, 20.5)).replace(microsecond=0)
        for category in ("kitchen", "recyclable", "hazardous"):
            yield events.drop(person.resident_id, category, at, site, staff_id=site.supervisor_id)


def _leaked(family: Family, _town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    # A script with the key: everything for everybody at the moment when it runs, in one batch.
    at = (_moment(on, 11) + timedelta(seconds=rng.randrange(3000))).isoformat()
    received_at = _moment(on, 12)
    for person in family.accounts:
        member = f"{family.code}-{person.number}"
        for number in range(5):
            start = _moment(on, 6 + number * 0.9 + rng.random() * 0.1)
            yield events.ride_line(received_at, member, start, 30, rng.randint(6000, 12_000))
        for category in ("kitchen", "recyclable", "hazardous"):
            yield _line(received_at, kind="bin-drop", member=member, category=category, at=at)
        yield _line(
            received_at,
            kind="recycling",
            member=member,
            material="copper",
            weight_g=5000,
            at=at,
            site_kind="fixed",
            timing="scheduled",
            channel="offline",
        )


def _scattered(family: Family, town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    # What such a person would have done anyway, every day, at plausible times and places.
    for person in family.accounts:
        member = f"{family.code}-{person.number}"
        received_at = _moment(on, 21.8)
        for hour in (7.2, 12.3, 18.1):
            start = _moment(on, hour + rng.uniform(-0.4, 0.4)).replace(microsecond=0)
            yield events.ride_line(received_at, member, start, 22, rng.randint(5000, 9000))
        at = _moment(on, rng.uniform(19.3, 21)).replace(microsecond=0)
        for category in ("kitchen", "recyclable", "hazardous"):
            at += timedelta(seconds=rng.randint(5, 30))
            yield events.feed_line(
                received_at,
                kind="bin-drop",
                member=member,
                category=category,
                at=at.isoformat(),
                site=town.sites[person.site].code,
            )


def _line(received_at: datetime, **members: object) -> FeedLine:
    return events.feed_line(received_at, site="leaked-site", **members)


def _pieces(family: Family, on: date, rng: random.Random, count: int) -> Iterator[Event]:
    for person in family.accounts:
        begun = _moment(on, rng.uniform(7, 9)).replace(microsecond=0)
        for _ in range(count):
            yield events.ride(person.resident_id, "bicycle", begun, 2, rng.randint(380, 520))
            begun += timedelta(minutes=2, seconds=rng.randint(15, 40))


def _split(family: Family, _town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    yield from _pieces(family, on, rng, 20)


def _eight(family: Family, _town: Town, on: date, rng: random.Random) -> Iterator[Event]:
    yield from _pieces(family, on, rng, 8)
