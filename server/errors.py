"""Errors as types: each carries a stable code, an HTTP status and a title for people in Chinese and English."""

from typing import Any, ClassVar


class DomainError(Exception):
    """A refusal that the caller can understand and act on.

    `detail` is a sentence about this one case; `extra` becomes members of the problem document (RFC 9457, 3.2).
    Nothing personal and nothing secret goes into either.
    """

    code: ClassVar[str] = "domain-error"
    status: ClassVar[int] = 400
    title_zh: ClassVar[str] = "请求无法完成"
    title_en: ClassVar[str] = "The request cannot be carried out"
    constraints: ClassVar[tuple[str, ...]] = ()  # names of database constraints whose violation means this error

    def __init__(self, detail: str | None = None, **extra: Any) -> None:
        super().__init__(detail or self.title_en)
        self.detail = detail
        self.extra = extra
        self.headers: dict[str, str] = {}


class InvalidRequest(DomainError):
    """The request does not fit the schema; `errors` lists what is wrong where."""

    code, status, title_zh, title_en = (
        "invalid-request",
        422,
        "请求内容不符合要求",
        "The request does not fit the schema",
    )


class MalformedRequest(DomainError):
    """The request could not be read at all."""

    code, status, title_zh, title_en = "malformed-request", 400, "请求无法解析", "The request cannot be read"


class Unauthenticated(DomainError):
    """No usable token came with the request."""

    code, status, title_zh, title_en = "unauthenticated", 401, "请先登录", "Sign in first"


class TokenExpired(Unauthenticated):
    """The access or refresh token is past its time."""

    code, title_zh, title_en = "token-expired", "登录已过期", "The token has expired"


class TokenRevoked(Unauthenticated):
    """Signed out, disabled or given another role since the token was made."""

    code, title_zh, title_en = "token-revoked", "登录已失效, 请重新登录", "The token is no longer valid; sign in again"


class Forbidden(DomainError):
    """The role lacks the permission."""

    code, status, title_zh, title_en = "forbidden", 403, "没有此项权限", "Your role does not permit this"


class NotFound(DomainError):
    """It does not exist, or lies outside the actor's scope; the two are not told apart."""

    code, status, title_zh, title_en = "not-found", 404, "未找到", "Not found"


class MethodNotAllowed(DomainError):
    """The address exists, but not for this method."""

    code, status, title_zh, title_en = "method-not-allowed", 405, "不支持此请求方法", "This method is not allowed here"


class NotAcceptable(DomainError):
    """No representation that the client accepts."""

    code, status, title_zh, title_en = "not-acceptable", 406, "无法提供所要求的格式", "No acceptable representation"


class Conflict(DomainError):
    """The state of the thing forbids the change."""

    code, status, title_zh, title_en = "conflict", 409, "与当前状态冲突", "Conflicts with the current state"


class PayloadTooLarge(DomainError):
    """The body is longer than the limit of this address."""

    code, status, title_zh, title_en = "payload-too-large", 413, "请求内容过大", "The request body is too large"


class UnsupportedMediaType(DomainError):
    """The body is of a type that this address does not read."""

    code, status, title_zh, title_en = "unsupported-media-type", 415, "不支持的内容类型", "Unsupported media type"


class PreconditionFailed(DomainError):
    """The thing changed since the caller read it."""

    code, status, title_zh, title_en = (
        "precondition-failed",
        412,
        "内容已被他人修改",
        "It has changed since you read it",
    )


class PreconditionRequired(DomainError):
    """An edit by staff must name the version that it is based on."""

    code, status, title_zh, title_en = "precondition-required", 428, "需要 If-Match", "An If-Match header is required"


class RateLimited(DomainError):
    """Too many requests; `Retry-After` says when to come back."""

    code, status, title_zh, title_en = "rate-limited", 429, "请求过于频繁", "Too many requests"


class ReasonRequired(DomainError):
    """Whoever changes what others rely on tells them why."""

    code, status, title_zh, title_en = "reason-required", 422, "请说明理由", "Give a reason"


class InternalError(DomainError):
    """Our mistake; the request id finds it in the log."""

    code, status, title_zh, title_en = "internal-error", 500, "服务器内部错误", "Internal server error"


class Unavailable(DomainError):
    """The database cannot be reached just now; nothing was done."""

    code, status, title_zh, title_en = "unavailable", 503, "服务暂时不可用", "Temporarily unavailable"


class HttpError(DomainError):
    """An HTTP refusal that no other class here names."""

    code, title_zh, title_en = "http-error", "请求被拒绝", "The request was refused"


def every_error() -> dict[str, type[DomainError]]:
    """Every error class of the loaded rooms by code, for the catalogue of problems and its test."""
    found: dict[str, type[DomainError]] = {}
    waiting = [DomainError]
    while waiting:
        current = waiting.pop()
        found.setdefault(current.code, current)
        waiting.extend(current.__subclasses__())
    return dict(sorted(found.items()))
