"""The audit trail: what staff did, to what, when and why. Append-only by trigger and by role."""

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from server.access import Actor
from server.database import Base, new_id


class AuditEntry(Base):
    """One act of a member of staff."""

    __tablename__ = "audit_entry"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    staff_id: Mapped[UUID | None]  # None: by an operator on the machine itself
    act: Mapped[str] = mapped_column(sa.String(60))
    subject: Mapped[str] = mapped_column(sa.String(120), index=True)
    detail: Mapped[dict[str, Any]]
    recorded_at: Mapped[datetime]

    __table_args__ = (sa.CheckConstraint("octet_length(detail::text) <= 8192", name="detail_length"),)


def record(session: Session, actor: Actor | None, act: str, subject: str, *, now: datetime, **detail: Any) -> None:
    """Write what `actor` does into the transaction that does it."""
    session.add(
        AuditEntry(
            id=new_id(), staff_id=actor.id if actor else None, act=act, subject=subject, detail=detail, recorded_at=now
        )
    )
