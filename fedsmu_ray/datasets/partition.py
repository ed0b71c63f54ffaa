"""Splits of the training samples over the clients.

They are pure functions of the labels (or the natural clients) and the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedsmu_ray.errors import ConfigError
from fedsmu_ray.numerics.parameters import as_tensor
from fedsmu_ray.numerics.streams import host_generator

DIRICHLET_BLOCK = 8192  # samples assigned at once

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class PartitionConfig:
    """How training samples are assigned to clients. Each kind reads its own keys."""

    kind: Annotated[
        Literal["dirichlet", "iid", "shards", "natural", "quantity_skew"],
        Field(
            description="label skew (dirichlet, shards), size skew (quantity_skew), no skew (iid), "
            "or the data set's own clients (natural)"
        ),
    ] = "dirichlet"
    alpha: Annotated[
        float,
        Field(
            gt=0,
            le=1e12,  # the gamma variates that make up a Dirichlet draw overflow far above it
            description="Dirichlet concentration (dirichlet, quantity_skew); smaller is more "
            "skewed",
        ),
    ] = 0.25
    sigma: Annotated[
        float,
        Field(
            ge=0,
            le=50,  # log-normal draws overflow far above it
            description="spread of log-normal client sizes (dirichlet); 0: equal sizes",
        ),
    ] = 0.0
    shards: Annotated[
        int, Field(ge=1, lt=2**31, description="label-sorted shards of each client (shards)")
    ] = 2

    def in_words(self) -> str:
        """The split in a few words, such as `Dirichlet(0.25)`."""
        return {
            "dirichlet": f"Dirichlet({self.alpha:g})"
            + (f", log-normal sizes({self.sigma:g})" if self.sigma else ""),
            "iid": "IID",
            "shards": f"{self.shards} shards each",
            "natural": "natural",
            "quantity_skew": f"sizes Dirichlet({self.alpha:g})",
        }[self.kind]


@dataclass(frozen=True)
class Partition:
    """The training samples of every client, and those that no client has, all int64.

    Client c has the samples indices[starts[c] : starts[c] + sizes[c]] of the training set.
    validation: the samples, in ascending order, on which models are compared. held_out: those that
    clients hold out, not among `indices`, held_out_sizes[c] of each in turn; or both are empty.
    """

    indices: Tensor
    starts: Tensor
    sizes: Tensor
    validation: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    held_out: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    held_out_sizes: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as arrays, which the processes of a node share; tensors would be copied."""
        return _from_arrays, tuple(getattr(self, f.name).numpy() for f in fields(self))

    def of(self, client: int) -> Tensor:
        """Indices of one client's samples."""
        return self.indices[self.starts[client] : self.starts[client] + self.sizes[client]]

    def held_out_of(self, client: int) -> Tensor:
        """Indices of the samples that a client holds out."""
        stop = int(self.held_out_sizes[: client + 1].sum())
        return self.held_out[stop - int(self.held_out_sizes[client]) : stop]

    @staticmethod
    def from_lists(lists: Sequence[Indices]) -> Partition:
        """The partition from the indices of each client."""
        sizes = torch.tensor([len(part) for part in lists])
        return Partition(torch.from_numpy(np.concatenate(lists)), sizes.cumsum(0) - sizes, sizes)

    def counts(self, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
        """Samples of every class at every client, int64 [clients, classes]."""
        clients = len(self.sizes)
        client = np.repeat(np.arange(clients), self.sizes.numpy())
        cell = client * classes + labels[self.indices.numpy()]
        return np.bincount(cell, minlength=clients * classes).reshape(clients, classes)


def _from_arrays(*arrays: Indices) -> Partition:
    return Partition(*map(as_tensor, arrays))


def partition(
    config: PartitionConfig,
    labels: NDArray[np.int64],
    classes: int,
    clients: int,
    seed: int,
    natural_clients: NDArray[np.int64] | None = None,
) -> Partition:
    """Assign training samples to clients: at least one to each, and none to two.

    natural_clients: the natural client of each sample, for kind `natural`. Kinds of equal sizes
    leave the remainder of len(labels) / clients unused (FedDyn's rule). Raises ConfigError for more
    clients than the data set can serve.
    """
    if len(labels) < clients:
        raise ConfigError(
            [
                f"data.clients = {clients}: the training set has only {len(labels)} samples; use "
                "fewer clients"
            ]
        )
    generator = host_generator(seed, "partition")
    match config.kind:
        case "natural":
            lists = _natural(natural_clients, clients, generator)
        case "iid":
            lists = _iid(labels, classes, clients, generator)
        case "shards":
            lists = _shards(labels, clients, config.shards, generator)
        case "quantity_skew":
            lists = _quantity_skew(labels, clients, config.alpha, generator)
        case "dirichlet":
            order = generator.permutation(len(labels))
            sizes = _sizes(len(labels), clients, config.sigma, generator)
            lists = _dirichlet(labels, order, classes, sizes, config.alpha, generator)
    split = Partition.from_lists(lists)
    _check(split, len(labels), clients)
    return split


def _check(split: Partition, samples: int, clients: int) -> None:
    """What every kind of split promises; anything else is a bug of this module."""
    sizes, indices = split.sizes.numpy(), split.indices.numpy()
    assert len(sizes) == clients and sizes.min() >= 1, "a client without samples"
    assert sizes.sum() == len(indices), "sizes that do not add up"
    assert indices.min() >= 0 and indices.max() < samples, "samples that do not exist"
    assert np.bincount(indices).max() == 1, "a sample at two clients"


def _natural(
    natural_clients: NDArray[np.int64] | None, clients: int, generator: np.random.Generator
) -> list[Indices]:
    """The samples of each natural client, in order; of a random choice of `clients` if needed."""
    if natural_clients is None:
        raise ConfigError(
            [
                "data.partition.kind = natural: this data set has no natural clients (shakespeare, "
                "leaf and data sets "
                "with `clients` have them); use dirichlet, iid or shards"
            ]
        )
    ids = np.unique(natural_clients)
    if clients > len(ids):
        raise ConfigError(
            [
                f"data.clients = {clients}: the data set has {len(ids)} natural clients with "
                f"training samples; use data.clients={len(ids)} or fewer"
            ]
        )
    chosen = ids if clients == len(ids) else np.sort(generator.choice(ids, clients, replace=False))
    order = np.argsort(natural_clients, kind="stable")
    by_client = natural_clients[order]
    starts, stops = np.searchsorted(by_client, chosen), np.searchsorted(by_client, chosen, "right")
    return [order[start:stop] for start, stop in zip(starts, stops)]


def _iid(
    labels: NDArray[np.int64], classes: int, clients: int, generator: np.random.Generator
) -> list[Indices]:
    """Consecutive slices of a permutation.

    If there are many classes (CIFAR-100) and the samples of each divide evenly, all clients get the
    same number of every class, as in FedDyn's code.
    """
    order = generator.permutation(len(labels))
    counts = np.bincount(labels, minlength=classes)
    if classes >= 100 and not (counts % clients).any():
        by_class = order[np.argsort(labels[order], kind="stable")]
        pools = np.split(by_class, np.cumsum(counts)[:-1])
        return list(np.concatenate([pool.reshape(clients, -1) for pool in pools], axis=1))
    size = len(labels) // clients
    return list(order[: clients * size].reshape(clients, size))


def _shards(
    labels: NDArray[np.int64], clients: int, shards: int, generator: np.random.Generator
) -> list[Indices]:
    """McMahan et al.'s pathological split (AISTATS 2017).

    Sort by label, cut into clients x shards equal pieces, and assign `shards` of them to every
    client.
    """
    size = len(labels) // (clients * shards)
    if not size:
        raise ConfigError(
            [
                f"data.partition.shards = {shards}: {clients} clients x {shards} shards are more "
                f"than the {len(labels)} training samples; use fewer of either"
            ]
        )
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    pieces = order[: clients * shards * size].reshape(clients * shards, size)
    return list(pieces[generator.permutation(clients * shards)].reshape(clients, shards * size))


def _quantity_skew(
    labels: NDArray[np.int64], clients: int, alpha: float, generator: np.random.Generator
) -> list[Indices]:
    """The same class distribution everywhere, sizes in proportion to Dirichlet(alpha).

    Source: Li et al., ICDE 2022.
    """
    order = generator.permutation(len(labels))
    free = len(labels) - clients  # beside the one sample that every client gets
    sizes = 1 + _rounded(generator.dirichlet(np.full(clients, alpha)), free)
    return np.split(order, np.cumsum(sizes)[:-1])


def _rounded(shares: NDArray[np.float64], total: int) -> Indices:
    """Whole numbers in proportion to the shares, which sum to 1, that add up to `total`."""
    cuts = (np.cumsum(shares) * total).astype(np.int64)
    cuts[-1] = total
    return np.diff(cuts, prepend=0)


def _sizes(samples: int, clients: int, sigma: float, generator: np.random.Generator) -> Indices:
    """Client sizes by FedDyn's rule: equal, or log-normal of spread sigma, rescaled and truncated.

    The rounding difference goes to the first client that can take it. A client that truncation left
    empty gets one sample; if these are more than any client can spare, every client gets its first
    sample beforehand, and only the rest is log-normal.
    """
    size = samples // clients
    if not sigma:
        return np.full(clients, size)
    drawn = generator.lognormal(np.log(size), sigma, clients)
    shares = drawn / drawn.sum()
    sizes: Indices = np.maximum((shares * samples).astype(np.int64), 1)
    excess = int(sizes.sum()) - samples
    if excess >= sizes.max():
        return 1 + _rounded(shares, samples - clients)
    sizes[np.flatnonzero(sizes > excess)[0]] -= excess
    return sizes


def _dirichlet(
    labels: NDArray[np.int64],
    order: Indices,
    classes: int,
    sizes: Indices,
    alpha: float,
    generator: np.random.Generator,
) -> list[Indices]:
    """FedDyn's procedure (Acar et al., ICLR 2021, `DatasetObject`).

    Each client draws class priors from Dirichlet(alpha); then, until all are full, a random client
    draws a class from its priors and takes the last unused sample of that class. order: a random
    permutation of the samples.

    FedDyn's two rejection loops are replaced by draws from the same distribution that always end:
    the client is drawn among those not yet full, and an exhausted class is removed from the priors
    (a client whose priors have no mass left draws in proportion to the remaining samples). A
    client's slots are filled from the last one down.
    """
    pools = [order[labels[order] == c] for c in range(classes)]
    priors = generator.dirichlet(np.full(classes, alpha), size=len(sizes))
    turns, chance = _turns(sizes, generator)
    drawn = _draw_samples(pools, priors, turns, chance)
    by_client, stops = np.argsort(turns, kind="stable"), np.cumsum(sizes)
    return [drawn[by_client[start:stop][::-1]] for start, stop in zip(stops - sizes, stops)]


def _turns(sizes: Indices, generator: np.random.Generator) -> tuple[Indices, NDArray[np.float64]]:
    """The client of each turn, drawn among those not yet full, and a uniform draw in [0, 1).

    The uniform draw decides the class.
    """
    free, open_clients = sizes.tolist(), list(range(len(sizes)))
    turns, chance = np.empty(int(sizes.sum()), np.int64), np.empty(int(sizes.sum()))
    for turn in range(len(turns)):
        pick = int(generator.integers(len(open_clients)))
        turns[turn] = client = open_clients[pick]
        chance[turn] = generator.random()
        free[client] -= 1
        if not free[client]:
            open_clients[pick] = open_clients[-1]
            open_clients.pop()
    return turns, chance


def _draw_samples(
    pools: list[Indices], priors: NDArray[np.float64], turns: Indices, chance: NDArray[np.float64]
) -> Indices:
    """The sample that the client of each turn takes.

    pools: the samples of each class. priors: [clients, classes]. A block of turns is drawn at once,
    up to the turn that exhausts a class, since the following draws depend on it.
    """
    left = np.array([len(pool) for pool in pools])
    left_at_cut = left.copy()  # the samples left when a class was last exhausted
    drawn = np.empty(len(turns), np.int64)
    start = 0
    while start < len(turns):
        block = slice(start, start + DIRICHLET_BLOCK)
        class_drawn = _draw_classes(priors[turns[block]], left_at_cut, chance[block])
        turns_of = [np.flatnonzero(class_drawn == c) for c in range(len(pools))]
        exhausted = [int(t[n - 1]) for t, n in zip(turns_of, left) if 0 < n <= len(t)]
        length = min(exhausted, default=len(class_drawn) - 1) + 1
        for c, turn in enumerate(turns_of):
            turn = turn[turn < length]
            drawn[start + turn] = pools[c][left[c] - 1 - np.arange(len(turn))]
            left[c] -= len(turn)
        start += length
        if exhausted:
            left_at_cut = left.copy()
    return drawn


def _draw_classes(
    priors: NDArray[np.float64], left: Indices, chance: NDArray[np.float64]
) -> Indices:
    """A class for each row of priors [N, C], among those with samples left.

    It is drawn by inverting the cumulative distribution at chance [N].
    """
    mass = np.where(left > 0, priors, 0.0)
    mass = np.where(mass.sum(1, keepdims=True) > 0, mass, left)
    cumulative = np.cumsum(mass / mass.sum(1, keepdims=True), axis=1)
    drawn: Indices = (cumulative <= chance[:, None]).sum(1)
    last = np.flatnonzero(left)[-1]
    # Rounding may put a draw beyond the last class with mass.
    return np.where(drawn > last, last, drawn)
