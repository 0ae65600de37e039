"""What the tests of campaigns are built from: drafts, published campaigns, participants, days of residents."""

from datetime import date, timedelta
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from points.earning.models import Behaviour, ResidentDay
from server.clock import business_day, now
from server.database import new_id
from server.people.models import Consent, ConsentPurpose
from server.people.residents import TEXT_VERSIONS
from server.places.models import Organisation, OrganisationKind

COMMUNITY, NEIGHBOUR = "120104001001", "120104001003"
STREET, OTHER_STREET, DISTRICT = "120104001", "120104002", "120104"

CAMPAIGNS = "/api/v1/campaigns"

Headers = dict[str, str]

WALKS: dict[str, Any] = {
    "kind": "behaviour",
    "title": "步行或骑行5千米",
    "behaviours": ["walk", "bicycle"],
    "measure": "distance_m",
    "target": 5000,
}


def task(**changes: Any) -> dict[str, Any]:
    """A behaviour task, changed; None takes a field away."""
    return {name: value for name, value in {**WALKS, **changes}.items() if value is not None}


def quiz(right: list[list[int]], **changes: Any) -> dict[str, Any]:
    """A quiz of as many questions, each with three options."""
    questions = [
        {"text": f"第{number}题", "options": ["甲", "乙", "丙"], "right": answer}
        for number, answer in enumerate(right, 1)
    ]
    return {"kind": "quiz", "title": "答题", "questions": questions, "attempts_max": 3, "target": 1, **changes}


def terms(**changes: Any) -> dict[str, Any]:
    """A week around today with one task; None takes a field away."""
    today = business_day(now())
    made = {
        "title": "步行周",
        "division": COMMUNITY,
        "tasks": [WALKS],
        "starts_on": (today - timedelta(days=3)).isoformat(),
        "ends_on": (today + timedelta(days=3)).isoformat(),
        **changes,
    }
    return {name: value for name, value in made.items() if value is not None}


def days(first: int, last: int) -> dict[str, str]:
    """The first and last day as so many days from today."""
    today = business_day(now())
    return {
        "starts_on": (today + timedelta(days=first)).isoformat(),
        "ends_on": (today + timedelta(days=last)).isoformat(),
    }


def drafted(client: FlaskClient, staff: Headers, **changes: Any) -> dict[str, Any]:
    """A draft, as the API answers it."""
    answer = client.post(CAMPAIGNS, json=terms(**changes), headers=staff)
    assert answer.status_code == 201, answer.text
    assert answer.json
    return dict(answer.json)


def published(client: FlaskClient, staff: Headers, **changes: Any) -> str:
    """The address of a published campaign, which runs if its first day has come."""
    path = f"{CAMPAIGNS}/{drafted(client, staff, **changes)['id']}"
    answer = client.post(f"{path}/publish", headers=staff)
    assert answer.status_code == 200, answer.text
    return path


def id_of(path: str) -> UUID:
    """The campaign of an address."""
    return UUID(path.rsplit("/", 1)[1])


def tasks_at(client: FlaskClient, headers: Headers, path: str) -> list[dict[str, Any]]:
    """The tasks of the campaign at an address."""
    answer = client.get(f"{path}/tasks", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json
    return list(answer.json["items"])


def joined(client: FlaskClient, path: str, *people: Headers) -> None:
    """Let people join the campaign at an address."""
    for person in people:
        answer = client.post(f"{path}/participations", headers=person)
        assert answer.status_code == 201, answer.text


def active_on(session: Session, resident_id: UUID, day: date, behaviour: Behaviour, **sums: int) -> None:
    """A resident's day of one behaviour."""
    counts = {"activities": 1, "distance_m": 0, "weight_g": 0, "saved_co2e_mg": 0, "points": 0, **sums}
    session.add(ResidentDay(resident_id=resident_id, day=day, behaviour=behaviour, community_code=COMMUNITY, **counts))
    session.commit()


def walked(session: Session, resident_id: UUID, distance_m: int, *, days_ago: int = 0) -> None:
    """A resident's walk of so many metres."""
    active_on(
        session, resident_id, business_day(now()) - timedelta(days=days_ago), Behaviour.WALK, distance_m=distance_m
    )


def agrees_to_appear(session: Session, resident_id: UUID) -> Consent:
    """A resident's consent to appear in rankings."""
    consent = Consent(
        resident_id=resident_id,
        id=new_id(),
        purpose=ConsentPurpose.RANKING,
        subject="",
        text_version=TEXT_VERSIONS[ConsentPurpose.RANKING],
        given_at=now(),
    )
    session.add(consent)
    session.commit()
    return consent


def school(session: Session, name: str = "示例学校", community: str = COMMUNITY) -> UUID:
    """A school in a community."""
    made = Organisation(
        id=new_id(), kind=OrganisationKind.SCHOOL, name=name, community_code=community, valid_from=date(2026, 1, 1)
    )
    session.add(made)
    session.commit()
    return made.id


def refused(answer: Any, status: int, code: str) -> None:
    """Check that an answer is this problem."""
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text
    assert answer.content_type == "application/problem+json"
