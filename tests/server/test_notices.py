"""Messages inside the service: one's own, read once, kept a year."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from server.access import Role
from server.clock import now
from server.notices import notices
from server.notices.models import Notice

Headers = dict[str, str]


def tell(session: Session, *people: UUID, title: str = "有申报待办理") -> None:
    notices.tell(
        session, people, kind="turn", subject="application:1", title_zh=title, title_en="It waits for you", now=now()
    )
    session.commit()


def test_residents_and_staff_read_their_own_messages_newest_first(
    client: FlaskClient,
    session: Session,
    make_resident: Callable[..., UUID],
    make_staff: Callable[..., UUID],
    headers_of: Callable[..., Headers],
) -> None:
    resident, member = make_resident(), make_staff(Role.STREET, division="120104001")
    tell(session, resident, member)
    tell(session, member, title="申报已超期")
    seen = client.get("/api/v1/me/notices", headers=headers_of(member, is_resident=False)).json["items"]
    assert [row["title_zh"] for row in seen] == ["申报已超期", "有申报待办理"]
    own = client.get("/api/v1/me/notices", headers=headers_of(resident, is_resident=True)).json["items"]
    assert [(row["kind"], row["subject"], row["read_at"]) for row in own] == [("turn", "application:1", None)]


def test_a_message_is_read_once_and_only_by_whom_it_is_for(
    client: FlaskClient, session: Session, make_resident: Callable[..., UUID], headers_of: Callable[..., Headers]
) -> None:
    mine, other = make_resident(), make_resident()
    tell(session, mine)
    headers, stranger = headers_of(mine, is_resident=True), headers_of(other, is_resident=True)
    id = client.get("/api/v1/me/notices?unread=true", headers=headers).json["items"][0]["id"]
    assert client.post(f"/api/v1/me/notices/{id}/read", headers=stranger).status_code == 404
    assert client.post(f"/api/v1/me/notices/{uuid4()}/read", headers=headers).status_code == 404
    first = client.post(f"/api/v1/me/notices/{id}/read", headers=headers).json["read_at"]
    assert client.post(f"/api/v1/me/notices/{id}/read", headers=headers).json["read_at"] == first
    assert client.get("/api/v1/me/notices?unread=true", headers=headers).json["items"] == []
    assert client.get("/api/v1/me/notices").status_code == 401


def test_nobody_to_tell_is_nothing_to_do_and_everybody_is_too_many(session: Session) -> None:
    tell(session)
    assert session.scalar(sa.select(sa.func.count()).select_from(Notice)) == 0
    with pytest.raises(ValueError, match="1001 people"):
        tell(session, *(uuid4() for _ in range(1001)))


def test_messages_are_kept_a_year(session: Session, make_resident: Callable[..., UUID]) -> None:
    tell(session, make_resident())
    assert notices.forget_old(session, now=now() + timedelta(days=364)) == 0
    assert notices.forget_old(session, now=now() + timedelta(days=366)) == 1
