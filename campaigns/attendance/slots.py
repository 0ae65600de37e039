"""Slots: where and when residents can check in, as staff arrange them; and the codes for a slot's screen and paper."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.attendance import codes
from campaigns.attendance.codes import CodeUse, ShownCode
from campaigns.attendance.models import CheckInSlot, PrintedCode, SlotKind
from campaigns.drives.campaigns import campaign_for
from campaigns.drives.models import Campaign, CampaignState
from campaigns.drives.moves import UNDER_WAY
from server import audit
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, DomainError, NotFound, PreconditionFailed
from server.paging import Page, decode, page_of

SLOTS_MAX = 500
SHEET_CODES_MAX = 500
PRINTED_CODES_MAX = 5_000
SPAN_MAX = timedelta(hours=24)

ARRANGED_IN = (CampaignState.DRAFT, *UNDER_WAY)


class SlotOutsideCampaign(DomainError):
    """A slot lies within the days of its campaign and lasts at most a day."""

    code, status, title_zh, title_en = (
        "slot-outside-campaign",
        422,
        "签到时段须在活动日期之内, 且不超过 24 小时",
        "A slot lies within the campaign's days and lasts at most 24 hours",
    )
    constraints = ("check_in_slot_span_check",)


class SlotKindMismatch(DomainError):
    """A volunteer slot says how many minutes it can be worth; a visit has none."""

    code, status, title_zh, title_en = (
        "slot-kind-mismatch",
        422,
        "志愿时段须填最长分钟数, 其他时段不填",
        "A volunteer slot has minutes_max, a visit has none",
    )
    constraints = ("check_in_slot_volunteer_check",)


class CampaignNotArrangeable(Conflict):
    """Slots are arranged before and while a campaign runs."""

    code, title_zh, title_en = (
        "campaign-not-arrangeable",
        "活动已结束, 不能再安排签到",
        "The campaign has ended; its slots stand",
    )


class SlotCancelled(Conflict):
    """Nobody checks in any more at a cancelled slot; who was there stays counted."""

    code, title_zh, title_en = "slot-cancelled", "该签到时段已取消", "This slot was cancelled"


class TooManySlots(Conflict):
    """A campaign has at most SLOTS_MAX slots."""

    code, title_zh, title_en = "too-many-slots", "签到时段数量已达上限", "The campaign has as many slots as it can have"


class TooManyPrintedCodes(Conflict):
    """A slot has at most PRINTED_CODES_MAX printed codes."""

    code, title_zh, title_en = (
        "too-many-printed-codes",
        "该时段打印签到码数量已达上限",
        "The slot has as many printed codes as it can have",
    )


class CapacityTaken(Conflict):
    """More people have checked in than the new capacity would hold, or a slot without one was to get one."""

    code, title_zh, title_en = (
        "capacity-taken",
        "名额不能低于已签到人数, 也不能事后设置",
        "A capacity is set with the slot and never below the people there",
    )
    constraints = ("check_in_slot_taken_check",)


@dataclass(frozen=True, slots=True)
class SlotTerms:
    """Where and when. With a geofence latitude, longitude and `radius_m` are all given, otherwise all None."""

    kind: SlotKind
    site_name: str
    opens_at: datetime
    closes_at: datetime
    latitude: float | None
    longitude: float | None
    radius_m: int | None
    minutes_max: int | None
    capacity: int | None


@dataclass(frozen=True, slots=True)
class Sheet:
    """Printed codes, readable this once: the database keeps only their hashes."""

    title: str
    site_name: str
    opens_at: datetime
    closes_at: datetime
    codes: tuple[str, ...]


def create(session: Session, actor: Actor, campaign_id: UUID, terms: SlotTerms, *, now: datetime) -> CheckInSlot:
    """Arrange a slot of a campaign in the actor's scope.

    Raises NotFound, CampaignNotArrangeable, SlotOutsideCampaign, SlotKindMismatch, TooManySlots.
    """
    campaign = campaign_for(session, actor, campaign_id)
    _check(campaign, terms)
    # Two at once may make one slot too many; the limit is there against thousands.
    if (session.scalar(sa.select(sa.func.count()).where(CheckInSlot.campaign_id == campaign_id)) or 0) >= SLOTS_MAX:
        raise TooManySlots
    slot = CheckInSlot(
        id=new_id(),
        campaign_id=campaign_id,
        taken=0,
        version=1,
        created_by=actor.id,
        created_at=now,
        cancelled_at=None,
        **_columns(terms),
    )
    session.add(slot)
    session.flush()
    audit.record(session, actor, "check-in-slot.create", str(slot.id), now=now, campaign=str(campaign_id))
    return slot


def edit(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    slot_id: UUID,
    changes: Mapping[str, Any],
    *,
    version: int,
    now: datetime,
) -> CheckInSlot:
    """Change a slot, given the version that the change is based on. Its kind stays.

    Raises NotFound, SlotCancelled, PreconditionFailed, CampaignNotArrangeable, SlotOutsideCampaign, CapacityTaken.
    """
    slot = slot_for(session, actor, campaign_id, slot_id)
    if slot.cancelled_at is not None:
        raise SlotCancelled
    terms = SlotTerms(**{name: changes.get(name, getattr(slot, name)) for name in SlotTerms.__slots__})
    _check(campaign_for(session, actor, campaign_id), terms)
    # Those who came before there was a capacity were not counted.
    if slot.capacity is None and terms.capacity is not None:
        raise CapacityTaken
    edited = session.scalars(
        sa.update(CheckInSlot)
        .where(CheckInSlot.id == slot_id, CheckInSlot.version == version, CheckInSlot.cancelled_at.is_(None))
        # Without a capacity nobody is counted.
        .values(**_columns(terms), version=version + 1, **({"taken": 0} if terms.capacity is None else {}))
        .returning(CheckInSlot)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if edited is None:
        raise PreconditionFailed
    audit.record(session, actor, "check-in-slot.edit", str(slot_id), now=now, changed=sorted(changes))
    return edited


def cancel(session: Session, actor: Actor, campaign_id: UUID, slot_id: UUID, *, now: datetime) -> CheckInSlot:
    """Cancel a slot: nobody checks in there any more, and who was there stays counted.

    Raises NotFound, SlotCancelled.
    """
    slot_for(session, actor, campaign_id, slot_id)
    cancelled = session.scalars(
        sa.update(CheckInSlot)
        .where(CheckInSlot.id == slot_id, CheckInSlot.cancelled_at.is_(None))
        .values(cancelled_at=now, version=CheckInSlot.version + 1)
        .returning(CheckInSlot)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if cancelled is None:
        raise SlotCancelled
    audit.record(session, actor, "check-in-slot.cancel", str(slot_id), now=now)
    return cancelled


def slot_for(session: Session, actor: Actor, campaign_id: UUID, slot_id: UUID) -> CheckInSlot:
    """A slot of a campaign that the actor may see. Raises NotFound."""
    campaign_for(session, actor, campaign_id)
    slot = session.get(CheckInSlot, slot_id, populate_existing=True)
    if slot is None or slot.campaign_id != campaign_id:
        raise NotFound
    return slot


def list_slots(
    session: Session, actor: Actor, campaign_id: UUID, *, limit: int, cursor: str | None
) -> Page[CheckInSlot]:
    """A campaign's slots in the order of their opening. Raises NotFound, BadCursor."""
    campaign_for(session, actor, campaign_id)
    query = sa.select(CheckInSlot).where(CheckInSlot.campaign_id == campaign_id)
    if cursor is not None:
        opens_at, last_id = decode(cursor, tuple[datetime, UUID])
        after = sa.tuple_(sa.literal(opens_at, sa.DateTime(timezone=True)), sa.literal(last_id, sa.Uuid()))
        query = query.where(sa.tuple_(CheckInSlot.opens_at, CheckInSlot.id) > after)
    rows = session.scalars(query.order_by(CheckInSlot.opens_at, CheckInSlot.id).limit(limit + 1)).all()
    return page_of(rows, limit, lambda row: (row.opens_at, row.id))


def screen_code(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    slot_id: UUID,
    *,
    use: CodeUse,
    data_key: bytes,
    now: datetime,
) -> ShownCode:
    """The rotating code that staff show at a slot. Raises NotFound, SlotCancelled."""
    if slot_for(session, actor, campaign_id, slot_id).cancelled_at is not None:
        raise SlotCancelled
    return codes.screen_code(data_key, campaign_id, slot_id, use=use, now=now)


def print_codes(
    session: Session, actor: Actor, campaign_id: UUID, slot_id: UUID, *, count: int, data_key: bytes, now: datetime
) -> Sheet:
    """Make `count` (1 to SHEET_CODES_MAX) one-use codes for a sheet of paper.

    Raises NotFound, SlotCancelled, CampaignNotArrangeable, TooManyPrintedCodes.
    """
    if not 1 <= count <= SHEET_CODES_MAX:
        raise ValueError(f"a sheet has 1 to {SHEET_CODES_MAX} codes")
    slot = slot_for(session, actor, campaign_id, slot_id)
    if slot.cancelled_at is not None:
        raise SlotCancelled
    campaign = campaign_for(session, actor, campaign_id)
    if campaign.state not in ARRANGED_IN:
        raise CampaignNotArrangeable
    printed = session.scalar(sa.select(sa.func.count()).where(PrintedCode.slot_id == slot_id)) or 0
    if printed + count > PRINTED_CODES_MAX:
        raise TooManyPrintedCodes
    made = tuple(codes.new_printed_code() for _ in range(count))
    session.execute(
        sa.insert(PrintedCode),
        [
            {
                "code_hash": codes.printed_hash(data_key, code),
                "slot_id": slot_id,
                "printed_by": actor.id,
                "printed_at": now,
            }
            for code in made
        ],
    )
    audit.record(session, actor, "check-in-slot.print", str(slot_id), now=now, codes=count)
    return Sheet(campaign.title, slot.site_name, slot.opens_at, slot.closes_at, made)


def _check(campaign: Campaign, terms: SlotTerms) -> None:
    if campaign.state not in ARRANGED_IN:
        raise CampaignNotArrangeable
    last = terms.closes_at - timedelta(microseconds=1)
    inside = campaign.starts_on <= business_day(terms.opens_at) and business_day(last) <= campaign.ends_on
    if not inside or not timedelta() < terms.closes_at - terms.opens_at <= SPAN_MAX:
        raise SlotOutsideCampaign
    if (terms.kind is SlotKind.VOLUNTEER) != (terms.minutes_max is not None):
        raise SlotKindMismatch


def _columns(terms: SlotTerms) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(terms, name) for name in SlotTerms.__slots__}
    values["site_name"] = terms.site_name.strip()
    return values
