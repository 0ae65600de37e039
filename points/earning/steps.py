"""Steps and walks: each physical step is paid once, whether it is told as a step or as a part of a walk.

WeRun's figure of a day keeps growing, so each sync claims only what was added since the last. A walk with a distance
(recorded by hand, or a track) has steps too, and both ways round they meet in the day's row, which is locked by a write
before either is paid:

- a walk that began before the last sync of its day has been paid by its steps: it is refused, and both records stay;
- a walk that is paid covers its steps: the next sync claims that many fewer.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.award import award
from points.earning.claims import Award, Claim, Reason
from points.earning.models import Behaviour, Grade, Outcome
from points.earning.pricing import SPAN_MAX
from server.clock import business_day, day_start
from server.people.wechat import StepDay as SyncedDay

# Shorter than the usual step of an adult (about 0.7 m), so that a walk covers all of its steps and rather a few more.
STEP_LENGTH_M = 0.6
WALKED_STEPS_MAX = 1_000_000

# One guarded write: a second sync, or a walk, at the same moment waits for the first and finds its figures. `steps` are
# those claimed as steps, which is what WeRun tells less what walks have covered.
_GROW = sa.text("""
INSERT INTO step_day AS kept (resident_id, day, steps, steps_before, synced_at)
VALUES (:resident_id, :day, :steps, 0, :now)
ON CONFLICT (resident_id, day) DO UPDATE SET
    steps_before = kept.steps,
    steps = greatest(kept.steps, EXCLUDED.steps - kept.walked_steps),
    synced_at = greatest(kept.synced_at, EXCLUDED.synced_at)
RETURNING steps, steps_before
""")

# Without a time of the last sync the row is one that an earlier release has written: any walk of the day may be in it.
_HOLD = sa.text("""
INSERT INTO step_day AS kept (resident_id, day, steps, steps_before) VALUES (:resident_id, :day, 0, 0)
ON CONFLICT (resident_id, day) DO UPDATE SET walked_steps = kept.walked_steps
RETURNING steps > 0 AND coalesce(synced_at, 'infinity') > :started_at
""")

_COVER = sa.text("""
INSERT INTO step_day AS kept (resident_id, day, steps, steps_before, walked_steps)
VALUES (:resident_id, :day, 0, 0, :steps)
ON CONFLICT (resident_id, day) DO UPDATE SET walked_steps = least(kept.walked_steps + EXCLUDED.walked_steps, :most)
""")

_UNCOVER = sa.text("""
UPDATE step_day SET walked_steps = greatest(walked_steps - :steps, 0)
WHERE resident_id = :resident_id AND day = :day
""")


def sync(
    session: Session, resident_id: UUID, days: Sequence[SyncedDay], *, now: datetime, device: str | None = None
) -> list[Award]:
    """Award what the days' steps are worth more than at the last sync; one answer per day that grew."""
    claims = []
    for each in sorted(days, key=lambda day: day.day):
        keys = {"resident_id": resident_id, "day": each.day, "steps": each.steps, "now": now}
        claimed, before = session.execute(_GROW, keys).one()
        if claimed == before:
            continue
        started_at = day_start(each.day)
        claims.append(
            Claim(
                resident_id=resident_id,
                behaviour=Behaviour.WALK,
                mode="steps",
                grade=Grade.SENSOR,
                source="werun",
                external_id=f"{each.day:%Y%m%d}-{claimed}",
                started_at=started_at,
                ended_at=started_at,
                received_at=now,
                steps=claimed,
                steps_before=before,
                device=device,
            )
        )
    return award(session, claims, now=now)


def award_walks(session: Session, claims: Sequence[Claim], *, now: datetime) -> list[Award]:
    """`award` for trips told by themselves, none of whose steps is paid twice.

    A walk that its steps have paid is refused with PAID_AS_STEPS; one that is paid, or held to be paid perhaps, covers
    its steps. A trip that is no walk goes through as it is.
    """
    checked = [
        msgspec.structs.replace(claim, refusal=Reason.PAID_AS_STEPS) if paid_as_steps(session, claim) else claim
        for claim in claims
    ]
    answers = award(session, checked, now=now)
    for claim, answer in zip(checked, answers, strict=True):
        if _is_walk(claim) and answer.outcome in (Outcome.AWARDED, Outcome.HELD):
            cover(session, claim.resident_id, claim.started_at, claim.ended_at, claim.distance_m or 0)
    return answers


def cover(session: Session, resident_id: UUID, started_at: datetime, ended_at: datetime, distance_m: int) -> None:
    """Note that a walk is paid by itself: the next sync of its day claims its steps no more."""
    for day, steps in _steps_of(started_at, ended_at, distance_m):
        keys = {"resident_id": resident_id, "day": day, "steps": steps, "most": WALKED_STEPS_MAX}
        session.execute(_COVER, keys)


def uncover(session: Session, resident_id: UUID, started_at: datetime, ended_at: datetime, distance_m: int) -> None:
    """Note that a walk that was held is not paid after all: the next sync of its day claims its steps."""
    for day, steps in _steps_of(started_at, ended_at, distance_m):
        session.execute(_UNCOVER, {"resident_id": resident_id, "day": day, "steps": steps})


def paid_as_steps(session: Session, claim: Claim) -> bool:
    """Whether a sync has told steps of the walk's time; holds the rows of its days until the transaction ends."""
    if not _is_walk(claim) or claim.refusal is not None:
        return False
    days = [day for day, _ in _shares(claim.started_at, claim.ended_at)]
    keys = {"resident_id": claim.resident_id, "started_at": claim.started_at}
    return any([session.scalar(_HOLD, {**keys, "day": day}) for day in days])  # noqa: C419 -- every day's row is held


def _steps_of(started_at: datetime, ended_at: datetime, distance_m: int) -> list[tuple[date, int]]:
    return [
        (day, min(math.ceil(distance_m * share / STEP_LENGTH_M), WALKED_STEPS_MAX))
        for day, share in _shares(started_at, ended_at)
    ]


def _is_walk(claim: Claim) -> bool:
    span = claim.ended_at - claim.started_at
    return claim.behaviour is Behaviour.WALK and claim.steps is None and timedelta() < span <= SPAN_MAX


def _shares(started_at: datetime, ended_at: datetime) -> Iterator[tuple[date, float]]:
    """The business days of a span, in order, and which share of it each has: a walk may pass midnight."""
    whole = (ended_at - started_at).total_seconds()
    day = business_day(started_at)
    while (begin := max(started_at, day_start(day))) < ended_at:
        end = min(ended_at, day_start(day + timedelta(days=1)))
        yield day, (end - begin).total_seconds() / whole
        day += timedelta(days=1)
