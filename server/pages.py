"""Web pages at their addresses, and the API's description that one of them renders."""

import json
from pathlib import Path

from flask import Flask, Response, current_app, send_from_directory

from server.access import public

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "static"


@public
def home() -> Response:
    """The first page: what this is and where to go."""
    return send_from_directory(STATIC, "index.html")


@public
def docs() -> Response:
    """The API's description for people."""
    return send_from_directory(STATIC, "docs.html")


@public
def report() -> Response:
    """The district's report."""
    return send_from_directory(STATIC, "report.html")


@public
def openapi() -> Response:
    """The API's description for programs, OpenAPI 3.1."""
    return Response(openapi_text(current_app), content_type="application/json; charset=utf-8")


def openapi_text(app: Flask) -> str:
    """The OpenAPI document of an application: sorted, so that two of the same code are equal, and in plain Chinese."""
    made: str | None = app.extensions.get("tanpuhui_openapi_text")
    if made is None:
        document = app.extensions["tanpuhui_api"].spec.to_dict()
        made = json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        app.extensions["tanpuhui_openapi_text"] = made
    return made


def install(app: Flask) -> None:
    """Give the application its pages; `server.api` adds the description once it has one."""
    for address, view in (("/", home), ("/docs", docs), ("/report", report), ("/openapi.json", openapi)):
        app.add_url_rule(address, view.__name__, view)
    public(app.view_functions["static"])
