"""How training samples are dealt to clients: pure functions of labels (or natural owners) and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.config.schema import PartitionConfig
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.numerics.parameters import as_tensor
from fedsmu_ray.numerics.streams import host_generator

DIRICHLET_BLOCK = 8192  # samples dealt at once


@dataclass(frozen=True)
class Partition:
    """Client c owns indices[starts[c] : starts[c] + sizes[c]] of the training set (all int64)."""

    indices: Tensor
    starts: Tensor
    sizes: Tensor

    def __reduce__(self) -> tuple:
        """Travels as arrays, which the processes of a node share; tensors would be copied into each of them."""
        return _shared, tuple(t.numpy() for t in (self.indices, self.starts, self.sizes))

    def of(self, client: int) -> Tensor:
        return self.indices[self.starts[client] : self.starts[client] + self.sizes[client]]

    @staticmethod
    def from_lists(lists: Sequence[np.ndarray]) -> Partition:
        sizes = torch.tensor([len(part) for part in lists])
        return Partition(torch.from_numpy(np.concatenate(lists)), sizes.cumsum(0) - sizes, sizes)

    def counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Samples of every class at every client, int64 [clients, classes]."""
        clients = len(self.sizes)
        owners = np.repeat(np.arange(clients), self.sizes)
        return np.bincount(
            owners * classes + labels[self.indices], minlength=clients * classes
        ).reshape(clients, classes)


def _shared(*arrays: np.ndarray) -> Partition:
    return Partition(*map(as_tensor, arrays))


def partition(
    config: PartitionConfig,
    labels: np.ndarray,
    classes: int,
    clients: int,
    seed: int,
    owners: np.ndarray | None = None,
) -> Partition:
    """Deal the training samples to clients; every client gets at least one, and no sample goes to two.

    owners: whose each sample is by nature, for kind `natural`. Kinds of equal sizes leave the remainder of
    len(labels) / clients unused (FedDyn's rule). Raises ConfigError for more clients than the data can serve.
    """
    if len(labels) < clients:
        raise ConfigError(
            [
                f"data.clients = {clients}: the training set has only {len(labels)} samples; use fewer clients"
            ]
        )
    generator = host_generator(seed, "partition")
    match config.kind:
        case "natural":
            lists = _natural(owners, clients, generator)
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
    return Partition.from_lists(lists)


def _natural(
    owners: np.ndarray | None, clients: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Every natural client keeps its samples, in their order; of more than `clients` natural clients a random choice."""
    if owners is None:
        raise ConfigError(
            [
                "data.partition.kind = natural: this data set does not say whose its samples are (shakespeare, leaf "
                "and data sets with `clients` do); use dirichlet, iid or shards"
            ]
        )
    ids = np.unique(owners)
    if clients > len(ids):
        raise ConfigError(
            [
                f"data.clients = {clients}: the data has {len(ids)} natural clients with training samples; use "
                f"data.clients={len(ids)} or fewer"
            ]
        )
    chosen = ids if clients == len(ids) else np.sort(generator.choice(ids, clients, replace=False))
    order = np.argsort(owners, kind="stable")
    starts, stops = (
        np.searchsorted(owners[order], chosen, side=side) for side in ("left", "right")
    )
    return [order[a:b] for a, b in zip(starts, stops)]


def _iid(
    labels: np.ndarray, classes: int, clients: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Consecutive slices of a permutation; where every class divides evenly over the clients and there are many
    classes (CIFAR-100), exactly equal class counts, as FedDyn's code does."""
    order = generator.permutation(len(labels))
    counts = np.bincount(labels, minlength=classes)
    if classes >= 100 and not (counts % clients).any():
        by_class = order[np.argsort(labels[order], kind="stable")]
        pools = np.split(by_class, np.cumsum(counts)[:-1])
        return list(np.concatenate([pool.reshape(clients, -1) for pool in pools], axis=1))
    size = len(labels) // clients
    return list(order[: clients * size].reshape(clients, size))


def _shards(
    labels: np.ndarray, clients: int, shards: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """McMahan et al.'s pathological split (AISTATS 2017): sort by label, cut into clients x shards equal pieces, and
    deal `shards` of them to every client."""
    size = len(labels) // (clients * shards)
    if not size:
        raise ConfigError(
            [
                f"data.partition.shards = {shards}: {clients} clients x {shards} shards are more than the "
                f"{len(labels)} training samples; use fewer of either"
            ]
        )
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    pieces = order[: clients * shards * size].reshape(clients * shards, size)
    return list(pieces[generator.permutation(clients * shards)].reshape(clients, shards * size))


def _quantity_skew(
    labels: np.ndarray, clients: int, alpha: float, generator: np.random.Generator
) -> list[np.ndarray]:
    """Classes alike everywhere, sizes in proportion to Dirichlet(alpha) (Li et al., ICDE 2022); at least one sample."""
    order = generator.permutation(len(labels))
    spare = len(labels) - clients  # one for each client first
    cuts = (np.cumsum(generator.dirichlet(np.full(clients, alpha))) * spare).astype(np.int64)[:-1]
    return np.split(order, cuts + np.arange(1, clients))


def _sizes(samples: int, clients: int, sigma: float, generator: np.random.Generator) -> np.ndarray:
    """Client sizes by FedDyn's rule: equal, or log-normal of spread sigma, rescaled and truncated, with the rounding
    difference given to the first client that can take it. A client that truncation left with nothing gets one sample."""
    size = samples // clients
    if not sigma:
        return np.full(clients, size)
    drawn = generator.lognormal(np.log(size), sigma, clients)
    sizes = np.maximum((drawn / drawn.sum() * samples).astype(np.int64), 1)
    excess = int(sizes.sum()) - samples
    if excess:
        taker = (
            int(np.flatnonzero(sizes > excess)[0])
            if (sizes > excess).any()
            else int(sizes.argmax())
        )
        sizes[taker] -= excess
    return sizes


def _dirichlet(
    labels: np.ndarray,
    order: np.ndarray,
    classes: int,
    sizes: np.ndarray,
    alpha: float,
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """FedDyn's procedure (Acar et al., ICLR 2021, `DatasetObject`): each client draws class priors from
    Dirichlet(alpha); then, until all are full, a random client draws a class from its priors and takes the last
    unused sample of that class. order: a random permutation of the samples.

    Its two rejections are replaced by draws of the same law that cannot loop: the client is drawn among those not
    yet full, and an exhausted class is struck from the priors (a client left with no mass draws in proportion to
    what remains). Samples fill a client from its last slot down.
    """
    pools = [order[labels[order] == c] for c in range(classes)]
    left = np.array([len(p) for p in pools])
    priors = generator.dirichlet(np.full(classes, alpha), size=len(sizes))
    who, chance = _turns(sizes, generator)
    given = np.empty(len(who), np.int64)  # the sample of each turn
    lately, done = left.copy(), 0  # what was left when a class last ran out
    while done < len(
        who
    ):  # a block of turns at once, but no further than to where a class runs out
        block = slice(done, done + DIRICHLET_BLOCK)
        drawn = _classes(priors[who[block]], lately, chance[block])
        turns = [np.flatnonzero(drawn == c) for c in range(classes)]
        ends = [int(t[n - 1]) for t, n in zip(turns, left) if 0 < n <= len(t)]
        stop = min(ends, default=len(drawn) - 1) + 1
        for c, turn in enumerate(turns):
            turn = turn[turn < stop]
            given[done + turn] = pools[c][left[c] - 1 - np.arange(len(turn))]
            left[c] -= len(turn)
        done += stop
        if ends:
            lately = left.copy()
    by_client, stops = np.argsort(who, kind="stable"), np.cumsum(sizes)
    return [given[by_client[a:b][::-1]] for a, b in zip(stops - sizes, stops)]


def _classes(priors: np.ndarray, left: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """A class for each row of priors [N, C], among those with samples left, by inverting its distribution at chance [N]."""
    mass = np.where(left > 0, priors, 0.0)
    mass = np.where(mass.sum(1, keepdims=True) > 0, mass, left)
    drawn = (np.cumsum(mass / mass.sum(1, keepdims=True), axis=1) <= chance[:, None]).sum(1)
    last = np.flatnonzero(left)[-1]
    return np.where(
        drawn > last, last, drawn
    )  # rounding let a draw fall beyond the last class with mass


def _turns(sizes: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The clients in the order in which they draw, each until it is full, and a uniform number for every draw."""
    open_slots, open_clients = sizes.tolist(), list(range(len(sizes)))
    who, chance = np.empty(int(sizes.sum()), np.int64), np.empty(int(sizes.sum()))
    for turn in range(len(who)):
        pick = int(generator.integers(len(open_clients)))
        who[turn] = client = open_clients[pick]
        chance[turn] = generator.random()
        open_slots[client] -= 1
        if not open_slots[client]:
            open_clients[pick] = open_clients[-1]
            open_clients.pop()
    return who, chance
