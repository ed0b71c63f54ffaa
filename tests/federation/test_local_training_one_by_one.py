"""Models that draw random numbers, whose clients are trained one by one."""

from functools import partial

import torch
from torch import nn

from fedsmu_ray.algorithms.base import Setting
from fedsmu_ray.config.local import LocalConfig
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.datasets.partition import Partition, PartitionConfig, partition
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.trainer import Trainer
from fedsmu_ray.numerics import parameters
from tests.helpers.dataset_files import load

SETTING = Setting((1,), clients=20, cohort=2, steps=1, lr=0.1)  # not used by SGD


def trainer_of(local, split=None):
    """A trainer of a small network with dropout on the digits."""
    data = load("digits")
    split = split or partition(PartitionConfig(), data.train_y, data.classes, 20, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10)
        )
    trainer = Trainer(module, DeviceData(data, torch.device("cpu")), split, local, 0)
    assert not trainer.batched
    return trainer, parameters.flatten(module)


def train(trainer, x, round, clients):
    return GroupSolver(trainer, round, torch.tensor(clients), SETTING).train(x)


def test_clients_trained_one_by_one_skip_batches_beyond_their_data():
    sizes = torch.tensor([70, 15])
    split = Partition(torch.arange(85), sizes.cumsum(0) - sizes, sizes)
    trained = partial(
        train, *trainer_of(LocalConfig(epochs=2, batch_size=20, weight_decay=0.5), split)
    )
    group = trained(1, [0, 1])
    for client in (0, 1):
        assert torch.equal(group[client], trained(1, [client])[0])


def test_random_draws_of_the_model_depend_on_client_and_round():
    """Dropout draws from PyTorch's generator, which is seeded for every client."""
    trained = partial(train, *trainer_of(LocalConfig(epochs=1)))
    group = trained(2, [3, 9])
    assert torch.equal(group[1], trained(2, [9])[0])
    assert not torch.equal(group[1], trained(3, [9])[0])
