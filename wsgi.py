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
import points.earning.proposals.commands
import points.earning.proposals.jobs
import points.earning.proposals.public_routes
import points.earning.proposals.routes
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
import points.review.audit.commands
import points.review.audit.jobs
import points.review.audit.routes
import points.review.commands
import points.review.exported
import points.review.jobs
import points.review.routes
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
import points.travel.commands
import points.travel.jobs
import points.travel.routes
import points.waste.catalogue.routes
import points.waste.drops.bags
import points.waste.drops.commands
import points.waste.drops.dropping
import points.waste.drops.jobs
import points.waste.drops.routes
import points.waste.guide.commands
import points.waste.guide.routes
import points.waste.orders.booking_routes
import points.waste.orders.commands
import points.waste.orders.jobs
import points.waste.orders.routes
import points.waste.orders.settling
import points.waste.orders.staff_routes
import points.waste.sites.commands
import points.waste.sites.opening
import points.waste.sites.routes
import server.commands
import server.exports.jobs
import server.exports.routes
import server.files.jobs
import server.housekeeping
import server.notices.routes
import server.people.assisted_household_routes
import server.people.assisted_routes
import server.people.code_routes
import server.people.commands
import server.people.household_routes
import server.people.jobs
import server.people.membership_routes
import server.people.routes
import server.people.scanner_routes
import server.people.staff_routes
import server.places.commands
import server.places.routes
from points.earning import releasing
from points.open_data import tables
from points.partners import feed
from points.review import appeals, detecting, detectors, held, kinds, leads
from points.review.detecting import Detector
from points.review.kinds import Kind
from server import api, boot, cache, clock, database, health, jobs, limits, logs, pages, problems
from server.exports import registry
from server.exports.registry import Producer
from server.files import store
from server.people import scan_kinds, sessions, wechat_client
from server.people.scan_kinds import ScanKind
from server.settings import Settings, SettingsError

gc.freeze()  # nor will it be later
gc.enable()

BLUEPRINTS = [
    server.people.routes.blueprint,
    server.people.staff_routes.blueprint,
    server.people.membership_routes.blueprint,
    server.people.assisted_routes.blueprint,
    server.people.assisted_household_routes.blueprint,
    server.people.code_routes.blueprint,
    server.people.household_routes.blueprint,
    server.people.scanner_routes.blueprint,
    server.places.routes.blueprint,
    server.notices.routes.blueprint,
    server.exports.routes.blueprint,
    points.ledger.routes.blueprint,
    points.earning.routes.blueprint,
    points.earning.proposals.public_routes.blueprint,
    points.earning.proposals.routes.blueprint,
    points.review.routes.blueprint,
    points.review.audit.routes.blueprint,
    points.partners.routes.blueprint,
    points.rewards.routes.blueprint,
    points.statistics.routes.blueprint,
    points.travel.routes.blueprint,
    points.open_data.routes.blueprint,
    points.share.survey.routes.blueprint,
    points.share.diaries.routes.blueprint,
    points.share.releases.routes.blueprint,
    points.waste.catalogue.routes.blueprint,
    points.waste.guide.routes.blueprint,
    points.waste.sites.routes.blueprint,
    points.waste.drops.routes.blueprint,
    points.waste.orders.routes.blueprint,
    points.waste.orders.staff_routes.blueprint,
    points.waste.orders.booking_routes.blueprint,
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
    "people": server.people.jobs.tasks,
    "files": server.files.jobs.tasks,
    "exports": server.exports.jobs.tasks,
    "ledger": points.ledger.jobs.tasks,
    "earning": points.earning.jobs.tasks,
    "rules": points.earning.proposals.jobs.tasks,
    "review": points.review.jobs.tasks,
    "random-audit": points.review.audit.jobs.tasks,
    "partners": points.partners.jobs.tasks,
    "tracks": points.travel.jobs.tasks,
    "diaries": points.share.diaries.jobs.tasks,
    "share": points.share.releases.jobs.tasks,
    "sorting": points.waste.drops.jobs.tasks,
    "recycling": points.waste.orders.jobs.tasks,
}

# What staff can have as a file, by kind.
EXPORTS: list[Producer] = [
    *campaigns.settlement.lists.PRODUCERS,
    *campaigns.statistics.exported.PRODUCERS,
    *points.statistics.exported.PRODUCERS,
    *points.review.exported.PRODUCERS,
]

# What people decide, by kind of case, and what looks for cases.
REVIEW_KINDS: list[Kind] = [held.KIND, leads.KIND, appeals.KIND, points.waste.orders.settling.KIND]
DETECTORS: list[Detector] = [*detectors.DETECTORS]

# What registered devices may send in later, by purpose.
SCAN_KINDS: list[ScanKind] = [points.waste.drops.dropping.SCAN_KIND]

# What everybody may read, in this order.
PUBLIC_TABLES = [*campaigns.statistics.public_tables.TABLES, *points.open_data.activity_tables.TABLES]

COMMANDS = [
    server.commands.worker,
    server.commands.prepare,
    server.commands.openapi,
    server.commands.clock,
    server.people.commands.staff,
    server.people.commands.codes,
    server.places.commands.places,
    points.carbon.commands.carbon,
    points.earning.commands.rules,  # points.earning.proposals adds its own to the group
    points.earning.commands.counts,  # campaigns.statistics and points.statistics add theirs to the group
    points.review.commands.review,
    points.review.audit.commands.audits,
    points.open_data.commands.statistics,
    points.ledger.commands.ledger,
    points.partners.commands.partners,
    points.travel.commands.tracks,
    points.waste.guide.commands.guide,
    points.waste.sites.commands.sites,
    points.waste.drops.commands.sorting,
    points.waste.orders.commands.recycling,
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
    kinds.install(app, REVIEW_KINDS)
    detecting.install(app, DETECTORS, positions=points.waste.sites.opening.positions)
    scan_kinds.install(app, SCAN_KINDS)
    feed.install_site_check(points.waste.sites.opening.partner_check)
    feed.install_pay_once(points.waste.drops.bags.pay_once)
    releasing.install_partner_budget(feed.take_late)
    releasing.install_paid_otherwise(points.waste.drops.bags.is_paid_otherwise)
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
