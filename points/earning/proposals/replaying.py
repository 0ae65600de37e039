"""What the last weeks would have paid under a proposed version: claim by claim, by the award's own pricing.

Every recorded claim is priced anew by `pricing.price` and goes through caps, ceilings, bounds, partners' budgets and
overlaps in the order in which it was recorded, so that the rules which were in force give exactly what was paid. What
people or devices found stays found: a bad bag, a repeated track, a claim that a person took back. Nothing is written.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from points.earning import bounds, pricing
from points.earning.bounds import Key
from points.earning.claims import Claim, Reason
from points.earning.models import Behaviour, Grade, Outcome
from points.earning.pricing import Priced, Tariff, Tariffs
from points.earning.releasing import RESTORED
from server.clock import business_day, day_start, week_start

STREET_LENGTH = 9  # digits of an official code

# Refusals that the rules, and what else was paid under them, decide. Any other stays whatever the rules are.
BY_THE_RULES = frozenset(
    reason.value
    for reason in (
        Reason.NO_RULE,
        Reason.TOO_SMALL,
        Reason.TOO_LARGE,
        Reason.TOO_FAST,
        Reason.TOO_LATE,
        Reason.OVERLAP,
        Reason.GRADE_CEILING,
        Reason.HOUSEHOLD_LIMIT,
        Reason.DEVICE_LIMIT,
        Reason.STAFF_LIMIT,
        Reason.SITE_LIMIT,
    )
)
# A claim that was paid came in time, or a person had decided that it did.
_WAIVED_WHEN_PAID = frozenset({Reason.TOO_LATE})

QUANTILES = (1, 5, 25, 50, 75, 95, 99)
# Upper ends of the classes of a resident's difference, in points; the last class has none.
CLASSES = (-501, -201, -101, -51, -21, -11, -1, 0, 10, 20, 50, 100, 200, 500)
MODES_MAX = 600


class Recorded(NamedTuple):
    """One recorded claim with what it paid. Distances in metres, weights in grams."""

    resident_id: UUID
    id: UUID
    behaviour: str
    mode: str
    grade: str
    source: str
    started_at: datetime
    ended_at: datetime
    received_at: datetime
    recorded_at: datetime
    business_day: date
    community_code: str
    distance_m: int | None
    weight_g: int | None
    steps: int | None
    steps_before: int | None
    acts: int
    site: str | None
    device: str | None
    staff_id: UUID | None
    household_id: UUID | None
    outcome: str
    reason: str | None
    saved_co2e_mg: int
    method_id: str | None
    points: int


class ModeKey(NamedTuple):
    """What a line of the report by mode is about."""

    behaviour: str
    mode: str
    grade: str


@dataclass(slots=True)
class Sum:
    """Recorded and replayed figures of one mode or street, and each resident's difference in points."""

    paid_points: int = 0
    replayed_points: int = 0
    paid_claims: int = 0
    replayed_claims: int = 0
    by_resident: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Week:
    """What one resident's claims of a cap group were worth in a week, as `cap_usage` keeps it."""

    days: dict[date, int] = field(default_factory=dict)
    capped: int = 0


# Residents are told apart by their ids as numbers: hashing a UUID a million times over is a fifth of a replay.


class _Span(NamedTuple):
    """The time of a trip that was paid, and whether it was taken back later."""

    start: datetime
    end: datetime
    was_reversed: bool


class Replay:
    """A replay going on. `week` begins each week; `take` is given its claims in the order of their recording."""

    def __init__(self, tariff: Tariff, *, first_on: date, last_on: date, budgets: Mapping[tuple[str, date], int]):
        # In force throughout, whatever day it is proposed for.
        self._tariff = replace(tariff, valid_from=date(2000, 1, 1), valid_to=None)
        self._tariffs = Tariffs((self._tariff,))
        self._first_on, self._last_on = first_on, last_on
        self._budgets = budgets  # points by partner and day of receipt
        self.activities = 0
        self.held = 0
        self.modes: dict[ModeKey, Sum] = {}
        self.streets: dict[str, Sum] = {}
        self.residents: dict[int, int] = {}
        self.paid_points = self.replayed_points = 0
        self.refusals: dict[str, list[int]] = {}
        self.savings: dict[str, list[int]] = {}
        self._receipts: dict[tuple[str, date], int] = {}
        self._spans: dict[int, list[_Span]] = {}
        self.week(first_on)

    def week(self, monday: date) -> None:
        """Begin a week: caps, ceilings and bounds all end with the last one, but not a trip through its last night."""
        self._caps: dict[tuple[int, str], _Week] = {}
        self._taken: dict[Key, int] = {}
        self._steps: dict[tuple[int, date], int] = {}
        begins = day_start(monday)
        late = {resident: [each for each in spans if each.end > begins] for resident, spans in self._spans.items()}
        self._spans = {resident: spans for resident, spans in late.items() if spans}

    def take(self, recorded: Recorded) -> None:
        """Price one claim as it was recorded, and count both what it paid and what it would have."""
        counted = self._first_on <= recorded.business_day <= self._last_on
        if recorded.outcome == Outcome.HELD:
            self.held += counted
            return
        claim = self._claim_of(recorded)
        if recorded.source == RESTORED:  # paid again after an appeal, at its old worth and not by the rules
            points, saved_mg, method_id, reason = recorded.points, recorded.saved_co2e_mg, recorded.method_id, None
        else:
            points, saved_mg, method_id, reason = self._replayed(recorded, claim)
        if not counted:
            return
        paid = recorded.outcome == Outcome.AWARDED
        if recorded.outcome == Outcome.REVERSED:
            # It has used up its share of caps and bounds, and pays nobody anything.
            points, saved_mg, reason = 0, 0, Reason.REVOKED.value
        self._count(recorded, points=points, reason=reason, was_paid=paid)
        self._count_savings(recorded, saved_mg, method_id, was_paid=paid, is_paid=reason is None)

    def _claim_of(self, recorded: Recorded) -> Claim:
        """The claim as it came in. Of a day's steps, an older record says only what each sync brought more."""
        before, steps = 0, None
        if recorded.steps is not None:
            key = (recorded.resident_id.int, recorded.business_day)
            known = 0 if recorded.acts else self._steps.get(key, 0)
            before = known if recorded.steps_before is None else recorded.steps_before
            steps = before + recorded.steps
            self._steps[key] = steps
        return Claim(
            resident_id=recorded.resident_id,
            behaviour=Behaviour(recorded.behaviour),
            mode=recorded.mode,
            grade=Grade(recorded.grade),
            source=recorded.source,
            external_id="",
            started_at=recorded.started_at,
            ended_at=recorded.ended_at,
            received_at=recorded.received_at,
            distance_m=recorded.distance_m,
            weight_g=recorded.weight_g,
            steps=steps,
            steps_before=before,
            site=recorded.site,
            device=recorded.device,
            staff_id=recorded.staff_id,
        )

    def _replayed(self, recorded: Recorded, claim: Claim) -> tuple[int, int, str | None, str | None]:
        """Points, milligrams saved, method, and the reason why it is not paid."""
        refused = recorded.outcome == Outcome.REFUSED
        if refused and recorded.reason not in BY_THE_RULES:
            return 0, 0, None, recorded.reason
        waived = frozenset[Reason]() if refused else _WAIVED_WHEN_PAID
        row = pricing.price(self._tariffs, claim, 0, now=recorded.received_at, waived=waived)
        row.household_id = recorded.household_id
        if row.reason is not None:
            return 0, 0, None, row.reason.value
        if self._overlaps(recorded):
            return 0, 0, None, Reason.OVERLAP.value
        week, day_before, day_points, points = self._within_caps(row)
        beyond = self._beyond_bounds(recorded, row, points)
        if beyond is not None:
            return 0, 0, None, beyond.value
        week.days[row.business_day] = day_before + row.priced_points
        week.capped += day_points
        if recorded.distance_m is not None:
            span = _Span(recorded.started_at, recorded.ended_at, recorded.outcome == Outcome.REVERSED)
            self._spans.setdefault(recorded.resident_id.int, []).append(span)
        return points, row.saved_co2e_mg, row.method_id, None

    def _overlaps(self, recorded: Recorded) -> bool:
        """Whether a trip shares a moment with another that is paid; ranges are half open, as the constraint's.

        One that was taken back makes room again from then on: whether this came before, its own outcome tells.
        """
        if recorded.distance_m is None:
            return False
        start, end = recorded.started_at, recorded.ended_at
        was_refused = recorded.outcome == Outcome.REFUSED
        return any(
            start < other.end and other.start < end and (was_refused or not other.was_reversed)
            for other in self._spans.get(recorded.resident_id.int, ())
        )

    def _within_caps(self, row: Priced) -> tuple[_Week, int, int, int]:
        """The resident's week, what its day held before, and the claim's points under the day's and the week's cap."""
        week = self._caps.setdefault((row.resident_id.int, row.cap_group or ""), _Week())
        before = week.days.get(row.business_day, 0)
        day_points = min(row.day_cap, before + row.priced_points) - min(row.day_cap, before)
        points = min(row.week_cap, week.capped + day_points) - min(row.week_cap, week.capped)
        return week, before, day_points, points

    def _beyond_bounds(self, recorded: Recorded, row: Priced, points: int) -> Reason | None:
        """The reason of the first bound that the points would pass; when there is none, they are taken from all."""
        if not points:
            return None
        keys = bounds.keys_of(row, self._tariff)
        for key, limit in keys:
            if self._taken.get(key, 0) + points > limit:
                return bounds.REASONS[key.kind]
        receipt = (recorded.source, business_day(recorded.received_at))
        budget = self._budgets.get(receipt) if recorded.grade == Grade.PARTNER_SIGNED else None
        if budget is not None:
            if self._receipts.get(receipt, 0) + points > budget:
                return Reason.PARTNER_BUDGET
            self._receipts[receipt] = self._receipts.get(receipt, 0) + points
        for key, _ in keys:
            self._taken[key] = self._taken.get(key, 0) + points
        return None

    def _count(self, recorded: Recorded, *, points: int, reason: str | None, was_paid: bool) -> None:
        self.activities += 1
        before = recorded.points if was_paid else 0
        difference = points - before
        self.paid_points += before
        self.replayed_points += points
        resident = recorded.resident_id.int
        self.residents[resident] = self.residents.get(resident, 0) + difference
        mode = ModeKey(recorded.behaviour, recorded.mode, recorded.grade)
        street = recorded.community_code[:STREET_LENGTH]
        for total in (self.modes.setdefault(mode, Sum()), self.streets.setdefault(street, Sum())):
            total.paid_points += before
            total.replayed_points += points
            total.paid_claims += was_paid
            total.replayed_claims += reason is None
            total.by_resident[resident] = total.by_resident.get(resident, 0) + difference
        if recorded.outcome == Outcome.REFUSED and recorded.reason:
            self.refusals.setdefault(recorded.reason, [0, 0])[0] += 1
        if reason is not None and recorded.outcome != Outcome.REVERSED:
            self.refusals.setdefault(reason, [0, 0])[1] += 1

    def _count_savings(
        self, recorded: Recorded, saved_mg: int, method_id: str | None, *, was_paid: bool, is_paid: bool
    ) -> None:
        if was_paid and recorded.method_id is not None:
            self.savings.setdefault(recorded.method_id, [0, 0])[0] += recorded.saved_co2e_mg
        if is_paid and method_id is not None:
            self.savings.setdefault(method_id, [0, 0])[1] += saved_mg


def weeks(first_on: date, last_on: date) -> Iterator[tuple[date, date]]:
    """The weeks to read, Monday and last day: caps of the first week count what came before the period too."""
    monday = week_start(first_on)
    while monday <= last_on:
        yield monday, min(monday + timedelta(days=6), last_on)
        monday += timedelta(days=7)


def report_of(replay: Replay, *, one_in: int, fen_per_100_points: int | None) -> dict[str, Any]:
    """What a replay found, for people and JSON. Points and claims are those of the sample, one resident in `one_in`."""
    return {
        "one_in": one_in,
        "activities": replay.activities,
        "held": replay.held,
        "paid_points": replay.paid_points,
        "replayed_points": replay.replayed_points,
        "paid_cost_fen": _cost(replay.paid_points, fen_per_100_points),
        "replayed_cost_fen": _cost(replay.replayed_points, fen_per_100_points),
        "residents": spread(replay.residents.values()),
        "modes": [
            {**key._asdict(), **_figures(total)}
            for key, total in sorted(replay.modes.items())
            if total.paid_points or total.replayed_points or total.paid_claims or total.replayed_claims
        ][:MODES_MAX],
        "streets": [{"code": code, **_figures(total)} for code, total in sorted(replay.streets.items())],
        "refusals": [
            {"reason": reason, "recorded": recorded, "replayed": replayed}
            for reason, (recorded, replayed) in sorted(replay.refusals.items())
        ],
        "savings": [
            {"method_id": method_id, "recorded_mg": recorded, "replayed_mg": replayed}
            for method_id, (recorded, replayed) in sorted(replay.savings.items())
        ],
    }


def _cost(points: int, fen_per_100_points: int | None) -> int | None:
    return None if fen_per_100_points is None else points * fen_per_100_points // 100


def _figures(total: Sum) -> dict[str, Any]:
    return {
        "paid_points": total.paid_points,
        "replayed_points": total.replayed_points,
        "paid_claims": total.paid_claims,
        "replayed_claims": total.replayed_claims,
        "residents": spread(total.by_resident.values()),
    }


def spread(differences: Iterable[int]) -> dict[str, Any]:
    """Who gains and who loses: counts, quantiles of the residents' differences in points, residents by class."""
    ordered = sorted(differences)
    if not ordered:
        return {"gain": 0, "lose": 0, "same": 0, "quantiles": [], "classes": []}
    classes = [0] * (len(CLASSES) + 1)
    place = 0
    for difference in ordered:
        while place < len(CLASSES) and difference > CLASSES[place]:
            place += 1
        classes[place] += 1
    gain = sum(difference > 0 for difference in ordered)
    lose = sum(difference < 0 for difference in ordered)
    return {
        "gain": gain,
        "lose": lose,
        "same": len(ordered) - gain - lose,
        "least": ordered[0],
        "most": ordered[-1],
        "quantiles": [
            {"percent": percent, "points": ordered[(len(ordered) - 1) * percent // 100]} for percent in QUANTILES
        ],
        "classes": [
            {"above": above, "to": to, "residents": number}
            for above, to, number in zip((None, *CLASSES), (*CLASSES, None), classes, strict=True)
        ],
    }
