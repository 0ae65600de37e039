"""Carbon methods: loading the dated data files, and which method is in force on a day."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.carbon.models import Factor, FactorUnit, Method, MethodKind
from points.carbon.savings import FactorSet
from server.data_files import parse_toml, read_text
from server.database import lock_name
from server.errors import DomainError
from server.places.models import Confidence

METHODS_DATA = Path(__file__).parent / "data"

FILE_BYTES_MAX = 200_000
FACTORS_MAX = 200
TITLE_LENGTH_MAX = 100
TEXT_LENGTH_MAX = 300

# What one of a source's units is in micrograms per metre or per gram.
_UNITS: dict[tuple[MethodKind, str], tuple[FactorUnit, int]] = {
    (MethodKind.TRAVEL, "g/km"): (FactorUnit.METRE, 1_000),
    (MethodKind.RECYCLING, "kg/kg"): (FactorUnit.GRAM, 1_000_000),
}
_METHOD_KEYS = {"id", "kind", "title_zh", "title_en", "source", "confidence", "valid_from", "default", "factors"}
_FACTOR_KEYS = {"key", "saved", "source", "confidence"}


class MethodDataError(Exception):
    """A method's data file cannot be loaded; the message names the file and the fault."""


class MethodChanged(MethodDataError):
    """A data file differs from the method loaded under its id: a new version needs a new id."""


class MethodUnknown(DomainError):
    """No carbon method has this id, or none of this kind is in force on the day."""

    code, status, title_zh, title_en = "method-unknown", 422, "没有此减排方法", "There is no such carbon method"


@dataclass(frozen=True, slots=True)
class FactorEntry:
    """One factor as a data file states it."""

    key: str
    unit: FactorUnit
    micrograms_per_unit: int
    stated: str
    source: str
    confidence: Confidence
    note: str


@dataclass(frozen=True, slots=True)
class MethodData:
    """One method's data file. `content_sha256` covers everything but the default mark, and no comments."""

    id: str
    kind: MethodKind
    title_zh: str
    title_en: str
    source: str
    confidence: Confidence
    valid_from: date
    is_default: bool
    factors: tuple[FactorEntry, ...]
    content_sha256: bytes


@dataclass(frozen=True, slots=True)
class InForce:
    """A method that is or was the default of its kind, with its days, both included."""

    kind: MethodKind
    valid_from: date
    valid_to: date | None
    factors: FactorSet


@dataclass(frozen=True, slots=True)
class MethodTable:
    """Every method as a value, for pricing without the database."""

    by_id: Mapping[str, FactorSet]
    defaults: tuple[InForce, ...]  # by their last day, the present default of a kind last

    def in_force(self, kind: MethodKind, on: date) -> FactorSet | None:
        """The default method of a kind on a day, None when there was none.

        The first that covers the day: a later default may reach back further, but has not priced the days before it
        took over.
        """
        for method in self.defaults:
            if method.kind is kind and method.valid_from <= on and (method.valid_to is None or on <= method.valid_to):
                return method.factors
        return None


def read_methods(folder: Path = METHODS_DATA) -> list[MethodData]:
    """Read and check every method file of a folder. Raises MethodDataError."""
    found = [_read(path) for path in sorted(folder.glob("*.toml"))]
    for kind in MethodKind:
        if sum(method.is_default for method in found if method.kind is kind) != 1:
            raise MethodDataError(f"{folder.name}: exactly one {kind} method must be the default")
    return found


def load(session: Session, methods: list[MethodData], *, on: date) -> list[str]:
    """Store the methods that are not stored yet, and move the default mark from `on`; the ids added.

    A second time changes nothing. Raises MethodChanged for a file whose content differs from what was loaded under its
    id, and MethodDataError for a default that was one before and has ended.
    """
    lock_name(session, "carbon:methods")
    stored = {row.id: row for row in session.scalars(sa.select(Method).execution_options(populate_existing=True))}
    added = []
    for data in methods:
        row = stored.get(data.id)
        if row is None:
            stored[data.id] = _insert(session, data)
            added.append(data.id)
        elif row.content_sha256 != data.content_sha256:
            raise MethodChanged(f"{data.id}: differs from what was loaded under this id; give the new version a new id")
    for data in methods:
        if data.is_default:
            _make_default(session, list(stored.values()), stored[data.id], on=on)
    session.flush()
    return added


def add(session: Session, data: MethodData) -> None:
    """Store one method without the default mark: it is what a rules version names that prices. Raises MethodChanged."""
    lock_name(session, "carbon:methods")
    if session.get(Method, data.id) is not None:
        raise MethodChanged(f"{data.id}: is loaded already; give the new version a new id")
    _insert(session, data)


def current_method(session: Session, kind: MethodKind, on: date) -> Method:
    """The method of a kind in force on a day. Raises MethodUnknown."""
    found = session.scalar(
        sa.select(Method)
        .where(
            Method.kind == kind,
            Method.valid_from <= on,
            sa.or_(Method.is_default, Method.valid_to >= on),
        )
        .order_by(Method.valid_to.asc().nulls_last())
        .limit(1)
    )
    if found is None:
        raise MethodUnknown
    return found


def method_table(session: Session) -> MethodTable:
    """Every stored method as a value, read in two queries."""
    factors: dict[str, dict[str, int]] = {}
    for method_id, key, micrograms in session.execute(
        sa.select(Factor.method_id, Factor.key, Factor.micrograms_per_unit)
    ):
        factors.setdefault(method_id, {})[key] = micrograms
    by_id = {method_id: FactorSet(method_id, MappingProxyType(values)) for method_id, values in factors.items()}
    once_default = sa.select(Method).where(sa.or_(Method.is_default, Method.valid_to.is_not(None)))
    return MethodTable(
        by_id=MappingProxyType(by_id),
        defaults=tuple(
            InForce(row.kind, row.valid_from, row.valid_to, by_id[row.id])
            for row in session.scalars(once_default.order_by(Method.valid_to.asc().nulls_last(), Method.id))
        ),
    )


def _insert(session: Session, data: MethodData) -> Method:
    row = Method(
        id=data.id,
        kind=data.kind,
        title_zh=data.title_zh,
        title_en=data.title_en,
        source=data.source,
        confidence=data.confidence,
        valid_from=data.valid_from,
        is_default=False,
        factor_count=len(data.factors),
        content_sha256=data.content_sha256,
    )
    session.add(row)
    session.flush()
    session.add_all(
        Factor(
            method_id=data.id,
            key=factor.key,
            unit=factor.unit,
            micrograms_per_unit=factor.micrograms_per_unit,
            stated=factor.stated,
            source=factor.source,
            confidence=factor.confidence,
            note=factor.note,
        )
        for factor in data.factors
    )
    session.flush()
    return row


def _make_default(session: Session, stored: list[Method], chosen: Method, *, on: date) -> None:
    if chosen.is_default:
        return
    if chosen.valid_to is not None:
        raise MethodDataError(f"{chosen.id}: was the default until {chosen.valid_to}; load it again under a new id")
    for row in stored:
        if row.kind is chosen.kind and row.is_default:
            row.is_default = False
            row.valid_to = max(on, chosen.valid_from) - timedelta(days=1)
    session.flush()  # the old mark must be gone before the new one comes: the index allows one of each kind
    chosen.is_default = True


def _read(path: Path) -> MethodData:
    """A method's data file, which is named after its id. Raises MethodDataError."""
    method = parse(path.name, read_text(path, bytes_max=FILE_BYTES_MAX, fault=MethodDataError))
    if method.id != path.stem:
        raise MethodDataError(f"{path.name}: the file must be named after its id {method.id!r}")
    return method


def parse(name: str, text: str) -> MethodData:
    """Read and check a method as its TOML states it; `name` is for the message. Raises MethodDataError."""
    raw = parse_toml(name, text, fault=MethodDataError)
    try:
        if set(raw) != _METHOD_KEYS or not _is_id(raw["id"]):
            raise MethodDataError(f"{name}: needs exactly {', '.join(sorted(_METHOD_KEYS))}")
        if not isinstance(raw["valid_from"], date) or isinstance(raw["valid_from"], datetime):
            raise MethodDataError(f"{name}: valid_from must be a date")
        for key, length_max in (
            ("title_zh", TITLE_LENGTH_MAX),
            ("title_en", TITLE_LENGTH_MAX),
            ("source", TEXT_LENGTH_MAX),
        ):
            if not isinstance(raw[key], str) or not 1 <= len(raw[key]) <= length_max:
                raise MethodDataError(f"{name}: {key} must be a text of 1 to {length_max} characters")
        kind = MethodKind(raw["kind"])
        if not isinstance(raw["factors"], list):
            raise MethodDataError(f"{name}: factors must be a list")
        factors = tuple(_factor(kind, row, f"{name}, factor {n}") for n, row in enumerate(raw["factors"], 1))
        confidence = Confidence(raw["confidence"])
    except ValueError as error:
        raise MethodDataError(f"{name}: {error}") from error
    if not 1 <= len(factors) <= FACTORS_MAX or len({factor.key for factor in factors}) != len(factors):
        raise MethodDataError(f"{name}: needs 1 to {FACTORS_MAX} factors, each key once")
    is_default = raw.pop("default") is True
    return MethodData(
        id=raw["id"],
        kind=kind,
        title_zh=raw["title_zh"],
        title_en=raw["title_en"],
        source=raw["source"],
        confidence=confidence,
        valid_from=raw["valid_from"],
        is_default=is_default,
        factors=factors,
        content_sha256=_sha256(raw),
    )


def _is_id(text: Any) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,59}", text) is not None


def _factor(kind: MethodKind, row: Any, where: str) -> FactorEntry:
    if not isinstance(row, dict):
        raise MethodDataError(f"{where}: needs key, saved, source and confidence")
    if not _FACTOR_KEYS <= set(row) <= _FACTOR_KEYS | {"note"} or not all(isinstance(v, str) for v in row.values()):
        raise MethodDataError(f"{where}: needs key, saved, source and confidence as text, and may have a note")
    if max(map(len, row.values())) > TEXT_LENGTH_MAX:
        raise MethodDataError(f"{where}: a text is longer than {TEXT_LENGTH_MAX} characters")
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,39}", row["key"]) or not row["source"]:
        raise MethodDataError(f"{where}: needs a key of small letters and a source")
    stated = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) (\S{1,10})", row["saved"])
    unit = _UNITS.get((kind, stated[2])) if stated else None
    if stated is None or unit is None:
        raise MethodDataError(f"{where}: saved must be a number and g/km for travel, kg/kg for recycling")
    micrograms = Decimal(stated[1]) * unit[1]
    if micrograms != micrograms.to_integral_value():
        raise MethodDataError(f"{where}: finer than a microgram per {unit[0]}")
    return FactorEntry(
        key=row["key"],
        unit=unit[0],
        micrograms_per_unit=int(micrograms),
        stated=row["saved"],
        source=row["source"],
        confidence=Confidence(row["confidence"]),
        note=row.get("note", ""),
    )


def _sha256(content: dict[str, Any]) -> bytes:
    """The hash of what a file says, whatever its comments, spaces and line ends."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, default=date.isoformat)
    return hashlib.sha256(canonical.encode()).digest()
