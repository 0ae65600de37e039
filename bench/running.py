"""The service that the demonstration drives: the one that is running, or one of its own for as long as it takes."""

import contextlib
import http.client
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from server.embedded import end_with_parent, free_port

REPOSITORY = Path(__file__).resolve().parents[1]
START_SECONDS_MAX = 180.0
STOP_SECONDS_MAX = 90.0
ASK_AGAIN_SECONDS_MAX = 70.0  # the longest wait for a limit of so many per minute


class DemoError(Exception):
    """The demonstration cannot go on; the message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running service, and what its data folder tells about it."""

    host: str
    port: int
    data_folder: Path
    is_own: bool

    @property
    def url(self) -> str:
        """Its address for a person."""
        return f"http://{self.host}:{self.port}"

    def credentials(self) -> dict[str, Any]:
        """What `flask sample load` wrote. Raises DemoError when there is none."""
        path = self.data_folder / "sample.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DemoError(
                f"{self.url} 已有服务在运行, 但找不到 {path}。Something answers there, but its sample people "
                "and keys are not there: name its TANPUHUI_DATA, or choose another PORT to have a service started."
            ) from error
        return found

    def environment(self) -> dict[str, str]:
        """What commands beside the service run with; empty when it is not of this machine."""
        try:
            lines = (self.data_folder / "service.env").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        return dict(shlex.split(line)[0].split("=", 1) for line in lines if "=" in line)

    def wechat(self) -> tuple[str, int]:
        """Host and port of the WeChat stand-in. Raises DemoError when there is none."""
        parts = urlsplit(self.environment().get("WECHAT_BASE_URL", ""))
        if parts.scheme == "http" and parts.hostname and parts.port:
            return parts.hostname, parts.port
        raise DemoError("找不到微信替身, 演示需要开发环境。No WeChat stand-in: the demonstration wants `make run`.")


class Client:
    """One phone, partner or office: a kept connection, from an address of its own if given one."""

    def __init__(self, host: str, port: int, *, address: str | None = None, token: str | None = None) -> None:
        source = None if address is None else (address, 0)
        self._connection = http.client.HTTPConnection(host, port, timeout=60, source_address=source)
        self._token = token

    def call(self, method: str, path: str, body: Any = None, *, accept: tuple[int, ...] = ()) -> Any:
        """The answer's JSON, None when it has no body or a status of `accept`. Raises DemoError for other refusals."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        return self.send(method, path, None if body is None else json.dumps(body).encode(), headers, accept=accept)

    def send(
        self, method: str, path: str, raw: bytes | None, headers: Mapping[str, str], *, accept: tuple[int, ...] = ()
    ) -> Any:
        """`call` for a body that is bytes already. Asked to slow down, it waits and asks again."""
        given = {**headers, **({"Authorization": f"Bearer {self._token}"} if self._token else {})}
        deadline = time.monotonic() + ASK_AGAIN_SECONDS_MAX
        while True:
            self._connection.request(method, path, raw, given)
            answer = self._connection.getresponse()
            content = answer.read()
            if answer.status != http.HTTPStatus.TOO_MANY_REQUESTS or time.monotonic() > deadline:
                break
            time.sleep(2)
        if answer.status in accept:
            return None
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise DemoError(f"{method} {path}: {answer.status} {content.decode(errors='replace')[:500]}")
        return json.loads(content) if content else None

    def authorise(self, token: str) -> None:
        """Send this access token from now on."""
        self._token = token

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def answers(host: str, port: int) -> bool:
    """Whether a service of ours is ready there."""
    client = http.client.HTTPConnection(host, port, timeout=3)
    try:
        client.request("GET", "/readyz")
        return client.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        client.close()


def end_tidily_when_terminated() -> None:
    """Let SIGTERM unwind the stack like Ctrl-C does, so that what was started is stopped and its folder removed."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


@contextlib.contextmanager
def service() -> Iterator[Service]:
    """The one at HOST:PORT if it answers, else a new one in a temporary data folder, stopped at the end."""
    host, port = os.environ.get("HOST") or "127.0.0.1", int(os.environ.get("PORT") or 8000)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound
    if port and answers(host, port):
        yield Service(host, port, Path(os.environ.get("TANPUHUI_DATA") or "var").resolve(), is_own=False)
        return
    print(f"{host}:{port} 没有服务, 临时启动一个 · nothing answers there; starting a service for the demonstration …")
    with (
        tempfile.TemporaryDirectory(prefix="tanpuhui-demo-", ignore_cleanup_errors=True) as folder,
        _started(Path(folder)) as started,
    ):
        yield started


@contextlib.contextmanager
def _started(folder: Path) -> Iterator[Service]:
    port = free_port()
    # Nothing of the caller's configuration: a demonstration must never reach a database that somebody uses.
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environ |= {
        "TANPUHUI_ENV": "development",
        "TANPUHUI_DATA": str(folder),
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }
    log_path = folder / "serve.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.serve"],
            cwd=REPOSITORY,
            env=environ,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 -- one prctl call, no lock taken
        )
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not answers("127.0.0.1", port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"服务未能启动 · the service did not start:\n{log_path.read_text(errors='replace')}")
            time.sleep(0.2)
        yield Service("127.0.0.1", port, folder, is_own=True)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def verify_ledger(running: Service) -> int | None:
    """Run `flask ledger verify` beside the service; its exit status, None when that is out of reach."""
    found = running.environment()
    if "DATABASE_URL" not in found:
        return None
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "ledger", "verify"]
    sys.stdout.flush()
    environ = {**os.environ, **found, "LOG_LEVEL": "ERROR"}
    return subprocess.run(command, cwd=REPOSITORY, env=environ, check=False).returncode
