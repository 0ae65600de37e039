"""Proving the kept counts of participation: each is computed again from what it was made of, by other statements.

A period that holds a changed day is left out, for its count is due anyway. So is who was registered, which stands as it
was on the day of counting, and what members of organisations did, whose memberships are kept as they stand only.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.statistics.marks import changed_days
from points.ledger.verification import Finding
from points.statistics.marks import FIRST_DAY, LAST_DAY
from server.clock import day_start

# The home of a resident's last active day in each period, found by text and not by the counting's arithmetic.
_LAST_DAYS = """
    SELECT grain, starts_on, resident_id, cast(left(last, 10) AS date) AS last_day, right(last, 12) AS community_code
    FROM (SELECT span.grain, cast(date_trunc(span.grain, cast(day AS timestamp)) AS date) AS starts_on, resident_id,
                 max(concat(day, community_code)) AS last
          FROM resident_day CROSS JOIN (VALUES {grains}) AS span (grain)
          WHERE day >= :since AND activities > 0 GROUP BY 1, 2, 3) found
    WHERE starts_on >= :since"""

_IS_SETTLED = """
    AND NOT EXISTS (SELECT 1 FROM unnest(cast(:changed AS date[])) AS changed
                    WHERE date_trunc(grain, cast(changed AS timestamp)) = starts_on)"""

_MARKERS = sa.text(f"""
SELECT resident_id, grain, starts_on, kept.last_day AS kept_last_day, truth.last_day AS true_last_day,
       kept.community_code AS kept_community, truth.community_code AS true_community
FROM (SELECT * FROM resident_period WHERE starts_on >= :since) kept
FULL JOIN ({_LAST_DAYS.format(grains="('month'), ('quarter'), ('year')")}) truth
    USING (resident_id, grain, starts_on)
WHERE (kept.last_day, kept.community_code) IS DISTINCT FROM (truth.last_day, truth.community_code) {_IS_SETTLED}
ORDER BY 1, 2, 3 LIMIT 1
""")  # noqa: S608 -- composed of constants of this module

_GRAINS = "('day'), ('week'), ('month'), ('quarter'), ('year')"

# Days and weeks against the days themselves, longer periods against the markers, which the check before this proved.

_PARTICIPANTS = sa.text(f"""
SELECT grain, starts_on, place_code, kept.participants AS kept_participants, truth.participants AS true_participants
FROM (SELECT * FROM place_period WHERE starts_on >= :since AND campaign_kind = '') kept
FULL JOIN (
    SELECT grain, starts_on, left(community_code, digits) AS place_code, count(*) AS participants
    FROM ({_LAST_DAYS.format(grains="('day'), ('week')")}
          UNION ALL
          SELECT grain, starts_on, resident_id, last_day, community_code FROM resident_period
          WHERE starts_on >= :since) last CROSS JOIN (VALUES (6), (9), (12)) AS sizes (digits)
    GROUP BY 1, 2, 3) truth USING (grain, starts_on, place_code)
WHERE coalesce(kept.participants, 0) <> coalesce(truth.participants, 0) {_IS_SETTLED}
ORDER BY 1, 2, 3 LIMIT 1
""")  # noqa: S608 -- composed of constants of this module

_EARNED = sa.text(f"""
SELECT grain, starts_on, place_code, kept.points AS kept_points, truth.points AS true_points,
       kept.mg AS kept_saved_co2e_mg, truth.mg AS true_saved_co2e_mg
FROM (SELECT grain, starts_on, place_code, points,
             (SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(saved_co2e_mg)) AS mg
      FROM place_period WHERE starts_on >= :since AND campaign_kind = '') kept
FULL JOIN (
    SELECT grain, cast(date_trunc(grain, cast(day AS timestamp)) AS date) AS starts_on,
           left(community_code, digits) AS place_code, sum(points) AS points, sum(saved_co2e_mg) AS mg
    FROM community_day CROSS JOIN (VALUES {_GRAINS}) AS span (grain)
    CROSS JOIN (VALUES (6), (9), (12)) AS sizes (digits)
    WHERE day >= :since GROUP BY 1, 2, 3) truth USING (grain, starts_on, place_code)
WHERE starts_on >= :since AND (coalesce(kept.points, 0), coalesce(kept.mg, 0))
      <> (coalesce(truth.points, 0), coalesce(truth.mg, 0)) {_IS_SETTLED}
ORDER BY 1, 2, 3 LIMIT 1
""")  # noqa: S608 -- composed of constants of this module

_CAMPAIGN_DAYS = sa.text("""
SELECT campaign_id, community_code, day, kept.joins AS kept_joins, truth.joins AS true_joins,
       kept.check_ins AS kept_check_ins, truth.check_ins AS true_check_ins,
       kept.volunteer_minutes AS kept_minutes, truth.minutes AS true_minutes
FROM (SELECT * FROM campaign_day WHERE day >= :since) kept
FULL JOIN (
    SELECT p.campaign_id, p.community_code, event.day, sum(event.joins) AS joins, sum(event.check_ins) AS check_ins,
           sum(event.minutes) AS minutes
    FROM participation p CROSS JOIN LATERAL (
        SELECT cast(p.joined_at AT TIME ZONE 'Asia/Shanghai' AS date) AS day, 1 AS joins, 0 AS check_ins, 0 AS minutes
        UNION ALL
        SELECT c.day, 0, count(*) FILTER (WHERE s.kind = 'visit'), sum(c.minutes)
        FROM check_in c JOIN check_in_slot s ON s.id = c.slot_id
        WHERE c.resident_id = p.resident_id AND c.campaign_id = p.campaign_id GROUP BY 1
    ) event WHERE event.day >= :since GROUP BY 1, 2, 3) truth USING (campaign_id, community_code, day)
WHERE (kept.joins, kept.check_ins, kept.volunteer_minutes)
      IS DISTINCT FROM (cast(truth.joins AS int), cast(truth.check_ins AS int), cast(truth.minutes AS bigint))
      AND day <> ALL(cast(:changed AS date[]))
ORDER BY 1, 2, 3 LIMIT 1
""")

_CHECKS = (
    ("resident_period = last active days", _MARKERS, "SELECT count(*) FROM resident_period WHERE starts_on >= :since"),
    (
        "place_period: participants = distinct residents",
        _PARTICIPANTS,
        "SELECT count(*) FROM place_period WHERE starts_on >= :since AND campaign_kind = ''",
    ),
    (
        "place_period: points and grams = community_day",
        _EARNED,
        "SELECT count(*) FROM place_period WHERE starts_on >= :since AND campaign_kind = ''",
    ),
    (
        "campaign_day = participations and check-ins",
        _CAMPAIGN_DAYS,
        "SELECT count(*) FROM campaign_day WHERE day >= :since",
    ),
)


def verify(session: Session, *, since: date = FIRST_DAY) -> Iterator[Finding]:
    """Compare the counts of all periods that begin on `since` or later; in one snapshot if the transaction has one."""
    values: dict[str, Any] = {
        "since": since,
        "changed": [each.day for each in changed_days(session, since - timedelta(days=1), LAST_DAY)],
        "since_at": day_start(since),
    }
    for name, wrong, looked_at in _CHECKS:
        found = session.execute(wrong, values).mappings().first()
        rows = session.scalar(sa.text(looked_at), {"since": since}) or 0
        yield Finding(name, int(rows), dict(found) if found else None)
