"""Staff: accounts with a role and a scope, their passwords, and who may manage whom."""

import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server import audit
from server.access import ORGANISATION_ROLES, Actor, Role
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, DomainError, Forbidden, NotFound, PreconditionFailed, Unauthenticated, Unavailable
from server.paging import Page, decode, page_of
from server.people import sessions
from server.people.models import Staff
from server.places.divisions import valid
from server.places.models import Division, Organisation
from server.places.organisations import organisation_for

NAME_LENGTH_MAX = 40
PASSWORD_LENGTH_MIN = 10
PASSWORD_LENGTH_MAX = 128

# RFC 9106, 4, second choice: 64 MiB and three passes. The first choice wants 2 GiB for each attempt, which is the whole
# of a small machine.
HASHER = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)

# A flood of attempts must not take 64 MiB for each thread, nor all cores: two at a time, the others wait a little.
_HASHING = threading.BoundedSemaphore(2)
HASHING_WAIT_S = 5.0

# What each role answers for: a prefix of division codes of one of these lengths, or (school staff) one organisation.
# Who stands at a sorting site may serve a community or a whole street, and a recycler's round has no fixed size.
DIVISION_LENGTHS: dict[Role, tuple[int, ...]] = {
    Role.COMMUNITY_STAFF: (12,),
    Role.SUPERVISOR: (12, 9),
    Role.COLLECTOR: (12, 9, 6),
    Role.STREET: (9,),
    Role.ASSESSOR: (6,),
    Role.DISTRICT: (6,),
    Role.OPERATOR: (6,),
}


class BadCredentials(Unauthenticated):
    """Unknown name, wrong password, or disabled; the three are not told apart."""

    code, title_zh, title_en = "bad-credentials", "用户名或密码错误", "The name or the password is wrong"


class StaffNameTaken(Conflict):
    """The name is in use; names are never given twice, because the audit trail keeps them apart."""

    code, title_zh, title_en = "staff-name-taken", "用户名已存在", "This name is taken"


class ScopeInvalid(DomainError):
    """The scope does not suit the role.

    Community staff answer for a community, a street for a street, the district office and operators for a district,
    supervisors for a community or a street, collectors for any of the three, school staff for one organisation.
    """

    code, status, title_zh, title_en = "scope-invalid", 422, "管理范围与角色不符", "The scope does not suit the role"


class PasswordUnsuitable(DomainError):
    """A password has 10 to 128 characters."""

    code, status, title_zh, title_en = "password-unsuitable", 422, "密码须为10至128个字符", "10 to 128 characters"


class OwnAccount(Forbidden):
    """Nobody changes their own role, scope or state; another manager does."""

    code, title_zh, title_en = "own-account", "不能修改自己的账号", "You cannot change your own account"


@dataclass(frozen=True, slots=True)
class Credential:
    """What a password is checked against; both None for a name that is nobody's."""

    staff_id: UUID | None
    password_hash: str | None


@dataclass(frozen=True, slots=True)
class CheckedCredential:
    """A credential whose password was right. `fresh_hash` is there when the stored one uses older parameters."""

    staff_id: UUID
    password_hash: str
    fresh_hash: str | None


def hash_password(password: str) -> str:
    """The argon2id hash to store. Slow on purpose: outside a transaction. Raises PasswordUnsuitable, Unavailable."""
    password = _normal(password)
    if not PASSWORD_LENGTH_MIN <= len(password) <= PASSWORD_LENGTH_MAX:
        raise PasswordUnsuitable
    with _hashing():
        return HASHER.hash(password)


def credential_for(session: Session, name: str) -> Credential:
    """What the password of this name is checked against; of a disabled account too, so that it takes as long."""
    found = session.execute(sa.select(Staff.id, Staff.password_hash).where(Staff.name == _normal(name))).first()
    return Credential(found.id, found.password_hash) if found else Credential(None, None)


def check_password(credential: Credential, password: str) -> CheckedCredential:
    """Check a password, outside any transaction: no connection is held for its tenth of a second.

    Raises BadCredentials, Unavailable.
    """
    stored = credential.password_hash or _hash_of_nobody()
    with _hashing():
        try:
            HASHER.verify(stored, _normal(password))
        except (VerificationError, InvalidHashError):
            raise BadCredentials from None
    if credential.staff_id is None:
        raise BadCredentials
    stale = HASHER.check_needs_rehash(stored)
    return CheckedCredential(credential.staff_id, stored, hash_password(password) if stale else None)


def sign_in_staff(session: Session, *, checked: CheckedCredential) -> UUID:
    """The member of staff whose password was checked, if it still is theirs. Raises BadCredentials.

    The row is held until the sign-in commits: whoever changes the password or disables the account at this moment comes
    either before, and is seen here, or after, and ends the sign-in that this transaction opens.
    """
    held = (
        sa.select(Staff.id)
        .where(Staff.id == checked.staff_id, Staff.password_hash == checked.password_hash, Staff.enabled)
        .with_for_update(read=checked.fresh_hash is None)
    )
    if session.scalar(held) is None:
        raise BadCredentials
    if checked.fresh_hash is not None:
        session.execute(sa.update(Staff).where(Staff.id == checked.staff_id).values(password_hash=checked.fresh_hash))
    return checked.staff_id


def create(
    session: Session,
    actor: Actor | None,
    *,
    name: str,
    password_hash: str,
    role: Role,
    division: str | None = None,
    organisation_id: UUID | None = None,
    now: datetime,
) -> Staff:
    """Add a member of staff inside the actor's scope; an actor of None is an operator on the machine itself.

    `password_hash` comes from `hash_password`.

    Raises Forbidden, NotFound outside the scope, ScopeInvalid, StaffNameTaken.
    """
    _require_manages_role(actor, role)
    _require_scope(session, actor, role, division, organisation_id, now)
    added: Staff | None = session.scalar(
        insert(Staff)
        .values(
            id=new_id(),
            name=_normal(name),
            password_hash=password_hash,
            role=role,
            division=division,
            organisation_id=organisation_id,
            created_at=now,
        )
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(Staff)
    )
    if added is None:
        raise StaffNameTaken
    audit.record(session, actor, "staff.create", str(added.id), now=now, **_public(added))
    return added


def update(
    session: Session, actor: Actor, staff_id: UUID, *, expected_version: int, changes: dict[str, Any], now: datetime
) -> Staff:
    """Change `role`, `division`, `organisation_id`, `enabled` or `password_hash` of the version that the actor read.

    Any change ends all sign-ins of the person with their next request. A new role wants its scope with it, unless the
    old one suits; a division replaces an organisation, and the other way round.

    Raises NotFound, OwnAccount, Forbidden, ScopeInvalid, PreconditionFailed.
    """
    found = staff_for(session, actor, staff_id)
    if found.id == actor.id:
        raise OwnAccount
    role = changes.get("role", found.role)
    for concerned in (found.role, role):
        _require_manages_role(actor, concerned)
    if found.version != expected_version:
        raise PreconditionFailed
    if not changes:
        return found
    if changes.keys() & {"role", "division", "organisation_id"}:
        changes = _with_one_scope(found, changes)
        _require_scope(session, actor, role, changes["division"], changes["organisation_id"], now)
    changed = session.scalar(
        sa.update(Staff)
        .where(Staff.id == staff_id, Staff.version == expected_version)
        .values(**changes, version=Staff.version + 1)
        .returning(Staff)
        .execution_options(populate_existing=True)
    )
    if changed is None:
        raise PreconditionFailed
    sessions.end_all(session, staff_id, "account-changed", now=now)
    detail = {**_public(changed), "enabled": changed.enabled, "changed": sorted(changes)}
    audit.record(session, actor, "staff.update", str(staff_id), now=now, **detail)
    return changed


def staff_for(session: Session, actor: Actor, staff_id: UUID) -> Staff:
    """A member of staff in the actor's scope. Raises NotFound."""
    found = session.scalar(
        sa.select(Staff).where(Staff.id == staff_id, _inside(actor)).execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFound
    return found


def own_account(session: Session, actor: Actor) -> Staff:
    """The actor's own account. Raises NotFound for a resident."""
    found = session.get(Staff, actor.id, populate_existing=True)
    if found is None:
        raise NotFound
    return found


def list_staff(session: Session, actor: Actor, *, limit: int, cursor: str | None) -> Page[Staff]:
    """The staff in the actor's scope, oldest account first. Raises BadCursor."""
    wanted = sa.select(Staff).where(_inside(actor)).order_by(Staff.id).limit(limit + 1)
    if cursor is not None:
        wanted = wanted.where(Staff.id > decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))


def _inside(actor: Actor) -> sa.ColumnElement[bool]:
    """The condition that an account's whole scope lies inside the actor's."""
    if actor.division is None:
        return sa.false()
    organisations = sa.select(Organisation.id).where(Organisation.community_code.startswith(actor.division))
    return sa.or_(Staff.division.startswith(actor.division), Staff.organisation_id.in_(organisations))


def _require_manages_role(actor: Actor | None, role: Role) -> None:
    """Only an operator, or the machine itself, makes and changes operators. Raises Forbidden."""
    if actor is not None and role is Role.OPERATOR and actor.role is not Role.OPERATOR:
        raise Forbidden


def _require_scope(
    session: Session,
    actor: Actor | None,
    role: Role,
    division: str | None,
    organisation_id: UUID | None,
    now: datetime,
) -> None:
    """Raise ScopeInvalid unless the scope suits the role and exists, NotFound unless it is inside the actor's."""
    if role in ORGANISATION_ROLES:
        if organisation_id is None or division is not None:
            raise ScopeInvalid
        if actor is not None:
            organisation_for(session, actor, organisation_id)
        elif session.get(Organisation, organisation_id) is None:
            raise NotFound
        return
    if division is None or organisation_id is not None or len(division) not in DIVISION_LENGTHS.get(role, ()):
        raise ScopeInvalid
    if actor is not None:
        actor.require_cover(division)
    if session.scalar(sa.select(Division.code).where(Division.code == division, valid(business_day(now)))) is None:
        raise ScopeInvalid


def _with_one_scope(found: Staff, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes with both halves of the scope; the half that is not named gives way to the one that is."""
    scope = {"division": found.division, "organisation_id": found.organisation_id}
    if changes.get("division") is not None:
        scope["organisation_id"] = None
    if changes.get("organisation_id") is not None:
        scope["division"] = None
    return {**scope, **changes}


def _public(staff: Staff) -> dict[str, Any]:
    organisation_id = str(staff.organisation_id) if staff.organisation_id else None
    return {
        "name": staff.name,
        "role": staff.role.value,
        "division": staff.division,
        "organisation_id": organisation_id,
    }


def _normal(text: str) -> str:
    """One spelling for what looks the same, whatever keyboard typed it (RFC 8265, 4.2: NFC)."""
    return unicodedata.normalize("NFC", text)


@contextmanager
def _hashing() -> Iterator[None]:
    """A place among the few that hash at once. Raises Unavailable when none becomes free in time."""
    if not _HASHING.acquire(timeout=HASHING_WAIT_S):
        raise Unavailable
    try:
        yield
    finally:
        _HASHING.release()


@cache
def _hash_of_nobody() -> str:
    """A hash that belongs to no account, so that an unknown name takes as long to refuse as a known one."""
    with _hashing():
        return HASHER.hash(str(new_id()))
