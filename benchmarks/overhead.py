"""Time everything in a round except local training.

    python benchmarks/overhead.py [--rounds 60] [--phases]

Runs FedSMU and FedAvg over Ray (2 client actors) and inline, with LeNet and 10 clients per round,
an MLP and 50 of 500 clients, and 1000 tiny clients per round (Linear 64 -> 10). Local training is
replaced by a function that does not train and returns the model scaled by 1.0001; everything else
is real: states, signs, messages, checks, sums, the server step. Prints the median, minimum and
maximum of the rounds in milliseconds. The first 30 rounds are not counted: in these, clients get
their first states, in memory that is touched for the first time. With --phases, each case is
followed by a table of where its time goes, as `train --profile` prints it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace

import torch
from ray import cloudpickle

from fedsmu_ray.config.validation import parse
from fedsmu_ray.display.profile import Profile, print_phases
from fedsmu_ray.executors import inline, ray_actors, ray_executor
from fedsmu_ray.executors.ray_cluster import cluster
from fedsmu_ray.federation.local_training import GroupSolver
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.rounds import rounds

WARM = 30  # warm-up rounds that are not counted
WORK = {
    "LeNet, d = 797,962, n = 10": {
        "data": {
            "dataset": "synthetic",
            "clients": 100,
            "options": {"shape": [3, 32, 32], "train": 100, "test": 10},
        },
        "model": {"name": "lenet"},
        "federation": {"cohort": 10},
    },
    "MLP, d = 199,210, n = 50": {
        "data": {
            "dataset": "synthetic",
            "clients": 500,
            "options": {"shape": [1, 28, 28], "train": 30_000, "test": 10},
        },
        "model": {"name": "mlp", "hidden": [200, 200]},
        "federation": {"cohort": 50},
    },
    "Linear 64 -> 10, n = 1000": {
        "data": {"dataset": "synthetic", "clients": 1000, "options": {"train": 20_000, "test": 10}},
        "model": {"name": "linear"},
        "federation": {"cohort": 1000},
    },
}


def untrained(
    self: GroupSolver, x: torch.Tensor, correction: torch.Tensor | None = None, prox: float = 0.0
) -> torch.Tensor:
    self.losses = torch.zeros(len(self.clients))
    return x.expand(len(self.clients), -1) * 1.0001


class Idle(ray_actors.ClientActor):
    """A client actor that does not train."""

    def load(self, problem, dataset):
        GroupSolver.train = untrained
        return super().load(problem, dataset)


def milliseconds(problem: Problem, executor) -> list[float]:
    seconds = []
    for record in rounds(problem, executor):
        seconds.append(record.seconds)
        if record.round == WARM:
            executor.spans.spans.clear()
    return [1e3 * each for each in seconds[WARM:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--phases", action="store_true")
    options = parser.parse_args()
    count = options.rounds
    ray_actors.ClientActor, trained = Idle, GroupSolver.train
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    print(f"{'ms a round':<30} {'method':<8} {'where':<8} {'median':>8} {'min':>8} {'max':>8}")
    with cluster():
        for name, work in WORK.items():
            for method in ("fedsmu", "fedavg"):
                GroupSolver.train = trained  # the checks of the model need it
                problem = Problem.of(
                    parse(
                        {
                            **work,
                            "algorithm": {"name": method},
                            "compute": {"cpus_per_actor": 1},
                            "federation": {
                                **work["federation"],
                                "rounds": count + WARM,
                                "eval_every": count + WARM,
                            },
                        }
                    )
                )
                problem = replace(problem, profiled=options.phases)
                GroupSolver.train = untrained
                remote = ray_executor.RayExecutor(problem.config.compute, 2)
                here = inline.InlineExecutor()
                remote.load(problem)
                here.load(problem)
                for where, executor in (("Ray", remote), ("inline", here)):
                    taken = milliseconds(problem, executor)
                    middle = statistics.median(taken)
                    print(
                        f"{name:<30} {method:<8} {where:<8} {middle:8.1f} {min(taken):8.1f} "
                        f"{max(taken):8.1f}",
                        flush=True,
                    )
                    print_phases(Profile(executor.spans.spans))
                remote.close()
                here.close()


if __name__ == "__main__":
    main()
