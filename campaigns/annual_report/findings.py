"""Each indicator of the plan with what is known of it, and whether its target is met.

Nothing is estimated or counted here. What residents did comes from the frozen statistics, the green-travel share from
the published survey estimate, creation from the public register. What nobody has is said to be missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.annual_report import judging
from campaigns.annual_report.content import Figure, Indicator, Status, Target
from campaigns.annual_report.frozen_figures import ACTIVITY, MATERIALS, PARTICIPATION, SAVINGS, Frozen
from campaigns.annual_report.indicators import IndicatorEntry, Measure, Origin, TargetEntry
from campaigns.annual_report.judging import Verdict, applicable_target, judge
from campaigns.annual_report.sources import READING_NAMES, Sources, percent
from campaigns.creation.models import IndicatorFigure
from campaigns.drives.models import Campaign, CampaignState
from campaigns.statistics.creation_progress import ProgrammeProgress, Standing, TargetProgress
from points.carbon.models import Method
from points.earning.models import Behaviour
from points.earning.wording import MATERIAL_NAMES
from points.share.releases.goal import Answer, GoalLine, target_of
from points.share.releases.goal import Target as GoalTarget
from points.share.releases.publication import ReleaseSeen
from server.places.models import ThemeDay

ANSWERS = {
    Answer.MET: Status.MET,
    Answer.NOT_MET: Status.NOT_MET,
    Answer.CANNOT_BE_TOLD_YET: Status.CANNOT_BE_TOLD_YET,
}
# Why the survey does not tell; see points.share.releases.goal.Reason.
REASONS = {
    "interval-holds-line": (
        "95%置信区间跨越目标线，按现有样本量尚不能判定。",
        "The 95 % interval holds the goal line.",
    ),
    "within-about": (
        "估计值落在“左右”的范围内，增加样本量也不能判定。",
        "The estimate lies within what “about” may mean.",
    ),
    "unweighted": (
        "未经人口基准加权，不与目标线比较。",
        "Not weighted to a population, so never set against the goal.",
    ),
    "estimate-doubted": (
        "估计本身附有重要警示，不据此判定。",
        "The estimate carries cautions that forbid an answer.",
    ),
    "readings-differ": ("两种口径的结论不同，不作判定。", "The two readings answer differently."),
    "no-line-that-year": ("该年度没有目标线。", "The goal has no line for this year."),
}
# A register that nobody has used yet says nothing about who reached the standard.
NOBODY_APPLIED = Verdict(
    Status.NO_DATA,
    "平台创建名录中尚无该项创建的申报或命名，不能据此判定。",
    "Nobody has applied or been named on the platform yet, which decides nothing.",
)
NOT_FROZEN = Verdict(Status.NO_DATA, "该年度统计尚未冻结发布。", "The year's statistics have not been frozen yet.")


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of one indicator."""

    figures: Sequence[Figure]
    target: Target | None
    verdict: Verdict


def find_indicator(session: Session, entry: IndicatorEntry, sources: Sources) -> Indicator:
    """One indicator as the report has it."""
    found = _find(session, entry, sources)
    return Indicator(
        code=entry.code,
        title_zh=entry.title_zh,
        title_en=entry.title_en,
        unit=entry.unit,
        target=found.target,
        figures=list(found.figures),
        status=found.verdict.status,
        note_zh=found.verdict.note_zh,
        note_en=found.verdict.note_en,
    )


def _find(session: Session, entry: IndicatorEntry, sources: Sources) -> Found:
    if entry.origin is Origin.SHARE:
        return _of_share(sources)
    if entry.origin is Origin.CREATION:
        return _of_programme(sources.programmes.get(entry.programme or ""), sources)
    if entry.origin is Origin.ENTERED:
        return _of_entered(session, entry, sources)
    if entry.origin is Origin.STATISTICS:
        return _of_statistics(session, entry, sources)
    if entry.origin is Origin.THEME_DAYS:
        return _of_theme_days(session, sources)
    return Found([], _target(entry.targets, sources.year), judging.NO_DATA)


# The green-travel share


def _of_share(sources: Sources) -> Found:
    seen = sources.share
    if seen is None:
        verdict = Verdict(
            Status.NO_DATA,
            "该年度没有已发布的绿色出行调查估计。平台记录不是调查，不能代替。",
            "No survey estimate of this year has been published; records of the platform cannot stand for one.",
        )
        return Found([], _goal_target(sources.line, target_of(sources.line, sources.year)), verdict)
    goal = seen.goal
    note_zh, note_en = REASONS.get(goal.reason.value, ("", ""))
    persons = [each.persons_to_tell for each in goal.readings if each.persons_to_tell is not None]
    if persons and goal.answer is Answer.CANNOT_BE_TOLD_YET:
        note_zh += f"若实际比例与本次估计相同，约需调查{max(persons):,}人方能判定。"
        note_en += f" Were the share as estimated, about {max(persons):,} respondents would tell."
    verdict = Verdict(ANSWERS[goal.answer], note_zh, note_en)
    return Found(_share_figures(seen), _goal_target(sources.line, goal.target), verdict)


def _goal_target(line: GoalLine, found: GoalTarget | None) -> Target | None:
    """The goal line's figure for a year. Between two years of the plan it is a reading aid of ours, and says so."""
    if found is None:
        return None
    text, confidence = line.text, line.confidence.value
    if found.interpolated:
        text, confidence = f"{text}；{found.year}年按两个目标年之间直线内插，仅供参照", "C"
    return Target(
        year=found.year,
        value=round(found.share * 100, 4),
        about=found.about,
        text_zh=text,
        source=line.source,
        confidence=confidence,
    )


def _share_figures(seen: ReleaseSeen) -> list[Figure]:
    margins = seen.margins
    population = f"；总体：{margins.population}（{margins.source}，{margins.as_of}）" if margins else "；未加权"
    measured = max((wave.last_on for wave in seen.waves), default=None)
    figures = []
    for reading in seen.headline.readings:
        label_zh, label_en = READING_NAMES.get(reading.reading, (reading.reading, reading.reading))
        estimate = reading.estimate
        figures.append(
            Figure(
                label_zh=label_zh,
                label_en=label_en,
                value=percent(estimate.share),
                low=percent(estimate.low),
                high=percent(estimate.high),
                as_of=str(measured or seen.headline.year),
                source_zh=(
                    f"居民出行调查估计{seen.headline.name}，定义{seen.headline.definition_id}，"
                    f"有效样本{estimate.n:,}人{population}"
                ),
                source_en=(
                    f"survey estimate {seen.headline.name}, definition {seen.headline.definition_id}, "
                    f"n = {estimate.n:,}" + ("" if margins else ", unweighted")
                ),
                confidence="C",
            )
        )
    return figures


# Creation


def _of_programme(programme: ProgrammeProgress | None, sources: Sources) -> Found:
    if programme is None:
        return Found([], None, judging.NO_DATA)
    if programme.subjects is None:
        return _of_households(programme, sources)
    progress = _applicable_progress(programme.targets, sources.year)
    standing: Standing | None = programme.subjects
    target, verdict = None, judging.FOLLOWED
    if progress is not None and progress.share_min is not None:
        standing, target = progress.whole, _target_of(progress)
        verdict = _verdict(progress, target, sources.year)
    if standing is None or not standing.total:
        return Found([], target, judging.NO_DATA)
    if not standing.named and not standing.applied:
        return Found([], target, NOBODY_APPLIED)
    unknown = f"，另有{standing.unclassified}个规模或级别不详" if standing.unclassified else ""
    figure = Figure(
        label_zh="",
        label_en="",
        value=round(standing.named / standing.total * 100, 1),
        detail_zh=f"应创建{standing.total}个，已命名{standing.named}个，创建中{standing.applied}个{unknown}",
        detail_en=f"{standing.named} of {standing.total} named, {standing.applied} under way",
        as_of=sources.through.isoformat(),
        source_zh="平台创建名录（命名在有效期内）",
        source_en="the platform's register of names in force",
        confidence="C",
    )
    return Found([figure], target, verdict)


def _of_households(programme: ProgrammeProgress, sources: Sources) -> Found:
    figure = Figure(
        label_zh="",
        label_en="",
        value=programme.households_named,
        withheld=programme.households_named is None,
        as_of=sources.through.isoformat(),
        source_zh="平台创建名录（命名在有效期内）",
        source_en="the platform's register of names in force",
        confidence="C",
    )
    return Found([figure], None, judging.FOLLOWED)


def _applicable_progress(targets: Sequence[TargetProgress], year: int) -> TargetProgress | None:
    due = [target for target in targets if target.year <= year]
    if due:
        return max(due, key=lambda target: target.year)
    return min(targets, key=lambda target: target.year, default=None)


def _target_of(progress: TargetProgress) -> Target:
    return Target(
        year=progress.year,
        value=round((progress.share_min or 0) * 100, 4),
        about=progress.is_about,
        text_zh=progress.text,
        source=progress.source,
        confidence=progress.confidence,
    )


def _verdict(progress: TargetProgress, target: Target, year: int) -> Verdict:
    if progress.answer == "met":
        return Verdict(Status.MET)
    if progress.answer == "not-met":
        return judging.not_met(target, year)
    if target.about:
        return judging.ABOUT
    return Verdict(
        Status.CANNOT_BE_TOLD_YET,
        "部分单位的规模或级别不详，可能改变结论。",
        "Subjects of unknown size or rank could turn the answer.",
    )


# Entered figures, frozen statistics, theme days


def _of_entered(session: Session, entry: IndicatorEntry, sources: Sources) -> Found:
    target = _target(entry.targets, sources.year)
    newest = session.scalars(
        sa.select(IndicatorFigure)
        .where(IndicatorFigure.programme_code == entry.programme, IndicatorFigure.measured_on <= sources.through)
        .order_by(IndicatorFigure.measured_on.desc())
        .limit(1)
    ).first()
    if newest is None:
        return Found([], target, judging.NO_DATA)
    figure = Figure(
        label_zh="",
        label_en="",
        value=float(newest.value),
        as_of=newest.measured_on.isoformat(),
        source_zh=newest.source,
        source_en=newest.source,
        confidence=newest.confidence.value,
    )
    return Found([figure], target, judge(figure.value, target, sources.year))


def _target(entries: Sequence[TargetEntry], year: int) -> Target | None:
    return applicable_target(
        [
            Target(
                year=entry.year,
                value=entry.value,
                about=entry.about,
                text_zh=entry.text_zh,
                source=entry.source,
                confidence=entry.confidence.value,
            )
            for entry in entries
        ],
        year,
    )


def _of_statistics(session: Session, entry: IndicatorEntry, sources: Sources) -> Found:
    target = _target(entry.targets, sources.year)
    frozen = sources.statistics
    if frozen is None:
        return Found([], target, NOT_FROZEN)
    behaviour = "" if entry.behaviour is None else entry.behaviour.value
    if entry.measure is Measure.SAVINGS:
        return Found(_saving_figures(session, frozen, sources), target, judging.FOLLOWED)
    if entry.measure is Measure.RESIDENTS and not behaviour:
        figures = [_frozen_figure(frozen, frozen.of(PARTICIPATION, "", "participants"), sources)]
    elif entry.measure is Measure.WEIGHT:
        figures = [_frozen_figure(frozen, _kilograms(frozen.of(ACTIVITY, behaviour, "weight_g")), sources)]
        if entry.behaviour is Behaviour.RECYCLING:
            figures += [
                _frozen_figure(
                    frozen,
                    _kilograms(frozen.of(MATERIALS, material, "weight_g")),
                    sources,
                    *MATERIAL_NAMES.get(material, (material, material)),
                )
                for material in frozen.categories(MATERIALS)
            ]
    else:
        measure = "residents" if entry.measure is Measure.RESIDENTS else "activities"
        figures = [_frozen_figure(frozen, frozen.of(ACTIVITY, behaviour, measure), sources)]
    total = figures[0].value
    # A target on what residents recorded by themselves is judged like any other; the plan of Nankai has none.
    verdict = judging.FOLLOWED if figures[0].withheld else judge(total, target, sources.year)
    return Found(figures, target, verdict)


def _frozen_figure(
    frozen: Frozen, value: float | None, sources: Sources, label_zh: str = "", label_en: str = ""
) -> Figure:
    name = frozen.name if frozen.revision == 1 else f"{frozen.name}.{frozen.revision}"
    return Figure(
        label_zh=label_zh,
        label_en=label_en,
        value=value,
        withheld=value is None,
        as_of=sources.through.isoformat(),
        source_zh=f"平台公开统计{name}（{frozen.frozen_on}冻结）",
        source_en=f"the platform's public statistics {name}, frozen on {frozen.frozen_on}",
        confidence="C",
    )


def _kilograms(grams: int | None) -> float | None:
    return None if grams is None else round(grams / 1000, 1)


def _saving_figures(session: Session, frozen: Frozen, sources: Sources) -> list[Figure]:
    """One figure for each method, with the method's own confidence; never a sum."""
    methods = {
        method.id: method
        for method in session.scalars(sa.select(Method).where(Method.id.in_(frozen.categories(SAVINGS))))
    }
    figures = []
    for method_id in frozen.categories(SAVINGS):
        method = methods.get(method_id)
        figure = _frozen_figure(
            frozen,
            _kilograms(frozen.of(SAVINGS, method_id, "saved_co2e_g")),
            sources,
            method.title_zh if method else method_id,
            method.title_en if method else method_id,
        )
        figures.append(
            figure
            if method is None
            else Figure(
                **{
                    **{name: getattr(figure, name) for name in figure.__struct_fields__},
                    "source_zh": f"{figure.source_zh}；核算方法{method_id}",
                    "source_en": f"{figure.source_en}; method {method_id}",
                    "confidence": method.confidence.value,
                }
            )
        )
    return figures


def _of_theme_days(session: Session, sources: Sources) -> Found:
    """Of the year's announced theme days that have begun, those on which a campaign of the district ran."""
    held = sa.exists().where(
        Campaign.state.not_in([CampaignState.DRAFT, CampaignState.CANCELLED]),
        Campaign.division.startswith(sources.line.district_code, autoescape=True),
        Campaign.starts_on <= ThemeDay.ends_on,
        Campaign.ends_on >= ThemeDay.starts_on,
    )
    wanted = sa.select(ThemeDay.name_zh, ThemeDay.name_en, held).where(
        ThemeDay.year == sources.year, ThemeDay.starts_on <= sources.through
    )
    rows = session.execute(wanted.order_by(ThemeDay.starts_on, ThemeDay.code)).all()
    if not rows:
        return Found([], None, judging.NO_DATA)
    with_campaign = [row for row in rows if row[2]]
    names_zh = "、".join(row[0] for row in with_campaign)
    names_en = ", ".join(row[1] for row in with_campaign)
    figure = Figure(
        label_zh="",
        label_en="",
        value=len(with_campaign),
        detail_zh=f"本年度已公布的主题日（周、月）共{len(rows)}个" + (f"，开展活动的有{names_zh}" if names_zh else ""),
        detail_en=f"of {len(rows)} theme days, weeks and months" + (f": {names_en}" if names_en else ""),
        as_of=sources.through.isoformat(),
        source_zh="平台活动记录与主题日历",
        source_en="the platform's campaigns and the calendar of theme days",
        confidence="C",
    )
    return Found([figure], None, judging.FOLLOWED)
