"""One bag is paid once, whoever tells of it: a supervisor, a device, a smart bin, the resident's own scan.

Two records are of the same bag if they are of one resident, one category and one place, come from two sources, and lie
no further apart than SAME_BAG_WITHIN. Both are kept; one is paid:

- what a supervisor found in the bag counts before everything: nothing beside a badly sorted one is paid;
- what somebody or something else vouches for counts before the resident's own word, whichever comes first. A scan of
  one's own that was paid already is taken back by a reversal, in the transaction that pays the stronger record, and its
  share of caps and bounds is free again. To pay only the difference would take less, but the two grades have caps of
  their own, so that the resident could end with less than the stronger record alone pays; it would leave half of the
  points paid when the bag fails its check; and a replay of the rules could not tell what one record is worth;
- of two that are equally strong, the first is paid, as of two trips of one time.

Nobody looks before paying: whoever pays second waits for the rows that the first one's award holds (the resident's day)
and only then sees the other record; with it in view the payment is taken back to a savepoint and done again. What is
not paid at once (a bag found badly sorted, a held one) holds no such row: our own paths therefore take one lock of the
resident's before. A partner's batch does not, for it would take thousands: its bag and a badly sorted one recorded in
the very same moment can both stand.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import counts, releasing
from points.earning.award import award
from points.earning.bounds import REASONS
from points.earning.claims import REASON_TEXTS, Award, Claim, Reason
from points.earning.models import Behaviour, Grade, Outcome
from points.earning.pricing import Priced
from points.waste.sites import opening
from points.waste.sites.opening import Sites
from server.database import lock_name
from server.notices import notices

# As long as a visit to a site takes, and five minutes by which a bin's clock may be wrong. Not a part of the dated
# plan: it says what one act is, and the editions in force are frozen without it.
SAME_BAG_WITHIN = timedelta(minutes=10)
TRIES = 5

_BOUNDS = frozenset(REASONS.values())
_STANDING = (Outcome.AWARDED, Outcome.HELD)

Told = Claim | Priced
Pay = Callable[[Collection[int]], list[Award]]


@dataclass(frozen=True, slots=True)
class _Other:
    """Another record of a bag that was told of."""

    activity_id: UUID
    resident_id: UUID
    grade: Grade
    outcome: Outcome
    reason: str | None


@dataclass(slots=True)
class _Plan:
    """What is known so far: who is refused, by its number, and whom it takes the place of."""

    refused: set[int] = field(default_factory=set)
    replaced: dict[int, dict[UUID, _Other]] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)  # not paid after all: what they would replace stays


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
    plan = _Plan()
    for _ in range(TRIES):
        with session.begin_nested() as savepoint:
            for other in _all_replaced(plan):
                if other.outcome is Outcome.AWARDED:
                    releasing.free_share(session, other.resident_id, other.activity_id)
            awards = pay(plan.refused)
            found = _others(session, sites, told, places, awards)
            if not _learn(plan, told, awards, found):
                _take_back(session, plan, awards, found, now=now)
                return awards
            savepoint.rollback()
    return pay(plan.refused | found.keys())  # each try met a record that the one before did not know


def _place_of(sites: Sites, told: Any) -> str | None:
    """The code of the site that a claim or an activity speaks of; None for a partner's that nobody has told us of."""
    if told.grade != Grade.PARTNER_SIGNED:
        return str(told.site) if told.site else None
    site = opening.of_activity(sites, told)
    return None if site is None else site.code


# Our own drops say where they were; of partners' only the events of those who know the place are looked through.
_OWN = sa.text("""
WITH asked AS MATERIALIZED (
    SELECT * FROM json_to_recordset(cast(:asked AS json))
        AS a (n int, resident_id uuid, mode text, source text, place text, at timestamptz)
), own AS (
    SELECT asked.n, asked.source, d.resident_id, d.activity_id
    FROM asked JOIN sorting_drop d ON d.resident_id = asked.resident_id
    WHERE d.site_code = asked.place AND d.category = asked.mode
      AND d.dropped_at BETWEEN asked.at - cast(:within AS interval) AND asked.at + cast(:within AS interval)
)
SELECT own.n, a.resident_id, a.id, a.grade, a.source, a.site, a.device, a.outcome, a.reason
FROM own JOIN activity a ON a.resident_id = own.resident_id AND a.id = own.activity_id
WHERE a.source <> own.source
""")
_PARTNERS = sa.text("""
SELECT asked.n, a.resident_id, a.id, a.grade, a.source, a.site, a.device, a.outcome, a.reason
FROM json_to_recordset(cast(:asked AS json))
        AS asked (n int, resident_id uuid, mode text, others text[], at timestamptz)
    JOIN activity a ON a.resident_id = asked.resident_id AND a.source = ANY (asked.others)
WHERE a.behaviour = 'sorting' AND a.mode = asked.mode
  AND a.started_at BETWEEN asked.at - cast(:within AS interval) AND asked.at + cast(:within AS interval)
""")


def _others(
    session: Session, sites: Sites, told: Sequence[Told], places: Mapping[int, str], awards: Sequence[Award]
) -> dict[int, list[_Other]]:
    """The other records of each bag that was paid, is held, was found bad, or passed a bound."""
    asked = [
        {
            "n": n,
            "resident_id": told[n].resident_id,
            "mode": told[n].mode,
            "source": told[n].source,
            "place": place,
            "others": sorted(sites.partners_at.get(place, frozenset()) - {told[n].source}),
            "at": told[n].started_at,
        }
        for n, place in places.items()
        if awards[n].outcome in _STANDING or awards[n].reason is Reason.UNSORTED or awards[n].reason in _BOUNDS
    ]
    # Most places have one partner, whose own events are told apart by their sequence: then nothing is looked through.
    rows = [*_found(session, _OWN, asked), *_found(session, _PARTNERS, [each for each in asked if each["others"]])]
    found: dict[int, list[_Other]] = {}
    for row in sorted(rows, key=lambda row: (row.resident_id, row.id)):
        if _place_of(sites, row) != places[row.n]:
            continue
        other = _Other(row.id, row.resident_id, Grade(row.grade), Outcome(row.outcome), row.reason)
        found.setdefault(row.n, []).append(other)
    return found


def _found(session: Session, statement: sa.TextClause, asked: Sequence[Mapping[str, Any]]) -> Sequence[sa.Row[Any]]:
    if not asked:
        return ()
    keys = {"asked": msgspec.json.encode(asked).decode(), "within": SAME_BAG_WITHIN}
    return session.execute(statement, keys).all()


def _learn(plan: _Plan, told: Sequence[Told], awards: Sequence[Award], found: Mapping[int, Sequence[_Other]]) -> bool:
    """Whether the payment must be done again, and the plan with what was found out about it."""
    again = False
    for n, others in found.items():
        if awards[n].reason is Reason.UNSORTED:
            continue  # nothing of it is paid; the others are taken back
        if awards[n].outcome not in _STANDING:
            # It passed a bound. What it is stronger than may have filled that bound, and otherwise stays paid.
            if n in plan.given_up:
                continue
            if n in plan.replaced:
                plan.given_up.add(n)
                again = True
                continue
        elif any(_speaks_before(other, told[n]) for other in others):
            plan.refused.add(n)
            again = True
            continue
        again |= _replace(plan, n, told[n], others)
    return again


def _replace(plan: _Plan, n: int, told: Told, others: Sequence[_Other]) -> bool:
    """Whether the record takes the place of others that the plan did not know yet."""
    new = {
        other.activity_id: other
        for other in others
        if other.outcome in _STANDING and _is_own_word(other.grade) and not _is_own_word(told.grade)
    }
    known = plan.replaced.get(n, {})
    if not new.keys() - known.keys():
        return False
    plan.replaced[n] = known | new
    return True


def _speaks_before(other: _Other, told: Told) -> bool:
    if other.reason == Reason.UNSORTED.value and not _is_own_word(other.grade):
        return True
    if other.outcome not in _STANDING and other.reason != Reason.SPOT_CHECK_FAILED.value:
        return False
    return _is_own_word(told.grade) or not _is_own_word(other.grade)


def _is_own_word(grade: str) -> bool:
    return grade == Grade.SELF_DECLARED


def _all_replaced(plan: _Plan) -> list[_Other]:
    left_in = plan.replaced.keys() - plan.given_up - plan.refused
    found = {other.activity_id: other for n in left_in for other in plan.replaced[n].values()}
    return [found[activity_id] for activity_id in sorted(found)]


def _take_back(
    session: Session, plan: _Plan, awards: Sequence[Award], found: Mapping[int, Sequence[_Other]], *, now: datetime
) -> None:
    for other in _all_replaced(plan):
        _end(session, other, Reason.SAME_BAG, now=now)
    for n, others in found.items():
        if awards[n].reason is Reason.UNSORTED:
            for other in others:
                _end(session, other, Reason.UNSORTED, now=now)


def _end(session: Session, other: _Other, reason: Reason, *, now: datetime) -> None:
    """Take back what was paid, refuse what is held, and tell the resident. What somebody has ended meanwhile stays."""
    record = (other.resident_id, other.activity_id)
    if other.outcome not in _STANDING:
        return
    try:
        if other.outcome is Outcome.AWARDED:
            counts.revoke(session, *record, why=reason.value, reason=reason, now=now)
        else:
            releasing.refuse(session, *record, reason=reason)
    except counts.AlreadyRevoked:
        return
    except releasing.NotHeld:
        with suppress(counts.AlreadyRevoked):  # a person has released it at this moment
            if reason is Reason.SAME_BAG:
                releasing.free_share(session, *record)
            counts.revoke(session, *record, why=reason.value, reason=reason, now=now)
    title_zh, title_en = REASON_TEXTS[reason]
    notices.tell(
        session,
        [other.resident_id],
        kind="bag-recorded-otherwise",
        subject=f"activity:{other.activity_id}",
        title_zh=f"您的一条投放记录不再计分: {title_zh}",
        title_en=f"One record of a drop is no longer paid: {title_en[0].lower()}{title_en[1:]}",
        now=now,
    )
