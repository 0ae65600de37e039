"""The public calendar: theme days, weeks and months of a year."""

from datetime import date
from typing import Annotated

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.paging import Page, decode, page_of
from server.places.models import ThemeDay


class _Key(msgspec.Struct, array_like=True):
    """What a cursor of this list holds: anybody may write one, so it is held to the shape of a code."""

    starts_on: date
    code: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9-]{0,39}$")]


def list_theme_days(session: Session, *, year: int, limit: int, cursor: str | None) -> Page[ThemeDay]:
    """The theme days of a year by the day they start; a day not yet announced is not among them. Raises BadCursor."""
    wanted = (
        sa.select(ThemeDay).where(ThemeDay.year == year).order_by(ThemeDay.starts_on, ThemeDay.code).limit(limit + 1)
    )
    if cursor is not None:
        key = decode(cursor, _Key)
        wanted = wanted.where(sa.tuple_(ThemeDay.starts_on, ThemeDay.code) > sa.tuple_(key.starts_on, key.code))
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.starts_on, row.code))
