"""Making a move: the row of the table, who makes it, what has to be so, what it brings with it, and its record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.creation import guards, live_evidence, naming, notice, parties
from campaigns.creation.applications import answers_of, application_for, declared_of
from campaigns.creation.models import (
    Application,
    ApplicationAnswer,
    ApplicationMove,
    ApplicationPrecondition,
    Programme,
    Rubric,
)
from campaigns.creation.moving import Moving
from campaigns.creation.steps import MOVES, TURN, ApplicationState, Move, Party, Step
from server import audit
from server.access import Actor
from server.clock import business_day, day_start
from server.errors import Conflict, DomainError, Forbidden, NotFound, ReasonRequired

GRACE_DAYS_MAX = 180


class MoveRefused(Conflict):
    """The application's state does not allow this move, or somebody else has just made another."""

    code, title_zh, title_en = (
        "application-move-refused",
        "申报当前状态不允许此操作",
        "The application's state does not allow this",
    )
    constraints = ("application_move_pkey", "application_move_step_check")


class StepNotReady(Conflict):
    """Something has to be done first; `unmet` says what."""

    code, title_zh, title_en = "step-not-ready", "尚不满足办理条件", "Something has to be done first"


class GraceInvalid(DomainError):
    """Giving time to mend names its last day, 1 to GRACE_DAYS_MAX days from today; no other move has one."""

    code, status, title_zh, title_en = (
        "grace-invalid",
        422,
        "整改期限须为1至180天",
        "The last day of the grace is 1 to 180 days from today",
    )


@dataclass(frozen=True, slots=True)
class ApplicationDetail:
    """An application with its rubric, the self-assessment, and the moves that the reader could try."""

    application: Application
    rubric: Rubric
    answers: Sequence[ApplicationAnswer]
    preconditions: Sequence[ApplicationPrecondition]
    open_moves: Sequence[Move]


def move(
    session: Session,
    actor: Actor,
    application_id: UUID,
    step: Move,
    *,
    reason: str = "",
    grace_until: date | None = None,
    now: datetime,
) -> Application:
    """Make a move as a person: the applicant, the street or the district, as the table says.

    The application is held first, so of two people at once the second sees what the first has made of it.

    Raises NotFound outside the scope, MoveRefused, Forbidden, ReasonRequired, GraceInvalid, StepNotReady.
    """
    application = application_for(session, actor, application_id, held=True)
    row = MOVES.get((application.state, step))
    if row is None:
        raise MoveRefused(state=application.state.value, move=step.value)
    parties.require_may_act(actor, application, row.permission)
    if row.reason_required and not reason.strip():
        raise ReasonRequired
    days = (grace_until - business_day(now)).days if grace_until else None
    if (step is Move.GIVE_GRACE) != (days is not None) or (days is not None and not 1 <= days <= GRACE_DAYS_MAX):
        raise GraceInvalid
    moving = Moving(session, application, actor.id, reason.strip(), grace_until, now)
    _make(moving, step, row)
    if not actor.is_resident:
        audit.record(session, actor, f"application.{step.value}", str(application_id), now=now)
    return application


def move_by_clock(session: Session, application_id: UUID, step: Move, *, now: datetime) -> bool:
    """Make one of the clock's moves if it is due; whether it was made. A second time finds nothing to do."""
    application = session.scalars(
        sa.select(Application)
        .where(Application.id == application_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    row = MOVES.get((application.state, step)) if application else None
    if application is None or row is None or row.party is not Party.CLOCK:
        return False
    if guards.unmet(session, application, row.guards, now=now):
        return False
    _make(Moving(session, application, None, "", None, now), step, row)
    return True


def open_moves(actor: Actor, application: Application) -> Sequence[Move]:
    """The moves that the actor could try in the application's state; what has to be done first is not asked."""
    found = []
    for (state, step), row in MOVES.items():
        if state is application.state:
            try:
                parties.require_may_act(actor, application, row.permission)
            except (Forbidden, NotFound):
                continue
            found.append(step)
    return found


def detail_of(session: Session, actor: Actor, application_id: UUID) -> ApplicationDetail:
    """An application that the actor may see, with what belongs to it. Raises NotFound."""
    application = application_for(session, actor, application_id)
    return ApplicationDetail(
        application=application,
        rubric=session.get_one(Rubric, application.rubric_id),
        answers=answers_of(session, application_id),
        preconditions=declared_of(session, application_id),
        open_moves=open_moves(actor, application),
    )


def _make(moving: Moving, step: Move, row: Step) -> None:
    session, application, now = moving.session, moving.application, moving.now
    found = guards.unmet(session, application, row.guards, now=now)
    if found:
        raise StepNotReady(
            "; ".join(guards.TEXTS[each.guard][1] for each in found),
            unmet=[
                {
                    "guard": each.guard.name.lower().replace("_", "-"),
                    "title_zh": guards.TEXTS[each.guard][0],
                    "title_en": guards.TEXTS[each.guard][1],
                    "missing": list(each.missing),
                }
                for each in found
            ],
        )
    before = application.state
    effect = EFFECTS.get(step)
    due_at = effect(moving) if effect else None
    if row.due_days is not None:
        due_at = day_start(business_day(now) + timedelta(days=row.due_days + 1))
    _record(moving, step, row.after, due_at)
    _tell(moving, step, before, row.after)


def _record(moving: Moving, step: Move, after: ApplicationState, due_at: datetime | None) -> None:
    """Write the move, then the state: a trigger lets the second happen only over the first."""
    session, application, now = moving.session, moving.application, moving.now
    position = application.moves + 1
    session.execute(
        insert(ApplicationMove).values(
            application_id=application.id,
            position=position,
            move=step,
            from_state=application.state,
            to_state=after,
            moved_by=moving.moved_by,
            reason=moving.reason,
            moved_at=now,
            due_at=due_at,
        )
    )
    moved = session.scalars(
        sa.update(Application)
        .where(
            Application.id == application.id, Application.state == application.state, Application.moves == position - 1
        )
        .values(
            state=after,
            moves=position,
            version=Application.version + 1,
            step_since=now,
            step_due_at=due_at,
            overdue_told_at=None,
            submitted_at=sa.func.coalesce(Application.submitted_at, now)
            if step is Move.SUBMIT
            else Application.submitted_at,
        )
        .returning(Application)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if moved is None:
        raise MoveRefused(move=step.value)


# What a move brings with it besides its record; the instant by which the next is due, where the move itself says it.


def _submit(moving: Moving) -> datetime | None:
    live_evidence.freeze(moving.session, moving.application, now=moving.now)
    return None


def _return(moving: Moving) -> datetime | None:
    """What the street confirmed, it confirms anew when the application comes back."""
    moving.session.execute(
        sa.update(ApplicationPrecondition)
        .where(ApplicationPrecondition.application_id == moving.application.id)
        .values(confirmed_by=None, confirmed_at=None)
    )
    return None


EFFECTS: Mapping[Move, Callable[[Moving], datetime | None]] = {
    Move.SUBMIT: _submit,
    Move.RESUBMIT: _submit,
    Move.RETURN: _return,
    Move.PUBLISH_NOTICE: notice.publish,
    Move.END_NOTICE: notice.end,
    Move.NAME: naming.name,
    Move.BEGIN_RECHECK: naming.begin_recheck,
    Move.REPORT_MENDED: naming.begin_recheck,
    Move.RETAIN: naming.retain,
    Move.GIVE_GRACE: naming.give_grace,
    Move.WITHDRAW: naming.withdraw,
}

# What the applicant's people are told, as "<programme><words>"; whose turn comes next is told by the state.
_TOLD: Mapping[Move, tuple[str, str]] = {
    Move.RETURN: ("申报被退回补正", "the application was returned for completion"),
    Move.REJECT: ("申报未通过", "the application was not accepted"),
    Move.PUBLISH_NOTICE: ("申报进入公示", "the application is under public notice"),
    Move.NAME: ("已获命名", "the name was given"),
    Move.BEGIN_RECHECK: ("命名进入复查", "the name is being re-checked"),
    Move.RETAIN: ("复查合格, 命名保留", "the name is kept after the re-check"),
    Move.GIVE_GRACE: ("复查要求限期整改", "the re-check gives time to mend"),
    Move.WITHDRAW: ("命名已被撤销", "the name was withdrawn"),
}


def _tell(moving: Moving, step: Move, before: ApplicationState, after: ApplicationState) -> None:
    session, application = moving.session, moving.application
    programme = session.get_one(Programme, application.programme_code)
    words = _TOLD.get(step)
    if words is not None:
        parties.tell(
            session,
            application,
            Party.APPLICANT,
            kind=f"application-{step.value}",
            title_zh=f"{programme.title_zh}: {words[0]}",
            title_en=f"{programme.title_en}: {words[1]}",
            now=moving.now,
        )
    turn = TURN.get(after)
    if turn is not TURN.get(before) and turn in (Party.STREET, Party.DISTRICT):
        parties.tell(
            session,
            application,
            turn,
            kind="application-turn",
            title_zh=f"{programme.title_zh}: 有申报待办理",
            title_en=f"{programme.title_en}: an application waits for you",
            now=moving.now,
        )
