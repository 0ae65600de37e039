"""A phone as evidence: which installation of the mini-program sent a claim, without keeping its number."""

from server import crypto

HASH_HEX_LENGTH = 32


def phone_of(installation: str | None, *, data_key: bytes) -> str | None:
    """`Claim.device` for the installation that the mini-program names, None when it names none.

    A keyed hash, so that the table of activities tells which claims came from one phone and never which phone it was.
    """
    if installation is None:
        return None
    return "phone:" + crypto.keyed_hash(data_key, "phone", installation).hex()[:HASH_HEX_LENGTH]
