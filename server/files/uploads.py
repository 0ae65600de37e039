"""Taking files out of a request: the mark `@takes_files()` on the view, and one call of `uploaded()` inside it.

The mark stands below `@require` and above everything that reads the body, `@idempotent` too; the call comes before the
transaction, because it takes its time.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

from flask import g, request

from server.errors import DomainError, UnsupportedMediaType
from server.files import intake
from server.files.intake import FILE_BYTES_MAX, CleanFile, FileTooLarge
from server.limits import BODY_BYTES_MAX, limiter

PART = "file"
TEXT_PARTS_MAX = 20
# The parser counts its own reading buffer of 64 KiB, and what it has not yet cut up, against this.
FORM_MEMORY_BYTES_MAX = 4 * BODY_BYTES_MAX
# Each costs up to some seconds of a processor.
UPLOADS = "30 per minute"

View = TypeVar("View", bound=Callable[..., Any])


class FileMissing(DomainError):
    """The form has no part named `file` with something in it."""

    code, status, title_zh, title_en = "file-missing", 422, "缺少文件", "The form part `file` is missing or empty"


class TooManyFiles(DomainError):
    """More files than this address takes at once."""

    code, status, title_zh, title_en = (
        "too-many-files",
        422,
        "文件数量过多",
        "More files than this address takes at once",
    )


def takes_files(files_max: int = 1) -> Callable[[View], View]:
    """Let a view take a form with up to `files_max` files; goes below `@require`, above whatever reads the body."""

    def mark(view: View) -> View:
        @wraps(view)
        def taking(*args: Any, **kwargs: Any) -> Any:
            request.max_content_length = files_max * FILE_BYTES_MAX + BODY_BYTES_MAX
            request.max_form_parts = files_max + TEXT_PARTS_MAX
            request.max_form_memory_size = FORM_MEMORY_BYTES_MAX
            g.files_max = files_max
            return view(*args, **kwargs)

        taking.files_max = files_max  # type: ignore[attr-defined]  # read by the test over the URL map
        return limiter.limit(UPLOADS)(taking)  # type: ignore[return-value]

    return mark


def uploaded() -> CleanFile:
    """The one file of the request, checked and rewritten. Slow: before the transaction.

    Raises FileMissing, TooManyFiles, UnsupportedMediaType for what is no form, and what `intake.clean` raises.
    """
    files = uploaded_files()
    if not files:
        raise FileMissing
    if len(files) > 1:
        raise TooManyFiles
    return files[0]


def uploaded_files() -> list[CleanFile]:
    """The files of the request, none to `files_max`, checked and rewritten. Slow: before the transaction."""
    files_max = g.get("files_max")
    if files_max is None:
        raise TypeError("uploaded() was asked for in a view without @takes_files")
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("Send multipart/form-data")
    parts = request.files.getlist(PART)
    if len(parts) > files_max or set(request.files) - {PART}:
        raise TooManyFiles
    return [_cleaned(part) for part in parts if part.filename]


def _cleaned(part: Any) -> CleanFile:
    content = part.stream.read(FILE_BYTES_MAX + 1)
    if not content:
        raise FileMissing
    if len(content) > FILE_BYTES_MAX:
        raise FileTooLarge
    return intake.clean(content, name=part.filename)


def upload_body(files_max: int = 1, *, text: Sequence[str] = (), required: bool = True) -> dict[str, Any]:
    """The OpenAPI description of such a form, for `@blueprint.doc(requestBody=…)`."""
    binary = {"type": "string", "format": "binary", "description": "PDF, JPEG or PNG, at most 10 MiB"}
    part = binary if files_max == 1 else {"type": "array", "items": binary, "maxItems": files_max}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {PART: part, **{name: {"type": "string"} for name in text}},
    }
    if required:
        schema["required"] = [PART]
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
