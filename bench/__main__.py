"""`make bench`: the service measured against what it stands on, as ratios, in one run.

Paired rounds on one machine: absolute figures depend on it, ratios much less. `--short` runs each part once, briefly.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

from bench import breakdown, estimate, exports, feed, figures, participation, settlement, single, standings, wallet
from bench.acts import Acts
from bench.running import end_tidily_when_terminated
from bench.stage import ACT_RESIDENTS, FEED_RESIDENTS, RESIDENTS, Stage, pid_of, stage
from bench.trips import Trips

PARTS = (
    *("feed", "acts", "single", "wallet", "stages"),
    *("standings", "settlement", "participation", "exports", "estimate"),
)
TABLES = ("activity", "transfer", "lot", "cap_usage", "bound_usage", "resident_day", "community_day", "feed_batch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status tells only whether everything ran."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--short", action="store_true", help="each part once and briefly, to see that it runs")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    options = parser.parse_args(arguments)
    end_tidily_when_terminated()
    began = time.perf_counter()
    print(f"准备 · setting up {RESIDENTS:,} bound residents …", flush=True)
    with stage() as on:
        load = Path("/proc/loadavg")
        busy = load.read_text(encoding="ascii").split()[0] if load.exists() else "?"
        print(f"  {time.perf_counter() - began:.1f} s; {on.cores} 核 cores, {busy} 此刻负载 load already")
        run(on, short=options.short, only=options.only)
    print(f"共 total {time.perf_counter() - began:.0f} s")
    return 0


def run(on: Stage, *, short: bool, only: str | None) -> None:
    """All parts, or one."""
    if only in (None, "feed"):
        with part("推送 feed (a): HTTP 全部检查 every check : 同样的语句 the same statements"):
            tell_feed(on, Trips(FEED_RESIDENTS, seed=1), "rides", short=short)
    if only in (None, "acts"):
        with part("推送 feed (b): 出行、投放与称重各计各的限额 rides, drops and weighings, every bound counted"):
            tell_feed(on, Acts(ACT_RESIDENTS, seed=3), "acts", short=short)
    if only in (None, "stages"):
        with part("一批的时间去处 where the time of a batch of 5,000 goes (one process, nothing beside it)"):
            stages = breakdown.measure(on, 500 if short else 5000, 1 if short else 7)
            whole = stages[0][1]
            table = [(name, f"{spent:8.1f} ms", f"{spent / whole:5.0%}") for name, spent in stages]
            tell(*figures.lines_of(table))
    if only in (None, "single"):
        with part("单次计分 one award (b): HTTP : pgbench"):
            meter = figures.Meter.of(on.pids)
            tell(*single.measure(on, rounds=1 if short else 3, seconds=1.0 if short else 3.0, meter=meter).words())
            tell(f"POST trips 时的处理器时间 processor time: {meter.shares()}")
    if only in (None, "wallet"):
        with part("钱包 wallet (c): 读取 read : 空视图 empty view"):
            tell(*wallet.measure(on, rounds=1 if short else 3, seconds=0.5 if short else 2.0).words())
    # The next ones fill the database with many more people, so they come last.
    participants, teams = (2_000, 40) if short else (settlement.PARTICIPANTS, settlement.TEAMS)
    if only in (None, "standings"):
        with part("活动排行 standings (e)"):
            seconds, refreshes = (1.0, 3) if short else (5.0, standings.REFRESHES)
            measured = standings.measure(on, seconds, participants=participants, teams=teams, refreshes=refreshes)
            tell(*measured.words())
    if only in (None, "settlement"):
        with part("活动结算与名单 settlement and lists (f)"):
            tell(*settlement.measure(on, participants=participants, teams=teams).words())
    if only in (None, "participation"):
        with part("参与统计 participation (g)"):
            residents = RESIDENTS + 1_000 if short else participation.ALL_RESIDENTS
            tell(*participation.measure(on, 1.0 if short else 5.0, residents=residents).words())
    if only in (None, "exports"):
        with part("导出 exports (h)"):
            rows = 50_000 if short else exports.ROWS
            tell(*(result.words() for result in exports.measure(on, rows=rows)))
    run_apart(short=short, only=only)
    with part("内存与行数 memory and rows (d)"):
        tell(*memory_lines(on), *row_lines(on))


def run_apart(*, short: bool, only: str | None) -> None:
    """What has a process of its own and takes nothing of the stage."""
    if only in (None, "estimate"):
        with part("比例估计 the share's estimate (i)"):
            persons, replicates = (2_000, 20) if short else (estimate.PERSONS, estimate.REPLICATES)
            tell(*estimate.measure(persons, replicates).words())


def tell_feed(on: Stage, supply: feed.Supply, name: str, *, short: bool) -> None:
    """Push, and tell how fast that was."""
    sizes = [feed.Size(1000, 1)] if short else [feed.Size(5000, 2), feed.Size(1000, 6)]
    results, meter = feed.measure(on, supply, sizes, rounds=1 if short else 5, name=name)
    for result in results:
        tell(*result.lines(), f"  结果 outcomes: {dict(result.outcomes)}")
    # Other work on the machine slows a round down, but hardly changes what an event costs.
    events = sum(result.size.events * len(result.over_http) for result in results)
    each_us = sum(meter.used_s.values()) / events * 1e6
    most = on.cores / each_us * 1e6
    tell(
        f"HTTP 时的处理器时间 processor time: {meter.shares()}",
        f"每条 an event: {each_us:.0f} µs; {on.cores} 核全空闲时至多 at most {most:,.0f} /s on idle cores",
    )


@contextmanager
def part(title: str) -> Iterator[None]:
    """A part of the report."""
    print(f"\n{title}", flush=True)
    began = time.perf_counter()
    yield
    tell(f"[{time.perf_counter() - began:.1f} s]")


def tell(*lines: str) -> None:
    """Lines of a part."""
    for line in lines:
        print(f"  {line}", flush=True)


def memory_lines(on: Stage) -> Iterator[str]:
    """What each web worker and PostgreSQL hold after the load."""
    for name, child in (("web", on.web), ("裸 Flask bare", on.bare_web)):
        for process in figures.family(pid_of(child)):
            if "resource_tracker" in " ".join(process.cmdline()):
                continue
            held = figures.memory(process.pid)
            kind = "supervisor" if process.pid == pid_of(child) else "worker"
            pss = "" if held.pss_mib is None else f", PSS {held.pss_mib:.0f} MiB"
            yield f"{name} {kind}: RSS {held.rss_mib:.0f} MiB{pss}"
    held_by_all = [figures.memory(process.pid).pss_mib for process in figures.family(on.postgres.pid)]
    if None not in held_by_all:
        yield f"PostgreSQL: PSS {sum(each or 0 for each in held_by_all):.0f} MiB"


def row_lines(on: Stage) -> Iterator[str]:
    """Rows and bytes of the tables that an award writes."""
    with psycopg.connect(on.postgres.url) as connection:
        for table in TABLES:
            rows, size = connection.execute(
                f"SELECT (SELECT count(*) FROM {table}), pg_total_relation_size('{table}')"  # noqa: S608 -- constants
            ).fetchone() or (0, 0)
            yield f"{table:<14} {rows:>9,} 行 rows {size / 2**20:>7.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
