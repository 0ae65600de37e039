"""What the wallet is measured against: a view that does nothing, in our application and in a bare one."""

from flask import Flask, Response

import wsgi
from server.access import public
from server.limits import limiter

ANSWER = b"{}"


def create_app() -> Flask:
    """The whole application and two addresses more: with every hook that a request of ours passes, and unlimited.

    The limit counts by person, and so a token is checked before the view.
    """
    app = wsgi.create_serving_app()
    app.add_url_rule("/empty", "empty", public(empty))
    app.add_url_rule("/empty-unlimited", "empty_unlimited", limiter.exempt(public(empty_unlimited)))
    return app


def create_bare_app() -> Flask:
    """Flask alone: no sign-in, limit, log or metric."""
    app = Flask("bare", static_folder=None)
    app.add_url_rule("/empty", view_func=empty)
    return app


def empty_unlimited() -> Response:
    """As `empty`; a function of its own, because exempting marks the function."""
    return empty()


def empty() -> Response:
    """Nothing, as JSON."""
    return Response(ANSWER, content_type="application/json")
