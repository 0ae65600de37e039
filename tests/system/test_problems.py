"""Every refusal is problem+json with a stable code and a title in the client's language, and tells no secret."""

import contextlib
import http.client
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
import sqlalchemy as sa
import structlog
from district import District, drop, signed, walk
from flask import Flask, request
from flask.testing import FlaskClient

from server import errors
from server.access import PERMISSIONS, Role, public
from server.clock import SHANGHAI, now
from server.database import new_id
from server.embedded import EmbeddedPostgres
from server.errors import DomainError
from server.limits import BODY_BYTES_MAX, FEED_BODY_BYTES_MAX
from server.people import residents, staff
from server.people.models import WechatIdentity
from server.settings import Settings
from wsgi import create_app

DIVISIONS = "/api/v1/places/divisions"
TRIPS = "/api/v1/me/activities/trips"
# A server that did not read the whole body closes the connection: it is not to be used again.
LAST = {"Connection": "close"}
CHINESE = range(0x4E00, 0x9FFF + 1)


def is_chinese(text: str) -> bool:
    return any(ord(character) in CHINESE for character in text)


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer from the served application, all its promises checked."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["Content-Type"] == "application/problem+json", response.text[:500]
    found: dict[str, Any] = response.json()
    assert found["code"] == code
    assert found["type"] == f"/problems/{code}"
    assert found["status"] == status
    assert is_chinese(found["title"])
    assert found["request_id"] == response.headers["X-Request-Id"]
    assert response.headers["Cache-Control"] == "no-store"
    return found


@pytest.fixture(scope="module")
def resident(district: District) -> dict[str, str]:
    """The headers of a resident."""
    return district.sign_in(district.residents(1)[0])


@pytest.fixture(scope="module")
def office(district: District) -> dict[str, str]:
    """The headers of the district office."""
    return district.sign_in(district.staff(Role.DISTRICT, division="120104"), is_resident=False)


# The catalogue


def every_error(app: Flask) -> list[type[DomainError]]:
    """Every error class of the loaded rooms, found by subclass and not through the catalogue."""
    found, waiting = [], [DomainError]
    while waiting:
        current = waiting.pop()
        found.append(current)
        waiting.extend(current.__subclasses__())
    return [each for each in found if not each.__module__.startswith("test_")]


def test_every_error_has_a_code_of_its_own_and_titles_in_both_languages(app: Flask) -> None:
    kinds = every_error(app)
    codes = [kind.code for kind in kinds]
    assert sorted({code for code in codes if codes.count(code) > 1}) == []
    for kind in kinds:
        assert kind.code == kind.code.lower().replace("_", "-")
        assert 400 <= kind.status < 600
        assert is_chinese(kind.title_zh), kind
        assert kind.title_en.isascii(), kind
        assert kind.title_en[0].isupper() or kind.title_en[0].isdigit(), kind
        assert kind.__doc__
    assert set(errors.every_error()) == set(codes)


def test_every_code_is_explained_at_its_address(app: Flask, district: District) -> None:
    for kind in every_error(app):
        answer = district.http.get(f"/problems/{kind.code}")
        assert answer.status_code == 200, kind.code
        found = answer.json()
        assert (found["code"], found["status"]) == (kind.code, kind.status)
        assert (found["title_zh"], found["title_en"]) == (kind.title_zh, kind.title_en)


@pytest.mark.parametrize("code", ["no-such-code", "%00", "a" * 61, "..%2f..", "NOT-FOUND"])
def test_an_unknown_code_is_not_found(district: District, code: str) -> None:
    assert_problem(district.http.get(f"/problems/{code}"), 404, "not-found")


@pytest.mark.parametrize(
    ("accepted", "english"),
    [
        (None, False),
        ("zh-CN,zh;q=0.9,en;q=0.8", False),
        ("zh-TW", False),
        ("fr", False),
        ("*", False),
        ("en", True),
        ("en-GB,en;q=0.9,zh;q=0.1", True),
        ("en;q=0.3, zh;q=0.2", True),
        ("complete nonsense;;q=", False),
    ],
)
def test_the_title_follows_the_language_chinese_first(district: District, accepted: str | None, english: bool) -> None:
    headers = {} if accepted is None else {"Accept-Language": accepted}
    title = district.http.get("/nowhere", headers=headers).json()["title"]
    assert title == ("Not found" if english else "未找到")


# The ways of HTTP


@pytest.mark.parametrize(
    "path", ["/nowhere", "/api/v1/nowhere", "/static/nowhere.js", "/api/v1/me/", "/%00", "/%ED%A0%80"]
)
def test_an_unknown_address_is_not_found(district: District, path: str) -> None:
    assert_problem(district.http.get(path), 404, "not-found")


def test_a_wrong_method_names_the_right_ones(district: District) -> None:
    answer = district.http.delete(DIVISIONS)
    assert_problem(answer, 405, "method-not-allowed")
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "invalid-request"),
        (b"{", 400, "malformed-request"),
        (b"\xff\xfe", 400, "malformed-request"),
        (b'{"mode": NaN}', 422, "invalid-request"),
        (b"[]", 422, "invalid-request"),
        (b"null", 422, "invalid-request"),
        (b'"text"', 422, "invalid-request"),
        (b"[" * 30_000, 400, "malformed-request"),
        (b'{"distance_m": ' + b"9" * 5000 + b"}", 400, "malformed-request"),
    ],
    ids=["empty", "half", "no UTF-8", "NaN", "list", "null", "text", "deep", "a number of 5,000 digits"],
)
def test_a_body_that_is_no_such_json_is_refused(
    district: District, resident: dict[str, str], body: bytes, status: int, code: str
) -> None:
    headers = {**resident, "Content-Type": "application/json"}
    assert_problem(district.http.post(TRIPS, content=body, headers=headers), status, code)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "", "nonsense"])
def test_another_content_type_is_refused(district: District, resident: dict[str, str], kind: str) -> None:
    answer = district.http.post(TRIPS, content=json.dumps(walk(1)), headers={**resident, "Content-Type": kind})
    assert answer.status_code in {415, 422}
    assert_problem(
        answer, answer.status_code, {415: "unsupported-media-type", 422: "invalid-request"}[answer.status_code]
    )


def test_a_feed_of_another_content_type_is_refused(district: District) -> None:
    partner = district.partner()
    headers = {**signed(partner[1], b"{}\n"), "Content-Type": "application/json"}
    answer = district.http.post(f"/api/v1/partners/{partner[0]}/events", content=b"{}\n", headers=headers)
    assert_problem(answer, 415, "unsupported-media-type")


def test_a_body_that_is_too_large_is_refused(district: District, resident: dict[str, str]) -> None:
    body = b'{"mode": "' + b"x" * BODY_BYTES_MAX + b'"}'
    headers = {**resident, "Content-Type": "application/json", **LAST}
    assert_problem(district.http.post(TRIPS, content=body, headers=headers), 413, "payload-too-large")


def test_a_body_of_unknown_length_is_cut_at_the_bound_and_so_refused(
    district: District, resident: dict[str, str]
) -> None:
    body = b'{"mode": "' + b"x" * 4 * BODY_BYTES_MAX + b'"}'
    headers = {**resident, "Content-Type": "application/json"}
    cut = district.http.post(TRIPS, content=iter([body]), headers=headers | LAST)
    assert_problem(cut, 400, "malformed-request")
    small = json.dumps(walk(5)).encode()
    assert district.http.post(TRIPS, content=iter([small]), headers=headers).status_code == 201


def test_a_feed_of_unknown_length_is_taken_and_one_cut_at_the_bound_has_a_wrong_signature(district: District) -> None:
    partner = district.partner()
    address = f"/api/v1/partners/{partner[0]}/events"
    for body, status in ((b"{}\n", 200), (b" " * (FEED_BODY_BYTES_MAX + 1000), 401)):
        headers = signed(partner[1], body) | LAST
        assert district.http.post(address, content=iter([body]), headers=headers).status_code == status


def test_a_feed_may_be_larger_but_has_its_own_bound(district: District) -> None:
    partner = district.partner()
    assert district.push_bytes(partner, b" " * (2 * BODY_BYTES_MAX)).status_code == 200
    assert_problem(district.push_bytes(partner, b"\n" * 5001), 413, "too-many-lines")
    body = b" " * (FEED_BODY_BYTES_MAX + 1)
    headers = signed(partner[1], body) | LAST
    answer = district.http.post(f"/api/v1/partners/{partner[0]}/events", content=body, headers=headers)
    assert_problem(answer, 413, "payload-too-large")


def test_a_refusal_leaves_the_connection_usable_though_the_body_comes_late(district: District) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", district.port, timeout=10)
    with contextlib.closing(connection):
        for _ in range(3):
            body = json.dumps(walk(1)).encode()
            connection.putrequest("POST", TRIPS)
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            time.sleep(0.1)  # a server that answers now closes the connection, and the next request on it is lost
            connection.send(body)
            answer = connection.getresponse()
            assert answer.status == 401
            assert json.loads(answer.read())["code"] == "unauthenticated"


def test_an_unknown_field_is_named(district: District, resident: dict[str, str]) -> None:
    answer = district.http.post(TRIPS, json={**walk(1), "points": 1000}, headers=resident)
    found = assert_problem(answer, 422, "invalid-request")
    assert [each["pointer"] for each in found["errors"]] == ["/points"]


def test_an_unknown_query_parameter_is_named(district: District) -> None:
    found = assert_problem(district.http.get(DIVISIONS, params={"streat": "1"}), 422, "invalid-request")
    assert [each["pointer"] for each in found["errors"]] == ["/streat"]


@pytest.mark.parametrize("text", ["\\u0000", "a\\u0000b", "\\ud800", "\\udc00\\ud800"])
def test_text_that_cannot_be_stored_is_refused_in_a_body(
    district: District, resident: dict[str, str], text: str
) -> None:
    headers = {**resident, "Content-Type": "application/json"}
    for address, body in (
        (TRIPS, f'{{"mode": "{text}"}}'),
        (TRIPS, f'{{"{text}": 1}}'),
        ("/api/v1/sign-in/wechat", f'{{"code": "{text}"}}'),
        ("/api/v1/sign-in/staff", f'{{"name": "{text}", "password": "12345678901234"}}'),
    ):
        answer = district.http.post(address, content=body, headers=headers)
        assert_problem(answer, 422, "invalid-request")
    # A password is never stored, but it is hashed.
    answer = district.http.post(
        "/api/v1/sign-in/staff", content=f'{{"name": "a", "password": "{text}"}}', headers=headers
    )
    assert answer.status_code in {401, 422}
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("text", ["%00", "%ED%A0%80", "%FF", "a%00b"])
def test_text_that_cannot_be_stored_is_refused_in_a_query(
    district: District, resident: dict[str, str], text: str
) -> None:
    for address in (f"{DIVISIONS}?name={text}", f"{DIVISIONS}?cursor={text}", f"/api/v1/me/transfers?cursor={text}"):
        answer = district.http.get(address, headers=resident)
        # What is no UTF-8 arrives as U+FFFD, which is a character like others: a name that nothing has.
        if answer.status_code == 200:
            assert "name=" in address
            assert answer.json()["items"] == []
        else:
            assert answer.status_code == 422
            assert_problem(answer, 422, answer.json()["code"])


@pytest.mark.parametrize("text", ["%00", "%ED%A0%80", "%FF", "a%00b", "%20", "%0A", "%2E%2E", "'", "x" * 4000])
def test_odd_text_in_a_path_is_not_found_or_refused(
    district: District, resident: dict[str, str], office: dict[str, str], text: str
) -> None:
    binding = {"member_id": "m-1", "consent": True}
    for answer in (
        district.http.get(f"{DIVISIONS}/{text}"),
        district.http.put(f"/api/v1/me/partners/{text}", json=binding, headers=resident),
        district.http.delete(f"/api/v1/me/partners/{text}", headers=resident),
        district.http.put(f"/api/v1/me/consents/{text}", json={}, headers=resident),
        district.http.post(f"/api/v1/partners/{text}/keys", headers=office),
        district.http.delete(f"/api/v1/partners/{text}/keys/a", headers=office),
        district.http.post(f"/api/v1/partners/{text}/events", content=b"", headers=signed("k", b"")),
    ):
        assert 400 <= answer.status_code < 500, (answer.request.method, answer.request.url)
        assert_problem(answer, answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("identifier", ["1", "not-an-id", "00000000-0000-0000-0000-00000000000g", "' OR 1=1"])
def test_what_is_no_id_is_not_found(district: District, resident: dict[str, str], identifier: str) -> None:
    assert_problem(district.http.get(f"/api/v1/campaigns/{identifier}", headers=resident), 404, "not-found")
    body = {"reward_id": identifier}
    keyed = {**resident, "Idempotency-Key": secrets.token_hex(8)}
    found = assert_problem(
        district.http.post("/api/v1/me/redemptions", json=body, headers=keyed), 422, "invalid-request"
    )
    assert [each["pointer"] for each in found["errors"]] == ["/reward_id"]


@pytest.mark.parametrize("cursor", ["x", "!!!!", "bnVsbA", "W10", "WzFd", "WyJhIiwiYiJd", "A" * 299, "=", "𝕏"])
def test_a_cursor_that_we_did_not_make_is_refused(
    district: District, resident: dict[str, str], office: dict[str, str], cursor: str
) -> None:
    lists = {
        "/api/v1/me/transfers": resident,
        "/api/v1/me/activities": resident,
        "/api/v1/me/redemptions": resident,
        "/api/v1/campaigns": office,
        "/api/v1/staff": office,
    }
    for address, headers in lists.items():
        assert_problem(district.http.get(address, params={"cursor": cursor}, headers=headers), 422, "bad-cursor")


@pytest.mark.parametrize(
    ("limit", "works"),
    [("1", True), ("200", True), ("0", False), ("201", False), ("-1", False), ("x", False), ("9" * 400, False)],
)
def test_a_page_has_a_largest_size(district: District, limit: str, works: bool) -> None:
    answer = district.http.get(DIVISIONS, params={"limit": limit})
    if works:
        assert answer.status_code == 200
    else:
        assert_problem(answer, 422, "invalid-request")


def sent_with(district: District, authorization: str) -> Any:
    return district.http.get("/api/v1/me", headers={"Authorization": authorization})


def test_tokens_that_are_none_are_refused_each_with_its_code(district: District) -> None:
    (person,) = district.residents(1)
    tokens = district.tokens_of(person)
    key = district.settings.secret_key
    claims = jwt.decode(tokens.access_token, key, ["HS256"])
    past = int((now() - timedelta(seconds=5)).timestamp())

    def forged(with_key: Any = key, algorithm: str = "HS256", **changes: Any) -> str:
        return "Bearer " + jwt.encode({**claims, **changes}, with_key, algorithm)

    cases = {
        "Bearer " + tokens.access_token: None,
        forged(): None,
        "": "unauthenticated",
        "Bearer": "unauthenticated",
        "Bearer garbage": "unauthenticated",
        "Bearer a.b.c": "unauthenticated",
        "Bearer " + tokens.refresh_token: "unauthenticated",
        forged("x" * 64): "unauthenticated",
        forged(None, "none"): "unauthenticated",
        forged(key, "HS512"): "unauthenticated",
        forged(exp=past): "token-expired",
        forged(sub=str(new_id())): "token-revoked",
        forged(sid=str(new_id())): "token-revoked",
    }
    for authorization, code in cases.items():
        answer = sent_with(district, authorization)
        if code is None:
            assert answer.status_code == 200
        else:
            assert_problem(answer, 401, code)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "changes", [{"sub": "me"}, {"sid": "none"}, {"sid": None}, {"sub": 1}, {"res": "yes"}, {"gen": "x"}]
)
def test_a_token_of_ours_with_odd_claims_is_no_server_error(district: District, changes: dict[str, Any]) -> None:
    tokens = district.tokens_of(district.residents(1)[0])
    key = district.settings.secret_key
    for token, address in ((tokens.access_token, "/api/v1/me"), (tokens.refresh_token, "/api/v1/sign-in/refresh")):
        odd = jwt.encode({**jwt.decode(token, key, ["HS256"]), **changes}, key)
        method = "GET" if address.endswith("me") else "POST"
        answer = district.http.request(method, address, headers={"Authorization": f"Bearer {odd}"})
        assert answer.status_code in {200, 401}, (address, changes)


def test_a_person_who_asks_too_often_is_told_when_to_come_back(district: District) -> None:
    reward = district.reward(cost=1, stock=1)
    headers = district.sign_in(district.residents(1)[0])
    answers = [district.spend(headers, reward) for _ in range(61)]
    assert {answer.json()["code"] for answer in answers[:60]} == {"insufficient-points"}
    assert_problem(answers[60], 429, "rate-limited")
    assert 1 <= int(answers[60].headers["Retry-After"]) <= 60
    other = district.sign_in(district.residents(1)[0])
    assert district.spend(other, reward).json()["code"] == "insufficient-points", "others are not concerned"


# Failures of ours


def test_without_the_database_the_answer_is_503(base_settings: Settings) -> None:
    nowhere = base_settings.database_url.replace("host=", "host=/nowhere")
    app = create_app(replace(base_settings, database_url=nowhere))
    for address in (DIVISIONS, "/api/v1/rewards", "/api/v1/report/summary"):
        answer = app.test_client().get(address)
        found = answer.get_json()
        assert (answer.status_code, found["code"]) == (503, "unavailable"), address
        assert answer.content_type == "application/problem+json"
        assert int(answer.headers["Retry-After"]) >= 1
        assert "detail" not in found
        assert "nowhere" not in answer.get_data(as_text=True)


def test_when_every_connection_is_taken_the_answer_is_503(base_settings: Settings) -> None:
    app = create_app(base_settings)

    @public
    def exhausted() -> str:
        raise sa.exc.TimeoutError("QueuePool limit of size 8 overflow 2 reached")

    app.add_url_rule("/exhausted", "exhausted", exhausted)
    answer = app.test_client().get("/exhausted")
    assert (answer.status_code, answer.get_json()["code"]) == (503, "unavailable")


@pytest.fixture
def failing_client(base_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FlaskClient, StringIO]]:
    """An application with views that fail on a person's data, and what it logs."""
    handlers, configuration, logged = logging.getLogger().handlers, structlog.get_config(), StringIO()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", logged)  # which the logs keep from their configuration on
        app = create_app(base_settings)
    phone = "139" + "12345678"  # not in one piece, or the source line in a traceback would be taken for a leak

    @public
    def fail() -> str:
        try:
            raise KeyError(phone)
        except KeyError as error:
            raise ValueError(f"resident {PERSON}") from error

    @public
    def divide() -> str:
        raise sa.exc.ProgrammingError("SELECT secret_statement", {"phone": phone}, Exception(PERSON))

    app.add_url_rule("/fail", "fail", fail)
    app.add_url_rule("/divide", "divide", divide)
    app.add_url_rule("/break", "break", fail)

    def break_off(response: Any) -> Any:
        if request.path == "/break":
            raise ValueError(f"after {PERSON}")
        return response

    app.after_request(break_off)
    yield app.test_client(), logged
    logging.getLogger().handlers = handlers
    structlog.configure(**configuration)


PERSON = "李" + "雷"


@pytest.mark.parametrize("address", ["/fail", "/divide", "/break"])
def test_an_unexpected_error_tells_nothing_but_its_request_id(
    failing_client: tuple[FlaskClient, StringIO], address: str
) -> None:
    client, logged = failing_client
    answer = client.get(address, headers={"X-Request-Id": "find-me-in-the-log"})
    log = logged.getvalue()
    found = answer.get_json()
    assert (answer.status_code, found["code"]) == (500, "internal-error")
    assert answer.content_type == "application/problem+json"
    assert set(found) == {"type", "title", "status", "code", "request_id"}
    assert found["request_id"] == "find-me-in-the-log"
    assert "find-me-in-the-log" in log
    assert "Error" in log, "the type of the error is told"
    for secret in ("139" + "12345678", PERSON, "secret_statement"):
        assert secret not in answer.get_data(as_text=True)
        assert secret not in log, "an error's message can hold a person's data"


def test_the_log_of_an_unexpected_error_says_where_it_was(
    failing_client: tuple[FlaskClient, StringIO],
) -> None:
    client, logged = failing_client
    client.get("/fail")
    log = logged.getvalue()
    assert "test_problems.py" in log
    assert "ValueError" in log
    assert "KeyError" in log


# Every route against odd input


ODD_BODIES = [b"", b"{", b"[]", b"1", b'"\\u0000"', b'{"a": "\\u0000"}', b'{"\\ud800": 1}', b"\xff", b'{"a": 1e999}']


def test_every_route_refuses_odd_bodies_as_a_problem(
    app: Flask,
    client: FlaskClient,
    make_resident: Callable[..., UUID],
    make_staff: Callable[..., UUID],
    headers_of: Callable[..., dict[str, str]],
) -> None:
    people = {
        Role.RESIDENT: headers_of(make_resident(), is_resident=True),
        Role.DISTRICT: headers_of(make_staff(Role.DISTRICT, division="120104"), is_resident=False),
    }
    unexpected, seen = [], 0
    for rule in app.url_map.iter_rules():
        permission = app.view_functions[rule.endpoint].access  # type: ignore[attr-defined]
        role = Role.RESIDENT if permission in PERMISSIONS[Role.RESIDENT] else Role.DISTRICT
        address = addressed(rule.rule)
        for method in sorted((rule.methods or set()) & {"POST", "PUT", "PATCH"}):
            for body in ODD_BODIES:
                headers = {**people[role], "Idempotency-Key": uuid4().hex, "If-Match": '"1"'}
                answer = client.open(
                    address, method=method, data=body, content_type="application/json", headers=headers
                )
                seen += 1
                fine = answer.status_code < 300 or (
                    answer.status_code < 500 and answer.content_type == "application/problem+json"
                )
                if not fine:
                    unexpected.append(f"{answer.status_code} {answer.content_type} {method} {rule.rule} {body!r}")
                if rule.rule.endswith("/sign-out"):
                    people[role] = headers_of(make_resident(), is_resident=True)
    assert unexpected == []
    assert seen >= 150


def addressed(rule: str) -> str:
    for name in ("resident_id", "transfer_id", "activity_id", "campaign_id", "staff_id"):
        rule = rule.replace(f"<uuid:{name}>", str(uuid4()))
    return rule.replace("<any(a,b):slot>", "a").replace("<string:", "<").replace("<", "").replace(">", "")


def test_every_described_query_parameter_refuses_odd_values_as_a_problem(
    app: Flask,
    client: FlaskClient,
    make_resident: Callable[..., UUID],
    make_staff: Callable[..., UUID],
    headers_of: Callable[..., dict[str, str]],
) -> None:
    resident = headers_of(make_resident(), is_resident=True)
    office = headers_of(make_staff(Role.DISTRICT, division="120104"), is_resident=False)
    unexpected, seen = [], 0
    for path, operations in app.extensions["tanpuhui_api"].description()["paths"].items():
        operation = operations.get("get", {})
        address = path.replace("{", "").replace("}", "")
        permission = operation.get("x-permission")
        headers = resident if permission in {each.value for each in PERMISSIONS[Role.RESIDENT]} else office
        for name in [each["name"] for each in operation.get("parameters", []) if each["in"] == "query"]:
            for odd in (
                "%00",
                "%ED%A0%80",
                "%FF",
                "9" * 5000,
                "-1",
                "0001-01-01",
                "9999-12-31",
                "%F0%9F%9A%B2",
                "",
                "1e400",
            ):
                answer = client.get(f"{address}?{name}={odd}", headers=headers)
                seen += 1
                if answer.status_code >= 500 or (
                    answer.status_code >= 400 and answer.content_type != "application/problem+json"
                ):
                    unexpected.append(f"{answer.status_code} {path}?{name}={odd}")
    assert unexpected == []
    assert seen >= 100


# Nothing is told that should not be


@pytest.fixture(scope="module")
def busy_district(serve_district: Any) -> Iterator[District]:
    """A district of its own whose log is read at the end."""
    with serve_district() as served:
        yield served


def test_neither_an_answer_nor_the_log_holds_a_secret(  # noqa: PLR0915 -- one day of everybody's, told in order
    busy_district: District, standin: Any, postgres: EmbeddedPostgres
) -> None:
    http, told = busy_district.http, []

    def call(method: str, address: str, *, expected: int, **options: Any) -> Any:
        answer = http.request(method, address, **options)
        assert answer.status_code == expected, answer.text
        told.append(answer.text)
        return answer

    password, nickname, member = "correct horse battery 88", "南开小荷花", "m-only-the-partner-knows"
    signed_in = http.post("/api/v1/sign-in/wechat", json={"code": standin.login("lilei"), "accept_terms": True}).json()
    own = {"Authorization": f"Bearer {signed_in['access_token']}"}
    call("POST", "/api/v1/sign-in/wechat", json={"code": standin.login("lilei")[:-1]}, expected=401)
    call(
        "PATCH", "/api/v1/me", json={"community_code": "120104001001", "nickname": nickname}, headers=own, expected=200
    )
    phone_code = standin.post("/phone/phone-number", user="lilei")["code"]
    call("POST", "/api/v1/me/phone", json={"code": phone_code}, headers=own, expected=200)
    call("PUT", "/api/v1/me/consents/werun-steps", json={}, headers=own, expected=200)
    today = now().astimezone(SHANGHAI).date().isoformat()
    steps = standin.post("/phone/werun", user="lilei", steps={today: 5000})
    run = {"encrypted_data": steps["encryptedData"], "iv": steps["iv"]}
    call("POST", "/api/v1/me/activities/steps", json=run, headers=own, expected=200)
    call("POST", "/api/v1/me/activities/steps", json={**run, "iv": "AAAA"}, headers=own, expected=422)
    partner = busy_district.partner()
    address, binding = f"/api/v1/me/partners/{partner[0]}", {"member_id": member, "consent": True}
    call("PUT", address, json=binding, headers=own, expected=204)
    told.append(busy_district.push(partner, [drop(member, "e-1")]).text)
    stranger = busy_district.sign_in(busy_district.residents(1)[0])
    call("PUT", address, json=binding, headers=stranger, expected=409)
    told.append(busy_district.push((partner[0], "not-the-key"), [drop(member, "e-2")]).text)

    with busy_district.session() as session:
        staff.create(
            session,
            None,
            name="zhang.wei",
            role=Role.DISTRICT,
            division="120104",
            organisation_id=None,
            password_hash=staff.hash_password(password),
            now=now(),
        )
    call("POST", "/api/v1/sign-in/staff", json={"name": "zhang.wei", "password": password + "x"}, expected=401)
    staff_tokens = http.post("/api/v1/sign-in/staff", json={"name": "zhang.wei", "password": password}).json()
    refreshed = http.post(
        "/api/v1/sign-in/refresh", headers={"Authorization": f"Bearer {staff_tokens['refresh_token']}"}
    ).json()
    office = {"Authorization": f"Bearer {refreshed['access_token']}"}
    for path in ("/api/v1/me", "/api/v1/me/consents", "/api/v1/me/activities", "/api/v1/me/wallet"):
        call("GET", path, headers=own, expected=200)
    for path in ("/api/v1/staff", "/api/v1/staff/me", "/api/v1/partners"):
        call("GET", path, headers=office, expected=200)
    call("GET", "/api/v1/me", headers={"Authorization": f"Bearer {signed_in['access_token']}x"}, expected=401)
    call("GET", f"/api/v1/me?token={signed_in['access_token']}", headers=own, expected=200)
    told += [http.get(path).text for path in ("/metrics", "/readyz", "/healthz", "/openapi.json")]

    with busy_district.session() as session:
        resident_id = UUID(http.get("/api/v1/me", headers=own).json()["id"])
        settings = busy_district.settings
        session_key = residents.session_key_of(session, resident_id, data_key=settings.data_key)
        sealed = busy_district.value("SELECT phone_sealed FROM resident WHERE resident_id = %s", resident_id)
        phone = residents._phone(sealed, resident_id, settings.data_key)
        openid = session.scalar(sa.select(WechatIdentity.openid))
        hashes = list(session.scalars(sa.text("SELECT password_hash FROM staff")))
    assert phone.startswith("+86199")
    assert openid is not None
    tokens = [signed_in[name] for name in ("access_token", "refresh_token")]
    tokens += [each[name] for each in (staff_tokens, refreshed) for name in ("access_token", "refresh_token")]
    never = [session_key, phone, phone[3:], openid, password, *hashes, *tokens, partner[1], settings.secret_key]
    never += [settings.wechat_secret, phone_code, run["encrypted_data"]]
    time.sleep(0.3)  # for the last lines of the log
    log = busy_district.log()
    assert log.count('"event": "request"') >= len(told)
    for secret in never:
        assert not [text[:200] for text in told if secret in text], "an answer tells a secret"
        assert secret not in log, "the log tells a secret"
    for personal in (nickname, member, "zhang.wei"):
        assert personal not in log, "the log names a person"
    database_log = postgres._program.log_path.read_text(encoding="utf-8", errors="replace")
    for personal in (nickname, member, *never):
        assert personal not in database_log, "the database's log tells a person's data"
