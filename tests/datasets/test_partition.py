"""Every kind of split: its distribution, its sizes, and its dependence on the seed.

A split depends only on labels, natural clients and seed.
"""

import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsmu_ray.datasets.partition import PartitionConfig, partition
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.numerics.streams import host_generator

Y = np.random.default_rng(0).integers(10, size=5000)
NATURAL = np.random.default_rng(1).permutation(np.repeat(np.arange(40), 125))
EQUAL = [
    PartitionConfig("dirichlet", 0.25),
    PartitionConfig("dirichlet", 0.01),
    PartitionConfig("iid"),
]
KINDS = [
    PartitionConfig("dirichlet", 0.25, sigma=0.5),
    PartitionConfig("shards"),
    PartitionConfig("shards", shards=5),
    PartitionConfig("natural"),
    PartitionConfig("quantity_skew", 0.5),
    PartitionConfig("quantity_skew", 0.01),
]


def labels(n=5000, classes=10, seed=0):
    return np.random.default_rng(seed).integers(classes, size=n)


@pytest.mark.parametrize("config", EQUAL, ids=str)
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
    one, two, three = (partition(EQUAL[0], y, 10, 20, seed).indices for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, three)


def shares(split, y, clients):
    counts = [np.bincount(y[split.of(c).numpy()], minlength=10) for c in range(clients)]
    return np.stack([count / int(size) for count, size in zip(counts, split.sizes)])


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
        partition(EQUAL[0], labels(10), 10, 11, 0)


@pytest.mark.parametrize("config", KINDS, ids=str)
@pytest.mark.parametrize("clients", [7, 40])
def test_every_split_is_disjoint_and_a_function_of_labels_and_seed(config, clients):
    one, two, three = (partition(config, Y, 10, clients, seed, NATURAL) for seed in (1, 1, 2))
    assert torch.equal(one.indices, two.indices) and torch.equal(one.sizes, two.sizes)
    if config.kind != "natural" or clients < 40:
        assert not torch.equal(one.indices, three.indices)
    assert len(one.sizes) == clients and (one.sizes > 0).all()
    assert torch.equal(one.starts, one.sizes.cumsum(0) - one.sizes)
    assert len(one.indices.unique()) == len(one.indices) == int(one.sizes.sum()) <= len(Y)
    assert (one.counts(Y, 10).sum(0) <= np.bincount(Y, minlength=10)).all()


@given(
    kind=st.sampled_from(["dirichlet", "iid", "shards", "natural", "quantity_skew"]),
    samples=st.integers(1, 400),
    clients=st.integers(1, 400),
    classes=st.sampled_from([1, 2, 10, 120]),
    alpha=st.sampled_from([1e-300, 0.01, 0.25, 1.0, 1e12]),
    sigma=st.sampled_from([0.0, 0.1, 1.0, 2.0, 4.0, 50.0]),
    shards=st.integers(1, 5),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=300)
def test_no_size_or_skew_breaks_a_split(
    kind, samples, clients, classes, alpha, sigma, shards, seed
):
    rng = np.random.default_rng(seed)
    y, natural = rng.integers(classes, size=samples), rng.integers(-9, 50, size=samples)
    config = PartitionConfig(kind, alpha, sigma, shards)
    most = {"natural": len(np.unique(natural)), "shards": samples // shards}.get(kind, samples)
    if clients > most:
        with pytest.raises(ConfigError, match=r"data\.(clients|partition\.shards) = \d+: "):
            partition(config, y, classes, clients, seed, natural)
        return
    split = partition(config, y, classes, clients, seed, natural)
    used = split.indices.numpy()
    assert len(split.sizes) == clients and int(split.sizes.min()) >= 1
    assert len(np.unique(used)) == len(used) == int(split.sizes.sum())
    assert used.min() >= 0 and used.max() < samples
    if kind == "quantity_skew" or kind == "dirichlet" and sigma:
        assert len(used) == samples  # nothing is left over
    assert split.counts(y, classes).sum() == len(used)


def test_many_clients_of_very_different_sizes():
    """More clients of one sample than the others can make up for."""
    y = labels(1437)

    def sizes(clients, sigma):
        return partition(PartitionConfig("dirichlet", 0.25, sigma), y, 10, clients, 0).sizes.numpy()

    for clients, sigma in [(1000, 1.0), (1000, 2.0), (1436, 3.0), (1437, 2.0)]:
        assert sizes(clients, sigma).sum() == 1437 and sizes(clients, sigma).min() == 1
    assert 5 < sizes(1000, 1.0).max() < sizes(1000, 2.0).max() < sizes(1000, 4.0).max() < 438


def turn_by_turn(labels, classes, clients, alpha, seed):
    """FedDyn's procedure as published, one sample at a time, with the same random numbers."""
    generator = host_generator(seed, "partition")
    order = generator.permutation(len(labels))
    pools = [order[labels[order] == c].tolist() for c in range(classes)]
    priors = generator.dirichlet(np.full(classes, alpha), size=clients)
    slots, running = [[] for _ in range(clients)], list(range(clients))
    left = np.array([len(p) for p in pools])
    while running:
        pick = int(generator.integers(len(running)))
        client = running[pick]
        mass = np.where(left > 0, priors[client], 0.0)
        mass = mass if mass.sum() else left
        drawn = int(np.searchsorted(np.cumsum(mass / mass.sum()), generator.random(), side="right"))
        slots[client].insert(0, pools[drawn].pop())
        if not pools[drawn]:  # update the remainder, from which clients without mass draw
            left = np.array([len(p) for p in pools])
        if len(slots[client]) == len(labels) // clients:
            running[pick] = running[-1]
            running.pop()
    return slots


@pytest.mark.parametrize("alpha", [0.25, 0.01])
def test_dirichlet_in_blocks_assigns_like_one_sample_at_a_time(alpha, monkeypatch):
    monkeypatch.setattr(sys.modules["fedsmu_ray.datasets.partition"], "DIRICHLET_BLOCK", 300)
    split = partition(PartitionConfig("dirichlet", alpha), Y, 10, 40, 3)
    assert [split.of(c).tolist() for c in range(40)] == turn_by_turn(Y, 10, 40, alpha, 3)


def test_a_split_travels_as_arrays():
    """Pickled out of band, so that Ray's object store holds one copy per node."""
    split, outside = partition(KINDS[0], Y, 10, 40, 0), []
    packed = pickle.dumps(split, protocol=5, buffer_callback=outside.append)
    nbytes = 8 * (len(split.indices) + 80)
    assert len(packed) < 1000 and sum(len(b.raw()) for b in outside) == nbytes
    again = pickle.loads(packed, buffers=outside)
    for name in ("indices", "starts", "sizes"):
        assert torch.equal(getattr(split, name), getattr(again, name))


def test_splits_keep_their_bits():
    """Sums of index * position, as they were when the experiments of the documentation ran."""
    bits = {}
    for config in [*EQUAL, *KINDS]:
        used = partition(config, Y, 10, 40, 1, NATURAL).indices.numpy()
        bits[str(config)] = int((used * np.arange(len(used))).sum())
    assert list(bits.values()) == [
        31421789152,
        31296271804,
        31314502026,
        31199795765,
        30673379998,
        31329284876,
        31442633837,
        31314502026,
        31314502026,
    ]


def test_log_normal_sizes():
    sizes = partition(PartitionConfig("dirichlet", 0.25, sigma=0.5), Y, 10, 50, 0).sizes
    assert int(sizes.sum()) == len(Y)  # unlike equal sizes, nothing is left over
    spread = float(sizes.double().log().std())
    assert spread == pytest.approx(0.5, abs=0.15)
    wide = partition(PartitionConfig("dirichlet", 0.25, sigma=4.0), Y, 10, 50, 0).sizes
    assert int(wide.min()) >= 1


def test_shards_hold_few_classes():
    y = np.repeat(np.arange(10), 600)
    counts = partition(PartitionConfig("shards", shards=2), y, 10, 100, 0).counts(y, 10)
    assert (counts.sum(1) == 60).all() and (counts > 0).sum(1).max() == 2
    with pytest.raises(
        ConfigError,
        match="data.partition.shards = 200: 40 clients x 200 shards are more than the 5000",
    ):
        partition(PartitionConfig("shards", shards=200), Y, 10, 40, 0)


def test_natural_clients_keep_their_samples_in_order():
    split = partition(PartitionConfig("natural"), Y, 10, 40, 0, NATURAL)
    for client in range(40):
        assert split.of(client).tolist() == np.flatnonzero(client == NATURAL).tolist()
    some = partition(PartitionConfig("natural"), Y, 10, 5, 0, NATURAL)
    assert all(len(np.unique(NATURAL[some.of(c).numpy()])) == 1 for c in range(5))
    with pytest.raises(
        ConfigError,
        match="data.clients = 41: the data set has 40 natural clients .* data.clients=40 or fewer",
    ):
        partition(PartitionConfig("natural"), Y, 10, 41, 0, NATURAL)
    with pytest.raises(ConfigError, match="this data set has no natural clients"):
        partition(PartitionConfig("natural"), Y, 10, 40, 0)


def test_quantity_skew_is_skewed_in_size_only():
    y = np.arange(100_000) % 10
    split = partition(PartitionConfig("quantity_skew", 0.5), y, 10, 20, 0)
    assert int(split.sizes.sum()) == 100_000
    assert int(split.sizes.max()) > 5 * int(split.sizes.median())
    largest = split.counts(y, 10)[int(split.sizes.argmax())]
    assert abs(largest / largest.sum() - 0.1).max() < 0.02


@pytest.mark.parametrize("kind", ["dirichlet", "iid"])
def test_a_split_without_remainder_uses_every_sample(kind):  # oracle 31
    y = np.random.default_rng(0).integers(10, size=5000)
    counts = partition(PartitionConfig(kind, 0.25), y, 10, 50, 0).counts(y, 10)
    assert (counts.sum(0) == np.bincount(y, minlength=10)).all() and (counts.sum(1) == 100).all()


def test_splits_in_words():
    assert [kind.in_words() for kind in (*EQUAL[:1], *KINDS[:4])] == [
        "Dirichlet(0.25)",
        "Dirichlet(0.25), log-normal sizes(0.5)",
        "2 shards each",
        "5 shards each",
        "natural",
    ]
    assert PartitionConfig("iid").in_words() == "IID"
    assert PartitionConfig("quantity_skew", 0.5).in_words() == "sizes Dirichlet(0.5)"
