"""The resident's code: signed, new every 30 s, for one purpose, and checked by a device without a net.

The text is of the characters that a QR code holds most densely (ISO/IEC 18004, alphanumeric mode): `TPH:U:` and 141
characters of base 32 (RFC 4648, without padding) of 88 bytes, in all 147, which is a QR code of version 6 with error
correction M (41 × 41 modules). The bytes, numbers with the highest byte first:

    0       format, 1
    1       purpose: 1 sorting, 2 recycling, 3 staff-link
    2-3     number of the signing key
    4-7     slot: the Unix time in seconds divided by 30, rounded down
    8-23    pseudonym of the resident: another one in every slot, and only the service can tell whose
    24-87   Ed25519 signature (RFC 8032) over the characters `TPH:U:` and bytes 0-23

A device keeps the public keys of GET /api/v1/codes/keys. A code holds when its format is 1, its purpose is the one
wanted, its key is known and was valid at the beginning of the slot, the signature is right, and the slot is that of the
device's clock, the one before or the one after: it is accepted for 90 s at the most. docs/resident-code.md says the
same for the makers of devices, with an example.

Nothing is stored: what was made anywhere is checked anywhere. That a code serves once is `resident_codes`' to say.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from server.clock import business_day, day_start
from server.crypto import keyed_hash
from server.errors import DomainError
from server.people.models import CodePurpose

SLOT_S = 30
SLOTS_OFF_MAX = 1  # by which the clocks of a phone's server and a device may differ

PREFIX = "TPH:U:"
TEXT_LENGTH = 147

_FORMAT = 1
_SIGNED_BYTES = 24
_BYTES = 88
_SHAPE = re.compile(rf"{PREFIX}([A-Z2-7]{{{TEXT_LENGTH - len(PREFIX)}}})")

PURPOSE_NUMBERS = {CodePurpose.SORTING: 1, CodePurpose.RECYCLING: 2, CodePurpose.STAFF_LINK: 3}
_PURPOSES = {number: purpose for purpose, number in PURPOSE_NUMBERS.items()}

_SIGNING = "resident-code-signing-key"
_NAMING = "resident-code-pseudonym-key"


class CodeRefused(DomainError):
    """The code is none of ours, for another purpose, no longer valid, or of somebody who is gone.

    Which of them is not told: whoever scans learns nothing about a resident from a code that does not serve.
    """

    code, status, title_zh, title_en = (
        "resident-code-refused",
        422,
        "居民码无效或已过期, 请刷新后重试",
        "The code is not valid or no longer valid; show a new one",
    )


@dataclass(frozen=True, slots=True)
class ShownCode:
    """A code as text for a QR code, and when the next one takes its place."""

    text: str
    purpose: CodePurpose
    changes_at: datetime


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The public half of a key, 32 bytes, and the slots that it signs: from the first instant to before the second."""

    number: int
    public: bytes
    valid_from: datetime
    valid_until: datetime


@dataclass(frozen=True, slots=True)
class SignedCode:
    """What a device reads out of a code that holds."""

    purpose: CodePurpose
    slot: int
    pseudonym: bytes


def slot_of(instant: datetime) -> int:
    """The number of the slot that holds an instant."""
    return int(instant.timestamp()) // SLOT_S


def make(data_key: bytes, resident_id: UUID, *, purpose: CodePurpose, now: datetime) -> ShownCode:
    """The resident's code for a purpose in the slot of `now`; within the slot always the same."""
    slot = slot_of(now)
    head = _head(purpose, slot)
    signed = head + _pseudonym(data_key, resident_id, head)
    signature = _private_key(data_key, _key_number(_slot_start(slot))).sign(PREFIX.encode() + signed)
    text = PREFIX + base64.b32encode(signed + signature).decode().rstrip("=")
    return ShownCode(text, purpose, _slot_start(slot + 1))


def verify(text: str, keys: Mapping[int, SigningKey], *, purpose: CodePurpose, at: datetime) -> SignedCode:
    """What a code says, checked with public keys alone against the scanner's clock `at`. Raises CodeRefused."""
    shape = _SHAPE.fullmatch(text.strip().upper())
    if shape is None:
        raise CodeRefused
    content = base64.b32decode(shape[1] + "=" * (-len(shape[1]) % 8))
    signed, signature = content[:_SIGNED_BYTES], content[_SIGNED_BYTES:_BYTES]
    slot = int.from_bytes(signed[4:8], "big")
    key = keys.get(int.from_bytes(signed[2:4], "big"))
    if signed[0] != _FORMAT or _PURPOSES.get(signed[1]) is not purpose or abs(slot - slot_of(at)) > SLOTS_OFF_MAX:
        raise CodeRefused
    if key is None or not key.valid_from <= _slot_start(slot) < key.valid_until:
        raise CodeRefused
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, PREFIX.encode() + signed)
    except InvalidSignature as error:
        raise CodeRefused from error
    return SignedCode(purpose, slot, signed[8:])


def resident_behind(data_key: bytes, code: SignedCode) -> UUID:
    """Whose code it is; of a code that `verify` gave."""
    head = _head(code.purpose, code.slot)
    opening = _naming(data_key, head).decryptor()
    return UUID(bytes=opening.update(code.pseudonym) + opening.finalize())


def public_keys(data_key: bytes, *, now: datetime) -> dict[int, SigningKey]:
    """The keys that a device needs, by number: of the quarter before, of this one and of the next.

    The one before signs nothing any more; what was scanned in its last hours may still be on its way.
    """
    current = _key_number(now)
    return {number: _public_key(data_key, number) for number in (current - 1, current, current + 1)}


def _key_number(at: datetime) -> int:
    """One key for each calendar quarter in Asia/Shanghai: 0 is the first quarter of 2000."""
    day = business_day(at)
    return (day.year - 2000) * 4 + (day.month - 1) // 3


def _quarter_start(number: int) -> datetime:
    return day_start(date(2000 + number // 4, number % 4 * 3 + 1, 1))


def _head(purpose: CodePurpose, slot: int) -> bytes:
    number = _key_number(_slot_start(slot))
    return bytes((_FORMAT, PURPOSE_NUMBERS[purpose])) + number.to_bytes(2, "big") + slot.to_bytes(4, "big")


def _slot_start(slot: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=slot * SLOT_S)


@lru_cache(maxsize=16)
def _private_key(data_key: bytes, number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(keyed_hash(data_key, _SIGNING, str(number)))


def _public_key(data_key: bytes, number: int) -> SigningKey:
    public = _private_key(data_key, number).public_key().public_bytes_raw()
    return SigningKey(number, public, _quarter_start(number), _quarter_start(number + 1))


def _pseudonym(data_key: bytes, resident_id: UUID, head: bytes) -> bytes:
    sealing = _naming(data_key, head).encryptor()
    return sealing.update(resident_id.bytes) + sealing.finalize()


def _naming(data_key: bytes, head: bytes) -> Cipher[modes.XTS]:
    """One block under AES-256-XTS (IEEE 1619), tweaked by purpose and slot.

    So the pseudonym has the length of an id, opens without a look-up, and two of one resident have nothing in common:
    a device that keeps what it scanned cannot follow anybody through the day.
    """
    key = keyed_hash(data_key, _NAMING, "data") + keyed_hash(data_key, _NAMING, "tweak")
    return Cipher(algorithms.AES(key), modes.XTS(head.rjust(16, b"\0")))
