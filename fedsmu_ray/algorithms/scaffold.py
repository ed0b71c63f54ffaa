"""SCAFFOLD: control variates against client drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedsmu_ray.algorithms.base import LocalSolver, Method, Round, ServerRate, Setting, State
from fedsmu_ray.wire.base import Fields
from fedsmu_ray.wire.codecs import Float32

SMALLEST_RATE = 1e-18  # that a float32 displacement can be divided by


@dataclass(frozen=True)
class Scaffold(Method):
    """SCAFFOLD: control variates against client drift.

    Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning" (ICML
    2020), Option II.

        y_i     = LocalSGD(x), every gradient plus c - c_i      (1)
        c_i+    = c_i - c + (x - y_i) / (K_i eta)               (2)
        delta_i = y_i - x,  gamma_i = c_i+ - c_i,  c_i <- c_i+  (3)
        x      <- x + lr * mean(delta_i)                        (4)
        c      <- c + (n / m) mean(gamma_i)                     (5)

    | here  | symbol | what |
    |-------|--------|------|
    | local.lr, local.steps | eta, K_i | local learning rate and number of local steps |
    | round.share | n / m | participants of the round over clients of the federation |

    Sources: Option II as in the released codes of FedDyn and FedSMU. c = mean(c_i) over all
    clients, at all times. The correction is added before clipping and local weight decay, as in
    those codes, which add <y, c - c_i> to the loss; c_i absorbs what these two do. The number of
    the round's participants is used in (5); the FedSMU code uses the nominal participation rate.

    Client state: c_i, zero at first, kept while absent. Server state: x, c. Upload 64 d bits
    (delta_i and gamma_i; one of them would do, since each follows from the other and c), download
    64 d bits, as the paper counts.
    """

    lr: ServerRate = 1.0
    uniform_only: ClassVar[str | None] = "its c is the plain mean of the c_i of all clients"
    server_rate: ClassVar[str | None] = "lr"

    def problems(self, setting: Setting) -> Sequence[str]:
        if setting.lr >= SMALLEST_RATE:
            return ()
        return [
            f"local.lr = {setting.lr:g}: control variates are displacements divided by it "
            f"(equation 2 of the method); use a rate of at least {SMALLEST_RATE:g}"
        ]

    @property
    def sgd_only(self) -> str | None:
        """See `Method`."""
        return "its c_i are displacements over the steps and the rate of SGD"

    def uplink(self, setting: Setting) -> Fields:
        return {"delta": Float32(), "gamma": Float32()}

    def downlink(self, setting: Setting) -> Fields:
        return {"x": Float32(), "c": Float32()}

    def server_init(self, x: Tensor) -> State:
        return {"x": x, "c": torch.zeros_like(x)}

    def client_init(self, x: Tensor) -> State:
        return {"c": torch.zeros_like(x)}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x, c, c_i = received["x"], received["c"], state["c"]
        y = local.train(x, correction=c - c_i)  # (1)
        c_new = c_i - c + (x - y) / (local.steps * local.lr)  # (2)
        return {"delta": y - x, "gamma": c_new - c_i}, {"c": c_new}  # (3)

    def server(self, server: State, mean: State, round: Round) -> State:
        x = server["x"] + self.lr * mean["delta"]  # (4)
        return {"x": x, "c": server["c"] + round.share * mean["gamma"]}  # (5)
