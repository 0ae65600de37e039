"""Which resident a member of staff is themself: so that nobody confirms or decides their own affairs.

Once, each shows the code of their own resident account, or declares in writing that they have none. Until then they
confirm nothing. What was linked is changed by whoever manages staff alone: a link to another account would hide one's
own.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server import audit
from server.access import Actor
from server.errors import Conflict, Forbidden, NotFound
from server.people import code_uses
from server.people.living_together import living_with
from server.people.models import CodePurpose, StaffLink
from server.people.staff import OwnAccount, own_account, staff_for


class StaffUnlinked(Conflict):
    """Whoever confirms what residents do first says which resident they are."""

    code, title_zh, title_en = (
        "staff-unlinked",
        "请先绑定本人的居民账号, 或书面声明没有居民账号",
        "First link your own resident account, or declare in writing that you have none",
    )

    def __init__(self) -> None:
        super().__init__(
            "PUT /api/v1/staff/me/resident with the code of your own resident account for `staff-link`, "
            "or with a statement that you have none"
        )


class StaffLinkedAlready(Conflict):
    """The account is linked; whoever manages staff can undo it."""

    code, title_zh, title_en = (
        "staff-linked-already",
        "已绑定居民账号, 如需更改请联系账号管理人员",
        "A resident account is linked already; whoever manages staff can undo it",
    )


class ServesOwnHousehold(Forbidden):
    """Nobody confirms or decides for themself or for the people they live with; a colleague does."""

    code, title_zh, title_en = (
        "serves-own-household",
        "不能为本人或家庭成员办理, 请由其他工作人员办理",
        "You cannot serve yourself or your household; a colleague does",
    )


def standing(session: Session, actor: Actor) -> StaffLink | None:
    """The actor's own link or declaration, None without one. Raises NotFound for a resident."""
    own_account(session, actor)
    return session.get(StaffLink, actor.id, populate_existing=True)


def make(
    session: Session, actor: Actor, *, code: str | None, statement: str | None, data_key: bytes, now: datetime
) -> StaffLink:
    """Link the resident whose `code` for `staff-link` this is, or keep the written word that there is none.

    A link takes the place of a declaration, and of no link. Exactly one of the two is given.

    Raises NotFound for a resident, CodeRefused, CodeUsed, StaffLinkedAlready.
    """
    own_account(session, actor)
    resident_id = None
    if code is not None:
        resident_id = code_uses.consume(session, code, purpose=CodePurpose.STAFF_LINK, data_key=data_key, now=now)
    values = {"resident_id": resident_id, "statement": statement, "made_at": now}
    made: StaffLink | None = session.scalar(
        insert(StaffLink)
        .values(staff_id=actor.id, **values)
        .on_conflict_do_update(index_elements=["staff_id"], set_=values, where=StaffLink.resident_id.is_(None))
        .returning(StaffLink)
        .execution_options(populate_existing=True)
    )
    if made is None:
        raise StaffLinkedAlready
    # Not which resident: the trail is read by colleagues, and the link by nobody but the checks.
    audit.record(session, actor, "staff.link-resident", str(actor.id), now=now, statement=statement)
    return made


def undo(session: Session, actor: Actor, staff_id: UUID, *, reason: str, now: datetime) -> None:
    """Take back the link or declaration of a member of staff in the actor's scope, who then begins anew.

    Raises NotFound, OwnAccount.
    """
    found = staff_for(session, actor, staff_id)
    if found.id == actor.id:
        raise OwnAccount
    undone = session.scalar(sa.delete(StaffLink).where(StaffLink.staff_id == staff_id).returning(StaffLink.staff_id))
    if undone is None:
        raise NotFound
    audit.record(session, actor, "staff.undo-link", str(staff_id), now=now, reason=reason)


def accounts_of(session: Session, staff_id: UUID) -> Sequence[UUID]:
    """Every staff account of the same resident, this one among them: two accounts of one person are one person."""
    own = sa.select(StaffLink.resident_id).where(StaffLink.staff_id == staff_id).scalar_subquery()
    others = session.scalars(
        sa.select(StaffLink.staff_id).where(StaffLink.resident_id == own, StaffLink.staff_id != staff_id)
    )
    return [staff_id, *others]


def require_linked(session: Session, staff_id: UUID) -> UUID | None:
    """Which resident this member of staff is; None of one who declared that there is none. Raises StaffUnlinked."""
    found = session.execute(sa.select(StaffLink.resident_id).where(StaffLink.staff_id == staff_id)).one_or_none()
    if found is None:
        raise StaffUnlinked
    own: UUID | None = found.resident_id
    return own


def require_may_serve(session: Session, staff_id: UUID, resident_id: UUID, *, now: datetime) -> None:
    """Raise StaffUnlinked or ServesOwnHousehold unless this member of staff may act for this resident.

    For whoever confirms, checks or decides what a resident did, in every room.
    """
    own = require_linked(session, staff_id)
    if session.scalar(sa.select(_own(session, own, resident_id, now=now))):
        raise ServesOwnHousehold


def own_household(
    session: Session, staff_id: UUID, resident_id: UUID | sa.SQLColumnExpression[UUID], *, now: datetime
) -> sa.ColumnElement[bool]:
    """The condition that a resident, or a column of them, is of those whom `require_may_serve` keeps from the actor.

    So that nobody reads what is to be decided about their own. Of an account linked to nobody that is nobody.
    """
    own = session.scalar(sa.select(StaffLink.resident_id).where(StaffLink.staff_id == staff_id))
    return _own(session, own, resident_id, now=now)


def is_own_household(session: Session, staff_id: UUID, resident_id: UUID, *, now: datetime) -> bool:
    """Whether a resident is of those: who may not decide about them does not read it either."""
    return session.scalar(sa.select(own_household(session, staff_id, resident_id, now=now))) is True


def _own(
    session: Session, own: UUID | None, resident_id: UUID | sa.SQLColumnExpression[UUID], *, now: datetime
) -> sa.ColumnElement[bool]:
    return sa.false() if own is None else living_with(session, own, resident_id, now=now)
