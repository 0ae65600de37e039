"""The district's activity reports at a million and at a hundred million activities, and how fast the counts are made.

A year of activities of 890,000 residents is loaded in bulk, the counts are built by the rebuild command's own function,
and every report is read over HTTP: its time must not grow with the activities. Runs alone with
`python -m bench.reports --activities 1000000 100000000`: one size is loaded after the other, then all are read in turns
and so under the same load. A hundred million need 40 GB of disk and two hours; `--count-seconds 1` counts the newest
month alone, with its quarter and year. With `--data FOLDER` what is loaded and counted stays, and a second run reads.

In bulk means: into unlogged tables, without triggers and without the unique and exclusion constraints of `activity` and
`transfer`, which no report reads; the primary keys are built after the rows, the block range indexes with them. Beyond
LEAN_ACTIVITIES the primary keys are left off too, for want of disk; the counts read neither. `resident_day`, which no
report of activity reads, stays empty.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import psycopg
import redis

from bench.figures import latency_words, percentile_ms
from bench.load import drive, request
from bench.participation import ALL_RESIDENTS, DISTRICT, PLACES, readers
from bench.running import end_tidily_when_terminated
from bench.stage import RESIDENTS, Stage, stage
from points.statistics import counting, verification
from points.statistics.jobs import count_everything_due
from points.statistics.marks import FIRST_DAY
from points.statistics.periods import CalendarPeriod, Grain, periods_with
from server.clock import business_day, now
from server.database import run_transaction, transaction

DAYS = 365
LEAN_ACTIVITIES = 30_000_000
LOADERS = 2
VERIFIED_ACTIVITIES_MAX = 2_000_000
STREET, COMMUNITY = "120104001", "120104001001"

REPORTS = {
    "全部区划, 月 all places of a month": "places?grain=month&limit=200&on={day}",
    "全部区划, 年 all places of a year": "places?grain=year&limit=200&on={day}",
    "一种材料 one material everywhere": "places?grain=year&limit=200&on={day}&behaviour=recycling&mode=paper",
    "社区, 日 communities of a day": "places?grain=day&limit=50&level=community&on={day}",
    "全区各行为, 年 behaviours of the district": "behaviours?grain=year&on={day}",
    "社区各行为, 周 behaviours of a community": f"behaviours?grain=week&on={{day}}&place={COMMUNITY}",
    "13个月 series of months": "series?grain=month&periods=13&on={day}",
    "60日 series of days, one mode": f"series?grain=day&periods=60&behaviour=bus&mode=bus&place={STREET}&on={{day}}",
    "分类准确率 sorting accuracy": "sorting-accuracy?grain=quarter&limit=200&on={day}",
}

# A resident has three favourites among these, and each of them now and then.
_KINDS = (
    ("walk", "walk"),
    ("sorting", "kitchen"),
    ("bus", "bus"),
    ("recycling", "paper"),
    ("metro", "metro"),
    ("sorting", "recyclable"),
    ("bicycle", "bicycle"),
    ("recycling", "pet"),
    ("e-bike", "e-bike"),
    ("sorting", "residual"),
    ("walk", "steps"),
    ("recycling", "aluminium_can"),
)

# Each resident with each of three favourites, in a random order: a day is the next stretch of these, so that everybody
# is active about as often, and a day costs its rows and no drawing of lots.
_KIND_VALUES = ", ".join(f"({n}, '{behaviour}', '{mode}')" for n, (behaviour, mode) in enumerate(_KINDS))
_TEMPLATE = f"""
CREATE UNLOGGED TABLE bench_act AS
SELECT row_number() OVER (ORDER BY chance) - 1 AS n, resident_id, community_code, behaviour, mode,
       CASE WHEN behaviour IN ('bus', 'metro', 'bicycle') THEN 'bench' WHEN is_waste THEN 'bench-1' ELSE 'self'
            END AS source,
       CASE WHEN is_waste THEN concat('site-', right(community_code, 6), '-', chance / 37 % 12) END AS site,
       CASE WHEN behaviour = 'recycling' THEN 'warm-v16' WHEN NOT is_waste THEN 'published-conservative'
            END AS method_id,
       CASE WHEN NOT is_waste THEN amount END AS distance_m, CASE WHEN is_waste THEN amount END AS weight_g,
       CASE WHEN behaviour IN ('sorting', 'walk') THEN 0 ELSE amount * 40 END AS saved_co2e_mg,
       (chance / 29 % 9 + 1)::int AS points, chance / 31 % 100 = 0 AS is_reversed,
       chance % 80000 * interval '1 second' AS after
FROM (
    SELECT p.resident_id, p.community_code, k.behaviour, k.mode, k.behaviour IN ('sorting', 'recycling') AS is_waste,
           chance, (chance / 17 % 9000 + 300)::int AS amount
    FROM (SELECT row_number() OVER (ORDER BY resident_id) AS number, resident_id, community_code FROM resident) p
    CROSS JOIN generate_series(0, 2) AS favourite
    JOIN (VALUES {_KIND_VALUES}) AS k (n, behaviour, mode) ON k.n = (p.number * 7 + favourite * 5) % {len(_KINDS)}
    CROSS JOIN LATERAL
        (SELECT hashtextextended(concat(number, '|', favourite), 0) & 9007199254740991 AS chance) drawn
) acts;
ALTER TABLE bench_act ADD PRIMARY KEY (n);
ANALYZE bench_act
"""  # noqa: S608 -- composed of constants of this module

_LOAD_DAY = """
WITH made AS (
    INSERT INTO activity (resident_id, id, behaviour, mode, grade, source, external_id, started_at, ended_at,
        received_at, business_day, community_code, distance_m, weight_g, site, outcome, reason, priced_points,
        saved_co2e_mg, method_id, rule_version_id)
    SELECT resident_id, uuidv7(), behaviour, mode, 'partner-signed', source, to_hex(n), at, at, at,
           cast(%(day)s AS date), community_code, distance_m, weight_g, site,
           CASE WHEN is_reversed THEN 'reversed' ELSE 'awarded' END, CASE WHEN is_reversed THEN 'revoked' END,
           points, saved_co2e_mg, method_id, 'nankai-2026-1'
    FROM bench_act CROSS JOIN LATERAL (SELECT cast(%(start)s AS timestamptz) + after AS at) started
    WHERE n >= cast(%(first)s AS bigint) AND n < cast(%(until)s AS bigint)
    RETURNING resident_id, id, business_day, community_code, behaviour, mode, method_id, distance_m, weight_g,
              saved_co2e_mg, outcome, priced_points, started_at
), paid AS (
    INSERT INTO transfer (resident_id, id, account_id, kind, points, expires_on, occurred_at, recorded_at)
    SELECT resident_id, id, 1, 'award', priced_points, '2099-12-31', started_at, started_at FROM made
)
INSERT INTO community_day AS kept (community_code, day, behaviour, mode, method_id, activities, distance_m, weight_g,
                                   saved_co2e_mg, points)
SELECT community_code, business_day, behaviour, mode, coalesce(method_id, ''), count(*), coalesce(sum(distance_m), 0),
       coalesce(sum(weight_g), 0), sum(saved_co2e_mg), sum(priced_points)
FROM made WHERE outcome = 'awarded' GROUP BY 1, 2, 3, 4, 5
ON CONFLICT (community_code, day, behaviour, mode, method_id) DO UPDATE SET
    activities = kept.activities + EXCLUDED.activities, distance_m = kept.distance_m + EXCLUDED.distance_m,
    weight_g = kept.weight_g + EXCLUDED.weight_g, saved_co2e_mg = kept.saved_co2e_mg + EXCLUDED.saved_co2e_mg,
    points = kept.points + EXCLUDED.points
"""

_BARE = (
    "ALTER TABLE activity DROP CONSTRAINT IF EXISTS activity_external_key",
    "ALTER TABLE activity DROP CONSTRAINT IF EXISTS activity_no_overlap_excl",
    "ALTER TABLE transfer DROP CONSTRAINT IF EXISTS transfer_reverses_fkey",
    "DROP INDEX IF EXISTS transfer_reverses_key",
    "ALTER TABLE activity DROP CONSTRAINT IF EXISTS activity_pkey",
    "ALTER TABLE transfer DROP CONSTRAINT IF EXISTS transfer_pkey CASCADE",
    "ALTER TABLE activity SET UNLOGGED",
    "ALTER TABLE transfer SET UNLOGGED",
)
_KEYS = (
    "ALTER TABLE activity ADD PRIMARY KEY (resident_id, id)",
    "ALTER TABLE transfer ADD PRIMARY KEY (resident_id, id)",
)
_EMPTIED = (
    "activity",
    "transfer",
    "community_day",
    "activity_period",
    "activity_saving",
    "registered_period",
    "resident_month",
    "site_month",
    "activity_day_mark",
    "activity_period_count",
)


@dataclass(slots=True)
class Result:
    """Lines for people, and the latencies of each report by the number of activities, in seconds."""

    lines: list[str] = field(default_factory=list)
    latencies_s: dict[str, dict[int, list[float]]] = field(default_factory=dict)

    def words(self) -> list[str]:
        """The result in words: each report at each size, and its growth from the smallest to the largest."""
        told = list(self.lines)
        for name, sizes in self.latencies_s.items():
            told += [f"  {name}, {size:,}: {latency_words(found)}" for size, found in sizes.items()]
            smallest, largest = sizes[min(sizes)], sizes[max(sizes)]
            if smallest is not largest:
                growth = [percentile_ms(largest, at) / percentile_ms(smallest, at) for at in (0.5, 0.99)]
                told.append(f"    耗时比 largest : smallest, median {growth[0]:.2f}, p99 {growth[1]:.2f}")
        return told


def prepare(on: Stage, size: int, *, residents: int = ALL_RESIDENTS, count_seconds: float = 86_400.0) -> list[str]:
    """Load so many activities and count them; what it took, in words."""
    with psycopg.connect(on.postgres.url, autocommit=True) as connection:
        _add_people(connection, residents - RESIDENTS)
        loaded_s = _load(on, size)
        held = connection.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchone()
        counted, rebuild_s = _rebuild(on, count_seconds)
        rows = _rows_of(connection, counted)
        connection.execute("VACUUM ANALYZE")
        again_s = _count_a_day_again(on)
        _tell(f"rebuilt in {rebuild_s:.1f} s, a changed day again in {again_s:.1f} s")
        if size <= VERIFIED_ACTIVITIES_MAX and rebuild_s <= count_seconds:
            _verify(on)
        connection.execute("CHECKPOINT")
    return [
        f"{size:,} 条活动 activities, {residents:,} 人 residents, {DAYS} 日 days;"
        f" 数据库 database {held[0] if held else '?'}",
        f"  装入 loaded in {loaded_s:.0f} s; 重建 rebuilt {rows:,} activities of"
        f" {len(counted)} months, quarters and years in {rebuild_s:.1f} s: {rows / rebuild_s:,.0f} 条/s;"
        f" 一日再统计 a changed day again {again_s:.1f} s",
    ]


def read_in_turns(
    stages: Mapping[int, Stage], days: Mapping[int, date], rounds: int
) -> dict[str, dict[int, list[float]]]:
    """The latencies of each report at each size, each request by another reader; the sizes take turns.

    A page of places is kept once it was made, so it is read once more with nothing kept before each request.
    """
    tokens = {size: readers(on) for size, on in stages.items()}
    found: dict[str, dict[int, list[float]]] = {}
    for name, path in REPORTS.items():
        found[name] = {size: [] for size in stages}
        made_anew = (
            found.setdefault(f"{name}, 首次 made anew", {size: [] for size in stages}) if "places" in path else {}
        )
        for turn in range(rounds + 1):
            for size, on in stages.items():
                url = "/api/v1/statistics/" + path.format(day=days[size])
                requests = [request("GET", url, {"Authorization": f"Bearer {token}"}) for token in tokens[size]]
                run = drive(on.server, [requests])
                _check(name, run.answers[0])
                if turn:  # each worker's first answers prepare its statements
                    found[name][size] += run.latencies_s
                if turn and made_anew:
                    made_anew[size] += _each_made_anew(on, requests)
    return found


def _each_made_anew(on: Stage, requests: Sequence[bytes]) -> list[float]:
    """The latencies of requests with an empty cache before each."""
    latencies: list[float] = []
    with redis.Redis.from_url(on.settings.redis_url) as cache:
        for each in requests:
            cache.flushall()
            latencies += drive(on.server, [[each]]).latencies_s
    return latencies


def _tell(text: str) -> None:
    print(f"    {text}", file=sys.stderr, flush=True)


def _add_people(connection: psycopg.Connection, count: int) -> None:
    connection.execute(
        """INSERT INTO resident (resident_id, community_code, created_at)
           SELECT gen_random_uuid(), home.code, now() - interval '2 years'
           FROM generate_series(1, %s) AS number
           JOIN (SELECT code, row_number() OVER (ORDER BY code) - 1 AS position
                 FROM division WHERE level = 'community') home
               ON home.position = (number::bigint * 7919) %% 171""",
        (max(0, count),),
    )
    connection.execute(_TEMPLATE)


def _load(on: Stage, size: int) -> float:
    """A year of activities up to yesterday, by two loaders; the seconds it took."""
    began = time.perf_counter()
    with psycopg.connect(on.postgres.url, autocommit=True) as connection:
        _without_ceremony(connection)
        for statement in (*_BARE, f"TRUNCATE {', '.join(_EMPTIED)}"):
            connection.execute(statement)
        acts = (connection.execute("SELECT count(*) FROM bench_act").fetchone() or (0,))[0]
        with ThreadPoolExecutor(LOADERS) as pool:
            for done in pool.map(lambda number: _load_days(on, size, acts, number), range(LOADERS)):
                _tell(f"{done:,} activities by one loader, {time.perf_counter() - began:.0f} s")
        if size <= LEAN_ACTIVITIES:
            for statement in _KEYS:
                connection.execute(statement)
        connection.execute("VACUUM ANALYZE activity, transfer, community_day")
    return time.perf_counter() - began


def _without_ceremony(connection: psycopg.Connection) -> None:
    """Of this session alone: no triggers, and no wait for the disk at each commit."""
    connection.execute("SET session_replication_role = replica")
    connection.execute("SET synchronous_commit = off")
    connection.execute("SET maintenance_work_mem = '512MB'")


def _load_days(on: Stage, size: int, acts: int, loader: int) -> int:
    """Every LOADERS-th day, from the oldest on so that days lie in their order; how many activities."""
    yesterday, loaded = business_day(now()) - timedelta(days=1), 0
    with psycopg.connect(on.postgres.url, autocommit=True) as connection:
        _without_ceremony(connection)
        for number in range(loader, DAYS, LOADERS):
            day = yesterday - timedelta(days=DAYS - 1 - number)
            first, until = (size * each // DAYS for each in (number, number + 1))
            loaded += until - first
            while first < until:  # one stretch, or two where the acts begin anew
                count = min(until - first, acts - first % acts)
                span = {"first": first % acts, "until": first % acts + count}
                connection.execute(_LOAD_DAY, {"day": day, "start": f"{day} 00:00+08", **span})
                first += count
            if loader == 0 and number % 30 == 0:
                _tell(f"{until:,} of {size:,} activities")
    return loaded


class _TimeIsUp(Exception):
    """The months counted so far have to do."""


def _rebuild(on: Stage, seconds: float) -> tuple[list[CalendarPeriod], float]:
    """The rebuild command's own steps; the months, quarters and years counted, and the seconds they took.

    After so many `seconds` no further month is begun; quarters and years are then those of the months that are there.
    """
    began = time.perf_counter()
    counted: list[CalendarPeriod] = []

    def tell(period: CalendarPeriod, left: int) -> None:
        counted.append(period)
        spent = time.perf_counter() - began
        _tell(f"counted {period.grain.value} of {period.starts_on}, {left} left, {spent:.0f} s")
        if spent > seconds and period.grain is Grain.MONTH and left:
            raise _TimeIsUp

    with on.app.app_context():
        run_transaction(counting.forget_everything)
        try:
            count_everything_due(FIRST_DAY, tell=tell)
        except _TimeIsUp:
            spent = time.perf_counter() - began
            for period in sorted({long for each in counted for long in periods_with(each.starts_on)[3:]}):
                with transaction() as session:
                    session.connection().exec_driver_sql("SET LOCAL statement_timeout = 0")
                    counting.count_long(session, period, now=now())
            return counted, spent
    return counted, time.perf_counter() - began


def _count_a_day_again(on: Stage) -> float:
    """What the frequent job does once a day of a counted month has changed: that day, its week and month; seconds."""
    yesterday = business_day(now()) - timedelta(days=1)
    periods = [each for each in periods_with(yesterday) if each.grain in (Grain.DAY, Grain.WEEK, Grain.MONTH)]
    began = time.perf_counter()
    with on.app.app_context(), transaction() as session:
        session.connection().exec_driver_sql("SET LOCAL statement_timeout = 0")
        counting.count_month(session, yesterday.replace(day=1), periods, now=now())
    return time.perf_counter() - began


def _rows_of(connection: psycopg.Connection, counted: Sequence[CalendarPeriod]) -> int:
    """How many activities the counted months hold."""
    months = [each.starts_on for each in counted if each.grain is Grain.MONTH]
    found = connection.execute(
        "SELECT sum(activities) FROM community_day WHERE date_trunc('month', day::timestamp) = ANY(%s::timestamp[])",
        (months,),
    ).fetchone()
    return int(found[0]) if found else 0


def _verify(on: Stage) -> None:
    with on.app.app_context(), transaction() as session:
        session.connection().exec_driver_sql("SET LOCAL statement_timeout = 0")
        for finding in verification.verify(session, people_since=business_day(now()) - timedelta(days=40)):
            if finding.first_wrong is not None:
                raise AssertionError(f"{finding.name}: {finding.first_wrong}")


def _check(name: str, answer: tuple[int, bytes]) -> None:
    """A report that answered quickly because it had nothing to say would prove nothing."""
    status, body = answer
    items = json.loads(body)["items"] if status == 200 else []
    whole = [item for item in items if item.get("place_code") == DISTRICT]
    if not items or (len(items) == PLACES and not (whole and any(item.get("standing", 1) for item in whole))):
        raise AssertionError(f"{name}: {status} {body[:300]!r}")


def main() -> int:
    """Measure this part alone."""
    parser = argparse.ArgumentParser(prog="python -m bench.reports", description=__doc__)
    parser.add_argument("--activities", type=int, nargs="+", default=[1_000_000], help="sizes, one after the other")
    parser.add_argument("--residents", type=int, default=ALL_RESIDENTS)
    parser.add_argument("--count-seconds", type=float, default=86_400.0, help="begin no further month after these")
    parser.add_argument("--data", type=Path, help="keep what is loaded and counted in this folder")
    parser.add_argument("--rounds", type=int, default=25, help="of 40 readings of each report")
    options = parser.parse_args()
    end_tidily_when_terminated()
    with contextlib.ExitStack() as stack:
        folder = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tanpuhui-bench-")))
        result, days = Result(), {}
        for size in options.activities:
            prepared = folder / f"{size}.json"
            if not prepared.exists():
                with stage(folder / str(size)) as on:
                    lines = prepare(on, size, residents=options.residents, count_seconds=options.count_seconds)
                    day = business_day(now()) - timedelta(days=1)
                prepared.write_text(json.dumps({"lines": lines, "day": day.isoformat()}), encoding="utf-8")
            kept = json.loads(prepared.read_text(encoding="utf-8"))
            result.lines += kept["lines"]
            days[size] = date.fromisoformat(kept["day"])
        # Begun now: a count of hours outlives a sign-in, and the workers' connections too.
        stages = {size: stack.enter_context(stage(folder / str(size))) for size in options.activities}
        result.latencies_s = read_in_turns(stages, days, options.rounds)
        for line in result.words():
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
