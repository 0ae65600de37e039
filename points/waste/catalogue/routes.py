"""What goes where over HTTP: the categories, and everyday things by what somebody types."""

from typing import Any

import marshmallow as ma

from points.waste.catalogue import search
from points.waste.catalogue.items import Guide, guide_on
from points.waste.catalogue.search import Found
from server.access import public
from server.api import Blueprint, page_schema
from server.clock import business_day, now
from server.entries import LINE, SLUG
from server.paging import Page, PageQuery
from server.places.models import Confidence
from server.settings import settings

blueprint = Blueprint(
    "waste-guide", __name__, url_prefix="/api/v1/waste", description="分类指引 · What waste goes where"
)

_CODE = [ma.validate.Length(1, 40), SLUG]


class WasteCategoryView(ma.Schema):
    """A category of waste and the colour of its bin, if it has one."""

    code = ma.fields.String(required=True)
    zh = ma.fields.String(required=True)
    en = ma.fields.String(required=True)
    bin_zh = ma.fields.String(required=True, allow_none=True)
    bin_en = ma.fields.String(required=True, allow_none=True)


class WasteClassView(ma.Schema):
    """A sub-class of a category."""

    code = ma.fields.String(required=True)
    category = ma.fields.String(required=True, attribute="category.code")
    zh = ma.fields.String(required=True)
    en = ma.fields.String(required=True)
    confidence = ma.fields.Enum(Confidence, by_value=True, required=True)


class WasteGuideView(ma.Schema):
    """The edition of the list in force today."""

    id = ma.fields.String(required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    edition_on = ma.fields.Date(required=True)
    source = ma.fields.String(required=True)
    confidence = ma.fields.Enum(
        Confidence,
        by_value=True,
        required=True,
        metadata={"description": "Of putting things into classes: V, V2, C, R (not checked)"},
    )
    categories = ma.fields.List(ma.fields.Nested(WasteCategoryView), required=True)
    classes = ma.fields.List(ma.fields.Nested(WasteClassView), required=True)
    items = ma.fields.Function(
        lambda guide: len(guide.items),
        required=True,
        metadata={"type": "integer", "description": "How many things"},
    )


class WasteItemQuery(PageQuery):
    """What somebody typed, and where to look."""

    query = ma.fields.String(
        load_default=None,
        validate=[ma.validate.Length(1, search.QUERY_LENGTH_MAX), LINE],
        metadata={"description": "中文、拼音、首字母或英文 · Chinese, pinyin, initials or English"},
    )
    category = ma.fields.String(load_default=None, validate=_CODE)
    item_class = ma.fields.String(load_default=None, data_key="class", validate=_CODE)


class WasteItemView(ma.Schema):
    """An everyday thing and where it goes. `matched` is the name that fits what was typed."""

    name_zh = ma.fields.String(required=True, attribute="item.name_zh")
    name_en = ma.fields.String(required=True, attribute="item.name_en")
    matched = ma.fields.String(required=True)
    also = ma.fields.List(
        ma.fields.String(), required=True, attribute="item.also", metadata={"description": "Other names for it"}
    )
    pinyin = ma.fields.String(
        required=True, attribute="item.pinyin", metadata={"description": "Of its usual name, ü as v"}
    )
    category = ma.fields.String(required=True, attribute="item.item_class.category.code")
    item_class = ma.fields.String(required=True, data_key="class", attribute="item.item_class.code")
    hint_zh = ma.fields.String(required=True, attribute="item.hint_zh")
    hint_en = ma.fields.String(required=True, attribute="item.hint_en")
    cities_differ = ma.fields.Boolean(required=True, attribute="item.cities_differ")


def guide_today() -> Guide:
    """The edition in force today. Raises NoGuide."""
    return guide_on(settings().district_folder, business_day(now()))


@blueprint.get("/categories")
@public
@blueprint.response(200, WasteGuideView)
def read_waste_guide() -> Guide:
    """分类类别. Read the categories and sub-classes, and which edition of the list is in force."""
    return guide_today()


@blueprint.get("/items")
@public
@blueprint.arguments(WasteItemQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(WasteItemView))
def find_waste_items(query: dict[str, Any]) -> Page[Found]:
    """什么垃圾投哪里. Find everyday things by what somebody types, the best first; without a query list all."""
    limit, cursor = query.pop("limit"), query.pop("cursor")
    return search.page(guide_today(), **query, limit=limit, cursor=cursor)
