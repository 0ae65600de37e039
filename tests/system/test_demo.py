"""The demonstration and the bench run, on real processes, and the demonstration's own proofs can fail."""

import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import msgspec
import pytest

from bench import demo, records
from bench.demo import Tally

TODAY = date(2026, 11, 22)
# Nothing of this process's own configuration; port 0 is nobody's, so that the demonstration starts a service.
ENVIRON = {"PATH": "/usr/bin:/bin", "PORT": "0", "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
MEMBERS = [f"demo-{number:03}" for number in range(1, 343)]


def run(project: Path, tmp_path: Path, module: str, *arguments: str) -> str:
    """Run a module as the Makefile does, with nothing of this process's configuration; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=project,
        env={**ENVIRON, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demonstration_pays_real_records_once_and_proves_the_ledger(project: Path, tmp_path: Path) -> None:
    printed = run(project, tmp_path, "bench.demo")

    first, second = re.findall(r"积分 points: ([0-9,]+)", printed)
    assert int(first.replace(",", "")) > 10_000
    assert second == "0"
    assert re.search(r"10,0\d\d +duplicate", printed)
    assert "proved in" in printed


def test_a_demonstration_that_is_terminated_stops_the_service_that_it_started(project: Path, tmp_path: Path) -> None:
    environ = {**ENVIRON, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "bench.demo"], cwd=project, env=environ, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    port = next(int(found[1]) for line in process.stdout if (found := re.search(r"service: http://[^:]+:(\d+)", line)))

    process.terminate()
    process.stdout.read()

    assert process.wait(120) == 128 + signal.SIGTERM
    process.stdout.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert list(tmp_path.glob("tanpuhui-demo-*")) == []


def test_the_short_bench_runs_and_prints_every_ratio(project: Path, tmp_path: Path) -> None:
    printed = run(project, tmp_path, "bench", "--short")

    assert len(re.findall(r"比值 ratio [0-9.]+ \(", printed)) == 7
    assert "whole request" in printed
    assert "POST trips" in printed


def test_every_record_lands_in_the_last_seven_days_on_its_own_weekday() -> None:
    for back in range(400):
        day = TODAY - timedelta(days=3000 + back)
        found = records.moved(day, TODAY)
        assert 1 <= (TODAY - found).days <= 7
        assert found.weekday() == day.weekday()


def test_the_same_day_gives_the_same_events_and_another_day_others() -> None:
    today, again = records.bin_drops(MEMBERS, TODAY), records.bin_drops(MEMBERS, TODAY)
    tomorrow = records.bin_drops(MEMBERS, TODAY + timedelta(days=1))

    assert today == again
    assert len(today) == 10_000
    assert {event_id(record) for record in today}.isdisjoint(event_id(record) for record in tomorrow)


def test_rides_keep_their_order_and_nobody_rides_without_a_distance() -> None:
    rides, unmeasured = records.rides(MEMBERS, TODAY)

    assert (len(rides), unmeasured) == (78, 10)
    assert {ride.partner for ride in rides} == {"metro-sample", "bus-sample"}
    assert all(msgspec.json.decode(ride.line)["distance_m"] > 0 for ride in rides)


def test_weights_above_the_rule_are_not_sent() -> None:
    weights = [msgspec.json.decode(record.line).get("weight_g") for record in records.bin_drops(MEMBERS, TODAY)]

    assert weights.count(None) == 799  # 797 above 30 kg, and two of nothing
    assert max(weight for weight in weights if weight) <= records.WEIGHT_G_MAX


@pytest.mark.parametrize(
    ("second", "credited_first", "credited_second"),
    [
        (Tally(lines=10, points=5), 50, 5),  # paid twice, and said so
        (Tally(lines=10, points=0), 50, 5),  # paid twice, and said nothing
        (Tally(lines=10, outcomes=Counter({("awarded", ""): 1})), 50, 0),  # awarded again, under the cap's cover
        (Tally(lines=9), 50, 0),  # an event was lost
        (Tally(lines=10), 49, 0),  # a wallet lost a point
    ],
)
def test_the_demonstration_fails_when_something_is_paid_twice_or_lost(
    second: Tally, credited_first: int, credited_second: int
) -> None:
    first = Tally(lines=10, points=50)

    assert demo.judge(first, second, credited_first, credited_second) != []
    assert demo.judge(first, Tally(lines=10), 50, 0) == []


def event_id(record: records.Record) -> str:
    """The id that a record's event carries."""
    return str(msgspec.json.decode(record.line)["id"])
