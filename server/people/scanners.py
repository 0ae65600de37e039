"""Registered devices that read residents' codes: who they are, who carries them, their keys, and their signature."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server import audit
from server.access import PERMISSIONS, Actor, Permission
from server.clock import business_day
from server.crypto import BadSeal, seal, unseal
from server.database import new_id
from server.errors import Conflict, DomainError, NotFound, PreconditionFailed, Unauthenticated
from server.paging import Page, decode, page_of
from server.people.models import Scanner, Staff
from server.places.divisions import valid
from server.places.models import Division
from server.request_signatures import signed_by_one

KEY_PURPOSE = "scanner-key"
CARRIED_SHOWN_MAX = 50

_SCANNING = [role for role, permissions in PERMISSIONS.items() if Permission.CODE_SCAN in permissions]


class ScannerSignatureRefused(Unauthenticated):
    """Unknown or disabled device, stale timestamp or wrong signature: which of them is not told."""

    code, title_zh, title_en = "device-signature-refused", "设备签名无效", "The device's signature is not valid"


class ScannerKeysLive(Conflict):
    """Two keys are live; end one first."""

    code, title_zh, title_en = (
        "device-keys-live",
        "该设备已有两个有效密钥",
        "Two keys of this device are live; end one first",
    )


class OperatorUnsuitable(DomainError):
    """A device is carried by somebody of this scope who may scan codes."""

    code, status, title_zh, title_en = (
        "operator-unsuitable",
        422,
        "持有人须为辖区内有扫码权限的工作人员",
        "A device is carried by enabled staff of its scope who may scan codes",
    )


class ScannerPlaceUnknown(DomainError):
    """A device stands in a division of today's edition."""

    code, status, title_zh, title_en = (
        "device-place-unknown",
        422,
        "没有此区划",
        "There is no such division",
    )


def register(
    session: Session,
    actor: Actor,
    *,
    name: str,
    division: str,
    site_code: str | None,
    operator_id: UUID | None,
    key: str,
    data_key: bytes,
    now: datetime,
) -> Scanner:
    """Add a device inside the actor's scope, with its first key.

    Raises NotFound outside the scope, ScannerPlaceUnknown, OperatorUnsuitable.
    """
    _require_place(session, actor, division, now=now)
    _require_operator(session, actor, operator_id)
    scanner_id = new_id()
    added = Scanner(
        id=scanner_id,
        name=name.strip(),
        division=division,
        site_code=site_code,
        operator_id=operator_id,
        key_a_sealed=seal(data_key, KEY_PURPOSE, str(scanner_id), key.encode()),
        created_at=now,
    )
    session.add(added)
    session.flush()
    session.refresh(added)
    audit.record(session, actor, "device.register", str(scanner_id), now=now, **_public(added))
    return added


def scanner_for(session: Session, actor: Actor, scanner_id: UUID) -> Scanner:
    """A device in the actor's scope. Raises NotFound."""
    found = session.get(Scanner, scanner_id, populate_existing=True)
    if found is None:
        raise NotFound
    actor.require_cover(found.division)
    return found


def list_scanners(session: Session, actor: Actor, *, limit: int, cursor: str | None) -> Page[Scanner]:
    """The devices in the actor's scope, oldest first. Raises BadCursor."""
    inside = sa.false() if actor.division is None else Scanner.division.startswith(actor.division)
    wanted = sa.select(Scanner).where(inside).order_by(Scanner.id).limit(limit + 1)
    if cursor is not None:
        wanted = wanted.where(Scanner.id > decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))


def carried(session: Session, actor: Actor) -> Sequence[Scanner]:
    """The enabled devices that the actor carries and so confirms for, oldest first; few enough for one answer."""
    return session.scalars(
        sa.select(Scanner)
        .where(Scanner.operator_id == actor.id, Scanner.enabled)
        .order_by(Scanner.id)
        .limit(CARRIED_SHOWN_MAX)
    ).all()


def update(
    session: Session, actor: Actor, scanner_id: UUID, *, expected_version: int, changes: dict[str, Any], now: datetime
) -> Scanner:
    """Change `name`, `division`, `site_code`, `operator_id` or `enabled` of the version that the actor read.

    Raises NotFound, PreconditionFailed, ScannerPlaceUnknown, OperatorUnsuitable.
    """
    found = scanner_for(session, actor, scanner_id)
    if found.version != expected_version:
        raise PreconditionFailed
    if not changes:
        return found
    if "division" in changes:
        _require_place(session, actor, changes["division"], now=now)
    _require_operator(session, actor, changes.get("operator_id"))
    handed_over = {"carried_since": now} if changes.get("operator_id", found.operator_id) != found.operator_id else {}
    changed = session.scalar(
        sa.update(Scanner)
        .where(Scanner.id == scanner_id, Scanner.version == expected_version)
        .values(**changes, **handed_over, version=Scanner.version + 1)
        .returning(Scanner)
        .execution_options(populate_existing=True)
    )
    if changed is None:
        raise PreconditionFailed
    detail = {**_public(changed), "enabled": changed.enabled, "changed": sorted(changes)}
    audit.record(session, actor, "device.update", str(scanner_id), now=now, **detail)
    return changed


def add_key(session: Session, actor: Actor, scanner_id: UUID, *, key: str, data_key: bytes, now: datetime) -> str:
    """Make `key` the device's second live key; the slot it went to. Raises NotFound, ScannerKeysLive."""
    scanner_for(session, actor, scanner_id)
    sealed = seal(data_key, KEY_PURPOSE, str(scanner_id), key.encode())
    for slot, column in _KEYS.items():
        taken = session.scalar(
            sa.update(Scanner)
            .where(Scanner.id == scanner_id, column.is_(None))
            .values({column: sealed})
            .returning(Scanner.id)
        )
        if taken is not None:
            audit.record(session, actor, "device.key.add", str(scanner_id), now=now, slot=slot)
            return slot
    raise ScannerKeysLive


def end_key(session: Session, actor: Actor, scanner_id: UUID, slot: str, *, now: datetime) -> None:
    """End the key in slot `a` or `b`; from the next request on it signs nothing. Raises NotFound."""
    scanner_for(session, actor, scanner_id)
    session.execute(sa.update(Scanner).where(Scanner.id == scanner_id).values({_KEYS[slot]: None}))
    audit.record(session, actor, "device.key.end", str(scanner_id), now=now, slot=slot)


def signed_scanner(
    session: Session,
    scanner_id: UUID,
    body: bytes,
    *,
    signature: tuple[str, str],
    data_key: bytes,
    now: datetime,
) -> Scanner:
    """The enabled device that signed a request, held until the transaction ends. Raises ScannerSignatureRefused.

    Held, so that two uploads of one device take turns: the second finds what the first has taken in. A device whose
    carrier's account is disabled, or may scan no more, sends nothing in until somebody else carries it.
    """
    found = session.get(Scanner, scanner_id)
    if found is None:
        raise ScannerSignatureRefused
    sealed = [key for key in (found.key_a_sealed, found.key_b_sealed) if key is not None]
    try:
        keys = [unseal(data_key, KEY_PURPOSE, str(scanner_id), key) for key in sealed]
    except BadSeal as error:  # the data key was changed without sealing the devices' keys anew
        raise ScannerSignatureRefused from error
    if not signed_by_one(keys, *signature, body, now=now):
        raise ScannerSignatureRefused
    carrier = sa.exists().where(Staff.id == Scanner.operator_id, Staff.enabled, Staff.role.in_(_SCANNING))
    held = session.scalar(
        sa.update(Scanner)
        .where(Scanner.id == scanner_id, Scanner.enabled, sa.or_(Scanner.operator_id.is_(None), carrier))
        .values(last_seen_at=sa.func.greatest(Scanner.last_seen_at, now))
        .returning(Scanner)
        .execution_options(populate_existing=True)
    )
    if held is None:
        raise ScannerSignatureRefused
    return held


_KEYS = {"a": Scanner.key_a_sealed, "b": Scanner.key_b_sealed}


def live_keys(scanner: Scanner) -> list[str]:
    """The slots of the keys that sign now."""
    return [slot for slot, column in _KEYS.items() if getattr(scanner, column.key) is not None]


def _require_place(session: Session, actor: Actor, division: str, *, now: datetime) -> None:
    actor.require_cover(division)
    known = sa.select(Division.code).where(Division.code == division, valid(business_day(now)))
    if session.scalar(known) is None:
        raise ScannerPlaceUnknown


def _require_operator(session: Session, actor: Actor, operator_id: UUID | None) -> None:
    if operator_id is None:
        return
    found = session.get(Staff, operator_id)
    if found is None or not found.enabled or found.division is None or not actor.covers(found.division):
        raise OperatorUnsuitable
    if found.role not in _SCANNING:
        raise OperatorUnsuitable


def _public(scanner: Scanner) -> dict[str, Any]:
    operator_id = None if scanner.operator_id is None else str(scanner.operator_id)
    return {
        "name": scanner.name,
        "division": scanner.division,
        "site_code": scanner.site_code,
        "operator_id": operator_id,
    }
