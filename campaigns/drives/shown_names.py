"""Under which name a resident appears to other residents: the nickname, and only of who agreed (PIPL 25)."""

import sqlalchemy as sa

from server.people.models import Consent, ConsentPurpose, Resident
from server.people.residents import TEXT_VERSIONS


def agreed_to_appear() -> sa.ColumnElement[bool]:
    """The condition on Resident that the consent to appear in rankings stands, to the wording of today."""
    return sa.exists().where(
        Consent.resident_id == Resident.resident_id,
        Consent.purpose == ConsentPurpose.RANKING,
        Consent.subject == "",
        Consent.withdrawn_at.is_(None),
        Consent.text_version == TEXT_VERSIONS[ConsentPurpose.RANKING],
    )
