"""What the clock finds every day: notices that are over, re-checks that fall due, steps past their time."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.creation import parties
from campaigns.creation.models import Application, Naming, Programme, PublicNotice
from campaigns.creation.steps import TURN, ApplicationState, Party
from server.clock import business_day

AT_ONCE_MAX = 200


def notices_over(session: Session, *, now: datetime) -> Sequence[UUID]:
    """Applications whose notice ended before today, at most AT_ONCE_MAX."""
    return session.scalars(
        sa.select(Application.id)
        .join(PublicNotice, PublicNotice.application_id == Application.id)
        .where(Application.state == ApplicationState.NOTICE, PublicNotice.last_on < business_day(now))
        .order_by(Application.id)
        .limit(AT_ONCE_MAX)
    ).all()


def rechecks_due(session: Session, *, now: datetime) -> Sequence[UUID]:
    """Named applications whose re-check falls due today or fell due before, at most AT_ONCE_MAX."""
    return session.scalars(
        sa.select(Application.id)
        .join(Naming, Naming.application_id == Application.id)
        .where(Application.state == ApplicationState.NAMED, Naming.recheck_due_on <= business_day(now))
        .order_by(Application.id)
        .limit(AT_ONCE_MAX)
    ).all()


def tell_overdue(session: Session, *, now: datetime) -> int:
    """Tell the people of every step past its time, once for each step; the number of steps, at most AT_ONCE_MAX.

    A grace that ran out is the district's affair too, for it decides what follows.
    """
    late = session.scalars(
        sa.update(Application)
        .where(
            Application.id.in_(
                sa.select(Application.id)
                .where(Application.step_due_at <= now, Application.overdue_told_at.is_(None))
                .order_by(Application.step_due_at)
                .limit(AT_ONCE_MAX)
            ),
            # Again, for another worker may have told them while this one waited for the row.
            Application.overdue_told_at.is_(None),
        )
        .values(overdue_told_at=now)
        .returning(Application)
        .execution_options(populate_existing=True)
    ).all()
    titles = {each.code: each for each in session.scalars(sa.select(Programme))}
    for application in late:
        turn = TURN.get(application.state)
        told = {Party.DISTRICT if turn is Party.CLOCK else turn}
        if application.state is ApplicationState.GRACE:
            told.add(Party.DISTRICT)
        programme = titles[application.programme_code]
        for party in sorted(party for party in told if party is not None):
            parties.tell(
                session,
                application,
                party,
                kind="application-overdue",
                title_zh=f"{programme.title_zh}: 有申报步骤已超期",
                title_en=f"{programme.title_en}: a step of an application is overdue",
                now=now,
            )
    return len(late)
