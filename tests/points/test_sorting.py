"""Sorting sites, drops on every path, and the hidden spot-checks."""

import math
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from points_builders import Feed, drop_line, outcomes, owner, transferred, weighing_line, wrong
from sorting_builders import (
    COMMUNITY,
    NEXT_DOOR,
    TUESDAY,
    bags,
    code_of,
    decisions,
    declare_none,
    drawn_now,
    person,
    site,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from points.earning import holds
from points.earning.claims import Reason
from points.earning.models import Activity, Grade, Outcome, SubjectKind
from points.review import appeals, editions
from points.review.decisions import decide as decide_case
from points.review.models import CaseKind, Verdict
from points.waste.drops import accuracy, dropping, jobs, plans, spot_checks
from points.waste.drops.accuracy import Stratum
from points.waste.drops.dropping import Bag
from points.waste.drops.models import CheckState, DropPath, Finding, SortingDrop, SpotCheck
from points.waste.drops.plans import SortingPlanError
from points.waste.sites import importing, opening
from points.waste.sites.importing import SiteDataError
from points.waste.sites.models import Category, SiteForm
from points.waste.sites.opening import Plan
from server.access import Role
from server.clock import SHANGHAI, now
from server.database import new_id, psycopg_url
from server.errors import DomainError, NotFound
from server.people.code_uses import CodeUsed
from server.people.models import CodePurpose, Household, HouseholdMember, Resident, Scanner, Staff, StaffLink
from server.people.resident_codes import CodeKind, UsedCode
from server.people.scan_kinds import AcceptedScan
from server.places.positions import Datum, Position, distance_m
from server.settings import PLACES_DATA

Headers = dict[str, str]
DROPS, OWN_DROPS, CHECKS = "/api/v1/sorting/drops", "/api/v1/me/sorting/drops", "/api/v1/sorting/spot-checks"
QUALIFIED = Bag(Category.KITCHEN, Finding.QUALIFIED)


@pytest.fixture(autouse=True)
def tuesday(clock: time_machine.Traveller) -> Iterator[time_machine.Traveller]:
    """Time stands still at noon of a Tuesday under the second edition of the rules."""
    clock.move_to(TUESDAY)
    opening.forget()
    yield clock
    opening.forget()


@pytest.fixture
def checker(make_staff: Callable[..., UUID], session: Session) -> UUID:
    made = make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    declare_none(session, made)
    return made


def at(text: str, year: int = 2026) -> datetime:
    """An instant in Shanghai, written as "11-24 08:30"."""
    return datetime.strptime(f"{year}-{text}", "%Y-%m-%d %H:%M").replace(tzinfo=SHANGHAI)


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json["code"]


# Opening hours


@pytest.mark.parametrize(
    ("instant", "category", "reason"),
    [
        (at("11-24 06:29"), "kitchen", Reason.OUTSIDE_HOURS),
        (at("11-24 06:30"), "kitchen", None),
        (at("11-24 08:59"), None, None),
        (at("11-24 09:00"), "kitchen", Reason.OUTSIDE_HOURS),
        (at("11-24 07:00"), "hazardous", Reason.CATEGORY_NOT_TAKEN),
        (at("11-28 07:00"), "kitchen", Reason.OUTSIDE_HOURS),  # a Saturday
        (at("11-28 08:00"), "kitchen", None),
        (at("12-20 07:00"), "kitchen", Reason.OUTSIDE_HOURS),  # the winter's hours, over New Year
        (at("12-20 10:00"), "kitchen", None),
        (at("01-31 10:00", 2027), "kitchen", None),
        (at("02-17 10:00", 2027), "kitchen", Reason.OUTSIDE_HOURS),  # a holiday
        (at("03-31 07:30", 2027), "kitchen", Reason.OUTSIDE_HOURS),  # by the hours of later on
        (at("03-31 09:30", 2027), "kitchen", None),
        (at("06-01 10:00", 2027), "kitchen", Reason.SITE_CLOSED),
        (at("12-31 23:00", 2025), "kitchen", Reason.SITE_CLOSED),
    ],
)
def test_a_site_takes_what_it_takes_while_it_is_open(
    session: Session, instant: datetime, category: str | None, reason: Reason | None
) -> None:
    made = site(
        session,
        hours="12-15..01-31 daily 09:30-11:00; mon-fri 06:30-09:00 17:30-20:30; sat,sun 07:30-10:00",
        categories=["kitchen", "residual"],
        valid_to=date(2027, 5, 31),
    )
    known = opening.of(made)
    [first] = known.plans
    holiday = opening.Closure(date(2027, 2, 16), date(2027, 2, 18), (), "春节")
    later = importing.plan_of("daily 09:00-10:00", date(2027, 3, 1))
    known = replace(known, plans=(later, Plan(first.valid_from, first.seasons, (holiday,))))

    assert opening.is_open(known, category, instant) is reason


@pytest.mark.parametrize(
    "line",
    [
        "",
        "daily",
        "daily 9:00-10:00",
        "daily 10:00-09:00",
        "daily 23:00-24:30",
        "daily 06:00-09:00 08:00-10:00",
        "sun-mon 06:00-07:00",
        "13-01..14-01 daily 06:00-07:00",
        "mon 06:00-07:00; mon 06:30-08:00",
        "daily ０6:00-07:00",
    ],
)
def test_hours_that_make_no_sense_are_not_taken(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        importing.plan_of(line, date(2026, 1, 1))


def test_hours_are_stored_as_they_are_read() -> None:
    plan = importing.plan_of("02-29..04-30 daily 06:00-07:00; mon,wed-fri 00:00-24:00", date(2026, 1, 1))
    assert opening.plan_of(opening.entry_of(plan)) == plan


def test_a_position_of_a_browser_lies_elsewhere_on_a_chinese_map() -> None:
    # A published example of the transformation: the Tiananmen flag-pole, some 550 m apart in the two systems.
    in_china = Position(39.90556, 116.39123, Datum.WGS_84)
    shown = in_china.in_gcj_02()
    assert (round(shown.latitude, 4), round(shown.longitude, 4)) == (39.9070, 116.3975)
    assert distance_m(in_china, shown) == 0
    assert 500 < distance_m(in_china, Position(39.90556, 116.39123, Datum.GCJ_02)) < 600
    assert Position(48.0, 2.0, Datum.WGS_84).in_gcj_02() == Position(48.0, 2.0, Datum.GCJ_02)


# Sites over HTTP and from files


def week(*times: str) -> dict[str, Any]:
    days = {day: list(times) for day in opening.WEEKDAYS}
    return {"valid_from": "2026-11-24", "seasons": [{"from": "01-01", "to": "12-31", "days": days}]}


def site_body(**changes: Any) -> dict[str, Any]:
    known = {
        "code": "nk-new-01",
        "kind": "sorting-site",
        "form": "smart-bins",
        "name": "新箱",
        "address": "某路2号",
        "community_code": COMMUNITY,
        "latitude": 39.1,
        "longitude": 117.1,
        "datum": "gcj-02",
        "categories": ["kitchen"],
        "hours": week("06:00-09:00"),
        "devices": ["bins-a:one"],
        "valid_from": "2026-11-01",
    }
    return {key: value for key, value in {**known, **changes}.items() if value is not None}


def test_staff_keep_the_sites_of_their_scope_and_hours_begin_today(
    client: FlaskClient, session: Session, sign_in_staff: Callable[..., Headers]
) -> None:
    street = sign_in_staff(Role.STREET, division="120104001")
    elsewhere = sign_in_staff(Role.STREET, division="120104002")
    made = client.post("/api/v1/sites", json=site_body(), headers=street)
    assert made.status_code == 201, made.text
    assert (made.json["devices"], made.json["demonstration"]) == (["bins-a:one"], False)
    address = "/api/v1/sites/nk-new-01"

    def patch(etag: str, headers: Headers = street, **changes: Any) -> Any:
        return client.patch(address, json=changes, headers={**headers, "If-Match": etag})

    assert problem(client.post("/api/v1/sites", json=site_body(), headers=street)) == (409, "site-exists")
    assert problem(client.post("/api/v1/sites", json=site_body(code="nk-new-02"), headers=street)) == (
        409,
        "site-device-taken",
    )
    assert client.post("/api/v1/sites", json=site_body(code="nk-x-1"), headers=elsewhere).status_code == 404
    unknown_partner = site_body(code="nk-new-03", devices=[], partner_code="nobody", partner_site="x")
    assert problem(client.post("/api/v1/sites", json=unknown_partner, headers=street)) == (422, "site-partner-unknown")
    assert [client.get(address, headers=each).status_code for each in (street, elsewhere)] == [200, 404]
    assert problem(patch('"1"', hours={**week("07:00-08:00"), "valid_from": "2026-11-23"})) == (
        422,
        "site-hours-refused",
    )
    assert problem(patch('"1"', valid_to="2026-10-31")) == (422, "site-days-refused")
    assert patch('"1"', elsewhere, name="别人的").status_code == 404
    planned = patch('"1"', hours={**week("07:00-08:00"), "valid_from": "2026-12-01"}, name="改名")
    assert (planned.status_code, planned.headers["ETag"]) == (200, '"2"')
    assert [plan["valid_from"] for plan in planned.json["hours"]] == ["2026-11-24", "2026-12-01"]
    assert patch('"1"', name="旧版本").status_code == 412
    closed = {**week("06:00-09:00"), "exceptions": [{"from": "2026-11-24", "to": "2026-11-24"}]}
    replaced = patch('"2"', hours=closed).json
    assert [(plan["valid_from"], len(plan["exceptions"])) for plan in replaced["hours"]] == [
        ("2026-11-24", 1),
        ("2026-12-01", 0),
    ]
    moved = patch('"3"', devices=["bins-a:two"])
    assert (moved.json["name"], moved.json["devices"]) == ("改名", ["bins-a:two"])
    listed = client.get("/api/v1/sites?kind=sorting-site", headers=street).json["items"]
    assert [each["code"] for each in listed] == ["nk-new-01"]
    assert client.get("/api/v1/sites", headers=elsewhere).json["items"] == []


def test_more_hours_than_are_kept_are_refused_in_words(
    client: FlaskClient, sign_in_staff: Callable[..., Headers]
) -> None:
    street = sign_in_staff(Role.STREET, division="120104001")
    assert client.post("/api/v1/sites", json=site_body(), headers=street).status_code == 201
    holidays = [{"from": f"{year}-02-16", "to": f"{year}-02-18", "note": "春" * 60} for year in range(2027, 2087)]
    for version, day in enumerate(("2026-11-25", "2026-11-26", "2026-11-27"), 1):
        answer = client.patch(
            "/api/v1/sites/nk-new-01",
            json={"hours": {**week("06:00-09:00"), "valid_from": day, "exceptions": holidays}},
            headers={**street, "If-Match": f'"{version}"'},
        )
        if answer.status_code != 200:
            break
    assert problem(answer) == (422, "site-hours-refused")


@pytest.mark.parametrize(
    "changes",
    [
        {"code": "near"},
        {"form": "station"},
        {"partner_site": "x"},
        {"datum": None},
        {"hours": week("09:00-08:00")},
        {"hours": week("25:00-26:00")},
        {"valid_to": "2026-10-01"},
        {"categories": ["kitchen", "paper"]},
        {"devices": ["no colon"]},
    ],
)
def test_a_site_that_makes_no_sense_is_not_taken(
    client: FlaskClient, sign_in_staff: Callable[..., Headers], changes: dict[str, Any]
) -> None:
    headers = sign_in_staff(Role.DISTRICT, division="120104")
    assert client.post("/api/v1/sites", json=site_body(**changes), headers=headers).status_code == 422


def test_a_file_of_sites_is_imported_once_and_its_changes_later(
    session: Session, tmp_path: Path, feed: Feed, tuesday: time_machine.Traveller
) -> None:
    tuesday.move_to(TUESDAY)
    head = ",".join(importing.COLUMNS)
    row = (
        "nk-csv-1,sorting-site,smart-bins,一号箱,某路1号,120104001001,39.1,117.1,gcj-02,kitchen recyclable,"
        "{hours},bus-group,bin-7,bus-group:d-1 bus-group:d-2,2026-01-01,"
    )
    path = tmp_path / "sites.csv"

    def load(text: str) -> dict[str, int]:
        path.write_text(f"{head}\n{text}\n", "utf-8")
        return dict(importing.load(session, importing.read_file(path), now=now()))

    assert load(row.format(hours="daily 06:00-09:00")) == {"added": 1}
    assert load(row.format(hours="daily 06:00-09:00")) == {"unchanged": 1}
    assert load(row.format(hours="daily 07:00-09:00").replace("d-2", "d-3")) == {"changed": 1}
    opening.forget()
    known = opening.current(session).by_code["nk-csv-1"]
    assert [plan.valid_from for plan in known.plans] == [date(2026, 11, 24), date(2026, 1, 1)]
    assert sorted(opening.current(session).by_device) == ["bus-group:d-1", "bus-group:d-3"]
    with pytest.raises(SiteDataError, match=r"sites\.csv, line 2: hours are written"):
        load(row.format(hours="always"))
    unknown = row.format(hours="daily 07:00-09:00").replace("nk-csv-1", "nk-csv-2")
    for before, after, why in (
        ("120104001001", "120104001099", "there is no community 120104001099"),
        (",bus-group,bin-7,bus-group:d-1 bus-group:d-2,", ",nobody,bin-7,,", "there is no partner nobody"),
        ("bin-7", "bin-8", "The device stands at another site"),
        ("bus-group:d-1 bus-group:d-2", "", "The partner knows another site by this name"),
    ):
        with pytest.raises(SiteDataError, match=rf"^sites\.csv, line 2 \(nk-csv-2\): {why}$"):
            load(unknown.replace(before, after))
    with pytest.raises(SiteDataError, match=r"line 2 \(nk-csv-1\): there is no community 120104001099"):
        load(row.format(hours="daily 07:00-09:00").replace("120104001001", "120104001099"))
    packaged = importing.read_file(PLACES_DATA / "nankai" / "sites-demonstration.toml")
    assert len(packaged) >= 5
    assert all(entry.demonstration and "样例" in entry.name for entry in packaged)


# Drops


def test_a_supervisor_grades_each_bag_and_learns_nothing_of_the_resident(
    client: FlaskClient,
    session: Session,
    key: bytes,
    supervisor: UUID,
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., Headers],
) -> None:
    site(session)
    decisions(session)
    alice = make_resident()
    body = {
        "site": "nk-site-01",
        "code": code_of(key, alice),
        "bags": bags(kitchen="qualified", recyclable="mixed", residual="unqualified"),
    }
    headers = headers_of(supervisor, is_resident=False)
    answer = client.post(DROPS, json=body, headers=headers)

    assert answer.status_code == 201, answer.text
    assert [(bag["category"], bag["outcome"], bag["reason"]) for bag in answer.json["bags"]] == [
        ("kitchen", "awarded", None),
        ("recyclable", "refused", "unsorted"),
        ("residual", "refused", "unsorted"),
    ]
    assert set(answer.json) == {"id", "site", "dropped_at", "bags"}
    assert not any({"points", "activity_id"} & bag.keys() for bag in answer.json["bags"])
    assert str(alice) not in answer.text
    assert transferred(session, alice) == 4  # 5, less the discount of the grade
    own = headers_of(alice, is_resident=True)
    shown = client.get("/api/v1/me/activities", headers=own).json["items"]
    assert {(each["mode"], each["reason"], each["grade"]) for each in shown} == {
        ("kitchen", None, "staff-confirmed"),
        ("recyclable", "unsorted", "staff-confirmed"),
        ("residual", "unsorted", "staff-confirmed"),
    }
    told = [each["title_zh"] for each in client.get("/api/v1/me/notices", headers=own).json["items"]]
    assert sorted(told) == [
        "您投放的其他垃圾经督导员检查为不合格, 未计积分",
        "您投放的可回收物经督导员检查为混投, 未计积分",
    ]
    kept = session.execute(sa.select(SortingDrop.finding, SortingDrop.staff_id)).all()
    assert {row.finding for row in kept} == set(Finding)
    assert {row.staff_id for row in kept} == {supervisor}
    assert problem(client.post(DROPS, json=body, headers=headers)) == (409, "resident-code-used")
    twice = {**body, "code": code_of(key, alice, now() + timedelta(seconds=30)), "bags": body["bags"][:1] * 2}
    assert client.post(DROPS, json=twice, headers=headers).status_code == 422
    assert wrong(session) == {}


def test_a_supervisor_does_not_learn_that_a_resident_is_under_review(
    client: FlaskClient,
    session: Session,
    key: bytes,
    supervisor: UUID,
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., Headers],
) -> None:
    site(session, categories=["kitchen"])
    decisions(session)
    alice = make_resident()
    stands: dict[str, Any] = {"subject_kind": SubjectKind.RESIDENT, "subject": str(alice), "case_id": None}
    holds.place(session, **stands, reason=Reason.UNDER_REVIEW, until=now() + timedelta(days=1), now=now())
    session.commit()
    body = {"site": "nk-site-01", "code": code_of(key, alice), "bags": bags(kitchen="qualified", hazardous="qualified")}
    answer = client.post(DROPS, json=body, headers=headers_of(supervisor, is_resident=False))
    holds.forget()

    assert [(bag["outcome"], bag["reason"]) for bag in answer.json["bags"]] == [
        (None, None),
        ("refused", "category-not-taken"),
    ]
    assert "review" not in answer.text
    shown = client.get("/api/v1/me/activities", headers=headers_of(alice, is_resident=True)).json["items"]
    assert {(each["mode"], each["reason"]) for each in shown} == {
        ("kitchen", "under-review"),
        ("hazardous", "category-not-taken"),
    }


def test_nobody_confirms_at_a_site_of_others_or_at_a_collection_point(
    client: FlaskClient,
    session: Session,
    key: bytes,
    supervisor: UUID,
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., Headers],
) -> None:
    site(session, "nk-next-1", community_code=NEXT_DOOR)
    site(session, "nk-point-1", kind="collection-point", form="station")
    decisions(session)
    headers, alice = headers_of(supervisor, is_resident=False), make_resident()
    body = {"code": code_of(key, alice), "bags": bags(kitchen="qualified")}
    for code in ("nk-next-1", "nk-point-1", "nk-none-1"):
        assert client.post(DROPS, json={**body, "site": code}, headers=headers).status_code == 404
        assert client.get(f"/api/v1/sorting/sites/{code}/code", headers=headers).status_code == 404
    assert (
        client.post(DROPS, json={**body, "site": "nk-next-1"}, headers=headers_of(alice, is_resident=True)).status_code
        == 403
    )


def test_a_resident_scans_the_sites_own_code_for_the_lowest_grade_once_an_hour(
    client: FlaskClient,
    session: Session,
    supervisor: UUID,
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., Headers],
    tuesday: time_machine.Traveller,
) -> None:
    site(session)
    alice = make_resident()
    own, staff = headers_of(alice, is_resident=True), headers_of(supervisor, is_resident=False)

    def shown() -> str:
        return str(client.get("/api/v1/sorting/sites/nk-site-01/code", headers=staff).json["text"])

    def scan(text: str, *categories: str) -> Any:
        return client.post(
            OWN_DROPS,
            json={"code": text, "categories": categories or ["kitchen"], "installation": "phone-0001"},
            headers=own,
        )

    first = shown()
    with owner(session, unguarded=True):
        session.execute(sa.text("DELETE FROM sorting_plan"))
    session.commit()
    assert problem(scan(first)) == (409, "sorting-not-open")
    decisions(session)
    made = scan(first, "kitchen", "hazardous")
    assert made.status_code == 201, made.text
    assert [(bag["outcome"], bag["points"]) for bag in made.json["bags"]] == [("awarded", 2), ("awarded", 3)]
    assert scan(first).json["bags"][0]["reason"] == "duplicate"
    tuesday.shift(61)
    assert problem(scan(first)) == (422, "site-code-refused")
    assert scan(shown()).json["bags"][0]["reason"] == "duplicate"
    assert problem(scan(first.replace("NK-SITE-01", "NK-SITE-02"))) == (422, "site-code-refused")
    tuesday.shift(3600)
    own = headers_of(alice, is_resident=True)
    staff = headers_of(supervisor, is_resident=False)
    later = scan(shown())
    assert (later.json["bags"][0]["outcome"], later.json["bags"][0]["points"]) == ("awarded", 1), "the day's cap"
    grades = session.execute(sa.select(Activity.grade, Activity.device).distinct()).all()
    assert len(grades) == 1
    assert grades[0].device.startswith("phone:")
    assert "0001" not in grades[0].device


def test_a_drop_outside_the_hours_is_recorded_and_not_paid_on_every_path(
    client: FlaskClient,
    session: Session,
    key: bytes,
    supervisor: UUID,
    feed: Feed,
    member: Callable[..., UUID],
    headers_of: Callable[..., Headers],
    tuesday: time_machine.Traveller,
) -> None:
    tuesday.move_to(TUESDAY)
    hours = "daily 06:30-09:00"
    site(session, hours=hours, partner_code=feed.code, partner_site="bin-7", categories=["kitchen"])
    site(session, "nk-device-1", hours=hours, devices=[f"{feed.code}:d-1"])
    decisions(session)
    alice = member()
    open_at, shut_at = at("11-24 08:00"), at("11-24 09:00")

    graded = client.post(
        DROPS,
        json={"site": "nk-site-01", "code": code_of(key, alice), "bags": bags(kitchen="qualified", residual="mixed")},
        headers=headers_of(supervisor, is_resident=False),
    )
    assert [bag["reason"] for bag in graded.json["bags"]] == ["outside-hours", "unsorted"]
    text = dropping.shown_code(session, person(supervisor, Role.SUPERVISOR), "nk-site-01", data_key=key, now=now()).text
    own = client.post(
        OWN_DROPS, json={"code": text, "categories": ["kitchen"]}, headers=headers_of(alice, is_resident=True)
    )
    assert own.json["bags"][0]["reason"] == "outside-hours"
    pushed = feed.push(
        drop_line("d-1", when=open_at),
        drop_line("d-2", when=shut_at),
        drop_line("d-3", when=open_at, category="hazardous"),
        drop_line("d-4", when=shut_at, site="somewhere", device="d-1", sequence=1),
        drop_line("d-5", when=shut_at, site="somewhere", device="d-2", sequence=1),
        weighing_line("w-1", when=shut_at, site="bin-7"),
    )
    assert outcomes(pushed) == [
        "awarded",
        "refused outside-hours",
        "refused category-not-taken",
        "refused outside-hours",
        "awarded",  # nobody has told us of that site
        "refused outside-hours",
    ]
    refused = session.scalar(sa.select(sa.func.count()).where(Activity.reason == "outside-hours"))
    assert refused == 5
    assert transferred(session, alice) == 10
    assert wrong(session) == {}


def test_what_a_device_read_without_a_net_counts_for_the_time_of_the_scan(
    session: Session, supervisor: UUID, make_resident: Callable[..., UUID]
) -> None:
    site(session, hours="daily 06:30-09:00")
    decisions(session)
    alice = make_resident()
    scanner = Scanner(
        id=new_id(), name="手持机", division=COMMUNITY, site_code="nk-site-01", operator_id=supervisor, created_at=now()
    )
    session.add(scanner)
    session.flush()
    used = UsedCode(alice, None, CodeKind.PHONE, f"scanner:{scanner.id}", supervisor)
    detail: dict[str, Any] = {"bags": bags(kitchen="qualified")}
    scan = AcceptedScan(scanner, used, 1, at("11-24 07:00"), detail)

    dropping.SCAN_KIND.record(session, scan, now())
    made = session.scalars(sa.select(Activity)).one()
    assert (made.outcome, made.started_at, made.device) == (Outcome.AWARDED, at("11-24 07:00"), used.device)
    assert dropping.SCAN_KIND.purpose is CodePurpose.SORTING
    for wrong_detail in ({}, {"bags": []}, {"bags": bags(kitchen="fine")}, {"bags": detail["bags"] * 2}, {"bags": [1]}):
        with pytest.raises(DomainError):
            dropping.SCAN_KIND.record(session, replace(scan, detail=wrong_detail), now())
    dropping.SCAN_KIND.record(session, replace(scan, used=replace(used, staff_id=None)), now())
    lowest = session.scalar(sa.select(Activity.outcome).where(Activity.grade == Grade.SELF_DECLARED))
    assert lowest is Outcome.AWARDED, "a device that nobody carries is nobody's word but the resident's"
    for unfit in ({"site_code": None}, {"site_code": "nk-site-01", "division": NEXT_DOOR}):
        for name, value in unfit.items():
            setattr(scanner, name, value)
        with pytest.raises(NotFound):
            dropping.SCAN_KIND.record(session, scan, now())


def test_one_code_before_two_supervisors_pays_once(make_database: Callable[[], str]) -> None:
    engine = sa.create_engine(psycopg_url(make_database()))
    key, staff_ids, alice = bytes(32), [new_id(), new_id()], new_id()

    def confirm(session: Session, staff_id: UUID) -> dropping.Dropped:
        return dropping.record_graded(
            session,
            person(staff_id, Role.SUPERVISOR),
            site_code="nk-site-01",
            code=code_of(key, alice),
            bags=[QUALIFIED],
            data_key=key,
            now=now(),
        )

    def second() -> str:
        with Session(engine) as session:
            try:
                confirm(session, staff_ids[1])
                session.commit()
            except CodeUsed as error:
                return error.code
            except IntegrityError as error:
                return str(error)
        return "paid"

    with Session(engine, expire_on_commit=False) as session:
        for staff_id in staff_ids:
            session.add(
                Staff(
                    id=staff_id,
                    name=f"s-{staff_id.hex}",
                    password_hash="unusable",
                    role=Role.SUPERVISOR,
                    division=COMMUNITY,
                    created_at=now(),
                )
            )
        session.add(Resident(resident_id=alice, community_code=COMMUNITY, created_at=now()))
        session.flush()
        for staff_id in staff_ids:
            declare_none(session, staff_id)
        site(session)
        decisions(session)

    with ThreadPoolExecutor(1) as pool, Session(engine) as first:
        made = confirm(first, staff_ids[0])
        waiting = pool.submit(second)
        with engine.connect() as looking:
            blocked = sa.text(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            for _ in range(1000):
                if looking.scalar(blocked):
                    break
                looking.rollback()
            else:
                pytest.fail("the second never waited for the first")
        first.commit()
        assert waiting.result(10) == "resident-code-used"
    with Session(engine) as session:
        assert made.bags[0].award.points == transferred(session, alice) == 4
    engine.dispose()


# Hidden spot-checks


def test_the_sample_is_a_keyed_hash_of_the_activitys_id() -> None:
    ids = [new_id() for _ in range(3000)]
    drawn = [spot_checks.is_sampled(bytes(32), each, Decimal("0.1")) for each in ids]
    assert 230 < sum(drawn) < 370  # 300 ± 4.3 standard deviations
    assert drawn == [spot_checks.is_sampled(bytes(32), each, Decimal("0.1")) for each in ids]
    assert drawn != [spot_checks.is_sampled(bytes(31) + b"1", each, Decimal("0.1")) for each in ids]
    assert all(spot_checks.is_sampled(bytes(32), each, Decimal(1)) for each in ids[:200])
    assert not any(spot_checks.is_sampled(bytes(32), each, Decimal(0)) for each in ids[:200])


def graded(session: Session, key: bytes, staff_id: UUID, resident_id: UUID, at: datetime | None = None) -> UUID:
    """A bag of kitchen waste that a supervisor has graded; its activity."""
    made = dropping.record_graded(
        session,
        person(staff_id, Role.SUPERVISOR),
        site_code="nk-site-01",
        code=code_of(key, resident_id, at),
        bags=[QUALIFIED],
        data_key=key,
        now=at or now(),
    )
    session.commit()
    activity_id = made.bags[0].award.activity_id
    assert activity_id is not None
    return activity_id


def test_a_failed_check_takes_the_points_back_and_tells_the_resident_why(
    client: FlaskClient,
    session: Session,
    key: bytes,
    supervisor: UUID,
    checker: UUID,
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., Headers],
) -> None:
    site(session)
    decisions(session, "1")
    alice, bob = make_resident(), make_resident()
    badly, well = graded(session, key, supervisor, alice), graded(session, key, supervisor, bob)
    assert drawn_now(session, key) == 2
    assert drawn_now(session, key) == 0
    session.commit()
    staff = headers_of(checker, is_resident=False)
    listed = client.get(CHECKS, headers=staff)
    assert len(listed.json["items"]) == 2
    assert not {str(alice), str(badly)} & set(re.findall("[0-9a-f-]{36}", listed.text))
    found = dict(session.execute(sa.select(SpotCheck.activity_id, SpotCheck.id)).all())

    def answer(activity_id: UUID, **body: Any) -> Any:
        return client.post(f"{CHECKS}/{found[activity_id]}/answer", json=body, headers=staff)

    assert answer(badly, passed=False).status_code == 422, "without a word why"
    assert answer(badly, passed=False, remark="厨余袋内有塑料").json["state"] == "failed"
    assert answer(well, passed=True).json["state"] == "passed"
    assert problem(answer(badly, passed=True)) == (409, "check-answered")
    own = headers_of(alice, is_resident=True)
    [shown] = client.get("/api/v1/me/activities", headers=own).json["items"]
    assert (shown["outcome"], shown["reason"]) == ("reversed", "spot-check-failed")
    [told] = client.get("/api/v1/me/notices", headers=own).json["items"]
    assert (told["kind"], told["subject"]) == ("spot-check-failed", f"activity:{badly}")
    assert "抽查不合格" in told["title_zh"]
    assert client.get("/api/v1/me/notices", headers=headers_of(bob, is_resident=True)).json["items"] == []
    balance = client.get("/api/v1/me/wallet", headers=own).json["balance_points"]
    assert (balance, transferred(session, bob)) == (0, 4)
    assert wrong(session) == {}
    shares = client.get("/api/v1/sorting/accuracy?starts_on=2026-11-01&ends_on=2026-11-30", headers=staff).json
    assert (shares["passed"], shares["failed"], shares["share"], shares["drops"]) == (1, 1, 0.5, 2.0)


@pytest.mark.parametrize("verdict", [Verdict.GRANTED, Verdict.DENIED])
def test_a_failed_check_that_an_appeal_overturns_counts_as_passed(
    session: Session,
    key: bytes,
    supervisor: UUID,
    checker: UUID,
    make_staff: Callable[..., UUID],
    make_resident: Callable[..., UUID],
    verdict: Verdict,
) -> None:
    site(session)
    decisions(session, "1")
    editions.load(session, editions.read_folder(PLACES_DATA / "nankai"))
    alice, reviewer = make_resident(), make_staff(Role.STREET, division="120104001")
    declare_none(session, reviewer)
    drop = graded(session, key, supervisor, alice)
    drawn_now(session, key)
    check_id = session.scalars(sa.select(SpotCheck.id)).one()
    staff = person(checker, Role.COMMUNITY_STAFF)
    spot_checks.answer(session, staff, check_id, passed=False, remark="混投", now=now())
    made = appeals.make(session, alice, drop, text="袋内只有厨余", now=now())
    open_days: dict[str, Any] = {"starts_on": date(2026, 11, 1), "ends_on": date(2026, 11, 30)}
    assert accuracy.of_scope(session, staff, **open_days).failed == 1, "nobody has decided yet"

    by = person(reviewer, Role.STREET, division="120104001")
    decide_case(
        session, by, {CaseKind.APPEAL: appeals.KIND}, made.case.id, verdict=verdict, reason="照片清楚", now=now()
    )
    overturned = verdict is Verdict.GRANTED
    known = accuracy.of_scope(session, staff, **open_days)
    assert (known.passed, known.failed) == ((1, 0) if overturned else (0, 1))
    balance = session.scalar(sa.text("SELECT sum(remaining_points) FROM lot"))
    assert balance == (4 if overturned else 0)


def test_a_backlog_is_drawn_from_in_rounds_and_nothing_is_left_out_or_drawn_twice(
    session: Session,
    key: bytes,
    supervisor: UUID,
    make_resident: Callable[..., UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site(session)
    decisions(session, "1")
    made = {graded(session, key, supervisor, make_resident()) for _ in range(7)}
    with owner(session, unguarded=True):
        # Three were recorded in one instant, which a limit must not part; one long before, as after an outage.
        session.execute(sa.text("UPDATE activity SET recorded_at = now() - interval '5 minutes'"))
        late = sa.text(
            "UPDATE activity SET recorded_at = now() - interval '4 minutes' + n * interval '1 second' "
            "FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM activity) o WHERE o.id = activity.id AND n > 3"
        )
        session.execute(late)
        early = sa.text("UPDATE activity SET recorded_at = now() - interval '5 hours' WHERE id = :id")
        session.execute(early, {"id": max(made)})
        session.execute(sa.text("INSERT INTO spot_check_mark VALUES (true, now() - interval '6 hours')"))
    session.commit()
    monkeypatch.setattr(spot_checks, "DRAWN_FROM_AT_ONCE", 2)
    to, rounds = spot_checks.begin_drawing(session), []
    while not rounds or rounds[-1].more:
        rounds.append(spot_checks.draw(session, to=to, data_key=key, now=now()))
        assert len(rounds) < 30

    assert max(each.checks for each in rounds) == 3, "a round takes two, and what was recorded with the second"
    assert sum(each.checks for each in rounds) == 7
    assert set(session.scalars(sa.select(SpotCheck.activity_id))) == made
    assert session.scalar(sa.text("SELECT drawn_to FROM spot_check_mark")) == to
    assert drawn_now(session, key) == 0


def test_the_job_draws_in_rounds(
    app: Flask,
    session: Session,
    key: bytes,
    supervisor: UUID,
    make_resident: Callable[..., UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site(session)
    decisions(session, "1")
    for _ in range(5):
        graded(session, key, supervisor, make_resident())
    monkeypatch.setattr(spot_checks, "DRAWN_FROM_AT_ONCE", 2)
    with app.app_context():
        assert jobs.draw_now() == 5
        assert jobs.draw_now() == 0


def test_a_held_drop_that_fails_its_check_is_refused(
    session: Session, key: bytes, supervisor: UUID, checker: UUID, make_resident: Callable[..., UUID]
) -> None:
    site(session)
    decisions(session, "1")
    alice = make_resident()
    until = now() + timedelta(days=1)
    holds.place(
        session,
        subject_kind=SubjectKind.RESIDENT,
        subject=str(alice),
        reason=Reason.UNDER_REVIEW,
        until=until,
        case_id=None,
        now=now(),
    )
    holds.forget()
    held = graded(session, key, supervisor, alice)
    holds.forget()
    assert session.scalar(sa.select(Activity.outcome)) is Outcome.HELD
    drawn_now(session, key)
    check_id = session.scalars(sa.select(SpotCheck.id).where(SpotCheck.activity_id == held)).one()
    staff = person(checker, Role.COMMUNITY_STAFF)
    spot_checks.answer(session, staff, check_id, passed=False, remark="混投", now=now())
    ended = session.execute(sa.select(Activity.outcome, Activity.reason)).one()
    assert tuple(ended) == (Outcome.REFUSED, "spot-check-failed")
    assert transferred(session, alice) == 0


def test_a_check_is_seen_by_staff_of_the_place_who_have_no_part_in_the_drop(
    client: FlaskClient,
    session: Session,
    key: bytes,
    checker: UUID,
    make_staff: Callable[..., UUID],
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., Headers],
    tuesday: time_machine.Traveller,
) -> None:
    site(session)
    decisions(session, "1")
    alice, spouse = make_resident(), make_resident()
    grader = make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    relative = make_staff(Role.STREET, division="120104001")
    unlinked = make_staff(Role.STREET, division="120104001")
    elsewhere = make_staff(Role.STREET, division="120104002")
    for each in (grader, elsewhere):
        declare_none(session, each)
    home = new_id()
    session.add(Household(id=home, member_count=2, created_at=now()))
    session.flush()
    session.add_all(
        HouseholdMember(resident_id=each, household_id=home, member_id=new_id(), joined_at=now())
        for each in (alice, spouse)
    )
    session.add(StaffLink(staff_id=relative, resident_id=spouse, made_at=now()))
    graded(session, key, grader, alice)
    drawn_now(session, key)
    session.commit()
    check_id = session.scalar(sa.select(SpotCheck.id))

    def seen_by(staff_id: UUID) -> Any:
        headers = headers_of(staff_id, is_resident=False)
        listed = client.get(CHECKS, headers=headers)
        answered = client.post(f"{CHECKS}/{check_id}/answer", json={"passed": True}, headers=headers)
        return len(listed.json.get("items", [])), listed.status_code, answered.status_code

    assert seen_by(grader) == (0, 200, 404)
    assert seen_by(relative) == (0, 200, 404)
    assert seen_by(elsewhere) == (0, 200, 404)
    assert seen_by(unlinked) == (0, 409, 409)
    assert client.get(CHECKS, headers=headers_of(alice, is_resident=True)).status_code == 403
    tuesday.shift(48 * 3600)
    assert problem(
        client.post(
            f"{CHECKS}/{check_id}/answer", json={"passed": True}, headers=headers_of(checker, is_resident=False)
        )
    ) == (409, "check-answered"), "its time is over"
    assert spot_checks.expire(session, now=now()) == 1
    assert spot_checks.expire(session, now=now()) == 0
    assert session.scalar(sa.select(SpotCheck.state)) is CheckState.UNCHECKED
    assert session.scalar(sa.select(Activity.outcome)) is Outcome.AWARDED


def test_partners_drops_are_drawn_by_the_form_of_their_site(
    session: Session, key: bytes, feed: Feed, member: Callable[..., UUID], tuesday: time_machine.Traveller
) -> None:
    tuesday.move_to(TUESDAY)
    site(session, form="smart-bins", partner_code=feed.code, partner_site="bin-7", community_code=NEXT_DOOR)
    decisions(session, rates={("smart-bin", ""): Decimal(0), ("smart-bin", "smart-bins"): Decimal(1)})
    member()
    feed.push(
        drop_line("d-1", when=TUESDAY),
        drop_line("d-2", when=TUESDAY, site="unknown"),
        weighing_line("w-1", when=TUESDAY),
    )
    assert drawn_now(session, key) == 1
    drawn = session.scalars(sa.select(SpotCheck)).one()
    assert (drawn.path, drawn.site, drawn.community_code) == (DropPath.SMART_BIN, "bin-7", NEXT_DOOR)
    assert (drawn.probability, drawn.due_at) == (Decimal(1), now() + timedelta(hours=48))


def test_nothing_that_a_client_sees_tells_whether_a_drop_was_drawn(
    client: FlaskClient,
    session: Session,
    key: bytes,
    make_staff: Callable[..., UUID],
    make_resident: Callable[..., UUID],
    headers_of: Callable[..., Headers],
    tuesday: time_machine.Traveller,
) -> None:
    site(session)
    grader = make_staff(Role.COMMUNITY_STAFF, division=COMMUNITY)
    declare_none(session, grader)
    statements: list[list[str]] = []

    def world(probability: str, day: int) -> list[Any]:
        """All that the resident and the supervisor who grades can see, with what differs by chance left out."""
        tuesday.move_to(TUESDAY + timedelta(days=day))
        decisions(session, probability, valid_from=(TUESDAY + timedelta(days=day)).date())
        alice = make_resident()
        own, staff = headers_of(alice, is_resident=True), headers_of(grader, is_resident=False)
        text = client.get("/api/v1/sorting/sites/nk-site-01/code", headers=staff).json["text"]
        body = {"site": "nk-site-01", "code": code_of(key, alice), "bags": bags(kitchen="qualified", residual="mixed")}
        run: list[str] = []
        statements.append(run)

        def heard(_c: Any, _u: Any, statement: str, *_: Any) -> None:
            run.append(re.sub("sa_savepoint_[0-9]+", "savepoint", statement))

        engine = session.get_bind()
        sa.event.listen(engine, "before_cursor_execute", heard)
        seen = [client.post(DROPS, json=body, headers=staff)]
        seen.append(client.post(OWN_DROPS, json={"code": text, "categories": ["kitchen", "hazardous"]}, headers=own))
        sa.event.remove(engine, "before_cursor_execute", heard)
        drawn = drawn_now(session, key)
        session.commit()
        assert drawn == (2 if probability == "1" else 0), "the scan of the same kitchen waste is not paid"
        activities = client.get("/api/v1/me/activities", headers=own)
        seen.append(activities)
        seen += [client.get(f"/api/v1/me/activities/{each['id']}", headers=own) for each in activities.json["items"]]
        for address in ("/api/v1/me/notices", "/api/v1/me/wallet", "/api/v1/me/wallet/transfers"):
            seen.append(client.get(address, headers=own))
        seen.append(client.get("/api/v1/me/notices", headers=staff))
        for state in CheckState:
            listed = client.get(f"{CHECKS}?state={state.value}", headers=staff)
            assert [each["path"] for each in listed.json["items"] if each["path"] != "site-code"] == []
        return [(each.status_code, sorted(each.headers.keys()), _without_chance(each.json)) for each in seen]

    # The same weekday of three weeks, so that no bound of one is in the way of another; the first fills the memories.
    world("0", 0)
    assert world("1", 7) == world("0", 14)
    assert statements[1] == statements[2], "the same statements, and so the same time"


def _without_chance(value: Any) -> Any:
    """An answer without ids and instants."""
    if isinstance(value, dict):
        return {key: _without_chance(inner) for key, inner in value.items() if key != "request_id"}
    if isinstance(value, list):
        return [_without_chance(inner) for inner in value]
    if isinstance(value, str) and (value.startswith(("2026-", "activity:")) or len(value) == 36):
        return "…"
    return value


def test_the_packaged_plan_is_loaded_once_and_never_changed(session: Session, tmp_path: Path) -> None:
    packaged = PLACES_DATA / "nankai" / "sorting-2026.toml"
    changed = tmp_path / "sorting-2026.toml"
    plans.load(session, plans.read_folder(packaged.parent))
    assert plans.load(session, plans.read_folder(packaged.parent)) == []
    known = plans.on(plans.read(session), date(2026, 6, 1))
    assert known is not None
    assert known.probability(DropPath.SMART_BIN, SiteForm.SMART_BINS) == Decimal("0.02")
    assert known.probability(DropPath.SMART_BIN, None) == Decimal("0.01")
    for before, after in (("0.10", "0.11"), ("0.10", "1.1"), ("0.10", "0.0000001"), ('"scanner"', '"nobody"')):
        changed.write_text(packaged.read_text("utf-8").replace(before, after), "utf-8")
        with pytest.raises(SortingPlanError):
            plans.load(session, [plans.read_file(changed)])


def test_what_cannot_be_changed_cannot_be_deleted_either(
    session: Session, key: bytes, supervisor: UUID, make_resident: Callable[..., UUID]
) -> None:
    site(session)
    decisions(session, "1")
    graded(session, key, supervisor, make_resident())
    drawn_now(session, key)

    def refused(statement: str) -> bool:
        try:
            with session.begin_nested():
                session.execute(sa.text(statement))
        except sa.exc.DBAPIError:
            return True
        return False

    with owner(session):
        tries = [
            "DELETE FROM site",
            "UPDATE site SET code = 'nk-other-1'",
            "UPDATE site SET kind = 'collection-point', form = 'station'",
            "UPDATE sorting_drop SET finding = 'mixed'",
            "DELETE FROM sorting_drop",
            "UPDATE sorting_plan SET check_within_hours = 1",
            "DELETE FROM spot_check_rate",
            "UPDATE spot_check_rate SET probability = 0",
            "DELETE FROM spot_check",
            "UPDATE spot_check SET probability = 0.5",
            "UPDATE spot_check SET state = 'unchecked', decided_at = now(), probability = 0.5",
            "UPDATE spot_check SET state = 'failed', decided_at = now(), decided_by = staff_id, remark = 'x'",
            "TRUNCATE site, site_device, sorting_drop, spot_check",
        ]
        assert [statement for statement in tries if not refused(statement)] == []
        assert not refused("UPDATE spot_check SET state = 'unchecked', decided_at = now()")
        assert refused("UPDATE spot_check SET state = 'sampled', decided_at = NULL"), "answered once"


# Accuracy


def test_the_accuracy_is_horvitz_and_thompsons_ratio() -> None:
    made = accuracy.estimate(
        [
            Stratum(DropPath.SUPERVISOR, 0.02, passed=18, failed=2, unchecked=0),
            Stratum(DropPath.SITE_CODE, 0.1, passed=30, failed=10, unchecked=10),
        ]
    )
    # 20 checks stand for 1,000 drops, 40 answered and 10 unanswered ones for 500.
    assert (round(made.drops), round(made.correct_drops)) == (1500, 900 + 375)
    assert made.share == pytest.approx(0.85)
    assert made.low is not None
    assert made.high is not None
    assert 0.6 < made.low < 0.85 < made.high < 0.96
    perfect = accuracy.estimate([Stratum(DropPath.SITE_CODE, 0.1, passed=40, failed=0, unchecked=0)])
    assert (perfect.share, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(0.912, abs=0.001)
    assert accuracy.estimate([]).share is None
    assert accuracy.estimate([Stratum(DropPath.SITE_CODE, 1.0, 3, 1, 0)]).low == 0.75, "a census has no interval"


def test_the_interval_covers_the_truth() -> None:
    chance = random.Random(5)
    truths = [
        (DropPath.SMART_BIN, 0.02, 6000, 0.9),
        (DropPath.SUPERVISOR, 0.05, 2000, 0.97),
        (DropPath.SITE_CODE, 0.1, 1500, 0.7),
    ]
    truth = sum(count * share for _, _, count, share in truths) / sum(count for _, _, count, _ in truths)
    held, rounds = 0, 400

    def drawn(probability: float, count: int) -> int:
        # A binomial number by its normal approximation, never below 0: the draws themselves would take seconds.
        spread = math.sqrt(count * probability * (1 - probability))
        return max(round(chance.gauss(count * probability, spread)), 0)

    for _ in range(rounds):
        strata = []
        for path, probability, count, share in truths:
            strata.append(
                Stratum(
                    path,
                    probability,
                    passed=drawn(probability, round(count * share)),
                    failed=drawn(probability, round(count * (1 - share))),
                    unchecked=0,
                )
            )
        made = accuracy.estimate(strata)
        held += made.low is not None and made.high is not None and made.low <= truth <= made.high
    assert 0.92 <= held / rounds <= 0.98, held / rounds
