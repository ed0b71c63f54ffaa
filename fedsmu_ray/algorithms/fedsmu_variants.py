"""Algorithms 2 to 4 of the FedSMU paper: momentum completed, and Lion on one side only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsmu_ray.algorithms.base import (
    LocalSolver,
    Method,
    MomentumBeta,
    Rate,
    Round,
    ServerRate,
    Setting,
    SignBeta,
    State,
    TieRule,
    UploadedZero,
    sign_codec,
)
from fedsmu_ray.algorithms.fedavg import FedAvgClient
from fedsmu_ray.algorithms.fedsmu import ServerDecay, ServerStep, StepFactor
from fedsmu_ray.wire.base import Fields, ZeroRule
from fedsmu_ray.wire.codecs import Float32


@dataclass(frozen=True)
class FedSMUMC(Method):
    """FedSMUMC: FedSMU with one global momentum instead of one per client.

    Lu, Zhang, Li et al., "FedSMU" (ICML 2025, PMLR 267), Algorithm 2: FedSMUMC, "momentum
    completed".

    One global momentum M instead of one per client, so that it is never stale:

        delta_i = LocalSGD(x) - x                               (1)
        u_i     = sign(beta1 M + (1 - beta1) delta_i)           (2)
        m_i     = beta2 M + (1 - beta2) delta_i                 (3)
        M      <- mean(m_i)                                     (4)
        x      <- x + gamma (mean(u_i) - gamma2 x)              (5)  gamma = gamma1 decay^(round-1)

    M is zero at first (the paper names M_1 without a value). u_i follows from M and m_i if beta2 <
    1, so 32 d bits would do; it is sent, as the paper describes.

    State: none on clients; x and M on the server. Upload 33 d bits (one-bit sign), download 64 d
    bits. Defaults: the paper's CIFAR-100 values.
    """

    beta1: SignBeta = 0.9
    beta2: MomentumBeta = 0.9
    gamma1: ServerStep = 0.01
    gamma2: ServerDecay = 0.01
    decay: StepFactor = 1.0
    zero_rule: UploadedZero = "random"
    server_rate: ClassVar[str | None] = "gamma1"

    def uplink(self, setting: Setting) -> Fields:
        return {"u": sign_codec(self.zero_rule), "m": Float32()}

    def downlink(self, setting: Setting) -> Fields:
        return {"x": Float32(), "M": Float32()}

    def server_init(self, x: Tensor) -> State:
        return {"x": x, "M": torch.zeros_like(x)}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x, M, betas = received["x"], received["M"], (self.beta1, self.beta2)
        u, m = local.momentum_sign(local.train(x), x, M, *betas, self.zero_rule)  # (1) to (3)
        return {"u": u, "m": m}, {}

    def server(self, server: State, mean: State, round: Round) -> State:
        gamma = self.gamma1 * self.decay ** (round.number - 1)
        x = round.step(server["x"], mean["u"], gamma, self.gamma2)  # (5)
        return {"M": mean["m"], "x": x}  # (4)


@dataclass(frozen=True)
class FedLocalLion(Method):
    """Fed-LocalLion: a whole Lion step on the client.

    Lu, Zhang, Li et al., "FedSMU" (ICML 2025, PMLR 267), Algorithm 3: Fed-LocalLion.

    A whole Lion step on the client, once a round after its SGD; the server averages:

        y_i     = LocalSGD(x),  delta_i = y_i - x               (1)
        u_i     = sign(beta1 m_i + (1 - beta1) delta_i)         (2)
        m_i    <- beta2 m_i + (1 - beta2) delta_i               (3)  from the old m_i
        D_i     = y_i + gamma1 (u_i - gamma2 y_i) - x           (4)
        x      <- x + lr * mean(D_i)                            (5)

    Client state: m_i, zero at first. Server state: x. Upload and download 32 d bits. Defaults: the
    paper's CIFAR-100 values.
    """

    beta1: SignBeta = 0.9
    beta2: MomentumBeta = 0.99
    gamma1: Annotated[Rate, Field(description="step of the client's Lion (gamma_1)")] = 0.001
    gamma2: Annotated[
        Rate, Field(description="weight decay of the client's Lion, scaled by its step (gamma_2)")
    ] = 0.01
    lr: ServerRate = 1.0
    zero_rule: Annotated[
        ZeroRule,
        Field(
            description="sign of an exact zero: 0 (`zero`), as in FedSMU's code (nothing of the "
            "sign is sent), a fair coin (`random`), or +1 (`plus`)"
        ),
    ] = "zero"
    server_rate: ClassVar[str | None] = "lr"

    def uplink(self, setting: Setting) -> Fields:
        return {"D": Float32()}

    def client_init(self, x: Tensor) -> State:
        return {"m": torch.zeros_like(x)}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x, m, betas = received["x"], state["m"], (self.beta1, self.beta2)
        y = local.train(x)
        u, m = local.momentum_sign(y, x, m, *betas, self.zero_rule)  # (1) to (3)
        return {"D": y + self.gamma1 * (u - self.gamma2 * y) - x}, {"m": m}  # (4)

    def server(self, server: State, mean: State, round: Round) -> State:
        return {"x": server["x"] + self.lr * mean["D"]}  # (5)


@dataclass(frozen=True)
class FedGlobalLion(FedAvgClient):
    """Fed-GlobalLion: a Lion step on the server.

    Lu, Zhang, Li et al., "FedSMU" (ICML 2025, PMLR 267), Algorithm 4: Fed-GlobalLion.

    FedAvg's mean displacement as the pseudo-gradient of Lion on the server:

        delta_i = LocalSGD(x) - x                               (1)
        D       = mean(delta_i)
        U       = sign(beta1 M + (1 - beta1) D)                 (2)
        M      <- beta2 M + (1 - beta2) D                       (3)  from the old M
        x      <- x + gamma1 (U - gamma2 x)                     (4)

    M is zero at first. Every coordinate moves by gamma1, unlike in FedSMU.

    State: none on clients; x and M on the server. Upload and download 32 d bits. Defaults: the
    paper's CIFAR-100 values.
    """

    beta1: SignBeta = 0.9
    beta2: MomentumBeta = 0.99
    gamma1: ServerStep = 0.001
    gamma2: ServerDecay = 0.01
    zero_rule: Annotated[
        TieRule,
        Field(
            description="sign of an exact zero: 0 (`zero`), as in FedSMU's code, or a fair coin "
            "(`random`)"
        ),
    ] = "zero"
    server_rate: ClassVar[str | None] = "gamma1"

    def server_init(self, x: Tensor) -> State:
        return {"x": x, "M": torch.zeros_like(x)}

    def server(self, server: State, mean: State, round: Round) -> State:
        x, M, D = server["x"], server["M"], mean["delta"]
        U = round.sign(self.beta1 * M + (1 - self.beta1) * D, self.zero_rule)  # (2)
        M = self.beta2 * M + (1 - self.beta2) * D  # (3)
        return {"x": round.step(x, U, self.gamma1, self.gamma2), "M": M}  # (4)
