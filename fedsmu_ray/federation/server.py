"""The server side of a round: check and add up the messages, step, broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsmu_ray.algorithms.base import Round, State
from fedsmu_ray.algorithms.checks import call_hook, check_names, not_finite
from fedsmu_ray.errors import DivergenceError
from fedsmu_ray.federation.aggregation import Aggregator, Subtotal
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.spans import Spans, measured
from fedsmu_ray.federation.tasks import Arrays, RejectedMessages, StepStats
from fedsmu_ray.numerics import parameters
from fedsmu_ray.numerics.allocator import keep_freed_memory
from fedsmu_ray.wire import message
from fedsmu_ray.wire.base import Fields


class Server:
    """Owns the server state.

    The driver never sees the bytes of messages, and the model only when it asks for it.
    """

    def __init__(self, problem: Problem, spans: Spans | None = None) -> None:
        """spans: that this process measures already; default: its own."""
        keep_freed_memory()
        torch.set_num_threads(1)
        self.problem, self.method = problem, problem.method
        self.spans = spans or Spans(problem.profiled)
        initial = problem.initial()
        problem.seed_generators("server", 0)
        self.state: dict[str, Tensor] = dict(self.method.server_init(initial))
        self.round = 0

    @measured("broadcast")
    def open_round(self, round: int, uniformity: bool) -> NDArray[np.uint8]:
        """Begin a round; returns the broadcast, uint8 [1, bytes]."""
        self.round, self.uniformity = round, uniformity
        self.problem.seed_generators("broadcast", round)
        self.uploads = Aggregator(self.problem, round, uniformity)
        values = call_hook(self.method, "broadcast", self.state)
        self._require_finite("broadcast", {name: values[name] for name in self.problem.downlink})
        broadcast = self._encode(self.problem.downlink, values)
        self.downlink_bytes = broadcast.nbytes
        return broadcast

    @measured("receive")
    def receive(self, position: int, clients: Sequence[int], messages: NDArray[np.uint8]) -> None:
        """Take the messages of the clients at cohort positions `position`, `position` + 1, ...

        Groups arrive in any order. Invalid messages are rejected; `step` reports them.
        """
        self.uploads.receive(position, clients, messages)

    @measured("receive")
    def add(self, position: int, clients: Sequence[int], uploads: State) -> None:
        """Take uploads that do not leave this process (see `Aggregator.add`)."""
        self.uploads.add(position, clients, uploads)

    @measured("receive")
    def merge(self, part: Subtotal) -> None:
        """Take the groups whose messages another process has added up."""
        self.uploads.merge(part)

    @measured("step")
    def step(self, missing: Sequence[int] = ()) -> StepStats | RejectedMessages:
        """Make the method's server step on what was received; no step if messages were rejected.

        missing: cohort positions from which nothing will arrive. Raises DivergenceError if a mean
        of the uploads, or a field of the new state, is not finite.
        """
        if rejected := self.uploads.take_rejected():
            return RejectedMessages(rejected)
        participants = self.uploads.participants(missing)
        mean = self.uploads.mean()
        self._require_finite("mean of the uploads", mean)
        round = Round(
            self.round,
            tuple(participants),
            self.problem.setting_at(self.round),
            self.problem.config.seed,
            self.problem.weights_of(participants),
            self.problem.steps_of(self.round, participants),
        )
        self.state = self._new_state(mean, round)
        return self._stats(len(participants))

    def _new_state(self, mean: State, round: Round) -> dict[str, Tensor]:
        self.problem.seed_generators("server", self.round)
        method = self.problem.method_at(self.round)
        state = dict(call_hook(method, "server", self.state, mean, round))
        check_names(self.method, "server", state, set(self.state))
        self._require_finite("state", state)
        return state

    def _require_finite(self, what: str, values: State) -> None:
        name = not_finite(values)
        if name is not None:
            raise DivergenceError(
                f"round {self.round}: training diverged (the server's {what} '{name}' holds NaN or "
                f"Inf{self.uploads.largest}); lower the server's step (algorithm.*) or local.lr, "
                "or set local.clip_norm"
            )

    def _stats(self, participants: int) -> StepStats:
        self.participants = participants
        feedback = message.length(self.problem.feedback_fields(participants), self.problem.dim)
        return StepStats(
            participants,
            self.uploads.nbytes,
            self.downlink_bytes,
            feedback if self.problem.has_feedback else 0,
            self.uploads.uniformity() if self.uniformity else None,
        )

    @measured("feedback")
    def feedback(self) -> NDArray[np.uint8]:
        """The feedback after the step, uint8 [1, bytes], for a method that has one."""
        return self._encode(self.problem.feedback_fields(self.participants), self.state)

    @measured("broadcast")
    def model_message(self) -> NDArray[np.uint8]:
        """The model as a message, uint8 [1, bytes], to evaluate if the broadcast lacks it."""
        return self._encode(self.problem.model_fields, self.state)

    def export_state(self) -> dict[str, NDArray[np.float32]]:
        """The server state between two rounds."""
        return {name: value.numpy() for name, value in self.state.items()}

    def restore_state(self, arrays: Arrays) -> None:
        """Continue from a state that `export_state` returned."""
        self.state = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}

    def params(self) -> NDArray[np.float32]:
        """The model vector, float32 [P]."""
        array: NDArray[np.float32] = self.state["x"].numpy()
        return array

    def sha256(self) -> str:
        """SHA-256 of the model vector."""
        return parameters.sha256(self.state["x"], self.problem.probed.constants)

    def _encode(self, fields: Fields, values: State) -> NDArray[np.uint8]:
        rows = {name: values[name][None] for name in fields}
        return message.encode(fields, rows, self.round, [message.SERVER])
