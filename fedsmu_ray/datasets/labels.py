"""Labels as classes 0..C-1, and natural clients as numbers."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray.datasets.conversion import as_array, whole_numbers
from fedsmu_ray.datasets.dataset import MOST
from fedsmu_ray.errors import ConfigError

log = logging.getLogger(__name__)

TEXT = "USO"  # kinds of dtypes: NumPy's own text, and Python's strings
Classes = tuple[NDArray[np.int64], NDArray[np.int64], int]


def classes_of(train_y: Any, test_y: Any, classes: int | None, where: str) -> Classes:
    """Training and test labels int64 [N] in 0..C-1, and C.

    With `classes` given, numbers must be in 0..classes-1 and are used as they are; some classes may
    have no sample. Otherwise the classes are the labels of the training set: if they are not
    0..C-1 (or are text), they are mapped to 0..C-1 in sorted order, and a warning says so. Raises
    ConfigError that names `where` and the first label that is wrong.
    """
    labels = {key: vector(y, key, where) for key, y in (("train_y", train_y), ("test_y", test_y))}
    if len({y.dtype.kind for y in labels.values()}) > 1:
        labels = {key: y.astype(str) if y.dtype == object else y for key, y in labels.items()}
    train, test = labels.values()
    is_text = train.dtype.kind in TEXT
    if train.dtype.kind != test.dtype.kind and (is_text or test.dtype.kind in TEXT):
        raise ConfigError(
            [f"{where}: train_y is {train.dtype} and test_y {test.dtype}; both must be alike"]
        )
    if classes is not None and not is_text:
        for key, y in labels.items():
            _check_range(y, key, classes, where)
        return train.astype(np.int64, copy=False), test.astype(np.int64, copy=False), classes
    known = np.unique(train)
    if classes is None:
        _check_known(test, known, where)
    else:  # text: the test set may have classes that the training set lacks
        known = np.union1d(train, test)
        if len(known) > classes:
            raise ConfigError(
                [f"{where}: classes = {classes}, but there are {len(known)} labels: {_some(known)}"]
            )
    if is_text or not np.array_equal(known, np.arange(len(known))):
        can_stay = not is_text and 0 <= known[0] <= known[-1] < MOST
        keep = f"; with classes = {known[-1] + 1} they are used as they are" if can_stay else ""
        log.warning(
            "%s: the %d labels %s are used as classes 0..%d, in this order%s",
            where,
            len(known),
            _some(known),
            len(known) - 1,
            keep,
        )
    train, test = np.searchsorted(known, train), np.searchsorted(known, test)
    return train, test, len(known) if classes is None else classes


def vector(values: Any, key: str, where: str) -> NDArray[Any]:
    """Whole numbers or text (a dtype of a kind in TEXT) [N].

    Raises ConfigError that names `where` and `key`.
    """
    if (text := _text(values)) is not None:
        return text
    array = as_array(values, f"{where}: {key}")
    if not len(array):
        raise ConfigError([f"{where}: {key} is empty; there must be at least one sample"])
    if array.ndim == 1:
        return whole_numbers(array, f"{where}: {key}")
    cure = f"{key}.reshape(-1)" if array.shape[1:] == (1,) else f"{key}.argmax(1) if it is one-hot"
    cure += ", or `targets` must say that it is multi_hot, values or tokens"
    raise ConfigError(
        [f"{where}: {key} is {list(array.shape)}; it must hold one value per sample: {cure}"]
    )


def clients_of(clients: Any, where: str) -> NDArray[np.int64]:
    """The natural client of each sample, int64 [N]; text is numbered in sorted order."""
    numbers = vector(clients, "clients", where)
    if numbers.dtype.kind in TEXT:
        return np.unique(numbers, return_inverse=True)[1]
    return numbers.astype(np.int64, copy=False)


def _text(values: Any) -> NDArray[Any] | None:
    """A list of text as an array of its strings; None for anything else.

    NumPy's own text takes the memory of the longest value for every row, four bytes a character.
    """
    is_list = isinstance(values, list) or (
        isinstance(values, np.ndarray) and values.dtype == object and values.ndim == 1
    )
    if is_list and len(values) and all(type(value) is str for value in values):
        return np.array(values, object)
    return None


def _check_range(y: NDArray[Any], key: str, classes: int, where: str) -> None:
    wrong = np.flatnonzero((y < 0) | (y >= classes))
    if len(wrong):
        raise ConfigError(
            [
                f"{where}: {key}[{wrong[0]}] = {y[wrong[0]]}: labels must be in 0..{classes - 1}, "
                f"since classes = {classes}; correct the label or classes"
            ]
        )


def _check_known(test: NDArray[Any], known: NDArray[Any], where: str) -> None:
    unknown = np.flatnonzero(~np.isin(test, known))
    if len(unknown):
        raise ConfigError(
            [
                f"{where}: test_y[{unknown[0]}] = {test[unknown[0]]}: no training sample has this "
                f"label (they have {_some(known)}); correct it, or give the number of `classes`"
            ]
        )


def _some(labels: NDArray[Any]) -> str:
    """The labels for a message: all of a few, else the first and the last ones."""
    if len(labels) <= 6:
        return ", ".join(map(str, labels))
    return f"{labels[0]}, {labels[1]}, {labels[2]}, ..., {labels[-1]}"
