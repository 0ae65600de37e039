"""Short codes that let people join something: read out in a class, typed on a phone, kept as a keyed hash only."""

from server import typed_codes
from server.crypto import keyed_hash

# 40 bits. Fifty guesses a day and person, against a thousand codes in force, find one in sixty thousand years.
LENGTH = 8

# Longer than a code, for the blanks and hyphens that people type.
TYPED_LENGTH_MAX = 20

# Of one person; a mistyped code is tried again at once, and a guesser gives up.
GUESSES = "10 per minute;50 per day"


def new_code() -> str:
    """A random code."""
    return typed_codes.new_code(LENGTH)


def hashed(data_key: bytes, purpose: str, typed: str) -> bytes:
    """The keyed hash of a code as somebody typed it: in capitals or not, O for 0, with blanks or hyphens."""
    return keyed_hash(data_key, purpose, typed_codes.plain(typed.strip()))
