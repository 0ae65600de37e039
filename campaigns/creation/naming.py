"""Naming (命名), the public register, and the re-check (复查) that keeps, bends or withdraws a name."""

import calendar
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.creation import parties
from campaigns.creation.applications import application_for
from campaigns.creation.models import (
    Application,
    ApplicationMove,
    Naming,
    NamingSerial,
    Programme,
    Recheck,
    Rubric,
)
from campaigns.creation.moving import Moving
from campaigns.creation.steps import ApplicationState, Move
from server import audit
from server.access import Actor, Permission
from server.clock import business_day, day_start
from server.errors import Conflict, DomainError, NotFound
from server.paging import Page, decode, page_of

HISTORY_MAX = 200

# What the public reads of a name's history: the deeds and their days, neither people nor reasons.
PUBLIC_MOVES = (
    Move.NAME,
    Move.BEGIN_RECHECK,
    Move.RETAIN,
    Move.GIVE_GRACE,
    Move.REPORT_MENDED,
    Move.WITHDRAW,
)


class _Key(msgspec.Struct, array_like=True):
    """What a cursor of the register holds: anybody may write one, so it is held to the shape of a number."""

    number: Annotated[str, msgspec.Meta(pattern="^[0-9A-Z-]{1,30}$")]


class NamingIncomplete(Conflict):
    """The database refused a name: an assessment, the notice or an answer is missing."""

    code, title_zh, title_en = "naming-incomplete", "命名条件不具备", "The conditions of a name are not fulfilled"
    constraints = ("naming_proven",)


class PlaqueTooEarly(DomainError):
    """A plaque is given on or after the day of naming, and not in the future; a withdrawn name gets none."""

    code, status, title_zh, title_en = "plaque-too-early", 422, "授牌日期无效", "The plaque's day does not fit"


class RecheckClosed(Conflict):
    """No re-check is open whose findings could be recorded."""

    code, title_zh, title_en = "recheck-closed", "当前没有进行中的复查", "No re-check is open"


class RecheckDayInvalid(DomainError):
    """The visit lies between the first day of the re-check and today."""

    code, status, title_zh, title_en = "recheck-day-invalid", 422, "复查日期无效", "The visit's day does not fit"


class Standing(enum.StrEnum):
    """How a name stands."""

    STANDING = "standing"
    RECHECK = "recheck"
    GRACE = "grace"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class RegisterLine:
    """One line of the public register, as it stands today."""

    naming: Naming
    application: Application
    programme: Programme
    rubric: Rubric
    standing: Standing
    history: Sequence[ApplicationMove] = ()


# Effects of moves


def name(moving: Moving) -> datetime | None:
    """Write the line of the register under the next number of the programme and year."""
    session, application, today = moving.session, moving.application, business_day(moving.now)
    rubric = session.get_one(Rubric, application.rubric_id)
    programme = session.get_one(Programme, application.programme_code)
    # One row a programme and year, held until the commit: namings are few, and their numbers have no gaps.
    upsert = insert(NamingSerial).values(programme_code=programme.code, year=today.year, last=1)
    serial = session.execute(
        upsert.on_conflict_do_update(
            index_elements=["programme_code", "year"], set_={"last": NamingSerial.last + 1}
        ).returning(NamingSerial.last)
    ).scalar_one()
    session.add(
        Naming(
            application_id=application.id,
            number=f"{application.division[:6]}-{programme.number_prefix}-{today.year}-{serial:04d}",
            named_on=today,
            valid_until=months_after(today, rubric.validity_months),
            recheck_due_on=months_after(today, rubric.recheck_months),
            named_by=moving.moved_by,
            named_at=moving.now,
        )
    )
    session.flush()
    return None


def begin_recheck(moving: Moving) -> datetime | None:
    """Open the next re-check; a grace that was running is over."""
    session, application = moving.session, moving.application
    newest = sa.select(sa.func.coalesce(sa.func.max(Recheck.position), 0)).where(
        Recheck.application_id == application.id
    )
    position = session.execute(newest).scalar_one() + 1
    session.add(Recheck(application_id=application.id, position=position, began_on=business_day(moving.now)))
    _change(session, application.id, grace_until=None)
    session.flush()
    return None


def retain(moving: Moving) -> datetime | None:
    """Keep the name: it is valid anew from today, and the next re-check is set."""
    session, application, today = moving.session, moving.application, business_day(moving.now)
    rubric = session.get_one(Rubric, application.rubric_id)
    _decide(session, application.id, Move.RETAIN)
    _change(
        session,
        application.id,
        valid_until=sa.func.greatest(Naming.valid_until, months_after(today, rubric.validity_months)),
        recheck_due_on=months_after(today, rubric.recheck_months),
    )
    return None


def give_grace(moving: Moving) -> datetime | None:
    """Set the last day by which what was found has to be mended; the instant after it."""
    if moving.grace_until is None:
        raise TypeError("a grace without its last day")
    _decide(moving.session, moving.application.id, Move.GIVE_GRACE)
    _change(moving.session, moving.application.id, grace_until=moving.grace_until)
    return day_start(moving.grace_until + timedelta(days=1))


def withdraw(moving: Moving) -> datetime | None:
    """Take the name away; its line stays in the register."""
    session, application = moving.session, moving.application
    if application.state is ApplicationState.RECHECK:
        _decide(session, application.id, Move.WITHDRAW)
    _change(session, application.id, withdrawn_on=business_day(moving.now), recheck_due_on=None, grace_until=None)
    return None


def _decide(session: Session, application_id: UUID, result: Move) -> None:
    session.execute(
        sa.update(Recheck)
        .where(Recheck.application_id == application_id, Recheck.result.is_(None))
        .values(result=result)
    )


def _change(session: Session, application_id: UUID, **values: object) -> None:
    session.execute(sa.update(Naming).where(Naming.application_id == application_id).values(**values))


def months_after(day: date, months: int) -> date:
    """The same day of a later month, or its last day if it has none such (Civil Code, article 202)."""
    years, month = divmod(day.month - 1 + months, 12)
    year = day.year + years
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


# What staff do besides the moves


def set_plaque_day(session: Session, actor: Actor, application_id: UUID, plaque_on: date, *, now: datetime) -> Naming:
    """Record the day on which the plaque was given. Raises NotFound, Forbidden, PlaqueTooEarly."""
    parties.require_may_act(actor, application_for(session, actor, application_id), Permission.CREATION_DECIDE)
    naming = session.get(Naming, application_id, populate_existing=True)
    if naming is None:
        raise NotFound
    if not naming.named_on <= plaque_on <= business_day(now) or naming.withdrawn_on is not None:
        raise PlaqueTooEarly
    _change(session, application_id, plaque_on=plaque_on)
    audit.record(session, actor, "naming.plaque", str(application_id), now=now, plaque_on=str(plaque_on))
    session.refresh(naming)
    return naming


def record_findings(
    session: Session,
    actor: Actor,
    application_id: UUID,
    *,
    visited_on: date,
    people: Sequence[str],
    findings: str,
    now: datetime,
) -> Recheck:
    """Record what the open re-check found; until it is decided, the newest record counts.

    Raises NotFound, Forbidden, RecheckClosed, RecheckDayInvalid.
    """
    application = application_for(session, actor, application_id, held=True)
    parties.require_may_act(actor, application, Permission.CREATION_REVIEW)
    if application.state is not ApplicationState.RECHECK:
        raise RecheckClosed
    recheck = session.scalars(
        sa.select(Recheck).where(Recheck.application_id == application_id, Recheck.result.is_(None))
    ).one_or_none()
    if recheck is None:
        raise RecheckClosed
    if not recheck.began_on <= visited_on <= business_day(now):
        raise RecheckDayInvalid
    recheck.visited_on, recheck.people, recheck.findings = visited_on, list(people), findings
    recheck.recorded_by, recheck.recorded_at = actor.id, now
    session.flush()
    audit.record(session, actor, "recheck.record", str(application_id), now=now, position=recheck.position)
    return recheck


def rechecks_of(session: Session, actor: Actor, application_id: UUID) -> Sequence[Recheck]:
    """Every re-check of a name that the actor may see, the first first. Raises NotFound."""
    application_for(session, actor, application_id)
    wanted = sa.select(Recheck).where(Recheck.application_id == application_id).order_by(Recheck.position)
    return session.scalars(wanted.limit(HISTORY_MAX)).all()


# The public register


def list_register(
    session: Session,
    *,
    programme: str | None = None,
    division: str | None = None,
    standing: bool = False,
    on: date,
    limit: int,
    cursor: str | None,
) -> Page[RegisterLine]:
    """The names ever given, by number: of one programme, of one division; with `standing` those that stand today.

    Raises BadCursor.
    """
    wanted = _lines().order_by(Naming.number).limit(limit + 1)
    if programme is not None:
        wanted = wanted.where(Application.programme_code == programme)
    if division is not None:
        wanted = wanted.where(Application.division.startswith(division, autoescape=True))
    if standing:
        wanted = wanted.where(Naming.withdrawn_on.is_(None), Naming.valid_until >= on)
    if cursor is not None:
        wanted = wanted.where(Naming.number > decode(cursor, _Key).number)
    rows = [_line(row, on) for row in session.execute(wanted)]
    return page_of(rows, limit, lambda row: (row.naming.number,))


def line_for(session: Session, number: str, *, on: date) -> RegisterLine:
    """The line of a number with its history, so that a plaque can be verified. Raises NotFound."""
    row = session.execute(_lines().where(Naming.number == number)).one_or_none()
    if row is None:
        raise NotFound
    application_id = row[0].application_id
    history = session.scalars(
        sa.select(ApplicationMove)
        .where(ApplicationMove.application_id == application_id, ApplicationMove.move.in_(PUBLIC_MOVES))
        .order_by(ApplicationMove.position)
        .limit(HISTORY_MAX)
    ).all()
    return _line(row, on, history)


def _lines() -> sa.Select[Naming, Application, Programme, Rubric]:
    return (
        sa.select(Naming, Application, Programme, Rubric)
        .join(Application, Application.id == Naming.application_id)
        .join(Programme, Programme.code == Application.programme_code)
        .join(Rubric, Rubric.id == Application.rubric_id)
        .execution_options(populate_existing=True)
    )


def _line(
    row: sa.Row[Naming, Application, Programme, Rubric], on: date, history: Sequence[ApplicationMove] = ()
) -> RegisterLine:
    naming, application, programme, rubric = row
    return RegisterLine(naming, application, programme, rubric, _standing(naming, application, on), history)


def _standing(naming: Naming, application: Application, on: date) -> Standing:
    if naming.withdrawn_on is not None:
        return Standing.WITHDRAWN
    if naming.valid_until < on:
        return Standing.EXPIRED
    by_state = {ApplicationState.RECHECK: Standing.RECHECK, ApplicationState.GRACE: Standing.GRACE}
    return by_state.get(application.state, Standing.STANDING)
