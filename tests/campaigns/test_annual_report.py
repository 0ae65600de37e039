"""Annual reports: honest statuses, nothing but what is public, four eyes, and documents set as Chinese ones are."""

import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import docx
import msgspec
import pytest
import sqlalchemy as sa
from attendance_builders import a_campaign
from creation_builders import case_of, load_data, put_small_rubric_in_force
from docx.oxml.ns import qn
from flask import Flask
from flask.testing import FlaskClient
from share_release_builders import made_up
from share_release_builders import published as published_share
from sqlalchemy.orm import Session

from campaigns.annual_report import documents, judging, reports, wording
from campaigns.annual_report.content import (
    Bar,
    Chart,
    Content,
    Figure,
    Indicator,
    Line,
    Status,
    Target,
    Theme,
    digest,
)
from campaigns.annual_report.indicators import IndicatorsError, read_indicators
from campaigns.annual_report.models import DOCUMENT, AnnualReport, AnnualReportFile, ReportState
from campaigns.creation.steps import ApplicationState
from campaigns.drives.models import CampaignState
from points.open_data.models import StatisticsCell, StatisticsRelease
from points.statistics.periods import Grain
from server.access import Actor, Role
from server.audit import AuditEntry
from server.clock import SHANGHAI
from server.database import new_id
from server.settings import PLACES_DATA

NANKAI, DISTRICT = PLACES_DATA / "nankai", "120104"
SPRING = datetime(2026, 3, 1, 12, 0, tzinfo=SHANGHAI)  # 2025 is over, 2026 is not
REPORTS = "/api/v1/annual-reports"


# ── Judging, words and the data file: plain values ──


def target(value: float = 75, *, year: int = 2025, about: bool = False) -> Target:
    return Target(year=year, value=value, about=about, text_zh="目标", source="文件", confidence="V")


@pytest.mark.parametrize(
    ("value", "wanted", "year", "status"),
    [
        (75.0, target(), 2025, Status.MET),
        (74.9, target(), 2025, Status.NOT_MET),
        (74.9, target(), 2027, Status.NOT_MET),
        (74.9, target(year=2030), 2025, Status.CANNOT_BE_TOLD_YET),  # not due yet
        (80.0, target(year=2030), 2025, Status.MET),
        (99.0, target(about=True), 2025, Status.CANNOT_BE_TOLD_YET),
        (10.0, target(about=True), 2025, Status.CANNOT_BE_TOLD_YET),
        (None, target(), 2025, Status.NO_DATA),
        (12.0, None, 2025, Status.FOLLOWED),
        (None, None, 2025, Status.NO_DATA),
    ],
)
def test_a_status_says_no_more_than_is_known(
    value: float | None, wanted: Target | None, year: int, status: Status
) -> None:
    assert judging.judge(value, wanted, year).status is status


def test_a_year_is_held_to_the_last_target_that_is_due_or_else_to_the_first() -> None:
    targets = [target(50, year=2025), target(100, year=2030)]
    found = [judging.applicable_target(targets, year) for year in (2024, 2025, 2029, 2030, 2031)]
    assert [each.value for each in found if each] == [50, 50, 50, 100, 100]
    assert judging.applicable_target([], 2025) is None


def test_numbers_targets_and_days_are_worded_as_in_official_documents() -> None:
    assert [wording.chinese_number(each) for each in (1, 9, 10, 12, 20, 35)] == [
        "一",
        "九",
        "十",
        "十二",
        "二十",
        "三十五",
    ]
    assert wording.day("2026-03-01") == "2026年3月1日"
    assert [wording.number(each) for each in (75.0, 1234.56, 12_345_678.9)] == ["75", "1,234.6", "12,345,679"]
    assert wording.target(target(80, year=2030, about=True), "%") == "80%左右（2030年）"
    assert wording.target(target(100), "%") == "100%（2025年）"
    assert wording.target(None, "%") == "未设目标值"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('code = "green-mall"', 'code = "green-school"', "stands here twice"),
        ('programme = "green-mall"', "", "`programme` goes with"),
        ('from = "share"', 'from = "elsewhere"', "Invalid enum value"),
        ('measure = "weight"', "", "`measure` goes with"),
        ("{district}{year}", "{district.__class__}", "a title names something other"),
        ("value = 100", 'value = "much"', "Expected `float`"),
    ],
)
def test_a_fault_in_the_indicators_names_the_file(tmp_path: Path, old: str, new: str, fault: str) -> None:
    text = (NANKAI / "indicators.toml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "indicators.toml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(IndicatorsError, match=r"indicators\.toml: .*" + re.escape(fault)):
        read_indicators(tmp_path)


# ── The documents ──


def figure(value: float | None, **changes: Any) -> Figure:
    content: dict[str, Any] = {
        "label_zh": "",
        "label_en": "",
        "value": value,
        "as_of": "2025-12-31",
        "source_zh": "“来源”——测试",
        "source_en": "test",
        "confidence": "C",
    }
    return Figure(**{**content, **changes})


def small_content() -> Content:
    indicators = [
        Indicator(
            code=f"i{number}",
            title_zh=f"指标“{number}”",
            title_en="x",
            unit="%",
            target=target() if number % 2 else None,
            figures=[figure(70 + number / 10, low=68.0, high=73.5)] if number else [],
            status=list(Status)[number % 5],
            note_zh="说明……",
            note_en="",
        )
        for number in range(12)
    ]
    charts = [
        Chart(
            name="lines",
            kind="lines",
            title_zh="估计与目标线",
            title_en="",
            unit="%",
            source_zh="",
            lines=[
                Line(name_zh="严格口径", name_en="", xs=[2025], ys=[70], lows=[68], highs=[73.5]),
                Line(name_zh="目标线", name_en="", xs=[2025, 2030], ys=[75, 80], dashed=True),
            ],
        ),
        Chart(
            name="bars",
            kind="bars",
            title_zh="完成率",
            title_en="",
            unit="%",
            source_zh="",
            bars=[Bar(label="绿色社区", value=63.7, target=100), Bar(label="绿色学校", value=0)],
        ),
    ]
    return Content(
        district_code=DISTRICT,
        district_name="南开区",
        year=2025,
        revision=2,
        title_zh="南开区2025年度评估报告",
        title_en="Annual assessment",
        document="《方案》",
        document_number="南开政发〔2022〕10号",
        document_on="2022-12-14",
        confidence="V",
        made_on="2026-03-01",
        through="2025-12-31",
        correction="更正",
        themes=[Theme(code="t", title_zh="绿色出行", title_en="", indicators=indicators, charts=charts)],
        notes_zh=["说明一。", "说明二。"],
        notes_en=["", ""],
    )


@pytest.fixture(scope="module")
def drawn() -> dict[str, bytes]:
    return documents.draw(small_content())


CHINESE = re.compile("[\u4e00-\u9fff“”…—·]")
CHINESE_FONTS = {"宋体", "黑体", "仿宋", "楷体"}


def test_no_chinese_text_of_the_document_is_set_in_a_latin_font(drawn: dict[str, bytes]) -> None:
    made = docx.Document(io.BytesIO(drawn[DOCUMENT]))

    for fonts in made.styles.element.iter(qn("w:rFonts")):
        assert fonts.get(qn("w:eastAsia")) in CHINESE_FONTS
        assert not [name for name in fonts.attrib if name.lower().endswith("theme")], "a theme's font goes before ours"
    languages = [*made.styles.element.iter(qn("w:lang")), *made.settings.element.iter(qn("w:themeFontLang"))]
    assert {each.get(qn("w:eastAsia")) for each in languages} == {"zh-CN"}
    parts = [made.element, *(each._element for each in (made.sections[0].footer, made.sections[0].even_page_footer))]
    runs = [run for part in parts for run in part.iter(qn("w:r"))]
    assert len(runs) > 100
    for run in runs:
        text = "".join(each.text or "" for each in run.iter(qn("w:t")))
        if CHINESE.search(text):
            fonts = run.find(qn("w:rPr")).find(qn("w:rFonts"))
            assert fonts.get(qn("w:hint")) == "eastAsia", text
            assert fonts.get(qn("w:eastAsia"), "宋体") in CHINESE_FONTS
    full = "".join(each.text or "" for each in made.element.iter(qn("w:t")))
    assert not re.search("[\u4e00-\u9fff][,;:!?]|[,;:!?][\u4e00-\u9fff]", full), "half-width marks between Chinese"


def test_the_page_headings_and_tables_follow_the_standard_for_official_documents(drawn: dict[str, bytes]) -> None:
    made = docx.Document(io.BytesIO(drawn[DOCUMENT]))
    section = made.sections[0]

    assert [round(each.mm) for each in (section.page_width, section.page_height)] == [210, 297]
    margins = (section.top_margin, section.bottom_margin, section.left_margin, section.right_margin)
    assert [round(each.mm) for each in margins] == [37, 35, 28, 26]
    assert made.settings.odd_and_even_pages_header_footer
    for footer in (section.footer, section.even_page_footer):
        assert " PAGE " in [each.text for each in footer._element.iter(qn("w:instrText"))]
        assert footer.paragraphs[0].text == "— 1 —"
    headings = [each.text for each in made.paragraphs if each.style.name == "Heading 1"]
    assert headings == ["一、总体情况", "二、绿色出行", "三、数据来源与说明"]
    assert made.styles["Normal"].font.size.pt == 16
    body = next(each for each in made.paragraphs if each.text.startswith("根据《方案》"))
    assert body._p.pPr.ind.get(qn("w:firstLineChars")) == "200"
    assert len(made.tables) == 2
    for table in made.tables:
        heads = [row for row in table.rows if row._tr.trPr.find(qn("w:tblHeader")) is not None]
        assert heads == [table.rows[0]] or [row._tr for row in heads] == [table.rows[0]._tr]
        assert all(row._tr.trPr.find(qn("w:cantSplit")) is not None for row in table.rows)
    assert [cell.text for cell in made.tables[0].rows[0].cells] == ["序号", "指标", "目标", "完成情况", "评估结论"]
    assert len(made.tables[0].rows) == 13
    shapes = made.inline_shapes
    assert len(shapes) == 2
    assert [each._inline.docPr.get("title") for each in shapes] == ["估计与目标线", "完成率"]
    assert "绿色社区 63.7%" in shapes[1]._inline.docPr.get("descr")


def test_equal_reports_have_equal_documents(drawn: dict[str, bytes]) -> None:
    again = documents.draw(small_content())
    assert {name: hashlib.sha256(content).hexdigest() for name, content in again.items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in drawn.items()
    }
    assert set(drawn) == {DOCUMENT, "lines.svg", "bars.svg"}
    with zipfile.ZipFile(io.BytesIO(drawn[DOCUMENT])) as parts:
        assert {each.date_time for each in parts.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_chart_for_the_page_needs_no_font_and_loads_nothing(drawn: dict[str, bytes]) -> None:
    picture = drawn["lines.svg"].decode()
    assert "<text" not in picture
    assert "@font-face" not in picture
    assert "<script" not in picture
    assert not re.findall(r'(?:href|src)="(?!#)', picture)


def test_a_process_that_fails_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("import sys; sys.exit(3)", "print('no files')"):
        monkeypatch.setattr(documents, "PROGRAM", program)
        with pytest.raises(documents.DrawingFailed):
            documents.draw(small_content())


# ── Making ──


@pytest.fixture
def people(make_staff: Callable[..., UUID]) -> tuple[Actor, Actor]:
    """Two people of the district office."""
    found = [make_staff(Role.DISTRICT, division=DISTRICT) for _ in range(2)]
    first, second = (Actor(id=each, role=Role.DISTRICT, session_id=new_id(), division=DISTRICT) for each in found)
    return first, second


def make(session: Session, actor: Actor, year: int = 2025, *, at: datetime = SPRING, reason: str | None = None) -> Any:
    return reports.make(session, actor, NANKAI, year=year, reason=reason, jobs=None, now=at)


def by_code(report: AnnualReport) -> dict[str, Indicator]:
    return {each.code: each for each in reports.content_of(report).indicators}


def freeze(
    session: Session, cells: dict[tuple[str, str], dict[str, int | None]], year: int = 2025
) -> StatisticsRelease:
    """A frozen release of a year with the district's own row of each table."""
    release = StatisticsRelease(
        id=new_id(),
        grain=Grain.YEAR,
        starts_on=date(year, 1, 1),
        frozen_at=SPRING,
        frozen_by=None,
        cell_count=len(cells),
        exact_count=0,
        file_count=0,
        content_sha256=bytes(32),
    )
    session.add(release)
    session.flush()
    session.add_all(
        StatisticsCell(release_id=release.id, table_code=table, place_code=DISTRICT, category=category, figures=figures)
        for (table, category), figures in cells.items()
    )
    session.flush()
    return release


def test_what_nobody_has_is_said_to_be_missing(session: Session, people: tuple[Actor, Actor]) -> None:
    load_data(session)

    found = by_code(make(session, people[0]))

    assert {code: each.status for code, each in found.items() if code not in {"theme-days"}} == {
        "green-travel-share": Status.NO_DATA,
        "green-community": Status.NO_DATA,  # an empty register decides nothing
        "green-school": Status.NO_DATA,
        "green-family": Status.FOLLOWED,
        "frugal-agency": Status.NO_DATA,
        "green-mall": Status.NO_DATA,
        "green-building": Status.NO_DATA,
        "sorting-coverage": Status.NO_DATA,
        "reclaimed-water": Status.NO_DATA,
        "sorting-drops": Status.NO_DATA,
        "recycled": Status.NO_DATA,
        "participants": Status.NO_DATA,
        "recorded-savings": Status.NO_DATA,
    }
    assert found["green-travel-share"].target == Target(
        year=2025,
        value=75.0,
        about=False,
        text_zh="到2025年绿色出行比例达到75%以上，到2030年达到80%左右",
        source="南开政发〔2022〕10号",
        confidence="V",
    )
    assert found["participants"].note_zh == "该年度统计尚未冻结发布。"
    assert found["green-community"].figures == []


def test_a_community_counts_from_the_year_in_which_it_was_named(session: Session, people: tuple[Actor, Actor]) -> None:
    load_data(session)
    put_small_rubric_in_force(session)
    case = case_of(session).to(ApplicationState.NAMED)  # in November 2026

    before, after = (by_code(make(session, people[0], year, at=case.at))["green-community"] for year in (2025, 2026))

    assert (before.status, before.figures) == (Status.NO_DATA, [])
    assert (after.status, after.figures[0].value) == (Status.NOT_MET, 0.6)
    assert after.figures[0].detail_zh == "应创建171个，已命名1个，创建中0个"
    assert after.figures[0].as_of == case.at.date().isoformat()


@pytest.mark.parametrize(
    ("share", "weighted", "cautions", "status", "words"),
    [
        (0.85, True, (), Status.MET, ""),
        (0.60, True, (), Status.NOT_MET, ""),
        (0.72, True, (), Status.CANNOT_BE_TOLD_YET, "置信区间"),
        (0.70, True, (), Status.CANNOT_BE_TOLD_YET, "口径"),
        (0.60, False, (), Status.CANNOT_BE_TOLD_YET, "未经人口基准加权"),
        (0.85, True, ("selection-on-outcome",), Status.CANNOT_BE_TOLD_YET, "警示"),
    ],
)
def test_the_share_is_the_published_survey_estimate_and_its_own_answer(
    session: Session,
    people: tuple[Actor, Actor],
    share: float,
    weighted: bool,
    cautions: tuple[str, ...],
    status: Status,
    words: str,
) -> None:
    published_share(
        session, people[0].id, people[1].id, made_up(share, 0.02, weighted=weighted, cautions=cautions), at=SPRING
    )

    report = make(session, people[0])

    found = by_code(report)["green-travel-share"]
    assert found.status is status
    assert words in found.note_zh
    assert [(each.value, each.low is not None) for each in found.figures] == [
        (round(share * 100, 1), True),
        (round(share * 100 + 4, 1), True),
    ]
    assert (found.target is None) == (not weighted), "unweighted is never set against the goal"
    charts = [chart for chart in reports.content_of(report).charts if chart.name == "green-travel-share"]
    assert len(charts) == (1 if weighted else 0)


def test_what_residents_did_comes_from_the_frozen_statistics_alone(
    session: Session, people: tuple[Actor, Actor]
) -> None:
    freeze(
        session,
        {
            ("activity", "sorting"): {"activities": 52_000, "residents": 4_100, "weight_g": 0},
            ("activity", "recycling"): {"activities": 900, "residents": 300, "weight_g": 1_234_567},
            ("recycling-materials", "pet"): {"weight_g": 1_000_500},
            ("recycling-materials", "copper"): {"weight_g": None},
            ("carbon-savings", "published-conservative"): {"saved_co2e_g": 2_000_000},
            ("carbon-savings", "warm-v16"): {"saved_co2e_g": None},
            ("participation", ""): {"participants": 15_234},
        },
    )

    report = make(session, people[0])
    found = by_code(report)

    assert [each.value for each in found["sorting-drops"].figures] == [52_000]
    recycled = {each.label_zh: (each.value, each.withheld) for each in found["recycled"].figures}
    assert recycled == {"": (1_234.6, False), "PET 塑料": (1_000.5, False), "铜": (None, True)}
    assert [each.value for each in found["participants"].figures] == [15_234]
    savings = [(each.value, each.withheld, each.confidence) for each in found["recorded-savings"].figures]
    assert [each[:2] for each in savings] == [(2_000.0, False), (None, True)], "one figure for each method, and no sum"
    assert found["participants"].status is Status.FOLLOWED
    materials = next(chart for chart in reports.content_of(report).charts if chart.name == "recycled")
    assert [bar.label for bar in materials.bars] == ["PET 塑料"], "a withheld weight has no bar"


def test_theme_days_count_once_a_campaign_of_the_district_ran_on_them(
    session: Session, people: tuple[Actor, Actor]
) -> None:
    for division, state, first, last in (
        ("120104001001", CampaignState.CLOSED, date(2026, 3, 1), date(2026, 3, 20)),
        ("120104001001", CampaignState.CANCELLED, date(2026, 4, 22), date(2026, 4, 22)),
        ("120104002", CampaignState.RUNNING, date(2026, 6, 4), date(2026, 6, 5)),
    ):
        a_campaign(session, people[0].id, state=state, division=division, starts_on=first, ends_on=last)
    session.flush()

    found = by_code(make(session, people[0], 2026, at=datetime(2026, 7, 1, 12, 0, tzinfo=SHANGHAI)))["theme-days"]

    assert found.figures[0].value == 2
    assert found.figures[0].detail_zh == "本年度已公布的主题日（周、月）共3个，开展活动的有植树节、世界环境日"


# ── Four eyes, and what is published stays ──


def drawn_draft(session: Session, actor: Actor, **values: Any) -> AnnualReport:
    """A draft whose documents are there."""
    found: AnnualReport = make(session, actor, **values)
    assert documents.keep(session, found.id, {DOCUMENT: b"docx", "lines.svg": b"<svg/>"})
    return found


def publish(session: Session, actor: Actor, report: AnnualReport, at: datetime = SPRING) -> AnnualReport:
    return reports.publish(session, actor, NANKAI, report.id, now=at)


def test_a_report_is_published_by_another_person_once_it_is_drawn_and_its_year_is_over(
    session: Session, people: tuple[Actor, Actor]
) -> None:
    one, other = people
    bare = make(session, one)
    with pytest.raises(reports.AnnualReportNotDrawn):
        publish(session, other, bare)
    draft = drawn_draft(session, one)
    with pytest.raises(reports.AnnualReportOwn):
        publish(session, one, draft)
    running = drawn_draft(session, one, year=2026)
    with pytest.raises(reports.AnnualReportYearNotOver):
        publish(session, other, running)
    new_years_eve = datetime(2026, 12, 31, 12, 0, tzinfo=SHANGHAI)
    last_day = drawn_draft(session, one, year=2026, at=new_years_eve)
    with pytest.raises(reports.AnnualReportYearNotOver):
        publish(session, other, last_day, new_years_eve)
    running = drawn_draft(session, one, year=2026)
    with pytest.raises(reports.AnnualReportYearNotOver):  # made in March, it says nothing of the rest of the year
        publish(session, other, running, datetime(2027, 1, 5, tzinfo=SHANGHAI))

    done = publish(session, other, draft)

    assert (done.state, done.published_by) == (ReportState.PUBLISHED, other.id)
    assert done.sha256 == digest(reports.content_of(done))
    acts = session.scalars(sa.select(AuditEntry.act).where(AuditEntry.subject == f"annual-report:{done.id}")).all()
    assert sorted(acts) == ["annual-report.make", "annual-report.publish"]
    for again in (lambda: publish(session, other, draft), lambda: discard(session, one, draft)):
        with pytest.raises(reports.AnnualReportPublished):
            again()
    assert session.get(AnnualReport, bare.id, populate_existing=True) is None, "the newer draft took its place"


def discard(session: Session, actor: Actor, report: AnnualReport) -> None:
    reports.discard(session, actor, NANKAI, report.id, now=SPRING)


def test_a_correction_says_why_and_names_what_it_replaces(session: Session, people: tuple[Actor, Actor]) -> None:
    one, other = people
    with pytest.raises(reports.AnnualReportCorrectsNothing):
        make(session, one, reason="更正")
    first = publish(session, other, drawn_draft(session, one))
    with pytest.raises(reports.AnnualReportReasonMissing):
        make(session, one)

    second = publish(session, one, drawn_draft(session, other, reason="更正商场统计范围"))

    assert (second.revision, second.replaces, second.reason) == (2, first.id, "更正商场统计范围")
    assert reports.published_report(session, 2025).id == second.id
    assert reports.published_report(session, 2025, revision=1).id == first.id
    with pytest.raises(reports.AnnualReportTooEarly):
        make(session, one, 2027)


def test_the_database_holds_four_eyes_and_what_is_published(session: Session, people: tuple[Actor, Actor]) -> None:
    one, other = people
    done = publish(session, other, drawn_draft(session, one))
    draft = drawn_draft(session, one, year=2024)
    report, file = AnnualReport.__table__, AnnualReportFile.__table__
    of_done, of_draft = report.c.id == done.id, report.c.id == draft.id
    refused: list[Any] = [
        sa.update(report).where(of_done).values(reason="x"),
        sa.update(report).where(of_done).values(content={}),
        sa.delete(report).where(of_done),
        sa.update(report).where(of_draft).values(content={}),
        sa.update(report).where(of_draft).values(state="published", published_by=one.id, published_at=SPRING),
        sa.update(report).where(of_draft).values(state="published"),
        sa.update(file).where(file.c.report_id == draft.id).values(content=b"x"),
        sa.delete(file).where(file.c.report_id == done.id),
        sa.insert(file).values(report_id=done.id, name="x.svg", sha256=bytes(32), content=b"x"),
        sa.insert(file).values(report_id=draft.id, name="../x.svg", sha256=bytes(32), content=b"x"),
        sa.insert(report).values(
            id=new_id(), year=2024, revision=1, content={}, sha256=bytes(32), made_by=one.id, made_at=SPRING
        ),
    ]
    for statement in refused:
        with pytest.raises(sa.exc.DBAPIError), session.begin_nested():
            session.execute(statement)
    session.execute(sa.delete(report).where(of_draft))
    assert session.scalar(sa.select(sa.func.count()).where(file.c.report_id == draft.id)) == 0


# ── Over HTTP ──


def test_everybody_reads_what_is_published_and_nothing_of_a_draft(
    client: FlaskClient,
    session: Session,
    people: tuple[Actor, Actor],
    make_staff: Callable[..., UUID],
    headers_of: Callable[..., dict[str, str]],
) -> None:
    office, other = (headers_of(person.id, is_resident=False) for person in people)
    street = headers_of(make_staff(Role.STREET, division="120104001"), is_resident=False)
    for headers, status in (({}, 401), (street, 403), (office, 201)):
        made = client.post(REPORTS, json={"year": 2025}, headers=headers)
        assert made.status_code == status
    draft = f"{REPORTS}/drafts/{made.json['id']}"
    assert client.get(f"{REPORTS}/2025").status_code == 404
    assert client.get(f"{REPORTS}/2025/files/{DOCUMENT}").status_code == 404
    assert [client.get(draft, headers=each).status_code for each in ({}, street, office)] == [401, 403, 200]
    assert client.get(draft, headers=office).json["files"] == []
    assert client.post(f"{draft}/publication", headers=other).json["code"] == "annual-report-not-drawn"
    assert documents.keep(session, UUID(made.json["id"]), {DOCUMENT: b"docx", "lines.svg": b"<svg/>"})
    session.commit()
    assert client.post(f"{draft}/publication", headers=office).json["code"] == "annual-report-own"
    assert client.post(f"{draft}/publication", headers=street).status_code == 403

    assert client.post(f"{draft}/publication", headers=other).json["state"] == "published"

    listed = client.get(REPORTS).json["items"]
    report = client.get(f"{REPORTS}/2025").json
    assert [(each["year"], each["revision"]) for each in listed] == [(2025, 1)]
    assert report["sha256"] == listed[0]["sha256"]
    assert "made_by" not in report
    kept = session.scalars(sa.select(AnnualReport)).one()
    assert (
        hashlib.sha256(msgspec.json.encode(msgspec.convert(kept.content, Content), order="deterministic")).hexdigest()
        == report["sha256"]
    )
    file = client.get(f"{REPORTS}/2025/files/{DOCUMENT}?revision=1")
    assert (file.status_code, file.data) == (200, b"docx")
    assert "attachment" in file.headers["Content-Disposition"]
    assert (
        client.get(f"{REPORTS}/2025/files/{DOCUMENT}", headers={"If-None-Match": file.headers["ETag"]}).status_code
        == 304
    )
    picture = client.get(f"{REPORTS}/2025/files/lines.svg")
    assert (picture.content_type, picture.headers["X-Content-Type-Options"]) == (
        "image/svg+xml",
        "nosniff",
    )
    assert "default-src 'none'" in picture.headers["Content-Security-Policy"]
    assert client.delete(draft, headers=office).json["code"] == "annual-report-published"
    for path in ("/2024", "/99999999999", "/2025/files/none.svg", "/2025/files/%00.svg", "/2025?revision=2"):
        assert client.get(REPORTS + path).status_code == 404, path


def test_the_job_draws_the_documents_of_a_draft_and_tells_when_it_cannot(
    app: Flask, client: FlaskClient, session: Session, people: tuple[Actor, Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from campaigns.annual_report import jobs  # noqa: PLC0415 -- of this test alone

    draft = make(session, people[0])
    session.commit()
    with app.app_context():
        monkeypatch.setattr(documents, "PROGRAM", "import sys; sys.exit(3)")
        with pytest.raises(documents.DrawingFailed):
            jobs.draw(str(draft.id))
        failed = session.get(AnnualReport, draft.id, populate_existing=True)
        assert failed is not None
        assert failed.problem == "annual-report-drawing-failed"
        # What the drawing answers; that it draws is shown above.
        answer = "import msgspec, sys; sys.stdout.buffer.write(msgspec.msgpack.encode({'annual-report.docx': b'x'}))"
        monkeypatch.setattr(documents, "PROGRAM", answer)
        jobs.draw(str(draft.id))
        jobs.draw(str(draft.id))  # once more after its worker died
    assert documents.names_of(session, draft.id) == [DOCUMENT]
    again = session.get(AnnualReport, draft.id, populate_existing=True)
    assert again is not None
    assert again.problem is None
