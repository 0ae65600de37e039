"""A district really served: granian in processes of its own, on a database of its own, called over HTTP."""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
import msgspec
import psutil
import psycopg
from flask import Flask
from flask_migrate import upgrade
from sqlalchemy.orm import Session

from points.carbon import methods
from points.earning import rules
from points.earning.counts import COUNT_CHECKS
from points.ledger import entries, verification
from points.ledger.models import ISSUANCE
from points.partners import bindings, registry
from points.rewards.models import Reward
from points.share.survey import definition
from server.access import Role
from server.boot import MIGRATIONS
from server.clock import SHANGHAI, business_day, now
from server.database import db, new_id
from server.embedded import end_with_parent, free_port
from server.errors import DomainError
from server.people import sessions
from server.people.models import Resident, Staff
from server.places import divisions
from server.places.district_data import read_district
from server.request_signatures import new_key
from server.settings import Settings
from wsgi import create_app

REPOSITORY = Path(__file__).resolve().parents[2]
COMMUNITY = "120104001001"
SERVING = "wsgi:create_serving_app"
START_SECONDS_MAX = 40.0
STOP_SECONDS_MAX = 20.0
CALL_SECONDS_MAX = 30.0

Result = TypeVar("Result")


def environ_of(settings: Settings) -> dict[str, str]:
    """The environment from which a process reads these settings."""
    return {
        "TANPUHUI_ENV": settings.environment,
        "DATABASE_URL": settings.database_url,
        "DATABASE_OWNER_URL": settings.database_owner_url,
        "REDIS_URL": settings.redis_url,
        "TANPUHUI_SECRET_KEY": settings.secret_key,
        "TANPUHUI_DATA_KEY": base64.b64encode(settings.data_key).decode(),
        "WECHAT_APPID": settings.wechat_appid,
        "WECHAT_SECRET": settings.wechat_secret,
        "WECHAT_BASE_URL": settings.wechat_base_url,
        "TANPUHUI_DATA": str(settings.data_folder),
        "DATABASE_POOL_SIZE": str(settings.database_pool_size),
        "LOG_LEVEL": "INFO",
    }


def prepare(settings: Settings) -> None:
    """Make the schema and load places, methods and rules, as `make run` does."""
    app = create_app(settings)
    with app.app_context():
        upgrade(directory=str(MIGRATIONS))
        session = db.session()
        divisions.load(session, read_district(settings.district_folder))
        methods.load(session, methods.read_methods(), on=business_day(now()))
        rules.load(session, rules.read_folder(settings.district_folder))
        definition.load(session, definition.read_definitions(), now=now())
        session.commit()
        db.session.remove()
        db.engine.dispose()


def simultaneously(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run the calls at once, each in a thread of its own behind one barrier; their results in order."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Result]) -> Result:
        barrier.wait(CALL_SECONDS_MAX)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


class District:
    """A database, the application on it in this process for arranging and looking, and the same served over HTTP."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        factory: str = SERVING,
        workers: int = 2,
        threads: int = 16,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.settings = replace(settings, database_pool_size=threads, port=self.port)
        self.folder = folder
        self.log_path = folder / f"web-{self.port}.log"
        self.factory, self.workers, self.threads = factory, workers, threads
        self.environ = dict(environ or {})
        self.app: Flask = create_app(self.settings)
        self.tokens: list[str] = []  # what must never be found in the log
        self._process: subprocess.Popen[bytes] | None = None
        self.http = self._client()

    def _client(self) -> httpx.Client:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        address = f"http://127.0.0.1:{self.port}"
        return httpx.Client(base_url=address, timeout=CALL_SECONDS_MAX, limits=limits, trust_env=False)

    def reconnect(self) -> None:
        """Forget kept-alive connections: after a worker was killed, some lead nowhere."""
        self.http.close()
        self.http = self._client()

    # The served process

    def start(self, *, wait: bool = True) -> None:
        """Start granian; with `wait`, return when it answers."""
        options = ["--factory", "--interface", "wsgi", "--no-ws", "--host", "127.0.0.1", "--port", str(self.port)]
        options += ["--workers", str(self.workers), "--blocking-threads", str(self.threads), "--backpressure", "512"]
        options += ["--respawn-failed-workers", "--workers-kill-timeout", "3"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TANPUHUI", "PYTEST"))}
        paths = os.pathsep.join((str(REPOSITORY), str(Path(__file__).parent)))
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "granian", self.factory, *options],
                cwd=REPOSITORY,
                env={**kept, **environ_of(self.settings), "PYTHONPATH": paths, **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 -- only asks the kernel for a signal
            )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return when /readyz answers 200 and every worker has started: one that has not ignores SIGTERM."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            with contextlib.suppress(httpx.TransportError):
                all_started = self.log().count("Started worker-") >= self.workers
                if all_started and self.http.get("/readyz").status_code == 200:
                    return
            assert self.process.poll() is None, self.log()[-3000:]
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.05)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def web_workers(self) -> list[psutil.Process]:
        """The worker processes of granian."""
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if "resource_tracker" not in " ".join(child.cmdline())
        ]

    def stop(self) -> None:
        """Stop the server and everything that it started."""
        self.http.close()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with self.app.app_context():
            db.session.remove()
            db.engine.dispose()

    def log(self) -> str:
        """All that the served processes have written."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def complaints(self) -> list[str]:
        """The latest lines of the log that tell of an error that nobody expected."""
        return [line for line in self.log().splitlines() if '"exception"' in line or "panicked" in line][-3:]

    # Arranging and looking, past HTTP

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A session of its own on a connection of its own, in the application's role; committed at the end."""
        with self.app.app_context(), Session(db.engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection[Any]:
        """A plain connection as the owner of the schema."""
        return psycopg.connect(self.settings.database_url, autocommit=autocommit)

    def value(self, query: str, *parameters: Any) -> Any:
        """The one value that a query gives."""
        with self.connect() as connection:
            row = connection.execute(query, parameters).fetchone()  # type: ignore[call-overload]
            return None if row is None else row[0]

    def outcome(self, work: Callable[[Session], Any]) -> str:
        """What a rule comes to in a transaction of its own."""
        try:
            with self.session() as session:
                work(session)
        except DomainError as error:
            return error.code
        return "done"

    @contextlib.contextmanager
    def after_the_first(
        self, first: Callable[[Session], Any], second: Callable[[Session], Any]
    ) -> Iterator[Future[str]]:
        """Do the first and hold it open until the second waits for it; then commit. The second's outcome is yielded."""
        with ThreadPoolExecutor(1) as pool:
            with self.session() as session:
                first(session)
                session.flush()
                later = pool.submit(self.outcome, second)
                self.wait_for_waiters()
            yield later

    def wait_for_waiters(self, count: int = 1, seconds: float = 10.0) -> None:
        """Return when at least `count` connections to this database wait for another one's lock."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        deadline = time.monotonic() + seconds
        with self.connect() as connection:
            while connection.execute(query).fetchone()[0] < count:  # type: ignore[index]
                assert time.monotonic() < deadline, "nobody came to wait"
                time.sleep(0.01)

    def residents(self, count: int, *, points: int = 0, community: str = COMMUNITY) -> list[UUID]:
        """Add residents, each with a balance."""
        made = [new_id() for _ in range(count)]
        instant = now()
        with self.session() as session:
            for each in made:
                session.add(Resident(resident_id=each, community_code=community, created_at=instant))
            session.flush()
            for each in made if points else ():
                entries.grant(
                    session,
                    each,
                    points,
                    account_id=ISSUANCE,
                    expires_on=business_day(instant) + timedelta(days=90),
                    reason="test",
                    now=instant,
                )
        return made

    def staff(self, role: Role, *, division: str | None = None, organisation_id: UUID | None = None) -> UUID:
        """Add a member of staff."""
        made = new_id()
        with self.session() as session:
            session.add(
                Staff(
                    id=made,
                    name=f"staff-{made.hex[-12:]}",
                    password_hash="unusable",
                    role=role,
                    division=division,
                    organisation_id=organisation_id,
                    created_at=now(),
                )
            )
        return made

    def sign_in(self, person: UUID, *, is_resident: bool = True) -> dict[str, str]:
        """The request headers of a new sign-in."""
        return {"Authorization": f"Bearer {self.tokens_of(person, is_resident=is_resident).access_token}"}

    def tokens_of(self, person: UUID, *, is_resident: bool = True) -> sessions.Tokens:
        """The tokens of a new sign-in."""
        with self.session() as session:
            made = sessions.begin(session, person, is_resident=is_resident, now=now())
        self.tokens += [made.access_token, made.refresh_token]
        return made

    def reward(self, *, cost: int, stock: int) -> UUID:
        """Add a reward."""
        made = new_id()
        with self.session() as session:
            session.add(
                Reward(
                    id=made,
                    code=f"r-{made.hex[-12:]}",
                    name_zh="奖品",
                    name_en="A reward",
                    cost_points=cost,
                    stock=stock,
                )
            )
        return made

    def partner(self, *, budget: int = 1_000_000) -> tuple[str, str]:
        """Add a partner of every kind: its code and its key."""
        code, key = f"p-{secrets.token_hex(6)}", new_key()
        with self.session() as session:
            registry.create(
                session,
                code,
                name_zh="合作方",
                kinds=["ride", "bin-drop", "recycling"],
                day_budget_points=budget,
                key=key,
                data_key=self.settings.data_key,
                now=now(),
            )
        self.tokens.append(key)
        return code, key

    def bind(self, residents: Sequence[UUID], partner_code: str) -> list[str]:
        """Bind residents to a partner; the member ids."""
        with self.session() as session:
            for each in residents:
                bindings.bind(session, each, partner_code, f"m-{each.hex}", now=now())
        return [f"m-{each.hex}" for each in residents]

    def faults(self) -> list[str]:
        """What `flask ledger verify` finds wrong; empty when the ledger is proved."""
        with self.session() as session:
            findings = list(verification.run(session, verification.LEDGER_CHECKS + COUNT_CHECKS))
        assert len(findings) == len(verification.LEDGER_CHECKS + COUNT_CHECKS)
        return [f"{each.name}: {each.first_wrong}" for each in findings if each.first_wrong is not None]

    # Calls

    def spend(self, headers: Mapping[str, str], reward: UUID, key: str | None = None) -> httpx.Response:
        """Take a reward, by default under a key of its own."""
        keyed = {**headers, "Idempotency-Key": key or secrets.token_hex(8)}
        return self.http.post("/api/v1/me/redemptions", json={"reward_id": str(reward)}, headers=keyed)

    def push(
        self, partner: tuple[str, str], events: Sequence[Mapping[str, Any]], batch: str | None = None
    ) -> httpx.Response:
        """Push events as a signed batch."""
        return self.push_bytes(partner, b"".join(msgspec.json.encode(each) + b"\n" for each in events), batch)

    def push_bytes(self, partner: tuple[str, str], body: bytes, batch: str | None = None) -> httpx.Response:
        """Push raw bytes as a signed batch."""
        return self.http.post(
            f"/api/v1/partners/{partner[0]}/events", content=body, headers=signed(partner[1], body, batch)
        )


def signed(key: str, body: bytes, batch: str | None = None) -> dict[str, str]:
    """The headers of a partner's batch."""
    stamp = str(int(time.time()))
    return {
        "Content-Type": "application/x-ndjson",
        "X-Tanpuhui-Timestamp": stamp,
        "X-Tanpuhui-Batch": batch or secrets.token_hex(8),
        "X-Tanpuhui-Signature": hmac.digest(key.encode(), stamp.encode() + b"." + body, hashlib.sha256).hex(),
    }


def yesterday(hour: int, minute: int = 0) -> datetime:
    """A moment of yesterday in Shanghai: past for certain, and of one business day."""
    day = now().astimezone(SHANGHAI) - timedelta(days=1)
    return day.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(hours=hour, minutes=minute)


def drop(member: str, event_id: str, *, minute: int = 0, category: str = "kitchen") -> dict[str, Any]:
    """A bin drop of yesterday, worth 5 points under a cap of 20 a day."""
    return {
        "kind": "bin-drop",
        "id": event_id,
        "member": member,
        "category": category,
        "at": yesterday(8, minute).isoformat(),
        "site": "bin-1",
    }


def walk(number: int, *, client_id: str | None = None) -> dict[str, Any]:
    """The `number`th walk of yesterday, 700 m in 8 minutes, worth 2 points under a cap of 20; walks never overlap."""
    body: dict[str, Any] = {
        "mode": "walk",
        "started_at": yesterday(0, 10 * number).isoformat(),
        "ended_at": yesterday(0, 10 * number + 8).isoformat(),
        "distance_m": 700,
    }
    return body if client_id is None else {**body, "client_id": client_id}


def code_of(response: httpx.Response) -> str:
    """The code of a problem, or the status of anything else."""
    if response.headers.get("content-type") == "application/problem+json":
        return str(response.json()["code"])
    return str(response.status_code)
