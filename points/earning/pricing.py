"""What a claim is worth: pure functions over the rules and methods in force on its day.

Rule versions and methods are immutable, so a process keeps them in memory and looks for new versions only every
FRESH_FOR_S seconds; a version is proposed for a future day, so none is ever late.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.carbon.models import Factor
from points.carbon.savings import saved_mg
from points.earning.claims import Claim, Reason
from points.earning.models import (
    TRAVEL,
    Behaviour,
    BoundLimit,
    EarningRule,
    Grade,
    GradeTerm,
    Outcome,
    RuleVersion,
)
from server.clock import SHANGHAI_FIXED
from server.database import new_id
from server.kept import Kept

# Without any rule in force; the same as in the first edition of the rules.
EXPIRY_YEARS_DEFAULT = 1

FRESH_FOR_S = 10.0
FUTURE_TOLERANCE = timedelta(minutes=5)  # clocks of bins and buses are not ours
SPAN_MAX = timedelta(hours=12)
NO_TIME = timedelta()


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
    percent: int = 100  # the grade's share of the points


@dataclass(frozen=True, slots=True)
class Tariff:
    """A rule version with its methods: (behaviour, mode, grade) → rate.

    `ceilings` are points a week by grade, `bounds` points a day by the kind of subject; others have none.
    """

    version_id: str
    valid_from: date
    valid_to: date | None
    late_days_max: int
    expiry_years: int
    rates: Mapping[tuple[str, str, str], Rate]
    ceilings: Mapping[str, int] = field(default_factory=dict)
    bounds: Mapping[str, int] = field(default_factory=dict)

    def points_end_on(self, day: date) -> date:
        """The last day of points earned on a business day: the end of a year, so that a wallet has few lots."""
        return date(day.year + self.expiry_years, 12, 31)


@dataclass(slots=True)
class Tariffs:
    """All tariffs, and which one holds on a day."""

    versions: tuple[Tariff, ...]
    limits: str = field(init=False)  # every version's bounds and ceilings, as the award's statement reads them
    bounded: bool = field(init=False)  # whether there are any
    # What was left of bounds that a claim has passed, at most: lower by now perhaps, and never higher. Kept as long as
    # these tariffs are, so that what a transaction undid is soon forgotten.
    left: dict[tuple[str, str, date], int] = field(default_factory=dict)
    _by_day: dict[date, Tariff | None] = field(default_factory=dict)
    _moment: tuple[datetime, datetime, date] | None = None

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

    def latest_and_today(self, now: datetime) -> tuple[datetime, date]:
        """Until when something can have ended, and the business day. A batch asks thousands of times for one `now`."""
        kept = self._moment
        if kept is None or kept[0] is not now:
            here = now.astimezone(SHANGHAI_FIXED)
            kept = self._moment = (now, here + FUTURE_TOLERANCE, here.date())
        return kept[1], kept[2]

    def named(self, version_id: str) -> Tariff | None:
        """The tariff of a rule version."""
        return next((tariff for tariff in self.versions if tariff.version_id == version_id), None)

    def __post_init__(self) -> None:
        limits = [
            {"version": tariff.version_id, "name": name, "limit": points}
            for tariff in self.versions
            for name, points in {**tariff.bounds, **tariff.ceilings}.items()
        ]
        self.limits = msgspec.json.encode(limits).decode()
        self.bounded = bool(limits)


class Priced(msgspec.Struct, gc=False, kw_only=True, omit_defaults=True):
    """One row for the award's statement: the claim with its worth before caps. Serialised to JSON as it stands.

    What is None is left out of the JSON and is NULL again in the statement (a timestamp alone costs a fiftieth of an
    award there); a number always stands there, even 0.
    """

    n: int
    id: UUID
    resident_id: UUID
    behaviour: str
    mode: str
    grade: str
    source: str
    external_id: str
    started_at: datetime
    business_day: date
    priced_points: int
    saved_co2e_mg: int
    day_cap: int
    week_cap: int
    ended_at: datetime | None = None  # None: as it started
    received_at: datetime | None = None  # None: at this moment
    acts: int | None = None  # None: 1
    distance_m: int | None = None
    weight_g: int | None = None
    steps: int | None = None
    steps_before: int | None = None
    site: str | None = None
    site_kind: str | None = None
    timing: str | None = None
    channel: str | None = None
    device: str | None = None
    staff_id: UUID | None = None
    household_id: UUID | None = None
    method_id: str | None = None
    rule_version_id: str | None = None
    cap_group: str | None = None
    expires_on: date | None = None
    community_code: str | None = None
    reason: Reason | None = None
    outcome: str | None = None  # held, where `reason` is why it waits and not why it is refused


def site_subject(grade: str, source: str, site: str) -> str:
    """Whose bound a site's claims count to. A partner names its sites as it likes, so they are its own."""
    return f"{source}:{site}" if grade == Grade.PARTNER_SIGNED else site


def price(tariffs: Tariffs, claim: Claim, n: int, *, now: datetime, waived: frozenset[Reason] = frozenset()) -> Priced:
    """The claim's worth before caps, or the reason why it is refused or held.

    What the claim's own source found comes before any other reason; `waived` are reasons that no longer count, after an
    appeal. Points and milligrams are rounded down. A ride or a weighing above the rule's largest quantity is refused as
    implausible; steps are cut to it, because a long day's walk is no fault. A span that makes no sense is kept as its
    start alone.
    """
    span = claim.ended_at - claim.started_at
    day = claim.started_at.astimezone(SHANGHAI_FIXED).date()
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
        ended_at=claim.ended_at if NO_TIME < span <= SPAN_MAX else None,
        received_at=None if claim.received_at == now else claim.received_at,
        business_day=day,
        acts=0 if claim.steps_before else None,
        priced_points=0,
        saved_co2e_mg=0,
        day_cap=0,
        week_cap=0,
        distance_m=claim.distance_m,
        weight_g=claim.weight_g,
        steps=None if claim.steps is None else claim.steps - claim.steps_before,
        steps_before=claim.steps_before or None,
        site=claim.site,
        site_kind=claim.site_kind,
        timing=claim.timing,
        channel=claim.channel,
        device=claim.device,
        staff_id=claim.staff_id,
        reason=claim.refusal,
    )
    tariff = tariffs.on(day)
    rate = tariff.rates.get((claim.behaviour, claim.mode, claim.grade)) if tariff else None
    if tariff is None or rate is None:
        row.reason = row.reason or Reason.NO_RULE
        return row
    row.rule_version_id = tariff.version_id
    if row.reason is None:
        latest, today = tariffs.latest_and_today(now)
        late_days_left = tariff.late_days_max - (today - day).days
        row.reason = _refusal(rate, claim, span, late_days_left, latest, waived)
    if row.reason is None:
        _value(tariff, rate, claim, row)
        if claim.hold is not None:
            row.reason, row.outcome = claim.hold, Outcome.HELD.value
    return row


def _refusal(  # noqa: PLR0911 -- one line for each check, in the order in which they are told
    rate: Rate, claim: Claim, span: timedelta, late_days_left: int, latest: datetime, waived: frozenset[Reason]
) -> Reason | None:
    no_time = span < NO_TIME or span > SPAN_MAX or (not span and claim.steps is None and claim.behaviour in TRAVEL)
    if no_time and Reason.BAD_SPAN not in waived:
        return Reason.BAD_SPAN
    if claim.ended_at > latest and claim.steps is None and Reason.FUTURE not in waived:
        return Reason.FUTURE
    if late_days_left < 0 and Reason.TOO_LATE not in waived:
        return Reason.TOO_LATE
    quantity = claim.distance_m or claim.weight_g or claim.steps or 0
    if quantity < rate.quantity_min and Reason.TOO_SMALL not in waived:
        return Reason.TOO_SMALL
    if quantity > rate.quantity_max and claim.steps is None and Reason.TOO_LARGE not in waived:
        return Reason.TOO_LARGE
    limit_kmh = rate.speed_max_kmh
    if limit_kmh is not None and _too_fast(claim, span, limit_kmh) and Reason.TOO_FAST not in waived:
        return Reason.TOO_FAST
    return None


def _too_fast(claim: Claim, span: timedelta, limit_kmh: int) -> bool:
    # metres ÷ seconds × 3.6 = km/h, without a division: distance × 3,600 > limit × 1,000 × seconds
    return (claim.distance_m or 0) * 3600 > limit_kmh * 1000 * span.total_seconds()


def _value(tariff: Tariff, rate: Rate, claim: Claim, row: Priced) -> None:
    metres, grams = claim.distance_m or 0, claim.weight_g or 0
    in_full = rate.points_per_act + metres * rate.points_per_km // 1000 + grams * rate.points_per_kg // 1000
    if claim.steps is None:
        row.priced_points = in_full * rate.percent // 100
    else:
        # Discounted before the difference is taken, so that many syncs of a day's steps earn what one does.
        before, sofar = (min(steps, rate.quantity_max) * rate.points_per_1000_steps // 1000 for steps in _steps(claim))
        row.priced_points = (in_full + sofar) * rate.percent // 100 - before * rate.percent // 100
    row.saved_co2e_mg = saved_mg(rate.saved_ug_per_unit, metres or grams)
    row.method_id = rate.method_id
    row.cap_group = rate.cap_group
    row.day_cap = rate.day_cap_points
    row.week_cap = rate.week_cap_points
    # Points end with the last day of a calendar year, so that a balance is one or two lots and easy to explain.
    row.expires_on = tariff.points_end_on(row.business_day)


def _steps(claim: Claim) -> tuple[int, int]:
    return claim.steps_before, max(claim.steps or 0, claim.steps_before)


_kept: Kept[Tariffs] = Kept()


def current(session: Session) -> Tariffs:
    """The tariffs, at most FRESH_FOR_S old."""
    return _kept.current(lambda: read(session), fresh_for_s=FRESH_FOR_S)


def points_end_on(session: Session, day: date) -> date:
    """The last day of points that are given and not earned: that of the year which awards of that day end with."""
    tariff = current(session).on(day)
    return date(day.year + EXPIRY_YEARS_DEFAULT, 12, 31) if tariff is None else tariff.points_end_on(day)


def forget() -> None:
    """Read the tariffs anew at the next call."""
    _kept.forget()


def read(session: Session) -> Tariffs:
    """Every tariff of the database, newest first."""
    factors = loaded_factors(session)
    rows: dict[str, list[EarningRule | GradeTerm | BoundLimit]] = {}
    for found in (
        session.scalars(sa.select(EarningRule)),
        session.scalars(sa.select(GradeTerm)),
        session.scalars(sa.select(BoundLimit)),
    ):
        for row in found:
            rows.setdefault(row.version_id, []).append(row)
    versions = session.scalars(sa.select(RuleVersion).order_by(RuleVersion.valid_from.desc()))
    return Tariffs(tuple(tariff_of(version, rows.get(version.id, ()), factors) for version in versions))


def loaded_factors(session: Session) -> dict[tuple[str, str], int]:
    """The factors of every method of the database: micrograms a unit by (method, mode)."""
    return {(row.method_id, row.key): row.micrograms_per_unit for row in session.scalars(sa.select(Factor))}


def tariff_of(
    version: RuleVersion, rows: Iterable[EarningRule | GradeTerm | BoundLimit], factors: Mapping[tuple[str, str], int]
) -> Tariff:
    """One version with its rows as a tariff. `factors` are micrograms a unit by (method, mode)."""
    rows = tuple(rows)
    terms = {row.grade: row for row in rows if isinstance(row, GradeTerm)}
    # Rows that no database has filled in yet have no numbers where the file is silent.
    rates = {
        (rule.behaviour.value, rule.mode, rule.grade.value): _rate(
            version, rule, factors, terms[rule.grade].percent if rule.grade in terms else 100
        )
        for rule in rows
        if isinstance(rule, EarningRule)
    }
    ceilings = {
        grade.value: term.week_ceiling_points for grade, term in terms.items() if term.week_ceiling_points is not None
    }
    return Tariff(
        version.id,
        version.valid_from,
        version.valid_to,
        version.late_days_max,
        version.expiry_years,
        rates,
        ceilings,
        {row.kind.value: row.day_points for row in rows if isinstance(row, BoundLimit)},
    )


def _rate(version: RuleVersion, rule: EarningRule, factors: Mapping[tuple[str, str], int], percent: int) -> Rate:
    method = version.travel_method_id if rule.behaviour in TRAVEL else version.recycling_method_id
    saved = factors.get((method, rule.mode), 0)
    # Sorting correctly saves nothing that a factor measures (no Chinese per-kilogram factor could be verified).
    if rule.behaviour is Behaviour.SORTING:
        saved = 0
    return Rate(
        points_per_act=rule.points_per_act or 0,
        points_per_km=rule.points_per_km or 0,
        points_per_kg=rule.points_per_kg or 0,
        points_per_1000_steps=rule.points_per_1000_steps or 0,
        quantity_min=rule.quantity_min or 0,
        quantity_max=rule.quantity_max,
        speed_max_kmh=rule.speed_max_kmh,
        cap_group=rule.cap_group,
        day_cap_points=rule.day_cap_points,
        week_cap_points=rule.week_cap_points,
        saved_ug_per_unit=saved,
        method_id=method if saved else None,
        percent=percent,
    )
