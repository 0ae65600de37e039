"""Reading the kept counts of activity: exact for staff in their scope, by place, by behaviour and mode, over time.

A report reads its own rows by key and nothing else, whatever the number of activities. What everybody may read are
frozen releases, which hide what could point at somebody.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import pricing
from points.earning.models import Behaviour
from points.earning.pricing import Tariff
from points.statistics import intervals
from points.statistics.intervals import Beside, Estimate
from points.statistics.models import ALL_BEHAVIOURS, ALL_MODES
from points.statistics.periods import CalendarPeriod, Grain, period_with
from server.access import Actor
from server.cache import Cache
from server.errors import DomainError, NotFound
from server.paging import decode, encode
from server.places.models import DivisionLevel
from server.places.populations import PopulationEntry, populations_within

PERIODS_MAX = 60
KINDS_MAX = 500  # behaviours and modes of one place; the rules have some dozens

# The length of an official code says how large its division is.
DIGITS: Mapping[DivisionLevel, int] = {
    DivisionLevel.DISTRICT: 6,
    DivisionLevel.STREET: 9,
    DivisionLevel.COMMUNITY: 12,
}

COMPARISON_NOTE = (
    "每位居民的平均数以注册居民 (或注明的常住人口) 为分母, 没有记录的居民计为0; 区间为95%, 以居民为单位"
    " (比例用Wilson法, 平均数用正态近似), 少于10人时不给出。许多单位并列比较时, 约5%会偶然落在区间之外。"
    " Means are per registered resident (or per person of the population named), those without a record counting as 0;"
    " 95 % intervals with the resident as the unit (Wilson for shares, the normal approximation for means), none below"
    " 10 residents. Of many places side by side about 5 % lie outside by chance."
)

ACCURACY_NOTE = (
    "准确率 = 有效投放次数 ÷ (有效次数 + 检查后撤回的次数)。未被抽查的投放视为有效, 故为上限估计,"
    " 不是抽查合格率; 自2026-11起采用此定义。按抽查加权估计的准确率见 GET /api/v1/sorting/accuracy。"
    " Accuracy: drops that stand, divided by those and the drops taken back after a check. Drops that nobody checked"
    " count as standing, so this is an upper bound and no result of spot checks; the definition holds since 2026-11."
    " The estimate from the hidden spot checks, with its interval, is GET /api/v1/sorting/accuracy."
)


class ModeOfNoBehaviour(DomainError):
    """A mode belongs to a behaviour."""

    code, status, title_zh, title_en = (
        "mode-of-no-behaviour",
        422,
        "按方式统计时请同时指定行为",
        "A mode is asked for together with its behaviour",
    )


# A page holds thousands of these: structures of msgspec are made and written in a third of a dataclass's time.


class Saving(msgspec.Struct, frozen=True, gc=False):
    """Grams of CO2e by one method, cut off; the year before None if that method was not in use then.

    Grams of different methods are never added up, and never compared.
    """

    method: str
    saved_co2e_g: int
    residents: int
    before_co2e_g: int | None


class Amounts(msgspec.Struct, frozen=True, gc=False):
    """What was recorded. Residents, sites and partners are distinct and do not add up over places and periods."""

    activities: int
    residents: int
    distance_m: int
    weight_g: int
    points: int
    sites: int
    partners: int
    reversed: int


NOTHING = Amounts(0, 0, 0, 0, 0, 0, 0, 0)


class PerResident(msgspec.Struct, frozen=True, gc=False):
    """The amounts spread over persons: over those registered, or over a census population, which is named.

    `share` is who has a record at all. `beside_district` sets each place's share beside the whole district's.
    """

    persons: int
    share: Estimate | None
    activities: Estimate | None
    distance_m: Estimate | None
    weight_g: Estimate | None
    points: Estimate | None
    beside_district: Beside | None
    year: int | None = None
    source: str | None = None
    confidence: str | None = None


class Changes(msgspec.Struct, frozen=True, gc=False):
    """The change of each amount against the same period of the year before, as a share of the earlier one.

    None where the two cannot be compared, or there was nothing before; `not_comparable` says why, by codes:
    period-not-over, not-counted-then, no-such-day, place-changed (all amounts), rules-differ (points).
    """

    starts_on: date | None
    before: Amounts | None
    activities: float | None
    residents: float | None
    distance_m: float | None
    weight_g: float | None
    points: float | None
    not_comparable: tuple[str, ...]


class PlaceActivity(msgspec.Struct, frozen=True, gc=False):
    """One district, street or community in one period."""

    place_code: str
    place_name: str
    level: str
    amounts: Amounts
    savings: tuple[Saving, ...]
    per_registered: PerResident | None
    per_population: tuple[PerResident, ...]
    year_on_year: Changes


class KindActivity(msgspec.Struct, frozen=True, gc=False):
    """One behaviour (mode '': all its modes) in one place; behaviour '' is everything."""

    behaviour: str
    mode: str
    amounts: Amounts
    savings: tuple[Saving, ...]
    year_on_year: Changes


class PeriodActivity(msgspec.Struct, frozen=True, gc=False):
    """One period of a series; amounts None where it has not been counted, which is not the same as nothing."""

    starts_on: date
    ends_on: date
    counted_at: datetime | None
    amounts: Amounts | None
    savings: tuple[Saving, ...]
    year_on_year: Changes


class SortingAccuracy(msgspec.Struct, frozen=True, gc=False):
    """Sorting drops of a place that stand, and that were taken back after a check."""

    place_code: str
    place_name: str
    level: str
    standing: int
    taken_back: int
    accuracy: Estimate | None


@dataclass(frozen=True, slots=True)
class Report:
    """Rows of one period. `counted_at` None: not counted yet; `is_due`: something has changed since."""

    period: CalendarPeriod
    behaviour: str
    mode: str
    counted_at: datetime | None
    is_due: bool
    rules: tuple[str, ...]  # the rule versions in force in the period
    rules_before: tuple[str, ...]
    items: Sequence[Any] | msgspec.Raw  # Raw: as JSON already
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Selection:
    """The period that holds `on`, and what of it: one behaviour and mode, or all."""

    grain: Grain
    on: date
    behaviour: Behaviour | None = None
    mode: str = ALL_MODES

    def __post_init__(self) -> None:
        """Raises ModeOfNoBehaviour."""
        if self.mode and self.behaviour is None:
            raise ModeOfNoBehaviour

    @property
    def period(self) -> CalendarPeriod:
        """The calendar period."""
        return period_with(self.grain, self.on)

    @property
    def behaviour_code(self) -> str:
        """As it is kept."""
        return ALL_BEHAVIOURS if self.behaviour is None else self.behaviour.value


def scope_of(actor: Actor, within: str | None) -> str:
    """The division asked for, or the actor's own. Raises NotFound outside it and for staff of one organisation."""
    if actor.division is None:
        raise NotFound
    if within is not None:
        actor.require_cover(within)
    return within or actor.division


def year_before(period: CalendarPeriod) -> CalendarPeriod | None:
    """The same period of the year before: of a week 52 weeks earlier; None for 29 February."""
    if period.grain is Grain.WEEK:
        return CalendarPeriod(Grain.WEEK, period.starts_on - timedelta(weeks=52))
    try:
        return CalendarPeriod(period.grain, period.starts_on.replace(year=period.starts_on.year - 1))
    except ValueError:
        return None


# What is known of the period and the one before

_HEAD = sa.text("""
SELECT c.counted_at, coalesce(c.is_due, false) AS is_due, b.counted_at IS NOT NULL AS counted_then,
       concat_ws(' ', c.counted_at, c.xmin, b.counted_at, b.xmin) AS edition
FROM (SELECT) AS one
LEFT JOIN activity_period_count c ON c.grain = :grain AND c.starts_on = :starts_on
LEFT JOIN activity_period_count b ON b.grain = :grain AND b.starts_on = cast(:before_on AS date)
""")


@dataclass(frozen=True, slots=True)
class _Frame:
    """What holds for a whole report."""

    period: CalendarPeriod
    before: CalendarPeriod | None
    counted_at: datetime | None
    is_due: bool
    rules: tuple[str, ...]
    rules_before: tuple[str, ...]
    counted_then: bool
    not_comparable: tuple[str, ...]  # why the two periods cannot be compared, by codes
    edition: str  # another one with every counting of either period

    @property
    def keys(self) -> dict[str, Any]:
        """The values that name both periods in a statement."""
        return {
            "grain": self.period.grain.value,
            "starts_on": self.period.starts_on,
            "before_on": None if self.before is None else self.before.starts_on,
        }


def _frame(session: Session, period: CalendarPeriod, *, today: date) -> _Frame:
    before = year_before(period)
    head = session.execute(
        _HEAD,
        {
            "grain": period.grain.value,
            "starts_on": period.starts_on,
            "before_on": None if before is None else before.starts_on,
        },
    ).one()
    return _frame_of(
        period,
        before,
        pricing.current(session).versions,
        counted_at=head.counted_at,
        is_due=head.is_due,
        counted_then=head.counted_then,
        today=today,
        edition=head.edition,
    )


def _frame_of(
    period: CalendarPeriod,
    before: CalendarPeriod | None,
    versions: Sequence[Tariff],
    *,
    counted_at: datetime | None,
    is_due: bool,
    counted_then: bool,
    today: date,
    edition: str = "",
) -> _Frame:
    rules, rules_before = _in_force(versions, period), _in_force(versions, before)
    reasons = {
        "period-not-over": period.ends_on >= today,
        "no-such-day": before is None,
        "not-counted-then": before is not None and not counted_then,
        "rules-differ": rules != rules_before,
    }
    return _Frame(
        period=period,
        before=before,
        counted_at=counted_at,
        is_due=is_due,
        rules=rules,
        rules_before=rules_before,
        counted_then=counted_then,
        not_comparable=tuple(code for code, holds in reasons.items() if holds),
        edition=edition,
    )


def _in_force(versions: Sequence[Tariff], period: CalendarPeriod | None) -> tuple[str, ...]:
    """The rule versions in force on any day of a period, by id."""
    if period is None:
        return ()
    return tuple(
        sorted(
            each.version_id
            for each in versions
            if each.valid_from <= period.ends_on and (each.valid_to is None or each.valid_to >= period.starts_on)
        )
    )


def _changes(frame: _Frame, now: Amounts, then: Amounts, *, place_changed: bool = False) -> Changes:
    """The year-on-year comparison of one row."""
    reasons = (*frame.not_comparable, *(("place-changed",) if place_changed else ()))
    if frame.before is None or not frame.counted_then:
        starts_on = frame.before.starts_on if frame.before else None
        return Changes(starts_on, None, None, None, None, None, None, reasons)
    if set(reasons) - {"rules-differ"}:
        return Changes(frame.before.starts_on, then, None, None, None, None, None, reasons)
    return Changes(
        starts_on=frame.before.starts_on,
        before=then,
        activities=_change(now.activities, then.activities),
        residents=_change(now.residents, then.residents),
        distance_m=_change(now.distance_m, then.distance_m),
        weight_g=_change(now.weight_g, then.weight_g),
        points=_change(now.points, then.points) if "rules-differ" not in reasons else None,
        not_comparable=reasons,
    )


def _change(now: int, then: int) -> float | None:
    return round((now - then) / then, 6) if then else None


_AMOUNT_NAMES = ("activities", "residents", "distance_m", "weight_g", "points", "sites", "partners", "reversed")
_SQUARE_NAMES = ("squared_activities", "squared_distance_m", "squared_weight_g", "squared_points")
_PEOPLE_NAMES = ("residents", "distance_residents", "weight_residents", "points_residents")


def _columns(alias: str, names: Sequence[str]) -> str:
    return ", ".join(f"coalesce({alias}.{name}, 0)" for name in names)


_NOW, _THEN = _columns("a", _AMOUNT_NAMES), _columns("b", _AMOUNT_NAMES)

# The grams of a row's cell by method, with those of the year before, as JSON.
_SAVED_PAIR = """
    (SELECT cast(jsonb_agg(jsonb_build_array(method_id, n.saved_co2e_mg, n.residents, t.saved_co2e_mg)
                           ORDER BY method_id) AS text)
     FROM (SELECT s.method_id, s.saved_co2e_mg, s.residents FROM activity_saving s
           WHERE s.grain = :grain AND s.starts_on = {starts_on} AND {cell}) n
     FULL JOIN (SELECT s.method_id, s.saved_co2e_mg FROM activity_saving s
           WHERE s.grain = :grain AND s.starts_on = {before_on} AND {cell}) t USING (method_id)) AS saved"""

_SAVED = msgspec.json.Decoder(list[tuple[str, int | None, int | None, int | None]])


def _savings(text: str | None) -> tuple[Saving, ...]:
    if text is None:
        return ()
    return tuple(_saving(*each) for each in _SAVED.decode(text))


def _saving(method: str, mg: int | None, residents: int | None, before_mg: int | None) -> Saving:
    return Saving(method, (mg or 0) // 1000, residents or 0, None if before_mg is None else before_mg // 1000)


# Places

_BEFORE_ON = "cast(:before_on AS date)"

# Every condition on the period's own rows: prepared for all values at once, the planner knows nothing of a condition on
# the divisions. A page comes as one JSON text: 184 rows of 30 columns took three times as long.
_PLACES = sa.text(f"""
SELECT cast(coalesce(json_agg(page.cells ORDER BY page.code), '[]') AS text) FROM (
SELECT d.code, json_build_array(d.code, d.name, d.level, d.valid_from, d.valid_to, r.registered,
       json_build_array({_NOW}), json_build_array({_THEN}),
       json_build_array({_columns("a", _PEOPLE_NAMES)}), json_build_array({_columns("a", _SQUARE_NAMES)})) AS cells
FROM registered_period r
JOIN division d ON d.code = r.place_code
LEFT JOIN activity_period a ON a.grain = :grain AND a.starts_on = :starts_on AND a.behaviour = :behaviour
    AND a.mode = :mode AND a.place_code = r.place_code
LEFT JOIN activity_period b ON b.grain = :grain AND b.starts_on = {_BEFORE_ON} AND b.behaviour = :behaviour
    AND b.mode = :mode AND b.place_code = r.place_code
WHERE r.grain = :grain AND r.starts_on = :starts_on AND starts_with(r.place_code, :within)
      AND (cast(:digits AS int) IS NULL OR length(r.place_code) = :digits) AND r.place_code > :after
ORDER BY r.place_code LIMIT :limit
) AS page
""")  # noqa: S608 -- composed of constants of this module


class _PlaceCells(msgspec.Struct, array_like=True, gc=False):
    """What the statement above says of one place."""

    code: str
    name: str
    level: str
    valid_from: date
    valid_to: date | None
    registered: int
    now: tuple[int, int, int, int, int, int, int, int]
    then: tuple[int, int, int, int, int, int, int, int]
    people: tuple[int, int, int, int]
    squares: tuple[float, float, float, float]


_PLACES_DECODER = msgspec.json.Decoder(list[_PlaceCells])

# Of all places of a page at once: one subquery for each of 184 rows took half of the page's time.
_PLACES_SAVED = sa.text(f"""
SELECT cast(coalesce(json_agg(json_build_array(place_code, method_id, starts_on = :starts_on, saved_co2e_mg, residents)
                              ORDER BY place_code, method_id), '[]') AS text)
FROM activity_saving
WHERE grain = :grain AND starts_on IN (:starts_on, {_BEFORE_ON}) AND behaviour = :behaviour AND mode = :mode
      AND place_code BETWEEN :first AND :last
""")  # noqa: S608 -- composed of constants of this module

_PLACES_SAVED_DECODER = msgspec.json.Decoder(list[tuple[str, str, bool, int, int]])

_DISTRICT_SHARE = sa.text("""
SELECT r.registered, coalesce(a.residents, 0)
FROM registered_period r
LEFT JOIN activity_period a ON a.grain = :grain AND a.starts_on = :starts_on AND a.behaviour = :behaviour
    AND a.mode = :mode AND a.place_code = r.place_code
WHERE r.grain = :grain AND r.starts_on = :starts_on AND r.place_code = :district
""")


class _KeptPage(msgspec.Struct, array_like=True):
    """A page of places as it was made from one counting."""

    items: msgspec.Raw
    next_cursor: str | None


_KEPT_PAGE = msgspec.json.Decoder(_KeptPage)

# For names of places and census figures alone, which may be loaded meanwhile: a new counting is a new page at once.
PAGE_KEPT_S = 60


def places(
    session: Session,
    actor: Actor,
    selection: Selection,
    *,
    within: str | None,
    level: DivisionLevel | None,
    today: date,
    limit: int,
    cursor: str | None,
    cache: Cache | None = None,
) -> Report:
    """The places in the actor's scope in one period, by code, exact.

    A page of one counting is made once and then read from the cache. Raises NotFound outside the scope and for staff of
    one organisation, BadCursor.
    """
    scope = scope_of(actor, within)
    frame = _frame(session, selection.period, today=today)
    asked = (frame.keys, frame.edition, frame.not_comparable, selection.behaviour_code, selection.mode, scope, level)
    key = f"places:{hashlib.sha256(msgspec.json.encode((*asked, limit, cursor))).hexdigest()}"
    kept = cache.get(key) if cache else None
    if kept is None:
        items, next_cursor = _make_page(session, frame, selection, scope, level=level, limit=limit, cursor=cursor)
        kept = msgspec.json.encode((items, next_cursor))
        if cache:
            cache.put(key, kept, seconds=PAGE_KEPT_S)
    page = _KEPT_PAGE.decode(kept)
    return _report(frame, selection, page.items, page.next_cursor)


def _make_page(
    session: Session,
    frame: _Frame,
    selection: Selection,
    scope: str,
    *,
    level: DivisionLevel | None,
    limit: int,
    cursor: str | None,
) -> tuple[list[PlaceActivity], str | None]:
    cell = {**frame.keys, "behaviour": selection.behaviour_code, "mode": selection.mode}
    district = session.execute(_DISTRICT_SHARE, {**cell, "district": scope[:6]}).first()
    district_share = intervals.share(district[1], district[0]) if district else None
    page = session.scalar(
        _PLACES,
        {
            **cell,
            "within": scope,
            "digits": None if level is None else DIGITS[level],
            "after": "" if cursor is None else decode(cursor, tuple[str])[0],
            "limit": limit + 1,
        },
    )
    rows = _PLACES_DECODER.decode(page or "[]")
    populations = populations_within(session, scope)
    saved = _saved_in_places(session, {**cell, "first": rows[0].code, "last": rows[-1].code}) if rows else {}
    items = [
        _place(
            frame,
            row,
            saved.get(row.code, ()),
            populations.get(row.code, ()),
            district_share.value if district_share else None,
        )
        for row in rows[:limit]
    ]
    return items, encode((rows[limit - 1].code,)) if len(rows) > limit else None


def _report(
    frame: _Frame, selection: Selection, items: Sequence[Any] | msgspec.Raw, next_cursor: str | None = None
) -> Report:
    return Report(
        frame.period,
        selection.behaviour_code,
        selection.mode,
        frame.counted_at,
        frame.is_due,
        frame.rules,
        frame.rules_before,
        items,
        next_cursor,
    )


def _saved_in_places(session: Session, values: dict[str, Any]) -> dict[str, tuple[Saving, ...]]:
    """The savings of a page's places by code, those of the year before beside them."""
    pairs: dict[str, dict[str, list[int | None]]] = {}
    found = _PLACES_SAVED_DECODER.decode(session.scalar(_PLACES_SAVED, values) or "[]")
    for place, method, is_now, mg, residents in found:
        pair = pairs.setdefault(place, {}).setdefault(method, [None, None, None])
        if is_now:
            pair[0], pair[1] = mg, residents
        else:
            pair[2] = mg
    return {
        place: tuple(_saving(method, *pair) for method, pair in methods.items()) for place, methods in pairs.items()
    }


def _place(
    frame: _Frame,
    row: _PlaceCells,
    savings: tuple[Saving, ...],
    populations: Sequence[PopulationEntry],
    district_share: float | None,
) -> PlaceActivity:
    amounts, then = Amounts(*row.now), Amounts(*row.then)
    return PlaceActivity(
        place_code=row.code,
        place_name=row.name,
        level=row.level,
        amounts=amounts,
        savings=savings,
        per_registered=_spread(amounts, row.people, row.squares, row.registered, beside=district_share)
        if row.registered
        else None,
        per_population=tuple(
            _spread(
                amounts,
                row.people,
                row.squares,
                each.persons,
                year=each.year,
                source=each.source,
                confidence=each.confidence.value,
            )
            for each in populations
        ),
        year_on_year=_changes(frame, amounts, then, place_changed=_has_changed(frame, row.valid_from, row.valid_to)),
    )


_VALIDITY = sa.text("SELECT valid_from, valid_to FROM division WHERE code = :code")


def _validity(session: Session, code: str) -> tuple[date, date | None]:
    """From when to when a place is valid. Raises NotFound for one that nobody knows."""
    row = session.execute(_VALIDITY, {"code": code}).first()
    if row is None:
        raise NotFound
    return row.valid_from, row.valid_to


def _has_changed(frame: _Frame, valid_from: date, valid_to: date | None) -> bool:
    """Whether the place was not there over both periods as it is now."""
    if frame.before is None:
        return False
    return valid_from > frame.before.starts_on or (valid_to is not None and valid_to < frame.period.ends_on)


def _spread(
    amounts: Amounts,
    people: Sequence[int],
    squares: Sequence[float],
    persons: int,
    *,
    beside: float | None = None,
    **named: Any,
) -> PerResident:
    own_share = intervals.share(amounts.residents, persons)
    sums = (amounts.activities, amounts.distance_m, amounts.weight_g, amounts.points)
    activities, distance_m, weight_g, points = (
        intervals.mean(total, squared, contributors, persons) if amounts.residents <= persons else None
        for total, squared, contributors in zip(sums, squares, people, strict=True)
    )
    return PerResident(
        persons=persons,
        share=own_share,
        activities=activities,
        distance_m=distance_m,
        weight_g=weight_g,
        points=points,
        beside_district=own_share.beside(beside) if own_share is not None and beside is not None else None,
        **named,
    )


# Behaviours and modes of one place

_OF_KIND = "s.behaviour = kinds.behaviour AND s.mode = kinds.mode AND s.place_code = :place"

_KINDS = sa.text(f"""
SELECT kinds.behaviour, kinds.mode, {_NOW}, {_THEN},
       {_SAVED_PAIR.format(starts_on=":starts_on", before_on=_BEFORE_ON, cell=_OF_KIND)}
FROM (SELECT DISTINCT p.behaviour, p.mode FROM activity_period p
      WHERE p.place_code = :place AND p.grain = :grain AND p.starts_on IN (:starts_on, {_BEFORE_ON})
        AND (:behaviour = '' OR p.behaviour = :behaviour)) kinds
LEFT JOIN activity_period a ON a.grain = :grain AND a.starts_on = :starts_on AND a.place_code = :place
    AND a.behaviour = kinds.behaviour AND a.mode = kinds.mode
LEFT JOIN activity_period b ON b.grain = :grain AND b.starts_on = {_BEFORE_ON} AND b.place_code = :place
    AND b.behaviour = kinds.behaviour AND b.mode = kinds.mode
ORDER BY 1, 2 LIMIT :limit
""")  # noqa: S608 -- composed of constants of this module


def kinds(session: Session, actor: Actor, selection: Selection, *, place: str | None, today: date) -> Report:
    """Everything, each behaviour and each mode in one place of the actor's scope; of one behaviour, or of all.

    What was there in only one of the two years is in the list too. Raises NotFound.
    """
    scope = scope_of(actor, place)
    frame = _frame(session, selection.period, today=today)
    changed = _has_changed(frame, *_validity(session, scope))
    rows = session.execute(
        _KINDS, {**frame.keys, "behaviour": selection.behaviour_code, "place": scope, "limit": KINDS_MAX}
    )
    items = [
        KindActivity(
            behaviour=row[0],
            mode=row[1],
            amounts=Amounts(*row[2:10]),
            savings=_savings(row[18]),
            year_on_year=_changes(frame, Amounts(*row[2:10]), Amounts(*row[10:18]), place_changed=changed),
        )
        for row in rows
    ]
    return _report(frame, selection, items)


# One cell over time

_OF_SPAN = "s.behaviour = :behaviour AND s.mode = :mode AND s.place_code = :place"

_SERIES = sa.text(f"""
SELECT span.starts_on, c.counted_at, t.counted_at AS counted_then, {_NOW}, {_THEN},
       {_SAVED_PAIR.format(starts_on="span.starts_on", before_on="span.before_on", cell=_OF_SPAN)}
FROM unnest(cast(:starts AS date[]), cast(:befores AS date[])) AS span (starts_on, before_on)
LEFT JOIN activity_period_count c ON c.grain = :grain AND c.starts_on = span.starts_on
LEFT JOIN activity_period_count t ON t.grain = :grain AND t.starts_on = span.before_on
LEFT JOIN activity_period a ON a.grain = :grain AND a.starts_on = span.starts_on AND a.place_code = :place
    AND a.behaviour = :behaviour AND a.mode = :mode
LEFT JOIN activity_period b ON b.grain = :grain AND b.starts_on = span.before_on AND b.place_code = :place
    AND b.behaviour = :behaviour AND b.mode = :mode
ORDER BY span.starts_on
""")  # noqa: S608 -- composed of constants of this module


def series(
    session: Session, actor: Actor, selection: Selection, *, place: str | None, periods: int, today: date
) -> Report:
    """One place and kind over so many periods up to the one that holds `selection.on`, the oldest first.

    Raises NotFound.
    """
    scope = scope_of(actor, place)
    frame = _frame(session, selection.period, today=today)
    validity = _validity(session, scope)
    spans = _periods_up_to(selection.period, min(periods, PERIODS_MAX))
    befores = [year_before(each) for each in spans]
    versions = pricing.current(session).versions
    rows = session.execute(
        _SERIES,
        {
            "grain": selection.grain.value,
            "starts": [each.starts_on for each in spans],
            "befores": [each.starts_on if each else None for each in befores],
            "behaviour": selection.behaviour_code,
            "mode": selection.mode,
            "place": scope,
        },
    )
    items = []
    for row, period, before in zip(rows, spans, befores, strict=True):
        own = _frame_of(
            period,
            before,
            versions,
            counted_at=row.counted_at,
            is_due=False,
            counted_then=row.counted_then is not None,
            today=today,
        )
        amounts = Amounts(*row[3:11])
        items.append(
            PeriodActivity(
                starts_on=period.starts_on,
                ends_on=period.ends_on,
                counted_at=row.counted_at,
                amounts=amounts if row.counted_at else None,
                savings=_savings(row.saved),
                year_on_year=_changes(own, amounts, Amounts(*row[11:19]), place_changed=_has_changed(own, *validity)),
            )
        )
    return _report(frame, selection, items)


def _periods_up_to(last: CalendarPeriod, count: int) -> list[CalendarPeriod]:
    found = [last]
    while len(found) < count:
        found.append(period_with(last.grain, found[-1].starts_on - timedelta(days=1)))
    return found[::-1]


# Sorting

_SORTING = sa.text("""
SELECT d.code, d.name, d.level, coalesce(a.activities, 0), coalesce(a.reversed, 0)
FROM registered_period r
JOIN division d ON d.code = r.place_code
LEFT JOIN activity_period a ON a.grain = :grain AND a.starts_on = :starts_on AND a.behaviour = 'sorting'
    AND a.mode = :mode AND a.place_code = r.place_code
WHERE r.grain = :grain AND r.starts_on = :starts_on AND starts_with(r.place_code, :within)
      AND (cast(:digits AS int) IS NULL OR length(r.place_code) = :digits) AND r.place_code > :after
ORDER BY r.place_code LIMIT :limit
""")


def sorting_accuracy(
    session: Session,
    actor: Actor,
    selection: Selection,
    *,
    within: str | None,
    level: DivisionLevel | None,
    today: date,
    limit: int,
    cursor: str | None,
) -> Report:
    """How many sorting drops stand after checks, by place of the actor's scope: an upper bound, see ACCURACY_NOTE.

    Raises NotFound, BadCursor.
    """
    scope = scope_of(actor, within)
    frame = _frame(session, selection.period, today=today)
    rows = session.execute(
        _SORTING,
        {
            "grain": selection.grain.value,
            "starts_on": selection.period.starts_on,
            "mode": selection.mode,
            "within": scope,
            "digits": None if level is None else DIGITS[level],
            "after": "" if cursor is None else decode(cursor, tuple[str])[0],
            "limit": limit + 1,
        },
    ).all()
    items = [
        SortingAccuracy(code, name, place_level, standing, back, intervals.share(standing, standing + back))
        for code, name, place_level, standing, back in rows[:limit]
    ]
    return _report(frame, selection, items, encode((rows[limit - 1][0],)) if len(rows) > limit else None)
