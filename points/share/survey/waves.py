"""Stored waves: reading them, undoing one that nothing published rests on, and locking those that something does."""

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.share.survey.microdata import STATEMENT_TIMEOUT
from points.share.survey.models import SurveyHousehold, SurveyPerson, SurveyTrip, SurveyWave, WaveState
from server import audit
from server.access import Actor
from server.errors import Conflict, NotFound
from server.paging import Page, decode, page_of


class WaveLocked(Conflict):
    """A published release rests on the wave: a correction is a new wave and a new release."""

    code, title_zh, title_en = (
        "wave-locked",
        "已有公布的结果以此调查批次为依据, 不能撤销",
        "A published release rests on this wave; it cannot be undone",
    )


class WaveUndone(Conflict):
    """The wave has been undone, and its people and trips are gone."""

    code, title_zh, title_en = "wave-undone", "调查批次已撤销", "The wave has been undone"


def list_waves(session: Session, *, limit: int, cursor: str | None) -> Page[SurveyWave]:
    """Every wave, undone ones too, the latest first."""
    query = sa.select(SurveyWave).order_by(SurveyWave.first_on.desc(), SurveyWave.id.desc())
    if cursor is not None:
        first_on, wave_id = decode(cursor, tuple[date, UUID])
        query = query.where(sa.tuple_(SurveyWave.first_on, SurveyWave.id) < (first_on, wave_id))
    rows = session.scalars(query.limit(limit + 1)).all()
    return page_of(rows, limit, lambda wave: (wave.first_on, wave.id))


def wave_of(session: Session, wave_id: UUID) -> SurveyWave:
    """A wave in whatever state. Raises NotFound."""
    wave = session.get(SurveyWave, wave_id)
    if wave is None:
        raise NotFound
    return wave


def wave_coded(session: Session, code: str) -> SurveyWave:
    """The accepted wave of a code. Raises NotFound."""
    wave = session.scalar(sa.select(SurveyWave).where(SurveyWave.code == code, SurveyWave.state == WaveState.ACCEPTED))
    if wave is None:
        raise NotFound(f"There is no wave {code!r}")
    return wave


def undo(session: Session, actor: Actor | None, wave_id: UUID, *, now: datetime) -> SurveyWave:
    """Take a wave back: its people and trips are deleted, a note of it stays, and its code is free again.

    One guarded statement decides against a release that locks it at this moment. Actor None: an operator's command.

    Raises NotFound, WaveLocked, WaveUndone.
    """
    done = session.scalar(
        sa.update(SurveyWave)
        .where(SurveyWave.id == wave_id, SurveyWave.state == WaveState.ACCEPTED, ~SurveyWave.locked)
        .values(state=WaveState.UNDONE, undone_at=now, undone_by=actor.id if actor else None)
        .returning(SurveyWave.code)
    )
    if done is None:
        wave = session.get(SurveyWave, wave_id, populate_existing=True)
        if wave is None:
            raise NotFound
        raise WaveLocked if wave.locked else WaveUndone
    session.execute(sa.text(STATEMENT_TIMEOUT))
    for table in (SurveyTrip, SurveyPerson, SurveyHousehold):
        session.execute(sa.delete(table).where(table.wave_id == wave_id))
    audit.record(session, actor, "survey-wave-undo", f"survey-wave:{wave_id}", now=now, code=done)
    return session.get_one(SurveyWave, wave_id, populate_existing=True)


def lock(session: Session, wave_ids: Sequence[UUID]) -> None:
    """Keep waves for good, because a release that rests on them is being published. Raises WaveUndone."""
    locked = session.scalars(
        sa.update(SurveyWave)
        .where(SurveyWave.id.in_(sorted(wave_ids)), SurveyWave.state == WaveState.ACCEPTED)
        .values(locked=True)
        .returning(SurveyWave.id)
    ).all()
    if len(locked) != len(set(wave_ids)):
        raise WaveUndone
