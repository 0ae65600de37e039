"""The rotating code that a sorting site shows on a screen or a supervisor's phone, for residents to scan.

The text is of the characters that a QR code holds most densely (ISO/IEC 18004, alphanumeric mode):

    TPH:S:<site code in capitals>:<code>
"""

import re
from dataclasses import dataclass
from datetime import datetime

from server import rotating_codes
from server.errors import DomainError

PERIOD_S = 30
TEXT_LENGTH_MAX = 80

_PURPOSE = "sorting-site"
_SHAPE = re.compile(r"TPH:S:([0-9A-Z-]{3,40}):([A-Z2-7]{16})")


class SiteCodeRefused(DomainError):
    """The code is none of ours or no longer valid. Which of them is not told."""

    code, status, title_zh, title_en = (
        "site-code-refused",
        422,
        "投放点二维码无效或已过期",
        "The site's code is not valid or no longer valid",
    )


@dataclass(frozen=True, slots=True)
class ShownSiteCode:
    """A code as text for a QR code, and when the next one takes its place; it works for one period more."""

    text: str
    changes_at: datetime


def shown(data_key: bytes, site_code: str, *, now: datetime) -> ShownSiteCode:
    """What the site shows now: another every 30 s, and worth nothing 60 s after it first appeared."""
    code = rotating_codes.code_at(data_key, _PURPOSE, site_code, period_s=PERIOD_S, now=now)
    return ShownSiteCode(f"TPH:S:{site_code.upper()}:{code}", rotating_codes.changes_at(period_s=PERIOD_S, now=now))


def site_behind(data_key: bytes, text: str, *, now: datetime) -> str:
    """The code of the site that shows this text now. Raises SiteCodeRefused."""
    found = _SHAPE.fullmatch(text.strip().upper())
    if found is None:
        raise SiteCodeRefused
    site_code = found[1].lower()
    if not rotating_codes.check(data_key, _PURPOSE, site_code, found[2], period_s=PERIOD_S, now=now):
        raise SiteCodeRefused
    return site_code
