"""Random streams: pure functions of their key, uniform enough, and a layout that tells parameters apart."""

import numpy as np
import torch

from fedsmu_ray.config.schema import ModelConfig
from fedsmu_ray.models import registry
from fedsmu_ray.numerics import parameters, streams


def test_words_are_splitmix64():
    # The first outputs of SplitMix64 from state 0, as published with its reference implementation.
    words = (
        streams.words(torch.zeros(3, dtype=torch.int64), torch.arange(3)).numpy().view(np.uint64)
    )
    assert [hex(w) for w in words] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


def test_keys_differ_in_every_part():
    clients = torch.arange(4)
    base = streams.keys(0, "batches", 1, clients)
    others = [
        streams.keys(1, "batches", 1, clients),
        streams.keys(0, "compressor", 1, clients),
        streams.keys(0, "batches", 2, clients),
    ]
    assert len({int(k) for keys in (base, *others) for k in keys}) == 16
    assert torch.equal(base[2:3], streams.keys(0, "batches", 1, torch.tensor([2])))


def test_permutations_do_not_depend_on_the_group():
    sizes = torch.tensor([7, 3, 12])
    keys = streams.keys(5, "batches", 9, torch.tensor([4, 1, 8]))
    together = streams.permutations(keys, 2, sizes)
    for c in range(3):
        alone = streams.permutations(keys[c : c + 1], 2, sizes[c : c + 1])
        assert torch.equal(together[c, :, : sizes[c]], alone[0])
        for epoch in alone[0]:
            assert sorted(epoch.tolist()) == list(range(sizes[c]))
    assert not torch.equal(together[2, 0], together[2, 1])


def test_coins_are_fair():
    coins = (
        streams.words(streams.keys(0, "compressor", 1, torch.tensor([3])), torch.arange(100_000))
        & 1
    )
    assert abs(float(coins.double().mean()) - 0.5) < 5 * 0.5 / 100_000**0.5


def test_layout_round_trip_and_parameter_counts():
    for name, shape, classes, dim in (
        ("lenet", (3, 32, 32), 10, 797_962),
        ("lenet", (3, 32, 32), 100, 815_332),
        ("mlp", (1, 8, 8), 10, 55_210),
    ):
        module = registry.build(ModelConfig(name), shape, classes, 3)
        x = parameters.flatten(module)
        assert parameters.Layout.of(module).dim == len(x) == dim
        other = parameters.load(registry.build(ModelConfig(name), shape, classes, 4), x)
        assert torch.equal(parameters.flatten(other), x)


def test_initialisation_depends_on_the_seed_and_on_nothing_else():
    torch.manual_seed(99)
    state = torch.get_rng_state()
    one, two, three = (
        parameters.flatten(registry.build(ModelConfig(), (1, 8, 8), 10, seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, three)
    assert torch.equal(torch.get_rng_state(), state)


def test_running_statistics_are_refused():
    import pytest

    with pytest.raises(ValueError, match="layer '1' .BatchNorm2d. keeps running statistics"):
        parameters.Layout.of(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.BatchNorm2d(1)))
