"""Run a workload in fedsmu_ray: FedAvg with encoded and decoded messages, over Ray or inline."""

import sys

import numpy as np
from workloads import WORKLOADS, report

from fedsmu_ray.config.validation import parse
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.executors.registry import backend
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.rounds import rounds


def main(name: str, how: str) -> None:
    workload = WORKLOADS[name]
    x, y = workload.data()
    x = x.reshape(len(x), *(workload.shape if len(workload.shape) == 3 else (1, 8, 8)))
    channels = x.shape[1]
    y = y.astype(np.int64)
    dataset = Dataset(name, x, y, x[:10], y[:10], 10, (0.0,) * channels, (1.0,) * channels, 1.0)
    problem = Problem.of(
        parse(
            {
                "data": {"clients": workload.clients, "partition": {"kind": "iid"}},
                "model": {"name": "lenet"}
                if len(workload.shape) == 3
                else {"name": "mlp", "hidden": []},
                "algorithm": {"name": "fedavg", "profile": "paper"},
                "local": {"epochs": 1, "batch_size": workload.batch, "lr": workload.lr},
                "federation": {
                    "rounds": workload.rounds + 1,
                    "cohort": workload.cohort,
                    "eval_every": 1000,
                },
                "compute": {"executor": how, **({"actors": 2} if how == "ray" else {})},
            }
        ),
        dataset,
    )
    with backend(how).open(problem, None) as (running, _):
        report(f"ours-{how}", workload, [r.seconds for r in rounds(problem, running)][1:])


if __name__ == "__main__":
    main(*sys.argv[1:])
