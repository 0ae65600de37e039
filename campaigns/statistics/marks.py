"""Which days must be counted again: a mark over each day's rows, compared with the mark of its last count.

What a mark is, and why awards and check-ins do nothing for it, is told in `points.statistics.marks`, which marks the
activities of a day; here participations, check-ins and memberships are marked beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.statistics.marks import ROW_MARKS
from server.clock import day_start

# A check-in counts as long as its resident takes part, so it is marked with the participation. A member of an
# organisation is marked without xmin: leaving changes nothing of the day of joining.
_MARKS = sa.text(f"""
SELECT day, bit_xor(mark) FILTER (WHERE what = 'a') AS activities, bit_xor(mark) FILTER (WHERE what = 'c') AS campaigns,
       bit_xor(mark) FILTER (WHERE what = 'm') AS members
FROM (
    SELECT day, 'a' AS what, mark FROM ({ROW_MARKS}) of_activities
    UNION ALL
    SELECT cast(joined_at AT TIME ZONE 'Asia/Shanghai' AS date), 'c',
           hashtextextended(concat_ws('|', resident_id, campaign_id, joined_at, community_code), 1)
    FROM participation WHERE joined_at >= :first_at AND joined_at < :until
    UNION ALL
    SELECT c.day, 'c', hashtextextended(concat_ws('|', c.resident_id, c.slot_id, c.xmin, p.community_code), 2)
    FROM check_in c LEFT JOIN participation p ON p.resident_id = c.resident_id AND p.campaign_id = c.campaign_id
    WHERE c.day BETWEEN :first_day AND :last_day
    UNION ALL
    SELECT cast(joined_at AT TIME ZONE 'Asia/Shanghai' AS date), 'm',
           hashtextextended(concat_ws('|', resident_id, organisation_id, joined_at), 3)
    FROM organisation_membership WHERE joined_at >= :first_at AND joined_at < :until
    UNION ALL
    SELECT cast(left_at AT TIME ZONE 'Asia/Shanghai' AS date), 'm',
           hashtextextended(concat_ws('|', resident_id, organisation_id, left_at), 4)
    FROM organisation_membership WHERE left_at >= :first_at AND left_at < :until
) rows
GROUP BY day
""")  # noqa: S608 -- composed of constants

_CHANGED = sa.text(f"""
SELECT day, now.activities, now.campaigns, now.members,
       now.activities IS DISTINCT FROM kept.activities_mark AS activities_changed,
       now.campaigns IS DISTINCT FROM kept.campaigns_mark AS campaigns_changed,
       now.members IS DISTINCT FROM kept.members_mark AS members_changed
FROM ({_MARKS.text}) now
FULL JOIN (SELECT * FROM counted_day WHERE day BETWEEN :first_day AND :last_day) kept USING (day)
WHERE (now.activities, now.campaigns, now.members)
      IS DISTINCT FROM (kept.activities_mark, kept.campaigns_mark, kept.members_mark)
ORDER BY day DESC
""")  # noqa: S608 -- composed of constants of this module

_KEEP = sa.text("""
INSERT INTO counted_day AS kept (day, activities_mark, campaigns_mark, members_mark, changed_at, counted_at)
VALUES (:day, :activities, :campaigns, :members, :now, :now)
ON CONFLICT (day) DO UPDATE SET
    changed_at = CASE WHEN kept.activities_mark IS DISTINCT FROM EXCLUDED.activities_mark
                      THEN EXCLUDED.changed_at ELSE kept.changed_at END,
    activities_mark = EXCLUDED.activities_mark, campaigns_mark = EXCLUDED.campaigns_mark,
    members_mark = EXCLUDED.members_mark, counted_at = EXCLUDED.counted_at
""")

# A mark that no day's rows ever have, but by one chance in 2^64.
_FORGET = sa.text("""
INSERT INTO counted_day AS kept (day, campaigns_mark, changed_at, counted_at)
SELECT day, -1, :now, :now FROM unnest(cast(:days AS date[])) AS day ORDER BY day
ON CONFLICT (day) DO UPDATE SET campaigns_mark = -1
""")


@dataclass(frozen=True, slots=True)
class ChangedDay:
    """A day whose rows are not those of its last count, and of which kind the change is."""

    day: date
    activities_mark: int | None
    campaigns_mark: int | None
    members_mark: int | None
    activities: bool
    campaigns: bool
    members: bool


def changed_days(session: Session, first_day: date, last_day: date) -> list[ChangedDay]:
    """The days of this span that must be counted again, the newest first.

    Read before anything is counted: what is written in between makes the mark differ again, so the next count finds it.
    """
    span = {
        "first_day": first_day,
        "last_day": last_day,
        "first_at": day_start(first_day),
        "until": day_start(last_day + timedelta(days=1)),
    }
    return [ChangedDay(*row) for row in session.execute(_CHANGED, span)]


def keep_marks(session: Session, days: Sequence[ChangedDay], *, now: datetime) -> None:
    """Remember that these days were counted as their marks say."""
    if days:
        session.execute(
            _KEEP,
            [
                {
                    "day": each.day,
                    "activities": each.activities_mark,
                    "campaigns": each.campaigns_mark,
                    "members": each.members_mark,
                    "now": now,
                }
                for each in days
            ],
        )


def forget_campaign_marks(session: Session, days: Sequence[date], *, now: datetime) -> None:
    """Have the campaigns' figures of these days counted again."""
    if days:
        session.execute(_FORGET, {"days": sorted(set(days)), "now": now})
