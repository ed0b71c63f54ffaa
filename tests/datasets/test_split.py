"""Samples for validation: none of them is a client's, and the seed alone decides."""

import pickle

import numpy as np
import pytest
import torch

from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.datasets.partition import PartitionConfig, partition
from fedsmu_ray.datasets.split import split
from fedsmu_ray.errors import ConfigError

KINDS = [PartitionConfig(kind) for kind in ("dirichlet", "iid", "shards", "natural")]
KINDS.append(PartitionConfig("quantity_skew", 0.5))


def dataset(samples=5000):
    x = np.zeros((samples, 1), np.float32)
    y = np.random.default_rng(0).integers(10, size=samples)
    natural = np.random.default_rng(1).integers(40, size=samples)
    return Dataset("test", x, y, x[:5], y[:5], 10, clients=natural)


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_they_are_set_aside_before_the_split(config):
    data = dataset()
    parts = split(data, config, 40, seed=3, validation=0.1)
    aside = parts.validation.numpy()
    assert len(aside) == 500 and (np.diff(aside) > 0).all()
    rest = np.setdiff1d(np.arange(5000), aside)
    alone = partition(config, data.train_y[rest], 10, 40, 3, data.clients[rest])
    assert parts.sizes.tolist() == alone.sizes.tolist()
    assert parts.indices.tolist() == rest[alone.indices.numpy()].tolist()
    assert torch.equal(pickle.loads(pickle.dumps(parts)).validation, parts.validation)


def test_they_depend_on_the_seed_alone():
    one, two = (split(dataset(), kind, 20, 1, 0.2).validation for kind in KINDS[:2])
    other = split(dataset(), KINDS[0], 20, 2, 0.2).validation
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_without_them_the_split_is_that_of_all_samples():
    data = dataset()
    parts = split(data, KINDS[0], 40, seed=3)
    assert len(parts.validation) == 0
    assert torch.equal(parts.indices, partition(KINDS[0], data.train_y, 10, 40, 3).indices)


def test_too_few_samples_for_validation_or_left_by_it_are_refused():
    with pytest.raises(ConfigError, match="data.validation = 1e-06: less than one of .* raise it"):
        split(dataset(), KINDS[0], 20, 0, 1e-6)
    with pytest.raises(
        ConfigError, match="validation = 0.9: leaves 10 of 100 .* for data.clients = 20"
    ):
        split(dataset(100), KINDS[0], 20, 0, 0.9)
