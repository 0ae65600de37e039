"""Drawing a resident's card: its QR code, the characters under it for whoever has to type them, and how it is used."""

from server.clock import SHANGHAI
from server.documents import documents
from server.documents.documents import Format
from server.people.cards import IssuedCard


def draw(issued: IssuedCard, form: Format) -> bytes:
    """The card as a PDF of one page of 85.6 × 54 mm, or as an SVG. Raises DocumentRefused, Unavailable."""
    household = issued.card.household_id is not None
    data = {
        "title": "碳普惠家庭卡" if household else "碳普惠居民卡",
        "title_en": "Household card" if household else "Resident's card",
        "holder": issued.nickname or "居民 Resident",
        "code": issued.label,
        "lines": [
            "投放或交投时请工作人员扫码确认, 本卡不能自助使用。",
            "Staff scan it and confirm; it does not serve by itself.",
            "遗失请联系社区挂失, 旧卡即时停用。",
            f"{issued.card.issued_at.astimezone(SHANGHAI):%Y-%m-%d}",
        ],
        "qr": documents.qr_svg(issued.text).decode(),
    }
    return documents.render("resident_card.typ", data, format=form)
