"""Hidden spot-checks: which drops are looked at again, and what becomes of those that fail.

A drop is recorded; a job draws; a drop that was drawn is sampled, then passed, failed, or unchecked when nobody came in
time. Whether a drop is drawn is a keyed hash of its activity's id, which our server makes, under a key that no client
has: nobody can see it beforehand, influence it, or draw again. Nothing is drawn while a request is answered, so that no
answer, and not the time it takes, can tell. Staff see the checks of their scope alone, and never those of a drop that
they graded themselves or that their own household brought.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from points.earning import counts, releasing
from points.earning.claims import REASON_TEXTS, Reason
from points.earning.models import Activity, Behaviour, Grade, Outcome
from points.waste.drops import plans
from points.waste.drops.dropping import SOURCES
from points.waste.drops.models import CheckState, DropPath, SpotCheck, SpotCheckMark
from points.waste.drops.plans import DropPlan
from points.waste.sites import opening
from points.waste.sites.opening import Sites
from server import audit
from server.access import Actor
from server.crypto import keyed_hash
from server.database import new_id
from server.errors import Conflict, NotFound
from server.notices import notices
from server.paging import Page, decode, page_of
from server.people import staff_links
from server.people.models import HouseholdMember, StaffLink
from server.people.staff_links import ServesOwnHousehold, StaffUnlinked

# A transaction is over within a minute or two (statement and idle time-outs), so what was recorded longer ago than this
# and was not there at the last drawing never comes.
LOOK_BACK = timedelta(minutes=30)
EXPIRED_AT_ONCE_MAX = 1000
DRAWN_FROM_AT_ONCE = 5000
# What a round sorts by time is bounded as well, so that a backlog of days is not sorted anew in each round.
DRAWN_SPAN = timedelta(hours=1)

_PURPOSE = "spot-check"
_PATHS = {source: path for path, source in SOURCES.items()}


class CheckAnswered(Conflict):
    """The check was answered, or its time is over."""

    code, title_zh, title_en = (
        "check-answered",
        "该抽查已有结果或已过期",
        "This check has been answered, or its time is over",
    )


def is_sampled(data_key: bytes, activity_id: UUID, probability: Decimal) -> bool:
    """Whether the hash of the activity's id, as a number from 0 to 1, lies below the probability.

    HMAC-SHA256 under a key of its own purpose; 64 bits of it are used.
    """
    drawn = int.from_bytes(keyed_hash(data_key, _PURPOSE, str(activity_id))[:8])
    return drawn < int(probability * (1 << 64))


@dataclass(frozen=True, slots=True)
class DrawingRound:
    """One round of a drawing: from which instant of recording it went on, what it drew, and whether that was all."""

    since: datetime
    checks: int
    more: bool


def begin_drawing(session: Session) -> datetime:
    """Begin to draw: up to which instant of recording, which the rounds are given.

    The mark goes back by LOOK_BACK, for what was not committed yet when it was last passed. Where the rounds stop
    half-way, the next drawing goes back from there.
    """
    to: datetime = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    mark = session.scalar(sa.select(SpotCheckMark.drawn_to))
    _move_mark(session, (to if mark is None else min(mark, to)) - LOOK_BACK)
    return to


def draw(session: Session, *, to: datetime, data_key: bytes, now: datetime) -> DrawingRound:
    """Draw from at most DRAWN_FROM_AT_ONCE drops after the mark, and those recorded with the last, and move the mark.

    The mark stands in the same transaction as the checks, so a round that fails is done again and none is left out.
    Held drops are drawn from as well: they may still be paid. A bag is drawn by the record that was paid. Drawing twice
    draws the same.
    """
    since: datetime = session.scalars(sa.select(SpotCheckMark.drawn_to)).one()
    until = min(since + DRAWN_SPAN, to)
    known, sites = plans.read(session), opening.current(session)
    rows = _recorded(session, since, until)
    checks = [check for row in rows if (check := _check_of(row, known, sites, data_key, now)) is not None]
    drawn = 0
    if checks:
        made = session.scalars(insert(SpotCheck).on_conflict_do_nothing().returning(SpotCheck.id), checks)
        drawn = len(made.all())
    reached = until if len(rows) < DRAWN_FROM_AT_ONCE else rows[-1].recorded_at
    _move_mark(session, max(reached, since))
    return DrawingRound(since, drawn, more=reached < to)


def _move_mark(session: Session, to: datetime) -> None:
    moved = insert(SpotCheckMark).values(one=True, drawn_to=to)
    session.execute(moved.on_conflict_do_update(index_elements=["one"], set_={"drawn_to": to}))


def _recorded(session: Session, since: datetime, until: datetime) -> Sequence[Any]:
    wanted = sa.select(
        Activity.recorded_at,
        Activity.resident_id,
        Activity.id,
        Activity.mode,
        Activity.grade,
        Activity.source,
        Activity.site,
        Activity.device,
        Activity.staff_id,
        Activity.community_code,
        Activity.business_day,
        Activity.started_at,
    ).where(
        Activity.recorded_at > since,
        Activity.recorded_at <= until,
        Activity.behaviour == Behaviour.SORTING,
        Activity.outcome.in_([Outcome.AWARDED, Outcome.HELD]),
        Activity.source != releasing.RESTORED,  # it was looked at, and then given back by a person
    )
    # With what was recorded in the same instant as the last one, or the mark would pass it by.
    return session.execute(wanted.order_by(Activity.recorded_at).fetch(DRAWN_FROM_AT_ONCE, with_ties=True)).all()


def _check_of(row: Any, known: list[DropPlan], sites: Sites, data_key: bytes, now: datetime) -> dict[str, Any] | None:
    path = DropPath.SMART_BIN if row.grade is Grade.PARTNER_SIGNED else _PATHS.get(row.source)
    plan = plans.on(known, row.business_day)
    if path is None or plan is None:
        return None
    site = opening.of_activity(sites, row)
    probability = plan.probability(path, None if site is None else site.form)
    if not is_sampled(data_key, row.id, probability):
        return None
    return {
        "resident_id": row.resident_id,
        "activity_id": row.id,
        "id": new_id(),
        "path": path,
        "plan_id": plan.id,
        "probability": probability,
        "community_code": row.community_code if site is None else site.community_code,
        "site": row.site or "",
        "category": row.mode,
        "business_day": row.business_day,
        "dropped_at": row.started_at,
        "staff_id": row.staff_id,
        "sampled_at": now,
        "due_at": now + timedelta(hours=plan.check_within_hours),
    }


def list_checks(
    session: Session, actor: Actor, *, state: CheckState, limit: int, cursor: str | None
) -> Page[SpotCheck]:
    """The checks of the actor's scope in one state, oldest first. Raises StaffUnlinked, BadCursor."""
    wanted = _visible(session, actor).where(SpotCheck.state == state).order_by(SpotCheck.id).limit(limit + 1)
    if cursor is not None:
        wanted = wanted.where(SpotCheck.id > decode(cursor, tuple[UUID])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.id,))


def _visible(session: Session, actor: Actor) -> sa.Select[SpotCheck]:
    """The checks of the actor's scope, without drops that they graded, and those of their own household."""
    if session.get(StaffLink, actor.id, populate_existing=True) is None:
        raise StaffUnlinked
    own = sa.select(StaffLink.resident_id).where(StaffLink.staff_id == actor.id, StaffLink.resident_id.is_not(None))
    homes = sa.select(HouseholdMember.household_id).where(HouseholdMember.resident_id.in_(own))
    living = sa.select(HouseholdMember.resident_id).where(HouseholdMember.household_id.in_(homes))
    return sa.select(SpotCheck).where(
        SpotCheck.community_code.startswith(actor.division or "-"),
        sa.or_(SpotCheck.staff_id.is_(None), SpotCheck.staff_id.not_in(staff_links.accounts_of(session, actor.id))),
        SpotCheck.resident_id.not_in(own.union(living)),
    )


def answer(session: Session, actor: Actor, check_id: UUID, *, passed: bool, remark: str, now: datetime) -> SpotCheck:
    """Write what the actor found. A drop that failed loses its points by a reversal, and its resident is told why.

    Raises NotFound for what the actor may not see, StaffUnlinked, CheckAnswered.
    """
    visible = session.scalar(_visible(session, actor).where(SpotCheck.id == check_id))
    if visible is None:
        raise NotFound
    try:
        staff_links.require_may_serve(session, actor.id, visible.resident_id, now=now)
    except ServesOwnHousehold as error:
        raise NotFound from error  # to say so would tell that the drop was drawn
    found = session.scalars(
        sa.update(SpotCheck)
        .where(
            SpotCheck.resident_id == visible.resident_id,
            SpotCheck.activity_id == visible.activity_id,
            SpotCheck.state == CheckState.SAMPLED,
            SpotCheck.due_at > now,
        )
        .values(
            state=CheckState.PASSED if passed else CheckState.FAILED,
            decided_by=actor.id,
            decided_at=now,
            remark=remark,
        )
        .returning(SpotCheck)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise CheckAnswered
    subject = f"activity:{found.activity_id}"
    audit.record(session, actor, "spot-check.answer", subject, now=now, check=str(found.id), passed=passed)
    if not passed:
        _take_back(session, found, now=now)
    return found


def _take_back(session: Session, check: SpotCheck, *, now: datetime) -> None:
    drop = (check.resident_id, check.activity_id)
    outcome = session.scalar(sa.select(Activity.outcome).where(Activity.resident_id == drop[0], Activity.id == drop[1]))
    refused = outcome is Outcome.HELD and _refused(session, *drop)
    if not refused and not _revoked(session, *drop, now=now):
        return  # somebody refused it or took it back meanwhile
    title_zh, title_en = REASON_TEXTS[Reason.SPOT_CHECK_FAILED]
    notices.tell(
        session,
        [check.resident_id],
        kind="spot-check-failed",
        subject=f"activity:{check.activity_id}",
        title_zh=f"分类投放: {title_zh}, 可以申诉",
        title_en=f"Your drop: {title_en[0].lower()}{title_en[1:]}; you can appeal",
        now=now,
    )


def _refused(session: Session, resident_id: UUID, activity_id: UUID) -> bool:
    """Whether the drop was still held, and is refused now."""
    try:
        releasing.refuse(session, resident_id, activity_id, reason=Reason.SPOT_CHECK_FAILED)
    except releasing.NotHeld:
        return False
    return True


def _revoked(session: Session, resident_id: UUID, activity_id: UUID, *, now: datetime) -> bool:
    """Whether the drop was paid, and is taken back now."""
    try:
        counts.revoke(
            session, resident_id, activity_id, why="spot-check-failed", reason=Reason.SPOT_CHECK_FAILED, now=now
        )
    except counts.AlreadyRevoked:
        return False
    return True


def expire(session: Session, *, now: datetime) -> int:
    """Mark checks whose time is over as unchecked, at most EXPIRED_AT_ONCE_MAX at a time; their number."""
    late = (
        sa.select(SpotCheck.id)
        .where(SpotCheck.state == CheckState.SAMPLED, SpotCheck.due_at <= now)
        .order_by(SpotCheck.id)
        .limit(EXPIRED_AT_ONCE_MAX)
    )
    expired = session.execute(
        sa.update(SpotCheck)
        .where(SpotCheck.id.in_(late), SpotCheck.state == CheckState.SAMPLED)
        .values(state=CheckState.UNCHECKED, decided_at=now)
    )
    return int(expired.rowcount)  # type: ignore[attr-defined]
