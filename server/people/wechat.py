"""The WeChat mini-program server API over HTTP, and the pure decryption of what a phone passes on.

Three rules hold the file together. The network is never touched inside a database transaction: nothing here knows the
database. Answers are told apart by `errcode` alone, because `errmsg` carries a `rid:` trailer that differs every time.
And the app secret, the access token, the one-use codes and the session key enter no log, no `repr` and no exception:
httpx logs the URL of every request and its exceptions hold the request, so secrets travel in the request target,
which neither shows, and a caught exception is never chained to ours.

Source of the protocol: developers.weixin.qq.com, code2Session, getStableAccessToken, getPhoneNumber, open data check.
"""

import base64
import binascii
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

import httpx
import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from server.clock import SHANGHAI
from server.errors import DomainError, RateLimited, Unauthenticated, Unavailable

logger = logging.getLogger(__name__)

# A person waits at the sign-in screen: two seconds tell a dead route from a slow one, three cover slow answers.
CONNECT_TIMEOUT_SECONDS = 2.0
READ_TIMEOUT_SECONDS = 3.0
# A web thread is never held longer than this, whatever refreshes and repeats one call needs.
CALL_SECONDS_MAX = 8.0
CONNECTIONS_MAX = 20
# The longest real answer is under 2 KB; more than this is not WeChat.
ANSWER_BYTES_MAX = 64 * 1024
CODE_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}")
# WeChat hands out a new token in the last 300 s of the old one and honours both meanwhile: ask within that time.
TOKEN_RENEWAL_SECONDS = 240
RATE_WINDOW_SECONDS = 60

# Thirty-one days of steps are about 1.4 KB; a profile with a picture address stays under 2 KB.
ENCRYPTED_CHARS_MAX = 16 * 1024
WATERMARK_AGE_MAX = timedelta(minutes=5)
CLOCK_SKEW_MAX = timedelta(minutes=1)
WERUN_DAYS_MAX = 31
# WeRun itself stops counting at 98,800 steps; a larger number did not come from it.
STEPS_PER_DAY_MAX = 100_000

BUSY = -1
# 40001: not the latest token; 42001: past its time. Both are healed by a fresh one.
TOKEN_REFUSED = frozenset({40001, 42001})


class WeChatCodeInvalid(Unauthenticated):
    """The one-use code is unknown to WeChat, is older than five minutes, or belongs to another app (40029)."""

    code, title_zh, title_en = "wechat-code-invalid", "微信凭证无效, 请重试", "The WeChat code is not valid; try again"


class WeChatCodeUsed(Unauthenticated):
    """The one-use code was exchanged before (40163)."""

    code, title_zh, title_en = (
        "wechat-code-used",
        "微信凭证已被使用, 请重试",
        "The WeChat code was already used; try again",
    )


class WeChatRateLimited(RateLimited):
    """WeChat counts too many calls of this person in the last minute (45011)."""

    code, title_zh, title_en = (
        "wechat-rate-limited",
        "操作过于频繁, 请稍后再试",
        "Too many sign-ins; try again in a minute",
    )

    def __init__(self, detail: str | None = None, **extra: Any) -> None:
        super().__init__(detail, **extra)
        self.headers["Retry-After"] = str(RATE_WINDOW_SECONDS)


class WeChatAccountBlocked(DomainError):
    """WeChat holds this person's account as high risk and does not let it sign in (40226)."""

    code, status = "wechat-account-blocked", 403
    title_zh, title_en = "该微信账号被微信限制登录", "WeChat does not let this account sign in"


class WeChatMisconfigured(DomainError):
    """WeChat does not accept this service's own appid, secret, address or permissions: an operator must act."""

    code, status = "wechat-misconfigured", 502
    title_zh, title_en = "微信接入配置有误", "The connection to WeChat is misconfigured"


class WeChatUnavailable(Unavailable):
    """WeChat is busy, out of reach, or answers something that is not its protocol."""

    code, title_zh, title_en = "wechat-unavailable", "微信服务暂时不可用", "WeChat cannot be reached just now"


class WeChatDataUnreadable(DomainError):
    """Encrypted data does not open with this person's session key, or is not what WeChat would encrypt.

    One error for a wrong key, a wrong vector, bad padding and bad contents: telling them apart would let a caller
    decrypt by trial (CBC without authentication).
    """

    code, status = "wechat-data-unreadable", 422
    title_zh, title_en = (
        "微信数据无法解密, 请重新登录后再试",
        "The WeChat data cannot be decrypted; sign in again and retry",
    )


class WeChatDataForeign(DomainError):
    """The data was made for another mini-program."""

    code, status = "wechat-data-foreign", 422
    title_zh, title_en = "微信数据不属于本小程序", "The WeChat data belongs to another mini-program"


class WeChatDataStale(DomainError):
    """The data was made too long ago, or in the future: perhaps a replay."""

    code, status = "wechat-data-stale", 422
    title_zh, title_en = "微信数据已过期, 请重新获取", "The WeChat data is too old; fetch it again"


ERROR_BY_ERRCODE: dict[int, type[DomainError]] = {
    BUSY: WeChatUnavailable,
    40001: WeChatMisconfigured,  # refused even when fresh: the secret was changed, or another service fights for it
    40013: WeChatMisconfigured,
    40029: WeChatCodeInvalid,
    40125: WeChatMisconfigured,
    40163: WeChatCodeUsed,
    40164: WeChatMisconfigured,  # this server's address is not on the app's list
    40226: WeChatAccountBlocked,
    42001: WeChatUnavailable,
    45011: WeChatRateLimited,
    48001: WeChatMisconfigured,  # the app was not granted this interface
}


@dataclass(frozen=True, slots=True)
class WeChatSession:
    """Who signed in. Nothing of it shows in `repr`: two identifiers of a person and the key to their data."""

    openid: str = field(repr=False)
    session_key: str = field(repr=False)
    unionid: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class StepDay:
    """Steps of one Asia/Shanghai day; today's number still grows."""

    day: date
    steps: int


Identifier = Annotated[str, msgspec.Meta(max_length=128)]


class _Answer(msgspec.Struct):
    """What every answer may carry; `errcode` is absent, or 0, on success."""

    errcode: int = 0


class _SessionAnswer(_Answer):
    openid: Identifier = ""
    session_key: Identifier = ""
    unionid: Identifier | None = None


class _TokenAnswer(_Answer):
    access_token: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    expires_in: Annotated[int, msgspec.Meta(ge=0, le=7200)] = 0


class _Watermark(msgspec.Struct):
    appid: str
    timestamp: int


class _PhoneInfo(msgspec.Struct, rename="camel"):
    pure_phone_number: Identifier
    # Documented as a string and shown as a number in the same document: both are read.
    country_code: str | int
    watermark: _Watermark


class _PhoneAnswer(_Answer):
    phone_info: _PhoneInfo | None = None


class _StepEntry(msgspec.Struct):
    """One entry of stepInfoList; the bounds of the timestamp (2000 to 2100) keep it a date."""

    timestamp: Annotated[int, msgspec.Meta(ge=946_684_800, le=4_102_444_800)]
    step: Annotated[int, msgspec.Meta(ge=0, le=STEPS_PER_DAY_MAX)]


_StepList = Annotated[list[_StepEntry], msgspec.Meta(max_length=WERUN_DAYS_MAX)]


AnswerT = TypeVar("AnswerT", bound=_Answer)


class WeChatClient:
    """The calls that the service makes to WeChat, safe to share between threads.

    `base_url` is https://api.weixin.qq.com, or a stand-in on loopback. The access token is kept in memory: a stable
    token is the same for every process that asks, so processes need not share it.
    """

    def __init__(self, base_url: str, appid: str, secret: str, *, http: httpx.Client | None = None) -> None:
        self._base_url = httpx.URL(base_url)
        if self._base_url.scheme not in {"http", "https"} or not self._base_url.host or self._base_url.query:
            raise ValueError("the WeChat base URL must be an http or https address without a query")
        self._appid = appid
        self._secret = secret
        self._http = http or httpx.Client(
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            # The environment must not lead sign-in through a proxy that no setting names; pass `http` to use one.
            trust_env=False,
        )
        self._token_lock = threading.Lock()
        self._token = ""
        self._token_renew_at = 0.0  # of the monotonic clock, in seconds

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def code_to_session(self, code: str) -> WeChatSession:
        """Exchange the one-use code of wx.login for the person's openid and session key (code2Session).

        Raises WeChatCodeInvalid, WeChatCodeUsed, WeChatRateLimited, WeChatAccountBlocked, WeChatMisconfigured,
        WeChatUnavailable.
        """
        _require_code(code)
        query = {
            "appid": self._appid,
            "secret": self._secret,
            "js_code": code,
            "grant_type": "authorization_code",
        }
        answer = self._call(_SessionAnswer, "/sns/jscode2session", query=query, deadline=_deadline())
        _require_success(answer, "/sns/jscode2session")
        if not answer.openid or len(_base64(answer.session_key) or b"") != 16:
            raise WeChatUnavailable("WeChat's answer has no session")
        return WeChatSession(answer.openid, answer.session_key, answer.unionid or None)

    def stable_access_token(self) -> str:
        """The app's access token (getStableAccessToken), asked for again before it ends.

        Raises WeChatMisconfigured, WeChatRateLimited, WeChatUnavailable.
        """
        return self._usable_token(deadline=_deadline())

    def phone_number(self, code: str) -> str:
        """Exchange the one-use code of the phone-number button for the number, as E.164: "+8613800138000".

        This code is another than the login code. Raises what `code_to_session` raises.
        """
        _require_code(code)
        answer = self._call_with_token(_PhoneAnswer, "/wxa/business/getuserphonenumber", body={"code": code})
        info = answer.phone_info
        if info is None:
            raise WeChatUnavailable("WeChat's answer has no phone number")
        number = f"+{info.country_code}{info.pure_phone_number}"
        if info.watermark.appid != self._appid or not re.fullmatch(r"\+[1-9][0-9]{5,14}", number):
            raise WeChatUnavailable("WeChat's answer has no usable phone number")
        return number

    def _call_with_token(self, answer_type: type[AnswerT], path: str, *, body: dict[str, Any]) -> AnswerT:
        """POST with the access token; a refused token is renewed once and the call repeated once."""
        deadline = _deadline()
        token = self._usable_token(deadline=deadline)
        answer = self._call(answer_type, path, query={"access_token": token}, body=body, deadline=deadline)
        if answer.errcode in TOKEN_REFUSED:
            token = self._renewed_token(token, deadline=deadline)
            answer = self._call(answer_type, path, query={"access_token": token}, body=body, deadline=deadline)
        _require_success(answer, path)
        return answer

    def _usable_token(self, *, deadline: float) -> str:
        with _held(self._token_lock, deadline):
            if time.monotonic() >= self._token_renew_at:
                self._fetch_token(force_refresh=False, deadline=deadline)
            return self._token

    def _renewed_token(self, refused: str, *, deadline: float) -> str:
        """A token other than the refused one.

        Force only when asking plainly brings the same token back: forcing ends the token of every other process and
        is allowed twenty times a day.
        """
        with _held(self._token_lock, deadline):
            if self._token == refused:
                self._fetch_token(force_refresh=False, deadline=deadline)
            if self._token == refused:
                self._fetch_token(force_refresh=True, deadline=deadline)
            return self._token

    def _fetch_token(self, *, force_refresh: bool, deadline: float) -> None:
        body = {
            "grant_type": "client_credential",
            "appid": self._appid,
            "secret": self._secret,
            "force_refresh": force_refresh,
        }
        answer = self._call(_TokenAnswer, "/cgi-bin/stable_token", query={}, body=body, deadline=deadline)
        _require_success(answer, "/cgi-bin/stable_token")
        if not answer.access_token:
            raise WeChatUnavailable("WeChat's answer has no access token")
        self._token = answer.access_token
        self._token_renew_at = time.monotonic() + max(0, answer.expires_in - TOKEN_RENEWAL_SECONDS)

    def _call(
        self,
        answer_type: type[AnswerT],
        path: str,
        *,
        query: dict[str, str],
        body: dict[str, Any] | None = None,
        deadline: float,
    ) -> AnswerT:
        """One call; repeated once when WeChat says that it is busy, which is its word that nothing was done.

        A timeout is not repeated: the one-use code may have been spent by the call whose answer was lost.
        """
        answer = self._decoded(answer_type, path, self._exchange(path, query, body, deadline))
        if answer.errcode == BUSY:
            answer = self._decoded(answer_type, path, self._exchange(path, query, body, deadline))
        return answer

    def _decoded(self, answer_type: type[AnswerT], path: str, content: bytes | None) -> AnswerT:
        answer = None if content is None else _parsed(lambda: msgspec.json.decode(content, type=answer_type))
        if answer is None:
            if content is not None:
                logger.warning("WeChat answered %s with something that is not its protocol", path)
            raise WeChatUnavailable
        return answer

    def _exchange(self, path: str, query: dict[str, str], body: dict[str, Any] | None, deadline: float) -> bytes | None:
        """Send one request and read its answer; None when there is none to read."""
        remaining_seconds = deadline - time.monotonic()
        if remaining_seconds <= 0:
            return None
        full_path = self._base_url.path.rstrip("/") + path
        target = f"{full_path}?{urlencode(query)}" if query else full_path
        request = self._http.build_request(
            "GET" if body is None else "POST",
            self._base_url.copy_with(path=full_path),
            json=body,
            # Compressed answers would be bounded after the expansion only.
            headers={"Accept-Encoding": "identity"},
            timeout=httpx.Timeout(
                min(READ_TIMEOUT_SECONDS, remaining_seconds), connect=min(CONNECT_TIMEOUT_SECONDS, remaining_seconds)
            ),
            # The query goes to the wire from here and not from the URL, which httpx logs.
            extensions={"target": target.encode("ascii")},
        )
        try:
            with closing(self._http.send(request, stream=True, follow_redirects=False)) as response:
                if response.status_code != httpx.codes.OK:
                    logger.warning("WeChat answered %s with HTTP status %d", path, response.status_code)
                    return None
                return _bounded_content(response, deadline)
        except httpx.HTTPError as error:
            # Its class says enough; the exception itself holds the request and is not kept.
            logger.warning("WeChat did not answer %s: %s", path, type(error).__name__)
            return None


def decrypt(
    session_key: str,
    iv: str,
    encrypted_data: str,
    *,
    appid: str,
    now: datetime,
    age_max: timedelta = WATERMARK_AGE_MAX,
) -> dict[str, Any]:
    """Open what a phone passes on: AES-128-CBC with PKCS#7 padding, key, vector and data in base64, JSON inside.

    The watermark must name this `appid` and be at most `age_max` old at `now` (aware).

    Raises WeChatDataUnreadable, WeChatDataForeign, WeChatDataStale.
    """
    plain = _decrypted(session_key, iv, encrypted_data)
    data = None if plain is None else _parsed(lambda: msgspec.json.decode(plain, type=dict[str, Any]))
    watermark = None if data is None else _parsed(lambda: msgspec.convert(data.get("watermark"), _Watermark))
    if data is None or watermark is None:
        raise WeChatDataUnreadable
    if watermark.appid != appid:
        raise WeChatDataForeign
    age_seconds = now.timestamp() - watermark.timestamp
    if not -CLOCK_SKEW_MAX.total_seconds() <= age_seconds <= age_max.total_seconds():
        raise WeChatDataStale
    return data


def werun_steps(
    session_key: str,
    iv: str,
    encrypted_data: str,
    *,
    appid: str,
    now: datetime,
    age_max: timedelta = WATERMARK_AGE_MAX,
) -> list[StepDay]:
    """Open the answer of wx.getWeRunData: at most 31 days up to today, oldest first, each day once.

    A timestamp is the Asia/Shanghai midnight that begins the day. Raises what `decrypt` raises; one implausible entry
    refuses them all, because WeChat does not send such.
    """
    data = decrypt(session_key, iv, encrypted_data, appid=appid, now=now, age_max=age_max)
    entries = _parsed(lambda: msgspec.convert(data.get("stepInfoList"), _StepList))
    # Data made just before midnight and read just after begins one day earlier; the skew works the other way.
    first = (now - age_max).astimezone(SHANGHAI).date() - timedelta(days=WERUN_DAYS_MAX - 1)
    last = (now + CLOCK_SKEW_MAX).astimezone(SHANGHAI).date()
    days = [] if entries is None else [StepDay(_day(entry.timestamp), entry.step) for entry in entries]
    distinct = {item.day for item in days}
    if entries is None or len(distinct) != len(days) or not all(first <= day <= last for day in distinct):
        raise WeChatDataUnreadable
    return sorted(days, key=lambda item: item.day)


def _day(timestamp: int) -> date:
    return datetime.fromtimestamp(timestamp, SHANGHAI).date()


def _decrypted(session_key: str, iv: str, encrypted_data: str) -> bytes | None:
    """The plain bytes, or None when anything is not as it should be."""
    if len(encrypted_data) > ENCRYPTED_CHARS_MAX:
        return None
    key, vector, data = _base64(session_key), _base64(iv), _base64(encrypted_data)
    if key is None or len(key) != 16 or vector is None or len(vector) != 16 or not data or len(data) % 16:
        return None
    decryptor = Cipher(algorithms.AES128(key), modes.CBC(vector)).decryptor()
    unpadder = PKCS7(algorithms.AES128.block_size).unpadder()
    padded = decryptor.update(data) + decryptor.finalize()
    return _parsed(lambda: unpadder.update(padded) + unpadder.finalize())


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


ParsedT = TypeVar("ParsedT")


def _parsed(parse: Callable[[], ParsedT]) -> ParsedT | None:
    """What `parse` makes, or None. The exception ends here: it may hold the text that it failed on."""
    try:
        return parse()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _bounded_content(response: httpx.Response, deadline: float) -> bytes | None:
    """The body as sent, or None when it is too long or too slow. Its Content-Type says nothing and is not read."""
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > ANSWER_BYTES_MAX or time.monotonic() > deadline:
            logger.warning("WeChat's answer was cut off after %d bytes", len(content))
            return None
    return bytes(content)


def _require_code(code: str) -> None:
    """Refuse what can be no WeChat code, without a call."""
    if not CODE_PATTERN.fullmatch(code):
        raise WeChatCodeInvalid


def _require_success(answer: _Answer, path: str) -> None:
    if answer.errcode == 0:
        return
    error = ERROR_BY_ERRCODE.get(answer.errcode, WeChatUnavailable)
    if error.status >= 500:
        # The number is what an operator looks up; errmsg may repeat what was sent.
        logger.warning("WeChat refused %s with errcode %d", path, answer.errcode)
    raise error


def _deadline() -> float:
    return time.monotonic() + CALL_SECONDS_MAX


@contextmanager
def _held(lock: threading.Lock, deadline: float) -> Iterator[None]:
    """Hold the lock for the block, after waiting for it no longer than the deadline."""
    if not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
        raise WeChatUnavailable
    try:
        yield
    finally:
        lock.release()
