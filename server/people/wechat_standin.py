"""A stand-in for WeChat on loopback, for development and tests: the protocol's facts, and the phone's side of them.

`/sns/…`, `/cgi-bin/…` and `/wxa/…` answer as WeChat's servers do; `/phone/…` does what a mini-program's wx.* calls and
a person's taps would do. Everything is in memory and bounded. It signs in whoever asks, so it serves loopback only.

Source: developers.weixin.qq.com, code2Session, getStableAccessToken, getPhoneNumber, subscribeMessage.send, open data.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from flask import Flask, Response, jsonify, request
from werkzeug.serving import WSGIRequestHandler, make_server

from server.clock import day_start, now

# No real appid has a hyphen, so that a service left on these values can never reach a real mini-program.
STANDIN_APPID = "wx-stand-in"
STANDIN_SECRET = "stand-in-secret"  # noqa: S105 -- opens nothing but the stand-in

CODE_LIFE = timedelta(minutes=5)
TOKEN_LIFE = timedelta(seconds=7200)
TOKEN_OVERLAP = timedelta(minutes=5)
FORCED_REFRESH_INTERVAL = timedelta(seconds=30)
CALLS_PER_MINUTE_MAX = 100
MINUTE = timedelta(minutes=1)

BODY_BYTES_MAX = 64 * 1024
USERS_MAX = 10_000
CODES_MAX = 20_000
TOKENS_KEPT_MAX = 32
STEP_DAYS_MAX = 31
STEPS_MAX = 10_000_000  # more than any person walks, so that a service's own limit can be tried
ACCEPTS_MAX = 100
INBOX_MAX = 50
TEMPLATES_MAX = 50

USER_PATTERN = r"[A-Za-z0-9_.-]{1,64}"
TEMPLATE_PATTERN = r"[A-Za-z0-9_-]{1,64}"
ANY_TEXT_PATTERN = r"[^\x00-\x1f]{1,1024}"
# Longest value by kind of keyword in a message template; a kind that is not here is refused like a bad value.
VALUE_CHARS_MAX = {
    "thing": 20,
    "number": 32,
    "letter": 32,
    "symbol": 5,
    "character_string": 32,
    "time": 32,
    "date": 32,
    "amount": 12,
    "phone_number": 17,
    "car_number": 8,
    "name": 20,
    "phrase": 5,
}

Answer = dict[str, Any]


class Refusal(Exception):
    """An errcode to answer with."""

    def __init__(self, errcode: int, text: str) -> None:
        super().__init__(text)
        self.errcode = errcode
        self.text = text


@dataclass(slots=True)
class User:
    """One person with a phone."""

    name: str
    key_number: int = 0
    blocked: bool = False
    calls: deque[datetime] = field(default_factory=deque)
    accepts: dict[str, int] = field(default_factory=dict)
    inbox: deque[Answer] = field(default_factory=lambda: deque(maxlen=INBOX_MAX))


@dataclass(slots=True)
class Code:
    """A one-use code and whom it is for."""

    user: User
    expires_at: datetime
    used: bool = False


@dataclass(slots=True)
class Token:
    """An access token; `usable_until` moves forward when a newer one replaces it."""

    text: str
    expires_at: datetime
    usable_until: datetime


class StandIn:
    """The state, and one method for each address. A lock makes each answer one step."""

    def __init__(
        self, appid: str, secret: str, *, clock: Callable[[], datetime] = now, calls_per_minute_max: int
    ) -> None:
        self.appid = appid
        self.secret = secret
        self.clock = clock
        self.calls_per_minute_max = calls_per_minute_max
        self.lock = threading.Lock()
        self.users: dict[str, User] = {}
        self.login_codes: dict[str, Code] = {}
        self.phone_codes: dict[str, Code] = {}
        self.tokens: deque[Token] = deque(maxlen=TOKENS_KEPT_MAX)
        self.forced_at: datetime | None = None

    # WeChat's side

    def jscode2session(self) -> Answer:
        """code2Session: who signed in, without an errcode."""
        query = request.args
        if query.get("grant_type") != "authorization_code":
            raise Refusal(40002, "invalid grant_type")
        self._check_app(query.get("appid"), query.get("secret"))
        user = self._spend(self.login_codes, query.get("js_code"), used_errcode=40163)
        return {"session_key": self._session_key(user), "openid": self._openid(user)}

    def stable_token(self) -> Answer:
        """getStableAccessToken: the same token until its last five minutes, unless a new one is forced."""
        body = _body()
        if body.get("grant_type") != "client_credential":
            raise Refusal(40002, "invalid grant_type")
        self._check_app(body.get("appid"), body.get("secret"))
        at = self.clock()
        current = self.tokens[-1] if self.tokens else None
        if body.get("force_refresh") is True:
            # Forcing within 30 seconds of the last time changes nothing; otherwise the old token ends at once.
            if current is None or self.forced_at is None or at - self.forced_at >= FORCED_REFRESH_INTERVAL:
                self.forced_at = at
                if current is not None:
                    current.usable_until = at
                current = self._new_token(at)
        elif current is None or current.expires_at - at <= TOKEN_OVERLAP:
            # The old token stays good for its own last five minutes.
            current = self._new_token(at)
        return {"access_token": current.text, "expires_in": int((current.expires_at - at).total_seconds())}

    def get_user_phone_number(self) -> Answer:
        """getPhoneNumber: its codes are its own, and a used one is no more than invalid (40029)."""
        self._check_token()
        user = self._spend(self.phone_codes, _body().get("code"), used_errcode=40029)
        return {"errcode": 0, "errmsg": "ok", "phone_info": self._phone_info(user)}

    def send_subscribe_message(self) -> Answer:
        """subscribeMessage.send: each message uses up one accept of the person."""
        self._check_token()
        body = _body()
        user = next((user for user in self.users.values() if self._openid(user) == body.get("touser")), None)
        if user is None:
            raise Refusal(40003, "invalid openid")
        template = body.get("template_id")
        if not isinstance(template, str) or not re.fullmatch(TEMPLATE_PATTERN, template):
            raise Refusal(40037, "invalid template_id")
        _check_message_values(body.get("data"))
        if user.accepts.get(template, 0) < 1:
            raise Refusal(43101, "user refuse to accept the msg")
        user.accepts[template] -= 1
        user.inbox.append({"template": template, "data": body["data"]})
        return {"errcode": 0, "errmsg": "ok"}

    # The phone's side

    def login(self) -> Answer:
        """wx.login."""
        return {"code": self._issue(self.login_codes, self._user())}

    def phone_number(self) -> Answer:
        """A tap on the phone-number button: the one-use code, and the older encrypted form beside it."""
        user = self._user()
        return {"code": self._issue(self.phone_codes, user)} | self._encrypted(user, self._phone_info(user))

    def werun(self) -> Answer:
        """wx.getWeRunData, for the steps of up to 31 days: {"steps": {"2026-11-22": 8000}}."""
        user, steps = self._user(), _body().get("steps")
        if not isinstance(steps, dict) or len(steps) > STEP_DAYS_MAX:
            raise Refusal(47001, f"steps must be an object of at most {STEP_DAYS_MAX} days")
        entries = [{"timestamp": _midnight(day), "step": _step_count(count)} for day, count in steps.items()]
        return self._encrypted(user, {"stepInfoList": entries, "watermark": self._watermark()})

    def accept(self) -> Answer:
        """The person allows one message of a template (wx.requestSubscribeMessage)."""
        user, template = self._user(), _text("template", TEMPLATE_PATTERN)
        if template not in user.accepts and len(user.accepts) >= TEMPLATES_MAX:
            raise Refusal(45009, "too many templates")
        user.accepts[template] = min(ACCEPTS_MAX, user.accepts.get(template, 0) + 1)
        return {"accepts": user.accepts[template]}

    def inbox(self) -> Answer:
        """The messages that reached the person, oldest first."""
        return {"messages": list(self._user().inbox)}

    def new_session(self) -> Answer:
        """WeChat changes the person's session key, as it does from time to time (wx.checkSession then fails)."""
        self._user().key_number += 1
        return {}

    def block(self) -> Answer:
        """WeChat takes the person for high risk: sign-in answers 40226."""
        self._user().blocked = True
        return {}

    # What both sides rest on

    def _user(self) -> User:
        name = _text("user", USER_PATTERN)
        if name not in self.users and len(self.users) >= USERS_MAX:
            raise Refusal(45009, "too many users")
        return self.users.setdefault(name, User(name))

    def _issue(self, codes: dict[str, Code], user: User) -> str:
        at = self.clock()
        # Codes live equally long, so the first are the first to go, and what has ended is no longer held.
        while codes and (len(codes) >= CODES_MAX or next(iter(codes.values())).expires_at <= at):
            del codes[next(iter(codes))]
        code = secrets.token_hex(16)
        codes[code] = Code(user, at + CODE_LIFE)
        return code

    def _spend(self, codes: dict[str, Code], text: object, *, used_errcode: int) -> User:
        code = codes.get(text) if isinstance(text, str) else None
        at = self.clock()
        if code is None or code.expires_at <= at:
            raise Refusal(40029, "invalid code hint: [stand-in]")
        calls = code.user.calls
        while calls and at - calls[0] >= MINUTE:
            calls.popleft()
        if len(calls) >= self.calls_per_minute_max:
            raise Refusal(45011, "api minute-quota reach limit, must slower retry next minute")
        calls.append(at)
        if code.user.blocked:
            raise Refusal(40226, "code blocked")
        if code.used:
            raise Refusal(used_errcode, "code been used" if used_errcode == 40163 else "invalid code hint: [stand-in]")
        code.used = True
        return code.user

    def _check_app(self, appid: object, secret: object) -> None:
        if appid != self.appid:
            raise Refusal(40013, "invalid appid")
        if secret != self.secret:
            raise Refusal(40125, "invalid appsecret")

    def _new_token(self, at: datetime) -> Token:
        token = Token(secrets.token_urlsafe(64), at + TOKEN_LIFE, at + TOKEN_LIFE)
        self.tokens.append(token)
        return token

    def _check_token(self) -> None:
        text, at = request.args.get("access_token", ""), self.clock()
        token = next((token for token in self.tokens if token.text == text), None)
        if token is None or token.usable_until <= at < token.expires_at:
            raise Refusal(40001, "invalid credential, access_token is invalid or not latest")
        if token.usable_until <= at:
            raise Refusal(42001, "access_token expired")

    def _derived(self, *parts: object) -> bytes:
        """Bytes that stay the same when the stand-in starts again, so that a kept database goes on fitting it."""
        return hmac.digest(self.secret.encode(), "\n".join(map(str, (self.appid, *parts))).encode(), hashlib.sha256)

    def _openid(self, user: User) -> str:
        return "o" + base64.urlsafe_b64encode(self._derived("openid", user.name))[:27].decode()

    def _session_key(self, user: User) -> str:
        return base64.b64encode(self._derived("session", user.name, user.key_number)[:16]).decode()

    def _phone_info(self, user: User) -> Answer:
        number = f"199{int.from_bytes(self._derived('phone', user.name)[:8]) % 10**8:08}"
        return {
            "phoneNumber": number,
            "purePhoneNumber": number,
            "countryCode": "86",
            "watermark": self._watermark(),
        }

    def _watermark(self) -> Answer:
        return {"timestamp": int(self.clock().timestamp()), "appid": self.appid}

    def _encrypted(self, user: User, data: Answer) -> Answer:
        key, iv = base64.b64decode(self._session_key(user)), secrets.token_bytes(16)
        padder = PKCS7(algorithms.AES128.block_size).padder()
        encryptor = Cipher(algorithms.AES128(key), modes.CBC(iv)).encryptor()
        padded = padder.update(json.dumps(data).encode()) + padder.finalize()
        sealed = encryptor.update(padded) + encryptor.finalize()
        return {"encryptedData": base64.b64encode(sealed).decode(), "iv": base64.b64encode(iv).decode()}


def create_standin(
    appid: str,
    secret: str,
    *,
    clock: Callable[[], datetime] = now,
    calls_per_minute_max: int = CALLS_PER_MINUTE_MAX,
) -> Flask:
    """The stand-in as an app, for a server on loopback. `clock` gives aware instants."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
    standin = StandIn(appid, secret, clock=clock, calls_per_minute_max=calls_per_minute_max)
    for method, path, answer in (
        ("GET", "/sns/jscode2session", standin.jscode2session),
        ("POST", "/cgi-bin/stable_token", standin.stable_token),
        ("POST", "/wxa/business/getuserphonenumber", standin.get_user_phone_number),
        ("POST", "/cgi-bin/message/subscribe/send", standin.send_subscribe_message),
    ):
        app.add_url_rule(path, path, _wechat_view(standin.lock, answer), methods=[method])
    for path, answer in (
        ("/phone/login", standin.login),
        ("/phone/phone-number", standin.phone_number),
        ("/phone/werun", standin.werun),
        ("/phone/accept", standin.accept),
        ("/phone/inbox", standin.inbox),
        ("/phone/new-session", standin.new_session),
        ("/phone/block", standin.block),
    ):
        app.add_url_rule(path, path, _phone_view(standin.lock, answer), methods=["POST"])
    app.before_request(_refuse_strangers)
    return app


def _wechat_view(lock: threading.Lock, answer: Callable[[], Answer]) -> Callable[[], Response]:
    """HTTP 200 whatever the outcome, JSON under a Content-Type of plain text, and a rid after every message."""

    def view() -> Response:
        try:
            with lock:
                content = answer()
        except Refusal as refusal:
            rid = f"{secrets.token_hex(4)}-{secrets.token_hex(4)}-{secrets.token_hex(4)}"
            content = {"errcode": refusal.errcode, "errmsg": f"{refusal.text} rid: {rid}"}
        return Response(json.dumps(content, ensure_ascii=False), content_type="text/plain; charset=utf-8")

    return view


def _phone_view(lock: threading.Lock, answer: Callable[[], Answer]) -> Callable[[], Response]:
    """HTTP 400 with a sentence when the phone's call is wrong: this side is ours and not WeChat's."""

    def view() -> Response:
        try:
            with lock:
                return jsonify(answer())
        except Refusal as refusal:
            response = jsonify(errcode=refusal.errcode, errmsg=refusal.text)
            response.status_code = 400
            return response

    return view


def _refuse_strangers() -> tuple[str, int] | None:
    """A second guard, should another server ever carry the app outside: whoever is not on this machine is sent away."""
    return None if _is_loopback(request.remote_addr or "") else ("loopback only\n", 403)


def _body() -> Answer:
    try:
        body = json.loads(request.get_data())
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Refusal(47001, "data format error")
    return body


def _text(name: str, pattern: str) -> str:
    value = _body().get(name)
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise Refusal(47001, f"{name} must match {pattern}")
    return value


def _midnight(day: str) -> int:
    try:
        return int(day_start(date.fromisoformat(day)).timestamp())
    except (ValueError, OverflowError):
        raise Refusal(47001, "a day must look like 2026-11-22") from None


def _step_count(count: object) -> int:
    if type(count) is not int or not 0 <= count <= STEPS_MAX:
        raise Refusal(47001, f"a step count must be a whole number from 0 to {STEPS_MAX}")
    return count


def _check_message_values(data: object) -> None:
    """Refuse with 47003 what does not fit its keyword: {"thing1": {"value": "…"}}."""
    if not isinstance(data, dict) or not data or len(data) > 10:
        raise Refusal(47003, "argument invalid! data")
    for name, entry in data.items():
        kind = re.fullmatch(r"([a-z_]{1,20}?)[0-9]{1,2}", name)
        value = entry.get("value") if isinstance(entry, dict) else None
        longest = VALUE_CHARS_MAX.get(kind[1], 0) if kind else 0
        if not isinstance(value, str) or not re.fullmatch(ANY_TEXT_PATTERN, value) or len(value) > longest:
            raise Refusal(47003, f"argument invalid! data.{name[:32]}.value invalid")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class QuietHandler(WSGIRequestHandler):
    """Keeps the request line out of the output: WeChat's protocol puts the secret and the token into it."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Serve the app of WECHAT_APPID and WECHAT_SECRET until interrupted.

    Exit status 2 when the address is not of this machine alone.
    """
    parser = argparse.ArgumentParser(prog="python -m server.people.wechat_standin", description=__doc__)
    parser.add_argument("--port", type=int, required=True, choices=range(65536), metavar="PORT", help="0: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    options = parser.parse_args(arguments)
    # Names are not accepted: what a name means is another machine's word.
    host = "127.0.0.1" if options.host == "localhost" else options.host
    if not _is_loopback(host):
        parser.error(f"--host {options.host}: only a loopback address, because anyone could sign in as anyone here")
    # The service and its stand-in are started with one environment, so both read the same pair.
    appid, secret = os.environ.get("WECHAT_APPID"), os.environ.get("WECHAT_SECRET")
    app = create_standin(appid or STANDIN_APPID, secret or STANDIN_SECRET)
    server = make_server(host, options.port, app, threaded=True, request_handler=QuietHandler)
    name = f"[{host}]" if ":" in host else host
    sys.stderr.write(f"WeChat stand-in at http://{name}:{server.server_port}\n")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
