"""Edits by staff name the version that they are based on: the ETag of what was read, sent back as If-Match."""

import re

import marshmallow as ma

from server.errors import PreconditionFailed, PreconditionRequired


class VersionHeader(ma.Schema):
    """The version that an edit is based on."""

    if_match = ma.fields.String(
        data_key="If-Match",
        load_default=None,
        validate=ma.validate.Length(1, 40),
        metadata={"description": "The `ETag` of what was read; required (428 without it)"},
    )


def etag_of(version: int) -> dict[str, str]:
    """The ETag header of a version, counted from 1."""
    return {"ETag": f'"{version}"'}


def version_of(if_match: str | None) -> int:
    """The version that an If-Match names. Raises PreconditionRequired, PreconditionFailed for no tag of ours.

    `*` names no version and would overwrite whatever is there, so it counts as none.
    """
    if if_match is None or if_match.strip() == "*":
        raise PreconditionRequired
    tag = re.fullmatch(r'\s*"([1-9][0-9]{0,8})"\s*', if_match)
    if tag is None:
        raise PreconditionFailed
    return int(tag[1])
