"""Own diaries over HTTP: a resident's own, what staff write for others, and the district's rounds."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import marshmallow as ma
import procrastinate
from flask import current_app

from points.share.diaries import answering, response, rounds
from points.share.diaries.answering import Answer, LookedUp, OwnDiary, OwnInvitation, Trip
from points.share.diaries.codes import TYPED_LENGTH_MAX
from points.share.diaries.drawing import Cell
from points.share.diaries.models import (
    AGE_BANDS_MAX,
    AGE_INVITED_MIN,
    ANSWER_DAYS_MAX,
    DAY_MINUTES,
    DISTANCE_M_MAX,
    DRAWN_MAX,
    KEPT_DAYS_MAX,
    LEGS_MAX,
    REMINDERS_MAX,
    REWARD_POINTS_MAX,
    TRIPS_MAX,
    DiaryRound,
    HouseholdCars,
    InvitationState,
    RoundState,
    Sex,
    TripPurpose,
)
from points.share.diaries.response import CellResponse, Letter
from points.share.diaries.rounds import RoundPlan
from server.access import Permission, actor, require
from server.api import Blueprint, page_schema
from server.clock import now
from server.database import run_transaction, transaction
from server.entries import LINE, SLUG, TYPED_CODE, in_our_time
from server.idempotency import idempotent
from server.limits import limiter
from server.paging import Page, PageQuery
from server.settings import settings

blueprint = Blueprint(
    "share-diaries",
    __name__,
    url_prefix="/api/v1",
    description="出行日记 · Own travel diaries: invitations, answers, rounds",
)

# A code has fifty bits; this keeps staff from trying.
CODES = "20 per minute;300 per day"
CELLS_MAX = 500

_CODE = ma.validate.Regexp(r"^[a-z0-9][a-z0-9-]*(?!\n)$")
_MODE = [ma.validate.Length(1, 40), SLUG]


class DiaryTripEntry(ma.Schema):
    """One trip in minutes from the midnight that began the day; it may end on the next one."""

    started_minute = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(0, DAY_MINUTES - 1))
    ended_minute = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(1, 2 * DAY_MINUTES - 1))
    purpose = ma.fields.Enum(TripPurpose, by_value=True, required=True)
    legs = ma.fields.List(
        ma.fields.String(validate=_MODE),
        required=True,
        validate=ma.validate.Length(1, LEGS_MAX),
        metadata={"description": "各段出行方式 · The modes of its legs in their order"},
    )
    distance_m = ma.fields.Integer(
        load_default=None, allow_none=True, strict=True, validate=ma.validate.Range(0, DISTANCE_M_MAX)
    )

    @ma.validates_schema
    def _ends_after_it_starts(self, entry: dict[str, Any], **_: Any) -> None:
        if not 0 < entry["ended_minute"] - entry["started_minute"] <= DAY_MINUTES:
            raise ma.ValidationError("Must end after it starts, within a day.", "ended_minute")

    @ma.post_load
    def _trip(self, entry: dict[str, Any], **_: Any) -> Trip:
        return Trip(**entry)


class DiaryAnswerEntry(ma.Schema):
    """A whole diary; an empty list of trips says that none were made."""

    trips = ma.fields.List(ma.fields.Nested(DiaryTripEntry), required=True, validate=ma.validate.Length(0, TRIPS_MAX))
    sex = ma.fields.Enum(Sex, by_value=True, load_default=None, allow_none=True)
    household_cars = ma.fields.Enum(HouseholdCars, by_value=True, load_default=None, allow_none=True)
    text_version = ma.fields.String(
        load_default=None,
        allow_none=True,
        validate=[ma.validate.Length(1, 20), LINE],
        metadata={"description": "The wording that the person was shown; another than the current one is refused"},
    )


class DiaryCodeEntry(ma.Schema):
    """The code that a person shows."""

    code = ma.fields.String(required=True, validate=[ma.validate.Length(1, TYPED_LENGTH_MAX), TYPED_CODE])


class DiaryRecordEntry(DiaryAnswerEntry):
    """What a person told, who shows their code."""

    code = ma.fields.String(required=True, validate=[ma.validate.Length(1, TYPED_LENGTH_MAX), TYPED_CODE])
    denies_tie = ma.fields.Boolean(
        required=True,
        truthy={True},
        falsy={False},
        metadata={
            "description": "声明并非本人或家庭成员 · That the person is neither the writer nor of their household"
        },
    )


class DiaryTripView(ma.Schema):
    """One trip as it was written down."""

    started_minute = ma.fields.Integer(required=True)
    ended_minute = ma.fields.Integer(required=True)
    purpose = ma.fields.Enum(TripPurpose, by_value=True, required=True)
    legs = ma.fields.List(ma.fields.String(), required=True)
    distance_m = ma.fields.Integer(required=True, allow_none=True)


class DiaryModeView(ma.Schema):
    """A mode to choose from."""

    mode = ma.fields.String(required=True)
    title_zh = ma.fields.String(required=True)
    title_en = ma.fields.String(required=True)


class OwnInvitationView(ma.Schema):
    """An invitation. The reward is the same whatever is answered."""

    round_id = ma.fields.UUID(required=True)
    name = ma.fields.String(required=True)
    day = ma.fields.Date(required=True)
    answers_from = ma.fields.Date(required=True)
    answers_until = ma.fields.Date(required=True, metadata={"description": "Inclusive"})
    state = ma.fields.Enum(InvitationState, by_value=True, required=True)
    reward_points = ma.fields.Integer(required=True)
    answered_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class OwnDiaryView(OwnInvitationView):
    """An invitation with what was answered, and what a person is told before they answer."""

    code = ma.fields.String(required=True, metadata={"description": "代填时出示 · To show to staff who write for one"})
    sex = ma.fields.Enum(Sex, by_value=True, required=True, allow_none=True)
    household_cars = ma.fields.Enum(HouseholdCars, by_value=True, required=True, allow_none=True)
    trips = ma.fields.List(ma.fields.Nested(DiaryTripView), required=True)
    modes = ma.fields.List(ma.fields.Nested(DiaryModeView), required=True)
    text_version = ma.fields.String(required=True)
    text_zh = ma.fields.String(required=True)
    text_en = ma.fields.String(required=True)


class DiaryLookUpView(ma.Schema):
    """An invitation as staff see it by its code: nothing about the person."""

    day = ma.fields.Date(required=True)
    answers_from = ma.fields.Date(required=True)
    answers_until = ma.fields.Date(required=True)
    state = ma.fields.Enum(InvitationState, by_value=True, required=True)
    modes = ma.fields.List(ma.fields.Nested(DiaryModeView), required=True)
    text_zh = ma.fields.String(required=True)
    text_en = ma.fields.String(required=True)


class DiaryCellEntry(ma.Schema):
    """How many people of one street and age band to invite."""

    street_code = ma.fields.String(required=True, validate=ma.validate.Regexp(r"^[0-9]{9}(?!\n)$"))
    age_band = ma.fields.String(required=True, validate=ma.validate.Regexp(r"^[0-9]{1,3}(-[0-9]{1,3}|\+)(?!\n)$"))
    size = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(0, DRAWN_MAX))


class DiaryRoundEntry(ma.Schema):
    """A round to plan: either a size of the whole sample, shared out in proportion, or a size for each cell."""

    code = ma.fields.String(required=True, validate=[ma.validate.Length(1, 40), _CODE])
    name = ma.fields.String(required=True, validate=[ma.validate.Length(1, 80), LINE])
    definition_id = ma.fields.String(
        required=True, validate=[ma.validate.Length(1, 60), ma.validate.Regexp(r"^[a-z0-9][a-z0-9.-]*(?!\n)$")]
    )
    first_on = ma.fields.Date(required=True, validate=in_our_time)
    last_on = ma.fields.Date(required=True, validate=in_our_time)
    answer_days = ma.fields.Integer(load_default=3, strict=True, validate=ma.validate.Range(1, ANSWER_DAYS_MAX))
    closes_on = ma.fields.Date(required=True, validate=in_our_time)
    kept_days = ma.fields.Integer(load_default=30, strict=True, validate=ma.validate.Range(1, KEPT_DAYS_MAX))
    age_bands = ma.fields.List(
        ma.fields.Integer(strict=True, validate=ma.validate.Range(AGE_INVITED_MIN, 120)),
        load_default=[14, 18, 35, 60],
        validate=ma.validate.Length(1, AGE_BANDS_MAX),
        metadata={"description": "各年龄段下限 · The youngest age of each band; nobody under fourteen is invited"},
    )
    reward_points = ma.fields.Integer(required=True, strict=True, validate=ma.validate.Range(1, REWARD_POINTS_MAX))
    reminder_days = ma.fields.List(
        ma.fields.Integer(strict=True, validate=ma.validate.Range(-7, ANSWER_DAYS_MAX)),
        load_default=[-1, 1, 2],
        validate=ma.validate.Length(0, REMINDERS_MAX),
        metadata={"description": "Days from the person's own day; -1 is the day before it"},
    )
    sample_size = ma.fields.Integer(
        load_default=None, allow_none=True, strict=True, validate=ma.validate.Range(1, DRAWN_MAX)
    )
    cells = ma.fields.List(
        ma.fields.Nested(DiaryCellEntry), load_default=None, allow_none=True, validate=ma.validate.Length(1, CELLS_MAX)
    )

    @ma.post_load
    def _plan(self, entry: dict[str, Any], **_: Any) -> RoundPlan:
        cells = entry.pop("cells")
        if cells is None:
            return RoundPlan(**entry)
        sizes = {Cell(cell["street_code"], cell["age_band"]): cell["size"] for cell in cells}
        if len(sizes) < len(cells):
            raise ma.ValidationError("A cell stands there twice.", "cells")
        return RoundPlan(**entry, cells=sizes)


class DiaryRoundView(ma.Schema):
    """A round. `frame` counts who could be drawn and who could not, by reason."""

    id = ma.fields.UUID(required=True)
    code = ma.fields.String(required=True)
    name = ma.fields.String(required=True)
    definition_id = ma.fields.String(required=True)
    first_on = ma.fields.Date(required=True)
    last_on = ma.fields.Date(required=True)
    answer_days = ma.fields.Integer(required=True)
    closes_on = ma.fields.Date(required=True)
    kept_days = ma.fields.Integer(required=True)
    age_bands = ma.fields.List(ma.fields.Integer(), required=True)
    sample_size = ma.fields.Integer(required=True, allow_none=True)
    reward_points = ma.fields.Integer(required=True)
    reminder_days = ma.fields.List(ma.fields.Integer(), required=True)
    state = ma.fields.Enum(RoundState, by_value=True, required=True)
    planned_by = ma.fields.UUID(required=True)
    planned_at = ma.fields.AwareDateTime(required=True)
    opened_by = ma.fields.UUID(required=True, allow_none=True)
    opened_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    seed = ma.fields.Integer(required=True, allow_none=True)
    frame = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Integer(), required=True)
    drawn = ma.fields.Integer(required=True)
    closed_at = ma.fields.AwareDateTime(required=True, allow_none=True)
    wave_id = ma.fields.UUID(required=True, allow_none=True)
    forgotten_at = ma.fields.AwareDateTime(required=True, allow_none=True)


class DiaryCellResponseView(ma.Schema):
    """One cell's outcome; `hidden` from a street that could tell who it was."""

    street_code = ma.fields.String(required=True)
    age_band = ma.fields.String(required=True)
    hidden = ma.fields.Boolean(required=True)
    frame_count = ma.fields.Integer(required=True, allow_none=True)
    drawn = ma.fields.Integer(required=True, allow_none=True)
    answered = ma.fields.Integer(required=True, allow_none=True)
    declined = ma.fields.Integer(required=True, allow_none=True)
    expired = ma.fields.Integer(required=True, allow_none=True)
    waiting = ma.fields.Integer(required=True, allow_none=True)
    rate = ma.fields.Float(required=True, allow_none=True, metadata={"description": "answered ÷ drawn"})


class DiaryResponseView(ma.Schema):
    """Every cell in the reader's scope."""

    items = ma.fields.List(ma.fields.Nested(DiaryCellResponseView), required=True)


class DiaryLetterView(ma.Schema):
    """What goes onto a letter."""

    resident_id = ma.fields.UUID(required=True)
    nickname = ma.fields.String(required=True, allow_none=True)
    community_code = ma.fields.String(required=True)
    day = ma.fields.Date(required=True)
    answers_until = ma.fields.Date(required=True)
    code = ma.fields.String(required=True)


def _jobs() -> procrastinate.App:
    jobs: procrastinate.App = current_app.extensions["tanpuhui_jobs"]
    return jobs


# A resident's own


@blueprint.get("/me/diaries")
@require(Permission.DIARY_OWN)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(OwnInvitationView))
def list_own_diaries(query: dict[str, Any]) -> Page[OwnInvitation]:
    """我的出行日记邀请. The invitations of the resident, newest first."""
    with transaction() as session:
        return answering.list_own(session, actor(), **query)


@blueprint.get("/me/diaries/<uuid:round_id>")
@require(Permission.DIARY_OWN)
@blueprint.response(200, OwnDiaryView)
def read_own_diary(round_id: UUID) -> OwnDiary:
    """我的出行日记. What was answered, what may be, and the code for staff who write for one."""
    with transaction() as session:
        return answering.read_own(session, actor(), round_id, data_key=settings().data_key)


@blueprint.put("/me/diaries/<uuid:round_id>")
@require(Permission.DIARY_OWN)
@blueprint.arguments(DiaryAnswerEntry)
@blueprint.response(200, OwnDiaryView)
def answer_diary(entry: dict[str, Any], round_id: UUID) -> OwnDiary:
    """填写出行日记. All trips of one's day, or none; again until the last day for answering. Paid once, whatever."""
    return run_transaction(
        lambda session: answering.answer(
            session, actor(), round_id, Answer(**entry), data_key=settings().data_key, now=now()
        )
    )


@blueprint.post("/me/diaries/<uuid:round_id>/decline")
@require(Permission.DIARY_OWN)
@idempotent
@blueprint.response(200, OwnDiaryView)
def decline_diary(round_id: UUID) -> OwnDiary:
    """谢绝或撤回. Decline, or take back what was answered; points that were paid stay."""
    return run_transaction(
        lambda session: answering.withdraw(session, actor(), round_id, data_key=settings().data_key, now=now())
    )


# Staff who write for others


@blueprint.post("/share/diary-records/look-up")
@require(Permission.DIARY_RECORD)
@limiter.limit(CODES)
@blueprint.arguments(DiaryCodeEntry)
@blueprint.response(200, DiaryLookUpView)
def look_up_diary(entry: dict[str, Any]) -> LookedUp:
    """查询邀请码. The day that a code asks about, and the modes to choose from; nothing about the person."""
    with transaction() as session:
        return answering.look_up(session, actor(), **entry, data_key=settings().data_key)


@blueprint.post("/share/diary-records")
@require(Permission.DIARY_RECORD)
@limiter.limit(CODES)
@idempotent
@blueprint.arguments(DiaryRecordEntry)
@blueprint.response(201, DiaryLookUpView)
def record_diary(entry: dict[str, Any]) -> LookedUp:
    """代填出行日记. Write down what a person without a phone tells, who shows the code of their invitation."""
    code, denies_tie = entry.pop("code"), entry.pop("denies_tie")
    return run_transaction(
        lambda session: answering.record(
            session,
            actor(),
            code=code,
            given=Answer(**entry),
            denies_tie=denies_tie,
            data_key=settings().data_key,
            now=now(),
        )
    )


# The district's rounds


@blueprint.get("/share/rounds")
@require(Permission.SHARE_READ)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(DiaryRoundView))
def list_rounds(query: dict[str, Any]) -> Page[DiaryRound]:
    """日记调查列表. The rounds of the district, newest first."""
    with transaction() as session:
        return rounds.list_rounds(session, actor(), **query)


@blueprint.post("/share/rounds")
@require(Permission.SURVEY_MANAGE)
@idempotent
@blueprint.arguments(DiaryRoundEntry)
@blueprint.response(201, DiaryRoundView)
def plan_round(entry: RoundPlan) -> DiaryRound:
    """制定日记调查. Plan a round; somebody else opens it."""
    return run_transaction(lambda session: rounds.plan(session, actor(), entry, now=now()))


@blueprint.get("/share/rounds/<uuid:round_id>")
@require(Permission.SHARE_READ)
@blueprint.response(200, DiaryRoundView)
def read_round(round_id: UUID) -> DiaryRound:
    """日记调查. One round."""
    with transaction() as session:
        return rounds.round_for(session, actor(), round_id)


@blueprint.post("/share/rounds/<uuid:round_id>/opening")
@require(Permission.SURVEY_MANAGE)
@idempotent
@blueprint.response(200, DiaryRoundView)
def open_round(round_id: UUID) -> DiaryRound:
    """开启日记调查. Draw the sample and invite; by another person than who planned it."""
    return run_transaction(
        lambda session: rounds.open_round(
            session, actor(), round_id, seed=rounds.new_seed(), data_key=settings().data_key, jobs=_jobs(), now=now()
        )
    )


@blueprint.post("/share/rounds/<uuid:round_id>/discarding")
@require(Permission.SURVEY_MANAGE)
@idempotent
@blueprint.response(200, DiaryRoundView)
def discard_round(round_id: UUID) -> DiaryRound:
    """作废日记调查. Give up a round that is only planned."""
    return run_transaction(lambda session: rounds.discard(session, actor(), round_id, now=now()))


@blueprint.get("/share/rounds/<uuid:round_id>/response")
@require(Permission.SHARE_READ)
@blueprint.response(200, DiaryResponseView)
def read_response(round_id: UUID) -> dict[str, Sequence[CellResponse]]:
    """应答率. How many were invited and answered, by street and age band; small cells are hidden from streets."""
    with transaction() as session:
        return {"items": response.response_rates(session, actor(), round_id, now=now())}


@blueprint.get("/share/rounds/<uuid:round_id>/letters")
@require(Permission.SURVEY_MANAGE)
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, page_schema(DiaryLetterView))
def list_letters(query: dict[str, Any], round_id: UUID) -> Page[Letter]:
    """纸质邀请. The codes of those who wait and have no mini-program, to print on their letters."""
    with transaction() as session:
        return response.list_letters(session, actor(), round_id, data_key=settings().data_key, **query, now=now())
