"""What methods with biased compressors share: the compressor's options, and error feedback."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsmu_ray.algorithms.base import Fraction, LocalSolver, Method, Setting, State
from fedsmu_ray.wire import compressors
from fedsmu_ray.wire.base import Codec
from fedsmu_ray.wire.compressors import CompressorName, IndexCoding, Scope

Compressor = Annotated[
    CompressorName,
    Field(
        description="the compressor C: `topk`; `sign`: mean magnitude of the block times the sign; "
        "`heavy_sign`: the same of the top-k; `none`"
    ),
]
KeptRatio = Annotated[
    Fraction, Field(description="share of the coordinates that top-k keeps, in every block (k / d)")
]
Blocks = Annotated[
    Scope, Field(description="blocks of C: every parameter `tensor`, or the whole `model`")
]
KeptIndex = Annotated[
    IndexCoding,
    Field(
        description="how kept coordinates are written: `index` (ceil(log2 d) bits each), `mask` (d "
        "bits in all), `min`: the smaller of the two, or `index32` (32 bits each)"
    ),
]


@dataclass(frozen=True)
class CompressedUplink(Method):
    """A method whose clients send through a biased compressor C.

    With k = k_ratio d, L blocks and indices of ceil(log2 d) bits (or a mask of d bits in all), an
    upload takes: topk k (32 + index) bits, sign d + 32 L, heavy_sign k (1 + index) + 32 L, none 32
    d.
    """

    compressor: Compressor = "topk"
    k_ratio: KeptRatio = 0.05
    index: KeptIndex = "min"

    def compressor_of(self, blocks: Scope, setting: Setting) -> Codec:
        """C over these blocks."""
        sizes = compressors.block_sizes(blocks, setting.sizes)
        return compressors.error_feedback(self.compressor, sizes, self.k_ratio, self.index)


class ErrorFeedback(CompressedUplink):
    """A client that adds what its compressor left out to its next upload z.

        delta_i = LocalSGD(x) - x                               (1)
        z_i     = C(delta_i + e_i)                              (2)  sent
        e_i    <- e_i + delta_i - z_i                           (3)

    The residual is computed from what the server decodes. Client state: e_i, zero at first, frozen
    while absent.
    """

    uniform_only: ClassVar[str | None] = (
        "what its compressor leaves out has to return with the weight that it had"
    )

    def client_init(self, x: Tensor) -> State:
        return {"e": torch.zeros_like(x)}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x, e = received["x"], state["e"]
        delta = local.train(x) - x  # (1)
        z = self.uplink(local.setting)["z"].compress(delta + e, local)  # (2)
        return {"z": z}, {"e": e + delta - z}  # (3)
