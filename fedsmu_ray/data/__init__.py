"""Data sets, their split over clients, and the copy a training process works on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.data.partition import Partition, partition

__all__ = ["Dataset", "DeviceData", "Partition", "partition"]


@dataclass(frozen=True)
class Dataset:
    """Training and test samples as they are stored; normalised only when a batch is drawn.

    train_x, test_x: uint8 [N, channels, height, width]. train_y, test_y: int64 [N] in range(classes).
    mean, std: per channel, of values scaled to [0, 1] by dividing by `scale`.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.train_x.shape[1:]


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over the array's memory. Shared-memory arrays are read-only, and are only ever read here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


class DeviceData:
    """A data set resident on the device that trains; on the CPU it shares the arrays' memory."""

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.device = device
        self.train_x, self.train_y, self.test_x, self.test_y = (
            as_tensor(a).to(device) for a in (dataset.train_x, dataset.train_y, dataset.test_x, dataset.test_y))
        mean, std = torch.tensor(dataset.mean, device=device), torch.tensor(dataset.std, device=device)
        self.factor = (1 / (dataset.scale * std))[:, None, None]
        self.offset = (mean / std)[:, None, None]

    def _normal(self, x: Tensor) -> Tensor:
        return x.float().mul_(self.factor).sub_(self.offset)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised training samples and labels: index [C, B] gives [C, B, ...] and [C, B]."""
        index = index.to(self.device)
        return self._normal(self.train_x[index]), self.train_y[index]

    def test_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        return self._normal(self.test_x[start:stop]), self.test_y[start:stop]
