"""FedAMS and FedCAMS: AMSGrad on the server, without and with compressed uploads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsmu_ray.algorithms.base import (
    Beta,
    Divisor,
    LocalSolver,
    Method,
    Round,
    ServerRate,
    Setting,
    State,
)
from fedsmu_ray.algorithms.error_feedback import Blocks, Compressor, ErrorFeedback, KeptRatio
from fedsmu_ray.wire.base import Fields
from fedsmu_ray.wire.codecs import Float32


@dataclass(frozen=True)
class FedAMS(Method):
    """FedAMS: AMSGrad on the server.

    Wang, Lin & Chen, "Communication-Efficient Adaptive Federated Learning" (ICML 2022, arXiv
    2205.02719): FedAMS.

        delta_i = LocalSGD(x) - x                               (1)
        D       = mean(delta_i)
        mu     <- beta1 mu + (1 - beta1) D                      (2)
        nu     <- beta2 nu + (1 - beta2) D^2                    (3)
        nu_hat <- max(nu_hat, nu, eps)                          (4)  or max(nu_hat, nu)
        x      <- x + lr mu / sqrt(nu_hat)                      (5)  or lr mu / (sqrt(nu_hat) + eps)

    Sources: the authors' code (update.py) corrects the bias, always adds eps to the root, and uses
    eps as the initial value of nu_hat. The default has neither: as far as it could be established
    without the text of the paper, this is its pseudo-code. Values: those of the code's README;
    FedSMU's comparison does not give its own.

    State: none on clients; x, mu, nu, nu_hat (zero at first) on the server. Upload and download 32
    d bits.
    """

    lr: ServerRate = 1.0
    beta1: Annotated[Beta, Field(description="decay of the first moment (beta_1)")] = 0.9
    beta2: Annotated[
        float, Field(ge=0, le=1, description="decay of the second moment (beta_2)")
    ] = 0.99
    eps: Annotated[
        Divisor, Field(description="floor of the second moment, or added to its root (epsilon)")
    ] = 1e-3
    stabiliser: Annotated[
        Literal["max", "add"],
        Field(
            description="how eps enters: as a floor of the second moment (`max`), or added to its "
            "root (`add`, FedAMSGrad)"
        ),
    ] = "max"
    bias_correction: Annotated[
        bool,
        Field(
            description="whether the step takes mu / (1 - beta1^t) and sqrt(nu_hat) / sqrt(1 - "
            "beta2^t) in round t"
        ),
    ] = False
    server_rate: ClassVar[str | None] = "lr"

    def problems(self, setting: Setting) -> Sequence[str]:
        if self.bias_correction and self.beta2 == 1:
            return [
                "algorithm.beta2 = 1: the bias correction divides by 1 - beta2^t; use a smaller "
                "one, or algorithm.bias_correction=false"
            ]
        return ()

    def uplink(self, setting: Setting) -> Fields:
        return {"z": Float32()}

    def server_init(self, x: Tensor) -> State:
        zero = torch.zeros_like(x)
        return {"x": x, "mu": zero, "nu": zero, "nuhat": zero}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x = received["x"]
        return {"z": local.train(x) - x}, {}  # (1)

    def server(self, server: State, mean: State, round: Round) -> State:
        x, D = server["x"], mean["z"]
        mu = self.beta1 * server["mu"] + (1 - self.beta1) * D  # (2)
        nu = self.beta2 * server["nu"] + (1 - self.beta2) * D.square()  # (3)
        nu_hat = torch.maximum(server["nuhat"], nu)  # (4)
        if self.stabiliser == "max":
            nu_hat = nu_hat.clamp(min=self.eps)
        first, root = mu, nu_hat.sqrt()
        if self.bias_correction:
            first = mu / (1 - self.beta1**round.number)
            root = root / (1 - self.beta2**round.number) ** 0.5
        if self.stabiliser == "add":
            root = root + self.eps
        return {"x": x + self.lr * first / root, "mu": mu, "nu": nu, "nuhat": nu_hat}  # (5)


@dataclass(frozen=True)
class FedCAMS(ErrorFeedback, FedAMS):
    """FedCAMS: FedAMS with compressed uploads and error feedback.

    Wang, Lin & Chen, "Communication-Efficient Adaptive Federated Learning" (ICML 2022, arXiv
    2205.02719): FedCAMS.

    FedAMS with error feedback on the uplink; server and its options are FedAMS's, with D =
    mean(z_i):

        delta_i = LocalSGD(x) - x                               (1)
        z_i     = C(delta_i + e_i)                              (2)  sent
        e_i    <- e_i + delta_i - z_i                           (3)  see `ErrorFeedback`

    Sources: (2) and (3) are as in the authors' code (federated_main-ef.py). The default is the
    authors' scaled sign of the whole vector; their other choice is top-k with k_ratio 1/64 to
    1/256, whose size they count with 32-bit indices (`index: index32`). FedSMU's comparison does
    not say which it used.

    Client state: e_i, zero at first, frozen while absent. Server state: x, mu, nu, nu_hat. Upload d
    + 32 bits; of the other compressors, see `CompressedUplink`. Download 32 d bits.
    """

    compressor: Compressor = "sign"
    k_ratio: KeptRatio = 1 / 64
    group: Blocks = "model"

    def uplink(self, setting: Setting) -> Fields:
        return {"z": self.compressor_of(self.group, setting)}
