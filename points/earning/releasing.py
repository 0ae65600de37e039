"""What people decide about claims that were held, refused or taken back: paid after all, or refused for good.

A claim that is paid late is paid as on its own day: priced by the rule of that day, under the caps and bounds of that
day, and out of its partner's budget of the day on which it was received. Whoever decides first has decided: the
activity's row is changed only in the state that the decision is about.
"""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from psycopg.errors import ExclusionViolation
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from points.earning import pricing, steps
from points.earning.award import pay_recorded, pay_restored
from points.earning.claims import Award, Claim, Reason
from points.earning.models import Activity, Behaviour, Grade, Outcome
from points.earning.pricing import Priced, Tariffs
from points.ledger.models import Transfer
from server.clock import business_day
from server.database import new_id
from server.errors import Conflict, NotFound
from server.people.models import Resident

RESTORED = "restored"  # the source of a copy that pays again what was wrongly taken back
UNCAPPED_POINTS = 1_000_000

# Points that have ended by the time they are given back would be lost the same night; they live this much longer.
RETURN_GRACE = timedelta(days=30)


# (session, partner, day of receipt, points) → whether the partner's budget of that day still covers them; if so, taken.
PartnerBudget = Callable[[Session, str, date, int], bool]


# Whether another record of the same act is paid.
PaidOtherwise = Callable[[Session, Activity], bool]


class _Installed:
    """What the application has installed: this room does not know the partners and the bags above it."""

    def __init__(self) -> None:
        self.take: PartnerBudget | None = None
        self.paid_otherwise: PaidOtherwise | None = None


_installed = _Installed()


def install_partner_budget(take: PartnerBudget) -> None:
    """Take what a partner's claim pays late from that partner's day."""
    _installed.take = take


def install_paid_otherwise(ask: PaidOtherwise) -> None:
    """Ask this of every claim that is paid late: it is not paid beside another record of the same act."""
    _installed.paid_otherwise = ask


class _PartnerBudgetShort(Exception):
    """The partner's day does not cover the claim; what was written of it is rolled back."""


class _PaidOtherwise(Exception):
    """Another record of the same act is paid; what was written of this one is rolled back."""


class NotHeld(Conflict):
    """Only a held claim can be released or refused by a person."""

    code, title_zh, title_en = "not-held", "该记录未处于待审核状态", "This activity is not held"


class NotOverturnable(Conflict):
    """Only a refused claim, or one that was taken back, can be paid after an appeal."""

    code, title_zh, title_en = (
        "not-overturnable",
        "该记录未处于未通过或已撤回状态",
        "This activity was neither refused nor taken back",
    )


class AlreadyRestored(Conflict):
    """What was taken back is paid again once."""

    code, title_zh, title_en = "already-restored", "该记录的积分已经恢复", "These points have been paid again already"


def release(session: Session, resident_id: UUID, activity_id: UUID, *, now: datetime) -> Award:
    """Pay a held claim under the caps and bounds of its own day.

    It can end as refused: another trip of its time, or another record of its bag, was paid meanwhile, a bound or its
    partner's budget of its day is used up, or its resident is gone. Raises NotFound, NotHeld.
    """
    activity = _locked(session, resident_id, activity_id, (Outcome.HELD,), NotHeld)
    tariffs = pricing.current(session)
    award = _settle(session, activity, _row_of(activity, tariffs), tariffs, now=now)
    if award.outcome is not Outcome.AWARDED:
        _leave_to_steps(session, activity)
    return award


def refuse(session: Session, resident_id: UUID, activity_id: UUID, *, reason: Reason) -> None:
    """End a held claim as refused. Raises NotFound, NotHeld."""
    activity = _locked(session, resident_id, activity_id, (Outcome.HELD,), NotHeld)
    _refuse(session, activity, reason)
    _leave_to_steps(session, activity)


def overturn(session: Session, resident_id: UUID, activity_id: UUID, *, now: datetime) -> Award:
    """Pay a refused claim, or one that was taken back, after an appeal was upheld.

    A refused one is priced anew by the rule of its day, without the check that refused it and never as too late. Caps,
    bounds, trips of its time and other records of its bag (unless the appeal was about just that) hold for it as for
    any other, so it can be refused again, with the reason that stands in the way. One that was taken back stays so;
    a copy of it pays exactly what was taken, without asking the caps and bounds again that the first payment has used.
    Raises NotFound, NotOverturnable, AlreadyRestored.
    """
    activity = _locked(session, resident_id, activity_id, (Outcome.REFUSED, Outcome.REVERSED), NotOverturnable)
    tariffs = pricing.current(session)
    if activity.outcome is Outcome.REVERSED:
        return _restore(session, activity, tariffs, now=now)
    waived = {Reason(activity.reason or Reason.REVIEW_REFUSED), Reason.TOO_LATE}
    if Reason.BAD_SPAN in waived:
        waived.add(Reason.TOO_FAST)  # of a span that made no sense only the start was kept
    row = pricing.price(tariffs, _claim_of(activity), 0, now=now, waived=frozenset(waived))
    row.id, row.community_code, row.household_id = activity.id, activity.community_code, activity.household_id
    row.ended_at = activity.ended_at
    if row.reason is None and Reason.PAID_AS_STEPS not in waived and steps.paid_as_steps(session, _claim_of(activity)):
        row.reason = Reason.PAID_AS_STEPS  # synced since: a refused walk covers no steps
    award = _settle(session, activity, row, tariffs, is_own_act=Reason.SAME_BAG in waived, now=now)
    if award.outcome is Outcome.AWARDED and activity.behaviour is Behaviour.WALK and activity.distance_m is not None:
        # A held walk was covered when it was held: its steps are not paid beside it.
        steps.cover(session, resident_id, activity.started_at, activity.ended_at, activity.distance_m)
    return award


def _locked(
    session: Session,
    resident_id: UUID,
    activity_id: UUID,
    outcomes: tuple[Outcome, ...],
    otherwise: type[Conflict],
) -> Activity:
    """The activity in one of these states, locked by a write: a second decision waits here and finds another state."""
    found = session.scalars(
        sa.update(Activity)
        .where(Activity.resident_id == resident_id, Activity.id == activity_id, Activity.outcome.in_(outcomes))
        .values(reason=Activity.reason)
        .returning(Activity)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        if session.get(Activity, (resident_id, activity_id)) is None:
            raise NotFound
        raise otherwise
    return found


def _leave_to_steps(session: Session, activity: Activity) -> None:
    """A held walk has covered its steps; as it is not paid after all, the next sync of its day pays them."""
    if activity.behaviour is Behaviour.WALK and activity.distance_m is not None:
        steps.uncover(session, activity.resident_id, activity.started_at, activity.ended_at, activity.distance_m)


def _settle(
    session: Session, activity: Activity, row: Priced, tariffs: Tariffs, *, is_own_act: bool = False, now: datetime
) -> Award:
    if row.reason is None and not session.scalar(
        sa.select(Resident.enabled).where(Resident.resident_id == activity.resident_id)
    ):
        row.reason = Reason.UNKNOWN_RESIDENT
    if row.reason is None:
        try:
            with session.begin_nested():
                points = pay_recorded(session, row, tariffs=tariffs, now=now)
                _take_from_partner(session, activity, points or 0)
                if not is_own_act:
                    _require_unpaid(session, activity)
        except IntegrityError as error:
            if not isinstance(error.orig, ExclusionViolation):
                raise
            row.reason, points = Reason.OVERLAP, None
        except _PartnerBudgetShort:
            row.reason, points = Reason.PARTNER_BUDGET, None
        except _PaidOtherwise:
            row.reason, points = Reason.SAME_BAG, None
        if points is not None:
            session.refresh(activity)
            reason = Reason.CAPPED if points < row.priced_points else None
            return Award(Outcome.AWARDED, reason, points, row.saved_co2e_mg, activity.id)
    _refuse(session, activity, row.reason or Reason.REVIEW_REFUSED)
    return Award(Outcome.REFUSED, row.reason, 0, 0, activity.id)


def _take_from_partner(session: Session, activity: Activity, points: int) -> None:
    # Otherwise whoever has a partner's key would be paid beyond its budget by having his claims held first.
    if not points or activity.grade is not Grade.PARTNER_SIGNED or _installed.take is None:
        return
    if not _installed.take(session, activity.source, business_day(activity.received_at), points):
        raise _PartnerBudgetShort


def _require_unpaid(session: Session, activity: Activity) -> None:
    # After the payment and not before: whoever pays another record of this act meanwhile is waited for first.
    if _installed.paid_otherwise is not None and _installed.paid_otherwise(session, activity):
        raise _PaidOtherwise


def _refuse(session: Session, activity: Activity, reason: Reason) -> None:
    session.execute(
        sa.update(Activity)
        .where(Activity.resident_id == activity.resident_id, Activity.id == activity.id)
        .values(outcome=Outcome.REFUSED, reason=reason.value)
    )
    session.refresh(activity)


def _claim_of(activity: Activity) -> Claim:
    before = activity.steps_before or 0
    return Claim(
        resident_id=activity.resident_id,
        behaviour=activity.behaviour,
        mode=activity.mode,
        grade=activity.grade,
        source=activity.source,
        external_id=activity.external_id,
        started_at=activity.started_at,
        ended_at=activity.ended_at,
        received_at=activity.received_at,
        distance_m=activity.distance_m,
        weight_g=activity.weight_g,
        steps=None if activity.steps is None else activity.steps + before,
        steps_before=before,
        site=activity.site,
        site_kind=activity.site_kind,
        timing=activity.timing,
        channel=activity.channel,
        device=activity.device,
        staff_id=activity.staff_id,
    )


def _row_of(activity: Activity, tariffs: Tariffs) -> Priced:
    """The row of a claim that was priced when it came, under the caps of the version that priced it."""
    row = Priced(
        n=0,
        id=activity.id,
        resident_id=activity.resident_id,
        behaviour=activity.behaviour.value,
        mode=activity.mode,
        grade=activity.grade.value,
        source=activity.source,
        external_id=activity.external_id,
        started_at=activity.started_at,
        ended_at=activity.ended_at,
        received_at=activity.received_at,
        business_day=activity.business_day,
        acts=activity.acts,
        priced_points=activity.priced_points,
        saved_co2e_mg=activity.saved_co2e_mg,
        day_cap=0,
        week_cap=0,
        distance_m=activity.distance_m,
        weight_g=activity.weight_g,
        steps=activity.steps,
        steps_before=activity.steps_before,
        site=activity.site,
        site_kind=activity.site_kind,
        timing=activity.timing,
        channel=activity.channel,
        device=activity.device,
        staff_id=activity.staff_id,
        household_id=activity.household_id,
        method_id=activity.method_id,
        rule_version_id=activity.rule_version_id,
        community_code=activity.community_code,
    )
    tariff = tariffs.named(activity.rule_version_id or "")
    rate = tariff.rates.get((row.behaviour, row.mode, row.grade)) if tariff else None
    if tariff is None or rate is None:
        row.reason = Reason.NO_RULE
        return row
    row.cap_group, row.day_cap, row.week_cap = rate.cap_group, rate.day_cap_points, rate.week_cap_points
    row.expires_on = tariff.points_end_on(activity.business_day)
    return row


def _restore(session: Session, activity: Activity, tariffs: Tariffs, *, now: datetime) -> Award:
    """Pay a copy of an activity that was taken back; its external id is the original's id, so that there is but one."""
    paid = session.get(Transfer, (activity.resident_id, activity.id))
    points = 0 if paid is None else paid.points
    copy_exists = sa.select(Activity.id).where(
        Activity.resident_id == activity.resident_id,
        Activity.source == RESTORED,
        Activity.external_id == str(activity.id),
    )
    if activity.source == RESTORED or session.scalar(copy_exists) is not None:
        raise AlreadyRestored
    row = _row_of(activity, tariffs)
    row.id, row.source, row.external_id, row.reason = new_id(), RESTORED, str(activity.id), None
    row.priced_points, row.received_at = points, now
    row.cap_group, row.day_cap, row.week_cap = RESTORED, UNCAPPED_POINTS, UNCAPPED_POINTS
    ends_on = paid.expires_on if paid is not None else None
    today = business_day(now)
    row.expires_on = ends_on if ends_on is not None and ends_on >= today else today + RETURN_GRACE
    try:
        with session.begin_nested():
            restored = pay_restored(session, row, now=now)
            _require_unpaid(session, activity)
    except _PaidOtherwise:
        return Award(Outcome.REVERSED, Reason.SAME_BAG, 0, 0, activity.id)
    if restored is None:
        # Another trip of its time was paid meanwhile: the resident has been paid for that time.
        return Award(Outcome.REVERSED, Reason.OVERLAP, 0, 0, activity.id)
    return Award(Outcome.AWARDED, None, points, row.saved_co2e_mg, row.id)
