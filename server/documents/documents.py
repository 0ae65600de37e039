"""Documents to print: PDF or SVG from the templates beside this file, with the one font that comes with them.

The typesetter (typst) sees the templates' folder, the font and the data, and nothing else: no font, package or file of
the machine, and no network. What people wrote goes in as data, so that nothing in it is markup. Equal data make equal
bytes. A character that the font lacks shows as a box, and the rest of the document stands.
"""

import io
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal

import segno
import typst

from server.errors import DomainError, Unavailable

HERE = Path(__file__).parent
TEMPLATES = HERE / "templates"
FONTS = HERE / "fonts"

Format = Literal["pdf", "svg"]
MEDIA_TYPES: Mapping[Format, str] = {"pdf": "application/pdf", "svg": "image/svg+xml"}

CODES_MAX = 500
LINES_MAX = 6
QR_LENGTH_MAX = 300
DATA_BYTES_MAX = 4 * 1024 * 1024

# The typesetter has no deadline of its own: what goes in is bounded, and few set at once, each a share of a second.
_SETTING = threading.BoundedSemaphore(2)
SETTING_WAIT_S = 20.0

# A document says nothing of when it was made; the day it is about stands in its text.
CREATED_AT = 1_577_836_800  # 2020-01-01T00:00:00Z


class DocumentRefused(DomainError):
    """A text is longer, or there are more codes, than the document has room for."""

    code, status, title_zh, title_en = (
        "document-refused",
        422,
        "文书内容过长",
        "A text is too long for the document",
    )


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says. `code` is the short code, `verify_url` the address where it is checked."""

    title_zh: str
    title_en: str
    holder: str
    lines: Sequence[str]
    issuer: str
    issued_on: date
    code: str
    verify_url: str


@dataclass(frozen=True, slots=True)
class CodeCell:
    """One code of a sheet: what the QR holds, and the text under it."""

    content: str
    label: str


def certificate(content: Certificate, *, format: Format) -> bytes:  # noqa: A002 -- the word of the field
    """A certificate, A4 landscape. Raises DocumentRefused, Unavailable."""
    # So much fits on the page, whatever the letters.
    _require_length(content.title_zh, 30)
    _require_length(content.title_en, 60)
    _require_length(content.holder, 40)
    _require_length(content.issuer, 40)
    _require_length(content.code, 20)
    _require_length(content.verify_url, 120)
    for line in content.lines:
        _require_length(line, 80)
    if len(content.lines) > LINES_MAX:
        raise DocumentRefused
    data = {
        **asdict(content),
        "lines": list(content.lines),
        "issued_on": f"{content.issued_on.year}年{content.issued_on.month}月{content.issued_on.day}日",
        "qr": qr_svg(content.verify_url).decode(),
    }
    return render("certificate.typ", data, format=format)


def code_sheet(
    title: str,
    codes: Sequence[CodeCell],
    *,
    note: str = "",
    format: Format,  # noqa: A002 -- the word of the field
) -> bytes:
    """A sheet of 1 to CODES_MAX codes to print and cut: A4 pages, or one long picture. Raises DocumentRefused."""
    _require_length(title, 80)
    _require_length(note, 300)
    for code in codes:
        _require_length(code.label, 60)
    if not 1 <= len(codes) <= CODES_MAX:
        raise DocumentRefused
    data = {
        "title": title,
        "note": note,
        "paged": format == "pdf",
        "codes": [{"label": code.label, "qr": qr_svg(code.content).decode()} for code in codes],
    }
    return render("code_sheet.typ", data, format=format)


def qr_svg(content: str, *, scale: int = 8) -> bytes:
    """A QR code (ISO/IEC 18004, error correction M, four modules of quiet zone) as SVG. Raises DocumentRefused."""
    _require_length(content, QR_LENGTH_MAX)
    picture = io.BytesIO()
    segno.make(content, error="m", micro=False).save(picture, kind="svg", scale=scale, border=4, light="white")
    return picture.getvalue()


def render(template: str, data: Mapping[str, Any], *, format: Format) -> bytes:  # noqa: A002 -- the word of the field
    """A template of ours with data that JSON can hold, as one PDF or one SVG.

    Raises DocumentRefused for more than DATA_BYTES_MAX of data or an SVG of more than one page, Unavailable when too
    many documents are being set.
    """
    told = json.dumps(data, ensure_ascii=False)
    if len(told.encode()) > DATA_BYTES_MAX:
        raise DocumentRefused
    with _setting():
        made = typst.compile(
            str(TEMPLATES / template),
            root=str(TEMPLATES),
            font_paths=_fonts(),
            ignore_system_fonts=True,
            format=format,
            sys_inputs={"data": told},
            # A package would be fetched from the network; there is none at this place.
            package_path=str(TEMPLATES / "packages"),
            package_cache_path=str(TEMPLATES / "packages"),
            timestamp=CREATED_AT,
        )
    if not isinstance(made, bytes):
        raise DocumentRefused("More than one page")
    return made


@cache
def _fonts() -> typst.Fonts:
    """Our own font and no other, so that a document looks the same on every machine."""
    return typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=[str(FONTS)])


def _require_length(text: str, length_max: int) -> None:
    if len(text) > length_max:
        raise DocumentRefused


@contextmanager
def _setting() -> Iterator[None]:
    """A place among the few that set at once. Raises Unavailable."""
    if not _SETTING.acquire(timeout=SETTING_WAIT_S):
        unavailable = Unavailable("Too many documents are being made at this moment")
        unavailable.headers["Retry-After"] = "5"
        raise unavailable
    try:
        yield
    finally:
        _SETTING.release()
