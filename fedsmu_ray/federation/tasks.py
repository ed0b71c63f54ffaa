"""Client tasks as plain data, their results, and the protocol of the executors that run them.

The federation hands tasks to an executor and gets their results in the order in which they finish.
Large objects (broadcasts, client states) are passed as handles that only the executor can read:
objects of this process for the inline executor, references into Ray's object store for the executor
on Ray.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray.errors import ClientError, ExperimentError, MessageError

if TYPE_CHECKING:
    from fedsmu_ray.federation.problem import Problem
    from fedsmu_ray.federation.spans import Spans

Handle = Any  # a message or a shard of client states, readable only by its executor
Arrays = Mapping[str, NDArray[Any]]


_number = count().__next__


@dataclass(frozen=True)
class StateRef:
    """Where a client's state is: row `row` of a shard (named arrays [R, P])."""

    shard: Handle
    row: int
    task: int | None = None  # number of the task that made it; None if it was restored or copied


@dataclass(frozen=True)
class Train:
    """Train a client group: the clients at cohort positions `position`, `position` + 1, ..."""

    round: int
    position: int
    clients: tuple[int, ...]
    states: tuple[StateRef | None, ...]
    number: int = field(default_factory=_number, compare=False)  # no other task has it


@dataclass(frozen=True)
class ApplyFeedback:
    """Give the server's feedback to a client group."""

    round: int
    participants: int  # clients of the round whose uploads the feedback is about
    clients: tuple[int, ...]
    states: tuple[StateRef | None, ...]
    number: int = field(default_factory=_number, compare=False)


@dataclass(frozen=True)
class Repack:
    """Copy the states of some clients into one new shard."""

    round: int
    clients: tuple[int, ...]
    states: tuple[StateRef, ...]


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the server's model on samples `start` to `stop` (exclusive).

    The validation samples are numbered first, then those of the test set; a task is about one kind.
    """

    round: int  # of the message that holds the model
    start: int
    stop: int


@dataclass(frozen=True)
class EvaluateClients:
    """Evaluate the server's model on what some clients hold out, see `client_evaluation`."""

    round: int  # of the message that holds the model
    clients: tuple[int, ...]
    in_training: bool = False  # on the samples that they train on, instead


Evaluation = Evaluate | EvaluateClients
Task = Train | ApplyFeedback | Repack | Evaluation


class ClientScore(NamedTuple):
    """A model on the samples that a client holds out."""

    client: int
    samples: int
    values: Mapping[str, float]  # loss, accuracy, personalised_loss, personalised_accuracy


@dataclass(frozen=True)
class TrainReport:
    """What a client group reports beside its messages, in cohort order."""

    losses: list[float]  # mean local training loss of each client
    zeros: int  # uploaded signs that stand for exact zeros


@dataclass(frozen=True)
class TrainResult:
    """Result of a Train task whose messages the executor has passed on to the server."""

    report: TrainReport
    states: dict[int, StateRef]


@dataclass(frozen=True)
class TaskFailure:
    """Result of a Train task that failed.

    Its clients raised or timed out, or their actor was lost.
    """

    error: ExperimentError  # names round, clients and cause


@dataclass(frozen=True)
class StepStats:
    """What the server measured in one round."""

    participants: int  # clients whose messages were used
    uplink_bytes: int  # length of those messages
    downlink_bytes: int  # length of the broadcast to one client
    feedback_bytes: int  # length of the feedback to one client, 0 for a method without feedback
    uniformity: float | None  # magnitude uniformity of the uploads, where asked for


@dataclass(frozen=True)
class RejectedMessages:
    """Groups whose messages the server could not use, by cohort position; it waits for new ones."""

    errors: dict[int, MessageError]


class Executor(Protocol):
    """Where client tasks run: a server and at least one client worker."""

    @property
    def problem(self) -> Problem:
        """The experiment, as the executor holds it."""
        ...

    @property
    def spans(self) -> Spans:
        """Where the time has gone since `load`, in all processes, if the problem is profiled."""
        ...

    def load(self, problem: Problem, dataset: Handle | None = None) -> None:
        """Replace the loaded experiment, if there is one, by this one, at round 1.

        dataset: reference to the problem's data set, where it is in the object store already.
        Raises ExecutionError if the resources for it do not exist.
        """
        ...

    def unload(self) -> None:
        """Forget the loaded experiment, so that its data can go; `load` or `close` must follow."""
        ...

    def open_round(self, round: int, uniformity: bool) -> Handle:
        """Begin a round on the server; returns the broadcast.

        uniformity: whether to measure the magnitude uniformity of the uploads.
        """
        ...

    def run(self, message: Handle, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Run tasks on a message of the server; yields each with its result as it finishes.

        The result is a TrainResult or TaskFailure (Train), a dict of new StateRefs (ApplyFeedback
        and Repack), a `objectives.scores.Score` (Evaluate), or a list of ClientScores
        (EvaluateClients). Raises LostError if something the experiment needs is lost.
        """
        ...

    def step(self, missing: Sequence[int]) -> StepStats | RejectedMessages:
        """Make the server step of the round, after all groups but the cohort positions `missing`.

        If the server could not use all messages, no step is made.
        """
        ...

    def feedback(self) -> Handle:
        """The server's feedback after its step, for a method that has one."""
        ...

    def model_message(self) -> Handle:
        """The server's model as a message, to evaluate if the broadcast lacks it."""
        ...

    def export_state(self) -> dict[str, NDArray[np.float32]]:
        """The server state between two rounds."""
        ...

    def restore_state(self, arrays: Arrays) -> None:
        """Continue from a server state that `export_state` returned."""
        ...

    def get_shard(self, shard: Handle) -> Arrays:
        """The arrays of a shard of client states."""
        ...

    def put_shard(self, arrays: Arrays) -> Handle:
        """The handle of a shard with these arrays."""
        ...

    def params(self) -> NDArray[np.float32]:
        """The model vector, float32 [P]."""
        ...

    def sha256(self) -> str:
        """SHA-256 of the model vector."""
        ...

    def recover(self) -> None:
        """Replace what a LostError says was lost; `restore_state` or round 1 must follow."""
        ...

    @property
    def trained_on(self) -> Mapping[str, int]:
        """How many clients were trained since `load`, by the name of the node that did."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


def state_refs(
    task: Train | ApplyFeedback | Repack,
    shards: Sequence[Handle],
    rows: int | None,
    first: int = 0,
) -> dict[int, StateRef]:
    """Where the new states of a task's clients are.

    shards: the states of `rows` clients each. rows: None for stateless clients. first: which of
    these states is that of the task's first client.
    """
    if not rows:
        return {}
    number = None if isinstance(task, Repack) else task.number
    places = enumerate(task.clients, first)
    return {c: StateRef(shards[i // rows], i % rows, number) for i, c in places}


class Makers(NamedTuple):
    """Numbers of a task, and of those that made the states of its clients."""

    task: int
    of_states: Sequence[int | None]


def makers(task: Train | ApplyFeedback) -> Makers:
    """The numbers of a task that has its state references."""
    return Makers(task.number, [ref.task if ref else None for ref in task.states])


def packed(states: Sequence[Arrays | None]) -> Arrays:
    """One shard with the states, named [P] arrays, of clients that have one."""
    given = [state for state in states if state]
    return {name: np.stack([state[name] for state in given]) for name in given[0]}


def in_shards(states: Arrays, rows: int | None) -> list[Arrays]:
    """New states, named [C, P] arrays, in shards of `rows` clients each (views of them).

    rows: None for stateless clients.
    """
    if not rows:
        return []
    starts = range(0, len(next(iter(states.values()))), rows)
    return [{name: a[i : i + rows] for name, a in states.items()} for i in starts]


def shard_count(clients: int, shard_clients: int | None) -> int:
    """How many shards of `shard_clients` the new states of so many clients make."""
    return -(-clients // shard_clients) if shard_clients else 0


def describe_task(task: Task) -> str:
    """A task for a log line or an error message."""
    if isinstance(task, Evaluate):
        return f"evaluation on test samples {task.start} to {task.stop}"
    few = ", ".join(map(str, task.clients[:8]))
    more = f" ... ({len(task.clients)} in all)" if len(task.clients) > 8 else ""
    clients = f"client{'s' * (len(task.clients) > 1)} {few}{more}"
    if isinstance(task, EvaluateClients) and task.in_training:
        return f"losses before round {task.round}, {clients}"
    if isinstance(task, EvaluateClients):
        return f"evaluation after round {task.round - 1}, {clients}"
    return f"round {task.round}, {clients}"


def task_failure(task: Task, error: BaseException, place: str = "") -> TaskFailure:
    """The result of a task that raised, made where it ran.

    place: what names the process, unless it is that of the command.
    """
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return TaskFailure(client_error(task, error, f"{where} on {place}" if place else where))


def client_error(task: Task, error: BaseException, where: str) -> ExperimentError:
    """An exception of client code as an error that names the clients.

    where: the file:line that raised, and its process.
    """
    if isinstance(error, ExperimentError):
        return error
    message = " ".join(str(error).split())[:300]
    place = f" ({where})" if where else ""
    return ClientError(f"{describe_task(task)}: {type(error).__name__}: {message}{place}")
