"""The public tables of activity: by behaviour, kilograms by material, and grams saved by method."""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.models import Behaviour
from points.earning.wording import MATERIAL_NAMES
from points.open_data.tables import FixedTable, Link, Measure, Row, Sum
from points.statistics.counting import is_settled
from points.statistics.marks import changed_days
from points.statistics.models import ALL_BEHAVIOURS, ALL_MODES, ActivityPeriod, ActivitySaving
from points.statistics.periods import CalendarPeriod, Grain

ACTIVITY, MATERIALS, SAVINGS = "activity", "recycling-materials", "carbon-savings"

SUMS = ("activities", "distance_m", "weight_g", "points")
SAVED = "saved_co2e_mg"

BEHAVIOUR_NAMES = {
    Behaviour.WALK.value: ("步行（含每日步数）", "walking, with daily steps"),
    Behaviour.BICYCLE.value: ("自行车", "bicycle"),
    Behaviour.E_BIKE.value: ("电动自行车", "e-bike"),
    Behaviour.BUS.value: ("公交", "bus"),
    Behaviour.METRO.value: ("地铁", "metro"),
    Behaviour.SORTING.value: ("垃圾分类", "waste sorting"),
    Behaviour.RECYCLING.value: ("再生资源回收", "recycling"),
}


def is_settled_now(session: Session, period: CalendarPeriod) -> bool:
    """Whether every day of the period is counted as it stands; a period in which nothing ever happened is."""
    if changed_days(session, period.starts_on, period.ends_on):
        return False
    return is_settled(session, period) or not session.scalar(
        sa.select(
            sa.exists().where(
                ActivityPeriod.grain == Grain.MONTH,
                ActivityPeriod.starts_on.between(period.starts_on, period.ends_on),
            )
        )
    )


def _rows(session: Session, period: CalendarPeriod, *where: sa.ColumnElement[bool]) -> Iterator[ActivityPeriod]:
    wanted = sa.select(ActivityPeriod).where(
        ActivityPeriod.grain == period.grain, ActivityPeriod.starts_on == period.starts_on, *where
    )
    yield from session.scalars(wanted.execution_options(populate_existing=True))


def _activity_row(kept: ActivityPeriod, category: str) -> Row:
    return Row(
        kept.place_code,
        category,
        {name: getattr(kept, name) for name in (*SUMS, "residents")},
        {
            "activities": kept.residents,
            "distance_m": kept.distance_residents,
            "weight_g": kept.weight_residents,
            "points": kept.points_residents,
        },
        {name: getattr(kept, f"largest_{name}") for name in SUMS},
    )


def _by_behaviour(session: Session, period: CalendarPeriod) -> Iterator[Row]:
    every = ActivityPeriod.behaviour != ALL_BEHAVIOURS
    for kept in _rows(session, period, every, ActivityPeriod.mode == ALL_MODES):
        yield _activity_row(kept, kept.behaviour)


def _by_material(session: Session, period: CalendarPeriod) -> Iterator[Row]:
    recycling = ActivityPeriod.behaviour == Behaviour.RECYCLING
    for kept in _rows(session, period, recycling, ActivityPeriod.mode != ALL_MODES):
        yield _activity_row(kept, kept.mode)


def _in(period: CalendarPeriod) -> tuple[sa.ColumnElement[bool], ...]:
    return (ActivitySaving.grain == period.grain, ActivitySaving.starts_on == period.starts_on)


def _by_method(session: Session, period: CalendarPeriod) -> Iterator[Row]:
    wanted = sa.select(ActivitySaving).where(*_in(period), ActivitySaving.behaviour == ALL_BEHAVIOURS)
    for kept in session.scalars(wanted.execution_options(populate_existing=True)):
        yield Row(
            kept.place_code,
            kept.method_id,
            {SAVED: kept.saved_co2e_mg},
            {SAVED: kept.residents},
            {SAVED: kept.largest_saved_co2e_mg},
        )


def _material_links(session: Session, period: CalendarPeriod) -> list[Link]:
    # Points for a kilogram differ from material to material, so the total's points are a second equation.
    materials = sorted({row.category for row in _by_material(session, period)})
    if not materials:
        return []
    parts = tuple((MATERIALS, material) for material in materials)
    return [Sum((ACTIVITY, Behaviour.RECYCLING.value), parts, extra=1)]


def _method_links(session: Session, period: CalendarPeriod) -> list[Link]:
    """Grams are metres, or grams of material, times factors that anybody can look up."""
    behaviour, mode = ActivitySaving.behaviour, ActivitySaving.mode
    found = session.execute(
        sa.select(ActivitySaving.method_id, behaviour, mode).where(*_in(period), mode != ALL_MODES).distinct()
    )
    sources: dict[str, set[tuple[str, str]]] = {}
    for method, of, by in found:
        part = (MATERIALS, by) if of == Behaviour.RECYCLING else (ACTIVITY, of)
        sources.setdefault(method, set()).add(part)
    return [Sum((SAVINGS, method), tuple(sorted(parts)), weighted=True) for method, parts in sorted(sources.items())]


_ACTIVITIES = Measure(
    "activities", "记录次数", "Records", "次 records", "计入奖励的记录次数。", "Records that were counted."
)
_RESIDENTS = Measure(
    "residents",
    "参与居民",
    "Residents",
    "人 residents",
    "至少有一条记录的不同居民；不可跨行为或跨时期相加。",
    "Distinct residents with at least one record; not to be added up over behaviours or periods.",
)
_DISTANCE = Measure(
    "distance_m", "出行距离", "Distance", "米 m", "出行类记录的距离之和。", "Added up over the records of travel."
)
_WEIGHT = Measure("weight_g", "重量", "Weight", "克 g", "称得的重量之和。", "The sum of the weights as weighed.")
_POINTS = Measure("points", "积分", "Points", "分 points", "实际发放的积分。", "Points that were paid.")
_SAVED = Measure(
    "saved_co2e_g",
    "减排量",
    "Saved",
    "克二氧化碳当量 g CO2e",
    "按一种核算方法，舍去不足一克的部分；不同方法的数不可相加。",
    "By one method, cut off to whole grams; figures of different methods are never added up.",
    of=SAVED,
    divisor=1000,
)

TABLES = [
    FixedTable(
        code=ACTIVITY,
        title_zh="各地绿色行为",
        title_en="Activity by place and behaviour",
        note_zh="平台记录，居民自愿参加；不是官方绿色出行比例，不能与目标线比较。",
        note_en="Records of the platform, which residents choose to join; not the official green-travel share, and not"
        " comparable with the goal.",
        category_zh="行为",
        category_en="behaviour",
        measures=(_ACTIVITIES, _RESIDENTS, _DISTANCE, _WEIGHT, _POINTS),
        rows=_by_behaviour,
        is_settled=is_settled_now,
        sums=SUMS,
        counts=("residents",),
        category_names=BEHAVIOUR_NAMES,
    ),
    FixedTable(
        code=MATERIALS,
        title_zh="各地再生资源回收量",
        title_en="Recycling by place and material",
        note_zh="回收投放的重量。",
        note_en="Weights of what was dropped or collected for recycling.",
        category_zh="材料",
        category_en="material",
        measures=(_WEIGHT,),
        rows=_by_material,
        is_settled=is_settled_now,
        sums=SUMS,
        links=_material_links,
        category_names=MATERIAL_NAMES,
    ),
    FixedTable(
        code=SAVINGS,
        title_zh="各地减排量（按核算方法）",
        title_en="Carbon saved by place and method",
        note_zh="每种核算方法单列，不同方法的数不可相加。",
        note_en="Each method stands alone; figures of different methods are never added up.",
        category_zh="核算方法",
        category_en="method",
        measures=(_SAVED,),
        rows=_by_method,
        is_settled=is_settled_now,
        sums=(SAVED,),
        links=_method_links,
        is_derived=True,
    ),
]
