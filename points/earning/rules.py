"""Loading the district's dated rules from its data folder into the database, once and for good."""

import hashlib
import json
import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.carbon.models import Method
from points.earning.models import Behaviour, EarningRule, Grade, RuleVersion

FILE_BYTES_MAX = 200_000
RULES_MAX = 500

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
_RULE_KEYS = {"behaviour", "modes", "grade", "cap_group", *_NUMBERS}


class RuleDataError(Exception):
    """A rules file cannot be loaded; the message names the file and the fault."""


class RulesChanged(RuleDataError):
    """A file differs from the version loaded under its id: a change is a new version with a new id."""


@dataclass(frozen=True, slots=True)
class RuleFile:
    """One rules file, checked. `rules` has one entry per mode."""

    head: dict[str, Any]
    rules: tuple[dict[str, Any], ...]
    content_sha256: bytes


def read_folder(folder: Path) -> list[RuleFile]:
    """The rules files `earning-*.toml` of a district's data folder, the oldest first. Raises RuleDataError."""
    found = [read_file(path) for path in sorted(folder.glob("earning-*.toml"))]
    if not found:
        raise RuleDataError(f"{folder}: no earning-*.toml")
    return sorted(found, key=lambda each: each.head["valid_from"])


def read_file(path: Path) -> RuleFile:
    """Read and check one rules file. Raises RuleDataError."""
    if path.stat().st_size > FILE_BYTES_MAX:
        raise RuleDataError(f"{path.name}: larger than {FILE_BYTES_MAX} bytes")
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RuleDataError(f"{path.name}: {error}") from error
    for key, kind in _HEAD.items():
        if not isinstance(content.get(key), kind):
            raise RuleDataError(f"{path.name}: {key} is missing or no {kind.__name__}")
    if content.keys() - _HEAD.keys():
        raise RuleDataError(f"{path.name}: unknown key {sorted(content.keys() - _HEAD.keys())[0]}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,39}", content["id"]):
        raise RuleDataError(f"{path.name}: id must be lower-case letters, digits, dots and hyphens")
    rules = tuple(rule for raw in content.pop("rules") for rule in _read_rule(path.name, raw))
    if not 0 < len(rules) <= RULES_MAX:
        raise RuleDataError(f"{path.name}: needs 1 to {RULES_MAX} rules")
    counted = Counter((rule["behaviour"], rule["mode"], rule["grade"]) for rule in rules)
    for named, count in counted.items():
        if count > 1:
            raise RuleDataError(f"{path.name}: two rules for {' / '.join(named)}")
    _check_caps(path.name, rules)
    canonical = json.dumps([content, rules], sort_keys=True, default=str, ensure_ascii=False)
    return RuleFile(content, rules, hashlib.sha256(canonical.encode()).digest())


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

    Raises RulesChanged, RuleDataError (an unknown carbon method).
    """
    added = []
    for file in files:
        stored = session.get(RuleVersion, file.head["id"])
        if stored is not None:
            if stored.content_sha256 != file.content_sha256:
                raise RulesChanged(f"{stored.id} is loaded with other content: give the change a new id")
            continue
        _add(session, file)
        added.append(file.head["id"])
    return added


def _add(session: Session, file: RuleFile) -> None:
    head = file.head
    for key in ("travel_method", "recycling_method"):
        if session.get(Method, head[key]) is None:
            raise RuleDataError(f"{head['id']}: {key} {head[key]!r} is not loaded")
    session.execute(
        sa.update(RuleVersion)
        .where(RuleVersion.valid_to.is_(None), RuleVersion.valid_from < head["valid_from"])
        .values(valid_to=sa.cast(sa.literal(head["valid_from"]), sa.Date) - 1)
    )
    session.add(
        RuleVersion(
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
            content_sha256=file.content_sha256,
        )
    )
    session.flush()
    session.add_all(EarningRule(version_id=head["id"], **rule) for rule in file.rules)
    session.flush()
