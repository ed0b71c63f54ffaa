"""The executor that runs all client tasks in this process, one after another.

It is for debugging, tests, and machines without Ray. This process may have a GPU.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsmu_ray.config.compute import ComputeConfig
from fedsmu_ray.errors import BrokenGPUError
from fedsmu_ray.executors.base import actor_resources
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.server import Server
from fedsmu_ray.federation.spans import Spans
from fedsmu_ray.federation.tasks import (
    ApplyFeedback,
    Arrays,
    ClientScore,
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
    describe_task,
    in_shards,
    makers,
    packed,
    state_refs,
    task_failure,
)
from fedsmu_ray.numerics import gpu
from fedsmu_ray.objectives.scores import Score


@dataclass(frozen=True, eq=False)
class Shard:
    """Handle of a shard of client states; unique, like a reference into an object store."""

    arrays: Arrays


class InlineExecutor:
    """The executor without other processes (see `federation.tasks.Executor`)."""

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()

    def load(self, problem: Problem, dataset: Handle | None = None) -> None:
        if dataset is not None:
            import ray

            shared: Any = ray.get(dataset)
            problem = problem.with_dataset(shared)
        self.problem, self.spans = problem, Spans(problem.profiled)
        self.trained_on = Counter[str]()
        self.server = Server(problem, self.spans)
        self.worker = ClientWorker(problem, self.spans)

    def unload(self) -> None:
        for name in ("problem", "server", "worker"):
            self.__dict__.pop(name, None)  # an experiment that could not be loaded lacks some

    def open_round(self, round: int, uniformity: bool) -> Handle:
        return self.server.open_round(round, uniformity)

    def run(self, message: Handle, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        for task in tasks:
            if isinstance(task, Evaluation):
                yield task, self._evaluate(task, message)
            elif isinstance(task, ApplyFeedback):
                new = self.worker.apply_feedback(
                    task.round,
                    task.participants,
                    task.clients,
                    message,
                    _states(task.states),
                    makers(task),
                )
                yield task, self._refs(task, new)
            elif isinstance(task, Repack):
                yield task, self._refs(task, packed(_states(task.states)))
            else:
                yield task, self._train(task, message)

    def _train(self, task: Train, broadcast: Handle) -> TrainResult | TaskFailure:
        states = _states(task.states)
        try:
            output = self.worker.train(task.round, task.clients, broadcast, states, makers(task))
        except (Exception, SystemExit) as error:
            _check_gpu(task, error)
            return task_failure(task, error)
        output.pass_on(task.position, task.clients, self.server)
        self.trained_on[socket.gethostname()] += len(task.clients)
        return TrainResult(output.report, self._refs(task, output.states))

    def _evaluate(self, task: Evaluation, message: Handle) -> Score | list[ClientScore]:
        try:
            return self.worker.evaluated(task, message)
        except (Exception, SystemExit) as error:
            _check_gpu(task, error)
            raise task_failure(task, error).error from error

    def _refs(self, task: Train | ApplyFeedback | Repack, states: Arrays) -> dict[int, StateRef]:
        rows = self.problem.shard_clients
        shards = in_shards(states, rows)
        # They are views of one array, which would last as long as any of them; or in pinned memory.
        if len(shards) > 1 or self.worker.device.type == "cuda":
            shards = [{name: a.copy() for name, a in shard.items()} for shard in shards]
        return state_refs(task, [Shard(a) for a in shards], rows)

    def step(self, missing: Sequence[int]) -> StepStats | RejectedMessages:
        return self.server.step(missing)

    def feedback(self) -> Handle:
        return self.server.feedback()

    def model_message(self) -> Handle:
        return self.server.model_message()

    def export_state(self) -> dict[str, NDArray[np.float32]]:
        return self.server.export_state()

    def restore_state(self, arrays: Arrays) -> None:
        self.server.restore_state(arrays)

    def get_shard(self, shard: Handle) -> Arrays:
        arrays: Arrays = shard.arrays
        return arrays

    def put_shard(self, arrays: Arrays) -> Handle:
        return Shard(arrays)

    def params(self) -> NDArray[np.float32]:
        return self.server.params()

    def sha256(self) -> str:
        return self.server.sha256()

    def recover(self) -> None:
        raise NotImplementedError("the inline executor cannot lose anything while its process runs")

    def close(self) -> None:
        torch.set_num_threads(self.threads)


def _states(refs: Sequence[StateRef | None]) -> list[Arrays | None]:
    """The states that the references stand for, named [P] arrays."""
    return [
        {name: a[ref.row] for name, a in ref.shard.arrays.items()} if ref else None for ref in refs
    ]


def _check_gpu(task: Task, error: BaseException) -> None:
    """Raise BrokenGPUError for an error after which nothing in this process can use the GPU."""
    if gpu.is_broken(error):
        said = str(error).split("\n")[0]
        raise BrokenGPUError(
            f"{describe_task(task)}: {said}; CUDA repeats such an error in every later call, so "
            "this process has to end: start again, with --resume if there are checkpoints, or with "
            "compute.executor=ray, which replaces the process"
        ) from error


class InlineBackend:
    """Opens inline executors (see `executors.base.Backend`)."""

    def check(self, compute: ComputeConfig) -> None:
        from fedsmu_ray.executors import ray_placement  # of a sweep; a run of its own needs none

        ray_placement.check(replace(compute, actors=None))

    @contextmanager
    def open(self, problem: Problem, address: str | None) -> Iterator[tuple[Executor, str]]:
        executor = InlineExecutor()
        try:
            executor.load(problem)
            yield executor, "this process"
        finally:
            executor.close()

    def trial_bundles(self, compute: ComputeConfig) -> list[dict[str, float]]:
        return [actor_resources(compute)]

    def open_in_trial(self, compute: ComputeConfig) -> Executor:
        return InlineExecutor()
