"""Loading the district's dated rules from its data folder into the database, once and for good."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.carbon.models import Method
from points.earning.models import Behaviour, BoundKind, BoundLimit, EarningRule, Grade, GradeTerm, RuleVersion
from server.data_files import parse_toml, read_text

FILE_BYTES_MAX = 200_000
RULES_MAX = 500
CEILING_POINTS_MAX = 70_000
DAY_CAP_POINTS_MAX = 10_000
BOUND_POINTS_MAX = 10_000_000
SPEED_KMH_MAX = 1000
_TEXT_LENGTHS = {"title_zh": 100, "title_en": 100, "source": 300, "travel_method": 60, "recycling_method": 60}
_RANGES = {"late_days_max": (0, 60), "expiry_years": (1, 5)}

_HEAD = {
    "id": str,
    "title_zh": str,
    "title_en": str,
    "source": str,
    "valid_from": date,
    "late_days_max": int,
    "expiry_years": int,
    "travel_method": str,
    "recycling_method": str,
    "rules": list,
}
# What a version may leave out: then every grade is paid in full, and nothing is bounded but the resident's caps.
_OPTIONAL = {"grades": list, "bounds": dict}
_GRADE_KEYS = {"grade", "percent", "week_ceiling_points"}
_NUMBERS = (
    "points_per_act",
    "points_per_km",
    "points_per_kg",
    "points_per_1000_steps",
    "quantity_min",
    "quantity_max",
    "speed_max_kmh",
    "day_cap_points",
    "week_cap_points",
)
_NEEDED = ("quantity_max", "day_cap_points", "week_cap_points")
_RULE_KEYS = {"behaviour", "modes", "grade", "cap_group", *_NUMBERS}


class RuleDataError(Exception):
    """A rules file cannot be loaded; the message names the file and the fault."""


class RulesChanged(RuleDataError):
    """A file differs from the version loaded under its id: a change is a new version with a new id."""


@dataclass(frozen=True, slots=True)
class RuleFile:
    """One rules file, checked. `rules` has one entry per mode, `bounds` the points of a day by kind of subject."""

    head: dict[str, Any]
    rules: tuple[dict[str, Any], ...]
    grades: tuple[dict[str, Any], ...]
    bounds: dict[str, int]
    content_sha256: bytes


def read_folder(folder: Path) -> list[RuleFile]:
    """The rules files `earning-*.toml` of a district's data folder, the oldest first. Raises RuleDataError."""
    found = [read_file(path) for path in sorted(folder.glob("earning-*.toml"))]
    if not found:
        raise RuleDataError(f"{folder}: no earning-*.toml")
    return sorted(found, key=lambda each: each.head["valid_from"])


def read_file(path: Path) -> RuleFile:
    """Read and check one rules file. Raises RuleDataError."""
    return parse(path.name, read_text(path, bytes_max=FILE_BYTES_MAX, fault=RuleDataError))


def parse(name: str, text: str) -> RuleFile:
    """Check the text of a rules file; `name` is what the faults are told under. Raises RuleDataError."""
    if len(text.encode()) > FILE_BYTES_MAX:
        raise RuleDataError(f"{name}: larger than {FILE_BYTES_MAX} bytes")
    content = parse_toml(name, text, fault=RuleDataError)
    _check_head(name, content)
    rules = tuple(rule for raw in content.pop("rules") for rule in _read_rule(name, raw))
    if not 0 < len(rules) <= RULES_MAX:
        raise RuleDataError(f"{name}: needs 1 to {RULES_MAX} rules")
    counted = Counter((rule["behaviour"], rule["mode"], rule["grade"]) for rule in rules)
    for named, count in counted.items():
        if count > 1:
            raise RuleDataError(f"{name}: two rules for {' / '.join(named)}")
    _check_caps(name, rules)
    grades = _read_grades(name, content.get("grades", []))
    bounds = _read_bounds(name, content.get("bounds", {}))
    canonical = json.dumps([content, rules], sort_keys=True, default=str, ensure_ascii=False)
    return RuleFile(content, rules, grades, bounds, hashlib.sha256(canonical.encode()).digest())


def _check_head(name: str, content: dict[str, Any]) -> None:
    for key, kind in {**_HEAD, **{key: kind for key, kind in _OPTIONAL.items() if key in content}}.items():
        if not isinstance(content.get(key), kind):
            raise RuleDataError(f"{name}: {key} is missing or no {kind.__name__}")
    if unknown := sorted(content.keys() - _HEAD.keys() - _OPTIONAL.keys()):
        raise RuleDataError(f"{name}: unknown key {unknown[0]}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,39}", content["id"]):
        raise RuleDataError(f"{name}: id must be lower-case letters, digits, dots and hyphens")
    for key, length in _TEXT_LENGTHS.items():
        if not 0 < len(content[key]) <= length or "\0" in content[key]:
            raise RuleDataError(f"{name}: {key} has 1 to {length} characters")
    for key, (lowest, highest) in _RANGES.items():
        if type(content[key]) is not int or not lowest <= content[key] <= highest:
            raise RuleDataError(f"{name}: {key} is from {lowest} to {highest}")
    if type(content["valid_from"]) is not date or not 2000 <= content["valid_from"].year <= 2100:
        raise RuleDataError(f"{name}: valid_from is a day of this century")


def _read_grades(name: str, raw: list[Any]) -> tuple[dict[str, Any], ...]:
    grades = []
    for each in raw:
        if not isinstance(each, dict) or not {"grade", "percent"} <= each.keys() <= _GRADE_KEYS:
            raise RuleDataError(f"{name}: a grade has grade, percent and perhaps week_ceiling_points: {each}")
        if each["grade"] not in {grade.value for grade in Grade}:
            raise RuleDataError(f"{name}: unknown grade {each['grade']!r}")
        if type(each["percent"]) is not int or not 1 <= each["percent"] <= 100:
            raise RuleDataError(f"{name}: {each['grade']}: percent is whole and from 1 to 100")
        ceiling = each.get("week_ceiling_points", 0)
        if type(ceiling) is not int or not 0 <= ceiling <= CEILING_POINTS_MAX:
            raise RuleDataError(f"{name}: {each['grade']}: week_ceiling_points is from 0 to {CEILING_POINTS_MAX}")
        grades.append(each)
    if grades and sorted(each["grade"] for each in grades) != sorted(grade.value for grade in Grade):
        raise RuleDataError(f"{name}: grades names every grade once, or is left out")
    return tuple(grades)


def _read_bounds(name: str, raw: dict[str, Any]) -> dict[str, int]:
    known = {kind.value for kind in BoundKind if kind is not BoundKind.GRADE}
    if unknown := sorted(raw.keys() - known):
        raise RuleDataError(f"{name}: unknown bound {unknown[0]!r}; known are {', '.join(sorted(known))}")
    if any(type(points) is not int or not 0 <= points <= BOUND_POINTS_MAX for points in raw.values()):
        raise RuleDataError(f"{name}: a bound is whole and from 0 to {BOUND_POINTS_MAX}")
    return raw


def _read_rule(name: str, raw: Any) -> list[dict[str, Any]]:
    if not isinstance(raw, dict) or raw.keys() - _RULE_KEYS:
        raise RuleDataError(f"{name}: a rule has an unknown key: {raw}")
    try:
        behaviour, grade = Behaviour(raw["behaviour"]).value, Grade(raw["grade"]).value
        modes, cap_group = raw["modes"], raw["cap_group"]
    except (KeyError, ValueError) as error:
        raise RuleDataError(f"{name}: a rule lacks or misnames {error}") from error
    numbers = {key: raw[key] for key in _NUMBERS if key in raw}
    if any(type(number) is not int or not 0 <= number <= 1_000_000 for number in numbers.values()):
        raise RuleDataError(f"{name}: {behaviour}: numbers are whole and from 0 to 1,000,000")
    if not isinstance(modes, list) or not all(
        isinstance(m, str) and re.fullmatch("[a-z0-9_-]{1,40}", m) for m in modes
    ):
        raise RuleDataError(f"{name}: {behaviour}: modes must be a list of names")
    if not isinstance(cap_group, str) or not 0 < len(cap_group) <= 40:
        raise RuleDataError(f"{name}: {behaviour}: cap_group is a name of at most 40 characters")
    for key in _NEEDED:
        if key not in numbers:
            raise RuleDataError(f"{name}: {behaviour} / {grade}: {key} is missing")
    day_cap, week_cap = numbers["day_cap_points"], numbers["week_cap_points"]
    if not day_cap <= DAY_CAP_POINTS_MAX or not day_cap <= week_cap <= CEILING_POINTS_MAX:
        raise RuleDataError(
            f"{name}: {behaviour} / {grade}: a day's cap is at most {DAY_CAP_POINTS_MAX}, a week's from that to "
            f"{CEILING_POINTS_MAX}"
        )
    if numbers.get("quantity_min", 0) > numbers["quantity_max"] or numbers.get("speed_max_kmh", 0) > SPEED_KMH_MAX:
        raise RuleDataError(f"{name}: {behaviour} / {grade}: quantity_min, quantity_max or speed_max_kmh is impossible")
    common = {"behaviour": behaviour, "grade": grade, "cap_group": cap_group, **numbers}
    return [{**common, "mode": mode} for mode in modes]


def _check_caps(name: str, rules: tuple[dict[str, Any], ...]) -> None:
    # Were the caps of one group to differ, what is paid would hang on the order in which the claims come.
    known: dict[str, tuple[Any, Any]] = {}
    for rule in rules:
        caps = (rule.get("day_cap_points"), rule.get("week_cap_points"))
        if known.setdefault(rule["cap_group"], caps) != caps:
            raise RuleDataError(f"{name}: the caps of cap_group {rule['cap_group']} differ")


def load(session: Session, files: list[RuleFile]) -> list[str]:
    """Add the versions that the database does not have; their ids. Each ends its predecessor the day before it begins.

    A file that does not begin after every version there is passed over: the district has adopted a later version of
    its own meanwhile, and a packaged file must not change what is in force. Raises RulesChanged, RuleDataError (an
    unknown carbon method).
    """
    added = []
    for file in files:
        stored = session.get(RuleVersion, file.head["id"])
        if stored is not None:
            if stored.content_sha256 != file.content_sha256:
                raise RulesChanged(f"{stored.id} is loaded with other content: give the change a new id")
            continue
        latest = session.scalar(sa.select(sa.func.max(RuleVersion.valid_from)))
        if latest is not None and file.head["valid_from"] <= latest:
            continue
        _require_methods(session, file)
        add(session, *models_of(file))
        added.append(file.head["id"])
    return added


def _require_methods(session: Session, file: RuleFile) -> None:
    for key in ("travel_method", "recycling_method"):
        if session.get(Method, file.head[key]) is None:
            raise RuleDataError(f"{file.head['id']}: {key} {file.head[key]!r} is not loaded")


def add(session: Session, version: RuleVersion, rows: Sequence[EarningRule | GradeTerm | BoundLimit]) -> None:
    """Add a version with its rows; it ends its predecessor the day before it begins."""
    session.execute(
        sa.update(RuleVersion)
        .where(RuleVersion.valid_to.is_(None), RuleVersion.valid_from < version.valid_from)
        .values(valid_to=version.valid_from - timedelta(days=1))
    )
    session.add(version)
    session.flush()
    session.add_all(rows)
    session.flush()


def models_of(file: RuleFile) -> tuple[RuleVersion, list[EarningRule | GradeTerm | BoundLimit]]:
    """The rows that a file makes, none of them added to a session: the version, then its rules, grades and bounds."""
    head = file.head
    version = RuleVersion(
        id=head["id"],
        title_zh=head["title_zh"],
        title_en=head["title_en"],
        source=head["source"],
        valid_from=head["valid_from"],
        late_days_max=head["late_days_max"],
        expiry_years=head["expiry_years"],
        travel_method_id=head["travel_method"],
        recycling_method_id=head["recycling_method"],
        rule_count=len(file.rules),
        grade_count=len(file.grades),
        bound_count=len(file.bounds),
        content_sha256=file.content_sha256,
    )
    rows: list[EarningRule | GradeTerm | BoundLimit] = []
    for rule in file.rules:
        kinds = {"behaviour": Behaviour(rule["behaviour"]), "grade": Grade(rule["grade"])}
        rows.append(EarningRule(version_id=head["id"], **{**rule, **kinds}))
    rows += [GradeTerm(version_id=head["id"], **{**term, "grade": Grade(term["grade"])}) for term in file.grades]
    rows += [
        BoundLimit(version_id=head["id"], kind=BoundKind(kind), day_points=points)
        for kind, points in file.bounds.items()
    ]
    return version, rows
