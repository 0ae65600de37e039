"""Changing the rules by two people: one proposes, a replay shows what it would mean, another decides.

An approved version is written into the rules on the day before its own, and until then it can be withdrawn: a version
once written ends its predecessor for good. It begins with a business day, at midnight in Shanghai; the processes that
price read the rules anew every few seconds, so all of them know it by then. Nobody changes what was proposed: whoever
thinks better of it withdraws and proposes anew.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import procrastinate
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from points.carbon import methods
from points.carbon.methods import MethodData, MethodDataError
from points.carbon.models import Method, MethodKind
from points.earning import pricing, rules
from points.earning.models import BoundLimit, EarningRule, GradeTerm, RuleVersion
from points.earning.pricing import Tariff
from points.earning.proposals.models import ATTEMPTS_MAX, ProposalKind, ProposalState, RuleProposal, RuleReplay
from points.earning.rules import RuleDataError
from server import audit
from server import jobs as job_queue
from server.access import Actor
from server.clock import business_day, day_start
from server.database import lock_name, new_id
from server.errors import Conflict, DomainError, NotFound, PreconditionFailed
from server.notices import notices
from server.paging import Page, decode, page_of

REPLAY_DAYS = 30

# An approved version is written when its day is so near; by a job that runs every ten minutes.
ENACTED_AHEAD = timedelta(hours=24)
# It is written so long before its day begins, or not at all: by then every process has read the rules anew.
WRITTEN_AHEAD = timedelta(minutes=1)
# A proposal whose day is nearer cannot be approved: the job, and every process after it, need a little time.
DECIDED_AHEAD = timedelta(minutes=30)

# A key of thousands of parts stands on one line and costs the reader of TOML their square: seconds for a whole text.
LINE_LENGTH_MAX = 1_000

# Beyond any agenda; each costs a replay.
OPEN_PROPOSALS_MAX = 20

Rows = Sequence[EarningRule | GradeTerm | BoundLimit]


class ProposalInvalid(DomainError):
    """The proposed text cannot be rules or a method; `detail` names the fault."""

    code, status, title_zh, title_en = "proposal-invalid", 422, "提案内容有误", "The proposal's text has a fault"


class ProposalTooSoon(DomainError):
    """Rules change on a day that has not begun, after every version there is; `earliest_on` is the first that does."""

    code, status, title_zh, title_en = (
        "proposal-too-soon",
        409,
        "生效日须在未来, 且晚于现有各版本",
        "It must begin on a future day, after every version there is",
    )


class ProposalNameTaken(Conflict):
    """The id of the version or method is in use, or approved for another proposal, or another begins on that day."""

    code, title_zh, title_en = (
        "proposal-name-taken",
        "编号或生效日已被占用",
        "The id, or the day, is taken by another version",
    )
    constraints = ("rule_proposal_version_key", "rule_proposal_subject_key", "rule_proposal_day_key")


class TooManyProposals(Conflict):
    """Decide on some of the open proposals first, or withdraw them."""

    code, title_zh, title_en = "too-many-proposals", "待定提案过多", "Too many proposals are open"


class ProposalOwn(Conflict):
    """Whoever proposed cannot decide: two people answer for a rule."""

    code, title_zh, title_en = (
        "proposal-own",
        "提案人不能审批自己的提案",
        "A proposal is decided on by another person than the one who made it",
    )
    constraints = ("rule_proposal_four_eyes_check",)


class ProposalNotReplayed(Conflict):
    """Nobody approves what they have not seen the consequences of: the replay is not finished."""

    code, title_zh, title_en = (
        "proposal-not-replayed",
        "试算尚未完成",
        "The replay of the last weeks is not finished",
    )


class ProposalOutdated(Conflict):
    """The rules have changed since it was proposed: it would bring back the old ones."""

    code, title_zh, title_en = (
        "proposal-outdated",
        "提案后规则已变更, 请重新提案",
        "The rules have changed since; propose it anew",
    )


class ProposalClosed(Conflict):
    """It was decided, withdrawn or written already; `state` says which."""

    code, title_zh, title_en = "proposal-closed", "提案已处理", "The proposal has been dealt with"
    constraints = ("rule_replay_held",)


class ReplayGoesOn(Conflict):
    """A replay is made again at most twice."""

    code, title_zh, title_en = "replay-attempts-used", "试算次数已用完", "The replay was tried as often as it may be"


@dataclass(frozen=True, slots=True)
class Proposed:
    """What a proposal's text says: the version it makes, its rows, and the method that comes with it."""

    version: RuleVersion
    rows: Rows
    method: MethodData | None


@dataclass(frozen=True, slots=True)
class ProposalSeen:
    """A proposal beside its replay."""

    proposal: RuleProposal
    replay: RuleReplay

    def __getattr__(self, name: str) -> Any:
        return getattr(self.proposal, name)


def propose(
    session: Session,
    actor: Actor,
    *,
    kind: ProposalKind,
    content: str,
    reason: str,
    fen_per_100_points: int | None,
    jobs: procrastinate.App | None,
    now: datetime,
) -> ProposalSeen:
    """Put a version of the rules, or a method, to decision. A job replays the last weeks under it, given `jobs`.

    Raises ProposalInvalid, ProposalTooSoon, ProposalNameTaken, TooManyProposals.
    """
    lock_name(session, "rule-proposals")
    latest = latest_version(session)
    base_id = None if latest is None else latest.id
    proposed = read(session, kind, content, base_id=base_id)
    version = proposed.version
    _require_day_ahead(latest, version.valid_from, now=now, ahead=DECIDED_AHEAD)
    subject_id = version.id if proposed.method is None else proposed.method.id
    _require_names_free(session, proposed)
    _rehearse(session, proposed)
    still_open = sa.select(sa.func.count()).where(RuleProposal.state == ProposalState.PROPOSED)
    if (session.scalar(still_open) or 0) >= OPEN_PROPOSALS_MAX:
        raise TooManyProposals
    proposal = RuleProposal(
        id=new_id(),
        kind=kind,
        subject_id=subject_id,
        version_id=version.id,
        base_version_id=base_id,
        content=content,
        content_sha256=hashlib.sha256(content.encode()).digest(),
        valid_from=version.valid_from,
        reason=reason,
        fen_per_100_points=fen_per_100_points,
        state=ProposalState.PROPOSED,
        version=1,
        proposed_by=actor.id,
        proposed_at=now,
    )
    session.add(proposal)
    session.flush()
    first_on, last_on = replay_period(now)
    replay = RuleReplay(
        proposal_id=proposal.id,
        first_on=first_on,
        last_on=last_on,
        attempts=0,
        days_done=0,
        activities_done=0,
    )
    session.add(replay)
    session.flush()
    audit.record(
        session,
        actor,
        "rules.propose",
        f"rule-proposal:{proposal.id}",
        now=now,
        version_id=version.id,
        subject_id=subject_id,
        valid_from=version.valid_from.isoformat(),
    )
    _enqueue_replay(session, jobs, proposal.id)
    return ProposalSeen(proposal, replay)


def replay_again(
    session: Session, actor: Actor, proposal_id: UUID, *, jobs: procrastinate.App | None, now: datetime
) -> ProposalSeen:
    """Replay the last weeks once more, by now others. Raises NotFound, ProposalClosed, ReplayGoesOn."""
    seen = proposal_for(session, proposal_id)
    if seen.proposal.state is not ProposalState.PROPOSED:
        raise ProposalClosed(state=seen.proposal.state.value)
    first_on, last_on = replay_period(now)
    again = session.scalars(
        sa.update(RuleReplay)
        .where(RuleReplay.proposal_id == proposal_id, RuleReplay.attempts < ATTEMPTS_MAX)
        .values(
            first_on=first_on,
            last_on=last_on,
            days_done=0,
            activities_done=0,
            started_at=None,
            finished_at=None,
            report=sa.null(),
            problem=None,
        )
        .returning(RuleReplay)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if again is None:
        raise ReplayGoesOn
    audit.record(session, actor, "rules.replay", f"rule-proposal:{proposal_id}", now=now)
    _enqueue_replay(session, jobs, proposal_id)
    return ProposalSeen(seen.proposal, again)


def approve(
    session: Session, actor: Actor, proposal_id: UUID, *, version: int, reason: str, now: datetime
) -> ProposalSeen:
    """Approve what another person proposed, having seen its replay. It is written on the day before its own.

    Raises NotFound, ProposalOwn, ProposalTooSoon, ProposalNotReplayed, ProposalOutdated, ProposalNameTaken,
    ProposalClosed, PreconditionFailed.
    """
    found = _to_decide_on(session, actor, proposal_id, version)
    latest = latest_version(session)
    _require_day_ahead(latest, found.proposal.valid_from, now=now, ahead=DECIDED_AHEAD)
    if _is_outdated(found.proposal, latest):
        raise ProposalOutdated
    _require_names_free(session, read(session, found.kind, found.content, base_id=found.base_version_id))
    approved = _decide(session, actor, found, "rules.approve", ProposalState.APPROVED, reason=reason, now=now)
    # Looked at with the proposal held: one that was begun anew at this moment is waited for, and seen as unfinished.
    session.refresh(approved.replay)
    if approved.replay.report is None:
        raise ProposalNotReplayed
    return approved


def reject(
    session: Session, actor: Actor, proposal_id: UUID, *, version: int, reason: str, now: datetime
) -> ProposalSeen:
    """Turn down what another person proposed. Raises NotFound, ProposalOwn, ProposalClosed, PreconditionFailed."""
    found = _to_decide_on(session, actor, proposal_id, version)
    return _decide(session, actor, found, "rules.reject", ProposalState.REJECTED, reason=reason, now=now)


def withdraw(
    session: Session, actor: Actor, proposal_id: UUID, *, version: int, reason: str, now: datetime
) -> ProposalSeen:
    """Take a proposal back, approved or not, as long as it is not written. Anybody who may propose can: in doubt, the
    rules stay as they are.

    Raises NotFound, ProposalClosed, PreconditionFailed.
    """
    found = proposal_for(session, proposal_id)
    _require_open(found.proposal, version, approved_too=True)
    return _move(
        session,
        actor,
        found,
        "rules.withdraw",
        now=now,
        reason=reason,
        state=ProposalState.WITHDRAWN,
        withdrawn_by=actor.id,
        withdrawn_at=now,
        withdrawn_because=reason,
    )


def due(session: Session, *, now: datetime) -> list[UUID]:
    """The approved proposals whose day is near, and the open ones whose day has come, the earliest first."""
    near = business_day(now + ENACTED_AHEAD)
    has_come = business_day(now + DECIDED_AHEAD)
    return list(
        session.scalars(
            sa.select(RuleProposal.id)
            .where(
                sa.or_(
                    sa.and_(RuleProposal.state == ProposalState.APPROVED, RuleProposal.valid_from <= near),
                    sa.and_(RuleProposal.state == ProposalState.PROPOSED, RuleProposal.valid_from <= has_come),
                )
            )
            .order_by(RuleProposal.valid_from, RuleProposal.id)
        )
    )


def enact(session: Session, proposal_id: UUID, *, now: datetime) -> ProposalState | None:
    """Write an approved proposal into the rules; what cannot be any more lapses. None: somebody else has dealt with it.

    Too late, or overtaken by a later version: then the rules stay as they are, and it must be proposed anew.
    """
    proposal = session.scalars(
        sa.select(RuleProposal).where(RuleProposal.id == proposal_id).execution_options(populate_existing=True)
    ).one()
    can_be = proposal.state is ProposalState.APPROVED and now + WRITTEN_AHEAD <= day_start(proposal.valid_from)
    if can_be:
        latest = latest_version(session)
        overtaken = latest is not None and latest.valid_from >= proposal.valid_from
        can_be = not (overtaken or _is_outdated(proposal, latest))
    state = ProposalState.ENACTED if can_be else ProposalState.LAPSED
    moved = session.scalar(
        sa.update(RuleProposal)
        .where(RuleProposal.id == proposal_id, RuleProposal.version == proposal.version)
        .where(RuleProposal.state.in_((ProposalState.PROPOSED, ProposalState.APPROVED)))
        .values(version=RuleProposal.version + 1, state=state, enacted_at=now if can_be else None)
        .returning(RuleProposal.id)
    )
    if moved is None:
        return None
    if can_be:
        _write(session, read(session, proposal.kind, proposal.content, base_id=proposal.base_version_id))
    audit.record(session, None, f"rules.{state.value}", f"rule-proposal:{proposal_id}", now=now)
    title_zh, title_en = _OUTCOMES[state]
    notices.tell(
        session,
        [person for person in (proposal.proposed_by, proposal.decided_by) if person is not None],
        kind="rule-proposal",
        subject=f"rule-proposal:{proposal_id}",
        title_zh=title_zh.format(proposal.version_id, proposal.valid_from),
        title_en=title_en.format(proposal.version_id, proposal.valid_from),
        now=now,
    )
    return state


_OUTCOMES = {
    ProposalState.ENACTED: ("规则 {} 将于 {} 起生效", "The rules {} take effect on {}"),
    ProposalState.LAPSED: (
        "规则 {} 未能于 {} 生效, 须重新提案",
        "The rules {} could not begin on {}; propose them anew",
    ),
}


def _rehearse(session: Session, proposed: Proposed) -> None:
    """Write a version and take it back: what the database refuses must not come out on the eve of its day.

    Raises ProposalInvalid.
    """
    try:
        with session.begin_nested() as savepoint:
            _write(session, proposed)
            savepoint.rollback()
    except DBAPIError as error:
        raise ProposalInvalid(
            "the database cannot hold it: a text has a character or a length that it refuses"
        ) from error


def _write(session: Session, proposed: Proposed) -> None:
    if proposed.method is not None:
        methods.add(session, proposed.method)
    rules.add(session, proposed.version, proposed.rows)


# Reading


def replay_period(now: datetime) -> tuple[date, date]:
    """The business days that a replay begun at this moment looks at: the last REPLAY_DAYS, without today's."""
    today = business_day(now)
    return today - timedelta(days=REPLAY_DAYS), today - timedelta(days=1)


def proposal_for(session: Session, proposal_id: UUID) -> ProposalSeen:
    """A proposal with its replay. Raises NotFound."""
    found = session.execute(
        sa.select(RuleProposal, RuleReplay)
        .join(RuleReplay, RuleReplay.proposal_id == RuleProposal.id)
        .where(RuleProposal.id == proposal_id)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotFound
    return ProposalSeen(*found)


def list_proposals(
    session: Session, *, state: ProposalState | None, limit: int, cursor: str | None
) -> Page[ProposalSeen]:
    """Proposals, the newest first. Raises BadCursor."""
    wanted = (
        sa.select(RuleProposal, RuleReplay)
        .join(RuleReplay, RuleReplay.proposal_id == RuleProposal.id)
        .order_by(RuleProposal.id.desc())
        .limit(limit + 1)
    )
    if state is not None:
        wanted = wanted.where(RuleProposal.state == state)
    if cursor is not None:
        wanted = wanted.where(RuleProposal.id < decode(cursor, tuple[UUID])[0])
    rows = [ProposalSeen(*row) for row in session.execute(wanted)]
    return page_of(rows, limit, lambda row: (row.proposal.id,))


def latest_version(session: Session) -> RuleVersion | None:
    """The version that begins last: what any other must come after."""
    return session.scalar(sa.select(RuleVersion).order_by(RuleVersion.valid_from.desc()).limit(1))


def read(session: Session, kind: ProposalKind, content: str, *, base_id: str | None) -> Proposed:
    """What a text proposes, with rows that are not in the database. Raises ProposalInvalid."""
    if any(len(line) > LINE_LENGTH_MAX for line in content.splitlines()):
        raise ProposalInvalid(f"a line has at most {LINE_LENGTH_MAX} characters")
    try:
        if kind is ProposalKind.RULES:
            version, rows = rules.models_of(rules.parse("proposal", content))
            _require_methods(session, version)
            return Proposed(version, rows, None)
        method = methods.parse("proposal", content)
    except (RuleDataError, MethodDataError) as error:
        raise ProposalInvalid(str(error)[:500]) from error
    except RecursionError as error:
        raise ProposalInvalid("tables or lists lie too deep in each other") from error
    if not 2020 <= method.valid_from.year <= 2100:
        raise ProposalInvalid("valid_from: a day of our time")
    if method.is_default:
        raise ProposalInvalid("default: a method comes into force with the rules that name it; say false")
    return _with_method(session, method, base_id)


def _require_methods(session: Session, version: RuleVersion) -> None:
    for method_id, kind in (
        (version.travel_method_id, MethodKind.TRAVEL),
        (version.recycling_method_id, MethodKind.RECYCLING),
    ):
        method = session.get(Method, method_id)
        if method is None or method.kind is not kind:
            raise ProposalInvalid(f"{method_id!r} is no {kind} method that is loaded")


def _with_method(session: Session, method: MethodData, base_id: str | None) -> Proposed:
    """The rules as they are, with another method, from the day on that the method names."""
    base = None if base_id is None else session.get(RuleVersion, base_id)
    if base is None:
        raise ProposalInvalid("there are no rules yet that could use a method")
    version_id = f"{base.id[:28].rstrip('.-')}.m{method.valid_from:%Y%m%d}"
    version = _copy(
        base,
        id=version_id,
        valid_from=method.valid_from,
        valid_to=None,
        content_sha256=hashlib.sha256(base.content_sha256 + method.content_sha256).digest(),
        **{f"{method.kind.value}_method_id": method.id},
    )
    rows: list[EarningRule | GradeTerm | BoundLimit] = [
        _copy(row, version_id=version_id)
        for model in (EarningRule, GradeTerm, BoundLimit)
        for row in session.scalars(sa.select(model).where(model.version_id == base.id))
    ]
    return Proposed(version, rows, method)


def _copy(row: Any, **changes: Any) -> Any:
    """A row like another one, in no session."""
    columns = {attribute.key: getattr(row, attribute.key) for attribute in sa.inspect(type(row)).column_attrs}
    return type(row)(**{**columns, **changes})


def tariff_of(session: Session, proposed: Proposed) -> Tariff:
    """A proposed version as a tariff, its method's factors among those that are loaded."""
    factors = pricing.loaded_factors(session)
    if proposed.method is not None:
        for factor in proposed.method.factors:
            factors[(proposed.method.id, factor.key)] = factor.micrograms_per_unit
    return pricing.tariff_of(proposed.version, proposed.rows, factors)


# Guards


def _require_day_ahead(latest: RuleVersion | None, day: date, *, now: datetime, ahead: timedelta) -> None:
    earliest = business_day(now + ahead) + timedelta(days=1)
    if latest is not None:
        earliest = max(earliest, latest.valid_from + timedelta(days=1))
    if day < earliest:
        raise ProposalTooSoon(f"The first day that can be is {earliest}", earliest_on=earliest.isoformat())


def _require_names_free(session: Session, proposed: Proposed) -> None:
    taken = session.get(RuleVersion, proposed.version.id) is not None
    if proposed.method is not None:
        taken = taken or session.get(Method, proposed.method.id) is not None
    if taken:
        raise ProposalNameTaken


def _is_outdated(proposal: RuleProposal, latest: RuleVersion | None) -> bool:
    """Whether a method would bring back the rules that it was proposed for: others are the latest by now."""
    return proposal.kind is ProposalKind.METHOD and (latest is None or latest.id != proposal.base_version_id)


def _to_decide_on(session: Session, actor: Actor, proposal_id: UUID, version: int) -> ProposalSeen:
    found = proposal_for(session, proposal_id)
    if found.proposal.proposed_by == actor.id:
        raise ProposalOwn
    _require_open(found.proposal, version)
    return found


def _require_open(proposal: RuleProposal, version: int, *, approved_too: bool = False) -> None:
    states = {ProposalState.PROPOSED, *([ProposalState.APPROVED] if approved_too else [])}
    if proposal.state not in states:
        raise ProposalClosed(state=proposal.state.value)
    if proposal.version != version:
        raise PreconditionFailed


def _decide(
    session: Session, actor: Actor, seen: ProposalSeen, act: str, state: ProposalState, *, reason: str, now: datetime
) -> ProposalSeen:
    decision = {"decided_by": actor.id, "decided_at": now, "decision_reason": reason}
    return _move(session, actor, seen, act, now=now, reason=reason, state=state, **decision)


def _move(
    session: Session, actor: Actor, seen: ProposalSeen, act: str, *, now: datetime, reason: str, **values: Any
) -> ProposalSeen:
    """One step of a proposal, if nobody has taken another meanwhile."""
    moved = session.scalars(
        sa.update(RuleProposal)
        .where(
            RuleProposal.id == seen.proposal.id,
            RuleProposal.version == seen.proposal.version,
            RuleProposal.state == seen.proposal.state,
        )
        .values(version=RuleProposal.version + 1, **values)
        .returning(RuleProposal)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if moved is None:
        raise PreconditionFailed
    audit.record(session, actor, act, f"rule-proposal:{moved.id}", now=now, reason=reason)
    return ProposalSeen(moved, seen.replay)


def _enqueue_replay(session: Session, jobs: procrastinate.App | None, proposal_id: UUID) -> None:
    if jobs is not None:
        job_queue.enqueue(session, jobs, "rules:replay", proposal_id=str(proposal_id))
