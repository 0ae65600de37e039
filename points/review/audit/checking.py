"""Checking the claims of a sample: what people found of each, once; a wrong one is taken back and its resident told."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import counts
from points.earning.claims import REASON_TEXTS, Reason
from points.earning.counts import AlreadyRevoked
from points.earning.models import Activity, Behaviour
from points.review.audit import estimating
from points.review.audit.estimating import Found, Rate
from points.review.audit.models import AuditItem, AuditStratum, Finding, RandomAudit
from server import audit
from server.access import Actor
from server.errors import Conflict, NotFound, ReasonRequired
from server.notices import notices
from server.paging import Page, decode, page_of
from server.people import staff_links


class AuditItemChecked(Conflict):
    """An item is checked once; what was wrong about it is for an appeal."""

    code, title_zh, title_en = "audit-item-checked", "该条已检查", "This claim has been checked"


class ConfirmedByChecker(Conflict):
    """Nobody checks what they confirmed themselves."""

    code, title_zh, title_en = (
        "confirmed-by-checker",
        "本人确认过的记录须由他人检查",
        "Somebody else must check what you confirmed yourself",
    )


@dataclass(frozen=True, slots=True)
class ItemSeen:
    """A drawn claim beside what was recorded of it."""

    item: AuditItem
    activity: Activity

    def __getattr__(self, name: str) -> Any:
        return getattr(self.item if name in AuditItem.__mapper__.column_attrs else self.activity, name)


@dataclass(frozen=True, slots=True)
class StratumSeen:
    """A stratum with what was found of its sample so far."""

    behaviour: Behaviour
    source: str
    sampled_claims: int
    unchecked_claims: int
    found: Found
    claims_rate: Rate
    points_rate: Rate


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found so far: by stratum, and in all."""

    audit: RandomAudit
    strata: Sequence[StratumSeen]
    claims_rate: Rate
    points_rate: Rate

    @property
    def unchecked_claims(self) -> int:
        """How many claims of the sample nobody has checked; the report is final when there is none."""
        return sum(stratum.unchecked_claims for stratum in self.strata)


def list_audits(session: Session, *, limit: int, cursor: str | None) -> Page[RandomAudit]:
    """Every audit, the last asked for first. Raises BadCursor."""
    wanted = sa.select(RandomAudit).order_by(RandomAudit.id.desc()).limit(limit + 1)
    if cursor is not None:
        wanted = wanted.where(RandomAudit.id < decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))


def audit_of(session: Session, audit_id: UUID) -> RandomAudit:
    """One audit. Raises NotFound."""
    found = session.get(RandomAudit, audit_id, populate_existing=True)
    if found is None:
        raise NotFound
    return found


def list_items(
    session: Session,
    actor: Actor,
    audit_id: UUID,
    *,
    behaviour: Behaviour | None,
    source: str | None,
    checked: bool | None,
    limit: int,
    cursor: str | None,
    now: datetime,
) -> Page[ItemSeen]:
    """The claims of a sample with what was recorded of them, but for those that the actor may not check.

    Raises NotFound, BadCursor.
    """
    audit_of(session, audit_id)
    accounts = staff_links.accounts_of(session, actor.id)
    wanted = (
        sa.select(AuditItem, Activity)
        .join(Activity, sa.and_(Activity.resident_id == AuditItem.resident_id, Activity.id == AuditItem.activity_id))
        .where(
            AuditItem.audit_id == audit_id,
            sa.or_(Activity.staff_id.is_(None), Activity.staff_id.not_in(accounts)),
            sa.not_(staff_links.own_household(session, actor.id, AuditItem.resident_id, now=now)),
        )
        .order_by(AuditItem.activity_id)
        .limit(limit + 1)
    )
    if behaviour is not None:
        wanted = wanted.where(AuditItem.behaviour == behaviour)
    if source is not None:
        wanted = wanted.where(AuditItem.source == source)
    if checked is not None:
        wanted = wanted.where(AuditItem.finding.is_not(None) if checked else AuditItem.finding.is_(None))
    if cursor is not None:
        wanted = wanted.where(AuditItem.activity_id > decode(cursor, tuple[UUID])[0])
    rows = [ItemSeen(item, activity) for item, activity in session.execute(wanted)]
    return page_of(rows, limit, lambda row: (row.item.activity_id,))


def check(
    session: Session, actor: Actor, audit_id: UUID, activity_id: UUID, *, finding: Finding, note: str, now: datetime
) -> ItemSeen:
    """Write what the actor found of a drawn claim. One that was paid wrongly is taken back, and its resident is told.

    Raises NotFound, AuditItemChecked, ConfirmedByChecker, ReasonRequired (all but `right` say why), and what
    `staff_links.require_may_serve` raises for the actor's own household.
    """
    seen = session.execute(
        sa.select(AuditItem, Activity)
        .join(Activity, sa.and_(Activity.resident_id == AuditItem.resident_id, Activity.id == AuditItem.activity_id))
        .where(AuditItem.audit_id == audit_id, AuditItem.activity_id == activity_id)
    ).one_or_none()
    if seen is None:
        raise NotFound
    item, activity = seen
    if activity.staff_id in staff_links.accounts_of(session, actor.id):
        raise ConfirmedByChecker
    if finding is not Finding.RIGHT and not note.strip():
        raise ReasonRequired
    staff_links.require_may_serve(session, actor.id, item.resident_id, now=now)
    written = session.scalars(
        sa.update(AuditItem)
        .where(
            AuditItem.resident_id == item.resident_id,
            AuditItem.audit_id == audit_id,
            AuditItem.activity_id == activity_id,
            AuditItem.finding.is_(None),
        )
        .values(finding=finding, note=note, checked_by=actor.id, checked_at=now)
        .returning(AuditItem)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if written is None:
        raise AuditItemChecked
    audit.record(
        session,
        actor,
        "random-audit.check",
        f"activity:{activity_id}",
        now=now,
        audit=str(audit_id),
        finding=finding.value,
        note=note,
    )
    if finding is Finding.WRONG:
        activity = _take_back(session, written, activity, now=now)
    return ItemSeen(written, activity)


def _take_back(session: Session, item: AuditItem, activity: Activity, *, now: datetime) -> Activity:
    """Take a wrongly paid claim back. One that was taken back in the meantime stays as it is: it was paid wrongly."""
    title_zh, title_en = REASON_TEXTS[Reason.AUDIT_FAILED]
    try:
        revoked = counts.revoke(
            session, item.resident_id, item.activity_id, why=title_zh, reason=Reason.AUDIT_FAILED, now=now
        )
    except AlreadyRevoked:
        return activity
    notices.tell(
        session,
        [item.resident_id],
        kind="activity-taken-back",
        subject=f"activity:{item.activity_id}",
        title_zh=title_zh,
        title_en=title_en,
        now=now,
    )
    return revoked


def report(session: Session, audit_id: UUID) -> Report:
    """The rates of wrongful payment that the sample shows so far, with their 95 % intervals. Raises NotFound."""
    of = audit_of(session, audit_id)
    strata = [_stratum_seen(*row) for row in session.execute(_FOUND, {"audit_id": audit_id})]
    found = [stratum.found for stratum in strata]
    return Report(of, strata, estimating.claims_in_all(found), estimating.points_in_all(found))


def _is(finding: Finding) -> sa.ColumnElement[bool]:
    return AuditItem.finding == finding


_TOLD = AuditItem.finding.in_((Finding.RIGHT, Finding.WRONG))


def _points(where: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(AuditItem.points).filter(where), 0)


_FOUND = (
    sa.select(
        AuditStratum,
        sa.func.count().filter(_is(Finding.RIGHT)),
        sa.func.count().filter(_is(Finding.WRONG)),
        sa.func.count().filter(_is(Finding.CANNOT_BE_TOLD)),
        _points(_TOLD),
        _points(_is(Finding.WRONG)),
        _points(_is(Finding.CANNOT_BE_TOLD)),
        sa.func.coalesce(sa.func.sum(sa.cast(AuditItem.points, sa.BigInteger) * AuditItem.points).filter(_TOLD), 0),
    )
    .outerjoin(
        AuditItem,
        sa.and_(
            AuditItem.audit_id == AuditStratum.audit_id,
            AuditItem.behaviour == AuditStratum.behaviour,
            AuditItem.source == AuditStratum.source,
        ),
    )
    .where(AuditStratum.audit_id == sa.bindparam("audit_id"))
    .group_by(AuditStratum.audit_id, AuditStratum.behaviour, AuditStratum.source)
    .order_by(AuditStratum.behaviour, AuditStratum.source)
)


def _stratum_seen(stratum: AuditStratum, *numbers: Any) -> StratumSeen:
    right, wrong, cannot_be_told, told_points, wrong_points, cannot_be_told_points, squares = map(int, numbers)
    found = Found(
        claims=stratum.claims,
        points=stratum.points,
        right=right,
        wrong=wrong,
        cannot_be_told=cannot_be_told,
        told_points=told_points,
        wrong_points=wrong_points,
        cannot_be_told_points=cannot_be_told_points,
        squares=squares,
    )
    return StratumSeen(
        behaviour=stratum.behaviour,
        source=stratum.source,
        sampled_claims=stratum.sampled_claims,
        unchecked_claims=stratum.sampled_claims - right - wrong - cannot_be_told,
        found=found,
        claims_rate=estimating.of_claims(found),
        points_rate=estimating.of_points(found),
    )
