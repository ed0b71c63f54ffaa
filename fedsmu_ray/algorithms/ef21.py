"""EF21: compressed changes of a tracked direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsmu_ray.algorithms.base import LocalSolver, Rate, Round, Setting, State
from fedsmu_ray.algorithms.error_feedback import Blocks, CompressedUplink
from fedsmu_ray.wire.base import Fields
from fedsmu_ray.wire.compressors import PerClient


@dataclass(frozen=True)
class EF21(CompressedUplink):
    """EF21: every client uploads the compressed change of a direction that it tracks.

    Richtarik, Sokolov & Fatkhullin, "EF21: A New, Simpler, Theoretically Better, and Practically
    Faster Error Feedback" (NeurIPS 2021); partial participation as in Fatkhullin et al., "EF21 with
    Bells & Whistles" (arXiv 2110.03294).

        delta_i = LocalSGD(x) - x                               (1)
        z_i     = C(delta_i - g_i)                              (2)  sent
        g_i    <- g_i + z_i                                     (3)
        g      <- mean(g_i)                                     (4)  = g + (n / m) mean(z_i)
        x      <- x + lr * g                                    (5)

    | here    | symbol | what |
    |---------|--------|------|
    | round.share | n / m | participants of the round over clients of the federation |

    Sources: the text of "Bells & Whistles" (its equation 7 and Table 2, EF21-PP: absent g_i stay
    and count). It has one gradient step per round and no local training; FedSMU's comparison does
    not say what its EF21 tracks. Here it is the local displacement, the sum of the local steps. The
    papers allow any initial g_i, for example C of the first gradient. Here g_i = 0 at first, which
    is equivalent: a client's first z_i is C of its first displacement, and enters (5) at once. (One
    public framework makes the first upload dense and does not count it. That is not offered, since
    the lengths of a round's messages would depend on the participants.) `server_average:
    participants` is that framework's mean, without its weights: the server recomputes every g_i
    from the z_i it decodes.

    Client state: g_i, zero at first, frozen while absent. Server state: x, and g, or with
    `participants` g_i of all m clients. Upload: see `CompressedUplink`. Download 32 d bits.
    """

    group: Blocks = "model"
    server_average: Annotated[
        Literal["all", "participants"],
        Field(
            description="whose g_i the mean is over: `all` m clients, absent ones included, or the "
            "`participants` of the round"
        ),
    ] = "all"
    lr: Annotated[Rate, Field(description="server learning rate (gamma)")] = 1.0
    uniform_only: ClassVar[str | None] = "its g is the plain mean of the g_i"
    server_rate: ClassVar[str | None] = "lr"

    def uplink(self, setting: Setting) -> Fields:
        z = self.compressor_of(self.group, setting)
        return {"z": z if self.server_average == "all" else PerClient(z)}

    def server_init(self, x: Tensor) -> State:
        zero = torch.zeros_like(x)
        return {"x": x, "g": zero} if self.server_average == "all" else {"x": x, "g_i": zero[None]}

    def client_init(self, x: Tensor) -> State:
        return {"g": torch.zeros_like(x)}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x, g = received["x"], state["g"]
        delta = local.train(x) - x  # (1)
        z = self.uplink(local.setting)["z"].compress(delta - g, local)  # (2)
        return {"z": z}, {"g": g + z}  # (3)

    def server(self, server: State, mean: State, round: Round) -> State:
        x = server["x"]
        if self.server_average == "all":
            g = server["g"] + round.share * mean["z"]  # (4)
            return {"x": x + self.lr * g, "g": g}  # (5)
        g_i, cohort = server["g_i"].expand(round.setting.clients, -1).clone(), list(round.clients)
        g_i[cohort] += mean["z"]  # (3), each z_i
        return {"x": x + self.lr * g_i[cohort].mean(0), "g_i": g_i}  # (4), (5)
