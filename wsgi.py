"""Composes the application: the only place that knows every room. Nobody imports it but the servers and the tests.

granian runs `wsgi:create_serving_app` as a factory, one application per worker process; the command line is
`flask --app wsgi`.
"""

# ruff: noqa: E402 - what is imported is imported without the collector
import gc
import sys

# Nothing that is imported is garbage, and looking for some took a fifth of the time to start.
gc.disable()

from flask import Flask
from flask_migrate import Migrate
from werkzeug.middleware.proxy_fix import ProxyFix

import campaigns.annual_report.commands
import campaigns.annual_report.jobs
import campaigns.annual_report.routes
import campaigns.attendance.routes
import campaigns.creation.assessment_routes
import campaigns.creation.commands
import campaigns.creation.jobs
import campaigns.creation.public_routes
import campaigns.creation.routes
import campaigns.drives.commands
import campaigns.drives.jobs
import campaigns.drives.routes
import campaigns.drives.team_routes
import campaigns.sample.commands
import campaigns.settlement.jobs
import campaigns.settlement.lists
import campaigns.settlement.routes
import campaigns.statistics.commands
import campaigns.statistics.exported
import campaigns.statistics.jobs
import campaigns.statistics.public_tables
import campaigns.statistics.routes
import campaigns.tasks.jobs
import campaigns.tasks.routes
import points.carbon.commands
import points.earning.commands
import points.earning.jobs
import points.earning.routes
import points.ledger.commands
import points.ledger.jobs
import points.ledger.routes
import points.open_data.activity_tables
import points.open_data.commands
import points.open_data.jobs
import points.open_data.routes
import points.partners.commands
import points.partners.jobs
import points.partners.routes
import points.rewards.routes
import points.share.diaries.commands
import points.share.diaries.jobs
import points.share.diaries.routes
import points.share.releases.commands
import points.share.releases.jobs
import points.share.releases.routes
import points.share.survey.commands
import points.share.survey.routes
import points.statistics.commands
import points.statistics.exported
import points.statistics.jobs
import points.statistics.routes
import server.commands
import server.exports.jobs
import server.exports.routes
import server.files.jobs
import server.housekeeping
import server.notices.routes
import server.people.assisted_routes
import server.people.commands
import server.people.membership_routes
import server.people.routes
import server.people.staff_routes
import server.places.commands
import server.places.routes
from points.open_data import tables
from server import api, boot, cache, clock, database, health, jobs, limits, logs, pages, problems
from server.exports import registry
from server.exports.registry import Producer
from server.files import store
from server.people import sessions, wechat_client
from server.settings import Settings, SettingsError

gc.freeze()  # nor will it be later
gc.enable()

BLUEPRINTS = [
    server.people.routes.blueprint,
    server.people.staff_routes.blueprint,
    server.people.membership_routes.blueprint,
    server.people.assisted_routes.blueprint,
    server.places.routes.blueprint,
    server.notices.routes.blueprint,
    server.exports.routes.blueprint,
    points.ledger.routes.blueprint,
    points.earning.routes.blueprint,
    points.partners.routes.blueprint,
    points.rewards.routes.blueprint,
    points.statistics.routes.blueprint,
    points.open_data.routes.blueprint,
    points.share.survey.routes.blueprint,
    points.share.diaries.routes.blueprint,
    points.share.releases.routes.blueprint,
    campaigns.drives.routes.blueprint,
    campaigns.drives.team_routes.blueprint,
    campaigns.tasks.routes.blueprint,
    campaigns.attendance.routes.blueprint,
    campaigns.settlement.routes.blueprint,
    campaigns.creation.routes.blueprint,
    campaigns.creation.public_routes.blueprint,
    campaigns.creation.assessment_routes.blueprint,
    campaigns.statistics.routes.blueprint,
    campaigns.annual_report.routes.blueprint,
]

JOBS = {
    "statistics": campaigns.statistics.jobs.tasks,
    "activity-statistics": points.statistics.jobs.tasks,
    "statistics-releases": points.open_data.jobs.tasks,
    "annual-report": campaigns.annual_report.jobs.tasks,
    "campaigns": campaigns.drives.jobs.tasks,
    "creation": campaigns.creation.jobs.tasks,
    "campaign-tasks": campaigns.tasks.jobs.tasks,
    "settlement": campaigns.settlement.jobs.tasks,
    "server": server.housekeeping.tasks,
    "files": server.files.jobs.tasks,
    "exports": server.exports.jobs.tasks,
    "ledger": points.ledger.jobs.tasks,
    "earning": points.earning.jobs.tasks,
    "partners": points.partners.jobs.tasks,
    "diaries": points.share.diaries.jobs.tasks,
    "share": points.share.releases.jobs.tasks,
}

# What staff can have as a file, by kind.
EXPORTS: list[Producer] = [
    *campaigns.settlement.lists.PRODUCERS,
    *campaigns.statistics.exported.PRODUCERS,
    *points.statistics.exported.PRODUCERS,
]

# What everybody may read, in this order.
PUBLIC_TABLES = [*campaigns.statistics.public_tables.TABLES, *points.open_data.activity_tables.TABLES]

COMMANDS = [
    server.commands.worker,
    server.commands.prepare,
    server.commands.openapi,
    server.commands.clock,
    server.people.commands.staff,
    server.places.commands.places,
    points.carbon.commands.carbon,
    points.earning.commands.rules,
    points.earning.commands.counts,  # campaigns.statistics and points.statistics add theirs to the group
    points.open_data.commands.statistics,
    points.ledger.commands.ledger,
    points.partners.commands.partners,
    points.share.survey.commands.share,  # diaries and releases add their own to the group
    campaigns.drives.commands.campaigns,
    campaigns.creation.commands.creation,
    campaigns.annual_report.commands.annual_report,
    campaigns.sample.commands.sample,
]


def create_app(settings: Settings | None = None) -> Flask:
    """The application. Raises SettingsError naming what is missing; serving also wants `boot.check` to pass."""
    try:
        settings = settings or Settings.from_environment()
    except SettingsError as error:
        sys.exit(str(error))
    app = Flask("tanpuhui", static_folder="static", static_url_path="/static", root_path=str(pages.ROOT))
    app.extensions["tanpuhui_settings"] = settings
    if settings.proxy_hops:
        # Without it every resident behind our own proxy would share one address, and so one rate limit.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.proxy_hops, x_proto=settings.proxy_hops)  # type: ignore[method-assign]
    app.json.ensure_ascii = False  # type: ignore[attr-defined]  # of the default provider
    logs.configure(settings.log_level)
    clock.follow_rehearsal(settings.rehearsal_file)
    app.config["SQLALCHEMY_DATABASE_URI"] = database.psycopg_url(settings.database_url)
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = database.engine_options(
        settings.database_pool_size, application_role=True
    )
    database.db.init_app(app)
    Migrate(app, database.db, directory=str(boot.MIGRATIONS))
    logs.install(app)
    cache.install(app, settings.redis_url)
    jwt = sessions.install(app, settings.secret_key)
    problems.install(app, jwt)
    limits.install(app, settings.redis_url, enabled=settings.rate_limits)
    wechat_client.install(app, settings)
    jobs.install(app, settings.database_url, JOBS)
    registry.install(app, EXPORTS)
    tables.install(app, PUBLIC_TABLES)
    try:
        store.install(app, settings.files_url)
    except SettingsError as error:
        sys.exit(str(error))
    health.install(app)
    pages.install(app)
    api.install(app, BLUEPRINTS)
    for command in COMMANDS:
        app.cli.add_command(command)
    return app


def create_described_app() -> Flask:
    """The application without any settings or servers, for `flask --app wsgi:create_described_app openapi …`."""
    return create_app(Settings.for_description())


def create_serving_app() -> Flask:
    """The application for a web server: refuses to start on a database that is not fit to serve."""
    app = create_app()
    with app.app_context(), database.db.engine.connect() as connection:
        try:
            boot.check(connection)
        except boot.RefusesToServe as error:
            sys.exit(str(error))
    # What starts with the process stays: a collection that a large batch sets off need not walk through it. Measured in
    # pairs over batches of 5,000 lines: 33 instead of 59 µs of Python for an event.
    gc.collect()
    gc.freeze()
    return app
