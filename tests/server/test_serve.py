"""`make run` starts everything in order, tells what is wrong, and leaves no process behind however it ends."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from server.embedded import free_port
from server.serve import REPOSITORY, Restarts

START_SECONDS_MAX = 120
STOP_SECONDS_MAX = 60
# What the tests' own machine may have set would decide what is started.
LEFT_OUT = ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "WECHAT_APPID", "WECHAT_SECRET", "WECHAT_BASE_URL")


@dataclass
class Run:
    """One `python -m server.serve` in a group of its own, as a terminal would start it."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int

    @property
    def output(self) -> str:
        return (self.folder / "terminal.txt").read_text(encoding="utf-8")

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, *words: str) -> psutil.Process:
        """The direct child whose command line has all the words."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if all(word in " ".join(child.cmdline()) for word in words))


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that can still act; the dead may wait long for init to bury them."""
    return [process for process in processes if process.is_running() and status(process) != psutil.STATUS_ZOMBIE]


def status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_ZOMBIE


def wait_until_dead(processes: list[psutil.Process], seconds: float = STOP_SECONDS_MAX) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while alive(processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive(processes)


@contextmanager
def serving(folder: Path, port: int | None = None, **environ: str) -> Iterator[Run]:
    port = port or free_port()
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    settings = {"TANPUHUI_ENV": "development", "TANPUHUI_DATA": str(folder), "PORT": str(port), "WEB_WORKERS": "1"}
    with (folder / "terminal.txt").open("wb") as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.serve"],
            cwd=REPOSITORY,
            env={**kept, **settings, **environ},
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Run(process, folder, port)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def prepared() -> Iterator[Path]:
    """A data folder that one run has prepared, so that the tests after it start fast."""
    path = Path(tempfile.mkdtemp(prefix="tanpuhui-test-"))
    with serving(path) as run:
        run.wait_for("Serving at")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_every_process(prepared: Path, number: signal.Signals) -> None:
    with serving(prepared) as run:
        run.wait_for("Serving at")
        with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/readyz", timeout=10) as answer:
            assert answer.status == 200
        family = run.family()
        assert len(family) > 8, "PostgreSQL's processes, Valkey, the stand-in, the worker and the web server"

        # To the whole group, as a terminal does: only this process may hear it.
        os.killpg(run.process.pid, number)

        assert run.process.wait(STOP_SECONDS_MAX) == 0, run.output
        assert alive(family) == []
        assert "Stopped." in run.output
        assert "is killed" not in run.output
    assert not (prepared / "postgres" / "data" / "postmaster.pid").exists(), "PostgreSQL was shut down in order"


def test_a_signal_during_the_preparation_stops_every_process(prepared: Path) -> None:
    with serving(prepared) as run:
        run.wait_for("database schema, ")
        family = run.family()
        run.process.send_signal(signal.SIGINT)
        assert run.process.wait(STOP_SECONDS_MAX) == 0, run.output
        assert alive(family) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children of a parent's death on Linux only")
def test_a_hard_kill_leaves_no_process_and_the_next_run_goes_on(prepared: Path) -> None:
    with serving(prepared) as run:
        run.wait_for("Serving at")
        family = run.family()
        run.process.kill()
        run.process.wait()
        assert wait_until_dead(family) == []
    with serving(prepared) as run:
        run.wait_for("Serving at")


def test_a_worker_or_a_cache_that_dies_is_started_again(prepared: Path) -> None:
    with serving(prepared) as run:
        run.wait_for("Serving at")
        run.child("flask", "worker").kill()
        run.wait_for("worker ended and is started again")
        run.child("valkey-server").kill()
        run.wait_for("Valkey ended and is started again")
        time.sleep(2)
        assert run.child("flask", "worker").is_running()
        assert run.child("valkey").is_running()


def test_the_end_of_the_web_server_ends_all_and_is_told(prepared: Path) -> None:
    with serving(prepared) as run:
        run.wait_for("Serving at")
        family = run.family()
        run.child("granian").kill()
        assert run.process.wait(STOP_SECONDS_MAX) == 1
        assert "The web server ended" in run.output
        assert alive(family) == []


def test_a_second_run_on_the_same_folder_is_refused_and_harms_nothing(prepared: Path, tmp_path: Path) -> None:
    with serving(prepared) as first:
        first.wait_for("Serving at")
        with serving(tmp_path, TANPUHUI_DATA=str(prepared)) as second:
            assert second.process.wait(START_SECONDS_MAX) == 1
            assert f"in use by process {first.process.pid}" in second.output
        with urllib.request.urlopen(f"http://127.0.0.1:{first.port}/readyz", timeout=10) as answer:
            assert answer.status == 200


def test_a_taken_port_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(tmp_path, port=port) as run:
            assert run.process.wait(START_SECONDS_MAX) == 1
            assert f"Cannot listen on 127.0.0.1:{port}" in run.output
    assert not (tmp_path / "postgres").exists()


def test_production_makes_no_secrets_and_names_all_that_is_missing(tmp_path: Path) -> None:
    with serving(tmp_path, TANPUHUI_ENV="production", TANPUHUI_SECRET_KEY="", TANPUHUI_DATA_KEY="") as run:
        assert run.process.wait(START_SECONDS_MAX) == 1
        for name in ("TANPUHUI_SECRET_KEY", "TANPUHUI_DATA_KEY", "WECHAT_APPID", "WECHAT_SECRET"):
            assert name in run.output
    assert not (tmp_path / "secrets.env").exists()
    assert not (tmp_path / "postgres").exists()


def test_secrets_are_made_once_and_readable_by_their_owner_alone(prepared: Path) -> None:
    path = prepared / "secrets.env"
    before = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    with serving(prepared) as run:
        run.wait_for("PostgreSQL …")
    assert path.read_text() == before


def test_restarts_are_bounded_and_each_waits_longer() -> None:
    restarts = Restarts()
    pauses = []
    for _ in range(5):
        assert restarts.allow()
        pauses.append(restarts.pause_seconds)
    assert pauses == sorted(set(pauses))
    assert not restarts.allow()
