"""People, codes and devices for the tests of residents' codes and households."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from server.access import Actor, Role
from server.clock import now
from server.database import new_id, psycopg_url
from server.errors import DomainError
from server.people import code_limits
from server.people.models import CodeLimits, Resident, Staff, StaffLink
from server.request_signatures import sign
from server.settings import PLACES_DATA

COMMUNITY, NEXT_DOOR = "120104001001", "120104001003"
WAIT_S_MAX = 10.0


def load_limits(session: Session, **changes: int) -> None:
    """The sample district's limits, and from the next day on others where some are given."""
    code_limits.load(session, code_limits.read_limits(PLACES_DATA / "nankai"))
    if changes:
        usual = code_limits.limits_on(session, now())
        figures = {name: getattr(usual, name) for name in code_limits.FIGURES} | changes
        session.add(CodeLimits(valid_from=usual.valid_from + timedelta(days=1), **figures))
    session.commit()


def add_resident(session: Session, **values: Any) -> UUID:
    """A resident."""
    added = Resident(resident_id=new_id(), **{"community_code": COMMUNITY, "created_at": now(), **values})
    session.add(added)
    session.commit()
    return added.resident_id


def resident(resident_id: UUID) -> Actor:
    """The resident as whoever is behind a request."""
    return Actor(id=resident_id, role=Role.RESIDENT, session_id=new_id())


def add_supervisor(session: Session, *, linked_to: UUID | None = None, declared: bool = True) -> Actor:
    """A supervisor of the community who is linked to a resident, or has declared that there is none."""
    staff_id = new_id()
    session.add(
        Staff(
            id=staff_id,
            name=f"supervisor-{staff_id.hex[-12:]}",
            password_hash="unusable",
            role=Role.SUPERVISOR,
            division=COMMUNITY,
            created_at=now(),
        )
    )
    session.flush()
    if linked_to is not None:
        session.add(StaffLink(staff_id=staff_id, resident_id=linked_to, made_at=now()))
    elif declared:
        session.add(StaffLink(staff_id=staff_id, statement="本人没有居民账号", made_at=now()))
    session.commit()
    return Actor(id=staff_id, role=Role.SUPERVISOR, session_id=new_id(), division=COMMUNITY)


def signed(key: str, body: dict[str, Any], at: float | None = None) -> dict[str, Any]:
    """What a device sends with a body, for a test client's `post`."""
    data, timestamp = json.dumps(body).encode(), str(int(at if at is not None else now().timestamp()))
    return {
        "data": data,
        "content_type": "application/json",
        "headers": {
            "X-Tanpuhui-Timestamp": timestamp,
            "X-Tanpuhui-Signature": sign(key.encode(), timestamp, data),
        },
    }


def upload(client: FlaskClient, device: dict[str, Any], *scans: dict[str, Any]) -> list[tuple[bool, Any, bool]]:
    """What became of the scans that a device sends in."""
    answer = client.post(f"/api/v1/devices/{device['id']}/scans", **signed(device["key"], {"scans": list(scans)}))
    assert answer.status_code == 200, answer.text
    assert answer.json
    return [(each["accepted"], each["reason"], each["repeated"]) for each in answer.json["outcomes"]]


@contextmanager
def own_sessions(url: str) -> Iterator[Callable[[], Session]]:
    """A function that opens a session on a connection of its own, to a database of the test's own."""
    engine = sa.create_engine(psycopg_url(url))
    try:
        yield lambda: Session(engine, expire_on_commit=False)
    finally:
        engine.dispose()


def after_the_first(
    open_session: Callable[[], Session], first: Callable[[Session], Any], second: Callable[[Session], Any]
) -> str:
    """What the second comes to when it waits for the first, which is held open until then."""
    with ThreadPoolExecutor(1) as pool:
        with open_session() as session:
            first(session)
            session.flush()
            later: Future[str] = pool.submit(_outcome, open_session, second)
            _wait_for_waiters(open_session)
            session.commit()
        return later.result(WAIT_S_MAX)


def _outcome(open_session: Callable[[], Session], work: Callable[[Session], Any]) -> str:
    try:
        with open_session() as session, session.begin():
            work(session)
    except DomainError as error:
        return error.code
    return "done"


def _wait_for_waiters(open_session: Callable[[], Session]) -> None:
    waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    deadline = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < deadline:
        with open_session() as session:
            if session.scalar(waiting):
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits")
