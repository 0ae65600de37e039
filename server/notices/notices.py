"""Telling people something inside the service, and what they were told."""

from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server.access import Actor
from server.database import delete_some, new_id
from server.errors import NotFound
from server.notices.models import Notice
from server.paging import Page, decode, page_of

TOLD_AT_ONCE_MAX = 1000
KEPT_FOR = timedelta(days=365)


def tell(
    session: Session,
    person_ids: Collection[UUID],
    *,
    kind: str,
    subject: str,
    title_zh: str,
    title_en: str,
    now: datetime,
) -> None:
    """Leave each person, resident or staff, one message; nobody at all is nothing to do.

    Titles name no third person: they are read on a phone's locked screen as well. At most TOLD_AT_ONCE_MAX people.
    """
    people = sorted(set(person_ids))
    if len(people) > TOLD_AT_ONCE_MAX:
        raise ValueError(f"{len(people)} people to tell at once")
    if not people:
        return
    message = {"kind": kind, "subject": subject, "title_zh": title_zh, "title_en": title_en, "created_at": now}
    session.execute(insert(Notice), [{"person_id": person, "id": new_id(), **message} for person in people])


def list_notices(session: Session, actor: Actor, *, unread: bool, limit: int, cursor: str | None) -> Page[Notice]:
    """The actor's own messages, newest first; with `unread` only those. Raises BadCursor."""
    wanted = sa.select(Notice).where(Notice.person_id == actor.id).order_by(Notice.id.desc()).limit(limit + 1)
    if unread:
        wanted = wanted.where(Notice.read_at.is_(None))
    if cursor is not None:
        wanted = wanted.where(Notice.id < decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))


def mark_read(session: Session, actor: Actor, notice_id: UUID, *, now: datetime) -> Notice:
    """Mark one of the actor's own messages read; the first reading counts. Raises NotFound."""
    found = session.scalars(
        sa.update(Notice)
        .where(Notice.person_id == actor.id, Notice.id == notice_id)
        .values(read_at=sa.func.coalesce(Notice.read_at, sa.func.greatest(now, Notice.created_at)))
        .returning(Notice)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotFound
    return found


def forget_old(session: Session, *, now: datetime) -> int:
    """Delete messages older than KEPT_FOR, a bounded number at a time; the number deleted."""
    return delete_some(session, Notice, Notice.created_at < now - KEPT_FOR)
