"""Taking in a batch of a partner's events: each line has its own outcome, and a bad line never spoils the others."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import pricing
from points.earning.award import award_priced
from points.earning.claims import Award, Reason
from points.earning.models import Outcome
from points.partners import events, sequences
from points.partners.models import LINE_BYTES_MAX, DeadLetter, FeedBatch, Partner, PartnerDay
from server.clock import business_day
from server.database import delete_some, new_id
from server.errors import Conflict, DomainError, PayloadTooLarge

LINES_MAX = 5000
BUDGET_TRIES = 3
BATCH_KEPT_FOR = timedelta(days=30)
LETTER_KEPT_FOR = timedelta(days=90)  # long enough to find and mend a fault, and no longer (PIPL 19)


# (partner, site, device, category or None, instant) → why a drop or weighing there and then is not paid.
SiteRefusal = Callable[[str, str, str | None, str | None, datetime], Reason | None]
SiteCheck = Callable[[Session], SiteRefusal]


class PayOnce(Protocol):
    """Pays what was told, but no bag that another record was paid for."""

    def __call__(
        self,
        session: Session,
        told: Sequence[pricing.Priced],
        pay: Callable[[Collection[int]], list[Award]],
        *,
        now: datetime,
    ) -> list[Award]:
        """Call `pay`, as often as it takes, with the numbers of those that it is to refuse; its last answer."""


class _Checks:
    """What the application has installed: this room knows no sites, and the room of sites knows no feed."""

    def __init__(self) -> None:
        self.site: SiteCheck | None = None
        self.pay_once: PayOnce | None = None


_checks = _Checks()


def install_site_check(check: SiteCheck) -> None:
    """Ask this of every drop and weighing. Called once per batch; what it gives is called once per line."""
    _checks.site = check


def install_pay_once(pay_once: PayOnce) -> None:
    """Let this pay what a batch tells, so that a bag that others have told of is paid once."""
    _checks.pay_once = pay_once


class TooManyLines(PayloadTooLarge):
    """More than LINES_MAX lines."""

    code, title_zh, title_en = "too-many-lines", "每批最多 5000 行", "A batch has at most 5,000 lines"


class BatchReused(DomainError):
    """The batch id was used for another body."""

    code, status, title_zh, title_en = (
        "batch-reused",
        422,
        "批次号已用于另一内容",
        "This batch id was used for another body",
    )


class BatchRunning(Conflict):
    """The same batch is being taken in at this moment."""

    code, title_zh, title_en = "batch-running", "该批次正在处理", "This batch is being taken in just now"


class PartnerBudgetExhausted(Conflict):
    """The day's points budget of the partner does not cover this."""

    code, title_zh, title_en = (
        "partner-budget-exhausted",
        "合作方当日积分额度不足",
        "The partner's budget of today is too small",
    )


class LineOutcome(msgspec.Struct, omit_defaults=True):
    """What became of one line, counted from 1."""

    line: int
    outcome: str
    reason: str | None = None
    detail: str | None = None
    points: int = 0


_UNTOLD = LineOutcome(0, "")  # keeps a line's place until its claim has been awarded


class BatchAnswer(msgspec.Struct):
    """The answer to a batch: counts, and one outcome per line in the order of the lines."""

    batch: str
    lines: int
    counts: dict[str, int]
    reasons: dict[str, int]
    points: int
    outcomes: list[LineOutcome]


class _Line(msgspec.Struct):
    """A line on its way: its bytes, the event in it, or why there is none."""

    number: int
    raw: bytes
    event: events.Event | None = None
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class _Bound:
    """The members of a batch who bound the partner: who each is, and where each enabled resident lives."""

    residents: dict[str, UUID]
    homes: dict[UUID, str | None]


# One statement and no ORM entities: for thousands of people, asking twice costs a tenth of the batch's Python time.
_BOUND = sa.text("""
SELECT binding.member_id, binding.resident_id, resident.community_code, resident.enabled
FROM json_array_elements_text(cast(:asked AS json)) AS asked (member_id)
JOIN binding ON binding.partner_code = :partner AND binding.member_id = asked.member_id
LEFT JOIN resident ON resident.resident_id = binding.resident_id
""")


class _BudgetShort(Exception):
    """The batch would pay more than is left of the partner's day; nothing of it is written yet."""

    def __init__(self, left: int) -> None:
        self.left = left


def take_in(session: Session, partner: Partner, batch_id: str, body: bytes, *, now: datetime) -> bytes:
    """Take in a signed batch; the answer as JSON, the first one again when the batch came before.

    Raises TooManyLines, BatchReused, BatchRunning.
    """
    fingerprint = hashlib.sha256(body).digest()
    lock = sa.func.pg_try_advisory_xact_lock(sa.func.hashtextextended(f"batch:{partner.code}:{batch_id}", 0))
    if not session.scalar(sa.select(lock)):
        raise BatchRunning
    stored = session.get(FeedBatch, (partner.code, batch_id))
    if stored is not None:
        if stored.body_sha256 != fingerprint:
            raise BatchReused
        return stored.answer
    lines = read_lines(body, partner.kinds)
    outcomes = process(session, partner, batch_id, lines, now=now)
    answer = msgspec.json.encode(_summary(batch_id, outcomes))
    session.add(
        FeedBatch(partner_code=partner.code, batch_id=batch_id, body_sha256=fingerprint, answer=answer, received_at=now)
    )
    session.flush()
    return answer


def read_lines(body: bytes, kinds: Sequence[str]) -> list[_Line]:
    """The lines of a body, each decoded or with the reason why not. Empty lines count, and are refused."""
    raws = body.removesuffix(b"\n").split(b"\n") if body else []
    if len(raws) > LINES_MAX:
        raise TooManyLines
    return [_read_line(number, raw, kinds) for number, raw in enumerate(raws, 1)]


def _read_line(number: int, raw: bytes, kinds: Sequence[str]) -> _Line:
    if len(raw) > LINE_BYTES_MAX:
        return _Line(number, raw[:LINE_BYTES_MAX], reason="line-too-long")
    try:
        event = events.decode(raw)
    except events.BadLine as error:
        return _Line(number, raw, reason="bad-line", detail=str(error))
    if events.KINDS[type(event)] not in kinds:
        return _Line(number, raw, event, reason="kind-not-allowed")
    return _Line(number, raw, event)


def process(
    session: Session, partner: Partner, batch_id: str, lines: list[_Line], *, now: datetime
) -> list[LineOutcome]:
    """Award what the lines claim and keep as dead letters those that cannot be read; one outcome per line."""
    bound = _bound_residents(session, partner.code, lines)
    left: int | None = None
    for attempt in range(BUDGET_TRIES):
        if attempt == BUDGET_TRIES - 1:
            left = 0  # the budget is being emptied by others at this moment
        savepoint = session.begin_nested()
        try:
            outcomes = _award_lines(session, partner, lines, bound, left, now=now)
            savepoint.commit()
            break
        except _BudgetShort as short:
            savepoint.rollback()
            left = short.left
    _keep_dead_letters(session, partner.code, batch_id, lines, outcomes, bound.residents, now=now)
    return outcomes


def _bound_residents(session: Session, partner_code: str, lines: Sequence[_Line]) -> _Bound:
    members: set[str] = set()
    for line in lines:
        members |= {line.event.member} if line.event else events.members_named(line.raw)
    asked = [member for member in members if member and len(member) <= 64 and "\0" not in member]
    rows = session.execute(_BOUND, {"partner": partner_code, "asked": msgspec.json.encode(asked).decode()}).all()
    return _Bound(
        residents={member_id: resident_id for member_id, resident_id, *_ in rows},
        homes={resident_id: community_code for _, resident_id, community_code, enabled in rows if enabled},
    )


def _award_lines(
    session: Session,
    partner: Partner,
    lines: Sequence[_Line],
    bound: _Bound,
    left: int | None,
    *,
    now: datetime,
) -> list[LineOutcome]:
    tariffs = pricing.current(session)
    refusal_of = _checks.site(session) if _checks.site is not None else None
    outcomes: list[LineOutcome] = []
    priced: list[pricing.Priced] = []
    positions: list[tuple[int, int]] = []  # of each priced claim: where its outcome stands, and its line's number
    acts: dict[int, sequences.Act] = {}
    for line in lines:
        if line.event is None or line.reason is not None:
            outcomes.append(LineOutcome(line.number, "refused", line.reason, line.detail))
            continue
        resident_id = bound.residents.get(line.event.member)
        if resident_id is None:
            outcomes.append(LineOutcome(line.number, "refused", "not-bound"))
            continue
        refusal = None if refusal_of is None else _site_refusal(refusal_of, partner.code, line.event)
        claim = events.claim_of(line.event, resident_id, partner.code, now, refusal)
        row = pricing.price(tariffs, claim, len(priced), now=now)
        if left is not None and row.reason is None:
            if row.priced_points > left:
                outcomes.append(LineOutcome(line.number, "refused", Reason.PARTNER_BUDGET.value))
                continue
            left -= row.priced_points
        act = None if isinstance(line.event, events.Ride) else sequences.act_of(line.event)
        # Only what could be paid uses an act up, now or when a person has looked at it.
        if act is not None and (row.reason is None or row.outcome is not None) and _has_home(bound, resident_id):
            acts[row.n] = act
        positions.append((len(outcomes), line.number))
        outcomes.append(_UNTOLD)
        priced.append(row)
    for n in sequences.used_before(session, partner.code, acts, now=now):
        priced[n].reason, priced[n].outcome = Reason.SEQUENCE_USED, None
    awards = _award_once(session, priced, bound, tariffs, now=now)
    for (position, number), award in zip(positions, awards, strict=True):
        outcomes[position] = _line_outcome(number, award)
    _take_from_budget(session, partner, business_day(now), sum(award.points for award in awards))
    return outcomes


def _award_once(
    session: Session, priced: Sequence[pricing.Priced], bound: _Bound, tariffs: pricing.Tariffs, *, now: datetime
) -> list[Award]:
    if _checks.pay_once is None:
        return award_priced(session, priced, bound.homes, tariffs=tariffs, now=now)
    reasons, outcomes = [row.reason for row in priced], [row.outcome for row in priced]

    def pay(refused: Collection[int]) -> list[Award]:
        if refused:  # what the award before has written into the rows was taken back with it
            for row, reason, outcome in zip(priced, reasons, outcomes, strict=True):
                row.reason, row.outcome = reason, outcome
        for n in refused:
            priced[n].reason, priced[n].outcome = Reason.SAME_BAG, None
        return award_priced(session, priced, bound.homes, tariffs=tariffs, now=now)

    return _checks.pay_once(session, priced, pay, now=now)


def _site_refusal(refusal_of: SiteRefusal, partner_code: str, event: events.Event) -> Reason | None:
    if isinstance(event, events.BinDrop):
        return refusal_of(partner_code, event.site, event.device, event.category, event.at)
    if isinstance(event, events.Weighing):
        return refusal_of(partner_code, event.site, event.device, None, event.at)
    return None


def _has_home(bound: _Bound, resident_id: UUID) -> bool:
    return bound.homes.get(resident_id) is not None


def _line_outcome(number: int, award: Award) -> LineOutcome:
    reason = None if award.reason is None else award.reason.value
    return LineOutcome(number, award.code, reason, points=award.points)


def _take_from_budget(session: Session, partner: Partner, day: date, points: int) -> None:
    """Count what was paid against the partner's day, as the transaction's last write: its row is shared by all batches.

    Raises _BudgetShort with what is left, if that is too little.
    """
    if points == 0:
        return
    if not _take(session, partner.code, day, points, partner.day_budget_points):
        before = session.scalar(
            sa.select(PartnerDay.taken_points).where(PartnerDay.partner_code == partner.code, PartnerDay.day == day)
        )
        raise _BudgetShort(max(0, partner.day_budget_points - (before or 0)))


def take_late(session: Session, partner_code: str, day: date, points: int) -> bool:
    """Count what a person has released against a partner's day; False when its budget no longer covers that.

    By the budget of that day where the day has one on record, and by today's where nothing was paid on it.
    """
    partner = session.get(Partner, partner_code)
    if partner is None:
        return True  # no feed of ours has brought it
    counted = session.scalar(
        sa.select(PartnerDay.budget_points).where(PartnerDay.partner_code == partner_code, PartnerDay.day == day)
    )
    return _take(session, partner_code, day, points, partner.day_budget_points if counted is None else counted)


def _take(session: Session, partner_code: str, day: date, points: int, budget_points: int) -> bool:
    taken = session.scalar(
        sa.text(
            "INSERT INTO partner_day AS kept (partner_code, day, budget_points, taken_points) "
            "SELECT :partner, :day, :budget, :points WHERE :points <= :budget "
            "ON CONFLICT (partner_code, day) DO UPDATE SET budget_points = :budget, "
            "taken_points = kept.taken_points + :points WHERE kept.taken_points + :points <= :budget "
            "RETURNING taken_points"
        ),
        {"partner": partner_code, "day": day, "points": points, "budget": budget_points},
    )
    return taken is not None


# A claim that a rule refuses is stored as a refused activity instead, where its resident sees it.
_DEAD_REASONS = frozenset({"line-too-long", "bad-line", "kind-not-allowed", Reason.PARTNER_BUDGET.value})


def _keep_dead_letters(
    session: Session,
    partner_code: str,
    batch_id: str,
    lines: Sequence[_Line],
    outcomes: Sequence[LineOutcome],
    residents: dict[str, UUID],
    *,
    now: datetime,
) -> None:
    """Keep the lines that a mended parser, rule or budget could still take in.

    Never one that names a person who did not bind this partner: we may not hold what they did not agree to (PIPL 23).
    """
    kept = []
    for line, outcome in zip(lines, outcomes, strict=True):
        if outcome.reason not in _DEAD_REASONS:
            continue
        if not events.members_named(line.raw) <= residents.keys():
            continue
        kept.append(
            {
                "id": new_id(),
                "partner_code": partner_code,
                "batch_id": batch_id,
                "line_number": line.number,
                "line": line.raw,
                "reason": outcome.reason,
                "received_at": now,
            }
        )
    if kept:
        session.execute(sa.insert(DeadLetter), kept)


def _summary(batch_id: str, outcomes: list[LineOutcome]) -> BatchAnswer:
    return BatchAnswer(
        batch=batch_id,
        lines=len(outcomes),
        counts=dict(Counter(outcome.outcome for outcome in outcomes)),
        reasons=dict(Counter(outcome.reason for outcome in outcomes if outcome.reason)),
        points=sum(outcome.points for outcome in outcomes),
        outcomes=outcomes,
    )


def forget_old(session: Session, *, now: datetime) -> int:
    """Delete up to 1,000 batches and 10,000 dead letters past their keeping; the number deleted."""
    batches = (
        sa.select(FeedBatch.partner_code, FeedBatch.batch_id)
        .where(FeedBatch.received_at < now - BATCH_KEPT_FOR)
        .limit(1000)
    )
    key = sa.tuple_(FeedBatch.partner_code, FeedBatch.batch_id)
    deleted = session.execute(sa.delete(FeedBatch).where(key.in_(batches))).rowcount  # type: ignore[attr-defined]
    return int(deleted) + delete_some(session, DeadLetter, DeadLetter.received_at < now - LETTER_KEPT_FOR)


def redrive(session: Session, partner: Partner, *, limit: int, now: datetime) -> Counter[str]:
    """Drive the oldest waiting dead letters again; outcomes by word.

    A letter that is refused again keeps waiting, marked with its latest reason; one that is taken in is done; that of a
    person who unbound the partner meanwhile is deleted (PIPL 47).

    Raises PartnerBudgetExhausted when today's budget does not cover them.
    """
    letters = session.scalars(
        sa.select(DeadLetter)
        .where(DeadLetter.partner_code == partner.code, DeadLetter.redriven_at.is_(None))
        # Those not tried yet first, or a heap that nothing can mend would starve all that came later.
        .order_by(DeadLetter.redriven_outcome.is_not(None), DeadLetter.id)
        .limit(min(limit, LINES_MAX))
        .with_for_update(skip_locked=True)
    ).all()
    lines = [_read_line(number, letter.line, partner.kinds) for number, letter in enumerate(letters, 1)]
    bound = _bound_residents(session, partner.code, lines)
    try:
        outcomes = _award_lines(session, partner, lines, bound, None, now=now)
    except _BudgetShort as short:
        raise PartnerBudgetExhausted(left_points=short.left) from short
    for letter, outcome in zip(letters, outcomes, strict=True):
        if outcome.reason == "not-bound":
            session.delete(letter)
            continue
        letter.redriven_outcome = outcome.reason or outcome.outcome
        if outcome.outcome != Outcome.REFUSED.value:
            letter.redriven_at = now
    session.flush()
    return Counter(outcome.outcome for outcome in outcomes)
