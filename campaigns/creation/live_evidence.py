"""Live evidence: figures of the system that items of a rubric are bound to, frozen when an application is submitted.

Every figure is read from kept counts (a community's days, a resident's days), over the 365 business days before the day
of submission. A figure that cannot be computed is None and says so; it is never a zero.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.creation.applications import EDITABLE, application_for
from campaigns.creation.models import Application, LiveFigure, LiveMeasure, RubricItem, SubjectKind
from points.earning.models import Activity, Behaviour, CommunityDay, Outcome, ResidentDay
from server.access import Actor
from server.clock import business_day
from server.people.models import OrganisationMembership, Resident

PERIOD_DAYS = 365

# The room of campaigns stands beside this one and is not imported: its tables are read by their names.
_campaign = sa.table(
    "campaign",
    sa.column("id", sa.Uuid()),
    sa.column("division", sa.String()),
    sa.column("organisation_id", sa.Uuid()),
    sa.column("state", sa.String()),
    sa.column("starts_on", sa.Date()),
    sa.column("ends_on", sa.Date()),
)
_participation = sa.table("participation", sa.column("campaign_id", sa.Uuid()))
_HELD_STATES = ("open", "published", "running", "settling", "closed")


@dataclass(frozen=True, slots=True)
class Period:
    """Business days from `starts_on` to `ends_on`, both included."""

    starts_on: date
    ends_on: date


@dataclass(frozen=True, slots=True)
class Count:
    """What a figure is computed from: a share of `denominator`, or an amount if that is None."""

    numerator: int
    denominator: int | None = None


@dataclass(frozen=True, slots=True)
class Definition:
    """What a measure means, in words that are frozen with it. `unit` is that of the value."""

    unit: str
    zh: str
    en: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One item's figure, frozen, or as it is now for an application that can still be changed."""

    item_code: str
    measure: LiveMeasure
    value: Decimal | None
    numerator: int | None
    denominator: int | None
    unit: str
    period_starts_on: date
    period_ends_on: date
    definition_zh: str
    definition_en: str
    frozen_at: datetime | None


DEFINITIONS: Mapping[LiveMeasure, Definition] = {
    LiveMeasure.PARTICIPATION_RATE: Definition(
        "%",
        "期间内至少有一次有效低碳行为记录的居民（单位为成员）人数 ÷ 提交时登记的居民（成员）人数。"
        "分母为平台登记人数, 不是常住人口。",
        "Residents (of an organisation: members) with at least one standing record in the period, divided by those "
        "registered at submission. The base is who is registered here, not the census population.",
    ),
    LiveMeasure.ACTIVE_RESIDENTS: Definition(
        "人",
        "期间内至少有一次有效低碳行为记录的居民（单位为成员）人数，每人计一次。",
        "Residents (of an organisation: members) with at least one standing record in the period, each counted once.",
    ),
    LiveMeasure.SORTING_ACCURACY: Definition(
        "%",
        "期间内有效的垃圾分类投放次数 ÷（有效次数 + 检查后撤回的次数）。未被抽查的投放视为有效，故为上限估计。",
        "Sorting drops that stand, divided by those and the drops taken back after a check. Drops that nobody checked "
        "count as standing, so this is an upper bound.",
    ),
    LiveMeasure.SORTING_DROPS: Definition(
        "次",
        "期间内有效的垃圾分类投放次数。",
        "Sorting drops in the period that stand.",
    ),
    LiveMeasure.RECYCLING_KG: Definition(
        "kg",
        "期间内有效的可回收物交投重量，按交投时所在社区（单位按成员加入之后）计。",
        "Weight of recyclables handed in and standing, by the home community at that time (of an organisation: by "
        "members since they joined).",
    ),
    LiveMeasure.CAMPAIGNS_HELD: Definition(
        "场",
        "期间内由该社区（单位）自己举办、已开始、未取消且有居民参加的低碳活动场次。",
        "Campaigns of the community's (organisation's) own that had begun in the period, were not cancelled, and that "
        "somebody joined.",
    ),
}


def freeze(session: Session, application: Application, *, now: datetime) -> int:
    """Write the figures of every bound item into the application, as they are at `now`; how many.

    Called by the submission and inside its transaction. A resubmission takes them anew and keeps the earlier ones.
    """
    newest = sa.select(sa.func.max(LiveFigure.submission)).where(LiveFigure.application_id == application.id)
    submission = (session.scalar(newest) or 0) + 1
    figures = _figures(session, application, now=now)
    session.add_all(
        LiveFigure(
            application_id=application.id,
            submission=submission,
            item_code=figure.item_code,
            measure=figure.measure,
            value=figure.value,
            numerator=figure.numerator,
            denominator=figure.denominator,
            unit=figure.unit,
            period_starts_on=figure.period_starts_on,
            period_ends_on=figure.period_ends_on,
            definition_zh=figure.definition_zh,
            definition_en=figure.definition_en,
            frozen_at=now,
        )
        for figure in figures
    )
    session.flush()
    return len(figures)


def figures_for(session: Session, actor: Actor, application_id: UUID, *, now: datetime) -> Sequence[Figure]:
    """The figures of an application that the actor may see: frozen, or of this moment while it can still be changed.

    Raises NotFound.
    """
    application = application_for(session, actor, application_id)
    if application.state in EDITABLE:
        return _figures(session, application, now=now)
    return [
        Figure(**{name: getattr(row, name) for name in Figure.__slots__}) for row in frozen(session, application_id)
    ]


def frozen(session: Session, application_id: UUID) -> Sequence[LiveFigure]:
    """The figures of the newest submission, by item."""
    newest = (
        sa.select(sa.func.max(LiveFigure.submission))
        .where(LiveFigure.application_id == application_id)
        .scalar_subquery()
    )
    return session.scalars(
        sa.select(LiveFigure)
        .where(LiveFigure.application_id == application_id, LiveFigure.submission == newest)
        .order_by(LiveFigure.item_code)
    ).all()


def period_before(now: datetime) -> Period:
    """The PERIOD_DAYS whole business days before that of `now`, which is not over and so does not count."""
    last = business_day(now) - timedelta(days=1)
    return Period(last - timedelta(days=PERIOD_DAYS - 1), last)


def _figures(session: Session, application: Application, *, now: datetime) -> Sequence[Figure]:
    rows = session.execute(
        sa.select(RubricItem.code, RubricItem.live_measure)
        .where(RubricItem.rubric_id == application.rubric_id)
        .order_by(RubricItem.position)
    )
    bound = [(code, measure) for code, measure in rows if measure is not None]
    period = period_before(now)
    counts = {measure: _count(session, application, measure, period) for measure in {measure for _, measure in bound}}
    return [_figure(code, measure, counts[measure], period) for code, measure in bound]


def _figure(code: str, measure: LiveMeasure, count: Count | None, period: Period) -> Figure:
    definition = DEFINITIONS[measure]
    return Figure(
        item_code=code,
        measure=measure,
        value=_value(measure, count),
        numerator=count.numerator if count else None,
        denominator=count.denominator if count else None,
        unit=definition.unit,
        period_starts_on=period.starts_on,
        period_ends_on=period.ends_on,
        definition_zh=definition.zh,
        definition_en=definition.en,
        frozen_at=None,
    )


def _value(measure: LiveMeasure, count: Count | None) -> Decimal | None:
    """The figure in its unit, cut off and never rounded up: 79.999 % has not reached 80 %."""
    if count is None or count.denominator == 0:
        return None
    value = Decimal(count.numerator)
    if count.denominator is not None:
        value = value * 100 / count.denominator
    elif measure is LiveMeasure.RECYCLING_KG:
        value /= 1000  # kept in grams
    return value.quantize(Decimal("0.01"), ROUND_DOWN)


def _count(session: Session, application: Application, measure: LiveMeasure, period: Period) -> Count | None:
    """What the measure counts of the application's subject; None if it says nothing about such a subject."""
    of_one_person = application.subject_kind is SubjectKind.HOUSEHOLD
    if of_one_person and measure in _OF_MANY_PEOPLE:
        return None
    return _COUNTERS[measure](session, application, period)


def _participation_rate(session: Session, application: Application, period: Period) -> Count:
    people = _people(application, period)
    registered = session.scalar(sa.select(sa.func.count()).select_from(people)) or 0
    return Count(_active_residents(session, application, period).numerator, registered)


def _active_residents(session: Session, application: Application, period: Period) -> Count:
    """Distinct people with a day in the period: one look-up by primary key for each, however much they recorded."""
    people = _people(application, period)
    active = (
        sa.select(sa.literal(1))
        .where(
            ResidentDay.resident_id == people.c.resident_id,
            ResidentDay.day.between(people.c.since, period.ends_on),
            ResidentDay.activities > 0,
        )
        .exists()
    )
    return Count(session.scalar(sa.select(sa.func.count()).select_from(people).where(active)) or 0)


def _sorting_drops(session: Session, application: Application, period: Period) -> Count:
    return Count(_kept(session, application, period, Behaviour.SORTING, "activities"))


def _recycling_g(session: Session, application: Application, period: Period) -> Count:
    return Count(_kept(session, application, period, Behaviour.RECYCLING, "weight_g"))


def _sorting_accuracy(session: Session, application: Application, period: Period) -> Count:
    standing = _kept(session, application, period, Behaviour.SORTING, "activities")
    taken_back = (
        sa.select(sa.func.count())
        .select_from(Activity)
        .where(
            # Written out, so that the partial index of what was taken back serves: all else is far more.
            sa.literal_column("activity.outcome") == sa.literal_column(f"'{Outcome.REVERSED.value}'"),
            Activity.behaviour == Behaviour.SORTING,
            Activity.business_day.between(period.starts_on, period.ends_on),
        )
    )
    if application.subject_kind is SubjectKind.COMMUNITY:
        taken_back = taken_back.where(Activity.community_code == application.division)
    else:
        people = _people(application, period)
        taken_back = taken_back.join(
            people, sa.and_(people.c.resident_id == Activity.resident_id, Activity.business_day >= people.c.since)
        )
    return Count(standing, standing + (session.scalar(taken_back) or 0))


def _campaigns_held(session: Session, application: Application, period: Period) -> Count:
    own = (
        _campaign.c.organisation_id == application.organisation_id
        if application.subject_kind is SubjectKind.ORGANISATION
        else sa.and_(_campaign.c.division == application.division, _campaign.c.organisation_id.is_(None))
    )
    joined = sa.exists().where(_participation.c.campaign_id == _campaign.c.id)
    held = sa.select(sa.func.count()).where(
        own,
        _campaign.c.state.in_(_HELD_STATES),
        _campaign.c.starts_on <= period.ends_on,
        _campaign.c.ends_on >= period.starts_on,
        joined,
    )
    return Count(session.scalar(held.select_from(_campaign)) or 0)


def _kept(session: Session, application: Application, period: Period, behaviour: Behaviour, column: str) -> int:
    """The sum of one column of the kept days: of the community's, or of the people's own."""
    if application.subject_kind is SubjectKind.COMMUNITY:
        summed: sa.Select[Any] = sa.select(sa.func.sum(getattr(CommunityDay, column))).where(
            CommunityDay.community_code == application.division,
            CommunityDay.day.between(period.starts_on, period.ends_on),
            CommunityDay.behaviour == behaviour,
        )
    else:
        people = _people(application, period)
        summed = (
            sa.select(sa.func.sum(getattr(ResidentDay, column)))
            .join(people, people.c.resident_id == ResidentDay.resident_id)
            .where(ResidentDay.day.between(people.c.since, period.ends_on), ResidentDay.behaviour == behaviour)
        )
    return int(session.scalar(summed) or 0)


def _people(application: Application, period: Period) -> sa.Subquery:
    """The subject's people now (`resident_id`), each with the first day that counts for it (`since`).

    What a member did before joining says nothing about the organisation.
    """
    first = sa.literal(period.starts_on, sa.Date())
    if application.subject_kind is SubjectKind.ORGANISATION:
        joined_on = sa.cast(sa.func.timezone("Asia/Shanghai", OrganisationMembership.joined_at), sa.Date())
        return (
            sa.select(Resident.resident_id, sa.func.greatest(joined_on, first).label("since"))
            .join(OrganisationMembership, OrganisationMembership.resident_id == Resident.resident_id)
            .where(
                OrganisationMembership.organisation_id == application.organisation_id,
                OrganisationMembership.left_at.is_(None),
                Resident.enabled,
            )
            .subquery()
        )
    own = (
        Resident.community_code == application.division
        if application.subject_kind is SubjectKind.COMMUNITY
        else Resident.resident_id == application.resident_id
    )
    return sa.select(Resident.resident_id, first.label("since")).where(own, Resident.enabled).subquery()


_OF_MANY_PEOPLE = frozenset({LiveMeasure.PARTICIPATION_RATE, LiveMeasure.ACTIVE_RESIDENTS, LiveMeasure.CAMPAIGNS_HELD})

_COUNTERS: Mapping[LiveMeasure, Callable[[Session, Application, Period], Count]] = {
    LiveMeasure.PARTICIPATION_RATE: _participation_rate,
    LiveMeasure.ACTIVE_RESIDENTS: _active_residents,
    LiveMeasure.SORTING_ACCURACY: _sorting_accuracy,
    LiveMeasure.SORTING_DROPS: _sorting_drops,
    LiveMeasure.RECYCLING_KG: _recycling_g,
    LiveMeasure.CAMPAIGNS_HELD: _campaigns_held,
}
