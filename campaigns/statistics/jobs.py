"""The counts of participation: kept up to date every ten minutes, looked over and proved at night."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta

import procrastinate
import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from campaigns.statistics import verification
from campaigns.statistics.campaign_counts import campaigns_to_count, count_campaign
from campaigns.statistics.counting import CountIsRunning, count_month, months_to_count
from points.statistics.marks import FIRST_DAY, RECENT_DAYS
from server.clock import business_day, now
from server.database import transaction

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

# A night proves the months that can still change; `flask counts verify` proves everything.
PROVED_DAYS = 62


@contextmanager
def _unhurried() -> Iterator[Session]:
    """A transaction for work of minutes that nobody waits for, such as the first count of a long history."""
    with transaction() as session:
        session.execute(sa.text("SET LOCAL statement_timeout = 0"))
        yield session


def count_everything_due(since: date) -> tuple[int, int, int]:
    """Count what changed since a day, one transaction for each campaign and month; campaigns, days and periods counted.

    Raises CountIsRunning.
    """
    with transaction() as session:
        due = campaigns_to_count(session, now=now())
    for campaign_id in due:
        with _unhurried() as session:
            count_campaign(session, campaign_id, now=now())
    with transaction() as session:
        months = months_to_count(session, since=since, now=now())
    days = periods = 0
    for month in months:
        with _unhurried() as session:
            counted = count_month(session, month, now=now())
        days, periods = days + counted.days, periods + counted.periods
    return len(due), days, periods


@tasks.periodic(cron="*/10 * * * *")
@tasks.task(name="count_participation", queueing_lock="count-participation", lock="count-participation")
def count_participation(timestamp: int) -> None:
    """Count the days and campaigns that changed lately."""
    _count(business_day(now()) - timedelta(days=RECENT_DAYS), timestamp)


@tasks.periodic(cron="20 19 * * *")  # 03:20 Asia/Shanghai
@tasks.task(name="prove_participation", queueing_lock="prove-participation", lock="count-participation")
def prove_participation(timestamp: int) -> None:
    """Count the days that changed however long ago, then compare; an error line is what operators alert on."""
    _count(FIRST_DAY, timestamp)
    since = (business_day(now()) - timedelta(days=PROVED_DAYS)).replace(day=1)
    with transaction() as session:
        session.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        session.execute(sa.text("SET LOCAL statement_timeout = 0"))
        for finding in verification.verify(session, since=since):
            if finding.first_wrong is None:
                log.info("check_passed", check=finding.name, rows=finding.looked_at, scheduled_at=timestamp)
            else:
                log.error("check_failed", check=finding.name, first_wrong=str(finding.first_wrong)[:500])


def _count(since: date, timestamp: int) -> None:
    try:
        campaigns, days, periods = count_everything_due(since)
    except CountIsRunning:
        log.info("participation_being_counted", scheduled_at=timestamp)
        return
    log.info("participation_counted", campaigns=campaigns, days=days, periods=periods, scheduled_at=timestamp)
