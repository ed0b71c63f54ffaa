"""Federated methods, one file per paper. `METHODS` is the one mapping from config name to class.

A method is a frozen dataclass whose fields are the keys of the YAML section `algorithm`. It is written on the
trailing axis of tensors: x is the flat model [P]; inside `client`, states and results are [C, P], one row per
client of the group. State goes in and comes out; nothing is mutated. See docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.algorithms.fedsmu import FedSMU
from fedsmu_ray.codecs import Codec

State = Mapping[str, Tensor]


class Local(Protocol):
    """What a method may ask of the clients of its group (`fedsmu_ray.local.Local`)."""

    def sgd(self, x: Tensor) -> Tensor:
        """Local models [C, P] after local SGD from x ([P], or [C, P] for models of their own)."""

    def sign(self, v: Tensor, zero_rule: str) -> Tensor:
        """Signs of v, int8 [C, P]."""


class Method(Protocol):
    """The contract of a federated method."""

    @property
    def uplink(self) -> Mapping[str, Codec]:
        """Fields of a client's message, in wire order; names of at most five ASCII characters."""

    @property
    def downlink(self) -> Mapping[str, Codec]:
        """Fields of the server's broadcast, likewise."""

    def server_init(self, x: Tensor) -> State:
        """Server state before round 1, from the initial model x [P]; holds the model under the key "x"."""

    def client_init(self, x: Tensor) -> State:
        """State of one client before its first round (named [P] tensors); empty for stateless methods."""

    def broadcast(self, server: State) -> State:
        """The values of `downlink`."""

    def client(self, received: State, state: State, local: Local) -> tuple[State, State]:
        """One round of C clients: the broadcast [P] and states [C, P] to uploads [C, P] and new states [C, P]."""

    def server(self, server: State, mean: State, round: int) -> State:
        """New server state from the mean [P] of each decoded upload; rounds count from 1."""


METHODS: dict[str, type] = {"fedsmu": FedSMU, "fedavg": FedAvg}
