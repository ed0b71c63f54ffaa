"""Which clients take part in a round: pure functions of the seed, the round and the split."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf, isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray import plugins
from fedsmu_ray.config.sampling import POWER_OF_CHOICE, SAMPLING
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.numerics import isolation, streams


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
    POWER_OF_CHOICE: _weighted,  # of the candidates, from which `largest` takes the cohort
}


def largest(losses: Mapping[int, float], cohort: int) -> list[int]:
    """The clients with the largest losses, ascending; of equal ones those that come first.

    A loss that is not a number is the largest. Cho, Wang & Joshi, "Towards Understanding Biased
    Client Selection in Federated Learning" (AISTATS 2022): power-of-choice, with candidates that
    are drawn by their shares of the samples.
    """
    order = sorted(losses, key=lambda c: (-inf if isnan(losses[c]) else -losses[c], c))
    return sorted(order[:cohort])


def check_sends_model(downlink: Collection[str], method: str) -> None:
    """Raise ConfigError for power-of-choice with a method whose broadcast holds no model."""
    if "x" not in downlink:
        raise ConfigError(
            [
                f"{SAMPLING} = {POWER_OF_CHOICE}: algorithm.name = {method} sends its clients no "
                "model whose losses could be compared; use weighted"
            ]
        )


def imported_cohort(
    name: str, function: Callable[..., Any], seed: int, round: int, sizes: Tensor, cohort: int
) -> list[int]:
    """The clients that a user's function returns, ascending; raises ConfigError.

    name: the value of `federation.sampling`. function: of the round (from 1), the numbers of
    samples of all clients, int64 [m], how many to return, and a `numpy.random.Generator`, that of
    uniform sampling. Other generators that it may draw from are seeded.
    """
    generator = streams.host_generator(seed, "cohort", round)
    key = streams.keys(seed, "cohort", round, torch.tensor(0))
    with isolation.isolated(int(key) & ((1 << 63) - 1)):
        # A generator function draws while it is listed.
        given = (round, sizes.numpy().copy(), cohort, generator)
        found = plugins.call(SAMPLING, name, lambda *each: _listed(function(*each)), *given)
    where = f"{SAMPLING} = {name}: round {round}: it returned"
    wanted = f"return the numbers of {cohort} different clients (federation.cohort)"
    try:
        clients = [_number(client) for client in found]
    except TypeError:
        shown = f"{type(found).__name__} {str(found)[:100]}"
        raise ConfigError([f"{where} {shown}, not whole numbers; {wanted}"]) from None
    if unknown := [client for client in clients if not 0 <= client < len(sizes)]:
        raise ConfigError(
            [f"{where} client {unknown[0]}, and clients are 0 to {len(sizes) - 1}; {wanted}"]
        )
    if len(clients) != cohort or len(set(clients)) < cohort:
        twice = len(clients) - len(set(clients))
        more = f", {twice} of them again" if twice else ""
        raise ConfigError([f"{where} {len(clients)} clients{more}; {wanted}"])
    return sorted(clients)


def _listed(found: Any) -> Any:
    return list(found) if isinstance(found, Iterable) else found


def _number(client: Any) -> int:
    if isinstance(client, (bool, np.bool_)):
        raise TypeError("a mask, not numbers")
    return operator.index(client)


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
