"""FedAdam and FedYogi: adaptive optimizers on the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsmu_ray.algorithms.base import Beta, Divisor, Rate, Round, State
from fedsmu_ray.algorithms.fedavg import FedAvgClient


@dataclass(frozen=True)
class FedAdam(FedAvgClient):
    """FedAdam: Adam on the server.

    Reddi et al., "Adaptive Federated Optimization" (ICLR 2021), Algorithm 2: FedAdam.

        delta_i = LocalSGD(x) - x                               (1)
        D       = mean(delta_i)
        m      <- beta1 m + (1 - beta1) D                       (2)
        v      <- beta2 v + (1 - beta2) D^2                     (3)
        x      <- x + lr m / (sqrt(v) + tau)                    (4)

    Sources: Algorithm 2 as commonly described, without bias correction, which is how several public
    implementations have it; one well-known framework starts v at zero instead and corrects the
    bias.

    State: none on clients; x, m (zero at first) and v (tau^2 at first, the least the paper allows)
    on the server. Upload and download 32 d bits.
    """

    lr: Annotated[
        Rate, Field(description="server learning rate (eta); the paper tunes it for every task")
    ] = 0.01
    beta1: Annotated[Beta, Field(description="decay of the first moment (beta_1)")] = 0.9
    beta2: Annotated[Beta, Field(description="decay of the second moment (beta_2)")] = 0.99
    tau: Annotated[
        Divisor, Field(description="degree of adaptivity (tau); v starts at its square")
    ] = 1e-3
    server_rate: ClassVar[str | None] = "lr"

    def server_init(self, x: Tensor) -> State:
        return {"x": x, "m": torch.zeros_like(x), "v": torch.full_like(x, self.tau**2)}

    def second_moment(self, v: Tensor, D: Tensor) -> Tensor:
        """The new second moment [P] from the old one and the mean displacement: equation (3)."""
        return self.beta2 * v + (1 - self.beta2) * D.square()

    def server(self, server: State, mean: State, round: Round) -> State:
        D = mean["delta"]
        m = self.beta1 * server["m"] + (1 - self.beta1) * D  # (2)
        v = self.second_moment(server["v"], D)  # (3)
        return {"x": server["x"] + self.lr * m / (v.sqrt() + self.tau), "m": m, "v": v}  # (4)


@dataclass(frozen=True)
class FedYogi(FedAdam):
    """FedYogi: Yogi on the server.

    Reddi et al., "Adaptive Federated Optimization" (ICLR 2021), Algorithm 2: FedYogi.

    FedAdam, options included, with a second moment that moves toward D^2 by steps of its size:

        v      <- v - (1 - beta2) D^2 sign(v - D^2)             (3)

    State: none on clients; x, m (zero at first) and v on the server. Upload and download 32 d bits.
    """

    def second_moment(self, v: Tensor, D: Tensor) -> Tensor:
        return v - (1 - self.beta2) * D.square() * torch.sign(v - D.square())
