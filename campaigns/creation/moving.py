"""A move being made, as the value that its effects take."""

from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from sqlalchemy.orm import Session

from campaigns.creation.models import Application


@dataclass(frozen=True, slots=True)
class Moving:
    """A held application in the state before the move, and what the mover said. `moved_by` is None for the clock."""

    session: Session
    application: Application
    moved_by: UUID | None
    reason: str
    grace_until: date | None
    now: datetime
