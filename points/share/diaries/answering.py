"""Answering: all trips of one's day, or none at all, by oneself or through staff; the reward is paid once, whatever."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import pricing
from points.ledger import budgets
from points.ledger.budgets import Payment
from points.share.diaries.codes import code_hash, code_of
from points.share.diaries.models import (
    TRIPS_MAX,
    DiaryInvitation,
    DiaryRound,
    DiaryTrip,
    HouseholdCars,
    InvitationState,
    RoundState,
    Sex,
    TripPurpose,
)
from points.share.survey.definition import Definition, definition_of
from server import audit
from server.access import Actor
from server.clock import business_day, day_start
from server.database import lock_name, new_id
from server.errors import Conflict, DomainError, NotFound
from server.notices.notices import tell
from server.paging import Page, decode, page_of
from server.people.residents import ConsentTextOutdated

# What a person is told before they answer, by the day from which this wording holds.
TEXT_VERSION = "2026-11-01"
TEXT_ZH = (
    "您被随机抽中，请如实填写指定一天的全部出行，无论采用何种方式，没有出行也请提交。是否参加完全自愿，"
    "积分固定，与填写内容无关。日记只用于估计全区绿色出行比例，调查结束后去除标识，个人记录按期删除；"
    "删除之前可随时撤回，已发积分不收回。"
)
TEXT_EN = (
    "You were drawn at random. Please write down every trip of the day given, whatever the mode; a day without trips is"
    " an answer too. Taking part is voluntary and the points are the same whatever you answer. The diary serves only to"
    " estimate the district's share of green travel; after the round it is cut off from you, and what you wrote is"
    " deleted some days later. Until then you may take it back at any time and keep the points."
)

# Hard bound on what one member of staff can write for others in a day.
RECORDS_PER_DAY_MAX = 60

_WAITING = (InvitationState.INVITED, InvitationState.REMINDED)


class DiaryNotYet(Conflict):
    """A diary is of the whole day, and so it is answered after the day."""

    code, title_zh, title_en = "diary-not-yet", "请在日记日结束后填写", "A diary is answered after its day"


class DiaryClosed(Conflict):
    """The days for answering are over."""

    code, title_zh, title_en = "diary-closed", "填写期限已过", "The days for answering are over"


class TripsOverlap(DomainError):
    """Two trips of one person share a moment."""

    code, status, title_zh, title_en = "diary-trips-overlap", 422, "出行时间互相重叠", "Two trips share a moment"
    constraints = ("diary_trip_no_overlap_excl",)


class ModeUnknown(DomainError):
    """A leg's mode is none of the round's definition."""

    code, status, title_zh, title_en = "diary-mode-unknown", 422, "出行方式不在口径之内", "There is no such mode"


class DiaryCodeUnknown(NotFound):
    """No invitation in the actor's scope has this code now."""

    code, title_zh, title_en = "diary-code-unknown", "邀请码无效", "No invitation has this code"


class TieNotDenied(DomainError):
    """Staff write neither for themselves nor for their household, and say so each time."""

    code, status, title_zh, title_en = (
        "diary-tie-not-denied",
        422,
        "须声明不是为本人或本人家庭成员代填",
        "State that the person is neither you nor of your household",
    )


class TooManyRecords(Conflict):
    """One member of staff writes for at most RECORDS_PER_DAY_MAX people a day."""

    code, title_zh, title_en = "too-many-diary-records", "今日代填次数已达上限", "No more diaries by you today"


@dataclass(frozen=True, slots=True)
class Trip:
    """One trip in minutes from the midnight that began the day; `legs` are modes in their order."""

    started_minute: int
    ended_minute: int
    purpose: TripPurpose
    legs: Sequence[str]
    distance_m: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole diary. No trips: none were made. `text_version` is the wording that the person was shown."""

    trips: Sequence[Trip]
    sex: Sex | None = None
    household_cars: HouseholdCars | None = None
    text_version: str | None = None


@dataclass(frozen=True, slots=True)
class OwnInvitation:
    """An invitation as its resident sees it, with the days on which it can be answered."""

    round_id: UUID
    name: str
    day: date
    answers_from: date
    answers_until: date
    state: InvitationState
    reward_points: int
    answered_at: datetime | None


@dataclass(frozen=True, slots=True)
class OwnDiary(OwnInvitation):
    """An invitation with what was answered, what may be, and the code for staff who write for the person."""

    code: str
    sex: Sex | None
    household_cars: HouseholdCars | None
    trips: Sequence[DiaryTrip]
    modes: Sequence[dict[str, str]]
    text_version: str = TEXT_VERSION
    text_zh: str = TEXT_ZH
    text_en: str = TEXT_EN


@dataclass(frozen=True, slots=True)
class LookedUp:
    """What staff see of an invitation whose code they were shown: nothing about the person."""

    day: date
    answers_from: date
    answers_until: date
    state: InvitationState
    modes: Sequence[dict[str, str]]
    text_zh: str = TEXT_ZH
    text_en: str = TEXT_EN


def list_own(session: Session, actor: Actor, *, limit: int, cursor: str | None) -> Page[OwnInvitation]:
    """The actor's invitations, newest round first. Raises BadCursor."""
    query = (
        sa.select(DiaryInvitation, DiaryRound)
        .join(DiaryRound, DiaryRound.id == DiaryInvitation.round_id)
        .where(DiaryInvitation.resident_id == actor.id)
        .order_by(DiaryInvitation.round_id.desc())
        .limit(limit + 1)
        .execution_options(populate_existing=True)
    )
    if cursor is not None:
        query = query.where(DiaryInvitation.round_id < decode(cursor, tuple[UUID])[0])
    rows = [_invitation(found, held) for found, held in session.execute(query)]
    return page_of(rows, limit, lambda row: (row.round_id,))


def read_own(session: Session, actor: Actor, round_id: UUID, *, data_key: bytes) -> OwnDiary:
    """The actor's own diary of a round. Raises NotFound for whoever was not drawn."""
    found = session.get(DiaryInvitation, (actor.id, round_id), populate_existing=True)
    if found is None:
        raise NotFound
    held = session.get_one(DiaryRound, round_id, populate_existing=True)
    trips = session.scalars(
        sa.select(DiaryTrip)
        .where(DiaryTrip.resident_id == actor.id, DiaryTrip.round_id == round_id)
        .order_by(DiaryTrip.position)
        .execution_options(populate_existing=True)
    ).all()
    shown = _invitation(found, held)
    return OwnDiary(
        **{name: getattr(shown, name) for name in OwnInvitation.__slots__},
        code=code_of(data_key, round_id, actor.id),
        sex=found.sex,
        household_cars=found.household_cars,
        trips=trips,
        modes=_modes(definition_of(session, held.definition_id)),
    )


def answer(
    session: Session, actor: Actor, round_id: UUID, given: Answer, *, data_key: bytes, now: datetime
) -> OwnDiary:
    """Put the actor's diary in the place of what was answered before, and pay the reward the first time.

    Raises NotFound, ConsentTextOutdated, DiaryNotYet, DiaryClosed, ModeUnknown, TripsOverlap.
    """
    _write(session, actor.id, round_id, given, recorded_by=None, now=now)
    return read_own(session, actor, round_id, data_key=data_key)


def withdraw(session: Session, actor: Actor, round_id: UUID, *, data_key: bytes, now: datetime) -> OwnDiary:
    """Decline, or take back what was answered: the trips are deleted, and points that were paid stay paid.

    Whoever changes their mind again may still answer in time. After the round has closed its wave holds nothing that
    leads to a person; then this deletes what is kept here. Raises NotFound.
    """
    states = (*_WAITING, InvitationState.ANSWERED)
    session.execute(
        sa.update(DiaryInvitation)
        .where(
            DiaryInvitation.resident_id == actor.id,
            DiaryInvitation.round_id == round_id,
            DiaryInvitation.state.in_(states),
        )
        .values(state=InvitationState.DECLINED, sex=None, household_cars=None, recorded_by=None, changed_at=_later(now))
    )
    session.execute(sa.delete(DiaryTrip).where(DiaryTrip.resident_id == actor.id, DiaryTrip.round_id == round_id))
    return read_own(session, actor, round_id, data_key=data_key)


def look_up(session: Session, actor: Actor, *, code: str, data_key: bytes) -> LookedUp:
    """The invitation of a person in the actor's scope who shows its code. Raises DiaryCodeUnknown."""
    found, held = _of_code(session, actor, code, data_key=data_key)
    shown = _invitation(found, held)
    return LookedUp(
        day=shown.day,
        answers_from=shown.answers_from,
        answers_until=shown.answers_until,
        state=shown.state,
        modes=_modes(definition_of(session, held.definition_id)),
    )


def record(
    session: Session,
    actor: Actor,
    *,
    code: str,
    given: Answer,
    denies_tie: bool,
    data_key: bytes,
    now: datetime,
) -> LookedUp:
    """Write down what a person in the actor's scope tells, who shows the code of their invitation.

    Accounts of staff and of residents are not linked, so a tie cannot be looked up: whoever writes denies it each time,
    and the trail keeps who wrote for whom. Raises DiaryCodeUnknown, TieNotDenied, TooManyRecords, and as `answer`.
    """
    if not denies_tie:
        raise TieNotDenied
    found, held = _of_code(session, actor, code, data_key=data_key)
    # One at a time for each member of staff, so that many at once do not pass the bound together.
    lock_name(session, f"diary-records:{actor.id}")
    written = sa.select(sa.func.count()).where(
        DiaryInvitation.recorded_by == actor.id, DiaryInvitation.changed_at >= day_start(business_day(now))
    )
    if (session.scalar(written) or 0) >= RECORDS_PER_DAY_MAX:
        raise TooManyRecords
    _write(session, found.resident_id, held.id, given, recorded_by=actor.id, now=now)
    audit.record(session, actor, "diary.record", str(held.id), now=now, resident=str(found.resident_id))
    return look_up(session, actor, code=code, data_key=data_key)


def sound_trips(definition: Definition, trips: Sequence[Trip]) -> list[Trip]:
    """The trips by their time. Raises ModeUnknown, TripsOverlap; ValueError for more than TRIPS_MAX."""
    if len(trips) > TRIPS_MAX:
        raise ValueError(f"at most {TRIPS_MAX} trips in a day")
    unknown = sorted({mode for trip in trips for mode in trip.legs} - set(definition.modes))
    if unknown:
        raise ModeUnknown(f"{definition.id} has no mode {unknown[0]!r}")
    ordered = sorted(trips, key=lambda trip: trip.started_minute)
    if any(later.started_minute < earlier.ended_minute for earlier, later in pairwise(ordered)):
        raise TripsOverlap
    return ordered


def _write(
    session: Session, resident_id: UUID, round_id: UUID, given: Answer, *, recorded_by: UUID | None, now: datetime
) -> None:
    if given.text_version not in (None, TEXT_VERSION):
        raise ConsentTextOutdated(current_text_version=TEXT_VERSION)
    invited = sa.exists().where(DiaryInvitation.resident_id == resident_id, DiaryInvitation.round_id == round_id)
    # Shared among those who answer; the closing waits for them, and they find it closed after it.
    held = session.scalar(
        sa.select(DiaryRound)
        .where(DiaryRound.id == round_id, invited)
        .with_for_update(read=True)
        .execution_options(populate_existing=True)
    )
    if held is None:
        raise NotFound
    trips = sound_trips(definition_of(session, held.definition_id), given.trips)
    reward_id = _mark_answered(session, held, resident_id, given, recorded_by=recorded_by, now=now)
    session.execute(sa.delete(DiaryTrip).where(DiaryTrip.resident_id == resident_id, DiaryTrip.round_id == round_id))
    rows = [
        {
            "resident_id": resident_id,
            "round_id": round_id,
            "position": position,
            "started_minute": trip.started_minute,
            "ended_minute": trip.ended_minute,
            "purpose": trip.purpose,
            "legs": list(trip.legs),
            "distance_m": trip.distance_m,
        }
        for position, trip in enumerate(trips, 1)
    ]
    if rows:
        session.execute(sa.insert(DiaryTrip), rows)
    if reward_id is not None:
        _reward(session, held, resident_id, reward_id, now=now)


def _mark_answered(
    session: Session,
    held: DiaryRound,
    resident_id: UUID,
    given: Answer,
    *,
    recorded_by: UUID | None,
    now: datetime,
) -> UUID | None:
    """Mark the invitation answered, if today is a day for it; the id of the reward if it is now to be paid.

    The first answer sets the id, a second one at the same moment waits here and finds it set. Raises DiaryNotYet,
    DiaryClosed.
    """
    today, reward_id = business_day(now), new_id()
    invitation = (DiaryInvitation.resident_id == resident_id, DiaryInvitation.round_id == held.id)
    if held.state is not RoundState.OPEN or today >= held.closes_on:
        raise DiaryClosed
    stands = session.scalar(
        sa.update(DiaryInvitation)
        .where(*invitation, DiaryInvitation.day.between(today - timedelta(days=held.answer_days), _before(today)))
        .values(
            state=InvitationState.ANSWERED,
            sex=given.sex,
            household_cars=given.household_cars,
            text_version=TEXT_VERSION,
            answered_at=sa.func.coalesce(DiaryInvitation.answered_at, now),
            changed_at=_later(now),
            recorded_by=recorded_by,
            transfer_id=sa.func.coalesce(DiaryInvitation.transfer_id, reward_id),
        )
        .returning(DiaryInvitation.transfer_id)
    )
    if stands is None:
        day = session.scalars(sa.select(DiaryInvitation.day).where(*invitation)).one()
        raise DiaryNotYet if day >= today else DiaryClosed
    return reward_id if stands == reward_id else None


def _reward(session: Session, held: DiaryRound, resident_id: UUID, reward_id: UUID, *, now: datetime) -> None:
    if held.account_id is None:
        raise AssertionError("an open round has a budget")
    budgets.pay(
        session,
        [Payment(resident_id, reward_id, held.reward_points, f"出行日记 · {held.name}")],
        account_id=held.account_id,
        expires_on=pricing.points_end_on(session, business_day(now)),
        now=now,
    )
    tell(
        session,
        [resident_id],
        kind="diary-thanks",
        subject=f"diary:{held.id}",
        title_zh=f"感谢填写出行日记，{held.reward_points} 积分已到账",
        title_en=f"Thank you for your travel diary; {held.reward_points} points are yours",
        now=now,
    )


def _of_code(session: Session, actor: Actor, code: str, *, data_key: bytes) -> tuple[DiaryInvitation, DiaryRound]:
    row = session.execute(
        sa.select(DiaryInvitation, DiaryRound)
        .join(DiaryRound, DiaryRound.id == DiaryInvitation.round_id)
        .where(DiaryInvitation.code_hash == code_hash(data_key, code), DiaryRound.state == RoundState.OPEN)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None or not actor.covers(row[0].community_code):
        raise DiaryCodeUnknown
    return row[0], row[1]


def _invitation(found: DiaryInvitation, held: DiaryRound) -> OwnInvitation:
    return OwnInvitation(
        round_id=held.id,
        name=held.name,
        day=found.day,
        answers_from=found.day + timedelta(days=1),
        answers_until=found.day + timedelta(days=held.answer_days),
        state=found.state,
        reward_points=held.reward_points,
        answered_at=found.answered_at,
    )


def _modes(definition: Definition) -> list[dict[str, str]]:
    """The modes to choose from, in the definition's order."""
    return [
        {"mode": mode.key, "title_zh": mode.title_zh, "title_en": mode.title_en} for mode in definition.modes.values()
    ]


def _later(now: datetime) -> sa.ColumnElement[datetime]:
    # Clocks of two servers differ by moments: nothing is changed before it was answered.
    return sa.func.greatest(now, sa.func.coalesce(DiaryInvitation.answered_at, now))


def _before(day: date) -> date:
    return day - timedelta(days=1)
