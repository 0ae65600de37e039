"""Organisations: schools, agencies, malls and enterprises inside a community, kept by the staff who answer for it."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server import audit
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, DomainError, NotFound, PreconditionFailed
from server.paging import Page, decode, page_of
from server.places.divisions import community_for
from server.places.models import AgencyRank, Organisation, OrganisationKind


class OrganisationExists(Conflict):
    """The community has an organisation of this name already."""

    code, title_zh, title_en = "organisation-exists", "该社区已有同名单位", "The community has one of this name"
    constraints = ("organisation_community_code_name_key",)


class OrganisationSizeUnfit(DomainError):
    """Only a mall has a floor area, and only an agency a rank."""

    code, status, title_zh, title_en = (
        "organisation-size-unfit",
        422,
        "建筑面积仅适用于商场, 级别仅适用于机关",
        "Only a mall has a floor area, and only an agency a rank",
    )


def create(
    session: Session,
    actor: Actor,
    *,
    kind: OrganisationKind,
    name: str,
    community_code: str,
    floor_area_m2: int | None = None,
    agency_rank: AgencyRank | None = None,
    now: datetime,
) -> Organisation:
    """Add an organisation to a community in the actor's scope, valid from the business day of `now`.

    Raises NotFound outside the scope, CommunityUnknown, OrganisationSizeUnfit, OrganisationExists.
    """
    actor.require_cover(community_code)
    _check_size(kind, floor_area_m2, agency_rank)
    today = business_day(now)
    community_for(session, community_code, today)
    added: Organisation | None = session.scalar(
        insert(Organisation)
        .values(
            id=new_id(),
            kind=kind,
            name=name.strip(),
            community_code=community_code,
            floor_area_m2=floor_area_m2,
            agency_rank=agency_rank,
            valid_from=today,
        )
        .on_conflict_do_nothing(index_elements=["community_code", "name"])
        .returning(Organisation)
    )
    if added is None:
        raise OrganisationExists
    detail = {"kind": kind, "name": added.name, "community_code": community_code}
    audit.record(session, actor, "organisation.create", str(added.id), now=now, **detail)
    return added


def resize(
    session: Session, actor: Actor, organisation_id: UUID, changes: Mapping[str, Any], *, version: int, now: datetime
) -> Organisation:
    """Change the floor area of a mall or the rank of an agency, given the version that was read.

    Raises NotFound outside the scope, OrganisationSizeUnfit, PreconditionFailed.
    """
    found = organisation_for(session, actor, organisation_id)
    sizes = {name: changes.get(name, getattr(found, name)) for name in ("floor_area_m2", "agency_rank")}
    _check_size(found.kind, **sizes)
    resized = session.scalars(
        sa.update(Organisation)
        .where(Organisation.id == organisation_id, Organisation.version == version)
        .values(**sizes, version=version + 1)
        .returning(Organisation)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if resized is None:
        raise PreconditionFailed
    audit.record(session, actor, "organisation.resize", str(organisation_id), now=now, changed=sorted(changes))
    return resized


def _check_size(kind: OrganisationKind, floor_area_m2: int | None, agency_rank: AgencyRank | None) -> None:
    if floor_area_m2 is not None and kind is not OrganisationKind.MALL:
        raise OrganisationSizeUnfit
    if agency_rank is not None and kind is not OrganisationKind.AGENCY:
        raise OrganisationSizeUnfit


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
