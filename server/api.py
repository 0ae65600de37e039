"""The API's frame: OpenAPI 3.1, the page schema, and the headers that every answer carries."""

import re
from collections.abc import Callable
from threading import Lock
from typing import Any

import marshmallow as ma
from flask import Flask, Response, request
from flask_smorest import Api as SmorestApi
from flask_smorest import Blueprint as SmorestBlueprint
from webargs.flaskparser import FlaskParser

from server.errors import InvalidRequest, MalformedRequest

API_PREFIX = "/api/v1"
API_VERSION = "1.0"

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'"
)


# In an address: its converter, with arguments or without, and its name.
_PARAMETER = re.compile(r"<(?:[^:<>]*:)?([^<>]*)>")


class Problem(ma.Schema):
    """RFC 9457 problem document."""

    type = ma.fields.String(required=True, metadata={"description": "Address that explains the code"})
    title = ma.fields.String(required=True, metadata={"description": "For people, by Accept-Language"})
    status = ma.fields.Integer(required=True)
    code = ma.fields.String(required=True, metadata={"description": "Stable code for programs"})
    detail = ma.fields.String()
    request_id = ma.fields.String()
    errors = ma.fields.List(ma.fields.Dict(), metadata={"description": "Findings of the schema: pointer, message"})


class _Parser(FlaskParser):
    """Refuses what nobody asked for, in the query too, and text that PostgreSQL cannot hold."""

    DEFAULT_UNKNOWN_BY_LOCATION = {  # noqa: RUF012 -- as the base class declares it
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "query": ma.RAISE,
    }

    def load_json(self, req: Any, schema: Any) -> Any:
        """The JSON body, every string of it storable."""
        try:
            return _storable(super().load_json(req, schema))
        except (RecursionError, ValueError) as error:  # nested without end, or a number of thousands of digits
            raise MalformedRequest from error

    def load_querystring(self, req: Any, schema: Any) -> Any:
        """The query, every string of it storable."""
        for name, value in req.args.items(multi=True):
            _storable([name, value])
        return super().load_querystring(req, schema)


def _storable(value: Any) -> Any:
    """`value`, unless it holds a NUL or half a surrogate pair, which no text column can store."""
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidRequest("Text holds a character that cannot be stored")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _storable(key)
            _storable(inner)
    elif isinstance(value, list):
        for inner in value:
            _storable(inner)
    return value


class Blueprint(SmorestBlueprint):  # type: ignore[misc]  # flask-smorest ships no types
    """flask-smorest's blueprint with our parser, described when the description is asked for."""

    ARGUMENTS_PARSER = _Parser()

    def register_views_in_doc(self, api: "Api", app: Flask, spec: Any, *, name: str, parameters: Any) -> None:
        """Leave it to `Api.description`: of all the processes that start, few are ever asked for it.

        Measured: 0.2 of the 0.35 s of processor time that making an application took.
        """
        describe = super().register_views_in_doc
        api.undescribed.append(lambda: describe(api, app, spec, name=name, parameters=parameters))


class Api(SmorestApi):  # type: ignore[misc]  # flask-smorest ships no types
    """flask-smorest without its own error handler and schema: `server.problems` is the one translator."""

    ERROR_SCHEMA = Problem

    def __init__(self, app: Flask) -> None:
        self.undescribed: list[Callable[[], None]] = []
        self._describing = Lock()
        super().__init__(app)

    def description(self) -> dict[str, Any]:
        """The OpenAPI document, complete with the permission of every view."""
        with self._describing:  # threads that ask first at once
            if self.undescribed:
                for describe in self.undescribed:
                    describe()
                self.undescribed.clear()
                _describe_access(self._app, self)
            document: dict[str, Any] = self.spec.to_dict()
        return document

    def _register_error_handlers(self) -> None:
        """Leave errors to the translator."""


def install(app: Flask, blueprints: list[Any]) -> Api:
    """Register the rooms' blueprints and describe them in one OpenAPI document."""
    app.config.update(
        API_TITLE="碳普惠 tanpuhui",
        API_VERSION=API_VERSION,
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX=None,
        API_SPEC_OPTIONS={
            "info": {
                "description": (
                    "区级碳普惠后台接口。Points for green travel, waste sorting and recycling; campaigns; reports."
                ),
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "components": {
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                    "signature": {
                        "type": "apiKey",
                        "in": "header",
                        "name": "X-Tanpuhui-Signature",
                        "description": "HMAC-SHA256 over `timestamp.body`; see the partner feed",
                    },
                }
            },
        },
    )
    api = Api(app)
    app.extensions["tanpuhui_api"] = api
    for blueprint in blueprints:
        api.register_blueprint(blueprint)
    app.after_request(_harden)
    return api


def required_header(name: str, description: str) -> dict[str, Any]:
    """A header that a request must carry, for the description of a view."""
    return {"name": name, "in": "header", "required": True, "schema": {"type": "string"}, "description": description}


def page_schema(item: type[ma.Schema]) -> type[ma.Schema]:
    """The schema of a page of `item`: {"items": […], "next_cursor": text or null}."""
    name = item.__name__.removesuffix("View") + "Page"
    return ma.Schema.from_dict(
        {
            "items": ma.fields.List(ma.fields.Nested(item), required=True),
            "next_cursor": ma.fields.String(required=True, allow_none=True),
        },
        name=name,
    )


def _describe_access(app: Flask, api: Api) -> None:
    """Put each view's permission into the document, and the problem answer, from the marks of `server.access`."""
    operations = {}
    for rule in app.url_map.iter_rules():
        path = _PARAMETER.sub(r"{\1}", rule.rule)
        for method in rule.methods or ():
            operations[(path, method.lower())] = getattr(app.view_functions[rule.endpoint], "access", None)
    for path, item in api.spec._paths.items():
        for method, operation in item.items():
            access = operations.get((path, method))
            if not isinstance(operation, dict) or access is None:
                continue
            if access == "public":
                operation.setdefault("security", [])
            else:
                operation["security"] = [{"bearer": []}]
                operation["x-permission"] = str(access)
            operation.setdefault("responses", {})["default"] = {
                "description": "Problem",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
    if "Problem" not in api.spec.components.schemas:
        api.spec.components.schema("Problem", schema=Problem)


def _harden(response: Response) -> Response:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "no-referrer")
    response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    if request.path.startswith(API_PREFIX):
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("Vary", "Accept-Language, Authorization")
    return response
