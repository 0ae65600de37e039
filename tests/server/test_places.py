"""Places: editions of the official codes, look-ups, organisations in scope, theme days, and their addresses."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

import server
from server import clock
from server.access import Actor, Role
from server.audit import AuditEntry
from server.database import new_id
from server.errors import NotFound
from server.paging import encode
from server.people import sessions
from server.people.models import Staff
from server.places import divisions, organisations, theme_days
from server.places.district_data import DistrictData, DistrictDataError, DivisionEntry, read_district
from server.places.divisions import CommunityUnknown
from server.places.models import Division, DivisionLevel, OrganisationKind
from server.places.organisations import OrganisationExists
from server.settings import PLACES_DATA

NANKAI = PLACES_DATA / "nankai"
EDITION = date(2023, 6, 30)
NOON = datetime(2026, 11, 22, 4, 0, tzinfo=UTC)  # 12:00 in Shanghai
TODAY = date(2026, 11, 22)
DISTRICT = "120104"
STREET = "120104001"
COMMUNITY = "120104001001"
OTHER_STREET = "120104002"


def staff_of(division: str | None, role: Role = Role.STREET, organisation_id: Any = None) -> Actor:
    return Actor(id=new_id(), role=role, session_id=new_id(), division=division, organisation_id=organisation_id)


@contextmanager
def refused(session: Session) -> Iterator[None]:
    """The statement inside must be refused by the database."""
    with pytest.raises(DBAPIError), session.begin_nested():
        yield


def edition(on: date, *, without: str = "", renamed: dict[str, str] | None = None) -> DistrictData:
    """The packaged district as a later edition might list it."""
    data = read_district(NANKAI)
    kept = tuple(
        replace(entry, name=(renamed or {}).get(entry.code, entry.name))
        for entry in data.divisions
        if entry.code != without
    )
    return replace(data, edition_on=on, divisions=kept)


# Editions


def test_the_packaged_district_has_12_streets_and_171_communities(session: Session) -> None:
    counts = session.execute(
        sa.select(Division.level, sa.func.count()).where(Division.code.startswith(DISTRICT)).group_by(Division.level)
    )
    assert {level.value: count for level, count in counts} == {"district": 1, "street": 12, "community": 171}


def test_loading_an_edition_a_second_time_changes_nothing(session: Session) -> None:
    done = divisions.load(session, read_district(NANKAI))
    assert (done.divisions_added, done.divisions_renamed, done.divisions_closed) == (0, 0, 0)
    assert (done.divisions_unchanged, done.theme_days_written) == (184, 0)


def test_a_community_missing_from_a_newer_edition_ends_and_stays(session: Session) -> None:
    newer = date(2024, 6, 30)
    done = divisions.load(session, edition(newer, without=COMMUNITY))
    assert (done.divisions_added, done.divisions_closed, done.divisions_unchanged) == (0, 1, 183)
    assert divisions.division_for(session, COMMUNITY).valid_to == newer - timedelta(days=1)
    assert divisions.community_for(session, COMMUNITY, newer - timedelta(days=1)).code == COMMUNITY
    with pytest.raises(CommunityUnknown):
        divisions.community_for(session, COMMUNITY, newer)
    assert divisions.load(session, edition(newer, without=COMMUNITY)).divisions_closed == 0


def test_a_community_that_comes_back_is_opened_again_and_a_new_name_is_taken(session: Session) -> None:
    divisions.load(session, edition(date(2024, 6, 30), without=COMMUNITY))
    done = divisions.load(session, edition(date(2025, 6, 30), renamed={STREET: "新长虹街道"}))
    assert done.divisions_renamed == 2
    assert divisions.community_for(session, COMMUNITY, date(2025, 6, 30)).valid_to is None
    assert divisions.division_for(session, STREET).name == "新长虹街道"


def test_a_corrected_edition_of_the_same_day_may_drop_a_community(session: Session) -> None:
    divisions.load(session, edition(EDITION, without=COMMUNITY))
    with pytest.raises(CommunityUnknown):
        divisions.community_for(session, COMMUNITY, EDITION)


def test_an_older_edition_than_the_stored_one_is_refused(session: Session) -> None:
    divisions.load(session, edition(date(2024, 6, 30)))
    with pytest.raises(DistrictDataError, match="older"):
        divisions.load(session, edition(EDITION))


def test_another_district_is_a_folder_and_leaves_the_first_alone(session: Session, tmp_path: Path) -> None:
    before = session.scalar(sa.select(sa.func.count()).select_from(Division))
    (tmp_path / "district.toml").write_text('code = "999901"\nname = "试验区"\nedition_on = 2025-01-01\n')
    header = "community_code,community_name,street_code,street_name,district_code,district_name"
    (tmp_path / "communities.csv").write_text(f"{header}\n999901001001,一社区,999901001,一街道,999901,试验区\n")
    (tmp_path / "theme_days.csv").write_text("code,year,starts_on,ends_on,name_zh,name_en,theme,source,confidence\n")
    done = divisions.load(session, read_district(tmp_path))
    assert (done.divisions_added, done.divisions_closed) == (3, 0)
    assert session.scalar(sa.select(sa.func.count()).select_from(Division)) == (before or 0) + 3


def test_no_code_names_the_district() -> None:
    folder = Path(server.__file__).parent / "places"
    for path in folder.glob("*.py"):
        assert not re.search("nankai|1201|南开", path.read_text(encoding="utf-8"), re.IGNORECASE), path.name


def faulty(folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of the packaged folder with the first occurrence of one text replaced."""
    for path in filter(Path.is_file, NANKAI.iterdir()):
        text = path.read_text(encoding="utf-8")
        if path.name == file:
            assert old in text
            text = text.replace(old, new, 1)
        (folder / path.name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("district.toml", '"120104"', '"1201"', "six digits"),
        ("district.toml", "2023-06-30", '"2023-06-30"', "must be a date"),
        ("district.toml", 'code = "', "code = ", "district.toml"),
        ("communities.csv", "120104001003,", "120104001001,", "line 3: .*twice"),
        ("communities.csv", "120104001001,", "120104002001,", "line 2: .*no community of street"),
        ("communities.csv", "120104001001,", "12010400100１,", "line 2"),
        ("communities.csv", ",长虹街道,", ",别的街道,", "two names"),
        ("communities.csv", ",120104,南开区", ",120103,河西区", "line 2: lies outside"),
        ("communities.csv", "光明路社区居委会", "光" * 61, "line 2: a name"),
        ("communities.csv", "光明路社区居委会", "", "line 2: a name"),
        ("communities.csv", "光明路社区居委会,", "", "line 2: not 6 columns"),
        ("communities.csv", "community_code", "code", "columns"),
        ("theme_days.csv", ",2026,2026-03-12", ",2026,2026-02-30", "line 4"),
        ("theme_days.csv", ",2026,2026-03-12", ",2025,2026-03-12", "outside its year"),
        ("theme_days.csv", ",V\n", ",certain\n", "certain"),
    ],
)
def test_a_faulty_folder_is_refused_with_file_and_line(
    tmp_path: Path, file: str, old: str, new: str, fault: str
) -> None:
    with pytest.raises(DistrictDataError, match=f"{file}.*{fault}|{fault}"):
        read_district(faulty(tmp_path, file, old, new))


def test_a_list_without_communities_is_refused_for_it_would_end_them_all(tmp_path: Path) -> None:
    folder = faulty(tmp_path, "district.toml", "2023", "2024")
    head = (NANKAI / "communities.csv").read_text(encoding="utf-8").splitlines()[0]
    (folder / "communities.csv").write_text(head + "\n", encoding="utf-8")
    with pytest.raises(DistrictDataError, match="lists no community"):
        read_district(folder)


# Look-ups


@pytest.mark.parametrize(
    "code", ["120104999999", "120104001", "120104", "", "abc", "12010400100１", "120104001001\n", "\0" * 12]
)
def test_what_is_no_community_is_unknown(session: Session, code: str) -> None:
    with pytest.raises(CommunityUnknown):
        divisions.community_for(session, code, TODAY)


def test_a_community_is_known_from_its_first_day_on(session: Session) -> None:
    assert divisions.community_for(session, COMMUNITY, EDITION).name == "光明路社区居委会"
    with pytest.raises(CommunityUnknown):
        divisions.community_for(session, COMMUNITY, EDITION - timedelta(days=1))


def test_pages_of_divisions_join_to_the_whole_list(session: Session) -> None:
    found: list[str] = []
    cursor = None
    for _ in range(100):
        page = divisions.list_divisions(session, on=TODAY, parent=STREET, limit=4, cursor=cursor)
        found += [row.code for row in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    expected = session.scalars(sa.select(Division.code).where(Division.parent_code == STREET).order_by(Division.code))
    assert found == list(expected)
    assert len(found) > 8


def test_divisions_are_found_by_a_part_of_their_name_taken_literally(session: Session) -> None:
    def names(name: str) -> list[str]:
        page = divisions.list_divisions(session, on=TODAY, name=name, limit=200, cursor=None)
        return [row.name for row in page.items]

    assert names("光明路") == ["光明路社区居委会"]
    assert names("%") == names("_") == names("没有这个名字") == []


# Organisations


def test_staff_of_a_street_add_an_organisation_there_and_it_is_audited(session: Session) -> None:
    actor = staff_of(STREET)
    added = organisations.create(
        session, actor, kind=OrganisationKind.SCHOOL, name=" 试验小学 ", community_code=COMMUNITY, now=NOON
    )
    assert (added.name, added.valid_from) == ("试验小学", TODAY)
    entry = session.scalar(sa.select(AuditEntry).where(AuditEntry.subject == str(added.id)))
    assert entry is not None
    assert (entry.staff_id, entry.act) == (actor.id, "organisation.create")
    assert organisations.organisation_for(session, actor, added.id).id == added.id
    page = organisations.list_organisations(
        session, on=TODAY, community=COMMUNITY, kind=OrganisationKind.SCHOOL, limit=10, cursor=None
    )
    assert added.id in {row.id for row in page.items}


def test_outside_the_scope_there_is_nothing_to_add_to_and_nothing_to_read(session: Session) -> None:
    added = organisations.create(
        session, staff_of(DISTRICT), kind=OrganisationKind.MALL, name="试验商场", community_code=COMMUNITY, now=NOON
    )
    school = staff_of(None, Role.SCHOOL_STAFF, organisation_id=new_id())
    for stranger in (staff_of(OTHER_STREET), school, staff_of(None, Role.RESIDENT)):
        with pytest.raises(NotFound):
            organisations.create(
                session, stranger, kind=OrganisationKind.MALL, name="另一商场", community_code=COMMUNITY, now=NOON
            )
        with pytest.raises(NotFound):
            organisations.organisation_for(session, stranger, added.id)
    own = staff_of(None, Role.SCHOOL_STAFF, organisation_id=added.id)
    assert organisations.organisation_for(session, own, added.id).id == added.id
    with pytest.raises(NotFound):
        organisations.organisation_for(session, own, new_id())


def test_one_community_has_no_two_organisations_of_one_name(session: Session) -> None:
    def add(name: str, community_code: str) -> None:
        organisations.create(
            session,
            staff_of(DISTRICT),
            kind=OrganisationKind.AGENCY,
            name=name,
            community_code=community_code,
            now=NOON,
        )

    add("试验机关", COMMUNITY)
    add("试验机关", "120104001003")
    with pytest.raises(OrganisationExists):
        add("试验机关 ", COMMUNITY)


def test_an_organisation_lies_in_a_community_and_in_nothing_larger(session: Session) -> None:
    for code in (STREET, DISTRICT, "120104001999"):
        with pytest.raises(CommunityUnknown):
            organisations.create(
                session, staff_of(DISTRICT), kind=OrganisationKind.SCHOOL, name="某校", community_code=code, now=NOON
            )


# Theme days


def test_fixed_theme_days_are_there_and_announced_ones_only_where_announced(session: Session) -> None:
    def codes(year: int) -> list[str]:
        return [day.code for day in theme_days.list_theme_days(session, year=year, limit=50, cursor=None).items]

    fixed = ["arbor-day", "earth-day", "environment-day", "ecology-day", "green-travel-month", "car-free-day"]
    assert codes(2026) == codes(2027) == fixed
    assert codes(2025) == ["energy-saving-week", "low-carbon-day"]
    assert codes(2024) == []


def test_an_unchecked_theme_day_carries_its_mark(session: Session) -> None:
    days = theme_days.list_theme_days(session, year=2026, limit=50, cursor=None).items
    assert {day.code for day in days if day.confidence.value == "R"} == {"earth-day", "ecology-day"}
    assert all(day.source for day in days)


def test_pages_of_theme_days_join_to_the_whole_year(session: Session) -> None:
    first = theme_days.list_theme_days(session, year=2026, limit=4, cursor=None)
    second = theme_days.list_theme_days(session, year=2026, limit=4, cursor=first.next_cursor)
    assert len({day.code for day in [*first.items, *second.items]}) == 6
    assert second.next_cursor is None


# The database's own guards


@pytest.mark.parametrize(
    "values",
    [
        "'12010', 'district', '短', NULL, '2023-01-01', NULL",
        "'12010x', 'district', '字母', NULL, '2023-01-01', NULL",
        "'120104013', 'community', '级别不符', '120104', '2023-01-01', NULL",
        "'120104013', 'street', '无上级', NULL, '2023-01-01', NULL",
        "'120104001999', 'community', '上级不符', '120104002', '2023-01-01', NULL",
        "'120199001', 'street', '上级不存在', '120199', '2023-01-01', NULL",
        "'120105', 'district', '', NULL, '2023-01-01', NULL",
        "'120105', 'district', '止于始前', NULL, '2023-01-03', '2023-01-01'",
        "'120105', 'city', '未知级别', NULL, '2023-01-01', NULL",
    ],
)
def test_a_bad_division_is_refused_by_the_database(session: Session, values: str) -> None:
    insert = "INSERT INTO division (code, level, name, parent_code, valid_from, valid_to, edition_on) VALUES "
    with pytest.raises(IntegrityError), session.begin_nested():
        session.execute(sa.text(f"{insert} ({values}, '2023-01-01')"))
    good = "'120104013', 'street', '第十三街道', '120104', '2023-01-01', NULL"
    session.execute(sa.text(f"{insert} ({good}, '2023-01-01')"))


@pytest.mark.parametrize("statement", ["DELETE FROM division WHERE code = '120104001001'", "TRUNCATE division CASCADE"])
def test_a_division_is_never_deleted(session: Session, statement: str) -> None:
    with refused(session):
        session.execute(sa.text(statement))


@pytest.mark.parametrize(
    "values",
    [
        "'school', '某校', '120104001'",
        "'school', '某校', '120104001999'",
        "'school', '  ', '120104001001'",
        "'factory', '某厂', '120104001001'",
    ],
)
def test_a_bad_organisation_is_refused_by_the_database(session: Session, values: str) -> None:
    columns = "INSERT INTO organisation (id, valid_from, kind, name, community_code)"
    insert = f"{columns} VALUES (gen_random_uuid(), '2026-01-01',"
    with pytest.raises(IntegrityError), session.begin_nested():
        session.execute(sa.text(f"{insert} {values})"))
    session.execute(sa.text(f"{insert} 'school', '某校', '120104001001')"))


@pytest.mark.parametrize(
    "values",
    [
        "'trial', 2026, '2025-12-31', '2026-01-01', '来源', 'V'",
        "'trial', 2026, '2026-01-02', '2026-01-01', '来源', 'V'",
        "'Trial', 2026, '2026-01-01', '2026-01-01', '来源', 'V'",
        "'trial', 2026, '2026-01-01', '2026-01-01', '', 'V'",
        "'trial', 2026, '2026-01-01', '2026-01-01', '来源', 'X'",
    ],
)
def test_a_bad_theme_day_is_refused_by_the_database(session: Session, values: str) -> None:
    columns = "INSERT INTO theme_day (name_zh, name_en, code, year, starts_on, ends_on, source, confidence)"
    insert = f"{columns} VALUES ('日', 'Day',"
    with pytest.raises(IntegrityError), session.begin_nested():
        session.execute(sa.text(f"{insert} {values})"))
    session.execute(sa.text(f"{insert} 'trial', 2026, '2026-01-01', '2026-01-01', '来源', 'V')"))


# Over HTTP


def signed_in(app: Flask, session: Session, division: str, role: Role = Role.STREET) -> dict[str, str]:
    """The headers of a new member of staff."""
    row = Staff(
        id=new_id(),
        name=f"trial-{new_id()}"[:40],
        password_hash="-",
        role=role,
        division=division,
        created_at=clock.now(),
    )
    session.add(row)
    session.flush()
    with app.app_context():
        tokens = sessions.begin(session, row.id, is_resident=False, now=clock.now())
    session.commit()
    return {"Authorization": f"Bearer {tokens.access_token}"}


def test_anyone_may_list_divisions_page_by_page(client: FlaskClient) -> None:
    first = client.get("/api/v1/places/divisions?level=street&limit=10").get_json()
    assert [row["code"] for row in first["items"]] == [f"120104{n:03}" for n in range(1, 11)]
    second = client.get(f"/api/v1/places/divisions?level=street&limit=10&cursor={first['next_cursor']}").get_json()
    assert ([row["code"] for row in second["items"]], second["next_cursor"]) == (["120104011", "120104012"], None)


def test_anyone_may_read_one_division(client: FlaskClient) -> None:
    answer = client.get(f"/api/v1/places/divisions/{COMMUNITY}")
    assert answer.get_json() == {
        "code": COMMUNITY,
        "level": "community",
        "name": "光明路社区居委会",
        "parent_code": STREET,
        "valid_from": "2023-06-30",
        "valid_to": None,
    }


@pytest.mark.parametrize("code", ["120104999999", "abc", "12010400100%EF%BC%91", "%00", "0" * 200])
def test_an_unknown_division_is_not_found(client: FlaskClient, code: str) -> None:
    answer = client.get(f"/api/v1/places/divisions/{code}")
    assert (answer.status_code, answer.get_json()["code"]) == (404, "not-found")


@pytest.mark.parametrize(
    "query",
    [
        "divisions?level=galaxy",
        "divisions?parent=abc",
        "divisions?parent=1",
        "divisions?limit=0",
        "divisions?limit=201",
        "divisions?name=",
        "divisions?name=%00",
        f"divisions?name={'a' * 31}",
        "divisions?unknown=1",
        "divisions?cursor=***",
        "divisions?cursor=" + encode(["\0"]),
        f"divisions?cursor={encode([1])}",
        f"organisations?cursor={encode(['x'])}",
        "organisations?community=120104",
        "organisations?kind=factory",
        "theme-days",
        "theme-days?year=1999",
        "theme-days?year=x",
        "theme-days?year=2026&cursor=" + encode(["2026-01-01", "\0"]),
        f"theme-days?year=2026&cursor={encode([])}",
    ],
)
def test_a_query_outside_the_schema_is_refused(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/api/v1/places/{query}")
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")


def test_theme_days_show_their_source_and_mark(client: FlaskClient) -> None:
    answer = client.get("/api/v1/places/theme-days?year=2025").get_json()
    assert answer["items"][0] == {
        "code": "energy-saving-week",
        "year": 2025,
        "starts_on": "2025-06-23",
        "ends_on": "2025-06-29",
        "name_zh": "全国节能宣传周",
        "name_en": "National Energy-Saving Publicity Week",
        "theme": None,
        "source": "2025年已公布的日期",
        "confidence": "V",
    }


def test_staff_in_scope_add_an_organisation_that_everyone_can_list(
    app: Flask, client: FlaskClient, session: Session
) -> None:
    headers = signed_in(app, session, STREET)
    entry = {"kind": "school", "name": "试验中学", "community_code": COMMUNITY}
    answer = client.post("/api/v1/places/organisations", json=entry, headers=headers)
    assert answer.status_code == 201
    assert answer.get_json().items() >= entry.items()
    again = client.post("/api/v1/places/organisations", json=entry, headers=headers)
    assert (again.status_code, again.get_json()["code"]) == (409, "organisation-exists")
    listed = client.get(f"/api/v1/places/organisations?community={COMMUNITY}&kind=school").get_json()["items"]
    assert answer.get_json() in listed


@pytest.mark.parametrize(
    ("division", "role", "status", "code"),
    [
        (OTHER_STREET, Role.STREET, 404, "not-found"),
        (COMMUNITY, Role.COMMUNITY_STAFF, 403, "forbidden"),
        (DISTRICT, Role.DISTRICT, 201, None),
    ],
)
def test_scope_and_role_decide_who_adds_an_organisation(
    app: Flask, client: FlaskClient, session: Session, division: str, role: Role, status: int, code: str | None
) -> None:
    headers = signed_in(app, session, division, role)
    entry = {"kind": "agency", "name": "试验单位", "community_code": COMMUNITY}
    answer = client.post("/api/v1/places/organisations", json=entry, headers=headers)
    assert (answer.status_code, answer.get_json().get("code")) == (status, code)


def test_without_a_token_no_organisation_is_added(client: FlaskClient) -> None:
    entry = {"kind": "school", "name": "试验中学", "community_code": COMMUNITY}
    assert client.post("/api/v1/places/organisations", json=entry).status_code == 401


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "   "},
        {"name": "a\0b"},
        {"name": "a\ud800"},
        {"name": "字" * 61},
        {"name": None},
        {"kind": "factory"},
        {"community_code": "120104001"},
        {"community_code": "120104001999"},
        {"community_code": 120104001001},
        {"unknown": 1},
    ],
)
def test_a_bad_organisation_is_refused(
    app: Flask, client: FlaskClient, session: Session, change: dict[str, Any]
) -> None:
    headers = signed_in(app, session, DISTRICT, Role.DISTRICT)
    entry = {"kind": "school", "name": "试验中学", "community_code": COMMUNITY} | change
    body = json.dumps(entry)  # in ASCII, as half a character can only be sent escaped
    answer = client.post("/api/v1/places/organisations", data=body, content_type="application/json", headers=headers)
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")


def test_the_load_command_says_what_it_did_and_does_nothing_twice(app: Flask, session: Session) -> None:
    answer = app.test_cli_runner().invoke(args=["places", "load"])
    assert answer.exit_code == 0, answer.output
    assert "0 divisions added" in answer.stderr
    assert answer.stdout == ""


def test_level_names_are_those_of_the_codes() -> None:
    lengths = {DivisionLevel.DISTRICT: 6, DivisionLevel.STREET: 9, DivisionLevel.COMMUNITY: 12}
    data = read_district(NANKAI)
    assert all(isinstance(entry, DivisionEntry) and len(entry.code) == lengths[entry.level] for entry in data.divisions)


def test_a_malls_floor_area_and_an_agencys_rank_are_kept_and_nobody_elses(
    client: FlaskClient, sign_in_staff: Callable[..., dict[str, str]]
) -> None:
    staff = sign_in_staff(Role.STREET, division="120104001")
    entry = {"name": "某商场", "kind": "mall", "community_code": "120104001001", "floor_area_m2": 120_000}
    made = client.post("/api/v1/places/organisations", json=entry, headers=staff)
    assert (made.status_code, made.json["floor_area_m2"], made.headers["ETag"]) == (201, 120_000, '"1"')
    path = f"/api/v1/places/organisations/{made.json['id']}"
    assert client.patch(path, json={"floor_area_m2": 90_000}, headers=staff).status_code == 428
    tagged = {**staff, "If-Match": '"1"'}
    assert client.patch(path, json={"floor_area_m2": 90_000}, headers=tagged).json["floor_area_m2"] == 90_000
    assert client.patch(path, json={"floor_area_m2": 80_000}, headers=tagged).status_code == 412
    ranked = client.patch(path, json={"agency_rank": "county"}, headers={**staff, "If-Match": '"2"'})
    assert (ranked.status_code, ranked.json["code"]) == (422, "organisation-size-unfit")
    stranger = {**sign_in_staff(Role.STREET, division="120104002"), "If-Match": '"2"'}
    assert client.patch(path, json={"floor_area_m2": 1}, headers=stranger).status_code == 404
    school = {**entry, "name": "某学校", "kind": "school"}
    assert (
        client.post("/api/v1/places/organisations", json=school, headers=staff).json["code"]
        == "organisation-size-unfit"
    )
    agency = {"name": "某局", "kind": "agency", "community_code": "120104001001", "agency_rank": "bureau"}
    assert client.post("/api/v1/places/organisations", json=agency, headers=staff).json["agency_rank"] == "bureau"


@pytest.mark.parametrize(
    "sizes",
    ["'school', 5, NULL", "'agency', 5, NULL", "'mall', 0, NULL", "'mall', NULL, 'county'", "'agency', NULL, 'x'"],
)
def test_the_database_refuses_a_size_that_does_not_suit_the_kind(session: Session, sizes: str) -> None:
    with pytest.raises(IntegrityError, match=r"organisation_(floor_area_m2|agency_rank)"):
        session.execute(
            sa.text(
                "INSERT INTO organisation (kind, floor_area_m2, agency_rank, id, name, community_code, valid_from) "
                f"VALUES ({sizes}, gen_random_uuid(), '某单位', '120104001001', '2026-01-01')"
            )
        )
