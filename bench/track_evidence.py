"""`make track-evidence`: what the checks of tracks let through and what they refuse, measured on real tracks.

Writes docs/track-evidence.md. All of it but the cost, and the part on data that may not be handed out, comes from
tests/points/data/track_pieces.csv.gz, and a test compares it. The pieces hold no place: metres from each piece's first
fix, turned by a random angle, and seconds from its start.

    python -m bench.track_evidence                      write the report anew
    python -m bench.track_evidence --originals FOLDER   make the pieces anew from the original files, and measure the
                                                        tracks of GoTrack, which may not be copied
"""
# ruff: noqa: E501 -- the long lines are those of a document

import argparse
import csv
import gzip
import io
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from points.statistics import intervals
from points.travel import alike, checks, evidence, fixes, motion
from points.travel.checks import Checks
from points.travel.fixes import RawFix
from points.travel.models import TrackMode
from points.travel.motion import METRES_PER_DEGREE, Fix
from server.clock import SHANGHAI
from server.places.positions import Datum
from server.settings import PLACES_DATA

ROOT = Path(__file__).parent.parent
PIECES = ROOT / "tests" / "points" / "data" / "track_pieces.csv.gz"
REPORT = ROOT / "docs" / "track-evidence.md"
FOLDER = PLACES_DATA / "nankai"

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=SHANGHAI)
LATITUDE, LONGITUDE = 39.118, 117.152
PIECE_S_MIN, PIECE_M_MIN = 120, 100
COPIED_S_MIN, COPIED_M_MIN = 200, 300  # a shorter walk earns nothing
CUT_S, CUT_EVERY_S = 360, 120
THINNED_S = (1, 5, 15, 60)
CARS, WALKS, RIDES = ("car", "motorised"), ("walk", "walk-guessed"), ("bicycle",)
SEPARATE = re.compile(r"(<!-- ([a-z]+): measured apart -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some minutes of one person's way in one mode. `label` is who or what named the mode: see the report."""

    source: str
    name: str
    label: str
    fixes: list[Fix]


def pieces(path: Path = PIECES) -> list[Piece]:
    """The committed pieces."""
    found: dict[tuple[str, str, str], list[Fix]] = {}
    with gzip.open(path, "rt", encoding="ascii", newline="") as lines:
        for row in csv.DictReader(lines):
            fix = Fix(float(row["t_s"]), float(row["east_m"]), float(row["north_m"]), float(row["accuracy_m"]))
            found.setdefault((row["source"], row["piece"], row["label"]), []).append(fix)
    return [Piece(*key, fixes) for key, fixes in found.items()]


# What becomes of a piece


def verdict(sent: Sequence[Fix], mode: TrackMode, edition: Checks) -> str:
    """`clear`, `held` or the reason of the refusal, for a claim of this mode at noon."""
    figures = motion.figures(sent, mode, edition)
    found = motion.judge(figures, mode, edition, mocked=False, started_at=NOON, ended_at=NOON)
    return "clear" if found is None else "held" if found.held else found.reason.value


@dataclass(frozen=True, slots=True)
class Tally:
    """How many pieces came to what."""

    counts: Counter[str]

    @classmethod
    def of(cls, verdicts: Iterator[str]) -> "Tally":
        """Counted."""
        return cls(Counter(verdicts))

    @property
    def judged(self) -> int:
        """Pieces long enough to be judged."""
        return self.counts.total() - self.counts["track-too-short"]

    @property
    def refused(self) -> int:
        """Refused for another reason than being too short."""
        return self.judged - self.counts["clear"] - self.counts["held"]

    def cells(self) -> str:
        """Of a table's row."""
        reasons = ", ".join(
            f"{name} {count}"
            for name, count in sorted(self.counts.items())
            if name not in ("clear", "held", "track-too-short")
        )
        short, clear, held = (self.counts[name] for name in ("track-too-short", "clear", "held"))
        return f"{self.counts.total()} | {short} | {clear} | {held} | {self.refused} | {reasons or '–'}"


def share(part: int, whole: int) -> str:
    """A share with its 95 % interval after Wilson."""
    found = intervals.share(part, whole)
    return "–" if found is None else f"{part}/{whole} = {found.value:.1%} ({found.low:.1%}–{found.high:.1%})"


# What is done to a piece


def thin(sent: Sequence[Fix], seconds: float) -> list[Fix]:
    """Fixes at least so far apart in time."""
    kept: list[Fix] = []
    for fix in sent:
        if not kept or fix.at_s - kept[-1].at_s >= seconds:
            kept.append(fix)
    return kept


def noisy(sent: Sequence[Fix], metres: float, seed: int = 1) -> list[Fix]:
    """Independent noise of this standard deviation on each fix, east and north."""
    chance = random.Random(seed)
    return [
        fix._replace(east_m=fix.east_m + chance.gauss(0, metres), north_m=fix.north_m + chance.gauss(0, metres))
        for fix in sent
    ]


def torn(sent: Sequence[Fix], seconds: float) -> list[Fix]:
    """Without the fixes of so many seconds in the middle."""
    middle = (sent[0].at_s + sent[-1].at_s) / 2
    return [fix for fix in sent if abs(fix.at_s - middle) > seconds / 2]


def cut(piece: Piece) -> Iterator[list[Fix]]:
    """Parts of six minutes, a new one every two; a shorter piece as it is."""
    sent = piece.fixes
    if sent[-1].at_s - sent[0].at_s <= CUT_S:
        yield sent
        return
    begin = sent[0].at_s
    while begin + CUT_S <= sent[-1].at_s + 1:
        part = [fix for fix in sent if begin <= fix.at_s <= begin + CUT_S]
        if len(part) > 3:
            yield part
        begin += CUT_EVERY_S


def drawn(mps: float, every_s: int, metres: float, seed: int) -> list[Fix]:
    """Twenty minutes of a straight line at one speed, with independent noise."""
    line = [Fix(t, 0.6 * mps * t, 0.8 * mps * t, 8.0) for t in range(0, 1200, every_s)]
    return noisy(line, metres, seed)


def raw(sent: Sequence[Fix], *, later_s: float = 0.0) -> list[RawFix]:
    """As a phone would send it, somewhere in the district."""
    east = METRES_PER_DEGREE * math.cos(math.radians(LATITUDE))
    return [
        RawFix(
            round((NOON.timestamp() + fix.at_s + later_s) * 1000),
            LATITUDE + fix.north_m / METRES_PER_DEGREE,
            LONGITUDE + fix.east_m / east,
            fix.accuracy_m,
            False,
        )
        for fix in sent
    ]


@dataclass(frozen=True, slots=True)
class Known:
    """A track as later ones are compared with it."""

    sketch: alike.Sketch | None
    marks: frozenset[int]

    @classmethod
    def of(cls, sent: Sequence[Fix], edition: Checks, *, later_s: float = 0.0) -> "Known":
        """Sketched and marked."""
        made = alike.sketch_of(raw(sent, later_s=later_s), Datum.WGS_84, accuracy_max_m=edition.accuracy_max_m)
        return cls(made, frozenset(alike.marks_of(made, b"key of the measurement") if made else ()))

    def meets(self, old: "Known") -> bool:
        """Whether the search would compare the two at all."""
        return alike.worth_comparing(self.marks, old.marks)

    def copies(self, old: "Known", edition: Checks) -> bool:
        """Whether this is refused as a copy of the other."""
        if self.sketch is None or old.sketch is None or not self.meets(old):
            return False
        return evidence.copy_finding(self.sketch, old.sketch, edition) == evidence.REPEATED


# The report


def report(everything: Sequence[Piece], edition: Checks) -> str:
    """The whole document, its parts that are measured apart left empty."""
    parts = [
        _head(edition),
        _labelled(everything, edition),
        _aims(everything, edition),
        _thinned(everything, edition),
        _disturbed(everything, edition),
        _spoofed(edition),
        _copies(everything, edition),
        _apart("cost", "## 7. 费用 · Cost\n"),
        _apart("gotrack", "## 8. 不能公开分发的数据 · Data that may not be handed out\n"),
        _limits(),
    ]
    return "\n".join(parts)


def _apart(name: str, heading: str) -> str:
    return f"{heading}\n<!-- {name}: measured apart -->\n<!-- end -->\n"


def _head(edition: Checks) -> str:
    return f"""# 轨迹证据实测 · Tracks as evidence, measured

阈值版本 `{edition.id}`。本文除第7、8节外由 `python -m bench.track_evidence` 从仓库内的数据生成, 并由测试逐字核对。
Edition of the thresholds: `{edition.id}` (`server/places/data/nankai/tracks-2026.toml`). All but sections 7 and 8 is made from data in the repository, and a test compares it word by word.

| 来源 source | 标签 who named the mode |
|---|---|
| `goal` Amazon GOAL (CC BY 4.0), a fix every 5 s | 数据集自己的标签 the data set: on foot or in a car |
| `aalto` Aalto University TrafficSense (CC BY 4.0), a fix every 10 s or so | 出行者日志 a log kept by the traveller; `walk-guessed`: 手机的判断 the phone's own guess, 60 % sure or more |
| `emission` e-mission-server (BSD-3), a fix every 30 s or so, errors up to kilometres | 处理程序的输出, 不是出行者的话 a program's output and not the traveller's word: for noise and gaps, not for rates |

每段至少{PIECE_S_MIN}秒、{PIECE_M_MIN}米。`held` 等待人工, 不计分也不拒绝。阈值是看着这些数据定的, 所以数字偏乐观; 样本小, 区间宽。
Each piece lasts {PIECE_S_MIN} s and {PIECE_M_MIN} m at least. `held` waits for a person: neither paid nor refused. The thresholds were chosen with these data in sight, which is too kind; the samples are small, see the intervals.
"""


def _labelled(everything: Sequence[Piece], edition: Checks) -> str:
    lines = ["## 1. 每段轨迹的结论 · What becomes of each piece\n"]
    for mode, title in (
        (TrackMode.WALK, "申报为步行 claimed as a walk"),
        (TrackMode.BICYCLE, "申报为骑行 as a bicycle"),
    ):
        lines += [
            f"{title}\n",
            "| 来源 source | 标签 label | 段数 pieces | 太短 too short | 通过 clear | 待审 held | 拒绝 refused | 原因 reasons |",
            "|---|---|---|---|---|---|---|---|",
        ]
        kinds = sorted({(piece.source, piece.label) for piece in everything})
        for source, label in kinds:
            these = [piece for piece in everything if (piece.source, piece.label) == (source, label)]
            tally = Tally.of(verdict(piece.fixes, mode, edition) for piece in these)
            lines.append(f"| {source} | {label} | {tally.cells()} |")
        lines.append("")
    return "\n".join(lines)


def _aims(everything: Sequence[Piece], edition: Checks) -> str:
    def passing(labels: Sequence[str], sources: Sequence[str], mode: TrackMode, parts: Callable[[Piece], Any]) -> Tally:
        these = [piece for piece in everything if piece.label in labels and piece.source in sources]
        return Tally.of(verdict(part, mode, edition) for piece in these for part in parts(piece))

    lines = [
        "## 2. 目标 · The aims\n",
        "小汽车段落被当作步行或骑行通过 (目标 ≤ 1 %); 长的行程另切成六分钟一段, 每两分钟一段。",
        "Car pieces that pass as a walk or on a bicycle (aim ≤ 1 %), whole, and cut into six minutes beginning every two.\n",
        "| | 步行 as a walk | 骑行 as a bicycle |",
        "|---|---|---|",
    ]
    whole: Callable[[Piece], Any] = lambda piece: [piece.fixes]  # noqa: E731 -- one of two ways to cut
    for title, sources, parts in (
        ("goal + aalto, 整段 whole", ("goal", "aalto"), whole),
        ("goal + aalto, 六分钟 six minutes", ("goal", "aalto"), cut),
        ("emission (弱标签 weak label), 六分钟 six minutes", ("emission",), cut),
    ):
        tallies = [passing(CARS, sources, mode, parts) for mode in (TrackMode.WALK, TrackMode.BICYCLE)]
        lines.append(f"| {title} | " + " | ".join(share(each.counts["clear"], each.judged) for each in tallies) + " |")
    lines += [
        "\n真实步行被拒绝 (目标 ≤ 5 %) · Real walks that are refused (aim ≤ 5 %)\n",
        "| | 拒绝 refused | 待审 held |",
        "|---|---|---|",
    ]
    for title, labels, sources in (
        ("goal", WALKS, ("goal",)),
        ("aalto (手机判断 guessed)", WALKS, ("aalto",)),
        ("goal + aalto", WALKS, ("goal", "aalto")),
        ("emission (弱标签 weak label)", WALKS, ("emission",)),
    ):
        tally = passing(labels, sources, TrackMode.WALK, whole)
        lines.append(
            f"| {title} | {share(tally.refused, tally.judged)} | {share(tally.counts['held'], tally.judged)} |"
        )
    return "\n".join([*lines, ""])


def _row(title: str, everything: Sequence[Piece], change: Callable[[list[Fix]], list[Fix]], edition: Checks) -> str:
    def tally(labels: Sequence[str], mode: TrackMode) -> Tally:
        these = [piece for piece in everything if piece.label in labels and piece.source != "emission"]
        return Tally.of(verdict(change(piece.fixes), mode, edition) for piece in these)

    walks, as_walk, as_bicycle = (
        tally(WALKS, TrackMode.WALK),
        tally(CARS, TrackMode.WALK),
        tally(CARS, TrackMode.BICYCLE),
    )
    cells = [
        str(walks.judged),
        str(walks.counts["clear"]),
        str(walks.counts["held"]),
        str(walks.refused),
        f"{as_walk.counts['clear']}/{as_walk.judged}",
        f"{as_bicycle.counts['clear']}/{as_bicycle.judged}",
    ]
    return f"| {title} | {' | '.join(cells)} |"


_ROWS = (
    "| | 可判的步行 walks judged | 通过 clear | 待审 held | 拒绝 refused | 汽车作步行 cars as walks | 汽车作骑行 cars as bicycles |",
    "|---|---|---|---|---|---|---|",
)


def _thinned(everything: Sequence[Piece], edition: Checks) -> str:
    lines = ["## 3. 稀疏 · Thinned (goal + aalto)\n", *_ROWS]
    for seconds in THINNED_S:
        lines.append(_row(f"≥ {seconds} s", everything, lambda sent, s=seconds: thin(sent, s), edition))  # type: ignore[misc]
    return "\n".join([*lines, ""])


def _disturbed(everything: Sequence[Piece], edition: Checks) -> str:
    lines = ["## 4. 噪声、中断、改时间 · Noise, gaps, a shift in time (goal + aalto)\n", *_ROWS]
    for metres in (0, 5, 10, 20):
        lines.append(_row(f"噪声 noise σ {metres} m", everything, lambda sent, m=metres: noisy(sent, m), edition))  # type: ignore[misc]
    for seconds in (30, 60, 120):
        lines.append(_row(f"中断 gap {seconds} s", everything, lambda sent, s=seconds: torn(sent, s), edition))  # type: ignore[misc]
    moved = _row(
        "改时间 moved by 1 h",
        everything,
        lambda sent: [fix._replace(at_s=fix.at_s + 3600) for fix in sent],
        edition,
    )
    return "\n".join([*lines, moved, ""])


def _spoofed(edition: Checks) -> str:
    lines = [
        "## 5. 伪造的匀速直线 · A spoofed line at one speed\n",
        "二十分钟, 每格10条; 通过 / 待审 / 拒绝。Twenty minutes, 10 lines to a cell: clear / held / refused.\n",
        "| 速度 speed, 间隔 interval | " + " | ".join(f"σ {m} m" for m in (0, 1, 2, 3, 5)) + " |",
        "|---|---|---|---|---|---|",
    ]
    for mode, mps in ((TrackMode.WALK, 1.3), (TrackMode.BICYCLE, 4.0)):
        for every_s in (1, 5, 15):
            cells = []
            for metres in (0, 1, 2, 3, 5):
                tally = Tally.of(verdict(drawn(mps, every_s, metres, seed), mode, edition) for seed in range(10))
                cells.append(f"{tally.counts['clear']} / {tally.counts['held']} / {tally.refused}")
            lines.append(f"| {mode.value} {mps} m/s, {every_s} s | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _copies(everything: Sequence[Piece], edition: Checks) -> str:
    long = [piece for piece in everything if _lasts(piece) and piece.label in (*WALKS, *RIDES)]
    originals = [Known.of(piece.fixes, edition) for piece in long]
    lines = [
        "## 6. 复制的轨迹 · Copies\n",
        f"{len(long)}段不少于{COPIED_M_MIN}米的真实步行和骑行, 改时间20小时后再交一次; 找到的比例。",
        f"{len(long)} real walks and rides of {COPIED_M_MIN} m or more, sent again twenty hours later: how many are refused as copies.\n",
        "| | σ 0 m | σ 1 m | σ 3 m | σ 5 m |",
        "|---|---|---|---|---|",
    ]
    for seconds in (1, 15, 60):
        cells = []
        for metres in (0, 1, 3, 5):
            copies = [
                Known.of(noisy(thin(piece.fixes, seconds), metres, number), edition, later_s=72_000)
                for number, piece in enumerate(long)
            ]
            found = sum(new.copies(old, edition) for new, old in zip(copies, originals, strict=True))
            cells.append(f"{found / len(long):.0%}")
        lines.append(f"| ≥ {seconds} s | {' | '.join(cells)} |")
    pairs = [(new, old) for number, new in enumerate(originals) for old in originals[:number]]
    met = sum(new.meets(old) for new, old in pairs)
    wrong = sum(new.copies(old, edition) for new, old in pairs)
    lines += [
        "",
        f"不同的两段之间误判 · Two different pieces taken for copies: {wrong} / {len(pairs):,}, "
        f"比较过 of which compared: {met:,} (各段起点重合 they all begin at one place).",
        "σ是每个点上独立的噪声。同一条路改天再走、两人同行不算复制: 合成数据的测试见 `tests/points/test_tracks.py`。",
        "σ is independent noise on every fix. The same way walked again, and two who walk together, are no copies: made-up walks in `tests/points/test_tracks.py`.",
    ]
    return "\n".join([*lines, ""])


def _lasts(piece: Piece) -> bool:
    return piece.fixes[-1].at_s - piece.fixes[0].at_s >= COPIED_S_MIN and _metres(piece.fixes) >= COPIED_M_MIN


def _metres(sent: Sequence[Fix]) -> float:
    edition = checks.editions(FOLDER)[0]
    return sum(step.metres for step in motion.steps(motion.usable(sent, edition)[0], edition.window_s))


def _limits() -> str:
    return """## 9. 不能说明什么 · What this does not show

- 没有南开区的数据, 没有真实骑行的可靠标签, 没有电动自行车。No data of Nankai, no rides on a bicycle whose label is sure, no e-bikes.
- 慢速路况下的汽车与骑行很像, 因此粗采样的骑行一律待审; 合作方的骑行记录没有这个问题。Slow traffic moves like a bicycle, so a bicycle on coarse fixes is always held; a partner's record of a ride has no such trouble.
- 有轨电车会被当作骑行通过。Trams can pass as bicycles.
- 人为加上成片误差的伪造轨迹, 运动特征查不出; 限额、设备上限和人工审核约束它能得到的积分。A made-up track with errors that wander as a receiver's do is not found by its motion; ceilings, the bound of a phone and people bound what it gains.
- 公交、地铁从不凭运动特征计分。Motion never pays a bus or metro ride.
"""


# What is measured apart


def cost(edition: Checks) -> str:
    """Processor time of judging a track of 500 fixes and making its marks, the best of some rounds."""
    sent = raw(noisy([Fix(t, 1.3 * t, 3.0 * math.sin(t / 40), 8.0) for t in range(500)], 2.0))
    best = min(_seconds(lambda: _whole(sent, edition)) for _ in range(20))
    return (
        f"一条500个点的轨迹: 解包之后的全部核验 {best * 1000:.1f} ms 处理器时间 (目标 ≤ 5 ms)。"
        f"A track of 500 fixes, all checks and marks: {best * 1000:.1f} ms of processor time (aim ≤ 5 ms); "
        "comparing it with one earlier track on the same way takes about as long again, and at most twenty are compared.\n"
    )


def _whole(sent: list[RawFix], edition: Checks) -> None:
    judged = evidence.judge(fixes.unpack(fixes.pack(sent)), TrackMode.WALK, Datum.WGS_84, edition, folder=FOLDER)
    if judged.sketch is not None:
        alike.marks_of(judged.sketch, b"key")
    fixes.exact_mark(sent, b"key")


def _seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def gotrack(folder: Path, edition: Checks) -> str:
    """GoTrack: cars and buses of Aracaju, told by the minute. Measured, never copied."""
    table = pl.read_parquet(folder / "gotrack_points.parquet").sort("trip_id", "t", maintain_order=True)
    these = []
    for (name, label), rows in table.group_by("trip_id", "mode_label", maintain_order=True):
        points = [(float(t), y, x, 10.0) for t, y, x in zip(rows["t"], rows["lat"], rows["lon"], strict=True)]
        these.append(Piece("gotrack", str(name), str(label), motion.local(points)))
    lines = [
        "GoTrack (UCI 354), 许可未确认, 只测量: 87条汽车、76条公交, 时间精确到分钟, 等于稀疏到60秒。"
        "GoTrack, terms not confirmed, measured only: 87 cars and 76 buses, times to the minute, so thinned to 60 s.\n",
        "| 标签 label | 申报 claimed | 段数 pieces | 太短 too short | 通过 clear | 待审 held | 拒绝 refused | 原因 reasons |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for label in ("car", "bus"):
        for mode in (TrackMode.WALK, TrackMode.BICYCLE):
            for title, parts in (("", lambda piece: [piece.fixes]), (" (12 min)", _twelve)):
                chosen = [part for piece in these if piece.label == label for part in parts(piece)]
                tally = Tally.of(verdict(part, mode, edition) for part in chosen)
                lines.append(f"| {label}{title} | {mode.value} | {tally.cells()} |")
    return "\n".join([*lines, ""])


def _twelve(piece: Piece) -> Iterator[list[Fix]]:
    begin = piece.fixes[0].at_s
    while begin + 720 <= piece.fixes[-1].at_s:
        yield [fix for fix in piece.fixes if begin <= fix.at_s <= begin + 720]
        begin += 240


def with_kept(text: str, kept: str) -> str:
    """`text` with what `kept` has between the marks of the parts that are measured apart."""
    bodies = {found[1]: found[2] for found in SEPARATE.findall(kept)}
    return SEPARATE.sub(lambda found: found[1] + bodies.get(found[2], "") + found[4], text)


def put(text: str, name: str, body: str) -> str:
    """`text` with `body` as the part of this name."""
    return SEPARATE.sub(lambda found: found[1] + (body if found[2] == name else found[3]) + found[4], text)


# The pieces from the original files


def extract(folder: Path) -> None:
    """Write PIECES anew from the original files: places, times of day and directions are left behind."""
    chosen = sorted([*_goal(folder), *_aalto(folder), *_emission(folder)], key=lambda piece: (piece.source, piece.name))
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["source", "piece", "label", "t_s", "east_m", "north_m", "accuracy_m"])
    for number, piece in enumerate(chosen):
        sent = _anywhere(piece.fixes, number)
        seconds = sent[-1].at_s - sent[0].at_s
        if seconds < PIECE_S_MIN or _metres(sent) < PIECE_M_MIN:
            continue
        for fix in sent:
            rows.writerow(
                [piece.source, f"p{number}", piece.label]
                + [f"{value:.1f}".removesuffix(".0") for value in (fix.at_s, fix.east_m, fix.north_m, fix.accuracy_m)]
            )
    with PIECES.open("wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as packed:
        packed.write(text.getvalue().encode("ascii"))


def _anywhere(sent: Sequence[Fix], seed: int) -> list[Fix]:
    turn = random.Random(seed).uniform(0, 2 * math.pi)
    first, sine, cosine = sent[0], math.sin(turn), math.cos(turn)
    return [
        Fix(
            fix.at_s - first.at_s,
            cosine * (fix.east_m - first.east_m) - sine * (fix.north_m - first.north_m),
            sine * (fix.east_m - first.east_m) + cosine * (fix.north_m - first.north_m),
            fix.accuracy_m,
        )
        for fix in sent
    ]


def _goal(folder: Path) -> Iterator[Piece]:
    """Runs of one mode inside the chunks."""
    table = pl.read_parquet(folder / "goal_points.parquet").sort("trip_id", "t")
    changes = (pl.col("mode_label") != pl.col("mode_label").shift().over("trip_id")).fill_null(value=True)
    table = table.with_columns(changes.cum_sum().over("trip_id").alias("run"))
    for (name, run, label), rows in table.group_by("trip_id", "run", "mode_label", maintain_order=True):
        sent = [Fix(t, x, y, 10.0) for t, x, y in zip(rows["t"], rows["x_m"], rows["y_m"], strict=True)]
        yield Piece("goal", f"{name}-{run:03}", {"on_foot": "walk"}.get(str(label), str(label)), sent)


def _aalto(folder: Path) -> Iterator[Piece]:
    """Logged legs, and runs in which the phone believed that its owner walked."""
    table = pl.read_parquet(folder / "aalto_points.parquet").sort("device_id", "t")
    logged = table.filter(pl.col("trip_id").is_not_null())
    for (name, label), rows in logged.group_by("trip_id", "mode_label", maintain_order=True):
        yield Piece("aalto", str(name), str(label), _local(rows))
    walking = (pl.col("activity_1") == "WALKING") & (pl.col("activity_1_conf") >= 60) & pl.col("trip_id").is_null()
    broken = (walking != walking.shift()) | (pl.col("t").diff() > 120)
    runs = table.with_columns(walking.alias("walking"), broken.over("device_id").fill_null(value=True).alias("new"))
    runs = runs.with_columns(pl.col("new").cum_sum().over("device_id").alias("run")).filter("walking")
    for (device, run), rows in runs.group_by("device_id", "run", maintain_order=True):
        yield Piece("aalto", f"walk-{device}-{run:04}", "walk-guessed", _local(rows))


def _emission(folder: Path) -> Iterator[Piece]:
    table = pl.read_parquet(folder / "emission_points.parquet").sort("trip_id", "t")
    for (name, label), rows in table.group_by("trip_id", "mode_label", maintain_order=True):
        if label in ("walk", "bike", "motorised"):
            yield Piece("emission", str(name), {"bike": "bicycle"}.get(str(label), str(label)), _local(rows))


def _local(rows: Any) -> list[Fix]:
    columns = (rows["t"], rows["lat"], rows["lon"], rows["accuracy_m"].fill_null(10.0))
    return motion.local([(float(t), y, x, a) for t, y, x, a in zip(*columns, strict=True)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report; with the original files also the pieces, and the part that may not be handed out."""
    parser = argparse.ArgumentParser(prog="python -m bench.track_evidence", description=__doc__)
    parser.add_argument("--originals", type=Path, help="the folder with the original files")
    options = parser.parse_args(arguments)
    edition = checks.editions(FOLDER)[0]
    if options.originals is not None:
        extract(options.originals)
    text = report(pieces(), edition)
    if REPORT.exists():
        text = with_kept(text, REPORT.read_text("utf-8"))
    text = put(text, "cost", cost(edition))
    if options.originals is not None:
        text = put(text, "gotrack", gotrack(options.originals, edition))
    REPORT.write_text(text, "utf-8")
    sys.stdout.write(f"{REPORT.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
