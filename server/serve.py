"""`python -m server.serve`, which is `make run`: all that the service needs, started, watched and stopped in order.

It completes the environment (services, secrets, the WeChat stand-in), prepares the database, starts the web server and
the worker, and waits. Every child runs in a session of its own, so that Ctrl-C reaches only this process, which stops
the children from the outside in: no request is cut from its database, and no acknowledged write is lost.
"""

import base64
import contextlib
import http.client
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from server.embedded import (
    LOOPBACK,
    EmbeddedError,
    EmbeddedPostgres,
    EmbeddedValkey,
    end_with_parent,
    free_port,
    open_log,
)
from server.settings import Settings, SettingsError

REPOSITORY = Path(__file__).resolve().parents[1]
DEVELOPMENT_APPID = "wx-development"
DEVELOPMENT_SECRET = "development-only-secret"  # noqa: S105 - known to all; only the stand-in on loopback takes it

POLL_SECONDS = 0.1
READY_SECONDS_MAX = 90.0
# granian lets a request end that has begun; a full feed batch is the longest.
WEB_STOP_SECONDS_MAX = 30.0
WORKER_STOP_SECONDS_MAX = 30.0
STAND_IN_STOP_SECONDS_MAX = 5.0
STEP_STOP_SECONDS_MAX = 10.0
RESTARTS_MAX = 5
RESTART_WINDOW_SECONDS = 600.0

# Open connections, idle ones included: well above the threads, or kept-alive clients would lock new ones out.
BACKPRESSURE_PER_WORKER = 512

# All in one process: each Python of ours takes two seconds of processor time before it does anything.
READY_STEP = ("database schema and district data", ("prepare", "--schema"))
SAMPLE_STEP = ("database schema, district data and sample people", ("prepare", "--schema", "--sample"))
# What a command beside the running service reads.
SERVICE_VARIABLES = (
    "DATABASE_OWNER_URL",
    "DATABASE_URL",
    "HOST",
    "PORT",
    "REDIS_URL",
    "TANPUHUI_DATA",
    "TANPUHUI_DATA_KEY",
    "TANPUHUI_DISTRICT",
    "TANPUHUI_DISTRICT_DATA",
    "TANPUHUI_ENV",
    "TANPUHUI_SECRET_KEY",
    "WECHAT_APPID",
    "WECHAT_BASE_URL",
    "WECHAT_SECRET",
)


class StopRequested(Exception):
    """A signal asked us to stop."""


class ServeError(Exception):
    """The service cannot start or go on; the message is for the person at the terminal."""


def say(text: str) -> None:
    """One line on the terminal. A terminal that was closed must not keep us from stopping what we started."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


class StopSignal:
    """Remembers that SIGINT, SIGTERM or SIGHUP came. A plain attribute: a handler may not take a lock."""

    def __init__(self) -> None:
        self.name = ""

    def listen(self) -> None:
        """Take the three signals over from here on."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._remember)

    def check(self) -> None:
        """Raises StopRequested if one came."""
        if self.name:
            raise StopRequested

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.name = self.name or signal.Signals(number).name


class Stoppable(Protocol):
    """What the supervisor needs of an embedded server."""

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""

    def start(self) -> None:
        """Start it, or start it again."""


@dataclass(slots=True)
class Restarts:
    """Allows five restarts in ten minutes, each later than the last; what fails oftener is broken, not unlucky."""

    at: deque[float] = field(default_factory=deque)

    def allow(self) -> bool:
        """Count one restart; whether it is still within the bound."""
        now = time.monotonic()
        while self.at and now - self.at[0] > RESTART_WINDOW_SECONDS:
            self.at.popleft()
        self.at.append(now)
        return len(self.at) <= RESTARTS_MAX

    @property
    def pause_seconds(self) -> float:
        """How long to wait before this restart: 0.5 s, 1 s, 2 s, …"""
        return min(8.0, 0.25 * float(2 ** len(self.at)))


class Child:
    """A Python process of ours in a session of its own."""

    def __init__(self, name: str, arguments: Sequence[str], environ: Mapping[str, str], log_path: Path | None) -> None:
        self.name = name
        self.arguments = [sys.executable, *arguments]
        self.environ = dict(environ)
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """How it ended: None while alive, negative for a signal."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the process; the kernel ends it should this one be killed hard (Linux)."""
        with contextlib.ExitStack() as stack:
            log = None if self.log_path is None else stack.enter_context(open_log(self.log_path))
            self._process = subprocess.Popen(  # noqa: S603 - our own module by this very interpreter
                self.arguments,
                cwd=REPOSITORY,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=None if log is None else subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one prctl call, no lock taken
            )

    def stop(self, timeout_s: float) -> None:
        """SIGTERM, then after `timeout_s` SIGKILL to the whole session: nothing it started outlives it."""
        if self._process is None:
            return
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                say(f"  {self.name} did not stop within {timeout_s:.0f} s and is killed")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its log, for an error message."""
        if self.log_path is None:
            return ""
        with contextlib.suppress(OSError), self.log_path.open(encoding="utf-8", errors="replace") as log:
            return "".join(deque(log, lines)).rstrip()
        return ""


def main() -> int:
    """Serve until a signal comes; the process's exit code."""
    stop = StopSignal()
    stop.listen()
    try:
        with contextlib.ExitStack() as stack:
            try:
                _serve(stop, stack)
            except StopRequested:
                say(f"\nStopping ({stop.name}) …")
    except (ServeError, SettingsError, EmbeddedError) as error:
        say(f"\n{error}")
        return 1
    say("Stopped.")
    return 0


def _serve(stop: StopSignal, stack: contextlib.ExitStack) -> None:
    """Start all, then watch. What is started is put on `stack`, which stops it in the reverse order."""
    started = time.monotonic()
    environ = _completed(os.environ)
    data_folder = Path(environ["TANPUHUI_DATA"])
    logs = data_folder / "log"
    postgres = valkey = None
    if not environ.get("DATABASE_URL"):
        postgres = EmbeddedPostgres(data_folder / "postgres", log_path=logs / "postgres.log")
        environ["DATABASE_URL"] = postgres.url
    if not environ.get("REDIS_URL"):
        valkey = EmbeddedValkey(data_folder / "valkey", log_path=logs / "valkey.log")
        environ["REDIS_URL"] = valkey.url
    # WeChat is called for real as soon as an app id is given, and always in production.
    needs_stand_in = environ.get("TANPUHUI_ENV") == "development" and not environ.get("WECHAT_APPID")
    if needs_stand_in:
        environ |= {"WECHAT_APPID": DEVELOPMENT_APPID, "WECHAT_SECRET": DEVELOPMENT_SECRET}
    settings = Settings.from_environment(environ)
    _refuse_taken_port(settings)

    watched: list[tuple[str, Stoppable]] = []
    if postgres is not None:
        with _progress("PostgreSQL", stop):
            stack.callback(postgres.stop)
            postgres.start()
        watched.append(("PostgreSQL", postgres))
    if valkey is not None:
        with _progress("Valkey", stop):
            stack.callback(valkey.stop)
            valkey.start()
        environ["REDIS_URL"] = valkey.url  # the port may have been taken since, and another chosen
        watched.append(("Valkey", valkey))
    if needs_stand_in:
        stand_in = _stand_in(settings, environ)
        with _progress(stand_in.name, stop):
            stack.callback(stand_in.stop, STAND_IN_STOP_SECONDS_MAX)
            stand_in.start()
        watched.append((stand_in.name, stand_in))

    _keep_environment(data_folder / "service.env", environ, stack)
    title, command = READY_STEP if settings.is_production else SAMPLE_STEP
    with _progress(title, stop):
        _run_step(title, command, environ, logs / "prepare.log", stop)

    worker = Child("worker", ("-m", "flask", "--app", "wsgi", "worker"), environ, logs / "worker.log")
    stack.callback(worker.stop, WORKER_STOP_SECONDS_MAX)
    worker.start()
    watched.append((worker.name, worker))

    web = _web(settings, environ)
    stack.callback(web.stop, WEB_STOP_SECONDS_MAX)
    with _progress(web.name, stop):
        web.start()
        _wait_until_ready(settings, web, stop)
    _announce(settings, time.monotonic() - started)
    _watch(web, watched, stop)


def _keep_environment(path: Path, environ: Mapping[str, str], stack: contextlib.ExitStack) -> None:
    """Write what a command beside the running service needs (`make flask`), for as long as it runs, for its owner."""
    lines = [f"{name}={shlex.quote(environ[name])}\n" for name in SERVICE_VARIABLES if name in environ]
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(lines)
    stack.callback(path.unlink, missing_ok=True)


def _announce(settings: Settings, seconds: float) -> None:
    logs = settings.data_folder / "log"
    say(f"\nServing at {_address(settings)} after {seconds:.0f} s. Logs: {logs}. Ctrl-C stops everything.\n")
    with contextlib.suppress(OSError):
        say((settings.data_folder / "try-this.txt").read_text(encoding="utf-8"))


def _completed(given: Mapping[str, str]) -> dict[str, str]:
    """The children's environment but for the services: one data folder, a real port for 0, secrets in development."""
    environ = {**given, "PYTHONUNBUFFERED": "1", "FLASK_SKIP_DOTENV": "1"}
    data_folder = Path(given.get("TANPUHUI_DATA") or "var").resolve()
    environ["TANPUHUI_DATA"] = str(data_folder)
    if given.get("PORT") == "0":
        environ["PORT"] = str(free_port())
    (data_folder / "log").mkdir(parents=True, exist_ok=True)
    if given.get("TANPUHUI_ENV") == "development":
        _keep_secrets(data_folder / "secrets.env", environ)
    return environ


def _local_host(settings: Settings) -> str:
    """The address at which this machine reaches the service."""
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound


def _address(settings: Settings) -> str:
    """The service's URL for a person at this machine."""
    host = _local_host(settings)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _refuse_taken_port(settings: Settings) -> None:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, where = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except OSError as error:
        raise ServeError(
            f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}). "
            f"Stop what uses it, or choose another port: PORT={settings.port + 2} make run"
        ) from error


def _keep_secrets(path: Path, environ: dict[str, str]) -> None:
    """Fill the two keys in `environ` from `path`, making and keeping those that are neither given nor kept."""
    kept: dict[str, str] = {}
    if path.exists():
        path.chmod(0o600)
        lines = path.read_text(encoding="ascii").splitlines()
        kept = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    made = {
        "TANPUHUI_SECRET_KEY": secrets.token_urlsafe(48),
        "TANPUHUI_DATA_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
    }
    wanted = {name: kept.get(name) or value for name, value in made.items()}
    if any(kept.get(name) != wanted[name] for name in made if not environ.get(name)):
        # Written whole and then renamed: losing half of it would lose every phone number in the database.
        fresh = path.with_name(path.name + ".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write("# Made for development. Without TANPUHUI_DATA_KEY, kept phone numbers cannot be read.\n")
            file.writelines(f"{name}={value}\n" for name, value in {**kept, **wanted}.items())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    for name, value in wanted.items():
        if not environ.get(name):
            environ[name] = value


def _stand_in(settings: Settings, environ: dict[str, str]) -> Child:
    """The stand-in for WeChat on loopback, with `environ` pointed at it. Its port is the next one if that is free."""
    port = settings.port + 1
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
    except (OSError, OverflowError):
        port = free_port()
    environ["WECHAT_BASE_URL"] = f"http://{LOOPBACK}:{port}"
    arguments = ("-m", "server.people.wechat_standin", "--port", str(port))
    return Child("WeChat stand-in", arguments, environ, settings.data_folder / "log" / "wechat-standin.log")


def _web(settings: Settings, environ: Mapping[str, str]) -> Child:
    arguments = ["-m", "granian", "wsgi:create_serving_app", "--factory", "--interface", "wsgi", "--no-ws"]
    arguments += ["--host", settings.host, "--port", str(settings.port), "--workers", str(settings.web_workers)]
    # As many threads as connections: one more would only wait for a connection.
    arguments += ["--blocking-threads", str(settings.database_pool_size)]
    arguments += ["--backpressure", str(BACKPRESSURE_PER_WORKER)]
    arguments += ["--respawn-failed-workers", "--workers-kill-timeout", str(int(WEB_STOP_SECONDS_MAX) - 5)]
    # Each worker process counts into a file of its own there, and /metrics adds them up.
    metrics = settings.data_folder / "metrics"
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir()
    environ = {**environ, "PROMETHEUS_MULTIPROC_DIR": str(metrics)}
    # At a person's terminal a log line for every request would bury the rest; in production a collector wants them.
    log_path = None if settings.is_production else settings.data_folder / "log" / "web.log"
    return Child("web server", arguments, environ, log_path)


def _run_step(title: str, command: Sequence[str], environ: Mapping[str, str], log_path: Path, stop: StopSignal) -> None:
    child = Child(title, ("-m", "flask", "--app", "wsgi", *command), environ, log_path)
    child.start()
    try:
        while child.is_running:
            stop.check()
            time.sleep(POLL_SECONDS)
    finally:
        child.stop(STEP_STOP_SECONDS_MAX)
    if child.returncode != 0:
        raise ServeError(f"`flask {' '.join(command)}` failed; the end of {log_path}:\n{child.log_tail()}")


def _wait_until_ready(settings: Settings, web: Child, stop: StopSignal) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    answer = "no answer"
    while time.monotonic() < deadline:
        stop.check()
        if not web.is_running:
            raise ServeError(f"The web server ended; the end of {web.log_path}:\n{web.log_tail()}")
        connection = http.client.HTTPConnection(_local_host(settings), settings.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            if response.status == http.HTTPStatus.OK:
                return
            answer = f"{response.status} {response.read(500).decode(errors='replace')}"
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(POLL_SECONDS)
    raise ServeError(f"Not ready after {READY_SECONDS_MAX:.0f} s: {answer}\n{web.log_tail()}")


def _watch(web: Child, watched: Sequence[tuple[str, Stoppable]], stop: StopSignal) -> None:
    """Wait for a signal. The web server's end ends all; anything else is started again, within a bound."""
    restarts = {name: Restarts() for name, _ in watched}
    while True:
        stop.check()
        if not web.is_running:
            raise ServeError(f"The web server ended ({web.returncode}); the end of its log:\n{web.log_tail()}")
        for name, service in watched:
            if service.is_running:
                continue
            if not restarts[name].allow():
                raise ServeError(f"{name} ended more than {RESTARTS_MAX} times in ten minutes; see the log folder.")
            say(f"  {name} ended and is started again")
            _sleep(restarts[name].pause_seconds, stop)
            service.start()
        time.sleep(POLL_SECONDS)


def _sleep(seconds: float, stop: StopSignal) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stop.check()
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _progress(title: str, stop: StopSignal) -> Iterator[None]:
    """Say what is being done and, once done, how long it took."""
    stop.check()
    say(f"  {title} …")
    began = time.monotonic()
    yield
    say(f"  {title}: ready in {time.monotonic() - began:.1f} s")
    stop.check()


if __name__ == "__main__":
    sys.exit(main())
