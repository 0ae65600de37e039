"""Cases as a file, for staff who follow how claims are reviewed; of a resident no more than the id.

Those about the household of whoever asks are left out, as in the queue.
"""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.review.cases import in_scope, not_ones_own, texts_of
from points.review.models import Case, CaseKind, CaseState, Verdict
from server.access import Actor, Permission
from server.clock import day_start, now
from server.errors import DomainError, Forbidden, NotFound
from server.exports.registry import Arguments, Cell, Producer, streamed

CASES = "review-cases"
DAYS_MAX = 366


class CaseDaysInvalid(DomainError):
    """A list of cases covers at least one day and at most DAYS_MAX."""

    code, status, title_zh, title_en = (
        "case-days-invalid",
        422,
        "案件清单的起止日期不合理",
        "A list of cases covers from 1 to 366 days",
    )


_COLUMNS = (
    "案件编号",
    "类型",
    "原因代码",
    "原因",
    "居民编号",
    "记录编号",
    "社区代码",
    "积分",
    "须两人",
    "立案时间",
    "状态",
    "结论",
    "答复",
    "办结时间",
    "用时(小时)",
)
_KINDS = {
    CaseKind.HELD_CLAIM: "待审记录",
    CaseKind.LEAD: "线索",
    CaseKind.APPEAL: "申诉",
    CaseKind.RECYCLING_DISPUTE: "回收争议",
}
_STATES = {
    CaseState.OPEN: "待办",
    CaseState.PROPOSED: "待复核",
    CaseState.DECIDED: "已办结",
    CaseState.SUPERSEDED: "已另行处理",
}
_VERDICTS = {None: None, Verdict.GRANTED: "支持居民", Verdict.DENIED: "不支持"}


def _authorise(_session: Session, actor: Actor, arguments: Arguments) -> None:
    """Raise Forbidden, NotFound outside the scope, CaseDaysInvalid."""
    if not actor.may(Permission.REVIEW_READ):
        raise Forbidden
    if not actor.covers(arguments["within"] or actor.division or ""):
        raise NotFound
    first, last = _days(arguments)
    if not 0 <= (last - first).days < DAYS_MAX:
        raise CaseDaysInvalid


def _days(arguments: Arguments) -> tuple[date, date]:
    return date.fromisoformat(arguments["from"]), date.fromisoformat(arguments["to"])


def _columns(_session: Session, _actor: Actor, _arguments: Arguments) -> Sequence[str]:
    return _COLUMNS


def _rows(session: Session, actor: Actor, arguments: Arguments) -> Iterator[Sequence[Cell]]:
    first, last = _days(arguments)
    wanted = (
        sa.select(Case)
        .where(
            in_scope(arguments["within"] or actor.division or ""),
            Case.opened_at >= day_start(first),
            Case.opened_at < day_start(last + timedelta(days=1)),
            not_ones_own(session, actor, now=now()),
        )
        .order_by(Case.id)
    )
    for row in streamed(session, wanted):
        case: Case = row[0]
        hours = None if case.ended_at is None else round((case.ended_at - case.opened_at).total_seconds() / 3600, 1)
        yield (
            case.id,
            _KINDS[case.kind],
            case.reason,
            texts_of(case.reason)[0],
            case.resident_id,
            case.activity_id,
            case.community_code,
            case.points,
            case.two_people,
            case.opened_at,
            _STATES[case.state],
            _VERDICTS[case.verdict],
            case.answer,
            case.ended_at,
            hours,
        )


PRODUCERS = [Producer(CASES, "复核案件清单", _authorise, _columns, _rows)]
