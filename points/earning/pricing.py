"""What a claim is worth: pure functions over the rules and methods in force on its day.

Rule versions and methods are immutable, so a process keeps them in memory and looks for new versions only every
FRESH_FOR_S seconds; a version is proposed for a future day, so none is ever late.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.carbon.models import Factor
from points.carbon.savings import saved_mg
from points.earning.claims import Claim, Reason
from points.earning.models import TRAVEL, Behaviour, EarningRule, RuleVersion
from server.clock import SHANGHAI_FIXED, week_start
from server.database import new_id

# Without any rule in force; the same as in the first edition of the rules.
EXPIRY_YEARS_DEFAULT = 1

FRESH_FOR_S = 10.0
FUTURE_TOLERANCE = timedelta(minutes=5)  # clocks of bins and buses are not ours
SPAN_MAX = timedelta(hours=12)


class Rate(msgspec.Struct, frozen=True):
    """One rule as the hot path wants it. Quantities in metres, grams or steps."""

    points_per_act: int
    points_per_km: int
    points_per_kg: int
    points_per_1000_steps: int
    quantity_min: int
    quantity_max: int
    speed_max_kmh: int | None
    cap_group: str
    day_cap_points: int
    week_cap_points: int
    saved_ug_per_unit: int
    method_id: str | None


@dataclass(frozen=True, slots=True)
class Tariff:
    """A rule version with its methods: (behaviour, mode, grade) → rate."""

    version_id: str
    valid_from: date
    valid_to: date | None
    late_days_max: int
    expiry_years: int
    rates: Mapping[tuple[str, str, str], Rate]

    def points_end_on(self, day: date) -> date:
        """The last day of points earned on a business day: the end of a year, so that a wallet has few lots."""
        return date(day.year + self.expiry_years, 12, 31)


@dataclass(slots=True)
class Tariffs:
    """All tariffs, and which one holds on a day."""

    versions: tuple[Tariff, ...]
    _by_day: dict[date, Tariff | None] = field(default_factory=dict)

    def on(self, day: date) -> Tariff | None:
        """The tariff in force on a business day, None when there is none."""
        try:
            return self._by_day[day]
        except KeyError:
            if len(self._by_day) > 1000:  # a feed of nonsense dates must not fill the memory
                self._by_day.clear()
            found = next(
                (t for t in self.versions if t.valid_from <= day and (t.valid_to is None or day <= t.valid_to)), None
            )
            return self._by_day.setdefault(day, found)


class Priced(msgspec.Struct, gc=False, kw_only=True):
    """One row for the award's statement: the claim with its worth before caps. Serialised to JSON as it stands."""

    n: int
    id: UUID
    resident_id: UUID
    behaviour: str
    mode: str
    grade: str
    source: str
    external_id: str
    started_at: datetime
    ended_at: datetime
    received_at: datetime
    business_day: date
    week_on: date
    week_day: int
    distance_m: int | None
    weight_g: int | None
    steps: int | None
    acts: int
    site: str | None
    site_kind: str | None
    timing: str | None
    channel: str | None
    priced_points: int = 0
    saved_co2e_mg: int = 0
    method_id: str | None = None
    rule_version_id: str | None = None
    cap_group: str = ""
    day_cap: int = 0
    week_cap: int = 0
    expires_on: date | None = None
    community_code: str = ""
    reason: Reason | None = None


def price(tariffs: Tariffs, claim: Claim, n: int, *, now: datetime) -> Priced:
    """The claim's worth before caps, or the reason why it is refused.

    Points and milligrams are rounded down. A ride or a weighing above the rule's largest quantity is refused as
    implausible; steps are cut to it, because a long day's walk is no fault. A span that makes no sense is kept as its
    start alone.
    """
    span = claim.ended_at - claim.started_at
    day = claim.started_at.astimezone(SHANGHAI_FIXED).date()
    week_on = week_start(day)
    row = Priced(
        n=n,
        id=new_id(),
        resident_id=claim.resident_id,
        behaviour=claim.behaviour,
        mode=claim.mode,
        grade=claim.grade,
        source=claim.source,
        external_id=claim.external_id,
        started_at=claim.started_at,
        ended_at=claim.ended_at if timedelta() <= span <= SPAN_MAX else claim.started_at,
        received_at=claim.received_at,
        business_day=day,
        week_on=week_on,
        week_day=(day - week_on).days,
        distance_m=claim.distance_m,
        weight_g=claim.weight_g,
        steps=None if claim.steps is None else claim.steps - claim.steps_before,
        acts=0 if claim.steps_before else 1,
        site=claim.site,
        site_kind=claim.site_kind,
        timing=claim.timing,
        channel=claim.channel,
    )
    tariff = tariffs.on(day)
    rate = tariff.rates.get((claim.behaviour, claim.mode, claim.grade)) if tariff else None
    if tariff is None or rate is None:
        row.reason = Reason.NO_RULE
        return row
    row.rule_version_id = tariff.version_id
    row.reason = _refusal(tariff, rate, claim, day, now)
    if row.reason is None:
        _value(tariff, rate, claim, row)
    return row


def _refusal(tariff: Tariff, rate: Rate, claim: Claim, day: date, now: datetime) -> Reason | None:
    span = claim.ended_at - claim.started_at
    if span < timedelta() or span > SPAN_MAX or (claim.behaviour in TRAVEL and claim.steps is None and not span):
        return Reason.BAD_SPAN
    if claim.ended_at > now + FUTURE_TOLERANCE and claim.steps is None:
        return Reason.FUTURE
    if (now.astimezone(SHANGHAI_FIXED).date() - day).days > tariff.late_days_max:
        return Reason.TOO_LATE
    quantity = claim.distance_m or claim.weight_g or claim.steps or 0
    if quantity < rate.quantity_min:
        return Reason.TOO_SMALL
    if quantity > rate.quantity_max and claim.steps is None:
        return Reason.TOO_LARGE
    return Reason.TOO_FAST if rate.speed_max_kmh is not None and _too_fast(claim, rate.speed_max_kmh) else None


def _too_fast(claim: Claim, limit_kmh: int) -> bool:
    # metres ÷ seconds × 3.6 = km/h, without a division: distance × 3,600 > limit × 1,000 × seconds
    seconds = (claim.ended_at - claim.started_at).total_seconds()
    return (claim.distance_m or 0) * 3600 > limit_kmh * 1000 * seconds


def _value(tariff: Tariff, rate: Rate, claim: Claim, row: Priced) -> None:
    metres, grams = claim.distance_m or 0, claim.weight_g or 0
    worth = [min(steps, rate.quantity_max) * rate.points_per_1000_steps // 1000 for steps in _steps(claim)]
    row.priced_points = (
        rate.points_per_act
        + metres * rate.points_per_km // 1000
        + grams * rate.points_per_kg // 1000
        + worth[1]
        - worth[0]
    )
    row.saved_co2e_mg = saved_mg(rate.saved_ug_per_unit, metres or grams)
    row.method_id = rate.method_id
    row.cap_group = rate.cap_group
    row.day_cap = rate.day_cap_points
    row.week_cap = rate.week_cap_points
    # Points end with the last day of a calendar year, so that a balance is one or two lots and easy to explain.
    row.expires_on = tariff.points_end_on(row.business_day)


def _steps(claim: Claim) -> tuple[int, int]:
    return claim.steps_before, max(claim.steps or 0, claim.steps_before)


class _Memory:
    """The tariffs that this process last read, and when."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tariffs: Tariffs | None = None
        self.read_at = 0.0


_memory = _Memory()


def current(session: Session) -> Tariffs:
    """The tariffs, at most FRESH_FOR_S old."""
    if _memory.tariffs is None or time.monotonic() - _memory.read_at > FRESH_FOR_S:
        fresh = read(session)
        with _memory.lock:
            _memory.tariffs, _memory.read_at = fresh, time.monotonic()
    return _memory.tariffs


def points_end_on(session: Session, day: date) -> date:
    """The last day of points that are given and not earned: that of the year which awards of that day end with."""
    tariff = current(session).on(day)
    return date(day.year + EXPIRY_YEARS_DEFAULT, 12, 31) if tariff is None else tariff.points_end_on(day)


def forget() -> None:
    """Read the tariffs anew at the next call."""
    _memory.tariffs = None


def read(session: Session) -> Tariffs:
    """Every tariff of the database, newest first."""
    factors = {(row.method_id, row.key): row.micrograms_per_unit for row in session.scalars(sa.select(Factor))}
    rules = session.scalars(sa.select(EarningRule)).all()
    versions = []
    for version in session.scalars(sa.select(RuleVersion).order_by(RuleVersion.valid_from.desc())):
        mine = [rule for rule in rules if rule.version_id == version.id]
        rates = {(rule.behaviour.value, rule.mode, rule.grade.value): _rate(version, rule, factors) for rule in mine}
        versions.append(
            Tariff(version.id, version.valid_from, version.valid_to, version.late_days_max, version.expiry_years, rates)
        )
    return Tariffs(tuple(versions))


def _rate(version: RuleVersion, rule: EarningRule, factors: Mapping[tuple[str, str], int]) -> Rate:
    method = version.travel_method_id if rule.behaviour in TRAVEL else version.recycling_method_id
    saved = factors.get((method, rule.mode), 0)
    # Sorting correctly saves nothing that a factor measures (no Chinese per-kilogram factor could be verified).
    if rule.behaviour is Behaviour.SORTING:
        saved = 0
    return Rate(
        points_per_act=rule.points_per_act,
        points_per_km=rule.points_per_km,
        points_per_kg=rule.points_per_kg,
        points_per_1000_steps=rule.points_per_1000_steps,
        quantity_min=rule.quantity_min,
        quantity_max=rule.quantity_max,
        speed_max_kmh=rule.speed_max_kmh,
        cap_group=rule.cap_group,
        day_cap_points=rule.day_cap_points,
        week_cap_points=rule.week_cap_points,
        saved_ug_per_unit=saved,
        method_id=method if saved else None,
    )
