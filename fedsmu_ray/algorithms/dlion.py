"""Distributed Lion: clients with models of their own, votes in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from fedsmu_ray.algorithms.fedsmu import TieRule, ZeroRule
from fedsmu_ray.wire.codecs import Integers, Sign, Trit


@dataclass(frozen=True)
class DLion:
    """Liu et al., "Communication Efficient Distributed Training with Distributed Lion" (NeurIPS 2024, arXiv 2404.00438).

        h_i     = x_i - LocalSGD(x_i)                           (1)  from the client's own model
        u_i     = sign(beta1 m_i + (1 - beta1) h_i)             (2)  sent
        m_i    <- beta2 m_i + (1 - beta2) h_i                   (3)  from the old m_i
        u       = mean(u_i)  or  sign(sum(u_i))                 (4)  sent back
        x_i    <- x_i - lr (u + weight_decay x_i)               (5)

    With `local: lion` the client takes K steps of Lion instead, and sends the sign of where they led:

        R_i, m_i <- LocalLion(x_i, m_i)                         (6)  K times, from y = x_i, R = 0:
            w = sign(beta1 m + (1 - beta1) h)                        h the batch gradient at y
            m <- beta2 m + (1 - beta2) h;  y <- y - eta w;  R <- R + w
        u_i     = sign(R_i)                                     (7)

    | here  | symbol  | what |
    |-------|---------|------|
    | local |         | `sgd`: (1) to (3); `lion`: (6) and (7); the original for K = 1, without local weight decay |
    | vote  |         | (4): `mean` ("Avg") or `majority` ("MaVo") |
    | lr, weight_decay | epsilon, lambda | step and decay of (5) |
    | beta1, beta2 | beta_1, beta_2 | as in Lion |
    | relay |         | who hears u and takes step (5): the `participants` of the round, or `all` clients |
    | evaluated | x   | the `mean` of all m clients' models, or the `shadow`, a model that takes step (5) in every round |
    | zero_rule | s(0) | what a zero uploads (R_i is often 0 after an even number of steps): a fair coin, +1 (`plus`), or 0 |
    | tie_rule |      | what a tied majority is: 0 (`zero`) or a fair coin (`random`) |

    Sources: (1) to (5) with one gradient for h_i as in secondary descriptions of the paper (its text was not at hand)
    and one public implementation, which sends -1 for an exact zero and settles ties by the most frequent value; the
    rules here are options. The original has full participation. With K local steps the displacement takes the
    gradient's place, which makes D-Lion (mean, full participation) the same as FedSMU with gamma1 = lr and gamma2 =
    weight_decay, as the near-equal columns of the FedSMU paper's Tables 13 and 14 suggest (a reading; the paper does
    not say it). Under partial participation that paper says the server only relays and absent clients keep stale
    models: `participants`. `all` is the control that keeps the models identical. Which model was evaluated is not said;
    `evaluated` changes nothing else, so two trials show both. For the mean the server replays the clients' models from
    what it sent; nothing of them is transmitted.

    Client state: x_i, the initial model at first, and m_i, zero. Server state: u, x (evaluated), and for the mean the
    replayed models. n is the number of clients that really took part. Upload d bits; reply d ceil(log2(n + 1)) bits
    (mean), or d, or 8 ceil(d / 5) where ties can be 0 (majority), to every client that hears it; no broadcast.
    Defaults: the values of Table 14."""

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.9
    lr: Annotated[float, Field(ge=0)] = 0.015
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    local: Literal["sgd", "lion"] = "sgd"
    vote: Literal["mean", "majority"] = "mean"
    relay: Literal["participants", "all"] = "participants"
    evaluated: Literal["mean", "shadow"] = "mean"
    zero_rule: ZeroRule = "random"
    tie_rule: TieRule = "zero"

    def uplink(self, setting):
        return {"u": Trit() if self.zero_rule == "zero" else Sign(self.zero_rule)}

    def downlink(self, setting):
        return {}

    def reply(self, setting):
        zeros = self.zero_rule == "zero"
        if self.vote == "mean":
            return {"votes": Integers(setting.cohort, 1 if zeros else 2)}
        ties = self.tie_rule == "zero" and (zeros or setting.cohort % 2 == 0)
        return {"votes": Trit() if ties else Sign()}

    def server_init(self, x):
        replay = (
            self.relay == "participants" and self.evaluated == "mean"
        )  # relayed to all, every model is the shadow
        return {"x": x, "votes": torch.zeros_like(x), **({"models": x[None]} if replay else {})}

    def client_init(self, x):
        return {"x": x, "m": torch.zeros_like(x)}

    def broadcast(self, server):
        return {}

    def client(self, received, state, local):
        x, m = state["x"], state["m"]
        if self.local == "lion":
            R, m = local.lion(x, m, self.beta1, self.beta2)  # (6)
            return {"u": local.sign(R, self.zero_rule)}, {"x": x, "m": m}  # (7)
        # (1) to (3): h = x - y is the update from y to x
        u, m = local.momentum_sign(x, local.sgd(x), m, self.beta1, self.beta2, self.zero_rule)
        return {"u": u}, {"x": x, "m": m}

    def server(self, server, mean, round):
        n, cohort = len(round.clients), list(round.clients)
        # (4), the mean as the integer that is sent
        votes = (
            torch.round(n * mean["u"])
            if self.vote == "mean"
            else round.sign(mean["u"], self.tie_rule)
        )
        if "models" not in server:
            return {"x": self._step(server["x"], votes, n), "votes": votes}
        models = server["models"].expand(round.setting.clients, -1).clone()
        models[cohort] = self._step(models[cohort], votes, n)
        return {"x": models.mean(0), "votes": votes, "models": models}

    def answer(self, server):
        return {"votes": server["votes"]}

    def hear(self, received, state, setting):
        return {"x": self._step(state["x"], received["votes"], setting.cohort), "m": state["m"]}

    def _step(self, x, votes, n):
        u = votes / n if self.vote == "mean" else votes
        return x - self.lr * (u + self.weight_decay * x)  # (5)
