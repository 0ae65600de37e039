"""Rate limits by person or address. The counters live in Redis and may vanish; without it each process counts alone,
and sign-in, spending and staff grants fall back to a stricter limit.
"""

import contextlib

import jwt
from flask import Flask, current_app, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from jwt import PyJWTError
from redis import RedisError

from server.access import TOKEN_ALGORITHM
from server.cache import CLIENT_OPTIONS, cache

BODY_BYTES_MAX = 64 * 1024
FEED_BODY_BYTES_MAX = 5 * 1024 * 1024

EVERYDAY = "600 per minute"


def caller() -> str:
    """Whom a request counts against: the person named by a token of ours, else the address.

    Asks no database: a failure here would be taken for one of the counters' server, and it costs every request.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme == "Bearer":
        # A bad token is refused by the view; here it counts against its address.
        with contextlib.suppress(PyJWTError):
            return f"person:{jwt.decode(token, current_app.config['JWT_SECRET_KEY'], [TOKEN_ALGORITHM])['sub']}"
    return f"address:{get_remote_address()}"


class _PatientLimiter(Limiter):  # type: ignore[misc,unused-ignore]
    """Flask-Limiter falls back to memory only in the first of several threads that find the server gone."""

    def _check_request_limit(self, callable_name: str | None = None, in_middleware: bool = True) -> None:
        """Check the limits; a thread that was still asking when another fell back now falls back too."""
        try:
            super()._check_request_limit(callable_name, in_middleware)
        except RedisError:
            self.context.seen_limits.clear()
            super()._check_request_limit(callable_name, in_middleware)


limiter = _PatientLimiter(
    key_func=caller,
    default_limits=[EVERYDAY],
    strategy="fixed-window",
    in_memory_fallback_enabled=True,
    headers_enabled=False,
)


def _stricter_without_redis(usual: str, strict: str) -> str:
    return usual if cache().alive() else strict


def sign_in_limit() -> str:
    """Attempts by staff to sign in with a password, by address."""
    return _stricter_without_redis("60 per minute", "10 per minute")


def phone_sign_in_limit() -> str:
    """Sign-ins and refreshes of phones, by address: a mobile network puts thousands of residents behind one."""
    return _stricter_without_redis("1200 per minute", "300 per minute")


def spend_limit() -> str:
    """Spending and staff grants, by person."""
    return _stricter_without_redis("60 per minute", "10 per minute")


def feed_partner() -> str:
    """A feed counts against the partner that it names."""
    return f"partner:{(request.view_args or {}).get('partner_code', '')}"


def install(app: Flask, redis_url: str, *, enabled: bool) -> None:
    """Give the application its limiter and its largest body."""
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
    app.config["MAX_FORM_MEMORY_SIZE"] = BODY_BYTES_MAX
    app.config["RATELIMIT_ENABLED"] = enabled
    app.config["RATELIMIT_STORAGE_URI"] = redis_url
    # `limits` builds its own client; it gets the same short patience as ours.
    app.config["RATELIMIT_STORAGE_OPTIONS"] = CLIENT_OPTIONS
    app.before_request(_take_in_body)
    limiter.init_app(app)


def _take_in_body() -> None:
    """Read a body of ordinary size before anything can refuse the request.

    The web server closes a connection whose request it answered before the body came, and the client's next request on
    that connection is lost.
    """
    if 0 < (request.content_length or 0) <= BODY_BYTES_MAX:
        request.get_data()
