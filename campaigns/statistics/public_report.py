"""The report for everybody: what the frozen releases tell, and whether the goal of the green-travel share is met.

Nothing here is counted when it is read. Whoever looks twice sees the same, whoever came or left in between.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives.models import CampaignKind
from campaigns.statistics.public_tables import CAMPAIGNS, PARTICIPATION
from campaigns.statistics.report import MODE_NAMES, DistrictFigures, GoalPoint, Population
from points.earning.models import TRAVEL, Behaviour
from points.earning.wording import MATERIAL_NAMES
from points.open_data import releases
from points.open_data.activity_tables import ACTIVITY, MATERIALS, SAVINGS
from points.open_data.models import StatisticsRelease
from points.share.releases.goal import Answer, GoalAnswer, GoalLine, Reason
from points.share.releases.publication import Headline, standing
from points.statistics.periods import CalendarPeriod, Grain
from server.errors import NotFound
from server.places.models import Division, DivisionLevel
from server.places.populations import populations_within

RELEASES_LISTED_MAX = 200

Cells = Mapping[tuple[str, str], Mapping[str, int | None]]


@dataclass(frozen=True, slots=True)
class ReleaseTold:
    """Which release is told, and that its figures stand since."""

    name: str
    grain: Grain
    first_on: date
    last_on: date
    revision: int
    frozen_at: datetime


@dataclass(frozen=True, slots=True)
class CommunityTold:
    """Residents of one community. None: withheld."""

    code: str
    name: str
    registered: int | None
    participants: int | None


@dataclass(frozen=True, slots=True)
class StreetTold:
    """Residents of one street. None: withheld."""

    code: str
    name: str
    registered: int | None
    participants: int | None
    communities: tuple[CommunityTold, ...]


@dataclass(frozen=True, slots=True)
class ModeTold:
    """Recorded trips of one travel mode in the district. None: withheld."""

    mode: str
    name: str
    trips: int | None


@dataclass(frozen=True, slots=True)
class SavingTold:
    """Grams of CO2e saved under one method. Never added up over methods. None: withheld."""

    method: str
    grams: int | None


@dataclass(frozen=True, slots=True)
class MaterialTold:
    """Grams of one material that were brought for recycling. None: withheld."""

    material: str
    name_zh: str
    name_en: str
    weight_g: int | None


@dataclass(frozen=True, slots=True)
class ReadingTold:
    """The share of the newest published estimate under one reading of the definition, and what it says of the goal."""

    reading: str
    share: float
    low: float
    high: float
    answer: str


@dataclass(frozen=True, slots=True)
class GoalTold:
    """The goal line, and whether the published survey estimate meets it; `estimate` is the strict reading's."""

    points: tuple[GoalPoint, ...]
    source: str | None
    year: int
    answer: Answer
    reason: Reason
    release: str | None
    estimate: float | None
    readings: tuple[ReadingTold, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """The public report of a district. Without any release yet, `release` is None and the tables are empty."""

    district: DistrictFigures
    release: ReleaseTold | None
    periods: tuple[str, ...]
    registered: int | None
    participants: int | None
    participation: tuple[StreetTold, ...]
    trips: tuple[ModeTold, ...]
    savings: tuple[SavingTold, ...]
    materials: tuple[MaterialTold, ...]
    goal: GoalTold


@dataclass(frozen=True, slots=True)
class PopulationShare:
    """Participants of a census population, which is named."""

    year: int
    persons: int
    source: str
    confidence: str
    rate: float


@dataclass(frozen=True, slots=True)
class PlaceTold:
    """One division. `rate` is of its registered residents; None: withheld, or not told by this release."""

    place_code: str
    place_name: str
    level: DivisionLevel
    registered: int | None
    participants: int | None
    rate: float | None
    population_rates: tuple[PopulationShare, ...]


@dataclass(frozen=True, slots=True)
class KindTold:
    """Residents of the district in campaigns of one kind. None: withheld."""

    kind: CampaignKind
    participants: int | None


@dataclass(frozen=True, slots=True)
class PublicParticipation:
    """Participation of a district in one month, quarter or year as it was released."""

    release: ReleaseTold
    kinds: tuple[KindTold, ...]
    items: tuple[PlaceTold, ...]


def summary(session: Session, district: DistrictFigures, line: GoalLine, *, name: str | None, today: date) -> Summary:
    """The report of a released period, by default of the latest month.

    Raises NotFound for a period without a release.
    """
    found = _release(session, name, grain=Grain.MONTH)
    if name is not None and found is None:
        raise NotFound
    cells = {} if found is None else releases.cells_of(session, found, PARTICIPATION)
    activity = {} if found is None else releases.cells_of(session, found, ACTIVITY)
    whole = cells.get((district.code, ""), {})
    return Summary(
        district=district,
        release=None if found is None else _told(found),
        periods=_released_periods(session),
        registered=whole.get("registered"),
        participants=whole.get("participants"),
        participation=_streets(_divisions(session, district.code, cells), cells),
        trips=tuple(
            ModeTold(mode.value, MODE_NAMES[mode], activity.get((district.code, mode.value), {}).get("activities", 0))
            for mode in Behaviour
            if mode in TRAVEL and found is not None
        ),
        savings=tuple(
            SavingTold(method, figures["saved_co2e_g"])
            for method, figures in _of_district(session, found, SAVINGS, district.code)
        ),
        materials=tuple(
            MaterialTold(material, *MATERIAL_NAMES.get(material, (material, material)), figures["weight_g"])
            for material, figures in _of_district(session, found, MATERIALS, district.code)
        ),
        goal=_goal(session, district, line, today=today),
    )


def public_participation(session: Session, district: DistrictFigures, *, name: str | None) -> PublicParticipation:
    """Participation by place and kind of campaign as released, by default of the latest month. Raises NotFound."""
    found = _release(session, name, grain=Grain.MONTH)
    if found is None:
        raise NotFound
    cells = releases.cells_of(session, found, PARTICIPATION)
    populations = {
        code: [Population(row.year, row.persons, row.source, row.confidence.value) for row in rows]
        for code, rows in populations_within(session, district.code).items()
    }
    populations[district.code] = [*district.populations, *populations.get(district.code, ())]
    kinds = dict(_of_district(session, found, CAMPAIGNS, district.code))
    return PublicParticipation(
        release=_told(found),
        kinds=tuple(KindTold(kind, kinds.get(kind.value, {}).get("participants", 0)) for kind in CampaignKind),
        items=tuple(
            _place(division, cells.get((division.code, ""), {}), populations.get(division.code, ()))
            for division in _divisions(session, district.code, cells)
        ),
    )


def _release(session: Session, name: str | None, *, grain: Grain) -> StatisticsRelease | None:
    if name is None:
        return releases.latest_release(session, grain)
    period = releases.read_name(name).period
    return releases.current_release(session, period.grain, period.starts_on)


def _told(release: StatisticsRelease) -> ReleaseTold:
    period = CalendarPeriod(release.grain, release.starts_on)
    return ReleaseTold(
        name=releases.name_of(release),
        grain=release.grain,
        first_on=period.starts_on,
        last_on=period.ends_on,
        revision=release.revision,
        frozen_at=release.frozen_at,
    )


def _released_periods(session: Session) -> tuple[str, ...]:
    """The periods that have a release, the latest first."""
    rows = session.execute(
        sa.select(StatisticsRelease.grain, StatisticsRelease.starts_on)
        .distinct()
        .order_by(StatisticsRelease.starts_on.desc(), StatisticsRelease.grain)
        .limit(RELEASES_LISTED_MAX)
    )
    return tuple(releases.period_name(CalendarPeriod(grain, starts_on)) for grain, starts_on in rows)


def _divisions(session: Session, district: str, cells: Cells) -> list[Division]:
    """The divisions that a release tells of, by code."""
    codes = [code for code, _ in cells if code.startswith(district)]
    return list(session.scalars(sa.select(Division).where(Division.code.in_(codes)).order_by(Division.code)))


def _of_district(
    session: Session, release: StatisticsRelease | None, table: str, district: str
) -> list[tuple[str, Mapping[str, int | None]]]:
    """The district's own figures in one table, by category."""
    if release is None:
        return []
    cells = releases.cells_of(session, release, table)
    return sorted((category, figures) for (place, category), figures in cells.items() if place == district)


def _streets(divisions: Iterable[Division], cells: Cells) -> tuple[StreetTold, ...]:
    communities: dict[str, list[CommunityTold]] = {}
    streets = []
    for division in divisions:
        figures = cells[division.code, ""]
        told = (division.code, division.name, figures.get("registered"), figures["participants"])
        if division.level is DivisionLevel.COMMUNITY:
            communities.setdefault(division.parent_code or "", []).append(CommunityTold(*told))
        elif division.level is DivisionLevel.STREET:
            streets.append(told)
    return tuple(StreetTold(*told, tuple(communities.get(told[0], ()))) for told in streets)


def _place(division: Division, figures: Mapping[str, int | None], populations: Iterable[Population]) -> PlaceTold:
    registered, participants = figures.get("registered"), figures.get("participants")
    return PlaceTold(
        place_code=division.code,
        place_name=division.name,
        level=division.level,
        registered=registered,
        participants=participants,
        rate=round(participants / registered, 6) if participants is not None and registered else None,
        population_rates=()
        if participants is None
        else tuple(
            PopulationShare(
                each.year, each.persons, each.source, each.confidence, round(participants / each.persons, 6)
            )
            for each in populations
        ),
    )


def _goal(session: Session, district: DistrictFigures, line: GoalLine, *, today: date) -> GoalTold:
    found = standing(session, line, today=today)
    # What was not weighted to a population is never set against the goal, so it does not stand beside it either.
    headline = found.release if found.release is not None and found.release.weighted else None
    readings = () if headline is None else _readings(headline, found.answer)
    return GoalTold(
        points=district.goal_points,
        source=district.goal_source,
        year=found.answer.year,
        answer=found.answer.answer,
        reason=found.answer.reason,
        release=None if headline is None else headline.name,
        estimate=readings[0].share if readings else None,
        readings=readings,
    )


def _readings(headline: Headline, answer: GoalAnswer) -> tuple[ReadingTold, ...]:
    answers = {each.reading: each.answer.value for each in answer.readings}
    return tuple(
        ReadingTold(
            each.reading, each.estimate.share, each.estimate.low, each.estimate.high, answers.get(each.reading, "")
        )
        for each in headline.readings
    )
