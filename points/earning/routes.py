"""Recording by hand, steps from the phone, and the history with its reasons."""

from datetime import date, timedelta
from typing import Any, ClassVar
from uuid import UUID

import marshmallow as ma
from sqlalchemy.orm import Session

from points.earning import activities, counts, steps
from points.earning.claims import REASON_TEXTS, Award, Claim, Reason
from points.earning.models import Activity, Behaviour, Grade, Outcome
from points.earning.phones import phone_of
from server import audit, paging
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import business_day, now
from server.database import new_id, run_transaction, transaction
from server.entries import PHONES_OWN_ID
from server.errors import InvalidRequest, NotFound
from server.idempotency import idempotent, idempotent_required
from server.limits import limiter, spend_limit
from server.people import residents, wechat
from server.people.models import ConsentPurpose, Resident
from server.people.residents import ConsentMissing, HomeCommunityMissing
from server.settings import settings

blueprint = Blueprint(
    "earning", __name__, url_prefix="/api/v1", description="低碳行为 activities: record, history, savings"
)

SAVINGS_DAYS_MAX = 731


def _installation() -> ma.fields.String:
    return ma.fields.String(
        load_default=None,
        validate=PHONES_OWN_ID,
        metadata={"description": "The mini-program's own id of this installation; kept as a keyed hash only"},
    )


class TripBody(ma.Schema):
    """A trip recorded by hand: the weakest evidence, with the tightest caps."""

    mode = ma.fields.String(
        required=True,
        validate=ma.validate.OneOf(["walk", "bicycle", "e-bike", "bus", "metro"]),
        metadata={
            "description": "步行 walk, 自行车 bicycle, 电动自行车 e-bike, 公交 bus, 地铁 metro",
            "example": "walk",
        },
    )
    started_at = ma.fields.AwareDateTime(required=True, metadata={"example": "2026-11-22T08:00:00+08:00"})
    ended_at = ma.fields.AwareDateTime(required=True, metadata={"example": "2026-11-22T08:30:00+08:00"})
    distance_m = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(1, 1_000_000))
    client_id = ma.fields.String(
        validate=PHONES_OWN_ID,
        metadata={"description": "The phone's own id of this trip; sent again with the same id, it is not paid twice"},
    )
    installation = _installation()

    @ma.validates_schema
    def _sane_years(self, data: dict[str, Any], **_: Any) -> None:
        for name in ("started_at", "ended_at"):
            # Near the ends of the calendar a change of time zone overflows.
            if name in data and not 2000 <= data[name].year <= 2100:
                raise ma.ValidationError("Year out of range.", field_name=name)


class StepsBody(ma.Schema):
    """What `wx.getWeRunData` gave, as it came."""

    encrypted_data = ma.fields.String(required=True, validate=ma.validate.Length(1, 16_384))
    iv = ma.fields.String(required=True, validate=ma.validate.Length(1, 64))
    installation = _installation()


class RevocationBody(ma.Schema):
    """Why an activity is taken back; the resident reads it in the statement."""

    reason = ma.fields.String(required=True, validate=ma.validate.Length(2, 200))


class AwardView(ma.Schema):
    """What became of a claim."""

    outcome = ma.fields.String(required=True, metadata={"description": "awarded, duplicate, refused or held"})
    reason = ma.fields.String(required=True, allow_none=True)
    reason_zh = ma.fields.String(required=True, allow_none=True)
    reason_en = ma.fields.String(required=True, allow_none=True)
    points = ma.fields.Integer(required=True)
    saved_co2e_mg = ma.fields.Integer(required=True)
    activity_id = ma.fields.UUID(required=True, allow_none=True)


class ActivityView(ma.Schema):
    """One activity, with the rule and the method that priced it."""

    id = ma.fields.UUID(required=True)
    behaviour = ma.fields.Enum(Behaviour, by_value=True, required=True)
    mode = ma.fields.String(required=True)
    grade = ma.fields.Enum(Grade, by_value=True, required=True)
    source = ma.fields.String(required=True)
    started_at = ma.fields.AwareDateTime(required=True)
    ended_at = ma.fields.AwareDateTime(required=True)
    business_day = ma.fields.Date(required=True)
    distance_m = ma.fields.Integer(required=True, allow_none=True)
    weight_g = ma.fields.Integer(required=True, allow_none=True)
    steps = ma.fields.Integer(required=True, allow_none=True)
    outcome = ma.fields.Enum(Outcome, by_value=True, required=True)
    reason = ma.fields.String(required=True, allow_none=True)
    reason_zh = ma.fields.String(required=True, allow_none=True)
    reason_en = ma.fields.String(required=True, allow_none=True)
    points = ma.fields.Integer(required=True)
    priced_points = ma.fields.Integer(required=True, metadata={"description": "Worth before caps"})
    saved_co2e_mg = ma.fields.Integer(required=True)
    method_id = ma.fields.String(required=True, allow_none=True)
    rule_version_id = ma.fields.String(required=True, allow_none=True)


class PeriodQuery(ma.Schema):
    """Business days, both included; the last 30 when left out."""

    class Meta:
        """`from` is a word of Python."""

        include: ClassVar = {"from": ma.fields.Date(load_default=None), "to": ma.fields.Date(load_default=None)}


class SavingView(ma.Schema):
    """Grams of CO2e saved under one method."""

    method_id = ma.fields.String(required=True)
    saved_co2e_g = ma.fields.Integer(required=True)
    activities = ma.fields.Integer(required=True)


class SavingsView(ma.Schema):
    """Savings by method; figures of different methods are never added up."""

    first = ma.fields.Date(required=True, data_key="from")
    last = ma.fields.Date(required=True, data_key="to")
    methods = ma.fields.List(ma.fields.Nested(SavingView), required=True)


ActivityPage = page_schema(ActivityView)


@blueprint.post("/me/activities/trips")
@require(Permission.ACTIVITY_RECORD)
@idempotent
@blueprint.arguments(TripBody)
@blueprint.response(201, AwardView)
def record_trip(body: dict[str, Any]) -> dict[str, Any]:
    """手动记录一次出行. Record a walk or ride by hand."""
    instant = now()
    claim = Claim(
        resident_id=actor().id,
        behaviour=Behaviour(body["mode"]),
        mode=body["mode"],
        grade=Grade.SELF_DECLARED,
        source="self",
        external_id=body.get("client_id") or str(new_id()),
        started_at=body["started_at"],
        ended_at=body["ended_at"],
        received_at=instant,
        distance_m=body["distance_m"],
        device=_phone(body),
    )
    answer = run_transaction(lambda session: steps.award_walks(session, [claim], now=instant)[0])
    if answer.reason is Reason.NO_COMMUNITY:
        raise HomeCommunityMissing
    return _award_view(answer)


@blueprint.post("/me/activities/steps")
@require(Permission.ACTIVITY_RECORD)
@idempotent
@blueprint.arguments(StepsBody)
@blueprint.response(200, AwardView(many=True))
def sync_steps(body: dict[str, Any]) -> list[dict[str, Any]]:
    """同步微信运动步数. Take in WeRun steps; each day pays only what was added since the last sync."""
    instant, person = now(), actor().id
    configured = settings()

    def work(session: Session) -> list[dict[str, Any]]:
        residents.require_home(session, person)
        if not residents.has_consent(session, person, ConsentPurpose.WERUN_STEPS):
            raise ConsentMissing(purpose=ConsentPurpose.WERUN_STEPS.value)
        session_key = residents.session_key_of(session, person, data_key=configured.data_key)
        days = wechat.werun_steps(
            session_key, body["iv"], body["encrypted_data"], appid=configured.wechat_appid, now=instant
        )
        synced = steps.sync(session, person, days, now=instant, device=_phone(body))
        return [_award_view(each) for each in synced]

    return run_transaction(work)


@blueprint.get("/me/activities")
@require(Permission.WALLET_OWN)
@blueprint.arguments(paging.PageQuery, location="query")
@blueprint.response(200, ActivityPage)
def list_activities(query: dict[str, Any]) -> paging.Page[activities.Entry]:
    """行为记录. Every activity with its reason, the latest recorded first."""
    with transaction() as session:
        return activities.history(session, actor().id, limit=query["limit"], cursor=query["cursor"])


@blueprint.get("/me/activities/<uuid:activity_id>")
@require(Permission.WALLET_OWN)
@blueprint.response(200, ActivityView)
def read_activity(activity_id: UUID) -> activities.Entry:
    """One activity."""
    with transaction() as session:
        found = activities.one(session, actor().id, activity_id)
    if found is None:
        raise NotFound
    return found


@blueprint.get("/me/savings")
@require(Permission.WALLET_OWN)
@blueprint.arguments(PeriodQuery, location="query")
@blueprint.response(200, SavingsView)
def read_savings(query: dict[str, Any]) -> dict[str, Any]:
    """减排量. Grams saved by method over a period of at most two years."""
    first, last = _period(query["from"], query["to"])
    with transaction() as session:
        methods = activities.savings(session, actor().id, first=first, last=last)
    return {"first": first, "last": last, "methods": methods}


@blueprint.post("/residents/<uuid:resident_id>/activities/<uuid:activity_id>/revocation")
@require(Permission.LEDGER_CORRECT)
@limiter.limit(spend_limit)
@idempotent_required
@blueprint.arguments(RevocationBody)
@blueprint.response(200, ActivityView)
def revoke_activity(body: dict[str, Any], resident_id: UUID, activity_id: UUID) -> activities.Entry:
    """撤回. Take a paid activity back: points by a reversal, and out of the counts."""
    person, instant = actor(), now()

    def work(session: Session) -> activities.Entry:
        resident = session.get(Resident, resident_id)
        if resident is None or not person.covers(resident.community_code or ""):
            raise NotFound
        revoked: Activity = counts.revoke(session, resident_id, activity_id, why=body["reason"], now=instant)
        audit.record(session, person, "activity.revoke", f"activity:{activity_id}", now=instant, reason=body["reason"])
        return activities.entry_of(revoked, 0)

    return run_transaction(work)


def _phone(body: dict[str, Any]) -> str | None:
    return phone_of(body["installation"], data_key=settings().data_key)


def _award_view(award: Award) -> dict[str, Any]:
    texts = REASON_TEXTS[Reason(award.reason)] if award.reason else (None, None)
    return {
        "outcome": award.code,
        "reason": award.reason.value if award.reason else None,
        "reason_zh": texts[0],
        "reason_en": texts[1],
        "points": award.points,
        "saved_co2e_mg": award.saved_co2e_mg,
        "activity_id": award.activity_id,
    }


def _period(first: date | None, last: date | None) -> tuple[date, date]:
    last = last or business_day(now())
    first = first or max(last, date(1, 2, 1)) - timedelta(days=29)
    if not 0 <= (last - first).days < SAVINGS_DAYS_MAX:
        raise InvalidRequest(f"The period must be 1 to {SAVINGS_DAYS_MAX} days long")
    return first, last
