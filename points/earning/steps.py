"""WeRun steps: today's figure keeps growing, so each sync claims only what was added since the last."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.award import award
from points.earning.claims import Award, Claim
from points.earning.models import Behaviour, Grade
from server.clock import day_start
from server.people.wechat import StepDay as SyncedDay

# One guarded write: a second sync at the same moment waits for the first and finds its figure.
_GROW = sa.text("""
INSERT INTO step_day AS kept (resident_id, day, steps, steps_before) VALUES (:resident_id, :day, :steps, 0)
ON CONFLICT (resident_id, day) DO UPDATE SET steps_before = kept.steps, steps = EXCLUDED.steps
WHERE EXCLUDED.steps > kept.steps
RETURNING steps_before
""")


def sync(session: Session, resident_id: UUID, days: Sequence[SyncedDay], *, now: datetime) -> list[Award]:
    """Award what the days' steps are worth more than at the last sync; one answer per day that grew."""
    claims = []
    for each in sorted(days, key=lambda day: day.day):
        keys = {"resident_id": resident_id, "day": each.day, "steps": each.steps}
        before = session.scalar(_GROW, keys)
        if before is None or each.steps == 0:
            continue
        started_at = day_start(each.day)
        claims.append(
            Claim(
                resident_id=resident_id,
                behaviour=Behaviour.WALK,
                mode="steps",
                grade=Grade.SENSOR,
                source="werun",
                external_id=f"{each.day:%Y%m%d}-{each.steps}",
                started_at=started_at,
                ended_at=started_at,
                received_at=now,
                steps=each.steps,
                steps_before=before,
            )
        )
    return award(session, claims, now=now)
