"""Algorithms 2 to 4 of the FedSMU paper: momentum completed, and Lion on one side only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from fedsmu_ray.algorithms.fedsmu import TieRule, ZeroRule
from fedsmu_ray.wire.codecs import Float32, Sign, Trit


@dataclass(frozen=True)
class FedSMUMC:
    """Lu, Zhang, Li et al., "FedSMU" (ICML 2025, PMLR 267), Algorithm 2: FedSMUMC, "momentum completed".

    One global momentum M instead of one per client, so that it is never stale:

        delta_i = LocalSGD(x) - x                               (1)
        u_i     = sign(beta1 M + (1 - beta1) delta_i)           (2)
        m_i     = beta2 M + (1 - beta2) delta_i                 (3)
        M      <- mean(m_i)                                     (4)
        x      <- x + gamma (mean(u_i) - gamma2 x)              (5)  gamma = gamma1 decay^(round - 1)

    | here   | symbol  | what |
    |--------|---------|------|
    | beta1, beta2 | beta_1, beta_2 | weight of the momentum in the sign, decay of the momentum |
    | gamma1, gamma2 | gamma_1, gamma_2 | server step, and weight decay scaled by it |
    | decay  | rho     | per-round factor of the step, as in FedSMU's code |
    | zero_rule | s(0) | what an exact zero uploads: a fair coin (`random`), +1 (`plus`), or 0 (`zero`) |

    M is zero at first (the paper names M_1 without a value). u_i follows from M and m_i if beta2 < 1, so 32 d bits would
    do; it is sent, as the paper describes.

    State: none on clients; x and M on the server. Upload 33 d bits (one-bit sign), download 64 d bits. Defaults:
    the paper's CIFAR-100 values.
    """

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.9
    gamma1: Annotated[float, Field(ge=0)] = 0.01
    gamma2: Annotated[float, Field(ge=0)] = 0.01
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    zero_rule: ZeroRule = "random"

    def uplink(self, setting):
        return {"u": Trit() if self.zero_rule == "zero" else Sign(self.zero_rule), "m": Float32()}

    def downlink(self, setting):
        return {"x": Float32(), "M": Float32()}

    def server_init(self, x):
        return {"x": x, "M": torch.zeros_like(x)}

    def client_init(self, x):
        return {}

    def broadcast(self, server):
        return {"x": server["x"], "M": server["M"]}

    def client(self, received, state, local):
        x, M = received["x"], received["M"]
        u, m = local.momentum_sign(
            local.sgd(x), x, M, self.beta1, self.beta2, self.zero_rule
        )  # (1) to (3)
        return {"u": u, "m": m}, {}

    def server(self, server, mean, round):
        x, gamma = server["x"], self.gamma1 * self.decay ** (round.number - 1)
        return {
            "M": mean["m"],  # (4)
            "x": round.step(x, mean["u"], gamma, self.gamma2),
        }  # (5)


@dataclass(frozen=True)
class FedLocalLion:
    """Lu, Zhang, Li et al., "FedSMU" (ICML 2025, PMLR 267), Algorithm 3: Fed-LocalLion.

    A whole Lion step on the client, once a round after its SGD; the server averages:

        y_i     = LocalSGD(x),  delta_i = y_i - x               (1)
        u_i     = sign(beta1 m_i + (1 - beta1) delta_i)         (2)
        m_i    <- beta2 m_i + (1 - beta2) delta_i               (3)  from the old m_i
        D_i     = y_i + gamma1 (u_i - gamma2 y_i) - x           (4)
        x      <- x + lr * mean(D_i)                            (5)

    | here   | symbol  | what |
    |--------|---------|------|
    | beta1, beta2 | beta_1, beta_2 | weight of the momentum in the sign, decay of the momentum |
    | gamma1, gamma2 | gamma_1, gamma_2 | step of the client's Lion, and weight decay scaled by it |
    | lr     | eta_g   | server learning rate |
    | zero_rule | s(0) | nothing of the sign is sent, so it is free to be 0 (`zero`), as in FedSMU's code |

    Client state: m_i, zero at first. Server state: x. Upload and download 32 d bits. Defaults: the paper's CIFAR-100
    values.
    """

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    gamma1: Annotated[float, Field(ge=0)] = 0.001
    gamma2: Annotated[float, Field(ge=0)] = 0.01
    lr: Annotated[float, Field(ge=0)] = 1.0
    zero_rule: ZeroRule = "zero"

    def uplink(self, setting):
        return {"D": Float32()}

    def downlink(self, setting):
        return {"x": Float32()}

    def server_init(self, x):
        return {"x": x}

    def client_init(self, x):
        return {"m": torch.zeros_like(x)}

    def broadcast(self, server):
        return {"x": server["x"]}

    def client(self, received, state, local):
        x, m = received["x"], state["m"]
        y = local.sgd(x)
        u, m = local.momentum_sign(y, x, m, self.beta1, self.beta2, self.zero_rule)  # (1) to (3)
        return {"D": y + self.gamma1 * (u - self.gamma2 * y) - x}, {"m": m}  # (4)

    def server(self, server, mean, round):
        return {"x": server["x"] + self.lr * mean["D"]}  # (5)


@dataclass(frozen=True)
class FedGlobalLion:
    """Lu, Zhang, Li et al., "FedSMU" (ICML 2025, PMLR 267), Algorithm 4: Fed-GlobalLion.

    FedAvg's mean displacement as the pseudo-gradient of Lion on the server:

        delta_i = LocalSGD(x) - x                               (1)
        D       = mean(delta_i)
        U       = sign(beta1 M + (1 - beta1) D)                 (2)
        M      <- beta2 M + (1 - beta2) D                       (3)  from the old M
        x      <- x + gamma1 (U - gamma2 x)                     (4)

    | here   | symbol  | what |
    |--------|---------|------|
    | beta1, beta2 | beta_1, beta_2 | weight of the momentum in the sign, decay of the momentum |
    | gamma1, gamma2 | gamma_1, gamma_2 | server step, and weight decay scaled by it |
    | zero_rule | s(0) | 0 (`zero`), as in FedSMU's code, or a fair coin (`random`) |

    M is zero at first. Every coordinate moves by gamma1, unlike in FedSMU.

    State: none on clients; x and M on the server. Upload and download 32 d bits. Defaults: the paper's CIFAR-100
    values."""

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    gamma1: Annotated[float, Field(ge=0)] = 0.001
    gamma2: Annotated[float, Field(ge=0)] = 0.01
    zero_rule: TieRule = "zero"

    def uplink(self, setting):
        return {"delta": Float32()}

    def downlink(self, setting):
        return {"x": Float32()}

    def server_init(self, x):
        return {"x": x, "M": torch.zeros_like(x)}

    def client_init(self, x):
        return {}

    def broadcast(self, server):
        return {"x": server["x"]}

    def client(self, received, state, local):
        x = received["x"]
        return {"delta": local.sgd(x) - x}, {}  # (1)

    def server(self, server, mean, round):
        x, M, D = server["x"], server["M"], mean["delta"]
        U = round.sign(self.beta1 * M + (1 - self.beta1) * D, self.zero_rule)  # (2)
        M = self.beta2 * M + (1 - self.beta2) * D  # (3)
        return {"x": round.step(x, U, self.gamma1, self.gamma2), "M": M}  # (4)
