"""Who lives together: for whom nobody of staff acts, since it is themself or their own household."""

from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.people.code_limits import limits_on
from server.people.models import HouseholdMember, HouseholdStay


def living_with(
    session: Session, one: UUID, other: UUID | sa.SQLColumnExpression[UUID], *, now: datetime
) -> sa.ColumnElement[bool]:
    """The condition that `other`, a resident or a column of them, is `one`, or shares a household with them.

    Or did within the waiting time before `now`: so that nobody leaves their household in the evening to be served by it
    in the morning. Households are looked up here, so that each row of a list costs two looks at a key and no more.
    """
    themself = sa.literal(one) == other
    lives_in = session.scalars(sa.select(HouseholdMember.household_id).where(HouseholdMember.resident_id == one)).all()
    left = session.execute(
        sa.select(HouseholdStay.household_id, HouseholdStay.left_at).where(HouseholdStay.resident_id == one)
    ).all()
    if not lives_in and not left:  # and a district needs no limits of households before it has any
        return themself
    since = now - timedelta(days=limits_on(session, now).household_wait_days)
    ours = {*lives_in, *(stay.household_id for stay in left if stay.left_at > since)}
    if not ours:
        return themself
    lives = sa.exists().where(HouseholdMember.resident_id == other, HouseholdMember.household_id.in_(ours))
    # OFFSET keeps the planner from reading every stay of the district first: no index knows them by household.
    lived = (
        sa.select(HouseholdStay.household_id)
        .where(HouseholdStay.resident_id == other, HouseholdStay.household_id.in_(ours), HouseholdStay.left_at > since)
        .offset(sa.literal_column("0"))
        .exists()
    )
    return sa.or_(themself, lives, lived)
