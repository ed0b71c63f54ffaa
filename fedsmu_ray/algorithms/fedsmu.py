"""FedSMU: federated learning with 1-bit uploads, the method this package is named after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from fedsmu_ray.wire.codecs import Float32, Sign, Trit
from fedsmu_ray.wire.compressors import Quantizer, Scope, groups

ZeroRule = Literal["random", "plus", "zero"]
TieRule = Literal["zero", "random"]


@dataclass(frozen=True)
class FedSMU:
    """Lu, Zhang, Li et al., "FedSMU" (ICML 2025, PMLR 267), Algorithm 1 and its variants of Appendix C.

    The Lion optimiser split between clients (two-beta momentum, sign) and server (mean of the signs, decoupled
    weight decay). In the order of `client` and `server` below:

        delta_i = LocalSGD(x) - x                               (1)
        v_i     = beta1 m_i + (1 - beta1) delta_i               (2)
        u_i     = sign(v_i)                                     (3)  or v_i in more bits
        m_i    <- beta2 m_i + (1 - beta2) delta_i               (4)  from the old m_i
        u       = mean(u_i)                                     (5)  or its sign, the majority vote
        x      <- x + gamma (u - gamma2 x)                      (6)  gamma = gamma1 decay^(round - 1)

    | here      | symbol | what |
    |-----------|--------|------|
    | beta1     | beta_1 | weight of the momentum in the transmitted direction; 0: no momentum (Table 12) |
    | beta2     | beta_2 | decay of the stored momentum; with beta1 = beta2, u_i is the sign of the new m_i |
    | gamma1    | gamma_1| server step |
    | gamma2    | gamma_2| server weight decay, scaled by the step |
    | decay     | rho    | per-round factor of the step; 1 in the paper, 0.9988 (images) and 0.999 (text) in its code |
    | bits      | alpha  | bits of each entry of u_i (Table 9); 32 sends v_i itself (Table 12, "full precision") |
    | scaled, group |    | for more bits: whether the maxima are sent too, and of what they are taken: see below |
    | rounding  |        | to the `nearest` level, or `stochastic`: up or down such that u_i is v_i / max |v_i| on average |
    | vote      |        | `mean` of the u_i, or their `majority` (Appendix C.9) |
    | zero_rule | s(0)   | what an exact zero uploads: a fair coin (`random`), +1 (`plus`), or 0 (`zero`) |
    | tie_rule  |        | what a tied majority vote is: 0 (`zero`) or a fair coin (`random`) |

    Decisions where the paper is silent. *sign(0)*: its code uses torch.sign, whose 0 does not fit in one bit; `zero`
    sends ternary digits instead, `random` is unbiased and honestly one bit. *Ties*: the unused helper of its code takes
    the sign of the sum of signs, so a tie is 0. *bits between 2 and 8*: neither paper nor code defines the quantiser;
    here v_i / max |v_i| (per tensor, or `group: model`) goes to the nearest of 2^bits symmetric levels without 0, which
    contains the sign as bits = 1, or with `zero_rule: zero` of 2^bits - 1 levels with 0. The server works in units of
    that maximum, so |u_i| <= 1; with `scaled` the maxima are sent too, and gamma1 must be tuned anew. At equal gamma1
    more bits also mean a smaller step, since most |v_i| are far below the maximum. Rounding is not defined either;
    stochastic rounding with one bit sends +1 with probability (1 + v_i / max |v_i|) / 2, whatever the zero_rule. *gamma1*
    of the majority and full-precision variants is not given: tune it; with bits = 32, beta1 = gamma2 = 0 and gamma1 = 1
    this is FedAvg.

    Client state: m_i, zero at first, kept unchanged while a client is absent; none if beta1 = 0, which never reads it.
    Server state: x. Upload d bits (8 ceil(d / 5) with `zero`; bits * d with more, + 32 per tensor if scaled), download
    32 d bits. Defaults: the paper's CIFAR-10 values.
    """

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.9
    gamma1: Annotated[float, Field(ge=0)] = 0.015
    gamma2: Annotated[float, Field(ge=0)] = 0.01
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    bits: Literal[1, 2, 3, 4, 5, 6, 7, 8, 32] = 1
    scaled: bool = False
    group: Scope = "tensor"
    rounding: Literal["nearest", "stochastic"] = "nearest"
    vote: Literal["mean", "majority"] = "mean"
    zero_rule: ZeroRule = "random"
    tie_rule: TieRule = "zero"

    def uplink(self, setting):
        zero = self.zero_rule == "zero"
        if self.bits == 32:
            return {"u": Float32()}
        stochastic = self.rounding == "stochastic"
        if self.bits == 1 and not stochastic:
            return {"u": Trit() if zero else Sign(self.zero_rule)}
        return {
            "u": Quantizer(
                groups(self.group, setting.sizes),
                self.bits,
                zero and self.bits > 1,
                stochastic,
                self.scaled,
                "plus" if zero else self.zero_rule,
            )
        }

    def downlink(self, setting):
        return {"x": Float32()}

    def server_init(self, x):
        return {"x": x}

    def client_init(self, x):
        return {"m": torch.zeros_like(x)} if self.beta1 else {}

    def broadcast(self, server):
        return {"x": server["x"]}

    def client(self, received, state, local):
        x, code = received["x"], self.uplink(local.setting)["u"]
        m = state["m"] if self.beta1 else torch.zeros_like(x)
        y = local.sgd(x)
        if isinstance(code, (Sign, Trit)):
            u, m = local.momentum_sign(
                y, x, m, self.beta1, self.beta2, self.zero_rule
            )  # (1) to (4)
        else:
            delta = y - x  # (1)
            u = code.compress(self.beta1 * m + (1 - self.beta1) * delta, local)  # (2), (3)
            m = self.beta2 * m + (1 - self.beta2) * delta  # (4)
        return {"u": u}, {"m": m} if self.beta1 else {}

    def server(self, server, mean, round):
        x, u = server["x"], mean["u"]
        gamma = self.gamma1 * self.decay ** (round.number - 1)
        if self.vote == "majority":
            u = round.sign(u, self.tie_rule)  # (5)
        return {"x": round.step(x, u, gamma, self.gamma2)}  # (6)
