"""The rounds of an experiment, as a generator of records.

They know methods and executors, but neither Ray nor trackers.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field, replace

from fedsmu_ray.config.schema import FederationConfig
from fedsmu_ray.errors import ClientError, DivergenceError, ExperimentError, MethodError
from fedsmu_ray.federation.cohort import drop_out, largest
from fedsmu_ray.federation.evaluation import (
    Evaluated,
    evaluate,
    evaluation_tasks,
    losses_in_training,
    means,
)
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress, Record
from fedsmu_ray.federation.states import ClientStates
from fedsmu_ray.federation.stopping import stop_reason
from fedsmu_ray.federation.tasks import (
    ApplyFeedback,
    Evaluation,
    Executor,
    Handle,
    RejectedMessages,
    Repack,
    StateRef,
    StepStats,
    Task,
    TaskFailure,
    Train,
    TrainResult,
)

log = logging.getLogger(__name__)

LOSS_BYTES = 4  # of the loss that a candidate sends (power-of-choice), as float32


def rounds(
    problem: Problem, executor: Executor, progress: Progress | None = None
) -> Iterator[Record]:
    """Train round after round; yields every round's record, in order.

    progress: where to continue from; it is kept up to date, and is the state between two rounds at
    every yield. Raises ClientError for a round with too few participants, and what a client raised
    if `federation.on_client_failure` is `fail`.

    The evaluation of a round is work like any other: it shares the next round's broadcast (which is
    the model to evaluate) and its actors, so an evaluated record is yielded one round late. With
    `federation.stop`, which may end the experiment there, it is made before the next round.
    """
    progress = progress or Progress()
    last, can_stop = problem.config.federation.rounds, problem.config.federation.stop.is_set
    spans = executor.spans
    for t in range(progress.round + 1, last + 1):
        if stop_reason(problem.config, progress.evaluated):
            return
        with spans.measure("round", round=t):
            records = _run_round(problem, executor, progress, t)
            if can_stop and progress.waiting and t < last:
                records.append(_evaluate_now(problem, executor, progress, final=False))
            with spans.measure("track"):  # what the consumer does with them
                yield from records
    if progress.waiting:
        yield _evaluate_now(problem, executor, progress, final=True)


def _evaluate_now(problem: Problem, executor: Executor, progress: Progress, final: bool) -> Record:
    """Complete the record that waits, before another round; final: it is that of the last one."""
    t = progress.round + 1
    broadcast = executor.open_round(t, False)
    sent = broadcast if "x" in problem.downlink else executor.model_message()
    waiting = progress.waiting
    record = _complete_record(progress, problem, evaluate(problem, executor, t, sent, final))
    is_tested = final or not problem.held_out[0]
    if is_tested or not stop_reason(problem.config, progress.evaluated):
        return record
    progress.evaluated.pop()  # the test set is used after the last round, and this is it
    progress.waiting = waiting
    return _complete_record(progress, problem, evaluate(problem, executor, t, sent, final=True))


def _run_round(problem: Problem, executor: Executor, progress: Progress, t: int) -> list[Record]:
    """Run round t and bring `progress` up to date; returns the records that are complete now."""
    began = time.perf_counter()
    config, seed = problem.config.federation, problem.config.seed
    evaluated = t % config.eval_every == 0 or t == config.rounds
    with executor.spans.measure("sample"):
        sampled = problem.cohort(t)
    broadcast = executor.open_round(t, evaluated)
    cohort = _chosen(problem, executor, t, broadcast, sampled)
    asked = problem.ordered(t, drop_out(seed, t, cohort, config.dropout))
    _require_participants(t, len(asked), config, f"{len(cohort) - len(asked)} dropped out")
    tasks = _client_tasks(problem, t, asked, progress.states)
    evaluation = Evaluated()
    if progress.waiting and "x" in problem.downlink:
        tasks += evaluation_tasks(problem, t)
    elif progress.waiting:
        evaluation = evaluate(problem, executor, t, executor.model_message())
    trained = _train(problem, executor, broadcast, tasks, evaluation)
    losses = trained.losses
    participants = [client for client in cohort if client in losses]
    _add(progress, trained, len(sampled), len(cohort) - len(participants))
    progress.uplink_bytes += LOSS_BYTES * len(sampled) * config.chooses
    if problem.has_feedback:
        receivers = _send_feedback(problem, executor, progress, t, participants)
        progress.downlink_bytes += trained.stats.feedback_bytes * receivers
    complete = [_complete_record(progress, problem, evaluation)] if progress.waiting else []
    record = Record(
        round=t,
        cohort=tuple(cohort),
        train_loss=sum(losses[c] for c in participants) / len(participants),
        uplink_bytes=progress.uplink_bytes,
        downlink_bytes=progress.downlink_bytes,
        seconds=(seconds := time.perf_counter() - began),
        zero_fraction=trained.zeros / (len(participants) * problem.dim),
        dropped=progress.dropped,
        retried=progress.retried,
        elapsed=progress.seconds + seconds,
        uniformity=trained.stats.uniformity,
    )
    progress.round, progress.seconds = t, record.elapsed
    progress.waiting = record if evaluated else None
    return complete if evaluated else [*complete, record]


def _chosen(
    problem: Problem, executor: Executor, t: int, broadcast: Handle, sampled: list[int]
) -> list[int]:
    """The cohort of a round: those that were sampled, or, with power-of-choice, some of them."""
    if not problem.config.federation.chooses:
        return sampled
    losses = losses_in_training(problem, executor, t, broadcast, sampled)
    return largest(losses, problem.config.federation.cohort)


@dataclass
class _Trained:
    """What the tasks of a round returned, and the statistics of the server's step."""

    stats: StepStats
    results: dict[int, tuple[Train, TrainResult]]  # by cohort position
    repacked: dict[int, StateRef]  # where copies of states of other clients are
    retried: int  # clients that were trained again; one that was twice counts twice

    @property
    def losses(self) -> dict[int, float]:
        """Training loss of each participant."""
        groups = self.results.values()
        return {c: x for task, r in groups for c, x in zip(task.clients, r.report.losses)}

    @property
    def states(self) -> dict[int, StateRef]:
        """New states of the participants."""
        return {c: ref for _, r in self.results.values() for c, ref in r.states.items()}

    @property
    def zeros(self) -> int:
        """Uploaded signs that stand for exact zeros."""
        return sum(r.report.zeros for _, r in self.results.values())


def _add(progress: Progress, trained: _Trained, receivers: int, dropped: int) -> None:
    """Bring states, bytes and failures up to date.

    receivers: how many clients got the broadcast; dropped: how many of the cohort sent nothing.
    """
    progress.states.update(trained.repacked | trained.states)
    progress.uplink_bytes += trained.stats.uplink_bytes
    progress.downlink_bytes += trained.stats.downlink_bytes * receivers
    progress.dropped += dropped
    progress.retried += trained.retried


def _train(
    problem: Problem,
    executor: Executor,
    broadcast: Handle,
    tasks: list[Task],
    evaluation: Evaluated,
) -> _Trained:
    """Run the tasks of a round and make the server's step.

    evaluation: gets the results of those among them that evaluate the model.

    A group that fails is retried as it is, so that a transient failure does not change the result;
    then, where clients may be dropped, one client at a time. Nothing of a dropped client is kept.
    """
    results: dict[int, tuple[Train, TrainResult]] = {}
    repacked: dict[int, StateRef] = {}
    retries = _Retries(problem.config.federation, tasks)
    while True:
        failed: list[tuple[Train, ExperimentError]] = []
        for task, result in executor.run(broadcast, tasks):
            if isinstance(task, Evaluation):
                evaluation.add(task, result)
                continue
            if isinstance(task, Repack):
                repacked.update(result)
                continue
            assert isinstance(task, Train)
            if isinstance(result, TaskFailure):
                failed.append((task, result.error))
            else:
                results[task.position] = task, result
        if not failed:
            stats = executor.step(retries.dropped)
            if not isinstance(stats, RejectedMessages):
                return _Trained(stats, results, repacked, retries.retried)
            failed = [(results.pop(at)[0], error) for at, error in stats.errors.items()]
        tasks = [again for task, error in failed for again in retries.after(task, error)]


@dataclass
class _Retries:
    """Handles the failures of one round: retries, then one client at a time, then the policy."""

    config: FederationConfig
    tasks: InitVar[list[Task]]
    failures: Counter[tuple[int, ...]] = field(default_factory=Counter)  # by clients of the group
    dropped: list[int] = field(default_factory=list)  # cohort positions
    retried: int = 0  # clients

    def __post_init__(self, tasks: list[Task]) -> None:
        self.asked = sum(len(task.clients) for task in tasks if isinstance(task, Train))

    def after(self, task: Train, error: ExperimentError) -> list[Task]:
        """The tasks to run because of this failure; raises it if the configuration says so."""
        if isinstance(error, (MethodError, DivergenceError)):  # the same for every client
            raise error
        config, clients = self.config, task.clients
        self.failures[clients] += 1
        if self.failures[clients] <= config.client_retries:
            count = self.failures[clients]
            log.warning("%s; retry %d of %d", error, count, config.client_retries)
            self.retried += len(clients)
            return [task]
        if config.on_client_failure == "fail":
            raise error
        if len(clients) > 1:
            log.warning("%s; retrying its %d clients one by one", error, len(clients))
            self.failures.update({(client,): config.client_retries for client in clients})
            self.retried += len(clients)
            return [*_split(task)]
        log.warning("%s; client %d is dropped from round %d", error, clients[0], task.round)
        self.dropped.append(task.position)
        left, why = (
            self.asked - len(self.dropped),
            f"{len(self.dropped)} failed, the last one: {error}",
        )
        _require_participants(task.round, left, config, why)
        return []


def _require_participants(round: int, count: int, config: FederationConfig, why: str) -> None:
    if count < config.min_cohort:
        raise ClientError(
            f"round {round}: only {count} of {config.cohort} sampled clients can take part, but "
            f"federation.min_cohort = {config.min_cohort} are required ({why})"
        )


def _send_feedback(
    problem: Problem, executor: Executor, progress: Progress, t: int, participants: list[int]
) -> int:
    """Give the clients the server's feedback and keep their new states; returns how many got it."""
    clients = participants
    if problem.method.feedback_to == "all":
        clients = list(range(problem.config.data.clients))
    tasks: list[Task] = [
        ApplyFeedback(t, len(participants), group, _states(group, progress.states.latest))
        for _, group in _groups(clients, problem.group_size)
    ]
    for _, states in executor.run(executor.feedback(), tasks):
        progress.states.update(states)
    return len(clients)


def _groups(clients: list[int], size: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Consecutive groups of `size` clients, each with the position of its first client."""
    for position in range(0, len(clients), size):
        yield position, tuple(clients[position : position + size])


def _states(clients: tuple[int, ...], states: dict[int, StateRef]) -> tuple[StateRef | None, ...]:
    return tuple(states.get(client) for client in clients)


def _client_tasks(
    problem: Problem, round: int, cohort: list[int], states: ClientStates
) -> list[Task]:
    """The cohort cut into groups, with the states its clients have; then the states to copy."""
    tasks: list[Task] = [
        Train(round, position, group, _states(group, states.latest))
        for position, group in _groups(cohort, problem.group_size)
    ]
    if rows := problem.shard_clients:
        clients = states.to_repack(cohort, rows, len(cohort))
        tasks += [
            Repack(round, group, tuple(states.latest[client] for client in group))
            for _, group in _groups(clients, rows)
        ]
    return tasks


def _split(task: Train) -> list[Train]:
    """The task of a group as one task per client."""
    return [
        Train(task.round, task.position + i, (client,), (task.states[i],))
        for i, client in enumerate(task.clients)
    ]


def _complete_record(progress: Progress, problem: Problem, evaluation: Evaluated) -> Record:
    """The waiting record with its evaluation."""
    assert progress.waiting is not None
    record = replace(progress.waiting, **means(problem, evaluation))
    progress.evaluated.append(record)
    progress.clients = sorted(evaluation.clients.values())
    progress.waiting = None
    return record
