"""A data set from arrays: of an .npz file, the user's own function, or Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray.datasets.conversion import as_array, count, floats
from fedsmu_ray.datasets.dataset import Dataset, checked, moments
from fedsmu_ray.datasets.labels import classes_of, clients_of
from fedsmu_ray.datasets.mapped import converted, pages_released
from fedsmu_ray.datasets.targets import kind_of, targets_of
from fedsmu_ray.errors import ConfigError

REQUIRED = ("train_x", "train_y", "test_x", "test_y")
OPTIONAL = ("classes", "clients", "symbols", "mean", "std", "scale", "targets")
CHANNELS = (1, 3, 4)  # of images that may have them last


def from_arrays(name: str, arrays: Mapping[str, Any], where: str) -> Dataset:
    """A data set from arrays by name: those in REQUIRED, and any of those in OPTIONAL.

    Arrays may be lists or tensors. uint8 [N, C, H, W] or [N, H, W] are images, normalized by the
    training set's moments unless mean and std are given; whole numbers [N, length] are tokens;
    floats [N, ...] are used as they are, unless they are images with mean and std. Labels and
    `clients` are as in labels.py; targets of another kind, which `targets` names, as in targets.py.
    None stands for an optional value that is left out. Raises ConfigError that names `where`.
    """
    arrays = {k: v for k, v in arrays.items() if v is not None or k not in OPTIONAL}
    _check_keys(arrays, where)
    train_x, test_x = (samples(arrays[key], f"{where}: {key}") for key in ("train_x", "test_x"))
    numbers = {
        key: count(arrays[key], f"{where}: {key}")
        for key in ("classes", "symbols")
        if key in arrays
    }
    kind = kind_of(arrays.get("targets", "classes"), where)
    given = arrays["train_y"], arrays["test_y"]
    train_y: NDArray[Any]
    test_y: NDArray[Any]
    if kind == "classes":
        train_y, test_y, classes = classes_of(*given, numbers.get("classes"), where)
    else:
        train_y, test_y, classes = targets_of(*given, kind, numbers.get("classes"), where)
    clients = clients_of(arrays["clients"], where) if "clients" in arrays else None
    scale = 255.0 if train_x.dtype == np.uint8 else 1.0
    mean = std = symbols = None
    with pages_released(train_x, test_x):
        if train_x.ndim == 4 and train_x.size and (train_x.dtype == np.uint8 or "mean" in arrays):
            (scale,) = floats(arrays.get("scale", scale), f"{where}: scale", 1)
            mean, std = _moments(train_x, arrays, scale, where)
        elif train_x.dtype.kind in "iu" and train_x.size:
            symbols = numbers.get("symbols", 1 + int(train_x.max()))
        _check_used(arrays, mean is not None, symbols is not None, where)
        split_arrays = (train_x, train_y, test_x, test_y)
        dataset = Dataset(name, *split_arrays, classes, mean, std, scale, clients, symbols, kind)
        return checked(dataset, where)


def samples(values: Any, what: str) -> NDArray[Any]:
    """Images uint8 [N, C, H, W], tokens uint8 or int64 [N, length], or float32 [N, ...].

    Gray images [N, H, W] get their channel axis. Raises ConfigError that names `what`.
    """
    x = as_array(values, what)
    cure = _cure(x)
    if cure:
        raise ConfigError([f"{what} {list(x.shape)} of type {x.dtype}: {cure}"])
    if x.dtype == np.uint8:
        return converted(x[:, None] if x.ndim == 3 else x, np.uint8)
    with np.errstate(over="ignore"):  # infinite values are reported by `checked`
        return converted(x, np.float32 if x.dtype.kind == "f" else np.int64)


def _cure(x: NDArray[Any]) -> str:
    """What to do if x cannot be samples; empty if it can."""
    if x.dtype.kind in "US":
        return "text must be encoded as tokens, whole numbers [samples, length]"
    if x.dtype.kind == "b":
        return "convert it to float32, or images to uint8"
    if x.ndim < 2:
        return "it must be [samples, ...]; x[:, None] if each sample is one number"
    if x.dtype == np.uint8 and x.ndim == 4:
        channels_are_last = x.shape[3] in CHANNELS and x.shape[1] not in CHANNELS
        return (
            "images are [N, channels, height, width]: x.transpose(0, 3, 1, 2)" * channels_are_last
        )
    if x.dtype.kind in "iu" and x.ndim > 2 + (x.dtype == np.uint8):
        return (
            "whole numbers are tokens [samples, length] or uint8 images; convert images to uint8 "
            "(16 bits: x // 257), other numbers to float32"
        )
    return ""


def _check_keys(arrays: Mapping[str, Any], where: str) -> None:
    missing = [key for key in REQUIRED if key not in arrays]
    unknown = sorted(str(key) for key in arrays if key not in (*REQUIRED, *OPTIONAL))
    problems = [f"{', '.join(missing)} missing"] * bool(missing)
    problems += [f"{', '.join(unknown)} unknown"] * bool(unknown)
    if problems:
        raise ConfigError(
            [
                f"{where}: {'; '.join(problems)} ({', '.join(REQUIRED)} are required; "
                f"{', '.join(OPTIONAL)} are optional)"
            ]
        )


def _check_used(arrays: Mapping[str, Any], are_images: bool, are_tokens: bool, where: str) -> None:
    """Nothing that was given may be ignored."""
    problems = [
        f"{where}: {key} is for images [samples, channels, height, width]"
        for key in ("mean", "std", "scale")
        if key in arrays and not are_images
    ]
    if ("mean" in arrays) != ("std" in arrays):
        problems.append(f"{where}: mean and std must be given together")
    if "symbols" in arrays and not are_tokens:
        problems.append(f"{where}: symbols is for tokens (whole numbers [samples, length])")
    if problems:
        raise ConfigError(problems)


def _moments(
    images: NDArray[Any], arrays: Mapping[str, Any], scale: float, where: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel: those given, else the images' own."""
    if scale <= 0:
        raise ConfigError([f"{where}: scale = {scale:g} must be positive"])
    if "mean" not in arrays or "std" not in arrays:
        return moments(images, scale)
    mean, std = (
        floats(arrays[key], f"{where}: {key} (per channel)", images.shape[1])
        for key in ("mean", "std")
    )
    if min(std) <= 0:
        raise ConfigError([f"{where}: std = {std} must be positive"])
    white = 255 / scale  # what the largest uint8 becomes
    if images.dtype == np.uint8 and (min(mean) < 0 or max(*mean, *std) > white):
        raise ConfigError(
            [
                f"{where}: mean = {mean}, std = {std}: they are those of the images divided by "
                f"scale = {scale:g}, so at most {white:g}; for moments of 0 to 255 give scale = 1"
            ]
        )
    return mean, std
