"""Structured JSON logs: one line per request with its id and route. No names, tokens, bodies, queries or addresses."""

import logging
import re
import sys
import time
import traceback
from typing import Any

import structlog
from flask import Flask, Response, g, request

from server.database import new_id

log = structlog.get_logger("access")

# Keys that must never reach a log, whoever passes them; the processor drops the value and keeps the key.
SECRET_KEYS = frozenset(
    {"password", "token", "access_token", "refresh_token", "session_key", "secret", "openid", "phone", "authorization"}
)

FRAMES_MAX = 40
CAUSES_MAX = 5


def _redact(_logger: Any, _method: str, event: Any) -> Any:
    for key in event.keys() & SECRET_KEYS:
        event[key] = "[removed]"
    return event


def _where(_logger: Any, _method: str, event: Any) -> Any:
    """Tell an exception by its types and places alone: its message may hold a person's data."""
    given = event.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    raised = given[1] if isinstance(given, tuple) else given
    told: list[dict[str, Any]] = []
    while isinstance(raised, BaseException) and len(told) < CAUSES_MAX:
        frames = traceback.extract_tb(raised.__traceback__)[-FRAMES_MAX:]
        places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        told.append({"type": f"{type(raised).__module__}.{type(raised).__qualname__}", "places": places})
        raised = raised.__cause__ or (None if raised.__suppress_context__ else raised.__context__)
    if told:
        event["exception"] = told
    return event


def configure(level: str) -> None:
    """Send structlog and the standard library's loggers to stderr as JSON lines."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact,
    ]
    structlog.configure(
        processors=[
            *shared,
            _where,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _where,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # httpx logs every address it calls at INFO, and a code2Session address holds the app secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Registering and fetching jobs would fill every command's output; the jobs log what they did themselves.
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)


def install(app: Flask) -> None:
    """Number every request and log its end."""

    def begin() -> None:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{8,64}", given) else str(new_id())
        g.began_at = time.perf_counter()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)

    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "")
        log.info(
            "request",
            method=request.method,
            # The rule and not the path: a path can name a person.
            route=str(request.url_rule) if request.url_rule else None,
            status=response.status_code,
            elapsed_ms=round((time.perf_counter() - g.get("began_at", time.perf_counter())) * 1000, 1),
        )
        return response

    app.before_request(begin)
    app.after_request(end)
