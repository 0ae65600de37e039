"""What the other rooms know of a year, read once for all its indicators and charts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from sqlalchemy.orm import Session

from campaigns.annual_report.frozen_figures import Frozen, frozen_months, frozen_year
from campaigns.statistics import creation_progress
from campaigns.statistics.creation_progress import ProgrammeProgress
from points.share.estimate.exchange import STRICT, WITH_E_BIKE
from points.share.releases import publication
from points.share.releases.goal import GoalLine
from points.share.releases.publication import ReleaseSeen

READING_NAMES = {
    STRICT: ("严格口径（不含电动自行车）", "strict reading, without e-bikes"),
    WITH_E_BIKE: ("含电动自行车口径", "reading with e-bikes"),
}


@dataclass(frozen=True, slots=True)
class Sources:
    """What is known of `year` up to and with the day `through`; None and empty where nothing was published."""

    year: int
    through: date
    line: GoalLine
    share: ReleaseSeen | None
    programmes: Mapping[str, ProgrammeProgress]
    statistics: Frozen | None
    months: Mapping[int, Frozen]


def read_sources(session: Session, line: GoalLine, *, year: int, through: date) -> Sources:
    """All that everybody may know of the district's year."""
    current = publication.current_release(session, year)
    progress = creation_progress.published(session, line.district_code, on=through)
    return Sources(
        year=year,
        through=through,
        line=line,
        share=None if current is None else publication.published_release(session, current.id, line),
        programmes={each.code: each for each in progress},
        statistics=frozen_year(session, line.district_code, year),
        months=frozen_months(session, line.district_code, year),
    )


def percent(share: float) -> float:
    """A share of 1 in per cent, to one place."""
    return round(share * 100, 1)
