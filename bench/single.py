"""One award over HTTP, against pgbench running the statements that it runs."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from flask import Flask

from bench.feed import headers as feed_headers
from bench.figures import Meter, percentile_ms, ratios, spread
from bench.load import Run, drive, request
from bench.stage import (
    FIRST_NUMBER,
    NUMBER_STEP,
    PARTNER,
    PGBENCH_RESIDENTS,
    RESIDENT_PREFIX,
    SIGN_IN_PREFIX,
    SINGLE_RESIDENTS,
    SUFFIX,
    Stage,
    resident_id,
    scratch_copy,
    sign_in_id,
)
from bench.statements import Recording, recorded
from bench.trips import DAYS, Trip, Trips
from server import embedded
from server.database import APPLICATION_ROLE, db
from server.people.models import Resident

CLIENTS = 8
TRIPS_PATH = "/api/v1/me/activities/trips"
MODEL = PGBENCH_RESIDENTS[0]
MODEL_CLIENT_ID = "model-client-0001"


@dataclass(slots=True)
class Result:
    """Awards per second, round by round."""

    trips: list[float] = field(default_factory=list)
    lines: list[float] = field(default_factory=list)
    pgbench: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    def words(self) -> list[str]:
        """The result in words."""
        p50, p99 = (percentile_ms(self.latencies_s, share) for share in (0.5, 0.99))
        return [
            f"手动记录 POST trips: {spread(self.trips)} /s, 中位 median {p50:.1f} ms, p99 {p99:.1f} ms; "
            f"比值 ratio {spread(ratios(self.trips, self.pgbench), 2)}",
            f"单行推送 one-line feed: {spread(self.lines)} /s; "
            f"比值 ratio {spread(ratios(self.lines, self.pgbench), 2)}",
            f"pgbench, POST trips 的语句 the statements of POST trips: {spread(self.pgbench)} /s",
        ]


def measure(on: Stage, rounds: int, seconds: float, meter: Meter) -> Result:
    """Rounds of all three in turn, with the same number of clients; `meter` runs while rides are recorded."""
    result = Result()
    trips = Trips(SINGLE_RESIDENTS, seed=2)
    tokens: dict[int, str] = {}
    with tempfile.TemporaryDirectory(prefix="tanpuhui-pgbench-") as folder:
        Path(folder).chmod(0o755)
        scripts = []
        for number, text in enumerate(award_scripts(on)):
            scripts.append(Path(folder) / f"award-{number}.sql")
            scripts[-1].write_text(text, encoding="utf-8")
        for turn in range(-1, rounds):
            length = seconds if turn >= 0 else 0.5
            own = own_trips(on, trips, tokens, length, meter)
            lines = one_line_feeds(on, trips, length, f"one-{turn}")
            per_second = pgbench(on, scripts, length)
            check_paid(own, b'"outcome":"awarded"')
            check_paid(lines, b'"counts":{"awarded":1}')
            if turn < 0:
                continue
            result.trips.append(own.per_second)
            result.latencies_s += own.latencies_s
            result.lines.append(lines.per_second)
            result.pgbench.append(per_second)
    return result


def check_paid(run: Run, mark: bytes) -> None:
    """Raise AssertionError when an answer paid nothing: it was quick, and would flatter the figure."""
    unpaid = [body for _, body in run.answers if mark not in body]
    if unpaid:
        raise AssertionError(f"{len(unpaid)} of {len(run.answers)} were not awarded: {unpaid[0]!r}")


def own_trips(on: Stage, trips: Trips, tokens: dict[int, str], seconds: float, meter: Meter) -> Run:
    """Rides recorded by hand for some seconds, each by another resident."""
    clients = []
    for _ in range(CLIENTS):
        mine = trips.take(int(seconds * 400) + 50)
        for trip in mine:
            if trip.resident not in tokens:
                tokens[trip.resident] = on.token(trip.resident)
        clients.append([_own_trip(trip, tokens[trip.resident]) for trip in mine])
    return drive(on.server, clients, seconds=seconds, meter=meter)


def _own_trip(trip: Trip, token: str) -> bytes:
    given = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    return request("POST", TRIPS_PATH, given, trip.own_record())


def one_line_feeds(on: Stage, trips: Trips, seconds: float, name: str) -> Run:
    """Batches of a single line for some seconds. Each client is a partner: one may send 1,200 batches a minute."""

    def client(number: int) -> Iterator[bytes]:
        path = f"/api/v1/partners/{PARTNER}-{number}/events"
        for turn, trip in enumerate(trips.take(int(seconds * 400) + 50)):
            body = trip.feed_line() + b"\n"
            yield request("POST", path, feed_headers(on.partner_key, body, f"{name}-{turn}"), body)

    return drive(on.server, [list(client(number)) for number in range(CLIENTS)], seconds=seconds)


def award_scripts(on: Stage) -> list[str]:
    """What POST trips runs, actor look-up to COMMIT, as pgbench scripts: one for each business day of the rides."""
    trips = Trips([MODEL], seed=9).take(DAYS)
    with scratch_copy(on) as app:
        return [_script(_recorded_award(on, app, trip), app) for trip in trips]


def _recorded_award(on: Stage, app: Flask, trip: Trip) -> Recording:
    client = app.test_client()
    body = {**json.loads(trip.own_record()), "client_id": MODEL_CLIENT_ID + str(trip.number)}
    with app.app_context():
        engine = db.engine
    given = {"Authorization": f"Bearer {on.token(MODEL)}"}
    with recorded(engine) as recording:
        answer = client.post(TRIPS_PATH, json=body, headers=given)
    if answer.status_code != 201 or answer.get_json()["points"] < 1:
        raise AssertionError(answer.text[:500])
    return recording


# What makes each run of the script another award: resident, id, times. Points and grams stay the model's.
SETTINGS = f"""\
\\set number random({PGBENCH_RESIDENTS[0]}, {PGBENCH_RESIDENTS[-1]})
\\set resident {FIRST_NUMBER} + :number * {NUMBER_STEP}
\\set external random(1, 9000000000000000)
\\set from_hour random(10, 20)
\\set to_hour :from_hour + 1
\\set minute random(10, 59)
"""


def _script(recording: Recording, app: Flask) -> str:
    with app.app_context():
        home = db.session.get(Resident, UUID(resident_id(MODEL)))
        community = home.community_code if home else ""
        db.session.remove()
    lines = [SETTINGS]
    for statements in recording.transactions:
        lines.append("BEGIN;")
        for statement, parameters in statements:
            text = _varied(_literal_sql(statement, parameters), community or "")
            # The home community is read by this very request, and written into the next statements.
            is_home = re.match(r"\s*SELECT resident_id, community_code\s+FROM resident\b", text)
            lines.append(text + ("\n\\gset home_" if is_home else ";"))
        lines.append("COMMIT;")
    if not any("\\gset" in line for line in lines):
        raise AssertionError("the award reads the home community no more; mend the bench")
    return "\n".join(lines) + "\n"


def _literal_sql(statement: str, parameters: Mapping[str, Any] | tuple[()]) -> str:
    if not parameters:
        return statement
    values = dict(parameters)
    text = re.sub(r"%\((\w+)\)s", lambda found: _literal(values[found[1]]), statement)
    return text.replace("%%", "%")


def _literal(value: Any) -> str:
    if value is None or isinstance(value, bool | int):
        return {None: "NULL", True: "true", False: "false"}.get(value, str(value))
    if isinstance(value, list):
        return f"ARRAY[{', '.join(_literal(each) for each in value)}]"
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    kinds = {UUID: "::uuid", datetime: "::timestamptz", date: "::date"}
    quoted = str(value).replace("'", "''").replace('":', '": ')  # or pgbench takes :null for a variable of its own
    return f"('{quoted}'){kinds.get(type(value), '')}"


def _varied(text: str, community: str) -> str:
    """The model's own values replaced by the script's variables, inside the quoted literals that hold them."""
    changes = [
        (re.escape(resident_id(MODEL)), f"{RESIDENT_PREFIX}' || :resident::text || '{SUFFIX}"),
        (re.escape(sign_in_id(MODEL)), f"{SIGN_IN_PREFIX}' || :resident::text || '{SUFFIX}"),
        (r'(?<="id": ")[0-9a-f-]{36}', "' || uuidv7()::text || '"),
        (re.escape(MODEL_CLIENT_ID) + r"\d+", "' || :external::text || '"),
        (r'("started_at": "[0-9-]+T)[^"]+', r"\1' || :from_hour::text || ':' || :minute::text || ':00+08:00"),
        (r'("ended_at": "[0-9-]+T)[^"]+', r"\1' || :to_hour::text || ':' || :minute::text || ':00+08:00"),
        (rf'(?<="community_code": "){community}', "' || :home_community_code::text || '"),
    ]
    for pattern, replacement in changes:
        text = re.sub(pattern, replacement, text)
    return text


def pgbench(on: Stage, scripts: Sequence[Path], seconds: float) -> float:
    """Transactions per second of the scripts, with prepared statements as psycopg has them and as many clients."""
    command = [str(embedded._postgres_binaries() / "pgbench"), "-n", "-M", "prepared"]
    command += ["-c", str(CLIENTS), "-j", "2", "-T", str(max(1, round(seconds)))]
    command += [part for script in scripts for part in ("-f", str(script))]
    command += ["-h", str(on.postgres.socket_folder), "-U", "postgres", "tanpuhui"]
    environ = {"PATH": os.environ.get("PATH", os.defpath), "PGOPTIONS": f"-c role={APPLICATION_ROLE} -c timezone=UTC"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    if done.returncode != 0 or found is None:
        raise AssertionError(f"pgbench: {done.stderr[-2000:]}")
    return float(found[1])
