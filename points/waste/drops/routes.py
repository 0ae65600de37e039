"""Drops over HTTP: what supervisors grade, what residents declare, the site's own code, and the hidden spot-checks."""

from typing import Any
from uuid import UUID

import marshmallow as ma

from points.earning import phones
from points.earning.claims import REASON_TEXTS, Reason
from points.earning.models import Outcome
from points.waste.drops import accuracy, dropping, spot_checks
from points.waste.drops.accuracy import Accuracy
from points.waste.drops.dropping import BAGS_MAX, Bag, BagOutcome, Dropped
from points.waste.drops.models import CheckState, DropPath, Finding, SpotCheck
from points.waste.drops.site_codes import TEXT_LENGTH_MAX, ShownSiteCode
from points.waste.sites.models import Category
from points.waste.sites.routes import SITE_CODE
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import PHONES_OWN_ID, WORDS_OR_NOTHING, in_our_time
from server.idempotency import idempotent
from server.limits import limiter
from server.paging import Page, PageQuery
from server.people import resident_codes
from server.settings import settings

blueprint = Blueprint(
    "sorting", __name__, url_prefix="/api/v1", description="分类投放与抽查 · Sorting drops and spot-checks"
)

DAYS_MAX = 366


class BagEntry(ma.Schema):
    """One bag, as the supervisor found it."""

    category = ma.fields.Enum(Category, by_value=True, required=True)
    finding = ma.fields.Enum(
        Finding,
        by_value=True,
        required=True,
        metadata={"description": "qualified 合格, unqualified 不合格, mixed 混投"},
    )

    @ma.post_load
    def as_bag(self, entry: dict[str, Any], **_: Any) -> Bag:
        """The bag as the rules take it."""
        return Bag(**entry)


class GradedDropBody(ma.Schema):
    """What a supervisor scanned and found."""

    site = ma.fields.String(required=True, validate=SITE_CODE)
    code = ma.fields.String(
        required=True,
        validate=ma.validate.Length(8, resident_codes.TEXT_LENGTH_MAX),
        metadata={"description": "居民码或居民卡 · The resident's code or card as scanned"},
    )
    bags = ma.fields.List(ma.fields.Nested(BagEntry), required=True, validate=ma.validate.Length(1, BAGS_MAX))

    @ma.validates_schema
    def one_of_each(self, entry: dict[str, Any], **_: Any) -> None:
        """A second bag of the same category is no second act of sorting."""
        if len({bag.category for bag in entry["bags"]}) < len(entry["bags"]):
            raise ma.ValidationError("One bag of each category.", "bags")


class OwnDropBody(ma.Schema):
    """What a resident brought, by the code that they scanned at the site."""

    code = ma.fields.String(
        required=True,
        validate=ma.validate.Length(8, TEXT_LENGTH_MAX),
        metadata={"description": "投放点屏幕上的二维码 · The site's code as scanned"},
    )
    categories = ma.fields.List(
        ma.fields.Enum(Category, by_value=True), required=True, validate=ma.validate.Length(1, BAGS_MAX)
    )
    installation = ma.fields.String(
        load_default=None,
        allow_none=True,
        validate=PHONES_OWN_ID,
        metadata={"description": "小程序安装标识 · Which installation of the mini-program; only hashed"},
    )

    @ma.validates_schema
    def one_of_each(self, entry: dict[str, Any], **_: Any) -> None:
        """A second bag of the same category is no second act of sorting."""
        if len(set(entry["categories"])) < len(entry["categories"]):
            raise ma.ValidationError("One bag of each category.", "categories")


class BagView(ma.Schema):
    """What became of one bag. A duplicate has no outcome of its own."""

    category = ma.fields.Enum(Category, by_value=True, required=True)
    finding = ma.fields.Enum(Finding, by_value=True, required=True, allow_none=True)
    outcome = ma.fields.Enum(Outcome, by_value=True, required=True, allow_none=True)
    reason = ma.fields.String(required=True, allow_none=True)
    reason_zh = ma.fields.String(required=True, allow_none=True)
    reason_en = ma.fields.String(required=True, allow_none=True)


class OwnBagView(BagView):
    """What became of one's own bag."""

    points = ma.fields.Integer(required=True)
    activity_id = ma.fields.UUID(required=True, allow_none=True)


class GradedDropView(ma.Schema):
    """One visit to a site, without a word about who it was.

    A bag that waits or fails for the resident's own sake, and not for what it is, has no outcome here.
    """

    id = ma.fields.UUID(required=True)
    site = ma.fields.String(required=True)
    dropped_at = ma.fields.AwareDateTime(required=True)
    bags = ma.fields.List(ma.fields.Nested(BagView), required=True)


class OwnDropView(ma.Schema):
    """One's own visit to a site."""

    id = ma.fields.UUID(required=True)
    site = ma.fields.String(required=True)
    site_name = ma.fields.String(required=True)
    dropped_at = ma.fields.AwareDateTime(required=True)
    bags = ma.fields.List(ma.fields.Nested(OwnBagView), required=True)


class SiteCodeView(ma.Schema):
    """The site's rotating code. Ask again at `changes_at`."""

    text = ma.fields.String(required=True, metadata={"description": "For a QR code, as it stands"})
    changes_at = ma.fields.AwareDateTime(required=True)


class SpotCheckQuery(PageQuery):
    """Which checks."""

    state = ma.fields.Enum(CheckState, by_value=True, load_default=CheckState.SAMPLED)


class SpotCheckView(ma.Schema):
    """A drop to look at again. It does not say whose it was."""

    id = ma.fields.UUID(required=True)
    state = ma.fields.Enum(CheckState, by_value=True, required=True)
    path = ma.fields.Enum(DropPath, by_value=True, required=True)
    site = ma.fields.String(required=True)
    community_code = ma.fields.String(required=True)
    category = ma.fields.String(required=True)
    dropped_at = ma.fields.AwareDateTime(required=True)
    due_at = ma.fields.AwareDateTime(required=True)
    decided_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    remark = ma.fields.String(required=True)


class SpotCheckAnswerBody(ma.Schema):
    """What was found."""

    passed = ma.fields.Boolean(required=True, truthy={True}, falsy={False})
    remark = ma.fields.String(load_default="", validate=[ma.validate.Length(max=300), WORDS_OR_NOTHING])

    @ma.validates_schema
    def explained(self, entry: dict[str, Any], **_: Any) -> None:
        """Whoever takes points back says why."""
        if not entry["passed"] and not entry["remark"].strip():
            raise ma.ValidationError("A failed check says what was wrong.", "remark")


class AccuracyQuery(ma.Schema):
    """Which drops: of which business days, both included, and recorded how."""

    starts_on = ma.fields.Date(required=True, validate=in_our_time)
    ends_on = ma.fields.Date(required=True, validate=in_our_time)
    path = ma.fields.Enum(DropPath, by_value=True)

    @ma.validates_schema
    def in_order(self, entry: dict[str, Any], **_: Any) -> None:
        """A year at most."""
        if not 0 <= (entry["ends_on"] - entry["starts_on"]).days < DAYS_MAX:
            raise ma.ValidationError(f"Must span 1 to {DAYS_MAX} days.", "ends_on")


class AccuracyView(ma.Schema):
    """分类准确率 · Estimated from the spot-checks, with a 95 % interval; nothing without an answered check."""

    passed = ma.fields.Integer(required=True)
    failed = ma.fields.Integer(required=True)
    unchecked = ma.fields.Integer(required=True)
    drops = ma.fields.Float(required=True, metadata={"description": "Horvitz-Thompson total of the paid drops"})
    correct_drops = ma.fields.Float(required=True)
    share = ma.fields.Float(required=True, allow_none=True)
    low = ma.fields.Float(required=True, allow_none=True)
    high = ma.fields.Float(required=True, allow_none=True)


def _shown(outcome: BagOutcome) -> dict[str, Any]:
    reason = outcome.award.reason
    texts = (None, None) if reason is None else REASON_TEXTS[reason]
    return {
        "category": outcome.bag.category,
        "finding": outcome.bag.finding,
        "outcome": outcome.award.outcome,
        "reason": None if reason is None else reason.value,
        "reason_zh": texts[0],
        "reason_en": texts[1],
        "points": outcome.award.points,
        "activity_id": outcome.award.activity_id,
    }


def _visit(dropped: Dropped) -> dict[str, Any]:
    return {
        "id": dropped.id,
        "site": dropped.site.code,
        "site_name": dropped.site.name,
        "dropped_at": dropped.dropped_at,
        "bags": [_shown(outcome) for outcome in dropped.bags],
    }


# What the bag and the place say. All else, such as a review or a household's bound, is the resident's own affair.
_OF_THE_BAG = (Reason.UNSORTED, Reason.OUTSIDE_HOURS, Reason.SITE_CLOSED, Reason.CATEGORY_NOT_TAKEN)


def _graded(dropped: Dropped) -> dict[str, Any]:
    """The visit as the supervisor sees it: why a bag was not paid only where it is about the bag or the place."""
    shown = _visit(dropped)
    for bag, outcome in zip(shown["bags"], dropped.bags, strict=True):
        if outcome.award.reason not in (None, *_OF_THE_BAG):
            paid = outcome.award.outcome is Outcome.AWARDED
            bag |= {"outcome": Outcome.AWARDED if paid else None, "reason": None, "reason_zh": None, "reason_en": None}
    return shown


@blueprint.post("/sorting/drops")
@require(Permission.SORTING_CONFIRM)
@limiter.limit("20 per minute; 2000 per day")
@idempotent
@blueprint.arguments(GradedDropBody)
@blueprint.response(201, GradedDropView)
def record_graded_drop(entry: dict[str, Any]) -> dict[str, Any]:
    """督导员扫码评级. Record what a resident brings, by their code or card, each bag with what was found in it."""
    instant, person, data_key = now(), actor(), settings().data_key
    dropped = run_transaction(
        lambda session: dropping.record_graded(
            session,
            person,
            site_code=entry["site"],
            code=entry["code"],
            bags=entry["bags"],
            data_key=data_key,
            now=instant,
        )
    )
    return _graded(dropped)


@blueprint.get("/sorting/sites/<string:code>/code")
@require(Permission.SORTING_CONFIRM)
@blueprint.response(200, SiteCodeView)
def show_site_code(code: str) -> ShownSiteCode:
    """投放点动态码. The code that the site's screen shows now; another every 30 seconds."""
    with transaction() as session:
        return dropping.shown_code(session, actor(), code, data_key=settings().data_key, now=now())


@blueprint.post("/me/sorting/drops")
@require(Permission.ACTIVITY_RECORD)
@limiter.limit("10 per minute")
@idempotent
@blueprint.arguments(OwnDropBody)
@blueprint.response(201, OwnDropView)
def record_own_drop(entry: dict[str, Any]) -> dict[str, Any]:
    """居民自助扫码. Record one's own drop by the site's rotating code, at the lowest grade of evidence."""
    instant, person, data_key = now(), actor(), settings().data_key
    device = phones.phone_of(entry.pop("installation"), data_key=data_key)
    dropped = run_transaction(
        lambda session: dropping.record_own(session, person, **entry, device=device, data_key=data_key, now=instant)
    )
    return _visit(dropped)


@blueprint.get("/sorting/spot-checks")
@require(Permission.SPOT_CHECK)
@blueprint.arguments(SpotCheckQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(SpotCheckView))
def list_spot_checks(query: dict[str, Any]) -> Page[SpotCheck]:
    """抽查任务. List the checks of one's scope, oldest first; never those of drops that one graded or brought."""
    with transaction() as session:
        return spot_checks.list_checks(session, actor(), **query)


@blueprint.post("/sorting/spot-checks/<uuid:check_id>/answer")
@require(Permission.SPOT_CHECK)
@idempotent
@blueprint.arguments(SpotCheckAnswerBody)
@blueprint.response(200, SpotCheckView)
def answer_spot_check(entry: dict[str, Any], check_id: UUID) -> SpotCheck:
    """抽查结果. Write what was found; a drop that failed loses its points, and its resident is told why."""
    instant, person = now(), actor()
    return run_transaction(lambda session: spot_checks.answer(session, person, check_id, **entry, now=instant))


@blueprint.get("/sorting/accuracy")
@require(Permission.SPOT_CHECK)
@blueprint.arguments(AccuracyQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, AccuracyView)
def estimate_accuracy(query: dict[str, Any]) -> Accuracy:
    """分类准确率. Estimate how accurately people sort, over the paid drops of one's scope."""
    with transaction() as session:
        return accuracy.of_scope(session, actor(), **query)
