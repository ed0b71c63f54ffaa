"""Targets other than classes, from what users hand over; and labels by which any can be split."""

from __future__ import annotations

from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray.datasets.conversion import as_array, whole_numbers
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.objectives.targets import Targets

BINS = 10  # of values, as labels


def kind_of(given: Any, where: str) -> Targets:
    """The kind of targets that `targets` names; raises ConfigError that names `where`."""
    name = str(np.asarray(given))
    if name not in get_args(Targets):
        raise ConfigError(
            [f"{where}: targets = {name[:40]!r}: must be one of {', '.join(get_args(Targets))}"]
        )
    return cast(Targets, name)


def targets_of(
    train_y: Any, test_y: Any, kind: Targets, classes: int | None, where: str
) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Training and test targets in the form of `Dataset`, and how many outputs they need.

    Values and labels may be [N], for one of them. classes: as given, else that of the tokens in the
    training set. Raises ConfigError that names `where`.
    """
    train, test = (
        _array(y, kind, f"{where}: {k}") for k, y in (("train_y", train_y), ("test_y", test_y))
    )
    found = train.shape[-1] if kind in ("multi_hot", "values") else 1 + int(train.max(initial=0))
    if kind != "tokens" and classes not in (None, found):
        raise ConfigError(
            [f"{where}: classes = {classes}, but train_y has {found} columns; leave classes out"]
        )
    return train, test, classes or found


def _array(values: Any, kind: Targets, what: str) -> NDArray[Any]:
    array = as_array(values, what)
    if array.dtype.kind in "US":
        raise ConfigError([f"{what} is text; targets of kind {kind} are numbers"])
    if kind == "tokens":
        return whole_numbers(array, what).astype(np.int64, copy=False)
    with np.errstate(over="ignore"):  # infinite values are reported by `checked`
        floats = array.astype(np.float32, copy=False)
    return floats[:, None] if floats.ndim == 1 else floats


def labels_to_split(dataset: Dataset) -> tuple[NDArray[np.int64], int]:
    """A label of each training sample, int64 [N], by which clients get skewed data; and how many.

    Of classes, these; of several labels, the first one that is 1 (one more label if there is none);
    of values, the tenth of the training set in which the first one lies; of tokens there are none,
    so that all samples have the same.
    """
    y = dataset.train_y
    if dataset.targets == "classes":
        return y, dataset.classes
    if dataset.targets == "tokens":
        return np.zeros(len(y), np.int64), 1
    if dataset.targets == "multi_hot":
        return np.where(y.any(1), y.argmax(1), y.shape[1]), y.shape[1] + 1
    ranks = np.empty(len(y), np.int64)
    ranks[np.argsort(y[:, 0], kind="stable")] = np.arange(len(y))
    return ranks * BINS // len(y), BINS
