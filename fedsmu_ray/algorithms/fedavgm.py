"""FedAvgM: momentum on the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsmu_ray.algorithms.base import Beta, Round, State
from fedsmu_ray.algorithms.fedavg import FedAvg


@dataclass(frozen=True)
class FedAvgM(FedAvg):
    """FedAvgM: FedAvg with momentum on the server.

    Hsu, Qi & Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification" (arXiv 1909.06335).

    FedAvg with momentum in its server:

        delta_i = LocalSGD(x) - x                               (1)
        v      <- beta v + mean(delta_i)                        (2)
        x      <- x + lr v                                      (3)

    Sources: v <- beta v + delta, x <- x + v as commonly described and in several public
    implementations; lr is 1 in the original.

    State: none on clients; x and v (zero at first) on the server. Upload and download 32 d bits.
    """

    beta: Annotated[Beta, Field(description="server momentum (beta); 0 is FedAvg")] = 0.9

    def server_init(self, x: Tensor) -> State:
        return {"x": x, "v": torch.zeros_like(x)}

    def server(self, server: State, mean: State, round: Round) -> State:
        v = self.beta * server["v"] + mean["delta"]  # (2)
        return {"x": server["x"] + self.lr * v, "v": v}  # (3)
