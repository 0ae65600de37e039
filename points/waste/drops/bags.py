"""One bag is paid once, whoever tells of it: a supervisor, a device, a smart bin, the resident's own scan.

Two records are of the same bag if they are of one resident, one category and one place, come from two sources, and lie
no further apart than SAME_BAG_WITHIN. Both are kept and the first is paid, as of two trips of one time. The stronger
one does not take the place of a weaker one that was paid: it would need the other's share of caps and bounds, which
nothing that was paid gives back. A bag that somebody looked into and found badly sorted is paid by no record, and what
was paid for it before is taken back; what an unattended device was told is the resident's own word and takes nothing
back. A held record waits beside one that is paid, and whoever releases it finds that out (`is_paid_otherwise`).

Nobody looks before paying: whoever pays second waits for the rows that the first one's award holds (the resident's day)
and only then sees the other record; with it in view the payment is taken back to a savepoint and done again. A bag that
is found badly sorted is not paid and holds no such row: our own paths therefore take one lock of the resident's before.
A partner's batch does not, for it would take thousands: its bag and a badly sorted one recorded in the very same moment
can both stand.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import counts, releasing
from points.earning.award import award
from points.earning.claims import REASON_TEXTS, Award, Claim, Reason
from points.earning.models import Activity, Behaviour, Grade, Outcome
from points.earning.pricing import Priced
from points.waste.sites import opening
from points.waste.sites.opening import Sites
from server.database import lock_name
from server.notices import notices

# As long as a visit to a site takes, and five minutes by which a bin's clock may be wrong. Not a part of the dated
# plan: it says what one act is, and the editions in force are frozen without it.
SAME_BAG_WITHIN = timedelta(minutes=10)
TRIES = 5

Told = Claim | Priced
Pay = Callable[[Collection[int]], list[Award]]


@dataclass(frozen=True, slots=True)
class _Other:
    """Another record of a bag that was told of; `is_restored` if an appeal has paid again what was taken back."""

    resident_id: UUID
    activity_id: UUID
    grade: Grade
    outcome: Outcome
    reason: str | None
    is_restored: bool

    @property
    def is_paid(self) -> bool:
        return self.outcome is Outcome.AWARDED or self.is_restored

    @property
    def was_found_bad(self) -> bool:
        """Whether somebody other than the resident looked into the bag and found it badly sorted."""
        return self.reason == Reason.SPOT_CHECK_FAILED or (
            self.reason == Reason.UNSORTED and not _is_own_word(self.grade)
        )


def award_once(session: Session, claims: Sequence[Claim], *, now: datetime) -> list[Award]:
    """`award` for drops of one resident, none of whose bags is paid twice."""
    if claims:
        lock_name(session, f"bags:{claims[0].resident_id}")

    def pay(refused: Collection[int]) -> list[Award]:
        told = [
            msgspec.structs.replace(claim, refusal=claim.refusal or Reason.SAME_BAG) if n in refused else claim
            for n, claim in enumerate(claims)
        ]
        return award(session, told, now=now)

    return pay_once(session, claims, pay, now=now)


def pay_once(session: Session, told: Sequence[Told], pay: Pay, *, now: datetime) -> list[Award]:
    """Call `pay` until none of the bags is paid twice; its last answer.

    `pay` awards all that was told, in its order and afresh at each call, but those of the given numbers, which it
    refuses with SAME_BAG. `wsgi.py` gives this function to the feed, which may not import this room.
    """
    sites = opening.current(session)
    places = {
        n: place
        for n, one in enumerate(told)
        if one.behaviour == Behaviour.SORTING and (place := _place_of(sites, one)) is not None
    }
    if not places:
        return pay(())
    refused: set[int] = set()
    for _ in range(TRIES):
        with session.begin_nested() as savepoint:
            awards = pay(refused)
            found = _others_of(session, sites, told, places, awards)
            spoken_for = {
                n
                for n, others in found.items()
                if awards[n].outcome is Outcome.AWARDED and any(each.is_paid or each.was_found_bad for each in others)
            }
            if not spoken_for:
                _take_back(session, [other for n in found if _found_bad(awards[n], told[n]) for other in found[n]], now)
                return awards
            savepoint.rollback()
        refused |= spoken_for
    return pay(refused)  # each try met a record that the one before did not know


def is_paid_otherwise(session: Session, activity: Activity) -> bool:
    """Whether another record of the same bag is paid: asked when a person's decision has paid this one after all.

    `wsgi.py` gives this function to the room of releasing, which may not import this one.
    """
    if activity.behaviour is not Behaviour.SORTING:
        return False
    sites = opening.current(session)
    place = _place_of(sites, activity)
    return place is not None and any(
        other.is_paid for other in _others(session, sites, {0: (activity, place)}).get(0, ())
    )


def _place_of(sites: Sites, told: Any) -> str | None:
    """The code of the site that a claim or an activity speaks of; None for a partner's that nobody has told us of."""
    if told.grade != Grade.PARTNER_SIGNED:
        return str(told.site) if told.site else None
    site = opening.of_activity(sites, told)
    return None if site is None else site.code


_FOUND = """a.resident_id, a.id, a.grade, a.mode, a.source, a.site, a.device, a.outcome, a.reason, EXISTS (
        SELECT FROM activity copy WHERE copy.resident_id = a.resident_id AND copy.source = 'restored'
            AND copy.external_id = a.id::text AND copy.outcome = 'awarded') AS is_restored"""
_WITHIN = "BETWEEN asked.at - cast(:within AS interval) AND asked.at + cast(:within AS interval)"
# Our own drops lie in a table of their own; of partners' only the events of those who know the place are looked at.
# What else makes one bag is compared when they are found: a batch asks about thousands, and finds a few.
_OWN = sa.text(f"""
SELECT asked.n, {_FOUND}
FROM json_to_recordset(cast(:asked AS json)) AS asked (n int, resident_id uuid, at timestamptz)
    JOIN sorting_drop d ON d.resident_id = asked.resident_id AND d.dropped_at {_WITHIN}
    JOIN activity a ON a.resident_id = d.resident_id AND a.id = d.activity_id
""")  # noqa: S608 -- constants
_PARTNERS = sa.text(f"""
SELECT asked.n, {_FOUND}
FROM json_to_recordset(cast(:asked AS json)) AS asked (n int, resident_id uuid, at timestamptz, partners text[])
    JOIN activity a ON a.resident_id = asked.resident_id AND a.source = ANY (asked.partners)
WHERE a.behaviour = 'sorting' AND a.started_at {_WITHIN}
""")  # noqa: S608 -- constants


def _others_of(
    session: Session, sites: Sites, told: Sequence[Told], places: Mapping[int, str], awards: Sequence[Award]
) -> dict[int, list[_Other]]:
    """The other records of each bag that was paid or found badly sorted, by its number."""
    asked = {
        n: (told[n], place)
        for n, place in places.items()
        if awards[n].outcome is Outcome.AWARDED or _found_bad(awards[n], told[n])
    }
    return _others(session, sites, asked)


def _others(session: Session, sites: Sites, asked: Mapping[int, tuple[Any, str]]) -> dict[int, list[_Other]]:
    """The other records of each bag that has any, by its number; bags and where they were brought are given."""
    own, partners = [], []
    for n, (one, place) in asked.items():
        bag = {"n": n, "resident_id": one.resident_id, "at": one.started_at}
        own.append(bag)
        # Most places have one partner, whose own events are told apart by their sequence.
        if others := sites.partners_at.get(place, frozenset()) - {one.source}:
            partners.append({**bag, "partners": sorted(others)})
    found: dict[int, list[_Other]] = {}
    for row in sorted(_found(session, _OWN, own) + _found(session, _PARTNERS, partners), key=lambda row: row.id):
        one, place = asked[row.n]
        if row.mode == one.mode and row.source != one.source and _place_of(sites, row) == place:
            kinds = Grade(row.grade), Outcome(row.outcome)
            other = _Other(row.resident_id, row.id, *kinds, row.reason, row.is_restored)
            found.setdefault(row.n, []).append(other)
    return found


def _found(session: Session, statement: sa.TextClause, asked: Sequence[Mapping[str, Any]]) -> list[sa.Row[Any]]:
    if not asked:
        return []
    keys = {"asked": msgspec.json.encode(asked).decode(), "within": SAME_BAG_WITHIN}
    return list(session.execute(statement, keys))


def _found_bad(award: Award, told: Told) -> bool:
    return award.reason is Reason.UNSORTED and not _is_own_word(told.grade)


def _is_own_word(grade: str) -> bool:
    return grade == Grade.SELF_DECLARED


def _take_back(session: Session, others: Sequence[_Other], now: datetime) -> None:
    """Take back what was paid for a bag that was found badly sorted, refuse what is held, and tell the resident."""
    for other in others:
        record = (other.resident_id, other.activity_id)
        if other.outcome is Outcome.AWARDED:
            with suppress(counts.AlreadyRevoked):  # somebody has ended it at this moment
                counts.revoke(session, *record, why=Reason.UNSORTED.value, reason=Reason.UNSORTED, now=now)
                _tell(session, other, ("投放记录的积分已撤回", "The points of a drop were taken back"), now=now)
        elif other.outcome is Outcome.HELD:
            with suppress(releasing.NotHeld):
                releasing.refuse(session, *record, reason=Reason.UNSORTED)
                _tell(session, other, ("投放记录不予计分", "A drop is not paid"), now=now)


def _tell(session: Session, other: _Other, title: tuple[str, str], *, now: datetime) -> None:
    why_zh, why_en = REASON_TEXTS[Reason.UNSORTED]
    notices.tell(
        session,
        [other.resident_id],
        kind="bag-found-unsorted",
        subject=f"activity:{other.activity_id}",
        title_zh=f"{title[0]}: {why_zh}, 可以申诉",
        title_en=f"{title[1]}: {why_en[0].lower()}{why_en[1:]}; you can appeal",
        now=now,
    )
