"""Divisions: loading an edition of the official codes, and looking divisions up."""

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.database import lock_name
from server.errors import DomainError, NotFound
from server.paging import Page, decode, page_of
from server.places.district_data import DistrictData, DistrictDataError
from server.places.models import Division, DivisionLevel, ThemeDay


class _Key(msgspec.Struct, array_like=True):
    """What a cursor of a list of divisions holds: anybody may write one, so it is held to the shape of a code."""

    code: Annotated[str, msgspec.Meta(pattern="^[0-9]{6,12}$")]


class CommunityUnknown(DomainError):
    """No community has this code, or it was not valid on the day in question."""

    code, status, title_zh, title_en = "community-unknown", 422, "社区代码无效", "There is no community with this code"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading an edition did, in numbers of divisions and of theme days."""

    divisions_added: int
    divisions_renamed: int
    divisions_closed: int
    divisions_unchanged: int
    theme_days_written: int


def load(session: Session, data: DistrictData) -> Loaded:
    """Bring the stored divisions and theme days of a district to an edition; a second time changes nothing.

    A division that the edition no longer lists ends the day before it and stays. One that comes back is opened
    again. Raises DistrictDataError for an edition older than the stored one, which would reopen what has ended.
    """
    # Two operators at once would both find a division missing and add it.
    lock_name(session, f"places:{data.code}")
    stored = {
        row.code: row
        for row in session.scalars(
            sa.select(Division).where(Division.code.startswith(data.code)).execution_options(populate_existing=True)
        )
    }
    if data.code in stored and stored[data.code].edition_on > data.edition_on:
        raise DistrictDataError(f"edition {data.edition_on} is older than the stored {stored[data.code].edition_on}")
    added = renamed = unchanged = 0
    for entry in data.divisions:
        row = stored.pop(entry.code, None)
        if row is None:
            session.add(
                Division(
                    code=entry.code,
                    level=entry.level,
                    name=entry.name,
                    parent_code=entry.parent_code,
                    edition_on=data.edition_on,
                    valid_from=data.edition_on,
                )
            )
            added += 1
            continue
        if (row.name, row.valid_to) == (entry.name, None):
            unchanged += 1
        else:
            renamed += 1
        row.name, row.valid_to, row.edition_on = entry.name, None, data.edition_on
    gone = [row for row in stored.values() if row.valid_to is None]
    for row in gone:
        row.valid_to = data.edition_on - timedelta(days=1)
    written = _load_theme_days(session, data)
    session.flush()
    return Loaded(added, renamed, len(gone), unchanged, written)


def _load_theme_days(session: Session, data: DistrictData) -> int:
    """Insert or correct the edition's theme days; those of other years stay. The number written."""
    columns = ("starts_on", "ends_on", "name_zh", "name_en", "theme", "source", "confidence")
    written = 0
    for entry in data.theme_days:
        row = session.get(ThemeDay, (entry.code, entry.year), populate_existing=True)
        if row is None:
            row = ThemeDay(code=entry.code, year=entry.year)
            session.add(row)
        elif all(getattr(row, column) == getattr(entry, column) for column in columns):
            continue
        for column in columns:
            setattr(row, column, getattr(entry, column))
        written += 1
    return written


def valid(on: date) -> sa.ColumnElement[bool]:
    """The condition that a division is valid on a day."""
    return sa.and_(Division.valid_from <= on, sa.or_(Division.valid_to.is_(None), Division.valid_to >= on))


def community_for(session: Session, code: str, on: date) -> Division:
    """The community with a code, as it was valid on a day. Raises CommunityUnknown."""
    if re.fullmatch("[0-9]{12}", code):
        found = session.scalar(sa.select(Division).where(Division.code == code, valid(on)))
        if found is not None:
            return found
    raise CommunityUnknown


def division_for(session: Session, code: str) -> Division:
    """The division with an official code, past ones too. Raises NotFound."""
    found = session.get(Division, code) if re.fullmatch("[0-9]{6,12}", code) else None
    if found is None:
        raise NotFound
    return found


def list_divisions(
    session: Session,
    *,
    on: date,
    level: DivisionLevel | None = None,
    parent: str | None = None,
    name: str | None = None,
    limit: int,
    cursor: str | None,
) -> Page[Division]:
    """Divisions valid on a day in the order of their codes: of one level, below one parent, with `name` in their names.

    Raises BadCursor.
    """
    wanted = sa.select(Division).where(valid(on)).order_by(Division.code).limit(limit + 1)
    if level is not None:
        wanted = wanted.where(Division.level == level)
    if parent is not None:
        wanted = wanted.where(Division.parent_code == parent)
    if name is not None:
        wanted = wanted.where(Division.name.contains(name, autoescape=True))
    if cursor is not None:
        wanted = wanted.where(Division.code > decode(cursor, _Key).code)
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.code,))
