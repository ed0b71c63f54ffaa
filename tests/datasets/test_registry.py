"""Data sets and splits."""

import numpy as np
import pytest
import torch

from fedsmu_ray.config.schema import DataConfig, PartitionConfig
from fedsmu_ray.datasets.dataset import DeviceData
from fedsmu_ray.datasets.partition import partition
from fedsmu_ray.datasets.registry import load_dataset
from fedsmu_ray.errors import ConfigError

KINDS = [
    PartitionConfig("dirichlet", 0.25),
    PartitionConfig("dirichlet", 0.01),
    PartitionConfig("iid"),
]


def labels(n=5000, classes=10, seed=0):
    return np.random.default_rng(seed).integers(classes, size=n)


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("clients", [7, 50])
def test_split_is_disjoint_and_exactly_equal(config, clients):  # oracle 31
    y = labels()
    split = partition(config, y, 10, clients, seed=1)
    assert (split.sizes == len(y) // clients).all()
    assert len(split.indices.unique()) == len(split.indices) == clients * (len(y) // clients)
    owned = torch.cat([split.of(c) for c in range(clients)])
    counts = np.bincount(y[owned.numpy()], minlength=10)
    assert (counts <= np.bincount(y, minlength=10)).all()


def test_split_depends_on_the_seed_alone():
    y = labels()
    one, two, three = (partition(KINDS[0], y, 10, 20, seed).indices for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, three)


def shares(split, y, clients):
    return np.stack(
        [
            np.bincount(y[split.of(c).numpy()], minlength=10) / int(split.sizes[c])
            for c in range(clients)
        ]
    )


def test_concentration_sets_the_skew():  # oracle 31
    y = labels(50_000)
    even = shares(partition(PartitionConfig("dirichlet", 1e6), y, 10, 100, 0), y, 100)
    assert abs(even - 0.1).max() < 0.08
    skewed = -np.sort(-shares(partition(PartitionConfig("dirichlet", 0.25), y, 10, 100, 0), y, 100))
    covering = (np.cumsum(skewed, 1) < 0.8).sum(1) + 1
    assert 2 <= np.median(covering) <= 4


def test_iid_of_many_even_classes_is_exact():  # oracle 32
    y = np.repeat(np.arange(100), 500)
    split = partition(PartitionConfig("iid"), y, 100, 100, 0)
    for c in range(100):
        assert (np.bincount(y[split.of(c).numpy()], minlength=100) == 5).all()


def test_too_many_clients():
    with pytest.raises(ConfigError, match="only 10 samples"):
        partition(KINDS[0], labels(10), 10, 11, 0)


def test_digits_are_normalised_on_the_device():
    data = load_dataset(DataConfig())
    assert (len(data.train_y), len(data.test_y), data.shape, data.train_x.dtype) == (
        1437,
        360,
        (1, 8, 8),
        np.uint8,
    )
    x, y = DeviceData(data, torch.device("cpu")).batch(torch.arange(1437)[None])
    assert x.shape == (1, 1437, 1, 8, 8) and y.shape == (1, 1437)
    assert abs(float(x.mean())) < 1e-4 and abs(float(x.std()) - 1) < 1e-3


# --- synthetic ---------------------------------------------------------------------------------------------------


def synthetic(**options):
    return load_dataset(DataConfig("synthetic", options=options))


def test_synthetic_data_is_a_function_of_its_options():
    one, two, three = synthetic(train=300), synthetic(train=300), synthetic(train=300, seed=1)
    assert (one.train_x.shape, one.train_x.dtype, one.test_x.shape, one.classes) == (
        (300, 64),
        np.float32,
        (2000, 64),
        10,
    )
    assert np.array_equal(one.train_x, two.train_x) and np.array_equal(one.test_y, two.test_y)
    assert not np.array_equal(one.train_x, three.train_x)


def test_synthetic_classes_overlap_as_documented():
    """The best classifier knows the class means; here they are estimated from many samples."""
    for separation, low, high in ((0.0, 0.08, 0.12), (3.0, 0.86, 0.92), (6.0, 0.995, 1.0)):
        data = synthetic(train=20_000, test=5000, separation=separation)
        means = np.stack([data.train_x[data.train_y == c].mean(0) for c in range(10)])
        nearest = (data.test_x @ means.T - (means**2).sum(1) / 2).argmax(1)
        assert low <= (nearest == data.test_y).mean() <= high


def test_synthetic_images_are_normalised():
    data = synthetic(shape=[3, 8, 8], train=500, test=20, classes=3)
    assert data.train_x.dtype == np.uint8 and data.is_image
    x, _ = DeviceData(data, torch.device("cpu")).batch(torch.arange(500)[None])
    assert abs(float(x.mean())) < 0.02 and float(x.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"samples": 10},
            "data.options.samples: unknown key; synthetic data has shape, classes, train, test, separation, seed",
        ),
        ({"train": 0}, "data.options.train = 0: it must be greater than or equal to 1"),
        ({"shape": [3, 0, 8]}, r"data.options.shape\[1\] = 0: it must be greater"),
        ({"shape": 64}, "data.options.shape = 64: it must be a valid list"),
        ({"separation": "far"}, "data.options.separation = 'far': it must be a valid number"),
    ],
)
def test_synthetic_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        synthetic(**options)
