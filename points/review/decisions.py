"""Deciding cases: one person, or two above the edition's limit; nobody about their own; alone or many at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from points.earning.models import Activity
from points.review import cases
from points.review.cases import ASSIGNED_FOR, CaseAssignedToAnother, CaseEnded, SeenCase
from points.review.kinds import Decision, Kind
from points.review.models import STANDING, Case, CaseActivity, CaseDecision, CaseKind, CaseState, Verdict
from server import audit
from server.access import Actor
from server.audit import AuditEntry
from server.errors import Conflict, DomainError, Forbidden
from server.notices.notices import tell
from server.people import staff_links

DECIDED_AT_ONCE_MAX = 200
DECISIONS_MAX = 100

Kinds = Mapping[CaseKind, Kind]


class OwnWork(Forbidden):
    """Nobody decides about what they confirmed themselves."""

    code, title_zh, title_en = (
        "own-work",
        "不能审核本人确认的记录, 请由其他工作人员办理",
        "You confirmed this yourself; a colleague decides",
    )
    constraints = ("review_decision_own_work",)


class DecidedBefore(Forbidden):
    """An appeal is answered by somebody who had no part in what it is about."""

    code, title_zh, title_en = (
        "decided-before",
        "申诉须由未参与原处理的工作人员答复",
        "An appeal is answered by somebody who had no part in the decision",
    )
    constraints = ("review_decision_decided_before",)


class SecondPersonNeeded(Conflict):
    """The actor has decided already; above the limit somebody else decides as well."""

    code, title_zh, title_en = (
        "second-person-needed",
        "积分超过限额, 须由另一名工作人员复核",
        "So many points take a second person",
    )


class TooManyDecisions(Conflict):
    """Two people who cannot agree after DECISIONS_MAX tries ask their superior."""

    code, title_zh, title_en = "too-many-decisions", "意见反复次数过多", "Too many opposite decisions about one case"


def decide(
    session: Session,
    actor: Actor,
    kinds: Kinds,
    case_id: UUID,
    *,
    verdict: Verdict,
    reason: str,
    now: datetime,
) -> SeenCase:
    """Decide a case of the actor's scope. Final, unless it takes two people and this is the first to say so.

    A second person who says the opposite takes the first one's place: two different people must agree.

    Raises NotFound, CaseEnded, CaseAssignedToAnother, SecondPersonNeeded, OwnWork, DecidedBefore, StaffUnlinked,
    ServesOwnHousehold, and what the kind's own rules raise.
    """
    return cases.seen(session, _decided(session, actor, kinds, case_id, verdict, reason, now=now), now=now)


def _decided(
    session: Session, actor: Actor, kinds: Kinds, case_id: UUID, verdict: Verdict, reason: str, *, now: datetime
) -> Case:
    """The case, decided; `decide` says how, and adds what only its answer needs: of many nobody reads it."""
    case = cases.case_for(session, actor, case_id)
    accounts = staff_links.accounts_of(session, actor.id)
    # Locked by the write and read anew with it: a colleague's decision at this moment, or what a lead comes to list, is
    # waited for and then seen.
    locked = session.scalar(
        sa.update(Case)
        .where(Case.resident_id == case.resident_id, Case.id == case.id, Case.state.in_(STANDING))
        .values(points=Case.points)
        .returning(Case)
        .execution_options(populate_existing=True)
    )
    if locked is None:
        raise CaseEnded
    _require_may_decide(session, actor, accounts, kinds, locked, now=now)
    if locked.assigned_to not in {None, actor.id} and (locked.assigned_at or now) > now - ASSIGNED_FOR:
        raise CaseAssignedToAnother
    if locked.proposed_by in accounts and locked.proposed_verdict is verdict:
        raise SecondPersonNeeded
    final = not locked.two_people or locked.proposed_verdict is verdict
    _write_down(session, actor, locked, verdict, reason, final=final, now=now)
    if final:
        decision = Decision(verdict, reason, actor.id)
        kind = kinds[locked.kind]
        kind.on_decision(session, locked, decision, now)
        _tell(session, locked, kind, verdict, now=now)
    return locked


def take(session: Session, actor: Actor, kinds: Kinds, case_id: UUID, *, now: datetime) -> SeenCase:
    """Take a case in hand that the actor may decide: nobody keeps from colleagues what is not theirs to decide.

    Raises NotFound, CaseEnded, CaseAssignedToAnother, SecondPersonNeeded, OwnWork, DecidedBefore, StaffUnlinked,
    ServesOwnHousehold, and what the kind's own `may_decide` raises.
    """
    case = cases.case_for(session, actor, case_id)
    accounts = staff_links.accounts_of(session, actor.id)
    _require_may_decide(session, actor, accounts, kinds, case, now=now)
    if case.proposed_by in accounts and case.state in STANDING:
        raise SecondPersonNeeded
    return cases.take(session, actor, case_id, now=now)


def _require_may_decide(
    session: Session, actor: Actor, accounts: Sequence[UUID], kinds: Kinds, case: Case, *, now: datetime
) -> None:
    """Raise unless the actor, under whichever of their `accounts`, has no part in what the case is about."""
    staff_links.require_may_serve(session, actor.id, case.resident_id, now=now)
    about = cases.activities_of(session, case)
    own_work = sa.exists().where(
        Activity.resident_id == case.resident_id, Activity.id.in_(about), Activity.staff_id.in_(accounts)
    )
    if session.scalar(sa.select(own_work)):
        raise OwnWork
    if case.kind is CaseKind.APPEAL and _had_a_part(session, accounts, case):
        raise DecidedBefore
    may_decide = kinds[case.kind].may_decide
    if may_decide is not None:
        may_decide(session, case, actor.id)


def _had_a_part(session: Session, accounts: Sequence[UUID], appeal: Case) -> bool:
    """Whether whoever has these accounts decided an earlier case about the claim, or acted on it as the trail tells."""
    earlier = aliased(Case)
    decided = (
        sa.exists()
        .where(CaseDecision.resident_id == appeal.resident_id, CaseDecision.decided_by.in_(accounts))
        .where(earlier.resident_id == CaseDecision.resident_id, earlier.id == CaseDecision.case_id)
        .where(earlier.id != appeal.id)
        .where(
            sa.or_(
                earlier.activity_id == appeal.activity_id,
                sa.exists().where(
                    CaseActivity.resident_id == earlier.resident_id,
                    CaseActivity.case_id == earlier.id,
                    CaseActivity.activity_id == appeal.activity_id,
                ),
            )
        )
    )
    acted = sa.exists().where(AuditEntry.subject == f"activity:{appeal.activity_id}", AuditEntry.staff_id.in_(accounts))
    return bool(session.scalar(sa.select(sa.or_(decided, acted))))


def _write_down(
    session: Session, actor: Actor, case: Case, verdict: Verdict, reason: str, *, final: bool, now: datetime
) -> None:
    number = 1 + (
        session.scalar(
            sa.select(sa.func.count()).where(
                CaseDecision.resident_id == case.resident_id, CaseDecision.case_id == case.id
            )
        )
        or 0
    )
    if number > DECISIONS_MAX:
        raise TooManyDecisions
    session.add(
        CaseDecision(
            resident_id=case.resident_id,
            case_id=case.id,
            number=number,
            verdict=verdict,
            reason=reason,
            final=final,
            decided_by=actor.id,
            decided_at=now,
        )
    )
    if final:
        case.state, case.verdict, case.answer = CaseState.DECIDED, verdict, reason
        case.decided_by, case.ended_at = actor.id, max(now, case.opened_at)
    else:
        case.state, case.proposed_verdict = CaseState.PROPOSED, verdict
        case.proposed_by, case.proposed_at = actor.id, now
        # The first has done what they can: the case goes back to the queue for somebody else.
        case.assigned_to = case.assigned_at = None
    audit.record(
        session,
        actor,
        "review.decide" if final else "review.propose",
        f"case:{case.id}",
        now=now,
        kind=case.kind.value,
        verdict=verdict.value,
        reason=reason,
        points=case.points,
    )
    session.flush()


def _tell(session: Session, case: Case, kind: Kind, verdict: Verdict, *, now: datetime) -> None:
    if kind.told is None:
        return
    title_zh, title_en = kind.told[verdict]
    subject = "reviews" if case.activity_id is None else f"activity:{case.activity_id}"
    tell(
        session,
        [case.resident_id],
        kind="review-decided",
        subject=subject,
        title_zh=title_zh,
        title_en=title_en,
        now=now,
    )


@dataclass(frozen=True, slots=True)
class OneOfMany:
    """What became of one of many decisions: where its case stands, or the code and title of what kept it from it."""

    case_id: UUID
    state: CaseState | None
    code: str | None
    title_zh: str | None
    title_en: str | None


def decide_many(
    session: Session, actor: Actor, kinds: Kinds, decisions: Sequence[Mapping[str, Any]], *, now: datetime
) -> list[OneOfMany]:
    """Decide up to DECIDED_AT_ONCE_MAX cases, each `case_id`, `verdict` and `reason`; outcomes in their order.

    Each stands or falls by itself: a refusal takes back its own savepoint and leaves the others.
    """
    if len(decisions) > DECIDED_AT_ONCE_MAX:
        raise ValueError(f"{len(decisions)} decisions at once")
    # Taken in the order of places and people, as the award writes them, so that two batches seldom wait in a circle.
    order = {
        case_id: place
        for place, case_id in enumerate(
            session.scalars(
                sa.select(Case.id)
                .where(Case.id.in_([each["case_id"] for each in decisions]))
                .order_by(Case.community_code, Case.resident_id, Case.id)
            )
        )
    }
    outcomes: dict[int, OneOfMany] = {}
    for position in sorted(range(len(decisions)), key=lambda n: order.get(decisions[n]["case_id"], -1)):
        outcomes[position] = _one_of_many(session, actor, kinds, decisions[position], now=now)
    return [outcomes[position] for position in range(len(decisions))]


def _one_of_many(session: Session, actor: Actor, kinds: Kinds, entry: Mapping[str, Any], *, now: datetime) -> OneOfMany:
    try:
        with session.begin_nested():
            decided = _decided(session, actor, kinds, entry["case_id"], entry["verdict"], entry["reason"], now=now)
            return OneOfMany(entry["case_id"], decided.state, None, None, None)
    except DomainError as refusal:
        return OneOfMany(entry["case_id"], None, refusal.code, refusal.title_zh, refusal.title_en)
