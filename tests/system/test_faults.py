"""Failures in mid-load: the cache, the database and a web worker are killed under the served application.

The short form runs with the tests; TANPUHUI_DRILLS=long repeats each kill many times (`make drill`).
"""

import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from district import District, code_of, environ_of, prepare, yesterday
from flask import Flask

import wsgi
from server import boot
from server.database import db, psycopg_url
from server.embedded import EmbeddedPostgres, EmbeddedValkey, throwaway_postgres, throwaway_valkey
from server.settings import Settings
from wsgi import create_app

pytestmark = pytest.mark.drill

LONG = os.environ.get("TANPUHUI_DRILLS") == "long"
ROUNDS = 20 if LONG else 1
LOAD_SECONDS = 5.0 if LONG else 1.5
WRITABLE_SECONDS_MAX = 10.0
READ_P95_SECONDS_MAX = 0.2
# On a machine that is busy with other things reads are slow with the cache too; twice that, and never more than this.
BUSY_READ_P95_SECONDS_MAX = 1.0
CLIENTS = 6
CLIENT_PATIENCE_SECONDS = 60.0


@dataclass
class Services:
    """PostgreSQL and Valkey that only these tests use, and the district served on them."""

    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    settings: Settings
    district: District


@pytest.fixture(scope="module")
def services(base_settings: Settings, serve_district: Any) -> Iterator[Services]:
    # In folders of their own and not in pytest's: another pytest closes those to the database's user.
    with throwaway_postgres() as postgres, throwaway_valkey() as valkey:
        settings = replace(
            base_settings, database_url=postgres.url, database_owner_url=postgres.url, redis_url=valkey.url
        )
        prepare(settings)
        with serve_district(settings, threads=8) as district:
            yield Services(postgres, valkey, settings, district)


# Load


@dataclass
class Acknowledged:
    """What the service told a client: this event of this resident, paid so many points."""

    person: UUID
    source: str
    external_id: str
    points: int


@dataclass
class Load:
    """Clients that record trips and push batches, and send again under the same key until they are answered."""

    district: District
    acknowledged: list[Acknowledged] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    answered_at: list[float] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.people = self.district.residents(CLIENTS * 10)
        self.partner = self.district.partner(budget=100_000_000)
        members = self.district.bind(self.people, self.partner[0])
        self.members = dict(zip(self.people, members, strict=True))
        self.headers = {person: self.district.sign_in(person) for person in self.people}
        with self.district.connect() as connection:
            connection.execute("CHECKPOINT")  # what is arranged here is durable, whatever the settings

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the clients inside the block; at its end each finishes what it has begun."""
        threads = [threading.Thread(target=self._guarded, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join()
        assert self.errors == [], self.district.complaints()

    def _guarded(self, number: int) -> None:
        try:
            with httpx.Client(base_url=self.district.http.base_url, timeout=10, trust_env=False) as http:
                turn = 0
                while not self.stopping.is_set():
                    (self._trip if number % 2 else self._batch)(http, number, turn)
                    turn += 1
        except BaseException as error:  # noqa: BLE001 -- told at the end, by the main thread
            self.errors.append(error)

    def _trip(self, http: httpx.Client, number: int, turn: int) -> None:
        person = self.people[number * 10 + turn % 10]
        start = yesterday(0) + timedelta(seconds=200 * (turn // 10))
        external_id = f"trip-{number}-{turn}"
        body = {
            "mode": "walk",
            "started_at": start.isoformat(),
            "ended_at": (start + timedelta(seconds=199)).isoformat(),
            "distance_m": 450,  # below the least that is paid: refused, and still an answer that must not be lost
            "client_id": external_id,
        }
        if turn % 2:
            body |= {"mode": "bicycle", "distance_m": 600}
        headers = {**self.headers[person], "Idempotency-Key": f"{external_id}-{person.hex[-6:]}"}
        answer = self._until_answered(lambda: http.post("/api/v1/me/activities/trips", json=body, headers=headers))
        self.acknowledged.append(Acknowledged(person, "self", external_id, answer.json()["points"]))

    def _batch(self, http: httpx.Client, number: int, turn: int) -> None:
        people = self.people[number * 10 : number * 10 + 10]
        at = (yesterday(0) - timedelta(days=turn % 5) + timedelta(seconds=turn)).isoformat()
        ids = [f"drop-{number}-{turn}-{position}" for position in range(10)]
        events = [
            {
                "kind": "bin-drop",
                "id": each,
                "member": self.members[person],
                "category": "residual",
                "at": at,
                "site": "1",
            }
            for each, person in zip(ids, people, strict=True)
        ]
        batch = f"batch-{number}-{turn}"
        pushing = replace_http(self.district, http)
        answer = self._until_answered(lambda: pushing.push(self.partner, events, batch))
        for each, person, outcome in zip(ids, people, answer.json()["outcomes"], strict=True):
            self.acknowledged.append(Acknowledged(person, self.partner[0], each, outcome.get("points", 0)))

    def _until_answered(self, call: Callable[[], httpx.Response]) -> httpx.Response:
        deadline = time.monotonic() + CLIENT_PATIENCE_SECONDS
        while True:
            try:
                answer = call()
            except httpx.TransportError as error:
                self.statuses[type(error).__name__] += 1
            else:
                self.statuses[code_of(answer)] += 1
                if answer.status_code in {200, 201}:
                    self.answered_at.append(time.monotonic())
                    return answer
                again = {"unavailable", "rate-limited", "request-still-running", "batch-running"}
                assert code_of(answer) in again, answer.text
            assert time.monotonic() < deadline, f"not answered for {CLIENT_PATIENCE_SECONDS} s: {self.statuses}"
            time.sleep(0.05)

    def lost_or_doubled(self) -> list[str]:
        """Every acknowledged event that is not there exactly once with the points that were told."""
        with self.district.connect() as connection:
            found: dict[tuple[UUID, str, str], list[int]] = {}
            rows = connection.execute(
                "SELECT a.resident_id, a.source, a.external_id, coalesce(t.points, 0) FROM activity a "
                "LEFT JOIN transfer t ON t.resident_id = a.resident_id AND t.id = a.id"
            )
            for person, source, external_id, points in rows:
                found.setdefault((person, source, external_id), []).append(points)
            paid = connection.execute(
                "SELECT coalesce(sum(points), 0) FROM transfer WHERE kind = 'award' AND resident_id = ANY(%s)",
                (self.people,),
            ).fetchone()
        wrong = [
            f"{each} is {found.get((each.person, each.source, each.external_id))}"
            for each in self.acknowledged
            if found.get((each.person, each.source, each.external_id)) != [each.points]
        ]
        assert paid is not None
        told = sum(each.points for each in self.acknowledged)
        return wrong if paid[0] == told else [*wrong, f"{paid[0]} points were paid and {told} acknowledged"]


def replace_http(district: District, http: httpx.Client) -> Any:
    """The district's calls through a client of the caller's own."""

    class Through:
        push, push_bytes = District.push, District.push_bytes

    through = Through()
    through.http = http  # type: ignore[attr-defined]
    return through


# The database


@pytest.mark.parametrize("turn", range(ROUNDS))
def test_killing_the_database_in_mid_load_loses_nothing_and_doubles_nothing(services: Services, turn: int) -> None:
    district, postgres = services.district, services.postgres
    load = Load(district)
    with load.running():
        time.sleep(LOAD_SECONDS)
        before = len(load.acknowledged)
        postgres.kill()
        time.sleep(0.5)
        assert district.http.get("/readyz").status_code == 503
        down = district.http.get("/api/v1/me/wallet", headers=load.headers[load.people[0]])
        assert (down.status_code, code_of(down)) == (503, "unavailable")
        assert district.http.get("/healthz").status_code == 200
        postgres.start()
        back = time.monotonic()
        time.sleep(LOAD_SECONDS)
    writable = min(at for at in load.answered_at if at > back) - back
    print(f"\nwritable after {writable:.2f} s; {len(load.acknowledged)} acknowledged; {load.statuses}")
    assert before > 50
    assert len(load.acknowledged) > before
    assert load.statuses["unavailable"] > 0, "the load met the outage"
    assert set(load.statuses) <= {"200", "201", "unavailable", "rate-limited", "request-still-running", "batch-running"}
    assert writable <= WRITABLE_SECONDS_MAX
    assert load.lost_or_doubled() == []
    assert district.faults() == []


def test_without_synchronous_commit_the_same_kill_loses_acknowledged_awards(services: Services) -> None:
    """The negative control: the checker above finds a loss where there is one."""
    district, postgres = services.district, services.postgres
    safe = postgres.settings
    unsafe = {"synchronous_commit": "off", "wal_writer_delay": "10000ms", "wal_writer_flush_after": "1GB"}
    try:
        postgres.settings = {**safe, **unsafe}
        postgres.restart()
        district.wait_until_ready()
        load = Load(district)
        with load.running():
            time.sleep(LOAD_SECONDS)
            load.stopping.set()
            postgres.kill()
            acknowledged = len(load.acknowledged)
            postgres.settings = dict(safe)
            postgres.start()
    finally:
        postgres.settings = dict(safe)
        postgres.restart()
        district.wait_until_ready()
    wrong = load.lost_or_doubled()
    print(f"\n{len(wrong)} findings about {acknowledged} acknowledged events")
    assert any(each.endswith("is None") for each in wrong), "what was not flushed is gone, and found to be"


def test_killing_a_web_worker_in_mid_load_loses_nothing(services: Services) -> None:
    district = services.district
    for _ in range(ROUNDS):
        load = Load(district)
        workers = district.web_workers()
        assert len(workers) == 2
        started = district.log().count("Started worker-")
        with load.running():
            time.sleep(LOAD_SECONDS / 2)
            workers[0].kill()
            time.sleep(LOAD_SECONDS / 2)
        district.reconnect()
        assert load.lost_or_doubled() == []
        assert district.faults() == []
        assert not {status for status in load.statuses if status in {"internal-error", "unavailable"}}
        deadline = time.monotonic() + 30
        while district.log().count("Started worker-") == started:
            assert time.monotonic() < deadline, "the killed worker is not replaced"
            time.sleep(0.1)
        assert workers[0].pid not in {each.pid for each in district.web_workers()}


# The cache


@contextmanager
def without_cache(valkey: EmbeddedValkey, how: str) -> Iterator[None]:
    """Valkey killed or frozen inside the block, and back after it."""
    (valkey.kill if how == "killed" else valkey.pause)()
    try:
        yield
    finally:
        (valkey.start if how == "killed" else valkey.resume)()


def wait_for_cache(district: District, alive: bool) -> None:
    """Return when several answers of /readyz in a row, from both workers, agree on the cache."""
    deadline, agreed = time.monotonic() + 20, 0
    while agreed < 12:
        answer = district.http.get("/readyz", headers={"Connection": "close"})
        assert answer.status_code == 200, "ready with and without the cache"
        agreed = agreed + 1 if answer.json()["redis"] is alive else 0
        assert time.monotonic() < deadline, f"the cache is not reported as {'alive' if alive else 'gone'}"
        time.sleep(0.05)


def p95_of(seconds: list[float]) -> float:
    """The time that 95 of 100 calls kept under."""
    return sorted(seconds)[int(0.95 * len(seconds))]


READS = ("/api/v1/me/wallet", "/api/v1/me/activities", "/api/v1/report/summary", "/api/v1/rewards", "/api/v1/me")


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_without_the_cache_reads_stay_open_and_writes_go_on(services: Services, how: str) -> None:
    district, valkey = services.district, services.valkey
    people = [district.sign_in(person) for person in district.residents(40)]
    seconds: list[float] = []
    statuses: Counter[int] = Counter()
    stopping = threading.Event()

    def read(number: int) -> None:
        with httpx.Client(base_url=district.http.base_url, timeout=10, trust_env=False) as http:
            turn = 0
            while not stopping.is_set():
                began = time.monotonic()
                headers = people[(number * 10 + turn) % len(people)]
                answer = http.get(READS[turn % len(READS)], headers=headers)
                seconds.append(time.monotonic() - began)
                statuses[answer.status_code] += 1
                turn += 1
                time.sleep(0.02)

    wait_for_cache(district, alive=True)
    readers = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for reader in readers:
        reader.start()
    try:
        time.sleep(LOAD_SECONDS)
        usual = p95_of(seconds)
        with without_cache(valkey, how):
            seconds.clear()
            reward = district.reward(cost=1, stock=1000)
            (spender,) = district.residents(1, points=10)
            spent = district.spend(district.sign_in(spender), reward)
            assert spent.status_code == 201, district.complaints()
            time.sleep(2 * LOAD_SECONDS)
            wait_for_cache(district, alive=False)
    finally:
        stopping.set()
        for reader in readers:
            reader.join()
    p95 = p95_of(seconds)
    print(f"\n{how}: {len(seconds)} reads, p95 {p95:.3f} s, with the cache {usual:.3f} s, {statuses}")
    assert set(statuses) == {200}, district.complaints()
    assert len(seconds) > 50
    assert p95 < max(READ_P95_SECONDS_MAX, min(2 * usual, BUSY_READ_P95_SECONDS_MAX))
    wait_for_cache(district, alive=True)


def allowed_spends(district: District, count: int) -> int:
    """How many of a new resident's tries to spend are let through."""
    reward = district.reward(cost=5, stock=1)
    headers = district.sign_in(district.residents(1)[0])
    codes = Counter(code_of(district.spend(headers, reward)) for _ in range(count))
    assert set(codes) <= {"insufficient-points", "rate-limited"}
    return codes["insufficient-points"]


def allowed_sign_ins(district: District, count: int) -> int:
    """How many tries to sign in are let through to the check of the name and the password."""
    codes = Counter(code_of(district.http.post("/api/v1/sign-in/staff", json={})) for _ in range(count))
    assert set(codes) <= {"invalid-request", "rate-limited"}
    return codes["invalid-request"]


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_without_the_cache_sign_in_and_spending_have_stricter_limits(services: Services, how: str) -> None:
    district, valkey = services.district, services.valkey
    wait_for_cache(district, alive=True)
    assert allowed_spends(district, 30) == 30
    with without_cache(valkey, how):
        wait_for_cache(district, alive=False)
        # Each process counts for itself: at most ten a minute in each of the two.
        assert 10 <= allowed_spends(district, 30) <= 20
        assert allowed_sign_ins(district, 30) <= 20
    wait_for_cache(district, alive=True)
    deadline = time.monotonic() + 20  # the limiter asks after the server at growing intervals
    while allowed_spends(district, 30) < 30:
        assert time.monotonic() < deadline, "the usual limits do not come back"


# The boot check


@pytest.fixture
def own_database(services: Services) -> Settings:
    """A copy of the district's schema on the tests' own server."""
    name = f"boot_{secrets.token_hex(6)}"
    with psycopg.connect(services.postgres.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    url = services.postgres.url_of(name)
    settings = replace(services.settings, database_url=url, database_owner_url=url, log_level="ERROR")
    prepare(settings)
    return settings


def refusal(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What the application for serving says when it refuses to be made."""
    for name, value in {**environ_of(settings), "LOG_LEVEL": "ERROR"}.items():
        monkeypatch.setenv(name, value)
    made: list[Flask] = []

    def create(settings: Settings | None = None) -> Flask:
        made.append(create_app(settings))
        return made[-1]

    monkeypatch.setattr(wsgi, "create_app", create)
    try:
        wsgi.create_serving_app()
    except SystemExit as refused:
        return str(refused.code)
    finally:
        with made[0].app_context():
            db.engine.dispose()
    return None


def test_a_database_that_is_fit_is_served_and_one_that_is_not_is_refused_by_name(
    own_database: Settings, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(statement: str) -> None:
        with psycopg.connect(own_database.database_url, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def wait_for_setting(name: str, value: str) -> None:
        """Reload, and return when a new connection has the value."""
        deadline = time.monotonic() + 10
        while True:
            with psycopg.connect(own_database.database_url, autocommit=True) as connection:
                connection.execute("SELECT pg_reload_conf()")
                found = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            if found == (value,):
                return
            assert time.monotonic() < deadline
            time.sleep(0.05)

    assert refusal(own_database, monkeypatch) is None
    try:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            run(f"ALTER SYSTEM SET {name} = off")
            wait_for_setting(name, "off")
            said = refusal(own_database, monkeypatch)
            assert said is not None, name
            assert f"{name} is off" in said
            run(f"ALTER SYSTEM RESET {name}")
            wait_for_setting(name, "on")
    finally:
        run("ALTER SYSTEM RESET ALL")
        wait_for_setting("synchronous_commit", "on")
    assert refusal(own_database, monkeypatch) is None

    for broken, mended, expected in (
        ("GRANT UPDATE ON transfer TO tanpuhui_app", "REVOKE UPDATE ON transfer FROM tanpuhui_app", "transfer"),
        ("GRANT DELETE ON lot_draw TO tanpuhui_app", "REVOKE DELETE ON lot_draw FROM tanpuhui_app", "lot_draw"),
        ("UPDATE alembic_version SET version_num = '0000'", None, "the schema is at 0000"),
        ("DROP TABLE alembic_version", None, "the schema is at None"),
    ):
        run(broken)
        said = refusal(own_database, monkeypatch)
        assert said is not None, broken
        assert expected in said
        if mended:
            run(mended)


def test_the_owner_of_the_schema_is_refused(services: Services) -> None:
    engine = sa.create_engine(psycopg_url(services.settings.database_url), poolclass=sa.NullPool)
    with engine.connect() as owner, pytest.raises(boot.RefusesToServe, match="connected as postgres and not as"):
        boot.check(owner)


def test_an_unfit_database_is_never_served(own_database: Settings, tmp_path: Path) -> None:
    with psycopg.connect(own_database.database_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    district = District(own_database, tmp_path, workers=1)
    try:
        district.start(wait=False)
        deadline = time.monotonic() + 20
        while "The database is not fit to serve" not in district.log():
            assert time.monotonic() < deadline, district.log()
            with pytest.raises(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{district.port}/healthz", timeout=1, trust_env=False)
            time.sleep(0.2)
        assert district.process.wait(20) != 0, "and it does not try for ever"
    finally:
        district.stop()
