"""Local training: the solver's arithmetic, groups compared with single clients, and errors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsmu_ray.algorithms.base import Setting
from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.datasets.partition import Partition
from fedsmu_ray.errors import ClientError
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.trainer import Trainer
from fedsmu_ray.numerics import parameters, streams

CPU = torch.device("cpu")
SETTING = Setting((1,), clients=20, cohort=2, steps=1, lr=0.1)  # not used by the solvers


def trainer_of(plain, partition=None, module=None):
    problem = Problem.of(parse(plain))
    return Trainer(
        module or problem.module(),
        DeviceData(problem.dataset, CPU),
        partition or problem.partition,
        problem.config.local,
        problem.config.seed,
    )


def plain(**local):
    return {
        "data": {"clients": 20},
        "model": {"hidden": [16]},
        "algorithm": {"profile": "paper"},
        "local": {"epochs": 2, "batch_size": 20, **local},
    }


def reference(trainer, round, client):
    """Train one client for a round in ordinary PyTorch, with torch.optim.SGD."""
    local, data = trainer.local, trainer.data
    module = Problem.of(parse(plain())).module()
    optimizer = torch.optim.SGD(module.parameters(), lr=local.lr)
    key = streams.keys(trainer.seed, "batches", round, np.array([client]))
    own = trainer.partition.of(client)
    for epoch in streams.permutations(key, local.epochs, np.array([len(own)]))[0]:
        for batch in own[epoch].split(local.batch_size):
            inputs, targets = data.batch(batch)
            optimizer.zero_grad()
            F.cross_entropy(module(inputs), targets).backward()
            if local.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), local.clip_norm)
            with torch.no_grad():
                for p in module.parameters():
                    p.grad += local.weight_decay * p
            optimizer.step()
    return parameters.flatten(module)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "weight_decay": 0.1}])
def test_sgd_is_pytorchs(options):
    trainer = trainer_of(plain(lr=0.2, **options))
    x = parameters.flatten(trainer.module)
    clients = torch.tensor([3, 11, 7])
    y = GroupSolver(trainer, 4, clients, SETTING).train(x)
    for row, client in zip(y, clients.tolist()):
        torch.testing.assert_close(row, reference(trainer, 4, client), rtol=1e-4, atol=2e-6)


def test_a_group_trains_like_its_clients_alone_even_with_unequal_data_sizes():
    sizes = torch.tensor([70, 70, 63, 44, 25, 1])
    partition = Partition(torch.arange(int(sizes.sum())), torch.cumsum(sizes, 0) - sizes, sizes)
    trainer = trainer_of(plain(weight_decay=0.05, clip_norm=1.0), partition)
    x = parameters.flatten(trainer.module)
    group = GroupSolver(trainer, 2, torch.arange(6), SETTING)
    assert trainer.trains_together(group.steps)
    together = group.train(x)
    for client in range(6):
        alone = GroupSolver(trainer, 2, torch.tensor([client]), SETTING)
        torch.testing.assert_close(together[client], alone.train(x)[0], rtol=1e-4, atol=2e-6)
        torch.testing.assert_close(group.losses[client], alone.losses[0], rtol=1e-4, atol=1e-6)


class Score(nn.Module):
    """Logits (score(y), 0, ..., 0) for every sample, of 100 parameters y."""

    def __init__(self, score):
        super().__init__()
        self.score, self.y = score, nn.Parameter(torch.linspace(-1, 1, 100))

    def forward(self, x):
        return F.pad(self.score(self.y).view(1, 1), (0, 9)).expand(len(x), 10)


def test_weight_decay_alone_contracts():  # oracle 11: delta = ((1 - lr wd)^K - 1) x
    options = plain(lr=0.1, weight_decay=0.5, batch_size=30)
    trainer = trainer_of(options, module=Score(lambda y: 0 * y.sum()))
    x = parameters.flatten(trainer.module)
    local = GroupSolver(trainer, 1, torch.tensor([0]), SETTING)
    y = local.train(x)
    torch.testing.assert_close(y[0], (1 - 0.05) ** float(local.steps) * x, rtol=1e-5, atol=1e-8)


def test_clipping_moves_by_the_rate_times_the_threshold_before_decay():  # oracle 11
    direction = F.normalize(torch.ones(100), dim=0)
    options = plain(lr=0.1, clip_norm=10.0, weight_decay=0.0, epochs=1, batch_size=1000)
    trainer = trainer_of(options, module=Score(lambda y: (400 * direction) @ y))
    x = torch.zeros(100)
    local = GroupSolver(trainer, 1, torch.tensor([0]), SETTING)
    y = local.train(x)
    # At equal logits the gradient is 400 direction (1/10 - the share of label 0), above 10.
    share = float((trainer.data.train_y[trainer.partition.of(0)] == 0).float().mean())
    norm = 400 * abs(0.1 - share)
    assert norm > 10
    moved = 0.1 * 10 * norm / (norm + 1e-6)
    expected = -moved * torch.sign(torch.tensor(0.1 - share)) * direction
    torch.testing.assert_close(y[0], expected, rtol=1e-5, atol=1e-8)


def test_a_gradient_whose_norm_overflows_is_divergence_and_not_scaled_to_zero():
    trainer = trainer_of(plain(clip_norm=10.0, epochs=1))
    local = GroupSolver(trainer, 1, torch.tensor([3]), SETTING)
    x = torch.zeros(trainer.layout.dim)
    with pytest.raises(ClientError, match="round 1, client 3: local training diverged"):
        local.train(x, correction=torch.full((1, len(x)), 1e20))


def test_divergence_names_the_client_and_the_cure():
    trainer = trainer_of(plain(lr=1e30))
    with pytest.raises(
        ClientError,
        match=r"round 3, client 5: local training diverged .* lower local.lr \(now 1e\+30\)",
    ):
        GroupSolver(trainer, 3, torch.tensor([5]), SETTING).train(
            parameters.flatten(trainer.module)
        )


def test_zero_rules():
    trainer = trainer_of(plain())
    v = torch.tensor([[0.0, -2.0, 3.0, 0.0] * 500, [0.0, 0.0, 0.0, 1.0] * 500])
    local = GroupSolver(trainer, 1, torch.tensor([2, 9]), SETTING)
    assert torch.equal(local.sign(v, "zero"), v.sign().to(torch.int8))
    assert torch.equal(local.sign(v, "plus"), torch.where(v == 0, 1.0, v.sign()).to(torch.int8))
    coins = local.sign(v, "random")
    assert torch.equal(coins[v != 0], v.sign().to(torch.int8)[v != 0]) and (coins != 0).all()
    # A client's signs do not depend on its group.
    assert torch.equal(
        coins[1], GroupSolver(trainer, 1, torch.tensor([9]), SETTING).sign(v[1:], "random")[0]
    )
    assert abs(float(coins[v == 0].double().mean())) < 5 / 2500**0.5
    assert local.zeros == 3 * int((v == 0).sum())


def test_the_initial_model_is_not_changed_by_training():
    trainer = trainer_of(plain())
    x = parameters.flatten(trainer.module)
    before = x.clone()
    once, again = (GroupSolver(trainer, 1, torch.tensor([0]), SETTING).train(x) for _ in range(2))
    assert torch.equal(x, before) and torch.equal(once, again) and not torch.equal(once[0], x)


@pytest.mark.parametrize("work", [{"steps": 7}, {"steps": {"uniform": [1, 9]}}])
def test_steps_are_those_of_pytorch_in_any_group(work):
    """Clients of a group make the first steps of as many epochs as they need."""
    problem = Problem.of(parse(plain(epochs=None, **work)))
    trainer = trainer_of(plain(epochs=None, **work))
    x = parameters.flatten(trainer.module)
    clients = problem.ordered(3, [2, 5, 9, 11, 17])
    group = GroupSolver(trainer, 3, torch.tensor(clients), SETTING)
    steps = group.steps[:, 0].tolist()
    assert steps == problem.local_steps(3)[clients].tolist()
    assert len(set(steps)) > 1 if problem.work.is_drawn else steps == [7] * 5
    together = group.train(x)
    for row, client in zip(together, clients):
        alone = GroupSolver(trainer, 3, torch.tensor([client]), SETTING).train(x)
        torch.testing.assert_close(row[None], alone, rtol=1e-4, atol=1e-6)
        batches = trainer.batches(3, torch.tensor([client]))
        module = problem.module()
        optimizer = torch.optim.SGD(module.parameters(), lr=trainer.local.lr)
        for index, size in zip(batches.index[0], batches.sizes[0].tolist()):
            inputs, targets = trainer.data.batch(index[:size])
            optimizer.zero_grad()
            F.cross_entropy(module(inputs), targets).backward()
            optimizer.step()
        torch.testing.assert_close(row, parameters.flatten(module), rtol=1e-4, atol=2e-6)
