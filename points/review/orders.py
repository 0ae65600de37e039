"""Hold orders as staff see them: which stand in their scope, and ending one."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

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

PEOPLE_MAX = 50  # of one household or phone
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
    of this service, whose code `district` is.
    """
    wanted = (
        sa.select(HoldOrder)
        .where(HoldOrder.lifted_at.is_(None), HoldOrder.until > now, _in_scope(actor, district))
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
    if order.subject_kind is SubjectKind.STAFF and UUID(order.subject) in staff_links.accounts_of(session, actor.id):
        raise NotFound
    for resident_id in _people_of(session, order):
        staff_links.require_may_serve(session, actor.id, resident_id, now=now)
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


def _people_of(session: Session, order: HoldOrder) -> list[UUID]:
    if order.subject_kind is SubjectKind.RESIDENT:
        return [UUID(order.subject)]
    if order.subject_kind is SubjectKind.HOUSEHOLD:
        members = sa.select(HouseholdMember.resident_id).where(HouseholdMember.household_id == UUID(order.subject))
        return list(session.scalars(members.limit(PEOPLE_MAX)))
    if order.subject_kind is SubjectKind.DEVICE:
        users = sa.select(DeviceUse.resident_id).where(DeviceUse.device == order.subject)
        return list(session.scalars(users.order_by(DeviceUse.resident_id).limit(PEOPLE_MAX)))
    return []
