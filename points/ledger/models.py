"""The ledger's tables.

A transfer moves whole points between one resident and one system account, so it is balanced by construction. The
journal (`transfer`, `lot_draw`, `budget_allotment`) is append-only: a trigger and the application's database role both
refuse UPDATE and DELETE. A mistake is mended by another transfer.

No foreign key leaves these tables for a shared row: the key-share lock on one issuer row, or one district, would make
every award in the city wait for every other. `flask ledger verify` checks what the keys would have.
"""

import enum
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice


class TransferKind(enum.StrEnum):
    """Why points moved."""

    AWARD = "award"
    GRANT = "grant"
    SPEND = "spend"
    EXPIRY = "expiry"
    REVERSAL = "reversal"


class SystemAccount(Base):
    """The other side of transfers. Stores no running balance, except a budget, which is guarded against overdraft."""

    __tablename__ = "system_account"

    id: Mapped[int] = mapped_column(sa.Integer, primary_key=True, autoincrement=False)
    code: Mapped[str] = mapped_column(sa.String(60), unique=True)
    name_zh: Mapped[str] = mapped_column(sa.String(60))
    budget_points: Mapped[int | None]

    __table_args__ = (sa.CheckConstraint("budget_points >= 0", name="budget_points"),)


ISSUANCE, REDEMPTION, EXPIRY = 1, 2, 3


class BudgetAllotment(Base):
    """Points put into a budget. Append-only, so that what a budget holds can be proved from where it came from."""

    __tablename__ = "budget_allotment"

    id: Mapped[UUID] = mapped_column(primary_key=True)  # of the decision behind it, which so allots once
    account_id: Mapped[int] = mapped_column(sa.Integer, sa.ForeignKey("system_account.id"), index=True)
    points: Mapped[int]
    allotted_at: Mapped[datetime]

    __table_args__ = (sa.CheckConstraint("points > 0", name="points"),)


class Transfer(Base):
    """One movement. `points` is the resident's side, the account's is its negative.

    The transfer of an award has the id of its activity: they join on the primary key, and an activity can never be paid
    twice.
    """

    __tablename__ = "transfer"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(sa.Integer)
    kind: Mapped[TransferKind] = mapped_column(choice(TransferKind, "kind"))
    points: Mapped[int]
    expires_on: Mapped[date | None]  # the lot that an award or grant went into
    reverses_id: Mapped[UUID | None]
    reason: Mapped[str | None] = mapped_column(sa.String(200))
    occurred_at: Mapped[datetime]
    recorded_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint(
            "CASE kind WHEN 'award' THEN points > 0 WHEN 'grant' THEN points > 0 "
            "WHEN 'spend' THEN points < 0 WHEN 'expiry' THEN points < 0 ELSE points <> 0 END",
            name="sign",
        ),
        sa.CheckConstraint("(kind = 'reversal') = (reverses_id IS NOT NULL)", name="reversal"),
        sa.CheckConstraint("(kind IN ('award', 'grant')) = (expires_on IS NOT NULL)", name="lot"),
        # Once: a second reversal of the same transfer has nowhere to go.
        sa.Index(
            "transfer_reverses_key",
            "resident_id",
            "reverses_id",
            unique=True,
            postgresql_where="reverses_id IS NOT NULL",
        ),
        # For the counts of a day's or a month's awards, which occurred with their activities.
        sa.Index(
            "transfer_occurred_at_brin", "occurred_at", postgresql_using="brin", postgresql_with={"pages_per_range": 32}
        ),
        sa.ForeignKeyConstraint(
            ["resident_id", "reverses_id"], ["transfer.resident_id", "transfer.id"], name="transfer_reverses_fkey"
        ),
    )


class Lot(Base):
    """What is left of a resident's points that end on one day. A balance is a handful of these."""

    __tablename__ = "lot"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    expires_on: Mapped[date] = mapped_column(primary_key=True)
    remaining_points: Mapped[int]

    __table_args__ = (sa.CheckConstraint("remaining_points >= 0", name="remaining_points"),)


class LotDraw(Base):
    """From which lot a spend, expiry or reversal took how much: what a reversal of it gives back, and to which lot."""

    __tablename__ = "lot_draw"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    transfer_id: Mapped[UUID] = mapped_column(primary_key=True)
    expires_on: Mapped[date] = mapped_column(primary_key=True)
    points: Mapped[int]

    __table_args__ = (
        sa.CheckConstraint("points > 0", name="points"),
        sa.ForeignKeyConstraint(
            ["resident_id", "transfer_id"], ["transfer.resident_id", "transfer.id"], name="lot_draw_transfer_fkey"
        ),
    )


class Debt(Base):
    """What a resident owes after a reversal of points already spent; later earnings pay it first.

    `last_payment_points` is how the award's one statement learns what an UPDATE took, which RETURNING cannot tell.
    """

    __tablename__ = "debt"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    points: Mapped[int]
    last_payment_points: Mapped[int] = mapped_column(server_default="0")

    __table_args__ = (sa.CheckConstraint("points >= 0", name="points"),)
