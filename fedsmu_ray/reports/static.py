"""Figures for paper, drawn with matplotlib: PDF, PNG and SVG."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from fedsmu_ray.reports.charts import Axis, Chart, Dots, Heat, Line, Lines, Panel, Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.0  # inches: the text of a two-column paper
COLUMNS = 3  # of panels
KEY, CHARACTER = 0.5, 0.056  # inches of the line and of a letter in a legend
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)))
DASHES += ((0, (9, 2, 1, 2)),)
DPI = 200  # of PNG
COLORS = "cividis"  # of heat maps: the same to the color-blind
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.4,
    "pdf.fonttype": 42,  # text that can be searched, and that conferences accept
    "svg.hashsalt": "fedsmu",  # the same file each time
}
# Without the time, so that the same results give the same files.
METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {},
}


def draw(chart: Chart) -> dict[str, bytes]:
    """A figure as files: their contents by suffix (pdf, png, svg)."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        drawn = figure(chart)
        return {suffix: _saved(drawn, suffix) for suffix in METADATA}


def figure(chart: Chart) -> Figure:
    """A figure of matplotlib, as wide as a page."""
    import matplotlib
    from matplotlib.figure import Figure

    count = len(chart.panels)
    in_pairs = count == 4 or isinstance(chart.panels[0], Dots)  # of bytes and rounds
    columns = 2 if in_pairs else min(COLUMNS, count)
    rows = math.ceil(count / columns)
    heights = [max(map(_height, chart.panels[i : i + columns])) for i in range(0, count, columns)]
    width = WIDTH * (0.5 if columns == 1 else 1)
    longest = max((len(style.label) for style in chart.legend), default=0)
    in_legend = max(1, int(width / (KEY + CHARACTER * longest)))  # columns
    legend = 0.16 * math.ceil(len(chart.legend) / in_legend)
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(width, sum(heights) + legend), layout="constrained")
        axes = drawn.subplots(rows, columns, squeeze=False, height_ratios=heights).flat
        for number, ax in enumerate(axes):
            if number < count:
                _draw_panel(chart.panels[number], ax, number % columns == 0)
            else:
                ax.set_visible(False)
        if chart.legend:
            handles = [_handle(style) for style in chart.legend]
            drawn.legend(
                handles=handles, loc="outside lower center", ncols=in_legend, frameon=False
            )
        drawn.draw_without_rendering()
        drawn.set_layout_engine("none")  # it is laid out
        return drawn


def _height(panel: Panel) -> float:
    """In inches."""
    if isinstance(panel, Dots):
        return 0.6 + 0.2 * len(panel.rows)
    return max(1.5, 0.7 + 0.22 * len(panel.y.ticks)) if isinstance(panel, Heat) else 1.9


def _draw_panel(panel: Panel, ax: Any, is_first: bool) -> None:
    """is_first: of its row, which has the labels of those beside it that have the same ones."""
    ax.set_title(_plain(panel.title))
    if isinstance(panel, Heat):
        _draw_heat(panel, ax)
        return
    for line in panel.lines:
        _draw_line(line, ax, sideways=isinstance(panel, Dots))
    _set_axis(ax, "x", panel.x)
    if isinstance(panel, Lines):
        _set_axis(ax, "y", panel.y)
        if not is_first and not panel.title:
            ax.set_ylabel("")
    else:
        ax.set_yticks(range(len(panel.rows)), map(_plain, panel.rows) if is_first else ())
        ax.set_ylim(len(panel.rows) - 0.5, -0.5)


def _draw_line(line: Line, ax: Any, sideways: bool) -> None:
    style = line.style
    if not line.points:
        dash = DASHES[style.dash % len(DASHES)]
        marker = "o" if len(line.x) == 1 else None  # a line of one point cannot be seen
        ax.plot(line.x, line.y, color=style.color, linestyle=dash, marker=marker, markersize=3)
        if line.low is not None and line.high is not None:
            ax.fill_between(line.x, line.low, line.high, color=style.color, alpha=0.15, linewidth=0)
        return
    at = line.x if sideways else line.y
    ends = zip(line.low or at, line.high or at, at, strict=True)
    error = [*zip(*((max(0, v - low), max(0, high - v)) for low, high, v in ends), strict=True)]
    ax.errorbar(
        line.x,
        line.y,
        **{"xerr" if sideways else "yerr": error if any(map(any, error)) else None},
        fmt="o",
        markersize=4,
        color=style.color,
        markerfacecolor=style.color if line.filled else "white",
        elinewidth=0.8,
        capsize=2,
    )


def _draw_heat(panel: Heat, ax: Any) -> None:
    values = [[math.nan if v is None else v for v in row] for row in panel.values]
    image = ax.imshow(values, aspect="auto", origin="lower", cmap=COLORS, interpolation="nearest")
    ax.grid(False)
    _set_axis(ax, "x", panel.x)
    _set_axis(ax, "y", panel.y)
    known = [v for row in panel.values for v in row if v is not None]
    middle = (min(known) + max(known)) / 2 if known else 0.0
    for y, row in enumerate(panel.texts):
        for x, text in enumerate(row):
            value = panel.values[y][x]
            dark = value is not None and value <= middle
            ax.text(x, y, text, ha="center", va="center", color="white" if dark else "black")
    if known:
        ax.figure.colorbar(image, ax=ax, label=_plain(panel.unit)).outline.set_linewidth(0.4)


def _set_axis(ax: Any, which: str, axis: Axis) -> None:
    from matplotlib.ticker import NullFormatter

    ax.set(**{f"{which}label": _plain(axis.label)})
    own = getattr(ax, f"{which}axis")
    if axis.is_log:
        ax.set(**{f"{which}scale": "log"})
        own.set_minor_formatter(NullFormatter())
    if axis.ends:
        getattr(ax, f"set_{which}lim")(*axis.ends)
    if axis.ticks:
        values, texts = zip(*axis.ticks, strict=True)
        own.set_ticks(values, [_plain(text) for text in texts])
    if axis.is_log and axis.ticks:
        own.set_ticks([], minor=True)


def _handle(style: Style) -> Any:
    from matplotlib.lines import Line2D

    dash = DASHES[style.dash % len(DASHES)]
    return Line2D([], [], color=style.color, linestyle=dash, label=_plain(style.label))


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formulas."""
    return text.replace("$", r"\$")


def _saved(figure: Any, suffix: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=suffix, dpi=DPI, metadata=METADATA[suffix])
    return file.getvalue()
