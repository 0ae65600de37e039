"""Looking for what does not fit: the detectors, when they look, and what becomes of what they find.

They look at what was recorded since they last looked, every few minutes, and once more over the whole day at night, for
what belongs together may arrive hours apart. They stand outside the award: what was paid stays paid until people have
decided, and only what comes next of a subject waits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

import sqlalchemy as sa
from flask import Flask, current_app
from sqlalchemy.orm import Session

from points.review import editions, leads
from points.review.editions import Figures, Terms
from points.review.leads import Finding

# A transaction is visible only once it is committed, and the longest statement takes half a minute.
OVERLAP = timedelta(minutes=20)
# After a standstill the detectors go on with the last two days; the nights before have their own look.
BEHIND_MAX = timedelta(days=2)
NIGHT = timedelta(hours=30)
FINDINGS_MAX = 20_000  # of one detector at one look

# Where a site lies, longitude and latitude in degrees, by its name in the activities; all in one datum.
Positions = Callable[[Session], Mapping[str, tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Window:
    """What a detector looks at: activities recorded after `since` and until `until`, both by the database's clock.

    `now` is the business clock. `positions` are asked for only when they are needed.
    """

    since: datetime
    until: datetime
    now: datetime
    positions: Positions


@dataclass(frozen=True, slots=True)
class Detector:
    """One way of looking. `find` reads, set-based, and yields what it finds; it may find the same again.

    It gets the edition's figures under `code`; without them it is off.
    """

    code: str
    find: Callable[[Session, Window, Figures], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Desk:
    """The application's detectors, and where its sites lie."""

    detectors: Sequence[Detector]
    positions: Positions


def no_positions(_session: Session) -> Mapping[str, tuple[float, float]]:
    """The positions of a programme without sites."""
    return {}


def install(app: Flask, detectors: Sequence[Detector], *, positions: Positions = no_positions) -> None:
    """Give the application its detectors."""
    if len({detector.code for detector in detectors}) < len(detectors):
        raise ValueError("two detectors have one code")
    app.extensions["tanpuhui_detectors"] = Desk(tuple(detectors), positions)


def installed() -> Desk:
    """The running application's."""
    found: Desk = current_app.extensions["tanpuhui_detectors"]
    return found


_MARK = sa.text("""
INSERT INTO detector_mark AS kept (name, looked_until) VALUES (:name, :first)
ON CONFLICT (name) DO UPDATE SET looked_until = kept.looked_until
RETURNING looked_until, clock_timestamp()
""")


def look_since_last(session: Session, desk: Desk, *, now: datetime) -> int:
    """Look at what was recorded since the last look; how many leads opened or grew.

    The mark is locked by its write, so that two looks at once become one after the other. Without a mark, as in a
    programme that was upgraded, they begin BEHIND_MAX ago and not with its first year.
    """
    looked_until, clock = session.execute(_MARK, {"name": "recorded", "first": now - BEHIND_MAX}).one()
    since = max(looked_until, clock - BEHIND_MAX) - OVERLAP
    brought = look(session, desk, since=since, until=clock, now=now)
    session.execute(sa.text("UPDATE detector_mark SET looked_until = :until WHERE name = 'recorded'"), {"until": clock})
    return brought


def look_over_night(session: Session, desk: Desk, *, now: datetime) -> int:
    """Look once more at all of the last NIGHT; how many leads opened or grew."""
    clock = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return look(session, desk, since=clock - NIGHT, until=clock, now=now)


def look(session: Session, desk: Desk, *, since: datetime, until: datetime, now: datetime) -> int:
    """Let every detector of the edition in force look at one window and bring what it finds; leads opened or grown."""
    terms = editions.terms_at(session, now)
    window = Window(since, until, now, desk.positions)
    return leads.bring(session, _found(session, desk, window, terms), terms=terms, now=now)


def _found(session: Session, desk: Desk, window: Window, terms: Terms) -> Iterator[Finding]:
    for detector in desk.detectors:
        figures = terms.detectors.get(detector.code)
        if figures is None:
            continue
        # Of each its own share: whoever floods one of them blinds none of the others.
        yield from islice(detector.find(session, window, figures), FINDINGS_MAX)
