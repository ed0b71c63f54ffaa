"""Correction, proximal term, Lion and bfloat16, compared with plain PyTorch loops."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from fedsmu_ray.config.loading import load_config
from fedsmu_ray.errors import LocalDivergenceError
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.numerics import parameters


@pytest.fixture(scope="module")
def problem():
    return Problem.of(
        load_config(
            None,
            {
                "algorithm": {"name": "fedavg", "profile": "paper"},
                "model.hidden": [12],
                "data.clients": 30,
                "federation.cohort": 4,
                "local": {"epochs": 2, "batch_size": 10, "lr": 0.05, "clip_norm": 0.5},
                "compute.executor": "inline",
            },
        )
    )


def batches(trainer, round, client):
    batches = trainer.batches(round, torch.tensor([client]))
    for index, size in zip(batches.index[0], batches.sizes[0]):
        yield trainer.data.batch(index[:size])


def gradient(trainer, y, inputs, targets):
    y = y.detach().requires_grad_()
    params = trainer.layout.named(trainer.layout.views(y))
    (h,) = torch.autograd.grad(
        F.cross_entropy(functional_call(trainer.module, params, (inputs,)), targets), y
    )
    return h


def clipped(h):
    return h * min(1.0, 0.5 / (float(h.norm()) + 1e-6))


def test_correction_and_proximal_term_enter_before_clipping(problem):
    trainer = ClientWorker(problem).trainer
    x = parameters.flatten(trainer.module)
    correction = 0.01 * torch.randn(2, len(x), generator=torch.Generator().manual_seed(0))
    got = GroupSolver(trainer, 3, torch.tensor([4, 7]), problem.setting).train(
        x, correction, prox=2.0
    )
    for row, client in enumerate((4, 7)):
        y = x.clone()
        for inputs, targets in batches(trainer, 3, client):
            h = gradient(trainer, y, inputs, targets) + correction[row] + 2.0 * (y - x)
            y = y - 0.05 * clipped(h)
        torch.testing.assert_close(got[row], y, rtol=1e-4, atol=1e-6)


def test_lion_sums_signs_of_every_local_step(problem):
    trainer = ClientWorker(problem).trainer
    x = parameters.flatten(trainer.module)
    momentum = 1e-3 * torch.randn(len(x), generator=torch.Generator().manual_seed(1))
    local = GroupSolver(trainer, 3, torch.tensor([4, 7]), problem.setting)
    steps, mus = local.lion(x, momentum, 0.9, 0.7)
    assert (local.steps == problem.setting.steps).all()
    for row, client in enumerate((4, 7)):
        y, mu, total = x.clone(), momentum, torch.zeros_like(x)
        for inputs, targets in batches(trainer, 3, client):
            h = clipped(gradient(trainer, y, inputs, targets))
            w = torch.sign(0.9 * mu + 0.1 * h)
            mu = 0.7 * mu + 0.3 * h
            y, total = y - 0.05 * w, total + w
        assert (
            torch.equal(steps[row], steps[row].round())
            and steps[row].abs().max() <= problem.setting.steps
        )
        assert (steps[row] != total).float().mean() < 0.02  # rounding may flip a sign
        torch.testing.assert_close(mus[row], mu, rtol=1e-2, atol=1e-3)


def test_uniform_draws_depend_on_the_client_and_not_on_its_group(problem):
    trainer = ClientWorker(problem).trainer
    v = torch.zeros(3, 20_000)
    draws = GroupSolver(trainer, 5, torch.tensor([1, 2, 3]), problem.setting).uniform(v)
    assert torch.equal(
        draws[1], GroupSolver(trainer, 5, torch.tensor([2]), problem.setting).uniform(v[:1])[0]
    )
    assert not torch.equal(
        draws[1], GroupSolver(trainer, 6, torch.tensor([2]), problem.setting).uniform(v[:1])[0]
    )
    assert draws.min() >= 0 and draws.max() < 1
    assert (draws.mean(-1) - 0.5).abs().max() < 5 * (1 / 12 / 20_000) ** 0.5
    assert abs(float(torch.corrcoef(draws[:2])[0, 1])) < 5 / 20_000**0.5


@pytest.mark.parametrize(
    "model, data",
    [
        ({"name": "mlp", "hidden": [32]}, {"dataset": "digits"}),
        (
            {"name": "lenet", "filters": 8},
            {"dataset": "synthetic", "options": {"shape": [3, 32, 32], "train": 600, "test": 100}},
        ),
    ],
    ids=["batched", "one by one"],
)
def test_bfloat16_is_near_float32_and_repeats(model, data):
    """Weights stay float32, so steps far below the resolution of bfloat16 are not lost."""

    def trained(precision):
        problem = Problem.of(
            load_config(
                None,
                {
                    "algorithm": {"name": "fedavg", "profile": "paper"},
                    "model": model,
                    "data": {**data, "clients": 30},
                    "federation.cohort": 4,
                    "local": {"epochs": 1, "batch_size": 10, "lr": 0.01},
                    "compute": {"executor": "inline", "precision": precision},
                },
            )
        )
        worker = ClientWorker(problem)
        x = problem.initial()
        return GroupSolver(worker.trainer, 1, torch.tensor([3, 7]), problem.setting).train(x) - x

    full, reduced = trained("float32"), trained("bfloat16")
    assert (
        reduced.dtype == torch.float32
        and torch.equal(reduced, trained("bfloat16"))
        and not torch.equal(full, reduced)
    )
    assert F.cosine_similarity(full, reduced).min() > 0.99
    assert (reduced != 0).float().mean() > 0.5


def test_lion_refuses_a_momentum_that_is_not_finite(problem):
    """The models stay finite: they move by signs."""
    momentum = torch.zeros(problem.dim)
    momentum[7] = float("inf")
    local = GroupSolver(ClientWorker(problem).trainer, 3, torch.tensor([3]), problem.setting)
    with pytest.raises(LocalDivergenceError, match="client 3: local training diverged"):
        local.lion(problem.initial(), momentum, 0.9, 0.7)
