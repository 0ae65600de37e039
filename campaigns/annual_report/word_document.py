"""The report as a document of Word (Office Open XML), set after GB/T 9704-2012: A4, 22 lines of 28 characters.

Every style names its East Asian font, and no theme decides one: Word would otherwise set Chinese in a Latin font's
fallback. Marks that both scripts have (“ ” … — ·) are told to be East Asian. Equal content, equal bytes.

python-docx is large: this is imported by `campaigns.annual_report.drawing` in its own process and by nobody else.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import docx
from docx.enum.style import WD_STYLE_TYPE
from docx.enum.table import WD_ALIGN_VERTICAL, WD_TABLE_ALIGNMENT
from docx.enum.text import WD_ALIGN_PARAGRAPH, WD_LINE_SPACING
from docx.oxml import OxmlElement
from docx.oxml.ns import qn
from docx.shared import Mm, Pt, RGBColor

from campaigns.annual_report import wording
from campaigns.annual_report.content import STATUS_ZH, Chart, Content, Indicator, Theme

LATIN = "Times New Roman"
SONG, HEI, FANG_SONG, KAI = "宋体", "黑体", "仿宋", "楷体"

# GB/T 9704: margins of 37, 35, 28 and 26 mm leave 156 × 225 mm of text; 三号 is 16 pt, 四号 14, 小四 12, 五号 10.5.
PAGE_MM = (210, 297)
MARGINS_MM = {"top_margin": 37, "bottom_margin": 35, "left_margin": 28, "right_margin": 26}
TEXT_WIDTH_MM = 156
LINE_PT = 28
SIZES_PT = {"title": 22, "text": 16, "small": 10.5, "page": 14, "caption": 12}

OVERVIEW_COLUMNS_MM = (11, 45, 38, 37, 25)
SOURCE_COLUMNS_MM = (36, 70, 34, 16)

# Of the parts in the archive: the earliest that ZIP knows.
WRITTEN_AT = (1980, 1, 1, 0, 0, 0)


def document(content: Content, pictures: Mapping[str, bytes]) -> bytes:
    """The document of a report; `pictures` are its charts as PNG by name."""
    made = docx.Document()
    _prepare(made, content)
    _head(made, content)
    number = 1
    number = _section(made, number, "总体情况")
    _text(
        made,
        f"根据{content.document}（{content.document_number}），对截至{wording.day(content.through)}的目标任务"
        f"完成情况评估如下。{wording.summary(content)}各项指标见表1。",
    )
    _overview(made, content)
    figure = 0
    for theme in content.themes:
        number = _section(made, number, theme.title_zh)
        figure = _theme(made, theme, pictures, figure)
    number = _section(made, number, "数据来源与说明")
    _text(made, "各项数据的来源、截止日期和可信度见表2。")
    _sources(made, content)
    for position, note in enumerate(content.notes_zh, 1):
        _text(made, f"{position}．{note}")
    return _repacked(made)


# Styles and page


def _prepare(made: Any, content: Content) -> None:
    styles = made.styles
    _drop_theme_fonts(styles.element)
    _default_fonts(styles.element)
    _style(styles, "Normal", FANG_SONG, SIZES_PT["text"])
    text = styles["Normal"].paragraph_format
    text.space_before = text.space_after = Pt(0)
    text.line_spacing_rule, text.line_spacing = WD_LINE_SPACING.EXACTLY, Pt(LINE_PT)
    text.widow_control = True
    _style(styles, "Title", SONG, SIZES_PT["title"], bold=True)
    _style(styles, "Heading 1", HEI, SIZES_PT["text"])
    _style(styles, "Heading 2", KAI, SIZES_PT["text"])
    _style(styles, "Caption", HEI, SIZES_PT["caption"])
    _style(styles, "Footer", SONG, SIZES_PT["page"])
    for name in ("Title", "Heading 1", "Heading 2", "Caption"):
        form = styles[name].paragraph_format
        form.space_before = form.space_after = Pt(0)
        form.line_spacing_rule, form.line_spacing = WD_LINE_SPACING.EXACTLY, Pt(LINE_PT)
        form.keep_with_next = True
    border = styles["Title"].element.pPr.find(qn("w:pBdr"))
    if border is not None:
        styles["Title"].element.pPr.remove(border)
    styles["Title"].paragraph_format.line_spacing = Pt(36)
    styles["Title"].paragraph_format.alignment = WD_ALIGN_PARAGRAPH.CENTER
    styles["Caption"].paragraph_format.alignment = WD_ALIGN_PARAGRAPH.CENTER
    table_text = styles.add_style("Table Text", WD_STYLE_TYPE.PARAGRAPH)
    table_text.base_style = styles["Normal"]
    _style(styles, "Table Text", SONG, SIZES_PT["small"])
    table_text.paragraph_format.line_spacing_rule = WD_LINE_SPACING.SINGLE
    _page(made)
    _settings(made.settings.element)
    made_on = datetime.fromisoformat(content.made_on)
    properties = made.core_properties
    properties.title, properties.subject = content.title_zh, content.document_number
    properties.author = properties.last_modified_by = properties.comments = properties.keywords = ""
    properties.created = properties.modified = made_on
    properties.language, properties.revision = "zh-CN", content.revision


def _drop_theme_fonts(styles: Any) -> None:
    """The template's styles name fonts of its theme, and a theme's font goes before a named one."""
    for fonts in styles.iter(qn("w:rFonts")):
        for name in [name for name in fonts.attrib if name.lower().endswith("theme")]:
            del fonts.attrib[name]
        _set_fonts(fonts, FANG_SONG)


def _default_fonts(styles: Any) -> None:
    properties = styles.find(qn("w:docDefaults")).find(qn("w:rPrDefault")).find(qn("w:rPr"))
    language = properties.find(qn("w:lang"))
    if language is None:
        language = OxmlElement("w:lang")
        properties.append(language)
    language.set(qn("w:val"), "en-US")
    language.set(qn("w:eastAsia"), "zh-CN")


def _set_fonts(fonts: Any, east_asian: str) -> None:
    fonts.set(qn("w:ascii"), LATIN)
    fonts.set(qn("w:hAnsi"), LATIN)
    fonts.set(qn("w:cs"), LATIN)
    fonts.set(qn("w:eastAsia"), east_asian)


def _style(styles: Any, name: str, east_asian: str, size_pt: float, *, bold: bool = False) -> None:
    style = styles[name]
    style.font.name, style.font.size, style.font.bold, style.font.italic = LATIN, Pt(size_pt), bold, False
    style.font.color.rgb = RGBColor(0, 0, 0)
    _set_fonts(style.element.rPr.find(qn("w:rFonts")), east_asian)


def _page(made: Any) -> None:
    """A4 with the standard's margins, and page numbers — 1 — outside: odd ones right, even ones left."""
    section = made.sections[0]
    section.page_width, section.page_height = Mm(PAGE_MM[0]), Mm(PAGE_MM[1])
    for name, margin_mm in MARGINS_MM.items():
        setattr(section, name, Mm(margin_mm))
    section.footer_distance = Mm(28)
    made.settings.odd_and_even_pages_header_footer = True
    for footer, alignment in (
        (section.footer, WD_ALIGN_PARAGRAPH.RIGHT),
        (section.even_page_footer, WD_ALIGN_PARAGRAPH.LEFT),
    ):
        paragraph = footer.paragraphs[0]
        paragraph.style, paragraph.alignment = made.styles["Footer"], alignment
        side = "left_indent" if alignment is WD_ALIGN_PARAGRAPH.LEFT else "right_indent"
        setattr(paragraph.paragraph_format, side, Pt(SIZES_PT["page"]))
        _run(paragraph, "— ")
        _page_number(paragraph)
        _run(paragraph, " —")


def _page_number(paragraph: Any) -> None:
    for kind, text in (("begin", None), (None, "PAGE"), ("separate", None), (None, "1"), ("end", None)):
        run = paragraph.add_run()
        if kind is not None:
            mark = OxmlElement("w:fldChar")
            mark.set(qn("w:fldCharType"), kind)
            run._r.append(mark)
        elif text == "PAGE":
            instruction = OxmlElement("w:instrText")
            instruction.set(qn("xml:space"), "preserve")
            instruction.text = " PAGE "
            run._r.append(instruction)
        else:
            run.text = text


def _settings(settings: Any) -> None:
    """Punctuation in Chinese spacing, and the layout of a present Word and not of 2007."""
    spacing = settings.find(qn("w:characterSpacingControl"))
    if spacing is not None:
        spacing.set(qn("w:val"), "compressPunctuation")
    language = settings.find(qn("w:themeFontLang"))
    if language is not None:
        language.set(qn("w:eastAsia"), "zh-CN")  # the template's is Japanese
    for setting in settings.iter(qn("w:compatSetting")):
        if setting.get(qn("w:name")) == "compatibilityMode":
            setting.set(qn("w:val"), "15")


# Text


def _run(paragraph: Any, text: str) -> Any:
    """A run whose ambiguous marks are Chinese ones."""
    run = paragraph.add_run(text)
    fonts = run._r.get_or_add_rPr().get_or_add_rFonts()
    fonts.set(qn("w:hint"), "eastAsia")
    return run


def _text(made: Any, text: str) -> Any:
    """A paragraph of text, its first line in by two characters."""
    paragraph = made.add_paragraph()
    paragraph.alignment = WD_ALIGN_PARAGRAPH.JUSTIFY
    _indent(paragraph)
    _run(paragraph, text)
    return paragraph


def _indent(paragraph: Any) -> None:
    indent = paragraph._p.get_or_add_pPr().get_or_add_ind()
    # In hundredths of a character: it stays two characters when somebody changes the size. The other is for the rest.
    indent.set(qn("w:firstLineChars"), "200")
    indent.set(qn("w:firstLine"), str(int(SIZES_PT["text"] * 2 * 20)))


def _heading(made: Any, text: str, level: int) -> None:
    paragraph = made.add_paragraph(style=f"Heading {level}")
    _indent(paragraph)
    _run(paragraph, text)


def _section(made: Any, number: int, title: str) -> int:
    _heading(made, f"{wording.chinese_number(number)}、{title}", 1)
    return number + 1


def _head(made: Any, content: Content) -> None:
    _run(made.add_paragraph(style="Title"), content.title_zh)
    second = f"（第{content.revision}版）" if content.revision > 1 else ""
    line = made.add_paragraph()
    line.alignment = WD_ALIGN_PARAGRAPH.CENTER
    _run(line, f"{wording.day(content.made_on)}{second}")
    if content.correction:
        _text(made, f"本版为更正版，替代第{content.revision - 1}版。更正原因：{content.correction}")


def _theme(made: Any, theme: Theme, pictures: Mapping[str, bytes], figure: int) -> int:
    for position, indicator in enumerate(theme.indicators, 1):
        _heading(made, f"（{wording.chinese_number(position)}）{indicator.title_zh}", 2)
        for paragraph in _sentences(indicator):
            _text(made, paragraph)
    for chart in theme.charts:
        figure += 1
        _picture(made, chart, pictures[chart.name], figure)
    return figure


def _sentences(indicator: Indicator) -> list[str]:
    target = indicator.target
    first = "方案未设目标值，作为跟踪指标列示。"
    if target is not None:
        first = (
            f"目标：{target.text_zh}（{target.source}，可信度{target.confidence}）；"
            f"本年度对照值为{wording.target(target, indicator.unit)}。"
        )
    figures = [wording.whole(each, indicator.unit) for each in indicator.figures]
    result = f"完成情况：{'；'.join(figures)}。" if figures else "完成情况：暂无数据。"
    verdict = f"评估结论：{STATUS_ZH[indicator.status]}。{indicator.note_zh}"
    return [f"{first}{result}{verdict}"]


def _picture(made: Any, chart: Chart, picture: bytes, number: int) -> None:
    paragraph = made.add_paragraph()
    paragraph.alignment = WD_ALIGN_PARAGRAPH.CENTER
    # An exact line would show one line's height of the picture.
    paragraph.paragraph_format.line_spacing_rule = WD_LINE_SPACING.SINGLE
    paragraph.paragraph_format.keep_with_next = True
    shape = paragraph.add_run().add_picture(io.BytesIO(picture), width=Mm(TEXT_WIDTH_MM - 4))
    properties = shape._inline.docPr
    properties.set("title", chart.title_zh)
    properties.set("descr", _described(chart))
    caption = made.add_paragraph(style="Caption")
    caption.paragraph_format.keep_with_next = False
    _run(caption, f"图{number}　{chart.title_zh}")


def _described(chart: Chart) -> str:
    """What a chart shows, for those who do not see it."""
    if chart.bars:
        return "；".join(f"{bar.label} {wording.quantity(bar.value, chart.unit)}" for bar in chart.bars)
    return "；".join(
        f"{line.name_zh}："
        + "，".join(f"{x:.0f}年{wording.quantity(y, chart.unit)}" for x, y in zip(line.xs, line.ys, strict=True))
        for line in chart.lines
    )


# Tables


def _overview(made: Any, content: Content) -> None:
    rows = [
        (
            str(position),
            indicator.title_zh,
            wording.target(indicator.target, indicator.unit),
            wording.short(indicator),
            STATUS_ZH[indicator.status],
        )
        for position, indicator in enumerate(content.indicators, 1)
    ]
    _table(
        made,
        "表1　指标完成情况总表",
        ("序号", "指标", "目标", "完成情况", "评估结论"),
        rows,
        OVERVIEW_COLUMNS_MM,
        centred=(0, 2, 4),
    )


def _sources(made: Any, content: Content) -> None:
    rows = []
    for indicator in content.indicators:
        seen = {(each.source_zh, each.as_of, each.confidence) for each in indicator.figures}
        rows += [(indicator.title_zh, source, wording.day(as_of), mark) for source, as_of, mark in sorted(seen)]
        if not seen:
            rows.append((indicator.title_zh, "—", "—", "—"))
    _table(made, "表2　数据来源", ("指标", "数据来源", "数据截至", "可信度"), rows, SOURCE_COLUMNS_MM, centred=(2, 3))


def _table(
    made: Any,
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths_mm: Sequence[int],
    *,
    centred: Sequence[int],
) -> None:
    """A table under its title; the head comes again on every page, and no row is broken over two."""
    caption = made.add_paragraph(style="Caption")
    caption.paragraph_format.space_before = Pt(6)
    _run(caption, title)
    table = made.add_table(rows=0, cols=len(heads))
    table.style, table.alignment, table.autofit = "Table Grid", WD_TABLE_ALIGNMENT.CENTER, False
    for column, width_mm in zip(table.columns, widths_mm, strict=True):
        column.width = Mm(width_mm)
    for position, cells in enumerate([heads, *rows]):
        row = table.add_row()
        _row_mark(row, "w:cantSplit")
        if position == 0:
            _row_mark(row, "w:tblHeader")
        for number, (cell, text, width_mm) in enumerate(zip(row.cells, cells, widths_mm, strict=True)):
            cell.width, cell.vertical_alignment = Mm(width_mm), WD_ALIGN_VERTICAL.CENTER
            paragraph = cell.paragraphs[0]
            paragraph.style = made.styles["Table Text"]
            if position == 0 or number in centred:
                paragraph.alignment = WD_ALIGN_PARAGRAPH.CENTER
            run = _run(paragraph, text)
            if position == 0:
                run._r.rPr.rFonts.set(qn("w:eastAsia"), HEI)
                _shade(cell)
    made.add_paragraph().paragraph_format.line_spacing = Pt(10)


def _row_mark(row: Any, name: str) -> None:
    row._tr.get_or_add_trPr().append(OxmlElement(name))


def _shade(cell: Any) -> None:
    shade = OxmlElement("w:shd")
    for name, value in (("w:val", "clear"), ("w:color", "auto"), ("w:fill", "EEF3EC")):
        shade.set(qn(name), value)
    cell._tc.get_or_add_tcPr().append(shade)


def _repacked(made: Any) -> bytes:
    """The document's bytes without the time of packing in them."""
    packed = io.BytesIO()
    made.save(packed)
    written = io.BytesIO()
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():  # in the order of packing: the list of content types comes first
            part = zipfile.ZipInfo(name, WRITTEN_AT)
            part.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(part, source.read(name))
    return written.getvalue()
