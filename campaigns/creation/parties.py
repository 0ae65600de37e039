"""Who acts for whom in an application, and who is told what."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.creation.models import Application, SubjectKind
from campaigns.creation.steps import Party
from server.access import ORGANISATION_ROLES, Actor, Permission, Role
from server.errors import Forbidden, NotFound
from server.notices import notices
from server.people.models import Staff


def is_applicant(actor: Actor, application: Application) -> bool:
    """Whether the actor acts for the subject: its own staff, or the resident of the household."""
    if application.subject_kind is SubjectKind.HOUSEHOLD:
        return actor.is_resident and actor.id == application.resident_id
    if application.subject_kind is SubjectKind.ORGANISATION:
        return actor.organisation_id is not None and actor.organisation_id == application.organisation_id
    return actor.role is Role.COMMUNITY_STAFF and actor.division == application.division


def require_may_act(actor: Actor, application: Application, permission: Permission) -> None:
    """Raise Forbidden if the actor's role lacks the permission, NotFound if it has it and not for this application.

    The second meets who sees an application only because they are to assess it.
    """
    if not actor.may(permission):
        raise Forbidden
    own = permission is Permission.CREATION_APPLY
    if not (is_applicant(actor, application) if own else actor.covers(application.division)):
        raise NotFound


def people_of(session: Session, application: Application, party: Party) -> Sequence[UUID]:
    """The people of a party to tell. A street without staff leaves its turn to the district; so does the clock."""
    if party is Party.APPLICANT:
        if application.resident_id is not None:
            return [application.resident_id]
        if application.organisation_id is not None:
            scope = sa.and_(Staff.organisation_id == application.organisation_id, Staff.role.in_(ORGANISATION_ROLES))
        else:
            scope = sa.and_(Staff.division == application.division, Staff.role == Role.COMMUNITY_STAFF)
        return _enabled(session, scope)
    if party is Party.STREET:
        street = _enabled(session, sa.and_(Staff.division == application.division[:9], Staff.role == Role.STREET))
        if street:
            return street
    return _enabled(session, sa.and_(Staff.division == application.division[:6], Staff.role == Role.DISTRICT))


def tell(
    session: Session, application: Application, party: Party, *, kind: str, title_zh: str, title_en: str, now: datetime
) -> None:
    """Leave a party's people a message that names the application."""
    people = people_of(session, application, party)
    subject = f"application:{application.id}"
    notices.tell(session, people, kind=kind, subject=subject, title_zh=title_zh, title_en=title_en, now=now)


def _enabled(session: Session, scope: sa.ColumnElement[bool]) -> Sequence[UUID]:
    wanted = sa.select(Staff.id).where(Staff.enabled, scope).order_by(Staff.id).limit(notices.TOLD_AT_ONCE_MAX)
    return session.scalars(wanted).all()
