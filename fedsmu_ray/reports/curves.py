"""Metrics of a setting over rounds or bytes: the mean over its seeds, and a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray.reports.data import History
from fedsmu_ray.tracking.metrics import is_finite

Floats = NDArray[np.float64]
ROUND = "round"
UPLINK, DOWNLINK = "comm/uplink_bytes", "comm/downlink_bytes"


@dataclass(frozen=True)
class Curve:
    """Means over n seeds; all arrays are float64 [points]."""

    x: Floats
    mean: Floats
    low: Floats | None  # of the band; None for one seed
    high: Floats | None
    n: int


def curve(histories: Sequence[History], y: str, over: Sequence[str] = (ROUND,)) -> Curve:
    """The metric `y` of a setting, over the sum of the columns `over`.

    histories: of its seeds. It has the rounds in which all seeds have finite values, and so ends
    where one of them was stopped or has diverged; no points if there are none.
    """
    points = [_points(history, y, over) for history in histories]
    rounds = sorted(set.intersection(*(set(each) for each in points))) if points else []
    values = np.array([[each[r] for r in rounds] for each in points], np.float64)
    values = values.reshape(len(points), len(rounds), 2)
    x, found = values[:, :, 0], values[:, :, 1]
    if not rounds:
        empty = np.zeros(0)
        return Curve(empty, empty, None, None, len(points))
    low, high = band(found)
    return Curve(x.mean(0), found.mean(0), low, high, len(points))


def _points(history: History, y: str, over: Sequence[str]) -> dict[int, tuple[float, float]]:
    """By round: x and y, where both are finite."""
    columns = [history.get(name, ()) for name in over]
    found = {}
    for i, (number, value) in enumerate(
        zip(history.get(ROUND, ()), history.get(y, ()), strict=False)
    ):
        parts = [column[i] for column in columns if i < len(column) and is_finite(column[i])]
        if is_finite(value) and len(parts) == len(over):
            found[int(number)] = float(sum(parts)), float(value)
    return found


def band(values: Floats) -> tuple[Floats | None, Floats | None]:
    """The band around the mean of values [seeds, points].

    From three seeds on the 95 % interval of the mean (t), of two their extremes, of one none.
    """
    n = len(values)
    if n < 2:
        return None, None
    if n == 2:
        return values.min(0), values.max(0)
    from scipy.stats import t

    half = t.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n)
    mean = values.mean(0)
    return mean - half, mean + half


def in_words(seeds: Sequence[int]) -> str:
    """What the bands are, for a caption; seeds: how many the settings have."""
    several = [n for n in seeds if n > 2]
    said = []
    if several:
        counts = str(several[0]) if len(several) == 1 else f"{several[0]} to {several[-1]}"
        said.append(f"bands are 95 % intervals of the mean (t) over {counts} seeds")
    if 2 in seeds:
        said.append("bands of settings with two seeds span both" if several else "bands span both")
        said[-1] += "" if several else " seeds"
    if 1 in seeds:
        said.append("settings with one seed have no band" if len(seeds) > 1 else "one seed each")
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def by_trial(histories: Mapping[int, History], trials: Sequence[int]) -> list[History]:
    """The histories of a setting's trials, without those that have none."""
    return [histories[index] for index in trials if histories.get(index, {}).get(ROUND)]
