"""FedNova: averages of displacements per local step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedsmu_ray.algorithms.base import (
    LocalSolver,
    Method,
    Round,
    ServerRate,
    Setting,
    State,
    Weighting,
)
from fedsmu_ray.wire.base import Fields
from fedsmu_ray.wire.codecs import Float32


@dataclass(frozen=True)
class FedNova(Method):
    """FedNova: FedAvg whose displacements are divided by the clients' numbers of local steps.

    Wang, Liu, Liang, Joshi & Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous
    Federated Optimization" (NeurIPS 2020, arXiv 2007.07481).

        d_i     = (LocalSGD(x) - x) / K_i                       (1)  sent
        x      <- x + lr * tau * mean(d_i)                      (2)  tau = mean(K_i)

    | here  | symbol | what |
    |-------|--------|------|
    | d_i   | -eta d_i | the normalized gradient with its learning rate; a_i = (1, ..., 1) |
    | local.steps | tau_i = ||a_i||_1 | local steps of the client |
    | round.mean_steps | tau_eff | their mean, with the weights of (2) |

    With unequal K_i, FedAvg favors the optima of clients that make more steps; here they count by
    their weights alone. With equal K_i this is FedAvg. The original has p_i = n_i / n, which is
    `federation.weighting: samples`, and also solvers with momentum or a proximal term, whose a_i
    differ; here the local solver is plain SGD. lr is 1 in the original.

    The server computes the K_i from what it knows of a client, its number of samples, the batch
    size, and a draw of epochs or steps from the seed; where it does not know them, a client sends a
    number more.

    State: none on clients, x on the server. Upload and download 32 d bits.
    """

    lr: ServerRate = 1.0
    weighting: ClassVar[Weighting] = "samples"
    server_rate: ClassVar[str | None] = "lr"

    @property
    def sgd_only(self) -> str | None:
        """See `Method`."""
        return "its d_i are displacements over the number of steps of SGD"

    def uplink(self, setting: Setting) -> Fields:
        return {"d": Float32()}

    def client(self, received: State, state: State, local: LocalSolver) -> tuple[State, State]:
        x = received["x"]
        return {"d": (local.train(x) - x) / local.steps}, {}  # (1)

    def server(self, server: State, mean: State, round: Round) -> State:
        return {"x": server["x"] + self.lr * round.mean_steps * mean["d"]}  # (2)
