"""Proving the kept counts of activity: each is computed again from what it was made of, by plainer statements.

A period that holds a day changed since its count is left out, for its count is due anyway. So is who was registered,
which stands as it was on the day of counting.
"""

from collections.abc import Iterator
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.ledger.verification import Finding
from points.statistics.marks import FIRST_DAY, LAST_DAY, changed_days

_GRAINS = "(VALUES ('day'), ('week'), ('month'), ('quarter'), ('year')) AS grains (grain)"
_PLACES = "(VALUES (6), (9), (12)) AS sizes (digits)"
# A behaviour's mode counts as itself, in all modes of its behaviour, and in everything.
_KINDS = """CROSS JOIN LATERAL (VALUES (one.behaviour, one.mode), (one.behaviour, ''), ('', '')) AS kinds (b, m)"""
_KEY = "grain, starts_on, behaviour, mode, place_code"
_BEGINS = "cast(date_trunc(grain, cast({day} AS timestamp)) AS date)"

# Only what was counted and has not changed since.
_SETTLED = """
    EXISTS (SELECT 1 FROM activity_period_count c WHERE c.grain = {row}.grain AND c.starts_on = {row}.starts_on
            AND NOT c.is_due)
    AND NOT EXISTS (SELECT 1 FROM unnest(cast(:changed AS date[])) AS changed
                    WHERE date_trunc({row}.grain, cast(changed AS timestamp)) = {row}.starts_on)"""

_DAYS = f"""
    SELECT grain, {_BEGINS.format(day="one.day")} AS starts_on, kinds.b AS behaviour, kinds.m AS mode,
           left(one.community_code, digits) AS place_code, %s
    FROM community_day one CROSS JOIN {_GRAINS} CROSS JOIN {_PLACES} {_KINDS}
    WHERE {_BEGINS.format(day="one.day")} >= :since AND one.day >= :since"""  # noqa: S608

_AMOUNTS = sa.text(f"""
SELECT {_KEY}, kept.activities AS kept_activities, truth.activities AS true_activities,
       kept.points AS kept_points, truth.points AS true_points, kept.distance_m AS kept_distance_m,
       truth.distance_m AS true_distance_m, kept.weight_g AS kept_weight_g, truth.weight_g AS true_weight_g
FROM (SELECT * FROM activity_period p WHERE starts_on >= :since AND {_SETTLED.format(row="p")}) kept
FULL JOIN (
    SELECT * FROM (
        {
    _DAYS
    % '''sum(one.activities) AS activities, sum(one.distance_m) AS distance_m,
            sum(one.weight_g) AS weight_g, sum(one.points) AS points'''
} GROUP BY 1, 2, 3, 4, 5) days
    WHERE {_SETTLED.format(row="days")}) truth USING ({_KEY})
WHERE (coalesce(kept.activities, 0), coalesce(kept.distance_m, 0), coalesce(kept.weight_g, 0), coalesce(kept.points, 0))
    <> (coalesce(truth.activities, 0), coalesce(truth.distance_m, 0), coalesce(truth.weight_g, 0),
        coalesce(truth.points, 0))
ORDER BY 1, 2, 3, 4, 5 LIMIT 1
""")  # noqa: S608 -- composed of constants of this module

_SAVED = sa.text(f"""
SELECT {_KEY}, method_id, kept.saved_co2e_mg AS kept_saved_co2e_mg, truth.saved_co2e_mg AS true_saved_co2e_mg
FROM (SELECT * FROM activity_saving p WHERE starts_on >= :since AND {_SETTLED.format(row="p")}) kept
FULL JOIN (
    SELECT * FROM (
        {_DAYS % "one.method_id, sum(one.saved_co2e_mg) AS saved_co2e_mg"} AND method_id <> ''
        GROUP BY 1, 2, 3, 4, 5, 6) days
    WHERE {_SETTLED.format(row="days")}) truth USING ({_KEY}, method_id)
WHERE coalesce(kept.saved_co2e_mg, 0) <> coalesce(truth.saved_co2e_mg, 0)
ORDER BY 1, 2, 3, 4, 5, 6 LIMIT 1
""")  # noqa: S608 -- composed of constants of this module

_PEOPLE_COLUMNS = (
    "residents",
    "distance_residents",
    "weight_residents",
    "points_residents",
    "largest_activities",
    "largest_distance_m",
    "largest_weight_g",
    "largest_points",
)

_SHOWN = ", ".join(f"kept.{name} AS kept_{name}, truth.{name} AS true_{name}" for name in _PEOPLE_COLUMNS)
_KEPT, _TRUTH = (", ".join(f"coalesce({side}.{name}, 0)" for name in _PEOPLE_COLUMNS) for side in ("kept", "truth"))

# Every cell's residents one by one, each place and grain by itself, straight from the activities and their transfers.
_PEOPLE = sa.text(f"""
SELECT {_KEY}, {_SHOWN}, kept.squared_points AS kept_squared_points, truth.squared_points AS true_squared_points
FROM (SELECT * FROM activity_period p WHERE starts_on >= :since AND {_SETTLED.format(row="p")}) kept
FULL JOIN (
    SELECT {_KEY}, count(*) AS residents, count(*) FILTER (WHERE distance_m > 0) AS distance_residents,
           count(*) FILTER (WHERE weight_g > 0) AS weight_residents,
           count(*) FILTER (WHERE points > 0) AS points_residents, max(activities) AS largest_activities,
           max(distance_m) AS largest_distance_m, max(weight_g) AS largest_weight_g, max(points) AS largest_points,
           sum(cast(points AS float8) ^ 2) AS squared_points, sum(cast(distance_m AS float8) ^ 2) AS squared_distance_m
    FROM (
        SELECT grain, {_BEGINS.format(day="one.business_day")} AS starts_on, kinds.b AS behaviour, kinds.m AS mode,
               left(one.community_code, digits) AS place_code, one.resident_id, sum(one.acts) AS activities,
               coalesce(sum(one.distance_m), 0) AS distance_m, coalesce(sum(one.weight_g), 0) AS weight_g,
               coalesce(sum(t.points), 0) AS points
        FROM activity one LEFT JOIN transfer t ON t.resident_id = one.resident_id AND t.id = one.id
        CROSS JOIN {_GRAINS} CROSS JOIN {_PLACES} {_KINDS}
        WHERE one.business_day >= :since AND one.outcome = 'awarded'
        GROUP BY 1, 2, 3, 4, 5, 6) persons
    WHERE starts_on >= :since AND {_SETTLED.format(row="persons")} GROUP BY 1, 2, 3, 4, 5) truth USING ({_KEY})
WHERE ({_KEPT}) <> ({_TRUTH})
   OR abs(coalesce(kept.squared_points, 0) - coalesce(truth.squared_points, 0))
      > 1e-9 * coalesce(kept.squared_points, truth.squared_points)
   OR abs(coalesce(kept.squared_distance_m, 0) - coalesce(truth.squared_distance_m, 0))
      > 1e-9 * coalesce(kept.squared_distance_m, truth.squared_distance_m)
ORDER BY 1, 2, 3, 4, 5 LIMIT 1
""")  # noqa: S608 -- composed of constants of this module

_PASSED = sa.text(f"""
SELECT {_KEY}, kept.sites AS kept_sites, truth.sites AS true_sites, kept.partners AS kept_partners,
       truth.partners AS true_partners, kept.reversed AS kept_reversed, truth.reversed AS true_reversed
FROM (SELECT * FROM activity_period p WHERE starts_on >= :since AND {_SETTLED.format(row="p")}) kept
FULL JOIN (
    SELECT * FROM (
        SELECT grain, {_BEGINS.format(day="one.business_day")} AS starts_on, kinds.b AS behaviour, kinds.m AS mode,
               left(one.community_code, digits) AS place_code,
               count(DISTINCT concat_ws('|', partner.code, one.site))
                   FILTER (WHERE one.outcome = 'awarded' AND one.site IS NOT NULL) AS sites,
               count(DISTINCT partner.code) FILTER (WHERE one.outcome = 'awarded') AS partners,
               count(*) FILTER (WHERE one.outcome = 'reversed') AS reversed
        FROM activity one LEFT JOIN partner ON partner.code = one.source
        CROSS JOIN {_GRAINS} CROSS JOIN {_PLACES} {_KINDS}
        WHERE one.business_day >= :since AND one.outcome IN ('awarded', 'reversed')
        GROUP BY 1, 2, 3, 4, 5) cells
    WHERE starts_on >= :since AND {_SETTLED.format(row="cells")}) truth USING ({_KEY})
WHERE (coalesce(kept.sites, 0), coalesce(kept.partners, 0), coalesce(kept.reversed, 0))
      <> (coalesce(truth.sites, 0), coalesce(truth.partners, 0), coalesce(truth.reversed, 0))
ORDER BY 1, 2, 3, 4, 5 LIMIT 1
""")  # noqa: S608 -- composed of constants of this module

_LOOKED_AT = sa.text("SELECT count(*) FROM activity_period WHERE starts_on >= :since")
_SAVED_LOOKED_AT = sa.text("SELECT count(*) FROM activity_saving WHERE starts_on >= :since")


def verify(session: Session, *, since: date = FIRST_DAY, people_since: date | None = None) -> Iterator[Finding]:
    """Compare the counts of all periods that begin on `since` or later; in one snapshot if the transaction has one.

    Distinct people, sites and partners are compared from `people_since` on, for that reads every activity since.
    """
    people_since = since if people_since is None else max(since, people_since)
    changed = list(changed_days(session, FIRST_DAY, LAST_DAY))
    for name, wrong, looked_at, first in (
        ("activity_period: amounts = community_day", _AMOUNTS, _LOOKED_AT, since),
        ("activity_saving: grams by method = community_day", _SAVED, _SAVED_LOOKED_AT, since),
        ("activity_period: residents and largest parts = activities", _PEOPLE, _LOOKED_AT, people_since),
        ("activity_period: sites, partners and reversals = activities", _PASSED, _LOOKED_AT, people_since),
    ):
        values: dict[str, Any] = {"since": first, "changed": changed}
        found = session.execute(wrong, values).mappings().first()
        yield Finding(name, int(session.scalar(looked_at, {"since": first}) or 0), dict(found) if found else None)
