"""Checking in over HTTP: slots, codes for screen and paper, checking in and signing out, volunteers' minutes."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import Response

from campaigns.attendance import check_ins, code_sheets, slots, volunteering
from campaigns.attendance.check_ins import CheckInSeen
from campaigns.attendance.codes import TEXT_LENGTH_MAX, CodeUse, ShownCode
from campaigns.attendance.geofence import Point
from campaigns.attendance.models import VOLUNTEER_DAY_MINUTES_MAX, CheckIn, CheckInSlot, CheckInWay, SlotKind
from campaigns.attendance.slots import SHEET_CODES_MAX, SlotTerms
from campaigns.attendance.volunteering import Volunteering
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.documents import documents
from server.entries import LINE, in_our_time
from server.etags import VersionHeader, etag_of, version_of
from server.files.serving import download
from server.idempotency import idempotent
from server.limits import limiter
from server.paging import Page, PageQuery
from server.settings import settings

blueprint = Blueprint(
    "attendance",
    __name__,
    url_prefix="/api/v1",
    description="活动签到 · Checking in at campaigns, and volunteers' hours",
)

# Printed codes are 60 bits; a person who guesses gets nowhere, and a queue of people with phones is many persons.
CODE_TRIES = "30 per minute"
SHEETS = "10 per minute"


class SlotTermsEntry(ma.Schema):
    """Where and when people can check in. A geofence has latitude, longitude and radius_m, or none of them."""

    site_name = ma.fields.String(required=True, validate=[ma.validate.Length(1, 60), LINE])
    opens_at = ma.fields.AwareDateTime(required=True, validate=in_our_time)
    closes_at = ma.fields.AwareDateTime(required=True, validate=in_our_time)
    latitude = ma.fields.Float(load_default=None, allow_none=True, validate=ma.validate.Range(-90, 90))
    longitude = ma.fields.Float(load_default=None, allow_none=True, validate=ma.validate.Range(-180, 180))
    radius_m = ma.fields.Integer(strict=True, load_default=None, allow_none=True, validate=ma.validate.Range(30, 5000))
    minutes_max = ma.fields.Integer(
        strict=True,
        load_default=None,
        allow_none=True,
        validate=ma.validate.Range(1, VOLUNTEER_DAY_MINUTES_MAX),
        metadata={"description": "Of one volunteer; required for a volunteer slot and for no other"},
    )
    capacity = ma.fields.Integer(
        strict=True, load_default=None, allow_none=True, validate=ma.validate.Range(1, 100_000)
    )

    @ma.validates_schema
    def _whole_geofence(self, entry: dict[str, Any], **_: Any) -> None:
        given = {name for name in ("latitude", "longitude", "radius_m") if name in entry}
        if given and (len(given) < 3 or len({entry[name] is None for name in given}) > 1):
            raise ma.ValidationError("latitude, longitude and radius_m go together.", "radius_m")


class SlotEntry(SlotTermsEntry):
    """A new slot."""

    kind = ma.fields.Enum(SlotKind, by_value=True, required=True)


class SlotView(ma.Schema):
    """A slot. `version` is the ETag that an edit names; `taken` is counted only where there is a capacity."""

    id = ma.fields.UUID(required=True)
    campaign_id = ma.fields.UUID(required=True)
    kind = ma.fields.Enum(SlotKind, by_value=True, required=True)
    site_name = ma.fields.String(required=True)
    opens_at = ma.fields.AwareDateTime(required=True)
    closes_at = ma.fields.AwareDateTime(required=True)
    latitude = ma.fields.Float(required=True, allow_none=True)
    longitude = ma.fields.Float(required=True, allow_none=True)
    radius_m = ma.fields.Integer(required=True, allow_none=True)
    minutes_max = ma.fields.Integer(required=True, allow_none=True)
    capacity = ma.fields.Integer(required=True, allow_none=True)
    taken = ma.fields.Integer(required=True)
    version = ma.fields.Integer(required=True)
    cancelled_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class CodeQuery(ma.Schema):
    """What the code is to be good for."""

    use = ma.fields.Enum(CodeUse, by_value=True, load_default=CodeUse.CHECK_IN)


class OwnCodeQuery(CodeQuery):
    """The campaign whose staff will scan the code, and what for."""

    campaign_id = ma.fields.UUID(required=True)


class CodeView(ma.Schema):
    """A rotating code. Ask again at `changes_at`."""

    text = ma.fields.String(required=True, metadata={"description": "For a QR code, as it stands"})
    changes_at = ma.fields.AwareDateTime(required=True)


class SheetEntry(ma.Schema):
    """A sheet of one-use codes."""

    codes = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(1, SHEET_CODES_MAX))
    format = ma.fields.String(load_default="pdf", validate=ma.validate.OneOf(["pdf", "svg"]))


class CodeEntry(ma.Schema):
    """What was scanned or typed, and, for a slot with a geofence, where the phone is."""

    code = ma.fields.String(required=True, validate=ma.validate.Length(12, TEXT_LENGTH_MAX))
    latitude = ma.fields.Float(load_default=None, allow_none=True, validate=ma.validate.Range(-90, 90))
    longitude = ma.fields.Float(load_default=None, allow_none=True, validate=ma.validate.Range(-180, 180))

    @ma.validates_schema
    def _whole_place(self, entry: dict[str, Any], **_: Any) -> None:
        if (entry["latitude"] is None) != (entry["longitude"] is None):
            raise ma.ValidationError("latitude and longitude go together.", "longitude")


class ScanEntry(ma.Schema):
    """What staff scanned off a resident's phone."""

    code = ma.fields.String(required=True, validate=ma.validate.Length(12, TEXT_LENGTH_MAX))


class CheckInView(ma.Schema):
    """A check-in. `minutes` are those of a volunteer, and 0 until signed out."""

    slot_id = ma.fields.UUID(required=True)
    campaign_id = ma.fields.UUID(required=True)
    way = ma.fields.Enum(CheckInWay, by_value=True, required=True)
    checked_in_at = ma.fields.AwareDateTime(required=True)
    signed_out_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    minutes = ma.fields.Integer(required=True)


class StaffCheckInView(ma.Schema):
    """A check-in as staff in scope see it."""

    resident_id = ma.fields.UUID(required=True)
    nickname = ma.fields.String(required=True, allow_none=True)
    slot_id = ma.fields.UUID(required=True)
    way = ma.fields.Enum(CheckInWay, by_value=True, required=True)
    checked_in_at = ma.fields.AwareDateTime(required=True)
    signed_out_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    minutes = ma.fields.Integer(required=True)
    minutes_set_by = ma.fields.UUID(required=True, allow_none=True)


class ScannedView(CheckInView):
    """Whom staff have just checked in or signed out."""

    resident_id = ma.fields.UUID(required=True)


class OwnCheckInsView(ma.Schema):
    """A resident's check-ins of one campaign."""

    items = ma.fields.List(ma.fields.Nested(CheckInView), required=True)


class CheckInQuery(PageQuery):
    """Filters of the list of check-ins."""

    slot_id = ma.fields.UUID(load_default=None, allow_none=True)


class MinutesEntry(ma.Schema):
    """Minutes set by hand, and why."""

    minutes = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(0, VOLUNTEER_DAY_MINUTES_MAX))
    reason = ma.fields.String(required=True, validate=[ma.validate.Length(2, 200), LINE])


class RemovalEntry(ma.Schema):
    """Why a check-in is struck out."""

    reason = ma.fields.String(required=True, validate=[ma.validate.Length(2, 200), LINE])


class DayMinutesView(ma.Schema):
    """Volunteer minutes of one business day."""

    day = ma.fields.Date(required=True)
    minutes = ma.fields.Integer(required=True)


class VolunteeringView(ma.Schema):
    """A resident's volunteer work: all of it in minutes, and its latest days."""

    minutes = ma.fields.Integer(required=True)
    days = ma.fields.List(ma.fields.Nested(DayMinutesView), required=True)


def _place(entry: dict[str, Any]) -> Point | None:
    if entry["latitude"] is None:
        return None
    return Point(entry["latitude"], entry["longitude"])


def _drawn(shown: ShownCode) -> Response:
    answer = Response(documents.qr_svg(shown.text), content_type="image/svg+xml")
    # A page shows it and asks again at this moment.
    answer.headers["X-Code-Changes-At"] = shown.changes_at.isoformat()
    return answer


@blueprint.get("/campaigns/<uuid:campaign_id>/slots")
@require(Permission.CAMPAIGN_READ)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(SlotView))
def list_slots(query: dict[str, Any], campaign_id: UUID) -> Page[CheckInSlot]:
    """签到时段. List where and when one can check in, in the order of opening."""
    with transaction() as session:
        return slots.list_slots(session, actor(), campaign_id, **query)


@blueprint.post("/campaigns/<uuid:campaign_id>/slots")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(SlotEntry)
@blueprint.response(201, SlotView)
def create_slot(entry: dict[str, Any], campaign_id: UUID) -> tuple[CheckInSlot, dict[str, str]]:
    """新建签到时段. Arrange a place and a time at which people can check in."""
    with transaction() as session:
        slot = slots.create(session, actor(), campaign_id, SlotTerms(**entry), now=now())
    return slot, etag_of(slot.version)


@blueprint.get("/campaigns/<uuid:campaign_id>/slots/<uuid:slot_id>")
@require(Permission.CAMPAIGN_READ)
@blueprint.response(200, SlotView)
def read_slot(campaign_id: UUID, slot_id: UUID) -> tuple[CheckInSlot, dict[str, str]]:
    """查看签到时段. Read a slot; its ETag is what an edit names in If-Match."""
    with transaction() as session:
        slot = slots.slot_for(session, actor(), campaign_id, slot_id)
    return slot, etag_of(slot.version)


@blueprint.patch("/campaigns/<uuid:campaign_id>/slots/<uuid:slot_id>")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(SlotTermsEntry(partial=True))
@blueprint.response(200, SlotView)
def edit_slot(
    headers: dict[str, Any], changes: dict[str, Any], campaign_id: UUID, slot_id: UUID
) -> tuple[CheckInSlot, dict[str, str]]:
    """修改签到时段. Change a slot; If-Match names the version that the change is based on."""
    version = version_of(headers["if_match"])
    slot = run_transaction(
        lambda session: slots.edit(session, actor(), campaign_id, slot_id, changes, version=version, now=now())
    )
    return slot, etag_of(slot.version)


@blueprint.post("/campaigns/<uuid:campaign_id>/slots/<uuid:slot_id>/cancel")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.response(200, SlotView)
def cancel_slot(campaign_id: UUID, slot_id: UUID) -> tuple[CheckInSlot, dict[str, str]]:
    """取消签到时段. Cancel a slot; who was there stays counted."""
    slot = run_transaction(lambda session: slots.cancel(session, actor(), campaign_id, slot_id, now=now()))
    return slot, etag_of(slot.version)


@blueprint.get("/campaigns/<uuid:campaign_id>/slots/<uuid:slot_id>/code")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(CodeQuery, location="query")
@blueprint.response(200, CodeView)
def read_screen_code(query: dict[str, Any], campaign_id: UUID, slot_id: UUID) -> ShownCode:
    """签到屏动态码. The code for the staff's screen: another every 15 s, worthless 30 s after it first appeared."""
    with transaction() as session:
        return slots.screen_code(
            session, actor(), campaign_id, slot_id, **query, data_key=settings().data_key, now=now()
        )


@blueprint.get("/campaigns/<uuid:campaign_id>/slots/<uuid:slot_id>/code.svg")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(CodeQuery, location="query")
@blueprint.response(200, content_type="image/svg+xml")
def draw_screen_code(query: dict[str, Any], campaign_id: UUID, slot_id: UUID) -> Response:
    """签到屏二维码. The same code drawn as a QR code; X-Code-Changes-At says when to ask again."""
    with transaction() as session:
        shown = slots.screen_code(
            session, actor(), campaign_id, slot_id, **query, data_key=settings().data_key, now=now()
        )
    return _drawn(shown)


@blueprint.post("/campaigns/<uuid:campaign_id>/slots/<uuid:slot_id>/code-sheets")
@require(Permission.CAMPAIGN_RUN)
@limiter.limit(SHEETS)
@blueprint.arguments(SheetEntry)
@blueprint.response(200, content_type="application/pdf")
def print_code_sheet(entry: dict[str, Any], campaign_id: UUID, slot_id: UUID) -> Response:
    """打印签到码. A sheet of one-use codes as PDF or SVG. Nobody can print the same again: only hashes are kept."""
    with transaction() as session:
        sheet = slots.print_codes(
            session, actor(), campaign_id, slot_id, count=entry["codes"], data_key=settings().data_key, now=now()
        )
    # Drawing takes seconds, and needs no transaction.
    content = code_sheets.draw(sheet, entry["format"])
    media_type = documents.MEDIA_TYPES[entry["format"]]
    return download(Response(content, content_type=media_type), f"check-in-codes.{entry['format']}")


@blueprint.post("/campaigns/<uuid:campaign_id>/check-ins")
@require(Permission.CAMPAIGN_JOIN)
@limiter.limit(CODE_TRIES)
@idempotent
@blueprint.arguments(CodeEntry)
@blueprint.response(201, CheckInView)
def check_in(entry: dict[str, Any], campaign_id: UUID) -> CheckIn:
    """签到. Check in with the code on the screen or on paper."""
    return run_transaction(
        lambda session: check_ins.check_in(
            session, actor(), campaign_id, entry["code"], place=_place(entry), data_key=settings().data_key, now=now()
        )
    )


@blueprint.post("/campaigns/<uuid:campaign_id>/sign-outs")
@require(Permission.CAMPAIGN_JOIN)
@limiter.limit(CODE_TRIES)
@idempotent
@blueprint.arguments(CodeEntry)
@blueprint.response(200, CheckInView)
def sign_out(entry: dict[str, Any], campaign_id: UUID) -> CheckIn:
    """签退. Sign out as a volunteer, and have the minutes counted."""
    return run_transaction(
        lambda session: check_ins.sign_out(
            session, actor(), campaign_id, entry["code"], place=_place(entry), data_key=settings().data_key, now=now()
        )
    )


@blueprint.post("/campaigns/<uuid:campaign_id>/slots/<uuid:slot_id>/check-ins")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(ScanEntry)
@blueprint.response(201, ScannedView)
def scan_check_in(entry: dict[str, Any], campaign_id: UUID, slot_id: UUID) -> CheckIn:
    """扫码签到. Check in the resident whose own code staff have scanned."""
    return run_transaction(
        lambda session: check_ins.check_in_resident(
            session, actor(), campaign_id, slot_id, entry["code"], data_key=settings().data_key, now=now()
        )
    )


@blueprint.post("/campaigns/<uuid:campaign_id>/slots/<uuid:slot_id>/sign-outs")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(ScanEntry)
@blueprint.response(200, ScannedView)
def scan_sign_out(entry: dict[str, Any], campaign_id: UUID, slot_id: UUID) -> CheckIn:
    """扫码签退. Sign out the volunteer whose own code staff have scanned."""
    return run_transaction(
        lambda session: check_ins.sign_out_resident(
            session, actor(), campaign_id, slot_id, entry["code"], data_key=settings().data_key, now=now()
        )
    )


@blueprint.get("/campaigns/<uuid:campaign_id>/check-ins")
@require(Permission.CAMPAIGN_RUN)
@blueprint.arguments(CheckInQuery, location="query")
@blueprint.response(200, page_schema(StaffCheckInView))
def list_check_ins(query: dict[str, Any], campaign_id: UUID) -> Page[CheckInSeen]:
    """签到名单. Who checked in, slot by slot."""
    with transaction() as session:
        return check_ins.list_check_ins(session, actor(), campaign_id, **query)


@blueprint.get("/campaigns/<uuid:campaign_id>/check-ins/mine")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(200, OwnCheckInsView)
def list_own_check_ins(campaign_id: UUID) -> dict[str, Sequence[CheckIn]]:
    """我的签到. The resident's check-ins of a campaign."""
    with transaction() as session:
        return {"items": check_ins.own_check_ins(session, actor(), campaign_id)}


@blueprint.post("/campaigns/<uuid:campaign_id>/slots/<uuid:slot_id>/check-ins/<uuid:resident_id>/minutes")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(MinutesEntry)
@blueprint.response(200, ScannedView)
def set_minutes(entry: dict[str, Any], campaign_id: UUID, slot_id: UUID, resident_id: UUID) -> CheckIn:
    """补登志愿时长. Set a volunteer's minutes by hand, with a reason."""
    return run_transaction(
        lambda session: volunteering.set_minutes(
            session, actor(), campaign_id, slot_id, resident_id, **entry, now=now()
        )
    )


@blueprint.post("/campaigns/<uuid:campaign_id>/slots/<uuid:slot_id>/check-ins/<uuid:resident_id>/removal")
@require(Permission.CAMPAIGN_RUN)
@idempotent
@blueprint.arguments(RemovalEntry)
@blueprint.response(204)
def remove_check_in(entry: dict[str, Any], campaign_id: UUID, slot_id: UUID, resident_id: UUID) -> None:
    """撤销签到. Strike out a check-in that was not true, with a reason; progress falls at once."""
    run_transaction(
        lambda session: check_ins.remove(
            session, actor(), campaign_id, slot_id, resident_id, reason=entry["reason"], now=now()
        )
    )


@blueprint.get("/me/code")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.arguments(OwnCodeQuery, location="query")
@blueprint.response(200, CodeView)
def read_own_code(query: dict[str, Any]) -> ShownCode:
    """我的活动码. The resident's own code for a campaign's staff to scan: another every 30 s."""
    with transaction() as session:
        return check_ins.own_code(session, actor(), **query, data_key=settings().data_key, now=now())


@blueprint.get("/me/code.svg")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.arguments(OwnCodeQuery, location="query")
@blueprint.response(200, content_type="image/svg+xml")
def draw_own_code(query: dict[str, Any]) -> Response:
    """我的活动二维码. The same code drawn as a QR code."""
    with transaction() as session:
        shown = check_ins.own_code(session, actor(), **query, data_key=settings().data_key, now=now())
    return _drawn(shown)


@blueprint.get("/me/volunteering")
@require(Permission.CAMPAIGN_JOIN)
@blueprint.response(200, VolunteeringView)
def read_volunteering() -> Volunteering:
    """我的志愿时长. The resident's volunteer minutes, in total and by day."""
    with transaction() as session:
        return volunteering.volunteering_of(session, actor().id)
