"""Fed-EF: biased compressors with error feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fedsmu_ray.algorithms.base import Round, ServerRate, Setting, State
from fedsmu_ray.algorithms.error_feedback import ErrorFeedback
from fedsmu_ray.wire.base import Fields
from fedsmu_ray.wire.compressors import Scope


@dataclass(frozen=True)
class FedEF(ErrorFeedback):
    """Fed-EF: biased compression with error feedback.

    Li & Li, "Analysis of Error Feedback in Federated Non-Convex Optimization with Biased
    Compression" (ICML 2023, arXiv 2211.14292): Fed-EF-SGD.

        delta_i = LocalSGD(x) - x                               (1)
        z_i     = C(delta_i + e_i)                              (2)  sent
        e_i    <- e_i + delta_i - z_i                           (3)  see `ErrorFeedback`
        x      <- x + lr * mean(z_i)                            (4)

    Sources: the paper's abstract (displacements, biased compressors, stale residuals of absent
    clients) and a public implementation that a later method was compared with, which agrees in (1)
    to (3); the paper's own pseudo-code was not available. The residual is computed from what the
    server decodes. An exact zero gets a fair coin for its sign. The FedSMU paper names neither k
    nor the server optimizer: 0.05 and plain SGD are this package's choice (the original also has an
    AMSGrad server).

    Client state: e_i, zero at first, frozen while absent. Server state: x. Upload: see
    `CompressedUplink`. Download 32 d bits.
    """

    group: Annotated[
        Scope | None,
        Field(
            description="blocks of C: every parameter `tensor`, or the whole `model`; "
            "null: `model` for topk, else `tensor`"
        ),
    ] = None
    lr: ServerRate = 1.0
    server_rate: ClassVar[str | None] = "lr"

    def uplink(self, setting: Setting) -> Fields:
        blocks = self.group or ("model" if self.compressor == "topk" else "tensor")
        return {"z": self.compressor_of(blocks, setting)}

    def server(self, server: State, mean: State, round: Round) -> State:
        return {"x": server["x"] + self.lr * mean["z"]}  # (4)
