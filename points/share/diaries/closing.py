"""Closing a round: its answers become a wave that leads back to nobody; some days later the rows about people go."""

import secrets
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.share.diaries.models import (
    DiaryCell,
    DiaryInvitation,
    DiaryRound,
    DiaryTrip,
    InvitationState,
    RoundState,
)
from points.share.diaries.rounds import require_code_free
from points.share.survey.microdata import PersonRow, TripRow, WaveRows, write_wave
from points.share.survey.models import SurveyWave, WaveKind
from server.clock import business_day
from server.places.models import Confidence

ROUNDS_AT_ONCE_MAX = 20

# What a person of a diary wave is known by. No age, no day and no time of day: with the cell they would find somebody.
ATTRIBUTES = ("street", "age_band", "sex", "household_cars", "day_kind")
DISTANCE_STEP_M = 100
KEY_BYTES = 10


def rounds_to_close(session: Session, *, now: datetime) -> Sequence[UUID]:
    """Open rounds whose closing day has come, oldest first."""
    return session.scalars(
        sa.select(DiaryRound.id)
        .where(DiaryRound.state == RoundState.OPEN, DiaryRound.closes_on <= business_day(now))
        .order_by(DiaryRound.id)
        .limit(ROUNDS_AT_ONCE_MAX)
    ).all()


def close(session: Session, round_id: UUID, *, now: datetime) -> SurveyWave | None:
    """Close a round whose day has come and make a wave of it; None when another process did.

    Everybody drawn is a person of the wave, whoever did not answer without trips and `responded` false. Raises
    WaveCodeTaken.
    """
    # Held alone: whoever is answering at this moment is waited for, and comes into the wave.
    held = session.scalar(
        sa.select(DiaryRound)
        .where(
            DiaryRound.id == round_id, DiaryRound.state == RoundState.OPEN, DiaryRound.closes_on <= business_day(now)
        )
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if held is None:
        return None
    require_code_free(session, held.code)
    session.execute(
        sa.update(DiaryInvitation)
        .where(
            DiaryInvitation.round_id == round_id,
            DiaryInvitation.state.in_((InvitationState.INVITED, InvitationState.REMINDED)),
        )
        .values(state=InvitationState.EXPIRED)
    )
    _count_outcomes(session, round_id)
    wave = write_wave(session, _wave_of(session, held), imported_by=None, now=now)
    session.execute(
        sa.update(DiaryRound)
        .where(DiaryRound.id == round_id)
        .values(state=RoundState.CLOSED, closed_at=now, wave_id=wave.id)
    )
    return wave


def forget(session: Session, *, now: datetime) -> int:
    """Delete the rows about people of closed rounds whose days are over; the number of people. Cells and wave stay."""
    forgotten = session.scalars(
        sa.update(DiaryRound)
        .where(
            DiaryRound.state == RoundState.CLOSED,
            DiaryRound.forgotten_at.is_(None),
            sa.text("(closed_at AT TIME ZONE 'Asia/Shanghai')::date + kept_days <= :today").bindparams(
                sa.bindparam("today", business_day(now), sa.Date())
            ),
        )
        .values(forgotten_at=sa.func.greatest(now, DiaryRound.closed_at))
        .returning(DiaryRound.id)
    ).all()
    gone = session.execute(sa.delete(DiaryInvitation).where(DiaryInvitation.round_id.in_(forgotten)))
    return int(gone.rowcount)  # type: ignore[attr-defined]


def _count_outcomes(session: Session, round_id: UUID) -> None:
    def number_of(state: InvitationState) -> sa.ScalarSelect[int]:
        return (
            sa.select(sa.func.count())
            .where(
                DiaryInvitation.round_id == DiaryCell.round_id,
                DiaryInvitation.street_code == DiaryCell.street_code,
                DiaryInvitation.age_band == DiaryCell.age_band,
                DiaryInvitation.state == state,
            )
            .correlate(DiaryCell)
            .scalar_subquery()
        )

    session.execute(
        sa.update(DiaryCell)
        .where(DiaryCell.round_id == round_id)
        .values(
            answered=number_of(InvitationState.ANSWERED),
            declined=number_of(InvitationState.DECLINED),
            expired=number_of(InvitationState.EXPIRED),
        )
        .execution_options(synchronize_session=False)
    )


def _wave_of(session: Session, held: DiaryRound) -> WaveRows:
    """The wave of a round. Its keys are drawn here and written nowhere else, and its rows are in the keys' order."""
    invited = session.execute(
        sa.select(
            DiaryInvitation.resident_id,
            DiaryInvitation.street_code,
            DiaryInvitation.age_band,
            DiaryInvitation.day,
            DiaryInvitation.weight,
            DiaryInvitation.state,
            DiaryInvitation.sex,
            DiaryInvitation.household_cars,
        ).where(DiaryInvitation.round_id == held.id)
    ).all()
    key_of = {row.resident_id: secrets.token_hex(KEY_BYTES) for row in invited}
    persons = [
        PersonRow(
            key=key_of[row.resident_id],
            base_weight=row.weight,
            responded=row.state is InvitationState.ANSWERED,
            cluster=key_of[row.resident_id],
            stratum=f"{row.street_code}|{row.age_band}",
            street_code=row.street_code,
            attributes={
                "street": row.street_code,
                "age_band": row.age_band,
                "sex": row.sex or "",
                "household_cars": row.household_cars or "",
                "day_kind": _day_kind(row.day),
            },
        )
        for row in invited
    ]
    return WaveRows(
        code=held.code,
        year=held.first_on.year,
        name=held.name,
        kind=WaveKind.DIARY,
        first_on=held.first_on,
        last_on=held.last_on,
        definition_id=held.definition_id,
        frame=_frame_text(held),
        source=f"平台出行日记 {held.code}，按街道与年龄段随机抽样 · Own diaries of a random sample",
        confidence=Confidence.VERIFIED,
        attributes=ATTRIBUTES,
        persons=sorted(persons, key=lambda person: person.key),
        trips=sorted(_trips_of(session, held.id, key_of), key=lambda trip: (trip.person_key, trip.position)),
        seed=held.seed,
    )


def _trips_of(session: Session, round_id: UUID, key_of: dict[UUID, str]) -> list[TripRow]:
    """The trips with their legs, purpose and distance to the nearest hundred metres, numbered anew by person."""
    numbers: dict[UUID, int] = defaultdict(int)
    made = []
    for trip in session.scalars(
        sa.select(DiaryTrip)
        .where(DiaryTrip.round_id == round_id)
        .order_by(DiaryTrip.resident_id, DiaryTrip.position)
        .execution_options(populate_existing=True)
    ):
        numbers[trip.resident_id] += 1
        metres = trip.distance_m
        made.append(
            TripRow(
                person_key=key_of[trip.resident_id],
                position=numbers[trip.resident_id],
                legs=tuple(trip.legs),
                distance_m=None if metres is None else round(metres / DISTANCE_STEP_M) * DISTANCE_STEP_M,
                purpose=trip.purpose.value,
            )
        )
    return made


def _day_kind(day: date) -> str:
    """Whether a day is of the week or its end, by the calendar: shifted working days count as what they are called."""
    return "mon-fri" if day.weekday() < 5 else "sat-sun"


def _frame_text(held: DiaryRound) -> str:
    frame = held.frame
    return (
        f"平台注册居民 {frame.get('registered', 0)} 人中可抽取 {frame.get('in_frame', 0)} 人"
        f"（有社区和出生年份、账号启用、年满 {held.age_bands[0]} 岁）"
        f" · {frame.get('in_frame', 0)} of {frame.get('registered', 0)} registered residents: enabled, with a community"
        f" and a year of birth, aged {held.age_bands[0]} or more"
    )
