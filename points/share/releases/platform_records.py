"""平台记录占比: what residents and partners recorded on the platform in a year, by mode, beside the estimate.

Records are self-selected and paid to be green, and car trips are never among them: they say nothing about the share of
all trips, are never part of its estimate and never set against the goal. They are kept with the release as they stood,
rounded and without modes of few residents, so that two looks cannot be subtracted from each other.
"""

from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.models import TRAVEL, Behaviour, CommunityDay, ResidentDay

LABEL_ZH, LABEL_EN = "平台记录占比", "Trips recorded on the platform"
NOTE_ZH = "仅为居民自愿在本平台记录的出行次数构成，不是绿色出行比例，不能与目标线比较。不足10人的方式不公布。"
NOTE_EN = (
    "How the trips that residents chose to record here are made up; not the green-travel share, and not comparable "
    "with the goal. Modes of fewer than 10 residents are withheld."
)

RESIDENTS_MIN = 10
# A single trip must not show: shares in thousandths, and only of a total that makes a thousandth several trips.
TRIPS_MIN = 5_000
TRIPS_ROUNDED_TO = 1_000

MODES: dict[Behaviour, tuple[str, str]] = {
    Behaviour.METRO: ("地铁", "Metro"),
    Behaviour.BUS: ("公交", "Bus"),
    Behaviour.BICYCLE: ("自行车", "Bicycle"),
    Behaviour.WALK: ("步行（含每日步数）", "Walking, a day’s steps being one record"),
    Behaviour.E_BIKE: ("电动自行车", "E-bike"),
}


def platform_records(session: Session, *, district_code: str, year: int, today: date) -> dict[str, Any]:
    """The year's recorded trips by mode, up to today, as a release keeps them: JSON values.

    `share` is of the modes shown, None for a mode withheld; `trips_about` is their total, rounded, None below
    TRIPS_MIN, where no share is shown either.
    """
    first_on, last_on = date(year, 1, 1), min(date(year, 12, 31), today)
    trips = {
        behaviour: number
        for behaviour, number in _trips(session, district_code, first_on, last_on).items()
        if number > 0 and _has_residents(session, district_code, behaviour, first_on, last_on)
    }
    total = sum(trips.values())
    if total < TRIPS_MIN:
        trips, total = {}, 0
    return {
        "label_zh": LABEL_ZH,
        "label_en": LABEL_EN,
        "note_zh": NOTE_ZH,
        "note_en": NOTE_EN,
        "first_on": first_on.isoformat(),
        "last_on": last_on.isoformat(),
        "trips_about": round(total / TRIPS_ROUNDED_TO) * TRIPS_ROUNDED_TO if total else None,
        "modes": [
            {
                "mode": behaviour.value,
                "name_zh": name_zh,
                "name_en": name_en,
                "share": round(trips[behaviour] / total, 3) if behaviour in trips else None,
            }
            for behaviour, (name_zh, name_en) in MODES.items()
        ],
    }


def _trips(session: Session, district_code: str, first_on: date, last_on: date) -> dict[Behaviour, int]:
    rows = session.execute(
        sa.select(CommunityDay.behaviour, sa.func.sum(CommunityDay.activities))
        .where(
            CommunityDay.day.between(first_on, last_on),
            CommunityDay.community_code.startswith(district_code, autoescape=True),
            CommunityDay.behaviour.in_(TRAVEL),
        )
        .group_by(CommunityDay.behaviour)
    )
    return {behaviour: int(number) for behaviour, number in rows}


def _has_residents(session: Session, district_code: str, behaviour: Behaviour, first_on: date, last_on: date) -> bool:
    """Whether RESIDENTS_MIN different residents recorded a trip; looks no further than at so many."""
    found = (
        sa.select(ResidentDay.resident_id)
        .where(
            ResidentDay.day.between(first_on, last_on),
            ResidentDay.behaviour == behaviour,
            ResidentDay.activities > 0,
            ResidentDay.community_code.startswith(district_code, autoescape=True),
        )
        .distinct()
        .limit(RESIDENTS_MIN)
    )
    return session.execute(sa.select(sa.func.count()).select_from(found.subquery())).scalar_one() >= RESIDENTS_MIN
