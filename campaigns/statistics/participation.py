"""Reading the kept counts: pages of places, organisations, campaigns and kinds, exact for staff in their scope.

A page reads its own rows by key and nothing else, whatever the number of activities. What everybody may read comes
from frozen releases, in `public_report`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives.models import Campaign, CampaignKind, CampaignState
from campaigns.statistics.models import ALL_KINDS, MARKED_GRAINS
from campaigns.statistics.report import DistrictFigures, Population
from points.statistics.periods import CalendarPeriod, Grain, period_with
from server.access import Actor
from server.errors import DomainError, NotFound
from server.paging import BadCursor, Page, decode, encode, page_of
from server.places.models import DivisionLevel, OrganisationKind
from server.places.populations import populations_within

Order = Literal["code", "rate"]

RATE_NOTE = (
    "收缩后的参与率: 以同级单位的平均值为先验 (贝塔-二项经验贝叶斯), 人数越少越向平均值收缩; 区间为95%可信区间。"
    " Shrunken rate: empirical Bayes (beta-binomial) towards the mean of the peers, with its 95 % interval."
)


# The length of an official code says how large its division is.
DIGITS: Mapping[DivisionLevel, int] = {
    DivisionLevel.DISTRICT: 6,
    DivisionLevel.STREET: 9,
    DivisionLevel.COMMUNITY: 12,
}


class KindsByMonth(DomainError):
    """Figures by kind of campaign are kept by month, quarter and year."""

    code, status, title_zh, title_en = (
        "kinds-by-month",
        422,
        "按活动类型的统计只有月、季、年",
        "Figures by kind of campaign exist by month, quarter and year only",
    )


@dataclass(frozen=True, slots=True)
class Rate:
    """Participants of the registered: as it is, and shrunken with its interval. Shares of 1, to six places."""

    raw: float
    shrunk: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class PopulationRate:
    """Participants of a census population, which is named."""

    year: int
    persons: int
    source: str
    confidence: str
    rate: float


@dataclass(frozen=True, slots=True)
class Saving:
    """Grams of CO2e under one method, cut off. Never added up over methods."""

    method: str
    grams: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted of every place and organisation."""

    registered: int
    participants: int
    rate: Rate | None  # None where nobody is registered
    joins: int
    check_ins: int
    completions: int
    volunteer_minutes: int
    points: int
    savings: tuple[Saving, ...]


@dataclass(frozen=True, slots=True)
class PlaceFigures:
    """One district, street or community in one period."""

    place_code: str
    place_name: str
    level: str
    figures: Figures
    population_rates: tuple[PopulationRate, ...]


@dataclass(frozen=True, slots=True)
class OrganisationFigures:
    """One organisation in one period: its members, and its own campaigns."""

    organisation_id: UUID
    organisation_name: str
    kind: str
    community_code: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class KindFigures:
    """The campaigns of one kind in one place and period.

    Participants are enrolled in a campaign that ran in the period; completions, points and grams are those of campaigns
    that ended in it, where somebody in two of them counts in both.
    """

    kind: str
    participants: int
    joins: int
    check_ins: int
    completions: int
    volunteer_minutes: int
    points: int
    savings: tuple[Saving, ...]


@dataclass(frozen=True, slots=True)
class CampaignFigures:
    """One campaign from its first day to its last."""

    campaign_id: UUID
    title: str
    kind: str
    division: str
    organisation_id: UUID | None
    starts_on: date
    ends_on: date
    state: str
    participants: int
    check_ins: int
    completions: int
    volunteer_minutes: int
    points: int
    savings: tuple[Saving, ...]
    counted_at: datetime | None


@dataclass(frozen=True, slots=True)
class Prior:
    """Towards which rate a group of peers was shrunk, and by how many residents' weight."""

    peers: str
    mean: float
    weight: float
    peer_count: int


@dataclass(frozen=True, slots=True)
class Table:
    """A page of figures of one period, with what explains its rates. `counted_at` None: not counted yet."""

    period: CalendarPeriod
    kind: CampaignKind | None
    counted_at: datetime | None
    priors: tuple[Prior, ...]
    items: Sequence[Any]
    next_cursor: str | None


_COLUMNS = """p.registered, p.participants, p.joins, p.check_ins, p.completions, p.volunteer_minutes, p.points,
    cast(p.saved_co2e_mg AS text), p.rate_shrunk, p.rate_low, p.rate_high, p.counted_at"""

# With a kind, the residents registered are those of the place, and the rest is the kind's or nothing.
_COLUMNS_OF_KIND = """p.registered, coalesce(k.participants, 0), coalesce(k.joins, 0), coalesce(k.check_ins, 0),
    coalesce(k.completions, 0), coalesce(k.volunteer_minutes, 0), coalesce(k.points, 0),
    coalesce(cast(k.saved_co2e_mg AS text), '{}'), NULL, NULL, NULL, p.counted_at"""

# Every condition on the period's own rows: prepared for all values at once, the planner knows nothing of a condition on
# the divisions and took 6 ms over it instead of 0.3.
_PLACES = """
SELECT d.code, d.name, d.level, %(columns)s, coalesce(p.rate_shrunk, -1) AS order_rate
FROM place_period p JOIN division d ON d.code = p.place_code %(kind)s
WHERE p.grain = :grain AND p.starts_on = :starts_on AND p.campaign_kind = ''
      AND starts_with(p.place_code, :within)
      AND (cast(:digits AS int) IS NULL OR length(p.place_code) = :digits) AND %(after)s
ORDER BY %(order)s LIMIT :limit
"""

_KIND_JOIN = """LEFT JOIN place_period k ON k.grain = p.grain AND k.starts_on = p.starts_on
    AND k.campaign_kind = :kind AND k.place_code = p.place_code"""

_AFTER: Mapping[Order, str] = {
    "code": "p.place_code > :code",
    "rate": "(coalesce(p.rate_shrunk, -1) < :rate OR coalesce(p.rate_shrunk, -1) = :rate AND p.place_code > :code)",
}
_ORDER: Mapping[Order, str] = {"code": "p.place_code", "rate": "order_rate DESC, p.place_code"}

# By whether one kind is asked for, and by order. Made once: reading 20 lines for their parameters costs as much as
# running them.
_PLACES_BY: Mapping[tuple[bool, Order], sa.TextClause] = {
    (of_kind, order): sa.text(
        _PLACES
        % {
            "columns": _COLUMNS_OF_KIND if of_kind else _COLUMNS,
            "kind": _KIND_JOIN if of_kind else "",
            "after": _AFTER[order],
            "order": _ORDER[order],
        }
    )
    for of_kind in (False, True)
    for order in _ORDER
}


class _Key(msgspec.Struct, array_like=True):
    """Where a page of places ended: the order it was in, and the rate and the code of its last row."""

    order: Order
    rate: float
    code: str


@dataclass(frozen=True, slots=True)
class PlaceQuery:
    """Which places: in the period that holds `on`, within one division, of one level; by code or highest rate first."""

    grain: Grain
    on: date
    kind: CampaignKind | None = None
    within: str | None = None
    level: DivisionLevel | None = None
    order: Order = "code"


def places(
    session: Session, actor: Actor, district: DistrictFigures, query: PlaceQuery, *, limit: int, cursor: str | None
) -> Table:
    """The places in the actor's scope, exact.

    Raises NotFound outside the scope and for staff of one organisation, KindsByMonth, BadCursor.
    """
    kind, order = query.kind, query.order
    if kind is not None and query.grain not in MARKED_GRAINS:
        raise KindsByMonth
    period = period_with(query.grain, query.on)
    within = _scope(actor, query.within)
    key = _Key(order, 2.0, "") if cursor is None else decode(cursor, _Key)
    if key.order != order:
        raise BadCursor
    values = {
        "grain": period.grain.value,
        "starts_on": period.starts_on,
        "within": within,
        "digits": None if query.level is None else DIGITS[query.level],
        "code": key.code,
        "limit": limit + 1,
        **({} if kind is None else {"kind": kind.value}),
        **({"rate": key.rate} if order == "rate" else {}),
    }
    rows = session.execute(_PLACES_BY[kind is not None, order], values).all()
    items = [_place(row, has_rate=kind is None) for row in rows[:limit]]
    if kind is None:
        items = _with_populations(session, items, within, district)
    end = rows[limit - 1] if len(rows) > limit else None
    return Table(
        period=period,
        kind=kind,
        counted_at=rows[0].counted_at if rows else None,
        priors=_priors(session, period, [f"{name}:{within[:6]}" for name in ("street", "community")]),
        items=items,
        next_cursor=None if end is None else encode((order, end.order_rate, end.code)),
    )


def kinds(session: Session, actor: Actor, *, grain: Grain, on: date, place: str | None) -> Table:
    """Each kind of campaign in one place of the actor's scope, in the period that holds a day.

    Raises NotFound, KindsByMonth.
    """
    if grain not in MARKED_GRAINS:
        raise KindsByMonth
    period = period_with(grain, on)
    place = _scope(actor, place)
    rows = session.execute(
        sa.text(
            "SELECT campaign_kind, participants, joins, check_ins, completions, volunteer_minutes, points,"
            " cast(saved_co2e_mg AS text) AS saved_co2e_mg, counted_at FROM place_period"
            " WHERE grain = :grain AND starts_on = :starts_on AND place_code = :place"
        ),
        {"grain": period.grain.value, "starts_on": period.starts_on, "place": place},
    ).all()
    kept = {row.campaign_kind: row for row in rows}
    nothing = (0, 0, 0, 0, 0, 0)
    items = []
    for each in CampaignKind:
        row = kept.get(each.value)
        participants, joins, check_ins, completions, minutes, points = nothing if row is None else row[1:7]
        savings = () if row is None else _savings(row.saved_co2e_mg)
        items.append(KindFigures(each.value, participants, joins, check_ins, completions, minutes, points, savings))
    counted_at = kept[ALL_KINDS].counted_at if ALL_KINDS in kept else None
    return Table(period, None, counted_at, (), items, None)


_SAVED = msgspec.json.Decoder(dict[str, int])

_ORGANISATIONS = sa.text(f"""
SELECT o.id, o.name, o.kind, o.community_code, {_COLUMNS}
FROM organisation_period p JOIN organisation o ON o.id = p.organisation_id
WHERE p.grain = :grain AND p.starts_on = :starts_on
      AND (cast(:own AS uuid) IS NULL OR p.organisation_id = :own) AND p.organisation_id > :after
      AND starts_with(o.community_code, :within) AND (cast(:kind AS text) IS NULL OR o.kind = :kind)
ORDER BY p.organisation_id LIMIT :limit
""")  # noqa: S608 -- composed of constants of this module

_NO_ID = UUID(int=0)


def organisations(
    session: Session,
    actor: Actor,
    *,
    grain: Grain,
    on: date,
    kind: OrganisationKind | None,
    limit: int,
    cursor: str | None,
) -> Table:
    """The organisations in the actor's scope that have members or campaigns in the period; staff of one see that one.

    Raises BadCursor.
    """
    period = period_with(grain, on)
    rows = session.execute(
        _ORGANISATIONS,
        {
            "grain": period.grain.value,
            "starts_on": period.starts_on,
            "own": actor.organisation_id,
            "within": actor.division or "",
            "kind": None if kind is None else kind.value,
            "after": _NO_ID if cursor is None else decode(cursor, tuple[UUID])[0],
            "limit": limit + 1,
        },
    ).all()
    items = [OrganisationFigures(row[0], row[1], row[2], row[3], _figures(row[4:16], has_rate=True)) for row in rows]
    page = page_of(items, limit, lambda item: (item.organisation_id,))
    peers = [f"organisation:{each.value}" for each in OrganisationKind if kind in (None, each)]
    counted_at = rows[0].counted_at if rows else None
    return Table(period, None, counted_at, _priors(session, period, peers), page.items, page.next_cursor)


_CAMPAIGN_SUMS = sa.text("""
SELECT c.id, coalesce(sum(t.participants), 0)::int AS participants, coalesce(sum(t.completions), 0)::int AS completions,
       coalesce(sum(t.points), 0)::bigint AS points, max(d.check_ins)::int AS check_ins,
       max(d.minutes)::bigint AS minutes, max(n.counted_at) AS counted_at
FROM unnest(cast(:ids AS uuid[])) AS c (id)
LEFT JOIN campaign_count t ON t.campaign_id = c.id
LEFT JOIN counted_campaign n ON n.campaign_id = c.id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(check_ins), 0) AS check_ins, coalesce(sum(volunteer_minutes), 0) AS minutes
    FROM campaign_day WHERE campaign_id = c.id) d
GROUP BY c.id
""")

_CAMPAIGN_SAVED = sa.text("""
SELECT campaign_id, cast(jsonb_object_agg(method, mg) AS text)
FROM (SELECT campaign_id, part.key AS method, sum(part.value::bigint)::bigint AS mg
      FROM campaign_count CROSS JOIN LATERAL jsonb_each_text(saved_co2e_mg) AS part
      WHERE campaign_id = ANY(:ids) GROUP BY 1, 2) by_method
GROUP BY 1
""")


def campaigns(
    session: Session,
    actor: Actor,
    *,
    grain: Grain | None,
    on: date,
    kind: CampaignKind | None,
    limit: int,
    cursor: str | None,
) -> Page[CampaignFigures]:
    """The campaigns in the actor's scope, newest first: all, or those that ran in the period that holds a day.

    Figures are those of the whole campaign. Raises BadCursor.
    """
    wanted = sa.select(Campaign).where(Campaign.state != CampaignState.DRAFT).order_by(Campaign.id.desc())
    if actor.organisation_id is not None:
        wanted = wanted.where(Campaign.organisation_id == actor.organisation_id)
    else:
        wanted = wanted.where(Campaign.division.startswith(_scope(actor, None), autoescape=True))
    if grain is not None:
        period = period_with(grain, on)
        wanted = wanted.where(Campaign.starts_on <= period.ends_on, Campaign.ends_on >= period.starts_on)
    if kind is not None:
        wanted = wanted.where(Campaign.kind == kind)
    if cursor is not None:
        wanted = wanted.where(Campaign.id < decode(cursor, tuple[UUID])[0])
    found = session.scalars(wanted.limit(limit + 1)).all()
    return page_of(_campaign_figures(session, found), limit, lambda row: (row.campaign_id,))


def _campaign_figures(session: Session, found: Sequence[Campaign]) -> list[CampaignFigures]:
    ids = [campaign.id for campaign in found]
    if not ids:
        return []
    sums = {row.id: row for row in session.execute(_CAMPAIGN_SUMS, {"ids": ids})}
    saved: dict[UUID, str] = dict(session.execute(_CAMPAIGN_SAVED, {"ids": ids}).all())
    return [
        CampaignFigures(
            campaign_id=campaign.id,
            title=campaign.title,
            kind=campaign.kind.value,
            division=campaign.division,
            organisation_id=campaign.organisation_id,
            starts_on=campaign.starts_on,
            ends_on=campaign.ends_on,
            state=campaign.state.value,
            participants=sums[campaign.id].participants,
            check_ins=sums[campaign.id].check_ins,
            completions=sums[campaign.id].completions,
            volunteer_minutes=sums[campaign.id].minutes,
            points=sums[campaign.id].points,
            savings=_savings(saved.get(campaign.id, "{}")),
            counted_at=sums[campaign.id].counted_at,
        )
        for campaign in found
    ]


# Shared


def _scope(actor: Actor, within: str | None) -> str:
    """The division asked for, or the actor's own. Raises NotFound outside it and for staff of one organisation."""
    if actor.division is None:
        raise NotFound
    if within is not None:
        actor.require_cover(within)
    return within or actor.division


def _place(row: Sequence[Any], *, has_rate: bool = True) -> PlaceFigures:
    return PlaceFigures(row[0], row[1], row[2], _figures(row[3:15], has_rate=has_rate), ())


def _figures(values: Sequence[Any], *, has_rate: bool) -> Figures:
    """The columns of _COLUMNS as figures."""
    registered, participants, joins, check_ins, completions, minutes, points, saved, shrunk, low, high, _ = values
    rate = None
    if has_rate and registered:
        rate = Rate(_share(participants, registered), _rounded(shrunk), _rounded(low), _rounded(high))
    return Figures(registered, participants, rate, joins, check_ins, completions, minutes, points, _savings(saved))


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 6)


def _share(count: int, of: int) -> float:
    return round(count / of, 6)


def _savings(saved: str) -> tuple[Saving, ...]:
    """The JSON of a row's milligrams by method, which msgspec reads ten times as fast as the driver would."""
    return tuple(Saving(method, mg // 1000) for method, mg in sorted(_SAVED.decode(saved).items()))


def _with_populations(
    session: Session, items: Sequence[PlaceFigures], within: str, district: DistrictFigures
) -> list[PlaceFigures]:
    """The items, all inside one division, with a rate for each census population that is known of their place."""
    loaded = populations_within(session, within)
    found = []
    for item in items:
        known = [
            Population(row.year, row.persons, row.source, row.confidence.value)
            for row in loaded.get(item.place_code, ())
        ]
        if item.place_code == district.code:
            known = [*district.populations, *known]
        rates = tuple(
            PopulationRate(
                each.year, each.persons, each.source, each.confidence, _share(item.figures.participants, each.persons)
            )
            for each in known
        )
        found.append(replace(item, population_rates=rates) if rates else item)
    return found


_PRIORS = sa.text("""
SELECT peers, mean, weight, peer_count FROM period_prior
WHERE grain = :grain AND starts_on = :starts_on AND peers = ANY(:peers) ORDER BY peers
""")


def _priors(session: Session, period: CalendarPeriod, peers: list[str]) -> tuple[Prior, ...]:
    rows = session.execute(_PRIORS, {"grain": period.grain.value, "starts_on": period.starts_on, "peers": peers})
    return tuple(Prior(row.peers, round(row.mean, 6), round(row.weight, 1), row.peer_count) for row in rows)
