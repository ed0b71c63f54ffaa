"""The rounds of an experiment, as a generator of records. Knows methods and executors, neither Ray nor MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from fedsmu_ray.execution import Evaluate, Executor, Handle, Hear, StateAt, Task, Train
from fedsmu_ray.problem import Problem
from fedsmu_ray.streams import host_generator

EVALUATION_SLICE = 2000  # test samples per evaluation task


@dataclass(frozen=True)
class Record:
    """One finished round."""

    round: int  # from 1
    cohort: tuple[int, ...]
    train_loss: float  # mean over the cohort of the clients' mean local loss
    uplink_bytes: int  # cumulative, of all clients
    downlink_bytes: int  # cumulative, of all clients
    seconds: float  # wall time of this round
    zero_fraction: float  # of the uploaded signs, those of exact zeros
    uniformity: float | None = None  # magnitude uniformity of the uploads; None when not evaluated, as below
    test_accuracy: float | None = None  # in [0, 1]
    test_loss: float | None = None  # mean cross-entropy


@dataclass
class Progress:
    """Where an experiment stands between two rounds: with the server state, all that a checkpoint holds."""

    round: int = 0  # rounds done
    states: dict[int, StateAt] = field(default_factory=dict)  # where the latest state of each client that has one is kept
    waiting: Record | None = None  # the last round, if its evaluation is still to be done
    evaluated: list[Record] = field(default_factory=list)  # the evaluated rounds so far
    uplink_bytes: int = 0
    downlink_bytes: int = 0

    @property
    def last(self) -> Record:
        return self.evaluated[-1]

    @property
    def best(self) -> Record:
        """The first evaluated round with the highest accuracy."""
        return max(self.evaluated, key=lambda record: record.test_accuracy)


def sample_cohort(seed: int, round: int, clients: int, cohort: int) -> list[int]:
    """Clients of a round, ascending: uniform without replacement, independent of other rounds."""
    drawn = host_generator(seed, "cohort", round).choice(clients, cohort, replace=False, shuffle=False)
    return sorted(drawn.tolist())


def rounds(problem: Problem, executor: Executor, progress: Progress | None = None) -> Iterator[Record]:
    """Train round after round; yields every round's record, in order.

    progress: where to go on from; it is kept up to date, and is the state between two rounds at every yield.

    The evaluation of a round is work like any other: it shares the next round's broadcast (which is the model to
    evaluate) and its actors, so an evaluated record is yielded one round late.
    """
    config = problem.config.federation
    progress = progress or Progress()
    states = progress.states
    broadcast_holds_model = "x" in problem.downlink
    for t in range(progress.round + 1, config.rounds + 1):
        began = time.perf_counter()
        evaluated = t % config.eval_every == 0 or t == config.rounds
        cohort = sample_cohort(problem.config.seed, t, problem.config.data.clients, config.cohort)
        broadcast = executor.open(t, evaluated)
        tasks = train_tasks(t, cohort, problem.group_size, states)
        losses, zeros, scores = {}, 0, {}
        if progress.waiting and broadcast_holds_model:
            tasks += evaluation_tasks(problem)
        elif progress.waiting:
            scores = evaluate(problem, executor, executor.model())
        for task, result in executor.run(broadcast, tasks):
            if isinstance(task, Evaluate):
                scores[task.start] = result
                continue
            losses.update(zip(task.clients, result.report.losses))
            zeros += result.report.zeros
            states.update(result.states)
        stats = executor.step()
        progress.uplink_bytes += stats.uplink_bytes
        progress.downlink_bytes += stats.downlink_bytes * stats.clients
        if problem.reply:
            listeners = cohort if problem.method.relay == "participants" else list(range(problem.config.data.clients))
            for _, places in executor.run(executor.reply(), hear_tasks(t, listeners, problem.group_size, states)):
                states.update(places)
            progress.downlink_bytes += stats.reply_bytes * len(listeners)
        finished = [scored(progress, problem, scores)] if progress.waiting else []
        record = Record(t, tuple(cohort), sum(losses[c] for c in cohort) / len(cohort), progress.uplink_bytes,
                        progress.downlink_bytes, time.perf_counter() - began, zeros / (len(cohort) * problem.dim),
                        stats.uniformity)
        progress.round, progress.waiting = t, record if evaluated else None
        yield from finished if evaluated else [*finished, record]
    if progress.waiting:
        broadcast = executor.open(progress.round + 1, False)
        scores = evaluate(problem, executor, broadcast if broadcast_holds_model else executor.model())
        yield scored(progress, problem, scores)


def train_tasks(round: int, cohort: list[int], size: int, states: dict[int, StateAt]) -> list[Task]:
    """The cohort cut into groups of `size`, with the states its clients have."""
    return [Train(round, i, tuple(group := cohort[i : i + size]), tuple(states.get(c) for c in group))
            for i in range(0, len(cohort), size)]


def hear_tasks(round: int, clients: list[int], size: int, states: dict[int, StateAt]) -> list[Task]:
    return [Hear(round, tuple(group := clients[i : i + size]), tuple(states.get(c) for c in group))
            for i in range(0, len(clients), size)]


def evaluate(problem: Problem, executor: Executor, sent: Handle) -> dict[int, tuple[int, float]]:
    """Scores of the server's model, by first sample of each slice."""
    return {task.start: score for task, score in executor.run(sent, evaluation_tasks(problem))}


def evaluation_tasks(problem: Problem) -> list[Task]:
    total = len(problem.dataset.test_y)
    return [Evaluate(i, min(i + EVALUATION_SLICE, total)) for i in range(0, total, EVALUATION_SLICE)]


def scored(progress: Progress, problem: Problem, scores: dict[int, tuple[int, float]]) -> Record:
    """The waiting record with its evaluation: slices are added in order, so the loss is always rounded alike."""
    total = len(problem.dataset.test_y)
    parts = [scores[start] for start in sorted(scores)]
    record = replace(progress.waiting, test_accuracy=sum(c for c, _ in parts) / total,
                     test_loss=sum(s for _, s in parts) / total)
    progress.evaluated.append(record)
    progress.waiting = None
    return record
