"""The end of an order: confirmed by the resident or by silence and paid, or disputed and decided by a person.

A disputed slip is recorded as held claims, so that the resident sees them waiting; the decision releases them, or pays
a corrected slip in their place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import pricing, releasing
from points.earning.award import award
from points.earning.claims import Award, Claim, Reason
from points.earning.models import Activity, Behaviour, Grade, Outcome
from points.ledger.models import Transfer
from points.review import cases
from points.review.kinds import Decision, Kind
from points.review.models import Case, CaseKind, Verdict
from points.waste.orders import materials, orders, slips
from points.waste.orders.models import RecyclingMove, RecyclingOrder, Way
from points.waste.orders.orders import OrderMoveRefused
from points.waste.orders.slips import Line, SlipSheet
from points.waste.orders.steps import OrderMove, OrderState, Party
from server import audit
from server.access import Actor
from server.errors import Conflict, Forbidden, ReasonRequired
from server.people import staff_links

SOURCE = "recycling-order"


class SlipOutdated(Conflict):
    """The slip was corrected since the resident looked at it."""

    code, title_zh, title_en = (
        "slip-outdated",
        "称重单已更正, 请重新查看",
        "The slip has been corrected; look at the new one",
    )


class CorrectionMissing(Conflict):
    """Who finds the slip wrong says what is right first."""

    code, title_zh, title_en = (
        "correction-missing",
        "请先录入更正后的称重单",
        "Enter the corrected slip before deciding for the resident",
    )


class CorrectionStands(Conflict):
    """The slip was corrected, so the dispute is decided for the resident."""

    code, title_zh, title_en = (
        "correction-stands",
        "已录入更正后的称重单, 不能维持原单",
        "A corrected slip was entered; the first one cannot be upheld",
    )


class DecidesOwnWeighing(Forbidden):
    """Whoever weighed does not decide whether they weighed right."""

    code, title_zh, title_en = (
        "decides-own-weighing",
        "不能处理本人称重的争议",
        "You cannot decide about your own weighing",
    )


class DecidesOwnDispute(Forbidden):
    """Whoever entered a dispute for a resident does not decide it."""

    code, title_zh, title_en = (
        "decides-own-dispute",
        "不能处理本人代居民提出的争议",
        "You cannot decide a dispute that you entered for a resident",
    )


@dataclass(frozen=True, slots=True)
class Paid:
    """What became of one line, or one piece of it, in the ledger."""

    activity_id: UUID
    slip_position: int
    item: int
    outcome: Outcome
    reason: str | None
    points: int


def confirm(session: Session, actor: Actor, order_id: UUID, *, slip: str, now: datetime) -> RecyclingOrder:
    """Confirm the slip of this number as the resident, and be paid. Raises NotFound, OrderMoveRefused, SlipOutdated."""
    order = orders.own_order(session, actor, order_id, held=True)
    sheets = _require_current(session, order, OrderMove.CONFIRM, slip)
    orders.move(session, order, OrderMove.CONFIRM, Party.RESIDENT, by=actor, now=now, due_at=None)
    return _settle(session, order, sheets, now=now)


def confirm_by_silence(session: Session, order: RecyclingOrder, *, now: datetime) -> RecyclingOrder:
    """Settle a held order whose resident has said nothing for as long as the terms give."""
    orders.move(session, order, OrderMove.CONFIRM, Party.CLOCK, by=None, now=now, due_at=None)
    return _settle(session, order, slips.of_order(session, order), now=now)


def dispute(session: Session, actor: Actor, order_id: UUID, *, slip: str, reason: str, now: datetime) -> RecyclingOrder:
    """Dispute the slip of this number: its claims wait, and a person decides.

    Raises NotFound, OrderMoveRefused, SlipOutdated, ReasonRequired.
    """
    order = orders.own_order(session, actor, order_id, held=True)
    return dispute_held(session, order, by=actor, slip=slip, reason=reason, now=now)


def dispute_held(
    session: Session, order: RecyclingOrder, *, by: Actor, slip: str, reason: str, now: datetime
) -> RecyclingOrder:
    """Dispute the slip of a held order for the resident's side.

    Raises OrderMoveRefused, SlipOutdated, ReasonRequired.
    """
    sheets = _require_current(session, order, OrderMove.DISPUTE, slip)
    if not reason.strip():
        raise ReasonRequired
    claims = claims_of(session, order, sheets, at=slips.weighed_at(sheets), hold=Reason.WEIGHING_DISPUTED, now=now)
    award(session, claims, now=now)
    case_id = cases.open_case(
        session,
        kind=CaseKind.RECYCLING_DISPUTE,
        resident_id=order.resident_id,
        subject_id=order.id,
        activity_id=None,
        community_code=order.community_code,
        reason=Reason.WEIGHING_DISPUTED.value,
        points=sum(each.priced_points for each in _activities(session, order)),
        detail={"order": str(order.id), "slip": slip},
        now=now,
    )
    orders.move(
        session,
        order,
        OrderMove.DISPUTE,
        Party.RESIDENT,
        by=by,
        reason=reason.strip(),
        now=now,
        due_at=None,
        case_id=case_id,
    )
    orders.tell_collector(session, order, "居民对称重单有异议", "a resident disputes your weighing slip", now=now)
    return order


# By reviewers


def correct(
    session: Session, actor: Actor, order_id: UUID, lines: Sequence[Line], *, reason: str, now: datetime
) -> SlipSheet:
    """Write the slip that is right, as a reviewer, before deciding for the resident. No line: nothing was handed over.

    Raises NotFound, OrderMoveRefused, SlipRefused, ReasonRequired, TooManySlips, DecidesOwnWeighing, DecidesOwnDispute,
    StaffUnlinked, ServesOwnHousehold.
    """
    order = orders.disputed_order(session, actor, order_id, held=True)
    if order.state is not OrderState.DISPUTED:
        raise OrderMoveRefused(state=order.state.value)
    _require_no_part_in(session, order, actor.id)
    if not reason.strip():
        raise ReasonRequired
    staff_links.require_may_serve(session, actor.id, order.resident_id, now=now)
    sheet = slips.make(session, order, lines, scale=None, reason=reason.strip(), made_by=actor.id, now=now)
    session.execute(
        sa.update(RecyclingOrder)
        .where(RecyclingOrder.resident_id == order.resident_id, RecyclingOrder.id == order.id)
        .values(slips=sheet.slip.position)
        .execution_options(synchronize_session="fetch")
    )
    _raise_stake(session, order, now=now)
    audit.record(session, actor, "recycling.correct", f"recycling-order:{order.id}", now=now, slip=sheet.slip.number)
    return sheet


def _require_no_part_in(session: Session, order: RecyclingOrder, staff_id: UUID) -> None:
    """Raise DecidesOwnWeighing or DecidesOwnDispute for whoever weighed, or spoke for the resident."""
    accounts = staff_links.accounts_of(session, staff_id)
    if order.collector_id in accounts:
        raise DecidesOwnWeighing
    if _disputed_by(session, order) in accounts:
        raise DecidesOwnDispute


def _disputed_by(session: Session, order: RecyclingOrder) -> UUID | None:
    """Who entered the dispute: the resident, or staff for them."""
    entered = sa.select(RecyclingMove.moved_by).where(
        RecyclingMove.resident_id == order.resident_id,
        RecyclingMove.order_id == order.id,
        RecyclingMove.move == OrderMove.DISPUTE,
    )
    return session.scalar(entered)


def may_decide(session: Session, case: Case, staff_id: UUID) -> None:
    """Raise DecidesOwnWeighing or DecidesOwnDispute for whoever had a part in the disputed order."""
    _require_no_part_in(session, orders.order_of(session, case.resident_id, case.subject_id), staff_id)


def _raise_stake(session: Session, order: RecyclingOrder, *, now: datetime) -> None:
    """The case was opened with the first slip's worth; what one person corrects it to may take two to pay."""
    if order.case_id is None:
        return
    tariffs = pricing.current(session)
    claims = claims_of(session, order, slips.of_order(session, order), at=now, hold=None, now=now)
    worth = sum(pricing.price(tariffs, each, 0, now=now).priced_points for each in claims)
    cases.raise_stake(session, order.resident_id, order.case_id, worth, now=now)


def decide(session: Session, case: Case, decision: Decision, now: datetime) -> None:
    """Do what the decision of a dispute says: pay the corrected slip, or the first one as it stood.

    A correction is dated by the decision: by now the day of the weighing, and that of the correction, may be closed to
    late records. That the actor had no part in it was asked before (`may_decide`).

    Raises CorrectionMissing, CorrectionStands, OrderMoveRefused.
    """
    order = orders.hold(session, case.resident_id, case.subject_id)
    if order.state is not OrderState.DISPUTED:
        raise OrderMoveRefused(state=order.state.value)
    sheets = slips.of_order(session, order)
    corrected = sheets[-1].slip.made_by != order.collector_id
    granted = decision.verdict is Verdict.GRANTED
    if corrected is not granted:
        raise CorrectionMissing if granted else CorrectionStands
    awards = []
    for held in _activities(session, order):
        if held.outcome is not Outcome.HELD:
            continue
        if granted:
            releasing.refuse(session, order.resident_id, held.id, reason=Reason.WEIGHING_CORRECTED)
        else:
            awards.append(releasing.release(session, order.resident_id, held.id, now=now))
    if granted:
        claims = claims_of(session, order, sheets, at=now, hold=None, now=now)
        awards += award(session, claims, now=now)
    orders.move_decided(session, order, decision.decided_by, reason=decision.reason, now=now)
    _tell_settled(session, order, awards, now=now)
    _tell_staff_decided(session, order, decision.verdict, now=now)


KIND = Kind(
    code=CaseKind.RECYCLING_DISPUTE,
    on_decision=decide,
    may_decide=may_decide,
    told={
        Verdict.GRANTED: ("称重争议: 已按更正后的称重单结算", "Disputed weighing: settled by the corrected slip"),
        Verdict.DENIED: ("称重争议: 经复核维持原称重单", "Disputed weighing: the slip was upheld"),
    },
)


# Claims


def claims_of(
    session: Session,
    order: RecyclingOrder,
    sheets: Sequence[SlipSheet],
    *,
    at: datetime,
    hold: Reason | None,
    now: datetime,
) -> list[Claim]:
    """The claims of the last slip, dated `at`: one for each line that was weighed, one for each piece that was counted.

    A member of staff vouches for them, so they count to what one may confirm in a day. Whether a point was open is
    asked of the weighing, whatever they are dated: whoever corrects a slip does so in office hours.
    """
    known = materials.materials_of(session, order.edition_id)
    # A home is no site that many people share.
    site = None if order.way is Way.HOME else orders.place_of(session, order).code
    refusal = orders.place_refusal(session, order, slips.weighed_at(sheets))
    last = sheets[-1]
    made = []
    for item in last.items:
        for piece in range(1, (item.pieces or 1) + 1):
            made.append(
                Claim(
                    resident_id=order.resident_id,
                    behaviour=Behaviour.RECYCLING,
                    mode=known[item.material].mode,
                    grade=Grade.STAFF_CONFIRMED,
                    source=SOURCE,
                    external_id=external_id(order.id, last.slip.position, item.item, piece if item.pieces else None),
                    started_at=at,
                    ended_at=at,
                    received_at=now,
                    weight_g=item.net_g,
                    site=site,
                    site_kind=order.site_kind,
                    timing=order.timing,
                    channel=order.channel,
                    staff_id=order.collector_id,
                    refusal=refusal,
                    hold=None if refusal else hold,
                )
            )
    return made


def external_id(order_id: UUID, slip: int, item: int, piece: int | None) -> str:
    """What a line, or a piece of it, is known by in the ledger; at most 50 characters."""
    line = f"{order_id}/{slip}/{item}"
    return line if piece is None else f"{line}/{piece}"


def paid_for(session: Session, order: RecyclingOrder) -> list[Paid]:
    """What became of the lines of an order; nothing before it is settled or disputed."""
    found = []
    for activity, points in session.execute(
        sa.select(Activity, sa.func.coalesce(Transfer.points, 0))
        .outerjoin(Transfer, sa.and_(Transfer.resident_id == Activity.resident_id, Transfer.id == Activity.id))
        .where(*_of_order(order))
        .order_by(Activity.id)
        .execution_options(populate_existing=True)
    ):
        _, slip, item = activity.external_id.split("/")[:3]
        paid = points if activity.outcome is Outcome.AWARDED else 0
        found.append(Paid(activity.id, int(slip), int(item), activity.outcome, activity.reason, paid))
    return found


def _settle(session: Session, order: RecyclingOrder, sheets: Sequence[SlipSheet], *, now: datetime) -> RecyclingOrder:
    claims = claims_of(session, order, sheets, at=slips.weighed_at(sheets), hold=None, now=now)
    awards = award(session, claims, now=now)
    orders.move(session, order, OrderMove.SETTLE, Party.CLOCK, by=None, now=now)
    _tell_settled(session, order, awards, now=now)
    return order


def _tell_settled(session: Session, order: RecyclingOrder, awards: Sequence[Award], *, now: datetime) -> None:
    points = sum(each.points for each in awards)
    zh, en = f"回收订单已结算, 获得 {points} 积分", f"your recycling order is settled: {points} points"
    orders.tell_resident_alone(session, order, zh, en, now=now)


def _tell_staff_decided(session: Session, order: RecyclingOrder, verdict: Verdict, *, now: datetime) -> None:
    """Tell whoever disputed for the resident, and whoever booked, what was decided; not what was earned."""
    zh, en = {
        Verdict.GRANTED: ("称重异议已按更正后的称重单结算", "the disputed weighing was settled by the corrected slip"),
        Verdict.DENIED: ("称重异议经复核维持原称重单", "the disputed weighing was decided: the slip was upheld"),
    }[verdict]
    entered_by = _disputed_by(session, order)
    if entered_by is not None and entered_by != order.resident_id:
        orders.tell_staff(session, order, entered_by, f"代居民提出: {zh}", f"entered by you: {en}", now=now)
    orders.tell_booker(session, order, zh, en, but_not=entered_by, now=now)


def _require_current(session: Session, order: RecyclingOrder, step: OrderMove, number: str) -> list[SlipSheet]:
    """The slips of an order, if the last one, which counts, is the one that the resident saw."""
    orders.require_move(order, step, Party.RESIDENT)
    sheets = slips.of_order(session, order)
    if sheets[-1].slip.number != number:
        raise SlipOutdated(slip=sheets[-1].slip.number)
    return sheets


def _of_order(order: RecyclingOrder) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        Activity.resident_id == order.resident_id,
        Activity.source == SOURCE,
        Activity.external_id.startswith(f"{order.id}/"),
    )


def _activities(session: Session, order: RecyclingOrder) -> Sequence[Activity]:
    return session.scalars(
        sa.select(Activity).where(*_of_order(order)).order_by(Activity.id).execution_options(populate_existing=True)
    ).all()
