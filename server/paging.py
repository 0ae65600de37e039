"""Keyset pages: a cursor is the last row's key, so a page costs the same however deep it lies."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import marshmallow as ma
import msgspec

from server.errors import DomainError

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 200
CURSOR_LENGTH_MAX = 300

Row = TypeVar("Row")


class BadCursor(DomainError):
    """The cursor was not made by this address."""

    code, status, title_zh, title_en = "bad-cursor", 422, "分页游标无效", "The page cursor is not valid"


class PageQuery(ma.Schema):
    """`?limit=&cursor=` of every list."""

    limit = ma.fields.Integer(load_default=PAGE_SIZE_DEFAULT, validate=ma.validate.Range(1, PAGE_SIZE_MAX))
    cursor = ma.fields.String(load_default=None, allow_none=True, validate=ma.validate.Length(1, CURSOR_LENGTH_MAX))


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """One page of rows and the cursor of the next, None at the end."""

    items: Sequence[Row]
    next_cursor: str | None


def encode(key: Sequence[Any]) -> str:
    """A key of JSON-able values (UUIDs, dates, numbers, text) as an opaque cursor."""
    return base64.urlsafe_b64encode(msgspec.json.encode(list(key))).decode().rstrip("=")


def decode(cursor: str, shape: type[Row]) -> Row:
    """The key in a cursor, checked against `shape`, such as `tuple[UUID]`. Raises BadCursor."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=shape)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise BadCursor from error


def page_of(rows: Sequence[Row], limit: int, key: Callable[[Row], Sequence[Any]]) -> Page[Row]:
    """Cut rows fetched with `limit + 1` to a page; the extra row tells whether there is a next one."""
    more = len(rows) > limit
    items = rows[:limit]
    return Page(items=items, next_cursor=encode(key(items[-1])) if more else None)
