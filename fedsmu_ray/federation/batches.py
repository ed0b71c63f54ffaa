"""Which samples a client trains on in each of its local steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.config.local import LocalConfig
from fedsmu_ray.datasets.partition import Partition
from fedsmu_ray.numerics import streams


@dataclass(frozen=True)
class Work:
    """How long clients train: a number of epochs or steps, drawn for each and round if asked for.

    A draw is a function of seed, round and client, so that every process knows it.
    """

    local: LocalConfig
    seed: int

    @property
    def interval(self) -> tuple[int, int]:
        """The least and the largest number of epochs, or of steps with `local.steps`."""
        given = self.local.epochs if self.local.steps is None else self.local.steps
        assert given is not None
        low, high = given["uniform"] if isinstance(given, Mapping) else (given, given)
        return low, high

    @property
    def is_drawn(self) -> bool:
        """Whether rounds differ."""
        low, high = self.interval
        return low < high

    def steps(self, round: int, clients: streams.T, sizes: streams.T) -> streams.T:
        """K_i, the local steps of `clients` with `sizes` samples in a round, int64 [C]."""
        low, high = self.interval
        number = low + clients * 0
        if self.is_drawn:
            word = streams.words(streams.keys(self.seed, "work", round, clients), clients * 0)
            number = number + (word & (1 << 62) - 1) % (high - low + 1)
        return number if self.local.steps is not None else number * self._in_epoch(sizes)

    def most_steps(self, size: int) -> int:
        """The most steps of a client with so many samples."""
        most = self.interval[1]
        return most if self.local.steps is not None else most * self._in_epoch(size)

    def mean_samples(self, size: float) -> float:
        """On how many samples a client with `size` of them trains in a round, on average, about."""
        mean = sum(self.interval) / 2
        return mean * (size if self.local.steps is None else min(size, self.local.batch_size))

    def _in_epoch(self, sizes: Any) -> Any:
        return -(-sizes // self.local.batch_size)


@dataclass(frozen=True)
class Batches:
    """The mini-batches of some clients in one round; K is the number of steps of the longest."""

    index: Tensor  # samples of the training set, int64 [C, K, B]; 0 where there is none
    sizes: Tensor  # how many of the B there are, int64 [C, K]; 0 after a client's last step
    steps: Tensor  # K_i, the steps of each client, int64 [C]

    @staticmethod
    def of(partition: Partition, clients: Tensor, round: int, work: Work) -> Batches:
        """Batches of `clients`, int64 [C].

        Every epoch is a fresh permutation of the client's samples, cut into batches; the short last
        batch is kept. The steps of a client follow each other without gaps, the last epoch
        may be cut short, and they are the same in any group.
        """
        chosen = clients.numpy()
        samples, starts = partition.sizes.numpy()[chosen], partition.starts.numpy()[chosen]
        steps, batch_size = work.steps(round, chosen, samples), work.local.batch_size
        in_epoch = -(-samples // batch_size)
        epochs = int((-(-steps // in_epoch)).max())
        key = streams.keys(work.seed, "batches", round, chosen)
        order = streams.permutations(key, epochs, samples)
        longest, step, in_epoch = order.shape[-1], np.arange(steps.max()), in_epoch[:, None]
        epoch, first = step // in_epoch, step % in_epoch * batch_size  # [C, K]
        sizes = np.minimum(samples[:, None] - first, batch_size) * (step < steps[:, None])
        slot = np.arange(min(batch_size, longest))
        absent = slot >= sizes[..., None]  # [C, K, B]
        place = (epoch * longest + first)[..., None] + slot
        place[absent] = 0
        order = order.reshape(len(chosen), -1) + starts[:, None]
        rows = np.arange(len(chosen))[:, None, None]
        index = partition.indices.numpy()[order[rows, place]]
        index[absent] = 0
        return Batches(*map(torch.from_numpy, (index, sizes, steps)))
