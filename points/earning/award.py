"""The one award path, for one event or ten thousand.

`award` prices the claims with pure functions and writes them with a fixed number of set-based statements. Everything
that could go wrong between two requests is decided by the rows' own locks and constraints, never by reading first:

1. the activities, where a duplicate or an overlapping trip falls out (ON CONFLICT DO NOTHING);
2. the cap usage, whose upsert locks the resident's week and returns what stood before;
3. transfer, lot, debt and the resident's day, all computed from 2 inside the same statement;
4. the community's day, last and in sorted order, because many residents share it and its lock should be short.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import pricing
from points.earning.claims import Award, Claim, Reason
from points.earning.models import Outcome
from points.earning.pricing import Priced
from points.ledger.models import ISSUANCE

CLAIMS_MAX = 10_000

_RECORD = """
    n int, id uuid, resident_id uuid, behaviour text, mode text, grade text, source text, external_id text,
    started_at timestamptz, ended_at timestamptz, received_at timestamptz, business_day date, week_on date,
    week_day int, distance_m int, weight_g int, steps int, acts int, site text, site_kind text, timing text,
    channel text, priced_points int, saved_co2e_mg bigint, method_id text, rule_version_id text, cap_group text,
    day_cap int, week_cap int, expires_on date, community_code text, reason text"""

_COLUMNS = """
    resident_id, id, behaviour, mode, grade, source, external_id, started_at, ended_at, received_at, business_day,
    community_code, distance_m, weight_g, steps, acts, site, site_kind, timing, channel, priced_points, saved_co2e_mg,
    method_id, rule_version_id"""

_PAY = sa.text(f"""
WITH claim AS MATERIALIZED (
    SELECT * FROM json_to_recordset(cast(:rows AS json)) AS c ({_RECORD})
), written AS (
    -- Sorted, so that two batches meet the same residents in the same order and cannot deadlock.
    INSERT INTO activity ({_COLUMNS}, outcome)
    SELECT {_COLUMNS}, 'awarded' FROM claim ORDER BY resident_id, started_at, external_id
    ON CONFLICT DO NOTHING
    RETURNING id
), paid AS MATERIALIZED (
    SELECT claim.*,
           row_number() OVER (ORDER BY resident_id, started_at, external_id) AS turn
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
)
SELECT n, points FROM final
""")  # noqa: S608 -- composed of constants of this module

_REFUSE = sa.text(f"""
WITH claim AS (
    SELECT * FROM json_to_recordset(cast(:rows AS json)) AS c ({_RECORD})
), written AS (
    INSERT INTO activity ({_COLUMNS}, outcome, reason)
    SELECT {_COLUMNS}, 'refused', reason FROM claim ORDER BY resident_id, started_at, external_id
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

    Duplicates are told apart by (resident, source, external id): nothing is stored for them. Refused claims are stored
    with their reason, so that the resident can read it.
    """
    if len(claims) > CLAIMS_MAX:
        raise TooManyClaims(len(claims))
    tariffs = pricing.current(session)
    rows = [pricing.price(tariffs, claim, n, now=now) for n, claim in enumerate(claims)]
    return award_priced(session, rows, _homes(session, rows), now=now)


def award_priced(
    session: Session, rows: Sequence[Priced], homes: Mapping[UUID, str | None], *, now: datetime
) -> list[Award]:
    """`award` for claims that the caller has priced already, numbered from 0 in their order.

    `homes` has the home community of each enabled resident among them, None for one who has not chosen any.
    """
    to_pay: list[Priced] = []
    to_refuse: list[Priced] = []
    answers: list[Award | None] = [None] * len(rows)
    for row in rows:
        home = homes.get(row.resident_id, "")
        if home:
            row.community_code = home
            (to_refuse if row.reason else to_pay).append(row)
        else:
            reason = Reason.NO_COMMUNITY if home is None else Reason.UNKNOWN_RESIDENT
            answers[row.n] = Award(Outcome.REFUSED, reason, 0, 0, None)
    points = _pay(session, to_pay, now=now)
    for row in to_pay:
        if row.n in points:
            answers[row.n] = _paid(row, points[row.n])
        else:
            # It met its own external id, in which case the next statement finds it too, or another trip's time.
            row.reason = Reason.OVERLAP
            to_refuse.append(row)
    refused = _refuse(session, to_refuse)
    for row in to_refuse:
        answers[row.n] = (
            Award(Outcome.REFUSED, row.reason, 0, 0, row.id)
            if row.n in refused
            else Award(None, Reason.DUPLICATE, 0, 0, None)
        )
    _count_for_communities(session, to_pay, points)
    return [answer for answer in answers if answer is not None]


def _paid(row: Priced, points: int) -> Award:
    reason = Reason.CAPPED if points < row.priced_points else None
    return Award(Outcome.AWARDED, reason, points, row.saved_co2e_mg, row.id)


_HOMES = sa.text("SELECT resident_id, community_code FROM resident WHERE resident_id = ANY(:residents) AND enabled")


def _homes(session: Session, rows: Sequence[Priced]) -> dict[UUID, str | None]:
    """The home community of each enabled resident among the rows."""
    return dict(session.execute(_HOMES, {"residents": list({row.resident_id for row in rows})}).all())


def _pay(session: Session, rows: Sequence[Priced], *, now: datetime) -> dict[int, int]:
    if not rows:
        return {}
    answer = session.execute(_PAY, {"rows": msgspec.json.encode(rows).decode(), "now": now})
    return dict(answer.all())


def _refuse(session: Session, rows: Sequence[Priced]) -> set[int]:
    if not rows:
        return set()
    return set(session.scalars(_REFUSE, {"rows": msgspec.json.encode(rows).decode()}))


class _Counts(NamedTuple):
    community_code: str
    day: Any
    behaviour: str
    mode: str
    method_id: str


def _count_for_communities(session: Session, rows: Sequence[Priced], points: dict[int, int]) -> None:
    sums: dict[_Counts, list[int]] = {}
    for row in rows:
        if row.n not in points:
            continue
        key = _Counts(row.community_code, row.business_day, row.behaviour, row.mode, row.method_id or "")
        total = sums.setdefault(key, [0, 0, 0, 0, 0])
        total[0] += row.acts
        total[1] += row.distance_m or 0
        total[2] += row.weight_g or 0
        total[3] += row.saved_co2e_mg
        total[4] += points[row.n]
    if not sums:
        return
    measures = ("activities", "distance_m", "weight_g", "saved_co2e_mg", "points")
    counted = [{**key._asdict(), **dict(zip(measures, total, strict=True))} for key, total in sums.items()]
    session.execute(_COMMUNITY, {"rows": msgspec.json.encode(counted).decode()})
