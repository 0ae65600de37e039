"""The table of participation as a file: every place of the actor's scope in one period."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

from sqlalchemy.orm import Session

from campaigns.drives.models import CampaignKind
from campaigns.statistics.participation import PlaceFigures, PlaceQuery, places
from campaigns.statistics.report import DistrictFigures, district_figures
from points.statistics.periods import Grain
from server.access import Actor, Permission
from server.errors import Forbidden
from server.exports.registry import Arguments, Cell, Producer
from server.paging import PAGE_SIZE_MAX
from server.settings import settings

KIND = "participation"

COLUMNS = (
    "代码",
    "名称",
    "级别",
    "周期",
    "起",
    "止",
    "活动类型",
    "注册人数",
    "参与人数",
    "参与率",
    "收缩参与率",
    "区间下限",
    "区间上限",
    "报名人次",
    "签到人次",
    "完成人次",
    "志愿服务分钟",
    "积分",
    "减排量(克, 按方法学)",
    "人口参与率(注明口径)",
    "统计时间",
)


def arguments_of(query: PlaceQuery) -> dict[str, Any]:
    """A query as the arguments of an export."""
    return {
        "grain": query.grain.value,
        "on": query.on.isoformat(),
        "kind": query.kind.value if query.kind else None,
        "within": query.within,
    }


def _query_of(arguments: Arguments) -> PlaceQuery:
    return PlaceQuery(
        grain=Grain(arguments["grain"]),
        on=date.fromisoformat(arguments["on"]),
        kind=CampaignKind(arguments["kind"]) if arguments["kind"] else None,
        within=arguments["within"],
    )


def _authorise(session: Session, actor: Actor, arguments: Arguments) -> None:
    """Raise what asking for the same page would raise: Forbidden, NotFound, KindsByMonth."""
    if not actor.may(Permission.REPORT_READ):
        raise Forbidden
    places(session, actor, _district(), _query_of(arguments), limit=1, cursor=None)


def _rows(session: Session, actor: Actor, arguments: Arguments) -> Iterator[Sequence[Cell]]:
    query, district, cursor = _query_of(arguments), _district(), None
    while True:
        page = places(session, actor, district, query, limit=PAGE_SIZE_MAX, cursor=cursor)
        head: tuple[Cell, ...] = (page.period.grain.value, page.period.starts_on, page.period.ends_on)
        head = (*head, query.kind.value if query.kind else "")
        for item in page.items:
            yield (*_cells(item, head), page.counted_at)
        cursor = page.next_cursor
        if cursor is None:
            return


def _cells(item: PlaceFigures, head: tuple[Cell, ...]) -> tuple[Cell, ...]:
    figures = item.figures
    rate = figures.rate
    return (
        item.place_code,
        item.place_name,
        item.level,
        *head,
        figures.registered,
        figures.participants,
        *((rate.raw, rate.shrunk, rate.low, rate.high) if rate else (None, None, None, None)),
        figures.joins,
        figures.check_ins,
        figures.completions,
        figures.volunteer_minutes,
        figures.points,
        "; ".join(f"{saving.method} {saving.grams}" for saving in figures.savings),
        "; ".join(
            f"{each.rate} ({each.year}年 {each.persons}人, {each.source}, {each.confidence})"
            for each in item.population_rates
        ),
    )


def _district() -> DistrictFigures:
    return district_figures(settings().district_folder)


PRODUCERS = [Producer(KIND, "参与统计表", _authorise, lambda *_: COLUMNS, _rows)]
