"""What the figures show, as plain data: `static` draws it for paper, `interactive` for a page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedsmu_ray.display.colors import colors_of
from fedsmu_ray.display.formatting import size
from fedsmu_ray.reports.curves import DOWNLINK, ROUND, UPLINK, by_trial, curve, in_words
from fedsmu_ray.reports.data import Report, Row
from fedsmu_ray.tracking.metrics import ACCURACIES

UNIFORMITY, DROPPED, RETRIED = "mu/upload", "clients/dropped", "clients/retried"
DASHES = 6  # line styles
TICK_GAP = 0.2  # between ticks of bytes, as a share of the axis: enough for their text
# Within a decade, the most first.
STEPS = ((1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))


@dataclass(frozen=True)
class Style:
    """How a setting is drawn in all figures."""

    label: str
    color: str  # #rrggbb, of its method
    dash: int  # 0 to DASHES - 1: which of the line styles


@dataclass(frozen=True)
class Line:
    """A line, or with `points` single points with error bars."""

    style: Style
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    points: bool = False
    filled: bool = True  # of points


@dataclass(frozen=True)
class Axis:
    """An axis; of a logarithmic or categorical one, `ticks` are values or positions with text."""

    label: str
    is_log: bool = False
    ticks: Sequence[tuple[float, str]] = ()
    ends: tuple[float, float] | None = None  # None: as the values need


@dataclass(frozen=True)
class Lines:
    """A panel with lines."""

    x: Axis
    y: Axis
    lines: Sequence[Line]
    title: str = ""


@dataclass(frozen=True)
class Dots:
    """A panel with a row for each setting, from top to bottom, and points with error bars in it."""

    x: Axis
    lines: Sequence[Line]  # y: the row, from 0
    rows: Sequence[str]
    title: str = ""


@dataclass(frozen=True)
class Heat:
    """A panel with a heat map; values and texts [y, x], where None is empty."""

    x: Axis
    y: Axis
    values: Sequence[Sequence[float | None]]
    texts: Sequence[Sequence[str]]
    unit: str
    title: str = ""


Panel = Lines | Dots | Heat


@dataclass(frozen=True)
class Chart:
    """A figure."""

    name: str  # of its files
    title: str
    caption: str
    panels: Sequence[Panel]
    legend: Sequence[Style] = field(default_factory=tuple)


def styles(report: Report) -> dict[str, Style]:
    """How the settings that figures show are drawn, by name.

    One color for each method; its settings, and methods whose colors are the same, differ in the
    line style, then in the shade.
    """
    colors, used, found = colors_of(report.methods()), dict[str, int](), dict[str, Style]()
    for row in report.shown():
        color = colors[row["method"]]
        shade, dash = divmod(used.get(color, 0), DASHES)
        found[row["name"]] = Style(row["name"], _lighter(color, shade), dash)
        used[color] = used.get(color, 0) + 1
    return found


def _lighter(color: str, times: int) -> str:
    """A color moved towards white, by four tenths each time."""
    parts = [255 - (255 - int(color[i : i + 2], 16)) * 0.6**times for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part):02x}" for part in parts)


def accuracy(report: Report) -> Chart | None:
    """Accuracy over rounds, uploaded bytes and all bytes; None if no round has one.

    The metric of the ranking for a task without accuracy.
    """
    label = Axis(report.label)
    panels = [
        _lines(report, report.accuracy, over, axis, label, report.factor)
        for over, axis in (
            ((ROUND,), Axis("round")),
            ((UPLINK,), Axis("uploaded by all clients", is_log=True)),
            ((UPLINK, DOWNLINK), Axis("uploaded and downloaded", is_log=True)),
        )
    ]
    drawn = [panel for panel in panels if panel.lines]
    if not drawn:
        return None
    name = "Accuracy" if report.accuracy in ACCURACIES else report.accuracy.partition("/")[2]
    caption = (
        f"{name} on the {report.set_name} set over rounds, over the bytes that all clients have "
        f"uploaded, and over all bytes between clients and server (logarithmic). {_shown(report)} "
        f"{_bands(report)}"
    )
    return Chart("accuracy", name, caption.strip(), drawn, _legend(report))


def uniformity(report: Report) -> Chart | None:
    """Magnitude uniformity of the uploads over rounds; None if it was not measured."""
    label = Axis("magnitude uniformity", ends=(0.0, 1.05))
    panel = _lines(report, UNIFORMITY, (ROUND,), Axis("round"), label)
    if not panel.lines:
        return None
    caption = (
        "Magnitude uniformity of the uploads: Jain's index over the participants, averaged over "
        f"coordinates (1: all magnitudes are equal). {_bands(report)}"
    )
    return Chart("uniformity", "Magnitude uniformity", caption, [panel], _legend(report))


def failures(report: Report) -> Chart | None:
    """Missing uploads and retries over rounds; None if there were none."""
    panels = [
        _lines(report, metric, (ROUND,), Axis("round"), Axis(label))
        for metric, label in ((DROPPED, "missing uploads"), (RETRIED, "clients trained again"))
    ]
    drawn = [panel for panel in panels if panel.lines]
    if not drawn:
        return None
    caption = (
        "So far: sampled clients without a usable upload (dropped after their retries, or by "
        "federation.dropout), and clients that were trained again after a failure; what is not "
        f"drawn has not happened. {_bands(report)}"
    )
    return Chart("failures", "Missing uploads and retries", caption, drawn, _legend(report))


def _lines(
    report: Report, metric: str, over: Sequence[str], x: Axis, y: Axis, factor: float = 1
) -> Lines:
    known, lines = styles(report), []
    for row in report.shown():
        found = curve(by_trial(report.histories, row["trials"]), metric, over)
        keep = found.x > 0 if x.is_log else found.x >= 0
        if keep.any():
            low, high = (
                None if edge is None else (factor * edge[keep]).tolist()
                for edge in (found.low, found.high)
            )
            mean = (factor * found.mean[keep]).tolist()
            lines.append(Line(known[row["name"]], found.x[keep].tolist(), mean, low, high))
    if x.is_log:
        x = Axis(x.label, True, byte_ticks([float(v) for line in lines for v in line.x]))
    return Lines(x, y, lines)


def _legend(report: Report) -> list[Style]:
    return list(styles(report).values())


def _bands(report: Report) -> str:
    return in_words(sorted({len(row["trials"]) for row in report.shown()}))


def _shown(report: Report) -> str:
    shown, total = len(report.shown()), len(report.settings)
    return "" if shown == total else f"{shown} of {total} settings, by {report.metric}."


def byte_ticks(values: Sequence[float], gap: float = TICK_GAP) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis of bytes that has these values, as value and text.

    gap: the least between two of them, as a share of the axis.
    """
    if not values:
        return []
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.05, 0.04 * (high - low))
    decades = range(math.floor(low) - 1, math.ceil(high) + 2)
    for steps in STEPS:
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [v for v in ticks if low - margin <= math.log10(v) <= high + margin]
        gaps = [math.log10(b / a) for a, b in itertools.pairwise(ticks)]
        if min(gaps, default=1) >= gap * (high - low):
            break
    else:
        ticks = ticks[:: math.ceil(gap * (high - low))]
    return [(v, size(v)) for v in ticks]


def to_target(report: Report) -> Chart | None:
    """What the settings need to reach the targets; None if nobody reaches one."""
    panels: list[Panel] = []
    missed = []
    for i, finding in enumerate(report.findings):
        rows = [row for row in report.shown() if row["targets"][i]["uplink_bytes"]]
        target = f"{100 * finding['accuracy']:g} %"
        others = [row["name"] for row in report.shown() if row not in rows]
        missed += [f"{target} is not reached by {'; '.join(others)}."] * bool(others)
        if rows:
            panels += _needs(report, _by_upload(rows, i), i, target)
    if not panels:
        return None
    caption = (
        "Bytes and rounds up to the first evaluation with the target accuracy on the "
        f"{report.set_name} set, means over seeds: uploaded by all clients (filled), uploaded and "
        "downloaded (hollow). Error bars are 95 % intervals (t), from three seeds on. "
        f"{' '.join(missed)}"
    )
    return Chart("to_target", "Bytes and rounds to a target", caption.strip(), panels)


def _by_upload(rows: Sequence[Row], i: int) -> list[Row]:
    """Settings that reach target i, the one that uploads the least first."""
    return sorted(rows, key=lambda row: float(row["targets"][i]["uplink_bytes"]["mean"]))


def _needs(report: Report, rows: Sequence[Row], i: int, target: str) -> list[Panel]:
    known, names = styles(report), [row["name"] for row in rows]

    def points(key: str, filled: bool = True) -> list[Line]:
        found = []
        for number, row in enumerate(rows):
            need = row["targets"][i][key]
            mean = need["mean"]
            half = need["ci95"] if need["ci95"] is not None and need["n"] > 2 else 0.0
            low, high = max(mean - half, mean / 20), mean + half
            style = known[row["name"]]
            found.append(Line(style, [mean], [number], [low], [high], True, filled))
        return found

    sent = [*points("uplink_bytes"), *points("total_bytes", filled=False)]
    ticks = byte_ticks([float(v) for line in sent for v in line.x], 1.5 * TICK_GAP)
    return [
        Dots(Axis(f"bytes to {target}", True, ticks), sent, names),
        Dots(Axis(f"rounds to {target}"), points("rounds"), names),
    ]
