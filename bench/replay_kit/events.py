"""What can be sent in: claims as the rooms make them, lines of the feed, walks as fixes of a receiver."""

import itertools
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from bench.replay_kit.town import EAST_M, NORTH_M, PARTNER, Person, Site
from points.earning.claims import Claim
from points.earning.models import Behaviour, Grade
from points.travel.fixes import RawFix

_ids = itertools.count(1)


@dataclass(frozen=True, slots=True)
class FeedLine:
    """A line that a partner's key has signed."""

    received_at: datetime
    line: bytes


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk recorded as a track."""

    received_at: datetime
    resident_id: UUID
    installation: str
    fixes: Sequence[RawFix]


Event = Claim | FeedLine | Walk


def received(event: Event) -> datetime:
    """When the service gets it."""
    return event.received_at


def _id() -> str:
    return f"kit-{next(_ids):09}"


def ride(person_id: UUID, mode: str, start: datetime, minutes: float, distance_m: int) -> Claim:
    """A ride of a partner's record."""
    return Claim(
        resident_id=person_id,
        behaviour=Behaviour(mode),
        mode=mode,
        grade=Grade.PARTNER_SIGNED,
        source=f"kit-{mode}",
        external_id=_id(),
        started_at=start,
        ended_at=start + timedelta(minutes=minutes),
        received_at=start + timedelta(minutes=minutes + 5),
        distance_m=distance_m,
    )


def own_trip(person_id: UUID, mode: str, start: datetime, minutes: float, distance_m: int, phone: str) -> Claim:
    """A trip that a resident wrote down."""
    return Claim(
        resident_id=person_id,
        behaviour=Behaviour(mode),
        mode=mode,
        grade=Grade.SELF_DECLARED,
        source="self",
        external_id=_id(),
        started_at=start,
        ended_at=start + timedelta(minutes=minutes),
        received_at=start + timedelta(minutes=minutes + 2),
        distance_m=distance_m,
        device=phone,
    )


def steps(person_id: UUID, at: datetime, total: int, before: int, phone: str | None = None) -> Claim:
    """A sync of the day's steps."""
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return Claim(
        resident_id=person_id,
        behaviour=Behaviour.WALK,
        mode="steps",
        grade=Grade.SENSOR,
        source="werun",
        external_id=f"{midnight:%Y%m%d}-{total}",
        started_at=midnight,
        ended_at=midnight,
        received_at=at,
        steps=total,
        steps_before=before,
        device=phone,
    )


def drop(
    person_id: UUID, category: str, at: datetime, site: Site, *, device: str | None = None, staff_id: UUID | None = None
) -> Claim:
    """A bag: in a smart bin (`device`), before a supervisor (`staff_id`), or by the site's own code."""
    grade = Grade.PARTNER_SIGNED if device else Grade.STAFF_CONFIRMED if staff_id else Grade.SELF_DECLARED
    source = PARTNER if device else "sorting-supervisor" if staff_id else "sorting-site-code"
    return Claim(
        resident_id=person_id,
        behaviour=Behaviour.SORTING,
        mode=category,
        grade=grade,
        source=source,
        external_id=_id(),
        started_at=at,
        ended_at=at,
        received_at=at + timedelta(minutes=2 if device else 0),
        site=site.code,
        device=device,
        staff_id=staff_id,
    )


def weighing(person_id: UUID, material: str, weight_g: int, at: datetime, site: Site) -> Claim:
    """Recyclables on a recycler's scale."""
    return Claim(
        resident_id=person_id,
        behaviour=Behaviour.RECYCLING,
        mode=material,
        grade=Grade.PARTNER_SIGNED,
        source="kit-scales",
        external_id=_id(),
        started_at=at,
        ended_at=at,
        received_at=at + timedelta(minutes=3),
        weight_g=weight_g,
        site=site.code,
        site_kind="fixed",
        timing="scheduled",
        channel="offline",
        device=f"kit-scales:{site.code}",
    )


def feed_line(received_at: datetime, **members: object) -> FeedLine:
    """A line of the feed."""
    return FeedLine(received_at, json.dumps({"id": _id(), **members}).encode())


def ride_line(received_at: datetime, member: str, start: datetime, minutes: float, distance_m: int) -> FeedLine:
    """A line of the feed about a ride on the metro."""
    return feed_line(
        received_at,
        kind="ride",
        member=member,
        mode="metro",
        started_at=start.isoformat(),
        ended_at=(start + timedelta(minutes=minutes)).isoformat(),
        distance_m=distance_m,
    )


def walk(person: Person, site: Site, start: datetime, rng: random.Random, *, gap: bool = False) -> list[RawFix]:
    """A walk of some ten minutes from a site, a fix every five seconds, with a receiver's slow errors and its noise.

    The pace changes, and lights are waited for; `gap`: a tunnel of a minute and a half without any fix.
    """
    north = east = 0.0
    heading = person.heading
    speed, error_north, error_east = 1.3, rng.gauss(0, 4), rng.gauss(0, 4)
    wait = 0
    fixes = []
    for number in range(rng.randint(110, 150)):
        if number % 22 == 21:
            heading += rng.choice((-1, 0, 1)) * math.pi / 2
            wait = rng.choice((0, 0, 3, 6))
        speed += 0.2 * (1.3 - speed) + rng.gauss(0, 0.12)
        metres = 0.0 if wait > 0 else 5 * min(max(speed, 0.4), 2.0)
        wait -= 1
        north += metres * math.cos(heading)
        east += metres * math.sin(heading)
        error_north = 0.97 * error_north + rng.gauss(0, 1.0)
        error_east = 0.97 * error_east + rng.gauss(0, 1.0)
        if gap and 50 <= number < 68:
            continue
        fixes.append(
            RawFix(
                round((start + timedelta(seconds=5 * number)).timestamp() * 1000),
                site.latitude + (north + error_north + rng.gauss(0, 0.5)) / NORTH_M,
                site.longitude + (east + error_east + rng.gauss(0, 0.5)) / EAST_M,
                8.0,
                False,
            )
        )
    return fixes


def copied(fixes: Sequence[RawFix], later: timedelta, rng: random.Random, *, noise_m: float) -> list[RawFix]:
    """Somebody's track again, moved in time, with a little noise on top."""
    shift = round(later.total_seconds() * 1000)
    return [
        RawFix(
            fix.at_ms + shift,
            fix.latitude + rng.gauss(0, noise_m) / NORTH_M,
            fix.longitude + rng.gauss(0, noise_m) / EAST_M,
            fix.accuracy_m,
            False,
        )
        for fix in fixes
    ]
