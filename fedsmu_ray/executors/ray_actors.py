"""The Ray actors of an experiment: client actors, and the server actor."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.executors.ray_errors import reporting_broken_gpu
from fedsmu_ray.executors.ray_nodes import this_node
from fedsmu_ray.executors.versions import versions
from fedsmu_ray.federation.aggregation import Aggregator, Subtotal
from fedsmu_ray.federation.client import ClientWorker, GroupOutput
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.server import Server
from fedsmu_ray.federation.spans import SentSpans
from fedsmu_ray.federation.tasks import (
    ApplyFeedback,
    Arrays,
    Evaluation,
    Makers,
    Repack,
    StateRef,
    Task,
    TaskFailure,
    Train,
    TrainReport,
    in_shards,
    packed,
    task_failure,
)
from fedsmu_ray.numerics import gpu

PART_BYTES = 90_000  # of uploads: Ray keeps objects of up to 100 KB in its replies
PARTED_BYTES = 2_000_000  # most uploads of a call that are not one object in the store


class Row(NamedTuple):
    """Where the state of a client is, among the shards that a call passes along."""

    shard: int
    row: int
    task: int | None  # that made it


@dataclass(frozen=True)
class Group:
    """A task without its state references, and where the states of its clients are.

    The references stay behind: the actor gets the objects they refer to.
    """

    task: Train | ApplyFeedback | Repack  # with empty `states`
    rows: tuple[Row | None, ...]  # None before a client's first round

    def states(self, shards: Sequence[Arrays]) -> list[Arrays | None]:
        """The states of the clients, named [P] arrays."""
        return [
            {name: a[at.row] for name, a in shards[at.shard].items()} if at else None
            for at in self.rows
        ]

    @property
    def makers(self) -> Makers:
        """The numbers of the task and of those that made the states."""
        assert not isinstance(self.task, Repack)
        return Makers(self.task.number, [at.task if at else None for at in self.rows])


def without_references(tasks: Sequence[Task]) -> tuple[list[Group], list[Any]]:
    """The tasks without state references, and the shards that hold the states of their clients."""
    trained = [task for task in tasks if not isinstance(task, Evaluation)]
    refs = [ref for task in trained for ref in task.states if ref]
    shards = list(dict.fromkeys(ref.shard for ref in refs))
    number = {shard: i for i, shard in enumerate(shards)}

    def row(ref: StateRef | None) -> Row | None:
        return Row(number[ref.shard], ref.row, ref.task) if ref else None

    groups = [Group(replace(task, states=()), tuple(map(row, task.states))) for task in trained]
    return groups, shards


class TrainOutcomes(NamedTuple):
    """What the groups of one call report."""

    results: list[TrainReport | TaskFailure]
    seconds: float  # of all groups together


class Answer(NamedTuple):
    """What a call returns to the driver, with the spans measured since the last answer."""

    value: Any
    spans: SentSpans | None  # None if nothing was measured


class Messages(NamedTuple):
    """The messages of a group: uint8 [C, bytes] of the clients at `position` and after it."""

    position: int
    clients: Sequence[int]
    messages: NDArray[np.uint8]


Uploads = list[Messages] | Subtotal  # of the groups of one call that did not fail


@dataclass(frozen=True)
class Returned:
    """In what form a call returns its uploads and new states."""

    subtotal: bool  # whether to add up the messages
    parts: int  # objects of uploads
    shards: int  # objects of new states
    shard_clients: int | None  # states in a shard; None for stateless clients


class ProcessInfo(NamedTuple):
    """The process of an actor: where it is, and its software."""

    node: str  # id
    host: str
    pid: int
    versions: dict[str, str]

    @staticmethod
    def here() -> ProcessInfo:
        """That of this process."""
        return ProcessInfo(this_node(), socket.gethostname(), os.getpid(), versions())

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}"


class ClientActor:
    """A process that trains client groups."""

    @reporting_broken_gpu
    def load(self, problem: Problem, dataset: Dataset) -> ProcessInfo:
        """Replace everything the actor knows by this experiment; returns where it is."""
        self.process = ProcessInfo.here()
        self.worker = ClientWorker(problem.with_dataset(dataset))
        return self.process

    def unload(self) -> None:
        """Forget the experiment; `load` must follow."""
        self.__dict__.pop("worker", None)  # an actor that has just been started has none

    @reporting_broken_gpu
    def train_groups(
        self, groups: list[Group], returned: Returned, broadcast: Any, *shards: Arrays
    ) -> tuple[Any, ...]:
        """Train several groups.

        Returns TrainOutcomes as an Answer, the uploads in parts (see `in_parts`), and the new
        states in shards, in order and without those of groups that failed.
        """
        began = time.perf_counter()
        results: list[TrainReport | TaskFailure] = []
        states: list[Arrays] = []
        uploads = self._no_uploads(groups[0].task.round, returned.subtotal)
        for group in groups:
            try:
                output = self.train(group, broadcast, *shards)
            except Exception as error:
                if gpu.is_broken(error):
                    raise
                results.append(task_failure(group.task, error, str(self.process)))
            else:
                results.append(output.report)
                states.append(output.states)
                self._pass_on(group, output, uploads)  # while they are in the cache
        sent = uploads.subtotal() if isinstance(uploads, Aggregator) else uploads
        new = _in_shards(states, returned)
        answer = self._answer(TrainOutcomes(results, time.perf_counter() - began))
        return answer, *in_parts(sent, returned.parts), *new

    def _no_uploads(self, round: int, subtotal: bool) -> Aggregator | list[Messages]:
        return Aggregator(self.worker.problem, round) if subtotal else []

    def _pass_on(self, group: Group, output: GroupOutput, to: Aggregator | list[Messages]) -> None:
        task = group.task
        assert isinstance(task, Train)
        if isinstance(to, list):
            to.append(Messages(task.position, task.clients, output.messages))
            return
        with self.worker.spans.measure("receive"):
            output.pass_on(task.position, task.clients, to)

    def train(self, group: Group, broadcast: Any, *shards: Arrays) -> GroupOutput:
        """Train one group."""
        task = group.task
        assert isinstance(task, Train)
        states = group.states(shards)
        return self.worker.train(task.round, task.clients, broadcast, states, group.makers)

    @reporting_broken_gpu
    def apply_feedback(
        self, group: Group, rows: int | None, feedback: Any, *shards: Arrays
    ) -> tuple[Any, ...]:
        """Give the server's feedback to a group.

        Returns an Answer, and the new states in order, `rows` to a shard.
        """
        task, states = group.task, group.states(shards)
        assert isinstance(task, ApplyFeedback)
        new = self.worker.apply_feedback(
            task.round, task.participants, task.clients, feedback, states, group.makers
        )
        return self._answer(None), *in_shards(new, rows)

    def repack(
        self, group: Group, rows: int | None, message: Any, *shards: Arrays
    ) -> tuple[Any, ...]:
        """Copy states; returns an Answer, and the copies in order, `rows` to a shard.

        message: not read; it is an argument of every call.
        """
        return self._answer(None), *in_shards(packed(group.states(shards)), rows)

    @reporting_broken_gpu
    def evaluate(self, task: Evaluation, sent: Any) -> Answer:
        """Evaluate the model in a message of the server; returns the result of the task."""
        return self._answer(self.worker.evaluated(task, sent))

    def _answer(self, value: Any) -> Answer:
        return Answer(value, self.worker.spans.take())


class ServerActor:
    """The process that owns the model."""

    def load(self, problem: Problem, dataset: Dataset) -> None:
        """Replace everything the actor knows by this experiment."""
        self.server = Server(problem.with_dataset(dataset))

    def receive(self, *parts: Any) -> None:
        """Take the uploads of one call."""
        receive(self.server, parts)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the server that returns a message."""
        return getattr(self.server, name)(*arguments)

    def ask(self, name: str, *arguments: Any) -> Answer:
        """Call a method of the server for the driver."""
        return Answer(getattr(self.server, name)(*arguments), self.server.spans.take())


def _in_shards(states: list[Arrays], returned: Returned) -> list[Arrays | None]:
    """New states of some groups, named [C, P] arrays, in shards; None for what failed groups lack.

    States of groups that were trained after one another share a shard: an object takes Ray most
    of a millisecond, whatever its size.
    """
    if len(states) > 1:
        states = [{name: np.concatenate([s[name] for s in states]) for name in states[0]}]
    found = in_shards(states[0], returned.shard_clients) if states else []
    return found + [None] * (returned.shards - len(found))


def part_count(nbytes: int) -> int:
    """In how many objects to return so many bytes of uploads."""
    return -(-nbytes // PART_BYTES) if nbytes <= PARTED_BYTES else 1


def in_parts(uploads: Uploads, count: int) -> list[Any]:
    """The uploads of one call as `count` objects, for `receive`."""
    if count == 1:
        return [uploads]
    return np.array_split(np.frombuffer(pickle.dumps(uploads, protocol=5), np.uint8), count)


def receive(server: Server, parts: Sequence[Any]) -> None:
    """Pass the uploads of one call on to the server."""
    uploads: Uploads = parts[0] if len(parts) == 1 else pickle.loads(b"".join(parts))
    if isinstance(uploads, Subtotal):
        server.merge(uploads)
    else:
        for each in uploads:
            server.receive(*each)
