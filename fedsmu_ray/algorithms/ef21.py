"""EF21: compressed changes of a tracked direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from fedsmu_ray.codecs import Float32
from fedsmu_ray.compressors import IndexCoding, Scope, error_feedback, groups


@dataclass(frozen=True)
class EF21:
    """Richtarik, Sokolov & Fatkhullin, "EF21: A New, Simpler, Theoretically Better, and Practically Faster Error
    Feedback" (NeurIPS 2021); partial participation as in Fatkhullin et al., "EF21 with Bells & Whistles" (arXiv 2110.03294).

        delta_i = LocalSGD(x) - x                               (1)
        z_i     = C(delta_i - g_i)                              (2)  sent
        g_i    <- g_i + z_i                                     (3)
        g      <- g + (n / m) mean(z_i)                         (4)
        x      <- x + lr * g                                    (5)

    | here    | symbol | what |
    |---------|--------|------|
    | g       | g      | mean of the g_i over all m clients, absent ones included |
    | compressor, k_ratio, group, index | C | as in Fed-EF; the original's choice is top-k |
    | lr      | gamma  | server learning rate |
    | round.share | n / m | participants of the round over clients of the federation |

    Sources: partial participation (absent g_i stay and count) as in "Bells & Whistles". The original has one gradient
    step per round and no local training; FedSMU's comparison does not say what its EF21 tracks. Here it is the local
    displacement, the sum of the local steps, from g_i = 0. The average over all clients is the papers'; averaging over
    the participants instead would need all g_i at the server.

    Client state: g_i, zero at first, frozen while absent. Server state: x, g. Upload as Fed-EF's, download 32 d bits.
    """

    compressor: Literal["topk", "sign", "heavy_sign", "none"] = "topk"
    k_ratio: Annotated[float, Field(gt=0, le=1)] = 0.05
    group: Scope = "model"
    index: IndexCoding = "min"
    lr: Annotated[float, Field(ge=0)] = 1.0

    def uplink(self, setting):
        return {"z": error_feedback(self.compressor, groups(self.group, setting.sizes), self.k_ratio, self.index)}

    def downlink(self, setting):
        return {"x": Float32()}

    def server_init(self, x):
        return {"x": x, "g": torch.zeros_like(x)}

    def client_init(self, x):
        return {"g": torch.zeros_like(x)}

    def broadcast(self, server):
        return {"x": server["x"]}

    def client(self, received, state, local):
        x, g = received["x"], state["g"]
        delta = local.sgd(x) - x                                        # (1)
        z = self.uplink(local.setting)["z"].compress(delta - g, local)  # (2)
        return {"z": z}, {"g": g + z}                                   # (3)

    def server(self, server, mean, round):
        g = server["g"] + round.share * mean["z"]                       # (4)
        return {"x": server["x"] + self.lr * g, "g": g}                 # (5)
