"""The evaluation of the server's model: its tasks, and what their results add up to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from fedsmu_ray.federation.cohort import descending
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.tasks import (
    ClientScore,
    Evaluate,
    EvaluateClients,
    Evaluation,
    Executor,
    Handle,
    Task,
)
from fedsmu_ray.numerics.streams import host_generator
from fedsmu_ray.objectives.metrics import Direction
from fedsmu_ray.objectives.scores import Score
from fedsmu_ray.tracking.metrics import direction_of

EVALUATION_SLICE = 2000  # samples per evaluation task
CLIENT_SAMPLES = 20  # that take as long as what a client costs besides, about


@dataclass
class Evaluated:
    """What the tasks of an evaluation returned."""

    slices: dict[int, Score] = field(default_factory=dict)  # by their first sample
    clients: dict[int, ClientScore] = field(default_factory=dict)

    def add(self, task: Evaluation, result: Any) -> None:
        """Add the result of a task."""
        if isinstance(task, Evaluate):
            self.slices[task.start] = result
        else:
            self.clients |= {score.client: score for score in result}


def evaluate(
    problem: Problem, executor: Executor, round: int, sent: Handle, final: bool = False
) -> Evaluated:
    """Evaluate the server's model in `sent`, a message of `round`.

    final: on the test set, even if there are validation samples.
    """
    evaluated = Evaluated()
    with executor.spans.measure("evaluate"):
        for task, result in executor.run(sent, evaluation_tasks(problem, round, final)):
            assert isinstance(task, Evaluation)
            evaluated.add(task, result)
    return evaluated


def evaluation_tasks(problem: Problem, round: int, final: bool = False) -> list[Task]:
    """The tasks that evaluate a model: see `Evaluate` for the numbers of samples."""
    validation, total = problem.held_out
    sets = [(0, validation or total)]
    if final and validation:
        sets.append((validation, total))
    # A model to which its batch matters gets batches of about the same size, cut from one slice.
    size = EVALUATION_SLICE if problem.probed.rows_independent else total
    slices = [
        Evaluate(round, i, min(i + size, end))
        for start, end in sets
        for i in range(start, end, size)
    ]
    return [*slices, *_client_tasks(problem, round)]


def evaluated_clients(problem: Problem, round: int) -> list[int]:
    """The clients on whose held-out samples the model after `round` is evaluated.

    Those with most training samples come first, as they train longest.
    """
    parts, wanted = problem.partition, problem.config.evaluation.clients
    if wanted == "none":
        return []
    able: list[int] = parts.held_out_sizes.nonzero().flatten().tolist()
    if wanted != "all":
        generator = host_generator(problem.config.seed, "evaluated clients", round)
        able = sorted(generator.choice(able, wanted, replace=False, shuffle=False).tolist())
    return descending(able, parts.sizes)


def _client_tasks(problem: Problem, round: int) -> list[EvaluateClients]:
    """Groups of clients: those that train are as large as in training."""
    clients = evaluated_clients(problem, round - 1)
    if problem.config.evaluation.personalise.epochs is None:
        return _in_groups(round, clients, _group_size(problem.partition.held_out_sizes))
    return _in_groups(round, clients, problem.group_size)


def _in_groups(
    round: int, clients: list[int], size: int, in_training: bool = False
) -> list[EvaluateClients]:
    groups = (tuple(clients[i : i + size]) for i in range(0, len(clients), size))
    return [EvaluateClients(round, group, in_training) for group in groups]


def _group_size(sizes: Tensor) -> int:
    """How many clients take as long to evaluate as a slice; sizes: of their samples, int64 [m]."""
    mean = float(sizes.float().mean()) if len(sizes) else 0.0
    return max(1, int(EVALUATION_SLICE / (CLIENT_SAMPLES + mean)))


def losses_in_training(
    problem: Problem, executor: Executor, round: int, sent: Handle, clients: list[int]
) -> dict[int, float]:
    """The losses of the model in a broadcast on what some clients train on, by client."""
    tasks = _in_groups(round, clients, _group_size(problem.partition.sizes), in_training=True)
    results = executor.run(sent, tasks)
    return {score.client: score.values["loss"] for _, scores in results for score in scores}


def means(problem: Problem, evaluated: Evaluated) -> dict[str, Any]:
    """Accuracy (0 to 1, of a task that has one), loss and metrics on the sets of an evaluation.

    By the names of the fields of a record. Slices are added in order, so that sums are always
    rounded alike.
    """
    validation, total = problem.held_out
    slices, found = evaluated.slices, dict[str, Any](scores={})
    for name, first, end in (("val", 0, validation), ("test", validation, total)):
        parts = [slices[start] for start in sorted(slices) if first <= start < end]
        if parts:
            values = problem.new_scores().totals(parts)
            found |= {f"{name}_{key}": values.pop(key, None) for key in ("accuracy", "loss")}
            found["scores"] |= {f"{name}/{key}": value for key, value in values.items()}
    if evaluated.clients:
        found["scores"] |= _over_clients(problem, evaluated.clients)
    return found


def measured_over_clients(problem: Problem) -> list[str]:
    """The metrics over clients that an evaluation has."""
    return problem.config.evaluation.metrics(problem.dataset.targets != "values")


def _over_clients(problem: Problem, clients: dict[int, ClientScore]) -> dict[str, float]:
    """The metrics over clients: each client counts the same, whatever it has."""
    names, found = measured_over_clients(problem), dict[str, float]()
    for mean in names:
        value = mean.removeprefix("clients/")
        if not value.endswith(("accuracy", "loss")):
            continue
        scores = (clients[client].values for client in sorted(clients))
        values = np.array([s[value] for s in scores if value in s], np.float64)
        told = statistics(values, direction_of(mean))
        found |= {mean + end: number for end, number in told.items()}
    return {name: found[name] for name in names}


def statistics(values: np.ndarray[Any, Any], better: Direction) -> dict[str, float]:
    """Statistics of the values of clients, float64 [n], by the end of a metric's name.

    The mean of all and of the worst n // 10 (at least one), the variance (divided by n), and Jain's
    index, the square of the sum over n times the sum of squares (R. Jain, D. Chiu and W. Hawe,
    DEC-TR-301, 1984), 1 if all are 0. NaN without values.
    """
    count = len(values)
    if not count:
        return dict.fromkeys(("", "_worst_decile", "_variance", "_jain"), float("nan"))
    ordered, tenth = np.sort(values), max(1, count // 10)  # NaN is last
    worst = ordered[:tenth] if better == "max" else ordered[-tenth:]
    with np.errstate(all="ignore"):  # a model that has diverged
        squares = count * np.square(values).sum()
        jain = np.square(values.sum()) / squares if squares != 0 else 1.0
        told = {"": values.mean(), "_worst_decile": worst.mean(), "_variance": values.var()}
    return {end: float(value) for end, value in {**told, "_jain": jain}.items()}
