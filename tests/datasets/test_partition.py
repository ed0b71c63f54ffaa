"""Splits beyond the basic ones (tests/test_data.py), and the command that shows them."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch

from fedsmu_ray import data as command
from fedsmu_ray.config.schema import PartitionConfig
from fedsmu_ray.datasets.partition import partition
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.numerics.streams import host_generator

Y = np.random.default_rng(0).integers(10, size=5000)
OWNERS = np.random.default_rng(1).permutation(np.repeat(np.arange(40), 125))
KINDS = [
    PartitionConfig("dirichlet", 0.25, sigma=0.5),
    PartitionConfig("shards"),
    PartitionConfig("shards", shards=5),
    PartitionConfig("natural"),
    PartitionConfig("quantity_skew", 0.5),
    PartitionConfig("quantity_skew", 0.01),
]


@pytest.mark.parametrize("config", KINDS, ids=str)
@pytest.mark.parametrize("clients", [7, 40])
def test_every_split_is_disjoint_and_a_function_of_labels_and_seed(config, clients):
    one, two, three = (partition(config, Y, 10, clients, seed, OWNERS) for seed in (1, 1, 2))
    assert torch.equal(one.indices, two.indices) and torch.equal(one.sizes, two.sizes)
    if config.kind != "natural" or clients < 40:
        assert not torch.equal(one.indices, three.indices)
    assert len(one.sizes) == clients and (one.sizes > 0).all()
    assert torch.equal(one.starts, one.sizes.cumsum(0) - one.sizes)
    assert len(one.indices.unique()) == len(one.indices) == int(one.sizes.sum()) <= len(Y)
    assert (one.counts(Y, 10).sum(0) <= np.bincount(Y, minlength=10)).all()


def turn_by_turn(labels, classes, clients, alpha, seed):
    """FedDyn's procedure as it is described, a sample at a time, on the same random numbers."""
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
        if not pools[
            drawn
        ]:  # what remains matters to clients without mass, and is looked up when a class runs out
            left = np.array([len(p) for p in pools])
        if len(slots[client]) == len(labels) // clients:
            running[pick] = running[-1]
            running.pop()
    return slots


@pytest.mark.parametrize("alpha", [0.25, 0.01])
def test_dirichlet_in_blocks_deals_like_one_sample_at_a_time(alpha, monkeypatch):
    monkeypatch.setattr(sys.modules["fedsmu_ray.datasets.partition"], "DIRICHLET_BLOCK", 300)
    split = partition(PartitionConfig("dirichlet", alpha), Y, 10, 40, 3)
    assert [split.of(c).tolist() for c in range(40)] == turn_by_turn(Y, 10, 40, alpha, 3)


def test_a_split_travels_as_arrays():
    """Out of band, so that Ray's object store holds one copy for all processes of a node."""
    split, outside = partition(KINDS[0], Y, 10, 40, 0), []
    packed = pickle.dumps(split, protocol=5, buffer_callback=outside.append)
    assert len(packed) < 1000 and sum(len(b.raw()) for b in outside) == 8 * (
        len(split.indices) + 80
    )
    again = pickle.loads(packed, buffers=outside)
    assert all(
        torch.equal(getattr(split, name), getattr(again, name))
        for name in ("indices", "starts", "sizes")
    )


def test_log_normal_sizes():
    sizes = partition(PartitionConfig("dirichlet", 0.25, sigma=0.5), Y, 10, 50, 0).sizes
    assert int(sizes.sum()) == len(Y)  # unlike equal sizes, nothing is left over
    spread = float(sizes.double().log().std())
    assert spread == pytest.approx(0.5, abs=0.15)
    assert (
        int(partition(PartitionConfig("dirichlet", 0.25, sigma=4.0), Y, 10, 50, 0).sizes.min()) >= 1
    )


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
    split = partition(PartitionConfig("natural"), Y, 10, 40, 0, OWNERS)
    for client in range(40):
        assert split.of(client).tolist() == np.flatnonzero(client == OWNERS).tolist()
    some = partition(PartitionConfig("natural"), Y, 10, 5, 0, OWNERS)
    assert all(len(np.unique(OWNERS[some.of(c).numpy()])) == 1 for c in range(5))
    with pytest.raises(
        ConfigError,
        match="data.clients = 41: the data has 40 natural clients .* data.clients=40 or fewer",
    ):
        partition(PartitionConfig("natural"), Y, 10, 41, 0, OWNERS)
    with pytest.raises(ConfigError, match="does not say whose its samples are"):
        partition(PartitionConfig("natural"), Y, 10, 40, 0)


def test_quantity_skew_is_skewed_in_size_only():
    split = partition(PartitionConfig("quantity_skew", 0.5), np.arange(100_000) % 10, 10, 20, 0)
    assert int(split.sizes.sum()) == 100_000 and int(split.sizes.max()) > 5 * int(
        split.sizes.median()
    )
    largest = split.counts(np.arange(100_000) % 10, 10)[int(split.sizes.argmax())]
    assert abs(largest / largest.sum() - 0.1).max() < 0.02


def test_classes_that_cover_a_client():
    counts = np.array([[80, 10, 10], [40, 40, 20], [34, 33, 33]])
    assert command.covering(counts).tolist() == [1, 2, 3]


def test_command_prints_and_plots_the_split(tmp_path, capsys):
    plot = tmp_path / "split.png"
    options = [
        "data.clients=12",
        "data.partition.kind=shards",
        "federation.cohort=5",
        "--json",
        "--plot",
        str(plot),
    ]
    assert command.main(options) == 0
    out = capsys.readouterr().out
    assert (
        "digits: 1,437 training and 360 test samples [1, 8, 8] (uint8), 10 classes; shards, shards 2, seed 0"
        in out
    )
    facts = json.loads(out.splitlines()[-1])
    assert facts["clients"] == 12 and facts["samples"] == sum(facts["sizes"]) == 12 * 2 * (
        1437 // 24
    )
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_command_explains_what_is_wrong(capsys):
    assert command.main(["data.partition.kind=natural"]) == 2
    assert "data.partition.kind = natural: this data set does not say" in capsys.readouterr().err
    assert command.main(["federation.cohort=5", "data.clients=12", "--plot", "split.nothing"]) == 2
    assert "--plot split.nothing" in capsys.readouterr().err
