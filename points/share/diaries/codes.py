"""The code of an invitation: what a person shows to staff who write for them.

It comes from the data key, the round and the person, so that it can be shown again and again although only its keyed
hash is kept: whoever reads the table can write for nobody.
"""

from uuid import UUID

from server import typed_codes
from server.crypto import keyed_hash

# 50 bits; staff alone may try, and a limit on trying keeps them from finding one.
LENGTH = 10
TYPED_LENGTH_MAX = 24  # for the blanks and hyphens that people type

_BITS = 5
_CODE, _HASH = "diary-invitation-code", "diary-invitation-code-hash"


def code_of(data_key: bytes, round_id: UUID, resident_id: UUID) -> str:
    """A person's code in a round: LENGTH characters of Crockford's base 32."""
    number = int.from_bytes(keyed_hash(data_key, _CODE, f"{round_id}:{resident_id}")[:8], "big")
    return "".join(typed_codes.ALPHABET[number >> (_BITS * place) & 31] for place in range(LENGTH))


def code_hash(data_key: bytes, typed: str) -> bytes:
    """How a code is kept and looked up, from what somebody typed."""
    return keyed_hash(data_key, _HASH, typed_codes.plain(typed.strip()))
