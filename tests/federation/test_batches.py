"""Which samples a client trains on in its local steps."""

from collections import Counter

import pytest
import torch

from fedsmu_ray.config.local import LocalConfig
from fedsmu_ray.datasets.partition import Partition
from fedsmu_ray.federation.batches import Batches, Work

SIZES = torch.tensor([71, 30, 45, 3])
PARTITION = Partition(torch.arange(149).flip(0), SIZES.cumsum(0) - SIZES, SIZES)


def batches(clients, **more):
    round, seed = more.pop("round", 1), more.pop("seed", 0)
    work = Work(LocalConfig(**{"epochs": 3, "batch_size": 30} | more), seed)
    return Batches.of(PARTITION, torch.tensor(clients), round, work)


def taken(batches, row):
    steps = int(batches.steps[row])
    return [i[:n].tolist() for i, n in zip(batches.index[row, :steps], batches.sizes[row])]


def test_every_epoch_covers_the_client_and_keeps_the_short_batch():
    found = batches([0, 1, 2, 3])
    assert found.steps.tolist() == [9, 3, 6, 3]
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


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_steps_follow_each_other_over_the_epochs(steps):
    """A number of steps takes the first batches of as many epochs as it needs."""
    found, epochs = batches([0, 1, 3], epochs=None, steps=steps), batches([0, 1, 3], epochs=7)
    assert found.steps.tolist() == [steps] * 3
    for row in range(3):
        assert taken(found, row) == taken(epochs, row)[:steps]
        assert taken(found, row) == taken(batches([[0, 1, 3][row]], epochs=None, steps=steps), 0)


@pytest.mark.parametrize("key", ["epochs", "steps"])
def test_drawn_work_is_uniform_and_a_function_of_seed_round_and_client(key):
    def draw(seed, round, clients, interval=(2, 5)):
        clients = torch.tensor(clients)
        local = LocalConfig(**{"epochs": None, key: {"uniform": list(interval)}}, batch_size=10)
        return Work(local, seed).steps(round, clients, torch.full_like(clients, 30)).tolist()

    everyone = draw(0, 1, list(range(4000)))
    in_epoch = 3 if key == "epochs" else 1
    counts = Counter(everyone)
    assert sorted(counts) == [in_epoch * number for number in (2, 3, 4, 5)]
    assert all(900 < count < 1100 for count in counts.values())
    assert draw(0, 1, [7, 3999, 12]) == [everyone[7], everyone[3999], everyone[12]]
    assert draw(0, 2, list(range(4000))) != everyone != draw(1, 1, list(range(4000)))
    assert draw(0, 1, [1, 2], (3, 3)) == [3 * in_epoch] * 2


def test_what_is_known_of_drawn_work():
    drawn = Work(LocalConfig(epochs={"uniform": [1, 5]}, batch_size=20), 0)
    assert drawn.is_drawn and drawn.most_steps(50) == 15 and drawn.mean_samples(50.0) == 150
    fixed = Work(LocalConfig(epochs=None, steps=8, batch_size=20), 0)
    assert not fixed.is_drawn and fixed.most_steps(50) == 8 and fixed.mean_samples(50.0) == 160
    assert fixed.mean_samples(5.0) == 40
