"""What a phone scans: the code on the staff's screen, the resident's own, and printed ones for one use each.

Every text is of the characters that a QR code holds most densely (ISO/IEC 18004, alphanumeric mode):

    TPH:I:<slot>:<code>      the screen at the door, for checking in; TPH:O: for signing out
    TPH:R:<resident>:<code>  the resident's own, for staff to scan
    TPH:P:<code>             a printed code, which may also be typed as it stands on the paper
"""

import base64
import enum
import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from server import rotating_codes, typed_codes
from server.crypto import keyed_hash
from server.errors import DomainError

SCREEN_PERIOD_S = 15
RESIDENT_PERIOD_S = 30
TEXT_LENGTH_MAX = 80

PRINTED_LENGTH = 12  # 60 bits, and guesses are rate-limited

_PRINTED_PURPOSE = "check-in-printed-code"
_SHAPE = re.compile(r"TPH:(?:([IOR]):([A-Z2-7]{26}):([A-Z2-7]{16})|P:([0-9A-Z]{12}))")


class CodeUse(enum.StrEnum):
    """What a code is good for."""

    CHECK_IN = "check-in"
    SIGN_OUT = "sign-out"


class CheckInCodeRefused(DomainError):
    """The code is none of ours, of another campaign or use, or no longer valid. Which of them is not told."""

    code, status, title_zh, title_en = (
        "check-in-code-refused",
        422,
        "签到码无效或已过期",
        "The code is not valid or no longer valid",
    )


@dataclass(frozen=True, slots=True)
class ShownCode:
    """A rotating code as text for a QR code, and when the next one takes its place."""

    text: str
    changes_at: datetime


@dataclass(frozen=True, slots=True)
class ScreenCode:
    """What was read off the staff's screen."""

    use: CodeUse
    slot_id: UUID
    code: str


@dataclass(frozen=True, slots=True)
class ResidentCode:
    """What staff read off a resident's phone."""

    resident_id: UUID
    code: str


@dataclass(frozen=True, slots=True)
class PaperCode:
    """What was read or typed from paper."""

    code: str


def read(text: str) -> ScreenCode | ResidentCode | PaperCode:
    """What a scanned or typed text is, before anything of it is checked. Raises CheckInCodeRefused."""
    wanted = text.strip().upper()
    found = _SHAPE.fullmatch(wanted)
    if found is None:
        typed = typed_codes.plain(wanted)
        if not typed_codes.is_code(typed, PRINTED_LENGTH):
            raise CheckInCodeRefused
        return PaperCode(typed)
    letter, subject, code, printed = found.groups()
    if printed is not None:
        return PaperCode(printed)
    identity = UUID(bytes=base64.b32decode(subject + "======"))
    if letter == "R":
        return ResidentCode(identity, code)
    return ScreenCode(CodeUse.CHECK_IN if letter == "I" else CodeUse.SIGN_OUT, identity, code)


def screen_code(data_key: bytes, campaign_id: UUID, slot_id: UUID, *, use: CodeUse, now: datetime) -> ShownCode:
    """The code for the screen at a slot: another every 15 s, and worth nothing 30 s after it first appeared."""
    code = rotating_codes.code_at(data_key, _screen(use), f"{campaign_id}:{slot_id}", period_s=SCREEN_PERIOD_S, now=now)
    letter = "I" if use is CodeUse.CHECK_IN else "O"
    changes_at = rotating_codes.changes_at(period_s=SCREEN_PERIOD_S, now=now)
    return ShownCode(f"TPH:{letter}:{_short(slot_id)}:{code}", changes_at)


def screen_code_holds(data_key: bytes, campaign_id: UUID, shown: ScreenCode, *, now: datetime) -> bool:
    """Whether a code from the screen is one of this campaign and of now."""
    subject = f"{campaign_id}:{shown.slot_id}"
    return rotating_codes.check(data_key, _screen(shown.use), subject, shown.code, period_s=SCREEN_PERIOD_S, now=now)


def resident_code(data_key: bytes, campaign_id: UUID, resident_id: UUID, *, use: CodeUse, now: datetime) -> ShownCode:
    """A resident's own code, for the staff of one campaign and one use."""
    subject = f"{campaign_id}:{resident_id}"
    code = rotating_codes.code_at(data_key, _resident(use), subject, period_s=RESIDENT_PERIOD_S, now=now)
    changes_at = rotating_codes.changes_at(period_s=RESIDENT_PERIOD_S, now=now)
    return ShownCode(f"TPH:R:{_short(resident_id)}:{code}", changes_at)


def resident_code_holds(
    data_key: bytes, campaign_id: UUID, shown: ResidentCode, *, use: CodeUse, now: datetime
) -> bool:
    """Whether a resident's code is for this campaign, this use and now."""
    subject = f"{campaign_id}:{shown.resident_id}"
    return rotating_codes.check(data_key, _resident(use), subject, shown.code, period_s=RESIDENT_PERIOD_S, now=now)


def new_printed_code() -> str:
    """Twelve random characters."""
    return typed_codes.new_code(PRINTED_LENGTH)


def printed_hash(data_key: bytes, code: str) -> bytes:
    """How a printed code is kept."""
    return keyed_hash(data_key, _PRINTED_PURPOSE, code)


def printed_text(code: str) -> str:
    """The text for the QR code on the paper."""
    return f"TPH:P:{code}"


def grouped(code: str) -> str:
    """A printed code as people read it: ABCD-EFGH-JKMN."""
    return "-".join(code[at : at + 4] for at in range(0, len(code), 4))


def _screen(use: CodeUse) -> str:
    return f"screen-{use.value}"


def _resident(use: CodeUse) -> str:
    return f"resident-{use.value}"


def _short(identity: UUID) -> str:
    return base64.b32encode(identity.bytes).decode().rstrip("=")
