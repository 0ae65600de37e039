"""Telling people: that they were drawn, and that their day is near or waits for its diary. In portions, by a job."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.share.diaries.models import ANSWER_DAYS_MAX
from server.clock import business_day, day_start
from server.notices.notices import TOLD_AT_ONCE_MAX, tell

_TELL = sa.text("""
UPDATE diary_invitation AS i SET told_at = :now
FROM diary_round r
WHERE r.id = i.round_id AND (i.resident_id, i.round_id) IN (
    SELECT n.resident_id, n.round_id FROM diary_invitation n JOIN diary_round o ON o.id = n.round_id
    WHERE o.state = 'open' AND n.state = 'invited' AND n.told_at IS NULL
    ORDER BY n.resident_id, n.round_id LIMIT :people FOR UPDATE OF n SKIP LOCKED
)
RETURNING i.resident_id, i.round_id, i.day, r.reward_points
""").bindparams(sa.bindparam("now", type_=sa.DateTime(timezone=True)))

# Of several reminders that were missed the last one alone is sent; and none on the day of the invitation itself.
_REMIND = sa.text("""
WITH due AS (
    SELECT i.resident_id, i.round_id, max(offset_days) AS offset_days
    FROM diary_invitation i JOIN diary_round r ON r.id = i.round_id, unnest(r.reminder_days) AS offset_days
    WHERE r.state = 'open' AND i.state IN ('invited', 'reminded') AND i.told_at < :today_began
      AND i.day BETWEEN :today - cast(:answer_days_max AS int) AND :today + 7
      AND i.day + r.answer_days >= :today AND i.day + offset_days <= :today
      AND offset_days > coalesce(i.reminded_day, -100)
    GROUP BY 1, 2 ORDER BY 1, 2 LIMIT :people
)
UPDATE diary_invitation AS i SET reminded_day = due.offset_days, state = 'reminded'
FROM due, diary_round r
WHERE i.resident_id = due.resident_id AND i.round_id = due.round_id AND r.id = i.round_id
  AND i.state IN ('invited', 'reminded') AND due.offset_days > coalesce(i.reminded_day, -100)
RETURNING i.resident_id, i.round_id, i.day, r.answer_days
""").bindparams(sa.bindparam("today", type_=sa.Date()), sa.bindparam("today_began", type_=sa.DateTime(timezone=True)))


def tell_invited(session: Session, *, now: datetime) -> int:
    """Tell the next portion of people that they were drawn; how many, 0 when everybody knows."""
    rows = session.execute(_TELL, {"now": now, "people": TOLD_AT_ONCE_MAX}).all()
    for (round_id, day, points), people in _by_text([(row[0], (row[1], row[2], row[3])) for row in rows]).items():
        tell(
            session,
            people,
            kind="diary-invitation",
            subject=f"diary:{round_id}",
            title_zh=f"您被随机抽中填写 {_zh(day)} 的出行日记，填写得 {points} 积分，自愿参加",
            title_en=f"You were drawn to write a travel diary of {day.isoformat()} for {points} points; voluntary",
            now=now,
        )
    return len(rows)


def remind(session: Session, *, now: datetime) -> int:
    """Remind the next portion of people who have not answered; how many, 0 when nobody is left."""
    today = business_day(now)
    rows = session.execute(
        _REMIND,
        {
            "today": today,
            "today_began": day_start(today),
            "people": TOLD_AT_ONCE_MAX,
            "answer_days_max": ANSWER_DAYS_MAX,
        },
    ).all()
    for (round_id, day, answer_days), people in _by_text([(row[0], (row[1], row[2], row[3])) for row in rows]).items():
        until = date.fromordinal(day.toordinal() + answer_days)
        if day >= today:
            title_zh = f"{_zh(day)}是您的出行日记日，请留意当天的每次出行"
            title_en = f"{day.isoformat()} is the day of your travel diary; please notice every trip"
        else:
            title_zh = f"请在 {_zh(until)} 前填写 {_zh(day)} 的出行日记，没有出行也请提交"
            title_en = f"Your travel diary of {day.isoformat()} waits until {until.isoformat()}, without trips too"
        tell(
            session,
            people,
            kind="diary-reminder",
            subject=f"diary:{round_id}",
            title_zh=title_zh,
            title_en=title_en,
            now=now,
        )
    return len(rows)


def _by_text(rows: Sequence[tuple[UUID, tuple[UUID, date, int]]]) -> Mapping[tuple[UUID, date, int], list[UUID]]:
    """The people who are told the same: at most as many texts as there are days."""
    people: dict[tuple[UUID, date, int], list[UUID]] = defaultdict(list)
    for person, text in rows:
        people[text].append(person)
    return people


def _zh(day: date) -> str:
    return f"{day.month}月{day.day}日"
