"""Which samples a client trains on in its local steps."""

import torch

from fedsmu_ray.datasets.partition import Partition
from fedsmu_ray.federation.batches import Batches, local_steps

SIZES = torch.tensor([71, 30, 45, 3])
PARTITION = Partition(torch.arange(149).flip(0), SIZES.cumsum(0) - SIZES, SIZES)


def batches(clients, **more):
    options = {"round": 1, "seed": 0, "epochs": 3, "batch_size": 30} | more
    return Batches.of(PARTITION, torch.tensor(clients), **options)


def taken(batches, row):
    steps = int(batches.steps[row])
    return [i[:n].tolist() for i, n in zip(batches.index[row, :steps], batches.sizes[row])]


def test_every_epoch_covers_the_client_and_keeps_the_short_batch():
    found = batches([0, 1, 2, 3])
    assert found.steps.tolist() == [9, 3, 6, 3] == local_steps(SIZES, 3, 30).tolist()
    lengths = [[30, 30, 11], [30], [30, 15], [3]]
    for client, expected in enumerate(lengths):
        steps = taken(found, client)
        assert [len(step) for step in steps] == 3 * expected
        own = sorted(PARTITION.of(client).tolist())
        for epoch in range(3):
            first = epoch * len(expected)
            assert sorted(sum(steps[first : first + len(expected)], [])) == own
        assert steps[: len(expected)] != steps[len(expected) : 2 * len(expected)]


def test_after_the_last_step_there_is_nothing():
    found = batches([0, 1, 2, 3])
    for row, steps in enumerate(found.steps.tolist()):
        assert (found.sizes[row, :steps] > 0).all() and not found.sizes[row, steps:].any()


def test_batches_do_not_depend_on_the_group():
    together = batches([2, 0, 3])
    for row, client in enumerate((2, 0, 3)):
        assert taken(together, row) == taken(batches([client]), 0)


def test_batches_depend_on_seed_and_round():
    first = taken(batches([0]), 0)
    assert taken(batches([0], seed=1), 0) != first != taken(batches([0], round=2), 0)


def test_a_batch_is_no_wider_than_the_largest_client():
    found = batches([3, 1], batch_size=1000)
    assert found.index.shape == (2, 3, 30) and found.sizes.tolist() == [[3] * 3, [30] * 3]
