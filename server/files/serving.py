"""Handing a stored file out: as a download that no browser runs, and only as it was when it came in."""

import hashlib
from contextlib import closing
from urllib.parse import quote

import marshmallow as ma
import structlog
from flask import Response

from server.errors import NotFound
from server.files.models import StoredFile
from server.files.store import StoreUnavailable, open_stored

log = structlog.get_logger()

# Even opened in a browser, nothing in it may load, run, send or be framed.
CONTENT_SECURITY_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"


class StoredFileView(ma.Schema):
    """What is known of a file. Its name was cleaned, and its ending is that of its content."""

    id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True, attribute="original_name")
    media_type = ma.fields.String(required=True)
    size_bytes = ma.fields.Integer(required=True)
    sha256 = ma.fields.Function(
        lambda file: file.sha256.hex(), metadata={"type": "string", "description": "Of the file as it is kept, in hex"}
    )
    width = ma.fields.Integer(required=True, allow_none=True)
    height = ma.fields.Integer(required=True, allow_none=True)
    pages = ma.fields.Integer(required=True, allow_none=True)
    uploaded_at = ma.fields.AwareDateTime(required=True)


def serve(file: StoredFile) -> Response:
    """The download of a file that the caller may see; outside a transaction.

    Raises NotFound for a deleted file, StoreUnavailable for bytes that are gone or were changed in the store.
    """
    if file.deleted_at is not None:
        raise NotFound
    with closing(open_stored(file)) as source:
        content = source.read(file.size_bytes + 1)
    if hashlib.sha256(content).digest() != file.sha256:
        log.error("stored_file_changed", file_id=str(file.id))
        raise StoreUnavailable
    return download(Response(content, content_type=file.media_type), file.original_name)


def download(response: Response, name: str) -> Response:
    """A response with the headers of a download: saved under `name`, and never guessed at, run or kept by a proxy."""
    # RFC 6266, 4.3: the name for everybody in the second form, and one in ASCII for whoever cannot read that.
    plain = name if name.isascii() else f"file.{name.rpartition('.')[2]}"
    response.headers["Content-Disposition"] = (
        f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Cache-Control"] = "private, no-store"
    return response
