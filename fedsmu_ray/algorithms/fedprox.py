"""FedProx: local training held near the server model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedsmu_ray.wire.codecs import Float32


@dataclass(frozen=True)
class FedProx:
    """Li et al., "Federated Optimization in Heterogeneous Networks" (MLSys 2020).

        delta_i = LocalSGD(x) - x, every gradient plus mu (y - x)       (1)
        x      <- x + lr * mean(delta_i)                                (2)

    | here | symbol | what |
    |------|--------|------|
    | mu   | mu     | weight of the proximal term mu / 2 ||y - x||^2 of the local objective; 0 is FedAvg |
    | lr   |        | server learning rate; 1 in the original |

    The term enters before clipping, being part of the objective. The original samples clients by data size and lets
    some do less work; here cohorts and local epochs are those of every other method.

    State: none on clients, x on the server. Upload and download 32 d bits.
    """

    mu: Annotated[float, Field(ge=0)] = 0.01
    lr: Annotated[float, Field(ge=0)] = 1.0

    def uplink(self, setting):
        return {"delta": Float32()}

    def downlink(self, setting):
        return {"x": Float32()}

    def server_init(self, x):
        return {"x": x}

    def client_init(self, x):
        return {}

    def broadcast(self, server):
        return {"x": server["x"]}

    def client(self, received, state, local):
        x = received["x"]
        return {"delta": local.sgd(x, prox=self.mu) - x}, {}  # (1)

    def server(self, server, mean, round):
        return {"x": server["x"] + self.lr * mean["delta"]}  # (2)
