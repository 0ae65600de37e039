"""What has to be so before a move, each found out from what is stored and not from what was said."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.creation import assessment, evidence, visits
from campaigns.creation.applications import items_of, preconditions_of
from campaigns.creation.models import (
    Application,
    ApplicationAnswer,
    ApplicationPrecondition,
    Naming,
    Objection,
    PublicNotice,
    Recheck,
    Rubric,
)
from campaigns.creation.steps import Guard
from server.clock import business_day

MISSING_SHOWN_MAX = 50

TEXTS: Mapping[Guard, tuple[str, str]] = {
    Guard.ANSWERED: ("有条目未填报", "Some items have no answer"),
    Guard.EVIDENCED: ("有条目缺少证明材料", "Some items lack their evidence"),
    Guard.DECLARED: ("有前置条件未声明", "Some preconditions are not declared"),
    Guard.CONFIRMED: ("有前置条件未经街道确认", "Some preconditions are not confirmed by the street"),
    Guard.ASSESSED: (
        "评审未完成: 须两名评审独立评分, 分歧时须第三名",
        "Two assessments, or a third where they differ, are not in",
    ),
    Guard.PASSED: ("评审结果未达标", "The outcome does not pass the rubric"),
    Guard.VISITED: ("尚无现场核查记录", "No visit on the spot is recorded"),
    Guard.NOTICE_OVER: ("公示期未满", "The public notice is not over"),
    Guard.OBJECTIONS_ANSWERED: ("有异议尚未答复", "Some objections are not answered"),
    Guard.NONE_UPHELD: ("有异议成立", "An objection was upheld"),
    Guard.RECHECK_RECORDED: ("尚未填写复查结果", "The findings of the re-check are not recorded"),
    Guard.GRACE_OVER: ("整改期限未到", "The deadline of the grace has not passed"),
}


@dataclass(frozen=True, slots=True)
class Unmet:
    """One condition that does not hold, with the codes of what is missing where it has any."""

    guard: Guard
    missing: Sequence[str] = ()


def unmet(session: Session, application: Application, guards: Sequence[Guard], *, now: datetime) -> list[Unmet]:
    """Those of `guards` that do not hold for a held application at `now`."""
    found = [(guard, _CHECKS[guard](session, application, now)) for guard in guards]
    return [Unmet(guard, missing[:MISSING_SHOWN_MAX]) for guard, missing in found if missing is not None]


def _answered(session: Session, application: Application, _: datetime) -> Sequence[str] | None:
    said = set(
        session.scalars(
            sa.select(ApplicationAnswer.item_code).where(ApplicationAnswer.application_id == application.id)
        )
    )
    return [code for code in items_of(session, application.rubric_id) if code not in said] or None


def _evidenced(session: Session, application: Application, _: datetime) -> Sequence[str] | None:
    return evidence.missing(session, application.id) or None


def _declared(session: Session, application: Application, _: datetime) -> Sequence[str] | None:
    return _without(session, application, sa.true())


def _confirmed(session: Session, application: Application, _: datetime) -> Sequence[str] | None:
    return _without(session, application, ApplicationPrecondition.confirmed_at.is_not(None))


def _without(session: Session, application: Application, condition: sa.ColumnElement[bool]) -> Sequence[str] | None:
    wanted = sa.select(ApplicationPrecondition.code).where(
        ApplicationPrecondition.application_id == application.id, condition
    )
    there = set(session.scalars(wanted))
    return [code for code in preconditions_of(session, application.rubric_id) if code not in there] or None


def _assessed(session: Session, application: Application, _: datetime) -> Sequence[str] | None:
    return None if assessment.outcome(session, application.id).complete else ()


def _passed(session: Session, application: Application, _: datetime) -> Sequence[str] | None:
    found = assessment.outcome(session, application.id)
    return None if found.passed else tuple(found.must_meet_failed)


def _visited(session: Session, application: Application, _: datetime) -> Sequence[str] | None:
    required = session.scalar(sa.select(Rubric.site_visit_required).where(Rubric.id == application.rubric_id))
    return None if not required or visits.held(session, application.id) else ()


def _notice_over(session: Session, application: Application, now: datetime) -> Sequence[str] | None:
    over = sa.exists().where(PublicNotice.application_id == application.id, PublicNotice.last_on < business_day(now))
    return None if session.scalar(sa.select(over)) else ()


def _objections_answered(session: Session, application: Application, _: datetime) -> Sequence[str] | None:
    return _objections(session, application, Objection.answered_at.is_(None))


def _none_upheld(session: Session, application: Application, _: datetime) -> Sequence[str] | None:
    return _objections(session, application, Objection.upheld.is_(True))


def _objections(session: Session, application: Application, condition: sa.ColumnElement[bool]) -> Sequence[str] | None:
    wanted = sa.select(Objection.id).where(Objection.application_id == application.id, condition).order_by(Objection.id)
    return [str(id) for id in session.scalars(wanted.limit(MISSING_SHOWN_MAX))] or None


def _recheck_recorded(session: Session, application: Application, _: datetime) -> Sequence[str] | None:
    recorded = sa.exists().where(
        Recheck.application_id == application.id, Recheck.result.is_(None), Recheck.recorded_at.is_not(None)
    )
    return None if session.scalar(sa.select(recorded)) else ()


def _grace_over(session: Session, application: Application, now: datetime) -> Sequence[str] | None:
    over = sa.exists().where(Naming.application_id == application.id, Naming.grace_until < business_day(now))
    return None if session.scalar(sa.select(over)) else ()


# None: it holds. Anything else, the empty sequence too: it does not, and these are the codes of what is missing.
_CHECKS: Mapping[Guard, Callable[[Session, Application, datetime], Sequence[str] | None]] = {
    Guard.ANSWERED: _answered,
    Guard.EVIDENCED: _evidenced,
    Guard.DECLARED: _declared,
    Guard.CONFIRMED: _confirmed,
    Guard.ASSESSED: _assessed,
    Guard.PASSED: _passed,
    Guard.VISITED: _visited,
    Guard.NOTICE_OVER: _notice_over,
    Guard.OBJECTIONS_ANSWERED: _objections_answered,
    Guard.NONE_UPHELD: _none_upheld,
    Guard.RECHECK_RECORDED: _recheck_recorded,
    Guard.GRACE_OVER: _grace_over,
}
