"""Rides, drops and weighings mixed, as a district's partners push them: every bound of an event is counted.

Half are rides, a quarter drops in smart bins, a quarter weighings; drops and weighings name the site, the device and
its own count. `bench.stage` knows the sites, and puts half of the residents into households.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bench.stage import DEVICES_PER_SITE, SITES, member_id, site_name, six_days_ago
from bench.trips import DAYS, Trip, Trips
from server.clock import SHANGHAI_FIXED

CATEGORIES = ("recyclable", "kitchen", "residual", "hazardous")
# Materials, and the grams that people bring of them at a time: more, and households would reach their bounds each day.
MATERIALS = (("corrugated", 2_000), ("pet", 400), ("aluminium_can", 150))
BAG_G = 3_000
COLLECTED = '"site_kind":"fixed","timing":"scheduled","channel":"online"'
ACT_SECONDS = DAYS * 86_400


@dataclass(frozen=True, slots=True)
class Act:
    """A drop, or a weighing, at a device of a site."""

    number: int
    resident: int
    site: int
    device: int
    sequence: int
    percent: int  # of what is usual to bring
    at: datetime

    def feed_line(self) -> bytes:
        """The line that the partner pushes."""
        if self.number % 2:
            usual_g = BAG_G
            what = f'"kind":"bin-drop","category":"{CATEGORIES[self.number // 2 % len(CATEGORIES)]}"'
        else:
            material, usual_g = MATERIALS[self.number // 2 % len(MATERIALS)]
            what = f'"kind":"recycling","material":"{material}",{COLLECTED}'
        return (
            f'{{{what},"id":"act-{self.number:08}","member":"{member_id(self.resident)}","at":"{self.at.isoformat()}",'
            f'"site":"{site_name(self.site)}","weight_g":{usual_g * self.percent // 100},'
            f'"device":"device-{self.site}-{self.device}","sequence":{self.sequence}}}'
        ).encode()


class Acts:
    """An endless supply of rides and acts of the same residents, by turns."""

    def __init__(self, residents: Sequence[int], seed: int) -> None:
        self._rides = Trips(residents, seed)
        self._residents = residents
        self._random = random.Random(seed)
        self._number = seed * 10_000_000
        self._counts: dict[tuple[int, int], int] = {}
        self._first = six_days_ago().astimezone(SHANGHAI_FIXED)

    def take(self, count: int) -> list[Trip | Act]:
        """So many."""
        return [next(self._rides) if number % 2 else self._act() for number in range(count)]

    def _act(self) -> Act:
        self._number += 1
        place = self._random.randrange(SITES), self._random.randrange(DEVICES_PER_SITE)
        self._counts[place] = self._counts.get(place, 0) + 1
        return Act(
            self._number,
            self._random.choice(self._residents),
            *place,
            self._counts[place],
            self._random.randrange(50, 200),
            self._first + timedelta(seconds=self._random.randrange(ACT_SECONDS)),
        )
