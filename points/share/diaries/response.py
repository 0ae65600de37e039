"""How many answer, by cell; and the codes for those who have no phone to see theirs on."""

from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.share.diaries.codes import code_of
from points.share.diaries.models import DiaryCell, DiaryInvitation, DiaryRound, InvitationState, RoundState
from points.share.diaries.rounds import DISTRICT_CODE_LENGTH, round_for
from server import audit
from server.access import Actor
from server.paging import Page, decode, page_of
from server.people.models import Resident, WechatIdentity

# A street meets its people: of fewer it could tell who answered.
SHOWN_TO_STREETS_MIN = 10
CELLS_MAX = 5000


@dataclass(frozen=True, slots=True)
class CellResponse:
    """One cell's outcome so far. `hidden`: drawn fewer than a street may read about; the counts are then None.

    `rate` is answered ÷ drawn, None where nobody was drawn.
    """

    street_code: str
    age_band: str
    hidden: bool
    frame_count: int | None = None
    drawn: int | None = None
    answered: int | None = None
    declined: int | None = None
    expired: int | None = None
    waiting: int | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """What goes onto the letter to one person without the mini-program."""

    resident_id: UUID
    nickname: str | None
    community_code: str
    day: date
    answers_until: date
    code: str


def response_rates(session: Session, actor: Actor, round_id: UUID, *, now: datetime) -> list[CellResponse]:
    """The cells in the actor's scope with what became of their invitations, by street and band; audited.

    A street reads of its own cells those with SHOWN_TO_STREETS_MIN people or more; the district reads all, exactly.
    Raises NotFound.
    """
    held = round_for(session, actor, round_id)
    scope = actor.division or ""
    query = (
        sa.select(DiaryCell)
        .where(DiaryCell.round_id == round_id, DiaryCell.street_code.startswith(scope[:9]))
        .order_by(DiaryCell.street_code, sa.func.length(DiaryCell.age_band), DiaryCell.age_band)
        .limit(CELLS_MAX)
        .execution_options(populate_existing=True)
    )
    now_states = _states_now(session, round_id) if held.state is RoundState.OPEN else {}
    exact = len(scope) == DISTRICT_CODE_LENGTH
    audit.record(session, actor, "diary-response.read", str(round_id), now=now)
    return [_response(cell, now_states, exact=exact) for cell in session.scalars(query)]


def list_letters(
    session: Session, actor: Actor, round_id: UUID, *, data_key: bytes, limit: int, cursor: str | None, now: datetime
) -> Page[Letter]:
    """The people of an open round who wait for their diary and have no mini-program to see their code in; audited.

    Whoever writes diaries for others does not read codes here, but from the letter that the person shows: it takes
    another permission. Raises NotFound, BadCursor.
    """
    held = round_for(session, actor, round_id)
    actor.require_cover(held.division)
    query = (
        sa.select(
            DiaryInvitation.resident_id,
            Resident.nickname,
            DiaryInvitation.community_code,
            DiaryInvitation.day,
            (DiaryInvitation.day + DiaryRound.answer_days).label("answers_until"),
        )
        .join(DiaryRound, DiaryRound.id == DiaryInvitation.round_id)
        .join(Resident, Resident.resident_id == DiaryInvitation.resident_id)
        .where(
            DiaryInvitation.round_id == round_id,
            DiaryRound.state == RoundState.OPEN,
            DiaryInvitation.state.in_((InvitationState.INVITED, InvitationState.REMINDED)),
            ~sa.exists().where(WechatIdentity.resident_id == DiaryInvitation.resident_id),
        )
        .order_by(DiaryInvitation.resident_id)
        .limit(limit + 1)
    )
    if cursor is not None:
        query = query.where(DiaryInvitation.resident_id > decode(cursor, tuple[UUID])[0])
    rows = [Letter(*row, code=code_of(data_key, round_id, row[0])) for row in session.execute(query)]
    audit.record(session, actor, "diary-letters.read", str(round_id), now=now, people=len(rows[:limit]))
    return page_of(rows, limit, lambda row: (row.resident_id,))


_States = dict[tuple[str, str], dict[InvitationState, int]]


def _states_now(session: Session, round_id: UUID) -> _States:
    found: _States = {}
    rows = session.execute(
        sa.select(DiaryInvitation.street_code, DiaryInvitation.age_band, DiaryInvitation.state, sa.func.count())
        .where(DiaryInvitation.round_id == round_id)
        .group_by(DiaryInvitation.street_code, DiaryInvitation.age_band, DiaryInvitation.state)
    )
    for street, band, state, count in rows:
        found.setdefault((street, band), {})[state] = count
    return found


def _response(cell: DiaryCell, now_states: _States, *, exact: bool) -> CellResponse:
    if not exact and cell.drawn < SHOWN_TO_STREETS_MIN:
        return CellResponse(cell.street_code, cell.age_band, hidden=True)
    states = now_states.get((cell.street_code, cell.age_band), {})
    answered = cell.answered if cell.answered is not None else states.get(InvitationState.ANSWERED, 0)
    declined = cell.declined if cell.declined is not None else states.get(InvitationState.DECLINED, 0)
    expired = cell.expired if cell.expired is not None else states.get(InvitationState.EXPIRED, 0)
    return CellResponse(
        street_code=cell.street_code,
        age_band=cell.age_band,
        hidden=False,
        frame_count=cell.frame_count,
        drawn=cell.drawn,
        answered=answered,
        declined=declined,
        expired=expired,
        waiting=cell.drawn - answered - declined - expired,
        rate=answered / cell.drawn if cell.drawn else None,
    )
