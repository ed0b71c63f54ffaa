"""The executor on Ray: client actors with fractional GPUs, work-conserving, one broadcast object per round.

The driver holds references. A round's broadcast goes from the server into the object store once; a client task gets it
and its clients' states from there without copies, and its messages go on to the server, again by reference. The server is an
actor of its own, but for a trial of a sweep, whose process is one already: there the server lives in it.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from fedsmu_ray.config.schema import ComputeConfig
from fedsmu_ray.errors import ClientError, ExecutionError, LostError
from fedsmu_ray.executors import ray_actors
from fedsmu_ray.executors.ray_actors import GONE, brief, get
from fedsmu_ray.executors.ray_cluster import free
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.tasks import (
    Evaluate,
    TaskFailure,
    ApplyFeedback,
    Task,
    Train,
    TrainResult,
    client_error,
    describe,
    placed,
    shard_count,
)

log = logging.getLogger(__name__)

START_TIMEOUT_S = (
    300.0  # for the server and a first client actor to be placed and to have loaded the experiment
)
JOIN_TIMEOUT_S = 20.0  # more for the other client actors; those that come later join then
FILL_S = 0.02  # seconds of Train tasks that one call may hold
TASK_RETRIES = 3  # of one client task, after the loss of its actor
START_RETRIES = 3  # of a client actor that is lost while it loads the experiment


@dataclass(frozen=True)
class _Flight:
    """What an actor is at: one task, or several Train tasks."""

    tasks: list[Task]
    attempt: int  # 0, or after how many losses of an actor
    index: int  # of the actor
    refs: list[Any]  # reports (or score), messages, state shards
    deadline: float  # monotonic seconds


class RayExecutor:
    """The executor over Ray actors. See `execution.Executor`.

    The actors outlive an experiment: `load` gives them the next one, so a sweep starts its processes once per
    slot. What an actor knows is replaced as a whole by `load`. Lost client actors are replaced; those that cannot be placed
    at the moment join when they can.
    """

    def __init__(
        self, compute: ComputeConfig, actors: int, group: PlacementGroup | None = None
    ) -> None:
        """group: the placement group of a trial, one bundle per client actor in order; the server is then in this process.
        None: client actors anywhere, and an actor for the server."""
        self.compute, self.group = compute, group
        self.server = self._server()
        self.clients = [self._client(i) for i in range(actors)]
        self.loading: dict[
            Any, int
        ] = {}  # client actors that are not ready yet, by the reference that says when
        self.failed_starts: Counter[int] = Counter()

    def _place(self, bundle: int) -> dict[str, Any]:
        if self.group is None:
            return {}
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self.group, placement_group_bundle_index=bundle
            )
        }

    def _server(self) -> ray_actors.ServerElsewhere | ray_actors.ServerHere:
        return ray_actors.ServerHere() if self.group else ray_actors.ServerElsewhere()

    def _client(self, index: int) -> Any:
        return (
            ray.remote(ray_actors.ClientActor)
            .options(
                num_cpus=self.compute.cpus_per_actor,
                num_gpus=self.compute.gpus_per_actor,
                **self._place(index),
            )
            .remote()
        )

    def load(self, problem: Problem, dataset: Any = None) -> None:
        """Give the actors an experiment and wait until they are ready; raises ExecutionError if they cannot be placed.

        dataset: a reference to the problem's data set, if it is in the object store already. Client actors that take much
        longer than the first one (a cluster may have to grow for them) join later.
        """
        dataset = dataset or ray.put(problem.dataset)
        self.problem = replace(
            problem, dataset=ray.get(dataset)
        )  # the store's arrays: the caller can let go of its own
        self.stored = ray.put(replace(problem, dataset=None)), dataset
        self._start()

    def _start(self) -> None:
        self.failed_starts.clear()
        self.pace = float("inf")  # seconds a Train task of this experiment took last
        self.loading = {actor.load.remote(*self.stored): i for i, actor in enumerate(self.clients)}
        self.server.load(self.problem, self.stored)
        self._join([self._ready(self.loading, START_TIMEOUT_S, "no client actor was")])
        if self.loading:
            self._join(
                ray.wait(list(self.loading), num_returns=len(self.loading), timeout=JOIN_TIMEOUT_S)[
                    0
                ]
            )
        if self.loading:
            log.warning(
                "%d of %d client actors are not placed yet (free: %s); they join when they are",
                len(self.loading),
                len(self.clients),
                free(),
            )

    def _ready(self, refs: Iterable[Any], timeout: float, who: str) -> Any:
        """The first of the references to be ready; says that it waits, and raises ExecutionError after `timeout` seconds."""
        refs = list(refs)
        ready, _ = ray.wait(refs, timeout=min(30.0, timeout))
        if not ready:
            log.warning(
                "still waiting for %d actor%s (free: %s)", len(refs), "s" * (len(refs) > 1), free()
            )
            ready, _ = ray.wait(refs, timeout=max(0.0, timeout - 30.0))
        if not ready:
            raise ExecutionError(
                f"{who} not ready after {timeout:.0f} s: the cluster has {free()} free; lower "
                "compute.cpus_per_actor or compute.gpus_per_actor, or free some"
            )
        return ready[0]

    def _join(self, refs: Iterable[Any]) -> list[int]:
        """The client actors whose `load` has ended; those that were lost meanwhile are replaced, but not for ever."""
        joined = []
        for ref in refs:
            index = self.loading.pop(ref)
            try:
                ray.get(ref)
                self.failed_starts.pop(index, None)
                joined.append(index)
            except RayTaskError as error:
                raise error.cause from None
            except GONE as error:
                self.failed_starts[index] += 1
                if self.failed_starts[index] > START_RETRIES:
                    log.warning(
                        "client actor %d was lost %d times while it started; going on without it (%s)",
                        index,
                        self.failed_starts[index],
                        brief(error),
                    )
                else:
                    self._replace(index)
        return joined

    def _replace(self, index: int) -> None:
        """A new client actor in place of one that is lost or hangs; it joins when it is ready."""
        ray.kill(self.clients[index])
        self.clients[index] = self._client(index)
        self.loading[self.clients[index].load.remote(*self.stored)] = index

    def recover(self):
        self.close()
        self.server = self._server()
        self.clients = [self._client(i) for i in range(len(self.clients))]
        self._start()

    def open(self, round, uniformity):
        return self.server.message("open", round, uniformity)

    def run(self, sent: Any, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        todo = deque((task, 0) for task in tasks)
        idle = deque(i for i in range(len(self.clients)) if i not in self.loading.values())
        flying: dict[Any, _Flight] = {}
        while todo or flying:
            while todo and idle:
                tasks, attempt = self._next(todo, len(idle))
                flight = self._submit(idle.popleft(), tasks, attempt, sent)
                flying[flight.refs[0]] = flight
            for ref in self._wait(flying):
                if ref in self.loading:
                    idle += self._join([ref])
                    continue
                flight = flying.pop(ref)
                results = self._results(flight)
                if isinstance(results, BaseException):  # its actor is gone
                    self._replace(flight.index)
                    if flight.attempt < TASK_RETRIES:
                        for task in reversed(flight.tasks):
                            log.warning(
                                "%s: client actor %d was lost; retry %d of %d on another one",
                                describe(task),
                                flight.index,
                                flight.attempt + 1,
                                TASK_RETRIES,
                            )
                            todo.appendleft((task, flight.attempt + 1))
                        continue
                    why = f"its actor was lost {flight.attempt + 1} times ({brief(results)})"
                    results = [_give_up(task, why) for task in flight.tasks]
                elif flight.index not in self.loading.values():
                    idle.append(flight.index)
                yield from zip(flight.tasks, results)

    def _next(self, todo: deque[tuple[Task, int]], idle: int) -> tuple[list[Task], int]:
        """What an actor does next: a task, or several Train tasks that are so short that calls would cost more than they.

        A client with a time limit, or whose actor was lost, has a call of its own.
        """
        task, attempt = todo.popleft()
        tasks, share = [task], min(FILL_S / self.pace, -(-(len(todo) + 1) // idle))
        if (
            isinstance(task, Train)
            and not attempt
            and self.problem.config.federation.client_timeout_s is None
        ):
            while len(tasks) + 1 <= share and isinstance(todo[0][0], Train) and not todo[0][1]:
                tasks.append(todo.popleft()[0])
        return tasks, attempt

    def _wait(self, flying: dict[Any, _Flight]) -> list[Any]:
        """What is ready next: a task, a client actor that joins, or a task whose time is up."""
        if not flying:
            if not self.loading:
                raise ExecutionError(
                    f"all {len(self.clients)} client actors are lost and could not be started again"
                )
            return [self._ready(self.loading, START_TIMEOUT_S, "no client actor was")]
        first = min(flight.deadline for flight in flying.values())
        timeout = None if first == float("inf") else max(0.0, first - time.monotonic())
        ready, _ = ray.wait([*flying, *self.loading], timeout=timeout)
        return ready or [
            ref for ref, flight in flying.items() if flight.deadline <= time.monotonic()
        ]

    def _results(self, flight: _Flight) -> list[Any] | BaseException:
        """What became of every task: its result or TaskFailure. Or the exception that took their actor away."""
        task, refs = flight.tasks[0], flight.refs
        try:
            if not ray.wait(refs[:1], timeout=0)[0]:
                self._replace(flight.index)
                limit = self.problem.config.federation.client_timeout_s
                return [
                    _give_up(
                        task,
                        f"no answer within {limit * len(task.clients):g} s (federation.client_timeout_s = "
                        f"{limit:g} for each client)",
                    )
                ]
            result = ray.get(refs[0])
        except RayTaskError as error:
            if isinstance(error.cause, GONE):  # its broadcast was never made
                raise LostError(f"{describe(task)}: the server actor was lost") from None
            if isinstance(error.cause, ObjectLostError):
                raise LostError(
                    f"{describe(task)}: a client state or the broadcast was lost ({brief(error.cause)})"
                ) from None
            if not isinstance(task, Train):
                raise client_error(task, error.cause, _place_of(error)) from None
            return [TaskFailure(client_error(each, error.cause, _place_of(error))) for each in flight.tasks]
        except ObjectLostError as error:
            raise LostError(f"{describe(task)}: its result was lost ({brief(error)})") from None
        except GONE as error:
            if self.server.is_behind(error):
                raise LostError(f"{describe(task)}: the server actor was lost") from None
            return error
        if isinstance(task, Train):
            (outcomes, seconds), made = result, iter(refs[2:])
            self.pace = seconds / len(outcomes)
            self.server.receive([(task.position, task.clients) for task in flight.tasks], refs[1])
            shards = [
                [next(made) for _ in range(shard_count(task, self.problem))] for task in flight.tasks
            ]
            return [
                outcome
                if isinstance(outcome, TaskFailure)
                else TrainResult(outcome, placed(task.clients, new, self.problem.shard_clients))
                for task, outcome, new in zip(flight.tasks, outcomes, shards)
            ]
        return [
            placed(task.clients, refs[1:], self.problem.shard_clients)
            if isinstance(task, ApplyFeedback)
            else result
        ]

    def _submit(self, index: int, tasks: list[Task], attempt: int, sent: Any) -> _Flight:
        """Start the tasks on an actor."""
        limit, deadline = self.problem.config.federation.client_timeout_s, float("inf")
        if isinstance(tasks[0], Train) and limit is not None:
            deadline = time.monotonic() + limit * len(tasks[0].clients)
        return _Flight(
            tasks, attempt, index, self._call(self.clients[index], tasks, sent), deadline
        )

    def _call(self, actor: Any, tasks: list[Task], sent: Any) -> list[Any]:
        """Returns references to the tasks' reports (or score), messages and state shards."""
        task = tasks[0]
        if isinstance(task, Evaluate):
            return [actor.evaluate.remote(task, sent)]
        shards = list(dict.fromkeys(at.shard for task in tasks for at in task.states if at))
        where = {shard: i for i, shard in enumerate(shards)}
        rows = [[(where[at.shard], at.row) if at else None for at in task.states] for task in tasks]
        new = sum(shard_count(task, self.problem) for task in tasks)
        # The references to old states stay behind: the actor gets the objects, and only the row numbers.
        bare = [replace(task, states=()) for task in tasks]
        if isinstance(task, ApplyFeedback):
            return actor.hear.options(num_returns=1 + new).remote(bare[0], rows[0], sent, *shards)
        return actor.train_all.options(num_returns=2 + new).remote(bare, rows, sent, *shards)

    def step(self, missing):
        return self.server.ask("step", missing)

    def reply(self):
        return self.server.message("reply")

    def model(self):
        return self.server.message("model")

    def export(self):
        return self.server.ask("export")

    def restore(self, arrays):
        self.server.ask("restore", arrays)

    def params(self):
        return self.server.ask("params")

    def sha256(self):
        return self.server.ask("sha256")

    def fetch(self, shard):
        return get([shard])[0]

    def place(self, arrays):
        return ray.put(arrays)

    def close(self):
        self.server.close()
        for actor in self.clients:
            ray.kill(actor)


def _give_up(task: Task, why: str) -> TaskFailure:
    if not isinstance(task, Train):
        raise ExecutionError(f"{describe(task)}: {why}")
    return TaskFailure(ClientError(f"{describe(task)}: {why}"))


def _place_of(error: RayTaskError) -> str:
    """The line that raised, as file:line."""
    frames = re.findall(r'File "(.+?)", line (\d+)', str(error))
    return ":".join(frames[-1]) if frames else ""
