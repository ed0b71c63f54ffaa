"""FedAvg: the baseline every method is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedsmu_ray.wire.codecs import Float32


@dataclass(frozen=True)
class FedAvg:
    """McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (AISTATS 2017).

        delta_i = LocalSGD(x) - x
        x      <- x + lr * mean(delta_i)

    The mean is unweighted over the cohort, as in the FedSMU paper's comparison; for clients of equal size that is
    McMahan's weighting. lr = 1 is the original.

    | here  | symbol  | what |
    |-------|---------|------|
    | lr    | eta_g   | server learning rate |
    | delta | Delta_i | local displacement   |

    State: none on clients, x on the server. Upload 32 d bits, download 32 d bits.
    """

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
        return {"delta": local.sgd(x) - x}, {}

    def server(self, server, mean, round):
        return {"x": server["x"] + self.lr * mean["delta"]}
