"""What the district decides about drops, from the files `sorting-*.toml` of its data folder, once and for good."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.waste.drops.models import DropPath, SortingPlan, SpotCheckRate
from points.waste.sites.models import SiteForm
from server.data_files import read_toml

FILE_BYTES_MAX = 100_000
PLANS_MAX = 200

_HEAD = {
    "id": str,
    "source": str,
    "valid_from": date,
    "check_within_hours": int,
    "site_code_every_minutes": int,
    "spot_checks": list,
}


class SortingPlanError(Exception):
    """A file cannot be loaded; the message names the file and the fault."""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """One file, checked."""

    head: dict[str, Any]
    rates: dict[tuple[str, str], Decimal]
    content_sha256: bytes


@dataclass(frozen=True, slots=True)
class DropPlan:
    """One edition as the rules want it. Rates are probabilities by (path, form of site), '' for any other form."""

    id: str
    valid_from: date
    check_within_hours: int
    site_code_every_minutes: int
    rates: dict[tuple[str, str], Decimal]

    def probability(self, path: DropPath, form: SiteForm | None) -> Decimal:
        """With which probability a drop is checked."""
        named = self.rates.get((path.value, form.value)) if form is not None else None
        return self.rates.get((path.value, ""), Decimal()) if named is None else named


def read_folder(folder: Path) -> list[PlanFile]:
    """The files of a district's data folder, the oldest first. Raises SortingPlanError."""
    found = [read_file(path) for path in sorted(folder.glob("sorting-*.toml"))]
    if not found:
        raise SortingPlanError(f"{folder}: no sorting-*.toml")
    return sorted(found, key=lambda each: each.head["valid_from"])


def read_file(path: Path) -> PlanFile:
    """Read and check one file. Raises SortingPlanError."""
    head = read_toml(path, bytes_max=FILE_BYTES_MAX, fault=SortingPlanError, parse_float=Decimal)
    for key, kind in _HEAD.items():
        if type(head.get(key)) is not kind:
            raise SortingPlanError(f"{path.name}: {key} is missing or no {kind.__name__}")
    if head.keys() - _HEAD.keys():
        raise SortingPlanError(f"{path.name}: unknown key {sorted(head.keys() - _HEAD.keys())[0]}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,39}", head["id"]) or not 0 < len(head["source"]) <= 300:
        raise SortingPlanError(f"{path.name}: id is of lower-case letters, digits, dots, hyphens; source a line")
    if not (1 <= head["check_within_hours"] <= 720 and 1 <= head["site_code_every_minutes"] <= 1440):
        raise SortingPlanError(f"{path.name}: check_within_hours is 1 to 720, site_code_every_minutes 1 to 1440")
    rates = _rates(path.name, head.pop("spot_checks"))
    named = sorted((*key, str(rate)) for key, rate in rates.items())
    canonical = json.dumps([head, named], sort_keys=True, default=str, ensure_ascii=False)
    return PlanFile(head, rates, hashlib.sha256(canonical.encode()).digest())


def _rates(name: str, entries: list[Any]) -> dict[tuple[str, str], Decimal]:
    rates: dict[tuple[str, str], Decimal] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.keys() - {"path", "form", "probability"}:
            raise SortingPlanError(f"{name}: a spot check has path, form and probability: {entry}")
        try:
            form = SiteForm(entry["form"]).value if "form" in entry else ""
            key, rate = (DropPath(entry["path"]).value, form), Decimal(entry["probability"])
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            raise SortingPlanError(f"{name}: a spot check lacks or misnames {error}") from error
        if not 0 <= rate <= 1 or rate != round(rate, 6) or key in rates:
            raise SortingPlanError(f"{name}: {key}: one probability from 0 to 1 with at most six digits")
        rates[key] = rate
    return rates


def load(session: Session, files: list[PlanFile]) -> list[str]:
    """Add the editions that the database does not have; their ids. Raises SortingPlanError for a changed one."""
    added = []
    for file in files:
        stored = session.get(SortingPlan, file.head["id"])
        if stored is not None:
            if stored.content_sha256 != file.content_sha256:
                raise SortingPlanError(f"{stored.id} is loaded with other content: give the change a new id")
            continue
        same_day = sa.select(SortingPlan.id).where(SortingPlan.valid_from == file.head["valid_from"])
        if (other := session.scalar(same_day)) is not None:
            raise SortingPlanError(f"{file.head['id']}: {other} holds from the same day, {file.head['valid_from']}")
        session.add(SortingPlan(**file.head, content_sha256=file.content_sha256))
        session.flush()
        session.add_all(
            SpotCheckRate(plan_id=file.head["id"], path=DropPath(path), form=form, probability=rate)
            for (path, form), rate in file.rates.items()
        )
        session.flush()
        added.append(file.head["id"])
    return added


def read(session: Session) -> list[DropPlan]:
    """Every edition, the newest first."""
    rates: dict[str, dict[tuple[str, str], Decimal]] = {}
    for rate in session.scalars(sa.select(SpotCheckRate).limit(PLANS_MAX * 50)):
        rates.setdefault(rate.plan_id, {})[rate.path.value, rate.form] = rate.probability
    stored = session.scalars(sa.select(SortingPlan).order_by(SortingPlan.valid_from.desc()).limit(PLANS_MAX))
    return [
        DropPlan(
            each.id, each.valid_from, each.check_within_hours, each.site_code_every_minutes, rates.get(each.id, {})
        )
        for each in stored
    ]


def on(plans: list[DropPlan], day: date) -> DropPlan | None:
    """The edition in force on a business day, None before the first."""
    return next((plan for plan in plans if plan.valid_from <= day), None)
