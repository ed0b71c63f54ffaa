"""Local training of modules that users write gives what ordinary PyTorch gives."""

import pytest
import torch
import torch.nn.functional as F

from fedsmu_ray.algorithms.base import Setting
from fedsmu_ray.config.validation import parse
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.numerics import parameters

SETTING = Setting((1,), clients=10, cohort=3, steps=1, lr=0.1)  # not used by the solvers
CLIENTS = torch.tensor([3, 1, 7, 0, 5])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "model, together",
    [
        ("FrozenByTrain", True),
        ("frozen_by_eval", True),
        ("UnusedBatchNorm", True),
        ("lazy", True),
        ("old_weight_norm", False),
        ("weight_norm", False),
        ("Tied", True),
        ("Shared", True),
        ("uses_a_list", False),
        ("Checkpointed", False),
        ("ChangesInputs", True),
        ("EmptyParameter", True),
    ],
)
def test_a_step_is_that_of_torch_optim(model, together):
    """One batch of every client, in a group where that is possible; decay of all parameters."""
    config = {
        "data": {"clients": 10},
        "model": {"name": f"import:tests.helpers.odd_models:{model}"},
        "local": {"epochs": 1, "batch_size": 400, "lr": 0.2, "weight_decay": 0.1},
    }
    problem = Problem.of(parse(config))
    trainer = ClientWorker(problem).trainer
    x = problem.initial()
    solver = GroupSolver(trainer, 4, CLIENTS, SETTING)
    trained = solver.train(x)
    for y, client in zip(trained, CLIENTS.tolist()):
        module = problem.module()
        weights = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=0.2, weight_decay=0.1)
        inputs, labels = trainer.data.batch(trainer.partition.of(client))
        F.cross_entropy(module(inputs), labels).backward()
        torch.nn.utils.clip_grad_norm_(weights, problem.config.local.clip_norm)
        for p in weights:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        optimizer.step()
        assert not torch.equal(y, x)
        torch.testing.assert_close(y, parameters.flatten(module), rtol=1e-4, atol=2e-6)
    assert trainer.trains_together(solver.steps) == together
