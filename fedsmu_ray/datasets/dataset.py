"""Data sets, their split over clients, and the copy a training process works on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.datasets.partition import Partition, partition
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.numerics.parameters import as_tensor

__all__ = ["Dataset", "DeviceData", "Partition", "partition"]


@dataclass(frozen=True)
class Dataset:
    """Training and test samples as they are stored; images are normalised only when a batch is drawn.

    train_x, test_x: images uint8 [N, channels, height, width]; tokens uint8 or int64 [N, length]; or float32 [N, ...].
    train_y, test_y: int64 [N] in range(classes).
    mean, std: per channel, of values scaled to [0, 1] by dividing by `scale`; None for samples that are used as they are.
    clients: int64 [N], whose each training sample is by nature (a role, a writer); None where there is no such thing.
    symbols: the number of different tokens; None where samples are not tokens.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float = 255.0
    clients: np.ndarray | None = None
    symbols: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.train_x.shape[1:]

    @property
    def is_image(self) -> bool:
        return self.train_x.ndim == 4 and self.mean is not None


def moments(x: np.ndarray, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of images [N, C, H, W] / scale, in blocks to spare memory."""
    count = x.size / x.shape[1]
    total = squares = 0.0
    for i in range(0, len(x), 1000):
        block = x[i : i + 1000].astype(np.float32)
        total, squares = (
            total + block.sum((0, 2, 3), dtype=np.float64),
            squares + (block**2).sum((0, 2, 3), dtype=np.float64),
        )
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    return tuple((mean / scale).tolist()), tuple((std / scale).tolist())


def checked(dataset: Dataset, where: str) -> Dataset:
    """The data set, if its arrays fit together and hold what they should; raises ConfigError naming `where`."""
    problems = []
    splits = ("train", dataset.train_x, dataset.train_y), ("test", dataset.test_x, dataset.test_y)
    for split, x, y in splits:
        if y.ndim != 1 or y.dtype != np.int64 or len(x) != len(y) or not len(y):
            problems.append(
                f"{where}: {split}_x {list(x.shape)} and {split}_y {list(y.shape)} ({y.dtype}) must hold the same "
                "number of samples, at least one, and labels must be whole numbers"
            )
        elif y.min() < 0 or y.max() >= dataset.classes:
            wrong = int(np.flatnonzero((y < 0) | (y >= dataset.classes))[0])
            problems.append(
                f"{where}: {split}_y[{wrong}] = {y[wrong]}: labels must be in 0..{dataset.classes - 1}"
            )
        if x.dtype not in (np.uint8, np.int64, np.float32):
            problems.append(
                f"{where}: {split}_x is {x.dtype}; it must be uint8 (images), int64 (tokens) or float32"
            )
        elif x.dtype == np.float32 and not np.isfinite(x).all():
            problems.append(
                f"{where}: {split}_x holds NaN or infinite values; remove those samples"
            )
        elif dataset.symbols is not None and x.size and (x.min() < 0 or x.max() >= dataset.symbols):
            problems.append(f"{where}: {split}_x holds tokens outside 0..{dataset.symbols - 1}")
    if (
        dataset.train_x.shape[1:] != dataset.test_x.shape[1:]
        or dataset.train_x.dtype != dataset.test_x.dtype
    ):
        train, test = (
            f"{list(x.shape[1:])} ({x.dtype})" for x in (dataset.train_x, dataset.test_x)
        )
        problems.append(
            f"{where}: training samples are {train} and test samples {test}; make them alike"
        )
    if dataset.clients is not None and dataset.clients.shape != dataset.train_y.shape:
        problems.append(
            f"{where}: clients {list(dataset.clients.shape)} must hold one whole number for every training sample"
        )
    if problems:
        raise ConfigError(problems)
    return dataset


class DeviceData:
    """A data set resident on the device that trains; on the CPU it shares the arrays' memory."""

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.device = device
        self.train_x, self.train_y, self.test_x, self.test_y = (
            as_tensor(a).to(device)
            for a in (dataset.train_x, dataset.train_y, dataset.test_x, dataset.test_y)
        )
        self.normalised = dataset.mean is not None
        if self.normalised:
            mean, std = (
                torch.tensor(dataset.mean, device=device),
                torch.tensor(dataset.std, device=device),
            )
            self.factor = (1 / (dataset.scale * std))[:, None, None]
            self.offset = (mean / std)[:, None, None]

    def _normal(self, x: Tensor) -> Tensor:
        """Normalised images; tokens as int64; anything else as it is."""
        if self.normalised:
            return x.float().mul_(self.factor).sub_(self.offset)
        return x if x.is_floating_point() else x.long()

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Training samples ready for the model, and labels: index [C, B] gives [C, B, ...] and [C, B]."""
        index = index.to(self.device)
        return self._normal(self.train_x[index]), self.train_y[index]

    def test_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        return self._normal(self.test_x[start:stop]), self.test_y[start:stop]
