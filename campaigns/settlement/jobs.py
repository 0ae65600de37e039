"""Settling campaigns: one job for one campaign, and the clock that finds those that are due."""

from uuid import UUID

import procrastinate
import structlog
from flask import current_app
from sqlalchemy.orm import Session

from campaigns.settlement import lists, settling
from campaigns.settlement.payments import DriveLimitReached
from campaigns.settlement.settling import CHUNK_RESIDENTS, Step
from campaigns.tasks.progress import completed_teams
from points.ledger.budgets import BudgetExhausted
from server.clock import now
from server.database import run_transaction, transaction
from server.exports.registry import desk
from server.jobs import enqueue

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

# × CHUNK_RESIDENTS: two hundred million residents, more than any campaign has.
CHUNKS_MAX = 100_000


@tasks.task(name="settle", pass_context=False)
def settle(campaign_id: str) -> None:
    """Pay a campaign's completed tasks and close it. Killed at any moment and run again, it pays nobody twice."""
    campaign = UUID(campaign_id)
    if not run_transaction(lambda session: settling.begin(session, campaign, now=now())):
        return
    # Once for the whole run: the sums of large teams, and no team complete for some of its members only.
    with transaction() as session:
        teams = completed_teams(session, campaign)

    residents = CHUNK_RESIDENTS

    def chunk(session: Session) -> Step:
        step = settling.settle_chunk(session, campaign, teams=teams, limit=residents, now=now())
        if step is Step.FINISHED:
            lists.write_settlement_sheet(session, campaign, desk=desk(), now=now())
        return step

    for _ in range(CHUNKS_MAX):
        try:
            step = run_transaction(chunk)
        except BudgetExhausted:
            step = run_transaction(lambda session: settling.fall_short(session, campaign, teams=teams, now=now()))
        except DriveLimitReached:
            # Fewer at a time use up what is left of the day; then `settle_due` takes it up again until a new day comes.
            if residents == 1:
                log.info("campaign_settlement_waits_for_tomorrow", campaign_id=campaign_id)
                return
            residents = max(1, residents // 8)
            continue
        if step is not Step.MORE:
            break
    log.info("campaign_settlement_ended", campaign_id=campaign_id, step=step.value)


@tasks.periodic(cron="*/10 * * * *")
@tasks.task(name="settle_due", queueing_lock="settle-due", pass_context=False)
def settle_due(timestamp: int) -> None:
    """Queue the settlements that are due, and again those whose job was lost; a job too many finds nothing to do."""
    jobs = current_app.extensions["tanpuhui_jobs"]

    def queue(session: Session) -> int:
        due = settling.queue_due(session, now=now())
        for campaign_id in due:
            enqueue(session, jobs, settling.JOB, campaign_id=str(campaign_id))
        return len(due)

    log.info("settlements_due", campaigns=run_transaction(queue), scheduled_at=timestamp)
