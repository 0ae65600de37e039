"""The kept counts: taking an activity out of them, checking them against the activities, and building them anew."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.claims import Reason
from points.earning.models import Activity, Outcome
from points.ledger import entries
from points.ledger.models import Transfer, TransferKind
from points.ledger.verification import Check
from server.errors import Conflict, NotFound

# What the counts must be: every awarded activity once, with the points that its transfer paid.
_RESIDENT_DAY = """
    SELECT a.resident_id, a.business_day AS day, a.behaviour, max(a.community_code) AS community_code,
           sum(a.acts) AS activities, coalesce(sum(a.distance_m), 0) AS distance_m,
           coalesce(sum(a.weight_g), 0) AS weight_g, sum(a.saved_co2e_mg) AS saved_co2e_mg,
           coalesce(sum(t.points), 0) AS points
    FROM activity a LEFT JOIN transfer t ON t.resident_id = a.resident_id AND t.id = a.id
    WHERE a.outcome = 'awarded' GROUP BY 1, 2, 3"""

_COMMUNITY_DAY = """
    SELECT a.community_code, a.business_day AS day, a.behaviour, a.mode, coalesce(a.method_id, '') AS method_id,
           sum(a.acts) AS activities, coalesce(sum(a.distance_m), 0) AS distance_m,
           coalesce(sum(a.weight_g), 0) AS weight_g, sum(a.saved_co2e_mg) AS saved_co2e_mg,
           coalesce(sum(t.points), 0) AS points
    FROM activity a LEFT JOIN transfer t ON t.resident_id = a.resident_id AND t.id = a.id
    WHERE a.outcome = 'awarded' GROUP BY 1, 2, 3, 4, 5"""

_SUMS = ("activities", "distance_m", "weight_g", "saved_co2e_mg", "points")


def _difference(table: str, truth: str, key: tuple[str, ...]) -> str:
    keys = ", ".join(key)
    differ = " OR ".join(f"coalesce(kept.{name}, 0) <> coalesce(truth.{name}, 0)" for name in _SUMS)
    shown = ", ".join(f"kept.{name} AS kept_{name}, truth.{name} AS true_{name}" for name in _SUMS)
    return (
        f"SELECT {keys}, {shown} FROM {table} kept FULL JOIN ({truth}) truth USING ({keys}) "  # noqa: S608 -- constants
        f"WHERE {differ} ORDER BY {keys} LIMIT 3"
    )


# What the bounds must be: whatever was paid, taken back meanwhile or not, under a version that bounds it. A restored
# copy took nothing, because its original did.
_BOUNDED = """
    SELECT a.*, t.points FROM activity a JOIN transfer t ON t.resident_id = a.resident_id AND t.id = a.id
    WHERE t.points > 0 AND a.source <> 'restored'"""

_BOUND_USAGE = f"""
    SELECT b.kind, s.subject, s.day, sum(a.points) AS points
    FROM ({_BOUNDED}) a
    JOIN bound_limit b ON b.version_id = a.rule_version_id
    CROSS JOIN LATERAL (SELECT a.business_day AS day, CASE b.kind
        WHEN 'household' THEN a.household_id::text
        WHEN 'device' THEN CASE WHEN a.device NOT LIKE 'phone:%' THEN a.device END
        WHEN 'phone' THEN CASE WHEN a.device LIKE 'phone:%' THEN a.device END
        WHEN 'staff' THEN a.staff_id::text
        WHEN 'site' THEN CASE WHEN a.grade = 'partner-signed' THEN a.source || ':' || a.site ELSE a.site END
        END AS subject) s
    WHERE s.subject IS NOT NULL GROUP BY 1, 2, 3
    UNION ALL
    SELECT 'grade', a.resident_id || ':' || a.grade, date_trunc('week', a.business_day::timestamp)::date, sum(a.points)
    FROM ({_BOUNDED}) a
    JOIN grade_term g ON g.version_id = a.rule_version_id AND g.grade = a.grade AND g.week_ceiling_points IS NOT NULL
    GROUP BY 1, 2, 3"""  # noqa: S608 -- composed of constants of this module

COUNT_CHECKS = (
    Check(
        "resident_day = activities",
        _difference("resident_day", _RESIDENT_DAY, ("resident_id", "day", "behaviour")),
        "SELECT count(*) FROM resident_day",
    ),
    Check(
        "community_day = activities",
        _difference("community_day", _COMMUNITY_DAY, ("community_code", "day", "behaviour", "mode", "method_id")),
        "SELECT count(*) FROM community_day",
    ),
    Check(
        "every award pays an activity, and none more than its price",
        """SELECT t.resident_id, t.id, t.points, a.priced_points
           FROM transfer t LEFT JOIN activity a ON a.resident_id = t.resident_id AND a.id = t.id
           WHERE t.kind = 'award'
             AND (a.id IS NULL OR a.outcome NOT IN ('awarded', 'reversed') OR t.points > a.priced_points)
           ORDER BY 1, 2 LIMIT 3""",
        "SELECT count(*) FROM transfer WHERE kind = 'award'",
    ),
    Check(
        "every reversed activity had its points taken back, and no other",
        """SELECT a.resident_id, a.id, a.outcome FROM activity a
           JOIN transfer t ON t.resident_id = a.resident_id AND t.id = a.id
           LEFT JOIN transfer r ON r.resident_id = t.resident_id AND r.reverses_id = t.id
           WHERE (a.outcome = 'reversed') <> (r.id IS NOT NULL) ORDER BY 1, 2 LIMIT 3""",
        "SELECT count(*) FROM activity",
    ),
    Check(
        "bound_usage = activities",
        # Of days whose bounds were forgotten, nothing is kept to compare with.
        f"""SELECT kind, subject, day, coalesce(kept.taken_points, 0) AS kept_points,
                   coalesce(truth.points, 0) AS true_points
            FROM (SELECT * FROM bound_usage WHERE kind <> 'drive') kept FULL JOIN ({_BOUND_USAGE}) truth
                 USING (kind, subject, day)
            WHERE coalesce(kept.taken_points, 0) <> coalesce(truth.points, 0)
              AND day > (now() AT TIME ZONE 'Asia/Shanghai')::date - 390
            ORDER BY 1, 2, 3 LIMIT 3""",  # noqa: S608 -- composed of constants of this module
        "SELECT count(*) FROM bound_usage WHERE kind <> 'drive'",
    ),
)


def rebuild(session: Session) -> tuple[int, int]:
    """Write both counts anew from the activities; the rows of each. Awards wait meanwhile."""
    session.execute(sa.text("LOCK TABLE resident_day, community_day IN EXCLUSIVE MODE"))
    made = []
    for table, truth in (("resident_day", _RESIDENT_DAY), ("community_day", _COMMUNITY_DAY)):
        columns = "community_code, " if table == "resident_day" else "mode, method_id, "
        key = "resident_id, day, behaviour" if table == "resident_day" else "community_code, day, behaviour"
        names = f"{key}, {columns}{', '.join(_SUMS)}"
        session.execute(sa.text(f"DELETE FROM {table}"))  # noqa: S608 -- constants
        result = session.execute(sa.text(f"INSERT INTO {table} ({names}) SELECT {names} FROM ({truth}) truth"))  # noqa: S608
        made.append(int(result.rowcount))  # type: ignore[attr-defined]
    return made[0], made[1]


class AlreadyRevoked(Conflict):
    """Only an awarded activity can be revoked."""

    code, title_zh, title_en = "already-revoked", "该记录未处于已发放状态", "This activity is not in the awarded state"


_UNCOUNT_RESIDENT = sa.text("""
UPDATE resident_day SET activities = activities - :acts, distance_m = distance_m - :distance_m,
       weight_g = weight_g - :weight_g, saved_co2e_mg = saved_co2e_mg - :saved_co2e_mg, points = points - :points
WHERE resident_id = :resident_id AND day = :day AND behaviour = :behaviour""")

_UNCOUNT_COMMUNITY = sa.text("""
UPDATE community_day SET activities = activities - :acts, distance_m = distance_m - :distance_m,
       weight_g = weight_g - :weight_g, saved_co2e_mg = saved_co2e_mg - :saved_co2e_mg, points = points - :points
WHERE community_code = :community_code AND day = :day AND behaviour = :behaviour AND mode = :mode
  AND method_id = :method_id""")


def revoke(
    session: Session,
    resident_id: UUID,
    activity_id: UUID,
    *,
    why: str,
    now: datetime,
    reason: Reason = Reason.REVOKED,
) -> Activity:
    """Take an awarded activity back: its points by a reversal, itself out of the counts.

    Its share of caps and bounds stays used: given back, whoever is caught could earn the same points once more, and a
    bound would no longer say what an attacker can gain. `why` stands in the statement, `reason` is the activity's.
    Raises NotFound, AlreadyRevoked.
    """
    revoked = session.scalars(
        sa.update(Activity)
        .where(Activity.resident_id == resident_id, Activity.id == activity_id, Activity.outcome == Outcome.AWARDED)
        .values(outcome=Outcome.REVERSED, reason=reason.value)
        .returning(Activity)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if revoked is None:
        if session.get(Activity, (resident_id, activity_id)) is None:
            raise NotFound
        raise AlreadyRevoked
    paid = session.get(Transfer, (resident_id, activity_id))
    points = paid.points if paid is not None and paid.kind is TransferKind.AWARD else 0
    if points:
        entries.reverse(session, resident_id, activity_id, reason=why, now=now)
    values = {
        "resident_id": resident_id,
        "community_code": revoked.community_code,
        "day": revoked.business_day,
        "behaviour": revoked.behaviour.value,
        "mode": revoked.mode,
        "method_id": revoked.method_id or "",
        "acts": revoked.acts,
        "distance_m": revoked.distance_m or 0,
        "weight_g": revoked.weight_g or 0,
        "saved_co2e_mg": revoked.saved_co2e_mg,
        "points": points,
    }
    session.execute(_UNCOUNT_RESIDENT, values)
    session.execute(_UNCOUNT_COMMUNITY, values)
    return revoked
