"""Fed-EF: biased compressors with error feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from fedsmu_ray.wire.codecs import Float32
from fedsmu_ray.wire.compressors import IndexCoding, Scope, error_feedback, groups


@dataclass(frozen=True)
class FedEF:
    """Li & Li, "Analysis of Error Feedback in Federated Non-Convex Optimization with Biased Compression" (ICML 2023,
    arXiv 2211.14292): Fed-EF-SGD.

        delta_i = LocalSGD(x) - x                               (1)
        z_i     = C(delta_i + e_i)                              (2)  sent
        e_i    <- e_i + delta_i - z_i                           (3)
        x      <- x + lr * mean(z_i)                            (4)

    | here    | symbol | what |
    |---------|--------|------|
    | compressor | C   | `topk`; `sign`: mean magnitude of the group times the sign; `heavy_sign`: that of the top-k; `none` |
    | k_ratio | k / d  | share of the coordinates that top-k keeps, in every group |
    | group   | M      | the groups of C: every parameter `tensor`, or the whole `model`; default: model for topk, else tensor |
    | index   |        | how kept coordinates are written: indices or mask, whichever is smaller (`min`), or one of them |
    | lr      | eta_g  | server learning rate |

    Sources: the paper's abstract (displacements, biased compressors, stale residuals of absent clients) and a public
    implementation that a later method was compared with, which agrees in (1) to (3); the paper's own pseudo-code was
    not at hand. The residual is computed from what the server decodes. An exact zero gets a fair coin for its sign. The
    FedSMU paper names neither k nor the server optimiser: 0.05 and plain SGD are this package's choice (the original
    also has an AMSGrad server).

    Client state: e_i, zero at first, frozen while absent. Server state: x. With k = k_ratio d, L groups and indices of
    ceil(log2 d) bits (or a mask of d bits in all), upload: topk k (32 + index) bits, sign d + 32 L, heavy_sign
    k (1 + index) + 32 L. Download 32 d.
    """

    compressor: Literal["topk", "sign", "heavy_sign", "none"] = "topk"
    k_ratio: Annotated[float, Field(gt=0, le=1)] = 0.05
    group: Scope | None = None
    index: IndexCoding = "min"
    lr: Annotated[float, Field(ge=0)] = 1.0

    def uplink(self, setting):
        group = self.group or ("model" if self.compressor == "topk" else "tensor")
        return {
            "z": error_feedback(
                self.compressor, groups(group, setting.sizes), self.k_ratio, self.index
            )
        }

    def downlink(self, setting):
        return {"x": Float32()}

    def server_init(self, x):
        return {"x": x}

    def client_init(self, x):
        return {"e": torch.zeros_like(x)}

    def broadcast(self, server):
        return {"x": server["x"]}

    def client(self, received, state, local):
        x, e = received["x"], state["e"]
        delta = local.sgd(x) - x  # (1)
        z = self.uplink(local.setting)["z"].compress(delta + e, local)  # (2)
        return {"z": z}, {"e": e + delta - z}  # (3)

    def server(self, server, mean, round):
        return {"x": server["x"] + self.lr * mean["z"]}  # (4)
