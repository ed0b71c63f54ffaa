"""FedAdam and FedYogi: adaptive optimisers on the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from fedsmu_ray.wire.codecs import Float32


@dataclass(frozen=True)
class FedAdam:
    """Reddi et al., "Adaptive Federated Optimization" (ICLR 2021), Algorithm 2: FedAdam.

        delta_i = LocalSGD(x) - x                               (1)
        D       = mean(delta_i)
        m      <- beta1 m + (1 - beta1) D                       (2)
        v      <- beta2 v + (1 - beta2) D^2                     (3)
        x      <- x + lr m / (sqrt(v) + tau)                    (4)

    | here  | symbol | what |
    |-------|--------|------|
    | lr    | eta    | server learning rate; the paper tunes it for every task |
    | beta1, beta2 | beta_1, beta_2 | decay of first and second moment |
    | tau   | tau    | degree of adaptivity; v starts at tau^2, the least the paper allows |

    Sources: Algorithm 2 as commonly described, without bias correction, which is how several public implementations
    have it; one well-known framework starts v at zero instead and corrects the bias.

    State: none on clients; x, m (zero at first) and v on the server. Upload and download 32 d bits.
    """

    lr: Annotated[float, Field(ge=0)] = 0.01
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Annotated[float, Field(gt=0)] = 1e-3

    def uplink(self, setting):
        return {"delta": Float32()}

    def downlink(self, setting):
        return {"x": Float32()}

    def server_init(self, x):
        return {"x": x, "m": torch.zeros_like(x), "v": torch.full_like(x, self.tau**2)}

    def client_init(self, x):
        return {}

    def broadcast(self, server):
        return {"x": server["x"]}

    def client(self, received, state, local):
        x = received["x"]
        return {"delta": local.sgd(x) - x}, {}  # (1)

    def server(self, server, mean, round):
        D = mean["delta"]
        m = self.beta1 * server["m"] + (1 - self.beta1) * D  # (2)
        v = self.beta2 * server["v"] + (1 - self.beta2) * D.square()  # (3)
        return {"x": server["x"] + self.lr * m / (v.sqrt() + self.tau), "m": m, "v": v}  # (4)


@dataclass(frozen=True)
class FedYogi(FedAdam):
    """Reddi et al., "Adaptive Federated Optimization" (ICLR 2021), Algorithm 2: FedYogi.

    FedAdam, options included, with a second moment that moves towards D^2 by steps of its size:

        v      <- v - (1 - beta2) D^2 sign(v - D^2)             (3)

    State: none on clients; x, m (zero at first) and v on the server. Upload and download 32 d bits.
    """

    def server(self, server, mean, round):
        D = mean["delta"]
        m = self.beta1 * server["m"] + (1 - self.beta1) * D
        v = server["v"] - (1 - self.beta2) * D.square() * torch.sign(
            server["v"] - D.square()
        )  # (3)
        return {"x": server["x"] + self.lr * m / (v.sqrt() + self.tau), "m": m, "v": v}
