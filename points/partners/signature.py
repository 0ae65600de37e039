"""The signature of a partner's request, by one of its two live keys; how it is made: `server.request_signatures`."""

from datetime import datetime

from points.partners.models import Partner
from server.crypto import unseal
from server.errors import Unauthenticated
from server.request_signatures import TOLERANCE, sign, signed_by_one

__all__ = ["KEY_PURPOSE", "TOLERANCE", "BadSignature", "check", "sign"]

KEY_PURPOSE = "partner-key"


class BadSignature(Unauthenticated):
    """Unknown partner, stale timestamp or wrong signature: which of them is not told."""

    code, title_zh, title_en = "bad-signature", "签名无效", "The signature is not valid"


def check(
    partner: Partner | None, data_key: bytes, timestamp: str, signature: str, body: bytes, *, now: datetime
) -> Partner:
    """The partner, when one of its live keys made the signature and the timestamp is within TOLERANCE either way.

    Raises BadSignature.
    """
    if partner is None or not partner.enabled:
        raise BadSignature
    sealed = [key for key in (partner.key_a_sealed, partner.key_b_sealed) if key is not None]
    keys = [unseal(data_key, KEY_PURPOSE, partner.code, each) for each in sealed]
    if not signed_by_one(keys, timestamp, signature, body, now=now):
        raise BadSignature
    return partner
