"""FedLion: Lion on the clients, whole numbers of steps on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsmu_ray.algorithms.base import (
    Beta,
    LocalSolver,
    Method,
    MomentumBeta,
    Round,
    Setting,
    State,
)
from fedsmu_ray.wire.base import Fields
from fedsmu_ray.wire.codecs import Float32, Integers


@dataclass(frozen=True)
class FedLion(Method):
    """FedLion: Lion on the clients, whose displacements are sent as integers.

    Tang & Chang, "FedLion: Faster Adaptive Federated Optimization with Fewer Communication" (ICASSP
    2024, arXiv 2402.09941).

        R_i, mu_i = LocalLion(x, M):                     (1)  K times, from y = x, mu = M, R = 0:
            w = sign(beta1 mu + (1 - beta1) h)                       h the batch gradient at y
            mu <- beta2 mu + (1 - beta2) h;  y <- y - eta w;  R <- R + w
        x <- x - eta mean(R_i)                                  (2)
        M <- mean(mu_i)                                         (3)

    | here     | symbol | what |
    |----------|--------|------|
    | local.lr | eta    | local learning rate; (x - y) / eta is the integer R_i, |R_i| <= K |

    The authors' script averages weights and momenta in memory; the contribution of the paper is to
    send R_i as integers. Therefore there is no weight decay (the script's default):
    local.weight_decay is not used here, while local.clip_norm is. sign(0) = 0. Batches come from
    epochs, as for every method here; the original draws them with replacement. R_i is sent as a
    fixed-length code of ceil(log2(2 K + 1)) bits, with K of the largest client.

    Sources: the update, the averages of weights and momenta, M = 0 at first, beta1 = beta2 = 0.9
    and no decay are those of the authors' script (avg_lion_cifar.py). Sending R_i as integers
    follows a secondary description of the paper.

    State: none on clients; x, and M (zero at first), on the server. Upload d (32 + ceil(log2(2 K +
    1))) bits, download 64 d. Defaults: those of the authors' script; their learning rate is 0.001.
    """

    beta1: Annotated[Beta, Field(description="weight of the momentum in the step (beta_1)")] = 0.9
    beta2: MomentumBeta = 0.9

    @property
    def sgd_only(self) -> str | None:
        """See `Method`."""
        return "its clients train by Lion, with algorithm.beta1 and algorithm.beta2"

    def uplink(self, setting: Setting) -> Fields:
        return {"R": Integers(setting.steps), "mu": Float32()}

    def downlink(self, setting: Setting) -> Fields:
        return {"x": Float32(), "M": Float32()}

    def server_init(self, x: Tensor) -> State:
        return {"x": x, "M": torch.zeros_like(x)}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        R, mu = local.lion(received["x"], received["M"], self.beta1, self.beta2)  # (1)
        return {"R": R, "mu": mu}, {}

    def server(self, server: State, mean: State, round: Round) -> State:
        x = server["x"] - round.setting.lr * mean["R"]  # (2)
        return {"x": x, "M": mean["mu"]}  # (3)
