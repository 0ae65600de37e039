"""Documents: what a reader finds in them, whatever people wrote, and the same bytes each time."""

import io
import threading
from dataclasses import replace
from datetime import date
from typing import Any
from xml.etree import ElementTree

import pypdf
import pytest
import segno

from server.documents import documents
from server.documents.documents import Certificate, CodeCell, DocumentRefused
from server.errors import Unavailable

CERTIFICATE = Certificate(
    title_zh="低碳活动参与证书",
    title_en="Certificate of participation",
    holder="王小明",
    lines=["在“低碳出行挑战”中完成全部任务，", "特发此证，以资鼓励。"],
    issuer="天津市南开区生态环境局",
    issued_on=date(2026, 11, 22),
    code="7K3QF9ZB2M",
    verify_url="https://carbon.example.org/certificates/7K3QF9ZB2M",
)


def read_pdf(content: bytes) -> pypdf.PdfReader:
    return pypdf.PdfReader(io.BytesIO(content))


def text_of(content: bytes) -> str:
    return "".join(page.extract_text() for page in read_pdf(content).pages).replace(" ", "").replace("\n", "")


def fonts_of(content: bytes) -> list[Any]:
    found = []
    for page in read_pdf(content).pages:
        for font in page["/Resources"]["/Font"].values():  # type: ignore[index]
            found += [inner.get_object() for inner in font.get_object()["/DescendantFonts"]]
    return found


def test_a_certificate_says_what_it_should_and_its_chinese_can_be_searched() -> None:
    text = text_of(documents.certificate(CERTIFICATE, format="pdf"))

    for part in (
        "低碳活动参与证书",
        "王小明",
        "低碳出行挑战",
        "天津市南开区生态环境局",
        "2026年11月22日",
        "7K3QF9ZB2M",
    ):
        assert part in text, part


def test_every_font_of_a_certificate_is_embedded() -> None:
    fonts = fonts_of(documents.certificate(CERTIFICATE, format="pdf"))

    assert fonts
    for font in fonts:
        assert "NotoSansCJKsc" in str(font["/BaseFont"])
        assert {"/FontFile2", "/FontFile3"} & set(font["/FontDescriptor"].get_object())


def test_an_svg_needs_no_font_and_no_file_of_the_machine_that_shows_it() -> None:
    picture = documents.certificate(CERTIFICATE, format="svg").decode()

    root = ElementTree.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "<text" not in picture, "text as text would want the font"
    assert "<script" not in picture
    links = [value for each in root.iter() for name, value in each.attrib.items() if name.endswith("href")]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)


@pytest.mark.parametrize("form", ["pdf", "svg"])
def test_equal_data_make_equal_bytes(form: Any) -> None:
    assert documents.certificate(CERTIFICATE, format=form) == documents.certificate(CERTIFICATE, format=form)
    other = replace(CERTIFICATE, holder="李小红")
    assert documents.certificate(CERTIFICATE, format=form) != documents.certificate(other, format=form)


@pytest.mark.parametrize(
    "holder",
    [
        '#read("/etc/passwd")',
        '#import "@preview/cetz:0.3.0": *',
        "*a* _b_ $c$ `d` @e <f>",
        "#panic()",
        "\\",
        "//x",
        "]",
    ],
)
def test_what_a_person_wrote_is_text_and_never_markup(holder: str) -> None:
    text = text_of(documents.certificate(replace(CERTIFICATE, holder=holder, lines=[holder]), format="pdf"))

    assert text.count(holder.replace(" ", "")) == 2


@pytest.mark.parametrize("holder", ["𪚥", "😀", "أحمد", "བོད", "\u202e", "\u0301\u0301", "\x01", "�", ""])
def test_a_character_without_a_glyph_does_not_spoil_the_document(holder: str) -> None:
    made = documents.certificate(replace(CERTIFICATE, holder=f"王{holder}明"), format="pdf")

    assert len(read_pdf(made).pages) == 1
    assert "天津市南开区生态环境局" in text_of(made)


@pytest.mark.parametrize("name", ["𬭎", "㛃", "䶮", "堃", "喆", "龘", "鿍", "é", "Ω", "①", "ＡＢ"])
def test_rare_characters_of_names_are_in_the_font(name: str) -> None:
    assert name in text_of(documents.certificate(replace(CERTIFICATE, holder=name), format="pdf"))


def test_the_longest_texts_still_make_one_page() -> None:
    longest = Certificate(
        "国" * 30, "W" * 60, "国" * 40, ["国" * 80] * 6, "国" * 40, date.max, "W" * 20, "https://" + "w" * 112
    )

    made = documents.certificate(longest, format="pdf")

    assert len(read_pdf(made).pages) == 1
    assert text_of(made).count("国") == 30 + 40 + 6 * 80 + 40
    assert documents.certificate(longest, format="svg").startswith(b"<svg")


@pytest.mark.parametrize(
    "change",
    [
        {"title_zh": "国" * 31},
        {"title_en": "W" * 61},
        {"holder": "国" * 41},
        {"issuer": "国" * 41},
        {"code": "W" * 21},
        {"verify_url": "w" * 121},
        {"lines": ["国" * 81]},
        {"lines": ["国"] * 7},
    ],
)
def test_a_text_that_has_no_room_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DocumentRefused):
        documents.certificate(replace(CERTIFICATE, **change), format="pdf")


CELLS = [CodeCell(f"TP1.{number:04d}.ABCDEFGHJKMNPQRSTVWXYZ", f"签到码 {number:04d}") for number in range(60)]


def test_a_sheet_has_each_code_once_under_its_label() -> None:
    made = documents.code_sheet("低碳日签到码", CELLS, note="一次性使用", format="pdf")

    assert len(read_pdf(made).pages) == 3
    text = text_of(made)
    assert "低碳日签到码" in text
    assert all(text.count(cell.label.replace(" ", "")) == 1 for cell in CELLS)


def test_a_sheet_as_svg_is_one_picture() -> None:
    made = documents.code_sheet("低碳日签到码", CELLS, format="svg").decode()

    root = ElementTree.fromstring(made)
    assert float(root.attrib["height"].removesuffix("pt")) > float(root.attrib["width"].removesuffix("pt"))


@pytest.mark.parametrize("number", [0, 501])
def test_a_sheet_of_none_or_of_too_many_is_refused(number: int) -> None:
    with pytest.raises(DocumentRefused):
        documents.code_sheet("码", [CodeCell("x", "x")] * number, format="pdf")


def test_a_qr_holds_what_it_should() -> None:
    picture = documents.qr_svg("https://carbon.example.org/c/7K3QF9ZB2M").decode()

    root = ElementTree.fromstring(picture)
    expected = segno.make("https://carbon.example.org/c/7K3QF9ZB2M", error="m", micro=False)
    assert root.attrib["width"] == str(expected.symbol_size(scale=8, border=4)[0])
    with pytest.raises(DocumentRefused):
        documents.qr_svg("x" * 301)


def test_a_template_cannot_read_outside_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "templates"
    folder.mkdir()
    monkeypatch.setattr(documents, "TEMPLATES", folder)
    for source in (
        '#read("../secret.txt")',
        f'#read("{tmp_path}/secret.txt")',
        '#read("/etc/hostname")',
        '#import "@preview/example:0.1.0": *',
    ):
        (folder / "try.typ").write_text(source)
        with pytest.raises(RuntimeError):
            documents.render("try.typ", {}, format="pdf")


def test_data_without_end_and_a_picture_of_two_pages_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    with pytest.raises(DocumentRefused):
        documents.render("code_sheet.typ", {"title": "国" * documents.DATA_BYTES_MAX}, format="pdf")
    (tmp_path / "two.typ").write_text("a #pagebreak() b")
    monkeypatch.setattr(documents, "TEMPLATES", tmp_path)
    assert len(read_pdf(documents.render("two.typ", {}, format="pdf")).pages) == 2
    with pytest.raises(DocumentRefused):
        documents.render("two.typ", {}, format="svg")


def test_a_flood_of_documents_waits_and_is_then_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_SETTING", threading.BoundedSemaphore(1))
    monkeypatch.setattr(documents, "SETTING_WAIT_S", 0.05)
    with documents._setting(), pytest.raises(Unavailable) as refused:
        documents.certificate(CERTIFICATE, format="pdf")
    assert refused.value.headers["Retry-After"]
    assert documents.certificate(CERTIFICATE, format="pdf")
