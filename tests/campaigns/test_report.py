"""The report: exact for staff in their scope, and for everybody what was released."""

from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from campaigns.statistics import report
from campaigns.statistics.jobs import count_everything_due
from points.earning.models import Behaviour, CommunityDay, ResidentDay
from points.open_data import releases
from points.open_data.jobs import release_period
from points.open_data.releases import read_name
from points.statistics.jobs import count_everything_due as count_activity_due
from points.statistics.marks import FIRST_DAY
from server.access import Role
from server.audit import AuditEntry
from server.clock import SHANGHAI, business_day, now
from server.database import new_id
from server.embedded import EmbeddedValkey
from server.people.models import Resident
from server.places.models import Organisation, OrganisationKind

STREET, OTHER_STREET, DISTRICT = "120104001", "120104002", "120104"
OCTOBER = date(2026, 10, 7)
SUMMARY, PARTICIPATION = "/api/v1/report/summary", "/api/v1/report/participation"

SignIn = Callable[..., dict[str, str]]


@pytest.fixture(autouse=True)
def empty_cache(valkey: EmbeddedValkey) -> Iterator[None]:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        yield


@pytest.fixture
def communities(session: Session) -> list[str]:
    """The codes of the communities of one street."""
    return list(
        session.scalars(
            sa.text("SELECT code FROM division WHERE parent_code = :street ORDER BY code"), {"street": STREET}
        )
    )


def register(session: Session, community: str, count: int, **values: Any) -> list[UUID]:
    row = {"community_code": community, "created_at": now(), **values}
    rows = [{**row, "resident_id": new_id()} for _ in range(count)]
    if rows:
        session.execute(sa.insert(Resident), rows)
        session.commit()
    return [row["resident_id"] for row in rows]


def act(
    session: Session,
    residents: list[UUID],
    community: str,
    behaviour: Behaviour = Behaviour.WALK,
    *,
    day: date | None = None,
    saved_co2e_mg: int = 0,
    method: str = "",
) -> None:
    """Give each resident one activity, counted as the award path counts it."""
    day = day or business_day(now())
    sums = {"distance_m": 1000, "weight_g": 0, "points": 1}
    session.execute(
        sa.insert(ResidentDay),
        [
            {
                "resident_id": resident,
                "day": day,
                "behaviour": behaviour,
                "community_code": community,
                "activities": 1,
                "saved_co2e_mg": saved_co2e_mg,
                **sums,
            }
            for resident in residents
        ],
    )
    session.execute(
        sa.insert(CommunityDay).values(
            community_code=community,
            day=day,
            behaviour=behaviour,
            mode=behaviour.value,
            method_id=method,
            activities=len(residents),
            saved_co2e_mg=saved_co2e_mg * len(residents),
            **sums,
        )
    )
    session.commit()


def street_of(answer: Any, code: str = STREET) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return next(row for row in answer.json["participation"] if row["street_code"] == code)


def cells(street: dict[str, Any], column: str) -> dict[str, int | None]:
    return {row["code"]: row[column] for row in street["communities"]}


# The public summary


@pytest.fixture
def released(app: Flask, session: Session, clock: time_machine.Traveller) -> Callable[[], str]:
    """A function that releases October, in November."""

    def release() -> str:
        count_everything_due(FIRST_DAY)
        count_activity_due(FIRST_DAY)
        return releases.name_of(release_period(read_name("2026-10").period))

    def made() -> str:
        with app.app_context():
            return release()

    return made


def test_before_the_first_release_the_summary_tells_of_the_goal_alone(client: FlaskClient) -> None:
    answer = client.get(SUMMARY).json
    assert answer["district"] == {"code": "120104", "name": "南开区"}
    assert (answer["release"], answer["periods"], answer["participation"], answer["savings"]) == (None, [], [], [])
    assert answer["recorded_trips"]["label"] == "平台记录占比"
    assert answer["goal"] == {
        "points": [{"year": 2025, "share": 0.75, "about": False}, {"year": 2030, "share": 0.8, "about": True}],
        "source": "南开政发〔2022〕10号",
        "year": business_day(now()).year,
        "answer": "cannot-be-told-yet",
        "reason": "no-estimate",
        "release": None,
        "estimate": None,
        "readings": [],
    }
    assert "890,422" in answer["population_note"]
    assert "917,106" in answer["population_note"]


def test_the_summary_tells_a_released_month_as_it_was_frozen(
    client: FlaskClient, session: Session, communities: list[str], released: Callable[[], str], valkey: EmbeddedValkey
) -> None:
    first, second, third, fourth = communities[:4]
    before = datetime(2026, 10, 1, tzinfo=SHANGHAI)
    for community, registered, active in ((first, 40, 4), (second, 70, 50), (third, 40, 12), (fourth, 15, 0)):
        residents = register(session, community, registered, created_at=before)
        if active:
            act(session, residents[:active], community, day=OCTOBER, saved_co2e_mg=1500, method="method-a")
    assert released() == "2026-10.1"
    answer = client.get(SUMMARY)
    assert (answer.json["release"]["name"], answer.json["periods"]) == ("2026-10.1", ["2026-10"])
    street = street_of(answer)
    shown = cells(street, "participants")
    # Were the 12 told, the street's 66 less 50 and 12 would tell of the four.
    assert [shown[code] for code in communities[:4]] == [None, 50, None, 0]
    assert (street["participants"], cells(street, "registered")[first], street["registered"]) == (66, 40, 165)
    assert (answer.json["participants"], answer.json["registered"]) == (66, 165)
    assert answer.json["savings"] == []  # no activity stands behind the days of this test
    # Whoever comes now changes nothing of it.
    act(session, register(session, first, 30, created_at=before), first, day=OCTOBER)
    with redis.Redis.from_url(valkey.url) as raw:
        raw.flushall()
    assert client.get(f"{SUMMARY}?period=2026-10").json == answer.json
    assert answer.headers["Cache-Control"] == "public, max-age=60"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("period=2026-09", 404, "not-found"),
        ("period=2026-13", 422, "invalid-request"),
        ("period=latest", 422, "invalid-request"),
        ("from=2026-10-01&to=2026-10-02", 422, "invalid-request"),
    ],
)
def test_days_of_ones_own_choosing_are_refused(client: FlaskClient, query: str, status: int, code: str) -> None:
    for address in (SUMMARY, "/api/v1/report/public/participation"):
        answer = client.get(f"{address}?{query}")
        assert (answer.status_code, answer.json["code"]) == (status, code)


def test_a_district_without_a_goal_has_an_empty_line(tmp_path: Path) -> None:
    (tmp_path / "district.toml").write_text('code = "110101"\nname = "东城区"\n', encoding="utf-8")
    figures = report.district_figures(tmp_path)
    assert (figures.name, figures.goal_points, figures.goal_source, figures.population_note) == (
        "东城区",
        (),
        None,
        None,
    )


# For staff


def test_staff_read_exact_figures_of_their_own_scope_and_the_reading_is_audited(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, communities: list[str]
) -> None:
    act(session, register(session, communities[0], 5)[:3], communities[0], saved_co2e_mg=1000, method="method-a")
    act(session, register(session, communities[1], 2), communities[1], Behaviour.METRO)
    outside = "120104002001"
    act(session, register(session, outside, 40), outside)

    street = client.get(PARTICIPATION, headers=sign_in_staff(Role.STREET, division=STREET)).json
    community = client.get(PARTICIPATION, headers=sign_in_staff(Role.COMMUNITY_STAFF, division=communities[0])).json
    district = client.get(PARTICIPATION, headers=sign_in_staff(Role.DISTRICT, division=DISTRICT)).json

    assert (street["registered"], street["participants"]) == (7, 5)
    assert [row["street_code"] for row in street["participation"]] == [STREET]
    assert street["savings"] == [{"method": "method-a", "grams": 3}]
    assert {row["mode"]: row["trips"] for row in street["recorded_trips"]["modes"]}["walk"] == 3
    assert (community["registered"], community["participants"]) == (5, 3)
    assert cells(community["participation"][0], "registered") == {communities[0]: 5}
    assert (district["registered"], district["participants"], len(district["participation"])) == (47, 45, 12)
    read = session.scalars(sa.select(AuditEntry.subject).where(AuditEntry.act == "report.read").order_by(AuditEntry.id))
    assert list(read) == [STREET, communities[0], DISTRICT]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("from=2025-01-01&to=2026-01-02", "report-period-invalid"),
        ("from=2026-01-02&to=2026-01-01", "report-period-invalid"),
        ("from=yesterday", "invalid-request"),
        ("from=0001-01-01", "invalid-request"),
        ("to=9999-12-31", "invalid-request"),
        ("until=2026-01-01", "invalid-request"),
    ],
)
def test_a_period_that_makes_no_sense_is_refused(
    client: FlaskClient, sign_in_staff: SignIn, query: str, code: str
) -> None:
    answer = client.get(f"{PARTICIPATION}?{query}", headers=sign_in_staff(Role.DISTRICT, division=DISTRICT))
    assert (answer.status_code, answer.json["code"]) == (422, code)


def test_a_participant_counts_once_and_where_they_live_now(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, communities: list[str]
) -> None:
    residents = register(session, communities[0], 12)
    today = business_day(now())
    for days in range(3):
        act(session, residents, communities[0], day=today - timedelta(days=days))
    session.execute(
        sa.update(Resident).where(Resident.resident_id.in_(residents)).values(community_code=communities[1])
    )
    session.commit()
    shown = cells(
        street_of(client.get(PARTICIPATION, headers=sign_in_staff(Role.STREET, division=STREET))), "participants"
    )
    assert (shown[communities[0]], shown[communities[1]]) == (0, 12)


def test_disabled_residents_revoked_activities_and_other_days_do_not_count(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, communities: list[str]
) -> None:
    today = business_day(now())
    home = communities[0]
    act(session, register(session, home, 11), home, day=today)
    act(session, register(session, home, 5, enabled=False), home, Behaviour.BUS, day=today)
    act(session, register(session, home, 6), home, day=today - timedelta(days=30))
    revoked = register(session, home, 7)
    act(session, revoked, home, Behaviour.METRO, day=today)
    session.execute(sa.update(ResidentDay).where(ResidentDay.resident_id.in_(revoked)).values(activities=0))
    session.commit()
    found = client.get(PARTICIPATION, headers=sign_in_staff(Role.STREET, division=STREET))
    assert cells(street_of(found), "participants")[home] == 11


def test_savings_are_told_by_method_and_never_added_up(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, communities: list[str]
) -> None:
    home, other = communities[:2]
    act(session, register(session, home, 10), home, Behaviour.METRO, saved_co2e_mg=1500, method="method-a")
    act(session, register(session, other, 9), other, Behaviour.RECYCLING, saved_co2e_mg=900_000, method="method-b")
    # Many bring what saves nothing under any method: they are not behind method-b's figure.
    act(session, register(session, other, 30), other, Behaviour.RECYCLING)
    found = client.get(PARTICIPATION, headers=sign_in_staff(Role.STREET, division=STREET)).json
    assert found["savings"] == [{"method": "method-a", "grams": 15}, {"method": "method-b", "grams": 8100}]


def test_staff_of_one_organisation_residents_and_operators_have_no_such_report(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, sign_in_resident: SignIn, communities: list[str]
) -> None:
    school = Organisation(
        id=new_id(),
        kind=OrganisationKind.SCHOOL,
        name="示例学校",
        community_code=communities[0],
        valid_from=date(2026, 1, 1),
    )
    session.add(school)
    session.commit()
    statuses = [
        client.get(PARTICIPATION, headers=headers).status_code
        for headers in (
            sign_in_staff(Role.SCHOOL_STAFF, organisation=school.id),
            sign_in_resident("alice"),
            sign_in_staff(Role.OPERATOR, division=DISTRICT),
            {},
        )
    ]
    assert statuses == [404, 403, 403, 401]


def test_the_number_of_statements_does_not_grow_with_what_is_reported(
    client: FlaskClient, session: Session, sign_in_staff: SignIn, communities: list[str]
) -> None:
    headers = sign_in_staff(Role.DISTRICT, division=DISTRICT)

    def statements(query: str) -> int:
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            seen.append(statement)

        sa.event.listen(session.get_bind(), "before_cursor_execute", note)
        try:
            assert client.get(f"{PARTICIPATION}?{query}", headers=headers).status_code == 200
        finally:
            sa.event.remove(session.get_bind(), "before_cursor_execute", note)
        return len([each for each in seen if "SAVEPOINT" not in each])

    one_day = business_day(now()).isoformat()
    nothing = statements("")
    for community in communities:
        act(session, register(session, community, 12), community, saved_co2e_mg=5, method="method-a")
    assert statements(f"from={one_day}") == nothing
    assert nothing <= 9
