"""The public page of sites over HTTP: what is near, what is open, when the van comes."""

from typing import Any

import marshmallow as ma

from points.waste.guide import nearest
from points.waste.guide.nearest import NEAR_MAX, NearSite, NearStop, Whereabouts
from points.waste.sites.models import Category, SiteForm, SiteKind
from server.access import public
from server.api import Blueprint
from server.clock import now
from server.database import transaction
from server.entries import DIVISION
from server.places.positions import Datum, Position

blueprint = Blueprint(
    "site-guide",
    __name__,
    url_prefix="/api/v1",
    description="附近投放点与流动回收 · Sites nearby, the van's stops",
)


class WhereQuery(ma.Schema):
    """Where somebody is: a position (three decimals are exact enough), or a street or community, or nothing."""

    latitude = ma.fields.Float(validate=ma.validate.Range(-90, 90), allow_nan=False)
    longitude = ma.fields.Float(validate=ma.validate.Range(-180, 180), allow_nan=False)
    datum = ma.fields.Enum(
        Datum,
        by_value=True,
        load_default=Datum.WGS_84,
        metadata={"description": "wgs-84: 浏览器 · a browser's; gcj-02: 手机地图 · a phone's map"},
    )
    division = ma.fields.String(load_default="", validate=DIVISION)
    limit = ma.fields.Integer(load_default=10, validate=ma.validate.Range(1, NEAR_MAX))

    @ma.validates_schema
    def whole(self, entry: dict[str, Any], **_: Any) -> None:
        """A position has two numbers."""
        if ("latitude" in entry) != ("longitude" in entry):
            raise ma.ValidationError("latitude and longitude go together.", "longitude")

    @ma.post_load
    def located(self, entry: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The place as the rules take it."""
        datum, division = entry.pop("datum"), entry.pop("division")
        latitude, longitude = entry.pop("latitude", None), entry.pop("longitude", None)
        position = None if latitude is None else Position(latitude, longitude, datum)
        return {**entry, "where": Whereabouts(position, division)}


class NearSiteQuery(WhereQuery):
    """Where somebody is, and what they bring."""

    kind = ma.fields.Enum(SiteKind, by_value=True, load_default=None)
    category = ma.fields.String(load_default=None, validate=ma.validate.OneOf([each.value for each in Category]))
    open_only = ma.fields.Boolean(load_default=False, data_key="open", truthy={"true"}, falsy={"false"})


class NearSiteView(ma.Schema):
    """A site near somebody. Times are aware; `today` is in Asia/Shanghai, such as "06:30-09:00"."""

    code = ma.fields.String(required=True, attribute="site.code")
    kind = ma.fields.Enum(SiteKind, by_value=True, required=True, attribute="site.kind")
    form = ma.fields.Enum(SiteForm, by_value=True, required=True, attribute="site.form")
    name = ma.fields.String(required=True, attribute="site.name")
    address = ma.fields.String(required=True, attribute="site.address")
    community_code = ma.fields.String(required=True, attribute="site.community_code")
    latitude = ma.fields.Float(required=True, attribute="site.position.latitude")
    longitude = ma.fields.Float(required=True, attribute="site.position.longitude")
    datum = ma.fields.Enum(Datum, by_value=True, required=True, attribute="site.position.datum")
    categories = ma.fields.Function(
        lambda near: sorted(near.site.categories),
        required=True,
        metadata={"type": "array", "items": {"type": "string"}},
    )
    demonstration = ma.fields.Boolean(
        required=True,
        attribute="site.demonstration",
        metadata={"description": "示范点位, 并非真实存在 · Invented, for trying the service"},
    )
    distance_m = ma.fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "直线距离 · In a straight line, null without a position"},
    )
    open = ma.fields.Boolean(required=True, attribute="is_open")
    opens_at = ma.fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "Of the present or the next opening"}
    )
    closes_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    today = ma.fields.List(ma.fields.String(), required=True)


class NearSitesView(ma.Schema):
    """The sites near somebody, open ones first."""

    items = ma.fields.List(ma.fields.Nested(NearSiteView), required=True)


class NearStopView(ma.Schema):
    """The next coming of the van to one of its stops."""

    code = ma.fields.String(required=True, attribute="visit.plan.code")
    name = ma.fields.String(required=True, attribute="visit.plan.name")
    address = ma.fields.String(required=True, attribute="visit.plan.address")
    community_code = ma.fields.String(required=True, attribute="visit.plan.division")
    starts_at = ma.fields.AwareDateTime(required=True, attribute="visit.starts_at")
    ends_at = ma.fields.AwareDateTime(required=True, attribute="visit.ends_at")
    left = ma.fields.Integer(
        required=True, attribute="visit.left", metadata={"description": "剩余名额 · Orders that it still takes"}
    )
    demonstration = ma.fields.Boolean(required=True, attribute="visit.plan.demonstration")
    distance_m = ma.fields.Integer(required=True, allow_none=True)


class NearStopsView(ma.Schema):
    """The van's next stops near somebody."""

    items = ma.fields.List(ma.fields.Nested(NearStopView), required=True)


@blueprint.get("/sites/near")
@public
@blueprint.arguments(NearSiteQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, NearSitesView)
def list_near_sites(query: dict[str, Any]) -> dict[str, list[NearSite]]:
    """附近的投放点与回收点. List the sites near a position or in a division, open ones first; who asks is not kept."""
    with transaction() as session:
        return {"items": list(nearest.near_sites(session, **query, now=now()))}


@blueprint.get("/recycling/stops/near")
@public
@blueprint.arguments(WhereQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, NearStopsView)
def list_near_stops(query: dict[str, Any]) -> dict[str, list[NearStop]]:
    """附近的流动回收. List the van's next stops near a position or in a division; who asks is not kept."""
    with transaction() as session:
        return {"items": list(nearest.near_stops(session, **query, now=now()))}
