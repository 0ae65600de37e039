"""Partners that push events, whom they may push them for, and what came of the batches."""

from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base

LINE_BYTES_MAX = 4096


class Partner(Base):
    """One pusher of events. Two keys can be live at once, so that a key is changed without a gap."""

    __tablename__ = "partner"

    code: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    name_zh: Mapped[str] = mapped_column(sa.String(60))
    kinds: Mapped[list[str]]
    key_a_sealed: Mapped[bytes | None]
    key_b_sealed: Mapped[bytes | None]
    day_budget_points: Mapped[int]
    enabled: Mapped[bool] = mapped_column(server_default=sa.text("true"))
    created_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("code ~ '^[a-z0-9][a-z0-9-]{1,39}$'", name="code"),
        sa.CheckConstraint("kinds <@ ARRAY['ride', 'bin-drop', 'recycling'] AND cardinality(kinds) > 0", name="kinds"),
        sa.CheckConstraint(
            "octet_length(key_a_sealed) <= 200 AND octet_length(key_b_sealed) <= 200", name="key_length"
        ),
        sa.CheckConstraint("day_budget_points >= 0", name="day_budget_points"),
    )


class PartnerDay(Base):
    """How much of its points budget a partner has taken on one day of receipt: what bounds a leaked key."""

    __tablename__ = "partner_day"

    partner_code: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("partner.code"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    budget_points: Mapped[int]
    taken_points: Mapped[int]

    __table_args__ = (sa.CheckConstraint("taken_points BETWEEN 0 AND budget_points", name="taken_points"),)


class Binding(Base):
    """A resident's own consent that this partner sends their events (PIPL 23), and who they are to the partner."""

    __tablename__ = "binding"

    partner_code: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("partner.code"), primary_key=True)
    member_id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    resident_id: Mapped[UUID]
    bound_at: Mapped[datetime]

    __table_args__ = (
        sa.UniqueConstraint("resident_id", "partner_code", name="binding_resident_key"),
        sa.CheckConstraint("member_id ~ '^[!-~]{1,64}$'", name="member_id"),
    )


class DeviceSequence(Base):
    """One act of one device of a partner, by the device's own count: whatever else is sent of it, it is paid once.

    No foreign key: thousands come in a batch, and the batch has loaded its partner already.
    """

    __tablename__ = "device_sequence"

    partner_code: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    device: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    taken_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("sequence >= 0", name="sequence"),
        sa.Index("device_sequence_taken_at_brin", "taken_at", postgresql_using="brin"),
    )


class DeviceFloor(Base):
    """Up to which sequence number a device's acts are closed: what came before need not be kept one by one."""

    __tablename__ = "device_floor"

    partner_code: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    device: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    sequence: Mapped[int]

    __table_args__ = (sa.CheckConstraint("sequence >= 0", name="sequence"),)


class FeedBatch(Base):
    """A batch taken in, with its answer: sent again, it gets the same answer and does nothing."""

    __tablename__ = "feed_batch"

    partner_code: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("partner.code"), primary_key=True)
    batch_id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    body_sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))
    answer: Mapped[bytes]
    received_at: Mapped[datetime] = mapped_column(index=True)

    __table_args__ = (sa.CheckConstraint("octet_length(answer) <= 1048576", name="answer_length"),)


class DeadLetter(Base):
    """A line that could not be taken in, its reason, and whether it was driven again since."""

    __tablename__ = "dead_letter"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    partner_code: Mapped[str] = mapped_column(sa.String(40), sa.ForeignKey("partner.code"))
    batch_id: Mapped[str] = mapped_column(sa.String(64))
    line_number: Mapped[int] = mapped_column(sa.Integer)
    line: Mapped[bytes]
    reason: Mapped[str] = mapped_column(sa.String(40))
    received_at: Mapped[datetime]
    redriven_at: Mapped[datetime | None]
    redriven_outcome: Mapped[str | None] = mapped_column(sa.String(40))

    __table_args__ = (
        sa.CheckConstraint(f"octet_length(line) <= {LINE_BYTES_MAX}", name="line_length"),
        sa.Index("dead_letter_waiting_ix", "partner_code", "id", postgresql_where="redriven_at IS NULL"),
    )
