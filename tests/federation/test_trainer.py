"""A trainer whose convolutions compute with the part of their kernels that meets the images."""

import pytest
import torch
from torch import nn

from fedsmu_ray.algorithms.base import Setting
from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.device import DeviceData
from fedsmu_ray.datasets.synthetic import Synthetic
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.trainer import Trainer
from fedsmu_ray.numerics import parameters
from fedsmu_ray.objectives.scores import Scores

SETTING = Setting((1,), clients=4, cohort=2, steps=1, lr=0.1)  # not used by the solvers


def trainer_of(is_users=False, **local):
    config = parse(
        {
            "data": {"clients": 4},
            "federation": {"cohort": 2},
            "local": {"epochs": 2, "batch_size": 5, **local},
        }
    )
    problem = Problem.of(config, Synthetic((3, 4, 4), train=40, test=6).load("images", None, False))
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(n, 8, 3, stride=2, padding=1) for n in (3, 8, 8)]
    module = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(8, 10))
    data = DeviceData(problem.dataset, torch.device("cpu"))
    return Trainer(module, data, problem.partition, config.local, 0, is_users=is_users)


def solved(trainer, solve):
    x = parameters.flatten(trainer.module)
    x = x + 0.01 * torch.randn(len(x), generator=torch.Generator().manual_seed(1))
    result = solve(GroupSolver(trainer, 1, torch.tensor([2, 0]), SETTING), x)
    scores = Scores(trainer.loss, "classes", 10)
    trainer.score(result[0], 0, 6, scores)
    return x, result, scores.result().loss


@pytest.mark.parametrize(
    "solve, local, whole",
    [
        (lambda s, x: s.train(x), {}, False),
        (lambda s, x: s.train(x, prox=0.5), {"clip_norm": 0.1}, False),
        (lambda s, x: s.train(x), {"weight_decay": 0.1}, True),
        (lambda s, x: s.train(x, correction=0.1 * x.expand(2, -1)), {}, True),
        (lambda s, x: s.lion(x, x, 0.9, 0.9)[1], {}, True),
    ],
    ids=["plain", "proximal", "decay", "correction", "lion"],
)
def test_training_is_that_of_whole_kernels(solve, local, whole):
    local = {"lr": 0.1, "clip_norm": None, "weight_decay": 0.0, **local}
    trainer, reference = trainer_of(**local), trainer_of(is_users=True, **local)
    assert [w.rows for w in trainer.windows.windows] == [slice(1, 3), slice(1, 2)]
    assert reference.windows is None
    x, found, scored = solved(trainer, solve)
    _, wanted, score = solved(reference, solve)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert scored == pytest.approx(score, rel=1e-4)
    middle = trainer.layout.views(found[0] == x)[4]
    assert bool(middle[:, :, 0].all()) != whole
