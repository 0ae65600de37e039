"""The files that people hand in: what is known of each; the bytes lie in the store under the file's id."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base

# What is kept was written by us; a picture can be larger than what was sent, for we do not pack it as hard.
STORED_BYTES_MAX = 20 * 1024 * 1024
PIXELS_MAX = 40_000_000
PAGES_MAX = 200
NAME_LENGTH_MAX = 200

# The media types that are kept, and the ending of their names.
ENDINGS = {"application/pdf": "pdf", "image/jpeg": "jpg", "image/png": "png"}


class StoredFile(Base):
    """One file in the store. Never changed; a deleted one loses its name at once and its bytes in the night.

    Whoever handed it in without signing in (an objection) has no `uploaded_by`.
    """

    __tablename__ = "stored_file"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    purpose: Mapped[str] = mapped_column(sa.String(40))
    media_type: Mapped[str] = mapped_column(sa.String(40))
    size_bytes: Mapped[int] = mapped_column(sa.Integer)
    sha256: Mapped[bytes]
    width: Mapped[int | None] = mapped_column(sa.Integer)
    height: Mapped[int | None] = mapped_column(sa.Integer)
    pages: Mapped[int | None] = mapped_column(sa.SmallInteger)
    original_name: Mapped[str] = mapped_column(sa.String(NAME_LENGTH_MAX))
    uploaded_by: Mapped[UUID | None]
    uploaded_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]

    __table_args__ = (
        sa.CheckConstraint("purpose ~ '^[a-z][a-z0-9-]*$'", name="purpose"),
        sa.CheckConstraint("media_type IN ('application/pdf', 'image/jpeg', 'image/png')", name="media_type"),
        sa.CheckConstraint(f"size_bytes BETWEEN 1 AND {STORED_BYTES_MAX}", name="size_bytes"),
        sa.CheckConstraint("octet_length(sha256) = 32", name="sha256_length"),
        # A picture has its pixels and a document its pages, and neither has the other's.
        sa.CheckConstraint(
            "CASE WHEN media_type = 'application/pdf' "
            f"THEN num_nulls(width, height) = 2 AND coalesce(pages BETWEEN 1 AND {PAGES_MAX}, false) "
            "ELSE pages IS NULL AND coalesce(width > 0 AND height > 0 "
            f"AND width::bigint * height <= {PIXELS_MAX}, false) END",
            name="extent",
        ),
        sa.CheckConstraint("(deleted_at IS NOT NULL) = (original_name = '')", name="name_forgotten"),
        sa.CheckConstraint("deleted_at >= uploaded_at", name="deleted_after_uploaded"),
    )
