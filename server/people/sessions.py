"""Sign-ins: short access tokens, rotating refresh tokens, and what ends them.

The truth about a sign-in is its row in PostgreSQL, read on every request: signing out, disabling a person and changing
a role take effect on the next request, whether or not Redis is alive.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Flask
from flask_jwt_extended import JWTManager, create_access_token, create_refresh_token
from sqlalchemy.orm import Session

from server.access import TOKEN_ALGORITHM, Actor, Role
from server.clock import business_day
from server.database import db, new_id
from server.errors import DomainError, TokenRevoked
from server.people.models import Resident, SignIn, Staff

ACCESS_LIFE = timedelta(minutes=15)
REFRESH_LIFE = timedelta(days=30)
# A phone on a metro platform loses an answer and asks again; a thief rarely comes within these seconds.
LOST_ANSWER_GRACE = timedelta(seconds=10)

# Signed by us, but not as we sign now: a token of another release.
_ODD_CLAIMS = (AttributeError, KeyError, TypeError, ValueError)


class RefreshTokenReused(DomainError):
    """A refresh token came a second time; the whole sign-in is ended."""

    code, status, title_zh, title_en = (
        "refresh-token-reused",
        401,
        "刷新令牌被重复使用, 登录已终止",
        "This refresh token was used before; the sign-in has been ended",
    )


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a sign-in or a refresh gives. Seconds until the access token ends."""

    access_token: str
    refresh_token: str
    expires_in_s: int = int(ACCESS_LIFE.total_seconds())
    token_type: str = "Bearer"  # noqa: S105 -- a scheme, not a password


def begin(session: Session, person_id: UUID, *, is_resident: bool, now: datetime) -> Tokens:
    """Open a sign-in for a person whose credential was checked."""
    row = SignIn(
        person_id=person_id,
        id=new_id(),
        generation=0,
        rotated_at=now,
        expires_at=now + REFRESH_LIFE,
        created_on=business_day(now),
    )
    session.add(row)
    session.flush()
    return _tokens(person_id, row.id, 0, is_resident)


def refresh(session: Session, claims: dict[str, Any], *, now: datetime) -> Tokens | None:
    """The next pair of tokens for a refresh token's verified claims.

    None when the token was used before: the sign-in is then ended, which the caller must commit before it refuses. One
    guarded UPDATE decides between two simultaneous refreshes; the second falls into the grace and gets the same
    generation, so neither phone nor network can fork the chain. Raises TokenRevoked.
    """
    try:
        person_id, sign_in_id, generation = UUID(claims["sub"]), UUID(claims["sid"]), int(claims["gen"])
        is_resident = bool(claims["res"])
    except _ODD_CLAIMS as error:
        raise TokenRevoked from error
    if not session.scalar(_person_enabled(person_id, is_resident=is_resident)):
        raise TokenRevoked
    mine = (SignIn.person_id == person_id, SignIn.id == sign_in_id, SignIn.ended_at.is_(None), SignIn.expires_at > now)
    advanced = session.scalar(
        sa.update(SignIn)
        .where(*mine, SignIn.generation == generation)
        .values(generation=generation + 1, rotated_at=now, expires_at=now + REFRESH_LIFE)
        .returning(SignIn.generation)
    )
    if advanced is not None:
        return _tokens(person_id, sign_in_id, advanced, is_resident)
    lost_answer = session.scalar(
        sa.select(SignIn.generation).where(
            *mine, SignIn.generation == generation + 1, SignIn.rotated_at > now - LOST_ANSWER_GRACE
        )
    )
    if lost_answer is not None:
        return _tokens(person_id, sign_in_id, lost_answer, is_resident)
    ended = session.execute(
        sa.update(SignIn).where(*mine).values(ended_at=now, ended_because="refresh-reused").returning(SignIn.id)
    ).first()
    if ended is None:
        raise TokenRevoked
    return None


def end(session: Session, actor: Actor, *, now: datetime) -> None:
    """Sign out of this sign-in."""
    session.execute(
        sa.update(SignIn)
        .where(SignIn.person_id == actor.id, SignIn.id == actor.session_id, SignIn.ended_at.is_(None))
        .values(ended_at=now, ended_because="signed-out")
    )


def end_all(session: Session, person_id: UUID, because: str, *, now: datetime) -> None:
    """End every sign-in of a person: on disabling, a new role or a new password."""
    session.execute(
        sa.update(SignIn)
        .where(SignIn.person_id == person_id, SignIn.ended_at.is_(None))
        .values(ended_at=now, ended_because=because)
    )


def forget_old(session: Session, *, now: datetime) -> int:
    """Delete sign-ins that ran out more than a month ago; the number deleted."""
    result = session.execute(sa.delete(SignIn).where(SignIn.expires_at < now - REFRESH_LIFE))
    return int(result.rowcount)  # type: ignore[attr-defined]


def _tokens(person_id: UUID, sign_in_id: UUID, generation: int, is_resident: bool) -> Tokens:
    claims = {"sid": str(sign_in_id), "res": is_resident}
    return Tokens(
        access_token=create_access_token(str(person_id), additional_claims=claims),
        refresh_token=create_refresh_token(str(person_id), additional_claims={**claims, "gen": generation}),
    )


def _person_enabled(person_id: UUID, *, is_resident: bool) -> sa.Select[bool]:
    if is_resident:
        return sa.select(Resident.enabled).where(Resident.resident_id == person_id)
    return sa.select(Staff.enabled).where(Staff.id == person_id)


# Plain SQL: these run on every request, and the mapped forms of them cost three times as much Python.
_RESIDENT = sa.text(
    "SELECT 1 FROM sign_in JOIN resident ON resident.resident_id = sign_in.person_id "
    "WHERE sign_in.person_id = :person_id AND sign_in.id = :sign_in_id AND ended_at IS NULL AND enabled"
)
_STAFF = sa.text(
    "SELECT staff.role, staff.division, staff.organisation_id FROM sign_in JOIN staff ON staff.id = sign_in.person_id "
    "WHERE sign_in.person_id = :person_id AND sign_in.id = :sign_in_id AND ended_at IS NULL AND enabled"
)


def load_actor(session: Session, claims: dict[str, Any]) -> Actor | None:
    """The person that an access token stands for as they are now, None when the sign-in no longer counts."""
    try:
        person_id, sign_in_id = UUID(claims["sub"]), UUID(claims["sid"])
    except _ODD_CLAIMS:
        return None
    keys = {"person_id": person_id, "sign_in_id": sign_in_id}
    if claims.get("res"):
        if session.execute(_RESIDENT, keys).first() is None:
            return None
        return Actor(id=person_id, role=Role.RESIDENT, session_id=sign_in_id)
    found = session.execute(_STAFF, keys).first()
    if found is None:
        return None
    return Actor(
        id=person_id,
        role=Role(found.role),
        session_id=sign_in_id,
        division=found.division,
        organisation_id=found.organisation_id,
    )


def install(app: Flask, secret_key: str) -> JWTManager:
    """Set up the token library: HS256, the lives above, and the look-up that every request goes through."""
    app.config.update(
        JWT_SECRET_KEY=secret_key,
        JWT_ACCESS_TOKEN_EXPIRES=ACCESS_LIFE,
        JWT_REFRESH_TOKEN_EXPIRES=REFRESH_LIFE,
        JWT_TOKEN_LOCATION=["headers"],
        JWT_ALGORITHM=TOKEN_ALGORITHM,
    )
    jwt = JWTManager(app)

    @jwt.user_lookup_loader
    def look_up(_header: dict[str, Any], claims: dict[str, Any]) -> Actor | None:
        return load_actor(db.session(), claims)

    return jwt
