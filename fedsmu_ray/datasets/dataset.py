"""Training and test samples in memory, and the checks that every data set has to pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.objectives.targets import Targets

BLOCK = 1000  # samples looked at at once
MOST = 1 << 24  # classes or symbols; a model for more would not fit the memory
BLOCK_BYTES = 1 << 24  # of an array, looked at at once


@dataclass(frozen=True)
class Dataset:
    """Training and test samples as they are stored; batches of images are normalized when drawn.

    train_x, test_x: images uint8 [N, channels, height, width]; tokens uint8 or int64 [N, length];
    or float32 [N, ...]. train_y, test_y: by `targets`, their kind (see `objectives.targets`);
    classes: of classes or tokens, otherwise the number of labels or values. mean, std: per channel,
    of values scaled to [0, 1] by dividing by `scale`; None for samples that are used as they are.
    clients: int64 [N], the natural client (a role, a writer) of each training sample; None if there
    are none. symbols: the number of different tokens; None if samples are not tokens.
    """

    name: str
    train_x: NDArray[Any]
    train_y: NDArray[Any]
    test_x: NDArray[Any]
    test_y: NDArray[Any]
    classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float = 255.0
    clients: NDArray[np.int64] | None = None
    symbols: int | None = None
    targets: Targets = "classes"

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of a model's output for one sample."""
        return (
            (*self.train_y.shape[1:], self.classes) if self.targets == "tokens" else (self.classes,)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.train_x.shape[1:]

    @property
    def is_image(self) -> bool:
        """Whether samples are images, which can be augmented."""
        return self.train_x.ndim == 4 and self.mean is not None

    def digest(self) -> str:
        """A hash of all that training and evaluation read: 32 hexadecimal digits (128-bit xxHash).

        Equal values have equal digests, whatever their layout in memory. The name does not count.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        symbols = -1 if self.symbols is None else self.symbols
        moments = (*(self.mean or ()), *(self.std or ()))
        facts = np.array([self.classes, symbols, self.scale, *moments], np.float64)
        clients = np.empty(0, np.int64) if self.clients is None else self.clients
        hasher = xxhash.xxh3_128()
        if self.targets != "classes":
            hasher.update(self.targets.encode())
        for array in (facts, self.train_x, self.train_y, self.test_x, self.test_y, clients):
            little_endian = array.dtype.newbyteorder("<")
            hasher.update(f"{little_endian.str}{array.shape}".encode())
            rows = max(1, BLOCK_BYTES * len(array) // max(1, array.nbytes))
            for start in range(0, len(array), rows):
                block = array[start : start + rows].astype(little_endian, copy=False)
                hasher.update(np.ascontiguousarray(block))  # type: ignore[arg-type]
        return hasher.hexdigest()


def moments(x: NDArray[Any], scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of images [N, C, H, W] / scale.

    They are computed in blocks to save memory; those of uint8 are exact, whatever the blocks.
    """
    rows = max(1, BLOCK_BYTES * len(x) // max(1, 4 * x.size))
    count = x.size / x.shape[1]
    total = np.zeros(x.shape[1])
    squares = np.zeros(x.shape[1])
    for start in range(0, len(x), rows):
        block = x[start : start + rows].astype(np.float32)
        total += block.sum((0, 2, 3), dtype=np.float64)
        squares += (block**2).sum((0, 2, 3), dtype=np.float64)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    return tuple((mean / scale).tolist()), tuple((std / scale).tolist())


def checked(dataset: Dataset, where: str) -> Dataset:
    """The data set, if its arrays are valid and match; raises ConfigError that names `where`."""
    problems = _number_problems(dataset)
    splits = ("train", dataset.train_x, dataset.train_y), ("test", dataset.test_x, dataset.test_y)
    for split, x, y in splits:
        problems += [
            *_target_problems(x, y, dataset, split),
            *_sample_problems(x, dataset.symbols, split),
        ]
    train, test = (f"{list(x.shape[1:])} ({x.dtype})" for x in (dataset.train_x, dataset.test_x))
    if train != test:
        problems.append(
            f"training samples are {train} and test samples {test}; they must have the same shape "
            "and type"
        )
    if dataset.clients is not None and dataset.clients.shape != dataset.train_y.shape:
        problems.append(
            f"clients {list(dataset.clients.shape)} must hold one whole number for every training "
            "sample"
        )
    if problems:
        raise ConfigError([f"{where}: {problem}" for problem in problems])
    return dataset


def _number_problems(dataset: Dataset) -> list[str]:
    problems = []
    if dataset.classes < 2 and dataset.targets in ("classes", "tokens"):
        problems.append(
            f"classes = {dataset.classes}: there must be at least two, or nothing can be learned"
        )
    for key in ("classes", "symbols"):
        number = getattr(dataset, key) or 0
        if number > MOST:
            problems.append(f"{key} = {number}: at most {MOST}; number them 0, 1, 2, ...")
    return problems


def _target_problems(x: NDArray[Any], y: NDArray[Any], dataset: Dataset, split: str) -> list[str]:
    if len(x) != len(y) or not len(y):
        return [
            f"{split}_x {list(x.shape)} and {split}_y {list(y.shape)} must hold the same number of "
            "samples, at least one"
        ]
    kind, classes = dataset.targets, dataset.classes
    if kind in ("multi_hot", "values"):
        return _vector_problems(y, kind, classes, split)
    axes = ("samples", "positions")[: 1 + (kind == "tokens")]
    if y.ndim != len(axes) or y.dtype != np.int64:
        return [
            f"{split}_y is {list(y.shape)} ({y.dtype}); targets of kind {kind} must be int64 "
            f"[{', '.join(axes)}]"
        ]
    wrong = np.argwhere(((y < 0) & (kind == "classes")) | (y >= classes))
    if len(wrong):
        at = tuple(wrong[0].tolist())
        return [f"{split}_y{list(at)} = {y[at]}: labels must be in 0..{classes - 1}"]
    return []


def _vector_problems(y: NDArray[Any], kind: str, count: int, split: str) -> list[str]:
    if y.ndim != 2 or y.dtype != np.float32 or y.shape[1] != count:
        return [
            f"{split}_y is {list(y.shape)} ({y.dtype}); targets of kind {kind} must be float32 "
            f"[samples, {count}]"
        ]
    fits = np.isfinite(y) if kind == "values" else (y == 0) | (y == 1)
    wrong = np.argwhere(~fits)
    if len(wrong):
        at = tuple(wrong[0].tolist())
        must = "be a finite number" if kind == "values" else "be 0 or 1"
        return [f"{split}_y{list(at)} = {y[at]}: it must {must}"]
    return []


def _sample_problems(x: NDArray[Any], symbols: int | None, split: str) -> list[str]:
    if x.dtype not in (np.uint8, np.int64, np.float32):
        return [f"{split}_x is {x.dtype}; it must be uint8 (images), int64 (tokens) or float32"]
    if x.ndim < 2 or 0 in x.shape[1:]:
        return [f"{split}_x is {list(x.shape)}; a sample must hold at least one number"]
    if x.dtype == np.float32:
        wrong = _not_finite(x)
        if len(wrong):
            return [
                f"{split}_x holds NaN or infinite values, or values beyond float32, in "
                f"{len(wrong)} samples (the first is {split}_x[{wrong[0]}]); correct or remove them"
            ]
    if symbols is not None and x.size and (x.min() < 0 or x.max() >= symbols):
        return [
            f"{split}_x holds tokens {x.min()} to {x.max()}; they must be in 0..{symbols - 1}, "
            f"since symbols = {symbols} (numbers that are not tokens must be float32)"
        ]
    return []


def _not_finite(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """Indices of the samples that hold NaN or infinite values."""
    finite = [
        np.isfinite(x[i : i + BLOCK]).reshape(len(x[i : i + BLOCK]), -1).all(1)
        for i in range(0, len(x), BLOCK)
    ]
    return np.flatnonzero(~np.concatenate([np.empty(0, bool), *finite]))
