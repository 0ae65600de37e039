"""`/healthz` (alive), `/readyz` (fit to take requests) and `/metrics` (Prometheus)."""

import os
import time

import sqlalchemy as sa
from flask import Blueprint, Flask, Response, g, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from server.access import public
from server.boot import applied_migration, newest_migration
from server.cache import cache
from server.database import db

blueprint = Blueprint("health", __name__)

REQUESTS = Counter("tanpuhui_requests", "Requests by route, method and status", ["route", "method", "status"])
SECONDS = Histogram(
    "tanpuhui_request_seconds",
    "Seconds to the answer by route",
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


@blueprint.get("/healthz")
@public
def healthz() -> Response:
    """The process answers."""
    answer: Response = jsonify(status="ok")
    return answer


@blueprint.get("/readyz")
@public
def readyz() -> tuple[Response, int]:
    """Database and schema must be there; Redis is reported and not required."""
    found: dict[str, object] = {"database": False, "migration": None, "redis": cache().alive()}
    try:
        with db.engine.connect() as connection:
            found["migration"] = applied_migration(connection)
            found["database"] = True
    except sa.exc.SQLAlchemyError:
        pass  # reported as not ready; the reason is in the database's own log
    ready = found["migration"] == newest_migration()
    return jsonify(status="ready" if ready else "not ready", **found), 200 if ready else 503


@blueprint.get("/metrics")
@public
def metrics() -> Response:
    """Counters of every worker process. Keep the address inside the operator's network (see the deployment notes)."""
    registry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library types this one not
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def install(app: Flask) -> None:
    """Register the three addresses and measure every request."""
    app.register_blueprint(blueprint)

    def measure(response: Response) -> Response:
        route = str(request.url_rule) if request.url_rule else "none"
        REQUESTS.labels(route, request.method, response.status_code).inc()
        SECONDS.labels(route).observe(time.perf_counter() - g.get("began_at", time.perf_counter()))
        return response

    app.after_request(measure)
