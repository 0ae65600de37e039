"""Using a code up: by its resident, purpose and slot, so that none serves twice, whoever scans it."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server.database import delete_some
from server.errors import Conflict
from server.people import signed_codes
from server.people.models import CodePurpose, ResidentCodeUse

# Well beyond the last moment at which a device may send in what it scanned without a net.
KEPT_FOR = timedelta(days=30)


class CodeUsed(Conflict):
    """This code has served already; the resident shows the next one in half a minute."""

    code, title_zh, title_en = (
        "resident-code-used",
        "该居民码已被使用, 请等待刷新",
        "This code has been used; wait for the next one",
    )
    constraints = ("resident_code_use_pkey",)


def consume(session: Session, text: str, *, purpose: CodePurpose, data_key: bytes, now: datetime) -> UUID:
    """The resident behind a phone's code, used up. Raises CodeRefused, CodeUsed."""
    keys = signed_codes.public_keys(data_key, now=now)
    code = signed_codes.verify(text, keys, purpose=purpose, at=now)
    resident_id = signed_codes.resident_behind(data_key, code)
    consume_slot(session, resident_id, purpose, code.slot, now=now)
    return resident_id


def consume_slot(session: Session, resident_id: UUID, purpose: CodePurpose, slot: int, *, now: datetime) -> None:
    """Use a slot up. A second one waits for the first to commit, and then finds it. Raises CodeUsed."""
    used = session.scalar(
        insert(ResidentCodeUse)
        .values(resident_id=resident_id, purpose=purpose, slot=slot, used_at=now)
        .on_conflict_do_nothing(index_elements=["resident_id", "purpose", "slot"])
        .returning(ResidentCodeUse.slot)
    )
    if used is None:
        raise CodeUsed


def forget_old(session: Session, *, now: datetime) -> int:
    """Delete uses older than KEPT_FOR, a bounded number at a time; the number deleted."""
    return delete_some(session, ResidentCodeUse, ResidentCodeUse.used_at < now - KEPT_FOR)
