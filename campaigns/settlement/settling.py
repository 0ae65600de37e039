"""The settlement: every completed task of a campaign paid once, in chunks that can be stopped and run again.

How far it is stands in the very transaction that pays, so a settlement that is killed goes on where it was; and the key
of a payment keeps anybody from being paid twice, whatever becomes of that.
"""

import enum
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import procrastinate
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.drives import moves
from campaigns.drives.campaigns import campaign_for
from campaigns.drives.models import Campaign, CampaignState, RewardMode
from campaigns.drives.terms import tasks_of
from campaigns.settlement import payments
from campaigns.settlement.models import Settlement, SettlementState
from campaigns.settlement.payments import Reward
from campaigns.tasks.progress import completions
from points.earning import pricing
from points.ledger import budgets
from server import audit
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, NotFound
from server.jobs import enqueue

CHUNK_RESIDENTS = 2_000
DUE_AT_ONCE_MAX = 200

JOB = "settlement:settle"


class Step(enum.StrEnum):
    """What came of one step of a settlement."""

    MORE = "more"
    FINISHED = "finished"
    STOPPED = "stopped"  # another worker finished it, or it waits for points


class NotSettling(Conflict):
    """A campaign is settled after it has ended, and once."""

    code, title_zh, title_en = "not-settling", "活动不在结算阶段", "The campaign is not in the state of settling"


def request(session: Session, actor: Actor, campaign_id: UUID, *, jobs: procrastinate.App, now: datetime) -> Settlement:
    """Start the settlement of a campaign in the actor's scope, or have it go on. Its job comes with the transaction.

    Whatever is recorded late, up to the rules' own limit, still counts to the campaign's days: who starts before that
    settles without it. Raises NotFound, NotSettling.
    """
    campaign = campaign_for(session, actor, campaign_id)
    if campaign.state is not CampaignState.SETTLING:
        raise NotSettling
    _queue(session, campaign_id, requested_by=actor.id, now=now)
    enqueue(session, jobs, JOB, campaign_id=str(campaign_id))
    audit.record(session, actor, "campaign.settle", str(campaign_id), now=now)
    return session.get_one(Settlement, campaign_id, populate_existing=True)


def settlement_for(session: Session, actor: Actor, campaign_id: UUID) -> Settlement:
    """How far the settlement of a campaign in the actor's scope is. Raises NotFound, also before there is one."""
    campaign_for(session, actor, campaign_id)
    found = session.get(Settlement, campaign_id, populate_existing=True)
    if found is None:
        raise NotFound
    return found


def resume(session: Session, campaign_id: UUID, *, jobs: procrastinate.App) -> None:
    """Have a settlement that fell short go on, now that there is more to pay with; nothing when none did."""
    resumed = session.scalar(
        sa.update(Settlement)
        .where(Settlement.campaign_id == campaign_id, Settlement.state == SettlementState.SHORT)
        .values(state=SettlementState.QUEUED, short_points=None)
        .returning(Settlement.campaign_id)
    )
    if resumed is not None:
        enqueue(session, jobs, JOB, campaign_id=str(campaign_id))


def queue_due(session: Session, *, now: datetime) -> list[UUID]:
    """Queue the settlement of campaigns that ended so long ago that no late record can change them any more.

    Also answers those that are queued or running, at most DUE_AT_ONCE_MAX in all: a job that was lost is found again,
    and one too many finds nothing to do.
    """
    today = business_day(now)
    tariffs = pricing.current(session)
    found = session.execute(
        sa.select(Campaign.id, Campaign.ends_on, Settlement.campaign_id.is_not(None))
        .join(Settlement, Settlement.campaign_id == Campaign.id, isouter=True)
        .where(
            Campaign.state == CampaignState.SETTLING,
            sa.or_(
                Settlement.campaign_id.is_(None),
                Settlement.state.in_([SettlementState.QUEUED, SettlementState.RUNNING]),
            ),
        )
        .order_by(Campaign.ends_on, Campaign.id)
        .limit(DUE_AT_ONCE_MAX)
    ).all()
    due = []
    for campaign_id, ends_on, is_queued in found:
        tariff = tariffs.on(ends_on)
        if not is_queued:
            if (today - ends_on).days <= (0 if tariff is None else tariff.late_days_max):
                continue
            _queue(session, campaign_id, requested_by=None, now=now)
        due.append(campaign_id)
    return due


def begin(session: Session, campaign_id: UUID, *, now: datetime) -> bool:
    """Take a queued or running settlement up; False when there is nothing to do.

    Only whoever holds the row goes on, chunk by chunk: two workers over one campaign take turns and pay nobody twice.
    """
    taken = session.scalar(
        sa.update(Settlement)
        .where(
            Settlement.campaign_id == campaign_id,
            Settlement.state.in_([SettlementState.QUEUED, SettlementState.RUNNING]),
        )
        .values(state=SettlementState.RUNNING, started_at=sa.func.coalesce(Settlement.started_at, now))
        .returning(Settlement.campaign_id)
    )
    return taken is not None


def settle_chunk(
    session: Session, campaign_id: UUID, *, teams: Mapping[UUID, frozenset[UUID]] | None, limit: int, now: datetime
) -> Step:
    """Pay the next `limit` residents, or close the campaign when there are none.

    `teams` as for `completions`. Raises BudgetExhausted; nothing of the chunk is then paid, because the caller's
    transaction ends, and `fall_short` is the next step.
    """
    settlement = _locked(session, campaign_id)
    if settlement is None:
        return Step.STOPPED
    campaign = session.get_one(Campaign, campaign_id, populate_existing=True)
    if campaign.reward_mode is RewardMode.ON_COMPLETION:
        # First come, first served: who did not claim while the campaign was settling gave it up.
        return _finish(session, settlement, now=now)
    done = completions(session, campaign_id, after=settlement.after_resident_id, limit=limit, teams=teams)
    if not done:
        return _finish(session, settlement, now=now)
    rewards = [
        Reward(each.resident_id, each.task_id, new_id(), each.reward_points) for each in done if each.reward_points
    ]
    paid = payments.settle(session, campaign, tasks_of(session, campaign_id), rewards, now=now)
    settlement.after_resident_id = done[-1].resident_id
    settlement.residents += len({each.resident_id for each in paid})
    settlement.payments += len(paid)
    settlement.points += sum(each.points for each in paid)
    session.flush()
    return Step.MORE


def fall_short(
    session: Session, campaign_id: UUID, *, teams: Mapping[UUID, frozenset[UUID]] | None, now: datetime
) -> Step:
    """Stop a settlement whose budget does not hold what is next, and say what is missing for all that is left.

    There may be enough after all, because points were allotted meanwhile: then there is more to do.
    """
    settlement = _locked(session, campaign_id)
    if settlement is None:
        return Step.STOPPED
    campaign = session.get_one(Campaign, campaign_id, populate_existing=True)
    held = budgets.held_by(session, campaign.account_id) if campaign.account_id is not None else 0
    wanted, after = 0, settlement.after_resident_id
    while done := completions(session, campaign_id, after=after, limit=CHUNK_RESIDENTS, teams=teams):
        wanted += sum(each.reward_points for each in done)
        after = done[-1].resident_id
    if wanted <= held:
        return Step.MORE
    settlement.state, settlement.short_points = SettlementState.SHORT, wanted - held
    session.flush()
    audit.record(session, None, "campaign.settle-short", str(campaign_id), now=now, short_points=wanted - held)
    return Step.STOPPED


def _queue(session: Session, campaign_id: UUID, *, requested_by: UUID | None, now: datetime) -> None:
    """Queue a settlement; one that runs or is done stays as it is, one that fell short goes on."""
    fresh = insert(Settlement).values(
        campaign_id=campaign_id, state=SettlementState.QUEUED, requested_by=requested_by, requested_at=now
    )
    session.execute(
        fresh.on_conflict_do_update(
            index_elements=[Settlement.campaign_id],
            set_={"state": SettlementState.QUEUED, "short_points": None},
            where=Settlement.state == SettlementState.SHORT,
        )
    )


def _locked(session: Session, campaign_id: UUID) -> Settlement | None:
    """The settlement, held until the transaction ends, if it is running and its campaign is settling."""
    settlement = session.get(Settlement, campaign_id, with_for_update=True, populate_existing=True)
    return settlement if settlement is not None and settlement.state is SettlementState.RUNNING else None


def _finish(session: Session, settlement: Settlement, *, now: datetime) -> Step:
    settlement.state, settlement.finished_at = SettlementState.DONE, now
    session.flush()
    moves.close(session, settlement.campaign_id, now=now)
    return Step.FINISHED
