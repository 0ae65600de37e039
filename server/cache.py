"""Redis (or Valkey) for what may vanish: cached reads and soft rate counters. Never the truth about anything."""

import time
from collections.abc import Callable
from typing import Any

import redis
import structlog
from flask import Flask, current_app
from redis.backoff import NoBackoff
from redis.retry import Retry

log = structlog.get_logger()

# redis-py waits for ever on a frozen server by default. 50 ms and no second try, everywhere, from this one place.
TIMEOUT_S = 0.05
CLIENT_OPTIONS: dict[str, Any] = {
    "socket_timeout": TIMEOUT_S,
    "socket_connect_timeout": TIMEOUT_S,
    "retry": Retry(NoBackoff(), 0),
    "health_check_interval": 0,
    "max_connections": 64,
}

# After a failure nobody asks for this long, so that a frozen server costs 50 ms per window and not per request.
QUIET_S = 2.0


class Cache:
    """A client that answers None instead of failing, and keeps quiet for a while after a failure."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url, **CLIENT_OPTIONS)
        self._quiet_until = 0.0
        self._checked_at = -QUIET_S

    def alive(self) -> bool:
        """Whether the server answered lately; asks it at most once per QUIET_S."""
        if time.monotonic() < self._quiet_until:
            return False
        if time.monotonic() - self._checked_at < QUIET_S:
            return True
        return self._attempt(lambda: bool(self._client.ping())) is True

    def get(self, key: str) -> bytes | None:
        """The value, or None when there is none or nobody to ask."""
        found = self._attempt(lambda: self._client.get(key))
        return found if isinstance(found, bytes) else None

    def put(self, key: str, value: bytes, *, seconds: int) -> None:
        """Keep a value for at most `seconds`, if there is anyone to keep it."""
        self._attempt(lambda: self._client.set(key, value, ex=seconds))

    def _attempt(self, call: Callable[[], Any]) -> Any:
        if time.monotonic() < self._quiet_until:
            return None
        try:
            answer = call()
        except redis.RedisError as error:
            self._quiet_until = time.monotonic() + QUIET_S
            log.warning("cache_unavailable", kind=type(error).__name__)
            return None
        self._checked_at = time.monotonic()
        return answer


def install(app: Flask, url: str) -> None:
    """Give the application its cache."""
    app.extensions["tanpuhui_cache"] = Cache(url)


def cache() -> Cache:
    """The running application's cache."""
    found: Cache = current_app.extensions["tanpuhui_cache"]
    return found
