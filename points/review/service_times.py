"""How long people wait for an answer: by kind of case, for one scope and one period of days."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.review import editions
from points.review.cases import in_scope, scope_of
from points.review.models import STANDING, Case, CaseKind, CaseState
from server.access import Actor
from server.clock import day_start
from server.errors import InvalidRequest

PERIOD_DAYS_MAX = 366


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """One kind of case. Hours from opening to the final decision, None without any; counts beside them.

    `late` were decided after the target, `overdue` stand past it now.
    """

    kind: CaseKind
    decided: int
    median_hours: float | None
    p90_hours: float | None
    late: int
    standing: int
    overdue: int
    oldest_hours: float | None


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """What was decided from `first` to `last`, both included, and what stands now."""

    first: date
    last: date
    target_days: int
    kinds: Sequence[ServiceTime]


def service_times(
    session: Session, actor: Actor, *, within: str | None, first: date, last: date, now: datetime
) -> ServiceTimes:
    """The service times of a place in the actor's scope. Raises NotFound, InvalidRequest for the period."""
    if not 0 <= (last - first).days < PERIOD_DAYS_MAX:
        raise InvalidRequest(f"The period must be 1 to {PERIOD_DAYS_MAX} days long")
    scope = scope_of(actor, within)
    target_days = editions.terms_at(session, now).target_days
    target = timedelta(days=target_days)
    took = Case.ended_at - Case.opened_at
    hours = sa.extract("epoch", took) / 3600
    decided = {
        row.kind: row
        for row in session.execute(
            sa.select(
                Case.kind,
                sa.func.count().label("decided"),
                sa.func.percentile_cont(0.5).within_group(hours).label("median_hours"),
                sa.func.percentile_cont(0.9).within_group(hours).label("p90_hours"),
                sa.func.count().filter(took > target).label("late"),
            )
            .where(
                Case.state == sa.literal_column(f"'{CaseState.DECIDED.value}'"),
                Case.ended_at >= day_start(first),
                Case.ended_at < day_start(last + timedelta(days=1)),
                in_scope(scope),
            )
            .group_by(Case.kind)
        )
    }
    standing = {
        row.kind: row
        for row in session.execute(
            sa.select(
                Case.kind,
                sa.func.count().label("standing"),
                sa.func.count().filter(Case.opened_at < now - target).label("overdue"),
                sa.func.min(Case.opened_at).label("oldest_at"),
            )
            .where(Case.state.in_(STANDING), in_scope(scope))
            .group_by(Case.kind)
        )
    }
    kinds = []
    for kind in CaseKind:
        done, waits = decided.get(kind), standing.get(kind)
        kinds.append(
            ServiceTime(
                kind,
                done.decided if done else 0,
                _rounded(done.median_hours) if done else None,
                _rounded(done.p90_hours) if done else None,
                done.late if done else 0,
                waits.standing if waits else 0,
                waits.overdue if waits else 0,
                _rounded((now - waits.oldest_at).total_seconds() / 3600) if waits else None,
            )
        )
    return ServiceTimes(first, last, target_days, kinds)


def _rounded(hours: float) -> float:
    return round(float(hours), 1)
