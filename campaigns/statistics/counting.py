"""Keeping the counts of participation: the days that changed are counted again, and the periods that hold them.

Distinct people are exact. Days and weeks are counted from the residents' days; for months, quarters and years each
resident has a marker with the last active day and the home of that day, moved forward by the days that changed and made
anew for those residents whose record was taken back. So a count costs what changed, and a page costs its own rows.

Everything is written under one advisory lock, in READ COMMITTED: marks are read first, so whatever is committed while
the count runs is found by the next one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.statistics import shrinkage
from campaigns.statistics.marks import ChangedDay, changed_days, keep_marks
from campaigns.statistics.models import ALL_KINDS, MARKED_GRAINS
from points.statistics.marks import LAST_DAY
from points.statistics.periods import CalendarPeriod, Grain, period_with, periods_with
from server.clock import business_day, day_start

QUIET_RECOUNT = timedelta(hours=1)

_LOCK = sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended('participation-counts', 0))")

# A day and a community of 12 digits in one number, so that the last day's home is a plain maximum; the greatest code
# decides between two homes on one day.
_MARK = "(day - DATE '2000-01-01')::bigint * 1000000000000 + community_code::bigint"
_DAY_OF_MARK = "DATE '2000-01-01' + (mark / 1000000000000)::int"
_HOME_OF_MARK = "lpad((mark % 1000000000000)::text, 12, '0')"

_MEMBER_ON = """
    m.joined_at < (cast(r.day + 1 AS timestamp) AT TIME ZONE 'Asia/Shanghai')
    AND (m.left_at IS NULL OR m.left_at >= (cast(r.day AS timestamp) AT TIME ZONE 'Asia/Shanghai'))"""

# A resident's day does not name its method; the rules of the day do, one for travel and one for recycling.
_METHOD = """
    CASE WHEN r.behaviour = 'recycling' THEN v.recycling_method_id
         WHEN r.behaviour <> 'sorting' THEN v.travel_method_id END"""


class CountIsRunning(Exception):
    """Another process is counting; there is nothing to do but to come back later."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted again, in numbers."""

    days: int
    periods: int


def lock(session: Session) -> None:
    """Be the only one that counts until the transaction ends. Raises CountIsRunning."""
    if not session.scalar(_LOCK):
        raise CountIsRunning


def months_to_count(session: Session, *, since: date, now: datetime) -> list[date]:
    """The first days of the months that hold a changed day from `since` on, the newest first, the present one always.

    The list is made once and then worked off: in the present month something changes all day, and asking again would
    never come to the others.
    """
    changed = {each.day.replace(day=1) for each in changed_days(session, since, LAST_DAY)}
    return sorted(changed | {business_day(now).replace(day=1)}, reverse=True)


def count_month(session: Session, month: date, *, now: datetime) -> Counted:
    """Count again the changed days of a month, and every period that holds one of them.

    The present periods are counted at least every QUIET_RECOUNT, for who is registered changes without an activity.
    Raises CountIsRunning.
    """
    lock(session)
    changed = changed_days(session, month, period_with(Grain.MONTH, month).ends_on)
    today = business_day(now)
    periods = {period for each in changed for period in periods_with(each.day)}
    if today.replace(day=1) == month:
        periods |= _quiet(session, periods_with(today), now=now)
    _mark_residents(session, [each.day for each in changed if each.activities])
    _mark_members(session, changed)
    _count_campaign_days(session, [each.day for each in changed if each.campaigns])
    # Days first: the sums of longer periods of organisations are those of their days.
    for period in sorted(periods, key=lambda each: (list(Grain).index(each.grain), each.starts_on)):
        count_period(session, period, now=now)
    keep_marks(session, changed, now=now)
    return Counted(len(changed), len(periods))


def forget_everything(session: Session) -> None:
    """Drop all kept counts, for the next rounds to make anew. Registered residents of past periods go with them."""
    lock(session)
    for table in (
        "resident_period",
        "member_period",
        "campaign_day",
        "campaign_count",
        "counted_campaign",
        "place_period",
        "organisation_period",
        "period_prior",
        "counted_day",
    ):
        session.execute(sa.text(f"DELETE FROM {table}"))  # noqa: S608 -- constants


def _quiet(session: Session, periods: Sequence[CalendarPeriod], *, now: datetime) -> set[CalendarPeriod]:
    """Those of the periods that were not counted for QUIET_RECOUNT."""
    found = sa.text(
        "SELECT 1 FROM place_period WHERE grain = :grain AND starts_on = :starts_on AND campaign_kind = ''"
        " AND counted_at > :since LIMIT 1"
    )
    return {
        period
        for period in periods
        if session.execute(
            found, {"grain": period.grain, "starts_on": period.starts_on, "since": now - QUIET_RECOUNT}
        ).first()
        is None
    }


# Markers of distinct people

_SPANS = """
    (SELECT grain, date_trunc(grain, cast(:day AS timestamp))::date AS first_day,
            (date_trunc(grain, cast(:day AS timestamp)) + CASE grain WHEN 'quarter' THEN interval '3 months'
                                                  ELSE ('1 ' || grain)::interval END)::date - 1 AS last_day
     FROM (VALUES ('month'), ('quarter'), ('year')) AS grains (grain)) span"""

_EMPTIED = sa.text("SELECT DISTINCT resident_id FROM resident_day WHERE day = ANY(:days) AND activities = 0")

_UNMARK_RESIDENTS = sa.text(f"""
DELETE FROM resident_period k USING {_SPANS}
WHERE k.resident_id = ANY(:residents) AND k.grain = span.grain AND k.starts_on = span.first_day""")  # noqa: S608

# The three markers of a resident are written together, so where the month's stands the others do: most residents of a
# day were counted earlier that day, and are passed over.
_MARK_RESIDENTS = sa.text(f"""
INSERT INTO resident_period AS kept (resident_id, grain, starts_on, last_day, community_code)
SELECT resident_id, grain, first_day, {_DAY_OF_MARK}, {_HOME_OF_MARK}
FROM (
    SELECT resident_id, grain, first_day, max(mark) AS mark FROM (
        SELECT found.resident_id, span.grain, first_day, mark
        FROM (SELECT resident_id, max({_MARK}) AS mark FROM resident_day
              WHERE day = ANY(:days) AND activities > 0 GROUP BY resident_id) found
        LEFT JOIN resident_period same
            ON same.resident_id = found.resident_id AND same.grain = 'month' AND same.starts_on = :month
        CROSS JOIN {_SPANS}
        WHERE same.resident_id IS NULL
              OR (same.last_day, same.community_code) < ({_DAY_OF_MARK}, {_HOME_OF_MARK})
        UNION ALL
        SELECT resident_id, grain, first_day, {_MARK} FROM resident_day JOIN {_SPANS}
            ON day BETWEEN span.first_day AND span.last_day
        WHERE resident_id = ANY(:residents) AND activities > 0
    ) every GROUP BY 1, 2, 3
) best
ORDER BY resident_id, grain, first_day
ON CONFLICT (resident_id, grain, starts_on) DO UPDATE
    SET last_day = EXCLUDED.last_day, community_code = EXCLUDED.community_code
    WHERE (kept.last_day, kept.community_code) < (EXCLUDED.last_day, EXCLUDED.community_code)
""")  # noqa: S608 -- composed of constants of this module


def _mark_residents(session: Session, days: Sequence[date]) -> None:
    """Move the markers of a month, its quarter and its year on by these days of the month."""
    if not days:
        return
    # Whose record was taken back: their markers may point at what is no more, so they are made from all their days.
    emptied = list(session.scalars(_EMPTIED, {"days": list(days)}))
    values = {"days": list(days), "day": days[0], "month": days[0].replace(day=1), "residents": emptied}
    if emptied:
        session.execute(_UNMARK_RESIDENTS, values)
    session.execute(_MARK_RESIDENTS, values)


_MOVED_MEMBERS = sa.text("""
SELECT DISTINCT resident_id FROM organisation_membership
WHERE cast(joined_at AT TIME ZONE 'Asia/Shanghai' AS date) = ANY(:days)
   OR cast(left_at AT TIME ZONE 'Asia/Shanghai' AS date) = ANY(:days)""")

_UNMARK_MEMBERS = sa.text(f"""
DELETE FROM member_period k USING {_SPANS}
WHERE k.resident_id = ANY(:residents) AND k.grain = span.grain AND k.starts_on = span.first_day""")  # noqa: S608

_MARK_MEMBERS = sa.text(f"""
INSERT INTO member_period (resident_id, organisation_id, grain, starts_on)
SELECT DISTINCT resident_id, organisation_id, grain, first_day FROM (
    SELECT r.resident_id, m.organisation_id, grain, first_day
    FROM resident_day r JOIN organisation_membership m ON m.resident_id = r.resident_id AND {_MEMBER_ON}
    CROSS JOIN {_SPANS}
    WHERE r.day = ANY(:days) AND r.activities > 0
    UNION ALL
    SELECT r.resident_id, m.organisation_id, grain, first_day
    FROM resident_day r JOIN organisation_membership m ON m.resident_id = r.resident_id AND {_MEMBER_ON}
    JOIN {_SPANS} ON r.day BETWEEN span.first_day AND span.last_day
    WHERE r.resident_id = ANY(:residents) AND r.activities > 0
) active
ORDER BY 1, 2, 3, 4
ON CONFLICT DO NOTHING
""")  # noqa: S608 -- composed of constants of this module


def _mark_members(session: Session, changed: Sequence[ChangedDay]) -> None:
    """The same for members of organisations, whose joining and leaving counts as well."""
    active_days = [each.day for each in changed if each.activities]
    moved_days = [each.day for each in changed if each.members]
    if not active_days and not moved_days:
        return
    again: set[UUID] = set(session.scalars(_EMPTIED, {"days": active_days}))
    again |= set(session.scalars(_MOVED_MEMBERS, {"days": moved_days}))
    values = {"days": active_days, "day": changed[0].day, "residents": list(again)}
    if again:
        session.execute(_UNMARK_MEMBERS, values)
    session.execute(_MARK_MEMBERS, values)


_UNCOUNT_CAMPAIGN_DAYS = sa.text("DELETE FROM campaign_day WHERE day = ANY(:days)")

_COUNT_CAMPAIGN_DAYS = sa.text("""
INSERT INTO campaign_day (campaign_id, community_code, day, joins, check_ins, volunteer_minutes)
SELECT campaign_id, community_code, day, sum(joins), sum(check_ins), sum(minutes) FROM (
    SELECT campaign_id, community_code, cast(joined_at AT TIME ZONE 'Asia/Shanghai' AS date) AS day,
           1 AS joins, 0 AS check_ins, 0 AS minutes
    FROM participation WHERE joined_at >= :first_at AND joined_at < :until
    UNION ALL
    SELECT c.campaign_id, p.community_code, c.day, 0, (s.kind = 'visit')::int, c.minutes
    FROM check_in c JOIN check_in_slot s ON s.id = c.slot_id
    JOIN participation p ON p.resident_id = c.resident_id AND p.campaign_id = c.campaign_id
    WHERE c.day BETWEEN :first_day AND :last_day
) events
WHERE day = ANY(:days)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")


def _count_campaign_days(session: Session, days: Sequence[date]) -> None:
    if not days:
        return
    session.execute(_UNCOUNT_CAMPAIGN_DAYS, {"days": list(days)})
    session.execute(
        _COUNT_CAMPAIGN_DAYS,
        {
            "days": list(days),
            "first_day": min(days),
            "last_day": max(days),
            "first_at": day_start(min(days)),
            "until": day_start(max(days) + timedelta(days=1)),
        },
    )


# Periods

_DISTINCT_FROM_DAYS = f"""
    SELECT {_HOME_OF_MARK} AS community_code, '' AS kind, 0 AS registered, count(*) AS participants, 0 AS joins,
           0 AS check_ins, 0 AS completions, 0 AS minutes, 0 AS points
    FROM (SELECT max({_MARK}) AS mark FROM resident_day
          WHERE day BETWEEN :first_day AND :last_day AND activities > 0 GROUP BY resident_id) last
    GROUP BY 1"""  # noqa: S608

_DISTINCT_FROM_MARKERS = """
    SELECT community_code, '' AS kind, 0 AS registered, count(*) AS participants, 0 AS joins, 0 AS check_ins,
           0 AS completions, 0 AS minutes, 0 AS points
    FROM resident_period WHERE grain = :grain AND starts_on = :first_day GROUP BY 1
    UNION ALL
    -- Enrolled in a campaign of the kind that ran in the period; from the home of the latest joining.
    SELECT community_code, kind, 0, count(*), 0, 0, 0, 0, 0 FROM (
        SELECT DISTINCT ON (c.kind, p.resident_id) c.kind, p.community_code
        FROM participation p JOIN campaign c ON c.id = p.campaign_id
        WHERE c.starts_on <= :last_day AND c.ends_on >= :first_day AND p.joined_at < :until
        ORDER BY c.kind, p.resident_id, p.joined_at DESC, p.campaign_id) enrolled
    GROUP BY 1, 2"""

_PLACES = """
SELECT left(community_code, digits) AS place_code, kind AS campaign_kind, sum(registered)::int AS registered,
       sum(participants)::int AS participants, sum(joins)::int AS joins, sum(check_ins)::int AS check_ins,
       sum(completions)::int AS completions, sum(minutes)::bigint AS volunteer_minutes, sum(points)::bigint AS points
FROM (
    %(distinct)s
    UNION ALL
    SELECT code, '', 0, 0, 0, 0, 0, 0, 0 FROM division
    WHERE level = 'community' AND valid_from <= :last_day AND (valid_to IS NULL OR valid_to >= :first_day)
    UNION ALL
    SELECT community_code, '', count(*), 0, 0, 0, 0, 0, 0 FROM resident
    WHERE enabled AND community_code IS NOT NULL AND created_at < :until GROUP BY 1
    UNION ALL
    SELECT community_code, '', 0, 0, 0, 0, 0, 0, sum(points) FROM community_day
    WHERE day BETWEEN :first_day AND :last_day GROUP BY 1
    UNION ALL
    SELECT d.community_code, kinds.kind, 0, 0, sum(d.joins), sum(d.check_ins), 0, sum(d.volunteer_minutes), 0
    FROM campaign_day d JOIN campaign c ON c.id = d.campaign_id
    CROSS JOIN LATERAL (VALUES (''), (c.kind)) AS kinds (kind)
    WHERE (:with_kinds OR kinds.kind = '') AND d.day BETWEEN :first_day AND :last_day GROUP BY 1, 2
    UNION ALL
    SELECT t.community_code, kinds.kind, 0, 0, 0, 0, sum(t.completions), 0,
           CASE WHEN kinds.kind = '' THEN 0 ELSE sum(t.points) END
    FROM campaign_count t JOIN campaign c ON c.id = t.campaign_id
    CROSS JOIN LATERAL (VALUES (''), (c.kind)) AS kinds (kind)
    WHERE (:with_kinds OR kinds.kind = '') AND c.ends_on BETWEEN :first_day AND :last_day GROUP BY 1, 2
) parts CROSS JOIN (VALUES (6), (9), (12)) AS sizes (digits)
GROUP BY 1, 2
"""

_PLACES_FROM_DAYS = sa.text(_PLACES % {"distinct": _DISTINCT_FROM_DAYS})
_PLACES_FROM_MARKERS = sa.text(_PLACES % {"distinct": _DISTINCT_FROM_MARKERS})

_PLACES_SAVED = sa.text("""
SELECT left(community_code, digits) AS place_code, kind, method, sum(saved)::bigint
FROM (
    SELECT community_code, '' AS kind, method_id AS method, sum(saved_co2e_mg) AS saved
    FROM community_day WHERE day BETWEEN :first_day AND :last_day AND method_id <> '' GROUP BY 1, 3
    UNION ALL
    SELECT t.community_code, c.kind, part.key, sum(part.value::bigint)
    FROM campaign_count t JOIN campaign c ON c.id = t.campaign_id
    CROSS JOIN LATERAL jsonb_each_text(t.saved_co2e_mg) AS part
    WHERE c.ends_on BETWEEN :first_day AND :last_day GROUP BY 1, 2, 3
) parts CROSS JOIN (VALUES (6), (9), (12)) AS sizes (digits)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")

_FIGURES = """registered int, participants int, joins int, check_ins int, completions int, volunteer_minutes bigint,
    points bigint, saved_co2e_mg jsonb, rate_shrunk float8, rate_low float8, rate_high float8"""
_FIGURE_NAMES = (
    "registered, participants, joins, check_ins, completions, volunteer_minutes, points, saved_co2e_mg, "
    "rate_shrunk, rate_low, rate_high"
)
_FIGURES_KEPT = ", ".join(f"{name} = EXCLUDED.{name}" for name in _FIGURE_NAMES.split(", ") if name != "registered")

_KEEP_PLACES = sa.text(f"""
INSERT INTO place_period AS kept (grain, starts_on, campaign_kind, place_code, {_FIGURE_NAMES}, counted_at)
SELECT :grain, :first_day, campaign_kind, place_code, {_FIGURE_NAMES}, :now
FROM json_to_recordset(cast(:rows AS json)) AS c (campaign_kind text, place_code text, {_FIGURES})
ORDER BY campaign_kind, place_code
ON CONFLICT (grain, starts_on, campaign_kind, place_code) DO UPDATE SET {_FIGURES_KEPT},
    registered = EXCLUDED.registered, counted_at = EXCLUDED.counted_at
""")  # noqa: S608 -- composed of constants of this module

_REGISTERED_BEFORE = sa.text("""
SELECT place_code, registered FROM place_period
WHERE grain = :grain AND starts_on = :first_day AND campaign_kind = ''""")

_DROP_PLACES = sa.text("""
DELETE FROM place_period AS kept WHERE grain = :grain AND starts_on = :first_day AND NOT EXISTS (
    SELECT 1 FROM json_to_recordset(cast(:rows AS json)) AS c (campaign_kind text, place_code text)
    WHERE c.campaign_kind = kept.campaign_kind AND c.place_code = kept.place_code)""")

_ORGANISATIONS = """
SELECT organisation_id, sum(registered)::int AS registered, sum(participants)::int AS participants,
       sum(joins)::int AS joins, sum(check_ins)::int AS check_ins, sum(completions)::int AS completions,
       sum(minutes)::bigint AS volunteer_minutes, sum(points)::bigint AS points
FROM (
    SELECT organisation_id, count(DISTINCT resident_id) AS registered, 0 AS participants, 0 AS joins, 0 AS check_ins,
           0 AS completions, 0 AS minutes, 0 AS points
    FROM organisation_membership
    WHERE joined_at < :until AND (left_at IS NULL OR left_at >= :first_at) GROUP BY 1
    UNION ALL
    %(distinct)s
    UNION ALL
    %(points)s
    UNION ALL
    SELECT c.organisation_id, 0, 0, sum(d.joins), sum(d.check_ins), 0, sum(d.volunteer_minutes), 0
    FROM campaign_day d JOIN campaign c ON c.id = d.campaign_id
    WHERE c.organisation_id IS NOT NULL AND d.day BETWEEN :first_day AND :last_day GROUP BY 1
    UNION ALL
    SELECT c.organisation_id, 0, 0, 0, 0, sum(t.completions), 0, 0
    FROM campaign_count t JOIN campaign c ON c.id = t.campaign_id
    WHERE c.organisation_id IS NOT NULL AND c.ends_on BETWEEN :first_day AND :last_day GROUP BY 1
) parts
GROUP BY 1 ORDER BY 1
"""

_MEMBERS_FROM_DAYS = f"""
    SELECT m.organisation_id, 0, count(DISTINCT m.resident_id), 0, 0, 0, 0, 0
    FROM resident_day r JOIN organisation_membership m ON m.resident_id = r.resident_id AND {_MEMBER_ON}
    WHERE r.day BETWEEN :first_day AND :last_day AND r.activities > 0 GROUP BY 1"""  # noqa: S608

_MEMBERS_FROM_MARKERS = """
    SELECT organisation_id, 0, count(*), 0, 0, 0, 0, 0 FROM member_period
    WHERE grain = :grain AND starts_on = :first_day GROUP BY 1"""

_MEMBERS_POINTS_OF_A_DAY = f"""
    SELECT m.organisation_id, 0, 0, 0, 0, 0, 0, sum(r.points)
    FROM resident_day r JOIN organisation_membership m ON m.resident_id = r.resident_id AND {_MEMBER_ON}
    WHERE r.day = :first_day GROUP BY 1"""  # noqa: S608

_MEMBERS_POINTS = """
    SELECT organisation_id, 0, 0, 0, 0, 0, 0, sum(points) FROM organisation_period
    WHERE grain = 'day' AND starts_on BETWEEN :first_day AND :last_day GROUP BY 1"""

_ORGANISATIONS_OF = {
    Grain.DAY: sa.text(_ORGANISATIONS % {"distinct": _MEMBERS_FROM_DAYS, "points": _MEMBERS_POINTS_OF_A_DAY}),
    Grain.WEEK: sa.text(_ORGANISATIONS % {"distinct": _MEMBERS_FROM_DAYS, "points": _MEMBERS_POINTS}),
    **{
        grain: sa.text(_ORGANISATIONS % {"distinct": _MEMBERS_FROM_MARKERS, "points": _MEMBERS_POINTS})
        for grain in MARKED_GRAINS
    },
}

_ORGANISATIONS_SAVED_ON_A_DAY = sa.text(f"""
SELECT m.organisation_id, {_METHOD} AS method, sum(r.saved_co2e_mg)::bigint
FROM resident_day r JOIN organisation_membership m ON m.resident_id = r.resident_id AND {_MEMBER_ON}
JOIN rule_version v ON r.day >= v.valid_from AND (v.valid_to IS NULL OR r.day <= v.valid_to)
WHERE r.day = :first_day AND r.saved_co2e_mg > 0 GROUP BY 1, 2 ORDER BY 1, 2
""")  # noqa: S608 -- composed of constants of this module

_ORGANISATIONS_SAVED = sa.text("""
SELECT organisation_id, part.key, sum(part.value::bigint)::bigint
FROM organisation_period CROSS JOIN LATERAL jsonb_each_text(saved_co2e_mg) AS part
WHERE grain = 'day' AND starts_on BETWEEN :first_day AND :last_day GROUP BY 1, 2 ORDER BY 1, 2
""")

_KEEP_ORGANISATIONS = sa.text(f"""
INSERT INTO organisation_period AS kept (grain, starts_on, organisation_id, {_FIGURE_NAMES}, counted_at)
SELECT :grain, :first_day, organisation_id, {_FIGURE_NAMES}, :now
FROM json_to_recordset(cast(:rows AS json)) AS c (organisation_id uuid, {_FIGURES})
ORDER BY organisation_id
ON CONFLICT (grain, starts_on, organisation_id) DO UPDATE SET {_FIGURES_KEPT}, registered = EXCLUDED.registered,
    counted_at = EXCLUDED.counted_at
""")  # noqa: S608 -- composed of constants of this module

_DROP_ORGANISATIONS = sa.text("""
DELETE FROM organisation_period AS kept WHERE grain = :grain AND starts_on = :first_day AND NOT EXISTS (
    SELECT 1 FROM json_to_recordset(cast(:rows AS json)) AS c (organisation_id uuid)
    WHERE c.organisation_id = kept.organisation_id)""")

_KINDS_OF_ORGANISATIONS = sa.text("SELECT id, kind FROM organisation WHERE id = ANY(:ids)")

_KEEP_PRIORS = sa.text("""
INSERT INTO period_prior (grain, starts_on, peers, mean, weight, peer_count)
VALUES (:grain, :first_day, :peers, :mean, :weight, :peer_count)
ON CONFLICT (grain, starts_on, peers) DO UPDATE
    SET mean = EXCLUDED.mean, weight = EXCLUDED.weight, peer_count = EXCLUDED.peer_count
""")


def count_period(session: Session, period: CalendarPeriod, *, now: datetime) -> None:
    """Write every figure of one period from the markers, the kept days and the campaigns' counts."""
    values = {
        "grain": period.grain.value,
        "first_day": period.starts_on,
        "last_day": period.ends_on,
        "first_at": day_start(period.starts_on),
        "until": day_start(period.ends_on + timedelta(days=1)),
        "now": now,
        # Enrolment outlives the day of joining: by day or week, one leaving would change hundreds of periods.
        "with_kinds": period.grain in MARKED_GRAINS,
    }
    priors = _count_places(session, values, is_over=period.ends_on < business_day(now))
    priors |= _count_organisations(session, values, period.grain)
    if priors:
        session.execute(
            _KEEP_PRIORS,
            [
                {**values, "peers": peers, "mean": prior.mean, "weight": prior.weight, "peer_count": prior.peers}
                for peers, prior in sorted(priors.items())
            ],
        )


def _count_places(session: Session, values: dict[str, Any], *, is_over: bool) -> dict[str, shrinkage.Prior]:
    statement = _PLACES_FROM_MARKERS if values["with_kinds"] else _PLACES_FROM_DAYS
    rows = [dict(row) for row in session.execute(statement, values).mappings()]
    saved: dict[tuple[str, str], dict[str, int]] = {}
    for place, kind, method, mg in session.execute(_PLACES_SAVED, values):
        saved.setdefault((place, kind), {})[method] = mg
    # Who is registered now says nothing of a period that is over, so what was counted then stands.
    before: dict[str, int] = dict(session.execute(_REGISTERED_BEFORE, values).all()) if is_over else {}
    whole = [row for row in rows if row["campaign_kind"] == ALL_KINDS]
    for row in rows:
        row["saved_co2e_mg"] = saved.get((row["place_code"], row["campaign_kind"]), {})
    for row in whole:
        row["registered"] = before.get(row["place_code"], row["registered"])
    priors = _shrink(whole, lambda row: _peers_of_place(row["place_code"]))
    values = {**values, "rows": msgspec.json.encode(rows).decode()}
    session.execute(_KEEP_PLACES, values)
    session.execute(_DROP_PLACES, values)
    return priors


def _count_organisations(session: Session, values: dict[str, Any], grain: Grain) -> dict[str, shrinkage.Prior]:
    rows = [dict(row) for row in session.execute(_ORGANISATIONS_OF[grain], values).mappings()]
    saved: dict[UUID, dict[str, int]] = {}
    saved_statement = _ORGANISATIONS_SAVED_ON_A_DAY if grain is Grain.DAY else _ORGANISATIONS_SAVED
    for organisation_id, method, mg in session.execute(saved_statement, values):
        saved.setdefault(organisation_id, {})[method] = mg
    ids = [row["organisation_id"] for row in rows]
    kinds: dict[UUID, str] = dict(session.execute(_KINDS_OF_ORGANISATIONS, {"ids": ids}).all()) if ids else {}
    for row in rows:
        row["saved_co2e_mg"] = saved.get(row["organisation_id"], {})
    priors = _shrink(rows, lambda row: f"organisation:{kinds[row['organisation_id']]}")
    values = {**values, "rows": msgspec.json.encode(rows).decode()}
    session.execute(_KEEP_ORGANISATIONS, values)
    session.execute(_DROP_ORGANISATIONS, values)
    return priors


def _peers_of_place(code: str) -> str | None:
    """With whom a place is compared: the other streets or communities of its district. A district stands alone."""
    return {9: f"street:{code[:6]}", 12: f"community:{code[:6]}"}.get(len(code))


def _shrink(
    rows: Sequence[dict[str, Any]], peers_of: Callable[[dict[str, Any]], str | None]
) -> dict[str, shrinkage.Prior]:
    """Put the shrunken rate and its interval into each row that has residents and peers; the priors by peers."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        peers = peers_of(row)
        if peers is not None:
            groups.setdefault(peers, []).append(row)
    priors = {}
    for peers, members in groups.items():
        prior = priors[peers] = shrinkage.fit([_trials(row) for row in members])
        for row in members:
            participants, residents = _trials(row)
            if residents:
                found = shrinkage.shrunk(prior, participants, residents)
                row["rate_shrunk"], row["rate_low"], row["rate_high"] = found.rate, found.low, found.high
    return priors


def _trials(row: dict[str, Any]) -> tuple[int, int]:
    # Whoever was active and then moved away or closed the account is a participant here, and registered no more.
    return row["participants"], max(row["participants"], row["registered"])
