"""Who has which training sample: those for validation are set aside, clients have the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.partition import Partition, PartitionConfig, partition
from fedsmu_ray.datasets.targets import labels_to_split
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.numerics.streams import host_generator


def split(
    dataset: Dataset,
    config: PartitionConfig,
    clients: int,
    seed: int,
    validation: float = 0.0,
    held_out: float = 0.0,
) -> Partition:
    """The training samples of every client, those for validation, and those that clients hold out.

    validation: the share of the training samples that is set aside, drawn from the seed alone.
    held_out: the share of what a client then gets that it does not train on, see `hold_out`. Raises
    ConfigError if there is less than one sample for validation or they leave too few, and like
    `partition`.
    """
    parts = _split(dataset, config, clients, seed, validation)
    return hold_out(parts, held_out, seed) if held_out else parts


def hold_out(parts: Partition, share: float, seed: int) -> Partition:
    """The partition with a share of each client's samples, drawn from the seed, held out.

    They are round(share n) of its n samples, but at least one and at most n - 1; a client with one
    sample trains on it. Samples stay in their order.
    """
    training, held = [], []
    for client, size in enumerate(parts.sizes.tolist()):
        count = min(max(1, round(share * size)), size - 1)
        order = host_generator(seed, "held out", client).permutation(size)
        samples = parts.of(client).numpy()
        held.append(samples[np.sort(order[:count])])
        training.append(samples[np.sort(order[count:])])
    left, aside = Partition.from_lists(training), Partition.from_lists(held)
    return replace(
        left,
        validation=parts.validation,
        held_out=aside.indices,
        held_out_sizes=aside.sizes,
    )


def _split(
    dataset: Dataset, config: PartitionConfig, clients: int, seed: int, validation: float
) -> Partition:
    """`split` without samples that clients hold out."""
    labels, classes = labels_to_split(dataset)
    natural = dataset.clients
    if dataset.targets == "tokens" and config.kind in ("dirichlet", "shards"):
        raise ConfigError(
            [
                f"data.partition.kind = {config.kind}: it skews labels, and the targets of this "
                "data set are sequences of tokens; use natural, iid or quantity_skew"
            ]
        )
    if not validation:
        return partition(config, labels, classes, clients, seed, natural)
    order = host_generator(seed, "validation").permutation(len(labels))
    count = round(validation * len(labels))
    if not count:
        raise ConfigError(
            [
                f"data.validation = {validation}: less than one of {len(labels)} training samples; "
                "raise it"
            ]
        )
    if len(labels) - count < clients:
        raise ConfigError(
            [
                f"data.validation = {validation}: leaves {len(labels) - count} of {len(labels)} "
                f"training samples for data.clients = {clients}; lower it"
            ]
        )
    aside, rest = np.sort(order[:count]), np.sort(order[count:])
    natural = None if natural is None else natural[rest]
    parts = partition(config, labels[rest], classes, clients, seed, natural)
    indices = torch.from_numpy(rest)[parts.indices]
    return replace(parts, indices=indices, validation=torch.from_numpy(aside))
