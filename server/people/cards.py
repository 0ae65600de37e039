"""Printed cards for people without a phone at hand: a QR code that staff scan, and that can be taken back.

What is printed is random and kept as a keyed hash only; a lost card is replaced by another. A photograph of a card is
as good as the card, so staff confirm its every use, and the uses of a household and of a member of staff on one day are
counted against limits that the district sets.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server import audit, typed_codes
from server.access import Actor
from server.clock import business_day
from server.crypto import keyed_hash
from server.database import delete_some, new_id
from server.errors import Conflict, NotFound
from server.notices import notices
from server.people.code_limits import limits_on
from server.people.households import NoHousehold, household_of
from server.people.models import CardDay, CardUser, PrintedCard, Resident
from server.people.signed_codes import CodeRefused

PREFIX = "TPH:K:"
CODE_LENGTH = 16  # 80 bits: a card lives for years, where a check-in code lives for a morning

CARDS_SHOWN_MAX = 100
# Well beyond the last moment at which a device may send in what it scanned without a net.
COUNTS_KEPT_FOR = timedelta(days=30)

_PURPOSE = "resident-card"
_SHAPE = re.compile(rf"(?:{PREFIX})?([0-9A-Z -]{{1,40}})")


class CardStands(Conflict):
    """The resident has a card; ask for it to be replaced, and say why."""

    code, title_zh, title_en = (
        "card-stands",
        "该居民已有有效卡片, 如需补发请注明理由",
        "The resident has a card that works; to replace it, say why",
    )
    constraints = ("printed_card_standing_key",)


class CardLimitReached(Conflict):
    """The household has brought, or the member of staff confirmed, as many cards today as the district allows."""

    code, title_zh, title_en = (
        "card-limit-reached",
        "今日刷卡次数已达上限",
        "The day's limit of uses of cards is reached",
    )


@dataclass(frozen=True, slots=True)
class IssuedCard:
    """A new card with what is printed on it, shown this once."""

    card: PrintedCard
    code: str
    nickname: str | None

    @property
    def text(self) -> str:
        """The text of the QR code."""
        return PREFIX + self.code

    @property
    def label(self) -> str:
        """The code as people read it: ABCD-EFGH-JKMN-PQRS."""
        return "-".join(self.code[at : at + 4] for at in range(0, len(self.code), 4))


def is_card(text: str) -> bool:
    """Whether a scanned or typed text has the shape of a card's code."""
    return _code_in(text) is not None


def issue(
    session: Session,
    actor: Actor,
    resident_id: UUID,
    *,
    for_household: bool,
    replaces_because: str | None,
    data_key: bytes,
    now: datetime,
) -> IssuedCard:
    """Make a card for a resident of the actor's scope; `replaces_because` ends the one that stands.

    A card `for_household` may be carried by whoever lives there, and works as long as its holder does.

    Raises NotFound outside the scope, NoHousehold, CardStands.
    """
    resident = _resident_for(session, actor, resident_id)
    household_id = household_of(session, resident_id) if for_household else None
    if for_household and household_id is None:
        raise NoHousehold
    if replaces_because is not None:
        _end(session, PrintedCard.resident_id == resident_id, by=actor.id, because=replaces_because, now=now)
    code = typed_codes.new_code(CODE_LENGTH)
    added: PrintedCard | None = session.scalar(
        insert(PrintedCard)
        .values(
            id=new_id(),
            code_hash=_hashed(data_key, code),
            resident_id=resident_id,
            household_id=household_id,
            issued_by=actor.id,
            issued_at=now,
        )
        .on_conflict_do_nothing(index_elements=["resident_id"], index_where=PrintedCard.revoked_at.is_(None))
        .returning(PrintedCard)
    )
    if added is None:
        raise CardStands
    detail = {"resident": str(resident_id), "for_household": for_household, "replaces_because": replaces_because}
    audit.record(session, actor, "card.issue", str(added.id), now=now, **detail)
    notices.tell(
        session,
        [resident_id],
        kind="card-issued",
        subject=f"card:{added.id}",
        title_zh="社区为您印制了居民卡",
        title_en="A card has been printed for you",
        now=now,
    )
    return IssuedCard(added, code, resident.nickname)


def list_cards(session: Session, actor: Actor, resident_id: UUID) -> Sequence[PrintedCard]:
    """The cards of a resident of the actor's scope, newest first. Raises NotFound."""
    _resident_for(session, actor, resident_id)
    return _cards_of(session, resident_id)


def revoke(session: Session, actor: Actor, card_id: UUID, *, reason: str, now: datetime) -> PrintedCard:
    """End the card of a resident in the actor's scope; it serves nowhere from now on. Ending it again changes nothing.

    Raises NotFound.
    """
    card = session.get(PrintedCard, card_id)
    if card is None:
        raise NotFound
    _resident_for(session, actor, card.resident_id)
    if _end(session, PrintedCard.id == card_id, by=actor.id, because=reason, now=now):
        audit.record(session, actor, "card.revoke", str(card_id), now=now, reason=reason)
        notices.tell(
            session,
            [card.resident_id],
            kind="card-revoked",
            subject=f"card:{card_id}",
            title_zh="您的居民卡已停用",
            title_en="Your card does not work any more",
            now=now,
        )
    return session.get_one(PrintedCard, card_id, populate_existing=True)


def own(session: Session, actor: Actor) -> Sequence[PrintedCard]:
    """The actor's own cards, newest first."""
    return _cards_of(session, actor.id)


def give_back(session: Session, actor: Actor, card_id: UUID, *, reason: str, now: datetime) -> PrintedCard:
    """End one's own card, such as a lost one. Raises NotFound."""
    card = session.scalar(sa.select(PrintedCard).where(PrintedCard.id == card_id, PrintedCard.resident_id == actor.id))
    if card is None:
        raise NotFound
    _end(session, PrintedCard.id == card_id, by=None, because=reason, now=now)
    return session.get_one(PrintedCard, card_id, populate_existing=True)


def use(session: Session, text: str, *, staff_id: UUID, data_key: bytes, now: datetime) -> UUID:
    """The holder of a card, whose one use is taken from the day's limits of the household and of who confirms it.

    The card is held by its own update, so that whoever takes it back at this moment comes before or after.

    Raises CodeRefused, CardLimitReached, CodeLimitsMissing.
    """
    code = _code_in(text)
    if code is None:
        raise CodeRefused
    card = session.execute(
        sa.update(PrintedCard)
        .where(PrintedCard.code_hash == _hashed(data_key, code), PrintedCard.revoked_at.is_(None))
        .values(use_count=PrintedCard.use_count + 1, last_used_at=sa.func.greatest(PrintedCard.last_used_at, now))
        .returning(PrintedCard.resident_id, PrintedCard.household_id)
    ).first()
    if card is None:
        raise CodeRefused
    household_id = household_of(session, card.resident_id)
    if card.household_id is not None and card.household_id != household_id:
        raise CodeRefused
    limits = limits_on(session, now)
    # Always in this order, so that two uses wait for each other and never in a circle.
    household = household_id or card.resident_id
    _take(session, CardUser.HOUSEHOLD, household, limit_uses=limits.card_uses_per_household_max, now=now)
    _take(session, CardUser.STAFF, staff_id, limit_uses=limits.card_uses_per_staff_max, now=now)
    holder: UUID = card.resident_id
    return holder


def forget_old(session: Session, *, now: datetime) -> int:
    """Delete the counts of days longer ago than COUNTS_KEPT_FOR, a bounded number at a time; the number deleted."""
    return delete_some(session, CardDay, CardDay.day < business_day(now - COUNTS_KEPT_FOR))


def _take(session: Session, kind: CardUser, user_id: UUID, *, limit_uses: int, now: datetime) -> None:
    if limit_uses == 0:
        raise CardLimitReached(limit_of=kind.value)
    taken = session.scalar(
        insert(CardDay)
        .values(day=business_day(now), user_kind=kind, user_id=user_id, limit_uses=limit_uses, uses=1)
        .on_conflict_do_update(
            index_elements=["day", "user_kind", "user_id"],
            set_={"uses": CardDay.uses + 1, "limit_uses": limit_uses},
            where=CardDay.uses < limit_uses,
        )
        .returning(CardDay.uses)
    )
    if taken is None:
        raise CardLimitReached(limit_of=kind.value)


def _end(
    session: Session, which: sa.ColumnElement[bool], *, by: UUID | None, because: str, now: datetime
) -> Sequence[UUID]:
    return session.scalars(
        sa.update(PrintedCard)
        .where(which, PrintedCard.revoked_at.is_(None))
        .values(revoked_by=by, revoked_because=because, revoked_at=sa.func.greatest(now, PrintedCard.issued_at))
        .returning(PrintedCard.id)
    ).all()


def _cards_of(session: Session, resident_id: UUID) -> Sequence[PrintedCard]:
    return session.scalars(
        sa.select(PrintedCard)
        .where(PrintedCard.resident_id == resident_id)
        .order_by(PrintedCard.id.desc())
        .limit(CARDS_SHOWN_MAX)
        .execution_options(populate_existing=True)
    ).all()


def _resident_for(session: Session, actor: Actor, resident_id: UUID) -> Resident:
    """A resident whose home is in the actor's scope, with a phone or without. Raises NotFound."""
    resident = session.get(Resident, resident_id)
    if resident is None or resident.community_code is None:
        raise NotFound
    actor.require_cover(resident.community_code)
    return resident


def _code_in(text: str) -> str | None:
    shape = _SHAPE.fullmatch(text.strip().upper())
    if shape is None:
        return None
    typed = typed_codes.plain(shape[1])
    return typed if typed_codes.is_code(typed, CODE_LENGTH) else None


def _hashed(data_key: bytes, code: str) -> bytes:
    return keyed_hash(data_key, _PURPOSE, code)
