"""Every day: what can be released and was not yet."""

import procrastinate
import sqlalchemy as sa
import structlog

from points.open_data import releases
from points.open_data.models import StatisticsRelease
from points.open_data.rendering import source_of
from points.open_data.tables import public_tables
from points.statistics.periods import CalendarPeriod
from server.clock import business_day, now
from server.database import transaction
from server.errors import DomainError
from server.settings import settings

tasks = procrastinate.Blueprint()
log = structlog.get_logger()


def release_period(period: CalendarPeriod, *, reason: str | None = None) -> StatisticsRelease:
    """Freeze a period in a transaction of its own, without anybody's name. Raises what `releases.freeze` does."""
    at = now()
    with transaction() as session:
        # A year is minutes of thinking between two statements.
        session.execute(sa.text("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"))
        return releases.freeze(
            session,
            public_tables(),
            period,
            source=source_of(settings().district_folder),
            frozen_by=None,
            reason=reason,
            now=at,
            today=business_day(at),
        )


@tasks.periodic(cron="30 20 * * *")  # 04:30 Asia/Shanghai, after the night's counting
@tasks.task(name="release_statistics", queueing_lock="release-statistics", lock="release-statistics")
def release_statistics(timestamp: int) -> None:
    """Release the months, quarters and years that lately ended; what cannot be yet is looked at again tomorrow."""
    with transaction() as session:
        due = releases.due_periods(session, today=business_day(now()))
    for period in due:
        name = releases.period_name(period)
        try:
            made = release_period(period)
        except releases.NothingToRelease:
            continue
        except (releases.FiguresNotCounted, releases.PartsNotReleased, releases.AlreadyReleased) as waits:
            log.info("statistics_release_waits", period=name, reason=waits.code, scheduled_at=timestamp)
        except DomainError as refusal:
            # Nobody looks at a public page for what is missing from it: an error line is what operators alert on.
            log.error("statistics_release_failed", period=name, reason=refusal.code, scheduled_at=timestamp)
        else:
            log.info("statistics_released", release=releases.name_of(made), scheduled_at=timestamp)
