"""Figures for a page: what plotly.js draws, as plain data.

A figure of plotly.js is documented JSON (https://plotly.com/javascript/reference), so Plotly's
Python package, which takes a second to import, is not needed to make one.
"""

from __future__ import annotations

from html import escape
from typing import Any

from fedsmu_ray.reports.charts import Axis, Dots, Heat, Line, Lines, Panel

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
BAND = 0.15  # opacity
LINE_WIDTH, ROW = 2, 28  # px
COLORS = "Cividis"


def draw(panel: Panel) -> dict[str, Any]:
    """A panel as `data` and `layout` of a figure of plotly.js."""
    if isinstance(panel, Heat):
        return {"data": [_heat(panel)], "layout": _layout(panel, panel.y, 300)}
    sideways = isinstance(panel, Dots)
    data = [trace for line in panel.lines for trace in _traces(line, sideways)]
    if isinstance(panel, Lines):
        return {"data": data, "layout": _layout(panel, panel.y, 340)}
    rows = Axis("", ticks=list(enumerate(panel.rows)))
    layout = _layout(panel, rows, 90 + ROW * len(panel.rows))
    layout["yaxis"] |= {"range": [len(panel.rows) - 0.5, -0.5], "automargin": True}
    return {"data": data, "layout": layout}


def _traces(line: Line, sideways: bool) -> list[dict[str, Any]]:
    """The traces of a line: its band, if it has one, and itself."""
    style = line.style
    base = {"name": escape(style.label), "legendgroup": escape(style.label), "type": "scatter"}
    base |= {"meta": style.label}
    own: dict[str, Any] = {**base, "x": list(line.x), "y": list(line.y)}
    if line.points:
        at = line.x if sideways else line.y
        ends = [*zip(line.low or at, line.high or at, at, strict=True)]
        error: dict[str, Any] = {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, float(high) - float(v)) for _, high, v in ends],
            "arrayminus": [max(0.0, float(v) - float(low)) for low, _, v in ends],
            "color": style.color,
            "thickness": 1,
        }
        is_known = any(error["array"]) or any(error["arrayminus"])
        symbol = "circle" if line.filled else "circle-open"
        marker = {"color": style.color, "size": 9, "symbol": symbol}
        shown = "%{x:.4g}" if sideways else "%{x:.4g}: %{y:.4g}"
        hover = f"{escape(style.label)}<br>{shown}<extra></extra>"
        axis = "error_x" if sideways else "error_y"
        own |= {"mode": "markers", "marker": marker, "hovertemplate": hover}
        return [{**own, axis: error} if is_known else own]
    dash = {"color": style.color, "width": LINE_WIDTH, "dash": DASHES[style.dash % len(DASHES)]}
    mode = "markers" if len(line.x) == 1 else "lines"
    own |= {"mode": mode, "line": dash, "marker": {"color": style.color}}
    own["hovertemplate"] = f"{escape(style.label)}<br>%{{x:.4~s}}: %{{y:.4g}}<extra></extra>"
    if line.low is None or line.high is None:
        return [own]
    band = {
        **base,
        "x": [*line.x, *reversed(line.x)],
        "y": [*line.high, *reversed(line.low)],
        "fill": "toself",
        "fillcolor": _rgba(style.color, BAND),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "mode": "lines",
    }
    return [band, own]


def _rgba(color: str, opacity: float) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _heat(panel: Heat) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "z": [list(row) for row in panel.values],
        "text": [[escape(text) for text in row] for row in panel.texts],
        "texttemplate": "%{text}",
        "hovertemplate": "%{text}<extra></extra>",
        "colorscale": COLORS,
        "colorbar": {"thickness": 10, "title": {"text": escape(panel.unit), "side": "right"}},
        "xgap": 1,
        "ygap": 1,
    }


def _layout(panel: Panel, y: Axis, height: int) -> dict[str, Any]:
    return {
        "title": {"text": escape(panel.title), "font": {"size": 14}, "x": 0, "xref": "paper"},
        "height": height,
        "margin": {"l": 56, "r": 12, "t": 36 if panel.title else 28, "b": 48},
        "xaxis": _axis(panel.x),
        "yaxis": _axis(y),
        "showlegend": False,
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }


def _axis(axis: Axis) -> dict[str, Any]:
    made: dict[str, Any] = {
        "title": {"text": escape(axis.label)},
        "zeroline": False,
        "automargin": True,
    }
    if axis.is_log:
        made |= {"type": "log", "tickangle": 0}
    if axis.ends:
        made["range"] = list(axis.ends)
    if axis.ticks:
        values, texts = zip(*axis.ticks, strict=True)
        made |= {"tickvals": list(values), "ticktext": [escape(text) for text in texts]}
    return made
