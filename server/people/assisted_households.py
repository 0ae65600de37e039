"""Households of residents without a phone: staff of their place enter what such a person, and the household, say.

Everything is done as by the resident themself, with the same limits and errors. Into a household with phones the
household's own word lets them, as it does anybody: the code that a member's phone made. Where nobody in a household has
a phone, such as an old couple's, nobody's phone can make one, and then staff make it for whoever lives there.
"""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server import audit
from server.access import Actor, Role
from server.errors import Conflict
from server.notices import notices
from server.people import assisted, households, staff_links
from server.people.households import IssuedJoinCode, OwnHousehold
from server.people.models import HouseholdMember, WechatIdentity


class HouseholdHasPhone(Conflict):
    """Somebody in the household has a phone, and the join code is made with it."""

    code, title_zh, title_en = (
        "household-has-phone",
        "该家庭有成员使用手机, 请由其生成家庭口令",
        "A member of this household has a phone and makes the join code with it",
    )


def view(session: Session, actor: Actor, resident_id: UUID, *, now: datetime) -> OwnHousehold:
    """The household of a resident without a phone, as the resident would see it.

    Raises NoHousehold, CodeLimitsMissing, and what acting for a resident raises (assisted.assisted_for).
    """
    return households.view(session, _in_the_place_of(session, actor, resident_id, now=now), now=now)


def found(session: Session, actor: Actor, resident_id: UUID, *, now: datetime) -> OwnHousehold:
    """Make a household with the resident as its first member.

    Raises InHouseholdAlready, HouseholdWait, CodeLimitsMissing, and what acting for a resident raises.
    """
    resident = _in_the_place_of(session, actor, resident_id, now=now)
    made = households.found(session, resident, now=now)
    _record(session, actor, "found", resident_id, made.id, now=now)
    return made


def issue_code(session: Session, actor: Actor, resident_id: UUID, *, data_key: bytes, now: datetime) -> IssuedJoinCode:
    """Make the join code of a household in which nobody has a phone; the one before ends at once.

    A phone that is leaving makes no code, and so keeps nobody from making one.

    Raises NoHousehold, HouseholdHasPhone, and what acting for a resident raises.
    """
    resident = _in_the_place_of(session, actor, resident_id, now=now)
    household_id = households.household_of(session, resident_id)
    phones = (
        sa.select(WechatIdentity.resident_id)
        .join(HouseholdMember, HouseholdMember.resident_id == WechatIdentity.resident_id)
        .where(HouseholdMember.household_id == household_id, HouseholdMember.leaves_at.is_(None))
    )
    if session.scalar(sa.select(phones.exists())):
        raise HouseholdHasPhone
    made = households.issue_code(session, resident, issued_by=actor.id, data_key=data_key, now=now)
    _record(session, actor, "join-code", resident_id, household_id, now=now)
    return made


def join(
    session: Session, actor: Actor, resident_id: UUID, *, code: str, data_key: bytes, now: datetime
) -> OwnHousehold:
    """Make the resident a member of the household whose code this is; the others are told.

    Raises InHouseholdAlready, HouseholdWait, HouseholdCodeUnknown, HouseholdFull, CodeLimitsMissing, and what acting
    for a resident raises.
    """
    resident = _in_the_place_of(session, actor, resident_id, now=now)
    joined = households.join(session, resident, code=code, data_key=data_key, now=now)
    # Asked again, now that they live together: it may be the household of the member of staff.
    staff_links.require_may_serve(session, actor.id, resident_id, now=now)
    _record(session, actor, "join", resident_id, joined.id, now=now)
    return joined


def leave(session: Session, actor: Actor, resident_id: UUID, *, now: datetime) -> OwnHousehold:
    """Have the resident leave with the end of the business day; the others are told, once.

    Raises NoHousehold, and what acting for a resident raises.
    """
    resident = _in_the_place_of(session, actor, resident_id, now=now)
    before = _leaves_at(session, resident_id)
    left = households.leave(session, resident, now=now)
    if _leaves_at(session, resident_id) == before:
        return left
    _record(session, actor, "leave", resident_id, left.id, now=now)
    title = (
        "社区工作人员为一位家庭成员办理了退出, 今日结束时生效",
        "Community staff entered that a member leaves your household at the end of today",
    )
    _tell_others(session, left.id, resident_id, "household-leaving", title, now=now)
    return left


def stay(session: Session, actor: Actor, resident_id: UUID, *, now: datetime) -> OwnHousehold:
    """Take back the resident's departure that has not taken effect; the others are told if there was one.

    Raises NoHousehold, PutOut, and what acting for a resident raises.
    """
    resident = _in_the_place_of(session, actor, resident_id, now=now)
    before = _leaves_at(session, resident_id)
    kept = households.stay(session, resident, now=now)
    if _leaves_at(session, resident_id) == before:
        return kept
    _record(session, actor, "stay", resident_id, kept.id, now=now)
    title = (
        "社区工作人员取消了一位家庭成员的退出",
        "Community staff entered that a member stays in your household after all",
    )
    _tell_others(session, kept.id, resident_id, "household-staying", title, now=now)
    return kept


def put_out(session: Session, actor: Actor, resident_id: UUID, member_id: UUID, *, now: datetime) -> OwnHousehold:
    """Put another member out for a resident of longest standing, who alone can: against a code that strangers learnt.

    Raises NoHousehold, NotFirstMember, NotFound, and what acting for a resident raises.
    """
    resident = _in_the_place_of(session, actor, resident_id, now=now)
    left = households.put_out(session, resident, member_id, now=now)
    _record(session, actor, "put-out", resident_id, left.id, now=now)
    return left


def _in_the_place_of(session: Session, actor: Actor, resident_id: UUID, *, now: datetime) -> Actor:
    """The resident as whoever acts: in a household nobody but its members does anything.

    Raises NotFound outside the scope, ResidentDisabled, StaffUnlinked, ServesOwnHousehold, HasOwnPhone.
    """
    assisted.assisted_for(session, actor, resident_id, now=now)
    return Actor(id=resident_id, role=Role.RESIDENT, session_id=actor.session_id)


def _leaves_at(session: Session, resident_id: UUID) -> datetime | None:
    """When the resident leaves, None if they stay; held, so that two who enter the same at once tell it once."""
    own = sa.select(HouseholdMember.leaves_at).where(HouseholdMember.resident_id == resident_id)
    return session.scalar(own.with_for_update())


def _tell_others(
    session: Session, household_id: UUID | None, resident_id: UUID, kind: str, title: tuple[str, str], *, now: datetime
) -> None:
    others = session.scalars(
        sa.select(HouseholdMember.resident_id).where(
            HouseholdMember.household_id == household_id, HouseholdMember.resident_id != resident_id
        )
    ).all()
    subject, (title_zh, title_en) = f"household:{household_id}", title
    notices.tell(session, others, kind=kind, subject=subject, title_zh=title_zh, title_en=title_en, now=now)


def _record(
    session: Session, actor: Actor, act: str, resident_id: UUID, household_id: UUID | None, *, now: datetime
) -> None:
    audit.record(session, actor, f"household.{act}-assisted", str(resident_id), now=now, household=str(household_id))
