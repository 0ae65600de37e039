"""Load over kept connections with requests that were made beforehand, so that the client costs next to nothing."""

import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

SECONDS_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Server:
    """Where to send."""

    host: str
    port: int


@dataclass(slots=True)
class Run:
    """What one run of load brought."""

    seconds: float
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Answered requests per second."""
        return len(self.latencies_s) / self.seconds


class Connection:
    """One kept connection."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.create_connection((server.host, server.port), timeout=SECONDS_MAX)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; status and body of the answer."""
        self._socket.sendall(request)
        head = b""
        while (end := head.find(b"\r\n\r\n")) < 0:
            head += self._received()
        length = int(head[: end + 2].lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        parts, left = [head[end + 4 :]], length - len(head) + end + 4
        while left > 0:
            parts.append(self._received())
            left -= len(parts[-1])
        return int(head[9:12]), b"".join(parts)

    def _received(self) -> bytes:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def close(self) -> None:
        """End it."""
        self._socket.close()


def request(method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: bench",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def drive(
    server: Server,
    requests: Sequence[Iterable[bytes]],
    *,
    seconds: float = SECONDS_MAX,
    meter: AbstractContextManager[object] | None = None,
) -> Run:
    """Send each client's requests over a connection of its own until they or the seconds run out; `meter` runs along.

    Raises AssertionError at the first answer that is no success: a refusal is quick and would flatter the figure.
    """
    run, lock, barrier = Run(0.0), threading.Lock(), threading.Barrier(len(requests) + 1)
    failures: list[BaseException] = []

    def client(mine: Iterator[bytes]) -> None:
        answers, latencies = [], []
        try:
            connection = Connection(server)
            barrier.wait()
            until = time.perf_counter() + seconds
            for each in mine:
                began = time.perf_counter()
                if began > until:
                    break
                answer = connection.exchange(each)
                latencies.append(time.perf_counter() - began)
                if answer[0] >= 300:
                    raise AssertionError(f"{answer[0]}: {answer[1][:300]!r}")
                answers.append(answer)
            connection.close()
        except BaseException as error:  # noqa: BLE001 -- told by the thread that waits for this one
            failures.append(error)
            barrier.abort()
        with lock:
            run.answers += answers
            run.latencies_s += latencies

    threads = [threading.Thread(target=client, args=(iter(each),)) for each in requests]
    for thread in threads:
        thread.start()
    with meter or nullcontext():
        try:
            barrier.wait()
        except threading.BrokenBarrierError:
            raise failures[0] from None
        began = time.perf_counter()
        for thread in threads:
            thread.join()
        run.seconds = time.perf_counter() - began
    if failures:
        raise failures[0]
    return run
