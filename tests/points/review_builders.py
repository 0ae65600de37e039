"""What the tests of review are built from: reviewers who may decide, claims that wait, cases over HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask.testing import FlaskClient
from points_builders import NOON, claim
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from points.earning.award import award
from points.earning.claims import Claim, Reason
from points.earning.models import Activity
from points.review import held
from points.review.models import Case, CaseKind
from server.access import Actor, Role
from server.database import new_id
from server.people.models import StaffLink

CASES, MANY = "/api/v1/review/cases", "/api/v1/review/decisions"
COMMUNITY, STREET, DISTRICT, ELSEWHERE = "120104001001", "120104001", "120104", "120104002"


@dataclass(frozen=True)
class Reviewer:
    """A member of staff who may decide, and their sign-in."""

    id: UUID
    headers: dict[str, str]
    actor: Actor


def declared(session: Session, staff_id: UUID, resident_id: UUID | None = None) -> None:
    """Say which resident a member of staff is, or that they are none."""
    statement = "本人没有居民账号" if resident_id is None else None
    session.add(StaffLink(staff_id=staff_id, resident_id=resident_id, statement=statement, made_at=NOON))
    session.commit()


def actor_of(staff_id: UUID, division: str = COMMUNITY, role: Role = Role.COMMUNITY_STAFF) -> Actor:
    """A member of staff as a value."""
    return Actor(id=staff_id, role=role, session_id=new_id(), division=division)


def held_claims(
    session: Session, resident_id: UUID, count: int = 1, *, reason: Reason = Reason.BURST, **values: Any
) -> list[UUID]:
    """Weighings that wait for a person (a kilogram of cans each, 40 points), with their cases; the activities."""
    values = {"mode": "aluminium_can", "weight_g": 1000, **values}
    claims = [claim(resident_id, "recycling", hold=reason, **values) for _ in range(count)]
    made = [each.activity_id for each in award(session, claims, now=NOON)]
    held.open_waiting(session, now=NOON)
    session.commit()
    return [each for each in made if each is not None]


def paid(session: Session, *claims: Claim) -> list[UUID]:
    """Pay claims; their activities."""
    made = award(session, claims, now=NOON)
    assert {each.code for each in made} == {"awarded"}, made
    session.commit()
    return [each.activity_id for each in made if each.activity_id is not None]


def activity(session: Session, resident_id: UUID, activity_id: UUID) -> tuple[str, str | None]:
    """What became of an activity, and why."""
    found = session.get_one(Activity, (resident_id, activity_id), populate_existing=True)
    return found.outcome.value, found.reason


def cases_of(session: Session, kind: CaseKind, resident_id: UUID) -> Sequence[Case]:
    """A resident's cases of one kind, the oldest first."""
    wanted = sa.select(Case).where(Case.kind == kind, Case.resident_id == resident_id).order_by(Case.id)
    return session.scalars(wanted.execution_options(populate_existing=True)).all()


def decide(
    client: FlaskClient, by: Reviewer, case_id: UUID, verdict: str = "granted", reason: str = "核对无误"
) -> TestResponse:
    """Decide a case over HTTP."""
    return client.post(f"{CASES}/{case_id}/decision", json={"verdict": verdict, "reason": reason}, headers=by.headers)


def code(answer: TestResponse) -> tuple[int, str | None]:
    """The status, and the problem's code."""
    assert answer.json is not None, answer.text
    return answer.status_code, answer.json.get("code")
