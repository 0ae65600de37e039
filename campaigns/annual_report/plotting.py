"""Charts as PNG for the document and SVG for the page, in the one font that comes with us. Equal charts, equal bytes.

matplotlib is large: this is imported by `campaigns.annual_report.drawing` in its own process and by nobody else.
"""

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.ticker import FuncFormatter, MaxNLocator

from campaigns.annual_report import wording
from campaigns.annual_report.content import Bar, Chart

GREEN, LEAF, SUN, CLAY, INK, SOFT, LINE = "#0b5d44", "#2c7f5b", "#f2b84b", "#7a4a0c", "#17231d", "#52625a", "#d5d9cd"
COLOURS = (GREEN, SUN, LEAF)
MARKERS = ("o", "s", "^")

WIDTH_INCHES = 6.1  # the text's width of the document
PNG_DPI = 220
BAR_INCHES, AROUND_INCHES = 0.34, 1.0


def prepare(font: Path) -> None:
    """Use this font and no other, and draw the same bytes every time."""
    fontManager.addfont(str(font))
    mpl.rcParams.update(
        {
            "font.family": FontProperties(fname=str(font)).get_name(),
            "font.size": 9,
            "axes.unicode_minus": False,  # the font has the hyphen
            "axes.edgecolor": LINE,
            "axes.labelcolor": SOFT,
            "xtick.color": SOFT,
            "ytick.color": SOFT,
            "text.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            # Outlines and no text: a browser needs no font for it.
            "svg.fonttype": "path",
            "svg.hashsalt": "tanpuhui",
        }
    )


def png(chart: Chart) -> bytes:
    """A chart for the document."""
    return _saved(_drawn(chart), "png", dpi=PNG_DPI, metadata={"Software": None})


def svg(chart: Chart) -> bytes:
    """A chart for the page."""
    return _saved(_drawn(chart), "svg", metadata={"Date": None, "Creator": None})


def _saved(drawn: Figure, form: str, **options: Any) -> bytes:
    target = io.BytesIO()
    drawn.savefig(target, format=form, **options)
    return target.getvalue()


def _drawn(chart: Chart) -> Figure:
    if chart.kind == "lines":
        return _lines(chart)
    return _columns(chart) if chart.kind == "columns" else _bars(chart)


def _canvas(height_inches: float) -> tuple[Figure, Any]:
    drawn = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    return drawn, drawn.add_subplot()


def _lines(chart: Chart) -> Figure:
    """Estimates over years with their intervals, and the goal as a dashed line."""
    drawn, axes = _canvas(3.3)
    solid = [line for line in chart.lines if not line.dashed]
    for position, line in enumerate(solid):
        # Beside each other: two intervals of one year would hide each other.
        shift = (position - (len(solid) - 1) / 2) * 0.08
        lows, highs = line.lows or line.ys, line.highs or line.ys
        axes.errorbar(
            [x + shift for x in line.xs],
            line.ys,
            yerr=[
                [y - low for y, low in zip(line.ys, lows, strict=True)],
                [high - y for y, high in zip(line.ys, highs, strict=True)],
            ],
            color=COLOURS[position % len(COLOURS)],
            marker=MARKERS[position % len(MARKERS)],
            markersize=6,
            linewidth=1.4,
            capsize=4,
            label=line.name_zh,
        )
    for line in chart.lines:
        if line.dashed:
            axes.plot(line.xs, line.ys, color=CLAY, linestyle=(0, (4, 3)), linewidth=1.4, label=line.name_zh)
            for x, y in zip(line.xs, line.ys, strict=True):
                axes.annotate(
                    wording.quantity(y, chart.unit),
                    (x, y),
                    textcoords="offset points",
                    xytext=(6, -11),
                    ha="left",
                    color=CLAY,
                )
    values = [value for line in chart.lines for value in (*line.ys, *(line.lows or ()), *(line.highs or ()))]
    years = [x for line in chart.lines for x in line.xs]
    axes.set_ylim(max(0, min(values) - 5), max(values) + 5)
    axes.set_xlim(min(years) - 0.6, max(years) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}年"))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: wording.quantity(y, chart.unit)))
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    return drawn


def _bars(chart: Chart) -> Figure:
    """Bars from left to right, the first on top, with the target of each as a mark."""
    drawn, axes = _canvas(AROUND_INCHES + BAR_INCHES * len(chart.bars))
    positions = list(range(len(chart.bars)))[::-1]
    axes.barh(positions, [bar.value for bar in chart.bars], height=0.56, color=LEAF)
    reach = max([bar.value for bar in chart.bars] + [bar.target or 0 for bar in chart.bars]) or 1
    for position, bar in zip(positions, chart.bars, strict=True):
        axes.annotate(
            wording.quantity(bar.value, chart.unit),
            (bar.value, position),
            textcoords="offset points",
            xytext=(4, 0),
            va="center",
        )
    with_target = [(position, bar.target) for position, bar in zip(positions, chart.bars, strict=True) if bar.target]
    if with_target:
        axes.scatter(
            [value for _, value in with_target],
            [position for position, _ in with_target],
            marker="|",
            s=260,
            linewidths=2.2,
            color=CLAY,
            label="目标值",
            zorder=3,
        )
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    axes.set_yticks(positions, [bar.label for bar in chart.bars])
    axes.set_ylim(-0.7, len(chart.bars) - 0.3)
    axes.set_xlim(0, reach * 1.18)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: wording.number(x)))
    axes.set_xlabel(f"单位：{chart.unit}", loc="right")
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    return drawn


def _columns(chart: Chart) -> Figure:
    """Upright bars in the order of time."""
    drawn, axes = _canvas(3.0)
    positions = list(range(len(chart.bars)))
    axes.bar(positions, [bar.value for bar in chart.bars], width=0.6, color=LEAF)
    for position, bar in zip(positions, chart.bars, strict=True):
        _above(axes, position, bar)
    axes.set_xticks(positions, [bar.label for bar in chart.bars])
    axes.set_ylim(0, max(bar.value for bar in chart.bars) * 1.15)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: wording.number(y)))
    axes.set_title(f"单位：{chart.unit}", loc="left", fontsize=9, color=SOFT)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", length=0)
    return drawn


def _above(axes: Any, position: int, bar: Bar) -> None:
    axes.annotate(
        wording.number(bar.value),
        (position, bar.value),
        textcoords="offset points",
        xytext=(0, 3),
        ha="center",
        fontsize=8,
    )
