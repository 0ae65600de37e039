"""Keeping small secrets in the database: sealed values, and keyed hashes to look one up without opening any."""

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE_BYTES = 12


class BadSeal(Exception):
    """The sealed value was changed, moved to another row, or sealed under another key."""


def _derive(data_key: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose.encode()).derive(data_key)


def seal(data_key: bytes, purpose: str, owner: str, value: bytes) -> bytes:
    """`value` under AES-256-GCM (NIST SP 800-38D) with a key of its own for `purpose`, bound to its `owner`.

    The binding makes a value copied into another person's row unreadable.
    """
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(_derive(data_key, purpose)).encrypt(nonce, value, owner.encode())


def unseal(data_key: bytes, purpose: str, owner: str, sealed: bytes) -> bytes:
    """The value inside. Raises BadSeal."""
    try:
        return AESGCM(_derive(data_key, purpose)).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], owner.encode())
    except (InvalidTag, ValueError) as error:
        raise BadSeal from error


def keyed_hash(data_key: bytes, purpose: str, value: str) -> bytes:
    """HMAC-SHA256 of a value such as a phone number: equal values meet, and none can be guessed without the key."""
    return hmac.digest(_derive(data_key, purpose), value.encode(), hashlib.sha256)
