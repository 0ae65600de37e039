"""What became of it: by family, what it was paid and could have been, and how soon it was found; by honest resident."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bench.replay_kit.course import Run, people_of
from bench.replay_kit.town import HARD_CASES
from points.earning import pricing

DAY = timedelta(days=1)
FOUND_SHARE_MIN = 0.9
HONEST_SHARE_MAX = 0.01


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """One family: points paid, of those in cases, the most that the rules allow, and accounts found within a day."""

    code: str
    zh: str
    en: str
    careful: bool
    accounts: int
    sent: int
    paid_points: int
    in_cases_points: int
    bound_points: int
    paid_accounts: int
    found: int

    @property
    def found_share(self) -> float:
        """Of the accounts that were paid or held anything, those found within a day of it."""
        return self.found / self.paid_accounts if self.paid_accounts else 1.0

    @property
    def is_stopped(self) -> bool:
        """Bounded to nothing, or nine of ten found within a day."""
        return self.paid_points == 0 or self.found_share >= FOUND_SHARE_MIN


@dataclass(frozen=True, slots=True)
class HonestRow:
    """Honest residents of one kind: how many, how many ever waited or stood in a case, how many only waited.

    Who only waits was held with a subject shared with attackers, such as the supervisor; nothing was found about them.
    """

    hard: str
    people: int
    touched: int
    only_waited: int


@dataclass(frozen=True, slots=True)
class Result:
    """The whole table."""

    families: list[FamilyRow]
    honest: list[HonestRow]
    reasons: list[tuple[str, int, int]]  # a reason, honest people and attackers touched for it
    activities: int

    @property
    def honest_share(self) -> float:
        """Of the honest, those who ever waited or were in a case."""
        return sum(row.touched for row in self.honest) / sum(row.people for row in self.honest)

    @property
    def precision(self) -> float:
        """Of all people touched, the attackers."""
        attackers = sum(row.found for row in self.families)
        honest = sum(row.touched for row in self.honest)
        return attackers / (attackers + honest) if attackers + honest else 1.0

    @property
    def fails(self) -> list[str]:
        """What does not hold."""
        found = [
            f"{row.code}: {row.found}/{row.paid_accounts}"
            for row in self.families
            if not row.careful and not row.is_stopped
        ]
        if self.honest_share > HONEST_SHARE_MAX:
            found.append(f"honest residents touched: {self.honest_share:.2%}")
        return found


_ACTIVITIES = sa.text("""
SELECT a.resident_id, count(*) AS sent, min(a.received_at) FILTER (WHERE a.outcome IN ('awarded', 'held')) AS first_at,
       min(a.received_at) FILTER (WHERE a.outcome = 'held') AS held_at,
       coalesce(sum(t.points), 0) AS paid, array_agg(DISTINCT a.reason) FILTER (WHERE a.outcome = 'held') AS reasons
FROM activity a LEFT JOIN transfer t ON t.resident_id = a.resident_id AND t.id = a.id
GROUP BY 1
""")

_CASES = sa.text("""
SELECT c.resident_id, min(c.opened_at) AS opened_at, count(*) FILTER (WHERE c.kind = 'lead') AS leads,
       array_agg(DISTINCT c.reason) AS reasons,
       coalesce(sum(c.points) FILTER (WHERE c.kind = 'lead'), 0) AS points
FROM review_case c GROUP BY 1
""")


@dataclass(frozen=True, slots=True)
class _Seen:
    sent: int
    paid: int
    in_cases: int
    first_at: datetime | None
    found_at: datetime | None
    in_lead: bool
    reasons: frozenset[str]


def read(session: Session, run: Run) -> Result:
    """The table of a run that is over."""
    seen = _seen(session)
    tariff = pricing.current(session).on(run.plan.starts_on)
    if tariff is None:
        raise AssertionError("no rules hold on the first day")
    families = []
    for family in run.families:
        mine = [seen[each] for each in people_of(family) if each in seen]
        acted = [each for each in mine if each.first_at is not None]
        families.append(
            FamilyRow(
                family.code,
                family.zh,
                family.en,
                family.careful,
                len(family.accounts),
                sum(each.sent for each in mine),
                sum(each.paid for each in mine),
                min(sum(each.in_cases for each in mine), sum(each.paid for each in mine)),
                family.bound(tariff, run.attacked_days),
                len(acted),
                sum(_within_a_day(each) for each in acted),
            )
        )
    return Result(
        families,
        _honest(run, seen),
        _reasons(run, seen),
        sum(each.sent for each in seen.values()),
    )


def _seen(session: Session) -> dict[UUID, _Seen]:
    cases = {row.resident_id: row for row in session.execute(_CASES)}
    found = {}
    for row in session.execute(_ACTIVITIES):
        case = cases.get(row.resident_id)
        moments = [moment for moment in (row.held_at, case and case.opened_at) if moment is not None]
        reasons = frozenset(row.reasons or ()) | frozenset(case.reasons if case else ())
        found[row.resident_id] = _Seen(
            row.sent,
            row.paid,
            case.points if case else 0,
            row.first_at,
            min(moments, default=None),
            case is not None and case.leads > 0,
            reasons,
        )
    return found


def _within_a_day(seen: _Seen) -> bool:
    return seen.found_at is not None and seen.first_at is not None and seen.found_at - seen.first_at <= DAY


def _honest(run: Run, seen: Mapping[UUID, _Seen]) -> list[HonestRow]:
    rows = []
    for hard in ("", *HARD_CASES):
        people = [person.resident_id for person in run.town.people if person.hard == hard]
        touched = [seen[each] for each in people if each in seen and seen[each].found_at is not None]
        rows.append(HonestRow(hard, len(people), len(touched), sum(not each.in_lead for each in touched)))
    return rows


def _reasons(run: Run, seen: Mapping[UUID, _Seen]) -> list[tuple[str, int, int]]:
    honest = {person.resident_id for person in run.town.people}
    counted: dict[str, list[int]] = {}
    for resident_id, each in seen.items():
        for reason in each.reasons:
            counted.setdefault(reason, [0, 0])[resident_id not in honest] += 1
    return [(reason, *counts) for reason, counts in sorted(counted.items())]  # type: ignore[misc]


def lines(result: Result, run: Run) -> Iterable[str]:
    """The table in Markdown."""
    plan = run.plan
    yield (
        f"{plan.residents:,} 名诚实居民 honest residents × {plan.days} 天 days, {result.activities:,} 条记录 records; "
        f"每类攻击 {plan.accounts} 个账号 accounts a family, 自第 {plan.attack_from + 1} 天起 from day "
        f"{plan.attack_from + 1}; seed {plan.seed}"
    )
    yield ""
    yield "| 攻击 family | 记录 sent | 得分 gained | 在案 in cases | 规则上限 bounded to | 一天内发现 found in a day |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in result.families:
        found = (
            "全部被拒 all refused"
            if row.paid_accounts == 0
            else f"{row.found} / {row.paid_accounts} ({row.found_share:.0%})"
        )
        mark = "谨慎 careful: " if row.careful else ""
        yield (
            f"| {mark}{row.zh} {row.en} | {row.sent:,} | {row.paid_points:,} | {row.in_cases_points:,} | "
            f"{0 if row.paid_accounts == 0 else row.bound_points:,} | {found} |"
        )
    yield ""
    yield "| 诚实居民 honest residents | 人数 people | 曾等待或在案 ever held or in a case | 其中仅受牵连 only waited |"
    yield "|---|---:|---:|---:|"
    for each in result.honest:
        yield f"| {HARD_CASES.get(each.hard, '其他 others')} | {each.people:,} | {each.touched} | {each.only_waited} |"
    only_waited = sum(each.only_waited for each in result.honest)
    yield f"| 合计 all | {sum(each.people for each in result.honest):,} | {result.honest_share:.2%} | {only_waited} |"
    yield ""
    yield "| 原因 reason | 诚实 honest | 攻击者 attackers |"
    yield "|---|---:|---:|"
    for reason, honest, attackers in result.reasons:
        yield f"| {reason} | {honest} | {attackers} |"
    yield ""
    yield f"查准率 precision: {result.precision:.1%}"
