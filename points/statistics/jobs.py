"""The counts of activity: kept up to date every ten minutes, looked over and proved at night."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta

import procrastinate
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from points.statistics import counting, verification
from points.statistics.counting import CountIsRunning
from points.statistics.marks import FIRST_DAY, LAST_DAY, RECENT_DAYS
from points.statistics.periods import CalendarPeriod, Grain
from server.clock import business_day, now
from server.database import transaction

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

# A night proves amounts over the months that can still change, and distinct people over the last days; `flask counts
# verify-activity` proves everything.
PROVED_DAYS = 62
PROVED_PEOPLE_DAYS = 3

# Hears which month, quarter or year has been counted, and how many are left.
Tell = Callable[[CalendarPeriod, int], None]


@dataclass(frozen=True, slots=True)
class Counted:
    """What a round did: days whose rows had changed, periods counted, and periods left for a later round."""

    days: int
    periods: int
    waiting: int


@contextmanager
def _unhurried() -> Iterator[Session]:
    """A transaction for work of minutes that nobody waits for, such as the first count of a long history."""
    with transaction() as session:
        session.execute(sa.text("SET LOCAL statement_timeout = 0"))
        yield session


def count_everything_due(since: date, *, nothing_waits: bool = True, tell: Tell | None = None) -> Counted:
    """Count what changed since a day, one transaction for each month, quarter and year; `tell` hears of each.

    Large periods that were counted lately are left for a later round unless `nothing_waits`. Raises CountIsRunning.
    """
    with _unhurried() as session:
        days = counting.find_due(session, first_day=since, last_day=LAST_DAY)
    with transaction() as session:
        due = counting.due_periods(session)
    chosen = [each.period for each in due if nothing_waits or not each.can_wait(now())]
    waiting = {each.period for each in due} - set(chosen)
    months = counting.by_month(chosen)
    long = counting.countable_long(chosen, waiting)
    left = len(months) + len(long)
    for month, periods in months.items():
        with _unhurried() as session:
            counting.count_month(session, month, periods, now=now())
        left -= 1
        if tell:
            tell(CalendarPeriod(Grain.MONTH, month), left)
    for period in long:
        with _unhurried() as session:
            counting.count_long(session, period, now=now())
        left -= 1
        if tell:
            tell(period, left)
    counted = sum(map(len, months.values())) + len(long)
    return Counted(days, counted, len(due) - counted)


@tasks.periodic(cron="5-59/10 * * * *")
@tasks.task(name="count_activity", queueing_lock="count-activity", lock="count-activity")
def count_activity(timestamp: int) -> None:
    """Count the days that changed lately."""
    _count(business_day(now()) - timedelta(days=RECENT_DAYS), timestamp, nothing_waits=False)


@tasks.periodic(cron="50 19 * * *")  # 03:50 Asia/Shanghai
@tasks.task(name="prove_activity", queueing_lock="prove-activity", lock="count-activity")
def prove_activity(timestamp: int) -> None:
    """Count the days that changed however long ago, then compare; an error line is what operators alert on."""
    _count(FIRST_DAY, timestamp, nothing_waits=True)
    today = business_day(now())
    with _unhurried() as session:
        session.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        for finding in verification.verify(
            session,
            since=(today - timedelta(days=PROVED_DAYS)).replace(day=1),
            people_since=today - timedelta(days=PROVED_PEOPLE_DAYS),
        ):
            if finding.first_wrong is None:
                log.info("check_passed", check=finding.name, rows=finding.looked_at, scheduled_at=timestamp)
            else:
                log.error("check_failed", check=finding.name, first_wrong=str(finding.first_wrong)[:500])


def _count(since: date, timestamp: int, *, nothing_waits: bool) -> None:
    try:
        counted = count_everything_due(since, nothing_waits=nothing_waits)
    except CountIsRunning:
        log.info("activity_being_counted", scheduled_at=timestamp)
        return
    log.info(
        "activity_counted",
        days=counted.days,
        periods=counted.periods,
        waiting=counted.waiting,
        scheduled_at=timestamp,
    )
