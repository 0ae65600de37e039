"""Hold orders: while one stands, its subject's claims are recorded and wait for a person.

Whoever finds something suspicious places an order with an end; the award reads the standing ones from this process's
memory, so that the feed pays nothing for them. A process learns of an order within FRESH_FOR_S.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.claims import Reason
from points.earning.models import Grade, HoldOrder, SubjectKind
from points.earning.pricing import Priced, site_subject
from server.database import new_id
from server.errors import NotFound
from server.kept import Kept

FRESH_FOR_S = 10.0
STANDS_FOR_MAX = timedelta(days=92)  # as the table's CHECK has it

_ID_KINDS = frozenset({SubjectKind.RESIDENT, SubjectKind.HOUSEHOLD, SubjectKind.STAFF})

# What has ended by itself makes room for a new order on the same ground.
_END = sa.text("""
UPDATE hold_order SET lifted_at = until
WHERE subject_kind = :kind AND subject = :subject AND reason = :reason AND lifted_at IS NULL AND until <= :now
""")

_PLACE = sa.text("""
INSERT INTO hold_order AS kept (id, subject_kind, subject, reason, case_id, placed_at, until)
VALUES (:id, :kind, :subject, :reason, :case_id, :now, :until)
ON CONFLICT (subject_kind, subject, reason) WHERE lifted_at IS NULL DO UPDATE SET
    until = least(greatest(kept.until, EXCLUDED.until), kept.placed_at + interval '92 days'),
    case_id = coalesce(kept.case_id, EXCLUDED.case_id)
RETURNING id
""")


def place(
    session: Session,
    *,
    subject_kind: SubjectKind,
    subject: str,
    reason: Reason,
    until: datetime,
    case_id: UUID | None,
    now: datetime,
) -> UUID:
    """Hold every claim of the subject until then; the order's id.

    Standing for the same reason already, the order there is, with the later of the two ends; STANDS_FOR_MAX after
    it was placed at the latest. `subject` is written as in `bound_usage`, and a resident's, household's or staff
    member's id as text. Raises ValueError for an id that is none.
    """
    subject = str(UUID(subject)) if subject_kind in _ID_KINDS else subject
    keys: dict[str, Any] = {"kind": subject_kind.value, "subject": subject, "reason": reason.value, "now": now}
    session.execute(_END, keys)
    keys |= {"id": new_id(), "case_id": case_id, "until": min(until, now + STANDS_FOR_MAX)}
    placed: UUID = session.execute(_PLACE, keys).scalar_one()
    forget()
    return placed


def lift(session: Session, hold_id: UUID, *, now: datetime) -> None:
    """End an order; one that has ended stays as it is. What is held already stays held. Raises NotFound."""
    lifted = session.scalar(
        sa.update(HoldOrder)
        .where(HoldOrder.id == hold_id, HoldOrder.lifted_at.is_(None))
        .values(lifted_at=sa.func.greatest(HoldOrder.placed_at, now))
        .returning(HoldOrder.id)
    )
    if lifted is None and session.get(HoldOrder, hold_id) is None:
        raise NotFound
    forget()


@dataclass(frozen=True, slots=True)
class Standing:
    """The orders that stand, by subject. Ids as UUIDs, so that the award compares without writing them out."""

    residents: Mapping[UUID, Reason]
    households: Mapping[UUID, Reason]
    staff: Mapping[UUID, Reason]
    devices: Mapping[str, Reason]
    sites: Mapping[str, Reason]
    partners: Mapping[str, Reason]
    ends_at: datetime | None  # when the first of them ends by itself

    def __bool__(self) -> bool:
        return self.ends_at is not None

    def reason_of(self, row: Priced) -> Reason | None:
        """Why a claim waits, None when no order stands against it."""
        found = self.residents.get(row.resident_id)
        if found is None and self.households and row.household_id is not None:
            found = self.households.get(row.household_id)
        if found is None and self.staff and row.staff_id is not None:
            found = self.staff.get(row.staff_id)
        if found is None and self.devices and row.device is not None:
            found = self.devices.get(row.device)
        if found is None and self.sites and row.site is not None:
            found = self.sites.get(site_subject(row.grade, row.source, row.site))
        if found is None and self.partners and row.grade == Grade.PARTNER_SIGNED:
            found = self.partners.get(row.source)
        return found


_kept: Kept[Standing] = Kept()


def current(session: Session, *, now: datetime) -> Standing:
    """The standing orders, at most FRESH_FOR_S old."""
    return _kept.current(
        lambda: read(session, now=now),
        fresh_for_s=FRESH_FOR_S,
        still=lambda standing: standing.ends_at is None or standing.ends_at > now,
    )


def forget() -> None:
    """Read the orders anew at the next call."""
    _kept.forget()


def read(session: Session, *, now: datetime) -> Standing:
    """Every standing order of the database."""
    rows = session.execute(
        sa.select(HoldOrder.subject_kind, HoldOrder.subject, HoldOrder.reason, HoldOrder.until)
        .where(HoldOrder.lifted_at.is_(None), HoldOrder.until > now)
        .order_by(HoldOrder.placed_at.desc(), HoldOrder.id.desc())  # of two, the older one's reason is told
    ).all()
    texts: dict[SubjectKind, dict[str, Reason]] = {kind: {} for kind in SubjectKind}
    for kind, subject, reason, _ in rows:
        texts[kind][subject] = Reason(reason)
    return Standing(
        residents=_by_id(texts[SubjectKind.RESIDENT]),
        households=_by_id(texts[SubjectKind.HOUSEHOLD]),
        staff=_by_id(texts[SubjectKind.STAFF]),
        devices=texts[SubjectKind.DEVICE],
        sites=texts[SubjectKind.SITE],
        partners=texts[SubjectKind.PARTNER],
        ends_at=min((row.until for row in rows), default=None),
    )


def _by_id(reasons: Mapping[str, Reason]) -> dict[UUID, Reason]:
    return {UUID(subject): reason for subject, reason in reasons.items()}
