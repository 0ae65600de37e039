"""Idempotency-Key on writes by people: the answer is stored in the very transaction of its effect, for 30 days.

Same key and same request: the first answer again. Same key, other request: 422. The first still running: 409. A refused
request had no effect, so nothing is stored and the key may be used again.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from flask import Response, make_response, request
from sqlalchemy.orm import Mapped, Session, mapped_column

from server.access import actor
from server.clock import now
from server.crypto import keyed_hash
from server.database import Base, delete_some, run_transaction
from server.errors import DomainError
from server.settings import settings

KEPT_FOR = timedelta(days=30)
ANSWER_BYTES_MAX = 65_536

_PURPOSE = "idempotency-request"


class IdempotencyKeyReused(DomainError):
    """The key was used for another request."""

    code, status, title_zh, title_en = (
        "idempotency-key-reused",
        422,
        "幂等键已用于另一请求",
        "This Idempotency-Key was used for another request",
    )


class RequestStillRunning(DomainError):
    """The first request with this key has not finished."""

    code, status, title_zh, title_en = (
        "request-still-running",
        409,
        "相同请求正在处理",
        "The first request with this Idempotency-Key is still running",
    )


class IdempotencyKeyRequired(DomainError):
    """This address moves points and insists on a key."""

    code, status, title_zh, title_en = (
        "idempotency-key-required",
        400,
        "缺少或无效的 Idempotency-Key",
        "An Idempotency-Key of 8 to 128 visible ASCII characters is required",
    )


class IdempotencyRecord(Base):
    """The stored answer to one person's keyed request."""

    __tablename__ = "idempotency_record"

    actor_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    request_sha256: Mapped[bytes] = mapped_column(sa.LargeBinary(32))  # keyed: nobody finds it by trying
    answer_status: Mapped[int] = mapped_column(sa.SmallInteger)
    answer_type: Mapped[str] = mapped_column(sa.String(100))
    answer_etag: Mapped[str | None] = mapped_column(sa.String(100))  # what the next edit must name
    answer_body: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(index=True)

    __table_args__ = (
        sa.CheckConstraint(f"octet_length(answer_body) <= {ANSWER_BYTES_MAX}", name="answer_body_length"),
    )


View = TypeVar("View", bound=Callable[..., Any])


def idempotent(view: View) -> View:
    """Honour an Idempotency-Key if the client sent one. Goes below `@require` and above the response schema."""
    return _guard(view, required=False)


def idempotent_required(view: View) -> View:
    """Insist on an Idempotency-Key: for what moves points out of a wallet."""
    return _guard(view, required=True)


def _guard(view: View, *, required: bool) -> View:
    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        key = request.headers.get("Idempotency-Key")
        if key is None and not required:
            return view(*args, **kwargs)
        if key is None or not re.fullmatch(r"[\x21-\x7e]{8,128}", key):
            raise IdempotencyKeyRequired
        return run_transaction(lambda session: _once(session, key, lambda: make_response(view(*args, **kwargs))))

    return guarded  # type: ignore[return-value]


def _once(session: Session, key: str, work: Callable[[], Response]) -> Response:
    person = actor().id
    plain = _digest()
    # A key over the digest, not over the body: an address or a join code in it would be found by hashing guesses.
    fingerprint = keyed_hash(settings().data_key, _PURPOSE, plain.hex())
    # Held until the transaction ends: a second request with the same key cannot slip in between look and store.
    lock = sa.func.pg_try_advisory_xact_lock(sa.func.hashtextextended(f"idempotency:{person}:{key}", 0))
    if not session.scalar(sa.select(lock)):
        raise RequestStillRunning
    stored = session.get(IdempotencyRecord, (person, key))
    if stored is not None:
        # Records of before 2026-11-23 hold the plain digest. `plain` may go from here when none lives any more, that is
        # KEPT_FOR after the update: not before 2026-12-24, and then for installations that took this release.
        if stored.request_sha256 not in (fingerprint, plain):
            raise IdempotencyKeyReused
        answer = Response(stored.answer_body, stored.answer_status, content_type=stored.answer_type)
        if stored.answer_etag is not None:
            answer.headers["ETag"] = stored.answer_etag
        answer.headers["Idempotent-Replayed"] = "true"
        return answer
    answer = work()
    session.add(
        IdempotencyRecord(
            actor_id=person,
            key=key,
            request_sha256=fingerprint,
            answer_status=answer.status_code,
            answer_type=answer.content_type,
            answer_etag=answer.headers.get("ETag"),
            answer_body=answer.get_data(),
            created_at=now(),
        )
    )
    session.flush()
    return answer


def _digest() -> bytes:
    parts = (request.method.encode(), request.full_path.encode(), request.get_data())
    return hashlib.sha256(b"\0".join(parts)).digest()


def forget_old(session: Session, *, now: datetime) -> int:
    """Delete records older than KEPT_FOR, a bounded number at a time; the number deleted."""
    return delete_some(session, IdempotencyRecord, IdempotencyRecord.created_at < now - KEPT_FOR)
