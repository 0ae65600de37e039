"""Figures of several rounds, and what the processes used meanwhile."""

import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median and range, such as `14,210 (13,900–14,600)`."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def write_part(file: Path, name: str, lines: Iterable[str]) -> None:
    """Put lines between the marks `<!-- name: begin -->` and `<!-- name: end -->` of a Markdown file."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = file.read_text("utf-8")
    before, after = text.split(begin)[0], text.split(end)[1]
    file.write_text("".join([before, begin, "\n\n", "\n".join(lines), "\n\n", end, after]), "utf-8")


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours ÷ theirs, round by round: the two of a round met the same machine."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def percentile_ms(latencies_s: Sequence[float], share: float) -> float:
    """The latency in milliseconds below which this share of the requests lies."""
    ordered = sorted(latencies_s)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


def latency_words(latencies_s: Sequence[float]) -> str:
    """Median, 99th percentile and number of latencies, in words."""
    p50, p99 = (percentile_ms(latencies_s, share) for share in (0.5, 0.99))
    return f"中位 median {p50:.1f} ms, p99 {p99:.1f} ms ({len(latencies_s):,} 次 requests)"


def family(pid: int) -> list[psutil.Process]:
    """A process and all it started."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its living children, and of its ended ones; of ourselves alone without them."""
    if pid == os.getpid():
        own = psutil.Process(pid).cpu_times()  # the servers are our children, and counted by themselves
        return own.user + own.system
    times = [process.cpu_times() for process in family(pid)]
    return sum(each.user + each.system for each in times) + times[0].children_user + times[0].children_system


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, MiB. PSS counts a page that several share in parts."""

    rss_mib: float
    pss_mib: float | None


def memory(pid: int) -> Memory:
    """What a process holds now; PSS on Linux alone."""
    rss_mib = psutil.Process(pid).memory_info().rss / 2**20
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return Memory(rss_mib, None)
    return Memory(rss_mib, sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024)


@dataclass(slots=True)
class Meter:
    """Processor time of named process families over a stretch of work."""

    pids: dict[str, int]
    used_s: dict[str, float]
    _before: dict[str, float]

    @classmethod
    def of(cls, pids: dict[str, int]) -> "Meter":
        """A meter of these families; nothing used yet."""
        return cls(pids, dict.fromkeys(pids, 0.0), {})

    def __enter__(self) -> "Meter":
        self._before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for name, pid in self.pids.items():
            self.used_s[name] += cpu_seconds(pid) - self._before[name]

    def shares(self) -> str:
        """Each family's part of all the time used."""
        total = sum(self.used_s.values()) or 1.0
        return ", ".join(f"{name} {used / total:.0%}" for name, used in self.used_s.items())


def lines_of(table: Iterable[Sequence[str]]) -> list[str]:
    """Rows of a table, the columns aligned."""
    rows = [list(row) for row in table]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
