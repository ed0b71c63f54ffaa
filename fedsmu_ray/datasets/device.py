"""A data set on the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.numerics import gpu
from fedsmu_ray.numerics.parameters import as_tensor

PREFETCHED_BYTES = 1 << 18
PREFETCHED_BYTES_OF_GPU = 1 << 26


class DeviceData:
    """A data set on the device that trains; on the CPU it shares the memory of the arrays."""

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.device = device
        self.train_x, self.train_y, self.test_x, self.test_y = (
            as_tensor(array).to(device)
            for array in (dataset.train_x, dataset.train_y, dataset.test_x, dataset.test_y)
        )
        self.is_normalized = dataset.mean is not None
        if self.is_normalized:
            mean = torch.tensor(dataset.mean, device=device)
            std = torch.tensor(dataset.std, device=device)
            self.factor = (1 / (dataset.scale * std))[:, None, None]
            self.offset = (mean / std)[:, None, None]
        # How many samples to look up at once: what a core's cache can hold, or a GPU spare.
        room = PREFETCHED_BYTES if device.type == "cpu" else PREFETCHED_BYTES_OF_GPU
        self.samples_ahead = room // max(1, self._prepared(self.train_x[:1]).nbytes)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Training samples in the form the model takes, and their labels.

        index [...] gives samples [..., *shape] and labels [...].
        """
        index = gpu.upload(index, self.device)
        # For large samples several times as fast as train_x[index].
        x = self.train_x.index_select(0, index.flatten())
        x = x.view(index.shape + x.shape[1:])
        return self._prepared(x), self.train_y[index]

    def test_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Test samples start..stop-1 in the form the model takes, and their labels.

        They are copies, as in `batch`, since a model may change its inputs in place.
        """
        return self._prepared(self.test_x[start:stop].clone()), self.test_y[start:stop]

    def _prepared(self, x: Tensor) -> Tensor:
        """Normalized images; tokens as int64; anything else as it is."""
        if self.is_normalized:
            return x.float().mul_(self.factor).sub_(self.offset)
        return x if x.is_floating_point() else x.long()
