"""What the tests stand on: real PostgreSQL and Valkey, the migrated schema, and a savepoint per test.

Each test process starts its own servers once. A test that needs real commits, other connections or other processes
takes `district` (tests/system/conftest.py), a database of its own copied from the same template.
"""

import gc
import json
import os
import secrets
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import time_machine
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session
from werkzeug.serving import make_server

from points.carbon import methods
from points.earning import holds, pricing, rules
from points.review import editions
from points.share.survey import definition
from points.waste.drops import plans
from points.waste.orders import materials
from points.waste.sites import opening
from server.access import Role
from server.clock import SHANGHAI, business_day, now
from server.database import db, new_id, psycopg_url
from server.embedded import EmbeddedPostgres, EmbeddedValkey, throwaway_postgres, throwaway_valkey
from server.limits import limiter
from server.people import code_limits, sessions, staff
from server.people.models import Resident, Staff
from server.people.wechat_standin import QuietHandler, create_standin
from server.places import divisions
from server.places.district_data import read_district
from server.settings import PLACES_DATA, Settings
from wsgi import create_app

APPID, SECRET = "wx-test-app", "test-app-secret-0123"
COMMUNITY = "120104001001"
TEMPLATE = "template_district"

# The tests start many processes of ours: what one has compiled the others find.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """Keep what was imported and collected out of the collector's sight: it stays to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL for this test process. Durable settings stay as they are in the field."""
    with throwaway_postgres({"max_connections": "200"}) as server:
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedValkey]:
    """A Valkey for this test process."""
    with throwaway_valkey() as server:
        yield server


@dataclass(frozen=True)
class StandIn:
    """A running WeChat stand-in: what a phone would do."""

    url: str

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Call one of the phone's addresses."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def login(self, user: str) -> str:
        """The code that wx.login() would give."""
        return str(self.post("/phone/login", user=user)["code"])


@pytest.fixture(scope="session")
def standin() -> Iterator[StandIn]:
    """The WeChat stand-in, served over HTTP on loopback."""
    server = make_server(
        "127.0.0.1",
        0,
        create_standin(APPID, SECRET, calls_per_minute_max=100_000),
        threaded=True,
        request_handler=QuietHandler,
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield StandIn(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def base_settings(
    postgres: EmbeddedPostgres, valkey: EmbeddedValkey, standin: StandIn, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings of a development district on the test servers."""
    data_folder = tmp_path_factory.mktemp("data")
    return Settings(
        environment="development",
        database_url=postgres.url_of("postgres"),
        database_owner_url=postgres.url_of("postgres"),
        redis_url=valkey.url,
        secret_key=secrets.token_urlsafe(48),
        data_key=secrets.token_bytes(32),
        wechat_appid=APPID,
        wechat_secret=SECRET,
        wechat_base_url=standin.url,
        data_folder=data_folder,
        district_folder=PLACES_DATA / "nankai",
        files_url=(data_folder / "files").as_uri(),
        host="127.0.0.1",
        port=0,
        web_workers=1,
        database_pool_size=8,
        log_level="ERROR",
        rate_limits=False,
    )


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres, base_settings: Settings) -> str:
    """A migrated database with places, methods and rules; copied for whoever wants one. Its name."""
    with owner_connection(postgres, "postgres") as connection:
        connection.execute(sa.text(f"CREATE DATABASE {TEMPLATE}"))
    url = postgres.url_of(TEMPLATE)
    app = create_app(replace(base_settings, database_url=url, database_owner_url=url))
    with app.app_context():
        upgrade()
        session = db.session()
        divisions.load(session, read_district(base_settings.district_folder))
        methods.load(session, methods.read_methods(), on=business_day(now()))
        rules.load(session, rules.read_folder(base_settings.district_folder))
        definition.load(session, definition.read_definitions(), now=now())
        code_limits.load(session, code_limits.read_limits(base_settings.district_folder))
        editions.load(session, editions.read_folder(base_settings.district_folder))
        plans.load(session, plans.read_folder(base_settings.district_folder))
        materials.load(session, materials.read_folder(base_settings.district_folder), now=now())
        session.commit()
        db.session.remove()
        db.engine.dispose()
    return TEMPLATE


def owner_connection(postgres: EmbeddedPostgres, database: str) -> Any:
    """A connection as the owner of the schema, each statement committed by itself."""
    engine = sa.create_engine(
        psycopg_url(postgres.url_of(database)), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    return engine.connect()


@pytest.fixture(scope="session")
def make_database(postgres: EmbeddedPostgres, template: str) -> Callable[[], str]:
    """A function that copies the template and gives the copy's URL."""

    def make() -> str:
        name = f"district_{new_id().hex}"
        with owner_connection(postgres, "postgres") as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        return postgres.url_of(name)

    return make


@pytest.fixture(scope="session")
def app(base_settings: Settings, make_database: Callable[[], str]) -> Iterator[Flask]:
    """The application on a database of its own; every test leaves it as it was."""
    url = make_database()
    app = create_app(replace(base_settings, database_url=url, database_owner_url=url))
    yield app
    app.extensions["tanpuhui_wechat"].close()
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def connection(app: Flask) -> Iterator[Connection]:
    """One connection with a transaction around the whole test; the application's sessions run in savepoints of it."""
    with app.app_context():
        engine = db.engine
        db.session.remove()
    with engine.connect() as connection:
        outer = connection.begin()
        db._app_engines[app][None] = connection  # type: ignore[index,assignment]
        db.session.session_factory.configure(join_transaction_mode="create_savepoint")  # type: ignore[attr-defined]
        pricing.forget()
        holds.forget()
        opening.forget()
        try:
            yield connection
        finally:
            db._app_engines[app][None] = engine  # type: ignore[index]
            outer.rollback()


@pytest.fixture
def session(connection: Connection) -> Iterator[Session]:
    """A session for arranging and looking, in the test's transaction."""
    with Session(connection, join_transaction_mode="create_savepoint", expire_on_commit=False) as session:
        yield session


@pytest.fixture
def client(app: Flask, connection: Connection) -> FlaskClient:
    """A client whose requests run inside the test's transaction."""
    # The process has one limiter, and whichever application was made last has set it.
    limiter.enabled = app.config["RATELIMIT_ENABLED"]
    return app.test_client()


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """Time stands still and moves only by `clock.shift(seconds)` or `clock.move_to(instant)`."""
    with time_machine.travel(datetime(2026, 11, 18, 12, 0, tzinfo=SHANGHAI), tick=False) as traveller:
        yield traveller


@pytest.fixture(scope="session", autouse=True)
def slow_hasher() -> Iterator[PasswordHasher]:
    """The hasher of the field. The tests sign in under one that takes no tenth of a second, but where it matters."""
    in_the_field = staff.HASHER
    staff.HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    yield in_the_field
    staff.HASHER = in_the_field


@pytest.fixture
def make_resident(session: Session) -> Callable[..., UUID]:
    """A function that adds a resident and gives the id."""

    def make(community: str | None = COMMUNITY, **values: Any) -> UUID:
        resident = Resident(resident_id=new_id(), community_code=community, created_at=now(), **values)
        session.add(resident)
        session.commit()
        return resident.resident_id

    return make


@pytest.fixture
def headers_of(app: Flask, session: Session) -> Callable[..., dict[str, str]]:
    """A function that signs a person in without a credential and gives the request headers."""

    def sign_in(person_id: UUID, *, is_resident: bool) -> dict[str, str]:
        with app.app_context():
            tokens = sessions.begin(session, person_id, is_resident=is_resident, now=now())
        session.commit()
        return {"Authorization": f"Bearer {tokens.access_token}"}

    return sign_in


@pytest.fixture
def sign_in_resident(
    make_resident: Callable[..., UUID], headers_of: Callable[..., dict[str, str]]
) -> Callable[..., dict[str, str]]:
    """A function that adds a resident (once per user name) and gives the headers of a sign-in."""
    known: dict[str, UUID] = {}

    def sign_in(user: str = "alice", community: str | None = COMMUNITY) -> dict[str, str]:
        if user not in known:
            known[user] = make_resident(community)
        return headers_of(known[user], is_resident=True)

    sign_in.known = known  # type: ignore[attr-defined]
    return sign_in


@pytest.fixture
def make_staff(session: Session) -> Callable[..., UUID]:
    """A function that adds a member of staff without a usable password and gives the id."""

    def make(role: Role | str, *, division: str | None = None, organisation: UUID | None = None) -> UUID:
        member = Staff(
            id=new_id(),
            name=f"staff-{secrets.token_hex(6)}",
            password_hash="unusable",
            role=Role(role),
            division=division,
            organisation_id=organisation,
            created_at=now(),
        )
        session.add(member)
        session.commit()
        return member.id

    return make


@pytest.fixture
def sign_in_staff(
    make_staff: Callable[..., UUID], headers_of: Callable[..., dict[str, str]]
) -> Callable[..., dict[str, str]]:
    """A function that adds a member of staff and gives the headers of a sign-in."""

    def sign_in(role: Role | str, *, division: str | None = None, organisation: UUID | None = None) -> dict[str, str]:
        return headers_of(make_staff(role, division=division, organisation=organisation), is_resident=False)

    return sign_in


@pytest.fixture(scope="session")
def project() -> Path:
    """The checkout."""
    return Path(__file__).parents[1]
