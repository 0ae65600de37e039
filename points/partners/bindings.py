"""A resident's own consent that a partner sends their events, and its end."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.partners.models import Binding, Partner
from server.database import new_id
from server.errors import Conflict, NotFound
from server.people.models import Consent, ConsentPurpose

CONSENT_TEXT = "partner-2026-1"


class MemberTaken(Conflict):
    """The partner's member id belongs to another resident."""

    code, title_zh, title_en = "member-taken", "该会员号已被他人绑定", "This member id is bound to someone else"
    constraints = ("binding_pkey",)


class AlreadyBound(Conflict):
    """Unbind first to bind another member id."""

    code, title_zh, title_en = "already-bound", "已绑定该合作方", "You have bound this partner already"
    constraints = ("binding_resident_key",)


@dataclass(frozen=True, slots=True)
class Standing:
    """A partner as a resident sees it: bound under which member id, or not."""

    code: str
    name_zh: str
    kinds: list[str]
    member_id: str | None
    bound_at: datetime | None


def standings(session: Session, resident_id: UUID) -> list[Standing]:
    """Every enabled partner, bound or not. There are a few dozen at most."""
    rows = session.execute(
        sa.select(Partner, Binding)
        .outerjoin(Binding, sa.and_(Binding.partner_code == Partner.code, Binding.resident_id == resident_id))
        .where(Partner.enabled)
        .order_by(Partner.code)
        .limit(200)
    )
    return [
        Standing(
            partner.code,
            partner.name_zh,
            partner.kinds,
            binding.member_id if binding else None,
            binding.bound_at if binding else None,
        )
        for partner, binding in rows
    ]


def bind(session: Session, resident_id: UUID, partner_code: str, member_id: str, *, now: datetime) -> Binding:
    """Bind and give the consent, in one. Raises NotFound, AlreadyBound, MemberTaken."""
    partner = session.get(Partner, partner_code)
    if partner is None or not partner.enabled:
        raise NotFound
    binding = Binding(partner_code=partner_code, member_id=member_id, resident_id=resident_id, bound_at=now)
    session.add(binding)
    session.flush()
    session.add(
        Consent(
            resident_id=resident_id,
            id=new_id(),
            purpose=ConsentPurpose.PARTNER,
            subject=partner_code,
            text_version=CONSENT_TEXT,
            given_at=now,
        )
    )
    session.flush()
    return binding


def unbind(session: Session, resident_id: UUID, partner_code: str, *, now: datetime) -> None:
    """End the binding and withdraw the consent: as easy as giving it (PIPL 15). Raises NotFound."""
    gone = session.scalar(
        sa.delete(Binding)
        .where(Binding.resident_id == resident_id, Binding.partner_code == partner_code)
        .returning(Binding.member_id)
    )
    if gone is None:
        raise NotFound
    session.execute(
        sa.update(Consent)
        .where(
            Consent.resident_id == resident_id,
            Consent.purpose == ConsentPurpose.PARTNER,
            Consent.subject == partner_code,
            Consent.withdrawn_at.is_(None),
        )
        .values(withdrawn_at=now)
    )
