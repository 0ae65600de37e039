"""An invented town of residents with habits, hard cases among them, and the sites that they bring things to. Seeded.

Shares and figures are chosen to be plausible and hard, not measured (R); no resident, place or partner is real.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.partners import registry
from points.partners.models import Binding, Partner
from server.database import new_id
from server.people import residents
from server.people.models import Consent, ConsentPurpose, Household, HouseholdMember, Resident

PARTNER = "kit-bins"  # whose key leaks later
PARTNER_DAY_POINTS = 20_000
PEOPLE_PER_SITE = 60
SITES_MIN = 24  # or one supervisor, whose confirmations wait, would be a sixth of a small town's
# A degree of latitude and of longitude at Tianjin, in metres.
NORTH_M, EAST_M = 111_200.0, 86_300.0
CORNER = (39.10, 117.13)
GRID_M = 450.0

HARD_CASES = {
    "twin": "双胞胎：同行同投，各用各的手机 · twins who go and bring together",
    "couple": "未登记家庭的夫妻，同去投放 · couples without a registered household",
    "shared-phone": "三四户老人共用一部手机 · neighbours who share one phone",
    "tunnel": "地铁与隧道：时钟相差两三分钟 · rides and bins whose clocks differ",
    "carrier": "志愿者替邻居带垃圾 · a volunteer who carries for neighbours",
    "carried": "由志愿者代投的邻居 · the neighbours carried for",
    "hoarder": "攒一个月再卖废品 · who saves a month's recyclables up",
    "hiker": "周末徒步四万步 · who hikes forty thousand steps",
    "tracker": "用轨迹记录步行 · who records walks as tracks",
}


@dataclass(slots=True)
class Person:
    """A resident with habits. `with_number` is the number of whoever they go with."""

    number: int
    resident_id: UUID
    site: int
    phone: str
    steps_mean: float
    commute: str  # bus, metro, bicycle or none
    sorts: str  # bin, supervisor, site-code or none
    recycles: float  # weighings a day
    household_id: UUID | None = None
    hard: str = ""
    with_number: int | None = None
    heading: float = 0.0


@dataclass(slots=True)
class Site:
    """A sorting site with a supervisor and a recycler's scale. Position in degrees."""

    code: str
    latitude: float
    longitude: float
    supervisor_id: UUID


@dataclass(slots=True)
class Town:
    """Everybody and every place."""

    seed: int
    people: list[Person]
    sites: list[Site]
    partner: Partner | None = None
    carried: dict[int, list[Person]] = field(default_factory=dict)  # by the number of whoever carries for them

    def positions(self, _session: Session) -> dict[str, tuple[float, float]]:
        """Where the sites lie, as the detectors ask for it."""
        return {site.code: (site.longitude, site.latitude) for site in self.sites}


def build(seed: int, residents_count: int) -> Town:
    """A town of so many honest residents."""
    rng = random.Random(seed)
    sites = [_site(number, rng) for number in range(max(SITES_MIN, residents_count // PEOPLE_PER_SITE))]
    people = [_person(number, len(sites), rng) for number in range(residents_count)]
    _pair(people, rng, "twin", 0.02)
    _pair(people, rng, "couple", 0.02)
    _share_phones(people, rng)
    _carriers(people, rng)
    for name, share in (("hoarder", 0.02), ("hiker", 0.01), ("tunnel", 0.05)):
        for person in _free(people, rng, max(1, round(share * residents_count))):
            person.hard = name
            if name == "tunnel":
                person.commute = "metro"
            if name == "hoarder":
                person.recycles = 1 / 25
    for person in _free(people, rng, max(2, min(40, residents_count // 100))):
        person.hard, person.commute = "tracker", "none"
    _households(people, rng)
    return Town(seed, people, sites)


def fill(town: Town, session: Session, *, data_key: bytes, now: datetime) -> None:
    """Write the residents, households, consents and the partner."""
    rows = [
        {"resident_id": person.resident_id, "community_code": "120104001001", "created_at": now}
        for person in town.people
    ]
    session.execute(sa.insert(Resident), rows)
    homes: dict[UUID, list[Person]] = {}
    for person in town.people:
        if person.household_id is not None:
            homes.setdefault(person.household_id, []).append(person)
    if homes:
        session.execute(
            sa.insert(Household),
            [{"id": home, "member_count": len(members), "created_at": now} for home, members in homes.items()],
        )
        session.execute(
            sa.insert(HouseholdMember),
            [
                {"resident_id": person.resident_id, "household_id": home, "member_id": new_id(), "joined_at": now}
                for home, members in homes.items()
                for person in members
            ],
        )
    session.add_all(consent_to_tracks(person.resident_id, now) for person in town.people if person.hard == "tracker")
    town.partner = registry.create(
        session,
        PARTNER,
        name_zh="示例回收企业",
        kinds=["bin-drop", "recycling", "ride"],
        day_budget_points=PARTNER_DAY_POINTS,
        key="kit-partner-key-0123456789abcdef0123",
        data_key=data_key,
        now=now,
    )
    session.flush()


def consent_to_tracks(resident_id: UUID, now: datetime) -> Consent:
    """The consent without which no track is taken."""
    version = residents.TEXT_VERSIONS[ConsentPurpose.TRACKS]
    return Consent(
        resident_id=resident_id, id=new_id(), purpose=ConsentPurpose.TRACKS, text_version=version, given_at=now
    )


def binding(resident_id: UUID, member: str, now: datetime) -> Binding:
    """A resident's binding to the partner."""
    return Binding(partner_code=PARTNER, member_id=member, resident_id=resident_id, bound_at=now)


def _site(number: int, rng: random.Random) -> Site:
    row, column = divmod(number, 12)
    latitude = CORNER[0] + (row * GRID_M + rng.uniform(-80, 80)) / NORTH_M
    longitude = CORNER[1] + (column * GRID_M + rng.uniform(-80, 80)) / EAST_M
    return Site(f"kit-site-{number:03}", latitude, longitude, new_id())


def _person(number: int, sites: int, rng: random.Random) -> Person:
    return Person(
        number=number,
        resident_id=new_id(),
        site=rng.randrange(sites),
        phone=f"phone:kit{number:08}",
        steps_mean=rng.lognormvariate(math.log(6500), 0.45),
        commute=rng.choices(("none", "bus", "metro", "bicycle"), (50, 20, 18, 12))[0],
        sorts=rng.choices(("none", "bin", "supervisor", "site-code"), (25, 45, 20, 10))[0],
        recycles=rng.choice((0.0, 1 / 5, 1 / 12)),
        heading=rng.uniform(0, 2 * math.pi),
    )


def _free(people: Sequence[Person], rng: random.Random, count: int) -> list[Person]:
    free = [person for person in people if not person.hard]
    return rng.sample(free, min(count, len(free)))


def _pair(people: Sequence[Person], rng: random.Random, name: str, share: float) -> None:
    chosen = _free(people, rng, 2 * max(1, round(share * len(people) / 2)))
    for one, other in _twos(chosen):
        one.hard = other.hard = name
        other.site, other.commute = one.site, one.commute
        one.sorts = other.sorts = "supervisor" if one.number % 2 else "bin"
        one.with_number, other.with_number = other.number, one.number
        if name == "twin" and one.number % 3:
            one.household_id = other.household_id = new_id()


def _twos(people: Sequence[Person]) -> Iterator[tuple[Person, Person]]:
    return zip(people[::2], people[1::2], strict=False)


def _share_phones(people: Sequence[Person], rng: random.Random) -> None:
    for _ in range(max(1, round(len(people) * 0.03 / 3.5))):
        group = _free(people, rng, rng.choice((3, 4)))
        for person in group:
            person.hard, person.phone = "shared-phone", group[0].phone


def _carriers(people: Sequence[Person], rng: random.Random) -> None:
    for _ in range(max(1, round(len(people) * 0.004))):
        carrier, *carried = _free(people, rng, rng.randint(4, 7))
        carrier.hard, carrier.sorts = "carrier", "supervisor"
        for person in carried:
            person.hard, person.sorts, person.site, person.with_number = (
                "carried",
                "carried",
                carrier.site,
                carrier.number,
            )


def _households(people: Sequence[Person], rng: random.Random) -> None:
    alone = [person for person in people if person.household_id is None and person.hard in {"", "hoarder", "hiker"}]
    rng.shuffle(alone)
    at = 0
    while at < 0.4 * len(alone):
        size = rng.choice((2, 2, 3, 4))
        home = new_id()
        for person in alone[at : at + size]:
            person.household_id = home
            person.site = alone[at].site
        at += size
