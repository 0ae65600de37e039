"""The public tables of participation: residents who took part by place, and in campaigns by kind."""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives.models import CampaignKind
from campaigns.statistics.marks import changed_days
from campaigns.statistics.models import ALL_KINDS, PlacePeriod
from points.earning.models import Behaviour
from points.open_data.activity_tables import ACTIVITY
from points.open_data.tables import FixedTable, Link, Measure, Row, Within
from points.statistics.periods import CalendarPeriod, Grain

PARTICIPATION, CAMPAIGNS = "participation", "campaign-participants"

KIND_NAMES = {
    CampaignKind.CHALLENGE.value: ("挑战赛", "challenge"),
    CampaignKind.THEME_DAY.value: ("主题日活动", "theme day"),
    CampaignKind.VOLUNTEER.value: ("志愿服务", "volunteering"),
    CampaignKind.TREE_PLANTING.value: ("义务植树", "tree planting"),
    CampaignKind.CLEAN_PLATE.value: ("光盘行动", "clean plate"),
    CampaignKind.GREEN_SCHOOL.value: ("绿色学校", "green school"),
    CampaignKind.SECOND_HAND.value: ("二手交换", "second hand"),
}


def _is_settled(session: Session, period: CalendarPeriod) -> bool:
    return not changed_days(session, period.starts_on, period.ends_on)


def _kept(session: Session, period: CalendarPeriod, *where: sa.ColumnElement[bool]) -> Iterator[PlacePeriod]:
    wanted = sa.select(PlacePeriod).where(
        PlacePeriod.grain == period.grain, PlacePeriod.starts_on == period.starts_on, *where
    )
    yield from session.scalars(wanted.execution_options(populate_existing=True))


def _participation(session: Session, period: CalendarPeriod) -> Iterator[Row]:
    for row in _kept(session, period, PlacePeriod.campaign_kind == ALL_KINDS):
        yield Row(row.place_code, "", {"participants": row.participants, "registered": row.registered})


def _by_kind(session: Session, period: CalendarPeriod) -> Iterator[Row]:
    district = sa.func.length(PlacePeriod.place_code) == 6
    for row in _kept(session, period, PlacePeriod.campaign_kind != ALL_KINDS, district):
        yield Row(row.place_code, row.campaign_kind, {"participants": row.participants})


def _links(_session: Session, period: CalendarPeriod) -> list[Link]:
    """Who walks takes part, and who takes part is registered: the differences are counts of residents too."""
    whole = (PARTICIPATION, "", "participants")
    links: list[Link] = [Within((ACTIVITY, behaviour.value, "residents"), whole) for behaviour in Behaviour]
    if period.grain is Grain.MONTH:
        links.append(Within(whole, (PARTICIPATION, "", "registered")))
    return links


TABLES = [
    FixedTable(
        code=PARTICIPATION,
        title_zh="各地居民参与",
        title_en="Participation by place",
        note_zh="参与居民为期内至少有一条记录的不同居民，按最后一次记录时的居住地统计；不可跨时期相加。",
        note_en="Participants are distinct residents with at least one record in the period, at the home of their last"
        " one; not to be added up over periods.",
        category_zh="（无）",
        category_en="(none)",
        measures=(
            Measure(
                "registered",
                "登记居民",
                "Registered",
                "人 residents",
                "期末登记居民数；与上次公布之数相差不足10人时不公布。仅月度公布。",
                "Registered residents at the end of the month; withheld while it differs by fewer than 10 from what"
                " was told last. In monthly releases only.",
            ),
            Measure(
                "participants", "参与居民", "Participants", "人 residents", "不同居民人数。", "Distinct residents."
            ),
        ),
        rows=_participation,
        is_settled=_is_settled,
        counts=("participants", "registered"),
        stocks=frozenset({"registered"}),
        links=_links,
    ),
    FixedTable(
        code=CAMPAIGNS,
        title_zh="各类活动参加居民",
        title_en="Residents in campaigns by kind",
        note_zh="期内举办的该类活动的报名居民，全区合计；参加两类活动的居民在两类中各计一次。",
        note_en="Residents enrolled in campaigns of the kind that ran in the period, in the whole district; somebody in"
        " campaigns of two kinds counts in both.",
        category_zh="活动类型",
        category_en="kind of campaign",
        measures=(
            Measure(
                "participants", "参加居民", "Participants", "人 residents", "不同居民人数。", "Distinct residents."
            ),
        ),
        rows=_by_kind,
        is_settled=_is_settled,
        counts=("participants",),
        category_names=KIND_NAMES,
        code_digits=frozenset({6}),
    ),
]
