"""Checking in and signing out, by the code on the staff's screen, by paper, or by staff who scan the resident's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.attendance import codes
from campaigns.attendance.codes import CheckInCodeRefused, CodeUse, PaperCode, ResidentCode, ScreenCode, ShownCode
from campaigns.attendance.geofence import Point, distance_m
from campaigns.attendance.models import CheckIn, CheckInSlot, CheckInWay, PrintedCode, SlotKind, VolunteerDay
from campaigns.attendance.slots import SlotCancelled, slot_for
from campaigns.attendance.volunteering import add_minutes
from campaigns.drives.campaigns import campaign_for
from campaigns.drives.models import Campaign, CampaignState, Participation
from campaigns.drives.moves import UNDER_WAY, is_running
from server import audit
from server.access import Actor
from server.clock import business_day
from server.errors import Conflict, DomainError, NotFound
from server.paging import Page, decode, page_of
from server.people.models import Resident

# Whoever works to the end still has to find the screen.
SIGN_OUT_GRACE = timedelta(hours=1)

_NOT_SETTLED = (*UNDER_WAY, CampaignState.SETTLING)


class AlreadyCheckedIn(Conflict):
    """A resident checks in once at a slot."""

    code, title_zh, title_en = "already-checked-in", "您已在该时段签到", "You have checked in at this slot already"
    constraints = ("check_in_pkey",)


class SlotClosed(Conflict):
    """The slot is not open at this moment, or its campaign is not taking place."""

    code, title_zh, title_en = "slot-closed", "不在签到时间内", "The slot is not open now"


class SlotFull(Conflict):
    """All places of the slot are taken."""

    code, title_zh, title_en = "slot-full", "该时段名额已满", "All places of this slot are taken"


class NotTakingPart(Conflict):
    """Who checks in has joined the campaign first."""

    code, title_zh, title_en = "not-taking-part", "请先参加该活动", "Join the campaign first"


class LocationRequired(DomainError):
    """This slot lets people check in only near it, and asks the phone where it is."""

    code, status, title_zh, title_en = (
        "location-required",
        422,
        "该时段签到需要位置信息",
        "This slot needs the phone's location",
    )


class TooFarAway(Conflict):
    """The phone is outside the slot's circle. How far is not told, so that nobody can feel their way in."""

    code, title_zh, title_en = "too-far-away", "您不在签到地点附近", "You are not near the place"


class PrintedCodeUsed(Conflict):
    """A printed code is good once."""

    code, title_zh, title_en = "printed-code-used", "该签到码已被使用", "This code has been used"


class NotCheckedIn(Conflict):
    """Who signs out has signed in."""

    code, title_zh, title_en = "not-checked-in", "您未在该时段签到", "You have not checked in at this slot"


class AlreadySignedOut(Conflict):
    """A volunteer signs out once, and what staff set stands."""

    code, title_zh, title_en = "already-signed-out", "您已签退", "You have signed out already"


class NoSigningOut(Conflict):
    """Only volunteers sign out."""

    code, title_zh, title_en = "no-signing-out", "该时段无需签退", "This slot knows no signing out"


@dataclass(frozen=True, slots=True)
class CheckInSeen:
    """A check-in as staff read it: the person by nickname."""

    resident_id: UUID
    nickname: str | None
    slot_id: UUID
    way: CheckInWay
    checked_in_at: datetime
    signed_out_at: datetime | None
    minutes: int
    minutes_set_by: UUID | None


def check_in(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    text: str,
    *,
    place: Point | None,
    data_key: bytes,
    now: datetime,
) -> CheckIn:
    """Check the actor in with a code from the screen or from paper.

    `place` is used only where the slot has a geofence, and kept nowhere. Raises NotFound, CheckInCodeRefused,
    SlotCancelled, SlotClosed, LocationRequired, TooFarAway, NotTakingPart, PrintedCodeUsed, SlotFull, and
    AlreadyCheckedIn through the primary key.
    """
    campaign_for(session, actor, campaign_id)
    shown = codes.read(text)
    slot = _slot_of(session, campaign_id, shown, use=CodeUse.CHECK_IN, data_key=data_key, now=now)
    _require_near(slot, place)
    way = CheckInWay.PRINTED if isinstance(shown, PaperCode) else CheckInWay.ROTATING
    made = _write(session, actor.id, slot, way, by=None, now=now)
    if isinstance(shown, PaperCode):
        _consume(session, actor.id, shown, data_key=data_key, now=now)
    _take_place(session, slot)
    return made


def check_in_resident(
    session: Session, actor: Actor, campaign_id: UUID, slot_id: UUID, text: str, *, data_key: bytes, now: datetime
) -> CheckIn:
    """Check in the resident whose own code the actor, a member of staff, has scanned. Needs no location.

    Raises NotFound, CheckInCodeRefused, SlotCancelled, SlotClosed, NotTakingPart, SlotFull, AlreadyCheckedIn.
    """
    slot = slot_for(session, actor, campaign_id, slot_id)
    resident_id = _scanned(campaign_id, text, use=CodeUse.CHECK_IN, data_key=data_key, now=now)
    made = _write(session, resident_id, slot, CheckInWay.STAFF, by=actor.id, now=now)
    _take_place(session, slot)
    audit.record(session, actor, "check-in.scan", str(slot_id), now=now, resident=str(resident_id))
    return made


def sign_out(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    text: str,
    *,
    place: Point | None,
    data_key: bytes,
    now: datetime,
) -> CheckIn:
    """Sign the actor, a volunteer, out and count the minutes, up to an hour after the slot has closed.

    Raises NotFound, CheckInCodeRefused, SlotClosed, LocationRequired, TooFarAway, PrintedCodeUsed, NoSigningOut,
    NotCheckedIn, AlreadySignedOut.
    """
    campaign_for(session, actor, campaign_id)
    shown = codes.read(text)
    slot = _slot_of(session, campaign_id, shown, use=CodeUse.SIGN_OUT, data_key=data_key, now=now)
    _require_near(slot, place)
    signed_out = _sign_out(session, actor.id, slot, now=now)
    if isinstance(shown, PaperCode):
        _consume(session, actor.id, shown, data_key=data_key, now=now)
    return signed_out


def sign_out_resident(
    session: Session, actor: Actor, campaign_id: UUID, slot_id: UUID, text: str, *, data_key: bytes, now: datetime
) -> CheckIn:
    """Sign out the volunteer whose own code the actor, a member of staff, has scanned.

    Raises NotFound, CheckInCodeRefused, SlotClosed, NoSigningOut, NotCheckedIn, AlreadySignedOut.
    """
    slot = slot_for(session, actor, campaign_id, slot_id)
    resident_id = _scanned(campaign_id, text, use=CodeUse.SIGN_OUT, data_key=data_key, now=now)
    signed_out = _sign_out(session, resident_id, slot, now=now)
    audit.record(session, actor, "check-in.scan-out", str(slot_id), now=now, resident=str(resident_id))
    return signed_out


def own_code(
    session: Session, actor: Actor, campaign_id: UUID, *, use: CodeUse, data_key: bytes, now: datetime
) -> ShownCode:
    """The actor's own code for the staff of a campaign that the actor takes part in. Raises NotFound, NotTakingPart."""
    campaign_for(session, actor, campaign_id)
    if session.get(Participation, (actor.id, campaign_id)) is None:
        raise NotTakingPart
    return codes.resident_code(data_key, campaign_id, actor.id, use=use, now=now)


def remove(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    slot_id: UUID,
    resident_id: UUID,
    *,
    reason: str,
    now: datetime,
) -> None:
    """Strike out a check-in that was not true; its minutes and its place are free again. Raises NotFound, SlotClosed.

    Progress is derived, so it falls at once; what has been paid is taken back through the ledger.
    """
    slot = slot_for(session, actor, campaign_id, slot_id)
    if campaign_for(session, actor, campaign_id).state not in _NOT_SETTLED:
        raise SlotClosed
    struck = session.execute(
        sa.delete(CheckIn)
        .where(CheckIn.resident_id == resident_id, CheckIn.slot_id == slot_id)
        .returning(CheckIn.day, CheckIn.minutes)
    ).one_or_none()
    if struck is None:
        raise NotFound
    if struck.minutes:
        session.execute(
            sa.update(VolunteerDay)
            .where(VolunteerDay.resident_id == resident_id, VolunteerDay.day == struck.day)
            .values(minutes=VolunteerDay.minutes - struck.minutes)
        )
    session.execute(
        sa.update(CheckInSlot)
        .where(CheckInSlot.id == slot.id, CheckInSlot.capacity.is_not(None), CheckInSlot.taken > 0)
        .values(taken=CheckInSlot.taken - 1)
    )
    audit.record(session, actor, "check-in.remove", str(slot_id), now=now, resident=str(resident_id), reason=reason)


def list_check_ins(
    session: Session, actor: Actor, campaign_id: UUID, *, slot_id: UUID | None = None, limit: int, cursor: str | None
) -> Page[CheckInSeen]:
    """Who checked in at a campaign in the actor's scope, slot by slot. Raises NotFound, BadCursor."""
    campaign_for(session, actor, campaign_id)
    query = (
        sa.select(
            CheckIn.resident_id,
            Resident.nickname,
            CheckIn.slot_id,
            CheckIn.way,
            CheckIn.checked_in_at,
            CheckIn.signed_out_at,
            CheckIn.minutes,
            CheckIn.minutes_set_by,
        )
        .join(Resident, Resident.resident_id == CheckIn.resident_id, isouter=True)
        .where(CheckIn.campaign_id == campaign_id)
        .order_by(CheckIn.slot_id, CheckIn.resident_id)
        .limit(limit + 1)
    )
    if slot_id is not None:
        query = query.where(CheckIn.slot_id == slot_id)
    if cursor is not None:
        after = [sa.literal(each, sa.Uuid()) for each in decode(cursor, tuple[UUID, UUID])]
        query = query.where(sa.tuple_(CheckIn.slot_id, CheckIn.resident_id) > sa.tuple_(*after))
    rows = [CheckInSeen(*row) for row in session.execute(query)]
    return page_of(rows, limit, lambda row: (row.slot_id, row.resident_id))


def own_check_ins(session: Session, actor: Actor, campaign_id: UUID) -> Sequence[CheckIn]:
    """The actor's check-ins of one campaign, at most one for each of its slots. Raises NotFound."""
    campaign_for(session, actor, campaign_id)
    return session.scalars(
        sa.select(CheckIn)
        .where(CheckIn.resident_id == actor.id, CheckIn.campaign_id == campaign_id)
        .order_by(CheckIn.checked_in_at, CheckIn.slot_id)
    ).all()


def _slot_of(
    session: Session,
    campaign_id: UUID,
    shown: ScreenCode | ResidentCode | PaperCode,
    *,
    use: CodeUse,
    data_key: bytes,
    now: datetime,
) -> CheckInSlot:
    """The slot that a code from the screen or from paper is for, if the code holds. Raises CheckInCodeRefused."""
    slot_id: UUID | None = None
    if isinstance(shown, ScreenCode):
        if shown.use is use and codes.screen_code_holds(data_key, campaign_id, shown, now=now):
            slot_id = shown.slot_id
    elif isinstance(shown, PaperCode):
        code_hash = codes.printed_hash(data_key, shown.code)
        slot_id = session.scalar(sa.select(PrintedCode.slot_id).where(PrintedCode.code_hash == code_hash))
    slot = session.get(CheckInSlot, slot_id, populate_existing=True) if slot_id else None
    if slot is None or slot.campaign_id != campaign_id:
        raise CheckInCodeRefused
    return slot


def _scanned(campaign_id: UUID, text: str, *, use: CodeUse, data_key: bytes, now: datetime) -> UUID:
    """The resident whose own code staff scanned, if it holds. Raises CheckInCodeRefused."""
    shown = codes.read(text)
    if not isinstance(shown, ResidentCode) or not codes.resident_code_holds(
        data_key, campaign_id, shown, use=use, now=now
    ):
        raise CheckInCodeRefused
    return shown.resident_id


def _require_near(slot: CheckInSlot, place: Point | None) -> None:
    if slot.radius_m is None or slot.latitude is None or slot.longitude is None:
        return
    if place is None:
        raise LocationRequired
    if distance_m(place, Point(slot.latitude, slot.longitude)) > slot.radius_m:
        raise TooFarAway


def _write(
    session: Session, resident_id: UUID, slot: CheckInSlot, way: CheckInWay, *, by: UUID | None, now: datetime
) -> CheckIn:
    """Write the check-in if at this moment the slot is open, the campaign takes place and the resident takes part.

    Judged inside the write: a slot that is cancelled or a campaign that is ended meanwhile wins.
    """
    present = (
        sa.select(
            Participation.resident_id,
            CheckInSlot.id,
            CheckInSlot.campaign_id,
            sa.literal(way.value, sa.String),
            sa.literal(business_day(now), sa.Date),
            sa.literal(now, sa.DateTime(timezone=True)),
            sa.literal(by, sa.Uuid),
        )
        .join(Campaign, Campaign.id == CheckInSlot.campaign_id)
        .join(Participation, Participation.campaign_id == Campaign.id)
        .where(
            CheckInSlot.id == slot.id,
            CheckInSlot.cancelled_at.is_(None),
            CheckInSlot.opens_at <= now,
            CheckInSlot.closes_at > now,
            *is_running(now),
            Participation.resident_id == resident_id,
        )
    )
    columns = ["resident_id", "slot_id", "campaign_id", "way", "day", "checked_in_at", "checked_in_by"]
    made = session.scalars(sa.insert(CheckIn).from_select(columns, present).returning(CheckIn)).one_or_none()
    if made is not None:
        return made
    if session.get(Participation, (resident_id, slot.campaign_id)) is None:
        raise NotTakingPart
    if slot.cancelled_at is not None:
        raise SlotCancelled
    raise SlotClosed(opens_at=slot.opens_at.isoformat(), closes_at=slot.closes_at.isoformat())


def _consume(session: Session, resident_id: UUID, shown: PaperCode, *, data_key: bytes, now: datetime) -> None:
    used = session.scalar(
        sa.update(PrintedCode)
        .where(PrintedCode.code_hash == codes.printed_hash(data_key, shown.code), PrintedCode.used_by.is_(None))
        .values(used_by=resident_id, used_at=now)
        .returning(PrintedCode.used_at)
    )
    if used is None:
        raise PrintedCodeUsed


def _take_place(session: Session, slot: CheckInSlot) -> None:
    """Count one more at a slot with a capacity: last, because everybody at the door shares this row."""
    if slot.capacity is None:
        return
    taken = session.scalar(
        sa.update(CheckInSlot)
        .where(CheckInSlot.id == slot.id, CheckInSlot.taken < CheckInSlot.capacity)
        .values(taken=CheckInSlot.taken + 1)
        .returning(CheckInSlot.taken)
    )
    if taken is None:
        raise SlotFull


def _sign_out(session: Session, resident_id: UUID, slot: CheckInSlot, *, now: datetime) -> CheckIn:
    if slot.kind is not SlotKind.VOLUNTEER or slot.minutes_max is None:
        raise NoSigningOut
    if not slot.opens_at <= now < slot.closes_at + SIGN_OUT_GRACE:
        raise SlotClosed(opens_at=slot.opens_at.isoformat(), closes_at=slot.closes_at.isoformat())
    own = (CheckIn.resident_id == resident_id, CheckIn.slot_id == slot.id)
    signed_out = session.scalars(
        sa.update(CheckIn)
        .where(*own, CheckIn.signed_out_at.is_(None), CheckIn.minutes_set_by.is_(None))
        .values(signed_out_at=now)
        .returning(CheckIn)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if signed_out is None:
        raise NotCheckedIn if session.get(CheckIn, (resident_id, slot.id)) is None else AlreadySignedOut
    worked = min(int((now - signed_out.checked_in_at).total_seconds()) // 60, slot.minutes_max)
    signed_out.minutes = add_minutes(session, resident_id, signed_out.day, worked)
    session.flush()
    return signed_out
