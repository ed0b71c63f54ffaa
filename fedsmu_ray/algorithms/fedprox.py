"""FedProx: local training held near the server model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fedsmu_ray.algorithms.base import LocalSolver, Rate, State, Weighting
from fedsmu_ray.algorithms.fedavg import FedAvg


@dataclass(frozen=True)
class FedProx(FedAvg):
    """FedProx: FedAvg with a proximal term in the local objective.

    Li et al., "Federated Optimization in Heterogeneous Networks" (MLSys 2020).

    FedAvg, its server included, with a proximal term mu / 2 ||y - x||^2 in the local objective:

        delta_i = LocalSGD(x) - x, every gradient plus mu (y - x)       (1)
        x      <- x + lr * mean(delta_i)                                (2)

    The term is part of the objective, so it is added before clipping. The original samples clients
    by data size (`federation.sampling: weighted`), takes their plain mean, and lets some do less
    work. lr is 1 in the original.

    State: none on clients, x on the server. Upload and download 32 d bits.
    """

    weighting: ClassVar[Weighting] = "uniform"  # unlike FedAvg
    mu: Annotated[Rate, Field(description="weight of the proximal term (mu); 0 is FedAvg")] = 0.01

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x = received["x"]
        return {"delta": local.train(x, prox=self.mu) - x}, {}  # (1)
