"""Hold orders as staff see them: which stand in their scope, and ending one."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from points.earning import holds
from points.earning.models import HoldOrder, SubjectKind
from points.review.cases import texts_of
from points.review.models import DeviceUse
from server import audit
from server.access import Actor
from server.errors import NotFound
from server.paging import Page, decode, page_of
from server.people import staff_links
from server.people.models import HouseholdMember, Resident, Staff
from server.people.staff_links import ServesOwnHousehold, StaffUnlinked

ABOUT_PEOPLE = (SubjectKind.RESIDENT, SubjectKind.HOUSEHOLD, SubjectKind.DEVICE)
WITHOUT_PLACE = (SubjectKind.DEVICE, SubjectKind.SITE, SubjectKind.PARTNER)


@dataclass(frozen=True, slots=True)
class SeenOrder:
    """An order with its reason in words."""

    order: HoldOrder
    reason_zh: str | None
    reason_en: str | None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.order, name)


def list_orders(
    session: Session, actor: Actor, *, district: str, limit: int, cursor: str | None, now: datetime
) -> Page[SeenOrder]:
    """The orders that stand in the actor's scope, the latest first. Raises BadCursor.

    A resident, household or member of staff belongs to its place; a device, a site or a partner to the whole district
    of this service, whose code `district` is. Those that the actor may not lift are left out: about residents of their
    own household, or what they confirmed themselves.
    """
    ones_own = sa.or_(_of_ones_work(session, actor), _of_ones_household(session, actor, now=now))
    wanted = (
        sa.select(HoldOrder)
        .where(HoldOrder.lifted_at.is_(None), HoldOrder.until > now, _in_scope(actor, district), ~ones_own)
        .order_by(HoldOrder.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        wanted = wanted.where(HoldOrder.id < decode(cursor, tuple[UUID])[0])
    found = [SeenOrder(order, *texts_of(order.reason)) for order in session.scalars(wanted)]
    return page_of(found, limit, lambda row: (row.order.id,))


def lift(session: Session, actor: Actor, order_id: UUID, *, district: str, reason: str, now: datetime) -> SeenOrder:
    """End an order of the actor's scope; one that has ended stays as it is.

    Raises NotFound, and for an order about residents, their household or their phone StaffUnlinked, ServesOwnHousehold;
    nobody lifts what holds their own confirmations.
    """
    order = session.scalar(
        sa.select(HoldOrder)
        .where(HoldOrder.id == order_id, _in_scope(actor, district))
        .execution_options(populate_existing=True)
    )
    if order is None:
        raise NotFound
    this = HoldOrder.id == order_id
    if session.scalar(sa.select(sa.exists().where(this, _of_ones_work(session, actor)))):
        raise NotFound
    if order.subject_kind in ABOUT_PEOPLE and staff_links.standing(session, actor) is None:
        raise StaffUnlinked
    if session.scalar(sa.select(sa.exists().where(this, _of_ones_household(session, actor, now=now)))):
        raise ServesOwnHousehold
    holds.lift(session, order_id, now=now)
    audit.record(session, actor, "review.lift-hold", f"hold:{order_id}", now=now, reason=reason)
    session.refresh(order)
    return SeenOrder(order, *texts_of(order.reason))


def _in_scope(actor: Actor, district: str) -> sa.ColumnElement[bool]:
    division = actor.division or ""
    mine = Resident.community_code.startswith(division, autoescape=True)
    resident = sa.exists().where(Resident.resident_id == _id_of(SubjectKind.RESIDENT), mine)
    household = sa.exists().where(
        HouseholdMember.household_id == _id_of(SubjectKind.HOUSEHOLD),
        Resident.resident_id == HouseholdMember.resident_id,
        mine,
    )
    staff = sa.exists().where(
        Staff.id == _id_of(SubjectKind.STAFF), Staff.division.startswith(division, autoescape=True)
    )
    # Everything of this district is within its own scope, what has no place as well.
    of_the_district = HoldOrder.subject_kind.in_(WITHOUT_PLACE) if actor.covers(district) else sa.false()
    return sa.or_(resident, household, staff, of_the_district)


def _id_of(kind: SubjectKind) -> sa.ColumnElement[Any]:
    """The subject as an id where it is one: a device's name is no UUID, and a cast of it would fail."""
    return sa.case((HoldOrder.subject_kind == kind, sa.cast(HoldOrder.subject, sa.Uuid)), else_=None)


def _of_ones_work(session: Session, actor: Actor) -> sa.ColumnElement[bool]:
    """Whether an order holds what the actor confirmed, under whichever of their accounts."""
    accounts = [str(each) for each in staff_links.accounts_of(session, actor.id)]
    return sa.and_(HoldOrder.subject_kind == SubjectKind.STAFF, HoldOrder.subject.in_(accounts))


def _of_ones_household(session: Session, actor: Actor, *, now: datetime) -> sa.ColumnElement[bool]:
    """Whether an order is about residents of the actor's household: themselves, the household, or a phone they use.

    Who they are is looked up once, and each row costs some looks at a key.
    """
    own = staff_links.own_household(session, actor.id, Resident.resident_id, now=now)
    member = aliased(HouseholdMember)  # `own` looks at members as well, and must not take these for its own
    themself = sa.exists().where(Resident.resident_id == _id_of(SubjectKind.RESIDENT), own)
    of_household = (
        sa.select(member.resident_id)
        .join(Resident, Resident.resident_id == member.resident_id)
        .where(member.household_id == _id_of(SubjectKind.HOUSEHOLD), own)
    )
    of_phone = (
        sa.select(DeviceUse.resident_id)
        .join(Resident, Resident.resident_id == DeviceUse.resident_id)
        .where(HoldOrder.subject_kind == SubjectKind.DEVICE, DeviceUse.device == HoldOrder.subject, own)
    )
    return sa.or_(themself, of_household.exists(), of_phone.exists())
