"""One color for each method, the same wherever it is shown."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

# Can be told apart by the color-blind, on white and on black: those of Okabe and Ito (2008)
# without black and yellow, then gray and brown.
PALETTE = (
    "#0072b2",  # blue
    "#d55e00",  # vermilion
    "#009e73",  # green
    "#cc79a7",  # purple
    "#e69f00",  # orange
    "#56b4e9",  # sky blue
    "#808080",  # gray
    "#9c6b3f",  # brown
)
# In this order, so that those that are often compared differ.
METHODS = (
    ("fedsmu", "fedavg", "scaffold", "fedadam", "fedcams", "scallion", "fedprox", "fed_ef")
    + ("fedlion", "fedavgm", "feddyn", "dlion", "ef21", "fedsmu_mc", "fedyogi", "fedams")
    + ("fed_local_lion", "signsgd_mv", "fed_global_lion", "fednova")
)


def color_of(method: str) -> str:
    """The color of a method, as #rrggbb; of one of the user's, by its name."""
    known = method in METHODS
    number = METHODS.index(method) if known else crc32(method.encode())
    return PALETTE[number % len(PALETTE)]


def colors_of(methods: Iterable[str]) -> dict[str, str]:
    """Colors for methods that are shown together: their own, or others where those are taken.

    Beyond the number of colors they repeat.
    """
    colors: dict[str, str] = {}
    for method in dict.fromkeys(methods):
        free = [color for color in PALETTE if color not in colors.values()]
        own = color_of(method)
        colors[method] = own if own in free or not free else free[0]
    return colors
