"""Replaying history under another method: what would have been saved, beside what was recorded. Changes nothing."""

from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.carbon.methods import MethodUnknown
from points.carbon.models import Factor, FactorUnit, Method, MethodKind

# `points.earning` prices with this sub-room's methods and so imports it; importing its model here would close a circle.
# The replay needs only these columns of its table.
_ACTIVITY = sa.table(
    "activity",
    sa.column("behaviour", sa.String),
    sa.column("mode", sa.String),
    sa.column("outcome", sa.String),
    sa.column("business_day", sa.Date),
    sa.column("distance_m", sa.Integer),
    sa.column("weight_g", sa.Integer),
    sa.column("saved_co2e_mg", sa.BigInteger),
    sa.column("method_id", sa.String),
)


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """The awarded activities of one mode or material that were recorded under one method.

    `quantity` in metres or grams, savings in milligrams. `recorded_method_id` is None where nothing was saved, because
    the method had no factor for the mode.
    """

    mode: str
    recorded_method_id: str | None
    activities: int
    quantity: int
    recorded_saved_mg: int
    replayed_saved_mg: int

    @property
    def difference_mg(self) -> int:
        """What the replayed method would have saved more."""
        return self.replayed_saved_mg - self.recorded_saved_mg


@dataclass(frozen=True, slots=True)
class Replay:
    """A period under another method, one row for each mode and recorded method."""

    method: Method
    unit: FactorUnit
    rows: tuple[ReplayRow, ...]


def replay(session: Session, method_id: str, *, first_on: date, last_on: date) -> Replay:
    """Recompute the awarded activities of the business days `first_on` to `last_on`, both included, under a method.

    One statement, each activity rounded down by itself as in `savings.saved_mg`: 64-bit division of two numbers that
    are not negative. So the method that an activity was recorded under gives a difference of exactly 0. Paid points are
    not touched. Raises MethodUnknown.
    """
    method = session.get(Method, method_id)
    if method is None:
        raise MethodUnknown(f"no carbon method has the id {method_id!r}")
    activity = _ACTIVITY.c
    mine: sa.ColumnElement[bool]
    if method.kind is MethodKind.TRAVEL:
        unit, quantity, mine = FactorUnit.METRE, activity.distance_m, activity.distance_m.is_not(None)
    else:
        # Sorting drops are weighed too, but sorting correctly saves nothing that a factor measures.
        unit, quantity, mine = FactorUnit.GRAM, activity.weight_g, activity.behaviour == "recycling"
    replayed = sa.func.coalesce(Factor.micrograms_per_unit * quantity // 1000, 0)
    found = session.execute(
        sa.select(
            activity.mode,
            activity.method_id,
            sa.func.count(),
            sa.cast(sa.func.coalesce(sa.func.sum(quantity), 0), sa.BigInteger),
            sa.cast(sa.func.sum(activity.saved_co2e_mg), sa.BigInteger),
            sa.cast(sa.func.sum(replayed), sa.BigInteger),
        )
        .select_from(_ACTIVITY.outerjoin(Factor, sa.and_(Factor.method_id == method_id, Factor.key == activity.mode)))
        .where(activity.outcome == "awarded", activity.business_day.between(first_on, last_on), mine)
        .group_by(activity.mode, activity.method_id)
        .order_by(activity.mode, activity.method_id)
    )
    return Replay(method, unit, tuple(ReplayRow(*row) for row in found))
