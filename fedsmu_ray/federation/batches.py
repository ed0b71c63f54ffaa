"""Which samples a client trains on in each of its local steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.datasets.partition import Partition
from fedsmu_ray.numerics import streams


def local_steps(sizes: streams.T, epochs: int, batch_size: int) -> streams.T:
    """K_i, the local steps of clients with `sizes` samples in one round, int64 [C]."""
    return epochs * -(-sizes // batch_size)


@dataclass(frozen=True)
class Batches:
    """The mini-batches of some clients in one round; K is the number of steps of the longest."""

    index: Tensor  # samples of the training set, int64 [C, K, B]; 0 where there is none
    sizes: Tensor  # how many of the B there are, int64 [C, K]; 0 after a client's last step
    steps: Tensor  # K_i, the steps of each client, int64 [C]

    @staticmethod
    def of(
        partition: Partition, clients: Tensor, round: int, seed: int, epochs: int, batch_size: int
    ) -> Batches:
        """Batches of `clients`, int64 [C].

        Every epoch is a fresh permutation of the client's samples, cut into batches; the short last
        batch is kept. The steps of a client follow each other without gaps, so they are the same
        in any group.
        """
        chosen = clients.numpy()
        samples, starts = partition.sizes.numpy()[chosen], partition.starts.numpy()[chosen]
        steps = local_steps(samples, epochs, batch_size)
        order = streams.permutations(streams.keys(seed, "batches", round, chosen), epochs, samples)
        longest = order.shape[-1]
        step, in_epoch = np.arange(steps.max()), (steps // epochs)[:, None]
        epoch, first = step // in_epoch, step % in_epoch * batch_size  # [C, K]
        sizes = np.minimum(samples[:, None] - first, batch_size) * (epoch < epochs)
        slot = np.arange(min(batch_size, longest))
        absent = slot >= sizes[..., None]  # [C, K, B]
        place = (epoch * longest + first)[..., None] + slot
        place[absent] = 0
        order = order.reshape(len(chosen), -1) + starts[:, None]
        rows = np.arange(len(chosen))[:, None, None]
        index = partition.indices.numpy()[order[rows, place]]
        index[absent] = 0
        return Batches(*map(torch.from_numpy, (index, sizes, steps)))
