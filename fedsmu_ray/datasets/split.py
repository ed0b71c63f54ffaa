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
    dataset: Dataset, config: PartitionConfig, clients: int, seed: int, validation: float = 0.0
) -> Partition:
    """The training samples of every client, and those for validation.

    validation: the share of the training samples that is set aside, drawn from the seed alone.
    Raises ConfigError if that is less than one sample or leaves too few, and like `partition`.
    """
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
