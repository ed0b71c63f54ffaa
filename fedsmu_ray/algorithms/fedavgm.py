"""FedAvgM: momentum on the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from fedsmu_ray.wire.codecs import Float32


@dataclass(frozen=True)
class FedAvgM:
    """Hsu, Qi & Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification"
    (arXiv 1909.06335).

        delta_i = LocalSGD(x) - x                               (1)
        v      <- beta v + mean(delta_i)                        (2)
        x      <- x + lr v                                      (3)

    | here | symbol | what |
    |------|--------|------|
    | beta | beta   | server momentum; 0 is FedAvg |
    | lr   |        | server learning rate; 1 in the original |

    Sources: v <- beta v + delta, x <- x + v as commonly described and in several public implementations.

    State: none on clients; x and v (zero at first) on the server. Upload and download 32 d bits.
    """

    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9
    lr: Annotated[float, Field(ge=0)] = 1.0

    def uplink(self, setting):
        return {"delta": Float32()}

    def downlink(self, setting):
        return {"x": Float32()}

    def server_init(self, x):
        return {"x": x, "v": torch.zeros_like(x)}

    def client_init(self, x):
        return {}

    def broadcast(self, server):
        return {"x": server["x"]}

    def client(self, received, state, local):
        x = received["x"]
        return {"delta": local.sgd(x) - x}, {}  # (1)

    def server(self, server, mean, round):
        v = self.beta * server["v"] + mean["delta"]  # (2)
        return {"x": server["x"] + self.lr * v, "v": v}  # (3)
