"""Households: people who live together join with a code that one of them reads out, and leave when they like.

A household shares the day's bounds, so it must not be left for an afternoon: who leaves stays, and counts, until the
business day ends, and joins or founds the next one only after a waiting time that the district sets. So nobody is in
two households on one day, and moving from one to another gains nothing. Who has not left yet can stay after all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server.access import Actor
from server.clock import business_day, day_start
from server.database import delete_some, new_id
from server.errors import Conflict, Forbidden, NotFound
from server.notices import notices
from server.people import join_codes, staff_links
from server.people.code_limits import limits_on
from server.people.join_codes import hashed
from server.people.models import Household, HouseholdJoinCode, HouseholdMember, HouseholdStay, Resident, Staff
from server.people.staff_links import StaffUnlinked

CODE_PURPOSE = "household-join-code"
CODE_KEPT_FOR = timedelta(hours=24)
# A little longer than the longest waiting time that a district may set.
STAYS_KEPT_FOR = timedelta(days=400)

# Of one resident at a time, or of everybody; each due departure is a row that goes and a count that falls.
DEPARTURES_AT_ONCE = 10_000


class NoHousehold(NotFound):
    """The resident is in no household."""

    code, title_zh, title_en = "no-household", "尚未加入家庭", "In no household"


class InHouseholdAlready(Conflict):
    """One household at a time."""

    code, title_zh, title_en = "in-household-already", "已在一个家庭中", "In a household already"
    constraints = ("household_member_pkey",)


class HouseholdWait(Conflict):
    """Who left a household waits before the next one; `may_join_at` says until when."""

    code, title_zh, title_en = (
        "household-wait",
        "退出家庭后需等待一段时间才能加入或新建家庭",
        "After leaving a household there is a waiting time before the next one",
    )


class HouseholdCodeUnknown(NotFound):
    """No household has this code now: mistyped, replaced by another, or expired."""

    code, title_zh, title_en = (
        "household-code-unknown",
        "家庭口令无效或已过期",
        "No household has this code now",
    )


class HouseholdFull(Conflict):
    """The household has as many members as the district allows."""

    code, title_zh, title_en = "household-full", "家庭成员已满", "The household is full"


class NotFirstMember(Forbidden):
    """Only the member of longest standing asks another to leave."""

    code, title_zh, title_en = (
        "not-first-member",
        "只有最早加入的成员可以请他人退出",
        "Only the member of longest standing can put another out",
    )


class PutOut(Forbidden):
    """Whom the household put out cannot stay after all."""

    code, title_zh, title_en = "put-out", "已被请出该家庭, 不能取消退出", "Put out by the household"


@dataclass(frozen=True, slots=True)
class Member:
    """One member as the others see them. `leaves_at` is when a departure takes effect."""

    member_id: UUID
    nickname: str | None
    joined_at: datetime
    leaves_at: datetime | None
    is_me: bool


@dataclass(frozen=True, slots=True)
class OwnHousehold:
    """A household as a member sees it, members of longest standing first."""

    id: UUID
    created_at: datetime
    members: Sequence[Member]
    members_max: int
    code_expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class IssuedJoinCode:
    """A join code, shown this once: only its hash is kept."""

    join_code: str
    expires_at: datetime


def household_of(session: Session, resident_id: UUID) -> UUID | None:
    """The resident's household, also on the day on which they leave it; None without one."""
    return session.scalar(sa.select(HouseholdMember.household_id).where(HouseholdMember.resident_id == resident_id))


def view(session: Session, actor: Actor, *, now: datetime) -> OwnHousehold:
    """The actor's own household. Raises NoHousehold, CodeLimitsMissing."""
    household_id = _own(session, actor)
    household = session.get_one(Household, household_id)
    rows = session.execute(
        sa.select(HouseholdMember, Resident.nickname)
        .join(Resident, Resident.resident_id == HouseholdMember.resident_id)
        .where(HouseholdMember.household_id == household_id)
        .order_by(HouseholdMember.joined_at, HouseholdMember.member_id)
        .execution_options(populate_existing=True)
    ).all()
    expires_at = session.scalar(
        sa.select(HouseholdJoinCode.expires_at).where(
            HouseholdJoinCode.household_id == household_id, HouseholdJoinCode.expires_at > now
        )
    )
    members = [
        Member(row.member_id, nickname, row.joined_at, row.leaves_at, row.resident_id == actor.id)
        for row, nickname in rows
    ]
    return OwnHousehold(
        household_id, household.created_at, members, limits_on(session, now).household_members_max, expires_at
    )


def found(session: Session, actor: Actor, *, now: datetime) -> OwnHousehold:
    """Make a household with the actor as its first member.

    Raises InHouseholdAlready, HouseholdWait, CodeLimitsMissing.
    """
    _require_free(session, actor.id, now=now)
    household_id = new_id()
    session.execute(sa.insert(Household).values(id=household_id, member_count=1, created_at=now))
    _enter(session, actor.id, household_id, now=now)
    return view(session, actor, now=now)


def issue_code(
    session: Session, actor: Actor, *, data_key: bytes, now: datetime, issued_by: UUID | None = None
) -> IssuedJoinCode:
    """Make the household's join code, for 24 hours; the one before ends at once.

    `issued_by` is the member of staff who makes it in the actor's place; None is the actor.

    Raises NoHousehold.
    """
    household_id = _own(session, actor, leaving=False)
    expires_at = now + CODE_KEPT_FOR
    code = join_codes.issue(
        session,
        HouseholdJoinCode,
        household_id,
        purpose=CODE_PURPOSE,
        issued_by=actor.id if issued_by is None else issued_by,
        expires_at=expires_at,
        data_key=data_key,
        now=now,
    )
    return IssuedJoinCode(code, expires_at)


def join(session: Session, actor: Actor, *, code: str, data_key: bytes, now: datetime) -> OwnHousehold:
    """Become a member of the household whose code this is; the others are told.

    The place is taken by a guarded count, so that two who join at once cannot both have the last one. A code that a
    member of staff made lets in nobody for whom they may not act, themself above all: else they would found a household
    for somebody first and live in it afterwards.

    Raises InHouseholdAlready, HouseholdWait, HouseholdCodeUnknown, HouseholdFull, CodeLimitsMissing, and
    ServesOwnHousehold for a code of staff.
    """
    _require_free(session, actor.id, now=now)
    known = session.execute(
        sa.select(HouseholdJoinCode.household_id, Staff.id)
        .outerjoin(Staff, Staff.id == HouseholdJoinCode.issued_by)
        .where(HouseholdJoinCode.code_hash == hashed(data_key, CODE_PURPOSE, code), HouseholdJoinCode.expires_at > now)
    ).one_or_none()
    if known is None:
        raise HouseholdCodeUnknown
    household_id, made_by_staff = known
    taken = session.scalar(
        sa.update(Household)
        .where(
            Household.id == household_id,
            Household.ended_at.is_(None),
            Household.member_count < limits_on(session, now).household_members_max,
        )
        .values(member_count=Household.member_count + 1)
        .returning(Household.id)
    )
    if taken is None:
        raise HouseholdFull
    others = session.scalars(
        sa.select(HouseholdMember.resident_id).where(HouseholdMember.household_id == household_id)
    ).all()
    _enter(session, actor.id, household_id, now=now)
    if made_by_staff is not None:
        _require_may_let_in(session, made_by_staff, actor.id, now=now)
    notices.tell(
        session,
        others,
        kind="household-joined",
        subject=f"household:{household_id}",
        title_zh="有新成员加入您的家庭",
        title_en="Somebody has joined your household",
        now=now,
    )
    return view(session, actor, now=now)


def leave(session: Session, actor: Actor, *, now: datetime) -> OwnHousehold:
    """Leave with the end of the business day. Raises NoHousehold."""
    left = session.scalar(
        sa.update(HouseholdMember)
        .where(HouseholdMember.resident_id == actor.id)
        .values(leaves_at=sa.func.coalesce(HouseholdMember.leaves_at, _end_of_day(now)))
        .returning(HouseholdMember.resident_id)
    )
    if left is None:
        raise NoHousehold
    return view(session, actor, now=now)


def stay(session: Session, actor: Actor, *, now: datetime) -> OwnHousehold:
    """Take back one's own departure that has not taken effect. Raises NoHousehold, PutOut."""
    household_id = _own(session, actor)
    kept = session.scalar(
        sa.update(HouseholdMember)
        .where(
            HouseholdMember.resident_id == actor.id,
            HouseholdMember.household_id == household_id,
            sa.not_(HouseholdMember.put_out),
        )
        .values(leaves_at=None)
        .returning(HouseholdMember.resident_id)
    )
    if kept is None:
        raise PutOut
    return view(session, actor, now=now)


def put_out(session: Session, actor: Actor, member_id: UUID, *, now: datetime) -> OwnHousehold:
    """Have another member leave with the end of the day, and tell them: against a code that strangers learnt.

    Only the member of longest standing who is not leaving does so, and nobody puts themself out.

    Raises NoHousehold, NotFirstMember, NotFound.
    """
    household_id = _own(session, actor, leaving=False)
    first = session.scalar(
        sa.select(HouseholdMember.resident_id)
        .where(HouseholdMember.household_id == household_id, HouseholdMember.leaves_at.is_(None))
        .order_by(HouseholdMember.joined_at, HouseholdMember.member_id)
        .limit(1)
    )
    if first != actor.id:
        raise NotFirstMember
    gone = session.scalar(
        sa.update(HouseholdMember)
        .where(
            HouseholdMember.household_id == household_id,
            HouseholdMember.member_id == member_id,
            HouseholdMember.resident_id != actor.id,
        )
        .values(leaves_at=sa.func.coalesce(HouseholdMember.leaves_at, _end_of_day(now)), put_out=True)
        .returning(HouseholdMember.resident_id)
    )
    if gone is None:
        raise NotFound
    notices.tell(
        session,
        [gone],
        kind="household-put-out",
        subject=f"household:{household_id}",
        title_zh="您将在今日结束时退出家庭",
        title_en="You leave the household at the end of today",
        now=now,
    )
    # The code that let them in may be about.
    session.execute(sa.delete(HouseholdJoinCode).where(HouseholdJoinCode.household_id == household_id))
    return view(session, actor, now=now)


def depart(session: Session, *, now: datetime, resident_id: UUID | None = None) -> int:
    """Let those go whose day has ended, of everybody or of one; their number.

    One statement: the membership goes, the stay is kept, and the household's count falls by as many.
    """
    due = sa.select(HouseholdMember.resident_id).where(HouseholdMember.leaves_at <= now)
    if resident_id is not None:
        due = due.where(HouseholdMember.resident_id == resident_id)
    gone = (
        sa.delete(HouseholdMember)
        .where(HouseholdMember.resident_id.in_(due.limit(DEPARTURES_AT_ONCE)), HouseholdMember.leaves_at <= now)
        .returning(
            HouseholdMember.resident_id,
            HouseholdMember.leaves_at,
            HouseholdMember.household_id,
            HouseholdMember.joined_at,
        )
        .cte("gone")
    )
    kept = (
        insert(HouseholdStay)
        .from_select(
            ["resident_id", "left_at", "household_id", "joined_at"],
            sa.select(gone.c.resident_id, gone.c.leaves_at, gone.c.household_id, gone.c.joined_at),
        )
        .returning(HouseholdStay.household_id)
        .cte("kept")
    )
    fewer = sa.select(kept.c.household_id, sa.func.count().label("members")).group_by(kept.c.household_id).cte("fewer")
    rows = session.execute(
        sa.update(Household)
        .where(Household.id == fewer.c.household_id)
        .values(
            member_count=Household.member_count - fewer.c.members,
            ended_at=sa.case((Household.member_count == fewer.c.members, now), else_=None),
        )
        .returning(fewer.c.members),
        execution_options={"synchronize_session": False},
    )
    return sum(rows.scalars())


def forget_old(session: Session, *, now: datetime) -> int:
    """Delete stays that ended longer ago than any waiting time, a bounded number at a time; the number deleted."""
    return delete_some(session, HouseholdStay, HouseholdStay.left_at < now - STAYS_KEPT_FOR)


def _own(session: Session, actor: Actor, *, leaving: bool = True) -> UUID:
    """The actor's household; with `leaving` False only of one who is not about to leave it. Raises NoHousehold."""
    wanted = sa.select(HouseholdMember.household_id).where(HouseholdMember.resident_id == actor.id)
    if not leaving:
        wanted = wanted.where(HouseholdMember.leaves_at.is_(None))
    household_id = session.scalar(wanted)
    if household_id is None:
        raise NoHousehold
    return household_id


def _require_free(session: Session, resident_id: UUID, *, now: datetime) -> None:
    depart(session, now=now, resident_id=resident_id)
    if household_of(session, resident_id) is not None:
        raise InHouseholdAlready
    left_at = session.scalar(
        sa.select(sa.func.max(HouseholdStay.left_at)).where(HouseholdStay.resident_id == resident_id)
    )
    if left_at is None:
        return
    may_join_at = left_at + timedelta(days=limits_on(session, now).household_wait_days)
    if now < may_join_at:
        raise HouseholdWait(may_join_at=may_join_at.isoformat())


def _enter(session: Session, resident_id: UUID, household_id: UUID, *, now: datetime) -> None:
    entered = session.scalar(
        insert(HouseholdMember)
        .values(resident_id=resident_id, household_id=household_id, member_id=new_id(), joined_at=now)
        .on_conflict_do_nothing(index_elements=["resident_id"])
        .returning(HouseholdMember.resident_id)
    )
    if entered is None:  # they joined another household at the same moment
        raise InHouseholdAlready


def _require_may_let_in(session: Session, staff_id: UUID, resident_id: UUID, *, now: datetime) -> None:
    """Asked once they are inside, when whoever lives together is known."""
    try:
        staff_links.require_may_serve(session, staff_id, resident_id, now=now)
    except StaffUnlinked:  # since: nobody can tell any more whose household it is, and the code is as good as ended
        raise HouseholdCodeUnknown from None


def _end_of_day(now: datetime) -> datetime:
    return day_start(business_day(now) + timedelta(days=1))
