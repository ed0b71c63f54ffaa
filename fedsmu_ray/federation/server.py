"""The server side of a round: check and add up the messages, step, broadcast."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedsmu_ray.algorithms.base import Round
from fedsmu_ray.errors import DivergenceError, MessageError
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.numerics import parameters
from fedsmu_ray.wire import message
from fedsmu_ray.wire.codecs import Accumulator


@dataclass(frozen=True)
class StepStats:
    """What the server saw in one round."""

    clients: int  # messages decoded
    uplink_bytes: int  # length of those messages
    downlink_bytes: int  # length of this round's broadcast to one client
    feedback_bytes: int  # length of the reply to one client, for a method that has one
    uniformity: float | None  # magnitude uniformity of the decoded uploads, when asked for


@dataclass(frozen=True)
class RejectedMessages:
    """Groups whose messages could not be used, by cohort position; the server waits for others in their place."""

    errors: dict[int, MessageError]


class Server:
    """Owns the server state. The driver never sees the messages' bytes, nor the model before it asks for it."""

    def __init__(self, problem: Problem) -> None:
        torch.set_num_threads(1)
        self.problem, self.method = problem, problem.method
        self.state = dict(self.method.server_init(problem.initial()))
        self.round = 0

    def open(self, round: int, uniformity: bool) -> np.ndarray:
        """Begin a round: returns the broadcast, uint8 [1, bytes]."""
        self.round, self.uniformity = round, uniformity
        self.totals: dict[str, Accumulator] = {
            name: codec.accumulator(self.problem.dim, uniformity)
            for name, codec in self.problem.uplink.items()
        }
        self.early: dict[
            int, tuple[Sequence[int], dict[str, Any], int]
        ] = {}  # decoded, and not yet their turn
        self.refused: dict[int, MessageError] = {}
        self.next = self.uplink_bytes = 0
        self.clients: list[int] = []  # whose messages were added up, in cohort order
        broadcast = self._encode(self.problem.downlink, self.method.broadcast(self.state))
        self.downlink_bytes = broadcast.nbytes
        return broadcast

    def _encode(self, fields: message.Fields, values: Mapping[str, torch.Tensor]) -> np.ndarray:
        return message.encode(
            fields, {name: values[name][None] for name in fields}, self.round, [message.SERVER]
        )

    def receive(self, position: int, clients: Sequence[int], messages: np.ndarray) -> None:
        """Take the messages of the clients at cohort positions position, position + 1, ...

        Groups arrive in any order and are added up in cohort order, so float sums are always rounded alike. Messages that
        are not what these clients should have sent are refused; `step` tells.
        """
        try:
            decoded = {}
            for name, rows in message.payloads(
                self.problem.uplink, messages, self.problem.dim, self.round, clients
            ).items():
                try:
                    decoded[name] = self.totals[name].decode(rows)
                except MessageError as error:
                    raise MessageError(
                        f"round {self.round}, clients {list(clients)}, field '{name}': {error}"
                    ) from None
        except MessageError as error:
            self.refused[position] = error
            return
        self.early[position] = clients, decoded, messages.nbytes
        self._add_up()

    def _add_up(self, missing: Collection[int] = ()) -> None:
        """Add what has come, as far as no position before it is still awaited."""
        while self.next in self.early or self.next in missing:
            if self.next in missing:
                self.next += 1
                continue
            clients, decoded, nbytes = self.early.pop(self.next)
            for name, values in decoded.items():
                self.totals[name].add(values)
            self.next += len(clients)
            self.clients += clients
            self.uplink_bytes += nbytes

    def step(self, missing: Sequence[int] = ()) -> StepStats | RejectedMessages:
        """Apply the method's server step to what was received, or say what was refused (and then make no step).

        missing: cohort positions that nothing will come for. Raises DivergenceError if the model is no longer finite.
        """
        if self.refused:
            refused, self.refused = self.refused, {}
            return RejectedMessages(refused)
        self._add_up(frozenset(missing))
        assert not self.early and self.clients, "step before all groups of the round arrived"
        mean = {name: total.mean() for name, total in self.totals.items()}
        round = Round(
            self.round, tuple(self.clients), self.problem.setting, self.problem.config.seed
        )
        self.state = dict(self.method.server(self.state, mean, round))
        if not parameters.finite(self.state["x"]):
            raise DivergenceError(
                f"round {self.round}: the server model holds NaN or Inf; lower the server's step "
                "(algorithm.*) or local.lr"
            )
        first = next(iter(self.totals.values()))
        answered = len(self.clients)
        reply = (
            message.length(self.problem.feedback_fields(answered), self.problem.dim)
            if self.problem.has_feedback
            else 0
        )
        return StepStats(
            answered,
            self.uplink_bytes,
            self.downlink_bytes,
            reply,
            first.uniformity() if self.uniformity else None,
        )

    def reply(self) -> np.ndarray:
        """The reply after the step, uint8 [1, bytes], for a method that has one."""
        return self._encode(self.problem.feedback_fields(len(self.clients)), self.method.answer(self.state))

    def model(self) -> np.ndarray:
        """The model as a message, uint8 [1, bytes], to evaluate where the broadcast does not hold it."""
        return self._encode(self.problem.model_fields, self.state)

    def export(self) -> dict[str, np.ndarray]:
        """The server state between two rounds, as arrays."""
        return {name: value.numpy() for name, value in self.state.items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up a state that `export` gave."""
        self.state = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}

    def params(self) -> np.ndarray:
        """The model vector, float32 [P]."""
        return self.state["x"].numpy()

    def sha256(self) -> str:
        return parameters.sha256(self.state["x"])
