"""The district's own row in the frozen statistics: what everybody may read, and nothing more exact.

An annual report is public. Would it count anew, the small difference from the frozen tables would tell of a resident
who joined in between.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.open_data.models import StatisticsCell, StatisticsRelease
from points.open_data.releases import current_release
from points.statistics.periods import Grain
from server.clock import business_day

ACTIVITY, MATERIALS, SAVINGS, PARTICIPATION = "activity", "recycling-materials", "carbon-savings", "participation"


@dataclass(frozen=True, slots=True)
class Frozen:
    """One release's figures of the district: by table and category, then by measure; None is withheld."""

    name: str
    revision: int
    frozen_on: date
    sha256: str
    cells: Mapping[tuple[str, str], Mapping[str, int | None]]

    def of(self, table: str, category: str, measure: str) -> int | None:
        """A figure; what has no cell is zero. None: withheld."""
        return self.cells.get((table, category), {}).get(measure, 0)

    def categories(self, table: str) -> list[str]:
        """The categories of a table, in their order."""
        return sorted(category for code, category in self.cells if code == table)


def frozen_year(session: Session, district_code: str, year: int) -> Frozen | None:
    """The year's current release; None while it is not frozen."""
    return _frozen(session, district_code, current_release(session, Grain.YEAR, date(year, 1, 1)))


def frozen_months(session: Session, district_code: str, year: int) -> dict[int, Frozen]:
    """The current releases of the year's months, those that there are."""
    found = {}
    for month in range(1, 13):
        release = _frozen(session, district_code, current_release(session, Grain.MONTH, date(year, month, 1)))
        if release is not None:
            found[month] = release
    return found


def _frozen(session: Session, district_code: str, release: StatisticsRelease | None) -> Frozen | None:
    if release is None:
        return None
    rows = session.execute(
        sa.select(StatisticsCell.table_code, StatisticsCell.category, StatisticsCell.figures).where(
            StatisticsCell.release_id == release.id, StatisticsCell.place_code == district_code
        )
    )
    name = {Grain.YEAR: f"{release.starts_on:%Y}", Grain.MONTH: f"{release.starts_on:%Y-%m}"}[release.grain]
    return Frozen(
        name=name,
        revision=release.revision,
        frozen_on=business_day(release.frozen_at),
        sha256=release.content_sha256.hex(),
        cells={(table, category): figures for table, category, figures in rows},
    )
