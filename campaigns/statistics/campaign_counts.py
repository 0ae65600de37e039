"""Counting whole campaigns: who takes part, who completed every task, what they recorded on its days.

A count costs in proportion to the participants and their days, so it is made when something may have changed: small
campaigns every few minutes while they run, large ones a few times a day, old ones when a day of theirs changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives.models import Campaign, CampaignState, CampaignTask, Participation
from campaigns.drives.terms import tasks_of
from campaigns.statistics.counting import lock
from campaigns.statistics.marks import forget_campaign_marks
from campaigns.statistics.models import CampaignCount, CountedCampaign, CountedDay
from campaigns.tasks.progress import completed_select
from server.clock import business_day

CAMPAIGNS_AT_ONCE_MAX = 500
RECOUNT_SMALL = timedelta(minutes=15)
RECOUNT_LARGE = timedelta(hours=6)
LARGE_PARTICIPANTS = 5_000
# Late records, corrected check-ins and decisions about uploads come in for some weeks after the last day.
LATE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class _Community:
    participants: int
    completions: int


def campaigns_to_count(session: Session, *, now: datetime) -> Sequence[UUID]:
    """The campaigns whose count may be out of date, those never counted first, at most CAMPAIGNS_AT_ONCE_MAX."""
    today = business_day(now)
    size = (
        sa.select(sa.func.sum(CampaignCount.participants))
        .where(CampaignCount.campaign_id == Campaign.id)
        .scalar_subquery()
    )
    due = sa.case((size > LARGE_PARTICIPANTS, now - RECOUNT_LARGE), else_=now - RECOUNT_SMALL)
    day_changed = sa.exists().where(
        CountedDay.day.between(Campaign.starts_on, Campaign.ends_on), CountedDay.changed_at > CountedCampaign.counted_at
    )
    return session.scalars(
        sa.select(Campaign.id)
        .outerjoin(CountedCampaign, CountedCampaign.campaign_id == Campaign.id)
        .where(
            Campaign.state != CampaignState.DRAFT,
            sa.or_(
                CountedCampaign.campaign_id.is_(None),
                CountedCampaign.version != Campaign.version,
                sa.and_(Campaign.ends_on >= today - LATE, CountedCampaign.counted_at < due),
                sa.and_(Campaign.ends_on < today - LATE, day_changed),
            ),
        )
        .order_by(CountedCampaign.counted_at.nulls_first(), Campaign.id)
        .limit(CAMPAIGNS_AT_ONCE_MAX)
    ).all()


_RECORDED = sa.text("""
SELECT p.community_code,
       CASE WHEN r.behaviour = 'recycling' THEN v.recycling_method_id
            WHEN r.behaviour <> 'sorting' THEN v.travel_method_id END AS method,
       sum(r.points)::bigint, sum(r.saved_co2e_mg)::bigint
FROM participation p
JOIN resident_day r ON r.resident_id = p.resident_id AND r.day BETWEEN :starts_on AND :ends_on
LEFT JOIN rule_version v ON r.day >= v.valid_from AND (v.valid_to IS NULL OR r.day <= v.valid_to)
WHERE p.campaign_id = :campaign_id AND r.activities > 0
GROUP BY 1, 2 ORDER BY 1, 2
""")

_UNCOUNT = sa.text("DELETE FROM campaign_count WHERE campaign_id = :campaign_id")

_COUNT = sa.text("""
INSERT INTO campaign_count (campaign_id, community_code, participants, completions, points, saved_co2e_mg)
SELECT :campaign_id, community_code, participants, completions, points, saved_co2e_mg
FROM json_to_recordset(cast(:rows AS json)) AS c
    (community_code text, participants int, completions int, points bigint, saved_co2e_mg jsonb)
""")

_KEEP = sa.text("""
INSERT INTO counted_campaign AS kept (campaign_id, version, ends_on, counted_at)
VALUES (:campaign_id, :version, :ends_on, :now)
ON CONFLICT (campaign_id) DO UPDATE
    SET version = EXCLUDED.version, ends_on = EXCLUDED.ends_on, counted_at = EXCLUDED.counted_at
""")


def count_campaign(session: Session, campaign_id: UUID, *, now: datetime) -> None:
    """Count one campaign anew. Its last day, on which periods count completions, is marked when anything changed.

    Raises CountIsRunning.
    """
    lock(session)
    campaign = session.get(Campaign, campaign_id, populate_existing=True)
    if campaign is None:
        return
    values = {"campaign_id": campaign_id, "starts_on": campaign.starts_on, "ends_on": campaign.ends_on, "now": now}
    kept = session.get(CountedCampaign, campaign_id, populate_existing=True)
    before = _kept_rows(session, campaign_id)
    points: dict[str, int] = {}
    saved: dict[str, dict[str, int]] = {}
    for community, method, recorded_points, mg in session.execute(_RECORDED, values):
        points[community] = points.get(community, 0) + recorded_points
        if method is not None and mg:
            saved.setdefault(community, {})[method] = mg
    rows = [
        {
            "community_code": community,
            "participants": counted.participants,
            "completions": counted.completions,
            "points": points.get(community, 0),
            "saved_co2e_mg": saved.get(community, {}),
        }
        for community, counted in _people(session, campaign).items()
    ]
    if rows != before or kept is None or kept.ends_on != campaign.ends_on:
        session.execute(_UNCOUNT, values)
        session.execute(_COUNT, {**values, "rows": msgspec.json.encode(rows).decode()})
        ends = {campaign.ends_on} | ({kept.ends_on} if kept else set())
        forget_campaign_marks(session, [day for day in ends if day <= business_day(now)], now=now)
    session.execute(_KEEP, {**values, "version": campaign.version})


def _kept_rows(session: Session, campaign_id: UUID) -> list[dict[str, object]]:
    return [
        {
            "community_code": row.community_code,
            "participants": row.participants,
            "completions": row.completions,
            "points": row.points,
            "saved_co2e_mg": row.saved_co2e_mg,
        }
        for row in session.scalars(
            sa.select(CampaignCount)
            .where(CampaignCount.campaign_id == campaign_id)
            .order_by(CampaignCount.community_code)
            .execution_options(populate_existing=True)
        )
    ]


def _people(session: Session, campaign: Campaign) -> dict[str, _Community]:
    """Participants, and those of them who completed every task, by home on joining. None complete a cancelled one."""
    tasks: Sequence[CampaignTask] = tasks_of(session, campaign.id)
    everything: sa.ColumnElement[bool] = sa.false()
    source: sa.FromClause = Participation.__table__
    if tasks and campaign.state is not CampaignState.CANCELLED:
        done = completed_select(tasks).subquery()
        source = source.outerjoin(done, done.c.resident_id == Participation.resident_id)
        everything = done.c.completed == len(tasks)
    rows = session.execute(
        sa.select(Participation.community_code, sa.func.count(), sa.func.count().filter(everything))
        .select_from(source)
        .where(Participation.campaign_id == campaign.id)
        .group_by(Participation.community_code)
        .order_by(Participation.community_code)
    )
    return {community: _Community(participants, completions) for community, participants, completions in rows}
