"""A resident's own records over HTTP: trips by hand, steps, history, savings; and the district's corrections."""

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from flask.testing import FlaskClient
from points_builders import NOON, at, balances, claim, digest, drop, points_of, transferred, wrong
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from points.earning import activities, pricing
from points.earning.award import award
from points.ledger import entries
from points.ledger.models import ISSUANCE
from server import paging
from server.access import Role
from server.database import new_id

TRIPS, HISTORY = "/api/v1/me/activities/trips", "/api/v1/me/activities"
Headers = dict[str, str]

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture
def alice(make_resident: Callable[..., UUID]) -> UUID:
    return make_resident()


@pytest.fixture
def headers(alice: UUID, headers_of: Callable[..., Headers]) -> Headers:
    return headers_of(alice, is_resident=True)


def trip(start: str = "18 08:00", minutes: int = 30, **changes: Any) -> dict[str, Any]:
    """A walk of 2 km in half an hour by hand: 6 points, of 20 a day."""
    known = {
        "mode": "walk",
        "started_at": at(start).isoformat(),
        "ended_at": (at(start) + timedelta(minutes=minutes)).isoformat(),
        "distance_m": 2000,
    }
    return {key: value for key, value in {**known, **changes}.items() if value is not None}


def code(answer: TestResponse) -> tuple[int, str | None]:
    assert (answer.content_type == "application/problem+json") == (answer.status_code >= 400), answer.text
    assert answer.json is not None
    return answer.status_code, answer.json.get("code") if isinstance(answer.json, dict) else None


def found(answer: TestResponse) -> Any:
    """The body of a good answer."""
    assert answer.status_code in {200, 201}, answer.text
    return answer.json


# Trips by hand


def test_a_walk_recorded_by_hand_is_awarded_at_the_lowest_grade(
    client: FlaskClient, session: Session, headers: Headers, alice: UUID
) -> None:
    answer = client.post(TRIPS, json=trip(), headers=headers)
    made = found(answer)
    assert answer.status_code == 201
    assert (made["outcome"], made["reason"], made["points"], made["saved_co2e_mg"]) == ("awarded", None, 6, 0)
    shown = found(client.get(f"{HISTORY}/{made['activity_id']}", headers=headers))
    assert (shown["grade"], shown["source"], shown["behaviour"]) == ("self-declared", "self", "walk")
    assert (shown["business_day"], shown["rule_version_id"]) == ("2026-11-18", "nankai-2026-1")
    assert transferred(session, alice) == 6
    assert wrong(session) == {}


def test_a_ride_saves_what_its_method_says_and_a_walk_nothing(client: FlaskClient, headers: Headers) -> None:
    made = found(client.post(TRIPS, json=trip(mode="bicycle", distance_m=5000), headers=headers))
    assert (made["points"], made["saved_co2e_mg"]) == (10, 5 * 39_600)


def test_the_days_cap_holds_by_hand_and_says_so_in_both_languages(client: FlaskClient, headers: Headers) -> None:
    made = [found(client.post(TRIPS, json=trip(f"18 0{hour}:00"), headers=headers)) for hour in range(5)]
    assert [each["points"] for each in made] == [6, 6, 6, 2, 0]
    assert [each["reason"] for each in made] == [None, None, None, "cap-reached", "cap-reached"]
    assert (made[4]["reason_zh"], made[4]["reason_en"]) == (
        "已达到当日或当周积分上限",
        "The day's or the week's cap of points is reached",
    )
    page = found(client.get(HISTORY, headers=headers))
    assert [(each["points"], each["reason"], each["priced_points"]) for each in page["items"][:3]] == [
        (0, "cap-reached", 6),
        (2, "cap-reached", 6),
        (6, None, 6),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"distance_m": 499}, "below-minimum"),
        ({"distance_m": 15_001, "minutes": 200}, "above-maximum"),
        ({"distance_m": 5000}, "too-fast"),
        ({"start": "10 08:00"}, "too-late"),
        ({"start": "18 12:30"}, "in-the-future"),
        ({"minutes": 0}, "bad-time-span"),
        ({"minutes": -5}, "bad-time-span"),
        ({"minutes": -10_000}, "bad-time-span"),
        ({"start": "17 08:00", "minutes": 721}, "bad-time-span"),
        ({"start": "17 08:00", "minutes": 2000}, "bad-time-span"),
        ({"started_at": "2000-01-01T00:00:00+14:00"}, "no-rule"),
        ({"ended_at": "2100-12-31T23:59:59-12:00"}, "bad-time-span"),
    ],
)
def test_a_trip_that_breaks_a_rule_is_recorded_as_refused_with_the_reason(
    client: FlaskClient, session: Session, headers: Headers, alice: UUID, changes: dict[str, Any], reason: str
) -> None:
    made = found(client.post(TRIPS, json=trip(**changes), headers=headers))
    assert (made["outcome"], made["reason"], made["points"]) == ("refused", reason, 0)
    assert made["reason_zh"]
    [shown] = found(client.get(HISTORY, headers=headers))["items"]
    assert (shown["outcome"], shown["reason"], shown["id"]) == ("refused", reason, made["activity_id"])
    assert transferred(session, alice) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "car"},
        {"mode": None},
        {"distance_m": 0},
        {"distance_m": -1},
        {"distance_m": 1_000_001},
        {"distance_m": "2000"},
        {"distance_m": 2000.5},
        {"distance_m": None},
        {"started_at": "2026-11-18T08:00:00"},
        {"started_at": "yesterday"},
        {"started_at": "1999-12-31T23:00:00+08:00"},
        {"ended_at": "2101-01-01T00:00:00+08:00"},
        {"ended_at": "9999-12-31T23:59:59-10:00"},
        {"ended_at": None},
        {"client_id": "short"},
        {"client_id": "x" * 65},
        {"client_id": "phone-00001\n"},
        {"client_id": "phone 00001"},
        {"points": 1000},
        {"resident_id": "00000000-0000-0000-0000-000000000001"},
    ],
)
def test_a_trip_that_does_not_fit_the_schema_is_refused_and_not_recorded(
    client: FlaskClient, session: Session, headers: Headers, changes: dict[str, Any]
) -> None:
    answer = client.post(TRIPS, json=trip(**changes), headers=headers)
    assert code(answer) == (422, "invalid-request")
    assert digest(session, "count(*)", table="activity") == [(0,)]


def test_a_trip_sent_again_with_the_same_client_id_is_not_paid_twice(
    client: FlaskClient, session: Session, headers: Headers, alice: UUID
) -> None:
    first = found(client.post(TRIPS, json=trip(client_id="phone-0001"), headers=headers))
    again = found(client.post(TRIPS, json=trip(client_id="phone-0001"), headers=headers))
    assert (first["outcome"], again["outcome"], again["reason"]) == ("awarded", "duplicate", "duplicate")
    assert (again["activity_id"], again["points"]) == (None, 0)
    other = found(client.post(TRIPS, json=trip("18 09:00", client_id="phone-0002"), headers=headers))
    assert other["outcome"] == "awarded"
    assert transferred(session, alice) == 12


def test_a_trip_without_an_id_cannot_be_paid_twice_either_for_it_overlaps_itself(
    client: FlaskClient, session: Session, headers: Headers, alice: UUID
) -> None:
    outcomes = [found(client.post(TRIPS, json=trip(), headers=headers)) for _ in range(2)]
    assert [each["reason"] for each in outcomes] == [None, "overlaps-another-trip"]
    assert transferred(session, alice) == 6


def test_an_idempotency_key_gives_the_first_answer_again(
    client: FlaskClient, session: Session, headers: Headers, alice: UUID
) -> None:
    keyed = {**headers, "Idempotency-Key": "trip-00001"}
    first, second = (client.post(TRIPS, json=trip(), headers=keyed) for _ in range(2))
    assert (second.status_code, second.data) == (201, first.data)
    assert code(client.post(TRIPS, json=trip("18 09:00"), headers=keyed)) == (422, "idempotency-key-reused")
    assert transferred(session, alice) == 6


def test_a_home_community_comes_first(
    client: FlaskClient, make_resident: Callable[..., UUID], headers_of: Callable[..., Headers]
) -> None:
    headers = headers_of(make_resident(None), is_resident=True)
    assert code(client.post(TRIPS, json=trip(), headers=headers)) == (409, "home-community-missing")


# Reading one's own


def pages(client: FlaskClient, headers: Headers, address: str, between: Callable[[], object]) -> list[str]:
    """Every id of a list by pages of three, something happening between two pages."""
    seen: list[str] = []
    cursor = None
    for _ in range(20):
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = found(client.get(address, query_string=query, headers=headers))
        seen += [each["id"] for each in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return seen
        between()
    raise AssertionError("the pages have no end")


@pytest.mark.parametrize("address", [HISTORY, "/api/v1/me/transfers"])
def test_the_pages_stay_the_same_while_new_rows_arrive(
    client: FlaskClient,
    session: Session,
    headers: Headers,
    alice: UUID,
    make_resident: Callable[..., UUID],
    address: str,
) -> None:
    def more() -> None:
        points_of(session, alice, now=NOON, points=1)
        session.commit()

    for _ in range(10):
        more()
    other = make_resident()
    points_of(session, other, now=NOON, points=1)
    session.commit()
    everything = [each["id"] for each in found(client.get(address, headers=headers))["items"]]
    assert len(everything) == 10
    assert everything == sorted(everything, reverse=True)
    assert pages(client, headers, address, more) == everything
    assert pages(client, headers, address, lambda: None)[-10:] == everything


BAD_CURSORS = [
    "x",
    "é",
    "====",
    "%00",
    *(
        base64.urlsafe_b64encode(raw).decode().rstrip("=")
        for raw in (
            b"[]",
            b"{}",
            b"[1]",
            b'["x"]',
            b"[null]",
            b'["\xff"]',
            b"[[[[[[",
            b'["01a20000-0000-7000-8000-000000000001", 2]',
        )
    ),
]


@pytest.mark.parametrize("cursor", BAD_CURSORS)
@pytest.mark.parametrize("address", [HISTORY, "/api/v1/me/transfers", "/api/v1/me/redemptions"])
def test_a_cursor_from_elsewhere_is_refused(client: FlaskClient, headers: Headers, address: str, cursor: str) -> None:
    answer = client.get(address, query_string={"cursor": cursor}, headers=headers)
    assert code(answer) == (422, "bad-cursor")


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 201}, {"limit": "all"}, {"cursor": ""}, {"cursor": "x" * 301}, {"page": 2}]
)
def test_a_page_has_bounds(client: FlaskClient, headers: Headers, query: dict[str, Any]) -> None:
    assert code(client.get(HISTORY, query_string=query, headers=headers)) == (422, "invalid-request")


def test_another_persons_activity_is_not_found(
    client: FlaskClient, session: Session, headers: Headers, make_resident: Callable[..., UUID]
) -> None:
    theirs = points_of(session, make_resident(), now=NOON, points=5)
    session.commit()
    assert code(client.get(f"{HISTORY}/{theirs}", headers=headers)) == (404, "not-found")
    assert code(client.get(f"{HISTORY}/{new_id()}", headers=headers)) == (404, "not-found")


def test_the_wallet_shows_what_ends_when_and_the_debt(
    client: FlaskClient,
    session: Session,
    alice: UUID,
    headers_of: Callable[..., Headers],
    clock: time_machine.Traveller,
) -> None:
    def wallet() -> Any:
        return found(client.get("/api/v1/me/wallet", headers=headers_of(alice, is_resident=True)))

    assert wallet() == {"balance_points": 0, "debt_points": 0, "lots": []}
    points_of(session, alice, now=NOON, points=20)
    granted = entries.grant(session, alice, 7, account_id=ISSUANCE, expires_on=NOON.date(), reason="welcome", now=NOON)
    session.commit()
    assert wallet() == {
        "balance_points": 27,
        "debt_points": 0,
        "lots": [{"expires_on": "2026-11-18", "points": 7}, {"expires_on": "2027-12-31", "points": 20}],
    }
    clock.move_to(at("19 00:00"))
    assert wallet()["balance_points"] == 20
    clock.move_to(NOON)
    entries.spend(session, alice, new_id(), 27, account_id=2, reason="test", now=NOON)
    entries.reverse(session, alice, granted, reason="mistake", now=NOON)
    session.commit()
    assert wallet() == {"balance_points": -7, "debt_points": 7, "lots": []}


def test_the_statement_tells_every_movement_and_why(
    client: FlaskClient, session: Session, headers: Headers, alice: UUID
) -> None:
    points_of(session, alice, now=NOON, points=20)
    spent = new_id()
    entries.spend(session, alice, spent, 5, account_id=2, reason="redeem:cloth-bag", now=NOON)
    entries.reverse(session, alice, spent, reason="out of order", now=NOON)
    session.commit()
    rows = found(client.get("/api/v1/me/transfers", headers=headers))["items"]
    assert [(row["kind"], row["points"], row["reason"]) for row in rows] == [
        ("reversal", 5, "out of order"),
        ("spend", -5, "redeem:cloth-bag"),
        ("award", 20, None),
    ]
    assert rows[0]["reverses_id"] == str(spent)
    assert rows[2]["expires_on"] == "2027-12-31"


def test_savings_are_told_by_method_and_never_added_up(
    client: FlaskClient, session: Session, headers: Headers, alice: UUID, make_resident: Callable[..., UUID]
) -> None:
    claims = [
        claim(alice, "metro", start=at("16 08:00"), distance_m=10_000),
        claim(alice, "bus", start=at("17 08:00"), distance_m=3_333),
        claim(alice, "recycling", mode="aluminium_can", weight_g=1000, start=at("17 09:00")),
        drop(alice, start=at("17 09:00")),
        claim(alice, "bus", start=at("17 08:10")),
        claim(make_resident(), "metro", start=at("16 08:00")),
    ]
    award(session, claims, now=NOON)
    session.commit()
    told = found(client.get("/api/v1/me/savings", headers=headers))
    assert (told["from"], told["to"]) == ("2026-10-20", "2026-11-18")
    assert told.keys() == {"from", "to", "methods"}
    travel, recycling = told["methods"]
    assert travel == {
        "method_id": "published-conservative",
        "saved_co2e_g": (10 * 46_800 + 3_333 * 26_900 // 1000) // 1000,
        "activities": 2,
    }
    assert (recycling["method_id"], recycling["activities"]) == ("warm-v16", 1)
    assert recycling["saved_co2e_g"] > 1000
    one_day = found(client.get("/api/v1/me/savings?from=2026-11-17&to=2026-11-17", headers=headers))
    assert [each["activities"] for each in one_day["methods"]] == [1, 1]


def test_figures_of_two_methods_for_the_same_kind_of_trip_stay_apart(
    session: Session, alice: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    tariff = pricing.read(session).on(NOON.date())
    assert tariff is not None
    key = ("bus", "bus", "partner-signed")
    other = pricing.Rate(
        **{
            **{name: getattr(tariff.rates[key], name) for name in pricing.Rate.__struct_fields__},
            "method_id": "jjj-2024-unconfirmed",
        }
    )
    award(session, [claim(alice, start=at("18 08:00"))], now=NOON)
    changed = pricing.Tariffs((replace(tariff, rates={**tariff.rates, key: other}),))
    monkeypatch.setattr(pricing, "current", lambda _: changed)
    award(session, [claim(alice, start=at("18 09:00"))], now=NOON)
    told = activities.savings(session, alice, first=NOON.date(), last=NOON.date())
    assert [(each.method_id, each.activities) for each in told] == [
        ("jjj-2024-unconfirmed", 1),
        ("published-conservative", 1),
    ]


@pytest.mark.parametrize(
    "query",
    [
        "from=2026-11-18&to=2026-11-17",
        "from=2024-11-17&to=2026-11-18",
        "from=yesterday",
        "to=0001-01-01&from=0001-01-02",
        "colour=red",
    ],
)
def test_a_period_of_savings_has_bounds(client: FlaskClient, headers: Headers, query: str) -> None:
    assert code(client.get(f"/api/v1/me/savings?{query}", headers=headers)) == (422, "invalid-request")


def test_the_ends_of_the_calendar_are_no_fault(client: FlaskClient, headers: Headers) -> None:
    for query, status in (("to=0001-01-01", 422), ("to=9999-12-31", 200), ("from=0001-01-01&to=0001-01-01", 200)):
        assert client.get(f"/api/v1/me/savings?{query}", headers=headers).status_code == status, query


# Steps


class Phone:
    """A resident's phone: signs in, and hands over what wx.getWeRunData gives."""

    def __init__(self, client: FlaskClient, standin: Any, user: str) -> None:
        self.client, self.standin, self.user = client, standin, user
        self.headers: Headers = {}

    def sign_in(self) -> None:
        answer = self.client.post(
            "/api/v1/sign-in/wechat", json={"code": self.standin.login(self.user), "accept_terms": True}
        )
        self.headers = {"Authorization": f"Bearer {found(answer)['access_token']}"}

    def choose_home(self) -> None:
        found(self.client.patch("/api/v1/me", json={"community_code": "120104001001"}, headers=self.headers))

    def consent(self) -> None:
        found(self.client.put("/api/v1/me/consents/werun-steps", json={}, headers=self.headers))

    def data(self, **days: int) -> dict[str, Any]:
        steps = {f"2026-11-{day[1:]}": count for day, count in days.items()}
        sealed = self.standin.post("/phone/werun", user=self.user, steps=steps)
        return {"encrypted_data": sealed["encryptedData"], "iv": sealed["iv"]}

    def sync(self, **days: int) -> TestResponse:
        return self.client.post("/api/v1/me/activities/steps", json=self.data(**days), headers=self.headers)


@pytest.fixture
def phone(client: FlaskClient, standin: Any) -> Phone:
    """The phone of somebody new, signed in, at home, with the consent given."""
    phone = Phone(client, standin, f"walker-{new_id().hex[:12]}")
    phone.sign_in()
    phone.choose_home()
    phone.consent()
    return phone


def paid(answer: TestResponse) -> list[tuple[str, str | None, int]]:
    return [(each["outcome"], each["reason"], each["points"]) for each in found(answer)]


def test_steps_pay_each_day_only_what_was_added_since_the_last_sync(phone: Phone, session: Session) -> None:
    assert paid(phone.sync(d17=6000, d18=2600)) == [("awarded", None, 12), ("awarded", None, 5)]
    assert paid(phone.sync(d17=6000, d18=2600)) == []
    assert paid(phone.sync(d17=6000, d18=3000)) == [("awarded", None, 1)]
    assert paid(phone.sync(d17=5000, d18=0)) == []
    assert paid(phone.sync(d18=40_000)) == [("awarded", "cap-reached", 14)]
    person = session.execute(sa.text("SELECT DISTINCT resident_id FROM activity")).scalar_one()
    assert transferred(session, person) == 12 + 20
    assert digest(session, "sum(steps)", table="activity") == [(46_000,)]
    assert wrong(session) == {}


def test_many_syncs_of_a_day_earn_what_one_would(phone: Phone, session: Session) -> None:
    for steps in range(400, 4001, 400):
        phone.sync(d18=steps)
    assert digest(session, "sum(points)", table="transfer") == [(8,)]
    # Ten syncs are one day's walking, in the resident's chart and in the community's report.
    assert digest(session, "sum(activities), sum(points)", table="resident_day") == [(1, 8)]
    assert digest(session, "sum(activities), sum(points)", table="community_day") == [(1, 8)]
    assert wrong(session) == {}


def test_days_past_the_closing_day_are_refused_and_told_once(phone: Phone, session: Session) -> None:
    assert paid(phone.sync(d10=8000, d11=8000)) == [("refused", "too-late", 0), ("awarded", None, 16)]
    assert paid(phone.sync(d10=8000, d11=8000)) == []


def test_steps_and_a_walk_by_hand_share_one_cap_and_no_step_is_paid_twice(phone: Phone, client: FlaskClient) -> None:
    walked = found(client.post(TRIPS, json=trip(), headers=phone.headers))
    assert (walked["points"], walked["reason"]) == (6, None)
    # 2,000 m at 0.6 m are 3,334 of the 12,000 steps.
    assert paid(phone.sync(d18=12_000)) == [("awarded", "cap-reached", 14)]


def test_a_walk_by_hand_that_its_steps_have_paid_is_kept_beside_them_with_the_reason(
    phone: Phone, client: FlaskClient
) -> None:
    assert paid(phone.sync(d18=4000)) == [("awarded", None, 8)]
    made = found(client.post(TRIPS, json=trip(), headers=phone.headers))
    assert (made["outcome"], made["reason"], made["points"]) == ("refused", "paid-as-steps", 0)
    kept = found(client.get(HISTORY, headers=phone.headers))["items"]
    assert [each["mode"] for each in kept] == ["walk", "steps"]


def test_without_the_consent_or_after_its_end_no_steps_are_taken(phone: Phone, client: FlaskClient) -> None:
    assert client.delete("/api/v1/me/consents/werun-steps", headers=phone.headers).status_code == 204
    assert code(phone.sync(d18=2600)) == (409, "consent-missing")
    phone.consent()
    assert paid(phone.sync(d18=2600)) == [("awarded", None, 5)]


def test_steps_want_a_home_community(client: FlaskClient, standin: Any) -> None:
    phone = Phone(client, standin, f"walker-{new_id().hex[:12]}")
    phone.sign_in()
    phone.consent()
    assert code(phone.sync(d18=2600)) == (409, "home-community-missing")


def test_another_persons_or_an_old_sessions_data_cannot_be_read(
    phone: Phone, client: FlaskClient, standin: Any, session: Session, clock: time_machine.Traveller
) -> None:
    other = Phone(client, standin, f"walker-{new_id().hex[:12]}")
    answer = client.post("/api/v1/me/activities/steps", json=other.data(d18=9000), headers=phone.headers)
    assert answer.status_code in {400, 409, 422}
    assert answer.json["code"].startswith("wechat")  # type: ignore[index]
    standin.post("/phone/new-session", user=phone.user)
    assert phone.sync(d18=9000).json["code"].startswith("wechat")  # type: ignore[index, union-attr]
    phone.sign_in()
    kept = phone.data(d18=9000)
    clock.shift(timedelta(days=2).total_seconds())
    phone.sign_in()
    old = client.post("/api/v1/me/activities/steps", json=kept, headers=phone.headers)
    assert old.json["code"].startswith("wechat")  # type: ignore[index]
    assert digest(session, "count(*)", table="activity") == [(0,)]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"encrypted_data": "", "iv": "x"},
        {"encrypted_data": "x" * 16_385, "iv": "x"},
        {"encrypted_data": 1, "iv": 2},
    ],
)
def test_steps_that_do_not_fit_the_schema_are_refused(phone: Phone, client: FlaskClient, body: dict[str, Any]) -> None:
    answer = client.post("/api/v1/me/activities/steps", json=body, headers=phone.headers)
    assert code(answer) == (422, "invalid-request")


# The district's corrections


@pytest.fixture
def keyed(sign_in_staff: Callable[..., Headers]) -> Callable[..., Headers]:
    """A function that signs district staff in and adds an Idempotency-Key."""

    def make(division: str = "120104", role: Role = Role.DISTRICT, key: str = "correct-0001") -> Headers:
        return {**sign_in_staff(role, division=division), "Idempotency-Key": key}

    return make


def revocation(resident_id: UUID, activity_id: object) -> str:
    return f"/api/v1/residents/{resident_id}/activities/{activity_id}/revocation"


def test_the_district_takes_an_activity_back_and_the_resident_reads_why(
    client: FlaskClient, session: Session, alice: UUID, headers: Headers, keyed: Callable[..., Headers]
) -> None:
    activity_id = points_of(session, alice, now=NOON, points=30)
    session.commit()
    staff = keyed()
    body = {"reason": "另一人的回收物"}
    answer = client.post(revocation(alice, activity_id), json=body, headers=staff)
    assert (found(answer)["outcome"], found(answer)["reason"], found(answer)["points"]) == ("reversed", "revoked", 0)
    again = client.post(revocation(alice, activity_id), json=body, headers=staff)
    assert (again.data, again.headers["Idempotent-Replayed"]) == (answer.data, "true")
    twice = client.post(revocation(alice, activity_id), json=body, headers={**staff, "Idempotency-Key": "correct-0002"})
    assert code(twice) == (409, "already-revoked")
    [reversal, _] = found(client.get("/api/v1/me/transfers", headers=headers))["items"]
    assert (reversal["kind"], reversal["points"], reversal["reason"]) == ("reversal", -30, "另一人的回收物")
    assert balances(session, alice) == ({}, 0)
    acts = digest(session, "act", "subject", "detail->>'reason'", table="audit_entry")
    assert acts == [("activity.revoke", f"activity:{activity_id}", "另一人的回收物")]
    assert wrong(session) == {}


@pytest.mark.parametrize(
    ("role", "division", "status"),
    [
        (Role.DISTRICT, "120104", 200),
        (Role.DISTRICT, "120104002", 404),
        (Role.STREET, "120104001", 403),
        (Role.COMMUNITY_STAFF, "120104001001", 403),
        (Role.OPERATOR, "120104", 403),
    ],
)
def test_only_the_district_office_revokes_and_only_in_its_scope(
    client: FlaskClient,
    session: Session,
    alice: UUID,
    keyed: Callable[..., Headers],
    role: Role,
    division: str,
    status: int,
) -> None:
    activity_id = points_of(session, alice, now=NOON, points=30)
    session.commit()
    answer = client.post(revocation(alice, activity_id), json={"reason": "test"}, headers=keyed(division, role))
    assert answer.status_code == status
    assert transferred(session, alice) == (0 if status == 200 else 30)
    assert digest(session, "count(*)", table="audit_entry") == [(1 if status == 200 else 0,)]


def test_a_resident_revokes_nothing_and_a_revocation_wants_a_key_and_a_reason(
    client: FlaskClient, session: Session, alice: UUID, headers: Headers, keyed: Callable[..., Headers]
) -> None:
    address = revocation(alice, points_of(session, alice, now=NOON, points=30))
    session.commit()
    own = {**headers, "Idempotency-Key": "correct-0001"}
    assert code(client.post(address, json={"reason": "test"}, headers=own)) == (403, "forbidden")
    staff = keyed()
    assert code(client.post(address, json={"reason": ""}, headers=staff)) == (422, "invalid-request")
    assert code(client.post(address, json={"reason": "x" * 201}, headers=staff)) == (422, "invalid-request")
    del staff["Idempotency-Key"]
    assert code(client.post(address, json={"reason": "test"}, headers=staff)) == (400, "idempotency-key-required")
    assert transferred(session, alice) == 30


def test_an_activity_is_revoked_only_under_its_own_resident(
    client: FlaskClient,
    session: Session,
    alice: UUID,
    make_resident: Callable[..., UUID],
    keyed: Callable[..., Headers],
) -> None:
    activity_id = points_of(session, alice, now=NOON, points=30)
    session.commit()
    body = {"reason": "test"}
    staff = keyed()
    for address in (
        revocation(make_resident(), activity_id),
        revocation(alice, new_id()),
        revocation(new_id(), activity_id),
    ):
        assert code(client.post(address, json=body, headers=staff)) == (404, "not-found")
    assert client.post(revocation(alice, "x"), json=body, headers=staff).status_code == 404
    assert transferred(session, alice) == 30


def test_a_spend_is_reversed_once_by_the_district_and_an_award_only_by_its_activity(
    client: FlaskClient, session: Session, alice: UUID, keyed: Callable[..., Headers]
) -> None:
    awarded = points_of(session, alice, now=NOON, points=30)
    spent = new_id()
    entries.spend(session, alice, spent, 12, account_id=2, reason="test", now=NOON)
    session.commit()

    def reverse(transfer_id: UUID, number: int, division: str = "120104") -> TestResponse:
        address = f"/api/v1/residents/{alice}/transfers/{transfer_id}/reversal"
        return client.post(address, json={"reason": "broken"}, headers=keyed(division, key=f"correct-{number:04}"))

    assert code(reverse(awarded, 1)) == (409, "not-reversible")
    assert code(reverse(spent, 2, "120104002")) == (404, "not-found")
    assert code(reverse(spent, 3)) == (201, None)
    assert code(reverse(spent, 4)) == (409, "already-reversed")
    assert code(reverse(new_id(), 5)) == (404, "not-found")
    assert transferred(session, alice) == 30
    assert digest(session, "act", table="audit_entry") == [("transfer.reverse",)]
    assert wrong(session) == {}


def test_a_cursor_is_the_key_of_a_row_and_goes_both_ways() -> None:
    key = new_id()
    assert paging.decode(paging.encode([key]), tuple[UUID]) == (key,)
