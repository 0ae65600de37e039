"""How accurately people sort, estimated from the spot-checks.

Drops are drawn independently, each with its own known probability (Poisson sampling), so the totals of Horvitz and
Thompson (1952), Σ y/π, hold without bias whatever the probabilities are. The share of correct drops is the ratio of two
of them (Hájek's estimator); its variance is that of the linearised residuals under Poisson sampling,
Σ (1 − π)/π² (y − p)² ÷ N² (Särndal, Swensson and Wretman 1992, 5.7). Checks that nobody made in time count as missing
at random within their path: the others of the path stand for them, and the report says how many there were.

A failed check that an appeal has overturned counts as passed: another person has looked at what was found and decided
that the drop was good, and that is the latest that is known of it. To leave it out would treat it as missing at random,
which a check that somebody fought over is not.

The interval is Wilson's (1927) at the effective sample size that the variance implies, so that it stays within 0 and 1
and has a width when every check passed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning.claims import Reason
from points.review.models import Case, CaseKind, Verdict
from points.waste.drops.models import CheckState, DropPath, SpotCheck
from points.wilson import wilson
from server.access import Actor


@dataclass(frozen=True, slots=True)
class Stratum:
    """The checks of one path that were drawn with one probability."""

    path: DropPath
    probability: float
    passed: int
    failed: int
    unchecked: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An estimate over paid drops. `correct_drops` and `drops` are totals; the share has a 95 % interval."""

    passed: int
    failed: int
    unchecked: int
    drops: float
    correct_drops: float
    share: float | None
    low: float | None
    high: float | None


def estimate(strata: Iterable[Stratum]) -> Accuracy:
    """The estimate from checks that were answered or ran out; without an answered one there is no share."""
    known = list(strata)
    passed, failed = sum(each.passed for each in known), sum(each.failed for each in known)
    unchecked = sum(each.unchecked for each in known)
    standing_for = _standing_for(known)
    # Each answered check with its weight: how many drops of the population it stands for.
    weights = [(each, standing_for[each.path] / each.probability) for each in known]
    drops = sum(weight * (each.passed + each.failed) for each, weight in weights)
    correct = sum(weight * each.passed for each, weight in weights)
    if not passed + failed:
        return Accuracy(0, 0, unchecked, 0.0, 0.0, None, None, None)
    share = correct / drops
    low, high = _interval(share, drops, weights)
    return Accuracy(passed, failed, unchecked, drops, correct, share, low, high)


def _standing_for(strata: list[Stratum]) -> dict[DropPath, float]:
    """By how much the answered checks of a path stand for those that nobody made."""
    shares = {}
    for path in {each.path for each in strata}:
        of_path = [each for each in strata if each.path is path]
        drawn = sum((each.passed + each.failed + each.unchecked) / each.probability for each in of_path)
        answered = sum((each.passed + each.failed) / each.probability for each in of_path)
        shares[path] = drawn / answered if answered else 1.0
    return shares


def _interval(share: float, drops: float, weights: list[tuple[Stratum, float]]) -> tuple[float, float]:
    # (1 − π)/π² with the weight in the place of 1/π; a census (weight 1) has no variance.
    variance = sum(
        max(weight * (weight - 1), 0.0) * (each.passed * (1 - share) ** 2 + each.failed * share**2)
        for each, weight in weights
    )
    if variance > 0:
        effective = share * (1 - share) * drops**2 / variance
    elif all(weight <= 1 for _, weight in weights):
        return share, share
    else:
        # All alike: Kish's effective size of the weights (1965).
        effective = drops**2 / sum(weight**2 * (each.passed + each.failed) for each, weight in weights)
    low, high = wilson(share, effective)
    return max(low, 0.0), min(high, 1.0)


def _overturned() -> sa.Exists:
    """Whether an appeal against the failed check was upheld."""
    return sa.exists().where(
        Case.resident_id == SpotCheck.resident_id,
        Case.activity_id == SpotCheck.activity_id,
        Case.kind == CaseKind.APPEAL,
        Case.reason == Reason.SPOT_CHECK_FAILED.value,
        Case.verdict == Verdict.GRANTED,
    )


def _has_passed() -> sa.ColumnElement[bool]:
    return sa.or_(SpotCheck.state == CheckState.PASSED, sa.and_(SpotCheck.state == CheckState.FAILED, _overturned()))


def of_scope(
    session: Session, actor: Actor, *, starts_on: date, ends_on: date, path: DropPath | None = None
) -> Accuracy:
    """The estimate over the paid drops of the actor's scope between two business days, both included.

    Checks that are still open count nowhere; ask again when their time is over.
    """
    wanted = (
        sa.select(
            SpotCheck.path,
            SpotCheck.probability,
            sa.func.count().filter(_has_passed()).label("passed"),
            sa.func.count().filter(SpotCheck.state == CheckState.FAILED, ~_overturned()).label("failed"),
            sa.func.count().filter(SpotCheck.state == CheckState.UNCHECKED).label("unchecked"),
        )
        .where(
            SpotCheck.community_code.startswith(actor.division or "-"),
            SpotCheck.business_day.between(starts_on, ends_on),
        )
        .group_by(SpotCheck.path, SpotCheck.probability)
        .order_by(SpotCheck.path, SpotCheck.probability)
    )
    if path is not None:
        wanted = wanted.where(SpotCheck.path == path)
    return estimate(
        Stratum(row.path, float(row.probability), row.passed, row.failed, row.unchecked)
        for row in session.execute(wanted)
    )
