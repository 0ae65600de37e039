"""Codes that change every few seconds, so that a photograph of one is soon worth nothing. Pure functions of the time.

The scheme is that of RFC 6238 (TOTP): an HMAC over the number of the current period, here with SHA-256, a key of its
own for each purpose, and the subject inside the HMAC, so that a code for one thing is none for another. Nothing is
stored: any web worker with the district's data key and a clock checks what any other showed.
"""

import base64
import hmac
from datetime import UTC, datetime, timedelta

from server.crypto import keyed_hash

# 80 bits: beyond guessing within a period, and short enough for a QR code that a cheap phone reads at arm's length.
CODE_BYTES = 10
CODE_LENGTH = 16

_PURPOSE = "rotating-code:"


def code_at(data_key: bytes, purpose: str, subject: str, *, period_s: int, now: datetime) -> str:
    """The code of `subject` for `purpose` in the period of `period_s` seconds that holds `now`: 16 of A-Z and 2-7."""
    return _code(data_key, purpose, subject, _period(period_s, now))


def changes_at(*, period_s: int, now: datetime) -> datetime:
    """When the code of `now` is replaced by the next one; it is still accepted for one more period."""
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=(_period(period_s, now) + 1) * period_s)


def check(data_key: bytes, purpose: str, subject: str, code: str, *, period_s: int, now: datetime) -> bool:
    """Whether `code` is that of the current period or of the one before, compared in constant time.

    So a code works for `period_s` to twice `period_s` after it first appeared. Codes of the future are refused: both
    sides of the clock are ours, and web workers of one machine share it.
    """
    given = code.encode()
    current = _period(period_s, now)
    # Both are compared whatever the first says, so that the time taken does not tell which one was close.
    found = [hmac.compare_digest(_code(data_key, purpose, subject, n).encode(), given) for n in (current, current - 1)]
    return any(found)


def _period(period_s: int, now: datetime) -> int:
    return int(now.timestamp()) // period_s


def _code(data_key: bytes, purpose: str, subject: str, period: int) -> str:
    digest = keyed_hash(data_key, _PURPOSE + purpose, f"{period}:{subject}")
    return base64.b32encode(digest[:CODE_BYTES]).decode()
