"""Registered devices over HTTP: the district keeps them, and they send in what they read without a net."""

from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import request

from server.access import Permission, actor, public, require
from server.api import Blueprint, page_schema, required_header
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import DIVISION, TRIMMED_LINE
from server.etags import VersionHeader, etag_of, version_of
from server.idempotency import idempotent
from server.limits import limiter
from server.paging import Page, PageQuery
from server.people import scan_kinds, scanners, scans
from server.people.models import Scanner
from server.request_signatures import new_key
from server.settings import settings

blueprint = Blueprint(
    "devices",
    __name__,
    url_prefix="/api/v1/devices",
    description="扫码设备 · Registered devices that read residents' codes",
)

_NAME = [ma.validate.Length(1, 60), TRIMMED_LINE]
_SITE_CODE = ma.validate.Regexp(r"^[a-z0-9][a-z0-9-]{1,39}(?!\n)$")


class ScannerChanges(ma.Schema):
    """What is left out stays."""

    name = ma.fields.String(validate=_NAME)
    division = ma.fields.String(validate=DIVISION)
    site_code = ma.fields.String(
        allow_none=True, validate=_SITE_CODE, metadata={"description": "站点代码 · The one site that it serves at"}
    )
    operator_id = ma.fields.UUID(
        allow_none=True, metadata={"description": "持有人 · Who carries it and confirms what it reads; null: nobody"}
    )
    enabled = ma.fields.Boolean(truthy={True}, falsy={False})


class ScannerEntry(ma.Schema):
    """A device to register."""

    name = ma.fields.String(required=True, validate=_NAME)
    division = ma.fields.String(required=True, validate=DIVISION)
    site_code = ma.fields.String(load_default=None, allow_none=True, validate=_SITE_CODE)
    operator_id = ma.fields.UUID(load_default=None, allow_none=True)


class ScannerView(ma.Schema):
    """A device; never its keys."""

    id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    division = ma.fields.String(required=True)
    site_code = ma.fields.String(required=True, allow_none=True)
    operator_id = ma.fields.UUID(required=True, allow_none=True)
    enabled = ma.fields.Boolean(required=True)
    live_keys = ma.fields.Function(scanners.live_keys, metadata={"type": "array", "items": {"type": "string"}})
    last_seen_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    version = ma.fields.Integer(required=True, metadata={"description": "Also the ETag, in quotes"})
    created_at = ma.fields.AwareDateTime(required=True)


class CarriedScannerView(ma.Schema):
    """A device that one carries oneself."""

    id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    site_code = ma.fields.String(required=True, allow_none=True)
    last_seen_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class CarriedScannerList(ma.Schema):
    """Every device that one carries; few enough for one answer."""

    items = ma.fields.List(ma.fields.Nested(CarriedScannerView), required=True)


class ScannerKeyView(ma.Schema):
    """A key, shown this once."""

    id = ma.fields.UUID(required=True)
    slot = ma.fields.String(required=True)
    key = ma.fields.String(required=True)


class ScanOutcomeView(ma.Schema):
    """What became of one scan."""

    sequence = ma.fields.Integer(required=True)
    accepted = ma.fields.Boolean(required=True)
    reason = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The code of the problem that refused it"}
    )
    repeated = ma.fields.Boolean(
        required=True, metadata={"description": "It was sent in before; this is the first answer"}
    )


class ScanOutcomesView(ma.Schema):
    """One outcome for each scan, in the order of the scans."""

    outcomes = ma.fields.List(ma.fields.Nested(ScanOutcomeView), required=True)


@blueprint.get("")
@require(Permission.DEVICE_MANAGE)
@blueprint.arguments(PageQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(ScannerView))
def list_scanners(query: dict[str, Any]) -> Page[Scanner]:
    """设备列表. List the devices in the own scope, oldest first."""
    with transaction() as session:
        return scanners.list_scanners(session, actor(), **query)


# Not idempotent: the answer kept under a key would keep the device's key in the open.
@blueprint.post("")
@require(Permission.DEVICE_MANAGE)
@blueprint.arguments(ScannerEntry, example={"name": "时代奥城1号箱房扫码枪", "division": "120104001001"})
@blueprint.response(201, ScannerKeyView)
def register_scanner(entry: dict[str, Any]) -> dict[str, Any]:
    """登记设备. Register a device; its key is shown this once."""
    person, key, data_key = actor(), new_key(), settings().data_key
    with transaction() as session:
        added = scanners.register(session, person, **entry, key=key, data_key=data_key, now=now())
    return {"id": added.id, "slot": "a", "key": key}


@blueprint.get("/carried")
@require(Permission.CODE_SCAN)
@blueprint.response(200, CarriedScannerList)
def list_carried_scanners() -> dict[str, Any]:
    """我持有的设备. List the devices that one carries: what they read, one confirms."""
    with transaction() as session:
        return {"items": scanners.carried(session, actor())}


@blueprint.get("/<uuid:scanner_id>")
@require(Permission.DEVICE_MANAGE)
@blueprint.response(200, ScannerView)
def read_scanner(scanner_id: UUID) -> tuple[Scanner, int, dict[str, str]]:
    """查看设备. Read a device; its `ETag` is what an edit names."""
    with transaction() as session:
        found = scanners.scanner_for(session, actor(), scanner_id)
    return found, 200, etag_of(found.version)


@blueprint.patch("/<uuid:scanner_id>")
@require(Permission.DEVICE_MANAGE)
@idempotent
@blueprint.arguments(VersionHeader, location="headers")
@blueprint.arguments(ScannerChanges, example={"enabled": False})
@blueprint.response(200, ScannerView)
def change_scanner(
    header: dict[str, Any], changes: dict[str, Any], scanner_id: UUID
) -> tuple[Scanner, int, dict[str, str]]:
    """修改设备. Change a device: its name, place, site, who carries it, or whether it works."""
    version = version_of(header["if_match"])
    with transaction() as session:
        changed = scanners.update(session, actor(), scanner_id, expected_version=version, changes=changes, now=now())
    return changed, 200, etag_of(changed.version)


@blueprint.post("/<uuid:scanner_id>/keys")
@require(Permission.DEVICE_MANAGE)
@blueprint.response(201, ScannerKeyView)
def add_scanner_key(scanner_id: UUID) -> dict[str, Any]:
    """新增设备密钥. A second live key, so that the device changes over without a gap."""
    person, key, data_key = actor(), new_key(), settings().data_key
    with transaction() as session:
        slot = scanners.add_key(session, person, scanner_id, key=key, data_key=data_key, now=now())
    return {"id": scanner_id, "slot": slot, "key": key}


@blueprint.delete("/<uuid:scanner_id>/keys/<any(a,b):slot>")
@require(Permission.DEVICE_MANAGE)
@blueprint.response(204)
def end_scanner_key(scanner_id: UUID, slot: str) -> None:
    """作废设备密钥. End a key; it signs nothing from the next request on."""
    with transaction() as session:
        scanners.end_key(session, actor(), scanner_id, slot, now=now())


@blueprint.post("/<uuid:scanner_id>/scans")
@public
@limiter.limit("120 per minute", key_func=lambda: f"device:{(request.view_args or {}).get('scanner_id', '')}")
@blueprint.doc(
    security=[{"signature": []}],
    parameters=[
        required_header("X-Tanpuhui-Timestamp", "Unix seconds, within 300 s of ours either way"),
        required_header(
            "X-Tanpuhui-Signature", "Lower-case hex HMAC-SHA256 with the device's key over timestamp + '.' + body"
        ),
    ],
    requestBody={
        "required": True,
        "description": "At most 200 scans and 1 MiB. `code` is what was read, `scanned_at` the device's clock",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "scans": [
                        {
                            "sequence": 17,
                            "scanned_at": "2026-11-22T08:00:00+08:00",
                            "code": "TPH:U:…",
                            "purpose": "sorting",
                            "detail": {},
                        }
                    ]
                },
            }
        },
    },
)
@blueprint.alt_response(200, schema=ScanOutcomesView, description="What became of each scan")
@blueprint.response(200, ScanOutcomesView)
def send_scans(scanner_id: UUID) -> dict[str, Any]:
    """补传扫码记录. Send in what the device read without a net, signed with its key; each scan counts once."""
    request.max_content_length = scans.BODY_BYTES_MAX
    body = request.get_data(cache=False)
    signature = request.headers.get("X-Tanpuhui-Timestamp", ""), request.headers.get("X-Tanpuhui-Signature", "")
    data_key, kinds = settings().data_key, scan_kinds.kinds()
    outcomes = run_transaction(
        lambda session: scans.take_in(
            session, scanner_id, body, signature=signature, kinds=kinds, data_key=data_key, now=now()
        )
    )
    return {"outcomes": outcomes}
