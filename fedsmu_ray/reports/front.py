"""The Pareto front of a sweep by several metrics, as plain data for a figure."""

from __future__ import annotations

from collections.abc import Sequence

from fedsmu_ray.display.colors import colors_of
from fedsmu_ray.reports.charts import Axis, Chart, Line, Lines, Style, byte_ticks
from fedsmu_ray.reports.data import Report, Row
from fedsmu_ray.tracking.metrics import is_share, unit_of

GRAY = "#888888"


def chart(report: Report) -> Chart | None:
    """The settings by the first two of several metrics; None if there is only one."""
    names = list(report.settings[0].get("objectives", ())) if report.settings else []
    rows = [row for row in report.settings if all(_stats(row, name) for name in names[:2])]
    if not names or not rows:
        return None
    y, x = names[:2]
    colors = colors_of(report.methods())
    known = {method: Style(method, color, 0) for method, color in colors.items()}
    lines = [_point(row, x, y, known[row["method"]]) for row in rows]
    front = sorted((row for row in rows if row["pareto"]), key=lambda row: _mean(row, x))
    style = Style("Pareto front", GRAY, 1)
    lines.append(Line(style, [_mean(r, x) for r in front], [_mean(r, y) for r in front]))
    caption = (
        f"Settings by {' and '.join(names[:2])}, means over seeds. No other setting is better than "
        f"those of the Pareto front (filled) by one metric and worse by none of {', '.join(names)}."
    )
    panel = Lines(_axis(x, lines, is_x=True), _axis(y, lines, is_x=False), lines)
    return Chart("front", "Pareto front", caption, [panel], [*known.values(), style])


def _stats(row: Row, name: str) -> Row | None:
    found: Row | None = row.get("objectives", {}).get(name)
    return found


def _mean(row: Row, name: str) -> float:
    return float(row["objectives"][name]["mean"]) * (100 if is_share(name) else 1)


def _point(row: Row, x: str, y: str, style: Style) -> Line:
    return Line(style, [_mean(row, x)], [_mean(row, y)], points=True, filled=row["pareto"])


def _axis(name: str, lines: Sequence[Line], is_x: bool) -> Axis:
    values = [float(v) for line in lines for v in (line.x if is_x else line.y)]
    if is_x and unit_of(name) == "bytes" and min(values) > 0:
        return Axis(name, True, byte_ticks(values))
    return Axis(f"{name} (%)" if is_share(name) else name)
