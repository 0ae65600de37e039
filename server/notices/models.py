"""Messages to a person inside the service: what happened to something of theirs, or waits for them."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base


class Notice(Base):
    """One message to one resident or member of staff. It names its subject and never holds more than its title."""

    __tablename__ = "notice"

    person_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(40))
    subject: Mapped[str] = mapped_column(sa.String(120))  # "application:<id>": what a client opens
    title_zh: Mapped[str] = mapped_column(sa.String(120))
    title_en: Mapped[str] = mapped_column(sa.String(160))
    created_at: Mapped[datetime]
    read_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("kind ~ '^[a-z][a-z0-9-]*$'", name="kind"),
        sa.CheckConstraint("title_zh <> '' AND title_en <> ''", name="title"),
        sa.CheckConstraint("read_at >= created_at", name="read_after_created"),
        sa.Index("notice_created_at_ix", "created_at"),
    )
