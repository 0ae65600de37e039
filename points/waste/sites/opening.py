"""When a site is open and what it takes: pure functions, and the sites that a process keeps in memory.

Opening hours are dated plans. A plan holds from its `valid_from` until the next one does, so a late record is judged by
the hours of its own day:

    {"valid_from": "2026-01-01",
     "seasons": [{"from": "05-01", "to": "09-30", "days": {"mon": ["06:30-09:00", "18:00-21:00"], …}}, …],
     "exceptions": [{"from": "2027-02-16", "to": "2027-02-18", "times": [], "note": "春节"}]}

Seasons are days of the year, both included, and may run over New Year; the first that holds the day counts. A weekday
or a season that is missing is closed. An exception takes the place of the season's times. Times are of Asia/Shanghai,
the end excluded; "00:00-24:00" is open round the clock (定点不限时).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.claims import Reason
from points.earning.models import Grade
from points.waste.sites.models import Site, SiteDevice, SiteForm, SiteKind
from server.clock import SHANGHAI_FIXED
from server.kept import Kept
from server.places.positions import Position

FRESH_FOR_S = 10.0
SITES_MAX = 50_000

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_OF_DAY = 24 * 60

Span = tuple[int, int]  # minutes after midnight, the end excluded


@dataclass(frozen=True, slots=True)
class Season:
    """A part of the year, as (month, day) of its ends, with the times of each weekday from Monday on."""

    first: tuple[int, int]
    last: tuple[int, int]
    days: tuple[tuple[Span, ...], ...]

    def holds(self, day: date) -> bool:
        """Whether the day lies in it."""
        point = (day.month, day.day)
        if self.first <= self.last:
            return self.first <= point <= self.last
        return point >= self.first or point <= self.last


@dataclass(frozen=True, slots=True)
class Closure:
    """Days with times of their own, both ends included; mostly without any, and so closed."""

    first: date
    last: date
    times: tuple[Span, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Opening hours from a day on."""

    valid_from: date
    seasons: tuple[Season, ...]
    exceptions: tuple[Closure, ...]

    def spans(self, day: date) -> tuple[Span, ...]:
        """The times of a day."""
        for exception in self.exceptions:
            if exception.first <= day <= exception.last:
                return exception.times
        for season in self.seasons:
            if season.holds(day):
                return season.days[day.weekday()]
        return ()


@dataclass(frozen=True, slots=True)
class OpenSite:
    """A site as the hot paths want it; plans newest first."""

    code: str
    kind: SiteKind
    form: SiteForm
    name: str
    address: str
    community_code: str
    position: Position
    categories: frozenset[str]
    plans: tuple[Plan, ...]
    valid_from: date
    valid_to: date | None
    demonstration: bool

    def stands_on(self, day: date) -> bool:
        """Whether the site exists on a business day."""
        return self.valid_from <= day and (self.valid_to is None or day <= self.valid_to)

    def spans(self, day: date) -> tuple[Span, ...]:
        """The opening times of a business day."""
        for plan in self.plans:
            if plan.valid_from <= day:
                return plan.spans(day)
        return ()


def of(site: Site) -> OpenSite:
    """The value of a stored site."""
    plans = sorted((plan_of(plan) for plan in site.hours), key=lambda plan: plan.valid_from, reverse=True)
    return OpenSite(
        code=site.code,
        kind=site.kind,
        form=site.form,
        name=site.name,
        address=site.address,
        community_code=site.community_code,
        position=Position(site.latitude, site.longitude, site.datum),
        categories=frozenset(site.categories),
        plans=tuple(plans),
        valid_from=site.valid_from,
        valid_to=site.valid_to,
        demonstration=site.demonstration,
    )


def is_open(site: OpenSite, category: str | None, at: datetime) -> Reason | None:
    """Why something brought at an aware instant cannot be paid, None when it can; no category: whatever is brought.

    The reasons are SITE_CLOSED (not on that day at all), CATEGORY_NOT_TAKEN and OUTSIDE_HOURS, in this order.
    """
    local = at.astimezone(SHANGHAI_FIXED)
    day = local.date()
    if not site.stands_on(day):
        return Reason.SITE_CLOSED
    if category is not None and category not in site.categories:
        return Reason.CATEGORY_NOT_TAKEN
    minute = local.hour * 60 + local.minute
    if not any(first <= minute < last for first, last in site.spans(day)):
        return Reason.OUTSIDE_HOURS
    return None


def opens_next(site: OpenSite, at: datetime, *, days: int = 14) -> tuple[datetime, datetime] | None:
    """The present or next opening as (from, to) in Asia/Shanghai within so many days; None when there is none."""
    local = at.astimezone(SHANGHAI_FIXED)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    for ahead in range(days + 1):
        start = midnight + timedelta(days=ahead)
        if not site.stands_on(start.date()):
            continue
        for first, last in site.spans(start.date()):
            if start + timedelta(minutes=last) > local:
                return start + timedelta(minutes=first), start + timedelta(minutes=last)
    return None


def plan_of(entry: Mapping[str, Any]) -> Plan:
    """A stored or entered plan, checked. Raises ValueError that says what is wrong."""
    _only(entry, {"valid_from", "seasons", "exceptions"}, "a plan of hours")
    seasons = _list(entry.get("seasons"), "seasons", 12)
    exceptions = _list(entry.get("exceptions", []), "exceptions", 60)
    return Plan(
        _day(entry.get("valid_from"), "valid_from"),
        tuple(_season(each) for each in seasons),
        tuple(_closure(each) for each in exceptions),
    )


def entry_of(plan: Plan) -> dict[str, Any]:
    """A plan as it is stored and shown; `plan_of` reads it again."""
    return {
        "valid_from": plan.valid_from.isoformat(),
        "seasons": [
            {
                "from": "{:02}-{:02}".format(*season.first),
                "to": "{:02}-{:02}".format(*season.last),
                "days": {
                    weekday: [text_of(span) for span in spans]
                    for weekday, spans in zip(WEEKDAYS, season.days, strict=True)
                    if spans
                },
            }
            for season in plan.seasons
        ],
        "exceptions": [
            {
                "from": closure.first.isoformat(),
                "to": closure.last.isoformat(),
                "times": [text_of(span) for span in closure.times],
                "note": closure.note,
            }
            for closure in plan.exceptions
        ],
    }


def text_of(span: Span) -> str:
    """A span as it is written: 06:30-09:00."""
    return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in span)


def _season(entry: Any) -> Season:
    _only(entry, {"from", "to", "days"}, "a season")
    days = entry.get("days")
    _only(days, set(WEEKDAYS), "the days of a season")
    times = tuple(_times(days.get(weekday, [])) for weekday in WEEKDAYS)
    return Season(_month_day(entry.get("from")), _month_day(entry.get("to")), times)


def _closure(entry: Any) -> Closure:
    _only(entry, {"from", "to", "times", "note"}, "an exception")
    first = _day(entry.get("from"), "from")
    last = _day(entry.get("to", entry.get("from")), "to")
    if last < first:
        raise ValueError("an exception ends before it begins")
    note = entry.get("note", "")
    if not isinstance(note, str) or len(note) > 60 or not (note.isprintable()):
        raise ValueError("the note of an exception is a line of at most 60 characters")
    return Closure(first, last, _times(entry.get("times", [])), note)


def _times(entry: Any) -> tuple[Span, ...]:
    spans = tuple(_span(each) for each in _list(entry, "times", 6))
    if any(later[0] < earlier[1] for earlier, later in pairwise(spans)):
        raise ValueError("the times of a day follow each other")
    return spans


def _span(entry: Any) -> Span:
    first, dash, last = entry.partition("-") if isinstance(entry, str) else ("", "", "")
    span = (_minute(first), _minute(last))
    if not dash or span[0] >= span[1]:
        raise ValueError('times are written as "06:30-09:00"')
    return span


def _minute(text: str) -> int:
    if len(text) != 5 or text[2] != ":" or not (text[:2] + text[3:]).isascii() or not (text[:2] + text[3:]).isdigit():
        raise ValueError('times are written as "06:30-09:00"')
    minute = int(text[:2]) * 60 + int(text[3:])
    if int(text[3:]) > 59 or minute > MINUTES_OF_DAY:
        raise ValueError("a time lies between 00:00 and 24:00")
    return minute


def _month_day(text: Any) -> tuple[int, int]:
    # In a leap year, so that 29 February can be named.
    day = _day(f"2000-{text}" if isinstance(text, str) and len(text) == 5 else None, "from and to of a season")
    return day.month, day.day


def _day(value: Any, name: str) -> date:
    try:
        return value if type(value) is date else date.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is no day") from error


def _list(value: Any, name: str, most: int) -> Sequence[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"{name} is a list of at most {most}")
    return value


def _only(entry: Any, known: set[str], name: str) -> None:
    if not isinstance(entry, dict) or entry.keys() - known:
        raise ValueError(f"{name} has only {', '.join(sorted(known))}")


@dataclass(slots=True)
class Sites:
    """All sites: by their code, by what a partner calls them, by a device that stands there."""

    by_code: Mapping[str, OpenSite]
    by_partner_site: Mapping[tuple[str, str], OpenSite]
    by_device: Mapping[str, OpenSite]
    partners_at: Mapping[str, frozenset[str]] = field(init=False)  # who can speak of each site, by its code

    def __post_init__(self) -> None:
        partners: dict[str, set[str]] = {}
        for (partner_code, _), site in self.by_partner_site.items():
            partners.setdefault(site.code, set()).add(partner_code)
        for device, site in self.by_device.items():
            partners.setdefault(site.code, set()).add(device.partition(":")[0])
        self.partners_at = {code: frozenset(named) for code, named in partners.items()}

    def of_partner(self, partner_code: str, partner_site: str, device: str | None) -> OpenSite | None:
        """The site that a partner's event speaks of; the device's own, where it is known, before what it is called."""
        found = self.by_device.get(f"{partner_code}:{device}") if device is not None else None
        return found or self.by_partner_site.get((partner_code, partner_site))

    def partner_refusal(
        self, partner_code: str, partner_site: str, device: str | None, category: str | None, at: datetime
    ) -> Reason | None:
        """Why a partner's drop cannot be paid; None when it can, or when nobody has told us of the site."""
        found = self.of_partner(partner_code, partner_site, device)
        return None if found is None else is_open(found, category, at)


_kept: Kept[Sites] = Kept()


def current(session: Session) -> Sites:
    """All sites, at most FRESH_FOR_S old."""
    return _kept.current(lambda: read(session), fresh_for_s=FRESH_FOR_S)


def forget() -> None:
    """Read the sites anew at the next call."""
    _kept.forget()


def read(session: Session) -> Sites:
    """Every site of the database."""
    rows = session.scalars(sa.select(Site).order_by(Site.code).limit(SITES_MAX)).all()
    by_code = {row.code: of(row) for row in rows}
    named = {
        (row.partner_code, row.partner_site): by_code[row.code]
        for row in rows
        if row.partner_code is not None and row.partner_site is not None
    }
    devices = session.execute(sa.select(SiteDevice.device, SiteDevice.site_code)).all()
    return Sites(by_code, named, {device: by_code[code] for device, code in devices if code in by_code})


def positions(session: Session) -> dict[str, tuple[float, float]]:
    """Where the sites are that activities name, as (longitude, latitude) in degrees of GCJ-02.

    An activity of ours names a site by its code, a partner's by what the partner calls it.
    """
    sites = current(session)
    found = {partner_site: _point(site) for (_, partner_site), site in sites.by_partner_site.items()}
    return {**found, **{code: _point(site) for code, site in sites.by_code.items()}}


def _point(site: OpenSite) -> tuple[float, float]:
    shown = site.position.in_gcj_02()
    return shown.longitude, shown.latitude


def of_activity(sites: Sites, told: Any) -> OpenSite | None:
    """The site that a claim or an activity of sorting speaks of; None where nobody has told us of it."""
    if told.grade != Grade.PARTNER_SIGNED:
        return sites.by_code.get(told.site or "")
    device = told.device.removeprefix(f"{told.source}:") if told.device else None
    return sites.of_partner(told.source, told.site or "", device)


PartnerCheck = Callable[[str, str, str | None, str | None, datetime], Reason | None]


def partner_check(session: Session) -> PartnerCheck:
    """The check of partners' drops for one batch: (partner, its name of the site, device, category, instant) → reason.

    `wsgi.py` gives this function to the feed, which may not import this room.
    """
    return current(session).partner_refusal
