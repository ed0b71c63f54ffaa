"""SCALLION: SCAFFOLD with one compressed vector for an upload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedsmu_ray.algorithms.base import Fraction, LocalSolver, Round, Setting, State
from fedsmu_ray.algorithms.scaffold import Scaffold
from fedsmu_ray.wire.base import Fields
from fedsmu_ray.wire.codecs import Float32
from fedsmu_ray.wire.compressors import Quantizer, Scope, block_sizes


@dataclass(frozen=True)
class Scallion(Scaffold):
    """SCALLION: SCAFFOLD with a single, compressed vector per upload.

    Huang, Li & Li, "Stochastic Controlled Averaging for Federated Learning with Communication
    Compression" (ICLR 2024, arXiv 2308.08165).

    States and broadcast are SCAFFOLD's:

        y_i     = LocalSGD(x), every gradient plus c - c_i              (1)
        delta_i = alpha ((x - y_i) / (K eta) - c)                       (2)
        q_i     = Q(delta_i)                                            (3)  sent
        c_i    <- c_i + q_i                                             (4)
        x      <- x - lr eta K (mean(q_i) + c)                          (5)
        c      <- c + (n / m) mean(q_i)                                 (6)  both from the old c

    | here  | symbol | what |
    |-------|--------|------|
    | local.lr, local.steps | eta, K | local learning rate and number of local steps |
    | round.share | n / m | participants of the round over clients of the federation |

    Q is unbiased: Q(v) is r = max |v| of the block times the stochastically rounded v / r.

    Sources: the paper's abstract (SCAFFOLD with one uploaded vector, unbiased compression) and a
    public implementation that a later method was compared with, which agrees in (1) to (6), except
    that its server rate includes eta K; the paper's own pseudo-code was not available. Without
    compression and damping this is exactly SCAFFOLD. c = mean(c_i) over all clients at all times,
    since clients and server add the same decoded q_i. With unequal K the server uses that of the
    largest client. The FedSMU paper does not name its Q and alpha: any unbiased Q fits the
    analysis, 4-bit dithering is this package's choice.

    Client state: c_i, zero at first, kept while absent. Server state: x, c. Upload bits * d + 32
    per block, download 64 d.
    """

    alpha: Annotated[
        Fraction,
        Field(
            description="damping of the compressed increment (alpha); not divided out of the "
            "server step"
        ),
    ] = 1.0
    bits: Annotated[
        Literal[2, 3, 4, 5, 6, 7, 8, 32],
        Field(description="bits of each entry of q_i; 32: no compression"),
    ] = 4
    group: Annotated[
        Scope, Field(description="blocks of Q: every parameter `tensor`, or the whole `model`")
    ] = "tensor"

    @property
    def sgd_only(self) -> str | None:
        """See `Method`."""
        return "its c_i are displacements over the steps and the rate of SGD"

    def uplink(self, setting: Setting) -> Fields:
        if self.bits == 32:
            return {"q": Float32()}
        blocks = block_sizes(self.group, setting.sizes)
        return {"q": Quantizer(blocks, self.bits, stochastic=True, scaled=True)}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x, c, c_i = received["x"], received["c"], state["c"]
        y = local.train(x, correction=c - c_i)  # (1)
        delta = self.alpha * ((x - y) / (local.steps * local.lr) - c)  # (2)
        q = self.uplink(local.setting)["q"].compress(delta, local)  # (3)
        return {"q": q}, {"c": c_i + q}  # (4)

    def server(self, server: State, mean: State, round: Round) -> State:
        x, c, q, setting = server["x"], server["c"], mean["q"], round.setting
        x = x - self.lr * setting.lr * setting.steps * (q + c)  # (5)
        return {"x": x, "c": c + round.share * q}  # (6)
