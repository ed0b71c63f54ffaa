"""FedAvg: the baseline every method is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedsmu_ray.algorithms.base import (
    LocalSolver,
    Method,
    Round,
    ServerRate,
    Setting,
    State,
    Weighting,
)
from fedsmu_ray.wire.base import Fields
from fedsmu_ray.wire.codecs import Float32


class FedAvgClient(Method):
    """FedAvg's client, for methods that differ in the server.

    It sends its displacement delta_i = LocalSGD(x) - x in full.
    """

    def uplink(self, setting: Setting) -> Fields:
        return {"delta": Float32()}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x = received["x"]
        return {"delta": local.train(x) - x}, {}


@dataclass(frozen=True)
class FedAvg(FedAvgClient):
    """FedAvg: the server averages the clients' displacements.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data"
    (AISTATS 2017).

        delta_i = LocalSGD(x) - x                               (1)
        x      <- x + lr * mean(delta_i)                        (2)

    The original is `federation.weighting: samples`, where the mean over the participants is
    weighted by their numbers of samples, with lr = 1. The FedSMU paper's comparison has the plain
    mean, which is the default; for clients of equal size they are the same.

    State: none on clients, x on the server. Upload 32 d bits, download 32 d bits.
    """

    lr: ServerRate = 1.0
    weighting: ClassVar[Weighting] = "samples"
    server_rate: ClassVar[str | None] = "lr"

    def server(self, server: State, mean: State, round: Round) -> State:
        return {"x": server["x"] + self.lr * mean["delta"]}  # (2)
