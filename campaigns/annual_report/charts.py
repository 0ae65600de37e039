"""Which charts a report has, and the values in them."""

from sqlalchemy.orm import Session

from campaigns.annual_report.content import Bar, Chart, Line, Theme
from campaigns.annual_report.frozen_figures import MATERIALS, PARTICIPATION
from campaigns.annual_report.indicators import IndicatorEntry, Measure, Origin
from campaigns.annual_report.sources import READING_NAMES, Sources, percent
from points.earning.models import Behaviour
from points.earning.wording import MATERIAL_NAMES
from points.share.releases import publication

BARS_MAX = 20


def charts_of(session: Session, entry: IndicatorEntry, sources: Sources) -> list[Chart]:
    """The charts that go with an indicator; none without anything to show."""
    if entry.origin is Origin.SHARE:
        return _share_chart(session, entry, sources)
    if entry.measure is Measure.WEIGHT and entry.behaviour is Behaviour.RECYCLING:
        return _material_chart(entry, sources)
    if entry.measure is Measure.RESIDENTS:
        return _month_chart(sources)
    return []


def _share_chart(session: Session, entry: IndicatorEntry, sources: Sources) -> list[Chart]:
    lines = []
    for each in publication.trends(session, until=sources.year):
        # Never set against the goal: what stands for no population.
        points = [point for point in each.points if point.left_out != "unweighted" and point.year <= sources.year]
        if points:
            name_zh, name_en = READING_NAMES.get(each.reading, (each.reading, each.reading))
            lines.append(
                Line(
                    name_zh=name_zh,
                    name_en=name_en,
                    xs=[float(point.year) for point in points],
                    ys=[percent(point.share) for point in points],
                    lows=[percent(point.low) for point in points],
                    highs=[percent(point.high) for point in points],
                )
            )
    if not lines:
        return []
    if sources.line.points:
        goal = Line(
            name_zh="目标线",
            name_en="goal line",
            xs=[float(point.year) for point in sources.line.points],
            ys=[round(point.share * 100, 4) for point in sources.line.points],
            dashed=True,
        )
        lines.append(goal)
    return [
        Chart(
            name=entry.code,
            kind="lines",
            title_zh="绿色出行比例调查估计（95%置信区间）与目标线",
            title_en="The estimated green-travel share with its 95 % interval, and the goal line",
            unit="%",
            lines=lines,
            source_zh="已发布的居民出行调查估计",
        )
    ]


def _material_chart(entry: IndicatorEntry, sources: Sources) -> list[Chart]:
    frozen = sources.statistics
    if frozen is None:
        return []
    weights = [(material, frozen.of(MATERIALS, material, "weight_g")) for material in frozen.categories(MATERIALS)]
    bars = [
        Bar(label=MATERIAL_NAMES.get(material, (material,))[0], value=round(grams / 1000, 1))
        for material, grams in weights
        if grams
    ]
    bars.sort(key=lambda bar: (-bar.value, bar.label))
    if not bars:
        return []
    return [
        Chart(
            name=entry.code,
            kind="bars",
            title_zh=f"{sources.year}年平台记录的再生资源回收量（按材料）",
            title_en=f"Recyclables recorded on the platform in {sources.year}, by material",
            unit=entry.unit,
            bars=bars[:BARS_MAX],
            source_zh=f"平台公开统计{frozen.name}",
        )
    ]


def _month_chart(sources: Sources) -> list[Chart]:
    """Residents who took part, month by month; a month that is withheld or not frozen has no bar."""
    counts = {month: frozen.of(PARTICIPATION, "", "participants") for month, frozen in sources.months.items()}
    bars = [Bar(label=f"{month}月", value=float(count)) for month, count in sorted(counts.items()) if count]
    if len(bars) < 2:
        return []
    return [
        Chart(
            name="participants-by-month",
            kind="columns",
            title_zh=f"{sources.year}年各月平台参与居民数",
            title_en=f"Residents who took part, by month of {sources.year}",
            unit="人",
            bars=bars,
            source_zh="平台公开月度统计",
        )
    ]


def with_rates(theme: Theme) -> Theme:
    """A theme with a chart of its rates against their targets, where there are several."""
    bars = [
        Bar(
            label=indicator.title_zh,
            value=indicator.figures[0].value or 0.0,
            target=indicator.target.value if indicator.target else None,
        )
        for indicator in theme.indicators
        if indicator.unit == "%" and len(indicator.figures) == 1 and indicator.figures[0].value is not None
    ]
    if len(bars) < 2:
        return theme
    chart = Chart(
        name=f"{theme.code}-rates",
        kind="bars",
        title_zh=f"{theme.title_zh}：完成率与目标",
        title_en=f"{theme.title_en}: rates and targets",
        unit="%",
        bars=bars,
        source_zh="平台创建名录",
    )
    return Theme(
        code=theme.code,
        title_zh=theme.title_zh,
        title_en=theme.title_en,
        indicators=theme.indicators,
        charts=[*theme.charts, chart],
    )
