"""Driving a town and its attackers through the real award path and the real detectors, in simulated time.

Nobody decides about a case here: what the detectors hold stays held for as long as the edition says, and what was paid
before stays paid. So the gains printed are what attackers have if nobody ever answers the queue.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from bench.replay_kit import attacks, honest, town
from bench.replay_kit.attacks import Family
from bench.replay_kit.events import Event, FeedLine, Walk, received
from bench.replay_kit.town import Town
from points.earning import pricing
from points.earning.award import award
from points.earning.claims import Claim
from points.partners import feed
from points.review import detecting, detectors, held, norms
from points.review.detecting import Desk
from points.travel import tracks
from points.travel.models import TrackMode
from server.clock import day_start
from server.database import new_id
from server.people.models import Resident
from server.places.positions import Datum

# The detectors run every few minutes in the field; here at these hours.
LOOK_HOURS = (6.0, 10.0, 12.5, 15.0, 18.0, 20.0, 22.0, 24.0)
CLAIMS_AT_ONCE = 5000
LINES_AT_ONCE = 4000
TRACKS_SEEN_MAX = 40


@dataclass(frozen=True, slots=True)
class Plan:
    """How large, how long, and from which day on the families attack (counted from 0)."""

    seed: int
    residents: int
    days: int
    accounts: int
    attack_from: int
    starts_on: date = date(2026, 11, 23)
    look_hours: tuple[float, ...] = LOOK_HOURS


@dataclass(slots=True)
class Run:
    """A run in progress: the town, the families, and the seconds that each part took."""

    plan: Plan
    town: Town
    families: list[Family]
    seconds: Counter[str] = field(default_factory=Counter)

    @property
    def attacked_days(self) -> int:
        """For how many days the families attack."""
        return self.plan.days - self.plan.attack_from


# What of the day's steps was told, as points.earning.steps keeps it: the detectors read it.
_STEP_DAYS = sa.text("""
INSERT INTO step_day AS kept (resident_id, day, steps, steps_before, synced_at)
SELECT DISTINCT ON (resident_id, day) resident_id, day, steps, 0, synced_at
FROM json_to_recordset(cast(:rows AS json)) AS s (resident_id uuid, day date, steps int, synced_at timestamptz)
ORDER BY resident_id, day, steps DESC
ON CONFLICT (resident_id, day) DO UPDATE SET steps_before = kept.steps, steps = greatest(kept.steps, EXCLUDED.steps)
""")


def prepare(session: Session, plan: Plan, *, data_key: bytes) -> Run:
    """Make the town and its attackers, and write them into an empty, prepared database."""
    made = town.build(plan.seed, plan.residents)
    families = attacks.families(made, plan.accounts, random.Random(plan.seed + 1))
    begins = day_start(plan.starts_on)
    town.fill(made, session, data_key=data_key, now=begins)
    for family in families:
        session.add_all(
            Resident(resident_id=each.resident_id, community_code="120104001003", created_at=begins)
            for each in family.accounts
        )
        session.flush()
        if family.code == "copied-tracks":
            session.add_all(town.consent_to_tracks(each.resident_id, begins) for each in family.accounts)
        if family.code in {"leaked-key", "careful-key"}:
            session.add_all(
                town.binding(each.resident_id, f"{family.code}-{each.number}", begins) for each in family.accounts
            )
    session.flush()
    return Run(plan, made, families)


def drive(
    session: Session, run: Run, *, data_key: bytes, folder: Path, after_day: Callable[[int], None] = lambda _day: None
) -> None:
    """All days. `after_day` may commit."""
    pricing.forget()
    waiting: list[Event] = []
    for number in range(run.plan.days):
        on = run.plan.starts_on + timedelta(days=number)
        began = time.monotonic()
        waiting += _events_of(run, on, number)
        waiting.sort(key=received)
        run.seconds["generate"] += time.monotonic() - began
        morning = _clock(session)
        for hour in run.plan.look_hours:
            at = day_start(on) + timedelta(hours=hour)
            due = [event for event in waiting if received(event) <= at]
            waiting = waiting[len(due) :]
            # The last look of a day is the night's, over all of it: what belongs together may arrive hours apart.
            since = morning if hour == run.plan.look_hours[-1] else _clock(session)
            _push_and_look(session, run, due, at, since, data_key, folder)
        norms.compute(session, now=day_start(on) + timedelta(hours=27))
        after_day(number)


def _events_of(run: Run, on: date, number: int) -> list[Event]:
    found = list(honest.day(run.town, on))
    if number >= run.plan.attack_from:
        for family in run.families:
            rng = random.Random(f"{run.plan.seed}:{family.code}:{on}")
            found += family.day(family, run.town, on, rng)
    else:
        # What leaks later: the tracks of honest people.
        copier = next(family for family in run.families if family.code == "copied-tracks")
        room = TRACKS_SEEN_MAX - len(copier.seen)
        copier.seen += [event.fixes for event in found if isinstance(event, Walk)][:room]
    return found


def _push_and_look(
    session: Session, run: Run, due: Sequence[Event], at: datetime, since: datetime, data_key: bytes, folder: Path
) -> None:
    began = time.monotonic()
    claims = [event for event in due if isinstance(event, Claim)]
    for first in range(0, len(claims), CLAIMS_AT_ONCE):
        award(session, claims[first : first + CLAIMS_AT_ONCE], now=at)
    _keep_steps(session, claims)
    _feed(session, run, [event for event in due if isinstance(event, FeedLine)], at)
    for walk in due:
        if isinstance(walk, Walk):
            _track(session, walk, data_key, folder)
    run.seconds["award"] += time.monotonic() - began
    began = time.monotonic()
    desk = Desk(detectors.DETECTORS, run.town.positions)
    detecting.look(session, desk, since=since, until=_clock(session), now=at)
    held.open_waiting(session, now=at)
    run.seconds["look"] += time.monotonic() - began


def _clock(session: Session) -> datetime:
    """The database's, which the detectors' windows are told in."""
    told: datetime = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return told


def _keep_steps(session: Session, claims: Iterable[Claim]) -> None:
    rows = [
        {
            "resident_id": claim.resident_id,
            "day": claim.started_at.date(),
            "steps": claim.steps,
            "synced_at": claim.received_at,
        }
        for claim in claims
        if claim.steps is not None
    ]
    if rows:
        session.execute(_STEP_DAYS, {"rows": msgspec.json.encode(rows).decode()})


def _feed(session: Session, run: Run, lines: Sequence[FeedLine], at: datetime) -> None:
    if run.town.partner is None:
        raise AssertionError("the town has no partner")
    for first in range(0, len(lines), LINES_AT_ONCE):
        body = b"\n".join(line.line for line in lines[first : first + LINES_AT_ONCE])
        feed.take_in(session, run.town.partner, str(new_id()), body, now=at)


def _track(session: Session, walk: Walk, data_key: bytes, folder: Path) -> None:
    track_id, at = new_id(), walk.received_at
    tracks.open_track(
        session,
        walk.resident_id,
        track_id,
        mode=TrackMode.WALK,
        datum=Datum.GCJ_02,
        installation=walk.installation,
        data_key=data_key,
        now=at,
    )
    tracks.receive(session, walk.resident_id, track_id, 0, sent=walk.fixes, data_key=data_key, now=at)
    tracks.finish(session, walk.resident_id, track_id, chunks=1, folder=folder, data_key=data_key, now=at)


def people_of(family: Family) -> list[UUID]:
    """The accounts of a family."""
    return [person.resident_id for person in family.accounts]
