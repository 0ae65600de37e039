"""The one clock. Instants are aware and in UTC; a business day is the Asia/Shanghai date of an instant.

A development service can be rehearsed: a public notice of seven days and a re-check after two years are walked through
in a minute, because its clock can be moved forward. A production service has no such hand.
"""

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

SHANGHAI = ZoneInfo("Asia/Shanghai")

# China has kept UTC+8 without daylight saving since 1991-09-15, so the feed's hot path may use a fixed offset, which
# costs a fifth of a ZoneInfo look-up; a test compares the two over every year that the service can meet.
SHANGHAI_FIXED = timezone(timedelta(hours=8))


REHEARSAL_DAYS_MAX = 3660

# A file with the seconds that this process's clock is ahead, or None: then nothing is ever read.
_rehearsal: Path | None = None


def now() -> datetime:
    """The current instant in UTC; in a rehearsal, ahead of it."""
    instant = datetime.now(UTC)
    return instant if _rehearsal is None else instant + ahead(_rehearsal)


def follow_rehearsal(file: Path | None) -> None:
    """Let this process's clock run ahead by what `file` says, from now on; None: by nothing."""
    global _rehearsal  # noqa: PLW0603 -- the one clock of the process
    _rehearsal = file


def ahead(file: Path) -> timedelta:
    """By how much a rehearsal's clock is ahead; without the file by nothing."""
    try:
        return timedelta(seconds=int(file.read_text(encoding="ascii")))
    except FileNotFoundError:
        return timedelta()


def business_day(instant: datetime) -> date:
    """The Asia/Shanghai date of an aware instant."""
    return instant.astimezone(SHANGHAI_FIXED).date()


def week_start(day: date) -> date:
    """The Monday of the day's week (GB/T 7408.1: weeks begin on Monday)."""
    return day - timedelta(days=day.weekday())


def day_start(day: date) -> datetime:
    """The instant at which a business day begins."""
    return datetime(day.year, day.month, day.day, tzinfo=SHANGHAI_FIXED)
