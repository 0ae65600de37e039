"""Made-up rides that do not overlap, so that every one is awarded and the whole of the award path is paid for."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bench.stage import member_id, six_days_ago
from server.clock import SHANGHAI_FIXED

DAYS = 6
SLOT = timedelta(minutes=40)
LASTS = timedelta(minutes=20)
SLOTS_PER_DAY = 36
MODES = (("metro", 9_000), ("bus", 4_500), ("bicycle", 2_000))  # metres


@dataclass(frozen=True, slots=True)
class Trip:
    """One ride of the resident of this number."""

    number: int
    resident: int
    mode: str
    distance_m: int
    started_at: datetime

    @property
    def ended_at(self) -> datetime:
        """Twenty minutes later."""
        return self.started_at + LASTS

    def feed_line(self) -> bytes:
        """The line that the partner pushes."""
        return (
            f'{{"kind":"ride","id":"ride-{self.number:08}","member":"{member_id(self.resident)}","mode":"{self.mode}",'
            f'"started_at":"{self.started_at.isoformat()}","ended_at":"{self.ended_at.isoformat()}",'
            f'"distance_m":{self.distance_m}}}'
        ).encode()

    def own_record(self) -> bytes:
        """The body of the same ride recorded by hand."""
        return (
            f'{{"mode":"bicycle","started_at":"{self.started_at.isoformat()}","ended_at":"{self.ended_at.isoformat()}",'
            f'"distance_m":2000}}'
        ).encode()


class Trips:
    """An endless supply: random residents, each with slots of their own that are never given out twice.

    A ride takes the first half of its slot, or the second: so two supplies can have the same residents.
    """

    def __init__(self, residents: Sequence[int], seed: int, *, second_half: bool = False) -> None:
        self._residents = residents
        self._random = random.Random(seed)
        self._used: dict[int, int] = {}
        self._number = seed * 10_000_000
        self._first = six_days_ago().astimezone(SHANGHAI_FIXED) + (LASTS if second_half else timedelta())

    def __iter__(self) -> Iterator[Trip]:
        return self

    def __next__(self) -> Trip:
        """The next ride."""
        while True:
            resident = self._random.choice(self._residents)
            used = self._used.get(resident, 0)
            if used < DAYS * SLOTS_PER_DAY:
                break
        self._used[resident] = used + 1
        self._number += 1
        mode, distance_m = self._random.choice(MODES)
        # A new day first, then a later slot, as people's rides are spread over the week.
        started_at = self._first + timedelta(days=used % DAYS) + (used // DAYS) * SLOT
        return Trip(self._number, resident, mode, distance_m, started_at)

    def take(self, count: int) -> list[Trip]:
        """So many rides."""
        return [next(self) for _ in range(count)]
