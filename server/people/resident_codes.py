"""Reading a resident's code or card, and using it up: who it is, once, and whether the reader may serve them.

A code is consumed by its resident, purpose and slot, whoever scans it: two supervisors who scan one phone pay once, and
so do a device without a net and a supervisor with one. A card takes the slot of its use, so that a second scan of it
within the same half-minute is the same act.
"""

import enum
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.access import Actor
from server.errors import Conflict, NotFound
from server.people import cards, code_uses, households, signed_codes, staff_links
from server.people.models import CodePurpose, Resident, Scanner
from server.people.signed_codes import CodeRefused

TEXT_LENGTH_MAX = 200


class CardNeedsStaff(Conflict):
    """A card is confirmed by a member of staff; a device that nobody carries does not take it."""

    code, title_zh, title_en = (
        "card-needs-staff",
        "居民卡须由工作人员确认",
        "A card is confirmed by a member of staff",
    )


class CodeKind(enum.StrEnum):
    """What was shown."""

    PHONE = "phone"
    CARD = "card"


@dataclass(frozen=True, slots=True)
class UsedCode:
    """Who showed what, and who or what read it.

    `device` is `scanner:<id>` for a registered device; `staff_id` is whoever confirmed it: the reader, or who carried
    the device at the scan. At least one of the two is there.
    """

    resident_id: UUID
    household_id: UUID | None
    kind: CodeKind
    device: str | None
    staff_id: UUID | None


def read_and_use(
    session: Session,
    by: Actor | Scanner,
    text: str,
    *,
    purpose: CodePurpose,
    site: str | None,
    data_key: bytes,
    now: datetime,
) -> UsedCode:
    """The resident behind a code or a card, which then serves no second time, in the caller's transaction.

    `by` is a member of staff whose permission the view has checked, or a registered device; a device bound to one site
    serves at no other. `now` is the instant of the scan: of a device without a net, by its own clock.

    Raises CodeRefused, CodeUsed, StaffUnlinked, ServesOwnHousehold, CardNeedsStaff, CardLimitReached, NotFound for a
    device's other site, CodeLimitsMissing.
    """
    scanner = by if isinstance(by, Scanner) else None
    staff_id = by.carrier_at(now) if isinstance(by, Scanner) else by.id
    if scanner is not None and scanner.site_code is not None and site not in (None, scanner.site_code):
        raise NotFound
    if not cards.is_card(text):
        kind = CodeKind.PHONE
        resident_id = code_uses.consume(session, text, purpose=purpose, data_key=data_key, now=now)
    elif staff_id is not None:
        kind = CodeKind.CARD
        resident_id = cards.use(session, text, staff_id=staff_id, data_key=data_key, now=now)
        code_uses.consume_slot(session, resident_id, purpose, signed_codes.slot_of(now), now=now)
    else:
        raise CardNeedsStaff
    if session.scalar(sa.select(Resident.enabled).where(Resident.resident_id == resident_id)) is not True:
        raise CodeRefused
    if staff_id is not None:
        staff_links.require_may_serve(session, staff_id, resident_id, now=now)
    return UsedCode(
        resident_id=resident_id,
        household_id=households.household_of(session, resident_id),
        kind=kind,
        device=None if scanner is None else f"scanner:{scanner.id}",
        staff_id=staff_id,
    )
