"""Which clients take part in a round: pure functions of the seed and the round."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsmu_ray.numerics import streams


def sample_cohort(seed: int, round: int, clients: int, cohort: int) -> list[int]:
    """Clients of a round, ascending: uniform without replacement, independent of other rounds."""
    generator = streams.host_generator(seed, "cohort", round)
    drawn: list[int] = generator.choice(clients, cohort, replace=False, shuffle=False).tolist()
    return sorted(drawn)


def drop_out(seed: int, round: int, cohort: list[int], dropout: float) -> list[int]:
    """The cohort without the clients that drop out, each with probability `dropout`."""
    if not dropout:
        return cohort
    keys = streams.keys(seed, "dropout", round, torch.tensor(cohort))
    draws = ((streams.words(keys, torch.tensor(0)) >> 11) & ((1 << 53) - 1)).tolist()
    return [client for client, draw in zip(cohort, draws) if draw >= dropout * (1 << 53)]


def by_size(clients: list[int], sizes: Tensor) -> list[int]:
    """Clients in descending order of their numbers of samples, equal ones in the order given.

    sizes: int64 [m], of all clients. Cut into groups, clients of similar size train together, and
    the longest tasks begin first.
    """
    order = sizes[torch.tensor(clients, dtype=torch.int64)].argsort(descending=True, stable=True)
    return [clients[i] for i in order.tolist()]
