"""Replaying proposals, and writing those that were approved on the day before their own."""

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import procrastinate
import sqlalchemy as sa
import structlog

from points.earning import pricing
from points.earning.pricing import Tariff
from points.earning.proposals import proposals, reading, replaying
from points.earning.proposals.models import ATTEMPTS_MAX, ProposalState, RuleProposal, RuleReplay
from points.earning.proposals.reading import Position
from points.earning.proposals.replaying import Replay
from server.clock import now
from server.database import run_transaction, transaction
from server.errors import DomainError, InternalError
from server.places.models import Division

tasks = procrastinate.Blueprint()
log = structlog.get_logger()

_FIRST: Position = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0), UUID(int=0))


@tasks.task(name="replay", pass_context=False)
def replay(proposal_id: str) -> None:
    """Replay the last weeks under a proposal. Run again after its worker died, it begins anew."""
    replay_proposal(UUID(proposal_id))


def replay_proposal(proposal_id: UUID) -> bool:
    """Replay and keep the report; False when there is nothing to replay any more. Raises what reading raises."""
    begun = run_transaction(lambda session: _begin(session, proposal_id))
    if begun is None:
        return False
    proposal, kept, tariff = begun
    try:
        report = replay_tariff(
            tariff,
            kept.first_on,
            kept.last_on,
            fen_per_100_points=proposal.fen_per_100_points,
            progress_of=kept,
        )
    except DomainError as refusal:
        _note(kept, problem=refusal.code)
        raise
    except Exception:
        _note(kept, problem=InternalError.code)
        raise
    _note(kept, report=report, finished_at=now(), problem=None)
    log.info("rules_replayed", proposal_id=str(proposal_id), activities=report["activities"])
    return True


def replay_tariff(
    tariff: Tariff, first_on: date, last_on: date, *, fen_per_100_points: int | None, progress_of: RuleReplay | None
) -> dict[str, Any]:
    """The report of the business days `first_on` to `last_on` under a tariff. Pages are transactions of their own."""
    with transaction() as session:
        # By the database's clock, which is that of `recorded_at`: what comes meanwhile would come out of order.
        as_of: datetime = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        one_in = reading.sampled_one_in(session, first_on, last_on)
        running = Replay(tariff, first_on=first_on, last_on=last_on, budgets=reading.budgets(session, first_on))
    for monday, last in replaying.weeks(first_on, last_on):
        running.week(monday)
        after: Position | None = _FIRST
        while after is not None:
            with transaction() as session:
                session.execute(sa.text("SET LOCAL statement_timeout = '10min'"))
                after = _take_page(session, running, monday, last, as_of=as_of, after=after, one_in=one_in)
            if progress_of is not None:
                days = max(0, (last - first_on).days + (after is None))
                _note(progress_of, days_done=days, activities_done=running.activities)
    report = replaying.report_of(running, one_in=one_in, fen_per_100_points=fen_per_100_points)
    with transaction() as session:
        names = dict(session.execute(sa.select(Division.code, Division.name)).all())
    for street in report["streets"]:
        street["name"] = names.get(street["code"], "")
    return {"version_id": tariff.version_id, "first_on": f"{first_on}", "last_on": f"{last_on}", **report}


def _take_page(
    session: sa.orm.Session, running: Replay, first: date, last: date, *, as_of: datetime, after: Position, one_in: int
) -> Position | None:
    """Replay one page of claims; where the next one begins, None after the last."""
    number = 0
    for recorded in reading.page(session, first, last, as_of=as_of, after=after, one_in=one_in):
        running.take(recorded)
        after = (recorded.recorded_at, recorded.resident_id, recorded.id)
        number += 1
    return after if number == reading.PAGE_CLAIMS else None


def _begin(session: sa.orm.Session, proposal_id: UUID) -> tuple[RuleProposal, RuleReplay, Tariff] | None:
    begun = session.scalars(
        sa.update(RuleReplay)
        .where(
            RuleReplay.proposal_id == proposal_id,
            RuleReplay.attempts < ATTEMPTS_MAX,
            RuleReplay.finished_at.is_(None),
            sa.exists().where(RuleProposal.id == proposal_id, RuleProposal.state == ProposalState.PROPOSED),
        )
        .values(attempts=RuleReplay.attempts + 1, started_at=now(), days_done=0, activities_done=0, problem=None)
        .returning(RuleReplay)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if begun is None:
        return None
    proposal = proposals.proposal_for(session, proposal_id).proposal
    proposed = proposals.read(session, proposal.kind, proposal.content, base_id=proposal.base_version_id)
    return proposal, begun, proposals.tariff_of(session, proposed)


def _note(begun: RuleReplay, **values: Any) -> None:
    """Write how far the replay has come; nothing once there is a decision, or it was begun anew."""
    still_open = sa.exists().where(RuleProposal.id == begun.proposal_id, RuleProposal.state == ProposalState.PROPOSED)
    run_transaction(
        lambda session: session.execute(
            sa.update(RuleReplay)
            .where(
                RuleReplay.proposal_id == begun.proposal_id,
                RuleReplay.started_at == begun.started_at,
                RuleReplay.finished_at.is_(None),
                still_open,
            )
            .values(**values)
        )
    )


@tasks.periodic(cron="*/10 * * * *")
@tasks.task(name="enact", queueing_lock="enact-rules", lock="enact-rules", pass_context=False)
def enact(timestamp: int) -> None:
    """Write the approved versions whose day is near; an error line for one that lapses is what operators alert on."""
    for proposal_id, state in enact_due():
        tell = log.info if state is ProposalState.ENACTED else log.error
        tell(f"rules_{state.value}", proposal_id=str(proposal_id), scheduled_at=timestamp)


def enact_due() -> list[tuple[UUID, ProposalState]]:
    """Deal with every proposal that is due, each in a transaction of its own; what became of each."""
    with transaction() as session:
        waiting = proposals.due(session, now=now())
    dealt_with = [(proposal_id, _enacted(proposal_id)) for proposal_id in waiting]
    return [(proposal_id, state) for proposal_id, state in dealt_with if state is not None]


def _enacted(proposal_id: UUID) -> ProposalState | None:
    state = run_transaction(lambda session: proposals.enact(session, proposal_id, now=now()))
    pricing.forget()  # this process need not wait; the others read the rules anew within seconds
    return state
