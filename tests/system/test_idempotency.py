"""An Idempotency-Key: one effect, the first answer again, and nothing kept of what was refused."""

import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx
import pytest
from district import District, code_of, walk

from server import housekeeping
from server.access import Role
from server.idempotency import KEPT_FOR

REDEMPTIONS = "/api/v1/me/redemptions"
TRIPS = "/api/v1/me/activities/trips"


@pytest.fixture
def spender(district: District) -> tuple[UUID, dict[str, str], UUID]:
    """A resident with 100 points, their headers, and a reward for 10."""
    (person,) = district.residents(1, points=100)
    return person, district.sign_in(person), district.reward(cost=10, stock=100)


def spent(district: District, person: UUID) -> int:
    return int(district.value("SELECT count(*) FROM redemption WHERE resident_id = %s", person))


def kept(district: District, person: UUID) -> int:
    return int(district.value("SELECT count(*) FROM idempotency_record WHERE actor_id = %s", person))


def test_the_same_request_gets_the_first_answer_again(district: District, spender: Any) -> None:
    person, headers, reward = spender
    first = district.spend(headers, reward, "the-same-key")
    again = district.spend(headers, reward, "the-same-key")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert spent(district, person) == 1


@pytest.mark.parametrize(
    "other",
    [
        lambda http, headers, reward: http.post(
            REDEMPTIONS, json={"reward_id": secrets.token_hex(16)}, headers=headers
        ),
        lambda http, headers, reward: http.post(f"{REDEMPTIONS}?a=b", json={"reward_id": str(reward)}, headers=headers),
        lambda http, headers, reward: http.post(TRIPS, json=walk(1), headers=headers),
        lambda http, headers, reward: http.put(
            "/api/v1/me/partners/any", json={"member_id": "m-1", "consent": True}, headers=headers
        ),
    ],
    ids=["body", "query", "address", "method"],
)
def test_another_request_under_the_same_key_is_refused(
    district: District, spender: Any, other: Callable[[httpx.Client, dict[str, str], UUID], httpx.Response]
) -> None:
    person, headers, reward = spender
    assert district.spend(headers, reward, "the-same-key").status_code == 201
    answer = other(district.http, {**headers, "Idempotency-Key": "the-same-key"}, reward)
    assert (answer.status_code, code_of(answer)) == (422, "idempotency-key-reused")
    assert (spent(district, person), kept(district, person)) == (1, 1)


def plain_digest(answer: httpx.Response) -> bytes:
    """The digest of a request that whoever guesses it can work out."""
    asked = answer.request
    return hashlib.sha256(b"\0".join((asked.method.encode(), f"{asked.url.path}?".encode(), asked.content))).digest()


def test_what_was_asked_is_not_found_by_trying(district: District, spender: Any) -> None:
    person, headers, reward = spender
    first = district.spend(headers, reward, "kept-as-a-digest")
    digest = "SELECT request_sha256 FROM idempotency_record WHERE actor_id = %s"
    assert bytes(district.value(digest, person)) != plain_digest(first), "it can be, without the data key"


def test_a_request_kept_before_its_digest_had_a_key_gets_its_first_answer_again(
    district: District, spender: Any
) -> None:
    person, headers, reward = spender
    first = district.spend(headers, reward, "from-before-the-key")
    with district.connect() as connection:
        older = "UPDATE idempotency_record SET request_sha256 = %s WHERE actor_id = %s"
        connection.execute(older, (plain_digest(first), person))
    again = district.spend(headers, reward, "from-before-the-key")
    assert (again.status_code, again.content) == (201, first.content)
    other = district.spend(headers, district.reward(cost=1, stock=1), "from-before-the-key")
    assert (other.status_code, code_of(other)) == (422, "idempotency-key-reused")
    assert spent(district, person) == 1


def test_a_request_whose_first_still_runs_is_told_so(district: District, spender: Any) -> None:
    person, headers, reward = spender
    with ThreadPoolExecutor(1) as pool, district.connect(autocommit=False) as holder:
        holder.execute("SELECT 1 FROM lot WHERE resident_id = %s FOR UPDATE", (person,))
        first = pool.submit(district.spend, headers, reward, "still-running")
        district.wait_for_waiters()
        second = district.spend(headers, reward, "still-running")
        assert (second.status_code, code_of(second)) == (409, "request-still-running")
        holder.rollback()
        assert first.result(10).status_code == 201
    third = district.spend(headers, reward, "still-running")
    assert third.content == first.result().content
    assert spent(district, person) == 1


def test_another_key_does_not_wait_for_a_running_request(district: District, spender: Any) -> None:
    person, headers, reward = spender
    with ThreadPoolExecutor(1) as pool, district.connect(autocommit=False) as holder:
        holder.execute("SELECT 1 FROM lot WHERE resident_id = %s FOR UPDATE", (person,))
        first = pool.submit(district.spend, headers, reward, "still-running")
        district.wait_for_waiters()
        trip = district.http.post(TRIPS, json=walk(2), headers={**headers, "Idempotency-Key": "another-key"})
        holder.rollback()
        assert first.result(10).status_code == 201
    assert trip.status_code == 201


def test_the_answer_is_kept_for_thirty_days_and_then_forgotten(district: District, spender: Any) -> None:
    person, headers, reward = spender
    first = district.spend(headers, reward, "one-month-old")
    age = "UPDATE idempotency_record SET created_at = created_at - %s * interval '1 second' WHERE actor_id = %s"

    with district.connect() as connection:
        connection.execute(age, (KEPT_FOR.total_seconds() - 60, person))
    with district.app.app_context():
        housekeeping.forget_old(0)
    assert district.spend(headers, reward, "one-month-old").content == first.content, "29 days and 23:59"

    with district.connect() as connection:
        connection.execute(age, (61, person))
    with district.app.app_context():
        housekeeping.forget_old(0)
    fresh = district.spend(headers, reward, "one-month-old")
    assert fresh.status_code == 201
    assert fresh.json()["id"] != first.json()["id"]
    assert spent(district, person) == 2


def test_the_keys_of_two_people_are_apart(district: District, spender: Any) -> None:
    person, headers, reward = spender
    (other,) = district.residents(1, points=100)
    first = district.spend(headers, reward, "we-both-use-this")
    second = district.spend(district.sign_in(other), reward, "we-both-use-this")
    assert first.json()["id"] != second.json()["id"]
    assert (spent(district, person), spent(district, other)) == (1, 1)


def test_a_new_sign_in_of_the_same_person_meets_the_same_key(district: District, spender: Any) -> None:
    person, headers, reward = spender
    first = district.spend(headers, reward, "after-a-new-sign-in")
    assert district.spend(district.sign_in(person), reward, "after-a-new-sign-in").content == first.content
    assert spent(district, person) == 1


@pytest.mark.parametrize("refused_by", ["rule", "schema", "state"])
def test_a_refused_request_is_not_kept_and_the_key_may_be_used_again(
    district: District, spender: Any, refused_by: str
) -> None:
    person, headers, reward = spender
    keyed = {**headers, "Idempotency-Key": "used-again-later"}
    if refused_by == "rule":
        dear = district.reward(cost=101, stock=1)
        refused = district.spend(headers, dear, "used-again-later")
        expected = (409, "insufficient-points")
    elif refused_by == "schema":
        refused = district.http.post(REDEMPTIONS, json={"reward_id": "no-id", "more": 1}, headers=keyed)
        expected = (422, "invalid-request")
    else:
        empty = district.reward(cost=1, stock=0)
        refused = district.spend(headers, empty, "used-again-later")
        expected = (409, "out-of-stock")
    assert (refused.status_code, code_of(refused)) == expected
    assert kept(district, person) == 0
    assert district.spend(headers, reward, "used-again-later").status_code == 201
    assert (spent(district, person), kept(district, person)) == (1, 1)
    assert district.faults() == []


@pytest.mark.parametrize(
    "key", [None, "", "seven77", "x" * 129, "with blank", "schlüssel".encode("latin-1"), "tab\there"]
)
def test_what_moves_points_out_of_a_wallet_insists_on_a_good_key(
    district: District, spender: Any, key: str | bytes | None
) -> None:
    person, headers, reward = spender
    keyed: Any = headers if key is None else {**headers, "Idempotency-Key": key}
    answer = district.http.post(REDEMPTIONS, json={"reward_id": str(reward)}, headers=keyed)
    assert (answer.status_code, code_of(answer)) == (400, "idempotency-key-required")
    assert spent(district, person) == 0


def test_where_a_key_is_optional_the_request_goes_without_and_a_bad_key_is_refused(
    district: District, spender: Any
) -> None:
    _, headers, _ = spender
    assert district.http.post(TRIPS, json=walk(3), headers=headers).status_code == 201
    bad = district.http.post(TRIPS, json=walk(4), headers={**headers, "Idempotency-Key": "short"})
    assert (bad.status_code, code_of(bad)) == (400, "idempotency-key-required")


def test_the_first_answer_to_staff_comes_again_with_its_etag(district: District) -> None:
    office = district.sign_in(district.staff(Role.DISTRICT, division="120104"), is_resident=False)
    entry = {
        "title": "绿色出行周",
        "starts_on": "2026-12-01",
        "ends_on": "2026-12-07",
        "division": "120104",
    }
    first, again = (
        district.http.post("/api/v1/campaigns", json=entry, headers={**office, "Idempotency-Key": "campaign-1"})
        for _ in range(2)
    )
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers.get("ETag") == first.headers["ETag"], "what an edit must name"
    assert district.value("SELECT count(*) FROM campaign") == 1
