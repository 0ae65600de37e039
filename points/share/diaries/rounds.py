"""Rounds of diaries: one person of the district plans one, another opens it, and the opening draws the sample."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import procrastinate
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from points.ledger import budgets
from points.share.diaries.codes import code_hash, code_of
from points.share.diaries.drawing import (
    Cell,
    Drawn,
    Frame,
    age_invited_min,
    band_names,
    count_frame,
    count_left_out,
    draw,
    shared_out,
)
from points.share.diaries.models import (
    DRAWN_MAX,
    PERIOD_DAYS_MAX,
    SEED_MAX,
    DiaryCell,
    DiaryInvitation,
    DiaryRound,
    InvitationState,
    RoundState,
)
from points.share.survey.definition import definition_of
from points.share.survey.microdata import WaveCodeTaken
from points.share.survey.models import SurveyWave, WaveState
from server import audit
from server.access import Actor
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, DomainError, Forbidden, NotFound
from server.jobs import enqueue
from server.paging import Page, decode, page_of
from server.places.divisions import valid
from server.places.models import Division, DivisionLevel

DISTRICT_CODE_LENGTH = 6
CLOSES_DAYS_MAX = 60  # after the last day, as the table holds it too
INSERT_ROWS = 1000
TELL_JOB = "diaries:tell_invited"


class RoundCodeTaken(Conflict):
    """Another round has this code."""

    code, title_zh, title_en = "diary-round-code-taken", "日记调查编号已被使用", "Another round has this code"
    constraints = ("diary_round_code_key",)


class RoundInvalid(DomainError):
    """The days, the age bands or the cells of a plan do not fit together; the detail says which."""

    code, status, title_zh, title_en = (
        "diary-round-invalid",
        422,
        "日记调查的日期、年龄段或单元格设置不合理",
        "The days, age bands or cells of the round do not fit together",
    )
    constraints = (
        "diary_round_period_check",
        "diary_round_closes_on_check",
        "diary_round_age_bands_check",
        "diary_round_reminder_days_check",
    )


class PlannerOpens(Forbidden):
    """Whoever planned a round does not open it; another member of the district office does."""

    code, title_zh, title_en = (
        "diary-planner-opens",
        "制定人不能自行开启日记调查",
        "Whoever planned a round does not open it",
    )
    constraints = ("diary_round_four_eyes_check",)


class RoundNotPlanned(Conflict):
    """Only a planned round is opened or discarded, once, and before its first day."""

    code, title_zh, title_en = (
        "diary-round-not-planned",
        "该日记调查不在可开启的阶段",
        "Only a planned round that has not begun can be opened or discarded",
    )


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What a round shall be; see DiaryRound. Either `sample_size` or `cells` with a size each."""

    code: str
    name: str
    definition_id: str
    first_on: date
    last_on: date
    answer_days: int
    closes_on: date
    kept_days: int
    age_bands: Sequence[int]
    reward_points: int
    reminder_days: Sequence[int]
    sample_size: int | None = None
    cells: Mapping[Cell, int] | None = None


def new_seed() -> int:
    """A seed that nobody chose, 0 to SEED_MAX."""
    return secrets.randbelow(SEED_MAX + 1)


def plan(session: Session, actor: Actor, wanted: RoundPlan, *, now: datetime) -> DiaryRound:
    """Write down a round for the actor's district; nothing is drawn and nobody told before somebody else opens it.

    Raises NotFound for staff of less than a district, RoundInvalid, RoundCodeTaken, WaveCodeTaken, DefinitionUnknown.
    """
    if actor.division is None or len(actor.division) != DISTRICT_CODE_LENGTH:
        raise NotFound
    _require_sound(wanted, today=business_day(now))
    definition_of(session, wanted.definition_id)
    require_code_free(session, wanted.code)
    made = DiaryRound(
        id=new_id(),
        division=actor.division,
        code=wanted.code,
        name=wanted.name.strip(),
        definition_id=wanted.definition_id,
        first_on=wanted.first_on,
        last_on=wanted.last_on,
        answer_days=wanted.answer_days,
        closes_on=wanted.closes_on,
        kept_days=wanted.kept_days,
        age_bands=list(wanted.age_bands),
        sample_size=wanted.sample_size,
        reward_points=wanted.reward_points,
        reminder_days=sorted(set(wanted.reminder_days)),
        state=RoundState.PLANNED,
        planned_by=actor.id,
        planned_at=now,
        frame={},
        drawn=0,
    )
    session.add(made)
    session.flush()
    if wanted.cells is not None:
        _require_known_cells(session, wanted, actor.division, business_day(now))
        session.execute(sa.insert(DiaryCell), _cell_rows(made.id, planned=wanted.cells))
    audit.record(session, actor, "diary-round.plan", str(made.id), now=now, code=made.code)
    return made


def open_round(
    session: Session,
    actor: Actor,
    round_id: UUID,
    *,
    seed: int,
    data_key: bytes,
    jobs: procrastinate.App,
    now: datetime,
) -> DiaryRound:
    """Draw the sample with `seed`, put its rewards into a budget of its own and have a job send the invitations.

    Raises NotFound, PlannerOpens, RoundNotPlanned, SampleTooSmall, NobodyToInvite.
    """
    planned = _held_as_planned(session, actor, round_id)
    if planned.planned_by == actor.id:
        raise PlannerOpens
    if planned.first_on <= business_day(now):
        raise RoundNotPlanned("The first day must still be to come")
    frame = _frame_of(session, planned)
    counts = count_frame(session, frame)
    sizes = _sizes_of(session, planned, counts)
    drawn = draw(session, frame, sizes, seed=seed, first_on=planned.first_on, last_on=planned.last_on)
    _write_sample(session, planned, drawn, counts, data_key=data_key)
    account_id = budgets.open_account(session, f"diary:{planned.id}", f"出行日记 {planned.code}")
    budgets.allot(session, account_id, len(drawn) * planned.reward_points, allotment_id=planned.id, now=now)
    opened = session.scalars(
        sa.update(DiaryRound)
        .where(DiaryRound.id == round_id, DiaryRound.state == RoundState.PLANNED)
        .values(
            state=RoundState.OPEN,
            opened_by=actor.id,
            opened_at=now,
            seed=seed,
            frame={**count_left_out(session, frame), "in_frame": sum(counts.values())},
            drawn=len(drawn),
            account_id=account_id,
        )
        .returning(DiaryRound)
        .execution_options(populate_existing=True)
    ).one()
    enqueue(session, jobs, TELL_JOB)
    audit.record(session, actor, "diary-round.open", str(round_id), now=now, drawn=len(drawn), seed=seed)
    return opened


def discard(session: Session, actor: Actor, round_id: UUID, *, now: datetime) -> DiaryRound:
    """Give a planned round up; its row stays. Raises NotFound, RoundNotPlanned."""
    _held_as_planned(session, actor, round_id)
    discarded = session.scalars(
        sa.update(DiaryRound)
        .where(DiaryRound.id == round_id, DiaryRound.state == RoundState.PLANNED)
        .values(state=RoundState.DISCARDED)
        .returning(DiaryRound)
        .execution_options(populate_existing=True)
    ).one()
    audit.record(session, actor, "diary-round.discard", str(round_id), now=now)
    return discarded


def round_for(session: Session, actor: Actor, round_id: UUID) -> DiaryRound:
    """A round of the actor's district, for its streets too. Raises NotFound."""
    found = session.get(DiaryRound, round_id, populate_existing=True)
    if found is None or actor.division is None or not actor.division.startswith(found.division):
        raise NotFound
    return found


def list_rounds(session: Session, actor: Actor, *, limit: int, cursor: str | None) -> Page[DiaryRound]:
    """The rounds of the actor's district, newest first. Raises BadCursor."""
    district = (actor.division or "")[:DISTRICT_CODE_LENGTH]
    query = sa.select(DiaryRound).where(DiaryRound.division == district)
    if cursor is not None:
        query = query.where(DiaryRound.id < decode(cursor, tuple[UUID])[0])
    rows = session.scalars(query.order_by(DiaryRound.id.desc()).limit(limit + 1)).all()
    return page_of(rows, limit, lambda row: (row.id,))


def require_code_free(session: Session, code: str) -> None:
    """Raise WaveCodeTaken for the code of a wave that was imported and stands: a round becomes a wave of its code."""
    taken = sa.exists().where(SurveyWave.code == code, SurveyWave.state != WaveState.UNDONE)
    if session.scalar(sa.select(taken)):
        raise WaveCodeTaken


def _require_sound(wanted: RoundPlan, *, today: date) -> None:
    """Raise RoundInvalid unless the days follow each other, the bands ascend, and one way of sizing is chosen."""
    bands = list(wanted.age_bands)
    last_answer_on = wanted.last_on + timedelta(days=wanted.answer_days)
    for sound, fault in (
        (today < wanted.first_on, "The first day must still be to come"),
        (0 <= (wanted.last_on - wanted.first_on).days < PERIOD_DAYS_MAX, f"1 to {PERIOD_DAYS_MAX} days"),
        (wanted.first_on.year == wanted.last_on.year, "All days must be of one year"),
        (
            last_answer_on < wanted.closes_on <= wanted.last_on + timedelta(days=CLOSES_DAYS_MAX),
            f"It closes after the last answer ({last_answer_on}), at most {CLOSES_DAYS_MAX} days after the last day",
        ),
        (bands == sorted(set(bands)), "Age bands must ascend"),
        ((wanted.sample_size is None) != (wanted.cells is None), "Either a size of the sample or sizes of its cells"),
        (wanted.cells is None or 1 <= sum(wanted.cells.values()) <= DRAWN_MAX, f"1 to {DRAWN_MAX} people"),
        (max(wanted.reminder_days, default=0) <= wanted.answer_days, "A reminder comes before the last answer"),
    ):
        if not sound:
            raise RoundInvalid(fault)


def _require_known_cells(session: Session, wanted: RoundPlan, district: str, today: date) -> None:
    cells = wanted.cells or {}
    streets = set(
        session.scalars(
            sa.select(Division.code).where(
                Division.level == DivisionLevel.STREET, Division.parent_code == district, valid(today)
            )
        )
    )
    if not {cell.street_code for cell in cells} <= streets:
        raise RoundInvalid("A cell is of a street that the district does not have")
    if not {cell.age_band for cell in cells} <= set(band_names(wanted.age_bands)):
        raise RoundInvalid("A cell is of an age band that the round does not have")


def _held_as_planned(session: Session, actor: Actor, round_id: UUID) -> DiaryRound:
    """A planned round, held until the transaction ends: two who open it at once would draw twice.

    Raises NotFound, RoundNotPlanned.
    """
    actor.require_cover(round_for(session, actor, round_id).division)
    held = session.get_one(DiaryRound, round_id, with_for_update=True, populate_existing=True)
    if held.state is not RoundState.PLANNED:
        raise RoundNotPlanned
    return held


def _frame_of(session: Session, planned: DiaryRound) -> Frame:
    definition = definition_of(session, planned.definition_id)
    return Frame(
        division=planned.division,
        year=planned.first_on.year,
        age_min=age_invited_min(definition.age_min),
        age_bands=tuple(planned.age_bands),
    )


def _sizes_of(session: Session, planned: DiaryRound, counts: Mapping[Cell, int]) -> Mapping[Cell, int]:
    if planned.sample_size is not None:
        return shared_out(counts, planned.sample_size)
    cells = session.scalars(sa.select(DiaryCell).where(DiaryCell.round_id == planned.id))
    return {Cell(cell.street_code, cell.age_band): cell.planned or 0 for cell in cells}


def _write_sample(
    session: Session, planned: DiaryRound, drawn: Sequence[Drawn], counts: Mapping[Cell, int], *, data_key: bytes
) -> None:
    taken: dict[Cell, int] = {}
    for each in drawn:
        taken[each.cell] = taken.get(each.cell, 0) + 1
    cells = insert(DiaryCell)
    session.execute(
        cells.on_conflict_do_update(
            index_elements=["round_id", "street_code", "age_band"],
            set_={"frame_count": cells.excluded.frame_count, "drawn": cells.excluded.drawn},
        ),
        _cell_rows(planned.id, frame_count=counts, drawn={cell: taken.get(cell, 0) for cell in counts}),
    )
    rows = [
        {
            "resident_id": each.resident_id,
            "round_id": planned.id,
            "community_code": each.community_code,
            "street_code": each.cell.street_code,
            "age_band": each.cell.age_band,
            "day": each.day,
            "weight": each.weight,
            "code_hash": code_hash(data_key, code_of(data_key, planned.id, each.resident_id)),
            "state": InvitationState.INVITED,
        }
        for each in drawn
    ]
    for start in range(0, len(rows), INSERT_ROWS):
        session.execute(sa.insert(DiaryInvitation), rows[start : start + INSERT_ROWS])


def _cell_rows(round_id: UUID, **columns: Mapping[Cell, int]) -> list[dict[str, Any]]:
    """A row for each cell, with the named columns' values."""
    cells = sorted({cell for values in columns.values() for cell in values})
    return [
        {
            "round_id": round_id,
            "street_code": cell.street_code,
            "age_band": cell.age_band,
            **{name: values[cell] for name, values in columns.items()},
        }
        for cell in cells
    ]
