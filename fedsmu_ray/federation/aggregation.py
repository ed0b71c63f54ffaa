"""The uploads of a round, checked and added up: all by the server, or parts by client actors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsmu_ray.algorithms.base import State
from fedsmu_ray.errors import MessageError
from fedsmu_ray.federation.problem import Problem
from fedsmu_ray.numerics.parameters import as_tensor
from fedsmu_ray.wire import message
from fedsmu_ray.wire.accumulators import Node, PairwiseMean, node_count, weight_of
from fedsmu_ray.wire.base import Accumulator


class Received(NamedTuple):
    """A group whose messages are added up."""

    clients: Sequence[int]
    nbytes: int


@dataclass
class Largest:
    """The upload of the largest norm in a round, to say where a divergence may come from."""

    norm: float = 0.0
    field: str = ""
    client: int = 0

    def note(self, field: str, values: Any, clients: Sequence[int]) -> None:
        """Take the values of a field [C, P]."""
        if not isinstance(values, Tensor) or not values.is_floating_point() or not values.numel():
            return
        norms = torch.linalg.vector_norm(values, dim=-1)
        if not norms.isfinite().all():
            norms = torch.linalg.vector_norm(values.double(), dim=-1)
        if (norm := float(norms.max())) > self.norm:
            self.norm, self.field, self.client = norm, field, clients[int(norms.argmax())]

    def __str__(self) -> str:
        if not self.norm:
            return ""
        return f"; largest upload: norm {self.norm:.3g} in '{self.field}' of client {self.client}"


@dataclass
class _Groups:
    """What is known of the groups of a round beside their sums, by cohort position."""

    received: dict[int, Received] = field(default_factory=dict)
    rejected: dict[int, MessageError] = field(default_factory=dict)
    largest: Largest = field(default_factory=Largest)


class Subtotal(NamedTuple):
    """The sums of some groups of a round, on their way to the `Aggregator` of the server."""

    groups: _Groups
    sums: dict[str, dict[Node, NDArray[np.float32]]]  # field -> nodes of its `PairwiseSum`, [P]


def adds_up_early(problem: Problem) -> bool:
    """Whether a `Subtotal` is no larger than the messages it is the sum of.

    It is float32, as are the messages then; most compressed ones stay smaller than their sum.
    """
    codecs, dim = problem.uplink.values(), problem.dim
    sums = (isinstance(codec.accumulator(dim, False), PairwiseMean) for codec in codecs)
    return all(sums) and all(codec.size(dim) >= 4 * dim for codec in codecs)


def subtotal_bytes(problem: Problem, position: int, clients: int) -> int:
    """About the length of a `Subtotal` of these consecutive cohort positions."""
    return node_count(position, clients) * 4 * problem.dim * len(problem.uplink)


class Aggregator:
    """Checks the messages of a round and adds them up.

    Groups arrive in any order, as messages or in subtotals, without a difference in the bits.
    """

    def __init__(self, problem: Problem, round: int, uniformity: bool = False) -> None:
        """uniformity: whether to measure the magnitude uniformity of the uploads."""
        self.uplink, self.dim, self.round = problem.uplink, problem.dim, round
        self.weights_of = problem.weights_of
        self.totals: dict[str, Accumulator] = {
            name: codec.accumulator(self.dim, uniformity) for name, codec in self.uplink.items()
        }
        self.groups = _Groups()

    def receive(self, position: int, clients: Sequence[int], messages: NDArray[np.uint8]) -> None:
        """Take the messages of the clients at cohort positions `position`, `position` + 1, ...

        Invalid messages are rejected (see `take_rejected`).
        """
        try:
            values = self._decode(clients, messages)
        except MessageError as error:
            self.groups.rejected[position] = error
            return
        for name, rows in values.items():
            self._add(name, position, clients, rows)
        self.groups.received[position] = Received(clients, messages.nbytes)

    def add(self, position: int, clients: Sequence[int], uploads: State) -> None:
        """Take uploads that do not leave this process: finite floats [C, P] of every field.

        They count as long as their messages would be, and must not be changed.
        """
        for name, values in uploads.items():
            self.groups.largest.note(name, values, clients)
            self._add(name, position, clients, values)
        nbytes = len(clients) * message.length(self.uplink, self.dim)
        self.groups.received[position] = Received(clients, nbytes)

    def _add(self, name: str, position: int, clients: Sequence[int], values: Any) -> None:
        weights = self.weights_of(clients)
        total = self.totals[name]
        if weights is None:  # an accumulator of the user's need not know weights
            total.add(position, values)
        else:
            total.add(position, values, weights)

    def subtotal(self) -> Subtotal:
        """What was received; of a problem that `adds_up_early`."""
        sums = {}
        for name, total in self.totals.items():
            assert isinstance(total, PairwiseMean), name
            sums[name] = {node: value.numpy() for node, value in total.sum.nodes.items()}
        return Subtotal(self.groups, sums)

    def merge(self, part: Subtotal) -> None:
        """Take what another aggregator has received."""
        self.groups.received |= part.groups.received
        self.groups.rejected |= part.groups.rejected
        largest = self.groups.largest, part.groups.largest
        self.groups.largest = max(largest, key=lambda each: each.norm)
        clients = [client for group in part.groups.received.values() for client in group.clients]
        weight = weight_of(len(clients), self.weights_of(clients))
        for name, nodes in part.sums.items():
            total = self.totals[name]
            assert isinstance(total, PairwiseMean), name
            total.count += len(clients)
            total.weight += weight
            for node, value in nodes.items():
                total.sum.merge(node, as_tensor(value))

    def take_rejected(self) -> dict[int, MessageError]:
        """Why messages were rejected since the last call, by cohort position of the group."""
        rejected, self.groups.rejected = self.groups.rejected, {}
        return rejected

    def participants(self, missing: Collection[int]) -> list[int]:
        """The clients that were added up, in cohort order.

        missing: cohort positions from which nothing will arrive.
        """
        groups = sorted(self.groups.received.items())
        clients = [client for _, group in groups for client in group.clients]
        stops = [position + len(group.clients) for position, group in groups]
        expected = max([*stops, *(position + 1 for position in missing)])
        assert len(clients) + len(set(missing)) == expected, "not all groups have arrived"
        return clients

    @property
    def nbytes(self) -> int:
        """Length of all messages that were added up."""
        return sum(group.nbytes for group in self.groups.received.values())

    @property
    def largest(self) -> Largest:
        """The largest magnitude that was received."""
        return self.groups.largest

    def mean(self) -> State:
        """The mean of each field: what a method's `server` works on."""
        return {name: total.mean() for name, total in self.totals.items()}

    def uniformity(self) -> float:
        """Magnitude uniformity of the first field."""
        return next(iter(self.totals.values())).uniformity()

    def _decode(self, clients: Sequence[int], messages: NDArray[np.uint8]) -> dict[str, Any]:
        """Each field in the form its accumulator takes; raises MessageError."""
        values: dict[str, Any] = {}
        payloads: Mapping[str, NDArray[np.uint8]]
        payloads = message.payloads(self.uplink, messages, self.dim, self.round, clients)
        for name, rows in payloads.items():
            decode = self.totals[name].decode
            values[name] = message.decode_field(name, decode, rows, self.round, clients)
            self.groups.largest.note(name, values[name], clients)
        return values
