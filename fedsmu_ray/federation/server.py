"""The server side of a round: check and add up the messages, step, broadcast."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsmu_ray.algorithms.base import Round, State
from fedsmu_ray.algorithms.checks import call_hook, check_names, not_finite
from fedsmu_ray.errors import DivergenceError, MessageError
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.federation.spans import Spans, measured
from fedsmu_ray.federation.tasks import Arrays, RejectedMessages, StepStats
from fedsmu_ray.numerics import parameters
from fedsmu_ray.numerics.allocator import keep_freed_memory
from fedsmu_ray.wire import message
from fedsmu_ray.wire.base import Accumulator, Fields


@dataclass(frozen=True)
class _Decoded:
    """Messages of a group that are checked but not yet added up."""

    clients: Sequence[int]
    values: dict[str, Any]  # field -> what its accumulator takes
    nbytes: int


@dataclass
class _Largest:
    """The largest magnitude in the uploads of a round, to say where a divergence may come from."""

    magnitude: float = 0.0
    field: str = ""
    client: int = 0

    def note(self, field: str, values: Any, magnitude: float, clients: Sequence[int]) -> None:
        """Take the values of a field [C, P] and their `_magnitude`."""
        if magnitude > self.magnitude:
            row = int(values.abs().amax(-1).argmax())
            self.magnitude, self.field, self.client = magnitude, field, clients[row]

    def __str__(self) -> str:
        if not self.magnitude:
            return ""
        return f"; largest upload: {self.magnitude:.3g} in '{self.field}' of client {self.client}"


def _magnitude(values: Any) -> float:
    """The largest magnitude in a tensor of floats, NaN if it holds NaN; 0 for anything else."""
    if not isinstance(values, Tensor) or not values.is_floating_point() or not values.numel():
        return 0.0
    low, high = (float(v) for v in torch.aminmax(values))
    return max(-low, high)


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
        self.totals: dict[str, Accumulator] = {
            name: codec.accumulator(self.problem.dim, uniformity)
            for name, codec in self.problem.uplink.items()
        }
        # Groups that wait for those before them, by cohort position.
        self.early: dict[int, _Decoded] = {}
        self.rejected: dict[int, MessageError] = {}
        self.next = self.uplink_bytes = 0
        self.participants: list[int] = []  # clients whose messages were added up, in cohort order
        self.largest = _Largest()
        values = call_hook(self.method, "broadcast", self.state)
        self._require_finite("broadcast", {name: values[name] for name in self.problem.downlink})
        broadcast = self._encode(self.problem.downlink, values)
        self.downlink_bytes = broadcast.nbytes
        return broadcast

    @measured("receive")
    def receive(self, position: int, clients: Sequence[int], messages: NDArray[np.uint8]) -> None:
        """Take the messages of the clients at cohort positions `position`, `position` + 1, ...

        Groups arrive in any order and are added up in cohort order, so that float sums are always
        rounded alike. Invalid messages are rejected; `step` reports them.
        """
        try:
            values = self._decode(clients, messages)
        except MessageError as error:
            self.rejected[position] = error
            return
        self.early[position] = _Decoded(clients, values, messages.nbytes)
        self._add_up()

    @measured("step")
    def step(self, missing: Sequence[int] = ()) -> StepStats | RejectedMessages:
        """Make the method's server step on what was received; no step if messages were rejected.

        missing: cohort positions from which nothing will arrive. Raises DivergenceError if a mean
        of the uploads, or a field of the new state, is not finite.
        """
        if self.rejected:
            rejected, self.rejected = self.rejected, {}
            return RejectedMessages(rejected)
        self._add_up(frozenset(missing))
        assert not self.early and self.participants, "step before all groups of the round arrived"
        mean = {name: total.mean() for name, total in self.totals.items()}
        self._require_finite("mean of the uploads", mean)
        setting, seed = self.problem.setting, self.problem.config.seed
        round = Round(self.round, tuple(self.participants), setting, seed)
        self.state = self._new_state(mean, round)
        return self._stats()

    def _new_state(self, mean: State, round: Round) -> dict[str, Tensor]:
        self.problem.seed_generators("server", self.round)
        state = dict(call_hook(self.method, "server", self.state, mean, round))
        check_names(self.method, "server", state, set(self.state))
        self._require_finite("state", state)
        return state

    def _require_finite(self, what: str, values: State) -> None:
        name = not_finite(values)
        if name is not None:
            raise DivergenceError(
                f"round {self.round}: training diverged (the server's {what} '{name}' holds NaN or "
                f"Inf{self.largest}); lower the server's step (algorithm.*) or local.lr, or set "
                "local.clip_norm"
            )

    def _stats(self) -> StepStats:
        count, dim = len(self.participants), self.problem.dim
        feedback = message.length(self.problem.feedback_fields(count), dim)
        first = next(iter(self.totals.values()))
        return StepStats(
            count,
            self.uplink_bytes,
            self.downlink_bytes,
            feedback if self.problem.has_feedback else 0,
            first.uniformity() if self.uniformity else None,
        )

    @measured("feedback")
    def feedback(self) -> NDArray[np.uint8]:
        """The feedback after the step, uint8 [1, bytes], for a method that has one."""
        return self._encode(self.problem.feedback_fields(len(self.participants)), self.state)

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

    def _decode(self, clients: Sequence[int], messages: NDArray[np.uint8]) -> dict[str, Any]:
        """Each field in the form its accumulator takes; raises MessageError."""
        uplink, dim = self.problem.uplink, self.problem.dim
        values: dict[str, Any] = {}
        payloads: Mapping[str, NDArray[np.uint8]]
        payloads = message.payloads(uplink, messages, dim, self.round, clients)
        for name, rows in payloads.items():
            values[name], magnitude = message.decode_field(
                name, self._decoder(name), rows, self.round, clients
            )
            self.largest.note(name, values[name], magnitude, clients)
        return values

    def _decoder(self, name: str) -> Callable[[NDArray[np.uint8]], tuple[Any, float]]:
        """The decoder of a field, to values and their magnitude.

        It raises MessageError for values that are not finite.
        """

        def decode(rows: NDArray[np.uint8]) -> tuple[Any, float]:
            values = self.totals[name].decode(rows)
            magnitude = _magnitude(values)
            if not isfinite(magnitude):
                raise MessageError("decodes to NaN or Inf")
            return values, magnitude

        return decode

    def _add_up(self, missing: Collection[int] = ()) -> None:
        """Add what has arrived, up to the first cohort position that is still awaited."""
        while self.next in self.early or self.next in missing:
            if self.next in missing:
                self.next += 1
                continue
            group = self.early.pop(self.next)
            for name, values in group.values.items():
                self.totals[name].add(values)
            self.next += len(group.clients)
            self.participants += group.clients
            self.uplink_bytes += group.nbytes
