"""FedSMU: federated learning with 1-bit uploads, the method this package is named after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsmu_ray.algorithms.base import (
    Beta,
    Fraction,
    LocalSolver,
    Method,
    Rate,
    Round,
    Setting,
    State,
    TiedVote,
    UploadedZero,
    sign_codec,
)
from fedsmu_ray.wire.base import Fields
from fedsmu_ray.wire.codecs import Float32, Sign, Trit
from fedsmu_ray.wire.compressors import Quantizer, Scope, block_sizes

ServerStep = Annotated[Rate, Field(description="server step (gamma_1)")]
ServerDecay = Annotated[
    Rate, Field(description="server weight decay, scaled by the step (gamma_2)")
]
StepFactor = Annotated[
    Fraction,
    Field(
        description="factor of the step per round (rho); 1 in the paper, 0.9988 (images) and 0.999 "
        "(text) in its code"
    ),
]


@dataclass(frozen=True)
class FedSMU(Method):
    """FedSMU: the Lion optimizer split between clients and server, with 1-bit uploads.

    Lu, Zhang, Li et al., "FedSMU" (ICML 2025, PMLR 267), Algorithm 1 and its variants of Appendix
    C.

    The Lion optimizer split between clients (two-beta momentum, sign) and server (mean of the
    signs, decoupled weight decay). In the order of `client` and `server` below:

        delta_i = LocalSGD(x) - x                               (1)
        v_i     = beta1 m_i + (1 - beta1) delta_i               (2)
        u_i     = sign(v_i)                                     (3)  or v_i in more bits
        m_i    <- beta2 m_i + (1 - beta2) delta_i               (4)  from the old m_i
        u       = mean(u_i)                                     (5)  or its sign, the majority vote
        x      <- x + gamma (u - gamma2 x)                      (6)  gamma = gamma1 decay^(round-1)

    Decisions that the paper leaves open. *sign(0)*: its code uses torch.sign, whose 0 does not fit
    in one bit; `zero` sends ternary digits instead, `random` is unbiased and fits in one bit.
    *Ties*: the unused helper of its code takes the sign of the sum of signs, so a tie is 0. *bits
    between 2 and 8*: neither paper nor code defines the quantizer; here v_i / max |v_i| (per
    tensor, or `group: model`) goes to the nearest of 2^bits symmetric levels without 0, which
    contains the sign as bits = 1, or with `zero_rule: zero` of 2^bits - 1 levels with 0. The server
    works in units of that maximum, so |u_i| <= 1; with `scaled` the maxima are sent too, and gamma1
    must be tuned again. At equal gamma1 more bits also mean a smaller step, since most |v_i| are
    far below the maximum. Rounding is not defined either; stochastic rounding with one bit sends +1
    with probability (1 + v_i / max |v_i|) / 2, whatever the zero_rule. *gamma1* of the majority and
    full-precision variants is not given: tune it; with bits = 32, beta1 = gamma2 = 0 and gamma1 = 1
    this is FedAvg.

    Client state: m_i, zero at first, kept unchanged while a client is absent; none if beta1 = 0,
    which never reads it. Server state: x. Upload d bits (8 ceil(d / 5) with `zero`; bits * d with
    more, + 32 per block if scaled), download 32 d bits. Defaults: the paper's CIFAR-10 values.
    """

    beta1: Annotated[
        Beta,
        Field(
            description="weight of the momentum in the uploaded direction (beta_1); 0: no momentum "
            "(Table 12)"
        ),
    ] = 0.9
    beta2: Annotated[
        Beta,
        Field(
            description="decay of the momentum (beta_2); with beta1 = beta2, u_i is the sign of "
            "the new m_i"
        ),
    ] = 0.9
    gamma1: ServerStep = 0.015
    gamma2: ServerDecay = 0.01
    decay: StepFactor = 1.0
    bits: Annotated[
        Literal[1, 2, 3, 4, 5, 6, 7, 8, 32],
        Field(
            description="bits of each entry of u_i (alpha, Table 9); 32 sends v_i itself (Table "
            "12, full precision)"
        ),
    ] = 1
    scaled: Annotated[
        bool,
        Field(
            description="of quantized u_i (2 to 8 bits, or stochastic rounding): whether the "
            "maxima are sent too, which puts u_i in units of v_i"
        ),
    ] = False
    group: Annotated[
        Scope,
        Field(
            description="of quantized u_i: what a maximum is taken over, every parameter `tensor` "
            "or the whole `model`"
        ),
    ] = "tensor"
    rounding: Annotated[
        Literal["nearest", "stochastic"],
        Field(
            description="of quantized u_i: to the `nearest` level, or `stochastic`: up or down "
            "such that u_i is v_i over its maximum on average"
        ),
    ] = "nearest"
    vote: Annotated[
        Literal["mean", "majority"],
        Field(description="`mean` of the u_i, or their `majority` (Appendix C.9)"),
    ] = "mean"
    zero_rule: UploadedZero = "random"
    tie_rule: TiedVote = "zero"
    server_rate: ClassVar[str | None] = "gamma1"

    def uplink(self, setting: Setting) -> Fields:
        if self.bits == 32:
            return {"u": Float32()}
        stochastic, zero = self.rounding == "stochastic", self.zero_rule == "zero"
        if self.bits == 1 and not stochastic:
            return {"u": sign_codec(self.zero_rule)}
        quantizer = Quantizer(
            block_sizes(self.group, setting.sizes),
            self.bits,
            zero_level=zero and self.bits > 1,
            stochastic=stochastic,
            scaled=self.scaled,
            zero_rule="plus" if self.zero_rule == "zero" else self.zero_rule,
        )
        return {"u": quantizer}

    def client_init(self, x: Tensor) -> State:
        return {"m": torch.zeros_like(x)} if self.beta1 else {}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x, beta1, beta2 = received["x"], self.beta1, self.beta2
        m = state["m"] if beta1 else torch.zeros_like(x)
        codec = self.uplink(local.setting)["u"]
        y = local.train(x)
        if isinstance(codec, (Sign, Trit)):
            u, m = local.momentum_sign(y, x, m, beta1, beta2, self.zero_rule)  # (1) to (4)
        else:
            delta = y - x  # (1)
            u = codec.compress(beta1 * m + (1 - beta1) * delta, local)  # (2), (3)
            m = beta2 * m + (1 - beta2) * delta  # (4)
        return {"u": u}, {"m": m} if beta1 else {}

    def server(self, server: State, mean: State, round: Round) -> State:
        x, u = server["x"], mean["u"]
        gamma = self.gamma1 * self.decay ** (round.number - 1)
        if self.vote == "majority":
            u = round.sign(u, self.tie_rule)  # (5)
        return {"x": round.step(x, u, gamma, self.gamma2)}  # (6)
