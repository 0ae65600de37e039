"""Sites from a file of the district: TOML with `[[sites]]`, or CSV with the same names as columns.

Opening hours are written in one line: blocks with `;` between, each an optional part of the year, the weekdays, and the
times, such as `daily 06:30-09:00 18:00-21:00` or `05-01..09-30 mon-fri 06:00-09:00; sat,sun 08:00-10:00`. A block
without a part of the year holds in what the others leave over. Categories and devices are separated by blanks.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from points.waste.sites import opening, registry
from points.waste.sites.models import CODE, Category, Site, SiteForm, SiteKind
from points.waste.sites.opening import WEEKDAYS, Plan
from points.waste.sites.registry import (
    PartnerSiteTaken,
    SiteDaysRefused,
    SiteDeviceTaken,
    SiteEntry,
    SiteHoursRefused,
    SitePartnerUnknown,
)
from server.clock import business_day
from server.data_files import parse_toml, read_text
from server.errors import DomainError, InvalidRequest
from server.places.divisions import CommunityUnknown, community_for
from server.places.positions import Datum

FILE_BYTES_MAX = 10_000_000
ROWS_MAX = 20_000

COLUMNS = (
    "code",
    "kind",
    "form",
    "name",
    "address",
    "community_code",
    "latitude",
    "longitude",
    "datum",
    "categories",
    "hours",
    "partner_code",
    "partner_site",
    "devices",
    "valid_from",
    "valid_to",
)
_OPTIONAL = {"partner_code", "partner_site", "devices", "valid_to"}
_WHOLE_YEAR = ("01-01", "12-31")


class SiteDataError(Exception):
    """A file of sites cannot be read; the message names the file, the row and the fault."""


def read_file(path: Path) -> list[SiteEntry]:
    """Read and check a file of sites, .toml or .csv. Raises SiteDataError."""
    text = read_text(path, bytes_max=FILE_BYTES_MAX, fault=SiteDataError)
    try:
        rows, demonstration = _toml_rows(path.name, text) if path.suffix == ".toml" else (_csv_rows(path, text), False)
        entries = [_entry(where, row, demonstration) for where, row in rows]
    except csv.Error as error:
        raise SiteDataError(f"{path.name}: {error}") from error
    if not 0 < len(entries) <= ROWS_MAX:
        raise SiteDataError(f"{path.name}: needs 1 to {ROWS_MAX} sites")
    for code, count in Counter(entry.code for entry in entries).items():
        if count > 1:
            raise SiteDataError(f"{path.name}: {code} stands here twice")
    return entries


def _toml_rows(name: str, text: str) -> tuple[Iterator[tuple[str, Mapping[str, Any]]], bool]:
    content = parse_toml(name, text, fault=SiteDataError)
    sites, demonstration = content.get("sites"), content.get("demonstration", False)
    if content.keys() - {"sites", "demonstration"} or not isinstance(sites, list) or type(demonstration) is not bool:
        raise SiteDataError(f"{name}: holds [[sites]] and demonstration = true or false, and nothing else")
    if not all(isinstance(site, dict) for site in sites):
        raise SiteDataError(f"{name}: sites are tables")
    return ((f"{name}, site {number}", site) for number, site in enumerate(sites, 1)), demonstration


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(text.splitlines(), strict=True)
    for row in reader:
        where = f"{path.name}, line {reader.line_num}"
        if None in row or None in row.values():
            raise SiteDataError(f"{where}: has another number of columns than the head")
        yield where, {name: value.strip() for name, value in row.items() if value.strip()}


def _entry(where: str, row: Mapping[str, Any], demonstration: bool) -> SiteEntry:
    unknown, missing = row.keys() - set(COLUMNS), set(COLUMNS) - _OPTIONAL - row.keys()
    if unknown or missing:
        raise SiteDataError(f"{where}: unknown {sorted(unknown)}, missing {sorted(missing)}")
    try:
        valid_from = _day(row["valid_from"])
        entry = SiteEntry(
            code=_text(row, "code", 40, CODE),
            kind=SiteKind(row["kind"]),
            form=SiteForm(row["form"]),
            name=_text(row, "name", 60),
            address=_text(row, "address", 120),
            community_code=_text(row, "community_code", 12, "[0-9]{12}"),
            latitude=_degrees(row["latitude"], 90),
            longitude=_degrees(row["longitude"], 180),
            datum=Datum(row["datum"]),
            categories=[Category(each).value for each in _words(row["categories"])],
            hours=plan_of(_text(row, "hours", 1000), valid_from),
            valid_from=valid_from,
            valid_to=_day(row["valid_to"]) if "valid_to" in row else None,
            partner_code=_text(row, "partner_code", 40, "[a-z0-9-]+") if "partner_code" in row else None,
            partner_site=_text(row, "partner_site", 64, "[!-~]+") if "partner_site" in row else None,
            devices=_words(row.get("devices", [])),
            demonstration=demonstration,
            where=where,
        )
    except (ValueError, TypeError) as error:
        raise SiteDataError(f"{where}: {error}") from error
    if not all(re.fullmatch("[a-z0-9-]{2,40}:[!-~]{1,39}", device) for device in entry.devices):
        raise SiteDataError(f"{where}: devices are written as partner:device")
    if len(entry.devices) > registry.DEVICES_MAX or not entry.categories:
        raise SiteDataError(f"{where}: needs a category, and at most {registry.DEVICES_MAX} devices")
    if (entry.partner_code is None) != (entry.partner_site is None):
        raise SiteDataError(f"{where}: partner_code and partner_site go together")
    if (entry.kind is SiteKind.COLLECTION_POINT) != (entry.form is SiteForm.STATION):
        raise SiteDataError(f"{where}: a collection point, and nothing else, has the form station")
    if entry.valid_to is not None and entry.valid_to < entry.valid_from:
        raise SiteDataError(f"{where}: ends before it begins")
    return entry


def _text(row: Mapping[str, Any], name: str, most: int, shape: str | None = None) -> str:
    value = row[name]
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable() or not value.strip():
        raise ValueError(f"{name} is a line of at most {most} characters")
    if shape is not None and not re.fullmatch(shape, value):
        raise ValueError(f"{name} has another shape: {value!r}")
    return value


def _words(value: Any) -> list[str]:
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("categories and devices are words with blanks between")
    return words


def _degrees(value: Any, most: int) -> float:
    degrees = float(value)
    if not -most <= degrees <= most:
        raise ValueError(f"{value} is no position in degrees")
    return degrees


def _day(value: Any) -> date:
    return value if type(value) is date else date.fromisoformat(str(value))


_BLOCK = re.compile(r"(?:(\d\d-\d\d)\.\.(\d\d-\d\d) )?([a-z,-]+)((?: [0-9:-]+)+)")


def plan_of(line: str, valid_from: date) -> Plan:
    """The plan of opening hours in one line of the notation above. Raises ValueError."""
    seasons: dict[tuple[str, str], dict[str, list[str]]] = {}
    for block in line.split(";"):
        found = _BLOCK.fullmatch(" ".join(block.split()))
        if found is None:
            raise ValueError(f"hours are written as 'daily 06:30-09:00 18:00-21:00', not {block.strip()!r}")
        first, last, days, times = found.groups()
        season = seasons.setdefault((first, last) if first else _WHOLE_YEAR, {})
        for weekday in _weekdays(days):
            season.setdefault(weekday, []).extend(times.split())
    ordered = sorted(seasons.items(), key=lambda each: each[0] == _WHOLE_YEAR)
    return opening.plan_of(
        {
            "valid_from": valid_from,
            "seasons": [{"from": first, "to": last, "days": days} for (first, last), days in ordered],
        }
    )


def _weekdays(text: str) -> list[str]:
    if text == "daily":
        return list(WEEKDAYS)
    named: list[str] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        last = last or first
        if first not in WEEKDAYS or last not in WEEKDAYS or WEEKDAYS.index(first) > WEEKDAYS.index(last):
            raise ValueError(f"weekdays are mon to sun, or daily, not {part!r}")
        named += WEEKDAYS[WEEKDAYS.index(first) : WEEKDAYS.index(last) + 1]
    return named


def load(session: Session, entries: list[SiteEntry], *, now: datetime) -> Counter[str]:
    """Add the sites that are new and bring the others to what the file says; how many were added, changed, unchanged.

    Changed hours hold from today. Sites that the file does not name stay.

    Raises SiteDataError, which names the row: its community or partner is not known, its device or its partner's site
    is another's.
    """
    done: Counter[str] = Counter()
    for entry in entries:
        row = f"{entry.where or 'a site'} ({entry.code})"
        try:
            with session.begin_nested():
                done[_bring(session, entry, now=now)] += 1
        except CommunityUnknown as error:
            raise SiteDataError(f"{row}: there is no community {entry.community_code}") from error
        except DomainError as error:
            raise SiteDataError(f"{row}: {error}") from error
        except IntegrityError as error:
            raise SiteDataError(f"{row}: {_refusal(error, entry)}") from error
    return done


def _bring(session: Session, entry: SiteEntry, *, now: datetime) -> str:
    stored = session.get(Site, entry.code, populate_existing=True)
    if stored is None:
        registry.add(session, entry, now=now)
        return "added"
    if stored.kind is not entry.kind:
        raise InvalidRequest(f"a {stored.kind.value} does not become a {entry.kind.value}")
    changes = _changes(session, stored, entry, business_day(now))
    if "community_code" in changes:
        community_for(session, entry.community_code, business_day(now))
    if changes:
        registry.change(session, stored, changes, version=stored.version, now=now)
    return "changed" if changes else "unchanged"


_REFUSALS = (SitePartnerUnknown, PartnerSiteTaken, SiteDeviceTaken, SiteHoursRefused, SiteDaysRefused)


def _refusal(error: IntegrityError, entry: SiteEntry) -> str:
    name = getattr(getattr(error.orig, "diag", None), "constraint_name", None) or "a constraint"
    if name in SitePartnerUnknown.constraints:
        return f"there is no partner {entry.partner_code}"
    return next((kind.title_en for kind in _REFUSALS if name in kind.constraints), f"the database refuses it ({name})")


def _changes(session: Session, stored: Site, entry: SiteEntry, today: date) -> dict[str, Any]:
    names = (
        "form",
        "name",
        "address",
        "community_code",
        "latitude",
        "longitude",
        "datum",
        "partner_code",
        "partner_site",
        "valid_to",
    )
    changes = {name: getattr(entry, name) for name in names if getattr(entry, name) != getattr(stored, name)}
    if sorted(set(entry.categories)) != sorted(stored.categories):
        changes["categories"] = list(entry.categories)
    newest = max((opening.plan_of(plan) for plan in stored.hours), key=lambda plan: plan.valid_from)
    if (newest.seasons, newest.exceptions) != (entry.hours.seasons, entry.hours.exceptions):
        changes["hours"] = Plan(max(today, newest.valid_from), entry.hours.seasons, entry.hours.exceptions)
    if sorted(set(entry.devices)) != registry.devices_of(session, [entry.code])[entry.code]:
        changes["devices"] = entry.devices
    return changes
