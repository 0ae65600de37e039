"""What goes where, which site is near and open, and when the van comes next."""

import tomllib
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import time_machine
from flask.testing import FlaskClient
from points_builders import at
from sqlalchemy.orm import Session

from points.waste.catalogue import items, search
from points.waste.catalogue.items import Guide, GuideDataError
from points.waste.orders.models import PlanKind
from points.waste.orders.timetable import add_plan
from points.waste.sites import opening
from points.waste.sites.importing import load, read_file
from server.places.positions import Datum, Position
from server.settings import PLACES_DATA

NANKAI = PLACES_DATA / "nankai"
COLUMNS = (
    "code,kind,form,name,address,community_code,latitude,longitude,datum,categories,hours,"
    "partner_code,partner_site,devices,valid_from,valid_to"
)
# The clock stands at noon of Wednesday, 18 November 2026.
HERE = {"latitude": 39.137, "longitude": 117.150, "datum": "gcj-02"}
SMALL = """
id = "small-1"
title_zh = "小"
title_en = "Small"
edition_on = 2026-01-01
source = "test"
confidence = "R"
categories = [{code = "kitchen", zh = "厨余垃圾", en = "Kitchen waste", bin_zh = "绿色", bin_en = "green"}]
classes = [{code = "home-kitchen", category = "kitchen", zh = "家庭厨余", en = "Household", confidence = "V"}]
hints = {drain = ["沥干", "Drain it"]}
items = [{names = ["剩饭"], pinyin = ["sheng fan"], en = ["Leftover rice"], class = "home-kitchen", hint = "drain"}]
"""


@pytest.fixture(scope="module")
def guide() -> Guide:
    """The district's own list."""
    return items.guide_on(NANKAI, date(2026, 11, 23))


def first(guide: Guide, query: str) -> str | None:
    """The usual name of the best fit."""
    found = search.search(guide, query)
    return found[0].item.names[0].text if found else None


def names(guide: Guide, query: str) -> list[str]:
    return [each.matched for each in search.search(guide, query)]


def test_the_list_of_the_district_is_long_and_agrees_with_the_catalogue_of_materials(guide: Guide) -> None:
    assert len(guide.items) >= 300
    assert {each.code for each in guide.categories} == {"recyclable", "hazardous", "kitchen", "residual", "apart"}
    used = {each.item_class.code for each in guide.items}
    assert used == {each.code for each in guide.classes}
    catalogue = tomllib.loads((NANKAI / "catalogue-2026.toml").read_text("utf-8"))
    theirs = {each["code"]: each["category"] for each in catalogue["subclasses"]}
    ours = {each.code: each.category.code for each in guide.classes if each.category.code != "apart"}
    assert ours.items() <= theirs.items()


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("矿泉水瓶", "矿泉水瓶"),
        ("饮料瓶", "矿泉水瓶"),
        ("kuangquanshuiping", "矿泉水瓶"),
        ("Kuàng quán", "矿泉水瓶"),
        ("kqsp", "矿泉水瓶"),
        ("kuangqsp", "矿泉水瓶"),
        ("lvguan", "易拉罐"),
        ("luguan", "易拉罐"),
        ("lǜguàn", "易拉罐"),
        ("Ｕ盘", "U盘"),
        ("t恤", "旧衣服"),
        ("喝完的矿泉水瓶子", "矿泉水瓶"),
        ("玻璃的瓶子", "玻璃瓶"),
        ("AA battery", "干电池"),
        ("plastic bott", "矿泉水瓶"),
        ("过期药", "过期药品"),
        ("84", "消毒液"),
    ],
)
def test_a_thing_is_found_however_it_is_typed(guide: Guide, typed: str, found: str) -> None:
    assert first(guide, typed) == found


@pytest.mark.parametrize("typed", ["zzzz", "？！", "' '", "kqspx", "矿泉x", "🙂"])
def test_what_is_not_there_is_not_made_up(guide: Guide, typed: str) -> None:
    assert search.search(guide, typed) == []


def test_the_name_itself_comes_before_longer_names_and_later_parts(guide: Guide) -> None:
    found = names(guide, "药")
    assert found[0] == "药"
    assert found.index("药瓶") < found.index("农药")
    # Every battery, and nothing that merely has the characters apart.
    assert {"锂电池", "干电池", "蓄电池", "纽扣电池"} <= set(names(guide, "电池"))
    # Parts of a name at its beginning come before parts inside it.
    ranks = [each.match for each in search.search(guide, "dianchi")]
    assert ranks == sorted(ranks)


def test_letters_are_parted_into_syllables_in_every_way() -> None:
    xian = items.Name("西安", "西安", ("xi", "an"))
    assert search._spelled(xian, "xian") is search.Match.SAME
    assert search._spelled(xian, "xa") is search.Match.ALL
    assert search._spelled(xian, "xia") is search.Match.ALL
    assert search._spelled(xian, "x") is search.Match.START
    assert search._spelled(xian, "an") is search.Match.INSIDE
    assert search._spelled(xian, "xin") is None
    # 40 letters that could be parted in very many ways are followed at once.
    assert search._spelled(items.Name("啊", "啊", ("aaaa",) * 12), "a" * 40) is search.Match.ALL


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ('pinyin = ["sheng fan"]', 'pinyin = ["sheng"]', "1 syllables of pinyin instead of 2"),
        ('pinyin = ["sheng fan"]', 'pinyin = ["shèng fàn"]', "pinyin is syllables"),
        ('class = "home-kitchen", hint', 'class = "nowhere", hint', "not what is expected"),
        (
            'names = ["剩饭"], pinyin = ["sheng fan"]',
            'names = ["米", "米"], pinyin = ["mi", "mi"]',
            "stands there twice",
        ),
        ('hint = "drain"}]', 'hint = "drain", points = 3}]', "the keys must be"),
        ("edition_on = 2026-01-01", 'edition_on = "soon"', "edition_on must be a day"),
        ('confidence = "R"', 'confidence = "sure"', "not what is expected"),
        ("items = [{names", "item = [{names", "the keys must be"),
    ],
)
def test_a_list_that_cannot_be_told_is_refused_with_its_fault(
    tmp_path: Path, before: str, after: str, fault: str
) -> None:
    assert before in SMALL
    path = tmp_path / "waste-items-test.toml"
    path.write_text(SMALL, "utf-8")
    assert items.read_file(path).items[0].names[0].syllables == ("sheng", "fan")
    path.write_text(SMALL.replace(before, after, 1), "utf-8")
    with pytest.raises(GuideDataError, match=fault):
        items.read_file(path)


def test_the_edition_of_the_day_is_in_force(tmp_path: Path) -> None:
    (tmp_path / "waste-items-1.toml").write_text(SMALL, "utf-8")
    later = SMALL.replace("small-1", "small-2").replace("2026-01-01", "2027-01-01")
    (tmp_path / "waste-items-2.toml").write_text(later, "utf-8")
    assert items.guide_on(tmp_path, date(2026, 12, 31)).id == "small-1"
    assert items.guide_on(tmp_path, date(2027, 1, 1)).id == "small-2"
    with pytest.raises(items.NoGuide):
        items.guide_on(tmp_path / "nowhere", date(2027, 1, 1))


def test_anybody_may_search_page_by_page(client: FlaskClient) -> None:
    edition = client.get("/api/v1/waste/categories").get_json()
    assert edition["confidence"] == "R"
    assert edition["items"] >= 300

    found = client.get("/api/v1/waste/items", query_string={"query": "nc", "limit": 1}).get_json()
    assert found["items"][0].keys() >= {
        "name_zh",
        "matched",
        "category",
        "class",
        "hint_zh",
        "hint_en",
        "cities_differ",
    }
    both = client.get("/api/v1/waste/items", query_string={"query": "nc", "limit": 2}).get_json()["items"]
    after = client.get(
        "/api/v1/waste/items", query_string={"query": "nc", "limit": 1, "cursor": found["next_cursor"]}
    ).get_json()
    assert both == found["items"] + after["items"]

    every: list[str] = []
    cursor: str | None = None
    while True:
        query = {"category": "hazardous", "limit": 10, **({"cursor": cursor} if cursor else {})}
        page = client.get("/api/v1/waste/items", query_string=query).get_json()
        every += [each["name_zh"] for each in page["items"]]
        assert {each["category"] for each in page["items"]} == {"hazardous"}
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(every) == len(set(every)) > 20
    for refused in ({"query": "x" * 41}, {"query": ""}, {"limit": 0}, {"cursor": "!"}, {"colour": "red"}):
        assert client.get("/api/v1/waste/items", query_string=refused).status_code == 422, refused


@pytest.fixture
def sites(session: Session, tmp_path: Path, clock: time_machine.Traveller) -> Callable[..., None]:
    """A function that adds sites: code, degrees north of HERE, hours, and what else differs."""

    def add(*rows: tuple[str, float, str, dict[str, str]]) -> None:
        lines = [COLUMNS]
        for code, north, hours, other in rows:
            values = {
                "code": code,
                "kind": "sorting-site",
                "form": "bin-room",
                "name": code,
                "address": "somewhere",
                "community_code": "120104001001",
                "latitude": f"{HERE['latitude'] + north}",
                "longitude": f"{HERE['longitude']}",
                "datum": "gcj-02",
                "categories": "kitchen residual",
                "hours": hours,
                "valid_from": "2026-01-01",
                **other,
            }
            lines.append(",".join(values.get(column, "") for column in COLUMNS.split(",")))
        path = tmp_path / "sites.csv"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        load(session, read_file(path), now=datetime.now().astimezone())
        session.commit()
        opening.forget()

    return add


def near(client: FlaskClient, **query: Any) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/sites/near", query_string=query)
    assert answer.status_code == 200, answer.get_json()
    found: list[dict[str, Any]] = answer.get_json()["items"]
    return found


def test_the_nearest_open_site_comes_first_and_closed_ones_tell_when_they_open(
    client: FlaskClient, sites: Callable[..., None]
) -> None:
    sites(
        ("t-closed", 0.001, "daily 06:30-09:00 17:30-20:30", {}),
        ("t-open-far", 0.010, "daily 00:00-24:00", {}),
        ("t-open-near", 0.002, "daily 11:00-13:00", {}),
        ("t-other-town", 0.500, "daily 00:00-24:00", {}),
        ("t-ended", 0.001, "daily 00:00-24:00", {"valid_to": "2026-11-17"}),
        (
            "t-point",
            0.003,
            "daily 00:00-24:00",
            {"kind": "collection-point", "form": "station", "categories": "recyclable"},
        ),
    )

    found = near(client, **HERE)
    assert [each["code"] for each in found] == ["t-open-near", "t-point", "t-open-far", "t-closed"]
    # A thousandth of a degree of latitude is 111.2 m.
    assert [each["distance_m"] for each in found] == [220, 330, 1110, 110]
    assert datetime.fromisoformat(found[0]["closes_at"]) == at("18 13:00")
    closed = found[-1]
    assert (closed["open"], closed["today"]) == (False, ["06:30-09:00", "17:30-20:30"])
    assert datetime.fromisoformat(closed["opens_at"]) == at("18 17:30")

    assert [each["code"] for each in near(client, **HERE, open="true", category="kitchen")] == [
        "t-open-near",
        "t-open-far",
    ]
    assert [each["code"] for each in near(client, **HERE, kind="collection-point")] == ["t-point"]
    assert [each["code"] for each in near(client, **HERE, limit=1)] == ["t-open-near"]


def test_positions_of_browsers_and_of_maps_mean_the_same_place(client: FlaskClient, sites: Callable[..., None]) -> None:
    sites(("t-here", 0.0, "daily 00:00-24:00", {}))
    [as_map] = near(client, **HERE)
    assert as_map["distance_m"] == 0
    [unconverted] = near(client, **{**HERE, "datum": "wgs-84"})
    assert 400 < unconverted["distance_m"] < 800  # the shift of GCJ-02 in Tianjin
    browser = (HERE["latitude"] - 0.0012, HERE["longitude"] - 0.0063)  # whose GCJ-02 is about HERE
    converted = Position(*map(float, browser), Datum.WGS_84).in_gcj_02()
    [found] = near(client, latitude=browser[0], longitude=browser[1])
    [again] = near(client, latitude=converted.latitude, longitude=converted.longitude, datum="gcj-02")
    assert found["distance_m"] == again["distance_m"] < 150


def test_without_a_position_a_street_does(client: FlaskClient, sites: Callable[..., None]) -> None:
    sites(
        ("t-later", 0.001, "daily 19:00-20:00", {}),
        ("t-sooner", 0.002, "daily 13:00-14:00", {}),
        ("t-now", 0.003, "daily 00:00-24:00", {}),
        ("t-elsewhere", 0.003, "daily 00:00-24:00", {"community_code": "120104002001"}),
    )
    found = near(client, division="120104001")
    assert [each["code"] for each in found] == ["t-now", "t-sooner", "t-later"]
    assert {each["distance_m"] for each in found} == {None}
    for refused in (
        {"latitude": 39},
        {"latitude": 91, "longitude": 0},
        {"latitude": "nan", "longitude": 0},
        {"limit": 51},
    ):
        assert client.get("/api/v1/sites/near", query_string=refused).status_code == 422, refused


def test_the_van_is_told_by_its_next_stop_at_each_place(
    client: FlaskClient, session: Session, clock: time_machine.Traveller
) -> None:
    for code, north, starts, ends, weekdays in (
        ("stop-over", 0.001, 9 * 60, 11 * 60, [3]),  # this morning: again in a week
        ("stop-now", 0.020, 11 * 60, 13 * 60, [1, 2, 3, 4, 5]),
        ("stop-soon", 0.010, 15 * 60, 16 * 60, [3, 4]),
    ):
        entry = {
            "kind": PlanKind.STOP,
            "code": code,
            "name": code,
            "division": "120104001001",
            "address": "somewhere",
            "latitude": 39.0 + north,
            "longitude": 117.0,
            "weekdays": weekdays,
            "starts_minute": starts,
            "ends_minute": ends,
            "capacity": 5,
            "valid_from": date(2026, 1, 1),
        }
        add_plan(session, entry, created_by=None, now=at("18 12:00"))
    session.commit()

    def stops(**query: Any) -> list[dict[str, Any]]:
        answer = client.get("/api/v1/recycling/stops/near", query_string=query)
        assert answer.status_code == 200, answer.get_json()
        return [each for each in answer.get_json()["items"] if each["code"].startswith("stop-")]

    soonest = stops(division="120104001001", limit=50)
    assert [each["code"] for each in soonest] == ["stop-now", "stop-soon", "stop-over"]
    assert datetime.fromisoformat(soonest[2]["starts_at"]) == at("25 09:00")
    nearest = stops(latitude=39.0, longitude=117.0, limit=50)
    assert [(each["code"], each["distance_m"]) for each in nearest] == [
        ("stop-over", 110),
        ("stop-soon", 1110),
        ("stop-now", 2230),  # both are converted, and the shift differs a little from place to place
    ]
