"""Distributed Lion: clients with models of their own, votes in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsmu_ray.algorithms.base import (
    LocalSolver,
    Method,
    MomentumBeta,
    Rate,
    Round,
    Setting,
    SignBeta,
    State,
    TiedVote,
    UploadedZero,
    sign_codec,
)
from fedsmu_ray.wire.base import Fields
from fedsmu_ray.wire.codecs import Integers, Sign, Trit


@dataclass(frozen=True)
class DLion(Method):
    """D-Lion: clients with models of their own, and signs in both directions.

    Liu et al., "Communication Efficient Distributed Training with Distributed Lion" (NeurIPS 2024,
    arXiv 2404.00438).

        h_i     = x_i - LocalSGD(x_i)                           (1)  from the client's own model
        u_i     = sign(beta1 m_i + (1 - beta1) h_i)             (2)  sent
        m_i    <- beta2 m_i + (1 - beta2) h_i                   (3)  from the old m_i
        u       = mean(u_i)  or  sign(sum(u_i))                 (4)  sent back
        x_i    <- x_i - lr (u + weight_decay x_i)               (5)

    With `local: lion` the client takes K steps of Lion instead, and sends the sign of their sum:

        R_i, m_i <- LocalLion(x_i, m_i)                         (6)  K times, from y = x_i, R = 0:
            w = sign(beta1 m + (1 - beta1) h)                        h the batch gradient at y
            m <- beta2 m + (1 - beta2) h;  y <- y - eta w;  R <- R + w
        u_i     = sign(R_i)                                     (7)

    This is the original for K = 1, without local weight decay. R_i is often 0 after an even number
    of steps.

    Sources: (1) to (5), with one gradient for h_i, follow secondary descriptions of the paper (its
    text was not available) and one public implementation, which sends -1 for an exact zero and
    decides ties by the most frequent value; here both rules are options. The original has full
    participation. With K local steps the displacement replaces the gradient, which makes D-Lion
    (mean, full participation) the same as FedSMU with gamma1 = lr and gamma2 = weight_decay. The
    nearly equal columns of the FedSMU paper's Tables 13 and 14 suggest this reading; the paper does
    not state it. For partial participation that paper says that the server only relays and that
    absent clients keep stale models: `participants`. `all` is the control, which keeps the models
    identical. The paper does not say which model was evaluated; `evaluated` changes nothing else,
    so two trials show both. For the mean the server recomputes the clients' models from what it
    sent, so they are not transmitted.

    Client state: x_i, the initial model at first, and m_i, zero. Server state: u (as the integer
    sum of votes for the mean), x (evaluated), and for the mean the recomputed models. n is the
    number of participants. Upload d bits; feedback d ceil(log2(n + 1)) bits (mean), or d, or 8
    ceil(d / 5) where ties can be 0 (majority), to every client that gets it; no broadcast.
    Defaults: the values of Table 14.
    """

    beta1: SignBeta = 0.9
    beta2: MomentumBeta = 0.9
    lr: Annotated[Rate, Field(description="step of the models (epsilon)")] = 0.015
    weight_decay: Annotated[
        Rate, Field(description="weight decay of the models, scaled by the step (lambda)")
    ] = 0.01
    local: Annotated[
        Literal["sgd", "lion"],
        Field(
            description="the client's steps: `sgd`, whose displacement takes the gradient's place, "
            "or `lion`"
        ),
    ] = "sgd"
    vote: Annotated[
        Literal["mean", "majority"],
        Field(
            description="what is sent back: the `mean` of the u_i (Avg) or their `majority` (MaVo)"
        ),
    ] = "mean"
    relay: Annotated[
        Literal["participants", "all"],
        Field(
            description="who gets the feedback and takes the step: `participants` of the round, or "
            "`all` clients"
        ),
    ] = "participants"
    evaluated: Annotated[
        Literal["mean", "shadow"],
        Field(
            description="the model x: the `mean` of all m clients' models, or the `shadow`, which "
            "takes the step of every round"
        ),
    ] = "mean"
    zero_rule: UploadedZero = "random"
    tie_rule: TiedVote = "zero"
    uniform_only: ClassVar[str | None] = "its feedback counts the votes of clients"
    server_rate: ClassVar[str | None] = "lr"

    @property
    def sgd_only(self) -> str | None:
        """See `Method`."""
        return None if self.local == "sgd" else "algorithm.local = lion trains by Lion already"

    def uplink(self, setting: Setting) -> Fields:
        return {"u": sign_codec(self.zero_rule)}

    def downlink(self, setting: Setting) -> Fields:
        return {}

    def server_init(self, x: Tensor) -> State:
        # With feedback to all, every client's model is the shadow, and there is nothing to replay.
        replay = self.relay == "participants" and self.evaluated == "mean"
        return {"x": x, "votes": torch.zeros_like(x), **({"models": x[None]} if replay else {})}

    def client_init(self, x: Tensor) -> State:
        return {"x": x, "m": torch.zeros_like(x)}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x, m, betas = state["x"], state["m"], (self.beta1, self.beta2)
        if self.local == "lion":
            R, m = local.lion(x, m, *betas)  # (6)
            return {"u": local.sign(R, self.zero_rule)}, {"x": x, "m": m}  # (7)
        # (1) to (3): h = x - y is the update from y to x
        u, m = local.momentum_sign(x, local.train(x), m, *betas, self.zero_rule)
        return {"u": u}, {"x": x, "m": m}

    def server(self, server: State, mean: State, round: Round) -> State:
        n, cohort, u = len(round.clients), list(round.clients), mean["u"]
        # (4), the mean as the integer that is sent
        votes = torch.round(n * u) if self.vote == "mean" else round.sign(u, self.tie_rule)
        if "models" not in server:
            return {"x": self._step(server["x"], votes, n), "votes": votes}
        models = server["models"].expand(round.setting.clients, -1).clone()
        models[cohort] = self._step(models[cohort], votes, n)
        return {"x": models.mean(0), "votes": votes, "models": models}

    def feedback(self, setting: Setting) -> Fields:
        zeros = self.zero_rule == "zero"
        if self.vote == "mean":
            return {"votes": Integers(setting.cohort, 1 if zeros else 2)}
        ties = self.tie_rule == "zero" and (zeros or setting.cohort % 2 == 0)
        return {"votes": Trit() if ties else Sign()}

    @property
    def feedback_to(self) -> Literal["participants", "all"]:
        return self.relay

    def apply_feedback(self, received: State, state: State, setting: Setting) -> State:
        return {"x": self._step(state["x"], received["votes"], setting.cohort), "m": state["m"]}

    def _step(self, x: Tensor, votes: Tensor, n: int) -> Tensor:
        u = votes / n if self.vote == "mean" else votes
        return x - self.lr * (u + self.weight_decay * x)  # (5)
