"""Organisations: schools, agencies, malls and enterprises inside a community, kept by the staff who answer for it."""

from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server import audit
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, NotFound
from server.paging import Page, decode, page_of
from server.places.divisions import community_for
from server.places.models import Organisation, OrganisationKind


class OrganisationExists(Conflict):
    """The community has an organisation of this name already."""

    code, title_zh, title_en = "organisation-exists", "该社区已有同名单位", "The community has one of this name"
    constraints = ("organisation_community_code_name_key",)


def create(
    session: Session, actor: Actor, *, kind: OrganisationKind, name: str, community_code: str, now: datetime
) -> Organisation:
    """Add an organisation to a community in the actor's scope, valid from the business day of `now`.

    Raises NotFound outside the scope, CommunityUnknown, OrganisationExists.
    """
    actor.require_cover(community_code)
    today = business_day(now)
    community_for(session, community_code, today)
    added: Organisation | None = session.scalar(
        insert(Organisation)
        .values(id=new_id(), kind=kind, name=name.strip(), community_code=community_code, valid_from=today)
        .on_conflict_do_nothing(index_elements=["community_code", "name"])
        .returning(Organisation)
    )
    if added is None:
        raise OrganisationExists
    detail = {"kind": kind, "name": added.name, "community_code": community_code}
    audit.record(session, actor, "organisation.create", str(added.id), now=now, **detail)
    return added


def organisation_for(session: Session, actor: Actor, organisation_id: UUID) -> Organisation:
    """An organisation in the actor's scope: of a community that they answer for, or their own. Raises NotFound."""
    found = session.get(Organisation, organisation_id)
    if found is None:
        raise NotFound
    actor.require_cover(found.community_code, found.id)
    return found


def list_organisations(
    session: Session,
    *,
    on: date,
    community: str | None = None,
    kind: OrganisationKind | None = None,
    limit: int,
    cursor: str | None,
) -> Page[Organisation]:
    """Organisations valid on a day, oldest entry first: of one community, of one kind. Raises BadCursor."""
    wanted = (
        sa.select(Organisation)
        .where(Organisation.valid_from <= on, sa.or_(Organisation.valid_to.is_(None), Organisation.valid_to >= on))
        .order_by(Organisation.id)
        .limit(limit + 1)
    )
    if community is not None:
        wanted = wanted.where(Organisation.community_code == community)
    if kind is not None:
        wanted = wanted.where(Organisation.kind == kind)
    if cursor is not None:
        wanted = wanted.where(Organisation.id > decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))
