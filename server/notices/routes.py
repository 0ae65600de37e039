"""One's own messages over HTTP, for residents and staff alike."""

from typing import Any
from uuid import UUID

import marshmallow as ma

from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import transaction
from server.notices import notices
from server.notices.models import Notice
from server.paging import Page, PageQuery

blueprint = Blueprint(
    "notices", __name__, url_prefix="/api/v1/me/notices", description="站内消息 · Messages inside the service"
)


class NoticeQuery(PageQuery):
    """Filter of one's messages."""

    unread = ma.fields.Boolean(load_default=False, truthy={"true"}, falsy={"false"})


class NoticeView(ma.Schema):
    """One message."""

    id = ma.fields.UUID(required=True)
    kind = ma.fields.String(required=True)
    subject = ma.fields.String(
        required=True, metadata={"description": "What it is about, as `thing:id`, such as `application:0198…`"}
    )
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)
    created_at = ma.fields.AwareDateTime(required=True)
    read_at = ma.fields.AwareDateTime(required=True, allow_none=True)


@blueprint.get("")
@require(Permission.NOTICE_OWN)
@blueprint.arguments(NoticeQuery, location="query", unknown=ma.RAISE)
@blueprint.response(200, page_schema(NoticeView))
def list_notices(query: dict[str, Any]) -> Page[Notice]:
    """我的消息. List one's own messages, newest first."""
    with transaction() as session:
        return notices.list_notices(session, actor(), **query)


@blueprint.post("/<uuid:notice_id>/read")
@require(Permission.NOTICE_OWN)
@blueprint.response(200, NoticeView)
def mark_notice_read(notice_id: UUID) -> Notice:
    """标为已读. Mark one's own message read; a second time changes nothing."""
    with transaction() as session:
        return notices.mark_read(session, actor(), notice_id, now=now())
