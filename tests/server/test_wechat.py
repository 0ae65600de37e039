"""The WeChat adapter against the stand-in and against misbehaving servers, over real HTTP on loopback."""

import base64
import json
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from werkzeug.serving import make_server

from server.errors import DomainError
from server.people import wechat, wechat_standin
from server.people.wechat import (
    StepDay,
    WeChatAccountBlocked,
    WeChatClient,
    WeChatCodeInvalid,
    WeChatCodeUsed,
    WeChatDataForeign,
    WeChatDataStale,
    WeChatDataUnreadable,
    WeChatMisconfigured,
    WeChatRateLimited,
    WeChatSession,
    WeChatUnavailable,
    decrypt,
    werun_steps,
)
from server.people.wechat_standin import QuietHandler, create_standin

PROJECT = Path(__file__).parents[2]
APPID = "wx-test-app"
SECRET = "test-app-secret-0123"
NOON = datetime(2026, 11, 22, 4, 0, tzinfo=UTC)  # 12:00 in Shanghai

# The example of WeChat's own documentation of encrypted data.
VECTOR_APPID = "wx4f4bc4dec97d474b"
VECTOR_KEY = "tiihtNczf5v6AKRyjwEUhQ=="
VECTOR_IV = "r7BXXKkLb8qrSNn05n0qiA=="
VECTOR_DATA = (
    "CiyLU1Aw2KjvrjMdj8YKliAjtP4gsMZMQmRzooG2xrDcvSnxIMXFufNstNGTyaGS9uT5geRa0W4oTOb1WT7fJlAC+oNPdbB+3hVbJSRgv+4lGOETKUQ"
    "z6OYStslQ142dNCuabNPGBzlooOmB231qMM85d2/fV6ChevvXvQP8Hkue1poOFtnEtpyxVLW1zAo6/1Xx1COxFvrc2d7UL/lmHInNlxuacJXwu0fjpX"
    "fz/YqYzBIBzD6WUfTIF9GRHpOn/Hz7saL8xz+W//FRAUid1OksQaQx4CMs8LOddcQhULW4ucetDf96JcR3g0gfRK4PC7E/r7Z6xNrXd2UIeorGj5Ef7"
    "b1pJAYB6Y5anaHqZ9J6nKEBvB4DnNLIVWSgARns/8wR2SiRS7MNACwTyrGvt9ts8p12PKFdlqYTopNHR1Vf7XjfhQlVsAJdNiKdYmYVoKlaRv85IfVu"
    "nYzO0IKXsyl7JCUjCpoG20f0a04COwfneQAGGwd5oa+T8yO5hzuyDb/XcxxmK01EpqOyuxINew=="
)
VECTOR_MADE_AT = datetime.fromtimestamp(1477314187, UTC)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = NOON

    def __call__(self) -> datetime:
        return self.at

    def pass_(self, **amount: float) -> None:
        self.at += timedelta(**amount)


class Phone:
    """The person's side of the stand-in."""

    def __init__(self, base_url: str) -> None:
        self.http = httpx.Client(base_url=base_url, trust_env=False)

    def __call__(self, action: str, user: str = "alice", **body: Any) -> dict[str, Any]:
        answer = self.http.post(f"/phone/{action}", json={"user": user, **body})
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def wire(self, path: str, body: Any = None, **query: str) -> dict[str, Any]:
        """What WeChat's side says on the wire."""
        answer = self.http.get(path, params=query) if body is None else self.http.post(path, params=query, json=body)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        content: dict[str, Any] = answer.json()
        return content

    def code(self, user: str = "alice") -> str:
        return str(self("login", user)["code"])

    def token(self, *, force_refresh: bool = False) -> str:
        body = {
            "grant_type": "client_credential",
            "appid": APPID,
            "secret": SECRET,
            "force_refresh": force_refresh,
        }
        return str(self.wire("/cgi-bin/stable_token", body)["access_token"])

    def refused_with(self, token: str) -> int:
        """The errcode of a call under this token; 40029 means that the token itself was good."""
        answer = self.wire("/wxa/business/getuserphonenumber", {"code": "unknown"}, access_token=token)
        return int(answer["errcode"])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def base_url(clock: Clock) -> Iterator[str]:
    app = create_standin(APPID, SECRET, clock=clock, calls_per_minute_max=5)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def phone(base_url: str) -> Iterator[Phone]:
    phone = Phone(base_url)
    yield phone
    phone.http.close()


@pytest.fixture
def client(base_url: str) -> Iterator[WeChatClient]:
    client = WeChatClient(base_url, APPID, SECRET)
    yield client
    client.close()


@contextmanager
def served(*answers: bytes | Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[WeChatClient, list[str]]]:
    """A client of a server that gives these answers in turn, the last one for ever; and the targets that it saw."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = answers[min(len(seen), len(answers) - 1)]
            seen.append(self.path)
            if isinstance(answer, bytes):
                send(self, answer)
            else:
                answer(self)

        do_POST = do_GET  # noqa: N815 -- the name that http.server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name in http.server
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    client = WeChatClient(f"http://127.0.0.1:{server.server_port}", APPID, SECRET)
    try:
        yield client, seen
    finally:
        client.close()
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, content: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def error_answer(errcode: int, errmsg: str = "code been used, rid: 65713974-7970e3f9-1a07ebbf") -> bytes:
    return json.dumps({"errcode": errcode, "errmsg": errmsg}).encode()


SESSION = json.dumps({"openid": "oABC", "session_key": VECTOR_KEY, "unionid": "uDEF"}).encode()
TOKEN = json.dumps({"access_token": "token-one", "expires_in": 7200}).encode()
OTHER_TOKEN = json.dumps({"access_token": "token-two", "expires_in": 7200}).encode()


def sealed(plain: bytes, *, key: str = VECTOR_KEY, iv: str = VECTOR_IV, padding: bytes | None = None) -> str:
    """Encrypt as WeChat does, or with a padding of the test's own."""
    length = 16 - len(plain) % 16
    encryptor = Cipher(algorithms.AES(base64.b64decode(key)), modes.CBC(base64.b64decode(iv))).encryptor()
    padded = plain + (bytes([length]) * length if padding is None else padding)
    return base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()


def sealed_steps(entries: Any, at: datetime = NOON) -> str:
    data = {"stepInfoList": entries, "watermark": {"timestamp": int(at.timestamp()), "appid": APPID}}
    return sealed(json.dumps(data).encode())


def midnight(day: str) -> int:
    return int(datetime.fromisoformat(f"{day}T00:00:00+08:00").timestamp())


# Sign-in


def test_a_code_is_exchanged_for_a_session_that_stays_the_same_for_the_person(
    client: WeChatClient, phone: Phone
) -> None:
    first = client.code_to_session(phone.code("alice"))
    again = client.code_to_session(phone.code("alice"))
    other = client.code_to_session(phone.code("bob"))

    assert first == again
    assert len(first.openid) == 28
    assert len(base64.b64decode(first.session_key)) == 16
    assert first.unionid is None
    assert other.openid != first.openid
    assert other.session_key != first.session_key


def test_a_session_key_changes_when_wechat_says_so_and_the_openid_does_not(client: WeChatClient, phone: Phone) -> None:
    before = client.code_to_session(phone.code())
    phone("new-session")
    after = client.code_to_session(phone.code())

    assert after.session_key != before.session_key
    assert after.openid == before.openid


def test_a_unionid_is_kept_when_there_is_one() -> None:
    with served(SESSION) as (client, _):
        assert client.code_to_session("code") == WeChatSession("oABC", VECTOR_KEY, "uDEF")


def test_a_code_works_once(client: WeChatClient, phone: Phone) -> None:
    code = phone.code()
    client.code_to_session(code)

    with pytest.raises(WeChatCodeUsed):
        client.code_to_session(code)


def test_a_code_lives_five_minutes(client: WeChatClient, phone: Phone, clock: Clock) -> None:
    early, late = phone.code(), phone.code()

    clock.pass_(minutes=4, seconds=59)
    client.code_to_session(early)
    clock.pass_(seconds=1)
    with pytest.raises(WeChatCodeInvalid):
        client.code_to_session(late)


def test_an_unknown_code_is_invalid(client: WeChatClient) -> None:
    with pytest.raises(WeChatCodeInvalid):
        client.code_to_session("0a1b2c")


@pytest.mark.parametrize("code", ["", "x" * 129, "a b", "a&secret=b", "a\r\nHost: b", "验证码"])
def test_what_can_be_no_code_is_refused_without_a_call(code: str) -> None:
    with served(SESSION) as (client, seen):
        with pytest.raises(WeChatCodeInvalid):
            client.code_to_session(code)
        assert seen == []


def test_a_person_who_signs_in_too_often_is_limited_for_a_minute_and_others_are_not(
    client: WeChatClient, phone: Phone, clock: Clock
) -> None:
    for _ in range(5):
        client.code_to_session(phone.code("alice"))
    with pytest.raises(WeChatRateLimited) as caught:
        client.code_to_session(phone.code("alice"))
    client.code_to_session(phone.code("bob"))
    clock.pass_(minutes=1)
    client.code_to_session(phone.code("alice"))

    assert caught.value.headers["Retry-After"] == "60"


def test_a_blocked_account_cannot_sign_in(client: WeChatClient, phone: Phone) -> None:
    phone("block")
    with pytest.raises(WeChatAccountBlocked):
        client.code_to_session(phone.code())


@pytest.mark.parametrize(("appid", "secret"), [("wx-other", SECRET), (APPID, "another-secret")])
def test_a_wrong_appid_or_secret_is_our_misconfiguration(base_url: str, phone: Phone, appid: str, secret: str) -> None:
    client = WeChatClient(base_url, appid, secret)
    with pytest.raises(WeChatMisconfigured):
        client.code_to_session(phone.code())
    with pytest.raises(WeChatMisconfigured):
        client.stable_access_token()
    client.close()


@pytest.mark.parametrize(
    ("errcode", "status", "code"),
    [
        (40029, 401, "wechat-code-invalid"),
        (40163, 401, "wechat-code-used"),
        (45011, 429, "wechat-rate-limited"),
        (40226, 403, "wechat-account-blocked"),
        (40013, 502, "wechat-misconfigured"),
        (40125, 502, "wechat-misconfigured"),
        (-1, 503, "wechat-unavailable"),
        (45009, 503, "wechat-unavailable"),
    ],
)
def test_errors_are_told_apart_by_errcode_whatever_errmsg_says(errcode: int, status: int, code: str) -> None:
    with served(error_answer(errcode)) as (client, _), pytest.raises(DomainError) as caught:
        client.code_to_session("code")

    assert (caught.value.status, caught.value.code) == (status, code)


def test_the_wire_has_no_errcode_on_success_and_a_rid_behind_every_error(phone: Phone) -> None:
    app = {"appid": APPID, "secret": SECRET, "grant_type": "authorization_code"}
    good = phone.wire("/sns/jscode2session", js_code=phone.code(), **app)
    bad = phone.wire("/sns/jscode2session", js_code="unknown", **app)
    again = phone.wire("/sns/jscode2session", js_code="unknown", **app)

    assert set(good) == {"openid", "session_key"}
    assert bad["errcode"] == 40029
    assert " rid: " in bad["errmsg"]
    assert bad["errmsg"] != again["errmsg"]


# A WeChat that misbehaves


def test_a_busy_answer_is_repeated_once() -> None:
    with served(error_answer(-1), SESSION) as (client, seen):
        assert client.code_to_session("code").openid == "oABC"
        assert len(seen) == 2


def test_a_busy_answer_is_not_repeated_twice() -> None:
    with served(error_answer(-1), error_answer(-1), SESSION) as (client, seen):
        with pytest.raises(WeChatUnavailable):
            client.code_to_session("code")
        assert len(seen) == 2


@pytest.mark.parametrize("errcode", [40029, 40163, 45011, 40226, 40013, 42001])
def test_no_other_error_of_a_sign_in_is_repeated(errcode: int) -> None:
    with served(error_answer(errcode)) as (client, seen):
        with pytest.raises(DomainError):
            client.code_to_session("code")
        assert len(seen) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>504</html>",
        b"[]",
        b"null",
        b"{}",
        b'{"errcode": "40029"}',
        b'{"errcode": 0}',
        b'{"openid": "oABC"}',
        b'{"session_key": "tiihtNczf5v6AKRyjwEUhQ=="}',
        b'{"openid": "oABC", "session_key": "short"}',
        b'{"openid": 5, "session_key": "tiihtNczf5v6AKRyjwEUhQ=="}',
        b'{"openid": "oABC", "session_key": "tiihtNczf5v6AKRyjwEUhQ==", "x": "\xff"',
        b"[" * 50_000,
        SESSION + b" " * wechat.ANSWER_BYTES_MAX,
    ],
    ids=lambda content: repr(content[:30]),
)
def test_an_answer_that_is_not_the_protocol_means_unavailable(content: bytes) -> None:
    with served(content) as (client, seen):
        with pytest.raises(WeChatUnavailable):
            client.code_to_session("code")
        assert len(seen) == 1


@pytest.mark.parametrize("status", [204, 302, 404, 429, 500, 502, 503])
def test_any_http_status_but_200_means_unavailable_and_no_redirect_is_followed(status: int) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(handler, b"" if status == 204 else SESSION, status, Location="/elsewhere")

    with served(answer, SESSION) as (client, seen):
        with pytest.raises(WeChatUnavailable):
            client.code_to_session("code")
        assert len(seen) == 1


def test_a_silent_server_is_left_after_the_read_timeout_and_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wechat, "READ_TIMEOUT_SECONDS", 0.2)
    done = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        done.wait(5)

    with served(silent) as (client, seen):
        began = time.monotonic()
        with pytest.raises(WeChatUnavailable):
            client.code_to_session("code")
        elapsed_seconds = time.monotonic() - began
        done.set()
        assert len(seen) == 1
    assert elapsed_seconds < 2


def test_a_dripping_server_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wechat, "CALL_SECONDS_MAX", 0.3)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(SESSION)))
        handler.end_headers()
        try:
            for number in range(len(SESSION)):
                handler.wfile.write(SESSION[number : number + 1])
                time.sleep(0.05)
        except OSError:
            pass

    with served(drip) as (client, _):
        began = time.monotonic()
        with pytest.raises(WeChatUnavailable):
            client.code_to_session("code")
        assert time.monotonic() - began < 2


def test_a_closed_port_means_unavailable() -> None:
    with served(SESSION) as (client, _):
        client.code_to_session("code")
    client = WeChatClient(str(client._base_url), APPID, SECRET)
    with pytest.raises(WeChatUnavailable):
        client.code_to_session("code")
    client.close()


def test_a_base_url_may_have_a_path_and_must_be_http() -> None:
    with served(SESSION) as (client, seen):
        inner = WeChatClient(str(client._base_url.copy_with(path="/gateway/")), APPID, SECRET)
        inner.code_to_session("code")
        inner.close()
        assert seen[0].startswith("/gateway/sns/jscode2session?appid=")
    for bad in ("ftp://127.0.0.1", "api.weixin.qq.com", "http://127.0.0.1/?a=b"):
        with pytest.raises(ValueError, match="base URL"):
            WeChatClient(bad, APPID, SECRET)


# Access token and phone number


def test_the_stable_token_is_the_same_until_its_last_five_minutes(phone: Phone, clock: Clock) -> None:
    first = phone.token()
    clock.pass_(seconds=7200 - 301)
    assert phone.token() == first
    clock.pass_(seconds=1)
    assert phone.token() != first


def test_old_and_new_stable_token_overlap_for_five_minutes(phone: Phone, clock: Clock) -> None:
    old = phone.token()
    clock.pass_(seconds=7200 - 300)
    new = phone.token()

    assert [phone.refused_with(token) for token in (old, new)] == [40029, 40029]
    clock.pass_(seconds=299)
    assert phone.refused_with(old) == 40029
    clock.pass_(seconds=1)
    assert [phone.refused_with(token) for token in (old, new)] == [42001, 40029]


def test_a_forced_token_ends_the_old_one_at_once_but_not_twice_in_thirty_seconds(phone: Phone, clock: Clock) -> None:
    old = phone.token()
    forced = phone.token(force_refresh=True)

    assert [phone.refused_with(token) for token in (old, forced)] == [40001, 40029]
    clock.pass_(seconds=29)
    assert phone.token(force_refresh=True) == forced
    clock.pass_(seconds=1)
    assert phone.token(force_refresh=True) != forced


def test_the_client_keeps_its_token_and_many_threads_ask_once() -> None:
    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.1)
        send(handler, TOKEN)

    with served(slowly) as (client, seen), ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda _: client.stable_access_token(), range(16)))
        assert set(tokens) == {"token-one"}
        assert seen == ["/cgi-bin/stable_token"]


def test_the_client_asks_again_for_a_token_that_is_about_to_end() -> None:
    ending = json.dumps({"access_token": "token-one", "expires_in": 200}).encode()
    with served(ending, OTHER_TOKEN) as (client, _):
        assert client.stable_access_token() == "token-one"
        assert client.stable_access_token() == "token-two"


def test_a_phone_code_is_exchanged_for_the_number_once(client: WeChatClient, phone: Phone) -> None:
    code = phone("phone-number")["code"]
    number = client.phone_number(code)

    assert number.startswith("+86199")
    assert len(number) == 14
    with pytest.raises(WeChatCodeInvalid):
        client.phone_number(code)
    assert client.phone_number(phone("phone-number")["code"]) == number


def test_login_codes_and_phone_codes_are_not_each_other(client: WeChatClient, phone: Phone) -> None:
    with pytest.raises(WeChatCodeInvalid):
        client.phone_number(phone.code())
    with pytest.raises(WeChatCodeInvalid):
        client.code_to_session(phone("phone-number")["code"])


def test_the_older_encrypted_phone_number_opens_with_the_session_key(client: WeChatClient, phone: Phone) -> None:
    session = client.code_to_session(phone.code())
    given = phone("phone-number")
    data = decrypt(session.session_key, given["iv"], given["encryptedData"], appid=APPID, now=NOON)

    assert "+86" + data["purePhoneNumber"] == client.phone_number(given["code"])


@pytest.mark.parametrize("country", ['"86"', "86"])
def test_a_country_code_is_read_as_text_or_number(country: str) -> None:
    info = '"watermark": {"timestamp": 1, "appid": "%s"}' % APPID  # noqa: UP031 -- braces
    body = f'{{"errcode": 0, "phone_info": {{"purePhoneNumber": "13800138000", "countryCode": {country}, {info}}}}}'
    with served(TOKEN, body.encode()) as (client, _):
        assert client.phone_number("code") == "+8613800138000"


@pytest.mark.parametrize(
    "info",
    [
        None,
        {"purePhoneNumber": "13800138000", "countryCode": "86"},
        {"purePhoneNumber": "13800138000", "countryCode": "86", "watermark": {"timestamp": 1, "appid": "wx-other"}},
        {"purePhoneNumber": "1380x", "countryCode": "86", "watermark": {"timestamp": 1, "appid": APPID}},
        {"purePhoneNumber": "1" * 20, "countryCode": "86", "watermark": {"timestamp": 1, "appid": APPID}},
    ],
)
def test_an_unusable_phone_number_is_not_passed_on(info: dict[str, Any] | None) -> None:
    answer = json.dumps({"errcode": 0, "phone_info": info}).encode()
    with served(TOKEN, answer) as (client, _), pytest.raises(WeChatUnavailable):
        client.phone_number("code")


def test_an_expired_token_is_renewed_and_the_call_repeated(client: WeChatClient, phone: Phone, clock: Clock) -> None:
    before = client.stable_access_token()
    clock.pass_(seconds=7200)
    assert phone.refused_with(before) == 42001

    assert client.phone_number(phone("phone-number")["code"]).startswith("+86")
    assert client.stable_access_token() != before


def test_a_token_that_another_process_forced_away_is_replaced_without_forcing(
    client: WeChatClient, phone: Phone
) -> None:
    client.stable_access_token()
    forced = phone.token(force_refresh=True)

    client.phone_number(phone("phone-number")["code"])
    assert client.stable_access_token() == forced


@pytest.mark.parametrize(("errcode", "status"), [(40001, 502), (42001, 503)])
def test_a_refused_token_is_renewed_once_and_the_call_repeated_once(errcode: int, status: int) -> None:
    with served(TOKEN, error_answer(errcode), OTHER_TOKEN, error_answer(errcode)) as (client, seen):
        with pytest.raises(DomainError) as caught:
            client.phone_number("code")
        assert seen == [
            "/cgi-bin/stable_token",
            "/wxa/business/getuserphonenumber?access_token=token-one",
            "/cgi-bin/stable_token",
            "/wxa/business/getuserphonenumber?access_token=token-two",
        ]
    assert caught.value.status == status


def test_a_refused_token_that_comes_back_unchanged_is_forced_away() -> None:
    with served(TOKEN, error_answer(40001), TOKEN, OTHER_TOKEN, error_answer(40029)) as (client, seen):
        with pytest.raises(WeChatCodeInvalid):
            client.phone_number("code")
        assert seen[-1].endswith("access_token=token-two")
        assert len(seen) == 5


# Encrypted data


def test_the_published_example_decrypts() -> None:
    data = decrypt(VECTOR_KEY, VECTOR_IV, VECTOR_DATA, appid=VECTOR_APPID, now=VECTOR_MADE_AT + timedelta(seconds=9))

    assert data["openId"] == "oGZUI0egBJY1zhBYw2KhdUfwVJJE"
    assert data["nickName"] == "Band"


def test_the_published_example_is_stale_by_now_unless_the_caller_allows_its_age() -> None:
    with pytest.raises(WeChatDataStale):
        decrypt(VECTOR_KEY, VECTOR_IV, VECTOR_DATA, appid=VECTOR_APPID, now=NOON)

    age = timedelta(days=365 * 20)
    assert decrypt(VECTOR_KEY, VECTOR_IV, VECTOR_DATA, appid=VECTOR_APPID, now=NOON, age_max=age)["nickName"] == "Band"


@pytest.mark.parametrize(("seconds", "fresh"), [(0, True), (300, True), (301, False), (-60, True), (-61, False)])
def test_a_watermark_is_good_for_five_minutes_and_a_minute_of_clock_skew(seconds: int, fresh: bool) -> None:
    at = VECTOR_MADE_AT + timedelta(seconds=seconds)
    if fresh:
        assert decrypt(VECTOR_KEY, VECTOR_IV, VECTOR_DATA, appid=VECTOR_APPID, now=at)
    else:
        with pytest.raises(WeChatDataStale):
            decrypt(VECTOR_KEY, VECTOR_IV, VECTOR_DATA, appid=VECTOR_APPID, now=at)


def test_data_of_another_mini_program_is_refused() -> None:
    with pytest.raises(WeChatDataForeign):
        decrypt(VECTOR_KEY, VECTOR_IV, VECTOR_DATA, appid=APPID, now=VECTOR_MADE_AT)


OTHER_KEY = base64.b64encode(b"0123456789abcdef").decode()


@pytest.mark.parametrize(
    ("key", "iv", "data"),
    [
        (OTHER_KEY, VECTOR_IV, VECTOR_DATA),
        (VECTOR_KEY, OTHER_KEY, VECTOR_DATA),
        (VECTOR_KEY, VECTOR_IV, VECTOR_DATA[:-1] + "!"),
        (VECTOR_KEY, VECTOR_IV, VECTOR_DATA[:-4]),
        (VECTOR_KEY, VECTOR_IV, VECTOR_DATA[24:]),
        (VECTOR_KEY, VECTOR_IV, VECTOR_DATA[:64]),
        (VECTOR_KEY, VECTOR_IV, ""),
        (VECTOR_KEY, VECTOR_IV, "密文"),
        (VECTOR_KEY, "", VECTOR_DATA),
        (VECTOR_KEY, "AAAA", VECTOR_DATA),
        ("", VECTOR_IV, VECTOR_DATA),
        ("A" * 32, VECTOR_IV, VECTOR_DATA),
        (VECTOR_KEY, VECTOR_IV, sealed(b"{" + b" " * 15, padding=b"\x00" * 16)),
        (VECTOR_KEY, VECTOR_IV, sealed(b"{}" + b" " * 14, padding=b"\x05" * 15 + b"\x11")),
        (VECTOR_KEY, VECTOR_IV, sealed(b"\xff\xfe secret plain text")),
        (VECTOR_KEY, VECTOR_IV, sealed(b'["secret plain text"]')),
        (VECTOR_KEY, VECTOR_IV, sealed(b'{"nickName": "secret plain text"}')),
        (VECTOR_KEY, VECTOR_IV, sealed(b'{"watermark": "secret plain text"}')),
        (VECTOR_KEY, VECTOR_IV, sealed(b'{"watermark": {"appid": "wx-test-app", "timestamp": "now"}}')),
        (VECTOR_KEY, VECTOR_IV, sealed(b"[" * 10_000)),
        (VECTOR_KEY, VECTOR_IV, sealed(b'{"x": "' + b"x" * wechat.ENCRYPTED_CHARS_MAX + b'"}')),
    ],
)
def test_what_does_not_open_gives_one_error_that_holds_nothing(key: str, iv: str, data: str) -> None:
    with pytest.raises(WeChatDataUnreadable) as caught:
        decrypt(key, iv, data, appid=APPID, now=NOON)

    assert str(caught.value) == WeChatDataUnreadable.title_en
    assert (caught.value.detail, caught.value.extra) == (None, {})
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_good_contents_do_not_excuse_bad_padding_or_bad_base64() -> None:
    plain = json.dumps({"watermark": {"timestamp": int(NOON.timestamp()), "appid": APPID}, "x": ""}).encode()
    length = 16 - len(plain) % 16
    assert length > 1
    good = sealed(plain)
    assert decrypt(VECTOR_KEY, VECTOR_IV, good, appid=APPID, now=NOON)

    for bad in (sealed(plain, padding=bytes(length - 1) + bytes([length])), good[:20] + "!" + good[20:]):
        with pytest.raises(WeChatDataUnreadable):
            decrypt(VECTOR_KEY, VECTOR_IV, bad, appid=APPID, now=NOON)


def test_encrypted_data_has_a_limit_even_when_it_opens() -> None:
    watermark = {"timestamp": int(NOON.timestamp()), "appid": APPID}
    for filler, opens in ((11_000, True), (13_000, False)):
        data = sealed(json.dumps({"watermark": watermark, "x": "x" * filler}).encode())
        if opens:
            assert decrypt(VECTOR_KEY, VECTOR_IV, data, appid=APPID, now=NOON)
        else:
            with pytest.raises(WeChatDataUnreadable):
                decrypt(VECTOR_KEY, VECTOR_IV, data, appid=APPID, now=NOON)


# Steps


def test_werun_steps_come_through_by_shanghai_day(client: WeChatClient, phone: Phone) -> None:
    session = client.code_to_session(phone.code())
    given = phone("werun", steps={"2026-11-22": 8000, "2026-10-23": 0, "2026-11-21": 100_000})

    steps = werun_steps(session.session_key, given["iv"], given["encryptedData"], appid=APPID, now=NOON)

    assert steps == [
        StepDay(date(2026, 10, 23), 0),
        StepDay(date(2026, 11, 21), 100_000),
        StepDay(date(2026, 11, 22), 8000),
    ]


def test_werun_steps_do_not_open_with_another_persons_or_an_old_session_key(client: WeChatClient, phone: Phone) -> None:
    own = client.code_to_session(phone.code("alice"))
    other = client.code_to_session(phone.code("bob"))
    phone("new-session", "alice")
    given = phone("werun", "alice", steps={"2026-11-22": 8000})

    for session in (own, other):
        with pytest.raises(WeChatDataUnreadable):
            werun_steps(session.session_key, given["iv"], given["encryptedData"], appid=APPID, now=NOON)


def test_werun_steps_are_refused_when_stale(client: WeChatClient, phone: Phone, clock: Clock) -> None:
    session = client.code_to_session(phone.code())
    given = phone("werun", steps={"2026-11-22": 8000})
    clock.pass_(minutes=6)

    with pytest.raises(WeChatDataStale):
        werun_steps(session.session_key, given["iv"], given["encryptedData"], appid=APPID, now=clock())


def test_the_day_of_steps_turns_at_midnight_in_shanghai() -> None:
    for at, days in (
        (datetime(2026, 11, 22, 15, 58, tzinfo=UTC), ["2026-11-22"]),  # 23:58
        (datetime(2026, 11, 22, 16, 1, tzinfo=UTC), ["2026-11-22", "2026-11-23"]),  # 00:01
    ):
        data = sealed_steps([{"timestamp": midnight(day), "step": 10} for day in days], at)
        steps = werun_steps(VECTOR_KEY, VECTOR_IV, data, appid=APPID, now=at)
        assert [item.day.isoformat() for item in steps] == days


@pytest.mark.parametrize(
    "entries",
    [
        None,
        {},
        ["8000"],
        [{"timestamp": midnight("2026-11-22")}],
        [{"timestamp": midnight("2026-11-22"), "step": -1}],
        [{"timestamp": midnight("2026-11-22"), "step": 100_001}],
        [{"timestamp": midnight("2026-11-22"), "step": 10.5}],
        [{"timestamp": midnight("2026-11-22"), "step": True}],
        [{"timestamp": midnight("2026-11-22"), "step": "8000"}],
        [{"timestamp": midnight("2026-11-23"), "step": 10}],
        [{"timestamp": midnight("2026-10-22"), "step": 10}],
        [{"timestamp": 10**18, "step": 10}],
        [{"timestamp": -1, "step": 10}],
        [{"timestamp": midnight("2026-11-22"), "step": 10}, {"timestamp": midnight("2026-11-22") + 60, "step": 20}],
        [{"timestamp": midnight("2026-11-22") - 86_400 * n, "step": 10} for n in range(32)],
    ],
    ids=lambda entries: str(entries)[-60:],
)
def test_implausible_steps_are_refused(entries: Any) -> None:
    with pytest.raises(WeChatDataUnreadable):
        werun_steps(VECTOR_KEY, VECTOR_IV, sealed_steps(entries), appid=APPID, now=NOON)


def test_thirty_two_days_of_steps_are_refused_even_where_midnight_makes_room_for_them() -> None:
    at = datetime(2026, 11, 22, 16, 1, tzinfo=UTC)  # 00:01 of the 23rd in Shanghai
    entries = [{"timestamp": midnight("2026-11-23") - 86_400 * n, "step": 10} for n in range(32)]

    assert len(werun_steps(VECTOR_KEY, VECTOR_IV, sealed_steps(entries[1:], at), appid=APPID, now=at)) == 31
    with pytest.raises(WeChatDataUnreadable):
        werun_steps(VECTOR_KEY, VECTOR_IV, sealed_steps(entries, at), appid=APPID, now=at)


def test_thirty_one_days_of_steps_are_accepted() -> None:
    entries = [{"timestamp": midnight("2026-11-22") - 86_400 * n, "step": 10} for n in range(31)]
    steps = werun_steps(VECTOR_KEY, VECTOR_IV, sealed_steps(entries), appid=APPID, now=NOON)

    assert len(steps) == 31
    assert steps[0].day == date(2026, 10, 23)


# Secrets


def test_no_log_record_repr_or_exception_holds_a_secret(
    client: WeChatClient, phone: Phone, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[BaseException] = []

    def attempt(call: Callable[..., object], *arguments: Any, **named: Any) -> None:
        try:
            call(*arguments, **named)
        except DomainError as error:
            errors.append(error)

    code, phone_code = phone.code(), phone("phone-number")["code"]
    given = phone("werun", steps={"2026-11-22": 8000})
    caplog.set_level(logging.DEBUG)
    session = client.code_to_session(code)
    token = client.stable_access_token()
    attempt(client.code_to_session, code)
    attempt(client.phone_number, phone_code)
    attempt(client.phone_number, phone_code)
    attempt(werun_steps, session.session_key, given["iv"], given["encryptedData"], appid="wx-other", now=NOON)
    attempt(werun_steps, session.session_key, given["iv"], given["encryptedData"][:-4], appid=APPID, now=NOON)
    for broken in (error_answer(40125, f"bad {SECRET}"), b"{" + SECRET.encode(), lambda handler: None):
        with served(broken) as (other, _):
            attempt(other.code_to_session, "0c0d0e")
            attempt(other.stable_access_token)
    attempt(WeChatClient("http://127.0.0.1:1", APPID, SECRET).code_to_session, "0c0d0e")
    attempt(decrypt, VECTOR_KEY, VECTOR_IV, sealed(b"\xff secret plain text"), appid=APPID, now=NOON)

    logged = "\n".join(f"{record.getMessage()} {record.args!r} {record.exc_text}" for record in caplog.records)
    shown = repr(session) + str(session) + repr(client) + "".join(map(repr, errors))
    raised = "".join("".join(traceback.format_exception(error)) for error in errors)
    for secret in (
        session.session_key, session.openid, SECRET, token, code, phone_code, "0c0d0e", "secret plain text",
    ):  # fmt: skip
        assert secret not in logged
        assert secret not in shown
        assert secret not in raised
    for error in errors:
        assert (error.__cause__, error.__context__) == (None, None)
    # The log was really read, and still says which call went wrong.
    assert len(errors) >= 11
    assert "/sns/jscode2session" in logged
    assert "errcode 40125" in logged


def test_no_url_of_a_request_holds_a_secret(base_url: str, phone: Phone) -> None:
    urls: list[str] = []
    http = httpx.Client(trust_env=False, event_hooks={"request": [lambda request: urls.append(str(request.url))]})
    client = WeChatClient(base_url, APPID, SECRET, http=http)
    client.code_to_session(phone.code())
    client.phone_number(phone("phone-number")["code"])
    client.close()

    assert [url.removeprefix(base_url) for url in urls] == [
        "/sns/jscode2session",
        "/cgi-bin/stable_token",
        "/wxa/business/getuserphonenumber",
    ]


# The stand-in itself


def test_one_accept_is_one_message(client: WeChatClient, phone: Phone) -> None:
    openid, token = client.code_to_session(phone.code()).openid, phone.token()

    def message(value: str = "本周减碳 1.2 kg", template: str = "weekly", touser: str = openid) -> int:
        body = {"touser": touser, "template_id": template, "data": {"thing1": {"value": value}}}
        return int(phone.wire("/cgi-bin/message/subscribe/send", body, access_token=token)["errcode"])

    assert message() == 43101
    phone("accept", template="weekly")
    assert message(template="other") == 43101
    assert message("字" * 21) == 47003
    assert message("") == 47003
    assert message(touser="oNobody") == 40003
    assert message() == 0
    assert message() == 43101
    assert phone("inbox")["messages"] == [{"template": "weekly", "data": {"thing1": {"value": "本周减碳 1.2 kg"}}}]


def test_a_message_needs_a_good_token(phone: Phone, clock: Clock) -> None:
    token = phone.token()
    path, body = "/cgi-bin/message/subscribe/send", {"touser": "oNobody"}

    assert phone.wire(path, body, access_token="made-up")["errcode"] == 40001
    assert phone.wire(path, body, access_token=token)["errcode"] == 40003
    clock.pass_(seconds=7200)
    assert phone.wire(path, body, access_token=token)["errcode"] == 42001


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("login", {}),
        ("login", {"user": ""}),
        ("login", {"user": "x" * 65}),
        ("login", {"user": 5}),
        ("login", []),
        ("werun", {"user": "alice"}),
        ("werun", {"user": "alice", "steps": {"yesterday": 5}}),
        ("werun", {"user": "alice", "steps": {"9999-12-31": -5}}),
        ("werun", {"user": "alice", "steps": {"0001-01-01": True}}),
        ("werun", {"user": "alice", "steps": {f"2026-{1 + n // 28:02}-{1 + n % 28:02}": 1 for n in range(32)}}),
        ("accept", {"user": "alice", "template": "x" * 65}),
    ],
)
def test_the_phone_side_refuses_what_is_out_of_bounds(phone: Phone, path: str, body: Any) -> None:
    assert phone.http.post(f"/phone/{path}", json=body).status_code == 400


def test_the_stand_in_holds_no_more_than_its_limits(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wechat_standin, "USERS_MAX", 2)
    monkeypatch.setattr(wechat_standin, "CODES_MAX", 2)
    codes = [phone.code("alice"), phone.code("bob"), phone.code("alice")]
    app = {"appid": APPID, "secret": SECRET, "grant_type": "authorization_code"}

    assert phone.http.post("/phone/login", json={"user": "carol"}).status_code == 400
    assert [phone.wire("/sns/jscode2session", js_code=code, **app).get("errcode") for code in codes] == [
        40029,
        None,
        None,
    ]
    assert phone.http.post("/phone/login", content=b"x" * 70_000).status_code == 413


def test_the_stand_in_serves_this_machine_only(capsys: pytest.CaptureFixture[str]) -> None:
    app = create_standin(APPID, SECRET)
    for address, status in (("127.0.0.1", 200), ("192.0.2.7", 403), ("", 403)):
        answer = app.test_client().post(
            "/phone/login", json={"user": "alice"}, environ_overrides={"REMOTE_ADDR": address}
        )
        assert answer.status_code == status
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org", ""):
        with pytest.raises(SystemExit) as caught:
            wechat_standin.main(["--port", "0", "--host", host])
        assert caught.value.code == 2
        assert "loopback" in capsys.readouterr().err


def test_the_stand_in_starts_as_its_own_process_for_the_app_of_the_environment() -> None:
    environ = {**os.environ, "WECHAT_APPID": APPID, "WECHAT_SECRET": SECRET}
    command = [sys.executable, "-m", "server.people.wechat_standin", "--port", "0"]
    with subprocess.Popen(command, env=environ, cwd=PROJECT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            base_url = process.stderr.readline().split()[-1]
            client, phone = WeChatClient(base_url, APPID, SECRET), Phone(base_url)
            assert client.code_to_session(phone.code()).openid.startswith("o")
            client.close()
            phone.http.close()
        finally:
            process.terminate()
            output = process.stderr.read() if process.stderr else ""
    assert output == ""
