"""Drawing a sheet of printed codes: QR codes to cut out, each with its characters for whoever has to type them."""

from campaigns.attendance import codes
from campaigns.attendance.slots import Sheet
from server.clock import SHANGHAI
from server.documents import documents
from server.documents.documents import CodeCell, Format


def draw(sheet: Sheet, form: Format) -> bytes:
    """The sheet as a PDF of as many A4 pages as it needs, or as one long SVG. Raises DocumentRefused, Unavailable."""
    opens, closes = sheet.opens_at.astimezone(SHANGHAI), sheet.closes_at.astimezone(SHANGHAI)
    return documents.code_sheet(
        sheet.title,
        [CodeCell(codes.printed_text(code), codes.grouped(code)) for code in sheet.codes],
        note=f"{sheet.site_name} · {opens:%Y-%m-%d %H:%M} – {closes:%m-%d %H:%M} · 每码限用一次",
        format=form,
    )
