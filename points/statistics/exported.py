"""Activity as files: the table of one period, and the list of single activities for the district."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.models import Activity
from points.ledger.models import Transfer
from points.statistics.models import ActivityPeriod, ActivitySaving, RegisteredPeriod
from points.statistics.periods import Grain, period_with
from points.statistics.reports import scope_of
from server.access import Actor, Permission
from server.errors import DomainError, Forbidden, NotFound
from server.exports.registry import Arguments, Cell, Producer, streamed
from server.places.models import Division

TABLE, LIST = "activity-statistics", "activities"

DAYS_MAX = 366
DISTRICT_DIGITS = 6


class ActivityDaysInvalid(DomainError):
    """A list of activities covers at least one day and at most DAYS_MAX."""

    code, status, title_zh, title_en = (
        "activity-days-invalid",
        422,
        "活动明细的起止日期不合理",
        "A list of activities covers from 1 to 366 days",
    )


TABLE_COLUMNS = (
    "代码",
    "名称",
    "级别",
    "周期",
    "起",
    "止",
    "行为(空为全部)",
    "方式或品类(空为全部)",
    "注册人数",
    "记录数",
    "居民数",
    "里程(米)",
    "重量(千克)",
    "积分",
    "减排量(克, 按方法学)",
    "点位数",
    "合作方数",
    "撤回数",
)


def _authorise_table(_session: Session, actor: Actor, arguments: Arguments) -> None:
    """Raise what asking for the same page would raise: Forbidden, NotFound."""
    if not actor.may(Permission.REPORT_READ):
        raise Forbidden
    scope_of(actor, arguments["within"])


def _table_rows(session: Session, actor: Actor, arguments: Arguments) -> Iterator[Sequence[Cell]]:
    scope = scope_of(actor, arguments["within"])
    period = period_with(Grain(arguments["grain"]), date.fromisoformat(arguments["on"]))
    saved = (
        sa.select(
            sa.func.string_agg(
                sa.func.concat(ActivitySaving.method_id, " ", ActivitySaving.saved_co2e_mg // 1000),
                sa.text("'; ' ORDER BY method_id"),
            )
        )
        .where(
            ActivitySaving.grain == ActivityPeriod.grain,
            ActivitySaving.starts_on == ActivityPeriod.starts_on,
            ActivitySaving.behaviour == ActivityPeriod.behaviour,
            ActivitySaving.mode == ActivityPeriod.mode,
            ActivitySaving.place_code == ActivityPeriod.place_code,
        )
        .scalar_subquery()
    )
    rows = streamed(
        session,
        sa.select(ActivityPeriod, Division.name, Division.level, RegisteredPeriod.registered, saved)
        .join(Division, Division.code == ActivityPeriod.place_code)
        .outerjoin(
            RegisteredPeriod,
            sa.and_(
                RegisteredPeriod.grain == ActivityPeriod.grain,
                RegisteredPeriod.starts_on == ActivityPeriod.starts_on,
                RegisteredPeriod.place_code == ActivityPeriod.place_code,
            ),
        )
        .where(
            ActivityPeriod.grain == period.grain,
            ActivityPeriod.starts_on == period.starts_on,
            ActivityPeriod.place_code.startswith(scope, autoescape=True),
        )
        .order_by(ActivityPeriod.place_code, ActivityPeriod.behaviour, ActivityPeriod.mode),
    )
    for row in rows:
        kept, name, level, registered, savings = cast("tuple[Any, ...]", row)
        yield (
            kept.place_code,
            name,
            level.value,
            period.grain.value,
            period.starts_on,
            period.ends_on,
            kept.behaviour,
            kept.mode,
            registered,
            kept.activities,
            kept.residents,
            kept.distance_m,
            kept.weight_g / 1000,
            kept.points,
            savings or "",
            kept.sites,
            kept.partners,
            kept.reversed,
        )


LIST_COLUMNS = (
    "业务日",
    "社区代码",
    "行为",
    "方式或品类",
    "证据等级",
    "来源",
    "结果",
    "原因",
    "里程(米)",
    "重量(克)",
    "计为次数",
    "点位",
    "核定积分",
    "发放积分",
    "减排量(毫克)",
    "方法学",
    "规则版本",
)


def _authorise_list(_session: Session, actor: Actor, arguments: Arguments) -> None:
    """For the whole district alone: inside a community single acts would tell who they are of.

    Raises Forbidden, NotFound below the district, ActivityDaysInvalid.
    """
    if not actor.may(Permission.REPORT_READ):
        raise Forbidden
    if actor.division is None or len(actor.division) > DISTRICT_DIGITS:
        raise NotFound
    first_on, last_on = _days(arguments)
    if not 1 <= (last_on - first_on).days + 1 <= DAYS_MAX:
        raise ActivityDaysInvalid


def _days(arguments: Arguments) -> tuple[date, date]:
    return date.fromisoformat(arguments["from"]), date.fromisoformat(arguments["to"])


def _list_rows(session: Session, actor: Actor, arguments: Arguments) -> Iterator[Sequence[Cell]]:
    """Single activities without anybody's identity or time of day, day by day: no sort is larger than a day."""
    if actor.division is None:
        raise NotFound
    first_on, last_on = _days(arguments)
    for number in range((last_on - first_on).days + 1):
        statement = (
            sa.select(
                Activity.business_day,
                Activity.community_code,
                Activity.behaviour,
                Activity.mode,
                Activity.grade,
                Activity.source,
                Activity.outcome,
                Activity.reason,
                Activity.distance_m,
                Activity.weight_g,
                Activity.acts,
                Activity.site,
                Activity.priced_points,
                sa.func.coalesce(Transfer.points, 0),
                Activity.saved_co2e_mg,
                Activity.method_id,
                Activity.rule_version_id,
            )
            .outerjoin(Transfer, sa.and_(Transfer.resident_id == Activity.resident_id, Transfer.id == Activity.id))
            .where(
                Activity.business_day == first_on + timedelta(days=number),
                Activity.community_code.startswith(actor.division, autoescape=True),
            )
            .order_by(Activity.id)
        )
        # The enums as the words they are kept as.
        for row in streamed(session, cast("sa.Select[Any]", statement)):
            yield tuple(getattr(cell, "value", cell) for cell in row)


PRODUCERS = [
    Producer(TABLE, "活动统计表", _authorise_table, lambda *_: TABLE_COLUMNS, _table_rows),
    Producer(LIST, "活动明细", _authorise_list, lambda *_: LIST_COLUMNS, _list_rows),
]
