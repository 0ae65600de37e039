"""Partners as the district keeps them: who they are, their keys, and their daily budget."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.partners.models import Partner
from points.partners.signature import KEY_PURPOSE
from server.crypto import seal
from server.errors import Conflict, NotFound


class PartnerExists(Conflict):
    """The code is taken."""

    code, title_zh, title_en = "partner-exists", "合作方代码已存在", "This partner code is taken"
    constraints = ("partner_pkey",)


class BothKeysLive(Conflict):
    """Two keys are live; end one first."""

    code, title_zh, title_en = "both-keys-live", "已有两个有效密钥", "Two keys are live already; end one first"


def create(
    session: Session,
    code: str,
    *,
    name_zh: str,
    kinds: list[str],
    day_budget_points: int,
    key: str,
    data_key: bytes,
    now: datetime,
) -> Partner:
    """Add a partner with its first key. Raises PartnerExists."""
    partner = Partner(
        code=code,
        name_zh=name_zh,
        kinds=sorted(set(kinds)),
        key_a_sealed=seal(data_key, KEY_PURPOSE, code, key.encode()),
        day_budget_points=day_budget_points,
        created_at=now,
    )
    session.add(partner)
    session.flush()
    return partner


def get(session: Session, code: str) -> Partner:
    """The partner. Raises NotFound."""
    found = session.get(Partner, code)
    if found is None:
        raise NotFound
    return found


def list_all(session: Session) -> list[Partner]:
    """All partners, a few dozen at most."""
    return list(session.scalars(sa.select(Partner).order_by(Partner.code).limit(500)))


def add_key(session: Session, code: str, key: str, *, data_key: bytes) -> str:
    """Make `key` the second live key; the slot it went to. Raises NotFound, BothKeysLive."""
    sealed = seal(data_key, KEY_PURPOSE, code, key.encode())
    for slot in (Partner.key_a_sealed, Partner.key_b_sealed):
        taken = session.scalar(
            sa.update(Partner)
            .where(Partner.code == code, slot.is_(None))
            .values({slot: sealed})
            .returning(Partner.code)
        )
        if taken is not None:
            return slot.key.split("_")[1]
    get(session, code)
    raise BothKeysLive


def end_key(session: Session, code: str, slot: str) -> None:
    """End the key in slot `a` or `b`; from the next request on it signs nothing. Raises NotFound."""
    column = {"a": Partner.key_a_sealed, "b": Partner.key_b_sealed}[slot]
    ended = session.scalar(
        sa.update(Partner).where(Partner.code == code).values({column: None}).returning(Partner.code)
    )
    if ended is None:
        raise NotFound
