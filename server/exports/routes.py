"""Exports over HTTP: everybody reads, takes and cancels their own. Rooms have the routes that ask for one."""

from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import Response
from werkzeug.wsgi import FileWrapper

from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import transaction
from server.exports import exports
from server.exports.models import Export, ExportFormat, ExportState
from server.files.serving import download
from server.files.store import store
from server.paging import Page, PageQuery

blueprint = Blueprint(
    "exports",
    __name__,
    url_prefix="/api/v1/exports",
    description="数据导出 · Exports of lists, made by jobs",
)

PIECE_BYTES = 256 * 1024
MEDIA_TYPES = {
    ExportFormat.CSV: "text/csv; charset=utf-8",
    ExportFormat.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


class ExportView(ma.Schema):
    """How far an export is."""

    id = ma.fields.UUID(required=True)
    kind = ma.fields.String(required=True)
    format = ma.fields.Enum(ExportFormat, by_value=True, required=True)
    state = ma.fields.Enum(ExportState, by_value=True, required=True)
    rows_written = ma.fields.Integer(required=True, metadata={"description": "So far, or in all once it is done"})
    problem = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "The code of what it failed with; see /problems/…"}
    )
    requested_at = ma.fields.AwareDateTime(required=True)
    started_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    finished_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    expires_at = ma.fields.AwareDateTime(required=True, metadata={"description": "The file is deleted after this"})


class ExportManifestView(ma.Schema):
    """What the file holds, to be compared with what arrived."""

    id = ma.fields.UUID(required=True)
    kind = ma.fields.String(required=True)
    format = ma.fields.Enum(ExportFormat, by_value=True, required=True)
    arguments = ma.fields.Dict(keys=ma.fields.String(), required=True)
    columns = ma.fields.List(ma.fields.String(), required=True)
    rows = ma.fields.Integer(required=True, attribute="rows_written", metadata={"description": "Without the heading"})
    size_bytes = ma.fields.Integer(required=True)
    sha256 = ma.fields.Function(
        lambda export: export.sha256.hex(), metadata={"type": "string", "description": "Of the file's bytes, in hex"}
    )
    started_at = ma.fields.AwareDateTime(
        required=True, metadata={"description": "The rows show the data of this instant"}
    )
    finished_at = ma.fields.AwareDateTime(required=True)
    expires_at = ma.fields.AwareDateTime(required=True)


@blueprint.get("")
@require(Permission.REPORT_READ)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(ExportView))
def list_exports(query: dict[str, Any]) -> Page[Export]:
    """我的导出. The exports that you asked for, newest first."""
    with transaction() as session:
        return exports.list_exports(session, actor(), **query)


@blueprint.get("/<uuid:export_id>")
@require(Permission.REPORT_READ)
@blueprint.response(200, ExportView)
def read_export(export_id: UUID) -> Export:
    """导出进度. How far an export of yours is."""
    with transaction() as session:
        return exports.export_for(session, actor(), export_id)


@blueprint.get("/<uuid:export_id>/manifest")
@require(Permission.REPORT_READ)
@blueprint.response(200, ExportManifestView)
def read_manifest(export_id: UUID) -> Export:
    """导出清单. Columns, number of rows, bytes and SHA-256 of a finished export."""
    with transaction() as session:
        return exports.finished_for(session, actor(), export_id)


@blueprint.get("/<uuid:export_id>/file")
@require(Permission.REPORT_READ)
@blueprint.doc(
    responses={
        "200": {
            "description": "The file",
            "content": {
                media_type.split(";")[0]: {"schema": {"type": "string", "format": "binary"}}
                for media_type in MEDIA_TYPES.values()
            },
        }
    }
)
def take_export(export_id: UUID) -> Response:
    """下载导出. The file of a finished export; who took it is recorded."""
    with transaction() as session:
        export = exports.take_file(session, actor(), export_id, now=now())
    source = store().open(export.store_name or "")
    # In pieces: the server holds one of them and not the file.
    answer = Response(
        FileWrapper(source, PIECE_BYTES), content_type=MEDIA_TYPES[export.format], direct_passthrough=True
    )
    answer.content_length = export.size_bytes or 0
    return download(answer, f"{export.kind}-{export.id}.{export.format.value}")


@blueprint.delete("/<uuid:export_id>")
@require(Permission.REPORT_READ)
@blueprint.response(200, ExportView)
def cancel_export(export_id: UUID) -> Export:
    """取消导出. Stop an export that waits or runs."""
    with transaction() as session:
        return exports.cancel(session, actor(), export_id, now=now())
