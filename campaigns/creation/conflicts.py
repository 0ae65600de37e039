"""Ties of an assessor to an applicant: what the records show, and what people declare.

Nobody assesses the organisation or community that they belong to. It is asked when an assessor is assigned, again at
every mark and at the submission, and by a trigger of the database.
"""

import enum
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from campaigns.creation.models import (
    Application,
    ApplicationAnswer,
    ApplicationEvidence,
    ApplicationMove,
    ApplicationPrecondition,
    Assessment,
    AssessorConflict,
)
from server import audit
from server.access import Actor, Permission
from server.database import new_id
from server.errors import Conflict, DomainError, Forbidden, NotFound
from server.notices.notices import tell
from server.paging import Page, decode, page_of
from server.people.models import Staff
from server.people.staff import staff_for
from server.places.divisions import division_for
from server.places.models import Organisation

STANDING_MAX = 50


class Tie(enum.StrEnum):
    """Why somebody may not assess an application."""

    OWN_ORGANISATION = "own-organisation"
    OWN_COMMUNITY = "own-community"
    OWN_STREET = "own-street"
    DECLARED = "declared"
    TOOK_PART = "took-part"


TIE_TEXTS: Mapping[Tie, tuple[str, str]] = {
    Tie.OWN_ORGANISATION: ("申报单位的工作人员", "Belongs to the organisation that applies"),
    Tie.OWN_COMMUNITY: ("属于申报对象所在社区", "Belongs to the community of the applicant"),
    Tie.OWN_STREET: ("属于初审该申报的街道", "Belongs to the street that reviewed the application first"),
    Tie.DECLARED: ("已申明利益关系", "Declared a tie"),
    Tie.TOOK_PART: ("参与过该申报的办理", "Took part in making or reviewing the application"),
}


class AssessorTied(Conflict):
    """The person has a tie to the applicant; `ties` lists which."""

    code, title_zh, title_en = (
        "assessor-tied",
        "评审人员与申报对象有利益关系, 应当回避",
        "The assessor has a tie to the applicant",
    )
    constraints = ("assessment_assessor_tied",)


class TieExists(Conflict):
    """This tie is declared already."""

    code, title_zh, title_en = "tie-exists", "该利益关系已申明", "This tie is declared already"


class TooManyTies(Conflict):
    """One person has at most STANDING_MAX declared ties."""

    code, title_zh, title_en = "too-many-ties", "申明的利益关系过多", "Too many declared ties"


class TieEndedByOwner(Forbidden):
    """Declaring is for everybody; that a tie is over is for another person to find."""

    code, title_zh, title_en = (
        "tie-ended-by-owner",
        "不能自行解除本人的利益关系申明",
        "Another person ends a declared tie, not its owner",
    )
    constraints = ("assessor_conflict_ended_by_another_check",)


class TieSubjectInvalid(DomainError):
    """A tie names one division or one organisation that exists."""

    code, status, title_zh, title_en = (
        "tie-subject-invalid",
        422,
        "利益关系的对象无效",
        "A tie names one division or one organisation that exists",
    )


def ties_of(session: Session, staff_id: UUID, application: Application) -> Sequence[Tie]:
    """The ties of a member of staff to an application's subject, as they stand now; none for an unknown person."""
    member = session.get(Staff, staff_id, populate_existing=True)
    if member is None:
        return []
    return [
        tie
        for tie, holds in (
            (Tie.OWN_ORGANISATION, _of_organisation(member, application)),
            (Tie.OWN_COMMUNITY, _of_community(session, member, application)),
            (Tie.OWN_STREET, _of_street(member, application)),
            (Tie.DECLARED, _declared(session, staff_id, application)),
            (Tie.TOOK_PART, _took_part(session, staff_id, application.id)),
        )
        if holds
    ]


def require_untied(session: Session, staff_id: UUID, application: Application) -> None:
    """Raise AssessorTied naming the ties, if there are any."""
    found = ties_of(session, staff_id, application)
    if found:
        raise AssessorTied(
            ties=[{"code": tie.value, "zh": TIE_TEXTS[tie][0], "en": TIE_TEXTS[tie][1]} for tie in found]
        )


def declare(
    session: Session,
    actor: Actor,
    *,
    staff_id: UUID | None = None,
    division: str | None = None,
    organisation_id: UUID | None = None,
    reason: str,
    now: datetime,
) -> AssessorConflict:
    """Declare a tie of one's own, or (the district) of another member of staff; it takes them off what it concerns.

    Assessments that were submitted before stay: they were made when no tie was known, and the trail shows both.

    Raises NotFound, Forbidden, TieSubjectInvalid, TieExists, TooManyTies.
    """
    owner = staff_id or actor.id
    _require_may_keep(session, actor, owner)
    if (division is None) == (organisation_id is None):
        raise TieSubjectInvalid
    if division is not None and not _division_exists(session, division):
        raise TieSubjectInvalid
    if organisation_id is not None and session.get(Organisation, organisation_id) is None:
        raise TieSubjectInvalid
    # Held until the end: a submission at this moment either comes before, or waits and then sees the tie.
    session.scalar(sa.select(Staff.id).where(Staff.id == owner).with_for_update())
    standing = sa.select(sa.func.count()).where(AssessorConflict.staff_id == owner, AssessorConflict.ended_at.is_(None))
    if (session.scalar(standing) or 0) >= STANDING_MAX:
        raise TooManyTies
    added: AssessorConflict | None = session.scalar(
        insert(AssessorConflict)
        .values(
            id=new_id(),
            staff_id=owner,
            division=division,
            organisation_id=organisation_id,
            reason=reason.strip(),
            declared_by=actor.id,
            declared_at=now,
        )
        .on_conflict_do_nothing()
        .returning(AssessorConflict)
    )
    if added is None:
        raise TieExists
    taken_off = _take_off(session, added, now=now)
    audit.record(
        session,
        actor,
        "assessor.tie.declare",
        str(owner),
        now=now,
        division=division,
        organisation_id=str(organisation_id) if organisation_id else None,
        taken_off=[str(application_id) for application_id in taken_off],
    )
    return added


def end(session: Session, actor: Actor, tie_id: UUID, *, now: datetime) -> AssessorConflict:
    """Find a tie of another person's to be over; the district's. Raises NotFound, TieEndedByOwner."""
    found = session.get(AssessorConflict, tie_id, populate_existing=True)
    if found is None:
        raise NotFound
    staff_for(session, actor, found.staff_id)
    if found.staff_id == actor.id:
        raise TieEndedByOwner
    ended = session.scalars(
        sa.update(AssessorConflict)
        .where(AssessorConflict.id == tie_id, AssessorConflict.ended_at.is_(None))
        .values(ended_by=actor.id, ended_at=now)
        .returning(AssessorConflict)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if ended is None:
        raise NotFound
    audit.record(session, actor, "assessor.tie.end", str(ended.staff_id), now=now, tie=str(tie_id))
    return ended


def list_ties(
    session: Session, actor: Actor, *, staff_id: UUID | None = None, limit: int, cursor: str | None
) -> Page[AssessorConflict]:
    """The standing ties of the actor, or (the district) of another member of staff, oldest first.

    Raises NotFound, Forbidden, BadCursor.
    """
    owner = staff_id or actor.id
    _require_may_keep(session, actor, owner)
    wanted = (
        sa.select(AssessorConflict)
        .where(AssessorConflict.staff_id == owner, AssessorConflict.ended_at.is_(None))
        .order_by(AssessorConflict.id)
        .limit(limit + 1)
    )
    if cursor is not None:
        wanted = wanted.where(AssessorConflict.id > decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))


def _require_may_keep(session: Session, actor: Actor, owner: UUID) -> None:
    """Everybody keeps their own ties, the district those of the staff in its scope. Raises Forbidden, NotFound."""
    if owner == actor.id:
        return
    if not actor.may(Permission.CREATION_DECIDE):
        raise Forbidden
    staff_for(session, actor, owner)


def _division_exists(session: Session, code: str) -> bool:
    try:
        division_for(session, code)
    except NotFound:
        return False
    return True


def _of_organisation(member: Staff, application: Application) -> bool:
    return application.organisation_id is not None and member.organisation_id == application.organisation_id


def _of_community(session: Session, member: Staff, application: Application) -> bool:
    """Staff of the applicant's community; and, when the community itself applies, of every organisation inside it.

    One school of a community may assess another: they share no more than the place.
    """
    if member.division == application.division:
        return True
    if member.organisation_id is None or application.organisation_id is not None:
        return False
    place = sa.select(Organisation.community_code).where(Organisation.id == member.organisation_id)
    return session.scalar(place) == application.division


def _of_street(member: Staff, application: Application) -> bool:
    return (
        member.division is not None and len(member.division) == 9 and application.division.startswith(member.division)
    )


def _declared(session: Session, staff_id: UUID, application: Application) -> bool:
    concerned = [sa.literal(application.division).startswith(AssessorConflict.division)]
    if application.organisation_id is not None:
        concerned.append(AssessorConflict.organisation_id == application.organisation_id)
    return bool(
        session.scalar(
            sa.select(
                sa.exists().where(
                    AssessorConflict.staff_id == staff_id, AssessorConflict.ended_at.is_(None), sa.or_(*concerned)
                )
            )
        )
    )


def _took_part(session: Session, staff_id: UUID, application_id: UUID) -> bool:
    """Whether somebody, in whatever role they then had, made, filled or moved the application."""
    acts = (
        sa.exists().where(Application.id == application_id, Application.created_by == staff_id),
        sa.exists().where(ApplicationMove.application_id == application_id, ApplicationMove.moved_by == staff_id),
        sa.exists().where(
            ApplicationAnswer.application_id == application_id, ApplicationAnswer.answered_by == staff_id
        ),
        sa.exists().where(
            ApplicationEvidence.application_id == application_id, ApplicationEvidence.added_by == staff_id
        ),
        sa.exists().where(
            ApplicationPrecondition.application_id == application_id,
            sa.or_(ApplicationPrecondition.declared_by == staff_id, ApplicationPrecondition.confirmed_by == staff_id),
        ),
    )
    return bool(session.scalar(sa.select(sa.or_(*acts))))


def _take_off(session: Session, tie: AssessorConflict, *, now: datetime) -> Sequence[UUID]:
    """Delete the person's open assessments of what the tie concerns, and tell who assigned them.

    The applications that now want another assessor.
    """
    concerned = (
        Application.organisation_id == tie.organisation_id
        if tie.organisation_id is not None
        else Application.division.startswith(tie.division or "", autoescape=True)
    )
    taken_off = session.execute(
        sa.delete(Assessment)
        .where(
            Assessment.staff_id == tie.staff_id,
            Assessment.submitted_at.is_(None),
            Assessment.application_id.in_(sa.select(Application.id).where(concerned)),
        )
        .returning(Assessment.application_id, Assessment.assigned_by)
        .execution_options(synchronize_session=False)
    ).all()
    for application_id, assigned_by in taken_off:
        tell(
            session,
            {assigned_by},
            kind="assessor-taken-off",
            subject=f"application:{application_id}",
            title_zh="一名评审人员因利益关系回避, 请另行指派",
            title_en="An assessor has a tie to the applicant and was taken off; assign another",
            now=now,
        )
    return [application_id for application_id, _ in taken_off]
