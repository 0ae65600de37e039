"""Short codes that let people join something: read out in a class, typed on a phone, kept as a keyed hash only."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from server import typed_codes
from server.crypto import keyed_hash
from server.people.models import HouseholdJoinCode, OrganisationJoinCode

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


def issue(
    session: Session,
    table: type[HouseholdJoinCode | OrganisationJoinCode],
    owner_id: UUID,
    *,
    purpose: str,
    issued_by: UUID,
    expires_at: datetime,
    data_key: bytes,
    now: datetime,
) -> str:
    """Make the one join code of a household or an organisation; the one before ends at once. Only a hash is kept."""
    code = new_code()
    values = {
        "code_hash": hashed(data_key, purpose, code),
        "issued_by": issued_by,
        "issued_at": now,
        "expires_at": expires_at,
    }
    (owner,) = table.__table__.primary_key
    session.execute(
        insert(table)
        .values({owner.name: owner_id, **values})
        .on_conflict_do_update(index_elements=[owner], set_=values)
    )
    return code
