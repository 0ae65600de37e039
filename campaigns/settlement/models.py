"""Money and proof of campaigns: requests for a budget, what was paid to whom, the settlement, and certificates."""

import enum
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from server.database import Base, choice

# What a member of the district office may put into a campaign alone, once; everything else needs a second person. The
# table holds it too, so raising it is a migration that somebody else reads.
ALONE_POINTS_MAX = 20_000
REQUEST_POINTS_MAX = 10_000_000

CERTIFICATE_CODE_LENGTH = 10


class BudgetRequestState(enum.StrEnum):
    """What became of a request."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


class BudgetRequest(Base):
    """Points asked for a campaign. Who proposes never decides; the terms of a request stand, and so does a decision.

    Approved without a decider means: at once, by the proposer's own right, which reaches to `limit_points`.
    """

    __tablename__ = "budget_request"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    campaign_id: Mapped[UUID] = mapped_column(sa.ForeignKey("campaign.id"))
    points: Mapped[int]
    reason: Mapped[str] = mapped_column(sa.String(200))
    state: Mapped[BudgetRequestState] = mapped_column(choice(BudgetRequestState, "state"))
    limit_points: Mapped[int] = mapped_column(sa.Integer)
    proposed_by: Mapped[UUID] = mapped_column(sa.ForeignKey("staff.id"))
    proposed_at: Mapped[datetime]
    decided_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    decided_at: Mapped[datetime | None]
    decision: Mapped[str | None] = mapped_column(sa.String(200))

    __table_args__ = (
        sa.CheckConstraint(f"points BETWEEN 1 AND {REQUEST_POINTS_MAX}", name="points"),
        sa.CheckConstraint(f"limit_points BETWEEN 0 AND {ALONE_POINTS_MAX}", name="limit_points"),
        sa.CheckConstraint("decided_by <> proposed_by", name="four_eyes"),
        sa.CheckConstraint(
            "state <> 'approved' OR decided_by IS NOT NULL OR points <= limit_points", name="second_person"
        ),
        sa.CheckConstraint("(state = 'proposed') = (decided_at IS NULL)", name="decided"),
        sa.CheckConstraint(
            "CASE state WHEN 'refused' THEN decided_by IS NOT NULL WHEN 'approved' THEN true "
            "ELSE decided_by IS NULL END",
            name="decider",
        ),
        sa.Index("budget_request_campaign_ix", "campaign_id", "id"),
        # Many small requests must not add up to a large one that nobody else saw.
        sa.Index(
            "budget_request_alone_key",
            "campaign_id",
            unique=True,
            postgresql_where="state = 'approved' AND decided_by IS NULL",
        ),
    )


class PaymentWay(enum.StrEnum):
    """How a reward came to be paid."""

    CLAIM = "claim"
    SETTLEMENT = "settlement"


class CampaignPayment(Base):
    """One task of one campaign, paid to one resident: the key is why it is paid once. Append-only."""

    __tablename__ = "campaign_payment"

    resident_id: Mapped[UUID] = mapped_column(primary_key=True)
    campaign_id: Mapped[UUID] = mapped_column(primary_key=True)
    task_id: Mapped[UUID] = mapped_column(primary_key=True)
    transfer_id: Mapped[UUID]
    points: Mapped[int] = mapped_column(sa.Integer)
    way: Mapped[PaymentWay] = mapped_column(choice(PaymentWay, "way"))
    paid_at: Mapped[datetime]

    __table_args__ = (
        sa.CheckConstraint("points > 0", name="points"),
        sa.UniqueConstraint("resident_id", "transfer_id"),
        sa.Index("campaign_payment_campaign_ix", "campaign_id", "resident_id", "task_id"),
    )


class SettlementState(enum.StrEnum):
    """How far a settlement is."""

    QUEUED = "queued"
    RUNNING = "running"
    SHORT = "short"  # the budget does not hold what is still to pay
    DONE = "done"


class Settlement(Base):
    """The paying of a campaign. `after_resident_id` is how far it is: all residents up to it have been paid."""

    __tablename__ = "settlement"

    campaign_id: Mapped[UUID] = mapped_column(sa.ForeignKey("campaign.id"), primary_key=True)
    state: Mapped[SettlementState] = mapped_column(choice(SettlementState, "state"))
    requested_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))  # None: the clock
    requested_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    after_resident_id: Mapped[UUID | None]
    residents: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    payments: Mapped[int] = mapped_column(sa.Integer, server_default="0")
    points: Mapped[int] = mapped_column(server_default="0")
    short_points: Mapped[int | None]

    __table_args__ = (
        sa.CheckConstraint("least(residents, payments, points) >= 0", name="not_negative"),
        sa.CheckConstraint("(state = 'short') = (short_points IS NOT NULL) AND short_points > 0", name="short"),
        sa.CheckConstraint("(state = 'done') = (finished_at IS NOT NULL)", name="finished"),
    )


class Certificate(Base):
    """That a resident or a team completed a campaign, verifiable by a code. The holder's name is not kept here."""

    __tablename__ = "certificate"

    code: Mapped[str] = mapped_column(sa.String(CERTIFICATE_CODE_LENGTH), primary_key=True)
    campaign_id: Mapped[UUID] = mapped_column(sa.ForeignKey("campaign.id"))
    resident_id: Mapped[UUID | None] = mapped_column(index=True)
    team_id: Mapped[UUID | None]
    issued_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    revoked_by: Mapped[UUID | None] = mapped_column(sa.ForeignKey("staff.id"))
    revoked_because: Mapped[str | None] = mapped_column(sa.String(200))

    __table_args__ = (
        sa.CheckConstraint(f"code ~ '^[0-9A-HJKMNP-TV-Z]{{{CERTIFICATE_CODE_LENGTH}}}$'", name="code"),
        sa.CheckConstraint("(resident_id IS NULL) <> (team_id IS NULL)", name="holder"),
        sa.CheckConstraint(
            "(revoked_at IS NULL) = (revoked_by IS NULL) AND (revoked_at IS NULL) = (revoked_because IS NULL)",
            name="revoked",
        ),
        sa.Index(
            "certificate_resident_key",
            "campaign_id",
            "resident_id",
            unique=True,
            postgresql_where="resident_id IS NOT NULL",
        ),
        sa.Index("certificate_team_key", "campaign_id", "team_id", unique=True, postgresql_where="team_id IS NOT NULL"),
    )
