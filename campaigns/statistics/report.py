"""The exact report of a scope, for staff: who takes part and what was recorded. Everybody's is `public_report`.

Records of the platform are self-selected and paid to be green, so they are never set against the goal line: the
official share is a survey estimate (交运函〔2020〕490号 counts all trips of all residents).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from points.earning.models import TRAVEL, Behaviour, CommunityDay, ResidentDay
from server.access import Actor
from server.errors import DomainError, NotFound
from server.people.models import Resident
from server.places.district_data import read_head
from server.places.divisions import division_for, valid
from server.places.models import Division, DivisionLevel

PERIOD_DAYS_MAX = 366
PERIOD_DAYS_DEFAULT = 30

RECORDED_TRIPS_LABEL = "平台记录占比"
RECORDED_TRIPS_NOTE = (
    "仅为居民自愿在本平台记录的出行次数, 不是官方绿色出行比例, 不能与目标线比较。不足10人的数字不公布。"
    " Trips that residents chose to record here; not the official green-travel share, and not comparable with the goal."
)

MODE_NAMES: Mapping[Behaviour, str] = {
    Behaviour.WALK: "步行（含每日步数）",  # a day's steps are one record
    Behaviour.BICYCLE: "自行车",
    Behaviour.E_BIKE: "电动自行车",
    Behaviour.BUS: "公交",
    Behaviour.METRO: "地铁",
}


class ReportPeriodInvalid(DomainError):
    """A report covers at least one day and at most PERIOD_DAYS_MAX."""

    code, status, title_zh, title_en = (
        "report-period-invalid",
        422,
        "统计起止日期不合理",
        "A report covers from 1 to 366 days",
    )


@dataclass(frozen=True, slots=True)
class Period:
    """Business days from `first_on` to `last_on`, both included."""

    first_on: date
    last_on: date


@dataclass(frozen=True, slots=True)
class GoalPoint:
    """The share of all trips that a year aims at; `about` when its source does not give a hard figure."""

    year: int
    share: float
    about: bool


@dataclass(frozen=True, slots=True)
class Population:
    """A published number of people who live in a division, and where it stands."""

    year: int
    persons: int
    source: str
    confidence: str


@dataclass(frozen=True, slots=True)
class DistrictFigures:
    """What the district's data folder says for the report."""

    code: str
    name: str
    population_note: str | None
    populations: tuple[Population, ...]
    goal_points: tuple[GoalPoint, ...]
    goal_source: str | None


@dataclass(frozen=True, slots=True)
class CommunityCounts:
    """Residents of one community: registered now, and with a recorded activity in the period."""

    code: str
    name: str
    registered: int
    participants: int


@dataclass(frozen=True, slots=True)
class StreetCounts:
    """Residents of one street's communities, added up."""

    code: str
    name: str
    registered: int
    participants: int
    communities: tuple[CommunityCounts, ...]


@dataclass(frozen=True, slots=True)
class ModeTrips:
    """Recorded trips of one travel mode, and how many residents made them."""

    mode: Behaviour
    name: str
    trips: int
    residents: int


@dataclass(frozen=True, slots=True)
class MethodSavings:
    """Grams of CO2e saved under one method, and by how many residents. Never added up over methods."""

    method: str
    grams: int
    residents: int


@dataclass(frozen=True, slots=True)
class ScopeReport:
    """The exact report of what one member of staff answers for."""

    division: Division
    period: Period
    registered: int
    participants: int
    participation: tuple[StreetCounts, ...]
    trips: tuple[ModeTrips, ...]
    savings: tuple[MethodSavings, ...]


def period_of(first_on: date | None, last_on: date | None, *, today: date) -> Period:
    """The days asked for; without an end up to today, without a start PERIOD_DAYS_DEFAULT days.

    Raises ReportPeriodInvalid.
    """
    last_on = last_on or today
    first_on = first_on or last_on - timedelta(days=PERIOD_DAYS_DEFAULT - 1)
    if not 1 <= (last_on - first_on).days + 1 <= PERIOD_DAYS_MAX:
        raise ReportPeriodInvalid
    return Period(first_on, last_on)


@lru_cache(maxsize=8)
def district_figures(folder: Path) -> DistrictFigures:
    """Name, population note and goal line from `district.toml`, which loading the places has checked."""
    head = read_head(folder)
    goal: dict[str, Any] = head.get("green_travel_goal", {})
    points = [GoalPoint(each["year"], float(each["share"]), each["about"]) for each in goal.get("points", ())]
    populations = tuple(
        Population(each["year"], each["persons"], each["source"], each["confidence"])
        for each in head.get("population", ())
    )
    counts = [f"{each.persons:,} ({each.year}年, {each.source})" for each in populations]
    note = f"本报告不以人口数作分母。已公布的常住人口: {'; '.join(counts)}" if counts else None
    return DistrictFigures(
        code=head["code"],
        name=head["name"],
        population_note=note,
        populations=populations,
        goal_points=tuple(sorted(points, key=lambda point: point.year)),
        goal_source=goal.get("source"),
    )


def scope_report(session: Session, actor: Actor, period: Period, *, today: date) -> ScopeReport:
    """The exact figures of the communities in the actor's scope.

    Raises NotFound for staff of one organisation, who have their campaigns' figures and not those of the community.
    """
    if actor.division is None:
        raise NotFound
    streets = _streets(session, actor.division, period, today=today)
    return ScopeReport(
        division=division_for(session, actor.division),
        period=period,
        registered=sum(street.registered for street in streets),
        participants=sum(street.participants for street in streets),
        participation=streets,
        trips=_trips(session, actor.division, period),
        savings=_savings(session, actor.division, period),
    )


def _streets(session: Session, scope: str, period: Period, *, today: date) -> tuple[StreetCounts, ...]:
    """Exact counts of the communities valid today in a scope, by street, in one statement.

    A resident counts where they live now, a participant once however many days they were active.
    """
    active = (
        sa.select(ResidentDay.resident_id)
        .where(_in_period(ResidentDay.day, period), ResidentDay.activities > 0)
        .distinct()
        .subquery()
    )
    counts = (
        sa.select(
            Resident.community_code,
            sa.func.count().label("registered"),
            sa.func.count(active.c.resident_id).label("participants"),
        )
        .join(active, active.c.resident_id == Resident.resident_id, isouter=True)
        .where(Resident.enabled, _in_scope(Resident.community_code, scope))
        .group_by(Resident.community_code)
        # Once: without statistics, as after a first start, the planner runs it anew for each of the communities.
        .cte("counts")
        .prefix_with("MATERIALIZED")
    )
    street = aliased(Division)
    rows = session.execute(
        sa.select(
            street.code,
            street.name,
            Division.code,
            Division.name,
            sa.func.coalesce(counts.c.registered, 0),
            sa.func.coalesce(counts.c.participants, 0),
        )
        .select_from(Division)
        .join(street, street.code == Division.parent_code)
        .join(counts, counts.c.community_code == Division.code, isouter=True)
        .where(Division.level == DivisionLevel.COMMUNITY, _in_scope(Division.code, scope), valid(today))
        .order_by(Division.code)
    )
    names: dict[str, str] = {}
    communities: dict[str, list[CommunityCounts]] = {}
    for street_code, street_name, code, name, registered, participants in rows:
        names[street_code] = street_name
        communities.setdefault(street_code, []).append(CommunityCounts(code, name, registered, participants))
    return tuple(
        StreetCounts(
            code=code,
            name=names[code],
            registered=sum(row.registered for row in within),
            participants=sum(row.participants for row in within),
            communities=tuple(within),
        )
        for code, within in communities.items()
    )


def _trips(session: Session, scope: str, period: Period) -> tuple[ModeTrips, ...]:
    """Exact numbers of recorded trips by mode, and of the residents who made them."""
    modes = [behaviour for behaviour in Behaviour if behaviour in TRAVEL]
    trips = dict(
        session.execute(
            sa.select(CommunityDay.behaviour, sa.func.sum(CommunityDay.activities))
            .where(
                _in_period(CommunityDay.day, period),
                _in_scope(CommunityDay.community_code, scope),
                CommunityDay.behaviour.in_(modes),
            )
            .group_by(CommunityDay.behaviour)
        ).all()
    )
    residents = dict(
        session.execute(
            sa.select(ResidentDay.behaviour, sa.func.count(ResidentDay.resident_id.distinct()))
            .where(
                _in_period(ResidentDay.day, period),
                _in_scope(ResidentDay.community_code, scope),
                ResidentDay.behaviour.in_(modes),
                ResidentDay.activities > 0,
            )
            .group_by(ResidentDay.behaviour)
        ).all()
    )
    return tuple(ModeTrips(mode, MODE_NAMES[mode], int(trips.get(mode, 0)), residents.get(mode, 0)) for mode in modes)


def _savings(session: Session, scope: str, period: Period) -> tuple[MethodSavings, ...]:
    """Exact grams by method, cut off to whole grams, and the residents behind them.

    A resident's day does not name its method, so it counts for the methods that its community's day of the same
    behaviour was priced with: one, but on a day when rules changed in between.
    """
    place = (_in_period(CommunityDay.day, period), _in_scope(CommunityDay.community_code, scope))
    grams = session.execute(
        sa.select(CommunityDay.method_id, sa.func.sum(CommunityDay.saved_co2e_mg))
        .where(*place, CommunityDay.method_id != "")
        .group_by(CommunityDay.method_id)
        .order_by(CommunityDay.method_id)
    )
    priced = (
        sa.select(CommunityDay.community_code, CommunityDay.day, CommunityDay.behaviour, CommunityDay.method_id)
        .where(*place, CommunityDay.method_id != "", CommunityDay.saved_co2e_mg > 0)
        .distinct()
        .subquery()
    )
    residents: dict[str, int] = dict(
        session.execute(
            sa.select(priced.c.method_id, sa.func.count(ResidentDay.resident_id.distinct()))
            .join(
                ResidentDay,
                sa.and_(
                    ResidentDay.community_code == priced.c.community_code,
                    ResidentDay.day == priced.c.day,
                    ResidentDay.behaviour == priced.c.behaviour,
                ),
            )
            .where(_in_period(ResidentDay.day, period), ResidentDay.saved_co2e_mg > 0)
            .group_by(priced.c.method_id)
        ).all()
    )
    return tuple(MethodSavings(method, int(saved) // 1000, residents.get(method, 0)) for method, saved in grams)


def _in_period(day: sa.orm.InstrumentedAttribute[date], period: Period) -> sa.ColumnElement[bool]:
    return day.between(period.first_on, period.last_on)


def _in_scope(code: Any, scope: str) -> sa.ColumnElement[bool]:
    """The condition that a community's code lies below a division's."""
    return sa.cast(code, sa.String).startswith(scope, autoescape=True)
