"""The rules for everybody, in figures and plain words; and for each resident the rule of each of their activities."""

from typing import Any
from uuid import UUID

import marshmallow as ma

from points.earning.models import Behaviour, BoundKind, Grade, Outcome
from points.earning.proposals import published
from points.earning.proposals.published import Explained, VersionSeen, WholeVersion
from server.access import Permission, actor, public, require
from server.api import Blueprint, page_schema
from server.clock import business_day, now
from server.database import transaction
from server.paging import Page, PageQuery

blueprint = Blueprint(
    "earning-rules", __name__, url_prefix="/api/v1", description="积分规则 · The earning rules in plain words"
)


class WordsView(ma.Schema):
    """A text in both languages."""

    zh = ma.fields.String(required=True)
    en = ma.fields.String(required=True)


class RuleVersionView(ma.Schema):
    """A dated version of the rules. `reason` says why it was adopted; null for one that came with the service."""

    id = ma.fields.String(required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    source = ma.fields.String(required=True)
    valid_from = ma.fields.Date(required=True)
    valid_to = ma.fields.Date(required=True, allow_none=True, metadata={"description": "The last day, included"})
    late_days_max = ma.fields.Integer(required=True)
    expiry_years = ma.fields.Integer(required=True)
    travel_method_id = ma.fields.String(required=True)
    recycling_method_id = ma.fields.String(required=True)
    content_sha256 = ma.fields.Function(lambda row: row.content_sha256.hex(), metadata={"type": "string"})
    reason = ma.fields.String(required=True, allow_none=True)


class EarningRuleView(ma.Schema):
    """What one mode of a behaviour earns at one grade of evidence. Quantities in metres, grams or steps."""

    behaviour = ma.fields.Enum(Behaviour, by_value=True, required=True)
    mode = ma.fields.String(required=True)
    grade = ma.fields.Enum(Grade, by_value=True, required=True)
    name = ma.fields.Nested(WordsView, required=True)
    points_per_act = ma.fields.Integer(required=True)
    points_per_km = ma.fields.Integer(required=True)
    points_per_kg = ma.fields.Integer(required=True)
    points_per_1000_steps = ma.fields.Integer(required=True)
    percent = ma.fields.Integer(required=True, metadata={"description": "The grade's share of the points"})
    quantity_min = ma.fields.Integer(required=True)
    quantity_max = ma.fields.Integer(required=True)
    speed_max_kmh = ma.fields.Integer(required=True, allow_none=True)
    cap_group = ma.fields.String(required=True)
    day_cap_points = ma.fields.Integer(required=True)
    week_cap_points = ma.fields.Integer(required=True)
    words = ma.fields.Nested(WordsView, required=True)


class GradeTermView(ma.Schema):
    """What a grade of evidence is worth, and its ceiling."""

    grade = ma.fields.Enum(Grade, by_value=True, required=True)
    percent = ma.fields.Integer(required=True)
    week_ceiling_points = ma.fields.Integer(required=True, allow_none=True)


class BoundLimitView(ma.Schema):
    """What all claims of one subject can pay on a day."""

    kind = ma.fields.Enum(BoundKind, by_value=True, required=True)
    day_points = ma.fields.Integer(required=True)


class WholeRuleVersionView(ma.Schema):
    """All of a version, in figures and in words."""

    version = ma.fields.Nested(RuleVersionView, required=True)
    words = ma.fields.List(ma.fields.Nested(WordsView), required=True)
    grades = ma.fields.List(ma.fields.Nested(GradeTermView), required=True)
    bounds = ma.fields.List(ma.fields.Nested(BoundLimitView), required=True)
    rules = ma.fields.List(ma.fields.Nested(EarningRuleView), required=True)


class ActivityRuleView(ma.Schema):
    """How an activity was priced. `rule` is null where no rule of its day rewards it."""

    activity_id = ma.fields.UUID(required=True, attribute="entry.id")
    outcome = ma.fields.Enum(Outcome, by_value=True, required=True, attribute="entry.outcome")
    priced_points = ma.fields.Integer(required=True, attribute="entry.priced_points")
    points = ma.fields.Integer(required=True, attribute="entry.points")
    reason = ma.fields.String(required=True, allow_none=True, attribute="entry.reason")
    reason_zh = ma.fields.String(required=True, allow_none=True, attribute="entry.reason_zh")
    reason_en = ma.fields.String(required=True, allow_none=True, attribute="entry.reason_en")
    version = ma.fields.Nested(RuleVersionView, required=True, allow_none=True)
    rule = ma.fields.Nested(EarningRuleView, required=True, allow_none=True)
    calculation = ma.fields.Nested(WordsView, required=True, allow_none=True)


@blueprint.get("/earning/rules")
@public
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(RuleVersionView))
def list_rule_versions(query: dict[str, Any]) -> Page[VersionSeen]:
    """积分规则各版本. Every version of the rules, the one that begins last first."""
    with transaction() as session:
        return published.list_versions(session, **query)


@blueprint.get("/earning/rules/<string(maxlength=40):version_id>")
@public
@blueprint.response(200, WholeRuleVersionView)
def read_rule_version(version_id: str) -> WholeVersion:
    """积分规则. A version, or `current`: rates, caps, the grades' discounts and ceilings, bounds, in plain words."""
    with transaction() as session:
        return published.version_named(session, version_id, today=business_day(now()))


@blueprint.get("/me/activities/<uuid:activity_id>/rule")
@require(Permission.WALLET_OWN)
@blueprint.response(200, ActivityRuleView)
def read_activity_rule(activity_id: UUID) -> Explained:
    """这条记录按哪条规则计分. The rule that priced one of one's own activities, and how its points come of it."""
    with transaction() as session:
        return published.explain(session, actor().id, activity_id)
