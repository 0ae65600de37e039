"""The programmes of the district's plan, their targets, and the figures of those that are only tracked."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.orm import Session

from campaigns.creation import rubrics
from campaigns.creation.models import IndicatorFigure, Programme, ProgrammeTarget, Rubric, RubricState
from campaigns.creation.rubric_entries import CreationDataError, ProgrammesFile, RubricFile
from server import audit
from server.access import Actor
from server.clock import business_day
from server.database import lock_name
from server.errors import Conflict, DomainError, NotFound
from server.paging import Page, decode, page_of
from server.places.models import Confidence


class ProgrammeHasNoIndicator(Conflict):
    """The programme takes applications; its progress is counted, not recorded."""

    code, title_zh, title_en = "programme-has-no-indicator", "该创建项目没有跟踪指标", "This programme has no indicator"


class FigureInFuture(DomainError):
    """A figure is of a day that has come."""

    code, status, title_zh, title_en = "figure-in-future", 422, "数据日期不能晚于今天", "The day has not come yet"


@dataclass(frozen=True, slots=True)
class ProgrammeDetail:
    """A programme with its targets by year, the rubric that applications begin under now, and its newest figure."""

    programme: Programme
    targets: Sequence[ProgrammeTarget]
    rubric: Rubric | None
    figure: IndicatorFigure | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading did, in numbers of rows."""

    programmes: int
    targets: int
    rubrics_added: int
    rubrics_unchanged: int


def load(session: Session, file: ProgrammesFile, files: Sequence[tuple[RubricFile, bytes]], *, now: datetime) -> Loaded:
    """Bring programmes and targets to the data files, and add the rubrics that are not there; twice changes nothing.

    A rubric goes into force unless the district has a later revision. Raises CreationDataError for a file that differs
    from the version loaded under its revision.
    """
    # Two operators at once would both find a rubric missing and add it.
    lock_name(session, "creation")
    for position, programme in enumerate(file.programmes, 1):
        _write(session, Programme, ("code",), {**msgspec.structs.asdict(programme), "position": position})
    for target in file.targets:
        values = msgspec.structs.asdict(target)
        _write(
            session, ProgrammeTarget, ("programme_code", "year"), {"programme_code": values.pop("programme"), **values}
        )
    added = sum(_load_rubric(session, rubric, sha256, now) for rubric, sha256 in files)
    return Loaded(len(file.programmes), len(file.targets), added, len(files) - added)


def _write(session: Session, kind: Any, key: tuple[str, ...], values: dict[str, Any]) -> None:
    rest = {name: value for name, value in values.items() if name not in key}
    session.execute(insert(kind).values(**values).on_conflict_do_update(index_elements=list(key), set_=rest))


def _load_rubric(session: Session, file: RubricFile, sha256: bytes, now: datetime) -> bool:
    """Add the rubric of a file if it is not there; whether it was added."""
    named = f"{file.programme} {file.year} revision {file.revision}"
    stored = session.scalars(
        sa.select(Rubric).where(
            Rubric.programme_code == file.programme, Rubric.year == file.year, Rubric.revision == file.revision
        )
    ).one_or_none()
    if stored is not None:
        if stored.content_sha256 != sha256:
            raise CreationDataError(f"{named} is stored with other content: give the change a new revision")
        return False
    try:
        added = rubrics.create_draft(
            session, None, programme_code=file.programme, year=file.year, entry=file, now=now
        ).rubric
    except DomainError as error:
        raise CreationDataError(f"{named}: {error.detail or error.title_en}") from error
    if added.revision != file.revision:
        raise CreationDataError(f"{named}: the next revision is {added.revision}")
    session.execute(sa.update(Rubric).where(Rubric.id == added.id).values(content_sha256=sha256))
    rubrics.put_in_force(session, None, added.id, version=added.version, now=now)
    return True


def list_programmes(session: Session, *, on: date) -> list[ProgrammeDetail]:
    """Every programme in the order of the plan, as it stands on a day."""
    targets: dict[str, list[ProgrammeTarget]] = {}
    for target in session.scalars(sa.select(ProgrammeTarget).order_by(ProgrammeTarget.year)):
        targets.setdefault(target.programme_code, []).append(target)
    in_force = {
        rubric.programme_code: rubric
        for rubric in session.scalars(
            sa.select(Rubric)
            .where(Rubric.state == RubricState.IN_FORCE, Rubric.year <= on.year)
            .order_by(Rubric.programme_code, Rubric.year)
        )
    }
    newest = (
        sa.select(IndicatorFigure)
        .ext(distinct_on(IndicatorFigure.programme_code))
        .order_by(IndicatorFigure.programme_code, IndicatorFigure.measured_on.desc())
    )
    figures = {figure.programme_code: figure for figure in session.scalars(newest)}
    return [
        ProgrammeDetail(each, targets.get(each.code, []), in_force.get(each.code), figures.get(each.code))
        for each in session.scalars(sa.select(Programme).order_by(Programme.position, Programme.code))
    ]


def record_figure(
    session: Session,
    actor: Actor,
    programme_code: str,
    *,
    measured_on: date,
    value: Decimal,
    source: str,
    confidence: Confidence,
    now: datetime,
) -> IndicatorFigure:
    """Record, or correct, a tracked programme's figure of a day. Raises NotFound, ProgrammeHasNoIndicator,
    FigureInFuture.
    """
    programme = session.get(Programme, programme_code)
    if programme is None:
        raise NotFound
    if programme.indicator_zh is None:
        raise ProgrammeHasNoIndicator
    if measured_on > business_day(now):
        raise FigureInFuture
    values = {"value": value, "source": source, "confidence": confidence, "recorded_by": actor.id, "recorded_at": now}
    written = session.scalars(
        insert(IndicatorFigure)
        .values(programme_code=programme_code, measured_on=measured_on, **values)
        .on_conflict_do_update(index_elements=["programme_code", "measured_on"], set_=values)
        .returning(IndicatorFigure)
        .execution_options(populate_existing=True)
    ).one()
    audit.record(
        session, actor, "indicator.record", programme_code, now=now, measured_on=str(measured_on), value=str(value)
    )
    return written


def day_of(text: str) -> date:
    """A day in an address, as 2025-12-31. Raises NotFound."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise NotFound from None


def list_figures(session: Session, programme_code: str, *, limit: int, cursor: str | None) -> Page[IndicatorFigure]:
    """A tracked programme's figures, newest first. Raises BadCursor."""
    wanted = (
        sa.select(IndicatorFigure)
        .where(IndicatorFigure.programme_code == programme_code)
        .order_by(IndicatorFigure.measured_on.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        wanted = wanted.where(IndicatorFigure.measured_on < decode(cursor, tuple[date])[0])
    return page_of(session.scalars(wanted).all(), limit, lambda row: (row.measured_on,))
