"""Run rounds of a workload in fedsmu_ray: with encoded and decoded messages, inline or over Ray."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from turns import turns
from workloads import LR, TEXT, Workload

from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.executors.registry import backend
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.rounds import rounds

MODELS = {
    "linear": {"name": "linear"},
    "mlp-64": {"name": "mlp", "hidden": [64]},
    "mlp-200": {"name": "mlp", "hidden": [200, 200]},
    "lenet-8": {"name": "lenet", "filters": 8},
    "lenet-64": {"name": "lenet"},
    "resnet18": {"name": "resnet18_gn"},
    "lstm": {"name": "char_lstm"},
    "transformer": {"name": "import:workloads:transformer"},
}
ENDLESS = 10**6  # rounds; there is no evaluation before the last


def problem(workload: Workload, how: str) -> Problem:
    x, y = workload.data()
    sizes = torch.from_numpy(workload.sizes())
    owner = torch.arange(workload.clients).repeat_interleave(sizes).numpy()
    symbols = workload.classes if workload.model in TEXT else None
    test = x[:2], y[:2]
    dataset = Dataset(
        "random", x, y, *test, workload.classes, clients=owner, symbols=symbols, scale=1.0
    )
    config = {
        "data": {"clients": workload.clients, "partition": {"kind": "natural"}},
        "model": MODELS[workload.model],
        "algorithm": {"name": workload.method, "profile": "paper"},
        "local": {"epochs": workload.epochs, "batch_size": workload.batch, "lr": LR},
        "federation": {"rounds": ENDLESS, "cohort": workload.cohort, "eval_every": ENDLESS},
        "compute": {"executor": how, **({"actors": 2} if how == "ray" else {})},
    }
    return Problem.of(parse(config), dataset)


class Ours:
    """Rounds of this package; `x`: the model vector [P] after each."""

    def __init__(self, problem: Problem, executor) -> None:
        self.executor, self.records = executor, rounds(problem, executor)

    def round(self, cohort: list[int]) -> None:
        assert list(next(self.records).cohort) == cohort

    @property
    def x(self) -> torch.Tensor:
        return torch.from_numpy(self.executor.params())


@contextmanager
def opened(workload: Workload, how: str) -> Iterator[Ours]:
    given = problem(workload, how)
    with backend(how).open(given, None) as (executor, _):
        yield Ours(given, executor)


def main(workload: Workload, how: str) -> None:
    with opened(workload, how) as ours:
        for cohort in turns():
            ours.round(cohort)


if __name__ == "__main__":
    main(Workload(**json.loads(sys.argv[1])), sys.argv[2])
