"""Composing a year's assessment from the indicators of the plan and what the other rooms know of them."""

from datetime import date
from pathlib import Path

from sqlalchemy.orm import Session

from campaigns.annual_report.charts import charts_of, with_rates
from campaigns.annual_report.content import Content, Theme
from campaigns.annual_report.findings import find_indicator
from campaigns.annual_report.indicators import read_indicators
from campaigns.annual_report.sources import Sources, read_sources
from points.share.releases.goal import read_goal


def assess(session: Session, folder: Path, *, year: int, revision: int, correction: str, today: date) -> Content:
    """A year's assessment, as far as the year has gone. Raises IndicatorsError, GoalDataError."""
    file, line = read_indicators(folder), read_goal(folder)
    sources = read_sources(session, line, year=year, through=min(date(year, 12, 31), today))
    words = {"district": line.district_name, "code": line.district_code, "year": year}
    themes = [
        Theme(
            code=theme.code,
            title_zh=theme.title_zh,
            title_en=theme.title_en,
            indicators=[find_indicator(session, entry, sources) for entry in theme.indicators],
            charts=[chart for entry in theme.indicators for chart in charts_of(session, entry, sources)],
        )
        for theme in file.themes
    ]
    notes_zh, notes_en = _notes(sources)
    return Content(
        district_code=line.district_code,
        district_name=line.district_name,
        year=year,
        revision=revision,
        title_zh=file.title_zh.format(**words),
        title_en=file.title_en.format(**words),
        document=file.document,
        document_number=file.document_number,
        document_on=file.document_on.isoformat(),
        confidence=file.confidence.value,
        made_on=today.isoformat(),
        through=sources.through.isoformat(),
        correction=correction,
        themes=[with_rates(theme) for theme in themes],
        notes_zh=notes_zh,
        notes_en=notes_en,
    )


def _notes(sources: Sources) -> tuple[list[str], list[str]]:
    """What a reader of the figures must know, in both languages."""
    zh = [
        "数据可信度标记：V为已核对原始来源；V2为仅见于二手来源；C为由已核对数据计算或由平台记录统计；R为一般知识，未经核对。",
        "绿色出行比例来自居民出行调查的统计估计，附95%置信区间，并列出两种口径。平台记录由居民自愿产生，不是调查样本，"
        "不用于判定该指标。",
        "居民数不足10人的数字，以及可能由其推算出这类数字的其他数字，均不公布。",
        "不同核算方法的减排量不得相加。",
    ]
    en = [
        "Confidence: V read in the source named; V2 in a secondary source only; C computed from verified figures or "
        "counted from the platform's records; R general knowledge, not checked.",
        "The green-travel share is a survey estimate with its 95 % interval, under both readings. Records of the "
        "platform are made by choice, are no sample, and never answer for it.",
        "Figures of fewer than 10 residents are withheld, and others from which they could be worked out.",
        "Grams saved under different methods are never added up.",
    ]
    if sources.share is not None:
        proof = sources.share.proof
        zh.append(f"绿色出行估计{sources.share.headline.name}的计算结果SHA-256：{proof.result_sha256}。")
        en.append(f"SHA-256 of the result of estimate {sources.share.headline.name}: {proof.result_sha256}.")
        for caution in sources.share.cautions:
            zh.append(f"调查估计的警示：{caution.text_zh}")
            en.append(f"Caution of the estimate: {caution.text_en}")
    if sources.statistics is not None:
        frozen = sources.statistics
        zh.append(f"平台公开统计{frozen.name}（第{frozen.revision}版）的SHA-256：{frozen.sha256}。")
        en.append(f"SHA-256 of the public statistics {frozen.name}, revision {frozen.revision}: {frozen.sha256}.")
    return zh, en
