"""Releases of statistics: made once their period is over, frozen from then on, and corrected by a further one."""

import csv
import hashlib
import io
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from points.open_data import jobs
from points.open_data.releases import PeriodNameInvalid, period_name, read_name
from points.open_data.rendering import source_of
from points.statistics.models import ActivityPeriod, ActivityPeriodCount, ActivitySaving
from points.statistics.periods import CalendarPeriod, Grain
from server.access import Role
from server.audit import AuditEntry
from server.clock import SHANGHAI
from server.places.models import Division, DivisionLevel

DISTRICT, STREET = "120104", "120104001"
HERE, THERE, BEYOND, FAR = "120104001001", "120104001003", "120104001005", "120104002001"
OCTOBER = date(2026, 10, 1)
URL = "/api/v1/open-data"
METHOD = "published-conservative"

Headers = dict[str, str]
Post = Callable[..., Any]


@pytest.fixture(autouse=True)
def in_the_middle_of_november(clock: time_machine.Traveller) -> time_machine.Traveller:
    return clock


@pytest.fixture
def staff(sign_in_staff: Callable[..., Headers]) -> Headers:
    return sign_in_staff(Role.DISTRICT, division=DISTRICT)


@pytest.fixture
def post(client: FlaskClient, sign_in_staff: Callable[..., Headers]) -> Post:
    def send(period: str, **more: Any) -> Any:
        # Anew, for the tests move the clock past what a sign-in lasts.
        staff = sign_in_staff(Role.DISTRICT, division=DISTRICT)
        return client.post(f"{URL}/releases", json={"period": period, **more}, headers=staff)

    return send


def count(
    session: Session,
    counts: dict[str, int],
    behaviour: str = "walk",
    *,
    grain: Grain = Grain.MONTH,
    on: date = OCTOBER,
    largest: int = 10,
    metres: int = 1000,
) -> None:
    """Keep so many residents by community as having walked, as counting would, with their street and district."""
    places: dict[str, int] = {}
    for community, residents in counts.items():
        for code in (community, community[:9], community[:6]):
            places[code] = places.get(code, 0) + residents
    for code, residents in places.items():
        sums = {"activities": 3 * residents, "distance_m": metres * residents, "weight_g": 0, "points": 2 * residents}
        session.merge(
            ActivityPeriod(
                grain=grain,
                starts_on=on,
                behaviour=behaviour,
                mode="",
                place_code=code,
                residents=residents,
                distance_residents=residents,
                weight_residents=0,
                points_residents=residents,
                **sums,
                **{f"largest_{name}": min(largest, value) for name, value in sums.items()},
                **{f"squared_{name}": 0.0 for name in sums},
                sites=0,
                partners=0,
                reversed=0,
            )
        )
    counted_at = datetime.now(UTC)
    session.merge(ActivityPeriodCount(grain=grain, starts_on=on, is_due=False, counted_at=counted_at, activities=1))
    session.commit()


def rows(client: FlaskClient, release: str, table: str = "activity") -> dict[tuple[str, str], dict[str, Any]]:
    answer = client.get(f"{URL}/{release}/{table}.json")
    assert answer.status_code == 200, answer.text
    return {(row["place_code"], row["category"]): row for row in answer.json["rows"]}


# When


@pytest.mark.parametrize(
    ("name", "period"),
    [
        ("2026-10", CalendarPeriod(Grain.MONTH, date(2026, 10, 1))),
        ("2026-Q4", CalendarPeriod(Grain.QUARTER, date(2026, 10, 1))),
        ("2026", CalendarPeriod(Grain.YEAR, date(2026, 1, 1))),
    ],
)
def test_a_period_has_one_name(name: str, period: CalendarPeriod) -> None:
    assert read_name(name).period == period
    assert read_name(f"{name}.2").revision == 2
    assert period_name(period) == name
    for wrong in (f"{name}.0", f"{name}.", f"{name}\n", "2026-13", "2026-Q5", "2026-1", "1999", "latest"):
        with pytest.raises(PeriodNameInvalid):
            read_name(wrong)


def test_a_month_is_released_when_its_late_days_are_over_and_only_then(
    session: Session, post: Post, clock: time_machine.Traveller
) -> None:
    count(session, {HERE: 30})
    # The rules of the district let records come seven days late.
    clock.move_to(datetime(2026, 11, 7, 23, 59, tzinfo=SHANGHAI))
    early = post("2026-10")
    assert (early.status_code, early.json["code"]) == (409, "period-not-over")
    clock.move_to(datetime(2026, 11, 8, 0, 0, tzinfo=SHANGHAI))
    assert post("2026-10").status_code == 201
    again = post("2026-10")
    assert (again.status_code, again.json["code"]) == (409, "already-released")


def test_what_is_not_counted_is_not_released(session: Session, post: Post) -> None:
    assert post("2026-10").json["code"] == "nothing-to-release"
    count(session, {HERE: 30})
    session.execute(sa.update(ActivityPeriodCount).values(is_due=True))
    session.commit()
    assert post("2026-10").json["code"] == "figures-not-counted"
    assert post("2026-10", reason="why").json["code"] == "nothing-to-correct"


def test_a_quarter_is_the_sum_of_its_months_as_released(
    client: FlaskClient, session: Session, post: Post, clock: time_machine.Traveller
) -> None:
    clock.move_to(datetime(2027, 1, 20, 12, tzinfo=SHANGHAI))
    count(session, {HERE: 30, FAR: 50})
    count(session, {HERE: 30, FAR: 50}, on=date(2026, 11, 1))
    count(session, {HERE: 40, FAR: 60}, grain=Grain.QUARTER)
    assert post("2026-Q4").json["code"] == "parts-not-released"
    assert post("2026-10").status_code == post("2026-11").status_code == 201
    # What was taken back since leaves the quarter as the months were told.
    count(session, {HERE: 41, FAR: 60}, grain=Grain.QUARTER)
    made = post("2026-Q4")
    assert (made.status_code, made.json["name"], made.json["from"]) == (201, "2026-Q4.1", "2026-10-01")
    quarter = rows(client, "2026-Q4")
    assert quarter[HERE, "walk"]["distance_m"] == 60_000
    assert (quarter[FAR, "walk"]["residents"], quarter[DISTRICT, "walk"]["activities"]) == (60, 480)


# What


def test_few_residents_are_withheld_with_what_would_give_them_away(
    client: FlaskClient, session: Session, post: Post
) -> None:
    count(session, {HERE: 4, THERE: 12, BEYOND: 50, FAR: 90})
    made = post("2026-10")
    assert made.status_code == 201, made.text
    told = rows(client, "2026-10.1")
    measures = ("activities", "residents", "distance_m", "weight_g", "points")
    assert [told[HERE, "walk"][name] for name in measures] == [None] * 5
    # Zeros are told: a column that has nothing of anybody is withheld with the rest of its row all the same.
    assert [told[THERE, "walk"][name] for name in measures] == [None] * 5
    assert [told[BEYOND, "walk"][name] for name in measures] == [150, 50, 50_000, 0, 100]
    assert [told[STREET, "walk"]["residents"], told[DISTRICT, "walk"]["residents"]] == [66, 156]
    assert told["120104003002", "walk"]["residents"] == 0
    assert len(told) == 171 + 12 + 1


def test_a_sum_of_which_one_resident_has_more_than_half_is_withheld_but_not_how_many_they_are(
    client: FlaskClient, session: Session, post: Post
) -> None:
    count(session, {HERE: 20, THERE: 30, BEYOND: 200}, largest=10)
    session.execute(
        sa.update(ActivityPeriod).where(ActivityPeriod.place_code == HERE).values(largest_distance_m=10_001)
    )
    session.commit()
    assert post("2026-10").status_code == 201
    told = rows(client, "2026-10")
    assert (told[HERE, "walk"]["distance_m"], told[HERE, "walk"]["residents"]) == (None, 20)
    assert (told[THERE, "walk"]["distance_m"], told[BEYOND, "walk"]["distance_m"]) == (None, 200_000)


def test_grams_do_not_tell_the_metres_of_the_few(client: FlaskClient, session: Session, post: Post) -> None:
    """Grams are metres times factors that anybody can look up, so a method's total is one more sum over the modes."""
    count(session, {HERE: 60, THERE: 70}, "bus")
    count(session, {HERE: 40, THERE: 5}, "metro")
    count(session, {HERE: 0, THERE: 0, BEYOND: 80}, "metro", on=date(2026, 9, 1))
    for place, grams in ((HERE, 100), (THERE, 75), (STREET, 175), (DISTRICT, 175)):
        for behaviour, mode in (("", ""), ("bus", ""), ("bus", "bus"), ("metro", ""), ("metro", "metro")):
            session.add(
                ActivitySaving(
                    grain=Grain.MONTH,
                    starts_on=OCTOBER,
                    behaviour=behaviour,
                    mode=mode,
                    place_code=place,
                    method_id=METHOD,
                    saved_co2e_mg=grams * 1_000_000,
                    residents=50,
                    largest_saved_co2e_mg=1000,
                )
            )
    session.commit()
    assert post("2026-10").status_code == 201
    metres, grams = rows(client, "2026-10"), rows(client, "2026-10", "carbon-savings")
    assert (metres[THERE, "metro"]["distance_m"], metres[HERE, "metro"]["distance_m"]) == (None, None)
    for place in (HERE, THERE):
        told = [metres[place, "bus"]["distance_m"], grams[place, METHOD]["saved_co2e_g"]]
        assert None in told, "the metro's metres would be what the bus's leave of the grams"


# For good


def test_a_release_never_changes(client: FlaskClient, session: Session, post: Post) -> None:
    count(session, {HERE: 30, THERE: 40})
    name = post("2026-10").json["name"]
    before = client.get(f"{URL}/{name}/activity.csv").data
    count(session, {HERE: 55, THERE: 66})
    assert client.get(f"{URL}/{name}/activity.csv").data == before
    tables = ("statistics_release", "statistics_cell", "statistics_exact", "statistics_file")
    changes = [f"UPDATE {table} SET release_id = release_id" for table in tables[1:]]
    changes += ["UPDATE statistics_release SET reason = 'x'"]
    changes += [f"DELETE FROM {table}" for table in tables] + [f"TRUNCATE {table} CASCADE" for table in tables]
    session.execute(sa.text("SET LOCAL ROLE NONE"))  # the owner's own mistakes stop here too
    for statement in changes:
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), session.begin_nested():
            session.execute(sa.text(statement))
    late = "INSERT INTO statistics_cell SELECT release_id, table_code, place_code, 'late', figures FROM statistics_cell"
    with pytest.raises(sa.exc.DBAPIError, match="has all its rows"), session.begin_nested():
        session.execute(sa.text(f"{late} LIMIT 1"))
    false = "INSERT INTO statistics_file SELECT release_id, 'late', format, 'x', sha256, 0 FROM statistics_file LIMIT 1"
    with pytest.raises(sa.exc.DBAPIError, match="sha256"), session.begin_nested():
        session.execute(sa.text(false))


def test_a_correction_is_a_further_release_that_names_the_one_it_replaces(
    client: FlaskClient, session: Session, post: Post
) -> None:
    count(session, {HERE: 30, THERE: 40, FAR: 50})
    assert post("2026-10").status_code == 201
    assert post("2026-10", reason="nothing is other").json["code"] == "nothing-to-correct"
    count(session, {HERE: 30, THERE: 80, FAR: 50})
    made = post("2026-10", reason="一份名单漏记 a list was left out").json
    assert (made["name"], made["revision"], made["replaces"]) == ("2026-10.2", 2, "2026-10.1")
    first = client.get(f"{URL}/2026-10.1").json
    assert (first["replaced_by"], first["reason"]) == ("2026-10.2", None)
    assert rows(client, "2026-10.1")[THERE, "walk"]["residents"] == 40
    assert rows(client, "2026-10")[THERE, "walk"]["residents"] == 80
    assert rows(client, "latest")[DISTRICT, "walk"]["residents"] == 160
    assert client.get(f"{URL}/2026-10.3").status_code == 404


def test_a_correction_does_not_tell_of_the_one_who_came_late(client: FlaskClient, session: Session, post: Post) -> None:
    """Whoever kept the first release subtracts it from the second."""
    count(session, {HERE: 30, THERE: 40, BEYOND: 60, FAR: 50})
    assert post("2026-10").status_code == 201
    count(session, {HERE: 31, THERE: 52, BEYOND: 60, FAR: 65})
    assert post("2026-10", reason="补记 records that came late").status_code == 201
    before, after = rows(client, "2026-10.1"), rows(client, "2026-10.2")
    for measure in ("activities", "residents", "distance_m", "points"):
        changed = {}
        for key, row in after.items():
            if None not in (row[measure], before[key][measure]):
                changed[key] = row[measure] - before[key][measure]
        small = 10 if measure == "residents" else {"activities": 30, "distance_m": 10_000, "points": 20}[measure]
        assert not [key for key, change in changed.items() if 0 < abs(change) < small], measure
        # Nor as what the street's change leaves when the others' are taken off.
        parts = [changed.get((place, "walk"), 0) for place in (HERE, THERE, BEYOND)]
        left = changed.get((STREET, "walk"), 0) - sum(parts)
        assert left == 0 or abs(left) >= small, measure
    assert after[FAR, "walk"]["residents"] == 65


# For everybody


def test_files_are_what_their_hashes_say_and_open_in_a_spreadsheet(
    app: Flask, client: FlaskClient, session: Session, post: Post
) -> None:
    count(session, {HERE: 4, THERE: 12, FAR: 90})
    made = post("2026-10").json
    listed = client.get(URL).json
    assert listed["items"] == [made]
    assert listed["licence"] == source_of(app.extensions["tanpuhui_settings"].district_folder).licence
    digests = b""
    for file in sorted(made["files"], key=lambda each: (TABLES.index(each["table"]), each["format"])):
        answer = client.get(file["url"])
        assert hashlib.sha256(answer.data).hexdigest() == file["sha256"] == answer.headers["ETag"].strip('"')
        assert (answer.headers["Cache-Control"], len(answer.data)) == (
            "public, max-age=31536000, immutable",
            file["size_bytes"],
        )
        unchanged = client.get(file["url"], headers={"If-None-Match": answer.headers["ETag"]})
        assert (unchanged.status_code, unchanged.data) == (304, b"")
        digests += hashlib.sha256(answer.data).digest()
    assert hashlib.sha256(digests).hexdigest() == made["content_sha256"]
    assert client.get(f"{URL}/2026-10/activity.csv").headers["Cache-Control"] == "public, max-age=300"
    text = client.get(f"{URL}/2026-10/activity.csv").data.decode("utf-8-sig")
    (here,) = [row for row in csv.DictReader(io.StringIO(text)) if row["place_code"] == HERE]
    assert (here["release"], here["from"], here["category_zh"], here["residents"], here["weight_g"]) == (
        "2026-10.1",
        "2026-10-01",
        "步行（含每日步数）",
        "",
        "",
    )
    described = {table["code"]: table for table in client.get(f"{URL}/dictionary").json["tables"]}
    for file in made["files"]:
        head = next(csv.reader(io.StringIO(client.get(file["url"].replace("json", "csv")).data.decode("utf-8-sig"))))
        measures = {each["code"] for each in described[file["table"]]["measures"]}
        assert measures <= set(head), "every column is explained"


TABLES = ["participation", "campaign-participants", "activity", "recycling-materials", "carbon-savings"]


@pytest.mark.parametrize(
    "address",
    [
        "2026-10",
        "latest",
        "2026-10/activity.csv",
        "2026-10/activity.xlsx",
        "nonsense",
        "2026-10/../x",
        "2026-10/%00.csv",
    ],
)
def test_what_was_not_released_does_not_exist(client: FlaskClient, address: str) -> None:
    assert client.get(f"{URL}/{address}").status_code == 404


def test_only_the_district_itself_releases(
    client: FlaskClient, session: Session, sign_in_staff: Callable[..., Headers], staff: Headers
) -> None:
    count(session, {HERE: 30})
    session.add(
        Division(code="120103", level=DivisionLevel.DISTRICT, name="河西区", edition_on=OCTOBER, valid_from=OCTOBER)
    )
    session.commit()
    entry = {"period": "2026-10"}
    for role, division, status in (
        (Role.STREET, STREET, 403),
        (Role.COMMUNITY_STAFF, HERE, 403),
        (Role.OPERATOR, DISTRICT, 403),
        (Role.DISTRICT, "120103", 404),
    ):
        headers = sign_in_staff(role, division=division)
        assert client.post(f"{URL}/releases", json=entry, headers=headers).status_code == status, role
    keyed = {**staff, "Idempotency-Key": "release-2026-10"}
    first, second = (client.post(f"{URL}/releases", json=entry, headers=keyed) for _ in range(2))
    assert (first.status_code, second.status_code, second.data) == (201, 201, first.data)
    (audited,) = session.scalars(sa.select(AuditEntry).where(AuditEntry.act == "statistics.release"))
    assert audited.subject == "2026-10.1"
    for wrong in ({"period": "2026-13"}, {"period": "2026-10\n"}, {"period": "2026-10", "reason": " "}, {}):
        assert client.post(f"{URL}/releases", json=wrong, headers=staff).status_code == 422, wrong


def test_the_job_releases_what_is_due_and_leaves_the_rest(
    app: Flask, client: FlaskClient, session: Session, clock: time_machine.Traveller
) -> None:
    clock.move_to(datetime(2027, 1, 20, 12, tzinfo=SHANGHAI))
    for month in (10, 11, 12):
        count(session, {HERE: 30, FAR: 50}, on=date(2026, month, 1))
    count(session, {HERE: 30, FAR: 50}, grain=Grain.QUARTER)
    with app.app_context():
        jobs.release_statistics.func(0)
    # The year was not counted yet.
    names = [release["name"] for release in client.get(URL).json["items"]]
    assert names == ["2026-Q4.1", "2026-12.1", "2026-11.1", "2026-10.1"]
    with app.app_context():
        jobs.release_statistics.func(0)
    assert len(client.get(URL).json["items"]) == 4


def test_the_command_releases_and_says_so(app: Flask, session: Session) -> None:
    count(session, {HERE: 30, FAR: 50})
    runner = app.test_cli_runner()
    made = runner.invoke(args=["statistics", "release", "2026-10"])
    assert made.exit_code == 0, made.output
    assert "2026-10.1 released" in made.output
    assert "2026-10.1" in runner.invoke(args=["statistics", "releases"]).output
    again = runner.invoke(args=["statistics", "release", "2026-10"])
    assert (again.exit_code, "has been released" in again.output) == (1, True)
