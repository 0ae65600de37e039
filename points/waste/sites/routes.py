"""Sites over HTTP, for the staff who keep them."""

from datetime import date
from typing import Any

import marshmallow as ma

from points.waste.sites import opening, registry
from points.waste.sites.models import CODE, Category, Site, SiteForm, SiteKind
from points.waste.sites.opening import Plan
from points.waste.sites.registry import DEVICES_MAX, SiteEntry
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import business_day, now
from server.database import transaction
from server.entries import DIVISION, LINE, LINE_OR_NOTHING, in_our_time
from server.etags import VersionHeader, etag_of, version_of
from server.idempotency import idempotent
from server.paging import Page, PageQuery
from server.places.positions import Datum

blueprint = Blueprint(
    "sites", __name__, url_prefix="/api/v1/sites", description="投放点与回收点 · Sorting sites and collection points"
)

SITE_CODE = [ma.validate.Length(3, 40), ma.validate.Regexp(CODE.removesuffix("$") + r"(?!\n)$")]
PARTNER_CODE = ma.validate.Regexp(r"^[a-z0-9][a-z0-9-]{1,39}(?!\n)$")
_TIMES = ma.validate.Regexp(r"^[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9](?!\n)$")
_MONTH_DAY = ma.validate.Regexp(r"^[0-1][0-9]-[0-3][0-9](?!\n)$")


def _times(**given: Any) -> Any:
    times = ma.fields.String(validate=[ma.validate.Length(equal=11), _TIMES])
    return ma.fields.List(times, validate=ma.validate.Length(max=6), **given)


class WeekEntry(ma.Schema):
    """The opening times of each weekday, such as "06:30-09:00"; a weekday that is missing is closed."""

    mon = _times()
    tue = _times()
    wed = _times()
    thu = _times()
    fri = _times()
    sat = _times()
    sun = _times()


class SeasonEntry(ma.Schema):
    """A part of the year, both ends included, perhaps over New Year; the first that holds a day counts."""

    first = ma.fields.String(
        required=True,
        data_key="from",
        validate=[ma.validate.Length(equal=5), _MONTH_DAY],
        metadata={"example": "05-01"},
    )
    last = ma.fields.String(
        required=True, data_key="to", validate=[ma.validate.Length(equal=5), _MONTH_DAY], metadata={"example": "09-30"}
    )
    days = ma.fields.Nested(WeekEntry, required=True)


class HoursExceptionEntry(ma.Schema):
    """Days with times of their own, such as a holiday; no times at all are closed."""

    first = ma.fields.Date(required=True, data_key="from", validate=in_our_time)
    last = ma.fields.Date(required=True, data_key="to", validate=in_our_time)
    times = _times(load_default=list)
    note = ma.fields.String(load_default="", validate=[ma.validate.Length(max=60), LINE_OR_NOTHING])


class HoursEntry(ma.Schema):
    """开放时间 · Opening hours from a day on, in Asia/Shanghai."""

    valid_from = ma.fields.Date(required=True, validate=in_our_time)
    seasons = ma.fields.List(ma.fields.Nested(SeasonEntry), required=True, validate=ma.validate.Length(1, 12))
    exceptions = ma.fields.List(
        ma.fields.Nested(HoursExceptionEntry), load_default=list, validate=ma.validate.Length(max=60)
    )

    @ma.post_load
    def as_plan(self, entry: dict[str, Any], **_: Any) -> Plan:
        """The plan, or what makes no sense about it."""
        seasons = [{"from": each["first"], "to": each["last"], "days": each["days"]} for each in entry["seasons"]]
        exceptions = [
            {"from": each["first"], "to": each["last"], "times": each["times"], "note": each["note"]}
            for each in entry["exceptions"]
        ]
        try:
            return opening.plan_of({"valid_from": entry["valid_from"], "seasons": seasons, "exceptions": exceptions})
        except ValueError as error:
            raise ma.ValidationError(str(error)) from error


def _categories(**given: Any) -> Any:
    one = ma.fields.String(validate=ma.validate.OneOf([each.value for each in Category]))
    return ma.fields.List(one, validate=ma.validate.Length(1, 4), **given)


def _devices(**given: Any) -> Any:
    # The partner's code, a colon, and the device's own name.
    device = ma.validate.Regexp(r"^[a-z0-9-]{2,40}:[!-~]{1,39}(?!\n)$")
    one = ma.fields.String(validate=[ma.validate.Length(4, 80), device])
    return ma.fields.List(one, validate=ma.validate.Length(max=DEVICES_MAX), **given)


_NAME = [ma.validate.Length(1, 60), LINE]
_ADDRESS = [ma.validate.Length(1, 120), LINE]
_PARTNER_SITE = ma.validate.Regexp(r"^[!-~]{1,64}(?!\n)$")


class _SiteRules(ma.Schema):
    """What goes together in an entry."""

    @ma.validates_schema
    def goes_together(self, entry: dict[str, Any], **_: Any) -> None:
        """A position has three parts, a partner's site two."""
        if 0 < len({"latitude", "longitude", "datum"} & entry.keys()) < 3:
            raise ma.ValidationError("latitude, longitude and datum go together.", "datum")
        named = {name in entry for name in ("partner_code", "partner_site")}
        if len(named) == 2 or (entry.get("partner_code") is None) != (entry.get("partner_site") is None):
            raise ma.ValidationError("partner_code and partner_site go together.", "partner_site")


class SiteChange(_SiteRules):
    """What of a site is to change."""

    name = ma.fields.String(validate=_NAME)
    address = ma.fields.String(validate=_ADDRESS)
    latitude = ma.fields.Float(validate=ma.validate.Range(-90, 90), allow_nan=False)
    longitude = ma.fields.Float(validate=ma.validate.Range(-180, 180), allow_nan=False)
    datum = ma.fields.Enum(Datum, by_value=True)
    categories = _categories()
    hours = ma.fields.Nested(HoursEntry)
    partner_code = ma.fields.String(allow_none=True, validate=PARTNER_CODE)
    partner_site = ma.fields.String(allow_none=True, validate=_PARTNER_SITE)
    devices = _devices()
    valid_to = ma.fields.Date(
        allow_none=True, validate=in_our_time, metadata={"description": "停用前最后一天 · The last day of the site"}
    )


class SiteBody(_SiteRules):
    """A new site."""

    code = ma.fields.String(required=True, validate=SITE_CODE)
    kind = ma.fields.Enum(SiteKind, by_value=True, required=True)
    form = ma.fields.Enum(SiteForm, by_value=True, required=True)
    name = ma.fields.String(required=True, validate=_NAME)
    address = ma.fields.String(required=True, validate=_ADDRESS)
    community_code = ma.fields.String(
        required=True,
        validate=[ma.validate.Length(equal=12), ma.validate.Regexp(r"^[0-9]{12}(?!\n)$")],
    )
    latitude = ma.fields.Float(required=True, validate=ma.validate.Range(-90, 90), allow_nan=False)
    longitude = ma.fields.Float(required=True, validate=ma.validate.Range(-180, 180), allow_nan=False)
    datum = ma.fields.Enum(
        Datum,
        by_value=True,
        required=True,
        metadata={"description": "坐标系: gcj-02 (手机地图) 或 wgs-84 · The system of the position"},
    )
    categories = _categories(required=True)
    hours = ma.fields.Nested(HoursEntry, required=True)
    partner_code = ma.fields.String(allow_none=True, validate=PARTNER_CODE)
    partner_site = ma.fields.String(
        allow_none=True,
        validate=_PARTNER_SITE,
        metadata={"description": "合作方数据中的点位名称 · What the partner's events call the site"},
    )
    devices = _devices(load_default=list)
    valid_from = ma.fields.Date(required=True, validate=in_our_time)
    valid_to = ma.fields.Date(load_default=None, allow_none=True, validate=in_our_time)

    @ma.validates_schema
    def fits(self, entry: dict[str, Any], **_: Any) -> None:
        """A collection point is a station, and nothing else is."""
        if (entry["kind"] is SiteKind.COLLECTION_POINT) != (entry["form"] is SiteForm.STATION):
            raise ma.ValidationError("A collection point, and nothing else, has the form station.", "form")
        if entry["valid_to"] is not None and entry["valid_to"] < entry["valid_from"]:
            raise ma.ValidationError("Must not lie before valid_from.", "valid_to")

    @ma.post_load
    def as_entry(self, entry: dict[str, Any], **_: Any) -> SiteEntry:
        """The entry as the rules take it."""
        return SiteEntry(**entry)


class WeekView(ma.Schema):
    """The opening times of each weekday."""

    mon = ma.fields.List(ma.fields.String())
    tue = ma.fields.List(ma.fields.String())
    wed = ma.fields.List(ma.fields.String())
    thu = ma.fields.List(ma.fields.String())
    fri = ma.fields.List(ma.fields.String())
    sat = ma.fields.List(ma.fields.String())
    sun = ma.fields.List(ma.fields.String())


class SeasonView(ma.Schema):
    """A part of the year, both ends included."""

    first = ma.fields.String(required=True, attribute="from", data_key="from")
    last = ma.fields.String(required=True, attribute="to", data_key="to")
    days = ma.fields.Nested(WeekView, required=True)


class HoursExceptionView(ma.Schema):
    """Days with times of their own."""

    first = ma.fields.String(required=True, attribute="from", data_key="from")
    last = ma.fields.String(required=True, attribute="to", data_key="to")
    times = ma.fields.List(ma.fields.String(), required=True)
    note = ma.fields.String(required=True)


class HoursView(ma.Schema):
    """Opening hours from a day on, until those of a later day."""

    valid_from = ma.fields.String(required=True)
    seasons = ma.fields.List(ma.fields.Nested(SeasonView), required=True)
    exceptions = ma.fields.List(ma.fields.Nested(HoursExceptionView), required=True)


class SiteView(ma.Schema):
    """A site."""

    code = ma.fields.String(required=True)
    kind = ma.fields.Enum(SiteKind, by_value=True, required=True)
    form = ma.fields.Enum(SiteForm, by_value=True, required=True)
    name = ma.fields.String(required=True)
    address = ma.fields.String(required=True)
    community_code = ma.fields.String(required=True)
    latitude = ma.fields.Float(required=True)
    longitude = ma.fields.Float(required=True)
    datum = ma.fields.Enum(Datum, by_value=True, required=True)
    categories = ma.fields.List(ma.fields.String(), required=True)
    hours = ma.fields.List(ma.fields.Nested(HoursView), required=True)
    partner_code = ma.fields.String(required=True, allow_none=True)
    partner_site = ma.fields.String(required=True, allow_none=True)
    demonstration = ma.fields.Boolean(
        required=True, metadata={"description": "示范点位, 并非真实存在 · Invented, for trying the service"}
    )
    valid_from = ma.fields.Date(required=True)
    valid_to = ma.fields.Date(required=True, allow_none=True)
    version = ma.fields.Integer(required=True)


class SiteDetailView(SiteView):
    """A site with the devices that stand there."""

    devices = ma.fields.List(ma.fields.String(), required=True)


class SiteQuery(PageQuery):
    """Filters of the list of sites."""

    kind = ma.fields.Enum(SiteKind, by_value=True)
    community = ma.fields.String(validate=DIVISION, metadata={"description": "Of one street or community"})
    ended = ma.fields.Boolean(load_default=False, truthy={"true"}, falsy={"false"})


def _detail(session: Any, site: Site) -> dict[str, Any]:
    shown = {name: getattr(site, name) for name in SiteView().fields}
    return {**shown, "devices": registry.devices_of(session, [site.code])[site.code]}


def today() -> date:
    """The present business day."""
    return business_day(now())


@blueprint.get("")
@require(Permission.SITE_MANAGE)
@blueprint.arguments(SiteQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(SiteView))
def list_sites(query: dict[str, Any]) -> Page[Site]:
    """点位列表. List the sites in one's scope."""
    with transaction() as session:
        return registry.list_sites(session, actor(), **query, today=today())


@blueprint.post("")
@require(Permission.SITE_MANAGE)
@idempotent
@blueprint.arguments(SiteBody)
@blueprint.response(201, SiteDetailView)
def create_site(entry: SiteEntry) -> tuple[dict[str, Any], dict[str, str]]:
    """新增点位. Add a site to a community in one's scope."""
    with transaction() as session:
        made = registry.create(session, actor(), entry, now=now())
        return _detail(session, made), etag_of(made.version)


@blueprint.get("/<string:code>")
@require(Permission.SITE_MANAGE)
@blueprint.response(200, SiteDetailView)
def read_site(code: str) -> tuple[dict[str, Any], dict[str, str]]:
    """查看点位. Read a site in one's scope."""
    with transaction() as session:
        found = registry.site_for(session, actor(), code)
        return _detail(session, found), etag_of(found.version)


@blueprint.patch("/<string:code>")
@require(Permission.SITE_MANAGE)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(SiteChange)
@blueprint.response(200, SiteDetailView)
def edit_site(headers: dict[str, Any], changes: dict[str, Any], code: str) -> tuple[dict[str, Any], dict[str, str]]:
    """修改点位. Change a site; If-Match names the version that was read. New hours begin today at the earliest."""
    version = version_of(headers["if_match"])
    with transaction() as session:
        made = registry.edit(session, actor(), code, changes, version=version, now=now())
        return _detail(session, made), etag_of(made.version)
