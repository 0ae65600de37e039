"""What tests of rule proposals are built from: texts of rules and methods, and a month of recorded claims."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from points_builders import claim, steps_claim
from sqlalchemy.orm import Session

from points.earning.award import award
from points.earning.claims import Award, Claim
from points.earning.models import Grade
from server.clock import SHANGHAI

# The 30 days before are 23 November to 22 December: all under the second edition, with grades and bounds.
TODAY = datetime(2026, 12, 23, 12, 0, tzinfo=SHANGHAI)

RULES = """
id = "{id}"
title_zh = "试行规则"
title_en = "Rules on trial"
source = "test"
valid_from = {valid_from}
late_days_max = 7
expiry_years = 1
travel_method = "{travel_method}"
recycling_method = "warm-v16"

[[rules]]
behaviour = "bus"
modes = ["bus"]
grade = "partner-signed"
points_per_act = {bus_points}
quantity_min = 200
quantity_max = 80000
speed_max_kmh = 100
cap_group = "transit"
day_cap_points = 40
week_cap_points = 200
"""

METHOD = """
id = "{id}"
kind = "travel"
title_zh = "试行方法"
title_en = "A method on trial"
source = "test"
confidence = "R"
valid_from = {valid_from}
default = {default}

[[factors]]
key = "bus"
saved = "100 g/km"
source = "test"
confidence = "R"
"""


def rules_text(
    id: str = "trial-1",
    *,
    valid_from: str = "2027-01-01",
    bus_points: int = 16,
    travel_method: str = "published-conservative",
) -> str:
    """Rules that reward bus rides alone, twice as much as before."""
    return RULES.format(id=id, valid_from=valid_from, bus_points=bus_points, travel_method=travel_method)


def method_text(id: str = "trial-method", *, valid_from: str = "2027-01-01", default: str = "false") -> str:
    """A method in which a kilometre by bus saves 100 g and nothing else saves anything."""
    return METHOD.format(id=id, valid_from=valid_from, default=default)


def pay(session: Session, *claims: Claim) -> list[Award]:
    """Award the claims at the instant at which they were received."""
    return [award(session, [each], now=each.received_at)[0] for each in claims]


def at_home(day: int, hour: int, *, month: int = 12, minute: int = 0) -> datetime:
    """An instant of the last weeks of 2026 in Shanghai."""
    return datetime(2026, month, day, hour, minute, tzinfo=SHANGHAI)


def a_month_of_claims(residents: Sequence[UUID], *, days: int, seed: int) -> list[Claim]:
    """Everything that can happen to a claim, in the order of its arrival.

    Rides that overlap, caps of day and week, a phone shared by all, steps in several syncs, what comes late and too
    late, what is too fast, too short or rewarded by no rule.
    """
    chance = random.Random(seed)
    first = TODAY.replace(hour=0) - timedelta(days=days)
    made = []
    for number in range(days * 7):
        person = chance.choice(residents)
        start = first + timedelta(days=number // 7, hours=6, minutes=chance.randrange(14 * 60))
        late = chance.choice((0, 0, 0, 0, 1, 3, 9))
        kind = chance.choice(("bus", "bus", "metro", "bicycle", "self", "drop", "fast", "unknown", "short"))
        values = {
            "bus": {"behaviour": "bus"},
            "metro": {"behaviour": "metro", "device": "phone:shared"},
            "bicycle": {"behaviour": "bicycle", "distance_m": chance.randrange(300, 9000), "minutes": 40},
            "self": {"behaviour": "walk", "mode": "walk", "grade": Grade.SELF_DECLARED, "minutes": 90},
            "drop": {"behaviour": "sorting", "mode": "kitchen", "source": "bins"},
            "fast": {"behaviour": "bus", "distance_m": 79_000, "minutes": 10},
            "unknown": {"behaviour": "bus", "mode": "trolley"},
            "short": {"behaviour": "bus", "distance_m": 150},
        }[kind]
        one = claim(person, start=start, id=f"n{number}", **values)  # type: ignore[arg-type]
        made.append(received(one, min(start + timedelta(days=late, hours=2), TODAY)))
    # One phone pays for six people in a day, and one person declares all day, for a week.
    for hour in range(6, 12):
        for minute, person in enumerate(residents):
            start = first + timedelta(days=9, hours=hour, minutes=minute)
            ride = claim(person, "metro", start=start, id=f"p{hour}-{minute}", device="phone:shared")
            made.append(received(ride, start + timedelta(hours=1)))
    for day in range(7):
        for hour, mode in enumerate(("walk", "bicycle", "e-bike", "bus") * 2, 6):
            start = first + timedelta(days=14 + day, hours=hour, minutes=31)
            values = {"grade": Grade.SELF_DECLARED, "minutes": 50, "distance_m": 7000}
            trip = claim(residents[-1], mode, start=start, id=f"s{day}-{hour}", **values)  # type: ignore[arg-type]
            made.append(received(trip, start + timedelta(hours=1)))
    for day in range(days):
        midnight = first + timedelta(days=day)
        for before, steps, hour in ((0, 4321, 10), (4321, 9000, 20)):
            sync = steps_claim(residents[0], steps, before, day=midnight)
            made.append(received(sync, midnight + timedelta(hours=hour)))
    return sorted(made, key=lambda each: each.received_at)


def received(made: Claim, at: datetime) -> Claim:
    """The same claim, as it came in at another instant."""
    members = {name: getattr(made, name) for name in made.__struct_fields__}
    return Claim(**{**members, "received_at": at})
