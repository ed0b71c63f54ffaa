"""The contract of a federated method: its base class, and what a method may use.

A method is a frozen dataclass whose fields are the keys of the configuration section `algorithm`.
Its hooks work on the last axis of tensors: x is the flat model [P]; inside `client`, states and
results are [C, P], one row per client of the group. Hooks return new states and change none in
place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from fedsmu_ray.numerics import passes, streams
from fedsmu_ray.wire.base import Codec, Draws, Fields, ZeroRule
from fedsmu_ray.wire.codecs import Float32, Sign, Trit

State = Mapping[str, Tensor]  # named tensors

# Types of options that many methods share; `Annotated[Rate, Field(description=...)]` describes an
# option.
Rate = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
# What formulas divide by: float32 holds its square, and quotients of parameters.
Divisor = Annotated[float, Field(ge=1e-18, le=1e18)]
Fraction = Annotated[float, Field(gt=0, le=1)]
TieRule = Literal["zero", "random"]  # what a tied vote becomes: 0, or a fair coin
Weighting = Literal["uniform", "samples"]  # clients in a mean: alike, or by their samples

# Options that mean the same in every method that has them.
ServerRate = Annotated[Rate, Field(description="server learning rate (eta_g)")]
SignBeta = Annotated[Beta, Field(description="weight of the momentum in the sign (beta_1)")]
MomentumBeta = Annotated[Beta, Field(description="decay of the momentum (beta_2)")]
UploadedZero = Annotated[
    ZeroRule,
    Field(
        description="what an exact zero uploads: a fair coin (`random`), +1 (`plus`), or 0 (`zero`)"
    ),
]
TiedVote = Annotated[
    TieRule, Field(description="what a tied majority vote is: 0 (`zero`) or a fair coin (`random`)")
]


def sign_codec(zero_rule: ZeroRule) -> Codec:
    """The codec of signs: one bit each, or ternary digits where the rule lets a sign be 0."""
    return Trit() if zero_rule == "zero" else Sign(zero_rule)


@dataclass(frozen=True)
class Setting:
    """The fixed facts of an experiment that a method may know."""

    sizes: tuple[int, ...]  # elements of each parameter tensor, in the order of the flat vector
    clients: int  # m, clients of the federation
    cohort: int  # n, clients sampled for a round
    steps: int  # K, the most local steps that a client can make
    lr: float  # eta, the local learning rate

    @property
    def dim(self) -> int:
        """d, the number of parameters."""
        return sum(self.sizes)


@dataclass(frozen=True)
class Round:
    """One round as the server step sees it."""

    number: int  # from 1
    clients: tuple[int, ...]  # the participants, whose uploads the mean is over, in cohort order
    setting: Setting
    seed: int
    weights: tuple[int, ...] | None = None  # of the participants in the mean; None: equal ones
    steps: tuple[int, ...] | None = None  # K_i of the participants; None: setting.steps each

    @property
    def share(self) -> float:
        """The share of the federation that took part, n / m."""
        return len(self.clients) / self.setting.clients

    @property
    def mean_steps(self) -> float:
        """The mean of the participants' local steps K_i, with their weights."""
        steps = self.steps or [self.setting.steps] * len(self.clients)
        weights = self.weights or [1] * len(self.clients)
        return sum(w * k for w, k in zip(weights, steps)) / sum(weights)

    def step(self, x: Tensor, u: Tensor, rate: float, decay: float) -> Tensor:
        """A step with decoupled weight decay: x + rate (u - decay x), [P]."""
        return passes.decayed_step(x, u, rate, decay)

    def sign(self, votes: Tensor, tie_rule: TieRule) -> Tensor:
        """The sign of `votes` [P], in its dtype; a tie (0) is decided by `tie_rule`."""
        sign = torch.sign(votes)
        if tie_rule == "random":
            key = streams.keys(self.seed, "ties", self.number, torch.tensor(0))
            coins = 2 * (streams.words(key, torch.arange(len(votes))) & 1) - 1
            sign = torch.where(votes == 0, coins.to(sign.dtype), sign)
        return sign


class LocalSolver(Draws, Protocol):
    """What a method may use to train the clients of its group; also its compressors' randomness."""

    @property
    def setting(self) -> Setting:
        """The fixed facts of the experiment."""
        ...

    @property
    def lr(self) -> float:
        """eta, the local learning rate."""
        ...

    @property
    def steps(self) -> Tensor:
        """K_i, the local steps of each client in this round, float [C, 1]."""
        ...

    def train(self, x: Tensor, correction: Tensor | None = None, prox: float = 0.0) -> Tensor:
        """Local models [C, P] after local training from x, by default with SGD.

        x is [P], or [C, P] for clients with models of their own. `correction` [C, P] and prox (y -
        x) are added to every gradient.
        """
        ...

    def lion(
        self, x: Tensor, momentum: Tensor, beta1: float, beta2: float
    ) -> tuple[Tensor, Tensor]:
        """Local Lion, from x and a momentum.

        Returns the sum of the signs [C, P] that it subtracts (times lr) from x, and the last
        momentum.
        """
        ...

    def momentum_sign(
        self, y: Tensor, x: Tensor, m: Tensor, beta1: float, beta2: float, zero_rule: ZeroRule
    ) -> tuple[Tensor, Tensor]:
        """Lion's sign and momentum of the update delta = y - x, both from the old m, [C, P].

        The sign of beta1 m + (1 - beta1) delta, with exact zeros by `zero_rule`, and
        beta2 m + (1 - beta2) delta.
        """
        ...


@dataclass(frozen=True)
class Method(ABC):
    """A federated method. Only `uplink`, `client` and `server` have to be written.

    The defaults are those of a method with stateless clients whose server keeps the model x and
    sends it in full. A method whose server sends more names it in `downlink` and keeps it in its
    state under the same name.
    """

    weighting: ClassVar[Weighting] = "uniform"  # of the clients in the mean, by the method's paper
    # Why the method cannot have the other weights, `federation.weighting: samples`; None: it can.
    # A server state that is a mean over all clients, absent ones included, is such a reason.
    uniform_only: ClassVar[str | None] = None
    # The option that is the rate of the server's step, which `federation.server_schedule` scales;
    # None: there is none.
    server_rate: ClassVar[str | None] = None

    @property
    def sgd_only(self) -> str | None:
        """Why clients have to train by SGD without momentum; None: by any `local.optimizer`."""
        return None

    def problems(self, setting: Setting) -> Sequence[str]:
        """What keeps the method from working with its options in this experiment.

        Each is a line like `key = value: what is wrong; the cure`. By default there is none.
        """
        return ()

    @abstractmethod
    def uplink(self, setting: Setting) -> Fields:
        """Fields of a client's message, in wire order, with the codec of each."""

    def downlink(self, setting: Setting) -> Fields:
        """Fields of the server's broadcast, likewise; by default the model."""
        return {"x": Float32()}

    def server_init(self, x: Tensor) -> State:
        """Server state before round 1, from the initial model x [P].

        Its entry "x" is the model that is evaluated.
        """
        return {"x": x}

    def client_init(self, x: Tensor) -> State:
        """State of one client before its first round, from the initial model x [P].

        The state is named [P] tensors; it is empty for stateless clients.
        """
        return {}

    def broadcast(self, server: State) -> State:
        """The values to send: the fields of `downlink` at least; by default the server state."""
        return server

    @abstractmethod
    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        """One round of a group of C clients.

        From the broadcast (named [P]) and the clients' states (named [C, P]) to the uploads (the
        fields of `uplink`, [C, P]) and the new states.
        """

    @abstractmethod
    def server(self, server: State, mean: State, round: Round) -> State:
        """New server state from the mean [P] of each uploaded field over `round.clients`.

        It is weighted if `round.weights` are given.

        A field whose codec is `PerClient` is not averaged: its values are [n, P], in cohort order.
        """

    # The rest is for methods whose clients keep models of their own and need the outcome of a
    # round.

    def feedback(self, setting: Setting) -> Fields:
        """Fields of the server's feedback after its step; by default there is none.

        Here and in `apply_feedback`, `setting.cohort` is the number of participants of the round.
        The values are the entries of the new server state with these names.
        """
        return {}

    @property
    def feedback_to(self) -> Literal["participants", "all"]:
        """Which clients get the feedback: the participants of the round, or all clients."""
        return "participants"

    def apply_feedback(self, received: State, state: State, setting: Setting) -> State:
        """New states [C, P] of clients that got the feedback `received` [P]."""
        raise NotImplementedError(f"{type(self).__name__} has feedback but no apply_feedback")
