"""Residents without a phone of their own: registered by staff, to whom they accept the terms on paper."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server import audit
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, InvalidRequest
from server.people.models import Consent, ConsentPurpose, Resident, WechatIdentity
from server.people.residents import TERMS_TEXT_VERSION
from server.places.divisions import community_for

# Under fourteen only with a guardian's consent (PIPL 31), and there is no guardian's account to give it.
AGE_MIN = 14


class RegisteredAlready(Conflict):
    """Somebody without a phone is registered in this community under this name and year of birth."""

    code, title_zh, title_en = (
        "registered-already",
        "该社区已登记同名同年出生的居民",
        "A person of this name and year of birth is registered in this community",
    )


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
    lock = sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(f"assisted:{community_code}", 0))
    session.execute(sa.select(lock))
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
