"""The one translator: every error becomes an RFC 9457 `application/problem+json` document with a stable code."""

import re
from typing import Any

import structlog
from flask import Blueprint, Flask, Response, g, jsonify, request
from flask_jwt_extended import JWTManager
from flask_limiter import RateLimitExceeded
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from server import errors
from server.access import public
from server.errors import DomainError

log = structlog.get_logger()

PROBLEM_TYPE = "/problems/"

_BY_STATUS: dict[int, type[DomainError]] = {
    400: errors.MalformedRequest,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    406: errors.NotAcceptable,
    409: errors.Conflict,
    412: errors.PreconditionFailed,
    413: errors.PayloadTooLarge,
    415: errors.UnsupportedMediaType,
    422: errors.InvalidRequest,
    428: errors.PreconditionRequired,
    429: errors.RateLimited,
    500: errors.InternalError,
    503: errors.Unavailable,
}


def prefers_english() -> bool:
    """Whether the client asked for English; Chinese is first."""
    return request.accept_languages.best_match(["zh", "zh-CN", "en"], default="zh") == "en"


def problem_document(error: DomainError) -> dict[str, Any]:
    """The members of the problem document of an error, its title in the client's language."""
    document: dict[str, Any] = {
        **error.extra,
        "type": PROBLEM_TYPE + error.code,
        "title": error.title_en if prefers_english() else error.title_zh,
        "status": error.status,
        "code": error.code,
    }
    if error.detail:
        document["detail"] = error.detail
    if "request_id" in g:
        document["request_id"] = g.request_id
    return document


def respond(error: DomainError) -> Response:
    """The HTTP answer to an error."""
    response: Response = jsonify(problem_document(error))
    response.status_code = error.status
    response.content_type = "application/problem+json"
    response.headers["Cache-Control"] = "no-store"
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    for name, value in error.headers.items():
        response.headers[name] = value
    return response


def _from_http(raised: HTTPException) -> DomainError:
    status = raised.code or 500
    kind = _BY_STATUS.get(status)
    error: DomainError
    if kind is None:
        error = errors.HttpError(raised.description)
        error.status = status  # type: ignore[misc]  # of this one error, not of the class
    else:
        error = kind()
    if isinstance(raised, RateLimitExceeded):
        error.headers["Retry-After"] = str(_seconds_to_wait(raised))
    validation = getattr(raised, "data", None) or {}
    if "messages" in validation:  # webargs hands the schema's findings over like this
        error.extra["errors"] = list(_flatten(validation["messages"]))[:100]
    if status == 405 and raised.get_response().headers.get("Allow"):
        error.headers["Allow"] = raised.get_response().headers["Allow"]
    return error


def _seconds_to_wait(raised: RateLimitExceeded) -> int:
    return int(raised.limit.limit.get_expiry()) if raised.limit else 60


def _flatten(messages: Any, path: str = "") -> Any:
    """webargs' nested findings as a list of {pointer, message}, the pointer after RFC 6901."""
    if isinstance(messages, dict):
        for key, inner in messages.items():
            step = "" if not path and key in {"json", "query", "headers", "path", "query_args"} else f"/{key}"
            yield from _flatten(inner, path + step)
    elif isinstance(messages, list) and all(isinstance(message, str) for message in messages):
        for message in messages:
            yield {"pointer": path[:200] or "/", "message": message[:300]}
    elif isinstance(messages, list):
        for position, inner in enumerate(messages):
            yield from _flatten(inner, f"{path}/{position}")
    else:
        yield {"pointer": path[:200] or "/", "message": str(messages)[:300]}


def _from_database(raised: DBAPIError) -> DomainError:
    """A violated constraint by its name; a lost or refusing database as 503; the rest is our mistake."""
    if isinstance(raised, IntegrityError):
        name = getattr(getattr(raised.orig, "diag", None), "constraint_name", None)
        for kind in errors.every_error().values():
            if name and name in kind.constraints:
                return kind()
    if isinstance(raised, DataError):  # a value that the schema let through and the database cannot hold
        log.warning("value_refused_by_database", kind=type(raised.orig).__name__)
        return errors.InvalidRequest("A value is out of range")
    if isinstance(raised, OperationalError) or raised.connection_invalidated:
        unavailable = errors.Unavailable()
        unavailable.headers["Retry-After"] = "2"
        log.warning("database_unavailable", kind=type(raised.orig).__name__)
        return unavailable
    log.error("database_error", kind=type(raised.orig).__name__, constraint=_constraint(raised), exc_info=raised)
    return errors.InternalError()


def _constraint(raised: DBAPIError) -> str | None:
    return getattr(getattr(raised.orig, "diag", None), "constraint_name", None)


blueprint = Blueprint("problems", __name__)


@blueprint.get("/problems/<code>")
@public
def explain_problem(code: str) -> Response:
    """What a problem's `type` address says: its code, status and titles."""
    kind = errors.every_error().get(code) if re.fullmatch(r"[a-z0-9-]{1,60}", code) else None
    if kind is None:
        raise errors.NotFound
    answer: Response = jsonify(
        code=kind.code, status=kind.status, title_zh=kind.title_zh, title_en=kind.title_en, meaning=kind.__doc__
    )
    return answer


def install(app: Flask, jwt: JWTManager) -> None:
    """Give the application its error handlers and the token library its answers."""
    app.register_blueprint(blueprint)
    app.register_error_handler(DomainError, respond)
    app.register_error_handler(HTTPException, lambda raised: respond(_from_http(raised)))
    app.register_error_handler(DBAPIError, lambda raised: respond(_from_database(raised)))
    app.register_error_handler(PoolTimeout, lambda _: respond(errors.Unavailable()))

    def unexpected(raised: Exception) -> Response:
        # Types and places go to the log under the request id; a message could hold a person's data.
        log.error("unhandled_error", kind=type(raised).__name__, exc_info=raised)
        return respond(errors.InternalError())

    app.register_error_handler(Exception, unexpected)

    jwt.unauthorized_loader(lambda _: respond(errors.Unauthenticated()))
    jwt.invalid_token_loader(lambda _: respond(errors.Unauthenticated()))
    jwt.expired_token_loader(lambda *_: respond(errors.TokenExpired()))
    jwt.revoked_token_loader(lambda *_: respond(errors.TokenRevoked()))
    jwt.user_lookup_error_loader(lambda *_: respond(errors.TokenRevoked()))
    jwt.token_verification_failed_loader(lambda *_: respond(errors.Unauthenticated()))
    jwt.needs_fresh_token_loader(lambda *_: respond(errors.Unauthenticated()))
