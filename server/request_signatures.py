"""The signature of a request by a machine: HMAC-SHA256 over `timestamp.body`, the raw bytes as they came."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

TOLERANCE = timedelta(seconds=300)


def new_key() -> str:
    """A key of 256 random bits as text; the text's bytes are the HMAC key."""
    return secrets.token_urlsafe(32)


def sign(key: bytes, timestamp: str, body: bytes) -> str:
    """The hexadecimal signature to send."""
    return hmac.digest(key, timestamp.encode() + b"." + body, hashlib.sha256).hex()


def signed_by_one(keys: Sequence[bytes], timestamp: str, signature: str, body: bytes, *, now: datetime) -> bool:
    """Whether one of the keys made the signature, and the timestamp (Unix seconds) is within TOLERANCE either way.

    All keys are always compared, in constant time, so that nothing is learnt from the time taken.
    """
    if not re.fullmatch(r"[0-9]{10}", timestamp) or not re.fullmatch(r"[0-9a-f]{64}", signature):
        return False
    if abs(now.timestamp() - int(timestamp)) > TOLERANCE.total_seconds():
        return False
    found = [hmac.compare_digest(sign(key, timestamp, body), signature) for key in keys]
    return any(found)
