"""FedDyn: local objectives whose optima agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsmu_ray.algorithms.base import Divisor, LocalSolver, Method, Round, Setting, State
from fedsmu_ray.wire.base import Fields
from fedsmu_ray.wire.codecs import Float32


@dataclass(frozen=True)
class FedDyn(Method):
    """FedDyn: a dynamic regularizer that makes the optima of the local objectives agree.

    Acar et al., "Federated Learning Based on Dynamic Regularization" (ICLR 2021), Algorithm 1.

        y_i     = LocalSGD(x), every gradient minus g_i plus alpha (y - x)      (1)
        delta_i = y_i - x                                                       (2)
        g_i    <- g_i - alpha delta_i                                           (3)
        h      <- h - alpha (n / m) mean(delta_i)                               (4)
        x      <- x + mean(delta_i) - h / alpha                                 (5)

    | here  | symbol | what |
    |-------|--------|------|
    | g_i   | grad L_i(theta_i) | the client's linear term |
    | h     | h      | -alpha sum(displacements) / m; (5) is mean(theta_i) - h / alpha |
    | round.share | n / m | participants of the round over clients of the federation |

    Sources: signs and averages checked against the authors' code, which keeps -g_i / alpha for
    every client and adds their mean over all m to the mean of the participants' models: (4) and
    (5). The theory minimizes the local objective exactly; the code uses SGD, as here. The code
    divides alpha by the client's share of the data, which is the same for clients of equal size,
    and also reports the plain mean of the participants; here the broadcast model is evaluated.

    Client state: g_i, zero at first, kept while absent. Server state: x, h. Upload and download 32
    d bits.
    """

    alpha: Annotated[Divisor, Field(description="weight of the dynamic regularizer (alpha)")] = 0.01
    uniform_only: ClassVar[str | None] = "its h is a plain sum over all clients"

    def uplink(self, setting: Setting) -> Fields:
        return {"delta": Float32()}

    def server_init(self, x: Tensor) -> State:
        return {"x": x, "h": torch.zeros_like(x)}

    def client_init(self, x: Tensor) -> State:
        return {"g": torch.zeros_like(x)}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x, g = received["x"], state["g"]
        y = local.train(x, correction=-g, prox=self.alpha)  # (1)
        delta = y - x  # (2)
        return {"delta": delta}, {"g": g - self.alpha * delta}  # (3)

    def server(self, server: State, mean: State, round: Round) -> State:
        delta = mean["delta"]
        h = server["h"] - self.alpha * round.share * delta  # (4)
        return {"x": server["x"] + delta - h / self.alpha, "h": h}  # (5)
