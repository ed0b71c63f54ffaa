"""Samples for validation: none of them is a client's, and the seed alone decides."""

import pickle
from dataclasses import replace

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


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_clients_hold_out_a_share_of_their_own_samples(config):
    whole = split(dataset(), config, 40, seed=3, validation=0.1)
    parts = split(dataset(), config, 40, seed=3, validation=0.1, held_out=0.25)
    assert parts.validation.tolist() == whole.validation.tolist()
    for client, size in enumerate(whole.sizes.tolist()):
        own, held, left = whole.of(client), parts.held_out_of(client), parts.of(client)
        assert len(held) == min(max(1, round(0.25 * size)), size - 1)
        assert sorted([*held.tolist(), *left.tolist()]) == sorted(own.tolist())
        assert left.tolist() == [i for i in own.tolist() if i in {*left.tolist()}]
    again = pickle.loads(pickle.dumps(parts))
    assert torch.equal(again.held_out_of(7), parts.held_out_of(7))
    other = split(dataset(), config, 40, seed=4, validation=0.1, held_out=0.25)
    assert other.held_out.tolist() != parts.held_out.tolist()


def test_a_client_keeps_a_sample_to_train_on():
    data = dataset(3)
    parts = split(
        replace(data, clients=np.array([0, 0, 1])), PartitionConfig("natural"), 2, 0, held_out=0.9
    )
    assert parts.sizes.tolist() == [1, 1] and parts.held_out_sizes.tolist() == [1, 0]
    assert len(parts.held_out_of(1)) == 0
