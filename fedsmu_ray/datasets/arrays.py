"""A data set from arrays: of an .npz file, the user's own function, or Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray.datasets.dataset import Dataset, checked, moments
from fedsmu_ray.errors import ConfigError

REQUIRED = ("train_x", "train_y", "test_x", "test_y")
OPTIONAL = ("classes", "clients", "symbols", "mean", "std")


def from_arrays(name: str, arrays: Mapping[str, Any], where: str) -> Dataset:
    """A data set from arrays by name: those in REQUIRED, and any of those in OPTIONAL.

    uint8 [N, C, H, W] or [N, H, W] are images, normalized by the training set's moments unless mean
    and std are given; other whole numbers are tokens; floats are used as they are. Labels and
    `clients` are whole numbers. Raises ConfigError that names `where`.
    """
    _check_keys(arrays, where)
    train_x, test_x = (_samples(arrays[key], where) for key in ("train_x", "test_x"))
    train_y, test_y = (
        _whole_numbers(np.ascontiguousarray(arrays[key]), f"{where}: {key}")
        for key in ("train_y", "test_y")
    )
    clients = None
    if "clients" in arrays:
        clients = _whole_numbers(np.asarray(arrays["clients"]), f"{where}: clients")
    classes = int(arrays["classes"]) if "classes" in arrays else 1 + int(train_y.max(initial=0))
    mean = std = symbols = None
    if train_x.dtype == np.uint8 and train_x.ndim == 4 and len(train_x):
        mean, std = _moments(train_x, arrays, where)
    elif train_x.dtype.kind in "iu" and train_x.size:
        symbols = int(arrays["symbols"]) if "symbols" in arrays else 1 + int(train_x.max())
    split_arrays = (train_x, train_y, test_x, test_y)
    dataset = Dataset(name, *split_arrays, classes, mean, std, clients=clients, symbols=symbols)
    return checked(dataset, where)


def _check_keys(arrays: Mapping[str, Any], where: str) -> None:
    missing = [key for key in REQUIRED if key not in arrays]
    unknown = sorted(set(arrays) - {*REQUIRED, *OPTIONAL})
    problems = [f"{', '.join(missing)} missing"] * bool(missing)
    problems += [f"{', '.join(unknown)} unknown"] * bool(unknown)
    if problems:
        raise ConfigError(
            [
                f"{where}: {'; '.join(problems)} ({', '.join(REQUIRED)} are required; "
                f"{', '.join(OPTIONAL)} are optional)"
            ]
        )


def _samples(values: Any, where: str) -> NDArray[Any]:
    """Gray images get their channel axis; whole numbers become int64, floats float32."""
    x = np.ascontiguousarray(values)
    if x.dtype == np.uint8:
        return x[:, None] if x.ndim == 3 else x
    if x.dtype.kind not in "iuf" or x.ndim < 2:
        raise ConfigError(
            [
                f"{where}: samples {list(x.shape)} of type {x.dtype}: expected [samples, ...] of "
                "uint8 (images), whole numbers (tokens) or floats"
            ]
        )
    return x.astype(np.float32 if x.dtype.kind == "f" else np.int64, copy=False)


def _whole_numbers(values: NDArray[Any], where: str) -> NDArray[np.int64]:
    if values.dtype.kind not in "iub":
        raise ConfigError([f"{where} is {values.dtype}; it must hold whole numbers"])
    return values.astype(np.int64, copy=False)


def _moments(
    images: NDArray[np.uint8], arrays: Mapping[str, Any], where: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel: those given, else the images' own."""
    if "mean" in arrays and "std" in arrays:
        mean, std = (
            tuple(np.asarray(arrays[key], np.float64).reshape(-1).tolist())
            for key in ("mean", "std")
        )
    else:
        mean, std = moments(images, 255.0)
    channels = images.shape[1]
    if not len(mean) == len(std) == channels or min(std) <= 0:
        raise ConfigError(
            [
                f"{where}: mean {mean} and std {std} need a number for each of the {channels} "
                "channels, and std must be positive"
            ]
        )
    return mean, std
