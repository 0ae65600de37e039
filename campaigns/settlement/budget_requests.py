"""Budgets of campaigns: staff propose, the district office decides, and nobody decides what they proposed."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import procrastinate
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.drives.campaigns import campaign_for
from campaigns.drives.models import Campaign, CampaignState
from campaigns.settlement import settling
from campaigns.settlement.models import ALONE_POINTS_MAX, BudgetRequest, BudgetRequestState
from points.ledger import budgets
from server import audit
from server.access import Actor, Permission
from server.database import new_id
from server.errors import Conflict, Forbidden, NotFound
from server.paging import Page, decode, page_of

OPEN_REQUESTS_MAX = 20


class BudgetRequestDecided(Conflict):
    """A request is decided once, and a decision stands."""

    code, title_zh, title_en = "budget-request-decided", "该预算申请已有结果", "This request has been decided"


class ProposerDecides(Forbidden):
    """Whoever proposed a budget does not decide on it; another member of the district office does."""

    code, title_zh, title_en = (
        "proposer-decides",
        "预算申请人不能审批自己的申请",
        "Whoever proposed a budget does not decide on it",
    )
    constraints = ("budget_request_four_eyes_check",)


class TooManyBudgetRequests(Conflict):
    """As many requests of the campaign wait for a decision as may."""

    code, title_zh, title_en = (
        "too-many-budget-requests",
        "待审批的预算申请过多",
        "Too many requests of this campaign wait for a decision",
    )


class CampaignNeedsNoBudget(Conflict):
    """A closed or cancelled campaign pays nothing any more."""

    code, title_zh, title_en = "campaign-needs-no-budget", "活动已结束, 不再需要预算", "The campaign pays nothing more"


@dataclass(frozen=True, slots=True)
class CampaignBudget:
    """What a campaign has been allotted, has paid (less what was reversed), and holds."""

    allotted_points: int
    paid_points: int
    held_points: int


def propose(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    *,
    points: int,
    reason: str,
    jobs: procrastinate.App,
    now: datetime,
) -> BudgetRequest:
    """Ask for points for a campaign in the actor's scope.

    By a member of the district office it takes effect at once, once for a campaign, up to ALONE_POINTS_MAX; everything
    else waits for a second person. Raises NotFound, CampaignNeedsNoBudget, TooManyBudgetRequests.
    """
    _require_payable(campaign_for(session, actor, campaign_id))
    waiting = sa.select(sa.func.count()).where(
        BudgetRequest.campaign_id == campaign_id, BudgetRequest.state == BudgetRequestState.PROPOSED
    )
    if (session.scalar(waiting) or 0) >= OPEN_REQUESTS_MAX:
        raise TooManyBudgetRequests
    limit_points = ALONE_POINTS_MAX if actor.may(Permission.CAMPAIGN_BUDGET) else 0
    asked = {
        "id": new_id(),
        "campaign_id": campaign_id,
        "points": points,
        "reason": reason.strip(),
        "limit_points": limit_points,
        "proposed_by": actor.id,
        "proposed_at": now,
    }
    made = _approved_alone(session, asked, now=now) if points <= limit_points else None
    if made is None:
        made = session.scalars(
            sa.insert(BudgetRequest).values(**asked, state=BudgetRequestState.PROPOSED).returning(BudgetRequest)
        ).one()
    else:
        _allot(session, made, jobs=jobs, now=now)
    audit.record(
        session,
        actor,
        "campaign-budget.propose",
        str(campaign_id),
        now=now,
        request=str(made.id),
        points=points,
        at_once=made.state is BudgetRequestState.APPROVED,
    )
    return made


def decide(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    request_id: UUID,
    *,
    approve: bool,
    decision: str,
    jobs: procrastinate.App,
    now: datetime,
) -> BudgetRequest:
    """Approve or refuse what somebody else proposed. Approval allots the points, and what fell short of them goes on.

    Raises NotFound, ProposerDecides, BudgetRequestDecided, CampaignNeedsNoBudget.
    """
    campaign = campaign_for(session, actor, campaign_id)
    request = request_for(session, actor, campaign_id, request_id)
    if request.proposed_by == actor.id:
        raise ProposerDecides
    if approve:
        _require_payable(campaign)
    decided = _close(
        session,
        request_id,
        state=BudgetRequestState.APPROVED if approve else BudgetRequestState.REFUSED,
        decided_by=actor.id,
        decided_at=now,
        decision=decision.strip(),
    )
    if approve:
        _allot(session, decided, jobs=jobs, now=now)
    audit.record(
        session,
        actor,
        "campaign-budget.approve" if approve else "campaign-budget.refuse",
        str(campaign_id),
        now=now,
        request=str(request_id),
        points=decided.points,
    )
    return decided


def withdraw(session: Session, actor: Actor, campaign_id: UUID, request_id: UUID, *, now: datetime) -> BudgetRequest:
    """Take back what the actor proposed. Raises NotFound for another's, BudgetRequestDecided."""
    if request_for(session, actor, campaign_id, request_id).proposed_by != actor.id:
        raise NotFound
    withdrawn = _close(session, request_id, state=BudgetRequestState.WITHDRAWN, decided_at=now)
    audit.record(session, actor, "campaign-budget.withdraw", str(campaign_id), now=now, request=str(request_id))
    return withdrawn


def request_for(session: Session, actor: Actor, campaign_id: UUID, request_id: UUID) -> BudgetRequest:
    """A request of a campaign in the actor's scope. Raises NotFound."""
    campaign_for(session, actor, campaign_id)
    found = session.get(BudgetRequest, request_id, populate_existing=True)
    if found is None or found.campaign_id != campaign_id:
        raise NotFound
    return found


def list_requests(
    session: Session, actor: Actor, campaign_id: UUID, *, limit: int, cursor: str | None
) -> Page[BudgetRequest]:
    """The requests of a campaign, newest first. Raises NotFound, BadCursor."""
    campaign_for(session, actor, campaign_id)
    query = sa.select(BudgetRequest).where(BudgetRequest.campaign_id == campaign_id)
    if cursor is not None:
        query = query.where(BudgetRequest.id < decode(cursor, tuple[UUID])[0])
    rows = session.scalars(query.order_by(BudgetRequest.id.desc()).limit(limit + 1)).all()
    return page_of(rows, limit, lambda row: (row.id,))


def budget_of(session: Session, actor: Actor, campaign_id: UUID) -> CampaignBudget:
    """What the campaign's budget was given, paid and holds. Raises NotFound."""
    campaign = campaign_for(session, actor, campaign_id)
    allotted = session.scalar(
        sa.select(sa.func.coalesce(sa.func.sum(BudgetRequest.points), 0)).where(
            BudgetRequest.campaign_id == campaign_id, BudgetRequest.state == BudgetRequestState.APPROVED
        )
    )
    held = budgets.held_by(session, campaign.account_id) if campaign.account_id is not None else 0
    return CampaignBudget(int(allotted or 0), int(allotted or 0) - held, held)


def _require_payable(campaign: Campaign) -> None:
    if campaign.state in (CampaignState.CLOSED, CampaignState.CANCELLED):
        raise CampaignNeedsNoBudget


def _approved_alone(session: Session, asked: dict[str, object], *, now: datetime) -> BudgetRequest | None:
    """The request, approved by the proposer's own right; None when that was used for this campaign already.

    The index decides and not a look beforehand: two small ones at the same moment are not both approved.
    """
    return session.scalars(
        insert(BudgetRequest)
        .values(**asked, state=BudgetRequestState.APPROVED, decided_at=now)
        .on_conflict_do_nothing(
            index_elements=["campaign_id"], index_where=sa.text("state = 'approved' AND decided_by IS NULL")
        )
        .returning(BudgetRequest)
    ).one_or_none()


def _close(session: Session, request_id: UUID, **values: object) -> BudgetRequest:
    closed = session.scalars(
        sa.update(BudgetRequest)
        .where(BudgetRequest.id == request_id, BudgetRequest.state == BudgetRequestState.PROPOSED)
        .values(**values)
        .returning(BudgetRequest)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if closed is None:
        raise BudgetRequestDecided
    return closed


def _allot(session: Session, request: BudgetRequest, *, jobs: procrastinate.App, now: datetime) -> None:
    # Held until the end of the transaction, so that two first allotments do not open two accounts.
    campaign = session.get_one(
        Campaign, request.campaign_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if campaign.account_id is None:
        account_id = budgets.open_account(session, f"campaign:{campaign.id}", campaign.title)
        session.execute(sa.update(Campaign).where(Campaign.id == campaign.id).values(account_id=account_id))
        campaign.account_id = account_id
    budgets.allot(session, campaign.account_id, request.points, allotment_id=request.id, now=now)
    settling.resume(session, request.campaign_id, jobs=jobs)
