"""Small experiments on the digits, and their inline outcome for comparison with runs on Ray."""

from __future__ import annotations

from fedsmu_ray.config.validation import parse
from fedsmu_ray.executors.inline import InlineExecutor
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.rounds import rounds


def problem_of(algorithm, seed=0, **more):
    return Problem.of(
        parse(
            {
                "seed": seed,
                "data": {"clients": 30},
                "model": {"hidden": [32]},
                "algorithm": algorithm,
                "local": {"epochs": 2, "batch_size": 20},
                "federation": {"rounds": 4, "cohort": 7, "eval_every": 2},
                "compute": {"clients_per_task": 3, "cpus_per_actor": 0.1},
                **more,
            }
        )
    )


def outcome(problem, executor):
    """Run the experiment that the executor holds; returns records, hash and parameters."""
    history = list(rounds(problem, executor))
    return history, executor.sha256(), executor.params()


def inline_executor(problem):
    executor = InlineExecutor()
    executor.load(problem)
    return executor


def inline(problem):
    executor = inline_executor(problem)
    try:
        return outcome(problem, executor)
    finally:
        executor.close()
