"""FedSMU: federated learning with 1-bit uploads, the method this package is named after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedsmu_ray.codecs import Float32, Sign, Trit

ZeroRule = Literal["random", "plus", "zero"]


@dataclass(frozen=True)
class FedSMU:
    """Lu, Zhang, Li et al., "FedSMU" (ICML 2025, PMLR 267), Algorithm 1.

    The Lion optimiser split between clients (two-beta momentum, sign) and server (mean of the signs, decoupled
    weight decay). In the order of `client` and `server` below:

        delta_i = LocalSGD(x) - x                               (1)
        v_i     = beta1 m_i + (1 - beta1) delta_i               (2)
        u_i     = sign(v_i)                                     (3)
        m_i    <- beta2 m_i + (1 - beta2) delta_i               (4)  from the old m_i
        x      <- x + gamma (mean(u_i) - gamma2 x)              (5)  gamma = gamma1 decay^(round - 1)

    | here      | symbol | what |
    |-----------|--------|------|
    | beta1     | beta_1 | weight of the momentum in the transmitted direction |
    | beta2     | beta_2 | decay of the stored momentum; with beta1 = beta2, u_i is the sign of the new m_i |
    | gamma1    | gamma_1| server step |
    | gamma2    | gamma_2| server weight decay, scaled by the step |
    | decay     | rho    | per-round factor of the step; 1 in the paper, 0.9988 (images) and 0.999 (text) in its code |
    | zero_rule | s(0)   | what an exact zero uploads: a fair coin (`random`), +1 (`plus`), or 0 (`zero`) |

    The paper does not say what sign(0) is. Its code uses torch.sign, whose 0 does not fit in one bit: `zero` sends
    ternary digits instead. `random` is unbiased and honestly one bit.

    Client state: m_i, zero at first, kept unchanged while a client is absent. Server state: x. Upload d bits
    (8 ceil(d / 5) with `zero`), download 32 d bits. Defaults: the paper's CIFAR-10 values.
    """

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.9
    gamma1: Annotated[float, Field(ge=0)] = 0.015
    gamma2: Annotated[float, Field(ge=0)] = 0.01
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    zero_rule: ZeroRule = "random"

    uplink = property(lambda self: {"u": Trit() if self.zero_rule == "zero" else Sign()})
    downlink = property(lambda self: {"x": Float32()})

    def server_init(self, x):
        return {"x": x}

    def client_init(self, x):
        return {"m": x.new_zeros(x.shape)}

    def broadcast(self, server):
        return {"x": server["x"]}

    def client(self, received, state, local):
        x, m = received["x"], state["m"]
        delta = local.sgd(x) - x                             # (1)
        v = self.beta1 * m + (1 - self.beta1) * delta        # (2)
        u = local.sign(v, self.zero_rule)                    # (3)
        m = self.beta2 * m + (1 - self.beta2) * delta        # (4)
        return {"u": u}, {"m": m}

    def server(self, server, mean, round):
        x = server["x"]
        gamma = self.gamma1 * self.decay ** (round - 1)
        return {"x": x + gamma * (mean["u"] - self.gamma2 * x)}  # (5)
