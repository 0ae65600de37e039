"""Participation statistics over HTTP: exact in the scope of staff, and for everybody as released."""

import csv
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
import sqlalchemy as sa
import time_machine
from attendance_builders import a_campaign, a_slot, a_task, was_there
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session
from statistics_builders import DISTRICT, FAR, HERE, METHOD, OTHER_STREET, STREET, THERE, act, count, register

from campaigns.drives.models import Participation
from campaigns.statistics import exported, routes
from campaigns.statistics.participation import PlaceQuery
from points.earning.models import Behaviour
from points.open_data.jobs import release_period
from points.open_data.releases import read_name
from points.statistics.jobs import count_everything_due as count_activity_due
from points.statistics.marks import FIRST_DAY
from points.statistics.periods import Grain
from server.access import Actor, Role
from server.audit import AuditEntry
from server.clock import SHANGHAI, now
from server.database import new_id
from server.embedded import EmbeddedValkey
from server.errors import Forbidden, NotFound
from server.exports import writing
from server.exports.models import Export, ExportFormat
from server.people.models import OrganisationMembership
from server.places import populations
from server.places.models import Confidence, Organisation, OrganisationKind
from server.places.populations import PopulationEntry

TODAY = date(2026, 11, 18)
REPORT = "/api/v1/report"
PUBLIC = f"{REPORT}/public/participation"
TABLES = ("places", "kinds", "organisations", "campaigns", "creation")

Headers = dict[str, str]
SignIn = Callable[..., Headers]


@pytest.fixture(autouse=True)
def on_the_day(clock: time_machine.Traveller, valkey: EmbeddedValkey) -> time_machine.Traveller:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    return clock


@pytest.fixture
def district_staff(sign_in_staff: SignIn) -> Headers:
    return sign_in_staff(Role.DISTRICT, division=DISTRICT)


@pytest.fixture
def make_school(session: Session) -> Callable[..., UUID]:
    def make(name: str = "示例学校", community: str = HERE, kind: OrganisationKind = OrganisationKind.SCHOOL) -> UUID:
        made = Organisation(id=new_id(), kind=kind, name=name, community_code=community, valid_from=date(2026, 1, 1))
        session.add(made)
        session.commit()
        return made.id

    return make


def enrol(session: Session, campaign_id: UUID, person: UUID, community: str = HERE) -> None:
    session.add(Participation(resident_id=person, campaign_id=campaign_id, community_code=community, joined_at=now()))
    session.commit()


def table(client: FlaskClient, headers: Headers, name: str, **query: Any) -> dict[str, Any]:
    answer = client.get(f"{REPORT}/{name}", query_string=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json)


def codes(found: dict[str, Any]) -> list[str]:
    return [item["place_code"] for item in found["items"]]


def place(found: dict[str, Any], code: str) -> dict[str, Any]:
    return next(item for item in found["items"] if item["place_code"] == code)


# Places


def test_the_district_reads_every_place_of_a_month_exactly(
    client: FlaskClient, session: Session, district_staff: Headers
) -> None:
    people = register(session, HERE, 8)
    act(session, people[:2], TODAY, saved_co2e_mg=1999, points=3)
    act(session, register(session, FAR, 4)[:1], TODAY, FAR)
    count(session)
    found = table(client, district_staff, "places", limit=200)
    assert (found["grain"], found["from"], found["to"], found["kind"]) == ("month", "2026-11-01", "2026-11-30", None)
    assert found["counted_at"] == now().isoformat().replace("+00:00", "Z")
    assert (len(found["items"]), found["next_cursor"]) == (171 + 12 + 1, None)
    assert codes(found) == sorted(codes(found))
    here = place(found, HERE)
    assert (here["level"], here["place_name"]) == ("community", place(found, HERE)["place_name"])
    assert here["figures"] == {
        "registered": 8,
        "participants": 2,
        "rate": here["figures"]["rate"],
        "joins": 0,
        "check_ins": 0,
        "completions": 0,
        "volunteer_minutes": 0,
        "points": 6,
        "savings": [{"method": METHOD, "grams": 3}],
    }
    assert here["figures"]["rate"]["raw"] == 0.25
    assert place(found, STREET)["figures"]["participants"] == 2
    assert place(found, DISTRICT)["figures"]["registered"] == 12
    assert place(found, DISTRICT)["figures"]["rate"]["shrunk"] is None, "a district has no peers"
    assert place(found, THERE)["figures"]["rate"] is None, "nobody is registered there"
    assert {prior["peers"] for prior in found["priors"]} == {"community:120104", "street:120104"}


def test_the_rate_per_census_population_names_the_population(
    client: FlaskClient, session: Session, district_staff: Headers
) -> None:
    act(session, register(session, HERE, 9), TODAY)
    populations.load(session, [PopulationEntry(HERE, 2020, 4500, "街道台账", Confidence.SECONDARY)])
    session.commit()
    count(session)
    found = table(client, district_staff, "places", limit=200)
    assert place(found, HERE)["population_rates"] == [
        {"year": 2020, "persons": 4500, "source": "街道台账", "confidence": "V2", "rate": 0.002}
    ]
    assert place(found, THERE)["population_rates"] == []
    district = place(found, DISTRICT)["population_rates"]
    assert [(each["persons"], each["confidence"]) for each in district] == [(890_422, "C"), (917_106, "V")]
    assert district[0]["rate"] == round(9 / 890_422, 6)


def test_each_reads_the_own_scope_alone_and_nothing_beyond_it(
    client: FlaskClient, session: Session, sign_in_staff: SignIn
) -> None:
    act(session, register(session, HERE, 3), TODAY)
    count(session)
    street = sign_in_staff(Role.STREET, division=STREET)
    community = sign_in_staff(Role.COMMUNITY_STAFF, division=HERE)
    found = table(client, street, "places", limit=200)
    assert STREET in codes(found)
    assert all(code.startswith(STREET) for code in codes(found))
    assert codes(table(client, community, "places")) == [HERE]
    assert codes(table(client, street, "places", level="street")) == [STREET]
    assert codes(table(client, street, "places", within=HERE)) == [HERE]
    for headers, within in ((street, OTHER_STREET), (community, THERE), (community, STREET), (street, DISTRICT)):
        assert client.get(f"{REPORT}/places?within={within}", headers=headers).status_code == 404
        assert client.get(f"{REPORT}/kinds?place={within}", headers=headers).status_code == 404
    read = session.scalars(sa.select(AuditEntry.subject).where(AuditEntry.act == "report.read").order_by(AuditEntry.id))
    assert list(read) == [STREET, HERE, STREET, HERE]


def test_staff_of_one_organisation_residents_operators_and_assessors_have_no_table_of_places(
    client: FlaskClient, sign_in_staff: SignIn, sign_in_resident: SignIn, make_school: Callable[..., UUID]
) -> None:
    school = sign_in_staff(Role.SCHOOL_STAFF, organisation=make_school())
    for name in ("places", "kinds", "creation"):
        assert client.get(f"{REPORT}/{name}", headers=school).status_code == 404
    entry = {"format": "csv", "grain": "month"}
    assert client.post(f"{REPORT}/exports", json=entry, headers=school).status_code == 404
    for headers in (
        sign_in_resident("alice"),
        sign_in_staff(Role.OPERATOR, division=DISTRICT),
        sign_in_staff(Role.ASSESSOR, division=DISTRICT),
    ):
        for name in TABLES:
            assert client.get(f"{REPORT}/{name}", headers=headers).status_code == 403
        assert client.post(f"{REPORT}/exports", json=entry, headers=headers).status_code == 403
    assert {client.get(f"{REPORT}/{name}").status_code for name in TABLES} == {401}


@pytest.mark.parametrize("kind", [None, "challenge"])
@pytest.mark.parametrize("order", ["code", "rate"])
def test_pages_by_code_and_by_rate_hold_every_place_once(
    client: FlaskClient, session: Session, district_staff: Headers, order: str, kind: str | None
) -> None:
    communities = session.scalars(sa.text("SELECT code FROM division WHERE level = 'community' ORDER BY code")).all()
    for position, community in enumerate(communities[:12]):
        act(session, register(session, community, 9)[: position % 4], TODAY, community)
    count(session)
    seen: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query = {
            "order": order,
            "limit": 50,
            **({"cursor": cursor} if cursor else {}),
            **({"kind": kind} if kind else {}),
        }
        page = table(client, district_staff, "places", **query)
        seen += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == 184
    assert len({item["place_code"] for item in seen}) == 184

    def rate(item: dict[str, Any]) -> float:
        found = item["figures"]["rate"]
        return -1.0 if found is None or found["shrunk"] is None else float(found["shrunk"])

    if kind is not None:
        return  # figures of a kind have no rate to look at, but keep the order
    by_code = [item["place_code"] for item in seen]
    expected = sorted(seen, key=(lambda item: item["place_code"]) if order == "code" else lambda item: -rate(item))
    assert [rate(item) for item in seen] == [rate(item) for item in expected]
    assert order == "rate" or by_code == sorted(by_code)


def test_a_cursor_of_one_order_is_refused_in_the_other(
    client: FlaskClient, session: Session, district_staff: Headers
) -> None:
    count(session)
    cursor = table(client, district_staff, "places", limit=3)["next_cursor"]
    for query in (f"order=rate&cursor={cursor}", "cursor=nonsense"):
        answer = client.get(f"{REPORT}/places?{query}", headers=district_staff)
        assert (answer.status_code, answer.json["code"]) == (422, "bad-cursor")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("grain=decade", "invalid-request"),
        ("on=1999-12-31", "invalid-request"),
        ("within=12", "invalid-request"),
        ("order=name", "invalid-request"),
        ("limit=201", "invalid-request"),
        ("until=2026-01-01", "invalid-request"),
        ("grain=week&kind=challenge", "kinds-by-month"),
        ("grain=day&kind=volunteer", "kinds-by-month"),
    ],
)
def test_a_table_that_does_not_exist_is_refused(
    client: FlaskClient, district_staff: Headers, query: str, code: str
) -> None:
    answer = client.get(f"{REPORT}/places?{query}", headers=district_staff)
    assert (answer.status_code, answer.json["code"]) == (422, code)


def test_a_period_that_was_never_counted_is_empty_and_says_so(client: FlaskClient, district_staff: Headers) -> None:
    found = table(client, district_staff, "places", grain="week", on="2024-05-01")
    assert (found["from"], found["items"], found["counted_at"]) == ("2024-04-29", [], None)


# Kinds and campaigns


def test_kinds_of_campaigns_are_told_for_any_place_of_the_scope(
    client: FlaskClient, session: Session, district_staff: Headers, make_staff: Callable[..., UUID]
) -> None:
    staff_id = make_staff(Role.DISTRICT, division=DISTRICT)
    challenge = a_campaign(session, staff_id, kind="challenge")
    a_task(session, challenge)
    (person,) = register(session, HERE)
    enrol(session, challenge.id, person)
    was_there(session, a_slot(session, challenge), person)
    act(session, [person], TODAY, points=5, saved_co2e_mg=1000)
    count(session)
    found = table(client, district_staff, "kinds", grain="quarter")
    assert [item["kind"] for item in found["items"]][:2] == ["challenge", "theme-day"]
    assert len(found["items"]) == 7
    assert found["items"][0] == {
        "kind": "challenge",
        "participants": 1,
        "joins": 1,
        "check_ins": 1,
        "completions": 1,
        "volunteer_minutes": 0,
        "points": 5,
        "savings": [{"method": METHOD, "grams": 1}],
    }
    assert table(client, district_staff, "kinds", place=FAR)["items"][0]["participants"] == 0
    assert client.get(f"{REPORT}/kinds?grain=day", headers=district_staff).status_code == 422
    by_place = table(client, district_staff, "places", kind="challenge", limit=200)
    here = place(by_place, HERE)["figures"]
    assert (here["registered"], here["participants"], here["joins"], here["rate"]) == (1, 1, 1, None)
    assert place(by_place, FAR)["figures"]["participants"] == 0


def test_campaigns_are_listed_in_the_scope_and_a_school_sees_nothing_of_another(
    client: FlaskClient,
    session: Session,
    district_staff: Headers,
    sign_in_staff: SignIn,
    make_staff: Callable[..., UUID],
    make_school: Callable[..., UUID],
) -> None:
    ours, theirs = make_school("甲校"), make_school("乙校")
    staff_id = make_staff(Role.DISTRICT, division=DISTRICT)
    a_campaign(session, staff_id, title="区", division=DISTRICT)
    own = a_campaign(session, staff_id, title="甲", organisation_id=ours, kind="green-school")
    a_campaign(session, staff_id, title="乙", organisation_id=theirs)
    a_campaign(session, staff_id, title="草稿", state="draft", published_at=None, running_at=None, settling_at=None)
    past = {"starts_on": TODAY - timedelta(days=90), "ends_on": TODAY - timedelta(days=60)}
    a_campaign(session, staff_id, title="旧", **past)
    (person,) = register(session, HERE)
    enrol(session, own.id, person)
    count(session)
    school, other = (sign_in_staff(Role.SCHOOL_STAFF, organisation=each) for each in (ours, theirs))

    def titles(headers: Headers, **query: Any) -> list[str]:
        return [item["title"] for item in table(client, headers, "campaigns", **query)["items"]]

    assert titles(district_staff) == ["旧", "乙", "甲", "区"]
    assert titles(district_staff, grain="month") == ["乙", "甲", "区"]
    assert titles(district_staff, kind="green-school") == ["甲"]
    assert titles(sign_in_staff(Role.STREET, division=STREET)) == ["旧", "乙", "甲"]
    assert (titles(school), titles(other)) == (["甲"], ["乙"])
    (found,) = table(client, school, "campaigns")["items"]
    assert (found["participants"], found["completions"], found["organisation_id"]) == (1, 0, str(ours))
    page = table(client, district_staff, "campaigns", limit=3)
    assert [item["title"] for item in page["items"]] == ["旧", "乙", "甲"]
    assert titles(district_staff, limit=3, cursor=page["next_cursor"]) == ["区"]


# Organisations


def test_organisations_are_told_to_the_staff_of_their_place_and_to_their_own(
    client: FlaskClient,
    session: Session,
    district_staff: Headers,
    sign_in_staff: SignIn,
    make_school: Callable[..., UUID],
) -> None:
    ours, theirs = make_school("甲校"), make_school("乙校")
    mall = make_school("商场", FAR, OrganisationKind.MALL)
    people = register(session, HERE, 3)
    joined = now() - timedelta(days=10)
    for school, person in ((ours, people[0]), (ours, people[1]), (theirs, people[2]), (mall, people[2])):
        session.add(OrganisationMembership(resident_id=person, organisation_id=school, joined_at=joined))
    session.commit()
    act(session, people[1:], TODAY, points=4)
    count(session)

    def names(headers: Headers, **query: Any) -> list[str]:
        return [item["organisation_name"] for item in table(client, headers, "organisations", **query)["items"]]

    assert names(district_staff) == ["甲校", "乙校", "商场"]
    assert names(district_staff, kind="mall") == ["商场"]
    assert names(sign_in_staff(Role.STREET, division=STREET)) == ["甲校", "乙校"]
    assert names(sign_in_staff(Role.STREET, division=OTHER_STREET)) == ["商场"]
    school, other = (sign_in_staff(Role.SCHOOL_STAFF, organisation=each) for each in (ours, theirs))
    assert (names(school), names(other)) == (["甲校"], ["乙校"])
    (found,) = table(client, school, "organisations")["items"]
    figures = found["figures"]
    assert (figures["registered"], figures["participants"], figures["rate"]["raw"], figures["points"]) == (2, 1, 0.5, 4)
    page = table(client, district_staff, "organisations", limit=2)
    assert len(page["items"]) == 2
    assert names(district_staff, limit=2, cursor=page["next_cursor"]) == ["商场"]


# The public page


def released(app: Flask, session: Session, clock: time_machine.Traveller) -> None:
    """Release November, as the job does once it and its late days are over."""
    count(session)
    clock.move_to(datetime(2026, 12, 20, 12, tzinfo=SHANGHAI))
    with app.app_context():
        count_activity_due(FIRST_DAY)
        release_period(read_name("2026-11").period)


def public(client: FlaskClient, **query: Any) -> dict[str, Any]:
    answer = client.get(PUBLIC, query_string=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json)


def test_the_public_page_tells_a_release_where_small_counts_are_withheld_with_what_would_give_them_back(
    app: Flask, client: FlaskClient, session: Session, on_the_day: time_machine.Traveller
) -> None:
    few, some, many = register(session, HERE, 40), register(session, THERE, 60), register(session, "120104001005", 90)
    act(session, few[:4], TODAY, HERE)
    act(session, some[:12], TODAY, THERE)
    act(session, many[:50], TODAY, "120104001005")
    populations.load(session, [PopulationEntry("120104001005", 2020, 4000, "台账", Confidence.SECONDARY)])
    session.commit()
    assert client.get(PUBLIC).status_code == 404
    released(app, session, on_the_day)
    found = public(client)
    assert (found["release"]["name"], found["release"]["from"]) == ("2026-11.1", "2026-11-01")
    small, next_smallest, large = (place(found, code) for code in (HERE, THERE, "120104001005"))
    assert [(each["participants"], each["rate"], each["population_rates"]) for each in (small, next_smallest)] == [
        (None, None, []),
        (None, None, []),
    ]
    assert (small["registered"], large["participants"], large["rate"]) == (40, 50, round(50 / 90, 6))
    assert [each["rate"] for each in large["population_rates"]] == [0.0125]
    assert place(found, STREET)["participants"] == place(found, DISTRICT)["participants"] == 66
    assert len(found["items"]) == 171 + 12 + 1


def test_the_public_page_tells_residents_of_a_kind_of_campaign_from_ten_on_and_never_joins(
    app: Flask,
    client: FlaskClient,
    session: Session,
    make_staff: Callable[..., UUID],
    on_the_day: time_machine.Traveller,
) -> None:
    staff_id = make_staff(Role.DISTRICT, division=DISTRICT)
    big, small = (a_campaign(session, staff_id, kind=kind) for kind in ("challenge", "volunteer"))
    people = register(session, HERE, 12)
    act(session, people, TODAY)
    for number, person in enumerate(people):
        enrol(session, big.id, person)
        if number < 9:
            enrol(session, small.id, person)
    released(app, session, on_the_day)
    found = public(client, period="2026-11")
    assert {kind["kind"]: kind["participants"] for kind in found["kinds"]} == {
        "challenge": 12,
        "theme-day": 0,
        "volunteer": None,
        "tree-planting": 0,
        "clean-plate": 0,
        "green-school": 0,
        "second-hand": 0,
    }
    assert not {"joins", "check_ins", "volunteer_minutes"} & {*found["items"][0]}


# The rest


def test_answers_are_what_the_api_document_says(
    client: FlaskClient, session: Session, district_staff: Headers, make_staff: Callable[..., UUID], make_school: Any
) -> None:
    campaign = a_campaign(session, make_staff(Role.DISTRICT, division=DISTRICT), organisation_id=make_school())
    (person,) = register(session, HERE)
    enrol(session, campaign.id, person)
    act(session, [person], TODAY, saved_co2e_mg=5000)
    count(session)
    for name, view in (
        ("places", routes.PlacesView),
        ("kinds", routes.KindsView),
        ("organisations", routes.OrganisationsView),
        ("campaigns", routes.CampaignsView),
        ("creation", routes.CreationProgressView),
        ("public/creation", routes.CreationProgressView),
    ):
        found = table(client, district_staff, name)
        found.pop("rate_note", None)  # a constant, which marshmallow only writes
        assert found.get("items") != [], name
        assert view().validate(found) == {}, name


def test_the_number_of_statements_and_rows_does_not_grow_with_the_activities(
    client: FlaskClient, session: Session, district_staff: Headers
) -> None:
    def statements() -> list[str]:
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            seen.append(statement)

        sa.event.listen(session.get_bind(), "before_cursor_execute", note)
        try:
            table(client, district_staff, "places", limit=200)
        finally:
            sa.event.remove(session.get_bind(), "before_cursor_execute", note)
        return [each for each in seen if "SAVEPOINT" not in each]

    count(session)
    nothing = statements()
    for behaviour in (Behaviour.WALK, Behaviour.BUS):
        for days in range(5):
            act(session, register(session, HERE, 3), TODAY - timedelta(days=days), behaviour=behaviour)
    count(session)
    assert len(statements()) == len(nothing) <= 6
    assert not [each for each in nothing for name in ("resident_day", "community_day", "activity") if name in each]


def test_the_table_can_be_taken_as_a_file_and_says_what_the_page_says(
    app: Flask, client: FlaskClient, session: Session, district_staff: Headers, tmp_path: Path
) -> None:
    session.execute(sa.text("UPDATE division SET name = '=1+1' WHERE code = :here"), {"here": HERE})
    act(session, register(session, HERE, 4)[:1], TODAY, saved_co2e_mg=5000)
    count(session)
    entry = {"format": "csv", "grain": "month"}
    asked = client.post(f"{REPORT}/exports", json=entry, headers=district_staff)
    assert asked.status_code == 202, asked.text
    wanted = session.get_one(Export, UUID(asked.json["id"]))
    assert wanted.arguments == exported.arguments_of(PlaceQuery(Grain.MONTH, TODAY))

    (producer,) = exported.PRODUCERS
    actor = Actor(id=new_id(), role=Role.DISTRICT, session_id=new_id(), division=DISTRICT)
    with app.app_context():
        producer.authorise(session, actor, wanted.arguments)
        rows = producer.rows(session, actor, wanted.arguments)
        path = tmp_path / "table.csv"
        columns = producer.columns(session, actor, wanted.arguments)
        written = writing.write(columns, rows, path, format=ExportFormat.CSV, made_at=now())
    assert written.rows == 184
    with path.open(encoding="utf-8-sig", newline="") as file:
        read = {row["代码"]: row for row in csv.DictReader(file)}
    assert (read[HERE]["注册人数"], read[HERE]["参与人数"], read[HERE]["参与率"]) == ("4", "1", "0.25")
    assert read[HERE]["名称"] != "=1+1", "a formula would run on the reader's machine"
    assert read[HERE]["减排量(克, 按方法学)"] == f"{METHOD} 5"
    assert "917106人" in read[DISTRICT]["人口参与率(注明口径)"]


def test_an_export_is_authorised_like_the_page(
    app: Flask, session: Session, client: FlaskClient, sign_in_staff: SignIn
) -> None:
    street = sign_in_staff(Role.STREET, division=STREET)
    for entry, status in (
        ({"format": "xlsx", "grain": "week", "within": OTHER_STREET}, 404),
        ({"format": "xlsx", "grain": "week", "kind": "challenge"}, 422),
        ({"format": "pdf", "grain": "week"}, 422),
        ({"format": "xlsx", "grain": "week", "within": HERE}, 202),
    ):
        assert client.post(f"{REPORT}/exports", json=entry, headers=street).status_code == status, entry
    (producer,) = exported.PRODUCERS
    arguments = exported.arguments_of(PlaceQuery(Grain.WEEK, TODAY, within=FAR))
    with app.app_context():
        moved = Actor(id=new_id(), role=Role.STREET, session_id=new_id(), division=STREET)
        with pytest.raises(NotFound):
            producer.authorise(session, moved, arguments)
        demoted = Actor(id=new_id(), role=Role.ASSESSOR, session_id=new_id(), division=DISTRICT)
        with pytest.raises(Forbidden):
            producer.authorise(session, demoted, arguments)
