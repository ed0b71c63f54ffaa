"""signSGD with majority vote, and Signum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from fedsmu_ray.algorithms.fedsmu import TieRule, ZeroRule
from fedsmu_ray.wire.codecs import Float32, Sign, Trit


@dataclass(frozen=True)
class SignSGDMV:
    """Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems" (ICML 2018), and "signSGD with
    Majority Vote is Communication Efficient and Fault Tolerant" (ICLR 2019).

        h_i     = x - LocalSGD(x)                               (1)
        m_i    <- beta m_i + (1 - beta) h_i                     (2)
        u_i     = sign(m_i)                                     (3)
        x      <- x - lr (sign(sum(u_i)) + weight_decay x)      (4)

    | here | symbol | what |
    |------|--------|------|
    | beta | beta   | decay of the momentum (Signum); 0 is signSGD |
    | lr   | eta    | server step |
    | weight_decay | lambda | scaled by the step |
    | zero_rule | s(0) | what an exact zero uploads: a fair coin (`random`), +1 (`plus`), or 0 (`zero`) |
    | tie_rule  |      | what a tied vote is: 0 (`zero`) or a fair coin (`random`) |

    Sources: (2) to (4) are those of the authors' code (Signum_SGD.py): the average of gradients, signs of it packed to one
    bit, the sign of their sum, weight decay added after the vote and scaled by the rate. It sends the sign of one
    mini-batch gradient; the local displacement takes its place, which is the same up to a positive factor for one
    local step. It packs exact zeros and ties into one bit as well; the rules here are options. Its server returns the
    vote (d bits) to workers that all hold the model; here, where cohorts change, it sends the model.

    Client state: m_i, zero at first, kept while absent; none if beta = 0. Server state: x. Upload d bits
    (8 ceil(d / 5) with `zero_rule: zero`), download 32 d.
    """

    lr: Annotated[float, Field(ge=0)] = 0.001
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    zero_rule: ZeroRule = "random"
    tie_rule: TieRule = "zero"

    def uplink(self, setting):
        return {"u": Trit() if self.zero_rule == "zero" else Sign(self.zero_rule)}

    def downlink(self, setting):
        return {"x": Float32()}

    def server_init(self, x):
        return {"x": x}

    def client_init(self, x):
        return {"m": torch.zeros_like(x)} if self.beta else {}

    def broadcast(self, server):
        return {"x": server["x"]}

    def client(self, received, state, local):
        x = received["x"]
        h = x - local.sgd(x)  # (1)
        m = self.beta * state.get("m", 0.0) + (1 - self.beta) * h  # (2)
        return {"u": local.sign(m, self.zero_rule)}, {"m": m} if self.beta else {}  # (3)

    def server(self, server, mean, round):
        x = server["x"]
        vote = round.sign(mean["u"], self.tie_rule)
        return {"x": x - self.lr * (vote + self.weight_decay * x)}  # (4)
