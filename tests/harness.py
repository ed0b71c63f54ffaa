"""Methods on small exact problems: float64, no bytes, no Ray. What the oracles of the literature are stated for."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

F64 = torch.float64


@dataclass
class Quadratics:
    """m clients with F_i(y) = sum_j a_ij (y_j - b_ij)^2 / 2; the local solver takes `steps` full-gradient steps."""

    a: torch.Tensor  # [m, P]
    b: torch.Tensor  # [m, P]
    lr: float = 0.05
    steps: int = 1
    weight_decay: float = 0.0
    clip_norm: float | None = None
    coins: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @staticmethod
    def random(m: int, dim: int = 7, seed: int = 0, **options) -> Quadratics:
        g = torch.Generator().manual_seed(seed)
        return Quadratics(0.5 + torch.rand(m, dim, generator=g, dtype=F64), torch.randn(m, dim, generator=g, dtype=F64), **options)

    def gradient(self, clients, y):
        return self.a[clients] * (y - self.b[clients])

    def local(self, clients):
        return QuadraticLocal(self, list(clients))


@dataclass
class QuadraticLocal:
    """`algorithms.Local` for a group of quadratic clients."""

    problem: Quadratics
    clients: list[int]

    def sgd(self, x):
        p = self.problem
        y = x.expand(len(self.clients), -1).clone()
        for _ in range(p.steps):
            h = p.gradient(self.clients, y)
            if p.clip_norm is not None:
                h = h * (p.clip_norm / (h.norm(dim=-1, keepdim=True) + 1e-6)).clamp(max=1)
            y = y - p.lr * (h + p.weight_decay * y)
        return y

    def sign(self, v, zero_rule):
        u = torch.sign(v)
        if zero_rule == "plus":
            u = torch.where(v == 0, torch.ones_like(u), u)
        elif zero_rule == "random":
            coin = 2.0 * torch.randint(2, v.shape, generator=self.problem.coins) - 1
            u = torch.where(v == 0, coin.to(u.dtype), u)
        return u.to(torch.int8)


@dataclass
class Trace:
    """Everything a test may look at: x[t] before round t + 1, and per round the uploads and states of all clients."""

    x: list[torch.Tensor]
    uploads: list[dict[int, dict[str, torch.Tensor]]]
    states: list[dict[int, dict[str, torch.Tensor]]]
    servers: list[dict[str, torch.Tensor]]


def simulate(method, problem: Quadratics, x: torch.Tensor, rounds: int, cohorts=None) -> Trace:
    """Run the method through its contract; cohorts: list of client lists per round, default everyone."""
    m = len(problem.a)
    server = dict(method.server_init(x))
    states = {i: dict(method.client_init(x)) for i in range(m)}
    trace = Trace([x], [], [dict(states)], [server])
    for t in range(1, rounds + 1):
        cohort = cohorts[t - 1] if cohorts else list(range(m))
        stacked = {k: torch.stack([states[i][k] for i in cohort]) for k in states[cohort[0]]}
        upload, new = method.client(method.broadcast(server), stacked, problem.local(cohort))
        for row, i in enumerate(cohort):
            states[i] = {k: v[row] for k, v in new.items()}
        server = dict(method.server(server, {k: v.to(F64).mean(0) for k, v in upload.items()}, t))
        trace.x.append(server["x"])
        trace.uploads.append({i: {k: v[row] for k, v in upload.items()} for row, i in enumerate(cohort)})
        trace.states.append(dict(states))
        trace.servers.append(server)
    return trace


def random_cohorts(m: int, n: int, rounds: int, seed: int = 1) -> list[list[int]]:
    g = torch.Generator().manual_seed(seed)
    return [sorted(torch.randperm(m, generator=g)[:n].tolist()) for _ in range(rounds)]


def start(dim: int = 7, seed: int = 3, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(dim, generator=torch.Generator().manual_seed(seed), dtype=F64)
