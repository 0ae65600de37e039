"""The files of a release: its tables as CSV and JSON, and the dictionary that explains them."""

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from points.open_data.disclosure import RESIDENTS_MIN
from points.open_data.models import RELEASED_GRAINS, FileFormat
from points.open_data.tables import FixedTable
from points.statistics.periods import CalendarPeriod
from server.clock import SHANGHAI_FIXED
from server.exports.writing import defused
from server.places.district_data import read_head
from server.places.models import Division

TEXT_LENGTH_MAX = 300

LICENCE_UNSTATED = "发布机构尚未声明许可条款 · The publisher has not stated a licence yet"

WITHHELD_ZH = (
    f"空值表示不公布：该数涉及1至{RESIDENTS_MIN - 1}名居民，或其中一名居民占一半以上，或公布后可推算出这样的数。"
    "零照实公布。各期一经发布不再改动，更正另行发布并注明所替代的一期。"
)
WITHHELD_EN = (
    f"An empty value is withheld: it tells of 1 to {RESIDENTS_MIN - 1} residents, or mostly of one, or such a figure"
    " could be worked out from it. Zeros are told. A release never changes; a correction is a further release that"
    " names the one it replaces."
)


@dataclass(frozen=True, slots=True)
class Source:
    """Who publishes, for which district, and under which terms."""

    district_code: str
    publisher: str
    licence: str


@dataclass(frozen=True, slots=True)
class Heading:
    """What every file of a release says of it."""

    name: str
    replaces: str | None
    reason: str | None
    period: CalendarPeriod
    frozen_on: datetime
    source: Source


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is published."""

    table: str
    format: FileFormat
    content: bytes
    sha256: bytes
    rows: int


@lru_cache(maxsize=8)
def source_of(folder: Path) -> Source:
    """The publisher and licence in a district's `district.toml`, `[open_data]`; without it, that none is stated."""
    head = read_head(folder)
    stated: dict[str, Any] = head.get("open_data", {})
    return Source(
        district_code=str(head["code"]),
        publisher=str(stated.get("publisher", f"{head['name']}碳普惠"))[:TEXT_LENGTH_MAX],
        licence=str(stated.get("licence", LICENCE_UNSTATED))[:TEXT_LENGTH_MAX],
    )


Cells = Mapping[tuple[str, str, str], Mapping[str, int | None]]


def files(heading: Heading, table: FixedTable, cells: Cells, divisions: Mapping[str, Division]) -> Iterator[File]:
    """A table's cells as CSV and as JSON; equal cells make equal bytes."""
    columns = [measure.code for measure in table.columns(heading.period.grain)]
    rows = [
        [place, divisions[place].name, divisions[place].level.value, category, *_names(table, category)]
        + [figures.get(column) for column in columns]
        for (code, category, place), figures in cells.items()
        if code == table.code
    ]
    yield _file(table, FileFormat.CSV, _csv(heading, columns, rows), rows)
    yield _file(table, FileFormat.JSON, _json(heading, table, columns, rows), rows)


def _names(table: FixedTable, category: str) -> tuple[str, str]:
    return table.category_names.get(category, (category, category))


def _file(table: FixedTable, file_format: FileFormat, content: bytes, rows: Sequence[Any]) -> File:
    return File(table.code, file_format, content, hashlib.sha256(content).digest(), len(rows))


_KEYS = ("place_code", "place_name", "level", "category", "category_zh", "category_en")


def _csv(heading: Heading, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """RFC 4180, in UTF-8 with the mark by which Excel knows it; a withheld figure is empty."""
    target = io.StringIO(newline="")
    writer = csv.writer(target)
    writer.writerow(["release", "from", "to", *_KEYS, *columns])
    head = [heading.name, heading.period.starts_on.isoformat(), heading.period.ends_on.isoformat()]
    for row in rows:
        writer.writerow(
            head + ["" if cell is None else defused(cell) if isinstance(cell, str) else cell for cell in row]
        )
    return target.getvalue().encode("utf-8-sig")


def _json(heading: Heading, table: FixedTable, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    names = (*_KEYS, *columns)
    return msgspec.json.encode(
        {
            **_head(heading),
            "table": table.code,
            "title_zh": table.title_zh,
            "title_en": table.title_en,
            "note_zh": table.note_zh,
            "note_en": table.note_en,
            "withheld_zh": WITHHELD_ZH,
            "withheld_en": WITHHELD_EN,
            "rows": [dict(zip(names, row, strict=True)) for row in rows],
        }
    )


def _head(heading: Heading) -> dict[str, Any]:
    return {
        "release": heading.name,
        "replaces": heading.replaces,
        "reason": heading.reason,
        "grain": heading.period.grain.value,
        "from": heading.period.starts_on,
        "to": heading.period.ends_on,
        "frozen_at": heading.frozen_on.astimezone(SHANGHAI_FIXED).isoformat(timespec="seconds"),
        "publisher": heading.source.publisher,
        "licence": heading.source.licence,
    }


def dictionary(tables: Sequence[FixedTable], source: Source) -> dict[str, Any]:
    """What every table, column and empty value means, in Chinese and English."""
    keys = {
        "release": ("发布期与版本", "period and revision"),
        "from": ("起始日期（北京时间，含）", "first day, Asia/Shanghai"),
        "to": ("结束日期（含）", "last day, included"),
        "place_code": (
            "统计用区划代码，6位区、9位街道、12位社区",
            "official code: district 6, street 9, community 12 digits",
        ),
        "place_name": ("名称", "name"),
        "level": ("级别", "district, street or community"),
        "category": ("分类代码，含义见各表", "category, see each table"),
        "category_zh": ("分类名称", "the category's name in Chinese"),
        "category_en": ("分类英文名称", "the category's name in English"),
    }
    return {
        "publisher": source.publisher,
        "licence": source.licence,
        "encoding": "CSV: UTF-8 with BOM, RFC 4180; JSON: UTF-8",
        "withheld_zh": WITHHELD_ZH,
        "withheld_en": WITHHELD_EN,
        "columns": [{"code": code, "title_zh": zh, "title_en": en} for code, (zh, en) in keys.items()],
        "tables": [_described(table) for table in tables],
    }


def _described(table: FixedTable) -> dict[str, Any]:
    return {
        "code": table.code,
        "title_zh": table.title_zh,
        "title_en": table.title_en,
        "note_zh": table.note_zh,
        "note_en": table.note_en,
        "category_zh": table.category_zh,
        "category_en": table.category_en,
        "categories": [{"code": code, "zh": zh, "en": en} for code, (zh, en) in table.category_names.items()],
        "measures": [
            {
                "code": measure.code,
                "title_zh": measure.title_zh,
                "title_en": measure.title_en,
                "unit": measure.unit,
                "note_zh": measure.note_zh,
                "note_en": measure.note_en,
                "grains": [grain for grain in RELEASED_GRAINS if table.tells(measure.figure, grain)],
            }
            for measure in table.measures
        ],
    }
