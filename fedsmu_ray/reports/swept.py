"""The score over the swept keys of each method: heat maps over two keys, slices over one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from fedsmu_ray.display.colors import colors_of
from fedsmu_ray.display.formatting import plain_value, short_key
from fedsmu_ray.reports.charts import Axis, Chart, Heat, Line, Lines, Panel, Style
from fedsmu_ray.reports.data import Report, Row
from fedsmu_ray.tracking.metrics import ACCURACIES, direction_of, is_finite, rank

MAX_VALUES = 12  # of a key, for a heat map
MAX_PANELS = 9
# Parts of keys that come first.
FIRST = (("lr", "gamma", "eta"), ("beta", "momentum", "mu"))


class Key(NamedTuple):
    """A key, or several that are swept together, that differ between the settings of a method."""

    name: str
    values: tuple[Any, ...]  # by setting


def chart(report: Report) -> Chart | None:
    """The figure of the swept keys; None if no method has two settings that differ in one."""
    panels: list[Panel] = []
    for method in report.methods():
        rows = [row for row in report.settings if row["method"] == method]
        panels += _panels(report, method, rows, varying(rows))
    if not panels:
        return None
    caption = (
        f"{_score_label(report)} (mean over seeds; error bars: 95 % interval, t, from three seeds "
        "on) over the swept keys of each method."
    )
    if any(isinstance(panel, Heat) for panel in panels):
        better = "highest" if _direction(report) == "max" else "lowest"
        caption += (
            f" A cell of a heat map has the {better} mean over the keys that it does not show."
        )
    if (left := len(panels) - MAX_PANELS) > 0:
        caption += f" {left} more panels are left out."
    caption = caption[0].upper() + caption[1:]
    return Chart("swept", "Swept keys", caption, panels[:MAX_PANELS])


def varying(rows: Sequence[Row]) -> list[Key]:
    """The keys in which settings of a method differ: learning rates first, then betas."""
    names = dict.fromkeys(key for row in rows for key in row["values"])
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        texts = tuple(plain_value(row["values"].get(name)) for row in rows)
        if len(set(texts)) > 1 and name != "algorithm.name":
            alike.setdefault(texts, []).append(name)
    keys = [
        Key(short_key(", ".join(same)), tuple(row["values"].get(same[0]) for row in rows))
        for same in alike.values()
    ]
    return sorted(keys, key=lambda key: _priority(key.name))


def _priority(name: str) -> int:
    parts = name.split("/")
    for level, words in enumerate(FIRST):
        if any(part.startswith(words) or part.endswith("_lr") for part in parts):
            return level
    return len(FIRST)


def _panels(report: Report, method: str, rows: Sequence[Row], keys: Sequence[Key]) -> list[Panel]:
    if len(keys) >= 2 and (heat := _heat(report, method, rows, keys)):
        return [heat, *(_slice(report, method, rows, key, False) for key in keys[2:])]
    return [_slice(report, method, rows, key, len(keys) == 1) for key in keys]


def _heat(report: Report, method: str, rows: Sequence[Row], keys: Sequence[Key]) -> Heat | None:
    """The first two keys; None if they have too many values, or most pairs were not tried."""
    first, second = keys[:2]
    xs, ys = _ordered(first.values), _ordered(second.values)
    cells: dict[tuple[str, str], list[float | None]] = {}
    for row, x, y in zip(rows, first.values, second.values, strict=True):
        score = row["score"]["mean"] if row["score"] else None
        cells.setdefault((plain_value(x), plain_value(y)), []).append(score)
    if max(len(xs), len(ys)) > MAX_VALUES or 2 * len(cells) < len(xs) * len(ys):
        return None
    factor, values, texts = _factor(report), [], []
    for y, x in itertools.product(ys, xs):
        scores = cells.get((x, y), [])
        best = min(scores, key=lambda score: rank(score, _direction(report)), default=None)
        values.append(factor * best if best is not None and is_finite(best) else None)
        diverged = "diverged" if scores else ""
        texts.append(diverged if values[-1] is None else f"{values[-1]:.{_digits(report)}f}")
    width = len(xs)
    return Heat(
        Axis(first.name, ticks=list(enumerate(xs))),
        Axis(second.name, ticks=list(enumerate(ys))),
        [values[i : i + width] for i in range(0, len(values), width)],
        [texts[i : i + width] for i in range(0, len(texts), width)],
        _score_label(report),
        method,
    )


def _slice(report: Report, method: str, rows: Sequence[Row], key: Key, joined: bool) -> Lines:
    """The scores over one key. joined: by a line, as nothing else varies."""
    style = Style(method, colors_of(report.methods())[method], 0)
    numeric = all(_is_number(value) for value in key.values)
    order = _ordered(key.values)
    xs = [float(v) if numeric else float(order.index(plain_value(v))) for v in key.values]
    factor, points = _factor(report), []
    for x, row in zip(xs, rows, strict=True):
        if row["score"]:
            mean, half = row["score"]["mean"], row["score"]["ci95"]
            half = half if half is not None and row["score"]["n"] > 2 else 0.0
            points.append((x, *(factor * v for v in (mean, mean - half, mean + half))))
    x_s, y_s, low, high = (
        (list(column) for column in zip(*sorted(points), strict=True))
        if points
        else ([], [], [], [])
    )
    lines = [Line(style, x_s, y_s, low, high, points=True)]
    lines += [Line(style, x_s, y_s)] if joined and numeric else []
    is_log = numeric and min(xs) > 0 and max(xs) >= 10 * min(xs)
    few = len(order) <= MAX_VALUES
    ticks = sorted(zip(xs, map(plain_value, key.values), strict=True)) if few or not numeric else []
    axis = Axis(key.name, is_log, list(dict.fromkeys(ticks)))
    return Lines(axis, Axis(_score_label(report)), lines, method)


def _ordered(values: Sequence[Any]) -> list[str]:
    """The different values as text: numbers by size, then the others as they come."""
    numbers = sorted({v for v in values if _is_number(v)})
    return list(dict.fromkeys(plain_value(v) for v in (*numbers, *values)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value)


def _is_accuracy(report: Report) -> bool:
    return report.metric in ACCURACIES


def _factor(report: Report) -> float:
    return 100.0 if _is_accuracy(report) else 1.0


def _digits(report: Report) -> int:
    return 1 if _is_accuracy(report) else 3


def _score_label(report: Report) -> str:
    return f"{report.set_name} accuracy (%)" if _is_accuracy(report) else report.metric


def _direction(report: Report) -> Any:
    return direction_of(report.metric)
