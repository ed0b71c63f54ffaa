"""How training samples are dealt to clients: pure functions of labels and seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsmu_ray.config import PartitionConfig
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.streams import host_generator


@dataclass(frozen=True)
class Partition:
    """Client c owns indices[starts[c] : starts[c] + sizes[c]] of the training set (all int64)."""

    indices: Tensor
    starts: Tensor
    sizes: Tensor

    def of(self, client: int) -> Tensor:
        return self.indices[self.starts[client] : self.starts[client] + self.sizes[client]]


def partition(config: PartitionConfig, labels: np.ndarray, classes: int, clients: int, seed: int) -> Partition:
    """Deal len(labels) // clients samples to each client; the left-over samples are not used (FedDyn's rule)."""
    size = len(labels) // clients
    if size == 0:
        raise ConfigError([f"data.clients = {clients}: the training set has only {len(labels)} samples; use fewer clients"])
    generator = host_generator(seed, "partition")
    deal = _dirichlet(labels, classes, clients, size, config.alpha, generator) if config.kind == "dirichlet" else (
        _iid(labels, classes, clients, size, generator))
    sizes = torch.full((clients,), size)
    return Partition(torch.from_numpy(deal.reshape(-1)), torch.arange(clients) * size, sizes)


def _iid(labels: np.ndarray, classes: int, clients: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """Consecutive slices of a permutation; where every class divides evenly over the clients and there are many
    classes (CIFAR-100), exactly equal class counts, as FedDyn's code does."""
    order = generator.permutation(len(labels))
    counts = np.bincount(labels, minlength=classes)
    if classes >= 100 and not (counts % clients).any():
        by_class = order[np.argsort(labels[order], kind="stable")]
        pools = np.split(by_class, np.cumsum(counts)[:-1])
        return np.concatenate([pool.reshape(clients, -1) for pool in pools], axis=1)
    return order[: clients * size].reshape(clients, size)


def _dirichlet(labels: np.ndarray, classes: int, clients: int, size: int, alpha: float,
               generator: np.random.Generator) -> np.ndarray:
    """FedDyn's procedure (Acar et al., ICLR 2021, `DatasetObject`): each client draws class priors from
    Dirichlet(alpha); then, until all are full, a random client draws a class from its priors and takes the last
    unused sample of that class.

    Its two rejections are replaced by draws of the same law that cannot loop: the client is drawn among those not
    yet full, and an exhausted class is struck from the priors (a client left with no mass draws in proportion to
    what remains). Samples fill a client from its last slot down.
    """
    order = generator.permutation(len(labels))
    pools = [order[labels[order] == c] for c in range(classes)]
    left = np.array([len(p) for p in pools])
    priors = generator.dirichlet(np.full(classes, alpha), size=clients)

    def cumulative() -> np.ndarray:
        """Rows of cumulative class shares over the classes with samples left."""
        mass = np.where(left > 0, priors, 0.0)
        mass = np.where(mass.sum(1, keepdims=True) > 0, mass, left)
        return np.cumsum(mass / mass.sum(1, keepdims=True), axis=1)

    shares = cumulative()
    out = np.empty((clients, size), np.int64)
    open_slots = np.full(clients, size)
    open_clients = list(range(clients))
    while open_clients:
        pick = int(generator.integers(len(open_clients)))
        client = open_clients[pick]
        drawn = int(np.searchsorted(shares[client], generator.random(), side="right"))
        if drawn >= classes or not left[drawn]:  # rounding let the draw fall beyond the last class with mass
            drawn = int(np.flatnonzero(left)[-1])
        left[drawn] -= 1
        open_slots[client] -= 1
        out[client, open_slots[client]] = pools[drawn][left[drawn]]
        if not left[drawn] and left.any():
            shares = cumulative()
        if not open_slots[client]:
            open_clients[pick] = open_clients[-1]
            open_clients.pop()
    return out
