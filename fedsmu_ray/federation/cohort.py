"""Which clients take part in a round: pure functions of the seed, the round and the split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.numerics import streams


def sample_cohort(seed: int, round: int, clients: int, cohort: int) -> list[int]:
    """Clients of a round, ascending: uniform without replacement, independent of other rounds."""
    generator = streams.host_generator(seed, "cohort", round)
    drawn: list[int] = generator.choice(clients, cohort, replace=False, shuffle=False).tolist()
    return sorted(drawn)


def _uniform(seed: int, round: int, sizes: Tensor, cohort: int) -> list[int]:
    return sample_cohort(seed, round, len(sizes), cohort)


def _weighted(seed: int, round: int, sizes: Tensor, cohort: int) -> list[int]:
    """One client after the other, each with a probability proportional to its samples."""
    generator = streams.host_generator(seed, "cohort", round)
    shares = sizes.numpy() / int(sizes.sum())
    return sorted(generator.choice(len(sizes), cohort, replace=False, p=shares).tolist())


def _fixed(seed: int, round: int, sizes: Tensor, cohort: int) -> list[int]:
    """The clients of the first round of uniform sampling, in every round."""
    return sample_cohort(seed, 1, len(sizes), cohort)


def _cyclic(seed: int, round: int, sizes: Tensor, cohort: int) -> list[int]:
    """The next ones of an order that is drawn once, so that all take part equally often."""
    order = streams.host_generator(seed, "cohort").permutation(len(sizes))
    places = np.arange((round - 1) * cohort, round * cohort) % len(sizes)
    return sorted(order[places].tolist())


# By the values of `federation.sampling`. Each takes the seed, the round (from 1), the numbers of
# samples of all clients, int64 [m], and how many clients are asked; it returns them in ascending
# order.
SAMPLINGS: dict[str, Callable[[int, int, Tensor, int], list[int]]] = {
    "uniform": _uniform,
    "weighted": _weighted,
    "fixed": _fixed,
    "cyclic": _cyclic,
}


def drop_out(seed: int, round: int, cohort: list[int], dropout: float) -> list[int]:
    """The cohort without the clients that drop out, each with probability `dropout`."""
    if not dropout:
        return cohort
    keys = streams.keys(seed, "dropout", round, torch.tensor(cohort))
    draws = ((streams.words(keys, torch.tensor(0)) >> 11) & ((1 << 53) - 1)).tolist()
    return [client for client, draw in zip(cohort, draws) if draw >= dropout * (1 << 53)]


def descending(clients: list[int], numbers: Tensor) -> list[int]:
    """Clients in descending order of their numbers, equal ones in the order given.

    numbers: int64 [m], of all clients.
    """
    order = numbers[torch.tensor(clients, dtype=torch.int64)].argsort(descending=True, stable=True)
    return [clients[i] for i in order.tolist()]
