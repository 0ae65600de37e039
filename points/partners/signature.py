"""The signature of a partner's request: HMAC-SHA256 over `timestamp.body`, the raw bytes as they came."""

import hashlib
import hmac
import re
from datetime import datetime, timedelta

from points.partners.models import Partner
from server.crypto import unseal
from server.errors import Unauthenticated

TOLERANCE = timedelta(seconds=300)
KEY_PURPOSE = "partner-key"


class BadSignature(Unauthenticated):
    """Unknown partner, stale timestamp or wrong signature: which of them is not told."""

    code, title_zh, title_en = "bad-signature", "签名无效", "The signature is not valid"


def sign(key: bytes, timestamp: str, body: bytes) -> str:
    """The hexadecimal signature that a partner sends."""
    return hmac.digest(key, timestamp.encode() + b"." + body, hashlib.sha256).hex()


def check(
    partner: Partner | None, data_key: bytes, timestamp: str, signature: str, body: bytes, *, now: datetime
) -> Partner:
    """The partner, when one of its live keys made the signature and the timestamp is within TOLERANCE either way.

    Raises BadSignature. Both keys are always compared, in constant time, so that nothing is learnt from the time taken.
    """
    if partner is None or not partner.enabled:
        raise BadSignature
    if not re.fullmatch(r"[0-9]{10}", timestamp) or not re.fullmatch(r"[0-9a-f]{64}", signature):
        raise BadSignature
    if abs(now.timestamp() - int(timestamp)) > TOLERANCE.total_seconds():
        raise BadSignature
    sealed = [key for key in (partner.key_a_sealed, partner.key_b_sealed) if key is not None]
    keys = [unseal(data_key, KEY_PURPOSE, partner.code, each) for each in sealed]
    if not any([hmac.compare_digest(sign(key, timestamp, body), signature) for key in keys]):  # noqa: C419 -- all, always
        raise BadSignature
    return partner
