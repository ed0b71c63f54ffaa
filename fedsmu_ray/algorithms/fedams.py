"""FedAMS and FedCAMS: AMSGrad on the server, without and with compressed uploads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from fedsmu_ray.wire.codecs import Float32
from fedsmu_ray.wire.compressors import IndexCoding, Scope, error_feedback, groups


@dataclass(frozen=True)
class FedAMS:
    """Wang, Lin & Chen, "Communication-Efficient Adaptive Federated Learning" (ICML 2022, arXiv 2205.02719): FedAMS.

        delta_i = LocalSGD(x) - x                               (1)
        D       = mean(delta_i)
        mu     <- beta1 mu + (1 - beta1) D                      (2)
        nu     <- beta2 nu + (1 - beta2) D^2                    (3)
        nu_hat <- max(nu_hat, nu, eps)                          (4)  or max(nu_hat, nu)
        x      <- x + lr mu / sqrt(nu_hat)                      (5)  or lr mu / (sqrt(nu_hat) + eps)

    | here    | symbol  | what |
    |---------|---------|------|
    | lr      | eta_g   | server learning rate |
    | beta1, beta2 | beta_1, beta_2 | decay of first and second moment |
    | eps     | epsilon | floor of the second moment |
    | stabiliser |      | (4) and (5) as on the left (`max`) or on the right (`add`, "FedAMSGrad") |
    | bias_correction | | mu / (1 - beta1^t) and sqrt(nu_hat) / sqrt(1 - beta2^t) in (5) |

    Sources: the authors' code (update.py), which corrects the bias, always adds eps to the root, and has the floor as
    the initial value of nu_hat; without bias correction and without that addition (5) is the paper's pseudo-code as
    far as it could be established without the paper at hand, and the default. Values: the README's; FedSMU's
    comparison does not give its own.

    State: none on clients; x, mu, nu, nu_hat (zero at first) on the server. Upload and download 32 d bits.
    """

    lr: Annotated[float, Field(ge=0)] = 1.0
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, le=1)] = 0.99
    eps: Annotated[float, Field(gt=0)] = 1e-3
    stabiliser: Literal["max", "add"] = "max"
    bias_correction: bool = False

    def uplink(self, setting):
        return {"z": Float32()}

    def downlink(self, setting):
        return {"x": Float32()}

    def server_init(self, x):
        zero = torch.zeros_like(x)
        return {"x": x, "mu": zero, "nu": zero, "nuhat": zero}

    def client_init(self, x):
        return {}

    def broadcast(self, server):
        return {"x": server["x"]}

    def client(self, received, state, local):
        x = received["x"]
        return {"z": local.sgd(x) - x}, {}  # (1)

    def server(self, server, mean, round):
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
class FedCAMS(FedAMS):
    """Wang, Lin & Chen, "Communication-Efficient Adaptive Federated Learning" (ICML 2022, arXiv 2205.02719): FedCAMS.

    FedAMS with error feedback on the uplink; server and its options are FedAMS's, with D = mean(z_i):

        delta_i = LocalSGD(x) - x                               (1)
        z_i     = C(delta_i + e_i)                              (2)  sent
        e_i    <- e_i + delta_i - z_i                           (3)

    | here    | symbol | what |
    |---------|--------|------|
    | compressor | C   | `topk`; `sign`: mean magnitude of the group times the sign; `heavy_sign`: that of the top-k; `none` |
    | k_ratio | k / d  | share of the coordinates that top-k keeps, in every group |
    | group   |        | the groups of C: every parameter `tensor`, or the whole `model` |
    | index   |        | how kept coordinates are written: indices or mask, whichever is smaller (`min`), or one of them |

    Sources: (2) and (3) are as in the authors' code (federated_main-ef.py). The default is the authors' scaled sign of the
    whole vector; their other choice is top-k with k_ratio 1/64 to 1/256, whose size they count with 32-bit indices
    (`index: index32`). FedSMU's comparison does not say which it used.

    Client state: e_i, zero at first, frozen while absent. Server state: x, mu, nu, nu_hat. Upload d + 32 bits; with
    k = k_ratio d, L groups and indices of ceil(log2 d) bits (or a mask of d bits in all): topk k (32 + index), sign
    d + 32 L, heavy_sign k (1 + index) + 32 L. Download 32 d bits.
    """

    compressor: Literal["topk", "sign", "heavy_sign", "none"] = "sign"
    k_ratio: Annotated[float, Field(gt=0, le=1)] = 1 / 64
    group: Scope = "model"
    index: IndexCoding = "min"

    def uplink(self, setting):
        return {
            "z": error_feedback(
                self.compressor, groups(self.group, setting.sizes), self.k_ratio, self.index
            )
        }

    def client_init(self, x):
        return {"e": torch.zeros_like(x)}

    def client(self, received, state, local):
        x, e = received["x"], state["e"]
        delta = local.sgd(x) - x  # (1)
        z = self.uplink(local.setting)["z"].compress(delta + e, local)  # (2)
        return {"z": z}, {"e": e + delta - z}  # (3)
