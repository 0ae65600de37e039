"""Codes that people read out, print and type: random, without letters that are taken for digits, and read kindly."""

import secrets

# Crockford's base 32 (https://www.crockford.com/base32.html): 5 bits a character, no I, L, O or U.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

_READ_AS = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


def new_code(length: int) -> str:
    """A random code of so many characters."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def plain(typed: str) -> str:
    """A code as it was made, from what somebody typed: in capitals or not, O for 0, with blanks or hyphens."""
    return typed.upper().translate(_READ_AS)


def is_code(text: str, length: int) -> bool:
    """Whether a plain text can be a code of this length."""
    return len(text) == length and set(text) <= set(ALPHABET)
