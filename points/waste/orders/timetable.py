"""When collectors come: plans of stops and of calls at homes, their days, and the places that a day has left."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from points.waste.orders.models import CAPACITY_MAX, DAYS_MAX, CollectionDay, CollectionPlan, PlanKind
from server import audit
from server.access import Actor
from server.clock import business_day, day_start
from server.data_files import read_toml
from server.database import new_id
from server.errors import Conflict, DomainError, NotFound, PreconditionFailed
from server.paging import Page, decode, page_of
from server.places.divisions import division_for
from server.places.positions import Datum, Position

TIMETABLE_FILE = "collection-timetable.toml"  # if the district has written one; plans are also made over HTTP
FILE_BYTES_MAX = 200_000
PLANS_LOADED_MAX = 2000
AHEAD_DAYS_MAX = 60
VISITS_MAX = 400
_CODE = re.compile("[a-z0-9][a-z0-9-]{0,39}")
STOP_CODE_LENGTH, HOME_CODE_LENGTHS = 12, (9, 12)


class PlanRefused(DomainError):
    """The plan does not make sense; the detail says why."""

    code, status, title_zh, title_en = "collection-plan-refused", 422, "回收安排有误", "The plan makes no sense"


class PlanCodeTaken(Conflict):
    """Another plan has this code."""

    code, title_zh, title_en = "collection-plan-code-taken", "该编号已被使用", "Another plan has this code"
    constraints = ("collection_plan_code_key",)


class CollectionFull(Conflict):
    """No place is left on this day."""

    code, title_zh, title_en = "collection-full", "当日名额已满", "No place is left on this day"


class NoCollection(Conflict):
    """Collectors do not come on this day, or it is too far ahead, or over."""

    code, title_zh, title_en = "no-collection", "当日没有该回收安排", "There is no such collection on this day"


class TimetableError(Exception):
    """A timetable cannot be loaded; the message names the file and the fault."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One coming of a plan: its day, its hours as aware instants, and how many places are left."""

    plan: CollectionPlan
    day: date
    starts_at: datetime
    ends_at: datetime
    left: int

    @property
    def position(self) -> Position | None:
        """Where the van stops; None for calls at homes."""
        if self.plan.latitude is None or self.plan.longitude is None:
            return None
        return Position(self.plan.latitude, self.plan.longitude, Datum.WGS_84)


def comes_on(plan: CollectionPlan, day: date) -> bool:
    """Whether collectors come on a business day: by the weekday or as a single day, and never on a closed one."""
    if not plan.valid_from <= day or (plan.valid_to is not None and day > plan.valid_to) or day in plan.closed_days:
        return False
    return day.isoweekday() in plan.weekdays or day in plan.days


def hours_on(plan: CollectionPlan, day: date) -> tuple[datetime, datetime]:
    """When the window of a day begins and ends."""
    midnight = day_start(day)
    return midnight + timedelta(minutes=plan.starts_minute), midnight + timedelta(minutes=plan.ends_minute)


def visits(session: Session, *, kind: PlanKind, division: str, now: datetime, days: int, limit: int) -> Sequence[Visit]:
    """What is to come of one kind within `days` days, today included, soonest first; at most `limit`.

    `division` is a prefix of codes, "" for everywhere; for calls at homes a community finds the hours of its street.
    """
    today = business_day(now)
    days, limit = min(days, AHEAD_DAYS_MAX), min(limit, VISITS_MAX)
    last = today + timedelta(days=days - 1)
    wanted = sa.select(CollectionPlan).where(
        CollectionPlan.kind == kind,
        CollectionPlan.valid_from <= last,
        sa.or_(CollectionPlan.valid_to.is_(None), CollectionPlan.valid_to >= today),
        _within(division),
    )
    plans = session.scalars(
        wanted.order_by(CollectionPlan.id).limit(PLANS_LOADED_MAX).execution_options(populate_existing=True)
    ).all()
    found = []
    for plan in plans:
        for ahead in range(days):
            day = today + timedelta(days=ahead)
            starts_at, ends_at = hours_on(plan, day)
            if ends_at > now and comes_on(plan, day):
                found.append(Visit(plan, day, starts_at, ends_at, plan.capacity))
    found.sort(key=lambda visit: (visit.starts_at, visit.plan.code))
    return _with_places_left(session, found[:limit])


def take_place(session: Session, plan: CollectionPlan, day: date) -> None:
    """Take one of the day's places: one guarded statement, so that the last place goes once. Raises CollectionFull."""
    kept = CollectionDay
    values = insert(kept).values(plan_id=plan.id, day=day, capacity=plan.capacity, taken=1)
    taken = session.scalar(
        values.on_conflict_do_update(
            index_elements=["plan_id", "day"],
            set_={"capacity": plan.capacity, "taken": kept.taken + 1},
            where=kept.taken + 1 <= plan.capacity,
        ).returning(kept.taken)
    )
    if taken is None:
        raise CollectionFull


def give_place_back(session: Session, plan_id: UUID, day: date) -> None:
    """Give one of the day's places back."""
    session.execute(
        sa.update(CollectionDay)
        .where(CollectionDay.plan_id == plan_id, CollectionDay.day == day, CollectionDay.taken > 0)
        .values(taken=CollectionDay.taken - 1)
        .execution_options(synchronize_session=False)
    )


def plan_of(session: Session, code: str, kind: PlanKind) -> CollectionPlan:
    """The plan of a code and kind, for whoever asks. Raises NotFound."""
    found = session.scalar(
        sa.select(CollectionPlan)
        .where(CollectionPlan.code == code, CollectionPlan.kind == kind)
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFound
    return found


# By staff


def plan_for(session: Session, actor: Actor, code: str) -> CollectionPlan:
    """A plan inside the actor's scope. Raises NotFound."""
    known = sa.select(CollectionPlan).where(CollectionPlan.code == code).execution_options(populate_existing=True)
    found = session.scalar(known) if _CODE.fullmatch(code) else None
    if found is None:
        raise NotFound
    actor.require_cover(found.division)
    return found


def list_plans(
    session: Session, actor: Actor, *, kind: PlanKind | None, limit: int, cursor: str | None
) -> Page[CollectionPlan]:
    """The plans inside the actor's scope, in the order of their codes. Raises BadCursor."""
    wanted = (
        sa.select(CollectionPlan)
        .where(CollectionPlan.division.startswith(actor.division or "-", autoescape=True))
        .order_by(CollectionPlan.code)
        .limit(limit + 1)
    )
    if kind is not None:
        wanted = wanted.where(CollectionPlan.kind == kind)
    if cursor is not None:
        wanted = wanted.where(CollectionPlan.code > decode(cursor, tuple[str])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.code,))


def create_plan(session: Session, actor: Actor, entry: Mapping[str, Any], *, now: datetime) -> CollectionPlan:
    """Add a plan inside the actor's scope. Raises NotFound, PlanRefused, PlanCodeTaken."""
    actor.require_cover(entry["division"])
    made = add_plan(session, entry, created_by=actor.id, now=now)
    audit.record(session, actor, "collection-plan.create", f"collection-plan:{made.code}", now=now)
    return made


def edit_plan(
    session: Session, actor: Actor, code: str, changes: Mapping[str, Any], *, version: int, now: datetime
) -> CollectionPlan:
    """Change a plan that stood at `version`. Orders made keep the hours that they were made for.

    Raises NotFound, PlanRefused, PreconditionFailed.
    """
    plan = plan_for(session, actor, code)
    checked = _checked({**_values(plan), **changes})
    edited = session.scalars(
        sa.update(CollectionPlan)
        .where(CollectionPlan.id == plan.id, CollectionPlan.version == version)
        .values(**{name: checked[name] for name in changes}, version=version + 1)
        .returning(CollectionPlan)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if edited is None:
        raise PreconditionFailed
    audit.record(session, actor, "collection-plan.edit", f"collection-plan:{code}", now=now, changed=sorted(changes))
    return edited


def add_plan(session: Session, entry: Mapping[str, Any], *, created_by: UUID | None, now: datetime) -> CollectionPlan:
    """Add a plan. Raises PlanRefused, NotFound for an unknown division, PlanCodeTaken."""
    values = _checked(entry)
    division_for(session, values["division"])
    plan = CollectionPlan(id=new_id(), created_by=created_by, created_at=now, **values)
    session.add(plan)
    session.flush()
    return plan


# From the district's data folder


def read_timetable(path: Path) -> list[dict[str, Any]]:
    """The plans of a file, checked; none without the file. Raises TimetableError."""
    if not path.exists():
        return []
    content = read_toml(path, bytes_max=FILE_BYTES_MAX, fault=TimetableError)
    plans = content.pop("plans", [])
    if content or not isinstance(plans, list) or len(plans) > PLANS_LOADED_MAX:
        raise TimetableError(f"{path.name}: at most {PLANS_LOADED_MAX} [[plans]] and nothing else")
    return [_read_plan(f"{path.name}, plan {number}", plan) for number, plan in enumerate(plans, 1)]


def _read_plan(where: str, plan: Any) -> dict[str, Any]:
    try:
        return _checked(_of_file(plan))
    except KeyError as error:
        raise TimetableError(f"{where}: lacks {error}") from error
    except (TypeError, ValueError, PlanRefused) as error:
        raise TimetableError(f"{where}: {error}") from error


def load_timetable(session: Session, plans: Sequence[Mapping[str, Any]], *, now: datetime) -> int:
    """Add the plans whose codes are not known; what people changed since stays. How many were added.

    Raises TimetableError, which names the plan: its division is not known, or the database refuses it.
    """
    known = set(session.scalars(sa.select(CollectionPlan.code)))
    new = [(number, plan) for number, plan in enumerate(plans, 1) if plan["code"] not in known]
    for number, plan in new:
        where = f"{TIMETABLE_FILE}, plan {number} ({plan['code']})"
        try:
            with session.begin_nested():
                add_plan(session, plan, created_by=None, now=now)
        except NotFound as error:
            raise TimetableError(f"{where}: there is no division {plan['division']}") from error
        except DomainError as error:
            raise TimetableError(f"{where}: {error}") from error
        except IntegrityError as error:
            name = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
            taken = name in PlanCodeTaken.constraints
            raise TimetableError(f"{where}: {PlanCodeTaken.title_en if taken else f'refused by {name}'}") from error
    return len(new)


def _of_file(plan: Any) -> dict[str, Any]:
    if not isinstance(plan, dict):
        raise TypeError("a plan is a table")
    if not all(type(day) is date for name in ("days", "closed_days") for day in plan.get(name, [])):
        raise TypeError("days and closed_days are days")
    if not all(type(plan.get(name, 0.0)) in (int, float) for name in ("longitude", "latitude")):
        raise TypeError("longitude and latitude are degrees")
    hours = {"starts_minute": _minute(plan["starts"]), "ends_minute": _minute(plan["ends"])}
    values = {name: value for name, value in plan.items() if name not in ("starts", "ends")}
    return {"demonstration": str(plan["code"]).startswith("demo-"), **values, **hours}


def _minute(of_day: Any) -> int:
    if not isinstance(of_day, time):
        raise TypeError(f"{of_day!r} is no time of day")
    return of_day.hour * 60 + of_day.minute


_KEYS: Mapping[str, type] = {
    "kind": str,
    "code": str,
    "name": str,
    "division": str,
    "starts_minute": int,
    "ends_minute": int,
    "capacity": int,
    "valid_from": date,
}
_OPTIONAL: Mapping[str, Any] = {
    "address": None,
    "longitude": None,
    "latitude": None,
    "weekdays": [],
    "days": [],
    "closed_days": [],
    "valid_to": None,
    "demonstration": False,
}


def _values(plan: CollectionPlan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in (*_KEYS, *_OPTIONAL)}


def _checked(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a plan. Raises PlanRefused with what is wrong."""
    for name, kind in _KEYS.items():
        if not isinstance(entry.get(name), kind):
            raise PlanRefused(f"{name} is missing or no {kind.__name__}")
    if entry.keys() - _KEYS.keys() - _OPTIONAL.keys():
        raise PlanRefused(f"unknown: {', '.join(sorted(entry.keys() - _KEYS.keys() - _OPTIONAL.keys()))}")
    values = {**_OPTIONAL, **entry, "kind": PlanKind(entry["kind"])}
    stop = values["kind"] is PlanKind.STOP
    for holds, why in (
        (_CODE.fullmatch(values["code"]), "a code is lower-case letters, digits, hyphens"),
        (0 < len(values["name"].strip()) <= 80, "a plan wants a name of at most 80 characters"),
        (
            len(values["division"]) in ((STOP_CODE_LENGTH,) if stop else HOME_CODE_LENGTHS),
            "a stop is in a community, hours of calls are of a street or a community",
        ),
        (
            all((values[name] is not None) == stop for name in ("address", "longitude", "latitude")),
            "a stop has an address and coordinates, calls at homes have none",
        ),
        (0 <= values["starts_minute"] < values["ends_minute"] <= 1440, "the window ends after it begins"),
        (1 <= values["capacity"] <= CAPACITY_MAX, f"capacity is 1 to {CAPACITY_MAX}"),
        (set(values["weekdays"]) <= set(range(1, 8)), "weekdays are 1 (Monday) to 7"),
        (values["weekdays"] or values["days"], "a plan wants some weekday or day"),
        (max(len(values["days"]), len(values["closed_days"])) <= DAYS_MAX, f"at most {DAYS_MAX} single days"),
        (values["valid_to"] is None or values["valid_to"] >= values["valid_from"], "a plan ends after it begins"),
    ):
        if not holds:
            raise PlanRefused(why)
    for name in ("weekdays", "days", "closed_days"):
        values[name] = sorted(set(values[name]))
    return values


def _within(division: str) -> sa.ColumnElement[bool]:
    """Plans of a division or below it, and those of a street that the division lies in."""
    below = CollectionPlan.division.startswith(division, autoescape=True)
    return below if not division else sa.or_(below, sa.literal(division).startswith(CollectionPlan.division))


def _with_places_left(session: Session, found: Sequence[Visit]) -> Sequence[Visit]:
    if not found:
        return []
    taken = {
        (row.plan_id, row.day): row.taken
        for row in session.scalars(
            sa.select(CollectionDay)
            .where(
                CollectionDay.plan_id.in_({visit.plan.id for visit in found}),
                CollectionDay.day.between(found[0].day, max(visit.day for visit in found)),
            )
            .execution_options(populate_existing=True)
        )
    }
    return [
        replace(visit, left=max(0, visit.plan.capacity - taken.get((visit.plan.id, visit.day), 0))) for visit in found
    ]
