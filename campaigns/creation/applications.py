"""Applications: who begins one, who sees it, and what the applicant says of each item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.creation import rubrics
from campaigns.creation.models import (
    Application,
    ApplicationAnswer,
    ApplicationMove,
    ApplicationPrecondition,
    Assessment,
    Naming,
    Programme,
    RubricItem,
    RubricPrecondition,
    SubjectKind,
)
from campaigns.creation.parties import require_may_act
from campaigns.creation.rubrics import AnswerInvalid, ProgrammeTakesNone, check_value
from campaigns.creation.steps import NAMES_STANDING, ApplicationState
from server import audit
from server.access import Actor, Permission, Role
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, DomainError, NotFound, PreconditionFailed
from server.paging import Page, decode, page_of
from server.people.models import Resident
from server.places.divisions import community_for
from server.places.models import Organisation

# The applicant's own turn: only then do the answers, the declarations and the evidence change.
EDITABLE = (ApplicationState.DRAFT, ApplicationState.SELF_ASSESSMENT, ApplicationState.RETURNED)


class SubjectUnsuitable(DomainError):
    """The programme is for others: a school does not apply for a green mall."""

    code, status, title_zh, title_en = "subject-unsuitable", 422, "申报主体不符合该项目", "The programme is for others"


class HomeUnknown(DomainError):
    """A household is of a community; the resident names theirs in the profile first."""

    code, status, title_zh, title_en = "home-unknown", 422, "请先填写所在社区", "Name your home community first"


class RubricMissing(Conflict):
    """No rubric of this programme is in force."""

    code, title_zh, title_en = "rubric-missing", "该项目尚无生效的评价标准", "The programme has no rubric in force"


class ApplicationExists(Conflict):
    """One application at a time for each subject, programme and year of the rubric."""

    code, title_zh, title_en = "application-exists", "本年度已有申报", "There is an application of this year already"
    constraints = ("application_community_key", "application_organisation_key", "application_household_key")


class AlreadyNamed(Conflict):
    """The subject bears this name; it is kept by the re-check and not by another application."""

    code, title_zh, title_en = "already-named", "已获命名且在有效期内", "The subject bears this name already"


class ApplicationClosed(Conflict):
    """It is not the applicant's turn, so the application does not change."""

    code, title_zh, title_en = "application-closed", "申报当前不能修改", "The application cannot be changed now"


class PreconditionUnknown(DomainError):
    """The rubric has no precondition of this code, or the applicant has not declared it."""

    code, status, title_zh, title_en = "precondition-unknown", 422, "前置条件无效", "No such precondition"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the applicant says of one item."""

    item_code: str
    value: Decimal
    note: str = ""


def create(
    session: Session,
    actor: Actor,
    *,
    programme_code: str,
    household_name: str | None = None,
    statement: str = "",
    now: datetime,
) -> Application:
    """Begin a draft for the actor's own community, organisation or household under the rubric in force.

    `household_name` is what the public notice will say of a household, which chooses it itself.

    Raises NotFound, ProgrammeTakesNone, SubjectUnsuitable, HomeUnknown, RubricMissing, AlreadyNamed, ApplicationExists.
    """
    programme = session.get(Programme, programme_code)
    if programme is None:
        raise NotFound
    if programme.subject_kind is None:
        raise ProgrammeTakesNone
    subject = _subject(session, actor, programme, household_name, now)
    rubric = rubrics.in_force(session, programme_code, year=business_day(now).year)
    if rubric is None:
        raise RubricMissing
    same = [getattr(Application, name) == subject[name] for name in ("division", "organisation_id", "resident_id")]
    if subject["subject_kind"] is SubjectKind.HOUSEHOLD:
        same = same[2:]  # who moves house takes the name along
    named = (
        sa.exists()
        .where(Application.programme_code == programme_code, Application.state.in_(NAMES_STANDING), *same)
        .where(Naming.application_id == Application.id, Naming.valid_until >= business_day(now))
    )
    if session.scalar(sa.select(named)):
        raise AlreadyNamed
    application = Application(
        id=new_id(),
        programme_code=programme_code,
        rubric_id=rubric.id,
        year=rubric.year,
        **subject,
        statement=statement,
        state=ApplicationState.DRAFT,
        moves=0,
        version=1,
        step_since=now,
        created_by=actor.id,
        created_at=now,
    )
    session.add(application)
    session.flush()
    _audit(session, actor, "application.create", application.id, now=now, programme=programme_code)
    return application


def _subject(
    session: Session, actor: Actor, programme: Programme, household_name: str | None, now: datetime
) -> dict[str, Any]:
    """Who the actor applies for, as columns. Raises SubjectUnsuitable, HomeUnknown."""
    today = business_day(now)
    subject: dict[str, Any] = {"subject_kind": programme.subject_kind, "organisation_id": None, "resident_id": None}
    if (household_name is not None) != (programme.subject_kind is SubjectKind.HOUSEHOLD):
        raise SubjectUnsuitable("A household, and nothing else, brings the name that will be published")
    if programme.subject_kind is SubjectKind.HOUSEHOLD:
        if not actor.is_resident:
            raise SubjectUnsuitable
        home = session.scalar(sa.select(Resident.community_code).where(Resident.resident_id == actor.id))
        if home is None:
            raise HomeUnknown
        return {**subject, "resident_id": actor.id, "division": home, "subject_name": household_name}
    if programme.subject_kind is SubjectKind.ORGANISATION:
        own = session.get(Organisation, actor.organisation_id) if actor.organisation_id else None
        if own is None or own.kind is not programme.organisation_kind:
            raise SubjectUnsuitable
        if own.valid_to is not None and own.valid_to < today:
            raise SubjectUnsuitable
        return {**subject, "organisation_id": own.id, "division": own.community_code, "subject_name": own.name}
    if actor.role is not Role.COMMUNITY_STAFF or actor.division is None:
        raise SubjectUnsuitable
    community = community_for(session, actor.division, today)
    return {**subject, "division": community.code, "subject_name": community.name}


def application_for(session: Session, actor: Actor, application_id: UUID, *, held: bool = False) -> Application:
    """An application that the actor may see; `held` locks it, fresh, until the transaction ends.

    The applicant's people see their own from the first word, the street and the district from the submission on, and
    whoever is assigned to assess it. Nobody else. Raises NotFound.
    """
    wanted = sa.select(Application).where(Application.id == application_id, visible(actor))
    if held:
        wanted = wanted.with_for_update(of=Application)
    found = session.scalars(wanted.execution_options(populate_existing=True)).one_or_none()
    if found is None:
        raise NotFound
    return found


def applicant_for(session: Session, actor: Actor, application_id: UUID, *, held: bool = False) -> Application:
    """An application that the actor acts for. Raises NotFound, Forbidden."""
    found = application_for(session, actor, application_id, held=held)
    require_may_act(actor, found, Permission.CREATION_APPLY)
    return found


def _editable(session: Session, actor: Actor, application_id: UUID) -> Application:
    """The actor's own application, held, while it can change. Raises NotFound, Forbidden, ApplicationClosed."""
    found = applicant_for(session, actor, application_id, held=True)
    if found.state not in EDITABLE:
        raise ApplicationClosed(state=found.state.value)
    return found


def visible(actor: Actor) -> sa.ColumnElement[bool]:
    """The condition that an actor may see an application."""
    assigned = sa.exists().where(Assessment.application_id == Application.id, Assessment.staff_id == actor.id)
    own: sa.ColumnElement[bool]
    if actor.is_resident:
        return Application.resident_id == actor.id
    if actor.organisation_id is not None:
        own = Application.organisation_id == actor.organisation_id
    elif actor.role is Role.COMMUNITY_STAFF:
        own = sa.and_(Application.subject_kind == SubjectKind.COMMUNITY, Application.division == actor.division)
    elif actor.division is not None and actor.may(Permission.CREATION_REVIEW):
        own = sa.and_(
            Application.division.startswith(actor.division, autoescape=True), Application.submitted_at.is_not(None)
        )
    else:
        own = sa.false()
    return sa.or_(own, assigned)


def list_applications(
    session: Session,
    actor: Actor,
    *,
    programme: str | None = None,
    year: int | None = None,
    state: ApplicationState | None = None,
    overdue: bool = False,
    now: datetime,
    limit: int,
    cursor: str | None,
) -> Page[Application]:
    """The applications that the actor may see, newest first; with `overdue` those whose step is past its time.

    Raises BadCursor.
    """
    wanted = sa.select(Application).where(visible(actor)).order_by(Application.id.desc()).limit(limit + 1)
    if programme is not None:
        wanted = wanted.where(Application.programme_code == programme)
    if year is not None:
        wanted = wanted.where(Application.year == year)
    if state is not None:
        wanted = wanted.where(Application.state == state)
    if overdue:
        wanted = wanted.where(Application.step_due_at <= now)
    if cursor is not None:
        wanted = wanted.where(Application.id < decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))


def edit(
    session: Session, actor: Actor, application_id: UUID, changes: Mapping[str, Any], *, version: int, now: datetime
) -> Application:
    """Change the statement, or the name under which a household is published.

    Raises NotFound, Forbidden, ApplicationClosed, SubjectUnsuitable, PreconditionFailed.
    """
    application = _editable(session, actor, application_id)
    values = {"statement": changes.get("statement", application.statement)}
    if "household_name" in changes:
        if application.subject_kind is not SubjectKind.HOUSEHOLD:
            raise SubjectUnsuitable
        values["subject_name"] = changes["household_name"]
    _advance(session, application, version, **values)
    _audit(session, actor, "application.edit", application_id, now=now, changed=sorted(changes))
    return application


def answer(
    session: Session, actor: Actor, application_id: UUID, answers: Sequence[Answer], *, version: int, now: datetime
) -> Application:
    """Write the self-assessment of some items; the others keep what was said before.

    Raises NotFound, Forbidden, ApplicationClosed before the self-assessment begins and out of turn, AnswerInvalid,
    PreconditionFailed.
    """
    application = _editable(session, actor, application_id)
    if application.state is ApplicationState.DRAFT:
        raise ApplicationClosed(state=application.state.value)
    items = items_of(session, application.rubric_id)
    for each in answers:
        if each.item_code not in items:
            raise AnswerInvalid(item=each.item_code)
        check_value(items[each.item_code], each.value)
    _advance(session, application, version)
    if answers:
        said = {each.item_code: each for each in answers}
        rows = [
            {
                "application_id": application_id,
                "item_code": each.item_code,
                "value": each.value,
                "note": each.note,
                "answered_by": actor.id,
                "answered_at": now,
            }
            for each in said.values()
        ]
        upsert = insert(ApplicationAnswer)
        upsert = upsert.on_conflict_do_update(
            index_elements=["application_id", "item_code"],
            set_={name: upsert.excluded[name] for name in ("value", "note", "answered_by", "answered_at")},
        )
        session.execute(upsert, rows)
        _audit(session, actor, "application.answer", application_id, now=now, items=len(rows))
    return application


def declare(
    session: Session, actor: Actor, application_id: UUID, codes: Sequence[str], *, version: int, now: datetime
) -> Application:
    """Declare that these preconditions hold, and no others; what was confirmed has to be confirmed anew.

    Raises NotFound, Forbidden, ApplicationClosed, PreconditionUnknown, PreconditionFailed.
    """
    application = _editable(session, actor, application_id)
    known = preconditions_of(session, application.rubric_id)
    if not set(codes) <= set(known):
        raise PreconditionUnknown(codes=sorted(set(codes) - set(known)))
    _advance(session, application, version)
    session.execute(sa.delete(ApplicationPrecondition).where(ApplicationPrecondition.application_id == application_id))
    session.add_all(
        ApplicationPrecondition(application_id=application_id, code=code, declared_by=actor.id, declared_at=now)
        for code in sorted(set(codes))
    )
    session.flush()
    _audit(session, actor, "application.declare", application_id, now=now, codes=sorted(set(codes)))
    return application


def confirm(
    session: Session, actor: Actor, application_id: UUID, codes: Sequence[str], *, now: datetime
) -> Application:
    """The street's word that these declared preconditions hold, and no others.

    Raises NotFound, Forbidden, ApplicationClosed outside the street's review, PreconditionUnknown.
    """
    application = application_for(session, actor, application_id, held=True)
    require_may_act(actor, application, Permission.CREATION_REVIEW)
    if application.state is not ApplicationState.STREET_REVIEW:
        raise ApplicationClosed(state=application.state.value)
    mine = ApplicationPrecondition.application_id == application_id
    declared = set(session.scalars(sa.select(ApplicationPrecondition.code).where(mine)))
    if not set(codes) <= declared:
        raise PreconditionUnknown(codes=sorted(set(codes) - declared))
    session.execute(sa.update(ApplicationPrecondition).where(mine).values(confirmed_by=None, confirmed_at=None))
    session.execute(
        sa.update(ApplicationPrecondition)
        .where(mine, ApplicationPrecondition.code.in_(codes))
        .values(confirmed_by=actor.id, confirmed_at=now)
    )
    _audit(session, actor, "application.confirm", application_id, now=now, codes=sorted(set(codes)))
    return application


def answers_of(session: Session, application_id: UUID) -> Sequence[ApplicationAnswer]:
    """What the applicant said, by item."""
    wanted = sa.select(ApplicationAnswer).where(ApplicationAnswer.application_id == application_id)
    return session.scalars(wanted.order_by(ApplicationAnswer.item_code).execution_options(populate_existing=True)).all()


def declared_of(session: Session, application_id: UUID) -> Sequence[ApplicationPrecondition]:
    """The preconditions that were declared, by code."""
    wanted = sa.select(ApplicationPrecondition).where(ApplicationPrecondition.application_id == application_id)
    return session.scalars(
        wanted.order_by(ApplicationPrecondition.code).execution_options(populate_existing=True)
    ).all()


def moves_of(
    session: Session, actor: Actor, application_id: UUID, *, limit: int, cursor: str | None
) -> Page[ApplicationMove]:
    """Every move so far, the first first. Raises NotFound, BadCursor."""
    application_for(session, actor, application_id)
    wanted = (
        sa.select(ApplicationMove)
        .where(ApplicationMove.application_id == application_id)
        .order_by(ApplicationMove.position)
        .limit(limit + 1)
    )
    if cursor is not None:
        wanted = wanted.where(ApplicationMove.position > decode(cursor, tuple[int])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.position,))


def items_of(session: Session, rubric_id: UUID) -> dict[str, RubricItem]:
    """The items of a rubric by their codes, in their order."""
    wanted = sa.select(RubricItem).where(RubricItem.rubric_id == rubric_id).order_by(RubricItem.position)
    return {item.code: item for item in session.scalars(wanted)}


def preconditions_of(session: Session, rubric_id: UUID) -> list[str]:
    """The codes of a rubric's preconditions, in their order."""
    wanted = sa.select(RubricPrecondition.code).where(RubricPrecondition.rubric_id == rubric_id)
    return list(session.scalars(wanted.order_by(RubricPrecondition.position)))


def _advance(session: Session, application: Application, version: int, **values: Any) -> None:
    """Count the version up, if it is still the one that was read. Raises PreconditionFailed."""
    advanced = session.scalars(
        sa.update(Application)
        .where(Application.id == application.id, Application.version == version)
        .values(**values, version=version + 1)
        .returning(Application)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if advanced is None:
        raise PreconditionFailed


def _audit(session: Session, actor: Actor, act: str, application_id: UUID, *, now: datetime, **detail: Any) -> None:
    """The trail is of staff; what a resident does with their own household's application is no act of staff."""
    if not actor.is_resident:
        audit.record(session, actor, act, str(application_id), now=now, **detail)
