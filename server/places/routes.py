"""Places over HTTP: divisions, organisations and theme days."""

from datetime import date
from typing import Any
from uuid import UUID

import marshmallow as ma

from server.access import Permission, actor, public, require
from server.api import Blueprint, page_schema
from server.clock import business_day, now
from server.database import transaction
from server.entries import LINE, LINE_OR_NOTHING
from server.etags import VersionHeader, etag_of, version_of
from server.idempotency import idempotent
from server.paging import Page, PageQuery
from server.places import divisions, organisations, theme_days
from server.places.models import (
    AgencyRank,
    Confidence,
    Division,
    DivisionLevel,
    Organisation,
    OrganisationKind,
    ThemeDay,
)

blueprint = Blueprint(
    "places",
    __name__,
    url_prefix="/api/v1/places",
    description="区划、单位与主题日 · Divisions, organisations, theme days",
)

# No control characters and no lone surrogates: PostgreSQL stores neither NUL nor half a character.
_CODE = ma.validate.Regexp("^[0-9]{6,12}$")
_COMMUNITY_CODE = ma.validate.Regexp("^[0-9]{12}$")


class DivisionQuery(PageQuery):
    """Filters of the list of divisions."""

    level = ma.fields.Enum(DivisionLevel, by_value=True, load_default=None)
    parent = ma.fields.String(load_default=None, validate=[ma.validate.Length(6, 12), _CODE])
    name = ma.fields.String(
        load_default=None,
        validate=[ma.validate.Length(1, 30), LINE_OR_NOTHING],
        metadata={"description": "A part of the name"},
    )


class DivisionView(ma.Schema):
    """A district, street or community, valid from `valid_from` to `valid_to`, both included."""

    code = ma.fields.String(required=True, metadata={"description": "Official code: 6, 9 or 12 digits"})
    level = ma.fields.Enum(DivisionLevel, by_value=True, required=True)
    name = ma.fields.String(required=True)
    parent_code = ma.fields.String(required=True, allow_none=True)
    valid_from = ma.fields.Date(required=True)
    valid_to = ma.fields.Date(required=True, allow_none=True)


class OrganisationQuery(PageQuery):
    """Filters of the list of organisations."""

    community = ma.fields.String(load_default=None, validate=[ma.validate.Length(equal=12), _COMMUNITY_CODE])
    kind = ma.fields.Enum(OrganisationKind, by_value=True, load_default=None)


class OrganisationSizeEntry(ma.Schema):
    """What a target of the creation programmes counts by."""

    floor_area_m2 = ma.fields.Integer(
        strict=True,
        allow_none=True,
        validate=ma.validate.Range(1, 10_000_000),
        metadata={"description": "建筑面积, 仅商场 · Of malls only"},
    )
    agency_rank = ma.fields.Enum(
        AgencyRank,
        by_value=True,
        allow_none=True,
        metadata={"description": "级别, 仅机关: section 科级, county 处级, bureau 局级 · Of agencies only"},
    )


class OrganisationEntry(OrganisationSizeEntry):
    """A new organisation."""

    kind = ma.fields.Enum(OrganisationKind, by_value=True, required=True)
    name = ma.fields.String(required=True, validate=[ma.validate.Length(1, 60), LINE])
    community_code = ma.fields.String(required=True, validate=[ma.validate.Length(equal=12), _COMMUNITY_CODE])


class OrganisationView(ma.Schema):
    """An organisation inside a community."""

    id = ma.fields.UUID(required=True)
    kind = ma.fields.Enum(OrganisationKind, by_value=True, required=True)
    name = ma.fields.String(required=True)
    community_code = ma.fields.String(required=True)
    floor_area_m2 = ma.fields.Integer(required=True, allow_none=True)
    agency_rank = ma.fields.Enum(AgencyRank, by_value=True, required=True, allow_none=True)
    version = ma.fields.Integer(required=True)
    valid_from = ma.fields.Date(required=True)
    valid_to = ma.fields.Date(required=True, allow_none=True)


class ThemeDayQuery(PageQuery):
    """The year of the calendar."""

    year = ma.fields.Integer(required=True, validate=ma.validate.Range(2000, 2100))


class ThemeDayView(ma.Schema):
    """A theme day, week or month, both ends included."""

    code = ma.fields.String(required=True)
    year = ma.fields.Integer(required=True)
    starts_on = ma.fields.Date(required=True)
    ends_on = ma.fields.Date(required=True)
    name_zh = ma.fields.String(required=True)
    name_en = ma.fields.String(required=True)
    theme = ma.fields.String(required=True, allow_none=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(
        Confidence,
        by_value=True,
        required=True,
        metadata={"description": "V read in the source, V2 in a secondary one, C computed, R not checked"},
    )


def today() -> date:
    """The current business day."""
    return business_day(now())


@blueprint.get("/divisions")
@public
@blueprint.arguments(DivisionQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(DivisionView))
def list_divisions(query: dict[str, Any]) -> Page[Division]:
    """区划列表. List the divisions valid today, by code."""
    with transaction() as session:
        return divisions.list_divisions(session, on=today(), **query)


@blueprint.get("/divisions/<string:code>")
@public
@blueprint.response(200, DivisionView)
def read_division(code: str) -> Division:
    """查看区划. Read a division, also one that is no longer valid."""
    with transaction() as session:
        return divisions.division_for(session, code)


@blueprint.get("/organisations")
@public
@blueprint.arguments(OrganisationQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(OrganisationView))
def list_organisations(query: dict[str, Any]) -> Page[Organisation]:
    """单位列表. List the organisations valid today, by community and kind."""
    with transaction() as session:
        return organisations.list_organisations(session, on=today(), **query)


@blueprint.post("/organisations")
@require(Permission.ORGANISATION_RUN)
@idempotent
@blueprint.arguments(OrganisationEntry)
@blueprint.response(201, OrganisationView)
def create_organisation(entry: dict[str, Any]) -> tuple[Organisation, dict[str, str]]:
    """新增单位. Add an organisation to a community in the staff member's scope."""
    with transaction() as session:
        added = organisations.create(session, actor(), **entry, now=now())
    return added, etag_of(added.version)


@blueprint.patch("/organisations/<uuid:organisation_id>")
@require(Permission.ORGANISATION_RUN)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(OrganisationSizeEntry)
@blueprint.response(200, OrganisationView)
def resize_organisation(
    headers: dict[str, Any], changes: dict[str, Any], organisation_id: UUID
) -> tuple[Organisation, dict[str, str]]:
    """修改单位规模. Change a mall's floor area or an agency's rank; If-Match names the version that was read."""
    version = version_of(headers["if_match"])
    with transaction() as session:
        found = organisations.resize(session, actor(), organisation_id, changes, version=version, now=now())
    return found, etag_of(found.version)


@blueprint.get("/theme-days")
@public
@blueprint.arguments(ThemeDayQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(ThemeDayView))
def list_theme_days(query: dict[str, Any]) -> Page[ThemeDay]:
    """主题日. List a year's theme days, weeks and months."""
    with transaction() as session:
        return theme_days.list_theme_days(session, **query)
