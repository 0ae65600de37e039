"""How many claims of a quarter are checked: dated data of the district, `audits-*.toml` in its folder."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from server.data_files import read_toml
from server.errors import DomainError

FILE_BYTES_MAX = 100_000
PLANS_MAX = 100
CLAIMS_MAX = 20_000

_NUMBERS = {"claims": (1, CLAIMS_MAX), "stratum_claims_min": (2, 1_000)}


class AuditPlanMissing(DomainError):
    """The district's data has no plan for the quarter, or one that cannot be read; `detail` says which."""

    code, status, title_zh, title_en = (
        "audit-plan-missing",
        409,
        "数据目录中没有该季度可用的审计方案",
        "The district's data has no usable plan of audits for this quarter",
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """How many claims to draw from a quarter in all, and of each behaviour and source at least."""

    valid_from: date
    claims: int
    stratum_claims_min: int
    source: str

    def as_json(self) -> dict[str, Any]:
        """As it is kept with the audit."""
        return {**asdict(self), "valid_from": self.valid_from.isoformat()}


def read_plan(folder: Path, *, on: date) -> Plan:
    """The plan in force on a day. Raises AuditPlanMissing."""
    in_force = [plan for path in sorted(folder.glob("audits-*.toml")) for plan in _read(path) if plan.valid_from <= on]
    if not in_force:
        raise AuditPlanMissing(f"audits-*.toml: no plan for {on}")
    return max(in_force, key=lambda plan: plan.valid_from)


def _read(path: Path) -> Sequence[Plan]:
    raw = read_toml(path, bytes_max=FILE_BYTES_MAX, fault=AuditPlanMissing)
    plans = raw.get("plans")
    if raw.keys() != {"plans"} or not isinstance(plans, list) or not 1 <= len(plans) <= PLANS_MAX:
        raise AuditPlanMissing(f"{path.name}: needs 1 to {PLANS_MAX} [[plans]] and nothing else")
    return [_plan(each, f"{path.name}, plan {n}") for n, each in enumerate(plans, 1)]


def _plan(raw: Any, where: str) -> Plan:
    if not isinstance(raw, dict) or raw.keys() != {"valid_from", "source", *_NUMBERS}:
        raise AuditPlanMissing(f"{where}: needs exactly valid_from, source, {', '.join(_NUMBERS)}")
    if not isinstance(raw["valid_from"], date) or isinstance(raw["valid_from"], datetime):
        raise AuditPlanMissing(f"{where}: valid_from must be a date")
    if not isinstance(raw["source"], str) or not 1 <= len(raw["source"]) <= 300:
        raise AuditPlanMissing(f"{where}: source must be a text of 1 to 300 characters")
    for name, (least, most) in _NUMBERS.items():
        if type(raw[name]) is not int or not least <= raw[name] <= most:
            raise AuditPlanMissing(f"{where}: {name} must be a whole number from {least} to {most}")
    return Plan(**raw)
