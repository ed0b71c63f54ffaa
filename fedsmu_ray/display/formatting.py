"""Numbers, sizes and swept parameters as text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from fedsmu_ray.tracking.metrics import is_share

PIPED_WIDTH = 200  # columns, enough for every table
# Names and messages are printed as they are: they are neither markup nor emoji codes.
AS_IT_IS: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
SIZE_UNITS = ("B", "kB", "MB", "GB", "TB")


def stdout() -> Console:
    """The console for results: as wide as the terminal, or PIPED_WIDTH columns if it is piped."""
    console = Console(**AS_IT_IS)
    return console if console.is_terminal else Console(**AS_IT_IS, width=PIPED_WIDTH)


def size(nbytes: float) -> str:
    """A number of bytes in decimal units, as network and paper figures use them."""
    power = min(int(math.log(max(nbytes, 1), 1000) + 1e-9), len(SIZE_UNITS) - 1)
    return f"{nbytes / 1000**power:.3g} {SIZE_UNITS[power]}"


def percent(share: float | None) -> str:
    """A share (0 to 1) in percent; "-" for None."""
    return "-" if share is None else f"{100 * share:.2f} %"


def value_in_words(metric: str, value: float | None) -> str:
    """A value of a metric: in percent if it is a share; "-" for None."""
    if value is None or is_share(metric):
        return percent(value)
    return f"{value:.4g}"


def metric_in_words(metric: str) -> str:
    """A metric such as `val/accuracy`: "validation accuracy"; "accuracy" on the test set."""
    part, _, name = metric.partition("/")
    return f"validation {name}" if part == "val" else name


def dropped_note(dropped: int) -> str:
    """The end of a line about uploads: how many were dropped; empty if none was."""
    return f", {dropped} upload{'s' * (dropped > 1)} missing" if dropped else ""


def describe_params(params: Mapping[str, object]) -> str:
    """Swept parameters in short form: `lr=0.1, gamma1=0.01`."""
    return ", ".join(f"{short_key(key)}={plain_value(value)}" for key, value in params.items())


def run_name(method: str, params: Mapping[str, object], seed: int) -> str:
    """The short name of a trial's run: `fedsmu gamma1=.02 lr=.1 s=0`.

    params: the swept ones; `algorithm.name` and `seed` are told anyway.
    """
    others = {key: value for key, value in params.items() if key not in ("algorithm.name", "seed")}
    parts = [f"{short_key(key)}={_shortest(value)}" for key, value in others.items()]
    return " ".join([method, *parts, f"s={seed}"])


def short_key(key: str) -> str:
    """The last part of a configuration key; of `algorithm.name` and the like, the section.

    Keys that are swept together ("local.lr, algorithm.gamma1") are joined by a slash.
    """
    if key.endswith(".name"):
        return key.split(".")[-2]
    return "/".join(part.strip().rsplit(".", 1)[-1] for part in key.split(","))


def plain_value(value: object) -> str:
    """A configuration value as text; "-" for None."""
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shortest(value: object) -> str:
    """A configuration value as text, a number without a leading zero: `.02`."""
    text = plain_value(value)
    return re.sub(r"^(-?)0\.", r"\1.", text) if isinstance(value, float) else text
