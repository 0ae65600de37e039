"""Builders for grades, bounds and holds: households, editions of the rules with other bounds, what was taken."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any
from unittest.mock import patch
from uuid import UUID

import sqlalchemy as sa
from points_builders import at, claim
from sqlalchemy.orm import Session

from points.earning import pricing
from points.earning.claims import Award, Claim
from points.earning.models import BoundUsage, Grade
from points.earning.pricing import Tariffs
from server.database import new_id
from server.people.models import Household, HouseholdMember

# A Wednesday on which the second edition of the rules holds: the first with grades and bounds.
LATER = at("25 12:00")


def household(session: Session, *members: UUID) -> UUID:
    """A household of these residents."""
    made = Household(id=new_id(), member_count=len(members), created_at=at("01 08:00"))
    session.add(made)
    session.flush()
    for member in members:
        session.add(
            HouseholdMember(resident_id=member, household_id=made.id, member_id=new_id(), joined_at=at("01 08:00"))
        )
    session.flush()
    return made.id


def weighing(resident_id: UUID, points: int, when: str = "25 09:00", **values: Any) -> Claim:
    """A weighing signed by a partner that is worth these points (1 to 200, of 200 a day)."""
    return claim(
        resident_id,
        "recycling",
        mode="aluminium_can",
        weight_g=25 * points,
        start=at(when),
        **{"source": "scales", **values},
    )


def confirmed(
    resident_id: UUID, staff_id: UUID, category: str = "kitchen", when: str = "25 09:00", **values: Any
) -> Claim:
    """A bag that a member of staff has seen: 4 points, of 20 a day."""
    return claim(
        resident_id,
        "sorting",
        mode=category,
        grade=Grade.STAFF_CONFIRMED,
        start=at(when),
        staff_id=staff_id,
        **{"source": "sorting-supervisor", "site": "nk-site-01", **values},
    )


@contextmanager
def limits(session: Session, changed: Mapping[str, int | None], **ceilings: int) -> Iterator[None]:
    """The rules with these bounds instead of their own; None takes a bound away."""
    tariffs = pricing.current(session)
    versions = tuple(
        replace(
            each,
            bounds={kind: points for kind, points in {**each.bounds, **changed}.items() if points is not None},
            ceilings={**each.ceilings, **{name.replace("_", "-"): points for name, points in ceilings.items()}},
        )
        if each.bounds
        else each
        for each in tariffs.versions
    )
    try:
        with patch.object(pricing, "read", return_value=Tariffs(versions)):
            pricing.forget()
            yield
    finally:
        pricing.forget()


def taken(session: Session) -> dict[tuple[str, str], tuple[int, int]]:
    """What was taken of each bound, and its limit, by kind and subject."""
    rows = session.execute(
        sa.select(BoundUsage.kind, BoundUsage.subject, BoundUsage.taken_points, BoundUsage.limit_points)
    )
    return {(kind.value, subject): (points, limit) for kind, subject, points, limit in rows}


def told(awards: Sequence[Award]) -> list[str]:
    """Outcomes, reasons and points in a few words."""
    return [" ".join(str(part) for part in (each.code, each.reason, each.points) if part) for each in awards]


def noon(day: int) -> datetime:
    """Noon of a day of November 2026."""
    return at(f"{day} 12:00")
