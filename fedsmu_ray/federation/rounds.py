"""The rounds of an experiment, as a generator of records. Knows methods and executors, neither Ray nor MLflow."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from fedsmu_ray.config.schema import FederationConfig
from fedsmu_ray.errors import ClientError, ExperimentError
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.server import StepStats
from fedsmu_ray.federation.tasks import (
    Evaluate,
    Executor,
    TaskFailure,
    Handle,
    ApplyFeedback,
    StateRef,
    Task,
    Train,
    TrainResult,
)
from fedsmu_ray.numerics import streams

log = logging.getLogger(__name__)

EVALUATION_SLICE = 2000  # test samples per evaluation task


@dataclass(frozen=True)
class Record:
    """One finished round."""

    round: int  # from 1
    cohort: tuple[int, ...]
    train_loss: float  # mean over the clients that answered of their mean local loss
    uplink_bytes: int  # cumulative, of all clients
    downlink_bytes: int  # cumulative, of all clients
    seconds: float  # wall time of this round
    zero_fraction: float  # of the uploaded signs, those of exact zeros
    dropped: int = 0  # cumulative: clients that were sampled and did not answer
    uniformity: float | None = (
        None  # magnitude uniformity of the uploads; None when not evaluated, as below
    )
    test_accuracy: float | None = None  # in [0, 1]
    test_loss: float | None = None  # mean cross-entropy


@dataclass
class Progress:
    """Where an experiment stands between two rounds: with the server state, all that a checkpoint holds."""

    round: int = 0  # rounds done
    states: dict[int, StateRef] = field(
        default_factory=dict
    )  # where the latest state of each client that has one is kept
    waiting: Record | None = None  # the last round, if its evaluation is still to be done
    evaluated: list[Record] = field(default_factory=list)  # the evaluated rounds so far
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    dropped: int = 0

    @property
    def last(self) -> Record:
        return self.evaluated[-1]

    @property
    def best(self) -> Record:
        """The first evaluated round with the highest accuracy."""
        return max(self.evaluated, key=lambda record: record.test_accuracy)


def sample_cohort(seed: int, round: int, clients: int, cohort: int) -> list[int]:
    """Clients of a round, ascending: uniform without replacement, independent of other rounds."""
    drawn = streams.host_generator(seed, "cohort", round).choice(
        clients, cohort, replace=False, shuffle=False
    )
    return sorted(drawn.tolist())


def drop_out(seed: int, round: int, cohort: list[int], dropout: float) -> list[int]:
    """The clients of a cohort that do not drop out; each does with chance `dropout`, independent of the others."""
    if not dropout:
        return cohort
    words = streams.words(
        streams.keys(seed, "dropout", round, torch.tensor(cohort)), torch.tensor(0)
    )
    draws = ((words >> 11) & ((1 << 53) - 1)).tolist()
    return [client for client, draw in zip(cohort, draws) if draw >= dropout * (1 << 53)]


def rounds(
    problem: Problem, executor: Executor, progress: Progress | None = None
) -> Iterator[Record]:
    """Train round after round; yields every round's record, in order.

    progress: where to go on from; it is kept up to date, and is the state between two rounds at every yield. Raises what a
    client raised, if `federation.on_client_failure` says so, and ClientError for a round with too few answers.

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
        asked = drop_out(problem.config.seed, t, cohort, config.dropout)
        _enough(t, len(asked), config, f"{len(cohort) - len(asked)} dropped out")
        broadcast = executor.open_round(t, evaluated)
        tasks, scores = train_tasks(t, asked, problem.group_size, states), {}
        if progress.waiting and broadcast_holds_model:
            tasks += evaluation_tasks(problem, t)
        elif progress.waiting:
            scores = evaluate(problem, executor, t, executor.model_message())
        trained, more, stats = train(problem, executor, broadcast, tasks)
        scores |= more
        losses, zeros = {}, 0
        for task, result in trained:
            losses.update(zip(task.clients, result.report.losses))
            zeros += result.report.zeros
            states.update(result.states)
        answered = [client for client in cohort if client in losses]
        progress.uplink_bytes += stats.uplink_bytes
        progress.downlink_bytes += stats.downlink_bytes * len(cohort)
        progress.dropped += len(cohort) - len(answered)
        if problem.has_feedback:
            listeners = (
                answered
                if problem.method.relay == "participants"
                else list(range(problem.config.data.clients))
            )
            hearing = feedback_tasks(t, len(answered), listeners, problem.group_size, states)
            for _, places in executor.run(executor.feedback(), hearing):
                states.update(places)
            progress.downlink_bytes += stats.feedback_bytes * len(listeners)
        finished = [scored(progress, problem, scores)] if progress.waiting else []
        record = Record(
            t,
            tuple(cohort),
            sum(losses[c] for c in answered) / len(answered),
            progress.uplink_bytes,
            progress.downlink_bytes,
            time.perf_counter() - began,
            zeros / (len(answered) * problem.dim),
            progress.dropped,
            stats.uniformity,
        )
        progress.round, progress.waiting = t, record if evaluated else None
        yield from finished if evaluated else [*finished, record]
    if progress.waiting:
        t = progress.round + 1
        broadcast = executor.open_round(t, False)
        scores = evaluate(
            problem, executor, t, broadcast if broadcast_holds_model else executor.model_message()
        )
        yield scored(progress, problem, scores)


def train(
    problem: Problem, executor: Executor, broadcast: Handle, tasks: list[Task]
) -> tuple[list[tuple[Train, TrainResult]], dict[int, tuple[int, float]], StepStats]:
    """Run the tasks of a round (training, and evaluation of the round before) and the server's step.

    A group that fails is retried as it is, so that a passing fault costs no bits; then, where clients may be dropped, one
    client at a time. Nothing of a client that is dropped is kept. Returns what was trained, the scores and the step's figures.
    """
    config = problem.config.federation
    tries: Counter[tuple[int, ...]] = Counter()
    trained: dict[int, tuple[Train, TrainResult]] = {}  # by cohort position
    scores: dict[int, tuple[int, float]] = {}
    dropped: list[int] = []  # cohort positions
    asked = sum(len(task.clients) for task in tasks if isinstance(task, Train))
    while True:
        failed: list[tuple[Train, ExperimentError]] = []
        for task, result in executor.run(broadcast, tasks):
            if isinstance(task, Evaluate):
                scores[task.start] = result
            elif isinstance(result, TaskFailure):
                failed.append((task, result.error))
            else:
                trained[task.position] = task, result
        if not failed:
            stats = executor.step(dropped)
            if isinstance(stats, StepStats):
                return list(trained.values()), scores, stats
            failed = [(trained.pop(position)[0], error) for position, error in stats.errors.items()]
        tasks = []
        for task, error in failed:
            tries[task.clients] += 1
            if tries[task.clients] <= config.client_retries:
                log.warning("%s; retry %d of %d", error, tries[task.clients], config.client_retries)
                tasks.append(task)
            elif config.on_client_failure == "fail":
                raise error
            elif len(task.clients) > 1:
                log.warning("%s; now its %d clients one by one", error, len(task.clients))
                tasks += alone(task)
                tries.update({(client,): config.client_retries for client in task.clients})
            else:
                log.warning(
                    "%s; client %d is dropped from round %d", error, task.clients[0], task.round
                )
                dropped.append(task.position)
                _enough(
                    task.round,
                    asked - len(dropped),
                    config,
                    f"{len(dropped)} failed, the last one: {error}",
                )


def _enough(round: int, answers: int, config: FederationConfig, why: str) -> None:
    if answers < config.min_cohort:
        raise ClientError(
            f"round {round}: {answers} of {config.cohort} clients answered, federation.min_cohort = "
            f"{config.min_cohort} are needed ({why})"
        )


def alone(task: Train) -> list[Task]:
    """The task of a group as tasks of its clients."""
    return [
        Train(task.round, task.position + i, (client,), (task.states[i],))
        for i, client in enumerate(task.clients)
    ]


def train_tasks(round: int, cohort: list[int], size: int, states: dict[int, StateRef]) -> list[Task]:
    """The cohort cut into groups of `size`, with the states its clients have."""
    return [
        Train(round, i, tuple(group := cohort[i : i + size]), tuple(states.get(c) for c in group))
        for i in range(0, len(cohort), size)
    ]


def feedback_tasks(
    round: int, answered: int, clients: list[int], size: int, states: dict[int, StateRef]
) -> list[Task]:
    return [
        ApplyFeedback(
            round,
            answered,
            tuple(group := clients[i : i + size]),
            tuple(states.get(c) for c in group),
        )
        for i in range(0, len(clients), size)
    ]


def evaluate(
    problem: Problem, executor: Executor, round: int, sent: Handle
) -> dict[int, tuple[int, float]]:
    """Scores of the server's model in `sent`, a message of `round`, by first sample of each slice."""
    return {
        task.start: score for task, score in executor.run(sent, evaluation_tasks(problem, round))
    }


def evaluation_tasks(problem: Problem, round: int) -> list[Task]:
    total = len(problem.dataset.test_y)
    return [
        Evaluate(round, i, min(i + EVALUATION_SLICE, total))
        for i in range(0, total, EVALUATION_SLICE)
    ]


def scored(progress: Progress, problem: Problem, scores: dict[int, tuple[int, float]]) -> Record:
    """The waiting record with its evaluation: slices are added in order, so the loss is always rounded alike."""
    total = len(problem.dataset.test_y)
    parts = [scores[start] for start in sorted(scores)]
    record = replace(
        progress.waiting,
        test_accuracy=sum(c for c, _ in parts) / total,
        test_loss=sum(s for _, s in parts) / total,
    )
    progress.evaluated.append(record)
    progress.waiting = None
    return record
