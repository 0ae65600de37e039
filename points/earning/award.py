"""The one award path, for one event or ten thousand.

`award` prices the claims with pure functions and writes them with a fixed number of set-based statements. Everything
that could go wrong between two requests is decided by the rows' own locks and constraints, never by reading first:

1. the activities, where a duplicate or an overlapping trip falls out (ON CONFLICT DO NOTHING);
2. the cap usage, whose upsert locks the resident's week and returns what stood before;
3. transfer, lot, debt and the resident's day, all computed from 2 inside the same statement;
4. the bounds of households, devices, staff and sites, with one guarded upsert in sorted order, in that statement too:
   where one is passed, 1 to 4 are rolled back to a savepoint and done again without the claims beyond it;
5. the community's day, last and in sorted order, because many residents share it and its lock should be short.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import bounds, holds, pricing
from points.earning.claims import Award, Claim, Reason
from points.earning.models import Outcome
from points.earning.pricing import Priced, Tariffs
from points.ledger.models import ISSUANCE

CLAIMS_MAX = 10_000
BOUND_TRIES = 4

_RECORD = """
    n int, id uuid, resident_id uuid, behaviour text, mode text, grade text, source text, external_id text,
    started_at timestamptz, ended_at timestamptz, received_at timestamptz, business_day date, distance_m int,
    weight_g int, steps int, steps_before int, acts int, site text, site_kind text, timing text, channel text,
    device text, staff_id uuid, household_id uuid, priced_points int, saved_co2e_mg bigint, method_id text,
    rule_version_id text, cap_group text, day_cap int, week_cap int, expires_on date, community_code text, reason text,
    outcome text"""

# What most claims have in common is left out of their JSON. 1900 began with a Monday. The household is the resident's
# at this moment, unless the caller says that it has looked (`known`): joined here, it need not pass through Python.
_CLAIM = f"""claim AS MATERIALIZED (
    SELECT n, id, c.resident_id, behaviour, mode, grade, source, external_id, started_at,
           coalesce(ended_at, started_at) AS ended_at, coalesce(received_at, :now) AS received_at, business_day,
           (business_day - date '1900-01-01') % 7 AS week_day,
           business_day - (business_day - date '1900-01-01') % 7 AS week_on, distance_m, weight_g, steps, steps_before,
           coalesce(acts, 1) AS acts, site, site_kind, timing, channel, device, staff_id,
           coalesce(c.household_id, home.household_id) AS household_id, priced_points, saved_co2e_mg, method_id,
           rule_version_id, cap_group, day_cap, week_cap, expires_on, community_code, reason, outcome
    FROM json_to_recordset(cast(:rows AS json)) AS c ({_RECORD})
    LEFT JOIN household_member AS home ON NOT :known AND home.resident_id = c.resident_id
)"""  # noqa: S608 -- composed of constants of this module

_COLUMNS = """
    resident_id, id, behaviour, mode, grade, source, external_id, started_at, ended_at, received_at, business_day,
    community_code, distance_m, weight_g, steps, steps_before, acts, site, site_kind, timing, channel, device, staff_id,
    household_id, priced_points, saved_co2e_mg, method_id, rule_version_id"""

# Sorted, so that two batches meet the same residents in the same order and cannot deadlock.
_WRITE = f"""
    INSERT INTO activity ({_COLUMNS}, outcome)
    SELECT {_COLUMNS}, 'awarded' FROM claim ORDER BY resident_id, started_at, external_id, n
    ON CONFLICT DO NOTHING
    RETURNING id"""  # noqa: S608 -- composed of constants of this module

# One that was recorded and not paid. An overlap is an error here, because nothing says ON CONFLICT of an update.
_WRITE_RECORDED = """
    UPDATE activity SET outcome = 'awarded', reason = NULL, priced_points = claim.priced_points,
           saved_co2e_mg = claim.saved_co2e_mg, method_id = claim.method_id, rule_version_id = claim.rule_version_id
    FROM claim
    WHERE activity.resident_id = claim.resident_id AND activity.id = claim.id
      AND activity.outcome IN ('held', 'refused')
    RETURNING activity.id"""

_PAYING = f"""
WITH {_CLAIM}, written AS (@written
), paid AS MATERIALIZED (
    SELECT n, id, resident_id, started_at, business_day, week_day, week_on, behaviour, grade, source, site, device,
           staff_id, household_id, community_code, distance_m, weight_g, acts, priced_points, saved_co2e_mg,
           rule_version_id, cap_group, day_cap, week_cap, expires_on,
           row_number() OVER (ORDER BY resident_id, started_at, external_id, n) AS turn
    FROM claim JOIN written USING (id)
), usage AS (
    INSERT INTO cap_usage AS kept
        (resident_id, cap_group, week_on, day_cap_points, day_0, day_1, day_2, day_3, day_4, day_5, day_6)
    SELECT resident_id, cap_group, week_on, max(day_cap),
           coalesce(sum(priced_points) FILTER (WHERE week_day = 0), 0),
           coalesce(sum(priced_points) FILTER (WHERE week_day = 1), 0),
           coalesce(sum(priced_points) FILTER (WHERE week_day = 2), 0),
           coalesce(sum(priced_points) FILTER (WHERE week_day = 3), 0),
           coalesce(sum(priced_points) FILTER (WHERE week_day = 4), 0),
           coalesce(sum(priced_points) FILTER (WHERE week_day = 5), 0),
           coalesce(sum(priced_points) FILTER (WHERE week_day = 6), 0)
    FROM paid GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (resident_id, cap_group, week_on) DO UPDATE SET
        day_cap_points = EXCLUDED.day_cap_points,
        day_capped_before =
            least(kept.day_0, EXCLUDED.day_cap_points) + least(kept.day_1, EXCLUDED.day_cap_points)
            + least(kept.day_2, EXCLUDED.day_cap_points) + least(kept.day_3, EXCLUDED.day_cap_points)
            + least(kept.day_4, EXCLUDED.day_cap_points) + least(kept.day_5, EXCLUDED.day_cap_points)
            + least(kept.day_6, EXCLUDED.day_cap_points),
        day_0 = kept.day_0 + EXCLUDED.day_0, day_1 = kept.day_1 + EXCLUDED.day_1,
        day_2 = kept.day_2 + EXCLUDED.day_2, day_3 = kept.day_3 + EXCLUDED.day_3,
        day_4 = kept.day_4 + EXCLUDED.day_4, day_5 = kept.day_5 + EXCLUDED.day_5,
        day_6 = kept.day_6 + EXCLUDED.day_6
    RETURNING resident_id, cap_group, week_on, day_capped_before,
              ARRAY[day_0, day_1, day_2, day_3, day_4, day_5, day_6] AS days
), running AS (
    -- What the claim's own day held before this batch, and how far the batch has come with this claim.
    SELECT p.*, u.day_capped_before,
           u.days[p.week_day + 1] - sum(p.priced_points) OVER same_day
               + sum(p.priced_points) OVER (same_day ORDER BY p.turn ROWS UNBOUNDED PRECEDING) AS day_total
    FROM paid p JOIN usage u USING (resident_id, cap_group, week_on)
    WINDOW same_day AS (PARTITION BY p.resident_id, p.cap_group, p.business_day)
), day_capped AS (
    SELECT *, least(day_cap, day_total) - least(day_cap, day_total - priced_points) AS day_points FROM running
), week_running AS (
    SELECT *, day_capped_before + sum(day_points) OVER (
        PARTITION BY resident_id, cap_group, week_on ORDER BY turn ROWS UNBOUNDED PRECEDING) AS week_total
    FROM day_capped
), final AS MATERIALIZED (
    SELECT *, (least(week_cap, week_total) - least(week_cap, week_total - day_points))::int AS points FROM week_running
), journal AS (
    INSERT INTO transfer (resident_id, id, account_id, kind, points, expires_on, occurred_at, recorded_at)
    SELECT resident_id, id, {ISSUANCE}, 'award', points, expires_on, started_at, :now FROM final WHERE points > 0
), repaid AS (
    UPDATE debt SET points = debt.points - least(debt.points, earned.points),
                    last_payment_points = least(debt.points, earned.points)
    FROM (SELECT resident_id, sum(points) AS points FROM final GROUP BY 1) AS earned
    WHERE debt.resident_id = earned.resident_id AND debt.points > 0 AND earned.points > 0
    RETURNING debt.resident_id, debt.last_payment_points
), lot_running AS (
    SELECT resident_id, expires_on, points,
           sum(points) OVER (PARTITION BY resident_id ORDER BY expires_on) AS total
    FROM (SELECT resident_id, expires_on, sum(points) AS points FROM final WHERE points > 0 GROUP BY 1, 2) AS earned
), lots AS (
    INSERT INTO lot AS kept (resident_id, expires_on, remaining_points)
    SELECT resident_id, expires_on,
           greatest(total - coalesce(last_payment_points, 0), 0)
           - greatest(total - points - coalesce(last_payment_points, 0), 0)
    FROM lot_running LEFT JOIN repaid USING (resident_id) ORDER BY 1, 2
    ON CONFLICT (resident_id, expires_on) DO UPDATE
        SET remaining_points = kept.remaining_points + EXCLUDED.remaining_points
), days AS (
    INSERT INTO resident_day AS kept
        (resident_id, day, behaviour, community_code, activities, distance_m, weight_g, saved_co2e_mg, points)
    SELECT resident_id, business_day, behaviour, max(community_code), sum(acts), coalesce(sum(distance_m), 0),
           coalesce(sum(weight_g), 0), sum(saved_co2e_mg), sum(points)
    FROM final GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (resident_id, day, behaviour) DO UPDATE SET
        activities = kept.activities + EXCLUDED.activities, distance_m = kept.distance_m + EXCLUDED.distance_m,
        weight_g = kept.weight_g + EXCLUDED.weight_g, saved_co2e_mg = kept.saved_co2e_mg + EXCLUDED.saved_co2e_mg,
        points = kept.points + EXCLUDED.points
), bound AS MATERIALIZED (
    SELECT * FROM json_to_recordset(cast(:limits AS json)) AS b (version text, name text, "limit" bigint)
), counted AS (
    -- One pass for each kind: a claim counts to few of them, and most claims only to a household's.
    SELECT 'household' AS name, 'household' AS kind, household_id::text AS subject, business_day AS day,
           max(rule_version_id) AS version, sum(points) AS points
    FROM final WHERE household_id IS NOT NULL AND points > 0 GROUP BY household_id, business_day
    UNION ALL
    SELECT CASE WHEN device LIKE 'phone:%' THEN 'phone' ELSE 'device' END,
           CASE WHEN device LIKE 'phone:%' THEN 'phone' ELSE 'device' END, device, business_day, max(rule_version_id),
           sum(points)
    FROM final WHERE device IS NOT NULL AND points > 0 GROUP BY device, business_day
    UNION ALL
    SELECT 'staff', 'staff', staff_id::text, business_day, max(rule_version_id), sum(points)
    FROM final WHERE staff_id IS NOT NULL AND points > 0 GROUP BY staff_id, business_day
    UNION ALL
    SELECT 'site', 'site', CASE WHEN grade = 'partner-signed' THEN source || ':' || site ELSE site END, business_day,
           max(rule_version_id), sum(points)
    FROM final WHERE site IS NOT NULL AND points > 0 GROUP BY 3, 4
    UNION ALL
    SELECT grade, 'grade', resident_id || ':' || grade, week_on, max(rule_version_id), sum(points)
    FROM final WHERE grade IN (SELECT name FROM bound) AND points > 0 GROUP BY resident_id, grade, week_on
), asked AS MATERIALIZED (
    SELECT kind, subject, day, "limit", points FROM counted JOIN bound USING (version, name)
), taken AS (
    -- Sorted, so that two awards meet the shared rows in the same order.
    INSERT INTO bound_usage AS kept (kind, subject, day, limit_points, taken_points)
    SELECT kind, subject, day, "limit", points FROM asked WHERE points <= "limit" ORDER BY 1, 2, 3
    ON CONFLICT (kind, subject, day) DO UPDATE
        SET limit_points = EXCLUDED.limit_points, taken_points = kept.taken_points + EXCLUDED.taken_points
        WHERE kept.taken_points + EXCLUDED.taken_points <= EXCLUDED.limit_points
    RETURNING 1
)
SELECT n, points FROM final
UNION ALL
SELECT -1, ((SELECT count(*) FROM asked) - (SELECT count(*) FROM taken))::int
"""  # noqa: S608 -- composed of constants of this module

_PAY = sa.text(_PAYING.replace("@written", _WRITE))
_PAY_RECORDED = sa.text(_PAYING.replace("@written", _WRITE_RECORDED))

_RECORD_UNPAID = sa.text(f"""
WITH {_CLAIM}, written AS (
    INSERT INTO activity ({_COLUMNS}, outcome, reason)
    SELECT {_COLUMNS}, coalesce(outcome, 'refused'), reason FROM claim ORDER BY resident_id, started_at, external_id, n
    ON CONFLICT (resident_id, source, external_id) DO NOTHING
    RETURNING id
)
SELECT n FROM claim JOIN written USING (id)
""")  # noqa: S608 -- composed of constants of this module

_COMMUNITY = sa.text("""
INSERT INTO community_day AS kept
    (community_code, day, behaviour, mode, method_id, activities, distance_m, weight_g, saved_co2e_mg, points)
SELECT community_code, day, behaviour, mode, method_id, activities, distance_m, weight_g, saved_co2e_mg, points
FROM json_to_recordset(cast(:rows AS json)) AS c (
    community_code text, day date, behaviour text, mode text, method_id text, activities bigint, distance_m bigint,
    weight_g bigint, saved_co2e_mg bigint, points bigint)
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (community_code, day, behaviour, mode, method_id) DO UPDATE SET
    activities = kept.activities + EXCLUDED.activities, distance_m = kept.distance_m + EXCLUDED.distance_m,
    weight_g = kept.weight_g + EXCLUDED.weight_g, saved_co2e_mg = kept.saved_co2e_mg + EXCLUDED.saved_co2e_mg,
    points = kept.points + EXCLUDED.points
""")


class TooManyClaims(ValueError):
    """More than CLAIMS_MAX claims in one call: a fault of the caller, who must cut them."""


def award(session: Session, claims: Sequence[Claim], *, now: datetime) -> list[Award]:
    """Pay what the claims are worth and say what became of each, in their order.

    Duplicates are told apart by (resident, source, external id): nothing is stored for them. Refused and held claims
    are stored with their reason, so that the resident can read it.
    """
    if len(claims) > CLAIMS_MAX:
        raise TooManyClaims(len(claims))
    tariffs = pricing.current(session)
    rows = [pricing.price(tariffs, claim, n, now=now) for n, claim in enumerate(claims)]
    return award_priced(session, rows, _homes(session, rows), tariffs=tariffs, now=now)


def award_priced(
    session: Session, rows: Sequence[Priced], homes: Mapping[UUID, str | None], *, tariffs: Tariffs, now: datetime
) -> list[Award]:
    """`award` for claims that the caller has priced already, numbered from 0 in their order.

    `homes` has the home community of each enabled resident among them, None for one who has not chosen any.
    """
    to_pay: list[Priced] = []
    unpaid: list[Priced] = []
    answers: list[Award | None] = [None] * len(rows)
    standing = holds.current(session, now=now)
    any_stands = bool(standing)
    if standing.households:
        bounds.find_households(session, rows)
    for row in rows:
        row.community_code = homes.get(row.resident_id)
        if row.community_code is None:
            reason = Reason.NO_COMMUNITY if row.resident_id in homes else Reason.UNKNOWN_RESIDENT
            answers[row.n] = Award(Outcome.REFUSED, reason, 0, 0, None)
            continue
        if any_stands and row.reason is None:
            row.reason = standing.reason_of(row)
            row.outcome = row.reason and Outcome.HELD.value
        (unpaid if row.reason else to_pay).append(row)
    points = _pay_within_bounds(session, to_pay, tariffs, now=now)
    for row in to_pay:
        if row.n in points:
            answers[row.n] = _paid(row, points[row.n])
        else:
            # It passed a bound; or it met its own external id, in which case the next statement finds it too; or
            # another trip's time.
            row.reason = row.reason or Reason.OVERLAP
            unpaid.append(row)
    recorded = _record_unpaid(session, unpaid, now=now)
    for row in unpaid:
        answers[row.n] = (
            Award(Outcome(row.outcome or Outcome.REFUSED), row.reason, 0, 0, row.id)
            if row.n in recorded
            else Award(None, Reason.DUPLICATE, 0, 0, None)
        )
    _count_for_communities(session, to_pay, points)
    return [answer for answer in answers if answer is not None]


def pay_recorded(session: Session, row: Priced, *, tariffs: Tariffs, now: datetime) -> int | None:
    """Pay a claim that was recorded as held or refused; its points, or None: it passes a bound, and `row` says which.

    Raises IntegrityError (activity_no_overlap_excl) when another trip of its time was paid meanwhile.
    """
    worth = {row.n: row.priced_points}
    points = _pay_what_fits(session, [row], tariffs, worth, now=now, statement=_PAY_RECORDED)
    _count_for_communities(session, [row], points)
    return points.get(row.n)


def pay_restored(session: Session, row: Priced, *, now: datetime) -> int | None:
    """Pay a claim whose caps and bounds were taken when it was paid for the first time; None when it overlaps."""
    points, _ = _pay(session, [row], households_known=True, now=now)
    _count_for_communities(session, [row], points)
    return points.get(row.n)


def _paid(row: Priced, points: int) -> Award:
    reason = Reason.CAPPED if points < row.priced_points else None
    return Award(Outcome.AWARDED, reason, points, row.saved_co2e_mg, row.id)


_HOMES = sa.text("SELECT resident_id, community_code FROM resident WHERE resident_id = ANY(:residents) AND enabled")


def _homes(session: Session, rows: Sequence[Priced]) -> dict[UUID, str | None]:
    """The home community of each enabled resident among the rows."""
    return dict(session.execute(_HOMES, {"residents": list({row.resident_id for row in rows})}).all())


def _pay_within_bounds(session: Session, rows: Sequence[Priced], tariffs: Tariffs, *, now: datetime) -> dict[int, int]:
    """Pay the rows; points by number. Those beyond a bound get its reason and are not paid.

    First all are paid and the bounds taken with what that came to, because caps and overlaps decide what a claim pays.
    Where a bound is short, the claims beyond it are left out by what this try paid. As a cap then lets others through,
    or another award takes the rest meanwhile, that can be short again: the last try locks the bounds and counts every
    claim at its price, which refuses some that a cap would have cut anyway.
    """
    if not tariffs.bounded:
        return _pay(session, rows, now=now)[0]
    if tariffs.left:
        bounds.refuse_known(session, rows, tariffs)
    with session.begin_nested() as savepoint:
        points, fits = _pay(session, [row for row in rows if row.reason is None], limits=tariffs.limits, now=now)
        if not fits:
            savepoint.rollback()
    if fits:
        return points
    bounds.find_households(session, rows)
    return _pay_what_fits(session, rows, tariffs, points, now=now)


def _pay_what_fits(
    session: Session,
    rows: Sequence[Priced],
    tariffs: Tariffs,
    points: dict[int, int],
    *,
    now: datetime,
    statement: sa.TextClause = _PAY,
) -> dict[int, int]:
    """Pay the rows but those beyond a bound, which get its reason. `points` is what a try has paid, or might pay."""
    keys, limits = bounds.keys_of_all(rows, tariffs)
    for attempt in range(BOUND_TRIES):
        with session.begin_nested() as savepoint:
            if attempt == BOUND_TRIES - 1:
                points, left = {row.n: row.priced_points for row in rows}, bounds.lock(session, limits)
            else:
                left = bounds.left(session, limits)
            bounds.remember(tariffs, left, bounds.refuse_beyond(rows, points, keys, left))
            left_in = [row for row in rows if row.reason is None]
            points, fits = _pay(
                session, left_in, limits=tariffs.limits, households_known=True, now=now, statement=statement
            )
            if not fits:
                savepoint.rollback()
        if fits:
            return points
    raise AssertionError("locked bounds cannot be passed")


def _pay(
    session: Session,
    rows: Sequence[Priced],
    *,
    now: datetime,
    limits: str = "[]",
    households_known: bool = False,
    statement: sa.TextClause = _PAY,
) -> tuple[dict[int, int], bool]:
    """The points of each row by its number, and whether they fit into every bound."""
    if not rows:
        return {}, True
    keys = {"rows": msgspec.json.encode(rows).decode(), "limits": limits, "known": households_known, "now": now}
    paid: dict[int, int] = dict(session.execute(statement, keys).all())
    short = paid.pop(-1)
    return paid, short == 0


def _record_unpaid(session: Session, rows: Sequence[Priced], *, now: datetime) -> set[int]:
    if not rows:
        return set()
    return set(
        session.scalars(_RECORD_UNPAID, {"rows": msgspec.json.encode(rows).decode(), "known": False, "now": now})
    )


def _count_for_communities(session: Session, rows: Sequence[Priced], points: dict[int, int]) -> None:
    sums: dict[tuple[str | None, date, str, str, str], list[int]] = {}
    for row in rows:
        if row.n not in points:
            continue
        key = (row.community_code, row.business_day, row.behaviour, row.mode, row.method_id or "")
        total = sums.get(key)
        if total is None:
            total = sums[key] = [0, 0, 0, 0, 0]
        total[0] += 1 if row.acts is None else row.acts
        total[1] += row.distance_m or 0
        total[2] += row.weight_g or 0
        total[3] += row.saved_co2e_mg
        total[4] += points[row.n]
    if not sums:
        return
    counted = [dict(zip(_COUNTED, (*key, *total), strict=True)) for key, total in sums.items()]
    session.execute(_COMMUNITY, {"rows": msgspec.json.encode(counted).decode()})


_COUNTED = (
    *("community_code", "day", "behaviour", "mode", "method_id"),
    *("activities", "distance_m", "weight_g", "saved_co2e_mg", "points"),
)
