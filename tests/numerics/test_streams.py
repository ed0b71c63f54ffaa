"""Random streams: published reference values, and dependence on the keys only."""

import numpy as np
import torch

from fedsmu_ray.numerics import streams


def test_words_are_splitmix64():
    # The first outputs of SplitMix64 from state 0, as published with its reference implementation.
    words = streams.words(torch.zeros(3, dtype=torch.int64), torch.arange(3))
    published = ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]
    assert [hex(w) for w in words.numpy().view(np.uint64)] == published


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
    sizes = np.array([7, 3, 12])
    keys = streams.keys(5, "batches", 9, np.array([4, 1, 8]))
    together = streams.permutations(keys, 2, sizes)
    for c in range(3):
        alone = streams.permutations(keys[c : c + 1], 2, sizes[c : c + 1])
        assert np.array_equal(together[c, :, : sizes[c]], alone[0])
        for epoch in alone[0]:
            assert sorted(epoch.tolist()) == list(range(sizes[c]))
    assert not np.array_equal(together[2, 0], together[2, 1])


def test_arrays_and_tensors_have_the_same_words():
    clients, index = np.arange(5), np.arange(7) << 40
    keys = streams.keys(2**40 + 3, "batches", 9, clients)
    tensors = streams.keys(2**40 + 3, "batches", 9, torch.from_numpy(clients))
    assert np.array_equal(keys, tensors.numpy())
    words = streams.words(tensors[:, None], torch.from_numpy(index))
    assert np.array_equal(streams.words(keys[:, None], index), words.numpy())


def test_coins_are_fair():
    key = streams.keys(0, "compressor", 1, torch.tensor([3]))
    coins = streams.words(key, torch.arange(100_000)) & 1
    assert abs(float(coins.double().mean()) - 0.5) < 5 * 0.5 / 100_000**0.5
