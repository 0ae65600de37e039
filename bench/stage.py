"""The stage: PostgreSQL and Valkey with their usual, durable settings, a district full of residents, the web server."""

import contextlib
import http.client
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
from flask import Flask
from flask_jwt_extended import create_access_token
from flask_migrate import upgrade
from sqlalchemy.orm import Session

from bench.load import Server
from points.carbon import methods
from points.earning import rules
from points.earning.rules import RuleFile
from points.partners import registry
from points.waste.sites import registry as sites
from points.waste.sites.importing import plan_of
from points.waste.sites.models import Category, SiteForm, SiteKind
from points.waste.sites.registry import SiteEntry
from server import serve
from server.clock import business_day, now
from server.database import db
from server.embedded import EmbeddedPostgres, EmbeddedValkey, free_port
from server.places import divisions
from server.places.district_data import read_district
from server.places.models import DivisionLevel
from server.places.positions import Datum
from server.request_signatures import new_key
from server.settings import Settings
from wsgi import create_app

# Each kind of load has people of its own, so that none meets rides of another.
FEED_RESIDENTS, ACT_RESIDENTS = range(35_000), range(35_000, 50_000)
SINGLE_RESIDENTS, PGBENCH_RESIDENTS = range(50_000, 58_000), range(58_000, 70_000)
RESIDENTS = PGBENCH_RESIDENTS[-1] + 1
PARTNER = "bench"
PARTNERS = [PARTNER, *(f"{PARTNER}-{number}" for number in range(8))]  # one each for the clients of single lines
KINDS = ["bin-drop", "recycling", "ride"]
SITES, DEVICES_PER_SITE = 200, 3
# Far above what a run can pay, so that the budget is counted and never in the way.
DAY_BUDGET_POINTS = 100_000_000
READY_SECONDS_MAX = 60.0
SCRATCH = "bench_scratch"

# UUIDv7 whose milliseconds spread over two years, as people register, and hold decimal digits alone, so that a pgbench
# script can put a random resident together. (Ids made all at once would be measured wrongly: in the GiST index of the
# overlap constraint, btree_gist tells UUIDs apart by their first 53 bits, which are little more than the milliseconds.)
RESIDENT_PREFIX, SIGN_IN_PREFIX, SUFFIX = "0190", "0191", "70008000000000000001"
FIRST_NUMBER, NUMBER_STEP = 10_000_000, 997


@dataclass(slots=True)
class Stage:
    """All that runs, and what is known about it."""

    settings: Settings
    postgres: EmbeddedPostgres
    app: Flask
    partner_key: bytes
    web: serve.Child
    bare_web: serve.Child
    bare: Server
    cores: int

    @property
    def server(self) -> Server:
        """The application's web server."""
        return Server(self.settings.host, self.settings.port)

    @property
    def pids(self) -> dict[str, int]:
        """The families of processes that share the machine."""
        return {"PostgreSQL": self.postgres.pid, "Python (web)": pid_of(self.web), "client": os.getpid()}

    def token(self, number: int) -> str:
        """An access token of the resident of this number."""
        claims = {"sid": sign_in_id(number), "res": True}
        with self.app.app_context():
            return create_access_token(resident_id(number), additional_claims=claims, expires_delta=timedelta(hours=1))


def resident_id(number: int) -> str:
    """The id of a resident, numbered from 0."""
    return str(UUID(f"{RESIDENT_PREFIX}{FIRST_NUMBER + number * NUMBER_STEP}{SUFFIX}"))


def sign_in_id(number: int) -> str:
    """The id of that resident's sign-in."""
    return str(UUID(f"{SIGN_IN_PREFIX}{FIRST_NUMBER + number * NUMBER_STEP}{SUFFIX}"))


def member_id(number: int) -> str:
    """Who that resident is to the partner."""
    return f"member-{number:06}"


def pid_of(child: serve.Child) -> int:
    """The process number of a started child."""
    if child._process is None:
        raise AssertionError(f"{child.name} was not started")
    return child._process.pid


@contextlib.contextmanager
def stage(kept: Path | None = None) -> Iterator[Stage]:
    """Set everything up in a temporary folder, and take it down again.

    What stands in a folder that is `kept` is used as it is, with the schema brought up to date, and stays afterwards.
    """
    with contextlib.ExitStack() as stack:
        folder = kept or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tanpuhui-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        key_file = folder / "partner.key"
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
        valkey = stack.enter_context(EmbeddedValkey(folder / "valkey"))
        environ = _environment(folder, postgres, valkey)
        settings = Settings.from_environment(environ)
        app = create_app(replace(settings, log_level="ERROR"))
        if key_file.exists():
            with app.app_context():
                upgrade()
                db.engine.dispose()
        else:
            key_file.write_bytes(_fill(app, settings, postgres))
        partner_key = key_file.read_bytes()
        web = _web("bench.empty:create_app", settings, environ, stack)
        bare_settings = replace(settings, port=free_port(), data_folder=folder / "bare")
        (folder / "bare" / "log").mkdir(parents=True, exist_ok=True)
        bare_web = _web("bench.empty:create_bare_app", bare_settings, environ, stack)
        bare = Server(bare_settings.host, bare_settings.port)
        _wait(Server(settings.host, settings.port), "/readyz")
        _wait(bare, "/empty")
        yield Stage(settings, postgres, app, partner_key, web, bare_web, bare, os.cpu_count() or 1)


def _environment(folder: Path, postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> dict[str, str]:
    """As `make run` completes it; nothing of the caller's own configuration."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    (folder / "log").mkdir(exist_ok=True)
    environ = {
        **kept,
        "TANPUHUI_ENV": "development",
        "TANPUHUI_DATA": str(folder),
        "DATABASE_URL": postgres.url,
        "REDIS_URL": valkey.url,
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "WECHAT_APPID": "wx-bench",
        "WECHAT_SECRET": "bench-secret",
    }
    serve._keep_secrets(folder / "secrets.env", environ)
    return environ


def _fill(app: Flask, settings: Settings, postgres: EmbeddedPostgres) -> bytes:
    """Schema, places, methods and rules as every district has them; residents at home everywhere, signed in, bound."""
    instant, key = now(), new_key()
    with app.app_context():
        upgrade()
        session = db.session()
        load_district(session, settings.district_folder, newest_alone(settings.district_folder))
        for code in PARTNERS:
            registry.create(
                session,
                code,
                name_zh="压测合作方",
                kinds=KINDS,
                day_budget_points=DAY_BUDGET_POINTS,
                key=key,
                data_key=settings.data_key,
                now=instant,
            )
        _add_sites(session, settings.district_folder, instant)
        session.commit()
        db.session.remove()
        db.engine.dispose()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        _add_residents(connection, instant)
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    return key.encode()


def load_district(session: Session, folder: Path, rule_files: list[RuleFile] | None = None) -> None:
    """Places, methods and rules of a district; its own versions of the rules unless others are given."""
    divisions.load(session, read_district(folder))
    methods.load(session, methods.read_methods(), on=business_day(now()))
    rules.load(session, rules.read_folder(folder) if rule_files is None else rule_files)


def newest_alone(folder: Path) -> list[RuleFile]:
    """The newest version of the rules as if it had always held: events of six days ago are paid under it too."""
    files = rules.read_folder(folder)
    return [replace(files[-1], head={**files[-1].head, "valid_from": files[0].head["valid_from"]})]


def site_name(number: int) -> str:
    """What the partner calls the site of this number."""
    return f"site-{number}"


def _add_sites(session: Session, folder: Path, instant: datetime) -> None:
    """Sites of the partner, always open, their devices registered."""
    homes = [each.code for each in read_district(folder).divisions if each.level is DivisionLevel.COMMUNITY]
    opened = business_day(instant) - timedelta(days=30)
    for number in range(SITES):
        entry = SiteEntry(
            code=f"bench-{number}",
            kind=SiteKind.SORTING_SITE,
            form=SiteForm.SMART_BINS,
            name="压测投放点",
            address="压测路",
            community_code=homes[number % len(homes)],
            latitude=39.1 + number / 10_000,
            longitude=117.1 + number / 10_000,
            datum=Datum.GCJ_02,
            categories=[each.value for each in Category],
            hours=plan_of("daily 00:00-24:00", opened),
            valid_from=opened,
            partner_code=PARTNER,
            partner_site=site_name(number),
            devices=[f"{PARTNER}:device-{number}-{each}" for each in range(DEVICES_PER_SITE)],
        )
        sites.add(session, entry, now=instant)


def _add_residents(connection: psycopg.Connection, instant: datetime) -> None:
    homes = [row[0] for row in connection.execute("SELECT code FROM division WHERE level = 'community' ORDER BY code")]
    with connection.cursor() as cursor:
        with cursor.copy("COPY resident (resident_id, community_code, created_at) FROM STDIN") as copy:
            for number in range(RESIDENTS):
                copy.write_row((resident_id(number), homes[number % len(homes)], instant))
        _add_households(cursor, instant)
        columns = "person_id, id, rotated_at, expires_at, created_on"
        with cursor.copy(f"COPY sign_in ({columns}) FROM STDIN") as copy:
            for number in range(RESIDENTS):
                until = instant + timedelta(days=30)
                copy.write_row((resident_id(number), sign_in_id(number), instant, until, business_day(instant)))
        with cursor.copy("COPY binding (partner_code, member_id, resident_id, bound_at) FROM STDIN") as copy:
            for partner, number in itertools.product(PARTNERS, range(RESIDENTS)):
                if partner == PARTNER or number in SINGLE_RESIDENTS:
                    copy.write_row((partner, member_id(number), resident_id(number), instant))


def _add_households(cursor: psycopg.Cursor, instant: datetime) -> None:
    """Every other three residents live together, so that the bounds of households are counted too."""
    starts = range(0, RESIDENTS - 2, 6)
    with cursor.copy("COPY household (id, member_count, created_at) FROM STDIN") as copy:
        for start in starts:
            copy.write_row((sign_in_id(start), 3, instant))
    with cursor.copy("COPY household_member (resident_id, household_id, member_id, joined_at) FROM STDIN") as copy:
        for start, number in itertools.product(starts, range(3)):
            copy.write_row((resident_id(start + number), sign_in_id(start), sign_in_id(start + number), instant))


@contextlib.contextmanager
def scratch_copy(on: Stage) -> Iterator[Flask]:
    """The application on a copy of the database, dropped at the end: to see statements without leaving a trace."""
    url = on.postgres.url_of(SCRATCH)
    with on.app.app_context():
        db.engine.dispose()
    _copy_database(on)
    app = create_app(
        replace(on.settings, database_url=url, database_owner_url=url, rate_limits=False, log_level="ERROR")
    )
    try:
        yield app
    finally:
        with app.app_context():
            db.session.remove()
            db.engine.dispose()
        with psycopg.connect(on.postgres.url_of("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {SCRATCH} WITH (FORCE)")


def _copy_database(on: Stage) -> None:
    """Copy it while nobody is connected: the web server's kept connections are cut, and come back by themselves."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    with psycopg.connect(on.postgres.url_of("postgres"), autocommit=True) as connection:
        while True:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'tanpuhui'"
            )
            try:
                connection.execute(f"CREATE DATABASE {SCRATCH} TEMPLATE tanpuhui STRATEGY file_copy")
            except psycopg.errors.ObjectInUse:  # a worker that was still starting came in between
                if time.monotonic() > deadline:
                    raise
            else:
                return


def _web(target: str, settings: Settings, environ: dict[str, str], stack: contextlib.ExitStack) -> serve.Child:
    """The web server as `make run` starts it, with another application in it."""
    child = serve._web(settings, environ)
    place = child.arguments.index("granian") + 1
    child.arguments[place] = target
    stack.callback(child.stop, serve.WEB_STOP_SECONDS_MAX)
    child.start()
    return child


def _wait(server: Server, path: str) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while True:
        client = http.client.HTTPConnection(server.host, server.port, timeout=5)
        try:
            client.request("GET", path)
            if client.getresponse().status == http.HTTPStatus.OK:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            client.close()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} of the bench's web server is not ready after {READY_SECONDS_MAX:.0f} s")
        time.sleep(0.1)


def wait_until_ready(on: Stage) -> None:
    """Return once the application answers, such as after its web server was started anew."""
    _wait(on.server, "/readyz")


def six_days_ago() -> datetime:
    """Midnight in Shanghai, six business days ago: events of the days since then are neither late nor in the future."""
    day = business_day(now()) - timedelta(days=6)
    return datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=8)
