"""Calendar periods: what distinct people are counted over, because such counts cannot be added up over days."""

import enum
from dataclasses import dataclass
from datetime import date, timedelta

from server.clock import week_start


class Grain(enum.StrEnum):
    """How long a period is. Each is also PostgreSQL's name for it in date_trunc."""

    DAY = "day"
    WEEK = "week"  # from Monday, GB/T 7408.1
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


@dataclass(frozen=True, slots=True, order=True)
class CalendarPeriod:
    """One day, week, month, quarter or year of business days, both ends included."""

    grain: Grain
    starts_on: date

    @property
    def ends_on(self) -> date:
        """The last day."""
        if self.grain is Grain.DAY:
            return self.starts_on
        if self.grain is Grain.WEEK:
            return self.starts_on + timedelta(days=6)
        months = {Grain.MONTH: 1, Grain.QUARTER: 3, Grain.YEAR: 12}[self.grain]
        # From the first of a month never more than 31 days to a month, so this lands in the month after the last.
        after = self.starts_on + timedelta(days=31 * months)
        return after.replace(day=1) - timedelta(days=1)


def period_with(grain: Grain, day: date) -> CalendarPeriod:
    """The period of this length that holds a day."""
    starts_on = {
        Grain.DAY: day,
        Grain.WEEK: week_start(day),
        Grain.MONTH: day.replace(day=1),
        Grain.QUARTER: day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1),
        Grain.YEAR: day.replace(month=1, day=1),
    }[grain]
    return CalendarPeriod(grain, starts_on)


def periods_with(day: date) -> tuple[CalendarPeriod, ...]:
    """The five periods that hold a day."""
    return tuple(period_with(grain, day) for grain in Grain)
