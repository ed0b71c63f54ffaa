"""Clients of models that draw random numbers or mix the samples of a batch."""

import logging
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ClientError
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.numerics import parameters
from tests.helpers.experiments import inline

MODELS = "import:tests.helpers.random_models:"


def problem_of(name, options, together=None, **more):
    return Problem.of(
        parse(
            {
                "data": {"clients": 20, "partition": {"alpha": 0.5, "sigma": 0.5}},
                "model": {"name": MODELS + name, "options": options},
                "algorithm": {"name": "fedavg"},
                "local": {"epochs": 2, "batch_size": 16},  # no client has a batch of one
                "federation": {"rounds": 2, "cohort": 5},
                "compute": {"executor": "inline", "clients_per_task": together},
                **more,
            }
        )
    )


@pytest.mark.parametrize(
    "model, how",
    [
        ("mixing", "batch norm"),
        ("mixing", "standard deviation"),
        ("mixing", "dropout"),
        ("noisy", "numpy"),
        ("noisy", "python"),
    ],
)
def test_groups_do_not_matter_to_clients_that_must_train_alone(model, how, caplog):
    outcomes = [inline(problem_of(model, {"how": how}, together)) for together in (1, 2, 5)]
    assert len({sha256 for _, sha256, _ in outcomes}) == 1
    assert len({tuple(r.train_loss for r in history) for history, _, _ in outcomes}) == 1
    mixes = how in ("batch norm", "standard deviation")
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 3 * mixes
    if mixes:
        assert "clients are trained one by one, and test accuracy" in warnings[0].getMessage()


def test_a_client_with_batch_norm_trains_on_its_own_samples():
    """The same steps on batches that hold no padding."""
    plain = {"epochs": 2, "batch_size": 16, "lr": 0.05, "weight_decay": 0.0, "clip_norm": None}
    problem = problem_of("mixing", {"how": "batch norm"}, 3, local=plain)
    trainer = ClientWorker(problem).trainer
    sizes = problem.partition.sizes
    client = int((sizes % 16 > 1).int().argmax())  # its last batch is a small one
    larger = sizes.argsort()[-2:].tolist()
    module = problem.module()
    y = GroupSolver(trainer, 1, torch.tensor([client, *larger]), problem.setting).train(
        parameters.flatten(module)
    )
    batches = trainer.batches(1, torch.tensor([client]))
    for rows, count in zip(batches.index[0], batches.sizes[0]):
        inputs, targets = trainer.data.batch(rows[: int(count)])
        loss = torch.nn.functional.cross_entropy(module(inputs), targets)
        gradients = torch.autograd.grad(loss, [*module.parameters()])
        for parameter, gradient in zip(module.parameters(), gradients):
            parameter.data -= 0.05 * gradient
    torch.testing.assert_close(y[0], parameters.flatten(module), rtol=1e-4, atol=1e-6)


def test_draws_that_begin_later_are_noticed():
    federation = {"rounds": 8, "cohort": 5}
    with pytest.raises(ClientError, match="the model drew random numbers, but .* in every .* step"):
        equal = {"clients": 20, "partition": {"kind": "iid"}}
        inline(problem_of("noisy", {"how": "late"}, 5, federation=federation, data=equal))


def test_evaluation_of_a_model_that_mixes_samples_has_batches_of_one_size():
    trainer = ClientWorker(problem_of("mixing", {"how": "batch norm"})).trainer
    cuts = trainer.evaluation_batches(0, 1001)
    assert [stop - start for start, stop in cuts] == [333, 334, 334]
    assert cuts[0][0] == 0 and cuts[-1][1] == 1001
    trainer = ClientWorker(problem_of("mixing", {"how": "layer norm"})).trainer
    assert trainer.evaluation_batches(0, 1001) == [(0, 500), (500, 1000), (1000, 1001)]


@dataclass(frozen=True)
class Drawing(FedAvg):
    """FedAvg whose hooks draw from process-wide generators on clients and server."""

    def client(self, received, state, local):
        upload, new = super().client(received, state, local)
        return {name: value * (1 + 0.1 * np.random.rand()) for name, value in upload.items()}, new

    def server(self, state, mean, round):
        new = super().server(state, mean, round)
        return {name: value * (1 + 0.1 * random.random()) for name, value in new.items()}


def test_draws_of_a_method_depend_on_the_seed():
    method = {"name": f"import:{__name__}:Drawing"}
    model = {"name": "mlp", "hidden": [16]}
    problems = [problem_of("", {}, 2, algorithm=method, model=model) for _ in range(2)]
    one, two = (inline(problem)[1] for problem in problems)
    assert one == two
    other = problem_of("", {}, 2, algorithm={"name": "fedavg"}, model=model)
    assert inline(other)[1] != one
