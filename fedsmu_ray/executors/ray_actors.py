"""The processes of an experiment on Ray: client actors, and the server in an actor or in the process of a trial."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import LostError
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.server import Server
from fedsmu_ray.federation.tasks import Evaluate, ApplyFeedback, Task, Train, raised, shard_count

GONE = (
    RayActorError,
    NodeDiedError,
    WorkerCrashedError,
    OutOfMemoryError,
)  # a process, with or without its node


class ClientActor:
    """A process that trains groups of clients."""

    def __init__(self) -> None:
        keep_freed_memory()

    def load(self, problem: Problem, dataset: Dataset) -> None:
        self.worker = ClientWorker(replace(problem, dataset=dataset))

    def train_all(
        self,
        tasks: list[Task],
        rows: list[list[tuple[int, int] | None]],
        broadcast: Any,
        *shards: Any,
    ) -> tuple:
        """The groups of several tasks. Returns what came of each (Report or TaskFailure), with the seconds of all; their messages
        (None of one that failed); and all their new shards in order, as objects of their own (None likewise)."""
        began, outcomes, messages, new = time.perf_counter(), [], [], []
        for task, where in zip(tasks, rows):
            try:
                report, sent, *made = self.train(task, where, broadcast, *shards)
            except Exception as error:
                report, sent, made = (
                    raised(task, error),
                    None,
                    [None] * shard_count(task, self.worker.problem),
                )
            outcomes.append(report)
            messages.append(sent)
            new += made
        return (outcomes, time.perf_counter() - began), messages, *new

    def train(
        self, task: Train, rows: list[tuple[int, int] | None], broadcast: Any, *shards: Any
    ) -> tuple:
        """rows: for each client (index into `shards`, row), or None before its first round."""
        messages, report, new = self.worker.train(
            task.round, task.clients, broadcast, _states(rows, shards)
        )
        return report, messages, *new

    def hear(
        self, task: ApplyFeedback, rows: list[tuple[int, int] | None], reply: Any, *shards: Any
    ) -> tuple:
        return None, *self.worker.apply_feedback(
            task.round, task.answered, task.clients, reply, _states(rows, shards)
        )

    def evaluate(self, task: Evaluate, sent: Any) -> tuple[int, float]:
        return self.worker.evaluate(task.round, sent, task.start, task.stop)


def _states(
    rows: list[tuple[int, int] | None], shards: Sequence[Any]
) -> list[dict[str, Any] | None]:
    """The states of clients, by where they are: (index into `shards`, row), or None."""
    return [{name: a[at[1]] for name, a in shards[at[0]].items()} if at else None for at in rows]


class ServerActor:
    """The process that owns the model."""

    def __init__(self) -> None:
        keep_freed_memory()

    def load(self, problem: Problem, dataset: Dataset) -> None:
        self.server = Server(replace(problem, dataset=dataset))

    def receive(self, groups: list[tuple[int, Sequence[int]]], messages: list[Any]) -> None:
        _receive(self.server, groups, messages)

    def call(self, name: str, *arguments: Any) -> Any:
        return getattr(self.server, name)(*arguments)


def _receive(server: Server, groups: list[tuple[int, Sequence[int]]], messages: list[Any]) -> None:
    """Hand the server the messages of several groups (cohort position and clients of each), but of those that failed."""
    for (position, clients), sent in zip(groups, messages):
        if sent is not None:
            server.receive(position, clients, sent)


class ServerElsewhere:
    """The server as an actor on this process's node: it goes down with the driver, and not with another node."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self.actor = ray.remote(ServerActor).options(num_cpus=0, scheduling_strategy=here).remote()
        self.received: list[Any] = []

    def load(self, problem: Problem, stored: tuple[Any, Any]) -> None:
        get([self.actor.load.remote(*stored)])

    def message(self, name: str, *arguments: Any) -> Any:
        """Reference to a message that the server makes."""
        return self.actor.call.remote(name, *arguments)

    def receive(self, groups: list[tuple[int, Sequence[int]]], messages: Any) -> None:
        self.received.append(self.actor.receive.remote(groups, messages))

    def ask(self, name: str, *arguments: Any) -> Any:
        """What a method of the server returns, after all that was sent to it before."""
        received, self.received = self.received, []
        return get([*received, self.actor.call.remote(name, *arguments)])[-1]

    def is_behind(self, error: BaseException) -> bool:
        """Whether it is this actor that an error of Ray is about."""
        return getattr(error, "actor_id", None) == self.actor._actor_id.hex()

    def close(self) -> None:
        ray.kill(self.actor)


class ServerHere:
    """The server in this process: a trial's, which is an actor already. Calls as in ServerElsewhere."""

    def load(self, problem: Problem, stored: tuple[Any, Any]) -> None:
        self.server = Server(problem)

    def message(self, name: str, *arguments: Any) -> Any:
        return ray.put(getattr(self.server, name)(*arguments))

    def receive(self, groups: list[tuple[int, Sequence[int]]], messages: Any) -> None:
        _receive(self.server, groups, *get([messages]))

    def ask(self, name: str, *arguments: Any) -> Any:
        return getattr(self.server, name)(*arguments)

    def is_behind(self, error: BaseException) -> bool:
        return False

    def close(self) -> None:
        pass


def keep_freed_memory() -> None:
    """Have the C library keep freed blocks of up to 32 MB instead of giving them back: every training step allocates the
    same activations again, and faulting their pages in anew took a tenth of a LeNet step."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 512 << 20)  # M_TRIM_THRESHOLD


def get(refs: list[Any]) -> list[Any]:
    """Results of calls to the server, or objects; raises what the server raised, and LostError for what is gone."""
    try:
        return ray.get(refs)
    except RayTaskError as error:
        if isinstance(error.cause, (*GONE, ObjectLostError)):
            raise LostError(
                f"an object that the server needs is lost ({brief(error.cause)})"
            ) from None
        raise error.cause from None
    except ObjectLostError as error:
        raise LostError(f"an object is lost ({brief(error)})") from None
    except GONE as error:
        raise LostError(f"the server actor was lost ({brief(error)})") from None


def brief(error: BaseException) -> str:
    """Ray's errors are coloured paragraphs; their first sentence says what happened."""
    plain = re.sub(r"\x1b\[\d+m", "", str(error)).strip()
    return re.split(r"\.\s|\n", f"{type(error).__name__}: {plain}", maxsplit=1)[0][:200]
