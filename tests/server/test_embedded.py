"""The embedded servers keep what was committed, have one owner, and go on after any kind of end."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from server.embedded import (
    SOCKET_PATH_BYTES_MAX,
    EmbeddedError,
    EmbeddedPostgres,
    EmbeddedValkey,
    throwaway_postgres,
    throwaway_valkey,
)

SMALL = {"shared_buffers": "16MB", "max_wal_size": "64MB", "min_wal_size": "32MB", "wal_buffers": "1MB"}


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tanpuhui-test-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder, settings=SMALL)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def ask(server: EmbeddedPostgres, query: str) -> object:
    with psycopg.connect(server.url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return None if row is None else row[0]


def keep_a_row(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_dead(*pids: int, seconds: float = 20) -> list[int]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(is_alive(pid) for pid in pids):
        time.sleep(0.05)
    return [pid for pid in pids if is_alive(pid)]


def test_the_settings_that_make_a_commit_durable_are_on(postgres: EmbeddedPostgres) -> None:
    names = ("fsync", "full_page_writes", "synchronous_commit", "data_checksums")
    assert [ask(postgres, f"SHOW {name}") for name in names] == ["on"] * 4
    assert ask(postgres, "SHOW timezone") == "UTC"
    assert ask(postgres, "SHOW server_encoding") == "UTF8"
    assert ask(postgres, "SHOW listen_addresses") == ""


def test_the_locale_does_not_depend_on_the_system(postgres: EmbeddedPostgres) -> None:
    assert ask(postgres, "SELECT datlocprovider::text || datlocale FROM pg_database WHERE datname = 'tanpuhui'") == (
        "bC.UTF-8"
    )
    assert ask(postgres, "SELECT upper('é')") == "É"


def test_only_the_servers_own_user_may_enter_the_socket_folder(postgres: EmbeddedPostgres) -> None:
    assert postgres.socket_folder.stat().st_mode & 0o077 == 0


def test_a_restart_keeps_the_data_and_the_url(postgres: EmbeddedPostgres) -> None:
    keep_a_row(postgres)
    url = postgres.url

    postgres.restart()

    assert postgres.url == url
    assert ask(postgres, "SELECT number FROM kept") == 7


def test_a_kill_leaves_no_process_and_loses_no_commit(postgres: EmbeddedPostgres) -> None:
    keep_a_row(postgres)
    family = [postgres.pid, *(child.pid for child in psutil.Process(postgres.pid).children(recursive=True))]
    assert len(family) > 3

    postgres.kill()
    assert [pid for pid in family if is_alive(pid)] == []

    postgres.start()
    assert ask(postgres, "SELECT number FROM kept") == 7


def test_a_postmaster_killed_alone_is_followed_by_a_new_one(postgres: EmbeddedPostgres) -> None:
    keep_a_row(postgres)
    os.kill(postgres.pid, signal.SIGKILL)
    wait_until_dead(postgres.pid)
    while postgres.is_running:
        time.sleep(0.01)

    postgres.start()

    assert ask(postgres, "SELECT number FROM kept") == 7


def test_a_stale_pid_file_naming_some_other_program_does_not_stop_the_start(postgres: EmbeddedPostgres) -> None:
    keep_a_row(postgres)
    postgres.kill()
    pid_file = postgres.data_folder / "postmaster.pid"
    owner = pid_file.stat()
    with subprocess.Popen(["/bin/sleep", "60"], user=owner.st_uid) as stranger:
        pid_file.write_text("\n".join([str(stranger.pid), *pid_file.read_text().splitlines()[1:]]) + "\n")

        postgres.start()

        assert ask(postgres, "SELECT number FROM kept") == 7
        assert stranger.poll() is None, "the stranger was harmed"
        stranger.kill()


def test_a_second_server_on_the_same_folder_is_refused_with_the_holders_number(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedError, match=f"in use by process {os.getpid()}"):
        EmbeddedPostgres(postgres.folder, settings=SMALL).start()
    assert ask(postgres, "SELECT 1") == 1


def test_a_first_start_that_was_killed_half_way_is_made_anew(folder: Path) -> None:
    (folder / "data.new").mkdir()
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(folder, settings=SMALL) as server:
        assert ask(server, "SELECT 1") == 1


def test_data_of_another_major_version_is_refused_and_left_alone(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "PG_VERSION").write_text("15\n")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 15"):
        EmbeddedPostgres(folder, settings=SMALL).start()
    assert (folder / "data" / "PG_VERSION").read_text() == "15\n"


@pytest.mark.parametrize("name", ["a" * 120, "blank and 'quote'", "comma,comma", "南开区"])
def test_a_difficult_path_works(folder: Path, name: str) -> None:
    with EmbeddedPostgres(folder / name / "postgres", settings=SMALL | {"fsync": "off"}) as server:
        assert ask(server, "SELECT current_database()") == "tanpuhui"
        assert len(os.fsencode(server.socket_folder)) < SOCKET_PATH_BYTES_MAX


def test_a_bad_setting_is_told_with_the_servers_own_words(folder: Path) -> None:
    with pytest.raises(EmbeddedError, match="shared_buffers"):
        EmbeddedPostgres(folder, settings={"shared_buffers": "much", "fsync": "off"}).start()


def test_settings_given_win() -> None:
    with throwaway_postgres(SMALL | {"fsync": "off"}) as server:
        assert ask(server, "SHOW fsync") == "off"
        folder = server.folder
    assert not folder.exists()


CHILD = """
import sys, time
from pathlib import Path
from server.embedded import EmbeddedPostgres, EmbeddedValkey
folder = Path(sys.argv[1])
postgres = EmbeddedPostgres(folder / "p", settings={"shared_buffers": "16MB", "wal_buffers": "1MB"})
valkey = EmbeddedValkey(folder / "v")
postgres.start()
valkey.start()
print(postgres.pid, valkey.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children of a parent's death on Linux only")
def test_servers_end_when_their_owner_is_killed_hard_and_the_folder_is_free_again(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        owner.kill()
    assert wait_until_dead(*pids) == []
    with EmbeddedPostgres(folder / "p", settings=SMALL) as server:
        assert ask(server, "SELECT 1") == 1


def test_ctrl_c_on_our_process_group_does_not_reach_the_servers(postgres: EmbeddedPostgres) -> None:
    with throwaway_valkey() as valkey:
        assert os.getpgid(postgres.pid) != os.getpgid(0)
        assert os.getpgid(valkey.pid) != os.getpgid(0)


def test_valkey_wants_its_password_and_keeps_to_its_memory() -> None:
    with throwaway_valkey() as server:
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru"
            assert client.config_get("save")["save"] == ""
        with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_valkey_pauses_resumes_dies_and_comes_back_on_the_same_url() -> None:
    with throwaway_valkey() as server:
        url = server.url
        with redis.Redis.from_url(url, socket_timeout=0.2, retry=None) as client:
            client.set("key", "value")

            server.pause()
            with pytest.raises(redis.TimeoutError):
                client.get("key")
            server.resume()
            assert client.get("key") == b"value"

            server.kill()
            with pytest.raises(redis.ConnectionError):
                client.get("key")
            server.restart()
            assert server.url == url
            assert client.get("key") is None


def test_a_paused_valkey_can_be_stopped() -> None:
    with throwaway_valkey() as server:
        server.pause()
        pid = server.pid
    assert not is_alive(pid)


def test_a_second_valkey_on_the_same_folder_is_refused() -> None:
    with throwaway_valkey() as server, pytest.raises(EmbeddedError, match="in use by process"):
        EmbeddedValkey(server.folder).start()
