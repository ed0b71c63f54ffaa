"""signSGD with majority vote, and Signum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsmu_ray.algorithms.base import (
    Beta,
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


@dataclass(frozen=True)
class SignSGDMV(Method):
    """signSGD with majority vote; with momentum (beta > 0), Signum.

    Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems" (ICML 2018), and
    "signSGD with Majority Vote is Communication Efficient and Fault Tolerant" (ICLR 2019).

        h_i     = x - LocalSGD(x)                               (1)
        m_i    <- beta m_i + (1 - beta) h_i                     (2)
        u_i     = sign(m_i)                                     (3)
        x      <- x - lr (sign(sum(u_i)) + weight_decay x)      (4)

    Sources: (2) to (4) are those of the authors' code (Signum_SGD.py): the average of gradients,
    its signs packed to one bit, the sign of their sum, weight decay added after the vote and scaled
    by the rate. The code sends the sign of one mini-batch gradient; here the local displacement
    replaces it, which is the same up to a positive factor for one local step. The code packs exact
    zeros and ties into one bit as well; here the rules are options. Its server returns the vote (d
    bits) to workers that all hold the model; here cohorts change, so the server sends the model.

    Client state: m_i, zero at first, kept while absent; none if beta = 0. Server state: x. Upload d
    bits (8 ceil(d / 5) with `zero_rule: zero`), download 32 d.
    """

    lr: Annotated[Rate, Field(description="server step (eta)")] = 0.001
    beta: Annotated[
        Beta, Field(description="decay of the momentum (beta): Signum; 0 is signSGD")
    ] = 0.9
    weight_decay: Annotated[
        Rate, Field(description="server weight decay, scaled by the step (lambda)")
    ] = 0.0
    zero_rule: UploadedZero = "random"
    tie_rule: TiedVote = "zero"
    server_rate: ClassVar[str | None] = "lr"

    def uplink(self, setting: Setting) -> Fields:
        return {"u": sign_codec(self.zero_rule)}

    def client_init(self, x: Tensor) -> State:
        return {"m": torch.zeros_like(x)} if self.beta else {}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x = received["x"]
        h = x - local.train(x)  # (1)
        m = self.beta * state.get("m", 0.0) + (1 - self.beta) * h  # (2)
        return {"u": local.sign(m, self.zero_rule)}, {"m": m} if self.beta else {}  # (3)

    def server(self, server: State, mean: State, round: Round) -> State:
        x = server["x"]
        vote = round.sign(mean["u"], self.tie_rule)
        return {"x": x - self.lr * (vote + self.weight_decay * x)}  # (4)
