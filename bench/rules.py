"""Rules by people at scale: replaying 30 days under a proposal, and drawing a quarter's random audit.

A month of claims is loaded in bulk (without triggers), half of it rides and the rest drops and steps, and replayed page
by page as the job does. Runs alone with `python -m bench.rules --activities 1000000`; prints the seconds, the claims a
second and the most memory that the process took.
"""

import argparse
import resource
import sys
import time
from datetime import date, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import sqlalchemy as sa

from bench.replay_kit.__main__ import stage
from bench.running import end_tidily_when_terminated
from points.earning import pricing
from points.earning.proposals import jobs
from points.earning.proposals.proposals import REPLAY_DAYS, replay_period
from points.review.audit import drawing
from server.clock import business_day, now
from server.database import transaction

RESIDENTS_PER_ACTIVITY = 0.05  # each has twenty in the month

LOAD = """
INSERT INTO activity (resident_id, id, behaviour, mode, grade, source, external_id, started_at, ended_at, received_at,
    recorded_at, business_day, community_code, distance_m, steps, site, device, outcome, reason, priced_points,
    rule_version_id)
SELECT md5('r' || mod(n, %(residents)s))::uuid, md5('a' || n)::uuid,
    (ARRAY['bus', 'metro', 'sorting', 'walk'])[1 + mod(n, 4)],
    (ARRAY['bus', 'metro', 'kitchen', 'steps'])[1 + mod(n, 4)],
    (ARRAY['partner-signed', 'partner-signed', 'partner-signed', 'sensor'])[1 + mod(n, 4)],
    (ARRAY['bus-group', 'metro-group', 'bins', 'werun'])[1 + mod(n, 4)], n::text,
    at, at + interval '20 minutes', at + interval '1 hour', at + interval '1 hour',
    (at AT TIME ZONE 'Asia/Shanghai')::date, '120104001001',
    CASE WHEN mod(n, 4) < 2 THEN 3000 END, CASE WHEN mod(n, 4) = 3 THEN 4000 END,
    CASE WHEN mod(n, 4) = 2 THEN 'bin-' || mod(n, 500) END,
    CASE WHEN mod(n, 4) = 2 THEN 'bins:bin-' || mod(n, 500) END, 'awarded', NULL, 8, 'nankai-2026-1'
FROM (SELECT n, %(first)s::timestamptz + n * (%(days)s * interval '1 day') / %(activities)s AS at
      FROM generate_series(1, %(activities)s) AS n) AS numbered
"""

PAY = """
INSERT INTO transfer (resident_id, id, account_id, kind, points, expires_on, occurred_at, recorded_at)
SELECT resident_id, id, 1, 'award', 8, '2027-12-31', started_at, recorded_at FROM activity
"""


def main() -> int:
    """Load, replay, draw, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--activities", type=int, default=1_000_000)
    activities: int = parser.parse_args().activities
    end_tidily_when_terminated()
    with stage() as settings:
        first_on, last_on = replay_period(now())
        _load(settings.database_owner_url, activities, first=f"{first_on} 00:00+08")
        _replay(activities, first_on, last_on)
        _draw(settings.district_folder)
    return 0


def _load(url: str, activities: int, *, first: str) -> None:
    began = time.perf_counter()
    values = {
        "activities": activities,
        "residents": max(1, int(activities * RESIDENTS_PER_ACTIVITY)),
        "days": REPLAY_DAYS,
        "first": first,
    }
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("ALTER TABLE activity DROP CONSTRAINT activity_no_overlap_excl")
        connection.execute(LOAD, values)
        connection.execute(PAY)
        connection.execute("ANALYZE activity, transfer")
    print(f"loaded {activities:,} claims in {time.perf_counter() - began:.0f} s", flush=True)


def _replay(activities: int, first_on: date, last_on: date) -> None:
    with transaction() as session:
        tariff = pricing.read(session).versions[0]
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, worked = time.perf_counter(), time.process_time()
    report = jobs.replay_tariff(tariff, first_on, last_on, fen_per_100_points=None, progress_of=None)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    more_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    print(
        f"replayed {report['activities']:,} of {activities:,} claims under {tariff.version_id} in {seconds:.1f} s "
        f"({worked:.1f} s of this process), {report['activities'] / seconds:,.0f} a second, {more_mb:.0f} MB more; "
        f"{report['paid_points']:,} points paid, {report['replayed_points']:,} replayed, "
        f"{report['residents']['gain']:,} residents gain, {report['residents']['lose']:,} lose",
        flush=True,
    )


def _draw(folder: Path) -> None:
    """A quarter's audit, as of a day long after it."""
    later = now() + timedelta(days=120)
    today = business_day(now())
    quarter = today.replace(month=3 * ((today.month - 1) // 3) + 1, day=1)
    with transaction() as session:
        asked: UUID = drawing.request(session, None, folder, quarter, jobs=None, now=later).id
    began = time.perf_counter()
    with transaction() as session:
        session.execute(sa.text("SET LOCAL statement_timeout = '30min'"))
        made = drawing.draw(session, asked, now=later)
    drawn = 0 if made is None else made.items_count
    print(f"drew {drawn} claims for the audit of the quarter in {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
