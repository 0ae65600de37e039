"""The report: exact for staff in their scope, and published with nothing told of fewer than ten residents."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from campaigns.statistics import report
from campaigns.statistics.report import CommunityCounts, StreetCounts, hidden, published
from points.earning.models import Behaviour, CommunityDay, ResidentDay
from server.access import Role
from server.audit import AuditEntry
from server.clock import business_day, now
from server.database import new_id
from server.embedded import EmbeddedValkey
from server.people.models import Resident
from server.places.models import Organisation, OrganisationKind

STREET, OTHER_STREET, DISTRICT = "120104001", "120104002", "120104"
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
    rows = [{"resident_id": new_id(), "community_code": community, "created_at": now(), **values} for _ in range(count)]
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


# What may be published


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 0, 0], set()),
        ([10, 25, 40], set()),
        ([0, 10, 25], set()),
        # One small cell is the street's total less the rest; so the next smallest that is not zero goes with it.
        ([5, 30, 12, 0], {0, 2}),
        ([30, 9, 10], {1, 2}),
        # Two that hide each other and are ten or more together need no third.
        ([6, 7, 30], {0, 1}),
        # Two whose sum is itself below ten: the sum is a count of fewer than ten residents too.
        ([1, 2, 30, 12], {0, 1, 3}),
        ([3, 0, 0], {0}),
    ],
)
def test_small_counts_are_hidden_with_what_would_give_them_away(counts: list[int], expected: set[int]) -> None:
    assert hidden(counts) == expected


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_the_total_less_what_is_shown_never_tells_a_small_count(counts: list[int]) -> None:
    gone = hidden(counts)
    assert all(not 0 < count < 10 for position, count in enumerate(counts) if position not in gone)
    total = sum(counts)
    if gone and total >= 10:  # otherwise the total is hidden itself
        assert len([position for position in gone if counts[position]]) >= 2
        assert total - sum(count for position, count in enumerate(counts) if position not in gone) >= 10


def _street(code: str, *participants: int) -> StreetCounts:
    rows = tuple(CommunityCounts(f"{code}{number:03}", "社区", 100, count) for number, count in enumerate(participants))
    return StreetCounts(code, "街道", 100 * len(rows), sum(participants), rows)


def test_a_street_hidden_for_another_streets_sake_cannot_be_added_up_from_its_communities() -> None:
    small, next_smallest, large = _street("1", 4, 0), _street("2", 11, 14), _street("3", 50, 60)
    first, second, third = published([small, next_smallest, large])
    assert (first.participants, second.participants, third.participants) == (None, None, 110)
    assert [row.participants for row in first.communities] == [None, 0]
    assert [row.participants for row in second.communities] == [None, 14]
    assert [row.participants for row in third.communities] == [50, 60]


def test_a_small_number_of_registered_residents_is_hidden_beside_shown_participants() -> None:
    street = _street("1", 0, 20, 30)
    few = replace(street.communities[0], registered=3)
    (shown,) = published([replace(street, registered=203, communities=(few, *street.communities[1:]))])
    assert [row.registered for row in shown.communities] == [None, None, 100]
    assert [row.participants for row in shown.communities] == [0, 20, 30]


# The public summary


def test_the_summary_hides_a_small_community_and_the_next_smallest_of_its_street(
    client: FlaskClient, session: Session, communities: list[str]
) -> None:
    first, second, third, fourth = communities[:4]
    for community, registered, active in ((first, 20, 4), (second, 40, 30), (third, 20, 12), (fourth, 15, 0)):
        act(session, register(session, community, registered)[:active], community) if active else register(
            session, community, registered
        )

    street = street_of(client.get(SUMMARY))

    shown = cells(street, "participants")
    # Were the 12 shown, the street's 46 less 30 and 12 would tell of the four.
    assert [shown[code] for code in communities[:4]] == [None, 30, None, 0]
    assert street["participants"] == 46
    assert cells(street, "registered")[first] == 20
    assert street["registered"] == 95


def test_a_street_below_ten_is_hidden_and_the_next_smallest_street_too(
    client: FlaskClient, session: Session, communities: list[str]
) -> None:
    elsewhere = list(
        session.scalars(
            sa.text(
                "SELECT min(code) FROM division WHERE level = 'community' AND parent_code <> :street"
                " GROUP BY parent_code ORDER BY parent_code LIMIT 2"
            ),
            {"street": STREET},
        )
    )
    for community, count in ((communities[0], 3), (elsewhere[0], 15), (elsewhere[1], 60)):
        act(session, register(session, community, count), community)
    answer = client.get(SUMMARY)
    assert street_of(answer)["participants"] is None
    assert street_of(answer, elsewhere[0][:9])["participants"] is None
    assert cells(street_of(answer, elsewhere[0][:9]), "participants")[elsewhere[0]] is None
    assert street_of(answer, elsewhere[1][:9])["participants"] == 60


def test_every_street_and_community_of_the_district_is_listed_though_nobody_is_registered(client: FlaskClient) -> None:
    rows = client.get(SUMMARY).json["participation"]
    assert (len(rows), sum(len(row["communities"]) for row in rows)) == (12, 171)
    assert {row["participants"] for row in rows} == {0}


def test_a_participant_counts_once_and_where_they_live_now(
    client: FlaskClient, session: Session, communities: list[str]
) -> None:
    residents = register(session, communities[0], 12)
    today = business_day(now())
    for days in range(3):
        act(session, residents, communities[0], day=today - timedelta(days=days))
    session.execute(
        sa.update(Resident).where(Resident.resident_id.in_(residents)).values(community_code=communities[1])
    )
    session.commit()
    shown = cells(street_of(client.get(SUMMARY)), "participants")
    assert (shown[communities[0]], shown[communities[1]]) == (0, 12)


def test_disabled_residents_revoked_activities_and_other_days_do_not_count(
    client: FlaskClient, session: Session, communities: list[str]
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
    assert cells(street_of(client.get(SUMMARY)), "participants")[home] == 11


@pytest.mark.parametrize(("residents", "trips"), [(0, None), (9, None), (10, 10)])
def test_trips_of_a_mode_are_published_from_ten_residents_on(
    client: FlaskClient, session: Session, communities: list[str], residents: int, trips: int | None
) -> None:
    if residents:
        act(session, register(session, communities[0], residents), communities[0], Behaviour.METRO)
    recorded = client.get(SUMMARY).json["recorded_trips"]
    assert {row["mode"]: row["trips"] for row in recorded["modes"]} == {
        "walk": None,
        "bicycle": None,
        "e-bike": None,
        "bus": None,
        "metro": trips,
    }
    assert recorded["label"] == "平台记录占比"


def test_many_trips_of_few_residents_are_not_published(
    client: FlaskClient, session: Session, communities: list[str]
) -> None:
    residents = register(session, communities[0], 9)
    for days in range(5):
        act(session, residents, communities[0], day=business_day(now()) - timedelta(days=days))
    walk = client.get(SUMMARY).json["recorded_trips"]["modes"][0]
    assert walk == {"mode": "walk", "name": "步行（含每日步数）", "trips": None}


def test_savings_are_told_by_method_and_never_added_up(
    client: FlaskClient, session: Session, communities: list[str]
) -> None:
    home, other = communities[:2]
    residents = register(session, home, 10)
    act(session, residents, home, Behaviour.METRO, saved_co2e_mg=1500, method="method-a")
    act(session, register(session, other, 9), other, Behaviour.RECYCLING, saved_co2e_mg=900_000, method="method-b")
    # Many bring what saves nothing under any method: they are not behind method-b's figure.
    act(session, register(session, other, 30), other, Behaviour.RECYCLING)
    assert client.get(SUMMARY).json["savings"] == [
        {"method": "method-a", "grams": 15},
        {"method": "method-b", "grams": None},
    ]


def test_the_goal_line_comes_from_the_districts_data_and_is_not_judged(client: FlaskClient) -> None:
    answer = client.get(SUMMARY).json
    assert answer["district"] == {"code": "120104", "name": "南开区"}
    assert answer["goal"] == {
        "points": [{"year": 2025, "share": 0.75, "about": False}, {"year": 2030, "share": 0.8, "about": True}],
        "estimate": None,
        "answer": "cannot-be-told-yet",
        "source": "南开政发〔2022〕10号",
    }
    assert "890,422" in answer["population_note"]
    assert "917,106" in answer["population_note"]


def test_a_district_without_a_goal_has_an_empty_line(tmp_path: Path) -> None:
    (tmp_path / "district.toml").write_text('code = "110101"\nname = "东城区"\n', encoding="utf-8")
    figures = report.district_figures(tmp_path)
    assert (figures.name, figures.goal_points, figures.goal_source, figures.population_note) == (
        "东城区",
        (),
        None,
        None,
    )


def test_the_period_is_the_last_thirty_business_days_unless_asked_otherwise(client: FlaskClient) -> None:
    today = business_day(now())
    default = client.get(SUMMARY).json
    assert (default["from"], default["to"]) == ((today - timedelta(days=29)).isoformat(), today.isoformat())
    asked = client.get(f"{SUMMARY}?from=2025-01-01&to=2026-01-01").json
    assert (asked["from"], asked["to"]) == ("2025-01-01", "2026-01-01")


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
def test_a_period_that_makes_no_sense_is_refused(client: FlaskClient, query: str, code: str) -> None:
    answer = client.get(f"{SUMMARY}?{query}")
    assert (answer.status_code, answer.json["code"]) == (422, code)


def test_the_summary_is_kept_for_a_minute_and_computed_when_the_cache_is_gone(
    app: Flask, client: FlaskClient, session: Session, communities: list[str], valkey: EmbeddedValkey
) -> None:
    before = client.get(SUMMARY)
    act(session, register(session, communities[0], 12), communities[0])
    kept = client.get(SUMMARY)
    with redis.Redis.from_url(valkey.url) as raw:
        (key,) = raw.keys("report:summary:*")
        seconds = raw.ttl(key)
        raw.delete(key)
    fresh = client.get(SUMMARY)
    assert (kept.data, kept.headers["Cache-Control"]) == (before.data, "public, max-age=60")
    assert 0 < seconds <= 60
    assert street_of(fresh)["participants"] == 12


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
    app: Flask, client: FlaskClient, session: Session, communities: list[str]
) -> None:
    def statements(query: str) -> int:
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            seen.append(statement)

        sa.event.listen(session.get_bind(), "before_cursor_execute", note)
        try:
            assert client.get(f"{SUMMARY}?{query}").status_code == 200
        finally:
            sa.event.remove(session.get_bind(), "before_cursor_execute", note)
        return len([each for each in seen if "SAVEPOINT" not in each])

    one_day = business_day(now()).isoformat()
    nothing = statements("")
    for community in communities:
        act(session, register(session, community, 12), community, saved_co2e_mg=5, method="method-a")
    assert statements(f"from={one_day}") == nothing
    assert nothing <= 6
