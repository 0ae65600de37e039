"""Where to take it now: the nearest sites with their hours, and the van's next stops. For everybody."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from points.waste.orders import timetable
from points.waste.orders.models import PlanKind
from points.waste.orders.timetable import VISITS_MAX, Visit
from points.waste.sites import opening
from points.waste.sites.models import SiteKind
from points.waste.sites.opening import OpenSite
from server.clock import business_day
from server.places.positions import Position, distance_m

NEAR_MAX = 50
RADIUS_M_MAX = 20_000
STOP_DAYS = 14
# Nobody's position is told back more exactly than people walk.
DISTANCE_STEP_M = 10

# A degree of latitude is 111 km; the systems of positions differ by up to 0.01 degrees.
_RADIUS_DEGREES = RADIUS_M_MAX / 111_000 + 0.01
# In the latitudes of China a degree of longitude is 65 km at the least (54° N).
_RADIUS_DEGREES_EAST = RADIUS_M_MAX / 65_000 + 0.01


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where somebody is: a position, and the division (a prefix of codes, "" for everywhere) to look in."""

    position: Position | None
    division: str


@dataclass(frozen=True, slots=True)
class NearSite:
    """A site, how far it is in a straight line, whether it is open, and its present or next opening."""

    site: OpenSite
    distance_m: int | None
    is_open: bool
    opens_at: datetime | None
    closes_at: datetime | None
    today: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NearStop:
    """The next coming of the van to one of its stops, and how far that is in a straight line."""

    visit: Visit
    distance_m: int | None


def near_sites(
    session: Session,
    where: Whereabouts,
    *,
    kind: SiteKind | None,
    category: str | None,
    open_only: bool,
    limit: int,
    now: datetime,
) -> Sequence[NearSite]:
    """The sites of a division, or within RADIUS_M_MAX of a position: open ones first, then by distance or next opening.

    Those that do not stand today are left out, as are those that do not take the category.
    """
    today = business_day(now)
    here = _comparable(where.position)
    found: list[tuple[bool, int | None, OpenSite]] = []
    for site in opening.current(session).by_code.values():
        if kind not in (None, site.kind) or (category is not None and category not in site.categories):
            continue
        if not site.community_code.startswith(where.division) or not site.stands_on(today):
            continue
        away_m = _away_m(here, site.position)
        is_open = opening.is_open(site, None, now) is None
        if (here is None or away_m is not None) and (is_open or not open_only):
            found.append((is_open, away_m, site))
    found.sort(key=lambda each: (not each[0], each[1] or 0, each[2].code))
    limit = min(limit, NEAR_MAX)
    if here is not None or open_only:
        # The next opening takes ten times as long to find as whether it is open: only for those that are told.
        found = found[:limit]
    return sorted((_near(*each, now) for each in found), key=_order)[:limit]


def near_stops(session: Session, where: Whereabouts, *, limit: int, now: datetime) -> Sequence[NearStop]:
    """The next coming of the van to each of its stops within STOP_DAYS days: by distance, or else the soonest first."""
    coming = timetable.visits(
        session, kind=PlanKind.STOP, division=where.division, now=now, days=STOP_DAYS, limit=VISITS_MAX
    )
    here = _comparable(where.position)
    next_of: dict[str, Visit] = {}
    for visit in coming:  # the soonest first
        next_of.setdefault(visit.plan.code, visit)
    found = []
    for visit in next_of.values():
        away_m = None if visit.position is None else _away_m(here, visit.position)
        if here is None or away_m is not None:
            found.append(NearStop(visit, away_m))
    found.sort(key=lambda each: (each.distance_m or 0, each.visit.starts_at, each.visit.plan.code))
    return found[: min(limit, NEAR_MAX)]


def _near(is_open: bool, away_m: int | None, site: OpenSite, now: datetime) -> NearSite:
    times = opening.opens_next(site, now)
    return NearSite(
        site=site,
        distance_m=away_m,
        is_open=is_open,
        opens_at=times and times[0],
        closes_at=times and times[1],
        today=tuple(opening.text_of(span) for span in site.spans(business_day(now))),
    )


def _order(each: NearSite) -> tuple[bool, int, bool, str, str]:
    opens = "" if each.opens_at is None else each.opens_at.isoformat()
    return not each.is_open, each.distance_m or 0, each.opens_at is None, opens, each.site.code


def _comparable(position: Position | None) -> Position | None:
    """The position in the system of most sites, converted once and not once for each of them."""
    return None if position is None else position.in_gcj_02()


def _away_m(here: Position | None, there: Position) -> int | None:
    """The distance, None without a position or beyond the radius."""
    if here is None:
        return None
    # The exact distance converts both positions, which a site in another town is not worth.
    if (
        abs(here.latitude - there.latitude) > _RADIUS_DEGREES
        or abs(here.longitude - there.longitude) > _RADIUS_DEGREES_EAST
    ):
        return None
    away_m = distance_m(here, there)
    return round(away_m / DISTANCE_STEP_M) * DISTANCE_STEP_M if away_m <= RADIUS_M_MAX else None
