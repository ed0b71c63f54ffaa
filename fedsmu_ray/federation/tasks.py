"""Where client tasks run. An executor owns a server and at least one client worker, wherever they live.

The federation hands over tasks and gets their results in the order they finish. Bulky things (broadcast, client
states) are handles that only the executor can look into: objects of this process for `inline`, references into
Ray's object store for `actors`.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fedsmu_ray.errors import ClientError, ExperimentError
from fedsmu_ray.federation.client import Report
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.server import RejectedMessages, StepStats

Handle = Any

# Ray reads these when it is imported, which the modules of this package do.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault(
    "RAY_IGNORE_UNHANDLED_ERRORS", "1"
)  # tasks of a round that was given up fail unread
os.environ.setdefault(
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
)  # the behaviour to come; silences a warning


@dataclass(frozen=True)
class StateRef:
    """Where a client's state is: row `row` of a shard (named arrays [R, P])."""

    shard: Handle
    row: int


@dataclass(frozen=True)
class Train:
    """Train a group: the clients at cohort positions position, position + 1, ... of a round."""

    round: int
    position: int
    clients: tuple[int, ...]
    states: tuple[StateRef | None, ...]


@dataclass(frozen=True)
class ApplyFeedback:
    """Give the server's reply to a group of clients."""

    round: int
    answered: int  # clients of the round whose uploads the reply is about
    clients: tuple[int, ...]
    states: tuple[StateRef | None, ...]


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the server's model on test samples start..stop."""

    round: int  # of the message that holds the model
    start: int
    stop: int


@dataclass(frozen=True)
class TrainResult:
    """Result of a Train task, whose messages the executor has passed on to the server."""

    report: Report
    states: dict[int, StateRef]


@dataclass(frozen=True)
class TaskFailure:
    """Result of a Train task that gave nothing to use: its clients raised, did not answer in time, or took their actor
    down with them. The error names round, clients and cause."""

    error: ExperimentError


Task = Train | ApplyFeedback | Evaluate


class Executor(Protocol):
    problem: Problem  # as the executor holds it

    def open(self, round: int, uniformity: bool) -> Handle:
        """Begin a round on the server; returns the handle of its broadcast."""

    def run(self, sent: Handle, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Run the tasks on a message of the server; yields each with its result as it finishes: TrainResult or TaskFailure, new
        places of states (ApplyFeedback), or (correct, loss)."""

    def step(self, missing: Sequence[int]) -> StepStats | RejectedMessages:
        """Server step of the round, once all its groups have finished, but for the cohort positions in `missing`. If the
        server could not use all messages, no step is made."""

    def reply(self) -> Handle:
        """The server's reply after its step, for a method that has one."""

    def model(self) -> Handle:
        """The server's model as a message, to evaluate where the broadcast does not hold it."""

    def export(self) -> dict[str, np.ndarray]:
        """The server state between two rounds, as arrays; `restore` takes it up again."""

    def restore(self, arrays: dict[str, np.ndarray]) -> None: ...

    def fetch(self, shard: Handle) -> dict[str, np.ndarray]:
        """The arrays of a shard of client states; `place` gives the handle of such arrays."""

    def place(self, arrays: dict[str, np.ndarray]) -> Handle: ...

    def params(self) -> np.ndarray:
        """The model vector, float32 [P]."""

    def sha256(self) -> str:
        """Hash of the model vector."""

    def recover(self) -> None:
        """After a LostError: a fresh server and whatever else is missing. `restore` or round 1 comes next."""

    def close(self) -> None:
        """Give everything back."""


def shard_count(task: Train | ApplyFeedback, problem: Problem) -> int:
    """How many shards the new states of a task's clients make."""
    return -(-len(task.clients) // problem.shard_clients) if problem.shard_clients else 0


def placed(
    clients: Sequence[int], shards: Sequence[Handle], rows: int | None
) -> dict[int, StateRef]:
    """Where the states of a group's clients are, given the shards of `rows` clients its task returned."""
    return (
        {client: StateRef(shards[i // rows], i % rows) for i, client in enumerate(clients)}
        if rows
        else {}
    )


def describe(task: Task) -> str:
    if isinstance(task, Evaluate):
        return f"evaluation on test samples {task.start} to {task.stop}"
    few = ", ".join(map(str, task.clients[:8]))
    more = f" ... ({len(task.clients)} in all)" if len(task.clients) > 8 else ""
    return f"round {task.round}, client{'s' * (len(task.clients) > 1)} {few}{more}"


def raised(task: Task, error: Exception) -> TaskFailure:
    """What an error means that is caught where the task ran."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return TaskFailure(client_error(task, error, f"{at.filename}:{at.lineno}"))


def client_error(task: Task, error: Exception, place: str) -> ExperimentError:
    """What a client raised, as an error that names it; `place` is the line that raised it."""
    if isinstance(error, ExperimentError):
        return error
    told = " ".join(str(error).split())
    return ClientError(
        f"{describe(task)}: {type(error).__name__}: {told[:300]}" + (f" ({place})" if place else "")
    )
