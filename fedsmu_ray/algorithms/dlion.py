"""Distributed Lion: clients with models of their own, votes in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from fedsmu_ray.algorithms.fedsmu import TieRule, ZeroRule
from fedsmu_ray.codecs import Integers, Sign, Trit


@dataclass(frozen=True)
class DLion:
    """Liu et al., "Communication Efficient Distributed Training with Distributed Lion" (NeurIPS 2024, arXiv 2404.00438).

        h_i     = x_i - LocalSGD(x_i)                           (1)  from the client's own model
        u_i     = sign(beta1 m_i + (1 - beta1) h_i)             (2)  sent
        m_i    <- beta2 m_i + (1 - beta2) h_i                   (3)  from the old m_i
        u       = mean(u_i)  or  sign(sum(u_i))                 (4)  sent back
        x_i    <- x_i - lr (u + weight_decay x_i)               (5)

    | here  | symbol  | what |
    |-------|---------|------|
    | vote  |         | (4): `mean` ("Avg") or `majority` ("MaVo") |
    | lr, weight_decay | epsilon, lambda | step and decay of (5) |
    | beta1, beta2 | beta_1, beta_2 | as in Lion |
    | relay |         | who hears u and takes step (5): the `participants` of the round, or `all` clients |
    | zero_rule, tie_rule | s(0) | as in FedSMU |

    Sources: secondary descriptions of the paper and one public implementation, which sends -1 for an exact zero and
    settles ties by the most frequent value; the rules here are options. The original has full participation and one
    gradient for h_i; with K local steps the displacement takes its place, which makes D-Lion (mean, full
    participation) the same as FedSMU with gamma1 = lr and gamma2 = weight_decay, as the near-equal columns of the
    FedSMU paper's Tables 13 and 14 suggest (a reading; the paper does not say it). Under partial participation that
    paper says the server only relays and absent clients keep stale models: `participants`. `all` is the control that
    keeps the models identical. Which model was evaluated is not said: here the mean of all clients'. The server
    replays the clients' models for that from what it sent; nothing of them is transmitted.

    Client state: x_i, the initial model at first, and m_i, zero. Server state: u, x (the mean), and the replayed
    models. Upload d bits; reply d ceil(log2(n + 1)) bits (mean), or d, or 8 ceil(d / 5) where ties can be 0
    (majority), to every client that hears it; no broadcast. Defaults: the values of Table 14. """

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.9
    lr: Annotated[float, Field(ge=0)] = 0.015
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    vote: Literal["mean", "majority"] = "mean"
    relay: Literal["participants", "all"] = "participants"
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
        return {"x": x, "votes": torch.zeros_like(x), "models": x[None]}

    def client_init(self, x):
        return {"x": x, "m": torch.zeros_like(x)}

    def broadcast(self, server):
        return {}

    def client(self, received, state, local):
        x, m = state["x"], state["m"]
        h = x - local.sgd(x)                                                        # (1)
        u = local.sign(self.beta1 * m + (1 - self.beta1) * h, self.zero_rule)       # (2)
        m = self.beta2 * m + (1 - self.beta2) * h                                   # (3)
        return {"u": u}, {"x": x, "m": m}

    def server(self, server, mean, round):
        n, m = len(round.clients), round.setting.clients
        if n != round.setting.cohort:
            raise ValueError(f"round {round.number}: D-Lion's reply is a sum over {round.setting.cohort} clients, "
                             f"but {n} took part")
        if self.vote == "mean":
            votes = torch.round(n * mean["u"])                                      # (4) as the integer that is sent
        else:
            votes = round.sign(mean["u"], self.tie_rule)
        if self.relay == "all":
            models = self._step(server["models"], votes, round.setting)             # one row stands for all
        else:
            models = server["models"].expand(m, -1).clone()
            heard = torch.tensor(round.clients)
            models[heard] = self._step(models[heard], votes, round.setting)
        return {"x": models.mean(0), "votes": votes, "models": models}

    def answer(self, server):
        return {"votes": server["votes"]}

    def hear(self, received, state, setting):
        return {"x": self._step(state["x"], received["votes"], setting), "m": state["m"]}

    def _step(self, x, votes, setting):
        u = votes / setting.cohort if self.vote == "mean" else votes
        return x - self.lr * (u + self.weight_decay * x)                            # (5)
