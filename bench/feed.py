"""The partner feed over HTTP with every check, against its own statements driven straight into PostgreSQL."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from bench.figures import Meter, ratios, spread
from bench.load import Run, drive, request
from bench.stage import PARTNER, Stage, scratch_copy
from bench.statements import Recording, recorded, run_again
from points.partners.feed import BatchAnswer
from points.partners.signature import sign
from server.database import db

CLIENTS = 2
PATH = f"/api/v1/partners/{PARTNER}/events"


class Pushed(Protocol):
    """What a partner can push."""

    def feed_line(self) -> bytes:
        """The line of a batch."""


class Supply(Protocol):
    """An endless supply of events, none of them twice."""

    def take(self, count: int) -> Sequence[Pushed]:
        """So many."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large the batches are, and how many each client sends in a round."""

    lines: int
    batches: int

    @property
    def events(self) -> int:
        """Events of one round."""
        return CLIENTS * self.batches * self.lines


@dataclass(slots=True)
class Result:
    """Events per second, round by round."""

    size: Size
    over_http: list[float] = field(default_factory=list)
    straight: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """The result in words."""
        name = f"{self.size.lines:,} 条一批 lines a batch"
        return [
            f"{name}: HTTP {spread(self.over_http)} /s; SQL {spread(self.straight)} /s; "
            f"比值 ratio {spread(ratios(self.over_http, self.straight), 2)}",
        ]


def bodies(supply: Supply, size: Size) -> list[list[bytes]]:
    """The batches of one round by client."""
    return [
        [b"\n".join(each.feed_line() for each in supply.take(size.lines)) + b"\n" for _ in range(size.batches)]
        for _ in range(CLIENTS)
    ]


def headers(key: bytes, body: bytes, batch: str) -> dict[str, str]:
    """What a partner sends with a batch at this moment."""
    timestamp = str(int(time.time()))
    return {
        "Content-Type": "application/x-ndjson",
        "X-Tanpuhui-Timestamp": timestamp,
        "X-Tanpuhui-Batch": batch,
        "X-Tanpuhui-Signature": sign(key, timestamp, body),
    }


def statements_of(on: Stage, batches: Sequence[Sequence[bytes]], name: str) -> list[list[Recording]]:
    """What the service runs for these batches, seen on a copy of the database."""
    recordings: list[list[Recording]] = []
    with scratch_copy(on) as app:
        client = app.test_client()
        with app.app_context():
            engine = db.engine
        for number, mine in enumerate(batches):
            recordings.append([])
            for turn, body in enumerate(mine):
                with recorded(engine) as recording:
                    given = headers(on.partner_key, body, f"{name}-{number}-{turn}")
                    answer = client.post(PATH, data=body, headers=given)
                if answer.status_code != 200:
                    raise AssertionError(answer.text[:500])
                recordings[-1].append(recording)
    return recordings


def measure(on: Stage, supply: Supply, sizes: Sequence[Size], rounds: int, name: str) -> tuple[list[Result], Meter]:
    """Rounds of each size, HTTP and SQL in turn; and what the HTTP halves cost whom. `name` tells batches apart."""
    results, meter = [Result(size) for size in sizes], Meter.of(on.pids)
    straight = prepared(on, supply, sizes, rounds, name)
    run_again(on.postgres.url, straight.pop((-1, sizes[0])))
    over_http(on, supply, sizes[0], f"{name}-warm")
    for turn in range(rounds):
        for result in results:
            size = result.size

            def http(turn: int = turn, result: Result = result, size: Size = size) -> None:
                run = over_http(on, supply, size, f"{name}-{size.lines}-{turn}", meter)
                result.over_http.append(size.events / run.seconds)
                result.outcomes += counted(run)

            def sql(turn: int = turn, result: Result = result, size: Size = size) -> None:
                result.straight.append(size.events / run_again(on.postgres.url, straight.pop((turn, size))))

            # Who comes first changes, so that a checkpoint or a warm page favours neither.
            for half in (http, sql) if turn % 2 == 0 else (sql, http):
                half()
    return results, meter


def prepared(
    on: Stage, supply: Supply, sizes: Sequence[Size], rounds: int, name: str
) -> dict[tuple[int, Size], list[list[Recording]]]:
    """The statements of every round to come; round −1 warms up."""
    wanted = [(turn, size) for turn in range(rounds) for size in sizes]
    wanted.insert(0, (-1, sizes[0]))
    batches = [bodies(supply, size) for _, size in wanted]
    clients = [[body for each in batches for body in each[number]] for number in range(CLIENTS)]
    recordings = statements_of(on, clients, f"{name}-sql")
    made, start = {}, 0
    for turn, size in wanted:
        made[turn, size] = [mine[start : start + size.batches] for mine in recordings]
        start += size.batches
    return made


def over_http(on: Stage, supply: Supply, size: Size, name: str, meter: Meter | None = None) -> Run:
    """One round over HTTP."""
    requests = []
    for number, mine in enumerate(bodies(supply, size)):
        signed = [(body, headers(on.partner_key, body, f"{name}-{number}-{turn}")) for turn, body in enumerate(mine)]
        requests.append([request("POST", PATH, given, body) for body, given in signed])
    return drive(on.server, requests, meter=meter)


def counted(run: Run) -> Counter[str]:
    """The outcomes that a round's answers tell."""
    outcomes: Counter[str] = Counter()
    for _, body in run.answers:
        outcomes.update(msgspec.json.decode(body, type=BatchAnswer).counts)
    return outcomes
