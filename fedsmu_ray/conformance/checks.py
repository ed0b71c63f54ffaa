"""The checks that every method has to pass.

Each takes a `Subject` and raises ConformanceError, which says what the method does wrong. The first
paragraph of a check's docstring is the line that the command prints for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsmu_ray.algorithms.base import Round
from fedsmu_ray.conformance.subject import (
    COHORT,
    ROUNDS,
    ManualRounds,
    ShuffledExecutor,
    Subject,
    rows_of,
    run_inline,
)
from fedsmu_ray.errors import ClientError
from fedsmu_ray.experiment.resume import resumable
from fedsmu_ray.federation.client import ClientWorker
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.records import Progress, Record
from fedsmu_ray.federation.tasks import RejectedMessages
from fedsmu_ray.wire import message
from fedsmu_ray.wire.compressors import PerClient

GROUP = (1, 4, 6, 8, 9)  # three of which have taken part before
LARGEST_HEADER = 64  # bytes
SHORT: dict[str, dict[str, Any]] = {  # a short experiment with a checkpoint in its middle
    "model": {"hidden": [8]},
    "federation": {"rounds": 4, "eval_every": 4},
    "compute": {"clients_per_task": 2},
    "checkpoint": {"every": 2},
}


class ConformanceError(AssertionError):
    """A method does not keep the contract of `algorithms.base.Method`."""


def trains_and_repeats(subject: Subject) -> None:
    """Training reaches the accuracy, and a repetition gives the same bits."""
    history, sha256 = run_inline(subject.problem)
    again, sha256_again = run_inline(subject.problem)
    last, problem = history[-1], subject.problem
    _require(
        (last.test_accuracy or 0.0) >= subject.accuracy,
        f"test accuracy {last.test_accuracy:.3f} after {ROUNDS} rounds, below {subject.accuracy}",
    )
    _require(sha256 == sha256_again, "two runs of one configuration end in different models")
    _require(last.train_loss == again[-1].train_loss, "two runs report different losses")
    sent = ROUNDS * COHORT * message.length(problem.uplink, problem.dim)
    _require(last.uplink_bytes == sent, f"uploaded {last.uplink_bytes} bytes instead of {sent}")


def messages_have_the_documented_size(subject: Subject) -> None:
    """Messages have the length that their codecs state, whatever the values."""
    problem = subject.problem
    messages = subject.play.train(3, GROUP).messages
    header = message.overhead(problem.uplink)
    payload = sum(codec.size(problem.dim) for codec in problem.uplink.values())
    _require(
        messages.shape == (len(GROUP), header + payload),
        f"messages are {messages.shape}, their codecs say {(len(GROUP), header + payload)}",
    )
    _require(header <= LARGEST_HEADER, f"a header of {header} bytes; upload fewer fields")
    decoded = message.decode(problem.uplink, messages, problem.dim, 3, GROUP)
    for name, values in decoded.items():
        shape = (len(GROUP), problem.dim)
        _require(tuple(values.shape) == shape, f"field '{name}' decodes to {tuple(values.shape)}")


def inputs_are_not_modified(subject: Subject) -> None:
    """Client and server change none of their inputs, and return the same when repeated."""
    play = subject.play
    states = play.states_of(GROUP)
    copies = [{k: v.copy() for k, v in s.items()} if s else None for s in states]
    broadcast = play.server.open_round(3, False)
    sent, server = broadcast.copy(), {k: v.clone() for k, v in play.server.state.items()}
    one = play.worker.train(3, GROUP, broadcast, states)
    _require(_same_states(states, copies), "client() changes the states it is given in place")
    again = play.worker.train(3, GROUP, broadcast, states)  # the next group of the same actor
    unchanged = np.array_equal(broadcast, sent) and np.array_equal(one.messages, again.messages)
    _require(unchanged, "client() changes the broadcast in place, or draws from a global generator")
    two = ClientWorker(play.problem).train(3, GROUP, sent, copies)  # another process, copied states
    _require(
        np.array_equal(one.messages, two.messages), "client() uploads other bits when repeated"
    )
    _require(
        _same_states(rows_of(one.states), rows_of(two.states)),
        "client() returns other states when repeated",
    )
    play.server.receive(0, GROUP, one.messages)
    before = play.server.state
    play.server.step()
    unchanged = all(torch.equal(before[k], server[k]) for k in server)
    play.server.state = before
    _require(unchanged, "server() changes the server state in place")


def absent_clients_keep_their_state(subject: Subject) -> None:
    """Clients that are not sampled keep their states, except for changes by feedback."""
    play = ManualRounds(subject.problem)
    play.round(1, (0, 1, 2, 3, 4))
    held = {i: {k: v.copy() for k, v in state.items()} for i, state in play.states.items()}
    play.round(2, (3, 4, 5, 6, 7))
    if subject.problem.has_feedback and subject.problem.method.feedback_to == "all":
        return
    for client in (0, 1, 2):
        before, after = held.get(client), play.states.get(client)
        _require(_same_states([before], [after]), f"the state of absent client {client} changed")


def the_server_uses_the_participants(subject: Subject) -> None:
    """If two clients of the cohort are lost, means and shares are those of the other three."""
    _step_of_three(subject.play)


def _step_of_three(play: ManualRounds) -> None:
    problem, server, method = play.problem, play.server, play.method
    three = tuple(problem.ordered(3, [1, 4, 9]))
    output = play.train(3, three)
    before = server.state
    server.receive(1, three, output.messages)
    stats = server.step(missing=[0, 4])
    after, server.state = server.state, before
    _require(not isinstance(stats, RejectedMessages), f"messages are rejected: {stats}")
    decoded = message.decode(problem.uplink, output.messages, problem.dim, 3, three)
    weights, steps = problem.weights_of(three), problem.steps_of(3, three)
    shares = torch.tensor(weights or (1, 1, 1)).double()
    shares /= shares.sum()
    mean = {
        name: v if isinstance(problem.uplink[name], PerClient) else (shares @ v.double()).float()
        for name, v in decoded.items()
    }
    round = Round(3, three, problem.setting, problem.config.seed, weights, steps)
    expected = method.server(before, mean, round)
    for name, value in expected.items():
        close = torch.allclose(after[name], value, rtol=1e-5, atol=1e-6)
        _require(close, f"server state '{name}' is not server() of the participants' mean")


def arrival_order_and_checkpoints_do_not_matter(subject: Subject) -> None:
    """The order of tasks, and resuming from a checkpoint, do not change the bits."""
    _shuffle_and_resume(subject.problem_with(local={"epochs": 1, "batch_size": 80}, **SHORT))


def weights_and_unequal_work_are_those_of_the_participants(subject: Subject) -> None:
    """Likewise with unequal local work and, where the method takes them, weights."""
    weighting = "uniform" if subject.problem.method.uniform_only else "samples"
    unequal: dict[str, Any] = {
        **SHORT,
        "data": {"partition": {"alpha": 1.0, "sigma": 0.7}},
        "federation": {**SHORT["federation"], "weighting": weighting},
        "local": {"epochs": {"uniform": [1, 3]}, "batch_size": 40},
    }
    problem = subject.problem_with(**unequal)
    uploaded = _shuffle_and_resume(problem)[-1].uplink_bytes
    sent = 4 * COHORT * message.length(problem.uplink, problem.dim)
    _require(uploaded == sent, f"uploaded {uploaded} bytes instead of {sent}")
    play = ManualRounds(problem)
    for round in (1, 2):
        play.round(round, problem.ordered(round, [0, 1, 3, 4, 7]))
    _step_of_three(play)


def _shuffle_and_resume(problem: Problem) -> list[Record]:
    """Compare an experiment with the same, shuffled and resumed; returns its records."""
    history, sha256 = run_inline(problem)
    with tempfile.TemporaryDirectory(prefix="fedsmu-conformance-") as folder:
        stopped, _ = _run_shuffled(problem, Path(folder), stop=3)
        resumed, sha256_again = _run_shuffled(problem, Path(folder), stop=None)
    expected, got = _untimed(history[:3] + history[2:]), _untimed(stopped + resumed)
    _require(got == expected, "shuffled, stopped and resumed, the run reports other figures")
    _require(sha256 == sha256_again, "shuffled, stopped and resumed, the run ends in another model")
    return history


def a_group_equals_its_clients_one_by_one(subject: Subject) -> None:
    """Clients trained in a group give the same results as alone, up to rounding."""
    problem, play = subject.problem, subject.play
    together = play.train(3, GROUP)
    uploads = message.decode(problem.uplink, together.messages, problem.dim, 3, GROUP)
    states = rows_of(together.states)
    for i, client in enumerate(GROUP):
        alone = play.train(3, [client])
        loss, other = alone.report.losses[0], together.report.losses[i]
        _require(abs(loss - other) <= 1e-3 * abs(other), f"client {client} alone has another loss")
        decoded = message.decode(problem.uplink, alone.messages, problem.dim, 3, [client])
        mixed = "client() mixes the rows of a group"
        for name, value in decoded.items():
            what = f"client {client} alone uploads another '{name}': {mixed}"
            _require(_close(uploads[name][i], value[0]), what)
        for name, array in (rows_of(alone.states) or [{}])[0].items():
            what = f"client {client} alone keeps another '{name}': {mixed}"
            _require(_close(states[i][name], array), what)


def divergence_is_reported(subject: Subject) -> None:
    """Diverging local training is reported as an error that names the client."""
    play = ManualRounds(subject.problem_with(local={"lr": 1e30, "clip_norm": None}))
    try:
        play.round(1, GROUP)
    except ClientError as error:
        _require("local training diverged" in str(error), f"another error was raised: {error}")
        return
    raise ConformanceError("local training diverged and nothing was reported")


CHECKS: tuple[Callable[[Subject], None], ...] = (
    trains_and_repeats,
    messages_have_the_documented_size,
    inputs_are_not_modified,
    absent_clients_keep_their_state,
    the_server_uses_the_participants,
    arrival_order_and_checkpoints_do_not_matter,
    weights_and_unequal_work_are_those_of_the_participants,
    a_group_equals_its_clients_one_by_one,
    divergence_is_reported,
)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConformanceError(message)


def _same_states(some: list[Any], others: list[Any]) -> bool:
    """Whether two lists of states (or None) are equal bit for bit."""

    def same(one: Any, other: Any) -> bool:
        if one is None or other is None:
            return one is other
        return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)

    return len(some) == len(others) and all(map(same, some, others))


def _close(one: Any, other: Any) -> bool:
    """Equal up to rounding, and to the few signs and kept coordinates that rounding changes."""
    a, b = (torch.as_tensor(value).double() for value in (one, other))
    return bool((a - b).norm() <= 0.05 * b.norm() + 1e-12)


def _run_shuffled(problem: Problem, folder: Path, stop: int | None) -> tuple[list[Record], str]:
    """The records up to round `stop`, with checkpoints in the folder, and the hash of the model."""
    executor, history = ShuffledExecutor(), []
    try:
        executor.load(problem)
        for record in resumable(problem, executor, Progress(), folder):
            history.append(record)
            if record.round == stop:
                break
        return history, executor.sha256()
    finally:
        executor.close()


def _untimed(history: list[Record]) -> list[Record]:
    return [replace(record, seconds=0.0) for record in history]
