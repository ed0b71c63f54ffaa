"""Which clients take part in a round: pure functions of the seed and the round."""

from __future__ import annotations

import torch

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
