"""A method under test, on a small experiment.

The data set is digits, the model a small network; 5 of 10 clients take part in a round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsmu_ray.config.validation import parse
from fedsmu_ray.executors.inline import InlineExecutor
from fedsmu_ray.federation.client import ClientWorker, GroupOutput
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Record
from fedsmu_ray.federation.rounds import rounds
from fedsmu_ray.federation.server import Server
from fedsmu_ray.federation.tasks import Arrays, Handle, StepStats, Task

CLIENTS, COHORT, ROUNDS = 10, 5, 15


@dataclass(frozen=True)
class Subject:
    """A method with its options, and what it should reach.

    accuracy: test accuracy (0 to 1) to reach after 15 rounds with 3 local epochs; guessing gives
    0.1.
    """

    method: str  # as in `algorithm.name`
    options: Mapping[str, Any] = field(default_factory=dict)
    lr: float = 0.1  # the local learning rate
    accuracy: float = 0.2

    @cached_property
    def problem(self) -> Problem:
        """The experiment of most checks."""
        return self.problem_with()

    def problem_with(self, **sections: Any) -> Problem:
        """The experiment with some keys of its sections changed; raises ConfigError."""
        plain: dict[str, Any] = {
            "data": {"clients": CLIENTS, "partition": {"alpha": 1.0}},
            "model": {"hidden": [24]},
            "algorithm": {"name": self.method, **self.options},
            "local": {"lr": self.lr, "epochs": 3, "batch_size": 32},
            "federation": {"rounds": ROUNDS, "cohort": COHORT, "eval_every": ROUNDS},
            "compute": {"executor": "inline", "clients_per_task": COHORT},
            "tracking": {"uri": None},
        }
        for name, values in sections.items():
            plain[name] = {**plain.get(name, {}), **values}
        return Problem.of(parse(plain))

    @cached_property
    def play(self) -> ManualRounds:
        """The federation after two rounds, in which clients 0 to 5, 7 and 9 have taken part."""
        play = ManualRounds(self.problem)
        play.round(1, (0, 1, 3, 4, 7))
        play.round(2, (1, 2, 4, 5, 9))
        return play


def run_inline(problem: Problem) -> tuple[list[Record], str]:
    """The records of an experiment and the hash of its model."""
    executor = InlineExecutor()
    try:
        executor.load(problem)
        return list(rounds(problem, executor)), executor.sha256()
    finally:
        executor.close()


class ShuffledExecutor(InlineExecutor):
    """Runs its tasks in a random order, as actors that run at the same time finish them."""

    def run(self, message: Handle, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """The tasks in an order drawn from the round."""
        order = np.random.default_rng(self.server.round).permutation(len(tasks))
        yield from super().run(message, [tasks[i] for i in order])


State = dict[str, NDArray[Any]]  # of one client: named arrays [P]


class ManualRounds:
    """Rounds with cohorts that the caller chooses.

    The state of every client is held as its last task returned it.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.method = problem, problem.method
        self.worker, self.server = ClientWorker(problem), Server(problem)
        self.states: dict[int, State] = {}

    def train(self, round: int, clients: Sequence[int]) -> GroupOutput:
        """Open the round and train the clients as one group."""
        broadcast = self.server.open_round(round, False)
        return self.worker.train(round, clients, broadcast, self.states_of(clients))

    def round(self, round: int, clients: Sequence[int]) -> StepStats:
        """Run a whole round with these clients."""
        output = self.train(round, clients)
        self.keep(clients, output.states)
        self.server.receive(0, clients, output.messages)
        stats = self.server.step()
        assert isinstance(stats, StepStats), stats
        if self.problem.has_feedback:
            everyone = range(self.problem.config.data.clients)
            to = clients if self.method.feedback_to == "participants" else everyone
            self.keep(to, self.apply_feedback(round, len(clients), to))
        return stats

    def apply_feedback(self, round: int, participants: int, clients: Sequence[int]) -> Arrays:
        """New states [C, P] of the clients after the server's feedback to so many participants."""
        feedback, states = self.server.feedback(), self.states_of(clients)
        return self.worker.apply_feedback(round, participants, clients, feedback, states)

    def states_of(self, clients: Sequence[int]) -> list[State | None]:
        """The states of the clients, or None before their first round."""
        return [self.states.get(client) for client in clients]

    def keep(self, clients: Sequence[int], states: Arrays) -> None:
        """Keep the new states that a task returned for these clients."""
        self.states.update(zip(clients, rows_of(states)))


def rows_of(states: Arrays) -> list[State]:
    """The states of single clients, from named arrays [C, P]; none of stateless clients."""
    count = max(map(len, states.values()), default=0)
    return [{name: a[i] for name, a in states.items()} for i in range(count)]
