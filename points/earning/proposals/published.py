"""The rules as everybody may read them, and the one that priced a resident's own activity."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from points.earning import activities, wording
from points.earning.activities import Entry
from points.earning.models import BoundLimit, EarningRule, GradeTerm, RuleVersion
from points.earning.proposals.models import ProposalState, RuleProposal
from points.earning.wording import Words
from server.errors import NotFound
from server.paging import Page, decode, page_of
from server.people.models import Staff


@dataclass(frozen=True, slots=True)
class VersionSeen:
    """A version, and why it was adopted; None where it came with the service's own data."""

    version: RuleVersion
    reason: str | None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.version, name)


@dataclass(frozen=True, slots=True)
class RuleSeen:
    """A rule with its grade's share of the points, and in words."""

    rule: EarningRule
    percent: int
    name: Words
    words: Words

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rule, name)


@dataclass(frozen=True, slots=True)
class WholeVersion:
    """All of a version."""

    version: VersionSeen
    rules: Sequence[RuleSeen]
    grades: Sequence[GradeTerm]
    bounds: Sequence[BoundLimit]
    words: Sequence[Words]


@dataclass(frozen=True, slots=True)
class Explained:
    """How one activity was priced: the version of its day, the rule, and how its points come of it."""

    entry: Entry
    version: VersionSeen | None
    rule: RuleSeen | None
    calculation: Words | None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A version with who proposed and approved it, and why; all None for one of the service's own data."""

    version: RuleVersion
    proposal: RuleProposal | None
    proposed_by_name: str | None
    decided_by_name: str | None


_REASON = (
    sa.select(RuleProposal.reason)
    .where(RuleProposal.version_id == RuleVersion.id, RuleProposal.state == ProposalState.ENACTED)
    .scalar_subquery()
)


def list_versions(session: Session, *, limit: int, cursor: str | None) -> Page[VersionSeen]:
    """Every version, the one that begins last first. Raises BadCursor."""
    wanted = sa.select(RuleVersion, _REASON).order_by(RuleVersion.valid_from.desc()).limit(limit + 1)
    if cursor is not None:
        wanted = wanted.where(RuleVersion.valid_from < decode(cursor, tuple[date])[0])
    rows = [VersionSeen(*row) for row in session.execute(wanted)]
    return page_of(rows, limit, lambda row: (row.version.valid_from,))


def version_named(session: Session, name: str, *, today: date) -> WholeVersion:
    """A version by its id, or `current`: the one of today. Raises NotFound."""
    wanted = sa.select(RuleVersion, _REASON)
    row = session.execute(
        wanted.where(_in_force(today)) if name == "current" else wanted.where(RuleVersion.id == name)
    ).one_or_none()
    if row is None:
        raise NotFound
    version = VersionSeen(*row)
    mine = version.version.id
    rules = session.scalars(
        sa.select(EarningRule)
        .where(EarningRule.version_id == mine)
        .order_by(EarningRule.behaviour, EarningRule.mode, EarningRule.grade)
    ).all()
    grades = session.scalars(sa.select(GradeTerm).where(GradeTerm.version_id == mine)).all()
    bounds = session.scalars(sa.select(BoundLimit).where(BoundLimit.version_id == mine).order_by(BoundLimit.kind)).all()
    grades = sorted(grades, key=lambda term: list(wording.GRADE_NAMES).index(term.grade))
    terms = {term.grade: term for term in grades}
    return WholeVersion(
        version,
        [_rule_seen(rule, terms.get(rule.grade)) for rule in rules],
        grades,
        bounds,
        wording.version_words(version.version, grades, bounds),
    )


def explain(session: Session, resident_id: UUID, activity_id: UUID) -> Explained:
    """The rule that priced one activity of a resident. Raises NotFound."""
    entry = activities.one(session, resident_id, activity_id)
    if entry is None:
        raise NotFound
    activity = entry.activity
    named = RuleVersion.id == activity.rule_version_id
    row = session.execute(
        sa.select(RuleVersion, _REASON).where(
            _in_force(activity.business_day) if activity.rule_version_id is None else named
        )
    ).one_or_none()
    if row is None:
        return Explained(entry, None, None, None)
    version = VersionSeen(*row)
    key = (version.version.id, activity.behaviour, activity.mode, activity.grade)
    rule = session.get(EarningRule, key)
    if rule is None:
        return Explained(entry, version, None, None)
    seen = _rule_seen(rule, session.get(GradeTerm, (version.version.id, activity.grade)))
    return Explained(entry, version, seen, wording.calculation(rule, seen.percent, activity))


def history(session: Session, *, limit: int, cursor: str | None) -> Page[HistoryEntry]:
    """Every version with who made it and why, the one that begins last first. Raises BadCursor."""
    proposer, decider = sa.orm.aliased(Staff), sa.orm.aliased(Staff)
    wanted = (
        sa.select(RuleVersion, RuleProposal, proposer.name, decider.name)
        .outerjoin(
            RuleProposal,
            sa.and_(RuleProposal.version_id == RuleVersion.id, RuleProposal.state == ProposalState.ENACTED),
        )
        .outerjoin(proposer, proposer.id == RuleProposal.proposed_by)
        .outerjoin(decider, decider.id == RuleProposal.decided_by)
        .order_by(RuleVersion.valid_from.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        wanted = wanted.where(RuleVersion.valid_from < decode(cursor, tuple[date])[0])
    rows = [HistoryEntry(*row) for row in session.execute(wanted)]
    return page_of(rows, limit, lambda row: (row.version.valid_from,))


def _in_force(day: date) -> sa.ColumnElement[bool]:
    return sa.and_(RuleVersion.valid_from <= day, sa.or_(RuleVersion.valid_to.is_(None), RuleVersion.valid_to >= day))


def _rule_seen(rule: EarningRule, term: GradeTerm | None) -> RuleSeen:
    percent = 100 if term is None else term.percent
    return RuleSeen(rule, percent, wording.named(rule), wording.rule_words(rule, term))
