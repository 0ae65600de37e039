"""What is taken and on which terms: reading the district's dated catalogue, loading it once, and looking it up."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.waste.orders.models import (
    GROSS_G_MAX,
    MATERIALS_MAX,
    PIECES_MAX,
    SUBCLASSES_MAX,
    RecycledMaterial,
    RecyclingEdition,
    Stream,
    Unit,
    WasteSubclass,
)
from points.waste.sites.models import Category
from server.data_files import parse_toml, read_text
from server.errors import Conflict
from server.places.models import Confidence

FILE_BYTES_MAX = 200_000

# Each number of the terms with its range, as the table's CHECKs have it.
_TERMS: Mapping[str, tuple[int, int]] = {
    "confirm_days": (1, 5),
    "address_days": (0, 30),
    "cancel_minutes": (0, 2880),
    "grace_minutes": (5, 240),
    "ahead_days": (1, 60),
    "open_max": (1, 20),
    "missed_max": (1, 20),
    "missed_days": (1, 365),
    "scale_max_g": (1, GROSS_G_MAX),
    "scale_step_g": (1, 1000),
}
_HEAD = {"id": 40, "title_zh": 100, "title_en": 100, "source": 300, "confidence": 2}
_SUBCLASS = {"code": 40, "category": 40, "title_zh": 40, "title_en": 60, "source": 200, "confidence": 2}
_MATERIAL = {
    "code": 40,
    "stream": 40,
    "title_zh": 40,
    "title_en": 60,
    "hint_zh": 120,
    "hint_en": 160,
    "unit": 40,
    "mode": 40,
}


class CatalogueError(Exception):
    """A catalogue cannot be loaded; the message names the file and the fault."""


class NoCatalogue(Conflict):
    """The district has loaded no catalogue of recyclables that holds on the day."""

    code, title_zh, title_en = (
        "no-recycling-catalogue",
        "当前没有生效的回收目录",
        "No catalogue of recyclables is in force",
    )


@dataclass(frozen=True, slots=True)
class CatalogueFile:
    """One file, checked; rows as the tables want them but for the edition's id."""

    head: dict[str, Any]
    subclasses: tuple[dict[str, Any], ...]
    materials: tuple[dict[str, Any], ...]
    content_sha256: bytes


@dataclass(frozen=True, slots=True)
class Catalogue:
    """An edition with what belongs to it, in the order of its file."""

    edition: RecyclingEdition
    subclasses: Sequence[WasteSubclass]
    materials: Sequence[RecycledMaterial]


def read_folder(folder: Path) -> list[CatalogueFile]:
    """The files `catalogue-*.toml` of a district's data folder, the oldest first. Raises CatalogueError."""
    found = [read_file(path) for path in sorted(folder.glob("catalogue-*.toml"))]
    if not found:
        raise CatalogueError(f"{folder}: no catalogue-*.toml")
    return sorted(found, key=lambda each: each.head["valid_from"])


def read_file(path: Path) -> CatalogueFile:
    """Read and check one catalogue. Raises CatalogueError."""
    return parse(path.name, read_text(path, bytes_max=FILE_BYTES_MAX, fault=CatalogueError))


def parse(name: str, text: str) -> CatalogueFile:
    """Check the text of a catalogue; `name` is what the faults are told under. Raises CatalogueError."""
    content = parse_toml(name, text, fault=CatalogueError)
    known = {*_HEAD, "valid_from", "orders", "subclasses", "materials"}
    if content.keys() ^ known:
        raise CatalogueError(f"{name}: missing or unknown: {', '.join(sorted(content.keys() ^ known))}")
    head = _texts(name, {key: content[key] for key in _HEAD}, _HEAD)
    if type(content["valid_from"]) is not date:
        raise CatalogueError(f"{name}: valid_from is no day")
    head |= {"valid_from": content["valid_from"], **_terms(name, content["orders"])}
    subclasses = _subclasses(name, content["subclasses"])
    materials = _materials(name, content["materials"], {each["code"] for each in subclasses})
    canonical = json.dumps([head, subclasses, materials], sort_keys=True, default=str, ensure_ascii=False)
    return CatalogueFile(head, subclasses, materials, hashlib.sha256(canonical.encode()).digest())


def load(session: Session, files: Sequence[CatalogueFile], *, now: datetime) -> list[str]:
    """Add the editions that the database does not have; their ids. Raises CatalogueError for one that was changed."""
    added = []
    for file in files:
        stored = session.get(RecyclingEdition, file.head["id"])
        if stored is not None:
            if stored.content_sha256 != file.content_sha256:
                raise CatalogueError(f"{stored.id} is loaded with other content: give the change a new id")
            continue
        session.add(
            RecyclingEdition(
                **file.head,
                subclass_count=len(file.subclasses),
                material_count=len(file.materials),
                content_sha256=file.content_sha256,
                loaded_at=now,
            )
        )
        session.flush()
        session.add_all(WasteSubclass(edition_id=file.head["id"], **row) for row in file.subclasses)
        session.flush()
        session.add_all(RecycledMaterial(edition_id=file.head["id"], **row) for row in file.materials)
        session.flush()
        added.append(str(file.head["id"]))
    return added


def edition_on(session: Session, day: date) -> RecyclingEdition:
    """The edition in force on a business day. Raises NoCatalogue."""
    found = session.scalar(
        sa.select(RecyclingEdition)
        .where(RecyclingEdition.valid_from <= day)
        .order_by(RecyclingEdition.valid_from.desc())
        .limit(1)
    )
    if found is None:
        raise NoCatalogue
    return found


def catalogue_on(session: Session, day: date) -> Catalogue:
    """The whole catalogue in force on a business day. Raises NoCatalogue."""
    edition = edition_on(session, day)
    subclasses = sa.select(WasteSubclass).where(WasteSubclass.edition_id == edition.id).order_by(WasteSubclass.position)
    return Catalogue(edition, session.scalars(subclasses).all(), list(materials_of(session, edition.id).values()))


def materials_of(session: Session, edition_id: str) -> dict[str, RecycledMaterial]:
    """The materials of an edition by code."""
    wanted = (
        sa.select(RecycledMaterial).where(RecycledMaterial.edition_id == edition_id).order_by(RecycledMaterial.position)
    )
    return {row.code: row for row in session.scalars(wanted)}


def _texts(name: str, row: Any, lengths: Mapping[str, int]) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise CatalogueError(f"{name}: a table is expected")
    for key, length in lengths.items():
        value = row.get(key)
        if not isinstance(value, str) or not value.strip() or len(value) > length:
            raise CatalogueError(f"{name}: {key} must be 1 to {length} characters, not {value!r}")
    found: dict[str, Any] = {key: row[key] for key in lengths}
    try:
        if "confidence" in lengths:
            found["confidence"] = Confidence(row["confidence"])
    except ValueError as error:
        raise CatalogueError(f"{name}: {error}") from error
    return found


def _terms(name: str, terms: Any) -> dict[str, int]:
    if not isinstance(terms, dict) or terms.keys() ^ _TERMS.keys():
        raise CatalogueError(f"{name}: [orders] wants exactly {', '.join(_TERMS)}")
    for key, (lowest, highest) in _TERMS.items():
        if type(terms[key]) is not int or not lowest <= terms[key] <= highest:
            raise CatalogueError(f"{name}: {key} must be a whole number from {lowest} to {highest}")
    return dict(terms)


def _subclasses(name: str, rows: Any) -> tuple[dict[str, Any], ...]:
    _limited(name, rows, "subclasses", SUBCLASSES_MAX)
    found = []
    for position, row in enumerate(rows, 1):
        made = _texts(name, row, _SUBCLASS)
        _only(name, row, _SUBCLASS.keys())
        _coded(name, made["code"], "[a-z][a-z0-9-]*")
        found.append({**made, "category": _one_of(name, Category, made["category"]), "position": position})
    _unique(name, found)
    if {row["category"] for row in found} != set(Category):
        raise CatalogueError(f"{name}: each of the four categories wants a sub-class")
    return tuple(found)


def _materials(name: str, rows: Any, subclasses: set[str]) -> tuple[dict[str, Any], ...]:
    _limited(name, rows, "materials", MATERIALS_MAX)
    found = []
    for position, row in enumerate(rows, 1):
        made = _texts(name, row, _MATERIAL)
        _only(name, row, {*_MATERIAL, "sub_class", "factor", "quantity_min", "quantity_max"})
        _coded(name, made["code"], "[a-z][a-z0-9_]*")
        _coded(name, made["mode"], "[a-z][a-z0-9_]*")
        made |= {
            "stream": _one_of(name, Stream, made["stream"]),
            "unit": _one_of(name, Unit, made["unit"]),
            "sub_class": row.get("sub_class"),
            "factor": row.get("factor"),
            "position": position,
            **_quantities(name, row),
        }
        if made["sub_class"] not in subclasses and not (
            made["sub_class"] is None and made["stream"] is not Stream.RECYCLING
        ):
            raise CatalogueError(f"{name}: {made['code']}: no sub-class {made['sub_class']!r}")
        if made["factor"] not in (None, made["mode"]):
            raise CatalogueError(f"{name}: {made['code']}: a saving is priced by the mode, so the factor is its name")
        found.append(made)
    _unique(name, found)
    return tuple(found)


def _quantities(name: str, row: Mapping[str, Any]) -> dict[str, int]:
    most = PIECES_MAX if row["unit"] == Unit.PIECE else GROSS_G_MAX
    lowest, highest = row.get("quantity_min"), row.get("quantity_max")
    if type(lowest) is not int or type(highest) is not int or not 1 <= lowest <= highest <= most:
        raise CatalogueError(f"{name}: {row['code']}: quantities run from 1 to {most}")
    return {"quantity_min": lowest, "quantity_max": highest}


def _limited(name: str, rows: Any, what: str, most: int) -> None:
    if not isinstance(rows, list) or not 1 <= len(rows) <= most:
        raise CatalogueError(f"{name}: {what}: 1 to {most}")


def _only(name: str, row: Mapping[str, Any], known: Any) -> None:
    if row.keys() - set(known):
        raise CatalogueError(f"{name}: {row['code']}: unknown key {sorted(row.keys() - set(known))[0]}")


def _coded(name: str, code: str, pattern: str) -> None:
    if not re.fullmatch(pattern, code):
        raise CatalogueError(f"{name}: {code!r} is no code")


def _one_of(name: str, kind: Any, value: str) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise CatalogueError(f"{name}: {error}") from error


def _unique(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    code, count = Counter(row["code"] for row in rows).most_common(1)[0]
    if count > 1:
        raise CatalogueError(f"{name}: {code} stands there twice")
