"""The executor on Ray: work-conserving scheduling of client tasks on actors.

The driver holds references to states. A round's broadcast and states are read from the object store
without copies; small broadcasts and messages travel in calls and replies instead. The server is in
this process, or, for a large model, an actor.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil, inf
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import ObjectLostError, RayTaskError
from ray.util.placement_group import PlacementGroup

from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.errors import BrokenGPUError, ClientError, ExecutionError, LostError
from fedsmu_ray.executors import ray_cluster
from fedsmu_ray.executors.ray_actors import (
    Answer,
    Returned,
    TrainOutcomes,
    part_count,
    without_references,
)
from fedsmu_ray.executors.ray_calls import Call, TaskQueue, step_counter
from fedsmu_ray.executors.ray_clients import ClientPool
from fedsmu_ray.executors.ray_errors import PROCESS_LOST, first_sentence, get, raising_line
from fedsmu_ray.executors.ray_homes import Homes
from fedsmu_ray.executors.ray_nodes import nodes, this_node
from fedsmu_ray.executors.ray_server import ServerHandle, ServerInActor, ServerInProcess
from fedsmu_ray.federation.aggregation import adds_up_early, subtotal_bytes
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.spans import Spans, measured
from fedsmu_ray.federation.tasks import (
    ApplyFeedback,
    Arrays,
    Evaluation,
    Handle,
    RejectedMessages,
    Repack,
    StepStats,
    Task,
    TaskFailure,
    Train,
    TrainResult,
    client_error,
    describe_task,
    shard_count,
    state_refs,
)
from fedsmu_ray.wire.message import length

log = logging.getLogger(__name__)

TASK_RETRIES = 3  # of one client task, after the loss of its actor
IN_PROCESS_DIM = 1 << 20  # parameters of the largest model whose server is in this process
OWN_SHARD_BYTES = 1 << 17  # of a state that shares no object if there are several nodes


class RayExecutor:
    """The executor over Ray actors (see `federation.tasks.Executor`).

    The actors outlive an experiment: `load` gives them the next one. Lost client actors are
    replaced; those that cannot be placed yet join when they can.
    """

    def __init__(
        self,
        compute: ComputeConfig,
        actors: int,
        placement: PlacementGroup | None = None,
        most_actors: int = 0,
    ) -> None:
        """Start `actors` client actors.

        placement: the placement group of a trial, with one bundle per client actor, in order.
        most_actors: up to which there are more when the cluster has grown.
        """
        self.placement, self.threads = placement, torch.get_num_threads()
        self.most_actors = most_actors
        self.server: ServerHandle = ServerInProcess()
        self.clients = ClientPool(compute, actors, placement)

    def load(self, problem: Problem, dataset: Handle | None = None) -> None:
        dataset = dataset or ray_cluster.store(problem.dataset)[0]
        # The store's arrays instead of the caller's, which it can then release.
        shared: Any = ray.get(dataset)
        self.problem = problem.with_dataset(shared)
        self.stored = ray.put(problem.with_dataset(None)), dataset
        self.spans = Spans(problem.profiled)
        self.message_bytes = length(problem.uplink, problem.dim)  # of one client
        self.adds_up_early, self.uniformity = adds_up_early(problem), False
        self.trained_on = Counter[str]()
        self._load()

    def unload(self) -> None:
        self.server.close()
        self.server = ServerInProcess()
        self.clients.unload()
        for name in ("problem", "stored"):
            self.__dict__.pop(name, None)  # an experiment that could not be loaded lacks some

    def recover(self) -> None:
        self.clients.restart()
        self._load()

    def _load(self) -> None:
        timed = self.problem.config.federation.client_timeout_s is not None
        self.arrived: list[list[Any]] = []  # parts of uploads
        # A state that moves to another node takes its neighbors along, so a large one has none.
        moves = len(nodes()) > 1
        alone = moves and self.problem.state_bytes >= OWN_SHARD_BYTES
        self.shard_clients = 1 if alone else self.problem.shard_clients
        rows = self.shard_clients or 0
        self.homes = Homes(this_node(), self.clients.processes, rows * self.problem.state_bytes)
        steps = step_counter(self.problem)
        self.queue = TaskQueue(steps, timed, self.adds_up_early, self.homes)
        self.clients.load(self.stored)
        self.server.close()
        # The process of a trial is an actor already, with a node that can be lost.
        in_process = self.placement is not None or self.problem.dim <= IN_PROCESS_DIM
        self.server = ServerInProcess() if in_process else ServerInActor()
        self.server.load(self.problem, self.stored, self.spans)
        self.clients.wait_until_loaded()

    def run(self, message: Handle, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        self.clients.grow(self.most_actors)
        self.queue.fill(tasks)
        calls: dict[Any, Call] = {}  # in flight, by `done`
        while self.queue or calls:
            self._submit_all(calls, message)
            self._pass_on_uploads()
            for ref in self._wait(calls):
                if ref in self.clients.loading:
                    self.clients.join([ref])
                    continue
                call = calls.pop(ref)
                self.queue.ended(call)
                results = self._results(call)
                if isinstance(results, BaseException):
                    results = self._retry(call, results)
                yield from zip(call.tasks, results)
        self._pass_on_uploads()

    @measured("place")
    def _submit_all(self, calls: dict[Any, Call], message: Handle) -> None:
        """Give tasks to all actors that can take some."""
        while True:
            ready, actors = self.clients.ready(), self.clients.actors
            turn = self.queue.next_turn(actors, ready, calls.values())
            if turn is None:
                return
            call = self._submit(turn.actor, *self.queue.take(turn, len(ready)), message)
            calls[call.done] = replace(call, seconds=self.queue.seconds(turn.actor, call.tasks))

    @measured("collect")
    def _pass_on_uploads(self) -> None:
        """Pass what has arrived on to the server, while the actors are at work."""
        while self.arrived:
            self.server.receive(self.arrived.pop(0))

    def _submit(self, index: int, tasks: list[Task], losses: int, message: Handle) -> Call:
        """Call an actor with one task, or several."""
        actor, task = self.clients.actors[index], tasks[0]
        limit, deadline = self.problem.config.federation.client_timeout_s, inf
        if isinstance(task, Evaluation):
            done = actor.evaluate.remote(task, message)
            return Call(tasks, losses, index, actor, deadline, done)
        groups, shards = without_references(tasks)
        if not isinstance(task, Train):
            new = shard_count(len(task.clients), self.shard_clients)
            method = actor.repack if isinstance(task, Repack) else actor.apply_feedback
            call = method.options(num_returns=1 + new)
            done, *made = _listed(call.remote(groups[0], self.shard_clients, message, *shards))
            return Call(tasks, losses, index, actor, deadline, done, shards=made)
        if limit is not None:
            deadline = time.monotonic() + limit * len(task.clients)
        form = self._returned(task.position, sum(len(group.task.clients) for group in groups))
        train = actor.train_groups.options(num_returns=1 + form.parts + form.shards)
        done, *made = train.remote(groups, form, message, *shards)
        return Call(
            tasks, losses, index, actor, deadline, done, made[: form.parts], made[form.parts :]
        )

    def _returned(self, position: int, clients: int) -> Returned:
        """How a call returns uploads and states of so many clients, the first at `position`.

        Uploads are small objects, or a single one in the store.
        """
        subtotal, nbytes = self.adds_up_early and not self.uniformity, clients * self.message_bytes
        if subtotal:
            nbytes = subtotal_bytes(self.problem, position, clients)
        rows = self.shard_clients
        return Returned(subtotal, part_count(nbytes), shard_count(clients, rows), rows)

    @measured("wait")
    def _wait(self, calls: dict[Any, Call]) -> list[Any]:
        """What is ready next: calls that have ended or timed out, and client actors that join."""
        if not calls:
            return [self.clients.first_loaded()]
        first = min(
            [*(call.deadline for call in calls.values()), self.queue.next_due(calls.values())]
        )
        # In milliseconds as Ray counts, rounded up: so that it is not too early.
        timeout = None if first == inf else ceil(1e3 * max(0.0, first - time.monotonic())) / 1e3
        ready, _ = ray.wait([*calls, *self.clients.loading], timeout=timeout)
        return ready or [ref for ref, c in calls.items() if c.deadline <= time.monotonic()]

    def _retry(self, call: Call, error: BaseException) -> list[TaskFailure]:
        """Queue the tasks of a call again after the loss of its actor, TASK_RETRIES times."""
        self._replace_actor(call)
        cause = first_sentence(error)
        if call.losses >= TASK_RETRIES:
            why = f"its actor was lost {call.losses + 1} times ({cause})"
            return [_failure(task, why) for task in call.tasks]
        for task in call.tasks:
            lost = f"{describe_task(task)}: {self.clients.describe(call.index)} was lost ({cause})"
            log.warning("%s; retry %d of %d on another actor", lost, call.losses + 1, TASK_RETRIES)
        self.queue.put_back(call.tasks, call.losses + 1)
        return []

    def _replace_actor(self, call: Call) -> None:
        """Replace the actor of a call that is lost, unless another call of it did so before."""
        if self.clients.actors[call.index] is call.actor:
            self.clients.replace(call.index)

    @measured("collect")
    def _results(self, call: Call) -> list[Any] | BaseException:
        """The result of every task of a call, or the exception that says its actor was lost."""
        task = call.tasks[0]
        if not ray.wait([call.done], timeout=0)[0]:
            self._replace_actor(call)
            return [self._timeout(task)]
        try:
            answer: Answer = ray.get(call.done)
        except RayTaskError as error:
            if isinstance(error.cause, BrokenGPUError):
                return error.cause
            return self._raised(call, error)
        except ObjectLostError as error:
            cause = first_sentence(error)
            raise LostError(f"{describe_task(task)}: its result was lost ({cause})") from None
        except PROCESS_LOST as error:
            if self.server.caused(error):
                raise LostError(f"{describe_task(task)}: the server actor was lost") from None
            return error
        self.spans.add(answer.spans, f"client actor {call.index}")
        if isinstance(task, Train):
            return self._train_results(call, answer.value)
        if isinstance(task, (ApplyFeedback, Repack)):
            self.homes.made(task.clients, call.index)
            return [state_refs(task, call.shards, self.shard_clients)]
        return [answer.value]

    def _raised(self, call: Call, error: RayTaskError) -> list[TaskFailure]:
        """Results of a call that raised.

        Raises LostError for a lost input, and any error that was not raised in training.
        """
        task, cause, where = call.tasks[0], error.cause, raising_line(error)
        if isinstance(cause, PROCESS_LOST):  # of the task that should have made the broadcast
            raise LostError(f"{describe_task(task)}: the server actor was lost") from None
        if isinstance(cause, ObjectLostError):
            what = f"a client state or the broadcast was lost ({first_sentence(cause)})"
            raise LostError(f"{describe_task(task)}: {what}") from None
        if not isinstance(task, Train):
            raise client_error(task, cause, where) from None
        return [TaskFailure(client_error(each, cause, where)) for each in call.tasks]

    def _train_results(
        self, call: Call, outcomes: TrainOutcomes
    ) -> list[TrainResult | TaskFailure]:
        """The result of every task of a call, whose messages have arrived."""
        self.queue.trained(call, outcomes.seconds)
        self.arrived.append(call.uploads)
        results: list[TrainResult | TaskFailure] = []
        first = 0  # row of the shards, which lack the states of groups that failed
        for task, outcome in zip(call.tasks, outcomes.results):
            assert isinstance(task, Train)
            if isinstance(outcome, TaskFailure):
                results.append(outcome)
                continue
            self.homes.made(task.clients, call.index)
            self.trained_on[self.clients.processes[call.index].host] += len(task.clients)
            states = state_refs(task, call.shards, self.shard_clients, first)
            results.append(TrainResult(outcome, states))
            first += len(task.clients)
        return results

    def _timeout(self, task: Task) -> TaskFailure:
        limit = self.problem.config.federation.client_timeout_s
        assert isinstance(task, Train) and limit is not None
        return _failure(
            task,
            f"no result within {limit * len(task.clients):g} s "
            f"(federation.client_timeout_s = {limit:g} for each client)",
        )

    @measured("place")
    def open_round(self, round: int, uniformity: bool) -> Handle:
        self.uniformity = uniformity
        return self.server.message("open_round", round, uniformity)

    @measured("step")
    def step(self, missing: Sequence[int]) -> StepStats | RejectedMessages:
        stats: StepStats | RejectedMessages = self.server.ask("step", missing)
        return stats

    def feedback(self) -> Handle:
        return self.server.message("feedback")

    def model_message(self) -> Handle:
        return self.server.message("model_message")

    def export_state(self) -> dict[str, NDArray[np.float32]]:
        arrays: dict[str, NDArray[np.float32]] = self.server.ask("export_state")
        return arrays

    def restore_state(self, arrays: Arrays) -> None:
        self.server.ask("restore_state", arrays)

    def params(self) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self.server.ask("params")
        return vector

    def sha256(self) -> str:
        return str(self.server.ask("sha256"))

    def get_shard(self, shard: Handle) -> Arrays:
        arrays: Arrays = get([shard])[0]
        return arrays

    def put_shard(self, arrays: Arrays) -> Handle:
        return ray.put(arrays)

    def close(self) -> None:
        self.server.close()
        self.clients.close()
        torch.set_num_threads(self.threads)  # which the server has set


def _listed(refs: Any) -> list[Any]:
    """The references of a call as a list: Ray returns a single one bare."""
    return refs if isinstance(refs, list) else [refs]


def _failure(task: Task, why: str) -> TaskFailure:
    if not isinstance(task, Train):
        raise ExecutionError(f"{describe_task(task)}: {why}")
    return TaskFailure(ClientError(f"{describe_task(task)}: {why}"))
