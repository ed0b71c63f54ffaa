"""EF21: compressed changes of a tracked direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from fedsmu_ray.wire.codecs import Float32
from fedsmu_ray.wire.compressors import PerClient, IndexCoding, Scope, error_feedback, groups


@dataclass(frozen=True)
class EF21:
    """Richtarik, Sokolov & Fatkhullin, "EF21: A New, Simpler, Theoretically Better, and Practically Faster Error
    Feedback" (NeurIPS 2021); partial participation as in Fatkhullin et al., "EF21 with Bells & Whistles" (arXiv 2110.03294).

        delta_i = LocalSGD(x) - x                               (1)
        z_i     = C(delta_i - g_i)                              (2)  sent
        g_i    <- g_i + z_i                                     (3)
        g      <- mean(g_i)                                     (4)  = g + (n / m) mean(z_i)
        x      <- x + lr * g                                    (5)

    | here    | symbol | what |
    |---------|--------|------|
    | server_average | | the mean (4) is over `all` m clients, absent ones included, or over the round's `participants` |
    | compressor | C   | `topk`; `sign`: mean magnitude of the group times the sign; `heavy_sign`: that of the top-k; `none` |
    | k_ratio | k / d  | share of the coordinates that top-k keeps, in every group |
    | group   |        | the groups of C: every parameter `tensor`, or the whole `model` |
    | index   |        | how kept coordinates are written: indices or mask, whichever is smaller (`min`), or one of them |
    | lr      | gamma  | server learning rate |
    | round.share | n / m | participants of the round over clients of the federation |

    Sources: the text of "Bells & Whistles" (its equation 7 and Table 2, EF21-PP: absent g_i stay and count). It has one
    gradient step per round and no local training; FedSMU's comparison does not say what its EF21 tracks. Here it is the
    local displacement, the sum of the local steps. g_i may start anywhere, C of the first gradient being the papers'
    example: that is g_i = 0 here, since a client's first z_i is then C of its first displacement, and enters (5) at once.
    (A dense first upload, which one public framework takes and does not count, would make the lengths of a round's
    messages depend on who takes part; it is not offered.) `participants` is that framework's mean, without its weights:
    the server replays every g_i from the z_i it decodes.

    Client state: g_i, zero at first, frozen while absent. Server state: x, and g, or with `participants` g_i of all m
    clients. With k = k_ratio d, L groups and indices of ceil(log2 d) bits (or a mask of d bits in all), upload: topk
    k (32 + index) bits, sign d + 32 L, heavy_sign k (1 + index) + 32 L. Download 32 d bits.
    """

    compressor: Literal["topk", "sign", "heavy_sign", "none"] = "topk"
    k_ratio: Annotated[float, Field(gt=0, le=1)] = 0.05
    group: Scope = "model"
    index: IndexCoding = "min"
    server_average: Literal["all", "participants"] = "all"
    lr: Annotated[float, Field(ge=0)] = 1.0

    def uplink(self, setting):
        z = error_feedback(
            self.compressor, groups(self.group, setting.sizes), self.k_ratio, self.index
        )
        return {"z": z if self.server_average == "all" else PerClient(z)}

    def downlink(self, setting):
        return {"x": Float32()}

    def server_init(self, x):
        zero = torch.zeros_like(x)
        return {"x": x, "g": zero} if self.server_average == "all" else {"x": x, "g_i": zero[None]}

    def client_init(self, x):
        return {"g": torch.zeros_like(x)}

    def broadcast(self, server):
        return {"x": server["x"]}

    def client(self, received, state, local):
        x, g = received["x"], state["g"]
        delta = local.sgd(x) - x  # (1)
        z = self.uplink(local.setting)["z"].compress(delta - g, local)  # (2)
        return {"z": z}, {"g": g + z}  # (3)

    def server(self, server, mean, round):
        x = server["x"]
        if self.server_average == "all":
            g = server["g"] + round.share * mean["z"]  # (4)
            return {"x": x + self.lr * g, "g": g}  # (5)
        g_i, cohort = server["g_i"].expand(round.setting.clients, -1).clone(), list(round.clients)
        g_i[cohort] += mean["z"]  # (3), each z_i
        return {"x": x + self.lr * g_i[cohort].mean(0), "g_i": g_i}  # (4), (5)
