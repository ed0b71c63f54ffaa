"""Federated methods, one file per paper. `METHODS` is the one mapping from config name to class.

A method is a frozen dataclass whose fields are the keys of the YAML section `algorithm`. It is written on the
trailing axis of tensors: x is the flat model [P]; inside `client`, states and results are [C, P], one row per
client of the group. State goes in and comes out; nothing is mutated. See docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from fedsmu_ray.algorithms.base import Round, Setting
from fedsmu_ray.algorithms.dlion import DLion
from fedsmu_ray.algorithms.ef21 import EF21
from fedsmu_ray.algorithms.fed_ef import FedEF
from fedsmu_ray.algorithms.fedams import FedAMS, FedCAMS
from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.algorithms.fedavgm import FedAvgM
from fedsmu_ray.algorithms.feddyn import FedDyn
from fedsmu_ray.algorithms.fedlion import FedLion
from fedsmu_ray.algorithms.fedopt import FedAdam, FedYogi
from fedsmu_ray.algorithms.fedprox import FedProx
from fedsmu_ray.algorithms.fedsmu import FedSMU
from fedsmu_ray.algorithms.fedsmu_variants import FedGlobalLion, FedLocalLion, FedSMUMC
from fedsmu_ray.algorithms.scaffold import Scaffold
from fedsmu_ray.algorithms.scallion import Scallion
from fedsmu_ray.algorithms.signsgd_mv import SignSGDMV
from fedsmu_ray.wire.codecs import Codec

State = Mapping[str, Tensor]


class Local(Protocol):
    """What a method may ask of the clients of its group (`fedsmu_ray.federation.local_training.Local`); also a `codecs.Draws`."""

    setting: Setting
    lr: float  # eta
    steps: Tensor  # K_i, local steps of each client, [C, 1]

    def sgd(self, x: Tensor, correction: Tensor | None = None, prox: float = 0.0) -> Tensor:
        """Local models [C, P] after local SGD from x ([P], or [C, P] for models of their own), with
        `correction` [C, P] and prox (y - x) added to every gradient."""

    def lion(
        self, x: Tensor, momentum: Tensor, beta1: float, beta2: float
    ) -> tuple[Tensor, Tensor]:
        """Sum of the signs [C, P] that local Lion subtracts (times lr) from x, and its last momentum [C, P]."""

    def sign(self, v: Tensor, zero_rule: str) -> Tensor:
        """Signs of v, int8 [C, P]."""

    def momentum_sign(
        self, y: Tensor, x: Tensor, m: Tensor, beta1: float, beta2: float, zero_rule: str
    ) -> tuple[Tensor, Tensor]:
        """Lion's sign(beta1 m + (1 - beta1) delta) of the update delta = y - x, and beta2 m + (1 - beta2) delta; [C, P]."""

    def uniform(self, v: Tensor) -> Tensor:
        """Draws from [0, 1), [C, P]."""


class Method(Protocol):
    """The contract of a federated method.

    A method whose clients need the outcome of a round (they own their models) also has `relay` ("participants" or
    "all"), `reply(setting)`, fields like those of the broadcast, `answer(server)`, their values after the server
    step, and `hear(received, state, setting)`, the new states [C, P] of clients that got it. In both, setting.cohort is
    the number of clients that really took part, which may be fewer than the configured n everywhere else.
    """

    def uplink(self, setting: Setting) -> Mapping[str, Codec]:
        """Fields of a client's message, in wire order; names of at most five ASCII characters."""

    def downlink(self, setting: Setting) -> Mapping[str, Codec]:
        """Fields of the server's broadcast, likewise."""

    def server_init(self, x: Tensor) -> State:
        """Server state before round 1, from the initial model x [P]; holds the model to evaluate under the key "x"."""

    def client_init(self, x: Tensor) -> State:
        """State of one client before its first round (named [P] tensors), from the initial model; empty for stateless
        methods."""

    def broadcast(self, server: State) -> State:
        """The values of `downlink`."""

    def client(self, received: State, state: State, local: Local) -> tuple[State, State]:
        """One round of C clients: the broadcast [P] and states [C, P] to uploads [C, P] and new states [C, P]."""

    def server(self, server: State, mean: State, round: Round) -> State:
        """New server state from the mean [P] of each decoded upload over `round.clients`, or from all of them, [n, P], for
        a field whose codec is `compressors.Each`."""


METHODS: dict[str, type] = {
    "fedsmu": FedSMU,
    "fedsmu_mc": FedSMUMC,
    "fed_local_lion": FedLocalLion,
    "fed_global_lion": FedGlobalLion,
    "fedavg": FedAvg,
    "scaffold": Scaffold,
    "scallion": Scallion,
    "fed_ef": FedEF,
    "fedlion": FedLion,
    "ef21": EF21,
    "fedams": FedAMS,
    "fedcams": FedCAMS,
    "dlion": DLion,
    "signsgd_mv": SignSGDMV,
    "fedprox": FedProx,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "feddyn": FedDyn,
}
