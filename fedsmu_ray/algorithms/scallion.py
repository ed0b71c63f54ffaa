"""SCALLION: SCAFFOLD with one compressed vector for an upload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from fedsmu_ray.wire.codecs import Float32
from fedsmu_ray.wire.compressors import Quantizer, Scope, groups


@dataclass(frozen=True)
class Scallion:
    """Huang, Li & Li, "Stochastic Controlled Averaging for Federated Learning with Communication Compression"
    (ICLR 2024, arXiv 2308.08165).

        y_i     = LocalSGD(x), every gradient plus c - c_i              (1)
        delta_i = alpha ((x - y_i) / (K eta) - c)                       (2)
        q_i     = Q(delta_i)                                            (3)  sent
        c_i    <- c_i + q_i                                             (4)
        x      <- x - lr eta K (mean(q_i) + c)                          (5)
        c      <- c + (n / m) mean(q_i)                                 (6)  both from the old c

    | here  | symbol  | what |
    |-------|---------|------|
    | alpha | alpha   | damping of the compressed increment, in (0, 1]; not divided out of (5) |
    | bits  |         | of Q, unbiased: r = max |v| of the tensor times stochastically rounded v / r; 32: no compression |
    | lr    | eta_g   | server learning rate |
    | local.lr, local.steps | eta, K | local learning rate and number of local steps |

    Sources: the paper's abstract (SCAFFOLD with one uploaded vector, unbiased compression) and a public implementation
    that a later method was compared with, which agrees in (1) to (6), but for a server rate that takes in eta K; the
    paper's own pseudo-code was not at hand. Without compression and damping this is exactly SCAFFOLD. c = mean(c_i)
    over all clients at all times, since clients and server add the same decoded q_i. With unequal K the server uses
    that of the largest client. The FedSMU paper does not name its Q and alpha: any unbiased Q fits the analysis, 4-bit
    dithering is this package's choice.

    Client state: c_i, zero at first, kept while absent. Server state: x, c. Upload bits * d + 32 per tensor, download
    64 d."""

    alpha: Annotated[float, Field(gt=0, le=1)] = 1.0
    bits: Literal[2, 3, 4, 5, 6, 7, 8, 32] = 4
    group: Scope = "tensor"
    lr: Annotated[float, Field(ge=0)] = 1.0

    def uplink(self, setting):
        dithering = Quantizer(
            groups(self.group, setting.sizes), self.bits, stochastic=True, scaled=True
        )
        return {"q": Float32() if self.bits == 32 else dithering}

    def downlink(self, setting):
        return {"x": Float32(), "c": Float32()}

    def server_init(self, x):
        return {"x": x, "c": torch.zeros_like(x)}

    def client_init(self, x):
        return {"c": torch.zeros_like(x)}

    def broadcast(self, server):
        return {"x": server["x"], "c": server["c"]}

    def client(self, received, state, local):
        x, c, c_i = received["x"], received["c"], state["c"]
        y = local.sgd(x, correction=c - c_i)  # (1)
        delta = self.alpha * ((x - y) / (local.steps * local.lr) - c)  # (2)
        q = self.uplink(local.setting)["q"].compress(delta, local)  # (3)
        return {"q": q}, {"c": c_i + q}  # (4)

    def server(self, server, mean, round):
        x, c, q, setting = server["x"], server["c"], mean["q"], round.setting
        return {
            "x": x - self.lr * setting.lr * setting.steps * (q + c),  # (5)
            "c": c + round.share * q,
        }  # (6)
