"""How skewed a split is, from its counts of samples by client and class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def covering(counts: NDArray[np.int64], share: float = 0.8) -> NDArray[np.int64]:
    """How many of its most frequent classes hold `share` of a client's samples, [clients].

    counts: [clients, classes].
    """
    shares = -np.sort(-counts, axis=1).cumsum(1) / counts.sum(1, keepdims=True)
    below = (shares < share - 1e-12).sum(1)
    return np.asarray(below + 1, np.int64)


def statistics(counts: NDArray[np.int64]) -> dict[str, int | float]:
    """Figures that describe the split, from counts [clients, classes]."""
    sizes, cover = counts.sum(1), covering(counts)
    return {
        "clients": len(counts),
        "samples": int(sizes.sum()),
        "size_min": int(sizes.min()),
        "size_median": float(np.median(sizes)),
        "size_max": int(sizes.max()),
        "classes_median": float(np.median((counts > 0).sum(1))),
        "classes_covering_80_min": int(cover.min()),
        "classes_covering_80_median": float(np.median(cover)),
        "classes_covering_80_max": int(cover.max()),
    }
