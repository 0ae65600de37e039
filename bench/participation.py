"""The district's page of participation at 890,000 residents, and what keeping its counts costs.

Twice: after one day's activities, and after seven; the page must cost the same. Runs alone with
`python -m bench.participation`, or as the last part of `make bench`, for it fills the stage's database.
"""

import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import psycopg

from bench.figures import latency_words, percentile_ms
from bench.load import Run, drive, request
from bench.running import end_tidily_when_terminated
from bench.stage import RESIDENTS, Stage, stage
from campaigns.statistics.jobs import count_everything_due
from points.statistics.marks import FIRST_DAY
from server.access import Role
from server.clock import business_day, now
from server.database import new_id, transaction
from server.people import sessions
from server.people.models import Staff, StaffLink

ALL_RESIDENTS = 890_000
# A third of all residents records something on any day.
ACTIVE = 3
# Readers enough to keep each below the everyday limit of 600 requests a minute.
READERS = 40
PAGE = "/api/v1/report/places?grain=year&limit=200"
DISTRICT = "120104"
PLACES = 171 + 12 + 1


@dataclass(slots=True)
class Result:
    """What each round found."""

    lines: list[str] = field(default_factory=list)
    medians_ms: list[float] = field(default_factory=list)

    def words(self) -> list[str]:
        """The result in words."""
        growth = self.medians_ms[-1] / self.medians_ms[0]
        return [*self.lines, f"记录增至多倍后的页面耗时比 page after more activities : before: {growth:.2f}"]


def measure(on: Stage, seconds: float, *, residents: int = ALL_RESIDENTS, days: Sequence[int] = (1, 7)) -> Result:
    """Fill, count and read, for each number of days with activities."""
    result = Result()
    with psycopg.connect(on.postgres.url, autocommit=True) as connection:
        _add_residents(connection, residents - RESIDENTS)
        tokens = readers(on)
        filled = 0
        for until in days:
            for day in range(filled, until):
                _add_day(connection, day)
            filled = until
            connection.execute("VACUUM ANALYZE")
            rows = connection.execute("SELECT count(*) FROM resident_day").fetchone()
            first_s = _count(on)
            # What every later count of the day finds: the same residents again, and some new ones.
            connection.execute("UPDATE community_day SET points = points WHERE day = %s", (business_day(now()),))
            again_s = _count(on)
            page = _read(on, tokens, seconds)
            result.medians_ms.append(percentile_ms(page.latencies_s, 0.5))
            result.lines += [
                f"{residents:,} 人 residents, {rows[0] if rows else 0:,} 条居民日记录 resident days:",
                f"  首次统计 first count {first_s:.1f} s, 当天再统计 today again {again_s:.1f} s",
                f"  全区页面 page of {PLACES} places: {latency_words(page.latencies_s)}",
            ]
    return result


def _add_residents(connection: psycopg.Connection, count: int) -> None:
    connection.execute(
        """INSERT INTO resident (resident_id, community_code, created_at)
           SELECT gen_random_uuid(), home.code, now() - interval '1 year'
           FROM generate_series(1, %s) AS number
           JOIN (SELECT code, row_number() OVER (ORDER BY code) - 1 AS position
                 FROM division WHERE level = 'community') home
               ON home.position = (number::bigint * 7919) %% 171""",
        (max(0, count),),
    )


def _add_day(connection: psycopg.Connection, days_ago: int) -> None:
    """A third of all residents' activities, on a day so long ago, counted as the award counts them."""
    day = business_day(now()) - timedelta(days=days_ago)
    with connection.transaction():
        connection.execute(
            """INSERT INTO resident_day
               SELECT resident_id, %(day)s, (ARRAY['walk', 'bus', 'sorting'])[1 + abs(chosen) %% 3], community_code,
                      1, 1000, 0, CASE WHEN abs(chosen) %% 3 = 2 THEN 0 ELSE 26900 END, 3
               FROM (SELECT resident_id, community_code, hashtext(concat(resident_id, %(day)s)) / 2 AS chosen
                     FROM resident WHERE community_code IS NOT NULL) one
               WHERE abs(chosen) / 3 %% %(active)s = 0
               ON CONFLICT DO NOTHING""",
            {"day": day, "active": ACTIVE},
        )
        connection.execute(
            """INSERT INTO community_day
               SELECT community_code, day, behaviour, behaviour,
                      CASE WHEN behaviour = 'sorting' THEN '' ELSE 'published-conservative' END,
                      sum(activities), sum(distance_m), 0, sum(saved_co2e_mg), sum(points)
               FROM resident_day WHERE day = %s GROUP BY 1, 2, 3 ON CONFLICT DO NOTHING""",
            (day,),
        )


def readers(on: Stage) -> list[str]:
    """Access tokens of members of the district's staff, who may decide about residents' records as well."""
    tokens = []
    with on.app.app_context(), transaction() as session:
        for _ in range(READERS):
            member = Staff(
                id=new_id(),
                name=f"bench-{secrets.token_hex(6)}",
                password_hash="unusable",  # noqa: S106 -- nobody signs in with it
                role=Role.DISTRICT,
                division=DISTRICT,
                created_at=now(),
            )
            session.add(member)
            session.flush()
            session.add(StaffLink(staff_id=member.id, statement="bench", made_at=now()))
            tokens.append(sessions.begin(session, member.id, is_resident=False, now=now()).access_token)
    return tokens


def _count(on: Stage) -> float:
    """The counting job, as a worker runs it; its seconds."""
    began = time.perf_counter()
    with on.app.app_context():
        count_everything_due(FIRST_DAY)
    return time.perf_counter() - began


def read_in_turn(on: Stage, tokens: Sequence[str], path: str, seconds: float) -> Run:
    """One reader after the other asks for the same page."""
    requests = [request("GET", path, {"Authorization": f"Bearer {token}"}) for token in tokens]
    drive(on.server, [requests])  # each worker's first answer prepares its statements
    return drive(on.server, [requests * 14], seconds=seconds)


def _read(on: Stage, tokens: Sequence[str], seconds: float) -> Run:
    run = read_in_turn(on, tokens, PAGE, seconds)
    items = json.loads(run.answers[0][1])["items"]
    if len(items) != PLACES or not items[0]["figures"]["participants"]:
        raise AssertionError(f"the page holds {len(items)} places")
    return run


def main() -> int:
    """Measure this part alone."""
    end_tidily_when_terminated()
    with stage() as on:
        for line in measure(on, 5.0).words():
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
