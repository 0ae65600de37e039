"""Where the time of one feed batch goes, stage by stage, in one process that nobody else keeps waiting."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from flask import Flask

from bench.feed import PATH, headers
from bench.stage import FEED_RESIDENTS, PARTNER, Stage, scratch_copy
from bench.trips import Trips
from points.earning import pricing
from points.partners import events, feed, signature
from points.partners.models import Partner
from server.clock import now
from server.database import db

STATEMENTS = (
    ("JOIN binding", "SQL 查绑定与社区 bindings and homes"),
    ("INSERT INTO activity", "SQL 记账 award: activity, caps, transfer, lot, day"),
    ("INSERT INTO community_day", "SQL 社区计数 community_day"),
    ("INSERT INTO partner_day", "SQL 额度 partner budget"),
    ("INSERT INTO feed_batch", "SQL 存应答 store the answer"),
)


class Clock:
    """Milliseconds by stage, one list entry for each batch."""

    def __init__(self) -> None:
        self.stages: dict[str, list[float]] = defaultdict(list)
        self._batch: dict[str, float] = defaultdict(float)

    def add(self, name: str, seconds: float) -> None:
        """Count towards the batch that is under way."""
        self._batch[name] += seconds * 1000

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Run and count."""
        began = time.perf_counter()
        found = work()
        self.add(name, time.perf_counter() - began)
        return found

    def end_batch(self) -> None:
        """The batch is over."""
        for name, milliseconds in self._batch.items():
            self.stages[name].append(milliseconds)
        self._batch.clear()


def measure(on: Stage, lines: int, batches: int) -> list[tuple[str, float]]:
    """Stage and its median milliseconds, the whole request first. The first two batches warm up."""
    trips, clock = Trips(FEED_RESIDENTS, seed=5, second_half=True), Clock()
    with scratch_copy(on) as app:
        _time_statements(app, clock)
        client = app.test_client()
        for turn in range(batches + 2):
            if turn == 2:
                clock.stages.clear()
            body = b"\n".join(trip.feed_line() for trip in trips.take(lines)) + b"\n"
            given = headers(on.partner_key, body, f"stages-{turn}")
            _time_python(app, clock, body, given)
            answer = clock.timed(
                "整批 whole request", lambda body=body, given=given: client.post(PATH, data=body, headers=given)
            )
            if answer.status_code != 200 or answer.get_json()["counts"] != {"awarded": lines}:
                raise AssertionError(answer.text[:300])
            clock.timed("Python: 编码应答 encode the answer", lambda answer=answer: _encode_again(answer.data))
            clock.end_batch()
    found = [(name, statistics.median(values)) for name, values in clock.stages.items()]
    whole = dict(found).pop("整批 whole request")
    parts = sorted((each for each in found if each[0] != "整批 whole request"), key=lambda each: -each[1])
    rest = whole - sum(milliseconds for _, milliseconds in parts)
    return [("整批 whole request", whole), *parts, ("其余 rest: Flask, ORM, rows to and from Python", rest)]


def _time_statements(app: Flask, clock: Clock) -> None:
    with app.app_context():
        engine = db.engine
    began: list[float] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def before(*_: Any) -> None:
        began.append(time.perf_counter())

    @sa.event.listens_for(engine, "after_cursor_execute")
    def after(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        name = next((name for part, name in STATEMENTS if part in statement), "SQL 其他 others")
        clock.add(name, time.perf_counter() - began.pop())

    plain = engine.dialect.do_commit

    def commit(connection: Any) -> None:
        clock.timed("SQL 提交 COMMIT", lambda: plain(connection))

    engine.dialect.do_commit = commit  # type: ignore[method-assign]


def _time_python(app: Flask, clock: Clock, body: bytes, given: dict[str, str]) -> None:
    """The pure parts, run once more beside the request, which has no clocks inside."""
    instant = now()
    data_key = app.extensions["tanpuhui_settings"].data_key
    with app.app_context():
        session = db.session()
        partner = session.get_one(Partner, PARTNER)
        tariffs = pricing.current(session)
        db.session.remove()
    stamp, signed = given["X-Tanpuhui-Timestamp"], given["X-Tanpuhui-Signature"]
    clock.timed("Python: 验签 verify", lambda: signature.check(partner, data_key, stamp, signed, body, now=instant))
    lines = clock.timed("Python: 解析 parse", lambda: feed.read_lines(body, partner.kinds))
    rows = clock.timed("Python: 计价 price", lambda: _priced(lines, tariffs, instant))
    clock.timed("Python: 编码行 encode the rows", lambda: msgspec.json.encode(rows).decode())


def _priced(lines: Sequence[Any], tariffs: pricing.Tariffs, instant: Any) -> list[pricing.Priced]:
    someone = msgspec.convert("01900000-0000-7000-8000-100000000000", events.UUID)
    claims = (events.claim_of(line.event, someone, PARTNER, instant) for line in lines)
    return [pricing.price(tariffs, claim, n, now=instant) for n, claim in enumerate(claims)]


def _encode_again(answer: bytes) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(answer, type=feed.BatchAnswer))
