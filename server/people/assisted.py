"""Residents without a phone of their own: registered by staff, to whom they accept the terms on paper.

Staff find them again here, or whoever telephones by the number that WeChat has vouched for, and act for them at their
word: never for themselves or the people they live with, and audited.
"""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server import audit
from server.access import Actor
from server.clock import business_day
from server.database import lock_name, new_id
from server.errors import Conflict, InvalidRequest, NotFound
from server.paging import Page, decode, page_of
from server.people import residents, staff_links
from server.people.models import Consent, ConsentPurpose, Resident, WechatIdentity
from server.people.residents import TERMS_TEXT_VERSION
from server.places.divisions import community_for

# Under fourteen only with a guardian's consent (PIPL 31), and there is no guardian's account to give it.
AGE_MIN = 14

# The subject in the trail of a look-up that found nobody.
UNKNOWN_CALLER = "unknown"


class RegisteredAlready(Conflict):
    """Somebody without a phone is registered in this community under this name and year of birth."""

    code, title_zh, title_en = (
        "registered-already",
        "该社区已登记同名同年出生的居民",
        "A person of this name and year of birth is registered in this community",
    )


class HasOwnPhone(Conflict):
    """Whoever signs in with a phone of their own does this themself."""

    code, title_zh, title_en = (
        "resident-has-phone",
        "该居民有自己的手机账号, 请由本人办理",
        "This resident signs in with a phone of their own, and does this themself",
    )


class ResidentDisabled(Conflict):
    """Nobody acts for a resident whose account the district office has disabled."""

    code, title_zh, title_en = (
        "resident-disabled",
        "该居民的账号已停用, 请联系区级管理部门",
        "This resident's account is disabled; contact the district office",
    )


def is_assisted(session: Session, resident_id: UUID) -> bool:
    """Whether nobody signs in as this resident."""
    signs_in = sa.exists().where(WechatIdentity.resident_id == resident_id)
    return session.scalar(sa.select(~signs_in)) is True


def resident_for(session: Session, actor: Actor, resident_id: UUID, *, now: datetime) -> Resident:
    """A resident, with a phone or without, whose home is in the scope of staff who may act for them.

    Raises NotFound outside the scope, ResidentDisabled, StaffUnlinked, ServesOwnHousehold.
    """
    resident = session.get(Resident, resident_id, populate_existing=True)
    if resident is None or resident.community_code is None:
        raise NotFound
    actor.require_cover(resident.community_code)
    if not resident.enabled:
        raise ResidentDisabled
    staff_links.require_may_serve(session, actor.id, resident_id, now=now)
    return resident


def assisted_for(session: Session, actor: Actor, resident_id: UUID, *, now: datetime) -> Resident:
    """The same of a resident without a phone. Raises HasOwnPhone, and what resident_for raises."""
    resident = resident_for(session, actor, resident_id, now=now)
    if not is_assisted(session, resident_id):
        raise HasOwnPhone
    return resident


def list_assisted(
    session: Session,
    actor: Actor,
    *,
    community_code: str,
    nickname: str | None,
    limit: int,
    cursor: str | None,
    now: datetime,
) -> Page[Resident]:
    """The residents without a phone of a community in the actor's scope, the earliest registered first.

    Without the actor's own household, for whom a colleague acts. `nickname` is the whole name.

    Raises NotFound outside the scope, StaffUnlinked, BadCursor.
    """
    actor.require_cover(community_code)
    staff_links.require_linked(session, actor.id)
    wanted = (
        sa.select(Resident)
        .where(
            Resident.community_code == community_code,
            ~sa.exists().where(WechatIdentity.resident_id == Resident.resident_id),
            sa.not_(staff_links.own_household(session, actor.id, Resident.resident_id, now=now)),
        )
        .order_by(Resident.resident_id)
        .limit(limit + 1)
    )
    if nickname is not None:
        wanted = wanted.where(Resident.nickname == nickname)
    if cursor is not None:
        wanted = wanted.where(Resident.resident_id > decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.resident_id,))


def look_up(session: Session, actor: Actor, *, phone: str, data_key: bytes, now: datetime) -> UUID | None:
    """Whose number this is, E.164, if they live in the actor's scope: for whoever telephones.

    The trail keeps it, also where it is nobody's, so that trying numbers out shows; the number itself it does not keep.
    Raises nothing, so that the caller commits the trail before `caller_for` refuses.
    """
    found = residents.with_phone(session, phone=phone, data_key=data_key)
    if found is None or found.community_code is None or not actor.covers(found.community_code):
        # Nobody's and that of somebody elsewhere are one: the trail says no more than the answer.
        audit.record(session, actor, "resident.look-up", UNKNOWN_CALLER, now=now)
        return None
    audit.record(session, actor, "resident.look-up", str(found.resident_id), now=now)
    return found.resident_id


def caller_for(session: Session, actor: Actor, resident_id: UUID | None, *, now: datetime) -> Resident:
    """Whom `look_up` found, if the actor may act for them.

    Raises StaffUnlinked, first, so that a miss tells nothing; NotFound, ResidentDisabled, ServesOwnHousehold.
    """
    staff_links.require_linked(session, actor.id)
    if resident_id is None:
        raise NotFound
    return resident_for(session, actor, resident_id, now=now)


def register(
    session: Session, actor: Actor, *, community_code: str, nickname: str, born_in: int, now: datetime
) -> Resident:
    """Register a resident of a community in the actor's scope who has no phone to sign in with.

    The actor has seen the terms accepted on paper; the trail keeps who witnessed it, and which wording. The nickname is
    what staff know the person by. Nobody signs in as this resident.

    Raises NotFound outside the scope, CommunityUnknown, InvalidRequest for a child, RegisteredAlready.
    """
    today = business_day(now)
    actor.require_cover(community_code)
    community_for(session, community_code, today)
    if today.year - 1 - born_in < AGE_MIN:
        raise InvalidRequest(errors=[{"pointer": "/born_in", "message": f"Must be {AGE_MIN} years old for certain."}])
    # One at a time for each community, so that two members of staff do not both find the person missing.
    lock_name(session, f"assisted:{community_code}")
    known = sa.exists().where(
        Resident.community_code == community_code,
        Resident.nickname == nickname,
        Resident.born_in == born_in,
        ~sa.exists().where(WechatIdentity.resident_id == Resident.resident_id),
    )
    if session.scalar(sa.select(known)):
        raise RegisteredAlready
    added = Resident(
        resident_id=new_id(), community_code=community_code, nickname=nickname, born_in=born_in, created_at=now
    )
    session.add(added)
    session.flush()
    session.add(
        Consent(
            resident_id=added.resident_id,
            id=new_id(),
            purpose=ConsentPurpose.TERMS,
            subject="",
            text_version=TERMS_TEXT_VERSION,
            given_at=now,
        )
    )
    audit.record(
        session,
        actor,
        "resident.register-assisted",
        str(added.resident_id),
        now=now,
        community=community_code,
        terms_on_paper=TERMS_TEXT_VERSION,
    )
    session.flush()
    return added
