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
def annual_report() -> Response:
    """The annual assessment of the plan's targets."""
    return send_from_directory(STATIC, "annual-report.html")


@public
def check_in() -> Response:
    """The staff's screen with a rotating code to check in at a campaign."""
    return send_from_directory(STATIC, "check-in.html")


@public
def notice() -> Response:
    """The applications under public notice (公示), and the way to object."""
    return send_from_directory(STATIC, "notice.html")


@public
def register() -> Response:
    """The public register (名录) of who was named."""
    return send_from_directory(STATIC, "register.html")


@public
def verify() -> Response:
    """Whether a certificate or a naming's number is true."""
    return send_from_directory(STATIC, "verify.html")


@public
def share() -> Response:
    """The green-travel share: the published estimate, the goal and the trend."""
    return send_from_directory(STATIC, "share.html")


@public
def sites() -> Response:
    """Where to take waste and recyclables: sites nearby, the van's next stops, and what goes where."""
    return send_from_directory(STATIC, "sites.html")


@public
def openapi() -> Response:
    """The API's description for programs, OpenAPI 3.1."""
    return Response(openapi_text(current_app), content_type="application/json; charset=utf-8")


def openapi_text(app: Flask) -> str:
    """The OpenAPI document of an application: sorted, so that two of the same code are equal, and in plain Chinese."""
    made: str | None = app.extensions.get("tanpuhui_openapi_text")
    if made is None:
        document = app.extensions["tanpuhui_api"].description()
        made = json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        app.extensions["tanpuhui_openapi_text"] = made
    return made


PAGES = {
    "/": home,
    "/docs": docs,
    "/report": report,
    "/annual-report": annual_report,
    "/check-in": check_in,
    "/notice": notice,
    "/register": register,
    "/verify": verify,
    "/share": share,
    "/sites": sites,
    "/openapi.json": openapi,
}


def install(app: Flask) -> None:
    """Give the application its pages; `server.api` adds the description once it has one."""
    for address, view in PAGES.items():
        app.add_url_rule(address, view.__name__, view)
    public(app.view_functions["static"])
