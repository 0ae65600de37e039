"""Keeping the counts of activity: the days that changed are counted again, and the periods that hold them.

Days and weeks are counted from the activities. A month is first added up by resident (`resident_month`), and months,
quarters and years are counted from that, so the activities of a year are never read at once. A count costs what its
period holds, so a large one waits some hours between two counts (WAITS); the night leaves nothing waiting.

What a resident did in two communities of one street must count once in the street. So few move within a period that
everybody is counted by community, streets and districts are added up from that, and what the movers have too much is
taken off. `flask counts verify-activity` counts the plain way and compares.

Everything is written under one advisory lock, in READ COMMITTED: a day's mark is read before its periods are counted,
so whatever is committed in between is found by the next round.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.statistics.marks import changed_days, keep_marks
from points.statistics.periods import CalendarPeriod, Grain, periods_with
from server.clock import business_day, day_start

# By how many activities a period had when last counted: how long it then stays as it is.
WAITS = ((300_000, timedelta(0)), (5_000_000, timedelta(hours=1)))
WAIT_LARGEST = timedelta(hours=6)

# Of one counting process at a time; the groups of a large month then hardly spill to disk.
WORK_MEMORY_MB = 128

_LOCK = sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended('activity-counts', 0))")


class CountIsRunning(Exception):
    """Another process is counting; there is nothing to do but to come back later."""


@dataclass(frozen=True, slots=True)
class DuePeriod:
    """A period of which a day has changed since its last count."""

    period: CalendarPeriod
    counted_at: datetime | None
    activities: int

    def can_wait(self, now: datetime) -> bool:
        """Whether it is so large, and was counted so lately, that it is left as it is for now."""
        if self.counted_at is None:
            return False
        wait = next((wait for most, wait in WAITS if self.activities <= most), WAIT_LARGEST)
        return now < self.counted_at + wait


def lock(session: Session) -> None:
    """Be the only one that counts until the transaction ends. Raises CountIsRunning."""
    if not session.scalar(_LOCK):
        raise CountIsRunning


# Which periods are due

_MAKE_DUE = sa.text("""
INSERT INTO activity_period_count AS kept (grain, starts_on, is_due)
SELECT DISTINCT grain, date_trunc(grain, cast(day AS timestamp))::date, true
FROM unnest(cast(:days AS date[])) AS day
CROSS JOIN (VALUES ('day'), ('week'), ('month'), ('quarter'), ('year')) AS grains (grain)
ORDER BY 1, 2
ON CONFLICT (grain, starts_on) DO UPDATE SET is_due = true WHERE NOT kept.is_due
""")

_DUE = sa.text("SELECT grain, starts_on, counted_at, activities FROM activity_period_count WHERE is_due")


def find_due(session: Session, *, first_day: date, last_day: date) -> int:
    """Mark every period as due that holds a changed day of this span; how many days changed. Raises CountIsRunning."""
    lock(session)
    marks = changed_days(session, first_day, last_day)
    if marks:
        session.execute(_MAKE_DUE, {"days": list(marks)})
        keep_marks(session, marks)
    return len(marks)


def due_periods(session: Session) -> list[DuePeriod]:
    """What is to be counted, in no order."""
    rows = session.execute(_DUE)
    return [DuePeriod(CalendarPeriod(Grain(row.grain), row.starts_on), row.counted_at, row.activities) for row in rows]


def is_settled(session: Session, period: CalendarPeriod) -> bool:
    """Whether the period has been counted and nothing of it has changed since, as far as the last round looked."""
    found = session.scalar(
        sa.text("SELECT NOT is_due FROM activity_period_count WHERE grain = :grain AND starts_on = :starts_on"),
        {"grain": period.grain.value, "starts_on": period.starts_on},
    )
    return bool(found)


def forget_everything(session: Session) -> None:
    """Have every day and period counted anew by the next rounds. What is kept stays readable until then.

    Registered residents of past periods stay as they are, for they cannot be counted again. Raises CountIsRunning.
    """
    lock(session)
    session.execute(sa.text("DELETE FROM activity_day_mark"))
    session.execute(sa.text("UPDATE activity_period_count SET is_due = true"))


# Counting

_MEASURES = ("activities", "distance_m", "weight_g", "points")
_COUNTED = ("distance_m", "weight_g", "points")  # measures that a resident with a record may have nothing of
_NAME_OF_RESIDENTS = {"distance_m": "distance_residents", "weight_g": "weight_residents", "points": "points_residents"}


def _list(shape: str, measures: Iterable[str] = _MEASURES) -> str:
    """The shape once for each measure, as a list of SQL: {m} the measure, {r} the name of its number of residents."""
    return ", ".join(shape.format(m=measure, r=_NAME_OF_RESIDENTS.get(measure, "")) for measure in measures)


_DROP_PARTS = sa.text("DROP TABLE IF EXISTS pg_temp.activity_part")

# An award's transfer has its activity's id and start, so the same span bounds both.
_MAKE_PARTS = sa.text("""
CREATE TEMPORARY TABLE activity_part ON COMMIT DROP AS
SELECT a.business_day AS day, date_trunc('week', cast(a.business_day AS timestamp))::date AS week,
       a.resident_id, a.community_code, a.behaviour, a.mode, coalesce(a.method_id, '') AS method_id,
       cast(a.acts AS int) AS activities, coalesce(a.distance_m, 0) AS distance_m, coalesce(a.weight_g, 0) AS weight_g,
       a.saved_co2e_mg, coalesce(t.points, 0)::int AS points,
       coalesce(p.code, '') AS partner, coalesce(a.site, '') AS site
FROM activity a
LEFT JOIN transfer t ON t.resident_id = a.resident_id AND t.id = a.id AND t.kind = 'award'
    AND t.occurred_at >= :first_at AND t.occurred_at < :until
LEFT JOIN partner p ON p.code = a.source
WHERE a.business_day BETWEEN :first_day AND :last_day AND a.business_day = ANY(cast(:days AS date[]))
  AND a.outcome = 'awarded'
""")

_ANALYSE_PARTS = sa.text("ANALYZE activity_part")

_DROP_MONTH = (
    sa.text("DELETE FROM resident_month WHERE month_on = :month_on"),
    sa.text("DELETE FROM site_month WHERE month_on = :month_on"),
)

_ADD_UP_MONTH = (
    sa.text("""
INSERT INTO resident_month (resident_id, month_on, behaviour, mode, method_id, community_code,
                            activities, distance_m, weight_g, saved_co2e_mg, points)
SELECT resident_id, :month_on, behaviour, mode, method_id, community_code, sum(activities)::int,
       sum(distance_m)::bigint, sum(weight_g)::bigint, sum(saved_co2e_mg)::bigint, sum(points)::bigint
FROM activity_part WHERE day BETWEEN :month_on AND :month_ends_on
GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
"""),
    sa.text("""
INSERT INTO site_month (month_on, community_code, behaviour, mode, partner, site)
SELECT DISTINCT cast(:month_on AS date), community_code, behaviour, mode, partner, site
FROM activity_part WHERE day BETWEEN :month_on AND :month_ends_on AND (partner <> '' OR site <> '')
ORDER BY 1, 2, 3, 4, 5, 6
"""),
)

_STARTS = "date_trunc(:grain, cast({day} AS timestamp))::date"

_FROM_PARTS = """
    (SELECT {grain} AS starts_on, activity_part.* FROM activity_part WHERE {grain} = ANY(cast(:starts AS date[])))"""

_FROM_MONTHS = f"""
    (SELECT {_STARTS.format(day="month_on")} AS starts_on, {{table}}.* FROM {{table}}
     WHERE month_on BETWEEN :first_day AND :last_day
       AND {_STARTS.format(day="month_on")} = ANY(cast(:starts AS date[])))"""  # noqa: S608

_BY = "starts_on, place_code, behaviour, mode"
_SETS = """GROUPING SETS ((starts_on, {who}, behaviour, mode), (starts_on, {who}, behaviour), (starts_on, {who}))"""
_KIND = "coalesce(behaviour, '') AS behaviour, coalesce(mode, '') AS mode"

_COUNT = f"""
INSERT INTO activity_period (grain, {_BY}, {_list("{m}")}, residents, {_list("{r}", _COUNTED)}, {_list("largest_{m}")},
                             {_list("squared_{m}")}, sites, partners, reversed)
WITH own AS MATERIALIZED (
    SELECT starts_on, resident_id, community_code, {_KIND}, {_list("sum({m})::bigint AS {m}")}
    FROM %(parts)s parts GROUP BY {_SETS.format(who="resident_id, community_code")}
), community AS MATERIALIZED (
    SELECT starts_on, community_code, behaviour, mode, {_list("sum({m})::bigint AS {m}")}, count(*) AS residents,
           {_list("count(*) FILTER (WHERE {m} > 0) AS {r}", _COUNTED)}, {_list("max({m}) AS largest_{m}")},
           {_list("sum(cast({m} AS float8) * {m}) AS squared_{m}")}
    FROM own GROUP BY 1, 2, 3, 4
), mover AS (
    SELECT starts_on, resident_id FROM own WHERE behaviour = '' GROUP BY 1, 2 HAVING count(*) > 1
), moved AS (
    -- One resident's communities inside one larger place, and what adding them up counts too often or too small.
    SELECT starts_on, left(community_code, digits) AS place_code, behaviour, mode, count(*) - 1 AS residents,
           {_list("greatest(count(*) FILTER (WHERE {m} > 0) - 1, 0) AS {r}", _COUNTED)},
           {_list("sum({m})::bigint AS {m}")},
           {_list("sum(cast({m} AS float8)) ^ 2 - sum(cast({m} AS float8) * {m}) AS squared_{m}")}
    FROM own JOIN mover USING (starts_on, resident_id) CROSS JOIN (VALUES (6), (9)) AS sizes (digits)
    GROUP BY starts_on, resident_id, 2, behaviour, mode HAVING count(*) > 1
), passed AS (
    SELECT starts_on, place_code, {_KIND}, count(DISTINCT (partner, site)) FILTER (WHERE site <> '') AS sites,
           count(DISTINCT partner) FILTER (WHERE partner <> '') AS partners
    FROM (SELECT DISTINCT starts_on, left(community_code, digits) AS place_code, behaviour, mode, partner, site
          FROM (SELECT DISTINCT starts_on, community_code, behaviour, mode, partner, site FROM %(sites)s parts
                WHERE partner <> '' OR site <> '') near
          CROSS JOIN (VALUES (6), (9), (12)) AS sizes (digits)) seen
    GROUP BY {_SETS.format(who="place_code")}
), undone AS (
    SELECT starts_on, place_code, {_KIND}, count(*) AS reversed
    FROM (SELECT {_STARTS.format(day="business_day")} AS starts_on, left(community_code, digits) AS place_code,
                 behaviour, mode
          FROM activity CROSS JOIN (VALUES (6), (9), (12)) AS sizes (digits)
          WHERE outcome = 'reversed' AND business_day BETWEEN :first_day AND :last_day
            AND {_STARTS.format(day="business_day")} = ANY(cast(:starts AS date[]))) taken_back
    GROUP BY {_SETS.format(who="place_code")}
)
SELECT :grain, {_BY}, {_list("sum({m})")}, sum(residents), {_list("sum({r})", _COUNTED)}, {_list("max(largest_{m})")},
       {_list("sum(squared_{m})")}, sum(sites), sum(partners), sum(reversed)
FROM (
    -- Together and not joined: the planner cannot guess how many places have how many kinds of activity.
    SELECT starts_on, left(community_code, digits) AS place_code, behaviour, mode, {_list("{m}")}, residents,
           {_list("{r}", _COUNTED)}, {_list("largest_{m}")}, {_list("squared_{m}")}, 0 AS sites, 0 AS partners,
           0 AS reversed
    FROM community CROSS JOIN (VALUES (6), (9), (12)) AS sizes (digits)
    UNION ALL
    SELECT {_BY}, {_list("0")}, -residents, {_list("-{r}", _COUNTED)}, {_list("{m}")}, {_list("squared_{m}")}, 0, 0, 0
    FROM moved
    UNION ALL
    SELECT {_BY}, {_list("0")}, 0, {_list("0", _COUNTED)}, {_list("0")}, {_list("0")}, sites, partners, 0 FROM passed
    UNION ALL
    SELECT {_BY}, {_list("0")}, 0, {_list("0", _COUNTED)}, {_list("0")}, {_list("0")}, 0, 0, reversed FROM undone
) parts
GROUP BY {_BY}
"""  # noqa: S608 -- composed of constants of this module

_COUNT_SAVED = f"""
INSERT INTO activity_saving (grain, {_BY}, method_id, saved_co2e_mg, residents, largest_saved_co2e_mg)
WITH own AS MATERIALIZED (
    SELECT starts_on, method_id, resident_id, community_code, {_KIND}, sum(saved_co2e_mg)::bigint AS mg
    FROM %(parts)s parts WHERE saved_co2e_mg > 0
    GROUP BY {_SETS.format(who="method_id, resident_id, community_code")}
), community AS MATERIALIZED (
    SELECT starts_on, method_id, community_code, behaviour, mode, sum(mg)::bigint AS mg, count(*) AS residents,
           max(mg) AS largest
    FROM own GROUP BY 1, 2, 3, 4, 5
), mover AS (
    SELECT starts_on, method_id, resident_id FROM own WHERE behaviour = '' GROUP BY 1, 2, 3 HAVING count(*) > 1
), moved AS (
    SELECT starts_on, method_id, left(community_code, digits) AS place_code, behaviour, mode, count(*) - 1 AS residents,
           sum(mg)::bigint AS mg
    FROM own JOIN mover USING (starts_on, method_id, resident_id) CROSS JOIN (VALUES (6), (9)) AS sizes (digits)
    GROUP BY starts_on, method_id, resident_id, 3, behaviour, mode HAVING count(*) > 1
)
SELECT :grain, {_BY}, method_id, sum(mg), sum(residents), max(largest)
FROM (
    SELECT starts_on, left(community_code, digits) AS place_code, behaviour, mode, method_id, mg, residents, largest
    FROM community CROSS JOIN (VALUES (6), (9), (12)) AS sizes (digits) WHERE method_id <> ''
    UNION ALL
    SELECT {_BY}, method_id, 0, -residents, mg FROM moved WHERE method_id <> ''
) parts
GROUP BY {_BY}, method_id
"""  # noqa: S608 -- composed of constants of this module

_COUNTS_FROM_PARTS = {
    grain: (
        sa.text(_COUNT % {"parts": parts, "sites": parts}),
        sa.text(_COUNT_SAVED % {"parts": parts}),
    )
    for grain, parts in ((grain, _FROM_PARTS.format(grain=grain.value)) for grain in (Grain.DAY, Grain.WEEK))
}
_COUNTS_FROM_MONTHS = (
    sa.text(
        _COUNT
        % {"parts": _FROM_MONTHS.format(table="resident_month"), "sites": _FROM_MONTHS.format(table="site_month")}
    ),
    sa.text(_COUNT_SAVED % {"parts": _FROM_MONTHS.format(table="resident_month")}),
)

_DROP = (
    sa.text("DELETE FROM activity_period WHERE grain = :grain AND starts_on = ANY(cast(:starts AS date[]))"),
    sa.text("DELETE FROM activity_saving WHERE grain = :grain AND starts_on = ANY(cast(:starts AS date[]))"),
)

_KEEP = sa.text("""
UPDATE activity_period_count AS kept SET is_due = false, counted_at = :now, activities = (
    SELECT coalesce(sum(p.activities), 0) FROM activity_period p
    WHERE p.grain = kept.grain AND p.starts_on = kept.starts_on AND p.behaviour = '' AND p.mode = ''
      AND length(p.place_code) = 6)
WHERE grain = :grain AND starts_on = ANY(cast(:starts AS date[]))
""")

# Every place of the period; a past one keeps the registered residents that were counted before its end.
_REGISTERED = sa.text("""
WITH span AS (
    SELECT starts_on, ends_on FROM unnest(cast(:starts AS date[]), cast(:ends AS date[])) AS s (starts_on, ends_on)
), joined AS MATERIALIZED (
    SELECT community_code, cast(created_at AT TIME ZONE 'Asia/Shanghai' AS date) AS day, count(*) AS residents
    FROM resident WHERE enabled AND community_code IS NOT NULL GROUP BY 1, 2
)
INSERT INTO registered_period AS kept (grain, starts_on, place_code, registered)
SELECT :grain, starts_on, left(code, digits), sum(residents)
FROM (
    SELECT starts_on, code, 0 AS residents FROM division JOIN span
        ON valid_from <= ends_on AND (valid_to IS NULL OR valid_to >= starts_on) WHERE level = 'community'
    UNION ALL
    SELECT starts_on, community_code, sum(residents) FROM joined JOIN span ON day <= ends_on GROUP BY 1, 2
    UNION ALL
    SELECT starts_on, place_code, 0 FROM activity_period JOIN span USING (starts_on)
        WHERE grain = :grain AND behaviour = '' AND length(place_code) = 12
) parts CROSS JOIN (VALUES (6), (9), (12)) AS sizes (digits)
GROUP BY 2, 3 ORDER BY 2, 3
ON CONFLICT (grain, starts_on, place_code) DO UPDATE SET registered = EXCLUDED.registered
    WHERE kept.starts_on = ANY(cast(:present AS date[]))
""")


def count_month(session: Session, month: date, periods: Sequence[CalendarPeriod], *, now: datetime) -> None:
    """Count days, weeks that begin in this month, and the month itself, as far as they are among `periods`.

    Raises CountIsRunning.
    """
    lock(session)
    _give_memory(session)
    spans = sorted({day for period in periods for day in _days(period)})
    first_day, last_day = spans[0], spans[-1]
    session.execute(_DROP_PARTS)
    session.execute(
        _MAKE_PARTS,
        {
            "days": spans,
            "first_day": first_day,
            "last_day": last_day,
            "first_at": day_start(first_day),
            "until": day_start(last_day + timedelta(days=1)),
        },
    )
    session.execute(_ANALYSE_PARTS)
    for grain, statements in _COUNTS_FROM_PARTS.items():
        _count(session, [each for each in periods if each.grain is grain], statements, now=now)
    whole = [each for each in periods if each.grain is Grain.MONTH]
    for each in whole:
        values = {"month_on": month, "month_ends_on": each.ends_on}
        for statement in (*_DROP_MONTH, *_ADD_UP_MONTH):
            session.execute(statement, values)
    _count(session, whole, _COUNTS_FROM_MONTHS, now=now)


def count_long(session: Session, period: CalendarPeriod, *, now: datetime) -> None:
    """Count a quarter or a year from its months, none of which may be due. Raises CountIsRunning."""
    lock(session)
    _give_memory(session)
    _count(session, [period], _COUNTS_FROM_MONTHS, now=now)


def _give_memory(session: Session) -> None:
    session.execute(sa.text(f"SET LOCAL work_mem = '{WORK_MEMORY_MB}MB'"))


def _days(period: CalendarPeriod) -> list[date]:
    return [period.starts_on + timedelta(days=n) for n in range((period.ends_on - period.starts_on).days + 1)]


def _count(
    session: Session, periods: Sequence[CalendarPeriod], statements: Sequence[sa.TextClause], *, now: datetime
) -> None:
    """Periods of one grain, all their rows written anew."""
    if not periods:
        return
    today = business_day(now)
    values = {
        "grain": periods[0].grain.value,
        "starts": [each.starts_on for each in periods],
        "first_day": min(each.starts_on for each in periods),
        "last_day": max(each.ends_on for each in periods),
    }
    for statement in (*_DROP, *statements):
        session.execute(statement, values)
    session.execute(
        _REGISTERED,
        {
            **values,
            "ends": [each.ends_on for each in periods],
            "present": [each.starts_on for each in periods if each.ends_on >= today],
        },
    )
    session.execute(_KEEP, {**values, "now": now})


def by_month(periods: Iterable[CalendarPeriod]) -> dict[date, list[CalendarPeriod]]:
    """Days, weeks and months by the month in which they begin, the newest first."""
    months: dict[date, list[CalendarPeriod]] = {}
    for each in periods:
        if each.grain in (Grain.DAY, Grain.WEEK, Grain.MONTH):
            months.setdefault(each.starts_on.replace(day=1), []).append(each)
    return dict(sorted(months.items(), reverse=True))


def countable_long(chosen: Iterable[CalendarPeriod], waiting: Iterable[CalendarPeriod]) -> list[CalendarPeriod]:
    """The quarters and years among `chosen`, without those that are added up from a month that waits."""
    held = {period for each in waiting if each.grain is Grain.MONTH for period in periods_with(each.starts_on)}
    return sorted(each for each in chosen if each.grain in (Grain.QUARTER, Grain.YEAR) and each not in held)
