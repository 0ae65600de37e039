"""Memberships: residents join an organisation with a code that its staff hand out, and leave when they like.

Staff see how many members there are and not who: a school needs to know that its campaign reaches its pupils, not which
of them have the mini-program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server import audit
from server.access import Actor
from server.clock import business_day
from server.errors import NotFound
from server.people import join_codes
from server.people.join_codes import hashed
from server.people.models import OrganisationJoinCode, OrganisationMembership
from server.places.models import Organisation
from server.places.organisations import organisation_for

CODE_PURPOSE = "organisation-join-code"
CODE_DAYS_DEFAULT = 30
CODE_DAYS_MAX = 90
MEMBERSHIPS_SHOWN_MAX = 100


class OrganisationCodeUnknown(NotFound):
    """No organisation has this code now: mistyped, replaced by another, or expired."""

    code, title_zh, title_en = (
        "organisation-code-unknown",
        "单位口令无效或已过期",
        "No organisation has this code now",
    )


class NotMember(NotFound):
    """The resident is not a member of the organisation."""

    code, title_zh, title_en = "not-member", "您不是该单位成员", "You are not a member of this organisation"


@dataclass(frozen=True, slots=True)
class Membership:
    """One of a resident's own memberships."""

    organisation_id: UUID
    organisation_name: str
    group_name: str | None
    joined_at: datetime


@dataclass(frozen=True, slots=True)
class IssuedCode:
    """A join code, shown this once: only its hash is kept."""

    organisation_id: UUID
    join_code: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class MemberCount:
    """How many members an organisation has, and until when its join code works; None without one in force."""

    organisation_id: UUID
    members: int
    code_expires_at: datetime | None


def issue_code(
    session: Session, actor: Actor, organisation_id: UUID, *, days: int, data_key: bytes, now: datetime
) -> IssuedCode:
    """Make the organisation's join code, for `days` days; the one before ends at once. Raises NotFound."""
    organisation = organisation_for(session, actor, organisation_id)
    expires_at = now + timedelta(days=days)
    code = join_codes.issue(
        session,
        OrganisationJoinCode,
        organisation.id,
        purpose=CODE_PURPOSE,
        issued_by=actor.id,
        expires_at=expires_at,
        data_key=data_key,
        now=now,
    )
    audit.record(session, actor, "organisation.join-code", str(organisation.id), now=now, days=days)
    return IssuedCode(organisation.id, code, expires_at)


def count(session: Session, actor: Actor, organisation_id: UUID, *, now: datetime) -> MemberCount:
    """How many members an organisation in the actor's scope has. Raises NotFound."""
    organisation = organisation_for(session, actor, organisation_id)
    members = sa.select(sa.func.count()).where(
        OrganisationMembership.organisation_id == organisation.id, OrganisationMembership.left_at.is_(None)
    )
    expires_at = sa.select(OrganisationJoinCode.expires_at).where(
        OrganisationJoinCode.organisation_id == organisation.id, OrganisationJoinCode.expires_at > now
    )
    return MemberCount(organisation.id, session.scalar(members) or 0, session.scalar(expires_at))


def join(
    session: Session, actor: Actor, *, code: str, group_name: str | None = None, data_key: bytes, now: datetime
) -> Membership:
    """Become a member of the organisation whose code this is; a member who joins again changes the group.

    Raises OrganisationCodeUnknown.
    """
    today = business_day(now)
    organisation = session.scalars(
        sa.select(Organisation)
        .join(OrganisationJoinCode, OrganisationJoinCode.organisation_id == Organisation.id)
        .where(
            OrganisationJoinCode.code_hash == hashed(data_key, CODE_PURPOSE, code),
            OrganisationJoinCode.expires_at > now,
            sa.or_(Organisation.valid_to.is_(None), Organisation.valid_to >= today),
        )
    ).one_or_none()
    if organisation is None:
        raise OrganisationCodeUnknown
    # Who left and comes back is a member from now on; who never left stays one from the day they joined.
    stays = OrganisationMembership.left_at.is_(None)
    joined_at = session.scalars(
        insert(OrganisationMembership)
        .values(
            resident_id=actor.id, organisation_id=organisation.id, group_name=group_name, joined_at=now, left_at=None
        )
        .on_conflict_do_update(
            index_elements=["resident_id", "organisation_id"],
            set_={
                "group_name": group_name,
                "joined_at": sa.case((stays, OrganisationMembership.joined_at), else_=now),
                "left_at": None,
            },
        )
        .returning(OrganisationMembership.joined_at)
    ).one()
    return Membership(organisation.id, organisation.name, group_name, joined_at)


def leave(session: Session, actor: Actor, organisation_id: UUID, *, now: datetime) -> None:
    """End one's membership; what was joined as a member stays joined. Raises NotMember."""
    ended = session.execute(
        sa.update(OrganisationMembership)
        .where(
            OrganisationMembership.resident_id == actor.id,
            OrganisationMembership.organisation_id == organisation_id,
            OrganisationMembership.left_at.is_(None),
        )
        # Clocks of two servers differ by moments: nobody leaves before they joined.
        .values(left_at=sa.func.greatest(now, OrganisationMembership.joined_at), group_name=None)
        .returning(OrganisationMembership.organisation_id)
    ).first()
    if ended is None:
        raise NotMember


def own(session: Session, actor: Actor) -> Sequence[Membership]:
    """The actor's memberships, oldest first; few enough for one answer."""
    rows = session.execute(
        sa.select(
            OrganisationMembership.organisation_id,
            Organisation.name,
            OrganisationMembership.group_name,
            OrganisationMembership.joined_at,
        )
        .join(Organisation, Organisation.id == OrganisationMembership.organisation_id)
        .where(OrganisationMembership.resident_id == actor.id, OrganisationMembership.left_at.is_(None))
        .order_by(OrganisationMembership.joined_at, OrganisationMembership.organisation_id)
        .limit(MEMBERSHIPS_SHOWN_MAX)
    )
    return [Membership(*row) for row in rows]
