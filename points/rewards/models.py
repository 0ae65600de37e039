"""What points buy: the catalogue, its stock, and who took what."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base


class Reward(Base):
    """Something that can be had for points. Stock can be overdrawn, so it is a guarded counter."""

    __tablename__ = "reward"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(40), unique=True)
    name_zh: Mapped[str] = mapped_column(sa.String(60))
    name_en: Mapped[str] = mapped_column(sa.String(60))
    cost_points: Mapped[int] = mapped_column(sa.Integer)
    stock: Mapped[int] = mapped_column(sa.Integer)
    enabled: Mapped[bool] = mapped_column(server_default=sa.text("true"))

    __table_args__ = (
        sa.CheckConstraint("cost_points BETWEEN 1 AND 1000000", name="cost_points"),
        sa.CheckConstraint("stock >= 0", name="stock"),
    )


class Redemption(Base):
    """One reward taken by one resident; its transfer has the same id."""

    __tablename__ = "redemption"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    reward_id: Mapped[UUID]
    cost_points: Mapped[int] = mapped_column(sa.Integer)
    redeemed_at: Mapped[datetime]
