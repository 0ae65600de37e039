"""What the tests of participation statistics are built from: residents' days as an award leaves them, and counting."""

from collections.abc import Iterable
from datetime import date
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.statistics import counting, verification
from campaigns.statistics.campaign_counts import campaigns_to_count, count_campaign
from campaigns.statistics.counting import Counted
from campaigns.statistics.models import PlacePeriod
from points.earning.models import Behaviour, CommunityDay, ResidentDay
from points.statistics.marks import FIRST_DAY
from points.statistics.periods import Grain, period_with
from server.clock import now
from server.database import new_id
from server.people.models import Resident

STREET, OTHER_STREET, DISTRICT = "120104001", "120104002", "120104"
HERE, THERE, FAR = "120104001001", "120104001003", "120104002001"
METHOD = "published-conservative"

SUMS = ("activities", "distance_m", "weight_g", "saved_co2e_mg", "points")


def register(session: Session, community: str, count: int = 1, **values: Any) -> list[UUID]:
    """So many residents at home in a community."""
    rows = [{"resident_id": new_id(), "community_code": community, "created_at": now(), **values} for _ in range(count)]
    session.execute(sa.insert(Resident), rows)
    session.commit()
    return [row["resident_id"] for row in rows]


def act(
    session: Session,
    residents: Iterable[UUID],
    day: date,
    community: str = HERE,
    behaviour: Behaviour = Behaviour.WALK,
    *,
    saved_co2e_mg: int = 0,
    points: int = 1,
    times: int = 1,
) -> None:
    """Residents record an activity each, counted for them and their community; `times` -1 takes it back again."""
    sums = {
        "activities": times,
        "distance_m": 0,
        "weight_g": 0,
        "saved_co2e_mg": saved_co2e_mg * times,
        "points": points * times,
    }
    for resident in residents:
        key = {"resident_id": resident, "day": day, "behaviour": behaviour}
        add(session, ResidentDay, key, {"community_code": community}, sums)
        method = METHOD if saved_co2e_mg else ""
        place = {"community_code": community, "day": day, "behaviour": behaviour, "mode": "x", "method_id": method}
        add(session, CommunityDay, place, {}, sums)
    session.commit()


def add(session: Session, table: Any, key: dict[str, Any], rest: dict[str, Any], sums: dict[str, int]) -> None:
    """Add to a kept count of the award path."""
    before = session.get(table, tuple(key.values()), populate_existing=True)
    if before is not None:
        # An upsert checks the row that it proposes, and below zero that is refused whatever it is added to.
        changed = {name: getattr(table, name) + sums[name] for name in SUMS}
        conditions = [getattr(table, name) == value for name, value in key.items()]
        session.execute(sa.update(table).where(*conditions).values(changed))
    else:
        session.execute(insert(table).values({**key, **rest, **sums}))


def count(session: Session) -> Counted:
    """Count what is due, as the job does; what the months took together."""
    for campaign_id in campaigns_to_count(session, now=now()):
        count_campaign(session, campaign_id, now=now())
    days = periods = 0
    for month in counting.months_to_count(session, since=FIRST_DAY, now=now()):
        counted = counting.count_month(session, month, now=now())
        days, periods = days + counted.days, periods + counted.periods
    session.commit()
    return Counted(days, periods)


def row(session: Session, place: str, grain: Grain, day: date, kind: str = "") -> PlacePeriod:
    """The kept row of a place in the period that holds a day; one of zeros if there is none."""
    key = (grain, period_with(grain, day).starts_on, kind, place)
    found = session.get(PlacePeriod, key, populate_existing=True)
    zeros = dict.fromkeys(("participants", "joins", "check_ins", "completions", "volunteer_minutes", "points"), 0)
    return found or PlacePeriod(registered=0, saved_co2e_mg={}, **zeros)


def participants(session: Session, grain: Grain, day: date, *places: str) -> tuple[int, ...]:
    """How many took part in each of the places."""
    return tuple(row(session, place, grain, day).participants for place in places)


def faults(session: Session) -> dict[str, Any]:
    """Every check of the counts that fails, with the first row that is wrong."""
    found = verification.verify(session)
    return {each.name: each.first_wrong for each in found if each.first_wrong is not None}
